"""The app's checks in `/api/v1/health`, about its outbox and its providers."""

from contextlib import aclosing
from typing import Any

from minutehand.config import Settings
from minutehand.queue import WorkerFunctions
from minutehand_apps.beacon.settings import read_providers

#: Age of the oldest message in the outbox, in seconds, from which the check warns, and from which
#: the check reports the publisher as dead.
LATE_SECONDS, DEAD_SECONDS = 30.0, 300.0


async def checks(settings: Settings) -> dict[str, dict[str, Any]]:
    """Check the number and the age of messages in the outbox, and the configured providers."""
    async with aclosing(WorkerFunctions(settings)) as worker:
        health = await worker.call("beacon_health", {}, attempts=1)
    depth, oldest, dead = health["depth"], health["oldest_seconds"], health["dead"]
    late = oldest or 0.0
    providers = len(read_providers(settings.environ))
    return {
        "outbox_depth": _line(
            "warn" if dead else "pass",
            depth,
            "messages",
            f"{depth} not yet published" + (f", {dead} dead letters" if dead else ""),
        ),
        "outbox_oldest": _line(
            "fail" if late > DEAD_SECONDS else "warn" if late > LATE_SECONDS else "pass",
            oldest,
            "s",
            "empty" if oldest is None else f"oldest message has waited {oldest:.0f} s",
        ),
        "providers": _line(
            "pass" if providers else "warn",
            providers,
            "providers",
            "configured" if providers else "BEACON_PROVIDERS lists no provider",
        ),
    }


def _line(verdict: str, value: float | None, unit: str, detail: str) -> dict[str, Any]:
    return {"verdict": verdict, "value": value, "unit": unit, "detail": detail}
