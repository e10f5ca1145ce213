-- Beacon keeps job specs, their outbox, one execution per region and model, and a chain of signed receipts.
-- Delete this app's migrations, its seed and shared/minutehand_apps/beacon, and the platform does not notice.

create schema if not exists beacon;
comment on schema beacon is 'The beacon app''s own: health of providers, helpers. Not exposed.';
revoke all on schema beacon from public;

-- 1. Tables ------------------------------------------------------------------------------------------------

create table public.beacon_jobs (
  id uuid primary key default queue.new_id(),
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  jobspec_id text not null,
  version text not null,
  spec jsonb not null,
  priority integer not null default 100,
  status text not null default 'created',
  outbox_id uuid not null,
  queue_job_id uuid,
  reached text[] not null default '{}',
  error text,
  created_by uuid,
  created_at timestamptz not null default queue.clock(),
  started_at timestamptz,
  finished_at timestamptz,
  closing_id uuid,
  constraint beacon_jobs_one_per_version unique (workspace_id, jobspec_id, version),
  constraint beacon_jobs_status_is_known check (
    status in ('created', 'queued', 'processing', 'completed', 'failed', 'cancelled')),
  constraint beacon_jobs_end_whole check ((status in ('completed', 'failed', 'cancelled')) = (finished_at is not null)),
  constraint beacon_jobs_spec_is_its_own check (
    spec ->> 'jobspec_id' is not distinct from jobspec_id and spec ->> 'version' is not distinct from version)
);
comment on table public.beacon_jobs is
E'Submitted job specs and how far they are.\n\nA job exists only together with its row in the outbox.';
comment on column public.beacon_jobs.id is 'The job, orders by time.';
comment on column public.beacon_jobs.workspace_id is 'The workspace that owns it.';
comment on column public.beacon_jobs.jobspec_id is 'The id its author gave the spec; with the version, one job.';
comment on column public.beacon_jobs.version is 'The spec''s version, as text.';
comment on column public.beacon_jobs.spec is 'The whole job spec, by the schema jobspec.';
comment on column public.beacon_jobs.priority is 'Smaller runs first.';
comment on column public.beacon_jobs.status is
E'created (in the outbox) -> queued (in the queue) -> processing (started) -> completed, failed or '
'cancelled.\n\nThe view beacon_job_states also knows what the queue ended before this row did.';
comment on column public.beacon_jobs.outbox_id is
'Its row in the outbox; a deferred constraint makes a job without one impossible.';
comment on column public.beacon_jobs.queue_job_id is
'The beacon_job job; null until it is published. Its children run the executions.';
comment on column public.beacon_jobs.reached is
'Regions in which every model''s execution completed; filled at the end.';
comment on column public.beacon_jobs.error is 'Why it failed; null otherwise.';
comment on column public.beacon_jobs.created_by is 'Who submitted it; null for the service.';
comment on column public.beacon_jobs.created_at is 'When it was submitted, UTC.';
comment on column public.beacon_jobs.started_at is 'When a worker started it, UTC; null before.';
comment on column public.beacon_jobs.finished_at is 'When it ended, UTC; null before.';
comment on column public.beacon_jobs.closing_id is
'The receipt that closes it and names all others; null before, and for a job that never reached the queue.';

create table public.beacon_outbox (
  id uuid primary key default queue.new_id(),
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  job_id uuid not null,
  message jsonb not null,
  status text not null default 'pending',
  attempts integer not null default 0,
  next_attempt_at timestamptz not null default queue.clock(),
  error text,
  queue_job_id uuid,
  created_at timestamptz not null default queue.clock(),
  published_at timestamptz,
  constraint beacon_outbox_row_of_one_job unique (id, job_id),
  constraint beacon_outbox_job_exists foreign key (job_id) references public.beacon_jobs (id)
    on delete cascade deferrable initially deferred,
  constraint beacon_outbox_status_is_known check (status in ('pending', 'published', 'dead', 'cancelled')),
  constraint beacon_outbox_published_is_whole check (
    (status = 'published') = (published_at is not null) and (status <> 'published' or queue_job_id is not null))
);
comment on table public.beacon_outbox is
E'Messages about jobs on their way into the queue.\n\nWritten in the transaction of the job; a publisher in each '
'worker run moves them.';
comment on column public.beacon_outbox.id is 'The row, orders by time.';
comment on column public.beacon_outbox.workspace_id is 'The workspace that owns it.';
comment on column public.beacon_outbox.job_id is 'The job it is about.';
comment on column public.beacon_outbox.message is
'The message, by the schema job-message: {version, job_id, jobspec_id}.';
comment on column public.beacon_outbox.status is
E'pending -> published (in the queue), dead (kept for a person; redrive makes it pending) or cancelled.';
comment on column public.beacon_outbox.attempts is 'How often a publisher took it.';
comment on column public.beacon_outbox.next_attempt_at is
'When a publisher may take it, UTC; moved ahead at each attempt, so that a publisher that dies delays it only.';
comment on column public.beacon_outbox.error is 'Why the last attempt failed; null when none did.';
comment on column public.beacon_outbox.queue_job_id is 'The job in the queue; null until it is published.';
comment on column public.beacon_outbox.created_at is 'When it was written, UTC.';
comment on column public.beacon_outbox.published_at is 'When it reached the queue, UTC; null before.';

