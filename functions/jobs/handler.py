"""The AWS Lambda handler of the `jobs` function, which `minutehand.functions` defines."""

from minutehand.functions.jobs.handler import handler

__all__ = ["handler"]
