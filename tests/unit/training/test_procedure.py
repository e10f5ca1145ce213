"""Procedures: checked against the transcript, extracted word by word, and told as text."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minutehand.ai.errors import AnswerUnusable
from minutehand.ai.language_model import Completion
from minutehand_apps.training.errors import StageError
from minutehand_apps.training.models import Procedure, SpokenSegment, Step, TimedSegment
from minutehand_apps.training.procedure import clock, extract, markdown, read_answer, write_prompt
from tests.unit.training.spoken.measure import measure_all

CONDITIONS = Path(__file__).parent / "spoken" / "conditions.txt"
LEADS = (
    "and then ", "after that ", "first ", "then ", "next ", "now ", "finally ", "i ",
    "you need to ", "you have to ", "you should ", "please ", "we ", "you ", "can now ", "just ",
    "simply ", "remember to ", "am going to ", "let's ",
)  # fmt: skip
SAID = [
    SpokenSegment(start=0.5, end=3.0, text="first turn off the power"),
    SpokenSegment(start=4.0, end=6.0, text="and wait a minute"),
    SpokenSegment(start=7.0, end=9.0, text="be careful the lamp is hot"),
    SpokenSegment(start=61.0, end=70.0, text="then unscrew it with a small key"),
]


def answer(**changes: Any) -> Completion:
    body = {
        "title": "Change the lamp",
        "purpose": "Light.",
        "materials": ["key"],
        "warnings": ["Hot."],
        "steps": [
            {"title": "Unscrew", "detail": "", "at_seconds": 61.0},
            {"title": "Off", "detail": "", "at_seconds": 0.5},
        ],
        **changes,
    }
    return Completion(text=json.dumps(body), model="test-model")


def test_steps_come_in_the_order_of_the_video() -> None:
    """Each with the time of what was said; the prompt carries these times."""
    found = read_answer(answer(), SAID)
    prompt = write_prompt("Lamp", SAID)

    assert [step.title for step in found.steps] == ["Off", "Unscrew"]
    assert "[61.0] then unscrew it" in prompt.material[1].text


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": []},
        {"steps": [{"title": "x", "detail": "", "at_seconds": -1}]},
        {"steps": [{"title": "x", "detail": "", "at_seconds": 30.0}]},
        {"steps": [{"title": "x", "detail": "", "at_seconds": 1e9}]},
        {"steps": [{"title": "", "detail": "", "at_seconds": 0.5}]},
        {"title": "half \ud800"},
        {"steps": [{"title": "x", "detail": "\U0001f527" * 2000, "at_seconds": 0.5}] * 200},
    ],
    ids=["no steps", "before", "in a gap", "after", "untitled", "broken", "too large"],
)
def test_an_answer_of_another_shape_is_refused(changes: dict[str, Any]) -> None:
    """A time where nothing is said comes from nowhere in the video."""
    with pytest.raises(AnswerUnusable):
        read_answer(answer(**changes), SAID)


def test_members_that_no_one_asked_for_are_dropped() -> None:
    """The answer is paid for; what is needed of it is there."""
    steps = [{"title": "Off", "at_seconds": 0.5, "severity": "high", "doubtful": True}]
    found = read_answer(answer(surprise=1, steps=steps), SAID)

    assert [(step.title, step.doubtful) for step in found.steps] == [("Off", False)]


def test_what_no_table_can_hold_is_replaced() -> None:
    """A model that writes a NUL character is paid once, not at every attempt."""
    found = read_answer(answer(title="Change\x00 the lamp", warnings=["a\x00b"]), SAID)

    assert (found.title, found.warnings) == ("Change\ufffd the lamp", ["a\ufffdb"])


def test_a_procedure_is_extracted_without_a_model() -> None:
    """It says what was said and nothing else, and says that of itself."""
    found = extract("Lamp", SAID)

    assert [(step.title, step.detail, step.at_seconds) for step in found.steps] == [
        ("Turn off the power", "", 0.5),
        ("Wait a minute", "", 4.0),
        ("Unscrew it with a small key", "", 61.0),
    ]
    assert found.warnings == ["Be careful the lamp is hot"]
    assert found.materials == ["small key"]
    assert "without a language model" in found.purpose
    unmarked = extract("x", [SpokenSegment(start=n, end=n + 1, text="open it") for n in range(250)])
    assert len(unmarked.steps) <= 200


def test_continuous_speech_is_cut_where_steps_begin() -> None:
    """By cue words and by commands; only its own clause goes with a warning."""
    text = "hello and welcome first open the cover then take the knife but be careful it is sharp"
    words = f"{text} and cut the rope close the cover thank you for watching".split()
    timed = [(word, n * 0.3, n * 0.3 + 0.29) for n, word in enumerate(words)]
    said = TimedSegment(start=0, end=len(words) * 0.3, text=" ".join(words), words=timed)

    found = extract("Rope", [said])

    assert [step.title for step in found.steps] == [
        "Open the cover", "Take the knife", "Cut the rope", "Close the cover",
    ]  # fmt: skip
    assert found.warnings == ["Be careful it is sharp"]
    assert found.steps[1].at_seconds == pytest.approx(6 * 0.3 + 0.3)


def test_spoken_instructions_become_their_procedures() -> None:
    """Over what the offline engine recognised of 14 of them, see spoken/speak.py."""
    every = measure_all()
    found, spoken = sum(one.found for one in every), sum(one.spoken for one in every)

    assert len(every) >= 12
    assert all(59.5 <= one.seconds <= 300 for one in every)
    assert found / spoken >= 0.9
    assert [one.name for one in every if one.share < 0.65] == []
    assert [one.in_warnings for one in every if one.in_warnings] == []
    assert [one.greetings for one in every if one.greetings] == []


def test_what_people_wrote_stays_text_in_markdown() -> None:
    """No markup, no image, no link comes out of a title."""
    found = Procedure(
        title="# <b>x</b> ![i](http://x)",
        steps=[Step(title="a\n# b", detail="*c*", at_seconds=3661)],
        warnings=["write &lt; for $x$"],
    )
    text = markdown(found, note="Version 1")

    assert r"- write \&lt; for \$x\$" in text

    assert r"# \# \<b\>x\</b\> \!\[i\]\(http://x\)" in text
    assert r"1. **a \# b** (1:01:01)" in text
    assert r"\*c\*" in text


def test_times_read_as_people_write_them() -> None:
    """Minutes, and hours where there are any."""
    assert [clock(s) for s in (0, 65.9, 3600)] == ["0:00", "1:05", "1:00:00"]


def test_a_transcript_beyond_one_prompt_is_refused() -> None:
    """Told, not cut off."""
    long = [SpokenSegment(start=n, end=n + 1, text="word " * 100) for n in range(500)]

    with pytest.raises(ValueError, match="characters"):
        write_prompt("Long", long)


def spoken(line: str, *, pause: float, mark: str) -> TimedSegment:
    """A line of conditions.txt as words with times, and what stands behind each clause."""
    words: list[tuple[str, float, float]] = []
    at = 0.0
    for part in line.split("|"):
        for word in part.strip(" +!").split():
            words.append((word, at, at + 0.29))
            at += 0.3
        words[-1] = (words[-1][0] + mark, *words[-1][1:])
        at += pause
    return TimedSegment(start=0, end=at, text=" ".join(word for word, *_ in words), words=words)


def test_conditions_stay_with_their_commands() -> None:
    """A command without its condition is worse than no procedure: of 63 texts none is torn.

    Where nothing in the words tells which of two commands a condition is for, both are one step.
    """
    lines = [line for line in CONDITIONS.read_text().splitlines() if not line.startswith("#")]
    asked = found = 0
    for line, (pause, mark) in itertools.product(lines, ((0.6, ""), (0.0, ""), (0.0, "."))):
        procedure = extract("x", [spoken(line, pause=pause, mark=mark)])
        steps = [f"{s.title} {s.detail}".strip(" .").lower() for s in procedure.steps]
        warned = " ".join(procedure.warnings).lower()
        for part in map(str.strip, line.split("|")):
            if part.startswith("!"):
                assert part.strip("! ") in warned
            elif part.startswith("+"):
                bare = part.strip("+ ")
                for lead in LEADS:
                    bare = bare.removeprefix(lead)
                asked += 1
                found += bare in steps
                assert any(bare in step for step in steps), (bare, steps)  # neither torn nor lost
                assert bare not in warned

    assert len(lines) == 63
    assert found / asked >= 0.95, f"{found} of {asked}"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("open the valve only if the pressure is below two bar", "close the gate"),
        ("close the tap unless you need more water", "dry the sink"),
        ("tighten it if the light is red", "close the hood"),
        ("never open the door unless the drum has stopped", "close the flap"),
        ("do not start the pump if the valve is open", "close the gate"),
    ],
)
def test_a_condition_behind_its_command_stays_with_it(first: str, second: str) -> None:
    """It is not the next one's in addition: the end of a sentence tells, a pause alone does not."""
    ended = spoken(f"turn it on | {first} | {second}", pause=0.0, mark=".")
    # some engines write full stops into the text alone
    plain = [(word.strip("."), *times) for word, *times in ended.words]
    paused = spoken(f"turn it on | {first} | {second}", pause=0.6, mark="")

    for said in (ended, TimedSegment.model_validate({**ended.model_dump(), "words": plain})):
        found = extract("x", [said])
        every = [step.title.lower().strip(".") for step in found.steps]
        assert [*every, *(text.lower().strip(".") for text in found.warnings)] in (
            ["turn it on", first, second], ["turn it on", second, first],
        )  # fmt: skip
    found = extract("x", [paused])
    every = [text.lower() for text in (*(step.title for step in found.steps), *found.warnings)]
    assert f"{first} {second}" in every or first in found.warnings[0].lower()


