"""Schedules that a processor declares, published with its job type; the database fires them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from minutehand.worker.option_checks import Name, check_options


@dataclass(frozen=True, slots=True)
class Schedule:
    """When jobs of a type are enqueued by the clock: jobs of no tenant, which operators alone see.

    Attributes:
        cron: Five fields (minute hour day month weekday), or @hourly, @daily and the like.
        timezone: IANA name that the fields are read in.
        payload: What the jobs carry; it must fit the type's payload.
        options: Options of the jobs by their names in `enqueue_job`, e.g. `unique` so that runs do
            not overlap.
        missed: What becomes of runs missed while no worker ran: one for all (`once`), or none
            (`skip`).
        name: Distinguishes several schedules of a type; the job type when there is one.
    """

    cron: Name
    timezone: Name = "UTC"
    payload: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    missed: Literal["once", "skip"] = "once"
    name: Name | None = None

    def __post_init__(self) -> None:
        check_options("Schedule", Schedule, asdict(self))

    def wire(self, name: str) -> dict[str, Any]:
        """The schedule as `register_job_types` takes it, under its name or else `name`."""
        return {**asdict(self), "name": self.name or name}


#: What `@processor(schedule=…)` takes; text is the expression of one.
Schedules = str | Schedule | Sequence[Schedule]


def schedules_of(given: Schedules | None, job_type: str) -> tuple[Schedule, ...]:
    """The schedules that a decorator was given.

    Raises:
        ValueError: Two of them have one name.
    """
    if given is None:
        return ()
    if isinstance(given, str):
        return (Schedule(given),)
    found = (given,) if isinstance(given, Schedule) else tuple(given)
    names = [one.name or job_type for one in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"schedules of {job_type!r} must have different names: {twice}")
    return found
