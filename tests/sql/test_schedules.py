# ruff: noqa: E501 - requests stay on one line
"""Cron in SQL: expressions, time zones, clock changes, missed runs, no double fire, and what code declares."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, refusal

SYSTEM = "ffffffff-ffff-4fff-bfff-ffffffffffff"


def runs(engine: Engine, cron: str, zone: str, after: str, count: int) -> list[str]:
    """The next runs after an instant, in UTC."""
    found: list[str] = []
    at: Any = after
    for _ in range(count):
        at = engine.one("select queue.cron_next(%s, %s, %s)", cron, zone, at)
        found.append(at.astimezone(UTC).strftime("%Y-%m-%d %H:%M"))
    return found


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("*/15 * * * *", ["2026-01-01 00:15", "2026-01-01 00:30"]),
        ("5 4 * * *", ["2026-01-01 04:05", "2026-01-02 04:05"]),
        ("0 22 * * 1-5", ["2026-01-01 22:00", "2026-01-02 22:00", "2026-01-05 22:00"]),
        ("0 0 1,15 * wed", ["2026-01-07 00:00", "2026-01-14 00:00", "2026-01-15 00:00"]),
        ("30 6 * feb,jul sun", ["2026-02-01 06:30", "2026-02-08 06:30"]),
        ("0 0 1 feb-mar *", ["2026-02-01 00:00", "2026-03-01 00:00", "2027-02-01 00:00"]),
        ("0 12 29 2 *", ["2028-02-29 12:00", "2032-02-29 12:00"]),
        (
            "10-30/10 8 * * 7",
            ["2026-01-04 08:10", "2026-01-04 08:20", "2026-01-04 08:30", "2026-01-11 08:10"],
        ),
        ("50/5 23 31 12 *", ["2026-12-31 23:50", "2026-12-31 23:55", "2027-12-31 23:50"]),
    ],
)
def test_expressions_mean_what_cron_means_by_them(
    engine: Engine, cron: str, expected: list[str]
) -> None:
    """Lists, ranges, steps, names, Sunday as 0 and 7, and day-or-weekday."""
    assert runs(engine, cron, "UTC", "2026-01-01T00:00:00Z", len(expected)) == expected


def test_words_and_long_expressions_are_read(engine: Engine) -> None:
    """In either case, with blanks around them, up to 500 characters."""
    meanings = {
        "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
        "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
    }  # fmt: skip
    for word, cron in meanings.items():
        same = "select queue.cron_parse(%s) = queue.cron_parse(%s)"
        assert engine.one(same, f" {word.upper()} ", cron.ljust(500))


def test_the_rarest_date_is_found(engine: Engine) -> None:
    """1900 and 2100 have no 29 February."""
    assert runs(engine, "0 12 29 2 *", "UTC", "2096-03-01T00:00:00Z", 1) == ["2104-02-29 12:00"]


@pytest.mark.parametrize(
    "cron",
    [
        "",
        "* * * *",
        "60 * * * *",
        "* * 0 * *",
        "* * * 13 *",
        "a * * * *",
        "*/0 * * * *",
        "5-1 * * * *",
        "1,,2 * * * *",
        "* * * * * *",
        "*-5 * * * *",
        "* * * * *".ljust(501),
        "0 0 30 2 *",
    ],
)
def test_what_is_no_expression_is_refused(engine: Engine, cron: str) -> None:
    """Also one that never comes due."""
    schedule = {"name": "s", "cron": cron, "job_type": "work"}

    with pytest.raises(psycopg.Error) as refused:
        engine.rpc("put_schedule", p_workspace_id=ACME, p_schedule=schedule)

    assert refusal(refused.value) == ("PT400", "invalid_argument", "cron")


def test_fixed_hours_run_once_on_days_when_clocks_change(engine: Engine) -> None:
    """Berlin skips 02:00-03:00 on 2026-03-29 and has it twice on 2026-10-25."""
    assert runs(engine, "30 2 * * *", "Europe/Berlin", "2026-03-27T12:00:00Z", 3) == [
        "2026-03-28 01:30", "2026-03-29 01:30", "2026-03-30 00:30"
    ]  # fmt: skip
    assert runs(engine, "30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2) == [
        "2026-10-25 00:30", "2026-10-26 01:30"
    ]  # fmt: skip


def test_every_hour_is_every_real_hour_when_clocks_change(engine: Engine) -> None:
    """Nothing is run twice, no hour is left out."""
    spring = runs(engine, "0 * * * *", "America/New_York", "2026-03-08T05:30:00Z", 4)
    autumn = runs(engine, "0 * * * *", "America/New_York", "2026-11-01T04:30:00Z", 4)

    assert spring == [
        "2026-03-08 06:00",
        "2026-03-08 07:00",
        "2026-03-08 08:00",
        "2026-03-08 09:00",
    ]
    assert autumn == [
        "2026-11-01 05:00",
        "2026-11-01 06:00",
        "2026-11-01 07:00",
        "2026-11-01 08:00",
    ]


def test_a_zone_half_an_hour_off_and_one_that_shifts_by_half_an_hour(engine: Engine) -> None:
    """Kathmandu is at +05:45; Lord Howe goes back thirty minutes on 2026-04-05."""
    assert runs(engine, "0 9 * * *", "Asia/Kathmandu", "2026-01-01T00:00:00Z", 1) == [
        "2026-01-01 03:15"
    ]
    assert runs(engine, "45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", 2) == [
        "2026-04-04 14:45", "2026-04-05 15:15"
    ]  # fmt: skip


def put(engine: Engine, **schedule: Any) -> dict[str, Any]:
    """Make a schedule due every minute, unless given."""
    return dict(
        engine.rpc(
            "put_schedule",
            p_workspace_id=ACME,
            p_schedule={"name": "s", "cron": "* * * * *", "job_type": "work", **schedule},
        )
    )


def due(engine: Engine, seconds: float) -> None:
    """Pretend that the schedule's next run lay in the past, early in a minute."""
    engine.advance(engine.one("select 61 - extract(second from queue.clock())::float"))
    engine.run(
        "update queue.schedules set next_at = date_trunc('minute', queue.clock()) - %s * interval '1 second'",
        seconds,
    )


