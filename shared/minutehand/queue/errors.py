"""Errors of calls to the queue, with one type for each error that callers handle differently."""

import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Self

from minutehand.config import JobServiceError as JobServiceError


class QueueError(JobServiceError):
    """The queue rejected a call."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str = "",
        details: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.message = message
        self.status = status
        self.code = code
        self.details = details
        self.hint = hint
        # only errors with the engine's SQLSTATEs have a hint of one word, and other hints are
        # sentences
        self.word = (hint or "") if code.startswith("PT") else ""
        super().__init__(message)

    @property
    def lacks_object(self) -> bool:
        """True if a function or table was not found. The status is then 404, as for a job."""
        return self.code in {"PGRST202", "PGRST205", "42883", "42P01"}

    def __str__(self) -> str:
        word = f"({self.word})" if self.word else ""
        details = f"[{self.details}]" if self.details else ""
        return " ".join(part for part in (self.message, word, details) if part)


class LeaseLost(QueueError):
    """The worker no longer has the job's lease, because the job ended or another worker leased it.

    The failed call stored nothing.
    """


class JobNotFound(QueueError):
    """No job has this id, or the caller is not allowed to see the job."""


class DuplicateJob(QueueError):
    """A job with the same unique key already exists. `details` is the id of that job."""


class InvalidState(QueueError):
    """The job's current status does not allow the call."""


class TokenRefused(QueueError):
    """The Data API rejected a token that is expired, wrongly signed, or has an unknown role."""

    #: Time at which the server rejected the token, by the clock of the server.
    server_time: datetime | None = None


class RateLimited(QueueError):
    """The caller exceeded a rate limit or concurrency limit. The rejected call did nothing."""

    @property
    def limit(self) -> str | None:
        """Name of the exceeded limit, such as `enqueues` or `calls_at_once`."""
        name: str | None = json.loads(self.details or "{}").get("limit")
        return name

    @property
    def retry_after(self) -> timedelta:
        """The wait before a retry that the queue requests."""
        return timedelta(seconds=json.loads(self.details or "{}").get("retry_after_seconds", 1))


class JobBusy(QueueError):
    """Another transaction is changing the job.

    The rejected call did nothing and can be repeated.
    """


class QueueUnavailable(QueueError):
    """The database failed or did not respond in time. The call may have had an effect."""

    #: True if the call certainly had no effect, so that any call can be repeated.
    unsent: bool = False


class FunctionTimeout(QueueUnavailable):
    """A SQL function did not respond in time. The function may still run."""

    @classmethod
    def of(cls, function: str, seconds: float) -> Self:
        """Return the error of a call of `function` that was sent `seconds` ago."""
        return cls(f"the SQL function {function} did not respond within {seconds:g} s")


class DatabaseReadOnly(QueueUnavailable):
    """The database is read-only and rejects every write.

    Supabase makes a project read-only when its disk is full.
    """


class ProcessorError(JobServiceError):
    """Raised in a processor to fail the attempt with a message for people."""

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = True,
        retry_after: float | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        self.retryable = retryable
        self.retry_after = retry_after
        self.data = data
        super().__init__(message)


_BY_WORD: Mapping[str, type[QueueError]] = {
    "lease_lost": LeaseLost,
    "job_not_found": JobNotFound,
    "duplicate_job": DuplicateJob,
    "invalid_state": InvalidState,
    "key_revoked": TokenRefused,
    "rate_limited": RateLimited,
    "job_busy": JobBusy,
}

#: Prefixes of codes of temporary errors, for which the Data API may return a 4xx status. The codes
#: are classes of SQLSTATEs (connection, conflict, resources, locks, timeout, shutdown) and codes of
#: PostgREST.
_TRANSIENT = ("08", "40", "53", "55", "57", "PGRST00")
#: Pattern of an error message that also contains the error's hint and details, as `queue.refuse`
#: writes the message for a Data API that returns no hints.
_FULL_MESSAGE = re.compile(r"(.*) \((\w+)\)(?: \[(.*)\])?", re.DOTALL)
#: SQLSTATEs of a serialization failure, a deadlock and a lock timeout. The failed call has stored
#: nothing. After the first two, PostgREST 14 repeats the call itself.
_ROLLED_BACK = frozenset({"40001", "40P01", "55P03"})


def error_from_response(status: int, body: object) -> QueueError:
    """Return the typed error for a response of the Data API with a status of 400 or above."""
    fields: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
    code = str(fields.get("code") or "")
    message, details, hint = (
        None if fields.get(name) is None else str(fields[name])
        for name in ("message", "details", "hint")
    )
    message = message or f"the Data API answered {status}"
    if code.startswith("PT") and not hint and (match := _FULL_MESSAGE.fullmatch(message)):
        message, hint, details = match.groups()
    error_type = QueueError
    if code.startswith("PT"):
        error_type = _BY_WORD.get(hint or "", QueueError)
    elif code == "25006":
        error_type = DatabaseReadOnly
        message = "the database is read-only; `minutehand doctor` shows how an operator ends this"
    elif status >= 500 or status in {408, 425, 429} or code.startswith(_TRANSIENT):
        error_type = QueueUnavailable
    elif status == 401 or code.startswith("PGRST30"):
        error_type = TokenRefused
    error = error_type(message, status=status, code=code, details=details, hint=hint)
    if isinstance(error, QueueUnavailable):
        error.unsent = code in _ROLLED_BACK
    return error
