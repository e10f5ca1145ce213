"""Errors of a stage. Each error has a stable code for programs."""

from __future__ import annotations

from datetime import timedelta

from minutehand.queue import ProcessorError


def refused(code: str, reason: str) -> ProcessorError:
    """Create a permanent error, because a retry would fail in the same way."""
    return ProcessorError(reason, retryable=False, data={"code": code})


def later(code: str, reason: str, *, after: timedelta | None = None) -> ProcessorError:
    """Create an error after which the job is retried.

    Args:
        after: Wait that the service requested. Default: the backoff of the job type.
    """
    seconds = None if after is None else after.total_seconds()
    return ProcessorError(reason, retry_after=seconds, data={"code": code})
