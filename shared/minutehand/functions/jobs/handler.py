"""The AWS Lambda handler of the `jobs` function. AWS Lambda loads the module by its name."""

from fastapi import FastAPI

from minutehand.aws.wake import LambdaWaker
from minutehand.config import Settings
from minutehand.functions.jobs.app import build_app
from minutehand.functions.on_lambda import on_lambda


def _build(settings: Settings) -> FastAPI:
    waker = LambdaWaker(settings) if settings.worker_function_name else None
    return build_app(settings, waker=waker)


handler = on_lambda(_build)
