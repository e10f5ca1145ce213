"""The video host's access token, and the ffmpeg that reads videos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from minutehand.config import read_text, read_url


class TrainingSettings(BaseModel):
    """What the environment says about videos."""

    model_config = ConfigDict(frozen=True)

    #: The video host's access token; unset: videos stay in the uploads bucket alone.
    mux_token_id: str | None = None
    mux_token_secret: str | None = Field(default=None, repr=False)
    mux_base_url: str = "https://api.mux.com"
    #: The ffmpeg that reads videos; unset: the one of the wheel imageio-ffmpeg.
    ffmpeg_path: str | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read `MUX_TOKEN_ID`, `MUX_TOKEN_SECRET`, `MUX_BASE_URL` and `FFMPEG_PATH`.

        Raises:
            ConfigurationError: One of them is malformed.
        """
        defaults = cls()
        return cls(
            mux_token_id=read_text(environ, "MUX_TOKEN_ID"),
            mux_token_secret=read_text(environ, "MUX_TOKEN_SECRET"),
            mux_base_url=read_url(environ, "MUX_BASE_URL") or defaults.mux_base_url,
            ffmpeg_path=read_text(environ, "FFMPEG_PATH"),
        )
