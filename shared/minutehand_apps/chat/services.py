"""Dependencies of the app, with its settings and the language model. A process has one instance."""

from functools import cached_property

from minutehand.ai import LanguageModel, make_language_model
from minutehand.config import Settings, read_flag, read_seconds
from minutehand.queue import Dependencies

ASK_SECONDS = 300


class Chat(Dependencies):
    """The app's dependencies in one process.

    Attributes:
        works: ENABLE_ASYNC_WORK. True if requests may become background work.
        ask_seconds: CHAT_ASK_SECONDS. Seconds until the default answer to a question is used.
        pace_seconds: CHAT_PACE_SECONDS. Duration of each stage with sample replies, so that people
            can follow and cancel the work.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.works = read_flag(settings.environ, "ENABLE_ASYNC_WORK")
        self.ask_seconds = read_seconds(settings.environ, "CHAT_ASK_SECONDS", default=ASK_SECONDS)
        self.pace_seconds = read_seconds(settings.environ, "CHAT_PACE_SECONDS", default=0)

    @cached_property
    def model(self) -> LanguageModel:
        """The language model that decides and writes.

        Sample replies are used if the model is offline.
        """
        return make_language_model(self.settings)
