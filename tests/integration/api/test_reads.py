"""Lists, pages, logs, statistics and health as the read routes give them."""

from __future__ import annotations

from datetime import datetime

import httpx
import pytest

from minutehand.config import Settings
from tests.integration.api.conftest import ACME_ID, Client, Hand, error_of
from tests.support.stacks import RunningStack


async def test_pages_hold_every_job_once_while_others_arrive(
    hand: Hand, ada: httpx.AsyncClient
) -> None:
    """A bulk shares its microsecond; a page boundary inside it must not lose or repeat a job."""
    wanted = {job.id for job in await hand.enqueue_many(45)}
    seen: list[str] = []
    params = {"job_type": hand.job_type, "limit": "7"}

    while True:
        page = (await ada.get("/api/jobs", params=params)).json()
        seen += [job["id"] for job in page["jobs"]]
        await hand.enqueue()
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]

    assert len(seen) == len(set(seen)) == 45
    assert set(seen) == wanted


async def test_filters_narrow_the_list(hand: Hand, ada: httpx.AsyncClient) -> None:
    """Each alone and together."""
    first, second, third = await hand.enqueue_many(3)
    await ada.post(f"/api/jobs/{first.id}/cancel")
    own = {"job_type": hand.job_type, "created_after": first.created_at.isoformat()}

    async def ids(**params: str | int | list[str] | None) -> list[str]:
        found: list[str] = []
        cursor = None
        while True:
            given = {**own, **params, **({} if cursor is None else {"cursor": cursor})}
            response = await ada.get("/api/jobs", params=given)
            assert response.status_code == 200, response.text
            found += [job["id"] for job in response.json()["jobs"]]
            # a search ends a page by its time as well
            if (cursor := response.json()["next_cursor"]) is None:
                return found

    live = {second.id, third.id}
    assert await ids(status="cancelled") == [first.id]
    assert set(await ids(status=["pending", "processing"])) == live
    assert set(await ids(workspace_id=ACME_ID, queue="default")) == live | {first.id}
    assert await ids(queue="no-such-queue") == []
    assert await ids(session_id="no-such-session") == []
    assert await ids(created_before="2020-01-01T00:00:00Z") == []
    assert len(await ids(created_after="2020-01-01T00:00:00Z")) == 3
    assert await ids(search=first.id) == [first.id]
    assert len(await ids(search=hand.job_type[5:12].upper())) == 3
    for odd in ('"', "\\", "%", "_", "*", ",", ")", "(", "a,b.eq.c", "')--", "é", "😀"):
        assert isinstance(await ids(search=odd), list)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=x",
        "status=broken",
        "cursor=broken",
        "cursor=",
        "workspace_id=acme",
        "created_after=yesterday",
        "search=%00",
        "search=",
    ],
)
async def test_an_unusable_query_is_a_4xx_that_names_it(ada: httpx.AsyncClient, query: str) -> None:
    """Nothing of it reaches the database as a filter."""
    response = await ada.get(f"/api/jobs?{query}")

    assert response.status_code in {400, 422}
    assert query.partition("=")[0] in str(error_of(response)) or "%00" in query


async def test_a_jobs_story_can_be_read_in_full(hand: Hand, ada: httpx.AsyncClient) -> None:
    """Events, attempts, steps and the explanation agree with each other."""
    job = await hand.enqueue()
    [lease] = await hand.lease()
    await hand.settle(lease, "retry", error={"type": "Boom", "message": "not yet"})

    first = (await ada.get(f"/api/jobs/{job.id}/events", params={"limit": 3})).json()
    rest = (await ada.get(f"/api/jobs/{job.id}/events", params={"after": 3})).json()
    assert (first["next_after"], rest) == (3, {"events": [], "next_after": None})
    events = (await ada.get(f"/api/jobs/{job.id}/events")).json()["events"]
    attempts = (await ada.get(f"/api/jobs/{job.id}/attempts")).json()
    explained = (await ada.get(f"/api/jobs/{job.id}/explain")).json()
    trace = (await ada.get(f"/api/jobs/{job.id}/trace")).json()

    assert [(one["id"], one["parent_id"]) for one in trace["jobs"]] == [(job.id, None)]
    [run] = trace["jobs"][0]["attempts"]
    assert (run["outcome"], run["error_message"], trace["more"]) == ("retry", "not yet", False)
    spans = [trace["jobs"][0]["created_at"], run["leased_at"], run["ended_at"], trace["now"]]
    assert spans == sorted(spans, key=datetime.fromisoformat)
    assert [event["type"] for event in events] == ["job.created", "job.leased", "job.retried"]
    assert [event["seq"] for event in events] == [1, 2, 3]
    assert [attempt["attempt"] for attempt in attempts] == [1]
    assert (explained["job_id"], explained["status"]) == (job.id, "pending")
    assert explained["sentence"]


