"""What can go wrong when talking to the queue, each type only where a caller acts differently."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from minutehand.config import JobServiceError as JobServiceError


class QueueError(JobServiceError):
    """The queue refused a call."""

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
        # others write sentences into their hints
        self.word = (hint or "") if code.startswith("PT") else ""
        super().__init__(message)

    def __str__(self) -> str:
        word = f"({self.word})" if self.word else ""
        details = f"[{self.details}]" if self.details else ""
        return " ".join(part for part in (self.message, word, details) if part)


class LeaseLost(QueueError):
    """Another worker holds the job, or it ended; nothing of this call was stored."""


class JobNotFound(QueueError):
    """No job of this id that the caller may see."""


class DuplicateJob(QueueError):
    """A unique job like this one already exists; `details` is its id."""


class InvalidState(QueueError):
    """The job's present status does not allow this."""


class TokenRefused(QueueError):
    """The Data API did not accept the token: expired, wrongly signed, or of no known role."""


class RateLimited(QueueError):
    """Too much lately, or at once: nothing was done."""

    @property
    def retry_after(self) -> timedelta:
        """When to call again, as the queue asks."""
        return timedelta(seconds=json.loads(self.details or "{}").get("retry_after_seconds", 1))


class JobBusy(QueueError):
    """Another transaction is changing the job; nothing was done, so any call may be repeated."""


class QueueUnavailable(QueueError):
    """The database did not answer in time or failed; safe to repeat."""

    unsent: bool = False


class DatabaseReadOnly(QueueUnavailable):
    """Every write is refused: Supabase makes a project read-only whose plan is full."""


class ProcessorError(JobServiceError):
    """Raise it in a processor to fail the attempt with a message for people."""

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

#: What means "not now" although the Data API may answer 4xx, as SQLSTATE classes (no connection,
#: conflicts, resources, locks, timeouts and a shutdown) and as a beginning of its own codes.
_TRANSIENT: Final = ("08", "40", "53", "55", "57", "PGRST00")


def error_from_response(status: int, body: object) -> QueueError:
    """The typed error for an answer of the Data API with `status` 400 or above."""
    fields: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
    code = str(fields.get("code") or "")
    message, details, hint = (
        None if fields.get(name) is None else str(fields[name])
        for name in ("message", "details", "hint")
    )
    message = message or f"the Data API answered {status}"
    kind = QueueError
    if code.startswith("PT"):
        kind = _BY_WORD.get(hint or "", QueueError)
    elif code == "25006":
        kind = DatabaseReadOnly
        message = (
            "the database is read-only, as Supabase makes it when the plan's size is used up; "
            "`minutehand doctor --only database` says how an operator ends that"
        )
    elif status >= 500 or status in {408, 425, 429} or code.startswith(_TRANSIENT):
        kind = QueueUnavailable
    elif status == 401 or code.startswith("PGRST30"):
        kind = TokenRefused
    return kind(message, status=status, code=code, details=details, hint=hint)
