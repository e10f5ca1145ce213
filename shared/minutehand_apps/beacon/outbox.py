"""The publisher and the reconciler: what each worker run does for the outbox.

What is one transaction, and what counts as wrong, is decided in SQL.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from pydantic import ValidationError

from minutehand.signing.models import first_problem
from minutehand.worker.metrics import emf_line
from minutehand.worker.remote import RemoteFailed
from minutehand_apps.beacon.models import JobMessage, OutboxRow
from minutehand_apps.beacon.provider_client import cancel
from minutehand_apps.beacon.services import Beacon

logger = logging.getLogger(__name__)

#: Patience for taking messages; what was taken by then is offered again after its backoff.
CLAIM_SECONDS = 2.0
#: Messages taken at once.
BATCH = 50
#: The reconciler runs this often, over all workers.
RECONCILE_SECONDS = 10


class Outbox:
    """Moves messages into the queue, and repairs what should not be."""

    def __init__(self, app: Beacon) -> None:
        self._app = app
        self._configured = {provider.name: provider for provider in app.own_settings.providers}
        self._reconciled_at = float("-inf")

    async def run(self) -> int:
        """Publish what is due, and now and then reconcile; returns how many jobs were made."""
        published = 0
        while rows := await self._claim():
            published += await self.publish(rows)
            if len(rows) < BATCH:
                break
        if self._app.clock.monotonic() - self._reconciled_at >= RECONCILE_SECONDS:
            self._reconciled_at = self._app.clock.monotonic()
            await self.reconcile()
            await self.cancel_abandoned()
            await self.close_ended()
        return published

    async def _claim(self) -> list[OutboxRow]:
        # a call in flight when Postgres dies may never be answered; the next one is a second away
        async with asyncio.timeout(CLAIM_SECONDS):
            return await self._app.store.claim_outbox(limit=BATCH)

    async def publish(self, rows: Sequence[OutboxRow]) -> int:
        """Publish claimed rows; one that is not a message of a known version is a dead letter."""
        good, refused = [], []
        for row in rows:
            problem = message_problem(row.message)
            if problem is None:
                good.append(row.id)
            else:
                refused.append({"id": str(row.id), "reason": problem})
                logger.error(
                    "Outbox message refused: %s",
                    problem,
                    extra={"event": "beacon.outbox.dead", "outbox_id": str(row.id)},
                )
        return await self._app.store.publish(good, refused)

    async def reconcile(self) -> dict[str, int]:
        """Find and repair what should not be; returns what was found, by kind."""
        done = await self._app.store.reconcile(every_seconds=RECONCILE_SECONDS)
        if not done.ran:
            return {}
        if any(done.found.values()):
            logger.warning(
                "Reconciler repaired jobs",
                extra={"event": "beacon.reconciled", "found": done.found},
            )
        self._app.write_metrics(
            emf_line(
                {_metric(kind): (count, "Count") for kind, count in done.found.items()},
                {"stage": self._app.settings.stage, "app": "beacon"},
                at_ms=int(self._app.clock.now().timestamp() * 1000),
            )
        )
        return done.found

    async def cancel_abandoned(self) -> None:
        """Tell providers to stop what ended here while no worker was following it."""
        for task in await self._app.store.take_abandoned():
            provider = self._configured.get(task.provider)
            if provider is not None:
                with suppress(RemoteFailed):  # a courtesy: the provider's own timeout ends it
                    await cancel(self._app.providers, provider, task.provider_task)

    async def close_ended(self) -> None:
        """Sign what closes jobs that ended without their processor, as by cancelling."""
        for _ in range(BATCH):
            found = await self._app.store.close()
            if found.head is None:
                return
            await self._app.close_job(found, self._app.store.close)


def message_problem(message: object) -> str | None:
    """Say why a stored message cannot be published; None when it can."""
    version = message.get("version") if isinstance(message, dict) else None
    if version != 1 or isinstance(version, bool):
        return f"unknown message version {version!r}; this publisher knows 1"
    try:
        JobMessage.model_validate(message)
    except ValidationError as error:
        return first_problem(error, "message")
    return None


def _metric(kind: str) -> str:
    return "Beacon" + "".join(word.capitalize() for word in kind.split("_"))
