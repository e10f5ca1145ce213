"""Writing stages: one at a time, within the budget, stored before anything follows.

Which stages there are is stages.py's; their order, and what a failed one means, processors.py's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import ValidationError

from minutehand.ai.errors import AnswerUnusable, LanguageModelError
from minutehand.ai.language_model import Completion, Prompt, Usage, count_tokens
from minutehand.apps.plans.live import LiveText
from minutehand.apps.plans.models import Loaded, Request, Stage, StoredPlan
from minutehand.apps.plans.services import Plans
from minutehand.apps.plans.stages import Kind, Outline, write_prompt
from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.outcomes import Retry, Snooze
from minutehand.worker.plain import clean_text, plain

#: A stage is not begun with less time than this before the tick ends.
SECONDS_TO_SPARE: Final = 20.0
#: How often a model is asked for one stage when it answers something else.
TRIES: Final = 2
STORE_SECONDS: Final = 3.0
MOST_DRAFT: Final = 20_000


class Pause(Exception):
    """The job ends its turn here and goes on later."""

    def __init__(self, outcome: Retry | Snooze) -> None:
        self.outcome = outcome
        super().__init__(str(outcome))


class GivenUp(Exception):
    """Nothing more is written in this run; what is missing is missing for this reason."""

    def __init__(self, code: str, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a budget; None is no limit."""

    seconds: float
    tokens: int
    usd: float | None

    @property
    def used_up(self) -> str | None:
        """Which part is, if any."""
        if self.seconds <= 0:
            return "time"
        if self.tokens <= 0:
            return "tokens"
        return "money" if self.usd is not None and self.usd <= 0 else None


class Pipeline:
    """The stages of one leased job."""

    def __init__(self, app: Plans, job: Job[Any], ctx: JobContext, loaded: Loaded) -> None:
        assert loaded.plan is not None
        self._app = app
        self._job = job
        self._ctx = ctx
        self.plan: StoredPlan = loaded.plan
        self.done: dict[str, Stage] = {stage.name: stage for stage in loaded.stages}

    @property
    def request(self) -> Request:
        """What was asked for."""
        return self.plan.request

    def result(self, name: str) -> Mapping[str, Any] | None:
        """What a completed stage found."""
        stage = self.done.get(name)
        return stage.result if stage is not None and stage.completed else None

    async def reload(self) -> None:
        """See what the phases' jobs have stored."""
        loaded = await self._app.store.load(self._job.id, self._job.fence)
        self.done = {stage.name: stage for stage in loaded.stages}

    async def write(self, kind: Kind, *, begin: float, end: float) -> Stage:
        """The stage, from an earlier attempt or written now; completed or failed.

        Raises:
            Pause: The job shall go on later.
            GivenUp: The budget is used up, or the model will not answer anything any more.
        """
        found = self.done.get(kind.name)
        if found is not None and found.status != "interrupted":
            return found
        left = self.allowance(kind)
        if (part := left.used_up) is not None:
            raise GivenUp("budget", f"The budget of {part} is used up")
        request = _Request(write_prompt(kind, self.request, self.done))
        if request.tokens >= left.tokens:
            raise GivenUp(
                "budget",
                f"The next request reads about {request.tokens} tokens,"
                f" more than the {left.tokens} it may take",
            )
        if self._ctx.new_steps and self._ctx.remaining < SECONDS_TO_SPARE:
            raise Pause(Snooze(after=1))  # cutting it off in the middle would pay for it twice
        self._ctx.progress(begin, kind.name, kind.title)
        self._ctx.log("info", kind.title, stage=kind.name)

        async def run() -> dict[str, Any]:
            stage = await self._write(kind, request, left, begin=begin, end=end)
            return {"stage": stage.name, "status": stage.status, "code": stage.code}

        await self._ctx.step(kind.name, run)
        stage = self.done[kind.name]
        if not stage.completed and stage.code in {"not_authorised", "out_of_credit", *_LATER}:
            raise GivenUp(stage.code or "", stage.reason or "")
        return stage

    async def keep(self, stage: Stage) -> Stage:
        """Store a stage."""
        stored = await self._app.store.store_stage(self._job.id, self._job.fence, stage)
        self.done[stage.name] = stored
        return stored

    def allowance(self, kind: Kind) -> Allowance:
        """What a stage may take of the budget; phases share what the others leave, evenly.

        A phase's part does not depend on when the others begin, so they cannot overdraw together.
        """
        budget = self.request.budget
        of_run = [stage for stage in self.done.values() if stage.run == self.plan.run]
        outline = self.result("outline")
        if kind.name.startswith("phase:") and outline is not None:
            others = [stage for stage in of_run if not stage.name.startswith("phase:")]
            share = 1 / len(outline["phases"])
            own = [stage for stage in of_run if stage.name == kind.name]
            return _less(_share(_less(_whole(budget), others), share), own)
        return _less(_whole(budget), of_run)

    async def _write(
        self, kind: Kind, request: _Request, left: Allowance, *, begin: float, end: float
    ) -> Stage:
        live = LiveText(
            self._ctx,
            self._app.clock,
            kind.name,
            begin=begin,
            end=end,
            expected_characters=kind.most_tokens * 2,
        )
        started = self._app.clock.monotonic()
        used = _Used(self._app.model.name, self._app.model.offline)
        try:
            async with asyncio.timeout(left.seconds):
                result = await self._ask(kind, request, left, live, used)
        except TimeoutError:
            reason = f"The budget of {self.request.budget.seconds} s is used up"
            return await self._keep_failed(kind, "budget", reason, live.text, used, started)
        except LanguageModelError as error:
            return await self._failed(kind, error, live, used, started)
        except asyncio.CancelledError:
            # cancelled, or the tick is over: what was written is kept for a report made now
            reason = "It was stopped in the middle"
            async with asyncio.timeout(STORE_SECONDS):
                await self._keep_interrupted(kind, "stopped", reason, live.text, used, started)
            raise
        live.show()
        stage = self._stage(kind, used, started, status="completed", result=result)
        stage = await self.keep(stage)
        self._ctx.log(
            "info",
            f"{kind.title}: done",
            stage=kind.name,
            seconds=stage.seconds,
            tokens=stage.input_tokens + stage.output_tokens,
        )
        return stage

    async def _ask(
        self, kind: Kind, request: _Request, left: Allowance, live: LiveText, used: _Used
    ) -> dict[str, Any]:
        prompt = request.prompt
        for attempt in range(1, TRIES + 1):
            room = left.tokens - used.tokens - request.tokens
            most = min(prompt.most_tokens, room)
            try:
                completion = await self._app.model.complete(
                    replace(prompt, most_tokens=most), on_text=live.add
                )
                used.add(completion.usage)
                self._ctx.cost_usd += completion.usage.cost_usd or 0.0
                return self._read(kind, completion)
            except AnswerUnusable as error:
                if attempt == TRIES or used.tokens + request.tokens >= left.tokens:
                    raise
                self._ctx.log("warning", f"{kind.title}: asking again", reason=str(error))
                live.restart()
        raise AssertionError("unreachable: the last try returns or raises")

    def _read(self, kind: Kind, completion: Completion) -> dict[str, Any]:
        try:
            answer = kind.shape.model_validate(completion.data())
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"])) or "the whole"
            raise AnswerUnusable(
                f"The answer of {completion.model} is not as asked for: {where}",
                text=completion.text,
            ) from error
        if isinstance(answer, Outline):
            answer = Outline(phases=answer.phases[: self.request.max_phases])
        found: dict[str, Any] = plain(answer.model_dump(mode="json"))
        return found

    async def _failed(
        self, kind: Kind, error: LanguageModelError, live: LiveText, used: _Used, started: float
    ) -> Stage:
        draft = error.text or live.text
        if isinstance(error.usage, Usage) and not isinstance(error, AnswerUnusable):
            used.add(error.usage)
            self._ctx.cost_usd += error.usage.cost_usd or 0.0
        if error.hope == "later" and self._job.attempt < self._job.max_attempts:
            await self._keep_interrupted(kind, error.code, str(error), draft, used, started)
            self._ctx.log("warning", f"{kind.title}: {error}", stage=kind.name, code=error.code)
            raise Pause(Retry(str(error), after=error.retry_after))
        return await self._keep_failed(kind, error.code, str(error), draft, used, started)

    async def _keep_failed(
        self, kind: Kind, code: str, reason: str, draft: str, used: _Used, started: float
    ) -> Stage:
        self._ctx.log("error", f"{kind.title}: {reason}", stage=kind.name, code=code)
        return await self.keep(
            self._stage(kind, used, started, status="failed", code=code, reason=reason, draft=draft)
        )

    async def _keep_interrupted(
        self, kind: Kind, code: str, reason: str, draft: str, used: _Used, started: float
    ) -> None:
        await self.keep(
            self._stage(
                kind, used, started, status="interrupted", code=code, reason=reason, draft=draft
            )
        )

    def _stage(
        self,
        kind: Kind,
        used: _Used,
        started: float,
        *,
        draft: str | None = None,
        reason: str | None = None,
        **fields: Any,
    ) -> Stage:
        return Stage(
            name=kind.name,
            position=kind.position,
            draft=clean_text(draft[:MOST_DRAFT]) if draft else None,
            reason=clean_text(reason[:2000]) if reason else None,
            model=used.model[:200],
            offline=used.offline,
            input_tokens=used.read,
            output_tokens=used.written,
            cost_usd=used.usd,
            seconds=round(self._app.clock.monotonic() - started, 3),
            **fields,
        )


