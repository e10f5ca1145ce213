# ruff: noqa: E501 - schemas stay on one line
"""One key, one job: under races, across bulks, and for unique and debounced jobs."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support.engine import ACME, GLOBEX, Engine, refusal
from tests.support.functions import until_waiting


def test_sixteen_racing_callers_of_one_key_get_one_job(engine: Engine) -> None:
    """A retried request must not run twice, however close together."""
    call = lambda other: other.rpc(  # noqa: E731
        "enqueue_job", p_workspace_id=ACME, p_job_type="work", p_options={"idempotency_key": "k"}
    )

    answers = engine.race(*[call] * 16)

    assert len({answer["job"]["id"] for answer in answers}) == 1
    assert sum(answer["created"] for answer in answers) == 1
    assert engine.one("select count(*) from public.jobs") == 1


def test_the_winner_of_a_key_may_still_roll_back(engine: Engine) -> None:
    """The loser waits, then makes the job itself: lock-then-look would lose it."""
    with engine.beside() as first:
        first.run("begin")
        lost = first.enqueue(idempotency_key="k")

        def rollback(other: Engine) -> None:
            until_waiting(other.database)
            first.run("rollback")

        answers = engine.race(lambda other: other.enqueue(idempotency_key="k"), rollback)

    assert answers[0] != lost
    assert engine.status(answers[0]) == "pending"


def test_another_payload_under_the_same_key_is_a_conflict(engine: Engine) -> None:
    """Answering with the first job would hide the caller's mistake."""
    job_id = engine.enqueue({"a": 1}, idempotency_key="k")

    with pytest.raises(psycopg.Error) as refused:
        engine.enqueue({"a": 2}, idempotency_key="k")

    assert refusal(refused.value) == ("PT409", "idempotency_conflict", job_id)


def test_keys_of_other_types_and_workspaces_do_not_meet(engine: Engine) -> None:
    """A key is the caller's own."""
    engine.register("other")

    keys: list[dict[str, Any]] = [{"idempotency_key": "k"}, {"unique": {"key": "k"}}]
    others: list[dict[str, Any]] = [{}, {"job_type": "other"}, {"workspace": GLOBEX}]

    ids = {engine.enqueue(**key, **other) for key in keys for other in others}

    assert len(ids) == 6


def test_a_key_expires(engine: Engine) -> None:
    """After its time, by default a day, the key may be used anew; before, an ended job is answered too."""
    engine.stop_clock()
    engine.register("other")
    key: dict[str, Any] = {"idempotency_key": "k", "idempotency_ttl_seconds": 60.0}
    others: list[dict[str, Any]] = [
        {"idempotency_key": "other"},
        {"idempotency_key": "k", "job_type": "other"},
    ]
    first, kept = engine.enqueue(**key), [engine.enqueue(**other) for other in others]
    engine.run_all()

    engine.advance(59)
    assert engine.enqueue(**key) == first
    engine.advance(1)
    second = engine.enqueue({"n": 2}, **key)
    assert second != first
    engine.advance(59)
    assert engine.enqueue({"n": 2}, **key) == second
    assert [engine.enqueue(**other) for other in others] == kept
    engine.advance(86_400 - 60 - 59 - 1)
    assert [engine.enqueue(**other) for other in others[:1]] == kept[:1]
    engine.advance(1)
    assert [engine.enqueue(**other) for other in others[:1]] != kept[:1]


def test_a_key_goes_with_its_job(engine: Engine) -> None:
    """A key that outlived it would answer with a job that is not there."""
    first = engine.enqueue(idempotency_key="k")
    engine.run("delete from public.jobs")

    assert engine.enqueue({"n": 2}, idempotency_key="k") != first


