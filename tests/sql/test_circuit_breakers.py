# ruff: noqa: E501 - queries and requests stay on one line
"""A type stops for all on the evidence of several proven tenants alone, and comes back by itself."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.engine import ACME, ADA, EVE, GLOBEX, Engine, handle
from tests.support.functions import until_waiting

ERROR = {"type": "KeyError", "message": "no field 7"}


def workspaces(engine: Engine, count: int, *, member: str | None = None) -> list[str]:
    """More tenants, each a different person's unless `member` is in all of them."""
    ids = [
        str(engine.one("insert into public.workspaces (name) values ('T') returning id"))
        for _ in range(count)
    ]
    for workspace in ids:
        engine.run(
            "insert into public.workspace_members (workspace_id, user_id, role) values (%s, %s, 'manager')",
            workspace,
            member or str(uuid.uuid4()),
        )
    return ids


def prove(engine: Engine, *tenants: str, job_type: str = "work") -> None:
    """Let one job of each complete, well before anything fails."""
    for workspace in tenants:
        engine.enqueue(workspace=workspace, job_type=job_type)
    engine.run_all()
    maintain(engine, after=20)
    engine.advance(1200)


def poison(engine: Engine, count: int, workspace: str, **error: Any) -> None:
    """Let `count` jobs of a workspace meet the same error."""
    engine.enqueue_many(count, workspace=workspace)
    leases = [lease for lease in engine.lease(1000) if lease["job"]["workspace_id"] == workspace]
    engine.settle_all(
        [{**handle(lease), "outcome": "retry", "error": error or ERROR} for lease in leases]
    )


def maintain(engine: Engine, *, after: float = 6) -> None:
    """Let time pass and maintenance come by."""
    engine.advance(after)
    engine.maintain()


def paused(engine: Engine) -> bool:
    """Whether the type is stopped for all."""
    return bool(
        engine.one("select paused_at is not null from queue.job_types where job_type = 'work'")
    )


def broken(engine: Engine) -> list[str]:
    """Three proven tenants, for all of whom the type has just failed: it is stopped."""
    tenants = workspaces(engine, 3)
    prove(engine, GLOBEX, *tenants)
    engine.enqueue(workspace=tenants[0])
    engine.run_all()
    for workspace in tenants:
        poison(engine, 4, workspace)
    poison(engine, 1, tenants[0], type="E", message="another")
    insert = "insert into queue.stat_deltas (at, job_type, workspace_id, outcome, jobs)"
    engine.run(f"{insert} values (queue.clock() - interval '11 minutes', 'work', %s, 'completed', 9)", GLOBEX)  # fmt: skip
    maintain(engine)
    assert paused(engine)
    return tenants


def set_aside(engine: Engine) -> None:
    """A lease finds nothing but what is stopped, and would look at it again tomorrow."""
    assert engine.lease(100) == []
    for table in ("turns", "partitions"):
        engine.run(
            f"update queue.{table} set set_aside = true, look_at = queue.clock() + interval '1 day'"
            " where job_type = 'work'"
        )


def half_open(engine: Engine) -> list[str]:
    """The same a minute later."""
    tenants = broken(engine)
    set_aside(engine)
    maintain(engine, after=61)
    assert not paused(engine)
    return tenants


def test_a_type_broken_for_several_tenants_is_paused_for_all(engine: Engine) -> None:
    """A bad deployment: the error is everywhere, nobody's jobs succeed."""
    broken(engine)

    paused_by, reason = engine.one(
        "select paused_by, pause_reason from queue.job_types where job_type = 'work'"
    )
    assert paused_by == "poison"
    assert "several workspaces" in reason
    assert engine.rpc("queue_health")["paused_types"][0]["job_type"] == "work"


def test_tenants_for_whom_it_never_worked_are_no_evidence(engine: Engine) -> None:
    """A workspace costs nothing: its failures may be what it was made for. Another type proves nothing."""
    engine.register("other")
    fresh = workspaces(engine, 6)
    prove(engine, *fresh, job_type="other")
    for workspace in fresh:
        engine.enqueue(workspace=workspace)
    engine.run_all("failed", error=ERROR)
    maintain(engine, after=20)
    engine.advance(1200)
    for workspace in fresh:
        poison(engine, 9, workspace)
    maintain(engine)

    assert not paused(engine)


