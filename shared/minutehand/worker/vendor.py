"""Calls of a service that costs money, in a job: counted, and waited for while it is away.

What may have been charged costs a try, `MOST_CALLS` in a step however many attempts that takes;
what certainly was not, as a refusal or a request that never left, costs none. What is asked, and
what an answer must be, are the caller's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, NoReturn, TypeVar

from minutehand.config import JobServiceError
from minutehand.queue.errors import ProcessorError
from minutehand.queue.outbound_http import NoResponse
from minutehand.worker.context import JobContext, Suspended, TurnEnded
from minutehand.worker.job import Job
from minutehand.worker.outcomes import Snooze

T = TypeVar("T")
#: What a caller can do: ask again later, ask something else, or ask nothing more.
Hope = Literal["later", "differently", "none"]
#: Most calls of one step that may have been charged.
MOST_CALLS: Final = 5
#: How long after the first refusal in a row a job without a deadline begins another wait.
PATIENCE: Final = timedelta(hours=6)
#: Bounds of the pause before a service that named none is asked again: it grows with the time since
#: the first refusal, and threefold with each call that may have been charged.
SHORTEST_WAIT, LONGEST_WAIT = timedelta(seconds=10), timedelta(minutes=1)
LONGEST_WAIT_OF_CHARGED: Final = timedelta(minutes=5)
#: Waits from here on are said with their day.
_DAYS: Final = timedelta(hours=12)
#: Codes of a service that is away or asks to wait: no attempt of a job is spent on it.
_AWAY: Final = frozenset({"rate_limited", "unreachable", "silent", "cut_short"})
_SETTINGS: Final = "An operator must look at its settings."
#: What people read, by code: what happened and what they can do, in no program's words.
_SAID: Final = {
    "not_authorised": f"{{}} refused access. {_SETTINGS}",
    "misconfigured": f"{{}} is not set up as it should be. {_SETTINGS}",
    "none": "{} is not set up here.",
    "out_of_credit": "{} has no credit left. An operator must add some.",
    "rate_limited": "{} has reached its rate limit",
    "unreachable": "{} could not be reached",
    "silent": "{} did not answer in time",
    "cut_short": "{} broke off its answer",
    "failed": "{} failed",
    "refused": "{} refused the request.",
    "too_long": "{} cannot take a request as long as this one. Make it shorter.",
    "input_refused": "{} would not answer this. Ask it differently.",
    "answer_unusable": "{}'s answer could not be used. Try again, or ask it differently.",
    "answer_too_long": "{}'s answer was longer than it may be. Ask for less at once.",
}
#: What is known of calls whose job was stopped each time.
_STOPPED: Final[dict[str, Any]] = {
    "code": "stopped",
    "hope": "none",
    "said": "The work was stopped each time before an answer came.",
}

#: Statuses of a service that is away or too busy, not of one that is broken; 498 is Groq's.
_OVERLOADED: Final = frozenset({498, 502, 503, 521, 522, 523, 529})
#: Statuses of a gateway that waited in vain, or whose caller is gone: behind it the work may have
#: been done.
_TIMED_OUT: Final = frozenset({408, 460, 499, 504, 524})


class Verdict(NamedTuple):
    """What a status means: see the attributes of VendorError."""

    code: str
    hope: Hope
    charged: bool = False


def verdict(status: int) -> Verdict:
    """What the status of an answer that is none means at any vendor."""
    if status in {401, 403}:
        return Verdict("not_authorised", "none")
    if status == 402:
        return Verdict("out_of_credit", "none")
    if status == 429:
        return Verdict("rate_limited", "later")
    if status in _TIMED_OUT:
        return Verdict("silent", "later", charged=True)
    if status in _OVERLOADED:
        return Verdict("unreachable", "later")
    if status in {409, 425} or status >= 500:
        # an error in place of an answer: nothing was done
        return Verdict("failed", "later")
    return Verdict("misconfigured" if status < 400 else "refused", "none")


def no_answer(error: NoResponse) -> Verdict:
    """What it means that no whole answer came: silence and half an answer may hide a whole one."""
    if error.kind == "unsent":
        return Verdict("unreachable", "later")
    code = {"silent": "silent", "broken": "cut_short", "long": "answer_unusable"}[error.kind]
    return Verdict(code, "differently" if error.kind == "long" else "later", charged=True)


def sentence(code: str, vendor: str) -> str:
    """What a code means, for people."""
    return _SAID.get(code, _SAID["failed"]).format(vendor)


class VendorError(JobServiceError):
    """A service did not do as asked; the text is for the job's log, `said` for people.

    Attributes:
        said: What happened in a sentence without names of fields, classes, models or keys.
        hope: What a caller can do.
        charged: Whether the call may have been charged.
        status: HTTP's, where there was an answer.
        retry_after: How long the service asked to wait; None when it did not say.
        repeatable: Whether asking again at once cannot be charged twice.
    """

    code: str = "unreachable"
    hope: Hope = "later"
    charged: bool = False
    #: What begins `said`.
    vendor: str = "The service"
    #: Before `code`, where programs read it.
    prefix: str = ""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hope: Hope | None = None,
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
        self.said = said or sentence(self.code, self.vendor)
        self.status = status
        self.retry_after = retry_after
        self.repeatable = repeatable
        super().__init__(message)

    @property
    def away(self) -> bool:
        """Whether the service is only to be waited for."""
        return self.code in _AWAY

    @property
    def data(self) -> dict[str, Any]:
        """What programs read of it."""
        return {"code": f"{self.prefix}{self.code}", "hope": self.hope}


class VendorCalls:
    """The calls of one service in one step, as all attempts of a job's run made them.

    Args:
        name: What is asked for; unique in the step.
    """

    def __init__(self, job: Job[Any], ctx: JobContext, name: str) -> None:
        self._job = job
        self._ctx = ctx
        self._notes = ctx.notes(f"{name}: calls")
        last: dict[str, Any] = self._notes.last or {}
        if last.get("job") != job.id:
            last = {}  # a job replayed from a step has the notes of the one it was
        self._charged = int(last.get("charged", 0))
        self._failed: dict[str, Any] | None = last.get("failed")
        since = last.get("refused_since")
        self._refused_since = None if since is None else datetime.fromisoformat(since)

    @property
    def charged(self) -> int:
        """How many calls may have been charged so far."""
        return self._charged

    async def get(self, call: Callable[[], Awaitable[T]]) -> T:
        """The answer to a call, or the end of the attempt as `end` says."""
        try:
            return await self.make(call)
        except VendorError as error:
            self.end(error)

    async def make(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call and count it; one that is stopped may have been charged as well.

        Raises:
            VendorError: The call's, or without a call the last one's once there were `MOST_CALLS`.
        """
        if self._charged >= MOST_CALLS:
            failed = self._failed or _STOPPED
            why = f"It was asked {self._charged} times, the last time: {failed['said']}"
            raise VendorError(why, **failed)
        try:
            answer = await call()
        except VendorError as error:
            self._count(error)
            raise
        except (ProcessorError, Suspended, TurnEnded):
            raise
        except BaseException:
            # stopped, or what its words were given to failed; stored by what ends the attempt
            self._charged += 1
            self._note(None)
            raise
        if self._refused_since is not None:
            self._refused_since = None
            self._note(None)
        return answer

    def wait(self, error: VendorError) -> None:
        """End the attempt where the service is away, spending none, until it is to be asked again.

        It returns where no try is left, the patience is over, or the job's deadline would be.
        """
        now = self._ctx.clock.now()
        pause = error.retry_after or self._pause(error, now)
        at, deadline = now + pause, self._job.deadline_at
        is_over = now >= (self._refused_since or now) + PATIENCE
        is_over = is_over or (deadline is not None and at >= deadline)
        if is_over or not error.away or self._charged >= MOST_CALLS:
            return
        self._report(error, f"it is asked again at {clock_time(at, pause)}", "warning")
        raise TurnEnded(Snooze(after=pause)) from error

    def end(self, error: VendorError) -> NoReturn:
        """End the attempt after a call that failed: waiting, or as failed, in words for people.

        Raises:
            TurnEnded: See `wait`.
            ProcessorError: Retryable where another call may help and one is left.
        """
        self.wait(error)
        is_last, said = self._charged >= MOST_CALLS, error.said
        if is_last and error.hope == "later":
            said = f"{said.rstrip('.')}. It was asked {self._charged} times."
        retryable = error.hope == "later" and not is_last
        if retryable and not self._job.is_last_attempt:
            again = "it is asked again soon"
            if error.retry_after is not None:
                at = self._ctx.clock.now() + error.retry_after
                again = f"it is asked again at {clock_time(at, error.retry_after)}"
            self._report(error, again, "error")
        else:
            self._ctx.log("error", str(error), code=error.code)
        raise ProcessorError(
            said,
            retryable=retryable,
            retry_after=error.retry_after.total_seconds() if error.retry_after else None,
            data=error.data,
        ) from error

    def _report(self, error: VendorError, again: str, level: str) -> None:
        self._ctx.log(level, f"{error}; {again}", code=error.code)
        self._ctx.progress(None, "waiting", f"{error.said.rstrip('.')}; {again}")

    def _count(self, error: VendorError) -> None:
        if error.charged:
            self._charged += 1
            self._refused_since = None  # it answers, or takes requests
            self._note(error)
        elif error.away and self._refused_since is None:
            self._refused_since = self._ctx.clock.now()
            self._note(error)

    def _note(self, error: VendorError | None) -> None:
        since = self._refused_since
        if error is not None:
            # not its text: a step's values have more readers than the log
            self._failed = {"code": error.data["code"], "hope": error.hope, "said": error.said}
        self._notes.add(
            {
                "job": self._job.id,
                "charged": self._charged,
                "refused_since": None if since is None else since.isoformat(),
                "failed": self._failed or _STOPPED,
            }
        )

    def _pause(self, error: VendorError, now: datetime) -> timedelta:
        if error.charged:
            factor: int = 3 ** max(0, self._charged - 1)
            return min(SHORTEST_WAIT * factor, LONGEST_WAIT_OF_CHARGED)
        return min(max((now - (self._refused_since or now)) / 4, SHORTEST_WAIT), LONGEST_WAIT)


def clock_time(at: datetime, pause: timedelta) -> str:
    """An instant for people; one that is not soon has its day."""
    if pause >= _DAYS:
        return f"{at:%H:%M} UTC on {at.day} {at:%B}"
    return f"{at:%H:%M:%S} UTC"
