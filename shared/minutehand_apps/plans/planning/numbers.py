"""Numbers, amounts and dates: how a prompt writes them, and how the plan does.

reading.py decides what a number means.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Sequence
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

from price_parser import Price

_WORDS: Final = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14,
    "fifteen": 15, "sixteen": 16, "seventeen": 17, "eighteen": 18, "nineteen": 19,
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70,
    "eighty": 80, "ninety": 90,
}  # fmt: skip
_SCALES: Final = {
    "dozen": 12, "hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000,
    "k": 1_000, "t": 1_000, "tsd": 1_000, "m": 1_000_000, "mn": 1_000_000, "mio": 1_000_000,
    "bn": 1_000_000_000, "mrd": 1_000_000_000,
}  # fmt: skip
MONTHS: Final = [name.lower() for name in calendar.month_name[1:]]
WEEKDAYS: Final = [name.lower() for name in calendar.day_name]

#: From its first digit on: a long number is looked at once, not from each of its digits.
_DIGITS: Final = (
    r"(?<!\d)(?<!\d[.,])"
    r"(?:\d{1,3}(?:[ \u00a0\u202f'\u2019]\d{3})+(?!\d)(?:[.,]\d+)?|\d+(?:[.,]\d+)*)"
)
#: Thousands in threes by one mark and decimals by another, or decimals alone.
_WHOLE: Final = re.compile(r"\d{1,3}([^\d])\d{3}(?:\1\d{3})*(?:[.,]\d{1,2})?|\d+(?:[.,]\d{1,3})?")
_WORD: Final = "|".join(sorted(_WORDS, key=len, reverse=True))
LARGE: Final = "dozen|hundred|thousand|million|billion"
#: Numbers in words: twelve, a dozen, two hundred and fifty, one thousand two hundred.
_SPELT: Final = (
    rf"(?:(?:{_WORD})(?:[- ](?:{_WORD}))?|an?(?=\s(?:{LARGE})\b))"
    rf"(?:\s(?:{LARGE})\b(?:\s(?:and\s)?(?:{_WORD})\b(?:[- ](?:{_WORD})\b)?)?)*"
)
#: A number as people write it; no letter or digit follows it.
NUMBER: Final = rf"(?:{_DIGITS})(?:\s?(?:{LARGE}|k|K)(?![A-Za-z0-9]))?|{_SPELT}"
#: An amount of money: `m` after it is a million, and no metre; `T€` are thousands.
AMOUNT: Final = (
    rf"(?:{_DIGITS})\s?(?:(?:[KT]|Tsd|Mn|Mio|Mrd|M|bn)(?![A-Z0-9²])|[kT](?=€|EUR))|{NUMBER}"
)


def number_of(text: str) -> Decimal | None:
    """The number of a match of `NUMBER` or `AMOUNT`; None where its marks cannot be right.

    `price-parser` tells thousands from decimals by their shape: 60.000 and 60,000 are the same.
    """
    plain = text.strip().casefold()
    digits = re.match(r"[\d.,\u00a0\u202f '\u2019]+", plain)
    if digits:
        bare = digits.group().strip(" .,\u00a0\u202f")
        scale = _SCALES.get(plain[digits.end() :].strip(" ."), 1)
        if not _WHOLE.fullmatch(bare) or (scale > 1 and re.fullmatch(r"\d{1,3}[.,]\d{3}", bare)):
            return None  # 1.250 million is not a thousand millions
        # no thousands: too few or too many digits before the mark, or another mark for those
        decimals = re.fullmatch(r"(?:0|\d{4,})([.,])\d+", bare)
        bare = re.sub(r"[\u00a0\u202f '\u2019]", " ", bare)
        mark = decimals[1] if decimals else None
        value = Price.fromstring(bare, decimal_separator=mark).amount
        return None if value is None else value * scale
    total = part = 0
    for word in re.split(r"[- ]", plain):
        if _SCALES.get(word, 0) > 100:
            total, part = total + max(part, 1) * _SCALES[word], 0
        else:
            part = max(part, 1) * _SCALES[word] if word in _SCALES else part + _WORDS.get(word, 0)
    return Decimal(total + part)


#: Currencies by what is no code of theirs; the codes are price-parser's.
_CURRENCIES: Final = {
    "€": "EUR", "$": "USD", "us$": "USD", "a$": "AUD", "c$": "CAD", "nz$": "NZD", "r$": "BRL",
    "£": "GBP", "¥": "JPY", "₹": "INR", "zł": "PLN",
    "euro": "EUR", "dollar": "USD", "us dollar": "USD", "pound": "GBP", "franc": "CHF",
    "swiss franc": "CHF", "yen": "JPY", "zloty": "PLN",
}  # fmt: skip
#: What may be a currency; `currency_of` tells whether it is one.
CURRENCY: Final = (
    r"€|(?<=[kT])EUR\b|£|¥|₹|zł|(?:\b[A-Z]{1,3})?\$|\bRs(?=\.?\s?\d)|\b(?:(?:[a-z]+\s)?(?:dollar|franc|pound)s?|euros?|yen|zlotys?|kr|kron[aeu]r?"
    r"|crowns?|rupees?|pesos?|rand|lira"
    r"|eur|usd|gbp|chf|(?-i:(?!ALL|TOP|TRY)[A-Z]{3}))\b"
)


def currency_of(text: str) -> str | None:
    """The code of a currency by its sign, name or code; None where that is not certain."""
    name, code = text.casefold(), text.upper()
    if known := _CURRENCIES.get(name) or _CURRENCIES.get(name.removesuffix("s")):
        return known
    return code if code.isalpha() and Price.fromstring(f"{code} 1").currency == code else None


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
    return date(year, month, calendar.monthrange(year, month)[1])


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
