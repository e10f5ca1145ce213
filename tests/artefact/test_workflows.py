"""GitHub workflows run none of our code with a token that may write."""

import yaml

from tests.support.paths import ROOT

#: Programs that a job with a writing token may start, because they run none of our code.
HARMLESS = {"(cd", "gh", "sha256sum"}


def test_what_may_write_runs_nothing_that_was_resolved_or_built() -> None:
    """A workflow job with a writing token starts only listed programs.

    A hijacked package therefore gets no token that can publish.
    """
    writing = set()
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        workflow = yaml.safe_load(path.read_text())
        for name, job in workflow["jobs"].items():
            if "write" not in job.get("permissions", workflow["permissions"]).values():
                continue
            writing.add((path.name, name))
            for step in job["steps"]:
                assert step.get("uses", "actions/").startswith("actions/"), path
                assert "setup-python" not in step.get("uses", ""), path
                for line in step.get("run", "").splitlines():
                    assert line.split()[0] in HARMLESS, (path, line)

    assert writing == {("release.yml", "publish")}
