"""Extensions that a project enables later: pg_cron, pg_net, Vault and Realtime's policies."""

from collections.abc import Iterator

import pytest

from tests.contract.observed import refused
from tests.support.engine import ACME, ADA, Engine
from tests.support.extensions import PG_CRON, PG_NET, VAULT, create, drop

URL, TOKEN = "https://jobs.example.com/api/jobs/worker", "a-token-of-enough-characters"
FOLLOW = 'drop policy if exists "minutehand: members and guests follow" on realtime.messages'


@pytest.fixture(autouse=True)
def _switched_off_again(engine: Engine) -> Iterator[None]:
    yield
    engine.run("reset role")
    drop(engine.connection)


def test_what_is_installed_later_is_attached_when_a_worker_registers(engine: Engine) -> None:
    """When pg_cron is installed later, a worker's registration creates the project's cron jobs.

    `attach_extensions` may be called repeatedly.
    """
    assert engine.rpc("attach_extensions")["pg_cron"] == "absent"
    create(engine.connection, PG_CRON)
    engine.register()
    done = engine.rpc("attach_extensions")
    assert (done["pg_cron"], done["problems"]) == ("attached", {})
    names = engine.rows("select jobname from cron.job order by 1")
    assert names == ["minutehand-tick", "minutehand-tidy"]


def test_policies_come_back_and_one_refusal_keeps_none_of_the_others_away(engine: Engine) -> None:
    """`attach_extensions` restores Realtime's policies even if pg_cron rejects its jobs.

    The response contains the rejection.
    """
    create(engine.connection, PG_CRON)
    engine.run(
        "create or replace function cron.schedule(job_name text, schedule text, command text)"
        " returns bigint language plpgsql as $$ begin raise exception 'not here'; end $$"
    )
    engine.run(FOLLOW)

    done = engine.rpc("attach_extensions")
    assert (done["pg_cron"], done["realtime"]) == ("not_attached", "attached")
    assert done["problems"] == {"pg_cron": "not here (P0001)"}
    kept = "select roles from pg_policies where policyname like 'minutehand:%'"
    assert engine.rows(kept) == [["anon", "authenticated"]]


def test_a_connected_worker_is_invoked_for_everyone_and_by_the_latest_token(
    engine: Engine, ada: Engine
) -> None:
    """After `connect_worker`, an INSERT from a browser makes the database invoke the worker.

    The invocation uses the latest token.
    """
    create(engine.connection, PG_CRON, PG_NET, VAULT)
    engine.rpc("connect_worker", p_url="https://old.example.com/x", p_token=TOKEN + "0")
    made = engine.rpc("connect_worker", p_url=URL, p_token=TOKEN)
    assert (made["pg_cron"], made["pg_net"], made["url"]) == ("attached", "attached", URL)

    insert = "insert into jobs (workspace_id, user_id, job_type) values (%s, %s, 'work')"
    ada.run(insert, ACME, ADA)
    calls = engine.rows("select url, headers ->> 'Authorization' from net.http_request_queue")
    assert calls == [(URL, f"Bearer {TOKEN}")]
    assert engine.count("vault.secrets") == 1

    made = engine.rpc("connect_worker", p_url=None, p_token=None)  # disconnect the worker
    engine.enqueue()
    assert (made["pg_net"], made["url"]) == ("no_worker", None)
    assert engine.count("net.http_request_queue") == 1
    assert engine.count("vault.secrets") == 0


@pytest.mark.parametrize(
    ("url", "token", "extensions", "answer"),
    [
        ("jobs.example.com", TOKEN, (PG_NET, VAULT), "invalid_argument"),
        (URL, "x" * 15, (PG_NET, VAULT), "invalid_argument"),
        (URL, TOKEN, (VAULT,), "extension_missing"),
    ],
)
def test_what_cannot_work_is_refused(
    engine: Engine, url: str, token: str, extensions: tuple[str, ...], answer: str
) -> None:
    """`connect_worker` rejects an invalid URL, a short token and a missing extension."""
    create(engine.connection, *extensions)
    assert refused(engine.rpc, "connect_worker", p_url=url, p_token=token)[1] == answer


def test_without_realtime_no_task_fails(engine: Engine) -> None:
    engine.run("alter schema realtime rename to gone")
    try:
        engine.enqueue()
        assert engine.rpc("run_maintenance", p_request={})["failed"] == []
    finally:
        engine.run("alter schema gone rename to realtime")
