"""Wire shapes."""

from __future__ import annotations

import json

from minutehand.queue.models import LeaseResponse, ListedJob


def test_a_lease_that_no_model_fits_is_left_out() -> None:
    """One job must not take those leased beside it along."""
    job = {"id": "a", "workspace_id": "w", "job_type": "t", "created_at": "2026-01-01T00:00:00Z"}
    good = {"job": job, "fence": 1}
    bad = {"job": {**job, "id": "b", "deadline_at": "infinity"}, "fence": 7}

    response = LeaseResponse.read(json.dumps({"leases": [bad, good], "due": 3}).encode())

    assert ([lease.job.id for lease in response.leases], response.due) == (["a"], 3)


def test_a_row_that_no_reader_can_parse_is_one_item_that_says_so() -> None:
    """What SQL by hand wrote into one job must not hide the others of a list."""
    row = {"id": "a", "workspace_id": "w", "job_type": "t", "status": "pending"}
    job = ListedJob.model_validate(
        {**row, "progress": 5, "tags": [None], "created_at": "infinity", "attempts": 2}
    )

    assert (job.progress, job.tags, job.attempts) == (None, (), 2)
    assert job.error_message == "fields that cannot be read: created_at, progress, tags"
