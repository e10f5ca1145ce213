"""JSON log lines. Each line is an object that contains the id of its request.

This module imports only the standard library, because each Lambda handler imports it. The text of
an exception is redacted, because it may contain a key.
"""

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

#: Attributes that each LogRecord has. All other attributes come from `extra`.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def current_request_id() -> str | None:
    """Return the id of the current request or worker run.

    Return None outside of a request and a worker run.
    """
    return _request_id.get()


@contextlib.contextmanager
def request_context(request_id: str | None) -> Iterator[None]:
    """Add `request_id` to each log line of this block, and of the tasks that the block starts."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)


class JsonFormatter(logging.Formatter):
    """Formats a log record as a JSON object: fixed keys first, then `extra`, then the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a log line. A value that is not JSON is converted to a string."""
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
        # replace lone surrogates, e.g. of a text that ends within an emoji, because they are not
        # UTF-8
        return text.encode("utf-8", "replace").decode()


def configure_logging(level: str = "INFO", *, stream: TextIO | None = None) -> None:
    """Write the log lines of all loggers to `stream`, by default to stdout, as JSON.

    Handlers that a runtime such as AWS Lambda has added to the root logger are replaced, so that no
    line appears twice. The function may be called again.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stdout)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    # omit httpx's line per HTTP call except at DEBUG, because there are more of them than other
    # lines
    logging.getLogger("httpx").setLevel(logging.WARNING if level != "DEBUG" else logging.DEBUG)
    logging.getLogger("httpcore").setLevel(logging.WARNING)