def test_one_persons_workspaces_count_as_one(engine: Engine) -> None:
    """However many there are, and although the type worked in each before."""
    hers = workspaces(engine, 5, member=EVE)
    prove(engine, *hers)
    for workspace in hers:
        poison(engine, 9, workspace)
    maintain(engine)

    assert not paused(engine)


def test_the_reason_of_a_pause_for_all_is_no_attempts_error(engine: Engine) -> None:
    """A tenant's words, in an error's message, are not for the others to read."""
    broken(engine)

    with engine.member(ADA) as ada:
        told = ada.rpc("explain_job", p_job_id=ada.enqueue())
    assert told["reason"] == "type_paused"
    assert "no field" not in str(told)


@pytest.mark.parametrize(("counts", "stops"), [((9, 1), False), ((30, 4), False), ((8, 1, 1), False), ((5, 5), True), ((6, 3, 3), True), ((12, 6, 6), True), ((1,) * 10, True)])  # fmt: skip
def test_one_tenants_failures_alone_do_not_stop_a_type_for_all(
    engine: Engine, counts: tuple[int, ...], stops: bool
) -> None:
    """A single bad job elsewhere makes nobody's error everybody's."""
    tenants = workspaces(engine, len(counts))
    prove(engine, *tenants)
    for workspace, count in zip(tenants, counts, strict=True):
        poison(engine, count, workspace)
    maintain(engine)

    assert paused(engine) is stops
    if stops:
        assert engine.one("select count(*) from queue.breakers") == 1, "one for all is enough"


def test_the_databases_own_outage_stops_no_type(engine: Engine) -> None:
    """Its jobs fail together when it restarts, and run again when it is back."""
    poison(engine, 30, ACME, type="QueueUnavailable", message="the database is not connected")
    maintain(engine, after=400)

    assert engine.one("select count(*) from queue.pauses") == 0
    assert len(engine.lease(100)) == 30


@pytest.mark.parametrize("outcome", ["failed", "snoozed"])
def test_what_a_processor_decides_stops_no_type(engine: Engine, outcome: str) -> None:
    """It is an answer to these payloads, and none to the next."""
    engine.enqueue_many(30)
    engine.settle_all([{**handle(one), "outcome": outcome, "error": ERROR} for one in engine.lease(30)])  # fmt: skip
    maintain(engine, after=60)

    assert engine.one("select count(*) from queue.pauses") == 0


def test_different_errors_stop_no_type(engine: Engine) -> None:
    """The fingerprint groups them; letters differ here."""
    for letter in "abcdefghijkl":
        poison(engine, 1, ACME, type="E", message=f"missing {letter}")
    maintain(engine)

    assert engine.one("select count(*) from queue.pauses") == 0


def test_a_type_that_works_for_another_tenant_is_not_paused_for_all(engine: Engine) -> None:
    """However many workspaces somebody fills with poison."""
    bad = workspaces(engine, 4)
    prove(engine, GLOBEX, *bad)
    engine.enqueue_many(3, workspace=GLOBEX)
    engine.run_all()
    for workspace in bad:
        poison(engine, 12, workspace)
    maintain(engine)

    assert not paused(engine)
    assert engine.one("select count(*) from queue.pauses") == 4


def test_two_tenants_are_evidence_only_where_nothing_completes(engine: Engine) -> None:
    """One job that works for either of them: it may be what the others ask for."""
    tenants = workspaces(engine, 3)
    prove(engine, *tenants)
    for workspace in tenants[:2]:
        poison(engine, 6, workspace)
    engine.enqueue(workspace=tenants[0])
    engine.run_all()
    maintain(engine)
    assert not paused(engine)

    poison(engine, 6, tenants[2])
    maintain(engine)

    assert paused(engine)


