"""How much of a history is read, how live text joins, and what a stream repeats."""

from __future__ import annotations

from typing import Any, cast

import pytest

from minutehand.ai.language_model import Prompt, count_tokens
from minutehand.clock import SystemClock
from minutehand.queue.errors import QueueUnavailable
from minutehand.queue.functions import CallerFunctions
from minutehand.web.shared_reads import SharedReads
from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.testing import ProcessorTest
from minutehand_apps.chat import prompts
from minutehand_apps.chat.live import WINDOW, LiveText
from minutehand_apps.chat.models import Item, PastMessage, Text
from minutehand_apps.chat.online_work import parts_of
from minutehand_apps.chat.prompts import clipped, within
from minutehand_apps.chat.session_feed import SessionFeed

TEXTS = [Text(title="One", text="First."), Text(title="Two", text="Second.")]


def test_a_history_is_cut_at_its_budget() -> None:
    """The latest messages are kept, the oldest of them perhaps not whole."""
    history = [PastMessage(author="user", kind="message", text=f"{n}" * 400) for n in range(9)]

    kept = within(history, 250)

    assert [said.text[0] for said in kept] == ["6", "7", "8"]
    assert sum(count_tokens(said.text) for said in kept) <= 250
    assert kept[0].text.endswith("…")
    assert within(history, 0) == []
    assert within([], 100) == []


def test_a_cut_never_splits_a_character() -> None:
    """Whatever its bytes."""
    text = "\U0001f409" * 100
    for most in range(30):
        cut = clipped(text, most)
        assert set(cut) <= {"\U0001f409", "…"}
        assert count_tokens(cut) <= max(1, most)


def test_texts_are_parts_where_they_are_compared() -> None:
    """One text is looked at by its points, two one after the other."""
    compare = Item(kind="compare", title="t", instruction="i")
    draft = Item(kind="draft", title="t", instruction="i")
    assert parts_of(compare, TEXTS, ["a"]) == [("One", TEXTS[:1]), ("Two", TEXTS[1:])]
    assert parts_of(compare, TEXTS[:1], ["a", "b"]) == [("a", TEXTS[:1]), ("b", TEXTS[:1])]
    assert parts_of(draft, TEXTS, ["a"]) == [("a", TEXTS)]


async def test_pieces_of_live_text_join_to_the_whole() -> None:
    """By the place each begins at, also when only some were seen."""
    whole = "".join(f"\U0001f409 word {n} " for n in range(600))

    async def write(_: Job[None], ctx: JobContext) -> None:
        live = LiveText(ctx, SystemClock(), begin=0, end=100, expected_characters=10_000)
        for start in range(0, len(whole), 100):
            live.add(whole[start : start + 100])
            live.show()

    shown = (await ProcessorTest(write, None).run()).progress
    joined = ""
    for progress in [*shown[::7], shown[-1]]:  # the others were coalesced away
        at = int((progress.stage or "").removeprefix("text:"))
        assert at <= len(joined)
        joined = joined[:at] + (progress.message or "")
        assert len(progress.message or "") <= WINDOW

    assert joined == whole


def test_a_message_and_an_item_take_no_more_than_they_are_given() -> None:
    """Of the longest texts in the widest characters; what guest sessions are counted by in SQL."""
    wide = "\U0001f409"
    texts = [Text(title=wide * 200, text=wide * 20_000)] * 5
    history = [PastMessage(author="assistant", kind="result", text=wide * 40_000)] * 60
    item = Item(kind="compare", title="t", instruction=wide * 8000)
    answer = wide * 2500
    # a gist has at most the tokens that its part was allowed to write
    findings = [(f"{n}" + wide * 199, f"{n}" + wide * 799) for n in range(prompts.MOST_PARTS)]

    def most(*made: Prompt) -> int:
        return sum(
            count_tokens(prompt.instructions)
            + sum(count_tokens(part.text) for part in prompt.material)
            + prompt.most_tokens
            for prompt in made
        )

    message = wide * 8000
    assert most(
        prompts.decide(message, texts, history, 0), prompts.reply(message, texts, history, 0)
    ) <= 32_000  # fmt: skip
    part = prompts.part(item, 1, wide * 200, texts, answer, 0)
    assert most(
        prompts.scope(item, texts, 0),
        *[part] * prompts.MOST_PARTS,
        prompts.result(item, findings, answer, 0),
    ) <= 100_000  # fmt: skip


class Functions:
    """A Data API whose second function fails once."""

    def __init__(self) -> None:
        self.cursors: list[str | None] = []

    async def call(self, function: str, **arguments: Any) -> dict[str, Any]:
        """Answer one function."""
        if function == "guest_session_feed":
            self.cursors.append(arguments["cursor"])
            ended = {"job_id": "1", "seq": 7, "type": "job.completed", "data": {}}
            event = {**ended, "created_at": "2026-01-01T00:00:00Z"}
            return {"events": [event], "places": ["5"], "cursor": "9:9:", "more": False}
        if len(self.cursors) == 1:
            raise QueueUnavailable("busy")
        return {"works": {"1": {"type": "research", "title": "Bees"}}}


async def test_events_of_a_read_that_failed_are_read_again() -> None:
    """Between a page and what its lines say about the work, nothing is taken for sent."""
    functions = Functions()
    made = cast(CallerFunctions, functions)
    feed = SessionFeed("s" * 20, made, after=None, reads=SharedReads(), circle="guests")
    with pytest.raises(QueueUnavailable):
        await feed.read()

    assert [line.type for line in (await feed.read()).lines] == ["work_completed"]
    await feed.read()
    assert functions.cursors == [None, None, "9:9:"]
