"""Data found in what people write: tables, label and number pairs, dated events.

Rules, not a model: what is not plainly data is left alone.
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
_NUMBER: Final = r"-?\d+(?:[.,]\d+)*"
#: "Jan 10", "rent: 800", "apples = 3", "solar 5 %"
_PAIR: Final = re.compile(
    rf"(?P<label>[^\W\d_][\w .'/()&-]{{0,60}}?|(?:19|20)\d\d)\s*(?:[:=]\s*"
    rf"|\s)[$€£]?(?P<value>{_NUMBER})"
    r"\s*(?P<unit>%|°C|k?Wh|kW|MW|km|kg|m|t|€|\$|£|l|h|people|visitors|years?)?(?=$|[\s,;.)])"
)
_EVENT: Final = re.compile(r"^\W*(\d{3,4}(?: BC)?(?:-\d{2}(?:-\d{2})?)?)\s*[:–—-]\s*(.{3,200})$")
_VERBS: Final = re.compile(
    r"^(?:and|und|et|y|e|of|with|the|from|von|mit|de|con|com|a|an|mir|eine?|in)\s+", re.IGNORECASE
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


def number_of(text: str) -> float | None:
    """The number a cell holds, with any separators of thousands and decimals; None for a text."""
    bare = re.sub(r"[\s%€$£]|(?<=\d)'(?=\d)", "", text)
    if not re.fullmatch(_NUMBER, bare):
        return None
    if re.fullmatch(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?", bare):
        bare = bare.replace(",", "")
    elif re.fullmatch(r"-?\d{1,3}(?:\.\d{3})+,\d+", bare):
        bare = bare.replace(".", "").replace(",", ".")
    elif bare.count(",") == 1 and "." not in bare:
        bare = bare.replace(",", ".")
    try:
        return float(bare)
    except ValueError:
        return None


def find_data(texts: Iterable[str]) -> Data:
    """All data in the texts: of each the table it holds, else its events, else its pairs."""
    data = Data()
    for text in texts:
        table = _table(text)
        if table is not None:
            _add_table(data, *table)
            continue
        events = [
            match for line in re.split(r"[\n;]", text) if (match := _EVENT.match(line.strip()))
        ]
        if len(events) >= 2:
            data.events += [(each[1], each[2].strip()) for each in events][:MOST_ROWS]
            continue
        data.series += _pairs(text)
    data.series = list(dict.fromkeys(data.series))[:MOST_ROWS]
    return data


def _add_table(data: Data, columns: list[str], rows: list[list[str]]) -> None:
    if not data.rows:
        data.columns, data.rows = columns, rows[:MOST_ROWS]
    for place in range(1, len(columns)):
        numbers = [number_of(row[place]) for row in rows]
        if rows and all(number is not None for number in numbers):
            labelled = zip(rows, numbers, strict=True)
            data.series += [(row[0], number, "") for row, number in labelled if number is not None]
            return


def _table(text: str) -> tuple[list[str], list[list[str]]] | None:
    return _json(text) or _marked(text) or _separated(text)


def _json(text: str) -> tuple[list[str], list[list[str]]] | None:
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


def _marked(text: str) -> tuple[list[str], list[list[str]]] | None:
    lines = [line.strip().strip("|") for line in text.splitlines() if line.strip().startswith("|")]
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    body = [row for row in cells if not all(re.fullmatch(r":?-*:?", cell) for cell in row)]
    return _even(body)


def _separated(text: str) -> tuple[list[str], list[list[str]]] | None:
    for mark in ("\t", ";", ","):
        lines = [
            line
            for line in text.splitlines()
            if line.count(mark) >= 1 and not line.rstrip().endswith(".")
        ]
        if len(lines) >= 3 and len({line.count(mark) for line in lines}) == 1:
            return _even(
                [
                    [cell.strip() for cell in row]
                    for row in csv.reader(io.StringIO("\n".join(lines)), delimiter=mark)
                ]
            )
    return None


def _even(rows: list[list[str]]) -> tuple[list[str], list[list[str]]] | None:
    if len(rows) < 2 or len({len(row) for row in rows}) != 1 or len(rows[0]) < 2:
        return None
    return rows[0], rows[1:]


def _pairs(text: str) -> list[Value]:
    body = (
        text.partition(":")[2]
        if re.match(r"[^:\n]{10,120}:\s*(?:[^\W\d_]+|(?:19|20)\d\d)\s+\d", text)
        else text
    )
    found: list[Value] = []
    for part in re.split(r"[,;\n]|\.\s|\s(?:and|und|et|y|e)\s", body):
        match = _PAIR.search(part.strip())
        number = number_of(match["value"]) if match else None
        if match is None or number is None:
            continue
        label = _VERBS.sub("", match["label"].strip(" -:")).strip()
        if len(label.split()) <= 4 and label:
            found.append((label, number, (match["unit"] or "").strip()))
    if len(found) >= 2:
        return found
    bare = re.findall(rf"(?<![\w.]){_NUMBER}(?![\w])", body)
    numbers = [number for each in bare if (number := number_of(each)) is not None]
    return (
        [(str(place), number, "") for place, number in enumerate(numbers, 1)]
        if len(numbers) >= 2
        else []
    )
