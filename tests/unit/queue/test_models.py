"""Wire shapes."""

from __future__ import annotations

import json

from minutehand.queue.models import LeaseResponse


def test_a_lease_that_no_model_fits_is_left_out() -> None:
    """One job must not take those leased beside it along."""
    job = {"id": "a", "workspace_id": "w", "job_type": "t", "created_at": "2026-01-01T00:00:00Z"}
    good = {"job": job, "fence": 1}
    bad = {"job": {**job, "id": "b", "deadline_at": "infinity"}, "fence": 7}

    response = LeaseResponse.read(json.dumps({"leases": [bad, good], "due": 3}).encode())

    assert [lease.job.id for lease in response.leases] == ["a"]
    assert response.due == 3
