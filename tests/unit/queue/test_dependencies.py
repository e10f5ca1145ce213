"""What an app works with is closed when it was made, and left alone when it was not."""

from __future__ import annotations

from functools import cached_property

from minutehand.clock import FrozenClock, SystemClock
from minutehand.config import Settings
from minutehand.queue.data_api import STREAM_CONNECTIONS
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
    def asked_for_too(self) -> Connection:
        """Another one."""
        return Connection()

    @cached_property
    def not_asked_for(self) -> Connection:
        """Given from outside."""
        return self._given

    @cached_property
    def not_configured(self) -> None:
        """Nothing, as a collaborator may be."""


async def test_callers_and_streams_have_connections_of_their_own_to_one_schema() -> None:
    """However many streams are open, a route gets a connection."""
    clock = FrozenClock()
    made = Dependencies(SETTINGS.model_copy(update={"schema_name": "jobs"}), clock=clock)
    person, guest, stream = made.acting_as("jwt"), made.acting_as(None), made.streaming_to("jwt")

    assert made.clock is clock
    assert isinstance(Dependencies(SETTINGS).clock, SystemClock)
    assert person._api is guest._api is made._api
    assert stream._api is made._stream_api is not made._api
    for caller in (person, stream):
        assert caller._headers["Authorization"] == "Bearer jwt"
    assert (person._signed, guest._signed is not None, stream._signed) == (None, True, None)
    assert made._stream_api._slots._value == STREAM_CONNECTIONS
    for api in (made._api, made._stream_api):
        assert api._http.headers["content-profile"] == "jobs"
    await made.aclose()


async def test_only_what_was_made_is_closed() -> None:
    """Closing makes nothing, and what was given stays its giver's until it was asked for."""
    app = App(given := Connection())
    asked_for, another, nothing = app.asked_for, app.asked_for_too, app.not_configured

    await app.aclose()

    assert (asked_for.is_closed, another.is_closed) == (True, True)
    assert (given.is_closed, nothing) == (False, None)
    assert "not_asked_for" not in vars(app)
