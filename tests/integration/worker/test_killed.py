"""`kill_in_each_stage`: a worker dies behind each write; what no step remembers shows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from minutehand.testing import kill_in_each_stage
from minutehand.worker import Registry, Worker
from tests.integration.worker.shop_app.processors import register
from tests.support.killable import environment_of
from tests.support.project import Project


@pytest.mark.timeout(300)
async def test_stages_run_once_and_what_is_beside_them_as_often_as_a_worker_dies(
    project: Project, tmp_path: Path
) -> None:
    """The last death is behind the job's own end."""
    ledger = tmp_path / "ledger"
    registry = Registry()
    register(registry, project.settings)
    worker = Worker(project.settings, registry=registry)
    await worker.register()
    await worker.aclose()
    job_id = project.insert("shop.order", {"item": "hat"})
    environment = environment_of(project, SHOP_LEDGER=str(ledger))
    environment["MINUTEHAND_APPS"] = "tests.integration.worker.shop_app"

    async def ended() -> object:
        return project.row(job_id)["status"] == "completed"

    with project.database.connect() as connection:
        deaths = await kill_in_each_stage(connection, environment, ended)

    ran = Counter(ledger.read_text().split())
    assert project.row(job_id)["result"]["mail"] == "mail hat"
    assert [ran[name] for name in ("charge", "pack", "mail")] == [1, 1, 1]
    assert ran["greet"] >= 3
    written = {death.removeprefix(f"{job_id} ") for death in deaths}
    assert {"step charge", "step pack", "step mail", "completed"} <= written
