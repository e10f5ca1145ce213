"""What chat works with: its store, files, search and the language model. Made once per process.

Nothing is connected before it is needed, and no model is loaded without use.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from minutehand.apps.chat.settings import ChatSettings
from minutehand.apps.chat.store import CallerStore, SessionStore, WorkerStore
from minutehand.clock import Clock
from minutehand.config import Settings
from minutehand.queue.dependencies import Dependencies

if TYPE_CHECKING:
    from minutehand.ai.language_model import LanguageModel
    from minutehand.apps.chat.files import ChatFiles
    from minutehand.apps.chat.search import Search
    from minutehand.web.hub import EventHub


class Chat(Dependencies):
    """Dependencies of one process."""

    def __init__(
        self,
        settings: Settings,
        *,
        model: LanguageModel | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(settings, clock=clock)
        self._given_model = model
        self.own = ChatSettings.from_env(settings.environ)

    @property
    def by_rules(self) -> bool:
        """Whether requests are classified by rules alone, as no model is configured."""
        return self._given_model is None and self.settings.language_model_url is None

    @cached_property
    def store(self) -> WorkerStore:
        """What the worker may do."""
        return WorkerStore(self.settings)

    @cached_property
    def model(self) -> LanguageModel:
        """Writes replies and results."""
        from minutehand.ai.engines import make_language_model

        return self._given_model or make_language_model(self.settings)

    @cached_property
    def files(self) -> ChatFiles:
        """Pages that work has built."""
        from minutehand.apps.chat.files import ChatFiles

        return ChatFiles(self.settings)

    @cached_property
    def search(self) -> Search:
        """Where research finds its sources."""
        from minutehand.apps.chat.search import make_search

        return make_search(self.own.search_url)

    @cached_property
    def hub(self) -> EventHub:
        """Wakes the streams of sessions, by one read for all of them."""
        from minutehand.apps.chat.session_news import SessionNews
        from minutehand.web.hub import EventHub

        hub = EventHub()
        hub.feed_from(SessionNews(self.streaming_session(None), hub))
        return hub

    def acting_as(self, token: str | None, session_id: str | None = None) -> CallerStore:
        """What the bearer of `token`, or the holder of a guest session, may do."""
        return CallerStore(self._functions_of(token, p_session_id=session_id))

    def streaming_to(self, token: str | None, session_id: str | None = None) -> CallerStore:
        """The same for an event stream, which reads through connections of its own."""
        return CallerStore(self._stream_functions_of(token, p_session_id=session_id))

    def as_member(self, token: str) -> CallerStore:
        """What no guest session opens."""
        return CallerStore(self._functions_of(token))

    def in_session(self, token: str | None) -> SessionStore:
        """Sessions by the id their callers bring."""
        return SessionStore(self._functions_of(token))

    def streaming_session(self, token: str | None) -> SessionStore:
        """The same for an event stream."""
        return SessionStore(self._stream_functions_of(token))