def test_sixteen_racing_ticks_fire_a_slot_once(engine: Engine) -> None:
    """No leader: the slot's row decides."""
    put(engine, payload={"from": "clock"})
    due(engine, 0)

    engine.race(*[lambda other: other.lease_call(0)] * 16)

    engine.run("update queue.schedules set next_at = last_slot_at")
    engine.advance(1)
    job = engine.lease_one()["job"]
    assert job["payload"] == {"from": "clock"}
    assert engine.one("select job_id::text from queue.schedule_slots") == job["id"]


@pytest.mark.parametrize(("missed", "jobs"), [("skip", 0), ("once", 1), ("all", 61)])
def test_an_hour_of_missed_runs_by_policy(engine: Engine, missed: str, jobs: int) -> None:
    """And then it goes on at the next minute."""
    put(engine, missed=missed)
    due(engine, 3600)

    engine.lease_call(0)

    assert engine.one("select count(*) from public.jobs") == jobs
    assert engine.one("select count(distinct job_id) from queue.schedule_slots") == jobs
    next_at = engine.one(
        "select extract(epoch from next_at - queue.clock())::float from queue.schedules"
    )
    assert 0 < next_at <= 60


def test_many_missed_runs_are_made_up_for_a_hundred_at_a_time(engine: Engine) -> None:
    """After a long outage one schedule leaves room for the others, of each call and minute."""
    engine.stop_clock()
    engine.rpc("set_settings", p_settings={"schedule_runs_per_minute": 150})
    put(engine, missed="all")
    due(engine, 180 * 60)
    fired = []

    for pause in (1, 1, 60, 1, 1):
        fired.append(engine.maintain().get("schedules", 0))
        engine.advance(pause)

    assert fired == [100, 50, 0, 32, 0]


