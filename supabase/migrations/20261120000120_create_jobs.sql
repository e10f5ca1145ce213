-- What users see of a job: its record, its log lines and its history.
-- No index mentions what changes in a job's usual life (status, outcome, fence, progress, its end), so that
-- leasing, progress and completion stay heap-only (HOT) updates; the place of a job in the queue
-- or among the ended ones is in narrow tables of their own (next migration).

-- nullif(0, 0) is null, but a default: clients' generated types may omit the column, and the trigger of plain inserts,
-- which sees what was omitted, puts the job type's own value there.
create table public.jobs (
  id uuid not null default queue.new_id(),
  workspace_id uuid not null,
  user_id uuid,
  session_id text,
  queue text not null default nullif('', ''),
  job_type text not null,
  payload jsonb not null default '{}',
  schema_version integer not null default nullif(0, 0),
  status text not null default 'pending',
  priority integer not null default 100,
  progress jsonb not null default '{"percentage": 0, "stage": null, "message": null}',
  result jsonb,
  error_message text,
  error_data jsonb,
  error_fingerprint text,
  attempts integer not null default 0,
  max_attempts integer not null default nullif(0, 0),
  next_retry_at timestamptz,
  scheduled_for timestamptz,
  started_at timestamptz,
  finished_at timestamptz,
  completed_at timestamptz,
  queue_ms double precision,
  run_ms double precision not null default 0,
  held_ms double precision not null default 0,
  outcome text,
  created_at timestamptz not null default queue.clock(),
  updated_at timestamptz not null default queue.clock(),
  deadline_at timestamptz,
  timeout_seconds integer,
  backoff jsonb,
  idempotency_key text,
  concurrency_key text,
  tags text[] not null default '{}',
  unique_key text,
  parent_id uuid,
  replay_of uuid,
  replay_from text,
  cancel_requested_at timestamptz,
  traceparent text,
  cost_usd numeric(14, 9),
  fence bigint not null default 0,
  last_seq bigint not null default 0,
  generation integer not null default 1,
  snoozes integer not null default 0,
  lost_attempts integer not null default 0,
  -- What a caller may give is bounded by the triggers of direct writes and by the functions, not here: each check is
  -- read from the catalogue again by every statement that writes, and those were a tenth of a single enqueue.
  constraint jobs_status_is_known
    check (status = any (case when finished_at is null then '{pending,processing,waiting}'
      else '{completed,failed,cancelled}' end::text[])), -- half as long in the catalogue as two lists with in
  constraint jobs_completed_at_is_the_end
    check (completed_at is not distinct from case when status = 'completed' then finished_at end),
  constraint jobs_outcome_names_the_end
    check (outcome is not distinct from case when finished_at is null then null else status end),
  constraint jobs_attempts_are_bounded check (attempts >= 0 and max_attempts between 1 and 50),
  constraint jobs_result_only_when_completed check (result is null or status = 'completed')
) with (
  fillfactor = 70, -- room in its page for the version that a lease makes: no index is touched then
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
  autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0
);

-- Workspaces are not referenced by a foreign key: its check would lock the tenant's row on each
-- enqueue. Enqueue checks the workspace, and deleting a workspace deletes its jobs by trigger.
-- lists read these backwards: rising keys are cheaper to insert
create index jobs_by_workspace on public.jobs (workspace_id, created_at, id);
create index jobs_by_session on public.jobs (session_id, created_at, id) where session_id is not null;
create index jobs_by_parent on public.jobs (parent_id, created_at, id) where parent_id is not null;
create index jobs_by_replay on public.jobs (replay_of) where replay_of is not null;
-- after them: of indexes that cost alike, as all do while statistics say that the table is empty, the
-- planner takes the latest, and jobs_by_workspace serves an id by reading all of it
alter table public.jobs add primary key (id);

