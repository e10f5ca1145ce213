"""What would be deployed, made once per run and when asked for: templates and zips."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from minutehand.deploy.build import Built, build, host_target
from minutehand.deploy.bundles import BUNDLES, LAMBDA, Target
from minutehand.deploy.package import TEMPLATE, compile_template
from minutehand.local.lambda_functions import EMPTY_ZIP, runtime_packages
from minutehand.project import Project
from tests.artefact.stack import Stack
from tests.support.paths import ROOT
from tests.support.shared import made_once

STAGES = ("dev", "prod")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test builds the zips: a minute here, many on a busy machine."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stack]:
    """The template of each stage; osls needs some zip to hash, not the real one."""

    def compile_both(folder: Path) -> None:
        artifacts = folder / "artifacts"
        artifacts.mkdir()
        for bundle in BUNDLES:
            (artifacts / f"{bundle.name}.zip").write_bytes(EMPTY_ZIP)
        for stage in STAGES:
            compile_template(stage, folder / stage, artifacts=artifacts)

    folder = made_once(tmp_path_factory, "templates", compile_both)
    return {
        stage: Stack(
            stage,
            folder / stage / "stack",
            json.loads((folder / stage / "stack" / TEMPLATE).read_text()),
        )
        for stage in STAGES
    }


@pytest.fixture(scope="session", params=STAGES)
def compiled(request: pytest.FixtureRequest, stacks: dict[str, Stack]) -> Stack:
    """Each stage in turn."""
    return stacks[request.param]


class Package:
    """The zips of one target, and each unzipped into `trees` as Lambda would."""

    def __init__(self, folder: Path, trees: Path) -> None:
        self.folder = folder
        self.trees = trees
        self.built: dict[str, Built] = {
            bundle.name: Built(**json.loads((folder / f"{bundle.name}.manifest.json").read_text()))
            for bundle in BUNDLES
        }

    def archive(self, bundle: str) -> Path:
        """The zip."""
        return self.folder / f"{bundle}.zip"

    def unzipped(self, bundle: str) -> Path:
        """The zip's content in a folder nothing else wrote to."""
        target = self.trees / bundle
        if not target.exists():
            with zipfile.ZipFile(self.archive(bundle)) as archive:
                archive.extractall(target)
        return target


def packaged(factory: pytest.TempPathFactory, name: str, target: Target) -> Package:
    """Every bundle for one target."""

    def build_all(folder: Path) -> None:
        build(BUNDLES, target, folder, project=Project.at(ROOT))

    return Package(made_once(factory, name, build_all), factory.mktemp(f"{name}-unzipped"))


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The zips for Lambda: Python 3.13 on arm64."""
    return packaged(tmp_path_factory, "lambda-package", LAMBDA)


@pytest.fixture(scope="session")
def host_package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The same zips for this machine, so that they can be run."""
    return packaged(tmp_path_factory, "host-package", host_target())


@pytest.fixture(scope="session")
def runtime_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Lambda's image brings: awslambdaric and boto3, and nothing else."""
    return runtime_packages(tmp_path_factory.mktemp("runtime"))
