"""What a prompt states: dates, money, people, quantities and limits, each with its words.

A figure is read, with its words; contradicted or ambiguous, and asked about; or unread, and named.
Nothing is guessed: "none is stated" is said only where nothing names one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from itertools import takewhile
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from minutehand_apps.plans.planning.numbers import (
    AMOUNT,
    CURRENCY,
    LARGE,
    MONTHS,
    NUMBER,
    WEEKDAYS,
    add_months,
    add_working_days,
    currency_of,
    month_end,
    next_working_day,
    number_of,
    singular_of,
)
from minutehand_apps.plans.planning.numbers import day as named_day


class Exact(BaseModel):
    """A model that takes nothing it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Dated(Exact):
    """A day, and the words that name it."""

    day: date
    text: str
    rule: str


class Amount(Exact):
    """Money, what it is for, and the words that name it."""

    amount: Decimal
    currency: str
    text: str
    item: str = ""
    #: `day` or `hour` for a rate, the noun it is counted by for a unit price.
    per: str = ""
    quantity: Decimal | None = None


class Counted(Exact):
    """A number of something, and the words that name it."""

    value: Decimal
    noun: str
    text: str
    #: Whether it bounds something, as in "no more than 3 days".
    is_bound: bool = False
    #: Whether it counts those whom the work is for, as in "train 40 cashiers".
    is_audience: bool = False


class Doubt(Exact):
    """Words that could not be read for sure, what they are about, and what to ask."""

    about: Literal["deadline", "budget", "team", "figure"]
    text: str
    question: str


class Facts(Exact):
    """Everything a prompt states."""

    prompt: str
    goal: str
    today: date
    start: Dated | None = None
    #: The first day of a stated window, whose last day is the deadline.
    window: Dated | None = None
    deadline: Dated | None = None
    budget: Amount | None = None
    rates: list[Amount] = Field(default_factory=list)
    prices: list[Amount] = Field(default_factory=list)
    costs: list[Amount] = Field(default_factory=list)
    team: list[Counted] = Field(default_factory=list)
    quantities: list[Counted] = Field(default_factory=list)
    effort: Counted | None = None
    limits: list[str] = Field(default_factory=list)
    others: list[str] = Field(default_factory=list)
    doubts: list[Doubt] = Field(default_factory=list)

    def doubt(self, about: str) -> Doubt | None:
        """What is doubtful about the deadline, the budget or the team; None when nothing is."""
        return next((each for each in self.doubts if each.about == about), None)

    @property
    def people(self) -> int | None:
        """How many people do the work; None when the prompt does not say."""
        return sum(int(group.value) for group in self.team) or None

    @property
    def first_day(self) -> date:
        """The first working day of the plan: the stated one, else the next one."""
        return next_working_day(self.start.day if self.start else self.today)

    @property
    def currency(self) -> str:
        """The currency of the first stated amount; empty when none is stated."""
        first = [self.budget, *self.rates, *self.prices, *self.costs]
        return next((each.currency for each in first if each is not None), "")


