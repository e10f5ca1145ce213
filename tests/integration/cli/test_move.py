"""`minutehand move-workspace`, which moves a workspace's jobs to another database, with kills.

Each test has two databases, because a move deletes what it moved.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from minutehand.cli.move import Move
from minutehand.install.rewrite import Schemas
from minutehand.terminal.connection import CommandFailed
from supabase_local.postgres import Postgres
from tests.contract.observed import breaches
from tests.sql.conftest import INVARIANTS
from tests.support.command import Run
from tests.support.databases import SEEDED, fresh_database
from tests.support.engine import ACME, GLOBEX, Engine, Json
from tests.support.paths import ROOT
from tests.support.patience import until

RUN = Run(env={"SUPABASE_URL": "http://127.0.0.1:1", "MINUTEHAND_SCHEMA": "public"})
TYPES: dict[str, Json] = {
    "work": {"lease_seconds": 60},
    "keyed": {"key_concurrency": 1},
    "rated": {"rate_limit": {"limit": 2, "per_seconds": 60, "per_key": True}},
}
#: A query of everything that a job's owner can see of the job.
SEEN = """
select j.id, to_jsonb(j) - '{lane,worker}'::text[],
  (select jsonb_agg(to_jsonb(e) order by e.seq) from job_events as e where e.job_id = j.id),
  (select jsonb_agg(s.value order by s.name, s.nth) from queue.steps as s where s.job_id = j.id),
  (select jsonb_agg(l.message order by l.id) from job_logs as l where l.job_id = j.id),
  (select jsonb_agg(o.text order by o.end_offset) from queue.output as o where o.job_id = j.id),
  (select w.worker_id from queue.workers as w where w.worker = j.worker)
from jobs as j where j.workspace_id = %s order by j.id
"""


@pytest.fixture
def engines(postgres: Postgres) -> Iterator[tuple[Engine, Engine]]:
    """Two databases with equal job types. The second one has other lanes and workers."""
    with ExitStack() as stack:
        databases = [
            stack.enter_context(fresh_database(postgres, template=SEEDED)) for _ in range(2)
        ]
        source, destination = (Engine(database, database.session()) for database in databases)
        destination.register("first", queue="others")
        for engine in (destination, source):
            engine.publish_deliveries()
            for job_type, policy in TYPES.items():
                engine.register(job_type, **policy)
        destination.enqueue(workspace=GLOBEX)
        destination.settle(destination.lease_one(worker="of-destination"))
        yield source, destination
        for engine in (source, destination):
            assert breaches(engine.connection, **INVARIANTS) == {}


def _fill(engine: Engine, ended: int = 5) -> None:
    """Create a job in every state for the workspace Acme, with events, steps and log lines."""
    engine.stop_clock()  # a delivery of the webhook is made a second later, and would be leased
    engine.put_webhook(event_types=["job.failed"])
    engine.enqueue_many(ended)
    engine.run_all()
    engine.enqueue({"n": 1}, max_attempts=1)
    engine.settle(engine.lease_one(), "failed", error={"message": "no"})
    engine.enqueue()
    engine.settle(engine.lease_one(), "retry", error={"message": "later"}, delay_seconds=600)
    parent, lease = engine.start()
    engine.report(
        lease,
        logs=[{"level": "info", "message": "one"}, {"level": "info", "message": "two"}],
        steps=[{"name": "paid", "value": 7}],
    )
    children = engine.spawn(lease, "children", [{"job_type": "work", "payload": {}}] * 2)
    engine.suspend(lease, kind="children", job_ids=children)
    assert parent not in children
    engine.settle(engine.lease(1)[0])  # one child has ended, and the other is ready
    engine.suspend(engine.lease_one(), kind="event", event="paid")
    engine.enqueue(delay_seconds=3600, deadline_at="2099-01-01T00:00:00Z", start_by_seconds=9000)
    for key in ("a", "a", "b"):
        engine.enqueue(job_type="keyed", concurrency_key=key)
        engine.enqueue(job_type="rated", concurrency_key=key)
    engine.enqueue(job_type="nobodys")
    engine.enqueue(idempotency_key="once", unique={"key": "one"}, tags=["x"])
    engine.put_schedule(name="daily", cron="@daily")
    _read_events(engine)


def _read_events(engine: Engine) -> None:
    """Let the webhook read all events, including those of its deliveries."""
    for _ in range(2):
        engine.elapse(2)


def _command(source: Engine, destination: Engine) -> list[str]:
    return ["move-workspace", source.database.url, destination.database.url, "-w", ACME, "--yes"]


def test_every_state_arrives_and_ends_there(engines: tuple[Engine, Engine]) -> None:
    source, destination = engines
    source.run("select setval('queue.feed_base', 1000000000)")  # higher event numbers
    _fill(source)
    before = source.rows(SEEN, ACME)
    command = _command(source, destination)
    assert RUN.refused(*command)["code"] == "invalid_state"  # the workspace is not paused
    source.pause("workspace")
    moved = RUN.json(*command)["rows"]

    assert (moved["jobs"], moved["schedules"]) == (len(before), 1)
    assert destination.rows(SEEN, ACME) == before
    assert source.rows(SEEN, ACME) == []
    assert source.count("queue.schedules") == 0
    assert destination.enqueue(idempotency_key="once") in {str(row[0]) for row in before}
    destination.rpc("emit_event", p_workspace_id=ACME, p_name="paid", p_payload={})
    destination.advance(7200)
    for _ in range(4):
        destination.run_all()
        destination.advance(120)
    left = destination.rows(
        "select job_type from jobs where workspace_id = %s and finished_at is null", ACME
    )
    assert left == ["nobodys"]
    failed = destination.enqueue(max_attempts=1)
    destination.settle(destination.lease_one(), "failed", error={"message": "no"})
    destination.elapse(2)
    delivered = "select payload ->> 'job_id' from jobs where job_type = 'webhook_delivery'"
    assert failed in destination.rows(delivered)


@pytest.fixture
def move(engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch) -> Iterator[Move]:
    """A move between the two databases in rounds of one family of jobs."""
    monkeypatch.setattr("minutehand.cli.move.FAMILIES", 1)
    with ExitStack() as stack:
        here, there = (stack.enter_context(engine.database.connect()) for engine in engines)
        yield Move(here, there, ACME, Schemas("public"))


def test_a_job_moves_with_the_job_that_it_awaits(
    engines: tuple[Engine, Engine], move: Move
) -> None:
    source, _ = engines
    once = source.enqueue(idempotency_key="once", delay_seconds=3600)
    source.enqueue()
    lease = source.lease_one()
    child = {"job_type": "work", "payload": {}, "idempotency_key": "once"}
    assert source.spawn(lease, "other", [child]) == [once]
    source.suspend(lease, kind="children", job_ids=[once])
    source.pause("workspace")
    assert list(move.run()) == [2]


def test_jobs_that_run_again_between_two_rounds_stay(
    engines: tuple[Engine, Engine], move: Move
) -> None:
    source, destination = engines
    source.enqueue_many(2)
    source.pause("workspace")
    rounds = move.run()
    next(rounds)
    source.resume("workspace")
    with pytest.raises(CommandFailed, match="must be paused"):
        next(rounds)
    assert [engine.count("jobs") for engine in engines] == [1, 2]
    assert destination.lease(1) == []


def test_newer_jobs_of_the_destination_keep_their_keys(engines: tuple[Engine, Engine]) -> None:
    source, destination = engines
    _fill(source)
    newer = destination.enqueue(idempotency_key="once", unique={"key": "one"})
    destination.put_schedule(name="daily", cron="@hourly")
    for engine in engines:
        engine.pause("workspace")
    RUN(*_command(source, destination))
    assert destination.count("queue.pauses") == 1  # only the pause of the move ends
    destination.resume("workspace")
    assert destination.enqueue(idempotency_key="once") == newer
    assert destination.one("select cron from queue.schedules") == "@daily"
    destination.run_all()


def test_a_refused_move_changes_nothing(engines: tuple[Engine, Engine]) -> None:
    source, destination = engines
    source.put_webhook()
    source.enqueue()
    source.pause("workspace")
    command = _command(source, destination)
    assert "webhooks" in RUN.refused(*command)["error"]
    command[2] = "postgresql://127.0.0.1:1/none"
    assert RUN.refused(*command)["code"] == "unreachable"
    command[2] = "missing.env"
    assert RUN.refused(*command, code=2)["code"] == "bad_usage"
    command[2], command[4] = destination.database.url, "nonsense"
    assert RUN.refused(*command)["code"] == "invalid_state"
    assert destination.count("queue.pauses") == 0


#: A trigger that makes the source's commit wait after the destination has committed.
LATE_COMMIT = """
create function public.wait_at_commit() returns trigger language plpgsql as $$
begin
  perform pg_advisory_xact_lock(7);
  return null;
