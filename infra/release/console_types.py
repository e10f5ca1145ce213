"""Write `routes.d.ts` of the console and of each app's pages from the OpenAPI document.

usage: python -m infra.release.console_types

`tsc` then refuses a page that calls a route or reads a field which is not served.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from minutehand.config import Settings
from minutehand.deploy.build import find_tool
from minutehand.functions.status.document import whole_document
from minutehand.web.services import Services

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "node_modules/openapi-typescript/bin/cli.js"
OPTIONS = ("--root-types", "--root-types-no-schema-prefix", "--default-non-nullable=false")
TAIL = """
export type Routes = import("{lib}/calls.js").RoutesOf<paths>;
"""


def write(target: Path, lib: str, *apps: str) -> None:
    """Write the types of the engine's routes and of those of `apps`."""
    settings = Settings(
        supabase_url="http://127.0.0.1:1", supabase_publishable_key="sb_publishable_x", apps=apps
    )
    with tempfile.TemporaryDirectory() as folder:
        document = Path(folder) / "openapi.json"
        document.write_text(json.dumps(_whole(whole_document(Services(settings)))), "utf-8")
        command = [find_tool("node"), str(PROGRAM), str(document), "--output", str(target)]
        subprocess.run([*command, *OPTIONS], check=True, stdout=subprocess.DEVNULL)
    text = target.read_text("utf-8").replace(": unknown", ": any")  # any JSON
    target.write_text(text + TAIL.format(lib=lib), "utf-8")


def _whole(document: dict[str, Any]) -> dict[str, Any]:
    """Require every field of an answer: a default is sent as well."""
    models = document["components"]["schemas"]
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    taken: set[str] = set()
    todo = [operation.get("requestBody") for operation in operations]
    while todo:
        names = set(re.findall(r"schemas/(\w+)", json.dumps(todo.pop()))) - taken
        taken |= names
        todo += [models[name] for name in names]
    for name, model in models.items():
        if name not in taken:
            model["required"] = list(model.get("properties", ()))
    return document


if __name__ == "__main__":
    write(ROOT / "infra/console/lib/routes.d.ts", ".")
    for console in sorted((ROOT / "shared/minutehand_apps").glob("*/console")):
        write(console / "routes.d.ts", "../../lib", f"minutehand_apps.{console.parent.name}")
