"""Reads an event feed of the service as server-sent events, by a cursor so that no event is lost.

A gateway that buffers responses ends each response early. The next request then continues after the
last event.
"""

import time
from collections.abc import Iterator

import httpx
from httpx_sse import EventSource, ServerSentEvent

from minutehand.terminal.connection import CommandFailed, Connection, parse_response

ENDED = {"completed", "failed", "cancelled"}
RETRY_SECONDS = 1.0
#: Maximum number of failed requests in a row before the feed ends with an error.
MAX_FAILURES = 30


def stream(connection: Connection, path: str) -> Iterator[ServerSentEvent]:
    """Yield the events of a feed until the server ends the feed, by an event `end` or status 204.

    When the access token expires after an hour, a token that came from a sign-in is renewed.
    """
    cursor, failures = None, 0
    while True:
        try:
            for event in _read_response(connection, path, cursor):
                failures, cursor = 0, event.id or cursor
                if event.event == "end" and event.json().get("reason") == "token_expired":
                    if connection.drop_token():
                        break
                    raise CommandFailed("the access token has expired", code="token_expired")
                if event.event == "end":
                    return
                yield event
        except httpx.HTTPError as error:
            failures += 1
            if failures >= MAX_FAILURES:
                raise CommandFailed(
                    f"the feed does not respond ({type(error).__name__})", code="unreachable"
                ) from error
            time.sleep(RETRY_SECONDS)


def _read_response(
    connection: Connection, path: str, cursor: str | None
) -> Iterator[ServerSentEvent]:
    """Yield the events of one response, without the stream's comments and retry hints.

    If the server responds with status 204, yield the event `end`.
    """
    headers = {"accept": "text/event-stream"} | ({"last-event-id": cursor} if cursor else {})
    timeout = httpx.Timeout(60.0, connect=5.0)
    with connection.api.stream("GET", path, headers=headers, timeout=timeout) as response:
        if response.status_code == 204:
            yield ServerSentEvent("end", "{}")
            return
        if response.status_code >= 500:
            raise httpx.ReadError(f"responded {response.status_code}")
        if not response.is_success:
            response.read()
            parse_response(response)
        yield from (event for event in EventSource(response).iter_sse() if event.data)
