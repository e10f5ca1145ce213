"""AWS Lambda's way into an app of the API."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from fastapi import FastAPI

from minutehand.aws.rotation import RotatingHandler
from minutehand.config import Settings
from minutehand.log import configure_logging
from minutehand.web.gateway import GatewayHandler


def on_lambda(build_app: Callable[[Settings], FastAPI]) -> RotatingHandler:
    """The handler that Lambda calls, with the app made from its environment and its secrets."""

    def build(environ: Mapping[str, str]) -> GatewayHandler:
        settings = Settings.from_env(environ)
        configure_logging(settings.log_level)
        app = build_app(settings)
        return GatewayHandler(app, app.state.services)

    return RotatingHandler(os.environ, build)