async def test_status_is_the_operators_or_the_members_own(
    hand: Hand, client: Client, ada: httpx.AsyncClient, stack: RunningStack
) -> None:
    """The operator sees everything, a member their workspace, nobody else anything."""
    await hand.enqueue()
    by_operator = client(stack.worker_secret_token)

    operator = await by_operator.get("/api/status")
    service = await client(stack.token(None, role="service_role")).get("/api/status")
    member = await ada.get("/api/status", params={"workspace_id": ACME_ID})
    too_much = await ada.get("/api/status")
    nobody = await client().get("/api/status")
    stranger = await client("wrong-token").get("/api/status")

    assert operator.status_code == service.status_code == member.status_code == 200
    assert hand.job_type in operator.json()["types"]
    assert hand.job_type in member.json()["types"]
    assert operator.json()["workers"] is not None
    assert (too_much.status_code, error_of(too_much)["code"]) == (400, "invalid_argument")
    assert nobody.status_code == stranger.status_code == 401


async def test_readiness_distinguishes_a_dead_database_from_a_dead_process(
    settings: Settings,
) -> None:
    """503 with a verdict per part, and Retry-After; liveness does not care."""
    from minutehand.functions.health.app import build_app

    away = settings.model_copy(update={"supabase_url": "http://127.0.0.1:9"})
    transport = httpx.ASGITransport(build_app(away))
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as api:
        alive = await api.get("/health")
        ready = await api.get("/api/health/ready")

    assert alive.status_code == 200
    assert alive.json()["status"] in {"unknown", "down"}
    assert (ready.status_code, ready.json()["status"]) == (503, "not_ready")
    assert ready.json()["checks"]["database"]["verdict"] == "fail"
    assert int(ready.headers["retry-after"]) >= 1


async def test_a_database_that_is_unavailable_is_a_503_on_every_route(
    settings: Settings, stack: RunningStack
) -> None:
    """With Retry-After, so that clients neither give up nor hammer."""
    from minutehand.functions.jobs.app import build_app as build_jobs
    from minutehand.functions.status.app import build_app as build_status

    away = settings.model_copy(update={"supabase_url": "http://127.0.0.1:9", "streaming": False})
    token = stack.token("aaaaaaaa-0000-4000-8000-000000000001")
    # the token names the stack's issuer, which for this app is another one
    unnamed = _without_issuer(token, stack)
    headers = {"authorization": f"Bearer {unnamed}"}
    for build, method, path in (
        (build_jobs, "POST", f"/api/jobs/{'0' * 8}-0000-4000-8000-000000000000/cancel"),
        (build_status, "GET", "/api/jobs"),
    ):
        transport = httpx.ASGITransport(build(away))
        async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as api:
            response = await api.request(method, path, headers=headers)

        assert (response.status_code, error_of(response)["code"]) == (503, "unavailable")
        assert int(response.headers["retry-after"]) >= 1


def _without_issuer(token: str, stack: RunningStack) -> str:
    import jwt

    claims = jwt.decode(token, options={"verify_signature": False})
    claims.pop("iss")
    return jwt.encode(claims, stack.supabase_jwt_secret, "HS256")
