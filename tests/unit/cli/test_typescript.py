"""TypeScript written from the schemas that pydantic writes."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field
from typer.testing import CliRunner

from minutehand.cli.__main__ import app
from minutehand.cli.typescript import TypedJob, write_declarations
from minutehand.worker import Fail, Job, JobContext, Retry, Snooze
from minutehand.worker.registry import Registry


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Line(BaseModel):
    text: str
    amount: float = 1.0


class Tree(BaseModel):
    """Holds itself."""

    name: str
    below: list[Tree] = Field(default_factory=list)


class Order(BaseModel):
    lines: list[Line]
    colour: Colour
    kind: Literal["a", "b"] = "a"
    note: str | None = Field(default=None, description="What the */ customer said.")
    pair: tuple[int, str]
    counts: dict[str, int]
    anything: Any = None
    tree: Tree | None = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    strange_name: int = Field(alias="strange-name")


def declared(**models: type[BaseModel]) -> str:
    return write_declarations(
        TypedJob(name, model.model_json_schema()) for name, model in models.items()
    )


def test_models_become_types_and_job_types_their_names() -> None:
    """Defaults are optional, descriptions travel, models inside get a name of their own."""
    text = declared(**{"orders.place": Order})

    assert (
        text
        == """\
// Written by `minutehand types`; do not edit, run it again.

import type { Json } from "minutehand";

export type Colour = "red" | "blue";

export type Line = {
  text: string;
  amount?: number;
};

export type Order = {
  lines: Line[];
  colour: Colour;
  kind?: "a" | "b";
  /** What the * / customer said. */
  note?: string | null;
  pair: [number, string];
  counts: { [name: string]: number };
  anything?: Json;
  tree?: Tree | null;
};

export type Tree = {
  name: string;
  below?: Tree[];
};

declare module "minutehand" {
  interface JobTypes {
    "orders.place": { payload: Order; result: unknown };
  }
}
"""
    )


def test_two_models_of_one_name_stay_two() -> None:
    def other() -> type[BaseModel]:
        class Line(BaseModel):
            length: int

        return Line

    text = declared(a=Line, b=other(), c=Line)

    assert "a: { payload: Line; result: unknown };" in text
    assert "b: { payload: Line2; result: unknown };" in text
    assert "c: { payload: Line; result: unknown };" in text


def test_names_beside_those_of_a_model_are_taken_only_where_it_takes_them() -> None:
    text = declared(a=Open)

    assert '  "strange-name": number;\n  [name: string]: Json | undefined;\n' in text


def test_the_order_of_processors_changes_nothing() -> None:
    assert declared(a=Line, b=Order) == declared(b=Order, a=Line)


def test_results_are_typed_where_the_processor_says_them() -> None:
    """Planned endings are no results; without an annotation nothing is claimed."""
    registry = Registry()

    @registry.processor("model", payload=Line)
    async def model(job: Job[Line], ctx: JobContext) -> Line | Retry | Snooze | Fail | None:
        return None

    @registry.processor("plain", payload=Line)
    def plain(job: Job[Line], ctx: JobContext) -> list[int]:
        return []

    @registry.processor("silent", payload=Line)
    async def silent(job: Job[Line], ctx: JobContext) -> Any:
        return None

    @registry.processor("ending", payload=Line)
    async def ending(job: Job[Line], ctx: JobContext) -> Snooze:
        return Snooze(after=1)

    text = write_declarations(
        TypedJob(kind.name, kind.adapter.json_schema(), kind.result_schema()) for kind in registry
    )

    assert "model: { payload: Line; result: Line | null };" in text
    assert "plain: { payload: Line; result: number[] };" in text
    assert "silent: { payload: Line; result: unknown };" in text
    assert "ending: { payload: Line; result: unknown };" in text


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without an app, so that only its file matters."""
    (tmp_path / "minutehand.toml").write_text('schema = "work"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINUTEHAND_APPS", raising=False)
    return tmp_path


def test_check_fails_until_the_file_is_written_and_after_it_was_edited(shop: Path) -> None:
    """For continuous integration: types that lag behind their models are found there."""
    runner = CliRunner()

    missing = runner.invoke(app, ["types", "--out", "gen/jobs.d.ts", "--check"])
    written = runner.invoke(app, ["types", "--out", "gen/jobs.d.ts"])
    same = runner.invoke(app, ["types", "--out", "gen/jobs.d.ts", "--check"])
    (shop / "gen" / "jobs.d.ts").write_text("export {};\n")
    edited = runner.invoke(app, ["types", "--out", "gen/jobs.d.ts", "--check", "--json"])

    assert [missing.exit_code, written.exit_code, same.exit_code, edited.exit_code] == [1, 0, 0, 1]
    assert "missing" in missing.stderr
    assert '"out_of_date"' in edited.stderr


def test_a_module_that_raises_is_named_in_two_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What and where; a traceback of sixty lines is the command's own."""
    (tmp_path / "minutehand.toml").write_text('apps = ["raising_jobs"]\n')
    (tmp_path / "raising_jobs").mkdir()
    (tmp_path / "raising_jobs" / "__init__.py").touch()
    (tmp_path / "raising_jobs" / "processors.py").write_text("import json\n1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    result = CliRunner().invoke(app, ["types", "--out", "jobs.d.ts"])

    assert result.exit_code == 1
    what, where = result.stderr.splitlines()
    assert what == "the processors cannot be loaded: ZeroDivisionError: division by zero"
    assert where.endswith("raising_jobs/processors.py, line 2")
