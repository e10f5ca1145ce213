"""For everybody: no axe violation, all by keyboard, at 320 pixels, without motion."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import violations, violations_in_both_schemes
from tests.e2e.console.people import ADA
from tests.e2e.console.worker import HandWorker
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.browser


@pytest.fixture
def paths(
    worker: HandWorker, stack: RunningStack, workspace: dict[str, str], api: Callable[..., Any]
) -> dict[str, str]:
    """Where things are: a job that has been through everything, an account, an import."""
    worker.enqueue_many([{}] * 5)
    worker.run()
    worker.run("failed", error={"type": "Boom", "message": "no luck", "data": {"code": 7}})
    job_id = worker.enqueue({"account": {"name": "Initech", "count": 3, "ok": True}}, priority=1)
    [lease] = worker.lease()
    worker.report(lease, 20, "a line", logs=[{"level": "error", "message": "an error line"}])
    worker.settle(lease, "retry", error={"type": "Boom", "message": "x"}, retry_after_seconds=0)
    while (lease := worker.lease_soon())["job"]["id"] != job_id:
        worker.settle(lease)
    worker.report(lease, 40, steps=[{"name": "look up", "result": {"found": 1}}])
    worker.spawn(lease, 1)
    worker.settle(
        lease,
        "waiting",
        wait={"kind": "ask", "name": "q", "question": "Really?", "options": ["Yes"]},
    )
    room = f"/api/workspaces/{workspace['id']}"
    schedule = {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "job_type": worker.job_type}
    api("PUT", f"{room}/schedules/nightly", schedule)
    api("POST", f"{room}/webhooks", {"url": f"https://hooks.example/{'long' * 30}"})
    with stack.connect() as connection:
        [account] = connection.execute(
            "insert into public.accounts (workspace_id, name, domain)"
            " values (%s, 'A long name of a company, & sons', 'a.example') returning id",
            (workspace["id"],),
        ).fetchone() or (None,)
    return {
        "JOB": f"/jobs/{job_id}",
        "TYPE": f"/types/{worker.job_type}",
        "ACCOUNT": f"/accounts/{account}",
    }


PATHS = [
    "/jobs",
    "/jobs?state=failed",
    "JOB",
    "/types",
    "TYPE",
    "/logs",
    "/operations",
    "/failures",
    "/schedules",
    "/webhooks",
    "/accounts",
    "ACCOUNT",
    "/contacts",
    "/workspace/settings/api",
    "/nowhere",
]


PARTS = pytest.mark.parametrize("part", [0, 1, 2])


@PARTS
def test_axe_finds_nothing_on_any_page(
    visit: Visit, paths: dict[str, str], part: int, repository: Path
) -> None:
    """Contrast, names, roles, landmarks, headings."""
    visitor = visit(ADA)
    found = {}
    for path in PATHS[part::3]:
        visitor.go(paths.get(path, path))
        visitor.page.evaluate(
            "() => document.querySelectorAll('main details').forEach((one) => { one.open = true })"
        )
        found[path] = violations_in_both_schemes(visitor, repository)

    assert [f"{path} {line}" for path, lines in found.items() for line in lines] == []


def test_axe_finds_nothing_in_what_opens_over_a_page(
    visit: Visit, paths: dict[str, str], repository: Path
) -> None:
    """Lists and forms in dialogs, the palette, the keys."""
    visitor = visit(ADA)
    found = {}
    assert paths
    for path, button in (("/webhooks", "Deliveries"), ("/schedules", "Edit nightly")):
        visitor.go(path)
        visitor.page.get_by_role("button", name=button).click()
        found[button] = violations_in_both_schemes(visitor, repository)
        visitor.page.keyboard.press("Escape")
    visitor.page.keyboard.press("Control+k")
    expect(visitor.page.get_by_role("dialog")).to_be_visible()
    found["palette"] = violations_in_both_schemes(visitor, repository)
    visitor.page.keyboard.press("Escape")
    visitor.page.keyboard.press("?")
    expect(visitor.page.get_by_role("dialog")).to_contain_text("Keyboard shortcuts")
    found["shortcuts"] = violations_in_both_schemes(visitor, repository)

    assert [f"{path} {line}" for path, lines in found.items() for line in lines] == []


def test_axe_finds_nothing_on_the_way_in_and_in_dialogs(visit: Visit, repository: Path) -> None:
    """The first page anybody sees, and the forms over others."""
    visitor = visit(None, "/jobs")
    page = visitor.page
    expect(page.get_by_role("heading", name="Minutehand")).to_be_visible()
    found = violations(page, repository)
    page.get_by_role("button", name="Ada").click()
    page.get_by_role("button", name="Enqueue a job").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    visitor.settle()
    found += violations(page, repository)

    assert found == []


def test_demo_accounts_are_one_click_away_and_signing_out_leads_back(visit: Visit) -> None:
    """The first thing a visitor of the local stack does; a wrong password is told."""
    # 401: of a read that began as the session ended
    visitor = visit(None, "/jobs", allow=("400", "401"))
    page = visitor.page
    page.get_by_label("Email").fill("ada@acme.test")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("Invalid login credentials")

    page.get_by_role("button", name="Ada").click()
    expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()

    expect(page.get_by_role("button", name="Ada")).to_be_visible()


@PARTS
def test_every_page_fits_320_pixels(visit: Visit, paths: dict[str, str], part: int) -> None:
    """Nothing is cut off on the smallest phone, and the menu is there."""
    visitor = visit(ADA, viewport={"width": 320, "height": 640})
    page = visitor.page
    wrong: dict[str, Any] = {}
    for path in PATHS[part::3]:
        visitor.go(paths.get(path, path))
        wide = page.evaluate(
            "() => [...document.querySelectorAll('main *')].filter((e) => !e.closest('.scroll-x,"
            " pre, .hidden, .log-lines, .table-scroll') && e.getBoundingClientRect().right > 321)"
            ".map((e) => e.outerHTML.slice(0, 120))"
        )
        width = page.evaluate("document.documentElement.scrollWidth")
        if wide or width > 320:
            wrong[path] = (width, wide)
        page.get_by_role("button", name="Menu").click()
        page.get_by_role("link", name="Overview").click()
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()

    assert wrong == {}


def test_everything_common_goes_by_keyboard(visit: Visit, worker: HandWorker) -> None:
    """Palette, skip link, search, rows, dialogs; focus is always somewhere visible."""
    worker.enqueue_many([{}, {}])
    page = visit(ADA, "/operations").page
    keyboard = page.keyboard

    keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    keyboard.press("Control+k")
    keyboard.type("go to jobs")
    keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Jobs", level=1)).to_be_focused()
    expect(page.locator("tr.job-row")).to_have_count(2)
    keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    first = page.locator("a.row-link").first
    first.focus()
    keyboard.press("ArrowDown")
    expect(page.locator("a.row-link").nth(1)).to_be_focused()
    keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text(worker.job_type)
    page.get_by_role("button", name="Cancel", exact=True).focus()
    keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_be_focused()
    keyboard.press("Control+k")
    keyboard.type("change theme")
    keyboard.press("Enter")
    expect(page.locator("html")).to_have_attribute("data-theme", "light")


def test_a_quick_hand_on_a_slow_machine_loses_no_key(visit: Visit, worker: HandWorker) -> None:
    """Keys follow each other at once, while the page takes several times as long to draw."""
    worker.enqueue_many([{"idempotency_key": "needle"}, {"idempotency_key": "hay"}])
    visitor = visit(ADA)
    page, keyboard = visitor.page, visitor.page.keyboard
    expect(page.locator("tr.job-row")).to_have_count(2)
    slow = visitor.context.new_cdp_session(page)
    slow.send("Emulation.setCPUThrottlingRate", {"rate": 5})

    keyboard.press("Control+k")
    keyboard.type("go to overview")
    keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Overview", level=1)).to_be_focused()
    keyboard.press("Control+k")
    keyboard.type("go to jobs")
    keyboard.press("Enter")
    keyboard.press("/")
    keyboard.type("needle")

    expect(page).to_have_url(re.compile("search=needle"))
    expect(page.locator("tr.job-row")).to_have_count(1)
    page.locator(".group[data-group=queued]").click()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()


def test_nothing_moves_where_motion_is_unwanted(visit: Visit, worker: HandWorker) -> None:
    """A running job pulses, but not for those who asked for stillness."""
    worker.enqueue()
    job_id = worker.lease()[0]["job"]["id"]
    moving = "() => document.getAnimations().filter((a) => a.playState === 'running').length"
    page = visit(ADA, f"/jobs/{job_id}", reduced_motion="reduce").page
    expect(page.locator("h1 .badge")).to_have_text("Running")

    assert page.evaluate(moving) == 0
    page.emulate_media(reduced_motion="no-preference")
    page.wait_for_function(moving)
