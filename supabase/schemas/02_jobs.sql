-- This file creates the tables of jobs. public.jobs has one row for each job. A job that has not
-- ended also has a row in a narrow table, for example queue.ready or queue.leases. The narrow
-- table, which is called the place of the job, shows what the job waits for, or which worker runs
-- it.

-- Some columns have the default nullif(0, 0), which is null. Tools that generate client types from
-- the schema show columns with the default nullif(0, 0) as optional. The trigger
-- queue.check_inserted sets the values of these columns. The columns of public.jobs are in the
-- order of their alignment, so that a row without options and with a small payload needs at most
-- 220 bytes. Columns that a later release added are at the end of the table.
create table public.jobs (
  created_at timestamptz not null default queue.clock(),
  updated_at timestamptz not null default queue.clock(),
  started_at timestamptz, -- time of the first start, which later starts do not change
  finished_at timestamptz,
  completed_at timestamptz,
  next_retry_at timestamptz,
  scheduled_for timestamptz,
  deadline_at timestamptz,
  cancel_requested_at timestamptz,
  ord bigint, -- position among the tenant's jobs, which further attempts do not change
  id uuid not null default queue.new_id(),
  workspace_id uuid not null,
  user_id uuid,
  parent_id uuid,
  replay_of uuid,
  lane integer not null default nullif(0, 0),
  priority integer not null default 100,
  attempts integer not null default 0,
  max_attempts integer not null default nullif(0, 0),
  -- number of the latest lease, which each lease increases
  fence integer not null default 0,
  last_seq integer not null default nullif(0, 0), -- number of the job's latest event
  -- version of the job type's payload schema to which the payload conforms
  schema_version integer not null default nullif(0, 0),
  generation integer not null default 1, -- each retry of an ended job adds 1
  lost_attempts integer not null default 0, -- number of attempts that ended their process
  timeout_seconds integer,
  -- Number of the worker that first leased the job (queue.workers.worker). Before the first lease,
  -- the number is 0 if a client's own insert created the job, for the trigger queue.place_inserted,
  -- and otherwise null.
  worker integer,
  queue_ms real, -- time from when the job was ready to its first start
  run_ms real, -- total duration of all attempts
  -- cost of external services that the processor reported, or null
  cost_usd double precision,
  queue text not null default nullif('', ''),
  job_type text not null,
  status text not null default 'pending',
  payload jsonb not null default '{}',
  progress jsonb, -- {percentage, stage, message}, or null before the first report
  result jsonb,
  error_message text,
  error_data jsonb,
  session_id text,
  concurrency_key text,
  idempotency_key text,
  unique_key text,
  replay_from text, -- step at which this job begins to repeat the job replay_of
  traceparent text,
  tags text[],
  is_minimal boolean, -- true if the job has no events of creation and lease, otherwise null
  -- names of the options (queue, max_attempts) that the caller of the enqueue set, stored until a
  -- worker publishes the job type
  chosen text[],
  start_by_seconds integer,
  -- Time at which the job is cancelled if it has not started, which is start_by_seconds after the
  -- job's creation or scheduled time.
  start_by_at timestamptz
) with (
  -- An update writes a new version of the row. If the row's page has free space for the new
  -- version, no index changes. A fillfactor of 76 leaves space for a new version of every second
  -- row. With a fillfactor of 85, a page has space for a new version of only every fourth row. With
  -- a fillfactor of 60, a job takes more than 500 bytes.
  fillfactor = 76,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_cost_delay = 0
);
-- Lists of jobs read the following indexes backwards. Read backwards, an index on job ids returns
-- the newest jobs first, because ids begin with the time of creation.
create index jobs_by_workspace on public.jobs (workspace_id, id);
create index jobs_by_session on public.jobs (session_id, workspace_id, id)
  where session_id is not null;
create index jobs_by_parent on public.jobs (parent_id, id)
  where parent_id is not null;
create index jobs_by_tag on public.jobs using gin (tags) where tags is not null;
-- Create the primary key after all other indexes. For an empty table, the planner estimates the
-- same cost for all indexes and uses the newest index. A session that planned a search by id with
-- another index would read that whole index.
alter table public.jobs add primary key (id);
comment on table public.jobs is
  E'A job is one unit of work with a payload, stored as a row of jobs.\n\n'
  'To enqueue a job, insert a row with status pending.';