ORDERS = st.sampled_from(["open the lid", "press it", "wipe both screws", "take a new filter"])
CASES = st.builds(
    "{} {}".format,
    st.sampled_from(["if", "unless", "when", "once", "as soon as", "in case"]),
    st.sampled_from([
        "the lamp is red", "it does not fit", "the belt has a crack", "you hear a noise",
        "someone left the key inside", "the motor gives off the smell of oil",
    ]),
)  # fmt: skip
SENTENCES = (
    ORDERS | st.builds("{} {}".format, CASES, ORDERS) | st.builds("{} {}".format, ORDERS, CASES)
)


@settings(derandomize=True)  # the same sentences in every run
@given(st.lists(SENTENCES, min_size=1, max_size=6), st.sampled_from([(0.6, ""), (0.0, ".")]))
def test_no_condition_is_torn_from_its_command(said: list[str], how: tuple[float, str]) -> None:
    """Before its command or behind it, in whatever order the sentences come."""
    found = extract("x", [spoken("|".join(["start it", *said]), pause=how[0], mark=how[1])])

    kept = [f"{step.title} {step.detail}".replace(".", "").lower() for step in found.steps]
    assert [one for one in said if not any(one in step for step in kept)] == []


def test_a_sentence_keeps_its_beginning() -> None:
    """A hand or a purpose that is named first is not the step's before."""
    sentences = ["stir the mix", "with your left hand hold the pipe", "to open it press the tab"]
    found = extract("x", [spoken("|".join(sentences), pause=0.0, mark=".")])

    assert [step.title.lower().strip(".") for step in found.steps] == sentences


