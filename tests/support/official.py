"""The official Python client on a wire of the tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx

from supabase import AsyncClient, AsyncClientOptions, Client, ClientOptions


@asynccontextmanager
async def official(url: str, key: str) -> AsyncIterator[AsyncClient]:
    """`supabase.AsyncClient`; its own HTTP client would be made by deprecated arguments."""
    async with httpx.AsyncClient(trust_env=False) as http:
        yield AsyncClient(url, key, AsyncClientOptions(httpx_client=http))


@contextmanager
def blocking(url: str, key: str) -> Iterator[Client]:
    """`supabase.Client`, as `official`."""
    with httpx.Client(trust_env=False) as http:
        yield Client(url, key, ClientOptions(httpx_client=http))
