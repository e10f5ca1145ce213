"""Work without a language model, stage by stage: what is shown, paused and guided in between.

offline/work.py makes each kind's result.
"""

from __future__ import annotations

from minutehand.apps.chat.models import Finding, Written
from minutehand.apps.chat.offline import work
from minutehand.apps.chat.work_run import WorkRun, shown_artefact

NAME = "rules and extraction, no language model"


class OfflineWork:
    """One work item, by rules and extraction."""

    def __init__(self, run: WorkRun) -> None:
        self._run = run

    async def write(self) -> Written:
        """Do the work and return its result."""
        run = self._run
        await run.stage(3, "ANALYZING", f"Looking at what is wanted: {run.item.title}")
        await run.pace()
        await run.ask(work.question_of(run.task))
        product = await (self._research() if run.item.kind == "research" else self._make())
        data = work.product_data(run.task, product)
        stored = None
        if product.page is not None:
            await run.stage(85, "REVIEWING", "Storing the page")
            stored = await run.store_page(product.page)
            data["artefact"] = shown_artefact(stored)
        return Written(
            text=product.text[:40_000], model=NAME, offline=True, data=data, artefact=stored
        )

    async def _research(self) -> work.Product:
        run = self._run
        await run.stage(12, "RESEARCHING", f"Looking for sources on {run.task.topic}")
        passages = await run.passages()
        await run.pace()
        questions = work.questions_of(run.task, passages) if passages else []
        parts: list[Finding] = []
        for number, question in enumerate(questions):
            await run.stage(20 + 60 * number / len(questions), "RESEARCHING", question)
            parts.append(work.research_part(run.task, question, passages))
            await run.pace()
        # what was said while the parts were read gets its own part
        for question in work.questions_of(run.task, passages) if passages else []:
            if question not in questions:
                parts.append(work.research_part(run.task, question, passages))
        await run.stage(85, "REVIEWING", "Citing the sources")
        await run.pace()
        return work.research_result(run.task, parts, passages)

    async def _make(self) -> work.Product:
        run = self._run
        make = {
            "build": work.build,
            "compare": work.compare,
            "summarise": work.summarise,
            "draft": work.draft,
        }[run.item.kind]
        await run.stage(25, "BUILDING", run.item.title)
        await run.pace()
        await run.stage(60, "BUILDING", f"Putting it together: {run.item.title}")
        await run.pace()
        await run.stage(75, "REVIEWING", "Going over the result")
        await run.pace()
        return make(run.task)
