"""Writes a release's migrations, and sees that they lead from the last release to the present."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from infra.release.catalogue import catalogue, first_rows
from infra.release.changes import CannotRelease, Change, compare, creations
from infra.release.locks import locks
from infra.release.texts import Part, apps_of, parts_of, pieces_of
from minutehand.install.sources import FILE_NAME
from supabase_local import migrations
from supabase_local.postgres import Postgres

#: In a file of steps: what follows is done after everything that is generated.
AFTERWARDS = "-- afterwards\n"


@dataclass(frozen=True)
class Made:
    """One migration that a release is to write."""

    path: Path
    text: str


def write_migrations(root: Path, version: str, *, now: datetime) -> list[Made]:
    """Write what a release changes, a migration for the engine and one for webhooks.

    Raises:
        CannotRelease: They do not lead to the present text; the message lists what is missing.
    """
    with scratch() as server:
        return Release(root, version, server).make(now)


def differs_from_release(root: Path) -> bool:
    """Whether the present text makes another database than the migrations of all releases."""
    with scratch() as server:
        release = Release(root, "", server)
        return release.state(release.released()) != release.state(release.present())


@contextmanager
def scratch() -> Iterator[Postgres]:
    """A server for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="minutehand-release-") as folder:
        server = Postgres(Path(folder), scratch=True)
        server.start()
        try:
            yield server
        finally:
            server.destroy()


