"""Why a stage did not finish, as the worker's own exception: with a stable word for programs."""

from __future__ import annotations

from datetime import timedelta

from minutehand.queue import ProcessorError


def refused(code: str, reason: str) -> ProcessorError:
    """Another attempt would end in the same way."""
    return ProcessorError(reason, retryable=False, data={"code": code})


def later(code: str, reason: str, *, after: timedelta | None = None) -> ProcessorError:
    """Another attempt may do better, after what a service asked for or the backoff."""
    seconds = None if after is None else after.total_seconds()
    return ProcessorError(reason, retry_after=seconds, data={"code": code})
