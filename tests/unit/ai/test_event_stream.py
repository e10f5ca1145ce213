"""Events come out the same, however their bytes were cut on the way."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minutehand.ai.event_stream import EventStreamParser, EventStreamTooLong, ServerEvent

TEXTS = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=20)
ENDS = st.sampled_from(["\n", "\r", "\r\n"])


def parse(raw: bytes, cuts: list[int]) -> list[ServerEvent]:
    """Feed `raw` in the pieces that `cuts` make of it."""
    parser = EventStreamParser()
    places = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    return [
        event for begin, end in itertools.pairwise(places) for event in parser.feed(raw[begin:end])
    ]


@given(
    st.lists(st.lists(TEXTS, min_size=1, max_size=3), max_size=4),
    ENDS,
    st.booleans(),
    st.lists(st.integers(0, 500), max_size=8),
)
def test_any_split_of_the_bytes_gives_the_same_events(
    events: list[list[str]], end: str, mark: bool, cuts: list[int]
) -> None:
    """Within a character, between the halves of a line's end, anywhere."""
    text = ": hello" + end + end
    for lines in events:
        text += "".join(f"data: {line}{end}" for line in lines) + "retry: 5" + end + end
    raw = ("\ufeff" * mark + text).encode()

    assert parse(raw, cuts) == [ServerEvent("\n".join(lines)) for lines in events]


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=6))
def test_no_bytes_break_it(raw: bytes, cuts: list[int]) -> None:
    """And those that are no UTF-8 say the same in any pieces."""
    assert parse(raw, cuts) == parse(raw, [])


def test_fields_are_read_as_the_standard_says() -> None:
    """One space goes, types last for one event, an event not ended is never told."""
    raw = b"event: a\ndata:x\ndata:  y\n\ndata\n\nevent: b\n\ndata: lost"

    assert parse(raw, []) == [ServerEvent("x\n y", "a"), ServerEvent("")]


def test_an_event_without_an_end_is_given_up() -> None:
    """Memory is bounded."""
    parser = EventStreamParser()
    with pytest.raises(EventStreamTooLong):
        parser.feed(b"data: " + b"x" * (parser.MOST_CHARACTERS + 1))
