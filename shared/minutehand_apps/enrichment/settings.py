"""Settings for Apollo's URL and the offline client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict

from minutehand.config import read_flag, read_url


class ApolloSettings(BaseModel):
    """Settings for Apollo, from environment variables."""

    model_config = ConfigDict(frozen=True)

    use_mock: bool = False
    base_url: str = "https://api.apollo.io/api/v1"

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read `USE_MOCK_APOLLO` and `APOLLO_BASE_URL`.

        Raises:
            ConfigurationError: One of them is malformed.
        """
        defaults = cls()
        return cls(
            use_mock=read_flag(environ, "USE_MOCK_APOLLO"),
            base_url=read_url(environ, "APOLLO_BASE_URL") or defaults.base_url,
        )
