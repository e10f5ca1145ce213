"""Settings, which are read from environment variables. Errors name the invalid variable."""

import json
import traceback

import pytest

from minutehand.config import ConfigurationError, Settings
from minutehand_apps.beacon.settings import read_providers

LEAST = {"SUPABASE_URL": "http://127.0.0.1:54321/", "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x"}
SECRET = [f"SUPABASE_{one}" for one in ("SECRET_KEY", "JWT_SECRET", "WORKER_KEY")]
SECRET += ["LANGUAGE_MODEL_KEY", "SPEECH_KEY", "WORKER_SECRET_TOKEN", "BACKGROUND_JOB_TOKEN"]


def test_two_variables_are_enough() -> None:
    """Two variables suffice, and empty ones count as missing.

    The text of the settings contains no secret.
    """
    settings = Settings.from_env({**LEAST, **dict.fromkeys(SECRET, " ")})

    assert settings.supabase_url == "http://127.0.0.1:54321"
    assert settings.supabase_secret_key is None
    assert "hush" not in repr(Settings.from_env({**LEAST, **dict.fromkeys(SECRET, "hush")}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SUPABASE_URL", ""),
        ("SUPABASE_URL", "project.supabase.co"),
        ("SUPABASE_PUBLISHABLE_KEY", " "),
        ("WORKER_CONCURRENCY", "0"),
        ("WORKER_CONCURRENCY", "many"),
        ("STREAMING", "maybe"),
        ("LOG_LEVEL", "LOUD"),
        ("LANGUAGE_MODEL_PRICES", "1,nan"),
        ("SPEECH_KEY", "“sk-1”"),
        ("MINUTEHAND_SCHEMA", "_" * 64),
        ("WORKER_SECRET_TOKEN", "a,b,c"),
    ],
)
def test_a_wrong_variable_is_named_with_an_example(name: str, value: str) -> None:
    """An invalid variable raises an error with its name and a valid example."""
    with pytest.raises(ConfigurationError, match=f"^{name} ") as caught:
        Settings.from_env({**LEAST, name: value})

    assert caught.value.variable == name
    assert f"Example: {name}=" in str(caught.value)


def test_no_error_prints_a_secret() -> None:
    secret = "sb_secret_of_this_test"
    environ = {"SUPABASE_URL": "http://a", "SUPABASE_SECRET_KEY": secret}
    providers = {"BEACON_PROVIDERS": json.dumps([{"token": secret}])[:-1] + ",]"}
    for read in (lambda: Settings.from_env(environ), lambda: read_providers(providers)):
        with pytest.raises(ConfigurationError) as caught:
            read()
        assert secret not in "".join(traceback.format_exception(caught.value))
