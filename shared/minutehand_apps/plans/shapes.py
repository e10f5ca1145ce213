"""Models of the results of stages, with checks, and with the blocks of a chapter in the report.

The language model chooses tasks, days, costs and risks. This module checks that the dependencies of
tasks have no cycle, and computes sums.
"""

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Field

Line = Annotated[str, Field(min_length=1, max_length=500)]
Text = Annotated[str, Field(min_length=1, max_length=6000)]
Days = Annotated[float, Field(ge=0, le=10_000)]
#: Block of a chapter: a text, a list of lines, or a table with a header row.
Block = str | list[str] | list[list[str]]


class Chapter(BaseModel):
    """Result of a stage. Unknown fields of the model's answer are dropped."""

    #: Field whose text is streamed while the model writes it. The field is None for a table.
    streamed_field: ClassVar[str | None] = None

    def check(self, results: Mapping[str, Any]) -> None:
        """Raise ValueError if this result contradicts the results of earlier stages."""

    def blocks(self, results: Mapping[str, Any]) -> list[Block]:
        """Return the blocks of the chapter. Some chapters need the results of other stages."""
        raise NotImplementedError


class Brief(Chapter):
    """The goal and the facts of a prompt."""

    streamed_field: ClassVar[str | None] = "goal"
    title: Line
    goal: Text
    facts: list[Line] = Field(default_factory=list, max_length=30)

    def blocks(self, results: Mapping[str, Any]) -> list[Block]:
        """Return the goal, and the list of facts."""
        return [self.goal, self.facts]


class Points(Chapter):
    """A chapter that is a list of lines."""

    streamed_field: ClassVar[str | None] = "points"
    points: Annotated[list[Line], Field(min_length=1, max_length=30)]

    def blocks(self, results: Mapping[str, Any]) -> list[Block]:
        """Return the list of lines."""
        return [self.points]


class Prose(Chapter):
    """A chapter that is a text."""

    streamed_field: ClassVar[str | None] = "text"
    text: Text

    def blocks(self, results: Mapping[str, Any]) -> list[Block]:
        """Return the text."""
        return [self.text]


class Task(BaseModel):
    """A task in the work breakdown."""

    id: Annotated[str, Field(min_length=1, max_length=30)]
    title: Line
    days: Days


class Tasks(Chapter):
    """The chapter with all tasks of the plan."""

    tasks: Annotated[list[Task], Field(min_length=1, max_length=60)]

    def check(self, results: Mapping[str, Any]) -> None:
        """Check that all tasks have different ids."""
        if len({_key(task.id) for task in self.tasks}) < len(self.tasks):
            raise ValueError("two tasks have the same id")

    def blocks(self, results: Mapping[str, Any]) -> list[Block]:
        """Return a table of the tasks, and a sentence with the sum of their days."""
        rows = [[task.id, task.title, f"{task.days:g}"] for task in self.tasks]
        total = sum(task.days for task in self.tasks)
        return [[["Task", "What", "Days"], *rows], f"{total:g} days of work in all."]


def _key(name: str) -> str:
    """Normalise the name of a task, because models vary its case and its spaces."""
    return " ".join(name.split()).casefold()


class Order(BaseModel):
    """The tasks that must be done before a task."""

    task: Line
    after: list[Line] = Field(default_factory=list, max_length=60)


def _check_order(after: Mapping[str, set[str]]) -> None:
    try:
        TopologicalSorter(after).prepare()
    except CycleError as error:
        circle = " → ".join(map(str, error.args[1]))
        raise ValueError(f"the tasks depend on each other in a cycle: {circle}") from error


_OUTDATED = "The work breakdown has changed. Rewrite this chapter to compute the days."


