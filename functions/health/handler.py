"""The AWS Lambda handler of the `health` function, which `minutehand.functions` defines."""

from minutehand.functions.health.handler import handler

__all__ = ["handler"]
