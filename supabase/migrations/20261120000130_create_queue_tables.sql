-- Queue membership and policy, apart from the job record: narrow tables that are inserted into and
-- deleted from, so that neither history nor waiting jobs make a lease slower.

create table queue.job_types (
  job_type text primary key,
  queue text not null default 'default',
  max_concurrency integer,
  workspace_concurrency integer,
  key_concurrency integer,
  lease_seconds integer not null default 60,
  timeout_seconds integer not null default 300,
  max_attempts integer not null default 5,
  backoff_first_seconds double precision not null default 60,
  backoff_cap_seconds double precision not null default 3600,
  backoff_factor double precision not null default 2,
  rate_limit integer,
  rate_per_seconds double precision,
  rate_per_key boolean not null default false,
  payload_schema jsonb,
  schema_version integer not null default 1,
  events text not null default 'full',
  live text not null default 'full',
  ageing_seconds integer,
  retention_days jsonb,
  internal boolean not null default false,
  run_p95_ms double precision,
  paused_at timestamptz,
  paused_by text,
  pause_reason text,
  registered_at timestamptz not null default queue.clock(),
  redefinable boolean not null default false,
  tagged_by text[] not null default '{}',
  source text,
  description text,
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
comment on column queue.job_types.job_type is 'Name, 1 to 100 characters.';
comment on column queue.job_types.queue is 'Queue its jobs join unless they name one.';
comment on column queue.job_types.max_concurrency is 'Most jobs of the type running at once; null for no limit.';
comment on column queue.job_types.workspace_concurrency is 'The same, per workspace.';
comment on column queue.job_types.key_concurrency is 'The same, per workspace and concurrency key.';
comment on column queue.job_types.lease_seconds is 'How long a lease lasts unless renewed.';
comment on column queue.job_types.timeout_seconds is 'Longest run of one attempt.';
comment on column queue.job_types.max_attempts is 'Default of jobs.max_attempts.';
comment on column queue.job_types.backoff_first_seconds is 'Wait after the first failed attempt, before jitter.';
comment on column queue.job_types.backoff_cap_seconds is 'Longest wait between attempts.';
comment on column queue.job_types.backoff_factor is 'Each wait is this many times the one before.';
comment on column queue.job_types.rate_limit is 'Token bucket: at most this many starts per rate_per_seconds; null for no limit.';
comment on column queue.job_types.rate_per_seconds is 'Seconds in which the bucket refills whole.';
comment on column queue.job_types.rate_per_key is 'One bucket per workspace and concurrency key instead of one for the type.';
comment on column queue.job_types.payload_schema is 'JSON Schema that payloads must satisfy; null accepts any object.';
comment on column queue.job_types.schema_version is 'Version of payload_schema.';
comment on column queue.job_types.events is 'full, or minimal: no event for creation and lease, no line in attempts for a completion.';
comment on column queue.job_types.live is 'What is sent to Realtime: full; states, nothing on the job''s own topic; or off. Watchers read the rest.';
comment on column queue.job_types.ageing_seconds is 'A ready job gains one priority step each time this many seconds pass; null for never.';
comment on column queue.job_types.retention_days is '{completed, cancelled, failed}: days ended jobs are kept; null takes the setting.';
comment on column queue.job_types.internal is 'True for types that only the platform enqueues: every function refuses a person''s job of it.';
comment on column queue.job_types.run_p95_ms is '95th percentile of recent run times, milliseconds; null before 20 runs.';
comment on column queue.job_types.paused_at is 'Since when no job of the type starts; null while running.';
comment on column queue.job_types.paused_by is 'Who paused it: a user id, or "poison" for the engine itself.';
comment on column queue.job_types.pause_reason is 'Why it is paused.';
comment on column queue.job_types.registered_at is 'When a worker last published it.';
comment on column queue.job_types.redefinable is 'True after worker keys were revoked, until the type is published again: that registration may change anything.';
comment on column queue.job_types.tagged_by is 'Payload fields whose values become tags as name:value, so that jobs are found by them at any age.';
comment on column queue.job_types.source is 'Where its processor is: module:function, as its worker reports it.';
comment on column queue.job_types.description is 'What it does, the first lines of its processor''s docstring.';

create table queue.pauses (
  kind text not null,
  name text not null,
  workspace_id uuid,
  job_type text,
  paused_at timestamptz not null default queue.clock(),
  paused_by text,
  reason text,
  primary key (kind, name),
  constraint pauses_kind_is_known check (kind in ('queue', 'workspace', 'workspace_type')),
  constraint pauses_reason_is_bounded check (char_length(reason) <= 1000)
);
create index pauses_by_workspace on queue.pauses (workspace_id);
comment on table queue.pauses is 'Queues, workspaces, and job types of one workspace, whose jobs do not start for now.';
comment on column queue.pauses.kind is 'queue, workspace, or workspace_type.';
comment on column queue.pauses.name is 'The queue''s name, the workspace''s id, or <workspace id>/<job type>.';
comment on column queue.pauses.workspace_id is 'The workspace, unless kind is queue.';
comment on column queue.pauses.job_type is 'The type, when kind is workspace_type.';
comment on column queue.pauses.paused_at is 'Since when.';
comment on column queue.pauses.paused_by is 'By whom.';
comment on column queue.pauses.reason is 'Why.';

create table queue.failures (
  job_type text not null,
  workspace_id uuid not null,
  fingerprint text not null,
  job_id uuid not null,
  message text,
  failed_at timestamptz not null,
  primary key (job_type, workspace_id, fingerprint, job_id)
);
create index failures_by_time on queue.failures (failed_at);
comment on table queue.failures is 'Unexpected errors of the last minutes, one row per job and fingerprint: many jobs with one error are poison.';
comment on column queue.failures.job_type is 'The type.';
comment on column queue.failures.workspace_id is 'The tenant.';
comment on column queue.failures.fingerprint is 'Hash of the error without its numbers and ids.';
comment on column queue.failures.job_id is 'The job that failed.';
comment on column queue.failures.message is 'Its message, the last time.';
comment on column queue.failures.failed_at is 'The last time.';

create table queue.tenant_limits (
  workspace_id uuid primary key,
  weight double precision not null default 1,
  max_running integer,
  own_max_running integer,
  running_max integer generated always as (least(max_running, own_max_running)) stored,
  max_pending integer,
  constraint tenant_limits_are_positive check (
    weight between 0.01 and 100 and coalesce(max_running, 1) >= 0 and coalesce(own_max_running, 1) >= 0
    and coalesce(max_pending, 1) >= 0)
);
comment on table queue.tenant_limits is 'Share and limits of the workspaces that do not have the defaults.';
comment on column queue.tenant_limits.workspace_id is 'The workspace.';
comment on column queue.tenant_limits.weight is 'Share relative to other workspaces; 1 is the default.';
comment on column queue.tenant_limits.max_running is 'Most jobs running at once; null for no limit.';
comment on column queue.tenant_limits.own_max_running is 'The same, set by the workspace''s own managers; the smaller holds.';
comment on column queue.tenant_limits.running_max is 'The smaller of the two, which holds; null for no limit.';
comment on column queue.tenant_limits.max_pending is 'Most live jobs its members may have; null takes the setting.';

create table queue.live_counts (
  workspace_id uuid primary key,
  live integer not null,
  counted_at timestamptz not null
) with (fillfactor = 50);
comment on table queue.live_counts is 'Live jobs of workspaces as counted a moment ago, for quotas.';
comment on column queue.live_counts.workspace_id is 'The tenant.';
comment on column queue.live_counts.live is 'Live jobs, counted up to the quota.';
comment on column queue.live_counts.counted_at is 'When.';

create table queue.partitions (
  id uuid primary key,
  workspace_id uuid not null,
  queue text not null,
  job_type text not null,
  concurrency_key text not null default '',
  priority integer not null,
  last_leased_at timestamptz not null default '-infinity',
  claim_from timestamptz not null default '-infinity',
  mark_from timestamptz,
  mark_xid xid8,
  rewinds bigint not null default 0,
  set_aside boolean not null default false,
  look_at timestamptz,
  constraint partitions_are_unique unique (workspace_id, job_type, concurrency_key, queue, priority)
) with (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0
);
create index partitions_by_turn
  on queue.partitions (workspace_id, job_type, queue, set_aside, priority, last_leased_at);
create index partitions_set_aside on queue.partitions (look_at) where set_aside;
comment on table queue.partitions is E'Where ready jobs are found: one partition per workspace, type, key, priority and queue.\n\nOpened and closed by leases only, in their short transactions; an enqueue into one that is not open inserts a row into queue.openings. A partition is removed with its last ready job.';
comment on column queue.partitions.id is 'Identity, see partition_id.';
comment on column queue.partitions.workspace_id is 'The tenant.';
comment on column queue.partitions.queue is 'The queue.';
comment on column queue.partitions.job_type is 'The job type.';
comment on column queue.partitions.concurrency_key is 'The concurrency key; empty for none.';
comment on column queue.partitions.priority is 'The priority of its jobs.';
comment on column queue.partitions.last_leased_at is 'When a job was last leased from it: order among a tenant''s partitions.';
comment on column queue.partitions.claim_from is 'Watermark: no ready job is older than this, as far as known.';
comment on column queue.partitions.mark_from is 'The next claim_from: when it was noted, no committed job was older.';
comment on column queue.partitions.mark_xid is 'mark_from holds once all transactions below this have ended: none can commit an older job then.';
comment on column queue.partitions.rewinds is 'Raised when a job older than the watermark came back: a lease that began before must not move the watermark.';
comment on column queue.partitions.set_aside is 'True while its key is at a limit: leases do not read it.';
comment on column queue.partitions.look_at is 'When to look again at the latest; null unless set aside.';

create table queue.turns (
  workspace_id uuid not null,
  job_type text not null,
  queue text not null,
  tag double precision not null,
  set_aside boolean not null default false,
  look_at timestamptz,
  primary key (workspace_id, job_type, queue)
) with (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0
);
create index turns_by_tag on queue.turns (job_type, tag, workspace_id) where not set_aside;
create index turns_by_queue on queue.turns (queue, job_type, tag, workspace_id) where not set_aside;
create index turns_set_aside on queue.turns (look_at) where set_aside;
comment on table queue.turns is E'Tenants that have ready jobs of a type in a queue, in the order of their turn.\n\nA lease reads as many as it asks for jobs, from the smallest tag on. The tag may be older than the tenant''s in queue.shares, never newer: anyone who reads it brings it up to date.';
comment on column queue.turns.workspace_id is 'The tenant.';
comment on column queue.turns.job_type is 'The job type.';
comment on column queue.turns.queue is 'The queue.';
comment on column queue.turns.tag is 'The tenant''s finish tag when it was last written here.';
comment on column queue.turns.set_aside is 'True while the tenant is paused or at a limit: leases do not read it.';
comment on column queue.turns.look_at is 'When to look again at the latest; null unless set aside.';

create table queue.openings (
  id bigint generated always as identity primary key,
  partition_id uuid not null,
  workspace_id uuid not null,
  queue text not null,
  job_type text not null,
  concurrency_key text not null,
  priority integer not null,
  rewind boolean not null default false
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
create index openings_by_workspace on queue.openings (workspace_id, id);
comment on table queue.openings is E'Partitions that got a ready job while they were not open, or one older than their watermark.\n\nInserted only, so that no enqueue waits for another; the next lease opens them.';
comment on column queue.openings.id is 'Identity and order.';
comment on column queue.openings.partition_id is 'The partition.';
comment on column queue.openings.workspace_id is 'Its tenant.';
comment on column queue.openings.queue is 'Its queue.';
comment on column queue.openings.job_type is 'Its job type.';
comment on column queue.openings.concurrency_key is 'Its key; empty for none.';
comment on column queue.openings.priority is 'Its priority.';
comment on column queue.openings.rewind is 'True when a job older than the watermark came back: look from the start.';

create table queue.caps (
  id bigint generated always as identity primary key,
  scope text not null,
  job_type text not null default '',
  workspace_id uuid not null default '00000000-0000-0000-0000-000000000000',
  concurrency_key text not null default '',
  opened_at timestamptz not null default queue.clock(),
  constraint caps_are_unique unique (workspace_id, job_type, concurrency_key, scope),
  constraint caps_scope_is_known check (scope in ('type', 'workspace', 'workspace_type', 'key'))
);
create index caps_by_age on queue.caps (opened_at);
comment on table queue.caps is E'A row to lock for each limited scope: a lease below a limit holds it until the commit.\n\nHeld with skip locked: a lease that does not get it takes something else. It holds no count: under its lock the leases themselves are counted, so that nothing can leak and a settlement needs no lock.';
comment on column queue.caps.id is 'Identity.';
comment on column queue.caps.scope is 'type, workspace, workspace_type or key.';
comment on column queue.caps.job_type is 'The type; empty for a workspace.';
comment on column queue.caps.workspace_id is 'The tenant; the nil UUID for a type.';
comment on column queue.caps.concurrency_key is 'The key; empty for the other scopes.';
comment on column queue.caps.opened_at is 'When it was made; those of keys are removed when they are old and unused.';

create function queue.partition_id(p_workspace_id uuid, p_queue text, p_job_type text, p_key text, p_priority integer)
returns uuid
language plpgsql immutable parallel safe
set search_path = ''
as $$
begin
  -- lengths in front keep two lists of columns from ever being one text
  return encode(substring(sha256(convert_to(concat_ws('/', p_workspace_id, p_priority, length(p_queue), p_queue,
    length(p_job_type), p_job_type, coalesce(p_key, '')), 'UTF8')) for 16), 'hex')::uuid;
end;
$$;
comment on function queue.partition_id is E'Identity of a partition, the same for everyone who computes it: 128 bits of SHA-256 over its columns.\n\nTwo partitions with the same id can neither occur by chance nor be constructed; the table keeps the columns unique as well.';

create table queue.ready (
  partition_id uuid not null,
  ready_at timestamptz not null,
  job_id uuid not null,
  workspace_id uuid not null,
  job_created_at timestamptz not null,
  primary key (partition_id, ready_at, job_id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
-- by a job's own columns, so that one index finds the row of a job and lists a tenant's
create unique index ready_by_workspace on queue.ready (workspace_id, job_created_at, job_id);
comment on table queue.ready is 'Jobs that may be leased now. Rows are never updated: a lease finds those it chose by ctid.';
comment on column queue.ready.partition_id is 'Its partition.';
comment on column queue.ready.ready_at is 'Since when: order inside the partition.';
comment on column queue.ready.job_id is 'The job.';
comment on column queue.ready.workspace_id is 'The tenant, for lists.';
comment on column queue.ready.job_created_at is 'When the job was enqueued: order of lists.';

create table queue.deferred (
  job_id uuid primary key,
  run_at timestamptz not null,
  partition_id uuid not null,
  workspace_id uuid not null,
  job_created_at timestamptz not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
create index deferred_by_time on queue.deferred (run_at);
create index deferred_by_workspace on queue.deferred (workspace_id, job_created_at, job_id);
create index deferred_by_next_run on queue.deferred (workspace_id, run_at, job_id);
comment on table queue.deferred is 'Pending jobs that may not be leased before a time: scheduled, backing off, snoozed.';
comment on column queue.deferred.job_id is 'The job.';
comment on column queue.deferred.run_at is 'From when.';
comment on column queue.deferred.partition_id is 'The partition it joins then.';
comment on column queue.deferred.workspace_id is 'The tenant, for lists.';
comment on column queue.deferred.job_created_at is 'When the job was enqueued: order of lists.';

create table queue.ended (
  workspace_id uuid not null,
  outcome text not null,
  job_created_at timestamptz not null,
  job_id uuid not null,
  job_type text not null,
  ended_at timestamptz not null,
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
comment on column queue.ended.workspace_id is 'The tenant.';
comment on column queue.ended.outcome is 'completed, failed or cancelled.';
comment on column queue.ended.job_created_at is 'When the job was enqueued: order of lists.';
comment on column queue.ended.job_id is 'The job.';
comment on column queue.ended.job_type is 'Its type: retention has days of its own for some.';
comment on column queue.ended.ended_at is 'When it ended: order of retention, over all tenants.';

create table queue.arrivals (
  xid xid8 not null,
  job_id uuid not null,
  primary key (xid, job_id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
comment on table queue.arrivals is 'Jobs of a plain insert, until its statement ends. No other transaction ever sees one.';
comment on column queue.arrivals.xid is 'The transaction that inserts.';
comment on column queue.arrivals.job_id is 'The job.';

create table queue.deadlines (
  job_id uuid primary key,
  deadline_at timestamptz not null
);
create index deadlines_by_time on queue.deadlines (deadline_at);
comment on table queue.deadlines is 'Live jobs that have a deadline.';
comment on column queue.deadlines.job_id is 'The job.';
comment on column queue.deadlines.deadline_at is 'Not started after it.';

create table queue.batch_members (
  job_id uuid primary key,
  batch_id uuid not null,
  workspace_id uuid not null
);
create index batch_members_by_batch on queue.batch_members (batch_id, workspace_id);
comment on table queue.batch_members is 'Live jobs of batches: a closed batch without any is finished.';
comment on column queue.batch_members.job_id is 'The job.';
comment on column queue.batch_members.batch_id is 'Its batch.';
comment on column queue.batch_members.workspace_id is 'The tenant: two may have chosen the same id.';

create table queue.leases (
  job_id uuid primary key,
  fence bigint not null,
  workspace_id uuid not null,
  job_type text not null,
  concurrency_key text not null default '',
  partition_id uuid not null,
  ready_at timestamptz not null,
  attempt integer not null,
  worker_id text not null,
  tick_id uuid,
  tick_call integer,
  leased_at timestamptz not null,
  lease_seconds integer not null,
  expires_at timestamptz not null,
  job_created_at timestamptz not null,
  cancel_requested boolean not null default false,
  log_lines integer not null default 0
) with (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0
);
create index leases_by_workspace on queue.leases (workspace_id, job_type, concurrency_key);
create index leases_by_type on queue.leases (job_type);
comment on table queue.leases is 'Jobs a worker holds right now. Limits count these rows; expires_at is not indexed, so renewals stay heap-only.';
comment on column queue.leases.job_id is 'The job.';
comment on column queue.leases.fence is 'Fencing token: each write of the holder must show it.';
comment on column queue.leases.workspace_id is 'The tenant, for limits.';
comment on column queue.leases.job_type is 'The type, for limits.';
comment on column queue.leases.concurrency_key is 'The key, for limits; empty for none.';
comment on column queue.leases.partition_id is 'The partition it came from and returns to.';
comment on column queue.leases.ready_at is 'Since when it had been ready: its place in the partition if it is released, and the start of its queue time.';
comment on column queue.leases.attempt is 'The attempt this lease is.';
comment on column queue.leases.worker_id is 'Who holds it.';
comment on column queue.leases.tick_id is 'The tick that took it.';
comment on column queue.leases.tick_call is 'The call within the tick: a repeated call gets the same leases.';
comment on column queue.leases.leased_at is 'Since when.';
comment on column queue.leases.lease_seconds is 'Length of the lease and of each renewal.';
comment on column queue.leases.expires_at is 'When it expires; set here and never recomputed from settings.';
comment on column queue.leases.job_created_at is 'When the job was enqueued: order of lists.';
comment on column queue.leases.cancel_requested is 'True when the holder is to stop; the answer to its next report says so.';
comment on column queue.leases.log_lines is 'Log lines stored of this attempt: a repeated report adds only the lines after these.';

create table queue.attempts (
  job_id uuid not null,
  fence bigint not null,
  attempt integer not null,
  worker_id text not null,
  leased_at timestamptz not null,
  ended_at timestamptz not null,
  outcome text not null,
  error_message text,
  error_data jsonb,
  traceback jsonb,
  origin jsonb,
  primary key (job_id, fence)
);
comment on table queue.attempts is 'How each ended attempt went. The running one is in leases.';
comment on column queue.attempts.job_id is 'The job.';
comment on column queue.attempts.fence is 'The lease''s fencing token.';
comment on column queue.attempts.attempt is 'Counted from 1; the same number twice when one was given back.';
comment on column queue.attempts.worker_id is 'Who ran it.';
comment on column queue.attempts.leased_at is 'Its start.';
comment on column queue.attempts.ended_at is 'Its end.';
comment on column queue.attempts.outcome is 'completed, retry, failed, snoozed, released, waiting, cancelled or lost.';
comment on column queue.attempts.error_message is 'Its error, if any.';
comment on column queue.attempts.error_data is 'Details of the error.';
comment on column queue.attempts.traceback is '{frames: [{file, line, function, code, own}], causes, left_out}, the innermost of the user''s own code first, without values of variables; job_attempts shows it to those who may see it.';
comment on column queue.attempts.origin is 'Where its log is: {version, request_id, log_group, log_stream, region}, as far as the worker knows.';

create table queue.job_keys (
  workspace_id uuid not null,
  job_type text not null,
  key text not null,
  request_hash text not null,
  job_id uuid not null,
  expires_at timestamptz not null,
  primary key (workspace_id, job_type, key)
);
create index job_keys_by_expiry on queue.job_keys (expires_at);
create index job_keys_by_job on queue.job_keys (job_id);
comment on table queue.job_keys is 'Idempotency keys, each with its job.';
comment on column queue.job_keys.workspace_id is 'The tenant.';
comment on column queue.job_keys.job_type is 'The type; the same key of another type is another key.';
comment on column queue.job_keys.key is 'The caller''s key.';
comment on column queue.job_keys.request_hash is 'Hash of the payload; another payload under the same key is refused.';
comment on column queue.job_keys.job_id is 'The job a repeat gets.';
comment on column queue.job_keys.expires_at is 'Until when the key is remembered.';

create table queue.unique_jobs (
  workspace_id uuid not null,
  job_type text not null,
  key text not null,
  job_id uuid not null,
  until text not null,
  primary key (workspace_id, job_type, key),
  constraint unique_jobs_until_is_known check (until in ('leased', 'finished'))
);
create index unique_jobs_by_job on queue.unique_jobs (job_id);
comment on table queue.unique_jobs is 'Which job holds a unique key now.';
comment on column queue.unique_jobs.workspace_id is 'The tenant.';
comment on column queue.unique_jobs.job_type is 'The type.';
comment on column queue.unique_jobs.key is 'The key.';
comment on column queue.unique_jobs.job_id is 'Its holder.';
comment on column queue.unique_jobs.until is 'Freed when the job is leased, or when it ends.';

create table queue.buckets (
  job_type text not null,
  workspace_id uuid not null,
  concurrency_key text not null,
  tokens double precision not null,
  refilled_at timestamptz not null,
  primary key (job_type, workspace_id, concurrency_key)
) with (fillfactor = 50);
comment on table queue.buckets is 'Token buckets of rate-limited types; the nil UUID and an empty key mean the whole type.';
comment on column queue.buckets.job_type is 'The type.';
comment on column queue.buckets.workspace_id is 'The tenant, or the nil UUID.';
comment on column queue.buckets.concurrency_key is 'The key, or empty.';
comment on column queue.buckets.tokens is 'Starts left at refilled_at.';
comment on column queue.buckets.refilled_at is 'When tokens was computed.';

create table queue.ticks (
  tick_id uuid primary key,
  worker_id text not null,
  version text,
  job_types text[],
  queues text[],
  started_at timestamptz not null,
  seen_at timestamptz not null,
  ended_at timestamptz,
  last_call integer not null default 0,
  free_slots integer not null default 0,
  leased bigint not null default 0,
  leased_at timestamptz,
  summary jsonb
) with (fillfactor = 50);
create index ticks_by_start on queue.ticks (started_at desc);
comment on table queue.ticks is 'Runs of the worker, the recent ones.';
comment on column queue.ticks.tick_id is 'Identity, chosen by the worker.';
comment on column queue.ticks.worker_id is 'Who ran it.';
comment on column queue.ticks.version is 'Code version of the worker.';
comment on column queue.ticks.job_types is 'Types it serves; null for all.';
comment on column queue.ticks.queues is 'Queues it serves; null for all.';
comment on column queue.ticks.started_at is 'Its first call.';
comment on column queue.ticks.seen_at is 'Its latest call.';
comment on column queue.ticks.ended_at is 'When it reported its end; null while it runs or if it died.';
comment on column queue.ticks.last_call is 'Highest lease call answered.';
comment on column queue.ticks.free_slots is 'Slots it could still fill, as last reported.';
comment on column queue.ticks.leased is 'Jobs it leased.';
comment on column queue.ticks.leased_at is 'When it last got a job; null for never.';
comment on column queue.ticks.summary is 'Counts it reported at its end.';

create table queue.shares (
  workspace_id uuid primary key,
  finish_tag double precision not null
) with (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0
);
insert into queue.shares values ('00000000-0000-0000-0000-000000000000', 0);
comment on table queue.shares is E'Virtual time of each tenant: start-time fair queueing.\n\nSource: Goyal, Vin, Cheng, "Start-time Fair Queuing", SIGCOMM 1996. The nil UUID holds the system''s virtual time.';
comment on column queue.shares.workspace_id is 'The tenant.';
comment on column queue.shares.finish_tag is 'Virtual time at which its last leased job would finish.';

create table queue.maintenance_tasks (
  name text primary key,
  done_at timestamptz not null default '-infinity',
  cursor text,
  failed_at timestamptz,
  failure text,
  failures integer not null default 0
) with (fillfactor = 50);
comment on table queue.maintenance_tasks is 'The tasks of maintenance, and when each was last done.';
comment on column queue.maintenance_tasks.name is 'The task.';
comment on column queue.maintenance_tasks.done_at is 'When.';
comment on column queue.maintenance_tasks.cursor is 'Where it stopped, for tasks done in slices.';
comment on column queue.maintenance_tasks.failed_at is 'When it last failed; null for never.';
comment on column queue.maintenance_tasks.failure is 'The error of that time.';
comment on column queue.maintenance_tasks.failures is 'How often it has failed since it last succeeded: each failure parks it for twice as long.';
insert into queue.maintenance_tasks (name)
select unnest(array[
  'reclaim', 'waits', 'signals', 'schedules', 'promotion', 'deliveries', 'expire', 'poison', 'statistics',
  'retention', 'old_rows', 'orphans', 'messages', 'sweep', 'buckets']);

create table queue.wakeups (
  id integer primary key default 1,
  requested_at timestamptz,
  constraint wakeups_is_one_row check (id = 1)
) with (fillfactor = 10);
insert into queue.wakeups default values;
comment on table queue.wakeups is 'One row: the wake-up that was requested and that no lease has answered yet.';
comment on column queue.wakeups.id is 'Always 1.';
comment on column queue.wakeups.requested_at is 'When; null after the next lease call.';

create table queue.steps (
  job_id uuid not null,
  name text not null,
  kind text not null default 'step',
  result jsonb not null,
  started_at timestamptz,
  created_at timestamptz not null default queue.clock(),
  workspace_id uuid,
  event_name text,
  bytes integer not null generated always as (octet_length(result::text)) stored,
  primary key (job_id, name),
  constraint steps_name_is_bounded check (char_length(name) between 1 and 200)
);
create index steps_by_event on queue.steps (workspace_id, event_name) where event_name is not null;
comment on table queue.steps is 'Memoised results: a later attempt continues after the last finished step.';
comment on column queue.steps.job_id is 'The job.';
comment on column queue.steps.name is 'Name of the step, unique in the job.';
comment on column queue.steps.kind is 'step, or the kind of the wait that became it: sleep, ask, event, children, after.';
comment on column queue.steps.result is '{"value": …}: the step''s result.';
comment on column queue.steps.started_at is 'When it began; null where its worker did not report it.';
comment on column queue.steps.created_at is 'When it finished.';
comment on column queue.steps.workspace_id is 'The tenant of the event; null for other steps.';
comment on column queue.steps.event_name is 'The event whose payload is the result: stored once, however many jobs waited for it. Null for other steps.';
comment on column queue.steps.bytes is 'Length of result as text, bytes.';

create table queue.running_steps (
  job_id uuid primary key,
  fence bigint not null,
  name text not null,
  started_at timestamptz not null,
  constraint running_steps_name_is_bounded check (char_length(name) between 1 and 200)
) with (fillfactor = 50);
comment on table queue.running_steps is 'The step a running job is in, as last reported by its worker; valid only while the job''s lease has the same fence.';
comment on column queue.running_steps.job_id is 'The job.';
comment on column queue.running_steps.fence is 'The fencing token of the lease that reported it.';
comment on column queue.running_steps.name is 'Name of the step.';
comment on column queue.running_steps.started_at is 'When it began.';

create table queue.waits (
  job_id uuid primary key,
  workspace_id uuid not null,
  kind text not null,
  name text not null,
  data jsonb not null default '{}',
  event_name text,
  timeout_at timestamptz,
  default_value jsonb,
  created_at timestamptz not null default queue.clock(),
  job_created_at timestamptz not null,
  open_jobs integer,
  failed_jobs integer not null default 0,
  gathered integer not null default 0,
  constraint waits_kind_is_known check (kind in ('sleep', 'ask', 'event', 'children', 'after'))
);
create index waits_by_workspace on queue.waits (workspace_id, job_created_at, job_id);
create index waits_by_timeout on queue.waits (timeout_at) where timeout_at is not null;
create index waits_by_next_run on queue.waits (workspace_id, timeout_at, job_id) where timeout_at is not null;
create index waits_by_event on queue.waits (workspace_id, event_name) where event_name is not null;
comment on table queue.waits is 'What each waiting job waits for.';
comment on column queue.waits.job_id is 'The job.';
comment on column queue.waits.workspace_id is 'The tenant.';
comment on column queue.waits.kind is 'sleep, ask, event, children, or after (dependencies).';
comment on column queue.waits.name is 'Step that receives the value.';
comment on column queue.waits.data is 'Question and options, or the children''s ids, or the policy.';
comment on column queue.waits.event_name is 'The event, when kind is event.';
comment on column queue.waits.timeout_at is 'When it ends by itself; null for never.';
comment on column queue.waits.default_value is 'What the step gets at the timeout.';
comment on column queue.waits.created_at is 'Since when.';
comment on column queue.waits.job_created_at is 'When the job was enqueued: order of lists.';
comment on column queue.waits.open_jobs is 'How many of the jobs waited for have not ended: rows of queue.dependencies. Null until children are counted.';
comment on column queue.waits.failed_jobs is 'How many of them failed or were cancelled.';
comment on column queue.waits.gathered is 'How many children''s results are copied.';

create table queue.dependencies (
  after_id uuid not null,
  job_id uuid not null,
  primary key (after_id, job_id)
);
create index dependencies_by_job on queue.dependencies (job_id);
comment on table queue.dependencies is 'job_id runs after after_id has ended.';
comment on column queue.dependencies.after_id is 'The job waited for.';
comment on column queue.dependencies.job_id is 'The job that waits.';

create table queue.sessions (
  session_id text primary key,
  workspace_id uuid not null
);
create index sessions_by_workspace on queue.sessions (workspace_id);
comment on table queue.sessions is E'Which workspace a session id belongs to: the one that enqueued with it first, until its last job of it is gone.\n\nThe topic session:<id> is that workspace''s. Another workspace that uses the same id enqueues as usual, but its jobs are not sent there and its watchers poll. Use ids that cannot be guessed, so that no other tenant claims them first; guest sessions have theirs in queue.guest_sessions.';
comment on column queue.sessions.session_id is 'The id, as clients chose it.';
comment on column queue.sessions.workspace_id is 'The tenant that owns it.';

create table queue.signals (
  id bigint generated always as identity primary key,
  kind text not null,
  job_id uuid,
  workspace_id uuid,
  name text,
  xid xid8 not null default pg_current_xact_id(),
  constraint signals_kind_is_known check (kind in ('check', 'ended', 'event', 'batch', 'orphans'))
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
create index signals_by_workspace on queue.signals (workspace_id, id);
comment on table queue.signals is E'Reasons to look at waiting jobs again, drained by maintenance.\n\nWritten in the transaction that changes something, read in a later one: so no lock is taken out of order and no change is overlooked.';
comment on column queue.signals.id is 'Identity.';
comment on column queue.signals.kind is 'check: look at job_id; ended: job_id ended; event: an event was emitted; batch: look at batch job_id; orphans: end the live children of job_id.';
comment on column queue.signals.job_id is 'The job or batch.';
comment on column queue.signals.workspace_id is 'Tenant of an event.';
comment on column queue.signals.name is 'Name of an event.';
comment on column queue.signals.xid is 'Who wrote it: a check is made by a later transaction, see queue.due_signals.';

create table queue.named_events (
  workspace_id uuid not null,
  name text not null,
  payload jsonb not null,
  emitted_at timestamptz not null default queue.clock(),
  bytes integer not null generated always as (octet_length(payload::text)) stored,
  primary key (workspace_id, name)
);
create index named_events_by_time on queue.named_events (emitted_at);
comment on table queue.named_events is 'External events; the first of a name wins.';
comment on column queue.named_events.workspace_id is 'The tenant.';
comment on column queue.named_events.name is 'Name, unique per tenant.';
comment on column queue.named_events.payload is 'JSON it carries.';
comment on column queue.named_events.emitted_at is 'When.';
comment on column queue.named_events.bytes is 'Length of the payload as text, bytes.';

create table queue.spawns (
  job_id uuid not null,
  name text not null,
  job_ids uuid[] not null,
  primary key (job_id, name)
);
comment on table queue.spawns is 'Children created by each spawn, so that a repeat creates none.';
comment on column queue.spawns.job_id is 'The parent.';
comment on column queue.spawns.name is 'Name of the spawn.';
comment on column queue.spawns.job_ids is 'The children, in order.';

create table queue.batches (
  id uuid not null,
  workspace_id uuid not null,
  callback jsonb,
  callback_job_id uuid,
  closed_at timestamptz,
  finished_at timestamptz,
  problem text,
  created_at timestamptz not null default queue.clock(),
  primary key (id, workspace_id)
);
create index batches_by_end on queue.batches (finished_at) where finished_at is not null;
create index batches_by_workspace on queue.batches (workspace_id);
comment on table queue.batches is 'Jobs enqueued together, with a callback when all have ended.';
comment on column queue.batches.id is 'Identity within the tenant: callers choose it, and two tenants may choose the same.';
comment on column queue.batches.workspace_id is 'The tenant.';
comment on column queue.batches.callback is '{job_type, payload, …} enqueued once at the end; null for none.';
comment on column queue.batches.callback_job_id is 'The job the callback became.';
comment on column queue.batches.closed_at is 'When no more jobs may join.';
comment on column queue.batches.finished_at is 'When its last job ended.';
comment on column queue.batches.problem is 'Why the callback could not be enqueued; null when it was.';
comment on column queue.batches.created_at is 'When it was created.';

create table queue.stat_deltas (
  id bigint generated always as identity primary key,
  at timestamptz not null,
  job_type text not null,
  workspace_id uuid not null,
  outcome text not null,
  jobs bigint not null,
  wait_ms double precision not null default 0,
  run_ms double precision not null default 0,
  cost_usd numeric not null default 0,
  wait_bucket smallint not null default 0,
  run_bucket smallint not null default 0
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
comment on table queue.stat_deltas is 'Counts as they happen, inserted by each enqueue and settlement; maintenance rolls them up.';
comment on column queue.stat_deltas.id is 'Identity.';
comment on column queue.stat_deltas.at is 'When.';
comment on column queue.stat_deltas.job_type is 'The type.';
comment on column queue.stat_deltas.workspace_id is 'The tenant.';
comment on column queue.stat_deltas.outcome is 'How attempts ended, or enqueued.';
comment on column queue.stat_deltas.jobs is 'How many.';
comment on column queue.stat_deltas.wait_ms is 'Sum of queue times, milliseconds.';
comment on column queue.stat_deltas.run_ms is 'Sum of run times, milliseconds.';
comment on column queue.stat_deltas.cost_usd is 'Sum of estimated costs.';
comment on column queue.stat_deltas.wait_bucket is 'Histogram bucket of the queue time, see stat_bucket.';
comment on column queue.stat_deltas.run_bucket is 'Histogram bucket of the run.';

create table queue.stat_minutes (
  minute timestamptz not null,
  job_type text not null,
  workspace_id uuid not null,
  outcome text not null,
  wait_bucket smallint not null,
  run_bucket smallint not null,
  jobs bigint not null,
  wait_ms double precision not null,
  run_ms double precision not null,
  cost_usd numeric not null,
  primary key (minute, job_type, workspace_id, outcome, wait_bucket, run_bucket)
);
comment on table queue.stat_minutes is 'The counts of stat_deltas per minute.';
comment on column queue.stat_minutes.minute is 'Start of the minute.';
comment on column queue.stat_minutes.job_type is 'The type.';
comment on column queue.stat_minutes.workspace_id is 'The tenant.';
comment on column queue.stat_minutes.outcome is 'How attempts ended.';
comment on column queue.stat_minutes.wait_bucket is 'Histogram bucket of the queue time.';
comment on column queue.stat_minutes.run_bucket is 'Histogram bucket of the run.';
comment on column queue.stat_minutes.jobs is 'How many.';
comment on column queue.stat_minutes.wait_ms is 'Sum of queue times, milliseconds.';
comment on column queue.stat_minutes.run_ms is 'Sum of run times, milliseconds.';
comment on column queue.stat_minutes.cost_usd is 'Sum of estimated costs.';

create view queue.known_partitions as
select id, workspace_id, queue, job_type, concurrency_key, priority, claim_from from queue.partitions
union all
select distinct on (o.partition_id) o.partition_id, o.workspace_id, o.queue, o.job_type, o.concurrency_key, o.priority,
  '-infinity'
from queue.openings as o
where not exists (select 1 from queue.partitions as p where p.id = o.partition_id);
comment on view queue.known_partitions is 'Partitions that are open, and those that the next lease opens.';
comment on column queue.known_partitions.id is 'Its id.';
comment on column queue.known_partitions.workspace_id is 'The tenant.';
comment on column queue.known_partitions.queue is 'The queue.';
comment on column queue.known_partitions.job_type is 'The job type.';
comment on column queue.known_partitions.concurrency_key is 'The concurrency key; empty for none.';
comment on column queue.known_partitions.priority is 'The priority of its jobs.';
comment on column queue.known_partitions.claim_from is 'No job older than this is left.';
revoke all on queue.known_partitions from public, anon, authenticated, service_role;

create view queue.live_jobs as
select workspace_id, job_created_at, job_id from queue.ready
union all select workspace_id, job_created_at, job_id from queue.deferred
union all select workspace_id, job_created_at, job_id from queue.leases
union all select workspace_id, job_created_at, job_id from queue.waits;
comment on view queue.live_jobs is 'Jobs that have not ended, each from the table that holds it: ready, deferred, leases or waits.';
comment on column queue.live_jobs.workspace_id is 'The tenant.';
comment on column queue.live_jobs.job_created_at is 'When it was enqueued.';
comment on column queue.live_jobs.job_id is 'The job.';
revoke all on queue.live_jobs from public, anon, authenticated, service_role;

do $$
declare
  v_table text;
begin
  for v_table in select tablename from pg_catalog.pg_tables where schemaname = 'queue' loop
    execute format('alter table queue.%I enable row level security', v_table);
    execute format('revoke all on queue.%I from public, anon, authenticated, service_role', v_table);
  end loop;
end;
$$;
