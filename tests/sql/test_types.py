# ruff: noqa: E501 - queries and requests stay on one line
"""Job types as people ask for them: who serves them, how they went, what a typo meant."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from minutehand.queue.models import JobTypeSpec
from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, refusal


def line(engine: Engine, job_type: str) -> dict[str, Any]:
    """A type as it stands in the list of Ada's workspace."""
    with engine.member(ADA) as ada:
        types = ada.rpc("list_job_types", p_workspace_id=ACME)["types"]
        one: dict[str, Any] = ada.rpc("get_job_type", p_job_type=job_type, p_workspace_id=ACME)
    [listed] = [t for t in types if t["job_type"] == job_type]
    assert {**one, **listed} == one
    return one


def test_a_type_shows_who_serves_it_and_how_it_went(engine: Engine) -> None:
    """The page that a newcomer opens first."""
    engine.register(
        "bill",
        payload_schema={"type": "object"},
        description="Bills.",
        source="app.bills:bill",
        max_concurrency=4,
    )
    for _ in range(4):
        engine.enqueue(job_type="bill")
    leases = engine.lease(4, worker="w1", version="1.2", job_types=["bill"])
    engine.rpc("cancel_job", p_job_id=engine.enqueue(job_type="bill"))
    for lease, outcome in zip(
        leases, ["completed", "completed", "completed", "failed"], strict=True
    ):
        engine.settle(lease, outcome, duration_ms=100, error={"type": "E", "message": "no"})
    engine.lease_call(0, worker="w2", job_types=["bill"])  # without a version

    bill = line(engine, "bill")
    assert (bill["description"], bill["source"], bill["limits"]["max_concurrency"]) == (
        "Bills.",
        "app.bills:bill",
        4,
    )
    assert bill["payload_schema"] == {"type": "object"}
    assert (bill["served"], bill["workers"], bill["code_versions"]) == (True, 2, ["1.2"])
    assert {w["worker_id"] for w in bill["serving"]} == {"w1", "w2"}
    assert (
        bill["day"]["enqueued"],
        bill["day"]["completed"],
        bill["day"]["failed"],
        bill["day"]["success_rate"],
    ) == (5, 3, 1, 0.75)
    assert bill["day"]["run"]["p50_ms"] == pytest.approx(100, rel=0.13)


def test_a_type_whose_jobs_all_fail_has_no_success(engine: Engine) -> None:
    """None is a number here, and not unknown."""
    engine.enqueue()
    [lease] = engine.lease(1)
    engine.settle(lease, "failed", error={"type": "E", "message": "no"})

    day = line(engine, "work")["day"]
    assert day["success_rate"] == 0
    assert [day[name] for name in ("completed", "cancelled", "retried", "lost")] == [0] * 4
    engine.enqueue()
    engine.settle(engine.lease_one(), "retry", retry_after_seconds=0, error={"type": "E"})
    engine.settle(engine.lease_one())
    assert line(engine, "work")["day"]["success_rate"] == 0.5  # of jobs, not of attempts
    for statement in ("select 1", "select queue.roll_up(queue.clock())"):
        engine.run(statement)
        engine.advance(86_461)
        assert line(engine, "work")["day"] == {}, "of yesterday"


def test_types_of_the_platform_are_listed_only_on_request(engine: Engine) -> None:
    """Deliveries are no one's code."""

    def internal(**asked: Any) -> set[str]:
        types = engine.rpc("list_job_types", p_workspace_id=ACME, **asked)["types"]
        return {each["job_type"] for each in types if each["internal"]}

    assert internal() == set()
    assert internal(p_internal=True) >= {"webhook_delivery"}


