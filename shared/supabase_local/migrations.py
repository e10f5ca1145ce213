"""Applies the schemas of a new hosted project, then migrations and seeds, to a database.

This module writes the same history tables as `supabase db push`, which then finds no pending
migration.
"""

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import psycopg
from psycopg import sql as composed
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from supabase_local.config import Config
from supabase_local.logs import Say
from supabase_local.statements import split_statements

HOSTED = Path(__file__).with_name("hosted")
REALTIME_SCHEMA = Path(__file__).parent / "realtime" / "schema.sql"

# pattern of file names from the Supabase CLI:
# https://github.com/supabase/cli pkg/migration/{file,history}.go
FILE_NAME = re.compile(r"^(?P<version>[0-9]+)_(?P<name>.*)\.sql$")
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

# SQLSTATEs of an unknown function, table, type or schema, or of a feature that is missing in the
# replacement of an extension
MISSING = frozenset({"42883", "42P01", "42704", "3F000", "0A000"})

Connection = psycopg.Connection[tuple[object, ...]]
_CREATE_EXTENSION = re.compile(
    r"^\s*create\s+extension\s+(?:if\s+not\s+exists\s+)?\"?([\w-]+)", re.IGNORECASE | re.MULTILINE
)
# statements that `postgres` may run on a hosted project, although Postgres requires a superuser
_BY_SUPERUSER = re.compile(
    r"^\s*((create|alter|drop)\s+(event\s+trigger|foreign\s+data\s+wrapper)\b"
    r"|create\s+publication\b[^;]*\bfor\s+(all\s+tables|tables\s+in\s+schema)\b"
    r"|drop\s+publication\b)",
    re.IGNORECASE | re.MULTILINE,
)
# statements that Postgres rejects in a transaction, and that the Supabase CLI applies. The other
# statements of the file, before and after such a statement, run in separate transactions.
_NO_TRANSACTION = re.compile(
    r"^\s*((create\s+(unique\s+)?index|drop\s+index|reindex\b[^;]*?)\s+concurrently\b|vacuum\b)",
    re.IGNORECASE | re.MULTILINE,
)
# Hosted projects accepted `enable row level security` on Supabase's tables until 2025. The local
# tables have row level security, and `postgres` may not enable it.
_ALREADY_ON = re.compile(
    r"^\s*alter\s+table\s+(if\s+exists\s+)?(only\s+)?\"?(auth|storage|realtime)\"?\."
    r'"?\w+"?\s+enable\s+row\s+level\s+security\s*\Z',
    re.IGNORECASE | re.MULTILINE,
)


class MigrationFailed(Exception):
    """A file could not be applied. None of the file's changes remain in the database."""


class PartMissing(MigrationFailed):
    """A file needs a part of Supabase that the CLI's stack has and this package does not."""


def migrations_in(*folders: Path) -> list[Path]:
    """List the migrations in several folders, in the order of their execution."""
    paths = (path for folder in folders for path in folder.glob("*.sql") if path.is_file())
    files = (path for path in paths if FILE_NAME.match(path.name))
    return sorted(files, key=lambda path: path.name)


def version_of(migration: Path) -> str:
    """Return the version of a migration, which is the number at the start of its file name."""
    return migration.name.partition("_")[0]


def prepare_hosted(url: str, *, say: Say = lambda _: None) -> None:
    """Create all objects that a hosted project has before its first migration.

    Args:
        url: URL that connects as a superuser.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        _keep_silent(connection)
        applied = _applied_seeds(connection)
        files = [*sorted(HOSTED.glob("*.sql")), REALTIME_SCHEMA]
        pending = [path for path in files if applied.get(_base_name(path)) != _digest(path)]
        if pending:
            say("creating the schemas of a hosted project")
        for path in pending:
            with connection.transaction():
                _run(connection, path, _statements(path))
        with connection.transaction():
            # create the history tables as `postgres`, because the CLI writes them as this role
            connection.execute("set local role postgres")
            connection.execute(HISTORY)
            for path in files:
                _record_seed(connection, _base_name(path), path)


def set_project_owner(url: str, password: str) -> None:
    """Give the role `postgres` the superuser's password.

    `postgres` owns the migrations' objects.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            composed.SQL("alter role postgres password {}").format(composed.Literal(password))
        )


def apply_migrations(url: str, migrations: Iterable[Path]) -> list[Path]:
    """Apply pending migrations. Each file and its history row are applied in one transaction.

    If a file has a statement that must be outside of a transaction, the file is applied in parts.

    Args:
        url: URL that connects with the role that will own the objects, which is `postgres` as on a
            hosted project.

    Returns:
        The migrations that this call has applied, in order.

    Raises:
        MigrationFailed: A statement failed, an applied file was edited, or a pending file is older
            than the newest applied file. The CLI also rejects such a file.
    """
    paths = list(migrations)
    for one, other in itertools.pairwise(paths):
        if version_of(one) == version_of(other):
            raise MigrationFailed(
                f"{one.name} and {other.name} have the same version {version_of(one)}."
                " Give the newer file a later timestamp."
            )
    done: list[Path] = []
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
        for path in paths:
            version, _, name = path.stem.partition("_")
            statements = _statements(path)
            if version in recorded:
                if recorded[version] in (None, statements):
                    continue
                raise MigrationFailed(
                    f"{path.name} was edited after it was applied to this database. Put the change"
                    " into a new migration, or stop the stack and delete the folder .local to start"
                    " over."
                )
            if version < newest:
                raise MigrationFailed(
                    f"{path.name} is older than {newest}, which is applied. Give it a "
                    "later timestamp, or stop the stack and delete the folder .local to start over."
                )
            connection.execute("reset all")
            _keep_silent(connection)
            parts = _parts(_drop_redundant(statements))
            for part in parts:
                is_outside = any(map(_NO_TRANSACTION.search, part))
                with nullcontext() if is_outside else _file_transaction(connection, path):
                    _run(connection, path, part)
                    if part is parts[-1]:
                        connection.execute(
                            "insert into supabase_migrations.schema_migrations"
                            " (version, name, statements) values (%s, %s, %s)",
                            (version, name, statements),
                        )
            done.append(path)
        if done:
            connection.execute("notify pgrst, 'reload schema'")
    return done


