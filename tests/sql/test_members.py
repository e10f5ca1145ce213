# ruff: noqa: E501 - statements stay on one line
"""Workspaces and members: managers write rows of workspace_members, under policies."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, refusal
from tests.support.functions import until_waiting

ADD = "insert into public.workspace_members (workspace_id, user_id, role) values (%s, %s, %s)"
REMOVE = "delete from public.workspace_members where workspace_id = %s and user_id = %s"
PROMOTE = "update public.workspace_members set role = %s where workspace_id = %s and user_id = %s"


def roles(engine: Engine, workspace: str = ACME) -> dict[str, str]:
    """Who belongs to a workspace, as what."""
    asked = "select jsonb_object_agg(user_id, role) from public.workspace_members where workspace_id = %s"
    return dict(engine.one(asked, workspace) or {})


def test_a_manager_adds_promotes_and_removes_people(engine: Engine) -> None:
    """As rows, through the Data API's own role."""
    with engine.member(ADA) as ada:
        ada.run(ADD, ACME, EVE, "member")
        ada.run(PROMOTE, "manager", ACME, EVE)
        assert roles(engine)[EVE] == "manager"
        ada.run(REMOVE, ACME, EVE)
    assert EVE not in roles(engine)


def test_others_may_not(engine: Engine) -> None:
    """Members neither add nor promote; no one reaches another's workspace, or moves a row there."""
    before = roles(engine), roles(engine, GLOBEX)
    for person in (BOB, EVE):
        with engine.member(person) as other:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                other.run(ADD, ACME, EVE, "manager")
            other.run(PROMOTE, "manager", ACME, BOB)
            other.run(REMOVE, ACME, ADA)
    with engine.member(ADA) as ada:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ada.run(ADD, GLOBEX, ADA, "manager")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ada.run("update public.workspace_members set workspace_id = %s", GLOBEX)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ada.run("insert into public.workspaces (name) values ('Mine')")
    assert (roles(engine), roles(engine, GLOBEX)) == before


def test_anybody_may_leave_but_the_last_manager(engine: Engine) -> None:
    with engine.member(BOB) as bob:
        bob.run(REMOVE, ACME, BOB)
    assert BOB not in roles(engine)
    with engine.member(ADA) as ada:
        for statement in (REMOVE, PROMOTE.replace("%s", "'member'", 1)):
            with pytest.raises(psycopg.Error) as refused:
                ada.run(statement, ACME, ADA)
            assert refusal(refused.value)[:2] == ("PT409", "last_manager")


def test_two_managers_who_remove_each_other_leave_one(engine: Engine) -> None:
    """Also at the same time."""
    engine.run(PROMOTE, "manager", ACME, BOB)
    with engine.member(ADA) as ada, engine.member(BOB) as bob, ThreadPoolExecutor(1) as threads:
        ada.run("begin")
        ada.run(REMOVE, ACME, BOB)
        other = threads.submit(bob.run, REMOVE, ACME, ADA)
        until_waiting(engine.database)
        ada.run("commit")
        assert isinstance(other.exception(60), (psycopg.Error, type(None)))
    assert roles(engine) == {ADA: "manager"}


def test_the_operator_makes_a_workspace_of_an_account(engine: Engine) -> None:
    """A repeated command leaves one."""
    engine.run(
        "update auth.users set email = 'ada@x.test', email_confirmed_at = now() where id = %s", ADA
    )
    made = engine.rpc("create_workspace", p_name=" Initech ", p_manager="Ada@x.test")
    assert (made["name"], made["manager"]) == ("Initech", ADA)
    assert roles(engine, made["id"]) == {ADA: "manager"}
    with engine.member(ADA) as ada:
        names = [row["name"] for row in ada.rpc("list_workspaces")["workspaces"]]
        assert "Initech" in names
    for name, manager, word in (
        ("Initech", ADA, "workspace_exists"),
        ("Other", "no@x.test", "account_not_found"),
        (" ", ADA, "invalid_argument"),
    ):
        with pytest.raises(psycopg.Error) as refused:
            engine.rpc("create_workspace", p_name=name, p_manager=manager)
        assert refusal(refused.value)[1] == word
