"""Schedules, budgets and reports: computed by stated rules, the same on every run."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minutehand_apps.plans import planning
from minutehand_apps.plans.models import PlanError, StoredPlan, StoredStage
from minutehand_apps.plans.planning import catalogue
from minutehand_apps.plans.planning.asking import first_questions
from minutehand_apps.plans.planning.breakdown import Package, packages_of, sizes_of
from minutehand_apps.plans.planning.graph import Speed, after, position_of, stages_of
from minutehand_apps.plans.planning.making import plan_of
from minutehand_apps.plans.planning.reading import read
from minutehand_apps.plans.planning.schedule import DAY, Schedule, place, schedule
from minutehand_apps.plans.report import compose, html, markdown

TODAY = date(2027, 1, 13)
FAST: Speed = "fast_but_skip_details"
ALL: Speed = "all_details_but_slow"
PROMPTS = [
    "Paint 3 rooms", "Renovate a bathroom of 8 m²", "Build a garage of 40 square metres",
    "Move 12 people", "Buy 3 vans", "Build an app with 9 screens and 2 integrations",
    "Train 100 drivers in groups of 10", "Organise a fair for 300 guests on 7 August 2027",
    "Survey 50 households", "Run a campaign with 10 posters for 3 weeks", "Sort the archive",
    "Sort the archive, about 60 hours of work",
]  # fmt: skip


WRONG = re.compile(
    r"\b1 (?:days|hours|people|risks|items|packages|weeks)\b|\b(\w{2,}) \1\b|  +\w|\.\.|,,| ,| \."
    r"|None\b|\{|\}|needs \.|needs$|“”|\bnan\b"
)


def chapters(prompt: str, speed: Speed = ALL) -> dict[str, Any]:
    """The data of every chapter of a prompt's plan."""
    report = compose(plan_of(prompt, speed, TODAY))
    return {chapter.stage: chapter.data for chapter in report.chapters}


def scheduled(prompt: str, people: int | None) -> tuple[list[Package], Schedule]:
    """The packages of a prompt, and their schedule with so many people."""
    facts = read(prompt, TODAY)
    pattern = catalogue.pick(facts).pattern
    packages = packages_of(pattern, facts, sizes_of(pattern, facts), steps=False)
    return packages, schedule(facts, packages, people)


@given(st.sampled_from(PROMPTS), st.integers(1, 9) | st.none())
def test_a_schedule_keeps_its_rules(prompt: str, people: int | None) -> None:
    """Nothing begins before what it comes after; nobody works on two packages at once."""
    packages, made = scheduled(prompt, people)
    by_id = {task.id: task for task in made.tasks}

    for package in packages:
        task = by_id[package.id]
        for before in package.after:
            wait = next(p.wait_days for p in packages if p.id == before)
            assert task.begin >= by_id[before].finish + round(wait * DAY)
        assert (task.finish - task.begin) / 4 * task.crew >= (package.hours or 0)
    if people is not None:
        for task in made.tasks:
            at_once = [o.crew for o in made.tasks if o.begin <= task.begin < o.finish]
            assert sum(at_once) <= people
    assert made.critical
    assert made.low_last_day <= made.last_day <= made.high_last_day


@given(st.sampled_from(PROMPTS), st.integers(1, 8))
def test_what_is_critical_is_what_delays_the_end(prompt: str, people: int) -> None:
    """A package with slack may take that much longer without moving the end by dependencies."""
    _, made = scheduled(prompt, people)

    last = max(task.finish for task in made.tasks)
    assert any(task.critical and task.finish == last for task in made.tasks)
    assert all(task.finish + task.slack_hours * 4 <= last for task in made.tasks)


def test_sizes_scale_the_work() -> None:
    """One wall is a day's work; a hundred guests are less than a thousand."""
    wall = chapters("Paint one wall")
    few, many = (chapters(f"Organise a fair for {n} guests") for n in (100, 1000))

    assert wall["work_breakdown"]["hours"] <= 8
    assert few["work_breakdown"]["hours"] < many["work_breakdown"]["hours"]


