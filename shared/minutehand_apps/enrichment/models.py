"""Payloads, records and results of enrichment, and functions that parse domains and addresses.

This module decides which fields Apollo's data may set. A SQL function decides which fields of an
account are overwritten.
"""

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field

from minutehand_apps.enrichment.apollo import Organization, Person, Row, Source

Kind = Literal["account", "contact"]

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"(?=.{{3,253}}$)(?:{_LABEL}\.)+[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])")
_EMAIL = re.compile(r"[^@\s<>,;\"]{1,64}@([^@\s]{3,253})")
#: Maximum characters of text columns in the tables. The maximum length of other text columns is 200
#: characters.
_LIMITS = {"name": 500, "industry": 500, "title": 500, "linkedin_url": 2000}

RecordId = Annotated[str, Field(min_length=1, max_length=200)]


class EnrichAccount(BaseModel):
    """Payload of an `enrich_account` job."""

    account_id: RecordId = Field(description="Id of the account. An unknown id fails as not found.")
    domain: Annotated[str, Field(max_length=2000)] | None = Field(
        default=None, description="Domain to look up instead of the account's."
    )


class EnrichContact(BaseModel):
    """Payload of an `enrich_contact` job."""

    contact_id: RecordId
    email: Annotated[str, Field(max_length=320)] | None = Field(
        default=None, description="Address to look up instead of the contact's."
    )


class Loaded(Row):
    """The record of a job, with the Apollo settings of the record's workspace."""

    record: dict[str, Any] | None = None
    sealed_key: str | None = Field(default=None, repr=False)
    #: Seconds that remain of the wait that Apollo requested for this key. The number is None or
    #: negative if the job need not wait.
    paused_seconds: float | None = None


class Applied(Row):
    """Result of an update.

    `kept` names fields that were not overwritten, because a person edited them.
    """

    missing: bool
    updated: list[str]
    kept: list[str]


class Enriched(Row):
    """Result of a job that enriches a record."""

    outcome: Literal["enriched", "no match"]
    looked_up: str
    source: Source
    credits: int
    updated: list[str] = Field(default_factory=list)
    kept: list[str] = Field(default_factory=list)


def account_fields(organization: Organization) -> dict[str, Any]:
    """Return the fields of an account from a company.

    Fields that Apollo did not return are omitted.
    """
    return _returned(
        {
            "name": organization.name,
            "industry": organization.industry,
            "employee_count": organization.estimated_num_employees,
            # round the revenue, because the table rejects long decimals and the response is paid
            # for
            "annual_revenue": organization.annual_revenue and round(organization.annual_revenue, 2),
            "city": organization.city,
            "state": organization.state,
            "country": organization.country,
        }
    )


def contact_fields(person: Person) -> dict[str, Any]:
    """Return the fields of a contact from a person.

    Fields that Apollo did not return are omitted.
    """
    return _returned(
        {"name": person.name, "title": person.title, "linkedin_url": person.linkedin_url}
    )


def _returned(fields: dict[str, Any]) -> dict[str, Any]:
    clipped = {k: v[: _LIMITS.get(k, 200)] if isinstance(v, str) else v for k, v in fields.items()}
    return {k: v for k, v in clipped.items() if v not in (None, "") and _is_sane(v)}


def _is_sane(value: object) -> bool:
    return not isinstance(value, int | float) or 0 <= value < 2**63


def find_domain(text: str | None) -> str | None:
    """Find the domain in a URL, an e-mail address, or a domain in other spelling.

    Returns:
        The domain in lower case without `www.`, with international names in their `xn--` form.
        Return None if the text contains no domain.
    """
    try:
        host = urlsplit("//" + (text or "").strip().split("://", 1)[-1]).hostname or ""
        host = host.rstrip(".").removeprefix("www.").encode("idna").decode()
    except ValueError:
        return None
    return host if _DOMAIN.fullmatch(host) else None


def find_email(text: str | None) -> str | None:
    """Parse an e-mail address, and convert its domain to lower case.

    Return `None` for other text.
    """
    address = (text or "").strip()
    match = _EMAIL.fullmatch(address)
    domain = find_domain(match[1]) if match else None
    return f"{address.rpartition('@')[0]}@{domain}" if domain else None
