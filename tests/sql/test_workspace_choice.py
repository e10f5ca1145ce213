"""Nothing chooses among several workspaces for a caller: what is left out is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, refusal
from tests.support.functions import ROLES

NOBODY = "dddddddd-0000-4000-8000-00000000000a"
SPEC = {
    "jobspec_id": "s",
    "version": "1",
    "benchmark": {"name": "b"},
    "constraints": {"regions": ["eu"], "min_regions": 1},
    "questions": ["Why?"],
}
MESSAGE: dict[str, object] = {
    "text": "our secret price list: 42", "client_id": None, "documents": [], "mode": "reply",
    "ask": False, "ask_seconds": 60, "seed": 0,
}  # fmt: skip
PLAN = {"prompt": "Plant a hedge", "speed_vs_detail": "fast_but_skip_details"}
#: Every function of an app whose workspace may be left out, or that says which is meant.
CALLS: dict[str, Callable[[Engine], Any]] = {
    "uploads": lambda e: e.rpc("own_workspace"),
    "chat": lambda e: e.rpc("chat_request", p_session_id="a-session-of-hers-1", p_request=MESSAGE),
    "plans": lambda e: e.rpc("plan_start", p_workspace_id=None, p_plan=PLAN),
    "beacon": lambda e: e.rpc("beacon_submit", p_spec=SPEC),
    "outbox": lambda e: e.rpc("beacon_redrive"),
    "list of plans": lambda e: e.rpc("plan_list", p_workspace_id=None),
}


@pytest.fixture
def several(engine: Engine) -> Engine:
    """Eve belongs to Globex, and by now to Acme as well."""
    for job_type in ("chat_reply", "plan", "beacon_job"):
        engine.register(job_type)
    engine.run("insert into public.workspace_members values (%s, %s)", ACME, EVE)
    return engine


@pytest.mark.parametrize("name", CALLS)
def test_a_workspace_left_out_of_several_is_refused_with_the_list(
    several: Engine, name: str
) -> None:
    """Else what a person writes lands where who made them a member can read it. By name."""
    several.run("update public.workspaces set name = 'Zeta' where id = %s", ACME)
    with several.member(EVE) as eve, pytest.raises(psycopg.Error) as error:
        CALLS[name](eve)

    state, hint, detail = refusal(error.value)
    assert (state, hint) == ("PT400", "workspace_needed")
    assert json.loads(str(detail)) == [
        {"id": GLOBEX, "name": "Globex"},
        {"id": ACME, "name": "Zeta"},
    ]
    assert several.one("select count(*) from public.jobs") == 0


@pytest.mark.parametrize("name", CALLS)
def test_an_only_workspace_may_be_left_out(several: Engine, name: str) -> None:
    """It is no choice."""
    with several.member(ADA) as ada:
        CALLS[name](ada)

    assert set(several.rows("select distinct workspace_id::text from public.jobs")) <= {ACME}


@pytest.mark.parametrize("name", sorted(CALLS.keys() - {"chat", "list of plans"}))
def test_without_any_workspace_there_is_none(several: Engine, name: str) -> None:
    """Only the chat has one for people of no workspace, which is nobody else's."""
    with several.member(NOBODY) as person, pytest.raises(psycopg.Error) as error:
        CALLS[name](person)

    assert refusal(error.value)[:2] == ("PT404", "workspace_not_found")


def test_a_service_acts_in_the_workspace_that_it_names(several: Engine) -> None:
    """It belongs to none."""
    with several.database.as_role("service_role", {"role": "service_role"}) as connection:
        service = Engine(several.database, connection)
        assert service.rpc("own_workspace", p_workspace_id=ACME) == {"workspace_id": ACME}
        with pytest.raises(psycopg.Error) as error:
            service.rpc("own_workspace", p_workspace_id=NOBODY)
    assert refusal(error.value)[:2] == ("PT404", "workspace_not_found")


@pytest.mark.parametrize(
    ("user", "own", "managed"),
    [
        (ADA, [ACME], [ACME]),
        (BOB, [ACME], []),
        (EVE, [ACME, GLOBEX], [GLOBEX]),
        (None, [ACME, GLOBEX], []),
    ],
)
def test_members_are_shown_their_tenants_and_manage_some(
    several: Engine, user: str | None, own: list[str], managed: list[str]
) -> None:
    """Also where the tenants are an application's own tables, which its members may not read."""
    claims = json.dumps({"role": "authenticated", "sub": user}) if user else ""
    with several.beside() as person:
        person.run("select set_config('request.jwt.claims', %s, false)", claims)

        def shown(what: str) -> list[str]:
            return person.rows(f"select distinct {what} order by 1")

        assert shown("id::text from queue.visible_tenants()") == own
        assert shown("workspace_id::text from queue.visible_members()") == own
        assert shown("w::text from queue.my_managed_workspaces() as w") == managed
        assert [each for each in own if person.one("select queue.is_manager(%s)", each)] == managed


def test_staff_see_the_jobs_of_every_tenant_and_others_do_not(several: Engine) -> None:
    """By the claim of their token alone, which only the project's owner writes."""
    job_id = several.enqueue(workspace=GLOBEX)
    seen = "select id::text from public.jobs"
    staff = {"sub": NOBODY, "app_metadata": {"minutehand_operator": True}}
    with several.database.as_role("authenticated", staff) as connection:
        operator = Engine(several.database, connection)
        assert operator.rows(seen) == [job_id]
        assert operator.rpc("get_job", p_job_id=job_id)["id"] == job_id
    with several.database.as_role("authenticated", {"sub": NOBODY}) as connection:
        assert Engine(several.database, connection).rows(seen) == []


def test_a_workspace_has_a_name_and_members_of_two_roles(engine: Engine) -> None:
    """The service alone writes them; people read."""
    for statement in (
        "insert into public.workspaces (name) values ('')",
        "insert into public.workspaces (name) values (repeat('x', 201))",
        f"insert into public.workspace_members values ('{ACME}', '{NOBODY}', 'owner')",
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            engine.run(statement)
    engine.run("insert into public.workspaces (name) values (repeat('x', 200))")
    made = "insert into public.workspace_members values (%s, %s) returning role"
    assert engine.one(made, ACME, NOBODY) == "member"
    rights = (
        "select string_agg(p, ' ') from unnest('{select,insert,update,delete}'::text[]) as p"
        " where has_table_privilege(%s, %s, p)"
    )
    for table in ("public.workspaces", "public.workspace_members"):
        assert [engine.one(rights, role, table) for role in ROLES] == [
            None, "select", None, "select insert update delete",
        ]  # fmt: skip
