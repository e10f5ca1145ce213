"""The plans app's pages: from a prompt to its report and files, watched while it is made."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import (
    fits,
    paused,
    picture,
    violations,
    violations_in_both_schemes,
)
from tests.e2e.console.people import ADA
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.browser

PROMPT = (
    "Organise a fair <img src=x onerror=alert(1)> for **80** guests on 12 June 2099 with a budget"
    " of EUR 9,000."
)


def describe(page: Page, prompt: str) -> None:
    """Create a plan by the form."""
    page.get_by_role("button", name="New plan").click()
    page.get_by_role("textbox", name="Prompt").fill(prompt)
    page.get_by_label("All details").check()
    page.get_by_role("button", name="Plan it").press("Enter")
    expect(page).to_have_url(re.compile(r"/plans/[0-9a-f-]{36}$"))


def planned(page: Page) -> None:
    """Wait until the last stage is completed: there are a dozen, each of several calls."""
    last = page.locator("[data-stage=report]")
    expect(last).to_have_attribute("data-state", "completed", timeout=90_000)


def test_a_prompt_is_planned_before_ones_eyes(
    visit: Visit, stack: RunningStack, workspace: dict[str, str], repository: Path
) -> None:
    """Stages on a timeline, events, a report that is text and charts, files to download."""
    visitor = visit(ADA, "/plans")
    page = visitor.page
    expect(page.get_by_text("Nothing planned yet")).to_be_visible()
    with paused(stack, workspace["id"], "plan"):
        describe(page, PROMPT)
        expect(page.get_by_role("heading", level=1)).to_have_text(PROMPT)
        expect(page.locator(".freshness")).to_have_attribute("data-freshness", "live")
        expect(page.get_by_role("log")).to_contain_text("plan_created")
        expect(page.locator("[data-stage=understand]")).to_have_attribute("data-state", "pending")

    planned(page)
    expect(page.get_by_role("log")).to_contain_text("plan_completed")
    expect(page.locator("[data-percentage]")).to_have_text("100 %")
    expect(page.get_by_role("heading", name="Report", exact=True, level=2)).to_be_visible()
    expect(page.get_by_text("No language model was asked")).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("Gantt chart"))).to_be_visible()
    expect(page.locator("[data-partial]")).to_have_count(0)
    assert page.locator("main img[src=x]").count() == 0
    found = violations_in_both_schemes(visitor, repository, pictured="plan-report-wide")
    page.set_viewport_size({"width": 320, "height": 700})
    fits(page)
    picture(page, "plan-report-narrow-dark")
    with page.expect_download() as download:
        page.get_by_role("button", name="report.md").click()
    text = download.value.path().read_text()
    assert r"\<img src=x onerror=alert(1)\>" in text
    assert "## Schedule and critical path" in text
    assert found == []


def test_a_plan_is_cancelled_restarted_regenerated_and_deleted(
    visit: Visit,
    stack: RunningStack,
    workspace: dict[str, str],
    api: Callable[..., Any],
    repository: Path,
) -> None:
    """The partial report says what is missing; whoever watches a deleted plan is told."""
    with paused(stack, workspace["id"], "plan"):
        body = {"workspace_id": workspace["id"], "prompt": "Paint 3 rooms by 30 June 2099"}
        plan = api("POST", "/api/plans", body)
        # a page that reads on when the plan is already gone learns of it by that
        gone = r"404 .*/api/plans/[0-9a-f-]+(/[a-z]+)?(\?after=\d+)?\)"
        visitor = visit(ADA, f"/plans/{plan['plan_id']}", allow=(gone,))
        page = visitor.page
        page.get_by_role("button", name="Cancel", exact=True).click()
        expect(page.get_by_role("log")).to_contain_text("plan_cancelled")
        expect(page.locator("[data-stage=report]")).to_have_attribute("data-state", "not_run")
        page.get_by_role("button", name="Restart").click()
    planned(page)
    page.get_by_role("button", name="Correct “3 rooms”").click()
    page.get_by_label("In other words").fill("5 rooms")
    page.get_by_role("button", name="Compute again").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Paint 5 rooms by 30 June 2099")
    planned(page)
    again = page.get_by_role("button", name="Regenerate from here: Budget")
    again.click()
    expect(page.get_by_text("Regenerated from Budget")).to_be_visible()
    planned(page)
    expect(again).to_be_visible()  # its job has ended as well

    deleted = httpx.delete(
        f"{stack.api_url}/api/plans/{page.url.rpartition('/')[2]}",
        headers={"Authorization": f"Bearer {stack.sign_in(ADA.email)}"},
    )
    assert deleted.status_code == 204
    expect(page.get_by_text("This plan was deleted.")).to_be_visible()
    page.get_by_role("link", name="All plans").click()
    expect(page.get_by_role("row", name=re.compile("Paint 3 rooms"))).to_contain_text("Completed")
    visitor.settle()
    found = violations(page, repository)
    page.get_by_role("button", name="New plan").press("Enter")
    picture(page, "plan-dialog")
    assert found + violations(page, repository) == []
