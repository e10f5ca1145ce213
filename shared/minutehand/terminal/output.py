"""Output of a command, which is a table for people or JSON for programs.

Standard output contains only results, so that a pipe does not read remarks or errors.
"""

import json
import os
import re
import sys
import textwrap
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
#: Visible replacements for control characters in printed texts, because the texts may come from
#: strangers and a terminal would execute control characters.
_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
_VISIBLE |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
# replace Unicode characters that end a line or change its text direction
_VISIBLE |= dict.fromkeys([*range(0x2028, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)
#: Number of characters at the end of an id that tables and the console show. Commands accept such a
#: short id.
SHORT_ID = 8
#: Pattern of a time in a sentence that the database has written.
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00")
#: Units of an age in seconds, the longest unit first. The console uses the same units.
_UNITS = {"d": 86_400, "h": 3600, "min": 60, "s": 1}


def escape_controls(text: str, *, lines: bool = True) -> str:
    """Replace control characters in a text. If `lines` is false, also replace line breaks."""
    escaped = text.translate(_VISIBLE)
    return escaped if lines else escaped.replace("\n", "␊")


class Output:
    """Output of a command, as JSON or as text."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.is_piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
        self.out = Console(highlight=False, soft_wrap=True)
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)
        self._is_mid_line = False

    def value(self, value: Any, *, text: str | Text | None = None) -> None:
        """Print a result as JSON if JSON was requested, otherwise print `text`."""
        if not self.print_json(value) and text is not None:
            self.text(text)

    def print_json(self, value: Any) -> bool:
        """Print a value as JSON if JSON was requested. Return whether JSON was printed."""
        if self.as_json:
            self.line(value)
        return self.as_json

    def text(self, text: str | Text, *, lines: bool = True) -> None:
        """Print a line for people.

        Square brackets in a `str` are no markup for styles, because only a `Text` can have styles.
        """
        styled = Text(text) if isinstance(text, str) else text
        styled.plain = escape_controls(styled.plain, lines=lines)
        if self._is_mid_line:
            self.out.print()
            self._is_mid_line = False
        self.out.print(styled)

    def write(self, text: str) -> None:
        """Print a text without a line break at its end."""
        self._is_mid_line = not text.endswith("\n")
        self.out.print(Text(escape_controls(text)), end="")

    def line(self, value: Any) -> None:
        """Print a JSON value in one line, in ASCII, because terminals execute U+0080 to U+009F."""
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
        """Print rows as a table with a heading per column.

        If there are no rows, print the text `empty` to standard error.

        The function `row` converts a row for people. JSON output contains the unconverted rows.
        """
        if self.print_json(list(rows)):
            return
        if not rows:
            self.hint(empty)
            return
        header = [Text(heading, style="dim") for heading in columns.values()]
        lines = [[cell(name, row(record).get(name)) for name in columns] for record in rows]
        if any(columns.values()):
            lines.insert(0, header)
        widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
        for line in lines:
            cells = zip(line, widths, strict=True)
            text = Text("  ").join(
                Text.assemble(content, " " * (width - len(content))) for content, width in cells
            )
            text.rstrip()
            if not self.is_piped:
                text.truncate(self.out.width, overflow="ellipsis")
            self.text(text, lines=False)

    def details(self, details: Mapping[str, Any]) -> None:
        """Print names with their values, except values that are None or an empty list."""
        width = max(16, *map(len, details)) if details else 0
        for name, value in details.items():
            label = name
            if value in (None, []):
                continue
            if not isinstance(value, str):
                self.text(Text.assemble(f"{name:<{width}}  ", cell("value", value)))
                continue
            content = local_time(value) if name.endswith("_at") else escape_controls(value)
            for line in content.splitlines():
                self.sentence(line, label=f"{label:<{width}}  ")
                label = ""

    def sentence(self, text: str, *, label: str = "") -> None:
        """Print a text after a label. Break lines only between words, so that no id is split."""
        filled = textwrap.fill(
            text,
            10_000 if self.is_piped else max(len(label) + 30, self.out.width),
            initial_indent=label,
            subsequent_indent=" " * len(label),
            break_long_words=False,
            break_on_hyphens=False,
        )
        self.text(filled)

    def hint(self, text: str) -> None:
        """Print a remark for people to standard error, unless JSON was requested."""
        if not self.as_json:
            self.err.print(Text(escape_controls(text), style="dim"))

    def failure(self, message: str, *, code: str, fix: str | None) -> None:
        """Print the error of the command and the error's remedy."""
        if self.as_json:
            sys.stderr.write(json.dumps({"error": message, "code": code, "fix": fix}) + "\n")
            return
        self.err.print(Text(escape_controls(message), style="bold red"))
        if fix:
            self.err.print(Text(escape_controls(f"→ {fix}")))


def parse_columns(columns: str) -> dict[str, str]:
    """Parse `column:HEADING` pairs, e.g.

    `id ran:TOOK`. Without a heading, the column's name in capitals is the heading.
    """
    parts = (column.partition(":") for column in columns.split())
    labels = {name: text or name.removesuffix("_at").upper() for name, _, text in parts}
    return {name: heading.replace("_", " ") for name, heading in labels.items()}


def format_duration(milliseconds: float) -> str:
    """Format a duration in the format of the console: 340 ms, 1.2 s, 4 min 05 s, 3 h, 2 d 04 h."""
    value = max(0.0, milliseconds)
    if value < 1000:
        return f"{_rounded(value)} ms"
    if value < 60_000:
        return f"{_rounded(value / 1000, '0.1')} s"
    units = [item for item in _UNITS.items() if item[1] <= _rounded(value / 1000)]
    (unit, size), (part_unit, part_size) = units[:2]
    count, rest = divmod(int(_rounded(value / 1000 / part_size)), size // part_size)
    return f"{count} {unit}" if rest == 0 else f"{count} {unit} {rest:02} {part_unit}"


def _rounded(value: float, digit: str = "1") -> Decimal:
    """Round halves up, as JavaScript does, because Python rounds a half to the even digit."""
    return Decimal(value).quantize(Decimal(digit), ROUND_HALF_UP)


def p95(times: Mapping[str, Any] | None) -> str | None:
    """Format the 95th percentile of a set of durations."""
    value = (times or {}).get("p95_ms")
    return None if value is None else format_duration(value)


def format_value(value: Any) -> str:
    """Format a JSON value for people: a field as `name value`, each object of a list on a line."""
    if isinstance(value, Mapping):
        given = {name: item for name, item in value.items() if item not in (None, [], {})}
        return ", ".join(f"{name} {format_value(item)}" for name, item in given.items())
    if isinstance(value, list):
        separator = "\n" if any(isinstance(item, Mapping) for item in value) else ", "
        return separator.join(map(format_value, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def cell(name: str, value: Any) -> Text:
    """Format the value of a column for people. `Output.text` escapes its control characters."""
    if value is None:
        return Text("-", style="dim")
    if name in {"error", "error_message"}:
        return Text(str(value).partition("\n")[0])
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return Text(", ".join(value))
    if name.endswith("_at"):
        return Text(ago(str(value)))
    if isinstance(value, bool):
        return Text(format_value(value))
    if isinstance(value, Mapping | list):
        return Text(json.dumps(value, ensure_ascii=False))
    if name == "id":
        return Text(str(value)[-SHORT_ID:])
    return Text(str(value), style=COLOURS.get(str(value), "") if name == "state" else "")


def local_time(timestamp: str) -> str:
    """Format a time in the local time zone as the console does: `2026-11-20 09:36:55.585`."""
    return datetime.fromisoformat(timestamp).astimezone().isoformat(" ", "milliseconds")[:23]


def localize_times(text: str) -> str:
    """Convert the times in a sentence from the database to local time. Omit today's date."""
    today = local_time(datetime.now(UTC).isoformat())[:11]
    return _TIMESTAMP.sub(lambda match: local_time(match[0])[:19].removeprefix(today), text)


def ago(timestamp: str) -> str:
    """Format how long ago or how far ahead an ISO 8601 time is, in the format of the console."""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(timestamp)).total_seconds()
    except ValueError:
        return timestamp
    size = int(_rounded(abs(seconds)))
    if size < 2:
        return "now"
    unit, length = next(item for item in _UNITS.items() if size >= item[1])
    text = f"{size // length} {unit}"
    return f"{text} ago" if seconds >= 0 else f"in {text}"
