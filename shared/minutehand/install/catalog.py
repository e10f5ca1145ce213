"""Records the database objects of a release, and compares a database with the record.

The record has a part for the engine and one for each app of Minutehand, because a project may leave
out an app. Minutehand's wheel contains the record. In a checkout, the code that builds a database
from the SQL sources writes the record. The record never comes from the database that is compared.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from minutehand.app import App
from minutehand.install.rewrite import Schemas, rewrite
from minutehand.resources import checkout, resource

QUERY = Path(__file__).with_name("catalog.sql")
NAME = "facts.json"
#: Paths in a checkout of the folders with the SQL sources of the engine and of the apps.
SCHEMAS, SCHEMAS_OF_APPS = "supabase/schemas", "shared/minutehand/*/schemas"
#: Name of the record's part for the engine, which every project has.
ENGINE = "minutehand"
#: Placeholder in the record for the database role that owns the engine.
OWNER = "{owner}"
#: Query of all roles, and of whether the engine's owner may act as the role.
_ROLES = "select rolname, pg_has_role(%s::regrole, oid, 'member') from pg_roles"
_OWNER = """
    select (mode() within group (order by c.relowner))::regrole::text
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = %s
"""
#: Ranks of the statements that create a function, set an owner and grant rights.
FUNCTION, OWNERSHIP, RIGHTS = 4, 10, 11
#: Ranks of the statements that create a table with its columns and constraints.
_TABLE = (2, 3, 7)
#: Ranks of the statements that set a column's default or `not null`, and add constraints and
#: indexes.
_RULES = (6, 7)
#: Prefix of a catalog entry for the row of a setting, whose value people may change.
_SETTING = "setting "
#: Ranks of functions and views. `create or replace` cannot change a view's columns or a function's
#: parameters and result, so that the old object must be dropped first.
_VIEW = 5
_REPLACED = (FUNCTION, _VIEW)
#: Formats of the SQL names of an object and of a part such as a column, by a pattern of the
#: statement that creates them.
_KINDS = {
    r"CREATE OR REPLACE FUNCTION \w+\.(\w+)\(": ("function {object}", ""),
    r"create or replace view \w+\.(\w+) ": ("view {object}", ""),
    r"alter type \w+\.(\w+) add ": ("type {object}", ""),
    r"create sequence if not exists \w+\.(\w+)": ("sequence {object}", ""),
    r"alter table \S+ add column if not exists (\S+) ": ("table {object}", "column {old} "),
    r"alter table \S+ add constraint (\S+) ": ("table {object}", "constraint {old} "),
    r"CREATE (?:UNIQUE )?INDEX (\S+) ": ("index {schema}.{old}", ""),
    r"CREATE (?:CONSTRAINT )?TRIGGER (\".+?\"|\S+) ": ("trigger {old} on {object}", ""),
    r"create policy (\".+?\"|\S+) on": ("policy {old} on {object}", ""),
}
#: Queries of the rows that break a rule, by the pattern of the statement that creates the rule.
_BREAKING = {
    r"alter table (\S+) alter column (\S+) set not null": "select * from {0} where {1} is null",
    r"alter table (\S+) add constraint \S+ CHECK (.+)": "select * from {0} where not {1}",
    r"alter table (\S+) add constraint \S+ (?:UNIQUE|PRIMARY KEY) \((.+)\)": (
        "select {1}, count(*) from {0} where num_nulls({1}) = 0 group by {1} having count(*) > 1"
    ),
    r"alter table (\S+) add constraint \S+ FOREIGN KEY \((.+?)\) REFERENCES (\S+?)\((.+?)\)": (
        "select * from {0} where ({1}) not in (select {3} from {2})"
    ),
}
_DEFAULT = re.compile(r"(alter table \S+ alter column \S+) set (default|not null)")
#: Pattern of a statement that adds a column with a default or a generated value.
_FILLED = re.compile(r" add column .+ (?:default|generated) ")
_OWNED = re.compile(r"alter (.+) owner to (.+)", re.DOTALL)
_COLUMN_RIGHT = re.compile(r"grant \w+ \(")
#: Database role of hosted Supabase projects, which may be missing in other databases.
_OPTIONAL = "authenticator"
_COLUMN = re.compile(r"alter table (\S+) add column if not exists (\S+) ")
#: Pattern of the statements with which a project may extend Minutehand's tables of tenants.
_EXTENSION = re.compile(
    r"grant .+ to (?!anon|public)|create policy (?!.* using \(true\))|CREATE (?!RULE)"
    r"|alter table \S+ (?:add|alter) "
)
#: Pattern of an index that makes no insert fail. An invalid index only costs time.
_HARMLESS_INDEX = re.compile(r"CREATE INDEX .*(?<!-- invalid)$")
#: Query of the statement that restores the worker's role, which all functions of workers allow.
_WORKER = """
    select case count(r.oid)
      when 0 then 'create role job_worker nologin noinherit'
      else format('alter role %%I rename to job_worker', min(r.rolname))
    end
    from pg_proc as p
    cross join lateral aclexplode(p.proacl) as a
    join pg_roles as r
      on r.oid = a.grantee
        and r.oid <> p.proowner
        and r.rolname not in ('anon', 'authenticated', 'service_role')
    where p.pronamespace = %s::regnamespace and p.proname = 'lease_jobs'
    having to_regrole('job_worker') is null