def test_it_opens_half_by_itself_and_closes_when_a_job_completes(engine: Engine) -> None:
    """Whoever deploys the fix needs no operator to resume."""
    tenants = half_open(engine)

    probes = engine.lease(100)
    tried = [probe["job"]["workspace_id"] for probe in probes]
    assert sorted(tried) == sorted(tenants)
    engine.settle(probes[0])
    maintain(engine)

    assert engine.one("select count(*) from queue.breakers") == 0
    assert engine.one("select max_concurrency from queue.job_types where job_type = 'work'") is None
    engine.enqueue_many(20, workspace=tenants[0])
    assert len(engine.lease(100)) >= 20


def test_a_job_that_ran_through_the_pause_is_no_answer_to_the_probes(engine: Engine) -> None:
    """It completed before they began, if in the same minute by the statistics."""
    tenants = workspaces(engine, 3)
    prove(engine, *tenants)
    engine.stop_clock()
    engine.advance(60 - engine.one("select extract(second from queue.clock())::float") + 0.5)
    engine.enqueue(workspace=tenants[0])
    [slow] = engine.lease(1)
    for workspace in tenants:
        poison(engine, 4, workspace)
    maintain(engine)
    assert paused(engine)
    engine.advance(55)
    engine.settle(slow)
    for _ in range(2):
        maintain(engine)
        assert engine.one("select probing_since is not null from queue.breakers")


def test_probes_that_fail_for_two_tenants_open_it_again_for_longer(engine: Engine) -> None:
    """At once, in the settlement itself, so that few attempts are spent."""
    half_open(engine)
    first, second, _ = engine.lease(100)

    engine.settle(first, "retry", error=ERROR)
    assert not paused(engine)
    engine.settle(second, "retry", error=ERROR)

    assert paused(engine)
    assert engine.one("select trips from queue.breakers") == 2
    maintain(engine, after=100)
    assert paused(engine)
    maintain(engine, after=30)
    assert not paused(engine)


@pytest.mark.parametrize(("own", "held"), [(2, 2), (9, 3), (None, 3)])
def test_each_pause_is_twice_as_long_as_the_one_before_up_to_an_hour(
    engine: Engine, own: int | None, held: int
) -> None:
    """Meanwhile at most three jobs run at once, or what the type's own limit says."""
    engine.stop_clock()
    engine.register("work", max_concurrency=own)
    nil = str(uuid.UUID(int=0))
    for minutes in (1, 2, 4, 8, 16, 32, 60, 60):
        engine.run("select queue.open_breaker('work', %s, 'test', queue.clock())", nil)
        rests = "select probe_at - queue.clock() = make_interval(mins => %s) from queue.breakers"
        assert engine.one(rests, minutes)
        engine.run("select queue.half_open('work', %s, queue.clock())", nil)
        limits = "select max_concurrency, workspace_concurrency from queue.job_types where job_type = 'work'"
        assert engine.one(limits) == (held, 1)


def test_one_tenants_failing_probes_do_not_keep_it_open(engine: Engine) -> None:
    """Nor its slow ones: after five minutes the type has the benefit of the doubt."""
    tenants = half_open(engine)
    for _ in range(4):
        for probe in [p for p in engine.lease(1) if p["job"]["workspace_id"] == tenants[0]]:
            engine.settle(probe, "retry", error=ERROR)
        engine.advance(1)
    [late] = workspaces(engine, 1)  # for whom it works since it was stopped
    engine.run("insert into queue.proven values ('work', %s, queue.clock(), queue.clock())", late)
    engine.run(
        "insert into queue.failures values ('work', %s, 'f', gen_random_uuid(), 'm', queue.clock())",
        late,
    )
    assert not paused(engine)

    maintain(engine, after=301)

    assert engine.one("select count(*) from queue.breakers") == 0


