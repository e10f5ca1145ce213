"""A Lambda handler that is replaced when its secrets change, so that a rotation needs no deploy.

The functions create the handler. An environment that was frozen for long reads its secrets before
it handles an invocation.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Protocol

from minutehand.aws.secrets import read_secrets

logger = logging.getLogger(__name__)

MAX_AGE = timedelta(minutes=5)


class Handler(Protocol):
    """Handler of a Lambda function."""

    def __call__(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Handle an invocation."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


class RotatingHandler:
    """Builds a handler from the environment and the secrets, and rebuilds it when secrets change.

    Args:
        environ: Plain settings, which take precedence over a secret of the same name.
        build: Function that builds the handler from settings and secrets.
        wall_clock: Clock in seconds that also runs while the environment is frozen.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        build: Callable[[Mapping[str, str]], Handler],
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._environ = dict(environ)
        self._build = build
        self._now = wall_clock
        self._secrets = read_secrets(self._environ)
        self._read_at = wall_clock()
        self._handler = self._build_handler()

    def __call__(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Handle an invocation with secrets that are at most `MAX_AGE` old."""
        if self._secrets and self._now() - self._read_at > MAX_AGE.total_seconds():
            self._refresh()
        return self._handler(event, context)

    def close(self) -> None:
        """Close all connections."""
        self._handler.close()

    def _refresh(self) -> None:
        self._read_at = self._now()
        try:
            secrets = read_secrets(self._environ)
        except Exception as error:  # the previous secrets are most likely still valid
            logger.warning(
                "secrets could not be read; the previous secrets stay in use",
                extra={"event": "secrets.stale", "reason": type(error).__name__},
            )
            return
        if secrets != self._secrets:
            self._secrets = secrets
            previous, self._handler = self._handler, self._build_handler()
            previous.close()
            logger.info("secrets were rotated", extra={"event": "secrets.rotated"})

    def _build_handler(self) -> Handler:
        return self._build({**self._secrets, **self._environ})
