"""Numbers, amounts and dates: how a prompt writes them, and how the plan does.

reading.py decides what a number means.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

WORDS: Final = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14,
    "fifteen": 15, "sixteen": 16, "seventeen": 17, "eighteen": 18, "nineteen": 19,
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70,
    "eighty": 80, "ninety": 90,
}  # fmt: skip
_SCALES: Final = {
    "hundred": 100, "thousand": 1_000, "million": 1_000_000, "k": 1_000,
    "dozen": 12,
}  # fmt: skip
MONTHS: Final = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
)  # fmt: skip
WEEKDAYS: Final = (
    "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday",
)  # fmt: skip

_WORD: Final = "|".join(sorted(WORDS, key=len, reverse=True))
#: A number as people write it; no letter or digit follows it.
NUMBER: Final = (
    r"(?:\d{1,3}(?:[,\u00a0\u202f ]\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
    r"(?:\s?(?:million|thousand|k|K)(?![A-Za-z0-9]))?"
    rf"|(?:{_WORD})(?:[- ](?:{_WORD}))?(?:\s(?:hundred|thousand|million|dozen))?|a dozen|a hundred"
)


def number_of(text: str) -> Decimal:
    """The number of a match of `NUMBER`."""
    plain = text.strip().lower()
    digits = re.match(r"[\d.,\u00a0\u202f ]+", plain)
    if digits:
        value = Decimal(re.sub(r"[,\u00a0\u202f ]", "", digits.group()).rstrip("."))
        rest = plain[digits.end() :].strip()
        return value * _SCALES.get(rest, 1)
    total = Decimal(0)
    for word in re.split(r"[- ]", plain):
        if word in _SCALES:
            total = max(total, Decimal(1)) * _SCALES[word]
        else:
            total += WORDS.get(word, 0)
    return total


def figure(value: Decimal | float) -> str:
    """A number for reading: 1,200 or 2.5."""
    exact = Decimal(str(value)).quantize(Decimal("0.1"), ROUND_HALF_UP)
    if exact == exact.to_integral_value():
        return f"{int(exact):,}"
    return f"{exact:,}"


def hours(value: float) -> str:
    """Hours for reading, with their quarters: 1,200 or 2.25."""
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def money(amount: Decimal | float, currency: str) -> str:
    """An amount for reading: EUR 1,200 or EUR 12.50."""
    exact = Decimal(str(amount)).quantize(Decimal("0.01"), ROUND_HALF_UP)
    text = f"{exact:,.0f}" if exact == exact.to_integral_value() else f"{exact:,.2f}"
    return f"{currency} {text}"


def count(value: Decimal | float, singular: str, plural: str | None = None) -> str:
    """A number with its noun: 1 day, 2 days."""
    word = singular if Decimal(str(value)) == 1 else plural or plural_of(singular)
    return f"{figure(value)} {word}"


def plural_of(noun: str) -> str:
    """The regular plural of an English noun; the last word changes."""
    irregular = {"person": "people", "staff": "staff", "percent": "percent", "child": "children"}
    first, per, rest = noun.partition(" per ")
    if first in irregular or per:
        return irregular.get(first, first) + per + rest
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + ("es" if re.search(r"(s|x|ch|sh)$", noun) else "s")


def singular_of(noun: str) -> str:
    """The singular of a regular English plural, judged by its ending."""
    irregular = {"people": "person", "persons": "person", "staff": "staff", "children": "child"}
    if noun in irregular:
        return irregular[noun]
    if noun.endswith("ies") and len(noun) > 4:
        return noun[:-3] + "y"
    if re.search(r"(ss|x|ch|sh)es$", noun):
        return noun[:-2]
    return noun[:-1] if noun.endswith("s") and not noun.endswith("ss") else noun


def day(value: date) -> str:
    """A date for reading: Friday 5 March 2027."""
    return f"{value:%A} {value.day} {value:%B} {value.year}"


def listed(items: Sequence[str], last: str = "and") -> str:
    """Items as a list in a sentence: a, b and c."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {last} {items[-1]}"


def sentence(text: str) -> str:
    """`text` with a capital at its beginning and a full stop at its end."""
    text = " ".join(text.split())
    if not text:
        return ""
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".!?" else text + "."


def is_working_day(value: date) -> bool:
    """Whether it is a day from Monday to Friday."""
    return value.weekday() < 5


def next_working_day(value: date) -> date:
    """The first working day on or after `value`."""
    while not is_working_day(value):
        value += timedelta(days=1)
    return value


def add_months(value: date, months: int) -> date:
    """The same day so many months later, or that month's last day."""
    month = value.month - 1 + months
    year, month = value.year + month // 12, month % 12 + 1
    return min(date(year, month, 1) + timedelta(days=value.day - 1), month_end(year, month))


def month_end(year: int, month: int) -> date:
    """The last day of a month."""
    following = date(year + month // 12, month % 12 + 1, 1)
    return following - timedelta(days=1)


def working_days_between(first: date, last: date) -> int:
    """Working days from `first` to `last`, both included; 0 when `last` is earlier."""
    days = (last - first).days + 1
    if days <= 0:
        return 0
    weeks, rest = divmod(days, 7)
    return weeks * 5 + sum(is_working_day(first + timedelta(days=n)) for n in range(rest))


def add_working_days(value: date, days: int) -> date:
    """The working day `days` working days after the working day `value`."""
    weeks, rest = divmod(days, 5)
    value += timedelta(days=7 * weeks)
    while rest:
        value += timedelta(days=1)
        rest -= is_working_day(value)
    return value
