"""Calls that are made during an upgrade from an earlier release succeed."""

import json
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infra.release import releases
from minutehand.install.rewrite import Schemas
from minutehand.version import VERSION
from supabase_local.migrations import apply_migrations, migrations_in
from tests.install.projects import HostedDatabase, data_api
from tests.install.upgrades import files_of, upgrade
from tests.support.engine import ACME, ADA, Engine
from tests.support.paths import ROOT
from tests.support.patience import until

SCHEMAS = Schemas("public")
#: A project with a workspace's manager, a table, and a trigger that enqueues a job.
PROJECT = f"""
insert into public.workspaces (id, name) values ('{ACME}', 'Acme');
insert into public.workspace_members values ('{ACME}', '{ADA}', 'manager');
select public.register_job_types('[{{"job_type": "plain"}}]');
create table public.orders (id integer generated always as identity);
create function public.enqueue_order() returns trigger language plpgsql as $$
begin
  perform public.enqueue_job('{ACME}', 'plain', '{{}}');
  return new;
end;
$$;
create trigger enqueue_order after insert on public.orders
for each row execute function public.enqueue_order();
"""
HOOK = {"url": "https://example.com", "sealed_secret": "mh1.a.b.c", "event_types": ["job.created"]}
#: Statements, each of which creates one job.
ENQUEUES = [
    f"select public.enqueue_job('{ACME}', 'plain', '{{}}')",
    f"select public.enqueue_jobs('{ACME}', '{json.dumps([{'job_type': 'plain'}])}')",
    f"insert into public.jobs (workspace_id, job_type) values ('{ACME}', 'plain')",
    "insert into public.orders default values",
]
COUNT = "select count(*) from public.jobs where job_type = 'plain'"
OTHERS = [
    "select public.run_maintenance()",
    "select public.explain_queue()",
    "select public.queue_health()",
    f"select public.queue_stats('{ACME}')",
    f"select public.queue_series('{ACME}')",
    f"select public.dead_letters('{ACME}')",
    f"select public.emit_event('{ACME}', 'sent')",
    f"select public.put_webhook('{ACME}', '{json.dumps(HOOK)}')",
    f"select public.list_webhooks('{ACME}')",
    "select count(*) from public.job_events",
    f"select public.event_feed('{ACME}', '1:1:')",
]


*OLDER, LAST = (name for name in releases.read() if name != VERSION)
WEEKLY = [pytest.param(name, marks=pytest.mark.weekly(only=True)) for name in OLDER]


@pytest.mark.parametrize("release", [*WEEKLY, LAST])
def test_calls_during_an_upgrade_succeed_once(
    release: str, texts: list[str], hosted: HostedDatabase, tmp_path: Path
) -> None:
    """Calls from SQL, a trigger, the Data API and a worker wait during an upgrade and succeed once.

    Half of the sessions have cached query plans of the old functions.
    """
    versions = list(releases.read())
    home = tmp_path / "supabase/migrations"
    home.mkdir(parents=True)
    upgrade(tmp_path, texts, SCHEMAS, release=release)
    pause, change = migrations_in(home)
    released = [ROOT / name for name in files_of(versions[: versions.index(release) + 1])]
    apply_migrations(hosted.owner_url, released)
    hosted.sign_up()
    hosted.as_owner(PROJECT)
    with data_api(hosted, "public") as api, ExitStack() as sessions:
        calls: list[Any] = []
        for statement in (*ENQUEUES, *OTHERS):
            for is_warm in (True, False):
                session = sessions.enter_context(psycopg.connect(hosted.owner_url, autocommit=True))
                call = partial(session.execute, statement.encode())
                if is_warm:
                    call()
                calls.append(call)
        engine = Engine(hosted, session)
        first, second = engine.lease(2, lease_seconds=600, job_types=["plain"])
        one, other, third = (sessions.enter_context(engine.another_session()) for _ in range(3))
        calls += [
            partial(one.settle, first),
            partial(other.report, second, progress={"percent": 5}),
            partial(third.lease_call, call=2),
        ]
        member = api.of(ADA)
        calls.append(partial(member.rpc, "enqueue_job", workspace_id=ACME, job_type="plain"))
        [(before,)] = hosted.run(COUNT)

        apply_migrations(hosted.owner_url, [pause])
        with (
            ThreadPoolExecutor(len(calls)) as callers,
            psycopg.connect(hosted.owner_url) as running,
        ):
            running.execute(change.read_bytes())
            results = [callers.submit(call) for call in calls]
            until(lambda: waiting(hosted) + sum(map(Future.done, results)) >= len(calls))
            running.commit()
            errors = {str(result.exception()) for result in results} - {"None"}

        assert errors == set()
        assert results[-1].result().status_code == 200, results[-1].result().text
        made = len(ENQUEUES) * 2 + 1
        assert hosted.run(COUNT) == [(before + made,)]
        assert hosted.run("select name from queue.tasks where retry_at is not null") == []


def waiting(database: HostedDatabase) -> int:
    """Return the number of calls that wait for a lock."""
    [(count,)] = database.run("select count(*) from pg_locks where not granted")
    return int(count)
