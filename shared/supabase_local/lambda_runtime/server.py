"""One server for it all: Invoke API, HTTP API, the minute schedule, failures to SQS.

What to run comes in as values; reading them from a template is left to template.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp

from minutehand.tasks import end_tasks
from supabase_local.http import HttpServer, Request, Response, ask
from supabase_local.lambda_runtime.asynchronous import AsynchronousQueue
from supabase_local.lambda_runtime.function import AccountConcurrency, Function, FunctionConfig
from supabase_local.lambda_runtime.gateway import Cors, HttpApi, Route
from supabase_local.lambda_runtime.invocation import Invocation
from supabase_local.lambda_runtime.invoke_api import InvokeApi

logger = logging.getLogger(__name__)

#: `<aws.scheduler.…>` in a schedule's input, as EventBridge Scheduler fills it in.
_SCHEDULED, _EXECUTION = "<aws.scheduler.scheduled-time>", "<aws.scheduler.execution-id>"


@dataclass(frozen=True)
class Schedule:
    """A target invoked asynchronously every so many seconds."""

    function: str
    input: str
    every_seconds: float = 60.0


class LambdaRuntime:
    """The functions of one service, behind one port.

    Args:
        concurrency: What the account may run at once; None for no limit.
        site: What CloudFront serves at a path beside the API on one origin; None where the API is.
        sqs: Makes a client of SQS, for what is invoked asynchronously and fails for good.
    """

    def __init__(
        self,
        functions: Sequence[FunctionConfig],
        *,
        routes: Sequence[Route] = (),
        cors: Cors | None = None,
        mapping_key: str = "",
        schedule: Schedule | None = None,
        site: Callable[[str], ASGIApp | None] = lambda path: None,
        sqs: Callable[[], Any] | None = None,
        pace: float = 1.0,
        concurrency: int | None = None,
        say: Callable[[str, str], None] | None = None,
    ) -> None:
        self.account = AccountConcurrency(concurrency, functions)
        self.functions = {
            config.name: Function(config, account=self.account, sink=_sink(say, config.name))
            for config in functions
        }
        self.queue = AsynchronousQueue(self._deliver, pace=pace)
        self._invoke_api = InvokeApi(self.functions, self.queue)
        self._http_api = HttpApi(self.functions, routes, cors or Cors(), mapping_key)
        self._site = site
        self._schedule = schedule
        self._sqs = sqs
        self._server = HttpServer(self._answer, max_body=10 * 1024 * 1024)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def url(self) -> str:
        """Where both APIs listen."""
        return f"http://127.0.0.1:{self._server.port}"

    async def start(self, port: int = 0) -> str:
        """Listen, and start the schedule if there is one. Returns the URL."""
        await self._server.start(port)
        self._tasks.append(asyncio.create_task(self._expire()))
        if self._schedule is not None:
            self._tasks.append(asyncio.create_task(self._tick(self._schedule)))
        return self.url

    async def stop(self) -> None:
        """Stop listening and kill every environment."""
        await end_tasks(self._tasks)
        await self._server.stop()
        await self.queue.stop()
        for function in self.functions.values():
            await function.stop()

    async def __aenter__(self) -> LambdaRuntime:
        """Start on a free port."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    async def _answer(self, request: Request) -> Response:
        if self._invoke_api.serves(request):
            return await self._invoke_api(request)
        if (site := self._site(request.path)) is not None:
            return await ask(site, request)
        return await self._http_api(request)

    async def _tick(self, schedule: Schedule) -> None:
        function = self.functions[schedule.function]
        # the first one repeats until the database is there: it publishes the job types
        while not (await function.invoke(scheduled(schedule))).ok:  # noqa: ASYNC110 - it is work
            await asyncio.sleep(1)
        while True:
            await asyncio.sleep(schedule.every_seconds)
            self.queue.accept(function, scheduled(schedule))

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(5)
            for function in self.functions.values():
                await function.expire_idle()

    async def _deliver(self, destination: str, body: str) -> None:
        """Send a failure record to the SQS queue named by an ARN."""
        name = destination.rsplit(":", 1)[-1]

        def send() -> None:
            assert self._sqs is not None, f"{destination} is not served"
            sqs = self._sqs()
            url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
            sqs.send_message(QueueUrl=url, MessageBody=body)

        await asyncio.to_thread(send)


def scheduled(schedule: Schedule) -> Invocation:
    """The schedule's input with its placeholders filled in."""
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    payload = schedule.input.replace(_SCHEDULED, at).replace(_EXECUTION, str(uuid.uuid4()))
    return Invocation(payload.encode())


def _sink(say: Callable[[str, str], None] | None, name: str) -> Callable[[str], None] | None:
    if say is None:
        return None
    return lambda line: say(name, line)


def report_line(name: str, line: str) -> None:
    """Print a function's log line as one JSON object that names the function."""
    print(json.dumps(labelled(name, line), ensure_ascii=False), flush=True)


def labelled(name: str, line: str) -> dict[str, Any]:
    """Any line, with its function, a level and a message.

    The platform's own reports warn unless the invocation went well; metrics are for no one's eyes.
    """
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict):
        return {"level": "INFO", "message": line, "function": name}
    if entry.get("type") == "platform.report":
        record = entry["record"]
        level = "INFO" if record["status"] == "success" else "WARNING"
        told = f"{record['status']} after {record['metrics']['durationMs']:.0f} ms"
        return {"level": level, "message": told, "function": name, **entry}
    if "_aws" in entry:
        return {"level": "DEBUG", "message": "metrics", "function": name, **entry}
    return {**entry, "function": name}
