"""From how a processor ended to what is settled, as plain functions.

The table of promises: what spends an attempt, what is retried, what is final. What an error says is
`errors.py`'s.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from datetime import UTC
from typing import Any, Final, Literal, NamedTuple, Protocol

from minutehand.queue.errors import ProcessorError, QueueError
from minutehand.queue.models import LogLine, SettleItem
from minutehand.worker.context import AttemptEnded, JobContext, Suspended
from minutehand.worker.errors import attribute, error_info, first_of, said
from minutehand.worker.outcomes import Cancel, Fail, Retry, Snooze, retry_after_of, seconds
from minutehand.worker.registry import PayloadRejected, UnknownProcessor
from minutehand.worker.serialization import Edged, edge, text
from minutehand.worker.unawaited import NotAwaited

#: Outcomes with a reason in the processor's words.
_REASONED: Final = (Retry, Fail, Cancel)
#: What the queue says of a payload that it will never take.
_REFUSED_PAYLOADS: Final = {"payload_invalid", "payload_too_large"}
#: Why a running processor was stopped.
StopReason = Literal["cancel", "lost", "timeout", "deadline", "shutdown"]


class Ending(NamedTuple):
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
        # by their types, which are what they are: an object may lie about its class, or raise
        if self.error is not None:
            return not issubclass(type(self.error), (Suspended, asyncio.CancelledError))
        return issubclass(type(self.value), _REASONED)


class Circumstances(Protocol):
    """What about an attempt decides its outcome besides its ending; read only where it does."""

    @property
    def stop_reason(self) -> StopReason | None:
        """Why it was stopped."""

    @property
    def timeout_seconds(self) -> float | None:
        """How long it was to run at most."""

    @property
    def duration_seconds(self) -> float:
        """How long it ran."""

    @property
    def has_advanced(self) -> bool:
        """Whether it stored a step that earlier attempts had not."""

    @property
    def had_fair_time(self) -> bool:
        """Whether the tick gave it at least half of a whole tick's time."""

    @property
    def module(self) -> str:
        """The module of its processor, whose frames of a traceback are shown first."""

    @property
    def evidence(self) -> Mapping[str, Any] | None:
        """Where it was when its timeout stopped it, and what ran beside it."""


def with_calls(ending: Ending, context: JobContext) -> Ending:
    """How a processor ended: it failed if it called what it never awaited.

    What it raised itself says more, and wins.
    """
    if context.calls is None:
        return ending
    never, under_way = context.calls.end()
    if under_way:
        names = " and ".join(f"{name}(…)" for name in dict.fromkeys(under_way))
        context.log("warning", f"The processor ended before {names} had: await it to its end")
    is_planned = ending.error is None or _find_chosen(ending.error) is not None
    if never and is_planned and not ending.abandoned:
        return Ending(error=NotAwaited(never))
    return ending


def settle_item(ending: Ending, seen: Circumstances) -> SettleItem | None:
    """What to settle, with empty ids; None when the lease is lost and nothing may be stored.

    Whatever the processor returned or raised, this returns.
    """
    try:
        return _settle_item(ending, seen)
    except BaseException as error:  # its values may raise anything at any look at them
        problem = f"the outcome of the processor cannot be settled: {text(error, 500)}"
        return _item("failed", error=said("OutcomeRejected", problem))


