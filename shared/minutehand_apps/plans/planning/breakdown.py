"""From facts and a pattern to work packages: hours with their basis, range and confidence."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Final, Literal

from pydantic import Field

from minutehand_apps.plans.planning.numbers import count, figure, singular_of
from minutehand_apps.plans.planning.patterns import Pattern, Size, Task
from minutehand_apps.plans.planning.reading import HOURS, Counted, Exact, Facts

Confidence = Literal["high", "medium", "low", "none"]
#: People in one group of a training when the prompt does not say.
GROUP: Final = 12


class SizeTaken(Exact):
    """How large the work is by one measure, and where that is from."""

    name: str
    unit: str
    value: float
    stated: bool
    basis: str
    question: str = ""


class Package(Exact):
    """A work package with its estimate; without hours where there is no basis for any."""

    id: str
    number: str
    phase: str
    title: str
    role: str
    deliverable: str
    after: list[str]
    wait_days: float
    crew: int
    share: float = 1
    pinned: bool
    near_days: float | None = None
    hours: float | None
    low: float | None
    high: float | None
    basis: str
    confidence: Confidence
    unknown: str = ""
    steps: list[str] = Field(default_factory=list)


def sizes_of(pattern: Pattern, facts: Facts) -> list[SizeTaken]:
    """What the work is measured by: stated figures first, else what is usual, which is said."""
    found = {size.name: _stated(size, facts) for size in pattern.sizes}
    any_stated = any(found.values())
    taken: list[SizeTaken] = []
    for size in pattern.sizes:
        stated = found[size.name]
        # sizes that replace each other are usual only when none of them is stated
        usual = 0 if any_stated and _replaceable(pattern) else size.usual
        if pattern.one_size and any(each.stated for each in taken):
            stated = None
        if stated is not None:
            value, text = stated
            basis = f"The prompt says “{text}”"
        elif usual:
            value = float(usual)
            basis = f"Not stated; taken as {count(usual, size.unit)}, the usual size of the pattern"
        else:
            continue
        taken.append(
            SizeTaken(
                name=size.name, unit=size.unit, value=value, stated=stated is not None,
                basis=basis, question="" if stated else size.question,
            )
        )  # fmt: skip
    return _with_sessions(pattern, facts, taken)


def _replaceable(pattern: Pattern) -> bool:
    return pattern.one_size or pattern.name == "move"


def _stated(size: Size, facts: Facts) -> tuple[float, str] | None:
    counted = [
        *facts.quantities,
        *(
            Counted(value=price.quantity, noun=price.per, text=price.text)
            for price in facts.prices
            if price.quantity is not None
        ),
    ]
    matches = [each for each in counted if measures(size, each)]
    if matches:
        total = sum((each.value for each in matches), Decimal(0))
        return float(total), "” and “".join(each.text for each in matches)
    for noun in size.nouns:
        one = re.search(
            rf"\b(?:a|an|the|our|my|this|your)\s+(?:[a-z]+\s+)?{noun}\b", facts.prompt, re.I
        )
        if one and size.usual != 0 and size.name in {"walls", "items"} and noun not in _CROWDS:
            return 1.0, one.group()
    return None


def unused_of(pattern: Pattern, facts: Facts) -> list[Counted]:
    """Stated quantities that no size of the pattern measures, where its own size is assumed."""
    if facts.effort or any(_stated(size, facts) for size in pattern.sizes):
        return []
    return [
        each
        for each in facts.quantities
        if not each.is_bound and each.noun.split()[0] not in {*HOURS, "percent", "person"}
    ]


_CROWDS: Final = frozenset({"person", "people", "staff", "machine", "object", "item"})


def measures(size: Size, quantity: Counted) -> bool:
    """Whether a quantity says how large the work is."""
    if quantity.is_bound or quantity.noun == "person per group":
        return False
    if quantity.is_audience and size.unit in {"participant", "case", "guest"}:
        return True
    first, last = quantity.noun.split()[0], quantity.noun.split()[-1]
    words = {quantity.noun, last}
    if first == "staff" or first != singular_of(
        first
    ):  # "60 staff first aid", no "12 person tents"
        words.add(singular_of(first))
    return size.unit == quantity.noun or bool(words & set(size.nouns))


def _with_sessions(pattern: Pattern, facts: Facts, taken: list[SizeTaken]) -> list[SizeTaken]:
    """For training: how many groups there are, and how many days of teaching that makes."""
    if pattern.name != "training":
        return taken
    by_name = {size.name: size for size in taken}
    groups = by_name.get("groups")
    if groups is None:
        stated = next((q for q in facts.quantities if q.noun == "person per group"), None)
        per_group = int(stated.value) if stated else GROUP
        number = max(1, math.ceil(by_name["people"].value / max(1, per_group)))
        source = f"“{stated.text}”" if stated else f"groups of {GROUP}, which is usual"
        groups = SizeTaken(
            name="groups", unit="group", value=number, stated=stated is not None,
            basis=f"{count(by_name['people'].value, 'participant')} in {source}",
            question="" if stated else "How many people can be in one group?",
        )  # fmt: skip
        taken = [*taken, groups]
    days = by_name["days"].value
    return [
        *taken,
        SizeTaken(
            name="sessions",
            unit="day of teaching",
            value=groups.value * days,
            stated=groups.stated and by_name["days"].stated,
            basis=f"{count(groups.value, 'group')} times {count(days, 'day')}",
        ),
    ]


def packages_of(
    pattern: Pattern, facts: Facts, sizes: list[SizeTaken], *, steps: bool
) -> list[Package]:
    """The work packages, estimated; those that nothing in the prompt requires are omitted."""
    by_name = {size.name: size for size in sizes}
    raw = {task.id: _hours(task, by_name) for task in pattern.tasks}
    left_out = {
        task.id: task.after for task in pattern.tasks if raw[task.id] == 0 and not task.unknown
    }
    factor = _stated_factor(pattern, facts, raw)
    packages: list[Package] = []
    for index, (phase, tasks) in enumerate(pattern.phases, 1):
        for place, task in enumerate((task for task in tasks if task.id not in left_out), 1):
            after = [id_ for name in task.after for id_ in _instead(name, left_out)]
            estimate = _estimate(task, raw[task.id], by_name, facts, factor)
            # two people have no room in an hour's work
            crew = min(task.crew, max(1, int(raw[task.id] // 2)) if raw[task.id] else task.crew)
            packages.append(
                Package(
                    id=task.id, number=f"{index}.{place}", phase=phase, title=task.title,
                    role=task.role, deliverable=task.deliverable, crew=crew, share=task.share,
                    after=list(dict.fromkeys(after)), wait_days=task.wait, pinned=task.pinned,
                    near_days=task.near, steps=list(task.steps) if steps else [], **estimate,
                )
            )  # fmt: skip
    return packages


def _instead(name: str, left_out: dict[str, tuple[str, ...]]) -> list[str]:
    """A package, or the predecessors of an omitted one."""
    if name not in left_out:
        return [name]
    return [id_ for before in left_out[name] for id_ in _instead(before, left_out)]


def _hours(task: Task, sizes: dict[str, SizeTaken]) -> float:
    return task.hours + sum(hours * sizes[name].value for name, hours in task.per if name in sizes)


def _stated_factor(pattern: Pattern, facts: Facts, raw: dict[str, float]) -> float | None:
    """What the pattern's hours are multiplied by to make the stated total; None without one."""
    if facts.effort is None or pattern.name == "general":
        return None
    total = sum(raw.values())
    return float(facts.effort.value) / total if total else None


