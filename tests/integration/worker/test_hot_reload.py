"""Processors change while the worker runs: the next tick runs the new ones."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from minutehand.config import Settings
from minutehand.functions.worker.processors import load_processors
from minutehand.local.hot_reload import (
    files_of,
    forget_compiled,
    reload_on_change,
    reload_processors,
    watched_folders,
)
from minutehand.queue import Job, UserQueue
from minutehand.queue.errors import QueueError
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


SLEEPER = """
import asyncio
from pydantic import BaseModel
from minutehand.worker import Job, JobContext, processor

class Nothing(BaseModel):
    pass

@processor("sleeper", payload=Nothing)
async def sleeper(job: Job[Nothing], ctx: JobContext) -> str:
    await ctx.progress(1)
    while not {flag}.exists():
        await asyncio.sleep(0.01)
    return "slept"
"""


class Running:
    """A worker's loop and the watch of its files, as the local stack runs them."""

    def __init__(self, worker: Worker, settings: Settings, **watch: Any) -> None:
        self.worker = worker
        self.settings = settings
        self.watch = watch
        self.wakeups = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Begin both."""
        self.tasks = [
            asyncio.create_task(self.worker.run_forever(self.wakeups, poll_seconds=0.05)),
            asyncio.create_task(
                reload_on_change(
                    self.worker, self.settings, wakeups=self.wakeups, scan_seconds=0.1, **self.watch
                )
            ),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        """End both."""
        self.worker.stop()
        self.tasks[1].cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def reached(ada: UserQueue, job_id: str, status: str) -> Job:
    """The job once it has that status."""
    async with asyncio.timeout(60):
        while True:
            job = await ada.get_job(job_id)
            if job.status == status:
                return job
            await asyncio.sleep(0.02)


async def ended(ada: UserQueue, job_id: str) -> Job:
    """The job once it has completed."""
    return await reached(ada, job_id, "completed")


async def accepted(ada: UserQueue, job_type: str) -> str:
    """The id of a job of a type, once the type is known."""
    async with asyncio.timeout(60):
        while True:
            try:
                return (await ada.enqueue(ACME, job_type)).job.id
            except QueueError as error:
                if error.word != "unknown_job_type":
                    raise
                await asyncio.sleep(0.02)


async def test_saved_code_runs_while_an_old_job_still_does(
    app: Path, project: Project, worker: Worker, ada: UserQueue, tmp_path: Path
) -> None:
    """A job of ten minutes must not keep the code of then at work, nor a new type out."""
    flag = tmp_path / "go"
    nap = SLEEPER.format(flag=f"__import__('pathlib').Path({str(flag)!r})")
    write(app, nap)
    settings = with_the_app(project)
    assert reload_processors(worker, settings)
    async with Running(worker, settings):
        sleeper = await accepted(ada, "sleeper")
        await reached(ada, sleeper, "processing")

        write(app, nap + PROCESSORS.format(answer="new"))
        late = await ended(ada, await accepted(ada, "reloaded"))

        assert late.result == "new"
        assert (await ada.get_job(sleeper)).status == "processing"
        flag.touch()
        assert (await ended(ada, sleeper)).result == "slept"
    assert (await ada.get_job(sleeper)).attempts == 1


async def test_a_replaced_run_leases_nothing_more(
    app: Path, project: Project, worker: Worker, ada: UserQueue, tmp_path: Path
) -> None:
    """What was enqueued after the save runs the saved code, each time."""
    flag = tmp_path / "go"
    nap = SLEEPER.format(flag=f"__import__('pathlib').Path({str(flag)!r})")
    write(app, nap + PROCESSORS.format(answer="old"))
    settings = with_the_app(project)
    assert reload_processors(worker, settings)
    async with Running(worker, settings):
        sleeper = await accepted(ada, "sleeper")
        await reached(ada, sleeper, "processing")
        write(app, nap + PROCESSORS.format(answer="new"))
        for _ in range(1000):  # until the save is noticed
            if (await ended(ada, await accepted(ada, "reloaded"))).result == "new":
                break

        jobs = [await ended(ada, await accepted(ada, "reloaded")) for _ in range(10)]

        assert {job.result for job in jobs} == {"new"}
        flag.touch()


async def test_a_stopping_loop_waits_for_the_run_it_replaced(
    app: Path, project: Project, worker: Worker, ada: UserQueue, tmp_path: Path
) -> None:
    """Its jobs are released before the process ends, not left to leases that must expire."""
    nap = SLEEPER.format(flag=f"__import__('pathlib').Path({str(tmp_path / 'never')!r})")
    write(app, nap)
    assert reload_processors(worker, with_the_app(project))
    loop = asyncio.create_task(worker.run_forever(poll_seconds=0.05))
    sleeper = await accepted(ada, "sleeper")
    await reached(ada, sleeper, "processing")

    worker.adopt(worker.registry)
    worker.stop()
    await asyncio.wait_for(loop, 60)

    assert project.row(sleeper)["status"] == "pending"


async def test_files_written_before_the_watch_began_are_noticed(
    app: Path, project: Project, worker: Worker, ada: UserQueue
) -> None:
    """Between the import of the processors and the watch, a busy machine takes seconds."""
    settings = with_the_app(project)
    loaded = files_of(watched_folders(settings))
    write(app, PROCESSORS.format(answer="new"))
    async with Running(worker, settings, loaded=loaded):
        job = await ended(ada, await accepted(ada, "reloaded"))

    assert job.result == "new"


async def test_a_file_whose_events_are_lost_is_noticed(
    app: Path, project: Project, worker: Worker, ada: UserQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system under load drops them; here the watch itself cannot be had."""

    async def no_watch(*_: Any, **__: Any) -> AsyncIterator[set[Any]]:
        raise OSError("no space left on device")
        yield set()

    monkeypatch.setattr("minutehand.local.hot_reload.awatch", no_watch)
    settings = with_the_app(project)
    async with Running(worker, settings):
        await asyncio.sleep(0.3)
        write(app, PROCESSORS.format(answer="new"))
        job = await ended(ada, await accepted(ada, "reloaded"))

    assert job.result == "new"


