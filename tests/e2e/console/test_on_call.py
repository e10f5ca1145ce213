"""The person on call: all workspaces in one list, a way inside that is written down, workers."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import violations_in_both_schemes
from tests.e2e.console.people import ADA, BOB, OLGA
from tests.e2e.console.worker import HandWorker

pytestmark = pytest.mark.browser


def test_a_failure_anywhere_is_found_opened_retried_and_seen_by_its_people(
    visit: Visit, worker: HandWorker, workspace: dict[str, str]
) -> None:
    """From a list over all tenants to the job, with a reason, and back out."""
    job_id = worker.enqueue({"order": 7})
    worker.run("failed", error={"type": "Boom", "message": f"order of {job_id} is gone"})
    page = visit(OLGA, f"/jobs?job_type={worker.job_type}").page
    row = page.locator(f"tr[data-job='{job_id}']")
    expect(row.locator(".c-workspace")).to_have_text(workspace["name"])
    expect(row).to_contain_text("is gone")

    row.get_by_role("link").click()
    expect(page.locator("h1")).to_have_text("A job of another workspace")
    page.get_by_label("Reason").fill("ticket 7")
    page.get_by_role("button", name="Open the workspace").click()
    expect(page.locator("pre[aria-label=Payload]")).to_contain_text('"order": 7')
    expect(page.locator(".on-call")).to_contain_text(workspace["name"])
    page.get_by_role("button", name="Retry", exact=True).click()
    expect(page.get_by_role("region", name="Activity").locator("li").first).to_contain_text(
        "olga@minutehand.test on call retried"
    )

    bob = visit(BOB, f"/jobs/{job_id}").page
    activity = bob.get_by_role("region", name="Activity").locator("li")
    expect(activity).to_have_count(2)
    expect(activity.last).to_contain_text("ticket 7")
    asked: list[Route] = []
    page.route("**/rpc/operator_close", lambda route: asked.append(route))
    page.get_by_role("button", name="Close it now").click()
    while not asked:
        page.wait_for_timeout(20)
    expect(page.locator(".on-call")).to_have_count(0)
    expect(page.locator("h1")).to_have_text("Jobs")  # and so nothing of it is read again
    # others may be open: for an hour, by whatever test
    opened = page.locator(".workspace option").filter(has_text=f"{workspace['name']} (on call)")
    expect(opened).to_have_count(1)
    asked[0].continue_()
    expect(opened).to_have_count(0)


def test_several_of_several_workspaces_are_cancelled_together(
    visit: Visit, worker: HandWorker
) -> None:
    """Selected in the list of all, each in its workspace, each written down."""
    ids = worker.enqueue_many([{}, {}])
    page = visit(OLGA, f"/jobs?job_type={worker.job_type}").page
    for job_id in ids:
        page.locator(f"tr[data-job='{job_id}'] input").check()
    page.get_by_role("button", name="Cancel 2").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel 2 jobs").click()

    expect(page.locator("tr.job-row[data-status=cancelled]")).to_have_count(2)
    page.get_by_role("link", name="Activity").click()
    expect(page.locator(".actions-list")).to_contain_text("cancelled 2 jobs")


def test_workers_are_seen_with_what_they_run(visit: Visit, worker: HandWorker) -> None:
    """In place of a list of worker runs that all say the same."""
    job_id = worker.enqueue()
    worker.lease()
    page = visit(OLGA, "/workers").page

    row = page.locator("tr[data-worker=by-hand]")
    expect(row).to_contain_text("Alive")
    expect(row.locator(f"a[href='/jobs/{job_id}']")).to_be_visible()


def test_a_type_is_paused_for_everyone_by_the_person(visit: Visit, worker: HandWorker) -> None:
    """No shared secret is typed into a browser."""
    page = visit(OLGA, "/limits").page
    page.get_by_role("button", name=f"Pause {worker.job_type}").click()
    page.get_by_role("button", name="Pause the type").click()
    expect(page.get_by_role("button", name=f"Resume {worker.job_type}")).to_be_visible()
    job_id = worker.enqueue()
    assert worker.lease_rest() == []
    ada = visit(ADA, f"/jobs/{job_id}").page
    expect(ada.locator(".explain")).to_contain_text("paused")

    page.get_by_role("button", name=f"Resume {worker.job_type}").click()

    expect(page.get_by_role("button", name=f"Pause {worker.job_type}")).to_be_visible()


def test_a_member_finds_no_way_in(visit: Visit, worker: HandWorker) -> None:
    """Neither a menu entry nor an address."""
    page = visit(ADA, "/jobs", allow=("403",)).page
    expect(page.get_by_role("link", name="Workers")).to_have_count(0)
    page.goto("/workers")

    expect(page.get_by_role("alert")).to_contain_text("operator")


def test_axe_finds_nothing_on_the_pages_of_all_workspaces(
    visit: Visit, worker: HandWorker, repository: Path
) -> None:
    """Contrast, names, roles, landmarks, headings."""
    job_id = worker.enqueue()
    worker.run("failed", error={"type": "Boom", "message": "no"})
    worker.enqueue()
    worker.lease()
    visitor = visit(OLGA, "/jobs")
    found = {}
    for path in ("/jobs", f"/jobs/{job_id}", "/operations", "/failures", "/limits", "/workers",
                 "/activity", "/schedules"):  # fmt: skip
        visitor.go(path)
        found[path] = violations_in_both_schemes(visitor, repository)

    assert [f"{path} {line}" for path, lines in found.items() for line in lines] == []
