// Compiled by test_stranger.py: each expected error is one, and no `any` comes through.

import { createClient } from "@supabase/supabase-js";
import { enqueue, makeUseJobStatus, watchJob, watchSession, watchWorkspace } from "minutehand";
import type { Database, Job, JobEvent, JobType, QueueError } from "minutehand";

type IsAny<T> = 0 extends 1 & T ? true : false;
type Same<A, B> =
  (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const typed = <_T extends false>() => {};
const same = <_T extends true>() => {};
const where = { workspace_id: "w" };

const supabase = createClient<Database<"public"> & { shop: Database["minutehand"] }>(
  "http://x",
  "k",
);
same<Same<JobType, "invoices.mail" | "jobs.hello">>();

const made = await enqueue(supabase, "invoices.mail", { invoice: 1, copies: 2 }, where);
same<Same<typeof made.job.job_type, "invoices.mail">>();
same<Same<typeof made.job.payload.invoice, number>>();
same<Same<typeof made.job.result, { sent_to: string[] } | null>>();
// @ts-expect-error no such job type
await enqueue(supabase, "invoices.male", { invoice: 1 }, where);
// @ts-expect-error a payload of another shape
await enqueue(supabase, "invoices.mail", { invoice: "1" }, where);
// @ts-expect-error the workspace is missing
await enqueue(supabase, "invoices.mail", { invoice: 1 }, {});
// @ts-expect-error an option that enqueue_job does not know
await enqueue(supabase, "invoices.mail", { invoice: 1 }, { ...where, delay: 1 });
await enqueue<"invoices.mail">(
  supabase,
  "invoices.mail",
  { invoice: 1 },
  { ...where, delay_seconds: 1 },
);

const watch = watchJob<"invoices.mail">(supabase, "id", {
  schema: "public",
  onEvent: (event) => {
    typed<IsAny<typeof event.data>>();
    if (event.type === "job.waiting")
      same<Same<typeof event.data.wait.question, string | null | undefined>>();
    if (event.type === "job.log") typed<IsAny<typeof event.data.log>>();
    // @ts-expect-error no such type of event
    if (event.type === "job.done") return;
  },
  onChange: (state) =>
    same<Same<typeof state.freshness, "live" | "catching-up" | "polling" | "offline">>(),
});
same<Same<Awaited<typeof watch.ended>, Job<"invoices.mail">>>();
typed<IsAny<typeof watch.state.progress>>();
typed<IsAny<Awaited<ReturnType<typeof watch.cancel>>>>();

const feed = watchWorkspace(supabase, "w", { onEvent: (event: JobEvent) => void event });
typed<IsAny<typeof feed.state.problem>>();
const session = watchSession(supabase, "s", {
  onChange: ({ jobs }) => typed<IsAny<(typeof jobs)[0]>>(),
});
same<Same<typeof session.state.missing, boolean>>();

declare const hooks: {
  useState<S>(first: S | (() => S)): [S, (next: S | ((before: S) => S)) => void];
  useEffect(effect: () => void | (() => void), inputs?: readonly unknown[]): void;
  useRef<T>(first: T): { current: T };
};
const useJobStatus = makeUseJobStatus(hooks, () => supabase);
const shown = useJobStatus<"invoices.mail">({ jobId: "id" });
same<Same<NonNullable<typeof shown.job>["payload"]["invoice"], number>>();

const { data: why } = await supabase.rpc("explain_job", { p_job_id: "id" });
typed<IsAny<typeof why>>();
same<Same<NonNullable<typeof why>["sentence"], string>>();
// @ts-expect-error no such argument
await supabase.rpc("explain_job", { job_id: "id" });
const { data: logs } = await supabase
  .from("job_logs")
  .select("log_level, metadata")
  .eq("job_id", "id");
typed<IsAny<NonNullable<typeof logs>[0]>>();
same<Same<NonNullable<typeof logs>[0]["log_level"], "debug" | "info" | "warning" | "error">>();
const { data: steps } = await supabase.schema("shop").rpc("job_steps", { p_job_id: "id" });
same<Same<NonNullable<NonNullable<typeof steps>["waiting_for"]>["timeout_at"], string | null>>();
// @ts-expect-error members read logs, they do not write them
await supabase.from("job_logs").insert({ job_id: "id", message: "mine" });

declare const refused: QueueError;
same<Same<typeof refused.code, string>>();
