-- Minutehand runs durable jobs inside Postgres. Read the files of this folder in order. Each file
-- covers one concern.
--
-- The comments of the engine use the following terms in these senses only.
--
-- - A job is live until it completes, fails or is cancelled.
-- - The place of a live job is the narrow table whose row shows what the job waits for, or which
--   worker runs it. The places are queue.unpublished, queue.deferred, queue.gated, queue.ready,
--   queue.leases and queue.waits. A ready or running job of a type with a limit per concurrency key
--   also keeps its row in queue.gated. A job with a deadline also has a row in queue.deferred.
-- - A lane is one job type in one queue.
-- - The ord of a job is its position among the jobs of its tenant, by priority, and then by its
--   scheduled time or creation time.
-- - A turn is a row of queue.turns for one tenant in one lane (one job type in one queue). To
--   choose the next jobs, a lease reads the open turns in the order of the tenants' ranks. A turn
--   is in one of four states.
--   - Closed: A lease or the sweep (a task of maintenance) found no ready job of the tenant in the
--     lane, and closed the turn. If a job becomes ready later, a note names the turn until a lease
--     opens it.
--   - Limited: The tenant was at a limit when a lease last checked.
--   - Paused: A lease has found a pause of the tenant, or of the job type for this tenant.
--   - Open: The turn is neither closed, limited nor paused. Leases skip closed, limited and paused
--     turns, which are called blocked.
-- - The turn lock is an advisory lock of one turn. An enqueue takes the turn lock in shared mode. A
--   lease takes the turn lock exclusively before the lease closes the turn or increases the turn's
--   from_ord, so that no enqueue adds an earlier job at this moment. The column from_ord is a lower
--   bound of the ord of the turn's ready jobs.
-- - The rank of a tenant is its position in the order in which leases serve the tenants, and is the
--   same for all job types and queues. Leases serve the tenants in ascending order of rank, and
--   after the highest rank begin at the lowest. A new tenant gets the rank before the tenant that
--   was served last, so that the new tenant is the last one of the present round.
-- - A ring is a row of queue.rings that stores the tenant after which the next lease of a group of
--   lanes (job types in queues) begins. A lease that reached every tenant with ready jobs does not
--   change the ring.
-- - A round serves each tenant with ready jobs once, in the order of the tenants' ranks. A group of
--   lanes that share a ring has its own rounds.
-- - The weight of a tenant is the number of its jobs that leases take in each round.
-- - A share is the number of jobs of one tenant, job type and queue that a lease takes.
-- - A pool is a group of job types that share a number of slots of a worker.
-- - A gate enforces the limit of one concurrency key. A job waits in queue.gated until fewer jobs
--   of its concurrency key than the limit are admitted. An admitted job counts against the limit
--   until its attempt ends.
-- - A note is a row of queue.notes. A note names a turn that the next lease must open, or a
--   concurrency key whose waiting jobs the next lease must admit. A statement that makes a job
--   ready inserts a note if leases would otherwise not find the job (queue.note_turn). A statement
--   that frees a concurrency key inserts a note if the statement cannot admit waiting jobs itself.
-- - A fence is the number of a job's lease. Each lease of the job has a higher number. A worker's
--   write with an old fence is rejected, because another worker may have leased the job since.
-- - A signal is a row that requests work from maintenance, for example the check of a parent job
--   whose child job has ended.
-- - A derived event follows from the job's row, and is not stored. The events of a job's creation,
--   of its first lease and of a success at the first lease are derived.
-- - A person is a signed-in user. A guest is a caller who knows only the id of a session. The
--   service is the project's own server. Operators are the staff, and see all tenants.
--
-- Some other words have a special meaning here.
--
-- - A plain insert is an insert into public.jobs by a client's own SQL.
-- - A plain job has no options, and its type is published without a schema or a rate limit per
--   concurrency key. A simple job is a plain job with a small payload that the service enqueues
--   with public.enqueue_job.
-- - A plain completion is a success at the first lease of a job.
-- - A call slot is a permit for one call that reads or writes many rows. The number of call slots
--   is limited.
-- - The sweep is a task of maintenance that deletes rows that are no longer needed.
-- - In names of functions and columns, tick means a worker run, whatever started the run. In
--   results, last_tick_seconds is the time since the last call of a worker.
-- - The name queue.take_place means a call slot. In JSON, place is a line of code that a processor
--   executes, and places are cursors of the feed.
-- - In names of functions, hold means to lock rows, or to take an advisory lock, until the
--   transaction ends. A held job is a leased job (queue.held_job and queue.lock_held).
-- - queue.admit takes tokens of a person's rate limit for a call, and is unrelated to gates.
--
-- A job moves through the following places, but not every job has each place.
--
--   enqueue --> deferred --> gated --> ready --> leases --> completed, failed or cancelled
--               due later    key at    awaits    runs on
--                            a limit   a lease   a worker
--                  ^                                |
--                  +------ retry, snooze, waits <---+
--
-- Six rules apply everywhere:
-- 1. public.jobs is the record of all jobs. Leases and settlements change no indexed column of
--    public.jobs, except the tags that a processor sets, so that Postgres need not update the
--    indexes (heap-only updates).
-- 2. Leases serve the tenants in rounds. A lease begins after the tenant that the ring of its lanes
--    stores, or with this tenant if it has got fewer jobs in the round than its weight. Concurrent
--    leases may begin at the same tenant. A lease that requests n jobs reads the turns of about n
--    tenants.
-- 3. An enqueue without an idempotency key or unique key never waits for another transaction. An
--    enqueue tries to take the turn lock, and inserts the job. If the turn lock is not free, or if
--    leases would not find the job, the enqueue also inserts a note, so that a later lease opens
--    the turn.
-- 4. The engine enforces the limits of job types and workspaces by counting running jobs, and
--    stores no counter. A lease tries to take an advisory lock for each limit of a job type or
--    workspace. After a lease has taken the lock of a limit, its next statement counts the running
--    jobs. A gate enforces the limit of a concurrency key, so that the number of ready and running
--    jobs of the key never exceeds the limit.
-- 5. A fact that follows from a job's row is not stored (for example derived events). A statement
--    that changes many jobs adds one row to queue.feed for all jobs with the same tenant, session
--    and event. Statistics, apps, and browsers that follow jobs read queue.feed.
-- 6. Calls of workers lock a job's row of queue.leases before its row of public.jobs, and leases
--    skip locked rows. A cancel or retry locks the rows of all its jobs or of none
--    (queue.lock_jobs), so that no worker waits for a person's transaction. If another transaction
--    has locked a row of one of the jobs, a person's cancel or retry is rejected immediately.
--    public.lease_jobs rejects every isolation level except read committed, because it must count
--    rows that other transactions have just committed.
--
-- Four patterns recur in the code:
-- - `ctid = any (array(select … for update skip locked))` skips rows that another transaction has
--   locked. An update with the condition `ctid = any (array(…))` also skips rows that another
--   transaction changed after the statement began, so that the update never uses an outdated value.
-- - `id = any (array[x])` finds a row by the index on its key, whatever the planner estimates for
--   the table.
-- - `x := f()` calls a function whose result is not used. An assignment costs less than the query
--   that `perform` runs.
-- - queue.refuse raises the error of a rejected call.
--
-- Functions in public are security definer, because callers have no rights on the engine's tables.
-- Functions that read many rows disable sequential scans, because a session may have planned its
-- queries when the tables were empty.
--
-- The life of a job, by function:
--
--   public.enqueue_job, enqueue_jobs, spawn_jobs, a plain insert or a schedule enqueues jobs.
--     queue.add              checks a job and inserts its row (queue.add_plain inserts many rows).
--       queue.place          inserts the job into queue.deferred, queue.gated or queue.ready.
--     queue.publish          adds a row to queue.feed and sends a message to browsers.
--   public.lease_jobs        leases jobs for a worker.
--     queue.take_jobs        moves jobs from queue.ready to queue.leases (07_lease.sql).
--   public.report_jobs       stores progress, logs and steps of running jobs, and renews leases.
--   public.settle_jobs       stores the outcome of attempts, and leases the next jobs.
--     queue.settle           ends leased jobs, or lets them wait for another attempt.
--       queue.decide         determines all outcomes except plain completions, and stores attempts.
--       queue.after_attempts   frees keys of ended jobs, and signals a waiting parent job.
--   public.run_maintenance   handles everything that is due by time, and deletes old data.