end $$;
create constraint trigger wait_at_commit after delete on jobs
deferrable initially deferred for each row execute function public.wait_at_commit();
alter table jobs enable always trigger wait_at_commit;
"""


def _kill_a_move(source: Engine, destination: Engine) -> None:
    """Kill a move after the destination's commit of a round and before the source's."""
    environment = {**os.environ, **RUN.env}
    command = [sys.executable, "-m", "minutehand.cli", *_command(source, destination)]
    waiting = (
        "select pid from pg_stat_activity where datname = current_database()"
        " and wait_event = 'advisory'"
    )
    with source.another_session() as holder:
        holder.run(LATE_COMMIT)
        holder.run("select pg_advisory_lock(7)")
        with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as move:

            def waiting_sessions() -> list[int]:
                assert move.poll() is None, move.communicate()
                return holder.rows(waiting)

            [pid] = until(waiting_sessions)
            move.kill()
        holder.run("select pg_terminate_backend(%s, 10000)", pid)
        holder.run("drop function public.wait_at_commit cascade")


@pytest.mark.parametrize("moves", [2, pytest.param(10, marks=pytest.mark.weekly(only=True))])
def test_kills_lose_and_double_nothing(engines: tuple[Engine, Engine], moves: int) -> None:
    source, destination = engines
    _fill(source, ended=600)  # so many jobs that the move has two rounds
    source.pause("workspace")
    for _ in range(moves):
        source.enqueue({"late": True})
        _read_events(source)
        before = source.rows(SEEN, ACME)
        _kill_a_move(source, destination)
        assert source.rows(SEEN, ACME) == before
        moved = {str(row[0]) for row in destination.rows(SEEN, ACME)}
        assert 500 <= len(moved) < len(before)
        assert destination.lease(1000) == []  # the workspace is still paused
        late = source.enqueue({"later": True})
        _read_events(source)
        RUN(*_command(source, destination))
        assert source.rows(SEEN, ACME) == []
        assert [row for row in destination.rows(SEEN, ACME) if str(row[0]) != late] == before
        destination.pause("workspace")
        source, destination = destination, source
        destination.resume("workspace")