def test_stated_prices_and_rates_make_the_budget() -> None:
    """Unit prices by their quantities, labour by its rate, a tenth as a reserve."""
    budget = chapters(
        "Organise a fair for 80 guests with a budget of 9,000 EUR. Catering costs 20 EUR per guest."
        " Helpers work at 10 EUR an hour."
    )["budget"]["budget"]
    lines = {line["item"]: line for line in budget["lines"]}

    assert float(lines["Catering"]["amount"]) == 1600
    labour = sum(float(x["amount"]) for x in budget["lines"] if x["item"].startswith("Labour"))
    assert labour == pytest.approx(budget["hours"] * 10, abs=1)
    assert float(budget["known"]) == pytest.approx(labour + 1600)
    assert float(budget["reserve"]) == pytest.approx(float(budget["known"]) / 10, abs=0.01)
    assert budget["verdict"] == "unknown"
    assert lines["Venue"]["amount"] is None


def test_a_deadline_and_a_budget_that_cannot_be_met_are_said_to_be() -> None:
    """With what would make them possible, where anything would."""
    plan = chapters(
        "Build an online shop with 25 pages in 3 weeks with 2 developers at 80 EUR an hour."
        " The budget is 20,000 EUR."
    )

    assert plan["schedule"]["verdict"] == "does_not_fit"
    assert plan["budget"]["verdict"] == "does_not_fit"
    assert "cannot be met" in plan["executive_summary"]["headline"]
    assert len(plan["what_if"]["conclusions"]) >= 3


def test_what_has_no_basis_is_unknown_and_asked_for() -> None:
    """No kind of project, no hours: the plan says what it needs."""
    plan = chapters("Sort the archive by 30 June 2027.")
    stated = chapters("Sort the archive by 30 June 2027, about 60 hours of work.")

    assert plan["schedule"]["verdict"] == "unknown"
    assert any("how many hours" in question for question in plan["questions"]["open"])
    assert stated["schedule"]["verdict"] in {"fits", "at_risk"}
    work = next(p for p in stated["work_breakdown"]["packages"] if p["id"] == "work")
    assert (work["hours"], work["confidence"]) == (60, "high")


@given(st.integers(2, 6) | st.none())
@settings(max_examples=6)
def test_what_leads_up_to_a_day_is_as_late_as_its_buffer_allows(people: int | None) -> None:
    """Nothing is set up in December for June; the venue is booked at once all the same."""
    prompt = "Organise a wedding for 80 guests on 19 June 2027"
    _, made = scheduled(prompt, people)
    tasks = {task.id: task for task in made.tasks}

    assert tasks["run"].start == date(2027, 6, 19)
    assert tasks["setup"].end == date(2027, 6, 18)
    assert date(2027, 6, 1) <= tasks["material"].start <= tasks["material"].end
    assert tasks["material"].end <= date(2027, 6, 15)
    assert date(2027, 4, 1) <= tasks["invite"].end <= date(2027, 6, 1)
    assert tasks["venue"].start < date(2027, 2, 1)
    assert {"setup", "run"} <= set(made.critical)


def test_what_is_doubtful_or_not_used_makes_the_verdict_unknown() -> None:
    """And is asked: neither "no deadline is stated" nor a date that ignores 310 servers."""
    vague = chapters("Organise a fair for 90 guests in summer 2027 with a budget of 12k.")
    racks = chapters("Move 42 racks with 310 servers by 30 June 2027 for EUR 9,000.")

    assert (vague["schedule"]["verdict"], vague["budget"]["verdict"]) == ("unknown", "unknown")
    assert "“in summer 2027” could not be read for sure" in vague["schedule"]["text"]
    assert "“budget of 12k” could not be read for sure" in vague["budget"]["text"]
    assert "Which day is meant by “in summer 2027”?" in vague["questions"]["open"]
    prompt = "Organise a fair in summer 2027 with a budget of 12k; my sister helps"
    report = markdown(compose(plan_of(prompt, ALL, TODAY)))
    assert not re.search(
        r"none stated|No (?:deadline|team|budget) is stated|nor a budget is stated|no constraint",
        report,
    )
    assert racks["schedule"]["verdict"] == "unknown"
    assert "“310 servers” is stated and the pattern does not use it" in racks["schedule"]["text"]


