"""The packaged functions, run by AWS's own runtime client with nothing else importable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import pytest_asyncio
from moto.server import ThreadedMotoServer

from minutehand.deploy.bundles import BUNDLES
from minutehand.deploy.package import TEMPLATE
from minutehand.deploy.parameters import write_parameters
from supabase_local.lambda_runtime import LambdaRuntime
from supabase_local.lambda_runtime.template import read_service
from tests.artefact.conftest import Package
from tests.artefact.stack import FUNCTIONS, Stack

# the zips are built once, so by one test process
SECRETS = {
    "SUPABASE_JWT_SECRET": "a-secret-of-at-least-32-characters",
    "WORKER_SECRET_TOKEN": "token-of-the-test",
    "BACKGROUND_JOB_TOKEN": "background-token-of-the-test",
}
VARIABLES = {
    "SUPABASE_URL": "http://127.0.0.1:9",  # nobody listens there
    "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_test",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "KMS_KEY_ID": "alias/test",
    "UPLOADS_BUCKET": "test",
    "STAGE": "test",
}
BUNDLE_OF = {name: bundle.name for bundle in BUNDLES for name in bundle.functions}


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    """Moto with the functions' secrets in SSM, where they read them at init."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys: dict[str, Any] = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    url = f"http://{host}:{port}"
    ssm: Any = boto3.client("ssm", endpoint_url=url, region_name="us-east-1", **keys)
    write_parameters(ssm, "dev", SECRETS)
    ssm.close()
    yield url
    server.stop()


@pytest_asyncio.fixture
async def api(
    stacks: dict[str, Stack], host_package: Package, runtime_site: Path, aws: str
) -> AsyncIterator[httpx.AsyncClient]:
    """The packaged service behind its own routes; there is no database."""
    service = read_service(
        stacks["dev"].folder / TEMPLATE,
        task_roots={name: host_package.unzipped(BUNDLE_OF[name]) for name in FUNCTIONS},
        variables={**VARIABLES, "AWS_ENDPOINT_URL": aws},
        isolated=True,
        python_path=(runtime_site,),
        origins=("http://app.test",),
    )
    async with (
        LambdaRuntime(
            [replace(function, timeout=120) for function in service.functions],
            routes=service.routes,
            cors=service.cors,
            mapping_key="background",
        ) as runtime,
        httpx.AsyncClient(base_url=runtime.url, timeout=120) as client,
    ):
        yield client


async def test_health_answers(api: httpx.AsyncClient) -> None:
    """The probe needs neither database nor secret."""
    answer = await api.get("/health")

    assert answer.status_code == 200
    assert answer.json()["status"] == "unknown"  # nothing was asked yet
    assert answer.json()["environment"] == {"region": "us-east-1", "env": "test"}


async def test_a_custom_domain_may_mount_the_service_anywhere(api: httpx.AsyncClient) -> None:
    """Each function takes the mapping key off its path; else every route behind it is a 404."""
    statuses = {
        path: (await api.get(f"/background{path}")).status_code
        for path in (
            "/health",
            "/api/v1/health",
            "/api/jobs",
            "/api/jobs/019a9f10-7e2c-7d31-9c52-0d6d5f5b7c11/events",
            "/api/jobs/worker",
            "/api/accounts/a%2Fb/nothing",
        )
    }

    assert statuses == {
        "/health": 200,
        "/api/v1/health": 503,  # it asks a database that is not there
        "/api/jobs": 401,
        "/api/jobs/019a9f10-7e2c-7d31-9c52-0d6d5f5b7c11/events": 401,
        "/api/jobs/worker": 401,
        "/api/accounts/a%2Fb/nothing": 404,
    }


async def test_without_a_token_every_function_says_unauthorized(api: httpx.AsyncClient) -> None:
    """Each handler imports, routes and refuses from the zip alone."""
    asked = [
        ("POST", "/api/jobs"),
        ("GET", "/api/jobs"),
        ("POST", "/api/jobs/worker"),
        ("GET", "/api/jobs/worker"),
        ("POST", "/api/jobs/process"),
        ("GET", "/api/status"),
    ]

    for method, path in asked:
        answer = await api.request(method, path, json={} if method == "POST" else None)

        assert answer.status_code == 401, (method, path, answer.text)
        assert answer.json()["error"] == "Unauthorized"


