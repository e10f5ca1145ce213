"""CSV as a stream: records keep their offsets, and refused rows come back as text."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minutehand_apps.enrichment.csv_rows import (
    BadRow,
    Header,
    Record,
    UnreadableFile,
    read_header,
    read_row,
    split_records,
)
from minutehand_apps.enrichment.import_routes import _csv_line

HEADER = read_header(b"name,domain,industry,employee_count,annual_revenue,city")


async def stream(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def split(data: bytes, *, size: int = 7, start: int = 0, limit: int = 65_536) -> list[Record]:
    async def collect() -> list[Record]:
        chunks = stream(data[start:], size)
        return [record async for record in split_records(chunks, start=start, limit=limit)]

    return asyncio.run(collect())


def test_a_line_end_inside_quotes_does_not_end_a_record() -> None:
    """Addresses are often exported with line ends in them."""
    data = b'a,"one\ntwo\r\nthree",b\r\nnext,row,c\n'

    records = split(data)

    assert [record.raw for record in records] == [b'a,"one\ntwo\r\nthree",b', b"next,row,c"]
    assert records[-1].end == len(data)


def test_the_last_record_needs_no_line_end() -> None:
    """Many exporters leave it out."""
    assert [record.raw for record in split(b"a\nb")] == [b"a", b"b"]


def test_an_open_quote_spoils_its_own_line_only() -> None:
    """One stray quote must not swallow the other 99,999 rows."""
    records = split(b'a,1\nb,"2\nc,3\nd,4\n')

    assert [(record.raw, bool(record.problem)) for record in records] == [
        (b"a,1", False),
        (b'b,"2', True),
        (b"c,3", False),
        (b"d,4", False),
    ]


def test_an_open_quote_is_given_up_after_the_longest_record() -> None:
    """Memory stays bounded however long the file goes on."""
    data = b'x,"open\n' + b"row,1\n" * 100

    records = split(data, limit=50)

    assert records[0].problem == "has a quote that is never closed"
    assert [record.raw for record in records[1:]] == [b"row,1"] * 100
    assert records[-1].end == len(data)


def test_a_line_longer_than_the_longest_record_is_refused_and_passed_over() -> None:
    """A binary file has no line ends; it must not be read into memory."""
    data = b"a\n" + b"x" * 500 + b"\nb\n"

    records = split(data, limit=50, size=64)

    assert [record.raw for record in (records[0], records[2])] == [b"a", b"b"]
    assert records[1].problem == "is longer than 50 bytes"
    assert len(records[1].raw) <= 128
    assert records[-1].end == len(data)


cells = st.text(
    st.characters(codec="utf-8", exclude_characters="\x00\r", exclude_categories=["Cs"]),
    max_size=12,
)


@given(st.lists(st.lists(cells, min_size=1, max_size=4), max_size=8), st.integers(1, 9))
def test_records_are_those_the_csv_module_wrote_however_the_stream_is_cut(
    rows: list[list[str]], size: int
) -> None:
    """Chunk borders fall anywhere: inside a quote, between CR and LF, inside a letter."""
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)
    data = file.getvalue().encode()

    records = split(data, size=size)

    read = [next(csv.reader([record.raw.decode()]), []) for record in records]
    assert read == rows


@given(st.lists(st.lists(cells, min_size=1, max_size=3), min_size=1, max_size=8), st.data())
def test_reading_on_from_any_records_end_gives_the_same_rest(
    rows: list[list[str]], data: st.DataObject
) -> None:
    """This is what resuming an import after a crash rests on."""
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)
    raw = file.getvalue().encode()
    records = split(raw)
    stop = data.draw(st.integers(0, len(records) - 1))

    rest = split(raw, start=records[stop].end, size=5)

    assert rest == records[stop + 1 :]


@pytest.mark.parametrize(
    ("line", "fields", "delimiter"),
    [
        (b"name,domain", ("name", "domain"), ","),
        (b"\xef\xbb\xbfName;Website;Employees", ("name", "domain", "employee_count"), ";"),
        (
            b"Company Name\tcompany-domain\tNumber_of Employees",
            ("name", "domain", "employee_count"),
            "\t",
        ),
        (b'"Account, Name",domain', (None, "domain"), ","),
        (b"domain", ("domain",), ","),
    ],
)
def test_headers_are_understood_as_exporters_write_them(
    line: bytes, fields: tuple[str | None, ...], delimiter: str
) -> None:
    """Nobody should have to rename columns by hand."""
    header = read_header(line)

    assert (header.fields, header.delimiter) == (fields, delimiter)
    assert Header.from_wire(header.wire()) == header


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"name,city", "no domain column"),
        (b"", "no domain column"),
        (b"domain,website", "more than one column for domain"),
        (b"PK\x03\x04\xff\xfe", "not UTF-8"),
        (b"domain\x00,name", "not text"),
        (b"name,domain\rA,a.example\r", "not valid CSV; lines end"),
    ],
)
def test_a_file_that_is_no_account_list_says_why(line: bytes, problem: str) -> None:
    """The reason becomes the job's error message."""
    with pytest.raises(UnreadableFile, match=problem):
        read_header(line)


