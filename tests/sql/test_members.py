# ruff: noqa: E501 - statements stay on one line
"""Workspaces, members and invitations: who may, what an invitation becomes, what is recorded."""

from __future__ import annotations

import contextlib
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, refusal
from tests.support.functions import until_waiting

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


def accept(engine: Engine, user_id: str, workspace: str = ACME) -> dict[str, Any]:
    """The person says yes."""
    with engine.member(user_id) as person:
        return dict(person.rpc("accept_invitation", p_workspace_id=workspace))


def invited_to(engine: Engine, user_id: str) -> list[str]:
    """The workspaces that want to add a person, as they see it."""
    with engine.member(user_id) as person:
        return [row["workspace_id"] for row in person.rpc("list_invitations")["invitations"]]


def test_the_operator_makes_a_workspace_and_its_first_manager_accepts(engine: Engine) -> None:
    """The first thing after a deploy: nobody has an account yet."""
    made = engine.rpc("create_workspace", p_name="Initech", p_manager="  Bill@Initech.test ")
    assert (made["name"], made["manager"]["state"], made["manager"]["email"]) == (
        "Initech",
        "invited",
        "bill@initech.test",
    )

    assert [
        (row["name"], row["members"], row["managers"], row["invitations"])
        for row in engine.rpc("list_workspaces")["workspaces"]
    ] == [("Acme", 2, 1, 0), ("Globex", 1, 1, 0), ("Initech", 0, 0, 1)]
    sign_up(engine, "Bill@initech.test")
    assert role_of(engine, NEW, made["id"]) is None
    accept(engine, NEW, made["id"])

    assert role_of(engine, NEW, made["id"]) == "manager"


@pytest.mark.parametrize("email", ["eve@globex.test", "nobody@globex.test"])
def test_an_account_is_asked_and_the_answer_does_not_reveal_that_it_exists(
    engine: Engine, email: str
) -> None:
    """Else a stranger's chats would go to who made her a member, and addresses could be tried."""
    with engine.member(ADA) as ada:
        said = ada.rpc("set_member", p_workspace_id=ACME, p_email=email, p_role="member")

    assert said == {"workspace_id": ACME, "email": email, "role": "member", "state": "invited"}
    assert role_of(engine, EVE) is None
    with engine.member(EVE) as eve:
        assert [row["id"] for row in eve.rpc("list_workspaces")["workspaces"]] == [GLOBEX]


def test_a_person_sees_who_wants_to_add_them_and_says_yes_or_no(engine: Engine) -> None:
    """Once: an answered invitation is gone, and the manager reads what was answered."""
    with engine.member(ADA) as ada:
        ada.rpc("set_member", p_workspace_id=ACME, p_email="eve@globex.test", p_role="manager")
    with engine.member(EVE) as eve:
        [seen] = eve.rpc("list_invitations")["invitations"]
        assert eve.rpc("decline_invitation", p_workspace_id=ACME)["accepted"] is False
        assert refused(lambda: eve.rpc("accept_invitation", p_workspace_id=ACME))[:2] == (
            "PT404",
            "invitation_not_found",
        )
    assert (seen["workspace_id"], seen["name"], seen["role"], seen["invited_by"]) == (
        ACME,
        "Acme",
        "manager",
        "ada@acme.test",
    )
    assert role_of(engine, EVE) is None

    engine.rpc("set_member", p_workspace_id=ACME, p_email="eve@globex.test", p_role="manager")
    assert accept(engine, EVE) == {"workspace_id": ACME, "role": "manager", "accepted": True}

    assert role_of(engine, EVE) == "manager"
    assert invited_to(engine, EVE) == []
    changes = engine.rpc("list_members", p_workspace_id=ACME)["changes"]
    assert [(row["action"], row["actor"]) for row in changes if row["email"] == "eve@globex.test"][
        :4
    ] == [
        ("member_added", "eve@globex.test"),
        ("invitation_accepted", "eve@globex.test"),
        ("invited", None),
        ("invitation_declined", "eve@globex.test"),
    ]


