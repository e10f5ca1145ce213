"""Compiles the CloudFormation template that deploys the zip, without an AWS account."""

import os
import shutil
import subprocess
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

from minutehand.commit import DEPLOYED_AT, code_environment
from minutehand.deploy.build import PYTHON, PackagingError
from minutehand.deploy.service import write_service
from minutehand.install.project import SECRET_FILES
from minutehand.node import node_binary, node_home
from minutehand.project import Project
from minutehand.resources import checkout
from minutehand.version import VERSION

#: File name of osls' template for the whole stack. A separate template of osls creates the S3
#: bucket.
TEMPLATE = "cloudformation-template-update-stack.json"
OSLS = Path("node_modules", "osls", "bin", "serverless.js")
#: Files and folders that a project's serverless.yml cannot include.
NOT_INCLUDED = frozenset({"build", "dist", "node_modules", "serverless.yml"})


def compile_template(stage: str, out: Path, *, region: str = "us-east-1") -> Path:
    """Run osls on a copy of serverless.yml, and return the folder with the compiled template.

    Args:
        stage: Name of the stage.
        out: Folder with the zip, whose hash the template contains. osls writes templates into it.
        region: AWS region in the names of resources.

    Raises:
        PackagingError: osls rejected serverless.yml.
    """
    project = Project.find()
    # run osls in a separate folder per run, because osls writes files into its working folder
    service = out / "service"
    _mirror(project.root, service)
    write_service(project, service, stage)
    # remove AWS profiles and keys, so that the template does not depend on this machine
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "SLS_"))
    } | {
        "AWS_EC2_METADATA_DISABLED": "true",
        "CI": "1",
        "MINUTEHAND_ARTIFACTS": str(out.resolve()),
        **service_environment(project),
    }
    environment["PATH"] = os.pathsep.join([str(node_binary().parent), environment.get("PATH", "")])
    command = [str(node_binary()), str(node_home() / OSLS), "package"]
    command += ["--stage", stage, "--region", region]
    command += ["--package", str((out / "stack").resolve())]
    result = subprocess.run(command, cwd=service, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise PackagingError(f"osls rejected serverless.yml:\n{result.stdout}{result.stderr}")
    return out / "stack"


def service_environment(project: Project) -> dict[str, str]:
    """Return the environment variables that serverless.yml reads.

    The variable DEPLOYED_AT is the current time, not the time of the commit.
    """
    handlers = "functions" if checkout() == project.root else "minutehand.functions"
    return {
        "MINUTEHAND_NAME": project.name,
        "MINUTEHAND_HANDLERS": handlers,
        "MINUTEHAND_VERSION": VERSION,
        "MINUTEHAND_PYTHON": PYTHON,
        "SLS_INTERACTIVE_SETUP_ENABLE": "0",
        **project.environment,
        **code_environment(project),
        DEPLOYED_AT: os.environ.get(DEPLOYED_AT) or datetime.now(UTC).isoformat("T", "seconds"),
    }


def _mirror(root: Path, service: Path) -> None:
    """Link the files that a serverless.yml may include, but not hidden files, builds or secrets."""
    if not (root / "serverless.yml").is_file():
        raise PackagingError(
            f"{root} must have a serverless.yml; the first `minutehand deploy` writes one"
        )
    shutil.rmtree(service, ignore_errors=True)
    service.mkdir(parents=True)
    for path in root.iterdir():
        is_excluded = path.name in NOT_INCLUDED or path.name.startswith(".")
        if not is_excluded and not any(fnmatchcase(path.name, name) for name in SECRET_FILES):
            (service / path.name).symlink_to(path)
    shutil.copyfile(root / "serverless.yml", service / "serverless.yml")