-- Stop the migration if the schema queue exists, or if a table, function or type of the schema
-- public already has a name that Minutehand needs. An uninstall recognizes the schemas that this
-- file creates by their comments, and drops no other schema.
do $$
declare
  c_names constant text[] := '{
    answer_job, attach_extensions, cancel_job, cancel_jobs, connect_worker, count_jobs,
    dead_letters, delete_schedule, emit_event, enqueue_job, enqueue_jobs,
    erase_person, event_feed, explain_job, explain_queue, export_person, follow_topic, get_job,
    guest_job, guest_key, guest_session_jobs,
    job_attempts, job_events, job_logs, job_output, job_steps, job_trace, jobs, lease_jobs,
    list_job_types, list_jobs, list_schedules, list_workspaces, next_runs,
    open_guest_session, open_stream, own_workspace, pause_jobs, put_schedule,
    queue_health, queue_series, queue_stats, read_output, read_steps, register_job_types,
    replay_job, report_jobs, retry_job, retry_jobs, revoke_worker_keys, run_maintenance,
    session_feed, session_output, set_settings, set_workspace_limits, settle_jobs,
    silence_finding, spawn_jobs, stream_topics, tick_finished, workspace_limits,
    workspace_members, workspaces}';
  v_taken text;
begin
  if to_regnamespace('queue') is not null then
    v_taken := 'a schema queue';
  elsif to_regnamespace('public') is null then
    create schema public;
    comment on schema public is 'Minutehand: jobs as clients see them.';
  else
    select string_agg(distinct t.name, ', ') into v_taken
    from (
      select c.relname as name, c.relnamespace as schema
      from pg_catalog.pg_class as c
      union all
      select p.proname, p.pronamespace
      from pg_catalog.pg_proc as p
      union all
      select t.typname, t.typnamespace
      from pg_catalog.pg_type as t
    ) as t
    where t.schema = to_regnamespace('public') and t.name = any (c_names);
    v_taken := 'an object in the schema public: ' || v_taken;
  end if;
  if v_taken is not null then
    raise exception 'there is %, which does not belong to Minutehand',
      v_taken
      using hint = 'Nothing was changed. Delete what the install wrote: this file, minutehand.toml '
        'and the processors'' package. Then choose another name: minutehand install --schema NAME.';
  end if;
  create schema queue;
  comment on schema queue is 'Minutehand: the engine; never exposed.';
