"""What the chat can show without a language model; for the rest one sentence that says what to set.

Passages of sources, quoted as they are, and pages of data that was given. Nothing is concluded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from minutehand_apps.chat import page as pages
from minutehand_apps.chat.classifier import ARTEFACT, plain
from minutehand_apps.chat.models import Finding, Found, Item, Kind, PastMessage, Text
from minutehand_apps.chat.sources import Article, Passage, corpus, listed
from minutehand_apps.chat.tables import Data, find_data

_ARTEFACT: Final = re.compile(rf"\b(?:{ARTEFACT})\b")
_SMALL: Final = re.compile(
    r"^\W*(?:(?:of|for|about|on|with|showing|from|der|des|von|mit|aus|de[ls]?|avec|con|com|d[oa]|sobre"
    r"|the|our|my|following|these|las?|los?|os?|as?)\b\W*)*",
    re.IGNORECASE,
)
NAME: Final = "no language model"
SET: Final = (
    "Set LANGUAGE_MODEL_URL and LANGUAGE_MODEL to any OpenAI-compatible server, for example Ollama"
    " at http://localhost:11434/v1."
)
NO_MODEL: Final = f"No language model is configured, so this is not answered. {SET}"
_WOULD: Final[dict[Kind, str]] = {
    "research": "question sources and write up what they say",
    "summarise": "summarise your texts",
    "compare": "compare your texts point by point",
    "draft": "write a draft from your message and ask what is missing",
    "build": "choose what the page shows",
}


def would(kind: Kind) -> str:
    """The sentence for work that needs a model."""
    return f"No language model is configured here. One would {_WOULD[kind]}. {SET}"


@dataclass
class Product:
    """What work came to; `page` is an artefact to be stored."""

    text: str
    parts: list[Finding] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    page: pages.Page | None = None


def answer(passages: Sequence[Passage]) -> str:
    """The passage that has every word of a question, quoted; or what a model would need."""
    if not passages:
        return NO_MODEL
    best = passages[0]
    return f"“{best.text}” [{', '.join(each for each in (best.source, best.licence) if each)}]"


def research(item: Item, passages: Sequence[Passage]) -> Product:
    """The passages of sources on a topic, quoted under their headings."""
    if not passages:
        return Product(
            "I found no source on this: the bundled corpus has no article that your message names,"
            f" and no search is configured (CHAT_SEARCH_URL). {would(item.kind)}"
        )
    names = list(dict.fromkeys(each.source for each in passages))
    parts = [
        Finding(
            title=f"{each.source}: {each.section}" if each.section else each.source,
            text=f"{each.text} [{names.index(each.source) + 1}]",
        )
        for each in passages
    ]
    sources = listed(list(passages))
    lines = ["What the sources say, quoted:"]
    lines += [f"\n{part.title}\n{part.text}" for part in parts]
    return Product("\n".join([*lines, "", "Sources:", *sources]), parts, sources)


def data_for(
    item: Item,
    documents: Sequence[Text],
    said: Sequence[str],
    found: Sequence[Found],
    history: Sequence[PastMessage],
) -> tuple[Data, str, list[str]]:
    """The data to show, where it is from and its sources: given, found before, or said before."""
    given = find_data(each.text for each in documents)
    for text in (*reversed(said), item.instruction):
        given = given or find_data([text])
    if given:
        return given, "the data you gave", []
    sources = list(dict.fromkeys(name for each in found for name in each.sources))
    listed_data = Data()
    for article in articles(sources):
        listed_data.add(article.data)
    if listed_data:
        return listed_data, "the research before it", sources
    for each in reversed(history):
        earlier = find_data([each.text]) if each.author == "user" else Data()
        if earlier:
            return earlier, "an earlier message", []
    return Data(), "", []


def articles(sources: Sequence[str]) -> list[Article]:
    """The bundled articles among sources, which are numbered or not."""
    titles = [re.sub(r"^\[\d+\] ", "", name).partition(" (")[0] for name in sources]
    return [corpus()[title] for title in titles if title in corpus()]


def build(item: Item, data: Data, origin: str, sources: list[str], said: Sequence[str]) -> Product:
    """A page of data; a sentence where there is none."""
    words = "\n".join([item.instruction, *said])
    kind = pages.type_of(words)
    shown = data.events if kind == "timeline" else data.series or data.events or data.rows
    if not shown:
        what = "dates with what happened" if kind == "timeline" else "data that I can read whole"
        return Product(f"No page was made: I was given no {what}. {would(item.kind)}")
    look = pages.look_of("\n".join(said)) or pages.look_of(item.instruction) or pages.Look()
    page = pages.Page(
        type=kind,
        title=title_of(item),
        data=data,
        look=look,
        summary=[f"Data: {origin}."],
        sources=sources,
        chart=pages.chart_of(words),
    )
    count = f"{len(shown)} {'entry' if len(shown) == 1 else 'entries'}"
    text = f"The {kind} “{page.title}” is ready: {count} from {origin}, colours: {look.name}."
    return Product(text, [Finding(title="Data", text=origin)], sources, page)


def title_of(item: Item) -> str:
    """A page's heading: what the request says it shows, in the request's words."""
    line = (item.title.partition(": ")[2] or item.title).partition(":")[0].strip(" .!?")
    words = plain(line)
    named = _ARTEFACT.search(words) if len(words) == len(line) else None
    head = _SMALL.sub("", line[named.end() :]) if named else line
    if not head or re.search(r"\d", head):  # no words of its own, or data
        head = named.group().removeprefix("a ") if named else "Page"
    return (head[:1].upper() + head[1:])[:120]
