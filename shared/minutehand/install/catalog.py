"""A record of the database objects of a release, and their comparison with a database.

The record has a part for the engine and for each app of this package, because a project may leave
out an app. It is shipped in the wheel. A checkout writes a record when it builds a database from
its sources. The database itself is never asked for the expected objects.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from minutehand.app import App
from minutehand.install.rewrite import Schemas, rewrite
from minutehand.resources import checkout, resource

QUERY = Path(__file__).with_name("catalog.sql")
NAME = "facts.json"
#: Folders of a checkout with the recorded SQL, of the engine and of the apps.
SCHEMAS, SCHEMAS_OF_APPS = "supabase/schemas", "shared/minutehand/*/schemas"
#: The part of the record that every project has.
ENGINE = "minutehand"
#: Placeholder in the record for the role that owns the engine.
OWNER = "{owner}"
_ROLES = "select rolname from pg_catalog.pg_roles"
_OWNER = "select nspowner::regrole::text from pg_catalog.pg_namespace where nspname = %s"
#: Role of a hosted project that another database may lack.
_OPTIONAL = "authenticator"


class CatalogFact(NamedTuple):
    """A statement that describes a database object, and the statement that reverts it."""

    object: str
    statement: str
    undo: str | None


class Drift(NamedTuple):
    """A difference from the record, and the statement that fixes it."""

    detail: str
    fix: str


def read_facts(session: Any, schemas: Schemas) -> list[CatalogFact]:
    """Read the facts of a database through a psycopg connection of its owner."""
    with session.transaction():
        session.execute(b"set local search_path = ''")
        query = rewrite(QUERY.read_text("utf-8"), schemas)
        return [CatalogFact(*row) for row in session.execute(query.encode()).fetchall()]


def record_file(root: Path | None = None) -> Path:
    """Return the record's path, which in a checkout contains a hash of the recorded SQL."""
    root = root or checkout()
    if root is None:
        return resource("record") / NAME
    files = sorted([*root.glob(f"{SCHEMAS}/*.sql"), *root.glob(f"{SCHEMAS_OF_APPS}/*.sql")])
    texts = [QUERY.read_bytes(), *(path.read_bytes() for path in files)]
    digest = hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]
    return root / ".local" / "record" / f"{digest}.json"


def record_catalog(session: Any, path: Path, part: str) -> None:
    """Record the facts that a part added to a database with the schema names of the source."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record: dict[str, list[Any]] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    record.pop(part, None)
    recorded = {tuple(fact) for facts in record.values() for fact in facts}
    record[part] = [fact for fact in read_facts(session, Schemas()) if fact not in recorded]
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(record, ensure_ascii=False, indent=0), "utf-8")
    new.replace(path)  # atomically, because another process may read or write the record


def recorded_facts(schemas: Schemas, apps: Iterable[App]) -> list[CatalogFact] | None:
    """Read the record of the engine and of some apps; return None if this copy has no record."""
    path = record_file()
    if not path.exists():
        return None
    parts: dict[str, list[list[str | None]]] = json.loads(path.read_text("utf-8"))
    return [
        CatalogFact(*(None if word is None else rewrite(word, schemas) for word in row))  # type: ignore[arg-type]
        for part in (ENGINE, *(app.name for app in apps))
        for row in parts.get(part, ())
    ]


def find_drifts(session: Any, schemas: Schemas, recorded: list[CatalogFact]) -> list[Drift]:
    """Compare a database with the record.

    A fact that is not recorded is a drift only if it adds a grant, a policy or a role to a recorded
    object. Other additions belong to the project.
    """
    roles = {name for (name,) in session.execute(_ROLES).fetchall()}
    [(owner,)] = session.execute(_OWNER, (schemas.engine,)).fetchall()
    expected = {
        fact.statement: fact
        for fact in recorded
        if _OPTIONAL in roles or _OPTIONAL not in fact.statement
    }
    actual = {fact.statement: fact for fact in read_facts(session, schemas)}
    objects = {fact.object for fact in expected.values()}
    missing = [
        Drift(f"undone: {_first_line(statement)}", statement.replace(OWNER, owner))
        for statement in expected
        if statement not in actual
    ]
    added = [
        Drift(f"not by the release: {fact.statement}", fact.undo.replace(OWNER, owner))
        for fact in actual.values()
        if fact.undo and fact.statement not in expected and fact.object in objects
    ]
    # drop unexpected objects first, e.g. an altered policy, then create missing objects, then
    # grant rights on them
    return added + sorted(missing, key=lambda drift: not drift.fix.startswith("CREATE"))


def _first_line(statement: str) -> str:
    return statement.partition("\n")[0]
