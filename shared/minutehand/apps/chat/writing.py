"""Ask the model within a job: steps, live text, usage, and what a failure means for the job.

What is asked is prompts.py's; which job asks what is processors.py's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from minutehand.ai.asking import ask, read_shape
from minutehand.ai.errors import AnswerUnusable, LanguageModelError
from minutehand.ai.language_model import Completion, Prompt, Usage
from minutehand.apps.chat.live import LiveText
from minutehand.apps.chat.models import Written
from minutehand.apps.chat.services import Chat
from minutehand.worker.context import JobContext
from minutehand.worker.outcomes import Fail, Retry, Snooze
from minutehand.worker.plain import clean_text

Shape = TypeVar("Shape", bound=BaseModel)
#: A step is not begun with less time than this before the tick ends.
SECONDS_TO_SPARE: Final = 15.0
MOST_CHARACTERS: Final = 40_000


class Pause(Exception):
    """The job ends its turn here: later, or for good."""

    def __init__(self, outcome: Retry | Snooze | Fail, *, used: Written | None = None) -> None:
        self.outcome = outcome
        #: What was paid for answers that could not be used.
        self.used = used
        super().__init__(str(outcome))


class Writer:
    """Asks the model for one leased job."""

    def __init__(self, app: Chat, ctx: JobContext) -> None:
        self._app = app
        self._ctx = ctx

    @property
    def offline(self) -> bool:
        """Whether the model is the offline one."""
        return self._app.model.offline

    async def shaped(self, step: str, prompt: Prompt, shape: type[Shape]) -> Written:
        """A step's answer as JSON of a shape in `data`, remembered in the job.

        Raises:
            Pause: The job shall continue later, or the model will not answer this.
        """

        async def run() -> dict[str, Any]:
            return (await self._shaped(prompt, shape)).model_dump(mode="json")

        return await self._step(step, run)

    async def text(self, step: str | None, prompt: Prompt, *, begin: float, end: float) -> Written:
        """Plain text, shown while it is written; remembered in the job when it is a step.

        Raises:
            Pause: The job shall continue later, or the model will not answer this.
        """

        async def run() -> dict[str, Any]:
            return (await self._text(prompt, begin, end)).model_dump(mode="json")

        if step is None:
            self._spare_time()
            return Written.model_validate(await self._asking(run))
        return await self._step(step, run)

    async def _step(self, name: str, run: Callable[[], Awaitable[Any]]) -> Written:
        self._spare_time()
        return await self._ctx.step(name, lambda: self._asking(run), returns=Written)

    def _spare_time(self) -> None:
        if self._ctx.new_steps and self._ctx.remaining < SECONDS_TO_SPARE:
            raise Pause(Snooze(after=1))  # cutting it off in the middle would pay for it twice

    async def _asking(self, run: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await run()
        except LanguageModelError as error:
            self._ctx.log("warning", str(error), code=error.code)
            used = _written_usage(_usage(error)) if isinstance(error, AnswerUnusable) else None
            if error.hope == "later":
                raise Pause(Retry(str(error), after=error.retry_after), used=used) from error
            raise Pause(Fail(str(error)), used=used) from error

    async def _shaped(self, prompt: Prompt, shape: type[Shape]) -> Written:
        answer = await ask(
            self._app.model,
            prompt,
            lambda completion: read_shape(completion, shape),
            paid=self._pay,
            on_unusable=lambda error: self._ctx.log(
                "warning", "Asking the model again", reason=str(error)
            ),
        )
        data = answer.value.model_dump(mode="json")
        return _written(answer.completion, answer.usage, data=data)

    def _pay(self, cost_usd: float) -> None:
        self._ctx.cost_usd += cost_usd

    async def _text(self, prompt: Prompt, begin: float, end: float) -> Written:
        live = LiveText(
            self._ctx,
            self._app.clock,
            begin=begin,
            end=end,
            expected_characters=prompt.most_tokens * 2,
        )
        answer = await ask(
            self._app.model, prompt, _check_text, paid=self._pay, tries=1, on_text=live.add
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
    return Written(
        text="" if data is not None else text,
        model=completion.model[:200],
        offline=completion.offline,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost_usd=usage.cost_usd or 0.0,
        data=data,
    )


def _usage(error: AnswerUnusable) -> Usage:
    return error.usage if isinstance(error.usage, Usage) else Usage()


def _written_usage(usage: Usage) -> Written:
    return Written(
        text="",
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost_usd=usage.cost_usd or 0.0,
    )


def together(last: Written, *before: Written) -> Written:
    """The last with the usage of all."""
    return last.model_copy(
        update={
            "input_tokens": last.input_tokens + sum(each.input_tokens for each in before),
            "output_tokens": last.output_tokens + sum(each.output_tokens for each in before),
            "cost_usd": last.cost_usd + sum(each.cost_usd for each in before),
        }
    )
