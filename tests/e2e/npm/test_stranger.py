"""The packed npm package in a user's project: installed, compiled strictly and run."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from minutehand.local.users import ADA
from minutehand.node import node_binary
from tests.e2e.console.worker import HandWorker
from tests.e2e.npm.stranger import REACTS, Stranger
from tests.support.pages import blocks
from tests.support.paths import ROOT
from tests.support.stacks import RunningStack
from tests.support.stranger import write_files

README = (ROOT / "infra/console/npm/README.md").read_text()
FOLLOW, TYPES, WORDS, *_ = blocks(README, "ts")

PRELUDE = """\
declare const process: { env: Record<string, string>; exit(code: number): never };
const {
  url = "", key = "", email = "", password = "", workspace_id = "",
} = process.env;
"""


CLOSED = """\
import { client } from "./supabase.js";
import {
  enqueue, enqueueMany, emitEvent, outputOf, replay, waitAll, watchJob, watchJobs,
} from "minutehand";
import "minutehand/element";
const to = { workspace_id: "w" };
watchJobs(client, { ...to, mine: true, status: "failed", state: ["queued"] }, {
  onEnd: ({ status, glimpse }) => console.log(status, glimpse),
});
// @ts-expect-error no such filter
watchJobs(client, { workspce_id: "w" });
// @ts-expect-error no such status
watchJobs(client, { ...to, status: "done" });
const later: string | undefined = undefined;
await enqueue(client, "any", {}, {
  ...to, scheduled_for: later, unique: undefined, schema: undefined,
});
const { jobs } = await enqueueMany(client, [{ job_type: "any", payload: { n: 1 } }], to);
await emitEvent(client, "paid", undefined, to);
await replay(client, "id", { from_step: later });
watchJobs(client, to, { onChange: ({ jobs: [job] }) => console.log(job?.id) });
const said = outputOf(client, "id", "reply", { from: 3, signal: AbortSignal.abort() });
for await (const { text, items } of said) console.log(text?.length, items?.[0]);
watchJob(client, "id", { onOutput: ({ facts }) => console.log(facts[0].at) });
export const ended = await waitAll(client, jobs.map(({ job }) => job.id));
// @ts-expect-error a result that no one described may be null
export const result: {} = ended[0].result;
document.addEventListener("jobend", ({ detail }) => console.log(detail.job?.status));
window.addEventListener("jobchange", ({ detail }) => console.log(detail.job?.id));
"""
#: Uses of declared job types. The wrong ones must not compile.
STRICT = """\
import { client } from "./supabase.js";
import { enqueue, outputOf, watchJob } from "minutehand";
import { JobChatTransport } from "minutehand/ai-sdk";
const to = { workspace_id: "w" };
const { job } = await enqueue(client, "invoices.mail", { invoice: 1 }, to);
export const sent: string[] | undefined = job.result?.sent_to;
// @ts-expect-error no such job type
await enqueue(client, "invoices.male", { invoice: 1 }, to);
// @ts-expect-error a payload of another shape
await enqueue(client, "invoices.mail", { invoice: "1" }, to);
watchJob<"chat.reply">(client, "id", { onOutput: ({ reply }) => reply?.at(0) });
// @ts-expect-error no such stream
watchJob<"chat.reply">(client, "id", { onOutput: ({ replies }) => replies });
// @ts-expect-error no such stream
outputOf<"chat.reply">(client, "id", "replies");
// @ts-expect-error a type without output
watchJob<"invoices.mail">(client, "id", { onOutput: ({ reply }) => reply.trim() });
// @ts-expect-error a payload of another type
new JobChatTransport(client, "invoices.mail", { ...to, payload: () => ({ n: 1 }) });
// @ts-expect-error the default payload is not this type's
new JobChatTransport(client, "invoices.mail", to);
const payload = () => ({ invoice: 1 });
new JobChatTransport(client, "invoices.mail", { ...to, payload });
"""
#: Declarations that a page needs around the example.
LIVE = """\
import { supabase } from "./supabase.js";
import { watchJob } from "minutehand";
declare const page: HTMLElement, id: string;
"""
#: Declarations that a Stripe route needs around the example.
STRIPE = """\
import { createClient } from "@supabase/supabase-js";
declare const process: { env: Record<string, string | undefined> };
declare const url: string, webhookSecret: string, tenant: string;
declare const stripe: { webhooks: { constructEvent(body: string, signature: string, secret: string):
  { data: { object: { id: string; amount: number } } } } };
