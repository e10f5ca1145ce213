"""Calls to other services over HTTP: connections, timeouts, size limits, and retries."""

from __future__ import annotations

import asyncio
import json
import math
import ssl
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.util import find_spec
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import httpx
import tenacity

#: This machine, as addresses name it: no proxy of the environment is meant for it.
LOCAL_HOSTS: Final = frozenset({"127.0.0.1", "::1", "localhost"})
CONNECT_SECONDS: Final = 5.0
#: A wait asked for that is at most this long is waited for within the call.
SHORT_WAIT: Final = timedelta(seconds=3)

#: Failures after which the request certainly never arrived.
UNSENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.InvalidURL)
# httpcore looks for it at each request, which is a quarter of a call's time where it is not there
if find_spec("sniffio") is None:
    sys.modules["sniffio"] = None  # type: ignore[assignment]
_back_off = tenacity.wait_random_exponential(multiplier=0.2, max=2.0)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: httpx.Headers
    body: bytes

    def object(self) -> dict[str, Any] | None:
        """The body if it is a JSON object, else None."""
        try:
            found = json.loads(self._text())
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def _text(self) -> str | bytes:
        """The body, in the encoding that its sender names if it is none that JSON may have."""
        try:
            self.body.decode()
        except UnicodeDecodeError:
            encoding = httpx.Response(200, headers=self.headers).charset_encoding
            with suppress(LookupError, UnicodeDecodeError):
                return self.body.decode(encoding or "latin-1")
        return self.body


class NoAnswer(Exception):
    """No whole answer came; the text continues after the service's name."""

    def __init__(self, reason: str, kind: Literal["unsent", "silent", "broken", "long"]) -> None:
        self.kind = kind
        super().__init__(reason)

    @property
    def unsent(self) -> bool:
        """Whether the request certainly never arrived."""
        return self.kind == "unsent"

    @classmethod
    def of(cls, error: Exception) -> NoAnswer:
        """The error for one of httpx's."""
        name = type(error).__name__
        if isinstance(error, UNSENT):
            return cls(f"could not be reached ({name})", "unsent")
        if isinstance(error, httpx.TimeoutException):
            return cls(f"stopped responding ({name})", "silent")
        return cls(f"ended its answer early ({name})", "broken")


def is_local(url: str) -> bool:
    """Whether `url` leads to this machine."""
    return urlsplit(url).hostname in LOCAL_HOSTS


def timeouts(answer_seconds: float) -> httpx.Timeout:
    """Wait so long between two pieces of an answer, and at most 5 s for a connection."""
    return httpx.Timeout(answer_seconds, connect=min(CONNECT_SECONDS, answer_seconds))


@cache
def trusted() -> ssl.SSLContext:
    """The certificates that this process trusts, read once: that takes 25 ms, HTTPS or not."""
    return httpx.create_ssl_context()


def connect(
    *,
    timeout: httpx.Timeout | None = None,
    headers: Mapping[str, str] | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> httpx.AsyncClient:
    """Make connections to share: they keep no cookie and follow no redirect."""
    return httpx.AsyncClient(
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        headers={"user-agent": "Minutehand", **(headers or {})},
        timeout=timeouts(CONNECT_SECONDS) if timeout is None else timeout,
        transport=transport,
        verify=trusted(),
        mounts={f"all://{host}": None for host in ("127.0.0.1", "[::1]", "localhost")},
    )


async def exchange(
    http: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    most_bytes: int,
    within: float | None = None,
    **options: Any,
) -> Answer:
    """Send one request and read the whole answer, with any status."""
    if within is None:
        silence = httpx.Timeout(options.get("timeout", http.timeout)).read
        within = None if silence is None else silence * 2
    try:
        async with (
            asyncio.timeout(within),
            opened(http, method, url, within=math.inf, **options) as answer,
        ):
            return await answer.whole(most_bytes=most_bytes)
    except TimeoutError as error:
        raise NoAnswer(f"took longer than {within:g} s for its answer", "silent") from error


class OpenAnswer:
    """An answer that is read as it comes.

    Its one limit is of silence: so many seconds of reading, from the headers on and from each
    `received`. What its reader does in between does not count.
    """

    def __init__(self, response: httpx.Response, within: float) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self._response = response
        self._within = self._left = within

    def received(self) -> None:
        """Begin the limit again: what came was a piece of the answer."""
        self._left = self._within

    async def pieces(self, *, most_bytes: int) -> AsyncGenerator[bytes]:
        """The body in pieces as they come.

        Raises:
            NoAnswer: It is silent, too long, or ended early.
        """
        loop, size = asyncio.get_running_loop(), 0
        coming = self._response.aiter_bytes()
        try:
            while True:
                began_at = loop.time()
                async with asyncio.timeout(self._left):
                    piece = await anext(coming, None)
                self._left -= loop.time() - began_at
                if piece is None:
                    return
                size += len(piece)
                if size > most_bytes:
                    raise NoAnswer(f"answered more than {most_bytes} bytes", "long")
                yield piece
        except TimeoutError as error:
            raise NoAnswer(f"was silent for {self._within:g} s", "silent") from error
        except httpx.HTTPError as error:
            raise NoAnswer.of(error) from error

    async def whole(self, *, most_bytes: int) -> Answer:
        """The whole answer."""
        body = b"".join([piece async for piece in self.pieces(most_bytes=most_bytes)])
        return Answer(self.status, self.headers, body)


@asynccontextmanager
async def opened(
    http: httpx.AsyncClient, method: str, url: str, *, within: float, **options: Any
) -> AsyncIterator[OpenAnswer]:
    """Send one request and read its answer as it comes, with any status; then it is closed.

    Raises:
        NoAnswer: No answer began `within` so many seconds.
    """
    try:
        request = http.build_request(method, url, **options)
        async with asyncio.timeout(within):
            response = await http.send(request, stream=True)
    except TimeoutError as error:
        raise NoAnswer(f"was silent for {within:g} s", "silent") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NoAnswer.of(error) from error
    try:
        yield OpenAnswer(response, within)
    finally:
        await response.aclose()


def repeating(
    worth: Callable[[BaseException], bool],
    *,
    attempts: int = sys.maxsize,
    within: float = math.inf,
    sleep: Callable[[float], Awaitable[None]] | None = None,
) -> tenacity.AsyncRetrying:
    """Repeat a call, `within` so many seconds, while `worth` says so and no long wait is asked."""

    def again(error: BaseException) -> bool:
        asked = asked_wait(error)
        return worth(error) and (asked is None or asked <= SHORT_WAIT)

    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(again),
        stop=tenacity.stop_after_attempt(attempts) | tenacity.stop_after_delay(within),
        wait=_wait,
        reraise=True,
        sleep=sleep or asyncio.sleep,
    )


def asked_wait(error: BaseException | None) -> timedelta | None:
    """How long the service that refused asks callers to wait."""
    asked = getattr(error, "retry_after", None)
    return asked if isinstance(asked, timedelta) else None


def _wait(state: tenacity.RetryCallState) -> float:
    asked = asked_wait(state.outcome.exception() if state.outcome else None)
    # those that it refused together do not all come back together
    return (asked.total_seconds() if asked else 0.0) + float(_back_off(state))
