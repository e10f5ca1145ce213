"""Dependencies of the app: its settings and the language model, once per process."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final

from minutehand.config import Settings, read_flag, read_seconds
from minutehand.queue import Dependencies

if TYPE_CHECKING:
    from minutehand.ai import LanguageModel

ASK_SECONDS: Final = 300


class Chat(Dependencies):
    """Dependencies of one process.

    Attributes:
        works: ENABLE_ASYNC_WORK, whether requests become background work.
        ask_seconds: CHAT_ASK_SECONDS, the wait for an answer before a question's default is used.
        pace_seconds: CHAT_PACE_SECONDS, the duration of each stage of a script, so that people
            can follow and cancel it.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.works = read_flag(settings.environ, "ENABLE_ASYNC_WORK")
        self.ask_seconds = read_seconds(settings.environ, "CHAT_ASK_SECONDS", default=ASK_SECONDS)
        self.pace_seconds = read_seconds(settings.environ, "CHAT_PACE_SECONDS", default=0)

    @cached_property
    def model(self) -> LanguageModel:
        """The model that decides and writes. The scripted answers replace an offline model."""
        from minutehand.ai import make_language_model

        return make_language_model(self.settings)