def test_a_slightly_late_run_is_not_a_missed_one(engine: Engine) -> None:
    """Ticks come once a minute; lateness of that size is normal."""
    put(engine, missed="skip")
    jobs = []
    for late in (361, 240, 361):
        due(engine, late)
        engine.lease_call(0)
        jobs.append(engine.one("select count(*) from public.jobs"))

    assert jobs == [0, 1, 1]
    made = str(engine.one("select id from public.jobs"))
    assert str(engine.one("select last_job_id from queue.schedules")) == made


def test_a_workspace_has_as_many_schedules_as_are_listed(engine: Engine) -> None:
    """They are run by the clock past the quota of people, one after another with everybody's."""
    engine.run(
        "insert into queue.schedules (workspace_id, name, cron, job_type)"
        " select %s, 's' || n, '@yearly', 'work' from generate_series(1, 1000) as n",
        ACME,
    )

    with pytest.raises(psycopg.Error) as refused:
        put(engine, name="one more")

    assert refusal(refused.value) == ("PT429", "quota_exceeded", "max_schedules")
    assert put(engine, name="s7", enabled=False)["enabled"] is False


def test_a_schedule_that_no_longer_fits_says_so_and_stops_no_other(engine: Engine) -> None:
    """The type's schema changed under it."""
    put(engine)
    due(engine, 0)
    put(engine, name="fits", cron="@yearly")
    engine.register("work", payload_schema={"type": "object", "required": ["x"]}, schema_version=2)
    engine.enqueue({"x": 1})

    assert len(engine.lease()) == 1
    schedule, other = engine.rpc("list_schedules", p_workspace_id=ACME)["schedules"]
    assert "payload.x is required" in schedule["problem"]
    assert schedule["next_at"] > datetime.now(UTC).isoformat()[:16]
    assert (other["name"], other["problem"]) == ("fits", None)
    assert not {"plan", "held_until"} & schedule.keys()

    engine.register("work", schema_version=3)
    due(engine, 0)
    engine.maintain()
    told = engine.rpc("list_schedules", p_workspace_id=ACME)["schedules"]
    assert [one["problem"] for one in told] == [None, None], "until its next run"


def test_a_schedule_whose_time_zone_is_no_more_rests_for_an_hour(engine: Engine) -> None:
    """The server's list of zones may have changed under it; others run."""
    engine.stop_clock()
    put(engine)
    due(engine, 0)
    engine.run("update queue.schedules set timezone = 'No/Where'")
    put(engine, name="other")

    engine.maintain()

    [[problem, rests]] = engine.rows(
        "select problem, next_at - queue.clock() = interval '1 hour' from queue.schedules where name = 's'"
    )
    assert ("No/Where" in problem, rests) == (True, True)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_run_whose_key_is_held_stays_due(engine: Engine, fresh: bool) -> None:
    """By an open transaction that has the holder's row, or makes the holder that very moment."""
    unique = {"key": "k", "on_conflict": "replace"}
    holder = None if fresh else engine.enqueue(unique=unique, delay_seconds=86400)
    put(engine, name="s", cron="* * * * *", options={"unique": unique})
    due(engine, 60)
    engine.wait_for_nobody()

    with engine.beside() as other, other.connection.transaction():
        if fresh:
            holder = other.enqueue(unique=unique)
        else:
            other.run("update public.jobs set priority = 7 where id = %s", holder)
        engine.lease()
        assert engine.one("select next_at <= queue.clock(), problem from queue.schedules") == (
            True,
            None,
        )
    engine.advance(2)
    engine.lease()

    next_at, job_id, problem = engine.one(
        "select next_at > queue.clock(), last_job_id, problem from queue.schedules"
    )
    assert (next_at, str(job_id), problem) == (True, holder, None)


