"""`python -m minutehand.local.lambda_functions`: the functions here, run as Lambda runs them.

From the source tree by default; `--package build/host` runs what
`python -m minutehand.deploy.package --target host` built, with nothing else importable.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import distribution
from pathlib import Path

from botocore.config import Config
from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError
from starlette.applications import Starlette

from minutehand.config import Settings
from minutehand.deploy.bundles import BUNDLES
from minutehand.deploy.lockfile import read_lock, select
from minutehand.deploy.package import TEMPLATE, compile_template
from minutehand.deploy.parameters import write_parameters
from minutehand.deploy.service import needs_of
from minutehand.functions.host import is_api
from minutehand.local.aws import client
from minutehand.local.site import build_site
from minutehand.project import Project
from supabase_local.lambda_runtime.server import LambdaRuntime, report_line
from supabase_local.lambda_runtime.template import Service, read_service

#: Of the local stack's environment, what serverless.yml would set on AWS.
PASSED_ON = (
    "SUPABASE_URL",
    "SUPABASE_PUBLISHABLE_KEY",
    "MINUTEHAND_APPS",
    "MINUTEHAND_SCHEMA",
    "CORS_ORIGINS",
    "ALLOW_ANONYMOUS",
    "LOG_LEVEL",
    "WORKER_CONCURRENCY",
    "EXTRA_WORKERS",
    "WORKERS_AT_ONCE",
    "LANGUAGE_MODEL_URL",
    "LANGUAGE_MODEL",
    "LANGUAGE_MODEL_PRICES",
    "SPEECH_URL",
    "SPEECH_MODEL",
    "UPLOADS_BUCKET",
    "SEALING_KEY_FILE",
    "AWS_ENDPOINT_URL",
)
EMPTY_ZIP = b"PK\x05\x06" + bytes(18)


def read_dotenv(path: Path) -> dict[str, str]:
    """KEY=value lines; `#` comments and blank lines are skipped, quotes around a value dropped."""
    pairs = (
        line.split("=", 1)
        for line in path.read_text("utf-8").splitlines()
        if "=" in line and not line.lstrip().startswith("#")
    )
    return {key.removeprefix("export ").strip(): value.strip().strip("'\"") for key, value in pairs}


def runtime_packages(folder: Path, lock: Path | None = None) -> Path:
    """Make a folder of what Lambda's image contains: awslambdaric and boto3, nothing else.

    Links into this environment, whose versions are the lock's, so that no registry is needed.
    """
    site = folder / "site"
    site.mkdir(parents=True, exist_ok=True)
    for entry in select(
        read_lock(lock or Project.find().root / "requirements-dev.lock"),
        ["awslambdaric", "boto3"],
        skip=(),
    ):
        for file in distribution(entry.name).files or ():
            top = file.parts[0]
            link = site / top
            if top not in {"..", "__pycache__"} and not link.exists():
                link.symlink_to(Path(str(file.locate())).parents[len(file.parts) - 1] / top)
    return site


def load(options: argparse.Namespace, scratch: Path, values: Mapping[str, str]) -> Service:
    """Compile the template and resolve where everything lies."""
    template = options.template
    if template is None:
        for bundle in BUNDLES:  # osls hashes the zips; what runs is the tree
            (scratch / f"{bundle.name}.zip").write_bytes(EMPTY_ZIP)
        template = compile_template(options.stage, scratch, artifacts=scratch) / TEMPLATE
    package: Path | None = options.package
    roots = {
        name: Project.find().root if package is None else (package / bundle.name).resolve()
        for bundle in BUNDLES
        for name in bundle.functions
    }
    python_path = () if package is None else (runtime_packages(scratch / "runtime"),)
    return read_service(
        template,
        task_roots=roots,
        variables=function_variables(values, port=options.port),
        isolated=package is not None,
        python_path=python_path,
        origins=tuple(part for part in values.get("CORS_ORIGINS", "").split(",") if part),
        cap=options.cap,
    )


def function_variables(values: Mapping[str, str], *, port: int) -> dict[str, str]:
    """What a function's environment holds here; its secrets come from SSM, as on AWS."""
    needs = needs_of(Project.find())
    of_apps = [name for name in needs.local if name not in needs.all_secrets]
    kept = {name: values[name] for name in (*PASSED_ON, *of_apps) if values.get(name)}
    return kept | {
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "STAGE": "local",
        "STREAMING": "false",  # HTTP API collects the whole answer
        # boto3's own switch: the Lambda client talks to us, every other client to moto
        "AWS_ENDPOINT_URL_LAMBDA": f"http://127.0.0.1:{port}",
    }


