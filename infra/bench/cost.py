"""What the service costs on AWS and Supabase, by item: idle for a month, and per million jobs.

`python -m infra.bench.cost` prints the tables of infra/aws/COST.md, which a test keeps
the same. List prices of us-east-1 as of November 2026, beyond free tiers; the worker's time is the
simulation's, whose parameters are measured.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from infra.bench.simulate import Load, Parameters, Simulation

MILLION = 1_000_000
MINUTES_A_MONTH = 43_200
SECONDS_A_MONTH = 60 * MINUTES_A_MONTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """US dollars."""

    gigabyte_second: float = 0.0000133334  # Lambda, arm64
    million_invocations: float = 0.20
    million_requests: float = 1.00  # API Gateway, HTTP API
    alarm_metric: float = 0.10  # a month
    custom_metric: float = 0.30  # a month
    key: float = 1.00  # KMS, a month
    million_schedules: float = 1.00
    log_gigabyte: float = 0.50
    million_messages: float = 2.50  # Realtime: one sent, and one per receiver
    disk_gigabyte: float = 0.125  # a month, Supabase


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one of each takes; measured unless a comment says otherwise.

    Attributes:
        alarm_metrics: Metrics that the template's alarms read; tests/artefact counts them.
        messages_alone: Realtime messages of a job that is enqueued and run by itself.
        messages_in_batches: The same of jobs enqueued and settled by the hundred.
    """

    alarm_metrics: int = 27
    custom_metrics: int = 14
    idle_log_kilobytes: float = 0.5  # of a tick that finds nothing
    job_log_kilobytes: float = 1.8
    enqueue_seconds: float = 0.13  # of the jobs function, 1 GB
    stream_seconds: float = 0.05  # of the status function, for an answer that does not wait
    stream_retry_seconds: float = 2.0
    messages_alone: float = 5.0
    messages_in_batches: float = 2.01
    job_kilobytes: float = 3.8  # in the database for 30 days
    message_days: float = 3.0
    jobs_messages_kilobytes: float = 4.6  # of a job alone, in realtime.messages


PRICES, USAGE = Prices(), Usage()


@functools.cache
def worker_usd(*, jobs: int, seconds: float, at_once: bool) -> float:
    """The worker's bill for a million jobs of that length, as the simulation has it."""
    rng = random.Random(0)
    until = 600.0
    arrivals = ((5.0, jobs),) if at_once else tuple((rng.uniform(0, until), 1) for _ in range(jobs))
    world = Parameters()
    result = Simulation(Load("cost", arrivals, lambda _: seconds, until), world).run()
    return result.usd(world) * MILLION / jobs


@functools.cache
def idle_tick_seconds() -> float:
    """Billed for a tick that finds nothing: an hour of them, and one job at its end."""
    world = Parameters()
    load = Load("idle", ((3_599.0, 1),), lambda _: 0.0, 3_600.0)
    result = Simulation(load, world).run()
    return result.billed / result.invocations


def idle() -> Iterator[tuple[str, float, str]]:
    """Items of a month without any job: name, US dollars, how it comes about."""
    p, u, world = PRICES, USAGE, Parameters()
    tick = idle_tick_seconds()
    seconds = MINUTES_A_MONTH * tick * world.gigabytes
    invoked = MINUTES_A_MONTH / MILLION * p.million_invocations
    yield (
        "Worker, a tick a minute",
        seconds * p.gigabyte_second + invoked,
        f"43,200 x {tick:.2f} s x {world.gigabytes} GB",
    )
    yield ("Schedule", MINUTES_A_MONTH / MILLION * p.million_schedules, "43,200 invocations")
    yield ("Alarms", u.alarm_metrics * p.alarm_metric, f"{u.alarm_metrics} metrics")
    yield (
        "The worker's own metrics",
        u.custom_metrics * p.custom_metric,
        f"{u.custom_metrics}; the first 10 of an account are free",
    )
    yield ("Key", p.key, "one for parameters and vendors' keys")
    logs = MINUTES_A_MONTH * u.idle_log_kilobytes / 1024**2
    yield ("Logs", logs * p.log_gigabyte, f"{logs * 1024:.0f} MB")
    yield ("Console, parameters, queues", 0.05, "cents")


def per_million(*, alone: bool) -> Iterator[tuple[str, float, str]]:
    """Items of a million jobs of 0.2 s: each by its own POST, or a thousand by one."""
    p, u = PRICES, USAGE
    requests = 1.0 if alone else 0.001
    yield (
        "API Gateway",
        requests * p.million_requests,
        "1 request a job" if alone else "1 request a thousand jobs",
    )
    enqueue = MILLION * requests * u.enqueue_seconds * p.gigabyte_second
    yield (
        "Enqueue, `jobs`",
        enqueue + requests * p.million_invocations,
        f"{u.enqueue_seconds} s x 1 GB a request",
    )
    worker = worker_usd(jobs=300 if alone else 10_000, seconds=0.2, at_once=not alone)
    yield ("Worker", worker, "one job every 2 s" if alone else "10,000 at once, 5 in a worker")
    logs = MILLION * u.job_log_kilobytes / 1024**2
    yield ("Logs", logs * p.log_gigabyte, f"{u.job_log_kilobytes} KB a job")
    messages = u.messages_alone if alone else u.messages_in_batches
    yield (
        "Realtime, no one watching",
        messages * p.million_messages,
        f"{messages:g} messages a job",
    )
    disk = MILLION * u.job_kilobytes / 1024**2
    yield ("Database, 30 days", disk * p.disk_gigabyte, f"{disk:.1f} GB of {u.job_kilobytes} KB")


def stream_month(wait_seconds: float) -> tuple[float, float]:
    """One reader of an idle stream behind Lambda: US dollars a month, and share of a slot."""
    p, u = PRICES, USAGE
    held = wait_seconds + u.stream_seconds
    requests = SECONDS_A_MONTH / (held + u.stream_retry_seconds)
    each = held * p.gigabyte_second + (p.million_requests + p.million_invocations) / MILLION
    return requests * each, held / (held + u.stream_retry_seconds)


def tables() -> str:
    """The tables of the page, as Markdown."""
    lines = ["### Idle, a month", "", "| Item | USD | |", "|---|---|---|"]
    items = list(idle())
    lines += [f"| {name} | {usd:.2f} | {why} |" for name, usd, why in items]
    lines += [f"| **AWS together** | **{sum(usd for _, usd, _ in items):.2f}** | |", ""]
    lines += [
        "### A million jobs of 0.2 s",
        "",
        "| Item | each by itself | a thousand at once | each by itself, a thousand at once |",
        "|---|---|---|---|",
    ]
    one, many = list(per_million(alone=True)), list(per_million(alone=False))
    lines += [
        f"| {name} | {usd:.2f} | {less:.2f} | {why}{'' if why == how else f' · {how}'} |"
        for (name, usd, why), (_, less, how) in zip(one, many, strict=True)
    ]
    sums = [sum(usd for _, usd, _ in items) for items in (one, many)]
    lines += [f"| **together** | **{sums[0]:.2f}** | **{sums[1]:.2f}** | |", ""]
    lines += [
        "### An open stream of events behind Lambda, while nothing happens",
        "",
        "| `streamWaitSeconds` | USD a month and reader | slots a reader holds |",
        "|---|---|---|",
    ]
    for wait in (0, 5, 20):
        usd, slot = stream_month(wait)
        lines.append(f"| {wait} | {usd:.2f} | {slot:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(tables(), end="")
