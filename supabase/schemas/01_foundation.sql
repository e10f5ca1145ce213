-- Minutehand: durable jobs inside Postgres. This folder reads in order, one concern a file.
--
-- Fourteen notions suffice to read a lease:
--   place    Where a live job is, a table each: deferred, gated, ready, leases or waits.
--   lane     A job type in a queue.
--   ord      The order of a tenant's jobs: by priority, then by age.
--   turn     A tenant that has ready jobs in a lane.
--   blocked  Of a turn: no lease reads it, since it is closed (it was empty), is paused, or its
--            tenant is at a limit.
--   rank     The order of tenants with turns, the same in all lanes. A newcomer gets a number less
--            by one than that of the tenant that was served last: just behind where the round is,
--            and so near its end.
--   ring     Lanes that are served together, and how far in that order they have come.
--   round    Once around a ring.
--   weight   How many jobs a tenant gets in a round.
--   share    How many jobs of a turn a lease takes.
--   pool     The slots of a worker that some job types share.
--   gate     The limit of a concurrency key: its jobs wait behind it until they are admitted, as
--            many as may run. One that was admitted counts in queue.gated until its attempt ends.
--   note     What the next lease is to look at: a turn to open, or a gate. Left by enqueues, and by
--            whatever else makes a job ready or frees a key.
--   fence    The number of a job's lease: who shows an older one is not its holder any more.
--
-- A few words have a second sense. A plain insert is a client's own SQL, a plain job has no options
-- (a simple one is that of a single call), and a plain completion is a success at the first lease.
-- queue.admit charges a person and knows no gate. A tick is a run of a worker, whatever began it;
-- its calls are numbered. Held is what a transaction has locked until its end.
--
--   enqueue --> deferred --> gated --> ready --> leases --> completed, failed or cancelled
--               its time    its key   its turn   a worker
--              is to come   is full   is to come  runs it
--                  ^                                |
--                  +------ retry, snooze, waits <---+      (a job skips what does not apply to it)
--
-- Six rules hold everywhere:
-- 1. public.jobs is the record. None of its indexes names a column that changes between enqueue and
--    end, so a lease and a settlement are heap-only updates. A live job also has a row in the
--    narrow table of where it is: queue.deferred, gated, ready, leases or waits; or unpublished,
--    while no worker has published its type.
-- 2. Tenants are served in rounds. A round gives each as many jobs as its weight, and a lease
--    begins where the last one in these lanes ended; those of one moment may begin at one tenant.
--    It reads about as many tenants as it asks for jobs.
-- 3. Enqueues without keys never wait. They try a shared advisory lock on their turn and insert;
--    where the turn is not open they leave a note. A lease takes that lock alone before it closes a
--    turn or moves its start to the first job, so that no enqueue can be adding an older one.
-- 4. Limits are counted, not kept. A limited scope (type, workspace, type in a workspace) is an
--    advisory lock that a lease tries; the next statement counts its leases. The limit of a key is
--    a gate: no more of its jobs than may run are ever ready or running.
-- 5. What follows from the record is not stored. Events of a job that went as planned are derived
--    from its row. Each statement adds a line per tenant and kind to queue.feed, which watchers,
--    statistics and apps read.
-- 6. Workers lock the lease before the record, and leases skip what is locked. A cancel or retry
--    locks all its rows or none (queue.lock_jobs), so that no worker waits for a user's open
--    transaction, and a person's call that finds one held is refused at once. A lease refuses any
--    isolation but read committed, since it counts.
--
-- Four forms recur. An update by `ctid = any (array(select … for update skip locked))` leaves out
-- what another transaction holds. It also leaves out what was changed after the statement began:
-- the lock then is of the row's new version, which the update does not see. So no row is changed
-- by a condition on another table that held only before. `id = any (array[x])` finds a row by its
-- key, whatever the planner believes of the table. `x := f()` calls a function whose value no one
-- needs: an assignment costs less than the query that `perform` is. What a rule forbids ends in
-- queue.refuse, which raises.
--
-- Functions in public are security definer: no caller has rights on the engine's tables. Those
-- that read much turn sequential scans off: a session's plan may be older than the rows.
--
-- The life of a job, each step the name of its function:
--   public.enqueue_job, enqueue_jobs, insert into public.jobs, spawn_jobs, a schedule
--     queue.add              checks it, writes the record (queue.add_plain: of many in one)
--       queue.place          finds its place: deferred, behind its key's gate, or ready
--     queue.publish          a line of the feed, and a message to watchers
--   public.lease_jobs        a worker asks for jobs
--     queue.take_jobs        ready -> leased; all steps are at the head of 07_lease
--   public.report_jobs       progress, logs and steps of running jobs; renews their leases
--   public.settle_jobs       how attempts ended; leases the next jobs in the same call
--     queue.settle           leased -> ended, or back to deferred, gated, ready or waits
--       queue.decide         what becomes of all but plain completions; keeps their attempts
--       queue.end_places     frees the key's gate and the unique key; signals a waiting parent
--   public.run_maintenance   what time makes due, and retention