def test_saving_a_schedule_again_neither_skips_nor_repeats_a_run(engine: Engine) -> None:
    """Deployments put the same schedules every time."""
    first = put(engine)
    due(engine, 30)
    engine.register("other")
    changed = {"payload": {"n": 1}, "options": {"priority": 7}, "missed": "skip", "job_type": "other"}  # fmt: skip
    again = put(engine, **changed)
    assert again.items() >= {**changed, "id": first["id"]}.items()

    engine.lease_call(0)
    put(engine)
    engine.advance(1)
    engine.lease_call(0)

    assert engine.one("select count(*) from queue.schedule_slots") == 1


def test_a_schedule_that_moves_to_another_time_zone_or_hour_runs_by_it(engine: Engine) -> None:
    """From its next run on."""
    for zone, hour in (("UTC", 8), ("Asia/Tokyo", 8), ("Asia/Tokyo", 9)):
        put(engine, cron=f"0 {hour} * * *", timezone=zone)
        local = "extract(hour from next_at at time zone timezone)::integer"
        assert engine.one(f"select {local} from queue.schedules") == hour


def test_a_schedule_that_is_corrected_and_switched_on_begins_from_now(engine: Engine) -> None:
    """What fell due while it was off was not missed, and its problem is no more."""
    put(engine, enabled=False)
    engine.advance(3600)
    engine.run("update queue.schedules set problem = 'no such type'")

    saved = put(engine)

    assert saved["problem"] is None
    assert engine.one("select next_at > queue.clock() from queue.schedules")


def test_runs_do_not_overlap_when_the_schedule_asks_for_unique_jobs(engine: Engine) -> None:
    """The job still running stands for the next run."""
    put(engine, missed="all", options={"unique": {"key": "report"}})
    due(engine, 180)

    engine.lease_call(0)

    assert engine.one("select count(*) from public.jobs") == 1


def put_schedules(engine: Engine, count: int, workspace: str = ACME) -> None:
    """Schedules of every minute, all due."""
    for n in range(count):
        engine.rpc(
            "put_schedule",
            p_workspace_id=workspace,
            p_schedule={"name": f"s{n}", "cron": "* * * * *", "job_type": "work"},
        )
    engine.advance(engine.one("select 61 - extract(second from queue.clock())::float"))


def test_120_schedules_of_every_minute_are_one_call(engine: Engine) -> None:
    """Their expressions were read when they were put, and are not read again."""
    put_schedules(engine, 120)
    engine.run("set track_functions = 'all'")
    read = (
        "select coalesce(sum(calls), 0) from pg_stat_xact_user_functions"
        " where funcname in ('cron_parse', 'cron_mask')"
    )

    with engine.connection.transaction():
        before = engine.one(read)
        assert engine.maintain()["schedules"] == 120
        assert engine.one(read) == before
    assert len(engine.lease(200, call=2)) == 120


def test_a_schedule_that_is_being_saved_stops_no_other(engine: Engine) -> None:
    """It runs once its row is free, and was not put off for having failed."""
    put_schedules(engine, 1)
    put_schedules(engine, 1, workspace=GLOBEX)
    with engine.beside() as other, other.connection.transaction():
        other.run("select from queue.schedules where workspace_id = %s for update", ACME)
        done = engine.rpc("run_maintenance")
        assert (done["done"]["schedules"], done["parked"]) == (1, 0)
    engine.advance(2)

    assert engine.maintain()["schedules"] == 1


def test_runs_of_a_workspace_are_bounded_per_minute(engine: Engine) -> None:
    """What is above the limit waits for the next minute and says why; another's runs do not."""
    assert engine.one("select queue.setting('schedule_runs_per_minute')") == 240
    engine.rpc("set_settings", p_settings={"schedule_runs_per_minute": 10})
    put_schedules(engine, 25)
    put_schedules(engine, 3, workspace=GLOBEX)
    put(engine, name="off", enabled=False)
    engine.run("update queue.schedules set next_at = queue.clock() where name = 'off'")

    assert engine.maintain()["schedules"] == 13
    assert engine.maintain() == {}
    told = engine.rpc("list_schedules", p_workspace_id=ACME)["schedules"]
    assert [one["problem"] for one in told if not one["enabled"]] == [None]
    told = [one for one in told if one["enabled"]]
    assert ["schedule_runs_per_minute" in (one["problem"] or "") for one in told] == [
        *[True] * 15, *[False] * 10,
    ], "what needs a look first"  # fmt: skip
    assert engine.one("select count(*) from queue.schedules where held_until > queue.clock()") == 15
    engine.advance(60)
    assert engine.maintain()["schedules"] == 13
    assert engine.one("select count(*) from public.jobs where workspace_id = %s", ACME) == 20
    # those that waited come first
    ran = (
        "select count(*) from queue.schedules where workspace_id = %s and last_slot_at is not null"
    )
    assert engine.one(ran, ACME) == 20


