"""A language model writes a chapter's narrative; figures that were not computed are refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from minutehand.ai.asking import ask
from minutehand.ai.errors import AnswerUnusable
from minutehand.ai.language_model import Completion, LanguageModel, Material, Prompt
from minutehand.apps.plans.planning import blocks as b
from minutehand.apps.plans.planning.chapters import Chapter
from minutehand.apps.plans.planning.graph import Stage
from minutehand.worker.plain import clean_text

MOST_TOKENS: Final = 800
MOST_CHARACTERS: Final = 4_000
_NUMBER: Final = re.compile(r"\d[\d.,]*")
_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"text": {"type": "string", "minLength": 1, "maxLength": MOST_CHARACTERS}},
    "required": ["text"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Narrated:
    """A chapter with a model's text."""

    chapter: Chapter
    model: str


async def narrate(
    model: LanguageModel,
    prompt: str,
    stage: Stage,
    chapter: Chapter,
    on_text: Callable[[str], None],
    paid: Callable[[float], None],
) -> Narrated:
    """Have the narrative of `chapter` written; `paid` gets the US dollars of each answer.

    Raises:
        LanguageModelError: By type; AnswerUnusable also for a figure that was not computed.
    """
    material = [
        Material("The prompt", prompt),
        Material("The template's text", chapter.narrative, derived=True),
        Material("What was computed", b.to_markdown(chapter.blocks), derived=True),
    ]
    answer = await ask(
        model,
        Prompt(
            name=stage.name,
            instructions=(
                f"Write the opening paragraph of the chapter “{stage.title}” of a project plan, in"
                " plain English, for the person who wrote the prompt. Use only facts and figures"
                " of the material, digits unchanged; add no number of your own. Answer"
                ' with a JSON object {"text": "…"}.'
            ),
            material=material,
            schema=_SCHEMA,
            most_tokens=MOST_TOKENS,
        ),
        lambda completion: _read(completion, material),
        paid=paid,
        tries=1,  # the stage has tries of its own
        on_text=on_text,
    )
    narrative = clean_text(" ".join(answer.value.split()))
    return Narrated(replace(chapter, narrative=narrative), answer.completion.model)


def _read(completion: Completion, material: Sequence[Material]) -> str:
    answer = completion.data()
    text = answer.get("text") if isinstance(answer, dict) else None
    if not isinstance(text, str) or not text.strip() or len(text) > MOST_CHARACTERS:
        raise AnswerUnusable(
            f"The answer of {completion.model} has no usable text",
            text=completion.text,
            usage=completion.usage,
        )
    known = _numbers(" ".join(each.text for each in material))
    if strange := sorted(_numbers(text) - known):
        raise AnswerUnusable(
            f"The answer of {completion.model} holds figures that were not computed:"
            f" {', '.join(strange[:5])}",
            text=completion.text,
            usage=completion.usage,
        )
    return text


def _numbers(text: str) -> set[str]:
    return {found.rstrip(".,").replace(",", "") for found in _NUMBER.findall(text)}
