"""The budget: what stated prices and rates make of the work, what is unknown, and what is left.

Rules: labour is hours times the stated rate; a stated price is multiplied by the quantity it is
counted by; a tenth of what is known is kept as a reserve; what no price is stated for is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Final, Literal

from minutehand_apps.plans.planning.breakdown import Package, SizeTaken
from minutehand_apps.plans.planning.numbers import count, money, plural_of, singular_of
from minutehand_apps.plans.planning.numbers import hours as hours_of
from minutehand_apps.plans.planning.patterns import Pattern
from minutehand_apps.plans.planning.reading import Amount, Exact, Facts

RESERVE: Final = Decimal("0.10")
#: Who works without pay, unless a rate is stated.
UNPAID: Final = frozenset({"volunteer", "friend"})
_CENT: Final = Decimal("0.01")
Verdict = Literal["fits", "tight", "does_not_fit", "unknown", "no_budget"]


class Line(Exact):
    """One thing that costs money; without an amount where nothing says what it costs."""

    item: str
    package: str
    amount: Decimal | None
    basis: str
    unknown: str = ""


class PhaseCost(Exact):
    """What a phase costs, as far as is known."""

    phase: str
    hours: float
    amount: Decimal


class Budget(Exact):
    """All costs, rolled up, and how they compare with the stated budget."""

    currency: str
    limit: Decimal | None
    lines: list[Line]
    phases: list[PhaseCost]
    known: Decimal
    reserve: Decimal
    total: Decimal
    left: Decimal | None
    verdict: Verdict
    rate_left: Decimal | None = None
    hours: float
    other_currencies: list[str]

    @property
    def unknown(self) -> list[Line]:
        """What no price is stated for."""
        return [line for line in self.lines if line.amount is None]


def budget_of(
    facts: Facts, pattern: Pattern, packages: Sequence[Package], sizes: Sequence[SizeTaken]
) -> Budget:
    """The budget of these packages."""
    currency = facts.currency
    lines = [*_labour(facts, packages, currency), *_things(facts, pattern, packages, sizes)]
    known = _sum(lines)
    reserve = (known * RESERVE).quantize(_CENT, ROUND_HALF_UP)
    limit = facts.budget.amount if facts.budget else None
    hours = sum(package.hours or 0 for package in packages)
    return Budget(
        currency=currency,
        limit=limit,
        lines=lines,
        phases=_by_phase(packages, lines),
        known=known,
        reserve=reserve,
        total=known + reserve,
        left=None if limit is None else limit - known - reserve,
        verdict=_verdict(limit, known, reserve, lines),
        rate_left=_rate_left(limit, known, reserve, hours, lines),
        hours=hours,
        other_currencies=sorted(_currencies(facts) - {currency}),
    )


def _currencies(facts: Facts) -> set[str]:
    amounts = [*facts.rates, *facts.prices, *facts.costs]
    return {each.currency for each in amounts} | (
        {facts.budget.currency} if facts.budget else set()
    )


def _labour(facts: Facts, packages: Sequence[Package], currency: str) -> list[Line]:
    rates = [rate for rate in facts.rates if rate.currency == currency]
    if not rates and facts.team and all(group.noun in UNPAID for group in facts.team):
        text = f"“{facts.team[0].text}” are not paid"
        return [Line(item="Labour", package="", amount=Decimal(0), basis=text)]
    if not rates:
        needs = "a rate per hour or day, or that the people are not paid from this budget"
        return [_open("Labour", "", "The prompt states no rate", needs)]
    lines = []
    for package in packages:
        rate, item = _rate_for(rates, package), f"Labour: {package.title}"
        if package.hours is None:
            lines.append(_open(item, package.id, f"{rate.text}, hours unknown", package.unknown))
            continue
        hourly = rate.amount if rate.per == "hour" else rate.amount / 8
        amount = (Decimal(str(package.hours)) * hourly).quantize(_CENT, ROUND_HALF_UP)
        basis = f"{hours_of(package.hours)} h at {rate.text}"
        lines.append(Line(item=item, package=package.id, amount=amount, basis=basis))
    return lines


def _open(item: str, package: str, basis: str, needs: str) -> Line:
    """A line without an amount."""
    return Line(item=item, package=package, amount=None, basis=basis, unknown=needs)


def _rate_for(rates: list[Amount], package: Package) -> Amount:
    role = package.role.lower()
    return next((rate for rate in rates if rate.item and rate.item in role), rates[0])


def _things(
    facts: Facts, pattern: Pattern, packages: Sequence[Package], sizes: Sequence[SizeTaken]
) -> list[Line]:
    here = {package.id for package in packages}
    stated = [each for each in (*facts.prices, *facts.costs) if each.currency == facts.currency]
    lines: list[Line] = []
    met: set[str] = set()
    for each in stated:
        matching = [
            cost for cost in pattern.costs if {each.per, *each.item.split()} & _forms(cost.words)
        ]
        cost = matching[0] if matching else None
        if cost is None and each.quantity is not None and pattern.name == "purchase":
            cost = pattern.costs[0]
        met |= {cost.item} if cost else set()
        package = cost.task if cost and cost.task in here else ""
        lines.append(_priced(each, facts, sizes, package))
    no_price = "The prompt states no price"
    return lines + [
        _open(cost.item.capitalize(), cost.task, no_price, f"the price of {cost.item}")
        for cost in pattern.costs
        if cost.item not in met and cost.task in here
    ]


def _forms(words: tuple[str, ...]) -> set[str]:
    return {form for word in words for form in (word, singular_of(word), plural_of(word))}


def _priced(each: Amount, facts: Facts, sizes: Sequence[SizeTaken], package: str) -> Line:
    item = (each.item or each.per or "stated amount").capitalize()
    if not each.per:
        return Line(item=item, package=package, amount=each.amount, basis=f"Stated: {each.text}")
    number, source = each.quantity, "as stated"
    if number is None:
        counted = [q for q in facts.quantities if each.per in {q.noun, q.noun.split()[-1]}]
        taken = [size for size in sizes if each.per == size.unit or _same(each.per, size)]
        if counted:
            number, source = counted[0].value, f"“{counted[0].text}”"
        elif taken:
            number, source = Decimal(str(taken[0].value)), taken[0].basis
    if number is None:
        needs = f"the number of {plural_of(each.per)}"
        return _open(item, package, f"Stated: {each.text}", needs)
    amount = (each.amount * number).quantize(_CENT, ROUND_HALF_UP)
    source = "" if source == "as stated" else f" ({source})"
    basis = f"{count(number, each.per)}{source} at {money(each.amount, each.currency)} each"
    return Line(item=item, package=package, amount=amount, basis=basis)


def _same(noun: str, size: SizeTaken) -> bool:
    people = {"person", "guest", "participant", "attendee", "head"}
    return noun in people and size.unit in people


def _by_phase(packages: Sequence[Package], lines: list[Line]) -> list[PhaseCost]:
    phases = {package.id: package.phase for package in packages}
    found = {
        phase: PhaseCost(
            phase=phase,
            hours=sum(package.hours or 0 for package in packages if package.phase == phase),
            amount=_sum(line for line in lines if phases.get(line.package) == phase),
        )
        for phase in phases.values()
    }
    general = _sum(line for line in lines if line.package not in phases)
    if general:
        found["Of no single phase"] = PhaseCost(phase="Of no single phase", hours=0, amount=general)
    return list(found.values())


def _sum(lines: Iterable[Line]) -> Decimal:
    return sum((line.amount for line in lines if line.amount is not None), Decimal(0))


def _verdict(limit: Decimal | None, known: Decimal, reserve: Decimal, lines: list[Line]) -> Verdict:
    if limit is None:
        return "no_budget"
    if known > limit:
        return "does_not_fit"
    if not known or any(line.amount is None for line in lines):
        return "unknown"
    return "tight" if known + reserve > limit else "fits"


def _rate_left(
    limit: Decimal | None, known: Decimal, reserve: Decimal, hours: float, lines: list[Line]
) -> Decimal | None:
    """What the budget leaves for an hour of work, where no rate is stated."""
    unpaid = any(line.item == "Labour" and line.amount is None for line in lines)
    if limit is None or not unpaid or not hours or limit <= known + reserve:
        return None
    return ((limit - known - reserve) / Decimal(str(hours))).quantize(_CENT, ROUND_HALF_UP)
