"""One figure, one source: at rest, page, tab and command say the same of a queue in ten states."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from playwright.sync_api import Browser, expect

from minutehand.local.users import ADA
from minutehand.terminal.output import format_duration
from tests.e2e.console.people import Visitor
from tests.e2e.console.worker import HandWorker, delete
from tests.support.command import Run
from tests.support.patience import until
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.browser
#: What is planted. Due jobs wait for a limit and for a pause; suspended ones sleep or ask.
PLANTED = {
    "queued": 3,
    "scheduled": 2,
    "retrying": 1,
    "running": 2,
    "suspended": 3,
    "completed": 4,
    "failed": 2,
    "cancelled": 1,
}
LIVE = ("queued", "scheduled", "retrying", "running", "suspended")


@pytest.fixture
def here(stack: RunningStack) -> Iterator[str]:
    """A workspace of its own, which Ada manages."""
    workspace = str(uuid4())
    with stack.connect() as connection:
        connection.execute(
            "with made as (insert into public.workspaces (id, name) values (%s, 'Figures'))"
            " insert into public.workspace_members (workspace_id, user_id, role)"
            " values (%s, %s, 'manager')",
            [workspace, workspace, ADA.id],
        )
    yield workspace
    delete(stack, "delete from public.workspaces where id = %s", workspace)


def test_page_tab_and_command_say_the_same(
    browser: Browser, stack: RunningStack, here: str, tmp_path: Path
) -> None:
    """Counts, durations and ages, each read where a person reads it."""
    operators = stack.values["SUPABASE_SECRET_KEY"]  # under any name; it counts all workspaces
    variables = {name: value for name, value in stack.values.items() if value != operators}
    variables["MINUTEHAND_WORKSPACE_ID"] = here
    env = tmp_path / "env"
    env.write_text("".join(f"{key}={value}\n" for key, value in variables.items()))
    run = Run(env={"MINUTEHAND_ENV_FILE": str(env)})
    with (
        HandWorker(stack, here, max_concurrency=2) as worker,
        HandWorker(stack, here) as other,
        stack.connect() as database,
    ):
        plant(worker, other, database, here)

        def counted() -> dict[str, int]:
            """What has ended, as the statistics say it, which are made within seconds."""
            types = run.json("status")["types"].values()
            return {name: sum(each[name] for each in types) for name in ("completed", "failed")}

        until(lambda: counted() == {"completed": 4, "failed": 2})
        said = run.json("status")
        assert said["tenants"] is None
        assert {name: said["live"][name] for name in LIVE} == {name: PLANTED[name] for name in LIVE}
        for state, jobs in PLANTED.items():
            assert len(run.json("ls", "--state", state, "--limit", "100")) == jobs

        visitor = Visitor(browser, stack, workspace_id=here)
        visitor.sign_in(ADA)
        try:
            check_overview(visitor, said)
            for state, jobs in PLANTED.items():
                check_tab(visitor, state, jobs)
            for job in run.json("ls", "--state", "completed", "--limit", "100"):
                check_times(visitor, run, job["id"])
        finally:
            visitor.close()
        assert visitor.problems() == []


def plant(
    worker: HandWorker, other: HandWorker, database: psycopg.Connection[Any], here: str
) -> None:
    """Bring jobs into each state; nothing moves on by itself within an hour."""
    for nth in range(4):
        other.enqueue()
        lease = other.lease_soon()
        database.execute("select pg_sleep(%s)", [0.02 * nth])
        other.settle(lease, "completed", result={})
    error = {"type": "E", "message": "busy"}
    for _ in range(2):
        other.enqueue()
        other.settle(other.lease_soon(), "failed", error=error)
    other.enqueue()
    other.settle(other.lease_soon(), "retry", error=error, retry_after_seconds=3600)
    waits = [
        {"kind": "ask", "name": "n", "question": "Which month?"},
        {"kind": "ask", "name": "n", "question": "Which year?"},
        {"kind": "event", "name": "n", "event": "paid"},
    ]
    for wait in waits:
        other.enqueue()
        other.settle(other.lease_soon(), "waiting", wait=wait)
    gone = other.enqueue(delay_seconds=3600)
    database.execute("select public.cancel_job(%s)", [gone])
    other.enqueue_many([{"payload": {}, "delay_seconds": 3600}] * 2)
    worker.enqueue_many([{"payload": {}}] * 2)
    worker.lease(2)  # with its limit, and for an hour
    database.execute(
        "update queue.leases set expires_at = expires_at + interval '1 hour' where job_id in"
        " (select id from public.jobs where workspace_id = %s and status = 'processing')",
        [here],
    )
    worker.enqueue_many([{"payload": {}}] * 2)
    request = f'{{"kind": "workspace_type", "name": "{other.job_type}", "workspace_id": "{here}"}}'
    database.execute("select public.pause_jobs(%s::jsonb)", [request])
    other.enqueue()


def check_overview(visitor: Visitor, said: dict[str, Any]) -> None:
    """The figures of the first screen."""
    visitor.open("/overview")
    visitor.settle()
    main = visitor.page.locator("main")
    totals = main.get_by_label("Totals").locator(".figure")
    for name in ("queued", "scheduled", "running", "completed", "failed"):
        figure = totals.filter(has_text=re.compile(f"^{name.capitalize()}"))
        expect(figure.locator(".figure-value")).to_have_text(str(PLANTED[name]))
    for words in (f"{PLANTED['retrying']} retrying", f"{PLANTED['suspended']} suspended"):
        expect(totals.get_by_text(words)).to_be_visible()
    oldest = totals.filter(has_text=re.compile("^Queued")).locator("time")
    expect(oldest).to_have_attribute("datetime", said["backlog"]["oldest_at"])


def check_tab(visitor: Visitor, state: str, jobs: int) -> None:
    """A tab's count, and the rows behind it."""
    visitor.go(f"/jobs?state={state}")
    visitor.settle()
    tab = visitor.page.locator(f'main a[data-group="{state}"] .group-count')
    expect(tab).to_have_text(str(jobs))
    expect(visitor.page.locator("main tr.job-row")).to_have_count(jobs)


def check_times(visitor: Visitor, run: Run, job_id: str) -> None:
    """How long a job ran and when it was made: in the list, on its page, by the command."""
    visitor.go("/jobs?state=completed")
    visitor.settle()
    row = visitor.page.locator("main tr.job-row", has=visitor.page.locator(f'[href$="{job_id}"]'))
    ran = row.locator(".c-duration").inner_text()
    created = row.locator("time").last.get_attribute("datetime") or ""
    row.locator(f'a[href$="{job_id}"]').first.click()
    visitor.page.wait_for_url(f"**/jobs/{job_id}")
    page = visitor.page.locator("main")
    expect(page.locator(".sums > span", has_text="Ran").locator(".num")).to_have_text(ran)
    expect(page.locator(f'time[datetime="{created}"]').first).to_be_visible()
    job = run.json("show", job_id)
    assert format_duration(job["times"]["run_ms"]) == ran
    assert datetime.fromisoformat(job["created_at"]) == datetime.fromisoformat(created)
