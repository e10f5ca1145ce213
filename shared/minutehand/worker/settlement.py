"""Converts a processor's result into the item to settle, which is the outcome of the attempt.

The conversion decides whether the attempt counts, and whether the job is retried or ends.
`errors.py` converts exceptions.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC
from typing import Any, Literal, NamedTuple

from minutehand.queue.errors import ProcessorError, QueueError
from minutehand.queue.models import LogLine, SettleItem
from minutehand.worker.context import AttemptEnded, JobContext, Suspended
from minutehand.worker.errors import attribute, ending_error, error_info, first_of
from minutehand.worker.outcomes import Cancel, Fail, Retry, Snooze, retry_after_of, seconds
from minutehand.worker.registry import PayloadRejected
from minutehand.worker.serialization import Sanitized, sanitize, text
from minutehand.worker.unawaited import NotAwaited

#: Outcomes that contain a reason from the processor.
_REASONED = (Retry, Fail, Cancel)
#: Hint words of errors about payloads that the queue rejects in every attempt.
_PAYLOAD_ERRORS = {"payload_invalid", "payload_too_large"}
#: Reasons to stop a running processor.
StopReason = Literal["cancel", "lost", "timeout", "deadline", "shutdown"]


class CallResult(NamedTuple):
    """Value or error with which a processor ended.

    Attributes:
        abandoned: True if the processor did not stop when it was cancelled. The worker no longer
            waits for the end of an abandoned processor.
    """

    value: Any = None
    error: BaseException | None = None
    abandoned: bool = False

    @property
    def has_user_text(self) -> bool:
        """True if the outcome contains text from the processor, which must be redacted."""
        # use type(), because an object may report another class or raise an error
        if self.error is not None:
            return not issubclass(type(self.error), (Suspended, asyncio.CancelledError))
        return issubclass(type(self.value), _REASONED)


class AttemptFacts(NamedTuple):
    """Facts about an attempt that affect its outcome, other than its result.

    Attributes:
        timeout_seconds: Timeout of the attempt. None if the job's deadline is earlier.
        is_late: True if the attempt ended after its timeout.
        has_new_steps: True if the attempt stored a new step.
        had_enough_time: True if the attempt had at least half of the time of a whole worker run.
        module: Module of the processor. A traceback contains the frames of this module first.
        timeout_details: Stack of the processor when its timeout stopped it, and ids of the jobs in
            the same process.
    """

    stop_reason: StopReason | None = None
    timeout_seconds: float | None = None
    is_late: bool = False
    has_new_steps: bool = False
    had_enough_time: bool = True
    module: str = ""
    timeout_details: Mapping[str, Any] | None = None


def check_unawaited(result: CallResult, context: JobContext) -> CallResult:
    """Return the result, or an error if the processor did not await a call, or caught its wait.

    If the processor raised an error, return the processor's error.
    """
    if context.calls is None:
        return result
    never, in_progress = context.calls.end()
    if in_progress:
        names = " and ".join(f"{name}(…)" for name in dict.fromkeys(in_progress))
        context.log("warning", f"The processor ended before {names} had ended; await each call")
    is_planned = result.error is None or _find_control_flow(result.error) is not None
    if never and is_planned and not result.abandoned:
        return CallResult(error=NotAwaited(never))
    if context.suspended is not None and result.error is None and not result.has_user_text:
        message = (
            f"the processor caught the exception of its wait; let it pass: {context.suspended}"
        )
        return CallResult(error=ProcessorError(message, retryable=False))
    return result


def settle_item(result: CallResult, seen: AttemptFacts) -> SettleItem | None:
    """Return the item to settle, without ids, or None if the worker lost the lease.

    The function never raises, whatever value or error a processor returned or raised.
    """
    try:
        return _settle_item(result, seen)
    except BaseException as error:  # methods of the processor's values may raise anything
        message = f"the outcome of the processor cannot be settled: {text(error, 500)}"
        return _item("failed", error=ending_error("OutcomeRejected", message))


def _settle_item(result: CallResult, seen: AttemptFacts) -> SettleItem | None:
    """Choose the outcome from the processor's result and from the reason that stopped it.

    If a cancellation reached the running processor, its result is dropped. If the processor had
    already returned, its result is stored, even if a cancellation was requested. After a timeout or
    at the deadline, the result of the stopped processor is stored, unless it blocked the event loop
    after its timeout.
    """
    stop = seen.stop_reason
    if stop == "lost":
        return None
    if stop == "cancel":
        return _item("cancelled")
    if result.abandoned:
        return _stop_item(stop, seen)
    if (error := result.error) is None:
        if stop is None and seen.is_late:
            return _stop_item("timeout", seen)
        return _returned(result.value)
    control_flow = _find_control_flow(error)
    retryable = attribute(error, "retryable")
    is_final = isinstance(error, ProcessorError) and retryable is not None and not retryable
    # the queue would also reject the payload of the other job in the next attempt
    is_final = is_final or (isinstance(error, QueueError) and error.word in _PAYLOAD_ERRORS)
    if stop is not None and control_flow is None and not is_final:
        # ignore an error after the stop, because the processor's clean-up raised it
        return _stop_item(stop, seen)
    if isinstance(control_flow, Suspended):
        return _value_item("waiting", "wait", sanitize(control_flow.wait))
    if control_flow is not None:
        return _returned(control_flow.outcome)
    if isinstance(error, PayloadRejected):
        data = {"problems": error.errors}
        return _item("failed", error=ending_error("PayloadRejected", str(error), data))
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
                error=ending_error("Retry", reason, data),
                retry_after_seconds=None if after is None else seconds(after),
            )
        case Snooze(until=until, after=after):
            if until is not None:
                # convert the time to UTC, because Postgres rejects UTC offsets of sixteen hours and
                # more
                return _item("snoozed", until=until.astimezone(UTC))
            return _item("snoozed", delay_seconds=seconds(after or 0))
        case Fail(reason=reason, data=data):
            return _item("failed", error=ending_error("Fail", reason, data))
        case Cancel(reason=reason, data=data):
            return _item("cancelled", error=ending_error("Cancelled", reason, data))
    return _value_item("completed", "result", sanitize(value))


def _value_item(outcome: Any, name: str, value: Sanitized) -> SettleItem:
    """Return the outcome with its value. The job's log lists changes to the value."""
    if value.refused is not None:
        # fail without a retry, because another attempt would only repeat the processor's effects
        message = f"the {name} cannot be stored: {value.refused}"
        return _item("failed", error=ending_error(f"{name.capitalize()}Rejected", message))
    item = _item(outcome, **{name: value.value})
    if value.changed is not None:
        item.logs = (LogLine(level="warning", message=f"In the {name} {value.changed}"),)
    return item


