"""A language model writes a chapter's narrative; figures that were not computed are refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from minutehand.ai.errors import AnswerUnusable
from minutehand.ai.in_job import InJob, ask, read_shape
from minutehand.ai.language_model import Completion, LanguageModel, Material, Prompt
from minutehand.worker.plain import clean_text
from minutehand_apps.plans.planning import blocks as b
from minutehand_apps.plans.planning.chapters import Chapter
from minutehand_apps.plans.planning.graph import Stage

MOST_TOKENS: Final = 800
MOST_CHARACTERS: Final = 4_000
_NUMBER: Final = re.compile(r"\d[\d.,]*")


class _Narrative(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    text: Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS)]


async def narrate(
    ctx: InJob,
    model: LanguageModel,
    prompt: str,
    stage: Stage,
    chapter: Chapter,
    on_text: Callable[[str], None],
) -> tuple[Chapter, str]:
    """The chapter with a model's narrative, and the model's name.

    Raises:
        LanguageModelError: By type; AnswerUnusable also for a figure that was not computed.
    """
    material = [
        Material("The prompt", prompt),
        Material("The template's text", chapter.narrative, derived=True),
        Material("What was computed", b.to_markdown(chapter.blocks), derived=True),
    ]
    answer = await ask(
        ctx,
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
            schema=_Narrative.model_json_schema(),
            most_tokens=MOST_TOKENS,
        ),
        lambda completion: _read(completion, material),
        tries=1,  # the stage has tries of its own
        on_text=on_text,
    )
    narrative = clean_text(" ".join(answer.value.split()))
    return replace(chapter, narrative=narrative), answer.completion.model


def _read(completion: Completion, material: Sequence[Material]) -> str:
    text = read_shape(completion, _Narrative).text
    known = _numbers(" ".join(each.text for each in material))
    if strange := ", ".join(sorted(_numbers(text) - known)[:5]):
        reason = f"The answer of {completion.model} holds figures that were not computed: {strange}"
        raise AnswerUnusable(reason, text=completion.text, usage=completion.usage)
    return text


def _numbers(text: str) -> set[str]:
    return {found.rstrip(".,").replace(",", "") for found in _NUMBER.findall(text)}
