"""Apollo without a network: answers deterministic data per domain and says so in `source`.

The local default (`USE_MOCK_APOLLO=true`); a reserved `.invalid` domain is a company no one knows.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from minutehand_apps.enrichment.apollo import (
    ApolloKeyRejected,
    Organization,
    OrganizationMatch,
    Person,
    PersonMatch,
    Usage,
)

KEY_PREFIX = "test-key-"
CREDITS_REMAINING = 1_000
CALL_SECONDS = 1.0


class OfflineApollo:
    """Answers every call after `call_seconds`, as a vendor would, but from nowhere.

    Args:
        api_key: Any key starting `test-key-` works; every other one is rejected as Apollo would.
        call_seconds: How long a call takes.
    """

    source: Literal["offline"] = "offline"

    def __init__(self, api_key: str, *, call_seconds: float = CALL_SECONDS) -> None:
        self._api_key = api_key
        self._call_seconds = call_seconds

    async def enrich_organization(self, domain: str) -> OrganizationMatch:
        """Describe the same company for the same domain, for 1 credit."""
        await self._call()
        found = organization_for(domain)
        return OrganizationMatch(
            organization=found, credits=int(found is not None), source="offline"
        )

    async def match_person(self, *, email: str, name: str | None = None) -> PersonMatch:
        """Describe the same person for the same address, for 1 credit."""
        await self._call()
        found = person_for(email, name)
        return PersonMatch(person=found, credits=int(found is not None), source="offline")

    async def usage(self) -> Usage:
        """Report a balance that never runs out."""
        await self._call()
        return Usage(credits_remaining=CREDITS_REMAINING, source="offline")

    async def _call(self) -> None:
        await asyncio.sleep(self._call_seconds)
        if not self._api_key.startswith(KEY_PREFIX):
            raise ApolloKeyRejected(
                "Apollo rejected the API key (offline client: a working key starts with "
                f"{KEY_PREFIX!r}).",
                status=401,
            )


def organization_for(domain: str) -> Organization | None:
    """Describe a company by nothing but its domain; `None` under the reserved `.invalid`."""
    if domain.endswith(".invalid"):
        return None
    return Organization(
        id=f"offline-{domain}",
        name=f"Mock Company for {domain}",
        primary_domain=domain,
        industry="Technology",
        estimated_num_employees=50,
        city="San Francisco",
        state="CA",
        country="USA",
    )


def person_for(email: str, name: str | None) -> Person | None:
    """Describe a person by nothing but an address; `None` under the reserved `.invalid`."""
    if email.endswith(".invalid"):
        return None
    handle = email.partition("@")[0]
    return Person(
        id=f"offline-{email}",
        name=name,
        email=email,
        title="Software Engineer",
        linkedin_url=f"https://www.linkedin.com/in/mock-{handle}",
    )