def test_a_registration_keeps_the_half_open_limits(engine: Engine) -> None:
    """Workers restart while a fix is deployed; the type's own limits come back when it closes."""
    half_open(engine)
    engine.register("work", max_concurrency=50)
    engine.register("other")
    assert len(engine.lease(100)) == 3
    bound = "select job_type from queue.job_types where max_concurrency = 3"
    assert engine.rows(bound) == ["work"]

    maintain(engine, after=301)

    assert engine.one("select max_concurrency from queue.job_types where job_type = 'work'") == 50


def test_the_operator_may_close_it_and_pause_it(engine: Engine) -> None:
    """What a person decides stands; the engine does not resume it."""
    broken(engine)
    request = {"kind": "job_type", "name": "work"}
    engine.rpc("pause_jobs", p_request={**request, "paused": False})
    assert not paused(engine)

    engine.rpc("pause_jobs", p_request={**request, "reason": "the vendor is down"})
    maintain(engine, after=4000)

    assert paused(engine)


def test_what_failed_before_a_person_resumed_the_type_does_not_count_again(engine: Engine) -> None:
    """Else maintenance stops at once what they have just mended."""
    tenants = workspaces(engine, 3)
    prove(engine, *tenants)
    for workspace in tenants:
        poison(engine, 4, workspace)

    for is_paused in (True, False):
        request = {"kind": "job_type", "name": "work", "paused": is_paused}
        engine.rpc("pause_jobs", p_request=request)
    maintain(engine)

    assert not paused(engine)


@pytest.mark.parametrize(
    ("pause", "left"),
    [
        ({"kind": "job_type", "name": "work"}, [("other", ACME), ("other", GLOBEX)]),
        (
            {"kind": "workspace_type", "name": "work", "workspace_id": ACME},
            [("other", ACME), ("other", GLOBEX), ("work", GLOBEX)],
        ),
    ],
)
def test_a_resumption_forgets_the_failures_of_what_was_paused(
    engine: Engine, pause: dict[str, str], left: list[tuple[str, str]]
) -> None:
    """No other type's, and no other tenant's; nor does the engine take over a person's pause."""
    engine.register("other")
    engine.run(
        "insert into queue.failures select t, w::uuid, 'f', gen_random_uuid(), 'm', queue.clock()"
        " from unnest(array['work', 'other']) as t, unnest(%s::text[]) as w",
        [ACME, GLOBEX],
    )
    engine.rpc("pause_jobs", p_request=pause)
    whole = "00000000-0000-0000-0000-000000000000"
    opened = "select queue.open_breaker('work', %s, 'test', queue.clock())"
    engine.run(opened, pause.get("workspace_id", whole))
    assert engine.one("select count(*) from queue.breakers") == 0

    engine.rpc("pause_jobs", p_request={**pause, "paused": False})

    found = "select job_type, workspace_id::text from queue.failures order by 1, 2"
    assert engine.rows(found) == left


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("pause_jobs", {"p_request": {"kind": "job_type", "name": "work"}}),
        ("register_job_types", {"p_types": [{"job_type": "work", "lease_seconds": 60}]}),
    ],
)
def test_a_change_to_a_stopped_type_waits_for_maintenance(
    engine: Engine, function: str, arguments: dict[str, Any]
) -> None:
    """One held the type and the other its breaker: a deadlock ended either, on a day with enough trouble."""
    engine.run(
        "select queue.open_breaker('work', '00000000-0000-0000-0000-000000000000', 'test', queue.clock())"
    )
    with (
        engine.beside() as maintaining,
        engine.beside() as other,
        ThreadPoolExecutor(1) as threads,
    ):
        maintaining.run("begin")
        maintaining.run("select from queue.breakers for update")  # as queue.find_poison does
        changed = threads.submit(other.rpc, function, **arguments)
        until_waiting(engine.database)
        maintaining.run(
            "select queue.half_open('work', '00000000-0000-0000-0000-000000000000', queue.clock())"
        )
        maintaining.run("commit")
        changed.result(60)

    assert engine.one("select count(*) from queue.breakers") == (function != "pause_jobs")
    assert paused(engine) == (function == "pause_jobs")