def test_a_plain_insert_takes_a_key_as_a_call_does(engine: Engine) -> None:
    """And is refused where a call would get the earlier job."""
    insert = (
        "insert into public.jobs (workspace_id, job_type, idempotency_key) values (%s, 'work', 'k')"
    )
    engine.run(insert, ACME)

    job_id = engine.enqueue(idempotency_key="k")
    with pytest.raises(psycopg.Error) as refused:
        engine.run(insert, ACME)

    assert refusal(refused.value) == ("PT409", "duplicate_job", job_id)
    assert engine.one("select count(*) from public.jobs") == 1


def test_a_bulk_with_repeated_keys_makes_each_job_once(engine: Engine) -> None:
    """The answer keeps the order of the request, and the queue does."""
    items = [{"job_type": "work", "idempotency_key": key} for key in ("a", "b", "a")]

    answer = engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=items)["jobs"]

    assert [line["created"] for line in answer] == [True, True, False]
    assert answer[0]["job"]["id"] == answer[2]["job"]["id"]
    for line in answer[:2]:
        assert engine.lease(1)[0]["job"]["id"] == line["job"]["id"]


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("on_conflict", ["skip", "replace"])
def test_callers_who_share_a_key_are_one_holder(
    engine: Engine, held: bool, on_conflict: str
) -> None:
    """An id of a job that gave way to another's unique key would be nobody's."""
    unique = {"key": "u", "on_conflict": on_conflict}
    engine.register("bill")
    others: tuple[dict[str, Any], ...] = {"workspace": GLOBEX}, {"job_type": "bill"}
    before = [engine.enqueue(**other, idempotency_key="k") for other in others]
    if held:
        engine.enqueue(unique=unique)
    items: list[dict[str, Any]] = [
        {"job_type": "work", "unique": unique},
        {"job_type": "work", "unique": unique, "idempotency_key": "k"},
        {"job_type": "work", "idempotency_key": "k"},
    ]

    answer = engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=items)["jobs"]
    again = engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=items, p_return="ids")

    assert [line["created"] for line in answer] == [not held, False, False]
    assert {line["job"]["id"] for line in answer} == set(again["ids"])
    assert again["created"] == [False] * 3
    assert engine.one("select count(*) from public.jobs where workspace_id = %s", ACME) == 2
    assert [engine.enqueue(**other, idempotency_key="k") for other in others] == before


def test_two_bulks_with_the_same_keys_in_opposite_order_do_not_deadlock(engine: Engine) -> None:
    """Keys are taken in one order by everyone."""
    keys = [f"k{number}" for number in range(60)]

    def bulk(order: list[str]) -> Any:
        items = [{"job_type": "work", "idempotency_key": key} for key in order]
        return lambda other: other.rpc(
            "enqueue_jobs", p_workspace_id=ACME, p_jobs=items, p_return="ids"
        )

    answers = engine.race(*[bulk(keys), bulk(keys[::-1])] * 4)

    assert {frozenset(answer["ids"]) for answer in answers} == {frozenset(answers[0]["ids"])}
    assert engine.one("select count(*) from public.jobs") == 60


def test_a_bulk_is_all_or_nothing_and_names_the_bad_item(engine: Engine) -> None:
    """Half a bulk is worse than none."""
    ties: list[dict[str, Any]] = [{}, {"unique": {"key": "k"}}]
    bads: list[dict[str, Any]] = [
        {"priority": 5000},
        {"priority": 7.5},
        {"priority": 10**10 - 1},
        {"prio": 1},
    ]
    for bad in bads:
        [name] = bad
        items = [{"job_type": "work"}, {"job_type": "work", **bad}]
        with pytest.raises(psycopg.Error) as refused:
            engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=items)
        assert refusal(refused.value) == ("PT400", "invalid_argument", f"jobs[1].{name}")
        for tie in ties:
            with pytest.raises(psycopg.Error) as refused:
                engine.enqueue(**bad, **tie)
            assert refusal(refused.value) == ("PT400", "invalid_argument", name)
    lists: list[Any] = [[], {}, [{"job_type": "work"}] * 1001]
    for jobs in lists:
        with pytest.raises(psycopg.Error) as refused:
            engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=jobs)
        assert refusal(refused.value) == ("PT400", "invalid_argument", "jobs")
    with pytest.raises(psycopg.Error) as refused:
        engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=items, p_return="x")
    assert refusal(refused.value) == ("PT400", "invalid_argument", "p_return")
    nowhere = "00000000-0000-4000-8000-00000000dead"
    with pytest.raises(psycopg.Error) as refused:
        engine.enqueue(workspace=nowhere)
    assert refusal(refused.value) == ("PT404", "workspace_not_found", nowhere)
    assert engine.one("select count(*) from public.jobs") == 0


