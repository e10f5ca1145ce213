"""AWS Lambda's way into the `status` function; nothing imports this module."""

from __future__ import annotations

import os
from collections.abc import Mapping

from functions.status.app import build_app
from shared.aws.rotation import RotatingHandler
from shared.config import Settings
from shared.log import configure_logging
from shared.web.gateway import GatewayHandler


def _build(environ: Mapping[str, str]) -> GatewayHandler:
    settings = Settings.from_env(environ)
    configure_logging(settings.log_level)
    app = build_app(settings)
    return GatewayHandler(app, app.state.services)


handler = RotatingHandler(os.environ, _build)
