"""Background work without a language model: research, comparison, summary, draft, page.

Each is a plan of parts and a result, so that a processor can show, pause and guide it between.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from minutehand.apps.chat.classifier import ARTEFACT, LABELS, plain
from minutehand.apps.chat.models import Finding, Found, Item, PastMessage, Text
from minutehand.apps.chat.offline import artefact, texts
from minutehand.apps.chat.offline.tables import Data, find_data
from minutehand.apps.chat.offline.texts import Passage

#: Sections that list data and hold no sentences.
LISTS: Final = frozenset({"Figures", "Timeline"})
TONES: Final = ["Formal", "Friendly"]
_TOPIC_LEAD: Final = re.compile(
    r"^\W*(?:(?:please|then|and|can you|could you|i need you to|do|make|some|me|fais|haz|faz"
    r"|mach)\s+)*"
    r"(?:research(?:es)?|investigate|look into|find out|analy[sz]e|study|gather|collect|compare"
    r"|contrast|draft"
    r"|write|compose|summari[sz]e|build|create|recherchiere|untersuche|analysiere|vergleiche|recherche[rz]?"
    r"|investiga|averigua|pesquise?a?|compara)\b(?:\s+(?:(?:on|about|into|information|sources|me|an?|the|of|zu[rm]?"
    r"|uber|sur|sobre|das thema|die|der|les?|la)\b|l'))*\s*",
    re.IGNORECASE,
)
_PAGE: Final = re.compile(rf"\b(?:{ARTEFACT})\b")
_TONE: Final = {
    "Formal": r"\bformal|förmlich|formel|business|polite\b",
    "Friendly": r"\bfriendly|casual|informal|warm|freundlich|locker|amical|amistoso|amigável\b",
}


@dataclass
class Task:
    """What a piece of work has to go by.

    Attributes:
        answer: What a person answered to its question, None for nothing.
        guidance: What they said without being asked, in order.
        found: Results of the work it is fed by.
    """

    item: Item
    documents: Sequence[Text] = ()
    history: Sequence[PastMessage] = ()
    found: Sequence[Found] = ()
    answer: str | None = None
    guidance: Sequence[str] = ()

    @property
    def words(self) -> str:
        """All that was asked for, the latest last."""
        return "\n".join(
            [self.item.instruction, *([self.answer] if self.answer else []), *self.guidance]
        )

    @property
    def topic(self) -> str:
        """What it is about, without the verb."""
        line = self.item.title.partition(": ")[2] or self.item.instruction
        if self.item.kind == "build":
            return _after_page(line)
        return _TOPIC_LEAD.sub("", line).strip(" .!?") or line


def _after_page(line: str) -> str:
    """What a page is about: the words after "a timeline of the"; empty when there are none."""
    words = plain(line)
    named = list(_PAGE.finditer(words))
    if not named or len(words) != len(line):
        return line
    rest = line[named[0].end() :]
    return re.sub(
        r"^\W*(?:(?:of|for|about|on|with|showing|from|der|des|von|mit|aus|unseren?|de[ls]?|avec|con"
        r"|com|do|da|sobre|the|our|my|me|following|las?|los|os|as|nos|nuestras|nossas)\b\W*)*",
        "",
        rest,
        flags=re.IGNORECASE,
    ).strip(" .!?")


@dataclass
class Product:
    """What work came to; `page` is an artefact to be stored."""

    text: str
    parts: list[Finding] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    page: artefact.Page | None = None


@dataclass(frozen=True)
class Question:
    """What to ask a person; `default` is taken when no one answers."""

    text: str
    options: list[str]
    default: str


def question_of(task: Task) -> Question | None:
    """The one question whose answer would change the result; None when nothing is open."""
    if task.item.kind == "build" and artefact.look_of(task.words) is None:
        return Question(
            "Which colour scheme should the page have?",
            artefact.COLOUR_OPTIONS,
            artefact.DEFAULT_COLOURS,
        )
    if task.item.kind == "draft" and _tone(task.words) is None:
        return Question("Should the draft be formal or friendly?", TONES, TONES[0])
    return None


def _tone(text: str) -> str | None:
    found = [
        (match.start(), name)
        for name, rule in _TONE.items()
        for match in re.finditer(rule, text, re.IGNORECASE)
    ]
    return max(found)[1] if found else None


# Research ---------------------------------------------------------------------------------------


def sources_at_hand(task: Task) -> list[Passage]:
    """What can be cited without a network: texts, the corpus on the topic, the talk."""
    about = " ".join([task.topic, *task.guidance])
    given = [
        Passage(document.title, "", part)
        for document in task.documents
        for part in _paragraphs(document.text)
    ]
    corpus = [passage for article in texts.articles_about(about) for passage in article.passages]
    said = [
        Passage("This conversation", "", sentence)
        for each in task.history
        if each.author == "user"
        for sentence in texts.sentences_of(each.text)
        if texts.coverage(task.topic, sentence) >= 0.5 and not sentence.endswith("?")
    ]
    return [*given, *corpus, *said]


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def questions_of(task: Task, passages: Sequence[Passage]) -> list[str]:
    """The parts that a topic falls into: sections of its sources, the person's words first."""
    sections = [each.section for each in passages if each.section and each.section not in LISTS]
    asked = [f"What was asked for: {each}" for each in task.guidance]
    return list(dict.fromkeys([*asked[:2], *sections]))[:5] or ["What is said about it"]


