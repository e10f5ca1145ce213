"""The chat's pages: a message, work as a card that asks, and its page; all of it plain text."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import fits, violations
from tests.e2e.console.people import ADA

pytestmark = pytest.mark.browser

HOSTILE = "The roof <img src=x onerror=alert(1)> leaks **badly**."


def test_a_chat_with_work_in_it(visit: Visit, workspace: dict[str, str]) -> None:
    """By keyboard, from the list to the page that the work has built, and back to the list."""
    visitor = visit(ADA, "/chat")
    page = visitor.page
    expect(page.get_by_text("No conversations yet")).to_be_visible()
    page.get_by_role("button", name="New conversation").press("Enter")
    expect(page).to_have_url(re.compile(r"/chat/session#chat_[0-9a-f-]{36}$"))
    box = page.get_by_role("textbox", name="Message")
    box.fill(HOSTILE)
    box.press("Enter")
    expect(page.locator("[data-type=message]")).to_contain_text(HOSTILE)
    expect(page.locator("[data-type=reply]")).to_contain_text("sample: no model is configured")

    box.fill("Build a dashboard")
    box.press("Enter")
    card = page.locator("[data-work]")
    expect(card).to_have_attribute("data-status", "waiting")
    found = violations(page)
    card.get_by_placeholder("Or in your own words").fill("Use a blue and white color scheme")
    card.get_by_role("button", name="Answer", exact=True).press("Enter")
    built = page.frame_locator(".chat-page iframe")
    expect(built.get_by_role("heading", level=1)).to_have_text("Sample dashboard")
    expect(card).to_have_attribute("data-status", "completed")
    box.fill("Build a timeline")
    box.press("Enter")
    other = page.locator("[data-work]").nth(1)
    other.get_by_role("button", name="Cancel").press("Enter")
    expect(other).to_have_attribute("data-status", "cancelled")
    assert page.locator("main img").count() == 0
    page.set_viewport_size({"width": 320, "height": 700})
    fits(page)
    page.get_by_role("link", name="Chat").first.press("Enter")
    expect(page.get_by_role("row", name=re.compile("The roof"))).to_be_visible()
    assert found == []
