"""Planted faults: a stranger finds cause, line and remedy from the page alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.faults import FAULTS, PAUSE, Fault, FaultyHost, faulty_host
from tests.e2e.console.people import ADA, Visitor
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def stack(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyHost]:
    """The product with processors that go wrong."""
    with faulty_host(stack, tmp_path_factory.mktemp("faulty")) as running:
        yield running


@pytest.fixture
def workspace(stack: FaultyHost) -> dict[str, str]:
    """The host's own, in place of one of each test."""
    return stack.workspace


@pytest.fixture(scope="module")
def visitor(browser: Browser, stack: FaultyHost) -> Iterator[Visitor]:
    """Who looks: signed in once, and no page may complain."""
    made = Visitor(browser, stack, workspace_id=stack.workspace["id"])
    made.sign_in(ADA)
    yield made
    problems = made.problems()
    made.close()
    assert problems == []


#: In clicks.
MOST = 3


def walk(page: Page, way: tuple[str, ...], job_id: str) -> None:
    """Follow links and buttons from the list of jobs."""
    assert len(way) <= MOST
    for name in way:
        if name == "job":
            page.locator(f"tr[data-job='{job_id}'] a").click()
        elif name == "remedy":
            page.locator(".remedy a").first.click()
        else:
            link = page.get_by_role("link", name=name, exact=True)
            link.or_(page.get_by_role("button", name=name, exact=True)).click()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_found_from_the_page_alone(
    visitor: Visitor, stack: FaultyHost, fault: Fault
) -> None:
    """Cause, line and remedy are read within three clicks from the list of jobs."""
    with stack.planted(fault) as job_id:
        visitor.open("/jobs")

        walk(visitor.page, fault.way, job_id)

        for word in fault.words:
            expect(visitor.page.locator("main")).to_contain_text(word, use_inner_text=True)


def try_to_enqueue(page: Page, kind: str) -> Locator:
    """Send an empty payload by the form; returns it."""
    page.get_by_role("button", name="Enqueue a job").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Type").fill(f"faulty.{kind}")
    form.get_by_role("button", name="as JSON").click()
    form.get_by_label("Payload (JSON)").fill("{}")
    form.get_by_role("button", name="Enqueue", exact=True).click()
    return form


def test_a_refused_payload_is_corrected_in_the_form(visit: Visit) -> None:
    """The field that is named is filled in, and the job runs."""
    page = visit(ADA, "/jobs", allow=("422",)).page
    form = try_to_enqueue(page, "strict")
    expect(form).to_contain_text("month")

    form.get_by_role("button", name="As a form").click()
    form.get_by_label("month").fill("2026-10")
    form.get_by_role("button", name="Enqueue", exact=True).click()

    expect(page.locator("h1 .badge")).to_have_text("Completed")


def test_a_pause_is_resumed_from_the_job_that_it_holds(visit: Visit, stack: FaultyHost) -> None:
    """Since when, why, and where it is resumed."""
    page = visit(ADA, "/overview").page
    page.get_by_role("button", name="Pause jobs").click()
    page.get_by_label("Reason, if any").fill("we move the ledger")
    page.get_by_role("button", name="Pause the workspace").click()
    expect(page.get_by_text("we move the ledger")).to_be_visible()

    page.goto(f"/jobs/{stack.enqueue('strict', {'month': '2026-10'})}")

    expect(page.locator(".explain")).to_contain_text("we move the ledger")
    page.locator(".remedy").get_by_role("link", name="Overview").click()
    page.get_by_role("button", name="Resume", exact=True).click()
    expect(page.get_by_role("button", name="Pause jobs")).to_be_visible()


def test_a_resume_says_what_still_stops_the_type(visit: Visit, stack: FaultyHost) -> None:
    """The operator's pause is not a manager's to lift."""
    pause = PAUSE.replace("workspace_type", "job_type")
    fault = Fault("", "strict", (), "", state="", sql=pause % "true", undo=pause % "false")
    with stack.planted(fault):
        page = visit(ADA, "/types/faulty.strict").page
        page.get_by_role("button", name="Resume", exact=True).click()

        expect(page.locator(".toast")).to_contain_text(
            "still paused. An operator can resume the type"
        )