"""
SOLID = """\
/** @jsxImportSource solid-js */
import { client } from "./supabase.js";
import type {} from "minutehand/solid";
export const Job = () => (
  <minutehand-job client={client} job-id="id" on:jobend={({ detail }) => detail.job?.status} />
);
"""
#: Uses of the element's types for Svelte and Vue. The wrong one must not compile.
FRAMEWORKS = """\
import type { SvelteHTMLElements } from "svelte/elements";
import type { GlobalComponents } from "vue";
import type {} from "minutehand/svelte";
import type {} from "minutehand/vue";
type Svelte = SvelteHTMLElements["minutehand-job"];
type Vue = InstanceType<GlobalComponents["minutehand-job"]>["$props"];
export const svelte: Svelte = { "job-id": "id", onjobend: ({ detail }) => detail.job?.status };
export const vue: Vue = { "job-id": "id", onJobend: ({ detail }) => detail.job?.status };
// @ts-expect-error an id is a text
export const wrong: (Svelte & Vue)["job-id"] = 3;
"""


@pytest.fixture(scope="module")
def typed(stranger: Stranger) -> Stranger:
    """The user's project with the README's job types, and the examples that no test runs."""
    server = 'import type { SupabaseClient } from "@supabase/supabase-js";\n'
    server += "declare function createClient(): Promise<SupabaseClient>;\n"
    [component] = blocks(README, "tsx")
    recipes = ROOT / "shared/minutehand/pages/recipes.md"
    action, webhook = blocks(recipes.read_text(), "ts")
    [live] = blocks((ROOT / "README.md").read_text(), "ts")
    texts = {
        "jobs.d.ts": f'import "minutehand";\n{TYPES}',
        "component.tsx": component,
        "words.ts": WORDS,
        "webhook.ts": STRIPE + webhook,
        "action.ts": server + action,
        "live.ts": LIVE + live,
    }
    write_files(stranger.folder, texts)
    return stranger


@pytest.fixture
def mail(stack: RunningStack) -> Iterator[HandWorker]:
    """A worker of the project's only job type, which the test controls."""
    with HandWorker(stack, stack.demo_workspace_id, job_type="invoices.mail") as hand:
        yield hand


def test_the_package_has_no_dependencies_and_its_only_side_effect_is_the_element(
    unpacked: Path,
) -> None:
    package = json.loads((unpacked / "package.json").read_text())
    imported = {
        name
        for file in unpacked.rglob("*.js")
        for name in re.findall(r'^(?:import|export) .*? from "([^"]+)";', file.read_text(), re.M)
        if file.name not in {"ai-sdk.js", "react.js"}
    }

    assert "dependencies" not in package
    # This import defines the element. A bundler would otherwise drop an import without names.
    assert package["sideEffects"] == ["./element.js"]
    assert {name for name in imported if not name.startswith(".")} == set()


@pytest.mark.weekly(only=True)
@pytest.mark.parametrize("react", REACTS[:-1])
def test_a_component_compiles_with_older_types_of_react(typed: Stranger, react: str) -> None:
    assert typed.compile("component.tsx", react=react) == ""


def test_without_declared_job_types_only_valid_options_compile(stranger: Stranger) -> None:
    """Without declared job types, any job type compiles, and the element in other frameworks.

    Invalid options do not compile.
    """
    files = {"closed.ts": CLOSED, "solid.tsx": SOLID, "frameworks.ts": FRAMEWORKS}
    write_files(stranger.folder, {"none.d.ts": "export {};\n", **files})

    assert stranger.compile(*files, types="none.d.ts") == ""


def test_the_readme_s_program_sees_its_job_live_to_completed(
    typed: Stranger, stack: RunningStack, mail: HandWorker
) -> None:
    """The README's program compiles strictly and follows a job to its end.

    All examples and the types of React compile. Other payloads, types and streams do not.
    """
    program = f"{PRELUDE}{FOLLOW}process.exit(0);\n"
    # The jobs of this stack are in the schema `public`.
    program = program.replace('(supabase, "minutehand")', '(supabase, "public")')
    write_files(typed.folder, {"program.ts": program, "strict.ts": STRICT})
    others = ("component.tsx", "action.ts", "live.ts", "webhook.ts", "words.ts")
    assert typed.compile("program.ts", "strict.ts", *others) == ""

    with subprocess.Popen(
        [str(node_binary()), "out/program.js"],
        cwd=typed.folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={
            "url": stack.supabase_url,
            "key": stack.supabase_publishable_key,
            "email": ADA.email,
            "password": stack.demo_password,
            "workspace_id": stack.demo_workspace_id,
        },
    ) as run:
        assert run.stdout is not None
        lease = None
        lines: list[str] = []
        for line in run.stdout:
            lines.append(line.strip())
            if lease is None and re.match("pending .* live$", line):
                lease = mail.lease_one()
                mail.report(lease, 50)
            elif lease is not None and line.startswith("processing 50 live"):
                mail.settle(lease, result={"sent_to": ["ada@acme.test"]})

    assert run.returncode == 0, lines
    assert "completed [ 'ada@acme.test' ]" in lines, lines
