"""How a worker with a host of its own reaches the database, and learns of new jobs.

By what its DATABASE_URL keeps, which is asked when the worker starts; else by HTTPS, the contract.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from minutehand.config import Settings

if TYPE_CHECKING:
    from minutehand.queue.connection_probe import Address
    from minutehand.queue.direct import DirectApi

logger = logging.getLogger(__name__)

#: Without a DATABASE_URL the database wakes the worker; it looks as often as the minute schedule.
LOOK_SECONDS: Final = 60.0
#: Where one is given that cannot notify.
POLL_SECONDS: Final = 1.0
#: A database that starts together with its worker is waited for so long.
PATIENCE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Reach:
    """An address with what it keeps; None where no DATABASE_URL is set."""

    url: str = ""
    address: Address | None = None

    @property
    def is_direct(self) -> bool:
        """Whether calls go over connections of the worker's own."""
        return self.address is not None and self.address.lacks is None

    @property
    def is_notified(self) -> bool:
        """Whether `LISTEN` wakes it."""
        return self.address is not None and self.address.notifications

    @property
    def look_seconds(self) -> float:
        """How often it looks by itself."""
        return LOOK_SECONDS if self.address is None or self.is_notified else POLL_SECONDS

    def api(self, settings: Settings) -> DirectApi | None:
        """What it calls the queue's functions with; None for HTTPS."""
        if self.address is None or not self.is_direct:
            return None
        from minutehand.queue.direct import DirectApi  # only here: its driver is an extra

        return DirectApi(self.url, schema=settings.schema_name)

    def listen(self, wake: Callable[[], object]) -> asyncio.Task[None] | None:
        """Call `wake` on every committed enqueue, where it is notified, until cancelled."""
        if not self.is_notified:
            return None
        from minutehand.queue.direct import listen  # as above

        return asyncio.create_task(listen(self.url, wake), name="listen")

    def say(self) -> None:
        """Log it, as the worker's first line."""
        extra: dict[str, Any] = {"event": "worker.address", "look_seconds": self.look_seconds}
        if self.address is None:
            logger.info("Without a DATABASE_URL the worker uses HTTPS", extra=extra)
            return
        extra |= self.address.facts
        if self.address.lacks is not None:
            logger.warning(
                "DATABASE_URL %s; the worker uses HTTPS and looks each second. Better: %s",
                self.address.lacks,
                self.address.fix,
                extra=extra,
            )
        elif not self.is_notified:
            text = "DATABASE_URL passes no notifications on; the worker looks each second"
            logger.warning(text, extra=extra)
        else:
            logger.info("The worker uses DATABASE_URL, which notifies it", extra=extra)


async def find_reach(settings: Settings) -> Reach:
    """Ask the DATABASE_URL of the settings, if there is one, and say what is used."""
    url = settings.environ.get("DATABASE_URL", "")
    reach = Reach()
    if url:
        from minutehand.queue.connection_probe import ask_again  # only here: its driver is an extra

        reach = Reach(url, await ask_again(url, within=PATIENCE_SECONDS))
    reach.say()
    return reach
