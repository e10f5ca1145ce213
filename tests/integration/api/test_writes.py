"""Routes that write, while another transaction or request works on the same data."""

import asyncio

from infra.bench.scratch import SECRET_KEY
from tests.contract.api import Api
from tests.integration.api.conftest import api as api
from tests.support.engine import ACME
from tests.unit.web.conftest import error_of


async def test_one_bulk_of_a_caller_runs_and_the_body_of_another_is_not_read(api: Api) -> None:
    """While one bulk request of a person runs, a second one gets 429 before its body is read.

    A bulk slows down the process that serves all callers.
    """
    bulk = {"workspace_id": ACME, "jobs": [{"job_type": "work"}] * 2}
    waits = "select exists (select from pg_locks where not granted)"
    with api.engine.open_transaction() as other:
        other.run("lock table jobs in share mode")
        first = asyncio.create_task(api.call("POST", "/api/jobs/bulk", json=bulk))
        while not other.one(waits):  # noqa: ASYNC110 - until the first request waits
            await asyncio.sleep(0.01)
        refused = await api.call("POST", "/api/jobs/bulk", content=b"{")

    assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
    error = error_of(refused)
    assert (error["code"], error["detail"]["limit"]) == ("rate_limited", "bulks")
    made = await first
    assert (made.status_code, len(made.json()["jobs"])) == (201, 2)
    assert (await api.call("POST", "/api/jobs/bulk", json=bulk)).status_code == 201
    assert (await api.call("POST", "/api/jobs/bulk", content=b"{")).status_code == 400


class Wakes:
    """A waker that counts its calls."""

    count = 0

    async def wake(self) -> None:
        self.count += 1


async def test_each_route_that_makes_a_job_ready_wakes_a_worker(api: Api) -> None:
    wakes = api.services.waker = Wakes()
    of = {"workspace_id": ACME}
    created = await api.call("POST", "/api/jobs", json={**of, "job_type": "work"})
    path = f"/api/jobs/{created.json()['id']}"
    counts = [wakes.count]
    for outcome, route, body in (
        ("waiting", f"{path}/answer", {"answer": 1}),
        ("failed", f"{path}/retry", {}),
        ("failed", "/api/jobs/retry", {**of, "filter": {}}),
        ("failed", "/api/events", {**of, "name": "paid"}),
    ):
        api.engine.settle(api.engine.lease_one(), outcome, wait={"kind": "ask", "question": "?"})
        response = await api.call("POST", route, json=body)
        assert response.is_success, response.text
        counts.append(wakes.count)

    assert counts == [1, 2, 3, 4, 5]


async def test_a_bulk_without_a_valid_token_is_not_read(api: Api) -> None:
    """A bulk request without a valid token or key gets 401 before its body is read."""
    for headers in (
        {},
        {"authorization": "Bearer x.y.z"},
        {"authorization": "Bearer sb_secret_made_up"},
        {"apikey": "sb_secret_made_up"},
    ):
        refused = await api.http.post("/api/jobs/bulk", headers=headers, content=b"{")
        assert (refused.status_code, error_of(refused)["code"]) == (401, "unauthorized"), headers
    own = await api.http.post("/api/jobs/bulk", headers={"apikey": SECRET_KEY}, content=b"{")
    assert own.status_code == 400
