"""Pages of the plans app: a prompt, its live report, its log, and the deletion."""

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import fits, violations
from tests.e2e.console.people import ADA, open_link, press

pytestmark = pytest.mark.browser

HOSTILE = "Plan a fair <img src=x onerror=alert(1)> for 200 guests"
#: A promise that resolves when a chapter is no longer completed, which may last for milliseconds.
CHAPTER_LEAVES = """
window.chapterLeft = new Promise((resolve) => {
  const completed = () => document.querySelectorAll("[data-chapter=completed]").length;
  const before = completed();
  new MutationObserver(() => completed() < before && resolve()).observe(document.body, {
    attributes: true,
    childList: true,
    subtree: true,
  });
});
undefined;
"""


def test_a_plan_from_its_prompt_to_its_deletion(visit: Visit) -> None:
    """A user creates, edits and deletes a plan by keyboard alone. Written text is escaped."""
    visitor = visit(ADA, "/plans", allow=(r"404 .*/api/plans", r"status of 404"))
    page = visitor.page
    expect(page.get_by_text("No plans yet")).to_be_visible()
    press(page, "New plan")
    page.get_by_label("Prompt").fill(HOSTILE)
    page.get_by_label("Detail").select_option("fast_but_skip_details")
    press(page, "Create plan")
    expect(page).to_have_url(re.compile(r"/plans/[0-9a-f-]{36}$"))
    expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    expect(page.get_by_role("heading", level=2)).to_contain_text("Sample plan")
    expect(page.get_by_role("heading", level=3)).to_have_count(8)
    expect(page.get_by_text("Sample", exact=True)).to_be_visible()
    outline = page.get_by_role("navigation", name="Chapters")
    expect(outline.get_by_role("listitem")).to_have_count(8)
    expect(outline.locator("[data-status=completed]")).to_have_count(8)
    page.evaluate(CHAPTER_LEAVES)
    press(page, "Rewrite: Strategy")
    page.evaluate("window.chapterLeft")
    expect(page.locator("[data-chapter=completed]")).to_have_count(8)
    visitor.go("/plans")
    expect(page.get_by_text("Sample", exact=True)).to_be_visible()
    page.go_back()
    press(page, "Edit: Assumptions")
    page.get_by_label("Text").fill("Dry weather\nA permit")
    found = violations(page)
    press(page, "Save")
    expect(page.locator("#assumptions li")).to_have_text(["Dry weather", "A permit"])
    chart = page.get_by_role("list", name="Gantt chart")
    chart.get_by_role("button").first.press("Enter")
    page.get_by_role("spinbutton", name="Days").fill("90")
    press(page, "Save")
    expect(chart.get_by_role("button").first).to_contain_text("90 days")
    page.get_by_text("Log", exact=True).click()
    expect(page.get_by_role("list", name="Log")).to_contain_text("Strategy: done")
    found += violations(page)
    at = page.locator(".rail").bounding_box()
    page.evaluate("scrollTo(0, 300)")
    assert page.evaluate("scrollY") == 300
    assert page.locator(".rail").bounding_box() == at, "the menu moves while a page scrolls"
    with open_link(page) as shared:
        expect(shared.get_by_role("heading", level=1)).to_contain_text("Sample plan")
        fits(shared)
    found += violations(page)
    press(page, "Close")
    page.set_viewport_size({"width": 320, "height": 700})
    fits(page)
    assert page.locator("main img").count() == 0
    press(page, "Delete")
    press(page, "Delete plan")
    expect(page.get_by_text("No plans yet")).to_be_visible()
    assert found == []
