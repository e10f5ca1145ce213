"""A conversation's events: those of its session, for as long as the conversation is there.

How a feed becomes a stream is minutehand.web's.
"""

from __future__ import annotations

from minutehand.apps.chat.models import Conversation
from minutehand.apps.chat.store import CallerStore
from minutehand.queue.client import UserQueue
from minutehand.queue.errors import QueueError
from minutehand.queue.models import FeedPage
from minutehand.web.feeds import BEGINNING, HistoryFeed
from minutehand.web.shared_reads import SharedReads
from minutehand.web.sse import Batch


class ConversationFeed(HistoryFeed):
    """The session's history; empty before its first job, at an end with its conversation."""

    def __init__(
        self,
        conversation: Conversation,
        store: CallerStore,
        queue: UserQueue,
        *,
        after: str | None,
        reads: SharedReads,
        circle: str,
    ) -> None:
        self._conversation = conversation
        self._store = store
        self._queue = queue
        topic = f"session:{conversation.session_id}"
        super().__init__(topic, self._read_session, after=after, reads=reads, circle=circle)

    async def check(self) -> Batch:
        """As for every feed; a guest session outlives its conversations; sharing changes it.

        Raises:
            QueueError: 404, the conversation is gone or no longer the reader's.
        """
        if await self._store.session_of(self._conversation.id) != self._conversation.session_id:
            return Batch(end="moved")
        return await super().check()

    async def _read_session(self, after: str | None) -> FeedPage:
        try:
            return await self._queue.session_feed(self._conversation.session_id, after)
        except QueueError as error:
            if error.word != "session_not_found":
                raise
            # a session has no row before its first job; or the conversation is deleted
            await self._store.session_of(self._conversation.id)
            return FeedPage(events=[], cursor=BEGINNING, more=False)
