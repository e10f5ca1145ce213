"""Both clients as tests watch with them: what each says, as it says it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from minutehand.client import Client, Timing
from minutehand.local.users import ADA
from minutehand.node import node_binary
from tests.support.official import official
from tests.support.stacks import RunningStack

DRIVER = Path(__file__).parent / "js" / "freshness.mjs"
#: Beyond the minute in which a client that lacks a late message reads on instead of being live.
PATIENCE = 120.0


class Said:
    """What a watcher said so far: pairs of freshness and the number of events it has told."""

    def __init__(self) -> None:
        self.states: list[tuple[str, int]] = []
        self.told: list[tuple[str, int, str]] = []
        self._changed = asyncio.Event()

    def add(self, freshness: str) -> None:
        """Note how fresh it is, unless it said so with the same events."""
        if self.states[-1:] != [(freshness, len(self.told))]:
            self.states.append((freshness, len(self.told)))
        self._changed.set()

    async def until(self, wanted: Callable[[str, int], bool], seconds: float = PATIENCE) -> None:
        """Wait until the present state is a wanted one."""
        async with asyncio.timeout(seconds):
            while not (self.states and wanted(*self.states[-1])):
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def reading(read: Coroutine[Any, Any, None], kind: str) -> AsyncIterator[None]:
    """What comes is noted meanwhile; a job is read to its end."""
    task = asyncio.create_task(read)
    try:
        yield
        if kind == "job":
            await asyncio.wait_for(task, PATIENCE)
    finally:
        task.cancel()


@asynccontextmanager
async def javascript(
    stack: RunningStack,
    url: str,
    kind: str,
    subject: str,
    *,
    heartbeat: float = 25,
    **timing: float,
) -> AsyncIterator[Said]:
    """The browser's client, in Node; with a job it must have seen its end.

    A heartbeat that is not answered until the next one is due costs the socket.
    """
    request = {
        "url": url,
        "key": stack.supabase_publishable_key,
        "token": stack.token(str(ADA.id)),
        "kind": kind,
        "subject": subject,
        "heartbeat": 1000 * heartbeat,
        "options": {_camel(name): 1000 * seconds for name, seconds in timing.items()},
    }
    process = await asyncio.create_subprocess_exec(
        str(node_binary()), str(DRIVER), json.dumps(request), stdout=asyncio.subprocess.PIPE
    )
    said = Said()

    async def read() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            message = json.loads(line)
            if "event" in message:
                said.told.append(tuple(message["event"]))
            said.add(message["freshness"])

    try:
        async with reading(read(), kind):
            yield said
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.title, others))


@asynccontextmanager
async def python(
    stack: RunningStack,
    url: str,
    kind: str,
    subject: str,
    *,
    heartbeat: float = 20,
    **timing: float,
) -> AsyncIterator[Said]:
    """The same from Python, where it is the websocket library's pings that cost the socket."""
    said = Said()
    pinged = partial(connect, ping_interval=heartbeat, ping_timeout=heartbeat)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("websockets.asyncio.client.connect", pinged)
        async with official(url, stack.supabase_publishable_key) as supabase:
            client = Client(supabase, schema="public", token=stack.token(str(ADA.id)))
            watcher: Any = getattr(client, f"watch_{kind}")(subject, timing=Timing(**timing))
            watcher.subscribe(lambda: said.add(watcher.freshness))

            async def read() -> None:
                async for event in watcher:
                    said.told.append((event.job_id, event.seq, event.type))
                    said.add(watcher.freshness)

            try:
                async with reading(read(), kind):
                    yield said
            finally:
                await watcher.aclose()


CLIENTS = [javascript, python]


def history(stack: RunningStack, job: str) -> list[tuple[str, int, str]]:
    """The job's events in the database."""
    with stack.connect() as sql:
        return sql.execute(
            "select job_id::text, seq, type from public.job_events where job_id = %s order by seq",
            (job,),
        ).fetchall()
