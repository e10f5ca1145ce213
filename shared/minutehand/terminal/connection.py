"""Where the command talks to and as whom: settings by name, a person's token, an HTTP client.

Reading the values comes first and fails with the name of what is missing; nothing is written.
What takes long to import, and most calls do without, is imported where it is used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx

from minutehand.config import OTHERWISE
from minutehand.project import Project, is_tracked

TIMEOUT = httpx.Timeout(30.0, connect=5.0)

#: What to do next, by the stable words of the API and of this command.
FIXES: dict[str, str] = {
    "unknown_job_type": "`minutehand types` lists the names that workers have published",
    "unknown_queue": "name it in a job type (`queue=`), or start `minutehand serve --queue` once",
    "job_not_found": "`minutehand ls` lists your jobs; a part of an id must be that of one alone",
    "workspace_not_found": "omit --workspace to list yours",
    "unauthorized": "sign in again with `minutehand token`, or omit --token",
    "unreachable": "`minutehand doctor` shows which part is unavailable",
    "unavailable": "`minutehand doctor` shows which part is unavailable",
    "unreadable": "name a JSON file, or - for standard input",
    "no_env_file": "name one with KEY=value lines, as .local/env has them",
    "no_stack": "start the local one with `minutehand dev`, or name a file: --env-file prod.env",
    "workspace_needed": "pass --workspace or set MINUTEHAND_WORKSPACE_ID",
    "missing_setting": "set it beside API_URL, or name a file: --env-file prod.env; without "
    "API_URL in the environment the local stack is used",
    "not_signed_in": "set MINUTEHAND_EMAIL and MINUTEHAND_PASSWORD, or pass --token; a new local "
    "stack with tenants of yours needs an account and its membership: `minutehand docs local`",
    "sign_in_failed": "correct MINUTEHAND_EMAIL, MINUTEHAND_PASSWORD or SUPABASE_PUBLISHABLE_KEY",
    "token_expired": "`minutehand token` prints a fresh one; MINUTEHAND_EMAIL's sign-in renews it",
}


class CommandFailed(Exception):
    """Something a person can act on; printed without a traceback, exit code 1.

    What a command calls may raise it anywhere; docstrings here and of `minutehand.cli` do not
    repeat it.

    Attributes:
        code: The stable word of the API or of this command.
        fix: What to do next; without one of its own, that of the code.
    """

    def __init__(self, message: str, *, code: str = "failed", fix: str | None = None) -> None:
        self.code = code
        self.fix = fix or FIXES.get("unauthorized" if code == "401" else code)
        super().__init__(message)


def refuse_tracked(path: Path) -> None:
    """Stop where git has a file of secrets."""
    if is_tracked(path):
        raise CommandFailed(
            f"git has {path}, and with it everyone who reads the repository",
            code="secrets_tracked",
            fix=f"git rm --cached {path}, add it to .gitignore, and put new values into it",
        )


def read_env_file(path: Path) -> dict[str, str]:
    """KEY=value lines; blank lines and comments, also behind a value, are skipped.

    Quotes around a value are dropped; within them `#` is a character like others.
    """
    values = {}
    for line in path.read_text("utf-8").splitlines():
        name, found, value = line.partition("=")
        if found and not name.lstrip().startswith("#"):
            values[name.removeprefix("export ").strip()] = _value(value)
    return values


def _value(text: str) -> str:
    text = text.strip()
    if text[:1] in {"'", '"'} and (end := text.find(text[0], 1)) > 0:
        return text[1:end]
    return re.sub(r"(^|\s)#.*", "", text).strip()


def _in_our_names(values: Mapping[str, str]) -> dict[str, str]:
    """With what Supabase's guides call otherwise by our names, where those are unset."""
    names = {field.upper(): theirs for field, theirs in OTHERWISE.items() if "supabase" in field}
    found = {ours: values.get(ours) or values.get(theirs) for ours, theirs in names.items()}
    return {**values, **{ours: text for ours, text in found.items() if text}}


