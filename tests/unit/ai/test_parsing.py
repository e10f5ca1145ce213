"""Parsing of a language model's output into the requested JSON shape."""

import io
import json
import re
from functools import partial
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from minutehand.ai import parsing
from minutehand.ai.parsing import UnparsableOutput, is_plain_text, read_shape
from minutehand.ai.partial_json import MAX_WRITTEN, PartialField

Line = Annotated[str, Field(min_length=1, max_length=60)]


class Text(BaseModel):
    """A shape with one text member."""

    text: Line


class Lines(BaseModel):
    """A shape with one list member."""

    points: Annotated[list[Line], Field(min_length=1)]


class Reply(BaseModel):
    """A shape without required members. A text must name a member to match the shape."""

    tier: Literal["standard", "async"] = "standard"
    reply: str = ""
    title: str = ""


class Costs(BaseModel):
    """A shape with a title and a list of numbers."""

    title: Line
    costs: list[float]


SAID = {"text": "It rains."}
RAW = json.dumps(SAID)
COSTS = '{"title": "Roof", "costs": [1, 2]}'
Shaped = type[BaseModel]


@pytest.mark.parametrize(
    ("text", "shape", "expected"),
    [
        ("It rains.", Text, SAID),
        ('"It rains."', Text, SAID),
        (f'{{"text": "A draft"}}\nBetter:\n{RAW}', Text, SAID),
        (json.dumps({"answer": SAID}), Text, SAID),
        (json.dumps({"answer": "It rains."}), Text, SAID),
        (json.dumps({"name": "text", "arguments": RAW}), Text, SAID),
        (json.dumps([SAID]), Text, SAID),
        (json.dumps(RAW), Text, SAID),
        ("{text: 'It rains.' // in short\n}", Text, SAID),
        (f"<think>Is it {{so}}? No.\n{RAW}", Text, SAID),
        ('["a", " ", "b"]', Lines, {"points": ["a", "b"]}),
        ('```json\n{"title": "Roof", "costs": [1, 2,]}\n```', Costs, json.loads(COSTS)),
        ("[Rain](/rain) is water.", Reply, {"reply": "[Rain](/rain) is water."}),
        ('JSON is {"a": 1}.', Reply, {"reply": 'JSON is {"a": 1}.'}),
        ("42", Reply, {"reply": "42"}),
        ('{"text": "Line\nbreak"}', Text, {"text": "Line\nbreak"}),
        (json.dumps({"text": RAW}), Text, SAID),
        (f"```json {RAW} ```", Text, SAID),
        (f"json\n{RAW}", Text, SAID),
        (f"\ufeff{RAW}", Text, SAID),
        (f"For {{you}}, 3 of 3:\n{RAW}\nHope it {{helps}}!", Text, SAID),
    ],
)
def test_an_answer_is_read_leniently(text: str, shape: Shaped, expected: Any) -> None:
    """An answer with extra text or small JSON errors is read, because it is already paid for."""
    field = "reply" if shape is Reply else None
    found = read_shape(text, shape, field=field)
    assert found == shape.model_validate(expected)


@pytest.mark.parametrize(
    ("text", "shape", "why"),
    [
        ("   ", Text, "no JSON"),
        ("\u200b\u3164", Reply, "no JSON"),
        ('{"text": " \u00a0 "}', Text, "text: "),
        ('{"points": ["", " "]}', Lines, "points: "),
        ("reply: It rains.", Reply, "no JSON"),
        ("It rains.", Costs, "no JSON"),
        ("null", Reply, "no JSON"),
        ('{"title": "Roof", "costs": [1e999]}', Costs, "inf"),
        ('Sure: {"title": "Roof", "costs": [NaN]}', Costs, "nan"),
        ('{"title": "Roof", "costs": ["Infinity"]}', Costs, "inf"),
        ('{"title": "Roof", "costs": ["many"]}', Costs, "costs.0: "),
        ('{"title": ' + "[" * 9_000, Costs, "no JSON"),
    ],
)
def test_what_is_no_answer_says_why(text: str, shape: Shaped, why: str) -> None:
    """An output that does not match the shape is rejected with a reason.

    The reason is given to the model in the second prompt.
    """
    with pytest.raises(UnparsableOutput, match=why) as raised:
        read_shape(text, shape, field="reply" if shape is Reply else None)
    assert not raised.value.cut_off


def test_a_repair_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "MAX_SECONDS", 0.2)
    with pytest.raises(UnparsableOutput, match="no JSON"):
        read_shape("{" * 30_000 + "x" * 60_000, Costs)


