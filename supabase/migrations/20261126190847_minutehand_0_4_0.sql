-- 0.4.0 after the release before it; written by `python -m infra.release` from schemas and steps/0.4.0.sql.
-- Do not edit it, and do not read it: read the schemas.

-- What doctor compares travels with the release; the database no longer keeps a copy of its own.
delete from queue.settings where name = 'facts';

-- A choice is known by its presence. Of jobs that wait for their type it is not known any more: the
-- values that are not the default's were chosen.
alter table public.jobs add column chosen text[];
update public.jobs
set chosen = array_remove(
  array[
    case when queue <> 'default' then 'queue' end,
    case when max_attempts <> 5 then 'max_attempts' end
  ],
  null
)
where id in (
  select g.job_id
  from queue.gated as g
  where g.lane = 0
);

-- A type belongs to a deploy, and the younger one wins.
alter table queue.job_types
  add column commit text,
  add column deployed_at timestamptz,
  add constraint commit_has_at_most_100_characters check (char_length(commit) <= 100);

-- A lease may be asked for by pools of slots, of some job types each.
alter type queue.lease_request add attribute pools jsonb;

-- Columns say what they hold.
alter table queue.feed rename column held to unsent;
alter index queue.feed_held rename to feed_unsent;
alter table queue.job_keys rename column until to freed_when;
alter table queue.stats rename column waits to queue_times;
alter table queue.stats rename column runs to run_times;
alter table queue.waits rename column name to step;
alter type queue.turn rename attribute due to round;
alter type queue.last_served rename attribute due to round;

-- A ring is a row of its own (see below), and a weight a whole number.
alter table queue.lanes add column ring integer not null default 1;
create index lanes_by_ring on queue.lanes (ring);
alter table queue.turns drop column had;
alter table queue.tenant_limits
  drop constraint tenant_limits_are_not_negative,
  alter column weight type integer using greatest(1, round(weight));
alter table queue.tenant_limits
  add constraint tenant_limits_are_not_negative check (
    weight >= 1
    and weight <= 100
    and least(max_running, own_max_running, max_pending) >= 0
  );
alter type queue.turn rename attribute had to taken;
alter type queue.turn alter attribute taken type integer, alter attribute weight type integer;
alter type queue.last_served rename attribute rounds to taken;
alter type queue.last_served alter attribute taken type integer;

-- Positions are compared by number: the cluster's own number says nothing of its history.
delete from queue.settings where name = 'cluster';
alter type queue.feed_cursor rename attribute cluster to history;
-- Of a full table that maintenance works off each workspace has its share.
create index signals_by_workspace on queue.signals (workspace_id, id);
create index waits_by_workspace_and_timeout on queue.waits (workspace_id, timeout_at)
  where timeout_at is not null;
create index feed_unsent_by_workspace on queue.feed (workspace_id, id) where unsent;

-- What a job says while it runs.
alter table queue.leases add column output_bytes bigint;

alter type queue.worker_item add attribute output jsonb;

insert into queue.settings (name, value)
values ('output_max_bytes', '1000000');

insert into queue.tasks (name, every)
values ('output', '1 minute');

-- A task says itself that it reads the feed.
alter table queue.tasks add column reads_feed boolean not null default false;
update queue.tasks set reads_feed = true where name = 'statistics';

-- Whose an event is, so that it is erased with them.
alter table queue.named_events add column created_by uuid;

-- What live jobs hold is bounded, and the disk is watched once its size is said.
insert into queue.settings (name, value)
values ('user_pending_bytes_max', '1000000000'), ('disk_bytes', 'null');

-- What Postgres prints of a check is read back as the same, for tools that compare schemas by it.
alter table queue.job_types
  drop constraint job_type_has_1_to_100_plain_characters,
  drop constraint queue_has_1_to_100_plain_characters,
  drop constraint lease_and_timeout_are_1_to_43200_seconds,
  drop constraint backoff_is_0_to_86400_seconds_cap_604800_factor_1_to_10,
  add constraint job_type_has_1_to_100_plain_characters
    check (
      char_length(job_type) >= 1
      and char_length(job_type) <= 100
      and job_type !~ '[[:cntrl:]]'
    ),
  add constraint queue_has_1_to_100_plain_characters
    check (
      char_length(queue) >= 1
      and char_length(queue) <= 100
      and queue !~ '[[:cntrl:]]'
    ),
  add constraint lease_and_timeout_are_1_to_43200_seconds
    check (
      lease_seconds >= 1
      and lease_seconds <= 43200
      and timeout_seconds >= 1
      and timeout_seconds <= 43200
    ),
  add constraint backoff_is_0_to_86400_seconds_cap_604800_factor_1_to_10
    check (
      backoff_first_seconds >= 0
      and backoff_first_seconds <= 86400
      and backoff_cap_seconds >= 0
      and backoff_cap_seconds <= 604800
      and backoff_factor >= 1
      and backoff_factor <= 10
    );

-- A job may have to start by a moment.
alter table public.jobs
  add column start_by_seconds integer,
  add column start_by_at timestamptz;

-- The clock of all rules, which tests replace. In `language sql` each call would plan it.
create or replace function queue.clock()
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
create or replace function queue.version()
returns text
language sql immutable
set search_path = ''
as $$
select '0.4.0'
$$;

revoke execute on function queue.version from public;

-- A version 7 UUID (RFC 9562), so that later ids are greater: milliseconds, fraction, random rest.
create or replace function queue.new_id()
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
create or replace function queue.new_ids(p_count integer)
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
create or replace function queue.id_at(p_at timestamptz)
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
create or replace function queue.refuse(
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
create or replace function queue.check_names(p_given jsonb, p_known text[], p_what text)
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

-- live jobs that people may have in a workspace

create or replace function queue.setting(p_name text)
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
-- for it, alone. The name's first word has a number of its own: no caller's text meets it.
create or replace function queue.try_lock(
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

-- Let members read their workspaces' rows, and the service all. A view must be security_invoker.
-- Its trigger never runs: with one, Postgres refuses a write for the missing right (403, not 500).
create or replace function queue.show_to_members(variadic p_relations regclass[])
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
create or replace function queue.allow(p_roles text, variadic p_functions regproc[])
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

-- The person who calls; null for the service and for guests. Unlike auth.uid it answers another
-- kind of subject (of Clerk, Firebase) with a 401 that says so, and with null in a policy.
create or replace function queue.caller(p_is_strict boolean default true)
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
create or replace function queue.is_operator()
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
create or replace function queue.my_workspaces()
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

create or replace function queue.is_member(p_workspace_id uuid)
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

create or replace function queue.is_manager(p_workspace_id uuid)
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
create or replace function queue.is_service()
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
create or replace function queue.system_workspace()
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
create or replace function queue.may_read(
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
create or replace function queue.may_manage(p_workspace_id uuid)
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
create or replace function public.own_workspace(p_workspace_id uuid default null)
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

create or replace function public.list_workspaces()
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
create or replace function queue.tenant_deleted()
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

-- The job; 404 unless the caller may see it.
create or replace function queue.visible_job(p_job_id uuid)
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
create or replace function queue.append_event(
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

-- Job types, which workers publish, and the check of payloads against their schemas.

-- What a value must, apart from its parts, as "be at least 1"; null when it fits. By type, since a
-- transaction prepares each expression that it reaches.
create or replace function queue.value_error(p_schema jsonb, p_value jsonb)
returns text
language plpgsql immutable
set search_path = ''
as $$
declare
  v_type constant text := jsonb_typeof(p_value);
  v_wanted constant text := p_schema ->> 'type';
  v_text text;
begin
  if p_schema ?| '{const,enum}' then
    return case
      when p_schema -> 'const' <> p_value then format('be %s', p_schema -> 'const')
      when not (p_schema -> 'enum') @> jsonb_build_array(p_value)
        then format('be one of %s', p_schema -> 'enum')
    end;
  elsif v_wanted <> v_type and (v_wanted <> 'integer' or v_type <> 'number') then
    return format(
      'be %s, not %s',
      v_wanted,
      case v_type when 'number' then left(p_value::text, 40) else v_type end
    );
  elsif v_type = 'string' then
    v_text := p_value #>> '{}';
    return case
      when char_length(v_text) < (p_schema -> 'minLength')::integer
        then format('have at least %s characters', p_schema -> 'minLength')
      when char_length(v_text) > (p_schema -> 'maxLength')::integer
        then format('have at most %s characters', p_schema -> 'maxLength')
      when v_text !~ (p_schema ->> 'pattern')
        then format('match %s', p_schema ->> 'pattern')
      when p_schema ->> 'format' = 'uuid'
          and v_text !~* '^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$'
        then 'be a UUID'
      when p_schema ->> 'format' = 'date-time'
          and v_text
          !~ '^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:?\d\d)$'
        then 'be an ISO 8601 instant with an offset'
    end;
  elsif v_type = 'number' then
    return case
      when v_wanted = 'integer' and p_value::numeric % 1 <> 0
        then format('be integer, not %s', left(p_value::text, 40))
      when p_value::numeric < (p_schema -> 'minimum')::numeric
        then format('be at least %s', p_schema -> 'minimum')
      when p_value::numeric <= (p_schema -> 'exclusiveMinimum')::numeric
        then format('be greater than %s', p_schema -> 'exclusiveMinimum')
      when p_value::numeric > (p_schema -> 'maximum')::numeric
        then format('be at most %s', p_schema -> 'maximum')
      when p_value::numeric >= (p_schema -> 'exclusiveMaximum')::numeric
        then format('be less than %s', p_schema -> 'exclusiveMaximum')
    end;
  elsif v_type = 'array' then
    return case
      when jsonb_array_length(p_value) < (p_schema -> 'minItems')::integer
        then format('have at least %s items', p_schema -> 'minItems')
      when jsonb_array_length(p_value) > (p_schema -> 'maxItems')::integer
        then format('have at most %s items', p_schema -> 'maxItems')
    end;
  end if;
  return null;
end;
$$;

revoke execute on function queue.value_error from public;

-- The first way p_value breaks p_schema, as a sentence; null when it fits. The part of JSON Schema
-- 2020-12 that pydantic writes: type, enum, const, required, properties, additionalProperties,
-- items, lengths, ranges, pattern, format uuid and date-time, anyOf, oneOf (as anyOf), $ref.
create or replace function queue.schema_error(
  p_schema jsonb,
  p_value jsonb,
  p_path text default '$',
  p_root jsonb default null
)
returns text
language plpgsql immutable
set search_path = ''
as $$
declare
  v_root constant jsonb := coalesce(p_root, p_schema);
  v_type constant text := jsonb_typeof(p_value);
  v_error text;
  v_errors text[];
  v_part record;
begin
  if p_schema is null then
    return null; -- nothing below is looked into
  elsif p_schema ? '$ref' then
    return queue.schema_error(
      v_root #> string_to_array(ltrim(p_schema ->> '$ref', '#/'), '/'),
      p_value,
      p_path,
      v_root
    );
  elsif p_schema ?| '{anyOf,oneOf}' then
    v_errors := array(
      select queue.schema_error(o.value, p_value, p_path, v_root)
      from jsonb_array_elements(coalesce(
        p_schema -> 'anyOf',
        p_schema -> 'oneOf'
      )) as o
    );
    return case when array_position(v_errors, null) is null then v_errors[1] end;
  end if;
  v_error := p_path || ' must ' || queue.value_error(p_schema, p_value);
  if v_error is null and v_type = 'object' then
    v_error := (
      select format('%s.%s is required', p_path, r)
      from jsonb_array_elements_text(p_schema -> 'required') as r
      where not p_value ? r
      limit 1
    );
  end if;
  if v_error is not null or v_type not in ('array', 'object') then
    return v_error;
  end if;
  for v_part in
    select
      format('%s[%s]', p_path, e.n - 1) as path,
      p_schema -> 'items' as schema,
      e.value
    from jsonb_array_elements(
      case v_type when 'array' then p_value end
    ) with ordinality as e (value, n)
    union all
    select
      format('%s.%s', p_path, left(f.key, 80)),
      coalesce(
        p_schema -> 'properties' -> f.key,
        p_schema -> 'additionalProperties'
      ),
      f.value
    from jsonb_each(case v_type when 'object' then p_value end) as f
  loop
    v_error := case
      when v_part.schema = 'false' then v_part.path || ' is not a known field'
      else queue.schema_error(v_part.schema, v_part.value, v_part.path, v_root)
    end;
    exit when v_error is not null;
  end loop;
  return v_error;
end;
$$;

revoke execute on function queue.schema_error from public;

-- Refuse what some clients cannot read, since one job must not spoil an answer with many: JSON
-- parsers stop at about 200 levels and overflow beyond 1.8e308.
create or replace function queue.check_json(p_value jsonb, p_field text)
returns void
language plpgsql stable
set search_path = ''
as $$
declare
  v_text constant text := p_value::text;
  v_bytes_max constant integer := queue.setting('payload_max_bytes')::integer;
begin
  -- measured as text: 1e131000 is stored in ten bytes and read in 131,001
  if octet_length(v_text) > v_bytes_max then
    perform queue.refuse(
      413,
      'payload_too_large',
      format(
        '%s exceeds %s bytes; store it and pass a reference',
        p_field,
        v_bytes_max
      ),
      p_field
    );
  elsif pg_column_size(p_value) > 800 and p_value @? 'strict $.**{101}' then
    perform queue.refuse(
      422,
      'payload_invalid',
      p_field || ' is nested more than 100 levels deep',
      p_field
    );
  elsif octet_length(v_text) > 309
    and v_text ~ '[0-9]{155}[0-9]{154}'
    and p_value @? 'strict $.**
      ? (@.type() == "number" && (@ > 1.7976931348623157e308 || @ < -1.7976931348623157e308))'
  then
    perform queue.refuse(
      422,
      'payload_invalid',
      p_field || ' holds a number that no double can hold',
      p_field
    );
  end if;
end;
$$;

revoke execute on function queue.check_json from public;

-- Refuse a payload that its type's latest schema does not allow; upcasters check older ones.
create or replace function queue.check_payload(
  p_type queue.job_types,
  p_payload jsonb,
  p_version integer,
  p_within text
)
returns void
language plpgsql stable
set search_path = ''
as $$
declare
  v_field constant text := p_within || 'payload';
  v_error text;
begin
  if jsonb_typeof(p_payload) is distinct from 'object' then
    perform queue.refuse(
      422,
      'payload_invalid',
      v_field || ' must be an object',
      v_field
    );
  elsif p_version > p_type.schema_version and p_type.schema_version > 0 then
    perform queue.refuse(
      422,
      'payload_invalid',
      format('schema_version %s is newer than any worker knows', p_version),
      p_within || 'schema_version'
    );
  end if;
  perform queue.check_json(p_payload, v_field);
  if p_type.payload_schema is not null
    and coalesce(p_version, p_type.schema_version) = p_type.schema_version
  then
    v_error := queue.schema_error(p_type.payload_schema, p_payload, v_field);
    if v_error is not null then
      perform queue.refuse(
        422,
        'payload_invalid',
        v_error,
        split_part(v_error, ' ', 1)
      );
    end if;
  end if;
end;
$$;

revoke execute on function queue.check_payload from public;

-- Whether a type is of a younger deploy than the one that publishes it now, which therefore undoes
-- nothing of it. Who does not say when it was deployed is older than who does; between two that do
-- not, the newer version of the payload is the younger.
create or replace function queue.is_of_younger(p_known queue.job_types, p_type jsonb)
returns boolean
language sql stable
set search_path = ''
as $$
select case
  when p_known.deployed_at is null then v.is_older
  else p_known.deployed_at > d.at or p_known.deployed_at = d.at and v.is_older
end
from coalesce((p_type ->> 'deployed_at')::timestamptz, '-infinity') as d (at)
cross join lateral (
  select p_known.schema_version > coalesce((p_type ->> 'schema_version')::integer, 1)
) as v (is_older)
$$;

revoke execute on function queue.is_of_younger from public;

-- Publish the schedules of a type's code, with their queues. Those that are missing are withdrawn:
-- one that comes back within a day, as after a roll-back, keeps the run that it would have next.
create or replace function queue.publish_schedules(p_type jsonb, p_source text)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_name constant text := p_type ->> 'job_type';
  v_names constant text[] := array(
    select 'code:' || (d ->> 'name')
    from jsonb_array_elements(p_type -> 'schedules') as d
  );
begin
  with gone as (
    delete from queue.schedules as s
    where s.job_type = v_name and s.source is not null and s.name <> all (v_names)
    returning s.name, s.cron, s.timezone, s.next_at, s.last_slot_at, s.last_job_id
  )
  insert into queue.withdrawn_schedules as w
  select g.*, queue.clock()
  from gone as g
  on conflict (name) do update set
    cron = excluded.cron,
    timezone = excluded.timezone,
    next_at = excluded.next_at,
    last_slot_at = excluded.last_slot_at,
    last_job_id = excluded.last_job_id,
    withdrawn_at = excluded.withdrawn_at;
  perform queue.lane_of(v_name, d #>> '{options,queue}', p_declares => true)
  from jsonb_array_elements(p_type -> 'schedules') as d
  where d #>> '{options,queue}' is not null;
  perform queue.save_schedule(
    queue.system_workspace(),
    d || jsonb_build_object('name', 'code:' || (d ->> 'name'), 'job_type', v_name),
    p_source,
    queue.clock()
  )
  from jsonb_array_elements(p_type -> 'schedules') as d;
  with back as (
    delete from queue.withdrawn_schedules as w
    where w.name = any (v_names)
    returning w.*
  )
  update queue.schedules as s
  set
    last_slot_at = b.last_slot_at,
    last_job_id = b.last_job_id,
    next_at = case
      when (s.cron, s.timezone) = (b.cron, b.timezone) then b.next_at
      else s.next_at
    end
  from back as b
  where s.workspace_id = queue.system_workspace() and s.name = b.name;
end;
$$;

revoke execute on function queue.publish_schedules from public;

-- Publish a type: its row, and the schedules of its code. False where it is of a younger deploy.
create or replace function queue.publish_type(p_type jsonb)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_name constant text := p_type ->> 'job_type';
  v_old queue.job_types;
  v_new queue.job_types;
begin
  perform queue.check_names(
    p_type,
    '{job_type, queue, max_concurrency, workspace_concurrency,
    key_concurrency, rate_limit, lease_seconds, timeout_seconds, max_attempts, backoff,
    payload_schema, schema_version, events, internal, source, description, schedules, commit,
    deployed_at}',
    'the job type'
  );
  select * into v_old
  from queue.job_types as t
  where t.job_type = v_name
  for update;
  if queue.is_of_younger(v_old, p_type) then
    return false;
  end if;
  v_new := jsonb_populate_record(
    null::queue.job_types,
    '{"queue": "default", "lease_seconds": 60,
    "timeout_seconds": 300, "max_attempts": 5, "schema_version": 1}'
      || p_type
      || jsonb_build_object(
        'backoff_first_seconds', coalesce(
          p_type #>> '{backoff,first_seconds}',
          '60'
        ),
        'backoff_cap_seconds', coalesce(p_type #>> '{backoff,cap_seconds}', '3600'),
        'backoff_factor', coalesce(p_type #>> '{backoff,factor}', '2'),
        'rate_limit', p_type #> '{rate_limit,limit}',
        'rate_per_seconds', p_type #> '{rate_limit,per_seconds}',
        'rate_per_key', coalesce(p_type #>> '{rate_limit,per_key}', 'false'),
        -- null, which the column refuses, for another word
        'is_minimal', case coalesce(p_type ->> 'events', 'full')
          when 'full' then false
          when 'minimal' then true
        end,
        'in_order', coalesce(v_old.in_order, false),
        'registered_at', queue.clock(),
        -- a clock that is ahead must not hold the type against what comes after
        'deployed_at', case
          when p_type ? 'deployed_at'
            then least((p_type ->> 'deployed_at')::timestamptz, queue.clock())
        end,
        -- a worker may make a type internal, and may not undo that, unless keys were revoked since
        'internal', p_type -> 'internal' = 'true' is true
          or v_old.internal is true
            and v_old.registered_at > '-infinity'
            and auth.jwt() ->> 'role' = 'job_worker' is true
      )
  );
  v_new.lane := queue.lane_of(v_name, v_new.queue, p_declares => true);
  if v_old.registered_at = '-infinity'
    or to_jsonb(v_old) - 'registered_at'
      is distinct from to_jsonb(v_new) - 'registered_at'
  then
    delete from queue.job_types where job_type = v_name;
    -- on conflict: a migration may be adding it
    insert into queue.job_types
    select v_new.*
    on conflict (job_type) do nothing;
  end if;
  if p_type ? 'schedules' then
    perform queue.publish_schedules(p_type, coalesce(v_new.source, v_name));
  end if;
  -- changed limits apply to jobs that run or wait already
  if (
    v_old.key_concurrency,
    v_old.rate_limit,
    v_old.rate_per_seconds,
    v_old.rate_per_key
  ) is distinct from (
    v_new.key_concurrency,
    v_new.rate_limit,
    v_new.rate_per_seconds,
    v_new.rate_per_key
  ) then
    perform queue.regate(v_name);
  end if;
  return true;
end;
$$;

revoke execute on function queue.publish_type from public;

create or replace function public.register_job_types(p_types jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_type jsonb;
  v_count integer := 0;
  v_refused jsonb := '[]';
  v_code text;
  v_field text;
begin
  perform queue.refuse_revoked();
  for v_type in -- in one order, since each is locked
    select (
      select jsonb_object_agg(f.key, f.value)
      from jsonb_each(t.value) as f
      where f.value <> 'null'
    )
    from jsonb_array_elements(p_types) as t
    order by t.value ->> 'job_type'
  loop
    perform queue.try_lock(
      'registration ' || (v_type ->> 'job_type'),
      p_waits => true
    );
    begin
      v_count := v_count + queue.publish_type(v_type)::integer;
    exception -- a refused type stops no other
    when data_exception
      or integrity_constraint_violation
      or sqlstate 'PT400'
      or sqlstate 'PT404'
      or sqlstate 'PT409'
      or sqlstate 'PT422' then
      get stacked diagnostics v_code = pg_exception_hint, v_field
        = pg_exception_detail;
      v_refused := v_refused || jsonb_build_object(
        'job_type', left(v_type ->> 'job_type', 100),
        'message', left(sqlerrm, 1000),
        'code', case
          when sqlstate like 'PT%' then v_code
          else 'invalid_argument'
        end,
        'field', case when sqlstate like 'PT%' then v_field end
      );
      if char_length(v_type ->> 'job_type') between 1 and 100
        and v_type ->> 'job_type' !~ '[[:cntrl:]]'
      then
        -- version 0: not published yet
        insert into queue.job_types as t (job_type, schema_version, refusal)
        values (v_type ->> 'job_type', 0, left(sqlerrm, 1000))
        on conflict (job_type) do update set refusal = excluded.refusal;
      end if;
    end;
  end loop;
  perform public.attach_extensions(); -- what has been installed since
  return jsonb_build_object('registered', v_count, 'refused', v_refused);
end;
$$;

comment on function public.register_job_types is
  E'Publish job types: {registered, refused: [{job_type, code, message, field}]}.\n\nA type that '
  'is refused keeps the policy it had and shows why.';

select queue.allow('job_worker, service_role', 'public.register_job_types');

-- noqa: PRS

-- Notify workers, once in 20 ms: a transaction that notifies commits under a lock of the server.
create or replace function queue.notify_workers()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
  -- constant: to assign it later would prepare a cast
  v_at constant bigint := (date_part('epoch', clock_timestamp()) * 50)::bigint;
begin
  if v_at is distinct from pg_sequence_last_value('queue.notified_at') then
    perform setval('queue.notified_at', v_at), pg_notify('minutehand_wakeup', '');
  end if;
  return null;
end;
$$;

revoke execute on function queue.notify_workers from public;

-- Whether the caller should start a worker: none has free slots, none was asked for in two seconds,
-- or it is time (p_is_due). The worker that connect_worker has named is called by pg_net: without
-- AWS this is the schedule, on AWS a hint, beside the API and the schedule of each minute.
create or replace function queue.wake_worker(
  p_now timestamptz default queue.clock(),
  p_is_due boolean default false
)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_ms bigint := (date_part('epoch', p_now) * 1000)::bigint;
  v_url text;
begin
  if not p_is_due
    and v_ms - greatest(
      pg_sequence_last_value('queue.wanted_ms'),
      pg_sequence_last_value('queue.slots_ms'),
      0
    ) between 0 and 1999
  then
    return false;
  end if;
  -- an assignment is cheaper than a query
  v_ms := setval('queue.wanted_ms', greatest(0, v_ms));
  v_url := queue.setting('worker_url') #>> '{}';
  if v_url is null then
    return true;
  end if;
  begin
    execute $do$select net.http_post(url := $1, body := '{}'::jsonb, params := '{}'::jsonb,
        headers := jsonb_build_object('Authorization', 'Bearer ' || s.decrypted_secret,
          'Content-Type', 'application/json'), timeout_milliseconds := 2000)
      from vault.decrypted_secrets as s where s.name = 'minutehand_worker_token'$do$ using v_url;
  exception when others then -- a hint that fails must not fail the enqueue
    raise warning 'the worker could not be called: % (%)', sqlerrm, sqlstate;
  end;
  return true;
end;
$$;

revoke execute on function queue.wake_worker from public;

-- The type of a new job. One that no worker has published gets lane 0 and version 0; it is refused
-- where jobs of 20 such types wait in the workspace already, or of 1,000 in all.
create or replace function queue.type_or_refuse(
  p_job_type text,
  p_within text default '',
  p_workspace_id uuid default null
)
returns queue.job_types
language plpgsql stable
set search_path = ''
as $$
declare
  v_type queue.job_types;
  v_own integer;
  v_all integer;
begin
  select * into v_type
  from queue.job_types as t
  where t.job_type = p_job_type and t.schema_version > 0;
  if found then
    return v_type;
  end if;
  if p_job_type is null then
    perform queue.refuse(
      400,
      'invalid_argument',
      'job_type is required',
      p_within || 'job_type'
    );
  elsif char_length(p_job_type) not between 1 and 100
    or p_job_type ~ '[[:cntrl:]]'
  then
    perform queue.refuse(
      422,
      'unknown_job_type',
      'job_type must have 1 to 100 characters, none of control',
      p_within || 'job_type'
    );
  elsif not exists (
    select from queue.unpublished as u
    where u.job_type = p_job_type and u.workspace_id = p_workspace_id
  ) then
    with recursive waiting as ( -- each type by one look-up
      select min(u.job_type) as job_type
      from queue.unpublished as u
      union all
      select (
        select min(u.job_type)
        from queue.unpublished as u
        where u.job_type > w.job_type
      )
      from waiting as w
      where w.job_type is not null
    )
    select
      count(*) filter (where w.job_type <> p_job_type),
      count(*) filter (
        where exists (
          select from queue.unpublished as u
          where u.job_type = w.job_type and u.workspace_id = p_workspace_id
        )
      )
    into v_all, v_own
    from waiting as w
    where w.job_type is not null;
    if p_workspace_id is not null and (v_own >= 20 or v_all >= 1000) then
      perform queue.refuse(
        422,
        'unknown_job_type',
        format(
          'no worker has published the job type %s, and jobs of %s such types wait already',
          p_job_type,
          greatest(v_own, v_all)
        ),
        p_within || 'job_type'
      );
    end if;
  end if;
  return jsonb_populate_record(
    null::queue.job_types,
    jsonb_build_object(
      'job_type', p_job_type,
      'queue', 'default',
      'lane', 0,
      'max_attempts', 5,
      'schema_version', 0,
      'is_minimal', false,
      'internal', false,
      'rate_per_key', false,
      'in_order', false
    )
  );
end;
$$;

revoke execute on function queue.type_or_refuse from public;

-- The order of a tenant's jobs, smallest first: priority, then microseconds since 2020 in 52 bits.
create or replace function queue.ord_of(p_priority integer, p_at timestamptz)
returns bigint
language plpgsql immutable
set search_path = ''
as $$
begin
  return (p_priority::bigint << 52) + least(
    4503599627370495,
    greatest(0, date_part('epoch', p_at) * 1000000 - 1577836800000000)
  )::bigint;
end;
$$;

revoke execute on function queue.ord_of from public;

-- The lane of a type in a queue, made where it is missing. Only a deploy (p_declares) may name a
-- new queue; others one that a type or worker names, since a lease reads all lanes of its types.
create or replace function queue.lane_of(
  p_job_type text,
  p_queue text,
  p_within text default '',
  p_declares boolean default false
)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_lane integer := (
    select min(l.lane)
    from queue.lanes as l
    where l.job_type = p_job_type
      and l.queue = p_queue
      -- not one that is about to be swept
      and (
        l.unused_since is null
        or l.unused_since > queue.clock() - interval '23 hours'
      )
  );
begin
  if v_lane is null then
    if not p_declares
      and p_queue <> 'default'
      and not exists (select from queue.job_types as t where t.queue = p_queue)
      and not exists (
        select from queue.workers as w
        where p_queue = any (w.queues)
          and w.seen_at > queue.clock() - interval '1 day'
      )
    then
      perform queue.refuse(
        422,
        'unknown_queue',
        format(
          'no job type and no worker names the queue '
            '%s; declare it in a type, or serve it',
          left(p_queue, 100)
        ),
        p_within || 'queue'
      );
    end if;
    insert into queue.lanes as l (job_type, queue, served_at)
    values (
      p_job_type,
      p_queue,
      (
        select max(w.seen_at)
        from queue.workers as w
        where w.seen_at > queue.clock() - interval '3 minutes'
          and (w.job_types is null or p_job_type = any (w.job_types))
          and (w.queues is null or p_queue = any (w.queues))
      )
    )
    returning l.lane into v_lane;
  end if;
  return v_lane;
end;
$$;

revoke execute on function queue.lane_of from public;

-- The fields of a job that its options give, checked as payloads are; p_within precedes names.
create or replace function queue.read_options(
  p_options jsonb,
  p_within text,
  p_now timestamptz
)
returns public.jobs
language plpgsql stable
set search_path = ''
as $$
declare
  c_schema constant jsonb := '{"$defs": {
      "plain": {"type": "string", "minLength": 1, "maxLength": 100, "pattern": "^[^[:cntrl:]]*$"},
      "text": {"type": "string", "minLength": 1, "maxLength": 255},
      "seconds": {"type": "number", "minimum": 0, "maximum": 315360000}}, "properties": {
    "queue": {"$ref": "#/$defs/plain"}, "traceparent": {"$ref": "#/$defs/text"},
    "priority": {"type": "integer", "minimum": 0, "maximum": 1000},
    "scheduled_for": {"type": "string"}, "deadline_at": {"type": "string"},
    "delay_seconds": {"$ref": "#/$defs/seconds"},
    "start_by_seconds": {"type": "integer", "minimum": 1, "maximum": 315360000},
    "max_attempts": {"type": "integer", "minimum": 1, "maximum": 50},
    "timeout_seconds": {"type": "number", "minimum": 1, "maximum": 43200},
    "idempotency_key": {"$ref": "#/$defs/text"},
    "unique": {"type": "object", "required": ["key"], "additionalProperties": false, "properties": {
      "key": {"$ref": "#/$defs/text"}, "until": {"enum": ["leased", "finished"]},
      "on_conflict": {"enum": ["skip", "replace", "raise"]}}},
    "debounce_seconds": {"type": "number", "minimum": 0.1, "maximum": 86400},
    "concurrency_key": {"type": "string", "minLength": 1, "maxLength": 255,
      "pattern": "^[^[:cntrl:]]*$"}, "session_id": {"$ref": "#/$defs/text"},
    "parent_id": {"type": "string", "format": "uuid"},
    "user_id": {"type": "string", "format": "uuid"},
    "schema_version": {"type": "integer", "minimum": 1, "maximum": 2147483647},
    "tags": {"type": "array", "maxItems": 20, "items": {"$ref": "#/$defs/plain"}}}}';
  v_options constant jsonb := jsonb_strip_nulls(p_options);
  v_error text := case
    when jsonb_typeof(p_options) <> 'object' then 'p_options must be an object'
    when v_options ?& '{scheduled_for,delay_seconds}'
      then 'delay_seconds must not be given beside scheduled_for'
    when v_options ? 'debounce_seconds' and not v_options ? 'unique'
      then 'debounce_seconds needs unique.key'
  end;
  v_given record;
  v_job public.jobs;
begin
  for v_given in
    select *
    from jsonb_each(case when v_error is null then v_options end)
  loop
    v_error := case
      when not c_schema -> 'properties' ? v_given.key
        then left(v_given.key, 80) || ' is not a known option'
      else queue.schema_error(
        c_schema -> 'properties' -> v_given.key,
        v_given.value,
        v_given.key,
        c_schema
      )
    end;
    exit when v_error is not null;
  end loop;
  if v_error is null then
    v_job := jsonb_populate_record(
      null::public.jobs,
      v_options - 'timeout_seconds'
    );
    v_error := case
      when v_job.scheduled_for
          not between '1970-01-01 00:00:00+00' and '9999-01-01 00:00:00+00'
        then 'scheduled_for must lie between the years 1970 and 9999'
      when v_job.deadline_at
          not between '1970-01-01 00:00:00+00' and '9999-01-01 00:00:00+00'
        then 'deadline_at must lie between the years 1970 and 9999'
    end;
  end if;
  if v_error is not null then
    perform queue.refuse(
      400,
      'invalid_argument',
      p_within || v_error,
      p_within || split_part(v_error, ' ', 1)
    );
  end if;
  v_job.timeout_seconds := (v_options ->> 'timeout_seconds')::double precision;
  v_job.unique_key := v_options #>> '{unique,key}';
  v_job.scheduled_for := coalesce(
    p_now + make_interval(
      secs => coalesce(
        v_options -> 'debounce_seconds',
        v_options -> 'delay_seconds'
      )::double precision
    ),
    v_job.scheduled_for
  );
  return v_job;
exception when data_exception then
  perform queue.refuse(400, 'invalid_argument', sqlerrm, rtrim(p_within, '.'));
end;
$$;

revoke execute on function queue.read_options from public;

-- Hold a turn as it is until this transaction ends: an open one stays open. False where a lease is
-- closing it, and after 200 turns, since the server's locks are few.
create or replace function queue.hold_turn(p_lane integer, p_workspace_id uuid)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_turn constant text := p_lane || '/' || p_workspace_id;
  v_latest text[] := string_to_array(current_setting('minutehand.turns', true), ' ');
  v_count integer := coalesce(nullif(v_latest[1], '')::integer, 0);
begin
  if v_turn is distinct from v_latest[2] then
    v_count := v_count + 1;
    v_latest[2] := set_config('minutehand.turns', v_count || ' ' || v_turn, true);
  end if;
  return v_count <= 200
    and current_setting('transaction_isolation') = 'read committed'
    and pg_try_advisory_xact_lock_shared(p_lane, uuid_hash(p_workspace_id));
end;
$$;

revoke execute on function queue.hold_turn from public;

-- Make sure that a lease will find a ready job: leave a note, unless its turn is open and is held.
-- The note is left once: it will open the turn, which no lease closes while it is held. Always true.
create or replace function queue.note_turn(p_lane integer, p_workspace_id uuid, p_ord bigint)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_is_held constant boolean := queue.hold_turn(p_lane, p_workspace_id);
begin
  -- a statement of its own, which sees what a lease committed before the turn was held
  insert into queue.notes (lane, workspace_id, ord)
  select p_lane, p_workspace_id, p_ord
  where not (
    v_is_held
    and (
      exists (
        select from queue.turns as t
        where t.lane = p_lane
          and t.workspace_id = p_workspace_id
          and t.from_ord <= p_ord
          and not (t.blocked and t.look_at is null)
      )
      or exists (
        select from queue.notes as n
        where n.workspace_id = p_workspace_id
          and n.lane = p_lane
          and n.key is null
          and n.ord <= p_ord
      )
    )
  );
  return true;
end;
$$;

revoke execute on function queue.note_turn from public;

-- Give a job that came before its type, or whose queue is gone, a lane of the type: one that came
-- before it also gets the type's values where its caller gave none.
create or replace function queue.adopt(p_job public.jobs, p_type queue.job_types)
returns public.jobs
language plpgsql
set search_path = ''
as $$
begin
  p_job.queue := case
    when p_job.chosen is null then coalesce(nullif(p_job.queue, 'default'), p_type.queue)
    when 'queue' = any (p_job.chosen) then p_job.queue
    else p_type.queue
  end;
  begin
    p_job.lane := queue.lane_of(p_job.job_type, p_job.queue);
  exception when sqlstate 'PT422' then -- no one has declared it
    p_job.queue := p_type.queue;
    p_job.lane := p_type.lane;
  end;
  update public.jobs
  set
    queue = p_job.queue,
    lane = p_job.lane,
    max_attempts = case
      when chosen is null or 'max_attempts' = any (chosen) then max_attempts
      else p_type.max_attempts
    end,
    schema_version = coalesce(nullif(schema_version, 0), p_type.schema_version),
    chosen = null
  where id = p_job.id
  returning * into p_job;
  return p_job;
end;
$$;

revoke execute on function queue.adopt from public;

-- Put a locked pending job where it is to be; false where it waits for a time or its type.
create or replace function queue.place(
  p_job public.jobs,
  p_now timestamptz,
  p_type queue.job_types default null
)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_run_at constant timestamptz := coalesce(
    p_job.next_retry_at,
    p_job.scheduled_for
  );
  v_key text;
begin
  -- again, since maintenance may have deleted the line
  if p_job.deadline_at is not null then
    insert into queue.deferred (run_at, job_id, workspace_id)
    values (p_job.deadline_at, p_job.id, p_job.workspace_id)
    on conflict do nothing;
  end if;
  if p_job.start_by_at is not null and p_job.started_at is null then
    insert into queue.deferred (run_at, job_id, workspace_id)
    values (p_job.start_by_at, p_job.id, p_job.workspace_id)
    on conflict do nothing;
  end if;
  if p_job.lane is distinct from p_type.lane then
    perform from queue.lanes as l
    where l.lane = p_job.lane
      and (
        l.unused_since is null
        or l.unused_since > queue.clock() - interval '23 hours'
      );
    if not found then -- its queue is gone, or soon: it goes to its type's
      p_job.lane := 0;
    end if;
  end if;
  if p_job.lane = 0 then
    select * into p_type
    from queue.job_types as t
    where t.job_type = p_job.job_type
      and t.schema_version > 0
      and not (t.internal and p_job.user_id is not null); -- queue.promote fails that
    if found then
      p_job := queue.adopt(p_job, p_type);
    end if;
  end if;
  if p_job.lane = 0 then
    insert into queue.unpublished (job_type, workspace_id, job_id)
    values (p_job.job_type, p_job.workspace_id, p_job.id);
    return false;
  elsif p_job.deadline_at <= p_now then
    return false; -- maintenance ends it
  elsif v_run_at > p_now then
    insert into queue.deferred (run_at, job_id, workspace_id)
    values (v_run_at, p_job.id, p_job.workspace_id)
    on conflict do nothing;
    return false;
  end if;
  if p_type.job_type is null then
    select * into p_type
    from queue.job_types as t
    where t.job_type = p_job.job_type;
  end if;
  if p_type.rate_per_key or p_type.key_concurrency is not null then
    v_key := case
      when p_type.rate_per_key then coalesce(p_job.concurrency_key, '')
      else p_job.concurrency_key
    end;
    if p_type.in_order
      and exists (
        select from queue.gated as g
        where g.workspace_id = p_job.workspace_id
          and g.job_type = p_job.job_type
          and g.key = v_key
          and g.admitted
          and not g.ended
          and g.job_id = p_job.id
      )
    then
      v_key := null; -- it was put off and kept its slot
    end if;
  end if;
  if v_key is null then
    insert into queue.ready (lane, workspace_id, ord, ready_at, job_id)
    values (
      p_job.lane,
      p_job.workspace_id,
      p_job.ord,
      coalesce(v_run_at, p_now),
      p_job.id
    );
    return queue.note_turn(p_job.lane, p_job.workspace_id, p_job.ord);
  end if;
  insert into queue.gated (lane, workspace_id, job_type, key, ord, job_id)
  values (
    p_job.lane, p_job.workspace_id, p_job.job_type, v_key, p_job.ord, p_job.id
  );
  insert into queue.notes (lane, workspace_id, key)
  values (p_job.lane, p_job.workspace_id, v_key);
  return true;
end;
$$;

revoke execute on function queue.place from public;

drop function queue.lock_jobs(p_ids uuid[], p_waits boolean);

-- Lock jobs' records and the places where they wait, all or none: settlements hold a place and wait
-- for the record, deletes the other way round. False where someone holds one. Without a timeout: of
-- one that fires as the lock is given Postgres says that the user cancelled.
create or replace function queue.lock_jobs(p_ids uuid[])
returns boolean
language plpgsql
set search_path = ''
as $$
begin
  perform from public.jobs as j
  where j.id = any (p_ids)
  order by j.id
  for no key update nowait;
  perform from queue.ready as r
  join public.jobs as j
    on r.lane = j.lane
    and r.workspace_id = j.workspace_id
    and r.ord = j.ord
    and r.job_id = j.id
  where j.id = any (p_ids) and j.status = 'pending'
  order by r.lane, r.workspace_id, r.ord, r.job_id
  for update of r nowait;
  perform from queue.deferred as d
  join public.jobs as j
    on d.run_at = coalesce(j.next_retry_at, j.scheduled_for) and d.job_id = j.id
  where j.id = any (p_ids) and j.status = 'pending'
  order by d.run_at, d.job_id
  for update of d nowait;
  perform from queue.waits as w
  where w.job_id = any (p_ids)
  order by w.job_id
  for update nowait;
  return true;
exception when lock_not_available then
  return false;
end;
$$;

revoke execute on function queue.lock_jobs from public;

-- Lock jobs for a call that changes them. A person's call is refused at once where someone holds
-- one: it would wait on one of the few connections that all callers of the Data API share. The
-- service and plain SQL wait on their own, for at most eight seconds, since each of two
-- transactions may hold a job that the other waits for.
create or replace function queue.hold_jobs(p_ids uuid[])
returns void
language plpgsql
set search_path = ''
as $$
begin
  while not queue.lock_jobs(p_ids) loop
    if not queue.is_service() then
      perform queue.refuse(
        429,
        'job_busy',
        'another transaction is changing the job; call again',
        '{"retry_after_seconds": 1}'
      );
    elsif clock_timestamp() > statement_timestamp() + interval '8 seconds' then
      raise lock_not_available
        using message = 'another transaction holds the job; call again';
    end if;
    perform pg_sleep(0.005);
  end loop;
end;
$$;

revoke execute on function queue.hold_jobs from public;

-- Delete locked jobs from gated, then from ready and deferred: a gate that opens makes them ready.
create or replace function queue.take_place(p_ids uuid[])
returns void
language plpgsql
set search_path = ''
as $$
begin
  with gone as (
    delete from queue.gated as g
    using public.jobs as j
    where j.id = any (p_ids)
      and g.workspace_id = j.workspace_id
      and g.job_type = j.job_type
      and g.key = coalesce(j.concurrency_key, '')
      and g.job_id = j.id
      and not g.ended -- that row stays until its start is charged
    returning g.lane, g.workspace_id, g.key, g.admitted
  )
  insert into queue.notes (lane, workspace_id, key)
  select distinct g.lane, g.workspace_id, g.key
  from gone as g
  where g.admitted;
  delete from queue.ready as r
  using public.jobs as j
  where j.id = any (p_ids)
    and r.lane = j.lane
    and r.workspace_id = j.workspace_id
    and r.ord = j.ord
    and r.job_id = j.id;
  delete from queue.deferred as d
  using public.jobs as j
  where j.id = any (p_ids)
    and d.run_at in (coalesce(j.next_retry_at, j.scheduled_for), j.start_by_at)
    and d.job_id = j.id
    and d.run_at is distinct from j.deadline_at; -- the deadline's line stays
  delete from queue.unpublished as u
  using public.jobs as j
  where j.id = any (p_ids)
    and j.lane = 0
    and u.job_type = j.job_type
    and u.workspace_id = j.workspace_id
    and u.job_id = j.id;
end;
$$;

revoke execute on function queue.take_place from public;

-- Take the keys of a new job. Gives the job that has them: another one where the key was taken.
-- With on_conflict 'replace' that one gets the payload, tags, priority and time of the new one.
create or replace function queue.claim(p_job public.jobs, p_options jsonb, p_now timestamptz)
returns uuid
language plpgsql
set search_path = ''
as $$
declare
  -- debounce replaces the job that waits
  v_unique constant jsonb := case
    when p_options ->> 'debounce_seconds' is not null
      then '{"until": "leased", "on_conflict": "replace"}'
    else p_options -> 'unique'
  end;
  v_priority constant integer := (p_options ->> 'priority')::integer;
  v_id uuid := p_job.id;
  v_replaced public.jobs;
begin
  if p_job.idempotency_key is not null then
    v_id := queue.claim_key(
      p_job.workspace_id,
      p_job.job_type,
      p_job.idempotency_key,
      p_job.payload,
      p_job.id,
      array[p_job.id]
    );
  end if;
  if v_id <> p_job.id or p_job.unique_key is null then
    return v_id;
  end if;
  perform queue.hold_key(p_job.workspace_id, p_job.job_type, p_job.unique_key);
  loop
    insert into queue.job_keys (
      workspace_id, job_type, key, is_unique, job_id, freed_when
    )
    values (
      p_job.workspace_id,
      p_job.job_type,
      p_job.unique_key,
      true,
      p_job.id,
      coalesce(v_unique ->> 'until', 'finished')
    )
    on conflict do nothing;
    if found then
      return p_job.id;
    end if;
    select u.job_id into v_id
    from queue.job_keys as u
    where (u.workspace_id, u.job_type, u.key, u.is_unique)
      = (p_job.workspace_id, p_job.job_type, p_job.unique_key, true);
    continue when not found; -- freed between the two statements
    if v_unique ->> 'on_conflict' = 'raise' then
      perform queue.refuse(
        409,
        'duplicate_job',
        'this unique key already belongs to a job',
        v_id::text
      );
    end if;
    exit when v_unique ->> 'on_conflict' is distinct from 'replace';
    perform queue.hold_jobs(array[v_id]);
    continue when not exists ( -- the key was freed meanwhile
      select from queue.job_keys as u
      where u.job_id = v_id
        and (u.workspace_id, u.job_type, u.key, u.is_unique)
        = (p_job.workspace_id, p_job.job_type, p_job.unique_key, true)
    );
    exit when not exists (
      select from public.jobs
      where id = v_id and status = 'pending'
    );
    perform queue.take_place(array[v_id]);
    update public.jobs as j
    set
      payload = p_job.payload,
      tags = p_job.tags,
      schema_version = p_job.schema_version,
      last_seq = j.last_seq + 1,
      priority = coalesce(v_priority, j.priority),
      scheduled_for = coalesce(p_job.scheduled_for, j.scheduled_for),
      next_retry_at = case
        when p_job.scheduled_for is null then j.next_retry_at
      end,
      start_by_seconds = coalesce(p_job.start_by_seconds, j.start_by_seconds),
      start_by_at = greatest(p_now, coalesce(p_job.scheduled_for, j.scheduled_for))
        + make_interval(secs => coalesce(p_job.start_by_seconds, j.start_by_seconds)),
      ord = queue.ord_of(
        coalesce(v_priority, j.priority),
        coalesce(p_job.scheduled_for, j.scheduled_for, j.created_at)
      )
    where j.id = v_id
    returning * into v_replaced;
    perform queue.place(v_replaced, p_now);
    perform queue.admit(
      'jobs',
      p_job.workspace_id,
      queue.caller(),
      p_bytes => octet_length(p_job.payload::text)
    );
    perform queue.append_event(
      array[v_id],
      'job.replaced',
      jsonb_strip_nulls(jsonb_build_object('scheduled_for', v_replaced.scheduled_for)),
      p_now,
      p_is_counted => true
    );
    exit;
  end loop;
  update queue.job_keys as k
  set job_id = v_id, freed_when = 'other'
  where (k.workspace_id, k.job_type, k.key, k.is_unique)
    = (p_job.workspace_id, p_job.job_type, p_job.idempotency_key, false);
  return v_id;
end;
$$;

revoke execute on function queue.claim from public;

-- Take an idempotency key; gives the job that has it. p_own: jobs of this call, not yet written.
create or replace function queue.claim_key(
  p_workspace_id uuid,
  p_job_type text,
  p_key text,
  p_payload jsonb,
  p_id uuid,
  p_own uuid[]
)
returns uuid
language plpgsql
set search_path = ''
as $$
declare
  v_hash constant text := md5(p_payload::text);
  v_taken queue.job_keys;
begin
  perform queue.hold_key(p_workspace_id, p_job_type, p_key);
  insert into queue.job_keys as k (
    workspace_id, job_type, key, is_unique, job_id, request_hash
  )
  values (p_workspace_id, p_job_type, p_key, false, p_id, v_hash)
  on conflict (workspace_id, job_type, key, is_unique) do update set key = k.key -- locked
  returning * into v_taken;
  -- a statement of its own sees a job that was committed while the one above waited for the key
  if v_taken.job_id <> all (p_own)
    and not exists (select from public.jobs as j where j.id = v_taken.job_id)
  then
    update queue.job_keys as k
    set request_hash = v_hash, job_id = p_id
    where (workspace_id, job_type, key, is_unique)
      = (p_workspace_id, p_job_type, p_key, false);
    return p_id;
  elsif v_taken.request_hash <> v_hash then
    perform queue.refuse(
      409,
      'idempotency_conflict',
      'this idempotency key was used with another payload',
      v_taken.job_id::text
    );
  end if;
  return v_taken.job_id;
end;
$$;

revoke execute on function queue.claim_key from public;

drop function queue.new_job(p_workspace_id uuid, p_user_id uuid, p_type queue.job_types, p_payload jsonb, p_options jsonb, p_now timestamp with time zone, p_within text);

-- Check a new job, and make its row of its type, payload and options.
create or replace function queue.new_job(
  p_workspace_id uuid,
  p_user_id uuid,
  p_type queue.job_types,
  p_payload jsonb,
  p_options jsonb,
  p_now timestamptz,
  p_within text default '',
  p_id uuid default null
)
returns public.jobs
language plpgsql
set search_path = ''
as $$
declare
  v_job public.jobs;
begin
  if p_options <> '{}' then
    v_job := queue.read_options(p_options, p_within, p_now);
    if v_job.parent_id is not null
      and not exists (
        select from public.jobs
        where id = v_job.parent_id and workspace_id = p_workspace_id
      )
    then
      perform queue.refuse(
        404,
        'job_not_found',
        'the parent job does not exist',
        v_job.parent_id::text
      );
    elsif v_job.queue <> p_type.queue and p_type.schema_version > 0 then
      v_job.lane := queue.lane_of(p_type.job_type, v_job.queue, p_within);
    end if;
  end if;
  if p_type.schema_version = 0 then
    v_job.chosen := array_remove(
      array[
        case when v_job.queue is not null then 'queue' end,
        case when v_job.max_attempts is not null then 'max_attempts' end
      ],
      null
    );
  end if;
  if p_type.internal and p_user_id is not null then
    perform queue.refuse(
      403,
      'forbidden',
      format(
        'only the platform itself enqueues jobs of the '
          'type %s',
        p_type.job_type
      ),
      p_within || 'job_type'
    );
  end if;
  -- a small payload without a schema needs no check; 1e400 has few bytes but is long as text
  if p_type.payload_schema is not null
    or v_job.schema_version is not null
    or jsonb_typeof(p_payload) <> 'object'
    or pg_column_size(p_payload) > 200
    or octet_length(p_payload::text) > 309
  then
    perform queue.check_payload(p_type, p_payload, v_job.schema_version, p_within);
  end if;
  v_job.id := coalesce(p_id, queue.new_id());
  v_job.workspace_id := p_workspace_id;
  v_job.user_id := coalesce(p_user_id, v_job.user_id);
  v_job.lane := coalesce(v_job.lane, p_type.lane);
  v_job.queue := coalesce(v_job.queue, p_type.queue);
  v_job.job_type := p_type.job_type;
  v_job.status := 'pending';
  v_job.payload := p_payload;
  v_job.schema_version := coalesce(v_job.schema_version, p_type.schema_version);
  v_job.priority := coalesce(v_job.priority, 100);
  v_job.max_attempts := coalesce(v_job.max_attempts, p_type.max_attempts);
  v_job.attempts := 0;
  v_job.fence := 0;
  v_job.generation := 1;
  v_job.lost_attempts := 0;
  v_job.last_seq := (not p_type.is_minimal)::integer;
  v_job.is_minimal := nullif(p_type.is_minimal, false);
  v_job.created_at := p_now;
  v_job.updated_at := p_now;
  v_job.start_by_at := greatest(p_now, v_job.scheduled_for)
    + make_interval(secs => v_job.start_by_seconds);
  v_job.ord := queue.ord_of(v_job.priority, coalesce(v_job.scheduled_for, p_now));
  if v_job.traceparent is null
    and current_setting('request.headers', true) <> ''
  then
    v_job.traceparent := substring(
      current_setting('request.headers', true)::json ->> 'x-minutehand-trace'
      from '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'
    );
  end if;
  return v_job;
end;
$$;

revoke execute on function queue.new_job from public;

-- Check, write and place a job, for a caller that publishes it. created: false where another job
-- has its keys, which is given. p_claimed: the id for which its idempotency key was taken before.
create or replace function queue.add(
  p_workspace_id uuid,
  p_user_id uuid,
  p_type queue.job_types,
  p_payload jsonb,
  p_options jsonb,
  p_now timestamptz,
  p_within text default '',
  p_claimed uuid default null,
  out job public.jobs,
  out created boolean,
  out is_ready boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_id uuid;
  v_holder public.jobs;
begin
  job := queue.new_job(
    p_workspace_id, p_user_id, p_type, p_payload, p_options, p_now, p_within, p_claimed
  );
  if job.idempotency_key is not null or job.unique_key is not null then
    loop
      v_id := queue.claim(job, p_options, p_now);
      exit when v_id = job.id;
      select * into v_holder
      from public.jobs
      where id = v_id;
      if found then
        job := v_holder;
        created := false;
        is_ready := false;
        return;
      end if; -- deleted meanwhile: the keys are free
    end loop;
  end if;
  insert into public.jobs select job.*;
  is_ready := queue.place(job, p_now, p_type);
  created := true;
end;
$$;

revoke execute on function queue.add from public;

-- A job's state as people see it: retrying waits for its backoff, suspended in a wait of its own.
create or replace function queue.state_of(
  p_status text,
  p_attempts integer,
  p_next_retry_at timestamptz,
  p_scheduled_for timestamptz,
  p_now timestamptz
)
returns text
language plpgsql immutable
set search_path = ''
as $$
begin
  return case p_status
    when 'pending' then case
      when coalesce(p_next_retry_at, p_scheduled_for, '-infinity') <= p_now
        then 'queued'
      when p_next_retry_at is not null and p_attempts > 0 then 'retrying'
      else 'scheduled'
    end
    when 'processing' then 'running'
    when 'waiting' then 'suspended'
    else p_status
  end;
end;
$$;

revoke execute on function queue.state_of from public;

-- A published type whose job needs no check and no gate, for a tenant that exists, where the service
-- calls; null else, as for a payload that queue.new_job checks.
create or replace function queue.simple_type(
  p_workspace_id uuid,
  p_job_type text,
  p_payload jsonb
)
returns queue.job_types
language plpgsql stable
set search_path = ''
as $$
declare
  v_claims constant jsonb := nullif(current_setting('request.jwt.claims', true), '');
  v_type queue.job_types;
begin
  if jsonb_typeof(p_payload) = 'object'
    and pg_column_size(p_payload) <= 200
    and octet_length(p_payload::text) <= 309
    and (
      v_claims is null
      or v_claims ->> 'sub' is null and v_claims ->> 'role' in ('service_role', 'job_worker')
    )
  then
    select t.* into v_type
    from queue.job_types as t
    where t.job_type = p_job_type
      and t.schema_version > 0
      and t.payload_schema is null
      and not t.rate_per_key
      and exists (select from queue.tenants as w where w.id = p_workspace_id);
  end if;
  return v_type;
end;
$$;

revoke execute on function queue.simple_type from public;

-- Write a job of a simple type, ready at once: queue.add in one statement.
create or replace function queue.add_simple(
  p_workspace_id uuid,
  p_type queue.job_types,
  p_payload jsonb,
  p_now timestamptz
)
returns public.jobs
language plpgsql
set search_path = ''
as $$
declare
  v_is_held constant boolean := queue.hold_turn(p_type.lane, p_workspace_id);
  v_ord constant bigint := queue.ord_of(100, p_now);
  v_job public.jobs;
begin
  with made as (
    insert into public.jobs (
      id, workspace_id, lane, max_attempts, last_seq, is_minimal, schema_version, queue,
      job_type, payload, traceparent, ord, created_at, updated_at
    )
    values (
      queue.new_id(),
      p_workspace_id,
      p_type.lane,
      p_type.max_attempts,
      (not p_type.is_minimal)::integer,
      nullif(p_type.is_minimal, false),
      p_type.schema_version,
      p_type.queue,
      p_type.job_type,
      p_payload,
      substring( -- as in queue.new_job
        nullif(current_setting('request.headers', true), '')::json ->> 'x-minutehand-trace'
        from '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'
      ),
      v_ord,
      p_now,
      p_now
    )
    returning *
  ),
  placed as (
    insert into queue.ready (lane, workspace_id, ord, ready_at, job_id)
    select m.lane, m.workspace_id, m.ord, p_now, m.id
    from made as m
  ),
  noted as ( -- as queue.note_turn
    insert into queue.notes (lane, workspace_id, ord)
    select p_type.lane, p_workspace_id, v_ord
    where not v_is_held
      or not exists (
        select from queue.turns as t
        where t.lane = p_type.lane
          and t.workspace_id = p_workspace_id
          and t.from_ord <= v_ord
          and not (t.blocked and t.look_at is null)
        union all
        select from queue.notes as n
        where n.workspace_id = p_workspace_id
          and n.lane = p_type.lane
          and n.key is null
          and n.ord <= v_ord
      )
  )
  select m.* into v_job
  from made as m;
  return v_job;
end;
$$;

revoke execute on function queue.add_simple from public;

create or replace function public.enqueue_job(
  p_workspace_id uuid,
  p_job_type text,
  p_payload jsonb default '{}',
  p_options jsonb default '{}'
)
returns json -- not jsonb, which sorts the names of each object
language plpgsql
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_payload constant jsonb := coalesce(p_payload, '{}');
  v_options constant jsonb := coalesce(p_options, '{}');
  v_type queue.job_types;
  v_user uuid;
  v_made record;
  v_job public.jobs;
  v_is_ready boolean := true;
begin
  if v_options = '{}' then
    v_type := queue.simple_type(p_workspace_id, p_job_type, v_payload);
  end if;
  if v_type.job_type is not null then
    v_job := queue.add_simple(p_workspace_id, v_type, v_payload, v_now);
  else
    v_user := queue.may_read(p_workspace_id);
    v_type := queue.type_or_refuse(p_job_type, '', p_workspace_id);
    v_made := queue.add(p_workspace_id, v_user, v_type, v_payload, v_options, v_now);
    v_job := v_made.job;
    v_is_ready := v_made.is_ready;
    if not v_made.created then
      return json_build_object(
        'job', queue.job_json(v_job),
        'created', false,
        'wake', false
      );
    end if;
  end if;
  v_is_ready := queue.publish(
    array[
      row(
        p_workspace_id,
        v_job.session_id,
        'job.created',
        jsonb_build_object(
          'status', 'pending',
          'attempts', 0,
          'job_type', p_job_type
        ),
        array[v_job.id],
        case when v_job.is_minimal is null then '{1}'::integer[] end
      )::queue.change
    ],
    v_now,
    coalesce(v_job.scheduled_for, v_now) < v_now + interval '1 minute'
  ) and v_is_ready;
  if v_user is not null then
    perform queue.admit(
      'jobs',
      p_workspace_id,
      v_user,
      p_bytes => octet_length(v_job.payload::text)
    );
  end if;
  return json_build_object(
    'job', queue.row_json(v_job, v_now),
    'created', true,
    'wake', v_is_ready and queue.wake_worker(v_now)
  );
end;
$$;

comment on function public.enqueue_job is
  E'Enqueue one job: {job, created, wake}.\n\nIt exists if and only if the transaction commits. '
  'Options: queue, priority, scheduled_for or delay_seconds, max_attempts, timeout_seconds, '
  'idempotency_key, concurrency_key, unique, debounce_seconds, session_id, parent_id, tags, '
  'deadline_at, start_by_seconds, schema_version, traceparent.';

select queue.allow('authenticated, service_role', 'public.enqueue_job');

-- Enqueue many: enqueue_jobs, children and schedules call queue.enqueue, which calls queue.add for
-- each job, or queue.add_plain for all. And the triggers of public.jobs for inserts and deletes.

-- Add jobs in one statement, at a tenth of the cost of queue.add, which a test holds equal to it.
-- False, with none added, unless all are plain: no options, schema or rate of a key; known types.
create or replace function queue.add_plain(
  p_workspace_id uuid,
  p_user_id uuid,
  p_items jsonb,
  p_ids uuid[],
  p_now timestamptz
)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_bytes_max constant integer := queue.setting('payload_max_bytes')::integer;
  v_trace constant text := substring( -- as in queue.new_job
    nullif(
      current_setting('request.headers', true),
      ''
    )::json ->> 'x-minutehand-trace' from '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'
  );
  v_ord constant bigint := queue.ord_of(100, p_now);
  v_types queue.job_types[];
  v_lanes integer[];
begin
  if exists (
    select from jsonb_array_elements(p_items) as i
    where case
      when jsonb_typeof(i.value) <> 'object'
          or i.value - '{job_type,payload}'::text[] <> '{}'
          or jsonb_typeof(i.value -> 'payload') not in ('object', 'null')
        then true
      when octet_length(i.value::text) > 309 then -- as queue.check_json
      octet_length(i.value::text) > v_bytes_max
        or i.value @? 'strict $.**{102}'
        or i.value::text ~ '[0-9]{155}[0-9]{154}'
    end
  ) then
    return false;
  end if;
  v_types := array( -- read once: one may be changed or deleted meanwhile
    select t
    from (
      select distinct i.value ->> 'job_type' as job_type
      from jsonb_array_elements(p_items) as i
    ) as k
    left join queue.job_types as t on t.job_type = k.job_type
  );
  if exists (
    select from unnest(v_types) as t
    where (
      t.schema_version > 0
      and t.payload_schema is null
      and not t.rate_per_key
      and not (t.internal and p_user_id is not null)
    ) is not true
  ) then
    return false;
  end if;
  with items as materialized (
    select
      p_ids[i.n] as id,
      i.n,
      i.value ->> 'job_type' as job_type,
      coalesce(nullif(i.value -> 'payload', 'null'), '{}') as payload,
      p_now + make_interval(secs => i.n * 1e-6) as at
    from jsonb_array_elements(p_items) with ordinality as i (value, n)
  ),
  made as (
    insert into public.jobs (
      id, workspace_id, user_id, lane, max_attempts, last_seq, is_minimal,
      schema_version, queue, job_type, payload, traceparent, ord, created_at,
      updated_at
    )
    select
      i.id,
      p_workspace_id,
      p_user_id,
      t.lane,
      t.max_attempts,
      (not t.is_minimal)::integer,
      nullif(t.is_minimal, false),
      t.schema_version,
      t.queue,
      t.job_type,
      i.payload,
      v_trace,
      v_ord + i.n,
      i.at,
      i.at
    from items as i
    join unnest(v_types) as t on t.job_type = i.job_type
    order by i.n
    returning id, lane, ord, created_at
  ),
  placed as (
    insert into queue.ready (lane, workspace_id, ord, ready_at, job_id)
    select m.lane, p_workspace_id, m.ord, m.created_at, m.id
    from made as m
  )
  select array_agg(distinct m.lane) into v_lanes
  from made as m;
  perform queue.note_turn(l, p_workspace_id, v_ord)
  from unnest(v_lanes) as l;
  return true;
end;
$$;

revoke execute on function queue.add_plain from public;

-- Take a call's idempotency keys, in one order against deadlocks; gives each item's job of the key.
create or replace function queue.claim_keys(p_workspace_id uuid, p_items jsonb, p_ids uuid[])
returns uuid[]
language sql
set search_path = ''
as $$
with items as materialized (
  select
    i.n,
    i.value ->> 'job_type' as job_type,
    i.value ->> 'idempotency_key' as key,
    coalesce(nullif(i.value -> 'payload', 'null'), '{}') as payload
  from jsonb_array_elements(p_items) with ordinality as i (value, n)
  order by 2, 3, 1
),
claimed as materialized (
  select
    i.n,
    case
      when char_length(i.key) between 1 and 255 and char_length(i.job_type) <= 100
        then queue.claim_key(
          p_workspace_id,
          i.job_type,
          i.key,
          i.payload,
          p_ids[i.n],
          p_ids
        )
    end as id
  from items as i
)
select array_agg(c.id order by c.n)
from claimed as c
$$;

revoke execute on function queue.claim_keys from public;

-- Publish new jobs: a line of the feed for all that have the same session, type and events.
create or replace function queue.publish_created(p_ids uuid[], p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_changes queue.change[];
  v_wakes boolean;
begin
  select
    array_agg(
      row(
        k.workspace_id,
        k.session_id,
        'job.created',
        jsonb_build_object(
          'status', 'pending',
          'attempts', 0,
          'job_type', k.job_type
        ),
        k.ids,
        case
          when k.is_minimal is null then array_fill(1, array[cardinality(k.ids)])
        end
      )::queue.change
    ),
    min(k.run_at) < p_now + interval '1 minute'
  into v_changes, v_wakes
  from (
    select
      j.workspace_id,
      j.session_id,
      j.job_type,
      j.is_minimal,
      array_agg(j.id) as ids,
      min(coalesce(j.scheduled_for, j.created_at)) as run_at
    from public.jobs as j
    where j.id = any (p_ids)
    group by 1, 2, 3, 4
  ) as k;
  v_wakes := queue.publish(v_changes, p_now, v_wakes);
end;
$$;

revoke execute on function queue.publish_created from public;

-- Enqueue many; ids and created in the order of p_items. p_user_id: who calls, null: the service.
create or replace function queue.enqueue(
  p_workspace_id uuid,
  p_user_id uuid,
  p_items jsonb,
  p_bulk boolean,
  out ids uuid[],
  out created boolean[],
  out wake boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_count constant integer := jsonb_array_length(p_items);
  v_caller constant uuid := queue.caller();
  v_keyed uuid[]; -- the job of each item that has an idempotency key
  v_new uuid[] := '{}';
  v_published integer := 0; -- how many of v_new
  v_item record;
  v_made record;
begin
  ids := queue.new_ids(v_count);
  created := array_fill(true, array[v_count]);
  perform queue.expect(
    p_workspace_id,
    v_caller,
    v_count,
    octet_length(p_items::text)
  )
  where v_caller is not null
    and v_count > 1
    and not p_items @? '$[*].idempotency_key'; -- a repeated call makes none
  wake := queue.add_plain(p_workspace_id, p_user_id, p_items, ids, v_now);
  if wake then
    v_new := ids;
  else
    v_keyed := queue.claim_keys(p_workspace_id, p_items, ids);
    perform queue.expect(p_workspace_id, v_caller, n.fresh, 0)
    from (
      select count(*)::integer as fresh
      from unnest(v_keyed, ids) as k (holder, id)
      where k.holder = k.id
    ) as n
    where v_caller is not null and v_count > 1 and n.fresh > 0;
  end if;
  -- unique keys in one order likewise; repeats last, when each key has its job
  for v_item in
    select
      i.value,
      i.n,
      case when p_bulk then format('jobs[%s].', i.n - 1) else '' end as within,
      v_keyed[i.n] <> ids[i.n] is true as is_repeat,
      i.value ->> 'job_type' as job_type,
      lag(i.value #> '{unique,key}') over (
        order by i.value ->> 'job_type', i.value #>> '{unique,key}', i.n
      ) = i.value #> '{unique,key}' as is_again
    from jsonb_array_elements(p_items) with ordinality as i (value, n)
    where v_keyed is not null
    order by is_repeat, job_type, i.value #>> '{unique,key}', i.n
  loop
    if v_item.is_repeat then
      ids[v_item.n] := (
        select j.id
        from queue.job_keys as k
        join public.jobs as j on j.id = k.job_id
        where k.workspace_id = p_workspace_id
          and k.job_type = v_item.job_type
          and k.key = v_item.value ->> 'idempotency_key'
          and not k.is_unique
      );
      created[v_item.n] := false;
      continue;
    -- it may replace a job of this call, which is published before
    elsif v_item.is_again then
      perform queue.publish_created(v_new[v_published + 1:], v_now);
      v_published := cardinality(v_new);
    end if;
    v_made := queue.add(
      p_workspace_id,
      p_user_id,
      queue.type_or_refuse(v_item.job_type, v_item.within, p_workspace_id),
      coalesce(nullif(v_item.value -> 'payload', 'null'), '{}'),
      v_item.value - '{job_type,payload}'::text[],
      v_now + make_interval(secs => v_item.n * 1e-6),
      v_item.within,
      v_keyed[v_item.n]
    );
    ids[v_item.n] := (v_made.job).id;
    created[v_item.n] := v_made.created;
    wake := wake or v_made.is_ready;
    if v_made.created then
      v_new := v_new || (v_made.job).id;
    end if;
  end loop;
  if array_position(ids, null) is not null then
    perform queue.refuse(
      503,
      'busy',
      'a job that has one of the keys is being deleted; call again'
    );
  elsif v_new <> '{}' then
    perform queue.publish_created(v_new[v_published + 1:], v_now);
    -- the person who calls, also where an app's function enqueues for them as the service
    perform queue.admit(
      'jobs',
      p_workspace_id,
      v_caller,
      cardinality(v_new),
      case when v_caller is not null then octet_length(p_items::text) end
    );
  end if;
  wake := wake and queue.wake_worker(v_now);
end;
$$;

revoke execute on function queue.enqueue from public;

create or replace function public.enqueue_jobs(
  p_workspace_id uuid,
  p_jobs jsonb,
  p_return text default 'jobs'
)
returns json
language plpgsql
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set jit = off
as $$
declare
  v_user constant uuid := queue.may_read(p_workspace_id);
  v_done record;
begin
  if jsonb_typeof(p_jobs) is distinct from 'array'
    or jsonb_array_length(p_jobs) not between 1 and 1000
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      'jobs must be an array of 1 to 1000',
      'jobs'
    );
  elsif p_return not in ('jobs', 'ids') then
    perform queue.refuse(
      400,
      'invalid_argument',
      'p_return must be jobs or ids',
      'p_return'
    );
  end if;
  if v_user is not null and jsonb_array_length(p_jobs) > 100 then
    perform queue.take_call_slot(p_workspace_id);
  end if;
  v_done := queue.enqueue(p_workspace_id, v_user, p_jobs, true);
  if p_return = 'ids' then
    return json_build_object(
      'ids', v_done.ids,
      'created', v_done.created,
      'wake', v_done.wake
    );
  end if;
  return json_build_object(
    'wake', v_done.wake,
    'jobs', (
      select json_agg(
        json_build_object(
          'job', to_jsonb(j)
          - '{lane,ord,worker,is_minimal,queue_ms,run_ms,chosen}'::text[]
            || jsonb_build_object('tags', coalesce(j.tags, '{}')),
          'created', v_done.created[i.n]
        )
        order by i.n
      )
      from unnest(v_done.ids) with ordinality as i (id, n)
      join public.jobs as j on j.id = any (array[i.id])
    )
  );
end;
$$;

comment on function public.enqueue_jobs is
  E'Enqueue 1 to 1,000 jobs, all or none: {jobs: [{job, created}], wake}, or {ids, created, wake} '
  'with p_return ids.\n\nEach element holds job_type, payload and the options of enqueue_job; an '
  'error''s detail names the element.';

select queue.allow('authenticated, service_role', 'public.enqueue_jobs');

-- Check each row of a plain insert into public.jobs before it is written, and fill it in. worker 0
-- says so to queue.place_inserted, which checks the ids, and the workspaces of plain SQL. What a
-- person's transaction inserts beyond a hundred jobs takes a call slot, as a bulk does, and each
-- hundred must be theirs to spend, since what is refused at the end has cost as much as what is
-- admitted.
create or replace function queue.check_inserted()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_count integer := 1 + coalesce(
    nullif(current_setting('minutehand.plain_inserts', true), ''),
    '0'
  )::integer;
  v_options jsonb := '{}';
  v_holder uuid;
begin
  -- an assignment costs less than a statement
  v_count := set_config('minutehand.plain_inserts', v_count::text, true);
  if v_count > 100 and v_count % 100 = 1 and queue.caller() is not null then
    perform queue.take_call_slot(new.workspace_id);
    perform queue.expect(new.workspace_id, queue.caller(), v_count, 0);
  end if;
  if new.status <> 'pending' then
    perform queue.refuse(
      400,
      'invalid_argument',
      'a new job must have status pending',
      'status'
    );
  end if;
  if new.priority <> 100
    or num_nonnulls(
      new.queue, new.scheduled_for, new.max_attempts, new.idempotency_key,
      new.concurrency_key, new.session_id, new.parent_id, new.deadline_at,
      new.start_by_seconds, new.timeout_seconds, new.traceparent, new.schema_version,
      new.user_id, new.tags
    ) > 0
  then
    v_options := jsonb_strip_nulls(jsonb_build_object(
      'queue', new.queue,
      'priority', nullif(new.priority, 100),
      'scheduled_for', new.scheduled_for,
      'max_attempts', new.max_attempts,
      'idempotency_key', new.idempotency_key,
      'concurrency_key', new.concurrency_key,
      'session_id', new.session_id,
      'parent_id', new.parent_id,
      'deadline_at', new.deadline_at,
      'start_by_seconds', new.start_by_seconds,
      'timeout_seconds', new.timeout_seconds,
      'traceparent', new.traceparent,
      'schema_version', new.schema_version,
      'user_id', new.user_id,
      'tags', new.tags
    ));
  end if;
  new := queue.new_job(
    new.workspace_id,
    case
      when current_setting('request.jwt.claims', true) <> ''
        then queue.may_read(new.workspace_id)
    end,
    queue.type_or_refuse(new.job_type, '', new.workspace_id),
    new.payload,
    v_options,
    v_now,
    p_id => new.id
  );
  new.worker := 0;
  if new.idempotency_key is not null then
    v_holder := queue.claim(new, v_options, v_now);
    if v_holder <> new.id then
      perform queue.refuse(
        409,
        'duplicate_job',
        'this idempotency key already belongs to a job',
        v_holder::text
      );
    end if;
  end if;
  return new;
end;
$$;

revoke execute on function queue.check_inserted from public;

drop trigger jobs_check_insert on public.jobs;

-- the engine gives the lane of each job that it inserts; callers may not
create trigger jobs_check_insert
  before insert on public.jobs
  for each row
  when (new.lane is null)
  execute function queue.check_inserted();

-- Place and publish the jobs of a plain insert, all of the statement at once. A trigger of the
-- project's own may have changed or deleted some since they were written, or placed them itself: by
-- a call which starts a scheduled one now, and which counts an event.
create or replace function queue.place_inserted()
returns trigger
language plpgsql
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set jit = off
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_ids constant uuid[] := array(select a.id from added as a where a.worker = 0 order by a.id);
  v_is_ready boolean;
  v_rest uuid[];
  v_changed uuid[];
begin
  if v_ids = '{}' then -- the engine's own
    return null;
  end if;
  perform queue.may_read(w.workspace_id)
  from (select distinct a.workspace_id from added as a where a.worker = 0) as w;
  if v_ids[1] < queue.id_at(v_now - interval '1 day')
    or v_ids[cardinality(v_ids)] > queue.id_at(v_now + interval '1 day')
  then -- retention reads ages from ids
    perform queue.refuse(
      400,
      'invalid_argument',
      'an id must be a version 7 UUID of today',
      'id'
    );
  end if;
  with jobs as materialized (
    select
      j.id,
      j.lane,
      j.workspace_id,
      j.ord,
      j.created_at,
      j.last_seq > (j.is_minimal is null)::integer as is_changed,
      j.lane = t.lane
        and j.last_seq = (j.is_minimal is null)::integer
        and num_nonnulls(j.scheduled_for, j.deadline_at, j.start_by_seconds) = 0
        and not t.rate_per_key
        and (t.key_concurrency is null or j.concurrency_key is null) as is_simple
    from unnest(v_ids) as i (id)
    join public.jobs as j on j.id = any (array[i.id]) and j.status = 'pending'
    left join queue.job_types as t on t.job_type = j.job_type
  ),
  placed as ( -- as queue.place of jobs that are ready at once
    insert into queue.ready (lane, workspace_id, ord, ready_at, job_id)
    select j.lane, j.workspace_id, j.ord, j.created_at, j.id
    from jobs as j
    where j.is_simple
  ),
  noted as materialized (
    select queue.note_turn(k.lane, k.workspace_id, k.ord) as is_ready
    from (
      select j.lane, j.workspace_id, min(j.ord) as ord
      from jobs as j
      where j.is_simple
      group by 1, 2
    ) as k
  )
  select
    coalesce((select bool_or(n.is_ready) from noted as n), false), -- reads all of it
    (select array_agg(j.id) from jobs as j where j.is_simple is not true),
    (select array_agg(j.id) from jobs as j where j.is_changed)
  into v_is_ready, v_rest, v_changed;
  if v_rest is not null then
    perform queue.take_place(v_changed) where v_changed is not null;
    v_is_ready := coalesce(
      (
        select bool_or(queue.place(j, j.created_at))
        from unnest(v_rest) as i (id)
        join public.jobs as j on j.id = i.id
      ),
      false
    ) or v_is_ready;
  end if;
  -- a line of the feed holds at most a thousand jobs, as those of bulks do
  for v_slice in 0 .. (cardinality(v_ids) - 1) / 1000 loop
    perform queue.publish_created(v_ids[1000 * v_slice + 1:1000 * v_slice + 1000], v_now);
  end loop;
  if queue.caller() is not null then
    perform queue.admit(
      'jobs',
      a.workspace_id,
      queue.caller(),
      count(*),
      sum(octet_length(a.payload::text))
    )
    from added as a
    where a.worker = 0
    group by a.workspace_id;
  end if;
  if v_is_ready then
    perform queue.wake_worker(v_now);
  end if;
  return null;
end;
$$;

revoke execute on function queue.place_inserted from public;

drop trigger jobs_after_insert on public.jobs;

create trigger jobs_after_insert
  after insert on public.jobs
  referencing new table as added
  for each statement
  when (current_setting('minutehand.plain_inserts', true) <> '')
  execute function queue.place_inserted();

-- Delete what belongs to deleted jobs.
create or replace function queue.after_delete()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_ids constant uuid[] := array(select id from removed order by id);
begin
  delete from queue.ready as r
  using removed as j
  where r.lane = j.lane
    and r.workspace_id = j.workspace_id
    and r.ord = j.ord
    and r.job_id = j.id;
  delete from queue.deferred as d
  using removed as j
  where j.finished_at is null
    and d.job_id = j.id
    and d.run_at in (j.next_retry_at, j.scheduled_for, j.deadline_at, j.start_by_at);
  with theirs as (
    select
      g.ctid as tid,
      g.lane,
      g.workspace_id,
      g.job_type,
      g.key,
      g.started_at < 'infinity' is true as is_unpaid
    from queue.gated as g
    join removed as j
      on j.finished_at is null
      and g.job_id = j.id
      and g.workspace_id = j.workspace_id
      and g.job_type = j.job_type
      and g.key = coalesce(j.concurrency_key, '')
    for update of g
  ),
  ended as (
    update queue.gated
    set ended = true -- its start is yet to be charged
    where ctid = any (array(select t.tid from theirs as t where t.is_unpaid))
  ),
  gone as (
    delete from queue.gated
    where ctid = any (array(select t.tid from theirs as t where not t.is_unpaid))
  )
  insert into queue.notes (lane, workspace_id, key)
  select distinct t.lane, t.workspace_id, t.key
  from theirs as t
  where exists ( -- others of the key
    select from queue.gated as g
    where g.workspace_id = t.workspace_id
      and g.job_type = t.job_type
      and g.key = t.key
      and (t.is_unpaid or g.job_id <> all (v_ids))
  );
  delete from queue.unpublished as u
  using removed as j
  where j.lane = 0
    and u.job_type = j.job_type
    and u.workspace_id = j.workspace_id
    and u.job_id = j.id;
  -- one that an enqueue uses just now stays: that finds its job deleted, and takes the key
  delete from queue.job_keys
  where ctid = any (array(
    select o.ctid
    from removed as j
    cross join lateral (
      values (j.idempotency_key, false), (j.unique_key, true)
    ) as k (key, is_unique)
    join queue.job_keys as o
      on o.workspace_id = j.workspace_id
      and o.job_type = j.job_type
      and o.key = k.key
      and o.is_unique = k.is_unique
      and o.job_id = j.id
    for update of o skip locked
  ));
  delete from queue.job_keys
  where ctid = any (array(
    select o.ctid
    from removed as j
    join queue.job_keys as o on o.job_id = j.id and o.freed_when = 'other'
    for update of o skip locked
  ));
  -- one that a report or settlement holds stays, which waits for the record: it is swept later
  delete from queue.leases
  where ctid = any (array(
    select l.ctid
    from queue.leases as l
    where l.job_id = any (v_ids)
    for update skip locked
  ));
  delete from queue.waits where job_id = any (v_ids);
  delete from queue.dead as d
  using removed as j
  where d.workspace_id = j.workspace_id and d.job_id = j.id;
  delete from queue.steps where job_id = any (v_ids);
  delete from queue.pieces where job_id = any (v_ids);
  delete from queue.outputs where job_id = any (v_ids);
  delete from queue.attempts where job_id = any (v_ids);
  delete from public.job_logs where job_id = any (v_ids);
  delete from queue.job_events where job_id = any (v_ids);
  -- not of those past their retention, whose lines are gone
  perform queue.forget_in_feed(
    v_ids,
    array_agg(distinct j.workspace_id),
    min(j.created_at)
  )
  from removed as j
  where j.updated_at > queue.clock()
    - make_interval(hours => queue.setting('feed_hours')::integer)
  having count(*) > 0;
  insert into queue.signals (kind, workspace_id, job_id)
  select 'check', j.workspace_id, j.parent_id
  from removed as j
  where j.parent_id is not null
  union
  select 'cancel', c.workspace_id, c.parent_id
  from public.jobs as c
  where c.parent_id = any (v_ids) and c.finished_at is null;
  return null;
end;
$$;

revoke execute on function queue.after_delete from public;

-- Take tokens at p_now from a bucket that holds p_most and fills in p_seconds. p_limit: its name in
-- the 429 where too few are left; null never refuses, since what is charged has happened.
create or replace function queue.spend(
  p_bucket text,
  p_most double precision,
  p_seconds double precision,
  p_amount double precision,
  p_now timestamptz,
  p_limit text default null
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_tokens double precision;
begin
  insert into queue.buckets as b (name, tokens, refilled_at)
  values (p_bucket, p_most - p_amount, p_now)
  on conflict (name) do update set
    -- of a start that was committed late: no time counts twice
    refilled_at = greatest(b.refilled_at, p_now),
    tokens = least(
      p_most,
      b.tokens
        + greatest(0, extract(epoch from p_now - b.refilled_at))
        * p_most
        / p_seconds
    ) - p_amount
  returning tokens into v_tokens;
  if v_tokens < 0 and p_limit is not null then -- the refusal rolls the charge back
    perform queue.refuse_rate(p_limit, p_most, p_seconds, v_tokens);
  end if;
end;
$$;

revoke execute on function queue.spend from public;

-- Refuse with 429 what a bucket has too few tokens for; p_tokens: what would be left.
create or replace function queue.refuse_rate(
  p_limit text,
  p_most double precision,
  p_seconds double precision,
  p_tokens double precision
)
returns void
language plpgsql
set search_path = ''
as $$
begin
  perform queue.refuse(
    429,
    'rate_limited',
    format('too many %s; wait a moment', replace(p_limit, '_', ' ')),
    jsonb_build_object(
      'limit', p_limit,
      'per_second', p_most / p_seconds,
      'burst', p_most,
      'retry_after_seconds', coalesce(
        ceil(-p_tokens * p_seconds / nullif(p_most, 0)),
        60
      )
    )::text
  );
end;
$$;

revoke execute on function queue.refuse_rate from public;

-- Refuse where a workspace has more live jobs than it may. A limit above 2,000 is checked against a
-- count of the last ten seconds; a smaller one exactly if p_is_exact: one enqueue at a time counts.
create or replace function queue.check_live_jobs(
  p_workspace_id uuid,
  p_is_exact boolean default false
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_max constant integer := coalesce(
    (
      select l.max_pending
      from queue.tenant_limits as l
      where l.workspace_id = p_workspace_id
    ),
    queue.setting('user_pending_max')::integer
  );
  v_bucket constant text := 'q:' || p_workspace_id;
  v_live integer;
begin
  if v_max > 2000 then
    select tokens into v_live
    from queue.buckets
    where name = v_bucket and refilled_at > v_now - interval '10 seconds';
  elsif p_is_exact and not queue.try_lock('quota ' || p_workspace_id) then
    perform queue.refuse(
      429,
      'rate_limited',
      'another enqueue of the workspace is being counted; call again',
      '{"limit": "calls_at_once", "retry_after_seconds": 1}'
    );
  end if;
  if v_live is null then
    v_live := (
      select count(*)
      from (
        select from queue.places(
          p_workspace_id,
          '{pending,processing,waiting}',
          v_max + 1
        )
        limit v_max + 1
      ) as p
    );
    if v_max > 2000 and queue.try_lock('bucket ' || v_bucket) then
      insert into queue.buckets as b (name, tokens, refilled_at)
      values (v_bucket, v_live, v_now)
      on conflict (name) do update set tokens = v_live, refilled_at = v_now;
    end if;
  end if;
  if v_live > v_max then
    perform queue.refuse(
      429,
      'quota_exceeded',
      format(
        'the workspace already has %s live jobs; wait until some have ended',
        v_max
      ),
      'max_pending'
    );
  end if;
end;
$$;

revoke execute on function queue.check_live_jobs from public;

-- Refuse where the payloads of a workspace's live jobs have more bytes than they may, as they are
-- stored. Counted at most every ten seconds, by one call, from the places of live jobs: a sum kept
-- by enqueues would be a row for which all of them wait.
create or replace function queue.check_live_bytes(p_workspace_id uuid)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_max constant bigint := queue.setting('user_pending_bytes_max');
  v_bucket constant text := 'b:' || p_workspace_id;
  v_bytes bigint := (
    select b.tokens
    from queue.buckets as b
    where b.name = v_bucket and b.refilled_at > v_now - interval '10 seconds'
  );
begin
  if v_bytes is null and queue.try_lock('bucket ' || v_bucket) then
    v_bytes := (
      select coalesce(sum(pg_column_size(j.payload)), 0)
      from queue.places(
        p_workspace_id,
        '{pending,processing,waiting}',
        1000000
      ) as p
      join public.jobs as j on j.id = p.job_id
    );
    insert into queue.buckets as b (name, tokens, refilled_at)
    values (v_bucket, v_bytes, v_now)
    on conflict (name) do update set tokens = v_bytes, refilled_at = v_now;
  end if;
  if v_bytes > v_max then
    perform queue.refuse(
      429,
      'quota_exceeded',
      format(
        'the live jobs of the workspace already hold %s bytes; wait until some have ended',
        v_max
      ),
      'user_pending_bytes_max'
    );
  end if;
end;
$$;

revoke execute on function queue.check_live_bytes from public;

-- Take the lock under which a person's bucket is charged. False where another call of theirs has
-- it; there what costs more than four is refused, since it would be free.
create or replace function queue.charges_alone(p_bucket text, p_cost double precision)
returns boolean
language plpgsql
set search_path = ''
as $$
begin
  if queue.try_lock('bucket ' || p_bucket) then
    return true;
  elsif p_cost > 4 then
    perform queue.refuse(
      429,
      'rate_limited',
      'another call of yours is being charged; call again',
      '{"limit": "calls_at_once", "retry_after_seconds": 1}'
    );
  end if;
  return false;
end;
$$;

revoke execute on function queue.charges_alone from public;

drop function queue.admit(p_kind text, p_workspace_id uuid, p_user_id uuid, p_count double precision);

-- Refuse with 429 what a person has made beyond their limits; called last. p_kind: jobs; changes,
-- for all other writes; streams. Jobs and changes count as p_count enqueues, and one more for each
-- 16 kB that they store, since bytes are what fills a disk. Payloads of less than 2 kB are bounded
-- by the number of live jobs.
create or replace function queue.admit(
  p_kind text,
  p_workspace_id uuid,
  p_user_id uuid,
  p_count double precision default 1,
  p_bytes bigint default 0
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_limit constant text := case p_kind
    when 'streams' then 'stream_opens'
    else 'enqueues'
  end;
  v_bucket constant text := format('u:%s/%s', p_user_id, v_limit);
  v_burst double precision;
begin
  if p_user_id is null then
    return;
  end if;
  if p_kind = 'jobs' then
    perform queue.check_live_jobs(p_workspace_id, p_is_exact => true);
    if p_bytes > 2048 * p_count then
      perform queue.check_live_bytes(p_workspace_id);
    end if;
  end if;
  -- a caller's small transactions of the same moment are charged once, so that none waits for
  -- another
  if queue.charges_alone(v_bucket, p_count + coalesce(p_bytes, 0) / 16384) then
    v_burst := queue.setting('user_' || v_limit || '_burst');
    perform queue.spend(
      v_bucket,
      v_burst,
      v_burst
        / queue.setting('user_' || v_limit || '_per_second')::double precision,
      p_count + coalesce(p_bytes, 0) / 16384,
      queue.clock(),
      v_limit
    );
  end if;
end;
$$;

revoke execute on function queue.admit from public;

-- Charge a person for the rows that a statement has written: each counts as a change, and what it
-- holds by its bytes. The tables are those that queue.charge_rows names.
create or replace function queue.charge_written()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
  if queue.caller() is not null then
    perform queue.admit(
      'changes',
      null,
      queue.caller(),
      count(*),
      sum(octet_length(to_jsonb(w)::text))
    )
    from written as w
    having count(*) > 0;
  end if;
  return null;
end;
$$;

revoke execute on function queue.charge_written from public;

-- Charge people for what they write to these tables, by whatever function or policy. A project may
-- have a view of its own in the place of one, which it charges or not.
create or replace function queue.charge_rows(variadic p_tables regclass[])
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_table regclass;
  v_event text;
begin
  for v_table, v_event in
    select c.oid, e.name
    from pg_catalog.pg_class as c
    cross join (values ('insert'), ('update')) as e (name)
    where c.oid = any (p_tables) and c.relkind = 'r'
  loop
    execute format(
      'create trigger %I after %s on %s referencing new table as written '
        'for each statement execute function queue.charge_written()',
      'charge_' || v_event,
      v_event,
      v_table
    );
  end loop;
end;
$$;

revoke execute on function queue.charge_rows from public;

-- Refuse jobs of a person's call that queue.admit would refuse once they are made: else a bulk that
-- is refused costs all that one that is admitted does, and no one pays for it.
create or replace function queue.expect(
  p_workspace_id uuid,
  p_user_id uuid,
  p_count integer,
  p_bytes bigint
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_burst constant integer := queue.setting('user_enqueues_burst')::integer;
  v_seconds constant double precision := v_burst
    / queue.setting('user_enqueues_per_second')::double precision;
  v_bucket constant text := format('u:%s/enqueues', p_user_id);
  v_left constant double precision := queue.tokens_of(
    v_bucket,
    v_burst,
    v_seconds,
    queue.clock()
  ) - p_count - p_bytes / 16384;
begin
  if v_left < 0 then
    perform queue.refuse_rate('enqueues', v_burst, v_seconds, v_left);
  end if;
  perform queue.charges_alone(v_bucket, p_count + p_bytes / 16384);
  perform queue.check_live_jobs(p_workspace_id);
end;
$$;

revoke execute on function queue.expect from public;

-- Called by what reads or writes many rows: a person may have six such calls at a time, a workspace
-- ten, and its guests ten of their own. None waits, since it would hold a connection.
create or replace function queue.take_call_slot(p_workspace_id uuid default null)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_guests constant text := case
    when queue.is_member(p_workspace_id) then ''
    else 'guests '
  end;
begin
  if queue.is_service() then
    return;
  end if;
  perform queue.refuse(
    429,
    'rate_limited',
    'too many large calls of yours or of the workspace run; wait for their answers',
    '{"limit": "calls_at_once", "retry_after_seconds": 1}'
  )
  from (
    values
      (queue.caller()::text, 6),
      (v_guests || p_workspace_id, 10)
  ) as s (id, most)
  where s.id is not null
    and not exists (
      select from generate_series(1, s.most) as n
      where queue.try_lock(format('call %s %s', s.id, n))
    );
end;
$$;

revoke execute on function queue.take_call_slot from public;

-- Called before a key of a job is taken. A call that asks for one that another transaction takes
-- now waits for its end, since the answer is the job that has the key: three such calls of a person
-- wait, further ones are refused. The lock is on the key's hash; a transaction has at most a
-- hundred, since the server's locks are few, and larger calls have slots.
create or replace function queue.hold_key(p_workspace_id uuid, p_job_type text, p_key text)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_user constant uuid := queue.caller();
  v_count integer;
begin
  if v_user is null then
    return;
  end if;
  v_count := 1 + coalesce(
    nullif(current_setting('minutehand.keys', true), ''),
    '0'
  )::integer;
  if v_count > 100 then
    return;
  end if;
  perform set_config('minutehand.keys', v_count::text, true);
  if queue.try_lock(format('key %s/%s/%s', p_workspace_id, p_job_type, p_key))
    or exists (
      select from generate_series(1, 3) as n
      where queue.try_lock(format('waits %s %s', v_user, n))
    )
  then
    return;
  end if;
  perform queue.refuse(
    429,
    'job_busy',
    'other calls of yours wait for a job with this key; call again',
    '{"retry_after_seconds": 1}'
  );
end;
$$;

revoke execute on function queue.hold_key from public;

create or replace function public.open_stream()
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
begin
  perform queue.admit('streams', null, queue.caller());
  return jsonb_build_object('opened', true);
end;
$$;

comment on function public.open_stream is
  'Charge the caller''s rate limit for a stream that they open: {opened}, or 429 rate_limited.';

select queue.allow('authenticated, service_role', 'public.open_stream');

drop function queue.refuse_revoked();

-- Refuse a worker's key of before the last rotation. queue.allow checks that its functions do this.
-- Always false: where it must cost little it is assigned, since a query would cost more.
create or replace function queue.refuse_revoked()
returns boolean
language plpgsql stable
set search_path = ''
as $$
declare
  v_claims jsonb := nullif(current_setting('request.jwt.claims', true), '');
begin
  if v_claims ->> 'role' is distinct from 'job_worker' then
    return false;
  end if;
  perform from jsonb_array_elements(queue.setting('worker_keys_revoked')) as r
  where (r ->> 'from')::numeric <= extract(epoch from queue.clock())
    and coalesce((v_claims ->> 'iat')::numeric, 0) < (r ->> 'before')::numeric;
  if found then
    perform queue.refuse(
      401,
      'key_revoked',
      'this worker key was revoked',
      'SUPABASE_WORKER_KEY'
    );
  end if;
  return false;
end;
$$;

revoke execute on function queue.refuse_revoked from public;

create or replace function public.revoke_worker_keys(
  p_before timestamptz,
  p_grace_seconds integer default 0
)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_now timestamptz := queue.clock();
  v_count integer;
begin
  if p_before is null or p_before > v_now + interval '1 minute' then
    perform queue.refuse(
      400,
      'invalid_argument',
      'p_before must not be in the future',
      'p_before'
    );
  end if;
  insert into queue.settings as s (name, value, updated_at)
  values (
    'worker_keys_revoked',
    jsonb_build_array(jsonb_build_object(
      -- a minute earlier: keys that workers sign themselves are dated back by half a minute
      'before', floor(extract(epoch from p_before)) - 60,
      'from', floor(extract(epoch from v_now)) + coalesce(p_grace_seconds, 0)
    )),
    v_now
  )
  -- added to earlier ones: what those refuse stays refused, whatever the grace of this call
  on conflict (name) do update set
    value = s.value || excluded.value,
    updated_at = v_now;
  update queue.settings
  set
    updated_at = v_now, -- a stolen worker key has read it
    value = to_jsonb(encode(
      uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()),
      'hex'
    ))
  where name = 'guest_key';
  -- what a stolen key has registered is not known: types without jobs go, workers register the rest
  update queue.job_types
  set
    schema_version = least(schema_version, 1),
    registered_at = '-infinity',
    deployed_at = null
  where true; -- a hosted Data API refuses a change without a condition (safeupdate)
  get diagnostics v_count = row_count;
  delete from queue.schedules where source is not null;
  delete from queue.withdrawn_schedules where true;
  delete from queue.job_types
  where not in_order
    and job_type not in (
      select l.job_type
      from queue.lanes as l
      where l.lane in (
        select t.lane
        from queue.turns as t
        union all
        select n.lane
        from queue.notes as n
        union all
        select g.lane
        from queue.gated as g
        union all
        select r.lane
        from queue.leases as r
      )
    );
  update queue.lanes
  set unused_since = v_now - interval '23 hours' -- an hour: transactions use it
  where job_type not in (select t.job_type from queue.job_types as t);
  delete from queue.workers as w
  where not exists (select from public.jobs as j where j.worker = w.worker)
    and not exists (select from queue.leases as r where r.worker = w.worker);
  return jsonb_build_object(
    'revoked_before', p_before - interval '1 minute',
    'from', v_now + make_interval(secs => coalesce(p_grace_seconds, 0)),
    'types', v_count
  );
end;
$$;

comment on function public.revoke_worker_keys is
  'Refuse worker keys issued a minute before '
  'p_before or earlier, from p_grace_seconds on: {revoked_before, from, types}. For operators.';

select queue.allow('service_role', 'public.revoke_worker_keys');

create or replace function public.set_workspace_limits(p_workspace_id uuid, p_limits jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_made queue.tenant_limits;
begin
  perform queue.may_manage(p_workspace_id);
  perform queue.check_names(
    p_limits,
    array['weight', 'max_running', 'own_max_running', 'max_pending'],
    'limits'
  );
  if queue.caller() is not null
    and p_limits ?| array['weight', 'max_running', 'max_pending']
  then
    perform queue.refuse(
      403,
      'forbidden',
      'a manager may set own_max_running alone',
      'limits'
    );
  end if;
  if not coalesce(p_limits ->> 'weight', '1') ~ '^([1-9][0-9]?|100)$' then
    perform queue.refuse(
      400,
      'invalid_argument',
      'weight must be a whole number from 1 to 100',
      'weight'
    );
  end if;
  insert into queue.tenant_limits (workspace_id)
  values (p_workspace_id)
  on conflict do nothing;
  update queue.tenant_limits as t
  set (weight, max_running, own_max_running, max_pending) = (
    select coalesce(n.weight, 1), n.max_running, n.own_max_running, n.max_pending
    from jsonb_populate_record(t, p_limits) as n
  )
  where workspace_id = p_workspace_id
  returning * into v_made;
  perform queue.admit('changes', p_workspace_id, queue.caller());
  return to_jsonb(v_made) - 'running_max';
exception when check_violation
  or invalid_text_representation
  or numeric_value_out_of_range then
  perform queue.refuse(
    400,
    'invalid_argument',
    'a limit is invalid: ' || sqlerrm,
    'limits'
  );
end;
$$;

comment on function public.set_workspace_limits is
  'Change limits of a workspace: {weight, '
  'max_running, own_max_running, max_pending}, null lifts one. Managers: own_max_running only.';

select queue.allow('authenticated, service_role', 'public.set_workspace_limits');

create or replace function public.workspace_limits(p_workspace_id uuid)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
begin
  perform queue.may_read(p_workspace_id);
  return jsonb_build_object(
    'workspace_id', p_workspace_id,
    'weight', 1,
    'max_running', null,
    'own_max_running', null,
    'max_pending', null
  )
    || coalesce(
      (
        select to_jsonb(t) - 'running_max'
        from queue.tenant_limits as t
        where t.workspace_id = p_workspace_id
      ),
      '{}'
    )
    || jsonb_build_object(
      'running', (
        select count(*)
        from queue.leases as l
        where l.workspace_id = p_workspace_id
      )
    );
end;
$$;

comment on function public.workspace_limits is
  'Limits of a workspace, and how many of its jobs run now.';

select queue.allow('authenticated, service_role', 'public.workspace_limits');

-- A setting has the name and kind of value of a row that a migration, also an app's, has inserted.
create or replace function public.set_settings(p_settings jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_bad text;
begin
  select s.key into v_bad
  from jsonb_each(p_settings) as s
  left join queue.settings as t on t.name = s.key
  where case
    when t.name is null then true
    when s.key in ('worker_keys_revoked', 'guest_key') then true
    when s.key = 'realtime_messages_per_second' and jsonb_typeof(s.value) = 'string'
      then s.value not in ('"free"', '"pro"')
    when s.key = 'retention_days' then jsonb_typeof(s.value) <> 'object'
      or not s.value ?& array['completed', 'cancelled', 'failed']
      or s.value @? '$.* ? (@.type() != "number" || @ < 0 || @ > 36500)'
    when jsonb_typeof(s.value) = 'number' then jsonb_typeof(t.value) = 'boolean'
      or s.value::numeric not between 1 and case
        when s.key in ('disk_bytes', 'user_pending_bytes_max') then 9007199254740991
        else 2147483647
      end
      or s.value::numeric % 1 <> 0
    else jsonb_typeof(s.value) <> jsonb_typeof(t.value)
  end
  limit 1;
  if found then
    perform queue.refuse(
      400,
      'invalid_argument',
      format('%s is not a setting, or its value is invalid', left(v_bad, 80)),
      left(v_bad, 80)
    );
  end if;
  update queue.settings as t
  set value = s.value, updated_at = queue.clock()
  from jsonb_each(p_settings) as s
  where t.name = s.key;
  return (
    select jsonb_object_agg(name, value)
    from queue.settings
    where name <> 'guest_key'
  );
end;
$$;

comment on function public.set_settings is
  'Change settings of the engine, by name; returns all. For operators.';

select queue.allow('service_role', 'public.set_settings');

-- Gates: no more jobs of a key are ready than may run. A job waits behind the gate of its key
-- (queue.place); settlements and leases open it (queue.open_gate) and charge the key's rate.

-- The tokens of a bucket at p_now; it is full where it has no row yet.
create or replace function queue.tokens_of(
  p_name text,
  p_most integer,
  p_seconds double precision,
  p_now timestamptz
)
returns double precision
language plpgsql stable
set search_path = ''
as $$
begin
  return coalesce(
    (
      select least(
        p_most,
        b.tokens
          + greatest(0, extract(epoch from p_now - b.refilled_at))
          * p_most
          / p_seconds
      )
      from queue.buckets as b
      where b.name = p_name
    ),
    p_most
  );
end;
$$;

revoke execute on function queue.tokens_of from public;

drop function queue.open_lanes(p_job_types text[], p_queues text[]);

-- The lanes of these types and queues (null for all) that are not paused, and which of their types
-- have a limit that a lease counts.
create or replace function queue.open_lanes(
  p_job_types text[],
  p_queues text[] default null,
  out lanes integer[],
  out limited text[]
)
language plpgsql stable
set search_path = ''
as $$
begin
  with paused as materialized (
    select p.kind, p.name
    from queue.pauses as p
    where p.kind = any ('{job_type,queue}')
  )
  select
    coalesce(array_agg(l.lane), '{}'),
    coalesce(
      array_agg(distinct t.job_type) filter (
        where t.max_concurrency is not null
          or t.workspace_concurrency is not null
          or t.rate_limit is not null and not t.rate_per_key
      ),
      '{}'
    )
  into lanes, limited
  from queue.lanes as l
  left join queue.job_types as t on t.job_type = l.job_type
  where (p_job_types is null or l.job_type = any (p_job_types))
    and (p_queues is null or l.queue = any (p_queues))
    and not exists (
      select from paused as p
      where p.name = case p.kind when 'job_type' then l.job_type else l.queue end
    );
end;
$$;

revoke execute on function queue.open_lanes from public;

-- Leave a note for each gate of these lanes, so that the next lease looks at it.
create or replace function queue.note_gates(p_lanes integer[])
returns void
language plpgsql
set search_path = ''
as $$
begin
  insert into queue.notes (lane, workspace_id, key)
  select distinct on (g.workspace_id, g.job_type, g.key)
    g.lane,
    g.workspace_id,
    g.key
  from queue.gated as g
  where g.lane = any (p_lanes) and not g.ended
  order by g.workspace_id, g.job_type, g.key;
end;
$$;

revoke execute on function queue.note_gates from public;

-- How many more jobs of a key may be admitted. An admitted job reserves a token of the key's rate;
-- here those that have started since are charged for it, and those that have ended are deleted.
create or replace function queue.free_of_key(
  p_type queue.job_types,
  p_workspace_id uuid,
  p_key text,
  out free integer,
  out tokens double precision,
  out at timestamptz
)
language plpgsql
set search_path = ''
as $$
declare
  v_bucket constant text := format(
    'k:%s/%s/%s',
    p_workspace_id,
    p_type.job_type,
    p_key
  );
  v_begun tid[];
  v_unpaid integer;
begin
  free := 1000;
  if p_type.rate_per_key then
    v_begun := array( -- skip those being settled: two settlements would wait for each other
      select g.ctid
      from queue.gated as g
      where g.workspace_id = p_workspace_id
        and g.job_type = p_type.job_type
        and g.key = p_key
        and g.admitted
        and g.started_at < 'infinity'
      for update skip locked
    );
    perform queue.spend(
      v_bucket,
      p_type.rate_limit,
      p_type.rate_per_seconds,
      1,
      g.started_at
    )
    from (
      select started_at
      from queue.gated
      where ctid = any (v_begun)
      order by started_at
    ) as g;
    update queue.gated as g
    set started_at = 'infinity'
    where g.ctid = any (v_begun);
    v_unpaid := (
      select count(*)
      from queue.gated as g
      where g.workspace_id = p_workspace_id
        and g.job_type = p_type.job_type
        and g.key = p_key
        and g.admitted
        and (g.started_at < 'infinity' or g.started_at is null and not g.ended)
    );
    -- after the count: a job that starts in between still reserves its token
    at := queue.clock();
    tokens := queue.tokens_of(
      v_bucket,
      p_type.rate_limit,
      p_type.rate_per_seconds,
      at
    ) - v_unpaid;
    free := greatest(0, floor(tokens + 1e-9))::integer;
  end if;
  delete from queue.gated as g
  where g.workspace_id = p_workspace_id
    and g.job_type = p_type.job_type
    and g.key = p_key
    and g.admitted
    and g.ended
    -- but one that has ended since then and is yet to be charged
    and (p_type.rate_per_key and g.started_at < 'infinity') is not true;
  if p_type.key_concurrency is not null and p_key <> '' then
    free := greatest(
      0,
      least(
        free,
        p_type.key_concurrency - (
          select count(*)
          from queue.gated as g
          where g.workspace_id = p_workspace_id
            and g.job_type = p_type.job_type
            and g.key = p_key
            and g.admitted
        )
      )
    );
  end if;
end;
$$;

revoke execute on function queue.free_of_key from public;

-- Let as many of a key's jobs through its gate as may run, of lanes that are served and not paused.
-- Where another transaction does so now, leave a note. p_lane: any lane of the type.
create or replace function queue.open_gate(
  p_lane integer,
  p_workspace_id uuid,
  p_job_type text,
  p_key text,
  p_now timestamptz
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_type queue.job_types;
  v_open integer[];
  v_closed uuid[];
  v_count record;
  v_admitted record;
  v_look_at timestamptz;
begin
  if not queue.try_lock(format(
    'gate %s/%s/%s',
    p_workspace_id,
    p_job_type,
    p_key
  )) then
    insert into queue.notes (lane, workspace_id, key)
    values (p_lane, p_workspace_id, p_key);
    return;
  end if;
  select * into v_type
  from queue.job_types as t
  where t.job_type = p_job_type;
  v_open := array(
    select l.lane
    from queue.open_lanes(array[p_job_type]) as o
    join queue.lanes as l on l.lane = any (o.lanes)
    where l.served_at is not null
  );
  -- admitted jobs of other lanes go back: they must hold no slot of the key
  v_closed := array(
    select j.id
    from queue.gated as g
    join queue.ready as r
      on r.lane = g.lane
      and r.workspace_id = g.workspace_id
      and r.ord = g.ord
      and r.job_id = g.job_id
    join public.jobs as j on j.id = g.job_id
    where g.workspace_id = p_workspace_id
      and g.job_type = p_job_type
      and g.key = p_key
      and g.admitted
      and not g.ended
      and g.lane <> all (v_open)
    for no key update of r, j skip locked
  );
  perform queue.take_place(v_closed) where v_closed <> '{}';
  perform queue.place(j, p_now, v_type)
  from public.jobs as j
  where j.id = any (v_closed);
  v_count := queue.free_of_key(v_type, p_workspace_id, p_key);
  if v_count.free = 0 and not v_type.rate_per_key then
    return;
  end if;
  with admitted as (
    update queue.gated
    set admitted = true
    where ctid = any (array(
      select g.ctid
      from queue.gated as g
      where g.workspace_id = p_workspace_id
        and g.job_type = p_job_type
        and g.key = p_key
        and not g.admitted
        and g.lane = any (v_open)
        -- not one whose earlier row has ended since the deletion above: the next time
        and not exists (
          select from queue.gated as e
          where e.workspace_id = p_workspace_id
            and e.job_type = p_job_type
            and e.key = p_key
            and e.admitted
            and e.ord = g.ord
            and e.job_id = g.job_id
        )
      order by g.ord
      limit v_count.free
      for update of g skip locked
    ))
    returning lane, ord, job_id
  ),
  placed as (
    insert into queue.ready (lane, workspace_id, ord, ready_at, job_id)
    select l.lane, p_workspace_id, l.ord, p_now, l.job_id
    from admitted as l
  )
  select count(*) as jobs, array_agg(distinct l.lane) as lanes, min(l.ord) as ord
  into v_admitted
  from admitted as l;
  perform queue.note_turn(l, p_workspace_id, v_admitted.ord)
  from unnest(v_admitted.lanes) as l;
  v_look_at := case
    when v_admitted.jobs = 1000 then p_now -- there are more
    -- other transactions hold the rest, and may leave it behind the gate
    when v_admitted.jobs < v_count.free then p_now + interval '1 second'
    -- when the rate allows the next
    when v_admitted.jobs + 1
        > v_count.tokens then v_count.at + make_interval(secs => greatest(
      0.001,
      (1 + v_admitted.jobs - v_count.tokens)
        * v_type.rate_per_seconds
        / v_type.rate_limit
    ))
  end;
  if v_look_at is not null then -- else the key is full, and the end of a job opens the gate
    insert into queue.notes (look_at, lane, workspace_id, key)
    select v_look_at, g.lane, p_workspace_id, p_key
    from queue.gated as g
    where g.workspace_id = p_workspace_id
      and g.job_type = p_job_type
      and g.key = p_key
      and not g.admitted
      and g.lane = any (v_open)
    limit 1;
  end if;
end;
$$;

revoke execute on function queue.open_gate from public;

-- Put the jobs of a type behind the gates of their keys, or past them, after its limits of keys
-- have changed. For those that another transaction holds or has yet to commit the old limit holds.
create or replace function queue.regate(p_job_type text)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_type queue.job_types;
  v_lanes constant integer[] := array(
    select l.lane
    from queue.lanes as l
    where l.job_type = p_job_type
  );
  v_jobs uuid[];
begin
  select * into v_type
  from queue.job_types as t
  where t.job_type = p_job_type;
  v_jobs := array(
    select j.id
    from public.jobs as j
    where j.status = 'pending'
      and j.id = any (array(
        select r.job_id
        from queue.ready as r
        where r.lane = any (v_lanes)
        union all
        select g.job_id
        from queue.gated as g
        where g.lane = any (v_lanes) and not g.admitted
      ))
    for no key update skip locked
  );
  perform queue.take_place(v_jobs);
  -- of those that passed the gate of then, and ended without a limit
  delete from queue.gated as g
  where g.lane = any (v_lanes)
    and g.admitted
    and not g.ended
    and not exists (
      select from public.jobs as j
      where j.id = g.job_id and j.finished_at is null
    );
  -- running jobs count towards their key; the update waits for those that are being settled
  with leased as (
    update queue.leases as r
    set key = coalesce(
      case
        when v_type.rate_per_key then coalesce(j.concurrency_key, '')
        when v_type.key_concurrency is not null then j.concurrency_key
      end,
      r.key
    )
    from public.jobs as j
    where r.lane = any (v_lanes) and j.id = r.job_id
    returning r.*
  )
  insert into queue.gated (lane, workspace_id, job_type, key, ord, job_id, admitted)
  select r.lane, r.workspace_id, p_job_type, r.key, r.ord, r.job_id, true
  from leased as r
  where r.key is not null
  on conflict do nothing; -- the gate admitted it
  perform queue.note_gates(v_lanes);
  perform queue.place(j, queue.clock(), v_type)
  from public.jobs as j
  where j.id = any (v_jobs) and j.status = 'pending';
end;
$$;

revoke execute on function queue.regate from public;

-- Open the gates that notes name, the oldest first. Where there are many, also the oldest of some
-- tenants, by id from the lowest and from a random one on, so that none waits behind others' keys;
-- and of the oldest, those of keys that have no jobs any more are deleted at once.
create or replace function queue.open_gates(p_most integer, p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_notes queue.notes[] := array(
    select n
    from queue.notes as n
    where n.key is not null and n.look_at <= p_now
    order by n.look_at, n.id
    limit 4 * p_most
  );
  v_gate record;
begin
  if cardinality(v_notes) = 4 * p_most then
    v_notes := array(
      with recursive tenants as (
        select s.id as workspace_id, null::queue.notes as note, 0 as nth
        from (
          values
            (gen_random_uuid()),
            ('00000000-0000-0000-0000-000000000000')
        ) as s (id)
        union all
        select n.workspace_id, n.note, t.nth + 1
        from tenants as t
        cross join lateral (
          select o.workspace_id, o as note
          from queue.notes as o
          where o.key is not null and o.workspace_id > t.workspace_id
          order by o.workspace_id, o.look_at, o.id
          limit 1
        ) as n
        where t.nth < p_most / 4
      )
      select t.note
      from tenants as t
      where (t.note).look_at <= p_now
    ) || v_notes;
    delete from queue.notes
    where id = any (array(
      select n.id
      from (
        select *
        from queue.notes as o
        where o.key is not null and o.look_at <= p_now
        order by o.look_at, o.id
        limit 20 * p_most
      ) as n
      join queue.lanes as l on l.lane = n.lane
      where not exists (
        select from queue.gated as g
        where g.workspace_id = n.workspace_id
          and g.job_type = l.job_type
          and g.key = n.key
      )
    ));
  end if;
  for v_gate in
    with noted as materialized (
      select l.job_type, n.workspace_id, n.key
      from unnest(v_notes) with ordinality as n
      join queue.lanes as l on l.lane = n.lane
      group by 1, 2, 3
      order by min(n.ordinality)
      limit p_most
    ),
    gone as ( -- before the jobs are counted: a job that comes later keeps its note
      delete from queue.notes as n
      using noted as o, queue.lanes as l
      where l.job_type = o.job_type
        and n.workspace_id = o.workspace_id
        and n.lane = l.lane
        and n.key = o.key
        and n.look_at <= p_now
      returning n.id, n.lane, n.workspace_id, l.job_type, n.key
    )
    select g.workspace_id, g.job_type, g.key, min(g.lane) as lane
    from gone as g
    group by 1, 2, 3
    order by min(g.id)
  loop
    perform queue.open_gate(
      v_gate.lane,
      v_gate.workspace_id,
      v_gate.job_type,
      v_gate.key,
      p_now
    );
  end loop;
end;
$$;

revoke execute on function queue.open_gates from public;

-- Open noted turns, at their tenant's rank or else last, and turns whose time at a limit is over.
create or replace function queue.open_turns(p_most integer, p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
begin
  with noted as materialized (
    select n.lane, n.workspace_id
    from (
      select *
      from queue.notes
      where key is null
      order by id
      limit 10 * p_most
    ) as n
    group by 1, 2
    order by min(n.id)
    limit p_most
  ),
  gone as (
    delete from queue.notes as n
    using noted as o
    where n.workspace_id = o.workspace_id and n.lane = o.lane and n.key is null
    returning n.id, n.lane, n.workspace_id, n.ord
  ),
  opened as (
    select g.lane, g.workspace_id, min(g.ord) as ord
    from gone as g
    group by 1, 2
    order by min(g.id)
  )
  insert into queue.turns as t (lane, workspace_id, rank, from_ord, changed_at)
  select
    o.lane,
    o.workspace_id,
    coalesce(
      (
        select u.rank
        from queue.turns as u
        where u.workspace_id = o.workspace_id
        limit 1
      ),
      min(r.last_rank) over (partition by o.workspace_id) - 1
    ),
    o.ord,
    p_now
  from opened as o
  join queue.lanes as l on l.lane = o.lane
  join queue.rings as r on r.ring = l.ring
  on conflict (workspace_id, lane) do update set
    blocked = false,
    look_at = null,
    changed_at = p_now,
    -- a closed turn has no jobs but those of the notes
    from_ord = case
      when t.blocked and t.look_at is null then excluded.from_ord
      else least(t.from_ord, excluded.from_ord)
    end;
  update queue.turns as t
  set blocked = false, look_at = null
  where t.ctid = any (array(
    select ctid
    from queue.turns
    where blocked and look_at <= p_now
    order by look_at
    limit 2 * p_most
    for update skip locked
  ));
end;
$$;

revoke execute on function queue.open_turns from public;

-- How many jobs of a type may start; null for any number. Exact for the holder of the type's lock.
create or replace function queue.free_of_type(p_job_type text, p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
begin
  return (
    select least(
      y.max_concurrency - case
        when y.max_concurrency is not null then (
          select count(*)
          from queue.lanes as o
          join queue.leases as r on r.lane = o.lane
          where o.job_type = y.job_type
        )
      end,
      case
        when y.rate_limit is not null and not y.rate_per_key
          then floor(queue.tokens_of(
            'r:' || y.job_type,
            y.rate_limit,
            y.rate_per_seconds,
            p_now
          ))
      end
    )::integer
    from queue.job_types as y
    where y.job_type = p_job_type
  );
end;
$$;

revoke execute on function queue.free_of_type from public;

drop function queue.lock_types(p_lanes integer[], p_now timestamp with time zone, OUT open integer[], OUT is_busy boolean, OUT is_limited boolean);

-- Lock those of the limited types that have turns in these lanes. open: lanes of unlimited types,
-- and of those locked that are not at their limit. A limited type whose first turn opens after this
-- look is left for the next lease, since it was not counted. is_busy: another lease has the lock.
create or replace function queue.lock_types(
  p_lanes integer[],
  p_limited text[],
  p_now timestamptz,
  out open integer[],
  out is_busy boolean,
  out is_limited boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_types text[];
  v_busy text[];
begin
  open := p_lanes;
  is_busy := false;
  is_limited := false;
  if p_limited = '{}' then
    return;
  end if;
  v_types := array( -- in one order, so that of two leases one gets them all
    select n
    from unnest(p_limited) as n
    where exists (
      select from queue.lanes as l
      join queue.turns as o on o.lane = l.lane and not o.blocked
      where l.job_type = n and l.lane = any (p_lanes)
    )
    order by 1
  );
  is_limited := v_types <> '{}';
  v_busy := array(
    select t.job_type
    from unnest(v_types) as n
    join queue.job_types as t on t.job_type = n
    where (t.max_concurrency is not null or t.rate_limit is not null)
      and not queue.try_lock('type ' || n)
  );
  v_types := array(
    select n
    from unnest(v_types) as n
    where n <> all (v_busy) and (queue.free_of_type(n, p_now) <= 0) is not true
  );
  open := array(
    select l.lane
    from queue.lanes as l
    where l.lane = any (p_lanes)
      and (l.job_type <> all (p_limited) or l.job_type = any (v_types))
  );
  is_busy := v_busy <> '{}';
end;
$$;

revoke execute on function queue.lock_types from public;

-- Tenants with a limit of their own, a weight or a pause.
create or replace view queue.limited_tenants as
select w.workspace_id
from queue.tenant_limits as w
union all
select p.workspace_id
from queue.pauses as p;

-- Turns along a ring, from the tenant that comes next on, and around it once; those of other lanes
-- too. is_cut: further ones were not read. One whose round is unfinished is read again (last_lane).
create or replace function queue.along_the_ring(p_ring integer, p_rows integer)
returns table (
  lane integer,
  workspace_id uuid,
  round bigint,
  rank bigint,
  taken integer,
  from_ord bigint,
  is_cut boolean
)
language plpgsql
set search_path = ''
as $$
begin
  return query
  select
    u.lane,
    u.workspace_id,
    u.round,
    u.rank,
    case
      when (u.round, u.rank, u.workspace_id) = (p.round, p.last_rank, p.last_workspace_id)
        then p.last_taken
      else 0
    end,
    u.from_ord,
    u.nth = p_rows
  from (
    select r.*, case when r.last_taken = 0 then 2147483647 else 0 end as last_lane
    from queue.rings as r
    where r.ring = p_ring
  ) as p
  cross join lateral (
    select t.*, row_number() over () as nth
    from (
      (
        select o.*, p.round
        from queue.turns as o
        where not o.blocked
          and (o.rank, o.workspace_id, o.lane)
          > (p.last_rank, p.last_workspace_id, p.last_lane)
        order by o.rank, o.workspace_id, o.lane
        limit p_rows
      )
      union all
      (
        select o.*, p.round + 1
        from queue.turns as o
        where not o.blocked
          and (o.rank, o.workspace_id, o.lane)
          <= (p.last_rank, p.last_workspace_id, p.last_lane)
        order by o.rank, o.workspace_id, o.lane
        limit p_rows
      )
    ) as t
    limit p_rows
  ) as u;
end;
$$;

revoke execute on function queue.along_the_ring from public;

-- As queue.along_the_ring, but p_rows of each of these lanes, from where its ring has come to. A
-- lane lags at most one round behind the others: one that was not served for long would otherwise
-- be served alone until it caught up.
create or replace function queue.lane_by_lane(p_lanes integer[], p_rows integer)
returns table (
  lane integer,
  workspace_id uuid,
  round bigint,
  rank bigint,
  taken integer,
  from_ord bigint,
  is_cut boolean
)
language plpgsql
set search_path = ''
as $$
begin
  return query
  select
    u.lane,
    u.workspace_id,
    u.round,
    u.rank,
    case
      when (u.round, u.rank, u.workspace_id) = (p.round, p.last_rank, p.last_workspace_id)
        then p.last_taken
      else 0
    end,
    u.from_ord,
    u.nth = p_rows
  from (
    select
      l.lane,
      greatest(r.round, max(r.round) over () - 1) as round,
      r.last_rank,
      r.last_workspace_id,
      r.last_taken,
      case when r.last_taken = 0 then 2147483647 else 0 end as last_lane
    from unnest(p_lanes) as n (lane)
    join queue.lanes as l on l.lane = n.lane
    join queue.rings as r on r.ring = l.ring
  ) as p
  cross join lateral (
    select t.*, row_number() over () as nth
    from (
      (
        select o.*, p.round
        from queue.turns as o
        where o.lane = p.lane
          and not o.blocked
          and (o.rank, o.workspace_id, o.lane)
          > (p.last_rank, p.last_workspace_id, p.last_lane)
        order by o.rank, o.workspace_id
        limit p_rows
      )
      union all
      (
        select o.*, p.round + 1
        from queue.turns as o
        where o.lane = p.lane
          and not o.blocked
          and (o.rank, o.workspace_id, o.lane)
          <= (p.last_rank, p.last_workspace_id, p.last_lane)
        order by o.rank, o.workspace_id
        limit p_rows
      )
    ) as t
    limit p_rows
  ) as u;
end;
$$;

revoke execute on function queue.lane_by_lane from public;

drop function queue.first_turns(p_lanes integer[], p_most integer, OUT turns queue.turn[], OUT known integer, OUT is_all boolean);

-- The turns in these lanes of the tenants that come next, at most p_most tenants. known: how many
-- they are; is_all: there are no more; is_limited: one has a limit of its own, a weight or a pause.
-- They are read along the ring that these lanes share. Where they are in several rings, or most of
-- the turns there are of other lanes, some of each lane are read.
create or replace function queue.first_turns(
  p_lanes integer[],
  p_most integer,
  out turns queue.turn[],
  out known integer,
  out is_all boolean,
  out is_limited boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_rings integer[];
  v_is_along boolean;
begin
  select
    coalesce(
      array_agg(
        row(
          o.lane, o.workspace_id, 0, o.rank, 0, o.from_ord, 1, null, false, null, null,
          null
        )::queue.turn
      ),
      '{}'
    ),
    bool_or(
      exists (
        select from queue.limited_tenants as w
        where w.workspace_id = o.workspace_id
      )
    )
  into turns, is_limited
  from (select * from queue.turns where not blocked limit 2) as o;
  if turns[2] is null then -- no more than one, as where one tenant's jobs are of one type
    is_all := true;
    known := 1;
    if turns[1].lane <> all (p_lanes) then
      turns := '{}';
    end if;
    return;
  end if;
  v_rings := array(
    select distinct l.ring
    from queue.lanes as l
    where l.lane = any (p_lanes)
  );
  foreach v_is_along in array case
    when v_rings[2] is null then array[true, false]
    else array[false]
  end loop
    with read as materialized (
      select a.*
      from queue.along_the_ring(v_rings[1], 2 * p_most + 20) as a
      where v_is_along
      union all
      select e.*
      from queue.lane_by_lane(
        p_lanes,
        least(p_most, 2 + 20 * p_most / greatest(1, cardinality(p_lanes)))
      ) as e
      where not v_is_along
    ),
    cut as materialized ( -- from here on some turns may not have been read
      select r.round, r.rank, r.workspace_id
      from read as r
      where r.is_cut
      order by 1, 2, 3
      limit 1
    ),
    found as (
      select
        r.*,
        dense_rank() over (order by r.round, r.rank, r.workspace_id) as nth_tenant
      from read as r
      where r.lane = any (p_lanes)
        and not exists (
          select from cut as c
          where (r.round, r.rank, r.workspace_id) >= (c.round, c.rank, c.workspace_id)
        )
    )
    select
      array_agg(
        row(
          f.lane, f.workspace_id, f.round, f.rank, f.taken, f.from_ord, 1, null, false,
          null, null, null
        )::queue.turn
      ) filter (where f.nth_tenant <= p_most),
      least(coalesce(max(f.nth_tenant), 0), p_most),
      coalesce(max(f.nth_tenant), 0) <= p_most and not exists (select from cut)
    into turns, known, is_all
    from found as f;
    exit when is_all or known = p_most;
  end loop;
  is_limited := exists (
    select from queue.limited_tenants as w
    where w.workspace_id = any (array(select t.workspace_id from unnest(turns) as t))
  );
end;
$$;

revoke execute on function queue.first_turns from public;

-- What each turn may still start, counted once the locks of limited tenants were tried. is_busy:
-- another lease has one, or a pause ends now. Turns at a limit or paused are blocked.
create or replace function queue.limit_turns(
  p_turns queue.turn[],
  p_now timestamptz,
  out turns queue.turn[],
  out is_busy boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_scopes constant text[] := array(
    select distinct s.name
    from unnest(p_turns) as t
    join queue.lanes as l on l.lane = t.lane
    join queue.job_types as y on y.job_type = l.job_type
    left join queue.tenant_limits as w on w.workspace_id = t.workspace_id
    cross join lateral (
      values
        (
          'both ' || t.workspace_id || y.job_type,
          y.workspace_concurrency is not null
        ),
        ('workspace ' || t.workspace_id, w.running_max is not null)
    ) as s (name, is_limited)
    where s.is_limited
    order by 1
  );
  v_busy constant text[] := array(
    select n
    from unnest(v_scopes) as n
    where not queue.try_lock(n)
  );
begin
  is_busy := v_busy <> '{}' or not queue.try_lock('pauses', p_is_shared => true);
  with types as materialized (
    select
      y.job_type,
      y.workspace_concurrency,
      queue.free_of_type(y.job_type, p_now) as free
    from (
      select distinct l.job_type
      from unnest(p_turns) as t
      join queue.lanes as l on l.lane = t.lane
    ) as d
    join queue.job_types as y on y.job_type = d.job_type
  )
  select array_agg(
    row(
      t.lane,
      t.workspace_id,
      t.round,
      t.rank,
      t.taken,
      t.from_ord,
      coalesce(w.weight, 1),
      y.job_type,
      exists (
        select from queue.pauses as p
        where p.kind = any ('{workspace,workspace_type}')
          and p.name = any (array[
            t.workspace_id::text,
            t.workspace_id || '/' || y.job_type
          ])
      ),
      y.free,
      case
        when 'both ' || t.workspace_id || y.job_type = any (v_busy) then 0
        when y.workspace_concurrency is not null then y.workspace_concurrency
          - (
            select count(*)
            from queue.lanes as o
            join queue.leases as r
              on r.lane = o.lane and r.workspace_id = t.workspace_id
            where o.job_type = y.job_type
          )
      end,
      case
        when 'workspace ' || t.workspace_id = any (v_busy) then 0
        when w.running_max is not null then w.running_max - (
          select count(*)
          from queue.lanes as o
          join queue.leases as r
            on r.lane = o.lane and r.workspace_id = t.workspace_id
        )
      end
    )::queue.turn
  )
  into turns
  from unnest(p_turns) as t
  join queue.lanes as l on l.lane = t.lane
  join types as y on y.job_type = l.job_type
  left join queue.tenant_limits as w on w.workspace_id = t.workspace_id;
  if is_busy then
    return;
  end if;
  update queue.turns as u
  set
    blocked = true,
    changed_at = p_now,
    look_at = case
      when f.is_paused then 'infinity'
      else p_now + interval '1 second'
    end
  from (
    select o.found, t.is_paused
    from unnest(turns) as t
    cross join lateral (
      select n.ctid as found
      from queue.turns as n
      where n.workspace_id = t.workspace_id and n.lane = t.lane
      for update skip locked
    ) as o
    where t.is_paused or least(t.own_free, t.tenant_free) <= 0
  ) as f
  where u.ctid = f.found;
end;
$$;

revoke execute on function queue.limit_turns from public;

-- Divide slots in rounds: each tenant gets as many of its first ready jobs as its weight, then the
-- next tenant. p_depth: how many jobs of a turn are read (is_cut: one has more); null: only those
-- of the first round, since more tenants follow. empty: turns without a ready job.
create or replace function queue.divide_slots(
  p_turns queue.turn[],
  p_depth integer,
  p_most integer,
  out shares queue.share[],
  out empty queue.share[],
  out lasts queue.last_served[],
  out is_cut boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_job record;
  v_last queue.last_served;
  v_slots integer := 0;
  v_of_turn integer[] := '{}'; -- slots that each turn gets
  v_types text[] := '{}'; -- limited ones, and slots that each gets
  v_of_type integer[] := '{}';
  v_type integer;
begin
  is_cut := false;
  for v_job in
    with heads as (
      select
        t.*,
        r.ord,
        r.nth_of_turn,
        row_number() over (
          partition by t.workspace_id, t.job_type
          order by r.ord
        ) as nth_of_type
      from unnest(p_turns) with ordinality as t
      left join lateral (
        select o.ord, row_number() over (order by o.ord) as nth_of_turn
        from queue.ready as o
        where o.lane = t.lane
          and o.workspace_id = t.workspace_id
          and o.ord >= t.from_ord
        order by o.ord
        limit least(
          coalesce(p_depth, t.weight),
          t.type_free,
          t.own_free,
          t.tenant_free
        )
      ) as r on true
      where not t.is_paused
        and coalesce(least(t.type_free, t.own_free, t.tenant_free), 1) > 0
    ),
    owned as (
      select
        h.*,
        min(h.round) filter (where h.ord is not null) over tenant as tenant_round,
        max(h.taken) over tenant as tenant_taken,
        row_number() over (partition by h.workspace_id order by h.ord, h.lane) as nth
      from heads as h
      where h.nth_of_type <= coalesce(h.own_free, p_most)
      window tenant as (partition by h.workspace_id)
    )
    select
      o.lane,
      o.workspace_id,
      o.job_type,
      o.type_free,
      o.ord,
      o.nth_of_turn,
      o.ordinality as turn,
      o.tenant_round as round,
      o.rank,
      (o.tenant_taken + o.nth - 1) / o.weight as whole_rounds,
      (o.tenant_taken + o.nth) % o.weight as taken
    from owned as o
    where o.ord is null or o.nth <= coalesce(o.tenant_free, p_most)
    order by
      o.ord is not null,
      whole_rounds,
      o.tenant_round,
      o.rank,
      o.workspace_id,
      o.nth
  loop
    if v_job.ord is null then
      empty := empty || row(v_job.lane, v_job.workspace_id, null, 0)::queue.share;
      continue;
    end if;
    exit when v_slots = p_most or p_depth is null and v_job.whole_rounds > 0;
    is_cut := is_cut or (v_job.nth_of_turn = p_depth) is true;
    if v_job.type_free is not null then
      v_type := coalesce(
        array_position(v_types, v_job.job_type),
        cardinality(v_types) + 1
      );
      v_types[v_type] := v_job.job_type;
      continue when v_of_type[v_type] = v_job.type_free;
      v_of_type[v_type] := coalesce(v_of_type[v_type], 0) + 1;
    end if;
    v_slots := v_slots + 1;
    v_of_turn[v_job.turn] := coalesce(v_of_turn[v_job.turn], 0) + 1;
    v_last := row(null, v_job.taken, v_job.round, v_job.rank, v_job.workspace_id);
    if v_job.type_free is not null and v_of_type[v_type] = v_job.type_free then
      v_last.job_type := v_job.job_type;
      lasts := lasts || v_last;
      v_last.job_type := null;
    end if;
  end loop;
  if v_slots > 0 then
    lasts := lasts || v_last;
  end if;
  select
    array_agg(
      row(t.lane, t.workspace_id, t.from_ord, v_of_turn[t.ordinality])::queue.share
      order by t.from_ord -- by age: about as their records lie
    )
  into shares
  from unnest(p_turns) with ordinality as t
  where v_of_turn[t.ordinality] > 0;
end;
$$;

revoke execute on function queue.divide_slots from public;

drop function queue.move_on(p_lanes integer[], p_last queue.last_served, p_turns queue.turn[], p_shares queue.share[], p_is_past boolean);

-- These lanes have come to the tenant that was served last, unless another lease has moved them
-- further meanwhile, and share a ring from then on: one in which no other lane is.
create or replace function queue.move_on(p_lanes integer[], p_last queue.last_served)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_lanes constant integer[] := array(
    select l.lane
    from queue.lanes as l
    join queue.rings as r on r.ring = l.ring
    where l.lane = any (p_lanes)
      and (p_last.round, p_last.rank, p_last.workspace_id)
      >= (r.round, r.last_rank, r.last_workspace_id)
  );
  v_ring integer := (
    select min(r.ring)
    from (
      select distinct l.ring
      from queue.lanes as l
      where l.lane = any (v_lanes)
    ) as r
    where not exists (
      select from queue.lanes as o
      where o.ring = r.ring and o.lane <> all (v_lanes)
    )
  );
begin
  if v_lanes = '{}' then
    return;
  end if;
  if v_ring is null then -- one that was left
    select r.ring into v_ring
    from queue.rings as r
    where not exists (select from queue.lanes as l where l.ring = r.ring)
    limit 1;
  end if;
  if v_ring is null then
    insert into queue.rings default values
    returning ring into v_ring;
  end if;
  update queue.rings as r
  set
    round = p_last.round,
    last_rank = p_last.rank,
    last_workspace_id = p_last.workspace_id,
    last_taken = p_last.taken
  where r.ctid = (
    select o.ctid
    from queue.rings as o
    where o.ring = v_ring
    for no key update skip locked
  );
  if found then
    update queue.lanes
    set ring = v_ring
    where ctid = any (array(
      select l.ctid
      from queue.lanes as l
      where l.lane = any (v_lanes) and l.ring <> v_ring
      for no key update skip locked
    ));
  end if;
end;
$$;

revoke execute on function queue.move_on from public;

drop function queue.share_slots(p_request queue.lease_request, p_now timestamp with time zone, OUT lanes integer[], OUT shares queue.share[], OUT empty queue.share[], OUT is_limited boolean, OUT more boolean);

-- Which turns get how many of the slots, and which are empty; is_only: there is one turn, which may
-- be empty too. more: ask again at once, since another lease holds a lock or there are more turns
-- than were read; null where no turn was found.
create or replace function queue.share_slots(
  p_request queue.lease_request,
  p_now timestamptz,
  out lanes integer[],
  out shares queue.share[],
  out empty queue.share[],
  out is_only boolean,
  out is_limited boolean,
  out more boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_most constant integer := p_request."limit";
  v_asked constant record := queue.open_lanes(p_request.job_types, p_request.queues);
  v_types record;
  v_reads integer;
  v_first record;
  v_turns queue.turn[];
  v_one queue.turn;
  v_slots bigint;
  v_limited record;
  v_divided record;
  v_last queue.last_served;
  v_full text[]; -- types that have no more slots
begin
  lanes := v_asked.lanes;
  more := case when v_most = 0 then false end;
  if v_most = 0 then
    return;
  end if;
  v_types := queue.lock_types(lanes, v_asked.limited, p_now);
  -- some turns may be empty: where all are, more are read
  foreach v_reads in array array[
    v_most + v_most / 25 + 5,
    greatest(150, 2 * v_most)
  ] loop
    v_first := queue.first_turns(v_types.open, v_reads);
    v_turns := v_first.turns;
    v_one := v_turns[1];
    more := case
      when v_types.open <> lanes or v_one.lane is not null then v_types.is_busy
    end;
    if v_one.lane is null then
      return;
    end if;
    is_limited := v_types.is_limited or v_first.is_limited;
    is_only := v_turns[2] is null and v_first.is_all and not is_limited;
    if is_only then -- nothing to divide
      shares := array[
        row(v_one.lane, v_one.workspace_id, v_one.from_ord, v_most)::queue.share
      ];
      return;
    end if;
    if is_limited then
      v_limited := queue.limit_turns(v_turns, p_now);
      v_turns := v_limited.turns;
      more := more or v_limited.is_busy;
    end if;
    v_divided := queue.divide_slots(
      v_turns,
      case when v_first.is_all then least(v_most, 4 + 4 * v_most / v_first.known) end,
      v_most
    );
    exit when v_first.is_all or v_divided.shares is not null;
  end loop;
  shares := v_divided.shares;
  empty := v_divided.empty;
  v_slots := coalesce((select sum(s.jobs) from unnest(shares) as s), 0);
  more := more or (not v_first.is_all or v_divided.is_cut) and v_slots < v_most;
  -- where no one follows, the order may stay
  if v_first.is_all
    and (v_first.known = 1 or not is_limited and v_slots < v_most)
  then
    return;
  end if;
  if v_slots < v_most and not v_first.is_all then -- all that were read have had their round
    select null, 0, t.round, t.rank, t.workspace_id
    into v_last
    from unnest(v_turns) as t
    order by t.round desc, t.rank desc, t.workspace_id desc
    limit 1;
    v_divided.lasts := array_append(
      array(select t from unnest(v_divided.lasts) as t where t.job_type is not null),
      v_last
    );
  end if;
  v_full := array(
    select t.job_type
    from unnest(v_divided.lasts) as t
    where t.job_type is not null
  );
  foreach v_last in array coalesce(v_divided.lasts, '{}') loop
    perform queue.move_on(
      case
        when v_last.job_type is null then array(
          select l.lane
          from queue.lanes as l
          where l.lane = any (v_types.open) and l.job_type <> all (v_full)
        )
        else array(
          select l.lane
          from queue.lanes as l
          where l.job_type = v_last.job_type and l.lane = any (v_types.open)
        )
      end,
      v_last
    );
  end loop;
end;
$$;

revoke execute on function queue.share_slots from public;

drop function queue.take_jobs(p_shares queue.share[], p_request queue.lease_request, p_now timestamp with time zone, p_refused uuid[], OUT ids uuid[]);

-- Lease the first jobs of each turn.
create or replace function queue.take_jobs(
  p_shares queue.share[],
  p_request queue.lease_request,
  p_now timestamptz,
  out ids uuid[]
)
language plpgsql
set search_path = ''
as $$
begin
  with picked as materialized (
    select h.*
    from unnest(p_shares) as s
    cross join lateral (
      select r.ctid as tid, j.id, r.ord, r.ready_at
      from queue.ready as r
      join public.jobs as j on j.id = any (array[r.job_id])
      where r.lane = s.lane
        and r.workspace_id = s.workspace_id
        and r.ord >= s.ord
        and j.status = 'pending'
        and (j.deadline_at is null or j.deadline_at > p_now)
        and (j.start_by_at is null or j.started_at is not null or j.start_by_at > p_now)
        and r.job_id <> all (array( -- as queue.refused
          select f.job_id
          from queue.refusals as f
          where f.task = 'lease' and f.retry_at > p_now
        ))
      order by r.ord
      limit s.jobs
      for no key update of r, j skip locked
    ) as h
    order by h.ord, h.id
  ),
  begun as materialized (
    update public.jobs as j
    set
      status = 'processing',
      attempts = j.attempts + 1,
      fence = j.fence + 1,
      worker = coalesce(nullif(j.worker, 0), p_request.worker),
      updated_at = p_now,
      next_retry_at = null,
      -- a job may have been created after the clock was read
      started_at = coalesce(j.started_at, greatest(p_now, j.created_at)),
      queue_ms = coalesce(
        j.queue_ms,
        date_part('epoch', p_now - p.ready_at) * 1000
      ),
      last_seq = j.last_seq + (j.is_minimal is null)::integer
    from picked as p, queue.job_types as t
    -- an array of one finds the job by its key, whatever statistics say
    where j.id = any (array[p.id]) and t.job_type = j.job_type
    returning
      j.id,
      j.workspace_id,
      j.attempts,
      j.fence,
      j.lane,
      p.tid,
      p.ord,
      p.ready_at,
      coalesce(p_request.lease_seconds, t.lease_seconds) as lease_seconds,
      case
        when t.rate_per_key then coalesce(j.concurrency_key, '')
        when t.key_concurrency is not null then j.concurrency_key
      end as key
  ),
  gone as (
    delete from queue.ready
    where ctid = any (array(select b.tid from begun as b))
  ),
  held as (
    insert into queue.leases (
      job_id, fence, lane, workspace_id, ord, ready_at, leased_at, expires_at,
      lease_seconds, attempt, worker, tick_id, tick_call, key
    )
    select
      b.id,
      b.fence,
      b.lane,
      b.workspace_id,
      b.ord,
      b.ready_at,
      p_now,
      p_now + make_interval(secs => b.lease_seconds),
      b.lease_seconds,
      b.attempts,
      p_request.worker,
      p_request.tick_id,
      p_request.call,
      b.key
    from begun as b
    returning job_id
  )
  select array_agg(h.job_id) into ids
  from held as h;
end;
$$;

revoke execute on function queue.take_jobs from public;

-- Take the jobs of turns; one that a project's trigger refuses is found by halves and passed over.
create or replace function queue.take(
  p_shares queue.share[],
  p_request queue.lease_request,
  p_now timestamptz
)
returns uuid[]
language plpgsql
set search_path = ''
as $$
declare
  v_half constant integer := cardinality(p_shares) / 2;
  v_one queue.share := p_shares[1];
  v_failure text;
  v_ids uuid[];
begin
  begin
    return queue.take_jobs(p_shares, p_request, p_now);
  exception
    when connection_exception
      or transaction_rollback
      or insufficient_resources
      or object_not_in_prerequisite_state
      or operator_intervention
      or system_error
      or internal_error then
      raise; -- as in queue.do_in_parts
    when others then
      v_failure := format('%s (%s)', sqlerrm, sqlstate);
  end;
  if v_half > 0 then
    v_ids := queue.take(p_shares[:v_half], p_request, p_now);
    return v_ids || queue.take(p_shares[v_half + 1:], p_request, p_now);
  elsif v_one.jobs > 1 then
    p_shares[1].jobs := v_one.jobs / 2;
    v_ids := queue.take(p_shares, p_request, p_now);
    p_shares[1].jobs := v_one.jobs - v_one.jobs / 2; -- of those that are still ready
    return v_ids || queue.take(p_shares, p_request, p_now);
  end if;
  perform queue.note_refusal('lease', r.job_id, v_failure, p_now)
  from (
    select o.job_id
    from queue.ready as o
    join public.jobs as j on j.id = o.job_id
    where o.lane = v_one.lane
      and o.workspace_id = v_one.workspace_id
      and o.ord >= v_one.ord
      and j.status = 'pending'
      and (j.deadline_at is null or j.deadline_at > p_now)
      and (j.start_by_at is null or j.started_at is not null or j.start_by_at > p_now)
      and o.job_id <> all (queue.refused('lease', p_now))
    order by o.ord
    limit 1
    for no key update of o, j skip locked
  ) as r;
  return case when found then queue.take(p_shares, p_request, p_now) end;
end;
$$;

revoke execute on function queue.take from public;

-- What a worker gets of the jobs that it leased, and the changes to publish. p_now: when they were
-- leased, for which events are written, unique keys freed and starts charged to rates; null for a
-- repeated call, which answers the same and stores nothing.
create or replace function queue.read_leases(
  p_ids uuid[],
  p_request queue.lease_request,
  p_now timestamptz default null,
  out leases json,
  out changes queue.change[]
)
language plpgsql
set search_path = ''
as $$
declare
  v_rest uuid[]; -- whose row does not say all
begin
  with held as materialized (
    select
      j.id,
      j.workspace_id,
      j.session_id,
      j.attempts,
      j.last_seq,
      answer,
      j.is_minimal is null as is_full,
      j.unique_key is not null or t.rate_per_key as is_noted
    from unnest(p_ids) as i (id)
    join public.jobs as j on j.id = any (array[i.id])
    join queue.job_types as t on t.job_type = j.job_type
    cross join lateral (
      select
        j.id,
        j.workspace_id,
        j.user_id,
        j.session_id,
        j.queue,
        j.job_type,
        j.payload,
        j.schema_version,
        j.priority,
        j.attempts,
        j.max_attempts,
        j.created_at,
        j.parent_id,
        j.traceparent,
        j.progress,
        coalesce(j.timeout_seconds, t.timeout_seconds) as timeout_seconds,
        j.deadline_at
    ) as job
    cross join lateral (
      select
        j.fence,
        coalesce(p_request.lease_seconds, t.lease_seconds) as lease_seconds,
        case
          when j.fence = 1 and j.replay_from is null
              or not exists (select from queue.steps as s where s.job_id = j.id)
            then '{}'
          else ( -- null where they are long: the worker then calls read_steps
            select p.results
            from queue.step_page(j.id, null, 16000) as p
            where p.next is null and p.bytes <= 16000
          )
        end as steps,
        job
    ) as answer
  ),
  kinds as (
    select
      h.workspace_id,
      h.session_id,
      h.attempts,
      array_agg(h.id) as ids,
      array_agg(h.last_seq) as seqs
    from held as h
    where h.is_full
    group by 1, 2, 3
  )
  select
    coalesce(json_agg(h.answer), '[]'),
    (
      select array_agg(
        row(
          k.workspace_id,
          k.session_id,
          'job.leased',
          jsonb_build_object(
            'status', 'processing',
            'attempts', k.attempts,
            'worker_id', p_request.worker_id
          ),
          k.ids,
          k.seqs
        )::queue.change
      )
      from kinds as k
    ),
    array_agg(h.id) filter (where h.is_noted or h.is_full and h.last_seq <> 2)
  into leases, changes, v_rest
  from held as h;
  if p_now is null or v_rest is null then
    return;
  end if;
  insert into queue.job_events (job_id, seq, workspace_id, type, data, created_at)
  select
    j.id,
    j.last_seq,
    j.workspace_id,
    'job.leased',
    jsonb_build_object(
      'status', 'processing',
      'attempts', j.attempts,
      'worker_id', p_request.worker_id
    ),
    p_now
  from public.jobs as j
  where j.id = any (v_rest) and j.is_minimal is null and j.last_seq <> 2;
  delete from queue.job_keys as u
  using public.jobs as j
  where j.id = any (v_rest)
    and u.workspace_id = j.workspace_id
    and u.job_type = j.job_type
    and u.key = j.unique_key
    and u.is_unique
    and u.job_id = j.id
    and u.freed_when = 'leased';
  update queue.gated as g
  set started_at = p_now
  from public.jobs as j
  where j.id = any (v_rest)
    and g.workspace_id = j.workspace_id
    and g.job_type = j.job_type
    and g.key = coalesce(j.concurrency_key, '')
    and g.job_id = j.id
    and g.admitted
    and not g.ended;
end;
$$;

revoke execute on function queue.read_leases from public;

-- Move the start of turns to their first job, or to the last that was leased (ord), and close empty
-- ones. Only those whose lock is free: no open transaction is adding a job to them.
create or replace function queue.tidy_turns(p_turns queue.share[], p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_free constant queue.share[] := array(
    select t
    from unnest(p_turns) as t
    where pg_try_advisory_xact_lock(t.lane, uuid_hash(t.workspace_id))
  );
begin
  update queue.turns as u
  set
    from_ord = coalesce(o.head, o.last_ord, u.from_ord),
    blocked = u.blocked or o.closes,
    look_at = case when not o.closes then u.look_at end,
    changed_at = case when o.closes then p_now else u.changed_at end
  from unnest(v_free) as s
  cross join lateral (
    select
      t.ctid as found,
      s.ord as last_ord,
      (
        select r.ord
        from queue.ready as r
        where r.lane = t.lane
          and r.workspace_id = t.workspace_id
          and r.ord >= t.from_ord
        order by r.ord
        limit 1
      ) as head
    from queue.turns as t
    where t.lane = s.lane and t.workspace_id = s.workspace_id
    for no key update skip locked
  ) as l
  cross join lateral (select l.*, l.head is null and s.jobs = 0 as closes) as o
  where u.ctid = o.found;
end;
$$;

revoke execute on function queue.tidy_turns from public;

-- In how many milliseconds a worker with free slots should ask again; null: not before it is woken.
create or replace function queue.next_due_in_ms(
  p_lanes integer[],
  p_more boolean,
  p_now timestamptz
)
returns bigint
language plpgsql stable
set search_path = ''
as $$
declare
  v_next timestamptz;
begin
  if p_more then
    return 0;
  end if;
  v_next := least(
    (select min(run_at) from queue.deferred),
    (select min(timeout_at) from queue.waits),
    case
      when exists (select from queue.notes where key is null) then p_now
    end,
    (
      select min(look_at)
      from queue.notes
      where key is not null
    ),
    (
      select nullif(min(t.look_at), 'infinity')
      from queue.turns as t
      where t.blocked
    ),
    (
      select min(
        case
          when s.failures = 0 then s.look_at
          else greatest(s.look_at, p_now + interval '1 second')
        end
      ) -- held: now and then
      from queue.signals as s
    ),
    -- when the first type that has used up its rate and has waiting jobs may start one again
    (
      select min(
        p_now + make_interval(secs => greatest(
          0,
          (1 - b.tokens) * y.rate_per_seconds / y.rate_limit
        ))
      )
      from queue.job_types as y
      cross join lateral (
        select queue.tokens_of(
          'r:' || y.job_type,
          y.rate_limit,
          y.rate_per_seconds,
          p_now
        ) as tokens
      ) as b
      where y.rate_limit is not null
        and not y.rate_per_key
        and b.tokens < 1
        and exists (
          select from queue.lanes as l
          join queue.turns as t on t.lane = l.lane and not t.blocked
          where l.job_type = y.job_type and l.lane = any (p_lanes)
        )
    )
  );
  -- greatest() ignores nulls; Postgres before 17 cannot subtract from -infinity
  return case
    when v_next is not null
      then ceil(extract(epoch from greatest(v_next, p_now) - p_now) * 1000)
  end;
end;
$$;

revoke execute on function queue.next_due_in_ms from public;

-- Fill the slots of one pool, of these job types: which turns get them, and their first jobs. more:
-- also where no turn was found, but one has opened since.
create or replace function queue.fill_pool(
  p_request queue.lease_request,
  p_now timestamptz,
  out ids uuid[],
  out lanes integer[],
  out more boolean,
  out leased_at timestamptz
)
language plpgsql
set search_path = ''
as $$
declare
  v_shared record := queue.share_slots(p_request, p_now);
  v_leased integer := 0;
  v_one queue.share;
begin
  lanes := v_shared.lanes;
  more := v_shared.more;
  leased_at := p_now;
  if v_shared.shares is not null then
    -- a job that was enqueued since then starts after it
    leased_at := greatest(p_now, queue.clock());
    ids := queue.take(v_shared.shares, p_request, leased_at);
    v_leased := coalesce(cardinality(ids), 0);
    if v_leased = 0 and v_shared.is_only then
      v_one := v_shared.shares[1];
      if not exists (
        select from queue.ready as r
        where r.lane = v_one.lane
          and r.workspace_id = v_one.workspace_id
          and r.ord >= v_one.ord
      ) then
        v_shared.empty := v_shared.empty
          || row(v_one.lane, v_one.workspace_id, null, 0)::queue.share;
        v_shared.shares := null;
      end if;
    end if;
    -- where another lease holds some, more may come behind them
    if v_leased < p_request."limit" and v_shared.shares is not null then
      more := more
        or v_leased < case
          when v_shared.shares[2] is null then 1
          else (select sum(s.jobs) from unnest(v_shared.shares) as s)
        end
          and queue.refused('lease', leased_at) = '{}';
    end if;
  end if;
  if more is null then
    more := exists (
      select from unnest(lanes) as l (lane)
      join queue.turns as t on t.lane = l.lane and not t.blocked
    );
  end if;
  if v_leased > 0 and v_shared.is_limited then
    perform queue.spend(
      'r:' || y.job_type,
      y.rate_limit,
      y.rate_per_seconds,
      n.jobs,
      leased_at
    )
    from (
      select j.job_type, count(*) as jobs
      from public.jobs as j
      where j.id = any (ids)
      group by 1
    ) as n
    join queue.job_types as y on y.job_type = n.job_type
    where y.rate_limit is not null and not y.rate_per_key;
  end if;
  -- an empty turn is closed late, since its next job then needs no note: see DECISIONS 21
  if cardinality(v_shared.empty) > 4
    or v_leased >= 20 and v_leased < p_request."limit"
    or p_request.call % 16 = 0
  then
    perform queue.tidy_turns(
      array(
        select row(j.lane, j.workspace_id, max(j.ord), count(*))::queue.share
        from public.jobs as j
        where j.id = any (ids)
        group by j.lane, j.workspace_id
      ) || v_shared.empty,
      leased_at
    );
  end if;
end;
$$;

revoke execute on function queue.fill_pool from public;

drop function queue.lease_ready(p_request queue.lease_request, p_changes queue.change[], p_now timestamp with time zone, OUT leases json, OUT leased integer, OUT lanes integer[], OUT more boolean);

-- Fill every pool. p_has_notes: turns or gates are to be opened before. is_short, is_full: one was
-- not, and one was; lanes: of those asked for.
create or replace function queue.lease_ready(
  p_request queue.lease_request,
  p_changes queue.change[],
  p_has_notes boolean,
  p_now timestamptz,
  out leases json,
  out leased integer,
  out lanes integer[],
  out more boolean,
  out is_short boolean,
  out is_full boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_at_once constant integer := greatest(20, least(200, p_request."limit"));
  v_now timestamptz := p_now;
  v_pools queue.lease_request[];
  v_pool queue.lease_request;
  v_filled record;
  v_count integer;
  v_ids uuid[] := '{}';
  v_read record;
  v_is_published boolean;
begin
  -- one lease at a time opens turns; others skip this
  if p_has_notes and queue.try_lock('turns') then
    perform queue.open_gates(greatest(50, v_at_once), p_now)
    -- a pause that ends has them opened after
    where queue.try_lock('pauses', p_is_shared => true);
    perform queue.open_turns(v_at_once, p_now);
  end if;
  lanes := '{}';
  more := false;
  is_short := p_request."limit" = 0;
  is_full := false;
  if p_request.pools is null then
    v_pools := array[p_request];
  else
    v_pools := array(
      select jsonb_populate_record(p_request, to_jsonb(p))
      from jsonb_to_recordset(p_request.pools) as p (job_types text[], "limit" integer)
    );
  end if;
  foreach v_pool in array v_pools loop
    v_filled := queue.fill_pool(v_pool, v_now);
    v_ids := v_ids || v_filled.ids;
    lanes := lanes || v_filled.lanes;
    more := more or v_filled.more;
    v_now := v_filled.leased_at;
    v_count := coalesce(cardinality(v_filled.ids), 0);
    is_short := is_short or v_count < v_pool."limit";
    is_full := is_full or v_count > 0 and v_count >= v_pool."limit";
  end loop;
  leases := '[]';
  leased := cardinality(v_ids);
  if leased > 0 then
    v_read := queue.read_leases(v_ids, p_request, v_now);
    leases := v_read.leases;
    p_changes := p_changes || v_read.changes;
  end if;
  v_is_published := queue.publish(p_changes, v_now);
end;
$$;

revoke execute on function queue.lease_ready from public;

drop function queue.note_worker(p_request queue.lease_request, p_now timestamp with time zone);

-- The number of a worker. Its row and its lanes' served_at are written once a minute, or when it
-- serves something else: such lanes leave notes for their gates, under the lock that opens gates.
-- p_known: the row; has_noted: gates are to be looked at.
create or replace function queue.note_worker(
  p_request queue.lease_request,
  p_known queue.workers,
  p_now timestamptz,
  out worker integer,
  out has_noted boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_changed boolean;
  v_lanes record;
  v_gates integer[];
  v_is_alone boolean;
begin
  worker := p_known.worker;
  has_noted := false;
  if p_known.version = p_request.version
    and p_known.job_types @> p_request.job_types
  then
    -- it serves the others too, without a slot now
    p_request.job_types := p_known.job_types;
  end if;
  v_changed := (p_known.job_types, p_known.queues, p_known.version)
    is distinct from (p_request.job_types, p_request.queues, p_request.version);
  if p_known.seen_at > p_now - interval '1 minute'
    and p_known.seen_at <= p_now
    and not v_changed
  then
    if p_known.ended_at is not null then
      update queue.workers
      set ended_at = null, started_at = p_now
      where workers.worker = p_known.worker;
    end if;
    return;
  end if;
  select
    array_agg(l.lane) filter (
      where o.serves
        and (
          l.served_at is null
          or l.served_at not between p_now - interval '1 minute' and p_now
        )
    ) as served,
    array_agg(l.lane) filter (where o.serves and l.served_at is null) as added,
    array_agg(l.lane) filter (
      where not o.serves
        and (
          l.served_at <= p_now - interval '3 minutes'
          or v_changed
            and l.served_at is not null
            and not exists (
              select from queue.workers as w
              where w.worker_id <> p_request.worker_id
                and w.seen_at > p_now - interval '3 minutes'
                and (w.job_types is null or l.job_type = any (w.job_types))
                and (w.queues is null or l.queue = any (w.queues))
            )
        )
    ) as gone
  into v_lanes
  from queue.lanes as l
  cross join lateral (
    select coalesce(l.job_type = any (p_request.job_types), true)
      and coalesce(l.queue = any (p_request.queues), true) as serves
  ) as o;
  v_gates := v_lanes.added || v_lanes.gone;
  v_is_alone := v_gates is null or queue.try_lock('turns');
  if v_is_alone then
    update queue.lanes
    set served_at = case when lane = any (v_lanes.served) then p_now end
    where ctid = any (array(
      select l.ctid
      from queue.lanes as l
      where l.lane = any (v_lanes.served || v_lanes.gone)
      for no key update skip locked
    ));
    perform queue.note_gates(v_gates) where v_gates is not null;
  end if;
  insert into queue.workers as w (
    worker_id, started_at, seen_at, version, job_types, queues
  )
  values (
    p_request.worker_id,
    p_now,
    p_now - interval '59 seconds' * (not v_is_alone)::integer,
    p_request.version,
    p_request.job_types,
    p_request.queues
  )
  on conflict (worker_id) do update set
    seen_at = excluded.seen_at,
    ended_at = null,
    version = excluded.version,
    job_types = excluded.job_types,
    queues = excluded.queues,
    started_at = case
      when w.ended_at is null and w.seen_at > p_now - interval '3 minutes'
        then w.started_at
      else p_now
    end
  returning w.worker into note_worker.worker;
  has_noted := v_is_alone and v_gates is not null;
end;
$$;

revoke execute on function queue.note_worker from public;

-- Admit a run for its time, unless as many as it says are under way: how many more may begin, null
-- where it is refused. One that was killed counts until its time is over.
create or replace function queue.admit_run(p_request queue.lease_request, p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_free integer;
begin
  perform queue.try_lock('admission', p_waits => true); -- one at a time
  for v_try in 1 .. 2 loop
    v_free := p_request.most
      - 1
      - (
        select count(*)
        from queue.ticks as t
        where t.expires_at > p_now and t.tick_id <> p_request.tick_id
      );
    exit when v_free >= 0;
    -- they lease again before they end; this waits for one that ends just now and does not see it
    update queue.ticks
    set has_refused = true
    where expires_at > p_now and tick_id <> p_request.tick_id;
  end loop;
  if v_free < 0 then
    return null;
  end if;
  insert into queue.ticks as t (tick_id, seen_at, expires_at)
  values (
    p_request.tick_id,
    p_now,
    p_now + least(interval '1 day', make_interval(secs => p_request.run_seconds))
  )
  on conflict (tick_id) do update set
    expires_at = excluded.expires_at,
    has_refused = false;
  return v_free;
end;
$$;

revoke execute on function queue.admit_run from public;

create or replace function queue.read_lease_request(p_request jsonb)
returns queue.lease_request
language plpgsql
set search_path = ''
as $$
declare
  v_asked queue.lease_request := jsonb_populate_record(
    null::queue.lease_request,
    p_request
  );
begin
  v_asked.call := coalesce(v_asked.call, 1);
  v_asked."limit" := coalesce(v_asked."limit", 10);
  if v_asked.pools is not null then
    v_asked."limit" := (
      select coalesce(sum(p."limit"), 0)
      from jsonb_to_recordset(v_asked.pools) as p ("limit" integer)
    );
  end if;
  if v_asked.worker_id is null
    or v_asked.tick_id is null
    or v_asked."limit" not between 0 and 1000
    or v_asked.lease_seconds not between 1 and 43200
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      'worker_id and tick_id are required; limit, or that of all pools, is '
        '0 to 1000, lease_seconds 1 to 43200',
      'p_request'
    );
  elsif current_setting('transaction_isolation') <> 'read committed' then
    perform queue.refuse(
      400,
      'invalid_argument',
      'a lease needs read committed, since it counts'
    );
  end if;
  return v_asked;
end;
$$;

revoke execute on function queue.read_lease_request from public;

-- See public.lease_jobs. p_changes: of what was settled in the same call. A repeat waits for the
-- first; for a lock and no row, so that what finds nothing writes nothing.
create or replace function queue.lease(p_request jsonb, p_changes queue.change[] default null)
returns json
language plpgsql
set search_path = ''
as $$
declare
  v_asked queue.lease_request := queue.read_lease_request(p_request);
  v_now timestamptz;
  v_ms bigint;
  v_tick record; -- what is known of this run and its worker, and whether notes wait
  v_noted record;
  v_run jsonb; -- where this call begins or ends it
  v_given record;
  v_due bigint;
  v_maintenance boolean;
  v_ends boolean;
begin
  if not queue.try_lock('tick ' || v_asked.tick_id) then -- a trial is an expression, no query
    perform queue.try_lock('tick ' || v_asked.tick_id, p_waits => true);
  end if;
  v_now := queue.clock();
  select
    t.last_call,
    t.seen_at > v_now - interval '10 seconds' as is_active,
    t.expires_at,
    w as worker,
    exists (
      select from queue.notes
      where key is null
      union all
      select from queue.notes
      where key is not null and look_at <= v_now
      union all
      select from queue.turns
      where blocked and look_at <= v_now
    ) as has_notes
  into v_tick
  from (select) as o
  left join queue.ticks as t on t.tick_id = v_asked.tick_id
  left join queue.workers as w on w.worker_id = v_asked.worker_id;
  if v_asked.call <= v_tick.last_call then -- its answer may have been lost
    perform queue.publish(p_changes, v_now);
    v_given := queue.read_leases(
      array(
        select l.job_id
        from queue.leases as l
        where l.tick_id = v_asked.tick_id and l.tick_call = v_asked.call
      ),
      v_asked
    );
    return json_build_object('leases', v_given.leases, 'next_due_in_ms', 0);
  elsif v_asked.most is not null and (v_tick.expires_at > v_now) is not true then
    v_run := jsonb_build_object('free', queue.admit_run(v_asked, v_now));
    if v_run ->> 'free' is null then
      perform queue.publish(p_changes, v_now);
      return json_build_object('leases', '[]'::json, 'run', v_run);
    end if;
  end if;
  v_noted := queue.note_worker(v_asked, v_tick.worker, v_now);
  v_asked.worker := v_noted.worker;
  v_ms := pg_sequence_last_value('queue.wanted_ms'); -- the worker that was wanted is here
  if v_ms > 0 then
    v_ms := setval('queue.wanted_ms', 0);
  end if;
  v_given := queue.lease_ready(
    v_asked,
    p_changes,
    v_tick.has_notes or v_noted.has_noted,
    v_now
  );
  if v_tick.last_call is null or v_given.leased > 0 then -- a repeat is known by it
    insert into queue.ticks as t (tick_id, seen_at, worker, last_call)
    values (v_asked.tick_id, v_now, v_asked.worker, v_asked.call)
    on conflict (tick_id) do update set (seen_at, worker, last_call) = row(
      excluded.seen_at,
      excluded.worker,
      excluded.last_call
    );
  end if;
  v_ms := (date_part('epoch', v_now) * 1000)::bigint;
  if coalesce(v_asked.free_slots, v_asked."limit" - v_given.leased) > 0
    and v_ms - coalesce(pg_sequence_last_value('queue.slots_ms'), 0)
    not between 0 and 499
  then
    v_ms := setval('queue.slots_ms', v_ms);
  end if;
  v_maintenance := v_given.is_short
    and queue.maintenance_is_due(
      v_now,
      v_given.leased > 0 or v_tick.last_call > 1 and v_tick.is_active
    ); -- it leased lately
  v_ms := case
    when v_given.is_short then queue.next_due_in_ms(v_given.lanes, v_given.more, v_now)
  end;
  v_ends := v_asked.ends is not null
    and v_given.leased = 0
    and (not v_maintenance or v_asked.ends ? 'maintained')
    and (v_ms <= (v_asked.ends -> 'stay_ms')::double precision) is not true;
  if v_asked.count_due or v_asked.call = 1 or v_ends then
    if v_asked.pools is not null then -- of all that the worker serves
      v_given.lanes := (queue.open_lanes(v_asked.job_types, v_asked.queues)).lanes;
    end if;
    v_due := (
      select count(*)
      from (
        select from queue.ready as r
        where r.lane = any (v_given.lanes)
        limit 1000
      ) as r
    );
  end if;
  if v_ends then
    v_run := public.tick_finished(
      v_asked.ends
      || jsonb_build_object('tick_id', v_asked.tick_id)
      || jsonb_build_object(
        'summary',
        v_asked.ends -> 'summary'
        || jsonb_build_object(
          'due_left', v_due,
          'next_due_in_ms', v_ms,
          'next_in_ms', v_ms,
          'next_reason', case when v_ms is null then 'notified' else 'due' end
        )
      )
    );
  end if;
  return json_build_object(
    'leases', v_given.leases,
    'maintenance', v_maintenance,
    'run', v_run,
    'due', coalesce(v_due, v_given.is_full::integer),
    'next_due_in_ms', v_ms
  );
end;
$$;

revoke execute on function queue.lease from public;

create or replace function public.lease_jobs(p_request jsonb)
returns json
language plpgsql
security definer
set search_path = ''
set lock_timeout = '8s'
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
begin
  perform queue.refuse_revoked();
  return queue.lease(p_request);
end;
$$;

comment on function public.lease_jobs is
  E'Lease up to limit jobs: {leases, maintenance, due, next_due_in_ms, run?}.\n\nRequest: '
  '{worker_id, tick_id, call, limit 0..1000, job_types, pools: [{job_types, limit}], queues, '
  'lease_seconds, version, free_slots, count_due, most, run_seconds, ends: {stay_ms, maintained?, '
  'summary?}}. pools: limits of some of the job types each, in place of one of all; due counts '
  'those of all. A lease counts as an attempt; a repeated (tick_id, call) that got leases gets '
  'them again. most: so many runs may be under way, answered by run: {free}, null if this one is '
  'refused. ends: it ends if '
  'nothing is leased, nor due within stay_ms: {ended, refused}; refused: another was meanwhile, '
  'so lease again.';

select queue.allow('job_worker, service_role', 'public.lease_jobs');

drop function queue.read_items(p_items jsonb);

-- The items of a call. is_plain: completions alone, at the first lease, with a result that fits and
-- no news.
create or replace function queue.read_items(
  p_items jsonb,
  out items queue.worker_item[],
  out is_plain boolean
)
language plpgsql stable
set search_path = ''
as $$
begin
  if jsonb_typeof(p_items) is distinct from 'array'
    or jsonb_array_length(p_items) > 1000
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      'items must be an array of up to 1000',
      'items'
    );
  end if;
  select
    coalesce(array_agg(i order by i.job_id), '{}'), -- in one order: two calls do not deadlock
    coalesce(
      bool_and(
        i.outcome = 'completed' is true
          and i.fence > 1 is not true
          and pg_column_size(i.result) > 8000 is not true
          and num_nonnulls(i.progress, i.logs, i.steps, i.step, i.tags, i.output) = 0
      ),
      true
    )
  into items, is_plain
  from jsonb_populate_recordset(null::queue.worker_item, p_items) as i;
exception when data_exception then
  perform queue.refuse(400, 'invalid_argument', sqlerrm, 'items');
end;
$$;

revoke execute on function queue.read_items from public;

-- How an attempt ends, by its worker's report and its job's rules; a wait begins here. A retry
-- waits as a foreign service asked, else exponentially with jitter (Brooker, AWS blog, 2015).
create or replace function queue.outcome_of(
  p_item queue.worker_item,
  p_job public.jobs,
  p_is_long boolean,
  p_now timestamptz,
  out outcome text,
  out problem jsonb,
  out run_at timestamptz
)
language plpgsql
set search_path = ''
as $$
declare
  v_reason text;
begin
  outcome := coalesce(p_item.outcome, 'null');
  problem := case
    when outcome in ('retry', 'lost', 'failed', 'cancelled', 'released')
      then p_item.error
  end;
  if p_is_long then
    outcome := 'failed';
    problem := '{"type": "ResultTooLarge", "reason": "result_too_large",
      "message": "the result is too long; store it and return a reference"}';
  elsif p_job.cancel_requested_at is not null and outcome <> 'completed' then
    -- the worker may have stopped because of the cancel
    problem := case when outcome <> 'lost' then problem end;
    outcome := 'cancelled';
  elsif outcome in ('retry', 'lost') then
    v_reason := case
      when p_job.deadline_at <= p_now then 'deadline_passed'
      when p_job.attempts >= p_job.max_attempts then 'attempts_spent'
      when outcome = 'lost'
          and p_job.lost_attempts + 1 >= queue.setting('lost_attempts_max')::integer
        then 'lost_too_often'
    end;
    if v_reason is not null then
      problem := case
        when outcome = 'lost' and v_reason <> 'deadline_passed' then problem
        else coalesce(problem, '{}') || jsonb_build_object('reason', v_reason)
      end;
      outcome := 'failed';
    elsif outcome = 'retry' then
      run_at := p_now + make_interval(
        secs => case
          when p_item.retry_after_seconds is not null
            then least(604800, greatest(0, p_item.retry_after_seconds))
          else (
            select (0.8 + 0.2 * random()) * least(
              t.backoff_cap_seconds,
              t.backoff_first_seconds * power(t.backoff_factor, p_job.attempts - 1)
            )
            from queue.job_types as t
            where t.job_type = p_job.job_type
          )
        end
      );
    end if;
  elsif outcome = 'failed' then
    problem := '{"reason": "not_retryable"}' || coalesce(problem, '{}');
  elsif outcome = 'snoozed' then
    -- at least a second: a snooze spends no attempt, and one into the past would loop
    run_at := greatest(
      p_now + interval '1 second',
      coalesce(
        p_item.until,
        p_now + make_interval(secs => least(
          31536000,
          coalesce(p_item.delay_seconds, 60)
        ))
      )
    );
  elsif outcome = 'waiting' then
    problem := queue.begin_wait(p_job, p_item.wait, p_now);
    outcome := case when problem is null then 'waiting' else 'failed' end;
  elsif outcome not in ('completed', 'cancelled', 'released') then
    problem := jsonb_build_object(
      'type', 'UnknownOutcome',
      'reason', 'unknown_outcome',
      'message', 'unknown outcome ' || left(outcome, 80)
    );
    outcome := 'failed';
  end if;
end;
$$;

revoke execute on function queue.outcome_of from public;

-- Decide what becomes of a job whose lease and row the caller has locked, and store the attempt.
-- Null for a stale fence, and for a plain completion, whose attempt follows from the job's row.
create or replace function queue.decide(p_item queue.worker_item, p_now timestamptz)
returns queue.transition
language plpgsql
set search_path = ''
as $$
declare
  v_is_long constant boolean := p_item.outcome = 'completed'
    and pg_column_size(p_item.result) > 8000
    and pg_column_size(p_item.result) > queue.setting('payload_max_bytes')::integer;
  v_lease queue.leases;
  v_job public.jobs;
  v_end record;
  v_made queue.transition;
begin
  select * into v_lease
  from queue.leases as l
  where l.job_id = p_item.job_id and l.fence = p_item.fence;
  if not found
    or p_item.outcome = 'completed' and v_lease.fence = 1 and v_is_long is not true
  then
    return null;
  end if;
  select * into v_job
  from public.jobs as j
  where j.id = p_item.job_id;
  if not found then -- deleted meanwhile
    return null;
  end if;
  v_end := queue.outcome_of(p_item, v_job, v_is_long, p_now);
  v_made.status := case
    when v_end.outcome in ('completed', 'failed', 'cancelled', 'waiting')
      then v_end.outcome
    else 'pending'
  end;
  v_made.attempts := v_job.attempts
    - (v_end.outcome in ('snoozed', 'released', 'waiting'))::integer;
  v_made.run_at := v_end.run_at;
  v_made.message := left(
    coalesce(
      nullif(v_end.problem ->> 'message', ''),
      case
        when v_end.outcome in ('retry', 'failed') then 'no reason given'
      end
    ),
    10000
  );
  v_made.problem := v_end.problem - '{message,traceback,origin}'::text[];
  v_made.event := case v_end.outcome
    when 'retry' then 'job.retried'
    when 'lost' then null
    else 'job.' || v_end.outcome
  end;
  v_made.data := jsonb_strip_nulls(jsonb_build_object(
    'error_message', left(v_made.message, 1000),
    'next_retry_at', v_made.run_at,
    'wait', case v_end.outcome
      when 'waiting' then jsonb_build_object(
        'kind', p_item.wait -> 'kind',
        'name', p_item.wait -> 'name',
        'question', left(p_item.wait ->> 'question', 2000),
        'options', p_item.wait -> 'options',
        'event', p_item.wait -> 'event',
        'until', coalesce(p_item.wait ->> 'timeout_at', p_item.wait ->> 'until')
      )
    end
  ));
  insert into queue.attempts (
    job_id, fence, attempt, worker, leased_at, ended_at, outcome, error_message,
    error_data, traceback, origin
  )
  values (
    v_job.id,
    v_lease.fence,
    v_lease.attempt,
    v_lease.worker,
    v_lease.leased_at,
    p_now,
    case p_item.outcome when 'lost' then 'lost' else v_end.outcome end,
    v_made.message,
    v_made.problem,
    case
      when pg_column_size(v_end.problem -> 'traceback') <= 20000
        then nullif(v_end.problem -> 'traceback', 'null')
    end,
    case
      when jsonb_typeof(v_end.problem -> 'origin') = 'object'
        then v_end.problem -> 'origin'
    end
  );
  return v_made;
end;
$$;

revoke execute on function queue.decide from public;

-- Place jobs that continue, first: one in_order keeps its slot; open gates, free keys, signal.
create or replace function queue.end_places(p_ids uuid[], p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_gate record;
  v_ended constant uuid[] := array(
    select j.id
    from public.jobs as j
    where j.id = any (p_ids) and j.finished_at is not null
  );
begin
  perform queue.place(j, p_now)
  from public.jobs as j
  where j.id = any (p_ids) and j.status = 'pending';
  for v_gate in
    with gone as (
      update queue.gated as g
      set ended = true
      from public.jobs as j
      where j.id = any (p_ids)
        and g.workspace_id = j.workspace_id
        and g.job_type = j.job_type
        and g.key = coalesce(j.concurrency_key, '')
        and g.job_id = j.id
        and g.admitted
        and (
          j.status <> 'pending'
          or not exists (
            select from queue.job_types as t
            where t.job_type = j.job_type and t.in_order
          )
        )
      returning g.lane, g.workspace_id, g.job_type, g.key
    )
    select g.workspace_id, g.job_type, g.key, min(g.lane) as lane
    from gone as g
    group by 1, 2, 3
  loop
    perform queue.open_gate(
      v_gate.lane,
      v_gate.workspace_id,
      v_gate.job_type,
      v_gate.key,
      p_now
    );
  end loop;
  if v_ended = '{}' then
    return;
  end if;
  delete from queue.job_keys as u
  using public.jobs as j
  where j.id = any (v_ended)
    and j.unique_key is not null
    and u.workspace_id = j.workspace_id
    and u.job_type = j.job_type
    and u.key = j.unique_key
    and u.is_unique
    and u.job_id = j.id;
  delete from queue.deferred as d
  using public.jobs as j
  where j.id = any (v_ended)
    and num_nonnulls(j.deadline_at, j.start_by_at) > 0
    and d.run_at in (j.deadline_at, j.start_by_at)
    and d.job_id = j.id;
  insert into queue.dead (workspace_id, job_id)
  select j.workspace_id, j.id
  from public.jobs as j
  where j.id = any (v_ended) and j.status = 'failed'
  on conflict do nothing;
  -- check a parent that may wait; cancel live children of a job that did not complete
  insert into queue.signals (kind, workspace_id, job_id)
  select distinct 'check', j.workspace_id, j.parent_id
  from public.jobs as j
  where j.id = any (v_ended) and j.parent_id is not null
  union all
  select 'cancel', j.workspace_id, j.id
  from public.jobs as j
  where j.id = any (v_ended)
    and j.status in ('failed', 'cancelled')
    and exists (
      -- by one look-up each, whatever the planner estimates
      select from public.jobs as c
      where c.parent_id = j.id and c.finished_at is null
      offset 0
    );
end;
$$;

revoke execute on function queue.end_places from public;

drop function queue.end_attempts(p_items queue.worker_item[], p_transitions queue.transition[], p_now timestamp with time zone, OUT changes queue.change[], OUT rest uuid[], OUT own uuid[], OUT results json);

-- End attempts as decided, in one statement, since another would cost every job. own: jobs whose
-- event must be stored; rest: those, and jobs that continue or have keys, parents or deadlines.
-- results: null unless all were plain completions, as without p_transitions, and no fence stale.
-- has_blocked: turns are at a limit.
create or replace function queue.end_attempts(
  p_items queue.worker_item[],
  p_transitions queue.transition[],
  p_now timestamptz,
  out changes queue.change[],
  out rest uuid[],
  out own uuid[],
  out results json,
  out has_blocked boolean
)
language plpgsql
set lock_timeout = '100ms'
set search_path = ''
as $$
begin
  -- waits for a report that renews the lease, and deletes the row that this leaves
  with held as (
    delete from queue.leases as l
    using unnest(p_items, p_transitions) as i
    where l.job_id = any (array[i.job_id]) and l.fence = i.fence
    returning
      i.job_id,
      l.leased_at,
      l.key,
      i.outcome,
      i.result,
      i.duration_ms,
      i.cost_usd,
      i.attempts,
      i.run_at,
      i.message,
      i.problem,
      i.data,
      coalesce(i.status, 'completed') as status,
      case when i.status is null then 'job.completed' else i.event end as event
  ),
  moved as materialized (
    update public.jobs as j
    set
      status = g.status,
      updated_at = p_now,
      next_retry_at = g.run_at,
      finished_at = case
        when g.status in ('completed', 'failed', 'cancelled') then p_now
      end,
      completed_at = case g.status when 'completed' then p_now end,
      result = case g.status when 'completed' then g.result end,
      progress = case g.status
        when 'completed' then jsonb_set(j.progress, '{percentage}', '100')
        else j.progress
      end,
      error_message = case
        when g.status <> 'completed' then coalesce(g.message, j.error_message)
      end,
      error_data = case
        when g.message is not null then g.problem
        when g.status <> 'completed' then j.error_data
      end,
      attempts = coalesce(g.attempts, j.attempts),
      lost_attempts = j.lost_attempts
        + (g.outcome is not distinct from 'lost')::integer,
      run_ms = coalesce(j.run_ms, 0)
        + coalesce(g.duration_ms, date_part('epoch', p_now - g.leased_at) * 1000),
      cost_usd = coalesce(j.cost_usd + g.cost_usd, g.cost_usd, j.cost_usd),
      last_seq = j.last_seq + (g.event is not null)::integer
    from held as g
    where j.id = any (array[g.job_id])
    returning
      j.id,
      j.workspace_id,
      j.session_id,
      j.status,
      j.attempts,
      j.last_seq,
      j.fence,
      g.event,
      g.data,
      j.fence = 1
        and j.status = 'completed'
        and j.last_seq = case when j.is_minimal then 1 else 3 end as is_derived,
      num_nonnulls(
        g.key,
        j.concurrency_key,
        j.parent_id,
        j.unique_key,
        j.deadline_at,
        j.start_by_at
      ) > 0 as is_tied
  ),
  kinds as (
    select
      m.workspace_id,
      m.session_id,
      m.event,
      m.status,
      m.attempts,
      m.data,
      array_agg(m.id) as ids,
      array_agg(m.last_seq) as seqs
    from moved as m
    where m.event is not null
    group by 1, 2, 3, 4, 5, 6
  )
  select
    (
      select array_agg(
        row(
          k.workspace_id,
          k.session_id,
          k.event,
          jsonb_build_object('status', k.status, 'attempts', k.attempts)
            || coalesce(k.data, '{}'),
          k.ids,
          k.seqs
        )::queue.change
      )
      from kinds as k
    ),
    array_agg(m.id) filter (where m.is_tied or not m.is_derived),
    array_agg(m.id) filter (where not m.is_derived),
    case
      when count(*) filter (where m.data is null) = cardinality(p_items)
        then json_agg(json_build_object(
          'job_id', m.id,
          'fence', m.fence,
          'outcome', 'applied',
          'status', 'completed'
        ))
    end,
    exists (select from queue.turns as t where t.blocked and t.look_at < 'infinity')
  into changes, rest, own, results, has_blocked
  from moved as m;
end;
$$;

revoke execute on function queue.end_attempts from public;

drop function queue.settle(p_items queue.worker_item[], OUT results json, OUT changes queue.change[]);

-- Apply the outcomes that workers report; each item is applied, cancelled, stale, not_found or busy
-- (another transaction holds its row). Only a completion wins over a cancel that was requested.
-- p_is_plain: as queue.read_items says.
create or replace function queue.settle(
  p_items queue.worker_item[],
  p_is_plain boolean,
  out results json,
  out changes queue.change[]
)
language plpgsql
set search_path = ''
as $$
declare
  v_now timestamptz := queue.clock();
  v_items queue.worker_item[];
  v_busy uuid[] := '{}';
  v_ended record;
begin
  if p_is_plain then
    begin
      v_ended := queue.end_attempts(p_items, null, v_now);
    exception when lock_not_available then
      p_is_plain := false;
    end;
  end if;
  if not p_is_plain then -- jobs that other transactions hold are left out
    v_busy := queue.lock_held(array(select i.job_id from unnest(p_items) as i));
    v_now := queue.clock();
    v_items := array( -- each attempt once
      select distinct on (i.job_id, i.fence) i
      from unnest(p_items) as i
      where i.job_id <> all (v_busy)
    );
    perform queue.write_reports(v_items, v_now);
    v_ended := queue.end_attempts(
      v_items,
      array(select queue.decide(i, v_now) from unnest(v_items) as i),
      v_now
    );
  end if;
  changes := v_ended.changes;
  results := v_ended.results;
  -- read what is stored, so a repeat gets the same answer
  if results is null or v_busy <> '{}' then
    select json_agg(json_strip_nulls(json_build_object(
      'job_id', i.job_id,
      'fence', i.fence,
      'status', case when coalesce(a.fence, j.fence) = i.fence then j.status end,
      'outcome', case
        when j.id is null then 'not_found'
        when i.job_id = any (v_busy) then 'busy'
        when a.outcome = 'cancelled' then 'cancelled'
        when coalesce(a.outcome, case when j.fence = i.fence then j.status end)
            in (i.outcome, 'failed')
          then 'applied'
        else 'stale'
      end
    )))
    into results
    from unnest(p_items) as i
    left join public.jobs as j on j.id = i.job_id and i.fence between 1 and j.fence
    left join queue.attempts as a on a.job_id = i.job_id and a.fence = i.fence;
  end if;
  if v_ended.rest is not null then
    insert into queue.job_events (job_id, seq, workspace_id, type, data, created_at)
    select e.id, e.seq, c.workspace_id, c.type, c.data, v_now
    from unnest(changes) as c
    cross join lateral unnest(c.job_ids, c.seqs) as e (id, seq)
    where e.id = any (v_ended.own);
    perform queue.end_places(v_ended.rest, v_now);
  end if;
  -- their tenants' turns at a limit are looked at again
  if v_ended.has_blocked then
    update queue.turns
    set look_at = '-infinity'
    where ctid = any (array(
      select t.ctid
      from queue.turns as t
      where t.blocked
        and t.look_at < 'infinity'
        and t.workspace_id = any (array(
          select j.workspace_id
          from unnest(p_items) as i
          join public.jobs as j on j.id = i.job_id
        ))
      for update skip locked
    ));
  end if;
end;
$$;

revoke execute on function queue.settle from public;

create or replace function public.settle_jobs(p_request jsonb)
returns json
language plpgsql
security definer
set search_path = ''
set lock_timeout = '8s'
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
  v_is_revoked constant boolean := queue.refuse_revoked();
  v_read constant record := queue.read_items(p_request -> 'items');
  v_settled record;
  v_results json := '[]';
  v_changes queue.change[];
begin
  if v_read.items <> '{}' then
    v_settled := queue.settle(v_read.items, v_read.is_plain);
    v_results := v_settled.results;
    v_changes := v_settled.changes;
  end if;
  if jsonb_typeof(p_request -> 'lease') = 'object' then
    return json_build_object(
      'results', v_results,
      'lease', queue.lease(p_request -> 'lease', v_changes)
    );
  end if;
  perform queue.publish(v_changes, queue.clock());
  return json_build_object('results', v_results);
end;
$$;

comment on function public.settle_jobs is
  E'Settle attempts, and lease the next jobs in the same call: {results, lease?}.\n\nItems: '
  '{job_id, fence, outcome: completed|retry|failed|snoozed|released|waiting|cancelled, result?, '
  'error?, retry_after_seconds?, until?, delay_seconds?, wait?, progress?, logs?, steps?, '
  'output?, duration_ms?}. A repeat is answered as the first; a stale fence changes nothing, and '
  'what is busy is to be settled again.';

select queue.allow('job_worker, service_role', 'public.settle_jobs');

-- End locked jobs that no worker holds, as cancelled or failed.
create or replace function queue.finish(
  p_ids uuid[],
  p_status text,
  p_error jsonb,
  p_now timestamptz
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_ids uuid[];
begin
  perform queue.take_place(p_ids);
  delete from queue.waits where job_id = any (p_ids);
  with ended as (
    update public.jobs
    set
      status = p_status,
      updated_at = p_now,
      finished_at = p_now,
      next_retry_at = null,
      last_seq = last_seq + 1,
      error_message = coalesce(p_error ->> 'message', error_message),
      error_data = coalesce(p_error - 'message', error_data)
    where id = any (p_ids) and status in ('pending', 'waiting')
    returning id
  )
  select array_agg(e.id) into v_ids
  from ended as e;
  if v_ids is not null then
    perform queue.append_event(
      v_ids,
      'job.' || p_status,
      jsonb_strip_nulls(jsonb_build_object(
        'error_message', left(p_error ->> 'message', 1000)
      )),
      p_now,
      p_is_counted => true
    );
    perform queue.end_places(v_ids, p_now);
  end if;
end;
$$;

revoke execute on function queue.finish from public;

-- Lock and return the leased job {job_id, fence}; lease_lost where the caller does not hold it.
create or replace function queue.held_job(p_request jsonb, p_job_types text[], p_undone text)
returns public.jobs
language plpgsql
set search_path = ''
as $$
declare
  v_id constant uuid := p_request ->> 'job_id';
  v_job public.jobs;
begin
  -- Called where a function declares its variables, this comes before its first statement.
  perform queue.refuse_revoked();
  select j.* into v_job
  from queue.leases as l
  join public.jobs as j on j.id = l.job_id
  where l.job_id = v_id
    and l.fence::text = p_request ->> 'fence'
    and (j.job_type = any (p_job_types)) is not false
  for no key update of l, j; -- in this order, as everywhere
  if not found then
    perform queue.refuse(
      409,
      'lease_lost',
      'the lease on the job is lost; ' || p_undone,
      v_id::text
    );
  end if;
  return v_job;
end;
$$;

revoke execute on function queue.held_job from public;

-- A worker's process has ended: its leases are over now, and the next maintenance takes them back.
create or replace function queue.end_leases_of(p_worker integer, p_now timestamptz)
returns void
language sql
set search_path = ''
as $$
update queue.leases as l
set expires_at = p_now
where l.ctid = any (array(
  select o.ctid
  from queue.leases as o
  where o.worker = p_worker and o.expires_at > p_now
  for no key update skip locked -- one that someone holds is over by itself
))
$$;

revoke execute on function queue.end_leases_of from public;

create or replace function public.tick_finished(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_tick constant uuid := p_request ->> 'tick_id';
  v_worker integer;
  v_refused boolean;
begin
  perform queue.refuse_revoked();
  update queue.ticks
  set expires_at = null
  where tick_id = v_tick and expires_at is not null
  returning has_refused into v_refused;
  if coalesce(p_request ->> 'summary', p_request ->> 'evidence') is not null then
    update queue.workers
    set
      ended_at = queue.clock(),
      seen_at = queue.clock(),
      summary = coalesce(p_request -> 'summary', summary),
      evidence = p_request -> 'evidence'
    where worker = coalesce(
      (
        select t.worker
        from queue.ticks as t
        where t.tick_id = v_tick
      ),
      (
        select w.worker
        from queue.workers as w
        where w.worker_id = p_request ->> 'worker_id'
      )
    )
    returning worker into v_worker;
  end if;
  if p_request ->> 'evidence' is not null then
    perform queue.end_leases_of(v_worker, queue.clock());
  end if;
  return jsonb_build_object('ended', true, 'refused', coalesce(v_refused, false));
end;
$$;

comment on function public.tick_finished is
  E'Note that a worker''s run has ended: {tick_id, summary?}, as a lease may do: {ended, refused}.'
  '\n\nOr that its process has, without a word: {worker_id, evidence}, which the jobs that it held '
  'keep; their leases are over at once.';

select queue.allow('job_worker, service_role', 'public.tick_finished');

-- Report: progress, log lines and steps of running jobs, and the renewal of their leases. Each item
-- shows its fencing token; of one whose lease is lost nothing is stored.

-- Lock leases, then records. Where another transaction holds some for more than a moment, lock the
-- others, so that no worker waits for a user's transaction. Gives the jobs that are held elsewhere.
create or replace function queue.lock_held(p_ids uuid[])
returns uuid[]
language plpgsql
set lock_timeout = '100ms'
set search_path = ''
as $$
declare
  v_locked uuid[];
begin
  perform from queue.leases
  where job_id = any (p_ids)
  order by job_id
  for no key update;
  perform from public.jobs
  where id = any (p_ids)
  order by id
  for no key update;
  return '{}';
exception when lock_not_available then
  v_locked := array(
    select l.job_id
    from queue.leases as l
    where l.job_id = any (p_ids)
    order by l.job_id
    for no key update skip locked
  );
  v_locked := array(
    select j.id
    from public.jobs as j
    where j.id = any (v_locked)
    order by j.id
    for no key update skip locked
  );
  return array(
    select l.job_id
    from queue.leases as l
    where l.job_id = any (p_ids) and l.job_id <> all (v_locked)
  );
end;
$$;

revoke execute on function queue.lock_held from public;

-- Store finished steps, whose first result is kept, the step that runs, progress, and tags: at most
-- 20, the known ones first. last_seq counts the events of progress and log lines. Workers report
-- how long steps ran and not when they began, since their clocks may differ.
create or replace function queue.store_state(p_items queue.worker_item[], p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
begin
  insert into queue.steps (job_id, name, value, started_at, created_at)
  select
    i.job_id,
    left(s.value ->> 'name', 200),
    coalesce(s.value -> 'result', 'null'),
    p_now - (s.value ->> 'duration_ms')::double precision * interval '1 ms',
    p_now + s.n * interval '1 us' -- in order
  from unnest(p_items) as i
  cross join lateral jsonb_array_elements(i.steps) with ordinality as s (value, n)
  where s.value ->> 'name' <> ''
  on conflict (job_id, name, nth) do nothing;
  update queue.leases as l
  set
    log_lines = l.log_lines + jsonb_array_length(i.logs),
    step = left(i.step ->> 'name', 200),
    step_started_at = p_now
      - (i.step ->> 'for_ms')::double precision * interval '1 ms'
  from unnest(p_items) as i
  where l.job_id = i.job_id
    and (i.logs <> '[]' or num_nonnulls(i.steps, i.step) > 0);
  update public.jobs as j
  set
    updated_at = p_now,
    last_seq = j.last_seq
      + (i.progress is not null)::integer
      + case
        when j.is_minimal is null then jsonb_array_length(i.logs)
        else 0
      end,
    progress = case
      when i.progress is null then j.progress
      else jsonb_build_object(
        'percentage', least(
          100,
          greatest(
            0,
            round(
              coalesce(
                (i.progress ->> 'percentage')::numeric,
                (j.progress ->> 'percentage')::numeric,
                0
              ),
              1
            )
          )
        ),
        'stage', left(i.progress ->> 'stage', 200),
        'message', left(i.progress ->> 'message', 1000)
      )
    end,
    tags = case
      when i.tags is null then j.tags
      else (array(
        select t.tag
        from unnest(
          j.tags || array(select jsonb_array_elements_text(i.tags))
        ) with ordinality as t (tag, n)
        where char_length(t.tag) between 1 and 100 and t.tag !~ '[[:cntrl:]]'
        group by t.tag
        order by min(t.n)
      ))[1:20]
    end
  from unnest(p_items) as i
  where j.id = i.job_id
    and (i.logs <> '[]' or num_nonnulls(i.progress, i.tags) > 0);
end;
$$;

revoke execute on function queue.store_state from public;

-- Store what workers report of jobs whose leases and records the caller has locked, with an event
-- for progress and for each log line. logs begins with the attempt's line logs_from: lines that an
-- earlier report has stored are left out. Jobs of minimal events get none for lines.
create or replace function queue.write_reports(p_items queue.worker_item[], p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_item queue.worker_item;
  v_stored integer;
  v_items queue.worker_item[] := '{}';
  v_changes queue.change[];
begin
  foreach v_item in array p_items loop
    continue when num_nonnulls(
      v_item.progress,
      v_item.logs,
      v_item.steps,
      v_item.step,
      v_item.tags,
      v_item.output
    ) = 0;
    select l.log_lines into v_stored
    from queue.leases as l
    where l.job_id = v_item.job_id and l.fence = v_item.fence;
    continue when not found;
    v_item.logs := coalesce(
      jsonb_path_query_array(
        v_item.logs,
        '$[$stored to last]',
        jsonb_build_object('stored', greatest(0, v_stored - v_item.logs_from))
      ),
      '[]'
    );
    v_items := v_items || v_item;
  end loop;
  if v_items = '{}' then
    return;
  end if;
  -- before a step counts as finished: a stream that begins again drops what it wrote so far
  perform queue.write_output(v_items, p_now);
  perform queue.store_state(v_items, p_now);
  with lines as materialized (
    select
      j.id,
      j.workspace_id,
      j.session_id,
      j.attempts,
      j.is_minimal,
      j.last_seq
        - (i.progress is not null)::integer
        - jsonb_array_length(i.logs)
        + l.nth::integer as seq,
      case
        when l.value ->> 'level' in ('debug', 'warning', 'error')
          then l.value ->> 'level'
        else 'info'
      end as level,
      left(coalesce(l.value ->> 'message', ''), 10000) as message,
      coalesce(nullif(l.value -> 'metadata', 'null'), '{}') as metadata,
      coalesce((l.value ->> 'at')::timestamptz, p_now) as at
    from unnest(v_items) as i
    join public.jobs as j on j.id = any (array[i.job_id])
    cross join lateral jsonb_array_elements(i.logs) with ordinality as l (
      value,
      nth
    )
  ),
  kept as (
    insert into public.job_logs (
      job_id, workspace_id, attempt, log_level, message, metadata, created_at
    )
    select l.id, l.workspace_id, l.attempts, l.level, l.message, l.metadata, l.at
    from lines as l
    order by l.id, l.seq
  )
  select array_agg(
    row(
      l.workspace_id,
      l.session_id,
      'job.log',
      jsonb_build_object(
        'log', jsonb_build_object(
          'level', l.level,
          'message', left(l.message, 2000),
          'at', l.at,
          'attempt', l.attempts,
          'metadata', case
            when pg_column_size(l.metadata) <= 2048 then l.metadata
            else '{}'
          end
        )
      ),
      array[l.id],
      array[l.seq]
    )::queue.change
  )
  into v_changes
  from lines as l
  where l.is_minimal is null;
  v_changes := v_changes || array(
    select row(
      j.workspace_id,
      j.session_id,
      'job.progress',
      jsonb_build_object('progress', j.progress, 'attempts', j.attempts),
      array[j.id],
      array[j.last_seq]
    )::queue.change
    from unnest(v_items) as i
    join public.jobs as j on j.id = any (array[i.job_id])
    where i.progress is not null
  );
  insert into queue.job_events (job_id, seq, workspace_id, type, data, created_at)
  select c.job_ids[1], c.seqs[1], c.workspace_id, c.type, c.data, p_now
  from unnest(v_changes) as c;
  v_changes := array(
    select c
    from unnest(v_changes) as c
    order by c.job_ids[1], c.seqs[1]
  );
  perform queue.publish(v_changes, p_now) where v_changes <> '{}';
exception when data_exception or integrity_constraint_violation then
  if cardinality(p_items) > 1 then -- each alone: what one worker says stops no other job
    perform queue.write_reports(array[i], p_now) from unnest(p_items) as i;
  else
    raise warning 'a report of job % was dropped: % (%)',
      p_items[1].job_id,
      sqlerrm,
      sqlstate;
  end if;
end;
$$;

revoke execute on function queue.write_reports from public;

create or replace function public.report_jobs(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
set lock_timeout = '8s'
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set jit = off
as $$
declare
  v_items constant queue.worker_item[] := (queue.read_items(p_request -> 'items')).items;
  v_reported constant uuid[] := array(
    select i.job_id
    from unnest(v_items) as i
    where num_nonnulls(i.progress, i.logs, i.steps, i.step, i.tags, i.output) > 0
  );
  v_busy uuid[] := '{}'; -- of these, whose rows another transaction holds
  v_renewed uuid[];
begin
  perform queue.refuse_revoked();
  if v_reported <> '{}' then
    v_busy := queue.lock_held(v_reported);
    perform queue.write_reports(
      array(
        select i
        from unnest(v_items) as i
        where i.job_id <> all (v_busy)
      ),
      queue.clock()
    );
  end if;
  -- renew once a fifth is over, since workers report often; a locked one waits for the next report
  v_renewed := array(
    select l.job_id
    from unnest(v_items) as i
    join queue.leases as l on l.job_id = i.job_id
    where i.lease_seconds is not null
      or l.expires_at < queue.clock() + make_interval(secs => 0.8 * l.lease_seconds)
    order by l.job_id
    for no key update of l skip locked
  );
  update queue.leases as l
  set
    lease_seconds = s.lease_seconds,
    expires_at = queue.clock() + make_interval(secs => s.lease_seconds)
  from unnest(v_items) as i
  join queue.leases as o on o.job_id = i.job_id and o.fence = i.fence
  cross join lateral (
    select case
      when i.lease_seconds between 1 and 43200 then i.lease_seconds::integer
      else o.lease_seconds
    end as lease_seconds
  ) as s
  where l.job_id = any (v_renewed) and l.job_id = o.job_id;
  return jsonb_build_object(
    'results', (
      select coalesce(
        jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
          'job_id', i.job_id,
          'fence', i.fence,
          'lease_expires_at', l.expires_at,
          'outcome', case
            when num_nulls(l.job_id, j.id) > 0 then 'lost'
            when i.job_id = any (v_busy) then 'busy'
            when j.cancel_requested_at is not null then 'cancel'
            else 'ok'
          end,
          'output', case
            when i.job_id <> all (v_busy) then queue.output_state(i, j)
          end
        ))),
        '[]'
      )
      from unnest(v_items) as i
      left join queue.leases as l on l.job_id = i.job_id and l.fence = i.fence
      left join public.jobs as j on j.id = l.job_id
    )
  );
end;
$$;

comment on function public.report_jobs is
  E'Report on running jobs and renew their leases: {results: [{job_id, fence, '
  'outcome: ok|cancel|lost|busy, output: followed|unfollowed|refused, lease_expires_at}]}.\n\n'
  'Items: {job_id, fence, progress?, logs?, logs_from?, steps?, step?, tags?, output?, '
  'lease_seconds?}. What is busy is to be reported again.';

select queue.allow('job_worker, service_role', 'public.report_jobs');

-- A page of a job's steps in order: at most 1,000, ending once it has p_bytes bytes. lines: each
-- result; results: by step, of a step's children together; next: the last step where more follow.
create or replace function queue.step_page(
  p_job_id uuid,
  p_after jsonb,
  p_bytes bigint,
  out lines jsonb,
  out results jsonb,
  out next jsonb,
  out bytes bigint
)
language sql stable
set search_path = ''
as $$
with found as materialized (
  select
    l.*,
    row_number() over (order by l.name, l.nth) as n,
    sum(l.bytes) over (order by l.name, l.nth) - l.bytes as bytes_before
  from (
    select s.name, s.nth, s.value, octet_length(s.value::text)::bigint as bytes
    from queue.steps as s
    where s.job_id = p_job_id
      and s.nth >= 0
      and (
        p_after ->> 'nth' is null
        or (s.name, s.nth) > (p_after ->> 'name', (p_after ->> 'nth')::integer)
      )
    order by s.name, s.nth
    limit 1001
  ) as l
),
page as materialized (
  select *
  from found
  where n <= 1000 and (bytes_before < p_bytes or n = 1)
)
select
  (
    select coalesce(
      jsonb_agg(
        jsonb_build_object('name', p.name, 'nth', p.nth, 'value', p.value)
        order by p.n
      ),
      '[]'
    )
    from page as p
  ),
  (
    select coalesce(
      jsonb_object_agg(
        s.name,
        case
          when s.children is null then s.value -> 0
          else jsonb_build_object('children', s.children)
        end
      ),
      '{}'
    )
    from (
      select
        p.name,
        jsonb_agg(p.value) as value,
        jsonb_agg(p.value order by p.nth) filter (where p.nth > 0) as children
      from page as p
      group by p.name
    ) as s
  ),
  (
    select jsonb_build_object('name', p.name, 'nth', p.nth)
    from page as p
    where (select count(*) from found) > (select count(*) from page)
    order by p.n desc
    limit 1
  ),
  (select coalesce(sum(p.bytes), 0)::bigint from page as p)
$$;

revoke execute on function queue.step_page from public;

create or replace function public.read_steps(p_request jsonb)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_id constant uuid := p_request ->> 'job_id';
begin
  perform queue.refuse_revoked();
  perform from queue.leases as l
  where l.job_id = v_id and l.fence::text = p_request ->> 'fence';
  if not found then
    perform queue.refuse(
      409,
      'lease_lost',
      'the lease on the job is lost; its steps are not shown',
      v_id::text
    );
  end if;
  return (
    select to_jsonb(p) - 'results'
    from queue.step_page(v_id, p_request -> 'after', 1000000) as p
  );
end;
$$;

comment on function public.read_steps is
  E'Steps of a leased job, in pages of about 1 MB: {lines: [{name, nth, value}], next: {name, nth} '
  '| null, bytes}.\n\nRequest: {job_id, fence, after?}. Lines from nth 1 on are what the children '
  'of a step returned.';

select queue.allow('job_worker, service_role', 'public.read_steps');

create or replace function public.job_steps(p_job_id uuid, p_after jsonb default null)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_page record;
begin
  perform queue.take_call_slot(j.workspace_id)
  from queue.visible_job(p_job_id) as j;
  v_page := queue.step_page(p_job_id, p_after, 1000000);
  return jsonb_build_object(
    'next', v_page.next,
    'steps', (
      select coalesce(
        jsonb_agg(
          jsonb_build_object(
            'name', t.name,
            'kind', t.kind,
            'result', r.value,
            'created_at', t.created_at,
            'duration_ms', round(
              (date_part('epoch', t.created_at - t.started_at) * 1000)::numeric,
              1
            )
          )
          order by t.created_at, t.name
        ),
        '[]'
      )
      from jsonb_each(v_page.results) as r
      join queue.steps as t on t.job_id = p_job_id and t.name = r.key and t.nth = 0
    )
  );
end;
$$;

comment on function public.job_steps is
  'Finished steps of a job: {steps: [{name, kind, result, created_at, duration_ms}], next}. The '
  'children of one may continue on the next page.';

select queue.allow('authenticated, service_role', 'public.job_steps');

-- Begin the wait of a job that is settled as waiting; gives what is wrong with it, or null.
create or replace function queue.begin_wait(p_job public.jobs, p_wait jsonb, p_now timestamptz)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_kind constant text := p_wait ->> 'kind';
  v_until timestamptz;
begin
  v_until := coalesce(
    (p_wait ->> 'timeout_at')::timestamptz,
    (p_wait ->> 'until')::timestamptz
  );
  if v_kind = 'children'
    and exists (
      select from jsonb_array_elements_text(p_wait -> 'job_ids') as c (id)
      where not exists (
        select from public.jobs as o
        where o.id = c.id::uuid and o.parent_id = p_job.id
        offset 0
      )
    )
  then
    -- jobs that are not its children send no signal when they end: look again every ten seconds
    v_until := p_now + interval '10 seconds';
  -- a wait spends no attempt: none into the past
  elsif v_until < p_now + interval '1 second' then
    v_until := p_now + interval '1 second';
  end if;
  insert into queue.waits (
    job_id, workspace_id, kind, step, data, event_name, timeout_at, default_value,
    created_at
  )
  values (
    p_job.id,
    p_job.workspace_id,
    v_kind,
    left(coalesce(nullif(p_wait ->> 'name', ''), v_kind), 200),
    jsonb_strip_nulls(jsonb_build_object(
      'question', p_wait -> 'question',
      'options', p_wait -> 'options',
      'job_ids', p_wait -> 'job_ids'
    )),
    case v_kind when 'event' then left(p_wait ->> 'event', 255) end,
    v_until,
    p_wait -> 'default',
    p_now
  );
  -- its deadline, as in queue.place
  insert into queue.deferred (run_at, job_id, workspace_id)
  select p_job.deadline_at, p_job.id, p_job.workspace_id
  where p_job.deadline_at is not null
  on conflict do nothing;
  -- the event or ends may have come before
  insert into queue.signals (kind, workspace_id, job_id)
  select 'check', p_job.workspace_id, p_job.id
  where v_kind in ('event', 'children');
  return null;
exception when data_exception or integrity_constraint_violation then
  return jsonb_build_object(
    'type', 'InvalidWait',
    'reason', 'invalid_wait',
    'message', sqlerrm
  );
end;
$$;

revoke execute on function queue.begin_wait from public;

-- Copy the next results of children, at most 1,000 and about 8 MB, so that later attempts read the
-- same. Gives the wait's value; null while a child lives or more are to be copied.
create or replace function queue.gather(p_wait queue.waits, p_now timestamptz)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_ids constant uuid[] := array(
    select jsonb_array_elements_text(p_wait.data -> 'job_ids')
  );
  v_gathered integer;
begin
  if exists (
    select from unnest(v_ids) as a (id)
    where exists (
      select from public.jobs as j
      where j.id = a.id and j.finished_at is null
      offset 0
    )
  ) then
    update queue.waits
    set
      gathered = 0, -- a child may have been run again
      timeout_at = case
        when timeout_at <= p_now then p_now + interval '10 seconds'
        else timeout_at
      end
    where job_id = p_wait.job_id and (gathered > 0 or timeout_at <= p_now);
    return null;
  end if;
  with slice as (
    select
      a.nth,
      jsonb_build_object(
        'id', a.id,
        'status', coalesce(j.status, 'cancelled'),
        'result', j.result,
        'error_message', j.error_message
      ) as value,
      sum(coalesce(pg_column_size(j.result), 0)) over (order by a.nth)
        - coalesce(pg_column_size(j.result), 0) as bytes_before
    from unnest(v_ids) with ordinality as a (id, nth)
    left join public.jobs as j on j.id = a.id
    where a.nth > p_wait.gathered and a.nth <= p_wait.gathered + 1000
  ),
  copied as (
    insert into queue.steps as s (job_id, name, nth, kind, value, created_at)
    select p_wait.job_id, p_wait.step, c.nth, 'children', c.value, p_now
    from slice as c
    where c.bytes_before < 8000000
    -- an earlier wait of this name, ended by a cancel, may have left some
    on conflict (job_id, name, nth) do update set value = excluded.value
    returning 1
  )
  select p_wait.gathered + count(*) into v_gathered
  from copied;
  if v_gathered = cardinality(v_ids) then
    return '{"children": []}'; -- their results are steps of their own, from nth 1
  end if;
  update queue.waits
  set gathered = v_gathered
  where job_id = p_wait.job_id;
  insert into queue.signals (kind, workspace_id, job_id)
  values ('check', p_wait.workspace_id, p_wait.job_id);
  return null;
end;
$$;

revoke execute on function queue.gather from public;

-- End the waits of these locked jobs that have what they wait for, or whose time has passed.
create or replace function queue.end_waits(p_ids uuid[], p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_wait queue.waits;
  v_value jsonb;
  v_ended uuid[] := '{}';
begin
  for v_wait in
    select *
    from queue.waits as w
    where w.job_id = any (p_ids)
    order by w.job_id
  loop
    v_value := case v_wait.kind
      when 'children' then queue.gather(v_wait, p_now)
      when 'ask' then v_wait.data -> 'given'
      when 'event' then (
        select jsonb_build_object('event', e.payload)
        from queue.named_events as e
        where e.workspace_id = v_wait.workspace_id and e.name = v_wait.event_name
      )
    end;
    if v_value is null
      and v_wait.kind <> 'children'
      and v_wait.timeout_at <= p_now
    then
      v_value := case v_wait.kind
        when 'sleep' then '{"slept": true}'
        else jsonb_build_object(
          'timed_out', true,
          case v_wait.kind
            when 'ask' then 'answer'
            else 'event'
          end, v_wait.default_value
        )
      end;
    end if;
    continue when v_value is null;
    v_ended := v_ended || v_wait.job_id;
    insert into queue.steps (job_id, name, kind, value, started_at, created_at)
    values (
      v_wait.job_id, v_wait.step, v_wait.kind, v_value, v_wait.created_at, p_now
    )
    on conflict do nothing;
  end loop;
  if v_ended = '{}' then
    return 0;
  end if;
  delete from queue.waits where job_id = any (v_ended);
  update public.jobs
  set
    status = 'pending',
    updated_at = p_now,
    next_retry_at = null,
    last_seq = last_seq + 1
  where id = any (v_ended) and status = 'waiting';
  perform queue.append_event(
    v_ended,
    'job.resumed',
    '{}',
    p_now,
    p_is_counted => true
  );
  perform queue.place(j, p_now)
  from public.jobs as j
  where j.id = any (v_ended) and j.status = 'pending';
  return cardinality(v_ended);
end;
$$;

revoke execute on function queue.end_waits from public;

-- Handle a signal; null where it is to be handled again. cancel, retry: the next 500 children, from
-- the id p_signal.name on; signals are left for the rest, and for those held or refused. resumed:
-- notes for the turns that a pause has blocked, and for all gates after one of a type or queue (the
-- system workspace's); again while a lease that has read the old pauses may yet block a turn.
create or replace function queue.handle_signal(p_signal queue.signals, p_now timestamptz)
returns integer
language plpgsql
set lock_timeout = '100ms'
set search_path = ''
as $$
declare
  v_ids constant uuid[] := array(
    select c.id
    from public.jobs as c
    where c.parent_id = p_signal.job_id
      and c.id
      >= coalesce(p_signal.name, '00000000-0000-0000-0000-000000000000')::uuid
      and case p_signal.kind
        when 'retry'
          then c.status = 'cancelled' and c.error_data ->> 'reason' = 'parent_ended'
        else c.finished_at is null and c.cancel_requested_at is null
      end
      and (p_signal.kind = 'retry') = exists (
        select from public.jobs as p
        where p.id = c.parent_id
          and p.finished_at is null
          and p.cancel_requested_at is null
      )
    order by c.id
    limit 500
  );
  v_refused uuid[] := queue.refused(p_signal.kind, p_now);
  v_free uuid[] := array(
    select c
    from unnest(v_ids) as c
    where c <> all (v_refused)
  );
  v_next uuid := v_ids[500];
  v_done integer := 0;
begin
  if p_signal.kind = 'resumed' then
    v_done := case when queue.try_lock('pauses') then 1 end; -- which leases share
    perform queue.note_gates(array(select l.lane from queue.lanes as l))
    where p_signal.workspace_id = queue.system_workspace();
    insert into queue.notes (lane, workspace_id, ord)
    select t.lane, t.workspace_id, t.from_ord
    from queue.turns as t
    where t.workspace_id = p_signal.workspace_id
      and t.blocked
      and t.look_at = 'infinity';
    return v_done;
  elsif not queue.lock_jobs(v_free) then
    v_free := array(
      select c
      from unnest(v_free) as c
      where queue.lock_jobs(array[c])
    );
    v_next := (
      select c
      from unnest(v_ids) as c
      where c <> all (v_free) and c <> all (v_refused)
      order by c
      limit 1
    );
    if v_free = '{}' then
      return null;
    end if;
  end if;
  if v_free <> '{}' then
    v_done := queue.do_in_parts(p_signal.kind, v_free, p_now);
  end if;
  v_refused := queue.refused(p_signal.kind, p_now);
  insert into queue.signals (kind, workspace_id, job_id, name)
  select p_signal.kind, p_signal.workspace_id, p_signal.job_id, v_next
  where v_next is not null;
  insert into queue.signals (kind, workspace_id, job_id, name, look_at)
  select
    p_signal.kind,
    p_signal.workspace_id,
    p_signal.job_id,
    c,
    p_now + interval '5 seconds'
  from unnest(v_ids) as c
  where c = any (v_refused)
  order by c
  limit 1;
  return v_done;
exception when lock_not_available then
  return null; -- a user's transaction takes a child's key
end;
$$;

revoke execute on function queue.handle_signal from public;

-- The rows of a table that maintenance works off next, at most 500, in an order; of more half the
-- first, and half in shares of the workspaces, so that none has to wait for what another's jobs
-- have left there. p_rows: what an index by workspace has of the table; p_due: which of them are
-- due, where $1 is p_now and $2 p_passed_over. Of many workspaces those that follow a random one,
-- and those that follow the first.
create or replace function queue.in_shares(
  p_table regclass,
  p_rows text,
  p_due text,
  p_order text,
  p_now timestamptz,
  p_passed_over uuid[] default '{}'
)
returns tid[]
language plpgsql
set search_path = ''
as $$
declare
  v_lines tid[];
  v_shares tid[];
begin
  execute format(
    'select array(select o.ctid from %s as o where %s and %s order by %s limit 500)',
    p_table,
    p_rows,
    p_due,
    p_order
  )
  into v_lines
  using p_now, p_passed_over;
  if cardinality(v_lines) < 500 then
    return v_lines;
  end if;
  execute format(
    $q$
      with recursive tenants as ( -- each by one look-up
        select s.id, 0 as n
        from (
          values (gen_random_uuid()), ('00000000-0000-0000-0000-000000000000')
        ) as s (id)
        union all
        select f.id, t.n + 1
        from tenants as t
        cross join lateral (
          select o.workspace_id as id
          from %1$s as o
          where %2$s and o.workspace_id > t.id
          order by o.workspace_id
          limit 1
        ) as f
        where t.n < 125
      )
      select array_agg(f.tid)
      from (
        select d.id, count(*) over () as many
        from (select distinct t.id from tenants as t where t.n > 0) as d
      ) as t
      cross join lateral (
        select o.ctid as tid
        from %1$s as o
        where %2$s and o.workspace_id = t.id and %3$s
        order by %4$s
        limit ceil(250.0 / t.many)
      ) as f
    $q$,
    p_table,
    p_rows,
    p_due,
    p_order
  )
  into v_shares
  using p_now, p_passed_over;
  return v_lines[:250] || v_shares;
end;
$$;

revoke execute on function queue.in_shares from public;

-- The next signals to handle, locked.
create or replace function queue.next_signals(p_now timestamptz)
returns bigint[]
language plpgsql
set search_path = ''
as $$
declare
  v_lines constant tid[] := queue.in_shares(
    'queue.signals',
    'true',
    'o.look_at <= $1',
    'o.id',
    p_now
  );
begin
  return array(
    select s.id
    from queue.signals as s
    where s.ctid = any (v_lines) and s.look_at <= p_now
    order by s.id
    for update skip locked
  );
end;
$$;

revoke execute on function queue.next_signals from public;

-- Handle signals, and end waits whose time has passed. A signal stays where its job is held by
-- another transaction, or more jobs wait for its event. Ends when a pass has done nothing. A pass
-- gives families a tenth of a second, in turns of the workspaces, and then looks at waits again.
create or replace function queue.do_waits(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_signals bigint[];
  v_kept bigint[];
  v_refused uuid[];
  v_lines tid[];
  v_waiting uuid[];
  v_signal queue.signals;
  v_passed integer;
  v_moved integer; -- jobs and signals of this pass
  v_until timestamptz; -- when this pass gives families no more
  v_done integer := 0;
begin
  loop
    v_signals := queue.next_signals(p_now);
    v_refused := queue.refused('waits', p_now);
    v_lines := queue.in_shares(
      'queue.waits',
      'o.timeout_at is not null',
      'o.timeout_at <= $1 and o.job_id <> all ($2)',
      'o.timeout_at',
      p_now,
      v_refused
    );
    v_waiting := array( -- whose time has passed, or which signals name
      select w.job_id
      from queue.waits as w
      join public.jobs as j on j.id = w.job_id
      where w.job_id <> all (v_refused)
        and w.job_id = any (array(
          select o.job_id
          from queue.waits as o
          where o.ctid = any (v_lines)
          union
          select s.job_id
          from queue.signals as s
          where s.id = any (v_signals) and s.kind = 'check'
          union
          select o.job_id
          from (
            select e.*, count(*) over () as many
            from queue.signals as e
            where e.id = any (v_signals) and e.kind = 'event'
          ) as s
          cross join lateral (
            select w.job_id
            from queue.waits as w
            where w.workspace_id = s.workspace_id
              and w.event_name = s.name
              and w.job_id <> all (v_refused)
            limit ceil(500.0 / s.many)
          ) as o
        ))
      order by w.job_id
      for no key update of w, j skip locked
    );
    v_moved := case
      when v_waiting = '{}' then 0
      else queue.do_in_parts('waits', v_waiting, p_now)
    end;
    v_kept := array(
      select max(s.id)
      from queue.signals as s
      join queue.waits as w on w.job_id = s.job_id
      where s.id = any (v_signals)
        and s.kind = 'check'
        and s.job_id <> all (v_waiting)
      group by s.job_id
      union all
      select s.id
      from queue.signals as s
      where s.id = any (v_signals)
        and s.kind = 'event'
        and exists (
          select from queue.waits as w
          where w.workspace_id = s.workspace_id and w.event_name = s.name
        )
    );
    v_until := least(p_until, clock_timestamp() + interval '100 milliseconds');
    for v_signal in
      select *
      from queue.signals as s
      where s.id = any (v_signals) and s.kind in ('cancel', 'retry', 'resumed')
      order by row_number() over (partition by s.workspace_id order by s.id), s.id
    loop
      v_passed := case
        when clock_timestamp() < v_until then queue.handle_signal(v_signal, p_now)
      end;
      v_kept := case
        when v_passed is null then v_kept || v_signal.id
        else v_kept
      end;
      v_moved := v_moved + coalesce(v_passed, 0);
    end loop;
    delete from queue.signals as s
    where s.id = any (v_signals) and s.id <> all (v_kept);
    v_moved := v_moved + cardinality(v_signals) - cardinality(v_kept);
    v_done := v_done + v_moved;
    exit when v_moved = 0 or clock_timestamp() >= p_until;
  end loop;
  -- held by other transactions: queue.maintenance_is_due then passes over them
  if v_moved = 0 then
    update queue.signals
    set failures = failures + 1
    where id = any (v_kept);
  end if;
  return v_done;
end;
$$;

revoke execute on function queue.do_waits from public;

create or replace function public.answer_job(p_job_id uuid, p_answer jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_wait queue.waits;
begin
  perform queue.visible_job(p_job_id);
  if jsonb_typeof(p_answer) is distinct from 'object'
    or not p_answer ? 'answer'
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      'p_answer must be {"answer": …}',
      'answer'
    );
  end if;
  perform queue.check_json(p_answer, 'answer');
  perform queue.hold_jobs(array[p_job_id]);
  select * into v_wait
  from queue.waits
  where job_id = p_job_id and kind = 'ask';
  if not found then
    perform queue.refuse(
      409,
      'invalid_state',
      'the job is not asking anything',
      (
        select j.status
        from public.jobs as j
        where j.id = p_job_id
      )
    );
  elsif p_answer ? 'name' and p_answer ->> 'name' <> v_wait.step then
    perform queue.refuse(
      409,
      'invalid_state',
      'the job is asking something else now',
      v_wait.step
    );
  elsif jsonb_typeof(v_wait.data -> 'options') = 'array'
    and not (v_wait.data -> 'options') @> jsonb_build_array(p_answer -> 'answer')
  then
    perform queue.refuse(
      422,
      'payload_invalid',
      'the answer must be one of ' || (v_wait.data ->> 'options'),
      'answer'
    );
  end if;
  update queue.waits
  set data = data || jsonb_build_object(
    'given', jsonb_build_object(
      'answer', p_answer -> 'answer',
      'by', queue.caller()
    )
  )
  where job_id = p_job_id;
  perform queue.end_waits(array[p_job_id], v_now);
  perform queue.admit(
    'changes',
    v_wait.workspace_id,
    queue.caller(),
    p_bytes => octet_length(p_answer::text)
  );
  perform queue.wake_worker(v_now);
  return (
    select queue.job_json(j)
    from public.jobs as j
    where j.id = p_job_id
  );
end;
$$;

comment on function public.answer_job is
  'Answer the question that a waiting job asks, with {"answer": …, "name"?}; returns the job.';

select queue.allow('authenticated, service_role', 'public.answer_job');

create or replace function public.emit_event(
  p_workspace_id uuid,
  p_name text,
  p_payload jsonb default '{}'
)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_is_first boolean;
begin
  perform queue.may_read(p_workspace_id);
  if p_name is null or char_length(p_name) not between 1 and 255 then
    perform queue.refuse(
      400,
      'invalid_argument',
      'name must have 1 to 255 characters',
      'name'
    );
  end if;
  perform queue.check_json(p_payload, 'payload');
  insert into queue.named_events (workspace_id, name, payload, emitted_at, created_by)
  values (p_workspace_id, p_name, coalesce(p_payload, '{}'), v_now, queue.caller())
  on conflict do nothing;
  v_is_first := found;
  if v_is_first then
    insert into queue.signals (kind, workspace_id, name)
    values ('event', p_workspace_id, p_name);
    perform pg_notify('minutehand_wakeup', ''), queue.wake_worker(v_now);
  end if;
  perform queue.admit(
    'changes',
    p_workspace_id,
    queue.caller(),
    p_bytes => octet_length(p_payload::text)
  );
  return jsonb_build_object('first', v_is_first);
end;
$$;

comment on function public.emit_event is
  E'Emit a named event that jobs may wait for: {first}.\n\nThe first of a name wins, before or '
  'after the wait.';

select queue.allow('authenticated, service_role', 'public.emit_event');

-- A spawn is a row of queue.steps with nth -1, which queue.step_page leaves out.
create or replace function public.spawn_jobs(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_name constant text := p_request ->> 'name';
  v_children constant jsonb := p_request -> 'children';
  v_job public.jobs;
  v_made jsonb;
begin
  perform queue.refuse_revoked();
  if jsonb_typeof(v_children) is distinct from 'array'
    or jsonb_array_length(v_children) > 1000
    or v_name is null
    or char_length(v_name) not between 1 and 200
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      'name and children (an array of at most 1000) are required',
      'children'
    );
  end if;
  v_job := queue.held_job(p_request, null, 'its children were not created');
  select s.value into v_made
  from queue.steps as s
  where s.job_id = v_job.id and s.name = v_name and s.nth = -1;
  if not found then -- without a user: the service spawns
    v_made := jsonb_build_object(
      'job_ids', case v_children
        when '[]' then '{}'
        else (queue.enqueue(
          v_job.workspace_id,
          null,
          (
            select jsonb_agg(
              jsonb_build_object(
                'session_id', v_job.session_id,
                'traceparent', v_job.traceparent
              )
              || c.value
              || jsonb_build_object('parent_id', v_job.id, 'user_id', v_job.user_id)
              order by c.ordinality
            )
            from jsonb_array_elements(v_children) with ordinality as c
          ),
          true
        )).ids
      end
    );
    insert into queue.steps (job_id, name, nth, kind, value, created_at)
    values (v_job.id, v_name, -1, 'spawn', v_made, queue.clock());
  end if;
  return v_made;
end;
$$;

comment on function public.spawn_jobs is
  'Create child jobs of a running job, once per name: {job_ids} in the order of children.';

select queue.allow('job_worker, service_role', 'public.spawn_jobs');

-- Cancel jobs: running ones are asked to stop, the others end now. Their first hundred live
-- descendants too, unless the caller has locked the jobs; signals have maintenance cancel the rest,
-- a slice at a time. Returns how many of the family it has found, up to 5,000: so many changes a
-- person is charged for, by a call that takes a slot, whatever function they have called.
create or replace function queue.cancel(
  p_ids uuid[],
  p_now timestamptz,
  p_is_locked boolean default false,
  p_reason text default 'cancelled'
)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_children uuid[];
  v_asked uuid[];
  v_found integer;
begin
  if not p_is_locked then
    perform queue.take_call_slot(j.workspace_id)
    from public.jobs as j
    where j.id = p_ids[1];
    v_children := array(
      with recursive tree as (
        select j.id, 0 as depth
        from public.jobs as j
        where j.id = any (p_ids)
        union
        select c.id, t.depth + 1
        from tree as t
        cross join lateral (
          select j.id
          from public.jobs as j
          where j.parent_id = t.id and j.finished_at is null
          offset 0
        ) as c
      )
      select t.id
      from tree as t
      where t.depth > 0 and t.id <> all (p_ids)
      limit 5000
    );
    perform queue.hold_jobs(p_ids || v_children[:100]);
    perform queue.cancel(
      v_children[:100],
      p_now,
      p_is_locked => true,
      p_reason => 'parent_ended'
    );
  end if;
  with asked as (
    update public.jobs
    set cancel_requested_at = p_now
    where id = any (p_ids) and status = 'processing' and cancel_requested_at is null
    returning id
  )
  select array_agg(a.id) into v_asked
  from asked as a;
  perform queue.append_event(v_asked, 'job.cancel_requested', '{}', p_now)
  where v_asked is not null;
  perform queue.finish(
    array(
      select j.id
      from public.jobs as j
      where j.id = any (p_ids) and j.status in ('pending', 'waiting')
      order by j.id
    ),
    'cancelled',
    jsonb_build_object('type', 'Cancelled', 'reason', p_reason),
    p_now
  );
  insert into queue.signals (kind, workspace_id, job_id)
  select 'cancel', j.workspace_id, j.id
  from public.jobs as j
  where j.id = any (v_asked)
    and exists (
      select from public.jobs as c
      where c.parent_id = j.id
        and c.finished_at is null
        and c.cancel_requested_at is null
      offset 0
    );
  v_found := cardinality(p_ids) + coalesce(cardinality(v_children), 0);
  perform queue.admit('changes', null, queue.caller(), v_found) where not p_is_locked;
  return v_found;
end;
$$;

revoke execute on function queue.cancel from public;

create or replace function public.cancel_job(p_job_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_job public.jobs := queue.visible_job(p_job_id);
begin
  perform queue.cancel(array[p_job_id], queue.clock());
  select * into v_job
  from public.jobs
  where id = p_job_id;
  if v_job.status in ('completed', 'failed') then
    perform queue.refuse(
      409,
      'invalid_state',
      format('the job is already %s', v_job.status),
      v_job.status
    );
  end if;
  return queue.job_json(v_job);
end;
$$;

comment on function public.cancel_job is
  E'Cancel a job and its live children; returns it.\n\nOne that runs is asked to stop, and ends '
  'within five seconds. Beyond a hundred, children follow within seconds. 409 when it has '
  'completed or failed, 429 job_busy while another transaction changes it.';

select queue.allow('authenticated, service_role', 'public.cancel_job');

-- A plain update may cancel a job and change nothing else. The row is locked already: this cancels
-- the job and skips the update. A truncate is refused, since it fires no trigger of a row.
create or replace function queue.cancel_by_update()
returns trigger
language plpgsql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
begin
  if tg_op = 'TRUNCATE' then
    perform queue.refuse(
      409,
      'invalid_state',
      'delete from public.jobs; a truncate would leave what belongs to them'
    );
  elsif new.status <> 'cancelled'
    or old.status in ('completed', 'failed', 'cancelled')
  then
    perform queue.refuse(
      409,
      'invalid_state',
      case
        when new.status = old.status
          then 'the times, keys and place of a job are changed by no update; '
            'retry_job runs it now, enqueue_job with a unique key replaces it'
        else format(
          'a %s job cannot become %s by update; cancel_job, retry_job and settle_jobs '
            'change the status',
          old.status,
          left(new.status, 40)
        )
      end,
      old.status
    );
  elsif not (
    queue.is_service() or queue.is_manager(old.workspace_id) or queue.is_operator()
  ) then
    -- as in queue.change_jobs
    if current_setting('minutehand.has_cancelled', true) = 'yes' then
      perform queue.refuse(
        403,
        'forbidden',
        'only managers of the workspace may cancel many jobs at once',
        old.workspace_id::text
      );
    end if;
    perform set_config('minutehand.has_cancelled', 'yes', true);
  else
    perform queue.take_call_slot(old.workspace_id); -- it may change many
  end if;
  perform queue.cancel(array[old.id], queue.clock(), p_is_locked => true);
  perform queue.admit('changes', old.workspace_id, queue.caller());
  return null;
end;
$$;

revoke execute on function queue.cancel_by_update from public;

drop trigger jobs_cancel_by_update on public.jobs;

-- Updates of the engine do not fire it: whenever they change one of these columns they also raise
-- fence, last_seq, generation or lost_attempts. The list is short since each update reads it.
create trigger jobs_cancel_by_update
  before update of status, priority, ord, queue, job_type, workspace_id,
    next_retry_at, scheduled_for, deadline_at, start_by_at, concurrency_key on public.jobs
  for each row
  when (
    new.fence = old.fence
    and new.last_seq = old.last_seq
    and new.generation = old.generation
    and new.lost_attempts = old.lost_attempts
    and new.lane = old.lane -- which queue.adopt changes
    and (
      new.status is distinct from old.status
      or new.priority is distinct from old.priority
      or new.ord is distinct from old.ord
      or new.queue is distinct from old.queue
      or new.job_type is distinct from old.job_type
      or new.workspace_id is distinct from old.workspace_id
      or new.next_retry_at is distinct from old.next_retry_at
      or new.scheduled_for is distinct from old.scheduled_for
      or new.deadline_at is distinct from old.deadline_at
      or new.start_by_at is distinct from old.start_by_at
      or new.concurrency_key is distinct from old.concurrency_key
    )
  )
  execute function queue.cancel_by_update();

-- Run ended jobs again that the caller has locked, unless another has their unique key. A signal
-- has maintenance retry the children that were cancelled with them. Returns how many.
create or replace function queue.retry(p_ids uuid[], p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_ids uuid[];
begin
  insert into queue.job_keys (workspace_id, job_type, key, is_unique, job_id, freed_when)
  select distinct on (j.workspace_id, j.job_type, j.unique_key)
    j.workspace_id,
    j.job_type,
    j.unique_key,
    true,
    j.id,
    'finished'
  from public.jobs as j
  where j.id = any (p_ids)
    and j.status in ('failed', 'cancelled')
    and j.unique_key is not null
  order by j.workspace_id, j.job_type, j.unique_key, j.id
  on conflict do nothing;
  with retried as (
    update public.jobs as j
    set
      status = 'pending',
      updated_at = p_now,
      finished_at = null,
      completed_at = null,
      result = null,
      attempts = 0,
      lost_attempts = 0,
      generation = j.generation + 1,
      next_retry_at = null,
      scheduled_for = null,
      deadline_at = null,
      start_by_seconds = null,
      start_by_at = null,
      cancel_requested_at = null,
      ord = queue.ord_of(j.priority, j.created_at)
    where j.id = any (p_ids)
      and j.status in ('failed', 'cancelled')
      and (
        j.unique_key is null
        or exists (
          select from queue.job_keys as u
          where u.workspace_id = j.workspace_id
            and u.job_type = j.job_type
            and u.key = j.unique_key
            and u.is_unique
            and u.job_id = j.id
        )
      )
    returning j.id, j.workspace_id
  ),
  alive as (
    delete from queue.dead as d
    using retried as r
    where d.workspace_id = r.workspace_id and d.job_id = r.id
  )
  select array_agg(r.id order by r.id) into v_ids
  from retried as r;
  if v_ids is null then
    return 0;
  end if;
  perform queue.append_event(v_ids, 'job.redriven', '{}', p_now);
  perform queue.place(j, p_now)
  from public.jobs as j
  where j.id = any (v_ids)
  order by j.id;
  insert into queue.signals (kind, workspace_id, job_id)
  select 'retry', j.workspace_id, j.id
  from public.jobs as j
  where j.id = any (v_ids)
    and exists (
      select from public.jobs as c
      where c.parent_id = j.id
        and c.status = 'cancelled'
        and c.error_data ->> 'reason' = 'parent_ended'
      offset 0
    );
  return cardinality(v_ids);
end;
$$;

revoke execute on function queue.retry from public;

create or replace function public.retry_job(p_job_id uuid, p_payload jsonb default null)
returns jsonb
language plpgsql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_job public.jobs := queue.visible_job(p_job_id);
  v_family integer; -- it, and up to 5,000 children that maintenance retries with it
begin
  perform queue.take_call_slot(v_job.workspace_id); -- its children are retried, too
  perform queue.hold_jobs(array[p_job_id]);
  select * into v_job
  from public.jobs
  where id = p_job_id;
  v_family := 1 + (
    select count(*)
    from (
      select from public.jobs as c
      where c.parent_id = p_job_id
        and c.status = 'cancelled'
        and c.error_data ->> 'reason' = 'parent_ended'
      limit 5000
    ) as c
  );
  if v_job.status in ('failed', 'cancelled') then
    if queue.retry(array[p_job_id], v_now) = 0 then
      perform queue.refuse(
        409,
        'duplicate_job',
        'another job now holds this one''s unique key',
        (
          select u.job_id::text
          from queue.job_keys as u
          where u.workspace_id = v_job.workspace_id
            and u.job_type = v_job.job_type
            and u.key = v_job.unique_key
            and u.is_unique
        )
      );
    end if;
  elsif v_job.status = 'pending'
    and coalesce(v_job.next_retry_at, v_job.scheduled_for) > v_now
  then
    perform queue.take_place(array[p_job_id]);
    update public.jobs
    set
      next_retry_at = null,
      scheduled_for = null,
      start_by_seconds = null,
      start_by_at = null,
      last_seq = last_seq + 1
    where id = p_job_id;
    perform queue.append_event(
      array[p_job_id],
      'job.redriven',
      '{}',
      v_now,
      p_is_counted => true
    );
    perform queue.place(j, v_now)
    from public.jobs as j
    where j.id = p_job_id;
  else
    perform queue.refuse(
      409,
      'invalid_state',
      format('a %s job cannot be retried', v_job.status),
      v_job.status
    );
  end if;
  if p_payload <> 'null' then -- checked as at an enqueue
    v_job := queue.new_job(
      v_job.workspace_id,
      queue.caller(),
      queue.type_or_refuse(v_job.job_type),
      p_payload,
      '{}',
      v_now
    );
    update public.jobs
    set payload = p_payload, schema_version = v_job.schema_version
    where id = p_job_id;
    perform queue.append_event(array[p_job_id], 'job.edited', '{}', v_now);
    perform queue.check_live_bytes(v_job.workspace_id)
    where queue.caller() is not null;
  end if;
  perform queue.admit(
    'changes',
    v_job.workspace_id,
    queue.caller(),
    v_family,
    octet_length(p_payload::text)
  );
  perform queue.wake_worker(v_now);
  return (
    select queue.job_json(j)
    from public.jobs as j
    where j.id = p_job_id
  );
end;
$$;

comment on function public.retry_job is
  E'Run a failed or cancelled job again, or a delayed one now, with another payload if one is '
  'given; returns it.\n\nFinished steps are kept. 409 in any other state, 429 job_busy while '
  'another transaction changes it.';

select queue.allow('authenticated, service_role', 'public.retry_job');

-- Cancel or retry up to p_limit jobs that match a filter of list_jobs, the newest first; the search
-- ends after two seconds. Without a state, live jobs are cancelled and failed ones retried.
create or replace function queue.change_jobs(
  p_workspace_id uuid,
  p_filter jsonb,
  p_limit integer,
  p_cursor uuid,
  p_is_retry boolean
)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_until constant timestamptz := clock_timestamp() + interval '2 seconds';
  v_states constant jsonb := coalesce(p_filter -> 'state', p_filter -> 'status');
  v_allowed constant jsonb := case
    when p_is_retry then '["failed", "cancelled"]'
    else '["pending", "processing", "waiting", "queued", "scheduled", "retrying", "running",
      "suspended"]'
  end;
  v_filter jsonb := jsonb_strip_nulls(p_filter);
  v_found record;
  v_ids uuid[] := '{}';
  v_count integer;
begin
  perform queue.may_manage(p_workspace_id);
  if p_filter ? 'workspace_id' then
    perform queue.refuse(
      400,
      'invalid_argument',
      'the filter must name no workspace',
      'filter'
    );
  elsif v_filter = '{}' and not p_is_retry then
    perform queue.refuse(
      422,
      'validation_failed',
      'filter: name at least one criterion',
      'filter'
    );
  elsif not v_allowed @> v_states then
    perform queue.refuse(
      400,
      'invalid_argument',
      'this does not apply to jobs that are ' || v_states::text,
      'state'
    );
  elsif p_limit between 1 and 1000 is not true then
    perform queue.refuse(
      400,
      'invalid_argument',
      'limit must be between 1 and 1000',
      'limit'
    );
  end if;
  if v_states is null then
    v_filter := v_filter || jsonb_build_object(
      'status', case
        when p_is_retry then '["failed"]'
        else '["pending", "processing", "waiting"]'
      end::jsonb
    );
  end if;
  loop
    v_found := queue.search_jobs(
      v_filter,
      array[p_workspace_id],
      p_cursor,
      p_limit
    );
    v_ids := v_ids || array(
      select j.id
      from unnest(v_found.ids) as f (id)
      join public.jobs as j on j.id = f.id
      where case
        when p_is_retry then not exists (
          select from queue.job_keys as u
          where u.workspace_id = j.workspace_id
            and u.job_type = j.job_type
            and u.key = j.unique_key
            and u.is_unique
        )
        else j.finished_at is null and j.cancel_requested_at is null
      end
      order by j.id desc
    );
    p_cursor := v_found.last_id;
    exit when p_cursor is null
      or cardinality(v_ids) >= p_limit
      or clock_timestamp() > v_until;
  end loop;
  if cardinality(v_ids) > p_limit then
    v_ids := v_ids[:p_limit];
    p_cursor := v_ids[p_limit];
  end if;
  if p_is_retry then
    perform queue.hold_jobs(v_ids);
    v_count := queue.retry(v_ids, v_now);
    perform queue.wake_worker(v_now) where v_count > 0;
    perform queue.admit('changes', p_workspace_id, queue.caller(), v_count);
  else
    perform queue.cancel(v_ids, v_now);
    v_count := cardinality(v_ids);
  end if;
  return jsonb_build_object(
    'count', v_count,
    'more', p_cursor is not null,
    'cursor', p_cursor
  );
end;
$$;

revoke execute on function queue.change_jobs from public;

create or replace function public.cancel_jobs(
  p_workspace_id uuid,
  p_filter jsonb,
  p_limit integer default 1000,
  p_cursor uuid default null
)
returns jsonb
language sql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
select queue.change_jobs(p_workspace_id, p_filter, p_limit, p_cursor, false)
$$;

comment on function public.cancel_jobs is
  E'Cancel live jobs that match a filter of list_jobs, at most p_limit (1,000): {count, more, '
  'cursor}.\n\nFor managers. While there are more, call again with p_cursor.';

select queue.allow('authenticated, service_role', 'public.cancel_jobs');

create or replace function public.retry_jobs(
  p_workspace_id uuid,
  p_filter jsonb,
  p_limit integer default 1000,
  p_cursor uuid default null
)
returns jsonb
language sql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
select queue.change_jobs(p_workspace_id, p_filter, p_limit, p_cursor, true)
$$;

comment on function public.retry_jobs is
  E'Run failed jobs that match a filter of list_jobs again (cancelled ones if it says so), as '
  'cancel_jobs does: {count, more, cursor}.\n\nFor managers.';

select queue.allow('authenticated, service_role', 'public.retry_jobs');

create or replace function public.replay_job(p_job_id uuid, p_request jsonb default '{}')
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_job constant public.jobs := queue.visible_job(p_job_id);
  v_from constant text := p_request ->> 'from_step';
  v_payload constant jsonb := nullif(p_request -> 'payload', 'null');
  v_from_at constant timestamptz := (
    select s.created_at
    from queue.steps as s
    where s.job_id = p_job_id and s.name = v_from and s.nth = 0
  );
  v_made jsonb;
  v_id uuid;
begin
  perform queue.take_call_slot(v_job.workspace_id); -- it may copy many steps
  perform queue.check_names(
    p_request,
    '{from_step,payload,idempotency_key}',
    'request'
  );
  if v_from is not null and v_from_at is null then
    perform queue.refuse(
      400,
      'invalid_argument',
      format('the job has no finished step %s', v_from),
      'from_step'
    );
  end if;
  v_made := public.enqueue_job(
    v_job.workspace_id,
    v_job.job_type,
    coalesce(v_payload, v_job.payload),
    jsonb_strip_nulls(jsonb_build_object(
      'queue', v_job.queue,
      'priority', v_job.priority,
      'max_attempts', v_job.max_attempts,
      'timeout_seconds', v_job.timeout_seconds,
      'start_by_seconds', v_job.start_by_seconds,
      'concurrency_key', v_job.concurrency_key,
      'session_id', v_job.session_id,
      'tags', to_jsonb(v_job.tags),
      'idempotency_key', p_request ->> 'idempotency_key',
      -- 0 where no worker has published the type: it is checked by the first that has it
      'schema_version', case
        when v_payload is null then nullif(v_job.schema_version, 0)
      end,
      'user_id', case when queue.caller() is null then v_job.user_id end
    ))
  );
  if v_made -> 'created' = 'false' then
    if (v_made #>> '{job,replay_of}', v_made #>> '{job,replay_from}')
      is distinct from (p_job_id::text, v_from) then
      perform queue.refuse(
        409,
        'idempotency_conflict',
        'this idempotency key was used with another request',
        v_made #>> '{job,id}'
      );
    end if;
    return v_made;
  end if;
  v_id := v_made #>> '{job,id}';
  update public.jobs
  set replay_of = p_job_id, replay_from = v_from
  where id = v_id;
  insert into queue.steps (job_id, name, nth, kind, value, started_at, created_at)
  select v_id, s.name, s.nth, s.kind, s.value, s.started_at, s.created_at
  from queue.steps as s
  join queue.steps as f
    on f.job_id = s.job_id
    and f.name = s.name
    and f.nth = 0
    and f.created_at < v_from_at
  where s.job_id = p_job_id;
  if found then -- copied results count as enqueues, by their size
    perform queue.copy_output(p_job_id, v_id);
    perform queue.admit(
      'changes',
      v_job.workspace_id,
      queue.caller(),
      0,
      (
        select sum(octet_length(s.value::text)) + queue.output_bytes(v_id)
        from queue.steps as s
        where s.job_id = v_id
      )
    );
  end if;
  return v_made || jsonb_build_object('job', public.get_job(v_id));
end;
$$;

comment on function public.replay_job is
  E'Run a job again as a new one, from a finished step or its start: {job, created, wake}.\n\n'
  'Request: {from_step?, payload?, idempotency_key?}. Steps that finished before it are kept.';

select queue.allow('authenticated, service_role', 'public.replay_job');

create or replace function public.pause_jobs(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_kind constant text := p_request ->> 'kind';
  v_paused constant boolean := coalesce((p_request ->> 'paused')::boolean, true);
  v_name text := p_request ->> 'name';
  v_type constant text := case
    when v_kind in ('job_type', 'workspace_type') then v_name
  end;
  v_workspace uuid;
  v_signal queue.signals;
begin
  if v_name is null
    or v_kind in ('job_type', 'queue', 'workspace', 'workspace_type') is not true
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      'kind must be job_type, queue, workspace or workspace_type, and name is required',
      'kind'
    );
  elsif v_kind in ('workspace', 'workspace_type') then
    v_workspace := case v_kind
      when 'workspace' then v_name
      else p_request ->> 'workspace_id'
    end;
    v_name := concat_ws('/', v_workspace, v_type);
    perform queue.may_manage(v_workspace);
  elsif not (queue.is_operator() or queue.is_service()) then
    perform queue.refuse(
      403,
      'forbidden',
      'only operators pause a queue or a job type',
      v_kind
    );
  end if;
  perform from queue.job_types as t
  where t.job_type = v_type -- a pause outlives its type
  union all
  select from queue.pauses as p
  where (p.kind, p.name) = (v_kind, v_name);
  if v_type is not null and not found then
    perform queue.refuse(
      404,
      'unknown_job_type',
      'job type not found',
      left(v_type, 100)
    );
  end if;
  v_signal.kind := 'resumed';
  v_signal.workspace_id := coalesce(v_workspace, queue.system_workspace());
  if v_paused then
    insert into queue.pauses (
      kind, name, workspace_id, job_type, paused_at, paused_by, reason
    )
    values (
      v_kind,
      v_name,
      v_workspace,
      v_type,
      queue.clock(),
      coalesce(queue.caller()::text, p_request ->> 'by', 'service'),
      left(p_request ->> 'reason', 500)
    )
    on conflict (kind, name) do update set reason = coalesce(
      pauses.reason,
      excluded.reason
    );
  else
    delete from queue.pauses where kind = v_kind and name = v_name;
  end if;
  if (not v_paused or v_workspace is null)
    and queue.handle_signal(v_signal, queue.clock()) is null
  then
    insert into queue.signals (kind, workspace_id)
    values ('resumed', v_signal.workspace_id);
  end if;
  perform pg_notify('minutehand_wakeup', ''), queue.wake_worker(queue.clock())
  where not v_paused;
  perform queue.admit('changes', v_workspace, queue.caller());
  -- what holds now, which may differ from the request: another pause may stop the same jobs
  return jsonb_build_object('kind', v_kind, 'name', v_name, 'paused', false)
    || coalesce(
      (
        select jsonb_build_object(
          'paused', true,
          'left', jsonb_agg(jsonb_build_object(
            'kind', p.kind,
            'reason', p.reason,
            'paused_by', p.paused_by,
            'next', queue.words_of(
              p.kind || '_paused',
              jsonb_build_object('job_type', p.job_type, 'queue', p.name)
            ) -> 'next'
          ))
        )
        from queue.pauses as p
        where (p.kind, p.name) = (v_kind, v_name)
          or p.job_type = v_type and coalesce(p.workspace_id = v_workspace, true)
          or p.kind = 'workspace' and p.workspace_id = v_workspace
        having count(*) > 0
      ),
      '{}'
    );
end;
$$;

comment on function public.pause_jobs is
  E'Pause or resume: {kind: job_type|queue|workspace|workspace_type, name, workspace_id (of '
  'workspace_type), paused = true, reason?}; gives {kind, name, paused, left: [{kind, reason, '
  'paused_by, next}]}, what still stops these jobs.\n\nRunning jobs continue. A type '
  'or a queue of all workspaces is paused by operators, the rest by managers.';

select queue.allow('authenticated, service_role', 'public.pause_jobs');

-- Events, for those who watch: the feed, messages to Realtime within the project's plan, and
-- sessions open to guests. A change becomes a line of queue.feed and messages: to the topic of its
-- workspace, and to those of its session and jobs that someone follows. A message beyond the
-- second's budget is held back; its topics are later asked to read again (queue.do_announcements).

-- The feed's numbers are the server's transaction ids and this: nothing, until a dump is restored
-- into a server that has not come as far as the one it is of.
create sequence queue.feed_base minvalue 0;

-- How far the numbers had come at the last maintenance. Here none is given below it any more, so
-- one that would be is of another server, to which a dump brought this (queue.feed_number).
create sequence queue.feed_reached minvalue 0;

-- the count when that began
-- what Realtime's table was like when a message could last be sent (queue.message_budget)
create unlogged sequence queue.messages_fitted minvalue 0;

-- The budget of messages a second, 80 % of the plan's rate (Realtime averages five seconds, which
-- may touch six of ours), and how many this second has used. is_followed: someone follows a topic;
-- is_streamed: a server streams one. form: what the tables of today's messages are like, by the transactions that last changed them;
-- null where they have triggers. While it is as when a message was sent, none can fail.
create type queue.audience as (
  budget bigint,
  used bigint,
  is_followed boolean,
  is_streamed boolean,
  form bigint
);

drop function queue.message_budget(OUT budget integer, OUT used bigint, OUT is_followed boolean);

create or replace function queue.message_budget()
returns queue.audience
language plpgsql
set search_path = ''
as $$
declare
  v_second bigint := date_part('epoch', clock_timestamp())::bigint;
  -- read before a new second is noted: what others have counted in it by then is not left out
  v_counted constant bigint := coalesce(
    pg_sequence_last_value('queue.messages_counted'),
    0
  );
  v_before bigint := pg_sequence_last_value('queue.messages_before');
  v_tables constant oid[] := array[
    to_regclass('realtime.messages'),
    to_regclass('realtime.messages_' || to_char(now(), 'YYYY_MM_DD'))
  ];
  v_seen queue.audience;
begin
  select
    case s.value
      when '"free"' then 80
      when '"pro"' then 400
      else s.value::bigint
    end,
    exists (select from queue.followers),
    exists (select from queue.streamed_topics),
    (
      select
        case
          when not bool_or(c.relhastriggers or c.relkind = 'p' and v_tables[2] is null)
            then abs(
              1000003 * hash_array(array_agg(c.xmin))::bigint + (
                select hash_array(array_agg(a.xmin))
                from pg_catalog.pg_attribute as a
                where a.attrelid = v_tables[1]
              )
            )
        end
      from pg_catalog.pg_class as c
      where c.oid = any (v_tables)
    )
  into v_seen.budget, v_seen.is_followed, v_seen.is_streamed, v_seen.form
  from queue.settings as s
  where s.name = 'realtime_messages_per_second';
  if v_second is distinct from pg_sequence_last_value('queue.messages_second') then
    v_before := setval('queue.messages_before', v_counted);
    v_second := setval('queue.messages_second', v_second);
  end if;
  v_seen.used := v_counted - v_before;
  return v_seen;
end;
$$;

revoke execute on function queue.message_budget from public;

-- The message for changes: the only event, else groups of those that differ in job and seq alone.
create or replace function queue.message_of(
  p_changes queue.change[],
  p_now timestamptz,
  out event text,
  out payload jsonb
)
language plpgsql
set search_path = ''
as $$
declare
  v_one constant queue.change := p_changes[1];
begin
  event := 'job.events';
  if p_changes[2] is null and v_one.job_ids[2] is null then
    event := v_one.type;
    payload := jsonb_build_object(
      'job_id', v_one.job_ids[1],
      'seq', v_one.seqs[1],
      'type', v_one.type,
      'data', v_one.data,
      'at', p_now
    );
    return;
  end if;
  payload := jsonb_build_object(
    'groups', (
      select jsonb_agg(
        jsonb_build_object(
          'type', c.type,
          'data', c.data,
          'at', p_now,
          'job_ids', to_jsonb(c.job_ids),
          'seqs', to_jsonb(
            case when c.seqs[1] = all (c.seqs) then c.seqs[1:1] else c.seqs end
          )
        )
        order by c.ordinality
      )
      from unnest(p_changes) with ordinality as c
    )
  );
end;
$$;

revoke execute on function queue.message_of from public;

-- Changes by the topics that get them: a workspace gets changes of state; a followed session all
-- but logs; a followed job all but its creation, before which no one could follow it.
create or replace function queue.changes_by_topic(p_changes queue.change[])
returns table (topic text, changes queue.change[])
language plpgsql stable
set search_path = ''
as $$
declare
  v_jobs constant uuid[] := array(
    select distinct substr(f.topic, 5)::uuid
    from queue.followers as f
    where f.topic like 'job:%'
  );
begin
  return query
    with parts as materialized ( -- at most a thousand jobs each
      select
        c.workspace_id,
        c.session_id,
        c.type,
        c.data,
        c.job_ids[1000 * k + 1:1000 * k + 1000] as job_ids,
        c.seqs[1000 * k + 1:1000 * k + 1000] as seqs,
        row_number() over () as n
      from unnest(p_changes) as c
      cross join generate_series(0, (cardinality(c.job_ids) - 1) / 1000) as k
      where c.seqs is not null
    ),
    wanted as (
      select 'workspace:' || p.workspace_id as topic, p.*
      from parts as p
      where p.type not in ('job.progress', 'job.log', 'job.output')
      union all
      select 'session:' || p.session_id, p.*
      from parts as p
      where p.type <> 'job.log'
        and exists (
          select from queue.followers as f
          where f.topic = 'session:' || p.session_id
        )
        and queue.session_workspace(p.session_id) = p.workspace_id
      union all
      select
        'job:' || i.id,
        p.workspace_id,
        p.session_id,
        p.type,
        p.data,
        array[i.id],
        array[i.seq],
        p.n
      from parts as p
      cross join unnest(p.job_ids, p.seqs) as i (id, seq)
      where i.id = any (v_jobs) and p.type <> 'job.created'
    ),
    -- Realtime accepts 256 kB; pg_column_size is some tenths below the JSON's length
    bins as (
      select
        w.*,
        (
          sum(200 + pg_column_size(w.data) + 45 * cardinality(w.job_ids)) over (
            partition by w.topic
            order by w.n
          )
        ) / 100000 as bin
      from wanted as w
    )
    select
      b.topic,
      array_agg(
        row(
          b.workspace_id, b.session_id, b.type, b.data, b.job_ids, b.seqs
        )::queue.change
        order by b.n
      )
    from bins as b
    group by b.topic, b.bin
    order by b.topic, b.bin;
end;
$$;

revoke execute on function queue.changes_by_topic from public;

drop function queue.send(p_changes queue.change[], p_is_minor boolean, p_fits_one boolean, p_now timestamp with time zone);

-- Send the messages of changes; false where they are to be held back, since the budget does not
-- reach or Realtime fails. Progress and logs (p_is_minor) may use 4/8 of the budget, changes of
-- state that no one follows 5/8, those that someone follows 6/8, announcements all of it.
-- p_fits_one: one message to the workspace has all, unless someone follows a topic.
-- A block that may fail costs a transaction id: it is there only where the table's form is not the
-- one that took the last message (queue.message_budget).
create or replace function queue.send(
  p_changes queue.change[],
  p_is_minor boolean,
  p_fits_one boolean,
  p_seen queue.audience,
  p_now timestamptz
)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_message record;
  v_topics text[];
  v_events text[];
  v_payloads jsonb[];
  v_watchers bigint; -- how many follow the topics
  v_cost bigint := 2; -- the message and one watcher
  v_eighths integer := 5;
  v_count bigint;
begin
  -- what a long transaction sends would arrive at its end, all at once
  if clock_timestamp() - now() > interval '1 second' then
    return false;
  end if;
  if p_fits_one and not p_seen.is_followed then
    v_message := queue.message_of(p_changes, p_now);
    v_topics := array['workspace:' || p_changes[1].workspace_id];
    v_events := array[v_message.event];
    v_payloads := array[v_message.payload];
  else
    -- of so many tenants that the budget does not reach, followed or not
    if not p_is_minor
      and p_seen.used + 2 * (
        select count(distinct c.workspace_id)
        from unnest(p_changes) as c
        where c.seqs is not null
      ) > p_seen.budget * 6 / 8
    then
      return false;
    end if;
    select
      array_agg(m.topic),
      array_agg(m.event),
      array_agg(m.payload),
      sum(m.watchers),
      coalesce(sum(1 + greatest(1, m.watchers)), 0)
    into v_topics, v_events, v_payloads, v_watchers, v_cost
    from (
      select
        t.topic,
        o.event,
        o.payload,
        (
          select count(*)
          from queue.followers as f
          where f.topic = t.topic
        ) as watchers
      from queue.changes_by_topic(p_changes) as t
      cross join lateral queue.message_of(t.changes, p_now) as o
    ) as m;
    v_eighths := case
      when p_is_minor then 4
      when v_watchers > 0 then 6
      else 5
    end;
  end if;
  if v_cost = 0 then -- no topic gets any of them
    return true;
  end if;
  if p_seen.used + v_cost > p_seen.budget * v_eighths / 8 then
    return false;
  end if;
  -- or 3/8, where a tenant has sent an eighth in the last second and another is followed
  -- apart: a query costs more than this
  if p_seen.used + v_cost > p_seen.budget * 3 / 8 then
    if p_changes[1].workspace_id = all (
      select c.workspace_id
      from unnest(p_changes) as c
    )
      and exists (
        select from queue.followers as f
        where f.topic like 'workspace:%'
          and f.topic <> 'workspace:' || p_changes[1].workspace_id
      )
      and p_seen.budget / 8 < v_cost * (
        select count(*)
        from (
          select o.at
          from queue.feed as o
          where o.workspace_id = p_changes[1].workspace_id
          order by o.number desc, o.id desc
          limit 50
        ) as f
        where f.at > p_now - interval '1 second'
      )
    then
      return false;
    end if;
  end if;
  for v_each in 1 .. v_cost loop
    v_count := nextval('queue.messages_counted'); -- an assignment is cheaper than a query
  end loop;
  if p_seen.form = pg_sequence_last_value('queue.messages_fitted') then
    insert into realtime.messages (id, topic, extension, event, payload, private)
    select queue.new_id(), m.topic, 'broadcast', m.event, m.payload, true
    from unnest(v_topics, v_events, v_payloads) as m (topic, event, payload);
    return true;
  end if;
  begin
    insert into realtime.messages (id, topic, extension, event, payload, private)
    select queue.new_id(), m.topic, 'broadcast', m.event, m.payload, true
    from unnest(v_topics, v_events, v_payloads) as m (topic, event, payload);
  exception when others then -- no enqueue or settlement fails because of a message
    raise warning 'messages were not sent: % (%)', sqlerrm, sqlstate;
    -- while no one is connected, Realtime makes no partition for the day, and there is no one to ask
    return sqlstate = '23514';
  end;
  if p_seen.form is not null then
    v_count := setval('queue.messages_fitted', p_seen.form);
  end if;
  return true;
end;
$$;

revoke execute on function queue.send from public;

drop function queue.publish(p_changes queue.change[], p_now timestamp with time zone, p_wakes boolean);

-- Publish changes that a statement has made to rows that the caller holds: messages, notifications
-- to servers that stream, and a line of the feed each. Changes without seqs are lines of the feed
-- alone; progress and logs come in calls of their own. p_wakes: are jobs due within a minute.
-- Always true, so that callers assign it: a query would cost more.
create or replace function queue.publish(
  p_changes queue.change[],
  p_now timestamptz,
  p_wakes boolean default true
)
returns boolean
language plpgsql strict
set search_path = ''
as $$
declare
  v_is_minor constant boolean := p_changes[1].type
    in ('job.progress', 'job.log', 'job.output');
  v_number constant bigint := queue.feed_number(
    greatest(pg_current_xact_id(), pg_snapshot_xmax(pg_current_snapshot()))
  );
  v_seen constant queue.audience := queue.message_budget();
  v_change queue.change;
  v_jobs integer := 0; -- that have events
  v_fits_one boolean := not v_is_minor and p_changes[11] is null; -- one message
  v_unsent boolean; -- true, or null
begin
  foreach v_change in array p_changes loop
    v_fits_one := v_fits_one
      and v_change.seqs is not null
      and v_change.workspace_id = p_changes[1].workspace_id;
    v_jobs := v_jobs + coalesce(cardinality(v_change.seqs), 0);
  end loop;
  -- a message holds 256 kB
  if v_jobs > 0 and to_regclass('realtime.messages') is not null then
    v_fits_one := v_fits_one and v_jobs <= 1000;
    v_unsent := nullif(
      not queue.send(p_changes, v_is_minor, v_fits_one, v_seen, p_now),
      false
    );
  end if;
  -- only where someone streams: who notifies commits under a lock of the whole server
  if v_seen.is_streamed then
    perform pg_notify('minutehand_events', s.topic)
    from queue.streamed_topics as s
    where s.expires_at > clock_timestamp()
      and exists (
        select from unnest(p_changes) as c
        where s.topic = 'workspace:' || c.workspace_id
          and c.type not in ('job.progress', 'job.log', 'job.output')
          or s.topic = 'session:' || c.session_id and c.type <> 'job.log'
          or s.topic = any (array(select 'job:' || i from unnest(c.job_ids) as i))
      );
  end if;
  insert into queue.feed (
    number, at, workspace_id, session_id, type, data, job_ids, seqs, wakes, unsent
  )
  select
    v_number,
    p_now,
    c.workspace_id,
    c.session_id,
    c.type,
    case c.type when 'job.output' then '{}' else c.data end,
    c.job_ids,
    c.seqs,
    p_wakes and c.type in ('job.created', 'job.redriven', 'job.resumed'),
    case when c.seqs is not null then v_unsent end
  from unnest(p_changes) as c
  where v_unsent
    or not v_is_minor
    or c.type = 'job.progress' and c.session_id is not null;
  return true;
end;
$$;

revoke execute on function queue.publish from public;

drop function queue.do_announcements();

-- Ask those who watch topics whose messages were held back to read again: the longest held of each
-- workspace, then the second of each, and so on.
create or replace function queue.do_announcements(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_lines constant tid[] := queue.in_shares(
    'queue.feed',
    'o.unsent',
    'o.xid <> pg_current_xact_id()', -- committed
    'o.id',
    queue.clock()
  );
  v_ids constant bigint[] := array(
    select f.id
    from queue.feed as f
    where f.ctid = any (v_lines)
  );
  v_left constant bigint := (
    select b.budget - b.used
    from queue.message_budget() as b
  );
  v_announced record; -- topics, since when, cost, and the lines that have to wait longer
begin
  if v_ids = '{}' then -- also where there is no Realtime
    return 0;
  end if;
  with lines as materialized (
    select f.id, f.at, f.workspace_id, t.topic
    from queue.feed as f
    cross join lateral (
      select 'workspace:' || f.workspace_id
      where f.type not in ('job.progress', 'job.log', 'job.output')
      union all
      select 'session:' || f.session_id
      where f.type <> 'job.log'
        and queue.session_workspace(f.session_id) = f.workspace_id
      union all
      select distinct o.topic
      from queue.followers as o
      where o.topic like 'job:%' and substr(o.topic, 5)::uuid = any (f.job_ids)
    ) as t (topic)
    where f.unsent and f.id = any (v_ids)
  ),
  topics as (
    select
      l.topic,
      min(l.at) as since,
      min(l.id) as first,
      row_number() over (partition by l.workspace_id order by min(l.id), l.topic) as nth,
      1 + greatest(
        1,
        (
          select count(*)
          from queue.followers as w
          where w.topic = l.topic
        )
      ) as cost
    from lines as l
    group by l.workspace_id, l.topic
  ),
  priced as (
    select
      t.topic,
      t.since,
      sum(t.cost) over (order by t.nth, t.first, t.topic) as cost
    from topics as t
  )
  select
    array_agg(p.topic) filter (where p.cost <= v_left) as topics,
    array_agg(p.since) filter (where p.cost <= v_left) as since,
    max(p.cost) filter (where p.cost <= v_left) as cost,
    array(
      select l.id
      from lines as l
      join priced as o on o.topic = l.topic
      where o.cost > v_left
    ) as rest
  into v_announced
  from priced as p;
  update queue.feed
  set unsent = null
  where unsent and id = any (v_ids) and id <> all (v_announced.rest);
  perform nextval('queue.messages_counted')
  from generate_series(1, v_announced.cost);
  insert into realtime.messages (id, topic, extension, event, payload, private)
  select
    queue.new_id(),
    t.topic,
    'broadcast',
    'job.look_again',
    jsonb_build_object('look_again', true, 'since', t.since, 'at', queue.clock()),
    true
  from unnest(v_announced.topics, v_announced.since) as t (topic, since);
  return coalesce(cardinality(v_announced.topics), 0);
end;
$$;

revoke execute on function queue.do_announcements from public;

-- The workspace whose messages a session's topic gets: that of a guest session, else the one of its
-- jobs. Null where two tenants have one session id: nothing is sent, watchers read session_feed.
create or replace function queue.session_workspace(p_session_id text)
returns uuid
language plpgsql stable
security definer
set search_path = ''
as $$
begin
  return case
    when p_session_id like 'guest\_%' then (
      select s.workspace_id
      from queue.guest_sessions as s
      where s.session_id = p_session_id
        and s.expires_at > queue.clock()
        and (s.user_id is not null or queue.setting('allow_anonymous') = 'true')
    )
    else (
      select f.workspace_id
      from (
        select j.workspace_id
        from public.jobs as j
        where j.session_id = p_session_id
        order by j.workspace_id
        limit 1
      ) as f
      where not exists (
        select from public.jobs as j
        where j.session_id = p_session_id and j.workspace_id > f.workspace_id
      )
    )
  end;
end;
$$;

revoke execute on function queue.session_workspace from public;

-- Whether the caller may join a private topic: their workspace, its jobs and sessions; a guest
-- session that is open to them, and, for its user, its jobs.
create or replace function queue.may_follow(p_topic text)
returns boolean
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_kind constant text := split_part(p_topic, ':', 1);
  v_id constant text := substr(p_topic, length(v_kind) + 2);
begin
  if v_kind = 'session' and v_id like 'guest\_%' then
    return exists (select from queue.guest_session(v_id));
  elsif v_kind = 'session' then
    return exists (
      select from public.jobs as j
      where j.session_id = v_id and j.workspace_id in (select queue.my_workspaces())
    );
  elsif v_kind not in ('workspace', 'job')
    or v_id !~ '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$'
  then
    return false;
  elsif v_kind = 'workspace' then
    return v_id::uuid in (select queue.my_workspaces());
  end if;
  return exists (
    select from public.jobs as j
    where j.id = v_id::uuid
      and (
        j.workspace_id in (select queue.my_workspaces())
        or j.session_id like 'guest\_%'
          and exists (
            select from queue.guest_session(j.session_id) as s
            where s.workspace_id = j.workspace_id
              and s.user_id = queue.caller(false)
          )
      )
  );
end;
$$;

revoke execute on function queue.may_follow from public;

grant execute on function queue.may_follow to anon, authenticated;

create or replace function queue.follow(p_topic text, p_follower_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_user constant uuid := coalesce(
    queue.caller(),
    '00000000-0000-0000-0000-000000000000'
  );
begin
  if p_topic is null
    or p_follower_id is null
    or not queue.may_follow(p_topic)
  then
    perform queue.refuse(
      404,
      'topic_not_found',
      'topic not found, or not yours to follow',
      left(p_topic, 300)
    );
  end if;
  -- a user's latest hundred topics are followed: more cannot use up the budget; guests are one user
  delete from queue.followers
  where ctid = any (array(
    select o.ctid
    from queue.followers as o
    where o.user_id = queue.caller()
      and (o.topic, o.follower_id) <> (p_topic, p_follower_id)
    order by o.seen_at desc
    offset 99
    for update skip locked
  ));
  insert into queue.followers as f (topic, user_id, follower_id, seen_at)
  select p_topic, v_user, p_follower_id, clock_timestamp()
  where (
    select count(*)
    from queue.followers as o
    where o.topic = p_topic
      and o.user_id = v_user
      and o.follower_id <> p_follower_id
  ) < 20
  on conflict (
    topic,
    user_id,
    follower_id
  ) do update set seen_at = excluded.seen_at;
  return jsonb_build_object(
    'again_seconds', 60,
    -- all followers together read fifty times a second, each at least twice a minute
    'check_seconds', (
      select count(*)
      from (select from queue.followers limit 1500) as f
    ) / 50.0
  );
end;
$$;

select queue.allow('anon, authenticated, service_role', 'queue.follow');

create or replace function public.stream_topics(p_topics jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_expires_at constant timestamptz := clock_timestamp() + interval '1 minute';
begin
  perform queue.refuse_revoked();
  delete from queue.streamed_topics where expires_at < clock_timestamp();
  insert into queue.streamed_topics as s (topic, expires_at)
  select distinct t, v_expires_at
  from jsonb_array_elements_text(p_topics) as t
  order by t
  on conflict (topic) do update set expires_at = excluded.expires_at;
  return jsonb_build_object('again_seconds', 30);
end;
$$;

comment on function public.stream_topics is
  'Be notified of topics on the channel minutehand_events, for a minute: {again_seconds}.';

select queue.allow('job_worker, service_role', 'public.stream_topics');

-- The number before which every line of the feed is committed.
create or replace function queue.feed_end()
returns bigint
language sql stable
set search_path = ''
as $$
select pg_snapshot_xmin(pg_current_snapshot())::text::bigint
  + coalesce(pg_sequence_last_value('queue.feed_base'), 0)
$$;

revoke execute on function queue.feed_end from public;

-- The feed's number of a transaction id. The first after a dump was restored into a server that has
-- not come as far raises the base: what follows is behind all that the dump brought, lines and
-- positions, and these stay as they are.
create or replace function queue.feed_number(p_xid xid8)
returns bigint
language plpgsql
set search_path = ''
as $$
declare
  v_xid constant bigint := p_xid::text;
  v_number bigint := v_xid + coalesce(pg_sequence_last_value('queue.feed_base'), 0);
begin
  if v_number >= coalesce(pg_sequence_last_value('queue.feed_reached'), 0) then
    return v_number;
  end if;
  -- until the end of the transaction: others wait here once, after a restore
  perform queue.try_lock('feed', true);
  v_number := v_xid + coalesce(pg_sequence_last_value('queue.feed_base'), 0);
  if v_number < pg_sequence_last_value('queue.feed_reached') then
    v_number := v_xid + setval(
      'queue.feed_base',
      greatest(
        pg_sequence_last_value('queue.feed_reached'),
        (select max(f.number) from queue.feed as f),
        (select max(t.read_to) from queue.tasks as t)
      )
    );
  end if;
  return v_number;
end;
$$;

revoke execute on function queue.feed_number from public;

-- Which history a cursor is of, in numbers: Postgres begins a timeline where a server is recovered
-- to an instant or promoted, and may give transaction ids again; a restore raises the base.
create or replace function queue.history()
returns text
language sql stable
set search_path = ''
as $$
select concat(
  case
    when pg_is_in_recovery()
      then (select c.timeline_id from pg_control_checkpoint() as c)
    else ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer
  end,
  '.',
  coalesce(pg_sequence_last_value('queue.feed_base'), 0)
)
$$;

revoke execute on function queue.history from public;

drop function queue.do_live(p_now timestamp with time zone);

-- Delete old lines of the feed, read or not; a cursor before read_to may miss some.
create or replace function queue.do_live(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_before timestamptz := p_now
    - make_interval(hours => queue.setting('feed_hours')::integer);
  v_gone record;
begin
  with oldest as (
    select f.ctid, f.at
    from queue.feed as f
    order by f.number
    limit 5000
  ),
  gone as (
    delete from queue.feed
    where ctid = any (array(select o.ctid from oldest as o where o.at < v_before))
    returning number
  )
  select max(g.number) as number, count(*)::integer as lines
  into v_gone
  from gone as g;
  update queue.tasks
  set read_to = greatest(read_to, v_gone.number)
  where name = 'live' and v_gone.lines > 0;
  return v_gone.lines;
end;
$$;

revoke execute on function queue.do_live from public;

-- Take what deleted jobs of these workspaces said out of the feed, where none of a line's jobs is
-- left. p_since: when the first of them was created.
create or replace function queue.forget_in_feed(
  p_ids uuid[],
  p_workspaces uuid[],
  p_since timestamptz
)
returns void
language plpgsql
set search_path = ''
as $$
begin
  update queue.feed
  set data = '{}', session_id = null
  where ctid = any (array(
    select f.ctid
    from queue.feed as f
    where f.workspace_id = any (p_workspaces)
      and f.at >= p_since
      and exists (
        select from unnest(f.job_ids) as i (id)
        where i.id in (select d.id from unnest(p_ids) as d (id))
      )
      and not exists (select from public.jobs as j where j.id = any (f.job_ids))
    order by f.number, f.id
    for update
  ));
end;
$$;

revoke execute on function queue.forget_in_feed from public;

-- Read a cursor ("1:1:" the beginning, none now); null for one of another history, or too old.
create or replace function queue.read_cursor(p_cursor text)
returns queue.feed_cursor
language plpgsql stable
set search_path = ''
as $$
declare
  v_now constant pg_snapshot := pg_current_snapshot();
  v_base constant bigint := coalesce(pg_sequence_last_value('queue.feed_base'), 0);
  v_cursor queue.feed_cursor;
begin
  v_cursor := case
    when p_cursor is null
      then row(null, v_now, null, null, null, null)::queue.feed_cursor
    when p_cursor = '1:1:' then row(
      null,
      '1:1:',
      null,
      '-9223372036854775808',
      null,
      null
    )::queue.feed_cursor
    else p_cursor::queue.feed_cursor
  end;
  -- it comes back with each event
  if v_cursor.seen is null or length(p_cursor) > 8192 then
    raise data_exception;
  end if;
  v_cursor := row(
    v_cursor.history,
    v_cursor.seen,
    coalesce(v_cursor.until, v_now),
    coalesce(v_cursor.number, v_base + pg_snapshot_xmin(v_cursor.seen)::text::bigint),
    coalesce(v_cursor.id, 0),
    coalesce(v_cursor.nth, 0)
  );
  if v_cursor.history <> queue.history()
    or pg_snapshot_xmax(v_cursor.seen) > pg_snapshot_xmax(v_now)
    or v_cursor.seen::text <> '1:1:'
      and exists (
        select from queue.tasks as t
        where t.name = 'live'
          and t.read_to
          between v_base + pg_snapshot_xmin(v_cursor.seen)::text::bigint
          and queue.feed_end()
      )
  then
    return null;
  end if;
  return v_cursor;
exception when data_exception then
  perform queue.refuse(400, 'invalid_argument', 'unknown cursor', 'cursor');
end;
$$;

revoke execute on function queue.read_cursor from public;

-- Lines of a workspace's feed, or of a session's, from a cursor's line on.
create or replace function queue.feed_lines(
  p_workspace_id uuid,
  p_session_id text,
  p_at queue.feed_cursor,
  p_limit integer
)
returns setof queue.feed
language plpgsql stable
set search_path = ''
as $$
declare
  v_last constant bigint := pg_snapshot_xmax(p_at.until)::text::bigint
    + coalesce(pg_sequence_last_value('queue.feed_base'), 0);
begin
  return query
    (
      select f.*
      from queue.feed as f
      where p_session_id is null
        and f.workspace_id = p_workspace_id
        and f.number <= v_last
        and (f.number, f.id) >= (p_at.number, p_at.id)
      order by f.number, f.id
      limit p_limit
    )
    union all
    (
      select f.*
      from queue.feed as f
      where f.session_id = p_session_id
        and f.number <= v_last
        and (f.number, f.id) >= (p_at.number, p_at.id)
      order by f.number, f.id
      limit p_limit
    );
end;
$$;

revoke execute on function queue.feed_lines from public;

-- A page of a feed by (number, id): what the cursor's snapshot does not see and until does. It
-- reads at most 1,000 lines, so an empty page may have more. A session's feed has progress too.
create or replace function queue.read_feed(
  p_workspace_id uuid,
  p_session_id text,
  p_cursor text,
  p_limit integer
)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  c_limit constant integer := least(1000, greatest(1, coalesce(p_limit, 500)));
  v_history constant text := queue.history();
  -- a line up to here was committed elsewhere: its transaction id says nothing here
  v_base constant bigint := coalesce(pg_sequence_last_value('queue.feed_base'), 0);
  v_hidden constant text[] := case
    when p_session_id is null then '{job.progress,job.log}'
    else '{job.log}'
  end;
  -- with both, the caller has shown that it may read this session of this workspace
  v_all constant boolean := p_session_id is null
    or p_workspace_id is not null
    or queue.is_service();
  v_cursor constant queue.feed_cursor := queue.read_cursor(p_cursor);
  v_page record;
begin
  if v_cursor.seen is null then
    return '{"events": [], "places": [], "more": false, "reset": true}' || jsonb_build_object(
      'cursor', format('(%s,"%s",,,,)', v_history, pg_current_snapshot())
    );
  end if;
  -- more than is new after a message: many may look after each
  perform queue.take_call_slot(p_workspace_id)
  from (
    select sum(cardinality(f.job_ids)) as events
    from queue.feed_lines(p_workspace_id, p_session_id, v_cursor, 101) as f
  ) as f
  where f.events > 100;
  with lines as materialized (
    select
      f.*,
      row_number() over w as n,
      sum(cardinality(f.job_ids)) over w - cardinality(f.job_ids) as before
    from queue.feed_lines(p_workspace_id, p_session_id, v_cursor, 1000) as f
    window w as (order by f.number, f.id)
  ),
  -- events of the first line that were read before do not count: it may have thousands
  slice as (
    select l.*
    from lines as l
    where l.before - v_cursor.nth <= c_limit + 1000
  ),
  found as (
    select
      s.type,
      s.data,
      s.at,
      i.job_id,
      i.seq,
      row_number() over (order by s.n, i.nth) as n,
      row(
        v_history, v_cursor.seen, v_cursor.until, s.number, s.id, i.nth
      )::queue.feed_cursor as cursor
    from slice as s
    cross join lateral unnest(s.job_ids, s.seqs) with ordinality as i (
      job_id,
      seq,
      nth
    )
    where i.seq is not null
      and s.type <> all (v_hidden)
      and (v_all or s.workspace_id in (select queue.my_workspaces()))
      and (p_workspace_id is null or s.workspace_id = p_workspace_id)
      and not pg_visible_in_snapshot(s.xid, v_cursor.seen)
      and (s.number <= v_base or pg_visible_in_snapshot(s.xid, v_cursor.until))
      and (s.id <> v_cursor.id or i.nth > v_cursor.nth)
    order by n
    limit c_limit + 1
  )
  select
    coalesce(
      jsonb_agg(
        jsonb_build_object(
          'job_id', f.job_id,
          'seq', f.seq,
          'type', f.type,
          'data', f.data,
          'created_at', f.at
        )
        order by f.n
      ) filter (where f.n <= c_limit),
      '[]'
    ) as events,
    coalesce(
      jsonb_agg(f.cursor::text order by f.n) filter (where f.n <= c_limit),
      '[]'
    ) as places,
    case
      when count(*) > c_limit then (array_agg(f.cursor order by f.n))[c_limit]
      when (select count(*) from lines) = 1000
          or (select count(*) from slice) < (select count(*) from lines)
        then (
          select row(
            v_history,
            v_cursor.seen,
            v_cursor.until,
            s.number,
            s.id,
            cardinality(s.job_ids)
          )::queue.feed_cursor
          from slice as s
          order by s.n desc
          limit 1
        )
    end as cursor
  into v_page
  from found as f;
  return jsonb_build_object(
    'events', v_page.events,
    'places', v_page.places,
    'more', v_page.cursor is not null,
    'cursor', coalesce(
      v_page.cursor,
      row(v_history, v_cursor.until, null, null, null, null)::queue.feed_cursor
    )::text
  );
end;
$$;

revoke execute on function queue.read_feed from public;

create or replace function public.event_feed(
  p_workspace_id uuid,
  p_cursor text default null,
  p_limit integer default 500
)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
begin
  perform queue.may_read(p_workspace_id);
  return queue.read_feed(p_workspace_id, null, p_cursor, p_limit);
end;
$$;

comment on function public.event_feed is
  E'State changes of a workspace''s jobs after a cursor: {events: [{job_id, seq, type, data, '
  'created_at}], places, cursor, more, reset?}.\n\nEach once, in order of a job''s seq; without a '
  'cursor from now, with "1:1:" all. reset: some may be missed; places: the cursor after each.';

select queue.allow('authenticated, service_role', 'public.event_feed');

create or replace function public.guest_key()
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
begin
  perform queue.refuse_revoked();
  return jsonb_build_object('key', queue.setting('guest_key'));
end;
$$;

comment on function public.guest_key is
  E'The key, in hexadecimal, that signs the address of a guest: {key}.\n\nIn x-minutehand-client: '
  'the address, the Unix time and hex(sha256(key || sha256(key || "address time"))).';

select queue.allow('job_worker, service_role', 'public.guest_key');

-- For apps: count what a guest does in a workspace, or refuse it: at most <name>_per_minute (null:
-- no limit) from an address (IPv6: a /64) that the API signed or the gateway saw, never one that
-- the caller states. People with an account have other limits, the service none.
create or replace function queue.admit_guest(p_name text, p_workspace_id uuid)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_headers constant jsonb := nullif(current_setting('request.headers', true), '');
  v_signed constant text[] := string_to_array(
    v_headers ->> 'x-minutehand-client',
    ' '
  );
  v_key constant bytea := decode(queue.setting('guest_key') #>> '{}', 'hex');
  v_most constant double precision := queue.setting(
    p_name || '_per_minute'
  ) #>> '{}';
  v_address inet;
begin
  if queue.setting('allow_anonymous') is distinct from 'true' then
    perform queue.refuse(
      401,
      'unauthorized',
      'Unauthorized',
      'guests are not allowed here'
    );
  elsif v_most is null
    or auth.jwt() ->> 'role' = 'service_role'
    or queue.caller() is not null
      and coalesce(auth.jwt() ->> 'is_anonymous', '') <> 'true'
  then
    return;
  end if;
  begin
    v_address := case
      when v_signed[3] = encode(
        sha256(
          v_key || sha256(
            v_key || convert_to(v_signed[1] || ' ' || v_signed[2], 'utf8')
          )
        ),
        'hex'
      )
          and abs(extract(epoch from queue.clock()) - v_signed[2]::numeric) < 120
        then v_signed[1]
      else coalesce(
        v_headers ->> (queue.setting('client_address_header') #>> '{}'),
        -- what comes before the last is the caller's own word
        btrim(split_part(v_headers ->> 'x-forwarded-for', ',', -1))
      )
    end;
  exception when invalid_text_representation then
    v_address := null;
  end;
  v_address := set_masklen(
    v_address,
    case family(v_address) when 6 then 64 else 32 end
  );
  perform queue.spend(
    format(
      'g:%s/%s/%s',
      p_name,
      p_workspace_id,
      coalesce(host(network(v_address)), 'unknown')
    ),
    v_most,
    60,
    1,
    queue.clock(),
    p_name
  );
end;
$$;

revoke execute on function queue.admit_guest from public;

-- For apps: the workspace that their guests share, once one is admitted there; it has no members.
create or replace function queue.guest_workspace(p_id uuid, p_name text, p_limit text)
returns uuid
language plpgsql
set search_path = ''
as $$
begin
  perform queue.admit_guest(p_limit, p_id);
  insert into public.workspaces (id, name)
  values (p_id, p_name)
  on conflict (id) do nothing;
  return p_id;
end;
$$;

revoke execute on function queue.guest_workspace from public;

-- The guest session of an id while it is open, if the caller may follow it: a member of its
-- workspace, its user (if anonymous where allow_anonymous is true), or there anyone if it has none.
create or replace function queue.guest_session(p_session_id text)
returns setof queue.guest_sessions
language sql stable
set search_path = ''
as $$
select s
from queue.guest_sessions as s
where s.session_id = p_session_id
  and s.expires_at > (select queue.clock())
  and case
    when s.user_id is null then queue.setting('allow_anonymous') = 'true'
    else auth.jwt() ->> 'role' = 'service_role'
      or s.workspace_id in (select queue.my_workspaces())
      or s.user_id = queue.caller(false)
        and (
          auth.jwt() ->> 'is_anonymous' is distinct from 'true'
          or queue.setting('allow_anonymous') = 'true'
        )
  end
$$;

revoke execute on function queue.guest_session from public;

-- A job as guests of its session see it: no payload, and not who made it.
create or replace function queue.guest_json(p_job public.jobs)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object(
  'id', p_job.id,
  'session_id', p_job.session_id,
  'job_type', p_job.job_type,
  'status', p_job.status,
  'result', p_job.result,
  'error_message', p_job.error_message,
  'attempts', p_job.attempts,
  'max_attempts', p_job.max_attempts,
  'next_retry_at', p_job.next_retry_at,
  'scheduled_for', p_job.scheduled_for,
  'started_at', p_job.started_at,
  'finished_at', p_job.finished_at,
  'completed_at', p_job.completed_at,
  'cancel_requested_at', p_job.cancel_requested_at,
  'created_at', p_job.created_at,
  'updated_at', p_job.updated_at,
  'last_seq', p_job.last_seq,
  'progress', coalesce(
    p_job.progress,
    '{"percentage": 0, "stage": null, "message": null}'
  )
)
$$;

revoke execute on function queue.guest_json from public;

create or replace function queue.session_jobs(p_session_id text)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_session queue.guest_sessions;
begin
  select s.* into v_session from queue.guest_session(p_session_id) as s;
  if not found then -- missing, ended or another's; without its id, which may be a key
    perform queue.refuse(404, 'session_not_found', 'session not found');
  end if;
  perform queue.take_call_slot(v_session.workspace_id);
  return jsonb_build_object(
    'session_id', p_session_id,
    'expires_at', v_session.expires_at,
    'jobs', (
      select coalesce(jsonb_agg(queue.guest_json(g) order by g.id desc), '[]')
      from (
        select *
        from public.jobs as j
        where j.session_id = p_session_id
          and j.workspace_id = v_session.workspace_id
        order by j.id desc
        limit 200
      ) as g
    )
  );
end;
$$;

select queue.allow('anon, authenticated, service_role', 'queue.session_jobs');

-- The workspace whose jobs a session shows the caller; null where it shows those of all their own.
create or replace function queue.shown_workspace(p_session_id text)
returns uuid
language plpgsql stable
set search_path = ''
as $$
declare
  v_workspace constant uuid := (
    select s.workspace_id
    from queue.guest_session(p_session_id) as s
  );
begin
  if v_workspace is null
    and not exists (
      select from public.jobs as j
      where j.session_id = p_session_id
        and (
          j.workspace_id in (select queue.my_workspaces())
          or auth.jwt() ->> 'role' = 'service_role'
        )
    )
  then
    perform queue.refuse(404, 'session_not_found', 'session not found');
  end if;
  return v_workspace;
end;
$$;

revoke execute on function queue.shown_workspace from public;

create or replace function queue.session_feed(
  p_session_id text,
  p_cursor text,
  p_limit integer
)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
begin
  return queue.read_feed(
    queue.shown_workspace(p_session_id),
    p_session_id,
    coalesce(p_cursor, '1:1:'),
    p_limit
  );
end;
$$;

select queue.allow('anon, authenticated, service_role', 'queue.session_feed');

create or replace function public.open_guest_session(
  p_workspace_id uuid,
  p_options jsonb default '{}'
)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_seconds constant double precision := coalesce(
    p_options ->> 'ttl_seconds',
    '86400'
  );
  v_user constant uuid := p_options ->> 'user_id';
  v_made queue.guest_sessions;
begin
  perform queue.may_manage(p_workspace_id);
  perform queue.check_names(p_options, array['ttl_seconds', 'user_id'], 'options');
  if v_seconds not between 1 and 2592000 then
    perform queue.refuse(
      400,
      'invalid_argument',
      'ttl_seconds must be from 1 to 2592000, thirty days',
      'ttl_seconds'
    );
  elsif v_user is null
    and queue.setting('allow_anonymous') is distinct from 'true'
  then
    perform queue.refuse(
      403,
      'forbidden',
      'anonymous guest sessions are off: name a user_id, or let the operator set allow_anonymous',
      'allow_anonymous'
    );
  end if;
  insert into queue.guest_sessions (session_id, workspace_id, user_id, expires_at)
  values (
    'guest_' || encode(
      uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()),
      'hex'
    ),
    p_workspace_id,
    v_user,
    queue.clock() + make_interval(secs => v_seconds)
  )
  returning * into v_made;
  perform queue.admit('changes', p_workspace_id, queue.caller());
  return to_jsonb(v_made);
end;
$$;

comment on function public.open_guest_session is
  E'Open a session to someone outside: {session_id, workspace_id, user_id, opened_at, expires_at}. '
  'For managers.\n\nIt shows jobs with its id. Options: ttl_seconds (86400), user_id (any).';

select queue.allow('authenticated, service_role', 'public.open_guest_session');

-- Cron schedules, read in SQL, each in its own time zone. Maintenance enqueues a run in the
-- transaction that moves its schedule on, under the schedule's row lock: no leader, no double run.
-- Schedules declared in code come with their type and belong to the system's workspace.

-- The values from p_low to p_high that a field of an expression names; null when it cannot be read.
create or replace function queue.cron_values(
  p_field text,
  p_low integer,
  p_high integer,
  p_names text[] default '{}'
)
returns integer[]
language plpgsql immutable strict
set search_path = ''
as $$
declare
  v_part text;
  v_match text[]; -- from, to, step
  v_from integer;
  v_to integer;
  v_step integer;
  v_values integer[] := '{}';
begin
  for v_nth in 1..cardinality(p_names) loop
    p_field := regexp_replace(
      p_field,
      format('\m%s\M', p_names[v_nth]),
      (p_low + v_nth - 1)::text,
      'gi'
    );
  end loop;
  foreach v_part in array string_to_array(p_field, ',') loop
    v_match := regexp_match(
      v_part,
      '^(?:\*|(\d{1,2})(?:-(\d{1,2}))?)(?:/(\d{1,3}))?$'
    );
    v_step := coalesce(v_match[3]::integer, 1);
    v_from := coalesce(v_match[1]::integer, p_low);
    v_to := coalesce(
      v_match[2]::integer,
      case
        when v_match[1] is null or v_match[3] is not null then p_high
        else v_from
      end
    );
    if v_match is null
      or v_step = 0
      or v_from < p_low
      or v_from > v_to
      or v_to > p_high
    then
      return null;
    end if;
    v_values := v_values || array(select generate_series(v_from, v_to, v_step));
  end loop;
  return array(select distinct v from unnest(v_values) as v);
end;
$$;

revoke execute on function queue.cron_values from public;

-- The first run after an instant, or 400 for an expression or a zone that has none within nine
-- years: the rarest date, 29 February, comes within eight. A time on the wall may come twice or
-- never: fixed hours run once, at the first or right after the gap; hours as * each real hour.
create or replace function queue.first_run(p_cron text, p_timezone text, p_after timestamptz)
returns timestamptz
language plpgsql stable
set search_path = ''
as $$
declare
  v_fields constant text[] := regexp_split_to_array(
    btrim(
      case lower(btrim(p_cron))
        when '@hourly' then '0 * * * *'
        when '@daily' then '0 0 * * *'
        when '@midnight' then '0 0 * * *'
        when '@weekly' then '0 0 * * 0'
        when '@monthly' then '0 0 1 * *'
        when '@yearly' then '0 0 1 1 *'
        when '@annually' then '0 0 1 1 *'
        else left(p_cron, 501)
      end
    ),
    '\s+'
  );
  v_minutes constant integer[] := queue.cron_values(v_fields[1], 0, 59);
  v_hours constant integer[] := queue.cron_values(v_fields[2], 0, 23);
  v_days constant integer[] := queue.cron_values(v_fields[3], 1, 31);
  v_months constant integer[] := queue.cron_values(
    v_fields[4],
    1,
    12,
    '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}'
  );
  v_weekdays constant integer[] := queue.cron_values(
    v_fields[5],
    0,
    7,
    '{sun,mon,tue,wed,thu,fri,sat}'
  );
  -- days of month and week are alternatives when neither is *
  v_either constant boolean := v_fields[3] not like '*%'
    and v_fields[5] not like '*%';
  v_each constant boolean := v_fields[2] like '*%';
  v_day date;
  v_in_month boolean;
  v_in_week boolean;
  v_next timestamptz;
begin
  if cardinality(v_fields) is distinct from 5
    or length(p_cron) > 500
    or num_nulls(v_minutes, v_hours, v_days, v_months, v_weekdays) > 0
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      format('not a cron expression of five fields: %s', left(p_cron, 100)),
      'cron'
    );
  elsif p_timezone !~* (
    '^([a-z_]+(-[a-z]+)*(/[a-z_]+(-[a-z_]+)*){0,2}|(EST5E|CST6C|MST7M|PST8P)DT|'
      '(Etc/)?GMT[+-]?0|Etc/GMT([+][1-9]|[+]1[0-2]|-[1-9]|-1[0-4]))$'
  ) then
    raise invalid_parameter_value; -- which Postgres would read as an offset: Mars/Base5
  end if;
  v_day := (p_after at time zone p_timezone)::date - 1; -- clocks go back over midnight
  for v_nth in 0..3296 loop
    v_in_month := extract(day from v_day)::integer = any (v_days);
    v_in_week := extract(dow from v_day)::integer = any (v_weekdays)
      or extract(isodow from v_day)::integer = any (v_weekdays);
    if extract(month from v_day)::integer = any (v_months)
      and (v_in_month and v_in_week or v_either and (v_in_month or v_in_week))
    then
      select min(i.at) into v_next
      from (
        select v_day + make_time(h, m, 0) as wall
        from unnest(v_hours) as h
        cross join unnest(v_minutes) as m
        where v_day + make_time(h, m, 0)
          > p_after at time zone p_timezone - interval '2 hours'
        order by 1
        limit 300
      ) as w -- before and after are more minutes than any clock is moved by
      -- as the clocks of that moment have it, and those of twelve hours before
      cross join lateral (
        select c.at
        from (
          values
            (w.wall at time zone p_timezone),
            (
              (w.wall - interval '12 hours') at time zone p_timezone
              + interval '12 hours'
            )
        ) as c (at)
        where not v_each or c.at at time zone p_timezone = w.wall
        order by c.at at time zone p_timezone <> w.wall, c.at
        limit case when v_each then 2 else 1 end
      ) as i
      where i.at > p_after;
      if v_next is not null then
        return v_next;
      end if;
    end if;
    v_day := v_day + 1;
  end loop;
  perform queue.refuse(
    400,
    'invalid_argument',
    format('%s never comes due: no such date exists', p_cron),
    'cron'
  );
exception when invalid_parameter_value then
  perform queue.refuse(
    400,
    'invalid_argument',
    'unknown time zone: ' || left(p_timezone, 80),
    'timezone'
  );
end;
$$;

revoke execute on function queue.first_run from public;

-- Schedules that a deploy's code no longer declares, for a day.
create table queue.withdrawn_schedules (
  name text primary key, -- as in queue.schedules
  cron text not null,
  timezone text not null,
  next_at timestamptz,
  last_slot_at timestamptz,
  last_job_id uuid,
  withdrawn_at timestamptz not null
);

alter table queue.withdrawn_schedules enable row level security;

revoke all on queue.withdrawn_schedules from public, anon, authenticated, service_role;

-- Enqueue the runs that are due: the first of each tenant, then the second of each, and so on. A
-- run more than five minutes late counts as missed where those are skipped. A schedule of code that
-- no worker serves gets no jobs, which would only pile up. A failure stops no other.
create or replace function queue.do_schedules(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_ids constant uuid[] := array(
    select s.id
    from queue.schedules as s
    where s.enabled and s.next_at <= p_now
    order by
      row_number() over (partition by s.workspace_id order by s.next_at),
      s.next_at
    limit 500
  );
  v_id uuid;
  v_one queue.schedules;
  v_next timestamptz;
  v_job_id uuid;
  v_done integer := 0;
begin
  foreach v_id in array v_ids loop
    exit when clock_timestamp() > p_until; -- the rest stays due
    select * into v_one
    from queue.schedules as s
    where s.id = v_id and s.enabled and s.next_at <= p_now
    for update skip locked;
    continue when not found;
    v_next := p_now + interval '1 hour'; -- where the server no longer knows its time zone
    v_job_id := null;
    begin
      v_next := queue.first_run(v_one.cron, v_one.timezone, p_now);
      if v_one.source is not null
        and (
          select s.unserved
          from queue.served(array[v_one.job_type], null, p_now) as s
        )
      then
        raise exception 'no worker serves the job type % any more', v_one.job_type;
      elsif v_one.missed = 'once'
        or v_one.next_at >= p_now - interval '5 minutes'
      then
        v_job_id := (queue.enqueue(
          v_one.workspace_id,
          null,
          jsonb_build_array(
            v_one.options || jsonb_build_object(
              'job_type', v_one.job_type,
              'payload', v_one.payload
            )
          ),
          false
        )).ids[1];
        v_done := v_done + 1;
      end if;
      update queue.schedules
      set
        next_at = v_next,
        problem = null,
        last_slot_at = case
          when v_job_id is null then last_slot_at
          else next_at
        end,
        last_job_id = coalesce(v_job_id, last_job_id)
      where id = v_id;
    exception
      when lock_not_available or deadlock_detected or serialization_failure then
        null; -- it stays due
      when others then
        update queue.schedules
        set problem = sqlerrm, next_at = v_next
        where id = v_id;
    end;
  end loop;
  return v_done;
end;
$$;

revoke execute on function queue.do_schedules from public;

-- Refuse what does not fit a schema.
create or replace function queue.check_fields(p_schema jsonb, p_given jsonb, p_what text)
returns void
language plpgsql immutable
set search_path = ''
as $$
declare
  v_error constant text := queue.schema_error(
    p_schema,
    coalesce(jsonb_strip_nulls(p_given), '{}'),
    ''
  );
begin
  if v_error is not null then
    perform queue.refuse(
      400,
      'invalid_argument',
      p_what || v_error,
      substring(v_error from '^[\w.]*\.(\w+)')
    );
  end if;
end;
$$;

revoke execute on function queue.check_fields from public;

-- Check and write a schedule. The same expression keeps its next run: none is skipped or repeated.
create or replace function queue.save_schedule(
  p_workspace_id uuid,
  p_schedule jsonb,
  p_source text,
  p_now timestamptz
)
returns queue.schedules
language plpgsql
set search_path = ''
as $$
declare
  -- of the options of a job those that make sense for each run
  c_schema constant jsonb := $json${"type": "object", "additionalProperties": false,
    "required": ["name", "cron", "job_type"], "properties": {
    "name": {"type": "string", "minLength": 1, "maxLength": 200}, "cron": {"type": "string"},
    "timezone": {"type": "string"}, "payload": {"type": "object"}, "enabled": {"type": "boolean"},
    "job_type": {"type": "string", "maxLength": 100}, "missed": {"enum": ["skip", "once"]},
    "options": {"type": "object", "additionalProperties": false, "properties": {
      "queue": true, "priority": true, "max_attempts": true, "concurrency_key": true,
      "session_id": true, "timeout_seconds": true, "unique": true, "delay_seconds": true,
      "tags": true, "start_by_seconds": true}}}}$json$;
  v_saved queue.schedules;
begin
  perform queue.check_fields(c_schema, p_schedule, 'schedule');
  insert into queue.schedules as s (
    workspace_id, name, cron, timezone, job_type, payload, options, missed,
    enabled, next_at, created_by, created_at, updated_at, source
  )
  select
    p_workspace_id,
    g.name,
    g.cron,
    z.timezone,
    g.job_type,
    coalesce(g.payload, '{}'),
    coalesce(g.options, '{}'),
    coalesce(g.missed, 'once'),
    coalesce(g.enabled, true),
    queue.first_run(g.cron, z.timezone, p_now),
    case when p_source is null then queue.caller() end,
    p_now,
    p_now,
    p_source
  from jsonb_populate_record(null::queue.schedules, p_schedule) as g
  cross join lateral (select coalesce(g.timezone, 'UTC') as timezone) as z
  on conflict (workspace_id, name) do update set
    cron = excluded.cron,
    timezone = excluded.timezone,
    job_type = excluded.job_type,
    payload = excluded.payload,
    options = excluded.options,
    missed = excluded.missed,
    source = excluded.source,
    problem = null,
    enabled = excluded.enabled,
    updated_at = excluded.updated_at,
    next_at = case
      when s.enabled and (s.cron, s.timezone) = (excluded.cron, excluded.timezone)
        then s.next_at
      else excluded.next_at
    end
  returning s.* into v_saved;
  return v_saved;
end;
$$;

revoke execute on function queue.save_schedule from public;

create or replace function public.put_schedule(p_workspace_id uuid, p_schedule jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_most constant integer := queue.setting('schedules_max');
  v_saved queue.schedules;
begin
  perform queue.may_manage(p_workspace_id);
  v_saved := queue.save_schedule(p_workspace_id, p_schedule, null, v_now);
  perform queue.new_job(
    p_workspace_id,
    queue.caller(),
    queue.type_or_refuse(v_saved.job_type, '', p_workspace_id),
    v_saved.payload,
    v_saved.options,
    v_now
  ); -- as if enqueued now
  if v_saved.created_at = v_now
    and v_most < (
      select count(*)
      from queue.schedules
      where workspace_id = p_workspace_id
    )
  then
    perform queue.refuse(
      429,
      'quota_exceeded',
      format('the workspace already has %s schedules; delete some first', v_most),
      'schedules_max'
    );
  end if;
  perform queue.admit(
    'changes',
    p_workspace_id,
    queue.caller(),
    p_bytes => octet_length(p_schedule::text)
  );
  return to_jsonb(v_saved);
end;
$$;

comment on function public.put_schedule is
  'Create or change a schedule by name, of at most schedules_max a workspace: {name, cron, '
  'timezone, job_type, payload, options, missed, enabled}.';

select queue.allow('authenticated, service_role', 'public.put_schedule');

create or replace function public.delete_schedule(p_workspace_id uuid, p_name text)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
begin
  perform queue.may_manage(p_workspace_id);
  delete from queue.schedules
  where workspace_id = p_workspace_id and name = p_name;
  if not found then
    perform queue.refuse(404, 'schedule_not_found', 'schedule not found', p_name);
  end if;
  return jsonb_build_object('deleted', p_name);
end;
$$;

comment on function public.delete_schedule is
  'Delete a schedule; the jobs it enqueued are kept.';

select queue.allow('authenticated, service_role', 'public.delete_schedule');

create or replace function public.list_schedules(p_workspace_id uuid)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
begin
  perform queue.may_read(p_workspace_id);
  return (
    select jsonb_build_object(
      'schedules', coalesce(
        jsonb_agg(to_jsonb(s) order by s.problem is null, s.name),
        '[]'
      )
    )
    from queue.schedules as s
    where s.workspace_id = p_workspace_id
  );
end;
$$;

comment on function public.list_schedules is
  'Schedules of a workspace, those with a problem first: {schedules: […]}.';

select queue.allow('authenticated, service_role', 'public.list_schedules');

create or replace function public.next_runs(
  p_workspace_id uuid,
  p_schedule jsonb,
  p_count integer default 5
)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_zone constant text := coalesce(p_schedule ->> 'timezone', 'UTC');
  v_next_at timestamptz := queue.clock();
  v_runs jsonb := '[]';
begin
  perform queue.may_read(p_workspace_id);
  for v_nth in 1..least(20, greatest(1, coalesce(p_count, 5))) loop
    v_next_at := queue.first_run(p_schedule ->> 'cron', v_zone, v_next_at);
    v_runs := v_runs || to_jsonb(v_next_at);
  end loop;
  return jsonb_build_object(
    'cron', p_schedule ->> 'cron',
    'timezone', v_zone,
    'runs', v_runs
  );
end;
$$;

comment on function public.next_runs is
  'When a schedule of {cron, timezone} will run: {cron, timezone, runs: […]}, at most 20.';

select queue.allow('authenticated, service_role', 'public.next_runs');

-- Jobs as people read them, newest first by id, which begins with the instant. What lives or failed
-- is found in its narrow table, the rest among the newest jobs, in slices that end. Last: why a job
-- is where it is, and who holds it.

-- An error in one line as Python prints it, type before message; the engine's own as it is.
create or replace function queue.error_line(p_message text, p_error jsonb)
returns text
language plpgsql immutable
set search_path = ''
as $$
declare
  v_type constant text := substring(p_error ->> 'type' from '[^.]+$');
begin
  return case
    when v_type is null
        or p_message is null
        or starts_with(p_message, v_type)
        or v_type in (
          'Fail', 'Retry', 'Cancelled', 'WorkerLost', 'AttemptTimeout',
          'DeadlineReached', 'PayloadRejected', 'ResultRejected'
        )
      then p_message
    else v_type || ': ' || p_message
  end;
end;
$$;

revoke execute on function queue.error_line from public;

-- An error's text with the ends of ids, as pages show them.
create or replace function queue.with_short_ids(p_text text)
returns text
language sql immutable
set search_path = ''
as $$
select regexp_replace(
  p_text,
  '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}([0-9a-f]{8})',
  '…\1',
  'g'
)
$$;

revoke execute on function queue.with_short_ids from public;

-- The same for errors that differ only in numbers and ids. How a process ended is a part of it.
create or replace function queue.fingerprint(p_message text, p_error jsonb)
returns text
language plpgsql immutable
set search_path = ''
as $$
begin
  return left(
    md5(regexp_replace(
      lower(concat_ws(
        ' ',
        p_error ->> 'type',
        case
          when p_error ->> 'type' = 'WorkerLost' then concat_ws(
            ' ',
            p_error #>> '{evidence,signal}',
            p_error #>> '{evidence,line}',
            p_error #>> '{evidence,guilty_type}'
          )
        end,
        p_message
      )),
      '[0-9a-f-]*[0-9][0-9a-f-]*',
      '#',
      'g'
    )),
    16
  );
end;
$$;

revoke execute on function queue.fingerprint from public;

-- What a job's row says of it, as clients read it; queue.job_json adds to this what it looks up.
-- Columns by name: to make JSON of all, and then to take some away, costs more.
create or replace function queue.row_json(p_job public.jobs, p_now timestamptz)
returns json
language plpgsql stable
set search_path = ''
as $$
begin
  return (
    select to_json(j)
    from (
      select
        p_job.id,
        p_job.workspace_id,
        p_job.user_id,
        p_job.session_id,
        p_job.queue,
        p_job.job_type,
        p_job.status,
        p_job.priority,
        p_job.payload,
        p_job.result,
        p_job.error_message,
        p_job.error_data,
        p_job.attempts,
        p_job.max_attempts,
        p_job.fence,
        p_job.generation,
        p_job.lost_attempts,
        p_job.last_seq,
        p_job.schema_version,
        p_job.timeout_seconds,
        p_job.cost_usd,
        p_job.created_at,
        p_job.updated_at,
        p_job.started_at,
        p_job.finished_at,
        p_job.completed_at,
        p_job.next_retry_at,
        p_job.scheduled_for,
        p_job.deadline_at,
        p_job.start_by_seconds,
        p_job.start_by_at,
        p_job.cancel_requested_at,
        p_job.concurrency_key,
        p_job.idempotency_key,
        p_job.unique_key,
        p_job.parent_id,
        p_job.replay_of,
        p_job.replay_from,
        p_job.traceparent,
        coalesce(p_job.tags, '{}') as tags,
        coalesce(
          p_job.progress,
          '{"percentage": 0, "stage": null, "message": null}'
        ) as progress,
        queue.state_of(
          p_job.status,
          p_job.attempts,
          p_job.next_retry_at,
          p_job.scheduled_for,
          p_now
        ) as state,
        case
          when p_job.status = 'pending'
            then coalesce(p_job.next_retry_at, p_job.scheduled_for, p_job.created_at)
        end as next_run_at,
        case
          when p_job.error_message is not null
            then queue.error_line(p_job.error_message, p_job.error_data)
        end as error,
        null::json as waiting_for,
        null::timestamptz as running_since,
        null::text as worker_id,
        json_build_object(
          'queue_ms', coalesce(p_job.queue_ms, 0),
          'run_ms', coalesce(p_job.run_ms, 0),
          'runs', p_job.fence
        ) as times
    ) as j
  );
end;
$$;

revoke execute on function queue.row_json from public;

-- A job as clients read it: queue_ms is from being due to the first start, run_ms of all attempts.
-- In a list the first three simple values of its payload are in a line, and its error is cut.
create or replace function queue.job_json(p_job public.jobs, p_is_listed boolean default false)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_due timestamptz := coalesce(
    p_job.next_retry_at,
    p_job.scheduled_for,
    p_job.created_at
  );
  v_queue double precision := p_job.queue_ms;
  v_run double precision := coalesce(p_job.run_ms, 0);
  v_wait queue.waits;
  v_since timestamptz;
  v_worker text;
  v_looked_up jsonb := '{}';
begin
  if p_job.status = 'processing' then
    select l.leased_at, w.worker_id into v_since, v_worker
    from queue.leases as l
    join queue.workers as w on w.worker = l.worker
    where l.job_id = p_job.id;
    v_run := v_run
      + greatest(0, coalesce(date_part('epoch', v_now - v_since), 0)) * 1000;
    v_looked_up := jsonb_build_object('running_since', v_since, 'worker_id', v_worker);
  elsif p_job.status = 'waiting' then
    select * into v_wait
    from queue.waits as w
    where w.job_id = p_job.id;
    if found then
      v_looked_up := jsonb_build_object(
        'next_run_at', v_wait.timeout_at,
        'waiting_for', jsonb_strip_nulls(jsonb_build_object(
          'kind', v_wait.kind,
          'name', v_wait.step,
          'question', v_wait.data -> 'question',
          'options', case when not p_is_listed then v_wait.data -> 'options' end,
          'job_ids', case when not p_is_listed then v_wait.data -> 'job_ids' end,
          'event', v_wait.event_name,
          'until', v_wait.timeout_at,
          'default', case when not p_is_listed then v_wait.default_value end,
          'since', v_wait.created_at
        ))
      );
    end if;
  elsif p_job.status = 'pending' and v_queue is null and v_due <= v_now then
    v_queue := date_part('epoch', v_now - v_due) * 1000;
  end if;
  v_looked_up := v_looked_up || jsonb_build_object(
    'times', jsonb_build_object(
      'queue_ms', round(v_queue::numeric, 1),
      'run_ms', round(v_run::numeric, 1),
      'earlier_ms', round(coalesce(p_job.run_ms, 0)::numeric, 1), -- of its attempts before
      'runs', p_job.fence
    )
  );
  if not p_is_listed then
    return queue.row_json(p_job, v_now)::jsonb || v_looked_up;
  end if;
  v_looked_up := v_looked_up || jsonb_build_object(
    'glimpse', (
      select string_agg(
        concat(left(f.key, 80), ': ', left(f.value #>> '{}', 80)),
        ', '
        order by f.n
      )
      from (
        select *
        from jsonb_each(p_job.payload) with ordinality as e (key, value, n)
        where jsonb_typeof(e.value) not in ('object', 'array', 'null')
        limit 3
      ) as f
    )
  );
  p_job.error_message := left(p_job.error_message, 500);
  p_job.payload := null; -- a quarter of a megabyte is not made JSON to be omitted
  p_job.result := null;
  return queue.row_json(p_job, v_now)::jsonb - '{payload,result,error_data}'::text[]
    || v_looked_up;
end;
$$;

revoke execute on function queue.job_json from public;

create or replace function public.get_job(p_job_id uuid)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_job constant public.jobs := queue.visible_job(p_job_id);
begin
  return queue.job_json(v_job)
    || jsonb_build_object('streams', queue.streams_json(v_job.id));
end;
$$;

comment on function public.get_job is
  E'A job as JSON; 404 when it is missing or another''s.\n\nstreams: how far each of its streams '
  'is, {name: {attempt, next}}; job_output has what they said.';

select queue.allow('authenticated, service_role', 'public.get_job');

-- Jobs of a workspace or (null) of all that live or failed, at most p_limit of each table.
create or replace function queue.places(p_workspace_id uuid, p_states text[], p_limit integer)
returns table (job_id uuid, lane integer, state text)
language plpgsql stable
set search_path = ''
as $$
#variable_conflict use_column
declare
  v_low constant uuid := coalesce(
    p_workspace_id,
    '00000000-0000-0000-0000-000000000000'
  );
  v_high constant uuid := coalesce(
    p_workspace_id,
    'ffffffff-ffff-ffff-ffff-ffffffffffff'
  );
begin
  return query
    (
      select r.job_id, r.lane, 'queued'
      from queue.lanes as l
      cross join lateral (
        select *
        from queue.ready as o
        where o.lane = l.lane and o.workspace_id between v_low and v_high
        limit p_limit
      ) as r
      where p_states && '{pending,queued}'
      limit p_limit
    )
    union all
    (
      select g.job_id, g.lane, 'queued'
      from queue.gated as g
      where p_states && '{pending,queued}'
        and g.workspace_id between v_low and v_high
        and not g.admitted
      limit p_limit
    )
    union all
    (
      select u.job_id, 0, 'queued'
      from queue.unpublished as u
      where p_states && '{pending,queued}' and u.workspace_id between v_low and v_high
      limit p_limit
    )
    union all
    (
      select l.job_id, l.lane, 'running'
      from queue.leases as l
      where p_states && '{processing,running}'
        and l.workspace_id between v_low and v_high
      limit p_limit
    )
    union all
    select
      j.id,
      j.lane,
      coalesce(
        w.state,
        queue.state_of(
          j.status,
          j.attempts,
          j.next_retry_at,
          j.scheduled_for,
          queue.clock()
        )
      )
    from (
      (
        select o.job_id, 'suspended' as state, null::timestamptz as run_at
        from queue.waits as o
        where p_states && '{waiting,suspended}'
          and o.workspace_id between v_low and v_high
        limit p_limit
      )
      union all
      (
        select o.job_id, 'failed', null
        from queue.dead as o
        where 'failed' = any (p_states) and o.workspace_id between v_low and v_high
        order by o.workspace_id desc, o.job_id desc
        limit p_limit
      )
      union all
      (
        select o.job_id, null, o.run_at
        from queue.deferred as o
        where p_states && '{pending,queued,scheduled,retrying}'
          and o.workspace_id between v_low and v_high
        limit p_limit
      )
    ) as w
    join public.jobs as j on j.id = any (array[w.job_id])
    where w.state is not null -- a line may be a deadline's
      or j.status = 'pending'
        and w.run_at = coalesce(j.next_retry_at, j.scheduled_for);
end;
$$;

revoke execute on function queue.places from public;

-- A filter as conditions of SQL, null for an empty one. An unknown name or word is refused.
create or replace function queue.conditions_of(p_filter jsonb)
returns text
language plpgsql stable
set search_path = ''
as $$
declare
  v_wrong text := case
    when not '["pending", "processing", "waiting", "completed", "failed", "cancelled"]'
        @> (p_filter -> 'status')
      then 'status'
    when not '["queued", "scheduled", "retrying", "running", "suspended", "completed", "failed",
      "cancelled"]'
        @> (p_filter -> 'state')
      then 'state'
  end;
begin
  perform queue.check_names(
    p_filter,
    array[
      'workspace_id',
      'status',
      'state',
      'job_type',
      'queue',
      'user_id',
      'mine',
      'session_id',
      'parent_id',
      'tag',
      'payload',
      'created_after',
      'error',
      'error_fingerprint',
      'search',
      'ids'
    ],
    'filter'
  );
  if v_wrong is not null then
    perform queue.refuse(
      400,
      'invalid_argument',
      format('unknown %s: %s', v_wrong, p_filter ->> v_wrong),
      v_wrong
    );
  end if;
  return (
    select string_agg(
      ' and ' || format(
        c.condition,
        case
          when c.name in ('status', 'state')
            then jsonb_path_query_array(p_filter -> c.name, '$[*]')::text -- one, or a list
          else p_filter ->> c.name
        end,
        queue.clock(),
        queue.caller()
      ),
      ''
    )
    from (
      values
        ('status', 'p.status = any (array(select jsonb_array_elements_text(%L)))'),
        (
          'state',
          'queue.state_of(p.status, p.attempts, p.next_retry_at, p.scheduled_for, %2$L)
        = any (array(select jsonb_array_elements_text(%1$L)))'
        ),
        ('job_type', 'p.job_type = %L'),
        ('queue', 'p.queue = %L'),
        ('user_id', 'p.user_id = %L'),
        ('mine', '(p.user_id = %3$L or not %1$L::boolean)'),
        ('session_id', 'p.session_id = %L'),
        ('parent_id', 'p.parent_id = %L'),
        ('tag', 'p.tags @> array[%L]'),
        ('payload', 'p.payload @> %L'),
        ('created_after', 'p.created_at >= %L'),
        ('error', 'strpos(lower(p.error_message), lower(%L)) > 0'),
        (
          'error_fingerprint',
          'queue.fingerprint(p.error_message, p.error_data) = %L'
        ),
        (
          'search',
          'strpos(lower(concat_ws('' '', p.job_type, p.error_message, p.idempotency_key,
        array_to_string(p.tags, '' ''),
        case when pg_column_size(p.payload) <= 8192 then p.payload::text end,
        -- less of an id would be in many by chance
        case when length(%1$L) >= 6 then concat(p.id, '' '', replace(p.id::text, ''-'', '''')) end)
        ), lower(%1$L)) > 0'
        )
    ) as c (name, condition)
    where p_filter ? c.name
  );
end;
$$;

revoke execute on function queue.conditions_of from public;

-- Ids of the first jobs before p_before that match a filter, and where to continue: what lives,
-- failed or has a tag by its table or index, else among the newest 10,000, for about 100 ms.
create or replace function queue.search_jobs(
  p_filter jsonb,
  p_workspaces uuid[],
  p_before uuid,
  p_limit integer,
  out ids uuid[],
  out last_id uuid
)
language plpgsql stable
set search_path = ''
as $$
declare
  v_until constant timestamptz := clock_timestamp() + interval '100 milliseconds';
  v_where constant text := queue.conditions_of(p_filter);
  v_states constant text[] := array(
    select jsonb_array_elements_text(jsonb_path_query_array(
      coalesce(p_filter -> 'state', p_filter -> 'status'),
      '$[*]'
    ))
  );
  v_head constant text := case
    when p_filter ? 'parent_id' then 'parent_id'
    when p_filter ? 'session_id' then 'session_id'
  end;
  v_known uuid[];
  v_left integer := 10000; -- jobs that may yet be read
  v_slice integer := p_limit;
  v_read record;
begin
  v_known := case
    when p_filter ? 'ids'
      then array(select jsonb_array_elements_text(p_filter -> 'ids')::uuid)
    when p_filter ? 'tag' then array(
      select j.id
      from public.jobs as j
      where j.tags @> array[p_filter ->> 'tag']
        and (p_workspaces is null or j.workspace_id = any (p_workspaces))
      limit 10001
    )
    when v_states <> '{}'
        and not v_states && '{completed,cancelled}'
        and p_workspaces is not null
      then array(
        select p.job_id
        from unnest(p_workspaces) as w (id)
        cross join lateral queue.places(w.id, v_states, 10001) as p
        limit 10001
      )
  end;
  v_known := case
    when p_filter ? 'ids' or cardinality(v_known) <= 10000 then v_known
  end;
  ids := '{}';
  last_id := p_before;
  loop
    -- $1 ids, $2 workspaces (null: all), $3 before, $4 how many; as ranges: no index of ids serves
    execute format(
      'with p as materialized (
        select p.id, row_number() over () as n, (true %s) is true as fits
          from (select j.* from %s limit $4) as p)
      select array(select id from p where fits order by n) as ids, count(*) as jobs,
        (array_agg(id order by n desc))[1] as last from p',
      v_where,
      case
        when v_known is not null
          then 'public.jobs as j where j.id = any ($1) and j.id < $3
        and ($2 is null or j.workspace_id = any ($2)) order by j.id desc'
        when v_head is not null then format(
          'public.jobs as j where j.%1$I between %2$L and %2$L
        and j.id < $3 and ($2 is null or j.workspace_id = any ($2))
        order by j.%1$I desc, j.id desc',
          v_head,
          p_filter ->> v_head
        )
        else 'unnest($2) as w (id) cross join lateral (
        select * from public.jobs as o where o.workspace_id between w.id and w.id and o.id < $3
        order by o.workspace_id desc, o.id desc limit $4) as j order by j.id desc'
      end
    )
    into v_read
    using
      v_known,
      p_workspaces,
      coalesce(last_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'),
      v_slice;
    ids := ids || v_read.ids;
    v_left := v_left - v_slice;
    last_id := case when v_read.jobs = v_slice then v_read.last end;
    exit when last_id is null
      or cardinality(ids) >= p_limit
      or v_left <= 0
      or clock_timestamp() > v_until;
    v_slice := least(4 * v_slice, v_left, 2000);
  end loop;
end;
$$;

revoke execute on function queue.search_jobs from public;

create or replace function public.list_jobs(
  p_filter jsonb default '{}',
  p_cursor jsonb default null,
  p_limit integer default 50
)
returns json
language plpgsql stable
security definer
set search_path = ''
-- a plan that reads all and sorts it is never what is wanted
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
declare
  v_limit constant integer := least(200, greatest(1, coalesce(p_limit, 50)));
  v_is_service constant boolean := queue.is_service();
  v_filter constant jsonb := coalesce(jsonb_strip_nulls(p_filter), '{}');
  v_named uuid;
  v_found record;
begin
  if p_cursor ->> 'id' is null and p_cursor <> 'null' then
    perform queue.refuse(400, 'invalid_argument', 'unknown cursor', 'cursor');
  end if;
  v_named := v_filter ->> 'workspace_id';
  if v_named is not null then
    perform queue.may_read(v_named);
  elsif v_is_service
    and not v_filter ?| array['ids', 'parent_id', 'session_id']
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      'name the workspace',
      'workspace_id'
    );
  end if;
  perform queue.take_call_slot(v_named);
  -- of the one named, the caller's own, or all: the service's search by id, session or parent
  v_found := queue.search_jobs(
    v_filter,
    case
      when v_named is not null then array[v_named]
      when not v_is_service then array(
        select w
        from queue.my_workspaces() as w
        where v_filter ?| array['ids', 'parent_id', 'session_id']
          or queue.is_operator()
          or not exists ( -- the one joined first, as in public.own_workspace
            select from public.workspace_members as m
            join public.workspace_members as o
              on o.user_id = m.user_id and o.created_at < m.created_at
            where m.user_id = queue.caller() and m.workspace_id = w
          )
      )
    end,
    (p_cursor ->> 'id')::uuid,
    v_limit + 1
  );
  if cardinality(v_found.ids) > v_limit then
    v_found.last_id := v_found.ids[v_limit];
  end if;
  return json_build_object(
    'jobs', (
      select coalesce(json_agg(queue.job_json(j, true) order by f.n), '[]')
      from unnest(v_found.ids[:v_limit]) with ordinality as f (id, n)
      join public.jobs as j on j.id = any (array[f.id])
    ),
    'next', case
      when v_found.last_id is not null then json_build_object('id', v_found.last_id)
    end
  );
exception when data_exception then
  perform queue.refuse(400, 'invalid_argument', sqlerrm, 'filter');
end;
$$;

comment on function public.list_jobs is
  E'Jobs, newest first: {jobs, next}; next is the p_cursor '
  'of the next page.\n\nOne of fewer, even of none, may have a next: 10,000 jobs are looked at.';

select queue.allow('authenticated, service_role', 'public.list_jobs');

-- What lives or failed up to 10,000 of each table, what else ended among the newest 10,000 jobs of
-- the workspace; of all workspaces (null), for queue_stats, only what lives or failed.
create or replace function public.count_jobs(p_workspace_id uuid, p_filter jsonb default '{}')
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_most constant integer := 10000;
  v_filter constant jsonb := coalesce(jsonb_strip_nulls(p_filter), '{}');
  v_lanes constant integer[] := array(
    select l.lane
    from queue.lanes as l
    where coalesce(v_filter ->> 'job_type' = l.job_type, true)
      and coalesce(v_filter ->> 'queue' = l.queue, true)
  -- those of types that are not published have no lane yet
  ) || case v_filter when '{}' then 0 end;
begin
  perform queue.may_read(p_workspace_id, p_reads_much => true);
  perform queue.check_names(v_filter, array['job_type', 'queue'], 'filter');
  return (
    with newest as materialized (
      select o.status, o.lane
      from public.jobs as o
      where o.workspace_id = p_workspace_id
      order by o.workspace_id desc, o.id desc
      limit v_most
    ),
    found as (
      select p.state, p.lane
      from queue.places(
        p_workspace_id,
        '{queued,scheduled,retrying,running,suspended,failed}',
        v_most
      ) as p
      union all
      select n.status, n.lane
      from newest as n
      where n.status in ('completed', 'cancelled')
    ),
    counted as (
      select
        s.state,
        count(*) filter (where f.lane = any (v_lanes)) as jobs,
        v_most <= case
          when s.state in ('completed', 'cancelled')
            then (select count(*) from newest)
          -- of one table
          else sum(count(*)) over (
            partition by replace(s.state, 'retrying', 'scheduled')
          )
        end as more
      from unnest(array[
        'queued', 'scheduled', 'retrying', 'running', 'suspended', 'completed',
        'failed', 'cancelled'
      ]) as s (state)
      left join found as f on f.state = s.state
      group by 1
    )
    select jsonb_build_object(
      'states', jsonb_object_agg(c.state, c.jobs),
      'at_least', coalesce(jsonb_agg(c.state) filter (where c.more), '[]')
    )
    from counted as c
  );
end;
$$;

comment on function public.count_jobs is
  'Jobs of a workspace by state: {states, at_least}; at_least names those of which there are more.';

select queue.allow('authenticated, service_role', 'public.count_jobs');

create or replace function public.dead_letters(p_workspace_id uuid)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
begin
  perform queue.may_read(p_workspace_id);
  perform queue.take_call_slot(p_workspace_id);
  return (
    with letters as materialized (
      select
        j.id,
        j.job_type,
        j.finished_at,
        queue.with_short_ids(queue.error_line(j.error_message, j.error_data)) as message,
        queue.fingerprint(j.error_message, j.error_data) as print,
        c.job_type as cause_type,
        queue.fingerprint(c.error_message, c.error_data) as cause_print
      from (
        select d.job_id
        from queue.dead as d
        where d.workspace_id = p_workspace_id
        order by d.workspace_id desc, d.job_id desc
        limit 10000
      ) as d
      join public.jobs as j on j.id = any (array[d.job_id])
      left join public.jobs as c on c.id = case
        when j.error_data ->> 'type' ~ '[.]ChildrenFailed$'
          then queue.deepest_below(j.id, true)
      end
    ),
    hours as ( -- of the last day
      select
        l.job_type,
        l.print,
        jsonb_object_agg(l.hour, l.jobs) as by_hour
      from (
        select
          n.job_type,
          n.print,
          floor(extract(epoch from queue.clock() - n.finished_at) / 3600) as hour,
          count(*) as jobs
        from letters as n
        where n.finished_at > queue.clock() - interval '1 day'
        group by 1, 2, 3
      ) as l
      group by 1, 2
    ),
    effects as (
      select
        l.cause_type,
        l.cause_print,
        jsonb_agg(jsonb_build_object(
          'job_type', l.job_type,
          'error_fingerprint', l.print,
          'jobs', l.jobs,
          'latest_id', l.latest_id
        )) as effects
      from (
        select
          n.cause_type,
          n.cause_print,
          n.job_type,
          n.print,
          count(*) as jobs,
          (array_agg(n.id order by n.finished_at desc, n.id))[1] as latest_id
        from letters as n
        where n.cause_type is not null
        group by 1, 2, 3, 4
      ) as l
      group by 1, 2
    )
    select jsonb_build_object(
      'groups', coalesce(
        jsonb_agg(
          to_jsonb(a) || jsonb_build_object(
            'by_hour', coalesce(h.by_hour, '{}'),
            'consequences', coalesce(e.effects, '[]')
          )
          order by a.jobs desc, a.last_at desc
        ),
        '[]'
      ),
      'more', (select count(*) from letters) = 10000
    )
    from (
      select
        l.job_type,
        l.print as error_fingerprint,
        count(*) as jobs,
        min(l.finished_at) as first_at,
        max(l.finished_at) as last_at,
        (array_agg(l.id order by l.finished_at desc, l.id))[1] as latest_id,
        (array_agg(l.message order by l.finished_at desc, l.id))[1] as error_message
      from letters as l
      where l.cause_type is null
      group by 1, 2
    ) as a
    left join hours as h
      on h.job_type = a.job_type and h.print = a.error_fingerprint
    left join effects as e
      on e.cause_type = a.job_type and e.cause_print = a.error_fingerprint
  );
end;
$$;

comment on function public.dead_letters is
  'Failed jobs of a workspace by what went wrong, the largest group first: {groups, more}; jobs '
  'that failed since a job below them did are consequences of its group.';

select queue.allow('authenticated, service_role', 'public.dead_letters');

-- Attempts of a job, the latest last; tracebacks, which show code, only if p_is_open.
create or replace function queue.attempt_lines(
  p_job public.jobs,
  p_limit integer,
  p_is_open boolean
)
returns jsonb
language sql stable
set search_path = ''
as $$
select coalesce(
  jsonb_agg(
    to_jsonb(e) - array[
      'job_id',
      'worker',
      'error_data',
      case when not p_is_open then 'traceback' end
    ] || jsonb_build_object(
      'worker_id', w.worker_id,
      'error_message', left(e.error_message, 1000),
      'error', left(queue.error_line(e.error_message, e.error_data), 1000),
      'has_traceback', e.traceback is not null
    )
    order by e.fence
  ),
  '[]'
)
from (
  (
    select *
    from queue.attempts as a
    where a.job_id = p_job.id
    order by a.fence desc
    limit p_limit
  )
  union all
  select
    l.job_id,
    l.fence,
    l.attempt,
    l.worker,
    l.leased_at,
    null,
    null,
    null,
    null,
    null,
    null
  from queue.leases as l
  where l.job_id = p_job.id
  union all
  select
    p_job.id,
    p_job.fence,
    p_job.attempts,
    p_job.worker,
    p_job.started_at,
    p_job.finished_at,
    'completed',
    null,
    null,
    null,
    null
  where p_job.status = 'completed' and p_job.fence = 1
) as e
left join queue.workers as w on w.worker = e.worker
$$;

revoke execute on function queue.attempt_lines from public;

create or replace function public.job_attempts(p_job_id uuid)
returns jsonb
language sql stable
security definer
set search_path = ''
as $$
select jsonb_build_object(
  'attempts', queue.attempt_lines(
    j,
    1000,
    queue.is_manager(j.workspace_id) or queue.is_operator() or queue.is_service()
  )
)
from queue.visible_job(p_job_id) as j
cross join lateral queue.take_call_slot(j.workspace_id)
$$;

comment on function public.job_attempts is
  'The last 1,000 attempts of a job, the running one last: {attempts}; tracebacks for managers.';

select queue.allow('authenticated, service_role', 'public.job_attempts');

create or replace function public.job_trace(p_job_id uuid)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_most constant integer := 300;
  v_job constant public.jobs := queue.visible_job(p_job_id);
  v_ids constant uuid[] := array(
    with recursive tree as (
      select v_job.id, 0 as level
      union all
      select c.id, t.level + 1
      from tree as t
      cross join lateral (
        select j.id
        from public.jobs as j
        where j.parent_id = t.id
        order by j.id
      ) as c
      where t.level < 6
    )
    select t.id
    from tree as t
    limit v_most + 1
  );
begin
  perform queue.take_call_slot(v_job.workspace_id);
  return jsonb_build_object(
    'now', queue.clock(),
    'more', cardinality(v_ids) > v_most,
    'jobs', (
      select jsonb_agg(
        queue.job_json(j, true) || jsonb_build_object(
          'attempts', queue.attempt_lines(j, 100, false),
          'steps', (
            select coalesce(
              jsonb_agg(to_jsonb(s) order by s.ended_at, s.name),
              '[]'
            )
            from (
              (
                select
                  t.name,
                  t.kind,
                  t.started_at,
                  t.created_at as ended_at,
                  null::timestamptz as timeout_at
                from queue.steps as t
                where t.job_id = j.id and t.nth = 0
                order by t.created_at desc
                limit 200
              )
              union all
              select l.step, 'step', l.step_started_at, null, null
              from queue.leases as l
              where l.job_id = j.id and l.step is not null
              union all
              select w.step, w.kind, w.created_at, null, w.timeout_at
              from queue.waits as w
              where w.job_id = j.id
            ) as s
          )
        )
        order by t.nth
      )
      from unnest(v_ids[:v_most]) with ordinality as t (id, nth)
      join public.jobs as j on j.id = any (array[t.id])
    )
  );
end;
$$;

comment on function public.job_trace is
  'Attempts, steps and waits of at most 300 jobs of a tree, six levels deep: {now, more, jobs}.';

select queue.allow('authenticated, service_role', 'public.job_trace');

-- Workers seen within three minutes, 90 seconds where the run has ended, or with a lease in force.
create or replace function queue.alive_workers(p_now timestamptz)
returns setof queue.workers
language sql stable
set search_path = ''
as $$
select w.*
from queue.workers as w
where w.seen_at > p_now - interval '3 minutes'
  and coalesce(w.ended_at > p_now - interval '90 seconds', true)
union
select w.*
from (
  select distinct l.worker
  from queue.leases as l
  where l.expires_at > p_now
) as l
join queue.workers as w on w.worker = l.worker
$$;

revoke execute on function queue.alive_workers from public;

-- The published type whose name is most like one: at least half of their letter pairs are the same.
create or replace function queue.nearest_type(p_job_type text)
returns text
language sql stable
set search_path = ''
as $$
select p.job_type
from (
  select
    t.job_type,
    array(
      select distinct substr(t.job_type, n, 2)
      from generate_series(1, length(t.job_type) - 1) as n
    ) as its
  from queue.job_types as t
  where t.schema_version > 0 and not t.internal and length(t.job_type) > 1
) as p
cross join lateral (
  select 2.0
    * count(*) filter (where o.pair = any (p.its))
    / (cardinality(p.its) + count(*)) as n
  from (
    select distinct substr(p_job_type, n, 2) as pair
    from generate_series(1, length(p_job_type) - 1) as n
  ) as o
) as likeness
where likeness.n >= 0.5
order by likeness.n desc, p.job_type
limit 1
$$;

revoke execute on function queue.nearest_type from public;

-- Of types, each in its queue if one is named: whether workers run, but none of them serves it.
create or replace function queue.served(p_job_types text[], p_queues text[], p_now timestamptz)
returns table (job_type text, queue text, unserved boolean)
language sql stable
set search_path = ''
as $$
with workers as materialized ( -- most serve the same
  select distinct w.job_types, w.queues
  from queue.alive_workers(p_now) as w
)
select
  t.job_type,
  t.queue,
  exists (select from workers)
    and not exists (
      select from workers as w
      where (w.job_types is null or t.job_type = any (w.job_types))
        and (t.queue is null or w.queues is null or t.queue = any (w.queues))
    )
    and not exists (
      select from queue.job_types as o
      where o.job_type = t.job_type
        and o.registered_at > p_now - interval '1 minute'
    )
from unnest(p_job_types, p_queues) as t (job_type, queue)
$$;

revoke execute on function queue.served from public;

-- What is said of a reason, the likeliest first; failed:<kind> are the steps of a kind of error. Of
-- a step: the command comes after minutehand, no path is the job's page.
create or replace view queue.guidance as
select row_number() over () as id, a.*
from (
  values
    ('completed', 'It completed at {finished_at}.', null, null, null),
    (
      'cancelled',
      'It was cancelled at {finished_at}: it had not started by {start_by_at}.',
      null,
      null,
      null
    ),
    ('cancelled', 'It was cancelled at {finished_at}.', null, null, null),
    ('start_by', 'It is cancelled unless it starts by {start_by_at}.', null, null, null),
    (
      'failed',
      'It failed at {finished_at} after {attempts} of {max_attempts} attempts: {error_line}',
      'Correct the cause, and run it again: finished steps are kept.',
      'retry {job_id}',
      null
    ),
    (
      'failed:child',
      null,
      'Correct {cause_type}, the first that failed below it; run this again.',
      'show {child}',
      '/jobs/{child}'
    ),
    (
      'failed:timeout',
      null,
      'Its line in the traceback is where it waited: give that a limit of its '
        'own, free what it waits for, or give the type a longer `timeout`; then run it again.',
      'retry {job_id}',
      null
    ),
    (
      'failed:deadline',
      null,
      'Enqueue it again with a later deadline.',
      'replay {job_id}',
      null
    ),
    (
      'failed:lost',
      null,
      'SIGKILL is most often the limit of memory, SIGSEGV a library in C; '
        'without either, code held the event loop: correct it, run it again.',
      'retry {job_id}',
      null
    ),
    (
      'failed:killed',
      null,
      'A program that it started was ended by {signal}, as the limit of memory '
        'does: give the worker more, or it less.',
      'retry {job_id}',
      null
    ),
    (
      'failed:machine',
      null,
      'Its machine is full ({code}): make room.',
      'retry {job_id}',
      null
    ),
    (
      'failed:contention',
      null,
      'It met another transaction ({code}): run it again; where that '
        'returns, lock in one order, and briefly.',
      'retry {job_id}',
      null
    ),
    (
      'failed:schema',
      null,
      'The database lacks what its query names ({code}): apply the migration, '
        'or correct the query.',
      'retry {job_id}',
      null
    ),
    (
      'failed:payload',
      null,
      'Its payload is of version {version}, the type of {type_version}: write '
        'the upcaster between them, deploy, and run it again.',
      'retry {job_id}',
      '/types/{job_type}'
    ),
    (
      'failed:payload',
      null,
      'Deploy the worker, if it is older than the payload; else run it again '
        'with one that fits the type.',
      'retry {job_id} --payload @payload.json',
      null
    ),
    (
      'failed:result',
      null,
      'What the processor returned is refused: correct that in code, deploy, '
        'and run it again.',
      'retry {job_id}',
      null
    ),
    (
      'failed:credentials',
      null,
      'Correct the refused credentials ({code}).',
      'retry {job_id}',
      null
    ),
    (
      'failed:rate',
      null,
      'The other side limits its rate: set `rate_limit` of the type below it, '
        'then run it again.',
      'retry {job_id}',
      '/types/{job_type}'
    ),
    (
      'failed:request',
      null,
      'Correct the request that is refused ({code}), and run it again.',
      'retry {job_id}',
      null
    ),
    (
      'failed:unavailable',
      null,
      'The other side did not answer ({code}): run it again once it does.',
      'retry {job_id}',
      null
    ),
    (
      'refused',
      'The database refuses a change of its row; it is tried again at {retry_at}.',
      'Correct the trigger or constraint that refuses it, then wait.',
      'explain {job_id}',
      null
    ),
    (
      'lease_expired',
      'Its worker {worker_id} has not reported; the lease expired at {expires_at}.',
      'Nothing until {patience_until}: a tick takes it back before. What became of its worker:',
      'show {job_id}',
      null
    ),
    (
      'worker_died',
      'The process of its worker {worker_id} ended at {ended_at}; the job is being given back.',
      'Nothing until {patience_until}: a tick takes it back before. Why the process ended:',
      'show {job_id}',
      null
    ),
    (
      'passed_over',
      'It has been due since {run_at}, and ticks of workers have passed it over.',
      'See what refuses it, and which worker is to do it.',
      'doctor',
      '/overview'
    ),
    (
      'locked',
      'A session (pid {pid}) has held its row in an open transaction since {held_since}: '
        'it can neither start nor end.',
      'Commit or end that session: `select pg_terminate_backend({pid})`.',
      'explain {job_id}',
      null
    ),
    (
      'cancelling',
      'It was asked to stop at {cancel_requested_at}; worker {worker_id} learns it with '
        'its next report, at the latest at {expires_at}.',
      'Nothing until {expires_at}: it ends then at the latest.',
      'watch {job_id}',
      null
    ),
    (
      'running',
      'Worker {worker_id} has been running it since {leased_at}; its lease lasts until '
        '{expires_at} unless renewed.',
      'Nothing until {expires_at}: without a renewal it is taken back then. Follow it.',
      'watch {job_id}',
      null
    ),
    (
      'sleeping',
      'It sleeps until {until}.',
      'Nothing until {until}: it continues then.',
      'watch {job_id}',
      null
    ),
    (
      'asking',
      'It waits for an answer to: {question}',
      'Answer it.',
      'answer {job_id} ANSWER',
      null
    ),
    (
      'waiting_for_event',
      'It waits for the event {event}.',
      'Emit {event}: '
        '`select public.emit_event(…)`, or POST /api/events.',
      'docs sql',
      null
    ),
    (
      'waiting_for_children',
      'It waits for its children; of those that have not ended the first is {holder_type} '
        '{holder} ({holder_state}).',
      'See why that one has not ended.',
      'explain {holder}',
      '/jobs/{holder}'
    ),
    (
      'waiting_for_children',
      'It waits for its children.',
      null,
      null,
      null
    ),
    (
      'due',
      'It has been due since {run_at} and joins the queue with the next tick.',
      'Nothing until {patience_until}. After that:',
      'doctor --only schedule',
      '/overview'
    ),
    (
      'scheduled',
      'It is scheduled for {run_at}.',
      'Run it now.',
      'retry {job_id}',
      null
    ),
    (
      'snoozed',
      'Its processor put it off until {run_at}.',
      'Run it now.',
      'retry {job_id}',
      null
    ),
    (
      'backing_off',
      'Attempt {attempts} of {max_attempts} failed ({error_line}); it is tried again '
        'at {run_at}.',
      'Run it now, if the cause is gone.',
      'retry {job_id}',
      null
    ),
    (
      'job_type_paused',
      'The job type {job_type} has been paused since {paused_at}.',
      'The operator resumes the type.',
      'resume --type {job_type}',
      '/types/{job_type}'
    ),
    (
      'queue_paused',
      'The queue {queue} has been paused since {paused_at}.',
      'The operator resumes '
        'the queue.',
      'resume --queue {queue}',
      '/types'
    ),
    (
      'workspace_paused',
      'The workspace has been paused since {paused_at}.',
      'A manager of the '
        'workspace resumes it.',
      'resume --all',
      '/overview'
    ),
    (
      'workspace_type_paused',
      'The job type {job_type} has been paused in the workspace since '
        '{paused_at}.',
      'A manager of the workspace resumes the type.',
      'resume --type {job_type}',
      '/types/{job_type}'
    ),
    (
      'no_worker',
      'No worker has run since {since}: nothing starts.',
      'Its key was revoked at '
        '{revoked_at}: give it a new one.',
      'token worker',
      '/overview'
    ),
    (
      'no_worker',
      'No worker has been seen yet.',
      'Start one: `minutehand dev`, `minutehand serve`; '
        'see the schedule on AWS, or a refusal in its log.',
      'doctor --only schedule',
      '/overview'
    ),
    (
      'no_processor',
      'No worker has published the job type {unpublished}.',
      'Its registration was '
        'refused: {refusal}. Correct it in code, and deploy.',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'no_processor',
      'Workers run, but none of them serves {types}: {jobs} due.',
      'If the name is '
        'misspelt: the nearest that a worker has is {nearest}.',
      'cancel {job_id}',
      null
    ),
    (
      'no_processor',
      'Workers run, but none of them serves the job type {job_type} in the queue '
        '{queue}.',
      'Deploy a worker that has {job_type}.',
      'types',
      '/types'
    ),
    (
      'key_limit',
      'The concurrency limit of its key is used up: {running} of {limit}, held by job '
        '{holder} ({holder_state}).',
      'Wait for job {holder}, or cancel it.',
      'cancel {holder}',
      '/jobs/{holder}'
    ),
    (
      'key_limit',
      null,
      'Or raise `key_concurrency` in code, and deploy.',
      null,
      '/types/{job_type}'
    ),
    (
      'workspace_type_limit',
      'The concurrency limit of its type in the workspace is used up: {running} of {limit} '
        'run, the longest is job {holder}, since {held_since}.',
      'Wait for job {holder}, or cancel it.',
      'cancel {holder}',
      '/jobs/{holder}'
    ),
    (
      'workspace_type_limit',
      'The concurrency limit of its type in the workspace is used up: {running} of {limit} run.',
      'Or raise `workspace_concurrency` in code, and deploy.',
      'ls --state running --type {job_type}',
      '/jobs?state=running&job_type={job_type}'
    ),
    (
      'workspace_limit',
      'The concurrency limit of the workspace is used up: {running} of {limit} '
        'run, the longest is {holder_type} {holder}, since {held_since}.',
      'Wait for job {holder}, or cancel it.',
      'cancel {holder}',
      '/jobs/{holder}'
    ),
    (
      'workspace_limit',
      'The concurrency limit of the workspace is used up: {running} of {limit} run.',
      'Or let a manager raise the limit.',
      'ls --state running',
      '/jobs?state=running'
    ),
    (
      'type_limit',
      'The concurrency limit of its type is used up: {running} of {limit} run, the longest '
        'is job {holder}, since {held_since}.',
      'Wait for job {holder}, or cancel it.',
      'cancel {holder}',
      '/jobs/{holder}'
    ),
    (
      'type_limit',
      'The concurrency limit of its type is used up by {others}: {running} of {limit} run.',
      'Or raise `max_concurrency` in code, and deploy.',
      'ls --state running --type {job_type}',
      '/jobs?state=running&job_type={job_type}'
    ),
    (
      'type_limit',
      'The concurrency limit of its type is used up: {running} of {limit} run.',
      null,
      null,
      null
    ),
    (
      'rate_limited',
      'The rate limit of {limit} starts per {per_seconds} s is used up; the next '
        'start is free at {estimated_start_at}.',
      'Nothing until {estimated_start_at}, if that rate is meant; else raise it in '
        'code, and deploy.',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'next_in_line',
      'It is the next of its workspace and starts with the next lease call that has a '
        'slot.',
      'Nothing until {patience_until}. After that:',
      'doctor',
      '/overview'
    ),
    (
      'no_slot',
      'It has been the next of its workspace since {ready_at}, but no worker has a free slot: '
        'they run {running} jobs, the longest is {holder_type} {holder}, since {held_since}.',
      'Wait for job {holder}, cancel it, or start another worker.',
      'cancel {holder}',
      '/jobs/{holder}'
    ),
    (
      'no_slot',
      'It has been the next of its workspace since {ready_at}, but no worker that serves it has '
        'a free slot.',
      'Start another worker, or see why those that run take nothing.',
      'doctor',
      '/overview'
    ),
    (
      'behind_others',
      'Jobs of its workspace that are ahead of it: {at_least} or more.',
      'Nothing until {patience_until}: it starts after them. A smaller priority goes first.',
      'ls --state queued --type {job_type}',
      '/jobs?state=queued&job_type={job_type}'
    ),
    (
      'long_line',
      'Ready since {ready_at}, with {ahead} jobs of its workspace ahead of it: they are started '
        'more slowly than they come.',
      'Start another worker, or raise its slots.',
      'status',
      '/overview'
    ),
    (
      'behind_others',
      'Jobs of its workspace that are ahead of it: {ahead}.',
      null,
      null,
      null
    ),
    (
      'read_only',
      'The database takes no writes: the plan''s disk is full.',
      'In one session of the '
        'SQL editor: `set default_transaction_read_only = off`; `select '
        'public.set_settings(''{"retention_days": {"completed": 7, "cancelled": 7, '
        '"failed": 7}}'')`; `select public.run_maintenance(''{"budget_ms": 5000}'')` while it has '
        'more; `vacuum full queue.job_events, public.job_logs, public.jobs`.',
      null,
      '/overview'
    ),
    (
      'overdue',
      'A job has been due since {since}.',
      'See why it waits.',
      'explain {job_id}',
      null
    ),
    (
      'refused_type',
      'The type {job_type} was refused.',
      'Correct it in code, and deploy.',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'late_schedule',
      'The schedule {schedule} {problem}.',
      'Look at the schedule and its type.',
      null,
      '/schedules'
    ),
    (
      'unanswered',
      'Jobs that have waited for an answer for more than a day: {jobs}, the first since {since}.',
      'Answer the first.',
      'answer {job_id} ANSWER',
      null
    ),
    (
      'failing_maintenance',
      'Maintenance fails.',
      'Correct what refuses it: it is tried again within '
        'an hour.',
      null,
      '/overview'
    ),
    (
      'open_transaction',
      'A session holds the queue back.',
      'End it, if no one needs it: `select '
        'pg_terminate_backend({pid})`.',
      null,
      '/overview'
    ),
    (
      'two_codes',
      'Two codes run side by side: {codes}.',
      'End the older one, unless it is about to end. What the younger deploy says of a type holds.',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'disk_filling',
      'The disk is {percent} % full.',
      'Enlarge the disk and say its new size (`set_settings`, `disk_bytes`), or keep ended jobs '
        'for fewer days (`retention_days`).',
      null,
      '/overview'
    ),
    (
      'disk_nearly_full',
      'The disk is {percent} % full: at 95 % the database takes no more writes.',
      'Enlarge the disk now and say its new size (`set_settings`, `disk_bytes`), or keep ended '
        'jobs for fewer days (`retention_days`).',
      null,
      '/overview'
    )
) as a (reason, sentence, words, command, path);

-- The sentence and steps for a reason, {names} filled; a text with one of no value is left out.
create or replace function queue.words_of(
  p_reason text,
  p_with jsonb,
  p_kind text default null
)
returns jsonb
language sql stable
set search_path = ''
as $$
with texts as (
  select
    a.id,
    t.name,
    case
      when bool_and(p.part is not null) then string_agg(p.part, '' order by p.n)
    end as text
  from queue.guidance as a
  cross join lateral (
    values
      ('sentence', a.sentence),
      ('words', a.words),
      ('command', 'minutehand ' || a.command),
      ('path', coalesce(a.path, '/jobs/{job_id}'))
  ) as t (name, text)
  cross join lateral ( -- every second part is a name; instants are to the second
    select
      s.n,
      case s.n % 2
        when 1 then s.part
        else regexp_replace(
          p_with ->> s.part,
          '^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(\.\d+)?\+00:00$',
          '\1 \2+00'
        )
      end as part
    from regexp_split_to_table(
      t.text,
      '\{(?=\w+\})|(?<=\{\w+)\}'
    ) with ordinality as s (part, n)
  ) as p
  where a.reason = case t.name
    when 'sentence' then p_reason
    else concat_ws(':', p_reason, p_kind)
  end
  group by 1, 2
),
lines as (
  select t.id, jsonb_object_agg(t.name, t.text) as line
  from texts as t
  where t.text is not null
  group by 1
)
select jsonb_build_object(
  'sentence', (
    array_agg(l.line -> 'sentence' order by l.id) filter (where l.line ? 'sentence')
  )[1],
  'next', coalesce(
    jsonb_agg(l.line - 'sentence' order by l.id) filter (where l.line ? 'words'),
    '[]'
  )
)
from lines as l
$$;

revoke execute on function queue.words_of from public;

drop function queue.explain_row(p_job public.jobs, p_now timestamp with time zone);

-- What keeps a job from its start: it ended, the project's own trigger refuses it, it runs, waits,
-- is put off, unpublished or paused, or no worker serves it. Null where it may start.
create or replace function queue.explain_row(
  p_job public.jobs,
  p_alive queue.workers[],
  p_now timestamptz
)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_data constant jsonb := jsonb_build_object(
    'attempts', p_job.attempts,
    'max_attempts', p_job.max_attempts,
    'error_message', p_job.error_message,
    'error', p_job.error_data
  );
  -- so long something is a tick's to do, before it is called late
  c_patience constant interval := interval '90 seconds';
  v_late constant text := case
    when p_alive = '{}' then 'no_worker'
    else 'passed_over'
  end;
  v_wait jsonb;
  v_refusal text;
  v_found record;
begin
  if p_job.finished_at is not null then
    return jsonb_build_object('reason', p_job.status, 'data', v_data);
  end if;
  select
    r.task,
    r.failure,
    r.failures,
    r.refused_at,
    r.retry_at
  into v_found
  from queue.refusals as r
  where r.job_id = p_job.id
  order by r.retry_at desc
  limit 1;
  if found then
    return jsonb_build_object(
      'reason', 'refused',
      'since', v_found.refused_at,
      'cause', v_found.failure,
      'data', to_jsonb(v_found) - '{failure,refused_at}'::text[]
    );
  elsif p_job.status = 'processing' then
    select
      w.worker_id,
      l.leased_at,
      l.expires_at,
      l.attempt,
      case when w.evidence is not null then w.ended_at end as ended_at,
      l.expires_at + c_patience as patience_until,
      l.expires_at as run_at -- when it was due to be given back
    into v_found
    from queue.leases as l
    left join queue.workers as w on w.worker = l.worker
    where l.job_id = p_job.id;
    return jsonb_build_object(
      'since', v_found.leased_at,
      'data', to_jsonb(v_found),
      'reason', case
        when v_found.patience_until <= p_now then v_late
        when v_found.expires_at <= p_now and v_found.ended_at is not null
          then 'worker_died'
        when v_found.expires_at <= p_now then 'lease_expired'
        when p_job.cancel_requested_at is not null then 'cancelling'
        else 'running'
      end
    );
  elsif p_job.status = 'waiting' then
    v_wait := queue.job_json(p_job) -> 'waiting_for';
    return jsonb_build_object(
      'estimated_start_at', v_wait -> 'until',
      'data', v_wait,
      'since', v_wait -> 'since',
      'reason', case v_wait ->> 'kind'
        when 'sleep' then 'sleeping'
        when 'ask' then 'asking'
        else 'waiting_for_' || (v_wait ->> 'kind')
      end
    );
  end if;
  select d.run_at, d.run_at + c_patience as patience_until into v_found
  from queue.deferred as d
  where d.run_at = coalesce(p_job.next_retry_at, p_job.scheduled_for)
    and d.job_id = p_job.id;
  if found then
    return jsonb_build_object(
      'since', v_found.run_at,
      'estimated_start_at', greatest(v_found.run_at, p_now),
      'data', v_data || to_jsonb(v_found),
      'reason', case
        when v_found.patience_until <= p_now then v_late
        when v_found.run_at <= p_now then 'due'
        when p_job.next_retry_at is null then 'scheduled'
        when p_job.error_message is null then 'snoozed'
        else 'backing_off'
      end
    );
  end if;
  v_refusal := (
    select t.refusal
    from queue.job_types as t
    where t.job_type = p_job.job_type
  );
  select * into v_found
  from queue.pauses as p
  where (p.kind, p.name) in (
    ('job_type', p_job.job_type),
    ('queue', p_job.queue),
    ('workspace', p_job.workspace_id::text),
    ('workspace_type', p_job.workspace_id || '/' || p_job.job_type)
  )
  order by p.kind
  limit 1;
  return case
    when p_job.lane = 0 then jsonb_build_object(
      'reason', 'no_processor',
      'cause', v_refusal,
      'data', jsonb_build_object(
        'refusal', v_refusal,
        'unpublished', p_job.job_type,
        'nearest', queue.nearest_type(p_job.job_type)
      )
    )
    when found then jsonb_build_object(
      'reason', v_found.kind || '_paused',
      'data', to_jsonb(v_found),
      'since', v_found.paused_at,
      'cause', v_found.reason
    )
    when p_alive = '{}' then jsonb_build_object('reason', 'no_worker')
    when not exists (
      select from unnest(p_alive) as w
      where (w.job_types is null or p_job.job_type = any (w.job_types))
        and (w.queues is null or p_job.queue = any (w.queues))
    )
      and not exists (
        select from queue.job_types as o
        where o.job_type = p_job.job_type
          and o.registered_at > p_now - interval '1 minute'
      )
      then jsonb_build_object(
        'reason', 'no_processor',
        'cause', v_refusal,
        'data', jsonb_build_object('refusal', v_refusal)
      )
  end;
end;
$$;

revoke execute on function queue.explain_row from public;

-- What a job that may start waits for: its narrowest full limit, its rate, or the jobs before it.
create or replace function queue.explain_ready(p_job public.jobs, p_now timestamptz)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_type queue.job_types;
  v_full record;
  v_free_at timestamptz;
  v_ready_at timestamptz;
  v_ahead integer;
begin
  select * into v_type
  from queue.job_types
  where job_type = p_job.job_type;
  -- those at a limit, the narrowest first; what has no limit is not counted
  select l.* into v_full
  from (
    values
      (1, 'key_limit', v_type.key_concurrency),
      (2, 'workspace_type_limit', v_type.workspace_concurrency),
      (
        3,
        'workspace_limit',
        (
          select t.running_max
          from queue.tenant_limits as t
          where t.workspace_id = p_job.workspace_id
        )
      ),
      (4, 'type_limit', v_type.max_concurrency)
  ) as l (n, reason, most)
  where l.most is not null
    and (
      select count(*)
      from queue.holders_of(l.reason, p_job, l.most) as h
    ) >= l.most
  order by l.n
  limit 1;
  if found then
    return jsonb_build_object(
      'reason', v_full.reason,
      'data', jsonb_build_object('running', v_full.most, 'limit', v_full.most)
    );
  end if;
  select b.refilled_at + make_interval(
    secs => (1 - b.tokens) * v_type.rate_per_seconds / v_type.rate_limit
  )
  into v_free_at
  from queue.buckets as b
  where b.name = case
    when v_type.rate_per_key then format(
      'k:%s/%s/%s',
      p_job.workspace_id,
      p_job.job_type,
      coalesce(p_job.concurrency_key, '')
    )
    else 'r:' || p_job.job_type
  end;
  if v_free_at > p_now then
    return jsonb_build_object(
      'reason', 'rate_limited',
      'estimated_start_at', v_free_at,
      'data', jsonb_build_object(
        'limit', v_type.rate_limit,
        'per_seconds', v_type.rate_per_seconds
      )
    );
  end if;
  select count(*) into v_ahead
  from (
    select from queue.ready as r
    join public.jobs as j on j.id = any (array[r.job_id])
    where r.lane = p_job.lane
      and r.workspace_id = p_job.workspace_id
      and r.ord < p_job.ord
      and r.ord >= coalesce(
        (
          select t.from_ord
          from queue.turns as t
          where t.lane = p_job.lane and t.workspace_id = p_job.workspace_id
        ),
        0
      )
      and coalesce(j.deadline_at > p_now, true)
      and (j.start_by_at is null or j.started_at is not null or j.start_by_at > p_now)
    limit 1000
  ) as a;
  v_ready_at := (
    select r.ready_at
    from queue.ready as r
    where r.lane = p_job.lane
      and r.workspace_id = p_job.workspace_id
      and r.ord = p_job.ord
      and r.job_id = p_job.id
  );
  return jsonb_build_object(
    'estimated_start_at', case v_ahead when 0 then p_now end,
    'reason', case
      when v_ahead = 0 and v_ready_at <= p_now - interval '1 minute' then 'no_slot'
      when v_ahead = 0 then 'next_in_line'
      when v_ready_at <= p_now - interval '15 minutes' then 'long_line'
      else 'behind_others'
    end,
    'data', jsonb_build_object(
      'ready_at', v_ready_at,
      'patience_until', v_ready_at + case v_ahead
        when 0 then interval '1 minute'
        else interval '15 minutes'
      end,
      'ahead', v_ahead,
      'at_least', case v_ahead when 1000 then v_ahead end
    )
  );
end;
$$;

revoke execute on function queue.explain_ready from public;

-- What holds a job: the one place where a holder is found, for a job as for a whole workspace. A
-- holder that is another workspace's job is only said to be that.

-- The sessions that have a row of these jobs in a transaction open for two seconds: the one that
-- they wait for in turn is to end. A row's xmax is who locked it; see supabase/DECISIONS.md.
create or replace function queue.locks_on(p_ids uuid[], p_now timestamptz)
returns table (job_id uuid, pid integer, since timestamptz, application text)
language sql stable
set search_path = ''
as $$
with recursive holders as (
  select j.id, l.pid, 0 as level
  from public.jobs as j
  join pg_catalog.pg_locks as l on l.transactionid = j.xmax
  where j.id = any (p_ids)
    and j.xmax <> '0'::xid
    and l.locktype = 'transactionid'
    and l.granted
    and l.pid <> pg_backend_pid()
  union
  select h.id, b.pid, h.level + 1
  from holders as h
  cross join lateral unnest(pg_blocking_pids(h.pid)) as b (pid)
  where h.level < 8
)
select distinct on (h.id) h.id, h.pid, a.xact_start, a.application_name
from holders as h
join pg_catalog.pg_stat_activity as a on a.pid = h.pid
where coalesce(a.xact_start <= p_now - interval '2 seconds', true)
order by h.id, h.level desc, a.xact_start
$$;

revoke execute on function queue.locks_on from public;

-- Whether another transaction keeps a job's row from being changed: a foreign key's lock does not.
create or replace function queue.is_locked(p_job_id uuid)
returns boolean
language plpgsql
set search_path = ''
as $$
begin
  if current_setting('transaction_read_only')::boolean then
    return false; -- it cannot be known there
  end if;
  perform from public.jobs as j
  where j.id = p_job_id
  for no key update skip locked;
  return not found;
end;
$$;

revoke execute on function queue.is_locked from public;

-- The jobs that use up a limit for a job, at most p_most of them.
create or replace function queue.holders_of(p_reason text, p_job public.jobs, p_most integer)
returns table (job_id uuid, workspace_id uuid, leased_at timestamptz)
language plpgsql stable
set search_path = ''
as $$
begin
  if p_reason = 'key_limit' then
    return query
      select g.job_id, g.workspace_id, l.leased_at
      from queue.gated as g
      left join queue.leases as l on l.job_id = g.job_id
      where g.workspace_id = p_job.workspace_id
        and g.job_type = p_job.job_type
        and g.key = coalesce(p_job.concurrency_key, '')
        and g.admitted
        and not g.ended
        and g.job_id <> p_job.id
      order by g.ord
      limit p_most;
  elsif p_reason in ('type_limit', 'workspace_type_limit') then
    return query
      select l.job_id, l.workspace_id, l.leased_at
      from queue.lanes as n
      join queue.leases as l on l.lane = n.lane
      where n.job_type = p_job.job_type
        and (p_reason = 'type_limit' or l.workspace_id = p_job.workspace_id)
      limit p_most;
  elsif p_reason = 'workspace_limit' then
    return query
      select l.job_id, l.workspace_id, l.leased_at
      from queue.lanes as n
      join queue.leases as l
        on l.lane = n.lane and l.workspace_id = p_job.workspace_id
      limit p_most;
  elsif p_reason = 'no_slot' then -- what the workers that serve it run
    return query
      select l.job_id, l.workspace_id, l.leased_at
      from queue.leases as l
      join queue.workers as w on w.worker = l.worker
      where (w.job_types is null or p_job.job_type = any (w.job_types))
        and (w.queues is null or p_job.queue = any (w.queues))
      limit p_most;
  end if;
end;
$$;

revoke execute on function queue.holders_of from public;

-- Of the jobs below one, along the first of each level: the last that has not ended, or has failed.
create or replace function queue.deepest_below(p_job_id uuid, p_has_failed boolean)
returns uuid
language sql stable
set search_path = ''
as $$
with recursive tree as (
  select p_job_id as id, 0 as level
  union all
  select c.id, t.level + 1
  from tree as t
  cross join lateral (
    select j.id
    from public.jobs as j
    where j.parent_id = t.id
      and case
        when p_has_failed then j.status = 'failed'
        else j.finished_at is null
      end
    order by j.id
    limit 1
  ) as c
  where t.level < 6
)
select t.id
from tree as t
where t.level > 0
order by t.level desc
limit 1
$$;

revoke execute on function queue.deepest_below from public;

-- How many jobs of its workspace wait as one does: {waiting, more}, counted to a thousand. What
-- a question or a running worker holds is that job alone.
create or replace function queue.waiting_beside(p_job public.jobs, p_reason text)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object('waiting', count(*), 'more', count(*) = 1000)
from (
  (
    select 1
    from queue.gated as g
    where p_job.status = 'pending'
      and g.workspace_id = p_job.workspace_id
      and g.job_type = p_job.job_type
      and not g.admitted
      and (
        p_reason <> 'key_limit'
        or g.key = coalesce(p_job.concurrency_key, '')
      )
    limit 1000
  )
  union all
  (
    select 1
    from queue.unpublished as u
    where p_job.lane = 0
      and p_job.status = 'pending'
      and u.job_type = p_job.job_type
      and u.workspace_id = p_job.workspace_id
    limit 1000
  )
  union all
  (
    select 1
    from queue.ready as r
    where p_job.status = 'pending'
      and r.lane = p_job.lane
      and r.workspace_id = p_job.workspace_id
      and p_reason <> 'key_limit'
    limit 1000
  )
  limit 1000
) as w
$$;

revoke execute on function queue.waiting_beside from public;

-- What kind of holder a reason has; reasons for which nothing holds a job are not here.
create or replace function queue.kind_of_holder(p_reason text)
returns text
language sql immutable
set search_path = ''
as $$
select case
  when p_reason = 'key_limit' then 'key'
  when p_reason ~ '_limit$' then 'limit'
  when p_reason = 'rate_limited' then 'rate'
  when p_reason ~ '_paused$' then 'pause'
  when p_reason = 'locked' then 'lock'
  when p_reason in ('worker_died', 'lease_expired') then 'dead_worker'
  when p_reason in ('no_worker', 'no_processor') then 'no_worker'
  when p_reason in ('no_slot', 'long_line') then 'slots'
  when p_reason = 'asking' then 'answer'
  when p_reason = 'waiting_for_event' then 'event'
  when p_reason = 'waiting_for_children' then 'child'
  when p_reason = 'refused' then 'refusal'
  when p_reason = 'passed_over' then 'tick'
end
$$;

revoke execute on function queue.kind_of_holder from public;

-- Who holds a job for which queue.explain_row or queue.explain_ready found the reason: {kind,
-- holder, since, waiting, more}; the holder is a job, a session, a worker, or who paused.
create or replace function queue.held_by(p_job public.jobs, p_found jsonb, p_now timestamptz)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  c_most constant integer := 200;
  v_reason constant text := p_found ->> 'reason';
  v_kind constant text := queue.kind_of_holder(v_reason);
  v_is_open constant boolean := queue.is_operator() or queue.is_service();
  v_data constant jsonb := p_found -> 'data';
  v_id uuid;
  v_holder jsonb;
  v_since timestamptz := p_found ->> 'since';
begin
  if v_kind is null then
    return null;
  elsif v_kind = 'child' then
    v_id := queue.deepest_below(p_job.id, false);
  elsif v_kind in ('key', 'limit', 'slots') then
    v_id := (
      select h.job_id
      from queue.holders_of(v_reason, p_job, c_most) as h
      where h.workspace_id = p_job.workspace_id or v_is_open
      order by h.leased_at, h.job_id
      limit 1
    );
  end if;
  if v_id is not null then
    select
      jsonb_build_object(
        'job_id', j.id,
        'job_type', j.job_type,
        'state', queue.state_of(
          j.status,
          j.attempts,
          j.next_retry_at,
          j.scheduled_for,
          p_now
        ),
        'worker_id', w.worker_id
      ),
      coalesce(l.leased_at, j.updated_at)
    into v_holder, v_since
    from public.jobs as j
    left join queue.leases as l on l.job_id = j.id
    left join queue.workers as w on w.worker = l.worker
    where j.id = v_id;
  elsif v_kind in ('limit', 'slots') then
    v_since := null;
    v_holder := case
      when v_reason = 'type_limit'
        then '{"others": "jobs of other workspaces"}'::jsonb
    end;
  elsif v_kind = 'lock' then
    v_holder := jsonb_build_object('pid', v_data -> 'pid')
      || case
        when v_is_open then jsonb_build_object('application', v_data -> 'application')
        else '{}'
      end;
  elsif v_kind = 'dead_worker' then
    v_holder := jsonb_build_object('worker_id', v_data -> 'worker_id');
    v_since := coalesce(v_data ->> 'ended_at', v_data ->> 'expires_at');
  elsif v_kind = 'pause' then
    v_holder := jsonb_build_object('pause', replace(v_reason, '_paused', ''));
  end if;
  return jsonb_build_object(
    'kind', v_kind,
    'holder', jsonb_strip_nulls(v_holder),
    'since', v_since,
    'until', coalesce(p_found -> 'estimated_start_at', v_data -> 'patience_until')
  ) || queue.waiting_beside(p_job, v_reason);
end;
$$;

revoke execute on function queue.held_by from public;

-- The last error of a job by its code, never its words: its kind (for the advice), code, and cause,
-- which is an answer, a process's end, or the end of a chain.
create or replace function queue.error_of(p_job public.jobs)
returns table (kind text, code text, cause text)
language sql stable
set search_path = ''
as $$
select
  case
    when p_job.status = 'failed' then coalesce(
      '{"AttemptTimeout": "timeout",
    "DeadlinePassed": "deadline", "DeadlineReached": "deadline", "WorkerLost": "lost",
    "PayloadRejected": "payload", "ResultRejected": "result", "ResultTooLarge": "result",
    "minutehand.worker.context.ChildrenFailed": "child"}'::jsonb ->> e.type,
      case
        when e.status in ('401', '403') or e.sqlstate ~ '^28|42501'
          then 'credentials'
        when e.status = '429' then 'rate'
        when e.status ^@ '4' or e.sqlstate ~ '^2[23]' then 'request'
        when e.sqlstate ~ '^(40|55|57014)' then 'contention'
        when e.sqlstate ^@ '42' then 'schema'
        when e.signal is not null then 'killed'
        when e.errno in ('ENOSPC', 'EDQUOT', 'ENOMEM', 'EMFILE') then 'machine'
        when e.status ^@ '5'
            or e.sqlstate ^@ '08'
            or e.errno in (
              'ECONNREFUSED', 'ECONNRESET', 'EHOSTUNREACH', 'ENETUNREACH',
              'ETIMEDOUT', 'EAI_NONAME', 'EAI_AGAIN'
            )
          then 'unavailable'
      end
    )
  end as kind,
  coalesce('HTTP ' || e.status, 'SQLSTATE ' || e.sqlstate, e.errno) as code,
  coalesce(
    e.response,
    'its process ended: ' || nullif(
      concat_ws(
        ', ',
        p.signal,
        'exit code ' || p.exit_code,
        p.memory_mb || ' MB of memory',
        'jobs in it: ' || coalesce(p.jobs_in_it, jsonb_array_length(p.jobs)),
        'ended by ' || p.guilty_type,
        p.line
      ),
      ''
    ),
    (
      select concat_ws(
        ': ',
        a.traceback #>> '{causes,-1,type}',
        a.traceback #>> '{causes,-1,message}'
      )
      from queue.attempts as a
      where a.job_id = p_job.id and a.traceback ? 'causes'
      order by a.fence desc
      limit 1
    )
  ) as cause
from jsonb_to_record(p_job.error_data) as e (
  type text, status text, sqlstate text, errno text, signal text, response text,
  evidence jsonb
)
left join lateral jsonb_to_record(e.evidence) as p (
  signal text, exit_code text, memory_mb text, jobs jsonb, jobs_in_it integer,
  line text, guilty_type text
) on e.type = 'WorkerLost'
$$;

revoke execute on function queue.error_of from public;

-- Why a job is where it is. p_lock: the session that keeps its row, of queue.locks_on; p_alive: the
-- workers: for those the leases are read, and so once for many jobs.
create or replace function queue.explain(
  p_job public.jobs,
  p_lock jsonb,
  p_alive queue.workers[],
  p_now timestamptz
)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_found jsonb;
  v_held jsonb;
  v_error record;
begin
  if p_lock is not null then
    v_found := jsonb_build_object(
      'reason', 'locked',
      'since', p_lock -> 'since',
      'data', p_lock
    );
  else
    v_found := coalesce(
      queue.explain_row(p_job, p_alive, p_now),
      queue.explain_ready(p_job, p_now)
    );
  end if;
  if v_found ->> 'reason' = 'no_worker' then
    v_found := v_found || jsonb_build_object(
      'since', (select max(w.seen_at) from queue.workers as w)
    );
  end if;
  select * into v_error
  from queue.error_of(p_job);
  v_found := jsonb_build_object(
    'job_id', p_job.id,
    'status', p_job.status,
    'estimated_start_at', null,
    'data', '{}'::jsonb,
    'since', coalesce(p_job.finished_at, p_job.scheduled_for, p_job.created_at),
    'cause', v_error.cause
  ) || v_found;
  v_held := queue.held_by(p_job, v_found, p_now);
  v_found := v_found || queue.words_of(
    v_found ->> 'reason',
    v_found
      || queue.names_of(p_job, v_held)
      || jsonb_build_object('code', v_error.code)
      || jsonb_strip_nulls(v_found -> 'data'),
    v_error.kind
  );
  if p_job.status = 'pending' and p_job.started_at is null and p_job.start_by_at is not null then
    v_found := v_found || jsonb_build_object(
      'sentence', concat_ws(
        ' ',
        v_found ->> 'sentence',
        queue.words_of('start_by', jsonb_build_object('start_by_at', p_job.start_by_at))
          ->> 'sentence'
      )
    );
  end if;
  return v_found || jsonb_build_object(
    'held_by', v_held || jsonb_build_object('act', v_found #> '{next,0}')
  );
end;
$$;

revoke execute on function queue.explain from public;

-- What the advice may name of a job, and of who holds it.
create or replace function queue.names_of(p_job public.jobs, p_held jsonb)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object(
  'job_type', p_job.job_type,
  'queue', p_job.queue,
  'finished_at', p_job.finished_at,
  'start_by_at', case
    when p_job.error_data ->> 'type' = 'StartByPassed' then p_job.start_by_at
  end,
  'cancel_requested_at', p_job.cancel_requested_at,
  'error_line', regexp_replace(
    left(queue.error_line(p_job.error_message, p_job.error_data), 300),
    '\s+',
    ' ',
    'g'
  ),
  'signal', p_job.error_data -> 'signal',
  'version', p_job.schema_version,
  'type_version', (
    select t.schema_version
    from queue.job_types as t
    where t.job_type = p_job.job_type and t.schema_version <> p_job.schema_version
  ),
  'child', c.id,
  'cause_type', coalesce(
    (
      select j.job_type
      from public.jobs as j
      where j.id = c.id
    ),
    'the child'
  ),
  'holder', p_held #> '{holder,job_id}',
  'holder_type', p_held #> '{holder,job_type}',
  'holder_state', p_held #> '{holder,state}',
  'others', p_held #> '{holder,others}',
  'held_since', p_held -> 'since'
)
from (
  select case
    when p_job.status = 'failed' then queue.deepest_below(p_job.id, true)
  end as id
) as c
$$;

revoke execute on function queue.names_of from public;

create or replace function public.explain_job(p_job_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
set timezone = 'UTC'
as $$ -- in which sentences give instants
declare
  v_now constant timestamptz := queue.clock();
  v_job constant public.jobs := queue.visible_job(p_job_id);
  v_lock jsonb;
begin
  if v_job.status = 'pending' then
    perform queue.take_call_slot(); -- its place in the queue is looked for
  end if;
  if v_job.finished_at is null then
    select to_jsonb(l) into v_lock
    from queue.locks_on(array[p_job_id], v_now) as l;
  end if;
  if v_lock is not null and not queue.is_locked(p_job_id) then
    v_lock := null;
  end if;
  return queue.explain(
    v_job,
    v_lock,
    array(select w from queue.alive_workers(v_now) as w),
    v_now
  );
end;
$$;

comment on function public.explain_job is
  'Why a job is where it is and who holds it: {job_id, status, reason, sentence, since, cause, '
  'held_by: {kind, holder, since, until, waiting, more, act}, next: [{words, command, path}], '
  'data, estimated_start_at}.';

select queue.allow('authenticated, service_role', 'public.explain_job');

-- Leases that are over, at most a thousand.
create or replace function queue.expired_leases(
  p_workspace_id uuid,
  p_job_type text,
  p_now timestamptz
)
returns setof queue.leases
language sql stable
set search_path = ''
as $$
select l.*
from queue.leases as l
where l.expires_at <= p_now
  and (p_workspace_id is null or l.workspace_id = p_workspace_id)
  and (
    p_job_type is null
    or l.lane in (
      select n.lane
      from queue.lanes as n
      where n.job_type = p_job_type
    )
  )
limit 1000
$$;

revoke execute on function queue.expired_leases from public;

-- Jobs that wait alike, the largest groups first: one of them, how many (to a thousand), and since
-- when: by lane; by key; for an answer or event; of a worker that is gone; past their time.
create or replace function queue.groups_of_held(
  p_workspace_id uuid,
  p_job_type text,
  p_now timestamptz
)
returns table (job_id uuid, jobs bigint, oldest_at timestamptz)
language sql stable
set search_path = ''
as $$
with lanes as materialized (
  select *
  from queue.lanes as l
  where p_job_type is null or l.job_type = p_job_type
),
leases as materialized (
  select *
  from queue.expired_leases(p_workspace_id, p_job_type, p_now)
),
late as materialized (
  select d.job_id, d.run_at
  from queue.deferred as d
  where d.run_at <= p_now - interval '10 seconds'
    and (p_workspace_id is null or d.workspace_id = p_workspace_id)
  order by d.run_at
  limit 1000
)
(
  select f.job_id, r.jobs, f.ready_at
  from lanes as l
  cross join lateral (
    select o.job_id, o.ready_at
    from queue.ready as o
    where o.lane = l.lane
      and (p_workspace_id is null or o.workspace_id = p_workspace_id)
    order by o.lane, o.workspace_id, o.ord
    limit 1
  ) as f
  cross join lateral (
    select count(*) as jobs
    from (
      select o.lane
      from queue.ready as o
      where o.lane = l.lane
        and (p_workspace_id is null or o.workspace_id = p_workspace_id)
      limit 1000
    ) as c
  ) as r
  order by r.jobs desc
  limit 8 -- each is explained
)
union all
(
  select (array_agg(g.job_id order by g.ord))[1], count(*), null
  from (
    select *
    from queue.gated as o
    where not o.admitted
      and (p_workspace_id is null or o.workspace_id = p_workspace_id)
      and (p_job_type is null or o.job_type = p_job_type)
    limit 10000
  ) as g
  group by g.workspace_id, g.job_type, g.key
  order by 2 desc
  limit 10
)
union all
(
  select (array_agg(u.job_id order by u.job_id))[1], count(*), null
  from (
    select *
    from queue.unpublished as o
    where (p_workspace_id is null or o.workspace_id = p_workspace_id)
      and (p_job_type is null or o.job_type = p_job_type)
    limit 10000
  ) as u
  group by u.workspace_id, u.job_type
  order by 2 desc
  limit 10
)
union all
(
  select (array_agg(w.job_id order by w.created_at))[1], count(*), min(w.created_at)
  from (
    select *
    from queue.waits as o
    where o.kind in ('ask', 'event')
      and (p_workspace_id is null or o.workspace_id = p_workspace_id)
    limit 1000
  ) as w
  join public.jobs as j on j.id = any (array[w.job_id])
  where p_job_type is null or j.job_type = p_job_type
  group by j.job_type, w.kind, w.event_name
  order by 2 desc
  limit 10
)
union all
(
  select (array_agg(l.job_id))[1], count(*), min(l.expires_at)
  from leases as l
  where not exists (
    select from queue.locks_on(array[l.job_id], p_now)
  )
  group by l.worker
  order by 2 desc
  limit 10
)
union all
(
  select (array_agg(k.job_id))[1], count(*), min(k.since)
  from queue.locks_on(
    array(select l.job_id from leases as l union select d.job_id from late as d),
    p_now
  ) as k
  join public.jobs as j on j.id = k.job_id
  where p_job_type is null or j.job_type = p_job_type
  group by k.pid
  limit 10
)
union all
(
  select (array_agg(d.job_id order by d.run_at))[1], count(*), min(d.run_at)
  from late as d
  join public.jobs as j on j.id = any (array[d.job_id])
  where (p_job_type is null or j.job_type = p_job_type)
    and not exists (select from queue.locks_on(array[d.job_id], p_now))
  group by j.job_type
  order by 2 desc
  limit 10
)
$$;

revoke execute on function queue.groups_of_held from public;

-- Who holds jobs of a workspace or (null) of all, of one type or (null) of all, by how many: for
-- each what explain_job says of the first, with the jobs of its groups together.
create or replace function queue.holders(p_workspace_id uuid, p_job_type text, p_now timestamptz)
returns jsonb
language sql stable
set search_path = ''
set timezone = 'UTC'
as $$
with said as materialized (
  select
    g.jobs,
    g.oldest_at,
    j,
    e.said,
    jsonb_build_array(
      e.said #> '{held_by,kind}',
      coalesce(
        e.said #> '{held_by,holder,job_id}',
        e.said #> '{held_by,holder,worker_id}',
        e.said #> '{held_by,holder,pid}',
        jsonb_build_array(e.said -> 'reason', j.job_type, j.queue, j.concurrency_key)
      )
    ) as holder
  from (select array(select w from queue.alive_workers(p_now) as w) as workers) as a
  cross join queue.groups_of_held(p_workspace_id, p_job_type, p_now) as g
  join public.jobs as j on j.id = any (array[g.job_id])
  left join lateral (
    select to_jsonb(k) as lock
    from queue.locks_on(array[j.id], p_now) as k
    where j.status = 'processing' or coalesce(j.next_retry_at, j.scheduled_for) <= p_now
  ) as k on true
  cross join lateral queue.explain(j, k.lock, a.workers, p_now) as e (said)
  where e.said ? 'held_by'
    and jsonb_typeof(e.said -> 'held_by') = 'object'
)
select coalesce(
  jsonb_agg(to_jsonb(h) order by h.jobs desc, h.since),
  '[]'
)
from (
  select
    sum(s.jobs) as jobs,
    bool_or(s.jobs >= 1000) as more,
    min(coalesce(s.oldest_at, (s.said #>> '{held_by,since}')::timestamptz)) as since,
    (array_agg(s.said -> 'held_by' -> 'kind'))[1] as kind,
    (array_agg(s.said -> 'reason'))[1] as reason,
    (array_agg(s.said -> 'sentence'))[1] as sentence,
    (array_agg(s.said -> 'cause'))[1] as cause,
    (array_agg(s.said -> 'next'))[1] as next,
    (array_agg(s.said #> '{held_by,holder}'))[1] as holder,
    (array_agg(s.said -> 'job_id'))[1] as job_id,
    array_agg(distinct (s.j).job_type) as job_types,
    array_agg(distinct (s.j).concurrency_key)
      filter (where s.said ->> 'reason' = 'key_limit') as keys
  from said as s
  group by s.holder
  order by 1 desc
  limit 20
) as h
$$;

revoke execute on function queue.holders from public;

-- The sum of numbers by name; null of none.
create or replace function queue.sum_numbers(p_all jsonb[])
returns jsonb
language sql immutable
set search_path = ''
as $$
select jsonb_object_agg(b.key, b.jobs)
from (
  select e.key, sum(e.value::bigint) as jobs
  from unnest(p_all) as h
  cross join lateral jsonb_each_text(h) as e
  group by 1
) as b
$$;

revoke execute on function queue.sum_numbers from public;

drop function queue.do_statistics(p_until timestamp with time zone);

-- Maintenance: read the feed as far as all is committed, some 20,000 jobs at a time.
create or replace function queue.do_statistics(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_last constant bigint := queue.feed_end();
  v_number bigint; -- the last line that was read
  v_id bigint;
  v_end record;
  v_done integer := 0;
begin
  select t.read_to, t.read_id into v_number, v_id
  from queue.tasks as t
  where name = 'statistics';
  loop
    select f.number, f.id into v_end
    from ( -- one transaction may have written any number of lines
      select
        l.number,
        l.id,
        row_number() over lines as n,
        sum(pg_column_size(l.job_ids) / 16) over lines as jobs
      from queue.feed as l
      where (l.number, l.id) > (v_number, v_id) and l.number < v_last
      window lines as (order by l.number, l.id)
      order by l.number, l.id
      limit 20000
    ) as f
    where f.jobs <= 20000 or f.n = 1
    order by f.n desc
    limit 1;
    exit when not found;
    with ended as materialized (
      select
        date_bin('1 minute', l.at, '2000-01-01 00:00:00+00') as at,
        l.workspace_id,
        j.job_type,
        k.count,
        e.wait,
        e.run,
        count(*) as jobs
      from queue.feed as l
      join (
        values
          ('job.created', 'enqueued'),
          ('job.completed', 'completed'),
          ('job.failed', 'failed'),
          ('job.cancelled', 'cancelled'),
          ('job.retried', 'retried'),
          ('job.reclaimed', 'lost'),
          ('job.redriven', 'redriven')
      ) as k (type, count) on k.type = l.type
      cross join lateral unnest(l.job_ids) as i (id)
      join public.jobs as j on j.id = any (array[i.id])
      left join lateral (
        values (
          least(120, floor(ln(greatest(0, j.queue_ms) + 1) / ln(1.25)))::text,
          least(120, floor(ln(greatest(0, j.run_ms) + 1) / ln(1.25)))::text
        )
      ) as e (wait, run) on k.count in ('completed', 'failed')
      where (l.number, l.id) > (v_number, v_id)
        and (l.number, l.id) <= (v_end.number, v_end.id)
      group by 1, 2, 3, 4, 5, 6
    ),
    cells as (
      select
        w.id,
        m.minutes,
        date_bin(
          make_interval(mins => m.minutes),
          s.at,
          '2000-01-01 00:00:00+00'
        ) as at,
        s.job_type,
        n.kind,
        n.name,
        sum(s.jobs)::bigint as jobs
      from ended as s
      cross join (values (1), (60)) as m (minutes)
      cross join lateral (
        values
          (s.workspace_id),
          ('00000000-0000-0000-0000-000000000000')
      ) as w (id)
      cross join lateral (
        values ('count', s.count), ('wait', s.wait), ('run', s.run)
      ) as n (kind, name)
      where n.name is not null
      group by 1, 2, 3, 4, 5, 6
    ),
    stored as (
      insert into queue.stats as s (
        workspace_id, minutes, at, job_type, counts, queue_times, run_times
      )
      select
        c.id,
        c.minutes,
        c.at,
        c.job_type,
        '{"enqueued": 0, "completed": 0, "failed": 0, "cancelled": 0, "retried": 0, "lost": 0,
          "redriven": 0}'
          || jsonb_object_agg(c.name, c.jobs) filter (where c.kind = 'count'),
        jsonb_object_agg(c.name, c.jobs) filter (where c.kind = 'wait'),
        jsonb_object_agg(c.name, c.jobs) filter (where c.kind = 'run')
      from cells as c
      group by 1, 2, 3, 4
      order by 1, 2, 3, 4
      on conflict (workspace_id, minutes, at, job_type) do update set
        counts = queue.sum_numbers(array[s.counts, excluded.counts]),
        queue_times = queue.sum_numbers(
          array[s.queue_times, excluded.queue_times]
        ),
        run_times = queue.sum_numbers(array[s.run_times, excluded.run_times])
    )
    select v_done + coalesce(sum(e.jobs), 0) into v_done
    from ended as e;
    v_number := v_end.number;
    v_id := v_end.id;
    exit when clock_timestamp() > p_until;
  end loop;
  update queue.tasks
  set
    read_to = coalesce(v_end.number, v_last),
    read_id = coalesce(v_end.id, 0)
  where name = 'statistics';
  return v_done;
end;
$$;

revoke execute on function queue.do_statistics from public;

-- Since when the figures stand still, for a minute or more: what comes later is not counted yet.
create or replace function queue.figures_late_since(p_now timestamptz)
returns timestamptz
language sql stable
set search_path = ''
as $$
select l.at
from (
  select f.at
  from queue.tasks as t
  join queue.feed as f on f.number >= t.read_to and (f.number, f.id) > (t.read_to, t.read_id)
  where t.name = 'statistics'
  order by f.number, f.id
  limit 1
) as l
where l.at < p_now - interval '1 minute'
$$;

revoke execute on function queue.figures_late_since from public;

-- Counts of each type and step, and percentiles within 12 %: of minutes for a day, else of hours.
create or replace function queue.type_numbers(
  p_workspace_id uuid,
  p_since timestamptz,
  p_step interval,
  p_now timestamptz
)
returns table (at timestamptz, job_type text, line jsonb)
language sql stable
set search_path = ''
as $$
select n.at, n.job_type, n.counts || p.times
from (
  select
    date_bin(p_step, s.at, p_since) as at,
    s.job_type,
    queue.sum_numbers(array_agg(s.counts)) as counts,
    queue.sum_numbers(array_agg(s.run_times)) as run_times,
    queue.sum_numbers(array_agg(s.queue_times)) as queue_times
  from queue.stats as s
  where s.workspace_id
  = coalesce(p_workspace_id, '00000000-0000-0000-0000-000000000000')
    and s.at >= p_since
    and s.minutes = case
      when p_since >= p_now - interval '24 hours 15 minutes' then 1
      else 60
    end
  group by 1, 2
) as n
cross join lateral (
  select jsonb_object_agg(
    k.name,
    (
      select jsonb_build_object(
        'p50_ms', round(
          (min(b.ms) filter (where b.jobs >= 0.50 * b.total))::numeric,
          1
        ),
        'p95_ms', round(
          (min(b.ms) filter (where b.jobs >= 0.95 * b.total))::numeric,
          1
        ),
        'p99_ms', round(
          (min(b.ms) filter (where b.jobs >= 0.99 * b.total))::numeric,
          1
        )
      )
      from (
        select
          power(1.25, e.key::integer + 0.5) - 1 as ms,
          sum(e.value::numeric) over () as total,
          sum(e.value::numeric) over (order by e.key::integer) as jobs
        from jsonb_each_text(k.buckets) as e
      ) as b
    )
  ) as times
  from (values ('run', n.run_times), ('queue', n.queue_times)) as k (name, buckets)
) as p
$$;

revoke execute on function queue.type_numbers from public;

drop function queue.backlog(p_workspace_id uuid, p_now timestamp with time zone);

-- Due jobs by what keeps them: paused, unserved (which warns), at_limit, blocked by a key, ready.
-- For a person without others' jobs of types that no worker has published: they cannot end that.
create or replace function queue.backlog(
  p_workspace_id uuid,
  p_now timestamptz,
  p_user_id uuid default null
)
returns jsonb
language sql stable
set search_path = ''
as $$
with lanes as materialized (
  select
    l.lane,
    l.job_type,
    l.queue,
    s.unserved,
    greatest(10, 10000 / count(*) over ()) as most,
    coalesce(queue.free_of_type(l.job_type, p_now) <= 0, false) as is_full
  from (
    select array_agg(o.job_type) as types, array_agg(o.queue) as queues
    from (select distinct job_type, queue from queue.lanes) as o
  ) as a
  cross join lateral queue.served(a.types, a.queues, p_now) as s
  join queue.lanes as l on l.job_type = s.job_type and l.queue = s.queue
),
due as (
  select
    l.job_type,
    min(r.ready_at) as ready_at,
    count(*) as jobs,
    sum(count(*)) over (partition by l.lane) >= l.most as is_more,
    case
      when exists (
        select from queue.pauses as p
        where (p.kind, p.name) in (
          ('job_type', l.job_type),
          ('queue', l.queue),
          ('workspace', r.workspace_id::text),
          ('workspace_type', r.workspace_id || '/' || l.job_type)
        )
      ) then 'paused'
      when l.unserved then 'unserved'
      when l.is_full
          or exists (
            select from queue.turns as t
            where t.lane = l.lane
              and t.workspace_id = r.workspace_id
              and t.blocked
              and t.look_at is not null
          )
        then 'at_limit'
      else 'ready'
    end as cause
  from lanes as l
  cross join lateral (
    select o.workspace_id, o.ready_at
    from queue.ready as o
    where o.lane = l.lane
      and (p_workspace_id is null or o.workspace_id = p_workspace_id)
    limit l.most
  ) as r
  group by
    l.lane,
    l.job_type,
    l.queue,
    l.most,
    l.unserved,
    l.is_full,
    r.workspace_id
  union all
  select
    g.job_type,
    null,
    count(*),
    sum(count(*)) over () >= 10000,
    'blocked'
  from (
    select o.job_type
    from queue.gated as o
    where (p_workspace_id is null or o.workspace_id = p_workspace_id)
      and not o.admitted
    limit 10000
  ) as g
  group by 1
  union all
  select
    u.job_type,
    null,
    count(*),
    sum(count(*)) over () >= 10000,
    'unserved'
  from (
    select o.job_type
    from queue.unpublished as o
    where (p_workspace_id is null or o.workspace_id = p_workspace_id)
      and (
        p_user_id is null
        or exists (
          select from public.jobs as j
          where j.id = o.job_id and j.user_id = p_user_id
        )
      )
    limit 10000
  ) as u
  group by 1
),
causes as (
  select
    k.*,
    coalesce(sum(d.jobs), 0)::integer as jobs,
    min(d.ready_at) as oldest_at,
    coalesce(bool_or(d.is_more), false) as is_more,
    array_to_string((array_agg(distinct d.job_type))[:3], ', ') as types
  from (
    values
      (1, 'unserved', 'wait: no worker serves'),
      (2, 'paused', 'are paused:'),
      (3, 'at_limit', 'wait for a limit:'),
      (4, 'blocked', 'wait for a job of their key:'),
      (5, 'ready', 'start next:')
  ) as k (n, cause, words)
  left join due as d on d.cause = k.cause
  group by 1, 2, 3
)
select jsonb_object_agg(
  c.cause,
  jsonb_build_object('jobs', c.jobs, 'more', c.is_more, 'types', c.types)
)
  || jsonb_build_object(
    'jobs', sum(c.jobs),
    'oldest_at', min(c.oldest_at),
    'verdict', case
      when bool_or(c.jobs > 0 and c.cause = 'unserved') then 'warn'
      else 'pass'
    end,
    'detail', coalesce(
      string_agg(
        format(
          '%s%s %s %s',
          c.jobs,
          case when c.is_more then '+' end,
          c.words,
          c.types
        ),
        '; '
        order by c.n
      ) filter (where c.jobs > 0),
      'nothing is due'
    ),
    'oldest_due_seconds', extract(
      epoch from p_now
      - min(c.oldest_at) filter (where c.cause not in ('paused', 'unserved'))
    )
  )
from causes as c
$$;

revoke execute on function queue.backlog from public;

-- What is wrong with the queue itself. A client's transaction that has written anything for a
-- minute keeps readers of the feed waiting, one that has read for five minutes keeps dead rows.
create or replace function queue.findings_of_queue(
  p_workspace_id uuid,
  p_now timestamptz,
  p_backlog jsonb,
  p_seen_at timestamptz
)
returns table (verdict text, reason text, since timestamptz, cause text, data jsonb)
language plpgsql stable
set search_path = ''
as $$
declare
  v_revoked_at constant timestamptz := to_timestamp(
    (queue.setting('worker_keys_revoked') #>> '{-1,from}')::double precision
  );
begin
  return query
    select 'fail', 'read_only', null::timestamptz, null::text, '{}'::jsonb
    where current_setting('default_transaction_read_only')::boolean
    union all
    select
      case
        when p_now - p_seen_at > interval '200 seconds' then 'fail'
        else 'warn'
      end,
      'no_worker',
      p_seen_at,
      null,
      jsonb_build_object(
        'revoked_at', case
          when v_revoked_at > p_seen_at - interval '1 minute' then v_revoked_at
        end
      )
    where coalesce(p_now - p_seen_at > interval '90 seconds', true)
    union all
    select
      case
        when p_seen_at is null and o.seconds > 900 then 'fail'
        else 'warn'
      end,
      'overdue',
      p_now - make_interval(secs => o.seconds),
      case when p_seen_at is null then 'no worker was ever seen' end,
      jsonb_build_object(
        'seconds', o.seconds,
        'job_id', (
          select r.job_id
          from queue.lanes as l
          cross join lateral (
            select *
            from queue.ready as q
            where q.lane = l.lane
              and (p_workspace_id is null or q.workspace_id = p_workspace_id)
            limit 1
          ) as r -- the first of each lane
          order by r.ready_at
          limit 1
        )
      )
    from (values ((p_backlog ->> 'oldest_due_seconds')::numeric::integer)) as o (
      seconds
    )
    where o.seconds > 120
    union all
    select
      'warn',
      'no_processor',
      null,
      null,
      jsonb_build_object(
        'jobs', u.jobs,
        'types', u.types,
        'job_type', split_part(u.types, ', ', 1)
      )
    from jsonb_to_record(p_backlog -> 'unserved') as u (jobs integer, types text)
    where u.jobs > 0;
  if p_workspace_id is not null then
    return;
  end if;
  return query
    select
      'warn',
      'failing_maintenance',
      null::timestamptz,
      string_agg(m.words, '; '),
      '{}'::jsonb
    from (
      select format('the task %s fails: %s', t.name, left(t.failure, 300)) as words
      from queue.tasks as t
      where t.failures > 0
      union all
      (
        select format(
          '%s passes over job %s: %s',
          r.task,
          r.job_id,
          left(r.failure, 300)
        )
        from queue.refusals as r
        join public.jobs as j on j.id = any (array[r.job_id])
        order by r.refused_at, r.job_id
        limit 20
      )
    ) as m
    having count(*) > 0
    union all
    (
      select
        'warn',
        'open_transaction',
        o.xact_start,
        format(
          '%s (pid %s) has an open transaction for %s s; %s',
          coalesce(nullif(o.application_name, ''), o.usename, 'a session'),
          o.pid,
          o.seconds,
          case
            when o.backend_xid is null then 'dead rows are kept'
            else 'readers of the feed wait for it'
          end
        ),
        jsonb_build_object('pid', o.pid)
      from (
        select
          a.*,
          extract(epoch from queue.clock() - a.xact_start)::integer as seconds
        from pg_catalog.pg_stat_activity as a
        where a.datname = current_database()
          and a.pid <> pg_backend_pid()
          and a.backend_type = 'client backend'
          and num_nonnulls(a.backend_xid, a.backend_xmin) > 0
      ) as o
      where o.seconds >= case
        when o.backend_xid is null then 300
        when o.state = 'active' then 60
        else 30
      end -- it has written, and sits idle
      order by o.seconds desc
      limit 20
    );
end;
$$;

revoke execute on function queue.findings_of_queue from public;

-- Whether the disk fills up, whose size the operator has named: all databases that the engine's
-- owner may connect to and, where it may see that, the write-ahead log.
create or replace function queue.findings_of_disk()
returns table (verdict text, reason text, since timestamptz, cause text, data jsonb)
language plpgsql stable
set search_path = ''
as $$
declare
  v_size constant bigint := (queue.setting('disk_bytes') #>> '{}')::bigint;
  v_used bigint;
begin
  if v_size is null then
    return;
  end if;
  v_used := (
    select sum(pg_database_size(d.oid))
    from pg_catalog.pg_database as d
    where has_database_privilege(d.oid, 'connect')
  );
  if has_function_privilege('pg_catalog.pg_ls_waldir()', 'execute') then
    v_used := v_used + (select sum(w.size) from pg_ls_waldir() as w);
  end if;
  return query
    select
      'warn',
      case when v_used >= 0.9 * v_size then 'disk_nearly_full' else 'disk_filling' end,
      null::timestamptz,
      format(
        '%s of %s are used',
        pg_size_pretty(v_used),
        pg_size_pretty(v_size)
      ),
      jsonb_build_object('percent', floor(100.0 * v_used / v_size))
    where v_used >= 0.8 * v_size;
end;
$$;

revoke execute on function queue.findings_of_disk from public;

-- What is wrong with what apps added: each task may have a function of findings, whose data has the
-- sentence and the steps: {said: {sentence, next: [{words, command, path}]}}.
create or replace function queue.findings_of_apps(p_workspace_id uuid)
returns table (verdict text, reason text, since timestamptz, cause text, data jsonb)
language plpgsql stable
set search_path = ''
as $$
declare
  v_function regprocedure;
begin
  for v_function in
    select f.function
    from queue.tasks as t
    cross join lateral to_regprocedure(
      format('queue.findings_of_%s(uuid)', t.name)
    ) as f (function)
    where f.function is not null
  loop
    return query execute format('select * from %s($1)', v_function::regproc)
    using p_workspace_id;
  end loop;
end;
$$;

revoke execute on function queue.findings_of_apps from public;

-- Codes, by version and commit, that workers alive run for the same types, and for which.
create or replace function queue.codes_side_by_side(p_now timestamptz)
returns table (codes text, job_types text[], since timestamptz)
language sql stable
set search_path = ''
as $$
select
  array_to_string(t.codes, ' and '),
  (array_agg(t.job_type order by t.job_type))[1:5],
  max(t.registered_at)
from (
  select
    j.job_type,
    j.registered_at,
    array_agg(distinct w.version) as codes
  from queue.alive_workers(p_now) as w
  join queue.job_types as j on j.job_type = any (w.job_types)
  group by 1, 2
) as t
where cardinality(t.codes) > 1
group by t.codes
$$;

revoke execute on function queue.codes_side_by_side from public;

-- Jobs of a workspace or (null) of all that are due in some lanes, counted to a thousand.
create or replace function queue.due_in(p_workspace_id uuid, p_lanes integer[])
returns bigint
language sql stable
set search_path = ''
as $$
select count(*)
from (
  (
    select r.lane
    from queue.ready as r
    where r.lane = any (p_lanes)
      and (p_workspace_id is null or r.workspace_id = p_workspace_id)
    limit 1000
  )
  union all
  (
    select g.lane
    from queue.gated as g
    where g.lane = any (p_lanes)
      and not g.admitted
      and (p_workspace_id is null or g.workspace_id = p_workspace_id)
    limit 1000
  )
) as d
$$;

revoke execute on function queue.due_in from public;

-- What is wrong with types, pauses, schedules and questions, for whom it concerns: an
-- operator's pause is a line of the workspaces whose jobs it holds.
create or replace function queue.findings_of_workspace(p_workspace_id uuid, p_now timestamptz)
returns table (verdict text, reason text, since timestamptz, cause text, data jsonb)
language sql stable
set search_path = ''
as $$
select
  'warn',
  'refused_type',
  t.registered_at,
  t.refusal,
  jsonb_build_object('job_type', t.job_type)
from queue.job_types as t
where t.refusal is not null -- types are of all workspaces
union all
select
  'warn',
  'two_codes',
  o.since,
  format('both serve %s', array_to_string(o.job_types, ', ')),
  jsonb_build_object('codes', o.codes, 'job_type', o.job_types[1])
from queue.codes_side_by_side(p_now) as o
union all
select
  'warn',
  p.kind || '_paused',
  p.paused_at,
  p.reason,
  jsonb_build_object(
    'job_type', p.job_type,
    'queue', p.name,
    'paused_at', p.paused_at,
    'jobs', d.jobs
  )
from queue.pauses as p
cross join lateral queue.due_in(
  coalesce(p_workspace_id, p.workspace_id),
  array(
    select l.lane
    from queue.lanes as l
    where case p.kind
      when 'queue' then l.queue = p.name
      when 'workspace' then true
      else l.job_type = p.job_type
    end
  )
) as d (jobs)
where p_workspace_id is null
  or p.workspace_id = p_workspace_id
  or p.workspace_id is null and d.jobs > 0
union all
select
  'warn',
  'late_schedule',
  s.next_at,
  s.problem,
  jsonb_build_object(
    'schedule', s.name,
    'problem', case when s.problem is null then 'is late' else 'made no job' end
  )
from queue.schedules as s
where s.enabled
  and (s.problem is not null or s.next_at < p_now - interval '3 minutes')
  and (p_workspace_id is null or s.workspace_id = p_workspace_id)
union all
select
  'warn',
  'unanswered',
  min(a.created_at),
  (array_agg(left(a.data ->> 'question', 200) order by a.created_at))[1],
  jsonb_build_object(
    'asked', 'answers',
    'jobs', count(*),
    'job_id', (array_agg(a.job_id order by a.created_at))[1]
  )
from (
  select *
  from queue.waits as w
  where w.kind = 'ask'
    and w.created_at < p_now - interval '1 day'
    and (p_workspace_id is null or w.workspace_id = p_workspace_id)
  limit 1000
) as a
having count(*) > 0
$$;

revoke execute on function queue.findings_of_workspace from public;

create or replace function public.explain_queue(p_workspace_id uuid default null)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
set timezone = 'UTC'
as $$ -- in which sentences give instants
declare
  v_now constant timestamptz := queue.clock();
  v_seen_at constant timestamptz := greatest(
    (select max(w.seen_at) from queue.workers as w),
    to_timestamp(nullif(pg_sequence_last_value('queue.slots_ms'), 0) / 1000.0)
  ); -- a worker
  v_backlog jsonb;
  v_findings jsonb;
begin
  perform queue.refuse_revoked();
  perform queue.may_read(p_workspace_id, p_reads_much => true);
  v_backlog := queue.backlog(
    p_workspace_id,
    v_now,
    case when not queue.is_operator() then queue.caller() end
  );
  if p_workspace_id is null then
    -- also what is due but not promoted: workers do that, and none may be there
    v_backlog := v_backlog || jsonb_build_object(
      'oldest_due_seconds', greatest(
        (v_backlog ->> 'oldest_due_seconds')::numeric,
        (
          select extract(epoch from v_now - min(d.run_at))
          from queue.deferred as d
          where d.run_at <= v_now - interval '10 seconds'
        )
      )
    );
  end if;
  select jsonb_agg(
    jsonb_build_object(
      'verdict', f.verdict,
      'reason', f.reason,
      'key', k.key,
      'since', f.since,
      'cause', f.cause,
      'jobs', f.data -> 'jobs'
    ) || coalesce(
      f.data -> 'said',
      queue.words_of(f.reason, f.data || jsonb_build_object('since', f.since))
    )
    order by f.verdict <> 'fail', (f.data ->> 'jobs')::integer desc nulls last, f.reason
  )
  into v_findings
  from (
    select *
    from queue.findings_of_queue(p_workspace_id, v_now, v_backlog, v_seen_at)
    union all
    select *
    from queue.findings_of_disk()
    where p_workspace_id is null
    union all
    select *
    from queue.findings_of_workspace(p_workspace_id, v_now)
    union all
    select *
    from queue.findings_of_apps(p_workspace_id)
  ) as f
  cross join concat_ws(
    ' ',
    f.reason,
    coalesce(
      f.data ->> 'queue',
      f.data ->> 'job_type',
      f.data ->> 'schedule',
      f.data ->> 'url',
      f.data ->> 'asked'
    )
  ) as k (key)
  where f.verdict = 'fail'
    or coalesce((queue.setting('silenced') ->> k.key)::timestamptz <= v_now, true);
  return jsonb_build_object(
    'now', v_now,
    'verdict', coalesce(v_findings #>> '{0,verdict}', 'pass'),
    'findings', coalesce(v_findings, '[]'),
    'holders', queue.holders(p_workspace_id, null, v_now),
    'backlog', v_backlog,
    'last_tick_seconds', extract(epoch from v_now - v_seen_at)
  );
end;
$$;

comment on function public.explain_queue is
  'What is wrong, the worst first, and who holds jobs, by how many: {now, verdict, '
  'findings: [{verdict, reason, key, sentence, since, cause, jobs, next: [{words, command, '
  'path}]}], '
  'holders: [{jobs, more, since, kind, reason, sentence, cause, next, holder, job_id, job_types, '
  'keys}], backlog, last_tick_seconds}; of all (null) for operators.';

create or replace function public.silence_finding(p_key text, p_until timestamptz)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
begin
  if not (queue.is_operator() or queue.is_service()) then
    perform queue.refuse(403, 'forbidden', 'only the operator silences a finding');
  elsif p_key is null then
    perform queue.refuse(400, 'invalid_argument', 'name a finding', 'p_key');
  end if;
  insert into queue.settings as s (name, value)
  values ('silenced', jsonb_build_object(p_key, p_until))
  on conflict (name) do update set value = excluded.value || (
    select coalesce(jsonb_object_agg(k.key, k.value), '{}')
    from jsonb_each_text(s.value) as k
    where k.value::timestamptz > queue.clock() and k.key <> p_key
  );
  return jsonb_build_object('key', p_key, 'until', p_until);
end;
$$;

comment on function public.silence_finding is
  'Leave a warning of explain_queue out until an instant, by its key; null ends it. For operators.';

select queue.allow('authenticated, service_role', 'public.silence_finding');

create or replace function public.queue_health()
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_found constant jsonb := public.explain_queue();
begin
  perform queue.refuse_revoked();
  return v_found || jsonb_build_object(
    'oldest_due_seconds', v_found #> '{backlog,oldest_due_seconds}'
  );
end;
$$;

comment on function public.queue_health is
  'Readiness in one call: explain_queue of all, and the age of the oldest due job.';

select queue.allow('job_worker, service_role', 'public.queue_health');

create or replace function public.queue_stats(
  p_workspace_id uuid default null,
  p_minutes integer default 60
)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_since constant timestamptz := date_trunc('minute', v_now)
    - make_interval(mins => least(11520, greatest(1, coalesce(p_minutes, 60))));
begin
  perform queue.refuse_revoked();
  perform queue.may_read(p_workspace_id, p_reads_much => true);
  return jsonb_build_object(
    'now', v_now,
    'since', v_since,
    'late_since', queue.figures_late_since(v_now),
    'backlog', queue.backlog(p_workspace_id, v_now),
    'live', (public.count_jobs(p_workspace_id) -> 'states')
      - '{completed,failed,cancelled}'::text[],
    'types', (
      select coalesce(jsonb_object_agg(n.job_type, n.line), '{}')
      from queue.type_numbers(p_workspace_id, v_since, '400 days', v_now) as n
    ),
    'pauses', (
      select coalesce(jsonb_agg(to_jsonb(p)), '[]')
      from queue.pauses as p
      where p_workspace_id is null
        or coalesce(p.workspace_id = p_workspace_id, true)
    ),
    'tenants', case
      when p_workspace_id is null then (
        select coalesce(
          jsonb_agg(
            to_jsonb(t) || jsonb_build_object(
              'running', (
                select count(*)
                from queue.leases as l
                where l.workspace_id = t.workspace_id
              )
            )
            order by t.enqueued desc
          ),
          '[]'
        )
        from (
          select
            s.workspace_id,
            sum((s.counts ->> 'enqueued')::bigint) as enqueued,
            sum((s.counts ->> 'failed')::bigint) as failed
          from queue.stats as s
          where s.workspace_id <> '00000000-0000-0000-0000-000000000000'
            and s.minutes = 1
            and s.at >= v_since
          group by 1
          order by 2 desc
          limit 20
        ) as t
      )
    end,
    'workers', case
      when p_workspace_id is null then (
        select coalesce(
          jsonb_agg(to_jsonb(w) - 'worker' order by w.seen_at desc),
          '[]'
        )
        from (
          select *
          from queue.workers
          order by seen_at desc
          limit 20
        ) as w
      )
    end
  );
end;
$$;

comment on function public.queue_stats is
  'Counts and percentiles per type of p_minutes, 1 to 11,520; late_since: where they are late, '
  'since when; null: of all, for operators, with the last workers and the 20 busiest tenants.';

select queue.allow('authenticated, job_worker, service_role', 'public.queue_stats');

create or replace function public.queue_series(
  p_workspace_id uuid default null,
  p_minutes integer default 60
)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_minutes constant integer := least(43200, greatest(15, coalesce(p_minutes, 60)));
  v_step constant interval := make_interval(
    mins => case
      when v_minutes <= 90 then 1
      when v_minutes <= 360 then 5
      when v_minutes <= 1440 then 15
      when v_minutes <= 10080 then 120
      else 360
    end
  );
  v_since constant timestamptz := date_bin(
    v_step,
    v_now - make_interval(mins => v_minutes),
    '2000-01-01 00:00:00+00'
  );
begin
  perform queue.may_read(p_workspace_id, p_reads_much => true);
  return jsonb_build_object(
    'now', v_now,
    'since', v_since,
    'step_seconds', extract(epoch from v_step),
    'points', (
      select coalesce(
        jsonb_agg(
          n.line || jsonb_build_object('at', n.at, 'job_type', n.job_type)
          order by n.at, n.job_type
        ),
        '[]'
      )
      from queue.type_numbers(p_workspace_id, v_since, v_step, v_now) as n
    )
  );
end;
$$;

comment on function public.queue_series is
  'Counts and times per type over p_minutes, 15 to '
  '43,200, in about a hundred points: {now, since, step_seconds, points}.';

select queue.allow('authenticated, service_role', 'public.queue_series');

-- How many jobs of a type wait and run, counted to a thousand: {waiting, running}.
create or replace function queue.live_of_type(p_workspace_id uuid, p_job_type text)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object(
  'waiting', queue.due_in(p_workspace_id, k.lanes) + ( -- and those of no published type
    select count(*)
    from queue.unpublished as u
    where u.job_type = p_job_type
      and (p_workspace_id is null or u.workspace_id = p_workspace_id)
  ),
  'running', (
    select count(*)
    from (
      select l.job_id
      from queue.leases as l
      where l.lane = any (k.lanes)
        and (p_workspace_id is null or l.workspace_id = p_workspace_id)
      limit 1000
    ) as r
  )
)
from (
  select array_agg(l.lane) as lanes
  from queue.lanes as l
  where l.job_type = p_job_type
) as k
$$;

revoke execute on function queue.live_of_type from public;

create or replace function public.list_job_types(
  p_workspace_id uuid default null,
  p_internal boolean default false,
  p_job_type text default null
)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_alive constant integer[] := array(
    select w.worker
    from queue.alive_workers(v_now) as w
  );
  v_types jsonb;
begin
  perform queue.may_read(p_workspace_id, p_reads_much => true);
  with types as materialized (
    select *
    from queue.job_types
    union all -- those that jobs of the workspace wait for
    select u.*
    from (
      select distinct o.job_type
      from queue.unpublished as o
      where p_workspace_id is null or o.workspace_id = p_workspace_id
    ) as w
    cross join lateral queue.type_or_refuse(w.job_type) as u
    where not exists (
      select from queue.job_types as k
      where k.job_type = w.job_type
    )
  ),
  asked as materialized (
    select *
    from types as t
    where case
      when p_job_type is null then not t.internal or coalesce(p_internal, false)
      else t.job_type = p_job_type
    end
  ),
  served as materialized (
    select s.*
    from (select array_agg(o.job_type) as names from asked as o) as a
    cross join lateral queue.served(a.names, null, v_now) as s
  ),
  seen as ( -- alive, stale (seen lately), or gone
    select
      o.job_type,
      l.worker_id,
      l.version,
      l.started_at,
      l.seen_at,
      l.queues,
      case
        when l.worker = any (v_alive) then 'alive'
        when l.seen_at > v_now - interval '10 minutes' then 'stale'
        else 'gone'
      end as state,
      row_number() over (partition by o.job_type order by l.seen_at desc) as nth
    from (
      select *
      from queue.workers
      order by seen_at desc
      limit 200
    ) as l
    join asked as o on l.job_types is null or o.job_type = any (l.job_types)
  )
  select jsonb_agg(
    to_jsonb(t) - case when p_job_type is null then 'payload_schema' else '' end
    || queue.live_of_type(p_workspace_id, t.job_type)
    || jsonb_build_object(
      'published', t.schema_version > 0,
      'nearest', case t.schema_version
        when 0 then queue.nearest_type(t.job_type)
      end,
      'paused_at', p.paused_at,
      'pause_reason', p.reason,
      'day', coalesce(n.line, '{}'),
      'served', t.schema_version > 0 and not s.unserved,
      'serving', (
        select coalesce(
          jsonb_agg(to_jsonb(w) - '{job_type,nth}'::text[] order by w.nth),
          '[]'
        )
        from seen as w
        where w.job_type = t.job_type and w.nth <= 20
      ),
      'schedules', (
        select coalesce(
          jsonb_agg(
            to_jsonb(c) - '{payload,options,created_by}'::text[]
            order by c.name
          ),
          '[]'
        )
        from queue.schedules as c
        where c.job_type = t.job_type
          and p_job_type is not null
          and (
            p_workspace_id is null
            or c.workspace_id in (p_workspace_id, queue.system_workspace())
          )
      )
    )
    order by t.job_type
  )
  into v_types
  from asked as t
  left join queue.type_numbers(
    p_workspace_id,
    v_now - interval '1 day',
    '400 days',
    v_now
  ) as n on n.job_type = t.job_type
  left join lateral (
    select *
    from queue.pauses as o
    where (o.kind, o.name) in (
      ('job_type', t.job_type),
      ('workspace_type', p_workspace_id || '/' || t.job_type)
    )
    order by o.kind
    limit 1
  ) as p on true
  left join served as s on s.job_type = t.job_type;
  if v_types is null and p_job_type is not null then
    perform queue.refuse(
      404,
      'unknown_job_type',
      format('no worker has registered the job type %s', left(p_job_type, 100))
    );
  end if;
  if p_job_type is not null then
    v_types := jsonb_set(
      v_types,
      '{0,holders}',
      queue.holders(p_workspace_id, p_job_type, v_now)
    );
  end if;
  return jsonb_build_object(
    'now', v_now,
    'late_since', queue.figures_late_since(v_now),
    'types', coalesce(v_types, '[]')
  );
end;
$$;

comment on function public.list_job_types is
  'Job types by name: {now, types}, each with policy, '
  'the 20 workers last seen, its day, a pause, a refusal, the nearest published name if it is not; '
  'the one named also with payload schema, schedules, and who holds its jobs.';

select queue.allow('authenticated, service_role', 'public.list_job_types');

-- Note that a task was refused for a job: it is tried again after 5 seconds, doubling to an hour.
create or replace function queue.note_refusal(
  p_task text,
  p_job_id uuid,
  p_failure text,
  p_now timestamptz
)
returns void
language sql
set search_path = ''
as $$
insert into queue.refusals as r (
  task, job_id, workspace_id, refused_at, retry_at, failure
)
select
  p_task,
  j.id,
  j.workspace_id,
  p_now,
  p_now + interval '5 seconds',
  left(p_failure, 1000)
from public.jobs as j
where j.id = p_job_id
on conflict (task, job_id) do update set
  failure = excluded.failure,
  failures = r.failures + 1,
  retry_at = p_now
    + least(interval '1 hour', interval '5 seconds' * 2 ^ least(r.failures, 12))
$$;

revoke execute on function queue.note_refusal from public;

-- The jobs that a task is to pass over now.
create or replace function queue.refused(p_task text, p_now timestamptz)
returns uuid[]
language plpgsql stable
set search_path = ''
as $$
begin
  return array(
    select r.job_id
    from queue.refusals as r
    where r.task = p_task and r.retry_at > p_now
  );
end;
$$;

revoke execute on function queue.refused from public;

-- Why a process ended, as the jobs of one workspace keep it: of others only how many there were.
create or replace function queue.evidence_for(p_workspace_id uuid, p_evidence jsonb)
returns jsonb
language sql stable
set search_path = ''
as $$
select p_evidence
  || coalesce(
    jsonb_build_object('jobs_in_it', jsonb_array_length(p_evidence -> 'jobs')),
    '{}'
  )
  || coalesce(jsonb_object_agg(n.name, o.ids), '{}')
from (values ('jobs'), ('guilty')) as n (name)
cross join lateral (
  select coalesce(jsonb_agg(j.id order by j.id), '[]') as ids
  from public.jobs as j
  where j.workspace_id = p_workspace_id
    and j.id = any (array(
      select e.id::uuid
      from jsonb_array_elements_text(p_evidence -> n.name) as e (id)
    ))
) as o
where p_evidence ? n.name
$$;

revoke execute on function queue.evidence_for from public;

-- How the expired leases of jobs are settled: as lost; or, where another job ended the process that
-- they ran in, as released, which counts as no attempt.
create or replace function queue.lost_items(p_ids uuid[])
returns queue.worker_item[]
language sql stable
set search_path = ''
as $$
select coalesce(array_agg(
  jsonb_populate_record(
    null::queue.worker_item,
    jsonb_build_object(
      'job_id', l.job_id,
      'fence', l.fence,
      'outcome', case when o.is_innocent then 'released' else 'lost' end,
      'duration_ms', greatest(
        0, -- until its worker last answered
        date_part('epoch', l.expires_at - l.leased_at) - case
          when w.evidence is null then l.lease_seconds
          else 0
        end
      ) * 1000,
      'error', jsonb_strip_nulls(jsonb_build_object(
        'type', 'WorkerLost',
        'reason', 'worker_lost',
        'worker_id', w.worker_id,
        'evidence', queue.evidence_for(l.workspace_id, w.evidence),
        'message', case
          when o.is_innocent then format(
            'attempt %s does not count: a job of %s ended the process of worker %s',
            l.attempt,
            w.evidence ->> 'guilty_type',
            w.worker_id
          )
          else format(
            'attempt %s was lost: worker %s stopped answering',
            l.attempt,
            w.worker_id
          )
        end
      ))
    )
  )
  order by l.job_id
), '{}')
from queue.leases as l
left join queue.workers as w on w.worker = l.worker
cross join lateral (
  select coalesce(
    w.evidence -> 'jobs' ? l.job_id::text and not w.evidence -> 'guilty' ? l.job_id::text,
    false
  ) as is_innocent
) as o
where l.job_id = any (p_ids)
$$;

revoke execute on function queue.lost_items from public;

-- Do a task for jobs, by halves where it is refused, down to the one to blame; how many were done.
create or replace function queue.do_in_parts(p_task text, p_ids uuid[], p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_half constant integer := cardinality(p_ids) / 2;
  v_lost queue.worker_item[];
  v_done integer := cardinality(p_ids);
begin
  begin
    if p_task = 'retention' then
      delete from public.jobs
      where ctid = any (array(
        select j.ctid
        from public.jobs as j
        where j.id = any (p_ids)
        order by j.id
        for update skip locked
      ));
      get diagnostics v_done = row_count;
    elsif p_task = 'reclaim' then -- expired leases are settled as lost, tried again at once
      v_lost := queue.lost_items(p_ids);
      perform queue.append_event(
        p_ids,
        'job.reclaimed',
        '{"status": "pending"}',
        p_now
      );
      perform queue.publish(s.changes, p_now) from queue.settle(v_lost, false) as s;
    else
      v_done := case p_task
        when 'promotion' then queue.promote(p_ids, p_now)
        when 'waits' then queue.end_waits(p_ids, p_now)
        when 'cancel' then queue.cancel(p_ids, p_now, true, 'parent_ended')
        when 'retry' then queue.retry(p_ids, p_now)
      end;
    end if;
    delete from queue.refusals as r
    where r.task = p_task and r.job_id = any (p_ids);
    return v_done;
  exception
    when connection_exception
      or transaction_rollback
      or insufficient_resources
      or object_not_in_prerequisite_state
      or operator_intervention
      or system_error
      or internal_error then
      raise; -- of locks, resources or the connection: no row is to blame
    when others then
      if v_half = 0 then
        raise warning 'maintenance (%) passes over job %: % (%)',
          p_task,
          p_ids[1],
          sqlerrm,
          sqlstate;
        perform queue.note_refusal(
          p_task,
          p_ids[1],
          format('%s (%s)', sqlerrm, sqlstate),
          p_now
        );
        return 0;
      end if;
  end;
  return queue.do_in_parts(p_task, p_ids[:v_half], p_now)
    + queue.do_in_parts(p_task, p_ids[v_half + 1:], p_now);
end;
$$;

revoke execute on function queue.do_in_parts from public;

-- These jobs find their next place, or end: past their deadline, not
-- started in time, or a person's of an internal type.
create or replace function queue.promote(p_ids uuid[], p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  -- places before records: one whose wait someone answers now stays due
  v_locked constant uuid[] := array(
    select w.job_id
    from queue.waits as w
    where w.job_id = any (p_ids)
    order by w.job_id
    for update skip locked
  );
  v_adopted uuid[];
  v_due uuid[];
begin
  with gone as (
    delete from queue.unpublished as u
    using public.jobs as j
    where j.id = any (p_ids)
      and u.job_type = j.job_type
      and u.workspace_id = j.workspace_id
      and u.job_id = j.id
    returning u.job_id
  )
  select coalesce(array_agg(g.job_id), '{}') into v_adopted
  from gone as g;
  with gone as (
    delete from queue.deferred as d
    using public.jobs as j
    where j.id = any (p_ids)
      and d.job_id = j.id
      and d.run_at <= p_now
      and d.run_at in (j.next_retry_at, j.scheduled_for, j.deadline_at, j.start_by_at)
      and (j.status <> 'waiting' or j.id = any (v_locked))
    returning d.job_id, d.run_at = coalesce(j.next_retry_at, j.scheduled_for) as is_start
  )
  select coalesce(array_agg(g.job_id) filter (where g.is_start), '{}') into v_due
  from gone as g;
  perform queue.finish(
    array_agg(e.id),
    case e.error ->> 'type' when 'StartByPassed' then 'cancelled' else 'failed' end,
    e.error,
    p_now
  )
  from (
    select
      j.id,
      case
        when j.deadline_at <= p_now then '{"type": "DeadlinePassed",
        "reason": "deadline_passed", "message": "its deadline passed before it could run"}'
        when j.started_at is null and j.start_by_at <= p_now then '{"type": "StartByPassed",
        "reason": "start_by_passed", "message": "it had not started within start_by_seconds"}'
        else '{"type": "Forbidden", "reason": "forbidden",
        "message": "only the platform itself enqueues jobs of this type"}'
      end::jsonb as error
    from public.jobs as j
    left join queue.job_types as t on t.job_type = j.job_type
    where j.id = any (p_ids)
      and (j.status = 'pending' or j.status = 'waiting' and j.id = any (v_locked))
      and (
        j.deadline_at <= p_now
        or j.started_at is null and j.start_by_at <= p_now
        or t.internal and j.user_id is not null and j.id = any (v_adopted)
      )
  ) as e
  group by e.error;
  perform queue.place(j, p_now)
  from public.jobs as j
  where j.id = any (p_ids)
    and j.status = 'pending'
    and j.id = any (v_adopted || v_due); -- one that had to start by now may be ready already
  return cardinality(p_ids);
end;
$$;

revoke execute on function queue.promote from public;

-- Promote jobs whose type has been published since, and those whose time has come, the oldest of
-- them and shares of the workspaces. What someone holds stays due.
create or replace function queue.do_promotion(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_types constant text[] := array( -- published since jobs of theirs came
    select t.job_type
    from queue.job_types as t
    where t.schema_version > 0
      and exists (
        select from queue.unpublished as u
        where u.job_type = t.job_type
      )
  );
  v_refused uuid[];
  v_lines tid[];
  v_adopted tid[];
  v_ids uuid[];
  v_done integer := 0;
begin
  loop
    v_refused := queue.refused('promotion', p_now);
    v_lines := queue.in_shares(
      'queue.deferred',
      'true',
      'o.run_at <= $1 and o.job_id <> all ($2)',
      'o.run_at',
      p_now,
      v_refused
    );
    v_adopted := case
      when v_types <> '{}' then queue.in_shares(
        'queue.unpublished',
        'true',
        format('o.job_id <> all ($2) and o.job_type = any (%L)', v_types),
        'o.job_type',
        p_now,
        v_refused
      )
    end;
    v_ids := array( -- locked with their lines
      select h.id
      from (
        select j.id
        from queue.deferred as d
        join public.jobs as j on j.id = d.job_id
        where d.ctid = any (v_lines)
        for no key update of d, j skip locked
      ) as h
      union
      select h.id
      from (
        select j.id
        from queue.unpublished as u
        join public.jobs as j on j.id = u.job_id
        where u.ctid = any (v_adopted)
        for no key update of u, j skip locked
      ) as h
    );
    exit when v_ids = '{}';
    v_done := v_done + queue.do_in_parts('promotion', v_ids, p_now);
    exit when clock_timestamp() > p_until;
  end loop;
  return v_done;
end;
$$;

revoke execute on function queue.do_promotion from public;

-- Reclaim expired leases, slice by slice, of each workspace as many; what someone holds stays due.
create or replace function queue.do_reclaim(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_refused uuid[];
  v_ids uuid[];
  v_done integer := 0;
begin
  -- leases from before the clock went back would last so much longer
  update queue.leases as l
  set expires_at = p_now + make_interval(secs => l.lease_seconds)
  where l.ctid = any (array(
    select o.ctid
    from queue.leases as o
    where o.expires_at
      > p_now + make_interval(secs => o.lease_seconds) + interval '1 minute'
    for no key update skip locked
  ));
  loop
    v_refused := queue.refused('reclaim', p_now);
    v_ids := array(
      select l.job_id
      from (
        select
          o.job_id,
          row_number() over (partition by o.workspace_id order by o.job_id) as nth
        from queue.leases as o
        where o.expires_at <= p_now and o.job_id <> all (v_refused)
      ) as d
      join queue.leases as l on l.job_id = d.job_id
      join public.jobs as j on j.id = l.job_id
      where l.expires_at <= p_now
      order by d.nth, d.job_id
      limit 200
      for no key update of l, j skip locked
    );
    exit when v_ids = '{}';
    v_done := v_done + queue.do_in_parts('reclaim', v_ids, p_now);
    exit when clock_timestamp() > p_until;
  end loop;
  return v_done;
end;
$$;

revoke execute on function queue.do_reclaim from public;

-- Ended jobs past their retention go. An id begins with its instant, so a pass over the old ones
-- finds them, in slices from the oldest on; children stay while their parent waits for children.
create or replace function queue.do_retention(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_days constant jsonb := queue.setting('retention_days');
  v_before constant uuid := queue.id_at(
    p_now - make_interval(
      days => (select min(d.value::integer) from jsonb_each_text(v_days) as d)
    )
  );
  v_refused constant uuid[] := queue.refused('retention', p_now);
  v_after uuid := (
    select t.after_id
    from queue.tasks as t
    where t.name = 'retention'
  );
  v_seen record;
  v_done integer := 0;
begin
  loop
    with slice as materialized (
      select
        j.id,
        j.finished_at
        < p_now - make_interval(days => (v_days ->> j.status)::integer)
          and j.id <> all (v_refused)
          and not exists (
            select from queue.waits as w
            where w.job_id = j.parent_id and w.kind = 'children'
          ) as is_old
      from public.jobs as j
      where j.id > coalesce(v_after, '00000000-0000-0000-0000-000000000000')
        and j.id < v_before
      order by j.id
      limit 500
    )
    select
      array_agg(s.id order by s.id) as ids,
      coalesce(array_agg(s.id) filter (where s.is_old), '{}') as old
    into v_seen
    from slice as s;
    if v_seen.old <> '{}' then
      v_done := v_done + queue.do_in_parts('retention', v_seen.old, p_now);
    end if;
    v_after := v_seen.ids[500]; -- null: the pass has ended
    exit when v_after is null or clock_timestamp() > p_until;
  end loop;
  update queue.tasks
  set after_id = v_after
  where name = 'retention';
  -- 0: nothing to do
  return case when v_after is null then v_done else greatest(1, v_done) end;
end;
$$;

revoke execute on function queue.do_retention from public;

drop function queue.do_sweep(p_now timestamp with time zone);

-- Rows that belong to no job, in slices by an index of each.
create or replace function queue.do_sweep(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_rule record;
  v_rows integer;
  v_done integer := 0;
begin
  -- turns that are empty and that no lease has come by are closed as of then, and deleted below
  perform queue.tidy_turns(
    array(
      select row(t.lane, t.workspace_id, null, 0)::queue.share
      from queue.turns as t
      where not t.blocked
        and t.changed_at < p_now - interval '1 hour'
        and not exists (
          select from queue.ready as r
          where r.lane = t.lane
            and r.workspace_id = t.workspace_id
            and r.ord >= t.from_ord
        )
      limit 1000
    ),
    p_now - interval '2 hours'
  );
  update queue.lanes as l
  set unused_since = case when l.unused_since is null then p_now end
  where (l.unused_since is null) = (
    l.lane not in (
      select t.lane
      from queue.job_types as t
      where t.lane is not null
      union
      select t.lane
      from queue.turns as t
      union
      select g.lane
      from queue.gated as g
      union
      select r.lane
      from queue.leases as r
      union
      select n.lane
      from queue.notes as n
    )
    and l.queue <> all (array(
      select unnest(w.queues)
      from queue.workers as w
      where w.seen_at > p_now - interval '1 day'
      union
      select s.options ->> 'queue'
      from queue.schedules as s
      where s.options ->> 'queue' is not null
    ))
  );
  for v_rule in
    select *
    from (
      values
        ('lanes', 'unused_since < $1 - interval ''1 day'''),
        -- no one will wait for them
        ('named_events', 'emitted_at < $1 - interval ''30 days'''),
        ('stats', 'minutes = 1 and at < $1 - interval ''25 hours'''),
        ('stats', 'minutes = 60 and at < $1 - interval ''31 days'''),
        ('guest_sessions', 'expires_at < $1 - interval ''1 day'''),
        -- as follow_topic's
        ('followers', 'seen_at < clock_timestamp() - interval ''150 seconds'''),
        -- closed; a lease that opens it again finds none, and makes one
        (
          'turns',
          'blocked and look_at is null and changed_at < $1 - interval ''1 hour'''
        ),
        -- full by then, even of a rate that was overdrawn by as much
        (
          'buckets',
          'refilled_at < $1 - greatest(interval ''1 day'', case when name ~ ''^[rk]:''
        then (select make_interval(secs => 2 * max(rate_per_seconds)) from queue.job_types) end)'
        ),
        ('ticks', 'seen_at < $1 - interval ''1 day'''),
        ('withdrawn_schedules', 'withdrawn_at < $1 - interval ''1 day'''),
        -- jobs that are kept for longer name no worker any more
        ('workers', 'seen_at < $1 - interval ''100 days'''),
        -- of jobs that were deleted while a worker reported on them
        ('leases', 'expires_at <= $1 and not exists (
        select from public.jobs as j where j.id = o.job_id)'),
        ('deferred', 'run_at <= $1 - interval ''1 hour'' and not exists (
        select from public.jobs as j where j.id = o.job_id
          and o.run_at in (
            j.next_retry_at, j.scheduled_for, j.deadline_at, j.start_by_at))'),
        (
          'refusals',
          'retry_at < $1 - interval ''1 day'' or task = ''lease''
        and (select j.status from public.jobs as j where j.id = o.job_id)
          is distinct from ''pending'''
        )
    ) as r (name, is_old)
  loop
    execute format(
      'delete from queue.%1$I where ctid = any (array('
        'select o.ctid from queue.%1$I as o where %2$s limit 20000 for update skip locked))',
      v_rule.name,
      v_rule.is_old
    )
    using p_now;
    get diagnostics v_rows = row_count;
    v_done := v_done + v_rows;
  end loop;
  return v_done;
end;
$$;

revoke execute on function queue.do_sweep from public;

-- Whether run_maintenance, which asks for the same times, would find something to do; p_active:
-- jobs have run. What is held is due a second later; if idle, what found nothing an hour later.
create or replace function queue.maintenance_is_due(p_now timestamptz, p_active boolean)
returns boolean
language plpgsql stable
set search_path = ''
as $$
begin
  return exists (
    select from queue.tasks as t
    cross join lateral (
      select case
        when t.was_idle
            and t.done_at > p_now - interval '1 second'
            and t.done_at <= p_now
          then t.done_at
        else '-infinity'
      end as rests_until
    ) as r
    where (
      t.done_at > p_now
      or (t.done_at + t.every <= p_now or t.after_id is not null)
        and coalesce(t.retry_at, '-infinity') <= p_now
    )
      and (
        case t.name
          when 'promotion' then exists (
            select from queue.deferred as d
            where d.run_at <= p_now
              and d.run_at > r.rests_until
              and d.job_id <> all ((
                select queue.refused('promotion', p_now)
              )::uuid[])
          )
            or exists (
              select from queue.job_types as y
              where y.schema_version > 0
                and exists (
                  select from queue.unpublished as u
                  where u.job_type = y.job_type
                )
            )
          when 'waits' then exists (
            select from queue.signals as s
            where s.look_at <= p_now
              and (s.failures = 0 or r.rests_until = '-infinity')
          )
            or exists (
              select from queue.waits as w
              where w.timeout_at <= p_now and w.timeout_at > r.rests_until
            )
          when 'retention' then t.after_id is not null -- a pass is under way
          when 'schedules' then exists (
            select from queue.schedules as s
            where s.enabled and s.next_at <= p_now
          )
          when 'announcements'
            then exists (select from queue.feed as f where f.unsent)
          -- one of them may have expired
          when 'reclaim' then exists (select from queue.leases)
          else t.reads_feed -- seconds later
            and exists (select from queue.feed as f where f.number >= t.read_to)
        end
        or t.every > interval '0'
          and (p_active or not t.was_idle or t.done_at <= p_now - interval '1 hour')
      )
  );
end;
$$;

revoke execute on function queue.maintenance_is_due from public;

create or replace function public.run_maintenance(p_request jsonb default '{}')
returns jsonb
language plpgsql
security definer
set search_path = ''
set lock_timeout = '2s'
set enable_seqscan = off
set jit = off
as $$
declare
  v_until constant timestamptz := clock_timestamp() + make_interval(
    secs => least(
      5000,
      greatest(50, coalesce((p_request ->> 'budget_ms')::double precision, 1000))
    ) / 1000
  );
  v_now constant timestamptz := queue.clock();
  v_task queue.tasks;
  v_tasks queue.tasks[];
  v_left integer;
  v_share timestamptz;
  v_done integer;
  v_counts jsonb := '{}';
  v_failed text[] := '{}';
begin
  perform queue.refuse_revoked();
  if current_setting('transaction_isolation') <> 'read committed' then
    perform queue.refuse(
      400,
      'invalid_argument',
      'maintenance needs read committed'
    );
  elsif not queue.try_lock('maintenance') then
    return jsonb_build_object(
      'done', v_counts,
      'failed', v_failed,
      'more', false,
      'busy', true
    );
  end if;
  perform queue.feed_number(pg_snapshot_xmax(pg_current_snapshot())); -- after a restore
  -- the longest ago first, each for an equal part of what is left: none keeps another waiting
  v_tasks := array(
    select t
    from queue.tasks as t
    where t.done_at > v_now
      or (t.done_at + t.every <= v_now or t.after_id is not null)
        and coalesce(t.retry_at, '-infinity') <= v_now
    order by t.failures > 0, t.done_at, t.every, t.name
  );
  v_left := cardinality(v_tasks);
  foreach v_task in array v_tasks loop
    exit when clock_timestamp() >= v_until;
    v_share := clock_timestamp() + (v_until - clock_timestamp()) / v_left;
    v_left := v_left - 1;
    begin
      execute format('select queue.%I($1, $2)', 'do_' || v_task.name)
      into v_done
      using v_now, v_share;
      update queue.tasks
      set
        done_at = v_now,
        was_idle = v_done = 0,
        failures = 0,
        failure = null,
        retry_at = null
      where name = v_task.name;
      if v_done > 0 then
        v_counts := v_counts || jsonb_build_object(v_task.name, v_done);
      end if;
    -- also one that meets the statement's timeout
    exception when query_canceled or others then
      update queue.tasks
      set
        done_at = v_now,
        failures = failures + 1,
        failure = format('%s (%s)', sqlerrm, sqlstate),
        retry_at = v_now + least(
          interval '1 hour',
          interval '5 seconds' * 2 ^ least(failures, 12)
        )
      where name = v_task.name;
      raise warning 'the maintenance task % failed: % (%)',
        v_task.name,
        sqlerrm,
        sqlstate;
      v_failed := v_failed || v_task.name;
    end;
  end loop;
  if v_tasks <> '{}' then
    perform setval('queue.feed_reached', queue.feed_end()); -- no position is above it
  end if;
  return jsonb_build_object(
    'done', v_counts,
    'failed', v_failed,
    'busy', false,
    'more', v_left > 0 or v_counts <> '{}' and queue.maintenance_is_due(v_now, true)
  );
end;
$$;

comment on function public.run_maintenance is
  E'Do what is due besides leasing, for at most budget_ms (50 to 5,000, default 1,000): '
  '{done: {task: count}, failed: [task], more, busy}.\n\nmore: call again; busy: another does it.';

select queue.allow('job_worker, service_role', 'public.run_maintenance');

-- A person's data: which columns name or quote people, and how it is exported and erased.
--
-- A column says what it holds in its comment, an app's or a project's own as the engine's:
--   Person: owner             the id of the person whose row it is; the row is deleted
--   Person: key               a text with that id in it; the row is deleted
--   Person: tags              labels; the row is deleted where one is user:<id>
-- Person: mention the id of someone who did something; it and the row's words are cleared
--   Person: jobs              ids of jobs; the row's words are cleared where one of them is deleted
--   Person: words             a text that may quote someone; a row that does is deleted
--   Person: words to clear    the same, but only the text is cleared
--   Person: words of the job  the same, of the job job_id; the whole job is deleted
--   Person: secret            left out of an export
-- Words are searched where the caller gives them, which reads the tables whole.

comment on column public.jobs.user_id is 'Person: owner';

comment on column public.jobs.tags is 'Person: tags';

comment on column public.jobs.payload is 'Person: words';

comment on column public.jobs.progress is 'Person: words';

comment on column public.jobs.result is 'Person: words';

comment on column public.jobs.error_message is 'Person: words';

comment on column public.jobs.error_data is 'Person: words';

comment on column public.jobs.session_id is 'Person: words';

comment on column public.jobs.concurrency_key is 'Person: words';

comment on column public.jobs.idempotency_key is 'Person: words';

comment on column public.jobs.unique_key is 'Person: words';

comment on column public.job_logs.message is 'Person: words of the job';

comment on column public.job_logs.metadata is 'Person: words of the job';

comment on column queue.job_events.data is 'Person: words of the job';

comment on column queue.attempts.error_message is 'Person: words of the job';

comment on column queue.attempts.error_data is 'Person: words of the job';

comment on column queue.attempts.traceback is 'Person: words of the job';

comment on column queue.job_keys.key is 'Person: words of the job';

comment on column queue.steps.name is 'Person: words of the job';

comment on column queue.steps.value is 'Person: words of the job';

comment on column queue.waits.step is 'Person: words of the job';

comment on column queue.waits.data is 'Person: words of the job';

comment on column queue.waits.event_name is 'Person: words of the job';

comment on column queue.waits.default_value is 'Person: words of the job';

comment on column queue.feed.job_ids is 'Person: jobs';

comment on column queue.feed.session_id is 'Person: words to clear';

comment on column queue.feed.data is 'Person: words to clear';

comment on column queue.signals.name is 'Person: words';

comment on column queue.refusals.failure is 'Person: words to clear';

comment on column queue.named_events.created_by is 'Person: owner';

comment on column queue.named_events.name is 'Person: words';

comment on column queue.named_events.payload is 'Person: words';

comment on column queue.schedules.created_by is 'Person: owner';

comment on column queue.schedules.name is 'Person: words';

comment on column queue.schedules.payload is 'Person: words';

comment on column queue.schedules.options is 'Person: words';

comment on column queue.schedules.problem is 'Person: words to clear';

comment on column queue.pauses.paused_by is 'Person: mention';

comment on column queue.pauses.reason is 'Person: words to clear';

comment on column queue.tasks.failure is 'Person: words to clear';

comment on column queue.buckets.name is 'Person: key';

comment on column queue.followers.user_id is 'Person: owner';

comment on column queue.followers.topic is 'Person: words';

comment on column queue.streamed_topics.topic is 'Person: words';

comment on column queue.guest_sessions.user_id is 'Person: owner';

comment on column public.workspaces.name is 'Person: words to clear';

comment on column public.workspace_members.user_id is 'Person: owner';

-- The columns that say so, of tables of the engine's owner: no one else's triggers run here.
create or replace function queue.personal_columns(
  out relation oid,
  out name text,
  out type text,
  out kind text,
  out empty text -- what clears it, as SQL
)
returns setof record
language sql stable
set search_path = ''
as $$
select
  c.oid,
  quote_ident(a.attname),
  format_type(a.atttypid, null),
  substr(d.description, 9),
  case
    when not a.attnotnull then 'null'
    when a.atttypid = 'jsonb'::regtype then '''{}'''
    else '''erased'''
  end
from pg_catalog.pg_description as d
join pg_catalog.pg_class as c on c.oid = d.objoid
join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attnum = d.objsubid
join pg_catalog.pg_namespace as n on n.oid = 'queue'::regnamespace
where d.classoid = 'pg_class'::regclass
  and d.description like 'Person: %'
  and c.relkind in ('r', 'p')
  and c.relowner = n.nspowner
$$;

revoke execute on function queue.personal_columns from public;

-- The conditions, as SQL, under which a row is to be deleted (is_theirs), its words are to be
-- cleared (is_about), or it goes with its job (is_of_job). $1 is the person, $2 what is searched,
-- $3 the jobs that are deleted.
create or replace function queue.personal_tables(
  p_searches boolean,
  out relation oid,
  out is_theirs text,
  out is_about text,
  out is_of_job text,
  out clears text, -- assignments
  out secrets text[]
)
returns setof record
language sql stable
set search_path = ''
as $$
with columns as (
  select
    c.*,
    case
      when p_searches then format('t.%s::text ilike any ($2)', c.name)
      else 'false'
    end as quotes
  from queue.personal_columns() as c
),
abouts as (
  select
    c.relation,
    string_agg(
      case c.kind
        when 'mention' then format('t.%s = $1::%s', c.name, c.type)
        else format('t.%s && $3', c.name)
      end,
      ' or '
    ) as is_about
  from columns as c
  where c.kind in ('mention', 'jobs')
  group by c.relation
)
select
  c.relation,
  coalesce(
    string_agg(
      case c.kind
        when 'owner' then format('t.%s = $1::%s', c.name, c.type)
        when 'key' then format('strpos(t.%s, $1) > 0 or %s', c.name, c.quotes)
        when 'tags'
          then format('t.%s @> array[''user:'' || $1] or %s', c.name, c.quotes)
        else c.quotes
      end,
      ' or '
    ) filter (where c.kind in ('owner', 'key', 'tags', 'words')),
    'false'
  ),
  concat_ws(
    ' or ',
    coalesce(a.is_about, 'false'),
    string_agg(c.quotes, ' or ') filter (
      where c.kind in ('mention', 'words to clear')
    )
  ),
  string_agg(c.quotes, ' or ') filter (where c.kind = 'words of the job'),
  string_agg(
    format(
      '%1$s = case when %2$s or %3$s then %4$s else t.%1$s end',
      c.name,
      coalesce(a.is_about, 'false'),
      c.quotes,
      c.empty
    ),
    ', '
  ) filter (where c.kind in ('mention', 'words to clear')),
  coalesce(array_agg(c.name) filter (where c.kind = 'secret'), '{}')
from columns as c
left join abouts as a on a.relation = c.relation
group by c.relation, a.is_about
order by c.relation::regclass::text
$$;

revoke execute on function queue.personal_tables from public;

-- What ilike searches: the id and each word, also as JSON writes them.
create or replace function queue.person_patterns(p_user_id uuid, p_words text[])
returns text[]
language plpgsql immutable
set search_path = ''
as $$
begin
  if p_user_id is null then
    perform queue.refuse(
      400,
      'invalid_argument',
      'p_user_id is required',
      'p_user_id'
    );
  elsif exists (
    select from unnest(p_words) as w (word)
    where coalesce(char_length(btrim(w.word)), 0) < 3
  ) then
    perform queue.refuse(
      400,
      'invalid_argument',
      'each of p_words must have at least 3 characters',
      'p_words'
    );
  end if;
  if coalesce(cardinality(p_words), 0) = 0 then
    return '{}';
  end if;
  return array(
    select distinct '%' || regexp_replace(f.form, '([\\%_])', '\\\1', 'g') || '%'
    from unnest(p_words || p_user_id::text) as w (word)
    cross join lateral (
      values
        (btrim(w.word)),
        (btrim(to_jsonb(btrim(w.word))::text, '"'))
    ) as f (form)
  );
end;
$$;

revoke execute on function queue.person_patterns from public;

-- The jobs that are a person's, or about them.
create or replace function queue.jobs_of_person(p_user_id uuid, p_patterns text[])
returns uuid[]
language plpgsql stable
set search_path = ''
as $$
declare
  v_parts constant text[] := array(
    select case p.relation
      when 'public.jobs'::regclass then format(
        'select t.id from %s as t where %s',
        p.relation::regclass,
        p.is_theirs
      )
      else format(
        'select t.job_id from %s as t where %s',
        p.relation::regclass,
        p.is_of_job
      )
    end
    from queue.personal_tables(cardinality(p_patterns) > 0) as p
    where p.relation = 'public.jobs'::regclass
      or p.is_of_job is not null and cardinality(p_patterns) > 0
  );
  v_jobs uuid[];
begin
  execute format('select array(%s order by 1)', array_to_string(v_parts, ' union '))
  into v_jobs
  using p_user_id::text, p_patterns;
  return v_jobs;
end;
$$;

revoke execute on function queue.jobs_of_person from public;

create or replace function public.erase_person(p_user_id uuid, p_words text[] default null)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_patterns constant text[] := queue.person_patterns(p_user_id, p_words);
  v_jobs uuid[];
  v_one record;
  v_rows bigint;
  v_deleted jsonb := '{}';
  v_cleared jsonb := '{}';
begin
  v_jobs := queue.jobs_of_person(p_user_id, v_patterns);
  perform from public.jobs
  where id = any (v_jobs)
  order by id
  for update;
  delete from public.jobs where id = any (v_jobs);
  get diagnostics v_rows = row_count;
  if v_rows > 0 then
    v_deleted := jsonb_build_object('public.jobs', v_rows);
  end if;
  for v_one in
    select *, p.relation::regclass::text as name
    from queue.personal_tables(cardinality(v_patterns) > 0) as p
    where p.relation <> 'public.jobs'::regclass
  loop
    execute format('delete from %s as t where %s', v_one.name, v_one.is_theirs)
    using p_user_id::text, v_patterns;
    get diagnostics v_rows = row_count;
    if v_rows > 0 then
      v_deleted := v_deleted || jsonb_build_object(v_one.name, v_rows);
    end if;
    continue when v_one.clears is null;
    execute format(
      'update %s as t set %s where %s',
      v_one.name,
      v_one.clears,
      v_one.is_about
    )
    using p_user_id::text, v_patterns, v_jobs;
    get diagnostics v_rows = row_count;
    if v_rows > 0 then
      v_cleared := v_cleared || jsonb_build_object(v_one.name, v_rows);
    end if;
  end loop;
  return jsonb_build_object('deleted', v_deleted, 'cleared', v_cleared);
end;
$$;

comment on function public.erase_person is
  E'Delete a person''s jobs and all that names them: {deleted: {table: rows}, cleared}.\n\n'
  'p_words: also what quotes their id or one of these, as a name or an address; each has 3 '
  'characters or more. It reads all tables. For operators.';

select queue.allow('service_role', 'public.erase_person');

create or replace function public.export_person(p_user_id uuid, p_words text[] default null)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_patterns constant text[] := queue.person_patterns(p_user_id, p_words);
  v_jobs constant uuid[] := queue.jobs_of_person(p_user_id, v_patterns);
  v_one record;
  v_part record;
  v_rows jsonb;
  v_tables jsonb := '{}';
begin
  for v_one in
    select *, p.relation::regclass::text as name
    from queue.personal_tables(cardinality(v_patterns) > 0) as p
  loop
    for v_part in -- the rows, and those of other tables that are deleted with them
      select
        v_one.name,
        format(
          '(%s) or (%s) or %s',
          v_one.is_theirs,
          v_one.is_about,
          case
            when v_one.relation = 'public.jobs'::regclass then 't.id = any ($3)'
            when v_one.is_of_job is not null then 't.job_id = any ($3)'
            else 'false'
          end
        ) as condition
      union all
      select
        k.conrelid::regclass::text,
        format(
          '(%s) in (select %s from %s as t where %s)',
          (
            select string_agg(format('t.%I', a.attname), ', ' order by n.nth)
            from unnest(k.conkey) with ordinality as n (number, nth)
            join pg_catalog.pg_attribute as a
              on a.attrelid = k.conrelid and a.attnum = n.number
          ),
          (
            select string_agg(format('t.%I', a.attname), ', ' order by n.nth)
            from unnest(k.confkey) with ordinality as n (number, nth)
            join pg_catalog.pg_attribute as a
              on a.attrelid = k.confrelid and a.attnum = n.number
          ),
          v_one.name,
          v_one.is_theirs
        )
      from pg_catalog.pg_constraint as k
      where k.confrelid = v_one.relation and k.confdeltype = 'c'
    loop
      execute format(
        'select jsonb_agg(to_jsonb(t) - $4) from %s as t where %s',
        v_part.name,
        v_part.condition
      )
      into v_rows
      using p_user_id::text, v_patterns, v_jobs, v_one.secrets;
      if v_rows is not null then
        v_tables := v_tables || jsonb_build_object(
          v_part.name, coalesce(v_tables -> v_part.name, '[]') || v_rows
        );
      end if;
    end loop;
  end loop;
  return jsonb_build_object('user_id', p_user_id, 'tables', v_tables);
end;
$$;

comment on function public.export_person is
  E'A person''s jobs and all that names them: {user_id, tables: {table: [row]}}.\n\nWhat '
  'erase_person with the same arguments deletes or clears. For operators.';

select queue.allow('service_role', 'public.export_person');

-- Of jobs that run or may run again: a row for each piece that was reported.
create table queue.pieces (
  job_id uuid not null,
  stream text not null,
  attempt integer not null,
  end_offset integer not null, -- of the stream, behind this piece
  -- that was running; the text of a finished one is kept for the job's next attempt
  step text,
  text text,
  items jsonb,
  primary key (job_id, stream, attempt, end_offset),
  constraint pieces_stream_is_bounded check (char_length(stream) between 1 and 100),
  constraint pieces_are_of_one_kind check (num_nonnulls(text, items) <= 1)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

alter table queue.pieces enable row level security;

revoke all on queue.pieces from public, anon, authenticated, service_role;

-- Of jobs that have ended: the pieces of a stream joined, one row for each step that wrote.
create table queue.outputs (
  job_id uuid not null,
  stream text not null,
  attempt integer not null,
  end_offset integer not null,
  step text,
  text text,
  items jsonb,
  primary key (job_id, stream, attempt, end_offset)
);

alter table queue.outputs enable row level security;

revoke all on queue.outputs from public, anon, authenticated, service_role;

comment on column queue.pieces.text is 'Person: words of the job';

comment on column queue.pieces.items is 'Person: words of the job';

comment on column queue.outputs.text is 'Person: words of the job';

comment on column queue.outputs.items is 'Person: words of the job';

create or replace view queue.output as
select job_id, stream, attempt, end_offset, step, text, items
from queue.pieces
union all
select job_id, stream, attempt, end_offset, step, text, items
from queue.outputs;

-- The bytes of a job's streams.
create or replace function queue.output_bytes(p_job_id uuid)
returns bigint
language plpgsql stable
set search_path = ''
as $$
begin
  return (
    select coalesce(sum(octet_length(coalesce(o.text, o.items::text))), 0)
    from queue.output as o
    where o.job_id = p_job_id
  );
end;
$$;

revoke execute on function queue.output_bytes from public;

-- Begin a stream again: delete what it said, but for what finished steps wrote, since they do not
-- write it again (public.read_output).
create or replace function queue.drop_output(p_job_id uuid, p_stream text)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_steps constant text[] := array(
    select s.name
    from queue.steps as s
    where s.job_id = p_job_id and s.nth = 0
  );
begin
  delete from queue.pieces
  where job_id = p_job_id
    and stream = p_stream
    and step = any (v_steps) is not true;
  delete from queue.outputs
  where job_id = p_job_id
    and stream = p_stream
    and step = any (v_steps) is not true;
end;
$$;

revoke execute on function queue.drop_output from public;

-- Give a replay what the steps have said that it passes, since they do not run in it.
create or replace function queue.copy_output(p_job_id uuid, p_replay_id uuid)
returns void
language plpgsql
set search_path = ''
as $$
begin
  with first as ( -- later attempts repeat what the first wrote
    select
      o.*,
      s.created_at,
      coalesce(char_length(o.text), jsonb_array_length(o.items), 0) as size,
      rank() over (
        partition by o.stream, o.step
        order by o.attempt
      ) as n
    from queue.output as o
    join queue.steps as s on s.job_id = p_replay_id and s.name = o.step and s.nth = 0
    where o.job_id = p_job_id
  )
  insert into queue.outputs (
    job_id, stream, attempt, end_offset, step, text, items
  )
  select
    p_replay_id,
    f.stream,
    1,
    sum(f.size) over (
      partition by f.stream
      order by f.created_at, f.step, f.end_offset
    ),
    f.step,
    f.text,
    f.items
  from first as f
  where f.n = 1 and f.size > 0;
end;
$$;

revoke execute on function queue.copy_output from public;

-- Append pieces of jobs whose leases the caller has locked, each {stream, attempt, start, step?,
-- text or items}, and send them to followers. Of a piece that an earlier report has stored in part
-- the rest is added; what is beyond the job's bytes is not stored, nor what comes behind it.
create or replace function queue.write_output(p_items queue.worker_item[], p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_most constant bigint := queue.setting('output_max_bytes')::bigint;
  v_piece record;
  v_job uuid;
  v_bytes bigint; -- of the job so far, once they are counted
  v_last record; -- what is stored of the stream
  v_known integer; -- its end
  v_text text;
  v_list jsonb;
  v_size integer;
  v_grown bigint; -- by so many bytes
  v_changes queue.change[] := '{}';
begin
  for v_piece in
    select
      l.job_id,
      l.workspace_id,
      l.output_bytes,
      j.session_id,
      p.value ->> 'stream' as stream,
      (p.value ->> 'attempt')::integer as attempt,
      (p.value ->> 'start')::integer as start,
      p.value ->> 'step' as step,
      p.value ->> 'text' as text,
      nullif(p.value -> 'items', 'null') as items
    from unnest(p_items) as i
    join queue.leases as l on l.job_id = i.job_id and l.fence = i.fence
    join public.jobs as j on j.id = l.job_id
    cross join lateral jsonb_array_elements(
      i.output
    ) with ordinality as p (value, n)
    order by l.job_id, p.n
  loop
    if v_job is distinct from v_piece.job_id then
      v_job := v_piece.job_id;
      v_bytes := v_piece.output_bytes;
    end if;
    select o.attempt, o.end_offset into v_last
    from queue.output as o
    where o.job_id = v_job and o.stream = v_piece.stream
    order by o.attempt desc, o.end_offset desc
    limit 1;
    continue when v_piece.attempt < v_last.attempt;
    v_known := case v_last.attempt
      when v_piece.attempt then v_last.end_offset
      else 0
    end;
    v_text := substr(v_piece.text, v_known - v_piece.start + 1);
    v_list := jsonb_path_query_array(
      v_piece.items,
      '$[$known to last]',
      jsonb_build_object('known', greatest(0, v_known - v_piece.start))
    );
    v_size := coalesce(char_length(v_text), jsonb_array_length(v_list), 0);
    continue when v_piece.start > v_known
      or v_size = 0 and v_piece.attempt = v_last.attempt;
    if v_piece.attempt > v_last.attempt then
      perform queue.drop_output(v_job, v_piece.stream);
      v_bytes := null;
    end if;
    v_bytes := coalesce(v_bytes, queue.output_bytes(v_job));
    v_grown := coalesce(octet_length(coalesce(v_text, v_list::text)), 0);
    continue when v_bytes + v_grown > v_most;
    v_bytes := v_bytes + v_grown;
    insert into queue.pieces (
      job_id, stream, attempt, end_offset, step, text, items
    )
    values (
      v_job, v_piece.stream, v_piece.attempt, v_known
        + v_size, v_piece.step, v_text, v_list
    );
    update queue.leases
    set output_bytes = v_bytes
    where job_id = v_job;
    v_changes := v_changes || row(
      v_piece.workspace_id,
      v_piece.session_id,
      'job.output',
      jsonb_strip_nulls(jsonb_build_object(
        'stream', v_piece.stream,
        'attempt', v_piece.attempt,
        'from', v_known,
        'next', v_known + v_size,
        -- what is longer is to be read
        'text', case when octet_length(v_text) <= 8000 then v_text end,
        'items', case when pg_column_size(v_list) <= 8000 then v_list end
      )),
      array[v_job],
      array[null::integer]
    )::queue.change;
  end loop;
  perform queue.publish(v_changes, p_now) where v_changes <> '{}';
end;
$$;

revoke execute on function queue.write_output from public;

-- What a report's answer says of its output, if it had any: refused where some is not stored; else
-- whether someone follows, since workers join pieces for longer where no one does.
create or replace function queue.output_state(p_item queue.worker_item, p_job public.jobs)
returns text
language plpgsql stable
set search_path = ''
as $$
declare
  v_topics constant text[] := array[
    'job:' || p_job.id,
    'session:' || p_job.session_id
  ];
begin
  if p_item.output is null or p_job.id is null then
    return null;
  end if;
  return case
    when exists (
      select from jsonb_array_elements(p_item.output) as p
      where not exists (
        select from queue.output as o
        where o.job_id = p_job.id
          and o.stream = p ->> 'stream'
          and o.attempt >= (p ->> 'attempt')::integer
          and o.end_offset >= (p ->> 'start')::integer + coalesce(
            char_length(p ->> 'text'),
            jsonb_array_length(nullif(p -> 'items', 'null')),
            0
          )
      )
    ) then 'refused'
    when exists (select from queue.followers as f where f.topic = any (v_topics))
        or exists (
          select from queue.streamed_topics as s
          where s.topic = any (v_topics) and s.expires_at > clock_timestamp()
        )
      then 'followed'
    else 'unfollowed'
  end;
exception when data_exception then
  return 'refused';
end;
$$;

revoke execute on function queue.output_state from public;

create or replace function public.read_output(p_request jsonb)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_id constant uuid := p_request ->> 'job_id';
  v_stream constant text := p_request ->> 'stream';
begin
  perform queue.refuse_revoked();
  perform from queue.leases as l
  where l.job_id = v_id and l.fence::text = p_request ->> 'fence';
  if not found then
    perform queue.refuse(
      409,
      'lease_lost',
      'the lease on the job is lost; its output is not shown',
      v_id::text
    );
  end if;
  return jsonb_build_object(
    'attempt', (
      select coalesce(max(o.attempt), 0)
      from queue.output as o
      where o.job_id = v_id and o.stream = v_stream
    ),
    'kept', (
      select coalesce(
        jsonb_object_agg(
          k.step,
          jsonb_build_object('text', k.text, 'items', k.items)
        ),
        '{}'
      )
      from (
        select distinct on (o.step)
          o.step,
          string_agg(o.text, '' order by o.end_offset) as text,
          jsonb_path_query_array(
            jsonb_agg(o.items order by o.end_offset) filter (
              where o.items is not null
            ),
            '$[*][*]'
          ) as items
        from queue.output as o
        join queue.steps as s on s.job_id = v_id and s.name = o.step and s.nth = 0
        where o.job_id = v_id and o.stream = v_stream
        group by o.step, o.attempt
        order by o.step, o.attempt -- later ones repeat what the first wrote
      ) as k
    )
  );
end;
$$;

comment on function public.read_output is
  E'What a leased job has said in a stream: {attempt, kept: {step: {text, items}}}.\n\nRequest: '
  '{job_id, fence, stream}. kept: of finished steps, to be written again where they are passed.';

select queue.allow('job_worker, service_role', 'public.read_output');

-- How far each stream of a job is: its last attempt, and the end of that.
create or replace function queue.stream_ends(p_job_id uuid)
returns table (stream text, attempt integer, end_offset integer)
language plpgsql stable
set search_path = ''
as $$
#variable_conflict use_column
begin
  return query
    with recursive ends as (
      (
        select o.stream, o.attempt, o.end_offset
        from queue.output as o
        where o.job_id = p_job_id
        order by o.stream desc, o.attempt desc, o.end_offset desc
        limit 1
      )
      union all
      select l.stream, l.attempt, l.end_offset
      from ends as e
      cross join lateral (
        select o.stream, o.attempt, o.end_offset
        from queue.output as o
        where o.job_id = p_job_id and o.stream < e.stream
        order by o.stream desc, o.attempt desc, o.end_offset desc
        limit 1
      ) as l
    )
    select e.stream, e.attempt, e.end_offset
    from ends as e;
end;
$$;

revoke execute on function queue.stream_ends from public;

-- The same as a job's readers have it: {stream: {attempt, next}}.
create or replace function queue.streams_json(p_job_id uuid)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
  return (
    select coalesce(
      jsonb_object_agg(
        e.stream,
        jsonb_build_object('attempt', e.attempt, 'next', e.end_offset)
      ),
      '{}'
    )
    from queue.stream_ends(p_job_id) as e
  );
end;
$$;

revoke execute on function queue.streams_json from public;

-- A page of a stream from an offset: at most 30,000 characters or 1,000 items of its last attempt.
create or replace function queue.output_page(p_job_id uuid, p_stream text, p_from integer)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_last record; -- piece
  v_page record;
  v_skipped integer; -- of the first piece
begin
  select o.attempt, o.end_offset into v_last
  from queue.output as o
  where o.job_id = p_job_id and o.stream = p_stream
  order by o.attempt desc, o.end_offset desc
  limit 1;
  select
    string_agg(p.text, '' order by p.end_offset) as text,
    jsonb_path_query_array(
      jsonb_agg(p.items order by p.end_offset) filter (where p.items is not null),
      '$[*][*]'
    ) as items,
    coalesce(max(p.end_offset), v_last.end_offset, 0) as end_offset
  into v_page
  from (
    select o.end_offset, o.text, o.items
    from queue.output as o
    where o.job_id = p_job_id
      and o.stream = p_stream
      and o.attempt = v_last.attempt
      and o.end_offset > p_from
    order by o.end_offset
    limit 1000
  ) as p;
  v_skipped := p_from
    - v_page.end_offset
    + coalesce(char_length(v_page.text), jsonb_array_length(v_page.items), 0);
  v_page.text := substr(v_page.text, 1 + v_skipped, 30000);
  v_page.items := jsonb_path_query_array(
    v_page.items,
    '$[$skipped to $last]',
    jsonb_build_object('skipped', v_skipped, 'last', v_skipped + 999)
  );
  p_from := least(p_from, v_page.end_offset);
  v_page.end_offset := p_from
    + coalesce(char_length(v_page.text), jsonb_array_length(v_page.items), 0);
  return jsonb_strip_nulls(jsonb_build_object(
    'stream', p_stream,
    'attempt', coalesce(v_last.attempt, 0),
    'from', p_from,
    'next', v_page.end_offset,
    'more', v_page.end_offset < coalesce(v_last.end_offset, 0),
    'text', v_page.text
  )) || case
    when v_page.items is null then '{}'
    else jsonb_build_object('items', v_page.items)
  end;
end;
$$;

revoke execute on function queue.output_page from public;

-- A page of each stream with news after {stream: {attempt, next}}, of the present attempt where
-- none is named.
create or replace function queue.output_pages(p_job_id uuid, p_after jsonb)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
  return (
    select coalesce(jsonb_agg(p.page order by e.stream), '[]')
    from queue.stream_ends(p_job_id) as e
    cross join lateral (
      select
        p_after #>> array[e.stream, 'attempt'] as attempt,
        greatest(0, (p_after #>> array[e.stream, 'next'])::integer) as next
    ) as k
    cross join lateral queue.output_page(
      p_job_id,
      e.stream,
      case
        when coalesce(k.attempt, e.attempt::text) = e.attempt::text
          then k.next
        else 0
      end
    ) as p (page)
    where k.attempt is distinct from e.attempt::text or e.end_offset > k.next
  );
end;
$$;

revoke execute on function queue.output_pages from public;

create or replace function queue.job_output(
  p_job_id uuid,
  p_stream text,
  p_from integer,
  p_after jsonb,
  p_session_id text
)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_job public.jobs;
begin
  select j.* into v_job
  from public.jobs as j
  where j.id = p_job_id
    and (
      auth.jwt() ->> 'role' = 'service_role'
      or auth.jwt() is null and current_setting('role') <> 'anon' -- plain SQL
      or queue.may_follow('job:' || p_job_id)
      or exists (
        select from queue.guest_session(p_session_id) as s
        where s.session_id = j.session_id and s.workspace_id = j.workspace_id
      )
    );
  if not found then
    perform queue.refuse(404, 'job_not_found', 'job not found', p_job_id::text);
  end if;
  if p_stream is not null then
    return queue.output_page(p_job_id, p_stream, greatest(0, p_from))
      || jsonb_build_object('status', v_job.status);
  end if;
  return jsonb_build_object(
    'status', v_job.status,
    'last_seq', v_job.last_seq,
    'streams', queue.output_pages(p_job_id, p_after)
  );
end;
$$;

select queue.allow('anon, authenticated, service_role', 'queue.job_output');

create or replace function public.job_output(
  p_job_id uuid,
  p_stream text default null,
  p_from integer default 0,
  p_after jsonb default null,
  p_session_id text default null
)
returns jsonb
language sql stable
set search_path = '' -- bound when it is made: guests need no usage of the schema
begin atomic select queue.job_output(
  p_job_id,
  p_stream,
  p_from,
  p_after,
  p_session_id
);
end;

comment on function public.job_output is
  E'What a job said in a stream from an offset: {stream, attempt, from, next, more, text or items, '
  'status}.\n\nAnother attempt begins again: drop what the last said, and read from 0. Without a '
  'stream {status, last_seq, streams}: those with news after {stream: {attempt, next}}, of the '
  'present attempt where none is named. A guest names the session.';

select queue.allow('anon, authenticated, service_role', 'public.job_output');

-- A job of a guest session, and its events after a seq: of a log line nothing but its number.
create or replace function queue.guest_job(p_session_id text, p_job_id uuid, p_after integer)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  c_events constant integer := 500; -- of one answer
  v_job public.jobs;
begin
  select j.* into v_job
  from queue.guest_session(p_session_id) as s
  join public.jobs as j on j.session_id = s.session_id and j.workspace_id = s.workspace_id
  where j.id = p_job_id;
  if not found then -- without the session's id, which may be a key
    perform queue.refuse(404, 'job_not_found', 'job not found', p_job_id::text);
  end if;
  return queue.guest_json(v_job) || jsonb_build_object(
    'streams', queue.streams_json(p_job_id),
    'events', (
      select coalesce(jsonb_agg(to_jsonb(f) order by f.seq), '[]')
      from (
        select
          e.job_id,
          e.seq,
          e.type,
          case when e.type <> 'job.log' then e.data else '{}' end as data,
          e.created_at
        from public.job_events as e
        where e.job_id = p_job_id and e.seq > p_after
        order by e.seq
        limit c_events
      ) as f
    )
  );
end;
$$;

select queue.allow('anon, authenticated, service_role', 'queue.guest_job');

create or replace function public.guest_job(
  p_session_id text,
  p_job_id uuid,
  p_after integer default null
)
returns jsonb
language sql stable
set search_path = '' begin atomic select queue.guest_job(
  p_session_id,
  p_job_id,
  p_after
);
end;

comment on function public.guest_job is
  E'A job of a guest session as guest_session_jobs has it, with {streams, events}: how far its '
  'streams are, and its events after a seq, at most 500; of log lines no words.\n\n404 '
  'job_not_found where the session is wrong or ended, or does not have the job.';

select queue.allow('anon, authenticated, service_role', 'public.guest_job');

-- Of a session's jobs that run and those that are named: a page of each stream with news.
create or replace function queue.session_output(p_session_id text, p_after jsonb)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  c_jobs constant integer := 20; -- of one answer
  v_workspace constant uuid := queue.shown_workspace(p_session_id);
  v_jobs constant jsonb := (
    select coalesce(
      jsonb_agg(
        jsonb_build_object('job_id', f.id, 'streams', f.streams)
        order by f.id
      ),
      '[]'
    )
    from (
      select j.id, p.streams
      from (
        select j.id
        from public.jobs as j
        where j.session_id = p_session_id
          and case
            when v_workspace is null
              then j.workspace_id in (select queue.my_workspaces())
                or auth.jwt() ->> 'role' = 'service_role'
            else j.workspace_id = v_workspace
          end
          and (
            p_after ? j.id::text
            or exists (select from queue.leases as l where l.job_id = j.id)
          )
        order by j.id
      ) as j
      cross join lateral (
        select queue.output_pages(j.id, p_after -> j.id::text) as streams
        offset 0 -- it is asked once
      ) as p
      where p.streams <> '[]'
      limit c_jobs
    ) as f
  );
begin
  return jsonb_build_object(
    'jobs', v_jobs,
    'more', jsonb_array_length(v_jobs) = c_jobs
      or v_jobs @? '$[*].streams[*] ? (@.more == true)'
  );
end;
$$;

select queue.allow('anon, authenticated, service_role', 'queue.session_output');

create or replace function public.session_output(p_session_id text, p_after jsonb default null)
returns jsonb
language sql stable
set search_path = '' begin atomic select queue.session_output(p_session_id, p_after);
end;

comment on function public.session_output is
  E'What jobs of a session say: {jobs: [{job_id, streams}], more}, streams as in job_output.\n\nOf '
  'jobs that run, and of those named in {job_id: {stream: {attempt, next}}}: news after these.';

select queue.allow('anon, authenticated, service_role', 'public.session_output');

-- Join the pieces of jobs that have ended: a row for each stream, or each step that wrote. Of those
-- that completed the last attempt alone is kept; the others may run again.
create or replace function queue.do_output(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_found uuid[];
  v_ids uuid[]; -- of these, that no one holds
  v_count integer := 0;
begin
  loop
    v_found := array(
      with recursive found as (
        (
          select p.job_id
          from queue.pieces as p
          order by p.job_id
          limit 1
        )
        union all
        select (
          select p.job_id
          from queue.pieces as p
          where p.job_id > f.job_id
          order by p.job_id
          limit 1
        )
        from found as f
        where f.job_id is not null
      )
      select f.job_id
      from found as f
      join public.jobs as j on j.id = f.job_id
      where j.finished_at is not null
      limit 200
    );
    v_ids := array( -- a retry does not begin meanwhile
      select j.id
      from public.jobs as j
      where j.id = any (v_found) and j.finished_at is not null
      order by j.id
      for no key update skip locked
    );
    with said as (
      delete from queue.pieces as p
      where p.job_id = any (v_ids)
      returning *
    ),
    old as (
      delete from queue.outputs as o
      using said as p, public.jobs as j
      where o.job_id = any (v_ids)
        and p.job_id = o.job_id
        and p.stream = o.stream
        and p.attempt > o.attempt
        and j.id = o.job_id
        and j.status = 'completed'
    ),
    placed as (
      select
        s.*,
        max(s.attempt) over (partition by s.job_id, s.stream) as last,
        row_number() over a - row_number() over (
          partition by s.job_id, s.stream, s.attempt, s.step
          order by s.end_offset
        ) as turn
      from said as s
      window a as (partition by s.job_id, s.stream, s.attempt order by s.end_offset)
    )
    insert into queue.outputs (
      job_id, stream, attempt, end_offset, step, text, items
    )
    select
      p.job_id,
      p.stream,
      p.attempt,
      max(p.end_offset),
      p.step,
      string_agg(p.text, '' order by p.end_offset),
      jsonb_path_query_array(
        jsonb_agg(p.items order by p.end_offset) filter (where p.items is not null),
        '$[*][*]'
      )
    from placed as p
    join public.jobs as j on j.id = p.job_id
    where p.attempt = p.last or j.status <> 'completed'
    group by p.job_id, p.stream, p.attempt, p.step, p.turn;
    v_count := v_count + cardinality(v_ids);
    exit when cardinality(v_found) < 200
      or v_ids = '{}'
      or clock_timestamp() >= p_until;
  end loop;
  return v_count;
end;
$$;

revoke execute on function queue.do_output from public;

-- What a project can switch on later: pg_cron, pg_net with the Vault, Realtime. A migration runs
-- once: what it did not find is attached by a function that may be called at any time. Last grants.

create or replace function public.attach_extensions()
returns jsonb
language plpgsql
security definer
set search_path = ''
set lock_timeout = '2s'
as $$
declare
  c_policy constant text := 'minutehand: members and guests follow';
  v_part text;
  v_problems jsonb := '{}';
  v_state jsonb := jsonb_build_object(
    'pg_cron', 'absent',
    'realtime', 'absent',
    'pg_net', case
      when to_regprocedure('net.http_post(text,jsonb,jsonb,jsonb,integer)') is null
          or to_regclass('vault.decrypted_secrets') is null
        then 'absent'
      when queue.setting('worker_url') is null then 'no_worker'
      else 'attached'
    end
  );
begin
  foreach v_part in array array['pg_cron', 'realtime'] loop
    continue when v_part = 'pg_cron'
      and to_regprocedure('cron.schedule(text,text,text)') is null
      or v_part = 'realtime' and to_regclass('realtime.messages') is null;
    begin
      v_state := v_state || jsonb_build_object(v_part, 'attached');
      if v_part = 'pg_cron' then -- the history of its runs grows without bound
        execute $do$select cron.schedule('minutehand-tick', '* * * * *',
            'select queue.wake_worker(p_is_due => true)'),
          cron.schedule('minutehand-tidy', '17 3 * * *', 'delete from cron.job_run_details where '
            'end_time < now() - interval ''7 days'' and jobid in ('
            'select jobid from cron.job where jobname like ''minutehand-%'')')
          where (select count(*) from cron.job
            where jobname in ('minutehand-tick', 'minutehand-tidy')) < 2$do$;
      elsif not exists (
        select from pg_catalog.pg_policies
        where policyname = c_policy
      ) then
        execute format(
          'create policy %I on realtime.messages for select to authenticated, anon '
            'using (extension = ''broadcast'' and (select queue.may_follow(' -- once a join
            '(select realtime.topic()))))',
          c_policy
        );
      end if;
    exception when others then -- one that is refused keeps none of the others away
      v_state := v_state || jsonb_build_object(v_part, 'not_attached');
      v_problems := v_problems
        || jsonb_build_object(v_part, format('%s (%s)', sqlerrm, sqlstate));
      raise warning 'could not attach %: % (%)', v_part, sqlerrm, sqlstate;
    end;
  end loop;
  return v_state || jsonb_build_object('problems', v_problems);
end;
$$;

comment on function public.attach_extensions is
  E'Attach optional parts installed after the migrations ran: {pg_cron, pg_net, realtime, '
  'problems}.\n\nEach absent, not_attached or attached; pg_net is no_worker while no worker''s '
  'address is set.';

select queue.allow('service_role', 'public.attach_extensions');

create or replace function public.connect_worker(p_url text, p_token text)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  c_name constant text := 'minutehand_worker_token';
  v_id uuid;
begin
  if p_url is null then
    delete from queue.settings where name = 'worker_url';
    if to_regclass('vault.secrets') is not null then
      execute 'delete from vault.secrets where name = $1' using c_name;
    end if;
    return public.attach_extensions() || '{"url": null}';
  elsif p_url !~ '^https?://[^\s/]+/' then
    perform queue.refuse(
      400,
      'invalid_argument',
      'url must be the address of POST '
        '/api/jobs/worker, as https://jobs.example.com/api/jobs/worker',
      'url'
    );
  elsif char_length(coalesce(p_token, '')) < 16 then
    perform queue.refuse(
      400,
      'invalid_argument',
      'token must be the worker''s WORKER_SECRET_TOKEN',
      'token'
    );
  elsif public.attach_extensions() ->> 'pg_net' = 'absent' then
    perform queue.refuse(
      409,
      'extension_missing',
      'the database needs the extensions pg_net and supabase_vault',
      'Database → Extensions'
    );
  end if;
  execute 'select id from vault.decrypted_secrets where name = $1'
  into v_id
  using c_name;
  execute case
    when v_id is null then 'select vault.create_secret($2, $3)'
    else 'select vault.update_secret($1, $2)'
  end
  using v_id, p_token, c_name;
  insert into queue.settings (name, value, updated_at)
  values ('worker_url', to_jsonb(p_url), queue.clock())
  on conflict (name) do update set
    value = excluded.value,
    updated_at = excluded.updated_at;
  return public.attach_extensions() || jsonb_build_object('url', p_url);
end;
$$;

comment on function public.connect_worker is
  'Let the database invoke a worker behind HTTPS at each arrival, by pg_net, and every minute, by '
  'pg_cron; without an address, no longer. For operators.';

select queue.allow('service_role', 'public.connect_worker');

do $$
begin
  if (select c.relkind from pg_catalog.pg_class as c where c.oid = 'public.workspace_members'::regclass) = 'r' then
    drop policy "managers manage members" on public.workspace_members;
  end if;
end;
$$;

do $$
begin
  if (select c.relkind from pg_catalog.pg_class as c where c.oid = 'public.workspace_members'::regclass) = 'r' then
    drop policy "members leave" on public.workspace_members;
  end if;
end;
$$;

do $$
begin
  if (select c.relkind from pg_catalog.pg_class as c where c.oid = 'public.workspace_members'::regclass) = 'r' then
    create policy "managers add members" on public.workspace_members as permissive for insert to authenticated with check (queue.is_manager(workspace_id));
  end if;
end;
$$;

do $$
begin
  if (select c.relkind from pg_catalog.pg_class as c where c.oid = 'public.workspace_members'::regclass) = 'r' then
    create policy "managers change members" on public.workspace_members as permissive for update to authenticated using (((workspace_id IN ( SELECT queue.my_workspaces() AS my_workspaces)) AND queue.is_manager(workspace_id))) with check (queue.is_manager(workspace_id));
  end if;
end;
$$;

do $$
begin
  if (select c.relkind from pg_catalog.pg_class as c where c.oid = 'public.workspace_members'::regclass) = 'r' then
    create policy "managers remove members, members leave" on public.workspace_members as permissive for delete to authenticated using (((user_id = ( SELECT queue.caller() AS caller)) OR ((workspace_id IN ( SELECT queue.my_workspaces() AS my_workspaces)) AND queue.is_manager(workspace_id))));
  end if;
end;
$$;

grant insert (start_by_seconds) on table public.jobs to authenticated;

grant insert (start_by_seconds) on table public.jobs to service_role;

drop table queue.advice;

drop function queue.adopt_feed();

drop function queue.cluster();

drop function queue.differences();

drop function queue.facts_now();

drop function queue.insert_job();

drop type queue.fact;

drop sequence if exists queue.advice_id_seq;

-- also where a restore had left positions above what this server has come to
select setval('queue.feed_reached', greatest(
  1,
  (select max(t.read_to) from queue.tasks as t)
));

-- What people write there is charged.
select queue.charge_rows('public.workspace_members');

-- what waits for its type and what was refused have tables of their own
with moved as (
  delete from queue.gated
  where lane = 0
  returning job_type, workspace_id, job_id
)
insert into queue.unpublished (job_type, workspace_id, job_id)
select m.job_type, m.workspace_id, m.job_id
from moved as m;
drop index queue.gated_unpublished;
create index unpublished_by_workspace on queue.unpublished (workspace_id, job_type);
insert into queue.refusals (
  task, job_id, workspace_id, refused_at, retry_at, failures, failure
)
select s.name, s.job_id, s.workspace_id, s.created_at, s.look_at, s.failures, s.failure
from queue.signals as s
where s.kind = 'refused' and s.job_id is not null;
delete from queue.signals where kind = 'refused';
drop index queue.signals_refused;
alter table queue.signals drop column failure;

-- lanes keep how far they have come
insert into queue.rings default values;
with leaders as (
  select
    l.lane,
    1 + row_number() over (order by l.lane) as ring,
    l.round,
    l.last_rank,
    l.last_workspace_id
  from queue.lanes as l
  where coalesce(l.leader, l.lane) = l.lane
),
made as (
  insert into queue.rings (round, last_rank, last_workspace_id)
  select o.round, o.last_rank, o.last_workspace_id
  from leaders as o
  order by o.ring
)
update queue.lanes as l
set ring = o.ring
from leaders as o
where o.lane = coalesce(l.leader, l.lane);
alter table queue.lanes
  drop column leader,
  drop column round,
  drop column last_workspace_id,
  drop column last_rank;
