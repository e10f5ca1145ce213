"""A local server in the documented v1 format of Apollo's API, with faults on request."""

import asyncio
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.misbehaving import Fault, MisbehavingServer, Request, write

KEY = "live-key-0001"


class ApolloServer(MisbehavingServer):
    """Responds to calls for companies, people and health.

    The `faults` are returned first, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[Fault] = []
        #: The API key and the path of each request.
        self.seen: list[tuple[str | None, str]] = []

    @property
    def base_url(self) -> str:
        """The value for APOLLO_BASE_URL."""
        return f"{self.origin}/api/v1"

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Respond to one call."""
        url = urlsplit(request.target)
        key = request.headers.get("x-api-key")
        self.seen.append((key, url.path))
        fault = self.faults.pop(0) if self.faults else None
        if fault is None or fault.cut:
            status, response = self._answer(key, url.path, parse_qs(url.query))
            write(writer, status, response, {}, cut=fault is not None)
        else:
            write(writer, fault.status, fault.body, fault.headers)

    def _answer(
        self, key: str | None, path: str, query: dict[str, list[str]]
    ) -> tuple[int, dict[str, Any]]:
        if key != KEY:
            return 401, {"error": "Invalid access credentials."}
        match path.removeprefix("/api/v1/"):
            case "organizations/enrich":
                return 200, {"organization": organization(query["domain"][0])}
            case "people/match":
                person = {"name": "Tim Zheng", "title": "Founder & CEO", "email": query["email"][0]}
                return 200, {"person": person}
            case "auth/health":
                return 200, {"healthy": True, "is_logged_in": True}
            case "usage_stats/credit_usage_stats":
                return 403, {"error": "API_INACCESSIBLE"}  # only master keys may call it
        return 404, {"error": "no such endpoint"}


def organization(domain: str) -> dict[str, Any]:
    """Return a company with the documented fields, some unused fields, and a blank field."""
    return {
        "id": f"org-{domain}",
        "name": f"The {domain} Company",
        "alexa_ranking": 3514,
        "primary_phone": {},
        "phone": None,
        "industry": "information technology & services",
        "estimated_num_employees": 1600,
        "annual_revenue": 100000000.0,
        "city": "San Francisco",
        "state": " \u3164",
        "country": "United States",
    }
