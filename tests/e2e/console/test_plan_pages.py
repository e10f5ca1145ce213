"""The plans app's pages: from a goal to its report, watched while it is written."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import paused, picture, violations, write_live
from tests.e2e.console.people import ADA
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.browser

GOAL = "Move the museum <img src=x onerror=alert(1)> before the spring **season**."


def describe(page: Page, goal: str) -> None:
    """Start a plan by the form."""
    page.get_by_role("button", name="New plan").click()
    page.get_by_role("textbox", name="Goal").fill(goal)
    page.get_by_role("textbox", name="Constraints").fill("No trucks\nNo rain")
    page.get_by_label("Deadline").fill("2030-04-01")
    page.get_by_role("button", name="Add a document").click()
    page.get_by_label("Title").fill("Notes")
    page.get_by_label("Text", exact=True).fill("The customs house has a goods lift.")
    page.get_by_role("button", name="Plan it").press("Enter")
    expect(page).to_have_url(re.compile(r"/plans/[0-9a-f-]{36}$"))


def test_a_goal_is_planned_before_ones_eyes(
    visit: Visit, stack: RunningStack, workspace: dict[str, str], repository: Path
) -> None:
    """Text as it is written, a question, a report that is text and nothing else, an export."""
    visitor = visit(ADA, "/plans")
    page = visitor.page
    expect(page.get_by_text("Nothing planned yet")).to_be_visible()
    with paused(stack, workspace["id"], "plan"):
        describe(page, GOAL)
        expect(page.get_by_role("heading", level=1)).to_have_text(GOAL)
        expect(page.locator(".freshness")).to_have_attribute("data-freshness", "live")
        write_live(stack, workspace["id"], "plan", stage="understand", text="The museum is to mo")
        live = page.locator("[data-stage=understand] [data-live]")
        expect(live).to_have_text("The museum is to mo")
        write_live(stack, workspace["id"], "plan", stage="understand", text="The museum is to move")
        expect(live).to_have_text("The museum is to move")
        picture(page, "plan-live")

    question = page.get_by_role("region", name="Question")
    expect(question).to_be_visible()
    visitor.settle()
    picture(page, "plan-question")
    found = violations(page, repository)
    page.get_by_role("button", name="Go on with the assumptions").press("Enter")

    expect(page.locator("[data-stage=review]")).to_have_attribute("data-state", "completed")
    expect(page.get_by_role("heading", name="Report", exact=True)).to_be_visible()
    expect(page.get_by_text("no language model was asked")).to_be_visible()
    expect(page.locator("[data-phase]").first).to_be_visible()
    expect(page.locator("[data-partial]")).to_have_count(0)
    assert page.locator("main img").count() == 0
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        visitor.settle()
        found += violations(page, repository)
        picture(page, f"plan-report-wide-{scheme}")
    page.set_viewport_size({"width": 320, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    picture(page, "plan-report-narrow-dark")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export as Markdown").click()
    text = download.value.path().read_text()
    assert r"\<img src=x onerror=alert(1)\>" in text
    assert "## Phases" in text
    assert found == []


def test_a_plan_is_stopped_delivered_and_finished_later(
    visit: Visit, workspace: dict[str, str], api: Callable[..., Any], repository: Path
) -> None:
    """The partial report says what is missing; one click has it written."""
    body = {"workspace_id": workspace["id"], "goal": "Plant an orchard of apples", "max_phases": 2}
    plan = api("POST", "/api/plans", body)
    visitor = visit(ADA, f"/plans/{plan['id']}")
    page = visitor.page
    expect(page.get_by_role("region", name="Question")).to_be_visible()
    page.get_by_role("button", name="Stop and deliver").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop and deliver").click()

    partial = page.locator("[data-partial]")
    expect(partial).to_contain_text("Outline: The plan was cancelled")
    expect(page.get_by_role("heading", name="Goal", exact=True)).to_be_visible()
    picture(page, "plan-partial")
    page.get_by_role("button", name="Write what is missing").click()
    page.get_by_role("button", name="Go on with the assumptions").click()

    expect(page.locator("[data-stage=review]")).to_have_attribute("data-state", "completed")
    expect(partial).to_have_count(0)
    page.get_by_role("link", name="Plans", exact=True).first.click()
    expect(page.get_by_role("row", name=re.compile("orchard"))).to_contain_text("Completed")
    visitor.settle()
    found = violations(page, repository)
    page.get_by_role("button", name="New plan").press("Enter")
    page.get_by_role("button", name="Add a document").press("Enter")
    picture(page, "plan-dialog")
    assert found + violations(page, repository) == []
