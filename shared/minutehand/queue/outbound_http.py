"""HTTP calls of other services, with shared connections, timeouts, size limits and retries."""

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
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import httpx
import tenacity

#: Host names of this machine. Calls of these hosts ignore the proxies in environment variables.
LOCAL_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})
CONNECT_SECONDS = 5.0
#: Maximum `Retry-After` for which a call waits and retries. With a longer `Retry-After` the call
#: fails.
SHORT_WAIT = timedelta(seconds=3)

#: Errors that show that the request never reached the service.
UNSENT_ERRORS = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.InvalidURL)
# httpcore tries to import sniffio for each request. If sniffio is not installed, this entry in
# `sys.modules` saves Python's search, which takes a quarter of the time of a call.
if find_spec("sniffio") is None:
    sys.modules["sniffio"] = None  # type: ignore[assignment]
_back_off = tenacity.wait_random_exponential(multiplier=0.2, max=2.0)


@dataclass(frozen=True)
class HttpResponse:
    """A response that was read completely."""

    status: int
    headers: httpx.Headers
    body: bytes

    def object(self) -> dict[str, Any] | None:
        """Return the body if it is a JSON object, otherwise None."""
        try:
            value = json.loads(self._text())
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def _text(self) -> str | bytes:
        """Return the body for a JSON parser.

        If the body is not UTF-8, which JSON requires, decode it by the declared charset.
        """
        try:
            self.body.decode()
        except UnicodeDecodeError:
            encoding = httpx.Response(200, headers=self.headers).charset_encoding
            with suppress(LookupError, UnicodeDecodeError):
                return self.body.decode(encoding or "latin-1")
        return self.body


class NoResponse(Exception):
    """The service sent no complete response.

    The message continues a sentence that begins with the service's name.
    """

    def __init__(self, reason: str, kind: Literal["unsent", "silent", "broken", "long"]) -> None:
        self.kind = kind
        super().__init__(reason)

    @property
    def unsent(self) -> bool:
        """True if the request certainly never reached the service."""
        return self.kind == "unsent"

    @classmethod
    def of(cls, error: Exception) -> Self:
        """Convert an error of httpx to the error class."""
        name = type(error).__name__
        if isinstance(error, UNSENT_ERRORS):
            return cls(f"could not be reached ({name})", "unsent")
        if isinstance(error, httpx.TimeoutException):
            return cls(f"stopped responding ({name})", "silent")
        return cls(f"ended its answer early ({name})", "broken")


def is_local(url: str) -> bool:
    """Return whether `url` points to this machine."""
    return urlsplit(url).hostname in LOCAL_HOSTS


def timeouts(response_seconds: float) -> httpx.Timeout:
    """Return timeouts of `response_seconds` without received data, and of up to 5 s to connect."""
    return httpx.Timeout(response_seconds, connect=min(CONNECT_SECONDS, response_seconds))


@cache
def trusted() -> ssl.SSLContext:
    """Return the TLS context of this process.

    The context is loaded once, because loading takes 25 ms.
    """
    return httpx.create_ssl_context()


def connect(
    *,
    timeout: httpx.Timeout | None = None,
    headers: Mapping[str, str] | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> httpx.AsyncClient:
    """Return a client of HTTP that shares its connections.

    The client stores no cookies and does not follow redirects.
    """
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
    max_bytes: int,
    within: float | None = None,
    **options: Any,
) -> HttpResponse:
    """Send one request and read the whole response, whatever the response's status."""
    if within is None:
        silence = httpx.Timeout(options.get("timeout", http.timeout)).read
        within = None if silence is None else silence * 2
    try:
        async with (
            asyncio.timeout(within),
            opened(http, method, url, max_silence=math.inf, **options) as response,
        ):
            return await response.read(max_bytes=max_bytes)
    except TimeoutError as error:
        raise NoResponse(f"took longer than {within:g} s to answer", "silent") from error


class StreamResponse:
    """A response that is read in chunks as they arrive.

    The time limit counts only waiting for chunks, and not the time in which the reader processes
    chunks. The headers and each call of `received` start the time limit again.
    """

    def __init__(self, response: httpx.Response, max_silence: float) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self._response = response
        self._max_silence = self._left = max_silence

    def received(self) -> None:
        """Start the time limit again, because the caller has recognized the last chunks."""
        self._left = self._max_silence

    async def chunks(self, *, max_bytes: int) -> AsyncGenerator[bytes]:
        """Yield the chunks of the response's body as they arrive.

        Raises:
            NoResponse: The service was silent, or its response was too long or ended too early.
        """
        loop, size = asyncio.get_running_loop(), 0
        stream = self._response.aiter_bytes()
        try:
            while True:
                started_at = loop.time()
                async with asyncio.timeout(self._left):
                    chunk = await anext(stream, None)
                self._left -= loop.time() - started_at
                if chunk is None:
                    return
                size += len(chunk)
                if size > max_bytes:
                    raise NoResponse(f"answered more than {max_bytes} bytes", "long")
                yield chunk
        except TimeoutError as error:
            raise NoResponse(f"was silent for {self._max_silence:g} s", "silent") from error
        except httpx.HTTPError as error:
            raise NoResponse.of(error) from error

    async def read(self, *, max_bytes: int) -> HttpResponse:
        """Read the whole response."""
        body = b"".join([chunk async for chunk in self.chunks(max_bytes=max_bytes)])
        return HttpResponse(self.status, self.headers, body)


@asynccontextmanager
async def opened(
    http: httpx.AsyncClient, method: str, url: str, *, max_silence: float, **options: Any
) -> AsyncIterator[StreamResponse]:
    """Send one request and yield its response, whatever its status. Close the response at the end.

    Args:
        max_silence: Maximum seconds until the headers arrive, and maximum seconds without data
            afterwards.

    Raises:
        NoResponse: The headers did not arrive within `max_silence`.
    """
    try:
        request = http.build_request(method, url, **options)
        async with asyncio.timeout(max_silence):
            response = await http.send(request, stream=True)
    except TimeoutError as error:
        raise NoResponse(f"was silent for {max_silence:g} s", "silent") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NoResponse.of(error) from error
    try:
        yield StreamResponse(response, max_silence)
    finally:
        await response.aclose()


def retrying(
    should_retry: Callable[[BaseException], bool],
    *,
    attempts: int = sys.maxsize,
    max_seconds: float = math.inf,
    sleep: Callable[[float], Awaitable[None]] | None = None,
) -> tenacity.AsyncRetrying:
    """Return a policy that retries while `should_retry` is true and no long wait is requested.

    Args:
        should_retry: Function that returns whether a call that failed with an error is retried.
        max_seconds: Maximum seconds for all attempts.
    """

    def is_retryable(error: BaseException) -> bool:
        wait = retry_after_of(error)
        return should_retry(error) and (wait is None or wait <= SHORT_WAIT)

    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(is_retryable),
        stop=tenacity.stop_after_attempt(attempts) | tenacity.stop_after_delay(max_seconds),
        wait=_wait,
        reraise=True,
        sleep=sleep or asyncio.sleep,
    )


def retry_after_of(error: BaseException | None) -> timedelta | None:
    """Return the wait that the service requested with its error, or None."""
    wait = getattr(error, "retry_after", None)
    return wait if isinstance(wait, timedelta) else None


def _wait(state: tenacity.RetryCallState) -> float:
    wait = retry_after_of(state.outcome.exception() if state.outcome else None)
    # add a random part, so that calls that were rejected together are not retried together
    return (wait.total_seconds() if wait else 0.0) + float(_back_off(state))
