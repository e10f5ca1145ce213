"""Work with a language model: scope, parts, result, each step remembered in the job.

What is asked of the model is prompts.py's, how it is asked writing.py's.
"""

from __future__ import annotations

from minutehand.apps.chat import prompts
from minutehand.apps.chat.models import Item, Text, Written
from minutehand.apps.chat.offline import artefact
from minutehand.apps.chat.offline.tables import Data
from minutehand.apps.chat.offline.work import Question
from minutehand.apps.chat.work_run import WorkRun, shown_artefact
from minutehand.apps.chat.writing import Writer, together


class OnlineWork:
    """One work item, by a model."""

    def __init__(self, run: WorkRun, writer: Writer) -> None:
        self._run = run
        self._writer = writer

    async def write(self) -> Written:
        """Do the work and return its result.

        Raises:
            Pause: The job shall continue later, or the model will not answer this.
        """
        run, item = self._run, self._run.item
        assert run.loaded.message is not None
        seed = run.request.seed
        await run.stage(2, "ANALYZING", "Looking at what is wanted")
        sources = await self._sources()
        texts = [Text(title=name, text=text) for name, text in sources] or [
            Text(title="The message", text=run.loaded.message.text)
        ]
        scoped = await self._writer.shaped("scope", prompts.scope(item, texts, seed), prompts.Scope)
        scope = prompts.Scope.model_validate(scoped.data)
        await run.ask(_question(scope))
        if item.kind == "build":
            return await self._build(texts, scoped)
        parts = parts_of(item, texts, scope.parts)
        findings: list[tuple[str, str]] = []
        paid = [scoped]
        for number, (title, read) in enumerate(parts, 1):
            await run.stage(15 + 55 * (number - 1) / len(parts), "RESEARCHING", title)
            prompt = prompts.part(item, number, title, read, self._answered(), seed)
            found = await self._writer.shaped(f"part {number}", prompt, prompts.Finding)
            findings.append((title, prompts.Finding.model_validate(found.data).gist))
            paid.append(found)
        await run.stage(70, "REVIEWING", "Writing the result")
        prompt = prompts.result(item, findings, self._answered(), seed)
        text = await self._writer.text("result", prompt, begin=70, end=98)
        written = together(text, *paid)
        cited = [name for name, _ in sources] if item.kind == "research" else []
        if cited:
            listed = "\n".join(f"[{number}] {name}" for number, name in enumerate(cited, 1))
            written = written.model_copy(update={"text": f"{written.text}\n\nSources:\n{listed}"})
        data = {
            "title": item.title,
            "kind": item.kind,
            "answer": run.task.answer,
            "parts": [{"title": title, "text": gist} for title, gist in findings],
            "sources": cited,
        }
        return written.model_copy(update={"data": data})

    async def _sources(self) -> list[tuple[str, str]]:
        """The texts to work on by their names: what was given, found before, or is found now."""
        run = self._run
        given = [(each.title, each.text) for each in run.loaded.documents]
        before = [(each.title, each.text) for each in run.loaded.found]
        if run.item.kind != "research":
            return [*given, *before]
        found: dict[str, list[str]] = {}
        for each in await run.passages():
            name = f"{each.source} ({each.url})" if each.url else each.source
            found.setdefault(name, []).append(each.text)
        return [(name, "\n".join(parts)) for name, parts in found.items()]

    def _answered(self) -> str | None:
        """What people said to this work: the answer to its question, and guidance."""
        run = self._run
        said = [*([run.answered] if run.answered else []), *run.task.guidance]
        return "\n".join(said) or None

    async def _build(self, texts: list[Text], scoped: Written) -> Written:
        run = self._run
        await run.stage(30, "BUILDING", "Choosing what to show")
        prompt = prompts.page(run.item, texts, self._answered(), run.request.seed)
        chosen = await self._writer.shaped("page", prompt, prompts.PageContent)
        content = prompts.PageContent.model_validate(chosen.data)
        look = artefact.look_of(self._answered()) or artefact.look_of(run.task.words)
        page = artefact.Page(
            type=content.type,
            title=content.title,
            data=Data(
                series=[(each.label, each.value, each.unit) for each in content.figures],
                events=[(each.date, each.what) for each in content.events],
            ),
            look=look or artefact.Look(),
            summary=content.summary,
            sources=[name for each in run.loaded.found for name in each.sources],
            chart=content.chart,
        )
        await run.stage(80, "REVIEWING", "Storing the page")
        stored = await run.store_page(page)
        text = f"The {page.type} “{page.title}” is ready."
        data = {
            "title": run.item.title,
            "kind": run.item.kind,
            "answer": run.task.answer,
            "parts": [],
            "sources": page.sources,
            "artefact": shown_artefact(stored),
        }
        return together(chosen, scoped).model_copy(
            update={"text": text, "data": data, "artefact": stored}
        )


def _question(scope: prompts.Scope) -> Question | None:
    if not scope.questions:
        return None
    asked = scope.questions[0]
    options = list(dict.fromkeys(asked.options))
    return Question(asked.question, options, options[0])


def parts_of(item: Item, texts: list[Text], scoped: list[str]) -> list[tuple[str, list[Text]]]:
    """What is worked on one after the other: each text, or each question or section over all."""
    if item.kind in {"summarise", "compare"} and len(texts) > 1:
        return [(each.title, [each]) for each in texts]
    return [(title, texts) for title in scoped]
