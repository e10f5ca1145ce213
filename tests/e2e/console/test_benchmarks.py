"""Beacon's pages: submit a benchmark, see the regions' answers side by side, verify receipts."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import fits, violations_in_both_schemes
from tests.e2e.console.people import ADA, BOB
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.browser


@pytest.fixture
def start(workspace: dict[str, str], api: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """Submit a job spec; what was answered."""

    def begin(**constraints: Any) -> dict[str, Any]:
        body = {
            "workspace_id": workspace["id"],
            "jobspec_id": f"pages-{uuid.uuid4().hex[:12]}",
            "version": "1",
            "benchmark": {"name": "Trivia"},
            "constraints": {"regions": ["us-east", "eu-west"], "min_regions": 2, **constraints},
            "questions": ["Why?", {"id": "m", "question": "What is 2 + 2?", "category": "maths"}],
        }
        job: dict[str, Any] = api("POST", "/api/v1/jobs", body)
        return job

    return begin


def finished(page: Page) -> None:
    """Wait until the job has ended well and its receipts are there."""
    expect(page.locator(".page-head .badge")).to_have_text("Completed", timeout=90_000)
    expect(page.get_by_role("button", name="Verify")).to_be_visible()


def test_a_benchmark_is_submitted_answered_and_verified(visit: Visit) -> None:
    """By a member, by the form; no page is reloaded on the way."""
    page = visit(BOB, "/benchmarks", allow=("422",)).page
    expect(page.get_by_text("No benchmarks yet")).to_be_visible()
    page.get_by_role("button", name="New benchmark").click()
    page.get_by_label("Name", exact=True).fill("Trivia")
    page.get_by_label("Questions").fill("Why is it?\nmaths: What is 2 + 2?")
    page.get_by_label("Regions needed").fill("3")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("alert")).to_contain_text("min_regions")
    page.get_by_label("Regions needed").fill("2")
    page.get_by_role("button", name="Submit").click()

    expect(page).to_have_url(re.compile(r"/benchmarks/[0-9a-f-]{36}$"))
    finished(page)
    answers = page.get_by_role("group", name="Answers")
    expect(answers.locator("tbody tr")).to_have_count(2)
    second = answers.locator("[data-question=q2]")
    expect(second).to_contain_text("What is 2 + 2?")
    expect(second).to_contain_text("maths")
    expect(second.locator("td")).to_have_count(2)
    page.get_by_label("Differences from").select_option("us-east")
    expect(second.locator("td").last.locator("ins").first).to_contain_text("eu-west")
    expect(second.locator("td").last.locator("del").first).to_contain_text("us-east")
    page.get_by_role("button", name="Verify").click()
    expect(page.locator("[data-verdict=passed]")).to_contain_text("Verified")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the bundle").click()
    bundle = json.loads(Path(download.value.path()).read_text())
    assert len(bundle["receipts"]) == 2
    page.get_by_role("link", name="Benchmarks").last.click()
    expect(page.get_by_role("group", name="Jobs").locator("tbody tr")).to_have_count(1)


def test_a_changed_answer_is_not_what_was_signed(
    visit: Visit, start: Callable[..., dict[str, Any]]
) -> None:
    """A server, or a machine before it, that shows other answers than were signed."""
    job = start()
    page = visit(ADA, f"/benchmarks/{job['id']}").page
    finished(page)

    def tamper(route: Route) -> None:
        bundle = route.fetch().json()
        bundle["receipts"][1]["output"]["data"]["responses"][0]["response"] = "No."
        route.fulfill(json=bundle)

    page.route("**/bundle", tamper)
    page.reload()
    finished(page)
    page.get_by_role("button", name="Verify").click()

    found = page.locator("[data-verdict=failed]")
    expect(found).to_contain_text("Not what was signed")
    expect(found).to_contain_text("the output is not the one signed for")


def test_a_job_is_cancelled_while_it_runs(
    visit: Visit, start: Callable[..., dict[str, Any]], stack: RunningStack
) -> None:
    """Each region's state, live; then no receipt."""
    providers = json.loads(stack.values["BEACON_PROVIDERS"])
    slow = {"moon-1": {"delay_seconds": 600}}
    for provider in providers:
        httpx.put(f"{provider['url']}/faults", json=slow).raise_for_status()
    try:
        job = start(regions=["moon-1"], min_regions=1)
        page = visit(ADA, f"/benchmarks/{job['id']}").page
        expect(page.locator("[data-region=moon-1]")).to_contain_text("Running")

        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()

        expect(page.locator(".page-head .badge")).to_have_text("Cancelled")
        expect(page.locator("[data-region=moon-1]")).to_contain_text("Cancelled")
        expect(page.get_by_role("button", name="Verify")).to_have_count(0)
    finally:
        for provider in providers:
            httpx.put(f"{provider['url']}/faults", json={}).raise_for_status()


def test_everyone_can_use_the_pages(
    visit: Visit, start: Callable[..., dict[str, Any]], repository: Path
) -> None:
    """No axe violation, and nothing runs out of a narrow screen."""
    job = start()
    narrow = {"width": 320, "height": 700}
    visitor = visit(ADA, f"/benchmarks/{job['id']}", viewport=narrow)
    page = visitor.page
    finished(page)
    page.get_by_role("button", name="Verify").click()
    page.get_by_text("Every check").click()
    found = violations_in_both_schemes(visitor, repository)
    fits(page)
    visitor.go("/benchmarks")
    found += violations_in_both_schemes(visitor, repository)
    page.get_by_role("button", name="New benchmark").click()
    found += violations_in_both_schemes(visitor, repository)
    fits(page)

    assert found == []
