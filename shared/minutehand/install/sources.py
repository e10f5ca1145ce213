"""Reads the SQL of this version, and finds parts of Minutehand's SQL in a project's migrations.

A first install writes the current SQL of the engine. An upgrade writes the migrations of all
releases after the installed release. Before these migrations, the upgrade writes a file that makes
calls wait until the upgrade is complete. In a written file, a comment before each part has the
part's origin and the hash of the part's text:

    -- Installed by minutehand 0.4.0. …

    -- minutehand: engine/01_foundation.sql sha256 6f1c…
    create schema …
"""

import hashlib
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from minutehand.app import App
from minutehand.install.errors import InstallError
from minutehand.install.rewrite import Schemas, rewrite
from minutehand.install.tenancy import Tenants
from minutehand.resources import resource
from minutehand.version import VERSION

ENGINE_ORIGIN, TENANCY_ORIGIN = "engine", "tenancy"
#: Pattern of a migration's file name, as the Supabase CLI parses it.
FILE_NAME = re.compile(r"[0-9]+_.*\.sql$")
#: Pattern of the file name of a migration that `python -m infra.release` writes.
RELEASE_NAME = re.compile(r"^[0-9]{14}_[a-z]+_(?P<release>[0-9]+_[0-9]+_[0-9]+)\.sql$")
_HEADER = re.compile(r"\A-- Installed by minutehand (?P<version>\d[\w.]*\w)")
#: Pattern of a statement with which a release drops a function, also before creating it again.
_DROPPED = re.compile(r"^drop function (.+\));$", re.MULTILINE)
_PART = re.compile(
    r"^-- minutehand: (?P<origin>\S+)(?: sha256 (?P<hash>[0-9a-f]{64}))?\n", re.MULTILINE
)
_FIRST_LINES = f"""\
-- Installed by minutehand {VERSION}. `minutehand upgrade` adds the next release as another file.
-- Do not edit a part with a hash; put changes into a migration of your own.
"""


@dataclass(frozen=True)
class Source:
    """An SQL file of this version, which becomes a part of a migration in a project."""

    origin: str
    text: str
    #: True if the project may edit the part, so that its text is never compared with its hash.
    editable: bool = False

    @property
    def part(self) -> str:
        """Text of the part, whose first line is a comment with the part's origin and hash."""
        mark = "" if self.editable else f" sha256 {_digest(self.text)}"
        return f"-- minutehand: {self.origin}{mark}\n{self.text.strip()}\n"


@dataclass(frozen=True)
class Installed:
    """A part of a migration that an install or upgrade wrote into a project."""

    path: Path
    version: str
    origin: str
    #: Hash of the part's text at the time of the install, or None if the project may edit the part.
    expected: str | None
    text: str

    @property
    def is_modified(self) -> bool:
        """True if someone has edited the part since the install or upgrade wrote it."""
        return self.expected not in (None, _digest(self.text))