create table public.job_logs (
  id bigint generated always as identity primary key,
  job_id uuid not null,
  workspace_id uuid not null,
  attempt integer not null, -- number of the attempt that wrote the line, from 1
  log_level text not null default 'info',
  message text not null,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default queue.clock(),
  constraint job_logs_level_is_known
    check (log_level in ('debug', 'info', 'warning', 'error')),
  constraint job_logs_message_is_bounded check (char_length(message) <= 10000)
);
create index job_logs_by_job on public.job_logs (job_id, id);
comment on table public.job_logs is 'Log lines that processors wrote.';

create table queue.job_types (
  job_type text primary key,
  queue text not null default 'default',
  lane integer, -- row of queue.lanes of the type in its queue
  max_concurrency integer, -- maximum number of running jobs of the type, null for no limit
  workspace_concurrency integer, -- maximum number of running jobs of the type per workspace
  -- maximum number of running jobs of the type per concurrency key of a workspace
  key_concurrency integer,
  -- maximum number of jobs of the type that start in rate_per_seconds (size of a token bucket)
  rate_limit integer,
  rate_per_seconds double precision,
  -- true if rate_limit applies separately to each concurrency key of a workspace
  rate_per_key boolean not null default false,
  lease_seconds integer not null default 60,
  timeout_seconds integer not null default 300,
  max_attempts integer not null default 5,
  backoff_first_seconds double precision not null default 60,
  backoff_cap_seconds double precision not null default 3600,
  backoff_factor double precision not null default 2,
  -- true if the creation and the lease of the type's jobs add no events
  is_minimal boolean not null default false,
  internal boolean not null default false, -- true if only the service enqueues the type
  schema_version integer not null default 1,
  payload_schema jsonb,
  -- True if a delayed job counts against the limit of its concurrency key, so that later jobs of
  -- the key wait for the delayed job. in_order is true only for the job type of webhook deliveries,
  -- which has no rate limit.
  in_order boolean not null default false,
  source text, -- Python location module:function of the processor
  description text,
  -- Reason for which the engine rejected the last registration of the type. The settings of the job
  -- type's earlier registration still apply.
  refusal text,
  -- Time of the last registration of the type. After public.revoke_worker_keys, the time is
  -- -infinity until a worker registers the type again.
  registered_at timestamptz not null default queue.clock(),
  -- commit and time of the deployment that registered the type, or null if the workers report none
  commit text,
  deployed_at timestamptz,
  refused_at timestamptz, -- time since which the type has a refusal
  constraint commit_has_at_most_100_characters check (char_length(commit) <= 100),
  -- If a worker publishes a job type with an invalid value, the error contains the name of the
  -- violated constraint. No constraint combines "between" with another condition, because Postgres
  -- would print the constraint in another form, and tools compare schemas by the printed text.
  constraint job_type_has_1_to_100_plain_characters
    check (
      char_length(job_type) >= 1
      and char_length(job_type) <= 100
      and job_type !~ '[[:cntrl:]]'
    ),
  constraint queue_has_1_to_100_plain_characters
    check (
      char_length(queue) >= 1
      and char_length(queue) <= 100
      and queue !~ '[[:cntrl:]]'
    ),
  constraint concurrency_is_at_least_1
    check (least(max_concurrency, workspace_concurrency, key_concurrency) >= 1),
  constraint rate_limit_is_at_least_1_within_a_year
    check (
      (rate_limit is null) = (rate_per_seconds is null)
      and rate_limit >= 1
      and rate_per_seconds > 0
      and rate_per_seconds <= 31536000
    ),
  constraint lease_and_timeout_are_1_to_43200_seconds
    check (
      lease_seconds >= 1
      and lease_seconds <= 43200
      and timeout_seconds >= 1
      and timeout_seconds <= 43200
    ),
  constraint max_attempts_are_1_to_50 check (max_attempts between 1 and 50),
  constraint backoff_is_0_to_86400_seconds_cap_604800_factor_1_to_10
    check (
      backoff_first_seconds >= 0
      and backoff_first_seconds <= 86400
      and backoff_cap_seconds >= 0
      and backoff_cap_seconds <= 604800
      and backoff_factor >= 1
      and backoff_factor <= 10
    ),
  constraint payload_schema_is_an_object
    check (jsonb_typeof(payload_schema) = 'object')
);
-- a lease reads this index to find the job types whose running jobs it must count
create index job_types_limited on queue.job_types (job_type)
  where max_concurrency is not null
    or workspace_concurrency is not null
    or rate_limit is not null;

