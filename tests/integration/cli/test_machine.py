"""What doctor says about this machine and this checkout: packages and zips, planted wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minutehand.cli.doctor import machine
from minutehand.cli.doctor.findings import Finding, Target, Verdict
from minutehand.deploy.build import source_files, sources_hash
from minutehand.deploy.bundles import BUNDLES
from minutehand.project import Project
from tests.support.paths import ROOT

CHECKS = {check.name: check for check in machine.CHECKS}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The sources and locks of this checkout, with zips of exactly them."""
    names = ("functions", "shared", "requirements.lock", "pyproject.toml", "package-lock.json")
    for name in (*names, "node_modules"):
        (tmp_path / name).symlink_to(ROOT / name)
    folder = tmp_path / "build" / "aws"
    folder.mkdir(parents=True)
    project = Project.at(tmp_path)
    for bundle in BUNDLES:
        (folder / f"{bundle.name}.zip").write_bytes(b"")
        sources = sources_hash(source_files(bundle, project), project)
        write(
            tmp_path,
            bundle.name,
            magic=machine.MAGIC_3_13,
            python="3.13.2",
            sources_sha256=sources,
            archive=f"{bundle.name}.zip",
        )
    return tmp_path


def write(root: Path, bundle: str, **manifest: Any) -> None:
    """Change some of what a zip's manifest says."""
    path = root / "build" / "aws" / f"{bundle}.manifest.json"
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**known, **manifest}), "utf-8")


def found(root: Path, check: str, stage: str | None = None) -> Finding:
    return CHECKS[check].run(Target({}, stage, root=root))


def test_fresh_zips_and_locked_packages_are_fine(checkout: Path) -> None:
    """A doctor that cries wolf is not asked twice."""
    for name in ("package", "python-packages", "node-packages"):
        assert found(checkout, name).verdict is Verdict.OK, found(checkout, name)


def test_an_old_zip_matters_to_a_deploy_and_not_to_a_developer(checkout: Path) -> None:
    """Every edit makes the zip an old one; byte code of another Python is of no use anywhere."""
    write(checkout, "app", sources_sha256="of yesterday")

    assert found(checkout, "package").verdict is Verdict.WARN
    deploying = found(checkout, "package", stage="prod")
    assert deploying.verdict is Verdict.FAIL
    assert "older than the sources" in deploying.detail
    assert deploying.fix == "minutehand package"
    # Lambda would ignore it and compile everything at each cold start
    write(checkout, "app", magic="a70d0d0a", python="3.11.2")
    assert found(checkout, "package").verdict is Verdict.FAIL
    assert "Python 3.11.2" in found(checkout, "package").detail


def test_a_zip_that_is_gone_and_one_that_never_was(checkout: Path) -> None:
    """The first is an accident, the second a beginning."""
    (checkout / "build" / "aws" / "app.zip").unlink()
    assert "app.zip is missing" in found(checkout, "package").detail

    (checkout / "build" / "aws" / "app.manifest.json").unlink()
    assert found(checkout, "package").verdict is Verdict.SKIP


def relocked(root: Path, lock: str, was: str, now: str) -> None:
    """Change what a lock says; `make setup` would follow, a person's `npm install` did not."""
    text = (ROOT / lock).read_text("utf-8")
    assert was in text
    (root / lock).unlink()
    (root / lock).write_text(text.replace(was, now, 1), "utf-8")


def test_a_package_that_is_not_the_locked_one_is_named(checkout: Path) -> None:
    """What the tests ran with must be what is shipped."""
    osls = json.loads((ROOT / "package-lock.json").read_text("utf-8"))["packages"]
    at = f'"node_modules/osls": {{\n      "version": "{osls["node_modules/osls"]["version"]}"'
    relocked(checkout, "package-lock.json", at, '"node_modules/osls": {"version": "0.0.1"')
    locks = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    [line] = [line for line in locks if line.startswith("fastapi==")]
    relocked(checkout, "requirements.lock", line, "fastapi==0.0.1 \\")

    for check, name in (("node-packages", "osls is"), ("python-packages", "fastapi is")):
        told = found(checkout, check)
        assert (told.verdict, told.fix) == (Verdict.FAIL, "make setup")
        assert name in told.detail
        assert "locked 0.0.1" in told.detail