def research_part(task: Task, question: str, passages: Sequence[Passage]) -> Finding:
    """What the sources hold about one part, each sentence with its source."""
    guided = question.removeprefix("What was asked for: ")
    mine = [each for each in passages if each.section == question]
    if not mine:
        mine = [
            each
            for _, each in texts.rank(
                guided if guided != question else task.topic, passages, limit=4
            )
        ]
    names = list(dict.fromkeys(each.source for each in passages))
    lines = []
    for passage in mine[:4]:
        for sentence in texts.best_sentences(f"{task.topic} {guided}", [passage.text], limit=3):
            lines.append(f"{sentence} [{names.index(passage.source) + 1}]")
    return Finding(
        title=question, text=" ".join(dict.fromkeys(lines)) or "The sources say nothing about this."
    )


def research_result(task: Task, parts: Sequence[Finding], passages: Sequence[Passage]) -> Product:
    """The findings part by part, the figures, and the sources they are cited from."""
    if not passages:
        return Product(
            f"I found nothing about “{task.topic}”: neither the texts given here nor the bundled"
            f" corpus hold"
            " anything on it. Add texts to your message, or set CHAT_SEARCH_URL to search online."
        )
    names = list(dict.fromkeys(each.source for each in passages))
    sources = []
    for number, name in enumerate(names, 1):
        each = next(passage for passage in passages if passage.source == name)
        more = ", ".join(part for part in (each.url, each.licence) if part)
        sources.append(f"[{number}] {name}" + (f" ({more})" if more else ""))
    lines = [f"Findings on {task.topic}:"]
    for part in parts:
        lines += ["", f"{part.title}: {part.text}"]
    figures = data_of(passages).series
    if figures:
        lines += [
            "",
            "Figures: "
            + "; ".join(
                f"{label} {artefact.shown(value)} {unit}".strip() for label, value, unit in figures
            ),
        ]
    lines += ["", "Sources:", *sources]
    return Product("\n".join(lines), list(parts), sources)


def data_of(passages: Sequence[Passage]) -> Data:
    """The figures and dates that sources list."""
    named = {each.source for each in passages}
    data = Data()
    for article in texts.corpus():
        if article.title in named and any(
            each.url is None and each.source == article.title for each in passages
        ):
            data.series += article.figures
            data.events += article.events
    return data


# Pages ------------------------------------------------------------------------------------------


def build(task: Task) -> Product:
    """A page from the data at hand: given, found or said; else the chat's own figures."""
    kind = artefact.type_of(_named_part(task))
    data, origin, sources = _data(task, kind)
    look = artefact.look_of("\n".join([task.answer or "", *task.guidance])) or artefact.look_of(
        task.words
    )
    title = _page_title(task, kind)
    summary = [part.text for each in task.found for part in each.parts][:4]
    if kind == "timeline" and not data.events:
        data = replace(
            data, events=[(label, artefact.shown(value)) for label, value, _ in data.series]
        )
    page = artefact.Page(
        type=kind,
        title=title,
        data=data,
        look=look or artefact.look_of(artefact.DEFAULT_COLOURS) or artefact.Look(),
        summary=[*summary, f"Data: {origin}."],
        sources=sources,
        chart=artefact.chart_of(task.words),
    )
    shown = data.events if kind == "timeline" else data.series or data.events or data.rows
    count = len(shown)
    text = (
        f"The {kind} “{title}” is ready: {count} {'entries' if count != 1 else 'entry'} from"
        f" {origin},"
        f" colours: {page.look.name}."
    )
    return Product(text, [Finding(title="Data", text=origin)], sources, page)


