# ruff: noqa: E501 - statements stay on one line
"""Workspaces, members and invitations: who may, what an invitation becomes, what is recorded."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, refusal

NEW = "dddddddd-0000-4000-8000-000000000009"
SIGN_UP = "insert into auth.users (id, email, email_confirmed_at) values (%s, %s, case when %s then now() end)"


def sign_up(engine: Engine, email: str, *, confirmed: bool = True, user_id: str = NEW) -> None:
    """What Auth writes when somebody signs up."""
    engine.run(SIGN_UP, user_id, email, confirmed)


def role_of(engine: Engine, user_id: str, workspace: str = ACME) -> str | None:
    """The person's role in a workspace."""
    return next(
        iter(
            engine.rows(
                "select role from public.workspace_members where user_id = %s and workspace_id = %s",
                user_id,
                workspace,
            )
        ),
        None,
    )


def refused(call: Any) -> tuple[str | None, str | None, str | None]:
    """State, hint and detail of what the call is refused with."""
    with pytest.raises(psycopg.Error) as error:
        call()
    return refusal(error.value)


def test_the_operator_makes_a_workspace_and_its_first_manager_joins_at_sign_up(
    engine: Engine,
) -> None:
    """The first thing after a deploy: nobody has an account yet."""
    made = engine.rpc("create_workspace", p_name="Initech", p_manager="  Bill@Initech.test ")
    assert (made["name"], made["manager"]["state"], made["manager"]["email"]) == (
        "Initech",
        "invited",
        "bill@initech.test",
    )

    sign_up(engine, "Bill@initech.test")

    assert role_of(engine, NEW, made["id"]) == "manager"
    assert [
        (row["name"], row["managers"], row["invitations"])
        for row in engine.rpc("list_workspaces")["workspaces"]
        if row["id"] == made["id"]
    ] == [("Initech", 1, 0)]


def test_a_repeated_command_leaves_one_workspace(engine: Engine) -> None:
    """A command is repeated when its answer was lost."""
    engine.rpc("create_workspace", p_name="Initech", p_manager="bill@initech.test")

    assert refused(
        lambda: engine.rpc("create_workspace", p_name=" Initech", p_manager="bill@initech.test")
    )[:2] == ("PT409", "workspace_exists")


def test_an_unconfirmed_address_joins_nothing_until_it_is_confirmed(engine: Engine) -> None:
    """Else anybody signs up with the address of whoever was invited."""
    engine.rpc("set_member", p_workspace_id=ACME, p_email="new@acme.test", p_role="member")
    sign_up(engine, "new@acme.test", confirmed=False)
    with engine.member(NEW) as new:
        assert new.rpc("accept_invitations") == {"joined": []}
    assert role_of(engine, NEW) is None
    again = engine.rpc("set_member", p_workspace_id=ACME, p_email="new@acme.test", p_role="manager")
    assert again["state"] == "invited"

    engine.run("update auth.users set email_confirmed_at = now() where id = %s", NEW)

    assert role_of(engine, NEW) == "manager"


def test_without_a_trigger_the_console_accepts(engine: Engine) -> None:
    """A project may refuse triggers on Auth's tables."""
    engine.run("drop trigger minutehand_account_confirmed on auth.users")
    engine.rpc("set_member", p_workspace_id=ACME, p_email="new@acme.test", p_role="member")
    sign_up(engine, "new@acme.test")
    assert role_of(engine, NEW) is None

    with engine.member(NEW) as new:
        assert new.rpc("accept_invitations") == {
            "joined": [{"workspace_id": ACME, "role": "member"}]
        }
        assert new.rpc("accept_invitations") == {"joined": []}


def test_a_claimed_address_is_no_confirmed_one(engine: Engine) -> None:
    """The token's claim is what the account once said of itself."""
    engine.rpc("set_member", p_workspace_id=ACME, p_email="boss@acme.test", p_role="manager")
    sign_up(engine, "thief@evil.test")
    with engine.database.as_role(
        "authenticated", {"sub": NEW, "email": "boss@acme.test", "email_verified": True}
    ) as thief:
        assert Engine(engine.database, thief).rpc("accept_invitations") == {"joined": []}

    assert role_of(engine, NEW) is None


