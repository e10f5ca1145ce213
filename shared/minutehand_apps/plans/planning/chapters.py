"""The stages that read the prompt and lay out the work: from understanding to dependencies.

Each is a plain function from the results it needs to a chapter. Offline texts are templates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Final

from minutehand_apps.plans.planning import blocks as b
from minutehand_apps.plans.planning import catalogue
from minutehand_apps.plans.planning.breakdown import (
    Package,
    SizeTaken,
    measures,
    packages_of,
    sizes_of,
)
from minutehand_apps.plans.planning.numbers import count, day, listed, money, sentence
from minutehand_apps.plans.planning.numbers import hours as hours_of
from minutehand_apps.plans.planning.patterns import Pattern
from minutehand_apps.plans.planning.reading import Amount, Counted, Dated, Facts


@dataclass(frozen=True)
class Inputs:
    """What a stage is given: the request, and the results of the stages it needs."""

    prompt: str
    speed: str
    today: date
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def facts(self) -> Facts:
        """What the prompt states."""
        return Facts.model_validate(self.results["understand"]["facts"])

    @property
    def pattern(self) -> Pattern:
        """The kind of project."""
        return catalogue.find(self.results["understand"]["pattern"])

    @property
    def sizes(self) -> list[SizeTaken]:
        """How large the work is."""
        return [SizeTaken.model_validate(each) for each in self.results["assumptions"]["sizes"]]

    @property
    def packages(self) -> list[Package]:
        """The work packages."""
        return [Package.model_validate(each) for each in self.results["work_breakdown"]["packages"]]


@dataclass(frozen=True)
class Chapter:
    """What a stage found: data for other stages, blocks for readers."""

    data: dict[str, Any]
    blocks: list[b.Block]
    #: The paragraph that a language model may write instead; empty where there is none.
    narrative: str = ""
    logs: list[str] = field(default_factory=list)

    def by_template(self) -> Chapter:
        """The same, marked: its text is the template's, since the model's could not be used."""
        mark = b.paragraph(
            "The paragraph above is the template's: the language model's could not be used."
        )
        return replace(self, blocks=[mark, *self.blocks])


def understand(inputs: Inputs) -> Chapter:
    """Read the prompt and recognise the kind of project."""
    facts, picked = catalogue.understood(inputs.prompt, inputs.today)
    pattern, words = picked.pattern, picked.words
    rows = figures_of(facts, pattern)
    blocks = [b.paragraph(f"The goal: {sentence(facts.goal)}")]
    quoted = listed([f"“{word}”" for word in words])
    if pattern is picked.best and words:
        text = (
            f"It is planned by the bundled pattern “{pattern.title}”, because the prompt says"
            f" {quoted} (fit {picked.fit} of 3)."
        )
    else:
        near = f" “{picked.best.title}” is near, by {quoted}, and fits too little" if words else ""
        text = (
            f"No bundled pattern fits the prompt, so the general one is used.{near}"
            f"{f' (fit {picked.fit} of 3).' if near else ''} It has no basis for how long the work"
            " itself takes."
        )
    blocks.append(b.paragraph(text))
    if rows:
        blocks += [
            b.heading("Figures in the prompt"),
            b.table(("In the prompt", "Read as", "Used for"), rows),
        ]
    else:
        blocks.append(b.paragraph("The prompt states no figures."))
    logs = [f"Read “{row[0]}” as {row[1]}" for row in rows]
    logs.append(f"Pattern: {pattern.title}")
    return Chapter(
        {
            "facts": facts.model_dump(mode="json"),
            "pattern": pattern.name,
            "words": words,
            "fit": picked.fit,
        },
        blocks,
        logs=logs,
    )


def figures_of(facts: Facts, pattern: Pattern) -> list[tuple[str, str, str]]:
    """Every figure of the prompt: its words, what it was read as, and what it is used for."""
    ledger: list[tuple[Sequence[Any], str, Callable[[Any], str], str]] = [
        ([facts.start], "start", _day, "The first day of the schedule"),
        (
            [facts.window],
            "first day of a window",
            _day,
            "The day of what takes place in the window",
        ),
        ([facts.deadline], "deadline", _day, "The schedule is measured against it"),
        ([facts.budget], "budget", _money, "The limit of all costs"),
        (facts.rates, "rate", lambda r: f"{_money(r)} per {r.per}", "Labour costs"),
        (facts.prices, "price", lambda p: f"{_money(p)} for each {p.per}", "Costs, by quantity"),
        (facts.costs, "cost", lambda c: f"{_money(c)} for {c.item or 'what it names'}", "Costs"),
        (facts.team, "team", _number, "How many work at once"),
        ([facts.effort], "effort", _number, "The estimates"),
        *(([q], "quantity", _number, _use_of(q, pattern)) for q in facts.quantities),
        (facts.doubts, "not read for sure", lambda d: d.question, "Nothing until it is answered"),
    ]
    rows = [
        (each.text, f"{name}: {words(each)}", use)
        for found, name, words, use in ledger
        for each in found
        if each is not None
    ]
    rows += [
        (text, "unread: no rule understands it", "Nothing; it is kept here for you to check")
        for text in facts.others
        if not any(doubt.text in text or text in doubt.text for doubt in facts.doubts)
    ]
    return rows


def _day(dated: Dated) -> str:
    return f"{day(dated.day)} ({dated.rule})"


def _number(counted: Counted) -> str:
    return count(counted.value, counted.noun)


def _money(amount: Amount) -> str:
    return money(amount.amount, amount.currency)


def _use_of(quantity: Counted, pattern: Pattern) -> str:
    if quantity.noun == "person per group":
        return "The number of groups"
    if any(measures(size, quantity) for size in pattern.sizes):
        return "The size of the work"
    return "Kept as a condition; the pattern does not measure by it"


def assumptions(inputs: Inputs) -> Chapter:
    """Say what is taken for granted because the prompt does not say it."""
    facts, pattern = inputs.facts, inputs.pattern
    sizes = sizes_of(pattern, facts)
    rows: list[tuple[str, str]] = [
        (f"{size.basis}.", "It decides the hours of most work packages.")
        for size in sizes
        if not size.stated and size.name != "sessions"
    ]
    if facts.start is None:
        why = "No start is stated; this is the first working day from the request on."
        rows.append((f"The work starts on {day(facts.first_day)}.", why))
    if facts.people is None:
        none = "The team is not read for sure" if facts.doubt("team") else "No team is stated"
        why = f"{none}; the chapter on the team says how many that is."
        rows.append(("As many people are there as the work packages can use at once.", why))
    elif facts.people > 1:
        text = f"Everybody in the team of {facts.people} can do every work package."
        rows.append((text, "The prompt does not say who can do what."))
    text = "Work is done from Monday to Friday, eight hours a day, without public holidays."
    rows.append((text, "The prompt does not say otherwise."))
    numbered = [
        {"id": f"A{number}", "text": text, "why": why} for number, (text, why) in enumerate(rows, 1)
    ]
    return Chapter(
        {"assumptions": numbered, "sizes": [size.model_dump(mode="json") for size in sizes]},
        [b.table(("No.", "Assumption", "Why"), [(a["id"], a["text"], a["why"]) for a in numbered])],
        logs=[f"{count(len(numbered), 'assumption')} noted"],
    )


def constraints(inputs: Inputs) -> Chapter:
    """List what the plan must hold, and how it does."""
    facts, pattern = inputs.facts, inputs.pattern
    rows: list[tuple[str, str, str]] = []
    if facts.start:
        rows.append(("Start", day(facts.start.day), "No work package is scheduled before it."))
    if facts.deadline:
        how = "The schedule is computed from the work, then measured against it."
        rows.append(("Deadline", day(facts.deadline.day), how))
    if facts.budget:
        how = "All known costs and a reserve are added up and measured against it."
        rows.append(("Budget", _money(facts.budget), how))
    if facts.people:
        how = "Nobody works on two packages at once."
        rows.append(("Team", count(facts.people, "person"), how))
    rows += [("Not read for sure", doubt.text, doubt.question) for doubt in facts.doubts]
    lead = pattern.lead.lower()
    how = f"Kept as it is stated; the {lead} checks it at every milestone."
    rows += [("Condition", text, how) for text in facts.limits]
    blocks = (
        [b.table(("Kind", "Constraint", "How it is held"), rows)]
        if rows
        else [b.paragraph("The prompt states no constraint.")]
    )
    return Chapter({"constraints": [{"kind": k, "text": t, "how": h} for k, t, h in rows]}, blocks)


_FAVOURS: Final = {"time": "Saves time", "money": "Saves money", "else": "Keeps the risk low"}


def strategy(inputs: Inputs) -> Chapter:
    """Compare ways to go about it, and choose by a rule."""
    facts, pattern = inputs.facts, inputs.pattern
    doubtful = facts.doubt("deadline") or facts.doubt("budget")
    read_ = "read for sure" if doubtful else "stated"
    wanted, why = "else", f"neither a deadline nor a budget is {read_}"
    if facts.deadline is not None:
        wanted, why = "time", "a deadline is stated"
    elif facts.budget is not None:
        wanted, why = "money", f"a budget is {read_}, and no deadline"
    fitting = [option for option in pattern.options if option.favours == wanted]
    chosen = [*fitting, *pattern.options][0]
    rows = [
        (each.title, each.description, _FAVOURS[each.favours], "Proposed" if each is chosen else "")
        for each in pattern.options
    ]
    narrative = (
        f"Proposed: {chosen.title[0].lower()}{chosen.title[1:]}. {sentence(chosen.description)}"
        f" It is proposed by rule, because {why}. The hours below are those of the usual way of"
        " working; a different way changes them."
    )
    return Chapter(
        {"chosen": chosen.title, "why": why},
        [b.table(("Option", "What it means", "Speaks for it", ""), rows)],
        narrative=narrative,
    )


def hours_text(package: Package) -> str:
    """A package's hours, or what is missing for them."""
    if package.hours is None:
        return f"unknown: needs {package.unknown}"
    return f"{hours_of(package.hours)} h"