"""
#: Query of the tables from which someone has dropped a column.
_SHORTENED = """
    select distinct a.attrelid::regclass::text from pg_attribute as a
    join pg_class as c on c.oid = a.attrelid
    where a.attisdropped and c.relkind = 'r'
"""
#: Pattern of the statements in the project's SQL of its tenants, with the name of a new object.
_TENANCY = re.compile(
    r"^((?:create (?:or replace )?(?:view|trigger) (\S+)|revoke|grant|comment)\b[^;]*)",
    re.MULTILINE,
)
_VIEWS_AND_TRIGGERS = """
    select concat(relnamespace::regnamespace, '.', relname) from pg_class
    union select tgname from pg_trigger
"""
_TABLES = """
    select quote_ident(n.nspname), quote_ident(c.relname), array_agg(quote_ident(a.attname)::text)
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    join pg_attribute as a
      on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relkind = 'r' and n.nspname !~ '^pg_'
    group by n.nspname, c.relname
"""


class CatalogEntry(NamedTuple):
    """An SQL statement that describes a database object, and a statement that reverts it."""

    #: Position in the order of all statements. For example, a table is created before its index.
    rank: int
    object: str
    statement: str
    undo: str | None
    #: True if a project may change the object, so that the object is compared only between two
    #: releases.
    is_editable: bool = False

    @property
    def key(self) -> str:
        """Text that comparisons use: the entry's statement, or for a setting only its name."""
        return self.object if self.object.startswith(_SETTING) else self.statement


class Drift(NamedTuple):
    """A difference between a database and the record, and the statement that fixes it."""

    detail: str
    fix: str


def read_catalog(session: Any, schemas: Schemas) -> list[CatalogEntry]:
    """Read the objects and settings of a database over a psycopg connection of its owner."""
    with session.transaction():
        session.execute(b"set local search_path = ''")
        query = rewrite(QUERY.read_text("utf-8"), schemas)
        return [CatalogEntry(*row) for row in session.execute(query.encode()).fetchall()]


def record_file(root: Path | None = None) -> Path:
    """Return the path of the record, which in a checkout contains a hash of the SQL sources."""
    root = root or checkout()
    if root is None:
        return resource("record") / NAME
    files = sorted([*root.glob(f"{SCHEMAS}/*.sql"), *root.glob(f"{SCHEMAS_OF_APPS}/*.sql")])
    contents = [QUERY.read_bytes(), *(path.read_bytes() for path in files)]
    digest = hashlib.sha256(b"\0".join(contents)).hexdigest()[:16]
    return root / ".local" / "record" / f"{digest}.json"


