"""What members' calls ask of the database, and which may be asked again when no answer came."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from minutehand.queue.broadcasts import MESSAGE_VERSION
from minutehand.queue.client import DERIVED, JOB_COLUMNS, UserQueue
from minutehand.queue.models import Cursor, EnqueueOptions, JobLog, NewJob

AT = datetime(2026, 1, 1, tzinfo=UTC)
ID = UUID(int=7)
CURSOR = Cursor(created_at=AT.isoformat(), id=str(ID))
KEYED = EnqueueOptions(idempotency_key="k")


class Asked(Exception):
    """Stops a call where it leaves."""


class Wire:
    """Keeps what is asked, and answers nothing."""

    def __init__(self, error: Exception | None = None, *, answer: Any = None) -> None:
        self.error = error or Asked()
        self.answer = answer
        self.calls: list[tuple[str, Mapping[str, Any], bool]] = []
        self.reads: list[tuple[str, Sequence[tuple[str, str]]]] = []

    async def rpc(
        self,
        function: str,
        arguments: Mapping[str, Any],
        *,
        headers: Mapping[str, str],
        repeatable: bool,
    ) -> Any:
        assert headers == {"apikey": "k"}
        self.calls.append((function, arguments, repeatable))
        if self.answer is not None:
            return self.answer
        raise self.error

    async def select(
        self, table: str, params: Sequence[tuple[str, str]], *, headers: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        assert headers == {"apikey": "k"}
        self.reads.append((table, params))
        if self.answer is not None:
            return list(self.answer)
        raise self.error


async def asked(call: Callable[[UserQueue], Any], wire: Wire | None = None) -> Wire:
    wire = wire or Wire()
    with pytest.raises(type(wire.error)):
        await call(UserQueue(wire, {"apikey": "k"}))
    return wire


@pytest.mark.parametrize(
    ("call", "function", "repeatable"),
    [
        (lambda q: q.enqueue("w", "t"), "enqueue_job", False),
        (lambda q: q.enqueue("w", "t", options=KEYED), "enqueue_job", True),
        (lambda q: q.enqueue_many("w", [NewJob(job_type="t", options=KEYED)] * 2),
         "enqueue_jobs", True),
        (lambda q: q.enqueue_many(
            "w", [NewJob(job_type="t", options=KEYED), NewJob(job_type="t")]
         ), "enqueue_jobs", False),
        (lambda q: q.answer("j", 1), "answer_job", False),
        (lambda q: q.emit_event("w", "e"), "emit_event", False),
        (lambda q: q.open_guest_session("w"), "open_guest_session", False),
        (lambda q: q.close_guest_session("s"), "close_guest_session", False),
        (lambda q: q.open_stream(), "open_stream", False),
        (lambda q: q.replay("j"), "replay_job", False),
        (lambda q: q.replay("j", idempotency_key="k"), "replay_job", True),
        (lambda q: q.cancel("j"), "cancel_job", True),
        (lambda q: q.retry("j"), "retry_job", True),
        (lambda q: q.edit("j", payload=1), "edit_job", True),
        (lambda q: q.get_job("j"), "get_job", True),
    ],
)  # fmt: skip
async def test_what_would_happen_twice_is_not_asked_for_again(
    call: Callable[[UserQueue], Any], function: str, repeatable: bool
) -> None:
    """A repeated answer would meet the next question, a repeated event the next wait."""
    [(name, _, may_repeat)] = (await asked(call)).calls

    assert (name, may_repeat) == (function, repeatable)


@pytest.mark.parametrize(
    ("call", "function", "arguments"),
    [
        (
            lambda q: q.enqueue("w", "t"),
            "enqueue_job",
            {"p_workspace_id": "w", "p_job_type": "t", "p_payload": {}, "p_options": {}},
        ),
        (
            lambda q: q.enqueue("w", "t", 0, options=KEYED),
            "enqueue_job",
            {
                "p_workspace_id": "w", "p_job_type": "t", "p_payload": 0,
                "p_options": {"idempotency_key": "k"},
            },
        ),
        (
            lambda q: q.enqueue_many("w", [NewJob(job_type="t", payload={"n": 1})]),
            "enqueue_jobs",
            {"p_workspace_id": "w", "p_jobs": [{"job_type": "t", "payload": {"n": 1}}]},
        ),
        (
            lambda q: q.sort_jobs({}, by="run_ms"),
            "sort_jobs",
            {
                "p_filter": {}, "p_by": "run_ms", "p_descending": True, "p_limit": 50,
                "p_offset": 0,
            },
        ),
        (
            lambda q: q.search_logs("w", {}),
            "search_logs",
            {"p_workspace_id": "w", "p_filter": {}, "p_before": None, "p_limit": 100},
        ),
        (
            lambda q: q.workspace_feed("w"),
            "event_feed",
            {"p_workspace_id": "w", "p_cursor": None, "p_limit": 500},
        ),
        (lambda q: q.job_types(), "list_job_types", {"p_workspace_id": None, "p_internal": False}),
        (
            lambda q: q.job_type("t", "w"),
            "get_job_type",
            {"p_job_type": "t", "p_workspace_id": "w"},
        ),
        (
            lambda q: q.open_guest_session("w"),
            "open_guest_session",
            {"p_workspace_id": "w", "p_options": {}},
        ),
        (
            lambda q: q.close_guest_session("s"),
            "close_guest_session",
            {"p_session_id": "s"},
        ),
        (
            lambda q: q.counts("w", {"queue": "q"}),
            "count_jobs",
            {"p_workspace_id": "w", "p_filter": {"queue": "q"}},
        ),
        *(
            (call, function, {"p_job_id": "j"})
            for call, function in (
                (lambda q: q.get_job("j"), "get_job"),
                (lambda q: q.explain("j"), "explain_job"),
                (lambda q: q.attempts("j"), "job_attempts"),
                (lambda q: q.trace("j"), "job_trace"),
                (lambda q: q.cancel("j"), "cancel_job"),
                (lambda q: q.replays("j"), "job_replays"),
            )
        ),
        (lambda q: q.steps("j"), "job_steps", {"p_job_id": "j", "p_after": None}),
        (lambda q: q.artefacts("j", key="k"), "job_artefacts", {"p_job_id": "j", "p_key": "k"}),
        (lambda q: q.open_stream(), "open_stream", {}),
        (lambda q: q.replay("j"), "replay_job", {"p_job_id": "j", "p_request": {}}),
        (
            lambda q: q.edit("j", payload=None),
            "edit_job",
            {"p_job_id": "j", "p_changes": {"payload": None}},
        ),
        (
            lambda q: q.answer("j", "yes"),
            "answer_job",
            {"p_job_id": "j", "p_answer": {"answer": "yes"}},
        ),
        (
            lambda q: q.emit_event("w", "e", 0),
            "emit_event",
            {"p_workspace_id": "w", "p_name": "e", "p_payload": 0},
        ),
        (lambda q: q.stats(), "queue_stats", {"p_workspace_id": None, "p_minutes": 60}),
        (
            lambda q: q.list_jobs(
                "w", status=["failed", "failed"], job_type="t", queue="q", session_id="s",
                parent_id="p", created_after=AT, created_before=AT, search="x",
                id_prefix="abcdef", more={"tag": "a", "state": None}, cursor=CURSOR.encode(),
                limit=9,
            ),
            "list_jobs",
            {
                "p_filter": {
                    "workspace_id": "w", "status": ["failed"], "job_type": "t", "queue": "q",
                    "session_id": "s", "parent_id": "p",
                    "created_after": AT.isoformat(), "created_before": AT.isoformat(),
                    "search": "x", "id_prefix": "abcdef", "tag": "a",
                },
                "p_cursor": CURSOR.model_dump(), "p_limit": 9,
            },
        ),
        (
            lambda q: q.list_jobs(more={"queue": "q"}),
            "list_jobs",
            {"p_filter": {"queue": "q"}, "p_cursor": None, "p_limit": 50},
        ),
        (
            lambda q: q.sort_jobs(
                {"tag": "a", "queue": None}, by="run_ms", descending=False, limit=3, offset=6
            ),
            "sort_jobs",
            {
                "p_filter": {"tag": "a"}, "p_by": "run_ms", "p_descending": False,
                "p_limit": 3, "p_offset": 6,
            },
        ),
        (
            lambda q: q.search_logs("w", {"level": "error", "search": None}, before=5, limit=2),
            "search_logs",
            {
                "p_workspace_id": "w", "p_filter": {"level": "error"}, "p_before": 5,
                "p_limit": 2,
            },
        ),
        (
            lambda q: q.job_types("w", internal=True),
            "list_job_types",
            {"p_workspace_id": "w", "p_internal": True},
        ),
        (
            lambda q: q.workspace_feed("w", "c", limit=3),
            "event_feed",
            {"p_workspace_id": "w", "p_cursor": "c", "p_limit": 3},
        ),
        (
            lambda q: q.session_feed("s", "c"),
            "session_feed",
            {"p_session_id": "s", "p_cursor": "c", "p_limit": 500},
        ),
        (
            lambda q: q.session_feed("guest_s"),
            "guest_session_feed",
            {"p_session_id": "guest_s", "p_cursor": None, "p_limit": 500},
        ),
        (
            lambda q: q.open_guest_session("w", ttl_seconds=60, user_id="u"),
            "open_guest_session",
            {"p_workspace_id": "w", "p_options": {"ttl_seconds": 60, "user_id": "u"}},
        ),
        (
            lambda q: q.follow_topic("job:j", ID),
            "follow_topic",
            {"p_topic": "job:j", "p_follower_id": str(ID), "p_version": MESSAGE_VERSION},
        ),
        (
            lambda q: q.steps("j", after={"name": "s", "nth": 2}),
            "job_steps",
            {"p_job_id": "j", "p_after": {"name": "s", "nth": 2}},
        ),
        (
            lambda q: q.read_artefact("j", "f", key="k"),
            "job_artefacts",
            {"p_job_id": "j", "p_key": "k", "p_name": "f"},
        ),
        (
            lambda q: q.replay(
                "j", from_step="s", payload={}, results={"a": 2}, idempotency_key="k"
            ),
            "replay_job",
            {
                "p_job_id": "j",
                "p_request": {
                    "from_step": "s", "payload": {}, "results": {"a": 2}, "idempotency_key": "k"
                },
            },
        ),
        (lambda q: q.retry("j"), "retry_job", {"p_job_id": "j"}),
        (lambda q: q.retry("j", payload={}), "retry_job", {"p_job_id": "j", "p_payload": {}}),
        (
            lambda q: q.emit_event("w", "e"),
            "emit_event",
            {"p_workspace_id": "w", "p_name": "e", "p_payload": {}},
        ),
        (
            lambda q: q.stats("w", minutes=5),
            "queue_stats",
            {"p_workspace_id": "w", "p_minutes": 5},
        ),
    ],
)  # fmt: skip
async def test_all_that_is_given_is_asked_for(
    call: Callable[[UserQueue], Any], function: str, arguments: dict[str, Any]
) -> None:
    """A filter that is left behind lists what it should have kept out."""
    [(name, sent, _)] = (await asked(call)).calls

    assert (name, sent) == (function, arguments)


async def test_lines_and_events_are_read_by_job_in_order_from_a_place() -> None:
    lines = await asked(lambda q: q.logs("j", after=4, level="error", limit=20))
    all_lines = await asked(lambda q: q.logs("j"))
    events = await asked(lambda q: q.events_after("j", 4, limit=20))
    member = await asked(lambda q: q.is_member("w"))

    [(table, params)] = lines.reads
    assert (table, params[1:]) == (
        "job_logs",
        [
            ("job_id", "eq.j"), ("id", "gt.4"), ("order", "id.asc"), ("limit", "21"),
            ("log_level", "eq.error"),
        ],
    )  # fmt: skip
    assert "log_level" not in dict(all_lines.reads[0][1])
    [(table, params)] = events.reads
    assert (table, params[1:]) == (
        "job_events",
        [("job_id", "eq.j"), ("seq", "gt.4"), ("order", "seq.asc"), ("limit", "20")],
    )
    assert member.reads == [("workspaces", [("select", "id"), ("id", "eq.w")])]
    assert dict(all_lines.reads[0][1])["limit"] == "201"
    assert dict(all_lines.reads[0][1])["id"] == "gt.0"
    assert set(dict(all_lines.reads[0][1])["select"].split(",")) == set(JobLog.model_fields)
    beginning = await asked(lambda q: q.events_after("j"))
    assert dict(beginning.reads[0][1])["seq"] == "gt.0"
    assert dict(beginning.reads[0][1])["limit"] == "500"


JOB: dict[str, Any] = {
    "id": "j", "workspace_id": "w", "job_type": "t", "created_at": AT.isoformat(),
    "queue": "q", "status": "pending",
}  # fmt: skip


def reading(answer: Any) -> UserQueue:
    return UserQueue(Wire(answer=answer), {"apikey": "k"})


async def test_what_the_database_answers_is_handed_on() -> None:
    """A call that swallowed it would look like one that found nothing."""
    rows: list[dict[str, Any]] = [
        {"id": each, "job_id": "j", "attempt": 1, "log_level": "info", "message": "m", "data": {},
         "created_at": AT.isoformat()}
        for each in (1, 2, 3)
    ]  # fmt: skip
    content = base64.b64encode(b"abc").decode()
    file = {
        "name": "f", "media_type": "text/plain", "size_bytes": 3, "url": "/f",
        "created_at": AT.isoformat(), "expires_at": AT.isoformat(),
    }  # fmt: skip

    whole, cut = await reading(rows).logs("j", limit=3), await reading(rows).logs("j", limit=2)
    assert ([each.id for each in whole.logs], whole.next_after) == ([1, 2, 3], None)
    assert ([each.id for each in cut.logs], cut.next_after) == ([1, 2], 2)
    event = {"job_id": "j", "seq": 1, "type": "t", "data": {}, "created_at": AT.isoformat()}
    assert [each.seq for each in await reading([event]).events_after("j")] == [1]
    enqueued: tuple[Callable[[UserQueue], Any], ...] = (
        lambda q: q.enqueue("w", "t"), lambda q: q.replay("j"),
    )  # fmt: skip
    for made in enqueued:
        assert (await made(reading({"job": JOB, "created": True}))).created
    assert await reading({"attempts": [{"n": 1}]}).attempts("j") == [{"n": 1}]
    assert await reading([{"id": "j"}]).replays("j") == [{"id": "j"}]
    assert await reading({"woken": 2}).emit_event("w", "e") == {"woken": 2}
    assert await reading([{"id": "w"}]).is_member("w") is True
    assert await reading([]).is_member("w") is False
    steered: tuple[Callable[[UserQueue], Any], ...] = (
        lambda q: q.get_job("j"), lambda q: q.cancel("j"), lambda q: q.retry("j"),
        lambda q: q.edit("j", payload=1), lambda q: q.answer("j", 1),
    )  # fmt: skip
    for call in steered:
        assert (await call(reading(JOB))).id == "j"
    page = await reading({"jobs": [JOB], "next": CURSOR.model_dump()}).list_jobs()
    assert ([job.id for job in page.jobs], page.next_cursor) == (["j"], CURSOR.encode())
    assert (await reading({"jobs": [], "next": None}).list_jobs()).next_cursor is None
    found, data = await reading({"artefacts": [{**file, "content": content}]}).read_artefact(
        "j", "f"
    )
    assert (found.name, data) == ("f", b"abc")
    assert [each.name for each in await reading({"artefacts": [file]}).artefacts("j")] == ["f"]


def test_a_list_asks_for_no_column_that_clients_may_not_read() -> None:
    """`*` would ask for the lease's, and what functions add is no column."""
    columns = set(JOB_COLUMNS.split(","))

    assert columns >= {"id", "status", "payload", "attempts"}
    added = {"state", "next_run_at", "waiting_for", "running_since", "worker_id", "error", "times"}
    assert not columns & added
    assert added == DERIVED
