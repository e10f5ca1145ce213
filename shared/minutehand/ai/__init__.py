"""Clients of language models and of speech engines, with a small protocol for each kind of service.

Python imports a client when its name is first used, so that a process without a model imports none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from minutehand.exports import lazy_exports

if TYPE_CHECKING:
    from minutehand.ai.engines import (
        SAMPLE as SAMPLE,
        make_language_model as make_language_model,
        make_speech_to_text as make_speech_to_text,
    )
    from minutehand.ai.in_job import ask_for as ask_for
    from minutehand.ai.language_model import (
        LanguageModel as LanguageModel,
        Material as Material,
        Prompt as Prompt,
    )
    from minutehand.ai.partial_json import TextSink as TextSink
    from minutehand.ai.speech import (
        BYTES_PER_SECOND as BYTES_PER_SECOND,
        SAMPLES_PER_SECOND as SAMPLES_PER_SECOND,
        SpeechToText as SpeechToText,
    )
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "engines": "SAMPLE make_language_model make_speech_to_text",
            "partial_json": "TextSink",
            "in_job": "ask_for",
            "language_model": "LanguageModel Material Prompt",
            "speech": "BYTES_PER_SECOND SAMPLES_PER_SECOND SpeechToText",
        },
    )
