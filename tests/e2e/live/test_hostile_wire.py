"""The whole way of an event, from the database to a watcher, over a wire that misbehaves."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minutehand.local.users import ADA
from minutehand.node import node_binary
from tests.e2e.console.worker import HandWorker
from tests.e2e.live.wire import Wire
from tests.support.stacks import RunningStack

# so many joins take a busy machine minutes
pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

DRIVER = Path(__file__).parent / "js" / "watchers.mjs"
JOBS = 5
WATCHERS = 20
#: Impatient enough for a test; a page waits longer. How often so many may read to find what was
#: dropped is the database's to say: in a hurry of their own they keep two cores busy with reads.
OPTIONS = {"pollingInterval": 1000}

LOST = 0.2


@pytest.fixture
def worker(stack: RunningStack) -> Iterator[HandWorker]:
    """A worker moved by hand."""
    with HandWorker(stack, stack.demo_workspace_id) as hand:
        yield hand


class Watchers:
    """The Node process that holds them."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, stack: RunningStack, wire: Wire, jobs: list[str]) -> Watchers:
        request = {
            "url": wire.url,
            "key": stack.supabase_publishable_key,
            "token": stack.sign_in(ADA.email),
            "jobs": jobs,
            "watchers": WATCHERS,
            "clients": 4,
            "options": OPTIONS,
        }
        process = await asyncio.create_subprocess_exec(
            str(node_binary()),
            str(DRIVER),
            json.dumps(request),
            stdout=asyncio.subprocess.PIPE,
            limit=64 * 1024 * 1024,
        )
        return cls(process)

    async def says(self, word: str, seconds: float = 300) -> Any:
        """Wait for a line with that key."""
        assert self._process.stdout is not None
        async with asyncio.timeout(seconds):
            while line := await self._process.stdout.readline():
                message = json.loads(line)
                if word in message:
                    return message[word]
        raise AssertionError(f"the watchers ended without {word!r}")

    async def received(self, seconds: float = 300) -> list[dict[str, Any]]:
        """What each watcher received, once all have ended."""
        received: list[dict[str, Any]] = await self.says("received", seconds)
        await self._process.wait()
        return received

    def kill(self) -> None:
        """End it if it did not end."""
        if self._process.returncode is None:
            self._process.kill()


def work(worker: HandWorker, leases: list[dict[str, Any]]) -> None:
    """Report a few steps of each job, in any order, and end all."""
    choose = random.Random(2)
    steps = [lease for lease in leases for _ in range(5)]
    choose.shuffle(steps)
    for n, lease in enumerate(steps):
        worker.report(lease, n % 100, f"line {n}")
    for lease in leases:
        worker.settle(lease, result={"n": 1})


def history(stack: RunningStack, jobs: list[str]) -> dict[str, list[int]]:
    """The sequence numbers of every job's events in the database."""
    with stack.connect() as sql:
        rows = sql.execute(
            "select job_id::text, array_agg(seq order by seq) from public.job_events"
            " where job_id = any(%s::uuid[]) group by job_id",
            (jobs,),
        ).fetchall()
    return {job: [int(seq) for seq in seqs] for job, seqs in rows}


@pytest.mark.parametrize("trouble", ["lossy", "half-open", "cut"])
async def test_watchers_receive_exactly_what_happened(
    stack: RunningStack, worker: HandWorker, trouble: str
) -> None:
    """Each event once and in order, whatever the wire does meanwhile."""
    async with Wire(int(stack.supabase_url.rsplit(":", 1)[1]), seed=7) as wire:
        jobs = await asyncio.to_thread(worker.enqueue_many, [{}] * JOBS)
        leases = await asyncio.to_thread(worker.lease, JOBS)
        watchers = await Watchers.start(stack, wire, jobs)
        try:
            assert await watchers.says("live") == WATCHERS

            wire.drop = LOST if trouble == "lossy" else 0
            wire.closed = trouble == "cut"
            if trouble == "half-open":
                wire.fall_silent()
            broken = wire.cut() if trouble == "cut" else 0
            await asyncio.to_thread(work, worker, leases)
            wire.drop, wire.closed = 0, False
            received = await watchers.received()
        finally:
            watchers.kill()

    truth = history(stack, jobs)
    assert wire.dropped + wire.swallowed + broken > 0
    assert [one["job"] for one in received if one["seqs"] != truth[one["job"]]] == []
    assert {one["status"] for one in received} == {"completed"}
