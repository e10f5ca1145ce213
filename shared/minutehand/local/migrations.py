"""Brings a database to the checkout's state: hosted base, migrations, seed.

Writes the same history tables as `supabase db push`, which afterwards has nothing to do.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg import sql as composed
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from minutehand.app import built_in, find_apps
from minutehand.install.facts import ENGINE, keep_record, record_file
from minutehand.project import Project
from minutehand.resources import checkout
from supabase_local.extensions import STAND_INS
from supabase_local.statements import split_statements

HOSTED = STAND_INS.parent
REALTIME_SCHEMA = HOSTED.with_name("realtime") / "schema.sql"

# as the CLI has it: https://github.com/supabase/cli pkg/migration/{file,history}.go
FILE_NAME = re.compile(r"^([0-9]+)_(.*)\.sql$")
HISTORY = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
  version text not null primary key
);
alter table supabase_migrations.schema_migrations
  add column if not exists statements text[],
  add column if not exists name text,
  add column if not exists created_by text,
  add column if not exists idempotency_key text unique,
  add column if not exists rollback text[];
create table if not exists supabase_migrations.seed_files (
  path text not null primary key, hash text not null
);
"""

# a function, table, type or schema that is not there, or what a stand-in of an extension lacks
MISSING = frozenset({"42883", "42P01", "42704", "3F000", "0A000"})
HOSTED_ONLY = (
    "\nIf this is a part of Supabase that the local stack lacks: `supabase start`, then"
    " `minutehand dev --supabase-url http://127.0.0.1:54321`."
)
LACKING = (
    "\nThe local stack lacks the extension {names}, whose `create extension` it passed over: run"
    " this project with `supabase start`, then"
    " `minutehand dev --supabase-url http://127.0.0.1:54321`."
)

Say = Callable[[str], None]
_CREATE_EXTENSION = re.compile(
    r"^\s*create\s+extension\s+(?:if\s+not\s+exists\s+)?\"?([\w-]+)", re.IGNORECASE | re.MULTILINE
)
# a hosted project's `postgres` may do these, where Postgres itself asks for a superuser
_BY_SUPERUSER = re.compile(
    r"^\s*((create|alter|drop)\s+(event\s+trigger|foreign\s+data\s+wrapper)\b"
    r"|create\s+publication\b[^;]*\bfor\s+(all\s+tables|tables\s+in\s+schema)\b"
    r"|drop\s+publication\b)",
    re.IGNORECASE | re.MULTILINE,
)
# what hosted projects took until 2025: it is on there, and postgres may not say so again
_ALREADY_ON = re.compile(
    r"^\s*alter\s+table\s+(if\s+exists\s+)?(only\s+)?\"?(auth|storage|realtime)\"?\."
    r'"?\w+"?\s+enable\s+row\s+level\s+security\s*\Z',
    re.IGNORECASE | re.MULTILINE,
)


class MigrationFailed(Exception):
    """A file could not be applied; nothing of that file is left in the database."""


@dataclass(frozen=True)
class Migration:
    """One file of supabase/migrations, or of the checkout's supabase/schemas."""

    path: Path
    version: str
    name: str

    def statements(self) -> list[str]:
        """Read the file's statements."""
        return _statements(self.path)


def find_migrations(project: Project | None = None) -> list[Migration]:
    """List what makes a project's database, in the order of applying.

    In the checkout the present text of the engine and of the apps; else the project's migrations,
    which hold what was installed.
    """
    project = project or Project.find()
    if checkout() != project.root:
        return migrations_in(project.root / "supabase" / "migrations")
    apps = (app.folder / "schemas" for app in find_apps(project.apps))
    return migrations_in(project.root / "supabase" / "schemas", *apps)


def find_applied(project: Project, applied: Collection[str]) -> list[Migration]:
    """List the files of a project of which a database has these versions.

    The checkout's own stack is built from the present text, a hosted project of its from history.
    """
    present = find_migrations(project)
    if checkout() != project.root or any(each.version in applied for each in present):
        return present
    return history(project)


def history(project: Project) -> list[Migration]:
    """List what a hosted project of this checkout applies: the migrations of each release."""
    apps = (app.folder / "migrations" for app in find_apps(project.apps))
    return migrations_in(project.root / "supabase" / "migrations", *apps)