def test_who_is_a_member_by_then_gets_the_role_of_the_invitation(engine: Engine) -> None:
    """A migration, or plain SQL, may have added them since they were invited."""
    engine.rpc("set_member", p_workspace_id=ACME, p_email="eve@globex.test", p_role="manager")
    added = "insert into public.workspace_members (workspace_id, user_id) values (%s, %s)"
    engine.run(added, ACME, EVE)

    assert accept(engine, EVE)["role"] == "manager"
    assert role_of(engine, EVE) == "manager"


def test_no_one_accepts_anothers_invitation(engine: Engine) -> None:
    """The invitation is the address's, whatever workspace a caller names."""
    engine.rpc("set_member", p_workspace_id=ACME, p_email="new@acme.test")

    assert refused(lambda: accept(engine, EVE))[:2] == ("PT404", "invitation_not_found")
    assert invited_to(engine, EVE) == []
    nowhere = {"p_workspace_id": NEW, "p_email": "new@acme.test"}
    assert refused(lambda: engine.rpc("set_member", **nowhere))[1] == "workspace_not_found"


@pytest.mark.parametrize(
    ("domain", "role"), [("Acme.test", "manager"), ("evil.test", None), (None, None)]
)
def test_single_sign_on_proves_the_domains_of_its_own_provider_alone(
    engine: Engine, domain: str | None, role: str | None
) -> None:
    """Any customer's identity provider may say that its user has any address."""
    provider = "5505b055-0000-4000-8000-000000000001"
    engine.rpc("set_member", p_workspace_id=ACME, p_email="carol@acme.test", p_role="manager")
    engine.run(
        "insert into auth.users (id, email, email_confirmed_at, is_sso_user) values (%s, 'carol@acme.test', now(), true)",
        NEW,
    )
    if domain is not None:
        engine.run(
            "insert into auth.identities (id, user_id, provider, provider_id) values (gen_random_uuid(), %s, %s, gen_random_uuid())",
            NEW,
            f"sso:{provider}",
        )
        engine.run("insert into auth.sso_providers (id) values (%s)", provider)
        engine.run(
            "insert into auth.sso_domains (id, sso_provider_id, domain) values (%s, %s, %s)",
            uuid.uuid4(),
            provider,
            domain,
        )

    with contextlib.suppress(psycopg.Error):
        accept(engine, NEW)

    assert role_of(engine, NEW) == role


def test_a_repeated_command_leaves_one_workspace(engine: Engine) -> None:
    """A command is repeated when its answer was lost, also while the first is at work."""

    def create(by: Engine) -> Any:
        return by.rpc("create_workspace", p_name=" Initech", p_manager="bill@initech.test")

    engine.run("set lock_timeout = '100ms'")
    with engine.beside() as first, first.connection.transaction():
        create(first)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            create(engine)

    assert refused(lambda: create(engine))[:2] == ("PT409", "workspace_exists")
    for name in (None, " ", "x" * 201):
        unnamed = {"p_name": name, "p_manager": "bill@initech.test"}
        asked = refused(lambda unnamed=unnamed: engine.rpc("create_workspace", **unnamed))
        assert asked == ("PT400", "invalid_argument", "name")


def test_an_unconfirmed_address_sees_nothing_until_it_is_confirmed(engine: Engine) -> None:
    """Else anybody signs up with the address of whoever was invited."""
    engine.rpc("set_member", p_workspace_id=ACME, p_email="new@acme.test", p_role="manager")
    sign_up(engine, "new@acme.test", confirmed=False)
    assert invited_to(engine, NEW) == []
    assert refused(lambda: accept(engine, NEW))[:2] == ("PT404", "invitation_not_found")

    engine.run("update auth.users set email_confirmed_at = now() where id = %s", NEW)

    assert invited_to(engine, NEW) == [ACME]
    assert role_of(engine, NEW) is None