def test_numbers_are_of_the_own_workspace(engine: Engine) -> None:
    """A neighbour's jobs are nobody's business."""
    engine.enqueue(workspace=GLOBEX)
    schedule = {"name": "s", "cron": "@daily", "job_type": "work"}
    engine.rpc("put_schedule", p_workspace_id=GLOBEX, p_schedule=schedule)
    pause = {"kind": "workspace_type", "name": "work", "workspace_id": GLOBEX}
    engine.rpc("pause_jobs", p_request=pause)
    for _ in range(2):
        own = line(engine, "work")
        assert (own["day"], own["schedules"], own["paused_at"]) == ({}, [], None)
        assert own["schedule_count"] == 0
        engine.run("select queue.roll_up(queue.clock())")
    with engine.member(EVE) as eve:
        assert eve.rpc("get_job_type", p_job_type="work", p_workspace_id=GLOBEX)["paused_at"]
        for function, more in (("list_job_types", {}), ("get_job_type", {"p_job_type": "work"})):
            with pytest.raises(psycopg.Error) as refused:
                eve.rpc(function, p_workspace_id=ACME, **more)
            assert refusal(refused.value)[:2] == ("PT404", "workspace_not_found")
    with engine.member(EVE) as eve, pytest.raises(psycopg.Error) as refused:
        eve.rpc("list_job_types")
    assert refusal(refused.value) == ("PT403", "forbidden", "operator")
    assert engine.rpc("list_job_types")["types"][-1]["day"]["enqueued"] == 1


def test_a_typo_gets_the_nearest_name(engine: Engine) -> None:
    """By every way in, and when the type's page is asked for."""
    engine.register("invoices.mail")
    engine.register("invoices.bill")  # is less alike
    engine.register("invoices.mia", internal=True)  # is no one's to enqueue
    for call in (
        lambda: engine.enqueue(job_type="invoices.mial"),
        lambda: engine.run(
            "insert into public.jobs (workspace_id, job_type, status) values (%s, 'invoices.mial', 'pending')",
            ACME,
        ),
        lambda: engine.rpc("get_job_type", p_job_type="invoices.mial"),
    ):
        with pytest.raises(psycopg.Error) as refused:
            call()
        assert str(refused.value).startswith(
            "no worker has registered the job type invoices.mial; did you mean invoices.mail?"
        )
    for other in ("zzz", "reports.mail"):  # which shares its last word alone
        with pytest.raises(psycopg.Error) as refused:
            engine.enqueue(job_type=other)
        assert "did you mean" not in str(refused.value)


def test_an_unserved_type_is_a_warning_at_enqueue(engine: Engine) -> None:
    """Its folder was deleted, its row is still there."""
    engine.register("gone")
    engine.advance(3600)
    engine.lease_call(1, job_types=["work"])

    answer = engine.rpc("enqueue_job", p_workspace_id=ACME, p_job_type="gone")
    assert answer["created"]
    never = "no worker that runs now serves the job type gone; the job waits until one does"
    assert answer["warning"] == never
    assert engine.rpc("enqueue_job", p_workspace_id=ACME, p_job_type="work")["warning"] is None
    bulk = engine.rpc(
        "enqueue_jobs", p_workspace_id=ACME, p_jobs=[{"job_type": "work"}, {"job_type": "gone"}]
    )
    assert "gone" in bulk["warning"]
    assert not line(engine, "gone")["served"]
    engine.register("zone")
    engine.advance(3600)
    engine.lease_call(1, job_types=["work"])
    items = [{"job_type": "work"}, {"job_type": "zone"}]
    bulk = engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=items)
    assert "the job type zone;" in bulk["warning"]
    engine.register("new")  # its workers are about to start
    assert line(engine, "new")["served"]
    unserved = "select queue.unserved('gone', queue.clock())"
    assert engine.one(unserved)
    engine.lease(0, worker="w2")  # which serves all
    assert not engine.one(unserved)
    assert engine.rpc("enqueue_job", p_workspace_id=ACME, p_job_type="gone")["warning"] is None


@pytest.mark.parametrize(("seconds", "unserved"), [(540, False), (660, True)])
def test_a_type_is_unserved_for_enqueues_and_for_the_backlog_at_once(
    engine: Engine, seconds: int, unserved: bool
) -> None:
    """Ten minutes after its last worker was seen, for all that say so."""
    engine.register("gone")
    engine.advance(3600)
    engine.lease_call(1, worker="w2", job_types=["gone"])
    engine.advance(seconds)
    engine.lease_call(1, job_types=["work"])

    answer = engine.rpc("enqueue_job", p_workspace_id=ACME, p_job_type="gone")
    stats = engine.rpc("queue_stats", p_workspace_id=None)
    reason = engine.rpc("explain_job", p_job_id=answer["job"]["id"])["reason"]

    assert bool(answer["warning"]) is unserved
    assert stats["backlog"]["unserved"]["jobs"] == int(unserved)
    assert (reason == "no_processor") is unserved
    assert line(engine, "gone")["served"] is not unserved


