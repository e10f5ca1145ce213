"""The project's lock, read as a graph, so that a zip holds locked versions and nothing unneeded.

The lock stays the one truth: versions and hashes are its own, and no resolver picks others.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from minutehand.deploy.bundles import IMPLIED, PackagingError
from minutehand.deploy.tools import run_tool, uv

_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")
_VIA = re.compile(r"^    #\s+(?:via\s+)?(?P<parent>\S.*)$")
#: Their files come from where they are imported, if at all.
OURSELVES = frozenset({"minutehand", "minutehand-apps", "minutehand-local"})
#: A project's own lock, the first that is there; the last may come from `pip freeze`.
LOCKS = ("requirements.lock", "uv.lock", "requirements.txt")


@dataclass
class Locked:
    """One pinned distribution: its text in the lock and who asked for it."""

    name: str
    version: str
    text: str = ""
    hashes: list[str] = field(default_factory=list)
    parents: set[str] = field(default_factory=set)


def find_lock(root: Path) -> Path:
    """The lock of the project in `root`.

    Raises:
        PackagingError: There is none; the message says how to write one.
    """
    for name in LOCKS:
        if (root / name).is_file():
            return root / name
    raise PackagingError(
        f"{root} has no lock, so nothing says which versions to ship. Write one: `uv lock`, or "
        "`uv pip compile --universal --generate-hashes requirements.in -o requirements.lock`, or "
        "`pip freeze > requirements.lock`"
    )


def read_project_lock(root: Path) -> dict[str, Locked]:
    """The pinned distributions of the project in `root`, with hashes and who asked for each.

    A lock without either, as `pip freeze` writes it, gets them from the package registry.

    Raises:
        PackagingError: There is no lock, or something in it has no version.
    """
    path = find_lock(root)
    if path.name == "uv.lock":
        text = _export(root)
    else:
        text = path.read_text("utf-8")
        _refuse_open_versions(path, text)
    entries = parse_lock(text)
    if not all(entry.hashes and entry.parents for entry in entries.values()):
        entries = parse_lock(_completed(path, text))
    return entries


def read_lock(path: Path) -> dict[str, Locked]:
    """Parse a lock that `uv pip compile --generate-hashes` wrote."""
    return parse_lock(path.read_text("utf-8"))


def parse_lock(text: str) -> dict[str, Locked]:
    """Parse pinned requirements; what has no version, such as a local wheel, is omitted."""
    entries: dict[str, Locked] = {}
    current: Locked | None = None
    for line in text.splitlines():
        if pinned := _pinned(line):
            current = Locked(*pinned)
            entries[current.name] = current
        elif line[:1] not in {" ", "#", ""}:
            current = None  # a path, a URL, an option
        if current is None or not line.strip():
            continue
        if via := _VIA.match(line):
            parent = via["parent"]
            if parent != "via":
                current.parents.add(parent.split(" ")[0])
            continue
        if not line.startswith("#"):
            current.text += line + "\n"
            current.hashes.extend(_HASH.findall(line))
    return {name: entry for name, entry in entries.items() if name not in OURSELVES}


def _export(root: Path) -> str:
    options = ["--frozen", "--no-emit-project", "--all-extras"]
    options += [f"--no-emit-package={name}" for name in sorted(OURSELVES)]
    command = [uv(), "export", "--quiet", "--directory", str(root), *options]
    return run_tool(command, "uv.lock could not be read")


def _completed(path: Path, text: str) -> str:
    """Let uv add hashes and origins to pinned requirements; every version stays as it is."""
    unshipped = {*OURSELVES, _own_name(path.parent)}
    wanted = [
        line.removesuffix("\\").strip()
        for line in text.splitlines()
        if (pinned := _pinned(line)) and canonicalize_name(pinned[0]) not in unshipped
    ]
    command = [uv(), "pip", "compile", "--quiet", "--universal", "--generate-hashes", "-"]
    # named, or uv looks for a 3.13 on this machine, which takes seconds
    command += ["--python-version", "3.13", "--python", sys.executable, "--no-config"]
    return run_tool(command, f"{path.name} could not be completed", given="\n".join(wanted))


def _refuse_open_versions(path: Path, text: str) -> None:
    """Accept pinned lines, options, and this package or the project itself from anywhere."""
    itself = re.compile(rf"-|(minutehand|{re.escape(_own_name(path.parent))})\b", re.IGNORECASE)
    for line in text.splitlines():
        if line[:1] not in {" ", "#", ""} and not _pinned(line) and not itself.match(line):
            raise PackagingError(
                f"{path.name}: {line!r} is not pinned. Every line must be `name==version`; "
                "`uv pip compile --universal --generate-hashes` writes such a lock"
            )


def _pinned(line: str) -> tuple[str, str] | None:
    """Name and version of a requirement of exactly one version, as a lock's line begins."""
    if line[:1] in {" ", "#", "-"} or "==" not in line:
        return None  # what a hash or an origin says
    try:
        wanted = Requirement(re.split(r" \\$| --", line)[0])
    except InvalidRequirement:
        return None
    match list(wanted.specifier):
        case [exact] if exact.operator == "==" and not exact.version.endswith(".*"):
            return wanted.name, exact.version
    return None


def _own_name(root: Path) -> str:
    """The project's own distribution, which a freeze of an editable install names."""
    file = root / "pyproject.toml"
    about = tomllib.loads(file.read_text("utf-8")) if file.is_file() else {}
    return canonicalize_name(about.get("project", {}).get("name", "minutehand"))


def select(entries: dict[str, Locked], roots: Iterable[str], skip: Iterable[str]) -> list[Locked]:
    """`roots` and everything the lock says they need, without the `skip` ones.

    Raises:
        LookupError: A root is not in the lock, so nothing pins it.
    """
    skipped = set(skip)
    wanted = {name for name in roots if name not in skipped}
    for root in sorted(wanted):
        wanted.update(name for name in IMPLIED.get(root, ()) if name in entries)
    if missing := sorted(wanted - entries.keys()):
        raise LookupError(f"not in requirements.lock: {', '.join(missing)}; add it and lock again")
    while True:
        more = {
            entry.name
            for entry in entries.values()
            if entry.parents & wanted and entry.name not in wanted | skipped
        }
        if not more:
            return sorted((entries[name] for name in wanted), key=lambda entry: entry.name)
        wanted |= more