def test_a_claimed_address_is_no_confirmed_one(engine: Engine) -> None:
    """The token's claim is what the account once said of itself."""
    engine.rpc("set_member", p_workspace_id=ACME, p_email="boss@acme.test", p_role="manager")
    sign_up(engine, "thief@evil.test")
    with engine.database.as_role(
        "authenticated", {"sub": NEW, "email": "boss@acme.test", "email_verified": True}
    ) as connection:
        thief = Engine(engine.database, connection)
        assert thief.rpc("list_invitations") == {"invitations": []}
        assert refused(lambda: thief.rpc("accept_invitation", p_workspace_id=ACME))[0] == "PT404"

    assert role_of(engine, NEW) is None


def test_an_invitation_ends_after_thirty_days(engine: Engine) -> None:
    """An address may be another person's by then."""
    sign_up(engine, "new@acme.test")
    for _ in range(2):
        engine.rpc("set_member", p_workspace_id=ACME, p_email="new@acme.test", p_role="member")
        engine.advance(29 * 86400)
    assert invited_to(engine, NEW) == [ACME], "counted from the last invitation"
    engine.advance(86401)

    assert refused(lambda: accept(engine, NEW))[:2] == ("PT404", "invitation_not_found")
    assert invited_to(engine, NEW) == []
    assert engine.rpc("list_members", p_workspace_id=ACME)["invitations"] == []
    listed = engine.rpc("list_workspaces")["workspaces"]
    assert [row["invitations"] for row in listed] == [0, 0]


def test_a_workspace_has_a_thousand_open_invitations_at_most(engine: Engine) -> None:
    """A script that went wrong, or a person, must not fill the table; again is not one more."""
    engine.run(
        "insert into queue.invitations (workspace_id, email, role) select %s, 'p' || n || '@x.test', 'member' from generate_series(1, 1000) n",
        ACME,
    )
    with engine.member(EVE) as eve:
        invited = eve.rpc("set_member", p_workspace_id=GLOBEX, p_email="more@x.test")
    assert invited["state"] == "invited", "another workspace's are its own"
    by_service = {"p_workspace_id": ACME, "p_email": "more@x.test"}
    assert refused(lambda: engine.rpc("set_member", **by_service))[1] == "quota_exceeded"
    with engine.member(ADA) as ada:
        assert refused(lambda: ada.rpc("set_member", p_workspace_id=ACME, p_email="more@x.test"))[
            :2
        ] == ("PT429", "quota_exceeded")
        assert ada.rpc("set_member", p_workspace_id=ACME, p_email="p7@x.test")["state"] == "invited"
    engine.advance(31 * 86_400)
    assert engine.rpc("set_member", **by_service)["state"] == "invited", "those have ended"


def test_a_manager_invites_promotes_and_removes_people(engine: Engine) -> None:
    """Each change is in the record, with who made it; another workspace's are its own."""
    engine.rpc("set_member", p_workspace_id=GLOBEX, p_email="new@acme.test")
    with engine.member(ADA) as ada:
        ada.rpc("set_member", p_workspace_id=ACME, p_email="EVE@globex.test", p_role="member")
        accept(engine, EVE)
        assert ada.rpc(
            "set_member", p_workspace_id=ACME, p_email="bob@acme.test", p_role="manager"
        ) == {
            "workspace_id": ACME, "email": "bob@acme.test", "role": "manager", "state": "member",
        }  # fmt: skip
        ada.rpc("set_member", p_workspace_id=ACME, p_email="new@acme.test")
        assert ada.rpc("remove_member", p_workspace_id=ACME, p_member=EVE)["removed"] is True
        ada.rpc("remove_member", p_workspace_id=ACME, p_member="New@Acme.test")
        engine.rpc("set_member", p_workspace_id=GLOBEX, p_email="late@acme.test")
        found = ada.rpc("list_members", p_workspace_id=ACME)

    assert [(row["email"], row["role"]) for row in found["members"]] == [
        ("ada@acme.test", "manager"),
        ("bob@acme.test", "manager"),
    ]
    assert found["invitations"] == []
    theirs = engine.rpc("list_members", p_workspace_id=GLOBEX)["invitations"]
    assert [row["email"] for row in theirs] == ["new@acme.test", "late@acme.test"]
    assert [
        (row["action"], row["email"], row["actor"], row["actor_role"])
        for row in found["changes"][:5]
    ] == [
        ("invitation_withdrawn", "new@acme.test", "ada@acme.test", "authenticated"),
        ("member_removed", "eve@globex.test", "ada@acme.test", "authenticated"),
        ("invited", "new@acme.test", "ada@acme.test", "authenticated"),
        ("role_changed", "bob@acme.test", "ada@acme.test", "authenticated"),
        ("member_added", "eve@globex.test", "eve@globex.test", "authenticated"),
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
        (ADA, "set_member", {"p_email": "x@y.test", "p_role": None}, ("PT400", "invalid_argument")),
        (ADA, "remove_member", {"p_member": "nobody@acme.test"}, ("PT404", "member_not_found")),
    ],
)  # fmt: skip
def test_others_are_refused(
    engine: Engine, user: str, function: str, arguments: dict[str, Any], answer: tuple[str, str]
) -> None:
    """Strangers learn nothing, members change nothing, managers are told what must be."""
    engine.run("insert into public.workspace_members values (%s, %s)", GLOBEX, BOB)
    engine.run(
        "update public.workspace_members set role = 'manager' where workspace_id = %s", GLOBEX
    )
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


