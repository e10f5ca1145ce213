"""The worker in a process of its own, as the supervisor's child.

Its input are the supervisor's commands, one JSON object a line; the end of it ends the process.
"""

from __future__ import annotations

import asyncio
import base64
import faulthandler
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import IO, Any, Final

from minutehand.config import Settings
from minutehand.functions.worker.app import build_worker
from minutehand.functions.worker.routes import Request, WorkerRoutes
from minutehand.functions.worker.runs import RunRoutes, Runs
from minutehand.log import configure_logging, request_context
from minutehand.worker.channel import Channel

#: Variables by which the supervisor names the pipe and the file for stacks.
CHANNEL, STACKS, RUN_SECONDS = "WORKER_CHANNEL", "WORKER_STACKS", "WORKER_RUN_SECONDS"
#: For running jobs to be released when the process ends.
STOP_SECONDS: Final = 8.0


@dataclass(frozen=True)
class Running:
    """A worker at work: what answers its routes, and what makes it look for jobs at once."""

    routes: WorkerRoutes
    wake: Callable[[], object]


#: Starts the worker and, when left, stops it.
Start = Callable[[Settings, Channel], AbstractAsyncContextManager[Running]]


def run_child(environ: Mapping[str, str], start: Start) -> int:
    """Run until the supervisor closes our input; for a `__main__`."""
    # the supervisor ends us: a Ctrl-C reaches the whole group, and jobs are released in order
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = Settings.from_env(environ)
    configure_logging(settings.log_level)
    channel = Channel(int(environ[CHANNEL]))
    stacks = open(environ[STACKS], "w", encoding="utf-8")  # noqa: SIM115 - written until the end
    # written by C code: also while a processor holds Python's lock
    faulthandler.enable(file=stacks)
    faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
    channel.beat()
    asyncio.run(_serve(settings, channel, start, sys.stdin.buffer))
    return 0


async def _serve(settings: Settings, channel: Channel, start: Start, source: IO[bytes]) -> None:
    async with start(settings, channel) as running:
        channel.say(ready=True)
        tasks: set[asyncio.Task[None]] = set()
        async for command in _commands(source):
            if "wake" in command:
                running.wake()
            elif "ask" in command:
                task = asyncio.create_task(_answer(running.routes, command, channel))
                tasks.add(task)
                task.add_done_callback(tasks.discard)


async def _commands(source: IO[bytes]) -> AsyncIterator[dict[str, Any]]:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), source)
    while line := await reader.readline():
        yield json.loads(line)


async def _answer(routes: WorkerRoutes, command: dict[str, Any], channel: Channel) -> None:
    asked = Request(**command["ask"])
    asked = replace(asked, body=base64.b64decode(asked.body))
    with request_context(asked.request_id or ""):
        reply = await routes.answer(asked)
    channel.say(
        reply={"status": reply.status, "body": dict(reply.body), "headers": dict(reply.headers)},
        number=command["number"],
    )


class _Invoked(AbstractAsyncContextManager[Running]):
    """A worker that runs when it is invoked: by the database every minute, and at arrival."""

    def __init__(self, settings: Settings, channel: Channel) -> None:
        worker = build_worker(settings, channel=channel)
        self._runs = Runs(worker, budget_seconds=float(settings.environ[RUN_SECONDS]))
        self._running = Running(RunRoutes(settings, worker, self._runs), self._runs.start)

    async def __aenter__(self) -> Running:
        return self._running

    async def __aexit__(self, *_: object) -> None:
        await self._runs.aclose(timeout_seconds=STOP_SECONDS)


if __name__ == "__main__":
    sys.exit(run_child(os.environ, _Invoked))
