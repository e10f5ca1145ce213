"""The list of planted defects: one line of the source each, and the tests that must fail."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).parent / "defects.toml"
#: Defects of the engine that `tests/contract/test_histories.py` plants itself.
OF_THE_MACHINE = ROOT / "tests" / "sql" / "defects"


@dataclass(frozen=True)
class Defect:
    """A text replaced by another in one file; `tests` are pytest's arguments.

    Attributes:
        contract: Whether it breaks a promise: `tests/contract` alone must find it.
    """

    name: str
    part: str
    file: str
    old: str
    new: str
    tests: str
    contract: bool = False

    def planted(self, text: str) -> str:
        """The file's text with the defect.

        Raises:
            ValueError: `old` does not occur exactly once: the list has to follow the source.
        """
        if text.count(self.old) != 1 or self.old == self.new:
            raise ValueError(f"{self.name}: {self.old!r} occurs {text.count(self.old)} times")
        return text.replace(self.old, self.new)


def defects() -> list[Defect]:
    """All of the list, in its order."""
    found = tomllib.loads(LIST.read_text("utf-8"))
    return [Defect(part=part, **entry) for part, entries in found.items() for entry in entries]
