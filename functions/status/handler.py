"""AWS Lambda's way into the `status` function; nothing imports this module."""

from __future__ import annotations

import os

from functions.status.app import build_app
from shared.aws.secrets import fill_environment
from shared.config import Settings
from shared.log import configure_logging
from shared.web.gateway import GatewayHandler

fill_environment(os.environ)
_settings = Settings.from_env(os.environ)
configure_logging(_settings.log_level)

handler = GatewayHandler(build_app(_settings))