@pytest.mark.parametrize(
    "text",
    [
        "**Tier:** standard\n**Reply:** It rains.",
        "- tier: standard\n- reply: It rains.",
        "Tier: standard\nReply: It rains.",
        "## Tier\nstandard\n## Reply\nIt rains.",
        "<tier>standard</tier><reply>It rains.</reply>",
        'tier = "standard"\nreply = "It rains."',
        "TIER=standard\nREPLY=It rains.",
        "Reply(tier='standard', reply='It rains.')",
        "| Member | Value |\n|---|---|\n| tier | standard |\n| reply | It rains. |",
        "<function=answer>\n<parameter=tier>\nstandard\n<parameter=reply>\nIt rains.",
    ],
)
def test_an_object_in_another_notation_is_no_prose(text: str) -> None:
    """An object in another notation, such as YAML or XML, is not accepted as a plain text answer.

    Users would otherwise read field names.
    """
    of_text = re.sub("(?i)reply", "text", text)
    for tried, shape, field in ((text, Reply, "reply"), (of_text, Text, "text")):
        with pytest.raises(UnparsableOutput, match="no JSON"):
            read_shape(tried, shape, field=field)
    written = Written()
    prose = partial(is_plain_text, shape=Reply, field="reply")
    growing = PartialField("reply", written, is_plain_text=prose)
    for letter in f"{text} {'And it rains. ' * 9}":
        growing.add(letter)
    assert written == []


@pytest.mark.parametrize(
    "text",
    [
        "Title: Rain\n\nIt rains, and it rains.",
        "**Title:** Rain\n**Reply:** I would write to them.",
        "**Question:** What is rain?\n**Options:** water, tea",
        "A `reply` of a server has a `tier` in its head.",
    ],
)
def test_a_word_that_is_also_a_members_name_is_prose(text: str) -> None:
    assert read_shape(f"{text}<|im_end|>", Reply, field="reply").reply == text


@pytest.mark.parametrize("cut", range(2, len(COSTS)))
def test_a_beginning_is_no_answer(cut: int) -> None:
    """The beginning of an answer that broke off is not repaired into a whole answer."""
    for before in ("Sure:", COSTS):
        with pytest.raises(UnparsableOutput) as raised:
            read_shape(f"{before}\n{COSTS[:cut]}", Costs)
        assert raised.value.cut_off


def test_only_a_whole_object_counts_where_the_model_stopped_at_its_limit() -> None:
    assert read_shape(COSTS, Costs, whole=False) == Costs(title="Roof", costs=[1, 2])
    for text, shape in ((COSTS.replace('"', "'"), Costs), ("It rains.", Text)):
        with pytest.raises(UnparsableOutput) as raised:
            read_shape(text, shape, whole=False)
        assert raised.value.cut_off


class Written(list[str]):
    """The streamed text, as a list of its pieces."""

    write = list.append

    def replace(self, text: str) -> None:
        """Discard the streamed text, and begin again."""
        self[:] = [text]

    @property
    def text(self) -> str:
        return "".join(self)


@pytest.mark.parametrize("size", [1, 7, 400])
def test_a_field_is_written_as_it_grows(size: int) -> None:
    """The value of a JSON field is streamed while it arrives.

    No letter is lost or repeated, whatever the size of the pieces.
    """
    reply = 'He said "no" \\ twice: \u00e9 \U0001f327 \n' * 5
    text = f"Sure!\n{json.dumps({'tier': 'standard', 'reply': reply, 'more': [1]})}"
    written = Written()
    growing = PartialField("reply", written, is_plain_text=bool)
    for at in range(0, len(text), size):
        growing.add(text[at : at + size])
        assert reply.startswith(written.text)
    growing.end(reply)

    assert written.text == reply
    assert len(written) > (len(reply) // (7 * size) if size < 9 else 0)


def test_what_is_longer_than_any_answer_is_shown_in_part() -> None:
    """An answer that is too long is streamed up to a maximum length."""
    written = Written()
    growing = PartialField("reply", written, is_plain_text=bool)
    for _ in range(60):
        growing.add("words " * 1000)

    assert written.text == ("words " * 60_000)[:MAX_WRITTEN]


def test_prose_is_written_once_it_is_no_preamble_and_another_answer_replaces_it() -> None:
    """Plain text is streamed when it is clearly no preamble.

    A second answer replaces the first at its first other letter, or at its end. A sink that cannot
    replace its text keeps the first answer.
    """
    written, kept = Written(), io.StringIO()
    fields = [PartialField("reply", sink, is_plain_text=bool) for sink in (written, kept)]
    for growing in fields:
        growing.add("Sure, here is what I know about the rain")
    assert written == []
    for growing in fields:
        growing.add(" that falls on the plain")
    before = written.text
    assert before.startswith("Sure, here is what")

    for growing in fields:
        growing.restart()
        growing.add('{"reply": "Sure, here')
    assert written.text == before
    for growing in fields:
        growing.add(" it rains.")
    assert written == ["Sure, here it rains."]
    for growing in fields:
        growing.add(' And snows."}')
        growing.end("Sure, here it rains.")
    assert written == ["Sure, here it rains."]
    assert kept.getvalue() == before


def test_a_list_is_written_as_lines() -> None:
    written = Written()
    growing = PartialField("points", written, is_plain_text=bool)
    for piece in ('{"points": ["It ra', 'ins.", "It', ' snows."]}'):
        growing.add(piece)
    assert written == ["It ra", "ins.\nIt", " snows."]
