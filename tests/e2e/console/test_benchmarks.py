"""Pages of the beacon app: submit a benchmark, compare regions' answers, download receipts."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import check_page
from tests.e2e.console.people import ADA, click

pytestmark = pytest.mark.browser


def test_a_benchmark_is_submitted_answered_and_signed(visit: Visit) -> None:
    """A manager submits a benchmark with the form and sees its answers and signed receipts live.

    The pages fit a narrow screen.
    """
    visitor = visit(ADA, "/benchmarks", allow=("422",))
    page = visitor.page
    click(page, "New benchmark")
    expect(page.get_by_label("Questions")).to_have_value(re.compile("What is 17 times 6"))
    page.get_by_label("Name", exact=True).fill("Trivia")
    page.get_by_label("Questions").fill("Why is it?\nmaths: What is 2 + 2?")
    page.get_by_label("Regions that must answer").fill("3")
    click(page, "Submit")
    expect(page.get_by_role("alert")).to_contain_text("min_regions")
    page.get_by_label("Regions that must answer").fill("2")
    click(page, "Submit")

    expect(page).to_have_url(re.compile(r"/benchmarks/[0-9a-f-]{36}$"))
    expect(page.locator(".page-head .badge")).to_have_text("Sample", timeout=90_000)
    answers = page.get_by_role("group", name="Answers")
    expect(answers.locator("tbody tr")).to_have_count(2)
    expect(answers.locator("[data-question=q2]")).to_contain_text("What is 2 + 2?")
    click(page, "Run daily")
    expect(page.get_by_text("It runs each day at 06:00 UTC")).to_be_visible()
    with page.expect_download() as download:
        click(page, "Download the bundle")
    assert len(json.loads(Path(download.value.path()).read_text())["receipts"]) == 2
    check_page(visitor)
    page.get_by_role("link", name="Signed").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Receipt of ")
    page.reload()
    expect(page.get_by_label("Signature")).to_contain_text("offline-1")
    check_page(visitor)
    page.get_by_role("link", name="Jobs and queues").click()
    page.get_by_role("link", name="Schedules").click()
    click(page, "Run now")
    expect(page.locator(".page-head .badge")).to_have_text("Completed")
    page.get_by_text("Apps", exact=True).click()
    page.get_by_role("link", name="Benchmarks").last.click()
    listed = page.get_by_role("group", name="Jobs").locator("tbody tr")
    expect(listed.get_by_text("Sample", exact=True)).to_have_count(2, timeout=90_000)
    listed.get_by_role("link").first.click()
    expect(page.get_by_text("0 of 4 answers changed since the run")).to_be_visible()
