"""Enqueue, cancel, retry, answer, redrive: what the write routes do to the queue."""

from __future__ import annotations

import asyncio
import uuid

import httpx

from tests.integration.api.conftest import ACME_ID, Hand, error_of, eventually
from tests.support.stacks import RunningStack

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def body(hand: Hand, **more: object) -> dict[str, object]:
    return {"workspace_id": ACME_ID, "job_type": hand.job_type, "payload": {"n": 1}, **more}


async def test_a_job_is_created_as_it_was_described(hand: Hand, ada: httpx.AsyncClient) -> None:
    """Every option of the contract arrives in the row."""
    response = await ada.post(
        "/api/jobs",
        json=body(
            hand,
            queue="slow",
            priority=7,
            scheduled_for="2031-01-01T00:00:00+01:00",
            max_attempts=3,
            concurrency_key="k",
            session_id="s-1",
            timeout_seconds=30,
        ),
        headers={"traceparent": TRACE},
    )

    assert response.status_code == 201, response.text
    job = response.json()
    assert response.headers["location"] == f"/api/jobs/{job['id']}"
    expected = {
        "queue": "slow",
        "priority": 7,
        "scheduled_for": "2030-12-31T23:00:00Z",
        "max_attempts": 3,
        "concurrency_key": "k",
        "session_id": "s-1",
        "timeout_seconds": 30,
        "traceparent": TRACE,
        "status": "pending",
        "payload": {"n": 1},
        "attempts": 0,
    }
    assert {name: job[name] for name in expected} == expected
    assert (job["state"], job["next_run_at"]) == ("scheduled", job["scheduled_for"])
    assert job["warning"] is None
    read = (await ada.get(response.headers["location"])).json()
    changing = {"warning", "times"}
    assert {k: v for k, v in read.items() if k not in changing} == {
        k: v for k, v in job.items() if k not in changing
    }


async def test_of_fifty_racing_requests_with_one_key_one_makes_the_job(
    hand: Hand, ada: httpx.AsyncClient
) -> None:
    """Impatient clients and retrying proxies cause one job."""
    key = f"order-{uuid.uuid4()}"

    answers = await asyncio.gather(
        *(
            ada.post("/api/jobs", json=body(hand), headers={"Idempotency-Key": key})
            for _ in range(50)
        )
    )

    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200] * 49 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    replayed = [a for a in answers if a.headers.get("idempotent-replayed") == "true"]
    assert len(replayed) == 49


async def test_bulk_is_all_or_nothing(hand: Hand, ada: httpx.AsyncClient) -> None:
    """One bad job among a thousand, and the error names it."""
    jobs = [{"job_type": hand.job_type, "payload": {"n": n}} for n in range(1000)]
    spoiled = [*jobs[:500], {"job_type": "no_such_type", "payload": {}}, *jobs[501:]]

    refused = await ada.post("/api/jobs/bulk", json={"workspace_id": ACME_ID, "jobs": spoiled})
    listed = await ada.get("/api/jobs", params={"job_type": hand.job_type})
    taken = await ada.post("/api/jobs/bulk", json={"workspace_id": ACME_ID, "jobs": jobs})

    assert refused.status_code == 422
    assert "500" in str(error_of(refused)["detail"])
    assert listed.json()["jobs"] == []
    assert taken.status_code == 201
    made = taken.json()["jobs"]
    assert [entry["job"]["payload"]["n"] for entry in made] == list(range(1000))
    assert all(entry["created"] for entry in made)


async def test_cancel_answers_with_the_new_state_and_then_with_the_conflict(
    hand: Hand, ada: httpx.AsyncClient
) -> None:
    """A completed job cannot be cancelled, and the answer says what it is instead."""
    waiting = await hand.enqueue()
    cancelled = await ada.post(f"/api/jobs/{waiting.id}/cancel")
    done = await hand.enqueue()
    [lease] = await hand.lease()
    await hand.settle(lease, result={"ok": True})

    refused = await ada.post(f"/api/jobs/{done.id}/cancel")

    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert (refused.status_code, error_of(refused)["code"]) == (409, "invalid_state")
    assert error_of(refused)["detail"] == {"status": "completed"}


