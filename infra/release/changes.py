"""Changes of a release in a database, as statements.

The catalogues of the last release and of the present sources are compared. The difference
determines the statements for functions, views, triggers, policies, rights and comments, and for
new or deleted objects. For changes of existing tables, types or rows, a person writes a step.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from infra.release.texts import Piece, without_comments

#: Objects that a project may have replaced by its own, so that no release may change them.
EDITABLE = frozenset(
    {"queue.tenants", "queue.tenant_members", "public.workspaces", "public.workspace_members"}
)
#: Kinds of objects that the present sources create again when they have changed.
_RECREATED = frozenset({"function", "view", "trigger"})
#: Kinds of objects that the present sources create; a step changes an existing one.
_CREATED = frozenset({"table", "type", "sequence"})
#: Kinds of objects in an order in which they can be dropped.
_DROPPED = ("trigger", "view", "table", "function", "type", "sequence")


class CannotRelease(Exception):
    """The release cannot be made; the message has the statements to write or to undo."""


@dataclass(frozen=True)
class Line:
    """A line of a catalogue."""

    text: str
    kind: str
    #: `schema.name`, or `name on schema.table` for a policy or a trigger.
    name: str

    @classmethod
    def read(cls, text: str) -> Line:
        """Parse the kind and the name of a line."""
        kind, _, rest = text.partition(" ")
        if kind == "trigger":
            return cls(text, kind, rest.partition(":")[0])
        if kind == "policy" and (
            match := re.match(r'\S+ create policy ("[^"]+"|\S+) on (\S+)', rest)
        ):
            return cls(text, kind, f"{match[1]} on {match[2]}")
        if kind == "grant" and (match := re.search(r" on \w+ ([\w.]+)(?:\(.*\))? to ", rest)):
            return cls(text, kind, match[1])
        if kind == "comment":
            return cls(text, kind, _commented_object(rest))
        match = re.match(r"[\w.]+", rest)
        return cls(text, kind, match[0] if match else "")

    @property
    def object(self) -> str:
        """Name of the object as in the pieces of the present sources."""
        if self.kind == "comment":
            return self.name if self.name.startswith("function ") else f"comment {self.name}"
        return f"{self.kind} {self.name}"

    @property
    def signature(self) -> str:
        """Name of the object for `drop`, with the arguments of a function."""
        if self.kind == "function":
            return self.text.removeprefix("function ").partition(" owner=")[0]
        return self.name

    @property
    def head(self) -> str:
        """Arguments and result, which `create or replace function` cannot change."""
        return self.text.partition("CREATE OR REPLACE")[2].partition("\n LANGUAGE ")[0]


@dataclass(frozen=True)
class Statement:
    """A statement of a migration, and the object that decides which part's migration has it."""

    about: str
    text: str


@dataclass(frozen=True)
class Change:
    """The statements that turn one catalogue into another, except for steps."""

    #: New or changed objects of the present sources, as the pieces name them.
    created: frozenset[str]
    #: Drops of objects that must be created again, by object.
    replaced: dict[str, Statement]
    #: Statements for policies and rights.
    rights: tuple[Statement, ...]
    dropped: tuple[Statement, ...]


def compare(before: Collection[str], after: Collection[str]) -> Change:
    """Compare two catalogues.

    Raises:
        CannotRelease: An object that a project may have replaced by its own has changed.
    """
    old = [Line.read(text) for text in sorted(set(before) - set(after))]
    new = [Line.read(text) for text in sorted(set(after) - set(before))]
    objects_before = {line.object: line for line in map(Line.read, before)}
    objects_after = {line.object: line for line in map(Line.read, after)}
    created = {
        line.object
        for line in new
        if line.kind in _RECREATED | {"comment"}
        or (line.kind in _CREATED and line.object not in objects_before)
    }
    changed = {line.name for line in (*old, *new) if line.kind != "grant"}
    if editable := sorted(EDITABLE & changed):
        raise CannotRelease(
            f"{', '.join(editable)} must stay as released, because a project may have replaced it"
        )
    replaced = {
        line.object: Statement(line.name, _drop(line))
        for line in old
        if line.object in objects_after
        and (
            line.kind == "trigger"
            or (line.kind == "function" and line.head != objects_after[line.object].head)
        )
    }
    dropped = sorted(
        (line for line in old if line.kind in _DROPPED and line.object not in objects_after),
        key=lambda line: (_DROPPED.index(line.kind), line.name),
    )
    return Change(
        frozenset(created),
        replaced,
        (*_policies(old, new), *_rights(old, new, objects_before, objects_after)),
        tuple(Statement(line.name, _drop(line)) for line in dropped),
    )


def creations(pieces: list[Piece], change: Change) -> Iterator[str]:
    """Yield the statements of a part's sources that create new or changed objects, in order.

    The statements that close all functions and tables of a schema follow new ones.
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


def _drop(line: Line) -> str:
    # the sequence of an identity may be dropped already with its table
    condition = " if exists" if line.kind == "sequence" else ""
    return f"drop {line.kind}{condition} {line.signature};"


def _policies(old: list[Line], new: list[Line]) -> Iterator[Statement]:
    for line in old:
        if line.kind == "policy":
            yield _if_table(line.name, f"drop policy {line.name};")
    for line in new:
        if line.kind == "policy":
            yield _if_table(line.name, line.text.split(" ", 2)[2] + ";")


def _if_table(name: str, text: str) -> Statement:
    """Return a statement about a policy, which runs only if a project keeps the table.

    A view, by which a project may have replaced the table, has no policies.
    """
    table = name.rpartition(" on ")[2]
    if table not in EDITABLE:
        return Statement(name, text)
    return Statement(
        name,
        f"do $$\nbegin\n  if (select c.relkind from pg_catalog.pg_class as c where c.oid ="
        f" '{table}'::regclass) = 'r' then\n    {text}\n  end if;\nend;\n$$;",
    )


def _rights(
    old: list[Line],
    new: list[Line],
    objects_before: dict[str, Line],
    objects_after: dict[str, Line],
) -> Iterator[Statement]:
    """Yield changes of rights on existing objects; the sources grant rights on new objects."""
    kept = {
        line.name
        for key, line in objects_before.items()
        if key in objects_after and line.kind in (*_DROPPED, "schema")
    }
    for line in old:
        if line.kind == "grant" and line.name in kept:
            right, _, role = line.text.rpartition(" to ")
            yield Statement(line.name, f"revoke {right.removeprefix('grant ')} from {role};")
    for line in new:
        if line.kind == "grant" and line.name in kept:
            yield Statement(line.name, f"{line.text};")


def _commented_object(rest: str) -> str:
    """Return `kind name` of a comment's object, as `comment on` names it."""
    # kinds of objects in Postgres' catalogue, and in SQL
    for catalogue_kind, sql_kind in {
        "table column": "column",
        "view column": "column",
        "composite type": "type",
    }.items():
        if rest.startswith(f"{catalogue_kind} "):
            rest = f"{sql_kind} {rest.removeprefix(catalogue_kind).strip()}"
    match = re.match(r"\w+ [\w.]+", rest)
    return match[0] if match else rest
