"""Generates SQL that upgrades a database from the last release to the current sources.

A catalog entry is a statement that describes a database object. This module compares the catalog
entries of a database of the last release and of a database of the current sources. The module
generates statements for functions, views, triggers, policies, rights, comments and new columns, and
for new or deleted objects. For other changes of existing tables, types or rows, a person writes SQL
statements (a step).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from infra.release.texts import Piece, without_comments
from minutehand.install.catalog import RIGHTS, CatalogEntry

#: Objects that a project may have replaced by its own objects, so that a release must not change
#: them.
EDITABLE = frozenset(
    {"queue.tenants", "queue.tenant_members", "public.workspaces", "public.workspace_members"}
)
#: Kinds of objects that the migration creates again from the current sources if they have changed.
_RECREATED = frozenset({"function", "view", "trigger", "comment"})
#: Kinds of objects that the migration creates from the current sources if they are new. A person
#: writes a step that changes existing objects of these kinds.
_CREATED = frozenset({"table", "type", "sequence"})
#: Kinds of objects in the order in which the migration drops them.
_DROPPED = ("trigger", "view", "table", "function", "type", "sequence")
#: Ranks of triggers, policies, rights and comments, which a release may change on any object.
_ADDITIONS = frozenset({8, 9, RIGHTS, 20})
#: A new column that has no default or a constant default. Postgres adds such a column without
#: writing the rows of the table.
_COLUMN = re.compile(
    r"alter table (\S+) add column if not exists (\S+) (?:(?! default | generated ).)+"
    r"(?P<default> default [^(]+)?"
)
_KIND = re.compile(
    r"(?i)create (?:or replace |unlogged |constraint )*(\w+) (?:if not exists )?(\"[^\"]+\"|[\w.]+)"
    r"|(comment) on (\w+ [\w.]+)|(grant)"
)


class CannotRelease(Exception):
    """A release cannot be made, because a person must first write or undo statements.

    The error's message contains SQL statements that a person must write or undo.
    """


@dataclass(frozen=True)
class Item:
    """A catalog entry, with the kind and name of its object as in the current sources."""

    entry: CatalogEntry
    kind: str
    #: `schema.name`. The name of a policy or trigger is `name on schema.table`.
    name: str

    @classmethod
    def of(cls, entry: CatalogEntry) -> Item:
        """Create an item with the kind and the name in the entry's statement."""
        match = _KIND.match(entry.statement)
        kind, name = "", entry.object.partition("(")[0]
        if match and match[1]:
            kind = match[1].lower()
        elif match:
            kind = match[3] or match[5]
        if match and kind in ("policy", "trigger"):
            name = f"{match[2]} on {entry.object}"
        if match and kind == "comment":
            name = match[4]
        return cls(entry, kind, name)

    @property
    def object(self) -> str:
        """Kind and name of the object, in the form of `Piece.object`."""
        if self.kind == "comment" and self.name.startswith("function "):
            return self.name
        return f"{self.kind} {self.name}"

    @property
    def drop(self) -> Statement:
        """SQL statement that drops the object."""
        # the sequence of an identity column may already be dropped with its table
        condition = " if exists" if self.kind == "sequence" else ""
        signature = self.name if self.kind == "trigger" else self.entry.object
        return Statement(self.name, f"drop {self.kind}{condition} {signature};")

    @property
    def head(self) -> str:
        """Arguments and result of a function, which `create or replace function` cannot change."""
        return self.entry.statement.partition("\n LANGUAGE ")[0]


@dataclass(frozen=True)
class Statement:
    """An SQL statement of a migration.

    The owner of the object `about` gets the statement's migration.
    """

    about: str
    text: str


@dataclass(frozen=True)
class Change:
    """Generated statements that change one database into another.

    The generated statements do not include steps that a person wrote.
    """

    #: Objects of the current sources that are new or changed since the last release, as `kind
    #: name`.
    created: frozenset[str]
    #: SQL statements that drop an object before the migration creates it again, by object.
    replaced: dict[str, Statement]
    #: SQL statements that add columns to existing tables.
    columns: tuple[Statement, ...]
    #: SQL statements that change policies, rights and comments. `created` includes functions whose
    #: comment has changed.
    rights: tuple[Statement, ...]
    dropped: tuple[Statement, ...]


