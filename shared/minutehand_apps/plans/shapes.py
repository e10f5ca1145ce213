"""What each stage finds, as a model fills it, and how it reads: as blocks of a report.

The plan is the model's: tasks, days, costs, risks. The code checks that tasks depend on each other
without a circle, and adds up.
"""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Field

Line = Annotated[str, Field(min_length=1, max_length=500)]
Text = Annotated[str, Field(min_length=1, max_length=6000)]
Days = Annotated[float, Field(ge=0, le=10_000)]
#: A part of a chapter: a text, a list of lines, or a table with its head first.
Block = str | list[str] | list[list[str]]


class Chapter(BaseModel):
    """The result of a stage; what a model adds to it is dropped."""

    #: The field that people read while it is written; None where there is nothing but a table.
    said: ClassVar[str | None] = None

    def check(self, given: Mapping[str, Any]) -> None:
        """Refuse what does not fit the results of the stages before, with a ValueError."""

    def blocks(self, given: Mapping[str, Any]) -> list[Block]:
        """How it reads, by the results of other stages where it needs them."""
        raise NotImplementedError


class Brief(Chapter):
    """What the prompt asks for."""

    said: ClassVar[str | None] = "goal"
    title: Line
    goal: Text
    facts: list[Line] = Field(default_factory=list, max_length=30)

    def blocks(self, given: Mapping[str, Any]) -> list[Block]:
        """The goal, then the facts."""
        return [self.goal, self.facts]


class Points(Chapter):
    """Lines of one kind."""

    said: ClassVar[str | None] = "points"
    points: Annotated[list[Line], Field(min_length=1, max_length=30)]

    def blocks(self, given: Mapping[str, Any]) -> list[Block]:
        """A list."""
        return [self.points]


class Prose(Chapter):
    """A text."""

    said: ClassVar[str | None] = "text"
    text: Text

    def blocks(self, given: Mapping[str, Any]) -> list[Block]:
        """The text."""
        return [self.text]


class Task(BaseModel):
    """A piece of work."""

    id: Annotated[str, Field(min_length=1, max_length=30)]
    title: Line
    days: Days


class Tasks(Chapter):
    """The work."""

    tasks: Annotated[list[Task], Field(min_length=1, max_length=60)]

    def check(self, given: Mapping[str, Any]) -> None:
        """Each id is one task's."""
        if len({_key(task.id) for task in self.tasks}) < len(self.tasks):
            raise ValueError("two tasks have one id")

    def blocks(self, given: Mapping[str, Any]) -> list[Block]:
        """A table, and the sum."""
        rows = [[task.id, task.title, f"{task.days:g}"] for task in self.tasks]
        total = sum(task.days for task in self.tasks)
        return [[["Task", "What", "Days"], *rows], f"{total:g} days of work in all."]


def _key(name: str) -> str:
    """A name of a task as models may write it."""
    return " ".join(name.split()).casefold()


class Order(BaseModel):
    """What a task comes after."""

    task: Line
    after: list[Line] = Field(default_factory=list, max_length=60)


_OUTDATED = "The work breakdown is another one now: make this chapter again to have its days."


class Schedule(Chapter):
    """Which task comes after which."""

    order: Annotated[list[Order], Field(max_length=60)]

    def _after(self, given: Mapping[str, Any]) -> dict[str, set[str]]:
        """The ids that each task comes after; they may be named by titles and in another case."""
        tasks = given["work_breakdown"]["tasks"]
        ids = {_key(task[name]): task["id"] for name in ("title", "id") for task in tasks}
        after: dict[str, set[str]] = {task["id"]: set() for task in tasks}
        for each in self.order:
            named = [each.task, *each.after]
            if unknown := [name for name in named if _key(name) not in ids]:
                listed = ", ".join(map(str, after))
                raise ValueError(f"{', '.join(unknown)}: unknown tasks; there are {listed}")
            task, *before = (ids[_key(name)] for name in named)
            after[task].update(before)
        return after

    def check(self, given: Mapping[str, Any]) -> None:
        """Each task is there, and the graph has no circle."""
        try:
            TopologicalSorter(self._after(given)).prepare()
        except CycleError as error:
            circle = " → ".join(map(str, error.args[1]))
            raise ValueError(f"the tasks wait for each other: {circle}") from error

    def blocks(self, given: Mapping[str, Any]) -> list[Block]:
        """Each task from its first day to its last, if nothing holds it up but what it needs."""
        try:
            return self._by_days(given)
        except (KeyError, ValueError):
            # the work breakdown is made again after it: what is left is what comes after what
            rows = [[each.task, ", ".join(each.after)] for each in self.order]
            return [[["Task", "After"], *rows], _OUTDATED]

    def _by_days(self, given: Mapping[str, Any]) -> list[Block]:
        after = self._after(given)
        ends: dict[str, float] = {}
        days = {task["id"]: float(task["days"]) for task in given["work_breakdown"]["tasks"]}
        rows = []
        for task in TopologicalSorter(after).static_order():
            begins = max((ends[each] for each in after[task]), default=0.0)
            ends[task] = begins + days[task]
            rows.append([task, ", ".join(sorted(after[task])), f"{begins:g}", f"{ends[task]:g}"])
        longest = max(ends.values(), default=0.0)
        head = ["Task", "After", "From day", "To day"]
        return [[head, *rows], f"{longest:g} days along the longest chain of tasks."]


class Cost(BaseModel):
    """A line of a budget."""

    title: Line
    amount: Annotated[float, Field(ge=-1e12, le=1e12, description="Below 0 for what comes in.")]


class Costs(Chapter):
    """A budget."""

    currency: Annotated[str, Field(min_length=1, max_length=40)] = "EUR"
    costs: Annotated[list[Cost], Field(max_length=60)]

    def blocks(self, given: Mapping[str, Any]) -> list[Block]:
        """A table, and the sum."""
        rows = [[each.title, f"{each.amount:,.2f}"] for each in self.costs]
        total = sum(each.amount for each in self.costs)
        return [[["Cost", self.currency], *rows], f"{total:,.2f} {self.currency} in all."]


class Milestone(BaseModel):
    """A point in time."""

    title: Line
    when: Line


class Milestones(Chapter):
    """Points in time."""

    milestones: Annotated[list[Milestone], Field(min_length=1, max_length=30)]

    def blocks(self, given: Mapping[str, Any]) -> list[Block]:
        """A table."""
        return [[["When", "What"], *([each.when, each.title] for each in self.milestones)]]


class Risk(BaseModel):
    """What may go wrong."""

    risk: Line
    answer: Line


class Risks(Chapter):
    """What may go wrong, and what is done about it."""

    risks: Annotated[list[Risk], Field(min_length=1, max_length=30)]

    def blocks(self, given: Mapping[str, Any]) -> list[Block]:
        """A table."""
        return [[["Risk", "Answer"], *([each.risk, each.answer] for each in self.risks)]]
