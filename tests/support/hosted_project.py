"""A hosted Supabase project as its CLI sees it: the Management API, the pooler, the database.

The CLI is the real one. Its profile names the Management API here; its pooler's host name is
resolved to this machine by a preloaded module, because no name on it ends in a public suffix.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict

TOKEN = "sbp_" + "0" * 40
PASSWORD = "a-database-password"
#: Whom the Management API lets in for five minutes, in place of a password.
LOGIN_ROLE = "cli_login_postgres"
POOLER = "aws-0-standin.pooler.localhost"
SSL_REQUEST = 80877103
#: Runs inside the CLI before its own code: the pooler's host is this machine, its port ours.
PRELOAD = """\
const net = require("node:net"), dns = require("node:dns");
const ours = (host) => typeof host === "string" && host.endsWith(".localhost");
const connect = net.Socket.prototype.connect;
net.Socket.prototype.connect = function (...args) {
  const first = Array.isArray(args[0]) ? args[0][0] : args[0];
  if (ours(args[1])) [args[0], args[1]] = [POOLER_PORT, "127.0.0.1"];
  else if (first && ours(first.host) && first.host.includes(".pooler."))
    Object.assign(first, { host: "127.0.0.1", port: POOLER_PORT });
  return connect.apply(this, args);
};
for (const target of [dns, dns.promises]) {
  const lookup = target.lookup;
  target.lookup = function (host, ...rest) {
    return lookup.call(this, ours(host) && host.includes(".pooler.") ? "127.0.0.1" : host, ...rest);
  };
}
"""


@dataclass
class HostedProject:
    """One project: its ref, who signs in, and what was asked of it."""

    ref: str
    owner_url: str
    folder: Path
    asked: list[str] = field(default_factory=list)
    #: Sign-ins to the database, by user name, as the pooler saw them.
    sessions: list[str] = field(default_factory=list)
    api_port: int = 0
    pooler_port: int = 0

    def environment(self) -> dict[str, str]:
        """What a shell that signed in to Supabase holds."""
        profile = self.folder / "profile.yml"
        address = f"http://127.0.0.1:{self.api_port}"
        profile.write_text(
            f"name: standin\napi_url: {address}\ndashboard_url: {address}\ndocs_url: {address}\n"
            "project_host: localhost\npooler_host: pooler.localhost\n"
        )
        preload = self.folder / "preload.cjs"
        preload.write_text(PRELOAD.replace("POOLER_PORT", str(self.pooler_port)))
        return {
            "SUPABASE_PROFILE": str(profile),
            "SUPABASE_ACCESS_TOKEN": TOKEN,
            "SUPABASE_DB_PASSWORD": PASSWORD,
            "SUPABASE_TELEMETRY_DISABLED": "1",
            "DO_NOT_TRACK": "1",
            "BUN_OPTIONS": f"--preload {preload}",
            "PGSSLMODE": "disable",  # the pooler here has no certificate
        }

    def answer(self, method: str, path: str, authorization: str) -> tuple[int, Any]:
        """One answer of the Management API."""
        self.asked.append(f"{method} {path}")
        if authorization != f"Bearer {TOKEN}":
            return 401, {"message": "Unauthorized"}
        if f"/projects/{self.ref}" not in path:
            return 404, {"message": "Project not found"}
        if path.endswith("/cli/login-role"):
            if method == "POST":
                return 201, {"role": LOGIN_ROLE, "password": PASSWORD, "ttl_seconds": 300}
            return 200, {"message": "ok"}
        if path.endswith("/pooler"):
            url = f"postgresql://postgres.{self.ref}:[YOUR-PASSWORD]@{POOLER}:6543/postgres"
            return 200, [
                {
                    "identifier": self.ref,
                    "database_type": "PRIMARY",
                    "is_using_scram_auth": True,
                    "db_user": f"postgres.{self.ref}",
                    "db_host": POOLER,
                    "db_port": 6543,
                    "db_name": "postgres",
                    "connection_string": url,
                    "connectionString": url,
                    "default_pool_size": 15,
                    "max_client_conn": 200,
                    "pool_mode": "transaction",
                }
            ]
        if path.endswith(f"/projects/{self.ref}"):
            return 200, {
                "id": self.ref,
                "ref": self.ref,
                "organization_id": "standin",
                "organization_slug": "standin",
                "name": "standin",
                "region": "us-east-1",
                "created_at": "2026-01-01T00:00:00Z",
                "status": "ACTIVE_HEALTHY",
                "database": {
                    "host": f"db.{self.ref}.localhost",
                    "version": "17.6.1",
                    "postgres_engine": "17",
                    "release_channel": "ga",
                },
            }
        return 404, {"message": "Not found"}


@contextmanager
def hosted_project(ref: str, owner_url: str, folder: Path) -> Iterator[HostedProject]:
    """Serve one project whose database is at `owner_url`, as `postgres`."""
    project = HostedProject(ref, owner_url, folder)
    api = ThreadingHTTPServer(("127.0.0.1", 0), _management_api(project))
    project.api_port = api.server_port
    pooler = socket.create_server(("127.0.0.1", 0))
    project.pooler_port = pooler.getsockname()[1]
    threads = [
        threading.Thread(target=api.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True),
        threading.Thread(target=_accept, args=(pooler, project), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        yield project
    finally:
        api.shutdown()
        api.server_close()
        pooler.shutdown(socket.SHUT_RDWR)
        pooler.close()
        for thread in threads:
            thread.join(5)


def _management_api(project: HostedProject) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            status, body = project.answer(
                self.command, self.path, self.headers.get("authorization", "")
            )
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the test's output clean."""

    return Handler


def _accept(pooler: socket.socket, project: HostedProject) -> None:
    while True:
        try:
            client, _ = pooler.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(client, project), daemon=True).start()


def _serve(client: socket.socket, project: HostedProject) -> None:
    """One session of the pooler: `postgres.<ref>` becomes `postgres`, the rest goes through."""
    with client:
        startup = _startup(client)
        while startup is not None and struct.unpack("!I", startup[:4])[0] == SSL_REQUEST:
            client.sendall(b"N")
            startup = _startup(client)
        if startup is None:
            return
        words = startup[4:].rstrip(b"\0").split(b"\0")
        parameters = dict(zip(words[::2], words[1::2], strict=True))
        user, _, ref = parameters[b"user"].decode().partition(".")
        project.sessions.append(parameters[b"user"].decode())
        if ref != project.ref:
            message = b"SFATAL\0CXX000\0MTenant or user not found\0\0"
            client.sendall(b"E" + struct.pack("!I", len(message) + 4) + message)
            return
        there = conninfo_to_dict(project.owner_url)
        parameters |= {b"user": user.encode(), b"database": str(there["dbname"]).encode()}
        body = startup[:4] + b"".join(k + b"\0" + v + b"\0" for k, v in parameters.items()) + b"\0"
        address = (str(there["host"]), int(str(there["port"])))
        with socket.create_connection(address) as server:
            server.sendall(struct.pack("!I", len(body) + 4) + body)
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            back.join(5)


def _startup(client: socket.socket) -> bytes | None:
    head = client.recv(4, socket.MSG_WAITALL)
    if len(head) < 4:
        return None
    return client.recv(struct.unpack("!I", head)[0] - 4, socket.MSG_WAITALL)


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:  # the other side has closed already
        return