_N: Final = rf"(?:{NUMBER})"
_MONTH: Final = "|".join(f"{name.title()}|{name}" for name in MONTHS if name != "may") + "|May"
_MONTH_OR_SHORT: Final = rf"{_MONTH}|" + "|".join(name[:3].title() for name in MONTHS) + "|Sept"
_WEEKDAY: Final = "|".join(name.title() for name in WEEKDAYS)
_YEAR: Final = r"(?:,?[\s-]+(?P<{}>\d{{4}}\b|['\u2019]\d\d\b))?"
_DATES: Final = re.compile(
    r"(?P<numeric>\b\d{1,4}(?P<mark>[./-])\d{1,2}(?P=mark)(?:\d{4}|\d\d)\b)"
    rf"|\b(?P<d1>\d{{1,2}})(?:st|nd|rd|th)?[\s-]+(?:of\s+)?(?P<m1>{_MONTH_OR_SHORT})\b{_YEAR.format('y1')}"
    rf"|\b(?P<m2>{_MONTH_OR_SHORT})\.?\s+(?:the\s+)?(?:(?P<d0>\d{{1,2}})(?:st|nd|rd|th)?\s*(?:-|\u2013|to|and|&)\s*)?"
    r"(?P<d2>\d{1,2})(?:st|nd|rd|th)?\b(?!\s*(?:people|%))"
    rf"{_YEAR.format('y2')}"
    rf"|\b(?:the\s+)?(?P<part>end|beginning|start|middle)\s+of\s+(?P<m3>{_MONTH})\b{_YEAR.format('y3')}"
    rf"|\b(?P<nth>(?:the\s+)?(?:first|second|third|fourth|last|[a-z]+th|1st|2nd|3rd|4th)\s+(?:\w+\s+)?"
    rf"(?:in|of)\s+(?:{_MONTH})\b(?:,?\s+\d{{4}})?)"
    rf"|\b(?P<m4>{_MONTH}|(?:{_MONTH_OR_SHORT})(?=\s+\d{{4}}))\b{_YEAR.format('y4')}"
    rf"|\b(?:next\s+)?(?P<weekday>{_WEEKDAY})\b(?!,?\s+(?:the\s+)?\d)"
    r"|\b(?P<yearend>(?:the\s+)?end\s+of\s+(?:(?:the|this)\s+year|(?P<y5>20\d\d)))\b"
    r"|\b(?P<quarter>(?:the\s+)?(?:end\s+of\s+)?Q(?P<q>[1-4])\s*/?\s*(?P<y6>20\d\d))\b"
    r"|\b(?P<christmas>Christmas)\b(?:,?\s+(?P<y7>20\d\d))?|\b(?P<tomorrow>tomorrow)\b"
)
#: What makes another day of a date: a week before it, one of two, the Friday after it.
_SOME_DAYS: Final = "(?:day|week|month|fortnight)s?"
_MOVED: Final = re.compile(
    rf"(?:(?<!\bfor )(?<!\bover )\b(?:{_N})\s+{_SOME_DAYS}\s+from|(?:\b(?:{_N})\s+)?"
    rf"\b{_SOME_DAYS}\s+(?:before|after|of)|\bfirst\s+\w+\s+(?:is\s+)?on)\s*$",
    re.I,
)
_MOVED_AFTER: Final = re.compile(
    r"\s+(?:week|at the earliest"
    rf"|or(?:\s+earlier|\s+later|\s+(?:\d+\s+)?(?:{_MONTH})(?:\s+\d{{4}})?)?)\b",
    re.I,
)
_STARTS: Final = re.compile(
    r"\b(?:from|starting|starts?|begins?|beginning|not before"
    r"|n(?:o|ot)\s+(?:earlier|sooner)\s+than|after)"
    r"(?:\s+(?:on|in|at|the))*\s*$", re.I,
)  # fmt: skip
_BEFORE: Final = re.compile(r"(?<!\bnot )\bbefore(?:\s+the)?\s*$", re.I)
#: "nobody has time before May" is a start, or no day at all.
_NOT_BEFORE: Final = re.compile(
    r"\b(?:not?|no\s+one|nobody|none|nothing|never|cannot|\w+n['\u2019]t)\b[^.;]{0,40}\bbefore(?:\s+the)?\s*$",
    re.I,
)
#: Times that name no day, or none that is read: the reader says which one.
_UNIT_OF_TIME: Final = r"hours?|days?|weeks?|months?|quarters?|years?"
_FEAST: Final = (
    r"(?:spring|summer|autumn|fall|winter|holidays?|birthday|anniversary|Easter|Whitsun|Pentecost|Ramadan"
    r"|Eid|Diwali|Hanukkah|Passover|Thanksgiving|Halloween|New\s+Year(?:['\u2019]?s)?"
    r"|[\w'\u2019]+\s+(?-i:Eve|Day))(?:\s+(?:holidays?|break|weekend))?"
)
_TIME: Final = (
    rf"(?:{_MONTH_OR_SHORT}|(?:{_WEEKDAY}|{_UNIT_OF_TIME}|year-end|weekend|evening|night|fortnight|term"
    rf"|season|noon|midnight|today|FY\s?\d*|tonight|tomorrow|EO[YMQW]|H[12]|Q[1-4]|[CK]W|{_FEAST}|20\d\d|['\u2019]\d\d))"
)
_WHEN: Final = re.compile(
    r"\b(?:by|before|until|till|within|in|on|at|after|due|deadline(?:\s+(?:is|of))?|this|next|coming|early"
    r"|mid|late|end\s+of|beginning\s+of|middle\s+of|start\s+of)[\s-]+"
    r"(?:(?:the|an?|my|our|every|next|this|coming|last|first|second|end|middle|beginning|start|half|of|early"
    rf"|mid|late|in|on|and|couple|few|several|some|about|\d+(?:st|nd|rd|th)?|{_N})[\s-]+){{0,6}}"
    rf"{_TIME}\b(?:\s+(?:the\s+)?\d[\w/-]*)?|\b(?:before|until|till)(?:\s+(?!\d)[\w'\u2019-]+){{1,3}}"
    rf"|\b(?:over|during|for)\s+(?:(?:the|my|our|school|summer|winter)\s+)*{_FEAST}\b"
    rf"|\b(?:{_N})\s+(?:{_UNIT_OF_TIME})\s+from\s+(?:now|today)\b"
    r"|\b(?:by|on|until|till|due|deadline)\W+\d[\d./:-]*(?=\s*(?:[.,;]|$))"
    r"|\b(?:soon|asap|as\s+soon\s+as\s+possible|today|tonight|yesterday|day\s+after\s+tomorrow)\b"
    # a date of another language, or somebody's name
    r"|\b\d{1,2}(?:\.|er)?\s+[^\W\d]{3,10}\.?\s+20\d\d\b|\bby\s+(?-i:[A-Z][^\W\d]+)(?=\s*(?:[,;]|\.?\s*$))",
    re.I,
)
#: Money and helpers that are named without a number.
_SOME_MONEY: Final = re.compile(
    r"\b(?<!no )(?<!without a )(?:\w+\s+)?(?:budget|money|cheap\w*|inexpensive\w*)\b"
    r"|(?:[^\s\x00]+\s+){0,2}(?:[€£$]|\b(?:EUR|USD|GBP|CHF|euros?|dollars?|pounds?|francs?)\b)",
    re.I,
)  # fmt: skip
_ENGLISH: Final = frozenset(
    {"the", "a", "an", "to", "of", "for", "with", "by", "our", "my", "we", "and", "in", "on", "at",
     "is", "are", "i", "it", "from", "this", "that"}
)  # fmt: skip
_PART: Final = re.compile(r"\b(?:(?:early|mid|late)[ -]+(?:in\s+)?|[\w-]+\s+of\s+)$", re.I)
#: What makes another day of a weekday: each of them, or one with a name, as Whit Monday.
_NO_WEEKDAY: Final = re.compile(
    r"\b(?:[Ee]very|[Ee]ach|(?<=\s)(?!By|On|In|At|Next|This|Until|Before|Till|Due)[A-Z][a-z]+)\s+$"
)
#: Money that is named without a currency.
_BARE_BUDGET: Final = re.compile(
    rf"\b(?:budget|spend|afford|costs?)\b[^.;\d\x00]{{0,25}}"
    rf"(?P<n>{AMOUNT})(?![\d.,]*\d|\s*(?:people|persons|days?|hours?|weeks?|months?|%|percent))",
    re.I,
)  # fmt: skip
_CORRECTED: Final = re.compile(
    r"\b(?:actually|i mean|scratch that|correction|no wait|or rather|make that|sorry|maybe"
    r"|later(?!\s+than)|perhaps|of\s+wh(?:om|ich)|originally|previously|but\s+only|(?:cut|raised)\s+to)\b"
    r"|\+\s*\d",
    re.I,
)
_ROLES: Final = (
    "people|persons?|dev(?:eloper)?s?|engineers?|volunteers?|colleagues?|workers?|helpers?|trainers?"
    "|researchers?|painters?|movers?|builders?|carpenters?|designers?|electricians?|plumbers?"
    "|assistants?|members?|staff|analysts?|scientists?|friends|testers?|buyers?|technicians?"
    "|instructors?|roofers?|gardeners?|cleaners?|masons?|plasterers?|tilers?|caterers?|employees|marketers?|organisers?|organizers?|interviewers?|students|tradespeople"
    "|craftspeople|librarians?|teachers?|nurses?|interns?|freelancers?|contractors?|FTEs?"
    "|translators?|writers?|editors?|consultants?|programmers?|fitters?|caretakers?|cooks?"
)
#: A share of a week or a day, where the schedule counts whole working days.
_PART_TIME: Final = re.compile(
    rf"\b{_N}[\s-]+(?:h|hours?|days?|evenings?)\s+(?:a|per|each|every)\s+(?:day|week|month)\b"
    rf"|\bpart-time\b|\b(?:{_ROLES})\s+(?:at|each)\s+{_N}\s?%"
    rf"|(?<!no )\b(?:help|work|free|available|time)\s+(?:only\s+)?"
    rf"(?:on\s+(?:{_WEEKDAY})s|at\s+weekends)\b",
    re.I,
)  # fmt: skip
_DAY_NAME: Final = re.compile(
    rf"\b(?P<name>{_WEEKDAY}|{'|'.join(name[:3].title() for name in WEEKDAYS)})\.?,?\s+(?:the\s+)?$"
)
_ASKED: Final = re.compile(r"^(?:what|who|whom|whose|when|where|why|which|is|are|does|did)\b", re.I)
_HELPS: Final = re.compile(r"\s+(?:will\s+|can\s+)?(?:help|join|work)\b", re.I)
_KIN: Final = (
    "sisters?|brothers?|wife|husband|partner|friends?|sons?|daughters?|mother|father|parents|kids|children"
    "|colleagues?|neighbou?rs?|family"
)
_RELATIVES: Final = re.compile(
    rf"\bmy\s+(?:{_KIN}|team)\b(?:[^.;,]{{0,40}}?\b(?:helps?|join|work))"
    r"|\bme\s+and\s+(?:my\s+)?\w+|\bmy\s+\w+\s+and\s+(?:I|me)\b",
    re.I,
)
_SPAN: Final = re.compile(
    r"\b(?P<hint>(?:in|within|inside|under|less than|at most|no more than|only|have|has|takes?|take"
    r"|deadline(?:\s+(?:of|is|in))?|finished\s+in|done\s+in)\s+(?:the\s+next\s+|only\s+|just\s+)?)"
    rf"(?P<n>{_N}|a|an)[\s-]+(?P<kind>working\s+|business\s+|calendar\s+)?"
    r"(?P<unit>hour|day|week|month|year)s?\b(?!\s+(?:of\s+)?(?:work|effort|training|course))", re.I,
)  # fmt: skip
_EFFORT: Final = re.compile(
    rf"(?P<n>{_N})\s+(?:(?P<a>person|man|staff)[-\s](?P<u1>hour|day|week|month)s?"
    r"|(?P<u2>hour|day|week)s?\s+of\s+(?:work|effort))\b", re.I,
)  # fmt: skip
_SHORT_MONTHS: Final = frozenset(name[:3] for name in MONTHS)
HOURS: Final = {"hour": 1, "day": 8, "week": 40, "month": 160}
_MONEY: Final = re.compile(
    rf"(?P<c1>{CURRENCY})\s?(?P<n1>{AMOUNT})|(?<![\w.,])(?P<n2>{AMOUNT})(?:[.,][-\u2013]|\.)?\s?(?P<c2>{CURRENCY})",
    re.I,
)
#: What makes another amount of it.
_CHANGED: Final = re.compile(
    r"\b(?:minus|half|quarter|third|double|twice|%|percent)\b[^.;,]{0,30}$", re.I
)
_PER_LONG: Final = re.compile(
    r"^\s*(?:(?:/|per|an?|each|every)\s*(?:week|month|quarter|year)|(?:week|month|quarter|year)ly|annually)\b",
    re.I,
)
_LONG: Final = re.compile(r"\b(?:weekly|monthly|quarterly|yearly|annual)\s+(?:\w+\s+){1,2}$", re.I)
#: "a day rate of EUR 640"
_RATE: Final = re.compile(r"\b(day|daily|hour|hourly)[\s-]+(rate)\s+(?:(?:of|is|at)\s+)?$", re.I)
_PER_TIME: Final = re.compile(
    r"^\s*(?:/|per|an?|each)\s*(?:person[- ]|man[- ]|working[- ])?(day|hour|h)\b"
    r"|^\s*(daily|hourly)\b",
    re.I,
)
_PER_NOUN: Final = re.compile(
    r"^\s*(?:(?:/|per|an?|for each|for every)\s+([a-z][a-z-]+|m[²2](?!\w))|p\.\s?p\.|pp\b)", re.I
)
#: "two rooms of 6 m² each"
_OF_EACH: Final = re.compile(rf"\b(?P<n>{_N})\s+[a-z][a-z -]{{0,40}}\s(?:of|with|at)\s+$", re.I)
_EACH: Final = re.compile(r"^\s*(?:each|apiece|a piece)\b", re.I)
_ITEM: Final = re.compile(
    r"(?:(?:\b(?P<each>each|every|one|an?)\s+)|(?P<q>" + _N + r")\s+"
    r"|\bthe\s+|\bof\s+|\band\s+|[,;:]\s*|^)?"
    r"(?P<item>[a-z][a-z-]*(?:\s+[a-z][a-z-]+)?)\s+"
    r"(?P<verb>costs?|at|for|is|are|costing|priced\s+at|charges?|of)\s+"
    r"(?:about\s+|around\s+)?$", re.I,
)  # fmt: skip
#: "30 laptops (max. EUR 900 each)", and a list of what costs how much: ", hall 600 EUR"
_LISTED: Final = re.compile(
    rf"(?:(?P<q>{_N})\s+(?P<item>[a-z][a-z-]*(?:\s+[a-z][a-z-]+)?)\s*\((?:\w+\.?\s*)?"
    r"|[,;:]\s+(?:an?\s+|the\s+)?(?P<item2>[a-z]{3,})\s+)$", re.I,
)  # fmt: skip
_BUDGET_BEFORE: Final = re.compile(
    r"\b(?:budget|spend|spending|exceed|costs?\s+(?:no\s+more\s+than|at\s+most|less\s+than|under)"
    r"|no\s+more\s+than|at\s+most|up\s+to|under|less\s+than|within|max(?:imum)?|limit|ceiling|funding"
    r"|pay|(?:should|may|must|can)\s+cost"
    r"|grant|savings?(?:\s+of)?|saved|(?:we|i)(?:\s+have|['\u2019]ve)(?:\s+got)?|there\s+(?:is|are))\b"
    r"(?:[^.;,]|(?<=max)\.|(?<=approx)\.|(?<=ca)\.){0,25}$", re.I,
)  # fmt: skip
_BUDGET_AFTER: Final = re.compile(
    r"^\s*(?:budget|in\s+total|total|at\s+most|available|to\s+spend|is\s+all|or\s+less|maximum|left\b|at\s+(?:our|my)\s+disposal)\b",
    re.I,
)
_FOR: Final = re.compile(r"^\s+(?:for|on)\s+(?:the\s+|a\s+)?([a-z][a-z-]+)", re.I)
_PEOPLE: Final = re.compile(
    rf"(?<!half )(?P<n>\b{_N})(?P<adj>(?:\s+(?:full-time|part-time|experienced|senior|junior|"
    rf"professional|skilled|in-house|trained|own|software|volunteer|paid))*)\s+(?P<role>{_ROLES})\b"
    rf"|(?P<us>\b{_N})\s+of\s+us\b|(?P<alone>\b(?:alone|on my own|by myself)\b)", re.I,
)  # fmt: skip
_SOME_PEOPLE: Final = re.compile(
    r"\b(?:some|several|few|many|half|(?:couple|pair|handful|bunch|dozens|hundreds|thousands)\s+of)\s+"
    rf"(?:\w+\s+){{0,2}}?(?:{_ROLES})\b|\b(?:with|by)\s+(?-i:[A-Z][a-z]+\s+and\s+[A-Z]\w*)|\bwith\s+(?:an?|my|our|the)\s+(?:\w+\s+)?(?:team|crew|{_KIN})\b|\bteams\s+of\b"
    rf"|\b\d+\s*(?:\(\w+\)|\+|or\s+more)\s*(?:{_ROLES})\b"
    rf"|\bwith\s+(?:{_ROLES})\b|\bby\s+(?:me|us)\b|\b(?:{_N})\s+(?:{_KIN})\b", re.I,
)  # fmt: skip
#: What names money or people and was not read, and what is asked then.
_UNCLEAR: Final = (
    ("budget", _SOME_MONEY, "What may it cost?"),
    ("team", _RELATIVES, "How many people do the work, with you?"),
    ("team", _SOME_PEOPLE, "How many people do the work, with you?"),
)
#: Two figures of which one counts, or a broken one: 2-3 helpers, EUR 10,000 or 12,000.
_RANGE: Final = re.compile(
    rf"(?P<between>\bbetween\s+)?(?P<c1>(?:{CURRENCY})\s?)?(?<![\w.,/-])(?:{AMOUNT})"
    r"(?(between)\s+and\s+|(?:(?<=\d)\s?[-\u2013]\s?(?=\d)|\s+(?:to|or|and(?=\s+a\s+half))\s+))"
    rf"(?:(?:{CURRENCY})\s?)?(?:{AMOUNT}|a\s+half)"
    rf"(?![\w./:-])(?:\s?(?P<c2>{CURRENCY})|[\s-]+(?P<unit>[a-z]+))?", re.I,
)  # fmt: skip
#: "a builder and two painters", "3 of our 5 developers"
_ONE_OF: Final = re.compile(rf"\b(?:an?\s+[\w-]+\s+and|(?:{_N}\s+)?of\s+(?:our|my|the))\s+$", re.I)
_AND_ONE: Final = re.compile(rf"\b(?:with|and|plus)\s+an?\s+(?:\w+\s+)?(?:{_ROLES})\b", re.I)
_GENERAL: Final = frozenset(
    {"person", "staff", "colleague", "member", "employee", "student", "friend", "teacher", "nurse",
     "librarian"}
)  # fmt: skip
_TEAM_BEFORE: Final = re.compile(
    r"\b(?:team\s+(?:of|has)|crew\s+of|we\s+are|we['\u2019]re|we\s+have|i\s+have|have|has|by|with|are|group\s+of|and)"
    r"\s+(?:a\s+team\s+of\s+|only\s+|just\s+)?$", re.I,
)  # fmt: skip
#: "with EUR 900 and 6 helpers": what follows does the work, too.
_WITH: Final = re.compile(r"\bwith\s+(?:(?!\b(?:for|train|teach|invite|host|seat)\b)[^.;])*$", re.I)
_AUDIENCE_BEFORE: Final = re.compile(
    r"\b(?:train|training|teach|for|invite|seat|relocate|move|interview|survey|reach|host|onboard"
    r"|(?:office|department|company|branch|school|laboratory|library|library's)\s+(?:of|with|has))"
    r"\s+(?:our\s+|all\s+|the\s+|about\s+|its\s+|another\s+)?$", re.I,
)  # fmt: skip
_ANY: Final = re.compile(r"\b(?:no|any|some|every|this|that)\s+$", re.I)
#: Nouns of people, by their endings.
_PERSON: Final = re.compile(r"(?:er|or|ist|ant|ent|ee|ian|man|person|pupil|adult|child)$")
_UNIT: Final = re.compile(
    rf"(?<![\w.,/])(?P<n>{_N})[\s-]*(?P<unit>m²|m2\b|sqm\b|square\s+met(?:re|er)s?|%|percent)"
    rf"|(?<![\w.,/])(?<!half )(?P<n2>{_N})[\s-]+(?P<noun>[a-z][a-z'-]+(?:\s+[a-z][a-z'-]+){{0,2}})",
    re.I,
)  # fmt: skip
_STOPS: Final = frozenset({
    "and", "or", "in", "on", "at", "for", "with", "of", "to", "by", "per", "from", "within",
    "the", "a", "an", "each", "is", "are", "has", "have", "must", "that", "who", "which",
    "into", "before", "after", "until", "every", "as", "be", "but", "than", "it", "its",
    "our", "we", "i", "so", "can", "may", "will", "should", "not", "no", "if", "when", "where",
    "while", "using", "through", "over", "under", "between", "during", "only", "plus", "costs",
    "cost", "about", "around", "was", "were", "had", "there", "this", "they",
})  # fmt: skip
_LIMIT: Final = re.compile(
    r"\b(?:must|never|only|without|except|cannot|can't|mandatory|required|no|not|nobody|nothing"
    r"|at least|at most|(?:more|less|fewer|longer|later) than)\b", re.I,
)  # fmt: skip