-- A schema, table, function or type that has one of our names already stops the migration. An
-- uninstall drops the schemas whose comment is ours; one that was there before keeps its own.
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
    v_taken := 'in the schema public: ' || v_taken;
  end if;
  if v_taken is not null then
    raise exception 'there is %, which is not Minutehand''s',
      v_taken
      using hint = 'Nothing was changed. Delete what the install wrote: this file, minutehand.toml '
        'and the processors'' package. Then choose another name: minutehand install --schema NAME.';
  end if;
  create schema queue;
  comment on schema queue is 'Minutehand: the engine; never exposed.';
end;
$$;
revoke all on schema queue from public; -- callers reach it through the functions in public

do $$
begin
  if not exists (select from pg_catalog.pg_roles where rolname = 'job_worker') then
    create role job_worker nologin noinherit;
  elsif coalesce(shobj_description('job_worker'::regrole, 'pg_authid'), '')
    not like 'Minutehand worker:%' then -- its members would get our grants
    raise exception 'there is a role job_worker that is not Minutehand''s'
      using hint = 'Rename it (alter role job_worker rename to …), then apply this migration.';
  end if;
  if exists (select from pg_catalog.pg_roles where rolname = 'authenticator') then
    -- the Data API switches to the role that a JWT claims
    grant job_worker to authenticator;
  end if;
  -- a worker with a connection of its own signs in as the owner, and switches too
  execute format('grant job_worker to %I', current_user);
end;
$$;
comment on role job_worker is
  'Minutehand worker: may execute the worker''s functions and nothing else.';
grant usage on schema public to job_worker, authenticated, service_role, anon;

-- The clock of all rules, which tests replace. In `language sql` each call would plan it.
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
revoke execute on function queue.clock from public;
grant execute on function queue.clock to authenticated, service_role;

-- The release whose text this is, as minutehand.version says. Doctor compares with its record.
create function queue.version()
returns text
language sql immutable
set search_path = ''
as $$
select '0.5.0'
$$;
revoke execute on function queue.version from public;

-- A version 7 UUID (RFC 9562), so that later ids are greater: milliseconds, fraction, random rest.
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
revoke execute on function queue.new_id from public;
grant execute on function queue.new_id to authenticated, service_role;

-- Up to 4,096 such ids in rising order, from one draw of randomness.
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
revoke execute on function queue.new_ids from public;

-- The smallest id of an instant: ranges of time are ranges of ids.
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
revoke execute on function queue.id_at from public;

-- Raise an error that the Data API answers with HTTP status p_status; clients map on p_hint.
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
begin
  raise exception
    using
      errcode = 'PT' || p_status,
      message = p_message,
      hint = p_hint,
      detail = coalesce(p_detail, '');
end;
$$;
revoke execute on function queue.refuse from public;

-- Refuse what is not an object or has a field of an unknown name, so that a typo is not ignored.
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
revoke execute on function queue.check_names from public;

create table queue.settings (
  name text primary key,
  value jsonb not null,
  updated_at timestamptz not null default now()
);
alter table queue.settings enable row level security;
revoke all on queue.settings from public, anon, authenticated, service_role;
insert into queue.settings (name, value)
values
  ('payload_max_bytes', '262144'),
  -- a job fails once its workers have died so often, whatever max_attempts says
  ('lost_attempts_max', '5'),
  ('retention_days', '{"completed": 30, "cancelled": 30, "failed": 90}'),
  ('feed_hours', '24'), -- how far back a workspace's feed reaches
  ('user_pending_max', '100000'); -- live jobs that people may have in a workspace

create function queue.setting(p_name text)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
  return (select value from queue.settings where name = p_name);
end;
$$;
revoke execute on function queue.setting from public;

-- Take an advisory lock until this transaction ends; false where another holds it. p_waits: wait
-- for it and take it alone. A lock has two numbers. The first is that of the name's first word, so
-- that a name with a caller's text in it meets no lock of another kind; it is negative, since a
-- turn's lock (queue.hold_turn) has its lane there.
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
    perform pg_advisory_xact_lock(v_kind, hashtext(p_name));
    return true;
  elsif p_is_shared then
    return pg_try_advisory_xact_lock_shared(v_kind, hashtext(p_name));
  end if;
  return pg_try_advisory_xact_lock(v_kind, hashtext(p_name));
end;
$$;
revoke execute on function queue.try_lock from public;

-- Let members read their workspaces' rows, and the service all. A view must be security_invoker. A
-- write to one that no write can reach is an error of its own, answered with 500; with a trigger in
-- its place Postgres looks at the right first, which is missing, and the answer is 403. So there is
-- such a trigger, and it never runs.
create function queue.show_to_members(variadic p_relations regclass[])
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_one record;
  v_writes text; -- those that the view has no way for
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
          '(workspace_id in (select queue.my_workspaces()))',
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
revoke execute on function queue.show_to_members from public;

