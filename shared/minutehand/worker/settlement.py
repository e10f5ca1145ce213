"""From how a processor ended to what is settled, as plain functions.

The table of promises: what spends an attempt, what is retried, what is final.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, assert_never

from minutehand.queue.errors import ProcessorError
from minutehand.queue.models import ErrorInfo, JobId, SettleItem
from minutehand.redaction import data_without_secrets, without_secrets
from minutehand.worker.context import Suspended, TurnEnded
from minutehand.worker.isolation import Blocked
from minutehand.worker.outcomes import Cancel, Fail, Retry, Snooze, retry_after_of, seconds
from minutehand.worker.plain import clean_text, plain
from minutehand.worker.registry import PayloadRejected, UnknownProcessor
from minutehand.worker.tracebacks import first_of

#: Why a running processor was stopped.
StopReason = Literal["cancel", "lost", "timeout", "deadline", "shutdown"]

MAX_ERROR_MESSAGE = 2_000
#: So many errors beneath one are looked at for a status or a system's error.
MOST_CAUSES = 5


@dataclass(frozen=True, slots=True)
class Returned:
    """The processor came to an end and returned this."""

    value: Any


@dataclass(frozen=True, slots=True)
class Raised:
    """The processor ended with this exception; also when it was cancelled or suspended itself."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The processor did not stop when cancelled, and is no longer awaited."""


Ending = Returned | Raised | Abandoned


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What about the attempt decides its outcome besides its ending."""

    stop: StopReason | None = None
    timeout_seconds: float | None = None
    ran_seconds: float = 0.0
    #: That it kept the event loop, which could not stop it then.
    blocked: Blocked | None = None
    #: Whether it stored a step that earlier attempts had not.
    advanced: bool = False
    #: Whether the tick gave it at least half of a whole tick's time.
    had_fair_time: bool = True


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
    match ending:
        case Returned(value=value):
            if seen.stop is None and seen.ran_seconds > (seen.timeout_seconds or math.inf):
                return _stopped(replace(seen, stop="timeout"))
            return _returned(value)
        case Raised(error=error):
            if seen.stop is not None and not _is_decision(error):
                # it was cancelled and has stopped: errors of its clean-up are not its fault
                return _stopped(seen)
            return _raised(error)
        case Abandoned():
            return _stopped(seen)
    assert_never(ending)


def _returned(value: Any) -> SettleItem:
    match value:
        case Retry(reason=reason, after=after, data=data):
            return _item(
                "retry",
                error=_error("Retry", reason, data),
                retry_after_seconds=None if after is None else seconds(after),
            )
        case Snooze(until=until, after=after):
            if until is not None:
                return _item("snoozed", until=until)
            return _item("snoozed", delay_seconds=seconds(after or 0))
        case Fail(reason=reason, data=data):
            return _item("failed", error=_error("Fail", reason, data))
        case Cancel(reason=reason, data=data):
            return _item("cancelled", error=_error("Cancelled", reason, data))
    try:
        return _item("completed", result=plain(value))
    except ValueError as error:
        # the work is done: running it again would only repeat its effects
        return _item(
            "failed",
            error=_error("ResultRejected", f"the result cannot be stored: {error}", None),
        )


def _raised(error: BaseException) -> SettleItem:
    chosen = _find_chosen(error)
    if isinstance(chosen, Suspended):
        return _item("waiting", wait=chosen.wait)
    if chosen is not None:
        return _returned(chosen.outcome)
    if isinstance(error, PayloadRejected):
        return _item(
            "failed", error=_error("PayloadRejected", str(error), {"problems": error.problems})
        )
    if isinstance(error, UnknownProcessor):
        # a newer version may know it: hand it back, but not at once
        return _item("snoozed", delay_seconds=30.0)
    if isinstance(error, ProcessorError) and not error.retryable:
        return _item("failed", error=error_info(error))
    return _item(
        "retry", error=error_info(error), retry_after_seconds=retry_after_of(first_of(error))
    )


def _is_decision(error: BaseException) -> bool:
    """Whether the processor chose this ending, rather than being torn out of its work."""
    return _find_chosen(error) is not None or (
        isinstance(error, ProcessorError) and not error.retryable
    )


def _stopped(seen: Circumstances) -> SettleItem:
    if seen.stop == "timeout":
        limit = "its timeout" if seen.timeout_seconds is None else f"{seen.timeout_seconds:g} s"
        said = f"the attempt was stopped after {limit}"
        if seen.blocked is not None:
            said = f"the attempt ran past {limit}: {seen.blocked}"
        return _item("retry", error=_error("AttemptTimeout", said, None))
    if seen.advanced:
        # each run stores at least one more step, so this ends
        return _item("snoozed", delay_seconds=0.0)
    if seen.stop == "shutdown" or not seen.had_fair_time:
        # not the job's fault: its host stops, or it began late in the tick; and it is the oldest
        # job when the next tick begins
        return _item("released")
    return _item(
        "retry",
        error=_error(
            "DeadlineReached",
            "the worker's time ran out before the job ended; "
            "split it into steps or raise the worker's timeout",
            None,
        ),
        retry_after_seconds=0.0,
    )


def error_info(error: BaseException) -> ErrorInfo:
    """An exception as the job keeps it, of a task group's the first; the traceback is logged."""
    more = len(error.exceptions) - 1 if isinstance(error, BaseExceptionGroup) else 0
    error = first_of(error)
    kind = type(error)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    data = getattr(error, "data", None)
    said = _message(error) + (f" (and {more} more in its task group)" if more else "")
    told = _error(name, said, data if isinstance(data, Mapping) else None)
    return told.model_copy(update={"status": _status_of(error), "errno": _errno_of(error)})


