"""The pages of operations: numbers over ranges, failures, pauses, schedules, webhooks, limits."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import picture
from tests.e2e.console.people import ADA, BOB
from tests.e2e.console.worker import HandWorker

pytestmark = pytest.mark.browser

FRAME = {"file": "jobs/bill now.py", "line": 7, "function": "bill", "code": "pay()", "own": True}


def test_the_last_hour_is_shown_in_numbers_and_a_picture(visit: Visit, worker: HandWorker) -> None:
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
    for name in ("Throughput", "Queue depth", "Queue time, p95", "Success"):
        expect(page.get_by_role("region", name=name).locator("canvas")).to_be_visible()


def test_the_overview_warns_of_jobs_that_no_worker_serves(visit: Visit, worker: HandWorker) -> None:
    """Ten thousand of them once read as four times OK; another workspace reads of its own alone."""
    worker.enqueue_many([{}] * 3)
    page = visit(ADA, "/operations").page

    card = page.get_by_role("region", name="Readiness").locator(".figure", has_text="Due jobs")
    expect(card).to_contain_text("Warning")
    expect(card).to_contain_text(f"3 wait: no worker serves {worker.job_type}")
    expect(card).to_contain_text("deploy the processor")
    totals = page.get_by_role("region", name="Totals")
    for state in ("Queued", "Scheduled", "Running", "Suspended", "Completed"):
        expect(totals).to_contain_text(state)


def test_a_range_is_chosen_and_kept_in_the_address(visit: Visit, worker: HandWorker) -> None:
    """From fifteen minutes to thirty days; what ran yesterday is in the longer ones alone."""
    with worker.database() as connection:
        connection.execute(
            "insert into queue.stat_hours (workspace_id, hour, job_type, outcome, wait_bucket,"
            " run_bucket, jobs) values (%s, date_trunc('hour', now()) - interval '3 days',"
            " 'long_ago', 'completed', 1, 1, 7)",
            (worker.workspace_id,),
        )
    page = visit(ADA, "/operations").page
    expect(page.get_by_text("No job ran in the last hour")).to_be_visible()

    page.get_by_role("button", name="7d").click()

    row = page.get_by_role("region", name="By type").get_by_role("row", name="long_ago")
    expect(row).to_contain_text("7")
    expect(page).to_have_url(re.compile(r"range=7d"))
    page.reload()
    expect(row).to_contain_text("7")


def test_internal_types_are_left_out_until_asked_for(visit: Visit, worker: HandWorker) -> None:
    """Deliveries of webhooks are no work of the workspace."""
    with worker.database() as connection:
        connection.execute(
            "insert into queue.stat_deltas (at, job_type, workspace_id, outcome, jobs)"
            " values (now(), 'webhook_delivery', %s, 'completed', 5)",
            (worker.workspace_id,),
        )
    page = visit(ADA, "/operations").page
    expect(page.get_by_text("No job ran in the last hour")).to_be_visible()

    page.get_by_label("Internal types").check()

    types = page.get_by_role("region", name="By type")
    expect(types.get_by_role("row", name="webhook_delivery")).to_contain_text("5")


def test_dead_letters_are_grouped_by_what_went_wrong_and_redriven(
    visit: Visit, worker: HandWorker
) -> None:
    """Errors that differ in numbers only are one line; the page reads again by itself."""
    worker.enqueue_many([{}] * 3)
    for number in (1, 22):
        worker.run("failed", error={"type": "Boom", "message": f"row {number} is bad"})
    page = visit(ADA, "/failures").page
    letters = page.get_by_role("group", name="Failed jobs").locator("tbody tr")
    expect(letters).to_have_count(1)
    worker.run("failed", error={"type": "Boom", "message": "something else"})
    expect(letters).to_have_count(2)
    expect(letters.first).to_contain_text("is bad")

    letters.first.get_by_role("button", name="Retry 2").click()
    page.get_by_role("dialog").get_by_role("button", name="Retry 2 jobs").click()

    expect(letters).to_have_count(1)
    assert len(worker.lease_rest()) == 2


def test_a_line_at_fault_leads_to_its_commit_and_to_an_editor(
    visit: Visit, worker: HandWorker
) -> None:
    """Of the commit that ran it."""
    worker.enqueue_many([{}] * 3)
    failed = ""
    for commit, count in (("a" * 40, 1), ("b" * 40, 2)):
        worker.deploy(commit)
        for number in range(count):
            boom = {"type": "Boom", "message": f"row {number} is bad"}
            failed = worker.run("failed", error={**boom, "traceback": {"frames": [FRAME]}})
    page = visit(ADA, f"/jobs/{failed}").page
    card = page.get_by_role("region", name="Error")
    expect(card.get_by_role("link", name="Commit")).to_have_attribute(
        "href", "https://github.com/acme/app/jobs/bill%20now.py#L7"
    )
    card.get_by_text("Links to your editor").click()
    card.get_by_label("Address of a line").fill("vscode://file/src/{file}:{line}")
    card.get_by_label("Address of a line").blur()
    expect(card.get_by_role("link", name="Editor")).to_have_attribute(
        "href", "vscode://file/src/jobs/bill%20now.py:7"
    )
    picture(page, "failed-job")
    card.get_by_label("Address of a line").fill("javascript://%0aalert(1)")
    card.get_by_label("Address of a line").blur()
    expect(card.get_by_role("link", name="Editor")).to_have_count(0)


def test_a_manager_pauses_and_resumes_the_workspace(visit: Visit, worker: HandWorker) -> None:
    """While it is paused nothing starts; members are told who may."""
    page = visit(ADA, "/operations").page
    page.get_by_placeholder("Reason, if any").fill("maintenance")
    page.get_by_role("button", name="Pause", exact=True).click()
    page.get_by_role("button", name="Pause the workspace").click()
    expect(page.get_by_text("maintenance")).to_be_visible()
    worker.enqueue()
    assert worker.lease_rest() == []
    bob = visit(BOB, "/operations").page
    expect(bob.get_by_text("A manager may pause the workspace")).to_be_visible()

    page.get_by_role("button", name="Resume", exact=True).click()

    expect(page.get_by_role("button", name="Pause", exact=True)).to_be_visible()
    assert len(worker.lease()) == 1


def test_schedules_webhooks_and_limits_are_kept_by_managers(
    visit: Visit, worker: HandWorker
) -> None:
    """Made, changed, switched and deleted where they are seen."""
    page = visit(ADA, "/schedules", allow=("400",)).page
    page.get_by_role("button", name="Add a schedule").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Name").fill("nightly")
    form.get_by_label("Cron").fill("nonsense")
    form.get_by_label("Time zone").fill("UTC")
    form.get_by_label("Job type").fill(worker.job_type)
    form.get_by_role("button", name="Save").click()
    expect(form.get_by_role("alert")).to_contain_text("cron")
    form.get_by_label("Cron").fill("30 2 29 2 *")  # so rare that the next run is "in" days
    expect(form.get_by_text("Next runs")).to_contain_text("02:30 UTC")
    form.get_by_role("button", name="Save").click()
    row = page.get_by_role("group", name="Schedules").get_by_role("row", name="nightly")
    expect(row).to_contain_text("30 2 29 2 *")
    expect(row).to_contain_text("in ")
    row.get_by_role("button", name="Switch off").click()
    expect(row).to_contain_text("Off")
    row.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete the schedule").click()
    expect(page.get_by_text("No schedules")).to_be_visible()

    page.get_by_role("link", name="Webhooks").click()
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

    bob = visit(BOB, "/webhooks").page
    expect(bob.get_by_text("job.completed, job.failed")).to_be_visible()
    expect(bob.get_by_role("button", name="Add a webhook")).to_have_count(0)
