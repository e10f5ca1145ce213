"""`make docs` builds the site of all pages, with a section for maintainers.

The build fails if the site would fetch a file from another host, or if a link is dead. This module
checks the links in the source pages, and MkDocs checks the links in the built site.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from minutehand.docs import PAGES

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
OUT = ROOT / "build" / "docs"
SCREENSHOTS = ROOT / "infra" / "console" / "screenshots"
#: Files of the pages for maintainers, except DECISIONS.md, by their names on the site.
MAINTAINERS: Mapping[str, str] = {
    "contributing": ".github/CONTRIBUTING.md",
    "tests": "tests/README.md",
    "measurements": "infra/bench/README.md",
    "threat-model": ".github/THREAT_MODEL.md",
    "security": ".github/SECURITY.md",
    "changelog": "CHANGELOG.md",
}
MODULES = ("minutehand.worker", "minutehand.client")
_LINK = re.compile(r"(?P<open>!?\[[^\]]*\])\((?P<target>[^)\s]+)\)")
_LISTED = re.compile(r"^- (.+): `minutehand docs (\S+)`$", re.M)
_FUNCTION = re.compile(
    r"create (?:or replace )?function public\.(?P<name>\w+)\((?P<arguments>.*?)\)\s*returns "
    r"(?P<returns>.*?)\s+language",
    re.S,
)
_COMMENT = re.compile(
    r"comment on function public\.(\w+)(?:\([^)]*\))? is\s+((?:E?'(?:[^']|'')*'\s*)+);"
)


class DeadLink(Exception):
    """A page contains a link to a file that does not exist."""


def main() -> int:
    """Write the pages, then build the site."""
    shutil.rmtree(OUT, ignore_errors=True)
    number = write_pages(OUT / "pages")
    # do not pass --quiet, because --quiet hides warnings, and MkDocs reports a dead link as a
    # warning
    built = subprocess.run(
        ["mkdocs", "build", "-f", OUT / "mkdocs.yml"],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    if built.returncode:
        print(*(line for line in built.stderr.splitlines() if "INFO" not in line), sep="\n")
        return built.returncode
    if addresses := sorted(foreign_addresses(OUT / "site")):
        print("the site fetches from other hosts:", *addresses, sep="\n  ")
        return 1
    print(f"{number} pages: {OUT / 'site' / 'index.html'}")
    return 0


def write_pages(folder: Path) -> int:
    """Write the site's pages and configuration, and return the number of pages.

    Raises:
        DeadLink: A page contains a link to a file that does not exist.
    """
    folder.mkdir(parents=True)
    shutil.copytree(SCREENSHOTS, folder / "img")
    names = {ROOT / page.path: f"{page.topic}.md" for page in PAGES}
    maintainers = {**MAINTAINERS}
    maintainers |= {f"decisions-{Path(file).parent.name}": file for file in decisions()}
    names |= {ROOT / file: f"{name}.md" for name, file in maintainers.items()}
    nav: dict[str, list[str]] = {}
    for page in PAGES:
        _write(folder, f"{page.topic}.md", site_links(page.text, ROOT / page.path, names))
        nav.setdefault(page.section, []).append(f'"{page.title}": {page.topic}.md')
    _write(folder, "sql-functions.md", sql_reference())
    listed = (ROOT / "infra" / "console" / "llms.txt").read_text()
    _write(folder, "llms.txt", _LISTED.sub(r"- [\1](\2.html)", listed))
    for module in MODULES:
        _write(folder, f"{module}.md", f"# {module}\n\n::: {module}\n")
    nav["Reference"] += ["SQL functions: sql-functions.md", *(f"{m}: {m}.md" for m in MODULES)]
    for name, file in maintainers.items():
        path = ROOT / file
        _write(folder, f"{name}.md", site_links(path.read_text(), path, names))
    nav["For maintainers"] = [f"{name}.md" for name in maintainers]
    lines = [f"  - {part}:\n" + "".join(f"    - {page}\n" for page in nav[part]) for part in nav]
    configuration = (HERE / "mkdocs.yml").read_text().replace("../../build/docs/", "")
    configuration = configuration.replace("../../shared", str(ROOT / "shared"))
    (folder.parent / "mkdocs.yml").write_text(f"{configuration}nav:\n{''.join(lines)}")
    return len(list(folder.glob("*.md")))


def decisions() -> Iterator[str]:
    """Yield the paths of all DECISIONS.md, except those of apps."""
    for path in sorted([*ROOT.glob("shared/**/DECISIONS.md"), *ROOT.glob("infra/*/DECISIONS.md")]):
        if "minutehand_apps" not in path.parts:
            yield path.relative_to(ROOT).as_posix()
    yield "supabase/DECISIONS.md"


def _write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)


def site_links(text: str, page: Path, names: Mapping[Path, str]) -> str:
    """Rewrite a page's links for the site.

    If the site does not contain the file of a link, the link is replaced by its text.
    """

    def link(match: re.Match[str]) -> str:
        target, _, anchor = match["target"].partition("#")
        if re.match(r"[a-z]+:", target) or not target:
            return match[0]
        path = (page.parent / target).resolve()
        if not path.exists():
            raise DeadLink(f"{page.relative_to(ROOT)}: {match['target']}")
        if path.parent == SCREENSHOTS:
            return f"{match['open']}(img/{path.name})"
        if path not in names:
            return match["open"].strip("![]")
        return f"{match['open']}({names[path]}{'#' + anchor if anchor else ''})"

    return _LINK.sub(link, text)


def sql_reference() -> str:
    """Write the reference of SQL functions for clients, workers and operators from SQL comments."""
    sources = sorted((ROOT / "supabase" / "schemas").glob("*.sql"))
    text = "\n".join(path.read_text() for path in sources)
    signatures = {match["name"]: match for match in _FUNCTION.finditer(text)}
    comments = {name: _unquote(literals) for name, literals in _COMMENT.findall(text)}
    parts = ["# SQL functions\n\nIn the clients' schema, `minutehand` unless you chose another.\n"]
    for name in sorted(comments.keys() & signatures.keys()):
        match = signatures[name]
        arguments = " ".join(match["arguments"].split()).replace("public.", "minutehand.")
        signature = f"`{name}({arguments}) → {match['returns']}`"
        parts.append(f"\n## {name}\n\n{signature}\n\n{comments[name]}\n")
    return "".join(parts)


def _unquote(literals: str) -> str:
    """Return the text of adjacent string literals in SQL, which Postgres joins."""
    parts = re.findall(r"(E?)'((?:[^']|'')*)'", literals)
    has_escapes = any(mark for mark, _ in parts)
    text = "".join(part for _, part in parts).replace("''", "'").replace("<", "&lt;")
    return text.replace("\\n", "\n") if has_escapes else text


def foreign_addresses(site: Path) -> Iterator[str]:
    """Yield the addresses of other hosts from which pages of the site would fetch files."""
    for page in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img)[^>]+>", page.read_text()):
            match = re.search(r"(?:src|href)=\"?(?:https?:)?(//[^\"\s>]+)", tag)
            if match and 'rel="canonical"' not in tag:
                yield f"{page.name}: {match[1]}"


if __name__ == "__main__":
    sys.exit(main())
