"""Each Lambda handler with recorded events, against the running stack."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from minutehand.local.users import ADA
from tests.integration.api.conftest import ACME_ID, forget_type
from tests.support.lambda_events import LambdaContext, load_event
from tests.support.stacks import RunningStack


@pytest.fixture
def environment(stack: RunningStack, monkeypatch: pytest.MonkeyPatch) -> RunningStack:
    """What the template gives a function: the stack's values, and no streaming."""
    for name, value in stack.values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STREAMING", "false")
    monkeypatch.setenv("CORS_ORIGINS", "https://app.example.com")
    return stack


@pytest.fixture
def cold(environment: RunningStack) -> Iterator[Any]:
    """Import a handler as a cold start does, on an event loop of its own."""
    imported: list[str] = []

    def start(function: str) -> ModuleType:
        name = f"minutehand.functions.{function}.handler"
        sys.modules.pop(name, None)
        imported.append(name)
        return importlib.import_module(name)

    yield start
    for name in imported:
        sys.modules.pop(name).handler.close()


def create_job(stack: RunningStack, hand_type: str) -> str:
    with stack.connect() as connection:
        row = connection.execute(
            "insert into public.jobs (workspace_id, job_type, payload, status)"
            " values (%s, %s, '{}', 'pending') returning id",
            (ACME_ID, hand_type),
        ).fetchone()
    assert row is not None
    return str(row[0])


@pytest.fixture
def job_type(stack: RunningStack) -> Iterator[str]:
    """A type that no worker takes, registered by SQL."""
    with stack.connect() as connection:
        connection.execute(
            'select public.register_job_types(\'[{"job_type": "test_of_handlers"}]\')'
        )
    yield "test_of_handlers"
    forget_type(stack, "test_of_handlers")


def event_for(stack: RunningStack, name: str, *, job_id: str = "") -> Any:
    """A recorded event, about a job of this stack."""
    text = json.dumps(load_event(name, token=stack.sign_in(ADA.email)))
    return json.loads(text.replace("019a9f10-7e2c-7d31-9c52-0d6d5f5b7c11", job_id))


def answer_of(handler: Any, event: Any, function: str) -> tuple[int, Any, dict[str, str]]:
    answer = handler(event, LambdaContext(function))
    assert answer["isBase64Encoded"] is False
    body = answer.get("body") or ""
    is_json = answer["headers"].get("content-type", "").startswith("application/json")
    return answer["statusCode"], json.loads(body) if is_json else body, answer["headers"]


def test_status_reads_under_every_shape_of_event(
    cold: Any, environment: RunningStack, job_type: str
) -> None:
    """Default stage, named stage with its prefix, custom domain, cookies, repeated parameters."""
    job_id = create_job(environment, job_type)
    handler = cold("status").handler

    for name in ("http_get_job", "http_named_stage", "http_custom_domain"):
        event = event_for(environment, name, job_id=job_id)
        status, job, headers = answer_of(handler, event, "status")
        assert (status, job["id"]) == (200, job_id), name
        assert headers["x-request-id"] == event["requestContext"]["requestId"]
    for name in ("http_list_jobs", "http_with_cookies"):
        status, page, _ = answer_of(handler, event_for(environment, name), "status")
        assert status == 200, page
        assert len(page["jobs"]) <= 2
        assert {job["status"] for job in page["jobs"]} <= {"pending", "failed", "completed"}