def test_what_fits_no_kind_is_not_called_possible() -> None:
    """One word of a kind is not enough: a marathon is no course, and its hours are unknown."""
    plan = chapters("Train for a marathon on 26 September 2027")
    staff = chapters("Teach 60 staff first aid in groups of 12 over two days")

    assert (plan["understand"]["pattern"], plan["understand"]["fit"]) == ("general", 1)
    assert "depends on the open questions" in plan["executive_summary"]["headline"]
    nothing = chapters("Plant a hedge")
    assert "when the work ends is unknown" in nothing["schedule"]["text"]
    assert "depends on the open questions" in nothing["executive_summary"]["headline"]
    assert staff["assumptions"]["sizes"][0]["value"] == 60
    garden = chapters("Set up a garden with 5 volunteers and a budget of 2,5k EUR")
    assert garden["budget"]["verdict"] == "unknown"
    assert garden["budget"]["text"].endswith("is enough is unknown: no cost is known.")
    baths = chapters("Renovate 3 bathrooms between 1 March and 15 April 2027")
    assert baths["schedule"]["schedule"]["first_day"] == "2027-03-01"


@pytest.mark.parametrize(
    "goal",
    Path(__file__).with_name("goals.txt").read_text("utf-8").splitlines()[1:],
)
def test_a_goal_is_planned_as_a_manager_would_sign_it(goal: str) -> None:
    """Its kind, its people, both verdicts, and a day that tells that the order is right."""
    prompt, wanted, last = goal.split(" | ")
    name, end = last.split()
    plan = chapters(prompt)
    tasks = {task["id"]: task for task in plan["schedule"]["schedule"]["tasks"]}

    found = (
        plan["understand"]["pattern"], plan["team"]["people"],
        plan["schedule"]["verdict"], plan["budget"]["verdict"],
    )  # fmt: skip
    assert " ".join(map(str, found)) == wanted
    assert tasks[name]["end"] == end, tasks


def test_people_are_levelled() -> None:
    """Two at the interfaces would leave one for the features: crews are those that end soonest."""
    packages, made = scheduled("Build an app with 8 screens and 2 integrations", 3)

    unlevelled = max(slot.finish for slot in place(packages, 3, pins={}))
    assert max(task.finish for task in made.tasks) < unlevelled * 0.75
    assert {task.id: task.crew for task in made.tasks}["features"] == 3


def test_what_moves_the_end_most_is_asked_first() -> None:
    """Then what moves it less; what it costs moves no day."""
    asked = [each.text for each in first_questions("Organise a fair by 7 August 2027", TODAY)]
    alone = [each.text for each in first_questions("Organise a fair by 7 August 2027 alone", TODAY)]

    assert asked == [
        "How many people do the work?",
        "How many days does it last?",
        "How many guests are expected?",
    ]
    assert alone[-1] == "What may it cost?"
    racks = "Migrate 310 servers by 30 June 2027"
    hours = first_questions(racks, TODAY)[0]
    assert hours.text == "How many hours does the work itself take?"
    assert chapters(hours.answered(racks, "200"))["schedule"]["verdict"] == "fits"


def test_an_event_at_a_weekend_takes_place_on_its_day() -> None:
    """The day counts as a working day, and what follows comes after it."""
    plan = chapters("Organise a fair for 90 guests on Saturday 7 August 2027.")
    tasks = {task["id"]: task for task in plan["schedule"]["schedule"]["tasks"]}

    assert tasks["run"]["start"] == "2027-08-07"
    assert tasks["clear"]["start"] >= "2027-08-07"


