"""The AWS Lambda handler of the `status` function, which `minutehand.functions` defines."""

from minutehand.functions.status.handler import handler

__all__ = ["handler"]
