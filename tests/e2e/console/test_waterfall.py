"""The waterfall: where a job's time went, live, by keyboard, and as a table."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.people import ADA
from tests.e2e.console.worker import HandWorker

pytestmark = pytest.mark.browser


def family(worker: HandWorker) -> str:
    """A job that failed once, waits for two children, and one of those for nobody."""
    job_id = worker.enqueue()
    lease = worker.lease_soon()
    shape = {"read rows": [], "both parts": ["read rows"], "bind": ["both parts"]}
    graph = {"name": "graph", "kind": "graph", "result": shape}
    read = {"name": "read rows", "result": 3, "took_ms": 40}
    worker.report(lease, steps=[graph, read])
    error = {"type": "Boom", "message": "the first try broke"}
    worker.settle(lease, "retry", error=error, retry_after_seconds=0)
    lease = worker.lease_soon()
    children = worker.spawn(lease, 2)
    wait = {"kind": "children", "name": "both parts", "job_ids": children}
    worker.settle(lease, "waiting", wait=wait)
    return job_id


def test_attempts_steps_waits_and_children_lie_on_one_axis_and_move(
    visit: Visit, worker: HandWorker
) -> None:
    """What runs now is named; the page follows without being loaded again."""
    job_id = family(worker)
    page = visit(ADA, f"/jobs/{job_id}").page
    table = page.get_by_role("treegrid", name="Waterfall")
    for name in ("Attempt 1", "read rows", "both parts"):
        expect(table.get_by_role("row").filter(has_text=name)).to_have_count(1)
    expect(table.get_by_role("link", name=worker.job_type)).to_have_count(2)
    stages = page.get_by_role("list", name="Stages").get_by_role("listitem")
    expect(stages).to_have_text([re.compile(word) for word in ("Done", "Waiting", "Not begun")])

    child = worker.lease_soon()
    worker.report(child, step={"name": "draw the map", "for_ms": 20})

    running = table.get_by_role("row").filter(has_text="draw the map")
    expect(running).to_have_count(1)
    expect(running.locator(".waterfall-bar")).to_have_attribute("data-running", "")
    worker.report(child, steps=[{"name": "draw the map", "result": 1, "took_ms": 900}])
    expect(running.locator(".waterfall-time")).to_have_text("900 ms")
    worker.settle(child)
    worker.run()
    expect(table.get_by_role("row").filter(has_text="both parts")).to_have_class(
        "waterfall-row critical"
    )


def test_it_is_walked_zoomed_and_left_by_keyboard(visit: Visit, worker: HandWorker) -> None:
    """Arrows move, plus and minus zoom, z fits a row, 0 shows the whole, Enter opens a child."""
    job_id = family(worker)
    worker.run()
    page = visit(ADA, f"/jobs/{job_id}").page
    grid = page.get_by_role("treegrid", name="Waterfall")
    grid.get_by_role("row").first.focus()
    whole = page.get_by_role("button", name="Fit")
    expect(whole).to_be_disabled()

    page.keyboard.press("ArrowDown")
    expect(grid.get_by_role("row").nth(1)).to_be_focused()
    page.keyboard.press("z")
    expect(whole).to_be_enabled()
    page.keyboard.press("0")
    expect(whole).to_be_disabled()
    page.keyboard.press("+")
    expect(whole).to_be_enabled()
    page.keyboard.press("End")
    chosen = grid.locator("[role=row]:focus")
    while chosen.get_attribute("data-kind") != "job":
        page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")

    expect(page.locator("h1")).to_contain_text(worker.job_type)
    page.wait_for_url(lambda address: job_id not in address)


def test_the_same_is_a_table_with_words(visit: Visit, worker: HandWorker) -> None:
    """For reading aloud and for copying: what, state, from when, how long, critical, error."""
    page = visit(ADA, f"/jobs/{family(worker)}").page
    page.get_by_role("button", name="Table", exact=True).click()

    table = page.get_by_role("group", name="Waterfall as a table")
    row = table.get_by_role("row").filter(has_text="Attempt 1")
    expect(row).to_contain_text("the first try broke")
    expect(table.get_by_role("row").filter(has_text="read rows")).to_contain_text("40 ms")
    expect(page.locator(".sums")).to_contain_text("Waited")