def test_the_same_prompt_on_the_same_day_gives_the_same_report() -> None:
    """Byte for byte, in both forms: a fork may keep the chapters it does not compute again."""
    first, again = (compose(plan_of(PROMPTS[7], ALL, TODAY)) for _ in range(2))

    assert html(first) == html(again)
    assert markdown(first) == markdown(again)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_sentences_are_english(prompt: str) -> None:
    """No wrong plural, no doubled word or sign, no empty place of a template."""
    text = markdown(compose(plan_of(prompt, ALL, TODAY)))

    lines = "\n".join(line for line in text.splitlines() if not line.startswith("|--"))
    wrong = [found.group() for found in WRONG.finditer(lines)]
    assert wrong == []


@pytest.mark.parametrize("speed", ["fast_but_skip_details", "balanced_speed_and_detail", ALL])
def test_the_graph_has_an_order(speed: str) -> None:
    """At least fifteen stages, each after all it needs."""
    stages = stages_of(speed)
    names = [stage.name for stage in stages]

    assert len(stages) >= 15
    assert names[-1] == "report"
    for stage in stages:
        assert all(names.index(need) < names.index(stage.name) for need in stage.needs)
    assert after("schedule", stages) >= {"schedule", "team", "milestones", "report"}


def test_nothing_in_the_planning_is_random() -> None:
    """Not even imported."""
    for path in Path(str(planning.__path__[0])).glob("*.py"):
        assert not re.search(r"^\s*(?:import|from) (?:random|secrets)", path.read_text(), re.M)


HOSTILE = st.sampled_from(
    ["<script>alert(1)</script>", "[x](javascript:alert(1))", "![x](http://a)", "# h", "`c`",
     "**b**", "a\n\n# heading", "<img src=x onerror=y>", "|a|b|", "<http://a>", "]]>", "'\"&"]
)  # fmt: skip


@given(st.lists(HOSTILE, min_size=1, max_size=3))
def test_nothing_of_a_prompt_becomes_markup(parts: list[str]) -> None:
    """Neither in HTML nor in Markdown."""
    report = compose(plan_of("Buy 3 vans " + " ".join(parts), FAST, TODAY))
    page, text = html(report), markdown(report)

    assert "<script" not in page
    assert "<img" not in page
    assert not re.search(r"(?<!\\)<(?:script|img|http)", text)
    assert not re.search(r"(?<!\\)\]\((?!gantt)", text)
    assert not re.search(r"^# h", text, re.M)


def test_a_report_of_nothing_says_what_is_missing() -> None:
    """Right after the creation, and of a plan that failed before its first stage."""
    whole = plan_of("Buy 3 vans", FAST, TODAY)
    pending = whole.model_copy(update={"stages": [], "status": "pending", "finished_at": None})
    error = PlanError(code="job_failed", stage=None, reason="The worker died.")
    failed = pending.model_copy(update={"status": "failed", "error": error})

    assert {each.code for each in compose(pending).missing} == {"pending"}
    reasons = {each.stage: each.reason for each in compose(failed).missing}
    assert reasons["understand"] == "The worker died."
    assert reasons["assumptions"] == "It needs what is missing too: What is asked."
    assert "This report is partial" in html(compose(failed))
    assert "What is missing, and why:" in markdown(compose(failed))


def test_a_failed_stage_names_its_reason() -> None:
    """And those that need it name it."""
    whole = plan_of("Buy 3 vans", FAST, TODAY)
    stages = [s for s in whole.stages if position_of(s.name) < position_of("risks")]
    stages.append(StoredStage(name="risks", status="failed", code="timeout", reason="Too slow."))
    plan: StoredPlan = whole.model_copy(update={"stages": stages, "status": "failed"})

    missing = {each.stage: (each.code, each.reason) for each in compose(plan).missing}
    assert missing["risks"] == ("timeout", "Too slow.")
    assert missing["questions"] == ("needs_stage", "It needs what is missing too: Risks.")
