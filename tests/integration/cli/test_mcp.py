"""`minutehand mcp` by the official client: as oneself over stdio, as each caller over HTTP."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import httpx
import httpx2
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ElicitResult

from minutehand.cli.agent import build
from minutehand.cli.agent_reads import KEYLESS, Access
from minutehand.cli.bounded import MOST_BYTES
from minutehand.local.ports import reserve_port
from minutehand.local.users import ADA, EVE
from minutehand.terminal.connection import Connection
from tests.e2e.console.worker import HandWorker
from tests.support.paths import ROOT
from tests.support.stacks import RunningStack

#: A client of before 2026-07-28, whom the server asks, and one that is told to come back.
MODES = ["legacy", "auto"]


@pytest.fixture
def failed(worker: HandWorker) -> str:
    """A job that failed; gives its id."""
    job_id = worker.enqueue({"month": "2026-10"})
    lease = worker.lease_soon()
    worker.report(lease, 40, "reading the ledger")
    worker.settle(lease, "failed", error={"type": "ValueError", "message": "no such month"})
    return job_id


@asynccontextmanager
async def over_stdio(stack: RunningStack, **options: Any) -> AsyncIterator[Client]:
    """The command as a client starts it, signed in as the stack's own member."""
    command = ["-m", "minutehand.cli", "mcp", "--env-file", str(stack.folder / "env")]
    path = {"PYTHONPATH": str(ROOT / "shared")}
    server = StdioServerParameters(command=sys.executable, args=command, cwd=ROOT, env=path)
    async with Client(server, **options) as client:
        yield client


def accepts(host: str, port: int) -> bool:
    """Whether a connection is taken there."""
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


@pytest.fixture(scope="module")
def address(stack: RunningStack) -> Iterator[str]:
    """The command over HTTP, started where every key of the stack lies about."""
    port = reserve_port()
    command = ["mcp", "--http", "--port", str(port), "--env-file", str(stack.folder / "env")]
    with subprocess.Popen(
        [sys.executable, "-m", "minutehand.cli", *command],
        env={**os.environ, **stack.values},
        stderr=subprocess.DEVNULL,
    ) as running:
        give_up = time.monotonic() + 60
        while not accepts("127.0.0.1", port):
            assert running.poll() is None, running.returncode
            assert time.monotonic() < give_up
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/mcp"
        running.terminate()


@asynccontextmanager
async def in_process(stack: RunningStack, token: str | None = None) -> AsyncIterator[Client]:
    """The same tools without a process between, for what does not depend on it."""
    connection = Connection(stack.values, _token=token)
    access = Access(lambda _: nullcontext(connection), stack.values)
    try:
        async with Client(build(access)) as client:
            yield client
    finally:
        connection.close()


@asynccontextmanager
async def over_http(address: str, token: str, **options: Any) -> AsyncIterator[Client]:
    """A client that sends a token with each request."""
    headers = {"authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(address, http_client=http), **options) as client,
    ):
        yield client


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    """A tool's structured answer, which is small."""
    result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    assert not result.is_error, result.content
    told = result.structured_content
    assert told is not None
    assert len(json.dumps(told, ensure_ascii=False).encode()) <= MOST_BYTES
    return told


async def listed(client: Client, **filters: Any) -> list[str]:
    """The ids of every page: a search ends one by its time as well."""
    ids: list[str] = []
    cursor = None
    while True:
        page = await call(client, "list", cursor=cursor, **filters)
        ids += [job["id"] for job in page["jobs"]]
        if (cursor := page["next_cursor"]) is None:
            return ids


async def refusal(client: Client, tool: str, **arguments: Any) -> str:
    """What a refused tool says."""
    result = await client.call_tool(tool, arguments)
    assert isinstance(result, CallToolResult)
    assert result.is_error
    return result.content[0].text  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", MODES)
