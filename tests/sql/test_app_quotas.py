"""The apps' rows are bounded as the engine's own are: reported by limits, refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from uuid import uuid4

import psycopg
import pytest

from tests.support.engine import ACME, ADA, Engine, refusal

TYPES = (
    "chat_reply",
    "chat_work",
    "plan",
    "transcription",
    "sop_generation",
    "mux_upload",
    "import_accounts",
)
SPEC = {
    "version": "1",
    "benchmark": {"name": "b"},
    "constraints": {"regions": ["eu"], "min_regions": 1},
    "questions": ["Why?"],
}


def say(engine: Engine, number: int) -> object:
    """Write a message into a session of its own."""
    request: dict[str, object] = {
        "text": f"Number {number}", "client_id": None, "documents": [], "workspace_id": ACME,
        "mode": "reply", "ask": False, "ask_seconds": 60, "seed": 1,
    }  # fmt: skip
    return engine.rpc("chat_request", p_session_id=f"guest_{number:064x}", p_request=request)


def hand_in(engine: Engine, number: int) -> object:
    """Hand in an uploaded video."""
    key = f"workspaces/{ACME}/{ADA}/{uuid4()}/x.mp4"
    return engine.rpc(
        "training_start",
        p_workspace_id=ACME, p_title="Lamp", p_object_key=key, p_size_bytes=10,
    )  # fmt: skip


def import_file(engine: Engine, number: int) -> object:
    """Hand in an uploaded list of accounts."""
    own = engine.one("select gen_random_uuid()::text")
    made = {
        "id": own,
        "object_key": f"imports/{ACME}/{own}/a.csv",
        "file_name": "a.csv",
        "total_bytes": 10,
    }
    return engine.rpc("create_account_import", p_workspace_id=ACME, p_import=made)


MADE: dict[str, Callable[[Engine, int], object]] = {
    "max_chat_conversations": say,
    "max_chat_messages": say,
    "max_plans": lambda e, n: e.rpc(
        "plan_start",
        p_workspace_id=ACME,
        p_plan={"prompt": f"Plant hedge {n}", "speed_vs_detail": "fast_but_skip_details"},
    ),
    "max_trainings": hand_in,
    "max_accounts": lambda e, n: e.run(
        "insert into public.accounts (workspace_id, name) values (%s, 'Hedge Ltd')", ACME
    ),
    "max_contacts": lambda e, n: e.run(
        "insert into public.contacts (workspace_id, name) values (%s, 'Hazel')", ACME
    ),
    "max_account_imports": import_file,
}


def lower(engine: Engine, name: str, *, room: int) -> int:
    """Let Acme make so many rows more; how many it has then at most."""
    used: int = engine.rpc("workspace_limits", p_workspace_id=ACME)["quotas"][name]["used"]
    engine.run(
        "update queue.settings set value = to_jsonb(%s::int) where name = %s", used + room, name
    )
    return used + room


@pytest.mark.parametrize("name", MADE)
def test_rows_of_an_app_stop_at_their_quota(engine: Engine, name: str) -> None:
    """Else one tenant's loop fills the disk that everybody's jobs are on."""
    for job_type in TYPES:
        engine.register(job_type)
    most = lower(engine, name, room=2)
    with engine.member(ADA) as ada:
        for number in range(2):
            MADE[name](ada, number)
        with pytest.raises(psycopg.Error) as refused:
            MADE[name](ada, 2)
        reported = ada.rpc("workspace_limits", p_workspace_id=ACME)["quotas"][name]

    assert refusal(refused.value) == ("PT429", "quota_exceeded", name)
    assert reported == {"max": most, "used": most}


def test_a_workspace_that_is_full_of_accounts_begins_no_import(engine: Engine) -> None:
    """The rows of an import come from the worker, which no quota stops."""
    engine.register("import_accounts")
    lower(engine, "max_accounts", room=0)
    engine.run("insert into public.accounts (workspace_id, name) values (%s, 'One more')", ACME)
    with engine.member(ADA) as ada, pytest.raises(psycopg.Error) as refused:
        import_file(ada, 0)

    assert refusal(refused.value) == ("PT429", "quota_exceeded", "max_accounts")


def test_every_table_of_an_app_has_a_quota_or_a_reason(engine: Engine) -> None:
    """A new table with a workspace is either bounded, or named here with what bounds it."""
    bounded_otherwise = {
        # one per workspace
        "workspace_settings", "key_tickets",
        # so many per conversation, plan, training, import, record or benchmark job
        "chat_work_items", "chat_notes", "uses",
        "plan_stages", "plan_events",
        "training_jobs", "training_stages", "training_chunks", "host_events",
        "calls", "account_import_errors",
        "beacon_jobs", "beacon_outbox", "beacon_executions",
    }  # fmt: skip

    tables = engine.rows(
        "select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid"
        " and a.attname = 'workspace_id' where c.relkind = 'r'"
        " and c.relnamespace::regnamespace::text not in ('queue', 'auth', 'realtime', 'kept')"
        " and not exists (select 1 from pg_trigger t"
        "  where t.tgrelid = c.oid and t.tgname = 'quota_is_held')"
    )
    engines_own = {"jobs", "job_logs", "job_events", "workspaces", "workspace_members"}

    assert set(tables) - engines_own <= bounded_otherwise


def test_every_refusal_by_a_limit_names_it(engine: Engine) -> None:
    """By the setting or the quota that a person can look up, not by its number."""
    sources = engine.rows(
        "select prosrc from pg_proc where prosrc like '%refuse(429%'"
        " and pronamespace::regnamespace::text <> 'pg_catalog'"
    )
    refusals = [
        call for source in sources for call in re.findall(r"refuse\(429,.*?\);", source, re.S)
    ]
    named = re.compile(r"(, |\n +)('[a-z_]{7,}'|p_limit|v_name|[a-z_]+\.name)(, [^;]*)?\);$")

    assert len(refusals) > 10
    assert [call for call in refusals if not named.search(call)] == []


def test_a_quota_of_an_app_that_was_removed_bounds_nothing(engine: Engine) -> None:
    """Its tables may be dropped; limits are still reported, without it."""
    engine.run("drop table public.training_procedures cascade")
    with engine.member(ADA) as ada:
        quotas = ada.rpc("workspace_limits", p_workspace_id=ACME)["quotas"]

    assert "max_trainings" in quotas
    assert "max_training_procedures" not in quotas
