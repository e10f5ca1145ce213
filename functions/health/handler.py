"""AWS Lambda's way into the `health` function; the package holds what it does."""

from minutehand.functions.health.handler import handler

__all__ = ["handler"]
