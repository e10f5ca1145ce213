"""Passages that can be cited, and the bundled corpus.

Which of them fit a question is Postgres' full-text search's to say: `chat_find`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from minutehand_apps.chat.tables import Data, Value

CORPUS: Final = Path(__file__).with_name("corpus")
LICENCE: Final = "Minutehand corpus, CC BY 4.0"


@dataclass(frozen=True)
class Passage:
    """A part of a source.

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
    """An article of the corpus: passages, and the figures and dates that it lists."""

    title: str
    passages: list[Passage] = field(default_factory=list)
    data: Data = field(default_factory=Data)


@cache
def corpus() -> dict[str, Article]:
    """The bundled articles by their titles."""
    paths = sorted(path for path in CORPUS.glob("*.md") if path.name != "README.md")
    articles = (_article(path.read_text("utf-8")) for path in paths)
    return {article.title: article for article in articles}


def named_in(text: str) -> list[Passage]:
    """The passages of the articles whose titles a text has, word by word."""
    words = " ".join(text.casefold().split())
    return [
        passage
        for article in corpus().values()
        if re.search(rf"\b{re.escape(_bare(article.title))}(?:s|es)?\b", words)
        for passage in article.passages
    ]


def _bare(title: str) -> str:
    return title.casefold().removeprefix("the ").removesuffix("s")


def _article(text: str) -> Article:
    heading, _, body = text.partition("\n")
    article = Article(heading.removeprefix("# ").strip())
    for part in body.split("\n## ")[1:]:
        name, _, content = part.partition("\n")
        lines = content.strip().splitlines()
        listed = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
        said = " ".join(line for line in lines if not line.startswith("- "))
        if said:
            article.passages.append(Passage(article.title, name, said, licence=LICENCE))
        if name == "Timeline":
            article.data.events += [
                (date, what) for date, _, what in (line.partition(": ") for line in listed)
            ]
        else:
            article.data.series += [_figure(line) for line in listed]
    return article


def _figure(line: str) -> Value:
    label, _, quantity = line.rpartition(": ")
    number, _, unit = quantity.partition(" ")
    return label, float(number), unit


def listed(passages: list[Passage]) -> list[str]:
    """The sources of passages as a numbered list, each with its address and licence."""
    first = {each.source: each for each in reversed(passages)}
    names = dict.fromkeys(each.source for each in passages)
    lines = []
    for number, name in enumerate(names, 1):
        more = ", ".join(part for part in (first[name].url, first[name].licence) if part)
        lines.append(f"[{number}] {name}" + (f" ({more})" if more else ""))
    return lines
