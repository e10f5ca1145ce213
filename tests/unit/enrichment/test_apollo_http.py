"""The real client against a server in Apollo's format, with each of its ways to fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from minutehand.queue.data_api import encode
from minutehand.worker import trace
from minutehand.worker.plain import plain
from minutehand_apps.enrichment.apollo import (
    ApolloError,
    ApolloKeyRejected,
    ApolloOutOfCredits,
    ApolloRateLimited,
    ApolloRequestRefused,
    ApolloUnavailable,
)
from minutehand_apps.enrichment.apollo_http import HttpApollo
from tests.support.misbehaving import Fault
from tests.unit.enrichment.apollo_server import KEY, ApolloServer


@pytest.fixture
async def client(apollo: ApolloServer) -> AsyncIterator[HttpApollo]:
    client = HttpApollo(KEY, base_url=apollo.base_url)
    yield client
    await client.aclose()


async def test_a_company_is_looked_up_by_domain_with_the_key_in_its_header(
    client: HttpApollo, apollo: ApolloServer
) -> None:
    """The key must never travel in an address, where proxies would log it."""
    match = await client.enrich_organization("apollo.io")

    assert match.organization is not None
    assert match.organization.industry == "information technology & services"
    assert match.organization.estimated_num_employees == 1600
    assert match.credits == 1
    [seen] = apollo.seen
    assert (seen.method, seen.path) == ("GET", "/api/v1/organizations/enrich")
    assert seen.query == {"domain": ["apollo.io"]}
    assert seen.key == KEY


async def test_an_unknown_company_is_no_match_and_costs_nothing(client: HttpApollo) -> None:
    """Apollo answers 200 with an empty object; that is no error."""
    match = await client.enrich_organization("unknown.example")

    assert match.organization is None
    assert match.credits == 0


async def test_a_person_is_matched_by_address_without_asking_for_private_data(
    client: HttpApollo, apollo: ApolloServer
) -> None:
    """Personal addresses and phones cost extra and are nobody's business here."""
    match = await client.match_person(email="tim@apollo.io", name="Tim Zheng")

    assert match.person is not None
    assert match.person.title == "Founder & CEO"
    assert match.credits == 1
    assert apollo.seen[0].query == {"email": ["tim@apollo.io"], "name": ["Tim Zheng"]}


async def test_a_person_guessed_from_the_address_alone_is_no_match(client: HttpApollo) -> None:
    """A miss still carries a person object; taking it would store an empty name."""
    match = await client.match_person(email="who@unknown.example")

    assert match.person is None
    assert match.credits == 0


async def test_usage_accepts_a_key_that_may_not_read_the_balance(client: HttpApollo) -> None:
    """Most keys are no master keys, and work all the same."""
    usage = await client.usage()

    assert usage.credits_remaining is None


async def test_a_wrong_key_is_rejected_also_by_the_health_check(apollo: ApolloServer) -> None:
    """Test-connection must not call a wrong key healthy."""
    client = HttpApollo("wrong", base_url=apollo.base_url)

    with pytest.raises(ApolloKeyRejected):
        await client.usage()
    with pytest.raises(ApolloKeyRejected):
        await client.enrich_organization("apollo.io")
    await client.aclose()


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(401, {"error": "Invalid access credentials."}), ApolloKeyRejected),
        (Fault(401, b"Invalid access credentials."), ApolloKeyRejected),
        (Fault(402, {"error": "Payment required"}), ApolloOutOfCredits),
        (Fault(403, {"error": "API_INACCESSIBLE"}), ApolloKeyRejected),
        (Fault(422, {"error": "You have insufficient credits"}), ApolloOutOfCredits),
        (Fault(422, {"error": "Value does not pass validation"}), ApolloRequestRefused),
        (Fault(400, {"error_message": "domain is required"}), ApolloRequestRefused),
        (Fault(404, b"<html>"), ApolloRequestRefused),
        (Fault(429, {"message": "The maximum number of calls"}), ApolloRateLimited),
        (Fault(408, {}), ApolloUnavailable),
        (Fault(500, b"<html>oops"), ApolloUnavailable),
        (Fault(503, {}), ApolloUnavailable),
        (Fault(302, b""), ApolloUnavailable),
        (Fault(200, b"<html>a captive portal"), ApolloUnavailable),
        (Fault(200, b"[]"), ApolloUnavailable),
        (Fault(hang=True), ApolloUnavailable),
        (Fault(cut=True), ApolloUnavailable),
        (Fault(drop=True), ApolloUnavailable),
    ],
)
async def test_each_failure_has_its_own_name(
    apollo: ApolloServer, fault: Fault, error: type[ApolloError]
) -> None:
    """What a job does next depends on the type; a hidden second request may be a second credit."""
    apollo.faults = [fault]
    patience = 2.0 if fault.hang else 60.0
    client = HttpApollo(KEY, base_url=apollo.base_url, answer_seconds=patience)

    with pytest.raises(ApolloError) as caught:
        await client.enrich_organization("apollo.io")
    await client.aclose()

    assert type(caught.value) is error
    assert len(apollo.seen) == 1


