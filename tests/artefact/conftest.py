"""Fixtures: a user's deployment, built once per test run: a stage's template and a zip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minutehand.deploy.build import ARCHIVE
from minutehand.deploy.package import TEMPLATE
from tests.support.lambda_runtime import runtime_site
from tests.support.shared import made_once
from tests.support.stranger import Stranger

EMPTY_ZIP = b"PK\x05\x06" + bytes(18)
COMPILE = """
from pathlib import Path
from minutehand.deploy.package import compile_template
from minutehand.deploy.service import write_first_files
from minutehand.project import Project

write_first_files(Project.find())
compile_template("dev", Path("out"), artifacts=Path("out"))
"""
BUILD = """
from pathlib import Path
from minutehand.deploy.build import build
from minutehand.project import Project

Project.find().make_importable()
build(Path("out"), Project.find(), for_lambda=False)
"""
PROCESSORS = '''
"""Processors of the tests."""

import asyncio
import os

from pydantic import BaseModel

from minutehand.worker import Job, JobContext, processor


class Nap(BaseModel):
    seconds: float = 0.0


@processor("test.nap", payload=Nap, lease=30)
async def nap(job: Job[Nap], ctx: JobContext) -> None:
    """Sleep for the requested number of seconds."""
    await asyncio.sleep(job.payload.seconds)


@processor("test.exit", payload=Nap, lease=30)
async def end_process(job: Job[Nap], ctx: JobContext) -> None:
    """End the process after a second, when the jobs beside it run."""
    await asyncio.sleep(job.payload.seconds)
    os._exit(7)
'''


@pytest.fixture(scope="session")
def template(stranger: Stranger, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the user's compiled stage `dev`. An empty zip is enough for osls."""

    def compile_stage(folder: Path) -> None:
        project = stranger.copy(folder)
        (folder / "out").mkdir()
        (folder / "out" / ARCHIVE).write_bytes(EMPTY_ZIP)
        project.environment.run(folder, "-c", COMPILE)

    return made_once(tmp_path_factory, "template", compile_stage) / "out" / "stack"


@pytest.fixture(scope="session")
def stack(template: Path) -> dict[str, Any]:
    """The content of the compiled template."""
    stack: dict[str, Any] = json.loads((template / TEMPLATE).read_text("utf-8"))
    return stack


@pytest.fixture(scope="session")
def tree(stranger: Stranger, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked zip of the user's project with one more processor, built for this machine."""

    def build_project(folder: Path) -> None:
        project = stranger.copy(folder)
        (folder / "work" / "processors" / "nap.py").write_text(PROCESSORS)
        (folder / "out").mkdir()
        project.environment.run(folder, "-c", BUILD)

    return made_once(tmp_path_factory, "zip", build_project) / "out" / "app"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the packages of Lambda's image."""
    return runtime_site(tmp_path_factory.mktemp("site"))
