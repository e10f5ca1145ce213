"""`kill_in_each_stage`: a worker dies behind each write; what no step remembers shows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from minutehand.queue import UserQueue
from minutehand.testing import kill_in_each_stage
from minutehand.worker import Worker
from tests.integration.worker.shop_app.processors import register
from tests.support.killable import environment_of
from tests.support.project import Project


@pytest.mark.timeout(300)
async def test_stages_run_once_and_what_is_beside_them_as_often_as_a_worker_dies(
    project: Project, ada: UserQueue, worker: Worker, tmp_path: Path
) -> None:
    """The last death is behind the job's own end."""
    ledger = tmp_path / "ledger"
    register(worker.registry, project.settings)
    await worker.register()
    job_id = project.insert("shop.order", {"item": "hat"})
    environment = environment_of(project, SHOP_LEDGER=str(ledger))
    environment["MINUTEHAND_APPS"] = "tests.integration.worker.shop_app"

    async def ended() -> object:
        return project.row(job_id)["status"] == "completed"

    with project.database.connect() as connection:
        deaths = await kill_in_each_stage(
            connection,
            environment,
            ended,
            schema="public",
            engine_schema="queue",
        )

    ran = Counter(ledger.read_text().split())
    assert (await ada.get_job(job_id)).result["mail"] == "mail hat"
    assert {name: ran[name] for name in ("charge", "pack", "mail")} == {
        "charge": 1,
        "pack": 1,
        "mail": 1,
    }
    assert ran["greet"] >= 3
    written = {death.removeprefix(f"{job_id} ") for death in deaths}
    assert {"step charge", "step pack", "step mail", "completed"} <= written


async def test_workers_that_cannot_start_are_reported(project: Project) -> None:
    """Else three hundred would be started, and all be said to have survived."""
    environment = environment_of(project) | {"MINUTEHAND_SCHEMA": "elsewhere"}

    async def ended() -> object:
        return False

    with (
        project.database.connect() as connection,
        pytest.raises(AssertionError, match="could not start"),
    ):
        await kill_in_each_stage(connection, environment, ended)
