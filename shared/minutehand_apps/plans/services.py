"""Dependencies of the app, with its setting and the language model. A process has one instance."""

from functools import cached_property

from minutehand.ai import LanguageModel, make_language_model
from minutehand.config import Settings, read_seconds
from minutehand.queue import Dependencies


class Plans(Dependencies):
    """The app's dependencies in one process.

    Attributes:
        pace_seconds: PLANS_PACE_SECONDS. Duration of each stage of the sample plan, so that people
            can follow and cancel the plan.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.pace_seconds = read_seconds(settings.environ, "PLANS_PACE_SECONDS", default=0)

    @cached_property
    def model(self) -> LanguageModel:
        """The language model that writes plans. Without a model, the sample plan is used."""
        return make_language_model(self.settings)
