"""Signs statements at the ends of their chains, by a key that only the workers can open.

Where a chain ends, and what may be stated, the database says; checking is `verify`'s.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from minutehand.aws.sealing import SealBroken, Sealer, make_sealer, row_context
from minutehand.clock import Clock, SystemClock
from minutehand.config import Settings
from minutehand.queue.errors import ProcessorError
from minutehand.queue.functions import WorkerFunctions
from minutehand.signing.canonical import digest_of
from minutehand.signing.keys import SigningKey
from minutehand.signing.models import Head, Issued, SealedKey, Unsigned

I = TypeVar("I", bound=Issued)  # noqa: E741 - what the store answers
#: Tries to place a receipt at the chain's end; each that fails means another's succeeded.
MOST_RACES = 100
#: Chains whose end one process remembers.
MOST_CHAINS = 1000


def instant(at: datetime) -> str:
    """Write an instant as receipts do: UTC, milliseconds, Z."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def chained(stated: dict[str, Any], head: Head, *, issued_at: datetime) -> dict[str, Any]:
    """Return the statement as the receipt after `head`."""
    return {
        **stated,
        "number": head.number + 1,
        "issued_at": instant(issued_at),
        "hashes": {**stated["hashes"], "previous": head.digest},
    }


def database_clock(told: datetime | None, clock: Clock) -> Callable[[], datetime]:
    """The database's clock, by what it just told: one clock for all instants of a receipt."""
    now = clock.now()
    ahead = (told or now) - now
    return lambda: clock.now() + ahead


@dataclass(slots=True)
class Chain:
    """A workspace's chain as this process last saw its end."""

    head: Head
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Signer:
    """Signs one kind of chains, with a key of their own that is made when first needed.

    One per process: its statements take turns at a chain, so that few receipts race.

    Args:
        chain: Whose receipts: `jobs`, or an app's name.
    """

    def __init__(
        self,
        settings: Settings,
        chain: str,
        *,
        sealer: Sealer | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._chain = chain
        self._given_sealer = sealer
        self.clock = clock or SystemClock()
        self._functions = WorkerFunctions(settings)
        self._opened: tuple[str, SigningKey] | None = None
        self._known: OrderedDict[str, Chain] = OrderedDict()

    async def issue_stated(
        self,
        told: Unsigned,
        hashes: Mapping[str, str | None],
        send: Callable[[dict[str, Any]], Awaitable[I]],
    ) -> I:
        """Sign what the database states, by its clock; see `issue`."""
        assert told.head is not None
        return await self.issue(
            {**told.stated, "hashes": hashes},
            key=told.key,
            head=told.head,
            now=database_clock(told.now, self.clock),
            send=send,
        )

    async def issue(
        self,
        stated: dict[str, Any],
        *,
        key: SealedKey | None,
        head: Head,
        now: Callable[[], datetime],
        send: Callable[[dict[str, Any]], Awaitable[I]],
    ) -> I:
        """Sign a statement and have `send` store it at the chain's end, wherever that is by then.

        Raises:
            ProcessorError: The key cannot be opened here, or the chain moved on every time.
        """
        try:
            signing = await self._open(key)
        except SealBroken as error:
            raise ProcessorError(
                "The signing key cannot be opened here; rotate it: `minutehand receipts "
                "rotate-key`, or `minutehand beacon rotate-key` for that app"
            ) from error
        software = f"minutehand/{self._settings.version}"
        stated = {**stated, "id": str(uuid.uuid4()), "software": software}
        async with self._held(stated["workspace_id"], head) as chain:
            for _ in range(MOST_RACES):
                receipt = signing.sign(chained(stated, chain.head, issued_at=now()))
                answer = await send(receipt)
                if answer.issued:
                    if answer.receipt is None or answer.receipt["id"] == receipt["id"]:
                        chain.head = Head(number=receipt["number"], digest=digest_of(receipt))
                    return answer
                if answer.head is None:
                    return answer  # there is nothing to sign any more
                chain.head = answer.head
        raise ProcessorError(f"The chain moved {MOST_RACES} times meanwhile; trying again")

    async def _open(self, sealed: SealedKey | None) -> SigningKey:
        """Open the key that signs; where there is none, make it."""
        sealer = self._given_sealer = self._given_sealer or make_sealer(self._settings)
        if sealed is None:
            key = SigningKey.generate()
            text = await sealer.seal(key.to_text(), context=row_context(signing_key=key.kid))
            made = {"kid": key.kid, "x": key.x, "sealed": text}
            arguments = {"p_chain": self._chain, "p_key": made}
            # another's, had it been first
            sealed = SealedKey.model_validate(
                await self._functions.call("add_signing_key", arguments)
            )
        if self._opened is None or self._opened[0] != sealed.sealed:
            context = row_context(signing_key=sealed.kid)
            opened = SigningKey.from_text(await sealer.open(sealed.sealed, context=context))
            self._opened = (sealed.sealed, opened)
        return self._opened[1]

    @asynccontextmanager
    async def _held(self, workspace_id: str, head: Head) -> AsyncIterator[Chain]:
        """The workspace's chain, for one statement at a time; `head` is what the caller read."""
        chain = self._known.setdefault(workspace_id, Chain(head))
        self._known.move_to_end(workspace_id)
        while len(self._known) > MOST_CHAINS:
            self._known.popitem(last=False)
        async with chain.turn:
            if head.number > chain.head.number:
                chain.head = head  # another process was here
            yield chain

    async def aclose(self) -> None:
        """Close the connections."""
        await self._functions.aclose()