comment on table public.jobs is E'Background jobs, one row each.\n\nInsert a row with status pending to enqueue; the engine moves it from there.';
comment on column public.jobs.id is 'Identity, a version 7 UUID.';
comment on column public.jobs.workspace_id is 'The tenant it belongs to.';
comment on column public.jobs.user_id is 'Who created it; null when a service did.';
comment on column public.jobs.session_id is 'Conversation or guest session it belongs to, for clients that follow a session; null for none.';
comment on column public.jobs.queue is 'Named queue, the type''s unless given; a worker may serve some queues only.';
comment on column public.jobs.job_type is 'Picks the processor.';
comment on column public.jobs.payload is 'Input, JSON, checked against the type''s schema.';
comment on column public.jobs.schema_version is 'Version of the payload''s schema it was enqueued with, the type''s latest unless given.';
comment on column public.jobs.status is 'pending, processing, waiting, completed, failed or cancelled.';
comment on column public.jobs.priority is '0 to 1000, smaller runs first inside a workspace.';
comment on column public.jobs.progress is '{percentage 0..100, stage, message}, last report wins.';
comment on column public.jobs.result is 'Output, JSON; null unless completed.';
comment on column public.jobs.error_message is 'Error of the last failed attempt; null when none failed.';
comment on column public.jobs.error_data is 'Details of that error: {type, reason, …}.';
comment on column public.jobs.error_fingerprint is 'Same for errors that differ only in numbers and ids.';
comment on column public.jobs.attempts is 'Attempts, counted at lease; a wait, a snooze or a release takes one off again.';
comment on column public.jobs.max_attempts is 'After so many the job is failed, 1 to 50; the type''s unless given.';
comment on column public.jobs.next_retry_at is 'Earliest start of the next attempt, UTC; null when none is planned.';
comment on column public.jobs.scheduled_for is 'Earliest first start, UTC; null for at once.';
comment on column public.jobs.started_at is 'Start of the first attempt, UTC; kept over retries and waits. An attempt''s own start is in job_attempts.';
comment on column public.jobs.finished_at is 'When it completed, failed or was cancelled, UTC; null while live.';
comment on column public.jobs.completed_at is 'When it completed, UTC; null while live, and for jobs that failed or were cancelled.';
comment on column public.jobs.queue_ms is 'From being ready to its first start, milliseconds; null before.';
comment on column public.jobs.run_ms is 'Run time of its ended attempts together, milliseconds; see job_states.';
comment on column public.jobs.held_ms is 'For how long workers held it, from each lease to its end, milliseconds: its run time, and what the worker and the database needed around it.';
comment on column public.jobs.outcome is 'The status it ended with; null while live.';
comment on column public.jobs.created_at is 'When it was enqueued, UTC.';
comment on column public.jobs.updated_at is 'Last change, UTC.';
comment on column public.jobs.deadline_at is 'Not started after this instant, but failed as expired; null for never.';
comment on column public.jobs.timeout_seconds is 'Longest run of one attempt; null takes the type''s.';
comment on column public.jobs.backoff is '{first_seconds, cap_seconds, factor} of this job; null takes the type''s.';
comment on column public.jobs.idempotency_key is 'Caller''s key: a repeat with the same payload gets this job.';
comment on column public.jobs.concurrency_key is 'Jobs of a type that share a key share its limit.';
comment on column public.jobs.tags is 'Words to find it by, at most 20 of 1 to 100 characters; see queue.job_tags.';
comment on column public.jobs.unique_key is 'Only one such job at a time, see enqueue_job; null for none.';
comment on column public.jobs.parent_id is 'The job that spawned it.';
comment on column public.jobs.replay_of is 'The job it is a replay of; null for none.';
comment on column public.jobs.replay_from is 'The step of that job from which it runs again; null for its start.';
comment on column public.jobs.cancel_requested_at is 'When a cancel was requested while it ran, UTC; null otherwise.';
comment on column public.jobs.traceparent is 'W3C trace context of the enqueueing request.';
comment on column public.jobs.cost_usd is 'Estimated compute cost of all attempts, US dollars.';
comment on column public.jobs.fence is 'Fencing token of the latest lease; rises by one each lease, never falls.';
comment on column public.jobs.last_seq is 'Number of the latest event.';
comment on column public.jobs.generation is 'Raised by each retry or redrive of an ended job.';
comment on column public.jobs.snoozes is 'How often its processor snoozed it.';
comment on column public.jobs.lost_attempts is 'Attempts whose lease expired without a settlement.';

