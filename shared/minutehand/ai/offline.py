"""The offline language model: no model at all, but extraction and templates over the given words.

Honest work with no network: it invents nothing, repeats what matters, and says that it is offline.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from minutehand.ai.language_model import HINT, Completion, OnText, Prompt, Usage, count_tokens

NAME: Final = "offline (extraction and templates, no language model)"
_WORD: Final = re.compile(r"[^\W\d_][\w'\u2019-]{2,}")
_SENTENCE: Final = re.compile(r"(?<=[.!?…])\s+|\n+")
_CLAUSE: Final = re.compile(r"[^\w\s'\u2019-]+")
#: Words that say nothing about a text's subject.
_EMPTY_WORDS: Final = """
the and for with that this from have has had are was were will would can could should must may our
your their his her its they them you who what when where why how which into onto than then there
here not but all any each every more most some such only also very just over under about after
before because while until between during without within one two three four five first new make
makes made get gets got want wants need needs take takes let lets use uses using goal everything
something nothing anything been being does did done
"""
_EMPTY: Final = frozenset(_EMPTY_WORDS.split())


class OfflineLanguageModel:
    """Fills the schema it is given by the schema's own `x-offline` hints.

    A hint is `{"extract": n}` (the n sentences that say most), `{"template": [...]}` with `{word}`
    and `{other}` taken from the material, or `{"items": n}` for an array's length. Without a hint a
    text is an extract, a number the middle of its bounds.
    """

    name: Final = NAME
    offline: Final = True

    async def complete(self, prompt: Prompt, *, on_text: OnText | None = None) -> Completion:
        """Answer `prompt`, always the same way for the same seed; see `LanguageModel.complete`."""
        writer = _Writer(prompt)
        text = (
            f"[{NAME}] {writer.extract(3)}"
            if prompt.schema is None
            else json.dumps(writer.fill(prompt.schema), ensure_ascii=False)
        )
        for start in range(0, len(text), 64):
            await asyncio.sleep(0)  # others run, and a cancel is received
            if on_text is not None:
                on_text(text[start : start + 64])
        read = sum(count_tokens(part.text) for part in prompt.material)
        usage = Usage(read, count_tokens(text), cost_usd=0.0, estimated=True)
        return Completion(text=text, model=NAME, usage=usage, offline=True)

    async def aclose(self) -> None:
        """Nothing is open."""


class _Writer:
    """One answer's words and chance."""

    def __init__(self, prompt: Prompt) -> None:
        texts = [part.text for part in prompt.material]
        # a person's words alone: templates fed with templates would say nothing in the end
        self._texts = [part.text for part in prompt.material if not part.derived] or texts
        near = _lower(texts[0]) if texts else set()
        # steady: of phrases that are equally near, the first said comes first
        self._words = sorted(phrases(self._texts), key=lambda phrase: not _lower(phrase) <= near)
        digest = hashlib.sha256(
            json.dumps([prompt.seed, prompt.name, texts], ensure_ascii=False).encode(
                "utf-8", "replace"
            )
        )
        self._chance = random.Random(digest.digest())
        self._turn = 0
        self._uses: Counter[tuple[str, ...]] = Counter()

    def extract(self, count: int) -> str:
        """The `count` sentences that say most, in their own order."""
        return " ".join(sentences(self._texts, count)) or "Nothing was given."

    def fill(self, schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> Any:
        """A value of `schema`."""
        root = schema if root is None else root
        hint: Mapping[str, Any] = schema.get(HINT) or {}
        if "$ref" in schema:
            named = schema["$ref"].rpartition("/")[2]
            return self.fill({**root["$defs"][named], **({HINT: hint} if hint else {})}, root)
        if "enum" in schema:
            return self._chance.choice(schema["enum"])
        match schema.get("type"):
            case "object":
                return {
                    name: self.fill(each, root)
                    for name, each in schema.get("properties", {}).items()
                }
            case "array":
                count = int(hint.get("items", schema.get("minItems", 1)))
                count = min(count, int(schema.get("maxItems", count)))
                return [self.fill(schema["items"], root) for _ in range(count)]
            case "integer" | "number":
                low = int(schema.get("minimum", 1))
                return self._chance.randint(low, max(low, int(hint.get("most", low))))
            case "boolean":
                return False
        return self._text(schema, hint)

    def _text(self, schema: Mapping[str, Any], hint: Mapping[str, Any]) -> str:
        if "template" in hint:
            templates: tuple[str, ...] = tuple(hint["template"])
            template = templates[self._uses[templates] % len(templates)]
            self._uses[templates] += 1
            word, other = self._pair()
            text = template.replace("{word}", word).replace("{other}", other)
            text = text[:1].upper() + text[1:]
        else:
            text = self.extract(int(hint.get("extract", 1)))
        most = int(schema.get("maxLength", 2_000))
        return text if len(text) <= most else text[: most - 1] + "…"

    def _pair(self) -> tuple[str, str]:
        words = self._words or ["the goal"]
        place = self._turn % len(words)
        self._turn += 1
        others = [word for word in words if word != words[place]] or ["the rest"]
        return words[place], self._chance.choice(others)


def keywords(texts: Sequence[str], most: int = 12) -> list[str]:
    """The words that carry the texts, the weightiest first; earlier texts weigh more."""
    counts: Counter[str] = Counter()
    shown: dict[str, str] = {}
    for place, text in enumerate(texts):
        for word in _WORD.findall(text):
            key = word.lower()
            if key not in _EMPTY:
                counts[key] += 3 if place == 0 else 1
                shown.setdefault(key, word if word[1:] != word[1:].lower() else key)
    first = {key: place for place, key in enumerate(shown)}
    ranked = sorted(counts, key=lambda key: (-counts[key], first[key]))
    return [shown[key] for key in ranked[:most]]


def phrases(texts: Sequence[str], most: int = 12) -> list[str]:
    """Topics of the texts: phrases first, then single words."""
    found: dict[str, str] = {}
    for text in texts:
        for clause in _CLAUSE.split(text):
            for run in _runs(clause):
                phrase = " ".join(run[-3:])
                found.setdefault(phrase.lower(), phrase)
    ranked = sorted(found.values(), key=lambda phrase: " " not in phrase)
    return ranked[:most]


def _runs(clause: str) -> list[list[str]]:
    """The clause's words, broken where one says nothing."""
    runs: list[list[str]] = [[]]
    for word in clause.split():
        bare = _WORD.fullmatch(word)
        if bare is None or word.lower() in _EMPTY:
            runs.append([])
        else:
            runs[-1].append(word)
    return [run for run in runs if run]


def sentences(texts: Sequence[str], count: int) -> list[str]:
    """The `count` sentences with the weightiest words, in their own order."""
    weights = {word.lower(): 1 / (rank + 1) for rank, word in enumerate(keywords(texts))}
    found = [part.strip() for text in texts for part in _SENTENCE.split(text) if part.strip()]
    scored = sorted(
        range(len(found)),
        key=lambda at: (
            -sum(weights.get(word, 0.0) for word in sorted(_lower(found[at]))),
            at,
        ),
    )
    return [found[at] for at in sorted(scored[:count])]


def _lower(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}