-- deferred: the two rows point at each other, and are there together or not at all
alter table public.beacon_jobs add constraint beacon_jobs_have_an_outbox_row
foreign key (outbox_id, id) references public.beacon_outbox (id, job_id) deferrable initially deferred;

create table public.beacon_executions (
  id uuid primary key default queue.new_id(),
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  job_id uuid not null references public.beacon_jobs (id) on delete cascade,
  jobspec_id text not null,
  region text not null,
  model text not null,
  status text not null default 'pending',
  provider text,
  provider_task text,
  queue_job_id uuid,
  output jsonb,
  error text,
  created_at timestamptz not null default queue.clock(),
  started_at timestamptz,
  completed_at timestamptz,
  constraint beacon_executions_one_per_region_and_model unique (job_id, region, model),
  constraint beacon_executions_status_is_known check (
    status in ('pending', 'processing', 'completed', 'failed', 'cancelled')),
  constraint beacon_executions_complete_with_output check ((status = 'completed') = (output is not null)),
  constraint beacon_executions_end_whole check (
    (status in ('completed', 'failed', 'cancelled')) = (completed_at is not null))
);
comment on table public.beacon_executions is
'A job''s questions put to one model in one region; each is a child job of the queue.';
comment on column public.beacon_executions.id is 'The execution, orders by time.';
comment on column public.beacon_executions.workspace_id is 'The workspace that owns it.';
comment on column public.beacon_executions.job_id is 'The job it belongs to.';
comment on column public.beacon_executions.jobspec_id is 'The job''s own jobspec_id.';
comment on column public.beacon_executions.region is 'The region asked for.';
comment on column public.beacon_executions.model is
'The model asked for; default when the spec names none, then what the provider says it ran.';
comment on column public.beacon_executions.status is E'pending -> processing -> completed, failed or cancelled.';
comment on column public.beacon_executions.provider is 'The provider that works on it or gave the output; null before.';
comment on column public.beacon_executions.provider_task is
'The provider''s own id of long work; null before, and once it need not be cancelled there.';
comment on column public.beacon_executions.queue_job_id is 'The child job; null before it started.';
comment on column public.beacon_executions.output is
'{data: {responses: [...]}} by the schema output; null unless completed.';
comment on column public.beacon_executions.error is 'Why it failed; null otherwise.';
comment on column public.beacon_executions.created_at is 'When its job was submitted, UTC.';
comment on column public.beacon_executions.started_at is 'When a worker first started it, UTC; null before.';
comment on column public.beacon_executions.completed_at is 'When it ended, whatever the end, UTC; null before.';

