"""Bad requests, bad tokens and other people's jobs: 4xx in the common body, nothing stored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.contract.api import Api
from tests.integration.api.conftest import error_of
from tests.support.engine import ACME, GLOBEX

SCHEMA = {"type": "object", "properties": {"account_id": {"type": "string"}}}


def job(**changes: Any) -> dict[str, Any]:
    return {"workspace_id": ACME, "job_type": "strict", "payload": {}, **changes}


BAD_BODIES: dict[str, tuple[bytes | dict[str, Any], int, str]] = {
    "malformed JSON": (b'{"workspace_id": ', 400, "invalid_json"),
    "workspace that is no id": (job(workspace_id="acme"), 422, "validation_failed"),
    "payload against its schema": (job(payload={"account_id": 5}), 422, "payload_invalid"),
    "priority out of range": (job(priority=1001), 422, "validation_failed"),
    "unknown field": (job(prioritty=5), 422, "validation_failed"),
    "2 MB payload": (job(payload={"domain": "x" * 2_000_000}), 413, "body_too_large"),
    "300 kB payload": (job(payload={"domain": "x" * 300_000}), 413, "payload_too_large"),
    "text that Postgres cannot store": (job(payload={"domain": "\0"}), 400, "invalid_argument"),
    "another tenant's workspace": (job(workspace_id=GLOBEX), 404, "workspace_not_found"),
}


@pytest.mark.parametrize("case", list(BAD_BODIES))
async def test_a_bad_enqueue_is_refused_and_stores_nothing(api: Api, case: str) -> None:
    """Every mistake is told apart, by a stable word, before a row exists."""
    api.engine.register("strict", payload_schema=SCHEMA)
    body, status, code = BAD_BODIES[case]

    response = await api.call(
        "POST", "/api/jobs", content=body if isinstance(body, bytes) else json.dumps(body)
    )

    assert (response.status_code, error_of(response)["code"]) == (status, code)
    assert api.engine.one("select count(*) from public.jobs") == 0
