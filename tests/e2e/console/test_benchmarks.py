"""Beacon's pages: write a benchmark, watch it being measured, verify its receipts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import violations
from tests.e2e.console.people import ADA, BOB
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.browser


@pytest.fixture
def start(
    stack: RunningStack, workspace: dict[str, str], api: Callable[..., Any]
) -> Callable[..., dict[str, Any]]:
    """Have the stack's own health measured; the run."""

    def begin(**fields: Any) -> dict[str, Any]:
        body = {
            "workspace_id": workspace["id"],
            "name": "Health",
            "target": {"url": f"{stack.api_url}/health"},
            "regions": ["eu-west-1", "us-east-1"],
            "samples": 12,
            "thresholds": {"p95_ms": 30000, "error_rate": 0},
            **fields,
        }
        spec = api("POST", "/api/beacon/specs", body)
        run: dict[str, Any] = api("POST", f"/api/beacon/specs/{spec['id']}/runs")
        return run

    return begin


def finished(page: Page) -> None:
    """Wait until the run is over and its receipts are there."""
    expect(page.locator(".page-head .badge")).to_have_text("Completed")
    expect(page.get_by_role("button", name="Verify")).to_be_visible()


def test_a_benchmark_is_written_measured_and_verified(visit: Visit, stack: RunningStack) -> None:
    """By a member, with the keyboard's own form; nobody reloads anything."""
    page = visit(BOB, "/benchmarks", allow=("400",)).page
    expect(page.get_by_text("No benchmarks yet")).to_be_visible()
    page.get_by_role("button", name="New benchmark").click()
    page.get_by_label("Name", exact=True).fill("Health")
    page.get_by_label("Endpoint").fill("https://user@provider.example/")
    page.get_by_label("Regions").fill("eu-west-1, us-east-1")
    page.get_by_label("Samples").fill("8")
    page.get_by_label("95 % within").fill("30000")
    page.get_by_role("button", name="Write it").click()
    expect(page.get_by_role("alert")).to_contain_text("user name")
    page.get_by_label("Endpoint").fill(f"{stack.api_url}/health")
    page.get_by_role("button", name="Write it").click()
    expect(page.get_by_text("Health, version 1, is written")).to_be_visible()

    page.get_by_role("button", name="Measure Health").click()

    expect(page).to_have_url(re.compile(r"/benchmarks/[0-9a-f-]{36}$"))
    finished(page)
    rows = page.get_by_role("group", name="Figures").locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("Thresholds kept")
    expect(
        page.get_by_role("img", name=re.compile(r"us-east-1: median .* 0 errors"))
    ).to_be_visible()
    expect(page.get_by_role("group", name="Receipts").locator("tbody tr")).to_have_count(3)
    page.get_by_role("button", name="Verify").click()
    expect(page.locator("[data-verdict=passed]")).to_contain_text("Verified")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the bundle").click()
    bundle = json.loads(Path(download.value.path()).read_text())
    assert len(bundle["receipts"]) == 3
    page.get_by_role("link", name="Benchmarks").last.click()
    expect(page.get_by_role("group", name="Runs").locator("tbody tr")).to_have_count(1)


def test_a_changed_bundle_is_not_what_was_signed(
    visit: Visit,
    start: Callable[..., dict[str, Any]],
    api: Callable[..., Any],
    workspace: dict[str, str],
) -> None:
    """A server, or whoever stands before it, that shows other samples than were signed."""
    wanted = ["beacon.receipt.issued", "beacon.run.finished"]
    hook = {"url": "https://sink.invalid/", "event_types": wanted}
    api("POST", f"/api/workspaces/{workspace['id']}/webhooks", hook)
    run = start()
    page = visit(ADA, f"/benchmarks/{run['id']}").page
    finished(page)
    told = page.get_by_role("group", name="Told to webhooks").locator("tbody tr")
    expect(told).to_have_count(4)
    expect(told.last).to_contain_text("Run finished")

    def tamper(route: Route) -> None:
        bundle = route.fetch().json()
        bundle["receipts"][1]["samples"]["latency_us"][0] += 1
        route.fulfill(json=bundle)

    page.route("**/bundle", tamper)
    page.reload()
    finished(page)
    page.get_by_role("button", name="Verify").click()

    found = page.locator("[data-verdict=failed]")
    expect(found).to_contain_text("Not what was signed")
    expect(found).to_contain_text("samples the samples are not the ones signed for")


def test_a_run_is_cancelled_while_it_is_measured(
    visit: Visit, start: Callable[..., dict[str, Any]]
) -> None:
    """Progress per region, live; then no receipt."""
    run = start(samples=2000, concurrency=1, connection="new")
    page = visit(ADA, f"/benchmarks/{run['id']}").page
    expect(page.locator("[data-region=eu-west-1]")).to_contain_text("of 2000 samples")

    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()

    expect(page.locator(".page-head .badge")).to_have_text("Cancelled")
    expect(page.get_by_text("there is no receipt")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_the_pages(
    visit: Visit, start: Callable[..., dict[str, Any]], scheme: Any, repository: Path
) -> None:
    """No axe violation, and nothing runs out of a narrow screen."""
    run = start(target={"url": "http://127.0.0.1:9/"}, samples=2)
    narrow = {"width": 320, "height": 700}
    visitor = visit(ADA, f"/benchmarks/{run['id']}", color_scheme=scheme, viewport=narrow)
    page = visitor.page
    finished(page)
    page.get_by_role("button", name="Verify").click()
    page.get_by_text("Every check").click()
    visitor.settle()
    found = violations(page, repository)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    visitor.open("/benchmarks")
    visitor.settle()
    found += violations(page, repository)
    page.get_by_role("button", name="New benchmark").click()
    found += violations(page, repository)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320

    assert found == []
