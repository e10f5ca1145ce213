"""What chat works with: its store and the language model. Made once per process.

Nothing is connected before it is needed, and no model is loaded by who asks none.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from minutehand.apps.chat.store import CallerStore, WorkerStore
from minutehand.clock import Clock
from minutehand.config import Settings
from minutehand.queue.collaborators import Collaborators

if TYPE_CHECKING:
    from minutehand.ai.language_model import LanguageModel


class Chat(Collaborators):
    """Collaborators of one process."""

    def __init__(
        self,
        settings: Settings,
        *,
        model: LanguageModel | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(settings, clock=clock)
        self._given_model = model

    @cached_property
    def store(self) -> WorkerStore:
        """The worker's doors."""
        return WorkerStore(self.settings)

    @cached_property
    def model(self) -> LanguageModel:
        """Writes replies and results."""
        from minutehand.ai.language_model import make_language_model

        return self._given_model or make_language_model(self.settings)

    def acting_as(self, token: str | None, session_id: str | None = None) -> CallerStore:
        """The app's doors as the bearer of `token`, or the holder of a visit, may use them."""
        return CallerStore(self._doors_of(token, p_session_id=session_id))

    def as_member(self, token: str) -> CallerStore:
        """The doors that no visit opens."""
        return CallerStore(self._doors_of(token))
