"""The settings API: keys go in, and only their last four characters come out."""

from __future__ import annotations

import uuid

import pytest

from tests.integration.enrichment.conftest import BOB, EVE, GLOBEX, INITECH, Office
from tests.support.misbehaving import Fault
from tests.support.project import ACME
from tests.unit.enrichment.apollo_server import MASTER_KEY, ApolloServer

PATH = f"/api/workspaces/{ACME}/settings"
SECRET = "test-key-very-secret-9876"


async def test_a_key_is_stored_sealed_and_shown_only_by_its_end(office: Office) -> None:
    """Neither the API, the Data API nor a dump of the table gives it away."""
    put = await office.call("PUT", PATH, json={"apollo_api_key": SECRET})
    got = await office.call("GET", PATH)

    [row] = office.project.rows(
        "select * from public.workspace_settings where workspace_id = %s", ACME
    )
    assert put.status_code == got.status_code == 200
    assert got.json()["apollo_api_key"] == {"configured": True, "last4": "9876"}
    assert SECRET not in put.text + got.text + str(row)
    assert row["apollo_api_key_encrypted"].startswith("mh1.")


async def test_a_key_copied_into_another_workspaces_row_stays_shut(office: Office) -> None:
    """The workspace is sealed in with it."""
    await office.call("PUT", PATH, json={"apollo_api_key": SECRET})
    office.project.run_sql(
        "update public.workspace_settings set apollo_api_key_encrypted = ("
        " select apollo_api_key_encrypted from public.workspace_settings where workspace_id = %s"
        ") where workspace_id = %s",
        ACME,
        GLOBEX,
    )

    answer = await office.call(
        "POST", f"/api/workspaces/{GLOBEX}/settings/test-connection", user=EVE
    )

    assert answer.json()["ok"] is False
    assert answer.json()["reason"] == "unreadable_key"


async def test_removing_the_key_leaves_the_rest(office: Office) -> None:
    """Credits used stay on the books."""
    await office.run("enrich_account", {"account_id": INITECH})

    answer = await office.call("DELETE", PATH)

    assert answer.status_code == 200
    assert answer.json()["apollo_api_key"] == {"configured": False, "last4": None}
    assert answer.json()["enrichment_credits_used"] == 1


async def test_only_what_is_named_changes(office: Office) -> None:
    """A page that saves one switch must not wipe out the key."""
    await office.call("PUT", PATH, json={"apollo_api_key": SECRET})

    answer = await office.call("PUT", PATH, json={"apollo_auto_enrich": True})
    client = await office.call("PUT", PATH, json={"apollo_client": "offline"})

    assert answer.json()["apollo_api_key"]["last4"] == "9876"
    assert client.json()["apollo_auto_enrich"] is True
    assert client.json()["apollo_client"] == "offline"


async def test_a_workspace_without_settings_has_defaults(office: Office) -> None:
    """A fresh workspace shows a form, not an error."""
    office.project.run_sql("delete from public.workspace_settings where workspace_id = %s", ACME)

    answer = await office.call("GET", PATH)

    assert answer.json() == {
        "workspace_id": ACME,
        "apollo_api_key": {"configured": False, "last4": None},
        "apollo_client": None,
        "apollo_auto_enrich": False,
        "apollo_paused_until": None,
        "enrichment_credits_used": 0,
        "enrichment_calls_unanswered": 0,
        "can_manage": True,
        "updated_at": None,
    }


