"""The next action of a worker run and its time, for each situation."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from minutehand.worker import TickOptions, TickSummary
from minutehand.worker.deadlines import Deadlines
from minutehand.worker.run import IdleBackoff
from minutehand.worker.tick_scheduler import Action, RunSnapshot, TickScheduler
from tests.support.queue_model import ModelQueue, Row
from tests.support.virtual_time import leaping

#: A run on Lambda leases until 90 s, works until 97 s and must end by 99.7 s.
RUN = Deadlines(start=0.0, stop_leasing=90.0, stop_working=97.0, end=99.7)
LOOP = Deadlines.until(0.0, math.inf)
IDLE = RunSnapshot()
RUNS = RunSnapshot(running=True, must_stop=True)
FULL = replace(RUNS, has_free_slot=False)
WAITS = replace(RUNS, to_settle=True, release_at=10.9)
ENDS = (10, Action.EXIT)

Said = Callable[[TickScheduler], object]


def answered(at: float, due_in: float | None = None, **more: Any) -> Said:
    """Record a request and its response."""

    def say(scheduler: TickScheduler) -> None:
        scheduler.record_request(at)
        given = {"found": False, "of_all": True, "recheck_pending": False, **more}
        scheduler.record_response(at, due_in_seconds=due_in, **given)

    return say


def asked(at: float) -> Said:
    return lambda scheduler: scheduler.record_request(at)


def back_off(at: float, seconds: float, *, has_no_response: bool) -> Said:
    return lambda scheduler: scheduler.back_off(at, seconds, has_no_response=has_no_response)


def woken(scheduler: TickScheduler) -> None:
    scheduler.wake()


def is_last(scheduler: TickScheduler) -> None:
    scheduler.is_last = True


def in_vain(times: int) -> Said:
    """Record responses that contained none of the due jobs."""
    return lambda scheduler: [answered(10.0, 0.0)(scheduler) for _ in range(times)]


#: For each situation at 10 s: earlier events, the snapshot, and the expected next action.
TABLE: dict[str, tuple[list[Said], RunSnapshot, tuple[float, Action]]] = {
    "nothing was found": ([answered(10)], IDLE, ENDS),
    "a response was lost": (
        [asked(9), back_off(10, 0.5, has_no_response=True)],
        IDLE,
        (10.5, Action.LEASE),
    ),
    "nothing of some pools was found": ([answered(10, of_all=False)], IDLE, (10, Action.LEASE)),
    "what was found is over, and nothing was asked since": (
        [answered(10, found=True)],
        IDLE,
        (10, Action.LEASE),
    ),
    "it never asked": ([], IDLE, (10, Action.LEASE)),
    "notified while its slots are full": (
        [answered(10, found=True), woken],
        FULL,
        (20, Action.HEARTBEAT),
    ),
    "something falls due soon": ([answered(10, 9)], IDLE, (19, Action.LEASE)),
    "something falls due later": ([answered(10, 50)], IDLE, (20, Action.HEARTBEAT)),
    "something falls due after its patience": ([answered(10, 56)], IDLE, ENDS),
    "something falls due after its time": ([answered(10, 80)], IDLE, ENDS),
    "something falls due beside a job": ([answered(10, 0.3)], RUNS, (10.3, Action.LEASE)),
    "it looks beside a job": ([answered(10)], RUNS, (10.5, Action.LEASE)),
    "another holds what is due": ([in_vain(3)], IDLE, (10.08, Action.LEASE)),
    "another has held it for a second": ([in_vain(6)], IDLE, ENDS),
    "maintenance is at what is due": (
        [answered(10, 0.0)],
        RunSnapshot(maintaining=True),
        (11, Action.LEASE),
    ),
    "maintenance made jobs ready": ([answered(10), woken], IDLE, (10, Action.LEASE)),
    "the last that is admitted, with time until something is due": (
        [answered(10, 50), is_last],
        IDLE,
        (10.5, Action.LEASE),
    ),
    "the last that is admitted, without": ([answered(5), is_last], IDLE, ENDS),
    "a job ended": ([answered(10)], replace(RUNS, to_settle=True), (10, Action.SETTLE)),
    "a job ended, and leased ones wait for slots": (
        [answered(9.985)],
        WAITS,
        (10.01, Action.SETTLE),
    ),
    "likewise, a while after the last call": ([answered(9.9, 0.0)], WAITS, (10, Action.SETTLE)),
}


def a_run(*result: Said, deadlines: Deadlines = RUN) -> TickScheduler:
    scheduler = TickScheduler(deadlines, TickOptions(), IdleBackoff())
    for each in result:
        each(scheduler)
    return scheduler


@pytest.mark.parametrize("case", TABLE)
def test_the_next_action_and_its_time(case: str) -> None:
    result, snapshot, (at, action) = TABLE[case]

    entry = a_run(*result).next(10.0, snapshot)

    assert entry.action == action
    assert entry.at == pytest.approx(at)


def test_the_end_of_a_run_comes_in_its_order() -> None:
    """At its end, a run starts extra workers and releases waiting jobs.

    Then it stops running jobs, and abandons jobs that ignore the stop.
    """
    scheduler = a_run(answered(89.8))
    waits = replace(FULL, release_at=90.9)

    assert scheduler.next(89.9, waits).at == 90.0
    assert scheduler.next(90.0, waits).action is Action.FAN_OUT
    scheduler.has_started_extra_workers = True
    assert scheduler.next(90.0, waits).action is Action.RELEASE
    assert scheduler.next(90.0, RUNS).at == 97.0
    assert scheduler.next(97.1, RUNS).action is Action.STOP
    abandons = scheduler.next(97.1, RunSnapshot(running=True))
    assert (abandons.action, abandons.at) == (Action.ABANDON, 99.7)
    assert scheduler.next(97.1, IDLE).action is Action.EXIT


def test_a_run_leaves_only_when_it_may_and_never_waits_for_nothing() -> None:
    """In no combination of snapshots and earlier events does a run end too early.

    A run also never waits for nothing.
    """
    flags = ("running", "to_settle", "has_free_slot", "exchanging", "is_stopping", "maintaining")
    snapshots = [
        RunSnapshot(**dict(zip(flags, values, strict=True)))
        for values in itertools.product((False, True), repeat=len(flags))
    ]
    for result, _, _ in TABLE.values():
        for snapshot, deadlines in itertools.product(snapshots, (RUN, LOOP)):
            scheduler = a_run(*result, deadlines=deadlines)
            entry = scheduler.next(10.0, snapshot)

            assert entry.at >= 10.0
            if entry.action is Action.EXIT:
                assert not snapshot.holds
                may = scheduler.can_lease(10.0, snapshot)
                assert not (may and snapshot.maintaining), "maintenance may make jobs ready"
            if entry.action is Action.LEASE:
                assert scheduler.can_lease(10.0, snapshot)
                assert not snapshot.exchanging
            if not snapshot.holds and not snapshot.maintaining and snapshot.is_stopping:
                assert entry.action is Action.EXIT


@pytest.mark.parametrize(
    ("result", "was_notified", "expected"),
    [
        ([answered(10)], False, 70),
        ([answered(10)], True, 10.1),
        ([answered(10, 20)], False, 30),
        ([answered(10, 90)], False, 70),
        ([in_vain(6)], False, 10.64),
        ([back_off(10, 5, has_no_response=False)], False, 15),
    ],
)
def test_when_a_loop_looks_again(result: list[Said], was_notified: bool, expected: float) -> None:
    """A continuous worker polls after a minute, when a job is due, or when it is notified.

    After a rejection, it waits for the pause.
    """
    at = a_run(*result, deadlines=LOOP).next_poll(10.0, poll_seconds=60, was_notified=was_notified)

    assert at == pytest.approx(expected)


def test_a_summary_says_when_more_is_due() -> None:
    async def tick() -> TickSummary:
        queue = ModelQueue([Row("late", {}, run_at=99.0)])
        return await queue.worker(print).tick(budget_seconds=30)

    summary = leaping(tick())

    assert 90_000 < (summary.next_due_in_ms or 0) <= 99_000
