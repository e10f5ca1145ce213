"""A function: its settings, environments, concurrency cap, and failures as Lambda reports them.

Repeating asynchronous invocations is left to asynchronous.py, HTTP to gateway.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from minutehand.tasks import end_tasks
from supabase_local.lambda_runtime.environment import Environment, InitFailed, LineSink, State
from supabase_local.lambda_runtime.invocation import Invocation, Outcome

logger = logging.getLogger(__name__)

ACCOUNT = "123456789012"
#: How long a caller's answer may wait for the environment to become reusable, in seconds: a moment,
#: but on a machine with other work a longer one.
LINGER = 10.0


class TooManyRequests(Exception):
    """Every environment the cap allows is busy; Lambda answers 429."""


class AccountConcurrency:
    """What all functions of an account run at once, less what some have reserved.

    Follows https://docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html: an invocation
    counts from start to end; an idle environment does not.

    Args:
        limit: The account's concurrency; None for no limit.
    """

    def __init__(self, limit: int | None, functions: Iterable[FunctionConfig]) -> None:
        reserved = sum(config.max_concurrency for config in functions if config.reserved)
        self._free = None if limit is None else limit - reserved
        #: The most that ran at once outside of reservations.
        self.most = 0
        self._running = 0

    @contextlib.contextmanager
    def one_more(self, config: FunctionConfig) -> Iterator[None]:
        """Count an invocation while it runs.

        Raises:
            TooManyRequests: The account's unreserved concurrency is used up.
        """
        if config.reserved:
            yield
            return
        if self._free is not None and self._running >= self._free:
            raise TooManyRequests(f"the account runs {self._running} invocations, its limit")
        self._running += 1
        self.most = max(self.most, self._running)
        try:
            yield
        finally:
            self._running -= 1


@dataclass(frozen=True)
class FunctionConfig:
    """What the template says about a function, plus where its code lies here."""

    name: str
    handler: str
    task_root: Path
    timeout: float = 3.0
    memory_mb: int = 128
    max_concurrency: int = 10
    #: Whether that cap is taken out of the account's concurrency, and so always free to use.
    reserved: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)
    region: str = "us-east-1"
    #: Asynchronous invocations: repeats after the first try, and the oldest age still tried.
    max_retries: int = 2
    max_event_age: float = 6 * 3600
    on_failure: str | None = None
    #: Seconds an environment may stay frozen before it is taken away.
    keep_idle: float = 300.0
    freeze: bool = True
    #: Run without this project's site-packages, so that only the zip can be imported;
    #: `python_path` then says where the runtime's own packages (awslambdaric, boto3) are.
    isolated: bool = False
    python_path: tuple[Path, ...] = ()

    @property
    def arn(self) -> str:
        """The function's unqualified ARN in this machine's pretended account."""
        return f"arn:aws:lambda:{self.region}:{ACCOUNT}:function:{self.name}"

    def environment(self) -> dict[str, str]:
        """What Lambda sets, over what the template sets; nothing of the launcher's leaks in."""
        lookup = [self.task_root, *self.python_path]
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            **self.variables,
            "PYTHONPATH": ":".join(str(path) for path in lookup),
            "PYTHONDONTWRITEBYTECODE": "1",  # /var/task is read-only on Lambda
            "LAMBDA_TASK_ROOT": str(self.task_root),
            "_HANDLER": self.handler,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_LAMBDA_FUNCTION_NAME": self.name,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self.memory_mb),
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{self.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": f"local/[$LATEST]{id(self):x}",
            "AWS_LAMBDA_LOG_FORMAT": "JSON",
            "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
        }

    def command(self) -> list[str]:
        """The runtime client over the handler; -S leaves this project's packages out."""
        flags = ["-S"] if self.isolated else []
        return [sys.executable, *flags, "-m", "awslambdaric", self.handler]


