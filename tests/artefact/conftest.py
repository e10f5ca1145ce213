"""What would be deployed, built once per test process: templates at once, zips when asked for."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from infra.aws.build import Built, build, host_target
from infra.aws.bundles import BUNDLES, LAMBDA, ROOT
from infra.aws.package import TEMPLATE, compile_template
from infra.local.lambda_runtime.__main__ import EMPTY_ZIP, runtime_packages
from tests.artefact.stack import Stack


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of a process builds the zips: a minute here, many on a busy machine."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stack]:
    """The template of each stage; osls needs some zip to hash, not the real one."""
    artifacts = tmp_path_factory.mktemp("artifacts")
    for bundle in BUNDLES:
        (artifacts / f"{bundle.name}.zip").write_bytes(EMPTY_ZIP)
    compiled = {}
    for stage in ("dev", "prod"):
        folder = compile_template(stage, tmp_path_factory.mktemp(stage), artifacts=artifacts)
        template = json.loads((folder / TEMPLATE).read_text())
        compiled[stage] = Stack(stage, folder, template)
    return compiled


@pytest.fixture(scope="session", params=["dev", "prod"])
def compiled(request: pytest.FixtureRequest, stacks: dict[str, Stack]) -> Stack:
    """Each stage in turn."""
    return stacks[request.param]


class Package:
    """The zips of one target, and each unzipped as Lambda would."""

    def __init__(self, folder: Path, built: dict[str, Built]) -> None:
        self.folder = folder
        self.built = built

    def archive(self, bundle: str) -> Path:
        """The zip."""
        return self.folder / f"{bundle}.zip"

    def unzipped(self, bundle: str) -> Path:
        """The zip's content in a folder nothing else wrote to."""
        target = self.folder / "unzipped" / bundle
        if not target.exists():
            with zipfile.ZipFile(self.archive(bundle)) as archive:
                archive.extractall(target)
        return target


@pytest.fixture(scope="session")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources as they are now: an edit during the tests must not look like a wrong hash."""
    root = tmp_path_factory.mktemp("sources")
    for room in ("functions", "shared"):
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("requirements.lock", "pyproject.toml"):
        shutil.copyfile(ROOT / file, root / file)
    return root


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory, snapshot: Path) -> Package:
    """The zips for Lambda: Python 3.13 on arm64."""
    folder = tmp_path_factory.mktemp("lambda-package")
    return Package(folder, {b.name: build(b, LAMBDA, folder, root=snapshot) for b in BUNDLES})


@pytest.fixture(scope="session")
def host_package(tmp_path_factory: pytest.TempPathFactory, snapshot: Path) -> Package:
    """The same zips for this machine, so that they can be run."""
    folder = tmp_path_factory.mktemp("host-package")
    target = host_target()
    return Package(folder, {b.name: build(b, target, folder, root=snapshot) for b in BUNDLES})


@pytest.fixture(scope="session")
def runtime_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Lambda's image brings: awslambdaric and boto3, and nothing else."""
    return runtime_packages(tmp_path_factory.mktemp("runtime"))
