"""Settings for recordings: limits, the video host, and ffmpeg."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field

from minutehand.config import read_count, read_list, read_text, read_url
from minutehand_apps.training.parts import MAX_BYTES

#: Maximum playing time of a recording.
MAX_SECONDS: Final = 4 * 3600.0


class TrainingSettings(BaseModel):
    """Settings for videos, from environment variables."""

    model_config = ConfigDict(frozen=True)

    #: The video host's access token. If unset, videos stay in the uploads bucket.
    mux_token_id: str | None = None
    mux_token_secret: str | None = Field(default=None, repr=False)
    mux_base_url: str = "https://api.mux.com"
    #: Maximum number of running jobs per type and workspace. More jobs wait.
    max_running: int = 3
    upload_types: tuple[str, ...] = ("video/*", "audio/*")
    upload_bytes: int = 5 * 1024**3
    #: Path of ffmpeg. If unset, ffmpeg of the package imageio-ffmpeg.
    ffmpeg_path: str | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the variables that the app's README lists."""
        defaults = cls()
        return cls(
            mux_token_id=read_text(environ, "MUX_TOKEN_ID"),
            mux_token_secret=read_text(environ, "MUX_TOKEN_SECRET"),
            mux_base_url=read_url(environ, "MUX_BASE_URL") or defaults.mux_base_url,
            max_running=read_count(environ, "TRAINING_MAX_RUNNING", default=3, most=1000),
            upload_types=read_list(environ, "UPLOADS_TYPES") or defaults.upload_types,
            upload_bytes=read_count(
                environ, "UPLOADS_MAX_BYTES", default=defaults.upload_bytes, most=MAX_BYTES
            ),
            ffmpeg_path=read_text(environ, "FFMPEG_PATH"),
        )