#: Between sentences; a point after an abbreviation ends none.
_SENTENCE: Final = re.compile(
    r"(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bMr\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)(?<!approx\.)(?<=[.!?])\s+(?=[A-Z0-9])"
)
#: Words that belong to the date after them.
_HINT: Final = re.compile(
    r"(?:\b(?:by|before|until|till|on|in|from|after|starting|starts?|begins?|beginning|no|not|later|than"
    r"|ready|for|at|due|the)\s+)+$", re.I,
)  # fmt: skip
#: The first day of a window: of the same month, or a date of its own.
_BETWEEN: Final = re.compile(
    rf"\b(?P<open>between|from|on)?\b\s*(?:the\s+)?(?:(?:{'|'.join(WEEKDAYS)}),?\s+)?(?<![\d.,/-])"
    r"(?P<day>\d{1,2})(?:st|nd|rd|th)?\s*(?P<to>and|to|until|till|[-\u2013/&])\s*(?:the\s+)?$",
    re.I,
)  # fmt: skip
_OPENS: Final = re.compile(r"\bbetween\s+(?:the\s+)?$", re.I)
#: What a rate is for, if it is no role.
_LABOUR: Final = re.compile(r"\b(?:rates?|labou?r|work|pay|wages?|salary|team|crew|costs?)\b")
_IN_BRACKETS: Final = re.compile(r"\b([a-z][a-z-]*)\s*\($", re.I)
_GROUPS: Final = re.compile(rf"\bgroups?\s+of\s+(?:up\s+to\s+|at\s+most\s+)?(?P<n>{_N})\b", re.I)


