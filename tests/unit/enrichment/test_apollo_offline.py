"""The offline client, beyond what every job of the integration tests shows of it."""

from __future__ import annotations

import pytest

from minutehand_apps.enrichment.apollo import ApolloKeyRejected
from minutehand_apps.enrichment.apollo_offline import OfflineApollo


async def test_a_call_takes_its_second_and_gives_the_same_each_time() -> None:
    """As a vendor would; the demo, the tests and the documentation quote the values."""
    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    client = OfflineApollo("test-key-1", sleep=wait)
    match = await client.enrich_organization("example.com")
    again = await client.enrich_organization("example.com")
    nobody = await client.match_person(email="who@nobody.invalid")
    with pytest.raises(ApolloKeyRejected):
        await OfflineApollo("some-real-looking-key", sleep=wait).match_person(email="a@b.example")

    assert match == again
    assert (nobody.person, nobody.credits) == (None, 0)
    assert waited == [1.0] * 4
