"""The merge of frames and reads: whatever the wire does, 1 to n, in order, each once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minutehand.client.sequence import MOST_WAITING, EventSequence, apply_event, event_of_frame
from minutehand.queue import Job, JobEvent
from minutehand.queue.broadcasts import events_of_message

JOB = "11111111-0000-4000-8000-000000000001"
START = datetime(2026, 1, 1, tzinfo=UTC)


def event(seq: int, type: str = "job.progress", **data: Any) -> JobEvent:
    return JobEvent(
        job_id=JOB, seq=seq, type=type, data=data, created_at=START + timedelta(seconds=seq)
    )


def seqs(events: list[JobEvent]) -> list[int]:
    return [one.seq for one in events]


@given(
    total=st.integers(1, 40),
    page=st.integers(1, 7),
    data=st.data(),
)
def test_any_loss_doubling_and_order_of_frames_ends_in_one_to_n(
    total: int, page: int, data: st.DataObject
) -> None:
    """Frames arrive anyhow, reads come in between, each seeing what is committed by then."""
    frames = data.draw(st.lists(st.integers(1, total), max_size=3 * total))
    sequence, told, committed = EventSequence(), [], 0
    for seq in frames:
        committed = max(committed, seq)
        told += seqs(sequence.offer([event(seq)]))
        if data.draw(st.booleans()):
            told += seqs(read(sequence, committed, page))
            assert not sequence.has_gap
        assert told == list(range(1, len(told) + 1))

    told += seqs(read(sequence, total, page))

    assert told == list(range(1, total + 1))
    assert not sequence.has_gap


def read(sequence: EventSequence, committed: int, page: int) -> list[JobEvent]:
    """Read to the end in pages, as a watch does."""
    told: list[JobEvent] = []
    while True:
        rows = [event(seq) for seq in range(sequence.last + 1, committed + 1)][:page]
        told += sequence.offer_page(rows, is_last=len(rows) < page)
        if len(rows) < page:
            return told


@given(order=st.permutations(range(1, 13)), after=st.integers(0, 12))
def test_a_permutation_needs_no_read(order: list[int], after: int) -> None:
    """What merely came late is not read again."""
    sequence = EventSequence(after)

    told = [seq for one in order for seq in seqs(sequence.offer([event(one)]))]

    assert told == list(range(after + 1, 13))
    assert not sequence.has_gap


def test_events_beyond_what_is_kept_back_are_read_again() -> None:
    """A flood behind one missing event must not fill the memory."""
    sequence = EventSequence()
    sequence.offer([event(seq) for seq in range(2, MOST_WAITING + 12)])

    told = read(sequence, MOST_WAITING + 11, 500)

    assert seqs(told) == list(range(1, MOST_WAITING + 12))
    assert not sequence.has_gap


def test_exactly_the_allowed_number_is_kept_back() -> None:
    """One fewer would read again what is here; one more would hold what nobody allowed."""
    sequence = EventSequence()
    sequence.offer([event(seq) for seq in range(2, MOST_WAITING + 3)])

    told = sequence.offer([event(1)])

    assert seqs(told) == list(range(1, MOST_WAITING + 2))
    assert sequence.has_gap, "the one too many is still missing"


def test_what_retention_took_is_skipped() -> None:
    """The database lacks nothing else, so waiting for it would be for ever."""
    sequence = EventSequence()
    sequence.offer([event(43)])

    told = sequence.offer_page([event(41), event(42)], is_last=True)

    assert (seqs(told), sequence.has_gap) == ([41, 42, 43], False)


def test_a_frame_that_is_no_event_is_nothing() -> None:
    frame = {"job_id": JOB, "seq": 3, "type": "job.log", "data": {}, "at": START.isoformat()}

    assert event_of_frame(frame) == event(3, "job.log").model_copy(update={"created_at": START})
    assert event_of_frame({**frame, "seq": "three"}) is None
    assert event_of_frame({"hello": 1}) is None
    assert event_of_frame("garbage") is None


def test_a_job_follows_its_events_and_ignores_those_it_contains() -> None:
    """A snapshot and a stream may overlap in any way."""
    job = Job(
        id=JOB, workspace_id=JOB, job_type="t", status="pending", created_at=START, last_seq=1
    )  # type: ignore[arg-type]

    leased = apply_event(job, event(2, "job.leased", status="processing", attempts=1))
    moved = apply_event(leased, event(3, progress={"percentage": 40}))
    done = apply_event(moved, event(4, "job.completed", status="completed"))

    assert apply_event(done, event(3, progress={"percentage": 1})) is done
    assert (leased.status, leased.attempts, leased.started_at) == (
        "processing", 1, START + timedelta(seconds=2),
    )  # fmt: skip
    assert moved.progress is not None
    assert moved.progress.percentage == 40
    assert (done.status, done.completed_at) == ("completed", START + timedelta(seconds=4))


def test_what_the_events_of_a_message_share_counts_for_each_that_has_none_of_its_own() -> None:
    """A thousand jobs of one batch differ in their ids: the rest is sent once."""
    message = {
        "data": {"status": "pending"},
        "at": "1",
        "events": [
            {"job_id": "a", "seq": 1, "type": "job.created"},
            {
                "job_id": "b",
                "seq": 4,
                "type": "job.failed",
                "data": {"status": "failed"},
                "at": "2",
            },
        ],
    }

    assert events_of_message(message) == [
        {"job_id": "a", "seq": 1, "type": "job.created", "data": {"status": "pending"}, "at": "1"},
        {"job_id": "b", "seq": 4, "type": "job.failed", "data": {"status": "failed"}, "at": "2"},
    ]


@pytest.mark.parametrize("payload", [None, "text", [1], {"events": []}, {"events": [7]}])
def test_a_message_of_another_shape_carries_no_number(payload: object) -> None:
    """Readers then look at the log."""
    [event] = events_of_message(payload)

    assert "seq" not in event
