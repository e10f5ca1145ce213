"""Which language model and which speech engine a deployment uses, by its settings."""

from __future__ import annotations

from minutehand.ai.language_model import LanguageModel
from minutehand.ai.speech import SpeechToText
from minutehand.config import Settings


def make_language_model(settings: Settings) -> LanguageModel:
    """The configured model; the offline one where LANGUAGE_MODEL_URL is unset.

    Raises:
        ConfigurationError: There is an address, but no LANGUAGE_MODEL.
    """
    if settings.language_model_url is None:
        from minutehand.ai.offline import OfflineLanguageModel

        return OfflineLanguageModel()
    settings.require("LANGUAGE_MODEL")
    from minutehand.ai.openai_compatible import OpenAICompatible

    return OpenAICompatible(
        settings.language_model_url,
        model=settings.language_model or "",
        key=settings.language_model_key,
        prices=settings.language_model_prices,
    )


def make_speech_to_text(settings: Settings) -> SpeechToText:
    """The configured engine; the offline one where SPEECH_URL is unset.

    Raises:
        ConfigurationError: There is an address, but no SPEECH_MODEL.
    """
    if settings.speech_url is None:
        from minutehand.ai.speech_offline import OfflineSpeechToText

        return OfflineSpeechToText()
    settings.require("SPEECH_MODEL")
    from minutehand.ai.speech_endpoint import TranscriptionEndpoint

    return TranscriptionEndpoint(
        settings.speech_url, model=settings.speech_model or "", key=settings.speech_key
    )
