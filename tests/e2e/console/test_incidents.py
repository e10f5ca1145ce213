"""Planted incidents: page and command name the same holder, and what they print ends it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, expect

from minutehand.local.users import ADA
from tests.e2e.console.incidents import INCIDENTS, Incident, Night, steps_until
from tests.e2e.console.people import Visitor
from tests.e2e.console.worker import delete
from tests.support.command import Run
from tests.support.patience import until
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def here(stack: RunningStack) -> Iterator[str]:
    """A workspace of its own, which Ada manages."""
    workspace = str(uuid4())
    with stack.connect() as connection:
        connection.execute(
            "insert into public.workspaces (id, name) values (%s, 'Night')", [workspace]
        )
        connection.execute(
            "insert into public.workspace_members (workspace_id, user_id, role)"
            " values (%s, %s, 'manager')",
            [workspace, ADA.id],
        )
    yield workspace
    delete(stack, "delete from public.workspaces where id = %s", workspace)


@pytest.fixture(scope="module")
def visitor(browser: Browser, stack: RunningStack, here: str) -> Iterator[Visitor]:
    """Ada, signed in once; no page may complain."""
    made = Visitor(browser, stack, workspace_id=here)
    made.sign_in(ADA)
    made.open("/overview")
    yield made
    problems = made.problems()
    made.close()
    assert problems == []


@pytest.fixture
def night(stack: RunningStack, here: str, tmp_path: Path) -> Iterator[Night]:
    """What one incident leaves behind ends with it."""
    (tmp_path / "env").write_text(
        "".join(
            f"{key}={value}\n"
            for key, value in {**stack.values, "MINUTEHAND_WORKSPACE_ID": here}.items()
        )
    )
    made = Night(stack, here, Run(env={"MINUTEHAND_ENV_FILE": str(tmp_path / "env")}))
    with made.ends:
        yield made
    made.one(
        "delete from queue.pauses where workspace_id = %s or reason = 'moving' returning 1", here
    )
    delete(stack, "delete from public.jobs where workspace_id = %s", here)


@pytest.mark.parametrize("incident", INCIDENTS, ids=lambda incident: incident.name)
def test_what_is_printed_ends_the_incident(
    visitor: Visitor, night: Night, incident: Incident
) -> None:
    """The first screen of the job and `explain` say the same holder and the same act.

    It is two clicks from Overview, and two commands end it: `explain` and what that prints. Of a
    child that waits for something, it prints the child's.
    """
    job_id = incident.plant(night)
    until(lambda: night.explain(job_id)["reason"] == incident.reason)
    said = night.explain(job_id)
    held = said["held_by"] or {}
    assert held.get("kind") == incident.kind
    status = said["status"]

    assert clicks_to(visitor, job_id) <= 2
    page = visitor.page.locator("main")
    if holder := (held.get("holder") or {}).get("job_id"):
        assert holder in said["sentence"]
        expect(page).to_contain_text(holder)
    if pid := (held.get("holder") or {}).get("pid"):
        expect(page).to_contain_text(f"pid {pid}")
    if command := said["next"][0].get("command"):
        expect(page.locator(".command").first).to_contain_text(command)

    night.typed = 1  # `minutehand explain`
    for step in steps_until(night, said):
        night.act(step, job_id)
    assert night.typed <= (3 if incident.kind == "child" else 2)
    night.mend()
    night.stop_what_is_cancelled()

    def is_over() -> bool:
        now = night.explain(job_id)
        again = night.one("select true from public.jobs where replay_of = %s", job_id)
        return bool(again) or (now["reason"], now["status"]) != (incident.reason, status)

    until(is_over)
    visitor.go("/overview")  # what it showed is deleted


def clicks_to(visitor: Visitor, job_id: str) -> int:
    """Go from Overview to the job's page by the links that are there; count what is clicked."""
    visitor.go("/overview")
    visitor.settle()
    clicks = [visitor.page.locator(f'main a[href="/jobs/{job_id}"]').first]
    if not clicks[0].count():
        clicks.insert(0, visitor.page.get_by_role("link", name="Jobs", exact=True).first)
    for link in clicks:
        link.click()
    visitor.page.wait_for_url(f"**/jobs/{job_id}")
    return len(clicks)
