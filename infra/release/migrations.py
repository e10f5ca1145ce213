"""Writes the migrations of a release, and checks that they create the current schema."""

import hashlib
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from infra.release.catalogue import catalogue, differences, read_entries
from infra.release.changes import CannotRelease, Change, Statement, compare, creations
from infra.release.texts import Part, apps_of, parts_of, pieces_of
from supabase_local import migrations
from supabase_local.postgres import Postgres

#: Line in a person's file of steps. The SQL statements below the line run after all generated
#: statements of the migration.
AFTERWARDS = "-- afterwards\n"


@dataclass(frozen=True)
class NewMigration:
    """A migration that the release adds."""

    path: Path
    text: str


def write_migrations(
    root: Path, version: str, server: Postgres | None = None
) -> list[NewMigration]:
    """Return the migrations of a release, for the engine and for webhooks.

    Without `server`, a temporary server runs.

    Raises:
        CannotRelease: The migrations do not create the schema of the current sources. The error's
            message lists the differences.
    """
    with nullcontext(server) if server else scratch() as running:
        return Release(root, version, running).make()


def differs_from_release(root: Path, server: Postgres | None) -> bool:
    """Return whether current sources and released migrations create different schemas."""
    with nullcontext(server) if server else scratch() as running:
        release = Release(root, "", running)
        return catalogue(release.released()) != catalogue(release.present())


@contextmanager
def scratch() -> Iterator[Postgres]:
    """Run a temporary Postgres server until the block ends."""
    with tempfile.TemporaryDirectory(prefix="minutehand-release-") as folder:
        server = Postgres(Path(folder), scratch=True)
        server.start()
        try:
            yield server
        finally:
            server.destroy()