create table public.job_logs (
  id bigint generated always as identity primary key,
  job_id uuid not null,
  workspace_id uuid not null,
  attempt integer not null,
  log_level text not null default 'info',
  message text not null,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default queue.clock(),
  constraint job_logs_level_is_known check (log_level in ('debug', 'info', 'warning', 'error')),
  constraint job_logs_message_is_bounded check (char_length(message) <= 10000)
);
create index job_logs_by_job on public.job_logs (job_id, id);
comment on table public.job_logs is 'Lines a processor wrote while it ran.';
comment on column public.job_logs.id is 'Orders the lines of a job.';
comment on column public.job_logs.job_id is 'The job.';
comment on column public.job_logs.workspace_id is 'Its workspace, for the policy.';
comment on column public.job_logs.attempt is 'The attempt that wrote it, from 1.';
comment on column public.job_logs.log_level is 'debug, info, warning or error.';
comment on column public.job_logs.message is 'Text, at most 10,000 characters.';
comment on column public.job_logs.metadata is 'JSON object with more.';
comment on column public.job_logs.created_at is 'When it was written, UTC.';

-- What happened to a job, a row each, until it is packed (queue.histories); public.job_events is both.
create table queue.job_events (
  job_id uuid not null,
  seq bigint not null,
  workspace_id uuid not null,
  session_id text,
  type text not null,
  data jsonb not null default '{}',
  created_at timestamptz not null default queue.clock(),
  xid xid8 not null default pg_current_xact_id(),
  primary key (job_id, seq)
) with (autovacuum_vacuum_insert_scale_factor = 0.2, autovacuum_analyze_scale_factor = 0.1);
-- the start of an id is the quarter of a second it was made in: jobs of a statement share it, and an entry of some 8
-- bytes each; feeds sort what shares it
create index job_events_feed on queue.job_events (workspace_id, xid, substr(uuid_send(job_id), 1, 5));
comment on table queue.job_events is 'The events of jobs that live, and of those that have ended but are not packed.';

create table queue.histories (
  id bigint generated always as identity primary key, -- identity
  workspace_id uuid not null, -- the tenant
  hour timestamptz not null, -- the hour in which its jobs ended, UTC
  first_end timestamptz not null, -- when the first of them ended
  last_end timestamptz not null, -- and the last
  last_xid xid8 not null, -- the latest transaction that wrote one of its events: its place in a feed
  xid xid8 not null default pg_current_xact_id(), -- the transaction that packed it
  -- its events in the order of job and seq, an element each
  job_ids uuid[] not null, seqs bigint[] not null, types text[] not null, data jsonb[] not null,
  created_ats timestamptz[] not null, xids xid8[] not null
) with (toast_tuple_target = 128); -- every array is compressed, however short
alter table queue.histories
  alter job_ids set storage main, alter seqs set storage main, alter types set storage main,
  alter data set storage main, alter created_ats set storage main, alter xids set storage main;
create index histories_by_hour on queue.histories (workspace_id, hour);
create index histories_feed on queue.histories (workspace_id, last_xid, id);
comment on table queue.histories is E'The events of up to 200 completed jobs of a tenant and an hour in one row, compressed: a tenth of what they take as rows.\n\nWritten and read by the functions of the file that packs them; a completed job never runs again.';

