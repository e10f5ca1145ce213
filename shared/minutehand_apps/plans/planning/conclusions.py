"""The stages that draw conclusions: risks, milestones, governance, questions and the summary."""

# ruff: noqa: E501 - one risk a line reads as the table it is

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from typing import Any, Final

from minutehand_apps.plans.planning import blocks as b
from minutehand_apps.plans.planning.breakdown import unused_of
from minutehand_apps.plans.planning.chapters import Chapter, Inputs
from minutehand_apps.plans.planning.computing import (
    made_budget,
    made_schedule,
    people_text,
    span_text,
)
from minutehand_apps.plans.planning.numbers import count, day, listed, money, sentence
from minutehand_apps.plans.planning.numbers import hours as hours_of
from minutehand_apps.plans.planning.patterns import Risk
from minutehand_apps.plans.planning.reading import Facts
from minutehand_apps.plans.planning.schedule import pinned_on

#: Risks of a fast plan.
FEW: Final = 3
#: Risks that follow from the figures of a plan, by its verdicts: title, probability, impact, response.
_OF_DEADLINE: Final = {
    "does_not_fit": ("The deadline is missed, as the schedule already shows", 5, 5, "Decide before the start: more people, a later day, or less scope."),
    "at_risk": ("The deadline is missed if estimates come to their high end", 3, 5, "Compare the schedule with the work every week, and decide early."),
}  # fmt: skip
_SURPRISE: Final = ("The budget is exceeded by what has no price yet or comes as a surprise", 3, 4, "Get a price for every open item before the first order.")  # fmt: skip
_OF_BUDGET: Final = {
    "does_not_fit": ("The budget is exceeded, as the known costs already show", 5, 4, "Decide before the start: more money, or less scope."),
    "tight": _SURPRISE,
    "unknown": _SURPRISE,
}  # fmt: skip
_LARGER: Final = ("The work is larger than assumed", 3, 3, "Answer the open questions before the dates are promised.")  # fmt: skip


def level_of(score: int) -> str:
    """A score, probability times impact, as a word."""
    return "high" if score >= 12 else "medium" if score >= 6 else "low"


def risks(inputs: Inputs) -> Chapter:
    """What may go wrong, scored, with what is done about it."""
    computed = [
        _OF_DEADLINE.get(made_schedule(inputs).verdict),
        _OF_BUDGET.get(made_budget(inputs).verdict),
        _LARGER if any(not size.stated for size in inputs.sizes) else None,
    ]
    found = [Risk(*each, inputs.pattern.lead) for each in computed if each]
    found = sorted([*found, *inputs.pattern.risks], key=lambda risk: (-risk.score, risk.title))
    if inputs.speed == "fast_but_skip_details":
        found = found[:FEW]
    rows = [
        (f"R{number}", r.title, str(r.probability), str(r.impact),
         f"{r.score} ({level_of(r.score)})", r.response, r.owner)
        for number, r in enumerate(found, 1)
    ]  # fmt: skip
    top, high = found[0], sum(level_of(risk.score) == "high" for risk in found)
    are = "One risk is" if len(found) == 1 else f"{count(len(found), 'risk')} are"
    narrative = (
        f"{are} scored by probability times impact, from 1 to 25."
        f" The highest is: {top.title[0].lower()}{top.title[1:]} ({top.score})."
        f" {count(high, 'risk') if high else 'No risk is'} scored high."
    )
    return Chapter(
        {"risks": [{**asdict(risk), "score": risk.score} for risk in found]},
        [b.table(("No.", "Risk", "Probability", "Impact", "Score", "Response", "Owner"), rows)],
        narrative=narrative,
    )


