"""What the packager reads of a project: its lock, its apps' requests, its stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from minutehand.app import App
from minutehand.config import ConfigurationError
from minutehand.deploy.apps import read_needs
from minutehand.deploy.bundles import PackagingError
from minutehand.deploy.imports import Sources, third_party
from minutehand.deploy.lockfile import parse_lock, read_project_lock
from minutehand.deploy.service import read_stages
from minutehand.project import Project

LOCK = """# compiled
httpx[http2]==0.28.1 \\
    --hash=sha256:{a}
    # via -r requirements.in
minutehand @ file:///dist/minutehand-0.1.0-py3-none-any.whl \\
    --hash=sha256:{b}
    # via -r requirements.in
-e .
anyio==4.16.0 \\
    --hash=sha256:{c}
    # via
    #   httpx
    #   starlette
""".format(a="a" * 64, b="b" * 64, c="c" * 64)


class Placed(App):
    """An app in a folder that is not imported."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder.name)
        self.__dict__["folder"] = folder


def test_a_local_wheel_in_a_lock_is_left_out_with_its_hashes() -> None:
    """Its lines must not be taken for those of the distribution before it."""
    entries = parse_lock(LOCK)

    assert list(entries) == ["httpx", "anyio"]
    assert entries["httpx"].hashes == [f"sha256:{'a' * 64}"]
    assert entries["anyio"].parents == {"httpx", "starlette"}


def test_a_project_without_a_lock_is_told_how_to_write_one(tmp_path: Path) -> None:
    """No version may be picked behind somebody's back."""
    with pytest.raises(PackagingError, match=r"has no lock.*uv lock"):
        read_project_lock(tmp_path)


def test_a_lock_with_an_open_version_is_refused(tmp_path: Path) -> None:
    """What would be shipped depended on the day of packaging."""
    (tmp_path / "requirements.txt").write_text("httpx>=0.28\n")

    with pytest.raises(PackagingError, match=r"'httpx>=0\.28' is not pinned"):
        read_project_lock(tmp_path)


def test_what_only_type_checkers_import_is_not_packaged(tmp_path: Path) -> None:
    """It is never loaded, and its distributions would only lengthen the cold start."""
    file = tmp_path / "jobs.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import boto3\n"
        "else:\n    import httpx\n"
    )

    assert set(third_party([file], Sources((tmp_path,), frozenset({"jobs"})))) == {"httpx"}


def test_the_requests_of_apps_add_up(tmp_path: Path) -> None:
    """Variables, secrets and rights of each; two meanings of one name are refused."""
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    (one / "lambda.yml").write_text(
        "parameters: {size: 1}\nlocal: {MOCK: 'true', KEY: ''}\n"
        "functions: {worker: {environment: {SIZE: '${param:size}'}, secrets: [KEY],"
        " statements: [{Sid: A, Effect: Allow, Action: 's3:GetObject', Resource: '*'}]}}\n"
    )
    (other / "lambda.yml").write_text("functions: {worker: {secrets: [KEY, OTHER]}}\n")

    needs = read_needs([Placed(one), Placed(other)])

    assert needs.secrets("worker") == ("KEY", "OTHER")
    assert needs.secrets("jobs") == ()
    assert needs.variables({"KEY": "mine", "MORE": "no"}) == {"MOCK": "true", "KEY": "mine"}
    service = needs.service()
    assert service["functions"] == {"worker": {"environment": {"SIZE": "${param:size}"}}}
    assert list(service["resources"]["Resources"]) == ["WorkerPolicyOfApps"]
    (other / "lambda.yml").write_text("parameters: {size: 2}\n")
    with pytest.raises(ConfigurationError, match="gives size the value 2; another app gives 1"):
        read_needs([Placed(one), Placed(other)])
    (other / "lambda.yml").write_text("functions: {wroker: {}}\n")
    with pytest.raises(ConfigurationError, match="is not valid"):
        read_needs([Placed(other)])


def test_a_stage_starts_from_the_package_and_the_project_overrides(tmp_path: Path) -> None:
    """A project's file stays short, and a new parameter of a release has its default."""
    (tmp_path / "minutehand.stages.yml").write_text(
        "default: {alarmEmail: a@b.example}\nprod: {budgetUSD: 7}\ndev:\n"
    )

    stages = read_stages(Project.at(tmp_path))

    assert stages["default"]["alarmEmail"] == "a@b.example"
    assert stages["default"]["workerTimeout"] == 300
    assert (stages["prod"], stages["dev"]) == ({"budgetUSD": 7}, {})
    (tmp_path / "minutehand.stages.yml").write_text("prod: 3\n")
    with pytest.raises(ConfigurationError, match="must map stages"):
        read_stages(Project.at(tmp_path))
