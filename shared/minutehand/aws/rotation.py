"""A Lambda handler that is replaced when its secrets were rotated: no deploy, no stale token.

What is made is left to the functions; an environment that was frozen for long checks first.
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
    """What Lambda calls."""

    def __call__(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Answer one invocation."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class RotatingHandler:
    """Builds its handler from the environment and its secrets; again when those have changed.

    Args:
        environ: Plain settings; they win over a secret of the same name.
        build: Makes the handler from both.
        wall_clock: Seconds that also pass while the environment is frozen.
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
        self._handler = self._make()

    def __call__(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Answer one invocation with secrets of at most `MAX_AGE`."""
        if self._secrets and self._now() - self._read_at > MAX_AGE.total_seconds():
            self._refresh()
        return self._handler(event, context)

    def close(self) -> None:
        """Let go of connections."""
        self._handler.close()

    def _refresh(self) -> None:
        self._read_at = self._now()
        try:
            secrets = read_secrets(self._environ)
        except Exception as error:  # the old ones are most likely still good
            logger.warning(
                "secrets could not be read again; the old ones stay in use",
                extra={"event": "secrets.stale", "reason": type(error).__name__},
            )
            return
        if secrets != self._secrets:
            self._secrets = secrets
            old, self._handler = self._handler, self._make()
            old.close()
            logger.info("secrets were rotated", extra={"event": "secrets.rotated"})

    def _make(self) -> Handler:
        return self._build({**self._secrets, **self._environ})