@pytest.mark.parametrize(
    ("item", "status", "hint", "field"),
    [
        ({"job_type": "nobody"}, "PT422", "unknown_job_type", "jobs[0].job_type"),
        ({"payload": {}}, "PT400", "invalid_argument", "jobs[0].job_type"),
        ({"job_type": "work", "payload": [1]}, "PT422", "payload_invalid", "jobs[0].payload"),
        (
            {"job_type": "work", "payload": {"x": "y" * 262_136}},
            "PT413",
            "payload_too_large",
            "jobs[0].payload",
        ),
        ({"job_type": "work", "typo": 1}, "PT400", "invalid_argument", "jobs[0].typo"),
        ("no object", "PT400", "invalid_argument", "jobs[0].an item that is not an object"),
    ],
)
def test_a_bad_option_is_refused_by_name(
    engine: Engine, item: Any, status: str, hint: str, field: str
) -> None:
    """Never a 500 for bad input, never a silent ignore."""
    with pytest.raises(psycopg.Error) as refused:
        engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=[item])

    assert refusal(refused.value) == (status, hint, field)


INSTANTS = (
    ["1970-01-01T00:00:00Z", "9999-01-01T00:00:00Z"],
    ["1969-12-31T23:59:59Z", "9999-01-01T00:00:01Z"],
)
UNIQUE = {"key": "k"}
#: Each option's values at its bounds, and those beyond.
BOUNDS: dict[str, tuple[list[Any], list[Any]]] = {
    "payload": ([{"x": "y" * 9990}], [{"x": "y" * 9991}]),
    "priority": ([0, 1000], [-1, 1001]),
    "max_attempts": ([1, 50], [0, 51]),
    "delay_seconds": ([0, 315_360_000], [-1, 315_360_001]),
    "scheduled_for": INSTANTS,
    "deadline_at": INSTANTS,
    "schema_version": ([1, 2], [0, 3]),
    "timeout_seconds": ([1, 43_200], [0.9, 43_201]),
    "queue": (["q", "q" * 100], ["", "q" * 101, "a\nb"]),
    "concurrency_key": (["k", "k" * 255], ["", "k" * 256, "a\nb"]),
    "session_id": (["s", "s" * 255], ["", "s" * 256]),
    "traceparent": (["", "t" * 512], ["t" * 513]),
    "idempotency_key": (["k", "k" * 255], ["", "k" * 256]),
    "idempotency_ttl_seconds": ([0, 315_360_000], [-1, 315_360_001]),
    "unique": (
        [
            {"key": "k" * 255, "until": "leased", "on_conflict": "raise"},
            {"key": "k", "until": "finished", "on_conflict": "skip"},
        ],
        [
            *([], {}, {"key": None}, {"key": ""}, {"key": "k" * 256}),
            *({**UNIQUE, "x": 1}, {**UNIQUE, "until": "x"}, {**UNIQUE, "on_conflict": "x"}),
        ],
    ),
    "debounce_seconds": ([0.1, 86_400], [0.09, 86_401]),
    "backoff": (
        [
            {"first_seconds": 0, "cap_seconds": 0, "factor": 1},
            {"first_seconds": 86_400, "cap_seconds": 604_800, "factor": 10},
        ],
        [
            *([], {"x": 1}, {"first_seconds": -1}, {"first_seconds": 86_401}),
            *({"cap_seconds": -1}, {"cap_seconds": 604_801}, {"factor": 0.9}, {"factor": 11}),
        ],
    ),
}


