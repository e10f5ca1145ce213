"""The operations page: numbers, readiness, dead letters, pauses, the operator's view."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.people import ADA, BOB
from tests.e2e.console.worker import HandWorker
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.browser


def test_the_last_hour_is_told_in_numbers_and_a_picture(visit: Visit, worker: HandWorker) -> None:
    """What ran, how well, how long it waited."""
    worker.enqueue_many([{}] * 4)
    for _ in range(3):
        worker.run(duration_ms=120)
    worker.run("failed", error={"type": "Boom", "message": "no"})
    page = visit(ADA, "/operations").page

    expect(page.get_by_role("region", name="Totals")).to_contain_text("75.0 %")
    row = page.get_by_role("region", name="By type").get_by_role("row", name=worker.job_type)
    expect(row).to_contain_text("3")
    expect(page.get_by_role("region", name="Readiness")).to_contain_text("Last tick")
    expect(page.locator(".chart canvas")).to_be_visible()


def test_dead_letters_are_grouped_by_what_went_wrong_and_redriven(
    visit: Visit, worker: HandWorker
) -> None:
    """Errors that differ in numbers only are one line."""
    worker.enqueue_many([{}] * 3)
    for number in (1, 22):
        worker.run("failed", error={"type": "Boom", "message": f"row {number} is bad"})
    worker.run("failed", error={"type": "Boom", "message": "something else"})
    page = visit(ADA, "/operations").page
    letters = page.get_by_role("region", name="Dead letters").locator("tbody tr")
    expect(letters).to_have_count(2)
    expect(letters.first).to_contain_text("is bad")

    letters.first.get_by_role("button", name="Redrive 2").click()
    page.get_by_role("dialog").get_by_role("button", name="Redrive 2 jobs").click()

    expect(letters).to_have_count(1)
    assert len(worker.lease(limit=5)) == 2


def test_a_manager_pauses_and_resumes_the_workspace(visit: Visit, worker: HandWorker) -> None:
    """While it is paused nothing starts; members are told who may."""
    page = visit(ADA, "/operations").page
    page.get_by_placeholder("Reason, if any").fill("maintenance")
    page.get_by_role("button", name="Pause", exact=True).click()
    page.get_by_role("button", name="Pause the workspace").click()
    expect(page.get_by_text("maintenance")).to_be_visible()
    worker.enqueue()
    assert worker.lease() == []
    bob = visit(BOB, "/operations").page
    expect(bob.get_by_text("A manager may pause the workspace")).to_be_visible()

    page.get_by_role("button", name="Resume", exact=True).click()

    expect(page.get_by_role("button", name="Pause", exact=True)).to_be_visible()
    assert len(worker.lease()) == 1


def test_the_operators_token_opens_the_whole_and_a_wrong_one_is_refused(
    visit: Visit, stack: RunningStack
) -> None:
    """Ticks and limits are the operator's; the token is kept nowhere."""
    page = visit(ADA, "/operations", allow=("401",)).page
    page.get_by_role("button", name="Operator's view").click()
    page.get_by_placeholder("WORKER_SECRET_TOKEN").fill("wrong")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("alert")).to_contain_text("Unauthorized")
    page.get_by_role("button", name="Leave operator's view").click()
    page.get_by_role("button", name="Operator's view").click()
    page.get_by_placeholder("WORKER_SECRET_TOKEN").fill(stack.worker_secret_token)
    page.get_by_role("button", name="Show").click()

    expect(page.get_by_role("heading", name="Ticks")).to_be_visible()
    expect(page.get_by_role("region", name="Limits")).to_contain_text("enrich_account")
    assert stack.worker_secret_token not in page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}])"
    )
