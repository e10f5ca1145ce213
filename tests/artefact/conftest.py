"""What would be deployed, made once per run: the template of a stage, and a zip to run here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from minutehand.deploy.build import ARCHIVE, build
from minutehand.deploy.package import TEMPLATE, compile_template
from minutehand.project import Project
from tests.artefact.runtime import runtime_site
from tests.support.paths import ROOT
from tests.support.shared import made_once

EMPTY_ZIP = b"PK\x05\x06" + bytes(18)
PROCESSORS = '''
"""Processors of the tests."""

import asyncio

from pydantic import BaseModel

from minutehand.worker import Job, JobContext, processor


class Nap(BaseModel):
    seconds: float = 0.0


@processor("test.nap", payload=Nap, lease=30)
async def nap(job: Job[Nap], ctx: JobContext) -> dict[str, int]:
    """Sleep only in the first attempt."""
    if job.attempt == 1:
        await asyncio.sleep(job.payload.seconds)
    return {"attempt": job.attempt}
'''


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the compiled stage `dev` of a project without apps.

    osls needs some zip to hash, not the real one.
    """

    def compile_stage(folder: Path) -> None:
        project = folder / "project"
        project.mkdir()
        shutil.copyfile(ROOT / "serverless.yml", project / "serverless.yml")
        stages = ROOT / "infra" / "aws" / "stages.yml"
        shutil.copyfile(stages, project / "minutehand.stages.yml")
        (folder / ARCHIVE).write_bytes(EMPTY_ZIP)
        compile_template("dev", folder, artifacts=folder, root=project)

    return made_once(tmp_path_factory, "template", compile_stage) / "stack"


@pytest.fixture(scope="session")
def stack(template: Path) -> dict[str, Any]:
    """The template."""
    found: dict[str, Any] = json.loads((template / TEMPLATE).read_text("utf-8"))
    return found


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unzipped zip of a project with a processor of its own, for this machine."""

    def build_project(folder: Path) -> None:
        project = folder / "project"
        (project / "jobs").mkdir(parents=True)
        (project / "jobs" / "__init__.py").touch()
        (project / "jobs" / "processors.py").write_text(PROCESSORS)
        (project / "minutehand.toml").write_text('apps = ["jobs"]\n')
        shutil.copyfile(ROOT / "requirements.lock", project / "requirements.lock")
        (folder / "out").mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(project))
            build(folder / "out", Project.at(project), for_lambda=False)

    return made_once(tmp_path_factory, "zip", build_project) / "out" / "app"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Lambda's image brings."""
    return runtime_site(tmp_path_factory.mktemp("site"))