def test_a_broken_invitation_never_keeps_a_person_from_signing_in(engine: Engine) -> None:
    """Auth's row is written in Auth's transaction."""
    engine.rpc("set_member", p_workspace_id=ACME, p_email="new@acme.test", p_role="member")
    engine.run(
        "alter table public.workspace_members add constraint none_more check (user_id <> %s) not valid".replace(
            "%s", f"'{NEW}'"
        )
    )

    sign_up(engine, "new@acme.test")

    assert engine.one("select count(*) from auth.users where id = %s", NEW) == 1


def test_an_invitation_ends_after_thirty_days(engine: Engine) -> None:
    """An address may be another person's by then."""
    engine.rpc("set_member", p_workspace_id=ACME, p_email="new@acme.test", p_role="member")
    engine.advance(30 * 86400 + 1)

    sign_up(engine, "new@acme.test")

    assert role_of(engine, NEW) is None
    assert engine.rpc("list_members", p_workspace_id=ACME)["invitations"] == []


def test_a_workspace_has_a_thousand_open_invitations_at_most(engine: Engine) -> None:
    """A script that went wrong, or a person, must not fill the table; again is not one more."""
    engine.run(
        "insert into queue.invitations (workspace_id, email, role) select %s, 'p' || n || '@x.test', 'member' from generate_series(1, 1000) n",
        ACME,
    )
    with engine.member(ADA) as ada:
        assert refused(lambda: ada.rpc("set_member", p_workspace_id=ACME, p_email="more@x.test"))[
            :2
        ] == ("PT429", "quota_exceeded")
        assert ada.rpc("set_member", p_workspace_id=ACME, p_email="p7@x.test")["state"] == "invited"


def test_a_manager_adds_promotes_and_removes_people(engine: Engine) -> None:
    """A person with an account is a member at once."""
    with engine.member(ADA) as ada:
        assert (
            ada.rpc("set_member", p_workspace_id=ACME, p_email="EVE@globex.test", p_role="member")[
                "state"
            ]
            == "member"
        )
        assert (
            ada.rpc("set_member", p_workspace_id=ACME, p_email="bob@acme.test", p_role="manager")[
                "role"
            ]
            == "manager"
        )
        ada.rpc("set_member", p_workspace_id=ACME, p_email="new@acme.test")
        assert ada.rpc("remove_member", p_workspace_id=ACME, p_member=EVE)["removed"] is True
        ada.rpc("remove_member", p_workspace_id=ACME, p_member="New@Acme.test")
        found = ada.rpc("list_members", p_workspace_id=ACME)

    assert [(row["email"], row["role"]) for row in found["members"]] == [
        ("ada@acme.test", "manager"),
        ("bob@acme.test", "manager"),
    ]
    assert found["invitations"] == []
    assert [
        (row["action"], row["email"], row["actor"], row["actor_role"])
        for row in found["changes"][:5]
    ] == [
        ("invitation_withdrawn", "new@acme.test", "ada@acme.test", "authenticated"),
        ("member_removed", "eve@globex.test", "ada@acme.test", "authenticated"),
        ("invited", "new@acme.test", "ada@acme.test", "authenticated"),
        ("role_changed", "bob@acme.test", "ada@acme.test", "authenticated"),
        ("member_added", "eve@globex.test", "ada@acme.test", "authenticated"),
    ]


@pytest.mark.parametrize(
    ("user", "function", "arguments", "answer"),
    [
        (BOB, "set_member", {"p_email": "x@y.test"}, ("PT403", "forbidden")),
        (EVE, "set_member", {"p_email": "x@y.test"}, ("PT404", "workspace_not_found")),
        (BOB, "remove_member", {"p_member": "ada@acme.test"}, ("PT403", "forbidden")),
        (EVE, "remove_member", {"p_member": EVE}, ("PT404", "workspace_not_found")),
        (EVE, "list_members", {}, ("PT404", "workspace_not_found")),
        (ADA, "set_member", {"p_email": "no address"}, ("PT400", "invalid_argument")),
        (ADA, "set_member", {"p_email": "x@y.test", "p_role": "owner"}, ("PT400", "invalid_argument")),
        (ADA, "remove_member", {"p_member": "nobody@acme.test"}, ("PT404", "member_not_found")),
    ],
)  # fmt: skip
def test_others_are_refused(
    engine: Engine, user: str, function: str, arguments: dict[str, Any], answer: tuple[str, str]
) -> None:
    """Strangers learn nothing, members change nothing, managers are told what must be."""
    with engine.member(user) as person:
        assert refused(lambda: person.rpc(function, p_workspace_id=ACME, **arguments))[:2] == answer


