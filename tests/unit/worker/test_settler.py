"""What a settle that is refused, lost or late costs, and the one line that each attempt leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from infra.bench.scratch import WORKSPACE
from minutehand.queue.errors import QueueError, QueueUnavailable, TokenRefused
from minutehand.queue.models import (
    ErrorInfo,
    JobId,
    LeasedJob,
    LeaseRequest,
    LeaseResponse,
    SettleItem,
    SettleResponse,
    SettleResult,
)
from minutehand.worker.deadlines import Deadlines
from minutehand.worker.settlement import Raised, Returned
from minutehand.worker.settler import Settler
from minutehand.worker.summary import TickSummary
from tests.support.queue_model import ModelQueue
from tests.support.virtual_time import BEGAN, LoopClock, leaping
from tests.unit.worker.attempts import held_attempt

REFUSED = QueueError("refused", status=400, code="PT400")
APPLIED = {"outcome": "applied"}
CRASH = ValueError("x")
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"
ASKED = LeaseRequest(worker_id="w", tick_id="t", call=1, limit=1, job_types=("a",))


class Answering(ModelQueue):
    """Answers settles in turn, about each item alike; an error is raised, None says nothing.

    A list is an answer's whole; a number, of seconds, passes before there is none.
    """

    def __init__(self, *answers: Exception | dict[str, Any] | list[Any] | float | None) -> None:
        super().__init__()
        self.answers = list(answers)
        self.sent: list[tuple[Sequence[SettleItem], dict[str, Any]]] = []

    async def settle(self, items: Sequence[SettleItem], **more: Any) -> SettleResponse:
        """The next answer; with leases where some were asked for."""
        self.sent.append((items, more))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            raise AssertionError("no one waits so long")
        if isinstance(answer, list):
            return SettleResponse.model_validate({"results": answer})
        about = [{"job_id": each.job_id, "fence": each.fence} for each in items]
        results = [SettleResult.model_validate(each | answer) for each in about if answer]
        lease = LeaseResponse(due=len(self.sent)) if more["lease"] else None
        return SettleResponse(results=tuple(results), lease=lease)


def ended(outcome: Any = "completed", job_id: str = "1", **fields: Any) -> SettleItem:
    return SettleItem(job_id=JobId(job_id), fence=3, outcome=outcome, duration_ms=5.0, **fields)


def settle(
    queue: Answering,
    *items: SettleItem,
    lease: LeaseRequest | None = None,
    stopping: bool = True,
    error: BaseException | None = CRASH,
) -> tuple[TickSummary, LeaseResponse | None]:
    """Settle them for a tick of ten seconds; a host that is stopping repeats nothing."""
    summary = TickSummary(worker_id="w", tick_id="t")

    async def story() -> LeaseResponse | None:
        clock = LoopClock()
        job = LeasedJob(
            id="1", workspace_id=WORKSPACE, job_type="a", created_at=BEGAN, attempts=2, queue="q",
            traceparent=TRACE,
        )  # fmt: skip
        attempt = held_attempt(queue, clock, leased=job, fence=3)
        attempt.ending = Returned(None) if error is None else Raised(error)
        settler = Settler(
            queue, summary, Deadlines.until(0, 10), clock=clock, is_stopping=lambda: stopping
        )
        return await settler.settle(items, {attempt.key: attempt}, lease)

    return summary, leaping(story())


@pytest.mark.parametrize(
    ("outcome", "answer", "level", "message", "has_traceback"),
    [
        ("completed", APPLIED, "INFO", "Job 1 completed successfully", False),
        ("completed", {"outcome": "stale"}, "WARNING", "was settled by another worker", False),
        ("completed", {"outcome": "not_found"}, "WARNING", "was settled by another worker", False),
        ("completed", {"outcome": "cancelled"}, "INFO", "Job 1 is now cancelled", False),
        ("retry", {"outcome": "cancelled"}, "INFO", "Job 1 is now cancelled", False),
        ("retry", None, "WARNING", "was settled by another worker", False),
        ("retry", APPLIED, "WARNING", "Job 1 failed and is retried", True),
        ("retry", APPLIED | {"status": "failed"}, "ERROR", "Job 1 failed for good", True),
        ("failed", APPLIED, "ERROR", "Job 1 failed for good", True),
        ("snoozed", APPLIED, "INFO", "Job 1 is now snoozed", False),
        ("waiting", APPLIED | {"status": "waiting"}, "INFO", "Job 1 is now waiting", False),
    ],
)
def test_each_attempt_leaves_one_line_as_loud_as_its_end(
    outcome: str, answer: Any, level: str, message: str, has_traceback: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """A person looks at errors; what heals itself is a warning."""
    caplog.set_level("INFO")

    settle(Answering(answer), ended(outcome))

    [line] = caplog.records
    assert (line.levelname, line.message.endswith(message)) == (level, True)
    assert (line.exc_info is not None and line.exc_info[1] is CRASH) == has_traceback


@pytest.mark.parametrize("outcome", ["completed", "retry", "snoozed"])
def test_the_line_of_an_attempt_holds_everything_about_it(
    outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    error = ErrorInfo(type="ValueError", message="x") if outcome == "retry" else None

    settle(Answering(APPLIED | {"status": "pending"}), ended(outcome, error=error))

    [line] = caplog.records
    expected = {
        "event": "attempt.settled", "worker_id": "w", "tick_id": "t", "job_id": "1",
        "job_type": "a", "queue": "q", "workspace_id": WORKSPACE, "attempt": 2, "fence": 3,
        "outcome": outcome, "settled": "applied", "status": "pending", "duration_ms": 5.0,
    }  # fmt: skip
    if error is not None:
        expected |= {"error_type": "ValueError", "error": "x"}
    assert {name: line.__dict__.get(name) for name in expected} == expected
    assert line.__dict__["traceparent"].split("-")[1] == "a" * 32


def test_a_log_without_successes_keeps_what_went_wrong(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", logger="minutehand.worker.settler")

    for outcome, answer in (("completed", "applied"), ("completed", "stale"), ("retry", "applied")):
        settle(Answering({"outcome": answer}), ended(outcome))

    said = [line.__dict__["settled"] for line in caplog.records]
    assert said == ["stale", "applied"]
    assert all(line.levelno == logging.WARNING for line in caplog.records)


@pytest.mark.parametrize(
    ("outcome", "settled"),
    [
        ("completed", "failed"),
        ("failed", "failed"),
        ("snoozed", "failed"),
        ("waiting", "failed"),
        ("retry", "retry"),
        ("released", "released"),
        ("cancelled", "cancelled"),
    ],
)
def test_what_the_database_refuses_is_settled_bare(
    outcome: str, settled: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Once more as it is, then without what may have been refused, and with the reason."""
    queue = Answering(REFUSED, REFUSED, APPLIED)
    item = ended(outcome, result={"n": 1}, tags=("t",))

    summary, _ = settle(queue, item)

    bare = ErrorInfo(type="SettleRejected", message=f"the database refused the {outcome}: refused")
    assert [items for items, _ in queue.sent] == [[item], [item], [ended(settled, error=bare)]]
    assert summary.lost == 0
    refusal, alone = (line.__dict__ for line in caplog.records[:2])
    who = {"worker_id": "w", "tick_id": "t", "error": "refused"}
    assert refusal | who | {"event": "settle.refused", "jobs": 1, "levelname": "WARNING"} == refusal
    said = {"event": "settle.failed", "job_id": "1", "outcome": outcome, "levelname": "ERROR"}
    assert alone | who | said == alone