#: What is left of "at most EUR 100" without its amount.
_BOUND: Final = re.compile(
    r"\b(?:at most|no more than|no later than)(?=\s*(?:$|\s{2}|[,.;]))", re.I
)
_NONE_YET: Final = re.compile(r"\bno\s+(?:deadline|budget|date|team|limit)\b", re.I)
#: What precedes a number that is a bound, not a size.
_BOUNDED: Final = re.compile(
    r"\b(?:more|less|fewer|longer|later)\s+than\s+$|\bat\s+(?:most|least)\s+$", re.I
)
_EACH_GETS: Final = re.compile(
    r"\b(?:each|every)\s+(?P<per>[a-z-]+)\s+(?:gets|receives|needs|is\s+given)\s+(?:an?\s+)?"
    r"(?P<item>[a-z-]+(?:\s+[a-z-]+)?)\s+(?:of|for|at|worth)\s+$",
    re.I,
)


#: "a team of five": those who do the work.
_TEAM_OF: Final = re.compile(
    rf"\b(?:team|crew|group)\s+of\s+(?P<n>{_N})\b(?!\s+(?:{_ROLES})\b)(?!\s*(?:each|per|[-\u2013]\s?\d|to\s|or\s))"
    rf"|\b(?P<n2>{_N})[\s-](?:person|people|man|woman|strong)\s+(?:team|crew)\b",
    re.I,
)
_SAID_BUDGET: Final = re.compile(
    r"\b(?:budget|at\s+most|no\s+more\s+than|up\s+to|maximum|limit)\b[^.;,]{0,25}$", re.I
)
_HOW_LONG: Final = "For how long is {} to be paid?"
_FIRM: Final = re.compile(r"\b(?:by|before|until|till|deadline\s+(?:is|of))\s+(?:the\s+)?$", re.I)


