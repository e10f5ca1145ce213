"""The link that Auth mails to who is invited: it leads into the console, and to a password."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.people import ADA, EVE
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.browser


@pytest.fixture
def newcomer(stack: RunningStack, workspace: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The session of an account that was just made, whose address a manager invited."""
    address = f"new-{uuid.uuid4().hex[:8]}@person.test"
    with stack.connect() as connection:
        connection.execute(
            "insert into queue.invitations (workspace_id, email, role) values (%s, %s, 'member')",
            (workspace["id"], address),
        )
    made = httpx.post(
        f"{stack.supabase_url}/auth/v1/signup",
        headers={"apikey": stack.supabase_publishable_key},
        json={"email": address, "password": uuid.uuid4().hex},
    )
    made.raise_for_status()
    yield {**made.json(), "email": address}
    with stack.connect() as connection:
        connection.execute("delete from auth.users where email = %s", (address,))


def link(session: dict[str, Any]) -> str:
    """Where Auth sends the browser from the mail."""
    names = ("access_token", "refresh_token", "token_type", "expires_in")
    return "/#" + "&".join(f"{name}={session[name]}" for name in names) + "&type=invite"


def test_an_invited_person_chooses_a_password_and_is_in(
    visit: Visit, newcomer: dict[str, Any], workspace: dict[str, str]
) -> None:
    """And signs in with it the next time."""
    page = visit(None, link(newcomer), allow=("status of 4",)).page
    expect(page.get_by_text(f"You are signed in as {newcomer['email']}")).to_be_visible()
    expect(page).not_to_have_url(re.compile("token"))

    page.get_by_label("New password").fill("a-long-enough-password")
    page.get_by_role("button", name="Save and continue").click()
    asked = page.get_by_role("region", name=f"Invitation to {workspace['name']}")
    expect(asked).to_contain_text(f"{workspace['name']} wants to add you as a member")
    expect(page.locator("#rail .workspace")).to_have_text("No workspace")
    asked.get_by_role("button", name="Accept").click()
    expect(page.locator("#rail .workspace")).to_contain_text(workspace["name"])
    expect(asked).to_have_count(0)
    page.get_by_role("link", name="Jobs", exact=True).click()
    expect(page.get_by_role("heading", name="Jobs", level=1)).to_be_visible()

    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("Email").fill(newcomer["email"])
    page.get_by_label("Password").fill("a-long-enough-password")
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("heading", name="Jobs", level=1)).to_be_visible()


def test_a_person_with_an_account_is_asked_and_may_decline(
    visit: Visit, stack: RunningStack, workspace: dict[str, str]
) -> None:
    """Nobody is put into another's workspace; the manager sees the answer."""
    with stack.connect() as connection:
        connection.execute(
            "insert into queue.invitations (workspace_id, email, role) values (%s, %s, 'manager')",
            (workspace["id"], EVE.email),
        )
    page = visit(EVE, "/jobs").page
    asked = page.get_by_role("region", name=f"Invitation to {workspace['name']}")
    expect(asked).to_contain_text("wants to add you as a manager")

    asked.get_by_role("button", name="Decline").click()

    expect(asked).to_have_count(0)
    expect(page.locator("#rail .workspace")).not_to_contain_text(workspace["name"])
    members = visit(ADA, "/members").page.get_by_role("region", name="Members")
    members.get_by_text("Changes").click()
    expect(members.get_by_role("listitem").first).to_contain_text(
        f"{EVE.email} declined an invitation"
    )


def test_a_link_that_is_too_old_says_so(visit: Visit) -> None:
    """Auth answers with the reason in the address."""
    page = visit(
        None,
        "/#error=access_denied&error_code=otp_expired"
        "&error_description=Email+link+is+invalid+or+has+expired",
    ).page

    expect(page.get_by_role("status")).to_contain_text("Email link is invalid or has expired")
    expect(page).not_to_have_url(re.compile("error"))


def test_a_link_replaces_no_session(visit: Visit, newcomer: dict[str, Any]) -> None:
    """Somebody else's link must not make a person work in that one's name."""
    page = visit(ADA, "/jobs").another_tab(link(newcomer))

    expect(page.get_by_text(ADA.email).first).to_be_visible()
    expect(page.get_by_label("New password")).to_have_count(0)