def _named_part(task: Task) -> str:
    named = "\n".join([*task.guidance, task.item.title])
    return (
        named if any(re.search(rule, plain(named)) for _, rule in artefact._TYPES) else task.words
    )


def _data(task: Task, kind: str) -> tuple[Data, str, list[str]]:
    given = find_data([*(document.text for document in task.documents)])
    if not given:
        given = find_data(
            [
                *reversed(task.guidance),
                *([task.answer] if task.answer else []),
                task.item.instruction,
            ]
        )
    if given:
        return given, "the data you gave", []
    if task.found:
        names = [name for each in task.found for name in each.sources]
        titles = {re.sub(r"^\[\d+\] ", "", name).partition(" (")[0] for name in names}
        data = data_of([Passage(title, "", "") for title in titles])
        if data:
            return data, "the research before it", names
        told = find_data([each.text for each in task.found])
        if told:
            return told, "the research before it", names
    for each in reversed(task.history):
        earlier = find_data([each.text]) if each.author == "user" else Data()
        if earlier:
            return earlier, "an earlier message", []
    articles = texts.articles_about(task.topic, limit=2)
    data = Data()
    for article in articles:
        data.series += article.figures
        data.events += article.events
    if data and (data.events or kind != "timeline"):
        return (
            data,
            "the bundled corpus",
            [
                f"[{n}] {each.title} (Minutehand corpus, {texts.LICENCE})"
                for n, each in enumerate(articles, 1)
            ],
        )
    own = sum(1 for each in task.history if each.author == "user") + 1
    mine = sum(1 for each in task.history if each.author == "assistant")
    counts = [("Your messages", float(own), ""), ("My messages", float(mine), "")]
    return Data(series=counts), "this conversation itself, as no other data was given", []


def _page_title(task: Task, kind: str) -> str:
    topic = re.split(r"[:\n]", task.topic)[0].strip(" .!?")
    if not topic and task.found:
        topic = _TOPIC_LEAD.sub("", task.found[0].title.partition(": ")[2])
    return (topic[:1].upper() + topic[1:])[:120] or kind.capitalize()


# Comparison, summary, draft ----------------------------------------------------------------------


def compare(task: Task) -> Product:
    """Side by side: what each says, what only one says, what both say, and numbers that differ."""
    sides = _sides(task)
    if len(sides) < 2:
        return Product(
            f"To compare I need two things that I know or that you give as texts; I have"
            f" {len(sides)} for"
            f" “{task.topic}”. Add texts to your message."
        )
    focus = " ".join([task.topic, *task.guidance, task.answer or ""])
    words = [set(texts.words_of(side.text)) for side in sides]
    shared = set.intersection(*words)
    parts = []
    for side in sides:
        own = texts.best_sentences(focus, [side.text], limit=3)
        parts.append(Finding(title=side.title, text=" ".join(own)))
    lines = [f"Comparison of {' and '.join(side.title for side in sides)}:", ""]
    lines += [f"{part.title}: {part.text}" for part in parts]
    named = {
        word: each.lower()
        for each in re.findall(r"[^\W\d_]{4,}", sides[0].text)
        for word in texts.words_of(each)
    }
    both = sorted(named[word] for word in shared if word in named)
    lines += ["", f"Both speak of: {', '.join(both[:8]) or 'nothing that has the same name'}."]
    for side in sides:
        others = set.union(*(words[place] for place, each in enumerate(sides) if each is not side))
        only = [
            each
            for each in texts.sentences_of(side.text)
            if len(set(texts.words_of(each)) - others) >= 3
        ]
        lines.append(f"Only {side.title}: {' '.join(only[:2]) or 'nothing of its own'}")
    numbers = _numbers(sides)
    if numbers:
        lines += ["", "Numbers: " + "; ".join(numbers)]
    sources = [f"[{n}] {side.title}" for n, side in enumerate(sides, 1)]
    return Product("\n".join([*lines, "", "Sources:", *sources]), parts, sources)


def _numbers(sides: Sequence[Text]) -> list[str]:
    figures = []
    for side in sides:
        article = next((each for each in texts.corpus() if each.title == side.title), None)
        series = article.figures if article else find_data([side.text]).series
        figures.append({label.casefold(): (value, unit) for label, value, unit in series})
    same = [label for label in figures[0] if all(label in other for other in figures[1:])]
    return [
        f"{label}: "
        + " against ".join(
            f"{artefact.shown(each[label][0])} {each[label][1]}".strip() for each in figures
        )
        for label in same
    ]