def row(line: str | bytes) -> object:
    raw = line if isinstance(line, bytes) else line.encode()
    return read_row(HEADER, Record(raw, len(raw)))


def test_a_good_row_is_cleaned() -> None:
    """People paste addresses and group digits."""
    assert row('Acme , https://www.ACME.example/about ,,"1,250",$1 200 000.50,') == {
        "name": "Acme",
        "domain": "acme.example",
        "employee_count": 1250,
        "annual_revenue": 1200000.5,
    }


@pytest.mark.parametrize(
    ("cell", "value"),
    [("1200.00", 1200), ("1'200", 1200), ("12,34,567", 1234567), ("€ 1\u202f200.5", 1200.5)],
)
def test_numbers_are_read_as_people_group_them(cell: str, value: float) -> None:
    """But never where a comma may be a decimal one."""
    assert row(f'A,a.example,,,"{cell}"') == {
        "name": "A", "domain": "a.example", "annual_revenue": value,
    }  # fmt: skip


def test_short_rows_are_taken_and_blank_ones_passed_over() -> None:
    """Trailing commas are often cut off."""
    assert row("Acme,acme.example") == {"name": "Acme", "domain": "acme.example"}
    assert row("  ") is None
    assert row(",,,,,") is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Acme,,Tools", BadRow("is missing", "domain")),
        ("Acme,not a domain", BadRow("is not a domain: not a domain", "domain")),
        ("Acme,acme.example,,many", BadRow("is not a number: many", "employee_count")),
        ("Acme,acme.example,,-3", BadRow("is not a number: -3", "employee_count")),
        ("Acme,acme.example,,1.5", BadRow("is not a whole number: 1.5", "employee_count")),
        ('Acme,acme.example,,"12,5"', BadRow("is not a number: 12,5", "employee_count")),
        ('Acme,acme.example,,,"1,5"', BadRow("is not a number: 1,5", "annual_revenue")),
        ("Acme,acme.example,,,1.200", BadRow("is not a number: 1.200", "annual_revenue")),
        ("Acme,acme.example,,,1e99", BadRow("is not a number: 1e99", "annual_revenue")),
        ("a,b.example,c,1,2,d,e", BadRow("has 7 columns, the header has 6")),
        ('Acme,"acme.example"x', BadRow("is not valid CSV")),
        ("Acme\x00,acme.example", BadRow("holds the character U+0000")),
        (b"Caf\xe9,cafe.example", BadRow("is not UTF-8 text")),
        ("x" * 501 + ",acme.example", BadRow("is longer than 500 characters", "name")),
    ],
)
def test_a_bad_row_names_its_field_and_problem(line: str | bytes, expected: BadRow) -> None:
    """The error file is what people mend their list by."""
    assert row(line) == expected


@pytest.mark.parametrize(
    ("cell", "kept"),
    [
        ("plain, text; here", "plain, text; here"),
        ("=cmd()", "'=cmd()"),
        ("ok;=cmd()|x", "ok;'=cmd()|x"),
        ("ok,\t=cmd()", "ok,\t'=cmd()"),
        ("ok|@x;-1", "ok|'@x;'-1"),
        ("a\n+1", "a\n'+1"),
        ("\r=1", "'\r'=1"),
        ("2-1=1", "2-1=1"),
    ],
)
def test_no_cell_is_a_formula_whichever_separator_the_reader_takes(cell: str, kept: str) -> None:
    """A row of somebody's file is text, also where a list is cut at semicolons."""
    line = _csv_line([5, "", cell])

    assert next(csv.reader(io.StringIO(line, newline=""))) == ["5", "", kept]