@pytest.mark.parametrize(("user", "answer"), [(ADA, None), (BOB, "PT403"), (EVE, "PT404")])
def test_managers_keep_schedules_members_read_them(
    engine: Engine, user: str, answer: str | None
) -> None:
    """Strangers do not learn that the workspace exists."""
    schedule = {"name": "s", "cron": "@daily", "job_type": "work", "timezone": "Europe/Berlin"}
    with engine.member(user) as person:
        if answer is None:
            made = person.rpc("put_schedule", p_workspace_id=ACME, p_schedule=schedule)
            assert made["created_by"] == user
            internal = {**schedule, "job_type": "webhook_delivery"}
            with pytest.raises(psycopg.Error) as refused:
                person.rpc("put_schedule", p_workspace_id=ACME, p_schedule=internal)
            assert refusal(refused.value) == ("PT403", "forbidden", "job_type")
            person.rpc("delete_schedule", p_workspace_id=ACME, p_name="s")
        else:
            for function, arguments in (
                ("put_schedule", {"p_schedule": schedule}),
                ("delete_schedule", {"p_name": "s"}),
            ):
                with pytest.raises(psycopg.Error) as refused:
                    person.rpc(function, p_workspace_id=ACME, **arguments)
                assert refused.value.sqlstate == answer
        if answer == "PT404":
            with pytest.raises(psycopg.Error):
                person.rpc("list_schedules", p_workspace_id=ACME)
        else:
            assert person.rpc("list_schedules", p_workspace_id=ACME) == {"schedules": []}


def test_a_name_is_a_workspaces_own(engine: Engine) -> None:
    """Another's schedule of that name is neither listed nor deleted by it."""
    put(engine)
    [[own], [shared]] = (
        engine.rpc("list_schedules", p_workspace_id=of)["schedules"] for of in (ACME, None)
    )
    assert (own["payload"], own["options"], shared["workspace_name"]) == ({}, {}, "Acme")
    assert not {"payload", "options"} & shared.keys()
    with engine.member(EVE) as eve:
        assert eve.rpc("list_schedules", p_workspace_id=GLOBEX) == {"schedules": []}
        with pytest.raises(psycopg.Error) as refused:
            eve.rpc("delete_schedule", p_workspace_id=GLOBEX, p_name="s")
    assert refusal(refused.value) == ("PT404", "schedule_not_found", "s")


@pytest.mark.parametrize(
    ("change", "field"),
    [({"timezone": "Mars/Olympus"}, "timezone"), ({"timezone": "UTC+3; drop"}, "timezone"), ({"missed": "often"}, "missed"),
     ({"options": {"after": []}}, "options.after"), ({"typo": 1}, "typo"), ({"name": ""}, "name"), ({"job_type": "nobody"}, "job_type"),
     ({"name": None}, "name"), ({"name": "x" * 201}, "name"), ({"cron": None}, "cron"), ({"options": []}, "options"), ({"enabled": "perhaps"}, "schedule")],
)  # fmt: skip
def test_a_bad_schedule_is_refused_by_field(
    engine: Engine, change: dict[str, Any], field: str
) -> None:
    """Before it ever fires."""
    with pytest.raises(psycopg.Error) as refused:
        put(engine, **change)

    answer = ("PT422", "unknown_job_type") if field == "job_type" else ("PT400", "invalid_argument")
    assert refusal(refused.value) == (*answer, field)


