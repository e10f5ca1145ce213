"""A language model in a job: asked until its answer can be used, each answer's cost on the job.

What is asked and what an answer must be are the caller's. That an answer is remembered is its
step's or stage's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from minutehand.ai.errors import AnswerUnusable, LanguageModelError
from minutehand.ai.language_model import (
    Completion,
    LanguageModel,
    Material,
    OnText,
    Prompt,
    Usage,
)
from minutehand.queue.errors import ProcessorError

Value = TypeVar("Value")
Shape = TypeVar("Shape", bound=BaseModel)
#: How often a model is asked when it answers something else.
TRIES: Final = 2


class InJob(Protocol):
    """The job's part in asking, as its `JobContext` has it."""

    cost_usd: float

    def log(self, level: str, message: str, /, **metadata: Any) -> object:
        """Add a line to the job's log."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[Value]):
    """A usable answer.

    Attributes:
        value: What was read from it.
        completion: The answer itself.
        usage: What all tries took together.
    """

    value: Value
    completion: Completion
    usage: Usage


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
        check: Refuses an answer of the right shape by a ValueError, which the model is told.

    Raises:
        ProcessorError: The model failed. It may be retried, after what the model's service asked
            for, where that may help; `data` has the error's code and what to hope for.
    """

    def read(said: Completion) -> Shape:
        found = read_shape(said, shape)
        try:
            if check is not None:
                check(found)
        except ValueError as error:
            why = f"The answer of {said.model} cannot be used: {error}"
            raise AnswerUnusable(why, text=said.text, usage=said.usage) from error
        return found

    try:
        return (
            await ask(ctx, model, replace(prompt, schema=shape.model_json_schema()), read)
        ).value
    except LanguageModelError as error:
        raise ProcessorError(
            str(error),
            retryable=error.hope == "later",
            retry_after=error.retry_after.total_seconds() if error.retry_after else None,
            data={"code": error.code, "hope": error.hope},
        ) from error


async def ask(
    ctx: InJob,
    model: LanguageModel,
    prompt: Prompt,
    read: Callable[[Completion], Value],
    *,
    tries: int = TRIES,
    on_text: OnText | None = None,
) -> Answer[Value]:
    """Ask, and ask again while `read` refuses the answer; what each costs is added to the job.

    Args:
        read: Reads an answer; raises AnswerUnusable for one that will not do.
        tries: Most requests.

    Raises:
        LanguageModelError: As `complete`; AnswerUnusable carries the usage of all tries.
    """
    spent = Usage()
    for attempt in range(1, tries + 1):
        usage = Usage()
        try:
            completion = await model.complete(prompt, on_text=on_text)
            usage = completion.usage
            value = read(completion)
        except AnswerUnusable as error:
            usage = error.usage if isinstance(error.usage, Usage) else usage
            spent = together(spent, usage)
            ctx.cost_usd += usage.cost_usd or 0.0
            if attempt == tries:
                raise AnswerUnusable(str(error), text=error.text, usage=spent) from error
            ctx.log("warning", "Asking the model again", reason=str(error))
            # mended once: it is told what was wrong with its answer
            wrong = Material("Your answer before", error.text[:4000] or "(none)", derived=True)
            note = f"Your answer before could not be used: {error}. Answer again."
            prompt = replace(
                prompt,
                instructions=f"{prompt.instructions}\n\n{note}",
                material=[*prompt.material, wrong],
            )
            continue
        ctx.cost_usd += usage.cost_usd or 0.0
        return Answer(value, completion, together(spent, usage))
    raise ValueError("tries must be at least 1")


def together(one: Usage, other: Usage) -> Usage:
    """Both; without a price where neither has one."""
    priced = one.cost_usd is not None or other.cost_usd is not None
    return Usage(
        one.input_tokens + other.input_tokens,
        one.output_tokens + other.output_tokens,
        cost_usd=(one.cost_usd or 0.0) + (other.cost_usd or 0.0) if priced else None,
        estimated=one.estimated or other.estimated,
    )


def read_shape(completion: Completion, shape: type[Shape]) -> Shape:
    """The answer as `shape`.

    Raises:
        AnswerUnusable: It is not JSON of that shape; the first field at fault is named.
    """
    try:
        return shape.model_validate(completion.data())
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "the whole"
        raise AnswerUnusable(
            f"The answer of {completion.model} is not in the requested form: {where}",
            text=completion.text,
            usage=completion.usage,
        ) from error