def migrations_in(*folders: Path) -> list[Migration]:
    """List the migrations of some folders in the order in which they apply."""
    found = (path for folder in folders for path in folder.glob("*.sql") if path.is_file())
    files = sorted(
        (path for path in found if FILE_NAME.match(path.name)), key=lambda path: path.name
    )
    return [
        Migration(path, match[1], match[2])
        for path in files
        if (match := FILE_NAME.match(path.name)) is not None
    ]


def prepare_hosted(url: str, *, say: Say = lambda _: None) -> None:
    """Give a bare database what a hosted project has before its first migration.

    Args:
        url: Of a superuser.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        _keep_silent(connection)
        applied = _applied_seeds(connection)
        files = [*sorted(HOSTED.glob("*.sql")), REALTIME_SCHEMA]
        for path in files:
            name, digest = _path_and_hash(path)
            if applied.get(name) == digest:
                continue
            say(f"hosted base: {path.name}")
            with connection.transaction():
                _run(connection, path, _statements(path))
        with connection.transaction():
            # the role exists by now, and the CLI must be able to write here as that role
            connection.execute("set local role postgres")
            connection.execute(HISTORY)
            for path in files:
                _record_seed(connection, path)


def set_project_owner(url: str, password: str) -> None:
    """Let `postgres`, who owns what migrations make, sign in with the superuser's password."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            composed.SQL("alter role postgres password {}").format(composed.Literal(password))
        )


def apply_migrations(url: str, migrations: Iterable[Migration]) -> list[Migration]:
    """Apply what is pending, each file in a transaction with its line of history.

    Args:
        url: Of the role that shall own the objects: `postgres`, as on a hosted project.

    Returns:
        The migrations applied by this call, in order.

    Raises:
        MigrationFailed: A statement failed, a file was edited after it was applied, or one is
            older than the newest applied (the CLI refuses the same).
    """
    wanted = list(migrations)
    for one, other in itertools.pairwise(wanted):
        if one.version == other.version:
            raise MigrationFailed(
                f"{one.path.name} and {other.path.name} have the same version {one.version}."
                " Give the newer file a later timestamp."
            )
    done: list[Migration] = []
    with psycopg.connect(url, autocommit=True) as connection:
        _keep_silent(connection)
        connection.execute("set lock_timeout = '4s'")
        with connection.transaction():
            connection.execute(HISTORY)
        recorded: dict[str, list[str] | None] = dict(
            connection.execute(
                "select version, statements from supabase_migrations.schema_migrations"
            ).fetchall()
        )
        newest = max(recorded, default="")
        for migration in wanted:
            statements = migration.statements()
            if migration.version in recorded:
                _check_unchanged(migration, recorded[migration.version], statements)
                continue
            if migration.version < newest:
                raise MigrationFailed(
                    f"{migration.path.name} is older than {newest}, which is applied. Give it a "
                    "later timestamp, or stop the stack and delete the folder .local to start over."
                )
            connection.execute("reset all")
            _keep_silent(connection)
            with _applied_whole(connection, migration.path):
                _run(connection, migration.path, _without_what_is_so(statements))
                connection.execute(
                    "insert into supabase_migrations.schema_migrations (version, name, statements)"
                    " values (%s, %s, %s)",
                    (migration.version, migration.name, statements),
                )
            done.append(migration)
        if done:
            connection.execute("notify pgrst, 'reload schema'")
    return done


def apply_project(url: str, project: Project | None = None) -> list[Migration]:
    """Apply what is pending of a project; in a checkout record what we have left.

    Args:
        url: As for `apply_migrations`, which says what is raised.
    """
    project = project or Project.find()
    wanted = find_migrations(project)
    if checkout() != project.root:
        return apply_migrations(url, wanted)
    homes = {app.name: app.folder for app in built_in(project.apps)}
    parts = {
        name: [each for each in wanted if each.path.is_relative_to(home)]
        for name, home in {ENGINE: project.root / "supabase", **homes}.items()
    }
    recorded = apply_recorded(url, parts, record_file(project.root))
    return [*recorded, *apply_migrations(url, wanted)]