def test_an_unserved_type_is_refused_on_request(engine: Engine) -> None:
    """A setting, for those who rather fail early."""
    engine.register("gone")
    engine.advance(3600)
    engine.lease_call(1, job_types=["work"])
    engine.rpc("set_settings", p_settings={"refuse_unserved_types": True})

    for call in (
        lambda: engine.enqueue(job_type="gone"),
        lambda: engine.run(
            "insert into public.jobs (workspace_id, job_type, status) values (%s, 'gone', 'pending')",
            ACME,
        ),
    ):
        with pytest.raises(psycopg.Error) as refused:
            call()
        assert refusal(refused.value)[:2] == ("PT422", "job_type_unserved")
    engine.enqueue(job_type="work")


def test_no_worker_at_all_is_no_reason_to_warn(engine: Engine) -> None:
    """Before the first deploy every type would be warned of; readiness says that instead."""
    engine.register("gone")
    engine.advance(3600)

    assert engine.rpc("enqueue_job", p_workspace_id=ACME, p_job_type="gone")["warning"] is None


TRACEBACK = {
    "frames": [
        {
            "file": "app/bills.py",
            "line": 41,
            "function": "bill",
            "code": "rate = rates[key]",
            "own": True,
        }
    ]
}


def test_a_traceback_of_any_size_is_not_kept(engine: Engine) -> None:
    """The error is, as without one."""
    job_id = engine.enqueue()
    error = {"type": "E", "message": "no", "traceback": {"frames": ["x" * 20_000]}}

    engine.settle(engine.lease_one(), "failed", error=error)

    [attempt] = engine.rpc("job_attempts", p_job_id=job_id)["attempts"]
    assert (attempt["has_traceback"], attempt["error_message"]) == (False, "no")


def failed_twice(engine: Engine) -> str:
    """A job that failed at two lines, under two versions."""
    job_id = engine.enqueue(max_attempts=2)
    for version, line_number in (("1.0", 41), ("1.1", 57)):
        traceback = {"frames": [{**TRACEBACK["frames"][0], "line": line_number}]}
        lease = engine.lease_one(version=version, worker=f"w{version}")
        error = {
            "type": "KeyError",
            "message": "no rate",
            "traceback": traceback,
            # what is not as AWS names it goes into no link
            "origin": {
                "request_id": "r1",
                "log_group": "/aws/lambda/x",
                "region": "evil.example/#",
                "log_stream": {"a": 1},
                "href": "https://evil.example",
            },
        }
        engine.settle(lease, "retry", error=error, retry_after_seconds=0)
    return job_id


def test_a_failed_attempt_keeps_its_traceback_for_those_who_may_see_it(engine: Engine) -> None:
    """Managers and the operator; members where a setting says so; never with the job."""
    job_id = failed_twice(engine)
    job = engine.job(job_id)
    assert job["status"] == "failed"
    assert set(job["error_data"]) == {"type", "reason"}

    with engine.member(ADA) as ada:
        seen = ada.rpc("job_attempts", p_job_id=job_id)["attempts"]
    assert [a["traceback"]["frames"][0]["line"] for a in seen] == [41, 57]
    assert seen[0]["origin"] == {"version": "1.0", "request_id": "r1", "log_group": "/aws/lambda/x"}
    with engine.member(BOB) as bob:
        hidden = bob.rpc("job_attempts", p_job_id=job_id)["attempts"]
    assert all("traceback" not in a and a["has_traceback"] for a in hidden)
    assert "bills.py" not in str(hidden)
    with engine.member(EVE) as eve, pytest.raises(psycopg.Error) as refused:
        eve.rpc("job_attempts", p_job_id=job_id)
    assert refusal(refused.value)[:2] == ("PT404", "job_not_found")
    engine.rpc("set_settings", p_settings={"members_see_tracebacks": True})
    with engine.member(BOB) as bob:
        assert bob.rpc("job_attempts", p_job_id=job_id)["attempts"][0]["traceback"] is not None


