"""`make package`: builds every zip, then the CloudFormation that deploys them, without an account.

usage: python -m minutehand.deploy.package [--target lambda|host] [--out …] [--stage dev]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from minutehand.commit import code_environment
from minutehand.config import ConfigurationError
from minutehand.deploy.build import Built, build, host_target
from minutehand.deploy.bundles import BUNDLES, LAMBDA, PackagingError
from minutehand.deploy.service import write_service
from minutehand.node import NodeMissing, node_binary, node_home
from minutehand.project import Project, keep_out_of_git
from minutehand.version import VERSION

#: What osls names the whole stack; the other file only creates its bucket.
TEMPLATE = "cloudformation-template-update-stack.json"
OSLS = Path("node_modules", "osls", "bin", "serverless.js")
#: Of a project's folder, what no serverless.yml includes.
NOT_INCLUDED = frozenset({"build", "dist", "node_modules", "serverless.yml"})


def compile_template(
    stage: str, out: Path, *, artifacts: Path, root: Path | None = None, region: str = "us-east-1"
) -> Path:
    """Run osls over a copy of serverless.yml and return the folder with the CloudFormation.

    Args:
        stage: Which of the project's stages.
        out: Where the templates go.
        artifacts: The folder of the zips, which osls hashes.
        root: The folder of serverless.yml; the project's own when None.
        region: Becomes part of names only.

    Raises:
        PackagingError: osls refused the service.
    """
    project = Project.find() if root is None else Project.at(root)
    # in a folder of its own: osls keeps state beside the service, which two runs would share
    service = out / "service"
    _mirror(project.root, service)
    write_service(project, service)
    # no profile, no keys, no update check: the output must not depend on the machine
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "SLS_"))
    } | {
        "SLS_INTERACTIVE_SETUP_ENABLE": "0",
        "AWS_EC2_METADATA_DISABLED": "true",
        "CI": "1",
        "MINUTEHAND_ARTIFACTS": str(artifacts.resolve()),
        "MINUTEHAND_VERSION": VERSION,
        **project.environment,
        **code_environment(project),
    }
    environment["PATH"] = os.pathsep.join([str(node_binary().parent), environment.get("PATH", "")])
    command = [
        str(node_binary()), str(node_home(deploy=True) / OSLS), "package",
        "--stage", stage, "--region", region, "--package", str((out / "stack").resolve()),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=service, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PackagingError(f"osls refused serverless.yml:\n{done.stdout}{done.stderr}")
    return out / "stack"


def _mirror(root: Path, service: Path) -> None:
    """Link to what a project's serverless.yml may include, without hidden files and builds."""
    if not (root / "serverless.yml").is_file():
        raise PackagingError(f"{root} has no serverless.yml; `minutehand install` writes one")
    shutil.rmtree(service, ignore_errors=True)
    service.mkdir(parents=True)
    for path in root.iterdir():
        if path.name not in NOT_INCLUDED and not path.name.startswith("."):
            (service / path.name).symlink_to(path)
    shutil.copyfile(root / "serverless.yml", service / "serverless.yml")


def main(arguments: list[str] | None = None) -> int:
    """Build what was asked for; exit 1 with one message when something is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m minutehand.deploy.package", description=__doc__
    )
    parser.add_argument("--target", choices=["lambda", "host"], default="lambda")
    parser.add_argument("--out", type=Path, default=None, help="default: build/aws or build/host")
    parser.add_argument("--stage", default="dev")
    parser.add_argument("--region", default="us-east-1", help="part of the roles' names")
    parser.add_argument("--no-template", action="store_true", help="build the zips only")
    options = parser.parse_args(arguments)
    target = LAMBDA if options.target == "lambda" else host_target()
    project = Project.find()
    out: Path = options.out or project.root / "build" / ("aws" if target.is_lambda else "host")
    keep_out_of_git(out)
    try:
        names = " and ".join(bundle.name for bundle in BUNDLES)
        machine = target.platform or "this machine"
        print(f"building {names}: Python {target.python}, {machine} …", flush=True)
        for built in build(BUNDLES, target, out.resolve(), project=project):
            print(_line(built), flush=True)
        if not options.no_template and target.is_lambda:
            print(f"compiling serverless.yml for stage {options.stage} …", flush=True)
            template = compile_template(
                options.stage, out.resolve(), artifacts=out, region=options.region
            )
            print(f"  {template / TEMPLATE}")
    except (PackagingError, ConfigurationError, NodeMissing) as error:
        print(f"package: {error}", file=sys.stderr)
        return 1
    return 0


def _line(built: Built) -> str:
    return (
        f"  {built.archive}: {built.zipped_bytes / 1e6:.1f} MB zipped, "
        f"{built.unzipped_bytes / 1e6:.1f} MB unzipped, {len(built.distributions)} distributions, "
        f"byte code by {built.python}, sha256 {built.sha256[:16]}"
    )


if __name__ == "__main__":
    sys.exit(main())