def apply_recorded(
    url: str, parts: Mapping[str, Iterable[Migration]], record: Path
) -> list[Migration]:
    """Apply the engine and apps of this package, and record what each has left."""
    done: list[Migration] = []
    for name, files in parts.items():
        if applied := apply_migrations(url, files):
            with psycopg.connect(url, autocommit=True) as connection:
                keep_record(connection, record, name)
        done += applied
    return done


def check_engine(url: str, project: Project) -> None:
    """Raise MigrationFailed where the engine is not in the database: nothing else would work."""
    with psycopg.connect(url) as connection:
        sign = f"{project.schema_}.lease_jobs"
        row = connection.execute("select to_regproc(%s)", (sign,)).fetchone()
    if row is None or row[0] is None:
        raise MigrationFailed(
            f"Minutehand is not installed in schema {project.schema_}: `minutehand install` copies"
            " its migrations into supabase/migrations"
        )


def seed_files(project: Project | None = None) -> list[Path]:
    """List the seed and the apps' own seeds, in the order in which they run."""
    project = project or Project.find()
    of_apps = [path for app in find_apps(project.apps) for path in app.files("seeds")]
    return [*own_seeds(project.root), *of_apps]


def expose_new_tables(owner: str, root: Path) -> None:
    """Grant the Data API what migrations will make in `public`, where supabase/config.toml asks.

    As the CLI: projects from before May 2026 had it so, and their migrations grant nothing.
    """
    if _cli_config(root).get("api", {}).get("auto_expose_new_tables") is not True:
        return
    with psycopg.connect(owner, autocommit=True) as connection:
        for kind in ("tables", "sequences", "functions"):
            connection.execute(
                "alter default privileges for role postgres in schema public"
                f" grant all on {kind} to anon, authenticated, service_role".encode()
            )


def supabase_here(root: Path) -> str | None:
    """The address of a `supabase start` of this project, where one answers."""
    port = _cli_config(root).get("api", {}).get("port", 54321)
    url = f"http://127.0.0.1:{port}"
    try:
        httpx.get(f"{url}/rest/v1/", timeout=1)
    except httpx.HTTPError:
        return None
    return url


def own_seeds(root: Path) -> list[Path]:
    """The files that `[db.seed]` of config.toml names, as the CLI finds and orders them."""
    home = root / "supabase"
    seed = _cli_config(root).get("db", {}).get("seed", {})
    patterns = seed.get("sql_paths", ["./seed.sql"])
    if not (isinstance(patterns, list) and all(isinstance(one, str) for one in patterns)):
        raise MigrationFailed("[db.seed] sql_paths of supabase/config.toml must list strings")
    found = [home / name for one in patterns for name in sorted(glob(one, root_dir=home))]
    files = [path.resolve() for path in found if path.is_file()]
    return list(dict.fromkeys(files)) if seed.get("enabled", True) else []


