"""What plans works with: its store and the language model. Made once per process.

Nothing is connected before it is needed, and no model is loaded before one is asked.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from minutehand.clock import Clock
from minutehand.config import Settings
from minutehand.queue.dependencies import Dependencies
from minutehand_apps.plans.store import WorkerStore

if TYPE_CHECKING:
    from minutehand.ai.language_model import LanguageModel


class Plans(Dependencies):
    """Dependencies of one process."""

    def __init__(
        self, settings: Settings, *, model: LanguageModel | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(settings, clock=clock)
        self._given_model = model

    @cached_property
    def store(self) -> WorkerStore:
        """The worker's SQL functions."""
        return WorkerStore(self.settings)

    @cached_property
    def model(self) -> LanguageModel | None:
        """Writes the narrated texts; None where no model is configured and templates do."""
        if self._given_model is None and self.settings.language_model_url is None:
            return None
        from minutehand.ai.engines import make_language_model

        return self._given_model or make_language_model(self.settings)
