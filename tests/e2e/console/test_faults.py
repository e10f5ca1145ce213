"""Ten faults, planted: a stranger finds cause, line and remedy from the page of the job alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.people import ADA
from tests.e2e.console.planted import PlantedWorker
from tests.e2e.console.worker import HandWorker
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.browser

Enqueue = Callable[..., str]


@pytest.fixture
def planted(stack: RunningStack) -> Iterator[PlantedWorker]:
    """A real worker with processors that go wrong."""
    with PlantedWorker(stack) as running:
        yield running


@pytest.fixture
def enqueue(api: Callable[..., Any], planted: PlantedWorker, workspace: dict[str, str]) -> Enqueue:
    """Enqueue one of the planted types as Ada; returns the job's id."""

    def add(kind: str, **payload: Any) -> str:
        body = {
            "workspace_id": workspace["id"],
            "job_type": f"{planted.name}.{kind}",
            "payload": payload,
        }
        return str(api("POST", "/api/jobs", body)["id"])

    return add


def remedy(page: Page) -> Any:
    """What the page says is to be done."""
    return expect(page.locator(".remedy"))


def error(page: Page) -> Any:
    """The card of the error."""
    return page.locator("section[aria-labelledby=h-error]")


def test_an_exception_in_a_step(visit: Visit, enqueue: Enqueue) -> None:
    """The error, the line of the user's own code, the step it was in, and what to correct."""
    page = visit(ADA, f"/jobs/{enqueue('step')}").page

    expect(page.locator("h1 .badge")).to_have_text("Failed")
    expect(error(page)).to_contain_text("KeyError")
    expect(error(page).locator("h2")).to_contain_text("planted.py:")
    own = error(page).locator(".traceback li[data-own]").first
    expect(own).to_contain_text("total")
    expect(own).to_contain_text('prices["of October"]')
    remedy(page).to_contain_text("planted.py:")
    remedy(page).to_contain_text("finished steps are kept")


def test_an_exception_in_a_child(visit: Visit, enqueue: Enqueue) -> None:
    """The parent names the child that failed and where; one click leads there."""
    page = visit(ADA, f"/jobs/{enqueue('whole')}").page

    expect(page.locator("h1 .badge")).to_have_text("Failed")
    expect(error(page)).to_contain_text("invoice 7 has no customer")
    remedy(page).to_contain_text("A child job failed at")
    remedy(page).to_contain_text("planted.py:")
    page.locator(".remedy").get_by_role("link", name="The failed child").click()
    expect(error(page)).to_contain_text("ValueError")
    remedy(page).to_contain_text("Correct")


def test_a_timeout(visit: Visit, enqueue: Enqueue) -> None:
    """How long it was allowed, and the step that did not end."""
    page = visit(ADA, f"/jobs/{enqueue('slow')}").page

    expect(error(page)).to_contain_text("stopped after 1 s")
    remedy(page).to_contain_text("longer timeout")
    page.locator(".remedy").get_by_role("link", name="The type").click()
    expect(page.get_by_text("Timeout", exact=True)).to_be_visible()


def test_a_lost_worker(visit: Visit, worker: HandWorker) -> None:
    """Which worker, when it was last seen, and where to look."""
    job_id = worker.enqueue(max_attempts=1)
    worker.lease(lease_seconds=1)
    page = visit(ADA, f"/jobs/{job_id}").page

    expect(page.locator("h1 .badge")).to_have_text("Failed")
    expect(error(page)).to_contain_text("by-hand")
    remedy(page).to_contain_text("stopped answering")
    remedy(page).to_contain_text("log")


def test_a_payload_refused(visit: Visit, planted: PlantedWorker) -> None:
    """Before it is a job: the form names the field, and JSON is told the same by the server."""
    page = visit(ADA, "/jobs", allow=("422",)).page
    page.get_by_role("button", name="Enqueue a job").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Type").fill(f"{planted.name}.strict")
    form.get_by_role("button", name="as JSON").click()
    form.get_by_label("Payload, JSON").fill("{}")
    form.get_by_role("button", name="Enqueue").click()

    expect(form.get_by_role("alert")).to_contain_text("month")
    expect(form.locator(".remedy")).to_contain_text("month")
    form.get_by_role("button", name="As a form").click()
    form.get_by_label("month").fill("2026-10")
    form.get_by_role("button", name="Enqueue").click()
    expect(page.locator("h1 .badge")).to_have_text("Completed")


