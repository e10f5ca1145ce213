"""The AWS Lambda handler of the `worker` function, which `minutehand.functions` defines."""

from minutehand.functions.worker.handler import handler

__all__ = ["handler"]