def _stop_item(stop: StopReason | None, seen: AttemptFacts) -> SettleItem:
    if stop == "timeout":
        error = (
            ending_error("DeadlinePassed", "its deadline passed while it ran")
            if seen.timeout_seconds is None
            else ending_error(
                "AttemptTimeout", f"the attempt was stopped after {seen.timeout_seconds:g} s"
            )
        )
        timeout_details = dict(seen.timeout_details or {})
        update = {
            "traceback": {"frames": timeout_details.pop("frames", [])},
            "evidence": timeout_details,
        }
        return _item("retry", error=error.model_copy(update=update))
    if seen.has_new_steps:
        # the job does not loop endlessly, because each run stores at least one more step
        return _item("snoozed", delay_seconds=0.0)
    if stop == "shutdown" or not seen.had_enough_time:
        # the attempt does not count, because the host stops or the job started late in the run. The
        # next worker run starts the job first.
        return _item("released")
    message = (
        "the worker's time ran out before the job ended; "
        "split the job into steps or raise the worker's timeout"
    )
    return _item("retry", error=ending_error("DeadlineReached", message), retry_after_seconds=0.0)


def _find_control_flow(error: BaseException) -> Suspended | AttemptEnded | None:
    """Return the exception by which a processor chose its outcome, or None for an error."""
    if isinstance(error, BaseExceptionGroup):
        control_flow, remaining = error.split((Suspended, AttemptEnded))
        error = error if control_flow is None or remaining is not None else first_of(control_flow)
    return error if isinstance(error, (Suspended, AttemptEnded)) else None


_item = SettleItem.of
