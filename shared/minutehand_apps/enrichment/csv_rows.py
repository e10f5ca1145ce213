"""CSV as a stream: records with their byte offsets, a header, rows checked one by one.

Holds one record at a time; storing rows and remembering offsets is left to the import.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from minutehand_apps.enrichment.models import find_domain, text_limit

MAX_RECORD_BYTES = 64 * 1024
"""Longest record; a quote that is never closed must not swallow the file."""

DELIMITERS = ",;\t|"
ALIASES = {
    "name": {"name", "company", "company name", "account", "account name"},
    "domain": {"domain", "website", "company domain", "url", "web site"},
    "industry": {"industry", "sector"},
    "employee_count": {"employee count", "employees", "number of employees", "headcount"},
    "annual_revenue": {"annual revenue", "revenue"},
    "city": {"city", "town"},
    "state": {"state", "region", "province"},
    "country": {"country"},
}
# a comma that is not before three digits may be a decimal one: 1,5 is not 15
_NUMBER = re.compile(
    r"[$€£]?\s*([0-9]{1,18}|[0-9]{1,3}(?:[\s,'_][0-9]{2,3}){0,5}[\s,'_][0-9]{3})(?:\.([0-9]{1,6}))?"
)


class UnreadableFile(Exception):
    """The file as a whole cannot be imported; the message says why."""


@dataclass(frozen=True)
class Record:
    """One record's bytes without its line end, and the offset at which the next one begins."""

    raw: bytes
    end: int
    problem: str | None = None


@dataclass(frozen=True)
class Header:
    """Which column holds which field; `None` for columns no one needs."""

    fields: tuple[str | None, ...]
    delimiter: str

    def wire(self) -> dict[str, Any]:
        """The header as the import remembers it."""
        return {"fields": list(self.fields), "delimiter": self.delimiter}

    @classmethod
    def from_wire(cls, stored: dict[str, Any]) -> Header:
        """The header as an earlier run read it."""
        return cls(tuple(stored["fields"]), stored["delimiter"])


@dataclass(frozen=True)
class BadRow:
    """A row that was refused."""

    problem: str
    field: str | None = None


async def split_records(
    chunks: AsyncIterator[bytes], *, start: int = 0, limit: int = MAX_RECORD_BYTES
) -> AsyncIterator[Record]:
    """Cut a stream into records at line ends outside quotes.

    Args:
        start: The offset at which the stream begins; offsets count on from there.
        limit: A longer record is refused: its first line becomes a record with a `problem`,
            and the lines after it are read again.
    """
    joiner = _Joiner(start, limit)
    async for line in _lines(chunks, limit):
        for record in joiner.feed(line):
            yield record
    for record in joiner.end():
        yield record


@dataclass(frozen=True)
class _Line:
    """A line with its end; `text` is what there is room for, `length` the original length."""

    text: bytes
    length: int


