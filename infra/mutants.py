"""Applies the edits of mutants.json one by one, and prints each edit that makes no test fail.

Each edit is applied to a copy of the checkout. The tests that mutants.json lists for the edit then
run in the copy until one test fails. Arguments of the command select edits (mutants) by words of
the file's name or the description.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Maximum seconds for the tests of a mutant. Tests that take longer count as failed.
TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class Mutant:
    """An edit that breaks the code, and a list of tests, at least one of which must then fail."""

    what: str
    file: str
    old: str
    new: str
    tests: list[str]

    @contextmanager
    def applied(self, copy: Path) -> Iterator[None]:
        """Apply the edit to a copy of the checkout until the block ends."""
        path = copy / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise LookupError(f"{self.file} must have the old text of {self.what!r} once")
        path.write_text(text.replace(self.old, self.new))
        try:
            yield
        finally:
            path.write_text(text)

    def is_killed(self, copy: Path) -> str | None:
        """Return the name of the test that fails, or None if all tests pass with the mutant."""
        own = {"PYTHONPATH": f"{copy / 'shared'}{os.pathsep}{copy}"}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "--tb=no", *self.tests]
        try:
            done = subprocess.run(
                command,
                cwd=copy,
                env=os.environ | own,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return "the tests did not end"
        if done.returncode not in (0, 1):
            raise RuntimeError(f"{self.what}: the tests did not run\n{done.stdout}{done.stderr}")
        failed = (line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR")))
        return next(failed, "the tests failed") if done.returncode else None


def mutants(words: list[str]) -> list[Mutant]:
    """Return the mutants whose file name or description contains all of the words."""
    every = [Mutant(**each) for each in json.loads((ROOT / "infra" / "mutants.json").read_text())]
    return [each for each in every if all(word in each.file + each.what for word in words)]


def copy_checkout(target: Path) -> None:
    """Copy the checkout, with links to its installed packages instead of copies."""
    installed = (".venv", "node_modules")
    ignored = shutil.ignore_patterns(*installed, ".git", ".local", "build", "dist")
    shutil.copytree(ROOT, target, ignore=ignored, dirs_exist_ok=True)
    for name in installed:
        (target / name).symlink_to((ROOT / name).resolve())


def main() -> int:
    """Run the tests of the selected mutants."""
    survivors: list[Mutant] = []
    chosen = mutants(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        copy_checkout(copy)
        for number, each in enumerate(chosen, 1):
            with each.applied(copy):
                failed = each.is_killed(copy)
            survivors += [each] if failed is None else []
            outcome = failed or "SURVIVES"
            print(f"{number:3}/{len(chosen)} {each.file}: {each.what}: {outcome}", flush=True)
    print(f"{len(survivors)} of {len(chosen)} mutants survive")
    for each in survivors:
        print(f"  {each.file}: {each.what}")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
