"""AWS Lambda's way into the `jobs` function; nothing imports this module."""

from __future__ import annotations

import os
from collections.abc import Mapping

from minutehand.aws.rotation import RotatingHandler
from minutehand.aws.wake import LambdaWaker
from minutehand.config import Settings
from minutehand.functions.jobs.app import build_app
from minutehand.log import configure_logging
from minutehand.web.gateway import GatewayHandler


def _build(environ: Mapping[str, str]) -> GatewayHandler:
    settings = Settings.from_env(environ)
    configure_logging(settings.log_level)
    waker = LambdaWaker(settings) if settings.worker_function_name else None
    app = build_app(settings, waker=waker)
    return GatewayHandler(app, app.state.services)


handler = RotatingHandler(os.environ, _build)
