"""`explain` names the holder of an incident, and its printed steps resolve the incident."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from minutehand.local.users import ADA
from tests.e2e.console.worker import delete
from tests.integration.cli.incidents import INCIDENTS, Incident, IncidentSetup, steps_until
from tests.support.command import Run
from tests.support.patience import until
from tests.support.stacks import RunningStack


@pytest.fixture(scope="module")
def here(stack: RunningStack) -> Iterator[str]:
    """A new workspace, which Ada manages."""
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


@pytest.fixture
def incident_setup(stack: RunningStack, here: str, tmp_path: Path) -> Iterator[IncidentSetup]:
    """Settings and rows for one simulated incident, removed at the end of the test."""
    (tmp_path / "env").write_text(
        "".join(
            f"{key}={value}\n"
            for key, value in {**stack.values, "MINUTEHAND_WORKSPACE_ID": here}.items()
        )
    )
    made = IncidentSetup(stack, here, Run(env={"MINUTEHAND_ENV_FILE": str(tmp_path / "env")}))
    with made.ends:
        yield made
    made.one(
        "delete from queue.pauses where workspace_id = %s or reason = 'moving' returning 1", here
    )
    delete(stack, "delete from public.jobs where workspace_id = %s", here)


@pytest.mark.parametrize("incident", INCIDENTS, ids=lambda incident: incident.name)
def test_the_printed_command_resolves_the_incident(
    incident_setup: IncidentSetup, incident: Incident
) -> None:
    """Two commands resolve it: `explain`, and the command that it prints.

    If a child waits, `explain` prints the child's command.
    """
    job_id = incident.plant(incident_setup)
    until(lambda: incident_setup.explain(job_id)["reason"] == incident.reason)
    result = incident_setup.explain(job_id)
    held = result["held_by"] or {}
    assert held.get("kind") == incident.kind
    if holder := (held.get("holder") or {}).get("job_id"):
        assert holder in result["sentence"]
    status = result["status"]

    incident_setup.command_count = 1  # `minutehand explain`
    for step in steps_until(incident_setup, result):
        incident_setup.act(step, job_id)
    assert incident_setup.command_count <= (3 if incident.kind == "child" else 2)
    incident_setup.fix()
    incident_setup.settle_cancelled()

    def is_over() -> bool:
        now = incident_setup.explain(job_id)
        again = incident_setup.one("select true from public.jobs where replay_of = %s", job_id)
        return bool(again) or (now["reason"], now["status"]) != (incident.reason, status)

    until(is_over)