def _digest(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()


def migration(parts: list[Source]) -> str:
    """Return the text of one migration that consists of these parts."""
    return "\n".join([_FIRST_LINES, *(part.part for part in parts)])


def upgrade_migrations(
    parts: list[Source], schemas: Schemas, apps: Iterable[App]
) -> list[list[Source]]:
    """Return the parts of the two migrations that upgrade a database in use.

    The first migration makes each call of an SQL function wait at the start of the function, until
    the second migration has ended. Without the first migration, a call would wait in the middle of
    an old function, and then fail because the upgrade has dropped an object that the old function
    uses.
    """
    folders = (resource("schemas"), resource("migrations"))
    files = [path for folder in folders for path in folder.glob("*.sql")]
    files += [
        path for app in apps for kind in ("schemas", "migrations") for path in app.files(kind)
    ]
    texts = [path.read_text("utf-8") for path in files]

    def part(name: str) -> Source:
        text = Path(__file__).with_name(f"{name}.sql").read_text("utf-8")
        for kind in ("function", "table"):
            pattern = re.compile(rf"^create (?:or replace )?{kind} public\.(\w+)", re.MULTILINE)
            names = {name for text in texts for name in pattern.findall(text)}
            text = text.replace(f"{{{kind}s}}", f"{{{','.join(sorted(names))}}}")
        dropped = (call for each in parts for call in _DROPPED.findall(each.text))
        text = rewrite(text, schemas).replace("{dropped}", ";".join(dropped))
        return Source(f"{ENGINE_ORIGIN}/{name}.sql", text)

    return [[part("pause_calls")], [part("lock_tables"), *parts, part("resume_calls")]]


def sources(schemas: Schemas, tenants: Tenants, apps: Iterable[App]) -> list[Source]:
    """List the SQL of the engine, of the apps and of the tenants, in the order of execution."""
    parts = [_source(path, schemas) for path in sorted(resource("schemas").glob("*.sql"))]
    parts += [_source(path, schemas, app.name) for app in apps for path in app.files("schemas")]
    # last, views over the project's own tenants replace the engine's tables of tenants
    if sql := tenants.migration(schemas):
        parts.append(Source(f"{TENANCY_ORIGIN}/{tenants.kind}", sql, editable=True))
    return parts


def sources_since(release: str, schemas: Schemas, apps: Iterable[App]) -> list[Source]:
    """List the migrations of the releases after `release`, up to and including this version.

    Raises:
        InstallError: The wheel of this version contains no migration of this version, because the
            wheel was built before the release.
    """
    files = [(path, ENGINE_ORIGIN) for path in resource("migrations").glob("*.sql")]
    files += [(path, app.name) for app in apps for path in app.files("migrations")]
    migrations = [
        (match["release"].replace("_", "."), path, origin)
        for path, origin in sorted(files, key=lambda file: file[0].name)
        if (match := RELEASE_NAME.match(path.name))
    ]
    releases = {name for name, _, origin in migrations if origin == ENGINE_ORIGIN}
    if ordinal(release) < ordinal(VERSION) and VERSION not in releases:
        raise InstallError(
            f"this copy of {VERSION} was built before its release and cannot upgrade {release}",
            code="not_released",
            fix=f"install a released version; in a clone: python -m infra.release {VERSION}",
        )
    return [
        _source(path, schemas, origin)
        for name, path, origin in migrations
        if ordinal(name) > ordinal(release)
    ]


def _source(path: Path, schemas: Schemas, origin: str = ENGINE_ORIGIN) -> Source:
    return Source(f"{origin}/{path.name}", rewrite(path.read_text("utf-8"), schemas))


def migration_files(*folders: Path) -> list[Path]:
    """List the migrations in these folders in the order in which the Supabase CLI applies them.

    Other files and files in subfolders are ignored, as by the Supabase CLI.
    """
    paths = (path for folder in folders for path in folder.glob("*.sql"))
    files = (path for path in paths if path.is_file() and FILE_NAME.match(path.name))
    return sorted(files, key=lambda path: path.name)


def version_of(migration: Path) -> str:
    """Return the version at the start of a migration's file name."""
    return migration.name.partition("_")[0]


def installed(folder: Path) -> list[Installed]:
    """List the parts of Minutehand's SQL in the migrations of the project in `folder`."""
    parts = []
    for path in migration_files(folder / "supabase" / "migrations"):
        text = path.read_text("utf-8-sig", errors="replace")
        if (header := _HEADER.match(text)) is None:
            continue
        marks = list(_PART.finditer(text))
        for mark, end in itertools.zip_longest(marks, [mark.start() for mark in marks[1:]]):
            part = text[mark.end() : end]
            parts.append(Installed(path, header["version"], mark["origin"], mark["hash"], part))
    return parts


def require_installed(folder: Path) -> list[Installed]:
    """List the parts as `installed` does.

    Raises:
        InstallError: Minutehand is not installed in the project.
    """
    if parts := installed(folder):
        return parts
    raise InstallError(
        f"no migration of {folder} was installed by Minutehand",
        code="not_installed",
        fix="name the project's folder, or run minutehand install",
    )


def timestamp(folder: Path) -> str:
    """Return the version of a new migration, which is after all versions of existing migrations."""
    newest = max(map(version_of, migration_files(folder / "supabase" / "migrations")), default="")
    at = datetime.now(UTC).strftime("%Y%m%d%H%M%S")
    # compare versions as strings, as the Supabase CLI does
    return at if newest < at else str(int(newest) + 1)


def ordinal(version: str) -> tuple[int, ...]:
    """Return the numbers of a version as a sort key, so that 0.10.0 follows 0.9.1."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
