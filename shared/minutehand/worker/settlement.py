"""From how a processor ended to what is settled, as plain functions.

The table of promises: what spends an attempt, what is retried, what is final. What an error says is
`errors.py`'s.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from minutehand.queue.errors import ProcessorError
from minutehand.queue.models import JobId, SettleItem
from minutehand.worker.context import Suspended, TurnEnded
from minutehand.worker.errors import error_info, first_of, said
from minutehand.worker.outcomes import Cancel, Fail, Retry, Snooze, retry_after_of, seconds
from minutehand.worker.plain import plain
from minutehand.worker.registry import PayloadRejected, UnknownProcessor

#: Why a running processor was stopped.
StopReason = Literal["cancel", "lost", "timeout", "deadline", "shutdown"]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a processor ended: with a value, or an error if there is one.

    Attributes:
        abandoned: It did not stop when cancelled, and is no longer awaited.
    """

    value: Any = None
    error: BaseException | None = None
    abandoned: bool = False

    @property
    def says_why(self) -> bool:
        """Whether it has a text of the processor's, to be filtered for secrets."""
        if self.error is not None:
            return not isinstance(self.error, Suspended | asyncio.CancelledError)
        return isinstance(self.value, Retry | Fail | Cancel)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What about the attempt decides its outcome besides its ending."""

    stop: StopReason | None = None
    timeout_seconds: float | None = None
    ran_seconds: float = 0.0
    #: Whether it stored a step that earlier attempts had not.
    advanced: bool = False
    #: Whether the tick gave it at least half of a whole tick's time.
    had_fair_time: bool = True
    #: The module of its processor, whose frames of a traceback are shown first.
    module: str = ""


def verdict(ending: Ending, seen: Circumstances) -> SettleItem | None:
    """What to settle, with empty ids; None when the lease is lost and nothing may be stored.

    A cancel wins over the processor's result. Against a timeout or the deadline a
    returned value wins: a cancelled processor may still return what it has. One that could not be
    cancelled, because it blocked the event loop past its timeout, has no result.
    """
    if seen.stop == "lost":
        return None
    if seen.stop == "cancel":
        return _item("cancelled")
    if ending.abandoned:
        return _stopped(seen)
    if (error := ending.error) is None:
        if seen.stop is None and seen.ran_seconds > (seen.timeout_seconds or math.inf):
            return _stopped(replace(seen, stop="timeout"))
        return _returned(ending.value)
    chosen = _find_chosen(error)
    is_final = isinstance(error, ProcessorError) and not error.retryable
    if seen.stop is not None and chosen is None and not is_final:
        # it was cancelled and has stopped: errors of its clean-up are not its fault
        return _stopped(seen)
    if isinstance(chosen, Suspended):
        return _item("waiting", wait=chosen.wait)
    if chosen is not None:
        return _returned(chosen.outcome)
    if isinstance(error, PayloadRejected):
        problems = {"problems": error.problems}
        return _item("failed", error=said("PayloadRejected", str(error), problems))
    if isinstance(error, UnknownProcessor):
        # a newer version may know it: give it back, but not at once
        return _item("snoozed", delay_seconds=30.0)
    info = error_info(error, seen.module)
    if is_final:
        return _item("failed", error=info)
    return _item("retry", error=info, retry_after_seconds=retry_after_of(first_of(error)))


def _returned(value: Any) -> SettleItem:
    match value:
        case Retry(reason=reason, after=after, data=data):
            return _item(
                "retry",
                error=said("Retry", reason, data),
                retry_after_seconds=None if after is None else seconds(after),
            )
        case Snooze(until=until, after=after):
            if until is not None:
                return _item("snoozed", until=until)
            return _item("snoozed", delay_seconds=seconds(after or 0))
        case Fail(reason=reason, data=data):
            return _item("failed", error=said("Fail", reason, data))
        case Cancel(reason=reason, data=data):
            return _item("cancelled", error=said("Cancelled", reason, data))
    try:
        return _item("completed", result=plain(value))
    except ValueError as error:
        # the work is done: running it again would only repeat its effects
        text = f"the result cannot be stored: {str(error)[:500]}"
        return _item("failed", error=said("ResultRejected", text))


def _stopped(seen: Circumstances) -> SettleItem:
    if seen.stop == "timeout":
        limit = "its timeout" if seen.timeout_seconds is None else f"{seen.timeout_seconds:g} s"
        return _item(
            "retry", error=said("AttemptTimeout", f"the attempt was stopped after {limit}")
        )
    if seen.advanced:
        # each run stores at least one more step, so this ends
        return _item("snoozed", delay_seconds=0.0)
    if seen.stop == "shutdown" or not seen.had_fair_time:
        # not the job's fault: its host stops, or it began late in the tick; and it is the oldest
        # job when the next tick begins
        return _item("released")
    text = (
        "the worker's time ran out before the job ended; "
        "split it into steps or raise the worker's timeout"
    )
    return _item("retry", error=said("DeadlineReached", text), retry_after_seconds=0.0)


def _find_chosen(error: BaseException) -> Suspended | TurnEnded | None:
    """The ending that a processor chose, also when a task group wrapped it; None for errors."""
    if isinstance(error, BaseExceptionGroup):
        chosen, others = error.split((Suspended, TurnEnded))
        error = error if chosen is None or others is not None else first_of(chosen)
    return error if isinstance(error, Suspended | TurnEnded) else None


def _item(outcome: Any, **fields: Any) -> SettleItem:
    return SettleItem(job_id=JobId(""), fence=0, outcome=outcome, **fields)