def test_a_run_that_is_tried_again_after_its_schedule_was_switched_off_is_none(
    engine: Engine,
) -> None:
    """What is parked is tried by its id, also after its end."""
    made = put(engine, enabled=False)
    engine.advance(120)

    fired = "select queue.fire_schedules(array[%s]::uuid[], queue.clock())"
    assert engine.one(fired, made["id"]) == 0
    engine.run("update queue.schedules set enabled = true, held_until = now() + interval '1 hour'")
    assert engine.one(fired, made["id"]) == 0


def test_a_declared_schedule_that_never_comes_due_is_refused(engine: Engine) -> None:
    """30 February was stored, on, and without a problem for ever."""
    never = "the schedule tidy of work never comes due: 0 0 30 2"
    with pytest.raises(psycopg.Error, match=never) as refused:
        engine.register("work", schedules=[{"name": "tidy", "cron": "0 0 30 2 *"}])
    assert refusal(refused.value) == ("PT400", "invalid_argument", "cron")


def schedules(engine: Engine) -> list[tuple[str, str, str, str | None]]:
    """Workspace, name, cron and source of every schedule, persons' aside."""
    return engine.rows(
        "select workspace_id::text, name, cron, source from queue.schedules where name like 'code:%' order by 1, 2"
    )


def test_schedules_declared_in_code_follow_the_deploy(engine: Engine) -> None:
    """For the system, for each workspace, for one; changed, and gone with the next version."""
    declared = [
        {"name": "night", "cron": "0 3 * * *"},
        {
            "name": "mine",
            "cron": "0 7 * * 1",
            "scope": "workspace",
            "workspace_id": ACME,
            "timezone": "Europe/Berlin",
        },
        {"name": "all", "cron": "@daily", "scope": "each"},
    ]
    engine.register("nightly", source="app.night:nightly", schedules=declared)
    source = "app.night:nightly"
    assert schedules(engine) == [
        (ACME, "code:all", "@daily", source), (ACME, "code:mine", "0 7 * * 1", source),
        (GLOBEX, "code:all", "@daily", source), (SYSTEM, "code:night", "0 3 * * *", source),
    ]  # fmt: skip
    hour = "select extract(hour from next_at at time zone timezone)::int from queue.schedules where name = 'code:mine'"
    assert engine.one(hour) == 7
    put(engine, job_type="nightly")

    engine.register(
        "nightly", source=source, schedules=[{**declared[2], **declared[1], "name": "all"}]
    )
    assert [found[:2] for found in schedules(engine)] == [(ACME, "code:all")]
    engine.register(
        "nightly", source="app.night:nightly", schedules=[{"name": "night", "cron": "0 4 * * *"}]
    )
    assert schedules(engine) == [(SYSTEM, "code:night", "0 4 * * *", source)]
    for scope, kept in (("each", [ACME, GLOBEX]), ("system", [SYSTEM])) * 2:
        engine.register(
            "nightly", source=source, schedules=[{"name": "n", "cron": "@daily", "scope": scope}]
        )
        assert [found[0] for found in schedules(engine)] == kept
    engine.register("nightly", source="app.night:nightly")  # says nothing of schedules
    assert len(schedules(engine)) == 1
    engine.register("nightly", schedules=[])
    assert engine.rows("select name from queue.schedules") == ["s"]  # a person's own


def test_a_new_workspace_gets_what_is_for_each(engine: Engine) -> None:
    """With the next maintenance."""
    engine.register("nightly", schedules=[{"name": "all", "cron": "@daily", "scope": "each"}])
    engine.register("weekly", schedules=[{"name": "w", "cron": "@weekly"}])  # takes none from it
    new = engine.one("insert into public.workspaces (name) values ('New') returning id::text")
    own = {"name": "own", "cron": "@daily", "job_type": "work"}
    engine.rpc("put_schedule", p_workspace_id=new, p_schedule=own)
    engine.advance(61)
    engine.maintain()

    assert new in [workspace for workspace, *_ in schedules(engine)]