def test_a_success_of_a_moment_ago_is_no_evidence(engine: Engine) -> None:
    """Three fresh accounts with a job that works and some that do not must not stop everyone."""
    fresh = workspaces(engine, 3)
    for workspace in fresh:
        engine.enqueue(workspace=workspace)
    engine.run_all()
    maintain(engine, after=60)
    for workspace in fresh:
        poison(engine, 4, workspace)
    maintain(engine)

    assert not paused(engine)


def stopped(engine: Engine) -> bool:
    """Whether the type is stopped for one tenant."""
    return bool(engine.one("select exists (select 1 from queue.pauses where paused_by = 'poison')"))


@pytest.mark.parametrize(
    ("failed", "later", "stops"), [(9, 6, False), (10, 590, True), (10, 610, False)]
)
def test_so_many_failures_within_ten_minutes_stop_a_type_for_their_tenant(
    engine: Engine, failed: int, later: int, stops: bool
) -> None:
    """As many as the setting poison_jobs says."""
    engine.stop_clock()
    poison(engine, failed, ACME)
    maintain(engine, after=later)

    assert stopped(engine) is stops


def test_a_tenants_pause_says_why_and_stops_no_other(engine: Engine) -> None:
    """A tenant must not be able to stop another's work."""
    poison(engine, 12, ACME)
    maintain(engine)

    assert "no field" in engine.one("select reason from queue.pauses")
    engine.enqueue()
    other = engine.enqueue(workspace=GLOBEX)
    assert [lease["job"]["id"] for lease in engine.lease(100)] == [other]


def test_types_are_stopped_for_a_tenant_and_come_back_one_by_one(engine: Engine) -> None:
    """Each for its own failures, and for its own job that completes."""
    engine.register("other")
    for job_type in ("work", "other"):
        engine.enqueue_many(12, job_type=job_type)
        leases = engine.lease(100, job_types=[job_type])
        engine.settle_all([{**handle(one), "outcome": "retry", "error": ERROR} for one in leases])
        maintain(engine)
    assert engine.rows("select job_type from queue.breakers order by 1") == ["other", "work"]

    maintain(engine, after=61)
    engine.settle(engine.lease_one(job_types=["other"]))
    maintain(engine)

    left = "select job_type, trips, probing_since is not null from queue.breakers"
    assert engine.rows(left) == [("work", 1, True)]
    engine.enqueue_many(3, job_type="other")
    assert len(engine.lease(job_types=["other"])) >= 3, "more than one at a time"


@pytest.mark.parametrize("rolled_up", [False, True])
@pytest.mark.parametrize(("completed", "ago", "stops"), [(11, 0, True), (12, 0, False), (12, 11, True)])  # fmt: skip
def test_a_type_that_mostly_completes_for_a_tenant_is_not_stopped(
    engine: Engine, completed: int, ago: int, stops: bool, rolled_up: bool
) -> None:
    """Some inputs are bad: the others need not wait for them. Another type or tenant proves nothing."""
    engine.register("other")
    engine.enqueue_many(12, job_type="other")
    engine.enqueue_many(12, workspace=GLOBEX)
    engine.enqueue_many(completed)
    engine.run_all()
    if rolled_up:
        engine.run("select queue.roll_up(queue.clock())")
    poison(engine, 12, ACME)
    for table, at in (("stat_deltas", "at"), ("stat_minutes", "minute")):
        engine.run(f"update queue.{table} set {at} = {at} - make_interval(mins => %s)", ago)
    maintain(engine)

    assert stopped(engine) is stops


def probing_tenant(engine: Engine) -> None:
    """One whose vendor failed, a minute later; it has jobs enough in two queues."""
    poison(engine, 12, ACME)
    maintain(engine)
    assert stopped(engine)
    engine.enqueue_many(20)
    engine.enqueue_many(20, queue="other", concurrency_key="k")
    set_aside(engine)
    maintain(engine, after=61)


