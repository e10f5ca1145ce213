"""What was released: a hash per migration and release. A released file never changes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from infra.release.changes import CannotRelease
from infra.release.migrations import differs_from_release, version_of, write_migrations
from minutehand.install.sources import ordinal
from minutehand.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
LIST = "supabase/RELEASES.json"
#: Version → file, as a path of the repository → sha256.
Releases = Mapping[str, Mapping[str, str]]
STAMP = re.compile(r"20\d{12}")


def migrations(root: Path = ROOT) -> dict[str, str]:
    """Hash every migration of the engine and of webhooks, by path."""
    found = [
        *root.glob("supabase/migrations/*.sql"),
        *root.glob("shared/minutehand/*/migrations/*.sql"),
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
    newest = max((version_of(Path(path)) for path in released), default="")
    for path in sorted(set(now) - released):
        if version_of(Path(path)) <= newest:
            found.append(f"{path} is new and must sort after {newest}, the newest released")
        elif newest and not STAMP.fullmatch(version_of(Path(path))):
            found.append(f"{path} must begin with a timestamp of 14 digits")
    return found


def check_present(root: Path = ROOT, version: str = VERSION) -> None:
    """See that the present text is what its version says: a release, or what a release can bring.

    Raises:
        CannotRelease: The engine has changed and its version has not, or a step is missing.
    """
    if version not in read(root):
        write_migrations(root, version, now=datetime.now(UTC))
    elif differs_from_release(root):
        raise CannotRelease(
            f"the schemas differ from {version}, which is released: set the next version in"
            " shared/minutehand/version.py and in queue.version()"
        )


def release(version: str, root: Path = ROOT, *, now: datetime) -> list[Path]:
    """Write what a release changes, and add every new file to the list; return what was written.

    Raises:
        CannotRelease: Nothing was written; the message says what to do.
    """
    releases = dict(read(root))
    found = problems(root)
    if version in releases:
        found.append(f"{version} is released already: set the next version in version.py")
    if any(ordinal(version) <= ordinal(older) for older in releases):
        found.append(f"{version} must come after {max(releases, key=ordinal)}")
    changes = (root / "CHANGELOG.md").read_text("utf-8")
    if not re.search(rf"^## \[{re.escape(version)}\]", changes, re.MULTILINE):
        found.append(f"CHANGELOG.md must have a section ## [{version}]")
    if found:
        raise CannotRelease("\n".join(found))
    made = write_migrations(root, version, now=now)
    for one in made:
        one.path.parent.mkdir(exist_ok=True)
        one.path.write_text(one.text, "utf-8")
    known = {path for files in releases.values() for path in files}
    added = {path: digest for path, digest in migrations(root).items() if path not in known}
    lines = (f'"{name}": {json.dumps(one)}' for name, one in {**releases, version: added}.items())
    (root / LIST).write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")  # a line a release
    return [one.path for one in made]
