"""The enrichment app's pages, from the key to the account that fills itself."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import fits, violations_in_both_schemes
from tests.e2e.console.people import ADA

pytestmark = pytest.mark.browser


def test_from_the_key_to_the_account_that_fills_itself(visit: Visit) -> None:
    """Save the key, test it, add an account, press its button, see its job. No page is reloaded."""
    visitor = visit(ADA, "/workspace/settings/api")
    page = visitor.page
    expect(page.get_by_text("Not configured")).to_be_visible()
    page.get_by_label("API key").fill("test-key-console-0042")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("ends in 0042")).to_be_visible()
    page.get_by_role("button", name="Test connection").click()
    expect(page.get_by_text("credits remaining")).to_be_visible()
    assert "test-key-console" not in page.content()

    visitor.go("/accounts")
    expect(page.get_by_text("No accounts yet")).to_be_visible()
    page.get_by_role("button", name="New account").click()
    page.get_by_label("Name").fill("Alpha")
    page.get_by_label("Domain").fill("alpha.example")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Alpha")
    other = visitor.another_tab(page.url)
    account = page.url
    button = page.get_by_role("button", name="Enrich Alpha")
    expect(button).to_have_attribute("title", "Calls Apollo, at most 1 credit")
    button.click()

    for each in (page, other):
        expect(each.locator("[data-field=industry]")).to_have_text("Technology")
        expect(each.locator("[data-field=industry]")).to_have_class("arrived")
        expect(each.locator("#h-runs + ul .badge")).to_have_text("Completed")
    assert page.url == account
    assert violations_in_both_schemes(visitor) == []
    page.locator("#h-runs + ul a").click()
    expect(page).to_have_url(re.compile(r"/jobs/[0-9a-f-]{36}$"))
    lines = page.locator(".log-text")
    expect(lines.last).to_contain_text("Account enrichment completed successfully")
    expect(other.get_by_text("Sample: Mock Company for alpha.example")).to_be_visible()
    other.get_by_role("button", name="Use what Apollo says for name").click()
    visitor.go("/accounts")
    expect(page.get_by_role("link", name="Mock Company for alpha.example")).to_be_visible()
    page.get_by_role("button", name="New account").click()
    page.get_by_label("Name").fill("Gamma")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Gamma")
    visitor.go("/accounts")
    expect(page.get_by_text("Enriched, sample")).to_have_count(1)
    page.set_viewport_size({"width": 320, "height": 700})
    fits(page)
    assert violations_in_both_schemes(visitor) == []
    visitor.go("/contacts")
    page.get_by_role("button", name="Create the first").click()
    page.get_by_label("Name").fill("Ann Lee")
    page.get_by_label("Email").fill("ann@gamma.example")
    page.get_by_label("Account").select_option("Gamma")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("link", name="ann@gamma.example")).to_be_visible()
    expect(page.get_by_role("link", name="Gamma", exact=True)).to_be_visible()
    fits(page)
    assert violations_in_both_schemes(visitor) == []
    visitor.go("/accounts")
    page.get_by_role("button", name="New account").click()
    page.get_by_label("Name").fill("Umbra")
    page.get_by_label("Domain").fill("umbra.invalid")
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_role("button", name="Enrich Umbra").click()
    expect(page.get_by_text("Nothing was found for umbra.invalid.")).to_be_visible()
