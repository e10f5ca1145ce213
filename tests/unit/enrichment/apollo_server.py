"""A local server in Apollo's documented v1 format, with the vendor's ways to fail on request.

How it listens, hangs and breaks off is the matter of `tests/support/misbehaving.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.misbehaving import Fault, MisbehavingServer, Request, write

KEY = "live-key-0001"
MASTER_KEY = "master-key-0002"


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, list[str]]
    key: str | None
    traceparent: str | None
    cookie: str | None = None


class ApolloServer(MisbehavingServer):
    """Answers organization, people, bulk, usage and health calls; `faults` go first, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.credits = 100
        self.unknown = {"unknown.example"}
        self.called = asyncio.Event()

    @property
    def base_url(self) -> str:
        """What APOLLO_BASE_URL holds."""
        return f"{self.origin}/api/v1"

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Answer one call."""
        url = urlsplit(request.target)
        seen = Seen(
            request.method,
            url.path,
            parse_qs(url.query),
            request.headers.get("x-api-key"),
            request.headers.get("traceparent"),
            request.headers.get("cookie"),
        )
        self.seen.append(seen)
        self.called.set()
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None and fault.hang:
            await self.hang()
        if fault is not None and fault.drop:
            return
        if fault is None or fault.cut:
            status, headers, told = self._answer(seen)
            write(writer, status, told, headers, cut=fault is not None)
        else:
            write(writer, fault.status, fault.body, fault.headers)

    def _answer(self, seen: Seen) -> tuple[int, dict[str, str], Any]:
        if seen.key not in (KEY, MASTER_KEY):
            return 401, {}, {"error": "Invalid access credentials."}
        match seen.method, seen.path:
            case "GET", "/api/v1/organizations/enrich":
                [domain] = seen.query["domain"]
                return 200, {}, self._charge(domain)
            case "POST", "/api/v1/people/match":
                [email] = seen.query["email"]
                return 200, {}, self._person(email)
            case "GET", "/api/v1/auth/health":
                return 200, {}, {"healthy": True, "is_logged_in": True}
            case "POST", "/api/v1/usage_stats/credit_usage_stats":
                if seen.key != MASTER_KEY:
                    return 403, {}, {"error": "API_INACCESSIBLE"}
                lead = {"limit": 100, "consumed": 100 - self.credits, "left_over": self.credits}
                return 200, {}, {"credit_usage_stats": {"lead_credit": lead}}
        return 404, {}, {"error": "no such endpoint"}

    def _charge(self, domain: str) -> dict[str, Any]:
        if domain in self.unknown:
            return {}  # a company Apollo does not know: an empty object, free of charge
        self.credits -= 1
        return {"organization": organization(domain)}

    def _person(self, email: str) -> dict[str, Any]:
        if email.partition("@")[2] in self.unknown:
            return {"person": {"name": "", "match_confidence": "none", "organization": {}}}
        self.credits -= 1
        return {"person": person(email)}


def organization(domain: str) -> dict[str, Any]:
    """A company with the fields the reference page shows, and some nobody asked for."""
    return {
        "id": f"org-{domain}",
        "name": f"The {domain} Company",
        "website_url": f"http://www.{domain}",
        "linkedin_url": f"http://www.linkedin.com/company/{domain}",
        "primary_phone": {},
        "languages": [],
        "alexa_ranking": 3514,
        "phone": None,
        "founded_year": 2015,
        "primary_domain": domain,
        "industry": "information technology & services",
        "estimated_num_employees": 1600,
        "annual_revenue": 100000000.0,
        "city": "San Francisco",
        "state": "California",
        "country": "United States",
    }


def person(email: str) -> dict[str, Any]:
    """A person with the fields the reference page shows."""
    return {
        "id": f"person-{email}",
        "first_name": "Tim",
        "last_name": "Zheng",
        "name": "Tim Zheng",
        "linkedin_url": "http://www.linkedin.com/in/tim-zheng",
        "title": "Founder & CEO",
        "email_status": "verified",
        "email": email,
        "organization": organization(email.partition("@")[2]),
    }