def _cli_config(root: Path) -> dict[str, Any]:
    try:
        return tomllib.loads((root / "supabase" / "config.toml").read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MigrationFailed(f"supabase/config.toml is not TOML: {error}") from error


def apply_seed(url: str, path: Path) -> bool:
    """Run the seed once; like the CLI, a seed edited later is only noted, not run again."""
    if not path.exists():
        return False
    with psycopg.connect(url, autocommit=True) as connection:
        _keep_silent(connection)
        applied = _applied_seeds(connection)
        name, digest = _path_and_hash(path)
        if applied.get(name) == digest:
            return False
        with _applied_whole(connection, path):
            if name not in applied:
                _run(connection, path, _without_what_is_so(_statements(path)))
            _record_seed(connection, path)
    return name not in applied


def as_user(url: str, user: str) -> str:
    """Return a connection string that signs in as `url` does and acts as the role `user`."""
    given = conninfo_to_dict(url)
    options = f"{given.get('options', '')} -c role={user}".strip()
    return make_conninfo(**{**given, "options": options})  # type: ignore[arg-type]


def _check_unchanged(migration: Migration, recorded: list[str] | None, now: list[str]) -> None:
    if recorded is not None and recorded != now:
        raise MigrationFailed(
            f"{migration.path.name} was edited after it was applied to this database. "
            + (
                "Stop the stack and start over: make reset."
                if migration.path.parent.name == "schemas"
                else "Put the change into a new migration, or stop the stack and delete .local to"
                " start over."
            )
        )


def _statements(path: Path) -> list[str]:
    try:
        return split_statements(path.read_text("utf-8-sig"))  # as psql, without the mark
    except UnicodeDecodeError as error:
        raise MigrationFailed(f"{path.name} must be UTF-8: {error}") from error


def _without_what_is_so(statements: list[str]) -> list[str]:
    return [statement for statement in statements if not _ALREADY_ON.search(statement)]


def _run(
    connection: psycopg.Connection[tuple[object, ...]], path: Path, statements: list[str]
) -> None:
    text, at = path.read_text("utf-8-sig"), 0
    for statement in statements:
        at = text.index(statement, at)
        try:
            _execute(connection, statement)
        except psycopg.Error as error:
            line = text.count("\n", 0, at + int(error.diag.statement_position or 1) - 1) + 1
            raise MigrationFailed(
                f"{path.name}, line {line}: {error.sqlstate}: {error}\n"
                + "\n".join(statement.splitlines()[:6])
            ) from error


@contextmanager
def _applied_whole(
    connection: psycopg.Connection[tuple[object, ...]], path: Path
) -> Iterator[None]:
    """A transaction for one of the project's files, whose failure says what is missing here."""
    try:
        with connection.transaction():
            yield
    except MigrationFailed as failed:
        cause = failed.__cause__
        if not (isinstance(cause, psycopg.Error) and cause.sqlstate in MISSING):
            raise
        names = ", ".join(_extensions_passed_over(connection, path))
        lacking = LACKING.format(names=names) if names else HOSTED_ONLY
        raise MigrationFailed(f"{failed}{lacking}") from cause


def _extensions_passed_over(
    connection: psycopg.Connection[tuple[object, ...]], path: Path
) -> list[str]:
    """Those that this file, or one before it, switched on and that this server does not offer."""
    rows = connection.execute(
        "select array_to_string(statements, e'\n') from supabase_migrations.schema_migrations"
    )
    texts = [path.read_text("utf-8-sig"), *(str(row[0]) for row in rows)]
    wanted = {name for text in texts for name in _CREATE_EXTENSION.findall(text)}
    here = connection.execute("select name from pg_available_extensions")
    return sorted(wanted - {str(name) for (name,) in here})


def _execute(connection: psycopg.Connection[tuple[object, ...]], statement: str) -> None:
    # no parameters: the text goes as it is, with its percent signs
    if _BY_SUPERUSER.search(statement):
        connection.execute("set role none")
        connection.execute(statement.encode())
        connection.execute("reset role")
        return
    if not _CREATE_EXTENSION.search(statement):
        connection.execute(statement.encode())
        return
    # one that is there was switched on by the dashboard where this was written; what calls one that
    # no one has here is refused by its own line
    refused = (psycopg.errors.DuplicateObject, psycopg.errors.FeatureNotSupported)
    with suppress(*refused), connection.transaction():
        connection.execute(statement.encode())


def _keep_silent(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    connection.execute("set client_min_messages = warning")


def _applied_seeds(connection: psycopg.Connection[tuple[object, ...]]) -> dict[str, str]:
    known = connection.execute(
        "select to_regclass('supabase_migrations.seed_files') is not null"
    ).fetchone()
    if not known or not known[0]:
        return {}
    rows = connection.execute("select path, hash from supabase_migrations.seed_files").fetchall()
    return {str(path): str(digest) for path, digest in rows}


def _path_and_hash(path: Path) -> tuple[str, str]:
    # as the CLI has it, a path of the project; of this package's own files, the last folder's
    whole = path.resolve()
    name = path.name
    for root in (Project.find().root / "supabase", HOSTED, REALTIME_SCHEMA.parent):
        if whole.is_relative_to(root):
            name = whole.relative_to(root.parent).as_posix()
    return name, hashlib.sha256(path.read_bytes()).hexdigest()


def _record_seed(connection: psycopg.Connection[tuple[object, ...]], path: Path) -> None:
    connection.execute(
        "insert into supabase_migrations.seed_files (path, hash) values (%s, %s)"
        " on conflict (path) do update set hash = excluded.hash",
        _path_and_hash(path),
    )