def test_a_tenants_pause_lets_one_job_through_and_ends_when_it_completes(engine: Engine) -> None:
    """Its vendor's outage, or its own database's, is over without a person's word."""
    probing_tenant(engine)
    elsewhere = {engine.enqueue(workspace=GLOBEX) for _ in range(5)}

    leases = engine.lease(100)
    mine = [lease for lease in leases if lease["job"]["workspace_id"] == ACME]
    assert len(mine) == 1
    assert {lease["job"]["id"] for lease in leases} - {mine[0]["job"]["id"]} == elsewhere
    assert [one for one in engine.lease(100) if one["job"]["workspace_id"] == ACME] == []
    leases.remove(mine[0])
    engine.settle_all([{**handle(lease), "outcome": "completed"} for lease in leases])
    engine.run(
        "insert into queue.failures values ('work', %s, 'f', gen_random_uuid(), 'm', queue.clock())",
        GLOBEX,
    )
    maintain(engine)
    assert engine.rows("select probing_since is not null from queue.breakers") == [True]
    engine.settle(mine[0])
    maintain(engine)

    assert engine.one("select count(*) from queue.breakers") == 0
    assert engine.rows("select workspace_id::text from queue.failures") == [GLOBEX]
    assert len(engine.lease(100)) > 30


def test_a_tenants_probe_that_fails_stops_it_for_longer(engine: Engine) -> None:
    """In the settlement itself; a poison tenant costs an attempt each interval, at most an hour apart."""
    probing_tenant(engine)
    [probe] = engine.lease(100)
    engine.settle(probe, "retry", error=ERROR)

    assert stopped(engine)
    assert engine.lease(100) == []
    maintain(engine, after=100)
    assert engine.lease(100) == []
    maintain(engine, after=30)
    assert len(engine.lease(100)) == 1


def test_a_tenants_probe_is_one_job_also_for_who_leases_one_at_a_time(engine: Engine) -> None:
    """A later call for one job takes the short way past the choice."""
    poison(engine, 12, ACME)
    maintain(engine)
    engine.enqueue_many(20)
    maintain(engine, after=61)
    tick = str(uuid.uuid4())

    assert [len(engine.lease(1, tick_id=tick, call=call)) for call in (2, 3, 4)] == [1, 0, 0]


def test_two_workers_at_a_tenants_probe_get_one_job(engine: Engine) -> None:
    """However close together they ask."""
    probing_tenant(engine)
    request = {"limit": 10, "call": 2}
    with (
        engine.beside() as first,
        engine.beside() as second,
        engine.beside() as third,
        ThreadPoolExecutor(3) as threads,
    ):
        first.run("begin")
        held = first.lease(10)
        others = [
            threads.submit(other.lease, 10, tick_id=str(uuid.uuid4()), call=request["call"])
            for other in (second, third)
        ]
        got = [lease for other in others for lease in other.result(60)]
        first.run("commit")

    assert (len(held), got) == (1, [])
    assert engine.lease(100) == []


def test_explain_says_when_a_tenants_type_is_tried_again(engine: Engine) -> None:
    """Neither waiting nor resuming is a guess."""
    poison(engine, 12, ACME)
    maintain(engine)

    with engine.member(ADA) as ada:
        told = ada.rpc("explain_job", p_job_id=ada.enqueue())
    assert told["reason"] == "workspace_type_paused"
    assert "It is tried again from " in told["sentence"]
    assert told["data"]["probe_at"] > told["data"]["paused_at"]


@pytest.mark.parametrize("paused", [True, False])
def test_a_manager_ends_a_tenants_probes(engine: Engine, paused: bool) -> None:
    """What a person decides stands."""
    poison(engine, 12, ACME)
    maintain(engine)
    with engine.member(ADA) as ada:
        request = {"kind": "workspace_type", "name": "work", "workspace_id": ACME, "paused": paused}
        ada.rpc("pause_jobs", p_request=request)
    assert engine.one("select count(*) from queue.breakers") == 0
    engine.run("select queue.half_open('work', %s, queue.clock())", ACME)  # it comes too late
    for after in (6, 4000):
        maintain(engine, after=after)
        assert engine.one("select count(*) from queue.pauses") == paused
