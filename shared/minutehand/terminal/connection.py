"""Connects a command to a local or deployed stack, by settings, a person's token and HTTP.

This module imports slow modules only in the functions that use them.
"""

import os
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from minutehand.config import ALIASES
from minutehand.project import Project, is_tracked

TIMEOUT = httpx.Timeout(30.0, connect=5.0)

#: Next step to print for a person, by error code of the API or of a command.
FIXES: dict[str, str] = {
    "unknown_job_type": "`minutehand types` lists the known types",
    "unknown_queue": "name it in a job type (`queue=`), or start `minutehand serve --queue` once",
    "job_not_found": "check it with `minutehand ls`, or ask a member of its workspace; a part of "
    "an id must match only one job",
    "workspace_not_found": "omit --workspace to list yours",
    "unauthorized": "sign in again with `minutehand token`; or omit --token and MINUTEHAND_TOKEN",
    **dict.fromkeys(
        ("unreachable", "unavailable"), "`minutehand doctor` shows which part is unavailable"
    ),
    "unreadable": "name a JSON file, or - for standard input",
    "no_env_file": "name one with KEY=value lines, as .local/env has them",
    "no_stack": "start the local one with `minutehand dev`, or name a file: --env-file prod.env",
    "workspace_needed": "pass --workspace or set MINUTEHAND_WORKSPACE_ID",
    "missing_setting": "set it together with API_URL, or name a file: --env-file prod.env; without "
    "API_URL in the environment, the local stack is used",
    "not_signed_in": "set MINUTEHAND_EMAIL and MINUTEHAND_PASSWORD, or pass --token; a new local "
    "stack with your own tenants needs an account and its membership: `minutehand docs local`",
    "sign_in_failed": "correct MINUTEHAND_EMAIL, MINUTEHAND_PASSWORD or SUPABASE_PUBLISHABLE_KEY",
    "token_expired": "`minutehand token` prints a new one; a sign-in by MINUTEHAND_EMAIL renews it",
}

OPERATOR_ONLY = "let an operator of the service run this with that key"


#: Error codes that mean that an argument of the command is wrong.
USAGE_CODES = {"bad_usage", "bad_name", "unknown_check", "unreadable"}


class CommandFailed(Exception):
    """An error that a person can resolve, which commands print without a traceback.

    Any function of a command may raise `CommandFailed`, so that the docstrings of this package and
    of `minutehand.cli` do not mention this error.

    Attributes:
        code: Stable error code of the API or of the command.
        fix: Next step for the person. Without `fix`, the next step is the entry for `code` in
            FIXES.
        exit_code: Exit code of the command: 2 if an argument is wrong, otherwise 1.
    """

    def __init__(
        self, message: str, *, code: str = "failed", fix: str | None = None, is_usage: bool = False
    ) -> None:
        self.code = code
        self.exit_code = 2 if is_usage or code in USAGE_CODES else 1
        self.fix = fix or FIXES.get("unauthorized" if code == "401" else code)
        super().__init__(message)


def reject_tracked(path: Path) -> None:
    """Raise an error if git tracks a file that contains secrets."""
    if is_tracked(path):
        raise CommandFailed(
            f"{path} must not be tracked by git, because everyone with the repository can read it",
            code="secrets_tracked",
            fix=f"git rm --cached {path}, add it to .gitignore, and put new values into it",
        )


def read_env_file(path: Path) -> dict[str, str]:
    """Read the settings in a file of KEY=value lines."""
    return parse_env(path.read_text("utf-8-sig"))


def parse_env(text: str) -> dict[str, str]:
    """Parse KEY=value lines, and ignore blank lines and comments, also a comment after a value.

    Quotes around a value are removed. Within quotes, the character `#` does not start a comment.
    """
    values = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not name.lstrip().startswith("#"):
            values[name.removeprefix("export ").strip()] = _value(value)
    return values


def _value(text: str) -> str:
    text = text.strip()
    if text[:1] in {"'", '"'} and (end := text.find(text[0], 1)) > 0:
        return text[1:end]
    return re.sub(r"(^|\s)#.*", "", text).strip()


def _with_aliases(values: Mapping[str, str]) -> dict[str, str]:
    """Set missing settings from variables with the names that Supabase's guides use."""
    names = {field.upper(): alias for field, alias in ALIASES.items() if "supabase" in field}
    resolved = {name: values.get(name) or values.get(alias) for name, alias in names.items()}
    return {**values, **{name: text for name, text in resolved.items() if text}}


