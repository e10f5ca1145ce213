"""What the environment says about recordings: limits, hosts, and the ffmpeg that reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from minutehand.aws.uploads import MAX_BYTES
from minutehand.config import read_count, read_list, read_text, read_url


class TrainingSettings(BaseModel):
    """What the environment says about videos."""

    model_config = ConfigDict(frozen=True)

    #: The video host's access token; unset: videos stay in the uploads bucket alone.
    mux_token_id: str | None = None
    mux_token_secret: str | None = Field(default=None, repr=False)
    mux_base_url: str = "https://api.mux.com"
    #: Signs the video host's webhooks; unset: none are taken.
    mux_webhook_secret: str | None = Field(default=None, repr=False)
    #: Most jobs of a type that a workspace has running at once; more of them wait.
    max_running: int = 3
    #: Media types that may be uploaded, as `video/*` or `audio/mpeg`.
    upload_types: tuple[str, ...] = ("video/*", "audio/*")
    #: Most bytes of an upload.
    upload_bytes: int = 5 * 1024**3
    #: Hosts that recordings are fetched from, as `media.example.com` or `*.example.com`.
    source_hosts: tuple[str, ...] = ()
    #: The ffmpeg that reads videos; unset: the one of the wheel imageio-ffmpeg.
    ffmpeg_path: str | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the variables that the app's README lists.

        Raises:
            ConfigurationError: One of them is malformed.
        """
        defaults = cls()
        return cls(
            mux_token_id=read_text(environ, "MUX_TOKEN_ID"),
            mux_token_secret=read_text(environ, "MUX_TOKEN_SECRET"),
            mux_base_url=read_url(environ, "MUX_BASE_URL") or defaults.mux_base_url,
            mux_webhook_secret=read_text(environ, "MUX_WEBHOOK_SECRET"),
            max_running=read_count(environ, "TRAINING_MAX_RUNNING", default=3, most=1000),
            upload_types=read_list(environ, "UPLOADS_TYPES") or defaults.upload_types,
            upload_bytes=read_count(
                environ, "UPLOADS_MAX_BYTES", default=defaults.upload_bytes, most=MAX_BYTES
            ),
            source_hosts=tuple(h.lower() for h in read_list(environ, "TRAINING_SOURCE_HOSTS")),
            ffmpeg_path=read_text(environ, "FFMPEG_PATH"),
        )

    def fetches_from(self, host: str) -> bool:
        """Whether recordings may be fetched from a host."""
        name = host.lower().rstrip(".")
        return any(
            name == allowed or (allowed.startswith("*.") and name.endswith(allowed[1:]))
            for allowed in self.source_hosts
        )
