"""Calls over the official client: what goes out, and what its errors become."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any, Self, cast

import pytest

from minutehand.client import (
    Client,
    InvalidState,
    JobNotFound,
    QueueError,
    QueueUnavailable,
    SyncClient,
    Timing,
    TokenRefused,
)
from minutehand.client.access import Access, Calls
from minutehand.queue import NewJob
from tests.support.official import blocking, official
from tests.support.virtual_time import leaping

JOB = {
    "id": "11111111-0000-4000-8000-000000000001",
    "workspace_id": "w",
    "job_type": "t",
    "status": "pending",
    "created_at": "2026-11-20T00:00:00+00:00",
}


class Server(HTTPServer):
    """Speaks the Data API's format: records requests, answers from a list."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.answers: list[tuple[int, Any]] = []
        self.seen: list[tuple[str, str, dict[str, str], Any]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = json.loads(body) if body else None
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append((self.command, self.path, headers, asked))
        status, answer = self.server.answers.pop(0)
        sent = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    do_GET = do_POST

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


async def test_calls_and_reads_name_the_schema_and_the_bearer(server: Server) -> None:
    """Jobs are where the install put them, whatever schema the client's own tables are in."""
    server.answers = [(200, {"job": JOB, "created": True}), (200, [])]
    async with official(server.url, "sb_publishable_x") as supabase:
        client = Client(supabase, token="jwt")
        await client.enqueue("t", {"n": 1}, workspace_id="w", priority=5)
        await (await client.queue()).events_after("j", 3, limit=2)

    (_, path, posted, body), (_, read, got, _) = server.seen
    assert path == "/rest/v1/rpc/enqueue_job"
    assert posted["content-profile"] == got["accept-profile"] == "minutehand"
    assert posted["authorization"] == got["authorization"] == "Bearer jwt"
    assert body == {
        "p_workspace_id": "w", "p_job_type": "t", "p_payload": {"n": 1},
        "p_options": {"priority": 5},
    }  # fmt: skip
    assert read == (
        "/rest/v1/job_events?select=job_id%2Cseq%2Ctype%2Cdata%2Ccreated_at"
        "&job_id=eq.j&seq=gt.3&order=seq.asc&limit=2"
    )


def test_the_blocking_client_calls_the_same(server: Server) -> None:
    server.answers = [(200, {"job": JOB, "created": False}), (200, {"jobs": [JOB], "next": None})]
    with blocking(server.url, "sb_publishable_x") as supabase:
        client = SyncClient(supabase, schema="public", token="jwt")
        enqueued = client.enqueue("t", workspace_id="w", idempotency_key="k")
        page = client.list_jobs("w", status=["failed"], limit=7)

    assert (enqueued.created, len(page.jobs)) == (False, 1)
    assert [headers["content-profile"] for _, _, headers, _ in server.seen] == ["public"] * 2
    assert server.seen[1][3]["p_limit"] == 7


DONE = {"job": JOB, "created": True}
EXPLAINED = {"job_id": "j", "status": "pending", "reason": "r", "sentence": "s"}


@pytest.mark.parametrize(
    ("call", "function", "asked", "answer"),
    [
        (
            lambda c: c.enqueue("t", {"n": 1}, workspace_id="w", tags=("a",), delay_seconds=5),
            "enqueue_job",
            {
                "p_workspace_id": "w",
                "p_job_type": "t",
                "p_payload": {"n": 1},
                "p_options": {"tags": ["a"], "delay_seconds": 5},
            },
            DONE,
        ),
        (
            lambda c: c.enqueue_many([NewJob(job_type="t", payload=1)], workspace_id="w"),
            "enqueue_jobs",
            {"p_workspace_id": "w", "p_jobs": [{"job_type": "t", "payload": 1}]},
            {"jobs": [DONE]},
        ),
        (lambda c: c.get_job("j"), "get_job", {"p_job_id": "j"}, JOB),
        (
            lambda c: c.list_jobs("w", status=["failed"], search="x", limit=7),
            "list_jobs",
            {
                "p_filter": {"workspace_id": "w", "status": ["failed"], "search": "x"},
                "p_cursor": None,
                "p_limit": 7,
            },
            {"jobs": [JOB], "next": None},
        ),
        (lambda c: c.explain("j"), "explain_job", {"p_job_id": "j"}, EXPLAINED),
        (lambda c: c.cancel("j"), "cancel_job", {"p_job_id": "j"}, JOB),
        (lambda c: c.retry("j"), "retry_job", {"p_job_id": "j"}, JOB),
        (
            lambda c: c.retry("j", payload={"n": 2}),
            "retry_job",
            {"p_job_id": "j", "p_payload": {"n": 2}},
            JOB,
        ),
        (
            lambda c: c.replay("j", from_step="s", payload={"n": 2}, results={"a": 1}),
            "replay_job",
            {
                "p_job_id": "j",
                "p_request": {"from_step": "s", "payload": {"n": 2}, "results": {"a": 1}},
            },
            DONE,
        ),
        (
            lambda c: c.edit("j", payload={"n": 2}),
            "edit_job",
            {"p_job_id": "j", "p_changes": {"payload": {"n": 2}}},
            JOB,
        ),
        (
            lambda c: c.answer("j", "yes"),
            "answer_job",
            {"p_job_id": "j", "p_answer": {"answer": "yes"}},
            JOB,
        ),
    ],
)
async def test_either_client_asks_for_all_that_it_was_given(
    server: Server,
    call: Callable[[Any], Any],
    function: str,
    asked: dict[str, Any],
    answer: Any,
) -> None:
    """An argument that is left behind changes what happens, and no one notices."""
    server.answers = [(200, answer)] * 2
    async with official(server.url, "k") as supabase:
        given = await call(Client(supabase, token="jwt"))
    with blocking(server.url, "k") as supabase:
        assert call(SyncClient(supabase, token="jwt")) == given

    for _, path, headers, body in server.seen:
        assert (path, body) == (f"/rest/v1/rpc/{function}", asked)
        assert headers["authorization"] == "Bearer jwt"


async def test_a_watch_continues_where_an_earlier_one_ended(server: Server) -> None:
    async with official(server.url, "k") as supabase:
        client, timing = Client(supabase), Timing(polling_interval=9)
        job = client.watch_job("j", after=7, timing=timing)
        workspace = client.watch_workspace("w", cursor="c", timing=timing)
        session = client.watch_session("s", cursor="d", timing=timing)

    assert (job.last_seq, workspace.cursor, session.cursor) == (7, "c", "d")
    assert {each._timing for each in (job, workspace, session)} == {timing}
    assert server.seen == []


def test_the_blocking_client_has_all_but_what_follows() -> None:
    """`queue` gives coroutines, and a watch needs a loop."""

    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    only_async = {"queue", "watch_job", "watch_session", "watch_workspace"}
    assert public(SyncClient) == public(Client) - only_async


@pytest.mark.parametrize(
    ("status", "answer", "error"),
    [
        (404, {"code": "PT404", "hint": "job_not_found", "message": "no such job"}, JobNotFound),
        (409, {"code": "PT409", "hint": "invalid_state", "message": "ended"}, InvalidState),
        (422, {"code": "PT422", "hint": "payload_invalid", "message": "no"}, QueueError),
        (401, {"code": "PGRST303", "message": "JWT expired"}, TokenRefused),
        (500, {"code": "57014", "message": "statement timeout"}, QueueUnavailable),
        (502, "<html>a gateway's page</html>", QueueUnavailable),
        (401, "<html>a gateway's page</html>", TokenRefused),
    ],
)
async def test_a_refusal_becomes_the_queue_s_own_error(
    server: Server, status: int, answer: Any, error: type[QueueError]
) -> None:
    server.answers = [(status, answer)] * 3
    async with official(server.url, "k") as supabase:
        with pytest.raises(error) as raised:
            await Client(supabase, token="jwt").cancel("j")

    assert type(raised.value) is error
    assert (raised.value.status == 401) is (error is TokenRefused)
    assert len(server.seen) == (3 if error is QueueUnavailable else 1)


async def test_an_enqueue_without_a_key_is_not_repeated(server: Server) -> None:
    """It may have been stored although nothing was answered."""
    server.answers = [(502, "gone")]
    async with official(server.url, "k") as supabase:
        with pytest.raises(QueueUnavailable):
            await Client(supabase, token="jwt").enqueue("t", workspace_id="w")

    assert len(server.seen) == 1


def test_a_refused_connection_is_unavailable() -> None:
    """And nothing can have happened: what has an effect may be repeated, too."""
    with (
        blocking("http://127.0.0.1:1", "k") as supabase,
        pytest.raises(QueueUnavailable, match="did not answer") as raised,
    ):
        SyncClient(supabase).get_job("j")

    assert raised.value.unsent


async def test_a_read_that_its_caller_repeats_is_made_once(server: Server) -> None:
    """A watch has its own pauses: three reads for one would come when a project is down."""
    server.answers = [(503, "busy")] * 9
    async with official(server.url, "k") as supabase:
        access = Access(supabase, schema="public", token="jwt")
        for read_once in (True, False):
            queue = await access.user(read_once=read_once)
            with pytest.raises(QueueUnavailable):
                await queue.events_after("j")

    assert len(server.seen) == 1 + 3


class Silent:
    """A query of the library that is never answered."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.request = self

    def schema(self, *_: object) -> Self:
        return self

    rpc = retry = schema

    async def execute(self) -> None:
        await asyncio.Event().wait()


def test_a_call_without_an_answer_is_given_up() -> None:
    """The library would wait for minutes, and a watch with it."""

    async def story() -> float:
        calls = Calls(cast("Any", Silent()), "public", attempts=1)
        with pytest.raises(QueueUnavailable, match="did not answer"):
            await calls.rpc("get_job", {}, headers={}, repeatable=True)
        return asyncio.get_running_loop().time()

    assert leaping(story()) == 10