def compare(before: Collection[CatalogEntry], after: Collection[CatalogEntry]) -> Change:
    """Compare the catalog entries of two databases.

    Raises:
        CannotRelease: The release would change an object that a project may have replaced by its
            own object.
    """
    old = [Item.of(entry) for entry in sorted(set(before) - set(after))]
    new = [Item.of(entry) for entry in sorted(set(after) - set(before))]
    objects_before, objects_after = (
        {item.object: item for item in map(Item.of, entries) if item.kind != "comment"}
        for entries in (before, after)
    )
    created = {
        item.object
        for item in new
        if item.kind in _RECREATED or (item.kind in _CREATED and item.object not in objects_before)
    }
    changed = {item.entry.object for item in (*old, *new) if item.entry.rank not in _ADDITIONS}
    if editable := sorted(EDITABLE & changed):
        raise CannotRelease(
            f"{', '.join(editable)} must stay as released, because a project may have replaced it"
        )
    replaced = {
        item.object: item.drop
        for item in old
        if item.object in objects_after
        and (
            item.kind == "trigger"
            or (item.kind == "function" and item.head != objects_after[item.object].head)
        )
    }
    dropped = sorted(
        (item for item in old if item.kind in _DROPPED and item.object not in objects_after),
        key=lambda item: (_DROPPED.index(item.kind), item.name),
    )
    existing = {
        item.name
        for key, item in objects_before.items()
        if key in objects_after and item.kind in _DROPPED
    }
    return Change(
        frozenset(created),
        replaced,
        tuple(_columns(new, existing)),
        (*_policies(old, new), *_rights(old, new, existing, after), *_comments(new)),
        tuple(item.drop for item in dropped),
    )


def creations(pieces: Iterable[Piece], change: Change) -> Iterator[str]:
    """Yield the statements of a part's sources that create new or changed objects, in order.

    If functions, views or tables are new, the last statements revoke all rights in the schema.
    """
    dropped = set()
    has_new = any(name.startswith(("function ", "view ", "table ")) for name in change.created)
    for piece in pieces:
        if not (
            piece.object in change.created
            or (has_new and piece.object.startswith(("functions ", "tables ")))
        ):
            continue
        if piece.object in change.replaced and piece.object not in dropped:
            yield change.replaced[piece.object].text
        dropped.add(piece.object)
        yield _repeatable(piece)


def _repeatable(piece: Piece) -> str:
    """Return the statement in a form that also works if the object it creates already exists."""
    if not piece.is_creation or not piece.object.startswith(("function ", "view ")):
        return piece.text
    code = without_comments(piece.text)
    comment = piece.text.removesuffix(code)
    return comment + re.sub(r"^create (?:or replace )?", "create or replace ", code)


def _columns(new: list[Item], existing: Collection[str]) -> Iterator[Statement]:
    """Yield statements that add columns to existing tables, in the order of the columns.

    A column without a default that cannot be null needs a step, which sets its values.
    """
    statements = {item.entry.statement for item in new}
    matches = filter(None, map(_COLUMN.fullmatch, statements))
    added = {(match[1], match[2]): match for match in matches if match[1] in existing}
    for item in new:
        table, _, columns = item.entry.statement.partition(" has the columns ")
        for column in columns.split(", "):
            if (match := added.get((table, column))) is None:
                continue
            if f"alter table {table} alter column {column} set not null" not in statements:
                yield Statement(table, f"{match[0]};")
            elif match["default"]:
                yield Statement(table, f"{match[0]} not null;")


def _policies(old: Iterable[Item], new: Iterable[Item]) -> Iterator[Statement]:
    for item in old:
        if item.kind == "policy":
            yield _if_table(item, f"{item.entry.undo};")
    for item in new:
        if item.kind == "policy":
            yield _if_table(item, f"{item.entry.statement};")


def _if_table(item: Item, text: str) -> Statement:
    """Return a policy's statement so that it runs only if the project still has the table.

    A project may have replaced the table by a view, which cannot have policies.
    """
    if item.entry.object not in EDITABLE:
        return Statement(item.name, text)
    return Statement(
        item.name,
        f"do $$\nbegin\n  if (select c.relkind from pg_catalog.pg_class as c where c.oid ="
        f" '{item.entry.object}'::regclass) = 'r' then\n    {text}\n  end if;\nend;\n$$;",
    )


def _rights(
    old: Iterable[Item],
    new: Iterable[Item],
    existing: Collection[str],
    after: Iterable[CatalogEntry],
) -> Iterator[Statement]:
    """Yield statements that change rights on existing objects.

    Sources grant rights on new objects. A function with other arguments loses its rights, because
    it is dropped.
    """
    kept = {entry.object for entry in after}
    left = (item for item in old if item.entry.object in kept)
    for items, text in ((left, "undo"), (new, "statement")):
        for item in items:
            if item.kind == "grant" and item.name in existing:
                yield Statement(item.name, f"{getattr(item.entry, text)};")


def _comments(new: Iterable[Item]) -> Iterator[Statement]:
    """Yield comments on all objects but functions. A `do` block may have set the comment."""
    for item in new:
        kind, _, name = item.name.partition(" ")
        if item.kind == "comment" and kind != "function":
            about = name.rpartition(".")[0] if kind == "column" else name
            yield Statement(about, f"{item.entry.statement};")
