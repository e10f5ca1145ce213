"""A language model in a job: asked for a shape, mended once, each answer's cost on the job.

What is asked and what an answer must be are the caller's. That an answer is remembered is its
step's or stage's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from minutehand.ai.errors import AnswerUnusable, LanguageModelError
from minutehand.ai.language_model import Completion, LanguageModel, Material, Prompt
from minutehand.queue.errors import ProcessorError

Shape = TypeVar("Shape", bound=BaseModel)


class InJob(Protocol):
    """The job's part in asking, as its `JobContext` has it."""

    cost_usd: float

    def log(self, level: str, message: str, /, **metadata: object) -> object:
        """Add a line to the job's log."""


async def ask_for(
    ctx: InJob,
    model: LanguageModel,
    prompt: Prompt,
    shape: type[Shape],
    *,
    check: Callable[[Shape], None] | None = None,
) -> Shape:
    """Ask for a `shape`, whose JSON Schema goes with the prompt; to be called in a step or stage.

    Args:
        check: Refuses an answer of the right shape by a ValueError, whose text the model gets.

    Raises:
        ProcessorError: The model failed. It may be retried, after what the model's service asked
            for, where that may help; `data` has the error's code and what to hope for.
    """
    prompt = replace(prompt, schema=shape.model_json_schema())
    try:
        try:
            return await _ask(ctx, model, prompt, shape, check)
        except AnswerUnusable as error:
            ctx.log("warning", "Asking the model again", reason=str(error))
            note = f"Your answer before could not be used: {error}. Answer again."
            before = Material("Your answer before", error.text[:4000] or "(none)")
            mending = replace(
                prompt,
                instructions=f"{prompt.instructions}\n\n{note}",
                material=[*prompt.material, before],
            )
            return await _ask(ctx, model, mending, shape, check)
    except LanguageModelError as error:
        raise ProcessorError(
            str(error),
            retryable=error.hope == "later",
            retry_after=error.retry_after.total_seconds() if error.retry_after else None,
            data={"code": error.code, "hope": error.hope},
        ) from error


async def _ask(
    ctx: InJob,
    model: LanguageModel,
    prompt: Prompt,
    shape: type[Shape],
    check: Callable[[Shape], None] | None,
) -> Shape:
    try:
        answer = await model.complete(prompt)
    except LanguageModelError as error:
        ctx.cost_usd += error.cost_usd
        raise
    ctx.cost_usd += answer.cost_usd
    found = read_shape(answer, shape)
    try:
        if check is not None:
            check(found)
    except ValueError as error:
        why = f"The answer of {answer.model} cannot be used: {error}"
        raise AnswerUnusable(why, text=answer.text) from error
    return found


def read_shape(completion: Completion, shape: type[Shape]) -> Shape:
    """The answer as `shape`.

    Raises:
        AnswerUnusable: It is not JSON of that shape; the first field at fault is named.
    """
    try:
        return shape.model_validate(completion.data())
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "the whole"
        why = f"The answer of {completion.model} is not in the requested form: {where}"
        raise AnswerUnusable(why, text=completion.text) from error
