"""The pages of plans: a prompt, its report as it is made, its log, and deletion."""

from __future__ import annotations

import re
from contextlib import closing
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect
from psycopg.types.json import Jsonb

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import fits, violations
from tests.e2e.console.people import ADA
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.browser

GUESTS = "00000000-0000-4000-8000-0000000091a5"
HOSTILE = "Plan a fair <img src=x onerror=alert(1)> for 200 guests"


def test_a_plan_from_its_prompt_to_its_deletion(visit: Visit, browser: Browser) -> None:
    """By keyboard; what was written stays text."""
    visitor = visit(ADA, "/plans", allow=(r"404 .*/api/plans", r"status of 404"))
    page = visitor.page
    expect(page.get_by_text("No plans yet")).to_be_visible()
    page.get_by_role("button", name="New plan").press("Enter")
    page.get_by_label("Prompt").fill(HOSTILE)
    page.get_by_label("Detail").select_option("fast_but_skip_details")
    page.get_by_role("button", name="Plan it").press("Enter")
    expect(page).to_have_url(re.compile(r"/plans/[0-9a-f-]{36}$"))
    expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    expect(page.get_by_role("heading", level=2)).to_contain_text("Sample plan")
    expect(page.get_by_role("heading", level=3)).to_have_count(8)
    expect(page.get_by_text("Completed", exact=True)).to_be_visible()
    outline = page.get_by_role("navigation", name="Chapters")
    expect(outline.get_by_role("listitem")).to_have_count(8)
    expect(outline.locator("[data-status=completed]")).to_have_count(8)
    page.get_by_role("button", name="Make again: Strategy").press("Enter")
    expect(page.locator("[data-chapter=completed]")).to_have_count(7)
    expect(page.locator("[data-chapter=completed]")).to_have_count(8)
    expect(page.get_by_text("Completed", exact=True)).to_be_visible()
    page.get_by_text("Log", exact=True).click()
    expect(page.get_by_role("list", name="Log")).to_contain_text("Strategy: done")
    found = violations(page)
    at = page.locator(".rail").bounding_box()
    page.evaluate("scrollTo(0, 300)")
    assert page.evaluate("scrollY") == 300
    assert page.locator(".rail").bounding_box() == at, "the menu moves while a page scrolls"
    page.get_by_role("button", name="Share").press("Enter")
    page.get_by_role("button", name="Make a link").press("Enter")
    link = page.get_by_label("Link").input_value()
    with closing(browser.new_context(viewport={"width": 320, "height": 700})) as stranger:
        shared = stranger.new_page()
        shared.goto(link)
        expect(shared.get_by_role("heading", level=1)).to_contain_text("Sample plan")
        fits(shared)
    found += violations(page)
    page.get_by_role("button", name="Close").press("Enter")
    page.set_viewport_size({"width": 320, "height": 700})
    fits(page)
    assert page.locator("main img").count() == 0
    page.get_by_role("button", name="Delete").press("Enter")
    page.get_by_role("button", name="Delete plan").press("Enter")
    expect(page.get_by_text("No plans yet")).to_be_visible()
    assert found == []


#: Notes how long the words of each chapter are whenever they have changed.
NOTE_WORDS = """() => {
  window.lengths = {};
  const note = () => document.querySelectorAll(".chapter .writing").forEach((words) => {
    (window.lengths[words.closest(".chapter").id] ??= new Set()).add(words.textContent.length);
  });
  new MutationObserver(note).observe(document, { subtree: true, childList: true,
    characterData: true });
}"""
HAS_GROWN = "() => Object.values(window.lengths).some((of) => of.size > 1)"


def test_words_of_a_guests_plan_come_to_who_has_its_session(
    visit: Visit, stack: RunningStack
) -> None:
    """A member of nothing looks: chapters grow word by word; of another session none comes."""

    def pause(is_paused: bool) -> None:
        request = {"kind": "workspace", "name": GUESTS, "paused": is_paused}
        with stack.connect() as connection:
            connection.execute("select public.pause_jobs(%s)", (Jsonb(request),))

    def plan_of(made: Any) -> Any:
        return httpx.get(f"{stack.api_url}/api/plans/{made['plan_id']}").raise_for_status().json()

    wish = {"prompt": "Open a bakery", "speed_vs_detail": "fast_but_skip_details"}
    first = httpx.post(f"{stack.api_url}/api/plans", json=wish).raise_for_status().json()
    pause(True)
    try:
        made = httpx.post(f"{stack.api_url}/api/plans", json=wish).raise_for_status().json()
        page = visit(ADA, f"/plans/{made['plan_id']}").page
        expect(page.get_by_text("Queued", exact=True)).to_be_visible()
        page.evaluate(NOTE_WORDS)
    finally:
        pause(False)
    expect(page.get_by_text("Completed", exact=True)).to_be_visible()
    expect(page.locator("[data-chapter=completed]")).to_have_count(8)
    page.wait_for_function(HAS_GROWN)
    events = f"{stack.api_url}/api/jobs/{made['job_id']}/events"
    sessions = [plan_of(each)["session_id"] for each in (made, first)]
    assert [httpx.get(events, params={"session_id": each}).status_code for each in sessions] == [
        200,
        404,
    ]
    for each in (first, made):
        httpx.delete(f"{stack.api_url}/api/plans/{each['plan_id']}").raise_for_status()