def load_values(env_file: Path | None, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """An explicit file wins; else the environment, when it names an API; else the local stack."""
    if env_file is not None:
        if not env_file.is_file():
            raise CommandFailed(f"{env_file} is not a file", code="no_env_file")
        return {**_in_our_names(environ), **_in_our_names(read_env_file(env_file))}
    environ = _in_our_names(environ)
    if environ.get("API_URL"):
        return dict(environ)
    local = Project.find(environ=environ).root / ".local" / "env"
    if local.exists():
        return {**environ, **read_env_file(local)}
    if environ.get("SUPABASE_URL"):  # the worker's key and the doctor come before any API
        return dict(environ)
    raise CommandFailed(
        "no stack found: SUPABASE_URL is not set, and .local/env does not exist", code="no_stack"
    )


#: Whose jobs are those of schedules that processors declare: of no tenant.
SYSTEM: Final = "ffffffff-ffff-4fff-bfff-ffffffffffff"


@dataclass
class Connection:
    """A stack and a person. Clients are made when first needed and closed by `close`."""

    values: Mapping[str, str]
    given_token: str | None = None
    given_workspace: str | None = None
    _token: str | None = None

    def need(self, name: str) -> str:
        """A value that must be there."""
        value = self.values.get(name, "")
        if not value:
            api = self.values.get("API_URL")
            known = f"; API_URL is {api}" if api else ""
            raise CommandFailed(f"{name} is not set{known}", code="missing_setting")
        return value

    @property
    def schema(self) -> str:
        """The schema in which clients see jobs: the stack's, else the project's."""
        return self.values.get("MINUTEHAND_SCHEMA") or Project.find(environ=self.values).schema_

    @property
    def token(self) -> str:
        """The access token: as given, or by signing in with e-mail and password."""
        if given := self.given_token or self.values.get("MINUTEHAND_TOKEN"):
            if not given.isascii():
                said = "the access token has characters that no header can carry"
                raise CommandFailed(said, code="unauthorized")
            return given
        if self._token is None:
            self._token = self._sign_in()
        return self._token

    def renew(self) -> bool:
        """Forget the expired token, to sign in again; False when it was given, not made here."""
        expired, self._token = self._token, None
        return expired is not None

    @cached_property
    def api(self) -> httpx.Client:
        """The service's HTTP API, as the person."""
        return httpx.Client(base_url=self.need("API_URL"), timeout=TIMEOUT, auth=BearerAuth(self))

    def path(self, *parts: str) -> str:
        """The address of what is the workspace's; a part, such as a name, may hold a slash."""
        return "/".join(
            ["/api/workspaces", self.workspace, *(quote(part, safe="") for part in parts)]
        )

    @property
    def workspace(self) -> str:
        """The workspace asked for, configured, or the only one there is."""
        named = self.given_workspace or self.values.get("MINUTEHAND_WORKSPACE_ID")
        if named is None and self.given_token is None:
            named = self.values.get("DEMO_WORKSPACE_ID")
        if named == "system":
            return SYSTEM
        if named:
            return named
        if self.token.startswith("sb_secret_"):
            said = "a secret key is of no workspace: name one, or `-w system` for schedules' jobs"
            raise CommandFailed(said, code="workspace_needed")
        mine = self.rpc("list_workspaces", {})["workspaces"]
        if len(mine) == 1:
            return str(mine[0]["id"])
        listed = ", ".join(f"{row['id']} ({row['name']})" for row in mine) or "none"
        raise CommandFailed(f"which workspace? yours: {listed}", code="workspace_needed")

    def call(self, method: str, path: str, **more: Any) -> Any:
        """One call of the service's API; its answer parse_response."""
        with reachable(f"the API at {self.need('API_URL')}"):
            return parse_response(self.api.request(method, path, **more))

    def get(self, path: str, **params: Any) -> Any:
        """One read of the service's API; what is None or empty is not asked for."""
        given = {name: value for name, value in params.items() if value not in (None, "", [])}
        return self.call("GET", path, params=given)

    def rpc(self, name: str, arguments: Mapping[str, Any], *, as_operator: bool = False) -> Any:
        """One SQL function; as the operator with the secret key."""
        from minutehand.queue.data_api import profile_headers
        from minutehand.queue.keys import secret_headers

        if as_operator:
            headers = secret_headers(self.need("SUPABASE_SECRET_KEY"))
        else:
            key = self.need("SUPABASE_PUBLISHABLE_KEY")
            headers = {"apikey": key, "authorization": f"Bearer {self.token}"}
        headers = {**headers, **profile_headers(self.schema)}
        return parse_response(self._supabase(f"/rest/v1/rpc/{name}", arguments, headers))

    def close(self) -> None:
        """Close the open link."""
        if "api" in vars(self):
            self.api.close()

    def _sign_in(self) -> str:
        email = self.values.get("MINUTEHAND_EMAIL") or self.values.get("DEMO_EMAIL")
        password = self.values.get("MINUTEHAND_PASSWORD") or self.values.get("DEMO_PASSWORD")
        if not email or not password:
            from minutehand.terminal import default_user

            try:
                local = default_user.make_token(self.values)
            except ConnectionError as error:
                fix = "start it: `minutehand dev`"
                raise CommandFailed(str(error), code="unreachable", fix=fix) from error
            if local:
                return local
            where = self.values.get("API_URL", "Supabase")
            raise CommandFailed(f"not signed in at {where}", code="not_signed_in")
        answer = self._supabase(
            "/auth/v1/token?grant_type=password",
            {"email": email, "password": password},
            {"apikey": self.need("SUPABASE_PUBLISHABLE_KEY")},
        )
        if answer.status_code != 200:
            raise CommandFailed(
                f"{email} could not sign in: {answer.text[:200]}", code="sign_in_failed"
            )
        token: str = answer.json()["access_token"]
        return token

    def _supabase(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> httpx.Response:
        url = self.need("SUPABASE_URL").rstrip("/")
        with reachable(f"Supabase at {url}"):
            return httpx.post(url + path, json=body, headers=headers, timeout=TIMEOUT)


class BearerAuth(httpx.Auth):
    """Sends a person's token; one of the command's own that has expired is renewed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Ask once, and again where the first token was refused."""
        request.headers["authorization"] = f"Bearer {self._connection.token}"
        answer = yield request
        if answer.status_code == 401 and self._connection.renew():
            request.headers["authorization"] = f"Bearer {self._connection.token}"
            yield request


@contextmanager
def reachable(what: str) -> Iterator[None]:
    """Turn a failed connection into a sentence."""
    try:
        yield
    except httpx.HTTPError as error:
        raise CommandFailed(
            f"{what} does not answer ({type(error).__name__})", code="unreachable"
        ) from error


def parse_response(answer: httpx.Response) -> Any:
    """The body of a good answer."""
    if answer.status_code == 204:
        return None
    if answer.is_success:
        try:
            return answer.json()
        except ValueError as error:  # a page, half of an answer, or none
            raise CommandFailed(
                f"{answer.url} answered {answer.status_code} with what is not JSON",
                code="unreachable",
            ) from error
    try:
        found = answer.json()
    except ValueError:
        found = {}
    body = found if isinstance(found, dict) else {}
    message = body.get("error") or body.get("message") or answer.text[:200] or answer.reason_phrase
    code = body.get("code") if "error" in body else body.get("hint")
    detail = body.get("detail") or body.get("details")
    sentence = _sentence(detail)
    more = f" ({sentence})" if sentence and str(message) not in sentence else ""
    raise CommandFailed(f"{message}{more}", code=str(code or answer.status_code))


def _sentence(detail: Any) -> str:
    """An API's detail as words: field problems, named values, or a sentence."""
    if isinstance(detail, list) and all(isinstance(item, dict) for item in detail):
        return "; ".join(f"{item.get('field')}: {item.get('problem')}" for item in detail)
    if isinstance(detail, dict):
        return ", ".join(f"{name}: {value}" for name, value in detail.items())
    return str(detail or "")
