"""One read for many readers who ask the same question at the same moment.

Only for questions whose answer is the same for all of them; a refusal is never shared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from minutehand.queue.errors import QueueError, QueueUnavailable

T = TypeVar("T")

#: Answers are forgotten after this; anyone who asks later asks again.
KEPT_SECONDS: Final = 2.0


@dataclass(frozen=True)
class _Read:
    started_at: float
    task: asyncio.Task[Any]


class SharedReads:
    """Reads under way or just made, by their question."""

    def __init__(self) -> None:
        self._reads: dict[Hashable, _Read] = {}

    async def get(self, question: Hashable, read: Callable[[], Awaitable[T]], *, since: float) -> T:
        """The answer to `question`, by a read that started at `since` or later.

        Args:
            question: Equal for callers that may share the answer.
            read: Asks with the caller's own token.
            since: On the loop's clock; what happened before it is certainly in the answer.
        """
        loop = asyncio.get_running_loop()
        known = self._reads.get(question)
        if known is not None and known.started_at >= since:
            try:
                answer: T = await asyncio.shield(known.task)
            except QueueUnavailable:
                raise  # asking once more for each reader would not help it back on its feet
            except QueueError:
                return await read()  # it may have been another's token: ask oneself
            return answer
        made = _Read(loop.time(), asyncio.ensure_future(_run(read)))
        self._reads[question] = made
        loop.call_later(KEPT_SECONDS, self._forget, question, made)
        # its first reader may leave while others still wait for it
        made.task.add_done_callback(_retrieve)
        own: T = await asyncio.shield(made.task)
        return own

    def _forget(self, question: Hashable, read: _Read) -> None:
        if self._reads.get(question) is read:
            del self._reads[question]


async def _run(read: Callable[[], Awaitable[T]]) -> T:
    return await read()


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
