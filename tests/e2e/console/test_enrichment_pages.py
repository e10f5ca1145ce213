"""Pages of the enrichment app, from the Apollo key to an enriched account."""

import csv
import re
from pathlib import Path

import pytest
from playwright.sync_api import FilePayload, expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import check_page
from tests.e2e.console.people import ADA, click

pytestmark = pytest.mark.browser


def test_from_the_key_to_the_account_that_fills_itself(visit: Visit) -> None:
    """A manager saves and tests the Apollo key, adds an account, enriches it and sees its job.

    No page is reloaded.
    """
    visitor = visit(ADA, "/workspace/settings/api")
    page = visitor.page
    expect(page.get_by_text("Not configured")).to_be_visible()
    page.get_by_label("API key").fill("test-key-console-0042")
    click(page, "Save")
    expect(page.get_by_text("ends in 0042")).to_be_visible()
    click(page, "Test connection")
    expect(page.get_by_text("credits remaining")).to_be_visible()
    assert "test-key-console" not in page.content()

    def add(name: str, domain: str) -> None:
        click(page, "New account")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Domain").fill(domain)
        click(page, "Add", exact=True)
        expect(page.get_by_role("heading", level=1)).to_have_text(name)

    visitor.go("/accounts")
    expect(page.get_by_text("No accounts yet")).to_be_visible()
    add("Alpha", "alpha.example")
    other = visitor.another_tab(page.url)
    account = page.url
    button = page.get_by_role("button", name="Enrich Alpha")
    expect(button).to_have_attribute("title", "Calls Apollo, at most 1 credit")
    button.click()

    for each in (page, other):
        expect(each.locator("[data-field=industry]")).to_have_text("Technology")
        expect(each.locator("#h-runs + ul .badge")).to_have_text("Completed")
    assert page.url == account
    for field, hints in (("name", 1), ("industry", 0)):
        value = page.locator("dd", has=page.locator(f"[data-field={field}]"))
        expect(value.locator(".hint")).to_have_count(hints)
    check_page(visitor)
    page.locator("#h-runs + ul a").click()
    expect(page).to_have_url(re.compile(r"/jobs/[0-9a-f-]{36}$"))
    lines = page.locator(".log-text")
    expect(lines.last).to_contain_text("Account enrichment completed successfully")
    expect(other.get_by_text("Sample: Mock Company for alpha.example")).to_be_visible()
    click(other, "Use what Apollo says for name")
    expect(other.get_by_role("heading", level=1)).to_contain_text("Mock Company")
    visitor.go("/accounts")
    expect(page.get_by_role("link", name="Mock Company for alpha.example")).to_be_visible()
    add("Gamma", "gamma.invalid")
    click(page, "Enrich Gamma")
    expect(page.get_by_text("Nothing was found for gamma.invalid.")).to_be_visible()
    visitor.go("/accounts")
    expect(page.get_by_text("Sample", exact=True)).to_have_count(1)
    expect(page.get_by_text("No match", exact=True)).to_be_visible()
    check_page(visitor)
    visitor.go("/contacts")
    click(page, "Create the first")
    page.get_by_label("Name").fill("Ann Lee")
    page.get_by_label("Email").fill("ann@gamma.example")
    page.get_by_label("Account").select_option("Gamma")
    click(page, "Add", exact=True)
    expect(page.get_by_role("link", name="ann@gamma.example")).to_be_visible()
    expect(page.get_by_role("link", name="Gamma", exact=True)).to_be_visible()
    check_page(visitor)


def test_accounts_are_imported_from_csv_and_exported(visit: Visit) -> None:
    """A CSV file creates all its accounts or none, and one account per domain.

    The export contains no formulas for a spreadsheet.
    """
    page = visit(ADA, "/accounts").page

    def choose(text: str) -> None:
        file: FilePayload = {"name": "a.csv", "mimeType": "text/csv", "buffer": text.encode()}
        page.get_by_label("Import CSV").set_input_files(file)

    for wrong, words in (
        ("Company;Domain\nAcme;acme.example\n", "The first line must name the columns"),
        ("name\n" + "A\n" * 1001, "This file has 1001"),
        ("Name;Employee Count\nAlpha;12\nBeta;many\n", "Row 2: “many” is not a number."),
    ):
        choose(wrong)
        expect(page.get_by_text(words)).to_be_visible()
    expect(page.get_by_text("No accounts yet")).to_be_visible()
    choose("Name;Employee Count;Other\n=1+1;12;x\nZwölf;;\n")
    expect(page.get_by_text("2 accounts imported")).to_be_visible()
    expect(page.get_by_role("row", name="Zwölf")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export CSV").click()
    exported = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    assert [(row["name"], row["employee_count"]) for row in exported] == [
        ("'=1+1", "12"),
        ("Zwölf", ""),
    ]
    rows = "Ä;https://WWW.Bär.example./x\nB;xn--br-via.example\nC;n/a\nD;n/a\n"
    choose(f"Name;Domain\n{rows}")
    expect(page.get_by_text("3 accounts imported. 1 skipped")).to_be_visible()
    expect(page.get_by_role("row", name="Ä xn--br-via.example")).to_be_visible()
    choose("Name;Domain\nAgain;bär.EXAMPLE:443\n")
    expect(page.get_by_text("0 accounts imported. 1 skipped")).to_be_visible()
    choose("name\n" + "Many\n" * 1000)
    expect(page.get_by_text("1,000 accounts imported")).to_be_visible()
