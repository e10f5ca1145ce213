-- Queue membership and policy, apart from the job record: narrow tables that are inserted into and
-- deleted from, so that neither history nor waiting jobs make a lease slower.

create table queue.job_types (
  job_type text primary key, -- name, 1 to 100 characters
  queue text not null default 'default', -- queue its jobs join unless they name one
  max_concurrency integer, -- most jobs of the type running at once; null for no limit
  workspace_concurrency integer, -- the same, per workspace
  key_concurrency integer, -- the same, per workspace and concurrency key
  lease_seconds integer not null default 60, -- how long a lease lasts unless renewed
  timeout_seconds integer not null default 300, -- longest run of one attempt
  max_attempts integer not null default 5, -- default of jobs.max_attempts
  backoff_first_seconds double precision not null default 60, -- wait after the first failed attempt, before jitter
  backoff_cap_seconds double precision not null default 3600, -- longest wait between attempts
  backoff_factor double precision not null default 2, -- each wait is this many times the one before
  rate_limit integer, -- token bucket: at most this many starts per rate_per_seconds; null for no limit
  rate_per_seconds double precision, -- seconds in which the bucket refills whole
  -- one bucket per workspace and concurrency key instead of one for the type
  rate_per_key boolean not null default false,
  payload_schema jsonb, -- JSON Schema that payloads must satisfy; null accepts any object
  schema_version integer not null default 1, -- version of payload_schema
  events text not null default 'full', -- full, or minimal: no event for creation and lease
  -- what is sent to Realtime: full; states, nothing on the job's own topic; or off. Watchers read the rest.
  live text not null default 'full',
  ageing_seconds integer, -- a ready job gains one priority step each time this many seconds pass; null for never
  retention_days jsonb, -- {completed, cancelled, failed}: days ended jobs are kept; null takes the setting
  -- true for types that only the platform enqueues: every function refuses a person's job of it
  internal boolean not null default false,
  run_p95_ms double precision, -- 95th percentile of recent run times, milliseconds; null before 20 runs
  paused_at timestamptz, -- since when no job of the type starts; null while running
  paused_by text, -- who paused it: a user id
  pause_reason text, -- why it is paused
  registered_at timestamptz not null default queue.clock(), -- when a worker last published it
  -- true after worker keys were revoked, until the type is published again: that registration may change anything
  redefinable boolean not null default false,
  -- payload fields whose values become tags as name:value, so that jobs are found by them at any age
  tagged_by text[] not null default '{}',
  source text, -- where its processor is: module:function, as its worker reports it
  description text, -- what it does, the first lines of its processor's docstring
  constraint job_types_name_is_short check (char_length(job_type) between 1 and 100),
  constraint job_types_names_are_printable check (job_type || queue !~ '[[:cntrl:]]'),
  constraint job_types_limits_are_positive check (
    coalesce(max_concurrency, 1) >= 1 and coalesce(workspace_concurrency, 1) >= 1
    and coalesce(key_concurrency, 1) >= 1 and coalesce(rate_limit, 1) >= 1 and coalesce(ageing_seconds, 1) >= 1
    and schema_version >= 1 and coalesce(rate_per_seconds, 1) > 0 and lease_seconds between 1 and 43200
    and timeout_seconds between 1 and 43200 and max_attempts between 1 and 50),
  constraint job_types_rate_is_whole check ((rate_limit is null) = (rate_per_seconds is null)),
  constraint job_types_backoff_grows check (
    backoff_first_seconds between 0 and 86400 and backoff_cap_seconds between 0 and 604800
    and backoff_factor between 1 and 10),
  constraint job_types_events_is_known check (events in ('full', 'minimal')),
  constraint job_types_live_is_known check (live in ('full', 'states', 'off'))
);
comment on table queue.job_types is 'Policy of each job type, published by the workers that run it.';

