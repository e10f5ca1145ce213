"""AWS Lambda's way into the `status` function; the package holds what it does."""

from minutehand.functions.status.handler import handler

__all__ = ["handler"]
