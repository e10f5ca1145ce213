"""Work with a language model: scope, parts, result, each step remembered in the job.

What is asked of the model is prompts.py's, how it is asked writing.py's.
"""

from __future__ import annotations

from typing import Final

from minutehand.ai.offline import sentences
from minutehand_apps.chat import offline, prompts
from minutehand_apps.chat import page as pages
from minutehand_apps.chat.models import MOST_ITEMS, Finding, Item, Text, Written
from minutehand_apps.chat.tables import Data
from minutehand_apps.chat.work_run import NO_DATA, Question, WorkRun
from minutehand_apps.chat.writing import Writer, together

#: Characters from which a message holds more than its request.
MESSAGE_IS_MATERIAL: Final = 300
#: Said where a model's answer could not be used, before what stands in its place.
UNUSABLE: Final = "The model's answer could not be used. "


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
        texts = [Text(title=name, text=text) for name, text in sources]
        if not texts:  # what "this" and "them" are
            before = [each.text for each in run.loaded.history if each.kind == "result"]
            texts = [Text(title="Found before", text=text) for text in before[-MOST_ITEMS:]]
        said = Text(title="The message", text=run.loaded.message.text)
        # what stands behind its request is material too
        if not texts or len(said.text) > MESSAGE_IS_MATERIAL:
            texts.append(said)
        instead = prompts.Scope(parts=[item.title[:200]], questions=[])
        prompt = prompts.scope(item, texts, seed)
        scoped = await self._writer.shaped("scope", prompt, prompts.Scope, instead)
        scope = prompts.Scope.model_validate(scoped.data)
        await run.ask(_question(scope))
        if item.kind == "build":
            return await self._build([*texts, *self._figures(sources)], scoped)
        parts = parts_of(item, texts, scope.parts)
        findings: list[tuple[str, str]] = []
        paid = [scoped]
        for number, (title, read) in enumerate(parts, 1):
            await run.stage(15 + 55 * (number - 1) / len(parts), "RESEARCHING", title)
            prompt = prompts.part(item, number, title, read, self._answered(), seed)
            quoted = UNUSABLE + " ".join(sentences([each.text for each in read], 3))
            gist = prompts.Finding(gist=quoted[:4000])
            found = await self._writer.shaped(f"part {number}", prompt, prompts.Finding, gist)
            findings.append((title, prompts.Finding.model_validate(found.data).gist))
            paid.append(found)
        await run.stage(70, "REVIEWING", "Writing the result")
        prompt = prompts.result(item, findings, self._answered(), seed)
        plain = UNUSABLE + "\n\n".join(f"{title}\n{gist}" for title, gist in findings)
        text = await self._writer.text("result", prompt, begin=70, end=98, instead=plain)
        written = together(text, *paid)
        cited = [name for name, _ in sources] if self._looks_up() else []
        if cited:
            listed = "\n".join(f"[{number}] {name}" for number, name in enumerate(cited, 1))
            written = written.model_copy(update={"text": f"{written.text}\n\nSources:\n{listed}"})
        data = run.result_data(
            [Finding(title=name, text=gist) for name, gist in findings], cited, None
        )
        return written.model_copy(update={"data": data})

    async def _sources(self) -> list[tuple[str, str]]:
        """The texts to work on by their names: what was given, found before, or is found now."""
        run = self._run
        given = [(each.title, each.text) for each in run.loaded.documents]
        before = [(each.title, each.text) for each in run.loaded.found]
        if not self._looks_up():
            return [*given, *before]
        found: dict[str, list[str]] = {}
        for each in await run.passages():
            name = f"{each.source} ({each.url})" if each.url else each.source
            found.setdefault(name, []).append(each.text)
        return [(name, "\n".join(parts)) for name, parts in found.items()]

    def _figures(self, sources: list[tuple[str, str]]) -> list[Text]:
        """What bundled articles list beside their texts, of those that were found."""
        names = [name for each in self._run.loaded.found for name in each.sources]
        return [
            Text(title=f"Figures of {each.title}", text=each.data.lines())
            for each in offline.articles([*names, *(name for name, _ in sources)])
            if each.data
        ]

    def _looks_up(self) -> bool:
        """Whether sources are to be found: for research, and where nothing else is there."""
        kind, loaded = self._run.item.kind, self._run.loaded
        return kind == "research" or (
            kind in {"compare", "build"} and not (loaded.documents or loaded.found)
        )

    def _answered(self) -> str | None:
        """What people said to this work: the answer to its question, and guidance."""
        run = self._run
        said = [*(f"{question} {answer}" for question, answer in run.answers), *run.guidance]
        return "\n".join(said) or None

    async def _build(self, texts: list[Text], scoped: Written) -> Written:
        run = self._run
        await run.stage(30, "BUILDING", "Choosing what to show")
        chosen, page = await self._page("page", texts)
        paid = [scoped, chosen]
        if not page and await run.ask(NO_DATA, "data"):
            chosen, page = await self._page("page of the answer", texts)
            paid.append(chosen)
        stored, text = None, f"No page was made: nothing that I was given fits a {page.type}."
        if page:
            await run.stage(80, "REVIEWING", "Storing the page")
            stored = await run.store_page(page)
            text = f"The {page.type} “{page.title}” is ready."
        data = run.result_data([], page.sources, stored)
        return together(*reversed(paid)).model_copy(update={"text": text, "data": data})

    async def _page(self, step: str, texts: list[Text]) -> tuple[Written, pages.Page]:
        run = self._run
        prompt = prompts.page(run.item, texts, self._answered(), run.request.seed)
        chosen = await self._writer.shaped(step, prompt, prompts.PageContent, _given(run))
        content = prompts.PageContent.model_validate(chosen.data)
        look = pages.look_of(self._answered()) or pages.look_of(run.item.instruction)
        page = pages.Page(
            type=content.type,
            title=content.title,
            data=Data(
                series=[(each.label, each.value, each.unit) for each in content.figures],
                events=[(each.date, each.what) for each in content.events],
                columns=content.columns,
                rows=content.rows,
            ),
            look=look or pages.Look(),
            summary=content.summary,
            sources=[name for each in run.loaded.found for name in each.sources],
            chart=content.chart,
        )
        return chosen, page


def _given(run: WorkRun) -> prompts.PageContent | None:
    """A page by rules, of the data that was given or found before; None where there is none."""
    loaded, item = run.loaded, run.item
    data, origin, _ = offline.data_for(
        item, loaded.documents, run.said, loaded.found, loaded.history
    )
    if not (data.series or data.events):
        return None
    return prompts.PageContent(
        type=pages.type_of(item.instruction),
        title=offline.title_of(item),
        chart=pages.chart_of(item.instruction),
        figures=[
            prompts.Figure(label=name[:200], value=value, unit=unit[:40])
            for name, value, unit in data.series[:60]
        ],
        events=[prompts.Event(date=at, what=what) for at, what in data.events[:60]],
        summary=[f"{UNUSABLE}This is {origin}."],
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
