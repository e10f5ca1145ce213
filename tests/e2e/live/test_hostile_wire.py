"""The whole way of an event, from the database to a watcher, over a wire that misbehaves."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from minutehand.local.users import ADA
from minutehand.node import node_binary
from tests.e2e.console.worker import HandWorker
from tests.e2e.live.wire import Wire
from tests.support.stacks import RunningStack
from tests.support.weekly import weekly

# so many joins take a busy machine minutes
pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

DRIVER = Path(__file__).parent / "js" / "watchers.mjs"
JOBS = 20
WATCHERS = weekly(200, otherwise=80)
#: Impatient enough for a test; a page waits longer. How often so many may read to find what was
#: dropped is the database's to say: in a hurry of their own they keep two cores busy with reads.
OPTIONS = {"pollingInterval": 1000}

LOST = 0.2


class Watchers:
    """The Node process that holds them."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, stack: RunningStack, wire: Wire, jobs: list[str], **more: Any) -> Watchers:
        request = {
            "url": wire.url,
            "key": stack.supabase_publishable_key,
            "token": stack.sign_in(ADA.email),
            "jobs": jobs,
            "watchers": WATCHERS,
            "clients": 5,
            "options": OPTIONS,
            **more,
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

    async def told(self, seconds: float = 300) -> list[dict[str, Any]]:
        """What each watcher was told, once all have ended."""
        told: list[dict[str, Any]] = await self.says("told", seconds)
        await self._process.wait()
        return told

    def kill(self) -> None:
        """End it if it did not end."""
        if self._process.returncode is None:
            self._process.kill()


def work(worker: HandWorker, leases: list[dict[str, Any]], seed: int) -> None:
    """Run all jobs to their ends, a few steps each, in any order."""
    report(worker, leases, seed)
    settle(worker, leases)


def report(worker: HandWorker, leases: list[dict[str, Any]], seed: int) -> None:
    """Tell a few steps of each job, in any order."""
    choose = random.Random(seed)
    steps = [lease for lease in leases for _ in range(5)]
    choose.shuffle(steps)
    for n, lease in enumerate(steps):
        worker.report(lease, n % 100, f"line {n}")


def settle(worker: HandWorker, leases: list[dict[str, Any]]) -> None:
    """End all jobs."""
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


@pytest.mark.slow
@pytest.mark.weekly
async def test_many_watchers_receive_exactly_what_happened(
    stack: RunningStack, worker: HandWorker, wire: Wire
) -> None:
    """A fifth of the messages is lost; each event comes once and in order."""
    jobs = await asyncio.to_thread(
        worker.enqueue_many, [{"payload": {"n": n}} for n in range(JOBS)]
    )
    leases = await asyncio.to_thread(worker.lease, JOBS, lease_seconds=600)
    watchers = await Watchers.start(stack, wire, jobs)
    try:
        assert await watchers.says("live") == WATCHERS

        wire.drop = LOST
        for seed in range(1, 40):
            await asyncio.to_thread(report, worker, leases, seed)
            if wire.dropped >= 20:
                break
            # above the plan's rate nothing comes, for as long as more is sent
            await asyncio.sleep(1)
        await asyncio.to_thread(settle, worker, leases)
        wire.drop = 0
        told = await watchers.told()
    finally:
        watchers.kill()

    truth = history(stack, jobs)
    assert wire.dropped >= 20
    assert [one["job"] for one in told if one["seqs"] != truth[one["job"]]] == []
    assert {one["status"] for one in told} == {"completed"}


async def test_a_half_open_socket_is_found_out(
    stack: RunningStack, worker: HandWorker, wire: Wire
) -> None:
    """Connections that look alive and bring nothing."""
    jobs = await asyncio.to_thread(worker.enqueue_many, [{}] * 5)
    leases = await asyncio.to_thread(worker.lease, 5, lease_seconds=600)
    watchers = await Watchers.start(stack, wire, jobs, watchers=20, clients=4)
    try:
        await watchers.says("live")

        wire.fall_silent()
        await asyncio.to_thread(work, worker, leases, 2)
        told = await watchers.told()
    finally:
        watchers.kill()

    truth = history(stack, jobs)
    assert wire.swallowed > 0
    assert [one["job"] for one in told if one["seqs"] != truth[one["job"]]] == []


async def test_watchers_that_are_cut_off_for_a_while_miss_nothing(
    stack: RunningStack, worker: HandWorker, wire: Wire
) -> None:
    """A client that comes back after seconds gets what it missed."""
    jobs = await asyncio.to_thread(worker.enqueue_many, [{}] * 5)
    leases = await asyncio.to_thread(worker.lease, 5, lease_seconds=600)
    watchers = await Watchers.start(stack, wire, jobs, watchers=20, clients=4)
    try:
        await watchers.says("live")

        wire.closed = True
        assert wire.cut() > 0
        await asyncio.to_thread(work, worker, leases, 3)
        wire.closed = False
        told = await watchers.told()
    finally:
        watchers.kill()

    truth = history(stack, jobs)
    assert [one["job"] for one in told if one["seqs"] != truth[one["job"]]] == []
