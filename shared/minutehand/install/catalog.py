"""What a release leaves in a database, recorded when it is made, and what of it differs there.

The record has the engine and the apps of this package apart, for a project may have taken one out.

The record travels in the wheel; a checkout makes one when it builds a database of its present text.
Nothing is read from the database about what should be in it.
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
#: Of a checkout, what is recorded.
SCHEMAS, SCHEMAS_OF_APPS = "supabase/schemas", "shared/minutehand/*/schemas"
#: The part of the record that every project has.
ENGINE = "minutehand"
#: How the record names the role that owns the engine.
OWNER = "{owner}"
_ROLES = "select rolname from pg_catalog.pg_roles"
_OWNER = "select nspowner::regrole::text from pg_catalog.pg_namespace where nspname = %s"
#: What a database of one's own need not have; a hosted project does.
_OPTIONAL = "authenticator"


class Fact(NamedTuple):
    """One statement that is true of a database, with what it is about and what takes it back."""

    object: str
    statement: str
    undo: str | None


class Drift(NamedTuple):
    """What differs from the record, and the statement that mends it."""

    detail: str
    fix: str


def read_facts(session: Any, schemas: Schemas) -> list[Fact]:
    """Read the facts of a database through a psycopg connection of its owner."""
    with session.transaction():
        session.execute(b"set local search_path = ''")
        query = rewrite(QUERY.read_text("utf-8"), schemas)
        return [Fact(*row) for row in session.execute(query.encode()).fetchall()]


def record_file(root: Path | None = None) -> Path:
    """Where the record is, or is to be: by the text that it records where that may change."""
    root = root or checkout()
    if root is None:
        return resource("record") / NAME
    files = sorted([*root.glob(f"{SCHEMAS}/*.sql"), *root.glob(f"{SCHEMAS_OF_APPS}/*.sql")])
    texts = [QUERY.read_bytes(), *(path.read_bytes() for path in files)]
    digest = hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]
    return root / ".local" / "record" / f"{digest}.json"


def keep_record(session: Any, path: Path, part: str) -> None:
    """Record what a part has just added to a database, in the schemas of the source."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known: dict[str, list[Any]] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    known.pop(part, None)
    before = {tuple(fact) for facts in known.values() for fact in facts}
    known[part] = [fact for fact in read_facts(session, Schemas()) if fact not in before]
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(known, ensure_ascii=False, indent=0), "utf-8")
    new.replace(path)  # another process may read or write it


def recorded_facts(schemas: Schemas, apps: Iterable[App]) -> list[Fact] | None:
    """Read the record of the engine and of some apps; None where this copy has none."""
    path = record_file()
    if not path.exists():
        return None
    parts: dict[str, list[list[str | None]]] = json.loads(path.read_text("utf-8"))
    return [
        Fact(*(None if word is None else rewrite(word, schemas) for word in row))  # type: ignore[arg-type]
        for part in (ENGINE, *(app.name for app in apps))
        for row in parts.get(part, ())
    ]


def find_drifts(session: Any, schemas: Schemas, recorded: list[Fact]) -> list[Drift]:
    """Compare a database with the record.

    What is not recorded is a difference only where it gives more than was recorded of the same
    object: another grant, policy or role. Whatever else a project added is its own.
    """
    roles = {name for (name,) in session.execute(_ROLES).fetchall()}
    [(owner,)] = session.execute(_OWNER, (schemas.engine,)).fetchall()
    wanted = {
        fact.statement: fact
        for fact in recorded
        if _OPTIONAL in roles or _OPTIONAL not in fact.statement
    }
    now = {fact.statement: fact for fact in read_facts(session, schemas)}
    objects = {fact.object for fact in wanted.values()}
    undone = [
        Drift(f"undone: {_first_line(each)}", each.replace(OWNER, owner))
        for each in wanted
        if each not in now
    ]
    added = [
        Drift(f"not by the release: {each.statement}", each.undo.replace(OWNER, owner))
        for each in now.values()
        if each.undo and each.statement not in wanted and each.object in objects
    ]
    # what is in the way goes first, as a policy that was altered; what is made again comes before
    # what is granted on it
    return added + sorted(undone, key=lambda each: not each.fix.startswith("CREATE"))


def _first_line(statement: str) -> str:
    return statement.partition("\n")[0]
