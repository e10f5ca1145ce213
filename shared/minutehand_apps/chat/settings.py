"""What the environment says about the chat alone: background work, pace, search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Self

from pydantic import BaseModel, ConfigDict

from minutehand.config import ConfigurationError, read_flag, read_text, read_url

ASK_SECONDS: Final = 300


class ChatSettings(BaseModel):
    """The chat's own variables."""

    model_config = ConfigDict(frozen=True)

    #: Whether requests become background work; off, every one is answered directly.
    async_work: bool = False
    #: How long each step of work without a language model is shown, in seconds, so that people
    #: can follow, guide and cancel it; such work is done in an instant.
    pace_seconds: float = 0.0
    #: How long a question of a session's work waits before its default is taken.
    ask_seconds: int = ASK_SECONDS
    #: Where a MediaWiki answers searches; unset: research has the bundled corpus alone.
    search_url: str | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read `ENABLE_ASYNC_WORK`, `CHAT_PACE_SECONDS`, `CHAT_ASK_SECONDS`, `CHAT_SEARCH_URL`.

        Raises:
            ConfigurationError: One of them is malformed.
        """
        return cls(
            async_work=read_flag(environ, "ENABLE_ASYNC_WORK"),
            pace_seconds=_number(environ, "CHAT_PACE_SECONDS", default=0.0, most=60.0),
            ask_seconds=int(
                _number(environ, "CHAT_ASK_SECONDS", default=ASK_SECONDS, most=604_800)
            ),
            search_url=read_url(environ, "CHAT_SEARCH_URL"),
        )


def _number(environ: Mapping[str, str], name: str, *, default: float, most: float) -> float:
    text = read_text(environ, name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise ConfigurationError(name, f"must be a number from 0 to {most:g}", f"{default:g}")
    return value
