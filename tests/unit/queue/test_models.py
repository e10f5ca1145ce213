"""Cursors and wire shapes."""

from __future__ import annotations

import pytest

from minutehand.queue.models import Cursor, LeaseResponse


@pytest.mark.parametrize("text", ["", "!!!!", "MjAyNnxhYmM", "é", "MjAyNi0wMS0wMXxhLGIp"])
def test_a_foreign_cursor_is_refused(text: str) -> None:
    """It becomes part of a filter, so nothing but an instant and an id may be in it."""
    with pytest.raises(ValueError, match="unknown cursor"):
        Cursor.decode(text)


def test_a_lease_that_no_model_fits_is_left_out() -> None:
    """One job must not take those leased beside it along."""
    job = {"id": "a", "workspace_id": "w", "job_type": "t", "created_at": "2026-01-01T00:00:00Z"}
    good = {"job": job, "fence": 1}
    bad = {"job": {**job, "id": "b", "deadline_at": "infinity"}, "fence": 7}

    response = LeaseResponse.model_validate({"leases": [bad, good], "due": 3})

    assert [lease.job.id for lease in response.leases] == ["a"]
    assert response.due == 3
