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
    expect(page.get_by_role("region", name="Limits by type")).to_contain_text("enrich_account")
    assert stack.worker_secret_token not in page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}])"
    )


def test_schedules_webhooks_and_limits_are_kept_by_managers(
    visit: Visit, worker: HandWorker
) -> None:
    """Made, changed, switched and deleted where they are seen."""
    page = visit(ADA, "/operations", allow=("400",)).page
    page.get_by_role("button", name="Add a schedule").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Name").fill("nightly")
    form.get_by_label("Cron").fill("nonsense")
    form.get_by_label("Time zone").fill("UTC")
    form.get_by_label("Job type").fill(worker.job_type)
    form.get_by_role("button", name="Save").click()
    expect(form.get_by_role("alert")).to_contain_text("cron")
    form.get_by_label("Cron").fill("30 2 * * *")
    expect(form.get_by_text("Next runs")).to_contain_text("02:30 UTC")
    form.get_by_role("button", name="Save").click()
    row = page.get_by_role("group", name="Schedules").get_by_role("row", name="nightly")
    expect(row).to_contain_text("30 2 * * *")
    expect(row).to_contain_text("in ")
    row.get_by_role("button", name="Switch off").click()
    expect(row).to_contain_text("Off")
    row.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete the schedule").click()
    expect(page.get_by_text("No schedules")).to_be_visible()

    page.get_by_role("button", name="Add a webhook").click()
    form.get_by_label("Endpoint").fill("https://hooks.example/minutehand")
    form.get_by_label("Events").fill("job.completed, job.failed")
    form.get_by_role("button", name="Add").click()
    expect(form).to_contain_text("whsec_")
    form.get_by_role("button", name="I have kept it").click()
    expect(page.get_by_role("group", name="Webhooks")).to_contain_text("job.completed, job.failed")
    assert "whsec_" not in page.content()
    page.get_by_role("button", name="Deliveries").click()
    expect(form).to_contain_text("Nothing delivered yet")
    form.get_by_role("button", name="Close").click()

    page.get_by_label("Own limit").fill("3")
    page.get_by_role("button", name="Set", exact=True).click()
    expect(page.get_by_text("0 of 3 running")).to_be_visible()
    bob = visit(BOB, "/operations").page
    expect(bob.get_by_text("0 of 3 running")).to_be_visible()
    expect(bob.get_by_role("button", name="Add a webhook")).to_have_count(0)


def test_members_see_how_long_jobs_are_kept_and_what_was_removed(
    visit: Visit, stack: RunningStack, workspace: dict[str, str]
) -> None:
    """Retention is no secret of the engine."""
    with stack.connect() as connection:
        connection.execute(
            "insert into queue.removals values (%s, current_date, 'completed', 1234, now())",
            (workspace["id"],),
        )
    page = visit(BOB, "/operations").page

    card = page.get_by_role("region", name="Retention")
    expect(card.get_by_role("row", name="Kept for")).to_contain_text("30 days")
    expect(card.get_by_role("row", name="Removed in 30 days")).to_contain_text("1,234")
    expect(card).to_contain_text("Last removed")