end;
$$;
revoke all on schema queue from public; -- callers use the functions in public

do $$
begin
  if not exists (select from pg_catalog.pg_roles where rolname = 'job_worker') then
    create role job_worker nologin noinherit;
  elsif coalesce(shobj_description('job_worker'::regrole, 'pg_authid'), '')
    -- reject a role job_worker of another program, because its members would get the rights of
    -- Minutehand's workers
    not like 'Minutehand worker:%' then
    raise exception 'there is a role job_worker that does not belong to Minutehand'
      using hint = 'Rename the role (alter role job_worker rename to …). Then apply the migration.';
  end if;
  if exists (select from pg_catalog.pg_roles where rolname = 'authenticator') then
    -- the Data API signs in as authenticator, and switches to the role that the JWT names
    grant job_worker to authenticator;
  end if;
  -- a worker with a direct database connection signs in as the owner and then switches to the role
  -- job_worker
  execute format('grant job_worker to %I', current_user);
end;
$$;
comment on role job_worker is
  'Minutehand worker: may execute the worker''s functions and nothing else.';
grant usage on schema public to job_worker, authenticated, service_role, anon;

-- Return the present time for all rules of the engine. Tests replace queue.clock to set the time.
-- queue.clock is written in plpgsql, because Postgres would plan a function in `language sql` again
-- at each call.
create function queue.clock()
returns timestamptz
language plpgsql volatile
parallel safe
set search_path = ''
as $$
begin
  return clock_timestamp();
end;
$$;
grant execute on function queue.clock to authenticated, service_role;