create table public.beacon_receipts (
  id uuid primary key,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  number bigint not null,
  job_id uuid not null references public.beacon_jobs (id) on delete cascade,
  execution_id uuid references public.beacon_executions (id) on delete cascade,
  receipt jsonb not null,
  digest text not null,
  previous text,
  key_id text not null,
  issued_at timestamptz not null,
  constraint beacon_receipts_number_is_gapless_per_workspace unique (workspace_id, number),
  constraint beacon_receipts_one_per_execution unique (execution_id),
  constraint beacon_receipts_number_from_one check (number >= 1 and (number = 1) = (previous is null))
);
comment on table public.beacon_receipts is
E'Signed statements of executions and of jobs'' ends, chained per workspace.\n\nNever changed; removed by retention or with the '
'workspace only.';
comment on column public.beacon_receipts.id is 'The receipt.';
comment on column public.beacon_receipts.workspace_id is 'The workspace whose chain it is in.';
comment on column public.beacon_receipts.number is 'Its place in the chain: 1, 2, 3 ... without gaps.';
comment on column public.beacon_receipts.job_id is 'The job it is about.';
comment on column public.beacon_receipts.execution_id is
'The execution it is about; null for the one that closes the job.';
comment on column public.beacon_receipts.receipt is
'The receipt itself, by the schema receipt or closing, signature included.';
comment on column public.beacon_receipts.digest is
'SHA-256 over the canonical JSON of receipt: what the next one names as previous.';
comment on column public.beacon_receipts.previous is
'Digest of the receipt before it in the chain; null for the first.';
comment on column public.beacon_receipts.key_id is 'The key that signed: its RFC 7638 thumbprint.';
comment on column public.beacon_receipts.issued_at is 'When it was signed, UTC, as signed.';

create index beacon_jobs_newest on public.beacon_jobs (workspace_id, id desc);
create index beacon_jobs_by_spec on public.beacon_jobs (jobspec_id, id desc);
create unique index beacon_jobs_by_outbox on public.beacon_jobs (outbox_id, id);
create index beacon_jobs_live on public.beacon_jobs (created_at) where finished_at is null;
create index beacon_outbox_due on public.beacon_outbox (next_attempt_at, id) where status = 'pending';
create index beacon_outbox_dead on public.beacon_outbox (workspace_id, id desc) where status = 'dead';
create index beacon_outbox_newest on public.beacon_outbox (workspace_id, id desc);
create index beacon_outbox_by_job on public.beacon_outbox (job_id);
create index beacon_executions_newest on public.beacon_executions (workspace_id, id desc);
create index beacon_executions_abandoned on public.beacon_executions (id)
where provider_task is not null and completed_at is not null;
create index beacon_receipts_by_job on public.beacon_receipts (job_id);
create unique index beacon_receipts_one_closes on public.beacon_receipts (job_id) where execution_id is null;
create index beacon_jobs_unclosed on public.beacon_jobs (finished_at)
where finished_at is not null and closing_id is null and queue_job_id is not null;

create table beacon.provider_health (
  provider text not null, -- the provider's name, by BEACON_PROVIDERS
  region text not null, -- the region
  failures integer not null default 0, -- failures since the last success
  open_until timestamptz, -- until when other providers are preferred, UTC; null when it is healthy
  error text, -- message of the last failure; null when there was none
  primary key (provider, region)
);
comment on table beacon.provider_health is
'Last results of calls to each provider, per region; a row is inserted with the first report.';

create table beacon.reconciliations (
  id integer primary key default 1, -- always 1
  ran_at timestamptz not null, -- when it ran, UTC
  constraint reconciliations_one_row check (id = 1)
);
comment on table beacon.reconciliations is 'When the reconciler ran last; one row.';

-- 2. What is never changed ---------------------------------------------------------------------------------

create function beacon.refuse_change() returns trigger
language plpgsql
security definer -- looks for the workspace past row level security
set search_path = ''
as $$
begin
  if tg_op = 'DELETE' and (coalesce(current_setting('beacon.retention', true), '') = 'on'
      or not exists (select 1 from public.workspaces where id = old.workspace_id)) then
    return old;
  end if;
  perform queue.refuse(409, 'invalid_state', format('%s are never changed', replace(tg_table_name, '_', ' ')),
    tg_table_name);
  return null;
end;
$$;
comment on function beacon.refuse_change is
'Trigger: refuse update, delete and truncate, except by retention and with the workspace.';
create trigger beacon_receipts_stay before update or delete on public.beacon_receipts
for each row execute function beacon.refuse_change();
create trigger beacon_receipts_stay_all before truncate on public.beacon_receipts
for each statement execute function beacon.refuse_change();

-- 3. Row level security ------------------------------------------------------------------------------------

select queue.close_tables('beacon.provider_health', 'beacon.reconciliations');
select queue.show_to_members('public.beacon_jobs', 'public.beacon_outbox', 'public.beacon_executions',
  'public.beacon_receipts');
