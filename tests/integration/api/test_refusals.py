"""Bad requests, bad tokens and other people's jobs: 4xx in the common body, nothing stored."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx
import pytest

from tests.integration.api.conftest import ACME_ID, GLOBEX_ID, error_of
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
    "workspace that is no id": (job(workspace_id="acme"), 422, "validation_failed"),
    "unknown job_type": (job(job_type="no_such_type"), 422, "unknown_job_type"),
    "payload against its schema": (job(payload={"account_id": 5}), 422, "payload_invalid"),
    "priority out of range": (job(priority=1001), 422, "validation_failed"),
    "unknown field": (job(prioritty=5), 422, "validation_failed"),
    "2 MB payload": (job(payload={"domain": "x" * 2_000_000}), 413, "body_too_large"),
    "300 kB payload": (job(payload={"domain": "x" * 300_000}), 413, "payload_too_large"),
    "text that Postgres cannot store": (job(payload={"domain": "\0"}), 400, "invalid_argument"),
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


@pytest.mark.parametrize("size", [2_000_000, 12_000_000])
async def test_a_large_body_gets_its_413_over_a_real_socket(
    ada: httpx.AsyncClient, size: int
) -> None:
    """The answer must arrive although the client is still sending."""
    response = await ada.post("/api/jobs", content=b'{"payload": "' + b"x" * size + b'"}')

    assert response.status_code == 413
    error_of(response)
