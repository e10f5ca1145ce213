"""`python -m infra.bench.rival`: a victim's waits beside a rival, as ratios to the quiet run.

The rival plays random mixes of `rival_attacks` over the Data API, as a manager of its own
workspace; two workers serve both. What must hold is asserted in tests/sql/test_rival.py by counts;
here are the times of one machine, and only their ratios mean something. `started` is from the
enqueueing to the start, `read` a page of a list, `heard` from the enqueueing to an event of the job
over Realtime, on the Pro plan's budget of messages, which the rival's jobs use up too: what it
holds back is announced, and read then.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from infra.bench.listener import Listener, realtime
from infra.bench.measure import percentile
from infra.bench.processors import bench_registry
from infra.bench.rival_attacks import Attack, mix
from infra.bench.scratch import (
    PUBLISHABLE_KEY,
    USER,
    WORKSPACE,
    Scratch,
    scratch_project,
    user_token,
)
from minutehand.local.users import EVE, GLOBEX
from minutehand.queue.data_api import DataApi
from minutehand.queue.errors import QueueError
from minutehand.worker import TickOptions, Worker

#: The victim's p95 beside a rival, in multiples of its quiet p95.
MOST = 3.0


@dataclass
class Waits:
    """Seconds, by what was waited for."""

    started: list[float] = field(default_factory=list)
    read: list[float] = field(default_factory=list)
    heard: list[float] = field(default_factory=list)


class Person:
    """A member at the Data API, who wakes the worker when told to, as the API's routes do."""

    def __init__(self, scratch: Scratch, wake: Callable[[], None], user_id: str = USER) -> None:
        self._wake = wake
        self._api = DataApi(scratch.gateway.url, read_seconds=30.0, timeout_seconds=60.0)
        self._headers = {
            "apikey": PUBLISHABLE_KEY, "Authorization": f"Bearer {user_token(user_id)}"
        }  # fmt: skip

    async def call(self, function: str, **arguments: object) -> object:
        """Call a SQL function."""
        answer = await self._api.rpc(function, arguments, headers=self._headers, repeatable=False)
        if isinstance(answer, dict) and answer.get("wake"):
            self._wake()
        return answer

    async def aclose(self) -> None:
        """Close the connections."""
        await self._api.aclose()


async def timed(into: list[float], work: Awaitable[object]) -> object:
    """Await, and note how long it took."""
    began = time.perf_counter()
    answer = await work
    into.append(time.perf_counter() - began)
    return answer


async def one_job(victim: Person, listener: Listener, waits: Waits) -> None:
    """Enqueue, wait for the start and for the first live event, read a page."""
    began = time.perf_counter()
    made = await victim.call("enqueue_job", p_workspace_id=WORKSPACE, p_job_type="bench_stamp")
    assert isinstance(made, dict)
    job_id = made["job"]["id"]
    heard = asyncio.ensure_future(note_heard(listener, job_id, began, waits))
    while True:
        job = await victim.call("get_job", p_job_id=job_id)
        assert isinstance(job, dict)
        if job["started_at"] is not None:
            break
        await asyncio.sleep(0.005)
    waits.started.append(time.perf_counter() - began)
    page = {"p_filter": {"workspace_id": WORKSPACE}, "p_limit": 50}
    await timed(waits.read, victim.call("list_jobs", **page))
    await heard


async def note_heard(listener: Listener, job_id: str, began: float, waits: Waits) -> None:
    """Note how long after `began` a live event of the job came."""
    await listener.heard(job_id)
    waits.heard.append(time.perf_counter() - began)


async def watch(victim: Person, listener: Listener, until: Callable[[], bool]) -> Waits:
    """One job after the other until it is over."""
    waits = Waits()
    while not until() or len(waits.started) < 20:
        await one_job(victim, listener, waits)
    return waits


async def attack_with(rival: Person, attack: Attack, seed: int) -> int:
    """Play one attack; a quota or a limit of the rival's own ends it."""
    requests = attack(Random(seed), str(GLOBEX), "bench_noop", 2000)
    answer, answered = None, 0
    with suppress(QueueError, StopIteration):
        while True:
            function, arguments = requests.send(answer)
            answer = await rival.call(function, **arguments)
            answered += 1
    return answered


async def beside_a_rival(
    rival: Person, victim: Person, listener: Listener, seed: int, seconds: float
) -> Waits:
    """The victim's waits while mixes are played, one after the other, four at a time."""
    over = time.monotonic() + seconds

    async def keep_attacking(offset: int) -> None:
        number = seed + offset
        while time.monotonic() < over:
            for attack in mix(number):
                await attack_with(rival, attack, number)
            number += 4

    attacks = [asyncio.ensure_future(keep_attacking(n)) for n in range(4)]
    try:
        return await watch(victim, listener, lambda: time.monotonic() >= over)
    finally:
        for task in attacks:
            task.cancel()
        await asyncio.gather(*attacks, return_exceptions=True)


async def measure(scratch: Scratch, port: int, seed: int, seconds: float) -> bool:
    """Print the table; whether every ratio is small enough."""
    workers = [
        Worker(scratch.settings, registry=bench_registry(), options=TickOptions(concurrency=5))
        for _ in range(2)
    ]
    await workers[0].register()
    wakeups = [asyncio.Event() for _ in workers]

    def wake() -> None:
        for event in wakeups:
            event.set()

    victim, rival = Person(scratch, wake), Person(scratch, wake, str(EVE.id))
    serving = [
        asyncio.ensure_future(worker.run_forever(event))
        for worker, event in zip(workers, wakeups, strict=True)
    ]
    try:
        async with Listener(port, victim.call) as listener:
            quiet_until = time.monotonic() + seconds / 3
            quiet = await watch(victim, listener, lambda: time.monotonic() >= quiet_until)
            announced = listener.look_agains
            beside = await beside_a_rival(rival, victim, listener, seed, seconds)
            announced = listener.look_agains - announced
    finally:
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        for worker in workers:
            await worker.aclose()
        await victim.aclose()
        await rival.aclose()
    ok = True
    print(f"{'':22}{'quiet p95':>12}{'beside p95':>12}{'ratio':>8}   jobs")
    for name in ("started", "read", "heard"):
        before = percentile(getattr(quiet, name), 0.95)
        after = percentile(getattr(beside, name), 0.95)
        ok = ok and after <= MOST * before
        times = f"{before * 1000:>9.1f} ms{after * 1000:>9.1f} ms{after / before:>8.2f}"
        print(f"{name:22}{times}   {len(getattr(beside, name))}")
    print(f"asked to read again {announced} times beside the rival")
    return ok


def main() -> int:
    """Measure and print; 1 when a ratio is too large."""
    parser = argparse.ArgumentParser(prog="python -m infra.bench.rival", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the attack")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="minutehand-bench-") as folder,
        scratch_project(Path(folder)) as scratch,
        realtime(scratch) as port,
    ):
        return 0 if asyncio.run(measure(scratch, port, options.seed, options.seconds)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
