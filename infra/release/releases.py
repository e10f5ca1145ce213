"""What was released: a hash per migration and release. A released file never changes.

`python -m infra.release.releases 0.3.0` adds the present files as that release; see README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from minutehand.install.sources import FILE_NAME, ordinal
from minutehand.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
LIST = "supabase/RELEASES.json"
#: Version → file, as a path of the repository → sha256.
Releases = Mapping[str, Mapping[str, str]]
STAMP = re.compile(r"20\d{12}")


def migrations(root: Path = ROOT) -> dict[str, str]:
    """Hash every migration of the engine and of the apps, by path."""
    found = [
        *root.glob("supabase/migrations/*.sql"),
        *root.glob("shared/minutehand_apps/*/migrations/*.sql"),
    ]
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(found)
    }


def read(root: Path = ROOT) -> Releases:
    """Read the list."""
    found: Releases = json.loads((root / LIST).read_text("utf-8"))
    return found


def problems(root: Path = ROOT) -> list[str]:
    """Say which released file was changed or removed, and which new one would not be pushed."""
    releases, now = read(root), migrations(root)
    found = []
    for version, files in sorted(releases.items(), key=lambda item: ordinal(item[0])):
        for path, digest in files.items():
            if path not in now:
                found.append(f"{path} was released with {version} and is missing")
            elif now[path] != digest:
                found.append(f"{path} was released with {version} and has changed")
    released = {path for files in releases.values() for path in files}
    # as the CLI refuses a file before the newest applied one, of any folder
    newest = max((_version(path) for path in released), default="")
    for path in sorted(set(now) - released):
        if _version(path) <= newest:
            found.append(f"{path} is new and must sort after {newest}, the newest released")
        elif newest and not STAMP.fullmatch(_version(path)):
            found.append(f"{path} must begin with a timestamp of 14 digits")
    return found


def release(version: str, root: Path = ROOT) -> list[str]:
    """Add the present files to the list as `version`; return what prevents it."""
    releases = dict(read(root))
    found = problems(root)
    if version in releases:
        found.append(f"{version} is released already")
    if any(ordinal(version) <= ordinal(older) for older in releases):
        found.append(f"{version} must come after {max(releases, key=ordinal)}")
    changes = (root / "CHANGELOG.md").read_text("utf-8")
    if not re.search(rf"^## \[{re.escape(version)}\]", changes, re.MULTILINE):
        found.append(f"CHANGELOG.md must have a section ## [{version}]")
    if not found:
        known = {path for files in releases.values() for path in files}
        added = {path: digest for path, digest in migrations(root).items() if path not in known}
        lines = (
            f'"{name}": {json.dumps(one)}' for name, one in {**releases, version: added}.items()
        )
        (root / LIST).write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")  # a line a release
    return found


def _version(path: str) -> str:
    match = FILE_NAME.match(path.rpartition("/")[2])
    return match["version"] if match else ""


def main() -> int:
    """Print what prevents the release; 1 when anything does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version", help=f"the version to release, that of the source: {VERSION}")
    version = parser.parse_args().version
    found = release(version) if version == VERSION else [f"version.py says {VERSION}"]
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
