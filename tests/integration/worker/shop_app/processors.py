"""The processor: charge, pack, mail."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from minutehand.config import Settings
from minutehand.worker import Job, JobContext, Registry, Stage


class Order(BaseModel):
    """What is sold."""

    item: str


async def order(job: Job[Order], ctx: JobContext) -> dict[str, Any]:
    """Sell it; the greeting is the mistake, since no step remembers it."""

    def note(line: str) -> None:
        with Path(os.environ["SHOP_LEDGER"]).open("a", encoding="utf-8") as ledger:
            ledger.write(f"{line}\n")

    async def run(name: str, given: Mapping[str, Any]) -> str:
        note(name)
        return f"{name} {job.payload.item}"

    note("greet")
    return await ctx.graph(
        [
            Stage(name="charge", run=partial(run, "charge")),
            Stage(name="pack", run=partial(run, "pack"), after=["charge"]),
            Stage(name="mail", run=partial(run, "mail"), after=["pack"]),
        ]
    )


def register(registry: Registry, settings: Settings) -> None:
    """Add the type."""
    registry.processor("shop.order", payload=Order)(order)
