"""Cursors and wire shapes."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minutehand.queue import Cursor, EnqueueOptions, JobId, NewJob
from minutehand.queue.models import Job, LeaseResponse, ReportItem, SettleItem, Status


@given(st.datetimes(timezones=st.just(UTC)), st.uuids())
def test_a_cursor_comes_back_as_it_was(at: datetime, job_id: object) -> None:
    cursor = Cursor(created_at=at.isoformat(), id=str(job_id))

    assert Cursor.decode(cursor.encode()) == cursor


@pytest.mark.parametrize(
    "text", ["", "x", "!!!!", "MjAyNnxhYmM", "bm93fGFiYw", "é", "MjAyNi0wMS0wMXxhLGIp"]
)
def test_a_foreign_cursor_is_refused(text: str) -> None:
    """It becomes part of a filter, so nothing but an instant and an id may be in it."""
    with pytest.raises(ValueError, match="unknown cursor"):
        Cursor.decode(text)


@pytest.mark.parametrize("status", get_args(Status))
def test_a_job_has_ended_that_runs_no_more_by_itself(status: Status) -> None:
    job = Job.model_validate(
        {"id": "j", "workspace_id": "w", "job_type": "t", "status": status,
         "created_at": "2026-01-01T00:00:00Z"}
    )  # fmt: skip

    assert job.ended == (status in {"completed", "failed", "cancelled"})


@given(st.text(max_size=60))
def test_no_text_makes_the_cursor_fail_in_another_way(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert Cursor.decode(text).id


def test_only_given_options_travel() -> None:
    """What is left out is the type's decision, so None must not be sent."""
    job = NewJob(job_type="a", payload={"n": 1}, options=EnqueueOptions(priority=5))

    assert job.wire() == {"job_type": "a", "payload": {"n": 1}, "priority": 5}


def test_an_item_without_news_is_a_bare_renewal() -> None:
    item = ReportItem(job_id=JobId("j"), fence=3)

    assert item.wire() == {"job_id": "j", "fence": 3}


def test_a_result_of_none_is_left_out() -> None:
    item = SettleItem(job_id=JobId("j"), fence=3, outcome="completed")

    assert item.wire() == {"job_id": "j", "fence": 3, "outcome": "completed"}


def test_a_lease_that_no_model_fits_is_set_apart_from_the_others() -> None:
    """One job must not take those leased beside it along."""
    good: dict[str, Any] = {
        "job": {
            "id": "a",
            "workspace_id": "w",
            "job_type": "t",
            "created_at": "2026-01-01T00:00:00Z",
        },
        "fence": 1,
    }
    bad = {"job": {**good["job"], "id": "b", "deadline_at": "infinity"}, "fence": 7}

    response = LeaseResponse.model_validate({"leases": [bad, good], "due": 3})

    assert [lease.job.id for lease in response.leases] == ["a"]
    [broken] = response.unreadable
    assert (broken.job_id, broken.fence, response.due) == ("b", 7, 3)
    assert "deadline_at" in broken.problem