def load_values(env_file: Path | None, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Load settings from `env_file`, from an environment with API_URL, or from the local stack.

    An API_URL that equals Supabase's address does not count, because `supabase status` prints such
    a variable for Supabase's own API.
    """
    if env_file is not None:
        if not env_file.is_file():
            raise CommandFailed(f"{env_file} must be a file", code="no_env_file")
        return {**_with_aliases(environ), **_with_aliases(read_env_file(env_file))}
    environ = _with_aliases(environ)
    path = Project.find(environ=environ).root / ".local" / "env"
    local = read_env_file(path) if path.exists() else {}
    supabase = (environ.get("SUPABASE_URL"), local.get("SUPABASE_URL"))
    if (api := environ.get("API_URL")) and api not in supabase:
        return dict(environ)
    if local:
        return {**environ, **local}
    if environ.get("SUPABASE_URL"):  # some commands do not need the API
        return dict(environ)
    raise CommandFailed(
        "no stack found: SUPABASE_URL is not set, and .local/env does not exist", code="no_stack"
    )


#: Workspace id of jobs without a tenant, which the schedules that processors declare enqueue.
SYSTEM = "ffffffff-ffff-4fff-bfff-ffffffffffff"


@dataclass
class Connection:
    """Connects a person to a stack.

    The property `api` creates an HTTP client, and `close` closes the client.
    """

    values: Mapping[str, str]
    given_token: str | None = None
    given_workspace: str | None = None
    _token: str | None = None

    def need(self, name: str) -> str:
        """Return a required setting. Raise an error if the setting is missing."""
        value = self.values.get(name, "")
        if not value:
            api = self.values.get("API_URL")
            hint = f"; API_URL is {api}" if api else ""
            fix = OPERATOR_ONLY if name == "SUPABASE_SECRET_KEY" else None
            raise CommandFailed(f"{name} is not set{hint}", code="missing_setting", fix=fix)
        return value

    @property
    def schema(self) -> str:
        """Schema of the jobs that clients see, from the stack's settings or the project."""
        return self.values.get("MINUTEHAND_SCHEMA") or Project.find(environ=self.values).schema_

    @property
    def token(self) -> str:
        """Access token from an option or a setting, or from a sign-in by e-mail and password."""
        if token := self.given_token or self.values.get("MINUTEHAND_TOKEN"):
            if not token.isascii():
                raise CommandFailed(
                    "the access token must consist of ASCII characters", code="unauthorized"
                )
            return token
        if self._token is None:
            self._token = self._sign_in()
        return self._token

    def drop_token(self) -> bool:
        """Forget the token of a sign-in, so that the next call signs in.

        Return False without one.
        """
        expired, self._token = self._token, None
        return expired is not None

    @cached_property
    def api(self) -> httpx.Client:
        """HTTP client of the service's API, with the person's token."""
        return httpx.Client(base_url=self.need("API_URL"), timeout=TIMEOUT, auth=BearerAuth(self))

    def path(self, *parts: str) -> str:
        """Return the path of a route of the workspace. Slashes within a part are quoted."""
        return "/".join(
            ["/api/workspaces", self.workspace, *(quote(part, safe="") for part in parts)]
        )

    @property
    def workspace(self) -> str:
        """Workspace id in the options or settings, or the id of the person's only workspace."""
        workspace = self.given_workspace or self.values.get("MINUTEHAND_WORKSPACE_ID")
        if workspace is None and self.given_token is None:
            workspace = self.values.get("DEMO_WORKSPACE_ID")
        if workspace == "system":
            return SYSTEM
        if workspace:
            return workspace
        if self.token.startswith("sb_secret_"):
            raise CommandFailed(
                "a workspace must be named with a secret key, or `-w system` for schedules' jobs",
                code="workspace_needed",
            )
        rows = self.rpc("list_workspaces", {})["workspaces"]
        if len(rows) == 1:
            return str(rows[0]["id"])
        names = ", ".join(f"{row['id']} ({row['name']})" for row in rows) or "none"
        raise CommandFailed(f"a workspace must be named; yours: {names}", code="workspace_needed")

    def call(self, method: str, path: str, **options: Any) -> Any:
        """Call a route of the service's API, and return the parsed response."""
        return parse_response(self.send(method, path, **options))

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Call a route of the service's API, and return the response."""
        with reachable(f"the API at {self.need('API_URL')}"):
            return self.api.request(method, path, **options)

    def get(self, path: str, **params: Any) -> Any:
        """Send a GET request to the service's API. Omit parameters that are None or empty."""
        query = {name: value for name, value in params.items() if value not in (None, "", [])}
        return self.call("GET", path, params=query)

    def rpc(self, name: str, arguments: Mapping[str, Any], *, as_operator: bool = False) -> Any:
        """Call a SQL function as the person. With `as_operator`, use the operator's secret key."""
        return self._data("POST", f"rpc/{name}", arguments, as_operator=as_operator)

    def rows(self, table: str, **params: Any) -> list[dict[str, Any]]:
        """Read the rows of a table through the Data API."""
        return list(self._data("GET", f"{table}?{urlencode(params)}"))

    def _data(self, method: str, path: str, body: Any = None, *, as_operator: bool = False) -> Any:
        from minutehand.queue.credentials import secret_headers
        from minutehand.queue.data_api import profile_headers

        auth: BearerAuth | None = None
        if as_operator or self.token.startswith("sb_secret_"):
            key = self.need("SUPABASE_SECRET_KEY") if as_operator else self.token
            headers = secret_headers(key)
        else:
            headers, auth = {"apikey": self.need("SUPABASE_PUBLISHABLE_KEY")}, BearerAuth(self)
        headers |= profile_headers(self.schema)
        return parse_response(self._supabase(method, f"/rest/v1/{path}", headers, body, auth))

    def close(self) -> None:
        """Close the HTTP client of the connection."""
        if "api" in vars(self):
            self.api.close()

    def _sign_in(self) -> str:
        email = self.values.get("MINUTEHAND_EMAIL") or self.values.get("DEMO_EMAIL")
        password = self.values.get("MINUTEHAND_PASSWORD") or self.values.get("DEMO_PASSWORD")
        if not email or not password:
            from minutehand.terminal import default_user

            try:
                local_token = default_user.make_token(self.values)
            except ConnectionError as error:
                raise CommandFailed(str(error), code="unreachable") from error
            if local_token:
                return local_token
            url = self.values.get("API_URL", "Supabase")
            raise CommandFailed(f"not signed in at {url}", code="not_signed_in")
        return self.sign_in(email, password)

    def sign_in(self, email: str, password: str) -> str:
        """Sign in by e-mail and password, and return the access token."""
        response = self._supabase(
            "POST",
            "/auth/v1/token?grant_type=password",
            {"apikey": self.need("SUPABASE_PUBLISHABLE_KEY")},
            {"email": email, "password": password},
        )
        if response.status_code != 200:
            code = "sign_in_failed" if response.is_client_error else "unavailable"
            raise CommandFailed(f"{email} could not sign in: {response.text[:200]}", code=code)
        return str(response.json()["access_token"])

    def _supabase(
        self, method: str, path: str, headers: dict[str, str], body: Any, auth: Any = None
    ) -> httpx.Response:
        url = self.need("SUPABASE_URL").rstrip("/")
        options: Any = {"json": body, "headers": headers, "auth": auth, "timeout": TIMEOUT}
        with reachable(f"Supabase at {url}"):
            return httpx.request(method, url + path, **options)


class BearerAuth(httpx.Auth):
    """Authenticates requests by a person's token, and renews an expired token of a sign-in."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send a request.

        If the server rejects the token, sign in and send the request once more.
        """
        request.headers["authorization"] = f"Bearer {self._connection.token}"
        response = yield request
        if response.status_code == 401 and self._connection.drop_token():
            request.headers["authorization"] = f"Bearer {self._connection.token}"
            yield request


@contextmanager
def reachable(server: str) -> Iterator[None]:
    """Convert an error of the connection to `CommandFailed` with the name of the server."""
    try:
        yield
    except httpx.HTTPError as error:
        raise CommandFailed(
            f"{server} does not respond ({type(error).__name__})", code="unreachable"
        ) from error


def parse_response(response: httpx.Response) -> Any:
    """Return the parsed body of a response. If the status is an error, raise `CommandFailed`."""
    if response.status_code == 204:
        return None
    try:
        value = response.json()
    except ValueError as error:  # e.g. a proxy's page or an empty body
        if response.is_success:
            raise CommandFailed(
                f"{response.url} responded {response.status_code} without JSON", code="unreachable"
            ) from error
        value = {}
    if response.is_success:
        return value
    status = response.status_code
    body = value if isinstance(value, dict) else {}
    message = (
        body.get("error") or body.get("message") or response.text[:200] or response.reason_phrase
    )
    # the hint of an error of Postgres or of the Data API itself is a sentence
    code = body.get("code") if "error" in body else None
    if str(body.get("code")).startswith("PT"):
        code = body.get("hint")
    detail = body.get("detail") or body.get("details")
    description = _format_detail(detail)
    more = f" ({description})" if description and str(message) not in description else ""
    raise CommandFailed(
        f"{message}{more}",
        # only the Data API responds 404 without a code, if it has no such function
        code=str(code or ("unavailable" if status >= 500 or status == 404 else status)),
        is_usage=status in (400, 422),
    )


def _format_detail(detail: Any) -> str:
    """Format an error's detail, which is a list of invalid fields, an object or a string."""
    if isinstance(detail, list) and all(isinstance(item, dict) for item in detail):
        return "; ".join(f"{item.get('field')}: {item.get('problem')}" for item in detail)
    if isinstance(detail, dict):
        return ", ".join(f"{name}: {value}" for name, value in detail.items())
    return str(detail or "")