def _estimate(
    task: Task, hours: float, sizes: dict[str, SizeTaken], facts: Facts, factor: float | None
) -> dict[str, object]:
    if task.unknown:
        if facts.effort is None:
            none = dict.fromkeys(("hours", "low", "high"))
            basis = "There is no basis for an estimate"
            return {**none, "confidence": "none", "basis": basis, "unknown": task.unknown}
        hours, basis = float(facts.effort.value), f"The prompt says “{facts.effort.text}”"
        return _ranged(task, hours, basis, "high")
    if factor is not None:
        assert facts.effort is not None
        share = f"Its share of the stated “{facts.effort.text}” in the pattern's proportions"
        return _ranged(task, hours * factor, share, "medium")
    used = [(sizes[name], each) for name, each in task.per if name in sizes and sizes[name].value]
    parts = [f"{figure(task.hours)} h" if task.hours else ""]
    parts += [f"{each:g} h for each of {count(size.value, size.unit)}" for size, each in used]
    basis = f"Pattern: {' plus '.join(part for part in parts if part)}"
    sure = all(size.stated for size, _ in used)
    return _ranged(task, hours, basis, "medium" if sure else "low")


def _ranged(task: Task, hours: float, basis: str, confidence: Confidence) -> dict[str, object]:
    low, high = task.spread
    if confidence == "low":  # the size itself is assumed
        low, high = low * 0.7, high * 1.3
    return {
        "hours": _quarter(hours),
        "low": _quarter(hours * low),
        "high": _quarter(hours * high),
        "basis": basis,
        "confidence": confidence,
    }


def _quarter(hours: float) -> float:
    """Rounded up to a quarter of an hour."""
    return math.ceil(round(hours * 4, 6)) / 4
