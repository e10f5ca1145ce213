"""A user's own processor is typed end to end: mypy accepts the right one, refuses the wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.lint

RIGHT = """
from pydantic import BaseModel
from minutehand.worker import Fail, Job, JobContext, Outcome, processor

class Order(BaseModel):
    item: str

class Receipt(BaseModel):
    total: int

@processor("typed.order", payload=Order)
async def order(job: Job[Order], ctx: JobContext) -> Outcome | dict[str, str]:
    async def pay() -> Receipt:
        return Receipt(total=3)
    receipt = await ctx.step("pay", pay, returns=Receipt)
    reveal_type(job.payload)
    reveal_type(receipt)
    return Fail("none left") if receipt.total == 0 else {"item": job.payload.item.upper()}

@processor("typed.plain", payload=Order)
def plain(job: Job[Order], ctx: JobContext) -> None:
    ctx.progress(10)

reveal_type(order)
"""

WRONG = {
    "another payload": """
@processor("typed.order", payload=Order)
async def order(job: Job[Other], ctx: JobContext) -> None: ...
""",
    "a result that is none": """
@processor("typed.order", payload=Order)
async def order(job: Job[Order], ctx: JobContext) -> object: return object()
""",
    "a field the payload lacks": """
@processor("typed.order", payload=Order)
async def order(job: Job[Order], ctx: JobContext) -> None:
    print(job.payload.colour)
""",
    "an unknown option": """
@processor("typed.order", payload=Order, retries=3)
async def order(job: Job[Order], ctx: JobContext) -> None: ...
""",
}
HEAD = """
from pydantic import BaseModel
from minutehand.worker import Job, JobContext, processor

class Order(BaseModel):
    item: str

class Other(BaseModel):
    number: int
"""


def check(source: str, folder: Path, repository: Path) -> subprocess.CompletedProcess[str]:
    file = folder / "users_own.py"
    file.write_text(source)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file",
            "",
            "--no-error-summary",
            "--cache-dir",
            str(folder / "cache"),
            "--follow-imports",
            "silent",
            str(file),
        ],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_what_a_user_writes_is_checked_by_mypy(tmp_path: Path, repository: Path) -> None:
    """One run for the right one, then each wrong one by the same warm cache."""
    right = check(RIGHT, tmp_path, repository)

    assert right.returncode == 0, right.stdout
    assert right.stdout.count("users_own.Order") >= 1
    assert "users_own.Receipt" in right.stdout
    for name, source in WRONG.items():
        wrong = check(HEAD + source, tmp_path, repository)
        assert wrong.returncode == 1, f"{name} was accepted"
