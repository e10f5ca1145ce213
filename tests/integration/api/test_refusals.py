"""Bad requests, bad tokens and other people's jobs: 4xx in the common body, nothing stored."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx
import pytest

from minutehand.local.users import ADA
from tests.integration.api.conftest import ACME_ID, GLOBEX_ID, Client, error_of
from tests.support.stacks import RunningStack

UNKNOWN = "00000000-0000-4000-8000-00000000dead"


def count_jobs(stack: RunningStack, key: str) -> int:
    """Jobs with the request's own key: the stack makes and removes others at any time."""
    with stack.connect() as connection:
        row = connection.execute(
            "select count(*) from public.jobs where idempotency_key = %s", (key,)
        ).fetchone()
    assert row is not None
    return int(row[0])


def job(**changes: Any) -> dict[str, Any]:
    body = {
        "workspace_id": ACME_ID,
        "job_type": "enrich_account",
        "payload": {"account_id": UNKNOWN, "domain": "example.com"},
        **changes,
    }
    return {name: value for name, value in body.items() if value is not None}


BAD_BODIES: dict[str, tuple[bytes | dict[str, Any], int, str]] = {
    "malformed JSON": (b'{"workspace_id": ', 400, "invalid_json"),
    "not an object": (b"[1, 2]", 422, "validation_failed"),
    "no body": (b"", 422, "validation_failed"),
    "missing workspace": (job(workspace_id=None), 422, "validation_failed"),
    "workspace of a wrong type": (job(workspace_id=7), 422, "validation_failed"),
    "workspace that is no id": (job(workspace_id="acme"), 422, "validation_failed"),
    "job_type of a wrong type": (job(job_type=["enrich_account"]), 422, "validation_failed"),
    "empty job_type": (job(job_type=""), 422, "unknown_job_type"),
    "unknown job_type": (job(job_type="no_such_type"), 422, "unknown_job_type"),
    "payload of a wrong type": (job(payload="text"), 422, "validation_failed"),
    "payload against its schema": (job(payload={"account_id": 5}), 422, "payload_invalid"),
    "unknown word in backoff": (job(backoff={"x": 1}), 422, "validation_failed"),
    "unknown word in unique": (job(unique={"key": "k", "x": 1}), 422, "validation_failed"),
    "priority as text": (job(priority="1"), 422, "validation_failed"),
    "priority out of range": (job(priority=1001), 422, "validation_failed"),
    "too many attempts": (job(max_attempts=51), 422, "validation_failed"),
    "a time without a zone": (job(scheduled_for="2026-11-20"), 422, "validation_failed"),
    "an instant as a number": (job(scheduled_for=5), 422, "validation_failed"),
    "two starts": (
        job(scheduled_for="2027-01-01T00:00:00Z", delay_seconds=5),
        422,
        "validation_failed",
    ),
    "unknown field": (job(prioritty=5), 422, "validation_failed"),
    "2 MB payload": (job(payload={"domain": "x" * 2_000_000}), 413, "body_too_large"),
    "300 kB payload": (job(payload={"domain": "x" * 300_000}), 413, "payload_too_large"),
    "unknown workspace": (job(workspace_id=UNKNOWN), 404, "workspace_not_found"),
    "another tenant's workspace": (job(workspace_id=GLOBEX_ID), 404, "workspace_not_found"),
}


@pytest.mark.parametrize("case", list(BAD_BODIES))
async def test_a_bad_enqueue_is_refused_and_stores_nothing(
    ada: httpx.AsyncClient, stack: RunningStack, case: str
) -> None:
    """Every mistake is told apart, by a stable word, before a row exists."""
    body, status, code = BAD_BODIES[case]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    key = str(uuid.uuid4())

    response = await ada.post("/api/jobs", content=content, headers={"Idempotency-Key": key})

    assert (response.status_code, error_of(response)["code"]) == (status, code)
    assert count_jobs(stack, key) == 0


@pytest.mark.parametrize("size", [1_100_000, 2_000_000, 12_000_000])
async def test_a_large_body_gets_its_413_over_a_real_socket(
    ada: httpx.AsyncClient, size: int
) -> None:
    """The answer must arrive although the client is still sending."""
    response = await ada.post("/api/jobs", content=b'{"payload": "' + b"x" * size + b'"}')

    assert response.status_code == 413
    error_of(response)


def bad_tokens(stack: RunningStack) -> dict[str, str]:
    good = stack.token(str(ADA.id))
    head, body, signature = good.split(".")
    return {
        "garbage": "garbage",
        "cut short": good[:-10],
        "another signature": f"{head}.{body}.{signature[::-1]}",
        "expired": stack.token(str(ADA.id), expires_in=-3600),
        "no user": stack.token(None),
        "anonymous key": stack.token(None, role="anon"),
        "worker": stack.token(None, role="job_worker"),
        "the publishable key": stack.supabase_publishable_key,
        "the worker's token": stack.worker_secret_token,
    }


JOB_PARTS = ("", "/logs", "/events", "/explain", "/attempts", "/steps", "/trace")
USER_ROUTES = [
    ("POST", "/api/jobs"),
    ("POST", "/api/jobs/bulk"),
    ("POST", "/api/jobs/cancel"),
    ("POST", "/api/jobs/retry"),
    ("POST", "/api/events"),
    ("POST", "/api/uploads"),
    ("GET", "/api/jobs"),
    *(("POST", f"/api/jobs/{UNKNOWN}/{verb}") for verb in ("cancel", "retry", "answer")),
    *(("GET", f"/api/jobs/{UNKNOWN}{part}") for part in JOB_PARTS),
    ("GET", f"/api/workspaces/{ACME_ID}/events"),
    ("GET", "/api/sessions/some-session/events"),
]


@pytest.mark.parametrize(("method", "path"), USER_ROUTES)
async def test_no_user_route_opens_without_a_users_token(
    client: Client, stack: RunningStack, method: str, path: str
) -> None:
    """401 for every bad token, on every route, before the body is judged."""
    tokens = {"none": None, **bad_tokens(stack)}
    for kind, token in tokens.items():
        response = await client(token).request(method, path, json=None)

        assert response.status_code == 401, (kind, response.text)
        assert error_of(response)["error"] == "Unauthorized"
        assert response.headers["www-authenticate"].startswith("Bearer")