async def test_an_edit_of_the_same_second_and_size_is_loaded(
    app: Path, project: Project, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python would take what it compiled before."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    settings = with_the_app(project)
    results = []
    for answer in ("one", "two"):
        write(app, PROCESSORS.format(answer=answer))
        os.utime(app, (1_700_000_000, 1_700_000_000))
        forget_compiled([app])
        assert reload_processors(worker, settings)
        kind = worker.registry.get("reloaded")
        results.append(await kind.run(None, None))  # type: ignore[arg-type, misc]

    assert results == ["one", "two"]


def test_a_module_that_raises_leaves_out_itself_alone(app: Path) -> None:
    """At the start of the local stack; deployed, it fails the start."""
    modules = app.with_suffix("")
    modules.mkdir()
    write(modules / "__init__.py", "")
    for name, more in (("good", ""), ("half", "\nraise RuntimeError('half')\n")):
        write(modules / f"{name}.py", WITHOUT_PAYLOAD.format(name=name) + more)
    settings = Settings.from_env(
        {
            "SUPABASE_URL": "http://127.0.0.1:9",
            "SUPABASE_PUBLISHABLE_KEY": "x",
            "MINUTEHAND_APPS": "reloaded_app",
        }
    )
    failed: dict[str, str] = {}

    registry = load_processors(
        settings, on_error=lambda name, error: failed.update({name: str(error)})
    )

    assert failed == {"reloaded_app.processors.half": "half"}
    assert "reloaded.good" in registry.names
    assert "reloaded.half" not in registry.names
    with pytest.raises(RuntimeError, match="half"):
        load_processors(settings)


WITHOUT_PAYLOAD = """\
from pydantic import BaseModel
from minutehand.worker import processor

class Nothing(BaseModel):
    pass

@processor("reloaded.{name}", payload=Nothing)
async def run(job, ctx):
    return {{}}
"""
