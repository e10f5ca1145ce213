"""A language model in a job: asked for a shape, mended once, waited for while it is away.

What is asked and what an answer must be are the caller's. That an answer is remembered is its
step's or stage's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from minutehand.ai.errors import AnswerCutOff, AnswerUnusable, LanguageModelError
from minutehand.ai.language_model import Completion, LanguageModel, Material, Prompt
from minutehand.queue.errors import ProcessorError
from minutehand.worker.context import JobContext, TurnEnded
from minutehand.worker.job import Job
from minutehand.worker.outcomes import Snooze
from minutehand.worker.plain import edge

Shape = TypeVar("Shape", bound=BaseModel)
#: How long after its creation a job without a deadline waits for a model without spending attempts.
PATIENCE: Final = timedelta(hours=6)
#: Bounds of the pause before a model that named none is asked again; it grows with the job's age.
SHORTEST_WAIT, LONGEST_WAIT = timedelta(seconds=10), timedelta(minutes=1)
#: Texts with a smaller limit are names, which others refer to: they are never clipped.
SHORTEST_CLIPPED: Final = 40


async def ask_for(
    job: Job[Any],
    ctx: JobContext,
    model: LanguageModel,
    prompt: Prompt,
    shape: type[Shape],
    *,
    check: Callable[[Shape], None] | None = None,
) -> Shape:
    """Ask for a `shape`, whose JSON Schema goes with the prompt; to be called in a step or stage.

    An answer that was cut off is asked for once with the model's larger limit, and one of another
    shape once with what was wrong. Each one's cost is added to the job.

    Args:
        check: Refuses an answer of the right shape by a ValueError, whose text the model gets.

    Raises:
        TurnEnded: The model is away or asks to wait, see `wait_for`.
        ProcessorError: The model failed; retryable where that may help, with its code in `data`.
    """
    prompt = replace(prompt, schema=shape.model_json_schema())
    may_grow = may_mend = True
    while True:
        try:
            return await _ask(ctx, model, prompt, shape, check)
        except AnswerCutOff as error:
            if not may_grow or prompt.most_tokens >= model.most_tokens:
                _end(job, ctx, error)
            may_grow = False
            ctx.log("warning", "Asking the model for a longer answer", reason=str(error))
            prompt = replace(prompt, most_tokens=model.most_tokens)
        except AnswerUnusable as error:
            if not may_mend:
                _end(job, ctx, error)
            may_mend = False
            ctx.log("warning", "Asking the model again", reason=str(error))
            prompt = _mending(prompt, error)
        except LanguageModelError as error:
            _end(job, ctx, error)


def wait_for(job: Job[Any], ctx: JobContext, error: LanguageModelError) -> None:
    """End the attempt where the model is away, until it asked to be called, spending no attempt.

    It returns where the job's deadline, or `PATIENCE`, would be over by then.
    """
    now = datetime.now(UTC)
    wait = error.retry_after or min(max((now - job.created_at) / 4, SHORTEST_WAIT), LONGEST_WAIT)
    at = now + wait
    if error.away and at < (job.deadline_at or job.created_at + PATIENCE):
        sentence = f"{error}; it is asked again at {at:%H:%M:%S} UTC"
        ctx.log("warning", sentence)
        ctx.progress(None, "waiting", sentence)
        raise TurnEnded(Snooze(after=wait)) from error


def _end(job: Job[Any], ctx: JobContext, error: LanguageModelError) -> NoReturn:
    wait_for(job, ctx, error)
    raise ProcessorError(
        str(error),
        retryable=error.hope == "later",
        retry_after=error.retry_after.total_seconds() if error.retry_after else None,
        data={"code": error.code, "hope": error.hope},
    ) from error


def _mending(prompt: Prompt, error: AnswerUnusable) -> Prompt:
    note = f"Your answer before could not be used: {error}. Answer again."
    before = Material("Your answer before", error.text[:4000] or "(none)")
    return replace(
        prompt, instructions=f"{prompt.instructions}\n\n{note}", material=[*prompt.material, before]
    )


async def _ask(
    ctx: JobContext,
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
    """The answer as `shape`, texts and lists that are too long clipped.

    Raises:
        AnswerUnusable: It is not JSON of that shape; the fields at fault are named.
    """
    data = edge(completion.data()).value  # whole texts: the database holds no NUL
    while True:
        try:
            return shape.model_validate(data)
        except ValidationError as error:
            # a list that is too long hides what is too long in it
            if any([_clip(data, each) for each in error.errors()]):
                continue
            faults = "; ".join(
                f"{'.'.join(map(str, each['loc'])) or 'the whole'}: {each['msg']}"
                for each in error.errors()[:5]
            )
            why = f"The answer of {completion.model} is not in the requested form: {faults}"
            raise AnswerUnusable(why, text=completion.text) from error


def _clip(data: Any, fault: Any) -> bool:
    """Shorten in place what a fault says is too long; whether that was done."""
    most = fault.get("ctx", {}).get("max_length", 0)
    least = {"too_long": 1, "string_too_long": SHORTEST_CLIPPED}.get(fault["type"])
    if least is None or most < least:
        return False
    *path, last = fault["loc"]
    try:
        for name in path:
            data = data[name]
        value = data[last]
        data[last] = value[: most - 1] + "…" if isinstance(value, str) else value[:most]
    except (LookupError, TypeError):
        return False  # it was itself clipped, or its place is no plain path
    return True
