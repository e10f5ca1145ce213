"""What enrichment asks of Apollo: the protocol, its records and its errors.

The two implementations are `apollo_http` (the vendor) and `apollo_offline` (no network).
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from minutehand.worker import RetryAdvice, VendorError

Source = Literal["apollo", "offline"]


class Row(BaseModel):
    """What others wrote; members that are not named do not matter."""

    model_config = ConfigDict(frozen=True)


class Organization(Row):
    """A company as Apollo returns it; a field that is `None` was not returned."""

    id: str | None = None
    name: str | None = None
    primary_domain: str | None = None
    linkedin_url: str | None = None
    industry: str | None = None
    estimated_num_employees: int | None = None
    annual_revenue: float | None = None
    city: str | None = None
    state: str | None = None
    country: str | None = None


class Person(Row):
    """A person as Apollo returns it; a field that is `None` was not returned."""

    id: str | None = None
    name: str | None = None
    email: str | None = None
    title: str | None = None
    linkedin_url: str | None = None
    city: str | None = None
    state: str | None = None
    country: str | None = None


class Match(Row):
    """The answer to one call, what it cost, and who gave it."""

    credits: int = Field(ge=0)
    source: Source


class OrganizationMatch(Match):
    """The answer to a call for a company."""

    organization: Organization | None


class PersonMatch(Match):
    """The answer to a call for a person."""

    person: Person | None


class Usage(Row):
    """What Apollo says about the key's balance."""

    credits_remaining: int | None
    """`None` when the key works but may not read the balance (only master keys may)."""
    source: Source


class ApolloError(VendorError):
    """Apollo gave no usable answer; each kind below asks for something else.

    ApolloError
    ├─ ApolloKeyRejected     401, 403   the key is wrong or may not do this: a person must act
    ├─ ApolloOutOfCredits    402        nothing left to spend: a person must act
    ├─ ApolloRequestRefused  400, 422   the same request will be refused again
    ├─ ApolloRateLimited     429        come back after `retry_after`
    ├─ ApolloUnreadable      200        an answer, maybe paid for, but not as documented
    └─ ApolloUnavailable     5xx, no or broken answer: wait; `charged` where it may have been served
    """

    vendor = "Apollo"
    hope: RetryAdvice = "none"


class ApolloKeyRejected(ApolloError):
    """The key is wrong, or not allowed to do this."""

    code = "wrong_key"


class ApolloOutOfCredits(ApolloError):
    """The key's team has no credits left."""

    code = "out_of_credits"


class ApolloRequestRefused(ApolloError):
    """Apollo understood the request and refuses it for good."""

    code = "request_refused"


class ApolloRateLimited(ApolloError):
    """Too many calls; `retry_after` is `None` when Apollo did not say how long."""

    code = "rate_limited"
    hope = "later"


class ApolloUnreadable(ApolloError):
    """An answer that is not as documented."""

    code = "answer_unusable"
    charged = True


class ApolloUnavailable(ApolloError):
    """Apollo failed, did not answer in time, or ended in the middle of its answer."""

    code = "unreachable"
    hope = "later"


class ApolloClient(Protocol):
    """One workspace's way to Apollo; every method may raise any `ApolloError`."""

    @property
    def source(self) -> Source:
        """Who answers."""
        ...

    async def enrich_organization(self, domain: str) -> OrganizationMatch:
        """Look one company up by its domain."""
        ...

    async def match_person(self, *, email: str, name: str | None = None) -> PersonMatch:
        """Look one person up by mail address; `name` makes a match likelier."""
        ...

    async def usage(self) -> Usage:
        """Check the key without spending a credit."""
        ...


def json_record(record: BaseModel) -> dict[str, Any]:
    """Give a match in the form the ledger stores."""
    return record.model_dump(mode="json", exclude_none=True)
