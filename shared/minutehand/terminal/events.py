"""A feed of the service as server-sent events, read with a cursor so that a cut loses nothing.

Behind a buffering gateway each answer ends early, and the next one continues where it stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from httpx_sse import EventSource

from minutehand.terminal.connection import CommandFailed, Connection, parsed

ENDED = {"completed", "failed", "cancelled"}
RETRY_SECONDS = 1.0


@dataclass
class Event:
    """One server-sent event."""

    id: str | None
    type: str
    data: Any


def stream(
    connection: Connection, path: str, *, cursor: str | None = None, tries: int = 30
) -> Iterator[Event]:
    """Events of a feed until the server says that there are no more, by `end` or by 204.

    An access token lives an hour; a watch that signed in itself does so again and continues.

    Raises:
        CommandFailed: The feed was refused, stays away for `tries` attempts in a row, or a given
            token has expired.
    """
    failures, renewed = 0, False
    while True:
        headers = {"accept": "text/event-stream"}
        if cursor is not None:
            headers["last-event-id"] = cursor
        try:
            with connection.api.stream(
                "GET", path, headers=headers, timeout=httpx.Timeout(60.0, connect=5.0)
            ) as answer:
                if answer.status_code == 204:
                    return
                if not answer.is_success:
                    answer.read()
                    # it may have expired while the feed was unavailable; once, for a wrong one
                    # stays wrong
                    if answer.status_code == 401 and cursor and not renewed and connection.renew():
                        renewed = True
                        continue
                    if answer.status_code < 500:
                        parsed(answer)
                    raise httpx.ReadError(f"answered {answer.status_code}")
                for event in events_of(EventSource(answer)):
                    failures, renewed = 0, False
                    cursor = event.id or cursor
                    if event.type == "end" and event.data.get("reason") == "token_expired":
                        if connection.renew():
                            break
                        raise CommandFailed(
                            "the access token has expired",
                            code="token_expired",
                            fix="`minutehand token` prints a fresh one; with MINUTEHAND_EMAIL and "
                            "MINUTEHAND_PASSWORD it is renewed automatically",
                        )
                    yield event
                    if event.type == "end":
                        return
        except httpx.HTTPError as error:
            failures += 1
            if failures >= tries:
                raise CommandFailed(
                    f"the feed does not answer ({type(error).__name__})",
                    code="unreachable",
                    fix="`minutehand doctor` shows which part is unavailable",
                ) from error
            time.sleep(RETRY_SECONDS)


def events_of(source: EventSource) -> Iterator[Event]:
    """Events with their data read; comments and retry hints are skipped."""
    for sent in source.iter_sse():
        if sent.data:
            yield Event(sent.id or None, sent.event, json.loads(sent.data))
