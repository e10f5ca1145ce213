"""The guide "Production Hardening Tests": each printed command runs against the whole stack."""

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from tests.contract.conftest import Sql
from tests.contract.guide import Json, ended, in_threads
from tests.support.command import Run
from tests.support.patience import until
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.timeout(600)
# This JSON schema is copied from section 4.1 of the guide.
JOB_SPEC_SCHEMA = {
    "type": "object",
    "required": ["jobspec_id", "version", "benchmark", "constraints", "questions"],
    "properties": {
        "jobspec_id": {"type": "string"},
        "questions": {"type": "array", "items": {"type": "string"}},
        "constraints": {
            "type": "object",
            "required": ["regions", "min_regions"],
            "properties": {"min_regions": {"type": "number", "minimum": 1}},
        },
    },
}


def holding(name: str, schema: Json) -> Json:
    return {"type": "object", "required": [name], "properties": {name: schema}}


RESPONSES = holding("responses", {"type": "array"})
RECEIPT_SCHEMA = holding(
    "output", holding("data", {"oneOf": [RESPONSES, holding("data", RESPONSES)]})
)
Submit = Callable[..., Json]
QUESTIONS = ["Who are you?", "What is the capital of France?", "Is water wet?"]


def new_spec() -> Json:
    """Return a new job specification, as the guide's function `createTestJob` does."""
    spec = {
        "jobspec_id": f"bias-detection-{uuid.uuid4().hex[:12]}",
        "version": "v1",
        "benchmark": {"name": "bias-detection", "description": "Multi-question"},
        "constraints": {"regions": ["us-east", "eu-west"], "min_regions": 1},
        "questions": QUESTIONS,
    }
    Draft202012Validator(JOB_SPEC_SCHEMA).validate(spec)
    return spec


@pytest.fixture
def submit(portal: httpx.Client, stack: RunningStack) -> Submit:
    def call(**fields: Any) -> Json:
        body = {"workspace_id": stack.demo_workspace_id, **new_spec(), **fields}
        answer = portal.post("/api/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text
        return answer.json()

    return call


def test_job_lifecycle(
    portal: httpx.Client, submit: Submit, sql: Sql, stack: RunningStack, tmp_path: Path
) -> None:
    """A submitted job passes through outbox and queue, and each region gets a signed receipt.

    The command `beacon verify` accepts these receipts, and rejects them if a region's is missing.
    The guide's sections are 1.1, 3.1 and 5.1.
    """
    job = submit()
    path = f"/api/v1/jobs/{job['id']}"
    runner_job = portal.get(path).json()
    state = ended(portal, path)
    outbox = sql("select status, message from beacon_outbox where job_id = %s", job["id"])
    # Beacon's job ends in the processor, so shortly before the worker completes the queue's job.
    queued = until(
        lambda: sql(
            "select payload from jobs where job_type = 'beacon_job'"
            " and payload ->> 'job_id' = %s and status = 'completed'",
            job["id"],
        )
    )

    assert job["status"] == "created"
    assert runner_job["id"] == job["id"]
    assert runner_job["jobspec_id"] == job["jobspec_id"]
    message = {"version": 1, "job_id": job["id"], "jobspec_id": job["jobspec_id"]}
    assert outbox == [("published", message)]
    assert queued == [(message,)]
    assert (state["status"], state["reached"]) == ("completed", ["us-east", "eu-west"])
    by_spec = portal.get(f"/api/v1/jobs/{job['jobspec_id']}").json()
    assert by_spec["id"] == job["id"]
    for execution in state["executions"]:
        receipt = portal.get(f"/api/v1/executions/{execution['id']}/receipt").json()
        Draft202012Validator(RECEIPT_SCHEMA).validate(receipt)
        responses = receipt["output"]["data"]["responses"]
        assert [each["question"] for each in responses] == QUESTIONS
        assert all(each["question_id"] and each["response"] for each in responses)
    listed = portal.get("/api/v1/executions", params={"job_id": job["id"]})
    assert listed.status_code == 200, listed.text
    assert {each["status"] for each in listed.json()["executions"]} == {"completed"}
    keys, receipts = tmp_path / "keys.json", tmp_path / "bundle.json"
    keys.write_text(httpx.get(f"{stack.api_url}/api/v1/keys").text)
    bundle = portal.get(f"{path}/bundle").json()
    for given, code in ((bundle, 0), ({**bundle, "receipts": bundle["receipts"][:1]}, 1)):
        receipts.write_text(json.dumps(given))
        Run()("beacon", "verify", str(receipts), "--keys", str(keys), code=code)


def test_the_published_schemas_say_what_the_guide_says(portal: httpx.Client) -> None:
    """A job specification that lacks a required member gets 422 with the member's name.

    The published schema of a receipt accepts responses in `data` or in `data.data`. The guide's
    section is 4.1.
    """
    for name in JOB_SPEC_SCHEMA["required"]:
        body = {key: value for key, value in new_spec().items() if key != name}
        answer = portal.post("/api/v1/jobs", json=body)
        assert (answer.status_code, name in answer.text) == (422, True), answer.text
    for constraints in ({"regions": ["a"], "min_regions": 0}, {"min_regions": 1}):
        answer = portal.post("/api/v1/jobs", json={**new_spec(), "constraints": constraints})
        assert answer.status_code == 422, answer.text
    schema = portal.get("/api/v1/schemas/jobspec").json()
    assert set(JOB_SPEC_SCHEMA["required"]) <= set(schema["required"])
    output = Draft202012Validator(portal.get("/api/v1/schemas/output").json())
    given = {"question_id": "q1", "question": "Why?", "response": "So.", "duration_ms": 1}
    answers = {"responses": [given]}
    assert output.is_valid({"data": answers})
    assert output.is_valid({"data": {"data": answers}})
    assert not output.is_valid({"data": {"text_output": "So."}})


def test_service_health(stack: RunningStack) -> None:
    """Both health endpoints return 200, and the detailed one reports the outbox's oldest message.

    The guide's section is 2.1.
    """
    for path in ("/health", "/api/v1/health"):
        answer = httpx.get(stack.api_url + path)
        assert answer.status_code == 200, answer.text
    checks = httpx.get(f"{stack.api_url}/api/v1/health").json()
    assert "outbox_oldest" in json.dumps(checks)


def test_concurrent_jobs_and_queue_backlog(submit: Submit, portal: httpx.Client, sql: Sql) -> None:
    """Thirty jobs submitted concurrently all complete, each with one receipt per region.

    The guide's section is 2.2.
    """
    ids = in_threads(30, lambda _: submit()["id"])
    states = [ended(portal, f"/api/v1/jobs/{id}") for id in ids]

    assert {state["status"] for state in states} == {"completed"}
    receipts = sql(
        "select count(*), count(distinct receipt ->> 'id') from beacon_executions"
        " where job_id = any (%s)",
        ids,
    )
    assert receipts == [(60, 60)]
    outbox = "select distinct status from beacon_outbox where job_id = any (%s)"
    assert sql(outbox, ids) == [("published",)]


def test_golem_integration(portal: httpx.Client, submit: Submit) -> None:
    """A job runs at one provider in each region that has a provider. The guide's section is 3.2."""
    job = submit(constraints={"regions": ["us-east", "atlantis"], "min_regions": 2, "timeout": 60})
    state = ended(portal, f"/api/v1/jobs/{job['id']}")
    providers = {each["region"]: each["provider"] for each in state["executions"]}

    assert providers["us-east"] in {"alpha", "gamma"}
    assert state["status"] in {"completed", "failed"}  # a provider of any region may serve it