create table queue.tenant_limits (
  workspace_id uuid primary key,
  weight integer not null default 1, -- number of the workspace's jobs in each round
  max_running integer, -- limit of running jobs that operators set
  own_max_running integer, -- limit of running jobs that the workspace's managers set
  -- limit of running jobs that applies, which is the smaller of max_running and own_max_running
  running_max integer
    generated always as (least(max_running, own_max_running)) stored,
  -- Maximum number of live jobs of the workspace, above which a person's enqueue is rejected. If
  -- max_pending is null, the setting user_pending_max applies.
  max_pending integer,
  constraint tenant_limits_are_not_negative
    check (
      weight >= 1
      and weight <= 100
      and least(max_running, own_max_running, max_pending) >= 0
    )
);

create table queue.pauses (
  kind text not null, -- job_type, queue, workspace, or workspace_type
  name text not null, -- name of the type or queue, id of the workspace, or <workspace id>/<type>
  workspace_id uuid,
  job_type text,
  paused_at timestamptz not null default queue.clock(),
  paused_by text,
  reason text,
  primary key (kind, name),
  constraint pauses_kind_is_known
    check (kind in ('job_type', 'queue', 'workspace', 'workspace_type')),
  constraint pauses_are_bounded
    check (char_length(name) <= 200 and char_length(reason) <= 1000)
);

-- Each row (ring) stores, for a group of lanes (job types in queues), the tenant after which the
-- next lease begins, and the number of the round in which this tenant was served. A new row of
-- queue.lanes refers to the first ring. If leases serve some lanes faster than others, the lanes
-- get separate rings (queue.advance_ring).
create table queue.rings (
  ring integer generated always as identity primary key,
  round bigint not null default 0,
  last_rank bigint not null default 0,
  last_workspace_id uuid not null default '00000000-0000-0000-0000-000000000000',
  -- Number of jobs that the tenant last_workspace_id got in the round, or 0 if the tenant got as
  -- many jobs as its weight
  last_taken integer not null default 0
) with (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_cost_delay = 0
);
insert into queue.rings default values;

create table queue.lanes (
  lane integer generated always as identity primary key,
  queue text not null,
  job_type text not null,
  -- last minute in which a worker requested jobs of this job type and queue, or null if no worker
  -- serves them
  served_at timestamptz,
  -- Time since which no turn, note, lease, row of queue.gated or job type has referred to the lane,
  -- and no worker or schedule has named its queue. Maintenance deletes the row of a lane one day
  -- after unused_since. If a delayed or waiting job of a deleted lane becomes ready, queue.place
  -- assigns another lane to the job.
  unused_since timestamptz,
  ring integer not null default 1 -- ring of the lane, which leases may change
) with (fillfactor = 50);
-- The index is not unique, so that two transactions that create the same lane do not wait for each
-- other.
create index lanes_by_type on queue.lanes (job_type, queue);
create index lanes_by_ring on queue.lanes (ring);

-- Turns, each for one tenant in one lane (job type in a queue). Leases skip blocked turns. The
-- column look_at of a blocked turn is null if the turn is closed, infinity if it is paused, and the
-- time at which leases check the tenant's limits again if it is limited.
create table queue.turns (
  workspace_id uuid not null,
  lane integer not null,
  -- rank of the tenant, which is the same for all job types and queues. In each round, leases serve
  -- the tenant with the smallest rank first.
  rank bigint not null,
  -- Lower bound of the positions (ord) of the tenant's ready jobs. Leases begin to read queue.ready
  -- at this position, so that they skip the dead rows of jobs that were leased.
  from_ord bigint not null default 0,
  changed_at timestamptz not null, -- time at which a note opened the turn, or the turn was blocked
  blocked boolean not null default false, -- true if leases skip the turn
  look_at timestamptz,
  epoch bigint not null default 0, -- see queue.turn_epochs below
  primary key (workspace_id, lane)
) with (fillfactor = 50);
create index turns_in_order on queue.turns (epoch, rank, workspace_id, lane)
  where not blocked;
create index turns_by_lane on queue.turns (lane, epoch, rank, workspace_id)
  where not blocked;
create index turns_blocked on queue.turns (look_at) where blocked;

