"""AWS Lambda's way into the `worker` function; the package holds what it does."""

from minutehand.functions.worker.handler import handler

__all__ = ["handler"]