def test_a_rate_limit(visit: Visit, enqueue: Enqueue, api: Callable[..., Any]) -> None:
    """How many per how long, when the next start is free, and what to raise."""
    first = enqueue("rated")
    while api("GET", f"/api/jobs/{first}")["status"] != "completed":
        time.sleep(0.05)
    page = visit(ADA, f"/jobs/{enqueue('rated')}").page

    expect(page.locator(".explain")).to_contain_text("The rate limit of 1 starts per 3600 s")
    remedy(page).to_contain_text("Raise the type's rate limit")


def test_a_pause(visit: Visit, worker: HandWorker) -> None:
    """Since when, by whom, why, and where it is resumed."""
    page = visit(ADA, "/operations").page
    page.get_by_placeholder("Reason, if any").fill("we move the ledger")
    page.get_by_role("button", name="Pause", exact=True).click()
    page.get_by_role("button", name="Pause the workspace").click()
    expect(page.get_by_text("we move the ledger")).to_be_visible()

    page.goto(f"/jobs/{worker.enqueue()}")

    expect(page.locator(".explain")).to_contain_text("we move the ledger")
    expect(page.locator(".explain")).to_contain_text("ada@acme.test")
    remedy(page).to_contain_text("Resume the workspace")
    page.locator(".remedy").get_by_role("link", name="Operations").click()
    page.get_by_role("button", name="Resume", exact=True).click()
    expect(page.get_by_role("button", name="Pause", exact=True)).to_be_visible()


def test_no_worker_for_it(visit: Visit, worker: HandWorker, stack: RunningStack) -> None:
    """Workers run, none of them serves the type: the name may be wrong or the deploy missing."""
    with stack.connect() as connection:
        connection.execute(
            "insert into queue.job_types (job_type) values (%s)", (f"{worker.job_type}_gone",)
        )
    job_id = worker.enqueue_many([{"job_type": f"{worker.job_type}_gone"}])[0]
    page = visit(ADA, f"/jobs/{job_id}").page

    expect(page.locator(".explain")).to_contain_text("none of them serves the job type")
    remedy(page).to_contain_text("Deploy a worker that has this type's processor")


def test_a_quota(
    visit: Visit, worker: HandWorker, stack: RunningStack, workspace: dict[str, str]
) -> None:
    """The limit in numbers where the job was to be enqueued, and what to do."""
    worker.enqueue()
    with stack.connect() as connection:
        connection.execute(
            "insert into queue.tenant_limits (workspace_id, max_pending) values (%s, 1)",
            (workspace["id"],),
        )
    page = visit(ADA, "/jobs", allow=("429",)).page
    page.get_by_role("button", name="Enqueue a job").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Type").fill(worker.job_type)
    form.get_by_role("button", name="Enqueue").click()

    expect(form.get_by_role("alert")).to_contain_text("1")
    expect(form.locator(".remedy")).to_contain_text("ask the operator for a higher quota")
    form.locator(".remedy").get_by_role("link", name="Limits").click()
    expect(page.locator("h1")).to_have_text("Limits")


def test_a_foreign_service_that_is_down(visit: Visit, enqueue: Enqueue) -> None:
    """Whose fault, the line that called, when it is tried again, and how to hurry it."""
    page = visit(ADA, f"/jobs/{enqueue('service')}").page

    expect(page.locator("h1 .badge")).to_have_text("Retrying")
    expect(error(page)).to_contain_text("httpx.ConnectError")
    expect(error(page).locator("h2")).to_contain_text("planted.py:")
    expect(page.locator(".explain")).to_contain_text("it is tried again at")
    remedy(page).to_contain_text("Run now")
    expect(page.get_by_role("button", name="Run now")).to_be_visible()