@pytest.mark.parametrize("away", [QueueUnavailable("away"), TokenRefused("away")])
def test_an_outage_amid_refusals_loses_that_job_alone(
    away: QueueError, caplog: pytest.LogCaptureFixture
) -> None:
    """It runs again when its lease expires, so it must not be settled as something else."""
    queue = Answering(REFUSED, away, APPLIED)

    summary, _ = settle(queue, ended(), ended(job_id="2"))

    assert [[each.job_id for each in items] for items, _ in queue.sent] == [
        ["1", "2"],
        ["1"],
        ["2"],
    ]
    assert (summary.lost, summary.completed, summary.error) == (1, 1, "away")
    [lost] = (line.__dict__ for line in caplog.records if "job_ids" in line.__dict__)
    said = {"event": "settle.lost", "job_ids": ["1"], "error": "away", "levelname": "ERROR"}
    assert lost | said == lost


def test_a_settle_that_is_lost_names_twenty_of_its_jobs(caplog: pytest.LogCaptureFixture) -> None:
    items = [ended(job_id=str(number)) for number in range(21)]

    assert settle(Answering(QueueUnavailable("away")), *items)[0].lost == 21

    assert caplog.records[0].__dict__["job_ids"] == [str(number) for number in range(20)]


@pytest.mark.parametrize("away", [QueueUnavailable("away"), TokenRefused("away")])
def test_a_settle_is_repeated_by_the_tick_and_not_within_its_call(
    away: QueueError, caplog: pytest.LogCaptureFixture
) -> None:
    """Which looks at its deadline before each try; a key that is rotated is an outage to it."""
    queue = Answering(away, away, APPLIED)

    summary, _ = settle(queue, ended(), stopping=False)

    assert (summary.completed, summary.lost, summary.error) == (1, 0, None)
    common = {"worker_id": "w", "tick_id": "t", "attempts": 1, "lease": None}
    assert [more for _, more in queue.sent] == [common] * 3
    said = [(each.__dict__["event"], each.__dict__["error"]) for each in caplog.records]
    assert said == [("settle.repeated", "away")] * 2


def test_a_settle_that_hangs_leaves_time_for_another() -> None:
    """Which may well get through: of a tick's end each try takes half."""
    summary, _ = settle(Answering(600.0, APPLIED), ended(), stopping=False)

    assert (summary.completed, summary.lost, summary.error) == (1, 0, None)


def test_each_lease_of_a_job_has_its_own_answer() -> None:
    """Two of them may end together, when the job was leased again here; one has come too late."""
    late = replace(ended(), fence=2)
    told = [{"job_id": "1", "fence": 2, "outcome": "stale"}]
    told += [{"job_id": "1", "fence": 3, "outcome": "applied"}]

    summary, _ = settle(Answering(told), ended(), late)

    assert (summary.completed, summary.lost) == (1, 1)


def test_large_results_are_settled_in_several_calls() -> None:
    """Each of about a megabyte, so that the Data API takes it."""
    queue = Answering(*[APPLIED] * 3)

    settle(queue, *[ended(job_id=str(number), result="x" * 400_000) for number in range(5)])

    assert [len(items) for items, _ in queue.sent] == [2, 2, 1]


def test_leases_come_with_the_last_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """After all slots are known to be free; where nothing ended nothing is sent."""
    monkeypatch.setattr(Settler, "BATCH", 1)
    queue = Answering(APPLIED, APPLIED)

    _, answer = settle(queue, ended(), ended(job_id="2"), lease=ASKED)
    _, nothing = settle(Answering(), lease=ASKED)

    assert [more["lease"] for _, more in queue.sent] == [None, ASKED]
    assert (answer and answer.due, nothing) == (2, None)
