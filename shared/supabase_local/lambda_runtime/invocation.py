"""One invocation and how it ended, in the words of the Lambda API.

Values only; running it is left to the environment, repeating it to the asynchronous queue.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any


def trace_header() -> str:
    """A fresh X-Ray trace header, as Lambda starts one per unlinked invocation."""
    number = uuid.uuid4().hex
    return f"Root=1-{int(time.time()):08x}-{number[:24]};Parent={number[:16]};Sampled=0"


@dataclass(frozen=True)
class Invocation:
    """An event on its way into a function."""

    payload: bytes
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    trace_id: str = field(default_factory=trace_header)
    client_context: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How an invocation ended; `error` is None, or the kind AWS writes to its log."""

    payload: bytes
    error: str | None = None
    duration_ms: float = 0.0
    init_ms: float | None = None
    log_tail: bytes = b""

    @property
    def ok(self) -> bool:
        """Whether the handler returned."""
        return self.error is None

    def json(self) -> Any:
        """The payload, parsed."""
        return json.loads(self.payload or b"null")


def failed(request_id: str, error_type: str, message: str) -> bytes:
    """The error payload Lambda itself writes when the runtime could not."""
    return json.dumps(
        {"errorType": error_type, "errorMessage": f"RequestId: {request_id} Error: {message}"}
    ).encode()
