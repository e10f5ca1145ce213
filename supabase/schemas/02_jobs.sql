-- The record of a job, its log and history, and the narrow tables of where it is while it lives.

-- A default of nullif(0, 0) is null. It is there so that client types, which are generated, have
-- the column as optional; the trigger of a plain insert fills it in. The columns are in the order
-- of their alignment, which keeps a row at 220 bytes.
create table public.jobs (
  created_at timestamptz not null default queue.clock(),
  updated_at timestamptz not null default queue.clock(),
  started_at timestamptz, -- the first start, kept over retries and waits
  finished_at timestamptz,
  completed_at timestamptz,
  next_retry_at timestamptz,
  scheduled_for timestamptz,
  deadline_at timestamptz,
  cancel_requested_at timestamptz,
  ord bigint, -- the order among its tenant's jobs, which it keeps when it is put off
  id uuid not null default queue.new_id(),
  workspace_id uuid not null,
  user_id uuid,
  parent_id uuid,
  replay_of uuid,
  lane integer not null default nullif(0, 0),
  priority integer not null default 100,
  attempts integer not null default 0,
  max_attempts integer not null default nullif(0, 0),
  -- token of the latest lease; rises with each, never falls
  fence integer not null default 0,
  last_seq integer not null default nullif(0, 0), -- number of its latest event
  -- the payload's, by its type's versions
  schema_version integer not null default nullif(0, 0),
  generation integer not null default 1, -- raised by each retry of an ended job
  lost_attempts integer not null default 0, -- attempts whose lease expired
  timeout_seconds integer,
  worker integer, -- that leased it first; 0 until then for a job of a plain insert
  queue_ms real, -- queue time: from being ready to its first start
  run_ms real, -- durations of its attempts together
  -- of foreign services, as its processor counted it; null for none
  cost_usd double precision,
  queue text not null default nullif('', ''),
  job_type text not null,
  status text not null default 'pending',
  payload jsonb not null default '{}',
  progress jsonb, -- {percentage, stage, message}; null before the first report
  result jsonb,
  error_message text,
  error_data jsonb,
  session_id text,
  concurrency_key text,
  idempotency_key text,
  unique_key text,
  replay_from text, -- the step of replay_of from which it runs again
  traceparent text,
  tags text[],
  is_minimal boolean, -- no events of creation and lease; null for usual
  -- before its type is known: which of queue and max_attempts its caller gave
  chosen text[],
  start_by_seconds integer,
  -- when it is cancelled unless it has started: so long after it was created or is due
  start_by_at timestamptz
) with (
  -- a page needs space for the next versions of its rows, else each update writes the indexes: 76
  -- suffices for every second row, 85 for every fourth; at 60 a job keeps more than 500 bytes
  fillfactor = 76,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_cost_delay = 0
);
-- lists read these backwards: an id begins with its instant
create index jobs_by_workspace on public.jobs (workspace_id, id);
create index jobs_by_session on public.jobs (session_id, workspace_id, id)
  where session_id is not null;
create index jobs_by_parent on public.jobs (parent_id, id)
  where parent_id is not null;
create index jobs_by_tag on public.jobs using gin (tags) where tags is not null;
-- last: of indexes of equal cost, as all have while statistics say that the table is empty, the
-- planner takes the newest; jobs_by_workspace would find an id by reading the whole index
alter table public.jobs add primary key (id);
comment on table public.jobs is
  E'Background jobs, one row each.\n\nInsert a row with status pending to enqueue.';

create table public.job_logs (
  id bigint generated always as identity primary key,
  job_id uuid not null,
  workspace_id uuid not null,
  attempt integer not null, -- that wrote it, from 1
  log_level text not null default 'info',
  message text not null,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default queue.clock(),
  constraint job_logs_level_is_known
    check (log_level in ('debug', 'info', 'warning', 'error')),
  constraint job_logs_message_is_bounded check (char_length(message) <= 10000)
);
create index job_logs_by_job on public.job_logs (job_id, id);
comment on table public.job_logs is 'Lines that processors wrote while they ran.';