def work_breakdown(inputs: Inputs) -> Chapter:
    """Break the work into phases and work packages, each with its estimate."""
    facts, pattern = inputs.facts, inputs.pattern
    detailed = inputs.speed == "all_details_but_slow"
    packages = packages_of(pattern, facts, inputs.sizes, steps=detailed)
    blocks: list[b.Block] = []
    for phase in dict.fromkeys(package.phase for package in packages):
        number = next(p.number for p in packages if p.phase == phase).partition(".")[0]
        rows = [
            (p.number, p.title, p.deliverable, p.role, hours_text(p), _range(p), p.confidence)
            for p in packages
            if p.phase == phase
        ]
        blocks += [
            b.heading(f"{number}. {phase}"),
            b.table(("No.", "Work package", "Result", "Role", "Work", "Range", "Confidence"), rows),
        ]
    known = [package for package in packages if package.hours is not None]
    total = sum(package.hours or 0 for package in known)
    low = sum(package.low or 0 for package in known)
    high = sum(package.high or 0 for package in known)
    text = (
        f"In all {count(len(packages), 'work package')} with {hours_of(total)} hours of work,"
        f" between {hours_of(low)} and {hours_of(high)}."
    )
    open_ = [package for package in packages if package.hours is None]
    if open_:
        text += f" Not included: {listed([package.title for package in open_])}."
    blocks.insert(0, b.paragraph(text))
    if inputs.speed != "fast_but_skip_details":
        bases = [(p.number, p.title, p.basis) for p in packages]
        blocks += [
            b.heading("Where the hours are from"),
            b.table(("No.", "Work package", "Basis"), bases),
        ]
    data = [package.model_dump(mode="json") for package in packages]
    return Chapter(
        {"packages": data, "hours": total, "low": low, "high": high}, blocks, logs=[text]
    )


