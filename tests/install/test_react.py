"""A single-user app with React: from wheel and archive to a result on its page, and out again."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Error, expect, sync_playwright

from infra.bench.scratch import PUBLISHABLE_KEY
from infra.release.upgrades import WORK
from infra.release.wheels import Environment
from tests.e2e.console.browsers import FLAGS, chromium
from tests.install.projects import ADA, EVE, Api, Hosted, data_api
from tests.install.second import THIS_FILE
from tests.install.test_projects import (
    add_leads,
    check_leads,
    check_stranger,
    remove,
    run_drained,
    upgrade_to_second,
    with_own_table,
)
from tests.support.paths import ROOT
from tests.support.stranger import Stranger

#: Beside what `Stranger` has.
REACT = (
    "react@19.3.1", "react-dom@19.3.1", "@types/react@19.3.0", "@types/react-dom@19.3.0",
    "esbuild@0.28.2",
)  # fmt: skip
SUPABASE = f"""\
import {{ createClient }} from "@supabase/supabase-js";
export const supabase = createClient("URL", "{PUBLISHABLE_KEY}");
"""
MAIN = """\
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Greet } from "./greet.js";
import { supabase } from "./supabase.js";

const person = { email: "react@acme.test", password: "password123" };
const { data, error } = await supabase.auth.signUp(person);
const root = createRoot(document.getElementById("root")!);
root.render(
  <StrictMode>{error?.message ?? <Greet workspace_id={data.user!.id} />}</StrictMode>,
);
"""
JOB_TYPES = """\
import "minutehand";
declare module "minutehand" {
  interface JobTypes {
    "jobs.hello": { payload: { name: string }; result: { greeting: string } };
  }
}
"""
#: Chromium, the Data API and a compiler at once: Playwright's own 5 s are for a machine at rest.
PATIENCE_MS = 60_000
HTML = '<div id="root"></div><script type="module" src="app.js"></script>'


def test_a_react_app_for_single_users(
    environment: Environment, newer: Environment, hosted: Hosted, npm_archive: Path, tmp_path: Path
) -> None:
    """Each user is a tenant by the same id; no table says so."""
    web = Stranger.make(tmp_path, npm_archive, *REACT)
    with hosted.database() as database:
        before = database.everything()
        environment.minutehand(tmp_path, "install", "--yes", "--tenancy", "personal")
        with_own_table(environment, tmp_path, "owner uuid references auth.users")
        assert THIS_FILE in database.push(tmp_path)
        database.sign_up()
        with data_api(database, "minutehand") as api:
            ada = api.of(ADA)
            add_leads(database, ADA, EVE)
            run_drained(environment, tmp_path, ada, ADA, api.env)
            check_leads(ada, database)
            check_stranger(ada, api.of(EVE), ADA)
            assert ada.rows("workspaces") == [{"id": ADA, "name": "ada@acme.test"}]
            run_their_page(environment, web, api)
        upgrade_to_second(newer, tmp_path, database)
        database.run("delete from auth.users where id <> %s", EVE)
        assert database.run("select count(*) from minutehand.jobs") == [(0,)]

        remove(newer, tmp_path, database)
        assert database.everything() == before


def run_their_page(environment: Environment, web: Stranger, api: Api) -> None:
    """The README's component in Chromium: its user signs up, enqueues and sees the result."""
    readme = (ROOT / "infra/console/npm/README.md").read_text("utf-8")
    [component] = re.findall(r"```tsx\n(.*?)```", readme, re.DOTALL)
    for name, text in {"greet.tsx": component, "supabase.ts": SUPABASE, "main.tsx": MAIN}.items():
        (web.folder / name).write_text(text.replace("URL", api.url))
    (web.folder / "jobs.d.ts").write_text(JOB_TYPES)
    assert web.compile("main.tsx") == ""
    bundle = ("main.tsx", "--bundle", "--format=esm", "--jsx=automatic", "--outfile=out/app.js")
    web.node("esbuild/bin/esbuild", *bundle)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page, errors = browser.new_page(), list[Error]()
        page.on("pageerror", lambda error: errors.append(error))
        page.set_default_timeout(PATIENCE_MS)
        page.route("**/app/", lambda route: route.fulfill(content_type="text/html", body=HTML))
        page.route("**/app.js", lambda route: route.fulfill(path=web.folder / "out/app.js"))
        page.goto(f"{api.url}/app/")  # a page of another address space may not call loopback
        button = page.get_by_role("button")
        expect(button).to_have_text("Greet", timeout=PATIENCE_MS)
        button.click()
        expect(button).to_have_text("pending", timeout=PATIENCE_MS)
        environment.run(web.folder, "-c", WORK, env=api.env)
        expect(button).to_have_text("Hello, Ada!", timeout=PATIENCE_MS)
        assert errors == []
        browser.close()