def test_speech_without_an_instruction_is_no_procedure() -> None:
    """Music, noise and small talk fail with a word of their own; the transcript is kept."""
    for text in ("all all", "hello and welcome to this video", "be careful the lamp is hot"):
        with pytest.raises(StageError, match="no instruction") as failed:
            extract("x", [SpokenSegment(start=0, end=2, text=text)])
        assert failed.value.code == "no_instructions"
    text = "in to an end even then the end of the the fifth in the fifth"
    timed = [(word, n * 0.3, n * 0.3 + 0.29, 0.2) for n, word in enumerate(text.split())]
    with pytest.raises(StageError, match="no instruction"):
        extract("x", [TimedSegment(start=0, end=9, text=text, words=timed)])


def test_another_language_is_listed_as_it_is_and_said_so() -> None:
    """There are no rules for it: no step, no warning and no material is made up."""
    text = "schalten sie die maschine aus und warten sie eine minute nicht die klappe berühren"
    said = [SpokenSegment(start=n, end=n + 1, text=text) for n in (0, 4)]

    for found in (extract("x", said, language="de"), extract("x", said)):
        assert [step.at_seconds for step in found.steps] == [0, 4]
        assert found.steps[0].title.startswith("Schalten sie die maschine aus")
        assert "no rules" in found.purpose
        assert (found.warnings, found.materials) == ([], [])


def test_what_the_recogniser_doubts_is_marked() -> None:
    """And each step has the words that it came from."""
    texts = ["first", "open", "the", "lid", "then", "close", "the", "lit"]
    words = [
        (w, n + n // 4 * 2, n + n // 4 * 2 + 0.9, 0.9 - n // 4 * 0.7) for n, w in enumerate(texts)
    ]
    said = [TimedSegment(start=0, end=10, text=" ".join(texts), words=words)]

    found = extract("x", said)

    assert [(step.said, step.doubtful) for step in found.steps] == [
        ("first open the lid", False), ("then close the lit", True),
    ]  # fmt: skip
    assert "2. **Close the lit** (0:06), doubtful" in markdown(found)