async def test_a_job_is_replayed_once_by_its_key(hand: Hand, ada: httpx.AsyncClient) -> None:
    """As an enqueue is; the chain is there for whoever may read the job."""
    job = await hand.enqueue({"n": 1})
    [lease] = await hand.lease()
    await hand.settle(lease)
    path, key = f"/api/jobs/{job.id}/replay", {"idempotency-key": str(uuid.uuid4())}

    made = await ada.post(path, json={"payload": {"n": 2}}, headers={**key, "traceparent": TRACE})
    again = await ada.post(path, json={"payload": {"n": 2}}, headers=key)
    wrong = await ada.post(path, json={"from": "read"})
    chain = await ada.get(f"/api/jobs/{made.json()['id']}/replays")

    assert (made.status_code, again.status_code, wrong.status_code) == (201, 200, 422)
    assert made.headers["location"] == f"/api/jobs/{again.json()['id']}"
    assert (made.json()["payload"], made.json()["replay_of"]) == ({"n": 2}, str(job.id))
    assert made.json()["traceparent"] == TRACE
    assert [one["id"] for one in chain.json()] == [str(job.id), made.json()["id"]]


async def test_a_question_is_answered_once(hand: Hand, ada: httpx.AsyncClient) -> None:
    """The job goes on with the answer; a second one comes too late."""
    job = await hand.enqueue()
    [lease] = await hand.lease()
    await hand.settle(
        lease, "waiting", wait={"kind": "ask", "name": "colour", "question": "Which colour?"}
    )
    asked = (await ada.get(f"/api/jobs/{job.id}/steps")).json()["waiting_for"]

    answered = await ada.post(f"/api/jobs/{job.id}/answer", json={"answer": "blue"})
    late = await ada.post(f"/api/jobs/{job.id}/answer", json={"answer": "red"})
    [again] = await hand.lease()

    assert (asked["kind"], asked["question"]) == ("ask", "Which colour?")
    assert (answered.status_code, answered.json()["status"]) == (200, "pending")
    assert late.status_code == 409
    assert (again.steps or {})["colour"]["answer"] == "blue"


async def test_an_event_wakes_the_job_that_waits_for_it(hand: Hand, ada: httpx.AsyncClient) -> None:
    """Whoever emits it needs to know nothing of the job."""
    job = await hand.enqueue()
    [lease] = await hand.lease()
    name = f"paid-{uuid.uuid4()}"
    await hand.settle(lease, "waiting", wait={"kind": "event", "name": "payment", "event": name})

    emitted = await ada.post(
        "/api/events", json={"workspace_id": ACME_ID, "name": name, "payload": {"amount": 5}}
    )
    again = await eventually(hand.lease)

    assert emitted.status_code == 202
    assert again[0].job.id == job.id
    assert (again[0].steps or {})["payment"] == {"event": {"amount": 5}}


async def test_an_enqueue_wakes_the_worker_without_anyone_calling_it(
    ada: httpx.AsyncClient, stack: RunningStack
) -> None:
    """From the request to the first attempt, with real parts only."""
    with stack.connect() as connection:
        row = connection.execute(
            "select id from public.accounts where workspace_id = %s limit 1", (ACME_ID,)
        ).fetchone()
    assert row is not None
    response = await ada.post(
        "/api/jobs",
        json={
            "workspace_id": ACME_ID,
            "job_type": "enrich_account",
            "payload": {"account_id": str(row[0]), "domain": "example.com"},
        },
    )
    assert response.status_code == 201, response.text

    async def begun() -> bool:
        shown = (await ada.get(response.headers["location"])).json()
        return bool(shown["attempts"] > 0)

    assert await eventually(begun)
