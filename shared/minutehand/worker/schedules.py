"""Schedules of a processor. The worker publishes the schedules with the job type.

The database enqueues the scheduled jobs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from minutehand.worker.option_checks import Name, check_options


@dataclass(frozen=True)
class Schedule:
    """A schedule that enqueues jobs of a type.

    The jobs of the schedule have no tenant, so only operators see them.

    Attributes:
        cron: Five fields (minute hour day month weekday), or a name such as @hourly or @daily.
        timezone: IANA name of the time zone of the fields in `cron`.
        payload: Payload of the jobs. The payload must match the payload model of the type.
        options: Options of the jobs by their names in `enqueue_job`, such as `unique` to keep jobs
            from overlapping.
        missed: If no worker ran at the scheduled times, `once` enqueues one job, and `skip`
            enqueues no job.
        name: Name of the schedule, unique within a type. Default: the job type.
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
        """Return the schedule in the format of `register_job_types`.

        `name` is the schedule's default name.
        """
        return {**asdict(self), "name": self.name or name}


#: Type of `@processor(schedule=…)`. Schedules of a job type, in which a string is a cron
#: expression.
Schedules = str | Schedule | Sequence[Schedule]


def schedules_of(given: Schedules | None, job_type: str) -> tuple[Schedule, ...]:
    """Return the schedules in the option `schedule` of a decorator.

    Raises:
        ValueError: Two schedules of a type have the same name.
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
