"""Finding jobs over HTTP: states, tags, order, types and log lines."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.integration.api.conftest import ACME_ID, GLOBEX_ID, Hand, error_of


async def found(ada: httpx.AsyncClient, hand: Hand, **filters: Any) -> list[dict[str, Any]]:
    """The jobs of the test's type that meet the filters."""
    params = {"workspace_id": ACME_ID, "job_type": hand.job_type, **filters}
    jobs: list[dict[str, Any]] = []
    while True:
        response = await ada.get("/api/jobs", params=params)
        assert response.status_code == 200, response.text
        jobs += response.json()["jobs"]
        # a search ends a page by its time as well, so a busy machine's may be short
        if (cursor := response.json()["next_cursor"]) is None:
            return jobs
        params["cursor"] = cursor


async def enqueue(ada: httpx.AsyncClient, hand: Hand, **more: Any) -> dict[str, Any]:
    """A job made over HTTP."""
    body = {"workspace_id": ACME_ID, "job_type": hand.job_type, "payload": {}, **more}
    response = await ada.post("/api/jobs", json=body)
    assert response.status_code == 201, response.text
    job: dict[str, Any] = response.json()
    return job


async def test_states_and_the_next_run_are_the_databases_own_words(
    hand: Hand, ada: httpx.AsyncClient
) -> None:
    """One derivation, whoever asks."""
    later = await enqueue(ada, hand, delay_seconds=500)
    sooner = await enqueue(ada, hand, delay_seconds=100)
    assert (later["state"], later["next_run_at"]) == ("scheduled", later["scheduled_for"])

    listed = await found(ada, hand, state="scheduled", sort="next_run_at", order="asc")
    assert [job["id"] for job in listed] == [sooner["id"], later["id"]]
    assert await found(ada, hand, state=["queued", "running"]) == []
    sorted_by = await ada.get(
        "/api/jobs", params={"job_type": hand.job_type, "sort": "next_run_at", "limit": 1}
    )
    assert (sorted_by.json()["more"], sorted_by.json()["cut"]) == (True, False)


async def test_a_sorted_list_is_narrowed_as_any_other(hand: Hand, ada: httpx.AsyncClient) -> None:
    """And continued by place; an end before which is asked for is no beginning."""
    await enqueue(ada, hand)
    two = await enqueue(ada, hand)
    await ada.post(f"/api/jobs/{two['id']}/cancel")

    async def ids(**filters: Any) -> list[str]:
        listed = await found(ada, hand, sort="created_at", **filters)
        return [job["id"] for job in listed]

    assert await ids(order="asc", offset=1) == [two["id"]]
    assert await ids(search=two["id"]) == [two["id"]]
    for params in ({"sort": "created_at"}, {}):
        assert await found(ada, hand, finished_before="2020-01-01T00:00:00Z", **params) == []


async def test_tags_are_an_option_of_every_request(hand: Hand, ada: httpx.AsyncClient) -> None:
    """One, many, and what is wrong with them."""
    one = await enqueue(ada, hand, tags=["blue", "x"])
    bulk = await ada.post(
        "/api/jobs/bulk",
        json={
            "workspace_id": ACME_ID,
            "jobs": [{"job_type": hand.job_type, "payload": {}, "tags": ["blue"]}],
        },
    )
    many = bulk.json()["jobs"][0]["job"]

    assert one["tags"] == ["blue", "x"]
    assert {job["id"] for job in await found(ada, hand, tag="blue")} == {one["id"], many["id"]}
    assert [job["id"] for job in await found(ada, hand, tag="x")] == [one["id"]]
    refused = await ada.post(
        "/api/jobs",
        json={"workspace_id": ACME_ID, "job_type": hand.job_type, "tags": ["x" * 101]},
    )
    assert refused.status_code == 422
    assert "tags" in str(error_of(refused)["detail"])


async def test_a_payload_is_searched_by_its_fields(hand: Hand, ada: httpx.AsyncClient) -> None:
    """As a JSON object; anything else is refused by name."""
    job = await enqueue(ada, hand, payload={"month": "2026-01", "n": 7})
    await enqueue(ada, hand, payload={"month": "2026-02", "n": 7})

    listed = await found(ada, hand, payload=json.dumps({"month": "2026-01"}))
    assert [each["id"] for each in listed] == [job["id"]]
    refused = await ada.get("/api/jobs", params={"payload": "[1]"})
    assert refused.status_code == 400
    assert error_of(refused)["detail"][0]["field"] == "payload"


async def test_types_are_listed_and_one_is_shown_whole(
    hand: Hand, ada: httpx.AsyncClient, eve: httpx.AsyncClient
) -> None:
    """To those of the workspace."""
    await hand.enqueue()
    [lease] = await hand.lease()
    await hand.settle(lease, "completed", duration_ms=20.0)

    listed = await ada.get("/api/types", params={"workspace_id": ACME_ID})
    [line] = [each for each in listed.json()["types"] if each["job_type"] == hand.job_type]
    assert (line["served"], line["workers"], line["day"]["completed"]) == (True, 1, 1)
    shown = await ada.get(f"/api/types/{hand.job_type}", params={"workspace_id": ACME_ID})
    assert shown.json()["limits"]["max_concurrency"] == 1000
    assert [worker["worker_id"] for worker in shown.json()["serving"]] == [hand.worker_id]
    assert (await eve.get("/api/types", params={"workspace_id": ACME_ID})).status_code == 404
    others = await eve.get(f"/api/types/{hand.job_type}", params={"workspace_id": GLOBEX_ID})
    assert others.json()["day"]["completed"] == 0


async def test_a_mistyped_type_gets_the_nearest_name(hand: Hand, ada: httpx.AsyncClient) -> None:
    """In the sentence, and as a value for the page's own link."""
    typo = f"{hand.job_type}x"
    for response in (
        await ada.get(f"/api/types/{typo}", params={"workspace_id": ACME_ID}),
        await ada.post("/api/jobs", json={"workspace_id": ACME_ID, "job_type": typo}),
    ):
        body = error_of(response)
        assert body["code"] == "unknown_job_type"
        assert f"did you mean {hand.job_type}?" in body["error"]


async def test_log_lines_are_searched_over_jobs(hand: Hand, ada: httpx.AsyncClient) -> None:
    """Which job wrote that?"""
    jobs = await hand.enqueue_many(2)
    for lease in await hand.lease(2):
        await hand.report(lease, 10, f"Invoice {lease.job.payload['n']} of {hand.job_type}")

    params = {"workspace_id": ACME_ID, "search": f"invoice 1 of {hand.job_type}"}
    page = (await ada.get("/api/logs", params=params)).json()
    assert [line["job_id"] for line in page["lines"]] == [jobs[1].id]
    assert page["lines"][0]["job_type"] == hand.job_type
    params["search"] = hand.job_type
    early = await ada.get("/api/logs", params=params | {"until": "2020-01-01T00:00:00Z"})
    newest = (await ada.get("/api/logs", params=params | {"limit": 1})).json()
    older = await ada.get("/api/logs", params=params | {"before": newest["next"]})
    assert early.json()["lines"] == []
    read = [line["job_id"] for line in newest["lines"] + older.json()["lines"]]
    assert sorted(read) == sorted(job.id for job in jobs)
