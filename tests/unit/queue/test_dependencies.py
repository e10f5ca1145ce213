"""What an app works with is closed when it was made, and left alone when it was not."""

from __future__ import annotations

from functools import cached_property

from minutehand.config import Settings
from minutehand.queue.dependencies import Dependencies

SETTINGS = Settings.from_env(
    {"SUPABASE_URL": "https://project.example", "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x"}
)


class Connection:
    """Something to close."""

    def __init__(self) -> None:
        self.is_closed = False

    async def aclose(self) -> None:
        """Close it."""
        self.is_closed = True


class App(Dependencies):
    """An app that is given one connection and makes others when they are asked for."""

    def __init__(self, given: Connection) -> None:
        super().__init__(SETTINGS)
        self._given = given

    @cached_property
    def asked_for(self) -> Connection:
        """Made anew."""
        return Connection()

    @cached_property
    def not_asked_for(self) -> Connection:
        """Given from outside."""
        return self._given

    @cached_property
    def not_configured(self) -> None:
        """Nothing, as a collaborator may be."""


async def test_only_what_was_made_is_closed() -> None:
    """Closing makes nothing, and what was given stays its giver's until it was asked for."""
    app = App(given := Connection())
    asked_for, nothing = app.asked_for, app.not_configured

    await app.aclose()

    assert (asked_for.is_closed, given.is_closed, nothing) == (True, False, None)
    assert "not_asked_for" not in vars(app)
