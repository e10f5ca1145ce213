"""Asks a language model for an answer in a job. If the model is unavailable, the job suspends.

The caller chooses the prompt and the type of the answer, and the caller's step stores the result.
"""

import asyncio
import re
from collections.abc import AsyncIterable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel

from minutehand.ai.errors import (
    EMPTY_MESSAGE,
    FORM_MESSAGE,
    InputRefused,
    LanguageModelError,
    TruncatedOutput,
    UnusableOutput,
)
from minutehand.ai.language_model import Completion, LanguageModel, Material, Prompt
from minutehand.ai.parsing import UnparsableOutput, is_plain_text, only_text, read_shape
from minutehand.ai.partial_json import PartialField, TextSink
from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.vendor import VendorCalls, VendorError

Shape = TypeVar("Shape", bound=BaseModel)
#: Maximum characters of an unusable answer that `ask_for` sends back to the model.
MAX_QUOTED = 4_000
#: Pattern of white space and an opening Markdown fence at the start of an answer.
_FENCE = re.compile(r"\A\s*(?:```\w*\s*)?")
#: Number of characters. If this many first characters of two answers are the same, the language
#: model has begun its answer again.
SAME_START = 12
#: Message for users about a truncated answer for which the endpoint gives no reason.
TRUNCATED_MESSAGE = "The language model broke off its answer. Try again, or ask for less at once."


async def ask_for(
    job: Job[Any],
    ctx: JobContext,
    model: LanguageModel,
    prompt: Prompt,
    shape: type[Shape],
    *,
    check: Callable[[Shape], None] | None = None,
    into: TextSink | None = None,
    field: str | None = None,
    patient: bool = True,
) -> Shape:
    """Ask a model for an answer of the type `shape`. The prompt contains the type's JSON Schema.

    Call `ask_for` in a step or stage. An answer is parsed leniently, see `parsing.read_shape`.
    `ask_for` asks the model once to continue a truncated answer. If an answer does not fit the
    schema, `ask_for` asks the model once more, with a description of the error. Calls that may have
    been charged count towards `vendor.MAX_CALLS` per step, and add to the job's cost.

    Args:
        patient: False if a user waits for the answer. If a user waits, an unavailable model fails
            the job, and the job does not suspend.
        check: Function that raises ValueError to reject an answer. The model gets the text of the
            error.
        into: Object that receives the text of `field` while the model produces it.
        field: Name of the field that users read. If the language model answers with prose, the
            field gets the prose.
            Default: the only required field of `shape`, if it is a string.

    Raises:
        AttemptEnded: The model is unavailable or requests a wait, see `VendorCalls.wait`.
        ProcessorError: The model failed. The message is a sentence for users, and `data` contains
            the error code. The error is retryable if a retry may succeed. The job's log contains
            the original error.
    """
    field = field or only_text(shape)
    partial_field = None
    if into is not None:
        if field is None:
            raise ValueError(f"field must name the field of {shape.__name__} to stream")
        partial_field = PartialField(
            field, into, is_plain_text=partial(is_plain_text, shape=shape, field=field)
        )
    request = _Request(ctx, model, shape, check, field, partial_field)
    calls = VendorCalls(job, ctx, prompt.name, patient=patient)
    prompt = replace(prompt, schema=shape.model_json_schema())
    can_continue = can_retry = True
    while True:
        try:
            return await calls.make(lambda prompt=prompt: request.call_model(prompt))  # type: ignore[misc]
        except LanguageModelError as error:
            error.url = error.url or getattr(model, "url", None)
            is_truncated = isinstance(error, TruncatedOutput)
            is_cut = error.code == "cut_short" or (is_truncated and error.text != "")
            if can_continue and is_cut and calls.charged <= 1:
                # continue the answer, because most broken connections are temporary
                can_continue, prompt = False, replace(prompt, begun=error.text)
                ctx.log("warning", "Asking the model for the rest of its answer", reason=str(error))
            elif prompt.begun and isinstance(error, InputRefused) and not error.charged:
                # the endpoint may reject only the beginning of the answer
                prompt = replace(prompt, begun="")
                ctx.log("warning", "Asking the model for a whole answer", reason=str(error))
            elif can_retry and isinstance(error, UnusableOutput) and not is_truncated:
                can_retry, prompt = False, _retry_prompt(prompt, error)
                ctx.log("warning", "Asking the model again", reason=str(error))
            else:
                calls.end(error)
        except VendorError as error:
            calls.end(error)


def _retry_prompt(prompt: Prompt, error: UnusableOutput) -> Prompt:
    correction = f"Your previous answer could not be used: {error}. Answer again."
    before = Material("Your previous answer", error.text[:MAX_QUOTED] or "(none)")
    return replace(
        prompt,
        instructions=f"{prompt.instructions}\n\n{correction}",
        material=[*prompt.material, before],
        begun="",
    )