def test_a_schedule_of_the_system_makes_jobs_of_no_tenant(engine: Engine) -> None:
    """They run, and nobody but the operator sees them; the clean-up of orphans leaves them."""
    engine.register(
        "nightly", schedules=[{"name": "night", "cron": "* * * * *", "payload": {"n": 1}}]
    )
    engine.advance(120)
    engine.maintain()
    [job] = engine.rpc("list_jobs", p_filter={"workspace_id": SYSTEM})["jobs"]
    assert job["glimpse"] == "n: 1"
    [shown] = engine.rpc("list_schedules")["schedules"]
    assert shown["workspace_name"] == "the system"
    engine.advance(400)
    engine.maintain()
    engine.run_all()
    assert engine.status(job["id"]) == "completed"


def test_a_deploy_skips_no_run_and_an_older_worker_declares_nothing(engine: Engine) -> None:
    """While both run, each says what its own code declares."""
    for seconds, version, payload in ((0, 2, 1), (120, 2, 2), (0, 1, 3)):
        engine.advance(seconds)
        options = {"priority": 100 + payload}
        schedule = {"name": "night", "cron": "* * * * *", "payload": {"n": payload}, "options": options}  # fmt: skip
        engine.register("nightly", schema_version=version, schedules=[schedule])

    engine.maintain()

    assert engine.rows("select payload, priority from public.jobs") == [({"n": 2}, 102)]


@pytest.mark.parametrize("scope", [{"scope": "workspace", "workspace_id": ACME}, {"scope": "each"}])
def test_people_only_switch_a_declared_schedule(engine: Engine, scope: dict[str, str]) -> None:
    """What it says is the code's; a deploy does not switch it on again."""
    declared = [
        {"name": name, "cron": f"0 {hour} * * 1", **scope}
        for name, hour in (("also", 9), ("mine", 7))
    ]
    engine.register("nightly", schedules=declared)
    with engine.member(ADA) as ada:
        for enabled in (False, True, False):
            switch = {"name": "code:mine", "cron": "0 7 * * 1", "enabled": enabled}
            made = ada.rpc("put_schedule", p_workspace_id=ACME, p_schedule=switch)
            assert made["enabled"] is enabled
            assert not {"plan", "held_until"} & made.keys()
            own = "from queue.schedules where name = 'code:mine' and workspace_id = %s"
            seen = f"select enabled, enabled and next_at <= queue.clock() {own}"
            assert engine.one(seen, ACME) == (enabled, False)
            engine.advance(8 * 86400)
        calls: list[Callable[[], Any]] = [
            lambda: ada.rpc(
                "put_schedule",
                p_workspace_id=ACME,
                p_schedule={"name": "code:mine", "cron": "* * * * *"},
            ),
            lambda: ada.rpc("delete_schedule", p_workspace_id=ACME, p_name="code:mine"),
        ]
        for call in calls:
            with pytest.raises(psycopg.Error) as refused:
                call()
            assert refusal(refused.value)[:2] == ("PT409", "declared_in_code")
    engine.register("nightly", schedules=[{**declared[1], "cron": "0 8 * * 1"}])

    assert engine.one(f"select cron || enabled {own}", ACME) == "0 8 * * 1false"
    assert engine.one("select count(*) from queue.schedules where name = 'code:also'") == 0


def test_a_declared_schedule_rests_while_its_code_runs_nowhere(engine: Engine) -> None:
    """The type was removed from the code, and nobody declares that it is gone."""
    engine.register("nightly", schedules=[{"name": "night", "cron": "* * * * *"}])
    put(engine, job_type="nightly")
    engine.advance(3600)
    engine.rpc(
        "lease_jobs",
        p_request={"worker_id": "w1", "tick_id": ACME, "limit": 0, "job_types": ["work"]},
    )
    engine.maintain()

    assert engine.rows("select workspace_id::text from public.jobs") == [ACME]  # a person's own
    problem = "select problem from queue.schedules where source is not null"
    assert "no worker serves" in engine.one(problem)
