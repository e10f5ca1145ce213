"""Write the example reports again: `python -m minutehand.apps.plans.examples`."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

from minutehand.apps.plans.planning.whole import plan_of
from minutehand.apps.plans.report import compose, html, markdown

HERE = Path(__file__).parent


def write() -> dict[str, str]:
    """The reports by their files' names."""
    given = json.loads((HERE / "prompts.json").read_text("utf-8"))
    today = date.fromisoformat(given["today"])
    files = {}
    for each in given["prompts"]:
        report = compose(plan_of(each["prompt"], each["speed_vs_detail"], today))
        files[f"{each['name']}.md"] = markdown(report)
        files[f"{each['name']}.html"] = html(report)
    return files


if __name__ == "__main__":
    for name, content in write().items():
        (HERE / name).write_text(content, "utf-8")