-- Numbers of the epochs of queue.turns. A closed turn leaves a dead index entry, which Postgres
-- keeps while an older snapshot exists, for example of a dump. The indexes therefore begin with the
-- epoch. If as many turns were closed in the last epoch as are open now, a lease moves the open
-- turns to a new epoch (queue.begin_epoch). Leases read only the part of the last epoch.
create table queue.turn_epochs (epoch bigint primary key);
-- Approximate number of turns that were closed in the last epoch.
create unlogged sequence queue.turns_closed minvalue 0 start 0; -- noqa: PRS
create view queue.unblocked_turns as
select *
from queue.turns
where not blocked
  and epoch = coalesce(
    (
      select e.epoch
      from queue.turn_epochs as e
      order by e.epoch desc
      limit 1
    ),
    0
  );

-- Each row (note) names a turn that the next lease must open, or a concurrency key whose waiting
-- jobs the next lease must admit. Transactions insert new rows and update no row, because two
-- transactions that update the same row would wait for each other.
create table queue.notes (
  id bigint generated always as identity primary key,
  -- earliest time at which the rate limit of the key allows another start
  look_at timestamptz not null default '-infinity',
  lane integer not null,
  workspace_id uuid not null,
  ord bigint not null default 0, -- smallest ord of the new ready jobs
  key text, -- concurrency key, or null in a note about a turn
  xid xid8 not null default pg_current_xact_id()
);
-- A lower bound of the xid of all notes about turns. The view queue.turn_notes begins at this
-- bound, so that leases skip the index entries of deleted notes. Postgres keeps these entries while
-- an older snapshot exists, for example of a dump.
create unlogged sequence queue.notes_gone minvalue 0 start 0; -- noqa: PRS
create view queue.turn_notes as
select *
from queue.notes
where key is null
  and xid >= (
    select coalesce(pg_sequence_last_value('queue.notes_gone'), 0)::text::xid8
  );
-- Notes about turns and notes about concurrency keys have separate indexes, so that many keys of
-- one tenant do not slow down a lease that looks for ready jobs of other tenants.
create index notes_of_turns on queue.notes (xid, id) where key is null;
create index notes_of_gates on queue.notes (look_at, id) where key is not null;
create index notes_of_gates_by_tenant on queue.notes (workspace_id, look_at, id)
  where key is not null;
create index notes_by_turn on queue.notes (workspace_id, lane, key, xid);

create table queue.ready (
  lane integer not null,
  workspace_id uuid not null,
  ord bigint not null,
  job_id uuid not null,
  ready_at timestamptz not null,
  primary key (lane, workspace_id, ord, job_id)
-- The pages of queue.ready keep free space, because Postgres tries to remove dead rows from a full
-- page at each read of the page.
) with (fillfactor = 90);

-- Each row has a time at which maintenance must handle a live job. The time in a row of
-- queue.deferred is the scheduled start of a delayed job, the deadline of a job, or the latest time
-- for its start.
create table queue.deferred (
  run_at timestamptz not null,
  job_id uuid not null,
  workspace_id uuid not null,
  -- True if the job waits until run_at, in which case no other table of waiting jobs has the job.
  -- False if run_at is only the deadline of the job, or the latest time for the job's start.
  is_place boolean not null,
  primary key (run_at, job_id, is_place)
);
create index deferred_by_workspace on queue.deferred (workspace_id, run_at);

-- Dead letters, which are jobs that have failed and were not retried. The table queue.dead is used
-- instead of an index of public.jobs by status, because such an index would change whenever the
-- status of any job changes.
create table queue.dead (
  workspace_id uuid not null,
  job_id uuid not null,
  primary key (workspace_id, job_id)
);

-- Jobs that a lease or a maintenance task could not change, because the database rejected the
-- change. For example, the database rejects a change if a trigger of the project raises an error.
-- The lease or maintenance task skips a rejected job until retry_at.
create table queue.refusals (
  task text not null, -- 'lease', or the name of a maintenance task
  job_id uuid not null,
  workspace_id uuid not null,
  refused_at timestamptz not null, -- time of the first rejection
  retry_at timestamptz not null,
  failures integer not null default 1,
  failure text, -- error of the last rejection
  primary key (task, job_id)
);

-- Jobs whose type no worker has published yet. In public.jobs, a job of an unpublished type has the
-- lane 0.
create table queue.unpublished (
  job_type text not null,
  workspace_id uuid not null,
  job_id uuid not null,
  primary key (job_type, workspace_id, job_id)
);
create index unpublished_by_workspace on queue.unpublished (workspace_id, job_type);

