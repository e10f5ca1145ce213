"""What a command prints: a table for people, JSON for programs, never both.

Results go to standard output, everything else to standard error, so that pipes stay clean.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

COLOURS = {
    "pending": "cyan",
    "processing": "blue",
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


_C1 = re.compile("[\x7f-\x9f]")

#: Columns that say something in words.
PROSE = {"value", "title"}
#: So much of a column in words must fit beside the others.
PROSE_LEAST = 20
#: Columns that take what the others leave, on one line, and so much at least.
CUT, CUT_LEAST = {"error", "error_message"}, 16
#: Digits of an id on a narrow terminal, as the console shows it.
SHORT_ID = 8
#: Columns that are copied, so never cut.
WHOLE = {"id": 36, "status": 10, "state": 9}


#: A stranger's words may hold what a terminal obeys: shown as pictures, each one character long.
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
_PICTURES |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def shown(text: str, *, lines: bool = True) -> str:
    """A text without anything a terminal would act upon, on one line unless `lines`."""
    shown = text.translate(_PICTURES)
    return shown if lines else shown.replace("\n", "␊")


class Output:
    """One command's way to speak; `json` decides the form."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        width = None if sys.stdout.isatty() else _width_of_pipe()
        self.out = Console(highlight=False, soft_wrap=True, width=width)
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)

    def value(self, value: Any, *, text: str | Text | None = None) -> None:
        """One result: as JSON, or as `text`."""
        if self.as_json:
            self.line(value)
        elif text is not None:
            self.text(text)

    def answered(self, value: Any) -> bool:
        """Print a value where JSON is asked for; whether it was."""
        if self.as_json:
            self.line(value)
        return self.as_json

    def text(self, text: str | Text, *, lines: bool = True) -> None:
        """Words for a person; only a `Text` brings styles, and brackets are just brackets."""
        words = Text(text) if isinstance(text, str) else text
        words.plain = shown(words.plain, lines=lines)
        self.out.print(words)

    def line(self, value: Any) -> None:
        """One JSON document on one line."""
        text = json.dumps(value, default=str, ensure_ascii=False)
        # a terminal obeys U+0080 to U+009F as it does escape sequences; inside JSON only strings
        # hold them, where an escape means the same
        text = _C1.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def table(
        self,
        rows: Sequence[Mapping[str, Any]],
        columns: Mapping[str, str],
        *,
        empty: str = "",
        spare: Sequence[str] = (),
        row: Callable[[Any], Mapping[str, Any]] = dict,
    ) -> None:
        """Print rows by column name → heading, or `empty` on standard error; see `grid`.

        Args:
            row: What people see of a row; programs get it as it is.
        """
        if self.answered(list(rows)):
            return
        if not rows:
            self.note(empty)
            return
        told = [row(each) for each in rows]
        self.out.print(self.grid(told, columns, spare=spare), soft_wrap=False)

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Print names and values, without those that are None."""
        rows = [{"name": name, "value": value} for name, value in facts.items()]
        rows = [each for each in rows if each["value"] is not None]
        self.out.print(self.grid(rows, {"name": "", "value": ""}), soft_wrap=False)

    def grid(
        self,
        rows: Sequence[Mapping[str, Any]],
        columns: Mapping[str, str],
        *,
        spare: Sequence[str] = (),
    ) -> Table:
        """Lay out rows, of which there is at least one, for the terminal's width.

        Args:
            columns: Heading by column name.
            spare: Columns that a narrow terminal goes without, in the order in which they go.
        """
        cells = [{name: cell(name, row.get(name)) for name in columns} for row in rows]
        shown = _fitting(cells, columns, spare, self.out.width)
        left = self.out.width - _width(cells, {n: h for n, h in shown.items() if n not in CUT})
        table = Table(
            box=None, pad_edge=False, header_style="dim", show_header=any(columns.values())
        )
        for name, heading in shown.items():
            # a row is a line, cut short on a narrow screen; only prose may take several
            prose = name in PROSE
            table.add_column(
                heading,
                overflow="fold" if prose else "ellipsis",
                no_wrap=not prose,
                max_width=max(left - 2, CUT_LEAST) if name in CUT else None,
                min_width=min(WHOLE[name], max(len(line[name]) for line in cells))
                if name in WHOLE
                else None,
            )
        for line in cells:
            table.add_row(*(line[name] for name in shown))
        return table

    def note(self, sentence: str) -> None:
        """A remark for a person, on standard error; programs read failures alone there."""
        if self.as_json:
            return
        self.err.print(Text(shown(sentence), style="dim"))

    def failure(self, message: str, *, code: str, fix: str | None) -> None:
        """Why the command failed, and what to do."""
        if self.as_json:
            sys.stderr.write(json.dumps({"error": message, "code": code, "fix": fix}) + "\n")
            return
        self.err.print(Text(shown(message), style="bold red"))
        if fix:
            self.err.print(Text(shown(f"→ {fix}")))


def headed(columns: str) -> dict[str, str]:
    """Headings by column of `id next_run ran:TOOK`: after the colon, else the name in capitals."""
    named = (column.partition(":") for column in columns.split())
    headings = {name: own or name.removesuffix("_at").upper() for name, _, own in named}
    return {name: heading.replace("_", " ") for name, heading in headings.items()}


def _fitting(
    cells: Sequence[dict[str, Text]], columns: Mapping[str, str], spare: Sequence[str], width: int
) -> dict[str, str]:
    """The columns that fit a terminal; ids are cut to their last digits before one goes.

    Every verb takes the last six digits of an id or more.
    """
    shown = dict(columns)

    if not spare or _width(cells, shown) <= width:
        return shown
    for line in cells if "id" in shown else ():
        line["id"] = Text(line["id"].plain[-SHORT_ID:], style=line["id"].style)
    for name in spare:
        if _width(cells, shown) <= width:
            break
        del shown[name]
    return shown


def _width(cells: Sequence[dict[str, Text]], columns: Mapping[str, str]) -> int:
    """What some columns take, where words and errors take their least."""
    least = dict.fromkeys(PROSE, PROSE_LEAST) | dict.fromkeys(CUT, CUT_LEAST)
    widest = (
        min(max(len(heading), *(len(line[name]) for line in cells)), least.get(name, 1_000_000))
        for name, heading in columns.items()
    )
    return sum(widest) + 2 * (len(columns) - 1)


def _width_of_pipe() -> int:
    """What COLUMNS says; a pipe itself has no width, and rows must not be cut for it."""
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdigit() and int(columns) >= 20 else 240


def state_style(state: str) -> str:
    """The colour of a state's word."""
    return COLOURS.get(state, "")