class Release:
    """A release of a checkout that is being made, and a server to try it on."""

    def __init__(self, root: Path, version: str, server: Postgres) -> None:
        self.root = root
        self.version = version
        self.server = server
        self.parts = parts_of(root)

    def make(self, now: datetime) -> list[Made]:
        """Write the migrations, and apply them to a database of the last release."""
        released, present = self.released(), self.present()
        self.expect_version(present)
        change = compare(catalogue(released), catalogue(present))
        tried = migrations.as_user(self.build("tried", released_files(self.parts)), "postgres")
        whose = {name: part for part in self.parts for name in names_of(part)}
        every = released_files([*self.parts, *apps_of(self.root)])
        newest = max((migrations.version_of(each) for each in every), default="0")
        at = max(int(now.astimezone(UTC).strftime("%Y%m%d%H%M%S")), int(newest) + 1)
        made: list[Made] = []
        for part in self.parts:
            if text := self.text(part, change, whose, tried):
                name = "_".join([part.name, *self.version.split(".")])
                path = part.home / "migrations" / f"{at + len(made)}_{name}.sql"
                made.append(Made(path, text))
        self.apply(released, made)
        self.expect_equal(released, present)
        return made

    def text(self, part: Part, change: Change, whose: dict[str, Part], tried: str) -> str:
        """One part's migration; empty where nothing of it changes.

        It is tried on the database `tried`, where the parts before it were.

        Raises:
            CannotRelease: A statement is refused.
        """

        def of_part(about: str) -> bool:
            name = about.rpartition(" on ")[2]
            return whose.get(name, self.parts[0]) == part

        first, _, last = self.step(part).partition(AFTERWARDS)
        generated = [
            *creations(pieces_of(part), change),
            *(each.text for each in (*change.settled, *change.gone) if of_part(each.about)),
        ]
        texts = [text.strip() for text in (first, *generated, last) if text.strip()]
        if not texts:
            return ""
        steps = part.steps(self.version)
        sources = f"schemas and {steps.relative_to(part.home)}" if steps.exists() else "schemas"
        head = (
            f"-- {self.version} after the release before it; written by `python -m infra.release`"
            f" from {sources}.\n-- Do not edit it, and do not read it: read the schemas."
        )
        try:
            locked = locks(tried, "\n\n".join(texts))
        except psycopg.Error as refused:
            raise self.refusal(refused) from refused
        return "\n\n".join(text for text in (head, locked, *texts) if text) + "\n"

    def step(self, part: Part) -> str:
        """What a person wrote for this release."""
        path = part.steps(self.version)
        return path.read_text("utf-8") if path.exists() else ""

    def apply(self, url: str, made: Iterable[Made]) -> None:
        """Apply what is to be written to a database.

        Raises:
            CannotRelease: A statement is refused.
        """
        owner = migrations.as_user(url, "postgres")
        with tempfile.TemporaryDirectory(prefix="minutehand-release-") as folder:
            for one in made:
                Path(folder, one.path.name).write_text(one.text, "utf-8")
            try:
                migrations.apply_migrations(owner, migrations.migrations_in(Path(folder)))
            except migrations.MigrationFailed as failed:
                raise self.refusal(failed) from failed

    def refusal(self, error: Exception) -> CannotRelease:
        """What to do about a statement that Postgres refuses."""
        return CannotRelease(
            f"the migration of {self.version} is refused: {error}\n"
            f"{self.where}, what this statement needs"
        )

    def expect_version(self, present: str) -> None:
        """See that the engine names the release that it is.

        Raises:
            CannotRelease: It names another.
        """
        with psycopg.connect(present) as connection:
            row = connection.execute("select queue.version()").fetchone()
        if row != (self.version,):
            raise CannotRelease(
                f"queue.version() must say {self.version}: supabase/schemas/01_foundation.sql"
            )

    def expect_equal(self, released: str, present: str) -> None:
        """See that two databases are the same.

        Raises:
            CannotRelease: Naming what no step brings about.
        """
        left, right = self.state(released), self.state(present)
        lines = [
            *(f"  must go:  {_short(line)}" for line in sorted(set(left) - set(right))),
            *(f"  must come: {_short(line)}" for line in sorted(set(right) - set(left))),
        ]
        if lines:
            raise CannotRelease(
                f"a step is missing: {len(lines)} differences are left after the migration.\n"
                f"{self.where}, the statements that bring them about:\n" + "\n".join(lines[:40])
            )

    @property
    def where(self) -> str:
        """Where a step is written."""
        return f"Write into steps/{self.version}.sql, beside the schemas that it is for"

    def state(self, url: str) -> list[str]:
        """List all that a database holds of the release, and the rows with which it begins."""
        return [*catalogue(url), *first_rows(url)]

    def released(self) -> str:
        """Make a database of all releases; return its address."""
        return self.build("released", released_files(self.parts))

    def present(self) -> str:
        """Make a database of the present text; return its address."""
        return self.build("present", present_files(self.parts))

    def build(self, name: str, files: list[Path]) -> str:
        """Make a database of some files; return its address."""
        url = empty_database(self.server, name)
        migrations.apply_migrations(migrations.as_user(url, "postgres"), files)
        return url


def released_files(parts: Iterable[Part]) -> list[Path]:
    """The migrations of all releases."""
    return migrations.migrations_in(*(part.home / "migrations" for part in parts))


def present_files(parts: Iterable[Part]) -> list[Path]:
    """The present text."""
    return migrations.migrations_in(*(part.home / "schemas" for part in parts))


def empty_database(server: Postgres, name: str) -> str:
    """Make a database as a hosted project is before its first migration; return its address."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    url = server.url(database=name)
    migrations.prepare_hosted(url)
    migrations.set_project_owner(url, server.password)
    return url


def names_of(part: Part) -> set[str]:
    """Every name that the part's present text or a release of it has made."""
    made = re.compile(
        r"^create (?:or replace |unlogged |unique |constraint )*"
        r"(?:table|view|function|type|sequence|schema) (?:if not exists )?([\w.]+)",
        re.MULTILINE,
    )
    files = [*part.schemas, *part.migrations]
    return {name for path in files for name in made.findall(path.read_text("utf-8"))}


def version_of(path: Path) -> str:
    """The version in a migration's name; empty where it has none."""
    match = FILE_NAME.match(path.name)
    return match["version"] if match else ""


def _short(line: str) -> str:
    return line.partition("\n")[0][:200]
