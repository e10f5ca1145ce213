"""Ask the model within a job: steps, live text, usage, and what a failure means for the job.

What is asked is prompts.py's; which job asks what is processors.py's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from minutehand.ai.errors import AnswerUnusable, LanguageModelError
from minutehand.ai.in_job import ask, read_shape
from minutehand.ai.language_model import Completion, Prompt, Usage
from minutehand.worker.context import JobContext, TurnEnded
from minutehand.worker.outcomes import Fail, Retry, Snooze
from minutehand.worker.plain import clean_text
from minutehand_apps.chat.live import LiveText
from minutehand_apps.chat.models import Written
from minutehand_apps.chat.services import Chat

Shape = TypeVar("Shape", bound=BaseModel)
#: A step is not begun with less time than this before the tick ends.
SECONDS_TO_SPARE: Final = 15.0
MOST_CHARACTERS: Final = 40_000


class Pause(TurnEnded):
    """The job ends its turn here: later, or for good."""

    def __init__(self, outcome: Retry | Snooze | Fail, *, used: Written | None = None) -> None:
        #: What was paid for answers that could not be used.
        self.used = used
        super().__init__(outcome)


class Writer:
    """Asks the model for one leased job."""

    def __init__(self, app: Chat, ctx: JobContext, *, floor: float = 0) -> None:
        self._app = app
        self._ctx = ctx
        #: What was shown before: progress does not fall.
        self._floor = floor

    @property
    def offline(self) -> bool:
        """Whether the model is the offline one."""
        return self._app.model.offline

    async def shaped(
        self, step: str, prompt: Prompt, shape: type[Shape], instead: Shape | None = None
    ) -> Written:
        """A step's answer as JSON of a shape in `data`, remembered in the job.

        Args:
            instead: What stands where no answer can be used; without it the job fails.

        Raises:
            Pause: The job shall continue later, or the model will not answer this.
        """

        async def run() -> dict[str, Any]:
            fallback = None if instead is None else {"data": instead.model_dump(mode="json")}
            return await self._or_else(self._shaped(prompt, shape), fallback)

        return await self._step(step, run)

    async def text(
        self, step: str | None, prompt: Prompt, *, begin: float, end: float, instead: str = ""
    ) -> Written:
        """Plain text, shown while it is written; remembered in the job when it is a step.

        `instead` stands where the answer cannot be used; without it the job fails.

        Raises:
            Pause: The job shall continue later, or the model will not answer this.
        """

        async def run() -> dict[str, Any]:
            fallback = {"text": instead, "model": self._app.model.name[:200]} if instead else None
            return await self._or_else(self._text(prompt, begin, end), fallback)

        if step is None:
            if self._ctx.new_steps and self._ctx.remaining < SECONDS_TO_SPARE:
                raise Pause(Snooze(after=1))  # cutting it off in the middle would pay for it twice
            return Written.model_validate(await self._asking(run))
        return await self._step(step, run)

    async def _or_else(
        self, asking: Awaitable[Written], fallback: dict[str, Any] | None
    ) -> dict[str, Any]:
        try:
            written = await asking
        except AnswerUnusable as error:
            if fallback is None:
                raise
            self._ctx.log("warning", f"Going on without it: {error}", code=error.code)
            written = _written_usage(error.usage).model_copy(update=fallback)
        return written.model_dump(mode="json")

    async def _step(self, name: str, run: Callable[[], Awaitable[Any]]) -> Written:
        return await self._ctx.step(
            name, lambda: self._asking(run), returns=Written, needs_seconds=SECONDS_TO_SPARE
        )

    async def _asking(self, run: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await run()
        except LanguageModelError as error:
            self._ctx.log("warning", str(error), code=error.code)
            used = _written_usage(error.usage) if isinstance(error, AnswerUnusable) else None
            if error.hope == "later":
                raise Pause(Retry(str(error), after=error.retry_after), used=used) from error
            raise Pause(Fail(str(error)), used=used) from error

    async def _shaped(self, prompt: Prompt, shape: type[Shape]) -> Written:
        answer = await ask(
            self._ctx, self._app.model, prompt, lambda completion: read_shape(completion, shape)
        )
        data = answer.value.model_dump(mode="json")
        return _written(answer.completion, answer.usage, data=data)

    async def _text(self, prompt: Prompt, begin: float, end: float) -> Written:
        live = LiveText(
            self._ctx,
            self._app.clock,
            begin=max(begin, self._floor),
            end=max(end, self._floor),
            expected_characters=prompt.most_tokens * 2,
        )
        answer = await ask(
            self._ctx, self._app.model, prompt, _check_text, tries=1, on_text=live.add
        )
        live.show()
        return _written(answer.completion, answer.usage)


def _check_text(completion: Completion) -> None:
    if not completion.text.strip():
        raise AnswerUnusable(f"The answer of {completion.model} is empty", usage=completion.usage)


def _written(
    completion: Completion, usage: Usage, *, data: dict[str, Any] | None = None
) -> Written:
    text = clean_text(completion.text)
    if data is None and (not completion.whole or len(text) > MOST_CHARACTERS):
        text = text[:MOST_CHARACTERS] + " …"
    said = {"text": "" if data is not None else text, "data": data}
    about = {"model": completion.model[:200], "offline": completion.offline}
    return _written_usage(usage).model_copy(update={**said, **about})


def _written_usage(usage: object) -> Written:
    used = usage if isinstance(usage, Usage) else Usage()
    return Written(
        text="",
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        cost_usd=used.cost_usd or 0.0,
    )


def together(last: Written, *before: Written) -> Written:
    """The last with the usage of all."""
    names = ("input_tokens", "output_tokens", "cost_usd")
    used = {name: sum(getattr(each, name) for each in (last, *before)) for name in names}
    return last.model_copy(update=used)
