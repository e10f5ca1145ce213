"""Worker runs in a process that stays: one at a time, and another at once where one is wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from infra.bench.scratch import scratch_settings
from minutehand.functions.worker.routes import PROCESS_PATH, WORKER_PATH, Request
from minutehand.functions.worker.runs import RunRoutes, Runs
from minutehand.queue.errors import QueueUnavailable
from minutehand.worker import Registry, Worker
from minutehand.worker.summary import TickSummary
from tests.support.virtual_time import LoopClock, leaping


class Hand(Worker):
    """A worker whose ticks last as long as the test says, and find what it says."""

    def __init__(self) -> None:
        super().__init__(scratch_settings("http://127.0.0.1:9"), registry=Registry())
        self.ticks: list[dict[str, Any]] = []
        self.seconds: list[float] = []
        self.due_left = 0
        self.closed = False
        self.fails = False
        self.stops = True

    async def tick(self, **options: Any) -> TickSummary:
        self.ticks.append(options)
        if self.fails:
            raise QueueUnavailable("away")
        if not self.stops:
            await asyncio.Event().wait()
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({stopping}, timeout=self.seconds.pop(0) if self.seconds else 1)
        stopping.cancel()
        return TickSummary(worker_id="w", tick_id="t", completed=1, due_left=self.due_left)

    async def aclose(self) -> None:
        self.closed = True


def told(
    story: Callable[[Hand, Runs], Coroutine[Any, Any, Any]],
) -> Callable[[], None]:
    """A test in time that leaps; a run has a hundred seconds."""

    def test() -> None:
        async def all_of_it() -> None:
            worker = Hand()
            runs = Runs(worker, budget_seconds=100, clock=LoopClock())
            await story(worker, runs)
            await runs.aclose(timeout_seconds=5)

        leaping(all_of_it())

    test.__name__, test.__doc__ = story.__name__, story.__doc__
    return test


@told
async def test_who_asks_while_a_run_lasts_makes_that_one_look(worker: Hand, runs: Runs) -> None:
    """And where it ended before it could, it is followed by another at once."""
    first = runs.start()
    await asyncio.sleep(0.5)
    assert runs.start() is first
    assert worker.ticks[0]["wakeups"].is_set()

    await first

    assert len(worker.ticks) == 2, "no tick took the wake-up"
    assert not worker.ticks[0]["wakeups"].is_set()
    assert runs.start() is not first


@told
async def test_a_run_out_of_time_is_followed_while_work_is_left(worker: Hand, runs: Runs) -> None:
    """No one else would continue before the next minute."""
    worker.seconds, worker.due_left = [90, 90, 70], 3

    await runs.start()

    assert len(worker.ticks) == 3
    assert worker.ticks[0]["budget_seconds"] == 100
    assert worker.ticks[0]["options"].usual_seconds == 100


@told
async def test_a_long_run_that_left_nothing_is_the_last(worker: Hand, runs: Runs) -> None:
    worker.seconds = [99]

    await runs.start()

    assert len(worker.ticks) == 1


@told
async def test_a_failed_run_does_not_keep_the_next_from_starting(worker: Hand, runs: Runs) -> None:
    worker.fails = True
    await asyncio.wait({runs.start()})
    worker.fails = False

    await runs.wake()
    await asyncio.sleep(2)

    assert len(worker.ticks) == 2


@told
async def test_a_close_waits_so_long_for_what_runs_and_ends_it(worker: Hand, runs: Runs) -> None:
    run = runs.start()
    await asyncio.sleep(0.5)
    runs.start()

    await runs.aclose(timeout_seconds=5)

    assert (run.done(), run.cancelled(), worker.closed) == (True, False, True)
    assert len(worker.ticks) == 1, "a stopped worker does not begin again"


@told
async def test_a_close_ends_a_run_that_does_not_stop_by_itself(worker: Hand, runs: Runs) -> None:
    """It would go on without connections."""
    worker.stops = False
    run = runs.start()
    await asyncio.sleep(0.5)

    await runs.aclose(timeout_seconds=5)

    assert (run.cancelled(), worker.closed) == (True, True)
    assert asyncio.get_running_loop().time() == 5.5


def routes_of(worker: Hand, runs: Runs) -> RunRoutes:
    return RunRoutes(worker.settings, worker, runs)


def asked(path: str, body: bytes = b"") -> Request:
    settings = scratch_settings("http://127.0.0.1:9")
    tokens = (
        settings.worker_secret_tokens if path == WORKER_PATH else settings.background_job_tokens
    )
    return Request("POST", path, {"authorization": f"Bearer {tokens[0]}"}, body)


@told
async def test_a_caller_has_an_answer_in_time_while_the_run_continues(
    worker: Hand, runs: Runs
) -> None:
    """Its gateway gives up after half a minute."""
    worker.seconds = [60]
    began = asyncio.get_running_loop().time()

    reply = await routes_of(worker, runs).answer(asked(WORKER_PATH))

    assert (reply.status, reply.body["running"], reply.body["success"]) == (202, True, True)
    assert asyncio.get_running_loop().time() - began == 25
    assert not runs.start().done()


@told
async def test_a_caller_who_leaves_stops_nothing(worker: Hand, runs: Runs) -> None:
    asking = asyncio.create_task(routes_of(worker, runs).answer(asked(WORKER_PATH)))
    await asyncio.sleep(0.5)

    asking.cancel()
    await asyncio.wait({asking})

    assert (await runs.start()).completed == 1


@told
async def test_a_run_says_what_it_did_or_why_it_could_not(worker: Hand, runs: Runs) -> None:
    routes = routes_of(worker, runs)

    reply = await routes.answer(asked(WORKER_PATH))
    worker.fails = True
    refused = await routes.answer(asked(WORKER_PATH))

    assert (reply.status, reply.body["completed"]) == (200, 1)
    assert (refused.status, refused.headers["Retry-After"]) == (503, "5")


@told
async def test_a_run_over_some_types_is_the_callers_own(worker: Hand, runs: Runs) -> None:
    """It answers what it did with them, in time for its gateway."""
    reply = await routes_of(worker, runs).answer(asked(PROCESS_PATH, b'{"jobTypes": []}'))

    assert (reply.status, reply.body["completed"]) == (200, 1)
    assert (worker.ticks[0]["job_types"], worker.ticks[0]["budget_seconds"]) == ([], 25)