-- Let only these roles call the functions. One of a worker must refuse a revoked key.
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
revoke execute on function queue.allow from public;

-- Tenants, and their members, who see the jobs of their workspace. An install for tenants of a
-- project's own replaces tables and views; the functions below read the two views.
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
revoke all on queue.tenants from public, anon, authenticated, service_role;
create view queue.tenant_members as
select workspace_id, user_id, role
from public.workspace_members;
revoke all on queue.tenant_members from public, anon, authenticated, service_role;

-- The person who calls; null for the service and for guests. Unlike auth.uid it answers another
-- kind of subject (of Clerk, Firebase) with a 401 that says so, and with null in a policy.
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
revoke execute on function queue.caller from public;
grant execute on function queue.caller to authenticated, service_role;

-- Staff, who see every tenant and belong to none.
create function queue.is_operator()
returns boolean
language plpgsql stable
set search_path = ''
as $$
begin
  return auth.jwt() #>> '{app_metadata,minutehand_operator}' = 'true' is true;
end;
$$;
revoke execute on function queue.is_operator from public;
grant execute on function queue.is_operator to authenticated, service_role;

-- The caller's workspaces. Policies write `in (select queue.my_workspaces())`: once a query.
create function queue.my_workspaces()
returns setof uuid
language plpgsql stable
security definer
set search_path = ''
as $$
begin
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
revoke execute on function queue.my_workspaces from public;
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
revoke execute on function queue.is_member from public;
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
revoke execute on function queue.is_manager from public;
grant execute on function queue.is_manager to authenticated, service_role;

-- Whether the service calls: its role, the worker's, or plain SQL. Never where guests may call.
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
revoke execute on function queue.is_service from public;

-- The workspace of jobs that belong to no tenant: without members, only operators see them.
create function queue.system_workspace()
returns uuid
language sql immutable
parallel safe
set search_path = ''
as $$
select 'ffffffff-ffff-4fff-bfff-ffffffffffff'::uuid
$$;
revoke execute on function queue.system_workspace from public;

-- Refuse outsiders with 404; returns the user who calls, null for the service. p_reads_much: one of
-- few such calls at a time; operators and the service may then give null for all workspaces.
create function queue.may_read(
  p_workspace_id uuid,
  p_reads_much boolean default false
)
returns uuid
language plpgsql stable
set search_path = ''
as $$
declare -- read once, as queue.is_service and queue.caller do
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
      'workspace not found',
      p_workspace_id::text
    );
  end if;
  if p_reads_much then
    perform queue.take_call_slot(p_workspace_id);
  end if;
  return v_user;
end;
$$;
revoke execute on function queue.may_read from public;

-- Refuse outsiders with 404, and members who do not manage the workspace with 403. It takes a call
-- slot: two changes of one schedule, say, wait for each other.
create function queue.may_manage(p_workspace_id uuid)
returns void
language plpgsql stable
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
      'only managers of the workspace may do this',
      p_workspace_id::text
    );
  end if;
  perform queue.take_call_slot(p_workspace_id);
end;
$$;
revoke execute on function queue.may_manage from public;

-- Without p_workspace_id, the workspace that the caller joined first, so that joining another one
-- does not change what calls without a workspace mean. Where a project's tenants keep no date, the
-- caller must name one of theirs. Guests have no claims: the service is known by its role.
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
      'workspace not found',
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
  'The workspace to act in: the one named, which must be the caller''s, else their first.';
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
  'The caller''s workspaces: {workspaces: [{id, name}]}.';
select queue.allow('authenticated, service_role', 'public.list_workspaces');

-- Delete what belongs to a deleted tenant. The argument names the column of the tenant's id.
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
  -- all the engine keeps of it, but turns and notes, which leases and the sweep delete
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
  -- what came since lost its place
  delete from public.jobs where workspace_id = v_workspace;
  return old;
end;
$$;
revoke execute on function queue.tenant_deleted from public;
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
  using (id in (select queue.my_workspaces()));
-- one policy a command: of several Postgres asks each for every row
create policy "managers add members" on public.workspace_members
  for insert
  to authenticated
  with check (queue.is_manager(workspace_id));
create policy "managers change members" on public.workspace_members
  for update
  to authenticated
  using (
    workspace_id in (select queue.my_workspaces())
    and queue.is_manager(workspace_id)
  )
  with check (queue.is_manager(workspace_id));
create policy "managers remove members, members leave" on public.workspace_members
  for delete
  to authenticated
  using (
    user_id = (select queue.caller())
    or workspace_id in (select queue.my_workspaces())
      and queue.is_manager(workspace_id)
  );

grant select on public.workspaces to authenticated;
grant insert (workspace_id, user_id, role), update (role), delete
  on public.workspace_members
  to authenticated;
grant select, insert, update, delete on public.workspaces to service_role;
grant select, insert, update, delete on public.workspace_members to service_role;
