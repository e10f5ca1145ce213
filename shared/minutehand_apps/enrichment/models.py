"""Payloads, records and results of enrichment, and what makes a domain a domain.

Which fields Apollo may fill is decided here; whether it may overwrite one, in SQL.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from minutehand_apps.enrichment.apollo import Organization, Person, Row, Source

Kind = Literal["account", "contact"]

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"(?=.{{3,253}}$)(?:{_LABEL}\.)+[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])")
_EMAIL = re.compile(r"[^@\s<>,;\"]{1,64}@([^@\s]{3,253})")
#: Longest texts that the tables take, in characters; 200 for the others.
_LIMITS = {"name": 500, "industry": 500, "title": 500, "linkedin_url": 2000}

RecordId = Annotated[str, Field(min_length=1, max_length=200)]


class EnrichAccount(BaseModel):
    """Payload of `enrich_account`."""

    account_id: RecordId = Field(description="One that no account has fails as not found.")
    domain: Annotated[str, Field(max_length=2000)] | None = Field(
        default=None, description="Looked up instead of the account's own."
    )


class EnrichContact(BaseModel):
    """Payload of `enrich_contact`."""

    contact_id: RecordId
    email: Annotated[str, Field(max_length=320)] | None = Field(
        default=None, description="Looked up instead of the contact's own."
    )


class Loaded(Row):
    """A job's record with its workspace's Apollo settings, as SQL answers it."""

    record: dict[str, Any] | None = None
    sealed_key: str | None = Field(default=None, repr=False)
    apollo_client: str | None = None
    #: How long Apollo still wants this key to wait; None or below 0 when it does not.
    paused_seconds: float | None = None


class Applied(Row):
    """What an update changed; `kept` names the fields a person had edited meanwhile."""

    missing: bool
    updated: list[str]
    kept: list[str]


class Enriched(Row):
    """Result of an enrichment job."""

    outcome: Literal["enriched", "no match"]
    looked_up: str
    source: Source
    credits: int
    updated: list[str] = Field(default_factory=list)
    kept: list[str] = Field(default_factory=list)


def account_fields(found: Organization) -> dict[str, Any]:
    """What an account takes from a company; fields Apollo did not return are absent."""
    return _returned(
        {
            "name": found.name,
            "industry": found.industry,
            "employee_count": found.estimated_num_employees,
            # the table refuses endless decimals, and the answer is paid for
            "annual_revenue": found.annual_revenue and round(found.annual_revenue, 2),
            "city": found.city,
            "state": found.state,
            "country": found.country,
        }
    )


def contact_fields(found: Person) -> dict[str, Any]:
    """What a contact takes from a person; fields Apollo did not return are absent."""
    return _returned({"name": found.name, "title": found.title, "linkedin_url": found.linkedin_url})


def _returned(fields: dict[str, Any]) -> dict[str, Any]:
    clipped = {k: v[: _LIMITS.get(k, 200)] if isinstance(v, str) else v for k, v in fields.items()}
    return {k: v for k, v in clipped.items() if v not in (None, "") and _is_sane(v)}


def _is_sane(value: object) -> bool:
    return not isinstance(value, int | float) or 0 <= value < 2**63


def find_domain(text: str | None) -> str | None:
    """Read a domain out of what people type: an address, upper case, `www.`, a mail's end.

    Returns:
        The bare domain in lower case, international names in their `xn--` form; `None` when
        there is none in it.
    """
    if not text:
        return None
    host = text.strip().lower()
    host = host.split("://", 1)[-1].split("/", 1)[0].split("?", 1)[0].split("#", 1)[0]
    host = host.rsplit("@", 1)[-1].split(":", 1)[0].rstrip(".").removeprefix("www.")
    if not host.isascii():
        try:
            host = host.encode("idna").decode()
        except UnicodeError:
            return None
    return host if _DOMAIN.fullmatch(host) else None


def find_email(text: str | None) -> str | None:
    """Read one mail address, lower-cased in its domain; `None` when it is none."""
    address = (text or "").strip()
    match = _EMAIL.fullmatch(address)
    domain = find_domain(match[1]) if match else None
    return f"{address.rpartition('@')[0]}@{domain}" if domain else None
