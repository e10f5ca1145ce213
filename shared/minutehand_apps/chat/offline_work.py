"""Work without a language model, stage by stage: what is shown, paused and guided in between.

What it comes to is offline.py's.
"""

from __future__ import annotations

from minutehand_apps.chat import offline
from minutehand_apps.chat.models import Written
from minutehand_apps.chat.offline import Product
from minutehand_apps.chat.tables import Data
from minutehand_apps.chat.work_run import NO_DATA, WorkRun


class OfflineWork:
    """One work item: passages quoted, a page of given data, or what a model would do."""

    def __init__(self, run: WorkRun) -> None:
        self._run = run

    async def write(self) -> Written:
        """Do the work and return its result."""
        run, kind = self._run, self._run.item.kind
        await run.stage(3, "ANALYZING", f"Looking at what is wanted: {run.item.title}")
        await run.pace()
        if kind == "research":
            product = await self._research()
        elif kind == "build":
            product = await self._build()
        else:
            product = Product(offline.would(kind))
        stored = None
        if product.page is not None:
            await run.stage(85, "REVIEWING", "Storing the page")
            stored = await run.store_page(product.page)
        data = run.result_data(product.parts, product.sources, stored)
        text = product.text[:40_000]
        return Written(text=text, model=offline.NAME, offline=True, data=data)

    async def _research(self) -> Product:
        run = self._run
        await run.stage(15, "RESEARCHING", "Looking for sources")
        await run.pace()
        passages = await run.passages()
        await run.stage(85, "REVIEWING", "Citing the sources")
        await run.pace()
        return offline.research(run.item, passages)

    async def _build(self) -> Product:
        run, loaded = self._run, self._run.loaded

        def data() -> tuple[Data, str, list[str]]:
            return offline.data_for(
                run.item, loaded.documents, run.said, loaded.found, loaded.history
            )

        if not data()[0]:
            await run.ask(NO_DATA, "data")
        found, origin, sources = data()
        if found:
            await run.ask_colours()
        await run.stage(60, "BUILDING", f"Putting it together: {run.item.title}")
        await run.pace()
        return offline.build(run.item, found, origin, sources, run.said)
