"""What a release changes in a database, as the statements that make it so.

Two catalogues are compared, of the last release and of the present text. Functions, views,
triggers, policies, rights and comments follow from the difference, and so does whatever is new or
gone. What an existing table or type needs, and what rows need, is a person's to write: a step.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from infra.release.texts import Piece, without_comments

#: What a project may have replaced by its own, so that no release may change it.
EDITABLE = frozenset(
    {"queue.tenants", "queue.tenant_members", "public.workspaces", "public.workspace_members"}
)
#: What the present text makes as a whole, new or changed.
_WHOLE = frozenset({"function", "view", "trigger"})
#: What it makes where it is new; a change is a step's.
_NEW = frozenset({"table", "type", "sequence"})
#: In the order in which what is gone can go.
_GONE = ("trigger", "view", "table", "function", "type", "sequence")


class CannotRelease(Exception):
    """The release cannot be made; the message says what to write or to undo."""


@dataclass(frozen=True)
class Line:
    """One line of a catalogue."""

    text: str
    kind: str
    #: `schema.name`; of a policy or a trigger with the table: `name on schema.table`.
    name: str

    @classmethod
    def read(cls, text: str) -> Line:
        """Take the kind and the name from a line."""
        kind, _, rest = text.partition(" ")
        if kind == "trigger":
            return cls(text, kind, rest.partition(":")[0])
        if kind == "policy" and (
            found := re.match(r'\S+ create policy ("[^"]+"|\S+) on (\S+)', rest)
        ):
            return cls(text, kind, f"{found[1]} on {found[2]}")
        if kind == "grant" and (found := re.search(r" on \w+ ([\w.]+)(?:\(.*\))? to ", rest)):
            return cls(text, kind, found[1])
        if kind == "comment":
            return cls(text, kind, _commented(rest))
        found = re.match(r"[\w.]+", rest)
        return cls(text, kind, found[0] if found else "")

    @property
    def object(self) -> str:
        """As the present text's pieces name it."""
        if self.kind == "comment":
            return self.name if self.name.startswith("function ") else f"comment {self.name}"
        return f"{self.kind} {self.name}"

    @property
    def signature(self) -> str:
        """The name that a `drop` takes: of a function with its arguments."""
        if self.kind == "function":
            return self.text.removeprefix("function ").partition(" owner=")[0]
        return self.name

    @property
    def head(self) -> str:
        """What `create or replace function` cannot change: arguments and result."""
        return self.text.partition("CREATE OR REPLACE")[2].partition("\n LANGUAGE ")[0]


@dataclass(frozen=True)
class Statement:
    """One statement of a migration, and the object that decides whose migration it is in."""

    about: str
    text: str


@dataclass(frozen=True)
class Change:
    """What turns one catalogue into another, but for what needs a step."""

    #: Objects of the present text that are new or changed, as its pieces name them.
    made: frozenset[str]
    #: What must go before it is made again, by object.
    replaced: dict[str, Statement]
    #: Policies and rights.
    settled: tuple[Statement, ...]
    gone: tuple[Statement, ...]


def compare(before: Collection[str], after: Collection[str]) -> Change:
    """Say what changes.

    Raises:
        CannotRelease: What a project may have replaced by its own has changed.
    """
    old = [Line.read(text) for text in sorted(set(before) - set(after))]
    new = [Line.read(text) for text in sorted(set(after) - set(before))]
    had = {line.object: line for line in map(Line.read, before)}
    has = {line.object: line for line in map(Line.read, after)}
    made = {
        line.object
        for line in new
        if line.kind in _WHOLE | {"comment"} or (line.kind in _NEW and line.object not in had)
    }
    if theirs := sorted(EDITABLE & {line.name for line in (*old, *new) if line.kind != "grant"}):
        raise CannotRelease(
            f"{', '.join(theirs)} may be a project's own by now: leave it as it was released"
        )
    replaced = {
        line.object: Statement(line.name, _drop(line))
        for line in old
        if line.object in has
        and (
            line.kind == "trigger"
            or (line.kind == "function" and line.head != has[line.object].head)
        )
    }
    gone = sorted(
        (line for line in old if line.kind in _GONE and line.object not in has),
        key=lambda line: (_GONE.index(line.kind), line.name),
    )
    return Change(
        frozenset(made),
        replaced,
        (*_policies(old, new), *_rights(old, new, had, has)),
        tuple(Statement(line.name, _drop(line)) for line in gone),
    )


def creations(pieces: list[Piece], change: Change) -> Iterator[str]:
    """The statements of a part's present text that make what is new or changed, in its order."""
    begun = set()
    for piece in pieces:
        if piece.object not in change.made:
            continue
        if piece.object in change.replaced and piece.object not in begun:
            yield change.replaced[piece.object].text
        begun.add(piece.object)
        yield _repeatable(piece)


def _repeatable(piece: Piece) -> str:
    """A statement that may find the object as it was."""
    if not piece.is_creation or not piece.object.startswith(("function ", "view ")):
        return piece.text
    code = without_comments(piece.text)
    comment = piece.text.removesuffix(code)
    return comment + re.sub(r"^create (?:or replace )?", "create or replace ", code)


def _drop(line: Line) -> str:
    # an identity's sequence goes with its table
    given = " if exists" if line.kind == "sequence" else ""
    return f"drop {line.kind}{given} {line.signature};"


def _policies(old: list[Line], new: list[Line]) -> Iterator[Statement]:
    for line in old:
        if line.kind == "policy":
            yield _where_ours(line.name, f"drop policy {line.name};")
    for line in new:
        if line.kind == "policy":
            yield _where_ours(line.name, line.text.split(" ", 2)[2] + ";")


def _where_ours(name: str, text: str) -> Statement:
    """A statement about a policy: a table that a project may have replaced by a view has none."""
    table = name.rpartition(" on ")[2]
    if table not in EDITABLE:
        return Statement(name, text)
    return Statement(
        name,
        f"do $$\nbegin\n  if (select c.relkind from pg_catalog.pg_class as c where c.oid ="
        f" '{table}'::regclass) = 'r' then\n    {text}\n  end if;\nend;\n$$;",
    )


def _rights(
    old: list[Line], new: list[Line], had: dict[str, Line], has: dict[str, Line]
) -> Iterator[Statement]:
    """Rights on what was there before and still is; what is new brings its own."""
    kept = {
        line.name for key, line in had.items() if key in has and line.kind in (*_GONE, "schema")
    }
    for line in old:
        if line.kind == "grant" and line.name in kept:
            right, _, role = line.text.rpartition(" to ")
            yield Statement(line.name, f"revoke {right.removeprefix('grant ')} from {role};")
    for line in new:
        if line.kind == "grant" and line.name in kept:
            yield Statement(line.name, f"{line.text};")


def _commented(rest: str) -> str:
    """`kind name` of a comment, as `comment on` has it."""
    # how Postgres names a kind of object → how SQL does
    for known, word in {
        "table column": "column",
        "view column": "column",
        "composite type": "type",
    }.items():
        if rest.startswith(f"{known} "):
            rest = f"{word} {rest.removeprefix(known).strip()}"
    found = re.match(r"\w+ [\w.]+", rest)
    return found[0] if found else rest
