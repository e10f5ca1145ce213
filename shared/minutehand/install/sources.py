"""The SQL files of this version, and those that a project has installed; how the two are compared.

An installed file begins with its origin and the hash of what follows:

    -- Installed by minutehand 0.1.0 from engine/20261120000100_create_foundation.sql
    -- sha256 6f1c…
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from minutehand.install.rewrite import Schemas, rewrite
from minutehand.install.tenancy import Tenants
from minutehand.resources import PACKAGE, checkout, resource
from minutehand.version import VERSION

ENGINE_ORIGIN, TENANCY_ORIGIN = "engine", "tenancy"
#: As the Supabase CLI reads a file's name.
FILE_NAME = re.compile(r"^(?P<version>[0-9]+)_(?P<name>.*)\.sql$")
#: The one file of the engine that is replaced where the tenants are not tables of ours.
MAKES_TENANTS = re.compile(r"^create view queue\.tenants\b", re.MULTILINE)
#: Files of the engine for tenants that are tables of ours, omitted where they are not.
FOR_OWN_TENANTS = re.compile(r"\A-- Tenancy: workspaces\b")
_HEADER = re.compile(
    r"\A-- Installed by minutehand (?P<version>\S+) from (?P<origin>\S+)\n"
    r"(?:-- sha256 (?P<hash>[0-9a-f]{64})\n)?"
)
_STAMP = "%Y%m%d%H%M%S"


class InstallError(Exception):
    """The project cannot be changed as asked; `fix` says what to do, `code` is a stable word."""

    def __init__(self, message: str, *, code: str, fix: str) -> None:
        super().__init__(message)
        self.code = code
        self.fix = fix


def not_installed(folder: Path, *, fix: str) -> InstallError:
    """The refusal of a folder whose migrations are all its own."""
    return InstallError(
        f"no migration of {folder} was installed by Minutehand", code="not_installed", fix=fix
    )


@dataclass(frozen=True)
class Source:
    """One file of this version, as it goes into a project; `editable` ones are never compared."""

    origin: str
    text: str
    editable: bool = False

    @property
    def name(self) -> str:
        """The file's name without its timestamp."""
        file = self.origin.rpartition("/")[2]
        match = FILE_NAME.match(file)
        return f"minutehand_{match['name'] if match else file}"

    @property
    def digest(self) -> str:
        """The hash of the text below the header."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def whole(self) -> str:
        """The text with its header."""
        mark = f"-- Installed by minutehand {VERSION} from {self.origin}\n"
        return f"{mark}{'' if self.editable else f'-- sha256 {self.digest}{chr(10)}'}{self.text}"


@dataclass(frozen=True)
class Installed:
    """One file that an install or upgrade wrote into a project."""

    path: Path
    version: str
    origin: str
    #: None where the file is the project's to edit.
    expected: str | None
    found: str

    @property
    def edited(self) -> bool:
        """Whether it was changed after it was written."""
        return self.expected not in (None, self.found)


def sources(schemas: Schemas, tenants: Tenants, apps: Iterable[str] = ()) -> list[Source]:
    """List the engine's files and those of `apps` in the order in which they apply.

    Raises:
        InstallError: The app does not exist.
    """
    found = [(path, ENGINE_ORIGIN) for path in resource("migrations").glob("*.sql")]
    for app in apps:
        folder = PACKAGE / "apps" / app / "migrations"
        if not folder.is_dir():
            known = sorted(path.parent.name for path in PACKAGE.glob("apps/*/migrations"))
            raise InstallError(
                f"unknown app {app!r}", code="no_app", fix=f"one of {', '.join(known)}"
            )
        found += [(path, app) for path in folder.glob("*.sql")]
    return [
        _source(path, origin, schemas, tenants)
        for path, origin in sorted(found, key=lambda each: each[0].name)
        if tenants.kind == "workspaces" or not FOR_OWN_TENANTS.match(path.read_text("utf-8"))
    ]


def _source(path: Path, origin: str, schemas: Schemas, tenants: Tenants) -> Source:
    text = path.read_text("utf-8")
    if origin == ENGINE_ORIGIN and MAKES_TENANTS.search(text):
        if (generated := tenants.migration(schemas)) is not None:
            return Source(f"{TENANCY_ORIGIN}/{tenants.kind}", generated, editable=True)
    elif origin != ENGINE_ORIGIN:
        return Source(f"{origin}/{path.name}", tenants.adapt(rewrite(text, schemas), schemas))
    return Source(f"{origin}/{path.name}", rewrite(text, schemas))


def installed(folder: Path) -> list[Installed]:
    """List the files of supabase/migrations in `folder` that were installed, by name."""
    found = []
    for path in sorted((folder / "supabase" / "migrations").glob("*.sql")):
        text = path.read_text("utf-8")
        if (header := _HEADER.match(text)) is not None:
            digest = hashlib.sha256(text[header.end() :].encode()).hexdigest()
            found.append(
                Installed(path, header["version"], header["origin"], header["hash"], digest)
            )
    return found


def timestamps(folder: Path, now: datetime) -> Iterable[str]:
    """Yield versions for new files: from `now`, or from after the newest file, a second apart.

    Raises:
        InstallError: The newest file's number is not a timestamp and sorts after all of them.
    """
    names = [path.name for path in (folder / "supabase" / "migrations").glob("*.sql")]
    newest = max(
        (match["version"] for name in names if (match := FILE_NAME.match(name))), default=""
    )
    at = now.astimezone(UTC)
    # compared as text, as the CLI does
    if newest >= at.strftime(_STAMP):
        try:
            at = datetime.strptime(newest, _STAMP).replace(tzinfo=UTC) + timedelta(seconds=1)
        except ValueError as error:
            raise InstallError(
                f"supabase/migrations has a file numbered {newest}, which sorts after every"
                " timestamp",
                code="unusual_version",
                fix="rename it to begin with a timestamp such as 20261120093000",
            ) from error
    while True:
        yield at.strftime(_STAMP)
        at += timedelta(seconds=1)


def changelog() -> str:
    """Read the changelog of this version."""
    root = checkout()
    path = (root or PACKAGE / "resources") / "CHANGELOG.md"
    return path.read_text("utf-8") if path.is_file() else ""


def sections_between(text: str, older: str, newer: str) -> str:
    """Cut from a changelog the sections of versions after `older`, up to `newer`."""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    wanted = []
    for part in parts:
        match = re.match(r"## \[?(\d[\w.]*)\]?", part)
        if match and ordinal(older) < ordinal(match[1]) <= ordinal(newer):
            wanted.append(re.sub(r"^\[[^\]]+\]:.*\n?", "", part, flags=re.MULTILINE).strip())
    return "\n\n".join(wanted)


def ordinal(version: str) -> tuple[int, ...]:
    """Order versions by their numbers: 0.10.0 after 0.9.1."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