-- Jobs of types that have a limit for each concurrency key. A row of queue.gated is in one of three
-- states.
-- - Not admitted. The job waits in queue.gated until fewer jobs of its concurrency key than the
--   limit are admitted.
-- - Admitted. The job is ready or running, and counts against the limit of its key.
-- - Ended. The job's attempt has ended. The next call of queue.free_of_key deletes the row of the
--   ended attempt. If the type has a rate limit per key, queue.free_of_key first takes the token of
--   the job's start.
create table queue.gated (
  lane integer not null,
  workspace_id uuid not null,
  -- Type of the job. A limit per concurrency key counts the jobs of a job type in all queues
  -- together.
  job_type text not null,
  -- '' for a job without a key. The rate limit per key also applies to jobs without a key, as if ''
  -- were a key.
  key text not null,
  ord bigint not null,
  job_id uuid not null,
  admitted boolean not null default false,
  ended boolean not null default false, -- true if the job's attempt has ended
  -- Time at which the job started, if the type has a rate limit for each key. The column started_at
  -- is null before the job starts, and infinity after a token of the rate limit was taken for the
  -- start.
  started_at timestamptz,
  primary key (workspace_id, job_type, key, admitted, ord, job_id)
) with (fillfactor = 80);

create table queue.leases (
  job_id uuid primary key,
  workspace_id uuid not null,
  tick_id uuid,
  ord bigint not null, -- position of the job in queue.ready after a release
  ready_at timestamptz not null,
  leased_at timestamptz not null,
  expires_at timestamptz not null, -- not indexed, so that a renewal changes no index
  lane integer not null,
  fence integer not null, -- lease number that each write of the worker must contain
  attempt integer not null,
  worker integer not null,
  tick_call integer not null,
  lease_seconds integer not null,
  -- Number of stored log lines of this attempt, so that a repeated report of the worker stores no
  -- line twice.
  log_lines integer not null default 0,
  step text,
  -- start time of the running step, from the worker's last report
  step_started_at timestamptz,
  key text, -- concurrency key against whose limit the job counts
  -- bytes that the job has written to its streams, null before the first write
  output_bytes bigint,
  -- Object with the keys last, since, place, code, stack and memory_mb. The object describes the
  -- last update that the processor sent, and the line of code that the processor executed when the
  -- worker sent the object, with the calls that led there. These keys are missing in the first
  -- seconds of an attempt, and for workers before release 0.5.0. The key pace has the first and the
  -- last reported percentage of the attempt or its current phase: {from, since, to, until}.
  pulse jsonb
) with (fillfactor = 70);
create index leases_by_lane on queue.leases (lane, workspace_id);

-- Jobs that must not run in one process with ordinary jobs, because the jobs have ended a process
-- or may have ended a process. A suspect is a job whose process ended while the process also ran
-- other jobs. A guilty job has ended a process that ran no other job. The engine deletes a job's
-- row from queue.suspects when a later attempt of the job ends and the process of this attempt
-- continues to run. Only queue.lease_suspects leases suspects and guilty jobs (14_suspects.sql).
create table queue.suspects (
  job_id uuid primary key,
  workspace_id uuid not null,
  worker integer not null, -- the worker whose process ended
  company uuid not null, -- group of suspects that run in one process
  since timestamptz not null
);

-- Leases that a worker process lost, because the lease expired or the job was deleted, while the
-- process kept its other leases. The process may still run the processor of the lost job. Rows are
-- inserted and never updated, so that the deletion of a job never waits for a transaction of the
-- job's worker.
create table queue.lost_leases (
  id bigint generated always as identity primary key,
  worker integer not null,
  lost_at timestamptz not null,
  jobs integer not null -- number of jobs that the process had leased
);

-- Autovacuum starts at a thousand dead rows in each of the following tables, regardless of the size
-- of the table, because most rows of these tables exist only for seconds.
do $$
declare
  v_table regclass;
begin
  foreach v_table in array array[
    'queue.lanes', 'queue.turns', 'queue.notes', 'queue.ready', 'queue.deferred',
    'queue.gated', 'queue.leases'
  ]::regclass[] loop
    execute format(
      'alter table %s set (autovacuum_vacuum_scale_factor = 0, '
        'autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0)',
      v_table
    );
  end loop;
