"""Ask a model until its answer can be used, and count what every answer cost.

What is asked and what an answer must be are the caller's; when a job gives up, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from minutehand.ai.errors import AnswerUnusable
from minutehand.ai.language_model import Completion, LanguageModel, OnText, Prompt, Usage

Value = TypeVar("Value")
Shape = TypeVar("Shape", bound=BaseModel)
#: How often a model is asked when it answers something else.
TRIES: Final = 2


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


async def ask(
    model: LanguageModel,
    prompt: Prompt,
    read: Callable[[Completion], Value],
    *,
    paid: Callable[[float], None],
    tries: int = TRIES,
    on_text: OnText | None = None,
    on_unusable: Callable[[AnswerUnusable], object] | None = None,
) -> Answer[Value]:
    """Ask, and ask again while `read` refuses the answer.

    Args:
        read: Reads an answer; raises AnswerUnusable for one that will not do.
        paid: Called with the US dollars of each answer, usable or not.
        tries: Most requests.
        on_unusable: Called before another try.

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
            paid(usage.cost_usd or 0.0)
            if attempt == tries:
                raise AnswerUnusable(str(error), text=error.text, usage=spent) from error
            if on_unusable is not None:
                on_unusable(error)
            continue
        paid(usage.cost_usd or 0.0)
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
