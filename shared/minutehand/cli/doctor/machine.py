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

from minutehand.cli.doctor.findings import Checks, Finding, Target, fail, ok, skip, warn
from minutehand.deploy.build import source_files, sources_hash
from minutehand.deploy.bundles import BUNDLES, LAMBDA
from minutehand.deploy.lockfile import read_lock
from minutehand.node import NodeMissing, node_binary
from minutehand.project import Project

MAGIC_3_13 = "f30d0d0a"
OLDEST = (3, 11)
CHECKS = Checks()


@CHECKS.add("python")
def python(target: Target) -> Finding:
    """3.11 or newer."""
    found = ".".join(map(str, sys.version_info[:3]))
    if tuple(sys.version_info[:2]) < OLDEST:
        return fail(f"Python {found}", "install Python 3.11 or newer, then `make setup`")
    return ok(f"Python {found}")


@CHECKS.add("node")
def node(target: Target) -> Finding:
    """One that `minutehand.node` takes, for the Data API, osls and the byte code."""
    try:
        tool = node_binary()
    except NodeMissing as missing:
        return fail("Node is not installed", str(missing))
    found = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False)
    if not found.stdout.startswith("v"):
        return fail("Node does not start", "make setup")
    return ok(f"Node {found.stdout.strip()}")


def is_checkout(root: Path) -> bool:
    """Whether `root` is this package's own repository, whose locks say what is installed."""
    project = root / "pyproject.toml"
    named = tomllib.loads(project.read_text("utf-8")) if project.is_file() else {}
    return bool(named.get("project", {}).get("name") == "minutehand")


@CHECKS.add("python-packages")
def python_packages(target: Target) -> Finding:
    """What is installed is what is locked."""
    if not is_checkout(target.root):
        return skip("an installed package, whose dependencies its installer keeps")
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
        return fail("; ".join(wrong), "make setup")
    return ok(f"{len(direct)} direct dependencies as locked")


@CHECKS.add("node-packages")
def node_packages(target: Target) -> Finding:
    """What is installed from npm is what is locked."""
    if not is_checkout(target.root):
        return skip("an installed package, which fetches them by its own lock")
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
        return fail("; ".join(sorted(wrong)), "make setup")
    return ok("npm packages as locked")


@CHECKS.add("package")
def package(target: Target) -> Finding:
    """The zips are of today's sources, for Lambda's Python."""
    folder = target.root / "build" / "aws"
    project = Project.at(target.root)
    for bundle in BUNDLES:
        manifest = folder / f"{bundle.name}.manifest.json"
        if not manifest.exists():
            return skip("nothing was packaged yet; `minutehand package` does")
        built: dict[str, Any] = json.loads(manifest.read_text("utf-8"))
        if built.get("magic") != MAGIC_3_13:
            return fail(
                f"{bundle.name}.zip has byte code of Python {built.get('python')}, "
                f"Lambda runs {LAMBDA.python}",
                "minutehand package",
            )
        now = sources_hash(source_files(bundle, project), project)
        if built.get("sources_sha256") != now:
            # of no matter while developing: deploying packages again
            told = warn if target.stage is None else fail
            return told(f"{bundle.name}.zip is older than the sources", "minutehand package")
        if not (folder / built["archive"]).exists():
            return fail(f"{built['archive']} is missing", "minutehand package")
    return ok("zips of the present sources")
