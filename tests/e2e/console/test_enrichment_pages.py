"""The enrichment app's pages, from the key to the account that fills itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.people import ADA, BOB
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.browser


@pytest.fixture
def key(api: Callable[..., Any], workspace: dict[str, str]) -> None:
    """A key that the offline Apollo takes."""
    body = {"apollo_api_key": "test-key-console-0042"}
    api("PUT", f"/api/workspaces/{workspace['id']}/settings", body)


@pytest.fixture
def accounts(stack: RunningStack, workspace: dict[str, str]) -> dict[str, str]:
    """Three accounts; name to id."""
    with stack.connect() as connection:
        rows = connection.execute(
            "insert into public.accounts (workspace_id, name, domain) select %s, name, name ||"
            " '.example' from unnest(array['alpha', 'beta', 'gamma']) as name returning name, id",
            (workspace["id"],),
        ).fetchall()
    return {name: str(identity) for name, identity in rows}


def test_a_key_is_saved_tested_and_removed_and_never_shown(visit: Visit) -> None:
    """Save, Test connection, a badge, four characters."""
    page = visit(ADA, "/workspace/settings/api").page
    expect(page.get_by_text("Not configured")).to_be_visible()
    page.get_by_label("API key").fill("test-key-console-0042")
    page.get_by_role("button", name="Test connection").click()
    expect(page.get_by_text("credits remaining")).to_be_visible()

    page.get_by_role("button", name="Save").click()

    expect(page.get_by_text("Configured", exact=True)).to_be_visible()
    expect(page.get_by_text("ends in 0042")).to_be_visible()
    expect(page.get_by_label("New API key")).to_have_value("")
    # a click: until it is saved and read again the box may be drawn as it was
    page.get_by_label("Enrich new accounts").click()
    expect(page.get_by_text("New accounts are enriched by themselves")).to_be_visible()
    expect(page.get_by_label("Enrich new accounts")).to_be_checked()
    page.get_by_role("button", name="Remove key").click()
    page.get_by_role("button", name="Remove the key").click()
    expect(page.get_by_text("Not configured")).to_be_visible()
    assert "test-key-console" not in page.content()


def test_a_bad_key_is_refused_with_its_reason_and_a_member_may_not_change_it(visit: Visit) -> None:
    """Refusals carry their reason; buttons that would be refused are not offered."""
    page = visit(ADA, "/workspace/settings/api", allow=("422",)).page
    page.get_by_label("API key").fill("a wrong key")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("apollo_api_key")

    bob = visit(BOB, "/workspace/settings/api").page
    expect(bob.get_by_text("A manager of the workspace keeps the key")).to_be_visible()
    expect(bob.get_by_label("Enrich new accounts")).to_be_disabled()


def test_enriching_an_account_leads_to_its_job_and_fills_the_account(
    visit: Visit, key: None, accounts: dict[str, str]
) -> None:
    """The button, the job's page, the progress, the account; nobody reloads anything."""
    visitor = visit(ADA, f"/accounts/{accounts['alpha']}")
    page = visitor.page
    field = page.locator("[data-field=industry]")
    expect(field).to_have_text("–")  # noqa: RUF001 - a dash, not a minus
    other = visitor.another_tab(f"/accounts/{accounts['alpha']}")
    expect(other.get_by_role("heading", name="alpha")).to_be_visible()

    page.get_by_role("button", name="Enrich").click()

    expect(page).to_have_url(re.compile(r"/jobs/[0-9a-f-]{36}$"))
    expect(page.locator("h1 .badge")).to_have_text("Completed")
    lines = page.locator(".log-text")
    expect(lines.last).to_contain_text("Account enrichment completed successfully")
    expect(lines.first).to_contain_text("Starting enrichment for account…")
    expect(other.locator("[data-field=industry]")).to_have_text("Technology")
    visitor.open(f"/accounts/{accounts['alpha']}")
    expect(field).to_have_text("Technology")


def test_a_selection_of_accounts_is_enriched_in_place(
    visit: Visit, key: None, accounts: dict[str, str]
) -> None:
    """The list fills itself as the jobs complete."""
    page = visit(ADA, "/accounts").page
    expect(page.locator(".records-table tbody tr")).to_have_count(3)

    page.get_by_label("Select alpha").check()
    page.get_by_label("Select beta").check()
    page.get_by_role("button", name="Enrich 2").click()
    page.get_by_role("dialog").get_by_role("button", name="Enrich 2 accounts").click()

    expect(page.get_by_text("2 jobs enqueued")).to_be_visible()
    expect(page.get_by_role("link", name="Mock Company for alpha.example")).to_be_visible()
    expect(page.get_by_role("link", name="Mock Company for beta.example")).to_be_visible()
    page.get_by_role("searchbox").fill("gamma")
    expect(page.locator(".records-table tbody tr")).to_have_count(1)
    expect(page.locator(".records-table tbody tr")).to_contain_text("Not yet")


