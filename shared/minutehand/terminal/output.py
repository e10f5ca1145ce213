"""What a command prints: a table for people, JSON for programs, never both.

Results go to standard output, everything else to standard error, so that pipes stay clean.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from rich.console import Console
from rich.text import Text

COLOURS = {
    "waiting": "magenta",
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "queued": "cyan",
    "scheduled": "cyan",
    "retrying": "yellow",
    "running": "blue",
    "suspended": "magenta",
}
#: A stranger's words may hold what a terminal obeys: shown as pictures, each one character long.
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
_PICTURES |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
# what has the rest of a line shown in another order than it is written, or on another line
_PICTURES |= dict.fromkeys([*range(0x2028, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)
#: A table shows the end of an id, as the console does; every verb takes it.
SHORT_ID = 8
#: An instant as a sentence of the database's has it.
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00")
#: In seconds, the longest first, as the console's ages have them.
_UNITS = {"d": 86_400, "h": 3600, "min": 60, "s": 1}


def escape_controls(text: str, *, lines: bool = True) -> str:
    """A text without anything a terminal would act upon, on one line unless `lines`."""
    escape_controls = text.translate(_PICTURES)
    return escape_controls if lines else escape_controls.replace("\n", "␊")


class Output:
    """One command's way to speak; `json` decides the form."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.is_piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
        self.out = Console(highlight=False, soft_wrap=True)
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)
        self._is_mid_line = False

    def value(self, value: Any, *, text: str | Text | None = None) -> None:
        """One result: as JSON, or as `text`."""
        if not self.answered(value) and text is not None:
            self.text(text)

    def answered(self, value: Any) -> bool:
        """Print a value where JSON is asked for; whether it was."""
        if self.as_json:
            self.line(value)
        return self.as_json

    def text(self, text: str | Text, *, lines: bool = True) -> None:
        """Words for a person; only a `Text` brings styles, and brackets are just brackets."""
        words = Text(text) if isinstance(text, str) else text
        words.plain = escape_controls(words.plain, lines=lines)
        if self._is_mid_line:
            self.out.print()
            self._is_mid_line = False
        self.out.print(words)

    def words(self, text: str) -> None:
        """Words that others follow on the same line."""
        self._is_mid_line = not text.endswith("\n")
        self.out.print(Text(escape_controls(text)), end="")

    def line(self, value: Any) -> None:
        """One JSON document on one line, in ASCII: a terminal obeys U+0080 to U+009F."""
        sys.stdout.write(json.dumps(value, default=str) + "\n")
        sys.stdout.flush()

    def table(
        self,
        rows: Sequence[Mapping[str, Any]],
        columns: Mapping[str, str],
        *,
        empty: str = "",
        row: Callable[[Any], Mapping[str, Any]] = dict,
    ) -> None:
        """Print rows by column name → heading, or `empty` on standard error.

        People see a row as `row` shows it; programs get it as it is.
        """
        if self.answered(list(rows)):
            return
        if not rows:
            self.note(empty)
            return
        heads = [Text(heading, style="dim") for heading in columns.values()]
        lines = [[cell(name, row(each).get(name)) for name in columns] for each in rows]
        if any(columns.values()):
            lines.insert(0, heads)
        widths = [max(len(line[nth]) for line in lines) for nth in range(len(columns))]
        for line in lines:
            words = zip(line, widths, strict=True)
            text = Text("  ").join(
                Text.assemble(word, " " * (wide - len(word))) for word, wide in words
            )
            text.rstrip()
            if not self.is_piped:
                text.truncate(self.out.width, overflow="ellipsis")
            self.text(text, lines=False)

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Print names and values, without those that are None."""
        for name, value in facts.items():
            if value is not None:
                own = local_time(value) if name.endswith("_at") else value
                self.text(Text.assemble(f"{name:<16}  ", cell("value", own)))

    def note(self, sentence: str) -> None:
        """A remark for a person, on standard error; programs read failures alone there."""
        if not self.as_json:
            self.err.print(Text(escape_controls(sentence), style="dim"))

    def failure(self, message: str, *, code: str, fix: str | None) -> None:
        """Why the command failed, and what to do."""
        if self.as_json:
            sys.stderr.write(json.dumps({"error": message, "code": code, "fix": fix}) + "\n")
            return
        self.err.print(Text(escape_controls(message), style="bold red"))
        if fix:
            self.err.print(Text(escape_controls(f"→ {fix}")))


def parse_headings(columns: str) -> dict[str, str]:
    """Headings by column of `id next_run ran:TOOK`: after the colon, else the name in capitals."""
    named = (column.partition(":") for column in columns.split())
    headings = {name: own or name.removesuffix("_at").upper() for name, _, own in named}
    return {name: heading.replace("_", " ") for name, heading in headings.items()}


def format_duration(milliseconds: float) -> str:
    """A duration as the console has it: 340 ms, 1.2 s, 4 min 05 s, 3 h 12 min, 2 d 4 h."""
    value = max(0.0, milliseconds)
    if value < 1000:
        return f"{_rounded(value)} ms"
    if value < 60_000:
        return f"{_rounded(value / 1000, '0.1')} s"
    seconds = int(_rounded(value / 1000))
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    minutes = int(_rounded(seconds / 60))
    if minutes < 1440:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = int(_rounded(minutes / 60))
    return f"{hours // 24} d {hours % 24} h"


def _rounded(value: float, digit: str = "1") -> Decimal:
    """Halves go up, as in JavaScript; Python's own format takes the even one."""
    return Decimal(value).quantize(Decimal(digit), ROUND_HALF_UP)


def p95(times: Mapping[str, Any] | None) -> str | None:
    """The 95th percentile of times as people say it."""
    value = (times or {}).get("p95_ms")
    return None if value is None else format_duration(value)


def cell(name: str, value: Any) -> Text:
    """A value as a person reads it."""
    if value is None:
        return Text("-", style="dim")
    if name in {"error", "error_message"}:
        return Text(escape_controls(str(value).partition("\n")[0], lines=False))
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return Text(escape_controls(", ".join(value)))
    if name.endswith("_at"):
        return Text(ago(str(value)))
    if isinstance(value, Mapping | list):
        return Text(escape_controls(json.dumps(value, ensure_ascii=False)))
    if name == "id":
        return Text(str(value)[-SHORT_ID:])
    return Text(
        escape_controls(str(value)), style=COLOURS.get(str(value), "") if name == "state" else ""
    )


def local_time(instant: str) -> str:
    """`2026-11-20 09:36:55.585`, by the reader's clock, as in the console."""
    return datetime.fromisoformat(instant).astimezone().isoformat(" ", "milliseconds")[:23]


def localize_times(sentence: str) -> str:
    """The database's words with its instants by the reader's clock: with the day if another."""
    today = local_time(datetime.now(UTC).isoformat())[:11]
    return _INSTANT.sub(lambda found: local_time(found[0])[:19].removeprefix(today), sentence)


def ago(instant: str) -> str:
    """How long ago, or how far ahead, an ISO 8601 instant is, as the console has it."""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(instant)).total_seconds()
    except ValueError:
        return instant
    size = int(_rounded(abs(seconds)))
    if size < 2:
        return "now"
    unit, length = next(each for each in _UNITS.items() if size >= each[1])
    words = f"{size // length} {unit}"
    return f"{words} ago" if seconds >= 0 else f"in {words}"
