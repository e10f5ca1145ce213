"""Following a feed past the end of a token, whatever the command line it came from."""

from __future__ import annotations

import json

import httpx

from minutehand.terminal.connection import AsPerson, Connection
from minutehand.terminal.events import stream

EXPIRED = 'event: end\ndata: {"reason": "token_expired"}\n\n'


def event(number: int) -> str:
    data = json.dumps({"seq": number, "type": "job.progress"})
    return f"id: {number}\nevent: job.progress\ndata: {data}\n\n"


class Service:
    """Feeds by turn, each for the token of its turn; what was asked is kept."""

    def __init__(self, *answers: httpx.Response) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str | None]] = []
        self.signed_in = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        headers = request.headers
        self.asked.append((headers["authorization"], headers.get("last-event-id")))
        return self.answers.pop(0)


class SignsIn(Connection):
    """A person whose every sign-in gives another token."""

    service: Service

    def _sign_in(self) -> str:
        self.service.signed_in += 1
        return f"token-{self.service.signed_in}"


def connected(service: Service, token: str | None = None) -> SignsIn:
    connection = SignsIn({"API_URL": "http://service.test"}, token)
    connection.service = service
    connection.api = httpx.Client(
        base_url="http://service.test",
        transport=httpx.MockTransport(service),
        auth=AsPerson(connection),
    )
    return connection


def sse(*parts: str) -> httpx.Response:
    headers = {"content-type": "text/event-stream"}
    return httpx.Response(200, headers=headers, text="".join(parts))


def test_a_watch_outlives_its_token() -> None:
    """An hour after it began it would have stopped, with exit code 0 and nothing said."""
    service = Service(sse(event(1), EXPIRED), sse(event(2)), httpx.Response(204))
    connection = connected(service)

    seen = [item.id for item in stream(connection, "/events")]
    connection.close()

    assert seen == ["1", "2"]
    assert service.asked == [
        ("Bearer token-1", None),
        ("Bearer token-2", "1"),
        ("Bearer token-2", "2"),
    ]
