"""Creates the language model and the speech engine that the settings describe."""

from minutehand.ai.errors import LanguageModelError
from minutehand.ai.language_model import CompletionStream, LanguageModel, Prompt
from minutehand.ai.speech import SpeechToText
from minutehand.config import Settings

#: Label of a sample that an app shows without a language model. Users see the label, so that the
#: label names no setting.
SAMPLE = "sample: no language model is connected"


class NoModel:
    """Placeholder for a language model if no model is configured.

    If the model is `offline`, an app shows a sample or skips the model's work.
    """

    name = "no language model"
    offline = True

    def stream(self, prompt: Prompt | str) -> CompletionStream:
        """Raise an error, because no model is configured."""
        text = "No language model is configured"
        raise LanguageModelError(text, code="none", hope="none")

    def cost_of(self, prompt: Prompt, text: str = "") -> float:
        """Return a cost of 0."""
        return 0.0

    async def aclose(self) -> None:
        """Do nothing."""


def make_language_model(settings: Settings) -> LanguageModel:
    """Return the configured language model. If LANGUAGE_MODEL_URL is unset, return `NoModel`."""
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
    """Return the configured speech engine. If SPEECH_URL is unset, return the offline engine."""
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
