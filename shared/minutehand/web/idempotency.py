"""The Idempotency-Key header. A repeated request with the same key creates no second job.

The database stores the key with the job, in the transaction that enqueues the job.
"""

from typing import Annotated

from fastapi import Header

from minutehand.web.errors import invalid_argument

HEADER = "Idempotency-Key"
MAX_CHARACTERS = 255

#: The Idempotency-Key header as an argument of a route.
IdempotencyHeader = Annotated[
    str | None,
    Header(alias=HEADER, description="A repeated request with the same key returns the same job."),
]


def parse_key(value: str | None) -> str | None:
    """Parse the header, whose value may be quoted (draft-ietf-httpapi-idempotency-key-header)."""
    if value is None:
        return None
    key = value.strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not key or len(key) > MAX_CHARACTERS or not all(" " <= sign <= "~" for sign in key):
        raise invalid_argument(
            HEADER, f"must be 1 to {MAX_CHARACTERS} visible ASCII characters", location="header"
        )
    return key


def one_key(header: str | None, body: str | None) -> str | None:
    """Return the idempotency key of a request, which may be in the header or in the body."""
    key = parse_key(header)
    if key is not None and body is not None and key != body:
        raise invalid_argument("idempotency_key", f"differs from the {HEADER} header")
    return key if key is not None else body


def key_of_part(header: str | None, index: int, own: str | None) -> str | None:
    """Return the key of the job at `index` of a bulk, or a key made from the header's key."""
    return own if own is not None or header is None else f"{header}#{index}"