def record_catalog(session: Any, path: Path, part: str) -> None:
    """Record the objects that a part (the engine or an app) has added to a database."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record: dict[str, list[Any]] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    record.pop(part, None)
    known = {tuple(entry) for entries in record.values() for entry in entries}
    entries = (entry[:4] for entry in read_catalog(session, Schemas()) if not entry.is_editable)
    record[part] = [entry for entry in entries if entry not in known]
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(record, ensure_ascii=False, indent=0), "utf-8")
    new.replace(path)  # replace the file in one step, because another process may read it


def read_record(schemas: Schemas, apps: Iterable[App]) -> list[CatalogEntry] | None:
    """Read from the record the objects of the engine and of `apps`.

    Return None without a record.
    """
    path = record_file()
    if not path.exists():
        return None
    parts: dict[str, list[list[Any]]] = json.loads(path.read_text("utf-8"))
    return [
        CatalogEntry(
            rank,
            rewrite(name, schemas),
            rewrite(statement, schemas),
            undo and rewrite(undo, schemas),
        )
        for part in (ENGINE, *(app.name for app in apps))
        for rank, name, statement, undo in parts.get(part, ())
    ]


def find_drifts(
    session: Any, schemas: Schemas, record: list[CatalogEntry], tenancy: str = ""
) -> list[Drift]:
    """Compare a database with the record, and return fixes in an order in which they can run.

    `tenancy` is the SQL with which the project's migration replaced the views of tenants.

    During the comparison, objects that someone has renamed get their recorded names back, in a
    transaction that is rolled back, because other objects depend on these names.

    An object that the record does not contain is a drift in three cases. First, the object is a
    grant, a policy, a rule or a role of a recorded object. Second, the object is an overload of a
    recorded function. Third, the object is a constraint, a unique index or a `not null` of a
    recorded table, or another part of the engine's tables, except a plain index or a column that
    inserts may omit. A project may add all other objects to its database. To the tables of tenants
    a project may also add policies and rights of signed-in people.
    """
    [(owner,)] = session.execute(_OWNER, (schemas.engine,)).fetchall()
    roles = dict(session.execute(_ROLES, (owner,)).fetchall())
    expected = {
        entry.key: entry
        for entry in record
        if _OPTIONAL in roles or _OPTIONAL not in entry.statement
    }
    with session.transaction(force_rollback=True):
        workers = session.execute(_WORKER, (schemas.clients,)).fetchall()
        for (statement,) in workers:
            session.execute(statement.encode())
        repairs = [_drift("missing or renamed", each, each) for (each,) in workers]
        repairs += _restore_tables(session, schemas, record, tenancy)
        actual = {entry.key: entry for entry in read_catalog(session, schemas)}
        if renamed := _find_renames(session, expected, actual):
            for item in renamed:
                session.execute(item.fix.encode())
            actual = {entry.key: entry for entry in read_catalog(session, schemas)}
        # Minutehand's tables and views of tenants, which a project may extend or replace by tables
        # and views of the same names
        tenants = {f"{schemas.clients}.{name}" for name in ("workspaces", "workspace_members")}
        tenants |= {f"{schemas.engine}.{name}" for name in ("tenants", "tenant_members")}
        of_tenants = {key for key, entry in expected.items() if entry.object in tenants}
        # tables without the release's indexes and triggers belong to the project
        if not any(key in actual for key in of_tenants if key.startswith("CREATE ")):
            expected = {key: entry for key, entry in expected.items() if key not in of_tenants}
            expected |= {
                entry.key: entry
                for entry in _replay_tenancy(session, schemas, tenancy)
                if entry.object in tenants or entry.key not in actual
            }
    existing = {entry.object for entry in actual.values()}
    objects = {schemas.engine, *(entry.object for entry in expected.values())}
    missing = {key: entry for key, entry in expected.items() if key not in actual}
    unexpected = {key: entry for key, entry in actual.items() if key not in expected}
    drops = {drop: entry for entry in actual.values() if (drop := _drop(entry))}
    dropped = {
        key: drop
        for key, entry in missing.items()
        if (drop := _drop(entry)) in drops
        and (entry.rank not in _REPLACED or _head(entry) != _head(drops[drop]))
    }
    # Drop a function or view of another user, because only that user may change the owner. The
    # schema's owner may drop it. Other objects have rows, and only their owner may change them.
    taken = {
        entry.object: match[2]
        for entry in unexpected.values()
        if (match := _OWNED.match(entry.statement)) and not roles.get(match[2].strip('"'), True)
    }
    dropped |= {
        key: _drop(entry)
        for key, entry in expected.items()
        if entry.rank in _REPLACED and entry.object in taken
    }
    # if a fix drops a function or view, fixes must also restore the object's other entries;
    # `create or replace view` resets a view's options
    recreated = {
        entry.object
        for key, entry in expected.items()
        if (entry.rank in _REPLACED and key in dropped) or (entry.rank == _VIEW and key in missing)
    }

    def drift(difference: str, entry: CatalogEntry, fix: str) -> Drift:
        is_dropped = entry.object in recreated or entry.rank in _REPLACED
        if not is_dropped and entry.object in taken:  # only the other owner may run the fix
            support = "the owner; if the project is hosted, ask Supabase's support:"
            lines = fix.replace("\n", "\n-- ")
            fix = f"-- as {taken[entry.object]}, {support}\n-- {lines}"
        return _drift(difference, entry.statement, fix)

    # repeat all grants on an object with a wrong owner, because a new owner loses some grants
    owned = {entry.object for entry in missing.values() if entry.rank == OWNERSHIP}
    function_names = {f.object.partition("(")[0] for f in expected.values() if f.rank == FUNCTION}
    columns = {match[0] for match in map(_COLUMN.match, expected) if match}
    # columns that the project has added, and whether they have a default, so that the engine's
    # inserts may omit them
    added_columns = {
        "alter table {} alter column {}".format(*match.groups()): bool(_FILLED.search(key))
        for key in actual
        if (match := _COLUMN.match(key)) and match[0] not in columns
    }

    # statements that remove the changed form of an object of the release
    replaced = {entry.undo or _drop(entry) for entry in missing.values()} - {""}

    def revert_statement(entry: CatalogEntry) -> str | None:
        if entry.rank == FUNCTION and entry.object not in objects:
            # an overload of a recorded function is a drift, because the Data API rejects each call
            # of an overloaded function
            return _drop(entry) if entry.object.partition("(")[0] in function_names else None
        granted = entry.statement.removesuffix(" with grant option")
        if entry.undo and granted != entry.statement and granted not in expected:
            return entry.undo.replace("grant option for ", "")
        is_extension = (
            entry.object in tenants
            and entry.object.startswith(f"{schemas.clients}.")
            and _EXTENSION.match(entry.statement)
        )
        if is_extension and (entry.undo or _drop(entry)) not in replaced:
            return None
        is_part = entry.rank in _RULES or (
            entry.rank not in _REPLACED and entry.object.startswith(f"{schemas.engine}.")
        )
        is_omitted = added_columns.get(entry.statement.partition(" set ")[0])
        if is_omitted or _HARMLESS_INDEX.match(entry.statement):
            is_part = False
        drop = _drop(entry) if is_part else None
        is_own = drop in dropped.values() or (is_omitted is not None and entry.undo)
        return None if is_own else entry.undo or drop

    added = [
        entry._replace(undo=revert_statement(entry))
        for entry in unexpected.values()
        if entry.object in objects or entry.rank == FUNCTION
    ]
    # repeat grants on columns, because a fix that revokes a right on the table also revokes it on
    # columns
    revoked = {entry.object for entry in added if entry.undo and entry.rank == RIGHTS}
    restored = [
        _find_rows(session, entry)
        or drift(
            "missing or changed",
            entry,
            ";\n".join(filter(None, (dropped.get(key), _fix(entry, existing - recreated, actual)))),
        )
        for key, entry in sorted(expected.items(), key=lambda item: item[1].rank)  # stable
        if key in missing
        or entry.object in recreated
        or (entry.rank == RIGHTS and entry.object in owned)
        or (entry.object in revoked and _COLUMN_RIGHT.match(entry.statement))
    ]
    # Replace the functions that use a new type or table, because a session that has called such a
    # function continues to use the old type until the function's row in pg_proc changes.
    created = {each.fix for each in repairs}
    new = [
        entry.object
        for key, entry in expected.items()
        if entry.rank in (1, 2) and (key in missing or entry.statement in created)
    ]
    restored += [
        drift("uses a missing type", entry, entry.statement)
        for key, entry in expected.items()
        if entry.rank == FUNCTION
        and key not in missing
        and any(name in entry.statement for name in new)
    ]
    undone = (drift("not in the release", f, f.undo) for f in added if f.undo)
    # remove unexpected objects first, because for example an altered policy is dropped, then
    # created
    return [
        Drift(item.detail.replace(OWNER, owner), item.fix.replace(OWNER, owner))
        for item in (*repairs, *renamed, *undone, *restored)
    ]


def _restore_tables(
    session: Any, schemas: Schemas, record: list[CatalogEntry], tenancy: str
) -> list[Drift]:
    """Rename tables back, and create missing tables with rows and missing views of tenants.

    Return these statements as fixes.
    """
    columns: dict[str, set[str]] = {}
    for match in filter(None, (_COLUMN.match(entry.statement) for entry in record)):
        columns.setdefault(match[1], set()).add(match[2])
    tables = {
        f"{schema}.{name}": (schema, name, set(names))
        for schema, name, names in session.execute(_TABLES.encode()).fetchall()
    }
    similar: dict[str, list[str]] = {}
    for table in sorted(columns.keys() - tables.keys()):
        schema, _, name = table.partition(".")
        similar[table] = [
            each
            for each in tables.keys() - columns.keys()
            if columns[table] == tables[each][2]
            # ignore a table in another schema with another name, because it may be the project's
            # own
            and (tables[each][0] == schema or tables[each][1] == name)
        ]
    statements = []
    for table, candidates in similar.items():
        schema, _, name = table.partition(".")
        if len(candidates) == 1 and [*similar.values()].count(candidates) == 1:
            old_schema, old, _ = tables[candidates[0]]
            if old != name:
                statements.append(f"alter table {old_schema}.{old} rename to {name}")
            if old_schema != schema:
                statements.append(f"alter table {old_schema}.{name} set schema {schema}")
        elif table in (f"{schemas.engine}.settings", f"{schemas.engine}.tasks"):
            rows = f"{table.rpartition('.')[2].removesuffix('s')} "
            statements += [
                entry.statement
                for entry in sorted(record)
                if (entry.object == table and entry.rank in _TABLE) or entry.object.startswith(rows)
            ]
    present = {name for (name,) in session.execute(_VIEWS_AND_TRIGGERS).fetchall()}
    for statement, name in _TENANCY.findall(tenancy):
        # a new view also needs its grants and comments, which have no name here
        if name not in present and (name or statements):
            statements.append(statement)
    for statement in statements:
        session.execute(statement.encode())
    return [_drift("missing or changed", each, each) for each in statements]


def _replay_tenancy(session: Any, schemas: Schemas, tenancy: str) -> list[CatalogEntry]:
    """Return the entries that the project's SQL of its tenants creates, without definitions.

    A project may change the definitions of its views. If it has added a column, Postgres does not
    replace the view, so that the view's entries stay as they are.
    """
    with session.transaction(force_rollback=True):
        for statement, _ in _TENANCY.findall(tenancy):
            replacing = re.sub("^create (or replace )?", "create or replace ", statement)
            with suppress(psycopg.Error), session.transaction():
                session.execute(replacing.encode())
        return [
            entry
            for entry in read_catalog(session, schemas)
            if entry.rank > _VIEW
            and not entry.is_editable
            # the project's SQL grants no rights on the engine's views
            and (entry.rank != RIGHTS or not entry.object.startswith(f"{schemas.engine}."))
        ]


def _find_renames(
    session: Any, expected: dict[str, CatalogEntry], actual: dict[str, CatalogEntry]
) -> list[Drift]:
    """Find each missing object that exists under another name.

    A missing object counts as renamed only if exactly one unexpected object matches it, and the
    unexpected object matches no other missing object. A column does not count as renamed if its
    table has lost a column, because the unexpected column may be the project's own.
    """
    drifts: dict[tuple[str, str], list[Drift]] = {}
    shortened = {table for (table,) in session.execute(_SHORTENED.encode()).fetchall()}
    present = {entry.object for entry in actual.values()}
    unexpected = [entry for key, entry in actual.items() if key not in expected]
    for key, entry in expected.items():
        for pattern in () if key in actual else _KINDS:
            if (match := re.match(pattern, entry.statement)) is None:
                continue
            if "add column" in pattern and entry.object in shortened:
                continue
            if entry.rank in _REPLACED and entry.object in present:
                continue  # another function or view has taken the name
            start, end = match.span(1)
            candidates = [
                (other, found[1])
                for other in unexpected
                if (found := re.match(pattern, other.statement))
                and found.start(1) == start
                and other.statement[:start] == entry.statement[:start]
                and other.statement[found.end(1) :] == entry.statement[end:]
            ]
            if len(candidates) == 1:
                [(other, old)] = candidates
                subject, part = _name_object(other, pattern, old)
                rename = f"alter {subject} rename {part}to {match[1]}"
                drift = _drift(f"renamed to {old}", entry.statement, rename)
                drifts.setdefault((other.object, old), []).append(drift)
    return [claims[0] for claims in drifts.values() if len(claims) == 1]


def _find_rows(session: Any, entry: CatalogEntry) -> Drift | None:
    """Find the rows that break a missing rule, which no statement can restore before they change.

    The fix is the query of these rows.
    """
    for pattern, text in _BREAKING.items():
        if match := re.match(pattern, entry.statement):
            query = text.format(*match.groups())
            try:
                with session.transaction():
                    [(count,)] = session.execute(
                        f"select count(*) from ({query}) as r".encode()
                    ).fetchall()
            except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable):
                return None  # another fix restores the column or table
            if count:
                again = "/* correct these rows, then run minutehand doctor again */"
                return _drift(f"{count} rows break", entry.statement, f"{query} {again}")
    return None


def _drop(entry: CatalogEntry) -> str:
    """Return the statement that drops the entry's object or part, or "" if there is none."""
    if match := _DEFAULT.match(entry.statement):
        return f"{match[1]} drop {match[2]}"
    # drop no type, sequence or column, which other fixes alter, and no policy, whose entry has
    # `undo`
    for pattern in () if entry.undo or entry.rank in (1, 3) else _KINDS:
        if match := re.match(pattern, entry.statement):
            subject, part = _name_object(entry, pattern, match[1])
            return f"alter {subject} drop {part}".rstrip() if part else f"drop {subject}"
    return ""


