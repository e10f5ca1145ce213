"""Passages and how they are found: the bundled corpus, given texts, ranked by BM25.

What is made of them is work.py's and answers.py's.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).with_name("corpus")
LICENCE: Final = "CC BY 4.0"
_SENTENCE: Final = re.compile(r"(?<=[.!?…])\s+(?=[\W]*[A-ZÀ-Þ0-9])|\n+")
#: Words of titles that name nothing by themselves.
_GENERIC: Final = frozenset({"power", "energy", "work", "language"})
_WORD: Final = re.compile(r"[^\W_]+")
_EMPTY: Final = frozenset(
    [
        "a",
        "an",
        "the",
        "and",
        "or",
        "but",
        "of",
        "in",
        "on",
        "at",
        "to",
        "for",
        "from",
        "by",
        "with",
        "as",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "it",
        "its",
        "this",
        "that",
        "these",
        "those",
        "what",
        "which",
        "who",
        "whom",
        "whose",
        "how",
        "why",
        "when",
        "where",
        "does",
        "do",
        "did",
        "can",
        "could",
        "would",
        "should",
        "will",
        "shall",
        "may",
        "might",
        "must",
        "i",
        "you",
        "he",
        "she",
        "we",
        "they",
        "me",
        "him",
        "her",
        "us",
        "them",
        "my",
        "your",
        "his",
        "our",
        "their",
        "about",
        "into",
        "than",
        "then",
        "so",
        "if",
        "not",
        "no",
        "all",
        "any",
        "some",
        "more",
        "most",
        "also",
        "only",
        "very",
        "just",
        "please",
        "tell",
        "give",
        "make",
        "build",
        "create",
        "research",
        "investigate",
        "find",
        "out",
        "look",
        "write",
        "draft",
        "compare",
        "summarise",
        "summarize",
        "report",
        "dashboard",
        "interactive",
        "chart",
        "table",
        "timeline",
        "page",
        "information",
        "sources",
        "cite",
        "everything",
        "using",
        "use",
        "der",
        "die",
        "das",
        "und",
        "oder",
        "ein",
        "eine",
        "einer",
        "eines",
        "den",
        "dem",
        "des",
        "von",
        "zu",
        "mit",
        "ist",
        "sind",
        "war",
        "was",
        "wer",
        "wie",
        "warum",
        "le",
        "la",
        "les",
        "un",
        "une",
        "des",
        "et",
        "ou",
        "de",
        "du",
        "est",
        "sont",
        "que",
        "qui",
        "quoi",
        "el",
        "los",
        "las",
        "y",
        "o",
        "del",
        "es",
        "son",
        "por",
        "para",
        "una",
        "os",
        "as",
        "um",
        "uma",
        "e",
        "do",
        "da",
        "dos",
        "das",
    ]
)


@dataclass(frozen=True)
class Passage:
    """A part of a source that can be cited.

    Attributes:
        section: Its heading in the source; empty for a source without.
        url: Where the source can be read; None for what was given here.
    """

    source: str
    section: str
    text: str
    url: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Article:
    """An article of the corpus, with the figures and the dates that it lists."""

    title: str
    passages: list[Passage] = field(default_factory=list)
    figures: list[tuple[str, float, str]] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)


def words_of(text: str) -> list[str]:
    """The words that say something, without accents and plain endings."""
    folded = unicodedata.normalize("NFKD", text.casefold())
    bare = "".join(each for each in folded if not unicodedata.combining(each))
    return [_stem(word) for word in _WORD.findall(bare) if word not in _EMPTY and len(word) > 1]


def _stem(word: str) -> str:
    for ending, least in (("ies", 5), ("ing", 6), ("es", 5), ("s", 4)):
        if word.endswith(ending) and len(word) >= least and not word.endswith("ss"):
            return word[: -len(ending)] + ("y" if ending == "ies" else "")
    return word[:-1] if word.endswith("e") and len(word) > 4 else word


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, without list marks."""
    found = (part.strip().lstrip("-*•# ").strip() for part in _SENTENCE.split(text))
    return [part for part in found if part]