class Reader:
    """Reads one prompt; what a rule has understood is taken out for those after it."""

    def __init__(self, prompt: str, today: date) -> None:
        self.prompt = " ".join(prompt.split())
        self.today = today
        self._left = self.prompt
        self._found: dict[str, Any] = {}
        self._doubts: list[Doubt] = []

    def read(self) -> Facts:
        """Everything the prompt states."""
        self._ranges()
        self._effort()
        self._dates()
        self._money()
        self._spans()
        self._people()
        self._vague()
        self._quantities()
        self._contradictions()
        return Facts(
            prompt=self.prompt,
            goal=goal_of(self.prompt),
            today=self.today,
            limits=[part for part in _parts(self.prompt) if self._is_limit(part)],
            others=list(self._unread()),
            doubts=self._doubts,
            **self._found,
        )

    def _is_limit(self, part: str) -> bool:
        """Whether a sentence says more of a limit than the deadline and the budget in it."""
        for name in ("deadline", "budget"):
            if name in self._found:
                part = part.replace(self._found[name].text, " ")
        part = _BOUND.sub("", _NONE_YET.sub("", part))
        return bool(_LIMIT.search(part))

    def _take(self, start: int, end: int) -> str:
        """The words of a span, which no later rule reads again."""
        self._left = self._left[:start] + "\x00" * (end - start) + self._left[end:]
        return self.prompt[start:end].strip(" ,.;:")

    def _near(self, pattern: re.Pattern[str], at: int) -> re.Match[str] | None:
        """A match that ends at a place; what is far before it is not looked at."""
        return pattern.search(self.prompt, max(0, at - 200), at)

    def _ranges(self) -> None:
        for found in _RANGE.finditer(self._left):
            before, unit = self.prompt[: found.start()], (found["unit"] or "").lower()
            money = found["c1"] or found["c2"] or _BUDGET_BEFORE.search(before)
            if unit[:3] in _SHORT_MONTHS or not (money or unit) or unit in {"of", "in", "on"}:
                continue  # days, or a code
            about = "budget" if money else "figure"
            if re.fullmatch(_ROLES, unit) and not _AUDIENCE_BEFORE.search(before):
                about = "team"
            elif re.fullmatch(_UNIT_OF_TIME, unit) and re.search(r"\b(?:with)?in\s+$", before):
                about = "deadline"
            self._doubt(about, self._take(*found.span()), "Which figure of “{}” counts?")

    def _effort(self) -> None:
        for found in _EFFORT.finditer(self._left):
            unit = (found["u1"] or found["u2"]).lower()
            number = number_of(found["n"])
            if number is None:
                continue
            hours = number * HOURS[unit]
            text = self._take(*found.span())
            self._found.setdefault("effort", Counted(value=hours, noun="hour", text=text))

    def _dates(self) -> None:
        loose: list[str] = []
        for found in _DATES.finditer(self._left):
            if "\x00" in self._left[slice(*found.span())]:
                continue  # the other of two days
            named = self._near(_DAY_NAME, found.start())
            at = named.start() if named else found.start()
            starts = self._near(_STARTS, at) and not self._near(_BETWEEN, at)
            noun = re.match(r"\s+([^\W\d_]+)", self.prompt[found.end() :])
            if (
                (found["christmas"] or found["m4"] or found["weekday"])
                and noun
                and noun[1] not in _STOPS
                and not self._near(_HINT, at)
            ):
                loose.append(found.group() + noun.group())  # as in "Christmas market"
                continue
            moved = self._near(_MOVED, at) or (not starts and self._near(_NOT_BEFORE, at))
            if found["m4"] or found["quarter"]:
                moved = moved or self._near(_PART, at)
            elif found["weekday"]:
                moved = moved or self._near(_NO_WEEKDAY, at)
            after = _MOVED_AFTER.match(self.prompt, found.end())
            if found["nth"] or moved or after:
                words = self._take((moved or found).start(), (after or found).end())
                self._doubt("deadline", words, "Which day is meant by “{}”?")
                continue
            read = self._date_of(found, starts=bool(starts), before=bool(self._near(_BEFORE, at)))
            if read is None:
                continue
            value, rule = read
            if named and named["name"][:3].lower() != WEEKDAYS[value.weekday()][:3]:
                words = self.prompt[named.start() : found.end()]
                self._doubt("deadline", words, f"It is a {value:%A}: which day is meant?")
            since = self._near(_BETWEEN, at)
            if since and "\x00" in self._left[slice(*since.span("day"))]:
                since = None  # of another date
            ahead = value.day - int(since["day"]) if since else -1
            if since and ahead > 0 and _is_span(since, ahead):
                first = value.replace(day=int(since["day"]))
                text = self.prompt[since.start() : found.end()].strip()
                self._take(*since.span())
                self._found.setdefault("window", Dated(day=first, text=text, rule="as stated"))
            if found["d0"]:
                first = value.replace(day=int(found["d0"]))
                self._found.setdefault("window", Dated(day=first, text=found.group(), rule=rule))
            if self._near(_OPENS, at) or (not starts and _until_another(self._left, found.end())):
                text = self._take(*found.span())
                self._found.setdefault("window", Dated(day=value, text=text, rule=rule))
                continue
            window = self._found.get("window")
            if window and window.rule == "the next one":  # it is of the year of the last day
                year = value.year - (window.day.replace(year=value.year) > value)
                day = window.day.replace(year=year)
                self._found["window"] = window.model_copy(update={"day": day})
            hint = self._near(_HINT, at)
            span = (hint.start() if hint else found.start(), found.end())
            text = self.prompt[slice(*span)].strip(" ,.;:")
            self._take(*found.span())
            name = "start" if starts else "deadline"
            first_read = self._found.setdefault(name, Dated(day=value, text=text, rule=rule))
            if name == "deadline" and first_read.day != value and self._near(_FIRM, at):
                words = f"{first_read.text} … {text}"
                self._doubt("deadline", words, "Two days are named: which one is the deadline?")
        if "deadline" not in self._found:
            for words in loose:
                self._doubt("deadline", words, "Which day is meant by “{}”?")

    def _date_of(
        self, found: re.Match[str], *, starts: bool, before: bool
    ) -> tuple[date, str] | None:
        """The day a match names; before it, when the words say so."""
        try:
            first, last, rule = self._days_of(found)
        except ValueError:  # as the 31st of June, unless it was asked about already
            words = self._take(*found.span())
            if all(each.text != words for each in self._doubts):
                self._doubt("deadline", words, "There is no {}: which day is meant?")
            return None
        if before:
            return first - timedelta(days=1), "the day before"
        return (first, rule) if starts else (last, rule)

    def _days_of(self, found: re.Match[str]) -> tuple[date, date, str]:
        if found["numeric"]:
            return self._numeric(found["numeric"], found["mark"])
        for number in ("1", "2"):
            if found[f"d{number}"]:
                exact = self._in_year(found, number, int(found[f"d{number}"]))
                named = "as stated" if found[f"y{number}"] else "the next one"
                return exact, exact, named
        if found["m3"]:
            whole = self._in_year(found, "3", 1)
            part = {"beginning": 7, "start": 7, "middle": 15}.get(found["part"].lower())
            last = whole.replace(day=part) if part else month_end(whole.year, whole.month)
            return whole, last, f"the {found['part'].lower()} of the month"
        if found["m4"]:
            whole = self._in_year(found, "4", 1)
            return whole, month_end(whole.year, whole.month), "the last day of the month"
        if found["weekday"]:
            ahead = (WEEKDAYS.index(found["weekday"].lower()) - self.today.weekday() - 1) % 7 + 1
            exact = self.today + timedelta(days=ahead)
            return exact, exact, "the next one"
        if found["tomorrow"]:
            return (exact := self.today + timedelta(days=1)), exact, "the day after today"
        if found["quarter"]:
            year, month = int(found["y6"]), int(found["q"]) * 3
            return date(year, month - 2, 1), month_end(year, month), "the last day of the quarter"
        month, day = (12, 25) if found["christmas"] else (12, 31)
        if stated := found["y7"] or found["y5"]:
            return (exact := date(int(stated), month, day)), exact, "as stated"
        exact = date(self.today.year, month, day)
        if exact < self.today:
            exact = date(self.today.year + 1, month, day)
        return exact, exact, "the next one"

    def _numeric(self, text: str, mark: str) -> tuple[date, date, str]:
        """A day in figures, where only one reading is possible; the other cases are asked."""
        parts = [int(part) for part in text.split(mark)]
        if text.index(mark) == 4:
            exact = date(*parts)
            return exact, exact, "as stated"
        first, second, year = parts
        year += 2000 if year < 100 else 0
        if mark == ".":
            return (exact := date(year, second, first)), exact, "as stated"
        if first <= 12 and second <= 12 and first != second:
            one, other = date(year, second, first), date(year, first, second)
            question = f"Is {text} {named_day(one)} or {named_day(other)}?"
            self._doubt("deadline", text, question)
            raise ValueError(text)
        exact = date(year, *((second, first) if first > 12 else (first, second)))
        return exact, exact, "the only day it can be"

    def _doubt(self, about: str, text: str, question: str) -> None:
        """Ask `question` about words, which stand for its `{}`; once."""
        question = question.format(text)
        made = Doubt.model_validate({"about": about, "text": text, "question": question})
        if made not in self._doubts:
            self._doubts.append(made)

    def _vague(self) -> None:
        """Times and amounts that are named and cannot be read, and words that take one back."""
        if "deadline" not in self._found:
            for found in _WHEN.finditer(self._left):
                words = self._take(*found.span())
                self._doubt("deadline", words, "Which day is meant by “{}”?")
        bare = _BARE_BUDGET.search(self._left)
        if bare and "budget" not in self._found:
            self._doubt("budget", self._take(*bare.span()), "In which currency is the budget?")
        if part := _PART_TIME.search(self.prompt):
            question = "How many people at eight hours a day is that?"
            self._doubt("team", part.group(), question)
        for about, pattern, question in _UNCLEAR:
            named = pattern.search(self._left)
            known = self._found.get(about) or (about == "budget" and self._found["costs"])
            if not named or known or any(each.about == about for each in self._doubts):
                continue
            if about == "team" and _AUDIENCE_BEFORE.search(self.prompt[: named.start()]):
                continue
            self._doubt(about, named.group(), question)

    def _contradictions(self) -> None:
        """Days that are past, and words that take back what was said before."""
        deadline = self._found.get("deadline")
        if deadline is not None and deadline.day < self.today:
            past = f"{named_day(deadline.day)} is past: which day is meant?"
            self._doubt("deadline", deadline.text, past)
            del self._found["deadline"]
        for doubt in self._doubts:
            if doubt.question.startswith("Two "):  # neither counts until it is answered
                self._found.pop(doubt.about, None)
        words = re.findall(r"[^\W\d_]+", self.prompt.casefold())
        counted = self._found["quantities"] or re.search(r"\d", self.prompt)
        if _ASKED.search(self.prompt) and _SENTENCE.split(self.prompt)[0].endswith("?"):
            question = "This is a question, and no work to be planned: what is to be done?"
            self._doubt("figure", goal_of(self.prompt), question)
        elif not words or (not _ENGLISH & set(words) and len(words) <= 4 and not counted):
            question = "What exactly is to be done, and how much of it?"
            self._doubt("figure", self.prompt.strip(" ."), question)
        elif not _ENGLISH & set(words) and len(words) > 4:
            question = "This does not look English, the one language read here: what is wanted?"
            self._doubt("figure", " ".join(self.prompt.split()[:6]) + " …", question)
        for part in _parts(self.prompt):
            if words and _CORRECTED.search(part) and re.search(rf"\d|\b(?:{_N})\b", part):
                question = "The prompt takes something back here: which figure counts?"
                of_team = any(group.text in part for group in self._found["team"])
                about = "team" if of_team else "figure"
                self._doubt(about, part, question)
                if about == "team":
                    self._found["team"] = []

    def _in_year(self, found: re.Match[str], number: str, day: int) -> date:
        name = found[f"m{number}"][:3].lower()
        month = next(n for n, each in enumerate(MONTHS, 1) if each.startswith(name))
        if year := found[f"y{number}"]:
            return date(int(year) if year.isdigit() else 2000 + int(year[1:]), month, day)
        this = date(self.today.year, month, day)
        past = month_end(this.year, month) if number in {"3", "4"} else this
        return this if past >= self.today else date(self.today.year + 1, month, day)

    def _spans(self) -> None:
        """Times to finish in, counted from the first day."""
        for found in _SPAN.finditer(self._left):
            if "deadline" in self._found:
                return
            start = self._found.get("start")
            first = next_working_day(start.day if start else self.today)
            amount = Decimal(1) if found["n"].lower() in {"a", "an"} else number_of(found["n"])
            if amount is None or amount % 1:
                self._doubt("deadline", found.group(), "On which day must it be finished?")
                continue
            unit, working = found["unit"].lower(), (found["kind"] or "").strip().lower()
            whole = max(1, int(amount))
            if unit == "hour" and not re.match(r"in\b|within\b|deadline", found["hint"], re.I):
                continue  # "under 4 hours" is what is wanted, and no day
            if unit == "hour":
                last = first + timedelta(days=(whole - 1) // 24)
            elif unit == "day" and working in {"working", "business"}:
                last = add_working_days(first, whole - 1)
            elif unit in {"month", "year"}:
                last = add_months(first, whole * (12 if unit == "year" else 1)) - timedelta(days=1)
            else:
                last = first + timedelta(days=whole * (7 if unit == "week" else 1) - 1)
            text = self._take(*found.span())
            rule = "counted from the first day of the plan"
            self._found["deadline"] = Dated(day=last, text=text, rule=rule)

    def _money(self) -> None:
        rates, prices, costs = (self._found.setdefault(n, []) for n in ("rates", "prices", "costs"))
        wholes: list[Amount] = []
        for found in _MONEY.finditer(self._left):
            before, after = self.prompt[: found.start()], self.prompt[found.end() :]
            amount = number_of(found["n1"] or found["n2"])
            name = found["c1"] or found["c2"]
            currency = currency_of(name)
            if currency is None and re.fullmatch("[A-Z]{3}", name):
                continue  # some other three letters
            changed = _CHANGED.search(before)
            if amount is None or currency is None or changed:
                words = self._take((changed or found).start(), found.end())
                self._doubt("budget", words, "Which amount is “{}”?")
                continue
            item = _ITEM.search(before)
            noun = item["item"].lower() if item else ""
            noun = " ".join(word for word in noun.split() if word not in _STOPS)
            if not noun and (listed := _LISTED.search(before)):
                noun = (listed["item"] or listed["item2"]).lower()
                item = listed if listed["q"] else item
            text = self._take(*found.span())
            made: dict[str, Any] = {"amount": amount, "currency": currency, "text": text}
            made["item"] = noun
            if gets := _EACH_GETS.search(before):
                made |= {"per": singular_of(gets["per"].lower()), "item": gets["item"].lower()}
                prices.append(Amount(**made))
            elif long := _LONG.search(before):
                self._doubt("budget", long.group() + text, _HOW_LONG)
            elif long := _PER_LONG.match(after):
                self._doubt("budget", text + long.group(), _HOW_LONG)
            elif per := _PER_TIME.match(after) or _RATE.search(before):
                unit = (per[1] or per[2]).lower()
                bracket = _IN_BRACKETS.search(before)
                noun = noun or (bracket[1].lower() if bracket else "")
                role = re.search(rf"\b(?:{_ROLES})\b", noun)
                made["text"] += per.group().rstrip() if per.string is after else ""
                if noun and not role and not _LABOUR.search(noun):
                    self._doubt("budget", made["text"], _HOW_LONG)
                    continue
                made |= {"per": "hour" if unit.startswith("h") else "day"}
                made["item"] = singular_of(role.group()) if role else ""
                rates.append(Amount(**made))
            elif _EACH.match(after) and not noun:
                self._doubt("budget", text, "What is {} for?")
            elif (
                _EACH.match(after)
                or (per := _PER_NOUN.match(after))
                or (item and "verb" in item.groupdict() and _is_each(item) and noun != "budget")
            ):
                each = (per[1] or "person").lower() if per else ""
                each = "square metre" if each in {"m²", "m2", "sqm"} else each
                quantity = number_of(item["q"]) if item and item["q"] else None
                if item and item["q"]:
                    made["text"] = f"{item['q']} {noun} at {text} each"
                    self._take(item.start("q"), item.end("q"))
                made |= {"per": singular_of(each or noun), "quantity": quantity}
                made["text"] += per.group() if per else ""
                prices.append(Amount(**made))
            elif "budget" not in self._found and (
                _BUDGET_BEFORE.search(before) or _BUDGET_AFTER.match(after)
            ):
                self._found["budget"] = Amount(**{**made, "item": ""})
            elif _SAID_BUDGET.search(before) and amount != self._found["budget"].amount:
                words = f"{self._found['budget'].text} … {text}"
                self._doubt("budget", words, "Two budgets are named: which one counts?")
            else:
                bought = _FOR.match(after)
                made["item"] = noun or (bought[1].lower() if bought else "")
                costs.append(Amount(**made))
                # "a hedge for 2,000 EUR": what the whole may cost, unless a budget is stated
                if re.search(r"\bfor\s+(?:about\s+|around\s+|~)?$", before, re.I):
                    wholes.append(costs[-1])
                elif not made["item"]:
                    costs.pop()
                    self._doubt("budget", text, "What is {} for?")
        if "budget" not in self._found and wholes:
            self._found["budget"] = wholes[0].model_copy(update={"item": ""})
            costs.remove(wholes[0])

    def _people(self) -> None:
        team: list[Counted] = self._found.setdefault("team", [])
        for found in _TEAM_OF.finditer(self._left):
            value = number_of(found["n"] or found["n2"])
            if value is not None and not team:
                text = self._take(*found.span())
                team.append(Counted(value=value, noun="person", text=text))
        for found in _PEOPLE.finditer(self._left):
            before, question, start = self.prompt[: found.start()], "", found.start()
            role = singular_of((found["role"] or "person").lower())
            value = Decimal(1) if found["alone"] else number_of(found["us"] or found["n"])
            if found["alone"]:
                pass
            elif role == "friend" and _HELPS.match(self.prompt[found.end() :]):
                question = "How many people do the work, with you?"
            elif _AUDIENCE_BEFORE.search(before) or (
                role in _GENERAL and not found["us"] and not _TEAM_BEFORE.search(before)
            ):
                continue  # those the work is for: a quantity
            elif (one := _ONE_OF.search(before)) and not team:
                question, start = "How many people do the work?", one.start()
            elif re.search(r"\band\s+$", before) and not team and not _WITH.search(before):
                continue
            elif value is None or value % 1 or _BOUNDED.search(before):
                question = "How many people do the work?"
            text = self._take(start, found.end())
            if question:
                self._doubt("team", text, question)
            elif value is not None:
                team.append(Counted(value=value, noun=role, text=text))
        if team and (more := _AND_ONE.search(self._left)):
            self._doubt("team", more.group(), "How many people do the work?")

    def _quantities(self) -> None:
        found_ones: list[Counted] = self._found.setdefault("quantities", [])
        for found in _GROUPS.finditer(self._left):
            value = number_of(found["n"])
            if value is not None:
                text = self._take(*found.span())
                found_ones.append(Counted(value=value, noun="person per group", text=text))
        for found in _UNIT.finditer(self._left):
            before, end = self.prompt[: found.start()], found.end()
            number = (found["n"] or found["n2"]).lower()
            value = number_of(number)
            if value is None or (number == "one" and _ANY.search(before)):
                continue
            if found["unit"]:
                is_share = found["unit"].lower() in {"%", "percent"}
                noun = "percent" if is_share else "square metre"
                of = _OF_EACH.search(before[-80:])
                if of and _EACH.match(self.prompt[end:]):
                    value *= number_of(of["n"]) or 1
            else:
                all_words = found["noun"].lower().split()
                words = list(takewhile(lambda word: word not in _STOPS, all_words))
                if not words or (number == "one" and words[0] == "another"):
                    continue
                noun = " ".join([*words[:-1], singular_of(words[-1])])
                if words[0] in HOURS and len(words) > 1:
                    noun = words[0]  # a two-day course has two days
                end = found.start("noun") + len(" ".join(words))
            made = Counted(
                value=value,
                noun=noun,
                text=self._take(found.start(), end),
                is_bound=bool(_BOUNDED.search(before)),
                is_audience=bool(_PERSON.search(noun) and _AUDIENCE_BEFORE.search(before)),
            )
            found_ones.append(made)

    def _unread(self) -> Iterator[str]:
        """Numbers that no rule understood, with the words around them."""
        for found in re.finditer(rf"\d[\d.,:/-]*|\b(?:{LARGE})s?\b", self._left, re.I):
            before = self.prompt[: found.start()].split()[-3:]
            after = self.prompt[found.end() :].split()[:3]
            text = " ".join([*before, found.group().rstrip(".,"), *after])
            yield text.strip(" ,.;:")


def read(prompt: str, today: date) -> Facts:
    """What `prompt` states, on the day `today`."""
    return Reader(prompt, today).read()


def _until_another(text: str, at: int) -> bool:
    """Whether a date follows that ends what begins here: 5 June to 7 June."""
    to = re.compile(r"\s*(?:to|until|till|-|\u2013)\s*(?:the\s+)?").match(text, at)
    return bool(to and _DATES.match(text, to.end()))


def _is_span(since: re.Match[str], days: int) -> bool:
    """Whether two days so far apart are the ends of a time: 5 to 7 June, not 5 and 19 June."""
    if (since["open"] or "").lower() in {"between", "from"}:
        return True
    to = since["to"].lower()
    return days == 1 if to == "and" else to not in {"until", "till"}


def _is_each(item: re.Match[str]) -> bool:
    """Whether an amount is for each one of the noun before it."""
    word = (item["each"] or item["item"].split()[0]).lower()
    return word in {"each", "every"} or (
        bool(item["each"]) and item["verb"].lower().startswith("cost")
    )


def goal_of(prompt: str) -> str:
    """The first sentence, without its full stop, at most 200 characters."""
    first = _SENTENCE.split(prompt.strip(), maxsplit=1)[0]
    first = first.rstrip(".!? ")
    return first if len(first) <= 200 else first[:199].rsplit(" ", 1)[0] + "…"


def _parts(prompt: str) -> list[str]:
    """Sentences and their halves, each short enough to be a constraint."""
    parts = [half for part in _SENTENCE.split(prompt) for half in re.split(r";\s+", part)]
    return [part.strip().rstrip(".") for part in parts if part.strip()][:20]
