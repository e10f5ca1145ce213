"""Processors change while the worker runs: the next tick runs the new ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from minutehand.config import Settings
from minutehand.local.hot_reload import reload_processors
from minutehand.queue import UserQueue
from minutehand.worker import Worker, default_registry
from tests.support.project import ACME, Project

PROCESSORS = """
from pydantic import BaseModel
from minutehand.worker import Job, JobContext, processor

class Nothing(BaseModel):
    pass

@processor("reloaded", payload=Nothing)
async def reloaded(job: Job[Nothing], ctx: JobContext) -> str:
    return {answer!r}
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The processors module of an app that lives in a folder of this test."""
    folder = tmp_path / "reloaded_app"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder / "processors.py"
    default_registry.forget("reloaded_app")
    for name in [name for name in sys.modules if name.startswith("reloaded_app")]:
        del sys.modules[name]


def with_the_app(project: Project) -> Settings:
    """The project's settings, with the app of this test."""
    return project.settings.model_copy(update={"apps": ("reloaded_app",)})


def write(file: Path, text: str) -> None:
    """As an editor saves it."""
    file.write_text(text)


async def test_the_next_tick_runs_the_changed_processor(
    app: Path, project: Project, worker: Worker, ada: UserQueue
) -> None:
    settings = with_the_app(project)
    results = []
    for answer in ("old", "new"):
        write(app, PROCESSORS.format(answer=answer))
        assert reload_processors(worker, settings)
        await worker.register()
        job_id = (await ada.enqueue(ACME, "reloaded")).job.id
        await worker.tick(budget_seconds=120)
        results.append((await ada.get_job(job_id)).result)

    assert results == ["old", "new"]


async def test_a_half_written_file_keeps_the_old_ones(
    app: Path, project: Project, worker: Worker
) -> None:
    """The editor saves in the middle of a line; the loop goes on."""
    write(app, PROCESSORS.format(answer="old"))
    settings = with_the_app(project)
    reload_processors(worker, settings)
    names = worker.registry.names

    write(app, "def broken(")

    assert not reload_processors(worker, settings)
    assert worker.registry.names == names
