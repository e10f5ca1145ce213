"""The files of a project's folder that the packager links into a build."""

from pathlib import Path

from minutehand.deploy.package import _mirror


def test_no_secret_is_linked_into_the_build(tmp_path: Path) -> None:
    """The packager does not link secrets and settings files into the build."""
    root, service = tmp_path / "shop", tmp_path / "service"
    root.mkdir()
    for name in ("serverless.yml", "alarms.yml", "secrets.env", "prod.env", "key.json", ".env"):
        (root / name).write_text("x: 1")

    _mirror(root, service)

    assert sorted(path.name for path in service.iterdir()) == ["alarms.yml", "serverless.yml"]