create table queue.job_types (
  job_type text primary key,
  queue text not null default 'default',
  lane integer, -- of the type in that queue
  max_concurrency integer, -- most jobs of the type running at once; null for no limit
  workspace_concurrency integer, -- the same, per workspace
  key_concurrency integer, -- the same, per workspace and concurrency key
  rate_limit integer, -- starts that a bucket holds; it fills within rate_per_seconds
  rate_per_seconds double precision,
  rate_per_key boolean not null default false, -- one rate for each workspace and key
  lease_seconds integer not null default 60,
  timeout_seconds integer not null default 300,
  max_attempts integer not null default 5,
  backoff_first_seconds double precision not null default 60,
  backoff_cap_seconds double precision not null default 3600,
  backoff_factor double precision not null default 2,
  is_minimal boolean not null default false, -- no events of creation and lease
  internal boolean not null default false, -- only the service enqueues it
  schema_version integer not null default 1,
  payload_schema jsonb,
  -- a job that is put off keeps the slot of its key; webhooks' type alone, which has no rate
  in_order boolean not null default false,
  source text, -- module:function of its processor
  description text,
  refusal text, -- why its last registration was refused; the policy before it holds
  -- -infinity: worker keys were revoked
  registered_at timestamptz not null default queue.clock(),
  -- the code that it is of, and when that was deployed; null where its workers do not say
  commit text,
  deployed_at timestamptz,
  constraint commit_has_at_most_100_characters check (char_length(commit) <= 100),
  -- A worker that publishes another value is shown the constraint's name. There is no "between", so
  -- that what Postgres prints of a check is read back as the same: tools compare schemas by that.
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
alter table queue.job_types enable row level security;
revoke all on queue.job_types from public, anon, authenticated, service_role;
-- by which a lease finds the types whose leases it must count
create index job_types_limited on queue.job_types (job_type)
  where max_concurrency is not null
    or workspace_concurrency is not null
    or rate_limit is not null;

create table queue.tenant_limits (
  workspace_id uuid primary key,
  weight integer not null default 1, -- how many jobs it gets in a round
  max_running integer, -- set by operators
  own_max_running integer, -- set by the workspace's managers
  -- the smaller, which holds
  running_max integer
    generated always as (least(max_running, own_max_running)) stored,
  max_pending integer, -- most live jobs of people; null takes the setting
  constraint tenant_limits_are_not_negative
    check (
      weight >= 1
      and weight <= 100
      and least(max_running, own_max_running, max_pending) >= 0
    )
);
alter table queue.tenant_limits enable row level security;
revoke all on queue.tenant_limits from public, anon, authenticated, service_role;

create table queue.pauses (
  kind text not null, -- job_type, queue, workspace, or workspace_type
  name text not null, -- the type, the queue, the workspace's id, or <workspace id>/<type>
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
alter table queue.pauses enable row level security;
revoke all on queue.pauses from public, anon, authenticated, service_role;

-- How far lanes that are served together have come: the round, and the tenant that was served last.
-- There are about as many as there are lanes: one that no lane is in any more is used again.
create table queue.rings (
  ring integer generated always as identity primary key,
  round bigint not null default 0,
  last_rank bigint not null default 0,
  last_workspace_id uuid not null default '00000000-0000-0000-0000-000000000000',
  -- how many jobs that tenant has had of a round that is unfinished, else 0
  last_taken integer not null default 0
) with (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_cost_delay = 0
);
alter table queue.rings enable row level security;
revoke all on queue.rings from public, anon, authenticated, service_role;
insert into queue.rings default values;

create table queue.lanes (
  lane integer generated always as identity primary key,
  queue text not null,
  job_type text not null,
  -- when a worker last asked for its jobs, to a minute; null: none serves it
  served_at timestamptz,
  -- since when it has no jobs and nothing names it; deleted a day later
  unused_since timestamptz,
  ring integer not null default 1 -- a lease puts it into another
) with (fillfactor = 50);
alter table queue.lanes enable row level security;
revoke all on queue.lanes from public, anon, authenticated, service_role;
-- not unique: no caller waits for one
create index lanes_by_type on queue.lanes (job_type, queue);
create index lanes_by_ring on queue.lanes (ring);

-- A turn is open, or blocked: at a limit until look_at, paused (infinity), or closed (null).
create table queue.turns (
  workspace_id uuid not null,
  lane integer not null,
  rank bigint not null, -- of its tenant in all rings: the smallest is served first
  -- no ready job has a smaller ord: a lease reads from here on, and so not the dead rows before it
  from_ord bigint not null default 0,
  changed_at timestamptz not null, -- when it was opened or blocked
  blocked boolean not null default false, -- no lease reads it
  look_at timestamptz,
  primary key (workspace_id, lane)
) with (fillfactor = 50);
alter table queue.turns enable row level security;
revoke all on queue.turns from public, anon, authenticated, service_role;
create index turns_in_order on queue.turns (rank, workspace_id, lane)
  where not blocked;
create index turns_by_lane on queue.turns (lane, rank, workspace_id)
  where not blocked;
create index turns_blocked on queue.turns (look_at) where blocked;

-- A turn to open, or a key whose gate to look at. Inserted and never updated, so that none waits.
create table queue.notes (
  id bigint generated always as identity primary key,
  -- when the rate of a key allows the next
  look_at timestamptz not null default '-infinity',
  lane integer not null,
  workspace_id uuid not null,
  ord bigint not null default 0, -- of a turn: the smallest ord of its jobs
  key text -- null for a turn
);
alter table queue.notes enable row level security;
revoke all on queue.notes from public, anon, authenticated, service_role;
-- read apart, so that the keys of one tenant delay no turn of another
create index notes_of_turns on queue.notes (id) where key is null;
create index notes_of_gates on queue.notes (look_at, id) where key is not null;
create index notes_of_gates_by_tenant on queue.notes (workspace_id, look_at, id)
  where key is not null;
create index notes_by_turn on queue.notes (workspace_id, lane, key);

create table queue.ready (
  lane integer not null,
  workspace_id uuid not null,
  ord bigint not null,
  job_id uuid not null,
  ready_at timestamptz not null,
  primary key (lane, workspace_id, ord, job_id)
) with (fillfactor = 90); -- a page without space would be pruned at each look
alter table queue.ready enable row level security;
revoke all on queue.ready from public, anon, authenticated, service_role;

-- A line for each time at which maintenance looks at a live job: when it may start, by when it must
-- have started, its deadline. So a job whose place is another may have a line here, too.
create table queue.deferred (
  run_at timestamptz not null,
  job_id uuid not null,
  workspace_id uuid not null,
  primary key (run_at, job_id)
);
alter table queue.deferred enable row level security;
revoke all on queue.deferred from public, anon, authenticated, service_role;
create index deferred_by_workspace on queue.deferred (workspace_id, run_at);

-- Dead letters: jobs that failed and were not retried. An index of jobs would name their status.
create table queue.dead (
  workspace_id uuid not null,
  job_id uuid not null,
  primary key (workspace_id, job_id)
);
alter table queue.dead enable row level security;
revoke all on queue.dead from public, anon, authenticated, service_role;

-- Jobs for which the database refused a task, as a trigger of the project's own may: the task
-- passes over them until retry_at.
create table queue.refusals (
  task text not null, -- lease, or a task of maintenance
  job_id uuid not null,
  workspace_id uuid not null,
  refused_at timestamptz not null, -- the first time
  retry_at timestamptz not null,
  failures integer not null default 1,
  failure text, -- of the last time
  primary key (task, job_id)
);
alter table queue.refusals enable row level security;
revoke all on queue.refusals from public, anon, authenticated, service_role;

-- Jobs whose type no worker has published yet; their lane is 0.
create table queue.unpublished (
  job_type text not null,
  workspace_id uuid not null,
  job_id uuid not null,
  primary key (job_type, workspace_id, job_id)
);
alter table queue.unpublished enable row level security;
revoke all on queue.unpublished from public, anon, authenticated, service_role;
create index unpublished_by_workspace on queue.unpublished (workspace_id, job_type);

-- Jobs whose type limits each key, in three states:
--   not admitted        behind the gate, which is their place
--   admitted            their place is another; each counts as one of those that may run
--   admitted and ended  it holds no slot; the next look at the gate charges its start to the rate
--                       and deletes the row, before it counts
create table queue.gated (
  lane integer not null,
  workspace_id uuid not null,
  job_type text not null, -- a key has one gate for the type's jobs in all queues
  key text not null, -- '' for a job without one, which a rate per key limits too
  ord bigint not null,
  job_id uuid not null,
  admitted boolean not null default false,
  -- holds no slot any more; queue.free_of_key deletes it
  ended boolean not null default false,
  -- Of a rate per key: null (reserves a token), then an instant (has started and is not charged
  -- yet), then infinity (charged).
  started_at timestamptz,
  primary key (workspace_id, job_type, key, admitted, ord, job_id)
) with (fillfactor = 80);
alter table queue.gated enable row level security;
revoke all on queue.gated from public, anon, authenticated, service_role;

create table queue.leases (
  job_id uuid primary key,
  workspace_id uuid not null,
  tick_id uuid,
  ord bigint not null, -- of the job, which keeps it when it is released
  ready_at timestamptz not null,
  leased_at timestamptz not null,
  expires_at timestamptz not null, -- renewals change no index
  lane integer not null,
  fence integer not null, -- each write of the holder must show the fence
  attempt integer not null,
  worker integer not null,
  tick_call integer not null,
  lease_seconds integer not null,
  -- stored of this attempt: a repeated report adds the rest
  log_lines integer not null default 0,
  step text,
  step_started_at timestamptz, -- the step that runs, as last reported
  key text, -- of the gate that admitted it
  output_bytes bigint -- of its job's streams, once it has written
) with (fillfactor = 70);
alter table queue.leases enable row level security;
revoke all on queue.leases from public, anon, authenticated, service_role;
create index leases_by_lane on queue.leases (lane, workspace_id);

-- Rows of these tables live for seconds: vacuum at a thousand dead ones, whatever the size.
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

-- What each worker serves: a row that is written once a minute, or when that changes.
create table queue.workers (
  worker integer generated always as identity primary key,
  worker_id text not null unique,
  started_at timestamptz not null default queue.clock(), -- its latest run
  seen_at timestamptz not null default queue.clock(),
  ended_at timestamptz, -- of its latest run; null while that lasts
  version text,
  job_types text[],
  queues text[], -- null for all
  summary jsonb, -- of its latest run
  evidence jsonb, -- why its process died, as its host saw it
  constraint workers_id_is_bounded check (char_length(worker_id) <= 255)
) with (fillfactor = 50);
alter table queue.workers enable row level security;
revoke all on queue.workers from public, anon, authenticated, service_role;
grant select (worker, worker_id) on queue.workers to authenticated, service_role;
create index workers_by_seen on queue.workers (seen_at);

-- Runs of workers: their latest call that was the first or got jobs, so that a repeated call is
-- recognised; and those under way where their number is bounded, see queue.admit_run.
create table queue.ticks (
  tick_id uuid primary key,
  seen_at timestamptz not null,
  worker integer,
  last_call integer not null default 0,
  has_refused boolean not null default false, -- another run, since this one was admitted
  -- of an admitted one, until it ends: when its host ends it at the latest
  expires_at timestamptz
) with (fillfactor = 50);
alter table queue.ticks enable row level security;
revoke all on queue.ticks from public, anon, authenticated, service_role;
create index ticks_under_way on queue.ticks (expires_at)
  where expires_at is not null;

-- Stored events; the view public.job_events adds those that follow from the job's row.
create table queue.job_events (
  job_id uuid not null,
  seq integer not null,
  workspace_id uuid not null,
  created_at timestamptz not null,
  type text not null,
  data jsonb not null,
  primary key (job_id, seq)
) with (autovacuum_vacuum_insert_scale_factor = 0.2);
alter table queue.job_events enable row level security;
revoke all on queue.job_events from public, anon, authenticated, service_role;
-- what the view public.job_events reads with its reader's rights: their policies decide
grant select on queue.job_events to authenticated, service_role;

-- Ended attempts, except one that completed at its job's first lease: that follows from the row.
create table queue.attempts (
  job_id uuid not null,
  fence integer not null,
  attempt integer not null,
  worker integer not null,
  leased_at timestamptz not null,
  ended_at timestamptz not null,
  -- completed, retry, failed, snoozed, released, waiting, cancelled or lost
  outcome text not null,
  error_message text,
  error_data jsonb,
  traceback jsonb,
  origin jsonb, -- where its log is, as far as the worker knows
  primary key (job_id, fence)
);
alter table queue.attempts enable row level security;
revoke all on queue.attempts from public, anon, authenticated, service_role;

-- Idempotency keys and unique keys, and the job that has each.
create table queue.job_keys (
  workspace_id uuid not null,
  job_type text not null,
  key text not null,
  is_unique boolean not null,
  job_id uuid not null,
  request_hash text, -- of the payload that came with an idempotency key
  -- when a unique key is freed: leased or finished; other: an idempotency key whose call made no
  -- job, since another job had its unique key
  freed_when text,
  primary key (workspace_id, job_type, key, is_unique)
);
alter table queue.job_keys enable row level security;
revoke all on queue.job_keys from public, anon, authenticated, service_role;
create index job_keys_of_others on queue.job_keys (job_id) where freed_when = 'other';

create table queue.steps (
  job_id uuid not null,
  name text not null,
  -- 0: its result; from 1: of each gathered child; -1: a spawn
  nth integer not null default 0,
  kind text not null default 'step', -- step, spawn, or the kind of a wait
  value jsonb not null,
  started_at timestamptz,
  created_at timestamptz not null, -- when it finished
  primary key (job_id, name, nth),
  constraint steps_name_is_bounded check (char_length(name) between 1 and 200)
);
alter table queue.steps enable row level security;
revoke all on queue.steps from public, anon, authenticated, service_role;

-- Tokens of rates: r:<type>, k:<workspace>/<type>/<key>, u:<user>/<limit>; with +n at the end, what
-- is not charged to that one yet. Others count: q:<workspace> live jobs, b:<workspace> their bytes.
create table queue.buckets (
  name text primary key,
  tokens double precision not null,
  refilled_at timestamptz not null -- tokens at that time
) with (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 500
);
alter table queue.buckets enable row level security;
revoke all on queue.buckets from public, anon, authenticated, service_role;

create table queue.feed (
  id bigint generated always as identity,
  -- readers go by number and id. The number is a transaction's id with queue.feed_base added: xid,
  -- or the end of the writer's snapshot where that is greater, so that it never falls along a
  -- job's events
  number bigint not null,
  xid xid8 not null default pg_current_xact_id(), -- who wrote it
  at timestamptz not null,
  workspace_id uuid not null,
  session_id text,
  type text not null,
  data jsonb not null,
  job_ids uuid[] not null,
  -- null where the type keeps no such event: only statistics and workers read it
  seqs integer[],
  wakes boolean, -- its commit notifies listening workers
  -- its message exceeded the budget, and watchers were not yet asked to read again
  unsent boolean,
  primary key (workspace_id, number, id)
);
alter table queue.feed enable row level security;
revoke all on queue.feed from public, anon, authenticated, service_role;
-- random digits do not compress
alter table queue.feed
  alter job_ids set storage external,
  alter seqs set storage external;
create index feed_by_session on queue.feed (session_id, number, id)
  where session_id is not null;
create index feed_unsent on queue.feed (id) where unsent;
create index feed_unsent_by_workspace on queue.feed (workspace_id, id) where unsent;
create index feed_by_number on queue.feed (number);

-- The same event of several jobs of a tenant and session: what a statement adds to the feed.
create type queue.change as (
  workspace_id uuid,
  session_id text,
  type text,
  data jsonb,
  job_ids uuid[],
  seqs integer[]
);

-- Maintenance, a line for each task of public.run_maintenance. An app adds its own: queue.do_<name>
-- does it, and what queue.findings_of_<name> returns, where there is one, explain_queue says.
create table queue.tasks (
  name text primary key,
  every interval not null,
  done_at timestamptz not null default '-infinity', -- its last run
  -- found nothing: due after an hour, or once jobs ran
  was_idle boolean not null default false,
  -- after a failure: five seconds later, then twice as long, at most an hour
  retry_at timestamptz,
  failure text, -- why its last run failed
  failures integer not null default 0, -- since it last succeeded
  -- the feed is read (by live: deleted) before this number, and of that up to the line read_id
  read_to bigint not null default 0,
  read_id bigint not null default 0,
  after_id uuid, -- how far a pass over all jobs has come
  reads_feed boolean not null default false -- due when there are lines that it has not read
) with (fillfactor = 50);
alter table queue.tasks enable row level security;
revoke all on queue.tasks from public, anon, authenticated, service_role;

-- Stored events, and those that follow from the row: creation, the first lease, a plain completion.
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
  E'The history of each job, seq 1, 2, 3 … without gaps.\n\nRead all after the last one known, '
  'then listen.';

-- The job; 404 unless the caller may see it.
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
    perform queue.refuse(404, 'job_not_found', 'job not found', p_job_id::text);
  end if;
  return v_job;
end;
$$;
revoke execute on function queue.visible_job from public;

-- Append an event to each of these locked jobs. p_is_counted: the caller has raised last_seq.
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
    row(k.workspace_id, k.session_id, p_type, k.data, k.ids, k.seqs)::queue.change
  )
  into v_changes
  from kinds as k;
  perform queue.publish(v_changes, p_now);
end;
$$;
revoke execute on function queue.append_event from public;

select queue.show_to_members('public.jobs');
select queue.show_to_members('public.job_logs');
select queue.show_to_members('public.job_events');
select queue.show_to_members('queue.job_events');
create policy "members create jobs" on public.jobs
  for insert
  to authenticated
  with check (
    workspace_id in (select queue.my_workspaces())
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
