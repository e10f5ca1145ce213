"""A Lambda handler that is rebuilt when its secrets change, so that new secrets need no deploy.

The modules of the Lambda functions create the handler `RotatingHandler`. Before it handles an
invocation, the handler reads secrets again that are older than `MAX_AGE`.
"""

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
    """Builds a handler from settings and secrets, and builds a new handler when the secrets change.

    Args:
        environ: Environment variables. An environment variable takes precedence over a secret with
            the same name.
        build: Function that builds a handler from the environment variables and the secrets.
        wall_clock: Clock in seconds that also runs while Lambda freezes the environment.
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
        """Handle an invocation with secrets that were read at most `MAX_AGE` ago."""
        if self._secrets and self._now() - self._read_at > MAX_AGE.total_seconds():
            self._refresh()
        return self._handler(event, context)

    def close(self) -> None:
        """Close all connections of the handler."""
        self._handler.close()

    def _refresh(self) -> None:
        self._read_at = self._now()
        try:
            secrets = read_secrets(self._environ)
        except Exception as error:  # the old secrets are probably valid
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
