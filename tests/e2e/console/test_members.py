"""The members of a workspace in the console: invite, promote, remove, and who may."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.people import ADA, BOB

pytestmark = pytest.mark.browser


def test_a_manager_invites_promotes_and_removes(visit: Visit) -> None:
    """A person without account is invited; the last manager stays."""
    page = visit(ADA, "/members", allow=("409",)).page
    members = page.get_by_role("region", name="Members")
    expect(members.get_by_role("row")).to_have_count(3)

    page.get_by_role("button", name="Invite a person").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Mail address").fill("New@Person.test")
    dialog.get_by_role("button", name="Invite", exact=True).click()
    expect(dialog).to_contain_text("new@person.test is invited")
    dialog.get_by_role("button", name="Done").click()
    expect(members.get_by_role("row", name="new@person.test")).to_contain_text("Invited")

    members.get_by_role("button", name="Withdraw the invitation of new@person.test").click()
    page.get_by_role("button", name="Withdraw the invitation", exact=True).click()
    expect(members.get_by_role("row")).to_have_count(3)

    members.get_by_role("button", name=f"Remove {ADA.email}").click()
    page.get_by_role("button", name="Remove the member").click()
    expect(page.get_by_text("must keep one manager")).to_be_visible()

    members.get_by_label(f"Role of {BOB.email}").select_option("manager")
    expect(page.get_by_text(f"{BOB.email} is now a manager")).to_be_visible()
    members.get_by_text("Changes").click()
    expect(members.get_by_role("listitem").first).to_contain_text(
        f"{ADA.email} changed the role of {BOB.email} to manager"
    )


def test_a_member_sees_who_shares_the_workspace(visit: Visit) -> None:
    """And is told who may change that."""
    members = visit(BOB, "/members").page.get_by_role("region", name="Members")

    expect(members.get_by_role("row", name=ADA.email)).to_contain_text("Manager")
    expect(members).to_contain_text("A manager may invite and remove people")
    expect(members.get_by_role("button")).to_have_count(0)
