"""What a prompt states: dates, money, people, quantities and limits, each with its words.

Nothing is guessed here. What a number means is decided by the words beside it; a number that no
rule knows is kept unchanged, so that the report can show it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from minutehand.apps.plans.planning.numbers import (
    MONTHS,
    NUMBER,
    WEEKDAYS,
    add_months,
    add_working_days,
    month_end,
    next_working_day,
    number_of,
    singular_of,
)


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
_YEAR: Final = r"(?:,?\s+(?P<{}>\d{{4}}))?"
_DATES: Final = re.compile(
    r"(?P<iso>\b\d{4}-\d{2}-\d{2}\b)"
    r"|(?P<dotted>\b\d{1,2}\.\d{1,2}\.\d{4}\b)"
    rf"|\b(?P<d1>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<m1>{_MONTH})\b{_YEAR.format('y1')}"
    rf"|\b(?P<m2>{_MONTH})\s+(?P<d2>\d{{1,2}})(?:st|nd|rd|th)?\b(?!\s*(?:people|%)){_YEAR.format('y2')}"
    rf"|\b(?:the\s+)?(?P<part>end|beginning|start|middle)\s+of\s+(?P<m3>{_MONTH})\b{_YEAR.format('y3')}"
    rf"|\b(?P<m4>{_MONTH})\b{_YEAR.format('y4')}"
    rf"|\b(?:next\s+)?(?P<weekday>{'|'.join(name.title() for name in WEEKDAYS)})\b"
    r"(?!,?\s+(?:the\s+)?\d)"
    r"|\b(?P<yearend>(?:the\s+)?end\s+of\s+(?:the|this)\s+year)\b"
    r"|\b(?P<christmas>Christmas)\b|\b(?P<tomorrow>tomorrow)\b"
)
_STARTS: Final = re.compile(
    r"\b(?:from|starting|starts?|begins?|beginning|not before|no earlier than|after)"
    r"(?:\s+(?:on|in|at|the))*\s*$", re.I,
)  # fmt: skip
_BEFORE: Final = re.compile(r"\bbefore(?:\s+the)?\s*$", re.I)
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
HOURS: Final = {"hour": 1, "day": 8, "week": 40, "month": 160}
_CURRENCIES: Final = {
    "€": "EUR", "eur": "EUR", "euro": "EUR", "euros": "EUR", "$": "USD", "usd": "USD",
    "dollar": "USD", "dollars": "USD", "£": "GBP", "gbp": "GBP", "pound": "GBP",
    "pounds": "GBP", "chf": "CHF", "franc": "CHF", "francs": "CHF",
}  # fmt: skip
_MONEY: Final = re.compile(
    rf"(?P<c1>€|£|\$|\b(?:EUR|USD|GBP|CHF)\b)\s?(?P<n1>{_N})"
    rf"|(?<![\w.,])(?P<n2>{_N})\s?(?P<c2>€|£|\$|(?:EUR|euros?|USD|dollars?|GBP|pounds?|CHF|francs?)\b)",
    re.I,
)
_PER_TIME: Final = re.compile(
    r"^\s*(?:/|per|an?|each)\s*(?:person[- ]|man[- ]|working[- ])?(day|hour|h)\b"
    r"|^\s*(daily|hourly)\b",
    re.I,
)
_PER_NOUN: Final = re.compile(r"^\s*(?:/|per|an?|for each|for every)\s+([a-z][a-z-]+)", re.I)
_EACH: Final = re.compile(r"^\s*(?:each|apiece|a piece)\b", re.I)
_ITEM: Final = re.compile(
    r"(?:(?:\b(?P<each>each|every|one|an?)\s+)|(?P<q>" + _N + r")\s+"
    r"|\bthe\s+|\bof\s+|\band\s+|[,;:]\s*|^)?"
    r"(?P<item>[a-z][a-z-]*(?:\s+[a-z][a-z-]+)?)\s+"
    r"(?P<verb>costs?|at|for|is|are|costing|priced\s+at|charges?|of)\s+"
    r"(?:about\s+|around\s+)?$", re.I,
)  # fmt: skip
_BUDGET_BEFORE: Final = re.compile(
    r"\b(?:budget|spend|spending|costs?\s+(?:no\s+more\s+than|at\s+most|less\s+than|under)"
    r"|no\s+more\s+than|at\s+most|up\s+to|under|less\s+than|within|maximum|limit|ceiling|funding"
    r"|grant|we\s+have|i\s+have|there\s+is)\b[^.;,]{0,25}$", re.I,
)  # fmt: skip
_BUDGET_AFTER: Final = re.compile(
    r"^\s*(?:budget|in\s+total|total|at\s+most|available|to\s+spend|is\s+all|or\s+less|maximum)\b",
    re.I,
)
_FOR: Final = re.compile(r"^\s+(?:for|on)\s+(?:the\s+|a\s+)?([a-z][a-z-]+)", re.I)
_ROLES: Final = (
    "people|persons?|developers?|engineers?|volunteers?|colleagues?|workers?|helpers?|trainers?"
    "|researchers?|painters?|movers?|builders?|carpenters?|designers?|electricians?|plumbers?"
    "|assistants?|members?|staff|analysts?|scientists?|friends|testers?|buyers?|technicians?"
    "|instructors?|employees|marketers?|organisers?|organizers?|interviewers?|students|tradespeople"
    "|craftspeople|librarians?|teachers?|nurses?"
)
_PEOPLE: Final = re.compile(
    rf"(?P<n>\b{_N})(?P<adj>(?:\s+(?:full-time|part-time|experienced|senior|junior|professional|"
    rf"skilled|in-house|trained|own|software|volunteer|paid))*)\s+(?P<role>{_ROLES})\b"
    rf"|(?P<us>\b{_N})\s+of\s+us\b|(?P<alone>\b(?:alone|on my own|by myself)\b)", re.I,
)  # fmt: skip
_GENERAL: Final = frozenset(
    {"person", "staff", "colleague", "member", "employee", "student", "friend", "teacher", "nurse",
     "librarian"}
)  # fmt: skip
_TEAM_BEFORE: Final = re.compile(
    r"\b(?:team\s+(?:of|has)|crew\s+of|we\s+are|we\s+have|i\s+have|have|has|by|with|are|group\s+of|and)"
    r"\s+(?:a\s+team\s+of\s+|only\s+|just\s+)?$", re.I,
)  # fmt: skip
_AUDIENCE_BEFORE: Final = re.compile(
    r"\b(?:train|training|teach|for|invite|seat|relocate|move|interview|survey|reach|host|onboard"
    r"|(?:office|department|company|branch|school|laboratory|library|library's)\s+(?:of|with|has))"
    r"\s+(?:our\s+|all\s+|the\s+|about\s+|its\s+|another\s+)?$", re.I,
)  # fmt: skip
_UNIT: Final = re.compile(
    rf"(?<![\w.,])(?P<n>{_N})[\s-]*(?P<unit>m²|m2\b|sqm\b|square\s+met(?:re|er)s?|%|percent)"
    rf"|(?<![\w.,])(?P<n2>{_N})[\s-]+(?P<noun>[a-z][a-z'-]+(?:\s+[a-z][a-z'-]+){{0,2}})", re.I,
)  # fmt: skip
_STOPS: Final = frozenset({
    "and", "or", "in", "on", "at", "for", "with", "of", "to", "by", "per", "from", "within",
    "the", "a", "an", "each", "is", "are", "has", "have", "must", "that", "who", "which",
    "into", "before", "after", "until", "every", "as", "be", "but", "than", "it", "its",
    "our", "we", "i", "so", "can", "may", "will", "should", "not", "no", "if", "when", "where",
    "while", "using", "through", "over", "under", "between", "during", "only", "plus", "costs",
    "cost",
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
_BETWEEN: Final = re.compile(r"\bbetween\s+(?P<day>\d{1,2})(?:st|nd|rd|th)?\s+and\s+$", re.I)
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


class Reader:
    """Reads one prompt; what a rule has understood is taken out for those after it."""

    def __init__(self, prompt: str, today: date) -> None:
        self.prompt = " ".join(prompt.split())
        self.today = today
        self._left = self.prompt
        self._found: dict[str, Any] = {}

    def read(self) -> Facts:
        """Everything the prompt states."""
        self._effort()
        self._dates()
        self._money()
        self._spans()
        self._people()
        self._quantities()
        return Facts(
            prompt=self.prompt,
            goal=goal_of(self.prompt),
            today=self.today,
            limits=[part for part in _parts(self.prompt) if self._is_limit(part)],
            others=list(self._unread()),
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

    def _effort(self) -> None:
        for found in _EFFORT.finditer(self._left):
            unit = (found["u1"] or found["u2"]).lower()
            hours = number_of(found["n"]) * HOURS[unit]
            text = self._take(*found.span())
            self._found.setdefault("effort", Counted(value=hours, noun="hours", text=text))

    def _dates(self) -> None:
        for found in _DATES.finditer(self._left):
            before = self.prompt[: found.start()]
            starts = _STARTS.search(before)
            read = self._date_of(found, starts=bool(starts), before=bool(_BEFORE.search(before)))
            if read is None:
                continue
            value, rule = read
            if (since := _BETWEEN.search(before)) and int(since["day"]) <= value.day:
                first = value.replace(day=int(since["day"]))
                text = self.prompt[since.start() : found.end()]
                self._take(*since.span())
                self._found.setdefault("window", Dated(day=first, text=text, rule="as stated"))
            hint = _HINT.search(before)
            span = (hint.start() if hint else found.start(), found.end())
            text = self.prompt[slice(*span)].strip(" ,.;:")
            self._take(*found.span())
            name = "start" if starts else "deadline"
            self._found.setdefault(name, Dated(day=value, text=text, rule=rule))

    def _date_of(
        self, found: re.Match[str], *, starts: bool, before: bool
    ) -> tuple[date, str] | None:
        """The day a match names; before it, when the words say so."""
        try:
            first, last, rule = self._days_of(found)
        except ValueError:
            return None  # as the 31st of June: a number that means something else
        if before:
            return first - timedelta(days=1), "the day before"
        return (first, rule) if starts else (last, rule)

    def _days_of(self, found: re.Match[str]) -> tuple[date, date, str]:
        if found["iso"]:
            exact = date.fromisoformat(found["iso"])
            return exact, exact, "as stated"
        if found["dotted"]:
            day, month, year = map(int, found["dotted"].split("."))
            return (exact := date(year, month, day)), exact, "as stated"
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
        month, day = (12, 25) if found["christmas"] else (12, 31)
        exact = date(self.today.year, month, day)
        if exact < self.today:
            exact = date(self.today.year + 1, month, day)
        return exact, exact, "the next one"

    def _in_year(self, found: re.Match[str], number: str, day: int) -> date:
        month = MONTHS.index(found[f"m{number}"].lower()) + 1
        if found[f"y{number}"]:
            return date(int(found[f"y{number}"]), month, day)
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
            unit, working = found["unit"].lower(), (found["kind"] or "").strip().lower()
            whole = max(1, int(amount))
            if unit == "hour":
                last = add_working_days(first, (whole - 1) // 8)
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
        rates: list[Amount] = []
        prices: list[Amount] = []
        costs: list[Amount] = []
        wholes: list[Amount] = []
        for found in list(_MONEY.finditer(self._left)):
            before, after = self.prompt[: found.start()], self.prompt[found.end() :]
            amount = number_of(found["n1"] or found["n2"])
            currency = _CURRENCIES[(found["c1"] or found["c2"]).lower()]
            item = _ITEM.search(before)
            noun = item["item"].lower() if item else ""
            noun = " ".join(word for word in noun.split() if word not in _STOPS)
            text = self._take(*found.span())
            made: dict[str, Any] = {
                "amount": amount,
                "currency": currency,
                "item": noun,
                "text": text,
            }
            if gets := _EACH_GETS.search(before):
                made |= {"per": singular_of(gets["per"].lower()), "item": gets["item"].lower()}
                prices.append(Amount(**made))
            elif per := _PER_TIME.match(after):
                unit = (per[1] or per[2]).lower()
                role = re.search(rf"\b(?:{_ROLES})\b", noun)
                made |= {"per": "hour" if unit.startswith("h") else "day"}
                made["item"] = singular_of(role.group()) if role else ""
                made["text"] += per.group().rstrip()
                rates.append(Amount(**made))
            elif (
                _EACH.match(after)
                or (per := _PER_NOUN.match(after))
                or (item and _is_each(item) and noun != "budget")
            ):
                each = per[1].lower() if per else ""
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
            else:
                bought = _FOR.match(after)
                made["item"] = noun or (bought[1].lower() if bought else "")
                costs.append(Amount(**made))
                # "a hedge for 2,000 EUR": what the whole may cost, unless a budget is stated
                if not made["item"] or (item and item["verb"].lower() == "for"):
                    wholes.append(costs[-1])
        if "budget" not in self._found and wholes:
            self._found["budget"] = wholes[0].model_copy(update={"item": ""})
            costs.remove(wholes[0])
        self._found |= {"rates": rates, "prices": prices, "costs": costs}

    def _people(self) -> None:
        team: list[Counted] = []
        for found in list(_PEOPLE.finditer(self._left)):
            before = self.prompt[: found.start()]
            if found["alone"]:
                text = self._take(*found.span())
                team.append(Counted(value=Decimal(1), noun="person", text=text))
                continue
            role = "person" if found["us"] else singular_of(found["role"].lower())
            for_them = _AUDIENCE_BEFORE.search(before)
            general = role in _GENERAL and not found["us"] and not _TEAM_BEFORE.search(before)
            if for_them or general:
                continue  # those the work is for: a quantity
            if re.search(r"\band\s+$", before) and not team:
                continue
            text = self._take(*found.span())
            value = number_of(found["us"] or found["n"])
            team.append(Counted(value=value, noun=role, text=text))
        self._found["team"] = team

    def _quantities(self) -> None:
        found_ones: list[Counted] = []
        for found in list(_GROUPS.finditer(self._left)):
            text = self._take(*found.span())
            found_ones.append(
                Counted(value=number_of(found["n"]), noun="person per group", text=text)
            )
        for found in list(_UNIT.finditer(self._left)):
            number = found["n"] or found["n2"]
            if number.lower() == "one" and re.search(
                r"\b(?:no|any|some|every|this|that)\s+$", self.prompt[: found.start()], re.I
            ):
                continue
            if found["unit"]:
                unit = found["unit"].lower()
                noun = "percent" if unit in {"%", "percent"} else "square metre"
                end = found.end()
            else:
                words = []
                for word in found["noun"].lower().split():
                    if word in _STOPS:
                        break
                    words.append(word)
                if not words or (number.lower() == "one" and words[0] == "another"):
                    continue
                noun = " ".join([*words[:-1], singular_of(words[-1])])
                if words[0] in HOURS and len(words) > 1:
                    noun = words[0]  # a two-day course has two days
                end = found.start("noun") + len(" ".join(words))
            text = self._take(found.start(), end)
            bound = bool(_BOUNDED.search(self.prompt[: found.start()]))
            found_ones.append(
                Counted(value=number_of(number), noun=noun, text=text, is_bound=bound)
            )
        self._found["quantities"] = found_ones

    def _unread(self) -> Iterator[str]:
        """Numbers that no rule understood, with the words around them."""
        for found in re.finditer(r"\d[\d.,:/-]*", self._left):
            before = self.prompt[: found.start()].split()[-3:]
            after = self.prompt[found.end() :].split()[:3]
            text = " ".join(
                [*before, self.prompt[found.start() : found.end()].rstrip(".,"), *after]
            )
            yield text.strip(" ,.;:")


def read(prompt: str, today: date) -> Facts:
    """What `prompt` states, on the day `today`."""
    return Reader(prompt, today).read()


def _is_each(item: re.Match[str]) -> bool:
    """Whether an amount is for each one of the noun before it."""
    word = (item["each"] or "").lower()
    return word in {"each", "every"} or (bool(word) and item["verb"].lower().startswith("cost"))


def goal_of(prompt: str) -> str:
    """The first sentence, without its full stop, at most 200 characters."""
    first = _SENTENCE.split(prompt.strip(), maxsplit=1)[0]
    first = first.rstrip(".!? ")
    return first if len(first) <= 200 else first[:199].rsplit(" ", 1)[0] + "…"


def _parts(prompt: str) -> list[str]:
    """Sentences and their halves, each short enough to be a constraint."""
    parts = [half for part in _SENTENCE.split(prompt) for half in re.split(r";\s+", part)]
    return [part.strip().rstrip(".") for part in parts if part.strip()][:20]
