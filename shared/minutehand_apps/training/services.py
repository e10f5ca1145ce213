"""Dependencies of the app: files, ffmpeg, speech to text, language model and video host.

A process has one instance, which creates each dependency at its first use.
"""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import TYPE_CHECKING

from minutehand.config import (
    ConfigurationError,
    Settings,
    read_count,
    read_list,
    read_text,
    read_url,
)
from minutehand.queue import Dependencies
from minutehand_apps.training.bucket import Bucket
from minutehand_apps.training.parts import MAX_BYTES

if TYPE_CHECKING:
    from minutehand.ai import LanguageModel, SpeechToText
    from minutehand_apps.training.media import Ffmpeg
    from minutehand_apps.training.mux import Mux


class Training(Dependencies):
    """The app's dependencies in one process.

    Attributes:
        max_running: TRAINING_MAX_RUNNING. Maximum number of running jobs per type and workspace.
        upload_types: UPLOADS_TYPES. Accepted media types, with wildcards.
        upload_bytes: UPLOADS_MAX_BYTES. Maximum bytes of a recording.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        environ = settings.environ
        self.max_running = read_count(environ, "TRAINING_MAX_RUNNING", default=3, most=1000)
        self.upload_types = read_list(environ, "UPLOADS_TYPES") or ("video/*", "audio/*")
        self.upload_bytes = read_count(
            environ, "UPLOADS_MAX_BYTES", default=5 * 1024**3, most=MAX_BYTES
        )
        self.bucket = Bucket(settings)

    @cached_property
    def speech(self) -> SpeechToText:
        """The speech engine that transcribes the videos."""
        from minutehand.ai import make_speech_to_text

        return make_speech_to_text(self.settings)

    @cached_property
    def model(self) -> LanguageModel:
        """The language model that writes procedures."""
        from minutehand.ai import make_language_model

        return make_language_model(self.settings)

    @cached_property
    def host(self) -> Mux | None:
        """The client of the video host, or None if no host is configured."""
        environ = self.settings.environ
        token_id, secret = (read_text(environ, f"MUX_TOKEN_{name}") for name in ("ID", "SECRET"))
        if token_id is None:
            return None
        if secret is None:
            raise ConfigurationError("MUX_TOKEN_SECRET", "is not set", "…")
        from minutehand_apps.training.mux import Mux

        base_url = read_url(environ, "MUX_BASE_URL") or "https://api.mux.com"
        return Mux(token_id, secret, base_url=base_url)

    async def ffmpeg(self) -> Ffmpeg:
        """Find ffmpeg. Raises ConfigurationError if the machine has no ffmpeg."""
        from minutehand_apps.training.media import Ffmpeg, find_ffmpeg

        # use a thread, because the package runs ffmpeg once to check it
        return Ffmpeg(await asyncio.to_thread(find_ffmpeg, self.settings.environ))
