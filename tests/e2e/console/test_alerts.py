"""Thresholds on their page: set, reached, over, changed and removed; members look only."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import fits, picture, violations
from tests.e2e.console.people import ADA, BOB
from tests.e2e.console.worker import HandWorker
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.browser


def look(stack: RunningStack, workspace: dict[str, str]) -> None:
    """Have the thresholds looked at now, as maintenance does once a minute.

    One that maintenance is looking at, perhaps since before now, is passed over: ask until it is
    looked at.
    """
    late = (
        "select exists (select 1 from queue.alerts where workspace_id = %s and enabled"
        " and (checked_at is null or checked_at < %s))"
    )
    with stack.connect() as connection:
        [began] = connection.execute("select queue.clock()").fetchone() or [None]
        while True:
            connection.execute("select queue.check_alerts(queue.clock())")
            [is_late] = connection.execute(late, (workspace["id"], began)).fetchone() or [None]
            if not is_late:
                return
            time.sleep(0.05)


def test_a_threshold_is_set_reached_and_removed(
    visit: Visit, worker: HandWorker, stack: RunningStack, api: Any, workspace: dict[str, str]
) -> None:
    """By a manager; the page says since when, and what raised it is in the workspace's jobs."""
    page = visit(ADA, "/alerts", allow=("422",)).page
    expect(page.get_by_text("No alerts")).to_be_visible()
    page.get_by_role("button", name="Add an alert").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Name").fill("Failures")
    form.get_by_label("Watch").select_option("failed")
    form.get_by_label("Of type").select_option(worker.job_type)
    form.get_by_label("Threshold, jobs").fill("1")
    form.get_by_label(BOB.email).check()
    form.get_by_role("button", name="Save").click()
    row = page.get_by_role("group", name="Alerts").get_by_role("row", name="Failures")
    expect(row).to_contain_text("OK")
    expect(row).to_contain_text(BOB.email)

    worker.enqueue()
    worker.run("failed", error={"type": "Boom", "message": "no"})
    look(stack, workspace)
    page.reload()

    expect(row).to_contain_text("Raised")
    [alert] = api("GET", f"/api/workspaces/{workspace['id']}/alerts")["alerts"]
    told = api("GET", f"/api/jobs/{alert['last_job_id']}")
    assert (told["job_type"], told["payload"]["state"]) == ("alert", "raised")
    row.get_by_role("button", name="Edit Failures").click()
    form.get_by_label("Threshold, jobs").fill("5")
    form.get_by_role("button", name="Save").click()
    expect(row.get_by_role("cell").nth(2)).to_have_text("5")
    look(stack, workspace)
    page.reload()
    expect(row).to_contain_text("OK")

    row.get_by_role("button", name="Switch off Failures").click()
    expect(row).to_contain_text("Off")
    row.get_by_role("button", name="Edit Failures").click()
    form.get_by_label("Post to").select_option("slack")
    form.get_by_label("Address").fill("https://slack.invalid/services/T0/B0/secret")
    picture(page, "alert-editor")
    form.get_by_role("button", name="Save").click()
    expect(row).to_contain_text("Slack at slack.invalid")
    row.get_by_role("button", name="Edit Failures").click()
    expect(form.get_by_label("Address")).to_have_attribute("placeholder", "kept, at slack.invalid")
    form.get_by_label("Threshold, jobs").fill("6")
    form.get_by_role("button", name="Save").click()
    expect(row.get_by_role("cell").nth(2)).to_have_text("6")
    expect(row).to_contain_text("Slack at slack.invalid")
    row.get_by_role("button", name="Delete Failures").click()
    form.get_by_role("button", name="Delete the alert").click()
    expect(page.get_by_text("No alerts")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_members_look_only(visit: Visit, api: Any, workspace: dict[str, str], scheme: Any) -> None:
    """On a narrow screen too, in both sets of colours, without an axe violation."""
    path = f"/api/workspaces/{workspace['id']}/alerts"
    api("PUT", f"{path}/{'long%20' * 12}name", {"metric": "queue_p95_seconds", "threshold": 90})
    visitor = visit(BOB, "/alerts", color_scheme=scheme, viewport={"width": 320, "height": 700})
    page = visitor.page

    expect(page.get_by_role("group", name="Alerts")).to_contain_text("Queue time, 95th")
    expect(page.get_by_role("button", name="Add an alert")).to_have_count(0)
    expect(page.get_by_role("button", name="Delete")).to_have_count(0)
    visitor.settle()
    picture(page, f"alerts-{scheme}")
    fits(page)
    assert violations(page, Path(__file__).resolve().parents[3]) == []
