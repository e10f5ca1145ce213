"""Page, tab and command show the same numbers of a queue with jobs in every state."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.people import ADA
from tests.e2e.console.worker import HandWorker
from tests.support.command import Run
from tests.support.patience import until
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.browser
#: Number of jobs by state. Each number is different.
PLANTED = {
    "queued": 3,
    "scheduled": 2,
    "retrying": 1,
    "running": 2,
    "suspended": 4,
    "completed": 6,
    "failed": 5,
    "cancelled": 1,
}


def test_page_tab_and_command_show_the_same(
    visit: Visit, stack: RunningStack, worker: HandWorker, tmp_path: Path
) -> None:
    operators = stack.values["SUPABASE_SECRET_KEY"]  # any name, because it counts all workspaces
    variables = {name: value for name, value in stack.values.items() if value != operators}
    variables["MINUTEHAND_WORKSPACE_ID"] = worker.workspace_id
    env = tmp_path / "env"
    env.write_text("".join(f"{key}={value}\n" for key, value in variables.items()))
    run = Run(env={"MINUTEHAND_ENV_FILE": str(env)})
    plant(worker, run)

    def ended() -> dict[str, int]:
        """Wait for the statistics, which are updated within seconds, and return their counts."""
        types = run.json("status")["types"].values()
        return {name: sum(each[name] for each in types) for name in ("completed", "failed")}

    until(lambda: ended() == {name: PLANTED[name] for name in ("completed", "failed")})
    status = run.json("status")
    assert status["tenants"] is None
    assert {**PLANTED, **status["live"]} == PLANTED
    visitor = visit(ADA, "/overview")
    visitor.settle()
    totals = visitor.page.get_by_label("Totals").locator(".figure")
    for name in ("queued", "scheduled", "running", "completed", "failed"):
        figure = totals.filter(has_text=re.compile(f"^{name.capitalize()}"))
        expect(figure.locator(".figure-value")).to_have_text(str(PLANTED[name]))
    for name in ("retrying", "suspended"):
        expect(totals.get_by_text(f"{PLANTED[name]} {name}")).to_be_visible()
    for state, jobs in PLANTED.items():
        assert len(run.json("ls", "--state", state, "--limit", "100")) == jobs
        visitor.go(f"/jobs?state={state}")
        tab = visitor.page.locator(f'main a[data-group="{state}"] .group-count')
        expect(tab).to_have_text(str(jobs))
        expect(visitor.page.locator("main tr.job-row")).to_have_count(jobs)


def plant(worker: HandWorker, run: Run) -> None:
    """Bring jobs into each state. No job changes its state within an hour."""
    error = {"error": {"type": "E", "message": "busy"}}
    wait = {"wait": {"kind": "ask", "name": "n", "question": "Which month?"}}
    ends: dict[str, tuple[str, dict[str, Any]]] = {
        "completed": ("completed", {}),
        "failed": ("failed", error),
        "retrying": ("retry", {**error, "retry_after_seconds": 3600}),
        "suspended": ("waiting", wait),
    }
    for state, (outcome, more) in ends.items():
        worker.enqueue_many([{}] * PLANTED[state])
        for lease in worker.lease(PLANTED[state]):
            worker.settle(lease, outcome, **more)
    scheduled = [{"delay_seconds": 3600}] * (PLANTED["scheduled"] + 1)
    run("cancel", *worker.enqueue_many(scheduled)[:1])
    worker.enqueue_many([{}] * PLANTED["running"])
    worker.lease(PLANTED["running"])
    worker.enqueue_many([{}] * PLANTED["queued"])
