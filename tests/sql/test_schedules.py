# ruff: noqa: E501 - requests stay on one line
"""Cron in SQL: expressions, time zones, clock changes, missed runs, and no double fire."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, ADA, BOB, EVE, Engine, refusal


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
        ("0 12 29 2 *", ["2028-02-29 12:00", "2032-02-29 12:00"]),
        (
            "10-30/10 8 * * 7",
            ["2026-01-04 08:10", "2026-01-04 08:20", "2026-01-04 08:30", "2026-01-11 08:10"],
        ),
        ("50/5 23 31 12 *", ["2026-12-31 23:50", "2026-12-31 23:55", "2027-12-31 23:50"]),
        ("@monthly", ["2026-02-01 00:00", "2026-03-01 00:00"]),
    ],
)
def test_expressions_mean_what_cron_means_by_them(
    engine: Engine, cron: str, expected: list[str]
) -> None:
    """Lists, ranges, steps, names, Sunday as 0 and 7, and day-or-weekday."""
    assert runs(engine, cron, "UTC", "2026-01-01T00:00:00Z", len(expected)) == expected


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
        ",".join(["0-59"] * 200) + " * * * *",
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

    assert engine.one("select count(*) from queue.schedule_slots") == 1
    assert engine.lease_one()["job"]["payload"] == {"from": "clock"}


@pytest.mark.parametrize(("missed", "jobs"), [("skip", 0), ("once", 1), ("all", 61)])
def test_an_hour_of_missed_runs_by_policy(engine: Engine, missed: str, jobs: int) -> None:
    """And then it goes on at the next minute."""
    put(engine, missed=missed)
    due(engine, 3600)

    engine.lease_call(0)

    assert engine.one("select count(*) from public.jobs") == jobs
    next_at = engine.one(
        "select extract(epoch from next_at - queue.clock())::float from queue.schedules"
    )
    assert 0 < next_at <= 60


def test_many_missed_runs_are_made_up_for_a_hundred_at_a_time(engine: Engine) -> None:
    """After a long outage one schedule leaves room for the others of each call."""
    put(engine, missed="all")
    due(engine, 180 * 60)
    fired = []

    for _ in range(3):
        fired.append(engine.maintain().get("schedules", 0))
        engine.advance(1)

    assert fired == [100, 81, 0]


def test_a_slightly_late_run_is_not_a_missed_one(engine: Engine) -> None:
    """Ticks come once a minute; lateness of that size is normal."""
    put(engine, missed="skip")
    due(engine, 60)

    engine.lease_call(0)

    assert engine.one("select count(*) from public.jobs") == 1


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
    engine.register("work", payload_schema={"type": "object", "required": ["x"]}, schema_version=2)
    engine.enqueue({"x": 1})

    assert len(engine.lease()) == 1
    [schedule] = engine.rpc("list_schedules", p_workspace_id=ACME)["schedules"]
    assert "payload.x is required" in schedule["problem"]
    assert schedule["next_at"] > datetime.now(UTC).isoformat()[:16]


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
    again = put(engine)
    assert again["id"] == first["id"]

    engine.lease_call(0)
    put(engine)
    engine.advance(1)
    engine.lease_call(0)

    assert engine.one("select count(*) from queue.schedule_slots") == 1


def test_a_schedule_that_moves_to_another_time_zone_runs_by_it(engine: Engine) -> None:
    """From its next run on, though the expression is the same."""
    for zone in ("UTC", "Asia/Tokyo"):
        put(engine, cron="0 8 * * *", timezone=zone)
        local = "extract(hour from next_at at time zone timezone)::integer"
        assert engine.one(f"select {local} from queue.schedules") == 8


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


@pytest.mark.parametrize(("user", "answer"), [(ADA, None), (BOB, "PT403"), (EVE, "PT404")])
def test_managers_keep_schedules_members_read_them(
    engine: Engine, user: str, answer: str | None
) -> None:
    """Strangers do not learn that the workspace exists."""
    schedule = {"name": "s", "cron": "@daily", "job_type": "work", "timezone": "Europe/Berlin"}
    with engine.member(user) as person:
        if answer is None:
            person.rpc("put_schedule", p_workspace_id=ACME, p_schedule=schedule)
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


@pytest.mark.parametrize(
    ("change", "field"),
    [({"timezone": "Mars/Olympus"}, "timezone"), ({"timezone": "UTC+3; drop"}, "timezone"), ({"missed": "often"}, "missed"),
     ({"options": {"after": []}}, "options.after"), ({"typo": 1}, "typo"), ({"name": ""}, "name"), ({"job_type": "nobody"}, "job_type")],
)  # fmt: skip
def test_a_bad_schedule_is_refused_by_field(
    engine: Engine, change: dict[str, Any], field: str
) -> None:
    """Before it ever fires."""
    with pytest.raises(psycopg.Error) as refused:
        put(engine, **change)

    assert refusal(refused.value)[2] == field


def test_a_run_that_is_tried_again_after_its_schedule_was_switched_off_is_none(
    engine: Engine,
) -> None:
    """What is parked is tried by its id, also after its end."""
    made = put(engine, enabled=False)
    engine.advance(120)

    fired = "select queue.fire_schedules(array[%s]::uuid[], queue.clock())"
    assert engine.one(fired, made["id"]) == 0


def test_a_declared_schedule_that_never_comes_due_is_refused(engine: Engine) -> None:
    """30 February was stored, on, and without a problem for ever."""
    with pytest.raises(psycopg.Error, match="the schedule tidy of work never comes due: 0 0 30 2"):
        engine.register("work", schedules=[{"name": "tidy", "cron": "0 0 30 2 *"}])