def _name_object(entry: CatalogEntry, pattern: str, name: str) -> list[str]:
    """Return the SQL names of an entry's object and of the part that the entry describes."""
    schema = entry.object.partition(".")[0]
    return [text.format(object=entry.object, schema=schema, old=name) for text in _KINDS[pattern]]


def _head(entry: CatalogEntry) -> str:
    """Return a function's arguments and result, or a view's columns, from the statement."""
    return re.split(r"\n LANGUAGE |\) with | as\n", entry.statement)[0]


def _fix(entry: CatalogEntry, existing: set[str], actual: Iterable[str]) -> str:
    """Return SQL that restores an entry. For a new object, also revoke Postgres's default rights.

    Grant all rights to a corrected owner, who takes over the wrong owner's rights, because some of
    these may have been revoked.
    """
    column = _COLUMN.match(entry.statement) if " generated " in entry.statement else None
    # form in the database of a column that the release generates in another way
    present = column and next((key for key in actual if key.startswith(column[0])), None)
    if column and present:
        table, name = column.groups()
        if not entry.statement.endswith(" as identity"):
            return f"alter table {table} drop column {name};\n{entry.statement}"
        if present.endswith(" as identity"):
            return f"alter table {table} alter column {name} set generated always"
        sequence = f"pg_get_serial_sequence('{table}', '{name}')"
        return (
            f"alter table {table} alter column {name} add generated always as identity;\n"
            f"select setval({sequence}, greatest(max({name}), 1)) from {table}"
        )
    if owned := _OWNED.match(entry.statement):
        return f"{entry.statement};\ngrant all on {owned[1]} to {owned[2]}"
    kind = {2: "table", FUNCTION: "function", 5: "table"}.get(entry.rank)
    if kind is None or entry.object in existing:
        return entry.statement
    roles = "public, anon, authenticated, service_role"
    return f"{entry.statement};\nrevoke all on {kind} {entry.object} from {roles}"


def _drift(difference: str, statement: str, fix: str) -> Drift:
    return Drift(f"{difference}: {statement.splitlines()[0]}", fix)
