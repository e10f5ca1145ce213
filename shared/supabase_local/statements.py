"""Splits SQL files into statements as Postgres does.

A semicolon does not end a statement inside strings, quoted names, dollar quotes, nested comments,
parentheses and bodies with `begin atomic`.
"""

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r"""
    (?P<line_comment>--[^\n]*)
  | (?P<block_comment>/\*)
  | (?P<escape_string>(?<![\w$])[eE]'(?:[^'\\]|\\.|'')*')
  | (?P<string>'(?:[^']|'')*')
  | (?P<name>"(?:[^"]|"")*")
  | (?P<dollar>(?<![\w$])\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$)
  | (?P<atomic>\bbegin\s+atomic\b)
  | (?P<word>[^\W\d][\w$]*)
  | (?P<open>\()
  | (?P<close>\))
  | (?P<end>;)
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)


def split_statements(sql: str) -> list[str]:
    """Return the statements of `sql` in their order, with comments and without semicolons.

    A statement that contains only comments is omitted.
    """
    return [text for text in _pieces(sql) if text]


def _pieces(sql: str) -> Iterator[str]:
    start = position = 0
    depth = 0  # depth of parentheses, and of `begin atomic` and `case`, which `end` closes
    bodies = 0
    has_code = False
    while (match := _TOKEN.search(sql, position)) is not None:
        has_code = has_code or bool(sql[position : match.start()].strip())
        position = match.end()
        kind = match.lastgroup if match.lastgroup != "tag" else "dollar"
        match kind:
            case "line_comment":
                continue
            case "block_comment":
                position = _end_of_comment(sql, match.start())
                continue
            case "open":
                depth += 1
            case "close":
                depth = max(0, depth - 1)
            case "atomic":
                bodies += 1
            case "word" if bodies and match["word"].lower() == "case":
                bodies += 1
            case "word" if bodies and match["word"].lower() == "end":
                bodies -= 1
            case "end" if not depth and not bodies:
                yield sql[start : match.start()].strip() if has_code else ""
                start, has_code = position, False
                continue
        has_code = True
    tail = sql[start:].strip()
    yield tail if has_code or sql[position:].strip() else ""


def _end_of_comment(sql: str, start: int) -> int:
    depth = 0
    for match in re.finditer(r"/\*|\*/", sql[start:]):
        depth += 1 if match[0] == "/*" else -1
        if depth == 0:
            return start + match.end()
    return len(sql)
