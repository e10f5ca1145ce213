"""Sends the recorded requests to a project and compares the answers with PostgREST's own.

What differs and why is in `recorded/differences.json`; nothing else may.
"""

from __future__ import annotations

import fnmatch
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import jwt

RECORDED: Final = Path(__file__).with_name("recorded")
ADA: Final = "aaaaaaaa-0000-4000-8000-000000000001"
ACME: Final = "11111111-1111-4111-8111-111111111111"
_NAMES = "content-range content-type preference-applied proxy-status www-authenticate"
HEADERS: Final = tuple(_NAMES.split())
#: Claims of those who ask, with times relative to now.
CALLERS: Final[dict[str, dict[str, Any]]] = {
    "ada": {"sub": ADA, "role": "authenticated"},
    "nearexp": {"sub": ADA, "role": "authenticated", "exp": -10},
    "notyet": {"sub": ADA, "role": "authenticated", "nbf": 300},
    "nobody": {"sub": ADA, "role": "nobody"},
}
_TIMES: Final = {"iat": -60, "exp": 3600}
_INSTANT: Final = re.compile(r'"\d{4}-\d\d-\d\dT[\d:.]+(?:\+00:00|Z)"')
_GUEST: Final = re.compile(r"guest_[0-9a-f]{64}")


@dataclass(frozen=True)
class Place:
    """A Data API: its address, and the keys that a gateway before it asks for, if any."""

    rest_url: str
    jwt_secret: str
    publishable_key: str = ""
    secret_key: str = ""
    schema: str = "public"

    def headers(self, caller: str) -> dict[str, str]:
        """What one of CALLERS sends, or `anon`, `service` or `garbage`."""
        headers = {
            "apikey": self.secret_key if caller == "service" else self.publishable_key,
            "accept-profile": self.schema,
            "content-profile": self.schema,
        }
        if caller == "service" and not self.secret_key:
            headers["authorization"] = f"Bearer {self._token({'role': 'service_role'})}"
        elif caller in CALLERS:
            headers["authorization"] = f"Bearer {self._token(CALLERS[caller])}"
        elif caller == "garbage":
            headers["authorization"] = "Bearer garbage"
        return headers

    def _token(self, claims: dict[str, Any]) -> str:
        now = int(time.time())
        given = {**_TIMES, **claims}
        times = {k: now + v for k, v in given.items() if k in ("iat", "exp", "nbf")}
        return jwt.encode(
            {"aud": "authenticated", **given, **times}, self.jwt_secret, algorithm="HS256"
        )


class Wrong(NamedTuple):
    """A request that is not answered as PostgREST answers it."""

    name: str
    expected: Any
    given: Any


def allowed() -> dict[str, str]:
    """Why an answer may differ, by the request's name or a pattern of names."""
    reasons: dict[str, str] = json.loads((RECORDED / "differences.json").read_text())
    return reasons


def reason_of(name: str) -> str | None:
    """Why this one may differ; None where it may not."""
    return next((why for of, why in allowed().items() if fnmatch.fnmatchcase(name, of)), None)


def compare(place: Place) -> list[Wrong]:
    """Every request whose answer is another one here."""
    pairs = json.loads((RECORDED / "answers.json").read_text())
    with httpx.Client(base_url=place.rest_url, timeout=30) as client:
        given = [(pair, _answer(client, place, pair["request"])) for pair in pairs]
    wrong = ((pair, answer) for pair, answer in given if answer != pair["answer"])
    return [Wrong(pair["name"], pair["answer"], answer) for pair, answer in wrong]


def record(place: Place) -> None:
    """Write the answers of this project as those that are expected of every other one."""
    pairs = json.loads((RECORDED / "answers.json").read_text())
    with httpx.Client(base_url=place.rest_url, timeout=30) as client:
        for pair in pairs:
            pair["answer"] = _answer(client, place, pair["request"])
    # one line a pair, so that a change of one answer is a change of one line
    lines = ",\n".join(json.dumps(pair, ensure_ascii=False) for pair in pairs)
    (RECORDED / "answers.json").write_text(f"[\n{lines}\n]\n")


def _answer(client: httpx.Client, place: Place, request: dict[str, Any]) -> dict[str, Any]:
    body = request.get("body")
    response = client.request(
        request["method"],
        request["path"],
        headers={**place.headers(request["as"]), **request.get("headers", {})},
        content=None if body is None else body.encode(request.get("encoding", "utf-8")),
    )
    headers = {name: response.headers[name] for name in HEADERS if name in response.headers}
    return {
        "status": response.status_code,
        "body": masked(response.text, place.schema),
        "headers": headers,
    }


def masked(text: str, schema: str) -> Any:
    """A body without what differs from run to run: instants, keys to guest sessions, a schema."""
    text = _GUEST.sub("guest_KEY", _INSTANT.sub('"INSTANT"', text))
    if schema != "public":
        text = re.sub(rf"\b{re.escape(schema)}(?=[.'])", "public", text)
    try:
        body = json.loads(text)
    except ValueError:
        return text
    if isinstance(body, dict) and "workspaces" in body:  # others are of those who used it before
        return {"workspaces": [one for one in body["workspaces"] if one["id"] == ACME]}
    # of a description, that it is one: what it describes is the project's
    return {"swagger": body["swagger"]} if isinstance(body, dict) and "swagger" in body else body