class Function:
    """Runs invocations of one function in as many environments as are needed and allowed."""

    def __init__(
        self,
        config: FunctionConfig,
        *,
        account: AccountConcurrency | None = None,
        sink: LineSink | None = None,
    ) -> None:
        self.config = config
        self._account = account or AccountConcurrency(None, ())
        self._sink = sink
        self._idle: list[Environment] = []
        self._alive: set[Environment] = set()
        self._settling: set[asyncio.Task[None]] = set()
        self.started = 0

    @property
    def environments(self) -> tuple[Environment, ...]:
        """Every environment that counts against the cap."""
        return tuple(self._alive)

    async def invoke(self, invocation: Invocation) -> Outcome:
        """Run one invocation to its end.

        Raises:
            TooManyRequests: `max_concurrency` environments are busy, or the account's limit is met.
        """
        with self._account.one_more(self.config):
            return await self._invoke(invocation)

    async def _invoke(self, invocation: Invocation) -> Outcome:
        environment = self._take_idle()
        if environment is None:
            if len(self._alive) >= self.config.max_concurrency:
                raise TooManyRequests(
                    f"{self.config.name} runs {len(self._alive)} invocations, its cap"
                )
            try:
                environment = await self._start()
            except InitFailed as error:
                return self._report(invocation, Outcome(error.payload, error=error.error), None)
        outcome = await environment.invoke(invocation, timeout=self.config.timeout)
        self._report(invocation, outcome, environment.pid)
        settling = asyncio.create_task(self._settle(environment, outcome))
        self._settling.add(settling)
        settling.add_done_callback(self._settling.discard)
        await asyncio.wait({settling}, timeout=LINGER)
        return outcome

    async def stop(self) -> None:
        """Take every environment away."""
        await end_tasks(self._settling)
        for environment in list(self._alive):
            await self._discard(environment)

    async def expire_idle(self) -> int:
        """Take away environments frozen for longer than `keep_idle`; returns how many."""
        limit = time.monotonic() - self.config.keep_idle
        old = [environment for environment in self._idle if environment.idle_since < limit]
        for environment in old:
            self._idle.remove(environment)
            await self._discard(environment)
        return len(old)

    def _take_idle(self) -> Environment | None:
        while self._idle:
            environment = self._idle.pop()
            if environment.state is State.IDLE:
                return environment
            self._alive.discard(environment)
        return None

    async def _start(self) -> Environment:
        environment = Environment(
            self.config.command(),
            self.config.environment(),
            task_root=self.config.task_root,
            arn=self.config.arn,
            freeze=self.config.freeze,
            sink=self._sink,
        )
        self._alive.add(environment)
        self.started += 1
        try:
            await environment.start()
        except BaseException:
            await self._discard(environment)
            raise
        return environment

    async def _settle(self, environment: Environment, outcome: Outcome) -> None:
        await environment.settle(timeout=self.config.timeout - outcome.duration_ms / 1000)
        if environment.state is State.IDLE:
            self._idle.append(environment)
        else:
            await self._discard(environment)

    async def _discard(self, environment: Environment) -> None:
        self._alive.discard(environment)
        await environment.kill()

    def _report(self, invocation: Invocation, outcome: Outcome, pid: int | None) -> Outcome:
        """Write the `platform.report` line Lambda ends every invocation with."""
        metrics: dict[str, float | int] = {
            "durationMs": round(outcome.duration_ms, 3),
            "billedDurationMs": round(outcome.duration_ms + (outcome.init_ms or 0)),
            "memorySizeMB": self.config.memory_mb,
        }
        if pid is not None:
            with contextlib.suppress(psutil.Error):
                metrics["maxMemoryUsedMB"] = psutil.Process(pid).memory_info().rss // 2**20
        if outcome.init_ms is not None:
            metrics["initDurationMs"] = round(outcome.init_ms, 3)
        record = {
            "requestId": invocation.request_id,
            "metrics": metrics,
            "status": _status(outcome),
        }
        if outcome.error is not None:
            record["errorType"] = outcome.error
        if self._sink is not None:
            self._sink(json.dumps({"type": "platform.report", "record": record}))
        return outcome


def _status(outcome: Outcome) -> str:
    if outcome.error is None:
        return "success"
    return "timeout" if outcome.error == "Sandbox.Timedout" else "error"
