"""Statements at the ends of their chains: by which key, after which receipt, and what is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from infra.bench.scratch import scratch_settings
from minutehand.aws.sealing import Sealer
from minutehand.queue.errors import ProcessorError
from minutehand.signing import signer as signing
from minutehand.signing.canonical import digest_of
from minutehand.signing.keys import SigningKey
from minutehand.signing.models import Head, Issued, SealedKey
from minutehand.signing.signer import Signer

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
NONE = Head(number=0, digest=None)
FIRST, SECOND = SigningKey.from_seed(b"1" * 32), SigningKey.from_seed(b"2" * 32)


class Unsealed(Sealer):
    """What the database keeps is the key itself."""

    def __init__(self) -> None:
        """Need no data key."""

    async def open(self, sealed: str, *, context: Mapping[str, str]) -> str:
        """Return it."""
        return sealed


class Store:
    """A chain as the database keeps it: it stores what follows its end, and nothing else."""

    def __init__(self) -> None:
        self.head = NONE
        self.sent: list[int] = []
        self.key_ids: list[str] = []

    async def send(self, receipt: dict[str, Any]) -> Issued:
        """Store a receipt, or say where the chain ends."""
        self.sent.append(receipt["number"])
        await asyncio.sleep(0)
        if (receipt["number"], receipt["hashes"]["previous"]) != (
            self.head.number + 1, self.head.digest,
        ):  # fmt: skip
            return Issued(issued=False, head=self.head)
        self.head = Head(number=receipt["number"], digest=digest_of(receipt))
        self.key_ids.append(receipt["key_id"])
        return Issued(issued=True, receipt=receipt)


async def issue(signer: Signer, send: Any, *, key: SigningKey = FIRST, head: Head = NONE) -> Issued:
    """Sign a statement after what its caller read as the end of the chain."""
    stated = {"workspace_id": "w", "hashes": {}}
    kept = SealedKey(kid=key.kid, x=key.x, sealed=key.to_text())
    issued: Issued = await signer.issue(stated, key=kept, head=head, now=lambda: AT, send=send)
    return issued


@pytest.fixture
def signer() -> Signer:
    return Signer(scratch_settings("http://127.0.0.1:9"), "jobs", sealer=Unsealed())


async def test_statements_of_a_process_follow_each_other_without_a_race(signer: Signer) -> None:
    """Each of its callers read the chain before the others were through."""
    store = Store()

    await asyncio.gather(*(issue(signer, store.send) for _ in range(4)))

    assert store.sent == [1, 2, 3, 4]


async def test_what_another_process_added_is_followed(signer: Signer) -> None:
    """As the caller read it, or as the refusal says."""
    store = Store()
    await issue(signer, store.send)
    store.head = Head(number=5, digest="sha256:" + "5" * 64)
    await issue(signer, store.send, head=store.head)
    store.head = Head(number=9, digest="sha256:" + "9" * 64)
    await issue(signer, store.send)

    assert store.sent == [1, 6, 7, 10]


async def test_a_receipt_of_another_attempt_is_not_the_end_of_the_chain(signer: Signer) -> None:
    """The job has one already: what was signed beside it is nowhere."""
    store = Store()

    async def stored_before(receipt: dict[str, Any]) -> Issued:
        return Issued(issued=True, receipt={**receipt, "id": "another"})

    answer = await issue(signer, stored_before)
    await issue(signer, store.send)

    assert answer.receipt is not None
    assert answer.receipt["id"] == "another"
    assert store.sent == [1]


async def test_a_key_that_replaced_another_signs_the_next(signer: Signer) -> None:
    """The one opened before may be retired, or stolen."""
    store = Store()
    for key in (FIRST, FIRST, SECOND):
        await issue(signer, store.send, key=key)

    assert store.key_ids == [FIRST.kid, FIRST.kid, SECOND.kid]


async def test_a_chain_that_moves_every_time_ends_the_attempt(
    signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is tried again; a worker's slot is not held for ever."""
    monkeypatch.setattr(signing, "MOST_RACES", 3)
    sent: list[int] = []

    async def moved(receipt: dict[str, Any]) -> Issued:
        sent.append(receipt["number"])
        return Issued(issued=False, head=Head(number=10 * len(sent), digest="sha256:" + "0" * 64))

    with pytest.raises(ProcessorError, match="3 times"):
        await issue(signer, moved)

    assert sent == [1, 11, 21]