async def _lines(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[_Line]:
    head, length = b"", 0
    async for chunk in chunks:
        at = 0
        while (end := chunk.find(b"\n", at)) >= 0:
            length += end + 1 - at
            yield _Line(head + chunk[at : min(end + 1, at + limit)], length)
            head, length, at = b"", 0, end + 1
        length += len(chunk) - at
        head += chunk[at : at + max(0, limit + 1 - len(head))]
    if length:
        yield _Line(head, length)


class _Joiner:
    """Joins lines while a quote is open."""

    def __init__(self, start: int, limit: int) -> None:
        self._offset = start
        self._limit = limit
        self._open: list[_Line] = []
        self._quotes = 0
        self._size = 0

    def feed(self, line: _Line) -> list[Record]:
        """Take a line; answers the records that are complete with it."""
        found: list[Record] = []
        waiting = deque([line])
        while waiting:
            next_line = waiting.popleft()
            self._open.append(next_line)
            self._quotes += next_line.text.count(b'"')
            self._size += next_line.length
            if self._size > self._limit:
                found.append(self._give_up(waiting))
            elif self._quotes % 2 == 0:
                found.append(self._emit(self._open))
        return found

    def end(self) -> list[Record]:
        """Take the end of the file; a quote still open spoils its own line only."""
        found: list[Record] = []
        while self._open:
            rest: deque[_Line] = deque()
            found.append(self._give_up(rest))
            for line in rest:
                found += self.feed(line)
        return found

    def _give_up(self, waiting: deque[_Line]) -> Record:
        first, *others = self._open
        waiting.extendleft(reversed(others))
        if first.length > self._limit:
            return self._emit([first], f"is longer than {self._limit} bytes")
        return self._emit([first], "has a quote that is never closed")

    def _emit(self, lines: list[_Line], problem: str | None = None) -> Record:
        self._offset += sum(line.length for line in lines)
        raw = b"".join(line.text for line in lines).removesuffix(b"\n").removesuffix(b"\r")
        self._open, self._quotes, self._size = [], 0, 0
        return Record(raw, self._offset, problem)


def read_header(raw: bytes) -> Header:
    """Find the fields in a file's first record.

    Raises:
        UnreadableFile: It is not text, lacks a domain column, or names a field twice.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableFile("The file is not UTF-8 text; save it as CSV UTF-8") from error
    if "\x00" in text:
        raise UnreadableFile("The file is not text; save it as CSV UTF-8")
    delimiter = max(DELIMITERS, key=text.count)
    cells = _cells(text, delimiter)
    if cells is None:
        raise UnreadableFile("The file's first line is not valid CSV; lines end with LF or CRLF")
    fields = tuple(_field(cell) for cell in cells)
    named = [field for field in fields if field]
    twice = sorted({field for field in named if named.count(field) > 1})
    if twice:
        raise UnreadableFile(f"The file has more than one column for {', '.join(twice)}")
    if "domain" not in named:
        raise UnreadableFile(
            "The file has no domain column; its first line must name the columns, "
            "for example: name,domain,industry"
        )
    return Header(fields, delimiter)


def _field(cell: str) -> str | None:
    word = re.sub(r"[\s_-]+", " ", cell.strip().lower())
    return next((field for field, names in ALIASES.items() if word in names), None)


def read_row(header: Header, record: Record) -> dict[str, Any] | BadRow | None:
    """Check one record: the row's fields, or why it is refused; `None` for a blank line."""
    if record.problem:
        return BadRow(record.problem)
    try:
        text = record.raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return BadRow("is not UTF-8 text")
    if not text.strip():
        return None
    if "\x00" in text:
        return BadRow("holds the character U+0000")
    cells = _cells(text, header.delimiter)
    if cells is None:
        return BadRow("is not valid CSV")
    if not any(cell.strip() for cell in cells):
        return None
    if len(cells) > len(header.fields):
        return BadRow(f"has {len(cells)} columns, the header has {len(header.fields)}")
    row: dict[str, Any] = {}
    for field, cell in zip(header.fields, cells, strict=False):
        value = cell.strip()
        if field is None or not value:
            continue
        read = _value(field, value)
        if isinstance(read, BadRow):
            return read
        row[field] = read
    if "domain" not in row:
        return BadRow("is missing", "domain")
    return row


def _cells(text: str, delimiter: str) -> list[str] | None:
    try:
        rows = list(csv.reader([text], delimiter=delimiter, strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


def _value(field: str, text: str) -> Any:
    if field == "domain":
        domain = find_domain(text)
        return domain if domain else BadRow(f"is not a domain: {text[:100]}", field)
    if field in ("employee_count", "annual_revenue"):
        return _number(field, text)
    most = text_limit(field)
    if len(text) > most:
        return BadRow(f"is longer than {most} characters", field)
    return text


def _number(field: str, text: str) -> int | float | BadRow:
    found = _NUMBER.fullmatch(text)
    whole, fraction = (re.sub(r"[\s,'_]", "", found[1]), found[2] or "") if found else ("", "")
    # "1.200" may be a thousand and two hundred
    if not whole or len(whole) > 18 or (len(whole) <= 3 and len(fraction) == 3):
        return BadRow(f"is not a number: {text[:100]}", field)
    if not fraction.strip("0"):
        return int(whole)
    if field == "employee_count":
        return BadRow(f"is not a whole number: {text[:100]}", field)
    return float(f"{whole}.{fraction}")