async def test_a_connection_that_was_never_made_is_tried_again() -> None:
    """No request left the machine, so nothing can have been charged."""
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    client = HttpApollo(KEY, base_url="http://127.0.0.1:1", sleep=note)

    with pytest.raises(ApolloUnavailable, match="ConnectError"):
        await client.enrich_organization("apollo.io")
    await client.aclose()

    assert len(waits) == 2


async def test_a_rate_limit_says_how_long_apollo_wants_us_to_wait(
    client: HttpApollo, apollo: ApolloServer
) -> None:
    """The job sleeps exactly that long."""
    apollo.faults = [Fault(429, {}, {"retry-after": "17"}), Fault(429, {})]

    with pytest.raises(ApolloRateLimited) as told:
        await client.enrich_organization("apollo.io")
    with pytest.raises(ApolloRateLimited) as untold:
        await client.enrich_organization("apollo.io")

    assert told.value.retry_after == timedelta(seconds=17)
    assert untold.value.retry_after is None


async def test_an_answer_already_paid_for_survives_a_field_of_a_new_form(
    client: HttpApollo, apollo: ApolloServer
) -> None:
    """Refusing the whole record would buy it again at the next attempt."""
    odd = {"estimated_num_employees": "1,600+", "annual_revenue": True, "industry": ["Tools"]}
    body = {"organization": {"name": "Odd Inc", "city": "Ulm", **odd}}
    apollo.faults = [Fault(200, body)]

    match = await client.enrich_organization("odd.example")

    assert match.organization is not None
    assert (match.organization.name, match.organization.city) == ("Odd Inc", "Ulm")
    assert {getattr(match.organization, name) for name in odd} == {None}


async def test_a_call_carries_the_trace_of_its_job(
    client: HttpApollo, apollo: ApolloServer
) -> None:
    """One trace from the click to the vendor."""
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    trace.enter(traceparent)

    await client.enrich_organization("apollo.io")

    assert apollo.seen[0].traceparent == traceparent


@pytest.mark.parametrize(
    "odd", ["A\\u0000B", "A\\ud800B", "A" * 1_500_000], ids=["nul", "surrogate", "long"]
)
async def test_an_answer_already_paid_for_can_be_recorded(
    client: HttpApollo, apollo: ApolloServer, odd: str
) -> None:
    """What jsonb or a step cannot hold would fail the record, and be bought at each attempt."""
    body = f'{{"organization": {{"name": "Odd Inc", "short_description": "{odd}"}}}}'
    apollo.faults = [Fault(200, body.encode())]

    match = await client.enrich_organization("odd.example")

    assert match.organization is not None
    assert match.organization.name == "Odd Inc"
    stored = encode(match)
    assert stored == encode(plain(match))
    assert len(stored) < 10_000


@pytest.mark.parametrize("told", ["99999999999", "-1", '"2"', "null"])
async def test_a_price_that_cannot_be_true_is_not_counted(
    client: HttpApollo, apollo: ApolloServer, told: str
) -> None:
    """The ledger's column would refuse it, and the company be bought again."""
    odd = f'{{"name": "Odd Inc", "founded_year": {"9" * 4000}}}'
    body = f'{{"organization": {odd}, "credits_consumed": {told}}}'
    apollo.faults = [Fault(200, body.encode())]

    match = await client.enrich_organization("odd.example")

    assert match.credits == 1
    assert match.organization is not None
    assert match.organization.founded_year is None


async def test_an_answer_of_endless_depth_is_a_broken_one(
    client: HttpApollo, apollo: ApolloServer
) -> None:
    """The reader gives up before the stack does."""
    apollo.faults = [Fault(200, b'{"a":' * 100_000)]

    with pytest.raises(ApolloUnavailable, match="not a JSON object"):
        await client.enrich_organization("odd.example")


async def test_a_refusal_that_repeats_the_key_is_shown_without_it(
    client: HttpApollo, apollo: ApolloServer
) -> None:
    """Every member of the workspace reads why a job failed."""
    apollo.faults = [Fault(422, {"error": f"the key {KEY} may not ask this"})]

    with pytest.raises(ApolloRequestRefused, match="may not ask this") as refused:
        await client.enrich_organization("odd.example")

    assert KEY not in str(refused.value)