class Schedule(Chapter):
    """The chapter with the order of the tasks."""

    #: Up to two entries per task, because a change of a task adds an entry.
    order: Annotated[list[Order], Field(max_length=120)]

    def _after(self, results: Mapping[str, Any]) -> dict[str, set[str]]:
        """Return the ids of the tasks before each task.

        Tasks may be named by title, in any case.
        """
        tasks = results["work_breakdown"]["tasks"]
        ids = {_key(task[name]): task["id"] for name in ("title", "id") for task in tasks}
        after: dict[str, set[str]] = {task["id"]: set() for task in tasks}
        for order in self.order:
            named = [order.task, *order.after]
            if unknown := [name for name in named if _key(name) not in ids]:
                listed = ", ".join(map(str, after))
                raise ValueError(f"{', '.join(unknown)}: unknown tasks, known are {listed}")
            task, *before = (ids[_key(name)] for name in named)
            after[task].update(before)
        return after

    def check(self, results: Mapping[str, Any]) -> None:
        """Check that all named tasks exist, and that their order has no cycle."""
        _check_order(self._after(results))

    def check_change(self, results: Mapping[str, Any], task: str, after: list[str]) -> None:
        """Raise ValueError if the order would have a cycle with the tasks `after` before `task`."""
        _check_order(self._after(results) | {task: set(after)})

    def blocks(self, results: Mapping[str, Any]) -> list[Block]:
        """Return a table with the earliest start day and end day of each task."""
        try:
            return self._by_days(results)
        except (KeyError, ValueError):
            # show only the order, because the work breakdown was rewritten after this chapter
            rows = [[order.task, ", ".join(order.after)] for order in self.order]
            return [[["Task", "After"], *rows], _OUTDATED]

    def _by_days(self, results: Mapping[str, Any]) -> list[Block]:
        after = self._after(results)
        ends: dict[str, float] = {}
        days = {task["id"]: float(task["days"]) for task in results["work_breakdown"]["tasks"]}
        rows = []
        for task in TopologicalSorter(after).static_order():
            begins = max((ends[previous] for previous in after[task]), default=0.0)
            ends[task] = begins + days[task]
            rows.append([task, ", ".join(sorted(after[task])), f"{begins:g}", f"{ends[task]:g}"])
        longest = max(ends.values(), default=0.0)
        head = ["Task", "After", "From day", "To day"]
        return [[head, *rows], f"{longest:g} days along the longest chain of tasks."]


class Cost(BaseModel):
    """A line of the budget."""

    title: Line
    amount: Annotated[float, Field(ge=-1e12, le=1e12, description="Negative for income.")]


def _money(amount: float) -> str:
    """Format an amount with two decimals."""
    return f"{amount:,.2f}".replace("-", "\N{MINUS SIGN}")


class Costs(Chapter):
    """The chapter with the budget of the plan."""

    currency: Annotated[str, Field(min_length=1, max_length=40)] = "EUR"
    costs: Annotated[list[Cost], Field(max_length=60)]

    def blocks(self, results: Mapping[str, Any]) -> list[Block]:
        """Return a table of the costs, and a sentence with their sum."""
        rows = [[cost.title, _money(cost.amount)] for cost in self.costs]
        total = sum(cost.amount for cost in self.costs)
        return [[["Cost", self.currency], *rows], f"{_money(total)} {self.currency} in all."]


class Milestone(BaseModel):
    """A milestone with its date."""

    title: Line
    when: Line


class Milestones(Chapter):
    """The chapter with the milestones of the plan."""

    milestones: Annotated[list[Milestone], Field(min_length=1, max_length=30)]

    def blocks(self, results: Mapping[str, Any]) -> list[Block]:
        """Return a table of the milestones."""
        return [
            [
                ["When", "What"],
                *([milestone.when, milestone.title] for milestone in self.milestones),
            ]
        ]


class Risk(BaseModel):
    """A risk, with the response to the risk."""

    risk: Line
    answer: Line


class Risks(Chapter):
    """The chapter with the risks of the plan."""

    risks: Annotated[list[Risk], Field(min_length=1, max_length=30)]

    def blocks(self, results: Mapping[str, Any]) -> list[Block]:
        """Return a table of the risks."""
        return [[["Risk", "Answer"], *([risk.risk, risk.answer] for risk in self.risks)]]
