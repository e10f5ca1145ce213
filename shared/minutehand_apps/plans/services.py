"""Dependencies of the app: its setting and the language model, once per process."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from minutehand.config import Settings, read_seconds
from minutehand.queue import Dependencies

if TYPE_CHECKING:
    from minutehand.ai import LanguageModel


class Plans(Dependencies):
    """Dependencies of one process.

    Attributes:
        pace_seconds: PLANS_PACE_SECONDS, the duration of each stage of a sample, so that people
            can follow and cancel it.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.pace_seconds = read_seconds(settings.environ, "PLANS_PACE_SECONDS", default=0)

    @cached_property
    def model(self) -> LanguageModel:
        """The model that writes the plans. The sample plan replaces an offline model."""
        from minutehand.ai import make_language_model

        return make_language_model(self.settings)
