"""requirements.lock, read as a graph, so that a zip holds locked versions and nothing unneeded.

The lock stays the one truth: no resolver runs at packaging time, and hashes are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from minutehand.deploy.bundles import IMPLIED

_ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)==(?P<version>[^ ;\\]+)")
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")
_VIA = re.compile(r"^    #\s+(?:via\s+)?(?P<parent>\S.*)$")
OURSELVES = "minutehand"


@dataclass
class Locked:
    """One pinned distribution: its text in the lock and who asked for it."""

    name: str
    version: str
    text: str = ""
    hashes: list[str] = field(default_factory=list)
    parents: set[str] = field(default_factory=set)


def read_lock(path: Path) -> dict[str, Locked]:
    """Parse a lock that `uv pip compile --generate-hashes` wrote."""
    entries: dict[str, Locked] = {}
    current: Locked | None = None
    for line in path.read_text("utf-8").splitlines():
        if match := _ENTRY.match(line):
            current = Locked(match["name"], match["version"])
            entries[current.name] = current
        if current is None or not line.strip():
            continue
        if via := _VIA.match(line):
            parent = via["parent"]
            if parent != "via":
                current.parents.add(parent.split(" ")[0])
            continue
        current.text += line + "\n"
        current.hashes.extend(_HASH.findall(line))
    return entries


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
