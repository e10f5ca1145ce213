"""Schedules in SQL: cron expressions, time zones, clock changes and missed runs."""

from datetime import UTC, timedelta
from typing import Any

import pytest

from tests.contract.observed import refused
from tests.support.engine import ACME, Engine

SYSTEM = "ffffffff-ffff-4fff-bfff-ffffffffffff"
AFTER = "select queue.first_run(%s, %s, %s)"


def runs(engine: Engine, cron: str, zone: str, after: str, count: int) -> list[str]:
    """Return the next runs of a cron expression after an instant, in UTC."""
    found: list[Any] = [after]
    for _ in range(count):
        found.append(engine.one(AFTER, cron, zone, found[-1]))
    return [at.astimezone(UTC).strftime("%Y-%m-%d %H:%M") for at in found[1:]]


def to_next_minute(engine: Engine) -> None:
    """Move the clock to one second after a full minute, when schedules are due."""
    engine.advance(engine.one("select 61 - extract(second from queue.clock())::float"))


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("*/15 * * * *", ["2026-01-01 00:15", "2026-01-01 00:30"]),
        ("5 4 * * *", ["2026-01-01 04:05", "2026-01-02 04:05"]),
        ("0 22 * * 1-5", ["2026-01-01 22:00", "2026-01-02 22:00", "2026-01-05 22:00"]),
        ("0 0 1,15 * wed", ["2026-01-07 00:00", "2026-01-14 00:00", "2026-01-15 00:00"]),
        ("30 6 * feb,jul sun", ["2026-02-01 06:30", "2026-02-08 06:30"]),
        ("0 12 29 2 *", ["2028-02-29 12:00", "2032-02-29 12:00"]),
        ("10-30/10 8 * * 7", ["2026-01-04 08:10", "2026-01-04 08:20", "2026-01-04 08:30"]),
        ("50/5 23 31 12 *", ["2026-12-31 23:50", "2026-12-31 23:55", "2027-12-31 23:50"]),
        (" @WEEKLY ", ["2026-01-04 00:00", "2026-01-11 00:00"]),
        ("@midnight", ["2026-01-02 00:00", "2026-01-03 00:00"]),
        ("@annually", ["2027-01-01 00:00", "2028-01-01 00:00"]),
    ],
)
def test_expressions_are_those_of_cron(engine: Engine, cron: str, expected: list[str]) -> None:
    """Cron expressions may have lists, ranges, steps and names, and Sunday is 0 or 7.

    If both day and weekday are given, either may match.
    """
    assert runs(engine, cron, "UTC", "2026-01-01T00:00:00Z", len(expected)) == expected


NO_CRON = """
|* * * *|60 * * * *|* 24 * * *|* * 0 * *|* * * 13 *|* * * * 8|*/0 * * * *|1,,2 * * * *
|5-1 * * * *|*-5 * * * *|a * * * *|0 0 30 2 *|* * * * * *|"""


@pytest.mark.parametrize("cron", [*NO_CRON.replace("\n", "").split("|"), "1," * 300_000])
def test_what_is_no_expression_is_refused(engine: Engine, cron: str) -> None:
    """An invalid cron expression is rejected.

    An expression that is never due, such as 30 February, is rejected too.
    """
    assert refused(engine.put_schedule, cron=cron) == ("PT400", "invalid_argument", "cron")


#: For each case: the time zone, the cron expression, the day after which runs are computed, and
#: the times of the next runs in UTC. Clocks in Berlin skip 02:00 to 03:00 on 2026-03-29 and repeat
#: it on 2026-10-25.
CLOCK_CHANGES = [
    ("Europe/Berlin", "30 2 * * *", "2026-03-28", ["28 01:30", "29 01:30", "30 00:30"]),
    ("Europe/Berlin", "30 2 * * *", "2026-10-25", ["25 00:30", "26 01:30"]),
    ("Europe/Berlin", "0 * * * *", "2026-10-25", ["25 01:00", "25 02:00", "25 03:00"]),
    ("Australia/Lord_Howe", "45 1 * * *", "2026-04-04", ["04 14:45", "05 15:15"]),
]


def test_runs_follow_the_clocks_when_they_change(engine: Engine) -> None:
    """A daily run at 02:30 in Berlin runs once on the days of clock changes."""
    for zone, cron, after, expected in CLOCK_CHANGES:
        found = runs(engine, cron, zone, f"{after}T00:00:00Z", len(expected))
        assert [at[8:] for at in found] == expected, (zone, cron, after)


def test_a_zone_has_any_name_that_postgres_lists(engine: Engine) -> None:
    for zone in ("EST5EDT", "Etc/GMT-14", "GMT0", "GB-Eire", "W-SU", "America/Port-au-Prince"):
        assert len(runs(engine, "@daily", zone, "2026-01-01T00:00:00Z", 1)) == 1


@pytest.mark.parametrize(("missed", "jobs"), [("skip", 0), ("once", 1)])
def test_missed_runs_are_made_up_for_by_policy(engine: Engine, missed: str, jobs: int) -> None:
    engine.put_schedule(missed=missed)
    engine.advance(59 * 60)
    to_next_minute(engine)
    for _ in range(2):
        engine.maintain()
    before = engine.count("jobs")
    assert jobs <= before <= jobs + 1
    engine.elapse(240)  # a run that is less than five minutes late is not missed
    assert engine.count("jobs") == before + 1


