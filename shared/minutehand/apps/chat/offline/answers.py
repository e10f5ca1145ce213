"""A reply without a language model: exact answers, what was said, given texts, the corpus.

Any other question gets one sentence that says what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from minutehand.apps.chat.classifier import plain
from minutehand.apps.chat.models import PastMessage, Text
from minutehand.apps.chat.offline import instant, texts

NO_MODEL: Final = (
    "No language model is configured here, so I cannot answer this: set LANGUAGE_MODEL_URL and"
    " LANGUAGE_MODEL to add one."
)
_LAST_SAID: Final = re.compile(
    r"what did i (?:just )?(?:say|ask|write|tell you)|was habe ich (?:gerade |eben )?ge(?:sagt"
    r"|schrieben|fragt)"
    r"|qu'est-ce que j'ai dit|que (?:acabo de decir|dije)|o que (?:eu )?(?:disse|acabei de dizer)"
)
_LAST_TOLD: Final = re.compile(
    r"what did you (?:just )?(?:say|answer|write)|repeat (?:that|your answer)"
)
_MINE: Final = re.compile(
    r"(?:what(?:'s| is| was| did i say)|do you (?:remember|know)|wie (?:ist|heisst|lautet)|was"
    r" ist|quel(?:le)? est"
    r"|cual es|qual e)\b.*?\b(?:my|mein\w*|mon|ma|mi|meu|minha)\s+([\w ]{2,40}?)(?:\s+(?:was"
    r"|is))?\s*\W*$"
)
_CAPABILITY: Final = re.compile(
    r"what can you do|who are you|was kannst du|que sais-tu faire|que puedes hacer|o que podes"
    r" fazer"
)
CAPABILITIES: Final = (
    "Without a language model I work out arithmetic, units and dates, recall what was said here,"
    " answer from a"
    " small bundled corpus, and in the background research, compare, summarise, draft, and build"
    " charts, tables,"
    " timelines and dashboards from data you give."
)


def reply(
    text: str,
    documents: Sequence[Text],
    history: Sequence[PastMessage],
    *,
    now: datetime | None = None,
) -> str:
    """The reply to a message, from what is certain; `NO_MODEL` where nothing is."""
    return (
        instant.answer(text, now=now)
        or (CAPABILITIES if _CAPABILITY.search(plain(text)) else None)
        or _recalled(text, history)
        or _from_texts(text, documents)
        or _from_corpus(text)
        or NO_MODEL
    )


def _recalled(text: str, history: Sequence[PastMessage]) -> str | None:
    words = plain(text)
    own = [each.text for each in history if each.author == "user" and each.kind == "message"]
    if _LAST_SAID.search(words) and not _MINE.search(words):
        return f"You said: “{own[-1]}”" if own else "You have said nothing before this."
    if _LAST_TOLD.search(words):
        told = [each.text for each in history if each.author == "assistant"]
        return f"I said: “{told[-1]}”" if told else "I have said nothing before this."
    mine = _MINE.search(words)
    if mine is not None:
        return _told_of(mine[1].strip(), own)
    if "?" not in text:
        return None
    return _fitting(text, own, "You said")


def _told_of(what: str, own: Sequence[str]) -> str | None:
    """The latest sentence in which the person said what theirs is."""
    wanted = set(texts.words_of(what))
    for said in reversed(own):
        for sentence in reversed(texts.sentences_of(said)):
            named = plain(sentence)
            is_name = what in {"name", "vorname", "nom", "nombre", "nome"} and re.search(
                r"\b(?:call me|i am|i'm|ich heisse|ich bin|je m'appelle|me llamo|chamo-me|me"
                r" chamo)\b",
                named,
            )
            if not sentence.rstrip().endswith("?") and (
                is_name or (wanted and wanted <= set(texts.words_of(sentence)))
            ):
                return f"You said: “{sentence}”"
    return f"You have not told me your {what} here."


def _fitting(question: str, sources: Sequence[str], lead: str) -> str | None:
    best = max(
        ((texts.coverage(question, sentence), sentence)
         for source in sources
         for sentence in texts.sentences_of(source)
         if not sentence.endswith("?")),
        default=(0.0, ""),
    )  # fmt: skip
    return f"{lead}: “{best[1]}”" if best[0] >= 0.6 else None


def _from_texts(text: str, documents: Sequence[Text]) -> str | None:
    if not documents:
        return None
    passages = [
        texts.Passage(document.title, "", sentence)
        for document in documents
        for sentence in texts.sentences_of(document.text)
    ]
    found = [each for _, each in texts.rank(text, passages, limit=2)]
    if not found:
        return None
    return " ".join(f"{each.text} [{each.source}]" for each in found)


def _from_corpus(text: str) -> str | None:
    words = plain(text)
    if not (
        "?" in text
        or re.match(
            r"\W*(?:what|who|how|why|when|where|which|explain|tell me|define|describe)\b", words
        )
    ):
        return None
    asked = set(texts.words_of(text))
    for article in texts.articles_about(text, limit=1):
        passages = [
            texts.Passage(article.title, passage.section, sentence, licence=passage.licence)
            for passage in article.passages
            for sentence in texts.sentences_of(passage.text)
        ]
        known = {word for each in passages for word in texts.words_of(f"{each.source} {each.text}")}
        # a question about something else that the title happens to be part of is not answered
        if len(asked & known) < 0.6 * len(asked):
            continue
        best = [each for _, each in texts.rank(text, passages, limit=2)]
        if asked <= set(texts.words_of(article.title)):
            best = passages[:2]
        if best:
            said = " ".join(dict.fromkeys(each.text for each in best))
            return f"{said} [Minutehand corpus, {article.title}]"
    return None