class Release:
    """A release in preparation, with a Postgres server that tests its migrations."""

    def __init__(self, root: Path, version: str, server: Postgres) -> None:
        self.root = root
        self.version = version
        self.server = server
        self.parts = parts_of(root)

    def make(self) -> list[NewMigration]:
        """Return the release's migrations, after a test on a database of the last release."""
        released, present = self.released(), self.present()
        self.expect_version(present)
        change = compare(read_entries(released), read_entries(present))
        owners = {name: part for part in self.parts for name in names_of(part)}
        paths = released_files([*self.parts, *apps_of(self.root)])
        newest = max((migrations.version_of(path) for path in paths), default="0")
        first_version = max(int(datetime.now(UTC).strftime("%Y%m%d%H%M%S")), int(newest) + 1)
        new: list[NewMigration] = []
        for part in self.parts:
            if text := self.text(part, change, owners):
                name = "_".join([part.name, *self.version.split(".")])
                path = part.home / "migrations" / f"{first_version + len(new)}_{name}.sql"
                new.append(NewMigration(path, text))
        self.apply(released, new)
        self.expect_equal(released, present)
        return new

    def text(self, part: Part, change: Change, owners: dict[str, Part]) -> str:
        """Return the migration of a part, or "" if the part has not changed."""

        def of_part(statements: Iterable[Statement]) -> list[str]:
            return [
                statement.text
                for statement in statements
                if owners.get(statement.about.rpartition(" on ")[2], self.parts[0]) == part
            ]

        steps = part.steps(self.version)
        written = steps.read_text() if steps.exists() else ""
        first, _, last = written.partition(AFTERWARDS)
        generated = [
            *of_part(change.columns),
            *creations(pieces_of(part), change),
            *of_part((*change.rights, *change.dropped)),
        ]
        texts = [text.strip() for text in (first, *generated, last) if text.strip()]
        if not texts:
            return ""
        sources = f"schemas and {steps.relative_to(part.home)}" if written else "schemas"
        head = (
            f"-- {self.version} after the release before it; written by `python -m infra.release`"
            f" from {sources}.\n-- Do not edit it, and do not read it: read the schemas."
        )
        return "\n\n".join((head, *texts)) + "\n"

    def apply(self, url: str, new: Iterable[NewMigration]) -> None:
        """Apply new migrations to the database at `url`.

        Raises:
            CannotRelease: Postgres rejects one of the statements.
        """
        owner = migrations.as_owner(url)
        with tempfile.TemporaryDirectory(prefix="minutehand-release-") as folder:
            for migration in new:
                Path(folder, migration.path.name).write_text(migration.text)
            try:
                migrations.apply_migrations(owner, migrations.migrations_in(Path(folder)))
            except migrations.MigrationFailed as error:
                raise CannotRelease(
                    f"Postgres rejects the migration of {self.version}: {error}\n"
                    f"{self.where}, what this statement needs"
                ) from error

    def expect_version(self, present: str) -> None:
        """Check that `queue.version()` returns the version of the new release.

        Raises:
            CannotRelease: `queue.version()` returns another version.
        """
        with psycopg.connect(present) as connection:
            row = connection.execute("select queue.version()").fetchone()
        if row != (self.version,):
            raise CannotRelease(
                f"queue.version() must return {self.version}: supabase/schemas/01_foundation.sql"
            )

    def expect_equal(self, released: str, present: str) -> None:
        """Check that two databases have equal schemas.

        Raises:
            CannotRelease: The schemas differ. The error's message lists the differences, for which
                a person writes a step.
        """
        if lines := differences(catalogue(released), catalogue(present)):
            shown = "\n".join(line.partition("\n")[0][:200] for line in lines[:40])
            raise CannotRelease(
                f"a step is missing: {len(lines)} differences are left after the migration.\n"
                f"{self.where}, the statements that remove them (- must go, + must come):\n{shown}"
            )

    @property
    def where(self) -> str:
        """Sentence for error messages with the path of the file in which a person writes a step."""
        return f"Write into steps/{self.version}.sql, next to the schemas that it is for"

    def released(self) -> str:
        """Create a database from the migrations of all releases, and return its URL."""
        return self.build("released", released_files(self.parts))

    def present(self) -> str:
        """Create a database from the current sources, and return its URL."""
        return self.build("present", present_files(self.parts))

    def build(self, name: str, files: list[Path]) -> str:
        """Create a database from SQL files, and return its URL.

        The server keeps another database, of which equal files get a copy.
        """
        texts = "\0".join(path.read_text() for path in files)
        kept = f"{name}_{hashlib.sha256(texts.encode()).hexdigest()[:16]}"
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            exists = "select from pg_database where datname = %s"
            if not connection.execute(exists, (kept,)).rowcount:
                url = empty_database(self.server, kept)
                migrations.apply_migrations(migrations.as_owner(url), files)
            connection.execute(f"drop database if exists {name} with (force)".encode())
            connection.execute(f"create database {name} template {kept} owner postgres".encode())
        return self.server.url(database=name)


def released_files(parts: Iterable[Part]) -> list[Path]:
    """List the migrations of all releases of these parts."""
    return migrations.migrations_in(*(part.home / "migrations" for part in parts))


def present_files(parts: Iterable[Part]) -> list[Path]:
    """List the files of the current sources of these parts."""
    return migrations.migrations_in(*(part.home / "schemas" for part in parts))


def empty_database(server: Postgres, name: str) -> str:
    """Create a database that is like a new hosted project, and return its URL."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    url = server.url(database=name)
    migrations.prepare_hosted(url)
    migrations.set_project_owner(url, server.password)
    return url


def names_of(part: Part) -> set[str]:
    """Return the names of all objects that a part's current sources or releases create."""
    pattern = re.compile(
        r"^create (?:or replace |unlogged |unique |constraint )*"
        r"(?:table|view|function|type|sequence|schema) (?:if not exists )?([\w.]+)",
        re.MULTILINE,
    )
    files = [*part.schemas, *part.migrations]
    return {name for path in files for name in pattern.findall(path.read_text())}
