"""`make mutate`: plant each defect in a copy of the tree, run the tests that must find it, report.

`ARGS="worker:"` takes those whose part, name or file contains one of the words; `--list` only names
them; `--contract` takes those that break a promise, and asks `tests/contract` alone. One process: a
defect that needs Postgres takes half a minute, the others a few seconds.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections import Counter
from dataclasses import replace
from pathlib import Path

from infra.mutate.defects import OF_THE_MACHINE, ROOT, Defect, defects

#: A defect may make a test wait for what never comes.
PATIENCE_SECONDS = 900


def copy_tree(to: Path) -> None:
    """The tree as it is, uncommitted changes included, with the installed packages beside it."""
    asked = ["git", "-C", str(ROOT), "ls-files", "-coz", "--exclude-standard"]
    for name in subprocess.run(asked, capture_output=True, check=True).stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    (to / "node_modules").symlink_to((ROOT / "node_modules").resolve())
    make_python(to)


def make_python(copy: Path) -> None:
    """Make a `.venv` that imports the copy: a stack's processes get no path from the tests."""
    venv.create(copy / ".venv", symlinks=True)
    ours = sysconfig.get_path("purelib", "venv", vars={"base": str(copy / ".venv")})
    packages = [path for path in sys.path if path.endswith("site-packages")]
    lines = [str(copy / "shared"), *packages]
    (Path(ours) / "copy.pth").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    for tool in Path(sys.executable).parent.iterdir():
        if not (made := copy / ".venv" / "bin" / tool.name).exists():
            made.symlink_to(tool)


def run(copy: Path, tests: str) -> tuple[str, str]:
    """Run pytest in the copy; what came of it (`passed`, `failed`, `broken`), and its words."""
    environment = {
        **os.environ,
        "PYTHONDONTWRITEBYTECODE": "1",
        "WEEKLY": "1",  # what is tried in part otherwise
    }
    python = str(copy / ".venv" / "bin" / "python")
    command = [python, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [*command, "--no-header", "--tb=no", "-rfE", *shlex.split(tests)],
            cwd=copy, env=environment, capture_output=True, text=True,
            timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "failed", f"no end within {PATIENCE_SECONDS} s"
    # an error in a fixture, or no test at all, finds nothing
    if done.returncode == 1 and (found := re.search(r"^FAILED (\S+)", done.stdout, re.MULTILINE)):
        return "failed", found[1]
    return ("passed" if done.returncode == 0 else "broken"), done.stdout[-600:].strip()


def plant(copy: Path, defect: Defect) -> tuple[str, str]:
    """Plant it, run its tests, put the file back."""
    file = copy / defect.file
    try:
        whole = file.read_text("utf-8")
        file.write_text(defect.planted(whole), "utf-8")
    except (OSError, ValueError) as error:  # what it breaks is written otherwise by now, or gone
        return "broken", str(error)
    try:
        return run(copy, defect.tests)
    finally:
        file.write_text(whole, "utf-8")


def main() -> int:
    """Report each defect and the score; 1 if any survived."""
    reader = argparse.ArgumentParser(prog="make mutate", description=__doc__)
    reader.add_argument("words", nargs="*", help="only what contains one of them")
    reader.add_argument("--list", action="store_true", help="name them, run nothing")
    reader.add_argument("--contract", action="store_true", help="what breaks a promise")
    given = reader.parse_args()

    def wanted(text: str) -> bool:
        return not given.words or any(word in text for word in given.words)

    chosen = [each for each in defects() if wanted(f"{each.part}: {each.name} {each.file}")]
    if given.contract:
        chosen = [replace(each, tests="tests/contract") for each in chosen if each.contract]
    planted = sorted(path.stem for path in OF_THE_MACHINE.glob("*.sql"))
    histories = [name for name in planted if wanted(f"machine: {name}")]
    if given.list:
        print(*(f"{each.part}: {each.name}" for each in chosen), sep="\n")
        print(*(f"machine: {name}" for name in histories), sep="\n")
        return 0
    came: Counter[str] = Counter()
    words = {"failed": "found", "passed": "SURVIVED", "broken": "BROKEN"}
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        copy_tree(Path(folder))
        for each in chosen:
            began = time.monotonic()
            outcome, said = plant(Path(folder), each)
            came[outcome] += 1
            seconds = time.monotonic() - began
            print(f"{words[outcome]:8} {seconds:4.0f} s  {each.part}: {each.name}", flush=True)
            print(
                f"         {said if outcome == 'failed' else f'{each.tests}: {said}'}", flush=True
            )
        if histories:
            # its test plants each of them itself and passes if the machine finds it
            for name in histories:
                outcome, said = run(Path(folder), f"tests/contract/test_histories.py -k [{name}]")
                outcome = {"passed": "failed", "failed": "passed"}.get(outcome, outcome)
                came[outcome] += 1
                print(f"{words[outcome]:8}         machine: {name}", flush=True)
    tried = came.total()
    print(f"\n{came['failed']} of {tried} planted defects found", end="")
    print(f"; {came['passed']} survived, {came['broken']} could not be tried")
    return 0 if came["failed"] == tried else 1


if __name__ == "__main__":
    sys.exit(main())
