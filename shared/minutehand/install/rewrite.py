"""Gives the SQL other schema names than the two it is written with, token by token.

The source says `public` for what clients see and `queue` for the engine. Roles, columns and words
that merely look alike keep their names: a token counts where Postgres would read a schema there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

#: The names in the source.
CLIENTS, ENGINE = "public", "queue"

_TOKEN = re.compile(
    r"""
    (?P<comment>--[^\n]*)
  | (?P<block>/\*)
  | (?P<string>(?:(?<![\w$])[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'))
  | (?P<name>"(?:[^"]|"")*")
  | (?P<dollar>(?<![\w$])\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$)
  | (?P<word>[^\W\d][\w$]*)
  | (?P<blank>\s+)
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_EITHER = "(?P<schema>public|queue)"
#: What compares with, or takes, the name of a schema.
_CATALOGUE = (
    "nspname|schemaname|schema_name|table_schema|routine_schema|specific_schema|udt_schema"
    "|event_object_schema|constraint_schema|has_schema_privilege|to_regnamespace"
)
_CATALOGUE_WORDS = frozenset(_CATALOGUE.split("|"))
#: A catalogue's word speaks for the strings after it up to one of these.
_ENDS_COMPARISON = frozenset({"and", "or", "then", "where", "loop", "select"})
_IN_TEXT = (
    re.compile(rf'(?<![\w.$"])(?P<quote>"?){_EITHER}(?P=quote)(?=\.[a-zA-Z_%"])'),
    re.compile(rf"\bschema\s+(?:if\s+(?:not\s+)?exists\s+)?{_EITHER}\b(?!\.)", re.IGNORECASE),
    re.compile(rf"\b(?:{_CATALOGUE})\s*(?:=|<>|!=)\s*''{_EITHER}''", re.IGNORECASE),
    re.compile(rf"''{_EITHER}''::regnamespace", re.IGNORECASE),
)
_IN_PROSE = (*_IN_TEXT[:2], re.compile(rf"\bin\s+{_EITHER}\b(?!\.\w)"))
_EXACT = re.compile(rf"^(?P<open>[eE]?'){_EITHER}'$")


@dataclass(frozen=True)
class Schemas:
    """Where clients see jobs, and where the engine keeps its own."""

    clients: str = CLIENTS
    engine: str = ENGINE

    def __getitem__(self, source: str) -> str:
        """The name that replaces `public` or `queue` of the source."""
        return self.clients if source.lower() == CLIENTS else self.engine

    @property
    def as_written(self) -> bool:
        """Whether the source's own names are wanted."""
        return (self.clients, self.engine) == (CLIENTS, ENGINE)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    lower: str


@lru_cache(maxsize=4096)
def rewrite(sql: str, schemas: Schemas) -> str:
    """Return `sql` with the schemas' names; text that names neither comes back as it is."""
    if schemas.as_written:
        return sql
    tokens = list(_tokens(sql))
    return "".join(_Reader(tokens, schemas).read())


def rename_in_text(text: str, schemas: Schemas) -> str:
    """Return prose or a fragment of SQL, such as a suggested statement, with the schemas' names."""
    return text if schemas.as_written else _replace(text, _IN_TEXT, schemas)


def _tokens(sql: str) -> Iterator[_Token]:
    position = 0
    while (match := _TOKEN.match(sql, position)) is not None:
        kind = str(match.lastgroup)
        position = match.end()
        if kind == "block":
            kind, position = "comment", _end_of_comment(sql, match.start())
        text = sql[match.start() : position]
        yield _Token(kind, text, text.lower())


def _end_of_comment(sql: str, start: int) -> int:
    depth = 0
    for match in re.finditer(r"/\*|\*/", sql[start:]):
        depth += 1 if match[0] == "/*" else -1
        if depth == 0:
            return start + match.end()
    return len(sql)


class _Reader:
    """Reads tokens in order; `_before` holds those of the statement that mean something."""

    def __init__(self, tokens: list[_Token], schemas: Schemas) -> None:
        self._tokens = tokens
        self._schemas = schemas
        self._before: list[_Token] = []

    def read(self) -> Iterator[str]:
        for place, token in enumerate(self._tokens):
            match token.kind:
                case "blank":
                    yield token.text
                    continue
                case "comment":
                    yield _replace(token.text, _IN_PROSE, self._schemas)
                    continue
                case "dollar":
                    tag = token.text[: token.text.index("$", 1) + 1]
                    inner = token.text[len(tag) : -len(tag)]
                    yield f"{tag}{rewrite(inner, self._schemas)}{tag}"
                case "string":
                    yield self._string(token.text, place)
                case "word" | "name" if self._is_schema(token, place):
                    quote = '"' if token.kind == "name" else ""
                    yield f"{quote}{self._schemas[token.text.strip(chr(34))]}{quote}"
                case _:
                    yield token.text
            self._before = [] if token.text == ";" else [*self._before[-40:], token]

    def _is_schema(self, token: _Token, place: int) -> bool:
        if token.lower.strip('"') not in (CLIENTS, ENGINE):
            return False
        before = [known.lower for known in self._before[-24:]]
        if before[-1:] == ["."]:
            return False
        if self._next(place) == ".":
            return True
        while len(before) > 1 and before[-1] == ",":  # a list of schemas
            before = before[:-2]
        if before[-1:] == ["exists"]:
            while before and before[-1] in ("exists", "not", "if"):
                before.pop()
        if before[-2:] in (["search_path", "="], ["search_path", "to"]):
            return True
        return before[-1:] == ["schema"]

    def _string(self, text: str, place: int) -> str:
        if (exact := _EXACT.match(text)) is not None:
            is_schema = self._is_compared() or self._is_cast(place) or self._fills_a_place()
            return f"{exact['open']}{self._schemas[exact['schema']]}'" if is_schema else text
        opening = [token.lower for token in self._before if token.kind == "word"][:2]
        patterns = (*_IN_TEXT, _IN_PROSE[-1]) if opening == ["comment", "on"] else _IN_TEXT
        return _replace(text, patterns, self._schemas)

    def _is_compared(self) -> bool:
        recent = self._before[-16:]
        for place in range(len(recent) - 1, -1, -1):
            token = recent[place]
            if token.lower in _CATALOGUE_WORDS:
                return True
            if token.lower == "regnamespace":  # cast to text, then compared
                return [known.lower for known in recent[place + 1 : place + 4]] == [
                    ":",
                    ":",
                    "text",
                ]
            if token.lower in _ENDS_COMPARISON:
                return False
        return False

    def _is_cast(self, place: int) -> bool:
        after = "".join(token.lower for token in self._tokens[place + 1 : place + 6])
        return re.match(r"\s*::\s*regnamespace\b", after) is not None

    def _fills_a_place(self) -> bool:
        # format('… %I.%I …', 'queue', …)
        strings = [token.text for token in self._before[-6:] if token.kind == "string"]
        return any("%I." in text for text in strings)

    def _next(self, place: int) -> str:
        following = self._tokens[place + 1 : place + 2]
        return following[0].text if following else ""


def _replace(text: str, patterns: tuple[re.Pattern[str], ...], schemas: Schemas) -> str:
    for pattern in patterns:
        text = pattern.sub(lambda match: _put(match, schemas), text)
    return text


def _put(match: re.Match[str], schemas: Schemas) -> str:
    start, end = (place - match.start() for place in match.span("schema"))
    return f"{match[0][:start]}{schemas[match['schema']]}{match[0][end:]}"
