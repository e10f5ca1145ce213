"""What each stage finds, as a model fills it, and how it reads: as blocks of a report.

The plan is the model's: tasks, days, costs, risks. The code checks that tasks depend on each other
without a circle, and adds up.
"""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from minutehand.ai.engines import SAMPLE

Line = Annotated[str, Field(min_length=1, max_length=500)]
Text = Annotated[str, Field(min_length=1, max_length=6000)]
Days = Annotated[float, Field(ge=0, le=10_000)]
#: A part of a chapter: a text, a list of lines, or a table with its head first.
Block = str | list[str] | list[list[str]]


class Chapter(BaseModel):
    """The result of a stage; what a model adds to it is dropped."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    def check(self, given: Mapping[str, Any]) -> None:
        """Refuse what does not fit the results of the stages before, with a ValueError."""

    def blocks(self, given: Mapping[str, Any]) -> list[Block]:
        """How it reads, by the results of other stages where it needs them."""
        raise NotImplementedError

    @classmethod
    def sample(cls) -> Chapter:
        """What stands in where no model is configured."""
        raise NotImplementedError


class Brief(Chapter):
    """What the prompt asks for."""

    title: Line
    goal: Text
    facts: list[Line] = Field(default_factory=list, max_length=30)

    def blocks(self, given: Mapping[str, Any]) -> list[Block]:
        """The goal, then the facts."""
        return [self.goal, self.facts]

    @classmethod
    def sample(cls) -> Brief:
        """A title and a goal."""
        return cls(title="Sample plan", goal=f"The goal would stand here. ({SAMPLE})")


class Points(Chapter):
    """Lines of one kind."""

    points: Annotated[list[Line], Field(min_length=1, max_length=30)]

    def blocks(self, given: Mapping[str, Any]) -> list[Block]:
        """A list."""
        return [self.points]

    @classmethod
    def sample(cls) -> Points:
        """One line."""
        return cls(points=[f"A point would stand here. ({SAMPLE})"])


class Prose(Chapter):
    """A text."""

    text: Text

    def blocks(self, given: Mapping[str, Any]) -> list[Block]:
        """The text."""
        return [self.text]

    @classmethod
    def sample(cls) -> Prose:
        """One sentence."""
        return cls(text=f"A text would stand here. ({SAMPLE})")


class Task(BaseModel):
    """A piece of work."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: Annotated[str, Field(min_length=1, max_length=40)]
    title: Line
    days: Days


class Tasks(Chapter):
    """The work."""

    tasks: Annotated[list[Task], Field(min_length=1, max_length=60)]

    def check(self, given: Mapping[str, Any]) -> None:
        """Each id is one task's."""
        if len({task.id for task in self.tasks}) < len(self.tasks):
            raise ValueError("two tasks have one id")

    def blocks(self, given: Mapping[str, Any]) -> list[Block]:
        """A table, and the sum."""
        rows = [[task.id, task.title, f"{task.days:g}"] for task in self.tasks]
        total = sum(task.days for task in self.tasks)
        return [[["Task", "What", "Days"], *rows], f"{total:g} days of work in all."]

    @classmethod
    def sample(cls) -> Tasks:
        """Two tasks."""
        named = {"A": "First task", "B": "Second task"}
        tasks = [Task(id=key, title=f"{title} ({SAMPLE})", days=1) for key, title in named.items()]
        return cls(tasks=tasks)


class Order(BaseModel):
    """What a task comes after."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    task: Line
    after: list[Line] = Field(default_factory=list, max_length=60)


class Schedule(Chapter):
    """Which task comes after which."""

    order: Annotated[list[Order], Field(max_length=60)]

    def _after(self, given: Mapping[str, Any]) -> dict[str, set[str]]:
        ids = [task["id"] for task in given["work_breakdown"]["tasks"]]
        named = {each.task: set(each.after) & set(ids) for each in self.order}
        return {task: named.get(task, set()) for task in ids}

    def check(self, given: Mapping[str, Any]) -> None:
        """The graph has no circle."""
        try:
            TopologicalSorter(self._after(given)).prepare()
        except CycleError as error:
            circle = " → ".join(map(str, error.args[1]))
            raise ValueError(f"the tasks wait for each other: {circle}") from error

    def blocks(self, given: Mapping[str, Any]) -> list[Block]:
        """Each task from its first day to its last, if nothing holds it up but what it needs."""
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

    @classmethod
    def sample(cls) -> Schedule:
        """The second after the first."""
        return cls(order=[Order(task="B", after=["A"])])


class Cost(BaseModel):
    """A line of a budget."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    title: Line
    amount: Annotated[float, Field(ge=0, le=1e12)]


class Costs(Chapter):
    """A budget."""

    currency: Annotated[str, Field(min_length=1, max_length=10)] = "EUR"
    costs: Annotated[list[Cost], Field(max_length=60)]

    def blocks(self, given: Mapping[str, Any]) -> list[Block]:
        """A table, and the sum."""
        rows = [[each.title, f"{each.amount:,.2f}"] for each in self.costs]
        total = sum(each.amount for each in self.costs)
        return [[["Cost", self.currency], *rows], f"{total:,.2f} {self.currency} in all."]

    @classmethod
    def sample(cls) -> Costs:
        """One line."""
        return cls(costs=[Cost(title=f"A cost would stand here. ({SAMPLE})", amount=0)])


class Milestone(BaseModel):
    """A point in time."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    title: Line
    when: Line


class Milestones(Chapter):
    """Points in time."""

    milestones: Annotated[list[Milestone], Field(min_length=1, max_length=30)]

    def blocks(self, given: Mapping[str, Any]) -> list[Block]:
        """A table."""
        return [[["When", "What"], *([each.when, each.title] for each in self.milestones)]]

    @classmethod
    def sample(cls) -> Milestones:
        """One."""
        return cls(milestones=[Milestone(title=f"A milestone. ({SAMPLE})", when="Day 2")])


class Risk(BaseModel):
    """What may go wrong."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    risk: Line
    answer: Line


class Risks(Chapter):
    """What may go wrong, and what is done about it."""

    risks: Annotated[list[Risk], Field(min_length=1, max_length=30)]

    def blocks(self, given: Mapping[str, Any]) -> list[Block]:
        """A table."""
        return [[["Risk", "Answer"], *([each.risk, each.answer] for each in self.risks)]]

    @classmethod
    def sample(cls) -> Risks:
        """One."""
        return cls(risks=[Risk(risk=f"A risk. ({SAMPLE})", answer="An answer.")])