async def prepare_aws(values: Mapping[str, str], stage: str, service: Service) -> None:
    """Write the functions' SSM parameters and make their failure queues, once AWS is up."""
    config = Config(connect_timeout=1, read_timeout=5, retries={"total_max_attempts": 1})

    def prepare() -> None:
        endpoint = values["AWS_ENDPOINT_URL"]
        ssm, sqs = (client(name, endpoint, config=config) for name in ("ssm", "sqs"))
        write_parameters(ssm, stage, values, needs=needs_of(Project.find()))
        for function in service.functions:
            if function.on_failure is not None:
                sqs.create_queue(QueueName=function.on_failure.rsplit(":", 1)[-1])
        ssm.close()
        sqs.close()

    while True:
        try:
            return await asyncio.to_thread(prepare)
        except (EndpointConnectionError, ConnectTimeoutError, ReadTimeoutError):
            await asyncio.sleep(0.2)


async def serve(options: argparse.Namespace, values: Mapping[str, str]) -> None:
    """Run until SIGINT or SIGTERM."""
    with tempfile.TemporaryDirectory(prefix="minutehand-lambda-") as scratch:
        service = await asyncio.to_thread(load, options, Path(scratch), values)
        await prepare_aws(values, options.stage, service)
        runtime = LambdaRuntime(
            service.functions,
            routes=service.routes,
            cors=service.cors,
            schedule=None if options.no_schedule else service.schedule,
            site=beside_api(local_site(values)),
            sqs=partial(client, "sqs", values["AWS_ENDPOINT_URL"]),
            pace=options.pace,
            concurrency=options.concurrency,
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


def local_site(values: Mapping[str, str]) -> Starlette:
    """The console as the one-process stack serves it: demo accounts and policy."""
    settings = Settings.from_env({**values, "STAGE": "local"})
    return build_site(settings, values)


def beside_api(site: Starlette) -> Callable[[str], Starlette | None]:
    """The site where CloudFront serves it: at each path that is not the API's."""
    return lambda path: None if is_api(path) else site


def _limit(text: str) -> int | None:
    """A positive number, or no limit for ''."""
    if text and (not text.isdigit() or int(text) < 1):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text!r}")
    return int(text) if text else None


def main() -> int:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m minutehand.local.lambda_functions")
    port = int(os.environ.get("API_PORT", "9001"))
    parser.add_argument("--port", type=int, default=port)
    parser.add_argument("--stage", default="dev")
    parser.add_argument("--template", type=Path, help="a compiled template; default: compile now")
    parser.add_argument("--package", type=Path, help="folder of unzipped bundles, e.g. build/host")
    parser.add_argument("--env-file", type=Path, default=Project.find().root / ".local" / "env")
    parser.add_argument("--cap", type=int, default=10, help="environments per function")
    parser.add_argument(
        "--concurrency",
        type=_limit,
        default=os.environ.get("LAMBDA_CONCURRENCY", ""),
        help="invocations of all functions at once, as an account's; default: LAMBDA_CONCURRENCY",
    )
    parser.add_argument(
        "--pace", type=float, default=1.0, help="factor on asynchronous retry pauses"
    )
    parser.add_argument("--no-schedule", action="store_true")
    options = parser.parse_args()
    values = dict(os.environ)
    if (
        "SUPABASE_URL" not in values
    ):  # the launcher passes its own; started alone, it reads the file
        if not options.env_file.exists():
            parser.error(f"{options.env_file} does not exist; start the local stack: make run")
        values |= read_dotenv(options.env_file)
    asyncio.run(serve(options, values))
    return 0


if __name__ == "__main__":
    sys.exit(main())
