"""A language model in a job: asked for a shape, mended once, waited for while it is away.

What is asked and what an answer must be are the caller's. That an answer is remembered is its
step's or stage's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from minutehand.ai.errors import AnswerCutOff, AnswerUnusable, LanguageModelError
from minutehand.ai.language_model import Completion, LanguageModel, Material, Prompt
from minutehand.ai.parsing import Unreadable, is_prose, only_text, read_shape
from minutehand.ai.partial_json import GrowingField, Words
from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.vendor import VendorCalls, VendorError

Shape = TypeVar("Shape", bound=BaseModel)
#: Most of an answer that could not be used that is shown to the model again.
MOST_SHOWN_AGAIN: Final = 4_000
#: Of an answer that breaks off for a reason that no one gives.
BROKEN_OFF: Final = "The language model broke off its answer. Try again, or ask for less at once."


async def ask_for(
    job: Job[Any],
    ctx: JobContext,
    model: LanguageModel,
    prompt: Prompt,
    shape: type[Shape],
    *,
    check: Callable[[Shape], None] | None = None,
    into: Words | None = None,
    field: str | None = None,
) -> Shape:
    """Ask for a `shape`, whose JSON Schema goes with the prompt; to be called in a step or stage.

    An answer is read leniently, see `reading.read_shape`. One that was cut off is asked for once
    with the model's larger limit, and one of another shape once with what was wrong. What may have
    been charged is counted, `vendor.MOST_CALLS` a step, and its cost added to the job.

    Args:
        check: Refuses an answer of the right shape by a ValueError, whose text the model gets.
        into: Gets the words of `field` as they come, at once what is new of them.
        field: The member that people read, which plain prose fills as well; the one text of the
            shape, if it asks for no more.

    Raises:
        TurnEnded: The model is away or asks to wait, see `VendorCalls.wait`.
        ProcessorError: The model failed, in a sentence for people; retryable where that may help,
            with its code in `data`. What exactly was wrong is in the job's log.
    """
    field = field or only_text(shape)
    if into is not None and field is None:
        raise ValueError(f"field must name what of {shape.__name__} is written")
    growing = None
    if into is not None and field is not None:
        growing = GrowingField(field, into, is_prose=partial(is_prose, shape=shape, field=field))
    asked = _Asked(ctx, model, shape, check, field, growing)
    calls = VendorCalls(job, ctx, prompt.name)
    prompt = replace(prompt, schema=shape.model_json_schema())
    may_grow = may_mend = may_repeat = True
    while True:
        try:
            return await calls.make(lambda prompt=prompt: asked.once(prompt))  # type: ignore[misc]
        except AnswerCutOff as error:
            if not may_grow or prompt.most_tokens >= model.most_tokens:
                calls.end(error)
            may_grow = False
            ctx.log("warning", "Asking the model for a longer answer", reason=str(error))
            prompt = replace(prompt, most_tokens=model.most_tokens)
        except AnswerUnusable as error:
            if not may_mend:
                calls.end(error)
            may_mend = False
            ctx.log("warning", "Asking the model again", reason=str(error))
            prompt = _mending(prompt, error)
        except VendorError as error:
            if error.code != "cut_short" or calls.charged > 1 or not may_repeat:
                calls.end(error)
            # most broken connections are a moment's
            may_repeat = False
            ctx.log("warning", "Asking the model again", reason=str(error))


def _mending(prompt: Prompt, error: AnswerUnusable) -> Prompt:
    note = f"Your answer before could not be used: {error}. Answer again."
    before = Material("Your answer before", error.text[:MOST_SHOWN_AGAIN] or "(none)")
    return replace(
        prompt, instructions=f"{prompt.instructions}\n\n{note}", material=[*prompt.material, before]
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked for, however often that takes."""

    ctx: JobContext
    model: LanguageModel
    shape: type[Any]
    check: Callable[[Any], None] | None
    field: str | None
    growing: GrowingField | None

    async def once(self, prompt: Prompt) -> Any:
        """One call, its cost, and the shape in its answer."""
        found = await self._read(await self._complete(prompt))
        if self.growing is not None:
            self.growing.end(getattr(found, self.field or ""))
        return found

    async def _complete(self, prompt: Prompt) -> Completion:
        """The whole answer; what may have been charged of it is counted, however it ends."""
        model, growing = self.model, self.growing
        try:
            if growing is None:
                answer = await model.complete(prompt)
            else:
                growing.begin_again()
                async with model.stream(prompt) as answering:
                    async for piece in answering:
                        growing.add(piece)
                answer = answering.completion
        except LanguageModelError as error:
            cost = error.cost_usd
            if error.charged and not cost:
                cost = model.cost_of(prompt, error.text)
            self.ctx.cost_usd += cost
            raise
        except BaseException:  # stopped, or its words could not be written
            self.ctx.cost_usd += model.cost_of(prompt, growing.text if growing else "")
            raise
        self.ctx.cost_usd += answer.cost_usd
        return answer

    async def _read(self, answer: Completion) -> Any:
        try:
            # what is broken is mended in a process of its own
            found = await asyncio.to_thread(
                read_shape, answer.text, self.shape, field=self.field, whole=answer.whole
            )
        except Unreadable as error:
            what = f"The answer of {answer.model}"
            if error.cut_off and answer.whole:
                why = f"{what} breaks off, though the endpoint says that it is whole"
                raise AnswerCutOff(why, said=BROKEN_OFF, text=answer.text) from error
            if error.cut_off:
                raise AnswerCutOff(
                    f"{what} was cut off; LANGUAGE_MODEL_MOST_TOKENS is the limit", text=answer.text
                ) from error
            raise AnswerUnusable(
                f"{what} is not in the requested form: {error}", text=answer.text
            ) from error
        try:
            if self.check is not None:
                self.check(found)
        except ValueError as error:
            why = f"The answer of {answer.model} cannot be used: {error}"
            raise AnswerUnusable(why, text=answer.text) from error
        return found
