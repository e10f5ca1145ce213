"""JSON log lines: one object per line, with the request they belong to.

Standard library only, because every handler imports it. An exception's text is filtered: what a
processor raises may quote a key.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

from minutehand.redaction import without_secrets

_request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)

#: Attributes every LogRecord has; every other one came through `extra`.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def current_request_id() -> str | None:
    """The id of the request or tick this code runs for, if any."""
    return _request_id.get()


@contextlib.contextmanager
def request_context(request_id: str | None) -> Iterator[None]:
    """Stamp `request_id` on every line logged inside the block, tasks started in it included."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)


class JsonFormatter(logging.Formatter):
    """Render a record as one JSON object: fixed keys first, then `extra`, then the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a value JSON cannot hold is written as its `str`."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "timestamp": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "message": record.getMessage(),
            "logger": record.name,
        }
        request_id = _request_id.get()
        if request_id is not None:
            line["request_id"] = request_id
        for key, value in record.__dict__.items():
            if key not in _STANDARD and not key.startswith("_"):
                line[key] = value
        if record.exc_info:
            line["exception"] = without_secrets(self.formatException(record.exc_info))
        text = json.dumps(line, default=str, ensure_ascii=False, separators=(",", ":"))
        # a lone surrogate, as a text cut in an emoji has, would lose the whole line
        return text.encode("utf-8", "replace").decode()


def configure_logging(level: str = "INFO", *, stream: TextIO | None = None) -> None:
    """Send every logger's lines to `stream` (stdout when None) as JSON.

    Replaces the handlers that a runtime put on the root logger, AWS Lambda's among them, so that
    no line appears twice. Safe to call again.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stdout)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    # one line per HTTP call of the worker would drown its own; they return at DEBUG
    logging.getLogger("httpx").setLevel(logging.WARNING if level != "DEBUG" else logging.DEBUG)
    logging.getLogger("httpcore").setLevel(logging.WARNING)
