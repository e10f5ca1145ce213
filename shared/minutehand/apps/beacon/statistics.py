"""Samples as columns, and what is computed of them: percentiles, errors, a verdict.

Whole numbers only, so that whoever computes it again gets the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

PERCENTILES = (50, 75, 90, 95, 99)

Verdict = Literal["passed", "failed", "none"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: when it began, how long until its last byte, and how it ended.

    `outcome` is `ok` or an error's word, with the HTTP status where there was one: `ok:200`,
    `rate_limited:429`, `timeout`.
    """

    started_ms: int
    latency_us: int
    outcome: str

    @property
    def ok(self) -> bool:
        """Whether it was answered well."""
        return is_ok(self.outcome)


def is_ok(outcome: str) -> bool:
    """Whether an outcome counts as a success."""
    return outcome.startswith("ok:")


def percentile(ordered: Sequence[int], per_cent: int) -> int:
    """The nearest-rank percentile: the smallest value that `per_cent` % of all do not exceed.

    Always one of the values, never between two.

    Args:
        ordered: At least one value, in rising order.
        per_cent: 1 to 100.
    """
    rank = -(-per_cent * len(ordered) // 100)
    return ordered[rank - 1]


def to_columns(samples: Sequence[Sample]) -> dict[str, Any]:
    """Samples as columns of the same length; `outcome` holds places in `codes`."""
    ordered = sorted(samples, key=lambda sample: (sample.started_ms, sample.latency_us))
    codes = sorted({sample.outcome for sample in ordered})
    place = {code: number for number, code in enumerate(codes)}
    return {
        "codes": codes,
        "outcome": [place[sample.outcome] for sample in ordered],
        "started_ms": [sample.started_ms for sample in ordered],
        "latency_us": [sample.latency_us for sample in ordered],
    }


def from_columns(columns: Mapping[str, Any]) -> list[Sample]:
    """The samples of `to_columns`.

    Raises:
        ValueError: The columns are not what `to_columns` makes.
    """
    try:
        codes = columns["codes"]
        rows = list(
            zip(columns["started_ms"], columns["latency_us"], columns["outcome"], strict=True)
        )
        samples = [Sample(started, latency, codes[place]) for started, latency, place in rows]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"these are no columns of samples: {error!r}") from error
    if not all(
        type(sample.started_ms) is int
        and type(sample.latency_us) is int
        and isinstance(sample.outcome, str)
        for sample in samples
    ):
        raise ValueError("these are no columns of samples: a value has the wrong type")
    return samples


def statistics(samples: Sequence[Sample]) -> dict[str, Any]:
    """What a receipt states: counts per outcome, and the latency of the successes in µs.

    The mean is rounded down. `latency_us` is None when nothing succeeded: an error's latency says
    nothing about the service.
    """
    good = sorted(sample.latency_us for sample in samples if sample.ok)
    latency: dict[str, int] | None = None
    if good:
        latency = {"min": good[0], "mean": sum(good) // len(good), "max": good[-1]}
        latency |= {f"p{each}": percentile(good, each) for each in PERCENTILES}
    return {
        "count": len(samples),
        "errors": len(samples) - len(good),
        "outcomes": dict(sorted(Counter(sample.outcome for sample in samples).items())),
        "latency_us": latency,
    }


def judge(measured: Mapping[str, Any], thresholds: Mapping[str, Any]) -> Verdict:
    """Whether a region kept its thresholds; `none` when the spec sets none.

    A p95 that could not be measured, as nothing succeeded, is not kept.
    """
    kept: list[bool] = []
    if thresholds["p95_ms"] is not None:
        latency = measured["latency_us"]
        kept.append(latency is not None and latency["p95"] <= thresholds["p95_ms"] * 1000)
    if thresholds["error_rate"] is not None:
        allowed = Decimal(str(thresholds["error_rate"])) * measured["count"]
        kept.append(measured["errors"] <= allowed)
    if not kept:
        return "none"
    return "passed" if all(kept) else "failed"


def judge_run(verdicts: Sequence[Verdict], *, whole: bool) -> Verdict:
    """The run's verdict: failed where a region failed, or one is missing while others had one."""
    asked = [verdict for verdict in verdicts if verdict != "none"]
    if "failed" in asked or (asked and not whole):
        return "failed"
    return "passed" if asked else "none"
