"""Schedules of a processor, published with its job type.

The database enqueues the jobs of schedules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from minutehand.worker.option_checks import Name, check_options


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule of jobs of a type. The jobs have no tenant, so that only operators see them.

    Attributes:
        cron: Five fields (minute hour day month weekday), or @hourly, @daily and the like.
        timezone: IANA name of the time zone of the fields.
        payload: Payload of the jobs, which must match the type's payload.
        options: Options of the jobs by their names in `enqueue_job`, e.g. `unique` so that runs do
            not overlap.
        missed: Effect of runs missed while no worker ran: `once` for one job, or `skip`.
        name: Distinguishes several schedules of a type. Default: the job type.
    """

    cron: Name
    timezone: Name = "UTC"
    payload: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    missed: Literal["once", "skip"] = "once"
    name: Name | None = None

    def __post_init__(self) -> None:
        check_options("Schedule", Schedule, asdict(self))

    def to_json(self, name: str) -> dict[str, Any]:
        """Return the schedule in the form of `register_job_types`, by default named `name`."""
        return {**asdict(self), "name": self.name or name}


#: Type of `@processor(schedule=…)`. A text is a cron expression.
Schedules = str | Schedule | Sequence[Schedule]


def schedules_of(given: Schedules | None, job_type: str) -> tuple[Schedule, ...]:
    """Return the schedules of a decorator's option.

    Raises:
        ValueError: Schedules of a type must have different names.
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
