# ruff: noqa: E501 - statements stay on one line
"""Extensions that are switched on after the migrations are picked up, and nothing is made twice."""

from __future__ import annotations

import re

import psycopg
import pytest

from tests.support.databases import Database
from tests.support.engine import ACME, ADA, Engine, refusal
from tests.support.extensions import PG_CRON, PG_NET, VAULT, create

URL = "https://jobs.example.com/api/jobs/worker"
TOKEN = "a-worker-secret-token"


def state(engine: Engine) -> dict[str, str]:
    """What is attached, without changing anything."""
    found: dict[str, str] = engine.one("select queue.extension_state()")
    return found


def test_a_fresh_project_has_what_its_migrations_found(engine: Engine) -> None:
    """The local base has Realtime and Auth, as a hosted project has."""
    assert state(engine) == {
        "pg_cron": "absent",
        "pg_net": "absent",
        "realtime": "attached",
        "worker_guard": "attached",
    }


def test_pg_cron_and_pg_net_that_come_later_are_attached_once(engine: Engine) -> None:
    """By the worker's role, which may call it, and again without harm."""
    create(engine.connection, PG_CRON, PG_NET, VAULT)
    assert state(engine)["pg_cron"] == "not_attached"

    with engine.database.as_role("job_worker") as connection:
        worker = Engine(engine.database, connection)
        first, again = worker.rpc("attach_extensions"), worker.rpc("attach_extensions")

    assert (
        first
        == again
        == {
            "pg_cron": "attached",
            "pg_net": "no_worker",
            "realtime": "attached",
            "worker_guard": "attached",
            "problems": {},
        }
    )
    assert engine.rows(
        "select jobname, schedule, command, username from cron.job where jobname = 'minutehand-tick'"
    ) == [("minutehand-tick", "* * * * *", "select queue.invoke_worker()", "postgres")]
    tidy = "select schedule, command from cron.job where jobname <> 'minutehand-tick'"
    schedule, command = engine.one(tidy)
    assert schedule == "17 3 * * *"
    assert re.search("interval '7 days' and jobid in .* like 'minutehand-%'", command)
    engine.run("delete from cron.job where jobname = 'minutehand-tidy'")
    assert state(engine)["pg_cron"] == "not_attached"


def test_a_schedule_of_an_earlier_version_is_replaced(engine: Engine) -> None:
    """Its command calls a function that is gone."""
    create(engine.connection, PG_CRON)
    engine.run(
        "insert into cron.job (jobname, schedule, command, username) select name, '* * * * *', 'select queue.old()', 'postgres' from queue.cron_entries()"
    )

    assert engine.rpc("attach_extensions")["pg_cron"] == "attached"

    assert engine.rows("select command from cron.job where jobname = 'minutehand-tick'") == [
        "select queue.invoke_worker()"
    ]


GUESTS = 'drop policy if exists "minutehand: guests follow their session" on realtime.messages'


def test_policies_come_back(engine: Engine) -> None:
    """A project made before Realtime was there; a policy somebody removed."""
    engine.run(GUESTS)
    assert state(engine)["realtime"] == "not_attached"

    done = engine.rpc("attach_extensions")

    assert (done["realtime"], done["problems"]) == ("attached", {})
    policies = "select roles::text[], qual from pg_policies where tablename = 'messages' order by 1"
    for role, (roles, joins) in zip(("anon", "authenticated"), engine.rows(policies), strict=True):
        assert roles == [role]
        assert "extension = 'broadcast'" in joins
        assert "may_follow" in joins


@pytest.mark.parametrize(
    "function",
    [
        "returns integer language sql as $$ select 1 $$",
        "returns integer language sql security definer begin atomic select 1; end",
    ],
)
def test_what_cannot_be_guarded_is_named(engine: Engine, function: str) -> None:
    """`doctor` shows it; the functions after it are guarded."""
    engine.run("set role postgres; create schema shop")
    engine.run(f"create function shop.a() {function}")
    engine.run(
        "create function shop.b() returns integer language sql security definer as $$ select 1 $$"
    )
    engine.run("grant execute on function shop.a, shop.b to job_worker")

    assert engine.rpc("attach_extensions")["worker_guard"] == "not_attached"

    assert engine.rows("select u::regproc::text from queue.unguarded() as u") == ["shop.a"]
    guarded = "select prosrc from pg_proc where oid = 'shop.b'::regproc"
    assert engine.one(guarded) == "select queue.refuse_revoked(); select 1 "


