"""Sends the recorded requests to a project, and compares the responses with PostgREST's responses.

`recorded/differences.json` lists the responses that may differ from PostgREST's, with reasons.
"""

import fnmatch
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import jwt

RECORDED = Path(__file__).with_name("recorded")
ADA = "aaaaaaaa-0000-4000-8000-000000000001"
ACME = "11111111-1111-4111-8111-111111111111"
_NAMES = "content-range content-type preference-applied proxy-status vary www-authenticate"
HEADERS = tuple(_NAMES.split())
#: Claims in a caller's token. Times in the claims are seconds relative to now.
_USER = {"sub": ADA, "role": "authenticated"}
#: Further claims in the token of each caller.
CALLERS: dict[str, dict[str, Any]] = {
    "ada": {},
    "nearexp": {"exp": -10},
    "notyet": {"nbf": 300},
    "fraction": {"exp": 300.5},
    "nobody": {"role": "nobody"},
}
_TIMES = {"iat": -60, "exp": 3600}
_INSTANT = re.compile(r'"\d{4}-\d\d-\d\dT[\d:.]+(?:\+00:00|Z)"')
#: Maximum seconds until a Data API has read a changed schema.
CACHE_SECONDS = 30
_GUEST = re.compile(r"guest_[0-9a-f]{64}")


@dataclass(frozen=True)
class DataApi:
    """A Data API, with its URL. A Data API behind a gateway also has API keys."""

    rest_url: str
    jwt_secret: str
    publishable_key: str = ""
    secret_key: str = ""
    schema: str = "public"

    def headers(self, caller: str) -> dict[str, str]:
        """Return the headers of a caller, who is in CALLERS, or `anon`, `service` or `garbage`."""
        headers = {
            "apikey": self.secret_key if caller == "service" else self.publishable_key,
            "accept-profile": self.schema,
            "content-profile": self.schema,
        }
        if caller == "service" and not self.secret_key:
            headers["authorization"] = f"Bearer {self._token({'role': 'service_role'})}"
        elif caller in CALLERS:
            headers["authorization"] = f"Bearer {self._token(_USER | CALLERS[caller])}"
        elif caller == "garbage":
            headers["authorization"] = "Bearer garbage"
        return headers

    def _token(self, claims: dict[str, Any]) -> str:
        now = int(time.time())
        relative = {**_TIMES, **claims}
        times = {k: now + v for k, v in relative.items() if k in ("iat", "exp", "nbf")}
        return jwt.encode(
            {"aud": "authenticated", **relative, **times}, self.jwt_secret, algorithm="HS256"
        )


class Difference(NamedTuple):
    """A request whose response differs from the response of PostgREST."""

    name: str
    expected: Any
    actual: Any


def listed_reasons() -> dict[str, str]:
    """Read why a response may differ, by the name of the request or a pattern of names."""
    reasons: dict[str, str] = json.loads((RECORDED / "differences.json").read_text())
    return reasons


def find_reason(name: str) -> str | None:
    """Return why the response of a request may differ from the real server's.

    Return None if no difference is listed for the request.
    """
    reasons = listed_reasons().items()
    return next((text for names, text in reasons if fnmatch.fnmatchcase(name, names)), None)


def compare(api: DataApi) -> list[Difference]:
    """Send all requests.

    List responses that differ from the recorded ones of the PostgREST version.
    """
    pairs = json.loads((RECORDED / "answers.json").read_text())
    with httpx.Client(base_url=api.rest_url, timeout=30) as client:
        version = find_version(client, api)
        results = [
            Difference(pair["name"], expected, _send_known(client, api, pair["request"], expected))
            for pair in pairs
            for expected in [_answer(pair, version)]
        ]
    return [each for each in results if each.expected != each.actual]


def record(api: DataApi) -> None:
    """Record the responses of this project as the expected responses of its PostgREST version."""
    pairs = json.loads((RECORDED / "answers.json").read_text())
    with httpx.Client(base_url=api.rest_url, timeout=30) as client:
        version = find_version(client, api)
        for pair in pairs:
            response = _send(client, api, pair["request"])
            if version == 16:
                pair["answer"] = response
            elif response != _answer(pair, version):
                pair["answer14"] = response
    # write one line for each request and response, so that a change of a response changes one line
    lines = ",\n".join(json.dumps(pair, ensure_ascii=False) for pair in pairs)
    (RECORDED / "answers.json").write_text(f"[\n{lines}\n]\n")


def find_version(client: httpx.Client, api: DataApi) -> int:
    """Return the major version of PostgREST, which the API's description contains."""
    described = client.get("/", headers=api.headers("service")).json()
    return int(described["info"]["version"].partition(".")[0])


def _answer(pair: dict[str, Any], version: int) -> dict[str, Any]:
    """Return the recorded response for a version of PostgREST. PostgREST 14 sends no `Vary`."""
    if version == 16:
        return dict(pair["answer"])
    answer = pair.get("answer14", pair["answer"])
    headers = {name: value for name, value in answer["headers"].items() if name != "vary"}
    return {**answer, "headers": headers}


def _send_known(
    client: httpx.Client, api: DataApi, request: dict[str, Any], expected: dict[str, Any]
) -> dict[str, Any]:
    """Repeat a request that returns 404, because PostgREST may not have read the new schema yet."""
    deadline = time.monotonic() + CACHE_SECONDS
    while True:
        response = _send(client, api, request)
        is_unknown = response["status"] == 404 != expected["status"]
        if not is_unknown or time.monotonic() > deadline:
            return response
        time.sleep(0.2)


def _send(client: httpx.Client, api: DataApi, request: dict[str, Any]) -> dict[str, Any]:
    body = request.get("body")
    response = client.request(
        request["method"],
        request["path"],
        headers={**api.headers(request["as"]), **request.get("headers", {})},
        content=None if body is None else body.encode(request.get("encoding", "utf-8")),
    )
    headers = {name: response.headers[name] for name in HEADERS if name in response.headers}
    return {
        "status": response.status_code,
        "body": mask_body(response.text, api.schema),
        "headers": headers,
    }


def mask_body(text: str, schema: str) -> Any:
    """Replace parts of a response that differ between runs: times, guest sessions, the schema."""
    text = _GUEST.sub("guest_KEY", _INSTANT.sub('"INSTANT"', text))
    if schema != "public":
        text = re.sub(rf"\b{re.escape(schema)}(?=[.'])", "public", text)
    try:
        body = json.loads(text)
    except ValueError:
        return text
    if isinstance(body, dict) and "workspaces" in body:  # omit the workspaces of other users
        return {"workspaces": [row for row in body["workspaces"] if row["id"] == ACME]}
    # omit the contents of the API's description (OpenAPI), because they depend on the project
    return {"swagger": body["swagger"]} if isinstance(body, dict) and "swagger" in body else body
