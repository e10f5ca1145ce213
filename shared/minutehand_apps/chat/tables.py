"""Data in what people write, read whole or not at all: tables, label and number pairs, dates.

A number keeps its unit; where one line is not data, none of them is.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

#: A label, its number, and the number's unit, empty for none.
Value = tuple[str, float, str]
MOST_ROWS: Final = 200
_NUMBER: Final = r"[-+−]?(?:\d{1,3}(?:[ \u00a0'’]\d{3})+(?!\d)|\d+)(?:[.,]\d+)*"
_UNIT: Final = r"(?:[^\W\d_]{1,12}|[%°€$£]C?)?"
_QUANTITY: Final = re.compile(rf"(?P<before>[$€£])?\s?(?P<number>{_NUMBER})\s?(?P<unit>{_UNIT})")
_PAIR: Final = re.compile(
    rf"(?P<label>[^\s\d][^:=\n]*?|(?:19|20)\d\d)\s*(?P<mark>:\s|[:=]|\s)\s*"
    rf"(?P<quantity>[$€£]?\s?{_NUMBER}\s?{_UNIT})"
)
#: In a label without a mark behind it, a number but a year: "5 to 9", "3 of 10", "5 h 30 min".
_STRAY: Final = re.compile(r"(?<![\w.,])(?!(?:19|20)\d\d\b)\d")
_EVENT: Final = re.compile(
    r"\W*(\d{3,4}(?: BC)?(?:-\d{2}(?:-\d{2})?|[–-]\d{4})?)(?:\s*:\s*|\s+[–—-]\s+)(\S.{2,199})"
)


@dataclass
class Data:
    """What there is to show.

    Attributes:
        series: Labels with a number and its unit.
        events: Dates with what happened, in their order.
        columns: Of a table, with `rows` of as many cells.
    """

    series: list[Value] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.series or self.events or self.rows)

    def lines(self) -> str:
        """Its figures and dates, one a line."""
        figures = [f"{label}: {number:g} {unit}".rstrip() for label, number, unit in self.series]
        return "\n".join([*figures, *(f"{date}: {what}" for date, what in self.events)])

    def add(self, other: Data) -> None:
        """Take in what another has."""
        self.series += other.series
        self.events += other.events
        if other.rows and not self.rows:
            self.columns, self.rows = other.columns, other.rows


def number_of(text: str) -> float | None:
    """The number that all of a text is; None for a text, and where its marks may mean two things.

    A mark that comes twice, or before three digits behind one to three, parts thousands; the other
    one, or one before another count of digits, parts decimals: `1.200` is 1200 and `1.25` is 1.25.
    """
    bare = re.sub(r"[ \u00a0'’](?=\d{3})", "", text.strip()).replace("−", "-")
    if not re.fullmatch(r"[-+]?\d+(?:[.,]\d+)*", bare):
        return None
    parted = re.fullmatch(r"([-+]?(?!0\b)\d{1,3}([.,])\d{3}(?:\2\d{3})*)(?:(?!\2)[.,](\d+))?", bare)
    if parted:
        return float(f"{re.sub('[.,]', '', parted[1])}.{parted[3] or 0}")
    return None if len(re.findall(r"[.,]", bare)) > 1 else float(bare.replace(",", "."))


def quantity_of(text: str) -> tuple[float, str] | None:
    """The number and the unit that all of a text is."""
    found = _QUANTITY.fullmatch(text.strip())
    number = number_of(found["number"]) if found else None
    if found is None or number is None:
        return None
    return number, (found["before"] or "") + found["unit"]


def find_data(texts: Iterable[str]) -> Data:
    """The data of the texts: of each its table, its dates or its pairs, whole or not at all."""
    data = Data()
    for text in texts:
        for part in _parts(text):
            found = _table(text) or _events(part) or _pairs(part)
            if found is not None:
                data.add(found)
                break
    data.series = list(dict.fromkeys(data.series))[:MOST_ROWS]
    return data


def _parts(text: str) -> list[str]:
    """Where data may be: after a blank line, the first one, a colon, an `of`; else anywhere."""
    blank = re.split(r"\n\s*\n", text, maxsplit=1)[1:]
    line = text.split("\n", 1)[1:]
    colon = re.split(r":\s+", text, maxsplit=1)[1:]
    of = re.split(r"\b(?:of|from|with|these|von|aus|mit|de|con|com)\s+", text.strip(" .!?"))[-1:]
    return [*blank, *line, *colon, *of, text]


def _table(text: str) -> Data | None:
    found = _json(text) or _marked(text) or _separated(text)
    if found is None:
        return None
    columns, rows = found
    data = Data(columns=columns, rows=rows[:MOST_ROWS])
    for place in range(1, len(columns)):
        read = [quantity_of(row[place]) for row in rows]
        # years tell the rows apart, and are not figures
        if all(read) and not all(re.fullmatch(r"(?:19|20)\d\d", row[place]) for row in rows):
            data.series = [
                (row[0], *each) for row, each in zip(rows, read, strict=True) if each is not None
            ]
            break
    return data


Table = tuple[list[str], list[list[str]]]


def _json(text: str) -> Table | None:
    start, end = text.find("["), text.rfind("]")
    if start < 0 or end < start:
        return None
    try:
        value: Any = json.loads(text[start : end + 1])
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, list) or not value or not all(isinstance(row, dict) for row in value):
        return None
    columns = list(dict.fromkeys(str(key) for row in value for key in row))[:20]
    return columns, [[_cell(row.get(column)) for column in columns] for row in value]


def _cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _marked(text: str) -> Table | None:
    lines = [line.strip().strip("|") for line in text.splitlines() if line.strip().startswith("|")]
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    return _even([row for row in cells if not all(re.fullmatch(r":?-*:?", cell) for cell in row)])


def _separated(text: str) -> Table | None:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    for mark in ("\t", ";", ","):
        for body in (lines, lines[1:]):  # a request may stand above its table
            rows = csv.reader(io.StringIO("\n".join(body)), delimiter=mark, skipinitialspace=True)
            found = _even([[cell.strip() for cell in row] for row in rows])
            if found is not None and len(found[1]) >= 2:
                return found
    return None


def _even(rows: list[list[str]]) -> Table | None:
    if len(rows) < 2 or len({len(row) for row in rows}) != 1 or len(rows[0]) < 2:
        return None
    return rows[0], rows[1:]


def _events(text: str) -> Data | None:
    lines = [line.strip() for line in re.split(r"[\n;]", text) if line.strip()]
    found = [_EVENT.fullmatch(line) for line in lines]
    if len(lines) < 2 or not all(found):
        return None
    return Data(events=[(each[1], each[2].strip()) for each in found if each][:MOST_ROWS])


def _pairs(text: str) -> Data | None:
    items = [
        each.strip(" .!?•*")
        for each in re.split(r";|,(?!\d)|,(?=\d{4}\s+\d)|\n|\s(?:and|und|et|y|e)\s", text)
        if each.strip(" .!?•*")
    ]
    found = [_pair(each) for each in items]
    if len(items) >= 2 and all(found):
        return Data(series=[each for each in found if each is not None])
    numbers = [quantity_of(each) for each in items]
    if len(items) >= 2 and all(numbers):
        return Data(
            series=[(str(n), *each) for n, each in enumerate(numbers, 1) if each is not None]
        )
    return None


def _pair(text: str) -> Value | None:
    found = _PAIR.fullmatch(text)
    quantity = quantity_of(found["quantity"]) if found else None
    if found is None or quantity is None or len(found["label"].split()) > 5:
        return None
    if found["mark"] not in {": ", "="} and _STRAY.search(found["label"]):
        return None
    return found["label"].strip(" -–"), *quantity
