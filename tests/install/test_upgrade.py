"""What `minutehand upgrade` adds to a project, and where it stops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from minutehand.install.sources import (
    changelog,
    installed,
    ordinal,
    sections_between,
)
from minutehand.install.tenancy import (
    Existing,
    existing,
)
from minutehand.install.upgrade import plan_upgrade, tenants_of
from minutehand.project import Project
from minutehand.version import VERSION
from tests.install.second import THIS_FILE
from tests.install.test_install import NOON, install, run


def test_an_upgrade_adds_what_apps_have_by_now(tmp_path: Path) -> None:
    """And says what has changed since the newest of the files that are there."""
    install(tmp_path, apps=("training",), tenants=existing("app.orgs.uid", "app.seats(org,person)"))
    [file] = (tmp_path / "supabase/migrations").glob("*.sql")
    text = file.read_text()
    last = text.rindex("\n-- minutehand: training/") + 1
    part = text[last:].partition("\n-- minutehand: ")[0]
    file.write_text(text.replace(part, "").replace(f"minutehand {VERSION}.", "minutehand 0.0.1."))

    upgrade = plan_upgrade(tmp_path, now=NOON)

    [write] = upgrade.writes
    assert write.path.name.endswith(f"{THIS_FILE}_training.sql")
    assert write.text.endswith(part)
    assert (upgrade.since, upgrade.changes) == (
        "0.0.1",
        sections_between(changelog(), "0.0.1", VERSION),
    )
    assert changelog().startswith("# Changelog")


def test_a_tenancy_that_its_owner_rewrote_is_taken_for_the_usual_tables(tmp_path: Path) -> None:
    """Without the triggers that name its table and key."""
    install(tmp_path, tenants=existing("app.orgs.uid", "app.seats(org,person)"))
    [part] = [each for each in installed(tmp_path) if each.origin.startswith("tenancy/")]
    project = Project.at(tmp_path)

    def found(text: str) -> tuple[str, str]:
        tenants = tenants_of(project, [replace(part, text=text)])
        assert isinstance(tenants, Existing)
        return tenants.organization, tenants.key

    assert found(part.text) == ("app.orgs", "uid")
    assert found("create view minutehand_engine.tenants as select 1") == (
        "public.organizations",
        "id",
    )
    assert tenants_of(project, []) == Existing()


def test_an_edited_file_stops_an_upgrade(tmp_path: Path) -> None:
    """It says which and how to go on; kept as it is only when that is asked for."""
    install(tmp_path)
    [edited] = (tmp_path / "supabase/migrations").glob("*.sql")
    text = edited.read_text()
    last = text.rindex("\n-- minutehand: engine/")
    edited.write_text(text[:last].replace("create table minutehand.jobs (", "create table jobs ("))

    refused = run("upgrade", str(tmp_path), code=1)
    assert (refused["code"], edited.name in refused["fix"]) == ("edited", True)
    tried = run("upgrade", str(tmp_path), "--keep-edited", "--dry-run")
    assert (tried["written"], len(tried["planned"])) == ([], 1)
    assert len(installed(tmp_path)) == text.count("\n-- minutehand: ") - 1
    [name] = run("upgrade", str(tmp_path), "--keep-edited")["written"]
    assert (tmp_path / name).read_text().endswith(text[last + 1 :])
    assert "create table jobs (" in edited.read_text()


def test_an_upgrade_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    """No install, a newer one, or files of another build under the same name."""
    for command, fix in (("upgrade", "minutehand install"), ("uninstall", "name the project's")):
        refused = run(command, str(tmp_path), code=1)
        assert (refused["code"], fix in refused["fix"]) == ("not_installed", True)
        assert refused["error"] == f"no migration of {tmp_path} was installed by Minutehand"
    install(tmp_path)
    toml = tmp_path / "minutehand.toml"
    answers = toml.read_text()
    toml.write_text(answers.replace('schema = "minutehand"', 'schema = "elsewhere"'))
    assert run("upgrade", str(tmp_path), code=1)["code"] == "other_build"
    toml.write_text("[")
    assert run("upgrade", str(tmp_path), code=1)["code"] == "bad_settings"
    toml.write_text(answers)
    [path] = (tmp_path / "supabase/migrations").glob("*.sql")
    header = f"minutehand {VERSION}."
    path.write_text(path.read_text().replace(header, "minutehand 99.10.0."))
    older = path.read_text().replace("minutehand 99.10.0.", "minutehand 99.9.0.")
    path.with_name("20261121120001_older.sql").write_text(older)
    assert run("upgrade", str(tmp_path), code=1)["fix"] == 'pip install "minutehand>=99.10.0"'


def test_the_changelog_is_cut_between_two_versions() -> None:
    """What is not released yet is not told."""
    newest = "# Changelog\n\n## [Unreleased]\n- d\n\n## [0.10.0] - x\n- c\n\n"
    text = f"{newest}## [0.9.1]\n- b\n\n[0.9.1]: https://x\n\n## 0.9.0\n- a\n"

    assert sections_between(text, "0.9.0", "0.10.0") == "## [0.10.0] - x\n- c\n\n## [0.9.1]\n- b"
    assert sections_between(text, "0.10.0", "0.10.0") == ""
    assert ordinal("0.10.0") == (0, 10, 0) > ordinal("0.9.1rc2") == (0, 9, 1)