@cache
def corpus() -> tuple[Article, ...]:
    """The bundled articles."""
    paths = sorted(path for path in CORPUS.glob("*.md") if path.name != "README.md")
    return tuple(_article(path.read_text("utf-8")) for path in paths)


def _article(text: str) -> Article:
    heading, _, body = text.partition("\n")
    article = Article(heading.removeprefix("# ").strip())
    for part in body.split("\n## ")[0:]:
        name, _, content = part.removeprefix("## ").strip().partition("\n")
        items = [line[2:] for line in content.splitlines() if line.startswith("- ")]
        for item in items:
            label, _, value = item.rpartition(": ") if name == "Figures" else item.partition(": ")
            number = re.match(r"(-?[\d.]+)\s*(.*)", value)
            if name == "Figures" and number is not None:
                article.figures.append((label, float(number[1]), number[2]))
            elif name == "Timeline":
                article.events.append((label, value))
        if content:
            article.passages.append(
                Passage(
                    article.title, name, content.strip(), licence=f"Minutehand corpus, {LICENCE}"
                )
            )
    return article


def rank(query: str, passages: Sequence[Passage], *, limit: int = 8) -> list[tuple[float, Passage]]:
    """The passages that fit a query, best first, by BM25; a source's title counts as its words."""
    asked = set(words_of(query))
    counted = [
        Counter(words_of(f"{each.source} {each.source} {each.section} {each.text}"))
        for each in passages
    ]
    lengths = [sum(words.values()) for words in counted]
    mean = sum(lengths) / len(lengths) if lengths else 1.0
    seen = Counter(word for words in counted for word in words if word in asked)
    scored = []
    for passage, words, length in zip(passages, counted, lengths, strict=True):
        score = sum(
            math.log(1 + (len(passages) - seen[word] + 0.5) / (seen[word] + 0.5))
            * words[word] * 2.2 / (words[word] + 1.2 * (0.25 + 0.75 * length / mean))
            for word in asked
            if words[word]
        )  # fmt: skip
        if score > 0:
            scored.append((score, passage))
    return sorted(scored, key=lambda each: -each[0])[:limit]


def coverage(query: str, text: str) -> float:
    """The share of a query's words that a text has, 0 to 1."""
    asked = set(words_of(query))
    return len(asked & set(words_of(text))) / len(asked) if asked else 0.0


def articles_about(topic: str, *, limit: int = 3) -> list[Article]:
    """The articles whose titles a topic names, else those whose words fit it well; best first."""
    asked = set(words_of(topic))
    scored = []
    for article in corpus():
        title = set(words_of(article.title)) - _GENERIC
        named = len(title & asked) / len(title) if title else 0.0
        body = {word for passage in article.passages for word in words_of(passage.text)}
        share = len(asked & (body | title)) / len(asked) if asked else 0.0
        score = named * 2 + share
        if named == 1 or share >= 0.75:
            scored.append((score, article))
    best = sorted(scored, key=lambda each: -each[0])
    return [article for score, article in best[:limit] if score >= best[0][0] * 0.5]


def best_sentences(query: str, texts: Iterable[str], *, limit: int) -> list[str]:
    """The sentences that say most about a query, in their order; the first ones when none does."""
    every = [sentence for text in texts for sentence in sentences_of(text)]
    asked = set(words_of(query))
    common = Counter(word for sentence in every for word in set(words_of(sentence)))
    scored = []
    for place, sentence in enumerate(every):
        words = set(words_of(sentence))
        if words:
            near = len(words & asked) * 3 + sum(common[word] for word in words) / len(words)
            scored.append((near - place * 0.02, place))
    chosen = sorted(place for _, place in sorted(scored, reverse=True)[:limit])
    return [every[place] for place in chosen]
