"""Select the language model and the speech engine by the settings."""

from __future__ import annotations

from typing import Final

from minutehand.ai.errors import LanguageModelError
from minutehand.ai.language_model import Completion, CompletionStream, LanguageModel, Prompt
from minutehand.ai.speech import SpeechToText
from minutehand.config import Settings

#: Label of a sample answer from an app's script. Users see the label, so it names no setting.
SAMPLE: Final = "sample: no language model is connected"


class NoModel:
    """Placeholder if no model is configured. Apps check `offline`, and use a script instead."""

    name: Final = "no language model"
    offline: Final = True
    most_tokens: Final = 0

    async def complete(self, prompt: Prompt) -> Completion:
        """Raise, because no model is configured."""
        raise _none()

    def stream(self, prompt: Prompt | str) -> CompletionStream:
        """Raise, because no model is configured."""
        raise _none()

    def cost_of(self, prompt: Prompt, text: str = "") -> float:
        """Return 0."""
        return 0.0

    async def aclose(self) -> None:
        """Do nothing."""


def _none() -> LanguageModelError:
    return LanguageModelError("No language model is configured", code="none", hope="none")


def make_language_model(settings: Settings) -> LanguageModel:
    """Return the configured model, or an `offline` one if LANGUAGE_MODEL_URL is unset."""
    if settings.language_model_url is None:
        return NoModel()
    settings.require("LANGUAGE_MODEL")
    from minutehand.ai.openai_compatible import OpenAICompatible

    return OpenAICompatible(
        settings.language_model_url,
        model=settings.language_model or "",
        key=settings.language_model_key,
        prices=settings.language_model_prices,
        most_tokens=settings.language_model_most_tokens,
        response_seconds=settings.language_model_silence_seconds,
    )


def make_speech_to_text(settings: Settings) -> SpeechToText:
    """Return the configured engine, or the offline one if SPEECH_URL is unset."""
    if settings.speech_url is None:
        from minutehand.ai.speech_offline import OfflineSpeechToText

        return OfflineSpeechToText()
    settings.require("SPEECH_MODEL")
    from minutehand.ai.speech_endpoint import TranscriptionEndpoint

    return TranscriptionEndpoint(
        settings.speech_url,
        model=settings.speech_model or "",
        key=settings.speech_key,
        response_seconds=settings.speech_silence_seconds,
    )