def test_people_may_not_make_workspaces_nor_write_membership(engine: Engine) -> None:
    """The functions are the only way in."""
    with engine.member(ADA) as ada:
        assert (
            refused(lambda: ada.rpc("create_workspace", p_name="Mine", p_manager="ada@acme.test"))[
                0
            ]
            == "42501"
        )
        assert (
            refused(
                lambda: ada.run(
                    "insert into public.workspace_members (workspace_id, user_id, role) values (%s, %s, 'manager')",
                    GLOBEX,
                    ADA,
                )
            )[0]
            == "42501"
        )
        assert refused(lambda: ada.run("select * from queue.invitations"))[0] == "42501"


def test_members_see_each_other_and_managers_what_happened(engine: Engine) -> None:
    """Invitations and the record are for managers."""
    engine.rpc("set_member", p_workspace_id=ACME, p_email="new@acme.test", p_role="member")
    with engine.member(BOB) as bob:
        seen = bob.rpc("list_members", p_workspace_id=ACME)
        own = bob.rpc("list_workspaces")["workspaces"]

    assert (len(seen["members"]), seen["invitations"], seen["changes"]) == (2, [], [])
    assert [row["id"] for row in own] == [ACME]


def test_anybody_may_leave_but_the_last_manager(engine: Engine) -> None:
    """By every way in, also plain SQL."""
    with engine.member(BOB) as bob:
        bob.rpc("remove_member", p_workspace_id=ACME, p_member=BOB)
    with engine.member(ADA) as ada:
        for call in (
            lambda: ada.rpc("remove_member", p_workspace_id=ACME, p_member=ADA),
            lambda: ada.rpc(
                "set_member", p_workspace_id=ACME, p_email="ada@acme.test", p_role="member"
            ),
            lambda: engine.run(
                "delete from public.workspace_members where workspace_id = %s", ACME
            ),
            lambda: engine.run(
                "update public.workspace_members set role = 'member' where workspace_id = %s", ACME
            ),
        ):
            assert refused(call)[:2] == ("PT409", "last_manager")

    assert role_of(engine, ADA) == "manager"


def test_two_managers_who_remove_each_other_leave_one(engine: Engine) -> None:
    """Checked under a lock, not on what was read before."""
    engine.rpc("set_member", p_workspace_id=ACME, p_email="bob@acme.test", p_role="manager")

    answers = engine.race(
        lambda one: one.rpc("remove_member", p_workspace_id=ACME, p_member=ADA),
        lambda two: two.rpc("remove_member", p_workspace_id=ACME, p_member=BOB),
    )

    assert sorted(isinstance(answer, psycopg.Error) for answer in answers) == [False, True]
    assert (
        engine.one(
            "select count(*) from public.workspace_members where workspace_id = %s and role = 'manager'",
            ACME,
        )
        == 1
    )


def test_a_deleted_workspace_takes_its_people_along(engine: Engine) -> None:
    """The rule of the last manager is for workspaces that stay."""
    engine.rpc("set_member", p_workspace_id=ACME, p_email="new@acme.test", p_role="member")

    engine.run("delete from public.workspaces where id = %s", ACME)

    assert (
        engine.one("select count(*) from public.workspace_members where workspace_id = %s", ACME)
        == 0
    )
    assert engine.one("select count(*) from queue.invitations") == 0


def test_plain_sql_is_recorded_too(engine: Engine) -> None:
    """Whoever holds a database role, and which."""
    engine.run("delete from public.workspace_members where user_id = %s", BOB)

    change = engine.rpc("list_members", p_workspace_id=ACME)["changes"][0]
    assert (change["action"], change["user_id"], change["actor"]) == ("member_removed", BOB, None)
    assert change["actor_role"] == engine.one("select session_user::text")
