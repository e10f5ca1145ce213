"""The stages that compute: schedule, team, load, budget, and what follows from them.

Each is a plain function from the results it needs to a chapter, by the rules of its module.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any, Final

from minutehand.apps.plans.planning import blocks as b
from minutehand.apps.plans.planning import charts
from minutehand.apps.plans.planning.breakdown import Package
from minutehand.apps.plans.planning.budget import Budget, budget_of
from minutehand.apps.plans.planning.chapters import Chapter, Inputs
from minutehand.apps.plans.planning.numbers import (
    count,
    day,
    is_working_day,
    listed,
    money,
    working_days_between,
)
from minutehand.apps.plans.planning.numbers import hours as hours_of
from minutehand.apps.plans.planning.schedule import Schedule, load_by_week, pinned_on
from minutehand.apps.plans.planning.schedule import schedule as schedule_of

TONES: Final = {
    "fits": "good",
    "at_risk": "doubtful",
    "tight": "doubtful",
    "unknown": "doubtful",
    "does_not_fit": "bad",
    "no_deadline": "good",
    "no_budget": "good",
}
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
    by_id = {task.id: task for task in made.tasks}
    names = {package.id: package.title for package in packages}
    text = deadline_text(inputs, made)
    rows = [
        (
            package.number,
            package.title,
            by_id[package.id].start.isoformat(),
            by_id[package.id].end.isoformat(),
            str(by_id[package.id].crew),
            "critical"
            if by_id[package.id].critical
            else f"{hours_of(by_id[package.id].slack_hours)} h",
        )
        for package in packages
    ]
    path = " → ".join(names[id_] for id_ in made.critical)
    svg = charts.gantt(packages, made)
    return Chapter(
        {"schedule": made.model_dump(mode="json"), "verdict": made.verdict, "text": text},
        [
            b.verdict(text, TONES[made.verdict]),
            b.chart("gantt.svg", svg, "Gantt chart of all work packages; critical ones are red."),
            b.paragraph(f"Critical path: {path}. A delay there delays the end."),
            b.table(("No.", "Work package", "Start", "End", "People", "Slack"), rows),
            b.paragraph(
                "Rules: eight hours a day from Monday to Friday; a package begins when all it comes"
                " after is finished and somebody is free; of several the one with the least slack"
                " goes first; nobody works on two packages at once."
            ),
        ],
        files={"gantt.svg": svg},
        logs=[text],
    )


def deadline_text(inputs: Inputs, made: Schedule) -> str:
    """The verdict on the deadline in a sentence or two."""
    facts, packages = inputs.facts, inputs.packages
    people = people_text(made)
    ends = f"With {people} the work ends on {day(made.last_day)}"
    span = span_text(made)
    if made.verdict == "no_deadline":
        return f"No deadline is stated. {ends} ({span})."
    assert made.deadline is not None
    pin = pinned_on(facts, packages)
    if pin is not None:
        return _pinned_text(inputs, made, pin)
    deadline = f"The deadline, {day(made.deadline)},"
    late = count(made.late_days, "working day")
    spare = f"{count(made.spare_days, 'working day')} earlier"
    on_time = f"on {day(made.last_day)}" + (
        f", {spare}"
        if made.spare_days
        else ", that very day"
        if made.last_day == made.deadline
        else ""
    )
    if made.verdict == "fits":
        return (
            f"{deadline} can be met. With {people} the work ends {on_time}; at the high end of"
            f" every estimate it ends on {day(made.high_last_day)}."
        )
    if made.verdict == "at_risk":
        return (
            f"{deadline} is at risk. With {people} the work ends {on_time}, but at the high end of"
            f" every estimate it ends on {day(made.high_last_day)}, which is too late."
        )
    if made.verdict == "unknown":
        needs = listed([package.unknown for package in packages if package.unknown])
        return (
            f"Whether the deadline, {day(made.deadline)}, can be met is unknown: needs {needs}."
            f" All other work ends on {day(made.last_day)}."
        )
    low = (
        f" Even at the low end of every estimate it ends on {day(made.low_last_day)}."
        if made.low_last_day > made.deadline
        else f" Only at the low end of every estimate, by {day(made.low_last_day)}, it is in time."
    )
    return f"{deadline} cannot be met by these estimates. {ends}, {late} late.{low}"


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
    package = next(each for each in inputs.packages if each.id == pin[0])
    before = [task for task in made.tasks if task.id in package.after]
    by_id = {each.id: each for each in inputs.packages}
    ready = max((task.end for task in before), default=made.first_day)
    what = f"“{package.title}” takes place on {day(pin[1])}"
    waits = max((by_id[task.id].wait_days for task in before), default=0)
    if made.verdict == "does_not_fit":
        return (
            f"The stated day, {day(pin[1])}, cannot be kept by these estimates. What comes before"
            f" “{package.title}” is ready on {day(ready)}, so that it can begin on"
            f" {day(made.decided_on or ready)}, {count(made.late_days, 'working day')} late."
        )
    wait = f" (then a wait of {count(waits, 'working day')})" if waits else ""
    text = f"{what}. What comes before it is ready on {day(ready)}{wait}."
    if made.verdict == "at_risk":
        return f"{text} At the high end of every estimate it would not be ready in time."
    return f"{text} It is in time also at the high end of every estimate."


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
        rows.append(
            (
                role,
                str(len(own)),
                f"{hours_of(hours)} h",
                str(most),
                start.isoformat(),
                end.isoformat(),
            )
        )
    if facts.people:
        stated = listed([f"“{group.text}”" for group in facts.team])
        text = (
            f"The team has {count(facts.people, 'person')}, as the prompt says: {stated}."
            f" At most {made.peak} work at once."
        )
    else:
        text = (
            f"No team is stated. The schedule counts on {people_text(made)} at once;"
            " more would not make it shorter."
        )
    return Chapter(
        {"people": facts.people, "peak": made.peak, "roles": [row[0] for row in rows]},
        [
            b.paragraph(text),
            b.table(("Role", "Packages", "Work", "At once", "From", "To"), rows),
        ],
        logs=[text],
    )


def resource_load(inputs: Inputs) -> Chapter:
    """Hours of work in each week, against what the team can do."""
    packages, made = inputs.packages, made_schedule(inputs)
    weeks = [week for week in load_by_week(packages, made) if week["hours"]]
    rows = [
        (
            str(week["week_of"]),
            f"{hours_of(float(str(week['hours'])))} h",
            f"{week['capacity']} h",
            f"{round(100 * float(str(week['hours'])) / max(1.0, float(str(week['capacity']))))} %",
        )
        for week in weeks
    ]
    busiest = max(weeks, key=lambda week: float(str(week["hours"])), default=None)
    svg = charts.load(weeks)
    text = (
        f"The busiest week begins on {busiest['week_of']}, with"
        f" {hours_of(float(str(busiest['hours'])))} of {busiest['capacity']} hours."
        if busiest
        else "There is no work to be done."
    )
    return Chapter(
        {"weeks": [{**week, "week_of": str(week["week_of"])} for week in weeks]},
        [
            b.paragraph(text),
            b.chart(
                "resource-load.svg",
                svg,
                "Hours of work in each week; the dashed line is what the team can do.",
            ),
            b.table(("Week of", "Work", "Capacity", "Load"), rows),
        ],
        files={"resource-load.svg": svg},
    )


def budget(inputs: Inputs) -> Chapter:
    """Costs by line and phase, the reserve, and the verdict on the budget."""
    made = budget_of(inputs.facts, inputs.pattern, inputs.packages, inputs.sizes)
    text = budget_text(made)
    blocks = [b.verdict(text, TONES[made.verdict])]
    if made.lines:
        rows = [
            (
                line.item,
                money(line.amount, made.currency)
                if line.amount is not None
                else f"unknown: needs {line.unknown}",
                line.basis,
            )
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
    unknown = count(len(made.unknown), "item")
    if made.limit is None:
        if not made.known:
            need = "item needs" if len(made.unknown) == 1 else "items need"
            return (
                "No budget is stated, and no cost is known:"
                f" {len(made.unknown)} {need} a price or a quantity."
            )
        more = (
            f"; {unknown} have no price yet"
            if len(made.unknown) > 1
            else ("; 1 item has no price yet" if made.unknown else "")
        )
        total = money(made.total, made.currency)
        return f"No budget is stated. {known}, {total} with a reserve{more}."
    limit = f"The budget, {money(made.limit, made.currency)},"
    if made.verdict == "does_not_fit":
        over = money(made.known - made.limit, made.currency)
        return f"{limit} cannot be met. {known} already, {over} more than there is."
    if made.verdict == "tight":
        return (
            f"{limit} is enough only without the full reserve. {known};"
            f" {money(made.limit - made.known, made.currency)} are left for surprises."
        )
    if made.verdict == "fits":
        left = money(made.left or 0, made.currency)
        total = money(made.total, made.currency)
        return f"{limit} is enough. {known}, {total} with a reserve; {left} are left."
    have = "has" if len(made.unknown) == 1 else "have"
    text = f"Whether the {limit[4:]} is enough is unknown: {unknown} {have} no price yet."
    if made.known:
        text += f" {known}."
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
    rows = [
        (
            count(people, "person"),
            day(run.last_day),
            _in_words(run),
            "as stated" if people == facts.people else "",
        )
        for people, run in useful
    ]
    blocks: list[b.Block] = [
        b.table(("Team", "The work ends on", "Deadline", ""), rows),
    ]
    conclusions = _conclusions(inputs, made, runs) + _savings(made_budget(inputs))
    if conclusions:
        blocks.append(b.bullets(conclusions))
    return Chapter(
        {
            "teams": [
                {"people": people, "last_day": run.last_day.isoformat(), "verdict": run.verdict}
                for people, run in runs.items()
            ],
            "conclusions": conclusions,
        },
        blocks,
        logs=conclusions,
    )


def _in_words(run: Schedule) -> str:
    return {
        "fits": "can be met",
        "at_risk": "at risk",
        "does_not_fit": "cannot be met",
        "unknown": "unknown",
        "no_deadline": "none stated",
    }[run.verdict]


def _conclusions(inputs: Inputs, made: Schedule, runs: dict[int, Schedule]) -> list[str]:
    """What would make the deadline possible, if anything does."""
    if made.verdict not in {"does_not_fit", "at_risk"}:
        return []
    assert made.deadline is not None
    enough = [people for people, run in runs.items() if run.verdict in {"fits", "at_risk"}]
    found = []
    if made.verdict == "does_not_fit":
        if enough:
            more = min(enough) - (inputs.facts.people or 0)
            extra = f", {count(more, 'person')} more than stated" if inputs.facts.people else ""
            found.append(f"With {count(min(enough), 'person')}{extra}, the deadline can be met.")
        else:
            best = min(
                runs.values(), key=lambda run: (run.decided_on or run.last_day, run.last_day)
            )
            found.append(
                f"No team of up to {max(runs)} people meets the deadline: with people enough the"
                f" earliest end is {day(best.decided_on or best.last_day)}."
            )
        start = _latest_start(made)
        if start < made.first_day:
            found.append(
                f"With this team the work would have had to start on {day(start)} to be in time."
            )
        if made.decided_on:
            found.append(f"A deadline from {day(made.decided_on)} on can be met with this team.")
    else:
        found.append(
            f"A deadline from {day(made.high_last_day)} on holds also at the high end of every"
            " estimate."
        )
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
    lines = sorted(
        (line for line in made.lines if line.amount), key=lambda line: -(line.amount or 0)
    )
    over = made.known - made.limit
    found = [
        f"Costs must fall by {money(over, made.currency)}, or the budget must rise by as much."
    ]
    top = [f"{line.item} ({money(line.amount or 0, made.currency)})" for line in lines[:3]]
    are = "cost is" if len(top) == 1 else "costs are"
    found.append(f"The largest known {are} {listed(top)}.")
    return found


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
        run = schedule_of(facts, changed, facts.people)
        moved = (
            working_days_between(made.last_day, run.last_day) - 1
            if run.last_day > made.last_day
            else 0
        )
        found.append((moved, package, run.last_day))
    found.sort(key=lambda each: (-each[0], each[1].number))
    rows = [
        (
            package.title,
            f"{hours_of(package.hours or 0)} h",
            f"{hours_of(package.high or 0)} h",
            f"{count(moved, 'working day')} later" if moved else "none",
            day(last),
        )
        for moved, package, last in found[:8]
    ]
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
