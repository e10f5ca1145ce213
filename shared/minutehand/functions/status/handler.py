"""The AWS Lambda handler of the `status` function. AWS Lambda loads the module by its name."""

from fastapi import FastAPI

from minutehand.config import Settings
from minutehand.functions.on_lambda import on_lambda
from minutehand.functions.status.routes import router
from minutehand.web.application import create_app
from minutehand.web.services import Services


def _build(settings: Settings) -> FastAPI:
    return create_app(Services(settings), [router], title="Minutehand status")


handler = on_lambda(_build)
