"""AWS Lambda's way into the `jobs` function; the package holds what it does."""

from minutehand.functions.jobs.handler import handler

__all__ = ["handler"]
