"""What chat works with: its store, search and the language model. Made once per process.

Nothing is connected before it is needed, and no model is loaded without use.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from minutehand.clock import Clock
from minutehand.config import Settings
from minutehand.queue.dependencies import Dependencies
from minutehand_apps.chat.settings import ChatSettings
from minutehand_apps.chat.store import WorkerStore

if TYPE_CHECKING:
    from minutehand.ai.language_model import LanguageModel
    from minutehand_apps.chat.search import MediaWikiSearch


class Chat(Dependencies):
    """Dependencies of one process."""

    def __init__(
        self, settings: Settings, *, model: LanguageModel | None = None, clock: Clock | None = None
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
    def search(self) -> MediaWikiSearch:
        """Where research finds sources, where CHAT_SEARCH_URL is set."""
        from minutehand_apps.chat.search import MediaWikiSearch

        assert self.own.search_url is not None
        return MediaWikiSearch(self.own.search_url)