end;
$$;

-- Workers, with the job types and queues that they serve. A lease updates the row of its worker
-- once a minute, and when the worker's settings have changed.
create table queue.workers (
  worker integer generated always as identity primary key,
  worker_id text not null unique,
  started_at timestamptz not null default queue.clock(), -- start of the worker's latest run
  seen_at timestamptz not null default queue.clock(),
  ended_at timestamptz, -- end of the latest run, null while the run is active
  version text,
  job_types text[],
  queues text[], -- queues that the worker serves, null for all queues
  -- summary of the latest run, and when the worker's key was issued and expires (key_issued_at,
  -- key_expires_at)
  summary jsonb,
  evidence jsonb, -- why the worker's process died, as its host reported
  -- [{job_types, limit}]: number of slots for each group of job types. The column slots is null for
  -- workers before release 0.5.0.
  slots jsonb,
  abandoned jsonb, -- [{job_id, place, in_thread}]: stopped jobs whose processors still run
  constraint workers_id_is_bounded check (char_length(worker_id) <= 255)
) with (fillfactor = 50);
alter table queue.workers enable row level security;
revoke all on queue.workers from public, anon, authenticated, service_role;
grant select (worker, worker_id) on queue.workers to authenticated, service_role;
create index workers_by_seen on queue.workers (seen_at);

-- Worker runs. Each row stores the number of the latest request of a worker run that leased jobs,
-- so that public.lease_jobs recognizes a repeated request. Until a request leases jobs, the row
-- stores the number of the run's first request. If the number of concurrent worker runs is limited,
-- the row also shows whether the run is active (queue.admit_run).
create table queue.ticks (
  tick_id uuid primary key,
  seen_at timestamptz not null,
  worker integer,
  last_call integer not null default 0,
  -- true if another run was rejected while this run was active, so that this run must request jobs
  -- once more before it ends
  has_refused boolean not null default false,
  -- Latest time at which the host ends the run. Null if the number of active runs is not limited,
  -- or if the run has ended.
  expires_at timestamptz
) with (fillfactor = 50);
create index ticks_under_way on queue.ticks (expires_at)
  where expires_at is not null;

-- Stored events of jobs. The view public.job_events adds the events that follow from the rows of
-- public.jobs.
create table queue.job_events (
  job_id uuid not null,
  seq integer not null,
  workspace_id uuid not null,
  created_at timestamptz not null,
  type text not null,
  data jsonb not null,
  primary key (job_id, seq)
) with (autovacuum_vacuum_insert_scale_factor = 0.2);

-- Ended attempts. The engine stores no attempt of a job that completed at its first lease, because
-- the job's row contains the same values.
create table queue.attempts (
  job_id uuid not null,
  fence integer not null,
  attempt integer not null,
  worker integer not null,
  leased_at timestamptz not null,
  ended_at timestamptz not null,
  -- The outcome is completed, retry, failed, snoozed, released, waiting, cancelled, lost or died.
  -- The outcome is 'died' if the process ended while it also ran other jobs.
  outcome text not null,
  error_message text,
  error_data jsonb,
  traceback jsonb,
  origin jsonb, -- location of the attempt's log, if the worker knows it
  primary key (job_id, fence)
);

-- Idempotency keys and unique keys. Each row has the id of the job to which the key belongs.
create table queue.job_keys (
  workspace_id uuid not null,
  job_type text not null,
  key text not null,
  is_unique boolean not null,
  job_id uuid not null,
  -- hash of the payload that the caller sent with the idempotency key
  request_hash text,
  -- Condition that frees the key. A unique key is freed when its job is leased or finished, and
  -- that of a job that a person retried when the job is finished (queue.claim). For an idempotency
  -- key, the condition is null, or 'other' if the call created no job because the
  -- unique key belonged to another job.
  freed_when text,
  primary key (workspace_id, job_type, key, is_unique)
);
create index job_keys_of_others on queue.job_keys (job_id) where freed_when = 'other';

create table queue.steps (
  job_id uuid not null,
  name text not null,
  -- 0 for the result of the step, 1 or more for the result of a child job that the step waited for,
  -- -1 for a step that spawned jobs
  nth integer not null default 0,
  kind text not null default 'step', -- step, spawn, or the kind of a wait
  value jsonb not null,
  started_at timestamptz,
  created_at timestamptz not null, -- time at which the step finished
  primary key (job_id, name, nth),
  constraint steps_name_is_bounded check (char_length(name) between 1 and 200)
);