async def test_without_a_database_a_tick_by_http_is_a_503(api: httpx.AsyncClient) -> None:
    """Not a crash, and not a success."""
    answer = await api.post(
        "/api/jobs/worker", headers={"authorization": "Bearer token-of-the-test"}
    )

    assert answer.status_code == 503, answer.text
    assert "Traceback" not in answer.text


PROBE = """
import importlib._bootstrap_external as external, json, os, sys
compiled = []
original = external.SourceLoader.source_to_code
def recording(self, data, path, **more):
    compiled.append(str(path))
    return original(self, data, path, **more)
external.SourceLoader.source_to_code = recording
calls = 0
def counting(*_):
    global calls
    calls += 1
sys.setprofile(counting)
__import__(sys.argv[1])
sys.setprofile(None)
print(json.dumps({
    "calls": calls,
    "compiled": [p for p in compiled if p.startswith(os.environ["LAMBDA_TASK_ROOT"])],
    "modules": sorted({name.split(".")[0] for name in sys.modules}),
}))
"""


def probe(root: Path, site: Path, module: str, **more: str) -> dict[str, Any]:
    """Import `module` from an unzipped package in a fresh interpreter."""
    environment = {
        **VARIABLES,
        **SECRETS,
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(root), str(site)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LAMBDA_TASK_ROOT": str(root),
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
        "AWS_REGION": "us-east-1",
        **more,
    }
    done = subprocess.run(
        [sys.executable, "-S", "-c", PROBE, module],
        env=environment, cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


@pytest.fixture(scope="module")
def imported(host_package: Package, runtime_site: Path) -> dict[str, dict[str, Any]]:
    """What each handler's import does, and that of the web framework alone."""
    handlers = {name: (BUNDLE_OF[name], f"functions.{name}.handler") for name in FUNCTIONS}
    imports = {"fastapi": ("app", "fastapi"), "mangum": ("app", "mangum"), **handlers}
    return {
        name: probe(host_package.unzipped(bundle), runtime_site, module)
        for name, (bundle, module) in imports.items()
    }


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_cold_start_compiles_nothing(imported: dict[str, dict[str, Any]], name: str) -> None:
    """Stale byte code costs most of a cold start and shows nowhere."""
    assert imported[name]["compiled"] == []


FORBIDDEN = {
    "health": {"fastapi", "mangum", "starlette", "pydantic", "httpx", "boto3", "asyncio", "jwt"},
    "worker": {"fastapi", "mangum", "starlette", "boto3", "botocore", "supabase", "typer", "rich"},
    "jobs": {"boto3", "botocore", "supabase", "typer", "rich"},
    "status": {"boto3", "botocore", "supabase", "typer", "rich"},
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_handler_imports_none_of_these(imported: dict[str, dict[str, Any]], name: str) -> None:
    """Python's imports are the cold start; each of these costs tens of milliseconds."""
    assert not FORBIDDEN[name] & set(imported[name]["modules"])


@pytest.mark.parametrize("name", ["jobs", "status", "worker"])
def test_reading_the_secrets_does_not_import_boto3(
    host_package: Package, runtime_site: Path, aws: str, name: str
) -> None:
    """Every cold start reads them, so it would cost every cold start 200 ms."""
    report = probe(
        host_package.unzipped("app"),
        runtime_site,
        f"functions.{name}.handler",
        AWS_ENDPOINT_URL=aws,
        SECRETS_PARAMETER=f"/minutehand/dev/{name}",
    )

    assert not {"boto3", "botocore"} & set(report["modules"])


#: Shares of what `import fastapi, mangum` costs beside it, about 250 ms.
BUDGET = {"health": 0.03, "worker": 1.0, "jobs": 2.1, "status": 1.9}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_imports_keep_to_their_share_of_a_web_framework(
    imported: dict[str, dict[str, Any]], name: str
) -> None:
    """Against a yardstick measured beside it: that holds on any machine, and on a busy one.

    Counted are calls and returns of functions, Python's and C's. Not seconds, not even the
    processor's: on a busy machine caches are others' too.
    """
    calls = {name: report["calls"] for name, report in imported.items()}
    assert calls[name] / (calls["fastapi"] + calls["mangum"]) <= BUDGET[name], calls