def _restarts(previous: str, text: str) -> bool:
    """Return whether a model began its answer again instead of continuing it."""
    before, after = ("".join(_FENCE.sub("", text).split()) for text in (previous, text))
    # the rest of an object continues with another object only after one of these characters
    is_object = before[:1] == "{" and before[-1:] not in "[,:" and after[:2] == '{"'
    length = min(SAME_START, len(before), len(after))
    return is_object or (length > 0 and before[:length] == after[:length])


def _joined(previous: str, rest: str) -> str:
    """Join a truncated answer and the model's continuation.

    The model may repeat the end of `previous`. A text that `previous` contains several times is not
    such a repetition, but a pattern that continues.
    """
    if _restarts(previous, rest):
        return rest
    start = rest[:SAME_START]
    at = previous.find(start) if len(start) == SAME_START else -1
    is_repeated = 0 <= at == previous.rfind(start) and rest.startswith(previous[at:])
    return previous[: at if is_repeated else None] + rest


async def _write(chunks: AsyncIterable[str], begun: str, partial_field: PartialField) -> None:
    """Write the text of an answer's field to the sink.

    The first `SAME_START` characters of a continuation are not written immediately, and neither is
    a text that the answer already contains, because they show whether the model repeats its answer.
    """
    partial_field.restart(begun)
    start, is_start = "", begun != ""
    async for chunk in chunks:
        if not is_start:
            partial_field.add(chunk)
            continue
        start += chunk
        is_start = len(start) < SAME_START or (start in begun[:-1] and not _restarts(begun, start))
        if not is_start:
            partial_field.restart(_joined(begun, start))


@dataclass(frozen=True)
class _Request:
    """State of one call of `ask_for`, which may call the model several times."""

    ctx: JobContext
    model: LanguageModel
    shape: type[Any]
    check: Callable[[Any], None] | None
    field: str | None
    partial_field: PartialField | None

    async def call_model(self, prompt: Prompt) -> Any:
        """Call the model once, add the call's cost, and parse the answer as the requested type."""
        try:
            completion = await self._complete(prompt)
        except LanguageModelError as error:
            if error.hope != "later" or not error.text:
                raise
            # use the answer so far if it is a complete object, although the call failed
            with suppress(UnusableOutput):
                return await self._parse(Completion(error.text, self.model.name, whole=False))
            raise
        try:
            return await self._parse(completion, is_continued=bool(prompt.begun))
        except UnusableOutput:
            # the model may have begun again in other words, so the new text alone may be a complete
            # answer
            rest = completion.text.removeprefix(prompt.begun)
            if not (prompt.begun and _FENCE.sub("", rest).lstrip().startswith("{")):
                raise
            with suppress(UnusableOutput):
                return await self._parse(replace(completion, text=rest))
            raise

    async def _complete(self, prompt: Prompt) -> Completion:
        """Return the model's answer. Add the cost of the call, also of a failed call."""
        model, partial_field = self.model, self.partial_field
        try:
            async with model.stream(prompt) as stream:
                if partial_field is None:
                    async for _ in stream:
                        pass
                else:
                    await _write(stream, prompt.begun, partial_field)
            completion = stream.completion
        except LanguageModelError as error:
            cost = error.cost_usd
            if error.charged and not cost:
                cost = model.cost_of(prompt, error.text)
            self.ctx.cost_usd += cost
            error.text = _joined(prompt.begun, error.text)
            raise
        except BaseException:  # the job was stopped, or the sink could not write the text
            self.ctx.cost_usd += model.cost_of(prompt, partial_field.text if partial_field else "")
            raise
        self.ctx.cost_usd += completion.cost_usd
        return replace(completion, text=_joined(prompt.begun, completion.text))

    async def _parse(self, completion: Completion, *, is_continued: bool = False) -> Any:
        try:
            # use a thread, because the repair of invalid JSON waits for another process
            result = await asyncio.to_thread(
                read_shape, completion.text, self.shape, field=self.field, whole=completion.whole
            )
        except UnparsableOutput as error:
            subject = f"The answer of {completion.model}"
            if error.cut_off and not completion.whole:
                raise TruncatedOutput(
                    f"{subject} was cut off; LANGUAGE_MODEL_MOST_TOKENS is the limit",
                    text=completion.text,
                ) from error
            if error.cut_off and not is_continued:
                text = f"{subject} is truncated, although the endpoint marks it as complete"
                raise TruncatedOutput(text, said=TRUNCATED_MESSAGE, text=completion.text) from error
            raise UnusableOutput(
                f"{subject} is not in the requested form: {error}",
                said=FORM_MESSAGE if completion.text.strip() else EMPTY_MESSAGE,
                text=completion.text,
            ) from error
        try:
            if self.check is not None:
                self.check(result)
        except ValueError as error:
            reason = f"The answer of {completion.model} cannot be used: {error}"
            raise UnusableOutput(reason, text=completion.text) from error
        if self.partial_field is not None:
            self.partial_field.end(getattr(result, self.field or ""))
        return result
