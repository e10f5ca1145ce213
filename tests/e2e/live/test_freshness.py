"""Both clients say `live` only while they are: over a wire that is cut or goes half-open."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from minutehand.client import Client, Timing
from minutehand.local.users import ADA
from minutehand.node import node_binary
from tests.e2e.console.worker import HandWorker
from tests.support.hostile_proxy import Faults, HostileProxy
from tests.support.official import official
from tests.support.stacks import RunningStack

pytestmark = [
    pytest.mark.stack,
    # the official client reads properties that `websockets` deprecates
    pytest.mark.filterwarnings("ignore:ConnectionClosed.code is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:ConnectionClosed.reason is deprecated:DeprecationWarning"),
]

DRIVER = Path(__file__).parent / "js" / "freshness.mjs"
#: The same impatience for both, in seconds.
HEARTBEAT, FIRST_SILENCE, SILENCE, POLLING = 1.0, 0.5, 2.0, 0.5
#: A heartbeat may just have been answered, the next one is waited for, and the machine may be busy.
BOUND = 2 * HEARTBEAT + 60
#: The check after a join, its verdict, and the check after that.
STEADY = 2 * FIRST_SILENCE + SILENCE


class Said:
    """What a watcher said so far: pairs of freshness and the last `seq` it was told."""

    def __init__(self) -> None:
        self.states: list[tuple[str, int]] = []
        self.told: list[tuple[int, str]] = []
        self._changed = asyncio.Event()

    def add(self, freshness: str, last: int) -> None:
        if self.states[-1:] != [(freshness, last)]:
            self.states.append((freshness, last))
        self._changed.set()

    async def until(self, wanted: Callable[[str, int], bool], seconds: float = 60) -> None:
        """Wait until the present state is a wanted one."""
        async with asyncio.timeout(seconds):
            while not (self.states and wanted(*self.states[-1])):
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def javascript(stack: RunningStack, url: str, job: str) -> AsyncIterator[Said]:
    """The browser's client, in Node."""
    request = {
        "url": url,
        "key": stack.supabase_publishable_key,
        "token": stack.token(str(ADA.id)),
        "job": job,
        "options": {
            "pollingInterval": POLLING * 1000,
            "silence": SILENCE * 1000,
            "firstSilence": FIRST_SILENCE * 1000,
        },
    }
    process = await asyncio.create_subprocess_exec(
        str(node_binary()), str(DRIVER), json.dumps(request), stdout=asyncio.subprocess.PIPE
    )
    said = Said()

    async def read() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            message = json.loads(line)
            if "told" in message:
                said.told = [(seq, kind) for seq, kind in message["told"]]
            else:
                said.add(message["freshness"], message["last"])

    reading = asyncio.create_task(read())
    try:
        yield said
        await asyncio.wait_for(reading, 60)
    finally:
        reading.cancel()
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def python(stack: RunningStack, url: str, job: str) -> AsyncIterator[Said]:
    """The same from Python."""
    said = Said()
    timing = Timing(polling_interval=POLLING, silence=SILENCE, first_silence=FIRST_SILENCE)
    async with official(url, stack.supabase_publishable_key) as supabase:
        client = Client(supabase, schema="public", token=stack.token(str(ADA.id)))
        watcher = client.watch_job(job, timing=timing)
        watcher.subscribe(lambda: said.add(watcher.freshness, watcher.last_seq))

        async def read() -> None:
            async for event in watcher:
                said.told.append((event.seq, event.type))
                said.add(watcher.freshness, watcher.last_seq)

        reading = asyncio.create_task(read())
        try:
            yield said
            await asyncio.wait_for(reading, 60)
        finally:
            await watcher.aclose()


CLIENTS = [javascript, python]


@pytest.mark.parametrize("trouble", ["cut", "half_open"])
@pytest.mark.parametrize("client", CLIENTS)
async def test_live_is_left_when_the_wire_dies_and_said_again_when_it_is_back(
    stack: RunningStack, worker: HandWorker, wire: HostileProxy, client: Any, trouble: str
) -> None:
    """No news is needed to notice it, and what was missed does not make the new wire suspect."""
    job = await asyncio.to_thread(worker.enqueue)
    [lease] = await asyncio.to_thread(worker.lease, 1, lease_seconds=600)
    async with client(stack, wire.url, job) as said:
        await said.until(lambda freshness, last: freshness == "live" and last == 2)

        wire.closed = True
        wire.cut() if trouble == "cut" else wire.half_open()
        await said.until(lambda freshness, _: freshness != "live", BOUND)
        await asyncio.to_thread(worker.report, lease, 10, "unheard")
        wire.closed = False
        for _ in range(20):
            # never live again before all is known
            await said.until(lambda freshness, _: freshness == "live")
            back, sockets = len(said.states) - 1, wire.websockets
            await asyncio.sleep(STEADY)
            since = said.states[back:]
            if wire.websockets == sockets:
                break  # else a busy machine answered a heartbeat late: look at the next socket
        await asyncio.to_thread(worker.settle, lease)

    truth = await asyncio.to_thread(history, stack, job)
    assert since == [("live", 4)]
    assert said.told == truth


@pytest.mark.parametrize("client", CLIENTS)
async def test_live_is_left_when_a_joined_socket_brings_nothing(
    stack: RunningStack, worker: HandWorker, wire: HostileProxy, client: Any
) -> None:
    """Everything but the messages passes: a read in silence finds out, and it polls."""
    job = await asyncio.to_thread(worker.enqueue)
    [lease] = await asyncio.to_thread(worker.lease, 1, lease_seconds=600)
    async with client(stack, wire.url, job) as said:
        await said.until(lambda freshness, last: freshness == "live" and last == 2)

        wire.faults = Faults(drop=1, spare=lambda data: b"job." not in data)
        await asyncio.to_thread(worker.report, lease, 10, "unheard")
        await said.until(lambda _, last: last == 4, SILENCE + BOUND)
        await said.until(lambda freshness, _: freshness == "polling", FIRST_SILENCE + BOUND)
        wire.faults = Faults()
        await asyncio.to_thread(worker.report, lease, 20, "heard")
        await said.until(lambda freshness, last: freshness == "live" and last == 6)
        await asyncio.to_thread(worker.settle, lease)

    assert said.told == await asyncio.to_thread(history, stack, job)


def history(stack: RunningStack, job: str) -> list[tuple[int, str]]:
    """The job's events in the database."""
    with stack.connect() as sql:
        return sql.execute(
            "select seq, type from public.job_events where job_id = %s order by seq", (job,)
        ).fetchall()