def _settle_item(ending: Ending, seen: Circumstances) -> SettleItem | None:
    """Decide by what came first at the processor.

    Once a cancel was delivered to it, what it returns is not stored; a result that it returned
    before wins, also where the cancel had been requested. Against a timeout or the deadline a
    returned value wins: a stopped processor may still return what it has. One that could not be
    stopped, because it blocked the event loop past its timeout, has no result.
    """
    stop = seen.stop_reason
    if stop == "lost":
        return None
    if stop == "cancel":
        return _item("cancelled")
    if ending.abandoned:
        return _stopped(stop, seen)
    if (error := ending.error) is None:
        if stop is None and seen.duration_seconds > (seen.timeout_seconds or math.inf):
            return _stopped("timeout", seen)
        return _returned(ending.value)
    chosen = _find_chosen(error)
    retryable = attribute(error, "retryable")
    is_final = isinstance(error, ProcessorError) and retryable is not None and not retryable
    # a child's, or of another job that it makes: the next attempt would offer the same
    is_final = is_final or (isinstance(error, QueueError) and error.word in _REFUSED_PAYLOADS)
    if stop is not None and chosen is None and not is_final:
        # it was cancelled and has stopped: errors of its clean-up are not its fault
        return _stopped(stop, seen)
    if isinstance(chosen, Suspended):
        return _edged("waiting", "wait", edge(chosen.wait))
    if chosen is not None:
        return _returned(chosen.outcome)
    if isinstance(error, PayloadRejected):
        problems = {"problems": error.problems}
        return _item("failed", error=said("PayloadRejected", str(error), problems))
    if isinstance(error, UnknownProcessor):
        # a newer version may know it: release it, but not at once
        return _item("snoozed", delay_seconds=30.0)
    info = error_info(error, seen.module)
    if is_final:
        return _item("failed", error=info)
    return _item("retry", error=info, retry_after_seconds=retry_after_of(first_of(error)))


def _returned(value: Any) -> SettleItem:
    if value is None:
        return _item("completed")
    match value:
        case Retry(reason=reason, after=after, data=data):
            return _item(
                "retry",
                error=said("Retry", reason, data),
                retry_after_seconds=None if after is None else seconds(after),
            )
        case Snooze(until=until, after=after):
            if until is not None:
                # Postgres reads no zone of sixteen hours and more
                return _item("snoozed", until=until.astimezone(UTC))
            return _item("snoozed", delay_seconds=seconds(after or 0))
        case Fail(reason=reason, data=data):
            return _item("failed", error=said("Fail", reason, data))
        case Cancel(reason=reason, data=data):
            return _item("cancelled", error=said("Cancelled", reason, data))
    return _edged("completed", "result", edge(value))


def _edged(outcome: Any, name: str, value: Edged) -> SettleItem:
    """The outcome with its value; what had to be changed, the job's log says."""
    if value.refused is not None:
        # final: the work is done, and running it again would only repeat its effects
        problem = f"the {name} cannot be stored: {value.refused}"
        return _item("failed", error=said(f"{name.capitalize()}Rejected", problem))
    item = _item(outcome, **{name: value.value})
    if value.changed is not None:
        item.logs = (LogLine(level="warning", message=f"In the {name} {value.changed}"),)
    return item


def _stopped(stop: StopReason | None, seen: Circumstances) -> SettleItem:
    if stop == "timeout":
        limit = "its timeout" if seen.timeout_seconds is None else f"{seen.timeout_seconds:g} s"
        error = said("AttemptTimeout", f"the attempt was stopped after {limit}")
        evidence = dict(seen.evidence or {})
        more = {"traceback": {"frames": evidence.pop("frames", [])}, "evidence": evidence}
        return _item("retry", error=error.model_copy(update=more))
    if seen.has_advanced:
        # each run stores at least one more step, so this ends
        return _item("snoozed", delay_seconds=0.0)
    if stop == "shutdown" or not seen.had_fair_time:
        # not the job's fault: its host stops, or it began late in the tick; and it is the oldest
        # job when the next tick begins
        return _item("released")
    problem = (
        "the worker's time ran out before the job ended; "
        "split it into steps or raise the worker's timeout"
    )
    return _item("retry", error=said("DeadlineReached", problem), retry_after_seconds=0.0)


def _find_chosen(error: BaseException) -> Suspended | AttemptEnded | None:
    """The ending that a processor chose, also when a task group wrapped it; None for errors."""
    if isinstance(error, BaseExceptionGroup):
        chosen, others = error.split((Suspended, AttemptEnded))
        error = error if chosen is None or others is not None else first_of(chosen)
    return error if isinstance(error, (Suspended, AttemptEnded)) else None


_item: Final = SettleItem.of
