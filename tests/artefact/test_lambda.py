"""The zip that a deploy uploads, run with AWS's runtime client and no other packages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from infra.bench.scratch import JWT_SECRET, PUBLISHABLE_KEY, SECRET_KEY, user_token
from tests.support.engine import ACME
from tests.support.fake_aws import fake_aws
from tests.support.lambda_events import http_event
from tests.support.lambda_runtime import LambdaFunction
from tests.support.patience import until
from tests.support.project import Project, project_of_a_file
from tests.support.renewed import Renewed

pytestmark = pytest.mark.weekly(only=True)
TICK = {"source": "minutehand.tick"}


@pytest.fixture
def project(renewed: Renewed) -> Project:
    """A database with a Data API."""
    return project_of_a_file(renewed)


@pytest.fixture(scope="module")
def parameter() -> Iterator[dict[str, str]]:
    """Environment variables that name the SSM parameter with the functions' secrets."""
    secrets = {
        "SUPABASE_SECRET_KEY": SECRET_KEY,
        "SUPABASE_JWT_SECRET": JWT_SECRET,
        "WORKER_SECRET_TOKEN": "worker-token",
        "BACKGROUND_JOB_TOKEN": "background-token",
    }
    with fake_aws("ssm") as endpoint:
        ssm = boto3.client(
            "ssm",
            region_name="us-east-1",
            endpoint_url=endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        ssm.put_parameter(Name="/test/secrets", Value=json.dumps(secrets), Type="SecureString")
        yield {"SECRETS_PARAMETER": "/test/secrets", "AWS_ENDPOINT_URL": endpoint}


@pytest.fixture
def functions(
    project: Project, tree: Path, site: Path, parameter: dict[str, str]
) -> Iterator[dict[str, LambdaFunction]]:
    """The four Lambda functions of the zip."""
    environ = {
        "SUPABASE_URL": project.settings.supabase_url,
        "SUPABASE_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
        "MINUTEHAND_APPS": "work",
        "STAGE": "test",
        **parameter,
    }
    functions = {
        name: LambdaFunction(
            f"minutehand.functions.{name}.handler.handler", tree=tree, site=site, environ=environ
        )
        for name in ("jobs", "status", "worker", "health")
    }
    yield functions
    for function in functions.values():
        function.close()


def reclaim(project: Project) -> None:
    """Let the leases of a dead process expire, because on Lambda no host reports its end."""
    project.expire()

    def is_reclaimed() -> bool:
        project.sql("select public.run_maintenance()")
        return not project.sql("select job_id from queue.leases")

    until(is_reclaimed)  # maintenance reclaims leases once a second


def test_every_function_starts_and_answers(functions: dict[str, LambdaFunction]) -> None:
    """Each Lambda function starts from the zip alone and rejects a request without a token.

    The function `jobs` answers routes that the template sends to no other function.
    """
    requests = {
        "health": http_event("GET", "/metrics"),
        "jobs": http_event("POST", "/api/jobs"),
        "status": http_event("GET", "/api/jobs"),
        "worker": http_event("GET", "/api/jobs/worker"),
    }
    for name, event in requests.items():
        response = functions[name].invoke(event, seconds=120)
        assert response["statusCode"] == 401, (name, response)

    bearer = f"Bearer {user_token()}"
    event = http_event("GET", "/api/types", query=f"workspace_id={ACME}", authorization=bearer)
    response = functions["jobs"].invoke(event)
    assert response["statusCode"] == 200, response


@pytest.fixture
def worker(functions: dict[str, LambdaFunction]) -> LambdaFunction:
    """The worker's Lambda function after its first run, which registered the job types."""
    functions["worker"].invoke(TICK, seconds=120)
    return functions["worker"]


def test_a_tick_answers_before_its_deadline(worker: LambdaFunction, project: Project) -> None:
    """A worker run on Lambda returns before its deadline.

    It abandons a job that cannot end in time.
    """
    job = project.insert("test.nap", {"seconds": 600})

    worker.invoke(TICK, seconds=20)

    assert project.row(job)["status"] == "pending"


def test_a_run_whose_process_dies_costs_the_jobs_beside_it_no_attempt(
    worker: LambdaFunction, project: Project
) -> None:
    """A job that ends its Lambda process fails.

    The other jobs of the process complete without a lost attempt.
    """
    naps = [project.insert("test.nap", {"seconds": 2}) for _ in range(20)]
    guilty = project.insert("test.exit", {"seconds": 1}, max_attempts=2)

    deaths = 0
    while project.row(guilty)["status"] != "failed":
        with pytest.raises(RuntimeError, match="exit status 7"):
            worker.invoke(TICK, seconds=120)
        deaths += 1
        assert deaths <= 7  # for each of two attempts, 21 jobs are halved until one runs alone
        reclaim(project)
    worker.invoke(TICK, seconds=120)

    ended = "select distinct status, attempts, lost_attempts from public.jobs where id = any(%s)"
    assert project.sql(ended, naps) == [{"status": "completed", "attempts": 1, "lost_attempts": 0}]
    row = project.row(guilty)
    assert (row["attempts"], row["lost_attempts"]) == (2, 2)
    assert "stopped reporting" in row["error_message"]