def expose_new_tables(owner: str, config: Config) -> None:
    """Grant the Data API access to future tables of `public`, if the configuration requires it.

    Projects that were created before May 2026 have these default grants, so that their migrations
    do not contain them. The CLI also creates the grants.
    """
    if not config.exposes_new_tables:
        return
    with psycopg.connect(owner, autocommit=True) as connection:
        for kind in ("tables", "sequences", "functions"):
            connection.execute(
                "alter default privileges for role postgres in schema public"
                f" grant all on {kind} to anon, authenticated, service_role".encode()
            )


def apply_seed(url: str, path: Path, *, root: Path | None = None) -> bool:
    """Run a seed once.

    If the seed is edited later, the edit is recorded and not run, as in the CLI.

    Args:
        root: Folder of the project. A seed in this folder is recorded by its relative path, as in
            the CLI, and another seed by its file name.
    """
    if not path.exists():
        return False
    whole = path.resolve()
    inside = root is not None and whole.is_relative_to(root.resolve() / "supabase")
    name = whole.relative_to(root.resolve()).as_posix() if root and inside else path.name
    with psycopg.connect(url, autocommit=True) as connection:
        _keep_silent(connection)
        applied = _applied_seeds(connection)
        if applied.get(name) == _digest(path):
            return False
        with _file_transaction(connection, path):
            if name not in applied:
                _run(connection, path, _drop_redundant(_statements(path)))
            _record_seed(connection, name, path)
    return name not in applied


def as_owner(url: str) -> str:
    """Return a connection string with which `url` connects, and then acts as `postgres`."""
    parameters = conninfo_to_dict(url)
    options = f"{parameters.get('options', '')} -c role=postgres".strip()
    return make_conninfo(**{**parameters, "options": options})  # type: ignore[arg-type]


def _statements(path: Path) -> list[str]:
    try:
        return split_statements(path.read_text("utf-8-sig"))  # like psql, skip a byte order mark
    except UnicodeDecodeError as error:
        raise MigrationFailed(f"{path.name} must be UTF-8: {error}") from error


def _drop_redundant(statements: list[str]) -> list[str]:
    return [statement for statement in statements if not _ALREADY_ON.search(statement)]


def _parts(statements: list[str]) -> list[list[str]]:
    """Group statements into transactions, and into statements that run outside of a transaction."""
    groups = itertools.groupby(statements, lambda text: bool(_NO_TRANSACTION.search(text)))
    return [list(group) for _, group in groups] or [[]]


def _run(connection: Connection, path: Path, statements: list[str]) -> None:
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
def _file_transaction(connection: Connection, path: Path) -> Iterator[None]:
    """Yield a transaction for one file. An error names the part that the local Supabase lacks."""
    try:
        with connection.transaction():
            yield
    except MigrationFailed as failed:
        cause = failed.__cause__
        if not (isinstance(cause, psycopg.Error) and cause.sqlstate in MISSING):
            raise
        names = ", ".join(_skipped_extensions(connection, path))
        lacking = (
            f"The local Supabase skipped `create extension` of {names}, because it lacks that"
            " extension. `supabase start` has it."
            if names
            else "The local Supabase may lack this part of Supabase. `supabase start` has it."
        )
        raise PartMissing(f"{failed}\n{lacking}") from cause


def _skipped_extensions(connection: Connection, path: Path) -> list[str]:
    """Return the unavailable extensions that the file `path` or an earlier file creates."""
    rows = connection.execute(
        "select array_to_string(statements, e'\n') from supabase_migrations.schema_migrations"
    )
    texts = [path.read_text("utf-8-sig"), *(str(row[0]) for row in rows)]
    created = {name for text in texts for name in _CREATE_EXTENSION.findall(text)}
    here = connection.execute("select name from pg_available_extensions")
    return sorted(created - {str(name) for (name,) in here})


def _execute(connection: Connection, statement: str) -> None:
    # pass no parameters, so that percent signs in the statement are not interpreted
    if _BY_SUPERUSER.search(statement):
        connection.execute("set role none")
        connection.execute(statement.encode())
        connection.execute("reset role")
        return
    if not _CREATE_EXTENSION.search(statement):
        connection.execute(statement.encode())
        return
    # Ignore an extension that exists, because the dashboard may have created it. Ignore an
    # unavailable extension, because a statement that uses it will fail.
    refused = (psycopg.errors.DuplicateObject, psycopg.errors.FeatureNotSupported)
    with suppress(*refused), connection.transaction():
        connection.execute(statement.encode())


def _keep_silent(connection: Connection) -> None:
    connection.execute("set client_min_messages = warning")


def _applied_seeds(connection: Connection) -> dict[str, str]:
    try:
        rows = connection.execute("select path, hash from supabase_migrations.seed_files")
    except psycopg.errors.UndefinedTable:  # in a new database
        return {}
    return {str(path): str(digest) for path, digest in rows}


def _base_name(path: Path) -> str:
    """Return the name of a file of `hosted/` in the history table."""
    return f"{path.parent.name}/{path.name}"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _record_seed(connection: Connection, name: str, path: Path) -> None:
    connection.execute(
        "insert into supabase_migrations.seed_files (path, hash) values (%s, %s)"
        " on conflict (path) do update set hash = excluded.hash",
        (name, _digest(path)),
    )
