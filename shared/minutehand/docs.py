"""The pages for users, whose examples can be printed with a project's own names.

In their sources, the pages' examples use the names of the default install, of its first job type
and of the demo's workspace. The website (`make docs`) and `minutehand docs` show the same pages.
"""

import posixpath
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from minutehand.install.rewrite import Schemas
from minutehand.resources import PACKAGE, checkout

DEFAULT = Schemas("minutehand")
TENANT = "11111111-1111-4111-8111-111111111111"
JOB_TYPE = "jobs.hello"
PACKAGE_NAME = "jobs"

_SQL = re.compile(r"^[ ]*```sql\n.*?```|`(?:select|insert|update|delete|alter) [^`]+`", re.S | re.M)
#: Pattern of places in a page, outside of SQL, that name the schema of clients, e.g. a call, a
#: table, `.schema("minutehand")` or `-n minutehand`.
_CLIENTS = re.compile(
    r'(?<![\w.])minutehand(?=\.(?:\w+\(|job|workspace))|(?<=chema\(")minutehand(?=")'
    r'|(?<=chema\(supabase, ")minutehand(?=")|(?<= -n )minutehand\b|(?<=df\+ )minutehand(?=\.)'
)
_CODE = re.compile(r"^[ ]*```\w*\n.*?```|`[^`\n]+`", re.S | re.M)


@dataclass(frozen=True)
class Names:
    """Names of a project that replace the names in the pages' examples."""

    schemas: Schemas = DEFAULT
    tenant: str = TENANT
    package: str = PACKAGE_NAME
    job_type: str = JOB_TYPE
    #: Name of the column with the tenant's id in the project's own tables.
    tenant_column: str = "tenant_id"


@dataclass(frozen=True)
class Page:
    """A page for users, with its topic in `minutehand docs` and its path in the checkout."""

    topic: str
    section: str
    title: str
    path: str

    @cached_property
    def file(self) -> Path:
        """File of the page, in the checkout or in the wheel."""
        if (root := checkout()) is not None:
            return root / self.path
        path_in_package = self.path.removeprefix("shared/minutehand/")
        if path_in_package != self.path:
            return PACKAGE / path_in_package
        return PACKAGE / "resources" / "docs" / f"{self.topic}.md"

    @property
    def text(self) -> str:
        """Text of the page, without sections that apply only to a checkout of the repository."""
        text = self.file.read_text("utf-8")
        return re.sub(r"<!-- clone -->\n.*?<!-- /clone -->\n", "", text, flags=re.DOTALL)

    @property
    def printed(self) -> str:
        """Text of the page for a terminal, without pictures.

        A link to a page is replaced by the page's topic.
        """
        text = re.sub(r"^!\[.*\n", "", self.text, flags=re.MULTILINE)
        return re.sub(r"\[([^\]]+)\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", self._by_topic, text)

    def _by_topic(self, link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(self.path), link[2]))
        page = next((page for page in PAGES if page.path == path and page is not self), None)
        return f"{link[1]} (`minutehand docs {page.topic}`)" if page and link[2] else link[1]


_SOURCE = "shared/minutehand"
#: Pages in their order on the website. A page outside of this package must also be in
#: `infra/release/resources.py`.
PAGES: tuple[Page, ...] = (
    Page("index", "Start", "Which page answers what", "infra/docs/index.md"),
    Page("install", "Start", "Into your project", f"{_SOURCE}/install/README.md"),
    Page("adopt", "Start", "From pg_cron, pg-boss, pgmq, Inngest", f"{_SOURCE}/pages/adopt.md"),
    Page("celery", "Start", "From Celery", f"{_SOURCE}/pages/celery.md"),
    Page("concepts", "Start", "Concepts", f"{_SOURCE}/pages/concepts.md"),
    Page("promises", "Start", "Guarantees and limits", f"{_SOURCE}/pages/promises.md"),
    Page("local", "Start", "On your machine", f"{_SOURCE}/local/README.md"),
    Page("sql", "Guides", "Enqueue and steer in SQL", "supabase/README.md"),
    Page("http", "Guides", "Over HTTP", "functions/README.md"),
    Page(
        "recipes", "Guides", "From your app: Next.js, Edge, FastAPI", f"{_SOURCE}/pages/recipes.md"
    ),
    Page("nextjs", "Guides", "A streaming chat in Next.js", f"{_SOURCE}/pages/nextjs.md"),
    Page("processors", "Guides", "Write a processor", f"{_SOURCE}/worker/README.md"),
    Page("own-data", "Guides", "Your own tables", f"{_SOURCE}/pages/own_data.md"),
    Page("app", "Guides", "An app from the library's parts", f"{_SOURCE}/pages/app.md"),
    Page("browser", "Guides", "Show a job in your page", "infra/console/README.md"),
    Page("npm", "Guides", "The npm package", "infra/console/npm/README.md"),
    Page("webhooks", "Guides", "Webhooks", f"{_SOURCE}/webhooks/README.md"),
    Page("durable", "Guides", "Beside Lambda durable functions", f"{_SOURCE}/pages/durable.md"),
    Page("agents", "Guides", "For coding agents", f"{_SOURCE}/pages/agents.md"),
    Page("skill", "Guides", "The skill file for agents", f"{_SOURCE}/pages/SKILL.md"),
    Page("models", "Guides", "Language models and speech", f"{_SOURCE}/ai/README.md"),
    Page("context", "Reference", "ctx, and what a processor uses", f"{_SOURCE}/worker/CONTEXT.md"),
    Page("cli", "Reference", "The command", f"{_SOURCE}/cli/README.md"),
    Page("aws", "Operate", "On AWS", "infra/aws/README.md"),
    Page("container", "Operate", "Without AWS", "infra/container/README.md"),
    Page("deploys", "Operate", "Deploys, and running jobs", f"{_SOURCE}/pages/deploys.md"),
    Page("data", "Operate", "Staging, backup, a person's data", f"{_SOURCE}/pages/data.md"),
)


def render(text: str, names: Names) -> str:
    """Replace the names in a page's examples by the names of a project."""
    folder = names.package.replace(".", "/")

    def rename_in_sql(match: re.Match[str]) -> str:
        sql = re.sub(r"(?<![\w.])minutehand_engine(?=\.\w)", names.schemas.engine, match[0])
        return re.sub(r"(?<![\w.])minutehand(?=\.\w)", names.schemas.clients, sql)

    def rename_in_code(match: re.Match[str]) -> str:
        code = re.sub(r"\bminutehand_engine\b", names.schemas.engine, match[0])
        code = _CLIENTS.sub(names.schemas.clients, code)
        code = code.replace(TENANT, names.tenant).replace(JOB_TYPE, names.job_type)
        code = code.replace("tenant_id", names.tenant_column)
        pattern = r"\bjobs(?=/(?:processors|tests|`))|(?<=COPY |test )jobs|(?<=COPY jobs )jobs"
        return re.sub(pattern, folder, code)

    return _CODE.sub(rename_in_code, _SQL.sub(rename_in_sql, text))
