"""What the write routes answer while others change the same job."""

from __future__ import annotations

import pytest

from tests.contract.api import Api
from tests.integration.api.conftest import api as api
from tests.integration.api.conftest import error_of


@pytest.mark.parametrize("change", ["cancel", "retry"])
async def test_a_job_that_another_transaction_changes_is_429_with_when_to_call_again(
    api: Api, change: str
) -> None:
    """Nothing was done: the API itself has repeated it, and so may its caller."""
    job_id = api.engine.enqueue(delay_seconds=60)
    with api.engine.open_transaction() as other:
        other.run("select from public.jobs for update")
        refused = await api.call("POST", f"/api/jobs/{job_id}/{change}")

    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    error = error_of(refused)
    assert (error["code"], error["detail"]) == ("job_busy", {"retry_after_seconds": 1})
    assert (await api.call("POST", f"/api/jobs/{job_id}/{change}")).status_code == 200
