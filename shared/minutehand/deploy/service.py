"""What serverless.yml includes: CloudFormation of this package, stages, and the apps' requests.

All of it is written to `build/minutehand` beside serverless.yml, so that the file itself is the
same for a checkout and for a project that installed the package.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from minutehand.app import find_apps
from minutehand.config import ConfigurationError
from minutehand.deploy.apps import Needs, read_needs
from minutehand.project import Project, add_to_gitignore
from minutehand.resources import resource

FOLDER = Path("build", "minutehand")
#: Not included: a project has copies of its own, to edit.
OF_THE_PROJECT = frozenset({"serverless.yml", "stages.yml"})


def needs_of(project: Project) -> Needs:
    """What the project's apps ask for."""
    return read_needs(find_apps(project.apps))


def write_first_files(project: Project) -> list[Path]:
    """Write serverless.yml and the file of stages where the project has none yet.

    Raises:
        ConfigurationError: There is a serverless.yml of another service.
    """
    own = project.root / "serverless.yml"
    ours = resource("cloudformation")
    if own.exists() and "minutehand" not in own.read_text("utf-8", errors="replace"):
        raise ConfigurationError(
            str(own),
            f"is another service's: deploy from a folder with {ours / own.name}",
            "service: ${env:MINUTEHAND_NAME}",
        )
    templates = {own: ours / own.name, project.stages_file: ours / "stages.yml"}
    made = [path for path in templates if not path.exists()]
    for path in made:
        shutil.copyfile(templates[path], path)
    return made


def read_stages(project: Project) -> dict[str, dict[str, Any]]:
    """Every stage's own parameters; `default` holds those that all start from.

    Raises:
        ConfigurationError: The project has no file of stages, or it is not a mapping of mappings.
    """
    path = project.stages_file
    try:
        stages = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError as missing:
        raise ConfigurationError(
            str(path), "does not exist; the first `minutehand deploy` writes one", "prod: {}"
        ) from missing
    except yaml.YAMLError as error:
        raise ConfigurationError(str(path), f"is not YAML: {error}", "prod: {}") from error
    if not isinstance(stages, dict) or not all(
        isinstance(values, dict | None) for values in stages.values()
    ):
        raise ConfigurationError(str(path), "must map stages to their parameters", "prod: {}")
    found = {str(name): dict(values or {}) for name, values in stages.items()}
    defaults = yaml.safe_load((resource("cloudformation") / "parameters.yml").read_text("utf-8"))
    found["default"] = {**defaults, **needs_of(project).parameters, **found.get("default", {})}
    return found


def write_service(project: Project, root: Path, stage: str) -> None:
    """Write what serverless.yml in `root` includes for a stage; what was there before goes."""
    folder = root / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    add_to_gitignore(folder)
    (folder / "aws").mkdir()
    for file in sorted(resource("cloudformation").iterdir()):
        if file.suffix in {".yml", ".cjs", ".js"} and file.name not in OF_THE_PROJECT:
            shutil.copyfile(file, folder / "aws" / file.name)
    stages, needs = read_stages(project), needs_of(project)
    console = {**stages["default"], **stages.get(stage, {})}["console"]
    for name, wanted in (
        ("console.yml", str(console).lower() == "true"),
        ("storage.yml", needs.uploads),
    ):
        if not wanted:
            (folder / "aws" / name).write_text("Resources: {}\n", "utf-8")
    (folder / "stages.json").write_text(json.dumps(stages, indent=2), "utf-8")
    (folder / "apps.json").write_text(json.dumps(needs.service(), indent=2), "utf-8")
