"""Errors of a stage of a training. Each error has a stable code for programs."""

from minutehand.queue import ProcessorError


def refused(code: str, reason: str) -> ProcessorError:
    """Return a permanent error, after which a retry would fail in the same way."""
    return ProcessorError(reason, retryable=False, data={"code": code})


def later(code: str, reason: str) -> ProcessorError:
    """Return a temporary error, after which the job is retried."""
    return ProcessorError(reason, data={"code": code})
