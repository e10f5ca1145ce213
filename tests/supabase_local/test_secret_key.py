"""A project's secret key, as sent by our workers and the official clients."""

from __future__ import annotations

import httpx
import pytest
from storage3.exceptions import StorageApiError
from supabase_auth.errors import AuthApiError

from supabase import AsyncClientOptions, acreate_client
from tests.support.project import Project


async def test_the_official_client_of_python_enters_with_it(project: Project) -> None:
    """supabase-py also sends the key as bearer.

    Missing services return an error with their name.
    """
    secret = project.settings.supabase_secret_key or ""
    async with httpx.AsyncClient() as connections:
        options = AsyncClientOptions(schema=project.settings.schema_name, httpx_client=connections)
        client = await acreate_client(project.settings.supabase_url, secret, options)
        health = await client.rpc("queue_health").execute()
        with pytest.raises(AuthApiError, match="supabase start"):
            await client.auth.admin.list_users()
        with pytest.raises(StorageApiError, match="supabase start"):
            await client.storage.list_buckets()

    assert isinstance(health.data, dict)
    assert health.data["oldest_due_seconds"] is None
