"""The offline client: the same company for the same domain, honestly labelled."""

from __future__ import annotations

import pytest

from minutehand.apps.enrichment.apollo import ApolloKeyRejected
from minutehand.apps.enrichment.apollo_offline import OfflineApollo


class Sleeper:
    """Waits nowhere and remembers how long it should have."""

    def __init__(self) -> None:
        self.waited: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.waited.append(seconds)


async def test_a_domain_gives_the_company_the_readme_promises() -> None:
    """The demo, the tests and the documentation all quote these values."""
    sleeper = Sleeper()
    client = OfflineApollo("test-key-1", sleep=sleeper)

    match = await client.enrich_organization("example.com")
    again = await client.enrich_organization("example.com")

    assert match == again
    assert match.source == "offline"
    assert match.credits == 1
    assert match.organization is not None
    assert match.organization.name == "Mock Company for example.com"
    assert match.organization.industry == "Technology"
    assert match.organization.estimated_num_employees == 50
    assert match.organization.city == "San Francisco"
    assert match.organization.state == "CA"
    assert match.organization.country == "USA"
    assert match.organization.annual_revenue is None
    assert sleeper.waited == [1.0, 1.0]


async def test_a_person_is_a_software_engineer() -> None:
    """As the contract says."""
    client = OfflineApollo("test-key-1", sleep=Sleeper())

    match = await client.match_person(email="ada@example.com", name="Ada")

    assert match.person is not None
    assert match.person.title == "Software Engineer"
    assert match.person.name == "Ada"
    assert match.credits == 1


async def test_the_reserved_domain_is_known_to_nobody() -> None:
    """`.invalid` (RFC 2606) lets the no-match path be seen without a vendor."""
    client = OfflineApollo("test-key-1", sleep=Sleeper())

    company = await client.enrich_organization("nobody.invalid")
    person = await client.match_person(email="who@nobody.invalid")

    assert (company.organization, company.credits) == (None, 0)
    assert (person.person, person.credits) == (None, 0)


@pytest.mark.parametrize("call", ["organization", "person", "usage"])
async def test_only_a_test_key_works(call: str) -> None:
    """The wrong-key path must be reachable without a vendor, too."""
    client = OfflineApollo("some-real-looking-key", sleep=Sleeper())
    calls = {
        "organization": lambda: client.enrich_organization("example.com"),
        "person": lambda: client.match_person(email="ada@example.com"),
        "usage": client.usage,
    }

    with pytest.raises(ApolloKeyRejected):
        await calls[call]()