def test_a_schedule_that_no_longer_fits_says_so_and_stops_no_other(engine: Engine) -> None:
    """A schedule whose payload or time zone became invalid shows its problem.

    Other schedules run.
    """
    engine.put_schedule(name="a", payload={"n": 1})
    engine.put_schedule(name="b", payload={"n": "text"})
    engine.put_schedule(name="c")
    engine.run("update queue.schedules set timezone = 'Mars/Base' where name = 'c'")
    number = {"type": "object", "properties": {"n": {"type": "integer"}}}
    engine.register(payload_schema=number, schema_version=2)
    to_next_minute(engine)

    engine.lease_call(0)

    problems = {
        shown["name"]: (shown["problem"] is None, shown["next_at"] is not None)
        for shown in engine.rpc("list_schedules", p_workspace_id=ACME)["schedules"]
    }
    assert problems == {"a": (True, True), "b": (False, True), "c": (False, True)}
    assert engine.rows("select payload from jobs") == [{"n": 1}]


def declared(engine: Engine) -> list[tuple[str, str, str, str | None]]:
    """Return workspace, name, cron expression and source of each schedule that code declares."""
    return engine.rows(
        "select workspace_id::text, name, cron, source from queue.schedules"
        " where name like 'code:%' order by 1, 2"
    )


def test_schedules_declared_in_code_follow_the_deploy(engine: Engine) -> None:
    """Schedules that code declares belong to the system workspace.

    A later registration changes or removes them.
    """
    other = {"name": "all", "cron": "@daily"}
    source = "app.night:nightly"
    engine.register(
        "nightly", source=source, schedules=[{"name": "night", "cron": "0 3 * * *"}, other]
    )
    night = (SYSTEM, "code:night", "0 3 * * *", source)
    assert declared(engine) == [(SYSTEM, "code:all", "@daily", source), night]
    engine.put_schedule(job_type="nightly")

    engine.register("nightly", source=source, schedules=[{"name": "night", "cron": "0 4 * * *"}])
    assert declared(engine) == [(SYSTEM, "code:night", "0 4 * * *", source)]
    engine.register("nightly", source=source)  # this registration says nothing about schedules
    assert len(declared(engine)) == 1
    engine.register("nightly", schedules=[])
    assert engine.rows("select name from queue.schedules") == ["s"]  # a person's own schedule


def test_a_declared_schedule_rests_while_its_code_runs_nowhere(engine: Engine) -> None:
    """A schedule that code declares enqueues no job while no worker serves its job type."""
    engine.register("nightly", schedules=[{"name": "n", "cron": "@daily"}])
    engine.advance(86_400)
    engine.lease_call(0, call=2, job_types=["work"])
    engine.maintain()

    assert engine.count("jobs") == 0
    assert "no worker serves" in engine.one("select problem from queue.schedules")


NEXT = "select next_at - queue.clock() from queue.schedules where name = %s"


@pytest.mark.parametrize("days", [1.0, 1 / 24])
def test_a_clock_that_was_ahead_for_a_moment_stops_no_schedule(engine: Engine, days: float) -> None:
    """After the clock was ahead and went back, schedules run again within their normal interval."""
    for name, cron in (("minute", "* * * * *"), ("hour", "0 * * * *"), ("odd", "* * * * *")):
        engine.put_schedule(name=name, cron=cron)
    to_next_minute(engine)
    engine.maintain()
    engine.elapse(86400 * days)
    engine.run("update queue.schedules set timezone = 'Mars/Base' where name = 'odd'")
    engine.advance(-86400 * days)
    assert engine.one("select queue.maintenance_is_due(queue.clock(), false)")
    before = engine.count("jobs")

    engine.maintain()

    assert engine.one(NEXT, "minute") <= timedelta(minutes=1)
    assert engine.one(NEXT, "hour") <= timedelta(hours=1)
    for _ in range(3):
        to_next_minute(engine)
        engine.maintain()
    assert engine.count("jobs") - before >= 3


def test_maintenance_asks_for_more_calls_until_every_due_run_is_enqueued(engine: Engine) -> None:
    """If one maintenance call cannot handle all 300 due schedules, it asks for more calls."""
    engine.stop_clock()
    engine.run(
        "insert into queue.schedules (workspace_id, name, cron, job_type, next_at)"
        " select %s, 's' || n, '* * * * *', 'work', queue.clock()"
        " from generate_series(1, 300) as n",
        ACME,
    )

    calls = 1
    while engine.rpc("run_maintenance", p_request={"budget_ms": 50})["more"]:
        calls += 1

    assert calls > 2
    assert engine.count("jobs") == 300


@pytest.mark.parametrize("missed", ["once", "skip"])
def test_maintenance_without_time_left_still_handles_a_schedule(
    engine: Engine, missed: str
) -> None:
    """A maintenance call without time left still handles one due schedule."""
    for name in "ab":
        engine.put_schedule(name=name, missed=missed)
    engine.run("update queue.schedules set next_at = queue.clock() - interval '1 hour'")
    due = "queue.schedules where next_at < queue.clock()"

    for left in (1, 0):
        assert engine.one("select queue.do_schedules(queue.clock(), '-infinity')") == 1
        assert engine.count(due) == left
