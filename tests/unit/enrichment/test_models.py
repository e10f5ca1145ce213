"""What counts as a domain or an address, and which of Apollo's fields are taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minutehand_apps.enrichment.apollo import Organization, Person
from minutehand_apps.enrichment.models import (
    account_fields,
    contact_fields,
    find_domain,
    find_email,
)


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("example.com", "example.com"),
        ("  HTTPS://www.Example.COM:8443/path?q#f ", "example.com"),
        ("ada@mail.example.com", "mail.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("example.com.", "example.com"),
        ("a.b-c.example.co.uk", "a.b-c.example.co.uk"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("", None),
        (None, None),
        ("localhost", None),
        ("127.0.0.1", None),
        ("exa mple.com", None),
        ("-bad.example", None),
        ("bad-.example", None),
        ("double..dot", None),
        ("x" * 64 + ".example", None),
        (".".join(["abcdefghi"] * 30), None),
        ("ü" * 300 + ".example", None),
        ("javascript:alert(1)", None),
    ],
)
def test_a_domain_is_found_in_what_people_type(text: str | None, domain: str | None) -> None:
    """Apollo wants the bare domain and charges for the call all the same."""
    assert find_domain(text) == domain


@given(st.text(max_size=300))
def test_what_is_found_is_found_again_in_itself(text: str) -> None:
    """Cleaning is idempotent, so imports and jobs agree on what a domain is."""
    domain = find_domain(text)

    assert domain is None or find_domain(domain) == domain


@pytest.mark.parametrize(
    ("text", "email"),
    [
        ("Ada@Example.com", "Ada@example.com"),
        (" ada+x@www.example.com ", "ada+x@example.com"),
        ("ada", None),
        ("ada@", None),
        ("a b@example.com", None),
        ("ada@example.com,eve@example.com", None),
        ("<ada@example.com>", None),
        (None, None),
    ],
)
def test_an_address_is_one_address(text: str | None, email: str | None) -> None:
    """Matching two people at once would charge for one of them at random."""
    assert find_email(text) == email


def test_only_fields_apollo_returned_are_taken() -> None:
    """Null and empty mean not returned; they must not wipe out what is there."""
    found = Organization(name="", industry="Tools", city=None, estimated_num_employees=0)

    assert account_fields(found) == {"industry": "Tools", "employee_count": 0}


def test_values_the_tables_cannot_hold_are_cut_or_left_out() -> None:
    """A paid answer must not fail at the last step for the length of a name."""
    company = Organization(
        name="n" * 900, country="c" * 900, estimated_num_employees=-5, annual_revenue=float("nan")
    )
    person = Person(title="t" * 900, linkedin_url="l" * 3000)

    assert account_fields(company) == {"name": "n" * 500, "country": "c" * 200}
    assert contact_fields(person) == {"title": "t" * 500, "linkedin_url": "l" * 2000}


@pytest.mark.parametrize(("told", "taken"), [(1e-30, 0.0), (12.345678, 12.35), (1e18, 1e18)])
def test_a_revenue_is_taken_to_the_cent(told: float, taken: float) -> None:
    """The table refuses endless decimals, and a refused update buys nothing but failures."""
    assert account_fields(Organization(annual_revenue=told)) == {"annual_revenue": taken}
