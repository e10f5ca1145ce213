"""JSON log lines, one object per line, with the id of their request.

The module uses only the standard library, because every handler imports it. The text of an
exception is redacted, because it may quote a key.
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

#: Attributes of every LogRecord; all others come from `extra`.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def current_request_id() -> str | None:
    """Return the id of the present request or tick, if any."""
    return _request_id.get()


@contextlib.contextmanager
def request_context(request_id: str | None) -> Iterator[None]:
    """Add `request_id` to every line logged in the block or in tasks that it starts."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object with fixed keys first, then `extra`, then the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a line; a value that JSON cannot represent is written as its `str`."""
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
        # a lone surrogate, e.g. in a text that was cut within an emoji, would lose the whole line
        return text.encode("utf-8", "replace").decode()


def configure_logging(level: str = "INFO", *, stream: TextIO | None = None) -> None:
    """Send all loggers' lines to `stream` (default: stdout) as JSON.

    Replaces handlers that a runtime such as AWS Lambda added to the root logger, so that no line
    appears twice. The function may be called again.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stdout)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    # httpx logs a line per HTTP call, which would hide the worker's own lines, except at DEBUG
    logging.getLogger("httpx").setLevel(logging.WARNING if level != "DEBUG" else logging.DEBUG)
    logging.getLogger("httpcore").setLevel(logging.WARNING)
