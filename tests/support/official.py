"""The official Python client on a wire of the tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from supabase import AsyncClient, AsyncClientOptions


@asynccontextmanager
async def official(url: str, key: str) -> AsyncIterator[AsyncClient]:
    """`supabase.AsyncClient`; its own HTTP client would be made by deprecated arguments."""
    async with httpx.AsyncClient(trust_env=False) as http:
        yield AsyncClient(url, key, AsyncClientOptions(httpx_client=http))
