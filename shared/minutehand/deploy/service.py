"""Writes the files that serverless.yml includes: CloudFormation resources, stages and apps' needs.

The files are written into `build/minutehand` next to serverless.yml, so that serverless.yml is the
same in a checkout and in a project that installed the package.
"""

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
#: Files that are copied into a project, whose developers may edit the copies.
PROJECT_FILES = frozenset({"serverless.yml", "stages.yml"})


def needs_of(project: Project) -> Needs:
    """Read the merged requirements of the project's apps."""
    return read_needs(find_apps(project.apps))


def write_first_files(project: Project) -> list[Path]:
    """Write serverless.yml and the stages file if they are missing. Return the new files' paths.

    Raises:
        ConfigurationError: The project's serverless.yml belongs to another service.
    """
    service = project.root / "serverless.yml"
    resources = resource("cloudformation")
    if service.exists() and "minutehand" not in service.read_text("utf-8", errors="replace"):
        raise ConfigurationError(
            str(service),
            f"is of another service: deploy from a folder with {resources / service.name}",
            "service: ${env:MINUTEHAND_NAME}",
        )
    templates = {service: resources / service.name, project.stages_file: resources / "stages.yml"}
    missing = [path for path in templates if not path.exists()]
    for path in missing:
        shutil.copyfile(templates[path], path)
    return missing


def read_stages(project: Project) -> dict[str, dict[str, Any]]:
    """Read the parameters of all stages. The entry `default` contains the defaults of every stage.

    Raises:
        ConfigurationError: The project has no stages file, or the stages file is invalid.
    """
    path = project.stages_file
    try:
        stages = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError as missing:
        raise ConfigurationError(
            str(path), "does not exist; the first `minutehand deploy` writes one", "prod: {}"
        ) from missing
    except yaml.YAMLError as error:
        raise ConfigurationError(str(path), f"must be YAML: {error}", "prod: {}") from error
    if not isinstance(stages, dict) or not all(
        isinstance(values, dict | None) for values in stages.values()
    ):
        raise ConfigurationError(str(path), "must map stages to their parameters", "prod: {}")
    result = {str(name): dict(values or {}) for name, values in stages.items()}
    defaults = yaml.safe_load((resource("cloudformation") / "parameters.yml").read_text("utf-8"))
    result["default"] = {**defaults, **needs_of(project).parameters, **result.get("default", {})}
    return result


def write_service(project: Project, root: Path, stage: str) -> None:
    """Write the files that serverless.yml in `root` includes for a stage.

    Delete the earlier files.
    """
    folder = root / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    add_to_gitignore(folder)
    (folder / "aws").mkdir()
    for file in sorted(resource("cloudformation").iterdir()):
        if file.suffix in {".yml", ".cjs", ".js"} and file.name not in PROJECT_FILES:
            shutil.copyfile(file, folder / "aws" / file.name)
    stages, needs = read_stages(project), needs_of(project)
    console = {**stages["default"], **stages.get(stage, {})}["console"]
    for name, is_used in (
        ("console.yml", str(console).lower() == "true"),
        ("storage.yml", needs.uploads),
    ):
        if not is_used:
            (folder / "aws" / name).write_text("Resources: {}\n", "utf-8")
    (folder / "stages.json").write_text(json.dumps(stages, indent=2), "utf-8")
    (folder / "apps.json").write_text(json.dumps(needs.service(), indent=2), "utf-8")
