"""Apollo's documented v1 API over httpx: one client per key, timeouts on every phase.

Repeats only what cannot have been charged; all other waiting is the job's, not the call's.
"""

from __future__ import annotations

import math
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
    ApolloOutOfCredits,
    ApolloRateLimited,
    ApolloRequestRefused,
    ApolloUnavailable,
    ApolloUnreadable,
    Organization,
    OrganizationMatch,
    Person,
    PersonMatch,
    Usage,
)

MAX_ANSWER_BYTES = 2_000_000
MAX_TEXT = 4_000
"""Longest text kept of an answer; a longer one is cut, since the answer is paid for."""
MAX_CREDITS = 10_000
"""Most credits one call may claim to have cost."""


Record = TypeVar("Record", bound=BaseModel)


class HttpApollo:
    """Speaks to Apollo with one workspace's key.

    Args:
        http: Connections to use, and whose matter it is to close them.
        answer_seconds: Patience between two pieces of an answer.

    References:
        https://docs.apollo.io/reference/organization-enrichment,
        https://docs.apollo.io/reference/people-enrichment,
        https://docs.apollo.io/docs/view-api-usage-stats
    """

    source: Literal["apollo"] = "apollo"

    def __init__(
        self, api_key: str, *, http: httpx.AsyncClient, base_url: str, answer_seconds: float = 20.0
    ) -> None:
        self._http = http
        self._base_url = base_url
        self._timeout = outbound_http.timeouts(answer_seconds)
        self._key = api_key
        self._headers = {
            "x-api-key": api_key,
            "accept": "application/json",
            "cache-control": "no-cache",
        }
        # A connection that was never made carried no request: nothing was charged.
        self._connecting = outbound_http.retrying(
            lambda error: isinstance(error, outbound_http.NoResponse) and error.unsent, attempts=3
        )

    async def enrich_organization(self, domain: str) -> OrganizationMatch:
        """Look one company up; a company Apollo does not know costs nothing."""
        answer = await self._call("GET", "/organizations/enrich", params={"domain": domain})
        raw = _member(answer, "organization", "/organizations/enrich")
        found = _read(Organization, raw)
        return OrganizationMatch(organization=found, credits=_cost(answer, found), source="apollo")

    async def match_person(self, *, email: str, name: str | None = None) -> PersonMatch:
        """Look one person up; personal addresses and phones are never asked for."""
        params = {"email": email} | ({"name": name} if name else {})
        answer = await self._call("POST", "/people/match", params=params)
        raw = _member(answer, "person", "/people/match")
        # A miss may still be an empty person whose employer was guessed from the address.
        missed = isinstance(raw, dict) and raw.get("match_confidence") == "none"
        found = None if missed else _read(Person, raw)
        return PersonMatch(person=found, credits=_cost(answer, found), source="apollo")

    async def usage(self) -> Usage:
        """Check the key, then read the balance where the key may; neither costs a credit."""
        health = await self._call("GET", "/auth/health")
        if health.get("is_logged_in") is not True:
            said = "Apollo rejected the API key"
            raise ApolloKeyRejected(said, status=401, said=said)
        try:
            answer = await self._call("POST", "/usage_stats/credit_usage_stats")
        except ApolloKeyRejected:
            return Usage(credits_remaining=None, source="apollo")
        stats = answer.get("credit_usage_stats")
        lead = stats.get("lead_credit") if isinstance(stats, dict) else None
        left = lead.get("left_over") if isinstance(lead, dict) else None
        return Usage(credits_remaining=left if type(left) is int else None, source="apollo")

    async def _call(
        self, method: str, path: str, params: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        try:
            answer: outbound_http.HttpResponse = await self._connecting(
                outbound_http.exchange,
                self._http,
                method,
                self._base_url + path,
                max_bytes=MAX_ANSWER_BYTES,
                params=params,
                headers=self._headers | trace_headers(),
                timeout=self._timeout,
            )
        except outbound_http.NoResponse as error:
            found = classify_no_response(error)
            kind = ApolloUnreadable if error.kind == "long" else ApolloUnavailable
            what = f"Apollo {error} ({path})"
            raise kind(what, code=found.code, hope=found.hope, charged=found.charged) from error
        return _body(path, answer, key=self._key)


def _body(path: str, answer: outbound_http.HttpResponse, *, key: str) -> dict[str, Any]:
    given = answer.object()
    if answer.status != 200:
        raise _refusal(path, answer, _sentence(given or {}, key))
    if given is None:
        what = f"Apollo's answer to {path} is not a JSON object"
        raise ApolloUnreadable(what, hope="later", status=200)
    return given


def _refusal(path: str, answer: outbound_http.HttpResponse, said: str) -> ApolloError:
    status, found = answer.status, classify_status(answer.status)
    what = f"Apollo answered {path} with {status}" + (f": {said}" if said else "")
    if found.code == "rate_limited":
        wait = requested_wait(answer.headers, now=datetime.now(UTC))
        return ApolloRateLimited(what, status=status, retry_after=wait)
    # Apollo reports an empty balance as 402, on some plans as 403 or 422 in words
    if status == 402 or (status in (403, 422) and "credit" in said.lower()):
        said = "Apollo has no credits left for this key"
        return ApolloOutOfCredits(what, status=status, said=said)
    if found.code == "not_authorised":
        said = "Apollo rejected the API key"
        if status == 403:
            said = "Apollo does not allow this API key to do this"
        return ApolloKeyRejected(what, status=status, said=said)
    if found.hope == "none":
        return ApolloRequestRefused(what, status=status, said="Apollo refused the request")
    wait = requested_wait(answer.headers, now=datetime.now(UTC))
    return ApolloUnavailable(what, status=status, charged=found.charged, retry_after=wait)


def _member(answer: dict[str, Any], name: str, path: str) -> object:
    """A member that an answer must have; what is wholly empty knows of nothing."""
    value = answer.get(name)
    is_known = name in answer or answer == {}
    if not is_known or answer.get("error") or not isinstance(value, dict | None):
        raise ApolloUnreadable(f"Apollo's answer to {path} is not as documented", status=200)
    return value


def _read(record: type[Record], raw: object) -> Record | None:
    if not isinstance(raw, dict) or not raw:
        return None
    raw = {name: _storable(value) for name, value in raw.items()}
    try:
        return record.model_validate(raw)
    except ValidationError as error:
        # The answer is paid for: keep what can be read instead of buying it again.
        unreadable = {item["loc"][0] for item in error.errors()}
        return record.model_validate({k: v for k, v in raw.items() if k not in unreadable})


def _storable(value: object) -> object:
    """What jsonb can hold: an answer that cannot be recorded would be bought again."""
    if isinstance(value, str):
        return None if is_blank(value) else clean_text(value[:MAX_TEXT])
    # no field is a yes or no, and pydantic would take one for a number
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) >= 2**63):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _cost(answer: dict[str, Any], found: object) -> int:
    given = answer.get("credits_consumed")
    return given if type(given) is int and 0 <= given <= MAX_CREDITS else int(found is not None)


def _sentence(answer: dict[str, Any], key: str) -> str:
    """What Apollo said, for every member to read: without the key, should it repeat that."""
    for field in ("error_message", "message", "error"):
        text = answer.get(field)
        if isinstance(text, str) and text:
            return text.replace(key, "[the API key]")[:300]
    return ""