def milestones(inputs: Inputs) -> Chapter:
    """The end of each phase, and the days that are stated."""
    packages, made, facts = inputs.packages, made_schedule(inputs), inputs.facts
    by_id = {task.id: task for task in made.tasks}
    found: list[tuple[date, str, str]] = [(made.first_day, "The work starts", "The team is there")]
    for phase in dict.fromkeys(package.phase for package in packages):
        own = [package for package in packages if package.phase == phase]
        last = max(own, key=lambda package: (by_id[package.id].end, package.number))
        found.append((by_id[last.id].end, f"“{phase}” is finished", last.deliverable))
    pin = pinned_on(facts, packages)
    if pin is not None:
        package = next(each for each in packages if each.id == pin[0])
        found.append((by_id[pin[0]].start, package.title, "It takes place"))
    elif facts.deadline is not None:
        found.append((facts.deadline.day, "The stated deadline", "Everything is finished"))
    found.sort(key=lambda each: each[0])
    rows = [(f"M{n}", title, day(at), proof) for n, (at, title, proof) in enumerate(found, 1)]
    data = [{"day": at.isoformat(), "title": title, "proof": proof} for at, title, proof in found]
    return Chapter({"milestones": data}, [b.table(("No.", "Milestone", "Day", "Shown by"), rows)])


def quality(inputs: Inputs) -> Chapter:
    """What is checked, and by what each result is accepted."""
    rows = [(package.number, package.title, package.deliverable) for package in inputs.packages]
    return Chapter(
        {"checks": list(inputs.pattern.checks)},
        [
            b.bullets(inputs.pattern.checks),
            b.table(("No.", "Work package", "It is accepted when there is"), rows),
        ],
    )


def governance(inputs: Inputs) -> Chapter:
    """Who decides what, how often the plan is looked at, and how it is changed."""
    made, money_, lead = made_schedule(inputs), made_budget(inputs), inputs.pattern.lead
    days = made.working_days
    if days <= 10:
        rhythm = (
            "Ten minutes every working day: what is finished, what is next, what is in the way."
        )
    elif days <= 60:
        rhythm = "Half an hour every week: the schedule, the costs and the three highest risks."
    else:
        rhythm = "Half an hour every week for the schedule and the risks, and once a month with whoever pays: milestones, costs and decisions."
    reserve = f" or takes more than the reserve of {money(money_.reserve, money_.currency)}"
    reserve = reserve if money_.reserve else ""
    end = made.deadline or made.last_day
    rows = [
        ("Scope, deadline and budget", "Whoever asked for the plan"),
        ("Order of work and who does what", lead),
        ("Accepting a result", "Whoever uses it, with the " + lead.lower()),
        (f"A change that ends after {day(end)}{reserve}", "Whoever asked for the plan, in writing"),
    ]
    return Chapter(
        {"lead": lead, "rhythm": rhythm},
        [b.paragraph(rhythm), b.table(("Decision", "Decided by"), rows)],
    )


def communication(inputs: Inputs) -> Chapter:
    """Who hears what, and when."""
    lead = inputs.pattern.lead
    weekly = made_schedule(inputs).working_days > 10
    rhythm = "Every week, and at every milestone" if weekly else "At every milestone"
    told = "Dates, what changes for them, and whom to ask"
    others = "At every milestone that concerns them"
    rows = [
        (who, told, others if place else rhythm, lead)
        for place, who in enumerate(inputs.pattern.stakeholders)
    ]
    return Chapter(
        {"stakeholders": list(inputs.pattern.stakeholders)},
        [b.table(("Who", "Hears", "When", "From"), rows)],
    )


def questions(inputs: Inputs) -> Chapter:
    """What the prompt answers already, and what should be answered before dates are promised."""
    facts = inputs.facts
    answered = [
        ("When must it be finished?", facts.deadline and day(facts.deadline.day)),
        ("When can it start?", facts.start and day(facts.start.day)),
        ("What may it cost?", facts.budget and money(facts.budget.amount, facts.budget.currency)),
        ("How many people do the work?", facts.people and count(facts.people, "person")),
    ]
    open_ = _open_questions(inputs)
    number = "One question" if len(open_) == 1 else count(len(open_), "question")
    narrative = f"{number} should be answered before dates are promised."
    if not open_:
        narrative = "The prompt leaves no question open that this plan depends on."
    blocks = []
    known = [(question, str(answer)) for question, answer in answered if answer]
    if known:
        blocks += [b.heading("Answered by the prompt"), b.table(("Question", "Answer"), known)]
    if open_:
        rows = [(f"Q{number}", *each) for number, each in enumerate(open_, 1)]
        blocks += [b.heading("Open"), b.table(("No.", "Question", "Until it is answered"), rows)]
    return Chapter({"open": [question for question, _ in open_]}, blocks, narrative=narrative)


