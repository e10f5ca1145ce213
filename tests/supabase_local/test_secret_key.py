"""A project's secret key, as our workers and the official clients send it."""

import httpx
import jwt
import pytest
from storage3.exceptions import StorageApiError
from supabase_auth.errors import AuthApiError

from infra.bench.scratch import JWT_SECRET
from supabase import AsyncClientOptions, acreate_client
from tests.support.project import Project


def _token(claims: dict[str, object], **head: str) -> str:
    payload = {"role": "service_role", **claims}
    return f"Bearer {jwt.encode(payload, JWT_SECRET, headers=head or None)}"


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Basic abc", 401),
        ("Bearer", 401),
        (None, 200),
        (_token({}), 200),
        (_token({}, kid="another"), 401),
        (_token({"aud": 1}), 401),
        (_token({"aud": ["a", "b"]}), 200),
    ],
)
def test_a_key_gives_its_rights_without_a_token_or_with_a_valid_one(
    project: Project, header: str | None, status: int
) -> None:
    """A secret key suffices alone or with a valid token.

    An invalid authorization header beside it gets 401.
    """
    url = f"{project.settings.supabase_url}/rest/v1/rpc/queue_health"
    headers = {"apikey": project.settings.supabase_secret_key or ""}
    if header is not None:
        headers["authorization"] = header

    assert httpx.post(url, headers=headers, json={}).status_code == status
    assert httpx.post(url, json={}).status_code == 401


async def test_a_missing_service_is_named_to_the_official_client(project: Project) -> None:
    """The errors that supabase-py raises for a missing service name `supabase start`."""
    secret = project.settings.supabase_secret_key or ""
    async with httpx.AsyncClient() as connections:
        options = AsyncClientOptions(httpx_client=connections)
        client = await acreate_client(project.settings.supabase_url, secret, options)
        with pytest.raises(AuthApiError, match="supabase start"):
            await client.auth.admin.list_users()
        with pytest.raises(StorageApiError, match="supabase start"):
            await client.storage.list_buckets()
