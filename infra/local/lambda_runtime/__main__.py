"""`python -m infra.local.lambda_runtime`: the service's functions here, run as Lambda runs them.

From the source tree by default; `--package build/host` runs what `python -m infra.aws.package
--target host` built, with nothing else importable.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from infra.aws.build import find_tool
from infra.aws.bundles import BUNDLES, ROOT
from infra.aws.package import TEMPLATE, compile_template
from infra.local.lambda_runtime.server import LambdaRuntime, report_line
from infra.local.lambda_runtime.template import Service, read_service

EMPTY_ZIP = b"PK\x05\x06" + bytes(18)


def read_dotenv(path: Path) -> dict[str, str]:
    """KEY=value lines; `#` comments and blank lines are skipped, quotes around a value dropped."""
    pairs = (
        line.split("=", 1)
        for line in path.read_text("utf-8").splitlines()
        if "=" in line and not line.lstrip().startswith("#")
    )
    return {key.removeprefix("export ").strip(): value.strip().strip("'\"") for key, value in pairs}


def runtime_packages(folder: Path, lock: Path = ROOT / "requirements-dev.lock") -> Path:
    """Install into `folder` what Lambda's image brings along: awslambdaric and boto3, locked."""
    from infra.aws.lockfile import read_lock, select

    listing = folder / "requirements.txt"
    folder.mkdir(parents=True, exist_ok=True)
    entries = select(read_lock(lock), ["awslambdaric", "boto3"], skip=())
    listing.write_text("".join(entry.text for entry in entries), "utf-8")
    target = folder / "site"
    subprocess.run(
        [
            find_tool("uv"), "pip", "install", "--quiet", "--require-hashes", "--no-deps",
            "--no-config", "--python", sys.executable, "--target", str(target), "-r", str(listing),
        ],
        check=True,
    )  # fmt: skip
    return target


def load(options: argparse.Namespace, scratch: Path, port: int) -> Service:
    """Compile the template and resolve where everything lies."""
    template = options.template
    if template is None:
        for bundle in BUNDLES:  # osls hashes the zips; what runs is the tree
            (scratch / f"{bundle.name}.zip").write_bytes(EMPTY_ZIP)
        template = compile_template(options.stage, scratch, artifacts=scratch) / TEMPLATE
    variables = read_dotenv(options.env_file) if options.env_file.exists() else {}
    variables |= {
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "STAGE": "local",
        # boto3's own switch: the Lambda client talks to us, every other client to moto
        "AWS_ENDPOINT_URL_LAMBDA": f"http://127.0.0.1:{port}",
    }
    package: Path | None = options.package
    roots = {
        name: ROOT if package is None else (package / bundle.name).resolve()
        for bundle in BUNDLES
        for name in bundle.functions
    }
    python_path = () if package is None else (runtime_packages(scratch / "runtime"),)
    origins = tuple(part for part in variables.get("CORS_ORIGINS", "").split(",") if part)
    return read_service(
        template,
        task_roots=roots,
        variables=variables,
        isolated=package is not None,
        python_path=python_path,
        origins=origins,
        cap=options.cap,
    )


async def serve(options: argparse.Namespace) -> None:
    """Run until SIGINT or SIGTERM."""
    with tempfile.TemporaryDirectory(prefix="minutehand-lambda-") as scratch:
        service = load(options, Path(scratch), options.port)
        runtime = LambdaRuntime(
            service.functions,
            routes=service.routes,
            cors=service.cors,
            schedule=None if options.no_schedule else service.schedule,
            sqs_endpoint=os.environ.get("AWS_ENDPOINT_URL") or _endpoint(service),
            pace=options.pace,
            say=report_line,
        )
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopping.set)
        print(f"lambda runtime listens on {await runtime.start(options.port)}", flush=True)
        try:
            await stopping.wait()
        finally:
            await runtime.stop()


def _endpoint(service: Service) -> str | None:
    return next((f.variables.get("AWS_ENDPOINT_URL") for f in service.functions), None)


def main() -> int:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m infra.local.lambda_runtime")
    parser.add_argument("--port", type=int, default=9001)
    parser.add_argument("--stage", default="dev")
    parser.add_argument("--template", type=Path, help="a compiled template; default: compile now")
    parser.add_argument("--package", type=Path, help="folder of unzipped bundles, e.g. build/host")
    parser.add_argument("--env-file", type=Path, default=ROOT / ".local" / "env")
    parser.add_argument("--cap", type=int, default=10, help="environments per function")
    parser.add_argument(
        "--pace", type=float, default=1.0, help="factor on asynchronous retry pauses"
    )
    parser.add_argument("--no-schedule", action="store_true")
    asyncio.run(serve(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
