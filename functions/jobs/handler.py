"""AWS Lambda's way into the `jobs` function; nothing imports this module."""

from __future__ import annotations

import os

from functions.jobs.app import build_app
from shared.aws.secrets import fill_environment
from shared.aws.wake import LambdaWaker
from shared.config import Settings
from shared.log import configure_logging
from shared.web.gateway import GatewayHandler

fill_environment(os.environ)
_settings = Settings.from_env(os.environ)
configure_logging(_settings.log_level)
_waker = LambdaWaker(_settings) if _settings.worker_function_name else None

handler = GatewayHandler(build_app(_settings, waker=_waker))