-- Return the release of the engine's schema, which is the value of minutehand.version. `minutehand
-- doctor` compares this release with the release that the project recorded.
create function queue.version()
returns text
language sql immutable
set search_path = ''
as $$
select '0.5.12'
$$;

-- Return a version 7 UUID (RFC 9562). The UUID begins with the time in quarters of a microsecond,
-- so that later ids are greater. All further digits of the UUID are random.
create function queue.new_id()
returns uuid
language plpgsql volatile
parallel safe
set search_path = ''
as $$
begin
  return (
    overlay(
      '0'
      || to_hex(
        (date_part('epoch', clock_timestamp()) * 4096000)::bigint
      ) placing '7' from 13 for 0
    ) || right(gen_random_uuid()::text, 17)
  )::uuid;
end;
$$;
grant execute on function queue.new_id to authenticated, service_role;

-- Return up to 4,096 version 7 UUIDs in ascending order. All UUIDs of a call derive from one random
-- value, because a new random value for each UUID would take longer.
create function queue.new_ids(p_count integer)
returns uuid[]
language plpgsql volatile
parallel safe
set search_path = ''
as $$
declare
  v_seed constant bytea := uuid_send(gen_random_uuid())
    || uuid_send(gen_random_uuid());
  v_ms constant text := lpad(
    to_hex((date_part('epoch', clock_timestamp()) * 1000)::bigint),
    12,
    '0'
  );
begin
  return array(
    select (
      v_ms
      || to_hex(28672 + n)
      || '8'
      || substr(md5(v_seed || int4send(n)), 2, 15)
    )::uuid
    from generate_series(0, p_count - 1) as n
  );
end;
$$;

-- Return the smallest id that a job created at p_at can have. To find the jobs of a period, a query
-- compares job ids with the results of this function for the start and the end of the period.
create function queue.id_at(p_at timestamptz)
returns uuid
language sql immutable
parallel safe
set search_path = ''
as $$
select rpad(
  lpad(
    to_hex(greatest(0, floor(extract(epoch from p_at) * 1000))::bigint),
    12,
    '0'
  ),
  32,
  '0'
)::uuid
$$;

-- Return true if locks, resources or the connection caused an error, and not a row.
create function queue.is_temporary(p_sqlstate text)
returns boolean
language sql immutable
set search_path = ''
as $$
select p_sqlstate ~ '^(08|40|53|55|57|58|XX)'
$$;

-- Raise an error that the Data API returns with the HTTP status p_status. Clients distinguish
-- errors by p_hint. With `client_error_verbosity = minimal`, PostgREST 16 returns only the code and
-- the message of an error, so in this case the message also contains the hint and the detail. The
-- errors do not have the SQLSTATE PGRST, because workers of the last release recognize errors by
-- their present SQLSTATE.
create function queue.refuse(
  p_status integer,
  p_hint text,
  p_message text,
  p_detail text default null
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_is_minimal boolean := exists (
    select from pg_catalog.pg_db_role_setting as s
    left join pg_catalog.pg_database as d on d.oid = s.setdatabase
    where s.setrole = to_regrole('authenticator')
      and coalesce(d.datname, current_database()) = current_database()
      and 'pgrst.client_error_verbosity=minimal' = any (s.setconfig)
  );
  v_message text := p_message;
begin
  if v_is_minimal then
    v_message := format('%s (%s)%s', p_message, p_hint, ' [' || nullif(p_detail, '') || ']');
  end if;
  raise exception
    using
      errcode = 'PT' || p_status,
      message = v_message,
      hint = p_hint,
      detail = coalesce(p_detail, '');
end;
$$;

-- Reject JSON that is not an object, or that has an unknown field, because a misspelled field would
-- otherwise be ignored.
-- p_what: Name of the JSON value in error messages.
create function queue.check_names(p_given jsonb, p_known text[], p_what text)
returns void
language plpgsql immutable
set search_path = ''
as $$
declare
  v_name text;
begin
  if jsonb_typeof(p_given) is distinct from 'object' then
    perform queue.refuse(
      400,
      'invalid_argument',
      p_what || ' must be an object',
      p_what
    );
  end if;
  select left(k.name, 80) into v_name
  from jsonb_object_keys(p_given) as k (name)
  where k.name <> all (p_known)
  limit 1;
  if found then
    perform queue.refuse(
      400,
      'invalid_argument',
      format('unknown field of %s: %s', p_what, v_name),
      v_name
    );
  end if;
end;
$$;

create table queue.settings (
  name text primary key,
  value jsonb not null,
  updated_at timestamptz not null default now()
);
insert into queue.settings (name, value)
values
  ('payload_max_bytes', '262144'),
  -- a job fails after it has ended its worker process this many times, regardless of its
  -- max_attempts
  ('lost_attempts_max', '5'),
  ('retention_days', '{"completed": 30, "cancelled": 30, "failed": 90}'),
  ('feed_hours', '24'), -- number of hours for which queue.feed keeps rows
  -- a person's enqueue is rejected if the workspace has this many live jobs
  ('user_pending_max', '100000');

create function queue.setting(p_name text)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
  return (select value from queue.settings where name = p_name);
end;
$$;

-- Take an advisory lock until this transaction ends. If another transaction has the lock, return
-- false. The key of an advisory lock is a pair of numbers. The first number is a hash of the first
-- word of the lock's name, so that locks of different kinds never collide. The first number of the
-- key is always negative, so that it differs from the first number of the locks that
-- queue.hold_turn takes, which is the positive number of a lane.
-- p_waits: True to take the lock exclusively, and to wait until it is free instead of returning
--   false.
-- p_is_shared: True to take the lock in shared mode.
create function queue.try_lock(
  p_name text,
  p_waits boolean default false,
  p_is_shared boolean default false
)
returns boolean
language plpgsql volatile
set search_path = ''
as $$
declare
  v_kind constant integer := hashtext(split_part(p_name, ' ', 1)) | -2147483648;
begin
  if p_waits then
    return pg_advisory_xact_lock(v_kind, hashtext(p_name)) is not null;
  elsif p_is_shared then
    return pg_try_advisory_xact_lock_shared(v_kind, hashtext(p_name));
  end if;
  return pg_try_advisory_xact_lock(v_kind, hashtext(p_name));
end;
$$;

-- Return how many advisory locks the caller may take now, up to p_count. All functions of a
-- transaction together take at most 200 advisory locks, because the server has few advisory locks.
-- A function that runs early passes a smaller p_most, so that locks remain for the functions that
-- run after it. A function that gets fewer locks than it needs leaves the remaining work to another
-- call, works without locks, or rejects the call.
-- p_most: Maximum number of advisory locks that the transaction may take in all, including the
--   locks of this call.
create function queue.reserve_locks(p_count integer, p_most integer)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  -- number of advisory locks that the transaction may have taken, followed by the lane and tenant
  -- that queue.hold_turn locked last
  v_stored constant text[] := string_to_array(current_setting('minutehand.locks', true), ' ');
  v_reserved constant integer := coalesce(nullif(v_stored[1], '')::integer, 0);
  v_count constant integer := greatest(0, least(p_count, p_most - v_reserved));
begin
  perform set_config('minutehand.locks', concat_ws(' ', v_reserved + v_count, v_stored[2]), true);
  return v_count;
end;
$$;

-- Let members read the rows of their workspaces in the tables and views p_relations, and let the
-- service read all rows. Each view in p_relations must have the option security_invoker. A write to
-- a view that is not updatable raises an error that the Data API returns with status 500. If the
-- view has an instead-of trigger, Postgres first checks the caller's rights, so that the Data API
-- returns status 403. queue.show_to_members creates an instead-of trigger for each view that is not
-- updatable, so that the Data API returns status 403 for a write. The instead-of trigger itself
-- never runs.
create function queue.show_to_members(variadic p_relations regclass[])
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_one record;
  v_writes text; -- writes that the view does not support
begin
  for v_one in
    select oid::regclass as id, relname, relkind
    from pg_catalog.pg_class
    where oid = any (p_relations)
  loop
    execute format(
      'revoke all on %s from public, anon, authenticated, service_role',
      v_one.id
    );
    execute format('grant select on %s to authenticated, service_role', v_one.id);
    if v_one.relkind <> 'v' then
      execute format('alter table %s enable row level security', v_one.id);
      execute format(
        'create policy %I on %s for select to authenticated using '
          '(workspace_id = any (array(select queue.my_workspaces())))',
        v_one.relname || '_read_by_members',
        v_one.id
      );
      continue;
    end if;
    select string_agg(w.name, ' or ') into v_writes
    from (values ('update', 4), ('insert', 8), ('delete', 16)) as w (name, bit)
    where pg_relation_is_updatable(v_one.id, true) & w.bit = 0;
    if v_writes is not null then
      execute format(
        'create trigger refused instead of %s on %s for each row '
          'execute function suppress_redundant_updates_trigger()',
        v_writes,
        v_one.id
      );
    end if;
  end loop;
end;
$$;

-- Let only the roles in p_roles execute the functions in p_functions. A function for workers must
-- call queue.refuse_revoked, which rejects revoked worker keys.
create function queue.allow(p_roles text, variadic p_functions regproc[])
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_one record;
begin
  for v_one in
    select oid::regproc as name, prosrc, pronamespace::regnamespace as schema
    from pg_catalog.pg_proc
    where oid = any (p_functions)
  loop
    if p_roles ~ 'job_worker'
      and strpos(v_one.prosrc, 'queue.refuse_revoked();') = 0
    then
      raise exception '% must begin with: perform queue.refuse_revoked();',
        v_one.name;
    end if;
    execute format(
      'revoke execute on function %s from public, anon, authenticated, service_role',
      v_one.name
    );
    execute format('grant execute on function %s to %s', v_one.name, p_roles);
    if v_one.schema not in ('queue'::regnamespace, 'public'::regnamespace) then
      execute format('grant usage on schema %s to %s', v_one.schema, p_roles);
    end if;
  end loop;
end;
$$;

-- Let guests call private functions of an app. For each private function, create a function
-- public.<schema>_<name> that calls the private function. Postgres parses the body of the public
-- function when it is created, so callers need no right on the app's schema.
create function queue.allow_guests(variadic p_functions regproc[])
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_one record;
begin
  for v_one in
    select
      oid::regproc as private,
      format('public.%I', pronamespace::regnamespace || '_' || proname) as name,
      pg_get_function_arguments(oid) as arguments,
      array_to_string(proargnames, ', ') as names,
      case provolatile when 's' then 'stable' else 'volatile' end as volatility,
      obj_description(oid, 'pg_proc') as description
    from pg_catalog.pg_proc
    where oid = any (p_functions)
  loop
    execute format(
      'create function %s(%s) returns jsonb language sql %s set search_path = '''' '
        'begin atomic select %s(%s); end',
      v_one.name,
      v_one.arguments,
      v_one.volatility,
      v_one.private,
      v_one.names
    );
    execute format('comment on function %s is %L', v_one.name, v_one.description);
    perform queue.allow(
      'anon, authenticated, service_role',
      v_one.private,
      v_one.name::regproc
    );
  end loop;
end;
$$;

-- Workspaces are the tenants, and the members of a workspace see its jobs. If the project already
-- has tables of tenants and members, the install replaces public.workspaces and
-- public.workspace_members by views of the project's tables. The engine's functions read tenants
-- only through the views queue.tenants and queue.tenant_members, which the project may replace.
create table public.workspaces (
  id uuid primary key default gen_random_uuid(),
  name text not null,
  created_at timestamptz not null default now(),
  constraint workspaces_name_has_text check (char_length(name) between 1 and 200)
);
comment on table public.workspaces is 'A tenant: people who share jobs and data.';

create table public.workspace_members (
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  user_id uuid not null,
  role text not null default 'member',
  created_at timestamptz not null default now(),
  primary key (user_id, workspace_id),
  constraint workspace_members_role_is_known check (role in ('manager', 'member'))
);
create index workspace_members_by_workspace
  on public.workspace_members (workspace_id);
comment on table public.workspace_members is
  'Who belongs to which workspace, and as what: managers also change settings, pause work and '
  'manage members.';

create view queue.tenants as select id, name from public.workspaces;
create view queue.tenant_members as
select workspace_id, user_id, role
from public.workspace_members;

-- Return the id of the person who calls, or null for the service and for guests. The subject of a
-- token from Clerk, Firebase and some other providers is not a UUID. auth.uid raises an unclear
-- error for such a token, so queue.caller rejects the token with status 401 and an explanation.
-- p_is_strict: False to return null for a token without a UUID. Policies pass false, because a
--   policy must not raise an error.
create function queue.caller(p_is_strict boolean default true)
returns uuid
language plpgsql stable
set search_path = ''
as $$
declare
  v_claims constant jsonb := nullif(
    current_setting('request.jwt.claims', true),
    ''
  )::jsonb;
  v_subject constant text := v_claims ->> 'sub';
begin
  if v_subject !~* '^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$' then
    if not p_is_strict then
      return null;
    end if;
    raise exception
      using
        errcode = 'PT401',
        hint = 'unauthorized',
        message = 'the subject (sub) of the token must be a UUID, as Supabase Auth gives it';
  end if;
  return v_subject::uuid;
end;
$$;
grant execute on function queue.caller to authenticated, service_role;

-- Return true if the caller is an operator. Operators are the staff, who see every tenant and are
-- members of none.
create function queue.is_operator()
returns boolean
language plpgsql stable
set search_path = ''
as $$
begin
  return auth.jwt() #>> '{app_metadata,minutehand_operator}' = 'true' is true;
end;
$$;
grant execute on function queue.is_operator to authenticated, service_role;

-- Return the ids of the caller's workspaces. A policy writes `= any (array(select
-- queue.my_workspaces()))`, so that the function runs once per query and not for each row, and so
-- that an index finds the rows.
create function queue.my_workspaces()
returns setof uuid
language plpgsql stable
security definer
set search_path = ''
as $$
begin
  perform queue.admit_plain_read();
  if queue.is_operator() then
    return query select t.id from queue.tenants as t;
  else
    return query
      select m.workspace_id
      from queue.tenant_members as m
      where m.user_id = (select queue.caller(false));
  end if;
end;
$$;
grant execute on function queue.my_workspaces to authenticated, service_role;

create function queue.is_member(p_workspace_id uuid)
returns boolean
language plpgsql stable
security definer
set search_path = ''
as $$
begin
  return exists (
    select from queue.tenant_members as m
    where m.user_id = (select queue.caller()) and m.workspace_id = p_workspace_id
  )
    or queue.is_operator()
      and exists (select from queue.tenants as t where t.id = p_workspace_id);
end;
$$;
grant execute on function queue.is_member to authenticated, service_role;

create function queue.is_manager(p_workspace_id uuid)
returns boolean
language plpgsql stable
security definer
set search_path = ''
as $$
begin
  return exists (
    select from queue.tenant_members as m
    where m.user_id = (select queue.caller())
      and m.workspace_id = p_workspace_id
      and m.role = 'manager'
  );
end;
$$;
grant execute on function queue.is_manager to authenticated, service_role;

-- Return p_id, the id of the person who changed a job, or null if the caller may not learn who
-- changed the job. Operators and the service see everyone's id. Other callers see the ids of
-- members of the workspace.
create function queue.shown_person(p_id text, p_workspace_id uuid)
returns text
language plpgsql stable
set search_path = ''
as $$
begin
  return (
    select p_id
    where p_id !~ '^[0-9a-f-]{36}$'
      or queue.is_operator()
      or queue.is_service()
      or exists (
        select from queue.tenant_members as m
        where m.workspace_id = p_workspace_id and m.user_id::text = p_id
      )
  );
end;
$$;

-- Return true if the caller is the service, which uses the service role, the worker's role or a
-- direct database connection. A function that guests may call must not rely on queue.is_service.
create function queue.is_service()
returns boolean
language plpgsql stable
set search_path = ''
as $$
begin
  return queue.caller() is null
    and (
      auth.jwt() is null
      or auth.jwt() ->> 'role' in ('service_role', 'job_worker') is true
    );
end;
$$;

-- Return the id of the workspace for jobs that belong to no tenant. The system workspace has no
-- members, so only operators see its jobs.
create function queue.system_workspace()
returns uuid
language sql immutable
parallel safe
set search_path = ''
as $$
select 'ffffffff-ffff-4fff-bfff-ffffffffffff'::uuid
$$;

-- Reject a caller who is not a member of the workspace with status 404. Return the id of the person
-- who calls, or null for the service.
-- p_reads_much: True if the call reads many rows and therefore needs a call slot. In a call that
--   reads many rows, operators and the service may pass null as the workspace to read all
--   workspaces.
create function queue.may_read(
  p_workspace_id uuid,
  p_reads_much boolean default false
)
returns uuid
language plpgsql stable
set search_path = ''
as $$
-- read the claims once, and check them in the same way as queue.is_service and queue.caller
declare
  v_claims constant jsonb := nullif(
    current_setting('request.jwt.claims', true),
    ''
  )::jsonb;
  v_is_all constant boolean := p_workspace_id is null and p_reads_much;
  v_user uuid;
begin
  if (v_claims is null or v_claims ->> 'role' in ('service_role', 'job_worker'))
    and v_claims ->> 'sub' is null
  then
    perform from queue.tenants as t where t.id = p_workspace_id;
    if found or v_is_all or p_workspace_id = queue.system_workspace() then
      return null;
    end if;
  else
    v_user := queue.caller();
  end if;
  if v_is_all and not queue.is_operator() then
    perform queue.refuse(
      403,
      'forbidden',
      'only an operator sees every workspace',
      'p_workspace_id'
    );
  elsif not (v_is_all or queue.is_member(p_workspace_id)) then
    perform queue.refuse(
      404,
      'workspace_not_found',
      'workspace not found, or you are not its member',
      p_workspace_id::text
    );
  end if;
  if p_reads_much then
    perform queue.take_call_slot(p_workspace_id);
  end if;
  return v_user;
end;
$$;

-- Reject a caller who is not a member of the workspace with status 404, and a member who is not a
-- manager with status 403. Take one token of the caller's rate limit (queue.admit).
-- p_bytes: Number of bytes that the call stores.
create function queue.may_manage(p_workspace_id uuid, p_bytes bigint default 0)
returns void
language plpgsql
set search_path = ''
as $$
begin
  perform queue.may_read(p_workspace_id);
  if not (
    queue.is_manager(p_workspace_id) or queue.is_operator() or queue.is_service()
  ) then
    perform queue.refuse(
      403,
      'forbidden',
      'only managers of the workspace may make this call',
      p_workspace_id::text
    );
  end if;
  perform queue.admit('changes', p_workspace_id, p_bytes => p_bytes);
end;
$$;

-- Return the workspace that a call applies to. Without p_workspace_id, return the workspace that
-- the caller joined first, so that the result stays the same when the caller joins another
-- workspace. If the project does not store when a member joined, a caller with several workspaces
-- must pass p_workspace_id. The service is recognized by its role, because the service and guests
-- have no user id.
create function public.own_workspace(p_workspace_id uuid default null)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_mine constant jsonb := (
    select jsonb_agg(
      jsonb_build_object('id', t.id, 'name', t.name)
      order by t.name, t.id
    )
    from queue.tenants as t
    where t.id in (
      select m.workspace_id
      from public.workspace_members as m
      where p_workspace_id is null
        and m.user_id = queue.caller()
        and not exists (
          select from public.workspace_members as o
          where o.user_id = m.user_id and o.created_at < m.created_at
        )
      union all
      select p_workspace_id
      where queue.is_member(p_workspace_id)
        or auth.jwt() ->> 'role' = 'service_role'
    )
  );
begin
  if v_mine is null then
    perform queue.refuse(
      404,
      'workspace_not_found',
      'workspace not found, or you are not its member',
      p_workspace_id::text
    );
  elsif jsonb_array_length(v_mine) > 1 then
    perform queue.refuse(
      400,
      'workspace_needed',
      'workspace_id must name one of your workspaces',
      v_mine::text
    );
  end if;
  return jsonb_build_object('workspace_id', v_mine #> '{0,id}');
end;
$$;
comment on function public.own_workspace is
  'Return the workspace that a call applies to. Without p_workspace_id, this is the workspace that '
  'the caller joined first. The caller must be a member of p_workspace_id.';
select queue.allow('authenticated, service_role', 'public.own_workspace');

create function public.list_workspaces()
returns jsonb
language sql stable
security definer
set search_path = ''
as $$
select jsonb_build_object(
  'workspaces', coalesce(
    jsonb_agg(jsonb_build_object('id', t.id, 'name', t.name) order by t.name, t.id),
    '[]'
  )
)
from queue.tenants as t
where queue.is_service() or t.id in (select queue.my_workspaces())
$$;
comment on function public.list_workspaces is
  'List the caller''s workspaces: {workspaces: [{id, name}]}.';
select queue.allow('authenticated, service_role', 'public.list_workspaces');

-- When a member is removed from a workspace, delete the member's subscriptions to topics of the
-- workspace. Notify the API servers that have open streams of topics of the workspace, so that the
-- servers end the removed member's streams. If the project's own table of members has no trigger
-- that calls queue.member_removed, the subscriptions of a removed member expire after 150 seconds.
-- The arguments of the trigger are the names of the columns with the workspace's id and the
-- member's id.
create function queue.member_removed()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_workspace constant uuid := to_jsonb(old) ->> tg_argv[0];
  v_user constant uuid := to_jsonb(old) ->> tg_argv[1];
  v_topics constant text[] := array(
    select t.topic
    from (
      select f.topic
      from queue.followers as f
      where f.user_id = v_user
      union
      select s.topic
      from queue.streamed_topics as s
      where s.expires_at > clock_timestamp()
    ) as t
    where t.topic = 'workspace:' || v_workspace
      or exists (
        select from public.jobs as j
        where j.id = case -- a topic may contain an invalid job id
          when t.topic ~* '^job:[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$'
            then substr(t.topic, 5)::uuid
        end
          and j.workspace_id = v_workspace
      )
      or exists (
        select from public.jobs as j
        where j.session_id = case when t.topic ^@ 'session:' then substr(t.topic, 9) end
          and j.workspace_id = v_workspace
      )
  );
begin
  delete from queue.followers as f
  where f.user_id = v_user and f.topic = any (v_topics);
  perform pg_notify('minutehand_events', s.topic)
  from queue.streamed_topics as s
  where s.topic = any (v_topics);
  return null;
end;
$$;
-- Create the trigger for removed members only if public.workspace_members is a table, because an
-- install may have replaced it by a view of the project's own table.
create function queue.watch_members()
returns void
language plpgsql
set search_path = ''
as $$
begin
  if (
    select c.relkind
    from pg_catalog.pg_class as c
    where c.oid = 'public.workspace_members'::regclass
  ) = 'r' then
    create trigger workspace_members_after_delete
      after delete on public.workspace_members
      for each row
      execute function queue.member_removed('workspace_id', 'user_id');
  end if;
end;
$$;
select queue.watch_members();

-- Delete the engine's data of a deleted tenant. The argument of the trigger is the name of the
-- column with the tenant's id.
create function queue.tenant_deleted()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_workspace constant uuid := to_jsonb(old) ->> tg_argv[0];
  v_table name;
begin
  delete from public.jobs where workspace_id = v_workspace;
  -- delete the tenant's rows from all tables of the engine, except queue.turns and queue.notes, in
  -- which leases and the sweep delete the rows later
  for v_table in
    select c.relname
    from pg_catalog.pg_class as c
    join pg_catalog.pg_attribute as a
      on a.attrelid = c.oid and a.attname = 'workspace_id'
    where c.relnamespace = 'queue'::regnamespace
      and c.relkind in ('r', 'p')
      and c.relname not in ('turns', 'notes')
    order by c.relname
  loop
    execute format(
      'delete from queue.%1$I where ctid = any (array('
        'select o.ctid from queue.%1$I as o where o.workspace_id = $1 for update skip locked))',
      v_table
    )
    using v_workspace;
  end loop;
  -- delete the tenant's jobs that were enqueued during the loop, because the loop may have deleted
  -- the rows of these jobs in queue.ready
  delete from public.jobs where workspace_id = v_workspace;
  return old;
end;
$$;
create trigger workspaces_before_delete
  before delete on public.workspaces
  for each row
  execute function queue.tenant_deleted('id');

select queue.show_to_members('public.workspace_members');
alter table public.workspaces enable row level security;
revoke all on public.workspaces from public, anon, authenticated, service_role;
create policy "members read their workspaces" on public.workspaces
  for select
  to authenticated
  using (id = any (array(select queue.my_workspaces())));
-- one policy per command, because Postgres evaluates all policies of a command for each row
create policy "managers add members" on public.workspace_members
  for insert
  to authenticated
  with check (queue.is_manager(workspace_id));
create policy "managers change members" on public.workspace_members
  for update
  to authenticated
  using (
    workspace_id = any (array(select queue.my_workspaces()))
    and queue.is_manager(workspace_id)
  )
  with check (queue.is_manager(workspace_id));
create policy "managers remove members, members leave" on public.workspace_members
  for delete
  to authenticated
  using (
    user_id = (select queue.caller())
    or workspace_id = any (array(select queue.my_workspaces()))
      and queue.is_manager(workspace_id)
  );

grant select on public.workspaces to authenticated;
grant insert (workspace_id, user_id, role), update (role), delete
  on public.workspace_members
  to authenticated;
grant select, insert, update, delete on public.workspaces to service_role;
grant select, insert, update, delete on public.workspace_members to service_role;