def test_an_option_is_bounded_as_documented(engine: Engine) -> None:
    """The last value that is taken, and the first that is not, of each."""
    engine.register(schema_version=2)

    def refused(**item: Any) -> str | None:
        field = """select (queue.item_problem(jsonb_populate_record(null::queue.enqueue_item, %s), t, 9999))[4]
            from queue.job_types as t where job_type = 'work'"""
        found: str | None = engine.one(field, Jsonb({"job_type": "work", **item}))
        return found

    for name, (within, beyond) in BOUNDS.items():
        tie = {"unique": UNIQUE} if name == "debounce_seconds" else {}
        for value in within:
            assert refused(**tie, **{name: value}) is None, (name, value)
        for value in beyond:
            assert refused(**tie, **{name: value}) == name, (name, value)
    assert refused(debounce_seconds=5) == "debounce_seconds"
    assert refused(delay_seconds=5, scheduled_for="2199-01-01") == "delay_seconds"


def test_a_whole_number_of_a_job_counts_however_it_is_written(engine: Engine) -> None:
    """Serializers write 3, 3.0 or 3e0; a row has one spelling."""
    options: dict[str, Any] = {"max_attempts": 3.0, "backoff": {"factor": 3.0}}
    engine.enqueue(**options)
    engine.enqueue(**options, unique=UNIQUE)
    engine.run(
        "insert into public.jobs (workspace_id, job_type, max_attempts, backoff)"
        " values (%s, 'work', 3, '{\"factor\": 3.0}')",
        ACME,
    )

    kept = engine.rows("select max_attempts, backoff::text from public.jobs")
    assert kept == [(3, '{"factor": 3}')] * 3


@pytest.mark.parametrize(
    "options",
    [
        {"scheduled_for": "soon"},
        {"priority": "high"},
        {"parent_id": "x"},
        {"delay_seconds": "1 day"},
    ],
)
def test_a_value_of_the_wrong_type_is_a_bad_request(
    engine: Engine, options: dict[str, Any]
) -> None:
    """Casts fail inside the function; the caller still gets a 400."""
    with pytest.raises(psycopg.Error) as refused:
        engine.enqueue(**options)

    assert refusal(refused.value)[:2] == ("PT400", "invalid_argument")


def test_payloads_are_checked_by_the_types_schema(engine: Engine) -> None:
    """The same rule for whoever enqueues; the detail names the path."""
    schema = {
        "type": "object",
        "required": ["email"],
        "properties": {
            "email": {"type": "string", "pattern": "@"},
            "tags": {"type": "array", "items": {"type": "integer"}},
        },
        "additionalProperties": False,
    }
    engine.register("strict", payload_schema=schema)
    bad: dict[str, dict[str, Any]] = {
        "payload.email": {},
        "payload.tags[1]": {"email": "a@b", "tags": [1, "x"]},
        "payload.z": {"email": "a@b", "z": 1},
    }

    for path, payload in bad.items():
        with pytest.raises(psycopg.Error) as refused:
            engine.enqueue(payload, job_type="strict", schema_version=1)
        assert refusal(refused.value) == ("PT422", "payload_invalid", path)

    engine.enqueue({"email": "a@b", "tags": [1]}, job_type="strict")
    engine.register("strict", payload_schema=schema, schema_version=2)
    engine.enqueue({"old": 1}, job_type="strict", schema_version=1)  # which its worker rewrites
    with pytest.raises(psycopg.Error) as refused:
        engine.enqueue({"x": "y" * 262_136})
    assert refusal(refused.value) == ("PT413", "payload_too_large", "payload")
    largest = {"x": "y" * 262_135}
    assert engine.enqueue(largest) != engine.enqueue_many(1, payload=largest)[0]


