"""The AWS Lambda handler of the worker. AWS Lambda loads the module by its name."""

import os
from collections.abc import Mapping

from minutehand.aws.rotation import RotatingHandler
from minutehand.config import Settings
from minutehand.functions.worker.invocations import LambdaWorker
from minutehand.log import configure_logging


def _build(environ: Mapping[str, str]) -> LambdaWorker:
    settings = Settings.from_env(environ)
    configure_logging(settings.log_level)
    return LambdaWorker(settings)


handler = RotatingHandler(os.environ, _build)