def _sides(task: Task) -> list[Text]:
    if len(task.documents) >= 2:
        return list(task.documents)
    if len(task.found) >= 2:
        return [Text(title=each.title, text=each.text) for each in task.found]
    named = re.split(
        r"\s+(?:and|with|to|against|versus|vs\.?|mit|und|et|avec|y|con|e|com|or|gegen)\s+",
        task.topic,
    )
    sides: list[Text] = []
    for name in named:
        for article in texts.articles_about(name, limit=1):
            body = " ".join(each.text for each in article.passages if each.section not in LISTS)
            if article.title not in {side.title for side in sides}:
                sides.append(Text(title=article.title, text=body))
    return sides


def summarise(task: Task) -> Product:
    """The sentences that say most, of each text; of the conversation where none was given."""
    given = list(task.documents) or [Text(title=each.title, text=each.text) for each in task.found]
    if not given:
        talk = "\n".join(each.text for each in task.history)
        if not talk:
            return Product("There is nothing to summarise: add a text to your message.")
        given = [Text(title="This conversation", text=talk)]
    focus = " ".join([*task.guidance, task.answer or ""])
    parts = [
        Finding(title=each.title, text=" ".join(texts.best_sentences(focus, [each.text], limit=3)))
        for each in given
    ]
    lines = ["Summary:", *(f"{part.title}: {part.text}" for part in parts)]
    return Product("\n".join(lines), parts)


def draft(task: Task) -> Product:
    """A letter, mail or report with its parts in place, from what the texts and findings say."""
    words = task.words
    tone = _tone("\n".join([words, task.answer or ""])) or TONES[0]
    formal = tone == "Formal"
    recipient = re.search(
        r"\bto (?:the |my |our )?([A-Za-zÀ-ÿ' -]{2,40}?)(?= about| asking| on| for|[.,;!?]|$)",
        task.topic,
    )
    about = re.search(
        r"\b(?:about|on|regarding|asking for|for)\s+(.{3,120}?)(?:[.;!?]|$)", task.topic
    )
    who = recipient[1].strip() if recipient else None
    subject = about[1].strip() if about else task.topic
    given = [each.text for each in task.documents] or [
        " ".join(part.text for part in each.parts) or each.text for each in task.found
    ]
    if not given:
        given = [
            passage.text
            for article in texts.articles_about(subject, limit=1)
            for passage in article.passages[:3]
            if passage.section not in LISTS
        ]
    points = texts.best_sentences(f"{subject} {' '.join(task.guidance)}", given, limit=6)
    kind = (
        "report"
        if re.search(
            r"report|bericht|rapport|informe|relatorio|article|essay|post", plain(task.item.title)
        )
        else "letter"
    )
    extra = [each.strip() for each in task.guidance]
    sources = [name for each in task.found for name in each.sources]
    if kind == "report":
        lines = [
            subject[:1].upper() + subject[1:],
            "",
            "Overview",
            f"This report is about {subject}.",
            "",
            "Findings",
        ]
        lines += [f"- {each}" for each in points] or [
            "- No material was given; add texts, or ask for research first."
        ]
        lines += ["", "To be considered", *(f"- {each}" for each in extra)] if extra else []
        lines += ["", "Sources", *sources] if sources else []
    else:
        greeting = f"Dear {who or 'Sir or Madam'}," if formal else f"Hello {who or 'there'},"
        opening = (
            f"I am writing to you about {subject}."
            if formal
            else f"I wanted to get in touch about {subject}."
        )
        middle = points or ["[The facts: add them, or send texts to draw on.]"]
        closing = (
            ["I would be grateful for your reply.", "", "Yours sincerely,"]
            if formal
            else ["Let me know what you think!", "", "Best wishes,"]
        )
        lines = [
            f"Subject: {subject[:1].upper() + subject[1:]}",
            "",
            greeting,
            "",
            opening,
            "",
            " ".join(middle),
        ]
        lines += ["", *extra] if extra else []
        lines += ["", *closing, "[Your name]"]
    return Product(
        "\n".join(lines),
        [Finding(title=LABELS["draft"], text=f"{tone}, from {len(given)} texts")],
        sources,
    )


def product_data(task: Task, product: Product) -> dict[str, Any]:
    """What a result's message keeps beside its text."""
    return {
        "title": task.item.title,
        "kind": task.item.kind,
        "answer": task.answer,
        "parts": [part.model_dump() for part in product.parts],
        "sources": product.sources,
    }
