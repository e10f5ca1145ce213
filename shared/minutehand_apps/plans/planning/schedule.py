"""Dates from packages: who works when, what is critical, and whether the deadline holds.

Rules: eight hours a day from Monday to Friday; a package begins when all it comes after is finished
and people are free; of several the one with the least slack goes first; nobody works at two things;
a crew is smaller where that ends the whole sooner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Final, Literal

from pydantic import Field

from minutehand_apps.plans.planning.breakdown import Package
from minutehand_apps.plans.planning.numbers import is_working_day, next_working_day
from minutehand_apps.plans.planning.reading import Exact, Facts

#: The schedule counts in quarters of an hour.
DAY: Final = 32
End = Literal["low", "hours", "high"]
Verdict = Literal["fits", "at_risk", "does_not_fit", "unknown", "no_deadline"]


class Scheduled(Exact):
    """A package with its dates; slack is how many working hours it may slip."""

    id: str
    start: date
    end: date
    begin: int
    finish: int
    crew: int
    slack_hours: float
    critical: bool


class Schedule(Exact):
    """All packages with dates, and how that compares with the deadline."""

    first_day: date
    last_day: date
    working_days: float
    low_last_day: date
    high_last_day: date
    people: int | None
    peak: int
    tasks: list[Scheduled]
    critical: list[str]
    deadline: date | None = None
    decided_by: str = ""
    decided_on: date | None = None
    verdict: Verdict
    late_days: int = 0
    spare_days: int = 0
    partial: bool = False
    extra_days: list[date] = Field(default_factory=list)


@dataclass
class Calendar:
    """Working days from the first one on; days of a pinned package count even at weekends."""

    first: date
    extra: frozenset[date]
    _days: list[date] = field(default_factory=list)

    def day(self, index: int) -> date:
        """The working day of that index."""
        while len(self._days) <= index:
            following = self._days[-1] + timedelta(days=1) if self._days else self.first
            while not (is_working_day(following) or following in self.extra):
                following += timedelta(days=1)
            self._days.append(following)
        return self._days[index]

    def index(self, value: date) -> int:
        """How many working days lie before `value`; negative before the first day."""
        if value < self.first:
            return -1
        index = 0
        while self.day(index) < value:
            index += 1
        return index


@dataclass
class _Slot:
    package: Package
    begin: int
    finish: int
    crew: int
    waited_for: list[str]


def _duration(package: Package, crew: int, end: End) -> int:
    hours: float | None = getattr(package, end)
    return 0 if hours is None else math.ceil(round(hours * 4 / crew / package.share, 6))


def _tails(packages: Sequence[Package], end: End) -> dict[str, int]:
    """The longest way from the beginning of each package to the end, with people enough."""
    tails: dict[str, int] = {}
    for package in reversed(packages):
        following = [
            tails[other.id] for other in packages if package.id in other.after and other.id in tails
        ]
        wait = round(package.wait_days * DAY)
        tails[package.id] = (
            _duration(package, package.crew, end) + wait + max(following, default=-wait)
        )
    return tails


def place(
    packages: Sequence[Package], people: int | None, *, pins: dict[str, int], end: End = "hours"
) -> list[_Slot]:
    """Give every package a beginning and an end in quarters of an hour.

    Args:
        people: How many there are; None when nobody said, so that nothing waits for people.
        pins: The earliest beginning of packages that take place on a stated day.
    """
    tails = _tails(packages, end)
    rank = {package.id: (-tails[package.id], index) for index, package in enumerate(packages)}
    waiting = {package.id: package for package in packages}
    done: dict[str, _Slot] = {}
    running: list[_Slot] = []
    now, free = 0, people
    while waiting:
        ready = [
            package
            for package in waiting.values()
            if all(id_ in done for id_ in package.after) and _ready_at(package, done, pins) <= now
        ]
        for package in sorted(ready, key=lambda each: rank[each.id]):
            if free is not None and free < 1:
                break
            crew = package.crew if free is None else min(package.crew, free)
            finish = now + _duration(package, crew, end)
            late = now > _ready_at(package, done, pins)
            blockers = [s.package.id for s in done.values() if s.finish == now] if late else []
            slot = _Slot(package, now, finish, crew, blockers)
            del waiting[package.id]
            running.append(slot)
            free = None if free is None else free - crew
        times = [slot.finish for slot in running if slot.finish >= now]
        later = [p for p in waiting.values() if all(id_ in done for id_ in p.after)]
        times += [at for p in later if (at := _ready_at(p, done, pins)) > now]
        if not times and not running:
            break
        now = min(times)
        for slot in [slot for slot in running if slot.finish <= now]:
            running.remove(slot)
            done[slot.package.id] = slot
            free = None if free is None else free + slot.crew
    done |= {slot.package.id: slot for slot in running}
    return [done[package.id] for package in packages]


def _ready_at(package: Package, done: dict[str, _Slot], pins: dict[str, int]) -> int:
    ends = [done[id_].finish + round(done[id_].package.wait_days * DAY) for id_ in package.after]
    return max([*ends, pins.get(package.id, 0)])


def levelled(
    packages: Sequence[Package], people: int | None, pins: dict[str, int]
) -> Sequence[Package]:
    """The packages with crews that end soonest: fewer at one may leave people for a longer one."""
    if people is None:
        return packages
    best, end = list(packages), _end(place(packages, people, pins=pins))
    for index, package in enumerate(packages):
        for crew in range(1, min(package.crew, people)):
            tried = [*best[:index], package.model_copy(update={"crew": crew}), *best[index + 1 :]]
            if (sooner := _end(place(tried, people, pins=pins))) < end:
                best, end = tried, sooner
    return best


def _end(slots: Sequence[_Slot]) -> int:
    return max((slot.finish for slot in slots), default=0)


def bring_near(slots: list[_Slot], people: int | None, pinned: str | None) -> None:
    """Move what leads up to a stated day as late as its buffer allows: the backward pass.

    Set-up and badges belong before the day, not at the end of whatever came before them. Nothing
    moves past what follows it, or to where there are no people.
    """
    if pinned is None:
        return
    day = next(slot.begin for slot in slots if slot.package.id == pinned)
    for slot in sorted(slots, key=lambda each: -each.begin):
        near = slot.package.near_days
        if near is None or slot.finish > day:
            continue
        wait = round(slot.package.wait_days * DAY)
        latest = min(
            [day - round(near * DAY) - wait]
            + [each.begin - wait for each in slots if slot.package.id in each.package.after]
        )
        length = slot.finish - slot.begin
        others = [each for each in slots if each is not slot]
        for begin in range(latest - length, slot.begin, -1):
            if people is None or _most_at_work(others, begin, begin + length) + slot.crew <= people:
                slot.begin, slot.finish, slot.waited_for = begin, begin + length, []
                break


def _most_at_work(slots: list[_Slot], begin: int, finish: int) -> int:
    """Most people of these at work at once in a time."""
    during = [each for each in slots if each.begin < finish and begin < each.finish]
    starts = [max(begin, each.begin) for each in during]
    return max(
        (sum(e.crew for e in during if e.begin <= at < e.finish) for at in starts), default=0
    )


def _slacks(slots: list[_Slot], pinned: str | None) -> dict[str, int]:
    """How far each may slip, by dependencies and by the people it hands on; a day not at all."""
    last = _end(slots)
    latest = {slot.package.id: last for slot in slots}
    if pinned is not None:
        latest[pinned] = next(slot.finish for slot in slots if slot.package.id == pinned)
    by_id = {slot.package.id: slot for slot in slots}
    for slot in sorted(slots, key=lambda each: (-each.begin, -each.finish)):
        start = latest[slot.package.id] - (slot.finish - slot.begin)
        for id_ in slot.package.after:
            wait = round(by_id[id_].package.wait_days * DAY)
            latest[id_] = min(latest[id_], start - wait)
        for id_ in slot.waited_for:
            latest[id_] = min(latest[id_], start)
    return {slot.package.id: max(0, latest[slot.package.id] - slot.finish) for slot in slots}


def pinned_on(facts: Facts, packages: Sequence[Package]) -> tuple[str, date] | None:
    """The package that takes place on a stated day, and that day; None when no day is named so."""
    pinned = next((package for package in packages if package.pinned), None)
    if pinned is None or facts.deadline is None:
        return None
    if facts.window is not None:
        return pinned.id, facts.window.day
    first = facts.deadline.text.split()[0].lower()
    if first in {"by", "before", "until", "till", "no", "not", "within", "in", "the", "end"}:
        return None  # it may be earlier
    return pinned.id, facts.deadline.day


def calendar_of(facts: Facts, packages: Sequence[Package]) -> Calendar:
    """The working days; those of a pinned package count also at a weekend."""
    pin = pinned_on(facts, packages)
    extra: set[date] = set()
    if pin is not None:
        package = next(each for each in packages if each.id == pin[0])
        days = max(1, math.ceil(_duration(package, package.crew, "hours") / DAY))
        extra = {pin[1] + timedelta(days=n) for n in range(days)}
    first = facts.first_day
    if facts.window is not None and not any(package.pinned for package in packages):
        first = max(first, next_working_day(facts.window.day))
    return Calendar(first, frozenset(extra))


def schedule(facts: Facts, packages: Sequence[Package], people: int | None) -> Schedule:
    """The schedule with so many people, and its verdict on the deadline."""
    calendar = calendar_of(facts, packages)
    pin = pinned_on(facts, packages)
    pins = {pin[0]: max(0, calendar.index(pin[1])) * DAY} if pin else {}
    packages = levelled(packages, people, pins)
    runs = {end: place(packages, people, pins=pins, end=end) for end in ("low", "hours", "high")}
    pinned = pin[0] if pin else None
    for run in runs.values():
        bring_near(run, people, pinned)
    slots = runs["hours"]
    slacks = _slacks(slots, pinned)
    leading = _leading(slots, slacks, pinned)
    decisive = {end: _decisive(run, pin) for end, run in runs.items()}
    ends = {end: _last_day(calendar, run) for end, run in runs.items()}
    tasks = [
        Scheduled(
            id=slot.package.id,
            start=calendar.day(slot.begin // DAY),
            end=calendar.day(max(slot.begin, slot.finish - 1) // DAY),
            begin=slot.begin,
            finish=slot.finish,
            crew=slot.crew,
            slack_hours=slacks[slot.package.id] / 4,
            critical=slacks[slot.package.id] == 0 or slot.package.id in leading,
        )
        for slot in slots
    ]
    deadline = facts.deadline.day if facts.deadline else None
    partial = any(package.hours is None for package in packages)
    decided = {end: _day_of(calendar, slot, pinned=bool(pin)) for end, slot in decisive.items()}
    target = pin[1] if pin else deadline
    verdict = _verdict(decided, target, partial=partial)
    return Schedule(
        first_day=calendar.first,
        last_day=ends["hours"],
        working_days=math.ceil(_end(slots) / 8) / 4,
        low_last_day=ends["low"],
        high_last_day=ends["high"],
        people=people,
        peak=_most_at_work(slots, -1, _end(slots) + 1),
        tasks=tasks,
        critical=[t.id for t in sorted(tasks, key=lambda t: (t.begin, t.finish)) if t.critical],
        deadline=deadline,
        decided_by=decisive["hours"].package.id,
        decided_on=decided["hours"],
        verdict=verdict,
        late_days=_distance(calendar, target, decided["hours"]) if target else 0,
        spare_days=_distance(calendar, decided["hours"], target) if target else 0,
        partial=partial,
        extra_days=sorted(calendar.extra),
    )


def _leading(slots: list[_Slot], slacks: dict[str, int], pinned: str | None) -> set[str]:
    """The chain with the least slack to a stated day: its critical path."""
    by_id = {slot.package.id: slot for slot in slots}
    found: set[str] = set()
    while pinned is not None:
        before = by_id[pinned].package.after
        pinned = min(before, key=lambda each: (slacks[each], -by_id[each].finish), default=None)
        found |= {pinned} if pinned else set()
    return found


def _decisive(slots: list[_Slot], pin: tuple[str, date] | None) -> _Slot:
    """The package that must keep the deadline: the pinned one, else the last."""
    if pin is not None:
        return next(slot for slot in slots if slot.package.id == pin[0])
    return max(slots, key=lambda slot: slot.finish)


def _day_of(calendar: Calendar, slot: _Slot, *, pinned: bool) -> date:
    at = slot.begin if pinned else max(slot.begin, slot.finish - 1)
    return calendar.day(at // DAY)


def _last_day(calendar: Calendar, slots: list[_Slot]) -> date:
    return calendar.day(max(0, _end(slots) - 1) // DAY)


def _verdict(decided: dict[str, date], target: date | None, *, partial: bool) -> Verdict:
    if target is None:
        return "no_deadline"
    if decided["hours"] > target:
        return "does_not_fit"
    if partial:
        return "unknown"
    return "at_risk" if decided["high"] > target else "fits"


def _distance(calendar: Calendar, early: date, late: date) -> int:
    """Working days from `early` to `late`; 0 when it is not later."""
    if late <= early:
        return 0
    days = (early + timedelta(days=n) for n in range(1, (late - early).days + 1))
    return sum(is_working_day(each) or each in calendar.extra for each in days)


class Week(Exact):
    """The work of a week that begins on a Monday, and what the people there are can do in it."""

    week_of: date
    hours: float
    capacity: int


def load_by_week(packages: Sequence[Package], made: Schedule) -> list[Week]:
    """Hours of work of each week, and what the people there are can do in it."""
    calendar = Calendar(made.first_day, frozenset(made.extra_days))
    weeks: dict[date, float] = {}
    days: dict[date, int] = {}
    for package, task in zip(packages, made.tasks, strict=True):
        for index in range(task.begin // DAY, max(task.begin, task.finish - 1) // DAY + 1):
            low, high = max(task.begin, index * DAY), min(task.finish, (index + 1) * DAY)
            at = calendar.day(index)
            monday = at - timedelta(days=at.weekday())
            weeks[monday] = weeks.get(monday, 0) + (high - low) / 4 * task.crew * package.share
    last = calendar.index(made.last_day)
    for index in range(last + 1):
        at = calendar.day(index)
        monday = at - timedelta(days=at.weekday())
        days[monday] = days.get(monday, 0) + 1
    people = made.people or made.peak
    return [
        Week(week_of=at, hours=round(weeks.get(at, 0.0), 2), capacity=number * 8 * people)
        for at, number in sorted(days.items())
    ]