def _beneath(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was raised from."""
    seen: set[int] = set()
    below: BaseException | None = error
    while below is not None and id(below) not in seen and len(seen) < MOST_CAUSES:
        seen.add(id(below))
        yield below
        below = below.__cause__ or (None if below.__suppress_context__ else below.__context__)


def _status_of(error: BaseException) -> int | None:
    """The HTTP status in an error of httpx, requests (`response.status_code`) or aiohttp."""
    for each in _beneath(error):
        found = getattr(getattr(each, "response", None), "status_code", None)
        found = found if found is not None else getattr(each, "status", None)
        if type(found) is int and 400 <= found <= 599:
            return found
    return None


def _errno_of(error: BaseException) -> str | None:
    for each in _beneath(error):
        if isinstance(each, OSError) and each.errno is not None:
            return errno.errorcode.get(each.errno)
    return None


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = ""
    return text or type(error).__name__


def _error(kind: str, message: str, data: Mapping[str, Any] | None) -> ErrorInfo:
    text = without_secrets(clean_text(message[: 2 * MAX_ERROR_MESSAGE]))
    if len(text) > MAX_ERROR_MESSAGE:
        text = text[: MAX_ERROR_MESSAGE - 1] + "…"
    kept: Any = None
    if data:
        try:
            kept = data_without_secrets(plain(data))
        except ValueError:
            kept = {"repr": without_secrets(clean_text(repr(data)))[:MAX_ERROR_MESSAGE]}
    return ErrorInfo(type=clean_text(kind)[:200], message=text, data=kept)


def _find_chosen(error: BaseException) -> Suspended | TurnEnded | None:
    """The ending that a processor chose, also when a task group wrapped it; None for errors."""
    if isinstance(error, Suspended | TurnEnded):
        return error
    if isinstance(error, BaseExceptionGroup):
        chosen, others = error.split((Suspended, TurnEnded))
        if chosen is not None and others is None:
            first = first_of(chosen)
            return first if isinstance(first, Suspended | TurnEnded) else None
    return None


def _item(outcome: Any, **fields: Any) -> SettleItem:
    return SettleItem(job_id=JobId(""), fence=0, outcome=outcome, **fields)
