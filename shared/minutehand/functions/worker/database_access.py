"""Database connection of a worker on your own host, and notifications about new jobs.

At its start, the worker checks whether connections to DATABASE_URL keep their session and receive
notifications. If connections do not keep their session, the worker uses HTTPS.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from minutehand.config import Settings

if TYPE_CHECKING:
    from minutehand.queue.connection_probe import AddressProbe
    from minutehand.queue.direct import DirectApi

logger = logging.getLogger(__name__)

#: Environment variable with the result of the check, see `DatabaseAccess.variables`.
PROBE = "WORKER_DATABASE_PROBE"
#: Poll interval of a worker that Postgres notifies, or that the database wakes by HTTP requests.
NOTIFIED_POLL_SECONDS = 60.0
#: Poll interval if connections to DATABASE_URL receive no notifications.
POLL_SECONDS = 1.0
#: Maximum seconds for which the worker waits until a database that is still starting responds.
MAX_WAIT_SECONDS = 10.0


@dataclass(frozen=True)
class DatabaseAccess:
    """DATABASE_URL and the result of its check. The result is None if DATABASE_URL is not set."""

    url: str = ""
    probe: AddressProbe | None = None

    @property
    def is_direct(self) -> bool:
        """True if the worker calls the queue's functions over connections to Postgres."""
        return self.probe is not None and self.probe.fault is None

    @property
    def is_notified(self) -> bool:
        """True if notifications of Postgres wake the worker."""
        return self.probe is not None and self.probe.notifications

    @property
    def poll_seconds(self) -> float:
        """Poll interval of the worker in seconds."""
        return NOTIFIED_POLL_SECONDS if self.probe is None or self.is_notified else POLL_SECONDS

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables with the check's result, so that other processes need no check."""
        if self.probe is None or not self.is_direct:
            return {}
        return {PROBE: json.dumps(asdict(self.probe))}

    def api(self, settings: Settings) -> DirectApi | None:
        """Return the Postgres client of the queue's functions, or None to use HTTPS."""
        if not self.is_direct:
            return None
        from minutehand.queue.direct import DirectApi  # import late: psycopg is optional

        return DirectApi(self.url, schema=settings.schema_name)

    def listen(self, wake: Callable[[], object]) -> asyncio.Task[None] | None:
        """Start a task that calls `wake` after each committed enqueue.

        Return None if the worker does not listen for notifications.
        """
        if not self.is_notified:
            return None
        from minutehand.queue.direct import listen  # import late: psycopg is optional

        return asyncio.create_task(listen(self.url, wake), name="listen")

    def log(self) -> None:
        """Log which connection the worker uses, as the first line of the worker's log."""
        extra: dict[str, Any] = {"event": "worker.address", "look_seconds": self.poll_seconds}
        if self.probe is None:
            logger.info("DATABASE_URL is not set, so the worker uses HTTPS", extra=extra)
            return
        extra |= self.probe.log_fields
        if self.probe.fault is not None:
            logger.warning(
                "DATABASE_URL %s, so the worker uses HTTPS and polls each second. To improve: %s",
                *self.probe.fault,
                extra=extra,
            )
        elif not self.is_notified:
            text = "DATABASE_URL passes no notifications, so the worker polls each second"
            logger.warning(text, extra=extra)
        else:
            logger.info("The worker uses DATABASE_URL and receives notifications", extra=extra)


async def find_database_access(
    settings: Settings, *, max_seconds: float = MAX_WAIT_SECONDS
) -> DatabaseAccess:
    """Check the DATABASE_URL of the settings, if it is set. Retry for up to `max_seconds`."""
    url = settings.environ.get("DATABASE_URL", "")
    if not url:
        return DatabaseAccess()
    from minutehand.queue.connection_probe import (  # import late: psycopg is optional
        AddressProbe,
        probe_until_up,
    )

    if known := settings.environ.get(PROBE):
        return DatabaseAccess(url, AddressProbe(**json.loads(known)))
    return DatabaseAccess(url, await probe_until_up(url, max_seconds=max_seconds))
