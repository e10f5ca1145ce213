"""The merge of frames and reads: whatever the wire does, 1 to n, in order, each once."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minutehand.client import Timing
from minutehand.client.sequence import MOST_WAITING, EventSequence, apply_event, event_of_frame
from minutehand.queue import Job, JobEvent
from minutehand.queue.broadcasts import events_of_message
from tests.support.paths import ROOT

JOB = "11111111-0000-4000-8000-000000000001"
START = datetime(2026, 1, 1, tzinfo=UTC)
CASES = json.loads((ROOT / "tests/fixtures/sequence.json").read_text("utf-8"))


def event(seq: int, type: str = "job.progress", **data: Any) -> JobEvent:
    return JobEvent(
        job_id=JOB, seq=seq, type=type, data=data, created_at=START + timedelta(seconds=seq)
    )


def numbers(given: list[int] | dict[str, int]) -> list[int]:
    """A list as it is, or from a number to another."""
    if isinstance(given, list):
        return given
    return list(range(given["from"], given["to"] + 1))


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


@pytest.mark.parametrize("case", CASES["order"], ids=lambda case: case["name"])
def test_events_come_out_as_in_the_browser(case: dict[str, Any]) -> None:
    """The same cases as tests/unit/console/sequence.test.mjs."""
    sequence = EventSequence(case["after"])

    for step in case["steps"]:
        if "page" in step:
            page = [event(seq) for seq in numbers(step["page"])]
            told = sequence.offer_page(page, is_last=step["is_last"])
        else:
            told = sequence.offer([event(seq) for seq in numbers(step["offer"])])
        assert seqs(told) == numbers(step["told"]), step
        assert sequence.last == step.get("last", sequence.last), step
        assert sequence.has_gap == step.get("has_gap", sequence.has_gap), step


@pytest.mark.parametrize("case", CASES["jobs"], ids=lambda case: case["name"])
def test_a_row_follows_its_events_as_in_the_browser(case: dict[str, Any]) -> None:
    """A snapshot and a stream may overlap in any way."""
    made = {"workspace_id": JOB, "job_type": "t", "created_at": START}
    job = Job.model_validate({**made, **case["job"]})

    for one in case["events"]:
        at = datetime(2026, 11, 20, 8, 0, one["seq"], tzinfo=UTC)
        job = apply_event(job, JobEvent(job_id=JOB, created_at=at, **one))

    row = job.model_dump(mode="json")
    for field, expected in case["after"].items():
        found = reduce(lambda value, name: value[name], field.split("."), row)
        assert found == expected, field


@pytest.mark.parametrize("case", CASES["frames"], ids=lambda case: case["name"])
def test_a_frame_is_an_event_where_the_browser_says_so(case: dict[str, Any]) -> None:
    """What arrives on a topic is not ours to trust."""
    found = event_of_frame(case["frame"])

    assert (found and found.seq) == case["seq"]


@pytest.mark.parametrize("case", CASES["messages"], ids=lambda case: case["name"])
def test_a_message_carries_the_events_that_the_browser_reads(case: dict[str, Any]) -> None:
    """A thousand jobs of one batch differ in their ids: the rest is sent once."""
    assert events_of_message(case["message"]) == case["events"]


@pytest.mark.parametrize("payload", [None, "text", [1], {"events": []}, {"events": [7]}])
def test_a_message_of_another_shape_carries_no_number(payload: object) -> None:
    """Readers then look at the log."""
    [event] = events_of_message(payload)

    assert "seq" not in event


@pytest.mark.parametrize("case", CASES["pauses"], ids=lambda case: case["name"])
def test_a_check_is_due(case: dict[str, Any]) -> None:
    """What is dropped silently and followed by nothing is found by reading, as rarely as can be."""
    given = [case[name] / 1000 for name in ("idle", "took", "advised")]

    assert Timing().check_pause(*given) == case["pause"] / 1000