def _range(package: Package) -> str:
    if package.low is None or package.high is None:
        return "unknown"
    return f"{hours_of(package.low)} to {hours_of(package.high)} h"


def work_steps(inputs: Inputs) -> Chapter:
    """The fourth level: the steps of each work package."""
    blocks: list[b.Block] = []
    for package in inputs.packages:
        blocks += [b.heading(f"{package.number} {package.title}"), b.bullets(package.steps)]
    total = sum(len(package.steps) for package in inputs.packages)
    return Chapter({"steps": total}, blocks, logs=[f"{count(total, 'step')} written"])


def dependencies(inputs: Inputs) -> Chapter:
    """What must be finished before what, and which packages could run side by side."""
    packages = inputs.packages
    names = {package.id: f"{package.number} {package.title}" for package in packages}
    levels: dict[str, int] = {}
    for package in packages:
        levels[package.id] = 1 + max((levels[id_] for id_ in package.after), default=0)
    rows = []
    for package in packages:
        wait = f"then a wait of {count(package.wait_days, 'working day')}"
        before = listed([names[id_] for id_ in package.after]) or "nothing"
        rows.append((names[package.id], before, wait if package.wait_days else ""))
    width = max((list(levels.values()).count(level) for level in set(levels.values())), default=0)
    text = (
        f"The longest chain has {count(max(levels.values(), default=0), 'work package')};"
        f" at most {width} can run side by side."
    )
    return Chapter(
        {"after": {package.id: package.after for package in packages}, "levels": levels},
        [b.paragraph(text), b.table(("Work package", "Comes after", "Waiting"), rows)],
        logs=[text],
    )