async def test_an_agent_finds_a_failure_and_its_person_is_asked(
    stack: RunningStack, worker: HandWorker, failed: str, mode: str
) -> None:
    """From the list to the cause by itself; what changes the job goes by a person."""
    asked: list[str] = []
    answers = [
        ElicitResult(action="decline"),
        ElicitResult(action="accept", content={"approve": True}),
    ]

    async def ask(_: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return answers.pop(0)

    async with over_stdio(stack, elicitation_callback=ask, mode=mode) as client:
        tools = {tool.name: tool.annotations for tool in (await client.list_tools()).tools}
        [found] = (await call(client, "list", job_type=worker.job_type, state=["failed"]))["jobs"]
        shown = await call(client, "show", job_id=failed[-8:])
        explained = await call(client, "explain", job_id=failed)
        lines = (await call(client, "logs", job_id=failed))["lines"]
        rows = (await call(client, "trace", job_id=failed))["rows"]
        [kind] = [
            each
            for each in (await call(client, "types"))["types"]
            if each["job_type"] == worker.job_type
        ]
        declined = await call(client, "retry", job_id=failed, payload={"month": "2026-11"})
        before = await call(client, "show", job_id=failed)
        approved = await call(client, "retry", job_id=failed, payload={"month": "2026-11"})

    assert {name for name, told in tools.items() if told and told.read_only_hint} == {
        "list", "show", "explain", "trace", "logs", "types", "doctor",
    }  # fmt: skip
    changing = {name for name, told in tools.items() if told and told.destructive_hint}
    assert (changing, set(tools) - changing >= {"enqueue"}) == ({"retry", "replay", "cancel"}, True)
    assert (found["id"], found["state"]) == (failed, "failed")
    assert "no such month" in found["error"]
    assert shown["payload"] == {"month": "2026-10"}
    assert explained["sentence"]
    assert [line["message"] for line in lines] == ["reading the ledger"]
    assert rows[0]["name"] == worker.job_type
    assert kind["served"] is True
    assert (declined["done"], before["state"]) == (False, "failed")
    assert (approved["done"], approved["job"]["state"]) == (True, "queued")
    assert len(asked) == 2
    assert failed in asked[0]
    assert "2026-11" in asked[0]


async def test_where_no_person_can_be_asked_a_preview_comes_first(
    stack: RunningStack, failed: str
) -> None:
    """Its word holds for this change to this job as it is, and makes one job."""
    async with in_process(stack) as client:
        planned = await call(client, "replay", job_id=failed, payload={"month": "2026-11"})
        other = await call(
            client, "replay", job_id=failed, payload={"month": "x"}, confirm=planned["confirm"]
        )
        again = {"job_id": failed, "payload": {"month": "2026-11"}, "confirm": planned["confirm"]}
        made = await call(client, "replay", **again)
        twice = await call(client, "replay", **again)
        wanted = await call(client, "replay", job_id=failed, payload={"month": "2026-11"})
        second = await call(client, "replay", **{**again, "confirm": wanted["confirm"]})
        odd = await call(client, "cancel", job_id=second["job"]["id"], confirm="ü")
        ended = await call(client, "cancel", job_id=made["job"]["id"])
        gone = await call(client, "cancel", job_id=made["job"]["id"], confirm=ended["confirm"])

    assert (planned["done"], planned["preview"]["id"]) == (False, failed)
    assert planned["preview"]["new_payload"] == {"month": "2026-11"}
    assert (other["done"], other["confirm"] != planned["confirm"]) == (False, True)
    assert (made["done"], made["job"]["id"] != failed) == (True, True)
    assert twice["job"]["id"] == made["job"]["id"]
    assert second["job"]["id"] not in {failed, made["job"]["id"]}
    assert odd["done"] is False
    assert (ended["done"], gone["job"]["state"]) == (False, "cancelled")


async def test_answers_are_small_say_what_is_cut_and_hold_no_secret(
    stack: RunningStack, worker: HandWorker
) -> None:
    """An agent's window is not filled by one payload; nor by a stranger's key."""
    text = "".join(f'line {n}: “ß” "quoted"\n' for n in range(400))
    rows = [{"n": n, "text": text[:300], "api_key": f"plain{n}"} for n in range(60)]
    job_id = worker.enqueue({"rows": rows, "long": text, "note": "Bearer abcdefgh12345678"})
    lease = worker.lease_soon()
    worker.report(lease, 5, *(f"{n} {'x' * 900} token=abcdefgh12345678" for n in range(20)))
    ids = set(worker.enqueue_many([{"payload": {"note": "ü" * 90}} for _ in range(30)]))

    async with in_process(stack) as client:
        shown = await call(client, "show", job_id=job_id)
        tries = await call(client, "show", job_id=job_id, part="attempts")
        whole, offset = "", 0
        while offset is not None:
            part = await call(client, "show", job_id=job_id, part="payload", offset=offset)
            whole, offset = whole + part["json"], part["next_offset"]
        lines, cursor = [], None
        while True:
            page = await call(client, "logs", job_id=job_id, cursor=cursor)
            lines += page["lines"]
            if (cursor := page["next_cursor"]) is None:
                break
        seen = await listed(client, job_type=worker.job_type, limit=7)

    told = json.dumps([shown, whole, lines])
    assert [each["worker_id"] for each in json.loads(tries["json"])] == ["by-hand"]
    assert "(truncated: " in json.dumps(shown)
    payload = json.loads(whole)
    assert (len(payload["rows"]), payload["long"]) == (60, text)
    assert payload["rows"][7] == {**rows[7], "api_key": "[hidden]"}
    assert [int(line["message"].split()[0]) for line in lines] == list(reversed(range(20)))
    assert "abcdefgh12345678" not in told
    assert sorted(seen) == sorted({*ids, job_id})


async def test_over_http_a_caller_has_the_rights_of_its_own_token_alone(
    stack: RunningStack, address: str, worker: HandWorker, failed: str
) -> None:
    """The server holds every key of the project; none of them serves a caller."""
    new = {"job_type": worker.job_type, "payload": {}, "workspace": stack.demo_workspace_id}
    async with over_http(address, stack.sign_in(ADA.email)) as ada:
        mine = await listed(ada, search=failed, job_type=worker.job_type)
        made = await call(ada, "enqueue", **new)
        checks = await call(ada, "doctor")
        unknown = await refusal(ada, "doctor", only=["migrations"])
    async with over_http(address, stack.sign_in(EVE.email)) as eve:
        others = await listed(eve, search=failed)
        answers = [
            await refusal(eve, tool, job_id=failed)
            for tool in ("show", "explain", "trace", "logs", "retry", "replay", "cancel")
        ]
        refused = await refusal(eve, "enqueue", **new)
    async with over_http(address, "not.a.token") as nobody:
        unsigned = await refusal(nobody, "list")

    assert mine == [failed]
    assert made["job"]["state"] == "queued"
    assert {finding["check"] for finding in checks["findings"]} == KEYLESS
    assert [each for each in checks["findings"] if each["verdict"] != "ok"] == []
    assert "unknown check migrations" in unknown
    assert others == []
    assert [said for said in answers if "job_not_found" not in said] == []
    assert "workspace_not_found" in refused
    assert "unauthorized" in unsigned


@pytest.mark.parametrize("mode", MODES)
async def test_over_http_a_change_is_asked_for_too(
    stack: RunningStack, address: str, failed: str, mode: str
) -> None:
    """Without a session an earlier client cannot be asked: it gets the preview."""

    async def ask(_: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"approve": True})

    token = stack.sign_in(ADA.email)
    async with over_http(address, token, elicitation_callback=ask, mode=mode) as client:
        told = await call(client, "retry", job_id=failed)
        if mode == "legacy":
            assert told["preview"]["id"] == failed
            told = await call(client, "retry", job_id=failed, confirm=told["confirm"])

    assert (told["done"], told["job"]["state"]) == (True, "queued")