NAME = {"$ref": "#/$defs/name"}
DEFS = {"$defs": {"name": {"type": "string"}}, "properties": {"a": NAME}}
NAMED = {"properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}}
BOTH = {"anyOf": [{"type": "null"}, {"type": "integer"}], "allOf": [{"minimum": 1}, {"maximum": 2}]}
INSTANT = {"format": "date-time"}
#: A schema, what fits it, and what does not with the reason.
SCHEMAS: list[tuple[Any, list[Any], dict[str, Any]]] = [
    (True, [None], {}),
    (False, [], {"is not allowed": 1}),
    ({"const": None}, [None], {"must be null": 1}),
    ({"enum": [1, None]}, [1, None], {"must be one of [1, null]": "1"}),
    ({"type": ["integer", "null"]}, [1, 1.0, None], {"must be integer or null, not 1.5": 1.5}),
    ({"type": "number"}, [1.5], {"must be number, not string": "1.5"}),
    ({"minItems": 1, "maxItems": 2}, [[1], [1, 2]], {"must have at least 1 items": [], "must have at most 2 items": [1, 2, 3]}),
    ({"items": {"type": "null"}}, [[], [None]], {"[1] must be null, not boolean": [None, False]}),
    ({"minLength": 2, "maxLength": 3}, ["éé", "ééé"], {"must have at least 2 characters": "é", "must have at most 3 characters": "éééé"}),
    ({"pattern": "^a"}, ["ab"], {"must match ^a": "ba"}),
    ({"format": "uuid"}, [ACME, ACME.replace("1", "A"), ACME.replace("-", "")], {"must be a UUID": ACME[1:]}),
    ({"format": "uuid"}, [], {"must be a UUID": ACME + "0"}),
    (INSTANT, ["2026-01-01T00:00:00Z", "2026-01-01 00:00+01:00"], {"must be an ISO 8601 instant with an offset": "2026-01-01T00:00:00"}),
    ({"minimum": 1, "maximum": 2}, [1, 2], {"must be at least 1": 0.9, "must be at most 2": 2.1}),
    ({"exclusiveMinimum": 1, "exclusiveMaximum": 2}, [1.1, 1.9], {"must be greater than 1": 1, "must be less than 2": 2}),
    ({"required": ["a"]}, [{"a": None}], {".a is required": {"b": 1}}),
    (NAMED, [{"a": 1, "b": "x"}], {".a must be integer, not string": {"a": "x"}, ".b must be string, not null": {"b": None}}),
    ({"additionalProperties": False}, [{}], {".b is not a known field": {"b": 1}}),
    (DEFS, [{"a": "x"}], {".a must be string, not array": {"a": []}}),
    ({**DEFS, "anyOf": [NAME]}, ["x"], {"must be string, not array": []}),
    (BOTH, [1, 2], {"must be null, not string": "x", "must be at least 1": 0, "must be at most 2": 3}),
    ({"oneOf": [{"type": "null"}, {"type": "integer"}], "maximum": 1}, [None, 1], {"must be at most 1": 2, "must be null, not string": "x"}),
    ({**DEFS, "items": NAME}, [["x"]], {"[0] must be string, not null": [None]}),
    ({**DEFS, "allOf": [NAME]}, ["x"], {"must be string, not array": []}),
    ({**DEFS, "additionalProperties": NAME}, [{"b": "x"}], {".b must be string, not null": {"b": None}}),
]  # fmt: skip


def test_a_schema_refuses_what_breaks_it_and_nothing_else(engine: Engine) -> None:
    """Each keyword at its bounds."""
    check = "select queue.schema_error(%s, %s)"
    for schema, fits, breaks in SCHEMAS:
        for value in fits:
            assert engine.one(check, Jsonb(schema), Jsonb(value)) is None, (schema, value)
        for reason, value in breaks.items():
            said = engine.one(check, Jsonb(schema), Jsonb(value))
            assert said.removeprefix("$").strip() == reason


def test_unique_jobs_skip_until_the_first_has_finished(engine: Engine) -> None:
    """The holder is answered, whether it waits or runs."""
    unique = {"key": "daily"}
    first = engine.enqueue(unique=unique)

    assert engine.enqueue(unique=unique) == first
    lease = engine.lease_one()
    assert engine.enqueue(unique=unique) == first
    engine.settle(lease)
    assert engine.enqueue(unique=unique) != first


def test_unique_until_leased_lets_the_next_one_queue(engine: Engine) -> None:
    """'Run once more after what is running now' is this."""
    unique = {"key": "rebuild", "until": "leased"}
    first = engine.enqueue(unique=unique)

    engine.lease_one()
    second = engine.enqueue(unique=unique)

    assert second != first
    assert engine.enqueue(unique=unique) == second


def test_unique_with_raise_names_the_holder(engine: Engine) -> None:
    """The caller may want to know which job is in the way."""
    first = engine.enqueue(unique={"key": "k"})

    with pytest.raises(psycopg.Error) as refused:
        engine.enqueue(unique={"key": "k", "on_conflict": "raise"})

    assert refusal(refused.value) == ("PT409", "duplicate_job", first)


def test_unique_with_replace_changes_a_pending_holder_only(engine: Engine) -> None:
    """The newest payload wins while it still can."""
    unique = {"key": "k", "on_conflict": "replace"}
    first = engine.enqueue({"v": 1}, unique=unique)
    assert engine.job(first)["priority"] == 100

    assert engine.enqueue({"v": 2}, unique=unique, priority=7) == first
    job = engine.job(first)
    assert (job["payload"], job["priority"]) == ({"v": 2}, 7)
    lease = engine.lease_one()
    assert engine.enqueue({"v": 3}, unique=unique) == first
    wait = {"kind": "ask", "name": "q", "question": "?"}
    engine.settle(lease, "waiting", wait=wait)
    assert engine.enqueue({"v": 4}, unique=unique) == first
    assert lease["job"]["payload"] == {"v": 2}
    assert engine.job(first)["payload"] == {"v": 2}
    assert engine.events(first) == ["job.created", "job.replaced", "job.leased", "job.waiting"]


def test_a_newer_payload_brings_the_version_it_was_checked_by(engine: Engine) -> None:
    """Else the worker takes it for an old one and rewrites it once more."""
    unique = {"key": "k", "on_conflict": "replace"}
    job_id = engine.enqueue({"old": 1}, unique=unique, priority=7, delay_seconds=60)
    before = engine.job(job_id)
    engine.register(schema_version=2)

    assert engine.enqueue({"new": 1}, unique=unique) == job_id
    assert engine.job(job_id)["schema_version"] == 2
    assert engine.enqueue({"old": 2}, unique=unique, schema_version=1) == job_id
    after = engine.job(job_id)
    assert after["schema_version"] == 1
    assert all(after[name] == before[name] for name in ("priority", "scheduled_for"))


@pytest.mark.parametrize("named", ["delay_seconds", "scheduled_for"])
def test_a_newer_time_goes_before_that_of_a_retry(engine: Engine, named: str) -> None:
    """The job keeps what the newer call does not name."""
    engine.stop_clock()
    due = str(engine.one("select queue.clock() + interval '5 seconds'"))
    unique = {"key": "k", "on_conflict": "replace"}
    job_id = engine.enqueue(unique=unique, tags=["blue"])
    engine.settle(engine.lease_one(), "retry", retry_after_seconds=600)

    retry_at = engine.job(job_id)["next_retry_at"]
    assert engine.enqueue({"v": 1}, unique=unique) == job_id
    assert engine.job(job_id)["next_retry_at"] == retry_at
    assert engine.lease() == []
    newer: dict[str, Any] = {named: due if named == "scheduled_for" else 5}
    assert engine.enqueue({"v": 2}, unique=unique, **newer) == job_id
    said = "select data -> 'scheduled_for' from public.job_events where type = 'job.replaced'"
    assert engine.rows(said)[-1] == engine.job(job_id)["scheduled_for"]
    engine.advance(4)
    assert engine.lease() == []
    engine.advance(1)

    assert engine.lease_one()["job"]["payload"] == {"v": 2}
    assert engine.job(job_id)["tags"] == ["blue"]


def test_debounce_runs_once_after_the_last_call(engine: Engine) -> None:
    """Each call pushes the run back; the last payload is the one that runs."""
    engine.stop_clock()
    options: dict[str, Any] = {"unique": {"key": "save"}, "debounce_seconds": 30}
    first = engine.enqueue({"v": 1}, **options)
    assert engine.lease() == []
    engine.advance(20)

    assert engine.enqueue({"v": 2}, **options) == first
    engine.advance(20)
    assert engine.lease() == []
    engine.advance(11)

    assert engine.lease_one()["job"]["payload"] == {"v": 2}
    assert engine.enqueue({"v": 3}, **options) != first


def test_what_comes_while_its_debounced_job_is_leased_runs_again(engine: Engine) -> None:
    """The older payload is on its way to a worker; the newer one must not be lost with it."""
    options: dict[str, Any] = {"unique": {"key": "save"}, "debounce_seconds": 30}
    first = engine.enqueue({"v": 1}, **options)
    engine.advance(31)
    with engine.beside() as worker:
        worker.run("begin")
        lease = worker.lease_one()

        def commit_once_awaited(other: Engine) -> None:
            until_waiting(other.database)
            worker.run("commit")

        second, _ = engine.race(
            lambda other: other.enqueue({"v": 2}, idempotency_key="i", **options),
            commit_once_awaited,
        )

    assert lease["job"]["payload"] == {"v": 1}
    assert second != first
    assert engine.job(second)["payload"] == {"v": 2}
    assert engine.enqueue({"v": 2}, idempotency_key="i", **options) == second


@pytest.mark.parametrize("option", [{"debounce_seconds": 30}, {}])
def test_the_last_of_a_bulk_under_one_key_wins(engine: Engine, option: dict[str, int]) -> None:
    """A bulk means what its items would mean one after another."""
    unique = {"key": "k", "on_conflict": "replace"}
    items = [
        {"job_type": "work", "payload": {"v": v}, "unique": unique, **option} for v in (1, 2, 3)
    ]

    answer = engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=items)

    [only] = {item["job"]["id"] for item in answer["jobs"]}
    assert [item["created"] for item in answer["jobs"]] == [True, False, False]
    assert engine.job(only)["payload"] == {"v": 3}
    assert engine.one("select count(*) from public.jobs") == 1


def test_racing_unique_jobs_leave_one(engine: Engine) -> None:
    """A real unique index decides, not a look before the leap."""
    ids = engine.race(*[lambda other: other.enqueue(unique={"key": "k"})] * 12)

    assert len(set(ids)) == 1
    assert engine.one("select count(*) from public.jobs") == 1


def test_a_redriven_job_takes_its_unique_key_back_or_stays(engine: Engine) -> None:
    """Two live jobs under one unique key would break the promise."""
    first = engine.enqueue(unique={"key": "k"})
    engine.settle(engine.lease_one(), "failed", error={"type": "E", "message": "m"})
    second = engine.enqueue(unique={"key": "k"})
    engine.enqueue(unique={"key": "another"})

    with pytest.raises(psycopg.Error) as refused:
        engine.rpc("retry_job", p_job_id=first)
    assert refusal(refused.value) == ("PT409", "duplicate_job", second)
    assert engine.operate("retry") == 0
    [letter] = engine.rpc("dead_letters", p_workspace_id=ACME)["groups"]
    assert letter["latest_id"] == first

    engine.run_all()
    engine.rpc("retry_job", p_job_id=first)
    assert engine.enqueue(unique={"key": "k"}) == first
