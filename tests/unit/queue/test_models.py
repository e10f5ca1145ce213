"""Pydantic models of requests and responses."""

import json

import pytest
from pydantic import ValidationError

from minutehand.queue.models import EnqueueOptions, LeaseResponse, ListedJob, NewJob


def test_a_lease_that_no_model_fits_is_left_out() -> None:
    """A lease that cannot be parsed is left out, and the response's other leases are kept."""
    job = {"id": "a", "workspace_id": "w", "job_type": "t", "created_at": "2026-01-01T00:00:00Z"}
    good = {"job": job, "fence": 1}
    bad = {"job": {**job, "id": "b", "deadline_at": "infinity"}, "fence": 7}

    response = LeaseResponse.read(json.dumps({"leases": [bad, good], "due": 3}).encode())

    assert ([lease.job.id for lease in response.leases], response.due) == (["a"], 3)


def test_a_row_that_no_reader_can_parse_is_one_item_that_says_so() -> None:
    """A listed job with invalid fields is returned with a message that names the fields."""
    row = {"id": "a", "workspace_id": "w", "job_type": "t", "status": "pending"}
    job = ListedJob.model_validate(
        {**row, "progress": 5, "tags": [None], "created_at": "infinity", "attempts": 2}
    )

    assert (job.progress, job.tags, job.attempts) == (None, (), 2)
    assert job.error_message == "fields that cannot be read: created_at, progress, tags"


def test_an_option_beside_the_payload_of_a_child_is_refused() -> None:
    """A child job with an option outside of `options` is rejected.

    The option would otherwise be ignored.
    """
    with pytest.raises(ValidationError, match="delay_seconds must be in options=EnqueueOptions"):
        NewJob(job_type="mail", payload={}, delay_seconds=60)
    assert NewJob(job_type="mail", options=EnqueueOptions(delay_seconds=60)).wire() == {
        "job_type": "mail",
        "payload": {},
        "delay_seconds": 60,
    }
