"""AWS Lambda's way into the worker; nothing imports this module."""

from __future__ import annotations

import os
from collections.abc import Mapping

from minutehand.aws.rotation import RotatingHandler
from minutehand.config import Settings
from minutehand.functions.worker.invocations import LambdaWorker
from minutehand.log import configure_logging


def _build(environ: Mapping[str, str]) -> LambdaWorker:
    settings = Settings.from_env(environ)
    configure_logging(settings.log_level)
    memory_mb = int(environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "0") or 0)
    return LambdaWorker(settings, memory_mb=memory_mb)


handler = RotatingHandler(os.environ, _build)
