"""Apollo client without a network. The client returns made-up data with `source` "offline".

A domain always gets the same data. This client is the default on the local stack
(`USE_MOCK_APOLLO=true`). A domain below `.invalid` has no company.
"""

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
    """Apollo client that returns a made-up result after `call_seconds`, without a network.

    Args:
        api_key: A key that begins with `test-key-` is accepted. The client rejects all other keys.
        call_seconds: Duration of a call.
    """

    source: Literal["offline"] = "offline"

    def __init__(self, api_key: str, *, call_seconds: float = CALL_SECONDS) -> None:
        self._api_key = api_key
        self._call_seconds = call_seconds

    async def enrich_organization(self, domain: str) -> OrganizationMatch:
        """Return the made-up company of a domain. The call costs 1 credit."""
        await self._call()
        organization = organization_for(domain)
        return OrganizationMatch(
            organization=organization, credits=int(organization is not None), source="offline"
        )

    async def match_person(self, *, email: str, name: str | None = None) -> PersonMatch:
        """Return the made-up person of an e-mail address. The call costs 1 credit."""
        await self._call()
        person = person_for(email, name)
        return PersonMatch(person=person, credits=int(person is not None), source="offline")

    async def usage(self) -> Usage:
        """Return a balance that never changes."""
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
    """Make up a company from its domain. Return `None` for a domain below `.invalid`."""
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
    """Make up a person from an address. Return `None` for an address below `.invalid`."""
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