def _open_questions(inputs: Inputs) -> list[tuple[str, str]]:
    facts = inputs.facts
    found = [(size.question, sentence(size.basis)) for size in inputs.sizes if size.question]
    found += [
        (f"{package.title}: {package.unknown}?", "Its hours are left out of the schedule.")
        for package in inputs.packages
        if package.unknown
    ]
    found += [(doubt.question, f"“{doubt.text}” is not used.") for doubt in facts.doubts]
    found += [
        (f"How many hours does the work take for each of the {each.text}?", "They are not counted.")
        for each in unused_of(inputs.pattern, facts)
    ]
    if facts.deadline is None and facts.doubt("deadline") is None:
        found.append(("When must it be finished?", "The plan says when it can be finished."))
    if facts.people is None and facts.doubt("team") is None:
        found.append(("How many people do the work?", "As many as the packages can use at once."))
    if facts.budget is None and facts.doubt("budget") is None:
        found.append(("What may it cost?", "Costs are added up, and measured against nothing."))
    rate = "What does an hour or a day of work cost, or is it not paid from this budget?"
    for line in made_budget(inputs).unknown:
        if line.package and line.unknown.startswith("how many"):
            continue  # asked above, by its package
        what = rate if line.item == "Labour" else f"What is {line.unknown}?"
        found.append((what, "It is not included in the costs."))
    return found


def _unstated(facts: Facts, about: str) -> str:
    """`none stated` only where there is none; else the words that could not be read."""
    doubt = facts.doubt(about)
    return f"not read for sure: “{doubt.text}”" if doubt else "none stated"


def executive_summary(inputs: Inputs) -> Chapter:
    """The plan on one page."""
    facts, made, money_ = inputs.facts, made_schedule(inputs), made_budget(inputs)
    breakdown: Any = inputs.results["work_breakdown"]
    top = inputs.results["risks"]["risks"][0]
    verdicts = {made.verdict, money_.verdict}
    if "does_not_fit" in verdicts:
        named = {"the deadline": made.verdict, "the budget": money_.verdict}
        both = [name for name, verdict in named.items() if verdict == "does_not_fit"]
        headline, tone = f"As it stands, {listed(both)} cannot be met", "bad"
    elif facts.doubts or made.verdict == "unknown" or made.partial:
        headline, tone = "Whether the plan is possible depends on the open questions", "doubtful"
    elif verdicts & {"unknown", "at_risk", "tight"}:
        headline, tone = "The plan is possible, with open points", "doubtful"
    else:
        headline, tone = "The plan is possible by these estimates", "good"
    narrative = (
        f"{sentence(facts.goal)} {'Without what is unknown, this' if made.partial else 'This'}"
        f" takes {hours_of(breakdown['hours'])} hours of work in"
        f" {count(len(breakdown['packages']), 'work package')}, between"
        f" {hours_of(breakdown['low'])} and {hours_of(breakdown['high'])} hours."
        f" {inputs.results['schedule']['text']} {inputs.results['budget']['text']}"
        f" The highest risk is: {top['title'][0].lower()}{top['title'][1:]}."
    )
    next_step = inputs.packages[0]
    rows = [
        ("Start", day(made.first_day)),
        ("End", f"{day(made.last_day)}, {span_text(made)}"),
        ("Deadline", day(made.deadline) if made.deadline else _unstated(facts, "deadline")),
        ("People", people_text(made) + ("" if made.people else f", {_unstated(facts, 'team')}")),
        ("Known costs", money(money_.known, money_.currency) if money_.known else "unknown"),
        (
            "Budget",
            _unstated(facts, "budget")
            if money_.limit is None
            else money(money_.limit, money_.currency),
        ),
        ("Strategy", inputs.results["strategy"]["chosen"]),
        ("Next step", f"{next_step.title} ({next_step.role.lower()})"),
    ]
    return Chapter(
        {"headline": headline, "schedule": made.verdict, "budget": money_.verdict},
        [b.verdict(f"{headline}.", tone), b.table(("", ""), rows)],
        narrative=narrative,
    )
