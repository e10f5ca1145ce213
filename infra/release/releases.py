"""The list of all released migrations with their hashes. A released file never changes."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from infra.release.changes import CannotRelease
from infra.release.migrations import differs_from_release, write_migrations
from minutehand.install.sources import ordinal
from minutehand.version import VERSION
from supabase_local.migrations import version_of
from supabase_local.postgres import Postgres

ROOT = Path(__file__).resolve().parents[2]
LIST = "supabase/RELEASES.json"
#: For each version, the sha256 hash of each of its files. A file's key is its path in the
#: repository.
Releases = Mapping[str, Mapping[str, str]]
STAMP = re.compile(r"20\d{12}")


def migrations(root: Path = ROOT) -> dict[str, str]:
    """Return the hashes of all migrations of the engine and of webhooks, by path."""
    paths = [
        *root.glob("supabase/migrations/*.sql"),
        *root.glob("shared/minutehand/*/migrations/*.sql"),
    ]
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(paths)
    }


def read(root: Path = ROOT) -> Releases:
    """Read the list of released migrations."""
    releases: Releases = json.loads((root / LIST).read_text())
    return releases


def problems(root: Path = ROOT) -> list[str]:
    """List released files that were changed or removed, and new files that would not be applied."""
    releases, now = read(root), migrations(root)
    sentences = []
    for version, files in sorted(releases.items(), key=lambda item: ordinal(item[0])):
        for path, digest in files.items():
            if path not in now:
                sentences.append(f"{path} was released with {version} and is missing")
            elif now[path] != digest:
                sentences.append(f"{path} was released with {version} and has changed")
    released = {path for files in releases.values() for path in files}
    # the Supabase CLI rejects a file that sorts before the newest applied file
    newest = max((version_of(Path(path)) for path in released), default="")
    for path in sorted(set(now) - released):
        if version_of(Path(path)) <= newest:
            sentences.append(f"{path} is new and must sort after {newest}, the newest released")
        elif newest and not STAMP.fullmatch(version_of(Path(path))):
            sentences.append(f"{path} must begin with a timestamp of 14 digits")
    return sentences


def check_present(
    root: Path = ROOT, version: str = VERSION, server: Postgres | None = None
) -> None:
    """Check that the current sources equal the release of their version, or can be a new release.

    Raises:
        CannotRelease: The engine has changed but its version has not, or a person's step is
            missing.
    """
    if version not in read(root):
        write_migrations(root, version, server)
    elif differs_from_release(root, server):
        raise CannotRelease(
            f"the schemas must be those of {version}, which is released, or the version must be"
            " raised in shared/minutehand/version.py and in queue.version()"
        )


def release(version: str, root: Path = ROOT, server: Postgres | None = None) -> list[Path]:
    """Write the migrations of a release, and add the migrations to RELEASES.json.

    Return the new files' paths.

    Raises:
        CannotRelease: The release is not possible, and no file was written. The error's message
            contains the remedy.
    """
    releases = dict(read(root))
    sentences = problems(root)
    if version in releases:
        sentences.append(f"{version} is released already: set the next version in version.py")
    if any(ordinal(version) <= ordinal(older) for older in releases):
        sentences.append(f"{version} must come after {max(releases, key=ordinal)}")
    changelog = (root / "CHANGELOG.md").read_text()
    if not re.search(rf"^## \[{re.escape(version)}\]", changelog, re.MULTILINE):
        sentences.append(f"CHANGELOG.md must have a section ## [{version}]")
    if sentences:
        raise CannotRelease("\n".join(sentences))
    new = write_migrations(root, version, server)
    for migration in new:
        migration.path.parent.mkdir(exist_ok=True)
        migration.path.write_text(migration.text)
    known = {path for files in releases.values() for path in files}
    added = {path: digest for path, digest in migrations(root).items() if path not in known}
    all_releases = {**releases, version: added}
    # write one line of JSON for each release
    lines = (f'"{name}": {json.dumps(files)}' for name, files in all_releases.items())
    (root / LIST).write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return [migration.path for migration in new]
