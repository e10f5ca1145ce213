"""The offline model: the same for the same seed, out of the given words, and it says what it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from minutehand.ai.errors import AnswerUnusable
from minutehand.ai.language_model import (
    Completion,
    Material,
    Prompt,
    Usage,
    cost,
    count_tokens,
    make_language_model,
)
from minutehand.ai.offline import NAME, OfflineLanguageModel, keywords, sentences
from minutehand.apps.plans.models import Request
from minutehand.apps.plans.stages import (
    OUTLINE,
    REVIEW,
    RISKS,
    UNDERSTAND,
    phase_kind,
    write_prompt,
)
from minutehand.config import ConfigurationError, Settings

TEXT = (
    "The harbour museum moves into the customs house. Rain is likely. The customs house has a"
    " goods lift, and the museum keeps its figureheads."
)
REQUEST = Request(goal=TEXT, seed=3)


@pytest.mark.parametrize(
    "kind", [UNDERSTAND, OUTLINE, RISKS, REVIEW, phase_kind(1, "Pack")], ids=lambda k: k.name
)
async def test_each_stage_gets_its_shape(kind: object) -> None:
    """Twice the same; another seed may differ, and is of the same shape."""
    prompt = write_prompt(kind, REQUEST, {})  # type: ignore[arg-type]
    model = OfflineLanguageModel()
    pieces: list[str] = []

    first = await model.complete(prompt, on_text=pieces.append)
    again = await OfflineLanguageModel().complete(prompt)

    assert first == again
    assert "".join(pieces) == first.text
    assert (first.offline, first.model) == (True, NAME)
    kind.shape.model_validate(first.data())  # type: ignore[attr-defined]
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
        "import asyncio; from tests.unit.ai.test_offline import REQUEST;"
        "from minutehand.ai.offline import OfflineLanguageModel as M;"
        "from minutehand.apps.plans.stages import UNDERSTAND, write_prompt;"
        "print(asyncio.run(M().complete(write_prompt(UNDERSTAND, REQUEST, {}))).text)"
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
