"""Dependencies of the app: files, ffmpeg, speech to text, language model and video host.

Created once per process. Each is connected or loaded on first use.
"""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import TYPE_CHECKING

from minutehand.clock import Clock
from minutehand.config import ConfigurationError, Settings
from minutehand.queue import Dependencies
from minutehand_apps.training.files import TrainingFiles
from minutehand_apps.training.multipart import Uploads
from minutehand_apps.training.settings import TrainingSettings

if TYPE_CHECKING:
    from minutehand.ai import LanguageModel, SpeechToText
    from minutehand_apps.training.media import Ffmpeg
    from minutehand_apps.training.mux import Mux


class Training(Dependencies):
    """Dependencies of one process."""

    def __init__(
        self,
        settings: Settings,
        *,
        speech: SpeechToText | None = None,
        model: LanguageModel | None = None,
        host: Mux | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(settings, clock=clock)
        self.files = TrainingFiles(settings)
        self.uploads = Uploads(settings)
        self._given = (speech, model, host)

    @cached_property
    def speech(self) -> SpeechToText:
        """The service that transcribes the videos."""
        from minutehand.ai import make_speech_to_text

        return self._given[0] or make_speech_to_text(self.settings)

    @cached_property
    def model(self) -> LanguageModel:
        """The model that writes the procedures."""
        from minutehand.ai import make_language_model

        return self._given[1] or make_language_model(self.settings)

    @cached_property
    def videos(self) -> TrainingSettings:
        """The settings for videos."""
        return TrainingSettings.from_env(self.settings.environ)

    @cached_property
    def host(self) -> Mux | None:
        """The video host, or None if no host is configured."""
        if self._given[2] is not None or self.videos.mux_token_id is None:
            return self._given[2]
        if self.videos.mux_token_secret is None:
            raise ConfigurationError("MUX_TOKEN_SECRET", "is not set", "…")
        from minutehand_apps.training.mux import Mux

        return Mux(
            self.videos.mux_token_id,
            self.videos.mux_token_secret,
            base_url=self.videos.mux_base_url,
        )

    async def ffmpeg(self) -> Ffmpeg:
        """Find ffmpeg. Raises ConfigurationError if there is none."""
        from minutehand_apps.training.media import Ffmpeg, find_ffmpeg

        # In a thread, because the wheel runs ffmpeg once to check it.
        return Ffmpeg(await asyncio.to_thread(find_ffmpeg, self.videos))