def lasted(milliseconds: float) -> str:
    """A duration as people say it: 840 ms, 4.2 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    for unit, below, length, part in (
        ("min", "s", 60, 1),
        ("h", "min", 3600, 60),
        ("d", "h", 86400, 3600),
    ):
        if unit == "d" or seconds < length * (60 if unit == "min" else 24):
            rest = int(seconds % length / part)
            return f"{int(seconds / length)} {unit}" + (f" {rest} {below}" if rest else "")
    raise AssertionError("every duration ends in days")


def cell(name: str, value: Any) -> Text:
    """A value as a person reads it."""
    if value is None:
        return Text("-", style="dim")
    if name in CUT:
        return Text(shown(str(value).partition("\n")[0], lines=False))
    if name in ("status", "state"):
        return Text(shown(str(value)), style=COLOURS.get(str(value), ""))
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return Text(shown(", ".join(value)))
    if name == "progress" and isinstance(value, Mapping):
        stage = value.get("stage") or value.get("message") or ""
        return Text(shown(f"{value.get('percentage', 0):.0f} % {stage}".rstrip()))
    if name.endswith("_at"):
        return Text(ago(str(value)))
    if isinstance(value, Mapping | list):
        return Text(shown(json.dumps(value, ensure_ascii=False)))
    return Text(shown(str(value)))


def ago(instant: str, *, now: datetime | None = None) -> str:
    """How long ago, or how far ahead, an ISO 8601 instant is."""
    try:
        seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(instant)).total_seconds()
    except ValueError:
        return instant
    size = abs(seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if size >= length:
            words = f"{size / length:.0f} {unit}"
            break
    else:
        words = f"{size:.0f} s"
    return f"{words} ago" if seconds >= 0 else f"in {words}"


def joined(parts: Iterable[str | None]) -> str:
    """Words with one space between, without the missing ones."""
    return " ".join(part for part in parts if part)
