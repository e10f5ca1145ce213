"""A local server in Apollo's documented v1 format, with the vendor's ways to fail on request.

Speaks plain HTTP/1.1 over asyncio, because hanging and breaking off are part of the job.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

KEY = "live-key-0001"
MASTER_KEY = "master-key-0002"


@dataclass(frozen=True)
class Fault:
    """What the next request gets instead of an answer."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    cut: bool = False
    drop: bool = False


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, list[str]]
    key: str | None
    traceparent: str | None


class ApolloServer:
    """Answers organization, people, bulk, usage and health calls; `faults` go first, in order."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.credits = 100
        self.unknown = {"unknown.example"}
        self.called = asyncio.Event()
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        self._server.close()
        await self._server.wait_closed()

    @property
    def base_url(self) -> str:
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}/api/v1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            request, *lines = head.split("\r\n")
            method, target, _ = request.split(" ")
            headers = {
                name.strip().lower(): value.strip()
                for name, _, value in (line.partition(":") for line in lines if line)
            }
            await reader.readexactly(int(headers.get("content-length", "0")))
            url = urlsplit(target)
            seen = Seen(
                method,
                url.path,
                parse_qs(url.query),
                headers.get("x-api-key"),
                headers.get("traceparent"),
            )
            self.seen.append(seen)
            self.called.set()
            fault = self.faults.pop(0) if self.faults else None
            if fault is not None and fault.hang:
                await self._stop.wait()
                return
            if fault is not None and fault.drop:
                return
            status, extra, body = (
                (fault.status, fault.headers, fault.body)
                if fault is not None and not fault.cut
                else (*self._answer(seen),)
            )
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            told = "".join(f"{name}: {value}\r\n" for name, value in extra.items())
            writer.write(
                f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{told}"
                f"content-length: {len(raw)}\r\nconnection: close\r\n\r\n".encode()
            )
            writer.write(raw[: len(raw) // 2] if fault is not None and fault.cut else raw)
            await writer.drain()
        finally:
            writer.close()

    def _answer(self, seen: Seen) -> tuple[int, dict[str, str], Any]:
        if seen.key not in (KEY, MASTER_KEY):
            return 401, {}, {"error": "Invalid access credentials."}
        match seen.method, seen.path:
            case "GET", "/api/v1/organizations/enrich":
                [domain] = seen.query["domain"]
                return 200, {}, self._charge(domain)
            case "POST", "/api/v1/organizations/bulk_enrich":
                domains = seen.query["domains[]"]
                if len(domains) > 10:
                    return 400, {}, {"error": "at most 10 domains"}
                found = [item for domain in domains if (item := self._charge(domain))]
                return 200, {}, bulk(domains, [item["organization"] for item in found])
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


def bulk(asked: list[str], found: list[dict[str, Any]]) -> dict[str, Any]:
    """The envelope around a bulk answer."""
    return {
        "status": "success",
        "error_code": None,
        "error_message": None,
        "total_requested_domains": len(asked),
        "unique_domains": len(set(asked)),
        "unique_enriched_records": len(found),
        "missing_records": len(asked) - len(found),
        "organizations": found,
    }
