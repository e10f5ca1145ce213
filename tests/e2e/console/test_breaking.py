"""The "Break it" panel: what it hurts heals, on the page that hurt it."""

from __future__ import annotations

import re
import time

import httpx
import pytest
from playwright.sync_api import expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.people import ADA, NETWORK
from tests.e2e.console.worker import HandWorker
from tests.support.stacks import RunningStack

HEALING_SECONDS = 90.0


def wait_healed(stack: RunningStack) -> None:
    """Until the API is ready and the Data API has its database, three times in a row."""
    addresses = (f"{stack.api_url}/api/health/ready", f"{stack.supabase_url}/_ready")
    give_up = time.monotonic() + HEALING_SECONDS
    good = 0
    while good < 3:
        assert time.monotonic() < give_up, stack.output()[-2000:]
        time.sleep(0.3)
        try:
            good += all(httpx.get(address, timeout=10).is_success for address in addresses) or -good
        except httpx.HTTPError:
            good = 0


@pytest.mark.browser
@pytest.mark.parametrize(
    "way", ["Kill the worker", "Crash Postgres", "Kill Realtime", "Freeze the worker"]
)
def test_what_is_broken_heals_and_the_page_says_so(
    visit: Visit, worker: HandWorker, stack: RunningStack, way: str
) -> None:
    """A job enqueued before the harm is there after it, and the list is live again."""
    job_id = worker.enqueue()
    page = visit(ADA, "/break-it", allow=(NETWORK,)).page
    # degraded where another test has left a job of a type that no worker serves
    expect(page.get_by_text(re.compile(r"Readiness: (ready|degraded)\.")).first).to_be_visible()

    page.get_by_role("button", name=way).click()

    expect(page.locator(".history")).to_contain_text(re.compile("killed|crashed|frozen"))
    wait_healed(stack)
    expect(page.locator(".monitor .freshness")).to_have_attribute(
        "data-freshness", "live", timeout=90_000
    )
    worker.run()
    expect(page.locator(f"tr[data-job='{job_id}']")).to_have_attribute("data-status", "completed")


@pytest.mark.browser
def test_clocks_jump_and_leases_expire(visit: Visit, worker: HandWorker) -> None:
    """A delayed job is due, and a running one is reclaimed from its holder."""
    worker.enqueue(delay_seconds=3600)
    assert worker.lease_rest() == []
    page = visit(ADA, "/break-it").page

    page.get_by_role("button", name="Jump the clock").click()
    expect(page.locator(".history")).to_contain_text("are due now")
    lease = worker.lease_soon()
    page.get_by_role("button", name="Expire all leases").click()
    expect(page.locator(".history")).to_contain_text("have expired")

    again = worker.lease_soon()
    assert again["job"]["attempts"] == 2
    assert worker.settle(lease) == "stale"
    worker.settle(again)


@pytest.mark.browser
def test_a_vendor_that_refuses_leaves_dead_letters_with_its_reason(
    visit: Visit, stack: RunningStack, workspace: dict[str, str]
) -> None:
    """An app adds its own ways: work, a refusing vendor, and the way back."""
    with stack.connect() as connection:
        connection.execute(
            "insert into public.accounts (workspace_id, name, domain)"
            " values (%s, 'alpha', 'alpha.example')",
            (workspace["id"],),
        )
    page = visit(ADA, "/break-it").page
    page.get_by_role("button", name="Make Apollo refuse the key").click()
    expect(page.locator(".history")).to_contain_text("refuses")
    page.get_by_role("button", name="Enrich every account").click()
    expect(page.locator("tr.job-row")).to_have_attribute("data-status", "failed")

    page.get_by_role("button", name="Give Apollo a working key").click()
    expect(page.locator(".history")).to_contain_text("takes the workspace's key again")
    page.get_by_role("link", name="enrich_account").click()
    page.get_by_role("button", name="Retry").click()

    expect(page.locator("h1 .badge")).to_have_text("Completed")


def test_dropped_messages_are_lost_and_nothing_else_is(
    stack: RunningStack, worker: HandWorker
) -> None:
    """For a while nothing is broadcast; the job continues, and its events are in the log."""
    with httpx.Client(base_url=stack.api_url) as client:
        token = client.get("/config.json").json()["breakToken"]
        answer = client.post("/local/break/drop-messages", headers={"X-Break-Token": token})
    assert "dropped" in answer.json()["done"], answer.text

    job_id = worker.enqueue()
    worker.run()

    with stack.connect() as connection:
        # the tests after this one need their messages at once
        connection.execute("drop trigger drop_for_a_while on realtime.messages")
        [sent, told] = connection.execute(
            "select (select count(*) from realtime.messages where topic = %s),"
            " (select count(*) from public.job_events where job_id = %s)",
            (f"job:{job_id}", job_id),
        ).fetchone() or (None, None)
    assert (sent, told) == (0, 3)


def test_only_the_stacks_own_console_may_break_it(stack: RunningStack) -> None:
    """No token, a wrong one or a foreign name: refused; and the stack goes on."""
    with httpx.Client(base_url=stack.api_url) as client:
        token = client.get("/config.json").json()["breakToken"]
        refused = [
            client.post("/local/break/kill-worker"),
            client.post("/local/break/kill-worker", headers={"X-Break-Token": "wrong"}),
            client.post(
                "/local/break/kill-worker",
                headers={"X-Break-Token": token, "Host": "rebound.example"},
            ),
        ]
        unknown = client.post("/local/break/everything", headers={"X-Break-Token": token})

        assert [answer.status_code for answer in refused] == [403, 403, 403]
        assert unknown.status_code == 404
        assert client.get("/health").status_code == 200