create table queue.pauses (
  kind text not null, -- queue, workspace, or workspace_type
  name text not null, -- the queue's name, the workspace's id, or <workspace id>/<job type>
  workspace_id uuid, -- the workspace, unless kind is queue
  job_type text, -- the type, when kind is workspace_type
  paused_at timestamptz not null default queue.clock(), -- since when
  paused_by text, -- by whom
  reason text, -- why
  primary key (kind, name),
  constraint pauses_kind_is_known check (kind in ('queue', 'workspace', 'workspace_type')),
  constraint pauses_reason_is_bounded check (char_length(reason) <= 1000)
);
create index pauses_by_workspace on queue.pauses (workspace_id);
comment on table queue.pauses is 'Queues, workspaces, and job types of one workspace, whose jobs do not start for now.';

create table queue.tenant_limits (
  workspace_id uuid primary key, -- the workspace
  weight double precision not null default 1, -- share relative to other workspaces; 1 is the default
  max_running integer, -- most jobs running at once; null for no limit
  own_max_running integer, -- the same, set by the workspace's own managers; the smaller holds
  -- the smaller of the two, which holds; null for no limit
  running_max integer generated always as (least(max_running, own_max_running)) stored,
  max_pending integer, -- most live jobs its members may have; null takes the setting
  constraint tenant_limits_are_positive check (
    weight between 0.01 and 100 and coalesce(max_running, 1) >= 0 and coalesce(own_max_running, 1) >= 0
    and coalesce(max_pending, 1) >= 0)
);
comment on table queue.tenant_limits is 'Share and limits of the workspaces that do not have the defaults.';

create table queue.live_counts (
  workspace_id uuid primary key, -- the tenant
  live integer not null, -- live jobs, counted up to the quota
  counted_at timestamptz not null -- when
) with (fillfactor = 50);
comment on table queue.live_counts is 'Live jobs of workspaces as counted a moment ago, for quotas.';

create table queue.partitions (
  id uuid primary key, -- identity, see partition_id
  workspace_id uuid not null, -- the tenant
  queue text not null, -- the queue
  job_type text not null, -- the job type
  concurrency_key text not null default '', -- the concurrency key; empty for none
  priority integer not null, -- the priority of its jobs
  -- when a job was last leased from it: order among a tenant's partitions
  last_leased_at timestamptz not null default '-infinity',
  claim_from timestamptz not null default '-infinity', -- watermark: no ready job is older than this, as far as known
  mark_from timestamptz, -- the next claim_from: when it was noted, no committed job was older
  mark_xid xid8, -- mark_from holds once all transactions below this have ended: none can commit an older job then
  -- raised when a job older than the watermark came back: a lease that began before must not move the watermark
  rewinds bigint not null default 0,
  set_aside boolean not null default false, -- true while its key is at a limit: leases do not read it
  look_at timestamptz, -- when to look again at the latest; null unless set aside
  constraint partitions_are_unique unique (workspace_id, job_type, concurrency_key, queue, priority)
) with (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0
);
-- of one queue, and of any: by another collation, so that neither serves, and reads past others, in place of the other
create index partitions_by_queue
  on queue.partitions (workspace_id, job_type, queue, set_aside, priority, last_leased_at);
create index partitions_by_turn
  on queue.partitions (workspace_id, job_type collate "C", set_aside, priority, last_leased_at);
create index partitions_set_aside on queue.partitions (look_at) where set_aside;
comment on table queue.partitions is E'Where ready jobs are found: one partition per workspace, type, key, priority and queue.\n\nOpened and closed by leases only, in their short transactions; an enqueue into one that is not open inserts a row into queue.openings. A partition is removed with its last ready job.';

create table queue.turns (
  workspace_id uuid not null, -- the tenant
  job_type text not null, -- the job type
  queue text not null, -- the queue; empty for the tenant's turn in any of them
  tag double precision not null, -- the tenant's finish tag when it was last written here
  set_aside boolean not null default false, -- true while the tenant is paused or at a limit: leases do not read it
  look_at timestamptz, -- when to look again at the latest; null unless set aside
  primary key (workspace_id, job_type, queue)
) with (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0
);
create index turns_by_tag on queue.turns (queue, job_type, tag, workspace_id) where not set_aside;
create index turns_set_aside on queue.turns (look_at) where set_aside;
comment on table queue.turns is E'Tenants that have ready jobs of a type, in a queue and in any, in the order of their turn.\n\nA tenant has one turn however many queues it has, and so its share. A worker of some queues goes by theirs. A lease reads as many as it asks for jobs, from the smallest tag on. The tag may be older than the tenant''s in queue.shares, never newer: anyone who reads it brings it up to date.';

