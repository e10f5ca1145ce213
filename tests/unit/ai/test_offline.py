"""The offline model: the same for the same seed, out of the given words, and it says what it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field

from minutehand.ai.engines import make_language_model
from minutehand.ai.errors import AnswerUnusable
from minutehand.ai.language_model import (
    Completion,
    Material,
    Prompt,
    Usage,
    cost,
    count_tokens,
    hinted,
)
from minutehand.ai.offline import NAME, OfflineLanguageModel, keywords, sentences
from minutehand.config import ConfigurationError, Settings

TEXT = (
    "The harbour museum moves into the customs house. Rain is likely. The customs house has a"
    " goods lift, and the museum keeps its figureheads."
)


class Exact(BaseModel):
    """A shape that takes nothing it does not know."""

    model_config = ConfigDict(extra="forbid")


class Summary(Exact):
    """What the offline model extracts."""

    text: Annotated[str, Field(min_length=1, max_length=2000)] = Field(
        json_schema_extra=hinted(extract=2)
    )


class Step(Exact):
    """What it fills templates of."""

    title: str = Field(
        min_length=1, json_schema_extra=hinted(template=["Prepare {word}", "Try {word}, {other}"])
    )


class Outline(Exact):
    """Lists of objects, with bounds."""

    steps: list[Step] = Field(min_length=1, max_length=9, json_schema_extra=hinted(items=4))


class Detail(Exact):
    """Lists of texts, and numbers."""

    gaps: list[
        Annotated[
            str, Field(min_length=1, json_schema_extra=hinted(template=["Who answers for {word}?"]))
        ]
    ] = Field(max_length=8, json_schema_extra=hinted(items=1))
    days: Annotated[int, Field(ge=1, le=365)] = Field(json_schema_extra=hinted(most=8))


def prompt_for(shape: type[Exact]) -> Prompt:
    """Ask for that shape about the text."""
    name, schema = shape.__name__.lower(), shape.model_json_schema()
    return Prompt(name, "Plan it.", [Material("Goal", TEXT)], schema=schema, seed=3)


@pytest.mark.parametrize("shape", [Summary, Outline, Detail], ids=lambda shape: shape.__name__)
async def test_each_shape_is_filled(shape: type[Exact]) -> None:
    """Twice the same; another seed may differ, and is of the same shape."""
    prompt = prompt_for(shape)
    model = OfflineLanguageModel()
    pieces: list[str] = []

    first = await model.complete(prompt, on_text=pieces.append)
    again = await OfflineLanguageModel().complete(prompt)

    assert first == again
    assert "".join(pieces) == first.text
    assert (first.offline, first.model) == (True, NAME)
    shape.model_validate(first.data())
    assert first.usage.estimated


async def test_plain_text_says_that_it_is_the_offline_one() -> None:
    """And is an extract of what was given."""
    done = await OfflineLanguageModel().complete(Prompt("sum", "", [Material("t", TEXT)]))

    assert done.text.startswith(f"[{NAME}] ")
    assert "customs house" in done.text


def test_what_matters_is_found_by_its_words() -> None:
    """The sentences that say most, in their own order."""
    assert {"customs", "house", "museum"} <= set(keywords([TEXT]))
    assert "Rain is likely." not in sentences([TEXT], 2)
    assert sentences([""], 2) == []


def test_it_does_not_depend_on_the_process(repository: Path) -> None:
    """Python's hashes differ between processes; the plan must not."""
    script = (
        "import asyncio; from tests.unit.ai.test_offline import Outline, prompt_for;"
        "from minutehand.ai.offline import OfflineLanguageModel as M;"
        "print(asyncio.run(M().complete(prompt_for(Outline))).text)"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=repository,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


def test_settings_choose_the_model() -> None:
    """Unset, the offline one; an address without a name is a mistake, told by its name."""
    settings = Settings(supabase_url="http://x", supabase_publishable_key="k")
    online = settings.model_copy(
        update={"language_model_url": "http://x/v1", "language_model_key": "sk-secret"}
    )

    assert make_language_model(settings).offline
    with pytest.raises(ConfigurationError, match="LANGUAGE_MODEL is not set"):
        make_language_model(online)
    named = online.model_copy(update={"language_model": "m"})
    assert make_language_model(named).name == "m"
    assert "sk-secret" not in repr(named)


@pytest.mark.parametrize("prices", ["1", "a,b", "-1,2", "1,2,3", "nan,1"])
def test_prices_are_a_pair(prices: str) -> None:
    """Anything else is told at the start."""
    environ = {"SUPABASE_URL": "http://x", "SUPABASE_PUBLISHABLE_KEY": "k"}
    with pytest.raises(ConfigurationError, match="LANGUAGE_MODEL_PRICES"):
        Settings.from_env({**environ, "LANGUAGE_MODEL_PRICES": prices})
    read = Settings.from_env({**environ, "LANGUAGE_MODEL_PRICES": "0.15, 0.6"})
    assert read.language_model_prices == (0.15, 0.6)


def test_small_arithmetic() -> None:
    """Tokens and costs; answers that are no JSON."""
    assert count_tokens("abcde") == 2
    assert cost((1.0, 2.0), 1_000_000, 500_000) == 2.0
    assert cost(None, 1, 1) is None
    assert Completion('```json\n{"a": 1}\n```', "m").data() == {"a": 1}
    with pytest.raises(AnswerUnusable, match="cut off"):
        Completion('{"a', "m", Usage(), whole=False).data()
