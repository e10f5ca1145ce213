"""Malformed addresses, headers, bodies and framing, sent as raw bytes to the API and the gateway.

The file `test_openapi.py` sends requests that match the published schemas.
"""

import gzip
import os
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given, settings, strategies as st

from tests.support.stacks import RunningStack

WEEKLY = bool(os.environ.get("WEEKLY"))
#: Maximum seconds to wait for the response to a request.
PATIENCE = 60


def word_of(text: str) -> st.SearchStrategy[str]:
    return st.sampled_from(text.split())


ODD = st.one_of(
    word_of(
        r"null %00 %FF %2e%2e%2f .. -1 1e999 \ %5c * (1,2) 1:1: é {} [] eq. like.*"
        " 00000000-0000-4000-8000-00000000dead not.in.( and(a.eq.1,or(b"
    ),
    st.sampled_from(["", "a" * 5000, "9" * 30, "' or 1=1--", "%0d%0aX: y", "%F0%9F%99%82"]),
)
PLACES = word_of(
    "/rest/v1/ /rest/v1/jobs /rest/v1/accounts /rest/v1/rpc/enqueue_job /rest/v1/rpc/list_jobs"
    " /rest/v1/rpc/chat_request /auth/v1/token?grant_type=password /auth/v1/verify /auth/v1/signup"
    " /auth/v1/user /api/../../etc/passwd //evil.example/api /%2e%2e/pyproject.toml *"
    " http://evil.example/api/jobs"
)
METHODS = word_of("GET POST PUT PATCH DELETE HEAD OPTIONS TRACE CONNECT get")
NAMES = word_of(
    "Idempotency-Key Last-Event-ID X-Session-Id Accept-Profile Content-Profile Prefer Range Accept"
    " X-Forwarded-For Traceparent Origin Authorization X-Request-Id Content-Type Cookie"
    " Accept-Encoding Host"
)
KNOWN = (
    "Content-Encoding: gzip",
    "Content-Encoding: gzip, br",
    "Host: evil.example",
    "Upgrade: websocket",
    "Connection: close, upgrade",
    "Transfer-Encoding: identity",
    f"X-{'a' * 200}: {'b' * 8000}",
    "Prefer: count=exact",
    "Accept: text/csv",
    "Content-Type: text/csv",
)
HEADERS = st.one_of(st.builds("{}: {}".format, NAMES, ODD), st.sampled_from(KNOWN))
KEYS = st.sampled_from([b"workspace_id", b"payload", b"p_filter", b"p_options", b"__proto__"])
VALUES = st.sampled_from(
    [b"1e400", b'"\\u0000"', b'"\\ud800"', b"\xed\xa0\x80", b"NaN", b"{}", b"[9]"]
)
#: Large request bodies by name. A failing test prints the name instead of the body.
LARGE = {
    "a bomb": gzip.compress(b'{"a": "' + b"x" * 20_000_000 + b'"}'),
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "a long number": b'{"n":' + b"9" * 20_000 + b"}",
    "a long text": b'{"text": "' + b"x" * 70_000 + b'"}',
    "compressed": gzip.compress(b"{}"),
}
BODIES = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(sorted(LARGE)),
    st.sampled_from([b"", b'{"a":', b"\xff\xfe{}", b'{"a":1,"a":2}', b"--x\r\n\r\n--x--"]),
    st.builds(b'{"%s": %s}'.__mod__, st.tuples(KEYS, VALUES)),
)
#: The header that announces a request's body, and whether the body is sent completely.
FRAMES = {
    "length": (b"Content-Length: %d", True),
    "chunked": (b"Transfer-Encoding: chunked", True),
    "unended": (b"Transfer-Encoding: chunked", False),
    "short": (b"Content-Length: %d0", False),
    "none": (b"X: y", False),
    "negative": (b"Content-Length: -1", False),
    "huge": (b"Content-Length: 99999999999999999999", False),
    "both": (b"Transfer-Encoding: chunked\r\nContent-Length: %d", True),
    "twice": (b"Content-Length: 1\r\nContent-Length: %d", True),
}
REQUESTS = st.tuples(
    METHODS,
    st.lists(ODD, min_size=3, max_size=3),
    st.lists(HEADERS, max_size=3),
    st.lists(st.tuples(ODD, ODD), max_size=2),
    BODIES,
    st.sampled_from(sorted(FRAMES)),
)


def status_of(address: str, message: bytes, *, is_whole: bool) -> int:
    """Return the HTTP status of the response to raw bytes.

    Return 0 if the server closes the connection.
    """
    at = urlsplit(address)
    with socket.create_connection((at.hostname, at.port), timeout=PATIENCE) as connection:
        try:
            connection.sendall(message)
            if not is_whole:  # the server then knows that no more bytes follow
                connection.shutdown(socket.SHUT_WR)
            line = connection.makefile("rb").readline()
        except TimeoutError:
            raise
        except OSError:  # the server closed the connection without reading the whole request
            return 0
    return int(line.split()[1]) if line.startswith(b"HTTP/") else 0


@pytest.mark.weekly
@pytest.mark.timeout(3600)
def test_bytes_that_no_client_sends_are_no_fault_of_ours(stack: RunningStack) -> None:
    """A malformed request gets a status below 500, or the server closes its connection.

    Afterwards, the API and the gateway still respond to health checks.
    """
    document = httpx.get(f"{stack.api_url}/api/openapi.json").json()["paths"]
    paths = sorted(path for path in document if not path.endswith(("/events", "/stream")))
    person = f"Bearer {stack.sign_in(stack.demo_email)}"
    tokens = st.sampled_from([person, person, "Bearer é", "Bearer a.b.c", "Basic x", ""])

    @settings(max_examples=10_000 if WEEKLY else 250, derandomize=not WEEKLY, database=None)
    @given(st.one_of(st.sampled_from(paths), PLACES), tokens, REQUESTS)
    def send(path: str, token: str, request: tuple[Any, ...]) -> None:
        method, fillers, headers, query, body, frame = request
        parts = (fillers.pop() if part.startswith("{") else part for part in path.split("/"))
        target = "/".join(parts) + "".join(f"&{name}={value}" for name, value in query)
        target = target if "?" in target else target.replace("&", "?", 1)
        of_api = path.startswith("/api") or path in paths
        lines = [f"{method} {target} HTTP/1.1", "Host: a", f"Authorization: {token}", *headers]
        lines += [] if of_api else [f"apikey: {stack.supabase_publishable_key}"]
        announced, is_whole = FRAMES[frame]
        content = LARGE.get(body, body)
        head = [line.replace("\r", "").replace("\n", "").encode("latin-1") for line in lines]
        head.append(announced.replace(b"%d", str(len(content)).encode()))
        if b"chunked" in announced:
            pieces = b"%x\r\n%s\r\n" % (len(content), content) if content else b""
            content = pieces + b"0\r\n\r\n" * is_whole
        message = b"\r\n".join(head) + b"\r\n\r\n" + content
        address = stack.api_url if of_api else stack.supabase_url

        status = status_of(address, message, is_whole=is_whole)
        # The local Data API returns 501 for rare requests that it does not implement.
        assert status < 500 or (status == 501 and not of_api)

    send()
    for address in (f"{stack.api_url}/health", f"{stack.supabase_url}/_ready"):
        assert httpx.get(address).is_success
