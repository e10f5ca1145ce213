"""Records that Apollo clients return, and errors of the clients.

`apollo_http` calls Apollo's API, and `apollo_offline` works without a network.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from minutehand.worker import RetryAdvice, VendorError

Source = Literal["apollo", "offline"]


class Row(BaseModel):
    """Base class of models of rows and responses, which ignore unknown fields."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Organization(Row):
    """A company in Apollo. A field that Apollo did not return is `None`."""

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
    """A person in Apollo. A field that Apollo did not return is `None`."""

    id: str | None = None
    name: str | None = None
    email: str | None = None
    title: str | None = None
    linkedin_url: str | None = None
    city: str | None = None
    state: str | None = None
    country: str | None = None


class Match(Row):
    """Result of a call of Apollo, with its cost and its source."""

    credits: int = Field(ge=0)
    source: Source


class OrganizationMatch(Match):
    """Result of a search for a company."""

    organization: Organization | None


class PersonMatch(Match):
    """Result of a search for a person."""

    person: Person | None


class Usage(Row):
    """Balance of credits that an API key can use."""

    credits_remaining: int | None
    """`None` if the key may not read the balance, which only master keys may."""
    source: Source


class ApolloError(VendorError):
    """A call of Apollo failed.

    ApolloError
    │  out_of_credits    402        no credits left, a person must act
    │  request_refused   400, 422   the same request would be rejected again
    │  answer_unusable   200        undocumented response that may have been charged
    │  unreachable       5xx, no or partial response; `charged` if it may be served
    ├─ ApolloKeyRejected     401, 403   the key is wrong or lacks a right, a person must act
    └─ ApolloRateLimited     429        retry after `retry_after`
    """

    vendor = "Apollo"
    hope: RetryAdvice = "none"


class ApolloKeyRejected(ApolloError):
    """The API key is wrong, or does not have a required right."""

    code = "wrong_key"


class ApolloRateLimited(ApolloError):
    """Apollo rejected the call, because there were too many calls.

    `retry_after` is `None` if Apollo requested no wait.
    """

    code = "rate_limited"
    hope = "later"


def json_record(record: BaseModel) -> dict[str, Any]:
    """Convert a match to the JSON that the ledger of paid calls stores."""
    return record.model_dump(mode="json", exclude_none=True)
