"""Client of Apollo's v1 API. Each API key has its own client.

This client retries only calls that cannot have been charged. After other failures of a call, the
job waits.
"""

from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from minutehand.queue import outbound_http
from minutehand.retry_after import requested_wait
from minutehand.telemetry import trace_headers
from minutehand.worker import classify_no_response, classify_status, clean_text, is_blank
from minutehand_apps.enrichment.apollo import (
    ApolloError,
    ApolloKeyRejected,
    ApolloRateLimited,
    Organization,
    OrganizationMatch,
    Person,
    PersonMatch,
    Usage,
)

MAX_RESPONSE_BYTES = 2_000_000
MAX_TEXT = 4_000
"""Maximum characters of a stored text. Longer texts are cut, because the response is paid for."""
MAX_CREDITS = 10_000
"""Maximum credits of one call. A higher number is ignored."""


Record = TypeVar("Record", bound=BaseModel)


class HttpApollo:
    """Apollo client with the API key of one workspace.

    Args:
        http: HTTP client, which the caller closes.
        response_seconds: Maximum seconds without data from Apollo.

    References:
        https://docs.apollo.io/reference/organization-enrichment,
        https://docs.apollo.io/reference/people-enrichment,
        https://docs.apollo.io/docs/view-api-usage-stats
    """

    source: Literal["apollo"] = "apollo"

    def __init__(
        self,
        api_key: str,
        *,
        http: httpx.AsyncClient,
        base_url: str,
        response_seconds: float = 20.0,
    ) -> None:
        self._http = http
        self._base_url = base_url
        self._timeout = outbound_http.timeouts(response_seconds)
        self._key = api_key
        self._headers = {
            "x-api-key": api_key,
            "accept": "application/json",
            "cache-control": "no-cache",
        }
        # retry requests that were never sent, because they cannot have been charged
        self._connecting = outbound_http.retrying(
            lambda error: isinstance(error, outbound_http.NoResponse) and error.unsent, attempts=3
        )

    async def enrich_organization(self, domain: str) -> OrganizationMatch:
        """Find a company by its domain. A call for an unknown company is free."""
        response = await self._call("GET", "/organizations/enrich", params={"domain": domain})
        raw = _member(response, "organization", "/organizations/enrich")
        organization = _read(Organization, raw)
        return OrganizationMatch(
            organization=organization, credits=_cost(response, organization), source="apollo"
        )

    async def match_person(self, *, email: str, name: str | None = None) -> PersonMatch:
        """Find a person. The request never asks for personal addresses or phone numbers."""
        params = {"email": email} | ({"name": name} if name else {})
        response = await self._call("POST", "/people/match", params=params)
        raw = _member(response, "person", "/people/match")
        # without a match, Apollo may return a person whose employer it guessed from the address
        is_missing = isinstance(raw, dict) and raw.get("match_confidence") == "none"
        person = None if is_missing else _read(Person, raw)
        return PersonMatch(person=person, credits=_cost(response, person), source="apollo")

    async def usage(self) -> Usage:
        """Check the key, and read the balance if the key may read it.

        Apollo charges no credit for the two calls.
        """
        health = await self._call("GET", "/auth/health")
        if health.get("is_logged_in") is not True:
            message = "Apollo rejected the API key"
            raise ApolloKeyRejected(message, status=401, said=message)
        try:
            response = await self._call("POST", "/usage_stats/credit_usage_stats")
        except ApolloKeyRejected:
            return Usage(credits_remaining=None, source="apollo")
        stats = response.get("credit_usage_stats")
        lead_credit = stats.get("lead_credit") if isinstance(stats, dict) else None
        left = lead_credit.get("left_over") if isinstance(lead_credit, dict) else None
        return Usage(credits_remaining=left if type(left) is int else None, source="apollo")

    async def _call(
        self, method: str, path: str, params: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        try:
            response: outbound_http.HttpResponse = await self._connecting(
                outbound_http.exchange,
                self._http,
                method,
                self._base_url + path,
                max_bytes=MAX_RESPONSE_BYTES,
                params=params,
                headers=self._headers | trace_headers(),
                timeout=self._timeout,
            )
        except outbound_http.NoResponse as error:
            failure = classify_no_response(error)
            raise ApolloError(f"Apollo {error} ({path})", **failure._asdict()) from error
        return _body(path, response, key=self._key)


def _body(path: str, response: outbound_http.HttpResponse, *, key: str) -> dict[str, Any]:
    body = response.object()
    if response.status != 200:
        raise _rejection(path, response, _sentence(body or {}, key))
    if body is None:
        text = f"Apollo's response to {path} must be a JSON object"
        raise _unusable(text, hope="later", said="Apollo's answer could not be used")
    return body


def _rejection(path: str, response: outbound_http.HttpResponse, message: str) -> ApolloError:
    status, failure = response.status, classify_status(response.status)
    text = f"Apollo returned {status} for {path}" + (f": {message}" if message else "")
    wait = requested_wait(response.headers, now=datetime.now(UTC))
    if failure.code == "rate_limited":
        return ApolloRateLimited(text, status=status, retry_after=wait)
    # Apollo reports an empty balance by 402, or on some plans by 403 or 422 with a message
    if status == 402 or (status in (403, 422) and "credit" in message.lower()):
        message = "Apollo has no credits left for this key"
        return ApolloError(text, code="out_of_credits", status=status, said=message)
    if failure.code == "not_authorised":
        message = "Apollo rejected the API key"
        if status == 403:
            message = "Apollo does not allow this API key to do this"
        return ApolloKeyRejected(text, status=status, said=message)
    if failure.hope == "none":
        message = "Apollo rejected the request"
        return ApolloError(text, code="request_refused", status=status, said=message)
    away: Any = {"code": "unreachable", "hope": "later", "charged": failure.charged}
    return ApolloError(text, status=status, retry_after=wait, **away)


def _unusable(text: str, **more: Any) -> ApolloError:
    return ApolloError(text, code="answer_unusable", charged=True, status=200, **more)


def _member(response: dict[str, Any], name: str, path: str) -> object:
    """Return a field that the response must have. An empty response counts as no match."""
    value = response.get(name)
    is_known = name in response or response == {}
    if not is_known or response.get("error") or not isinstance(value, dict | None):
        raise _unusable(f"Apollo's response to {path} is not as documented")
    return value


def _read(record: type[Record], raw: object) -> Record | None:
    if not isinstance(raw, dict) or not raw:
        return None
    raw = {name: _storable(value) for name, value in raw.items()}
    try:
        return record.model_validate(raw)
    except ValidationError as error:
        # keep the valid fields, because the response is paid for
        unreadable = {item["loc"][0] for item in error.errors()}
        return record.model_validate({k: v for k, v in raw.items() if k not in unreadable})


def _storable(value: object) -> object:
    """Make a value storable as jsonb.

    If the database rejected the value, a retry would pay for the response again.
    """
    if isinstance(value, str):
        return None if is_blank(value) else clean_text(value[:MAX_TEXT])
    # drop booleans, because no field is a boolean and pydantic would accept one as a number
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) >= 2**63):
        return None
    return value


def _cost(response: dict[str, Any], record: object) -> int:
    credits = response.get("credits_consumed")
    return (
        credits if type(credits) is int and 0 <= credits <= MAX_CREDITS else int(record is not None)
    )


def _sentence(response: dict[str, Any], key: str) -> str:
    """Return Apollo's error message for members of the workspace, without the API key."""
    for field in ("error_message", "message", "error"):
        text = response.get(field)
        if isinstance(text, str) and text:
            return text.replace(key, "[the API key]")[:300]
    return ""
