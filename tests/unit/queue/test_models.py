"""Cursors and wire shapes."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minutehand.queue.models import (
    Cursor,
    EnqueueOptions,
    JobId,
    LeaseResponse,
    NewJob,
    ReportItem,
    SettleItem,
)


@given(st.datetimes(timezones=st.just(UTC)), st.uuids(), st.text(max_size=60))
def test_a_cursor_comes_back_as_it_was(at: datetime, job_id: object, text: str) -> None:
    """And no text makes it fail in another way."""
    cursor = Cursor(created_at=at.isoformat(), id=str(job_id))

    assert Cursor.decode(cursor.encode()) == cursor
    with contextlib.suppress(ValueError):
        assert Cursor.decode(text).id


@pytest.mark.parametrize("text", ["", "!!!!", "MjAyNnxhYmM", "é", "MjAyNi0wMS0wMXxhLGIp"])
def test_a_foreign_cursor_is_refused(text: str) -> None:
    """It becomes part of a filter, so nothing but an instant and an id may be in it."""
    with pytest.raises(ValueError, match="unknown cursor"):
        Cursor.decode(text)


def test_only_what_is_given_travels() -> None:
    """What is left out is the type's decision, so None must not be sent."""
    job = NewJob(job_type="a", payload={"n": 1}, options=EnqueueOptions(delay_seconds=60))
    held: dict[str, Any] = {"job_id": JobId("j"), "fence": 3}

    assert job.wire() == {"job_type": "a", "payload": {"n": 1}, "delay_seconds": 60}
    assert ReportItem(**held).wire() == held
    assert SettleItem(**held, outcome="completed").wire() == {**held, "outcome": "completed"}


def test_a_lease_that_no_model_fits_is_set_apart_from_the_others() -> None:
    """One job must not take those leased beside it along."""
    job = {
        "id": "a",
        "workspace_id": "w",
        "job_type": "t",
        "created_at": "2026-01-01T00:00:00Z",
    }
    good = {"job": job, "fence": 1}
    bad = {"job": {**job, "id": "b", "deadline_at": "infinity"}, "fence": 7}

    response = LeaseResponse.model_validate({"leases": [bad, good], "due": 3})

    assert [lease.job.id for lease in response.leases] == ["a"]
    [broken] = response.unreadable
    assert (broken.job_id, broken.fence, response.due) == ("b", 7, 3)
    assert "deadline_at" in broken.problem
