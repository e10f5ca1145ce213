"""The stages that compute: schedule, team, load, budget, and what follows from them.

Each is a plain function from the results it needs to a chapter, by the rules of its module.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any, Final

from minutehand_apps.plans.planning import blocks as b
from minutehand_apps.plans.planning import charts
from minutehand_apps.plans.planning.breakdown import Package, unused_of
from minutehand_apps.plans.planning.budget import Budget, budget_of
from minutehand_apps.plans.planning.chapters import Chapter, Inputs
from minutehand_apps.plans.planning.numbers import (
    count,
    day,
    is_working_day,
    listed,
    money,
    sentence,
    working_days_between,
)
from minutehand_apps.plans.planning.numbers import hours as hours_of
from minutehand_apps.plans.planning.schedule import Schedule, load_by_week, pinned_on
from minutehand_apps.plans.planning.schedule import schedule as schedule_of

TONES: Final = {
    "fits": "good",
    "at_risk": "doubtful",
    "tight": "doubtful",
    "unknown": "doubtful",
    "does_not_fit": "bad",
    "no_deadline": "good",
    "no_budget": "good",
}
_WORDS: Final = {
    "fits": "can be met",
    "at_risk": "at risk",
    "does_not_fit": "cannot be met",
    "unknown": "unknown",
    "no_deadline": "none stated",
}
_TIME: Final = "Whether the time is enough"
#: Largest team that is tried when another size of team is asked for.
MOST_PEOPLE: Final = 12


def made_schedule(inputs: Inputs) -> Schedule:
    """The schedule that was stored."""
    return Schedule.model_validate(inputs.results["schedule"]["schedule"])


def made_budget(inputs: Inputs) -> Budget:
    """The budget that was stored."""
    return Budget.model_validate(inputs.results["budget"]["budget"])


def schedule(inputs: Inputs) -> Chapter:
    """Dates for every work package, the critical path, and the verdict on the deadline."""
    facts, packages = inputs.facts, inputs.packages
    made = schedule_of(facts, packages, facts.people)
    if unsure_of(inputs) and made.verdict != "does_not_fit":
        made = made.model_copy(update={"verdict": "unknown"})
    names = {package.id: package.title for package in packages}
    text = deadline_text(inputs, made)
    rows = [
        (package.number, package.title, task.start.isoformat(), task.end.isoformat(),
         str(task.crew), "critical" if task.critical else f"{hours_of(task.slack_hours)} h")
        for package, task in zip(packages, made.tasks, strict=True)
    ]  # fmt: skip
    path = " → ".join(names[id_] for id_ in made.critical)
    svg = charts.gantt(packages, made)
    return Chapter(
        {"schedule": made.model_dump(mode="json"), "verdict": made.verdict, "text": text},
        [
            b.verdict(text, TONES[made.verdict]),
            b.chart("gantt.svg", svg, "Gantt chart of all work packages; critical ones are red."),
            b.paragraph(_path_text(inputs, made, path)),
            b.table(("No.", "Work package", "Start", "End", "People", "Slack"), rows),
            b.paragraph(
                "Rules: eight hours a day from Monday to Friday; a package begins when all it comes"
                " after is finished and somebody is free; of several the one with the least slack"
                " goes first; nobody works on two packages at once, and a crew is smaller where"
                " that ends the whole sooner; what leads up to"
                " a stated day, such as set-up, is as late as its buffer allows."
            ),
        ],
        logs=[text],
    )


def _path_text(inputs: Inputs, made: Schedule, path: str) -> str:
    pin = pinned_on(inputs.facts, inputs.packages)
    if pin is None:
        return f"Critical path: {path}. A delay there delays the end."
    before = [t.slack_hours for t in made.tasks if t.critical and t.end < pin[1]]
    slack = hours_of(max(before, default=0))
    return f"Critical path to the stated day: {path}. Its first package may slip by {slack} hours."


def unsure_of(inputs: Inputs) -> list[str]:
    """What keeps the verdict on the deadline from being known."""
    facts = inputs.facts
    found = [
        f"“{doubt.text}” could not be read for sure: {doubt.question}"
        for doubt in facts.doubts
        if doubt.about != "budget"
    ]
    found += [
        f"“{each.text}” is stated and the pattern does not use it: it needs the hours for each"
        for each in unused_of(inputs.pattern, facts)
    ]
    return found


def deadline_text(inputs: Inputs, made: Schedule) -> str:
    """The verdict on the deadline in a sentence or two."""
    facts, packages = inputs.facts, inputs.packages
    none = facts.deadline is None and facts.doubt("deadline") is None
    unsure = unsure_of(inputs)
    if unsure and made.verdict == "unknown":
        start = "No deadline is stated, and when the work ends" if none else _TIME
        needs = " ".join(sentence(each) for each in unsure)
        ends = f"Without it, the work of the pattern ends on {day(made.last_day)}."
        return f"{start} is unknown. {needs} {ends}"
    pin = pinned_on(facts, packages)
    if pin is not None:
        return _pinned_text(inputs, made, pin)
    if made.verdict == "unknown" or (none and made.partial):
        start = "No deadline is stated, and when the work ends"
        if made.deadline:
            start = f"Whether the deadline, {day(made.deadline)}, can be met"
        needs = listed([package.unknown for package in packages if package.unknown])
        return f"{start} is unknown: needs {needs}. All other work ends on {day(made.last_day)}."
    ends = f"With {people_text(made)} the work ends"
    if made.deadline is None:
        return f"No deadline is stated. {ends} on {day(made.last_day)} ({span_text(made)})."
    spare = f", {count(made.spare_days, 'working day')} earlier" if made.spare_days else ""
    very = ", that very day" if made.last_day == made.deadline else ""
    low = (
        f"Even at the low end of every estimate it ends on {day(made.low_last_day)}."
        if made.low_last_day > made.deadline
        else f"Only at the low end of every estimate, by {day(made.low_last_day)}, it is in time."
    )
    words = {
        "fits": "can be met. {ends} {on_time}; at the high end of every estimate it ends on"
        " {high}.",
        "at_risk": "is at risk. {ends} {on_time}, but at the high end of every estimate it ends on"
        " {high}, which is too late.",
        "does_not_fit": "cannot be met by these estimates. {ends} on {last}, {late} late. {low}",
    }[made.verdict].format(
        ends=ends, on_time=f"on {day(made.last_day)}{spare or very}", last=day(made.last_day),
        high=day(made.high_last_day), late=count(made.late_days, "working day"), low=low,
    )  # fmt: skip
    return f"The deadline, {day(made.deadline)}, {words}"


def people_text(made: Schedule) -> str:
    """The people the schedule counts on."""
    if made.people or made.peak == 1:
        return count(made.people or 1, "person")
    return f"up to {made.peak} people"


def span_text(made: Schedule) -> str:
    """Between which days the work ends."""
    if made.partial:
        return "not counting the work whose hours are unknown"
    if made.low_last_day == made.high_last_day:
        return "also at the high end of every estimate"
    return f"between {day(made.low_last_day)} and {day(made.high_last_day)}"


def _pinned_text(inputs: Inputs, made: Schedule, pin: tuple[str, date]) -> str:
    """The verdict where something takes place on the stated day itself."""
    by_id = {each.id: each for each in inputs.packages}
    package = by_id[pin[0]]
    before = [task for task in made.tasks if task.id in package.after]
    ready = max((task.end for task in before), default=made.first_day)
    if made.verdict == "does_not_fit":
        return (
            f"The stated day, {day(pin[1])}, cannot be kept by these estimates. What comes before"
            f" “{package.title}” is ready on {day(ready)}, so that it can begin on"
            f" {day(made.decided_on or ready)}, {count(made.late_days, 'working day')} late."
        )
    waits = max((by_id[task.id].wait_days for task in before), default=0)
    wait = f" (then a wait of {count(waits, 'working day')})" if waits else ""
    high = "It is in time also at the high end of every estimate."
    if made.verdict == "at_risk":
        high = "At the high end of every estimate it would not be ready in time."
    return (
        f"“{package.title}” takes place on {day(pin[1])}. What comes before it is ready on"
        f" {day(ready)}{wait}. {high}"
    )


def team(inputs: Inputs) -> Chapter:
    """Who is needed for how long, and who decides."""
    facts, packages, made = inputs.facts, inputs.packages, made_schedule(inputs)
    by_id = {task.id: task for task in made.tasks}
    rows = []
    for role in dict.fromkeys(package.role for package in packages):
        own = [package for package in packages if package.role == role]
        hours = sum(package.hours or 0 for package in own)
        most = max(by_id[package.id].crew for package in own)
        start = min(by_id[package.id].start for package in own)
        end = max(by_id[package.id].end for package in own)
        dates = start.isoformat(), end.isoformat()
        rows.append((role, str(len(own)), f"{hours_of(hours)} h", str(most), *dates))
    if facts.people:
        stated = listed([f"“{group.text}”" for group in facts.team])
        text = (
            f"The team has {count(facts.people, 'person')}, as the prompt says: {stated}."
            f" At most {made.peak} work at once."
        )
    else:
        doubt = facts.doubt("team")
        none = f"“{doubt.text}” could not be read for sure." if doubt else "No team is stated."
        text = (
            f"{none} The schedule counts on {people_text(made)} at once;"
            " more would not make it shorter."
        )
    return Chapter(
        {"people": facts.people, "peak": made.peak, "roles": [row[0] for row in rows]},
        [b.paragraph(text), b.table(("Role", "Packages", "Work", "At once", "From", "To"), rows)],
        logs=[text],
    )


def resource_load(inputs: Inputs) -> Chapter:
    """Hours of work in each week, against what the team can do."""
    packages, made = inputs.packages, made_schedule(inputs)
    weeks = [week for week in load_by_week(packages, made) if week.hours]
    rows = [
        (str(week.week_of), f"{hours_of(week.hours)} h", f"{week.capacity} h",
         f"{round(100 * week.hours / max(1, week.capacity))} %")
        for week in weeks
    ]  # fmt: skip
    busiest = max(weeks, key=lambda week: week.hours, default=None)
    svg = charts.load(weeks)
    text = "There is no work to be done."
    if busiest:
        text = (
            f"The busiest week begins on {busiest.week_of}, with {hours_of(busiest.hours)} of"
            f" {busiest.capacity} hours."
        )
    words = "Hours of work in each week; the dashed line is what the team can do."
    return Chapter(
        {"weeks": [week.model_dump(mode="json") for week in weeks]},
        [
            b.paragraph(text),
            b.chart("resource-load.svg", svg, words),
            b.table(("Week of", "Work", "Capacity", "Load"), rows),
        ],
    )


def budget(inputs: Inputs) -> Chapter:
    """Costs by line and phase, the reserve, and the verdict on the budget."""
    made = budget_of(inputs.facts, inputs.pattern, inputs.packages, inputs.sizes)
    if unused_of(inputs.pattern, inputs.facts):  # an hour's share of what is left says nothing
        made = made.model_copy(update={"rate_left": None})
    text = budget_text(made)
    doubt = inputs.facts.doubt("budget")
    if doubt is not None:
        made = made.model_copy(update={"verdict": "unknown"})
        known = f" Known costs are {money(made.known, made.currency)}." if made.known else ""
        text = (
            f"Whether the money is enough is unknown: “{doubt.text}” could not be read for sure."
            f" {doubt.question}{known}"
        )
    blocks = [b.verdict(text, TONES[made.verdict])]
    if made.lines:
        rows = [
            (line.item, f"unknown: needs {line.unknown}", line.basis)
            if line.amount is None
            else (line.item, money(line.amount, made.currency), line.basis)
            for line in made.lines
        ]
        blocks.append(b.table(("What", "Amount", "Basis"), rows))
    if made.known:
        rows = [
            (phase.phase, f"{hours_of(phase.hours)} h", money(phase.amount, made.currency))
            for phase in made.phases
        ]
        rows += [
            ("Known costs", f"{hours_of(made.hours)} h", money(made.known, made.currency)),
            ("Reserve, a tenth of them", "", money(made.reserve, made.currency)),
            ("In all", "", money(made.total, made.currency)),
        ]
        blocks += [b.heading("Roll-up"), b.table(("Phase", "Work", "Known costs"), rows)]
    if made.other_currencies:
        blocks.append(
            b.paragraph(
                f"Amounts in {listed(made.other_currencies)} are not added: unknown: needs a rate"
                f" of exchange to {made.currency}."
            )
        )
    blocks.append(
        b.paragraph(
            "Rules: labour is hours times the stated rate; a stated price is multiplied by the"
            " quantity it is counted by; a tenth of the known costs is kept as a reserve; what no"
            " price is stated for is unknown and is asked for."
        )
    )
    return Chapter(
        {"budget": made.model_dump(mode="json"), "verdict": made.verdict, "text": text},
        blocks,
        logs=[text],
    )


def budget_text(made: Budget) -> str:
    """The verdict on the budget in a sentence or two."""
    known = f"Known costs are {money(made.known, made.currency)}" if made.known else ""
    total = money(made.total, made.currency)
    one = len(made.unknown) == 1
    unknown = count(len(made.unknown), "item")
    open_ = f"{unknown} {'has' if one else 'have'} no price yet" if made.unknown else ""
    if made.limit is None and not made.known:
        need = f"{unknown} {'needs' if one else 'need'} a price or a quantity"
        return f"No budget is stated, and no cost is known: {need}."
    if made.limit is None:
        more = f"; {open_}" if open_ else ""
        return f"No budget is stated. {known}, {total} with a reserve{more}."
    limit = f"The budget, {money(made.limit, made.currency)},"
    left = money(abs(made.limit - made.known), made.currency)
    if made.verdict == "does_not_fit":
        return f"{limit} cannot be met. {known} already, {left} more than there is."
    if made.verdict == "tight":
        return (
            f"{limit} is enough only without the full reserve. {known}; {left} are left for"
            " surprises."
        )
    if made.verdict == "fits":
        left = money(made.left or 0, made.currency)
        return f"{limit} is enough. {known}, {total} with a reserve; {left} are left."
    text = f"Whether the {limit[4:]} is enough is unknown: {open_ or 'no cost is known'}."
    text += f" {known}." if known else ""
    if made.rate_left is not None:
        text += (
            f" What is left pays at most {money(made.rate_left, made.currency)} for each hour of"
            " work, if nothing else is bought."
        )
    return text


def what_if(inputs: Inputs) -> Chapter:
    """What other teams, a later day or a smaller scope would change."""
    facts, packages, made = inputs.facts, inputs.packages, made_schedule(inputs)
    most = min(MOST_PEOPLE, max(made.peak + 2, (facts.people or 0) + 4))
    runs = {people: schedule_of(facts, packages, people) for people in range(1, most + 1)}
    useful: list[tuple[int, Schedule]] = []
    for people, run in runs.items():
        if not useful or run.last_day != useful[-1][1].last_day or people == facts.people:
            useful.append((people, run))
    words = {**_WORDS, **({"no_deadline": "unknown"} if facts.doubt("deadline") else {})}
    rows = [
        (count(people, "person"), day(run.last_day), words[run.verdict],
         "as stated" if people == facts.people else "")
        for people, run in useful
    ]  # fmt: skip
    blocks: list[b.Block] = [b.table(("Team", "The work ends on", "Deadline", ""), rows)]
    conclusions = _conclusions(inputs, made, runs) + _savings(made_budget(inputs))
    if conclusions:
        blocks.append(b.bullets(conclusions))
    teams = [
        {"people": people, "last_day": run.last_day.isoformat(), "verdict": run.verdict}
        for people, run in runs.items()
    ]
    return Chapter(
        {"teams": teams, "conclusions": conclusions},
        blocks,
        logs=conclusions,
    )


def _conclusions(inputs: Inputs, made: Schedule, runs: dict[int, Schedule]) -> list[str]:
    """What would make the deadline possible, if anything does."""
    if made.verdict not in {"does_not_fit", "at_risk"}:
        return []
    assert made.deadline is not None
    if made.verdict == "at_risk":
        high = day(made.high_last_day)
        return [f"A deadline from {high} on holds also at the high end of every estimate."]
    found = []
    enough = [people for people, run in runs.items() if run.verdict in {"fits", "at_risk"}]
    if enough:
        more = min(enough) - (inputs.facts.people or 0)
        extra = f", {count(more, 'person')} more than stated" if inputs.facts.people else ""
        found.append(f"With {count(min(enough), 'person')}{extra}, the deadline can be met.")
    else:
        best = min(run.decided_on or run.last_day for run in runs.values())
        found.append(
            f"No team of up to {max(runs)} people meets the deadline: with people enough the"
            f" earliest end is {day(best)}."
        )
    start = _latest_start(made)
    if start < made.first_day:
        found.append(
            f"With this team the work would have had to start on {day(start)} to be in time."
        )
    if made.decided_on:
        found.append(f"A deadline from {day(made.decided_on)} on can be met with this team.")
    return found


def _latest_start(made: Schedule) -> date:
    """The working day so many days earlier than the first one as the work is late."""
    at, left = made.first_day, made.late_days
    while left:
        at -= timedelta(days=1)
        left -= is_working_day(at)
    return at


def _savings(made: Budget) -> list[str]:
    """What would make the budget possible, as far as arithmetic can say."""
    if made.verdict != "does_not_fit" or made.limit is None:
        return []
    lines = sorted(made.lines, key=lambda line: -(line.amount or 0))
    over = money(made.known - made.limit, made.currency)
    top = [
        f"{each.item} ({money(each.amount, made.currency)})" for each in lines[:3] if each.amount
    ]
    are = "cost is" if len(top) == 1 else "costs are"
    return [
        f"Costs must fall by {over}, or the budget must rise by as much.",
        f"The largest known {are} {listed(top)}.",
    ]


def sensitivity(inputs: Inputs) -> Chapter:
    """By how much the end moves when one estimate alone comes to its high end."""
    facts, packages, made = inputs.facts, inputs.packages, made_schedule(inputs)
    found: list[tuple[int, Package, date]] = []
    for package in packages:
        if package.hours is None or package.high is None:
            continue
        changed = [
            each.model_copy(update={"hours": each.high}) if each.id == package.id else each
            for each in packages
        ]
        last = schedule_of(facts, changed, facts.people).last_day
        moved = max(1, working_days_between(made.last_day, last)) - 1
        found.append((moved, package, last))
    found.sort(key=lambda each: (-each[0], each[1].number))
    rows = [
        (package.title, f"{hours_of(package.hours or 0)} h", f"{hours_of(package.high or 0)} h",
         f"{count(moved, 'working day')} later" if moved else "none", day(last))
        for moved, package, last in found[:8]
    ]  # fmt: skip
    top = found[0] if found and found[0][0] else None
    text = (
        f"“{top[1].title}” matters most: at its high end alone the work ends"
        f" {count(top[0], 'working day')} later."
        if top
        else "No single estimate moves the last day when it alone comes to its high end."
    )
    return Chapter(
        {"moved": {package.id: moved for moved, package, _ in found}},
        [
            b.paragraph(text),
            b.table(
                ("If this one takes longer", "Estimate", "High end", "Effect", "New end"), rows
            ),
        ],
    )


def data_of(chapter: Chapter) -> dict[str, Any]:
    """A chapter as it is stored: its data, and its blocks with the narrative before them."""
    told = [b.paragraph(chapter.narrative)] if chapter.narrative else []
    return {**chapter.data, "blocks": [*told, *chapter.blocks]}
