"""The app's lines in `/health`: the outbox and the providers per region.

Addresses and errors of providers stay untold: anyone may read this.
"""

from __future__ import annotations

from typing import Any

from minutehand.config import Settings
from minutehand_apps.beacon.settings import ANY_REGION, BeaconSettings
from minutehand_apps.beacon.store import WorkerStore

#: Seconds a message may wait in the outbox: beyond the first a warning, beyond the second the
#: publisher is dead.
LATE_SECONDS, DEAD_SECONDS = 30.0, 300.0


async def checks(settings: Settings) -> dict[str, dict[str, Any]]:
    """The outbox's depth and oldest message, and which providers answer in which region."""
    store = WorkerStore(settings)
    try:
        health = await store.health()
    finally:
        await store.aclose()
    return judge(health, BeaconSettings.from_env(settings.environ))


def judge(health: dict[str, Any], settings: BeaconSettings) -> dict[str, dict[str, Any]]:
    """Verdicts on what the database knows."""
    depth, oldest = health["outbox"]["depth"], health["outbox"]["oldest_seconds"]
    dead = health["dead"]
    late = oldest or 0.0
    return {
        "outbox_depth": _line(
            "warn" if dead else "pass",
            depth,
            "messages",
            f"{depth} not yet published" + (f"; {dead} dead letters" if dead else ""),
        ),
        "outbox_oldest": _line(
            "fail" if late > DEAD_SECONDS else "warn" if late > LATE_SECONDS else "pass",
            oldest,
            "s",
            "nothing waits" if oldest is None else f"has waited {oldest:.0f} s",
        ),
        "providers": _providers(health, settings),
    }


def _providers(health: dict[str, Any], settings: BeaconSettings) -> dict[str, Any]:
    known = {(each["provider"], each["region"]): each for each in health["providers"]}
    regions = {name for provider in settings.providers for name in provider.regions}
    states: dict[str, dict[str, str]] = {}
    for region in sorted(regions - {ANY_REGION}):
        of_region: dict[str, str] = {}
        for provider in settings.serving(region):
            found = known.get((provider.name, region))
            word = "unknown" if found is None else "down" if found["open"] else "up"
            of_region[provider.name] = word
        states[region] = of_region
    away = [region for region, of_region in states.items() if set(of_region.values()) <= {"down"}]
    ill = [region for region, of_region in states.items() if "down" in of_region.values()]
    detail = (
        f"no provider answers in {', '.join(away)}"
        if away
        else f"a provider is down in {', '.join(ill)}"
        if ill
        else f"{len(states)} regions"
    )
    # a region that is unavailable is never ours to fail for: jobs wait, or do without it
    return {
        **_line("warn" if away or ill else "pass", len(states) - len(away), "regions", detail),
        "regions": states,
    }


def _line(verdict: str, value: float | None, unit: str, detail: str) -> dict[str, Any]:
    return {"verdict": verdict, "value": value, "unit": unit, "detail": detail}