def test_over_http_only_this_machine_and_its_own_pages_are_answered(
    stack: RunningStack, address: str
) -> None:
    """A page of another origin, a name that was pointed here, a request without a token."""
    token = {"authorization": f"Bearer {stack.sign_in(ADA.email)}"}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    as_json = {"accept": "application/json, text/event-stream"}

    def status(**headers: str) -> int:
        return httpx.post(address, json=body, headers={**as_json, **headers}).status_code

    assert status(**token) == 200
    assert status(**token, origin="https://evil.example") == 403
    assert status(**token, host="evil.example") == 421
    assert status() == status(authorization="Basic YTpi") == 401
    assert not accepts("127.0.0.2", httpx.URL(address).port or 0)


async def test_doctor_names_faults_and_writes_nothing(
    stack: RunningStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the command's checks but the one that enqueues a job."""
    async with in_process(stack) as client:
        told = await call(client, "doctor", only=["migrations", "api"])
        proof = await refusal(client, "doctor", only=["proof"])
        monkeypatch.setitem(sys.modules, "minutehand.cli.doctor.findings", None)
        driverless = await refusal(client, "doctor")

    assert [each["check"] for each in told["findings"]] == ["migrations", "api"]
    assert "unknown check proof" in proof
    assert 'pip install "minutehand[dev]"' in driverless


async def test_a_server_outlives_the_token_that_it_signed_in_for(stack: RunningStack) -> None:
    """An agent's session lasts a day, a token an hour."""
    async with in_process(stack, stack.token(str(ADA.id), expires_in=-60)) as client:
        told = await call(client, "list", limit=1)

    assert "next_cursor" in told


def test_without_the_extra_the_command_names_it() -> None:
    """Before anything is asked of the stack."""
    script = (
        "import sys; sys.modules['mcp'] = None; sys.argv = ['minutehand', 'mcp']\n"
        "from minutehand.cli.entry import run; run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert (done.returncode, 'pip install "minutehand[mcp]"' in done.stderr) == (1, True)