-- Token buckets of rate limits, and counts of live jobs that are used for some seconds before they
-- are counted again. The bucket of a rate limit has the name r:<type>, k:<workspace>/<type>/<key>,
-- u:<person>/<limit>, g:<limit>/<workspace>/<address> or c:<workspace>. The row named q:<workspace>
-- has the number of the workspace's live jobs. The row named b:<workspace> has the number of bytes
-- of the payloads of the workspace's live jobs.
create table queue.buckets (
  name text primary key,
  tokens double precision not null,
  refilled_at timestamptz not null -- time at which the value of tokens was exact
) with (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 500
);

create table queue.feed (
  id bigint generated always as identity,
  -- Readers of queue.feed read its rows in the order of number and id. The number is
  -- queue.feed_base plus the greater of xid and the upper bound (xmax) of the writer's snapshot. If
  -- a transaction changes a job after another transaction, its snapshot has seen the other
  -- transaction. Its xmax and therefore its number are greater, even if its xid is smaller.
  number bigint not null,
  xid xid8 not null default pg_current_xact_id(), -- transaction that wrote the row
  at timestamptz not null,
  workspace_id uuid not null,
  session_id text,
  type text not null,
  data jsonb not null,
  job_ids uuid[] not null,
  -- For each job of job_ids, the number (seq) of the event among the job's events. Null if the job
  -- type does not store the event, so that only statistics and workers read the feed row.
  seqs integer[],
  wakes boolean, -- true if the commit notifies listening workers
  -- True if the statement that inserted the row sent no Realtime message about it. If the statement
  -- sent no message, queue.do_announcements sends the message later.
  unsent boolean,
  -- A row of the type job.completed may also have the jobs that the same call of public.settle_jobs
  -- leased for the tenant and session, so that the call writes one row. The columns are job_ids,
  -- seqs and data of the events job.leased, which come after the events of job_ids.
  leased_ids uuid[],
  leased_seqs integer[],
  leased_data jsonb,
  primary key (workspace_id, number, id)
);
-- store arrays of ids without compression, because ids are random and do not compress
alter table queue.feed
  alter job_ids set storage external,
  alter seqs set storage external,
  alter leased_ids set storage external,
  alter leased_seqs set storage external;
create index feed_by_session on queue.feed (session_id, number, id)
  where session_id is not null;
create index feed_by_number on queue.feed (number);

-- A change is an event that one statement adds to one or more jobs of the same tenant and session.
-- queue.publish inserts most changes into queue.feed.
create type queue.change as (
  workspace_id uuid,
  session_id text,
  type text,
  data jsonb,
  job_ids uuid[],
  seqs integer[],
  at timestamptz
);

-- Tasks of public.run_maintenance. An app may add its own maintenance tasks. The function
-- queue.do_<name> runs the maintenance task <name>. If a function queue.findings_of_<name> exists,
-- explain_queue shows the findings that this function returns.
create table queue.tasks (
  name text primary key,
  every interval not null,
  done_at timestamptz not null default '-infinity', -- time of the task's last run
  -- True if the last run of the task found no work. A maintenance task that found no work is due
  -- again after an hour, or after jobs have run.
  was_idle boolean not null default false,
  -- Time of the next try after a failure, five seconds after the first failure. Each further
  -- failure of the task doubles the delay before the next try, up to an hour.
  retry_at timestamptz,
  failure text, -- error of the last run, if it failed
  failures integer not null default 0, -- number of failures since the last success
  -- Number of the last row of queue.feed that the task has read. The column read_id has the id of
  -- this row of queue.feed. In the task 'live', read_to is the highest number of the rows that were
  -- deleted from queue.feed.
  read_to bigint not null default 0,
  read_id bigint not null default 0,
  after_id uuid, -- id of the last job or schedule that an unfinished run has read
  reads_feed boolean not null default false -- true if the task is due when the feed has unread rows
) with (fillfactor = 50);

