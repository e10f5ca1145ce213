"""Schedules that a processor declares, published with its job type; the database fires them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from minutehand.worker.wanted import MAPPING, NAME, Kind, one_of, require

_CRON: Final = Kind(
    "a cron expression of five fields, whose shortest is a minute ('* * * * *')", NAME.fits
)
_MISSED: Final = one_of("once", "skip")


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

    cron: str
    timezone: str = "UTC"
    payload: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    missed: Literal["once", "skip"] = "once"
    name: str | None = None

    def __post_init__(self) -> None:
        require("a Schedule", "cron", self.cron, _CRON)
        require("a Schedule", "timezone", self.timezone, NAME)
        require("a Schedule", "payload", self.payload, MAPPING)
        require("a Schedule", "options", self.options, MAPPING)
        require("a Schedule", "missed", self.missed, _MISSED)
        if self.name is not None:
            require("a Schedule", "name", self.name, NAME)

    def wire(self, name: str) -> dict[str, Any]:
        """The schedule as `register_job_types` takes it, under its name or else `name`."""
        return {**asdict(self), "name": self.name or name}


#: What `@processor(schedule=…)` takes; text is the expression of one.
Schedules = str | Schedule | Sequence[Schedule]


_SCHEDULES: Final = Kind(
    "a cron expression as '0 7 * * *', whose shortest is a minute, or Schedules",
    lambda given: (
        isinstance(given, Schedule)
        or (isinstance(given, Sequence) and all(isinstance(each, Schedule) for each in given))
    ),
)


def schedules_of(given: Schedules | None, job_type: str) -> tuple[Schedule, ...]:
    """The schedules that a decorator was given.

    Raises:
        ValueError: Two of them have one name.
        TypeError: It is something else.
    """
    if given is None:
        return ()
    if isinstance(given, str):
        return (Schedule(given),)
    require(repr(job_type), "schedule", given, _SCHEDULES)
    found = (given,) if isinstance(given, Schedule) else tuple(given)
    names = [one.name or job_type for one in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"schedules of {job_type!r} must have different names: {twice}")
    return found
