"""What plans works with: its store and the language model, once per process."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from minutehand.queue.dependencies import Dependencies
from minutehand_apps.plans.store import WorkerStore

if TYPE_CHECKING:
    from minutehand.ai.language_model import LanguageModel


class Plans(Dependencies):
    """Dependencies of one process."""

    @cached_property
    def store(self) -> WorkerStore:
        """The worker's SQL functions."""
        return WorkerStore(self.settings)

    @cached_property
    def model(self) -> LanguageModel:
        """Writes the plans; samples stand in, where it is offline."""
        from minutehand.ai.engines import make_language_model

        return make_language_model(self.settings)