#: Codes of failures that the next stage would meet as well.
_LATER: Final = frozenset({"rate_limited", "unreachable"})


class _Request:
    """A prompt, and about how many tokens a model reads of it."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        schema = json.dumps(prompt.schema, ensure_ascii=False)
        texts = (text for part in prompt.material for text in (part.title, part.text))
        self.tokens = sum(map(count_tokens, (prompt.instructions, schema, *texts)))


@dataclass(slots=True)
class _Used:
    """What a stage took so far."""

    model: str
    offline: bool
    read: int = 0
    written: int = 0
    usd: float = 0.0

    @property
    def tokens(self) -> int:
        return self.read + self.written

    def add(self, usage: Usage) -> None:
        self.read += usage.input_tokens
        self.written += usage.output_tokens
        self.usd += usage.cost_usd or 0.0


def _whole(budget: Any) -> Allowance:
    return Allowance(budget.seconds, budget.tokens, budget.usd)


def _share(left: Allowance, part: float) -> Allowance:
    # time is not shared: phases are written at the same time
    usd = None if left.usd is None else left.usd * part
    return Allowance(left.seconds, int(left.tokens * part), usd)


def _less(left: Allowance, stages: list[Stage]) -> Allowance:
    """What is left after `stages`; phases cost as much time as the slowest of them."""
    phases = [stage.seconds for stage in stages if stage.name.startswith("phase:")]
    others = sum(stage.seconds for stage in stages if not stage.name.startswith("phase:"))
    spent_usd = sum(stage.cost_usd for stage in stages)
    return Allowance(
        left.seconds - others - max(phases, default=0.0),
        left.tokens - sum(stage.input_tokens + stage.output_tokens for stage in stages),
        None if left.usd is None else left.usd - spent_usd,
    )
