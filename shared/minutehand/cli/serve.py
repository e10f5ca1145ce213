"""`minutehand serve`, which runs the service on your own host, where the database invokes it."""

import os
from pathlib import Path
from typing import Annotated

import typer

from minutehand.project import Project
from minutehand.terminal.connection import read_env_file
from minutehand.terminal.options import command_output

#: Maximum number of open HTTP connections, including event streams. If more connections are open,
#: uvicorn rejects requests with status 503.
MAX_CONNECTIONS = 800


def serve(
    *,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "0.0.0.0",
    port: Annotated[int, typer.Option(envvar="PORT", help="The port to listen on.")] = 8000,
    console: Annotated[
        Path | None,
        typer.Option(
            envvar="MINUTEHAND_CONSOLE",
            exists=True,
            file_okay=False,
            help="Serve the console from this folder, which `python -m minutehand.deploy.console "
            "DIR` writes.",
        ),
    ] = None,
    env_file: Annotated[
        Path | None,
        typer.Option(
            "--env-file",
            "-e",
            envvar="MINUTEHAND_ENV_FILE",
            help="File with addresses and keys; default: the environment.",
        ),
    ] = None,
    queue: Annotated[
        list[str] | None,
        typer.Option(
            envvar="WORKER_QUEUES", help="Queue that the worker serves; repeatable. Default: all."
        ),
    ] = None,
) -> None:
    """Serve the API, the console and the worker without AWS.

    The server uses plain HTTP, so run it behind a proxy or a platform that terminates HTTPS. Then
    let the database invoke the server by minutehand.connect_worker('https://…/api/jobs/worker',
    '<WORKER_SECRET_TOKEN>').
    """
    from minutehand.commit import code_environment
    from minutehand.config import Settings
    from minutehand.functions.service import Service
    from minutehand.log import configure_logging
    from minutehand.terminal.server import Server
    from minutehand.web.site import console_routes

    with command_output(False) as output:
        project = Project.find()
        environ = {
            "STREAMING": "true",
            "STAGE": "self",
            **project.environment,
            **code_environment(project),
            **os.environ,
            **(read_env_file(env_file) if env_file else {}),
        }
        if console is None:
            output.hint("no console: python -m minutehand.deploy.console DIR, then --console DIR")
        if queue:
            environ["WORKER_QUEUES"] = ",".join(queue)
        settings = Settings.from_env(environ)
        files = [] if console is None else console_routes(settings, console)
        service = Service(settings, console=files)
        configure_logging(settings.log_level)
        server = Server(
            service,
            service.end_streams,
            host=host,
            port=port,
            timeout_graceful_shutdown=5,
            limit_concurrency=MAX_CONNECTIONS,
        )
        server.run()
