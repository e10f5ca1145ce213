"""A user's project that is installed from the wheel, with its own organizations as tenants."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from minutehand.version import VERSION
from tests.support.paths import ROOT
from tests.support.shared import made_once

if TYPE_CHECKING:  # all tests import this module
    from infra.release.wheels import Environment

FIRST_SQL = """\
create table public.organizations (
  id uuid primary key default gen_random_uuid(),
  name text not null
);
create table public.memberships (
  organization_id uuid not null references public.organizations (id) on delete cascade,
  user_id uuid not null references auth.users (id) on delete cascade,
  role text not null default 'member',
  primary key (organization_id, user_id)
);
create table public.jobs (id bigint generated always as identity primary key, title text not null);
create table public.accounts (id uuid primary key default gen_random_uuid(), iban text);
alter table public.organizations enable row level security;
alter table public.memberships enable row level security;
alter table public.jobs enable row level security;
alter table public.accounts enable row level security;
create extension if not exists citext with schema extensions;
create extension if not exists pg_net;
alter table public.accounts add column email extensions.citext unique;
insert into storage.buckets (id, name, public) values ('cakes', 'cakes', true);
create policy "own folder" on storage.objects for select to authenticated
  using (bucket_id = 'cakes' and (select auth.uid())::text = (storage.foldername(name))[1]);
create policy "everybody reads adverts" on public.jobs
  for select to anon, authenticated using (true);
grant select on public.jobs to anon, authenticated;
insert into public.jobs (title) values ('Baker');
"""
#: Two users with passwords, created as tutorials do, each with an organization.
SEED = """\
insert into auth.users (instance_id, id, aud, role, email, encrypted_password, email_confirmed_at,
  raw_app_meta_data, raw_user_meta_data, created_at, updated_at, confirmation_token)
select '00000000-0000-0000-0000-000000000000', id, 'authenticated', 'authenticated', email,
  extensions.crypt('password123', extensions.gen_salt('bf')), now(), '{{}}', '{{}}', now(), now(),
  '' from (values ('{ADA}'::uuid, 'ada@acme.test'), ('{EVE}', 'eve@globex.test')) as _ (id, email);
insert into public.organizations values ('{ACME}', 'Acme'), ('{GLOBEX}', 'Globex');
insert into public.memberships values
  ('{ACME}', '{ADA}', 'owner'), ('{GLOBEX}', '{EVE}', 'owner');
"""
SECOND_SQL = "alter table public.accounts add column owner uuid references auth.users (id);\n"
CONFIG = 'project_id = "bakery"\n\n[api]\nschemas = ["public"]\n\n[db]\nmajor_version = 17\n'


def bakery(folder: Path) -> Path:
    """Write a user's project with organizations, a seed, a table named jobs and extensions.

    One of its migrations is dated tomorrow.
    """
    from tests.support import engine

    tomorrow = datetime.now(UTC) + timedelta(days=1)
    files = {
        "supabase/migrations/20250101120000_create_bakery.sql": FIRST_SQL,
        f"supabase/migrations/{tomorrow:%Y%m%d%H%M%S}_own_accounts.sql": SECOND_SQL,
        "supabase/seed.sql": SEED.format_map(vars(engine)),
        "supabase/config.toml": CONFIG,
    }
    write_files(folder, files)
    return folder


def write_files(folder: Path, files: dict[str, str]) -> None:
    """Write files by their paths in a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


#: The install options that make the project's organizations the tenants.
THEIRS = (
    *("--tenancy", "existing", "--organizations", "organizations(id,name)"),
    *("--memberships", "memberships(organization_id,user_id,role)"),
)


@dataclass(frozen=True)
class Stranger:
    """A user's project, and the Python environment that installed it."""

    environment: Environment
    folder: Path

    def copy(self, folder: Path) -> Stranger:
        """Copy the project to a folder in which it may be changed."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Stranger(self.environment, folder)

    def sh(self, script: str, **environ: str) -> str:
        """Run a shell script in the project's folder, and return the output."""
        path = f"{self.environment.python.parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-ec", script],
            cwd=self.folder,
            env={"PATH": path, "HOME": os.environ["HOME"], **environ},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the wheels of this release and the copied checkout."""
    from infra.release.wheels import build_wheels, checkout_copy

    def build(folder: Path) -> None:
        build_wheels(checkout_copy(folder / "source"), folder / VERSION)

    return made_once(tmp_path_factory, "wheel", build)


@pytest.fixture(scope="session")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A Python environment with the wheel of this release."""
    return environment_of(tmp_path_factory, wheel / VERSION)


@pytest.fixture(scope="session")
def stranger(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """The user's project, which tests only read.

    `copy` returns a project that a test may change.
    """

    def install(folder: Path) -> None:
        bakery(folder)
        environment.minutehand(folder, "install", *THEIRS, "--package", "work")
        shutil.copyfile(ROOT / "requirements.lock", folder / "requirements.lock")

    return Stranger(environment, made_once(tmp_path_factory, "bakery", install))


def environment_of(factory: pytest.TempPathFactory, wheels: Path) -> Environment:
    """Return a Python environment with a folder's wheel, and with packages as from npm and PyPI."""
    from infra.release.wheels import Environment

    def make(folder: Path) -> None:
        made = Environment.make(folder / "venv", wheels)
        made.cache.mkdir()
        home = "import os; from minutehand.node import _cache_folder as f; print(f(os.environ))"
        asked = made.run(folder, "-c", home).stdout.strip()
        Path(asked).mkdir(parents=True)
        for name in ("node_modules", "package.json"):
            Path(asked, name).symlink_to(ROOT / name)
        uv = Path(os.environ.get("UV_CACHE_DIR", Path.home() / ".cache" / "uv"))
        (made.cache / "uv").symlink_to(uv)
        (made.python.parent / "uv").symlink_to(Path(sys.executable).with_name("uv"))

    folder = made_once(factory, f"environment-{wheels.name}", make)
    return Environment(folder / "venv")