create table queue.openings (
  id bigint generated always as identity primary key, -- identity and order
  partition_id uuid not null, -- the partition
  workspace_id uuid not null, -- its tenant
  queue text not null, -- its queue
  job_type text not null, -- its job type
  concurrency_key text not null, -- its key; empty for none
  priority integer not null, -- its priority
  rewind boolean not null default false -- true when a job older than the watermark came back: look from the start
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
create index openings_by_workspace on queue.openings (workspace_id, id);
comment on table queue.openings is E'Partitions that got a ready job while they were not open, or one older than their watermark.\n\nInserted only, so that no enqueue waits for another; the next lease opens them.';

create table queue.caps (
  id bigint generated always as identity primary key, -- identity
  scope text not null, -- type, workspace, workspace_type or key
  job_type text not null default '', -- the type; empty for a workspace
  workspace_id uuid not null default '00000000-0000-0000-0000-000000000000', -- the tenant; the nil UUID for a type
  concurrency_key text not null default '', -- the key; empty for the other scopes
  constraint caps_are_unique unique (workspace_id, job_type, concurrency_key, scope),
  constraint caps_scope_is_known check (scope in ('type', 'workspace', 'workspace_type', 'key'))
);
comment on table queue.caps is E'A row to lock for each limited scope: a lease below a limit holds it until the commit.\n\nHeld with skip locked: a lease that does not get it takes something else. It holds no count: under its lock the leases themselves are counted, so that nothing can leak and a settlement needs no lock.';

create function queue.partition_id(p_workspace_id uuid, p_queue text, p_job_type text, p_key text, p_priority integer)
returns uuid
language plpgsql immutable parallel safe set search_path = '' as $$
begin
  -- lengths in front keep two lists of columns from ever being one text
  return encode(substring(sha256(convert_to(concat_ws('/', p_workspace_id, p_priority, length(p_queue), p_queue,
    length(p_job_type), p_job_type, coalesce(p_key, '')), 'UTF8')) for 16), 'hex')::uuid;
end;
$$;
comment on function queue.partition_id is E'Identity of a partition, the same for everyone who computes it: 128 bits of SHA-256 over its columns.\n\nTwo partitions with the same id can neither occur by chance nor be constructed; the table keeps the columns unique as well.';

create table queue.ready (
  partition_id uuid not null, -- its partition
  ready_at timestamptz not null, -- since when: order inside the partition
  job_id uuid not null, -- the job
  workspace_id uuid not null, -- the tenant, for lists
  job_created_at timestamptz not null, -- when the job was enqueued: order of lists
  primary key (partition_id, ready_at, job_id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
-- by a job's own columns, so that one index finds the row of a job and lists a tenant's
create unique index ready_by_workspace on queue.ready (workspace_id, job_created_at, job_id);
comment on table queue.ready is 'Jobs that may be leased now. Rows are never updated: a lease finds those it chose by ctid.';

create table queue.deferred (
  job_id uuid primary key, -- the job
  run_at timestamptz not null, -- from when
  partition_id uuid not null, -- the partition it joins then
  workspace_id uuid not null, -- the tenant, for lists
  job_created_at timestamptz not null -- when the job was enqueued: order of lists
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
create index deferred_by_time on queue.deferred (run_at);
create index deferred_by_workspace on queue.deferred (workspace_id, job_created_at, job_id);
create index deferred_by_next_run on queue.deferred (workspace_id, run_at, job_id);
comment on table queue.deferred is 'Pending jobs that may not be leased before a time: scheduled, backing off, snoozed.';

create table queue.ended (
  workspace_id uuid not null, -- the tenant
  outcome text not null, -- completed, failed or cancelled
  job_created_at timestamptz not null, -- when the job was enqueued: order of lists
  job_id uuid not null, -- the job
  job_type text not null, -- its type: retention has days of its own for some
  ended_at timestamptz not null, -- when it ended: order of retention, over all tenants
  primary key (workspace_id, outcome, job_created_at, job_id),
  constraint ended_outcome_is_known check (outcome in ('completed', 'failed', 'cancelled'))
) with (
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
  autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0
);
-- by another collation, so that looking a row up by its primary key never goes through the whole of this index: of an
-- empty table, as statistics of a quiet hour call it, the planner takes either
create index ended_by_age on queue.ended (job_type, outcome collate "C", ended_at);
create index ended_badly on queue.ended (outcome, job_id) where outcome = 'failed';
comment on table queue.ended is E'Jobs that have ended, in the order of lists.\n\nApart from public.jobs, so that the end of a job touches no index of that table.';

create table queue.arrivals (
  xid xid8 not null, -- the transaction that inserts
  job_id uuid not null, -- the job
  primary key (xid, job_id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
comment on table queue.arrivals is 'Jobs of a plain insert, until its statement ends. No other transaction ever sees one.';

create table queue.deadlines (
  job_id uuid primary key, -- the job
  deadline_at timestamptz not null -- not started after it
);
create index deadlines_by_time on queue.deadlines (deadline_at);
comment on table queue.deadlines is 'Live jobs that have a deadline.';

create table queue.leases (
  job_id uuid primary key, -- the job
  fence bigint not null, -- fencing token: each write of the holder must show it
  workspace_id uuid not null, -- the tenant, for limits
  job_type text not null, -- the type, for limits
  concurrency_key text not null default '', -- the key, for limits; empty for none
  partition_id uuid not null, -- the partition it came from and returns to
  -- since when it had been ready: its place in the partition if it is released, and the start of its queue time
  ready_at timestamptz not null,
  attempt integer not null, -- the attempt this lease is
  worker_id text not null, -- who holds it
  tick_id uuid, -- the tick that took it
  tick_call integer, -- the call within the tick: a repeated call gets the same leases
  leased_at timestamptz not null, -- since when
  lease_seconds integer not null, -- length of the lease and of each renewal
  expires_at timestamptz not null, -- when it expires; set here and never recomputed from settings
  -- at the latest when it expires; a renewal changes no index; when maintenance looks whether it has expired; moved on
  -- when it has been renewed
  look_at timestamptz not null default '-infinity',
  job_created_at timestamptz not null, -- when the job was enqueued: order of lists
  -- true when the holder is to stop; the answer to its next report says so
  cancel_requested boolean not null default false,
  -- log lines stored of this attempt: a repeated report adds only the lines after these
  log_lines integer not null default 0
) with (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0
);
-- by another collation, so that what is counted of a workspace is never looked for among all of its type
create index leases_by_workspace on queue.leases (workspace_id, job_type collate "C", concurrency_key);
create index leases_by_type on queue.leases (job_type);
create index leases_to_look_at on queue.leases (look_at);
comment on table queue.leases is 'Jobs a worker holds right now. Limits count these rows; expires_at is not indexed, so renewals stay heap-only.';

create table queue.attempts (
  job_id uuid not null, -- the job
  fence bigint not null, -- the lease's fencing token
  attempt integer not null, -- counted from 1; the same number twice when one was given back
  worker_id text not null, -- who ran it
  leased_at timestamptz not null, -- its start
  ended_at timestamptz not null, -- its end
  outcome text not null, -- completed, retry, failed, snoozed, released, waiting, cancelled or lost
  error_message text, -- its error, if any
  error_data jsonb, -- details of the error
  -- {frames: [{file, line, function, code, own}], causes, left_out}, the innermost of the user's own code first,
  -- without values of variables; job_attempts shows it to those who may see it
  traceback jsonb,
  origin jsonb, -- where its log is: {version, request_id, log_group, log_stream, region}, as far as the worker knows
  primary key (job_id, fence)
);
comment on table queue.attempts is 'How each ended attempt went, but one that completed at the job''s first lease: see queue.attempt_lines. The running one is in leases.';

create table queue.job_keys (
  workspace_id uuid not null, -- the tenant
  job_type text not null, -- the type; the same key of another type is another key
  key text not null, -- the caller's key
  request_hash text not null, -- hash of the payload; another payload under the same key is refused
  job_id uuid not null, -- the job a repeat gets
  expires_at timestamptz not null, -- until when the key is remembered
  primary key (workspace_id, job_type, key)
);
create index job_keys_by_expiry on queue.job_keys (expires_at);
create index job_keys_by_job on queue.job_keys (job_id);
comment on table queue.job_keys is 'Idempotency keys, each with its job.';

create table queue.unique_jobs (
  workspace_id uuid not null, -- the tenant
  job_type text not null, -- the type
  key text not null, -- the key
  job_id uuid not null, -- its holder
  until text not null, -- freed when the job is leased, or when it ends
  primary key (workspace_id, job_type, key),
  constraint unique_jobs_until_is_known check (until in ('leased', 'finished'))
);
create index unique_jobs_by_job on queue.unique_jobs (job_id);
comment on table queue.unique_jobs is 'Which job holds a unique key now.';

create table queue.buckets (
  job_type text not null, -- the type
  workspace_id uuid not null, -- the tenant, or the nil UUID
  concurrency_key text not null, -- the key, or empty
  tokens double precision not null, -- starts left at refilled_at
  refilled_at timestamptz not null, -- when tokens was computed
  primary key (job_type, workspace_id, concurrency_key)
) with (fillfactor = 50);
comment on table queue.buckets is 'Token buckets of rate-limited types; the nil UUID and an empty key mean the whole type.';

create table queue.ticks (
  tick_id uuid primary key, -- identity, chosen by the worker
  worker_id text not null, -- who ran it
  version text, -- code version of the worker
  job_types text[], -- types it serves; null for all
  queues text[], -- queues it serves; null for all
  started_at timestamptz not null, -- its first call
  seen_at timestamptz not null, -- its latest call
  ended_at timestamptz, -- when it reported its end; null while it runs or if it died
  last_call integer not null default 0, -- highest lease call answered
  free_slots integer not null default 0, -- slots it could still fill, as last reported
  leased bigint not null default 0, -- jobs it leased
  leased_at timestamptz, -- when it last got a job; null for never
  summary jsonb -- counts it reported at its end
) with (fillfactor = 50);
create index ticks_by_start on queue.ticks (started_at desc);
comment on table queue.ticks is 'Runs of the worker, the recent ones.';

create table queue.shares (
  workspace_id uuid primary key, -- the tenant
  finish_tag double precision not null -- virtual time at which its last leased job would finish
) with (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0
);
insert into queue.shares values ('00000000-0000-0000-0000-000000000000', 0);
comment on table queue.shares is E'Virtual time of each tenant: start-time fair queueing.\n\nSource: Goyal, Vin, Cheng, "Start-time Fair Queuing", SIGCOMM 1996. The nil UUID holds the system''s virtual time.';

create table queue.maintenance_tasks (
  name text primary key, -- the task
  done_at timestamptz not null default '-infinity', -- when
  cursor text, -- where it stopped, for tasks done in slices
  behind boolean not null default false, -- whether it left something due: it is done again at once
  failed_at timestamptz, -- when it last failed; null for never
  failure text, -- the error of that time
  -- how often it has failed since it last succeeded: each failure parks it for twice as long
  failures integer not null default 0
) with (fillfactor = 50);
comment on table queue.maintenance_tasks is 'The tasks of maintenance, and when each was last done.';
insert into queue.maintenance_tasks (name)
select unnest(array[
  'reclaim', 'waits', 'signals', 'schedules', 'promotion', 'deliveries', 'expire', 'statistics',
  'retention', 'old_rows', 'orphans', 'messages', 'sweep', 'buckets']);

create table queue.wakeups (
  id integer primary key default 1, -- always 1
  requested_at timestamptz, -- when; null after the next lease call
  constraint wakeups_is_one_row check (id = 1)
) with (fillfactor = 10);
insert into queue.wakeups default values;
comment on table queue.wakeups is 'One row: the wake-up that was requested and that no lease has answered yet.';

create table queue.steps (
  job_id uuid not null, -- the job
  name text not null, -- name of the step, unique in the job
  -- step; graph, whose result has what each stage comes after; or the wait it was: sleep, ask, event, children, after
  kind text not null default 'step',
  result jsonb not null, -- {"value": …}: the step's result
  started_at timestamptz, -- when it began; null where its worker did not report it
  created_at timestamptz not null default queue.clock(), -- when it finished
  workspace_id uuid, -- the tenant of the event; null for other steps
  -- the event whose payload is the result: stored once, however many jobs waited for it. Null for other steps.
  event_name text,
  bytes integer not null generated always as (octet_length(result::text)) stored, -- length of result as text, bytes
  primary key (job_id, name),
  constraint steps_name_is_bounded check (char_length(name) between 1 and 200)
);
create index steps_by_event on queue.steps (workspace_id, event_name) where event_name is not null;
comment on table queue.steps is 'Memoised results: a later attempt continues after the last finished step.';

create table queue.running_steps (
  job_id uuid primary key, -- the job
  fence bigint not null, -- the fencing token of the lease that reported it
  name text not null, -- name of the step
  started_at timestamptz not null, -- when it began
  constraint running_steps_name_is_bounded check (char_length(name) between 1 and 200)
) with (fillfactor = 50);
comment on table queue.running_steps is 'The step a running job is in, as last reported by its worker; valid only while the job''s lease has the same fence.';

create table queue.waits (
  job_id uuid primary key, -- the job
  workspace_id uuid not null, -- the tenant
  kind text not null, -- sleep, ask, event, children, or after (dependencies)
  name text not null, -- step that receives the value
  data jsonb not null default '{}', -- question and options, or the children's ids, or the policy
  event_name text, -- the event, when kind is event
  timeout_at timestamptz, -- when it ends by itself; null for never
  default_value jsonb, -- what the step gets at the timeout
  created_at timestamptz not null default queue.clock(), -- since when
  job_created_at timestamptz not null, -- when the job was enqueued: order of lists
  -- how many of the jobs waited for have not ended: rows of queue.dependencies. Null until children are counted.
  open_jobs integer,
  failed_jobs integer not null default 0, -- how many of them failed or were cancelled
  gathered integer not null default 0, -- how many children's results are copied
  constraint waits_kind_is_known check (kind in ('sleep', 'ask', 'event', 'children', 'after'))
);
create index waits_by_workspace on queue.waits (workspace_id, job_created_at, job_id);
create index waits_by_timeout on queue.waits (timeout_at) where timeout_at is not null;
create index waits_by_next_run on queue.waits (workspace_id, timeout_at, job_id) where timeout_at is not null;
create index waits_by_event on queue.waits (workspace_id, event_name) where event_name is not null;
comment on table queue.waits is 'What each waiting job waits for.';

create table queue.dependencies (
  after_id uuid not null, -- the job waited for
  job_id uuid not null, -- the job that waits
  primary key (after_id, job_id)
);
create index dependencies_by_job on queue.dependencies (job_id);
comment on table queue.dependencies is 'job_id runs after after_id has ended.';

create table queue.sessions (
  session_id text primary key, -- the id, as clients chose it
  workspace_id uuid not null -- the tenant that owns it
);
create index sessions_by_workspace on queue.sessions (workspace_id);
comment on table queue.sessions is E'Which workspace a session id belongs to: the one that enqueued with it first, until its last job of it is gone.\n\nThe topic session:<id> is that workspace''s. Another workspace that uses the same id enqueues as usual, but its jobs are not sent there and its watchers poll. Use ids that cannot be guessed, so that no other tenant claims them first; guest sessions have theirs in queue.guest_sessions.';

create table queue.signals (
  id bigint generated always as identity primary key, -- identity
  -- check: look at job_id; ended: job_id ended; event: an event was emitted; orphans: end
  -- the live children of job_id
  kind text not null,
  job_id uuid, -- the job
  workspace_id uuid, -- tenant of an event
  name text, -- name of an event
  -- who wrote it: a check is made by a later transaction, see queue.due_signals
  xid xid8 not null default pg_current_xact_id(),
  constraint signals_kind_is_known check (kind in ('check', 'ended', 'event', 'orphans'))
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
create index signals_by_workspace on queue.signals (workspace_id, id);
comment on table queue.signals is E'Reasons to look at waiting jobs again, drained by maintenance.\n\nWritten in the transaction that changes something, read in a later one: so no lock is taken out of order and no change is overlooked.';

create table queue.named_events (
  workspace_id uuid not null, -- the tenant
  name text not null, -- name, unique per tenant
  payload jsonb not null, -- JSON it carries
  emitted_at timestamptz not null default queue.clock(), -- when
  -- length of the payload as text, bytes
  bytes integer not null generated always as (octet_length(payload::text)) stored,
  primary key (workspace_id, name)
);
create index named_events_by_time on queue.named_events (emitted_at);
comment on table queue.named_events is 'External events; the first of a name wins.';

create table queue.spawns (
  job_id uuid not null, -- the parent
  name text not null, -- name of the spawn
  job_ids uuid[] not null, -- the children, in order
  primary key (job_id, name)
);
comment on table queue.spawns is 'Children created by each spawn, so that a repeat creates none.';

create table queue.stat_deltas (
  id bigint generated always as identity primary key, -- identity
  at timestamptz not null, -- when
  job_type text not null, -- the type
  workspace_id uuid not null, -- the tenant
  outcome text not null, -- how attempts ended, or enqueued
  jobs bigint not null, -- how many
  cost_usd numeric not null default 0, -- sum of estimated costs
  wait_bucket smallint not null default 0, -- histogram bucket b of the queue time: 1.25^b - 1 to 1.25^(b+1) - 1 ms
  run_bucket smallint not null default 0 -- histogram bucket of the run
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
comment on table queue.stat_deltas is 'Counts as they happen, inserted by each enqueue and settlement; maintenance rolls them up.';

create table queue.stat_minutes (
  minute timestamptz not null, -- start of the minute
  job_type text not null, -- the type
  workspace_id uuid not null, -- the tenant
  outcome text not null, -- how attempts ended
  wait_bucket smallint not null, -- histogram bucket of the queue time
  run_bucket smallint not null, -- histogram bucket of the run
  jobs bigint not null, -- how many
  cost_usd numeric not null, -- sum of estimated costs
  primary key (minute, job_type, workspace_id, outcome, wait_bucket, run_bucket)
);
comment on table queue.stat_minutes is 'The counts of stat_deltas per minute.';

create view queue.known_partitions as
select id, workspace_id, queue, job_type, concurrency_key, priority, claim_from from queue.partitions
union all
select distinct on (o.partition_id) o.partition_id, o.workspace_id, o.queue, o.job_type, o.concurrency_key, o.priority,
  '-infinity'
from queue.openings as o
where not exists (select 1 from queue.partitions as p where p.id = o.partition_id);
comment on view queue.known_partitions is 'Partitions that are open, and those that the next lease opens.';

create view queue.live_jobs as
select workspace_id, job_created_at, job_id from queue.ready
union all select workspace_id, job_created_at, job_id from queue.deferred
union all select workspace_id, job_created_at, job_id from queue.leases
union all select workspace_id, job_created_at, job_id from queue.waits;
comment on view queue.live_jobs is 'Jobs that have not ended, each from the table that holds it: ready, deferred, leases or waits.';
