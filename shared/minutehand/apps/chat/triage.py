"""Whether a message is answered at once or becomes background work, by its words alone.

Rules, not a model: what is used offline, and when a model's own decision cannot be used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, get_args

from minutehand.apps.chat.models import MOST_ITEMS, Item, Kind, Text

_VERBS: Final[dict[Kind, str]] = {
    "research": r"research|investigate|look into|find out|analy[sz]e|recherchier\w*",
    "summarise": r"summari[sz]e|summary|sum up|tl;?dr|zusammenfass\w*|fasse?\b.*\bzusammen",
    "compare": r"compare|comparison|differences? between|vergleich\w*",
    "draft": r"draft|write (?:me |us )?(?:an?|the) \w+|compose|entwirf|entwurf|verfass\w*",
}
_ANY: Final = {
    kind: re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for kind, words in _VERBS.items()
}
_BREAK: Final = re.compile(r"[.;!?\n]\s*|,\s|\bthen\b")
_LEAD: Final = re.compile(r"^\W*(?:(?:and|then|now|please|und|dann|bitte)\b\W*)+", re.IGNORECASE)
LABELS: Final[dict[Kind, str]] = {
    "research": "Research",
    "summarise": "Summary",
    "compare": "Comparison",
    "draft": "Draft",
}


def items_of(text: str, documents: Sequence[Text], *, forced: bool = False) -> list[Item]:
    """The background work that a message asks for, in the order it names it; none for a chat.

    Args:
        forced: Find some in any case: by what came along, where the words name none.
    """
    found = {kind: match.start() for kind in get_args(Kind) if (match := _ANY[kind].search(text))}
    kinds: list[Kind] = sorted(found, key=lambda kind: found[kind])[:MOST_ITEMS]
    if not kinds and forced:
        kinds = ["compare" if len(documents) > 1 else "summarise" if documents else "research"]
    return [
        Item(kind=kind, title=title_of(kind, text, found.get(kind, 0)), instruction=text)
        for kind in kinds
    ]


def title_of(kind: Kind, text: str, place: int) -> str:
    """A line that names the work, by the clause at `place`."""
    ends = [match.span() for match in _BREAK.finditer(text)]
    begin = max((end for _, end in ends if end <= place), default=0)
    stop = min((start for start, _ in ends if start > place), default=len(text))
    line = " ".join(_LEAD.sub("", text[begin:stop]).split()) or " ".join(text.split())
    return f"{LABELS[kind]}: {line if len(line) <= 80 else line[:79] + '…'}"
