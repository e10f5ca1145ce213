"""Asks a provider endpoint again and again, and notes how long each answer took.

Whatever the endpoint does is a sample with an outcome; only a forbidden address is an error.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from minutehand.apps.beacon.statistics import Sample
from minutehand.queue.lean_httpx import httpx
from minutehand.retry_after import retry_after
from minutehand.worker.outbound import PublicTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: More of an answer is not read; the sample says so.
MAX_BODY_BYTES = 1024 * 1024


@dataclass(slots=True)
class Batch:
    """Samples taken in one go, and how long the endpoint asked to be left alone after them."""

    samples: list[Sample] = field(default_factory=list)
    wait_seconds: float = 0.0


class Sampler:
    """One region's requests over one client; made by `open_sampler`."""

    def __init__(
        self, client: httpx.AsyncClient, spec: Mapping[str, Any], *, began: datetime
    ) -> None:
        self._client = client
        self._target = spec["target"]
        self._timeout = spec["timeout_ms"] / 1000
        self._concurrency = spec["concurrency"]
        self._began = began
        self._next_turn = 0.0
        #: Most requests per second, warm-ups included; may change between batches.
        self.per_second = 1.0

    async def warm_up(self, count: int) -> None:
        """Ask `count` times without noting it."""
        for _ in range(count):
            await self._turn()
            await self._ask(Batch(), 0)

    async def take(
        self,
        count: int,
        *,
        patient: bool = True,
        noted: Callable[[int], None] = lambda _: None,
    ) -> Batch:
        """Take up to `count` samples, `concurrency` at once, no more than `per_second` begun.

        Args:
            patient: Whether to stop when the endpoint answers 429 with `Retry-After`: those under
                way are finished, and no more are begun.
            noted: Called with the number of samples after each.

        Raises:
            AddressRefused: The endpoint leads to an address that is not public.
        """
        batch = Batch()
        offset_ms = round((datetime.now(UTC) - self._began).total_seconds() * 1000)
        zero = perf_counter_ns()
        turns = iter(range(count))

        async def work(turns: Iterator[int]) -> None:
            for _ in turns:
                await self._turn()
                if patient and batch.wait_seconds > 0:
                    return
                await self._ask(batch, offset_ms + (perf_counter_ns() - zero) // 1_000_000)
                noted(len(batch.samples))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._concurrency, count)):
                    group.create_task(work(turns))
        except BaseExceptionGroup as error:
            raise error.exceptions[0] from None
        return batch

    async def _turn(self) -> None:
        """Wait until the pace lets the next request begin."""
        now = asyncio.get_running_loop().time()
        at = max(now, self._next_turn)
        self._next_turn = at + 1 / self.per_second
        if at > now:
            await asyncio.sleep(at - now)

    async def _ask(self, batch: Batch, started_ms: int) -> None:
        begun = perf_counter_ns()
        try:
            async with asyncio.timeout(self._timeout):
                outcome = await self._outcome(batch)
        except (TimeoutError, httpx.TimeoutException):
            outcome = "timeout"
        except httpx.ConnectError as error:
            outcome = "tls" if _is_tls(error) else "connect"
        except httpx.TransportError:
            outcome = "broken"
        except (httpx.DecodingError, httpx.InvalidURL, UnicodeError):  # the last: xn-- names
            outcome = "broken"
        latency = (perf_counter_ns() - begun) // 1000
        batch.samples.append(Sample(max(0, started_ms), latency, outcome))

    async def _outcome(self, batch: Batch) -> str:
        target = self._target
        async with self._client.stream(
            target["method"], target["url"], headers=target["headers"], content=target["body"]
        ) as response:
            if response.status_code >= 600:
                return "broken"  # no status of HTTP; each would be an outcome of its own
            size = 0
            async for chunk in response.aiter_raw():
                size += len(chunk)
                if size > MAX_BODY_BYTES:
                    return f"too_large:{response.status_code}"
            if response.status_code == 429:
                wait = retry_after(response.headers.get("retry-after"), now=datetime.now(UTC))
                if wait is not None:
                    batch.wait_seconds = max(batch.wait_seconds, wait.total_seconds())
            return f"{_word(response.status_code)}:{response.status_code}"


@asynccontextmanager
async def open_sampler(
    spec: Mapping[str, Any],
    *,
    began: datetime,
    loopback: bool,
    verify: ssl.SSLContext | None = None,
) -> AsyncIterator[Sampler]:
    """A sampler with connections of its own, closed at the end.

    Args:
        began: Samples' `started_ms` count from here.
        loopback: Whether this machine may be measured; for development.
    """
    transport = PublicTransport(
        loopback=loopback, verify=verify, keep=spec["connection"] == "reuse"
    )
    async with httpx.AsyncClient(
        transport=transport,
        timeout=spec["timeout_ms"] / 1000,
        follow_redirects=False,
        trust_env=False,  # a proxy would be measured instead
        headers={"user-agent": "Minutehand-Beacon", "accept-encoding": "identity"},
    ) as client:
        yield Sampler(client, spec, began=began)


def _word(status: int) -> str:
    if status == 429:
        return "rate_limited"
    if 200 <= status < 300:
        return "ok"
    if status < 400:
        return "redirect"
    return "client_error" if status < 500 else "server_error"


def _is_tls(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
