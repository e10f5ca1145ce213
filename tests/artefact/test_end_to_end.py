"""The packaged functions under Lambda's rules against the whole local stack.

Accepted, woken, run, seen live, read back; by the schedule alone; killed; failed and kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect

from minutehand.deploy.bundles import BUNDLES
from minutehand.deploy.package import TEMPLATE
from minutehand.local import aws
from minutehand.local.lambda_functions import read_dotenv
from supabase_local.lambda_runtime import (
    Function,
    Invocation,
    LambdaRuntime,
    TooManyRequests,
)
from supabase_local.lambda_runtime.template import read_service
from tests.artefact.conftest import Package
from tests.artefact.stack import FUNCTIONS, Stack
from tests.support.paths import ROOT
from tests.support.stacks import end, launch, wait_ready

pytestmark = pytest.mark.stack
BUNDLE_OF = {name: bundle.name for bundle in BUNDLES for name in bundle.functions}
ENDED = {"completed", "failed", "cancelled"}


class Local:
    """The running stack: its addresses, and what it printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.values = read_dotenv(folder / "env")

    def functions_log(self) -> list[dict[str, Any]]:
        """What the functions and the platform wrote, parsed."""
        text = (self.folder / "logs" / "api.log").read_text("utf-8")
        parsed = []
        for line in text.splitlines():
            with contextlib.suppress(ValueError):
                parsed.append(json.loads(line))
        return [line for line in parsed if isinstance(line, dict)]

    async def logged(self, wanted: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The newest such line: a report follows the answer, and the log what it reports."""
        async with asyncio.timeout(120):
            while not (found := [n for n in self.functions_log() if wanted(n)]):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        return found[-1]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, host_package: Package) -> Iterator[Local]:
    """The stack, with the packaged functions in place of the ASGI process."""
    for bundle in BUNDLES:
        host_package.unzipped(bundle.name)
    folder = tmp_path_factory.mktemp("stack")
    launcher = launch(folder, "--no-demo", "--lambda", str(host_package.trees))
    try:
        wait_ready(folder, launcher)
        yield Local(folder)
    finally:
        end(folder, launcher)


class Ada:
    """A signed-in manager: the API, the Data API, her token."""

    def __init__(self, local: Local, api: httpx.AsyncClient, data: httpx.AsyncClient) -> None:
        self.local, self.api, self.data = local, api, data
        self.workspace = local.values["DEMO_WORKSPACE_ID"]
        self.token = ""

    async def sign_in(self) -> None:
        key = self.local.values["SUPABASE_PUBLISHABLE_KEY"]
        answer = await self.data.post(
            "/auth/v1/token?grant_type=password",
            headers={"apikey": key},
            json={
                "email": self.local.values["DEMO_EMAIL"],
                "password": self.local.values["DEMO_PASSWORD"],
            },
        )
        self.token = answer.json()["access_token"]
        for client in (self.api, self.data):
            client.headers["authorization"] = f"Bearer {self.token}"
        self.data.headers["apikey"] = key

    async def account(self) -> str:
        rows = await self.data.get(
            "/rest/v1/accounts", params={"select": "id", "workspace_id": f"eq.{self.workspace}"}
        )
        return str(rows.json()[0]["id"])

    async def job(self, job_id: str) -> dict[str, Any]:
        answer = await self.api.get(f"/api/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    async def enqueued(self, domain: str) -> str:
        """A job put into the queue past the API, so that nobody wakes a worker for it."""
        answer = await self.data.post(
            "/rest/v1/rpc/enqueue_job",
            json={
                "p_workspace_id": self.workspace,
                "p_job_type": "enrich_account",
                "p_payload": {"account_id": await self.account(), "domain": domain},
            },
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["job"]["id"])

    async def row(self, job_id: str) -> dict[str, Any]:
        """A job as the Data API shows it, which needs no function to be awake."""
        answer = await self.data.get("/rest/v1/jobs", params={"id": f"eq.{job_id}"})
        [row] = answer.json()
        return dict(row)

    async def ended(self, job_id: str, *, seconds: float = 180) -> dict[str, Any]:
        async with asyncio.timeout(seconds):
            while (job := await self.job(job_id))["status"] not in ENDED:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        return job


@pytest_asyncio.fixture
async def ada(local: Local) -> AsyncIterator[Ada]:
    async with (
        httpx.AsyncClient(base_url=local.values["API_URL"], timeout=60) as api,
        httpx.AsyncClient(base_url=local.values["SUPABASE_URL"], timeout=60) as data,
    ):
        person = Ada(local, api, data)
        await person.sign_in()
        yield person


async def joined(ada: Ada, topic: str) -> ClientConnection:
    """A socket on a private topic, as supabase-js joins it."""
    values = ada.local.values
    socket = await connect(
        f"{values['REALTIME_URL']}/websocket?apikey={values['SUPABASE_PUBLISHABLE_KEY']}&vsn=1.0.0"
    )
    await socket.send(
        json.dumps(
            {
                "topic": f"realtime:{topic}",
                "event": "phx_join",
                "ref": "1",
                "join_ref": "1",
                "payload": {
                    "config": {"private": True, "broadcast": {}, "presence": {}},
                    "access_token": ada.token,
                },
            }
        )
    )
    async with asyncio.timeout(60):
        while True:
            message = json.loads(await socket.recv())
            if message["event"] == "phx_reply" and message["ref"] == "1":
                assert message["payload"]["status"] == "ok", message
                return socket


async def statuses(socket: ClientConnection, job_id: str) -> list[str]:
    """The event types of a job on a workspace's topic, until it has ended."""
    seen: list[str] = []
    async with asyncio.timeout(180):
        while not seen or seen[-1].removeprefix("job.") not in ENDED:
            message = json.loads(await socket.recv())
            if message["event"] == "broadcast":
                inner = message["payload"]
                if inner["payload"]["job_id"] == job_id:
                    seen.append(inner["event"])
    return seen


async def test_created_woken_run_seen_live_and_read_back(local: Local, ada: Ada) -> None:
    """The product in one test: the zip, Lambda's rules, Postgres, Realtime."""
    account = await ada.account()
    socket = await joined(ada, f"workspace:{ada.workspace}")

    created = await ada.api.post(
        "/api/jobs",
        json={
            "workspace_id": ada.workspace,
            "job_type": "enrich_account",
            "payload": {"account_id": account, "domain": "example.com"},
        },
        headers={"idempotency-key": f"e2e-{uuid.uuid4()}"},
    )
    assert created.status_code == 201, created.text
    job_id = created.json()["id"]
    seen = await statuses(socket, job_id)
    job = await ada.ended(job_id)
    events = (await ada.api.get(f"/api/jobs/{job_id}/events")).json()["events"]
    await socket.close()

    assert (job["status"], job["attempts"]) == ("completed", 1)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert {"job.leased", "job.completed"} <= set(seen)
    # fails by its time where there is none
    await local.logged(
        lambda line: (
            line.get("type") == "platform.report"
            and line["record"]["metrics"].get("initDurationMs")
        )
    )


async def test_the_schedules_event_runs_what_no_wake_up_announced(local: Local, ada: Ada) -> None:
    """A job inserted past the API waits for the minute tick, and for nothing else."""
    job_id = await ada.enqueued("example.org")

    client = boto3.client(
        "lambda", endpoint_url=local.values["API_URL"], region_name="us-east-1",
        aws_access_key_id="test", aws_secret_access_key="test",
    )  # fmt: skip
    event = {"source": "minutehand.tick", "scheduled_at": "2026-01-01T00:00:00Z"}
    accepted = await asyncio.to_thread(
        client.invoke,
        FunctionName="minutehand-dev-worker",
        InvocationType="Event",
        Payload=json.dumps(event),
    )
    job = await ada.ended(job_id)
    client.close()

    assert accepted["StatusCode"] == 202
    assert (job["status"], job["attempts"]) == ("completed", 1)
    # without it the alarm on the oldest due job would sleep for ever
    written = await local.logged(lambda line: "OldestDueSeconds" in line)
    assert written["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "Minutehand"


async def test_the_deadline_kills_a_worker_and_its_job_is_not_lost(
    local: Local, ada: Ada, stacks: dict[str, Stack], host_package: Package, runtime_site: Path
) -> None:
    """A worker that hangs is killed without `finally`; meanwhile the cap throttles the next one."""
    service = packaged(stacks["dev"], host_package, runtime_site, local.values)
    [worker] = [f for f in service.functions if f.name.endswith("worker")]
    function = Function(replace(worker, timeout=10, max_concurrency=1))
    tick = Invocation(b'{"source":"minutehand.tick"}')
    left: dict[str, Any] = {}
    throttled = False
    try:
        # the stack's own minute tick may be first, or the job may end before the freeze: once more
        for _ in range(10):
            job_id = await ada.enqueued("example.net")
            running = asyncio.create_task(function.invoke(tick))
            while not running.done() and (await ada.row(job_id))["status"] == "pending":  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            if not running.done():
                [environment] = function.environments
                assert environment.pid is not None
                os.killpg(environment.pid, signal.SIGSTOP)  # hangs as a blocked loop would
                try:
                    await function.invoke(tick)
                except TooManyRequests:
                    throttled = True
            outcome = await running
            left = await ada.row(job_id)
            if left["status"] == "processing" and outcome.error is not None:
                break
    finally:
        await function.stop()

    assert throttled
    assert outcome.error == "Sandbox.Timedout"
    assert "Task timed out after 10.00 seconds" in outcome.json()["errorMessage"]
    # its lease still holds; the database's clock alone gives it back
    assert (left["status"], left["attempts"]) == ("processing", 1)


async def test_a_failed_asynchronous_invoke_is_kept_in_its_queue(
    local: Local, stacks: dict[str, Stack], host_package: Package, runtime_site: Path
) -> None:
    """With the database away the tick fails, and the on-call person finds event and error."""
    away = {**local.values, "SUPABASE_URL": "http://127.0.0.1:9"}
    service = packaged(stacks["dev"], host_package, runtime_site, away)
    functions = [f for f in service.functions if f.name.endswith("worker")]
    event = {"source": "minutehand.tick", "scheduled_at": "2026-01-01T00:00:00Z"}
    endpoint = local.values["AWS_ENDPOINT_URL"]
    async with LambdaRuntime(functions, sqs=lambda: aws.client("sqs", endpoint)) as runtime:
        [function] = runtime.functions.values()
        runtime.queue.accept(function, Invocation(json.dumps(event).encode()))
        async with asyncio.timeout(300):
            await runtime.queue.drain()
    sqs = aws.client("sqs", endpoint)
    url = sqs.get_queue_url(QueueName="minutehand-dev-worker-failures")["QueueUrl"]
    record: dict[str, Any] = {}
    while record.get("requestPayload") != event:  # the stack's own worker may be throttled too
        answer = await asyncio.to_thread(sqs.receive_message, QueueUrl=url, WaitTimeSeconds=20)
        [message] = answer["Messages"]
        record = json.loads(message["Body"])
    sqs.close()

    assert record["requestContext"]["approximateInvokeCount"] == 1
    assert record["responsePayload"]["errorType"]


async def test_the_command_follows_a_job_through_a_buffering_gateway(
    local: Local, ada: Ada
) -> None:
    """HTTP API collects each answer whole; the cursor makes many short answers one stream."""
    payload = json.dumps({"account_id": await ada.account(), "domain": "example.com"})
    done = await asyncio.to_thread(
        subprocess.run,
        [
            sys.executable, "-m", "minutehand.cli", "enqueue", "enrich_account", payload, "--watch",
            "--json", "--env-file", str(local.folder / "env"),
        ],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    events = [json.loads(line) for line in done.stdout.splitlines()]

    assert done.returncode == 0, done.stderr
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "job.completed"


async def test_no_secret_reaches_a_log(local: Local, ada: Ada) -> None:
    """Logs are read by more people than secrets are."""
    refused = await ada.api.post(
        "/api/jobs/worker", headers={"authorization": "Bearer not-the-token-at-all"}
    )
    assert refused.status_code == 401
    text = "".join(path.read_text("utf-8") for path in (local.folder / "logs").glob("*.log"))
    names = (
        "SUPABASE_SECRET_KEY", "SUPABASE_JWT_SECRET", "WORKER_SECRET_TOKEN", "BACKGROUND_JOB_TOKEN",
        "DEMO_PASSWORD",
    )  # fmt: skip
    secrets = {name: local.values[name] for name in names}

    assert len(text) > 1000
    assert [name for name, value in secrets.items() if value in text] == []
    assert ada.token not in text
    assert "not-the-token-at-all" not in text


def packaged(stack: Stack, package: Package, site: Path, values: dict[str, str]) -> Any:
    """The packaged functions with the secrets of the running stack, without its SSM."""
    names = (
        "SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_JWT_SECRET", "WORKER_SECRET_TOKEN",
        "BACKGROUND_JOB_TOKEN", "AWS_ENDPOINT_URL", "USE_MOCK_APOLLO", "SEALING_KEY_FILE",
        "UPLOADS_BUCKET", "MINUTEHAND_APPS",
    )  # fmt: skip
    variables = {name: values[name] for name in names}
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    return read_service(
        stack.folder / TEMPLATE,
        task_roots={name: package.unzipped(BUNDLE_OF[name]) for name in FUNCTIONS},
        variables={**variables, **keys},
        isolated=True,
        python_path=(site,),
    )
