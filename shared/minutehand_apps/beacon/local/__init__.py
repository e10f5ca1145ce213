"""The local stack's providers: servers in a process of their own, and where they are."""

from __future__ import annotations

import json
from collections.abc import Mapping

from minutehand_apps.beacon.settings import ANY_REGION, VARIABLE

#: Each is at home in two regions, so that every region has a second one; all serve any other.
HOMES = {
    "alpha": ("us-east", "eu-west"),
    "beta": ("eu-west", "asia-pacific"),
    "gamma": ("asia-pacific", "us-east"),
}
#: Processes by name: the module to run, and what it reads beside PORT.
PROCESSES = {
    "beacon-providers": (
        "minutehand_apps.beacon.local.provider_server",
        {"PROVIDER_NAMES": ",".join(HOMES)},
    )
}
#: Where each answers 200 once it serves.
READY = f"/{next(iter(HOMES))}/v1/health"


def environment(urls: Mapping[str, str]) -> dict[str, str]:
    """Say where the providers are, each below its name, to every part of the stack."""
    url = urls["beacon-providers"]
    providers = [
        {"name": name, "url": f"{url}/{name}", "regions": [*homes, ANY_REGION]}
        for name, homes in HOMES.items()
    ]
    return {VARIABLE: json.dumps(providers, separators=(",", ":"))}
