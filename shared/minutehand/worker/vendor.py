"""Calls of a paid service by a job, with a limit per step, and with waits for the service.

A call that may have been charged counts towards `MAX_CALLS`, which limits the calls of a step over
all attempts. A call that the service rejected or that was never sent does not count towards the
limit. The caller of this module builds requests and parses responses.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple, NoReturn, TypeVar

from minutehand.config import JobServiceError
from minutehand.queue.errors import ProcessorError
from minutehand.queue.outbound_http import NoResponse
from minutehand.worker.context import AttemptEnded, JobContext, Suspended
from minutehand.worker.job import Job
from minutehand.worker.outcomes import Snooze

T = TypeVar("T")
#: Advice after a failed call, which is to call again later, to change the request, or to give up.
RetryAdvice = Literal["later", "differently", "none"]
#: Maximum calls of one step that may have been charged.
MAX_CALLS = 5
#: Maximum time that a job waits for a service, counted from the first of consecutive rejections.
MAX_WAIT = timedelta(hours=6)
#: Minimum and maximum pause if the service requests no pause. The pause grows with the time since
#: the first rejection, and triples with each call that may have been charged.
MIN_DELAY, MAX_DELAY = timedelta(seconds=10), timedelta(minutes=1)
MAX_DELAY_IF_CHARGED = timedelta(minutes=5)
#: A time of day is shown with its date if the time is at least this far away.
_DATE_AFTER = timedelta(hours=12)
#: Error codes of a service that is unavailable or requests a pause. An attempt that ends with one
#: of the codes does not count.
_UNAVAILABLE = frozenset({"rate_limited", "unreachable", "silent", "cut_short"})
_SETTINGS = "An operator must check its settings."
#: Messages for people by error code, which say what happened and what people can do.
_MESSAGES = {
    "not_authorised": f"{{}} refused access. {_SETTINGS}",
    "misconfigured": f"{{}} is set up incorrectly. {_SETTINGS}",
    "none": "{} is not set up here.",
    "out_of_credit": "{} has no credit left. An operator must add some.",
    "rate_limited": "{} has reached its rate limit",
    "unreachable": "{} could not be reached",
    "silent": "{} did not respond in time",
    "cut_short": "{} broke off its answer",
    "failed": "{} failed",
    "refused": "{} rejected the request.",
    "too_long": "{} cannot process a request as long as this one. Make it shorter.",
    "input_refused": "{} would not answer this. Ask it differently.",
    "answer_unusable": "{}'s answer could not be used. Try again, or change the request.",
    "answer_too_long": "{}'s answer was too long. Ask for less at once.",
}
#: The failure of a step if the worker stopped the job during each of the step's calls.
_STOP_FAILURE: dict[str, Any] = {
    "code": "stopped",
    "hope": "none",
    "said": "Each call was stopped before its answer arrived.",
}

#: HTTP statuses of a service that is unavailable or overloaded, not broken. Groq sends 498.
_OVERLOADED = frozenset({498, 502, 503, 521, 522, 523, 529})
#: HTTP statuses of a gateway that timed out, or whose client disconnected. The service behind the
#: gateway may have done the work.
_TIMED_OUT = frozenset({408, 460, 499, 504, 524})


class Failure(NamedTuple):
    """Classification of a failed call. The class VendorError explains the fields."""

    code: str
    hope: RetryAdvice
    charged: bool = False


def classify_status(status: int) -> Failure:
    """Classify the HTTP status of an error response."""
    if status in {401, 403}:
        return Failure("not_authorised", "none")
    if status == 402:
        return Failure("out_of_credit", "none")
    if status == 429:
        return Failure("rate_limited", "later")
    if status in _TIMED_OUT:
        return Failure("silent", "later", charged=True)
    if status in _OVERLOADED:
        return Failure("unreachable", "later")
    if status in {409, 425} or status >= 500:
        # the service does not charge for the call, because it returned an error and no result
        return Failure("failed", "later")
    return Failure("misconfigured" if status < 400 else "refused", "none")


def classify_no_response(error: NoResponse) -> Failure:
    """Classify a missing response. A call that was sent may have been charged."""
    if error.kind == "unsent":
        return Failure("unreachable", "later")
    code = {"silent": "silent", "broken": "cut_short", "long": "answer_unusable"}[error.kind]
    return Failure(code, "differently" if error.kind == "long" else "later", charged=True)


def user_message(code: str, vendor: str) -> str:
    """Return the message that people see for an error code."""
    return _MESSAGES.get(code, _MESSAGES["failed"]).format(vendor)


class VendorError(JobServiceError):
    """A call of a service failed. The text is for the job's log, and `said` is for people.

    Attributes:
        said: A sentence for people, without names of fields, classes, models or keys.
        hope: Advice for the next call.
        charged: True if the call may have been charged.
        status: HTTP status, if there was a response.
        url: URL of the call, or None. An error is stored with its host and port.
        retry_after: The wait that the service requested, or None.
        repeatable: True if the same call may be repeated immediately without being charged twice.
    """

    code: str = "unreachable"
    hope: RetryAdvice = "later"
    charged: bool = False
    #: Name of the service, with which the message `said` begins.
    vendor: str = "The service"
    #: Prefix of the error code in `data`.
    prefix: str = ""
    url: str | None = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hope: RetryAdvice | None = None,
        charged: bool | None = None,
        vendor: str | None = None,
        said: str | None = None,
        status: int | None = None,
        retry_after: timedelta | None = None,
        repeatable: bool = False,
    ) -> None:
        self.code = code or self.code
        self.hope = hope or self.hope
        self.charged = self.charged if charged is None else charged
        self.vendor = vendor or self.vendor
        self.said = said or user_message(self.code, self.vendor)
        self.status = status
        self.retry_after = retry_after
        self.repeatable = repeatable
        super().__init__(message)

    @property
    def away(self) -> bool:
        """True if the service is unavailable, so that the job should wait and call again."""
        return self.code in _UNAVAILABLE

    @property
    def data(self) -> dict[str, Any]:
        """Error code and advice, for programs."""
        return {"code": f"{self.prefix}{self.code}", "hope": self.hope}


class VendorCalls:
    """Calls of one service in one step, counted over all attempts of a job.

    Args:
        name: Name of the request. Requests of one step need different names.
        patient: False if a person waits for the result. If a person waits, the first error ends the
            job.
    """

    def __init__(self, job: Job[Any], ctx: JobContext, name: str, *, patient: bool = True) -> None:
        self._can_wait = patient
        self._job = job
        self._ctx = ctx
        self._memo = ctx.notes(f"{name}: calls")
        last: dict[str, Any] = self._memo.last or {}
        if last.get("job") != job.id:
            last = {}  # a job that was replayed from a step has the memo of the original job
        self._charged = int(last.get("charged", 0))
        self._failed: dict[str, Any] | None = last.get("failed")
        since = last.get("refused_since")
        self._unavailable_since = None if since is None else datetime.fromisoformat(since)

    @property
    def charged(self) -> int:
        """Number of calls so far that may have been charged."""
        return self._charged

    async def get(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return the result of a call of the service.

        If the call fails, end the attempt, see `end`.
        """
        try:
            return await self.make(call)
        except VendorError as error:
            self.end(error)

    async def make(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call of the service, and count it. A call that is stopped counts as charged.

        Raises:
            VendorError: The call failed. After `MAX_CALLS` calls, the error of the last call.
        """
        if self._charged >= MAX_CALLS:
            failed = self._failed or _STOP_FAILURE
            text = f"It was asked {self._charged} times, the last time: {failed['said']}"
            raise VendorError(text, **failed)
        try:
            result = await call()
        except VendorError as error:
            self._count(error)
            raise
        except (ProcessorError, Suspended, AttemptEnded):
            raise
        except BaseException:
            # the job was stopped during the call, or the receiver of the call's output failed
            self._charged += 1
            self._remember(None)
            raise
        if self._unavailable_since is not None:
            self._unavailable_since = None
            self._remember(None)
        return result

    def wait(self, error: VendorError) -> None:
        """Suspend the job if the service is unavailable. The suspended attempt does not count.

        Return without a wait if the step has no call left, or if the wait would exceed `MAX_WAIT`
        or the job's deadline.
        """
        now = self._ctx.clock.now()
        delay = error.retry_after or self._delay(error, now)
        at, deadline = now + delay, self._job.deadline_at
        has_expired = now >= (self._unavailable_since or now) + MAX_WAIT
        has_expired = has_expired or (deadline is not None and at >= deadline)
        if has_expired or not error.away or self._charged >= MAX_CALLS:
            return
        self._report(error, f"it is asked again at {clock_time(at, delay)}", "warning")
        raise AttemptEnded(Snooze(after=delay)) from error

    def end(self, error: VendorError) -> NoReturn:
        """End the attempt after a failed call. Suspend the job, or fail with an error for people.

        Raises:
            AttemptEnded: The job is suspended, see `wait`.
            ProcessorError: The error is retryable if another call may succeed and the step has a
                call left.
        """
        if self._can_wait:
            self.wait(error)
        is_last, message = self._charged >= MAX_CALLS, error.said
        is_retryable = error.hope == "later"
        if is_retryable and is_last:
            message = f"{message.rstrip('.')}. It was asked {self._charged} times."
        elif is_retryable and not self._can_wait:
            message = f"{message.rstrip('.')}. Try again."
        retryable = is_retryable and not is_last and self._can_wait
        if retryable and not self._job.is_last_attempt:
            text = "it is asked again soon"
            if error.retry_after is not None:
                at = self._ctx.clock.now() + error.retry_after
                text = f"it is asked again at {clock_time(at, error.retry_after)}"
            self._report(error, text, "error")
        else:
            self._ctx.log("error", str(error), code=error.code)
        raise ProcessorError(
            message,
            retryable=retryable,
            retry_after=error.retry_after.total_seconds() if error.retry_after else None,
            data=error.data,
        ) from error

    def _report(self, error: VendorError, text: str, level: str) -> None:
        self._ctx.log(level, f"{error}; {text}", code=error.code)
        self._ctx.progress(None, "waiting", f"{error.said.rstrip('.')}; {text}")

    def _count(self, error: VendorError) -> None:
        if error.charged:
            self._charged += 1
            self._unavailable_since = None  # the service accepted the request
            self._remember(error)
        elif error.away and self._unavailable_since is None:
            self._unavailable_since = self._ctx.clock.now()
            self._remember(error)

    def _remember(self, error: VendorError | None) -> None:
        since = self._unavailable_since
        if error is not None:
            # omit the error's text, because more people can read a step's values than the worker's
            # log
            self._failed = {"code": error.data["code"], "hope": error.hope, "said": error.said}
        self._memo.add(
            {
                "job": self._job.id,
                "charged": self._charged,
                "refused_since": None if since is None else since.isoformat(),
                "failed": self._failed or _STOP_FAILURE,
            }
        )

    def _delay(self, error: VendorError, now: datetime) -> timedelta:
        if error.charged:
            factor: int = 3 ** max(0, self._charged - 1)
            return min(MIN_DELAY * factor, MAX_DELAY_IF_CHARGED)
        return min(max((now - (self._unavailable_since or now)) / 4, MIN_DELAY), MAX_DELAY)


def clock_time(at: datetime, delay: timedelta) -> str:
    """Format a time of day for people, with the date if the time is not soon."""
    if delay >= _DATE_AFTER:
        return f"{at:%H:%M} UTC on {at.day} {at:%B}"
    return f"{at:%H:%M:%S} UTC"