create view public.job_events with (security_invoker = on) as
select job_id, seq, workspace_id, session_id, type, data, created_at, xid from queue.job_events
union all
select j.id, e.seq, j.workspace_id, j.session_id, e.type, e.data, e.created_at, e.xid
from public.jobs as j
join queue.histories as h on h.workspace_id = j.workspace_id and h.hour = date_trunc('hour', j.finished_at, 'UTC')
  and j.finished_at between h.first_end and h.last_end
cross join lateral unnest(h.job_ids, h.seqs, h.types, h.data, h.created_ats, h.xids)
  as e (job_id, seq, type, data, created_at, xid)
where e.job_id = j.id;
create function queue.refuse_write() returns trigger
language plpgsql set search_path = '' as $$
begin
  perform queue.refuse(403, 'forbidden', format('%I is written by the engine alone', tg_table_name), tg_table_name);
end;
$$;
comment on function queue.refuse_write is E'Trigger: refuse writes to a view.\n\nCallers without the right are refused before it, as for a table; without it they would get an internal error.';
create trigger job_events_refuse_write instead of insert or update or delete on public.job_events
  for each row execute function queue.refuse_write();
comment on view public.job_events is E'The history of each job, gapless.\n\nRead all with seq greater than the last one known, then listen: nothing is missed.';
comment on column public.job_events.job_id is 'The job.';
comment on column public.job_events.seq is '1, 2, 3 … without gaps per job, in commit order.';
comment on column public.job_events.workspace_id is 'Its workspace, for the policy.';
comment on column public.job_events.session_id is 'Its session, for clients that follow one.';
comment on column public.job_events.type is 'job. and created, leased, progress, log, waiting, resumed, snoozed, released, retried, reclaimed, replaced, redriven, cancel_requested, completed, failed or cancelled; an app''s own begin otherwise.';
comment on column public.job_events.data is 'Small JSON: what changed.';
comment on column public.job_events.created_at is 'When it happened, UTC.';
comment on column public.job_events.xid is 'Transaction that wrote it: a safe cursor for feeds (see event_feed).';

alter table public.jobs enable row level security;
alter table public.job_logs enable row level security;

create policy "members read jobs" on public.jobs
  for select to authenticated using (workspace_id in (select queue.my_workspaces()));
create policy "members create jobs" on public.jobs
  for insert to authenticated with check (
    workspace_id in (select queue.my_workspaces()) and user_id = (select auth.uid())
    and coalesce(current_setting('queue.checked', true), '') = ''); -- the engine's own mark: see its triggers
create policy "members steer jobs" on public.jobs
  for update to authenticated using (workspace_id in (select queue.my_workspaces()))
  with check (workspace_id in (select queue.my_workspaces()));
create policy "members read logs" on public.job_logs
  for select to authenticated using (workspace_id in (select queue.my_workspaces()));
create policy "members read events" on queue.job_events
  for select to authenticated using (workspace_id in (select queue.my_workspaces()));
create policy "members read histories" on queue.histories
  for select to authenticated using (workspace_id in (select queue.my_workspaces()));

revoke all on public.jobs, public.job_logs, public.job_events from public, anon, authenticated;
grant select on public.jobs, public.job_logs, public.job_events to authenticated, service_role;
grant insert (workspace_id, user_id, session_id, queue, job_type, payload, status, priority, scheduled_for,
  max_attempts, idempotency_key, concurrency_key, deadline_at, tags) on public.jobs
  to authenticated;
grant update (status, priority, scheduled_for) on public.jobs to authenticated;
-- the service role steers as members do; the rest of a job's life is the engine's
grant update (status, priority, scheduled_for) on public.jobs to service_role;
grant insert, delete on public.jobs to service_role;

do $$
begin
  if exists (select 1 from pg_catalog.pg_publication where pubname = 'supabase_realtime' and not puballtables) then
    alter publication supabase_realtime add table public.jobs, public.job_logs;
  end if;
end;
$$;
