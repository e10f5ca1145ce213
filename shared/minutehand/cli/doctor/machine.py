"""This machine and this checkout: interpreters, installed packages, the built package."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from minutehand.cli.doctor.findings import Check, Finding, Reporter, Target
from minutehand.deploy.build import source_files, sources_hash
from minutehand.deploy.bundles import BUNDLES, LAMBDA
from minutehand.deploy.lockfile import read_lock
from minutehand.node import NodeMissing, node_binary
from minutehand.project import Project

MAGIC_3_13 = "f30d0d0a"
OLDEST = (3, 11)


def python(target: Target) -> Finding:
    """3.11 or newer."""
    say = Reporter("python")
    found = ".".join(map(str, sys.version_info[:3]))
    if tuple(sys.version_info[:2]) < OLDEST:
        return say.fail(f"Python {found}", "install Python 3.11 or newer, then `make setup`")
    return say.ok(f"Python {found}")


def node(target: Target) -> Finding:
    """Node 20 or newer, for the Data API, osls and the byte code."""
    say = Reporter("node")
    try:
        tool = node_binary()
    except NodeMissing:
        return say.fail("Node is not installed", 'pip install "minutehand[dev]"')
    found = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False)
    number = re.match(r"v(\d+)", found.stdout)
    if number is None or int(number[1]) < 20:
        return say.fail(f"Node {found.stdout.strip() or 'does not start'}", "make setup")
    return say.ok(f"Node {found.stdout.strip()}")


def is_checkout(root: Path) -> bool:
    """Whether `root` is this package's own repository, whose locks say what is installed."""
    project = root / "pyproject.toml"
    named = tomllib.loads(project.read_text("utf-8")) if project.is_file() else {}
    return bool(named.get("project", {}).get("name") == "minutehand")


def python_packages(target: Target) -> Finding:
    """What is installed is what is locked."""
    say = Reporter("python-packages")
    if not is_checkout(target.root):
        return say.skip("an installed package, whose dependencies its installer keeps")
    wrong = []
    project = tomllib.loads((target.root / "pyproject.toml").read_text("utf-8"))["project"]
    direct = {
        canonicalize_name(match[0])
        for line in project["dependencies"]
        if (match := re.match(r"[A-Za-z0-9_.-]+", line))
    }
    for name, entry in read_lock(target.root / "requirements.lock").items():
        if name not in direct:
            continue
        try:
            installed = version(name)
        except PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if installed != entry.version:
            wrong.append(f"{name} is {installed}, locked {entry.version}")
    if wrong:
        return say.fail("; ".join(wrong), "make setup")
    return say.ok(f"{len(direct)} direct dependencies as locked")


def node_packages(target: Target) -> Finding:
    """What is installed from npm is what is locked."""
    say = Reporter("node-packages")
    if not is_checkout(target.root):
        return say.skip("an installed package, which fetches them by its own lock")
    lock = json.loads((target.root / "package-lock.json").read_text("utf-8"))["packages"]
    top = lock[""]
    wrong = []
    for name in {**top.get("dependencies", {}), **top.get("devDependencies", {})}:
        wanted = lock[f"node_modules/{name}"]["version"]
        manifest = target.root / "node_modules" / name / "package.json"
        found = json.loads(manifest.read_text("utf-8"))["version"] if manifest.exists() else None
        if found != wanted:
            wrong.append(f"{name} is {found or 'missing'}, locked {wanted}")
    if wrong:
        return say.fail("; ".join(sorted(wrong)), "make setup")
    return say.ok("npm packages as locked")


def package(target: Target) -> Finding:
    """The zips are of today's sources, for Lambda's Python."""
    say = Reporter("package")
    folder = target.root / "build" / "aws"
    project = Project.at(target.root)
    for bundle in BUNDLES:
        manifest = folder / f"{bundle.name}.manifest.json"
        if not manifest.exists():
            return say.skip("nothing was packaged yet; `minutehand package` does")
        built: dict[str, Any] = json.loads(manifest.read_text("utf-8"))
        if built.get("magic") != MAGIC_3_13:
            return say.fail(
                f"{bundle.name}.zip has byte code of Python {built.get('python')}, "
                f"Lambda runs {LAMBDA.python}",
                "minutehand package",
            )
        now = sources_hash(source_files(bundle, project), project)
        if built.get("sources_sha256") != now:
            # of no matter while developing: deploying packages again
            told = say.warn if target.stage is None else say.fail
            return told(f"{bundle.name}.zip is older than the sources", "minutehand package")
        if not (folder / built["archive"]).exists():
            return say.fail(f"{built['archive']} is missing", "minutehand package")
    return say.ok("zips of the present sources")


CHECKS = (
    Check("python", python),
    Check("node", node),
    Check("python-packages", python_packages),
    Check("node-packages", node_packages),
    Check("package", package),
)