def test_an_edit_is_saved_under_the_persons_own_rights(
    visit: Visit, accounts: dict[str, str]
) -> None:
    """People change fields by hand."""
    page = visit(BOB, f"/accounts/{accounts['beta']}").page
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Industry").fill("Weaving")
    page.get_by_label("Employees").fill("12")
    page.get_by_role("button", name="Save").click()

    expect(page.locator("[data-field=industry]")).to_have_text("Weaving")
    expect(page.locator("[data-field=employee_count]")).to_have_text("12")


def test_a_csv_is_imported_with_progress_and_its_refused_rows_come_back_as_a_file(
    visit: Visit, tmp_path: Path
) -> None:
    """A file goes in, accounts appear, errors can be mended and sent again."""
    file = tmp_path / "companies <b>.csv"
    good = [f"Company {index},company{index}.example,Weaving" for index in range(40)]
    file.write_text("\n".join(["name,domain,industry", *good, "Bad,not a domain,x", ""]))
    page = visit(ADA, "/accounts").page
    expect(page.get_by_text("No accounts yet")).to_be_visible()

    page.get_by_role("button", name="Import CSV").click()
    page.get_by_label("File").set_input_files(file)
    page.get_by_role("dialog").get_by_role("button", name="Import").click()

    expect(page.get_by_role("heading", level=1)).to_have_text(file.name)
    expect(page.locator("[data-figure=Created]")).to_have_text("40")
    expect(page.locator("[data-figure=Refused]")).to_have_text("1")
    refused = page.get_by_role("group", name="Refused rows").get_by_role("row", name="41")
    expect(refused).to_contain_text("Bad,not a domain,x")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download 1 refused row").click()
    text = Path(download.value.path()).read_text()
    assert "not a domain" in text
    page.get_by_role("link", name="See the accounts").click()
    expect(page.get_by_text("Company 0", exact=True)).to_be_visible()
    page.get_by_role("button", name="Import CSV").click()
    earlier = page.get_by_role("dialog").get_by_role("link", name=file.name)
    earlier.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(file.name)


def test_a_contact_is_enriched_by_its_button(
    visit: Visit, key: None, stack: RunningStack, workspace: dict[str, str]
) -> None:
    """People, too."""
    with stack.connect() as connection:
        connection.execute(
            "insert into public.contacts (workspace_id, name, email)"
            " values (%s, 'Peter', 'peter@alpha.example')",
            (workspace["id"],),
        )
    page = visit(ADA, "/contacts").page

    page.get_by_role("button", name="Enrich Peter").click()

    expect(page.locator("h1 .badge")).to_have_text("Completed")
    page.get_by_role("link", name="Contacts").click()
    expect(page.get_by_text("Software Engineer")).to_be_visible()


def test_hundreds_of_accounts_scroll_with_few_nodes(
    visit: Visit, stack: RunningStack, workspace: dict[str, str]
) -> None:
    """Pages come by name as they are needed, the nameless of nobody are lost."""
    with stack.connect() as connection:
        connection.execute(
            "insert into public.accounts (workspace_id, name)"
            " select %s, 'Account ' || lpad((n / 3)::text, 4, '0') from generate_series(0, 449) n",
            (workspace["id"],),
        )
    page = visit(ADA, "/accounts").page
    box = page.get_by_role("region", name="Accounts")
    expect(page.locator(".foot")).to_contain_text("100 rows loaded")
    for _ in range(5):  # at least a page each time; the box may still be growing
        before = page.locator(".foot").inner_text()
        if before == "450 rows":
            break
        box.evaluate("(element) => { element.scrollTop = element.scrollHeight }")
        expect(page.locator(".foot")).not_to_have_text(before)

    expect(page.locator(".foot")).to_have_text("450 rows")
    box.evaluate("(element) => { element.scrollTop = element.scrollHeight }")
    expect(page.get_by_role("link", name="Account 0149")).to_have_count(3)
    assert page.locator("tr.record-row").count() < 60