-- Stored and derived events of jobs. The view computes the derived events from public.jobs.
create view public.job_events with (security_invoker = on) as
select e.job_id, e.seq, e.type, e.data, e.created_at, e.workspace_id
from queue.job_events as e
union all
select j.id, d.seq, d.type, d.data, d.at, j.workspace_id
from public.jobs as j
cross join lateral (
  values
    (
      1,
      'job.created',
      jsonb_build_object(
        'status', 'pending',
        'attempts', 0,
        'job_type', j.job_type
      ),
      j.created_at,
      j.is_minimal is null
    ),
    (
      2,
      'job.leased',
      jsonb_build_object(
        'status', 'processing',
        'attempts', 1,
        'worker_id', (
          select w.worker_id
          from queue.workers as w
          where w.worker = j.worker
        )
      ),
      j.started_at,
      j.is_minimal is null and j.last_seq >= 2
    ),
    (
      j.last_seq,
      'job.completed',
      '{"status": "completed", "attempts": 1}',
      j.completed_at,
      j.last_seq = case when j.is_minimal then 1 else 3 end
    )
) as d (seq, type, data, at, is_there)
where d.is_there
  and d.at is not null
  and (
    d.seq = 1 and j.is_minimal is null
    or not exists (
      select from queue.job_events as e
      where e.job_id = j.id and e.seq = d.seq
    )
  );
comment on view public.job_events is
  E'Events of each job, numbered by seq from 1 without gaps.\n\n'
  'First subscribe to the topic of the job. Then read all events after the last known seq.';

-- Return a job. Reject the call with status 404 unless the caller may read the job.
create function queue.visible_job(p_job_id uuid)
returns public.jobs
language plpgsql stable
set search_path = ''
as $$
declare
  v_job public.jobs;
begin
  select * into v_job
  from public.jobs
  where id = p_job_id;
  if not found
    or not (queue.is_member(v_job.workspace_id) or queue.is_service())
  then
    perform queue.refuse(
      404,
      'job_not_found',
      'job not found, deleted after its retention, or in a workspace that you may not see',
      p_job_id::text
    );
  end if;
  return v_job;
end;
$$;

-- Store an event for each job in p_ids. The caller must have locked the jobs.
-- p_is_counted: True if the caller has already increased public.jobs.last_seq.
create function queue.append_event(
  p_ids uuid[],
  p_type text,
  p_data jsonb,
  p_now timestamptz,
  p_is_counted boolean default false
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_changes queue.change[];
begin
  with moved as (
    update public.jobs
    set
      last_seq = last_seq + (not p_is_counted)::integer,
      updated_at = p_now
    where id = any (p_ids)
    returning
      id,
      workspace_id,
      session_id,
      last_seq,
      jsonb_build_object('status', status, 'attempts', attempts) || p_data as data
  ),
  stored as (
    insert into queue.job_events (job_id, seq, workspace_id, type, data, created_at)
    select m.id, m.last_seq, m.workspace_id, p_type, m.data, p_now
    from moved as m
  ),
  kinds as (
    select
      m.workspace_id,
      m.session_id,
      m.data,
      array_agg(m.id) as ids,
      array_agg(m.last_seq) as seqs
    from moved as m
    group by 1, 2, 3
  )
  select array_agg(
    row(k.workspace_id, k.session_id, p_type, k.data, k.ids, k.seqs, p_now)::queue.change
  )
  into v_changes
  from kinds as k;
  perform queue.publish(v_changes, p_now);
end;
$$;

select queue.show_to_members('public.jobs');
select queue.show_to_members('public.job_logs');
select queue.show_to_members('public.job_events');
-- the view public.job_events reads queue.job_events with the rights of the caller
select queue.show_to_members('queue.job_events');
create policy "members create jobs" on public.jobs
  for insert
  to authenticated
  with check (
    workspace_id = any (array(select queue.my_workspaces()))
    and user_id = (select queue.caller())
  );
create policy "everyone reads names of workers" on queue.workers
  for select
  to authenticated
  using (true);
grant insert (
  workspace_id, user_id, session_id, queue, job_type, payload, status, priority,
  scheduled_for, max_attempts, idempotency_key, concurrency_key, deadline_at, tags,
  start_by_seconds
)
  on public.jobs
  to authenticated, service_role;
grant insert (id, parent_id, timeout_seconds, traceparent, schema_version), delete
  on public.jobs
  to service_role;

do $$
begin
  if exists (
    select from pg_catalog.pg_publication
    where pubname = 'supabase_realtime' and not puballtables
  ) then
    alter publication supabase_realtime add table public.jobs, public.job_logs;
  end if;
end;
$$;
