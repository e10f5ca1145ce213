"""Statements that change a database of the last release into one of the present sources.

A catalog entry is a statement that describes a database object. The entries of both databases are
compared. The difference determines the statements for functions, views, triggers, policies, rights
and comments, and for new or deleted objects. For changes of existing tables, types or rows, a
person writes a step.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from infra.release.texts import Piece, without_comments
from minutehand.install.catalog import RIGHTS, CatalogEntry

#: Objects that a project may have replaced by its own, so that no release may change them.
EDITABLE = frozenset(
    {"queue.tenants", "queue.tenant_members", "public.workspaces", "public.workspace_members"}
)
#: Kinds of objects that the present sources create again when they have changed.
_RECREATED = frozenset({"function", "view", "trigger", "comment"})
#: Kinds of objects that the present sources create; a step changes an existing one.
_CREATED = frozenset({"table", "type", "sequence"})
#: Kinds of objects in an order in which they can be dropped.
_DROPPED = ("trigger", "view", "table", "function", "type", "sequence")
#: Ranks of triggers, policies, rights and comments, which may change on each object.
_ADDITIONS = frozenset({8, 9, RIGHTS, 20})
_KIND = re.compile(
    r"(?i)create (?:or replace |unlogged |constraint )*(\w+) (?:if not exists )?(\"[^\"]+\"|[\w.]+)"
    r"|(comment) on (\w+ [\w.]+)|(grant)"
)


class CannotRelease(Exception):
    """A release cannot be made. The message has the statements to write or to undo."""


@dataclass(frozen=True)
class Item:
    """A catalog entry, with its object's kind and name as the present sources write them."""

    entry: CatalogEntry
    kind: str
    #: `schema.name`, or `name on schema.table` for a policy or a trigger.
    name: str

    @classmethod
    def of(cls, entry: CatalogEntry) -> Item:
        """Find the kind and the name in the entry's statement."""
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
        """Kind and name of the object, as in `Piece.object`."""
        if self.kind == "comment" and self.name.startswith("function "):
            return self.name
        return f"{self.kind} {self.name}"

    @property
    def drop(self) -> Statement:
        """Statement that drops the object."""
        # the sequence of an identity may be dropped already with its table
        condition = " if exists" if self.kind == "sequence" else ""
        signature = self.name if self.kind == "trigger" else self.entry.object
        return Statement(self.name, f"drop {self.kind}{condition} {signature};")

    @property
    def head(self) -> str:
        """Arguments and result, which `create or replace function` cannot change."""
        return self.entry.statement.partition("\n LANGUAGE ")[0]


@dataclass(frozen=True)
class Statement:
    """A statement of a migration, and the object that decides which part's migration has it."""

    about: str
    text: str


@dataclass(frozen=True)
class Change:
    """Generated statements that turn one database into another; a person writes the steps."""

    #: New or changed objects of the present sources, each as `kind name`.
    created: frozenset[str]
    #: Drop statements of objects that must be created again, by object.
    replaced: dict[str, Statement]
    #: Statements for policies and rights.
    rights: tuple[Statement, ...]
    dropped: tuple[Statement, ...]


def compare(before: Collection[CatalogEntry], after: Collection[CatalogEntry]) -> Change:
    """Compare the catalog entries of two databases.

    Raises:
        CannotRelease: An object has changed that a project may have replaced by its own.
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
        (*_policies(old, new), *_rights(old, new, existing)),
        tuple(item.drop for item in dropped),
    )


def creations(pieces: list[Piece], change: Change) -> Iterator[str]:
    """Yield the statements of a part's sources that create new or changed objects, in order.

    If functions or tables are new, the statements that revoke all rights in the schema come last.
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
    """Return the statement in a form that also works if the object exists."""
    if not piece.is_creation or not piece.object.startswith(("function ", "view ")):
        return piece.text
    code = without_comments(piece.text)
    comment = piece.text.removesuffix(code)
    return comment + re.sub(r"^create (?:or replace )?", "create or replace ", code)


def _policies(old: Iterable[Item], new: Iterable[Item]) -> Iterator[Statement]:
    for item in old:
        if item.kind == "policy":
            yield _if_table(item, f"{item.entry.undo};")
    for item in new:
        if item.kind == "policy":
            yield _if_table(item, f"{item.entry.statement};")


def _if_table(item: Item, text: str) -> Statement:
    """Return a policy's statement, made to run only if the project still has the table.

    A view, by which a project may have replaced the table, has no policies.
    """
    if item.entry.object not in EDITABLE:
        return Statement(item.name, text)
    return Statement(
        item.name,
        f"do $$\nbegin\n  if (select c.relkind from pg_catalog.pg_class as c where c.oid ="
        f" '{item.entry.object}'::regclass) = 'r' then\n    {text}\n  end if;\nend;\n$$;",
    )


def _rights(
    old: Iterable[Item], new: Iterable[Item], existing: Collection[str]
) -> Iterator[Statement]:
    """Yield changes of rights on existing objects; the sources grant rights on new objects."""
    for items, text in ((old, "undo"), (new, "statement")):
        for item in items:
            if item.kind == "grant" and item.name in existing:
                yield Statement(item.name, f"{getattr(item.entry, text)};")