def test_an_attempt_shows_what_differs_from_the_one_before(engine: Engine) -> None:
    """The same error at another line, under another version."""
    attempts = engine.rpc("job_attempts", p_job_id=failed_twice(engine))["attempts"]

    assert attempts[0]["differs"] is None
    assert [(d["what"], d["before"], d["now"]) for d in attempts[1]["differs"]] == [
        ("place", "app/bills.py:41", "app/bills.py:57"),
        ("version", "1.0", "1.1"),
        ("worker_id", "w1.0", "w1.1"),
    ]


def policy_of(engine: Engine, job_type: str) -> dict[str, Any]:
    """The type's row."""
    return dict(
        engine.one("select to_jsonb(t) from queue.job_types as t where job_type = %s", job_type)
    )


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        ({"max_concurency": 1}, "max_concurency", "max_concurency is not a known field"),
        ({"rate_limit": 30}, "rate_limit", "rate_limit must be object or null, not 30"),
        (
            {"rate_limit": {"limit": 5, "per_second": 1}},
            "rate_limit.per_seconds",
            "rate_limit.per_seconds is required",
        ),
        ({"backoff": {"first": 5}}, "backoff.first", "backoff.first is not a known field"),
        ({"lease_seconds": "60"}, "lease_seconds", "lease_seconds must be integer or null, not string"),
        ({"lease_seconds": 60.5}, "lease_seconds", "lease_seconds must be integer or null, not 60.5"),
        ({"lease_seconds": 43201}, "lease_seconds", "lease_seconds must be at most 43200"),
        ({"max_attempts": 0}, "max_attempts", "max_attempts must be at least 1"),
        ({"max_concurrency": 1e300}, "max_concurrency", "max_concurrency must be at most 2147483647"),
        ({"live": "on"}, "live", 'live must be one of ["full", "states", "off", null]'),
        (
            {"schedules": [{"name": "n", "cron": "@daily", "missd": "all"}]},
            "schedules[0].missd",
            "schedules[0].missd is not a known field",
        ),
        ({"tagged_by": "customer"}, "tagged_by", "tagged_by must be array or null, not string"),
    ],
)  # fmt: skip
def test_a_typo_in_a_policy_is_refused(
    engine: Engine, given: dict[str, Any], field: str, message: str
) -> None:
    """A name that is ignored is a limit that does not hold."""
    with pytest.raises(psycopg.Error) as refused:
        engine.register("bill", **given)
    assert refusal(refused.value) == ("PT400", "invalid_argument", field)
    assert refused.value.diag.message_primary == f"job type bill: {message}"


def test_a_whole_number_counts_however_it_is_written(engine: Engine) -> None:
    """Serializers write 60, 60.0 or 6e1; the Data API passes on what they wrote."""
    whole = [
        *("max_concurrency", "workspace_concurrency", "key_concurrency", "lease_seconds"),
        *("timeout_seconds", "max_attempts", "schema_version", "ageing_seconds"),
    ]
    for text, number in (("20", 20), ("20.0", 20), ("2e1", 20), ("2.0E+1", 20)):
        fields = ", ".join(f'"{name}": {text}' for name in whole)
        engine.run(
            "select public.register_job_types(%s::jsonb)",
            f'[{{"job_type": "bill", {fields}, "rate_limit": {{"limit": {text}, "per_seconds": {text}}},'
            f' "backoff": {{"first_seconds": {text}}}}}]',
        )
        row = policy_of(engine, "bill")
        names = (*whole, "rate_limit", "rate_per_seconds", "backoff_first_seconds")
        assert {row[name] for name in names} == {number}


def test_an_older_worker_does_not_undo_what_a_newer_one_published(engine: Engine) -> None:
    """Both run while one deploy replaces another; the same version published again counts."""
    answers = [
        engine.rpc(
            "register_job_types",
            p_types=[{"job_type": "bill", "schema_version": version, "max_attempts": attempts}],
        )["registered"]
        for version, attempts in ((2, 7), (1, 3), (2, 8))
    ]

    assert answers == [1, 0, 1]
    kept = "select schema_version, max_attempts from queue.job_types where job_type = 'bill'"
    assert engine.one(kept) == (2, 8)


