"""Output streams: characters that are split into two halves, and streams that are already open."""

import asyncio
from typing import Any

import pytest

from minutehand.worker import Job, JobContext
from minutehand.worker.testing import ProcessorTest, Run
from minutehand.worker.updates import Updates
from tests.support.virtual_time import leaping

HIGH, LOW = "\ud83d", "\ude00"
LOST = "In stream 'reply' broken surrogates were replaced"


async def write(*pieces: Any) -> Run:
    """Run a job that writes these pieces to a stream and returns the whole text."""

    async def run(job: Job[Any], ctx: JobContext) -> str:
        async with ctx.stream("reply") as words:
            for piece in pieces:
                words.write(piece)
        return words.text

    return await ProcessorTest(run, None).run()


@pytest.mark.parametrize(
    ("pieces", "text", "lost"),
    [
        (("a" + HIGH, "", LOW, "b"), "a😀b", []),
        (("🚀" + HIGH, LOW + HIGH, LOW), "🚀😀😀", []),
        (("a" + HIGH,), "a\ufffd", [LOST]),
        (("a", LOW + "b", LOW), "a\ufffdb\ufffd", [LOST]),
        ((HIGH, HIGH, LOW), "\ufffd😀", [LOST]),
        (("\ufffd", "b"), "\ufffdb", []),
        (("a\x00",), "a\ufffd", ["In stream 'reply' NUL characters were replaced"]),
    ],
)
async def test_halves_of_a_character_are_joined_and_a_lone_one_is_logged(
    pieces: tuple[str, ...], text: str, lost: list[str]
) -> None:
    """Two halves of a character in two pieces are joined. A single half is replaced and logged."""
    run = await write(*pieces)

    assert (run.output["reply"], run.result) == (text, text)
    assert [line.message for line in run.logs] == lost


def test_a_half_stays_with_the_step_that_wrote_it() -> None:
    """A half of a character that one step wrote is not joined with another step's half."""
    tries: list[str] = []

    async def run(job: Job[Any], ctx: JobContext) -> str:
        async with ctx.stream("reply") as words:

            async def say(text: str) -> None:
                tries.append(text)
                words.write(text)
                if len(tries) == 1:
                    raise ValueError("broken")

            await ctx.step("say", lambda: say("a" + HIGH), tries=2)
            await ctx.step("end", lambda: say(LOW + "b"))
        return words.text

    ran = leaping(ProcessorTest(run, None).run())

    assert ran.output["reply"] == ran.result == "a\ufffd\ufffdb"


def test_a_restart_is_reported_with_its_first_chunk() -> None:
    updates = Updates()
    updates.start_stream("reply", 2)
    updates.add_output("reply", 2, 0, None, "Hello", is_text=True)

    [chunk] = updates.take(max_bytes=1).output
    assert (chunk.attempt, chunk.text) == (2, "Hello")


async def test_a_step_replaces_only_its_own_text() -> None:
    async def run(job: Job[Any], ctx: JobContext) -> str:
        async with ctx.stream("reply") as words:

            async def say(text: str) -> None:
                words.write("half" + HIGH)
                words.replace(text)
                words.write("!")

            await ctx.step("say", lambda: say("a"))
            await say("b")
            await ctx.step("end", lambda: say("c"))
        return words.text

    ran = await ProcessorTest(run, None).run()

    assert ran.output["reply"] == ran.result == "a!b!c!"


async def test_what_is_changed_in_an_item_is_logged() -> None:
    async def run(job: Job[Any], ctx: JobContext) -> Any:
        async with ctx.stream("reply") as items:
            items.write("")
            for _ in range(2):
                items.write({"a": HIGH, "b": HIGH + LOW})
        return items.items

    ran = await ProcessorTest(run, None).run()

    assert ran.output["reply"] == ran.result == [{"a": "\ufffd", "b": "😀"}] * 2
    assert [line.message for line in ran.logs] == [LOST]


async def test_a_stream_that_is_open_cannot_be_opened() -> None:
    """Opening a stream that is already open raises an error. The first writer's text is kept."""

    async def run(job: Job[Any], ctx: JobContext) -> list[str]:
        async def opening() -> str:
            try:
                async with ctx.stream("reply") as words:
                    words.write("first")
                    await asyncio.sleep(0)
                    with pytest.raises(ValueError, match="'reply' is already open"):
                        await ctx.stream("reply").__aenter__()
            except ValueError as error:
                return str(error)
            return "written"

        ends = await asyncio.gather(opening(), opening())
        async with ctx.stream("other") as other, ctx.stream("more") as more:
            other.write("o")
            more.write("m")
        return sorted(end[:17] for end in ends)

    ran = await ProcessorTest(run, None).run()

    assert ran.result == ["stream 'reply' is", "written"]
    assert ran.output == {"reply": "first", "other": "o", "more": "m"}
