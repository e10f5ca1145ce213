"""Base class of an app's dependencies, and signed client addresses for calls by guests."""

import contextlib
import contextvars
import hashlib
import logging
from collections.abc import Iterator, Mapping
from functools import cached_property

from minutehand.clock import Clock
from minutehand.config import ConfigurationError, Settings
from minutehand.queue.data_api import DataApi
from minutehand.queue.errors import QueueError
from minutehand.queue.functions import WorkerFunctions
from minutehand.queue.responses import decode_object

logger = logging.getLogger(__name__)

HEADER = "X-Minutehand-Client"
#: Seconds for which a signing key is cached. The database creates a new signing key when worker
#: keys are revoked.
KEY_SECONDS = 300.0
#: Seconds after an error before the signing key is requested again.
RETRY_SECONDS = 10.0
_address: contextvars.ContextVar[str | None] = contextvars.ContextVar("client", default=None)


@contextlib.contextmanager
def calling_from(address: str | None) -> Iterator[None]:
    """Use `address` as the client's address in all calls of guests inside the block."""
    token = _address.set(address)
    try:
        yield
    finally:
        _address.reset(token)


class AddressSigner:
    """Signs the client address of the current request. One signer serves a whole event loop."""

    def __init__(self, settings: Settings, api: DataApi, clock: Clock) -> None:
        self._clock = clock
        self._key: bytes | None = None
        self._until = 0.0
        self._functions: WorkerFunctions | None = None
        with contextlib.suppress(ConfigurationError):
            self._functions = WorkerFunctions(settings, api=api, clock=clock)

    async def headers(self) -> Mapping[str, str]:
        """Return the header with the signed client address for a guest's call.

        Return no header without a current request or without a signing key.
        """
        address = _address.get()
        key = await self._current_key() if address is not None else None
        if key is None:
            return {}
        message = f"{address} {int(self._clock.now().timestamp())}"
        inner = hashlib.sha256(key + message.encode()).digest()
        return {HEADER: f"{message} {hashlib.sha256(key + inner).hexdigest()}"}

    async def _current_key(self) -> bytes | None:
        if self._functions is None or self._clock.monotonic() < self._until:
            return self._key
        try:
            body = await self._functions.call("guest_key", {}, parse=decode_object)
            self._key = bytes.fromhex(body["key"])
            self._until = self._clock.monotonic() + KEY_SECONDS
        except QueueError as error:
            self._until = self._clock.monotonic() + RETRY_SECONDS
            logger.warning(
                "guests' addresses are not signed",
                extra={"event": "guests.key_failed", "reason": type(error).__name__},
            )
        return self._key


class Dependencies:
    """Base class of an app's dependencies, each of which is a `cached_property` of a subclass."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def worker(self) -> WorkerFunctions:
        """Client of the SQL functions for processors.

        A call raises LeaseLost if the worker has lost the job's lease.
        """
        return WorkerFunctions(self.settings)

    async def aclose(self) -> None:
        """Close the dependencies that this object has created, but none that it was given."""
        for name, value in list(vars(self).items()):
            is_cached = isinstance(getattr(type(self), name, None), cached_property)
            if is_cached and hasattr(value, "aclose"):
                await value.aclose()