def test_what_is_left_out_or_null_takes_the_default(engine: Engine) -> None:
    """As the models send it, and as people write it in SQL."""
    engine.register("bare")
    names = engine.rows("select name from queue.fields where of = 'job_type' and not required")
    engine.register("nulls", **dict.fromkeys(names))

    skipped = {"job_type", "registered_at", "source"}
    bare, nulls = (policy_of(engine, name) for name in ("bare", "nulls"))
    assert {k: v for k, v in bare.items() if k not in skipped} == {
        k: v for k, v in nulls.items() if k not in skipped
    }
    times = {"lease_seconds": 60, "timeout_seconds": 300, "max_attempts": 5, "schema_version": 1}
    backoff = {"backoff_first_seconds": 60, "backoff_cap_seconds": 3600, "backoff_factor": 2}
    words = {"queue": "default", "events": "full", "live": "full", "tagged_by": []}
    switches = dict.fromkeys(("rate_per_key", "internal", "signed"), False)
    assert times | backoff | words | switches | bare == bare | times | backoff | words | switches


def test_a_type_published_again_is_as_it_was_published_last(engine: Engine) -> None:
    """What a processor no longer says does not hold any more."""
    numbers = dict.fromkeys(
        (
            "max_concurrency", "workspace_concurrency", "key_concurrency", "lease_seconds",
            "timeout_seconds", "max_attempts", "ageing_seconds",
        ),
        7,
    )  # fmt: skip
    engine.register("bare")
    engine.register(
        "again",
        **numbers,
        queue="slow",
        events="minimal",
        live="off",
        description="More.",
        tagged_by=["customer"],
        payload_schema={"type": "object"},
        backoff={"first_seconds": 7, "cap_seconds": 8, "factor": 9},
        rate_limit={"limit": 7, "per_seconds": 8, "per_key": True},
    )
    named = {"job_type", "registered_at"}
    bare, before = (policy_of(engine, name) for name in ("bare", "again"))
    changed = {name for name in bare if bare[name] != before[name]} - named
    assert len(changed) == len(numbers) + 6 + 3 + 3

    engine.register("again")

    after = policy_of(engine, "again")
    assert {name for name in bare if bare[name] != after[name]} <= named


def test_what_is_no_job_type_is_refused(engine: Engine) -> None:
    """By the field, or the whole where no field is at fault alone."""
    for types, field in (
        ({}, "p_types"), ([{}], "job_type"), ([{"job_type": None}], "job_type"), ([{"job_type": "x" * 101}], "job_type"),
        ([{"job_type": "a\nb"}], "p_types"),
    ):  # fmt: skip
        with pytest.raises(psycopg.Error) as refused:
            engine.rpc("register_job_types", p_types=types)
        assert refusal(refused.value) == ("PT400", "invalid_argument", field)


def test_a_type_is_registered_once_in_a_call(engine: Engine) -> None:
    """Which of the two would hold?"""
    with pytest.raises(psycopg.Error, match="job type bill is given more than once") as refused:
        engine.rpc("register_job_types", p_types=[{"job_type": "bill"}, {"job_type": "bill"}])
    assert refusal(refused.value)[:2] == ("PT400", "invalid_argument")


def test_a_policy_has_the_fields_that_its_model_has(engine: Engine) -> None:
    """The table refuses what it does not list, so a worker could not send what it lacks."""
    listed = engine.rows("select name from queue.fields where of = 'job_type' order by place")

    assert sorted(listed) == sorted(JobTypeSpec.model_fields)
    engine.run(
        "insert into queue.fields (of, name, schema, description)"
        " values ('job_type', 'colour', '{\"enum\": [\"red\", null]}', 'Its colour.')"
    )
    engine.register("bill", colour="red")
    with pytest.raises(psycopg.Error, match="colour must be one of"):
        engine.register("bill", colour="blue")


def test_where_a_worker_says_its_log_is_has_the_form_that_aws_gives(engine: Engine) -> None:
    """The region goes into the host of a link, and a worker's key may be stolen."""
    log = {"log_group": "/aws/lambda/x", "log_stream": "2026/11/22/[$LATEST]0a1b"}
    for region, kept in (
        ("eu-central-1", {"region": "eu-central-1"}),
        ("us-gov-west-1", {"region": "us-gov-west-1"}),
        ("evil.example/", {}),
        ("eu-central-1.evil.example", {}),
        ("EU", {}),
    ):
        engine.lease(worker=f"at {region}", origin={**log, "region": region, "more": "x"})
        seen = "select origin from queue.workers where worker_id = %s"
        assert engine.one(seen, f"at {region}") == {**log, **kept}
