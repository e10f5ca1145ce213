"""The local stack's providers, which run in one process."""

from __future__ import annotations

import json
from collections.abc import Mapping

from minutehand_apps.beacon.settings import ANY_REGION, VARIABLE

#: Two regions per provider, so that every region has a fallback. All providers accept any region.
HOMES = {
    "alpha": ("us-east", "eu-west"),
    "beta": ("eu-west", "asia-pacific"),
    "gamma": ("asia-pacific", "us-east"),
}
#: Processes by name: the module to run, and its environment in addition to PORT.
PROCESSES = {
    "beacon-providers": (
        "minutehand_apps.beacon.local.provider_server",
        {"PROVIDER_NAMES": ",".join(HOMES)},
    )
}
#: Path that returns 200 when the provider is ready.
READY = f"/{next(iter(HOMES))}/v1/health"


def environment(urls: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variable that lists the providers' URLs."""
    url = urls["beacon-providers"]
    providers = [
        {"name": name, "url": f"{url}/{name}", "regions": [*homes, ANY_REGION]}
        for name, homes in HOMES.items()
    ]
    return {VARIABLE: json.dumps(providers, separators=(",", ":"))}