def test_of_two_managers_who_are_removed_at_once_one_stays(engine: Engine) -> None:
    """Each removal alone would leave the other."""
    engine.run("update public.workspace_members set role = 'manager' where user_id = %s", BOB)
    remove = "delete from public.workspace_members where workspace_id = %s and user_id = %s"
    with engine.beside() as first, engine.beside() as second, ThreadPoolExecutor(1) as threads:
        first.run("begin")
        first.run(remove, ACME, BOB)
        other = threads.submit(refused, lambda: second.run(remove, ACME, ADA))
        until_waiting(engine.database)
        first.run("commit")
        assert other.result(60)[:2] == ("PT409", "last_manager")

    assert (role_of(engine, ADA), role_of(engine, BOB)) == ("manager", None)


def test_who_leaves_by_an_unconfirmed_address_withdraws_no_invitation_to_it(engine: Engine) -> None:
    """The invitation is to who owns the address; the caller only says to have it."""
    engine.rpc("set_member", p_workspace_id=ACME, p_email="boss@acme.test", p_role="manager")
    engine.run(
        "update auth.users set email = 'boss@acme.test', email_confirmed_at = null where id = %s",
        BOB,
    )
    with engine.member(BOB) as bob:
        bob.rpc("remove_member", p_workspace_id=ACME, p_member="boss@acme.test")

    assert role_of(engine, BOB) is None
    assert engine.one("select count(*) from queue.invitations where workspace_id = %s", ACME) == 1


def test_a_role_is_given_to_who_owns_the_address_and_not_to_who_claims_it(engine: Engine) -> None:
    """A member may write any address into an account; the one it belongs to is invited."""
    engine.run(
        "update auth.users set email = 'boss@acme.test', email_confirmed_at = null where id = %s",
        BOB,
    )
    with engine.member(ADA) as ada:
        answer = ada.rpc(
            "set_member", p_workspace_id=ACME, p_email="boss@acme.test", p_role="manager"
        )

    assert (answer["state"], role_of(engine, BOB)) == ("invited", "member")


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
    engine.enqueue()

    engine.run("delete from public.workspaces where id = %s", ACME)

    assert (
        engine.one("select count(*) from public.workspace_members where workspace_id = %s", ACME)
        == 0
    )
    assert engine.one("select count(*) from queue.invitations") == 0
    assert engine.one("select count(*) from public.jobs") == 0


def test_plain_sql_is_recorded_too(engine: Engine) -> None:
    """Whoever holds a database role, and which."""
    engine.run("delete from public.workspace_members where user_id = %s", BOB)

    change = engine.rpc("list_members", p_workspace_id=ACME)["changes"][0]
    assert (change["action"], change["user_id"], change["actor"]) == ("member_removed", BOB, None)
    assert change["actor_role"] == engine.one("select session_user::text")