@pytest.mark.parametrize(
    "body",
    [
        {"apollo_api_key": "short"},
        {"apollo_api_key": "has a space in it"},
        {"apollo_api_key": "x" * 201},
        {"apollo_api_key": "schlüssel-mit-umlaut"},
        {"apollo_api_key": None},
        {"apollo_client": "other"},
        {"apollo_auto_enrich": "maybe"},
        {"enrichment_credits_used": 0},
    ],
)
async def test_unusable_settings_are_refused_without_repeating_them(
    office: Office, body: dict[str, object]
) -> None:
    """A mistyped key is still a secret: the error must not echo it."""
    answer = await office.call("PUT", PATH, json=body)

    assert answer.status_code == 422
    assert answer.json()["code"] == "validation_failed"
    assert all(str(value) not in answer.text for value in body.values() if value)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("PUT", "", {"apollo_auto_enrich": True}),
        ("DELETE", "", None),
        ("POST", "/test-connection", None),
        ("POST", "/reseal", None),
    ],
)
async def test_strangers_meet_404_members_403_and_guests_401(
    office: Office, method: str, path: str, body: dict[str, object] | None
) -> None:
    """A stranger must not even learn that the workspace exists."""
    before = office.project.rows("select * from public.workspace_settings order by workspace_id")
    options = {"json": body} if body else {}

    stranger = await office.call(method, PATH + path, user=EVE, **options)
    nowhere = await office.call(
        method, f"/api/workspaces/{uuid.uuid4()}/settings{path}", user=EVE, **options
    )
    member = await office.call(method, PATH + path, user=BOB, **options)
    guest = await office.call(method, PATH + path, user=None, **options)

    assert (stranger.status_code, stranger.json()["code"]) == (404, "workspace_not_found")
    assert stranger.json()["error"] == nowhere.json()["error"]
    assert member.status_code == (200 if method == "GET" else 403)
    assert guest.status_code == 401
    after = office.project.rows("select * from public.workspace_settings order by workspace_id")
    assert after == before


async def test_a_working_key_shows_what_is_left(office: Office) -> None:
    """Before the first job, people want to know whether it will work."""
    answer = await office.call("POST", f"{PATH}/test-connection")

    assert answer.json()["ok"] is True
    assert answer.json()["credits_remaining"] == 1000
    assert answer.json()["source"] == "offline"
    assert office.credits() == 0


async def test_a_key_can_be_tried_before_it_is_stored(office: Office) -> None:
    """Replacing a working key by a wrong one is what the test should prevent."""
    answer = await office.call(
        "POST", f"{PATH}/test-connection", json={"apollo_api_key": "some-wrong-key"}
    )

    assert answer.json()["ok"] is False
    assert answer.json()["reason"] == "wrong_key"
    assert (await office.call("GET", PATH)).json()["apollo_api_key"]["last4"] == "0001"


async def test_without_a_key_the_test_says_so(office: Office) -> None:
    """Not configured is not wrong."""
    await office.call("DELETE", PATH)

    answer = await office.call("POST", f"{PATH}/test-connection")

    assert answer.json()["reason"] == "not_configured"


@pytest.mark.parametrize(
    ("fault", "reason", "wait"),
    [
        (Fault(401, {}), "wrong_key", None),
        (Fault(402, {}), "out_of_credits", None),
        (Fault(429, {}, {"retry-after": "30"}), "rate_limited", 30.0),
        (Fault(500, {}), "unreachable", None),
        (Fault(drop=True), "unreachable", None),
    ],
)
async def test_a_failing_connection_says_why(
    online: Office, apollo: ApolloServer, fault: Fault, reason: str, wait: float | None
) -> None:
    """Wrong key, rate limited and unreachable ask for three different things."""
    apollo.faults = [fault]

    answer = await online.call(
        "POST", f"{PATH}/test-connection", json={"apollo_api_key": MASTER_KEY}
    )

    told = answer.json()
    assert answer.status_code == 200
    assert (told["ok"], told["reason"], told["retry_after_seconds"]) == (False, reason, wait)
    assert MASTER_KEY not in answer.text


async def test_the_real_client_reads_the_balance(online: Office, apollo: ApolloServer) -> None:
    """Apollo's own number, not ours."""
    apollo.credits = 17

    answer = await online.call(
        "POST", f"{PATH}/test-connection", json={"apollo_api_key": MASTER_KEY}
    )

    assert answer.json()["credits_remaining"] == 17