def test_one_refusal_keeps_none_of_the_others_away(engine: Engine) -> None:
    """And the answer says whose refusal it was."""
    create(engine.connection, PG_CRON)
    engine.run(
        "create or replace function cron.schedule(job_name text, schedule text, command text) returns bigint language plpgsql as $$ begin raise exception 'not here'; end $$"
    )
    engine.run(GUESTS)

    done = engine.rpc("attach_extensions")

    assert (done["pg_cron"], done["realtime"]) == ("not_attached", "attached")
    assert done["problems"] == {"pg_cron": "not here (P0001)"}


def test_connecting_a_worker_lets_the_database_invoke_it_for_everyone(engine: Engine) -> None:
    """Without AWS nobody else would wake it for a browser's insert."""
    create(engine.connection, PG_CRON, PG_NET, VAULT)
    made = engine.rpc("connect_worker", p_url=URL, p_token=TOKEN)
    assert (made["pg_cron"], made["pg_net"], made["url"]) == ("attached", "attached", URL)
    engine.register("work")

    with engine.member(ADA) as ada:
        ada.enqueue()

    assert engine.rows("select url, headers ->> 'Authorization' from net.http_request_queue") == [
        (URL, f"Bearer {TOKEN}")
    ]
    for setting in ("worker_url", "worker_secret_name"):
        with engine.connection.transaction(force_rollback=True):
            engine.run("delete from queue.settings where name = %s", setting)
            assert state(engine)["pg_net"] == "no_worker"


def test_connecting_again_replaces_address_and_token(engine: Engine) -> None:
    """A rotated token; a worker that moved."""
    create(engine.connection, PG_CRON, PG_NET, VAULT)
    engine.rpc("connect_worker", p_url=URL, p_token=TOKEN)

    engine.rpc(
        "connect_worker",
        p_url="https://new.example.com/api/jobs/worker",
        p_token="a-16-chars-token",
    )
    engine.run("insert into public.jobs (workspace_id, job_type) values (%s, 'work')", ACME)

    assert engine.rows("select url, headers ->> 'Authorization' from net.http_request_queue") == [
        ("https://new.example.com/api/jobs/worker", "Bearer a-16-chars-token")
    ]
    assert engine.one("select count(*) from vault.secrets") == 1


@pytest.mark.parametrize(
    ("url", "token", "extensions", "answer"),
    [
        ("jobs.example.com", TOKEN, (PG_NET, VAULT), ("PT400", "invalid_argument")),
        ("ftp://jobs.example.com/x", TOKEN, (PG_NET, VAULT), ("PT400", "invalid_argument")),
        (URL, "x" * 15, (PG_NET, VAULT), ("PT400", "invalid_argument")),
        (URL, TOKEN, (VAULT,), ("PT409", "extension_missing")),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(
    engine: Engine, url: str, token: str, extensions: tuple[str, ...], answer: tuple[str, str]
) -> None:
    """At once, and not at night when nothing is invoked."""
    create(engine.connection, *extensions)

    with pytest.raises(psycopg.Error) as refused:
        engine.rpc("connect_worker", p_url=url, p_token=token)

    assert refusal(refused.value)[:2] == answer


def test_people_may_neither_attach_nor_connect(database: Database) -> None:
    """Both act as the project's owner."""
    for role in ("anon", "authenticated"):
        for call in (
            "attach_extensions()",
            "connect_worker('https://x.test/y', 'a-long-enough-token')",
        ):
            with (
                database.as_role(role) as connection,
                pytest.raises(psycopg.errors.InsufficientPrivilege),
            ):
                connection.execute(f"select public.{call}")
