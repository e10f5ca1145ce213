"""Models of the stages' results, with their checks and their blocks in the report.

The model chooses tasks, days, costs and risks. The code checks that no tasks depend on each other
in a cycle, and computes the sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Field

Line = Annotated[str, Field(min_length=1, max_length=500)]
Text = Annotated[str, Field(min_length=1, max_length=6000)]
Days = Annotated[float, Field(ge=0, le=10_000)]
#: Part of a chapter: a text, a list of lines, or a table with a header row.
Block = str | list[str] | list[list[str]]


class Chapter(BaseModel):
    """Result of a stage. Other fields of the model's output are dropped."""

    #: Field that is streamed while it is written, or None for a table.
    streamed_field: ClassVar[str | None] = None

    def check(self, results: Mapping[str, Any]) -> None:
        """Raise ValueError if the result contradicts the results of earlier stages."""

    def blocks(self, results: Mapping[str, Any]) -> list[Block]:
        """Return the chapter's blocks. Some need the results of other stages."""
        raise NotImplementedError


class Brief(Chapter):
    """Goal and facts of the prompt."""

    streamed_field: ClassVar[str | None] = "goal"
    title: Line
    goal: Text
    facts: list[Line] = Field(default_factory=list, max_length=30)

    def blocks(self, results: Mapping[str, Any]) -> list[Block]:
        """Return the goal and the facts."""
        return [self.goal, self.facts]


class Points(Chapter):
    """A list of lines."""

    streamed_field: ClassVar[str | None] = "points"
    points: Annotated[list[Line], Field(min_length=1, max_length=30)]

    def blocks(self, results: Mapping[str, Any]) -> list[Block]:
        """A list."""
        return [self.points]


class Prose(Chapter):
    """A text."""

    streamed_field: ClassVar[str | None] = "text"
    text: Text

    def blocks(self, results: Mapping[str, Any]) -> list[Block]:
        """The text."""
        return [self.text]


class Task(BaseModel):
    """A task of the work breakdown."""

    id: Annotated[str, Field(min_length=1, max_length=30)]
    title: Line
    days: Days


class Tasks(Chapter):
    """The work."""

    tasks: Annotated[list[Task], Field(min_length=1, max_length=60)]

    def check(self, results: Mapping[str, Any]) -> None:
        """Check that no two tasks have the same id."""
        if len({_key(task.id) for task in self.tasks}) < len(self.tasks):
            raise ValueError("two tasks have the same id")

    def blocks(self, results: Mapping[str, Any]) -> list[Block]:
        """Return a table of the tasks, and a line with the sum of their days."""
        rows = [[task.id, task.title, f"{task.days:g}"] for task in self.tasks]
        total = sum(task.days for task in self.tasks)
        return [[["Task", "What", "Days"], *rows], f"{total:g} days of work in all."]


def _key(name: str) -> str:
    """Normalise the name of a task, because models vary case and spaces."""
    return " ".join(name.split()).casefold()


class Order(BaseModel):
    """The tasks that must be done before one task."""

    task: Line
    after: list[Line] = Field(default_factory=list, max_length=60)


_OUTDATED = "The work breakdown has changed. Rewrite this chapter to compute the days."


class Schedule(Chapter):
    """Order of the tasks."""

    order: Annotated[list[Order], Field(max_length=60)]

    def _after(self, results: Mapping[str, Any]) -> dict[str, set[str]]:
        """Map each task's id to the ids of its predecessors. Names may be titles, in any case."""
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
        """Check that all tasks exist and that the order has no cycle."""
        try:
            TopologicalSorter(self._after(results)).prepare()
        except CycleError as error:
            circle = " → ".join(map(str, error.args[1]))
            raise ValueError(f"the tasks depend on each other in a cycle: {circle}") from error

    def blocks(self, results: Mapping[str, Any]) -> list[Block]:
        """Return a table with the earliest start and end day of each task."""
        try:
            return self._by_days(results)
        except (KeyError, ValueError):
            # The work breakdown was rewritten later, so only the order is shown.
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
    """A line of a budget."""

    title: Line
    amount: Annotated[float, Field(ge=-1e12, le=1e12, description="Negative for income.")]


class Costs(Chapter):
    """A budget."""

    currency: Annotated[str, Field(min_length=1, max_length=40)] = "EUR"
    costs: Annotated[list[Cost], Field(max_length=60)]

    def blocks(self, results: Mapping[str, Any]) -> list[Block]:
        """Return a table and the sum."""
        rows = [[cost.title, f"{cost.amount:,.2f}"] for cost in self.costs]
        total = sum(cost.amount for cost in self.costs)
        return [[["Cost", self.currency], *rows], f"{total:,.2f} {self.currency} in all."]


class Milestone(BaseModel):
    """A milestone with its date."""

    title: Line
    when: Line


class Milestones(Chapter):
    """Milestones of the plan."""

    milestones: Annotated[list[Milestone], Field(min_length=1, max_length=30)]

    def blocks(self, results: Mapping[str, Any]) -> list[Block]:
        """A table."""
        return [
            [
                ["When", "What"],
                *([milestone.when, milestone.title] for milestone in self.milestones),
            ]
        ]


class Risk(BaseModel):
    """A risk and the response to it."""

    risk: Line
    answer: Line


class Risks(Chapter):
    """Risks of the plan."""

    risks: Annotated[list[Risk], Field(min_length=1, max_length=30)]

    def blocks(self, results: Mapping[str, Any]) -> list[Block]:
        """A table."""
        return [[["Risk", "Answer"], *([risk.risk, risk.answer] for risk in self.risks)]]
