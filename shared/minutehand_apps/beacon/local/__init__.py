"""The providers of the local stack, which all run in one process."""

import json
from collections.abc import Mapping

from minutehand_apps.beacon.settings import ANY_REGION, VARIABLE

#: Two regions of each provider, so that each region has two providers. All providers accept any
#: region.
HOMES = {
    "alpha": ("us-east", "eu-west"),
    "beta": ("eu-west", "asia-pacific"),
    "gamma": ("asia-pacific", "us-east"),
}
#: Processes by name, each with its module and its environment variables other than PORT.
PROCESSES: dict[str, tuple[str, dict[str, str]]] = {
    "beacon-providers": ("minutehand_apps.beacon.local.provider_server", {})
}
#: Path that returns 200 when the providers are ready.
READY = f"/{next(iter(HOMES))}/v1/health"


def environment(urls: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variable with the list of providers and their URLs."""
    url = urls["beacon-providers"]
    providers = [
        {"name": name, "url": f"{url}/{name}", "regions": [*homes, ANY_REGION]}
        for name, homes in HOMES.items()
    ]
    return {VARIABLE: json.dumps(providers, separators=(",", ":"))}
