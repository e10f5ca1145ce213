"""How much of what was spoken becomes the procedure, over the set of spoken instructions.

python -m tests.unit.training.spoken.measure
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minutehand_apps.training.clauses import clauses
from minutehand_apps.training.models import TimedSegment
from minutehand_apps.training.procedure import extract

HERE = Path(__file__).parent
#: A step may begin this much before or after the clause that was spoken.
EARLY_SECONDS = 0.5


@dataclass(frozen=True)
class Measured:
    """One instruction's procedure against what was spoken."""

    name: str
    voice: str
    pause: float
    seconds: float
    spoken: int
    found: int
    extra: int
    greetings: list[str]
    in_warnings: list[str]
    missed: list[str]

    @property
    def share(self) -> float:
        """The part of the spoken steps that became steps in order."""
        return self.found / self.spoken


def measure(recognised: dict[str, Any]) -> Measured:
    """Compare by time: words may be misheard, their times are not."""
    segments = [TimedSegment.model_validate(one) for one in recognised["segments"]]
    said = recognised["said"]
    starts = [step.at_seconds for step in extract("x", segments).steps]
    assert starts == sorted(starts)

    def item_at(at: float) -> int:
        return max(n for n, one in enumerate(said) if n == 0 or one[1] - EARLY_SECONDS <= at)

    taken: dict[int, int] = {}
    for at in starts:
        taken[item_at(at)] = taken.get(item_at(at), 0) + 1
    steps = [n for n, one in enumerate(said) if one[0] == "step"]
    found = [n for n in steps if n in taken]
    warned = [c for c in clauses(segments) if c.kind == "warning"]
    return Measured(
        name=recognised["name"],
        voice=recognised["voice"],
        pause=recognised["pause"],
        seconds=said[-1][2] + max(0.03, recognised["pause"]),
        spoken=len(steps),
        found=len(found),
        extra=len(starts) - len(found),
        greetings=[said[n][3] for n in taken if said[n][0] in {"greeting", "thanks"}],
        in_warnings=[
            said[n][3] for n in steps
            if n not in taken and any(c.start <= said[n][1] + 0.3 <= c.end for c in warned)
        ],
        missed=[said[n][3] for n in steps if n not in taken],
    )  # fmt: skip


def measure_all() -> list[Measured]:
    """Every instruction of the set."""
    return [measure(one) for one in json.loads((HERE / "recognised.json").read_text())]


def main() -> None:
    """Print the table of the app's README."""
    print("| Instruction | Voice | Pauses | Length | Steps found | More |")
    print("|---|---|---|---|---|---|")
    every = measure_all()
    for one in every:
        pauses = f"{one.pause} s" if one.pause else "none"
        print(
            f"| {one.name} | {one.voice} | {pauses} | {one.seconds:.0f} s"
            f" | {one.found} of {one.spoken} | {one.extra} |"
        )
    found, spoken = sum(one.found for one in every), sum(one.spoken for one in every)
    share = 100 * found / spoken
    print(f"| **all** | | | | **{found} of {spoken} ({share:.0f} %)** | |")


if __name__ == "__main__":
    main()
