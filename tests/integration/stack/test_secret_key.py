"""A project's secret key, as our workers and the official clients send it."""

from __future__ import annotations

import json
import subprocess

import httpx
import pytest
from storage3.exceptions import StorageApiError
from supabase_auth.errors import AuthApiError

from minutehand.node import node_binary, node_home
from supabase import AsyncClientOptions, acreate_client
from tests.support.project import Project

SUPABASE_JS = """
import { createClient } from "@supabase/supabase-js";
const [url, key, schema] = JSON.parse(process.argv[1]);
const { status } = await createClient(url, key).schema(schema).rpc("queue_health");
console.log(JSON.stringify({ status }));
"""


async def test_the_official_client_of_python_enters_with_it(project: Project) -> None:
    """supabase-py sends the key as bearer, too; what has no server here says so."""
    secret = project.settings.supabase_secret_key or ""
    async with httpx.AsyncClient() as connections:
        options = AsyncClientOptions(schema=project.settings.schema_name, httpx_client=connections)
        client = await acreate_client(project.settings.supabase_url, secret, options)
        health = await client.rpc("queue_health").execute()
        with pytest.raises(AuthApiError, match="minutehand dev --supabase-url"):
            await client.auth.admin.list_users()
        with pytest.raises(StorageApiError, match="minutehand dev --supabase-url"):
            await client.storage.list_buckets()

    assert isinstance(health.data, dict)
    assert health.data["due"] == 0


def test_the_official_client_of_javascript_enters_with_it(project: Project) -> None:
    """supabase-js does the same; in Node, since no key of this kind belongs into a browser."""
    arguments = json.dumps(
        [
            project.settings.supabase_url,
            project.settings.supabase_secret_key,
            project.settings.schema_name,
        ]
    )
    answer = subprocess.run(
        [node_binary(), "--input-type=module", "--eval", SUPABASE_JS, arguments],
        cwd=node_home(),
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(answer.stdout)["status"] == 200
