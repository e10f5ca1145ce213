"""A feed of the service as server-sent events, read with a cursor so that a cut loses nothing.

Behind a buffering gateway each answer ends early, and the next one continues where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
from httpx_sse import EventSource, ServerSentEvent

from minutehand.terminal.connection import CommandFailed, Connection, parse_response

ENDED = {"completed", "failed", "cancelled"}
RETRY_SECONDS = 1.0
#: Failures in a row after which a feed is given up.
TRIES = 30


def stream(connection: Connection, path: str) -> Iterator[ServerSentEvent]:
    """Events of a feed until the server says that there are no more, by `end` or by 204.

    An access token lives an hour; a watch that signed in itself does so again and continues.
    """
    cursor, failures = None, 0
    while True:
        try:
            for event in _answer(connection, path, cursor):
                failures, cursor = 0, event.id or cursor
                if event.event == "end" and event.json().get("reason") == "token_expired":
                    if connection.renew():
                        break
                    raise CommandFailed("the access token has expired", code="token_expired")
                if event.event == "end":
                    return
                yield event
        except httpx.HTTPError as error:
            failures += 1
            if failures >= TRIES:
                raise CommandFailed(
                    f"the feed does not answer ({type(error).__name__})", code="unreachable"
                ) from error
            time.sleep(RETRY_SECONDS)


def _answer(connection: Connection, path: str, cursor: str | None) -> Iterator[ServerSentEvent]:
    """One answer's events, without comments and retry hints; an `end` for 204."""
    headers = {"accept": "text/event-stream"} | ({"last-event-id": cursor} if cursor else {})
    timeout = httpx.Timeout(60.0, connect=5.0)
    with connection.api.stream("GET", path, headers=headers, timeout=timeout) as answer:
        if answer.status_code == 204:
            yield ServerSentEvent("end", "{}")
            return
        if answer.status_code >= 500:
            raise httpx.ReadError(f"answered {answer.status_code}")
        if not answer.is_success:
            answer.read()
            parse_response(answer)
        yield from (event for event in EventSource(answer).iter_sse() if event.data)
