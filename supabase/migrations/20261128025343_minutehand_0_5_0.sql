-- 0.5.0 after the release before it; written by `python -m infra.release` from schemas and steps/0.5.0.sql.
-- Do not edit it, and do not read it: read the schemas.

-- A row of statistics now covers five minutes. The rows of the last day are computed from its rows
-- of minutes. For earlier days, the row of each hour is kept.
delete from queue.stats
where case minutes
  when 1 then at < date_trunc('hour', queue.clock() - interval '1 day')
  else at >= date_trunc('hour', queue.clock() - interval '1 day')
    or at < queue.clock() - interval '9 days'
end;
alter table queue.stats drop constraint stats_pkey;
drop index queue.stats_by_time;
with minutes as (
  delete from queue.stats
  where minutes = 1
  returning *
)
insert into queue.stats (
  workspace_id, minutes, at, job_type, counts, queue_times, run_times
)
select
  m.workspace_id,
  5,
  date_bin('5 minutes', m.at, '2000-01-01 00:00:00+00'),
  m.job_type,
  queue.sum_numbers(array_agg(m.counts)),
  queue.sum_numbers(array_agg(m.queue_times)),
  queue.sum_numbers(array_agg(m.run_times))
from minutes as m
group by 1, 3, 4;
alter table queue.stats
  drop column minutes,
  add primary key (workspace_id, at, job_type);
create index stats_by_time on queue.stats (at);

-- Warnings are now silenced in Alertmanager, by their label `key`.
delete from queue.settings where name = 'silenced';

-- A lease request now has a field for processes that run suspects, and the ids of jobs to lease.
alter type queue.lease_request
  add attribute suspects boolean,
  add attribute job_ids uuid[],
  add attribute slots jsonb,
  add attribute abandoned jsonb;

-- A worker now reports its slots, which explain_job compares with its leases. It also reports which
-- line of code each job executes, and which stopped jobs still run.
alter table queue.workers
  add column slots jsonb,
  add column abandoned jsonb;
alter table queue.leases add column pulse jsonb;
alter type queue.worker_item add attribute pulse jsonb;

-- No query uses this index any more.
drop index public.jobs_by_replay;

-- Because two times of a job may be equal, a new column shows whether a row of queue.deferred is
-- the place of the job or one of its deadlines.
alter table queue.deferred
  add column is_place boolean not null default true,
  drop constraint deferred_pkey;
update queue.deferred as d
set is_place = false
from public.jobs as j
where j.id = d.job_id
  and (
    j.status <> 'pending'
    or d.run_at is distinct from coalesce(j.next_retry_at, j.scheduled_for)
  );
insert into queue.deferred (run_at, job_id, workspace_id, is_place)
select d.run_at, d.job_id, d.workspace_id, false
from queue.deferred as d
join public.jobs as j on j.id = d.job_id
where d.is_place and d.run_at in (j.deadline_at, j.start_by_at);
alter table queue.deferred
  alter column is_place drop default,
  add primary key (run_at, job_id, is_place);

-- Token buckets of people are now stored in sequences, which a rollback does not reset
-- (queue.charge).
do $$
begin
  for v_nth in 0 .. 15 loop
    execute format('create unlogged sequence queue.priced_%s', v_nth);
    execute format('create unlogged sequence queue.refilled_%s', v_nth);
  end loop;
end;
$$;
-- Small concurrent charges no longer have separate rows.
delete from queue.buckets where name ~ '^u:.*[+][0-9]+$';

-- A mistyped job type may contain a person's words.
comment on column queue.stats.job_type is 'Person: words';

-- The publisher (queue.do_announcements) sends the messages of a busy workspace. It reads the feed
-- by number.
alter type queue.change add attribute at timestamptz;

-- Readers of turns' notes begin at a transaction id (queue.notes_gone).
alter table queue.notes add column xid xid8 not null default pg_current_xact_id();
drop index queue.notes_of_turns, queue.notes_by_turn;
create index notes_of_turns on queue.notes (xid, id) where key is null;
create index notes_by_turn on queue.notes (workspace_id, lane, key, xid);

-- Return the release of the engine's schema, which is the value of minutehand.version. `minutehand
-- doctor` compares the release with the one that the project recorded.
create or replace function queue.version()
returns text
language sql immutable
set search_path = ''
as $$
select '0.5.0'
$$;

-- Raise an error that the Data API returns with the HTTP status p_status. Clients distinguish
-- errors by p_hint. With `client_error_verbosity = minimal`, PostgREST 16 returns only the code and
-- the message of an error, so in this case the message also contains the hint and the detail. The
-- errors do not have the SQLSTATE PGRST, because workers of the last release recognize errors by
-- their present SQLSTATE.
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

-- Return how many advisory locks the caller may take now, up to p_count. All functions of a
-- transaction together take at most 200 advisory locks, because the server has few. The functions
-- that run first pass a smaller p_most, so that they leave locks for the functions that run later.
-- A function that gets too few locks leaves the remaining work to another call, works without
-- locks, or rejects the call.
-- p_most: Maximum number of locks that the transaction may take in all, including these.
create or replace function queue.reserve_locks(p_count integer, p_most integer)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  -- number of locks that the transaction may have taken, and the turn that queue.hold_turn last
  -- locked
  v_stored constant text[] := string_to_array(current_setting('minutehand.locks', true), ' ');
  v_reserved constant integer := coalesce(nullif(v_stored[1], '')::integer, 0);
  v_count constant integer := greatest(0, least(p_count, p_most - v_reserved));
begin
  perform set_config('minutehand.locks', concat_ws(' ', v_reserved + v_count, v_stored[2]), true);
  return v_count;
end;
$$;

-- Let members read the rows of their workspaces in these tables and views, and let the service read
-- all rows. Each view must be security_invoker. A write to a view that is not updatable raises an
-- error that the Data API returns with status 500. If the view has an instead-of trigger, Postgres
-- first checks the caller's rights, so that the Data API returns status 403. This function
-- therefore creates an instead-of trigger for each view. The trigger never runs.
create or replace function queue.show_to_members(variadic p_relations regclass[])
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

-- Let guests call private functions of an app. For each function, create a function
-- public.<schema>_<name> that calls it. Postgres parses the body of this function when it is
-- created, so callers need no right on the app's schema.
create or replace function queue.allow_guests(variadic p_functions regproc[])
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

-- Return the ids of the caller's workspaces. A policy writes `in (select queue.my_workspaces())`,
-- so that the function runs once per query and not for each row.
create or replace function queue.my_workspaces()
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

-- Return p_id, the id of the person who changed a job, or null if the caller may not see who that
-- is. Operators and the service see everyone's id. Other callers see the ids of members of the
-- workspace.
create or replace function queue.shown_person(p_id text, p_workspace_id uuid)
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

-- Reject a caller who is not a member of the workspace with status 404. Return the id of the person
-- who calls, or null for the service.
-- p_reads_much: True if the call reads many rows, so that it needs a call slot. In such a call,
--   operators and the service may pass null as the workspace to read all workspaces.
create or replace function queue.may_read(
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

drop function queue.may_manage(uuid);

-- Reject a caller who is not a member of the workspace with status 404, and a member who is not a
-- manager with status 403. Charge the caller's rate limit for one change (queue.admit).
-- p_bytes: Number of bytes that the call stores.
create or replace function queue.may_manage(p_workspace_id uuid, p_bytes bigint default 0)
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
      'only managers of the workspace may do this',
      p_workspace_id::text
    );
  end if;
  perform queue.admit('changes', p_workspace_id, queue.caller(), p_bytes => p_bytes);
end;
$$;

-- Return the workspace that a call applies to. Without p_workspace_id, this is the workspace that
-- the caller joined first, so that the result stays the same when the caller joins another
-- workspace. If the project does not store when a member joined, a caller with several workspaces
-- must pass p_workspace_id. The service is recognized by its role, because the service and guests
-- have no user id.
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
  'Return the workspace to act in. This is p_workspace_id, if the caller is a member, or else the '
  'workspace that the caller joined first.';

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
  'List the caller''s workspaces: {workspaces: [{id, name}]}.';

select queue.allow('authenticated, service_role', 'public.list_workspaces');

-- When a member is removed from a workspace, delete the member's subscriptions to topics of the
-- workspace. Notify the API servers that have open streams of these topics, so that they end the
-- removed member's streams. In a project whose own table of members does not have this trigger,
-- subscriptions expire after 150 seconds. The arguments of the trigger are the names of the columns
-- with the workspace's id and the user's id.
create or replace function queue.member_removed()
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

-- Create the trigger only if public.workspace_members is a table, because an install may have
-- replaced it by a view of the project's own table.
create or replace function queue.watch_members()
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

-- Delete the engine's data of a deleted tenant. The argument of the trigger is the name of the
-- column with the tenant's id.
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
  -- delete the tenant's rows from all tables of the engine except turns and notes, which leases and
  -- the sweep delete later
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
  -- delete jobs that were enqueued during the loop, because the loop may have deleted their rows in
  -- queue.ready
  delete from public.jobs where workspace_id = v_workspace;
  return old;
end;
$$;

comment on table public.jobs is
  E'A job is one unit of work with a payload, stored as a row of jobs.\n\n'
  'Insert a row with status pending to enqueue.';

comment on table public.job_logs is 'Log lines that processors wrote.';

-- All notes of turns with a smaller xid are deleted. Leases begin to read here, because an old
-- snapshot, for example of a dump, keeps the dead rows of all deleted notes.
create unlogged sequence queue.notes_gone minvalue 0 start 0;

-- noqa: PRS
create or replace view queue.turn_notes as
select *
from queue.notes
where key is null
  and xid >= (
    select coalesce(pg_sequence_last_value('queue.notes_gone'), 0)::text::xid8
  );

-- Jobs that must run without innocent jobs. They are suspects, whose process ended while it also
-- ran other jobs, and guilty jobs, which ended a process. The row is deleted when a later attempt
-- ends and its process lives on. Only queue.lease_suspects leases these jobs (14_suspects.sql).
create table queue.suspects (
  job_id uuid primary key,
  workspace_id uuid not null,
  worker integer not null, -- the worker whose process ended
  company uuid not null, -- suspects with the same company run together
  since timestamptz not null
);

-- Leases that a process lost while it kept others, because a lease expired or a job was deleted.
-- The process may still run the processor of the lost job. Rows are inserted and never updated, so
-- that the deletion of a job never waits for a transaction of the job's worker.
create table queue.lost_leases (
  id bigint generated always as identity primary key,
  worker integer not null,
  lost_at timestamptz not null,
  jobs integer not null -- number of jobs that the process held
);

comment on view public.job_events is
  E'Events of each job, numbered by seq from 1 without gaps.\n\n'
  'Subscribe first, then read all events after the last known seq.';

-- Store an event for each of these jobs, which the caller has locked.
-- p_is_counted: True if the caller has already increased public.jobs.last_seq.
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
    row(k.workspace_id, k.session_id, p_type, k.data, k.ids, k.seqs, p_now)::queue.change
  )
  into v_changes
  from kinds as k;
  perform queue.publish(v_changes, p_now);
end;
$$;

-- Return a sentence with the first requirement of the JSON schema p_schema that p_value violates,
-- or null if p_value is valid. The function supports those parts of JSON Schema 2020-12 that
-- pydantic generates. These are type, enum, const, required, properties, additionalProperties,
-- items, lengths, ranges, pattern, the formats uuid and date-time, anyOf, oneOf (with the meaning
-- of anyOf) and $ref.
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
    -- the schema accepts any value here
    return null;
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

-- Reject JSON that some clients cannot parse, because one such job would make a whole list of jobs
-- unreadable. Many parsers stop at about 200 levels of nesting, and numbers above 1.8e308 overflow.
create or replace function queue.check_json(p_value jsonb, p_field text)
returns void
language plpgsql stable
set search_path = ''
as $$
declare
  v_text constant text := p_value::text;
  v_bytes_max constant integer := queue.setting('payload_max_bytes')::integer;
begin
  -- measure the JSON as text, because the number 1e131000 is stored in ten bytes but has 131,001
  -- bytes as text
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
      p_field || ' contains a number that is too large for a double',
      p_field
    );
  end if;
end;
$$;

-- Reject a payload that violates the latest schema of its job type. A payload of an older version
-- is not checked here, because the worker converts it to the latest version first (upcasters).
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
      format('schema_version %s is newer than the published version', p_version),
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

-- Return true if the stored job type p_known is from a newer deploy than p_type, so that p_type
-- must not overwrite p_known. The type with the later deployment time is newer. If only p_known has
-- a deployment time, p_known is newer. If p_known has none, or if the times are equal, the type
-- with the higher schema_version is newer.
create or replace function queue.is_newer_deploy(p_known queue.job_types, p_type jsonb)
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

-- Store a job type and its schedules. If the stored type is from a newer deploy, change nothing and
-- return false.
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
  if queue.is_newer_deploy(v_old, p_type) then
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
        -- any other value becomes null, which the column rejects
        'is_minimal', case coalesce(p_type ->> 'events', 'full')
          when 'full' then false
          when 'minimal' then true
        end,
        'in_order', coalesce(v_old.in_order, false),
        'registered_at', queue.clock(),
        -- limit the time to the present, because a worker whose clock is ahead must not block later
        -- deploys
        'deployed_at', case
          when p_type ? 'deployed_at'
            then least((p_type ->> 'deployed_at')::timestamptz, queue.clock())
        end,
        -- A worker may make a type internal. It may not make an internal type public, because
        -- someone could do this with a stolen worker key. After public.revoke_worker_keys, a worker
        -- may do this once.
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
    -- a migration of the project may be inserting the same type now
    insert into queue.job_types
    select v_new.*
    on conflict (job_type) do nothing;
  end if;
  if p_type ? 'schedules' then
    perform queue.publish_schedules(p_type, coalesce(v_new.source, v_name));
  end if;
  -- apply the changed limits to the jobs of the type that already exist
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
  -- lock the types in sorted order, because a fixed order prevents deadlocks
  for v_type in
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
    -- a rejected type must not stop the other types
    exception
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
        -- schema version 0 means that no worker has published the type
        insert into queue.job_types as t (job_type, schema_version, refusal)
        values (v_type ->> 'job_type', 0, left(sqlerrm, 1000))
        on conflict (job_type) do update set refusal = excluded.refusal;
      end if;
    end;
  end loop;
  -- use pg_cron, pg_net and other extensions that were installed since the last call
  perform public.attach_extensions();
  return jsonb_build_object('registered', v_count, 'refused', v_refused);
end;
$$;

comment on function public.register_job_types is
  E'Publish job types: {registered, refused: [{job_type, code, message, field}]}.\n\n'
  'A rejected type keeps its previous policy and shows the reason.';

select queue.allow('job_worker, service_role', 'public.register_job_types');

-- This file enqueues one job. 05_enqueue_many.sql enqueues many jobs. These are the steps, by
-- function.
--
--   public.enqueue_job
--     queue.enqueue_simple     does all steps at once if the service calls without options and the
--                              type has no schema. Otherwise the next functions run.
--     queue.may_read           rejects a caller without access to the workspace.
--     queue.admit              charges the person who calls (06_limits.sql).
--     queue.require_type       returns the type of the job, published or not.
--     queue.add                adds the job with the next three functions.
--       queue.new_job          checks payload and options (queue.read_options) and builds the row.
--       queue.claim            takes the idempotency key and the unique key of the job.
--       queue.place            inserts into unpublished, deferred, gated or ready.
--         queue.note_turn      leaves a note, unless the turn is open and locked (queue.hold_turn).
--     queue.publish            adds a row to the feed and sends a message (12_feed.sql). The commit
--                              of the row notifies workers.
--     queue.wake_worker        decides whether the caller should start a worker.
--
-- The functions at the end of this file start workers, and lock live jobs that a call is about to
-- change.

-- Return the type of a new job. A type that no worker has published gets lane 0 and schema version
-- 0. The job is rejected if jobs of 20 other unpublished types already wait in the workspace, or
-- jobs of 1,000 in all workspaces.
-- p_within: Prefix of field names in errors.
create or replace function queue.require_type(
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
      'job_type must have 1 to 100 characters and no control characters',
      p_within || 'job_type'
    );
  elsif not exists (
    select from queue.unpublished as u
    where u.job_type = p_job_type and u.workspace_id = p_workspace_id
  ) then
    with recursive waiting as ( -- one index lookup per type
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

-- Return the lane of a job type in a queue, and create the lane if it is missing. A lease reads all
-- lanes of its types, so the number of lanes must stay small. Therefore only a deploy may name a
-- new queue. Other callers must name a queue that a job type or a worker already has.
-- p_within: Prefix of field names in errors.
-- p_declares: True if the caller is a deploy.
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
      -- skip a lane that maintenance is about to delete
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

-- Convert the options of a job to a row of public.jobs. The options are validated with a JSON
-- schema.
-- p_within: Prefix of field names in errors.
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
      then 'delay_seconds must not be given with scheduled_for'
    when v_options ? 'debounce_seconds' and not v_options ? 'unique'
      then 'debounce_seconds needs unique.key'
  end;
  v_given record;
  v_field text;
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
      v_options - '{timeout_seconds,scheduled_for,deadline_at}'::text[]
    );
    v_field := 'scheduled_for';
    v_job.scheduled_for := v_options ->> v_field;
    v_field := 'deadline_at';
    v_job.deadline_at := v_options ->> v_field;
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
  v_field := p_within || v_field;
  perform queue.refuse(400, 'invalid_argument', concat_ws(': ', v_field, sqlerrm), v_field);
end;
$$;

-- Return the W3C traceparent from the headers of the request, or null if it is missing or invalid.
create or replace function queue.request_traceparent()
returns text
language plpgsql stable
set search_path = ''
as $$
begin
  return substring(
    nullif(current_setting('request.headers', true), '')::json ->> 'x-minutehand-trace'
    from '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'
  );
end;
$$;

-- Check a new job, and build its row from its type, payload and options.
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
  -- A small payload of a type without a schema needs no check. Both the jsonb and the text of the
  -- payload must be short, because the number 1e400 is short as jsonb and long as text.
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
  if v_job.traceparent is null and current_setting('request.headers', true) <> '' then
    v_job.traceparent := queue.request_traceparent();
  end if;
  return v_job;
end;
$$;

-- Take the shared advisory lock of a turn until this transaction ends. Other enqueues can take the
-- lock too. A lease that closes the turn or moves its start needs the lock exclusively
-- (queue.tidy_turns), so no lease does this before this transaction ends. The setting
-- minutehand.locks stores the latest turn, so that consecutive jobs of one turn count as one lock
-- (queue.reserve_locks). Return false in three cases.
-- - A lease has the exclusive lock.
-- - The transaction has already reserved 130 locks.
-- - The isolation level is not read committed, so that statements after this lock do not see the
--   latest state of the turn.
create or replace function queue.hold_turn(p_lane integer, p_workspace_id uuid)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_turn constant text := p_lane || '/' || p_workspace_id;
  v_latest text[] := string_to_array(current_setting('minutehand.locks', true), ' ');
  v_count constant integer := coalesce(nullif(v_latest[1], '')::integer, 0);
  v_ignored text;
begin
  if v_turn is distinct from v_latest[2] then
    if v_count >= 130 then
      return false;
    end if;
    v_ignored := set_config('minutehand.locks', v_count + 1 || ' ' || v_turn, true);
  end if;
  return current_setting('transaction_isolation') = 'read committed'
    and pg_try_advisory_xact_lock_shared(p_lane, uuid_hash(p_workspace_id));
end;
$$;

-- Make sure that a lease will find a new ready job. Insert a note for the turn, unless this
-- transaction has locked the turn and one of these conditions applies.
-- - The turn is open and starts at p_ord or before. No lease can close the locked turn.
-- - The turn already has a note with p_ord or a smaller ord. A lease will open the turn from the
--   ord of this note.
-- Always return true, so that queue.place can return the result.
create or replace function queue.note_turn(p_lane integer, p_workspace_id uuid, p_ord bigint)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_is_held constant boolean := queue.hold_turn(p_lane, p_workspace_id);
begin
  -- read the turn in a separate statement, because it must see the changes that leases committed
  -- before the turn was locked
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
        select from queue.turn_notes as n
        where n.workspace_id = p_workspace_id and n.lane = p_lane and n.ord <= p_ord
      )
    )
  );
  return true;
end;
$$;

-- Assign a lane to a job that was enqueued before its type was published, or whose queue no longer
-- exists. For a job with an unpublished type, public.jobs.chosen names the options that the caller
-- gave. The job gets the other options from the type.
create or replace function queue.assign_lane(p_job public.jobs, p_type queue.job_types)
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
  -- no job type and no worker has this queue, so use the queue of the type
  exception when sqlstate 'PT422' then
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

-- Insert a row for a pending job, which the caller has locked, into queue.unpublished,
-- queue.deferred, queue.gated or queue.ready. If the job has a deadline or a latest time for its
-- start, also insert these times into queue.deferred. Return true if a lease can get the job now.
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
  -- insert these times even if the job was placed before, because maintenance may have deleted them
  -- since
  if p_job.deadline_at is not null then
    insert into queue.deferred (run_at, job_id, workspace_id, is_place)
    values (p_job.deadline_at, p_job.id, p_job.workspace_id, false)
    on conflict do nothing;
  end if;
  if p_job.start_by_at is not null and p_job.started_at is null then
    insert into queue.deferred (run_at, job_id, workspace_id, is_place)
    values (p_job.start_by_at, p_job.id, p_job.workspace_id, false)
    on conflict do nothing;
  end if;
  if p_job.lane is distinct from p_type.lane then
    perform from queue.lanes as l
    where l.lane = p_job.lane
      and (
        l.unused_since is null
        or l.unused_since > queue.clock() - interval '23 hours'
      );
    -- the job's queue no longer exists, or will soon be deleted, so assign a lane again
    if not found then
      p_job.lane := 0;
    end if;
  end if;
  if p_job.lane = 0 then
    select * into p_type
    from queue.job_types as t
    where t.job_type = p_job.job_type
      and t.schema_version > 0
      -- a person's job of an internal type stays unpublished until queue.promote ends the job as
      -- failed
      and not (t.internal and p_job.user_id is not null);
    if found then
      p_job := queue.assign_lane(p_job, p_type);
    end if;
  end if;
  if p_job.lane = 0 then
    insert into queue.unpublished (job_type, workspace_id, job_id)
    values (p_job.job_type, p_job.workspace_id, p_job.id);
    update public.jobs
    -- queue.leave_places expects a job with lane 0 in queue.unpublished
    set lane = 0
    where id = p_job.id and lane <> 0;
    return false;
  elsif p_job.deadline_at <= p_now then
    return false; -- maintenance ends the job
  elsif v_run_at > p_now then
    insert into queue.deferred (run_at, job_id, workspace_id, is_place)
    values (v_run_at, p_job.id, p_job.workspace_id, true)
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
      -- the job was delayed, and its gate still counts it as admitted
      v_key := null;
    end if;
  end if;
  if v_key is null then
    insert into queue.ready (lane, workspace_id, ord, ready_at, job_id)
    values (
      p_job.lane,
      p_job.workspace_id,
      p_job.ord,
      -- time from which the job can start, which is not before its release or the end of its wait
      coalesce(greatest(v_run_at, p_job.updated_at), p_now),
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

-- Store an idempotency key for the job p_id. If the key already belongs to another job, return the
-- id of that job. Otherwise return p_id.
-- p_made: Ids of the jobs that this call creates, whose rows are not inserted yet.
create or replace function queue.claim_key(
  p_workspace_id uuid,
  p_job_type text,
  p_key text,
  p_payload jsonb,
  p_id uuid,
  p_made uuid[]
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
  on conflict (workspace_id, job_type, key, is_unique) do update set key = k.key -- locks the row
  returning * into v_taken;
  -- The insert may have waited for a transaction that committed a job with the key. Look for the
  -- job in a separate statement, because the insert itself does not see this job.
  if v_taken.job_id <> all (p_made)
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

-- Store the idempotency key and the unique key of a new job, and return the id of the new job. If
-- another job already has one of the keys, return the id of that other job. With on_conflict
-- 'replace', a pending job that has the unique key gets the payload of the new job, and the tags,
-- priority, time and start_by_seconds that the call gives. If the unique key belongs to another
-- job, the call's idempotency key is stored for that job, with freed_when 'other'.
create or replace function queue.claim(p_job public.jobs, p_options jsonb, p_now timestamptz)
returns uuid
language plpgsql
set search_path = ''
as $$
declare
  -- with debounce_seconds, the call replaces the pending job that has the unique key
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
    -- the unique key was freed between the insert and this query
    continue when not found;
    if not exists (select from public.jobs where id = v_id) then
      -- The job was deleted while another transaction had locked the row of its key, so this row
      -- still exists.
      delete from queue.job_keys as u
      where u.job_id = v_id
        and (u.workspace_id, u.job_type, u.key, u.is_unique)
        = (p_job.workspace_id, p_job.job_type, p_job.unique_key, true);
      continue;
    end if;
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
    -- the unique key was freed after the insert above
    continue when not exists (
      select from queue.job_keys as u
      where u.job_id = v_id
        and (u.workspace_id, u.job_type, u.key, u.is_unique)
        = (p_job.workspace_id, p_job.job_type, p_job.unique_key, true)
    );
    exit when not exists (
      select from public.jobs
      where id = v_id and status = 'pending'
    );
    perform queue.admit(
      'rows',
      p_job.workspace_id,
      queue.caller(),
      p_bytes => octet_length(p_job.payload::text)
    );
    perform queue.check_live_bytes(p_job.workspace_id) where queue.caller() is not null;
    perform queue.leave_places(array[v_id]);
    update public.jobs as j
    set
      payload = p_job.payload,
      tags = coalesce(p_job.tags, j.tags),
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
    perform queue.append_event(
      array[v_id],
      'job.replaced',
      jsonb_strip_nulls(jsonb_build_object('scheduled_for', v_replaced.scheduled_for)),
      p_now,
      p_is_counted => true
    );
    exit;
  end loop;
  -- store the idempotency key of this call for the other job
  update queue.job_keys as k
  set job_id = v_id, freed_when = 'other'
  where (k.workspace_id, k.job_type, k.key, k.is_unique)
    = (p_job.workspace_id, p_job.job_type, p_job.idempotency_key, false);
  return v_id;
end;
$$;

-- Check a job, and insert its row and its place. The caller must publish the event of its creation.
-- p_id: Id of the new job, for which the caller may already have stored an idempotency key.
-- job: The new job, or the other job that already has its keys.
-- created: False if another job already has the keys.
-- is_ready: True if a lease can get the job now.
create or replace function queue.add(
  p_workspace_id uuid,
  p_user_id uuid,
  p_type queue.job_types,
  p_payload jsonb,
  p_options jsonb,
  p_now timestamptz,
  p_within text default '',
  p_id uuid default null,
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
    p_workspace_id, p_user_id, p_type, p_payload, p_options, p_now, p_within, p_id
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
      -- the other job has been deleted since, so that its keys are free
      end if;
    end loop;
  end if;
  insert into public.jobs select job.*;
  is_ready := queue.place(job, p_now, p_type);
  created := true;
end;
$$;

-- Enqueue a job without options and without keys, which is ready at once. Its type has no schema
-- and no rate limit for each key. This function does the same as queue.add, queue.publish and
-- queue.row_json, but faster, in one statement. tests/sql/test_inserts.py compares the two ways.
create or replace function queue.enqueue_simple(
  p_workspace_id uuid,
  p_type record,
  p_payload jsonb,
  p_now timestamptz
)
returns json
language plpgsql
set search_path = ''
as $$
declare
  v_id constant uuid := queue.new_id();
  v_ord constant bigint := queue.ord_of(100, p_now);
  v_is_held constant boolean := queue.hold_turn(p_type.lane, p_workspace_id);
  v_data constant jsonb := jsonb_build_object(
    'status', 'pending', 'attempts', 0, 'job_type', p_type.job_type
  );
  v_seqs constant integer[] := case when not p_type.is_minimal then '{1}' end;
  v_trace constant text := queue.request_traceparent();
  v_unsent constant boolean := nullif( -- true, or null
    not queue.send(array[
      row(p_workspace_id, null, 'job.created', v_data, array[v_id], v_seqs, p_now)::queue.change
    ]),
    false
  );
  -- fields that have the same value for all jobs of this function
  c_answer constant text := '{"status": "pending", "priority": 100, "attempts": 0, "fence": 0,
    "generation": 1, "lost_attempts": 0, "deaths": 0, "state": "queued", "tags": [],
    "progress": {"percentage": 0, "stage": null, "message": null},
    "times": {"queue_ms": 0, "run_ms": 0, "runs": 0},
    "user_id": null, "session_id": null, "result": null, "error": null, "error_message": null,
    "error_data": null, "timeout_seconds": null, "cost_usd": null, "started_at": null,
    "finished_at": null, "completed_at": null, "next_retry_at": null, "scheduled_for": null,
    "deadline_at": null, "start_by_seconds": null, "start_by_at": null,
    "cancel_requested_at": null, "concurrency_key": null, "idempotency_key": null,
    "unique_key": null, "parent_id": null, "replay_of": null, "replay_from": null,
    "waiting_for": null, "running_since": null, "worker_id": null, ';
begin
  with made as (
    insert into public.jobs (
      id, workspace_id, lane, max_attempts, last_seq, is_minimal, schema_version, queue,
      job_type, payload, traceparent, ord, created_at, updated_at
    )
    values (
      v_id,
      p_workspace_id,
      p_type.lane,
      p_type.max_attempts,
      coalesce(cardinality(v_seqs), 0),
      nullif(p_type.is_minimal, false),
      p_type.schema_version,
      p_type.queue,
      p_type.job_type,
      p_payload,
      v_trace,
      v_ord,
      p_now,
      p_now
    )
  ),
  placed as (
    insert into queue.ready (lane, workspace_id, ord, ready_at, job_id)
    values (p_type.lane, p_workspace_id, v_ord, p_now, v_id)
  ),
  noted as ( -- same as queue.note_turn
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
        select from queue.turn_notes as n
        where n.workspace_id = p_workspace_id and n.lane = p_type.lane and n.ord <= v_ord
      )
  )
  insert into queue.feed ( -- same as queue.publish
    number, at, workspace_id, type, data, job_ids, seqs, wakes, unsent
  )
  values (
    queue.feed_number(greatest(pg_current_xact_id(), pg_snapshot_xmax(pg_current_snapshot()))),
    p_now,
    p_workspace_id,
    'job.created',
    v_data,
    array[v_id],
    v_seqs,
    true,
    case when v_seqs is not null then v_unsent end
  );
  return (
    c_answer || substr(
      json_build_object(
        'id', v_id, 'workspace_id', p_workspace_id, 'queue', p_type.queue,
        'job_type', p_type.job_type, 'payload', p_payload,
        'max_attempts', p_type.max_attempts, 'last_seq', coalesce(cardinality(v_seqs), 0),
        'schema_version', p_type.schema_version, 'created_at', p_now, 'updated_at', p_now,
        'traceparent', v_trace, 'next_run_at', p_now
      )::text,
      2
    )
  )::json;
end;
$$;

create or replace function public.enqueue_job(
  p_workspace_id uuid,
  p_job_type text,
  p_payload jsonb default '{}',
  p_options jsonb default '{}'
)
returns json -- json, because jsonb sorts the keys of each object
language plpgsql
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_payload constant jsonb := coalesce(p_payload, '{}');
  v_options constant jsonb := coalesce(p_options, '{}');
  v_claims constant jsonb := nullif(current_setting('request.jwt.claims', true), '');
  v_type record;
  v_user uuid;
  v_made record;
  v_job public.jobs;
  v_is_published boolean;
begin
  if v_options = '{}'
    and jsonb_typeof(v_payload) = 'object' -- same test as in queue.new_job
    and pg_column_size(v_payload) <= 200
    and octet_length(v_payload::text) <= 309
    and (
      v_claims is null
      or v_claims ->> 'sub' is null
        and v_claims ->> 'role' in ('service_role', 'job_worker')
    )
  then
    select t.job_type, t.lane, t.queue, t.max_attempts, t.schema_version, t.is_minimal
    into v_type
    from queue.job_types as t
    where t.job_type = p_job_type
      and t.schema_version > 0
      and t.payload_schema is null
      and not t.rate_per_key
      and exists (select from queue.tenants as w where w.id = p_workspace_id);
    if found then
      return json_build_object(
        'job', queue.enqueue_simple(p_workspace_id, v_type, v_payload, v_now),
        'created', true,
        'wake', queue.wake_worker(v_now)
      );
    end if;
  end if;
  v_user := queue.may_read(p_workspace_id);
  -- a repeated call with an idempotency key creates no job, so it is not charged
  if v_user is not null
    and not exists (
      select from queue.job_keys as k
      where k.workspace_id = p_workspace_id
        and k.job_type = p_job_type
        and (
          k.key = v_options ->> 'idempotency_key' and not k.is_unique
          or k.key = v_options #>> '{unique,key}' and k.is_unique
        )
    )
  then
    perform queue.admit(
      'jobs',
      p_workspace_id,
      v_user,
      p_bytes => octet_length(v_payload::text)
    );
  end if;
  v_made := queue.add(
    p_workspace_id,
    v_user,
    queue.require_type(p_job_type, '', p_workspace_id),
    v_payload,
    v_options,
    v_now
  );
  v_job := v_made.job;
  if not v_made.created then
    return json_build_object(
      'job', queue.job_json(v_job),
      'created', false,
      'wake', false
    );
  end if;
  v_is_published := queue.publish(
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
        case when v_job.is_minimal is null then '{1}'::integer[] end,
        v_now
      )::queue.change
    ],
    v_now,
    p_is_soon => coalesce(v_job.scheduled_for, v_now) < v_now + interval '1 minute'
  );
  return json_build_object(
    'job', queue.row_json(v_job, v_now),
    'created', true,
    'wake', v_made.is_ready and queue.wake_worker()
  );
end;
$$;

comment on function public.enqueue_job is
  E'Enqueue one job: {job, created, wake}.\n\n'
  'The job exists if and only if the transaction commits. Options: queue, priority, scheduled_for '
  'or delay_seconds, max_attempts, timeout_seconds, idempotency_key, concurrency_key, unique, '
  'debounce_seconds, session_id, parent_id, tags, deadline_at, start_by_seconds, schema_version, '
  'traceparent.';

select queue.allow('authenticated, service_role', 'public.enqueue_job');

-- noqa: PRS
create unlogged sequence queue.wanted_by minvalue 0 start 0;

-- noqa: PRS
create unlogged sequence queue.listened_ms minvalue 0 start 0;

-- noqa: PRS

-- Notify workers. If a worker that cannot LISTEN has requested jobs within 150 seconds, also send a
-- message by Realtime, at most one in a transaction, unless half of the message budget is used up.
-- p_job_type: Null if jobs of any type may be ready.
create or replace function queue.send_wakeup(p_now timestamptz, p_job_type jsonb default null)
returns void
language plpgsql
set search_path = ''
as $$
begin
  perform pg_notify('minutehand_wakeup', '');
  if date_part('epoch', clock_timestamp()) * 1000 - pg_sequence_last_value('queue.listened_ms')
    <= 150000
    and coalesce(current_setting('minutehand.sent_wakeup', true), '') = ''
  then
    perform set_config('minutehand.sent_wakeup', 'true', true);
    perform queue.write_messages(
      array[
        row(
          queue.wake_topic(),
          null,
          p_now,
          false,
          'wake',
          jsonb_build_object('job_type', p_job_type),
          w.cost
        )::queue.message
      ],
      w.cost
    )
    from queue.message_budget('{}') as b
    cross join (
      select 1 + count(*) as cost -- each worker may follow the topic
      from queue.workers
      where seen_at > p_now - interval '2 minutes'
    ) as w
    where 2 * (b.used + w.cost) <= b.budget;
  end if;
end;
$$;

-- Notify workers of an enqueue at most once in 20 ms, because each commit with a notification takes
-- a lock of the whole server. If a job causes no notification, it waits at most a second, because
-- idle workers poll every second. A worker that was notified and finds no job polls again after a
-- tenth of a second.
create or replace function queue.notify_workers()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
  -- A constant, because for an assignment in the body Postgres would have to prepare a cast.
  v_at constant bigint := (date_part('epoch', clock_timestamp()) * 50)::bigint;
  v_by constant text := current_setting('minutehand.wakes', true);
  v_ignored text;
begin
  if v_by <> '' then
    v_ignored := setval('queue.wanted_by', v_by::bigint);
    v_ignored := setval(
      'queue.wanted_ms',
      greatest(0, (date_part('epoch', queue.clock()) * 1000)::bigint)
    );
  end if;
  if v_at is distinct from pg_sequence_last_value('queue.notified_at') then
    v_ignored := setval('queue.notified_at', v_at);
    perform queue.send_wakeup(new.at, new.data -> 'job_type');
  end if;
  return null;
end;
$$;

-- Record that a worker run with free slots is about to end. The time of the run's last request is
-- set back by two seconds, so that the next enqueue starts a worker (queue.wake_worker). Enqueues
-- before that relied on this run, so the run must request jobs once more.
create or replace function queue.withdraw_run(p_now timestamptz)
returns bigint
language plpgsql
set search_path = ''
as $$
declare
  v_before constant bigint := (date_part('epoch', p_now) * 1000)::bigint - 2000;
begin
  return case
    when pg_sequence_last_value('queue.slots_ms') > v_before
      then setval('queue.slots_ms', v_before)
  end;
end;
$$;

drop function queue.wake_worker(timestamp with time zone,boolean,boolean);

-- Return whether the caller should start a worker. The result is false if a worker with free slots
-- requested jobs in the last two seconds, or if a worker was called in this time. If
-- public.connect_worker has stored the address of a worker, pg_net calls this address when the
-- transaction commits. Without AWS, no schedule is then needed. On AWS, the API and the schedule
-- also call workers.
--
-- If the result is true, enqueues of the next two seconds get false. This begins only when the
-- enqueue has committed (queue.notify_workers), and only if pg_net or the API calls the worker. The
-- API identifies itself by a header. A browser or a trigger ignores the result, so the next enqueue
-- must also get true. Because anyone can send the header, the result of a person's call affects
-- only enqueues of the same person.
-- p_is_due: True for the call of pg_cron once a minute, for which the last two seconds do not
--   matter.
create or replace function queue.wake_worker(
  p_now timestamptz default queue.clock(),
  p_is_due boolean default false
)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_caller bigint := case current_setting('role')
    when 'authenticated' then hashtext(queue.caller()::text) & 2147483647 | 1
    when 'anon' then null
    else 0
  end;
  v_since constant bigint := (date_part('epoch', p_now) * 1000)::bigint - greatest(
    case
      when coalesce(pg_sequence_last_value('queue.wanted_by'), 0) in (0, v_caller)
        then pg_sequence_last_value('queue.wanted_ms')
    end,
    pg_sequence_last_value('queue.slots_ms'),
    0
  );
  v_url text;
  v_ignored text;
begin
  if v_since between 0 and 1999 and not p_is_due then
    return false;
  end if;
  if to_regclass('vault.decrypted_secrets') is not null then -- costs less than reading the setting
    v_url := queue.setting('worker_url') #>> '{}';
  end if;
  if v_url is not null then
    v_caller := 0;
  elsif nullif(current_setting('request.headers', true), '')::json ->> 'x-minutehand-wakes'
    is distinct from 'true'
  then
    v_caller := null;
  end if;
  v_ignored := set_config('minutehand.wakes', v_caller::text, true);
  if v_url is null then
    return true;
  end if;
  begin
    execute $do$select net.http_post(url := $1, body := '{}'::jsonb, params := '{}'::jsonb,
        headers := jsonb_build_object('Authorization', 'Bearer ' || s.decrypted_secret,
          'Content-Type', 'application/json'), timeout_milliseconds := 2000)
      from vault.decrypted_secrets as s where s.name = 'minutehand_worker_token'$do$ using v_url;
  -- if the worker cannot be called, the enqueue must still succeed
  exception when others then
    raise warning 'the worker could not be called: % (%)', sqlerrm, sqlstate;
  end;
  return true;
end;
$$;

-- Lock the rows of these jobs in public.jobs, queue.ready, queue.deferred and queue.waits. If
-- another transaction has locked one of the rows, lock none and return false. The function never
-- waits, because a deadlock could result. Settlements lock a job's place before the job, and
-- deletes lock in the opposite order. A short lock_timeout is no alternative. If it ends just when
-- the lock is granted, Postgres reports that the user cancelled the statement.
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
    on d.run_at = coalesce(j.next_retry_at, j.scheduled_for) and d.job_id = j.id and d.is_place
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

-- Lock jobs that the call is about to change. If another transaction has locked one of the jobs,
-- reject a person's call at once, because all people share the few connections of the Data API. The
-- service and plain SQL have other connections, and wait up to eight seconds. They do not wait
-- longer, because two transactions may wait for each other's jobs.
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
        using message = 'another transaction has locked the job; call again';
    end if;
    perform pg_sleep(0.005);
  end loop;
end;
$$;

-- Delete the rows of jobs from queue.ready and the other tables of places, except queue.waits,
-- before the jobs get another place. The caller has locked the jobs. Rows of queue.gated are
-- deleted first. If a gate is admitting one of the jobs, this delete waits for the gate, so that
-- the next delete finds the job in queue.ready.
create or replace function queue.leave_places(p_ids uuid[])
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
      and not g.ended -- remains until the job's start is charged
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
    and (d.is_place or d.run_at is distinct from j.deadline_at); -- the row for the deadline remains
  delete from queue.unpublished as u
  using public.jobs as j
  where j.id = any (p_ids)
    and j.lane = 0
    and u.job_type = j.job_type
    and u.workspace_id = j.workspace_id
    and u.job_id = j.id;
end;
$$;

-- This file enqueues many jobs. public.enqueue_jobs, public.spawn_jobs and schedules call
-- queue.enqueue. This function adds plain jobs in one statement (queue.add_plain), and other jobs
-- one by one (queue.add). The file also has the triggers of public.jobs for inserts and deletes.

-- Add plain jobs in one statement, which costs a tenth of queue.add. A plain job has no options,
-- and its type is published and has neither a schema nor a rate limit for each key. If one of the
-- jobs is not plain, add no job and return false. tests/sql/test_inserts.py compares this function
-- with queue.add.
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
  v_trace constant text := queue.request_traceparent();
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
      -- check the payload in the same way as queue.check_json
      when octet_length(i.value::text) > 309 then
      octet_length(i.value::text) > v_bytes_max
        or i.value @? 'strict $.**{102}'
        or i.value::text ~ '[0-9]{155}[0-9]{154}'
    end
  ) then
    return false;
  end if;
  -- read each job type once, because another transaction may change or delete the type during this
  -- call
  v_types := array(
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

-- Publish the creation of jobs. Jobs with the same session and type, and with or without events of
-- creation, share one row of the feed.
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
        end,
        p_now
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

-- Enqueue many jobs.
-- p_user_id: The person who calls, or null for the service.
-- p_bulk: True if an error must name the rejected item, for example jobs[0].
-- ids: Ids of the jobs in the order of p_items.
-- created: For each item, true if a job was created, and false if the item's key already belonged
--   to a job.
-- wake: True if the caller should start a worker.
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
  v_is_plain boolean;
  v_keyed uuid[]; -- job that has the idempotency key of each item
  v_new uuid[] := '{}';
  v_published integer := 0; -- number of jobs in v_new that are already published
  v_item record;
  v_made record;
begin
  ids := queue.new_ids(v_count);
  created := array_fill(true, array[v_count]);
  -- Charge the person whose token the request has, even if a function of an app enqueues as the
  -- service. Items with idempotency keys are charged below, because a repeated call creates no
  -- jobs.
  perform queue.admit(
    'jobs',
    p_workspace_id,
    v_caller,
    v_count,
    octet_length(p_items::text)
  )
  where v_caller is not null and not p_items @? '$[*].idempotency_key';
  v_is_plain := queue.add_plain(p_workspace_id, p_user_id, p_items, ids, v_now);
  wake := v_is_plain;
  if v_is_plain then
    v_new := ids;
  else
    v_keyed := queue.claim_keys(p_workspace_id, p_items, ids);
    perform queue.admit(
      'jobs',
      p_workspace_id,
      v_caller,
      n.fresh,
      octet_length(p_items::text)
    )
    from (
      select count(*) as fresh
      from unnest(v_keyed, ids) as k (holder, id)
      where k.holder = k.id
    ) as n
    where v_caller is not null and p_items @? '$[*].idempotency_key' and n.fresh > 0;
  end if;
  -- Process the items in the order of their unique keys, to prevent deadlocks. Items whose
  -- idempotency key already belongs to a job come last.
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
    where not v_is_plain
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
    -- publish the jobs created so far, because this item may replace the payload of one of these
    -- jobs
    elsif v_item.is_again then
      perform queue.publish_created(v_new[v_published + 1:], v_now);
      v_published := cardinality(v_new);
    end if;
    v_made := queue.add(
      p_workspace_id,
      p_user_id,
      queue.require_type(v_item.job_type, v_item.within, p_workspace_id),
      coalesce(nullif(v_item.value -> 'payload', 'null'), '{}'),
      v_item.value - '{job_type,payload}'::text[],
      v_now + make_interval(secs => v_item.n * 1e-6),
      v_item.within,
      ids[v_item.n]
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
  end if;
  wake := wake and queue.wake_worker();
end;
$$;

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
  'with p_return ids.\n\n'
  'Each element has job_type, payload and the options of enqueue_job. The detail of an error '
  'names the element.';

select queue.allow('authenticated, service_role', 'public.enqueue_jobs');

-- Check and complete each row of a plain insert into public.jobs before the row is written. The
-- value 0 in the column worker marks the row for the trigger queue.place_inserted, which does the
-- checks that need all rows of the statement. A person is charged before each hundred rows, because
-- a rejected insert costs the database as much as an accepted insert.
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
  v_count := set_config('minutehand.plain_inserts', v_count::text, true);
  if v_count % 100 = 0 and queue.caller() is not null then
    perform queue.admit('jobs', new.workspace_id, queue.caller(), 100);
    perform set_config('minutehand.reserved', (queue.take_reserved() + 100)::text, true);
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
    queue.require_type(new.job_type, '', new.workspace_id),
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

-- After a plain insert into public.jobs, insert a row for each new job into queue.ready or another
-- table of places, and publish the creation of the jobs. A trigger of the project that fires
-- earlier may already have changed or deleted some of the jobs, or have inserted their rows, for
-- example by starting a scheduled job now.
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
  -- the engine inserted the jobs and their places itself, or the statement inserted no rows
  if v_ids = '{}' then
    perform queue.admit('rows', null, queue.caller(), -queue.take_reserved())
    where current_setting('minutehand.reserved', true) <> '';
    return null;
  end if;
  perform queue.may_read(w.workspace_id)
  from (select distinct a.workspace_id from added as a where a.worker = 0) as w;
  if v_ids[1] < queue.id_at(v_now - interval '1 day')
    or v_ids[cardinality(v_ids)] > queue.id_at(v_now + interval '1 day')
  -- an id must contain the time of creation, because retention finds old jobs by their ids
  then
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
      -- a trigger of the project has changed the job, so that the job already has later events
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
  -- insert jobs that are ready at once, as queue.place does
  placed as (
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
    -- bool_or() calls queue.note_turn for every row
    coalesce((select bool_or(n.is_ready) from noted as n), false),
    (select array_agg(j.id) from jobs as j where j.is_simple is not true),
    (select array_agg(j.id) from jobs as j where j.is_changed)
  into v_is_ready, v_rest, v_changed;
  if v_rest is not null then
    perform queue.leave_places(v_changed) where v_changed is not null;
    v_is_ready := coalesce(
      (
        select bool_or(queue.place(j, j.created_at))
        from unnest(v_rest) as i (id)
        join public.jobs as j on j.id = i.id
      ),
      false
    ) or v_is_ready;
  end if;
  -- a row of the feed has at most 1,000 jobs
  for v_slice in 0 .. (cardinality(v_ids) - 1) / 1000 loop
    perform queue.publish_created(v_ids[1000 * v_slice + 1:1000 * v_slice + 1000], v_now);
  end loop;
  if queue.caller() is not null then
    perform queue.check_live_jobs(a.workspace_id, 0), queue.check_live_bytes(a.workspace_id)
    from (select distinct a.workspace_id from added as a where a.worker = 0) as a;
    perform queue.admit(
      'rows',
      null,
      queue.caller(),
      count(*) - queue.take_reserved(),
      sum(octet_length(a.payload::text))
    )
    from added as a
    where a.worker = 0;
  end if;
  if v_is_ready then
    perform queue.wake_worker();
  end if;
  return null;
end;
$$;

drop trigger jobs_after_insert on public.jobs;

create trigger jobs_after_insert
  after insert on public.jobs
  referencing new table as added
  for each statement
  when (
    current_setting('minutehand.plain_inserts', true) <> ''
    or current_setting('minutehand.reserved', true) <> ''
  )
  execute function queue.place_inserted();

-- Delete the rows of deleted jobs from the tables of the engine.
create or replace function queue.after_delete()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_ids constant uuid[] := array(select id from removed order by id);
  v_workers integer[];
begin
  -- If a gate is admitting one of the jobs, this query waits for the gate, so that the next
  -- statements see the job's row in queue.ready.
  perform from queue.gated as g
  join removed as j
    on j.finished_at is null
    and g.job_id = j.id
    and g.workspace_id = j.workspace_id
    and g.job_type = j.job_type
    and g.key = coalesce(j.concurrency_key, '')
  for update of g;
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
      g.admitted,
      g.started_at < 'infinity' is true as is_unpaid
    from queue.gated as g
    join removed as j
      on j.finished_at is null
      and g.job_id = j.id
      and g.workspace_id = j.workspace_id
      and g.job_type = j.job_type
      and g.key = coalesce(j.concurrency_key, '')
  ),
  ended as (
    update queue.gated
    -- the row remains until the job's start is charged to the rate limit of its key
    set ended = true
    where ctid = any (array(select t.tid from theirs as t where t.is_unpaid))
  ),
  gone as (
    delete from queue.gated
    where ctid = any (array(select t.tid from theirs as t where not t.is_unpaid))
  )
  -- Insert a note for the gate even if no other job has the concurrency key now. A concurrent
  -- transaction may be adding a job with the key, and its check of the gate does not see yet that
  -- this job is deleted.
  insert into queue.notes (lane, workspace_id, key)
  select distinct t.lane, t.workspace_id, t.key
  from theirs as t
  where t.admitted;
  delete from queue.unpublished as u
  using removed as j
  where j.lane = 0
    and u.job_type = j.job_type
    and u.workspace_id = j.workspace_id
    and u.job_id = j.id;
  -- Skip a key whose row an enqueue has locked, because this enqueue will find the job deleted and
  -- give the key to its new job.
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
  -- Skip a lease that a worker's report or settlement has locked, because that transaction waits
  -- for the row of the job. Maintenance deletes the lease later.
  with gone as (
    delete from queue.leases
    where ctid = any (array(
      select l.ctid
      from queue.leases as l
      where l.job_id = any (v_ids)
      for update skip locked
    ))
    returning worker
  )
  select array_agg(g.worker) into v_workers from gone as g;
  if v_workers is not null then
    -- Record the lost leases, because the worker runs the processors of the deleted jobs until its
    -- next report.
    insert into queue.lost_leases (worker, lost_at, jobs)
    select
      l.worker,
      queue.clock(),
      count(*) + cardinality(array_positions(v_workers, l.worker))
    from queue.leases as l
    where l.worker = any (v_workers)
    group by l.worker;
  end if;
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
  -- a job that last changed before the oldest row of the feed has no rows in the feed
  perform queue.scrub_feed(
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

-- Take tokens from a token bucket at p_now.
-- p_most: Number of tokens in a full bucket.
-- p_seconds: Time in which an empty bucket fills up.
-- p_amount: Number of tokens to take from the bucket.
-- p_limit: Name of the limit in the error with status 429, which is raised if the bucket has too
--   few tokens. Null if no error must be raised, because the tokens pay for something that has
--   already happened. The bucket may then become negative.
create or replace function queue.take_tokens(
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
    -- a transaction that commits late must not set this time back, because the bucket would refill
    -- twice for the same period
    refilled_at = greatest(b.refilled_at, p_now),
    tokens = least(
      p_most,
      b.tokens
        + greatest(0, extract(epoch from p_now - b.refilled_at))
        * p_most
        / p_seconds
    ) - p_amount
  returning tokens into v_tokens;
  -- the error also rolls back the update above
  if v_tokens < 0 and p_limit is not null then
    perform queue.refuse_rate(p_limit, p_most, p_seconds, v_tokens);
  end if;
end;
$$;

-- Return how many more jobs of a concurrency key may be admitted now, at most 1,000. The
-- concurrency limit counts admitted jobs. The rate limit counts starts, and each admitted job that
-- has not started reserves one start. First, charge the starts since the last call of this
-- function, each at the time of the start. Then delete the rows of ended jobs whose start is
-- charged.
-- tokens: Number of starts that the rate limit allows at the time `at`, less the reserved starts.
-- is_held: True if the row of an ended job still counts, because another transaction has locked the
--   row, for example to delete the job. The caller must then check the gate again later.
create or replace function queue.free_of_key(
  p_type queue.job_types,
  p_workspace_id uuid,
  p_key text,
  out free integer,
  out tokens double precision,
  out at timestamptz,
  out is_held boolean
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
  v_admitted record;
begin
  free := 1000;
  is_held := false;
  if p_type.rate_per_key then
    -- skip locked rows, because otherwise two settlements could wait for each other
    v_begun := array(
      select g.ctid
      from queue.gated as g
      where g.workspace_id = p_workspace_id
        and g.job_type = p_type.job_type
        and g.key = p_key
        and g.admitted
        and g.started_at < 'infinity'
      for update skip locked
    );
    perform queue.take_tokens(
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
    -- read the clock after the count, so that a job that starts between the two still counts as
    -- reserved
    at := queue.clock();
    tokens := queue.tokens_of(
      v_bucket,
      p_type.rate_limit,
      p_type.rate_per_seconds,
      at
    ) - v_unpaid;
    free := least(1000, greatest(0, floor(tokens + 1e-9)))::integer;
  end if;
  delete from queue.gated
  where ctid = any (array(
    select g.ctid
    from queue.gated as g
    where g.workspace_id = p_workspace_id
      and g.job_type = p_type.job_type
      and g.key = p_key
      and g.admitted
      and g.ended
      -- Keep the row of a job that ended after the update above, because the job's start is not
      -- charged yet. Delete the row of a job that never started.
      and (p_type.rate_per_key and g.started_at < 'infinity') is not true
    for update skip locked
  ));
  if p_type.key_concurrency is not null and p_key <> '' then
    select count(*) as jobs, coalesce(bool_or(g.ended), false) as has_ended
    into v_admitted
    from queue.gated as g
    where g.workspace_id = p_workspace_id
      and g.job_type = p_type.job_type
      and g.key = p_key
      and g.admitted;
    free := greatest(0, least(free, p_type.key_concurrency - v_admitted.jobs));
    is_held := v_admitted.has_ended;
  end if;
end;
$$;

drop function queue.open_gate(integer,uuid,text,text,timestamp with time zone);

-- Open the gate of a concurrency key. It admits as many waiting jobs as the limits of the key
-- allow, but no jobs of paused lanes and of lanes that no worker serves. If another transaction is
-- opening the gate, or if this transaction can take no more locks, insert a note, so that a later
-- lease opens the gate.
-- p_lane: A lane of the job type. The gate covers all lanes of the type.
-- p_is_reserved: True if the caller has reserved an advisory lock for the gate.
create or replace function queue.open_gate(
  p_lane integer,
  p_workspace_id uuid,
  p_job_type text,
  p_key text,
  p_now timestamptz,
  p_is_reserved boolean default false
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
  if not p_is_reserved and queue.reserve_locks(1, 80) = 0
    or not queue.try_lock(format('gate %s/%s/%s', p_workspace_id, p_job_type, p_key))
  then
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
  -- move admitted jobs of paused lanes and of lanes without a worker back to queue.gated, because
  -- these jobs must not use up the limit of the key
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
  perform queue.leave_places(v_closed) where v_closed <> '{}';
  perform queue.place(j, p_now, v_type)
  from public.jobs as j
  where j.id = any (v_closed);
  v_count := queue.free_of_key(v_type, p_workspace_id, p_key);
  if v_count.free = 0 and not v_type.rate_per_key and not v_count.is_held then
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
        -- Skip a job that still has a row of an attempt that ended just now, because both rows
        -- would have the same primary key. The next check of the gate admits the job.
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
    when v_admitted.jobs = 1000 then p_now -- more jobs may be waiting
    -- other transactions have locked the remaining waiting jobs, and may leave these jobs waiting,
    -- so check the gate again
    when v_admitted.jobs < v_count.free or v_count.is_held then p_now + interval '1 second'
    -- The time at which the rate limit allows the next start. Without a rate limit, tokens and this
    -- time are null.
    when v_admitted.jobs + 1
        > v_count.tokens then v_count.at + make_interval(secs => greatest(
      0.001,
      (1 + v_admitted.jobs - v_count.tokens)
        * v_type.rate_per_seconds
        / v_type.rate_limit
    ))
  end;
  -- otherwise the key is at its concurrency limit, and the end of a job opens the gate
  if v_look_at is not null then
    insert into queue.notes (look_at, lane, workspace_id, key)
    select v_look_at, g.lane, p_workspace_id, p_key
    from queue.gated as g
    where g.workspace_id = p_workspace_id
      and g.job_type = p_job_type
      and g.key = p_key
      and not g.admitted
      and g.lane = any (v_open)
      and not exists ( -- one note is enough
        select from queue.notes as n
        where n.workspace_id = p_workspace_id
          and n.lane = any (v_open)
          and n.key = p_key
          and n.look_at between p_now and v_look_at
      )
    limit 1;
  end if;
end;
$$;

-- Apply the changed limits per concurrency key of a job type to the type's jobs, which move to
-- queue.gated or leave it. The old limits still apply to jobs that another transaction has locked
-- or has not committed.
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
  perform queue.leave_places(v_jobs);
  -- delete the rows of jobs that ended while the type had no limit, because no settlement marked
  -- these rows as ended
  delete from queue.gated as g
  where g.lane = any (v_lanes)
    and g.admitted
    and not g.ended
    and not exists (
      select from public.jobs as j
      where j.id = g.job_id and j.finished_at is null
    );
  -- Running jobs count against the limit of their key. This update waits for jobs that another
  -- transaction is settling.
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
  -- the job is already admitted
  on conflict do nothing;
  perform queue.note_gates(v_lanes);
  perform queue.place(j, queue.clock(), v_type)
  from public.jobs as j
  where j.id = any (v_jobs) and j.status = 'pending';
end;
$$;

drop function queue.check_live_jobs(uuid,boolean);

-- Reject an enqueue if the workspace would have more live jobs than its limit. A limit of up to
-- 2,000 is exact, because only one call at a time counts the jobs, and concurrent enqueues are
-- rejected. A higher limit is compared with a count that may be ten seconds old.
-- p_count: Number of jobs that the call is about to add.
create or replace function queue.check_live_jobs(
  p_workspace_id uuid,
  p_count double precision default 1
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
  elsif queue.caller() is not null
    -- the transaction has not taken this lock yet
    and current_setting('minutehand.quota', true) is distinct from p_workspace_id::text
  then
    if queue.reserve_locks(1, 190) = 0 then
      perform queue.refuse(
        429,
        'rate_limited',
        'the call enqueues jobs of too many workspaces with a small limit; call for fewer of them'
      );
    end if;
    perform queue.take_place('quota ' || p_workspace_id, 1);
    perform set_config('minutehand.quota', p_workspace_id::text, true);
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
    if v_max > 2000
      and queue.reserve_locks(1, 190) > 0
      and queue.try_lock('bucket ' || v_bucket)
    then
      insert into queue.buckets as b (name, tokens, refilled_at)
      values (v_bucket, v_live, v_now)
      on conflict (name) do update set tokens = v_live, refilled_at = v_now;
    end if;
  end if;
  if v_live + p_count > v_max then
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

-- Reject an enqueue if the payloads of the workspace's live jobs have more bytes than allowed. One
-- call in ten seconds counts the bytes. Enqueues do not update a stored sum, because they would
-- wait for each other to update its row.
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
  if v_bytes is null
    and queue.reserve_locks(1, 190) > 0
    and queue.try_lock('bucket ' || v_bucket)
  then
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

-- Return the pair of sequences that stores a person's token bucket, and the time when the bucket is
-- full again. A hash of the bucket's name selects four pairs. If none of them stores the bucket,
-- take over a pair whose bucket is full. If no pair is free, return null. Read the time of a pair
-- before the name of its bucket, because another bucket may take over the pair between the two
-- reads.
create or replace function queue.find_pair(
  p_hash bigint,
  p_micros bigint,
  out nth bigint,
  out full_at bigint
)
language plpgsql
set search_path = ''
as $$
declare
  v_unused bigint;
begin
  for v_step in 0 .. 3 loop
    nth := (p_hash / 2 + v_step) % 16;
    full_at := coalesce(pg_sequence_last_value('queue.refilled_' || nth), 1);
    if pg_sequence_last_value('queue.priced_' || nth) = p_hash then
      return;
    elsif full_at < p_micros then
      v_unused := coalesce(v_unused, nth);
    end if;
  end loop;
  nth := null;
  full_at := null;
  if queue.try_lock('priced ' || v_unused)
    and coalesce(pg_sequence_last_value('queue.refilled_' || v_unused), 1) < p_micros
  then
    nth := v_unused;
    perform setval('queue.priced_' || nth, p_hash);
  end if;
end;
$$;

-- Charge a person before a call does its work, or reject the call with status 429. Concurrent calls
-- of the person do not wait for each other, because each call updates the sequence, and only one of
-- them updates the row of the bucket.
-- p_cost: Number of tokens to take. A negative number refunds tokens that an earlier call charged.
create or replace function queue.charge(
  p_bucket text,
  p_most integer,
  p_seconds double precision,
  p_cost double precision,
  p_limit text
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_micros constant bigint := date_part('epoch', v_now) * 1e6;
  v_per_token constant double precision := p_seconds * 1e6 / nullif(p_most, 0);
  v_hash constant bigint := (hashtextextended(p_bucket, 0) & 9223372036854775807) | 1;
  v_pair constant record := queue.find_pair(v_hash, v_micros);
  v_left double precision := queue.tokens_of(p_bucket, p_most, p_seconds, v_now);
  v_before bigint;
  v_full_at bigint;
begin
  if v_pair.full_at > v_micros then
    v_left := least(v_left, p_most - (v_pair.full_at - v_micros) / v_per_token);
  end if;
  v_left := least(p_most, v_left - p_cost);
  if v_left < 0 and p_cost > 0 then
    perform queue.refuse_rate(p_limit, p_most, p_seconds, v_left);
  end if;
  v_before := coalesce(pg_sequence_last_value('queue.refilled_' || v_pair.nth), 1);
  v_full_at := floor(v_micros + (p_most - v_left) * v_per_token);
  perform setval('queue.refilled_' || v_pair.nth, v_full_at);
  -- another bucket has taken over the pair of sequences since, and must not pay for this call
  perform setval('queue.refilled_' || v_pair.nth, v_before)
  where pg_sequence_last_value('queue.priced_' || v_pair.nth) <> v_hash
    and pg_sequence_last_value('queue.refilled_' || v_pair.nth) = v_full_at;
  if queue.try_lock('bucket ' || p_bucket) then
    insert into queue.buckets as b (name, tokens, refilled_at)
    values (p_bucket, v_left, v_now)
    on conflict (name) do update set
      tokens = excluded.tokens,
      refilled_at = excluded.refilled_at;
  end if;
end;
$$;

-- Limit how long a request of the Data API waits for a lock, because all callers share few
-- connections. The limit applies until the transaction ends. It must not apply to the project's own
-- code, so a request that calls another function or table is not limited. A function of the engine
-- or of an app is recognized by a call of a function of the engine's schema in its body, or in the
-- body of the function to which it passes its arguments.
-- p_ms: Maximum wait in milliseconds.
create or replace function queue.limit_wait(p_ms integer)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_path constant text[] := string_to_array(current_setting('request.path', true), '/');
  v_call constant text := format('\m%s[.]\w+\(', 'queue'::regnamespace);
begin
  if current_setting('lock_timeout')::interval between '1 ms' and p_ms * interval '1 ms' then
    return;
  elsif v_path[2] = 'rpc' then
    perform from pg_catalog.pg_proc as p
    where p.pronamespace = 'public'::regnamespace
      and p.proname = v_path[3]
      and (
        p.prosrc ~ v_call
        or exists (
          select from pg_catalog.pg_depend as d
          join pg_catalog.pg_proc as c on c.oid = d.refobjid
          where d.classid = 'pg_catalog.pg_proc'::regclass
            and d.objid = p.oid
            and d.refclassid = 'pg_catalog.pg_proc'::regclass
            and c.pronamespace <> p.pronamespace
            and (c.pronamespace = 'queue'::regnamespace or c.prosrc ~ v_call)
        )
      );
  else
    perform from pg_catalog.pg_trigger as t
    join pg_catalog.pg_class as c on c.oid = t.tgrelid
    where t.tgname = 'admit_statement'
      and c.relnamespace = 'public'::regnamespace
      and c.relname = v_path[2];
  end if;
  perform set_config('lock_timeout', p_ms::text, true) where found;
end;
$$;

-- Charge a person's call, or reject the call with status 429. Each function that people may call
-- runs queue.admit first, and a trigger runs it for each statement on a table. The person pays
-- p_count tokens, and one more token for each 16 kB that the call stores. A call of the kind
-- 'changes', or one that enqueues more than 100 jobs, also takes a call slot. A call of the kind
-- 'changes' waits at most 100 ms for a lock (queue.limit_wait).
-- p_kind: One of jobs, streams, rows and changes. The kind 'rows' is for rows that a function has
--   written. The kind 'changes' is for all other writes. A person runs one of them at a time, and a
--   second one waits up to 200 ms.
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
  v_burst integer;
begin
  if p_user_id is null then
    return;
  elsif p_kind = 'changes' or p_kind = 'jobs' and p_count > 100 then
    perform queue.take_call_slot(p_workspace_id, p_writes => true);
  end if;
  -- an enqueue can only wait for the idempotency key or unique key of its job (queue.hold_key)
  if p_kind = 'changes' then
    -- A person's second change waits for the first one. If it waited for a row, it would fail with
    -- 55P03, which the Data API returns with status 500.
    perform queue.take_place('change of ' || p_user_id, 1, 200);
    perform queue.limit_wait(100);
  end if;
  if p_kind = 'jobs' then
    perform queue.check_live_jobs(p_workspace_id, p_count);
    -- smaller payloads are limited by the number of live jobs
    if p_bytes > 2048 * p_count then
      perform queue.check_live_bytes(p_workspace_id);
    end if;
  end if;
  v_burst := queue.setting('user_' || v_limit || '_burst');
  perform queue.charge(
    format('u:%s/%s', p_user_id, v_limit),
    v_burst,
    v_burst / queue.setting('user_' || v_limit || '_per_second')::double precision,
    p_count + coalesce(p_bytes, 0) / 16384,
    v_limit
  );
end;
$$;

-- Charge a person's insert, update or delete before it locks or writes a row. The number of rows is
-- not known yet, so the person pays for 100 rows, or for fewer if the person's limit is low.
-- queue.charge_written refunds the difference after the statement. An insert with `on conflict do
-- update` fires this trigger twice.
create or replace function queue.admit_statement()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_user constant uuid := queue.caller();
  v_burst constant integer := queue.setting('user_enqueues_burst');
  v_price constant integer := least(100, greatest(1, v_burst / 4));
begin
  if v_user is not null and current_setting('minutehand.reserved', true) <> '' is not true then
    perform queue.admit('changes', null, v_user, v_price);
    perform set_config('minutehand.reserved', v_price::text, true);
  end if;
  return null;
end;
$$;

create trigger admit_statement
  before insert or update on public.jobs
  for each statement
  when (current_user = 'authenticated')
  execute function queue.admit_statement();

-- Return the number of tokens that queue.admit_statement charged before the statement, and forget
-- it.
create or replace function queue.take_reserved()
returns double precision
language plpgsql
set search_path = ''
as $$
declare
  v_price constant text := nullif(current_setting('minutehand.reserved', true), '');
begin
  perform set_config('minutehand.reserved', '', true) where v_price is not null;
  return coalesce(v_price, '0');
end;
$$;

-- Charge a person for the rows that a statement has written, less the tokens that
-- queue.admit_statement charged. Each row costs one token, and more for its bytes.
create or replace function queue.charge_written()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
  if queue.caller() is not null then
    perform queue.admit(
      'rows',
      null,
      queue.caller(),
      count(*) - queue.take_reserved(),
      sum(octet_length(to_jsonb(w)::text))
    )
    from written as w;
  end if;
  return null;
end;
$$;

-- Charge people for their statements on these tables, and for the rows that they write to the
-- tables through functions. If a project has replaced one of the tables by a view, writes to the
-- view are not charged.
create or replace function queue.charge_rows(variadic p_tables regclass[])
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_table regclass;
  v_event text;
  v_rows text;
begin
  for v_table, v_event, v_rows in
    select c.oid, e.name, e.rows
    from pg_catalog.pg_class as c
    cross join (
      values
        ('insert', 'new'),
        ('update', 'new'),
        ('delete', 'old')
    ) as e (name, rows)
    where c.oid = any (p_tables) and c.relkind = 'r'
  loop
    execute format(
      'create or replace trigger admit_statement before insert or update or delete on %s '
        'for each statement when (current_user = ''authenticated'') '
        'execute function queue.admit_statement()',
      v_table
    );
    execute format(
      'create or replace trigger %I after %s on %s referencing %s table as written '
        'for each statement execute function queue.charge_written()',
      'charge_' || v_event,
      v_event,
      v_table,
      v_rows
    );
  end loop;
end;
$$;

drop function queue.take_place(uuid[]);

-- Take one of p_most slots until the transaction ends, or reject the call with status 429.
-- p_id: Id that the sharers of the slots have in common. If it is null, take no slot.
-- p_most: Number of slots.
-- p_ms: Maximum time to wait for a slot, in milliseconds. A call that waits occupies a connection,
--   so the caller must first take another slot without waiting.
create or replace function queue.take_place(p_id text, p_most integer, p_ms integer default 0)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_until constant timestamptz := clock_timestamp() + p_ms * interval '1 ms';
begin
  while p_id is not null
    and not exists (
      select from generate_series(1, p_most) as n
      where queue.try_lock(format('call %s %s', p_id, n))
    )
  loop
    if clock_timestamp() >= v_until then
      perform queue.refuse(
        429,
        'rate_limited',
        'too many calls of yours or of the workspace run now; call again when one ends',
        '{"limit": "calls_at_once", "retry_after_seconds": 1}'
      );
    end if;
    perform pg_sleep(0.005);
  end loop;
end;
$$;

drop function queue.take_call_slot(uuid);

-- Take a call slot for a call that changes or reads many rows. A person has two slots for changes
-- and two for reads. A workspace has ten slots for its members, and ten for its guests.
create or replace function queue.take_call_slot(
  p_workspace_id uuid default null,
  p_writes boolean default false
)
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
  if not queue.is_service() then
    perform queue.take_place(case when p_writes then 'changes ' else '' end || queue.caller(), 2);
    perform queue.take_place(v_guests || p_workspace_id, 10);
  end if;
end;
$$;

-- Admit a plain read of the Data API, or reject it with status 429. A person may run six plain
-- reads at a time, because a browser sends up to six requests to one host. Policies run this
-- function once per query. Realtime reads the policies without a request, and is not limited.
create or replace function queue.admit_plain_read()
returns void
language plpgsql
set search_path = ''
as $$
begin
  perform queue.take_place('reads ' || queue.caller(false), 6)
  where current_setting('request.method', true) in ('GET', 'HEAD')
    and current_setting('request.path', true) !~ '^/rpc/';
end;
$$;

-- Lock an idempotency key or unique key before a job gets the key. If another transaction is taking
-- the same key, wait up to two seconds, because the response must contain the job that gets the
-- key. Only one call of a person may wait, and further calls are rejected. A transaction takes at
-- most 100 of these locks, because the server has few.
create or replace function queue.hold_key(p_workspace_id uuid, p_job_type text, p_key text)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_user constant uuid := queue.caller();
  v_until constant timestamptz := clock_timestamp() + interval '2 seconds';
begin
  if v_user is null or queue.reserve_locks(1, 100) = 0 then
    return;
  end if;
  while not queue.try_lock(format('key %s/%s/%s', p_workspace_id, p_job_type, p_key)) loop
    if clock_timestamp() > v_until or not queue.try_lock('waits ' || v_user) then
      perform queue.refuse(
        429,
        'job_busy',
        'other calls of yours use a job with this key; call again',
        '{"retry_after_seconds": 1}'
      );
    end if;
    perform pg_sleep(0.005);
  end loop;
  -- limit the wait, because a transaction of the service may be taking the same key without this
  -- lock
  perform queue.limit_wait(2000);
end;
$$;

-- For apps. Let only one call at a time use the object with this id, and reject other calls,
-- because they would wait for rows of the object.
create or replace function queue.hold_id(p_id text)
returns void
language plpgsql
set search_path = ''
as $$
begin
  if queue.is_service() then
    return;
  elsif not queue.try_lock('object ' || p_id) then
    perform queue.refuse(
      429,
      'job_busy',
      'another call uses the same id; call again',
      '{"retry_after_seconds": 1}'
    );
  end if;
  perform queue.limit_wait(100);
end;
$$;

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
  'Charge the caller''s rate limit for opening a stream: {opened}, or 429 rate_limited.';

select queue.allow('authenticated, service_role', 'public.open_stream');

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
      'a manager may set only own_max_running',
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
  E'Change limits of a workspace: {weight, max_running, own_max_running, max_pending}.\n\n'
  'Null removes a limit. Managers may set own_max_running only.';

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
  'Return the limits of a workspace, and the number of its running jobs.';

select queue.allow('authenticated, service_role', 'public.workspace_limits');

-- Change settings. Each setting must already have a row in queue.settings, which a migration
-- inserts, and the new value must have the JSON type of the stored value.
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
    when s.key = 'disk_bytes' and s.value = 'null' then false
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
  'Change settings of the engine by name, and return all settings. For operators.';

select queue.allow('service_role', 'public.set_settings');

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
      -- revoke from one minute earlier, because workers set the issue time (iat) of their keys half
      -- a minute back
      'before', floor(extract(epoch from p_before)) - 60,
      'from', floor(extract(epoch from v_now)) + coalesce(p_grace_seconds, 0)
    )),
    v_now
  )
  -- keep the earlier revocations, so that the keys that they revoked stay revoked during the grace
  -- period of the new revocation
  on conflict (name) do update set
    value = s.value || excluded.value,
    updated_at = v_now;
  update queue.settings
  set
    -- someone who stole the worker key may also know the key of guests
    updated_at = v_now,
    value = to_jsonb(encode(
      uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()),
      'hex'
    ))
  where name = 'guest_key';
  -- Someone with a stolen key may have registered any job type, so types without jobs are deleted.
  -- Workers register their types again.
  update queue.job_types
  set
    schema_version = least(schema_version, 1),
    registered_at = '-infinity',
    deployed_at = null
  -- the Data API of Supabase rejects an update without a condition (safeupdate)
  where true;
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
  -- delete the lane after one hour, because open transactions may still insert jobs into it
  set unused_since = v_now - interval '23 hours'
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
  E'Revoke worker keys that were issued a minute or more before p_before: {revoked_before, from, '
  'types}.\n\n'
  'The revocation takes effect after p_grace_seconds. For operators.';

select queue.allow('service_role', 'public.revoke_worker_keys');

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
  v_asked.job_ids := null;
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
      'worker_id and tick_id are required; limit, or the sum over all pools, must be 0 to 1000, '
        'and lease_seconds 1 to 43200',
      'p_request'
    );
  elsif current_setting('transaction_isolation') <> 'read committed' then
    perform queue.refuse(
      400,
      'invalid_argument',
      'a lease requires the isolation level read committed'
    );
  end if;
  return v_asked;
end;
$$;

-- End worker runs whose leases have all expired, because their process has probably ended. The run
-- of a process that still lives then no longer counts against the maximum number of runs.
create or replace function queue.end_dead_runs(p_now timestamptz)
returns void
language sql
set search_path = ''
as $$
update queue.ticks as t
set expires_at = null
where t.expires_at > p_now
  and t.tick_id = any (array(
    select l.tick_id
    from queue.leases as l
    group by l.tick_id
    having max(l.expires_at) <= p_now
  ))
$$;

-- Admit a worker run, unless the maximum number of worker runs is active. Return how many more runs
-- may start, or null if this run is rejected. A run is active until it ends, and at most for its
-- maximum duration. The run of a killed process is active until its leases have expired.
create or replace function queue.admit_run(p_request queue.lease_request, p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_free integer;
begin
  perform queue.try_lock('admission', p_waits => true); -- admit one run at a time
  for v_try in 1 .. 2 loop
    v_free := p_request.most
      - 1
      - (
        select count(*)
        from queue.ticks as t
        where t.expires_at > p_now and t.tick_id <> p_request.tick_id
      );
    exit when v_free >= 0;
    perform queue.end_dead_runs(p_now);
    -- Mark all active worker runs, so that each of them requests jobs once more before it ends.
    -- This update waits for the transaction of a run that is ending now. The count below then does
    -- not include this run.
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

-- Return the number of a worker in queue.workers. Once a minute, and when the worker serves other
-- job types or queues than before, update its row and the column served_at of its lanes. When a
-- lane gets its first worker or loses its last worker, insert notes for the gates of the lane. The
-- advisory lock "turns" is needed for this, because queue.lease_ready opens gates under this lock.
-- p_known: The worker's row before the update.
-- has_noted: True if this call inserted notes for gates.
create or replace function queue.record_worker(
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
    -- this request omits types for which the worker has no free slot, but the worker still serves
    -- these types
    p_request.job_types := p_known.job_types;
  end if;
  p_request.slots := coalesce(p_request.slots, p_known.slots);
  p_request.abandoned := coalesce(p_request.abandoned, p_known.abandoned);
  v_changed := (
    p_known.job_types, p_known.queues, p_known.version, p_known.slots, p_known.abandoned
  ) is distinct from (
    p_request.job_types,
    p_request.queues,
    p_request.version,
    p_request.slots,
    p_request.abandoned
  );
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
    worker_id, started_at, seen_at, version, job_types, queues, slots, abandoned
  )
  values (
    p_request.worker_id,
    p_now,
    -- If the advisory lock was not free, set seen_at back by 59 seconds, so that the next call
    -- after one second tries again.
    p_now - interval '59 seconds' * (not v_is_alone)::integer,
    p_request.version,
    p_request.job_types,
    p_request.queues,
    p_request.slots,
    p_request.abandoned
  )
  on conflict (worker_id) do update set
    seen_at = excluded.seen_at,
    ended_at = null,
    version = excluded.version,
    job_types = excluded.job_types,
    queues = excluded.queues,
    slots = excluded.slots,
    abandoned = excluded.abandoned,
    started_at = case
      when w.ended_at is null and w.seen_at > p_now - interval '3 minutes'
        then w.started_at
      else p_now
    end
  returning w.worker into record_worker.worker;
  has_noted := v_is_alone and v_gates is not null;
end;
$$;

-- Open the gates that rows of queue.notes name, the oldest first, so that waiting jobs of these
-- concurrency keys become ready. Delete notes of job types that are paused or that no worker
-- serves. When a worker serves the type again, or the type is resumed, its gates get new notes. If
-- there are very many notes, also open the gate of the oldest note of some tenants, so that no
-- tenant waits behind the keys of others. These tenants are the first by id, and the first after a
-- random id. In this case, also delete old notes of keys that have no jobs.
-- p_most: Maximum number of gates to open.
create or replace function queue.open_gates(p_most integer, p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_open constant text[] := array(
    select l.job_type
    from queue.open_lanes(null) as o
    join queue.lanes as l on l.lane = any (o.lanes)
    where l.served_at is not null
  );
  v_notes queue.notes[];
  v_locks integer;
  v_gate record;
begin
  for v_try in 1 .. 5 loop
    v_notes := array(
      select n
      from queue.notes as n
      where n.key is not null and n.look_at <= p_now
      order by n.look_at, n.id
      limit 4 * p_most
    );
    delete from queue.notes
    where id = any (array(
      select n.id
      from unnest(v_notes) as n
      join queue.lanes as l on l.lane = n.lane
      where l.job_type <> all (v_open)
    ));
    exit when not found;
  end loop;
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
  v_locks := queue.reserve_locks(least(p_most, cardinality(v_notes)), 120);
  for v_gate in
    with noted as materialized (
      select l.job_type, n.workspace_id, n.key
      from unnest(v_notes) with ordinality as n
      join queue.lanes as l on l.lane = n.lane
      group by 1, 2, 3
      order by min(n.ordinality)
      limit v_locks
    ),
    -- delete the notes before the gates count jobs, so that the note of a job that is added later
    -- remains
    gone as (
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
      p_now,
      p_is_reserved => true
    );
  end loop;
end;
$$;

drop function queue.open_turns(integer,timestamp with time zone);

-- Open the tenants' turns that rows of queue.notes name. A turn gets the rank of its tenant in
-- other lanes. The rank of a new tenant is one less than the lowest last_rank of the rings of its
-- lanes, so that the tenant comes near the end of the round. Also unblock turns at a limit when
-- their time in look_at has come. If another transaction is changing a turn, keep the turn's note
-- for the next lease.
-- p_most: Maximum number of turns to open because of notes.
-- p_done: Turns with notes that the caller has locked, and whose jobs it has leased. If such a turn
--   has no other ready job, only its notes are deleted.
create or replace function queue.open_turns(
  p_most integer,
  p_now timestamptz,
  p_done queue.share[] default null
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_ignored text;
begin
  -- Advance to the oldest note, or to the oldest running transaction, which may still insert notes.
  -- An earlier lease of this transaction may have deleted notes, which a rollback would restore.
  if (current_setting('minutehand.noted', true) = 'yes') is not true then
    v_ignored := setval('queue.notes_gone', least(n.oldest, n.running)::text::bigint)
    from (
      select min(o.xid) as oldest, pg_snapshot_xmin(pg_current_snapshot()) as running
      from queue.turn_notes as o
    ) as n;
    v_ignored := set_config('minutehand.noted', 'yes', true);
  end if;
  with noted as materialized (
    select n.lane, n.workspace_id
    from (
      select *
      from queue.turn_notes
      order by xid, id
      limit 10 * p_most
    ) as n
    where not exists (
        select from queue.turns as t
        where t.workspace_id = n.workspace_id and t.lane = n.lane
      )
      or exists (
        select from (
          select from queue.turns as t
          where t.workspace_id = n.workspace_id and t.lane = n.lane
          for update skip locked
        ) as free
      )
    group by 1, 2
    order by min(n.id)
    limit p_most
  ),
  gone as (
    delete from queue.turn_notes as n
    using noted as o
    where n.workspace_id = o.workspace_id and n.lane = o.lane
    returning n.id, n.lane, n.workspace_id, n.ord
  ),
  opened as (
    select *
    from (
      select g.lane, g.workspace_id, min(g.ord) as ord, min(g.id) as id
      from gone as g
      group by 1, 2
    ) as o
    where (o.lane, o.workspace_id) not in (select d.lane, d.workspace_id from unnest(p_done) as d)
      or exists (
        select from queue.ready as r
        where r.lane = o.lane and r.workspace_id = o.workspace_id and r.ord >= o.ord
      )
    order by o.id
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
    -- the only ready jobs of a closed turn are the jobs of its notes
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

-- Return the ready jobs of the first p_most noted turns, if they all fit into the free slots. The
-- order of the tenants then does not matter, so a lease takes these jobs without opening the turns.
-- Return null if an open turn of the worker's lanes has a ready job. Also return null if at most
-- four turns would be open, because queue.fill_pool keeps these open. Turns with limits, weights or
-- pauses must be opened.
-- p_most: Maximum number of turns.
create or replace function queue.noted_shares(p_request queue.lease_request, p_most integer)
returns queue.share[]
language plpgsql
set search_path = ''
as $$
declare
  v_asked constant record := queue.open_lanes(p_request.job_types, p_request.queues);
  v_open record;
begin
  select
    count(*) as turns,
    bool_or(
      exists (
        select from queue.ready as r
        where r.lane = t.lane and r.workspace_id = t.workspace_id and r.ord >= t.from_ord
      )
    ) as has_jobs
  into v_open
  from (
    select *
    from queue.turns
    where lane = any (v_asked.lanes) and not blocked
    limit 20
  ) as t;
  if v_open.has_jobs or v_open.turns = 20 then
    return null;
  end if;
  return (
    select array_agg(row(n.lane, n.workspace_id, n.ord, o.jobs)::queue.share order by n.ord)
    from (
      select n.lane, n.workspace_id, min(n.ord) as ord
      from (
        select *
        from queue.turn_notes
        order by xid, id
        limit 10 * p_most
      ) as n
      group by 1, 2
      order by min(n.id)
      limit p_most
    ) as n
    join queue.lanes as l on l.lane = n.lane
    cross join lateral (
      select count(*) as jobs
      from (
        select from queue.ready as r
        where r.lane = n.lane and r.workspace_id = n.workspace_id and r.ord >= n.ord
        limit p_request."limit" + 1
      ) as r
    ) as o
    where n.lane = any (v_asked.lanes)
      and l.job_type <> all (v_asked.limited)
      and n.workspace_id not in (select w.workspace_id from queue.limited_tenants as w)
      and not exists (
        select from queue.turns as t
        where t.workspace_id = n.workspace_id
          and t.lane = n.lane
          and not (t.blocked and t.look_at is null)
      )
    having sum(o.jobs) <= p_request."limit" and count(*) + v_open.turns > 4
  );
end;
$$;

-- Lock the job types with a limit that have turns in these lanes, and count their running jobs. A
-- limited type whose first turn opens later is not in the result, because its running jobs were not
-- counted. The next lease serves this type.
-- open: Lanes of types without a limit, and of types that this call has locked and that are below
--   their limit.
-- is_busy: True if another lease has locked one of the types, or if the transaction can take no
--   more locks.
-- is_limited: True if a limited type has a turn in these lanes.
-- at_limit: Types that have reached their limit, so that none of their jobs may start now.
create or replace function queue.lock_types(
  p_lanes integer[],
  p_limited text[],
  p_now timestamptz,
  out open integer[],
  out is_busy boolean,
  out is_limited boolean,
  out at_limit text[]
)
language plpgsql
set search_path = ''
as $$
declare
  v_types text[];
  v_locked text[];
  v_tried text[];
  v_busy text[];
begin
  open := p_lanes;
  is_busy := false;
  is_limited := false;
  at_limit := '{}';
  if p_limited = '{}' then
    return;
  end if;
  v_types := array(
    select n
    from unnest(p_limited) as n
    where exists (
      select from queue.lanes as l
      join queue.turns as o on o.lane = l.lane and not o.blocked
      where l.job_type = n and l.lane = any (p_lanes)
    )
  );
  is_limited := v_types <> '{}';
  v_locked := array(
    select t.job_type
    from queue.job_types as t
    where t.job_type = any (v_types)
      and (t.max_concurrency is not null or t.rate_limit is not null and not t.rate_per_key)
  );
  -- a type at its limit needs no lock
  at_limit := array(
    select n
    from unnest(v_locked) as n
    where queue.free_of_type(n, p_now) <= 0
  );
  -- choose random types, because a lease cannot lock all types if they are too many
  v_tried := array(
    select n
    from unnest(v_locked) as n
    where n <> all (at_limit)
    order by random()
    limit queue.reserve_locks(cardinality(v_locked) - cardinality(at_limit), 145)
  );
  v_busy := array(
    select n
    from unnest(v_locked) as n
    where n <> all (v_tried || at_limit)
    union all
    select n
    from ( -- sort in the subquery, so that one of two concurrent leases gets all locks
      select t as n
      from unnest(v_tried) as t
      order by 1
    ) as o
    where not queue.try_lock('type ' || n)
  );
  at_limit := at_limit || array(
    select n
    from unnest(v_tried) as n
    where n <> all (v_busy) and queue.free_of_type(n, p_now) <= 0
  );
  open := array(
    select l.lane
    from queue.lanes as l
    where l.lane = any (p_lanes)
      and (
        l.job_type <> all (p_limited)
        or l.job_type = any (v_types) and l.job_type <> all (v_busy || at_limit)
      )
  );
  is_busy := v_busy <> '{}';
end;
$$;

-- Return the open turns of all lanes in the order of (rank, workspace_id, lane). The first turn is
-- the turn after the last tenant served, and after the highest rank comes the lowest rank. In the
-- query, lane_bound is 0 if the last tenant has not yet got as many jobs as its weight, so that
-- this tenant comes first. Otherwise it is the greatest integer, so that this tenant comes last.
-- p_rows: Maximum number of turns.
-- is_cut: True in the row number p_rows, because more turns may follow.
create or replace function queue.ring_turns(p_ring integer, p_rows integer)
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
    select r.*, case when r.last_taken = 0 then 2147483647 else 0 end as lane_bound
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
          > (p.last_rank, p.last_workspace_id, p.lane_bound)
        order by o.rank, o.workspace_id, o.lane
        limit p_rows
      )
      union all
      (
        select o.*, p.round + 1
        from queue.turns as o
        where not o.blocked
          and (o.rank, o.workspace_id, o.lane)
          <= (p.last_rank, p.last_workspace_id, p.lane_bound)
        order by o.rank, o.workspace_id, o.lane
        limit p_rows
      )
    ) as t
    limit p_rows
  ) as u;
end;
$$;

-- Return up to p_rows open turns of each of these lanes. For each lane, the order begins after the
-- last tenant that the ring of the lane stores. queue.ring_turns is a separate function, because
-- one query for both would not read the indexes in order. A lane that was idle is at most one round
-- behind the other lanes. Otherwise leases would serve only this lane until it had caught up.
create or replace function queue.lane_turns(p_lanes integer[], p_rows integer)
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
      case when r.last_taken = 0 then 2147483647 else 0 end as lane_bound
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
          > (p.last_rank, p.last_workspace_id, p.lane_bound)
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
          <= (p.last_rank, p.last_workspace_id, p.lane_bound)
        order by o.rank, o.workspace_id
        limit p_rows
      )
    ) as t
    limit p_rows
  ) as u;
end;
$$;

-- Return the turns of the next tenants in these lanes. If the lanes share one ring,
-- queue.ring_turns reads the turns of all lanes of the ring, up to a maximum number of turns. If
-- these turns have too few tenants in the requested lanes, or if the lanes have several rings,
-- queue.lane_turns reads the turns of each lane. If a read reached its maximum, the tenant of the
-- last turn and all later tenants are dropped, because some of their turns may be missing.
-- p_most: Maximum number of tenants to return.
-- known: Number of tenants returned.
-- is_all: True if no further tenant has a turn.
-- is_limited: True if one of the tenants has a limit or a weight, or is paused.
-- is_empty: True if only one turn is open in all lanes, and this turn has no ready job.
create or replace function queue.next_turns(
  p_lanes integer[],
  p_most integer,
  out turns queue.turn[],
  out known integer,
  out is_all boolean,
  out is_limited boolean,
  out is_empty boolean
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
    ),
    bool_and(
      not exists (
        select from queue.ready as r
        where r.lane = o.lane and r.workspace_id = o.workspace_id and r.ord >= o.from_ord
      )
    )
  into turns, is_limited, is_empty
  from (select * from queue.turns where not blocked limit 2) as o;
  if turns[2] is null then -- at most one turn is open, for example if one tenant has all jobs
    is_all := true;
    known := 1;
    if turns[1].lane <> all (p_lanes) then
      turns := '{}';
    end if;
    return;
  end if;
  is_empty := false;
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
      from queue.ring_turns(v_rings[1], 2 * p_most + 20 + cardinality(p_lanes)) as a
      where v_is_along
      union all
      select e.*
      from queue.lane_turns(
        p_lanes,
        least(p_most, 2 + 20 * p_most / greatest(1, cardinality(p_lanes)))
      ) as e
      where not v_is_along
    ),
    cut as materialized ( -- from this tenant on, some turns may not have been read
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

drop function queue.limit_turns(queue.turn[],timestamp with time zone);

-- Take an advisory lock for each limit of the tenants, and count how many more jobs of each turn
-- may start. Block turns that are at a limit or paused.
-- known: Number of tenants in the result, if the transaction could not take the locks of all
--   tenants. Null if all tenants are in the result.
-- is_busy: True if another lease has one of the locks, or if a pause is ending now. In this case,
--   no turn is blocked.
create or replace function queue.limit_turns(
  p_turns queue.turn[],
  p_now timestamptz,
  out turns queue.turn[],
  out known integer,
  out is_busy boolean
)
language plpgsql
set search_path = ''
as $$
declare
  -- names of the advisory locks, and for each lock the position of its tenant among p_turns
  v_scopes text[];
  v_tenants integer[];
  v_locks integer;
  v_busy text[];
begin
  select array_agg(o.name order by o.nth, o.name), array_agg(o.nth order by o.nth, o.name)
  into v_scopes, v_tenants
  from (
    select s.name, min(t.nth) as nth
    from (
      select u.*, dense_rank() over (order by u.round, u.rank, u.workspace_id) as nth
      from unnest(p_turns) as u
    ) as t
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
    group by s.name
  ) as o;
  v_locks := queue.reserve_locks(coalesce(cardinality(v_scopes), 0), 160);
  -- serve the first tenant even if the transaction cannot take all of this tenant's locks
  known := case when v_tenants[v_locks + 1] > 0 then greatest(1, v_tenants[v_locks + 1] - 1) end;
  if known is not null then
    p_turns := array(
      select t.turn
      from (
        select u as turn, dense_rank() over (order by u.round, u.rank, u.workspace_id) as nth
        from unnest(p_turns) as u
      ) as t
      where t.nth <= known
    );
  end if;
  v_busy := array(
    select o.name
    from ( -- sort the scopes, so that one of two concurrent leases gets all locks
      select s.name
      from unnest(v_scopes, v_tenants) as s (name, nth)
      where coalesce(s.nth <= known, true)
      order by 1
    ) as o
    where not queue.try_lock(o.name)
  );
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
            -- join by lane, because the index of queue.leases begins with the lane
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

-- Ready jobs that an ordinary lease skips. These are suspects, which must not run in one process
-- with other jobs, and jobs whose start a trigger of the project has rejected, until their retry
-- time.
create or replace view queue.withheld as
select r.job_id, false as is_suspect
from queue.refusals as r
where r.task = 'lease' and r.retry_at > queue.clock()
union all
select s.job_id, true
from queue.suspects as s;

drop function queue.divide_slots(queue.turn[],integer,integer);

-- Divide the free slots of a worker among tenants in rounds. In each round, every tenant in turn
-- gets as many of its first ready jobs as its weight. Only the first round determines the last
-- tenant served. A job that exceeds a limit is skipped, and does not count against the weight.
-- p_depth: Number of jobs to read per turn, at least the tenant's weight. Null to divide the slots
--   for one round only, because there are more tenants than the lease has read.
-- p_most: Number of free slots.
-- is_cut: True if a turn may have more jobs than this function has read.
-- empty: Turns without a ready job.
-- lasts: Last tenants served, which queue.advance_ring stores.
create or replace function queue.divide_slots(
  p_turns queue.turn[],
  p_depth integer,
  p_most integer,
  p_now timestamptz,
  out shares queue.share[],
  out empty queue.share[],
  out lasts queue.last_served[],
  out is_cut boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_turns queue.turn[] := p_turns; -- a variable gives fast access to single array elements
  v_tenants queue.tenant_jobs[];
  v_tenant queue.tenant_jobs;
  v_next integer[]; -- index of the next job of each tenant
  v_given integer[]; -- number of jobs that each tenant gets
  v_of_turn integer[] := '{}'; -- number of jobs that each turn gets
  -- job types with a limit, and the number of jobs that each type gets
  v_types text[] := '{}';
  v_of_type integer[] := '{}';
  v_round integer := 0;
  v_slots integer := 0;
  v_had integer; -- number of jobs that the tenant has got in this round
  v_turn integer;
  v_type integer;
  v_last queue.last_served;
  v_has_more boolean;
begin
  with heads as materialized (
    select
      t.*,
      r.ord,
      r.nth_of_turn = t.depth as is_cut,
      row_number() over (
        partition by t.workspace_id, t.job_type
        order by r.ord
      ) as nth_of_type
    from (
      select u.*, greatest(p_depth, u.weight) as depth -- the weight if p_depth is null
      from unnest(p_turns) with ordinality as u
    ) as t
    left join lateral (
      select o.ord, row_number() over (order by o.ord) as nth_of_turn
      from queue.ready as o
      where o.lane = t.lane
        and o.workspace_id = t.workspace_id
        and o.ord >= t.from_ord
        -- the lease skips withheld jobs, so they must get no slot
        and o.job_id not in (select w.job_id from queue.withheld as w)
      order by o.ord
      -- least() ignores nulls, so that a limit of null does not apply
      limit least(t.depth, t.type_free, t.own_free, t.tenant_free)
    ) as r on true
    where not t.is_paused
      and coalesce(least(t.type_free, t.own_free, t.tenant_free), 1) > 0
  ),
  tenants as (
    select
      array_agg(h.ordinality order by h.ord, h.lane) filter (
        where h.ord is not null and h.nth_of_type <= coalesce(h.own_free, p_most)
      ) as turns,
      h.weight,
      max(h.taken) as taken,
      h.tenant_free,
      min(h.round) filter (where h.ord is not null) as round,
      h.rank,
      h.workspace_id
    from heads as h
    group by h.weight, h.tenant_free, h.rank, h.workspace_id
  )
  select
    coalesce(array_agg(t::queue.tenant_jobs order by t.round, t.rank, t.workspace_id), '{}'),
    (
      select array_agg(row(h.lane, h.workspace_id, null, 0)::queue.share)
      from heads as h
      where h.ord is null
    ),
    (select coalesce(bool_or(h.is_cut), false) from heads as h)
  into v_tenants, empty, is_cut
  from tenants as t
  where t.turns is not null;
  v_next := array_fill(1, array[cardinality(v_tenants)]);
  v_given := array_fill(0, array[cardinality(v_tenants)]);
  <<rounds>>
  loop
    v_has_more := false;
    for v_nth in 1 .. cardinality(v_tenants) loop
      v_tenant := v_tenants[v_nth];
      v_had := case v_round when 0 then v_tenant.taken else 0 end;
      while v_had < v_tenant.weight and v_next[v_nth] <= cardinality(v_tenant.turns) loop
        exit rounds when v_slots = p_most;
        v_turn := v_tenant.turns[v_next[v_nth]];
        v_next[v_nth] := v_next[v_nth] + 1;
        v_type := null;
        if v_turns[v_turn].type_free is not null then
          v_type := coalesce(
            array_position(v_types, v_turns[v_turn].job_type),
            cardinality(v_types) + 1
          );
          v_types[v_type] := v_turns[v_turn].job_type;
          continue when v_of_type[v_type] = v_turns[v_turn].type_free;
          v_of_type[v_type] := coalesce(v_of_type[v_type], 0) + 1;
        end if;
        v_had := v_had + 1;
        v_slots := v_slots + 1;
        v_given[v_nth] := v_given[v_nth] + 1;
        if v_given[v_nth] = v_tenant.tenant_free then
          v_next[v_nth] := cardinality(v_tenant.turns) + 1;
        end if;
        v_of_turn[v_turn] := coalesce(v_of_turn[v_turn], 0) + 1;
        v_last := row(
          null, v_had % v_tenant.weight, v_tenant.round, v_tenant.rank, v_tenant.workspace_id
        );
        if v_type is not null and v_of_type[v_type] = v_turns[v_turn].type_free then
          v_last.job_type := v_types[v_type];
          lasts := lasts || v_last;
          v_last.job_type := null;
        end if;
      end loop;
      v_has_more := v_has_more or v_next[v_nth] <= cardinality(v_tenant.turns);
    end loop;
    exit when p_depth is null or not v_has_more;
    v_round := v_round + 1;
  end loop;
  if v_slots > 0 then
    lasts := lasts || v_last;
  end if;
  select
    array_agg(
      row(t.lane, t.workspace_id, t.from_ord, v_of_turn[t.ordinality])::queue.share
      order by t.from_ord -- by age, because job rows are stored in about this order
    )
  into shares
  from unnest(p_turns) with ordinality as t
  where v_of_turn[t.ordinality] > 0;
end;
$$;

-- Store the last tenant served for these lanes, except for lanes that another lease has already
-- advanced further. Afterwards the lanes share one ring. If no other lane uses their ring, the
-- lanes keep it. Otherwise they get an unused or new ring. The conditions are checked again after
-- the rows are locked.
create or replace function queue.advance_ring(p_lanes integer[], p_last queue.last_served)
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
  if v_ring is null then -- use a ring that no lane uses any more
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
      and not exists (
        select from queue.lanes as l
        where l.ring = o.ring and l.lane <> all (v_lanes)
      )
      and (
        (p_last.round, p_last.rank, p_last.workspace_id)
        >= (o.round, o.last_rank, o.last_workspace_id)
        or not exists (select from queue.lanes as l where l.ring = o.ring)
      )
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

-- Determine how many jobs a lease takes for each turn (a tenant with ready jobs in a lane), and
-- which turns have no ready job.
-- lanes: Lanes of the requested job types and queues that are not paused.
-- limited: Requested job types that have a limit.
-- shares: Number of jobs that each turn gets.
-- empty: Turns without a ready job.
-- is_only: True if only one turn is open in these lanes, even if this turn has no ready job.
-- is_limited: True if a limit, a weight or a pause applies to one of the turns.
-- at_limit: Types that have reached their limit, so that none of their jobs may start now.
-- more: True if the worker should call again at once, because another lease has locked a limit, or
--   because some turns were not read.
create or replace function queue.share_slots(
  p_request queue.lease_request,
  p_now timestamptz,
  out lanes integer[],
  out limited text[],
  out shares queue.share[],
  out empty queue.share[],
  out is_only boolean,
  out is_limited boolean,
  out at_limit text[],
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
  v_lacks_locks boolean := false;
  v_divided record;
  v_last queue.last_served;
  v_stopped text[]; -- types whose slots ran out
begin
  lanes := v_asked.lanes;
  limited := v_asked.limited;
  more := false;
  if v_most = 0 then
    return;
  end if;
  v_types := queue.lock_types(lanes, limited, p_now);
  at_limit := v_types.at_limit;
  more := v_types.is_busy;
  -- An open turn may have no ready job. If no turn of the first read has a ready job, read more
  -- turns.
  foreach v_reads in array array[
    v_most + v_most / 25 + 5,
    greatest(150, 2 * v_most)
  ] loop
    v_first := queue.next_turns(v_types.open, v_reads);
    v_turns := v_first.turns;
    v_one := v_turns[1];
    if v_one.lane is null then
      return;
    end if;
    is_limited := v_types.is_limited or v_first.is_limited;
    if v_first.is_empty then
      empty := array[row(v_one.lane, v_one.workspace_id, null, 0)::queue.share];
      return;
    end if;
    is_only := v_turns[2] is null and v_first.is_all and not is_limited;
    if is_only then -- there is nothing to divide
      shares := array[
        row(v_one.lane, v_one.workspace_id, v_one.from_ord, v_most)::queue.share
      ];
      return;
    end if;
    if is_limited then
      v_limited := queue.limit_turns(v_turns, p_now);
      v_turns := v_limited.turns;
      more := more or v_limited.is_busy;
      v_lacks_locks := v_limited.known is not null;
      if v_lacks_locks then
        v_first.known := v_limited.known;
        v_first.is_all := false;
      end if;
    end if;
    v_divided := queue.divide_slots(
      v_turns,
      case when v_first.is_all then least(v_most, 4 + 4 * v_most / v_first.known) end,
      v_most,
      p_now
    );
    exit when v_first.is_all or v_divided.shares is not null or v_lacks_locks;
  end loop;
  shares := v_divided.shares;
  empty := v_divided.empty;
  v_slots := coalesce((select sum(s.jobs) from unnest(shares) as s), 0);
  more := more or (not v_first.is_all or v_divided.is_cut) and v_slots < v_most;
  -- store the last tenant served, unless no tenant was skipped
  if v_first.is_all
    and (v_first.known = 1 or not is_limited and v_slots < v_most)
  -- no tenant was skipped, because one tenant has all turns or because all jobs were taken
  then
    return;
  -- each tenant that the lease has read got as many jobs as its weight
  elsif v_slots < v_most and not v_first.is_all then
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
  -- For the lanes of a limited type, store the tenant at which the type reached its limit, because
  -- later tenants got no job of the type. For the other lanes, store the last tenant served.
  v_stopped := array(
    select t.job_type
    from unnest(v_divided.lasts) as t
    where t.job_type is not null
  );
  foreach v_last in array coalesce(v_divided.lasts, '{}') loop
    perform queue.advance_ring(
      case
        when v_last.job_type is null then array(
          select l.lane
          from queue.lanes as l
          where l.lane = any (v_types.open) and l.job_type <> all (v_stopped)
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

create or replace function queue.merge_taken(p_one queue.taken, p_other queue.taken)
returns queue.taken
language plpgsql immutable
set search_path = ''
as $$
begin
  return row(
    p_one.ids || p_other.ids,
    p_one.leases || p_other.leases,
    p_one.changes || p_other.changes,
    p_one.rest || p_other.rest
  )::queue.taken;
end;
$$;

-- Charge the rate limits of job types for the jobs that a lease has started.
create or replace function queue.spend_starts(p_ids uuid[], p_now timestamptz)
returns void
language sql
set search_path = ''
as $$
select queue.take_tokens(
  'r:' || y.job_type,
  y.rate_limit,
  y.rate_per_seconds,
  n.jobs,
  p_now
)
from (
  select j.job_type, count(*) as jobs
  from public.jobs as j
  where j.id = any (p_ids)
  group by 1
) as n
join queue.job_types as y on y.job_type = n.job_type
where y.rate_limit is not null and not y.rate_per_key
$$;

-- Lease the first jobs of each turn. The update finds a job's row by its ctid, because no other
-- transaction can change the locked row. If the row was changed between the start of the statement
-- and the lock, the update does not find it, and the job stays ready.
create or replace function queue.take_jobs(
  p_shares queue.share[],
  p_request queue.lease_request,
  p_now timestamptz
)
returns queue.taken
language plpgsql
set search_path = ''
as $$
declare
  v_taken queue.taken;
begin
  with picked as materialized (
    select
      h.*,
      coalesce(p_request.lease_seconds, t.lease_seconds) as lease_seconds,
      t.timeout_seconds,
      t.rate_per_key,
      t.key_concurrency
    from unnest(p_shares) as s
    join queue.lanes as l on l.lane = s.lane
    join queue.job_types as t on t.job_type = l.job_type
    cross join lateral (
      select r.ctid as ready_tid, j.ctid as job_tid, j.id, r.ord, r.ready_at
      from queue.ready as r
      join public.jobs as j on j.id = any (array[r.job_id])
      where r.lane = s.lane
        and r.workspace_id = s.workspace_id
        and r.ord >= s.ord
        and j.status = 'pending'
        and (j.deadline_at is null or j.deadline_at > p_now)
        and (j.start_by_at is null or j.started_at is not null or j.start_by_at > p_now)
        and coalesce(r.job_id = any (p_request.job_ids), true)
        and r.job_id not in (
          select w.job_id
          from queue.withheld as w
          where p_request.job_ids is null or not w.is_suspect
        )
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
      -- the start must not be before the creation of the job, which may be later than p_now
      started_at = coalesce(j.started_at, greatest(p_now, j.created_at)),
      queue_ms = coalesce(j.queue_ms, date_part('epoch', p_now - p.ready_at) * 1000),
      last_seq = j.last_seq + (j.is_minimal is null)::integer
    from picked as p
    where j.ctid = p.job_tid
    returning
      j.id,
      j.workspace_id,
      j.session_id,
      j.attempts,
      j.fence,
      j.lane,
      j.last_seq,
      j.is_minimal is null as is_full,
      j.unique_key is not null or p.rate_per_key as is_noted,
      p.ready_tid,
      p.ord,
      p.ready_at,
      p.lease_seconds,
      case
        when p.rate_per_key then coalesce(j.concurrency_key, '')
        when p.key_concurrency is not null then j.concurrency_key
      end as key,
      row_to_json(
        row(
          j.fence,
          p.lease_seconds,
          case
            when j.fence = 1 and j.replay_from is null then '{}'
            else queue.steps_of_lease(j.id)
          end,
          row(
            j.id, j.workspace_id, j.user_id, j.session_id, j.queue, j.job_type, j.payload,
            j.schema_version, j.priority, j.attempts, j.max_attempts, j.created_at,
            j.parent_id, j.traceparent, j.progress,
            coalesce(j.timeout_seconds, p.timeout_seconds), j.deadline_at
          )::queue.leased_job
        )::queue.leased
      ) as answer
  ),
  gone as (
    delete from queue.ready
    where ctid = any (array(select b.ready_tid from begun as b))
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
  ),
  kinds as (
    select
      b.workspace_id,
      b.session_id,
      b.attempts,
      array_agg(b.id) as ids,
      array_agg(b.last_seq) as seqs
    from begun as b
    where b.is_full
    group by 1, 2, 3
  )
  select
    array_agg(b.id),
    array_agg(b.answer),
    (
      select array_agg(
        row(
          k.workspace_id,
          k.session_id,
          'job.leased',
          jsonb_build_object(
            'status', 'processing', 'attempts', k.attempts, 'worker_id', p_request.worker_id
          ),
          k.ids,
          k.seqs,
          p_now
        )::queue.change
      )
      from kinds as k
    ),
    array_agg(b.id) filter (where b.is_noted or b.is_full and b.last_seq <> 2)
  into v_taken
  from begun as b;
  return v_taken;
end;
$$;

-- Lease the jobs that queue.share_slots has chosen. If a trigger of the project rejects one of the
-- jobs, lease each half of the jobs separately, and so on, until this job is found. Then record the
-- rejection in queue.refusals, so that the next lease skips the job.
-- has_refused: True if a job was rejected.
create or replace function queue.take(
  p_shares queue.share[],
  p_request queue.lease_request,
  p_now timestamptz,
  out taken queue.taken,
  out has_refused boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_half constant integer := cardinality(p_shares) / 2;
  v_one queue.share := p_shares[1];
  v_failure text;
  v_first record;
  v_second record;
begin
  has_refused := false;
  begin
    taken := queue.take_jobs(p_shares, p_request, p_now);
    return;
  exception
    when connection_exception
      or transaction_rollback
      or insufficient_resources
      or object_not_in_prerequisite_state
      or operator_intervention
      or system_error
      or internal_error then
      -- these errors have other causes than a single job (queue.bisect_task)
      raise;
    when others then
      v_failure := format('%s (%s)', sqlerrm, sqlstate);
  end;
  if v_half > 0 then
    v_first := queue.take(p_shares[:v_half], p_request, p_now);
    v_second := queue.take(p_shares[v_half + 1:], p_request, p_now);
  elsif v_one.jobs > 1 then
    p_shares[1].jobs := v_one.jobs / 2;
    v_first := queue.take(p_shares, p_request, p_now);
    -- the second half begins at the same ord, because the jobs of the first half are no longer
    -- ready
    p_shares[1].jobs := v_one.jobs - v_one.jobs / 2;
    v_second := queue.take(p_shares, p_request, p_now);
  else
    perform queue.record_rejection('lease', r.job_id, v_failure, p_now)
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
        and coalesce(o.job_id = any (p_request.job_ids), true)
        and o.job_id not in (
          select w.job_id
          from queue.withheld as w
          where p_request.job_ids is null or not w.is_suspect
        )
      order by o.ord
      limit 1
      for no key update of o, j skip locked
    ) as r;
    has_refused := found;
    return;
  end if;
  taken := queue.merge_taken(v_first.taken, v_second.taken);
  has_refused := v_first.has_refused or v_second.has_refused;
end;
$$;

-- Set the start of each turn (from_ord) to its first ready job, or to the last leased job if no job
-- is ready. Close the turns in which the lease found no ready job. Skip a turn whose lock is not
-- free, because an open transaction may be adding a job to the turn. Also skip the remaining turns
-- if this transaction can take no more locks.
-- p_turns: For each turn, the number of leased jobs, and the position of the last leased job.
create or replace function queue.tidy_turns(p_turns queue.share[], p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_locks constant integer := queue.reserve_locks(cardinality(p_turns), 190);
  v_free constant queue.share[] := array(
    select t
    from unnest(p_turns[:v_locks]) as t
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

-- Lease jobs for the free slots of one pool. The slots are divided among turns (queue.share_slots),
-- and the first jobs of each turn are leased.
-- p_request: The request, with the job types and the limit of this pool.
-- unfilled: If the pool got no job, the lanes of the pool, except lanes of types at a limit.
create or replace function queue.fill_pool(
  p_request queue.lease_request,
  p_now timestamptz,
  out taken queue.taken,
  out lanes integer[],
  out limited text[],
  out unfilled integer[],
  out more boolean,
  out leased_at timestamptz
)
language plpgsql
set search_path = ''
as $$
declare
  v_shared record := queue.share_slots(p_request, p_now);
  v_taken record;
  v_leased integer := 0;
  -- number of jobs that were read. If fewer are leased, another lease took the others.
  v_expected bigint;
  v_one queue.share;
begin
  lanes := v_shared.lanes;
  limited := v_shared.limited;
  more := v_shared.more;
  leased_at := p_now;
  if v_shared.shares is not null then
    -- read the clock again, so that no job starts before its creation
    leased_at := greatest(p_now, queue.clock());
    v_taken := queue.take(v_shared.shares, p_request, leased_at);
    taken := v_taken.taken;
    v_leased := coalesce(cardinality(taken.ids), 0);
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
    if v_leased < p_request."limit" and v_shared.shares is not null then
      v_expected := case
        -- one turn may get more slots than it has ready jobs
        when v_shared.shares[2] is null then 1
        else (select sum(s.jobs) from unnest(v_shared.shares) as s)
      end;
      more := more
        or v_taken.has_refused
        or v_leased < v_expected and not exists (select from queue.withheld);
    end if;
  end if;
  if v_shared.shares is null and p_request."limit" > 0 then
    unfilled := lanes;
    if v_shared.at_limit <> '{}' then
      unfilled := array(
        select l.lane
        from queue.lanes as l
        where l.lane = any (lanes) and l.job_type <> all (v_shared.at_limit)
      );
    end if;
  end if;
  if v_leased > 0 and v_shared.is_limited then
    perform queue.spend_starts(taken.ids, leased_at);
  end if;
  -- A turn without ready jobs stays open for a while, so that the tenant's next enqueue need not
  -- insert a note. Close such turns, and move the start of the other turns, in three cases.
  -- - More than four turns have no ready jobs, and would make each lease slower.
  -- - The lease took 20 jobs or more, but fewer than its limit, so that the next lease should begin
  --   after these jobs.
  -- - The number of the call is a multiple of 16.
  if cardinality(v_shared.empty) > 4
    or v_leased >= 20 and v_leased < p_request."limit"
    or p_request.call % 16 = 0
  then
    perform queue.tidy_turns(
      array(
        select row(j.lane, j.workspace_id, max(j.ord), count(*))::queue.share
        from public.jobs as j
        where j.id = any (taken.ids)
        group by j.lane, j.workspace_id
      ) || v_shared.empty,
      leased_at
    );
  end if;
end;
$$;

-- Record the effects of a lease that do not follow from the rows of the jobs. Store events, free
-- unique keys, and record starts for the rate limits of concurrency keys.
create or replace function queue.record_starts(p_ids uuid[], p_worker_id text, p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
begin
  insert into queue.job_events (job_id, seq, workspace_id, type, data, created_at)
  select
    j.id,
    j.last_seq,
    j.workspace_id,
    'job.leased',
    jsonb_build_object(
      'status', 'processing',
      'attempts', j.attempts,
      'worker_id', p_worker_id
    ),
    p_now
  from public.jobs as j
  where j.id = any (p_ids) and j.is_minimal is null and j.last_seq <> 2;
  delete from queue.job_keys as u
  using public.jobs as j
  where j.id = any (p_ids)
    and u.workspace_id = j.workspace_id
    and u.job_type = j.job_type
    and u.key = j.unique_key
    and u.is_unique
    and u.job_id = j.id
    and u.freed_when = 'leased';
  update queue.gated as g
  set started_at = p_now
  from public.jobs as j
  where j.id = any (p_ids)
    and g.workspace_id = j.workspace_id
    and g.job_type = j.job_type
    and g.key = coalesce(j.concurrency_key, '')
    and g.job_id = j.id
    and g.admitted
    and not g.ended;
end;
$$;

-- Return the active leases that an earlier call created, for a worker that repeats this call.
-- tests/sql/test_leases.py compares the result with queue.take_jobs.
create or replace function queue.leases_of_call(p_tick_id uuid, p_call integer)
returns json
language plpgsql stable
set search_path = ''
as $$
begin
  return (
    select coalesce(
      json_agg(
        row(
          l.fence,
          l.lease_seconds,
          queue.steps_of_lease(j.id),
          jsonb_populate_record(
            null::queue.leased_job,
            to_jsonb(j) || jsonb_build_object(
              'timeout_seconds', coalesce(j.timeout_seconds, t.timeout_seconds)
            )
          )
        )::queue.leased
        order by l.ord, l.job_id
      ),
      '[]'
    )
    from queue.leases as l
    join public.jobs as j on j.id = any (array[l.job_id])
    join queue.job_types as t on t.job_type = j.job_type
    where l.tick_id = p_tick_id and l.tick_call = p_call
  );
end;
$$;

drop function queue.lease_ready(queue.lease_request,queue.change[],boolean,timestamp with time zone);

-- Lease jobs for every pool of a worker's request.
-- p_changes: Events of the jobs that the same call settled.
-- p_has_notes: True if queue.notes has rows, so that turns or gates must be opened first.
-- lanes: Lanes of the requested job types and queues that are not paused.
-- limited: Requested job types that have a limit.
-- unfilled: Lanes of the pools that got no job.
-- more: True if the worker should call again at once.
-- is_short: True if a pool of slots got fewer jobs than it has free slots.
-- is_full: True if a pool of slots got a job for each free slot.
create or replace function queue.lease_ready(
  p_request queue.lease_request,
  p_changes queue.change[],
  p_has_notes boolean,
  p_mode text,
  p_now timestamptz,
  out leases json,
  out leased integer,
  out lanes integer[],
  out limited text[],
  out unfilled integer[],
  out more boolean,
  out is_short boolean,
  out is_full boolean,
  out is_alone boolean
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
  v_locks integer;
  v_taken queue.taken;
  v_noted queue.share[];
  v_first record;
  v_is_published boolean;
begin
  lanes := '{}';
  limited := '{}';
  more := false;
  is_short := p_request."limit" = 0;
  is_full := false;
  -- only one lease at a time opens gates and turns, and concurrent leases skip this step
  if p_has_notes and queue.try_lock('turns') then
    perform queue.open_gates(greatest(50, v_at_once), p_now)
    -- If a pause is ending now, open no gates, because the end of the pause inserts notes for all
    -- of them.
    where queue.try_lock('pauses', p_is_shared => true);
    if p_mode is null and p_request.pools is null and not is_short then
      v_noted := queue.noted_shares(p_request, v_at_once);
    end if;
    if v_noted is not null then
      v_now := greatest(p_now, queue.clock());
      v_first := queue.take(v_noted, p_request, v_now);
      v_taken := v_first.taken;
      more := v_first.has_refused;
      v_count := coalesce(cardinality(v_taken.ids), 0);
      is_full := v_count > 0 and v_count = p_request."limit";
      p_request."limit" := p_request."limit" - v_count;
      v_locks := queue.reserve_locks(cardinality(v_noted), 190);
      v_noted := array(
        select n
        from unnest(v_noted[:v_locks]) as n
        where pg_try_advisory_xact_lock(n.lane, uuid_hash(n.workspace_id))
      );
    end if;
    perform queue.open_turns(v_at_once, p_now, v_noted);
  end if;
  if p_mode = 'suspects' then
    v_taken := queue.lease_suspects(p_request, p_now);
    if v_taken.ids is null then
      p_mode := case when p_request.suspects then 'nothing' else 'others' end;
    end if;
  end if;
  is_alone := coalesce(p_mode in ('suspects', 'nothing'), false);
  if is_alone then
    v_pools := '{}';
    is_short := true;
  elsif p_request.pools is null then
    v_pools := array[p_request];
  else
    v_pools := array(
      select jsonb_populate_record(p_request, to_jsonb(p))
      from jsonb_to_recordset(p_request.pools) as p (job_types text[], "limit" integer)
    );
  end if;
  foreach v_pool in array v_pools loop
    v_filled := queue.fill_pool(v_pool, v_now);
    v_taken := case
      when v_taken is null then v_filled.taken
      else queue.merge_taken(v_taken, v_filled.taken)
    end;
    lanes := lanes || v_filled.lanes;
    limited := limited || v_filled.limited;
    unfilled := unfilled || v_filled.unfilled;
    more := more or v_filled.more;
    v_now := v_filled.leased_at;
    v_count := coalesce(cardinality((v_filled.taken).ids), 0);
    is_short := is_short or v_count < v_pool."limit";
    is_full := is_full or v_count > 0 and v_count >= v_pool."limit";
  end loop;
  leased := coalesce(cardinality(v_taken.ids), 0);
  leases := array_to_json(coalesce(v_taken.leases, '{}'));
  if v_taken.rest is not null then
    perform queue.record_starts(v_taken.rest, p_request.worker_id, v_now);
  end if;
  v_is_published := queue.publish(p_changes || v_taken.changes, v_now);
end;
$$;

-- Return the number of milliseconds after which a worker with free slots should call again, or null
-- if the worker should wait for a notification. One statement reads both notes and open turns,
-- because another lease could delete a note and open its turn between two statements, so that
-- neither statement would see the job.
-- p_limited: Requested job types that have a limit.
-- p_unfilled: Lanes of the pools that got no job. For other pools, the worker calls again anyway.
-- p_more: If true, return 0.
create or replace function queue.next_due_in_ms(
  p_lanes integer[],
  p_limited text[],
  p_unfilled integer[],
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
      when exists (select from queue.turn_notes)
        or exists (
          select from queue.turns as t
          where t.lane = any (p_unfilled)
            and not t.blocked
            and exists (
              select from queue.ready as r
              where r.lane = t.lane
                and r.workspace_id = t.workspace_id
                and r.ord >= t.from_ord
                and r.job_id not in (select w.job_id from queue.withheld as w)
            )
        )
        then p_now
    end,
    (
      select look_at
      from queue.notes
      where key is not null
      order by look_at, id -- reads the index in which dead rows lie together
      limit 1
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
      -- process a signal at most once a second if the last try failed
      )
      from queue.signals as s
    )
  );
  if p_limited <> '{}' then
    -- the earliest time at which a job type that has used up its rate limit allows a start
    v_next := least(
      v_next,
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
        where y.job_type = any (p_limited)
          and y.rate_limit is not null
          and not y.rate_per_key
          and b.tokens < 1
          and exists (
            select from queue.lanes as l
            join queue.turns as t on t.lane = l.lane and not t.blocked
            where l.job_type = y.job_type and l.lane = any (p_lanes)
          )
      )
    );
  end if;
  -- greatest() ignores nulls, and Postgres before 17 cannot subtract from -infinity
  return case
    when v_next is not null
      then ceil(extract(epoch from greatest(v_next, p_now) - p_now) * 1000)
  end;
end;
$$;

-- Return the number of ready jobs in these lanes, at most 1,000.
create or replace function queue.count_due(p_lanes integer[])
returns bigint
language plpgsql stable
set search_path = ''
as $$
begin
  return (
    select count(*)
    from (
      select from queue.ready as r
      where r.lane = any (p_lanes)
      limit 1000
    ) as r
  );
end;
$$;

-- Implement public.lease_jobs. If a worker repeats a call, the second call waits until the first
-- has finished. It waits for an advisory lock, because a row lock would be a write, and a call that
-- finds no jobs must write nothing.
-- p_changes: Events of the jobs that the same call settled, which must be published.
create or replace function queue.lease(p_request jsonb, p_changes queue.change[] default null)
returns json
language plpgsql
set search_path = ''
as $$
declare
  v_asked queue.lease_request := queue.read_lease_request(p_request);
  v_now timestamptz;
  v_ms bigint;
  v_ignored bigint;
  v_next_ms bigint;
  -- stored state of the run and of its worker, and whether there are notes
  v_tick record;
  v_noted record;
  v_run jsonb; -- result for the run, if this call starts or ends it
  v_given record;
  v_due bigint;
  v_maintenance boolean;
  v_ends boolean;
  v_is_alive boolean; -- false if the host of the process is reporting its end
  v_listens constant boolean := p_request -> 'listens' = 'true'
    and to_regclass('realtime.messages') is not null;
begin
  -- try the lock without waiting first, because this expression costs less than `perform`
  if not queue.try_lock('tick ' || v_asked.tick_id) then
    perform queue.try_lock('tick ' || v_asked.tick_id, p_waits => true);
  end if;
  -- if the process ends now, the report of its end waits for the jobs of this lease
  v_is_alive := queue.try_lock('process ' || v_asked.worker_id, p_is_shared => true);
  v_now := queue.clock();
  select
    t.last_call,
    t.seen_at > v_now - interval '10 seconds' as is_active,
    t.expires_at,
    w as worker,
    exists (
      select from queue.turn_notes
      union all
      (
        select from queue.notes
        where key is not null and look_at <= v_now
        order by look_at, id -- selects the index in which dead rows of deleted notes are adjacent
        limit 1
      )
      union all
      select from queue.turns
      where blocked and look_at <= v_now
    ) as has_notes,
    exists (select from queue.suspects) as has_suspects
  into v_tick
  from (select) as o
  left join queue.ticks as t on t.tick_id = v_asked.tick_id
  left join queue.workers as w on w.worker_id = v_asked.worker_id;
  -- return the same leases again, because the response to the first call may have been lost
  if v_asked.call <= v_tick.last_call then
    perform queue.publish(p_changes, v_now);
    return json_build_object(
      'leases', queue.leases_of_call(v_asked.tick_id, v_asked.call),
      'next_due_in_ms', 0,
      'now', v_now
    );
  elsif not v_is_alive or (v_tick.worker).evidence is not null then
    perform queue.publish(p_changes, v_now);
    return json_build_object('leases', '[]'::json);
  elsif v_asked.most is not null and (v_tick.expires_at > v_now) is not true then
    v_run := jsonb_build_object('free', queue.admit_run(v_asked, v_now));
    if v_run ->> 'free' is null then
      perform queue.publish(p_changes, v_now);
      return json_build_object('leases', '[]'::json, 'run', v_run);
    end if;
  end if;
  v_noted := queue.record_worker(v_asked, v_tick.worker, v_now);
  v_asked.worker := v_noted.worker;
  -- reset the time of the last call of a worker, because that worker has now started
  if pg_sequence_last_value('queue.wanted_ms') > 0 then
    v_ignored := setval('queue.wanted_ms', 0);
  end if;
  v_given := queue.lease_ready(
    v_asked,
    p_changes,
    v_tick.has_notes or v_noted.has_noted,
    case when v_tick.has_suspects then queue.lease_mode(v_asked, v_now) end,
    v_now
  );
  -- store the number of the call, so that a repetition is recognized
  if v_tick.last_call is null or v_given.leased > 0 then
    insert into queue.ticks as t (tick_id, seen_at, worker, last_call)
    values (v_asked.tick_id, v_now, v_asked.worker, v_asked.call)
    on conflict (tick_id) do update set (seen_at, worker, last_call) = row(
      excluded.seen_at,
      excluded.worker,
      excluded.last_call
    );
  end if;
  v_ms := (date_part('epoch', v_now) * 1000)::bigint;
  if v_listens
    and v_ms - pg_sequence_last_value('queue.listened_ms') between 0 and 30000 is not true
  then
    v_ignored := setval('queue.listened_ms', v_ms);
  end if;
  if v_asked.free_slots < 0 then
    v_ignored := queue.withdraw_run(v_now);
  elsif coalesce(v_asked.free_slots, v_asked."limit" - v_given.leased) > 0
    -- a run that leases only suspects has no slot for other jobs
    and not v_given.is_alone
  then
    if v_ms - pg_sequence_last_value('queue.slots_ms') between 0 and 499 is not true then
      v_ignored := setval('queue.slots_ms', v_ms);
    end if;
  end if;
  v_maintenance := false;
  if v_given.is_short then
    v_next_ms := queue.next_due_in_ms(
      v_given.lanes,
      v_given.limited,
      v_given.unfilled,
      v_given.more,
      v_now
    );
    if v_given.is_alone then -- other workers get the other jobs
      v_next_ms := greatest(v_next_ms, 1000);
    end if;
    v_maintenance := queue.maintenance_is_due(
      v_now,
      -- true if the run leased jobs recently
      v_given.leased > 0 or v_tick.last_call > 1 and v_tick.is_active,
      v_next_ms <= 1000 is true
    );
  end if;
  v_ends := v_asked.ends is not null
    and v_given.leased = 0
    and (not v_maintenance or v_asked.ends ? 'maintained')
    and (v_next_ms <= (v_asked.ends -> 'stay_ms')::double precision) is not true;
  if v_asked.count_due or v_asked.call = 1 or v_ends then
    -- count the jobs of all lanes that the worker serves
    if v_asked.pools is not null or v_given.is_alone then
      v_given.lanes := (queue.open_lanes(v_asked.job_types, v_asked.queues)).lanes;
    end if;
    v_due := queue.count_due(v_given.lanes);
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
          'next_due_in_ms', v_next_ms,
          'next_in_ms', v_next_ms,
          'next_reason', case when v_next_ms is null then 'notified' else 'due' end
        )
      )
    );
  end if;
  return json_build_object(
    'leases', v_given.leases,
    'maintenance', v_maintenance,
    'run', v_run,
    'due', coalesce(v_due, v_given.is_full::integer),
    'next_due_in_ms', v_next_ms,
    'alone', v_given.is_alone,
    'wake_topic', case when v_listens then queue.wake_topic() end,
    'suspects', case
      when v_tick.has_suspects then queue.count_companies(v_asked.job_types, v_asked.queues)
    end,
    'now', v_now
  );
end;
$$;

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
declare
  v_is_revoked constant boolean := queue.refuse_revoked();
  v_result json;
  v_is_sent boolean;
begin
  v_result := queue.lease(p_request);
  v_is_sent := queue.send_unsent();
  return v_result;
end;
$$;

comment on function public.lease_jobs is
  E'Lease up to limit jobs: {leases, maintenance, due, next_due_in_ms, now, run?}.\n\n'
  'Request: {worker_id, tick_id, call, limit 0..1000, job_types, pools: [{job_types, limit}], '
  'queues, lease_seconds, version, free_slots, slots, abandoned, count_due, most, run_seconds, '
  'listens, ends: {stay_ms, maintained?, summary?}}. Each lease counts as an attempt. A repeated '
  '(tick_id, call) that got leases returns the same leases again.\n\n'
  '- pools: Groups of job types with a limit for each group, in place of limit. due counts the '
  'jobs of all pools.\n'
  '- free_slots: Number of free slots of the worker. Default: limit less the leased jobs. If it '
  'is 1 or more, enqueues of the next two seconds start no worker, because this worker calls '
  'again. The value -1 ends these two seconds at once.\n'
  '- slots: All slots of the worker, [{job_types, limit}]. explain_job compares them with the '
  'leases. The first call of a run is enough.\n'
  '- abandoned: Stopped jobs whose processors still run, [{job_id, place}]. Default: as before.\n'
  '- most: Maximum number of concurrent worker runs. The response contains run: {free}, which is '
  'null if this run is rejected.\n'
  '- listens: True if the worker follows the topic wake_topic of the response. Its messages '
  'announce new jobs.\n'
  '- ends: The run ends if nothing is leased and nothing is due within stay_ms. The response then '
  'contains run: {ended, refused}. If refused is true, another run was rejected since this '
  'run began, so lease again.';

select queue.allow('job_worker, service_role', 'public.lease_jobs');

-- Parse the items of a report or settlement.
-- is_plain: True if all items are plain completions with results of up to 8,000 bytes and without
--   progress, log lines, steps, tags or output.
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
    coalesce(array_agg(i order by i.job_id), '{}'), -- sorted, so that two calls cannot deadlock
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

-- Determine the outcome of an attempt from the worker's report and the job's options. If the
-- outcome is a wait, begin the wait. The delay of a retry is retry_after_seconds of the report.
-- Without this field, the delay grows exponentially with jitter (Brooker, AWS blog, 2015).
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
    when outcome in ('retry', 'lost', 'died', 'failed', 'cancelled', 'released')
      then p_item.error
  end;
  if p_is_long then
    outcome := 'failed';
    problem := '{"type": "ResultTooLarge", "reason": "result_too_large",
      "message": "the result is too long; store it and return a reference"}';
  elsif p_job.cancel_requested_at is not null and outcome <> 'completed' then
    -- The worker may have stopped the processor because of the cancel request.
    problem := case when outcome not in ('lost', 'died') then problem end;
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
    -- If there is evidence that the job ended its process, the retry waits for the backoff, as
    -- after any failure. Without evidence, something else may have stopped the worker, so the job
    -- is retried at once.
    elsif outcome = 'retry' or problem ? 'evidence' then
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
    -- The delay is at least one second, because a snooze does not count as an attempt. A processor
    -- that always returns a snooze without a delay would run in an endless loop.
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
  elsif outcome not in ('completed', 'cancelled', 'released', 'died') then
    problem := jsonb_build_object(
      'type', 'UnknownOutcome',
      'reason', 'unknown_outcome',
      'message', 'unknown outcome ' || left(outcome, 80)
    );
    outcome := 'failed';
  end if;
end;
$$;

-- Determine the next state of a job, and store its attempt. The caller has locked the lease and the
-- job's row. Return null if the fence is old. Also return null for a plain completion, because the
-- attempt follows from the job's row.
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
  if not found then -- the job was deleted in the meantime
    return null;
  end if;
  v_end := queue.outcome_of(p_item, v_job, v_is_long, p_now);
  v_made.status := case
    when v_end.outcome in ('completed', 'failed', 'cancelled', 'waiting')
      then v_end.outcome
    else 'pending'
  end;
  v_made.attempts := v_job.attempts
    - (v_end.outcome in ('snoozed', 'released', 'waiting', 'died'))::integer;
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
    when 'died' then 'job.released'
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
        'until', queue.wait_until(p_item.wait, p_now)
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
    case when p_item.outcome in ('lost', 'died') then p_item.outcome else v_end.outcome end,
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

-- After attempts have ended, place the jobs that continue, open gates, free unique keys, and insert
-- signals for parent and child jobs. The jobs that continue come first, so that a job of an
-- in_order type still counts against the limit of its key.
create or replace function queue.after_attempts(p_ids uuid[], p_now timestamptz)
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
  -- Insert a signal for the parent job, which may be waiting for this job. If this job did not
  -- complete, insert a signal to cancel its live children.
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
      -- `offset 0` makes Postgres look up each job in the index, whatever the planner estimates.
      select from public.jobs as c
      where c.parent_id = j.id and c.finished_at is null
      offset 0
    );
end;
$$;

-- End attempts with the outcomes that queue.decide has determined, in one statement, because a
-- second statement would make every settlement slower. An item with an old fence matches no lease,
-- so that it changes nothing.
-- p_transitions: The result of queue.decide for each item. Null if all items are plain completions.
-- changes: Events of the jobs, which the caller must publish.
-- rest: Ids of jobs for which queue.after_attempts must run, because they continue, or have a key,
--   a parent, a deadline or an event to store.
-- with_event: Ids of jobs whose last event must be stored, because this event does not follow from
--   the job's row.
-- results: The response, if all items were plain completions with valid fences. Otherwise null, so
--   that the caller builds the response from the stored rows.
-- has_blocked: True if any tenant's turn is blocked because of a limit.
create or replace function queue.end_attempts(
  p_items queue.worker_item[],
  p_transitions queue.transition[],
  p_now timestamptz,
  out changes queue.change[],
  out rest uuid[],
  out with_event uuid[],
  out results json,
  out has_blocked boolean
)
language plpgsql
set lock_timeout = '100ms'
set search_path = ''
as $$
begin
  -- If a worker's report is renewing the lease, this delete waits for the report and then deletes
  -- the renewed row.
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
          k.seqs,
          p_now
        )::queue.change
      )
      from kinds as k
    ),
    array_agg(m.id) filter (where m.is_tied or not m.is_derived),
    array_agg(m.id) filter (where not m.is_derived),
    case
      when count(*) filter (where m.data is null) = cardinality(p_items)
        then (
          '[' || string_agg( -- json_build_object would take six times as long
            '{"job_id": "' || m.id || '", "fence": ' || m.fence
              || ', "outcome": "applied", "status": "completed"}',
            ', '
          ) || ']'
        )::json
    end,
    exists (select from queue.turns as t where t.blocked and t.look_at < 'infinity')
  into changes, rest, with_event, results, has_blocked
  from moved as m;
end;
$$;

-- Apply the outcomes that workers report. The result of an item is applied, cancelled, stale (the
-- fence is old), not_found or busy (another transaction has locked the job). A requested cancel
-- overrides every outcome except completed. p_is_plain: The result is_plain of queue.read_items.
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
  if not p_is_plain then -- skip jobs whose rows are locked by other transactions
    v_busy := queue.lock_held(array(select i.job_id from unnest(p_items) as i));
    v_now := queue.clock();
    v_items := array( -- drop duplicate items
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
  if exists (select from queue.suspects) then
    perform queue.clear_suspects(p_items);
  end if;
  changes := v_ended.changes;
  results := v_ended.results;
  -- Build the response from the stored rows, so that a repeated call gets the same response.
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
    where e.id = any (v_ended.with_event);
    perform queue.after_attempts(v_ended.rest, v_now);
  end if;
  -- Unblock the turns of these tenants that are at a limit, because the ended attempts no longer
  -- count against the limits.
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
  v_read record;
  v_settled record;
  v_results json := '[]';
  v_changes queue.change[];
  v_lease json;
  v_is_sent boolean;
begin
  if p_request -> 'items' is distinct from '[]' then
    v_read := queue.read_items(p_request -> 'items');
    v_settled := queue.settle(v_read.items, v_read.is_plain);
    v_results := v_settled.results;
    v_changes := v_settled.changes;
  end if;
  if jsonb_typeof(p_request -> 'lease') = 'object' then
    v_lease := queue.lease(p_request -> 'lease', v_changes);
    v_is_sent := queue.send_unsent();
    return json_build_object('results', v_results, 'lease', v_lease);
  end if;
  v_is_sent := queue.publish(v_changes, queue.clock());
  v_is_sent := queue.send_unsent();
  return json_build_object('results', v_results);
end;
$$;

comment on function public.settle_jobs is
  E'Settle attempts, and lease the next jobs in the same call: {results, lease?}.\n\nItems: '
  '{job_id, fence, outcome: completed|retry|failed|snoozed|released|waiting|cancelled, result?, '
  'error?, retry_after_seconds?, until?, delay_seconds?, wait?, progress?, logs?, steps?, '
  'output?, duration_ms?}. A repeated call returns the same results. An item with a stale fence '
  'changes nothing. Settle an item again if its outcome is busy.';

select queue.allow('job_worker, service_role', 'public.settle_jobs');

-- End jobs that no worker has leased. The caller has locked the jobs. p_status: 'cancelled' or
-- 'failed'.
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
  perform queue.leave_places(p_ids);
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
    perform queue.after_attempts(v_ids, p_now);
  end if;
end;
$$;

-- Lock and return the job of the lease {job_id, fence}. Raise the error lease_lost if the worker
-- that calls no longer has the lease.
-- p_job_types: Job types for which the call is allowed. Null for all job types.
-- p_undone: End of the error message, for example 'its children were not created'.
create or replace function queue.held_job(p_request jsonb, p_job_types text[], p_undone text)
returns public.jobs
language plpgsql
set search_path = ''
as $$
declare
  v_id constant uuid := p_request ->> 'job_id';
  v_job public.jobs;
begin
  -- Reject a revoked key here too, because some callers run this function in their declare section,
  -- before their first statement.
  perform queue.refuse_revoked();
  select j.* into v_job
  from queue.leases as l
  join public.jobs as j on j.id = l.job_id
  where l.job_id = v_id
    and l.fence::text = p_request ->> 'fence'
    and (j.job_type = any (p_job_types)) is not false
  for no key update of l, j; -- lock leases before job rows, as in all functions
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

-- Set the leases of a worker whose process has ended to expired, so that maintenance reclaims the
-- jobs.
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
  for no key update skip locked -- a lease that is locked now will expire at its own time
))
$$;

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
  v_ignored bigint := queue.withdraw_run(queue.clock());
  v_response jsonb;
begin
  perform queue.refuse_revoked();
  -- wait for a lease that the process had requested before its end
  perform queue.try_lock('process ' || (p_request ->> 'worker_id'), p_waits => true)
  where p_request ->> 'evidence' is not null;
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
  v_response := jsonb_build_object('ended', true, 'refused', coalesce(v_refused, false));
  if p_request ->> 'evidence' is not null and v_worker is not null then
    perform queue.end_leases_of(v_worker, queue.clock());
    v_ignored := queue.do_reclaim(queue.clock(), clock_timestamp() + interval '2 seconds');
    -- several processes lease now, and no process sees a turn that another lease is opening
    perform queue.open_turns(200, queue.clock()) where queue.try_lock('turns');
    v_response := v_response || jsonb_build_object(
      'guilty', array(
        select s.job_id
        from queue.suspects as s
        where s.worker = v_worker and s.company = s.job_id
      ),
      'suspects', (
        select count(distinct s.company)
        from queue.suspects as s
        join public.jobs as j on j.id = s.job_id
        where s.worker = v_worker and j.status = 'pending' and s.company <> s.job_id
      )
    );
  end if;
  return v_response;
end;
$$;

comment on function public.tick_finished is
  E'Record that a worker''s run has ended: {tick_id, summary?}. Returns {ended, refused}. A lease '
  'call can do the same.\n\nWith {worker_id, evidence}: record that the process of a worker ended '
  'without a report. Its jobs keep the evidence, and are reclaimed at once. Returns {guilty, '
  'suspects} too. guilty has the ids of the jobs that ended the process. suspects is the number '
  'of groups of other suspects, which must each run in a separate process.';

select queue.allow('job_worker, service_role', 'public.tick_finished');

-- Store finished steps, the running step, progress and tags of jobs. If a step is reported again,
-- keep its first result. If a job has more than 20 tags, keep the first 20. Also increase last_seq
-- for the events of progress and log lines. Workers report how long a step has run, because their
-- clocks may be wrong.
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
    p_now + s.n * interval '1 us' -- keeps the order of the steps
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

-- Store the reports of workers, with an event for progress and for each log line. The caller has
-- locked the leases and jobs. logs_from is the number of the report's first log line, counted from
-- the start of the attempt, so that lines of an earlier report are not stored again. If
-- public.jobs.is_minimal is true, store no events for log lines.
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
  -- Store the output of a step before the step itself, because the output of finished steps is kept
  -- when a stream restarts (queue.drop_output).
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
  select array_agg(e.change order by (e.change).job_ids[1], (e.change).seqs[1])
  into v_changes
  from (
    select row(
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
      array[l.seq],
      p_now
    )::queue.change as change
    from lines as l
    where l.is_minimal is null
    union all
    select row(
      j.workspace_id,
      j.session_id,
      'job.progress',
      jsonb_build_object('progress', j.progress, 'attempts', j.attempts),
      array[j.id],
      array[j.last_seq],
      p_now
    )::queue.change
    from unnest(v_items) as i
    join public.jobs as j on j.id = any (array[i.job_id])
    where i.progress is not null
  ) as e;
  insert into queue.job_events (job_id, seq, workspace_id, type, data, created_at)
  select c.job_ids[1], c.seqs[1], c.workspace_id, c.type, c.data, p_now
  from unnest(v_changes) as c;
  perform queue.publish(v_changes, p_now); -- strict, does nothing if v_changes is null
exception when data_exception or integrity_constraint_violation then
  -- Store the reports one by one, so that an invalid report of one job does not affect other jobs.
  if cardinality(p_items) > 1 then
    perform queue.write_reports(array[i], p_now) from unnest(p_items) as i;
  else
    raise warning 'a report of job % was dropped: % (%)',
      p_items[1].job_id,
      sqlerrm,
      sqlstate;
  end if;
end;
$$;

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
  v_busy uuid[] := '{}'; -- jobs of v_reported that another transaction has locked
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
  -- Renew a lease only after a fifth of its time, because workers report often. If the lease is
  -- locked now, the next report renews it.
  v_renewed := array(
    select l.job_id
    from unnest(v_items) as i
    join queue.leases as l on l.job_id = i.job_id
    where num_nonnulls(i.lease_seconds, i.pulse) > 0
      or l.expires_at < queue.clock() + make_interval(secs => 0.8 * l.lease_seconds)
    order by l.job_id
    for no key update of l skip locked
  );
  update queue.leases as l
  set
    lease_seconds = s.lease_seconds,
    pulse = case
      when i.pulse is null then l.pulse
      else (i.pulse - 'for_ms') || jsonb_build_object(
        'since', queue.clock() - (i.pulse ->> 'for_ms')::double precision * interval '1 ms'
      )
    end,
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
  perform queue.send_unsent();
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
  'pulse?: {last, for_ms, place?, memory_mb}, lease_seconds?}. Report an item again if its outcome '
  'is busy.';

select queue.allow('job_worker, service_role', 'public.report_jobs');

-- Return the job id of a worker's request {job_id, fence}, or reject the request if the worker has
-- lost the lease.
-- p_undone: End of the error message, for example "its steps are not shown".
create or replace function queue.leased_id(p_request jsonb, p_undone text)
returns uuid
language plpgsql stable
set search_path = ''
as $$
declare
  v_id constant uuid := p_request ->> 'job_id';
begin
  perform from queue.leases as l
  where l.job_id = v_id and l.fence::text = p_request ->> 'fence';
  if not found then
    perform queue.refuse(
      409,
      'lease_lost',
      'the lease on the job is lost; ' || p_undone,
      v_id::text
    );
  end if;
  return v_id;
end;
$$;

create or replace function public.read_steps(p_request jsonb)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
begin
  perform queue.refuse_revoked();
  return (
    select to_jsonb(p) - 'results'
    from queue.leased_id(p_request, 'its steps are not shown') as l (id)
    cross join lateral queue.step_page(l.id, p_request -> 'after', 1000000) as p
  );
end;
$$;

comment on function public.read_steps is
  E'Steps of a leased job, in pages of about 1 MB: {lines: [{name, nth, value}], next: {name, nth} '
  '| null, bytes}.\n\nRequest: {job_id, fence, after?}. Lines with nth 1 and above are the '
  'results of the step''s child jobs.';

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
  'child results of one step may continue on the next page.';

select queue.allow('authenticated, service_role', 'public.job_steps');

-- Return the time when a wait times out, or null for a wait without a timeout. A worker sends a
-- duration, because its clock may be wrong. A time comes from the user, or from a worker of release
-- 0.4.4.
create or replace function queue.wait_until(p_wait jsonb, p_now timestamptz)
returns timestamptz
language sql stable
set search_path = ''
as $$
  select coalesce(
    p_now + make_interval(
      secs => coalesce(p_wait ->> 'timeout_seconds', p_wait ->> 'delay_seconds')::double precision
    ),
    (p_wait ->> 'timeout_at')::timestamptz,
    (p_wait ->> 'until')::timestamptz
  );
$$;

-- Insert the wait of a job. Return null, or an error if the wait is invalid.
create or replace function queue.begin_wait(p_job public.jobs, p_wait jsonb, p_now timestamptz)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_kind constant text := p_wait ->> 'kind';
  v_until timestamptz;
begin
  v_until := queue.wait_until(p_wait, p_now);
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
    -- Some awaited jobs are not children of this job. Their ends cause no signal, so maintenance
    -- checks the wait every ten seconds.
    v_until := p_now + interval '10 seconds';
  -- A wait lasts at least one second, because it does not count as an attempt. A processor that
  -- always waits would otherwise run in an endless loop.
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
  -- Insert the deadline of the job as queue.place does, so that maintenance enforces it during the
  -- wait.
  insert into queue.deferred (run_at, job_id, workspace_id, is_place)
  select p_job.deadline_at, p_job.id, p_job.workspace_id, false
  where p_job.deadline_at is not null
  on conflict do nothing;
  -- Insert a signal, because the event or the ends of the children may already have happened.
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

-- Copy results of the awaited child jobs to queue.steps, up to 1,000 results or about 8 MB in a
-- call. Every later attempt reads the copies, and so gets the same results. Return the value of the
-- wait when all results are copied. Return null while a child is live or results remain to be
-- copied.
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
      gathered = 0, -- a child may have been retried since the last copy
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
    -- a cancelled wait with the same name may have left rows of an earlier attempt
    on conflict (job_id, name, nth) do update set value = excluded.value
    returning 1
  )
  select p_wait.gathered + count(*) into v_gathered
  from copied;
  if v_gathered = cardinality(v_ids) then
    return '{"children": []}'; -- the results are separate steps, with nth from 1
  end if;
  update queue.waits
  set gathered = v_gathered
  where job_id = p_wait.job_id;
  insert into queue.signals (kind, workspace_id, job_id)
  values ('check', p_wait.workspace_id, p_wait.job_id);
  return null;
end;
$$;

-- Process a signal. Return null if a part of its work remains, so that the signal must be processed
-- again.
-- - For a cancel or retry signal, process 500 child jobs, beginning with the id in the column name.
--   Insert new signals for the remaining children, for locked children, and for children whose
--   change a trigger rejected.
-- - For a resumed signal, insert notes for the turns that the pause blocked. If a type or a queue
--   was paused, also insert notes for all gates of its jobs. A lease that read the pause before its
--   end may still block a turn, so the signal is processed again until no such lease runs.
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
    -- A lease takes this lock in share mode until its transaction ends.
    v_done := case when queue.try_lock('pauses') then 1 end;
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
    v_done := queue.bisect_task(p_signal.kind, v_free, p_now);
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
  return null; -- a user's transaction has locked the unique key of a child
end;
$$;

-- Return up to 500 due rows of a table for maintenance, chosen so that no workspace has to wait for
-- the rows of another workspace. If more than 500 rows are due, half of the result are the first
-- rows in p_order. The other half has an equal number of rows of each workspace. If there are more
-- than 125 workspaces, the other half has rows of the first 125 workspaces by id, and of the 125
-- workspaces after a random id.
-- p_rows: Condition of the table's partial index on workspace_id.
-- p_due: Condition of due rows, in which $1 is p_now and $2 is p_passed_over.
-- p_order: Sort order of the rows.
-- p_passed_over: Ids of jobs to skip.
create or replace function queue.fair_batch(
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
      with recursive tenants as ( -- one index lookup per workspace
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

-- Process signals, and end waits that have timed out, in passes, until a pass changes nothing. Keep
-- a check signal if another transaction has locked its job. Keep an event signal if more jobs wait
-- for its event. In each pass, spend up to 0.1 s on signals of children and pauses, one workspace
-- after the other. Then check the waits again.
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
  v_moved integer; -- jobs and signals handled in this pass
  v_until timestamptz; -- time when this pass stops handling children and pauses
  v_done integer := 0;
begin
  loop
    v_lines := queue.fair_batch(
      'queue.signals',
      'true',
      'o.look_at <= $1',
      'o.id',
      p_now
    );
    v_signals := array(
      select s.id
      from queue.signals as s
      where s.ctid = any (v_lines) and s.look_at <= p_now
      order by s.id
      for update skip locked
    );
    v_refused := queue.refused('waits', p_now);
    v_lines := queue.fair_batch(
      'queue.waits',
      'o.timeout_at is not null',
      'o.timeout_at <= $1 and o.job_id <> all ($2)',
      'o.timeout_at',
      p_now,
      v_refused
    );
    v_waiting := array( -- jobs that a signal names or whose wait timed out
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
      else queue.bisect_task('waits', v_waiting, p_now)
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
      if v_passed is null then
        v_kept := v_kept || v_signal.id;
      end if;
      v_moved := v_moved + coalesce(v_passed, 0);
    end loop;
    delete from queue.signals as s
    where s.id = any (v_signals) and s.id <> all (v_kept);
    v_moved := v_moved + cardinality(v_signals) - cardinality(v_kept);
    v_done := v_done + v_moved;
    exit when v_moved = 0 or clock_timestamp() >= p_until;
  end loop;
  -- No signal could be processed, because other transactions have locked rows. Count a failure of
  -- each signal, because queue.maintenance_is_due would otherwise report the signals as due again
  -- at once.
  if v_moved = 0 then
    update queue.signals
    set failures = failures + 1
    where id = any (v_kept);
  end if;
  return v_done;
end;
$$;

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
  perform queue.admit(
    'changes',
    null,
    queue.caller(),
    p_bytes => octet_length(p_answer::text)
  );
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
  perform queue.wake_worker(v_now);
  return queue.job_json(queue.visible_job(p_job_id));
end;
$$;

comment on function public.answer_job is
  'Answer the question of a waiting job with {"answer": …, "name"?}. Returns the job.';

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
  if char_length(p_name) between 1 and 255 is not true then
    perform queue.refuse(
      400,
      'invalid_argument',
      'name must have 1 to 255 characters',
      'name'
    );
  end if;
  perform queue.check_json(p_payload, 'payload');
  perform queue.admit(
    'changes',
    p_workspace_id,
    queue.caller(),
    p_bytes => octet_length(p_payload::text)
  );
  insert into queue.named_events (workspace_id, name, payload, emitted_at, created_by)
  values (p_workspace_id, p_name, coalesce(p_payload, '{}'), v_now, queue.caller())
  on conflict do nothing;
  v_is_first := found;
  if v_is_first then
    insert into queue.signals (kind, workspace_id, name)
    values ('event', p_workspace_id, p_name);
    perform queue.send_wakeup(v_now), queue.wake_worker(v_now);
  end if;
  return jsonb_build_object('first', v_is_first);
end;
$$;

comment on function public.emit_event is
  E'Emit a named event that jobs may wait for: {first}.\n\nOnly the first event of a '
  'name is kept. It may come before or after the wait begins.';

select queue.allow('authenticated, service_role', 'public.emit_event');

-- Store the ids of the child jobs that a call creates as a row of queue.steps with nth -1, so that
-- a repeated call returns the same ids. queue.step_page skips these rows.
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
    or char_length(v_name) between 1 and 200 is not true
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
  if not found then -- the service creates the children, so there is no user
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

-- This file has the functions by which people control jobs. People can cancel a job with its
-- children, retry a job, replay a job from a step, and pause jobs. public.cancel_jobs and
-- public.retry_jobs cancel or retry many jobs.

-- Cancel jobs. For a running job, store a cancel request. End other jobs at once. If the caller has
-- not locked the jobs, also cancel their first 100 live descendants. Insert signals, so that
-- maintenance cancels the other descendants. Return the number of jobs and descendants, counting at
-- most 5,000 descendants. Charge a person for this number before the change.
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
begin
  if not p_is_locked then
    perform queue.take_call_slot(j.workspace_id, p_writes => true)
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
    perform queue.admit(
      'changes',
      null,
      queue.caller(),
      cardinality(p_ids) + cardinality(v_children)
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
  return cardinality(p_ids) + coalesce(cardinality(v_children), 0);
end;
$$;

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
  v_job := queue.visible_job(p_job_id);
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
  E'Cancel a job and its live children. Returns the job.\n\nA running job is asked to stop, and '
  'ends within five seconds. Children beyond the first hundred are cancelled within seconds. 409 '
  'if the job has completed or failed, 429 job_busy while another transaction changes it.';

select queue.allow('authenticated, service_role', 'public.cancel_job');

-- A client's own update of public.jobs may cancel jobs, and nothing else. This trigger collects the
-- ids of the jobs and skips the update of their rows, which are already locked. After the
-- statement, queue.cancel_updated cancels the jobs. A person may cancel up to 1,000 jobs in a
-- statement. Jobs that the service cancels are processed in batches of 1,000. An update by the
-- engine is recognized because it also changes fence, last_seq, generation, lost_attempts or lane.
-- A truncate is rejected, because it fires no row triggers.
create or replace function queue.cancel_by_update()
returns trigger
language plpgsql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_count integer;
begin
  if tg_op = 'TRUNCATE' then
    perform queue.refuse(
      409,
      'invalid_state',
      'truncate would leave data of the jobs; delete from public.jobs instead'
    );
  elsif (new.generation, new.lost_attempts, new.lane)
      is distinct from (old.generation, old.lost_attempts, old.lane)
    or (
      new.status, new.priority, new.ord, new.queue, new.job_type, new.workspace_id,
      new.next_retry_at, new.scheduled_for, new.deadline_at, new.start_by_at,
      new.concurrency_key
    ) is not distinct from (
      old.status, old.priority, old.ord, old.queue, old.job_type, old.workspace_id,
      old.next_retry_at, old.scheduled_for, old.deadline_at, old.start_by_at,
      old.concurrency_key
    )
  then
    return new;
  elsif new.status <> 'cancelled'
    or old.status in ('completed', 'failed', 'cancelled')
  then
    perform queue.refuse(
      409,
      'invalid_state',
      case
        when new.status = old.status
          then 'an update cannot change times, keys or the queue of a job; '
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
    -- only managers may cancel many jobs, as in queue.change_jobs
    if current_setting('minutehand.has_cancelled', true) = 'yes' then
      perform queue.refuse(
        403,
        'forbidden',
        'only managers of the workspace may cancel many jobs at once',
        old.workspace_id::text
      );
    end if;
    perform set_config('minutehand.has_cancelled', 'yes', true);
  end if;
  v_count := length(
    set_config(
      'minutehand.cancels',
      concat(current_setting('minutehand.cancels', true), old.id, ' '),
      true
    )
  ) / 37;
  if v_count > 1000 and queue.caller() is not null then
    perform queue.admit('rows', null, queue.caller(), 1000);
    perform queue.refuse(
      400,
      'invalid_argument',
      'an update may cancel at most 1,000 jobs; select fewer, or call cancel_jobs',
      'status'
    );
  end if;
  perform queue.cancel_updated() where v_count = 1000 and queue.caller() is null;
  return null;
end;
$$;

-- Charge the person who calls, and cancel the jobs that queue.cancel_by_update has collected.
create or replace function queue.cancel_updated()
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_ids constant uuid[] := string_to_array(
    rtrim(current_setting('minutehand.cancels', true)), ' '
  );
begin
  perform set_config('minutehand.cancels', '', true);
  perform queue.admit(
    'rows',
    null,
    queue.caller(),
    coalesce(cardinality(v_ids), 0) - queue.take_reserved()
  );
  perform queue.cancel(v_ids, queue.clock(), p_is_locked => true) where v_ids <> '{}';
end;
$$;

create or replace function queue.after_update()
returns trigger
language plpgsql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
begin
  perform queue.cancel_updated();
  return null;
end;
$$;

create trigger jobs_after_update
  after update on public.jobs
  for each statement
  when (
    current_setting('minutehand.cancels', true) <> ''
    or current_setting('minutehand.reserved', true) <> ''
  )
  execute function queue.after_update();

-- Retry failed and cancelled jobs, which the caller has locked. Skip a job whose unique key now
-- belongs to another job. Insert signals, so that maintenance retries the children that were
-- cancelled with their parent. Return the number of retried jobs.
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
  -- a job that ended its process must run alone after the retry
  insert into queue.suspects (job_id, workspace_id, worker, company, since)
  select j.id, j.workspace_id, coalesce(j.worker, 0), j.id, p_now
  from public.jobs as j
  where j.id = any (v_ids) and j.error_data ->> 'reason' = 'worker_lost'
  on conflict do nothing;
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
  v_family integer; -- number of retried jobs: this job and up to 5,000 children
begin
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
  perform queue.admit(
    'changes',
    v_job.workspace_id,
    queue.caller(),
    v_family,
    octet_length(p_payload::text)
  );
  perform queue.hold_jobs(array[p_job_id]);
  v_job := queue.visible_job(p_job_id);
  if v_job.status in ('failed', 'cancelled') then
    if queue.retry(array[p_job_id], v_now) = 0 then
      perform queue.refuse(
        409,
        'duplicate_job',
        'another job now has the unique key of this job',
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
    perform queue.leave_places(array[p_job_id]);
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
  if p_payload <> 'null' then -- validate the payload as in an enqueue
    v_job := queue.new_job(
      v_job.workspace_id,
      queue.caller(),
      queue.require_type(v_job.job_type),
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
  perform queue.wake_worker(v_now);
  return queue.job_json(queue.visible_job(p_job_id));
end;
$$;

comment on function public.retry_job is
  E'Run a failed or cancelled job again, or a delayed job now, optionally with another payload. '
  'Returns the job.\n\nFinished steps are kept. 409 in any other state, 429 job_busy while another '
  'transaction changes the job.';

select queue.allow('authenticated, service_role', 'public.retry_job');

-- Cancel or retry up to p_limit jobs that match a filter of public.list_jobs, newest first. The
-- search ends after two seconds. If the filter has no state, cancel live jobs, or retry failed
-- jobs.
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
  -- maximum price of the whole search, so that a repeated call can pay for it again
  v_unpaid integer := queue.setting('user_enqueues_burst')::integer / 4;
  v_price integer;
  v_found record;
  v_ids uuid[] := '{}';
  v_count integer;
begin
  perform queue.may_manage(p_workspace_id);
  if p_filter ? 'workspace_id' then
    perform queue.refuse(
      400,
      'invalid_argument',
      'the filter must not contain workspace_id',
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
    v_price := least(v_found.searched / 20, v_unpaid);
    v_unpaid := v_unpaid - v_price;
    perform queue.admit('rows', null, queue.caller(), v_price);
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
    perform queue.admit('changes', p_workspace_id, queue.caller(), cardinality(v_ids));
    perform queue.hold_jobs(v_ids);
    v_count := queue.retry(v_ids, v_now);
    perform queue.wake_worker(v_now) where v_count > 0;
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
  'cursor}.\n\nFor managers. While more is true, call again with the cursor as p_cursor.';

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
  E'Retry failed jobs that match a filter of list_jobs, at most p_limit (1,000): {count, more, '
  'cursor}.\n\nFor managers. A filter with the state cancelled retries cancelled jobs. While more '
  'is true, call again with the cursor as p_cursor.';

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
  perform queue.take_call_slot(v_job.workspace_id, p_writes => true); -- it may copy many steps
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
      -- Schema version 0 means that no worker has published the job type yet. The worker that
      -- publishes it also checks the payloads of the jobs that wait.
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
  perform queue.admit( -- charge the size of the copied results, as an enqueue charges its payload
    'changes',
    v_job.workspace_id,
    queue.caller(),
    0,
    sum(octet_length(s.value::text)) + queue.output_bytes(p_job_id)
  )
  from queue.steps as s
  where s.job_id = p_job_id and s.created_at < v_from_at;
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
  if found then
    perform queue.copy_output(p_job_id, v_id);
  end if;
  return v_made || jsonb_build_object('job', public.get_job(v_id));
end;
$$;

comment on function public.replay_job is
  E'Run a job again as a new job, from a finished step or its start: {job, created, wake}.\n\n'
  'Request: {from_step?, payload?, idempotency_key?}. Steps that finished before from_step are '
  'kept.';

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
  where t.job_type = v_type -- a pause may exist after its job type is deleted
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
  perform queue.send_wakeup(queue.clock()), queue.wake_worker()
  where not v_paused;
  -- Return the remaining pauses too, because another pause may still stop the resumed jobs.
  return jsonb_build_object('kind', v_kind, 'name', v_name, 'paused', false)
    || coalesce(
      (
        select jsonb_build_object(
          'paused', true,
          'left', jsonb_agg(jsonb_build_object(
            'kind', p.kind,
            'reason', p.reason,
            'paused_by', queue.shown_person(p.paused_by, v_workspace),
            'next', queue.render_guidance(
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
  'workspace_type), paused = true, reason?}. Returns {kind, name, paused, left: [{kind, reason, '
  'paused_by, next}]}. left lists the pauses that still stop these jobs.\n\nRunning jobs continue. '
  'Operators pause a type or queue of all workspaces. Managers pause their workspace, or a type in '
  'it.';

select queue.allow('authenticated, service_role', 'public.pause_jobs');

create unlogged sequence queue.number_before minvalue 0;

-- Rounds of the publisher (queue.do_announcements). Each round inserts a row, because updates of a
-- single row would get slow while an old snapshot is open. The last row is the state of the
-- publisher. All feed rows that are visible in the snapshot `seen` are published. Of the feed rows
-- of the transaction xid, the rows up to the id own_id are published. If a round did not reach the
-- end of the feed, the next round continues after the feed row with this number and id, and reads
-- the rows that are visible in the snapshot `until`.
create table queue.publisher (
  round bigint generated always as identity primary key,
  seen pg_snapshot not null,
  xid xid8, -- transaction of the round
  own_id bigint,
  until pg_snapshot,
  number bigint,
  id bigint
);

-- Times in tenths of a second since 1970. unsent_at is the last time when a statement left its
-- messages to the publisher. published_at is the last time when the publisher ran.
create unlogged sequence queue.unsent_at minvalue 0 start 0;

-- noqa: PRS
create unlogged sequence queue.published_at minvalue 0 start 0;

-- noqa: PRS

-- Topics whose messages exceeded the message budget, so that their followers must be asked to read
-- the jobs again.
create table queue.late_topics (
  topic text primary key,
  workspace_id uuid not null,
  since timestamptz not null, -- time of the oldest event that was not sent
  unique (workspace_id, topic)
);

comment on column queue.late_topics.topic is 'Person: words';

drop function queue.message_budget();

-- see 18_people.sql

-- Return how many Realtime messages may be sent per second, and how many were sent in the current
-- second. The budget is 80 % of the rate in Supabase's plan, because Realtime averages the rate
-- over five seconds, which can overlap six of the seconds counted here.
-- p_changes: Changes that the caller is about to publish.
-- is_streamed: True if an API server streams any topic to its clients.
-- is_followed: True if any topic has a follower.
-- is_busy: True if the messages must be left to the publisher, because there are too many changes,
--   or because five rows of a workspace were added to the feed in the current second.
create or replace function queue.message_budget(
  p_changes queue.change[],
  out budget bigint,
  out used bigint,
  out is_streamed boolean,
  out is_followed boolean,
  out is_busy boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_second bigint := date_part('epoch', clock_timestamp())::bigint;
  -- Read the counter before the new second is stored, so that messages sent between the two belong
  -- to the new second.
  v_counted constant bigint := coalesce(
    pg_sequence_last_value('queue.messages_counted'),
    0
  );
  v_before bigint := pg_sequence_last_value('queue.messages_before');
  v_number bigint := pg_sequence_last_value('queue.number_before');
begin
  if v_second is distinct from pg_sequence_last_value('queue.messages_second') then
    v_before := setval('queue.messages_before', v_counted);
    v_number := setval(
      'queue.number_before',
      coalesce(pg_sequence_last_value('queue.feed_base'), 0)
        + pg_snapshot_xmax(pg_current_snapshot())::text::bigint
    );
    v_second := setval('queue.messages_second', v_second);
  end if;
  select
    case s.value
      when '"free"' then 80
      when '"pro"' then 400
      else s.value::bigint
    end,
    exists (select from queue.streamed_topics),
    exists (select from queue.followers),
    exists (
      select from unnest(p_changes) as c
      cross join lateral (
        select from queue.feed as f
        where f.workspace_id = c.workspace_id and f.number >= v_number
        offset 4
        limit 1
      ) as l
    )
  into budget, is_streamed, is_followed, is_busy
  from queue.settings as s
  where s.name = 'realtime_messages_per_second';
  used := v_counted - v_before;
  is_busy := is_busy or used + 2 * cardinality(p_changes) > budget;
end;
$$;

-- A Realtime message to a topic of a workspace.
-- since: Time of the oldest event in the message.
-- has_output: True if the message contains output of a job.
-- cost: Number of messages in the sense of Supabase's plans, which is one more than the number of
--   deliveries.
create type queue.message as (
  topic text,
  workspace_id uuid,
  since timestamptz,
  has_output boolean,
  event text,
  payload jsonb,
  cost bigint
);

drop function queue.message_of(queue.change[],timestamp with time zone);

-- Build a message from groups of events. The events of a group differ only in job and seq. A
-- message with a single event has no groups.
create or replace function queue.message_of(
  p_groups jsonb,
  out event text,
  out payload jsonb
)
language plpgsql immutable
set search_path = ''
as $$
declare
  v_one constant jsonb := p_groups -> 0;
begin
  if p_groups -> 1 is null and v_one #> '{job_ids,1}' is null then
    event := v_one ->> 'type';
    payload := v_one - '{job_ids,seqs}'::text[] || jsonb_build_object(
      'job_id', v_one #> '{job_ids,0}',
      'seq', v_one #> '{seqs,0}'
    );
  else
    event := 'job.events';
    payload := jsonb_build_object('groups', p_groups);
  end if;
end;
$$;

create or replace function queue.group_of(p_change queue.change)
returns jsonb
language plpgsql immutable
set search_path = ''
as $$
begin
  return jsonb_build_object(
    'type', p_change.type,
    'data', p_change.data,
    'at', p_change.at,
    'job_ids', p_change.job_ids,
    'seqs', case
      when p_change.seqs[1] = all (p_change.seqs) then p_change.seqs[1:1]
      else p_change.seqs
    end
  );
end;
$$;

-- Return the Realtime messages for changes of jobs. The topic of a workspace receives changes of
-- state. The topic of a session with followers receives all changes except log lines. The topic of
-- a job with followers receives all changes except the job's creation, because no one can follow a
-- job before it exists. Without followers, the messages for up to ten events of a workspace are
-- built without a query, which would cost 8 % of a settlement. tests/sql/test_live.py compares both
-- ways.
create or replace function queue.messages_of(
  p_changes queue.change[],
  p_is_followed boolean,
  out messages queue.message[],
  out cost bigint
)
language plpgsql
set search_path = ''
as $$
declare
  v_one constant queue.change := p_changes[1];
  v_groups jsonb := '[]';
  v_each queue.change;
  v_message record;
begin
  if not p_is_followed and cardinality(p_changes) <= 10 then
    foreach v_each in array p_changes loop
      exit when v_each.workspace_id <> v_one.workspace_id
        or v_each.seqs is null
        or v_each.job_ids[2] is not null
        or v_each.type in ('job.progress', 'job.log', 'job.output');
      v_groups := v_groups || queue.group_of(v_each);
    end loop;
    if jsonb_array_length(v_groups) = cardinality(p_changes) then
      v_message := queue.message_of(v_groups);
      cost := 2;
      messages := array[
        row(
          'workspace:' || v_one.workspace_id,
          v_one.workspace_id,
          v_one.at,
          false,
          v_message.event,
          v_message.payload,
          2
        )::queue.message
      ];
      return;
    end if;
  end if;
  with changes as materialized (
    select c.*, row_number() over () as n
    from unnest(p_changes) as c
    where c.seqs is not null
  ),
  wanted as (
    select 'workspace:' || c.workspace_id as topic, c.*
    from changes as c
    where c.type not in ('job.progress', 'job.log', 'job.output')
    union all
    select 'session:' || c.session_id, c.*
    from changes as c
    where c.type <> 'job.log'
      and exists (
        select from queue.followers as f
        where f.topic = 'session:' || c.session_id
      )
      and queue.session_workspace(c.session_id) = c.workspace_id
    union all
    select
      'job:' || i.id,
      c.workspace_id,
      c.session_id,
      c.type,
      c.data,
      array[i.id],
      array[i.seq],
      c.at,
      c.n
    from changes as c
    cross join unnest(c.job_ids, c.seqs) as i (id, seq)
    where c.type <> 'job.created'
      and i.id in (
        select substr(f.topic, 5)::uuid
        from queue.followers as f
        where f.topic like 'job:%'
      )
  ),
  -- Realtime accepts messages of up to 256 kB. A message is limited to 100 kB by pg_column_size,
  -- because the JSON text may be longer than pg_column_size.
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
  ),
  grouped as (
    select
      b.topic,
      b.workspace_id,
      min(b.at) as since,
      bool_or(b.type = 'job.output') as has_output,
      jsonb_agg(
        queue.group_of(
          row(
            b.workspace_id, b.session_id, b.type, b.data, b.job_ids, b.seqs, b.at
          )::queue.change
        )
        order by b.n
      ) as groups,
      1 + greatest(1, (select count(*) from queue.followers as f where f.topic = b.topic)) as cost
    from bins as b
    group by b.topic, b.workspace_id, b.bin
    order by b.topic, b.bin
  )
  select
    array_agg(
      row(
        g.topic, g.workspace_id, g.since, g.has_output, m.event, m.payload, g.cost
      )::queue.message
    ),
    coalesce(sum(g.cost), 0)
  into messages, cost
  from grouped as g
  cross join lateral queue.message_of(g.groups) as m;
end;
$$;

drop function queue.write_messages(text[],text[],jsonb[]);

-- Count messages, and insert them into realtime.messages. Return false if the insert fails.
-- p_raises: True to raise the error if the insert fails.
create or replace function queue.write_messages(
  p_messages queue.message[],
  p_cost bigint,
  p_raises boolean default false
)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_ignored bigint;
begin
  for v_nth in 1 .. p_cost loop
    v_ignored := nextval('queue.messages_counted');
  end loop;
  insert into realtime.messages (id, topic, extension, event, payload, private)
  select queue.new_id(), m.topic, 'broadcast', m.event, m.payload, true
  from unnest(p_messages) as m;
  return true;
exception when others then -- a failed message must not fail an enqueue or a settlement
  -- Realtime creates the partition of realtime.messages for a day when a client connects. Without
  -- the partition, no client is connected that needs the message, so return true.
  if p_raises and sqlstate <> '23514' then
    raise;
  end if;
  raise warning 'messages were not sent: % (%)', sqlerrm, sqlstate;
  return sqlstate = '23514';
end;
$$;

drop function queue.send(queue.change[],uuid,boolean,boolean,record,timestamp with time zone);

-- Send the Realtime messages for changes of jobs, and notify API servers that stream their topics.
-- Return false if the messages are left to the publisher, because the workspace is busy, the
-- message budget is too small or Realtime fails. Messages of progress, log lines and output may use
-- half of the budget, changes of state three quarters, and messages of the publisher the whole
-- budget.
create or replace function queue.send(p_changes queue.change[])
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_is_minor constant boolean := p_changes[1].type
    in ('job.progress', 'job.log', 'job.output');
  v_budget constant record := queue.message_budget(p_changes);
  v_new record;
  v_at bigint;
begin
  -- notify only if an API server streams topics, because each commit with a notification takes a
  -- lock of the whole Postgres server
  if v_budget.is_streamed then
    perform pg_notify('minutehand_events', s.topic)
    from queue.streamed_topics as s
    where s.expires_at > clock_timestamp()
      and exists (
        select from unnest(p_changes) as c
        where s.topic = 'workspace:' || c.workspace_id and not v_is_minor
          or s.topic = 'session:' || c.session_id and c.type <> 'job.log'
          or s.topic = any (array(select 'job:' || i from unnest(c.job_ids) as i))
      );
  end if;
  if to_regclass('realtime.messages') is null then
    return true;
  elsif (v_is_minor or not v_budget.is_busy)
    -- leave the messages of a long transaction to the publisher, because they would all arrive when
    -- the transaction commits
    and clock_timestamp() - now() <= interval '1 second'
  then
    v_new := queue.messages_of(p_changes, v_budget.is_followed);
    if v_new.cost = 0 then -- no topic receives any of the changes
      return true;
    elsif v_budget.used + v_new.cost
      <= v_budget.budget * (case when v_is_minor then 0.5 else 0.75 end)
    then
      if queue.write_messages(v_new.messages, v_new.cost) then
        return true;
      end if;
    end if;
  end if;
  v_at := (date_part('epoch', clock_timestamp()) * 10)::bigint;
  if v_at is distinct from pg_sequence_last_value('queue.unsent_at') then
    v_at := setval('queue.unsent_at', v_at);
  end if;
  return false;
end;
$$;

-- Publish changes of jobs, which the caller has locked. Each change becomes a row of queue.feed,
-- except log lines, output, and progress of jobs without a session whose messages were sent. A
-- change with seqs also becomes Realtime messages (queue.send). Return true. The function is
-- strict, so that it does nothing and returns null if p_changes is null.
-- p_is_soon: True if new jobs are due within a minute, so that idle workers must be notified.
create or replace function queue.publish(
  p_changes queue.change[],
  p_now timestamptz,
  p_is_soon boolean default true
)
returns boolean
language plpgsql strict
set search_path = ''
as $$
declare
  v_number constant bigint := queue.feed_number(
    greatest(pg_current_xact_id(), pg_snapshot_xmax(pg_current_snapshot()))
  );
  v_unsent constant boolean := nullif(not queue.send(p_changes), false); -- true, or null
begin
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
    p_is_soon and c.type in ('job.created', 'job.redriven', 'job.resumed'),
    case when c.seqs is not null then v_unsent end
  from unnest(p_changes) as c
  where v_unsent
    or c.type not in ('job.progress', 'job.log', 'job.output')
    or c.type = 'job.progress' and c.session_id is not null;
  return true;
end;
$$;

-- The publisher. Send one message per topic for all new feed rows whose statements sent no
-- messages, up to 5,000 rows in a round. A round that reaches the end of the feed includes rows of
-- the current transaction. If the rows of a topic are older than two seconds, or if the message
-- budget is too small, only ask the topic's followers to read the jobs again. The same applies to
-- rows about output, because the feed does not store the output.
create or replace function queue.do_announcements(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_xid constant xid8 := pg_current_xact_id_if_assigned();
  v_budget record;
  v_at record;
  v_new record;
  v_count integer := 0;
begin
  if to_regclass('realtime.messages') is null or not queue.try_lock('announcements') then
    return 0;
  end if;
  v_budget := queue.message_budget('{}');
  -- A transaction that was running at the last round may have added feed rows with low numbers. If
  -- it has ended since, begin with its number.
  select p.*, l.*
  into v_at
  from (
    select
      coalesce(s.seen, '1:1:') as seen,
      s.xid,
      s.own_id,
      s.until,
      coalesce(s.until, pg_current_snapshot()) as visible,
      coalesce(
        s.number,
        coalesce(pg_sequence_last_value('queue.feed_base'), 0)
          + least(coalesce(pg_snapshot_xmax(s.seen)::text::bigint, 0), e.ended)
      ) as number,
      coalesce(s.id, 0) as id,
      e.ended is not null as is_back
    from (select) as o
    left join (
      select *
      from queue.publisher
      order by round desc
      limit 1
    ) as s on true
    cross join lateral (
      select min(x::text::bigint) as ended
      from pg_snapshot_xip(s.seen) as x
      where pg_visible_in_snapshot(x, pg_current_snapshot())
    ) as e
  ) as p
  cross join lateral (
    select
      array_agg(
        row(
          f.workspace_id, f.session_id, f.type, f.data, f.job_ids, f.seqs, f.at
        )::queue.change
        order by f.number, f.id
      ) filter (where f.unsent) as changes,
      -- also true if messages of any topic are already late
      bool_or(
        f.type = 'job.output'
        or f.at <= p_now - interval '2 seconds'
        or exists (select from queue.late_topics)
      ) filter (where f.unsent) as is_late,
      count(*) as lines,
      coalesce(
        max(f.id) filter (where f.xid = v_xid),
        case when p.xid = v_xid then p.own_id end, -- an earlier round of the transaction
        0
      ) as last_own_id,
      -- the last feed row of a round that does not reach the end of the feed
      (array_agg(f.number order by f.number, f.id))[5000] as last_number,
      (array_agg(f.id order by f.number, f.id))[5000] as last_id
    from (
      select *
      from queue.feed as n
      where n.number >= p.number
        and (n.number, n.id) > (p.number, p.id)
        and case
          when n.xid = p.xid then n.id > p.own_id
          else not pg_visible_in_snapshot(n.xid, p.seen)
        end
        and case
          when n.xid = v_xid then p.until is null
          else pg_visible_in_snapshot(n.xid, p.visible)
        end
      order by n.number, n.id
      limit 5000
    ) as f
  ) as l;
  if v_at.changes is not null or exists (select from queue.late_topics) then
    v_new := queue.messages_of(v_at.changes, v_budget.is_followed);
    if v_at.is_late is not false or v_new.cost > v_budget.budget - v_budget.used then
      v_new := queue.put_off(v_new.messages, v_budget.budget - v_budget.used, p_now);
    end if;
    v_count := coalesce(cardinality(v_new.messages), 0);
    if v_count > 0 then
      perform queue.write_messages(v_new.messages, v_new.cost, true);
    end if;
  end if;
  if v_at.last_id is not null then
    insert into queue.publisher (seen, xid, own_id, until, number, id)
    values (
      v_at.seen, v_at.xid, v_at.own_id, v_at.visible, v_at.last_number, v_at.last_id
    );
  -- Insert a row even without new feed rows if the round began at the number of a transaction that
  -- has ended since, so that no later round begins there again.
  elsif v_at.lines > 0 or v_at.until is not null or v_at.is_back then
    insert into queue.publisher (seen, xid, own_id)
    values (v_at.visible, v_xid, v_at.last_own_id);
  end if;
  return v_count;
end;
$$;

-- Return the messages that the publisher may send, and store the topics of the other messages in
-- queue.late_topics. A message is late if its events are older than two seconds, or if it has
-- output. Workspaces with few messages come first. The rest of the message budget is used for
-- messages that ask the followers of late topics to read the jobs again. In each workspace, the
-- topic that has waited longest comes first. A topic whose message alone exceeds the budget comes
-- last.
create or replace function queue.put_off(
  p_messages queue.message[],
  p_left bigint,
  p_now timestamptz,
  out messages queue.message[],
  out cost bigint
)
language plpgsql
set search_path = ''
as $$
declare
  v_late tid[];
  v_asked record;
begin
  with priced as materialized (
    select
      m.message,
      m.n,
      not m.is_late
        and sum((m.message).cost) over (
          order by m.is_late, m.cost_of_all, (m.message).workspace_id, m.n
        ) <= p_left as is_sent
    from (
      select
        u as message,
        u.has_output or u.since <= p_now - interval '2 seconds' as is_late,
        row_number() over () as n,
        sum(u.cost) over (partition by u.workspace_id) as cost_of_all
      from unnest(p_messages) as u
    ) as m
  ),
  late as (
    insert into queue.late_topics (topic, workspace_id, since)
    select (p.message).topic, (p.message).workspace_id, min((p.message).since)
    from priced as p
    where not p.is_sent
    group by 1, 2
    on conflict (topic) do nothing
  )
  select
    array_agg(p.message order by p.n),
    coalesce(sum((p.message).cost), 0)
  into messages, cost
  from priced as p
  where p.is_sent;
  v_late := queue.fair_batch(
    'queue.late_topics',
    'true',
    'true',
    'o.since',
    p_now
  );
  with priced as (
    select
      o.*,
      sum(o.cost) over (
        order by o.cost > p_left - put_off.cost, o.nth, o.since, o.topic
      ) as total
    from (
      select
        l.*,
        1
          + greatest(1, (select count(*) from queue.followers as f where f.topic = l.topic)) as cost,
        row_number() over (partition by l.workspace_id order by l.since, l.topic) as nth
      from queue.late_topics as l
      where l.ctid = any (v_late)
    ) as o
  ),
  gone as (
    delete from queue.late_topics as l
    using priced as p
    where p.total <= p_left - put_off.cost and l.topic = p.topic
    returning p.*
  )
  select
    array_agg(
      row(
        g.topic,
        g.workspace_id,
        g.since,
        false,
        'job.look_again',
        jsonb_build_object('look_again', true, 'since', g.since, 'at', p_now),
        g.cost
      )::queue.message
      order by g.total
    ) as messages,
    coalesce(sum(g.cost), 0) as cost
  into v_asked
  from gone as g;
  messages := messages || v_asked.messages;
  cost := cost + v_asked.cost;
end;
$$;

-- Run the publisher if a statement left messages to the publisher in the last two seconds, at most
-- once in a tenth of a second. If Realtime fails, the worker's call still succeeds, and a later
-- call sends the messages. Maintenance also runs the publisher, because transactions may commit
-- later, and records its failures.
create or replace function queue.send_unsent()
returns boolean -- an assignment costs less than the query of `perform`
language plpgsql
set search_path = ''
as $$
declare
  v_at constant bigint := (date_part('epoch', clock_timestamp()) * 10)::bigint;
begin
  if v_at - pg_sequence_last_value('queue.unsent_at') between 0 and 20
    and v_at is distinct from pg_sequence_last_value('queue.published_at')
  then
    begin
      if queue.do_announcements(queue.clock(), null) > 0 then
        return setval('queue.published_at', v_at) > 0;
      end if;
    exception when others then
      raise warning 'messages were not sent: % (%)', sqlerrm, sqlstate;
    end;
  end if;
  return false;
end;
$$;

-- Return the topic on which Realtime wakes workers. The id of the topic is a secret that only
-- workers receive, from public.lease_jobs. The topic changes when worker keys are revoked.
create or replace function queue.wake_topic()
returns text
language plpgsql stable
set search_path = ''
as $$
begin
  return 'worker:' || encode(
    sha256(convert_to('wake ' || (queue.setting('guest_key') #>> '{}'), 'utf8')),
    'hex'
  );
end;
$$;

-- Return true if the caller may join a private topic of Realtime. A member may join the topics of
-- their workspaces, and of the jobs and sessions of these workspaces. A guest may join the topic of
-- an open guest session. The user of a guest session for one user may also join the topics of its
-- jobs. A worker may join queue.wake_topic, without the token of a person.
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
  if v_kind = 'worker' then
    return p_topic = queue.wake_topic() and auth.jwt() ->> 'sub' is null;
  elsif v_kind = 'session' and v_id like 'guest\_%' then
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

grant execute on function queue.may_follow to anon, authenticated;

-- Return a number that changes with each change that the messages of a topic report, so that a
-- client can detect missed messages. The number of a job's topic also changes when one of the job's
-- streams grows. The number of any other topic is the sum of the ids of its last twenty feed rows.
-- The highest id is not enough, because a transaction that commits late may add a row with a lower
-- id.
create or replace function queue.topic_seq(p_topic text)
returns text
language plpgsql stable
set search_path = ''
as $$
declare
  v_kind constant text := split_part(p_topic, ':', 1);
  v_id constant text := substr(p_topic, length(v_kind) + 2);
begin
  return case v_kind
    when 'job' then (
      select concat(queue.job_json(j) ->> 'last_seq', queue.streams_json(j.id))
      from public.jobs as j
      where j.id = v_id::uuid
    )
    when 'session' then (
      select sum(n.id)::text
      from (
        select f.id
        from queue.feed as f
        where f.session_id = v_id
        order by f.number desc, f.id desc
        limit 20
      ) as n
    )
    else (
      select sum(n.id)::text
      from (
        select f.id
        from queue.feed as f
        where f.workspace_id = v_id::uuid
        order by f.number desc, f.id desc
        limit 20
      ) as n
    )
  end;
end;
$$;

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
  perform queue.admit('rows', null, queue.caller());
  -- Keep only the latest 100 topics that a user follows, so that no user can use up the message
  -- budget. The limit does not apply to guests, because all guests share one user id.
  delete from queue.followers
  where ctid = any (array(
    select o.ctid
    from (
      -- skip locked rows, because two calls of a user could otherwise wait for each other
      select f.topic, f.user_id, f.follower_id
      from queue.followers as f
      where f.user_id = queue.caller()
        and (f.topic, f.follower_id) <> (p_topic, p_follower_id)
      order by f.seen_at desc
      offset 99
    ) as old
    join queue.followers as o using (topic, user_id, follower_id)
    for update of o skip locked
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
    'seq', queue.topic_seq(p_topic),
    -- set the interval so that all followers together poll about 50 times per second
    'check_seconds', (
      select count(*)
      from (select from queue.followers limit 1500) as f
    ) / 50.0
  );
end;
$$;

select queue.allow('anon, authenticated, service_role', 'queue.follow');

create or replace function public.follow_topic(p_topic text, p_follower_id uuid)
returns jsonb
language sql
set search_path = '' -- the body is parsed at creation, so guests need no usage of schema queue
begin atomic select queue.follow(p_topic, p_follower_id);
end;

comment on function public.follow_topic is
  E'Report that a client follows a private topic: {again_seconds, check_seconds, seq}.\n\n'
  'Call this before joining, and every again_seconds while joined. Topics of jobs and sessions get '
  'messages only while someone follows them. If seq is the same as before, nothing has changed.';

select queue.allow('anon, authenticated, service_role', 'public.follow_topic');

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
  'Subscribe to topics for one minute, on the channel minutehand_events: {again_seconds}.';

select queue.allow('job_worker, service_role', 'public.stream_topics');

-- Return the feed number of a transaction id. After a dump is restored on another server, feed rows
-- of the dump may have higher numbers than this server's transaction ids. The first call then
-- raises queue.feed_base, so that new numbers are higher than all numbers of the dump. Feed rows
-- and cursors of the dump remain valid.
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
  -- Other transactions wait for this lock until the transaction ends, but only once after a
  -- restore.
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
    -- the transaction ids in these rows are ids of another server
    insert into queue.publisher (seen) values ('1:1:');
    perform setval('queue.notes_gone', 0);
  end if;
  return v_number;
end;
$$;

-- Delete the data of each feed row whose jobs are all deleted. While one of its jobs exists, the
-- row keeps its data, which is the same for all of its jobs.
-- p_since: Creation time of the oldest deleted job.
create or replace function queue.scrub_feed(
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
      and (f.data <> '{}' or f.session_id is not null)
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

-- Parse a cursor of the feed. "1:1:" is the beginning of the feed, and null is its present end.
-- Return null if the cursor belongs to another history, or if feed rows after the cursor have been
-- deleted.
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
  -- limit the length of the cursor, because a response repeats the cursor with each event
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

-- Return a page of events of a workspace or a session from the feed. The page has the events that
-- are visible in the snapshot `until` of the cursor, but not in its snapshot `seen`. A call reads
-- at most 1,000 feed rows, so even an empty page may have more = true. Only the feed of a session
-- includes progress.
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
  -- Feed rows up to this number were written on another server, so their transaction ids have no
  -- meaning on this server.
  v_base constant bigint := coalesce(pg_sequence_last_value('queue.feed_base'), 0);
  v_hidden constant text[] := case
    when p_session_id is null then '{job.progress,job.log}'
    else '{job.log}'
  end;
  -- if both ids are given, the function that calls has already checked access to the session
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
  -- A call that reads more than 100 events takes a call slot. Smaller calls need no slot, because
  -- after a message many clients read a few new events at the same time.
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
  -- do not count events of the first feed row that the client has already received, because a row
  -- may have thousands of events
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
  'created_at}], places, cursor, more, reset?}.\n\nEach event is returned once, in order of a '
  'job''s seq. Without a cursor the feed begins now. With "1:1:" it begins with the oldest event. '
  'reset: true if events may be missing. places: the cursor after each event.';

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
  E'Key that signs the address of a guest, in hexadecimal: {key}.\n\nThe header '
  'x-minutehand-client has the address, the Unix time and hex(sha256(key || sha256(key || "address '
  'time"))).';

select queue.allow('job_worker, service_role', 'public.guest_key');

-- For apps. Count an action of a guest, or reject the action with status 429. The limit for each
-- network address is the setting <name>_per_minute, and null means no limit. An IPv6 address counts
-- as its /64 network. The address must be signed by the API or set by the gateway, because a client
-- could forge any other address. The limit does not apply to the service and to people with an
-- account.
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
        -- Use only the last address, because a client can forge all other addresses in this header.
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
  perform queue.take_tokens(
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

-- Return a job as guests of its session see it, without its payload and the user who created it.
create or replace function queue.guest_json(p_job public.jobs)
returns jsonb
language sql stable
set search_path = ''
as $$
select to_jsonb(j)
from (
  select
    p_job.id,
    p_job.session_id,
    p_job.job_type,
    p_job.status,
    p_job.result,
    p_job.error_message,
    p_job.attempts,
    p_job.max_attempts,
    p_job.next_retry_at,
    p_job.scheduled_for,
    p_job.started_at,
    p_job.finished_at,
    p_job.completed_at,
    p_job.cancel_requested_at,
    p_job.created_at,
    p_job.updated_at,
    p_job.last_seq,
    coalesce(
      p_job.progress,
      '{"percentage": 0, "stage": null, "message": null}'
    ) as progress
) as j
$$;

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
  -- The session does not exist, has ended, or belongs to another user. The error does not contain
  -- the session id, because the id may grant access.
  if not found then
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

-- Postgres parses the bodies of the next functions when they are created, so callers need no right
-- on the schema queue.
create or replace function public.guest_session_jobs(p_session_id text)
returns jsonb
language sql stable
set search_path = '' begin atomic select queue.session_jobs(p_session_id);
end;

comment on function public.guest_session_jobs is
  E'Jobs of a guest session, newest first, at most 200, without payloads: {session_id, expires_at, '
  'jobs}.\n\n404 session_not_found if the session does not exist, has ended, or belongs to '
  'another user.';

create or replace function public.session_feed(
  p_session_id text,
  p_cursor text default null,
  p_limit integer default 500
)
returns jsonb
language sql stable
set search_path = '' begin atomic select queue.session_feed(
  p_session_id,
  p_cursor,
  p_limit
);
end;

comment on function public.session_feed is
  'Events of a session''s jobs without log lines, like event_feed. Without a cursor the feed '
  'begins with the oldest event.';

select queue.allow('anon, authenticated, service_role', 'public.session_feed');

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
  v_made := queue.open_session(p_workspace_id, v_user, v_seconds);
  return to_jsonb(v_made);
end;
$$;

comment on function public.open_guest_session is
  E'Open a session to a guest: {session_id, workspace_id, user_id, opened_at, expires_at}. For '
  'managers.\n\nThe session shows the jobs that have its session_id. Options: ttl_seconds (default '
  '86400), user_id (default: anyone).';

select queue.allow('authenticated, service_role', 'public.open_guest_session');

-- Return the first run of a schedule after p_after. Reject an unknown time zone, or a schedule
-- without a run within nine years, with status 400. Nine years are enough, because 29 February
-- comes at least once in eight years. When the clocks change, a local time may occur twice or
-- never. A schedule with fixed hours then runs once, at the first occurrence or right after the
-- gap. A schedule with * in the hours runs twice in a repeated hour.
create or replace function queue.first_run(p_cron text, p_timezone text, p_after timestamptz)
returns timestamptz
language plpgsql stable
set search_path = ''
as $$
declare
  v_fields constant text[] := regexp_split_to_array(
    btrim(
      coalesce(
        '{"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *",
          "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *",
          "@annually": "0 0 1 1 *"}'::jsonb ->> lower(btrim(p_cron)),
        left(p_cron, 501)
      )
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
  -- as in cron, if neither the day of the month nor the day of the week is *, a day must match only
  -- one of them
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
    -- reject other names, because Postgres would read a name such as Mars/Base5 as an offset
    raise invalid_parameter_value;
  end if;
  v_day := (p_after at time zone p_timezone)::date - 1; -- the clocks may go back past midnight
  for v_nth in 0..3296 loop
    v_in_month := extract(day from v_day)::integer = any (v_days);
    v_in_week := array[extract(dow from v_day), extract(isodow from v_day)]::integer[]
      && v_weekdays; -- Sunday is 0 or 7
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
      ) as w -- no clock change skips 300 minutes
      -- convert the local time with its UTC offset, and with the UTC offset twelve hours before
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

-- Correct the next run of schedules after the server's clock was ahead. Otherwise a clock that was
-- a day ahead for a moment would stop every schedule for a day. If this task last ran at a time
-- that is now in the future, begin a pass over all schedules. Otherwise continue the last pass, if
-- that pass is unfinished.
create or replace function queue.reset_schedules(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_after uuid := (
    select case
      -- tolerate a minute, because two maintenance calls may read slightly different times
      when t.done_at > p_now + interval '1 minute' then '00000000-0000-0000-0000-000000000000'
      else t.after_id
    end
    from queue.tasks as t
    where t.name = 'schedules'
  );
  v_one queue.schedules;
  v_next timestamptz;
  v_done integer := 0;
begin
  while v_after is not null loop
    select * into v_one
    from queue.schedules as s
    where s.id > v_after and s.enabled
    order by s.id
    limit 1
    for update skip locked;
    v_after := v_one.id;
    exit when v_after is null;
    begin
      v_next := queue.first_run(v_one.cron, v_one.timezone, p_now);
      if v_one.next_at > v_next then
        update queue.schedules
        set next_at = v_next
        where id = v_one.id;
        v_done := v_done + 1;
      end if;
    exception when others then
      null; -- the run of the schedule stores the error, for example an unknown time zone
    end;
    exit when clock_timestamp() > p_until;
  end loop;
  update queue.tasks
  set after_id = v_after
  where name = 'schedules' and after_id is distinct from v_after;
  return v_done;
end;
$$;

-- Enqueue the jobs of schedules that are due. The first due schedule of each tenant comes first,
-- then the second of each tenant, and so on. A run that is more than five minutes late counts as
-- missed. A schedule that is declared in code enqueues no job while no worker serves its job type,
-- because the jobs would only accumulate. If one schedule fails, the other schedules still run.
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
    limit 10000
  );
  v_id uuid;
  v_one queue.schedules;
  v_timing text; -- cron expression and time zone
  v_runs jsonb := '{}'; -- next run of each timing, because computing it costs more than an enqueue
  v_next timestamptz;
  v_job_id uuid;
  v_done integer := queue.reset_schedules(p_now, p_until);
begin
  foreach v_id in array v_ids loop
    select * into v_one
    from queue.schedules as s
    where s.id = v_id and s.enabled and s.next_at <= p_now
    for update skip locked;
    continue when not found;
    v_next := p_now + interval '1 hour'; -- used if the time zone is no longer known
    v_job_id := null;
    begin
      v_timing := v_one.cron || ' ' || v_one.timezone;
      if not v_runs ? v_timing then
        v_runs := v_runs
          || jsonb_build_object(v_timing, queue.first_run(v_one.cron, v_one.timezone, p_now));
      end if;
      v_next := v_runs ->> v_timing;
      if v_one.source is not null
        and (
          select s.unserved
          from queue.is_unserved(
            array[v_one.job_type],
            null,
            queue.live_workers(p_now),
            p_now
          ) as s
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
      end if;
      v_done := v_done + 1;
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
        null; -- the schedule stays due
      when others then
        update queue.schedules
        set problem = sqlerrm, next_at = v_next
        where id = v_id;
    end;
    -- Test the time at the end of the loop, so that at least one schedule is processed, because the
    -- result 0 would mean that no schedule is due.
    exit when clock_timestamp() > p_until;
  end loop;
  return v_done;
end;
$$;

-- Validate and store a schedule. If the cron expression and the time zone are unchanged, keep the
-- time of the next run, so that no run is skipped or repeated.
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
  -- only options that are useful for every job of a schedule
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

create or replace function public.put_schedule(p_workspace_id uuid, p_schedule jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_most constant integer := queue.setting('schedules_max');
  v_bytes_max constant bigint := 4 * queue.setting('payload_max_bytes')::bigint;
  v_bytes_before constant bigint := (
    select octet_length(s.payload::text)
    from queue.schedules as s
    where s.workspace_id = p_workspace_id and s.name = p_schedule ->> 'name'
  );
  v_saved queue.schedules;
begin
  perform queue.may_manage(p_workspace_id, octet_length(p_schedule::text));
  v_saved := queue.save_schedule(p_workspace_id, p_schedule, null, v_now);
  perform queue.new_job(
    p_workspace_id,
    queue.caller(),
    queue.require_type(v_saved.job_type, '', p_workspace_id),
    v_saved.payload,
    v_saved.options,
    v_now
  ); -- validate as in an enqueue of the job now
  perform queue.refuse(
    429,
    'quota_exceeded',
    format(
      'the workspace already has %s schedules, or their payloads %s bytes; delete some first',
      v_most,
      v_bytes_max
    ),
    'schedules_max'
  )
  from queue.schedules
  where workspace_id = p_workspace_id
  having v_saved.created_at = v_now and count(*) > v_most
    or octet_length(v_saved.payload::text) > coalesce(v_bytes_before, 0)
    and sum(octet_length(payload::text)) filter (where source is null) > v_bytes_max;
  return to_jsonb(v_saved);
end;
$$;

comment on function public.put_schedule is
  'Create or change a schedule by name: {name, cron, timezone, job_type, payload, options, missed, '
  'enabled}. A workspace has at most schedules_max schedules, and their payloads have at most '
  'four times payload_max_bytes.';

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
  'Delete a schedule. The jobs that it enqueued are kept.';

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
        jsonb_agg(
          to_jsonb(s) || jsonb_build_object('problem', p.problem)
          order by p.problem is null, s.name
        ),
        '[]'
      )
    )
    from queue.schedules as s
    left join queue.unserved_schedules(p_workspace_id, queue.clock()) as u on u.name = s.name
    cross join lateral coalesce(
      s.problem,
      'no worker serves the job type ' || u.job_type
    ) as p (problem)
    where s.workspace_id = p_workspace_id
  );
end;
$$;

comment on function public.list_schedules is
  'Schedules of a workspace, failing schedules first: {schedules: […]}.';

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
  'Next runs of a schedule {cron, timezone}, at most 20: {cron, timezone, runs: […]}.';

select queue.allow('authenticated, service_role', 'public.next_runs');

-- A suspect is a job whose process ended while the process also ran other jobs. It is unknown which
-- job ended the process, so each job is released and becomes a suspect, and no job loses an
-- attempt. A company is a group of suspects that run in one process, which runs no other jobs.
--
--   queue.blame             decides which jobs may have ended a process
--     queue.expired_items     turns the verdicts into outcomes that queue.settle applies
--   queue.lease_mode        decides what a worker may lease while there are suspects
--   queue.lease_suspects    leases one company, within all limits
--   queue.clear_suspects    clears the jobs whose attempts ended while their process lived on
--
-- When a process ends, its jobs are split into companies of about the same size. There are two
-- companies, or as many as the host of the process requests in the evidence. If there are no more
-- types than companies, each type has companies of its own, because usually one type has all guilty
-- jobs. Otherwise jobs of one type stay together. If the process of a company ends too, this
-- company is split in the same way. A job that ran alone when its process ended is guilty. A guilty
-- job loses an attempt, and also runs alone in its next attempt.

-- Decide which jobs may have ended the process of each worker whose leases are lost. Store guilty
-- jobs and suspects in queue.suspects. A job has one of three verdicts.
-- guilty: No other job can have ended the process.
-- suspect: The job or another one in the same process may have ended the process.
-- innocent: The stack trace of the process shows the code of another job type. A job that is only
--   missing from the list of jobs in the evidence is not innocent, because the job may have begun
--   after the process wrote the list.
--
-- others: Number of other jobs in the process.
create or replace function queue.blame(p_ids uuid[], p_now timestamptz)
returns table (job_id uuid, verdict text, others integer)
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
begin
  return query
    with held as materialized (
      select
        l.job_id,
        l.workspace_id,
        l.worker,
        l.lane,
        w.worker_id,
        l.job_id = any (p_ids) as is_lost,
        coalesce(
          w.evidence ? 'stack' and w.evidence ->> 'guilty_type' <> n.job_type,
          false
        ) as is_innocent,
        (
          select max(o.jobs)
          from queue.lost_leases as o
          where o.worker = l.worker and o.lost_at >= l.leased_at
        ) as lost_with,
        -- Number of stopped jobs whose processors still ran. Zero without evidence, because the
        -- process may still live. A job that always loses its worker would then never lose an
        -- attempt.
        case
          when w.evidence is null or w.abandoned is null then 0
          else jsonb_array_length(w.abandoned)
        end as abandoned,
        least(greatest((w.evidence ->> 'companies')::integer, 2), 100) as companies,
        count(*) over (partition by l.worker)::integer as held,
        count(*) over (partition by l.worker, l.lane)::integer as held_of_lane,
        dense_rank() over (partition by l.worker order by l.lane) as nth_lane
      from queue.leases as l
      join queue.lanes as n on n.lane = l.lane
      join queue.workers as w on w.worker = l.worker
      where l.worker = any (array(
        select o.worker
        from queue.leases as o
        where o.job_id = any (p_ids)
      ))
    ),
    typed as materialized ( -- lane_apart is null if a company may have several types
      select
        h.*,
        case
          when max(h.nth_lane) over (partition by h.worker) <= h.companies then h.lane
        end as lane_apart
      from held as h
    ),
    counted as materialized (
      select
        h.*,
        greatest(count(*) over process + h.abandoned, h.lost_with) as jobs,
        greatest(
          count(*) filter (where not h.is_innocent) over process + h.abandoned,
          h.lost_with
        ) as candidates,
        ntile(case
          when h.lane_apart is null then h.companies
          else (h.companies * h.held_of_lane + h.held - 1) / h.held -- rounded up
        end) over (
          partition by h.worker, h.lane_apart, h.is_innocent
          order by h.lane, h.job_id
        ) as part
      from typed as h
      window process as (partition by h.worker)
    ),
    noted as ( -- for the leases that expire later
      insert into queue.lost_leases (worker, lost_at, jobs)
      select c.worker, p_now, max(c.jobs)
      from counted as c
      group by c.worker
      having not bool_and(c.is_lost)
    ),
    marked as (
      insert into queue.suspects as s (job_id, workspace_id, worker, company, since)
      select
        c.job_id,
        c.workspace_id,
        c.worker,
        case c.candidates
          when 1 then c.job_id
          else md5(concat_ws(' ', c.worker_id, c.part, c.lane_apart))::uuid
        end,
        p_now
      from counted as c
      where c.is_lost and not c.is_innocent
      on conflict (job_id) do update set
        worker = excluded.worker,
        company = excluded.company,
        since = excluded.since
    )
    select
      c.job_id,
      case
        when c.is_innocent then 'innocent'
        when c.candidates = 1 then 'guilty'
        else 'suspect'
      end,
      c.jobs::integer - 1
    from counted as c
    where c.is_lost;
end;
$$;

-- Return the evidence of why a process ended, without the ids of jobs of other workspaces. These
-- jobs are only counted.
create or replace function queue.evidence_for(p_workspace_id uuid, p_evidence jsonb)
returns jsonb
language sql stable
set search_path = ''
as $$
select p_evidence
  - '{guilty,companies}'::text[] -- guilty is the list of a host of an earlier release
  || jsonb_build_object(
    'jobs_in_it', jsonb_array_length(p_evidence -> 'jobs'),
    'jobs', (
      select coalesce(jsonb_agg(j.id order by j.id), '[]')
      from public.jobs as j
      where j.workspace_id = p_workspace_id
        and j.id = any (array(
          select e.id::uuid
          from jsonb_array_elements_text(p_evidence -> 'jobs') as e (id)
        ))
    )
  )
$$;

-- Describe how a process ended, for example ' (SIGKILL, 1900 MB)'. Return an empty text if this is
-- unknown.
create or replace function queue.process_end(p_evidence jsonb)
returns text
language sql immutable
set search_path = ''
as $$
select coalesce(
  ' (' || nullif(concat_ws(
    ', ',
    coalesce(
      p_evidence ->> 'signal',
      'exit code ' || (p_evidence ->> 'exit_code')
    ),
    (p_evidence ->> 'memory_mb') || ' MB'
  ), '') || ')',
  ''
)
$$;

-- Return the text for a number of other jobs, for example '29 other jobs'.
create or replace function queue.other_jobs(p_count integer)
returns text
language sql immutable
set search_path = ''
as $$
select case p_count when 1 then '1 other job' else p_count || ' other jobs' end
$$;

-- Convert the expired leases of jobs to outcomes that queue.settle applies. The attempt of a guilty
-- job counts as lost, with the reason worker_lost. If the process left evidence, the guilty job is
-- retried after its backoff. Suspects and innocent jobs are released with the reason process_died,
-- and their attempts do not count.
create or replace function queue.expired_items(p_ids uuid[], p_now timestamptz)
returns queue.worker_item[]
language sql
set search_path = ''
as $$
select coalesce(array_agg(
  jsonb_populate_record(
    null::queue.worker_item,
    jsonb_build_object(
      'job_id', l.job_id,
      'fence', l.fence,
      'outcome', case b.verdict
        when 'guilty' then 'lost'
        when 'suspect' then 'died'
        else 'released'
      end,
      'duration_ms', greatest(
        0, -- until the last response of its worker
        date_part('epoch', l.expires_at - l.leased_at) - case
          when w.evidence is null then l.lease_seconds
          else 0
        end
      ) * 1000,
      'error', jsonb_strip_nulls(jsonb_build_object(
        'type', 'WorkerLost',
        'reason', case b.verdict when 'guilty' then 'worker_lost' else 'process_died' end,
        'worker_id', w.worker_id,
        'company', case when b.verdict <> 'innocent' then b.others end,
        'evidence', queue.evidence_for(l.workspace_id, w.evidence),
        'message', format(
          case b.verdict
            when 'innocent' then 'attempt %1$s does not count: a job of %4$s ended the process of '
              'worker %2$s'
            when 'suspect' then 'attempt %1$s does not count: the process of worker %2$s ended%3$s'
              ' while it ran %5$s too; the job runs next with a part of them, or alone'
            when 'guilty' then case
              when w.evidence is null
                then 'attempt %1$s was lost: worker %2$s stopped answering'
              else 'attempt %1$s was lost: the job ended the process of worker %2$s%3$s'
            end
          end,
          l.attempt,
          w.worker_id,
          queue.process_end(w.evidence),
          w.evidence ->> 'guilty_type',
          queue.other_jobs(b.others)
        )
      ))
    )
  )
  order by l.job_id
), '{}')
from queue.leases as l
join queue.blame(p_ids, p_now) as b on b.job_id = l.job_id
left join queue.workers as w on w.worker = l.worker
$$;

-- Return the ready suspects of these job types, or of all job types if p_job_types is null.
create or replace function queue.ready_suspects(p_job_types text[])
returns table (job_id uuid, company uuid, since timestamptz, lane integer, ord bigint)
language sql stable
set search_path = ''
as $$
select s.job_id, s.company, s.since, j.lane, j.ord
from queue.suspects as s
join public.jobs as j on j.id = s.job_id
join queue.ready as r
  on r.lane = j.lane
  and r.workspace_id = j.workspace_id
  and r.ord = j.ord
  and r.job_id = j.id
where j.status = 'pending' and coalesce(j.job_type = any (p_job_types), true)
$$;

-- Return the number of companies of suspects that a worker with these job types and queues may run.
create or replace function queue.count_companies(p_job_types text[], p_queues text[])
returns bigint
language sql stable
set search_path = ''
as $$
select count(distinct s.company)
from queue.ready_suspects(p_job_types) as s
where s.lane = any ((queue.open_lanes(p_job_types, p_queues)).lanes)
$$;

-- Decide which jobs a worker may lease while there are suspects. The result is one of three words.
-- suspects: The worker may lease a company, because its process runs no job.
-- others: The worker may lease all jobs except suspects.
-- nothing: The worker may lease no job, because its process runs suspects, or must finish its jobs
--   before it runs suspects.
create or replace function queue.lease_mode(p_request queue.lease_request, p_now timestamptz)
returns text
language plpgsql
set search_path = ''
as $$
declare
  v_held record;
begin
  -- allow one lease at a time per worker, because the lease counts the running jobs of the worker
  perform queue.try_lock('worker ' || p_request.worker, p_waits => true);
  select count(*) as jobs, count(s.job_id) as suspects
  into v_held
  from queue.leases as l
  left join queue.suspects as s on s.job_id = l.job_id
  where l.worker = p_request.worker;
  return case
    when v_held.suspects > 0 then 'nothing'
    when p_request.suspects is false then 'others' -- another process beside this one runs suspects
    when v_held.jobs = 0 then 'suspects'
    when p_request.suspects then 'nothing'
    -- A worker of release 0.4.4 may never be idle. If suspects have waited for 30 seconds, the
    -- oldest worker that serves them must finish its jobs and then run the suspects.
    when p_request.worker = (
      select min(l.worker)
      from queue.leases as l
      join queue.workers as w on w.worker = l.worker
      where exists (
        select from queue.ready_suspects(w.job_types) as s
        where s.since < p_now - interval '30 seconds'
      )
    ) then 'nothing'
    else 'others'
  end;
end;
$$;

-- Lease the jobs of one company of suspects, within the limits of types, workspaces and pools. The
-- limits of concurrency keys are not checked, because suspects still count against these limits.
create or replace function queue.lease_suspects(p_request queue.lease_request, p_now timestamptz)
returns queue.taken
language plpgsql
set search_path = ''
as $$
declare
  v_open constant record := queue.open_lanes(p_request.job_types, p_request.queues);
  v_company record;
  v_types record;
  v_turns queue.turn[];
  v_taken queue.taken;
begin
  for v_company in
    select s.company, array_agg(distinct s.lane) as lanes
    from queue.ready_suspects(p_request.job_types) as s
    where s.lane = any (v_open.lanes)
      and s.job_id <> all (queue.refused('lease', p_now))
    group by s.company
    -- Half of the workers take the smallest company without a guilty job, so that a guilty job is
    -- found soon, even if many companies wait. The other workers take the oldest company, so that
    -- every company runs.
    order by
      case p_request.worker % 2 when 0 then bool_or(s.company = s.job_id) end,
      case p_request.worker % 2 when 0 then count(*) end,
      min(s.since),
      s.company
    limit 50
  loop
    -- another process is leasing or running jobs of this company
    continue when not queue.try_lock('company ' || v_company.company) or exists (
      select from queue.suspects as s
      join queue.leases as l on l.job_id = s.job_id
      where s.company = v_company.company
    );
    v_types := queue.lock_types(v_company.lanes, v_open.limited, p_now);
    v_turns := (queue.limit_turns(
      array(
        select row(
          t.lane, t.workspace_id, 0, t.rank, 0, t.from_ord, 1, null, false, null, null, null
        )::queue.turn
        from queue.turns as t
        where t.lane = any (v_types.open)
          and not t.blocked
          and t.workspace_id = any (array(
            select o.workspace_id
            from queue.suspects as o
            where o.company = v_company.company
          ))
      ),
      p_now
    )).turns;
    p_request.job_ids := array(
      select c.job_id
      from (
        select
          s.job_id,
          coalesce(least(
            t.type_free - row_number() over (partition by t.job_type order by s.ord),
            t.own_free - row_number() over (
              partition by t.job_type, t.workspace_id
              order by s.ord
            ),
            t.tenant_free - row_number() over (partition by t.workspace_id order by s.ord),
            p."limit" - row_number() over (partition by p.nth order by s.ord)
          ), 0) as slots_left
        from queue.ready_suspects(p_request.job_types) as s
        join public.jobs as j on j.id = s.job_id
        join unnest(v_turns) as t
          on t.lane = s.lane and t.workspace_id = j.workspace_id and not t.is_paused
        join (
          select 1 as nth, p_request.job_types, p_request."limit"
          where p_request.pools is null
          union all
          select row_number() over (), o.job_types, o."limit"
          from jsonb_to_recordset(p_request.pools) as o (job_types text[], "limit" integer)
        ) as p on coalesce(t.job_type = any (p.job_types), true)
        where s.company = v_company.company
          and s.job_id <> all (queue.refused('lease', p_now))
      ) as c
      where c.slots_left >= 0
    );
    continue when p_request.job_ids = '{}';
    v_taken := (queue.take(
      array(
        select row(j.lane, j.workspace_id, min(j.ord), count(*))::queue.share
        from public.jobs as j
        where j.id = any (p_request.job_ids)
        group by j.lane, j.workspace_id
      ),
      p_request,
      greatest(p_now, queue.clock())
    )).taken;
    exit when v_taken.ids is not null;
  end loop;
  perform queue.spend_starts(v_taken.ids, p_now) where v_taken.ids is not null;
  return v_taken;
end;
$$;

-- Delete the suspects whose attempts a worker has settled, because their process did not end. A
-- released job did not finish its attempt, so it remains a suspect.
create or replace function queue.clear_suspects(p_items queue.worker_item[])
returns void
language sql
set search_path = ''
as $$
delete from queue.suspects as s
using unnest(p_items) as i
join public.jobs as j on j.id = i.job_id and j.fence = i.fence
where s.job_id = i.job_id
  and j.status <> 'processing'
  and i.outcome not in ('lost', 'died', 'released')
$$;

-- Return an error as the users of an app may see it. The message is included only if the processor
-- raised the error for users.
create or replace function queue.user_message(p_message text, p_error jsonb)
returns text
language sql immutable
set search_path = ''
as $$
select case
  when coalesce(p_error ->> 'type', 'Fail')
    ~ '(^|[.])(Fail|Retry|Cancelled|ProcessorError)$' or p_message is null
    then p_message
  when p_error ->> 'type' = 'AttemptTimeout'
    then 'It took too long and was stopped. Try again.'
  else 'The server failed. Try again.'
end
$$;

select queue.allow('authenticated, service_role', 'queue.user_message');

-- Return a fingerprint that is equal for errors that differ only in numbers and ids. The error of a
-- lost worker contains the worker's name, so its fingerprint is computed from the reason why the
-- process ended.
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
            p_error ->> 'reason',
            p_error #>> '{evidence,signal}',
            p_error #>> '{evidence,line}',
            p_error #>> '{evidence,guilty_type}'
          )
          else p_message
        end
      )),
      '[0-9a-f-]*[0-9][0-9a-f-]*',
      '#',
      'g'
    )),
    16
  );
end;
$$;

-- Return the row of a job as JSON for clients. queue.job_json adds values from other tables. The
-- columns are listed, because it would be slower to convert all columns to JSON and remove some.
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
        case
          when p_job.fence > p_job.attempts then ( -- some attempts were not counted
            select count(*)
            from queue.attempts as a
            where a.job_id = p_job.id and a.outcome = 'died'
          )
          else 0
        end as deaths,
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

-- Return a job as JSON for clients. queue_ms is the time between when the job was due and its first
-- start. run_ms is the duration of all attempts.
-- p_is_listed: True for a job in a list, which has a short error, and the first three simple values
--   of the payload.
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
      'earlier_ms', round(coalesce(p_job.run_ms, 0)::numeric, 1), -- duration of earlier attempts
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
  p_job.payload := null; -- avoid serializing a payload of up to 256 kB that is then omitted
  p_job.result := null;
  return queue.row_json(p_job, v_now)::jsonb - '{payload,result,error_data}'::text[]
    || v_looked_up;
end;
$$;

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
  E'A job as JSON. 404 if the job does not exist or the caller may not see it.\n\nstreams: the '
  'position of each stream, {name: {attempt, next}}. job_output returns the output.';

select queue.allow('authenticated, service_role', 'public.get_job');

-- Return the live and failed jobs of a workspace, up to p_limit jobs from each table of places.
-- p_workspace_id: Null to return the jobs of all workspaces.
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
        select o.job_id, 'suspended' as state
        from queue.waits as o
        where p_states && '{waiting,suspended}'
          and o.workspace_id between v_low and v_high
        limit p_limit
      )
      union all
      (
        select o.job_id, 'failed'
        from queue.dead as o
        where 'failed' = any (p_states) and o.workspace_id between v_low and v_high
        order by o.workspace_id desc, o.job_id desc
        limit p_limit
      )
      union all
      (
        select o.job_id, null
        from queue.deferred as o
        where p_states && '{pending,queued,scheduled,retrying}'
          and o.workspace_id between v_low and v_high
          and o.is_place
        limit p_limit
      )
    ) as w
    join public.jobs as j on j.id = any (array[w.job_id]);
end;
$$;

-- Return true if the engine itself enqueues the jobs of a type, for example deliveries of webhooks.
-- Return false for other internal types, which only the project's service may enqueue.
create or replace function queue.is_internal(p_job_type text)
returns boolean
language sql stable
set search_path = ''
as $$
select exists (
  select from queue.job_types as t
  where t.job_type = p_job_type and t.in_order
)
$$;

-- Convert a filter of jobs to SQL conditions, or return null for an empty filter. Reject a filter
-- with an unknown name or value.
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
      'internal',
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
            then jsonb_path_query_array(p_filter -> c.name, '$[*]')::text -- one value, or a list
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
          'internal',
          '(p.job_type in (select t.job_type from queue.job_types as t where t.in_order))
        = %L::boolean'
        ),
        (
          'search',
          'strpos(lower(concat_ws('' '', p.job_type, p.error_message, p.idempotency_key,
        array_to_string(p.tags, '' ''),
        case when pg_column_size(p.payload) <= 8192 then p.payload::text end,
        -- search ids only for eight or more characters, because fewer would match many jobs by
        -- chance
        case when length(%1$L) >= 6 then concat(p.id, '' '', replace(p.id::text, ''-'', '''')) end)
        ), lower(%1$L)) > 0'
        )
    ) as c (name, condition)
    where p_filter ? c.name
  );
end;
$$;

drop function queue.search_jobs(jsonb,uuid[],uuid,integer);

-- Return the ids of the newest jobs before p_before that match a filter. Live and failed jobs are
-- found in their tables, and tagged jobs with an index. Other jobs are searched among the newest
-- 10,000 jobs, for about 100 ms.
-- last_id: Id at which the next call continues, or null if no more jobs follow.
create or replace function queue.search_jobs(
  p_filter jsonb,
  p_workspaces uuid[],
  p_before uuid,
  p_limit integer,
  out ids uuid[],
  out last_id uuid,
  out searched integer -- number of jobs that were read
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
  v_left integer := 10000; -- number of jobs that may still be read
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
  if cardinality(v_known) > 10000 and not p_filter ? 'ids' then
    v_known := null;
  end if;
  ids := '{}';
  last_id := p_before;
  searched := 0;
  loop
    -- The parameters are $1 for ids, $2 for workspaces (null for all), $3 for p_before and $4 for
    -- the number of jobs. Equality is written as a range, so that the planner does not choose the
    -- index on id.
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
    searched := searched + v_read.jobs;
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

create or replace function public.list_jobs(
  p_filter jsonb default '{}',
  p_cursor jsonb default null,
  p_limit integer default 50
)
returns json
language plpgsql stable
security definer
set search_path = ''
-- disable sequential scans and sorts, because the planner would otherwise read whole tables
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
declare
  v_limit constant integer := least(200, greatest(1, coalesce(p_limit, 50)));
  v_now constant timestamptz := queue.clock();
  -- read again the changes of some seconds before, because a change becomes visible only when its
  -- transaction commits
  v_since constant timestamptz := (p_cursor ->> 'since')::timestamptz - interval '30 seconds';
  v_is_service constant boolean := queue.is_service();
  v_filter constant jsonb := coalesce(jsonb_strip_nulls(p_filter), '{}');
  v_named uuid;
  v_found record;
begin
  if num_nonnulls(p_cursor ->> 'id', v_since) = 0 and p_cursor <> 'null' then
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
  -- Search the workspace that the filter names. If the filter names none, search the workspaces of
  -- the person who calls. The service may search all workspaces if the filter has ids, a session or
  -- a parent.
  v_found := queue.search_jobs(
    v_filter,
    case
      when v_named is not null then array[v_named]
      when not v_is_service then array(
        select w
        from queue.my_workspaces() as w
        where v_filter ?| array['ids', 'parent_id', 'session_id']
          or queue.is_operator()
          or not exists ( -- the workspace that the user joined first, as in public.own_workspace
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
    'now', v_now,
    'jobs', (
      select coalesce(
        json_agg(
          case
            when j.finished_at is not null and j.updated_at < v_since
              then jsonb_build_object('id', j.id)
            else queue.job_json(j, true)
          end
          order by f.n
        ),
        '[]'
      )
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
  E'Jobs, newest first: {now, jobs, next}. next is the p_cursor of the next page.\n\nA page with '
  'fewer jobs or none may still have a next, because a call searches up to 10,000 jobs. To read a '
  'page again, pass {"since": now of the last read} as p_cursor. Of a job that had ended by then, '
  'only the id is returned.';

select queue.allow('authenticated, service_role', 'public.list_jobs');

-- Live and failed jobs are counted up to 10,000 per table. Completed and cancelled jobs are counted
-- among the newest 10,000 jobs of the workspace. If p_workspace_id is null, as in
-- public.queue_stats, completed and cancelled jobs are not counted.
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
      and coalesce((v_filter ->> 'internal')::boolean = queue.is_internal(l.job_type), true)
  -- count jobs of unpublished types in lane 0, because they have no lane yet
  ) || case v_filter - 'internal' when '{}' then 0 end;
begin
  perform queue.may_read(p_workspace_id, p_reads_much => true);
  perform queue.check_names(v_filter, array['job_type', 'queue', 'internal'], 'filter');
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
          -- scheduled and retrying jobs are in the same table, queue.deferred
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
  'Jobs of a workspace by state: {states, at_least}. at_least lists the states that may have more '
  'jobs than counted.';

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
        regexp_replace( -- show only the end of each id
          queue.error_line(j.error_message, j.error_data),
          '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}([0-9a-f]{8})',
          '…\1',
          'g'
        ) as message,
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
          then queue.blocking_descendant(j.id, true)
      end
    ),
    hours as ( -- failures per hour of the last day
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
    groups as (
      select
        l.cause_type,
        l.cause_print,
        l.job_type,
        l.print as error_fingerprint,
        count(*) as jobs,
        min(l.finished_at) as first_at,
        max(l.finished_at) as last_at,
        (array_agg(l.id order by l.finished_at desc, l.id))[1] as latest_id,
        (array_agg(l.message order by l.finished_at desc, l.id))[1] as error_message
      from letters as l
      group by 1, 2, 3, 4
    ),
    effects as (
      select
        g.cause_type,
        g.cause_print,
        jsonb_agg(jsonb_build_object(
          'job_type', g.job_type,
          'error_fingerprint', g.error_fingerprint,
          'jobs', g.jobs,
          'latest_id', g.latest_id
        )) as effects
      from groups as g
      where g.cause_type is not null
      group by 1, 2
    )
    select jsonb_build_object(
      'groups', coalesce(
        jsonb_agg(
          to_jsonb(g) - '{cause_type,cause_print}'::text[] || jsonb_build_object(
            'by_hour', coalesce(h.by_hour, '{}'),
            'consequences', coalesce(e.effects, '[]'),
            'is_new', coalesce(g.first_at > t.deployed_at, false)
          )
          order by g.jobs desc, g.last_at desc
        ),
        '[]'
      ),
      'more', (select count(*) from letters) = 10000
    )
    from groups as g
    left join queue.job_types as t on t.job_type = g.job_type
    left join hours as h
      on h.job_type = g.job_type and h.print = g.error_fingerprint
    left join effects as e
      on e.cause_type = g.job_type and e.cause_print = g.error_fingerprint
    where g.cause_type is null
  );
end;
$$;

comment on function public.dead_letters is
  'Failed jobs of a workspace, grouped by error, the largest group first: {groups, more}. Jobs '
  'that failed because a descendant failed are consequences of the descendant''s group. is_new: '
  'true if the first of these jobs failed after the type''s latest deploy.';

select queue.allow('authenticated, service_role', 'public.dead_letters');

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
  'The last 1,000 attempts of a job, the running attempt last: {attempts}. Managers also get '
  'tracebacks.';

select queue.allow('authenticated, service_role', 'public.job_attempts');

-- Return the live workers. A worker is live if one of its leases has not expired. A worker without
-- leases is live if it called in the last three minutes, and if its run has not ended or ended at
-- most 90 seconds ago.
create or replace function queue.live_workers(p_now timestamptz)
returns queue.workers[]
language sql stable
set search_path = ''
as $$
select array(
  select w
  from queue.workers as w
  where w.seen_at > p_now - interval '3 minutes'
    and coalesce(w.ended_at > p_now - interval '90 seconds', true)
  union
  select w
  from (
    select distinct l.worker
    from queue.leases as l
    where l.expires_at > p_now
  ) as l
  join queue.workers as w on w.worker = l.worker
)
$$;

-- For each job type, return true in unserved if workers run, but none of them serves the type.
-- p_queues: The queue of each type, or null for any queue.
create or replace function queue.is_unserved(
  p_job_types text[],
  p_queues text[],
  p_alive queue.workers[],
  p_now timestamptz
)
returns table (job_type text, queue text, unserved boolean)
language sql stable
set search_path = ''
as $$
with workers as materialized ( -- most workers serve the same types
  select distinct w.job_types, w.queues
  from unnest(p_alive) as w
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

-- Return the enabled schedules of a workspace whose job types no live worker serves.
-- p_workspace_id: Null to return the schedules of all workspaces.
create or replace function queue.unserved_schedules(p_workspace_id uuid, p_now timestamptz)
returns table (name text, job_type text)
language sql stable
set search_path = ''
as $$
select s.name, s.job_type
from queue.schedules as s
join queue.is_unserved(
  array(
    select distinct o.job_type
    from queue.schedules as o
    where o.enabled and (p_workspace_id is null or o.workspace_id = p_workspace_id)
  ),
  null,
  queue.live_workers(p_now),
  p_now
) as t on t.job_type = s.job_type and t.unserved
where s.enabled and (p_workspace_id is null or s.workspace_id = p_workspace_id)
$$;

-- Sentence and advice for each reason why a job or the queue does not progress. A row with the
-- reason failed:<kind> has the advice for one kind of error. A command is stored without the word
-- `minutehand`. A row without a path links to the page of the job. In a text, {name} is replaced by
-- the value with this name. [one|two] has alternatives, of which the first one without a missing
-- value is shown. If a value is missing in each alternative, none is shown.
create or replace view queue.guidance as
select row_number() over () as id, a.*
from (
  values
    ('completed', 'It completed at {finished_at}.', null, null, null),
    (
      'cancelled',
      'It was cancelled at {finished_at}[, because it had not started by {start_by_at}].[ The '
        'reason at that time: {waited}]',
      null,
      null,
      null
    ),
    ('start_by', 'It will be cancelled if it has not started by {start_by_at}.', null, null, null),
    ('worker_lost', 'It ended its process {ended_times}{alone}.', null, null, null),
    (
      'worker_lost',
      'Its worker was lost {lost_times} while it ran nothing else.',
      null,
      null,
      null
    ),
    (
      'failed',
      'It failed at {finished_at} after {attempts} of {max_attempts} attempts: {error_line}',
      'Fix the cause, then retry the job. Finished steps are kept.',
      'retry {job_id}',
      null
    ),
    (
      'failed:child',
      null,
      'Fix {cause_type}, the first descendant that failed, then retry this job.',
      'show {child}',
      '/jobs/{child}'
    ),
    (
      'failed:timeout',
      null,
      'The traceback shows the line where it waited. Give that call its own time limit, remove the '
        'cause of the wait, or give the type a longer `timeout`. Then retry the job.',
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
      'SIGKILL usually means the memory limit, SIGSEGV a library in C, and exit code 1 a blocked '
        'event loop. Another exit code comes from a call that ended the process. Fix the cause, '
        'then retry the job.',
      'retry {job_id}',
      null
    ),
    (
      'failed:killed',
      null,
      'A program that it started was killed by {signal}, as happens at the memory limit. Give the '
        'worker more memory, or let the program use less.',
      'retry {job_id}',
      null
    ),
    (
      'failed:machine',
      null,
      'Its machine ran out of a resource ({code}). Free some of it.',
      'retry {job_id}',
      null
    ),
    (
      'failed:contention',
      null,
      'It conflicted with another transaction ({code}). Retry the job. If the conflict returns, '
        'take locks in one order, and briefly.',
      'retry {job_id}',
      null
    ),
    (
      'failed:schema',
      null,
      'The database lacks an object that its query names ({code}). Apply the migration, or fix the '
        'query.',
      'retry {job_id}',
      null
    ),
    (
      'failed:payload',
      null,
      'Its payload has version {version}, and the type has version {type_version}. Write the '
        'upcaster between them, deploy, then retry the job.',
      'retry {job_id}',
      '/types/{job_type}'
    ),
    (
      'failed:payload',
      null,
      'If the worker is older than the payload, deploy the worker. Otherwise retry the job with a '
        'payload that fits the type.',
      'retry {job_id} --payload @payload.json',
      null
    ),
    (
      'failed:result',
      null,
      'The result that the processor returned was rejected. Fix the code, deploy, then retry the '
        'job.',
      'retry {job_id}',
      null
    ),
    (
      'failed:credentials',
      null,
      'Fix the rejected credentials ({code}).',
      'retry {job_id}',
      null
    ),
    (
      'failed:grant',
      null,
      'The role of its database connection lacks a right ({code}). Grant the right that the error '
        'names, then retry the job.',
      'retry {job_id}',
      null
    ),
    (
      'failed:rate',
      null,
      'The other service limits its rate. Set `rate_limit` of the type below that rate, then retry '
        'the job.',
      'retry {job_id}',
      '/types/{job_type}'
    ),
    (
      'failed:request',
      null,
      'Fix the request that was rejected ({code}), then retry the job.',
      'retry {job_id}',
      null
    ),
    (
      'failed:unavailable',
      null,
      'The other service did not respond ({code}). Retry the job once it does.',
      'retry {job_id}',
      null
    ),
    (
      'refused',
      'The database rejects a change of its row. The change is retried at {retry_at}.',
      'Fix the trigger or constraint that rejects the change, then wait.',
      'explain {job_id}',
      null
    ),
    (
      'lease_expired',
      'Its worker {worker_id} has not reported, and the lease expired at {expires_at}.',
      'Nothing to do until {patience_until}. Maintenance reclaims the job before then. See what '
        'happened to its worker:',
      'show {job_id}',
      null
    ),
    (
      'worker_died',
      'The process of its worker {worker_id} ended at {ended_at}. The job is being reclaimed.',
      'Nothing to do until {patience_until}. Maintenance reclaims the job before then. See why the '
        'process ended:',
      'show {job_id}',
      null
    ),
    (
      'passed_over',
      'It has been due since {run_at}, but maintenance [has not run since {maintained_at}|has '
        'skipped it].',
      'Check the right of the workers to run it.',
      'doctor',
      '/overview'
    ),
    (
      'passed_over',
      null,
      'Check what rejects it, and which worker should run it.',
      'doctor',
      '/overview'
    ),
    (
      'locked',
      'A session (pid {pid}) has locked its row in an open transaction since {held_since}, so it '
        'can neither start nor end.',
      'Commit or end that session: `select pg_terminate_backend({pid})`.',
      'explain {job_id}',
      null
    ),
    (
      'cancelling',
      'It was asked to stop at {cancel_requested_at}. Worker {worker_id} gets the request with its '
        'next report, at the latest at {expires_at}.',
      'Nothing to do until {expires_at}. It ends by then.',
      'watch {job_id}',
      null
    ),
    (
      'running',
      'Worker {worker_id} has been running it since {leased_at}.[ It runs alone, because its '
        'process died{process_end} with {died_with}.| Its lease lasts until {lease_until} unless '
        'it is renewed.][ It has sent nothing for {silent}, since {sign}, at {place}.| It was '
        'last seen at {place}.][ 99 % of the jobs of its type take {usual} or less.]',
      'Check the call at {place}. Give that call a time limit, or give the type a `timeout`.',
      'watch {job_id}',
      '/types/{job_type}'
    ),
    (
      'running',
      null,
      'Nothing to do until {lease_until}. If the lease is not renewed by then, the job is '
        'reclaimed.',
      'watch {job_id}',
      null
    ),
    (
      'abandoned',
      'Its processor ignored the stop and still runs, abandoned, in worker {worker_id} at {place}.',
      null,
      null,
      null
    ),
    (
      'sleeping',
      'It sleeps until {until}.',
      'Nothing to do until {until}. It continues then.',
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
      'It waits for its children.[ The first that has not ended is {holder_type} {holder} '
        '({holder_state}).]',
      'See why this child has not ended.',
      'explain {holder}',
      '/jobs/{holder}'
    ),
    (
      'due',
      'It has been due since {run_at} and joins the queue with the next maintenance.',
      'Nothing to do until {patience_until}. After that:',
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
      'Its processor snoozed it until {run_at}.',
      'Run it now.',
      'retry {job_id}',
      null
    ),
    (
      'backing_off',
      'Attempt {attempts} of {max_attempts} failed ({error_line}). It is retried at {run_at}.',
      'Run it now, if the cause is gone.',
      'retry {job_id}',
      null
    ),
    (
      'job_type_paused',
      'The job type {job_type} has been paused since {paused_at}.',
      'An operator can resume the type.',
      'resume --type {job_type}',
      '/types/{job_type}'
    ),
    (
      'queue_paused',
      'The queue {queue} has been paused since {paused_at}.',
      'An operator can resume the queue.',
      'resume --queue {queue}',
      '/types'
    ),
    (
      'workspace_paused',
      'The workspace has been paused since {paused_at}.',
      'A manager of the workspace can resume it.',
      'resume --all',
      '/overview'
    ),
    (
      'workspace_type_paused',
      'The job type {job_type} has been paused in the workspace since '
        '{paused_at}.',
      'A manager of the workspace can resume the type.',
      'resume --type {job_type}',
      '/types/{job_type}'
    ),
    (
      'no_worker',
      'No worker has run since {since}, so nothing starts.',
      'Its key was revoked at {revoked_at}. Give it a new key.',
      'token worker',
      '/overview'
    ),
    (
      'no_worker',
      'No worker has been seen yet.',
      'Start one with `minutehand dev` or `minutehand serve`. On AWS, check the schedule. If a '
        'worker was rejected, its log has the reason.',
      'doctor --only schedule',
      '/overview'
    ),
    (
      'no_processor',
      'No worker has published the job type {unpublished}.',
      'Its registration was rejected: {refusal}. Fix it in code, and deploy.',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'no_processor',
      'Workers run, but none of them serves {types}. Due jobs: {jobs}.',
      'If the name is misspelt, the nearest name that a worker has is {nearest}.',
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
      'The concurrency limit of its key is used up: {running} of {limit}[, held by job {holder} '
        '({holder_state})].',
      'Wait for job {holder}, or cancel it.',
      'cancel {holder}',
      '/jobs/{holder}'
    ),
    (
      'key_limit',
      null,
      'Or raise `key_concurrency` of {own_type} in code, and deploy.',
      null,
      '/types/{job_type}'
    ),
    (
      'internal_jobs',
      'Jobs of {job_type}, which the platform itself enqueues, wait for an earlier one of the same '
        'receiver.',
      'See why the earlier jobs have not ended.',
      'ls --type {job_type}',
      '/types/{job_type}'
    ),
    (
      'workspace_type_limit',
      'The concurrency limit of its type in the workspace is used up: {running} of {limit} run[, '
        'the longest is job {holder}, since {held_since}].',
      'Wait for job {holder}, or cancel it.',
      'cancel {holder}',
      '/jobs/{holder}'
    ),
    (
      'workspace_type_limit',
      null,
      'Or raise `workspace_concurrency` in code, and deploy.',
      'ls --state running --type {job_type}',
      '/jobs?state=running&job_type={job_type}'
    ),
    (
      'workspace_limit',
      'The concurrency limit of the workspace is used up: {running} of {limit} run[, the longest '
        'is {holder_type} {holder}, since {held_since}].',
      'Wait for job {holder}, or cancel it.',
      'cancel {holder}',
      '/jobs/{holder}'
    ),
    (
      'workspace_limit',
      null,
      'Or let a manager raise the limit.',
      'ls --state running',
      '/jobs?state=running'
    ),
    (
      'type_limit',
      'The concurrency limit of its type is used up[ by {others}]: {running} of {limit} run[, the '
        'longest is job {holder}, since {held_since}].',
      'Wait for job {holder}, or cancel it.',
      'cancel {holder}',
      '/jobs/{holder}'
    ),
    (
      'type_limit',
      null,
      'Or raise `max_concurrency` in code, and deploy.',
      'ls --state running --type {job_type}',
      '/jobs?state=running&job_type={job_type}'
    ),
    (
      'rate_limited',
      'The rate limit of {limit} starts per {per_seconds} s is used up. The next start is possible '
        'at {estimated_start_at}.',
      'Nothing to do until {estimated_start_at} if this rate is intended. Otherwise raise it in '
        'code, and deploy.',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'suspect',
      'Its process died{process_end} with {died_with}. It runs [next, with {beside} of them and '
        'nothing else|alone next].',
      'Nothing to do until {patience_until}. A worker that runs no jobs starts it. After that:',
      'doctor',
      '/overview'
    ),
    (
      'suspect',
      null,
      'It has been ready since {late_since}. Start another worker, because the workers that serve '
        'it run other jobs.',
      'doctor',
      '/overview'
    ),
    ('suspect', 'It runs alone next, in a process of its own.', null, null, null),
    (
      'next_in_line',
      'It is the next of its workspace and starts with the next lease call that has a '
        'slot.',
      'Nothing to do until {patience_until}. After that:',
      'doctor',
      '/overview'
    ),
    (
      'no_slot',
      'It has been the next of its workspace since {ready_at}, but no worker has a free slot. '
        'Workers run {running} jobs in {slots} slots[, the longest is {holder_type} {holder}, '
        'since {held_since}].',
      'Wait for job {holder}, cancel it, or start another worker.',
      'cancel {holder}',
      '/jobs/{holder}'
    ),
    (
      'no_slot',
      null,
      'Start another worker.',
      'doctor',
      '/overview'
    ),
    (
      'not_leased',
      'It has been ready since {ready_at}. [The role {without_right} may not execute '
        'public.lease_jobs, so workers with this role lease nothing|The workers that serve it are '
        'alive and use {running} of {slots} slots, but have leased nothing since {leased_at}|The '
        'workers that serve it are alive, but have leased nothing since {leased_at}|Workers that '
        'serve it are alive, but none has leased it].',
      'Grant the right: `grant execute on function public.lease_jobs(jsonb) to {without_right}`.',
      'doctor',
      '/overview'
    ),
    (
      'not_leased',
      null,
      'Check their rights and their log.',
      'doctor',
      '/overview'
    ),
    (
      'behind_others',
      'Jobs of its workspace that are ahead of it: [{at_least} or more|{ahead}].',
      'Nothing to do until {patience_until}. It starts after them. A smaller priority goes first.',
      'ls --state queued --type {job_type}',
      '/jobs?state=queued&job_type={job_type}'
    ),
    (
      'long_line',
      'It has been ready since {ready_at}, with {ahead} jobs of its workspace ahead of it.[ All '
        '{slots} slots are in use.]',
      'If all slots are in use, start another worker, or give the workers more slots.',
      'status',
      '/overview'
    ),
    (
      'read_only',
      'The database rejects writes, because the plan''s disk is full.',
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
      'The type {job_type} was rejected.',
      'Fix it in code, and deploy.',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'late_schedule',
      'The schedule {schedule} {problem}.',
      'Check the schedule and its type.',
      null,
      '/schedules'
    ),
    (
      'unserved_schedule',
      'The schedule {schedule} enqueues jobs of {job_type}, but no worker serves that type.',
      'If the name is misspelt, change it to {nearest}, the nearest name that a worker has.',
      null,
      '/schedules'
    ),
    (
      'unserved_schedule',
      null,
      'Deploy a worker that has {job_type}, or turn the schedule off.',
      'types',
      '/schedules'
    ),
    (
      'full_workspace',
      'The workspace has {live} live jobs, and its limit is {limit}. Enqueues by people are '
        'rejected.',
      'Wait until jobs have ended.',
      'ls --state queued',
      '/jobs?state=queued'
    ),
    (
      'full_workspace',
      null,
      'Or let an operator raise the limit: `select '
        'public.set_workspace_limits(''{workspace_id}'', ''{"max_pending": {more}}'')`.',
      null,
      '/overview'
    ),
    (
      'full_of_bytes',
      'The live jobs of the workspace store {live}, and the limit is {limit}. Enqueues by people '
        'with payloads above 2 kB are rejected.',
      'Wait until jobs have ended.',
      'ls --state queued',
      '/jobs?state=queued'
    ),
    (
      'full_of_bytes',
      null,
      'Or let an operator raise the limit: `select '
        'public.set_settings(''{"user_pending_bytes_max": {more}}'')`.',
      null,
      '/overview'
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
      'Fix the cause. Maintenance is retried within an hour.',
      null,
      '/overview'
    ),
    (
      'open_transaction',
      'A session with an open transaction delays the queue.',
      'End it if no one needs it: `select '
        'pg_terminate_backend({pid})`.',
      null,
      '/overview'
    ),
    (
      'two_codes',
      'Two versions of the code run at the same time: {codes}.',
      'End the older version, unless it is about to end. The newer deploy sets the options of a '
        'type.',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'clock_skew',
      'The clock of worker {worker_id} is [{ahead} s ahead of|{behind} s behind] the database''s '
        'clock.',
      'Set the clock of its machine: `timedatectl set-ntp true`. Requests fail if their token '
        'seems to be expired.',
      null,
      '/overview'
    ),
    (
      'ends_process',
      'The last {ended} jobs of {job_type} ended their process[, with the code of commit '
        '{commit}].',
      'An operator can pause the type until its code is fixed. Jobs that wait: {jobs}.',
      'pause --type {job_type}',
      '/types/{job_type}'
    ),
    (
      'silent_jobs',
      'Running jobs of {job_type} that have sent nothing for more than {limit}: {jobs}. The first '
        'has been silent since {since}, at {place}.',
      'See where it is.',
      'explain {job_id}',
      null
    ),
    (
      'suspects_wait',
      'Jobs whose process died wait for a worker that runs nothing else: {jobs}, the first since '
        '{since}.',
      'Start another worker, because the workers that serve them run other jobs.',
      'explain {job_id}',
      null
    ),
    (
      'disk_filling',
      'The disk is {percent} % full.',
      'Enlarge the disk and set its new size (`set_settings`, `disk_bytes`), or keep ended jobs '
        'for fewer days (`retention_days`).',
      null,
      '/overview'
    ),
    (
      'disk_nearly_full',
      'The disk is {percent} % full. At 95 % the database rejects writes.',
      'Enlarge the disk now and set its new size (`set_settings`, `disk_bytes`), or keep ended '
        'jobs for fewer days (`retention_days`).',
      null,
      '/overview'
    )
) as a (reason, sentence, words, command, path);

-- Replace each {name} in p_text by the value with this name. Return null if one of the values is
-- missing.
create or replace function queue.fill_names(p_text text, p_with jsonb)
returns text
language sql immutable
set search_path = ''
as $$
select case
  when bool_and(p.part is not null) then string_agg(p.part, '' order by p.n)
end
from ( -- every second part is a name, and times are shown in seconds
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
    p_text,
    '\{(?=\w+\})|(?<=\{\w+)\}'
  ) with ordinality as s (part, n)
) as p
$$;

-- Return the sentence and the steps of advice for a reason, with values in place of names. A text
-- with a missing value is omitted.
create or replace function queue.render_guidance(
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
  cross join lateral ( -- every second part is a choice of texts
    select
      s.n,
      case s.n % 2
        when 1 then queue.fill_names(s.part, p_with)
        else coalesce(
          (
            select f.text
            from string_to_table(s.part, '|') with ordinality as c (text, n)
            cross join lateral queue.fill_names(c.text, p_with) as f (text)
            where f.text is not null
            order by c.n
            limit 1
          ),
          ''
        )
      end as part
    from regexp_split_to_table(t.text, '[][]') with ordinality as s (part, n)
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

-- Return the values that describe a suspect to people: {suspect_since, process_end, died_with,
-- beside}. Return null if the job is not a suspect.
-- died_with: Number of other jobs that ran in the process when it ended, as text.
-- beside: Number of other suspects that run in the same process. Null if there are none.
create or replace function queue.suspicion_of(p_job public.jobs)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object(
  'suspect_since', s.since,
  'process_end', queue.process_end(p_job.error_data -> 'evidence'),
  'died_with', case p_job.error_data ->> 'reason'
    when 'process_died' then queue.other_jobs((p_job.error_data ->> 'company')::integer)
  end,
  'beside', (
    select nullif(count(*), 0)
    from queue.suspects as o
    where o.company = s.company and o.job_id <> s.job_id
  )
)
from queue.suspects as s
where s.job_id = p_job.id
$$;

-- Return a number of times as text, for example 'twice', or null for 0.
create or replace function queue.times_in_words(p_times bigint)
returns text
language sql immutable
set search_path = ''
as $$
select case p_times
  when 0 then null
  when 1 then 'once'
  when 2 then 'twice'
  else p_times || ' times'
end
$$;

-- Return as text how often a job lost its worker when no other job can have been the cause:
-- {ended_times, alone, lost_times}. ended_times is null if no evidence shows how the processes
-- ended.
create or replace function queue.losses_of(p_job public.jobs)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object(
  'ended_times', queue.times_in_words(count(*) filter (where a.error_data ? 'evidence')),
  'alone', case
    when bool_and(a.error_data ->> 'company' = '0')
        filter (where a.error_data ? 'evidence')
      then ', alone'
    else ''
  end,
  'lost_times', queue.times_in_words(count(*))
)
from queue.attempts as a
where a.job_id = p_job.id and a.outcome = 'lost'
$$;

-- Return the time of the last maintenance, if it was before p_at: {maintained_at}.
create or replace function queue.maintained_before(p_at timestamptz)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object('maintained_at', case when max(t.done_at) < p_at then max(t.done_at) end)
from queue.tasks as t
where t.done_at > '-infinity'
$$;

-- Return the number of slots that workers have for a job, the number of jobs that use these slots,
-- and the time when these workers last leased jobs or started.
-- slots: Number of slots. Null if a worker did not report its slots, or if no worker runs.
create or replace function queue.slots_for(p_job public.jobs, p_alive queue.workers[])
returns table (slots bigint, running bigint, leased_at timestamptz)
language sql stable
set search_path = ''
as $$
with pools as materialized (
  select w.worker, w.ended_at, p.*
  from unnest(p_alive) as w
  left join lateral (
    select o.job_types, o."limit" as size
    from jsonb_to_recordset(w.slots) as o (job_types text[], "limit" bigint)
    where p_job.job_type = any (o.job_types)
  ) as p on true
  where (w.job_types is null or p_job.job_type = any (w.job_types))
    and (w.queues is null or p_job.queue = any (w.queues))
)
select
  case
    when bool_and(p.size is not null) filter (where p.ended_at is null)
      then sum(p.size) filter (where p.ended_at is null)
  end,
  (
    select count(*)
    from queue.leases as l
    join queue.lanes as n on n.lane = l.lane
    join pools as o on o.worker = l.worker and n.job_type = any (o.job_types)
  ),
  (
    select max(t.seen_at)
    from queue.ticks as t
    where t.worker in (select o.worker from pools as o)
  )
from pools as p
$$;

-- Return a duration as text, for example '4 min'.
create or replace function queue.length_in_words(p_ms double precision)
returns text
language sql immutable
set search_path = ''
as $$
select round(u.length) || u.unit
from (
  values
    (1000, p_ms, ' ms'),
    (120 * 1000, p_ms / 1000, ' s'),
    (120 * 60000, p_ms / 60000, ' min'),
    (null, p_ms / 3600000, ' h')
) as u (below, length, unit)
where coalesce(p_ms < u.below, true)
order by u.below
limit 1
$$;

-- Return texts about the last update of a running job: {last, sign, place, memory_mb, silent,
-- usual}. If the worker reported no update, return {lease_until}.
-- sign: The last update as text.
-- silent: Time since the last update. Null for less than 20 seconds, because workers report every
--   15 seconds.
-- usual: Duration that 99 % of the jobs of the type do not exceed. Null unless the time since the
--   last update is longer than this duration and longer than a minute.
create or replace function queue.pulse_of(p_job public.jobs, p_now timestamptz)
returns jsonb
language plpgsql stable
set search_path = ''
as $$ -- plpgsql, because queue.usual_ms is created later
begin
  return (
    select case
      when l.pulse is null then jsonb_build_object('lease_until', l.expires_at)
      else l.pulse - 'since' || jsonb_build_object(
        'silent_since', p.since,
        'sign', case l.pulse ->> 'last'
          when 'start' then 'its start'
          when 'log' then 'its last log line'
          else 'its last ' || (l.pulse ->> 'last')
        end,
        'silent', case when p.silent_ms >= 20000 then queue.length_in_words(p.silent_ms) end,
        'usual', (
          select queue.length_in_words(u.ms)
          from queue.usual_ms(p_job.workspace_id, p_job.job_type, p_now) as u (ms)
          where p.silent_ms > greatest(60000, u.ms)
        )
      )
    end
    from queue.leases as l
    cross join lateral greatest((l.pulse ->> 'since')::timestamptz, p_job.updated_at) as s (since)
    cross join lateral (
      values (s.since, greatest(0, extract(epoch from p_now - s.since) * 1000)::double precision)
    ) as p (since, silent_ms)
    where l.job_id = p_job.id
  );
end;
$$;

-- Return the reason why a job cannot start, or null if the job may start. Reasons are for example
-- that the job has ended, runs, waits or is delayed, that a trigger of the project rejects a change
-- of the job, that the job's type is unpublished or paused, or that no worker serves the type.
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
  -- a due job is late if maintenance has not moved it within this time
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
  select * into v_found
  from queue.refusals as r
  where r.job_id = p_job.id
  order by r.retry_at desc
  limit 1;
  if found then
    return jsonb_build_object(
      'reason', 'refused',
      'since', v_found.refused_at,
      'cause', v_found.failure,
      'data', to_jsonb(v_found) - '{job_id,workspace_id,failure,refused_at}'::text[]
    );
  elsif p_job.status = 'processing' then
    select
      w.worker_id,
      l.leased_at,
      l.expires_at,
      l.attempt,
      case when w.evidence is not null then w.ended_at end as ended_at,
      l.expires_at + c_patience as patience_until,
      l.expires_at as run_at -- time when the lease could be reclaimed
    into v_found
    from queue.leases as l
    left join queue.workers as w on w.worker = l.worker
    where l.job_id = p_job.id;
    return jsonb_build_object(
      'since', v_found.leased_at,
      'data', to_jsonb(v_found)
        || coalesce(queue.suspicion_of(p_job), '{}')
        || queue.maintained_before(v_found.expires_at)
        || queue.pulse_of(p_job, p_now),
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
      'data', v_data || to_jsonb(v_found) || queue.maintained_before(v_found.run_at),
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
    when (
      select s.unserved
      from queue.is_unserved(array[p_job.job_type], array[p_job.queue], p_alive, p_now) as s
    )
      then jsonb_build_object(
        'reason', 'no_processor',
        'cause', v_refusal,
        'data', jsonb_build_object('refusal', v_refusal)
      )
  end;
end;
$$;

drop function queue.explain_ready(public.jobs,timestamp with time zone);

-- Return the reason why a job that may start has not started. The reasons are tested in this order:
-- concurrency limits from the narrowest to the widest, the rate limit, a suspect that must run
-- alone, and the jobs ahead of this job. A lack of slots is the reason only if jobs use all slots
-- of the workers.
create or replace function queue.explain_ready(
  p_job public.jobs,
  p_alive queue.workers[],
  p_now timestamptz
)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_type queue.job_types;
  v_full record;
  v_free_at timestamptz;
  v_suspicion jsonb;
  v_ready_at timestamptz;
  v_ahead integer;
  v_workers record;
  v_slots bigint; -- set if all slots are in use
begin
  select * into v_type
  from queue.job_types
  where job_type = p_job.job_type;
  -- Find the narrowest concurrency limit that is used up. Skip limits that are not set.
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
      from queue.find_holders(l.reason, p_job, l.most) as h
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
  v_suspicion := queue.suspicion_of(p_job);
  if v_suspicion is not null then
    v_ready_at := (v_suspicion ->> 'suspect_since')::timestamptz;
    return jsonb_build_object(
      'reason', 'suspect',
      'since', v_ready_at,
      'data', v_suspicion || case
        when v_ready_at <= p_now - interval '1 minute'
          then jsonb_build_object('late_since', v_ready_at)
        else jsonb_build_object('patience_until', v_ready_at + interval '1 minute')
      end
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
      and (
        not exists (select from queue.suspects) -- read once, usually without a result
        or not exists (select from queue.suspects as s where s.job_id = r.job_id)
      )
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
  if v_ready_at <= p_now - interval '1 minute' then
    select
      s.*,
      s.running >= s.slots as is_full,
      s.running >= s.slots is not true
        and coalesce(s.leased_at <= v_ready_at, true) as is_idle
    into v_workers
    from queue.slots_for(p_job, p_alive) as s;
    if v_ahead = 0 or v_workers.is_idle then
      return jsonb_build_object(
        'since', v_ready_at,
        'reason', case when v_workers.is_full then 'no_slot' else 'not_leased' end,
        'data', jsonb_build_object(
          'ready_at', v_ready_at,
          'slots', v_workers.slots,
          'running', v_workers.running,
          'without_right', (
            select r.rolname
            from pg_catalog.pg_roles as r
            where r.rolname = 'job_worker'
              and v_workers.is_full is not true
              and (queue.is_operator() or queue.is_service())
              and not has_function_privilege(r.oid, 'public.lease_jobs'::regproc, 'execute')
          ),
          'leased_at', case when v_workers.is_idle then v_workers.leased_at end
        )
      );
    end if;
    v_slots := case when v_workers.is_full then v_workers.slots end;
  end if;
  return jsonb_build_object(
    'estimated_start_at', case v_ahead when 0 then p_now end,
    'reason', case
      when v_ahead = 0 then 'next_in_line'
      when v_ready_at <= p_now - interval '15 minutes' then 'long_line'
      else 'behind_others'
    end,
    'data', jsonb_build_object(
      'slots', v_slots,
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

-- Return the running jobs that use up the limit or the slots for which a job waits.
-- p_most: Maximum number of jobs to return.
create or replace function queue.find_holders(p_reason text, p_job public.jobs, p_most integer)
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
  elsif p_reason ~ '_limit$' then -- a limit of the job type, of the workspace, or of both
    return query
      select l.job_id, l.workspace_id, l.leased_at
      from queue.lanes as n
      join queue.leases as l on l.lane = n.lane
      where (p_reason = 'workspace_limit' or n.job_type = p_job.job_type)
        and (p_reason = 'type_limit' or l.workspace_id = p_job.workspace_id)
      limit p_most;
  elsif p_reason = 'no_slot' then -- jobs that use slots that this job could use
    return query
      select l.job_id, l.workspace_id, l.leased_at
      from queue.leases as l
      join queue.lanes as n on n.lane = l.lane
      join queue.workers as w on w.worker = l.worker
      cross join lateral jsonb_to_recordset(w.slots) as p (job_types text[])
      where p_job.job_type = any (p.job_types)
        and n.job_type = any (p.job_types)
        and (w.queues is null or p_job.queue = any (w.queues))
      limit p_most;
  end if;
end;
$$;

-- Return the deepest descendant of a job that has not ended, or that has failed. On each level, the
-- search follows the first such child.
-- p_has_failed: True to find a failed job, false to find a job that has not ended.
create or replace function queue.blocking_descendant(p_job_id uuid, p_has_failed boolean)
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

-- Return the number of jobs of the workspace that wait for the same reason as this job, at most
-- 1,000: {waiting, more}. The number is 0 for a question and for a running worker, because only one
-- job waits for them.
create or replace function queue.count_alike(p_job public.jobs, p_reason text)
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

-- Return the kind of holder for a reason, or null if a job with this reason has no holder.
create or replace function queue.holder_kind(p_reason text)
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
  when p_reason = 'not_leased' then 'worker'
  when p_reason = 'asking' then 'answer'
  when p_reason = 'waiting_for_event' then 'event'
  when p_reason = 'waiting_for_children' then 'child'
  when p_reason = 'refused' then 'refusal'
  when p_reason = 'passed_over' then 'tick'
end
$$;

-- Return the sentence for the reason why a job has not started. The sentence names no other jobs,
-- because it is stored and read later.
create or replace function queue.waited_for(
  p_job public.jobs,
  p_alive queue.workers[],
  p_now timestamptz
)
returns text
language plpgsql stable
set search_path = ''
set timezone = 'UTC'
as $$
declare
  v_found constant jsonb := coalesce(
    queue.explain_row(p_job, p_alive, p_now),
    queue.explain_ready(p_job, p_alive, p_now)
  );
begin
  return queue.render_guidance(
    v_found ->> 'reason',
    to_jsonb(p_job) || v_found || jsonb_strip_nulls(v_found -> 'data') - 'without_right'
  ) ->> 'sentence';
end;
$$;

-- Return the holder of a job for the reason that queue.explain_row or queue.explain_ready found:
-- {kind, holder, since, waiting, more}.
create or replace function queue.held_by(p_job public.jobs, p_found jsonb, p_now timestamptz)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  c_most constant integer := 200;
  v_reason constant text := p_found ->> 'reason';
  v_kind constant text := queue.holder_kind(v_reason);
  v_is_open constant boolean := queue.is_operator() or queue.is_service();
  v_data constant jsonb := p_found -> 'data';
  v_id uuid;
  v_holder jsonb;
  v_since timestamptz := p_found ->> 'since';
begin
  if v_kind is null then
    return null;
  elsif v_kind = 'child' then
    v_id := queue.blocking_descendant(p_job.id, false);
  elsif v_kind in ('key', 'limit', 'slots') then
    v_id := (
      select h.job_id
      from queue.find_holders(v_reason, p_job, c_most) as h
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
    v_holder := jsonb_build_object(
      'pid', v_data -> 'pid',
      'application', case when v_is_open then v_data -> 'application' end
    );
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
    'until', coalesce(p_found ->> 'estimated_start_at', v_data ->> 'patience_until')
  ) || queue.count_alike(p_job, v_reason);
end;
$$;

-- Return the last error of a job. The kind of the error is determined from its code, never from its
-- text.
-- kind: Kind of the error, which selects the advice.
-- code: HTTP status, SQLSTATE or name of the errno.
-- cause: Response of another service, the line of code that ended the process, or the last error of
--   an exception chain.
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
        when e.status in ('401', '403') or e.sqlstate ^@ '28' then 'credentials'
        when e.sqlstate = '42501' then 'grant'
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
    e.evidence ->> 'line',
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
$$;

-- Return the reason why a job waits, and the job, limit or pause for which it waits.
-- p_lock: Database session that has locked the job's row, from queue.locks_on.
-- p_alive: Live workers, which callers read once for many jobs, because the query reads all leases.
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
  v_found := case
    when p_lock is null then coalesce(
      queue.explain_row(p_job, p_alive, p_now),
      queue.explain_ready(p_job, p_alive, p_now)
    )
    else jsonb_build_object('reason', 'locked', 'since', p_lock -> 'since', 'data', p_lock)
  end;
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
  if not (queue.is_operator() or queue.is_service()) then -- members must not see names of others
    v_found := v_found || jsonb_build_object(
      'data', (v_found -> 'data') - 'application' || case
        when v_found -> 'data' ? 'paused_by' then jsonb_build_object(
          'paused_by',
          queue.shown_person(v_found #>> '{data,paused_by}', p_job.workspace_id)
        )
        else '{}'
      end
    );
  end if;
  v_held := queue.held_by(p_job, v_found, p_now);
  v_found := v_found || queue.render_guidance(
    v_found ->> 'reason',
    v_found
      || queue.names_of(p_job, v_held)
      || jsonb_build_object('code', v_error.code)
      || jsonb_strip_nulls(v_found -> 'data'),
    v_error.kind
  );
  v_found := v_found || jsonb_build_object(
    'sentence', concat_ws(
      ' ',
      -- put this text before the error, because the console hides the error and all text after the
      -- error
      case
        when p_job.error_data ->> 'type' = 'WorkerLost'
          then queue.render_guidance('worker_lost', queue.losses_of(p_job)) ->> 'sentence'
      end,
      v_found ->> 'sentence',
      (
        select queue.render_guidance('abandoned', to_jsonb(w) || to_jsonb(a)) ->> 'sentence'
        from unnest(p_alive) as w
        cross join lateral jsonb_to_recordset(w.abandoned) as a (job_id uuid, place text)
        where a.job_id = p_job.id and w.ended_at is null
        limit 1
      ),
      case
        when p_job.status = 'pending' and p_job.started_at is null
            and p_job.start_by_at is not null
          then queue.render_guidance(
            'start_by',
            jsonb_build_object('start_by_at', p_job.start_by_at)
          ) ->> 'sentence'
      end
    )
  );
  return v_found || jsonb_build_object(
    'held_by', v_held || jsonb_build_object('act', v_found #> '{next,0}')
  );
end;
$$;

-- Return the values of a job and its holder for the names in texts of queue.guidance.
create or replace function queue.names_of(p_job public.jobs, p_held jsonb)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object(
  'job_type', p_job.job_type,
  'own_type', case when not queue.is_internal(p_job.job_type) then p_job.job_type end,
  'queue', p_job.queue,
  'finished_at', p_job.finished_at,
  'start_by_at', case
    when p_job.error_data ->> 'type' = 'StartByPassed' then p_job.start_by_at
  end,
  'waited', p_job.error_data -> 'waited',
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
    when p_job.status = 'failed' then queue.blocking_descendant(p_job.id, true)
  end as id
) as c
$$;

create or replace function public.explain_job(p_job_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
set timezone = 'UTC'
as $$ -- sentences show times in UTC
declare
  v_now constant timestamptz := queue.clock();
  v_job constant public.jobs := queue.visible_job(p_job_id);
  v_lock jsonb;
begin
  if v_job.status = 'pending' then
    perform queue.take_call_slot(); -- the call counts the jobs that come before this job
  end if;
  -- in a read-only session, ignore locks of other sessions, because this session could not verify
  -- them
  if v_job.finished_at is null and not current_setting('transaction_read_only')::boolean then
    select to_jsonb(l) into v_lock
    from queue.locks_on(array[p_job_id], v_now) as l;
  end if;
  if v_lock is not null then
    perform from public.jobs
    where id = p_job_id
    for no key update skip locked;
    -- if this session can lock the row, the other session only checks a foreign key. Its lock does
    -- not prevent a lease of the job.
    v_lock := case when not found then v_lock end;
  end if;
  return queue.explain(
    v_job,
    v_lock,
    queue.live_workers(v_now),
    v_now
  );
end;
$$;

comment on function public.explain_job is
  'Why a job waits and who holds it: {job_id, status, reason, sentence, since, cause, '
  'held_by: {kind, holder, since, until, waiting, more, act}, next: [{words, command, path}], '
  'data, estimated_start_at}.';

select queue.allow('authenticated, service_role', 'public.explain_job');

-- Return groups of jobs that wait for the same cause, the largest group first. The jobs of a group
-- have the same lane, concurrency key, unpublished type, question or event, dead worker, or
-- database session that locks them, or are overdue jobs of one type.
-- job_id: One job of the group.
-- jobs: Number of jobs, at most 1,000 or 10,000.
-- oldest_at: Start of the longest wait.
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
leases as materialized ( -- expired leases
  select *
  from queue.leases as l
  where l.expires_at <= p_now
    and (p_workspace_id is null or l.workspace_id = p_workspace_id)
    and (p_job_type is null or l.lane in (select n.lane from lanes as n))
  limit 1000
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
      and not exists (select from queue.suspects as s where s.job_id = o.job_id)
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
  limit 8 -- small, because the call explains each group
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
  group by
    g.workspace_id,
    g.job_type,
    case
      when queue.is_internal(g.job_type) then split_part(g.key, ':', 1) -- receiver of the webhook
      else g.key
    end
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

-- Return the holders of jobs, the holder for which most jobs wait first. A holder has the
-- explanation of its first job, as in public.explain_job, and the number of jobs of all groups that
-- wait for the holder.
-- p_workspace_id: Null to return the holders of all workspaces.
-- p_job_type: Null to return the holders of jobs of all types.
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
    case
      when i.is_internal and e.said #>> '{held_by,kind}' = 'key'
        then e.said - 'cause' || queue.render_guidance('internal_jobs', to_jsonb(j))
      else e.said
    end as said,
    jsonb_build_array(
      e.said #> '{held_by,kind}',
      case when i.is_internal then to_jsonb(split_part(j.concurrency_key, ':', 1)) end,
      coalesce(
        case when i.is_internal then to_jsonb(j.job_type) end,
        e.said #> '{held_by,holder,job_id}',
        e.said #> '{held_by,holder,worker_id}',
        e.said #> '{held_by,holder,pid}',
        jsonb_build_array(e.said -> 'reason', j.job_type, j.queue, j.concurrency_key)
      )
    ) as holder
  from queue.live_workers(p_now) as workers
  cross join queue.groups_of_held(p_workspace_id, p_job_type, p_now) as g
  join public.jobs as j on j.id = any (array[g.job_id])
  left join lateral (
    select to_jsonb(k) as lock
    from queue.locks_on(array[j.id], p_now) as k
    where j.status = 'processing' or coalesce(j.next_retry_at, j.scheduled_for) <= p_now
  ) as k on true
  cross join lateral queue.explain(j, k.lock, workers, p_now) as e (said)
  cross join lateral queue.is_internal(j.job_type) as i (is_internal)
  where jsonb_typeof(e.said -> 'held_by') = 'object'
)
select coalesce(
  jsonb_agg(
    to_jsonb(h) - 'said'
    || (h.said - '{status,data,since,held_by,estimated_start_at}'::text[])
    || jsonb_build_object(
      'kind', h.said #> '{held_by,kind}',
      'holder', h.said #> '{held_by,holder}'
    )
    order by h.jobs desc, h.since
  ),
  '[]'
)
from (
  select
    sum(s.jobs) as jobs,
    bool_or(s.jobs >= 1000) as more,
    min(coalesce(s.oldest_at, (s.said #>> '{held_by,since}')::timestamptz)) as since,
    (array_agg(s.said))[1] as said,
    array_agg(distinct (s.j).job_type) as job_types,
    array_agg(distinct (s.j).concurrency_key)
      filter (where s.said #>> '{held_by,kind}' = 'key') as keys
  from said as s
  group by s.holder
  order by 1 desc
  limit 20
) as h
$$;

-- Add up the numbers of JSON objects by name. Return null if p_all has no numbers.
create or replace function queue.sum_jsonb(p_all jsonb[])
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

-- Task of maintenance. Count the jobs in committed rows of the feed, about 20,000 jobs at a time.
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
        date_bin('5 minutes', l.at, '2000-01-01 00:00:00+00') as at,
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
      ) as k (type, count)
        on k.type = l.type and l.data ->> 'reason' is distinct from 'process_died'
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
        s.at,
        s.job_type,
        n.kind,
        n.name,
        sum(s.jobs)::bigint as jobs
      from ended as s
      cross join lateral (
        values
          (s.workspace_id),
          ('00000000-0000-0000-0000-000000000000')
      ) as w (id)
      cross join lateral (
        values ('count', s.count), ('wait', s.wait), ('run', s.run)
      ) as n (kind, name)
      where n.name is not null
      group by 1, 2, 3, 4, 5
    ),
    stored as (
      insert into queue.stats as s (
        workspace_id, at, job_type, counts, queue_times, run_times
      )
      select
        c.id,
        c.at,
        c.job_type,
        '{"enqueued": 0, "completed": 0, "failed": 0, "cancelled": 0, "retried": 0, "lost": 0,
          "redriven": 0}'
          || jsonb_object_agg(c.name, c.jobs) filter (where c.kind = 'count'),
        jsonb_object_agg(c.name, c.jobs) filter (where c.kind = 'wait'),
        jsonb_object_agg(c.name, c.jobs) filter (where c.kind = 'run')
      from cells as c
      group by 1, 2, 3
      order by 1, 2, 3
      on conflict (workspace_id, at, job_type) do update set
        counts = queue.sum_jsonb(array[s.counts, excluded.counts]),
        queue_times = queue.sum_jsonb(
          array[s.queue_times, excluded.queue_times]
        ),
        run_times = queue.sum_jsonb(array[s.run_times, excluded.run_times])
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

-- Return the time of the first event that the statistics do not count yet, or null if this event is
-- less than a minute old.
create or replace function queue.statistics_stale_since(p_now timestamptz)
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

drop function queue.type_numbers(uuid,timestamp with time zone,interval,timestamp with time zone);

-- Return the counts and percentiles of each job type in each period. A percentile is exact to 12 %.
create or replace function queue.type_numbers(
  p_workspace_id uuid,
  p_since timestamptz,
  p_step interval
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
    queue.sum_jsonb(array_agg(s.counts)) as counts,
    queue.sum_jsonb(array_agg(s.run_times)) as run_times,
    queue.sum_jsonb(array_agg(s.queue_times)) as queue_times
  from queue.stats as s
  where s.workspace_id
  = coalesce(p_workspace_id, '00000000-0000-0000-0000-000000000000')
    and s.at >= p_since
  group by 1, 2
) as n
cross join lateral (
  select jsonb_object_agg(
    k.name,
    (
      select jsonb_object_agg(q.name, q.ms)
      from (
        select
          format('p%s_ms', p.percent) as name,
          round(min(b.ms)::numeric, 1) as ms
        from unnest('{50, 95, 99}'::integer[]) as p (percent)
        left join (
          select
            power(1.25, e.key::integer + 0.5) - 1 as ms,
            sum(e.value::numeric) over () as total,
            sum(e.value::numeric) over (order by e.key::integer) as jobs
          from jsonb_each_text(k.buckets) as e
        ) as b on 100 * b.jobs >= p.percent * b.total
        group by p.percent
      ) as q
    )
  ) as times
  from (values ('run', n.run_times), ('queue', n.queue_times)) as k (name, buckets)
) as p
$$;

-- Return the duration in milliseconds that 99 % of the jobs of a type did not exceed in the last
-- day, or null if fewer than 20 jobs ended.
create or replace function queue.usual_ms(p_workspace_id uuid, p_job_type text, p_now timestamptz)
returns double precision
language sql stable
set search_path = ''
as $$
select min(power(1.25, b.bucket + 1) - 1) -- the end of the bucket
from (
  select
    e.key::integer as bucket,
    sum(sum(e.value::numeric)) over () as total,
    sum(sum(e.value::numeric)) over (order by e.key::integer) as jobs
  from queue.stats as s
  cross join lateral jsonb_each_text(s.run_times) as e
  where s.workspace_id = p_workspace_id
    and s.at > p_now - interval '1 day'
    and s.job_type = p_job_type
  group by 1
) as b
where b.total >= 20 and 100 * b.jobs >= 99 * b.total
$$;

-- Return the number of due jobs for each cause of their delay. The causes are paused, unserved (no
-- worker serves the type), suspect (the job must run alone), at_limit, blocked (by a concurrency
-- key) and ready. Only unserved is a warning.
-- p_user_id: The person who calls. Other people's jobs of unpublished types are omitted, because
--   this person cannot change these jobs.
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
  cross join lateral queue.is_unserved(a.types, a.queues, queue.live_workers(p_now), p_now) as s
  join queue.lanes as l on l.job_type = s.job_type and l.queue = s.queue
),
due as (
  select
    l.job_type,
    r.ready_at,
    r.jobs,
    sum(r.jobs) over (partition by l.lane) >= l.most as is_more,
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
      when r.is_suspect then 'suspect'
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
    select
      o.workspace_id,
      exists (select from queue.suspects) -- read once, usually without a result
        and exists (select from queue.suspects as s where s.job_id = o.job_id) as is_suspect,
      min(o.ready_at) as ready_at,
      count(*) as jobs
    from (
      select *
      from queue.ready as q
      where q.lane = l.lane
        and (p_workspace_id is null or q.workspace_id = p_workspace_id)
      limit l.most
    ) as o
    group by 1, 2
  ) as r
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
      (3, 'suspect', 'run alone, because their process died:'),
      (4, 'at_limit', 'wait for a limit:'),
      (5, 'blocked', 'wait for a job of their key:'),
      (6, 'ready', 'start next:')
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

-- Return findings about the database and maintenance. A transaction with writes that has been open
-- for a minute is a finding, because readers of the feed wait for this transaction. A read-only
-- transaction that has been open for five minutes is a finding, because Postgres cannot remove dead
-- rows until it ends.
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
        'jobs', p_backlog -> 'jobs',
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
        'jobs', p_backlog #> '{ready,jobs}',
        'job_id', (
          select r.job_id
          from queue.lanes as l
          cross join lateral (
            select *
            from queue.ready as q
            where q.lane = l.lane
              and (p_workspace_id is null or q.workspace_id = p_workspace_id)
            limit 1
          ) as r -- the first job of each lane
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
    select
      'warn',
      'clock_skew',
      null,
      null,
      jsonb_build_object(
        'worker_id', w.worker_id,
        'behind', case when s.seconds < 0 then round(-s.seconds) end,
        'ahead', case when s.seconds > 0 then round(s.seconds) end
      )
    from unnest(queue.live_workers(p_now)) as w
    cross join lateral (
      values ((w.summary ->> 'clock_skew_seconds')::numeric)
    ) as s (seconds)
    where s.seconds is not null
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
      end -- 30 seconds if the transaction has written and is now idle
      order by o.seconds desc
      limit 20
    );
end;
$$;

-- Return findings about types, pauses, schedules, questions and silent jobs. A job is silent if it
-- has sent no update for longer than 99 % of the jobs of its type take. If too few jobs of the type
-- have ended, the limit is ten minutes. A pause by an operator is a finding in each workspace whose
-- jobs are delayed.
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
where t.refusal is not null -- types belong to all workspaces
union all
select
  'warn',
  'two_codes',
  max(c.registered_at),
  format(
    'both serve %s',
    array_to_string((array_agg(c.job_type order by c.job_type))[:5], ', ')
  ),
  jsonb_build_object(
    'codes', array_to_string(c.codes, ' and '),
    'job_type', min(c.job_type)
  )
from ( -- code versions of each type that live workers run
  select j.job_type, j.registered_at, array_agg(distinct w.version) as codes
  from unnest(queue.live_workers(p_now)) as w
  join queue.job_types as j on j.job_type = any (w.job_types)
  group by 1, 2
) as c
where cardinality(c.codes) > 1
group by c.codes
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
    'problem', case when s.problem is null then 'is late' else 'enqueued no job' end
  )
from queue.schedules as s
where s.enabled
  and (s.problem is not null or s.next_at < p_now - interval '3 minutes')
  and (p_workspace_id is null or s.workspace_id = p_workspace_id)
union all
select
  'warn',
  'unserved_schedule',
  null,
  null,
  jsonb_build_object(
    'schedule', u.name,
    'job_type', u.job_type,
    'nearest', queue.nearest_type(u.job_type)
  )
from queue.unserved_schedules(p_workspace_id, p_now) as u
union all
select
  'warn',
  'silent_jobs',
  s.since,
  null,
  jsonb_build_object(
    'job_type', s.job_type,
    'jobs', (
      select count(*)
      from unnest(s.times) as t (since)
      where t.since < p_now - u.ms * interval '1 ms'
    ),
    'job_id', s.job_id,
    'place', s.place,
    'limit', queue.length_in_words(u.ms)
  )
from (
  select
    l.job_type,
    (array_agg(l.job_id order by l.since))[1] as job_id,
    (array_agg(l.place order by l.since))[1] as place,
    min(l.since) as since,
    array_agg(l.since) as times
  from (
    select n.job_type, o.*
    from (
      select
        r.lane,
        r.job_id,
        r.pulse ->> 'place' as place,
        (r.pulse ->> 'since')::timestamptz as since
      from queue.leases as r
      where r.ctid > '(0,0)' -- reads pages in order, because all running jobs are read
        and r.pulse is not null
        and r.expires_at > p_now
        and (p_workspace_id is null or r.workspace_id = p_workspace_id)
      offset 0 -- few jobs are silent, so find them before their lanes
    ) as o
    join queue.lanes as n on n.lane = o.lane
    where o.since < p_now - interval '2 minutes'
  ) as l
  group by 1
) as s
cross join lateral greatest(
  120000,
  coalesce(
    queue.usual_ms(
      coalesce(p_workspace_id, '00000000-0000-0000-0000-000000000000'),
      s.job_type,
      p_now
    ),
    600000
  )
) as u (ms)
where s.since < p_now - u.ms * interval '1 ms'
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

-- Return a finding for each limit that is reached, because enqueues by people are rejected then.
-- The number of rejected calls is unknown, because a rejected call stores nothing. The live jobs of a
-- workspace are counted only if the workspace's limit is low, or if the last count was close to the
-- limit.
create or replace function queue.findings_of_limits(p_workspace_id uuid, p_now timestamptz)
returns table (verdict text, reason text, since timestamptz, cause text, data jsonb)
language sql stable
set search_path = ''
as $$
with workspaces as (
  select p_workspace_id as id
  where p_workspace_id is not null
  union
  (
    select t.workspace_id
    from queue.tenant_limits as t
    where p_workspace_id is null and t.max_pending <= 2000
    limit 20
  )
  union
  (
    select substr(b.name, 3)::uuid
    from queue.buckets as b
    where p_workspace_id is null
      and b.name ~ '^[qb]:'
      and b.refilled_at > p_now - interval '1 hour'
    limit 20
  )
),
limits as (
  select
    w.id,
    coalesce(t.max_pending, queue.setting('user_pending_max')::integer) as jobs,
    queue.setting('user_pending_bytes_max')::bigint as bytes,
    q.tokens as last_jobs,
    b.tokens as last_bytes
  from workspaces as w
  left join queue.tenant_limits as t on t.workspace_id = w.id
  left join queue.buckets as q on q.name = 'q:' || w.id
  left join queue.buckets as b on b.name = 'b:' || w.id
)
select
  'warn',
  'full_workspace',
  null::timestamptz,
  null::text,
  jsonb_build_object(
    'live', c.jobs,
    'limit', l.jobs,
    'more', 2 * l.jobs,
    'workspace_id', l.id,
    'jobs', c.jobs
  )
from limits as l
cross join lateral (
  select count(*) as jobs
  from (
    select from queue.places(l.id, '{pending,processing,waiting}', l.jobs + 1)
    limit l.jobs + 1
  ) as p
) as c
where (l.jobs <= 2000 or l.last_jobs >= 0.9 * l.jobs) and c.jobs > l.jobs
union all
select
  'warn',
  'full_of_bytes',
  null,
  null,
  jsonb_build_object(
    'live', pg_size_pretty(c.bytes),
    'limit', pg_size_pretty(l.bytes),
    'more', 2 * l.bytes,
    'workspace_id', l.id
  )
from limits as l
cross join lateral (
  select sum(pg_column_size(j.payload)) as bytes
  from queue.places(l.id, '{pending,processing,waiting}', 1000000) as p
  join public.jobs as j on j.id = p.job_id
) as c
where l.last_bytes >= 0.9 * l.bytes and c.bytes > l.bytes
$$;

-- Return two findings about worker processes that ended. The first names a type whose code is
-- probably broken, because within ten minutes three jobs of the type have ended their processes,
-- and no job of the type has completed since. The engine never pauses the type by itself. The
-- second finding names suspects that have waited for a minute only because no worker is free for
-- them.
create or replace function queue.findings_of_deaths(p_workspace_id uuid, p_now timestamptz)
returns table (verdict text, reason text, since timestamptz, cause text, data jsonb)
language plpgsql stable
set search_path = ''
as $$
declare
  -- types that may have three jobs that ended their process. If there is no such type, the feed is
  -- not read.
  v_types constant text[] := array(
    select s.job_type
    from queue.stats as s
    where s.workspace_id = coalesce(p_workspace_id, '00000000-0000-0000-0000-000000000000')
      and s.at > p_now - interval '15 minutes'
    group by s.job_type
    having sum((s.counts ->> 'lost')::integer) >= 3
  );
  v_alive queue.workers[];
begin
  if v_types <> '{}' then
    return query
      with lines as materialized (
        select l.type, l.at, l.job_ids
        from (
          select *
          from queue.feed as f
          order by f.number desc
          limit 20000
        ) as l
        where l.at > p_now - interval '10 minutes'
          and (p_workspace_id is null or l.workspace_id = p_workspace_id)
          and (
            l.type = 'job.completed'
            or l.type = 'job.reclaimed' and l.data ->> 'reason' = 'worker_lost'
          )
      ),
      deaths as (
        select
          j.id,
          j.job_type,
          max(l.at) as at,
          max(j.error_data #>> '{evidence,commit}') as "commit",
          row_number() over (partition by j.job_type order by max(l.at) desc, j.id) as nth
        from lines as l
        cross join unnest(l.job_ids) as i (id)
        join public.jobs as j on j.id = any (array[i.id])
        where l.type = 'job.reclaimed' and j.job_type = any (v_types)
        group by 1, 2
      ),
      streaks as (
        select
          d.job_type,
          min(d.at) filter (where d.nth <= 3) as since,
          count(*) as jobs,
          (array_agg(d."commit" order by d.nth))[1] as "commit"
        from deaths as d
        group by 1
        having count(*) >= 3
      )
      select
        'warn',
        'ends_process',
        s.since,
        null::text,
        jsonb_build_object(
          'job_type', s.job_type,
          'ended', s.jobs,
          'commit', s."commit",
          'jobs', queue.due_in(
            p_workspace_id,
            array(select n.lane from queue.lanes as n where n.job_type = s.job_type)
          )
        )
      from streaks as s
      where not exists (
          select from (
            select i.id
            from lines as l
            cross join unnest(l.job_ids) as i (id)
            where l.type = 'job.completed' and l.at > s.since
            limit 2000
          ) as c
          join public.jobs as j on j.id = any (array[c.id])
          where j.job_type = s.job_type
        )
        and not exists (
          select from queue.pauses as p
          where (p.kind, p.name) in (
            ('job_type', s.job_type),
            ('workspace_type', p_workspace_id || '/' || s.job_type)
          )
        );
  end if;
  if exists (select from queue.suspects as s where s.since <= p_now - interval '1 minute') then
    v_alive := queue.live_workers(p_now);
    return query
      select
        'warn',
        'suspects_wait',
        min(w.since),
        null::text,
        jsonb_build_object('jobs', count(*), 'job_id', (array_agg(w.id order by w.since))[1])
      from (
        select j.id, s.since
        from queue.ready_suspects(null) as s
        join public.jobs as j on j.id = any (array[s.job_id])
        where s.since <= p_now - interval '1 minute'
          and (p_workspace_id is null or j.workspace_id = p_workspace_id)
          and not exists ( -- no running process holds a job of the same company
            select from queue.suspects as o
            join queue.leases as l on l.job_id = o.job_id
            where o.company = s.company
          )
          and queue.explain_row(j, v_alive, p_now) is null
          and queue.explain_ready(j, v_alive, p_now) ->> 'reason' = 'suspect'
        limit 100
      ) as w
      having count(*) > 0;
  end if;
end;
$$;

create or replace function public.explain_queue(p_workspace_id uuid default null)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
set timezone = 'UTC'
as $$ -- sentences show times in UTC
declare
  v_now constant timestamptz := queue.clock();
  v_seen_at constant timestamptz := greatest(
    (select max(w.seen_at) from queue.workers as w),
    to_timestamp(nullif(pg_sequence_last_value('queue.slots_ms'), 0) / 1000.0)
  ); -- time when a worker was last seen
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
    -- include due jobs that are still in queue.deferred, because without workers no maintenance
    -- moves them
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
      queue.render_guidance(f.reason, f.data || jsonb_build_object('since', f.since))
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
    from queue.findings_of_limits(p_workspace_id, v_now)
    union all
    select *
    from queue.findings_of_deaths(p_workspace_id, v_now)
    union all
    select *
    from queue.findings_of_apps(p_workspace_id)
  ) as f
  cross join concat_ws(
    ' ',
    f.reason,
    coalesce(
      f.data ->> 'queue',
      f.data ->> 'schedule',
      f.data ->> 'job_type',
      f.data ->> 'workspace_id',
      f.data ->> 'url',
      f.data ->> 'worker_id',
      f.data ->> 'asked'
    )
  ) as k (key);
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
  'Findings, the worst first, and holders of jobs, by number of jobs: {now, verdict, '
  'findings: [{verdict, reason, key, sentence, since, cause, jobs, next: [{words, command, '
  'path}]}], '
  'holders: [{jobs, more, since, kind, reason, sentence, cause, next, holder, job_id, job_types, '
  'keys}], backlog, last_tick_seconds}. Only operators may omit the workspace, to read all.';

-- The console of release 0.4.4 still calls this function.
create or replace function public.silence_finding(p_key text, p_until timestamptz)
returns jsonb
language sql immutable
set search_path = ''
as $$
select jsonb_build_object('key', p_key, 'until', null)
$$;

comment on function public.silence_finding is
  'Deprecated. Returns {key, until: null} and silences nothing. Silence the alert in Alertmanager.';

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
  'Readiness in one call: explain_queue of all workspaces, and the age of the oldest due job.';

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
  v_since constant timestamptz := date_bin(
    '5 minutes',
    v_now - make_interval(mins => least(11520, greatest(1, coalesce(p_minutes, 60)))),
    '2000-01-01 00:00:00+00'
  );
begin
  perform queue.refuse_revoked();
  perform queue.may_read(p_workspace_id, p_reads_much => true);
  return jsonb_build_object(
    'now', v_now,
    'since', v_since,
    'late_since', queue.statistics_stale_since(v_now),
    'backlog', queue.backlog(p_workspace_id, v_now),
    'live', (public.count_jobs(p_workspace_id) -> 'states')
      - '{completed,failed,cancelled}'::text[],
    'types', (
      select coalesce(jsonb_object_agg(n.job_type, n.line), '{}')
      from queue.type_numbers(p_workspace_id, v_since, '9 days') as n
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
  'Counts and percentiles per type over p_minutes, 1 to 11,520. late_since: the time since which '
  'they are stale. Only operators may omit the workspace, to read all, with the last workers and '
  'the 20 busiest tenants.';

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
  v_minutes constant integer := least(11520, greatest(15, coalesce(p_minutes, 60)));
  v_step constant interval := make_interval(
    mins => case
      when v_minutes <= 360 then 5
      when v_minutes <= 1440 then 15
      else 120
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
      from queue.type_numbers(p_workspace_id, v_since, v_step) as n
    )
  );
end;
$$;

comment on function public.queue_series is
  'Counts and times per type over p_minutes, 15 to '
  '11,520, in about a hundred points: {now, since, step_seconds, points}.';

select queue.allow('authenticated, service_role', 'public.queue_series');

-- Return the numbers of waiting and running jobs of a type, each at most 1,000: {waiting, running}.
create or replace function queue.live_of_type(p_workspace_id uuid, p_job_type text)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object(
  'waiting', queue.due_in(p_workspace_id, k.lanes) + ( -- plus jobs whose type is not published
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
  v_alive constant queue.workers[] := queue.live_workers(v_now);
  v_types jsonb;
begin
  perform queue.may_read(p_workspace_id, p_reads_much => true);
  with types as materialized (
    select *
    from queue.job_types
    union all -- types of waiting jobs that are not published
    select u.*
    from (
      select distinct o.job_type
      from queue.unpublished as o
      where p_workspace_id is null or o.workspace_id = p_workspace_id
    ) as w
    cross join lateral queue.require_type(w.job_type) as u
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
  seen as ( -- a worker is alive, stale (seen recently) or gone
    select
      o.job_type,
      l.worker_id,
      l.version,
      l.started_at,
      l.seen_at,
      l.queues,
      case
        when l.worker in (select a.worker from unnest(v_alive) as a) then 'alive'
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
    '9 days'
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
  left join queue.is_unserved(
    array(select o.job_type from asked as o),
    null,
    v_alive,
    v_now
  ) as s on s.job_type = t.job_type;
  if p_job_type is not null then
    if v_types is null then
      perform queue.refuse(
        404,
        'unknown_job_type',
        format('no worker has registered the job type %s', left(p_job_type, 100))
      );
    end if;
    v_types := jsonb_set(
      v_types,
      '{0,holders}',
      queue.holders(p_workspace_id, p_job_type, v_now)
    );
  end if;
  return jsonb_build_object(
    'now', v_now,
    'late_since', queue.statistics_stale_since(v_now),
    'types', coalesce(v_types, '[]')
  );
end;
$$;

comment on function public.list_job_types is
  'Job types by name: {now, types}. Each type has its policy, the 20 workers last seen, statistics '
  'of the last day, a pause and a refusal. If it is not published, it has the nearest published '
  'name. With p_job_type, the type also has its payload schema, schedules, and the holders of its '
  'jobs.';

select queue.allow('authenticated, service_role', 'public.list_job_types');

-- Store that a task could not change a job, because the change was rejected. The task retries the
-- job after 5 seconds. Each further rejection doubles the delay, up to an hour.
create or replace function queue.record_rejection(
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

-- Run a task on a batch of jobs, and return the number of jobs that the task has changed. If the
-- database rejects the batch, divide the batch in halves until the rejected job is found.
create or replace function queue.bisect_task(p_task text, p_ids uuid[], p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_half constant integer := cardinality(p_ids) / 2;
  v_done integer := cardinality(p_ids);
  v_items queue.worker_item[];
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
    elsif p_task = 'reclaim' then -- settle expired leases according to who ended their process
      v_items := queue.expired_items(p_ids, p_now);
      perform queue.append_event(
        array_agg(i.job_id),
        'job.reclaimed',
        jsonb_build_object('status', 'pending', 'reason', i.error -> 'reason'),
        p_now
      )
      from unnest(v_items) as i
      group by i.error -> 'reason';
      perform queue.publish(s.changes, p_now)
      from queue.settle(v_items, false) as s;
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
      raise; -- locks, resources or the connection caused the error, not a row
    when others then
      if v_half = 0 then
        raise warning 'maintenance (%) passes over job %: % (%)',
          p_task,
          p_ids[1],
          sqlerrm,
          sqlstate;
        perform queue.record_rejection(
          p_task,
          p_ids[1],
          format('%s (%s)', sqlerrm, sqlstate),
          p_now
        );
        return 0;
      end if;
  end;
  return queue.bisect_task(p_task, p_ids[:v_half], p_now)
    + queue.bisect_task(p_task, p_ids[v_half + 1:], p_now);
end;
$$;

-- Move these jobs to their next place, for example from queue.deferred to queue.ready, or end them.
-- A job ends if its deadline has passed, or if it has not started by its latest time. A job of an
-- internal type ends if a person enqueued the job before the type was published.
create or replace function queue.promote(p_ids uuid[], p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  -- Lock rows of queue.waits before rows of jobs. Skip a job whose question a person is answering
  -- now. The job remains due.
  v_locked constant uuid[] := array(
    select w.job_id
    from queue.waits as w
    where w.job_id = any (p_ids)
    order by w.job_id
    for update skip locked
  );
  v_adopted uuid[];
  v_due uuid[];
  v_alive queue.workers[];
begin
  if exists (
    select from public.jobs as j
    where j.id = any (p_ids) and j.started_at is null and j.start_by_at <= p_now
  ) then
    v_alive := queue.live_workers(p_now);
  end if;
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
    returning d.job_id, d.is_place
  )
  select coalesce(array_agg(g.job_id) filter (where g.is_place), '{}') into v_due
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
        when j.started_at is null and j.start_by_at <= p_now then jsonb_build_object(
          'type', 'StartByPassed',
          'reason', 'start_by_passed',
          'message', 'it had not started within start_by_seconds',
          'waited', w.sentence
        )
        else '{"type": "Forbidden", "reason": "forbidden",
        "message": "only the platform itself enqueues jobs of this type"}'
      end as error
    from public.jobs as j
    left join queue.job_types as t on t.job_type = j.job_type
    left join ( -- explain one job for each group that waits for the same reason
      select distinct on (o.workspace_id, o.job_type, o.queue, o.concurrency_key)
        o.*,
        queue.waited_for(o, v_alive, p_now) as sentence
      from public.jobs as o
      where o.id = any (p_ids)
        and o.status = 'pending'
        and o.started_at is null
        and o.start_by_at <= p_now
      order by o.workspace_id, o.job_type, o.queue, o.concurrency_key, o.id
    ) as w
      on (w.workspace_id, w.job_type, w.queue) = (j.workspace_id, j.job_type, j.queue)
        and w.concurrency_key is not distinct from j.concurrency_key
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
    and j.id = any (v_adopted || v_due); -- other jobs keep their place
  return cardinality(p_ids);
end;
$$;

-- Move jobs to their next place, for example from queue.deferred to queue.ready, when they are due
-- or when their type has been published. Each pass takes the oldest jobs, and an equal number of
-- jobs of each workspace (queue.fair_batch). Locked jobs remain due.
create or replace function queue.do_promotion(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_types constant text[] := array( -- types published after their first jobs were enqueued
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
    v_lines := queue.fair_batch(
      'queue.deferred',
      'true',
      'o.run_at <= $1 and o.job_id <> all ($2)',
      'o.run_at',
      p_now,
      v_refused
    );
    delete from queue.deferred -- delete rows whose job is deleted or has another time now
    where ctid = any (array(
      select d.ctid
      from queue.deferred as d
      where d.ctid = any (v_lines)
        and not exists (
          select from public.jobs as j
          where j.id = d.job_id
            and d.run_at in (
              j.next_retry_at, j.scheduled_for, j.deadline_at, j.start_by_at
            )
        )
      for update skip locked
    ));
    v_adopted := case
      when v_types <> '{}' then queue.fair_batch(
        'queue.unpublished',
        'true',
        format('o.job_id <> all ($2) and o.job_type = any (%L)', v_types),
        'o.job_type',
        p_now,
        v_refused
      )
    end;
    v_ids := array( -- lock each job together with its row
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
    exit when v_ids = '{}' and not found; -- found is set by the delete above
    v_done := v_done + queue.bisect_task('promotion', v_ids, p_now);
    exit when clock_timestamp() > p_until;
  end loop;
  return v_done;
end;
$$;

-- Reclaim the jobs of expired leases, in batches with an equal number of jobs of each workspace.
-- Locked leases remain due.
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
  -- If the clock of the server was set back, shorten earlier leases, which would otherwise expire
  -- too late.
  update queue.leases as l
  set expires_at = p_now + make_interval(secs => l.lease_seconds)
  where l.ctid = any (array(
    select o.ctid
    from queue.leases as o
    where o.expires_at
      > p_now + make_interval(secs => o.lease_seconds) + interval '1 minute'
    for no key update skip locked
  ));
  perform queue.end_dead_runs(p_now);
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
    v_done := v_done + queue.bisect_task('reclaim', v_ids, p_now);
    exit when clock_timestamp() > p_until;
  end loop;
  return v_done;
end;
$$;

-- Delete ended jobs after their retention time. The oldest jobs come first, because an id begins
-- with the job's creation time. A child job is kept while its parent waits for it.
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
      v_done := v_done + queue.bisect_task('retention', v_seen.old, p_now);
    end if;
    v_after := v_seen.ids[500]; -- null if the pass has ended
    exit when v_after is null or clock_timestamp() > p_until;
  end loop;
  update queue.tasks
  set after_id = v_after
  where name = 'retention';
  -- return at least 1, because 0 would mean that no job is left to delete
  return case when v_after is null then v_done else greatest(1, v_done) end;
end;
$$;

-- Delete rows that are no longer needed and do not belong to a stored job, in batches that an index
-- finds.
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
  -- Close turns without ready jobs that were opened more than an hour ago. The call passes a time
  -- two hours ago as changed_at, so that a rule below deletes the turns at once.
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
  -- A dump stores rows of an earlier moment than the values of sequences.
  perform setval('queue.notes_gone', 0)
  where exists (
    select from queue.notes as n
    where n.key is null and n.xid::text::bigint < pg_sequence_last_value('queue.notes_gone')
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
        -- no job waits for an event for more than 30 days
        ('named_events', 'emitted_at < $1 - interval ''30 days'''),
        ('stats', 'at < $1 - interval ''9 days'''),
        ('publisher', 'round < (select max(p.round) from queue.publisher as p)'),
        ('guest_sessions', 'expires_at < $1 - interval ''1 day'''),
        -- delete followers that have not called public.follow_topic, which a client does every 60
        -- seconds
        ('followers', 'seen_at < clock_timestamp() - interval ''150 seconds'''),
        -- delete turns that were closed an hour ago, because a lease that opens such a turn inserts
        -- a new row
        (
          'turns',
          'blocked and look_at is null and changed_at < $1 - interval ''1 hour'''
        ),
        -- delete token buckets that have not changed for so long that they must be full again
        (
          'buckets',
          'refilled_at < $1 - greatest(interval ''1 day'', case when name ~ ''^[rk]:''
        then (select make_interval(secs => 2 * max(rate_per_seconds)) from queue.job_types) end)'
        ),
        ('ticks', 'seen_at < $1 - interval ''1 day'''),
        ('withdrawn_schedules', 'withdrawn_at < $1 - interval ''1 day'''),
        -- delete workers after this time, although a job that is stored for longer then shows no
        -- worker
        ('workers', 'seen_at < $1 - interval ''100 days'''),
        -- delete leases of deleted jobs, which remain if a worker reported on the job during its
        -- deletion
        ('leases', 'expires_at <= $1 and not exists (
        select from public.jobs as j where j.id = o.job_id)'),
        ('lost_leases', 'not exists (
        select from queue.leases as l where l.worker = o.worker and l.leased_at <= o.lost_at)'),
        ('suspects', 'not exists (
        select from public.jobs as j where j.id = o.job_id and j.finished_at is null)'),
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

-- Return true if public.run_maintenance has work to do now. Work on a locked row is due again after
-- a second. A task that found no work in an idle queue is due again after an hour.
-- p_active: True if jobs have run since the last maintenance.
-- p_is_soon: True if a job, wait or signal may be due, from queue.next_due_in_ms.
create or replace function queue.maintenance_is_due(
  p_now timestamptz,
  p_active boolean,
  p_is_soon boolean default true
)
returns boolean
language plpgsql stable
set search_path = ''
as $$
begin
  if p_is_soon then -- a separate query, because even a part of a query that is skipped has a cost
    if exists (
      select from queue.tasks as t
      cross join lateral (
        select case
          when t.was_idle
              and t.done_at > p_now - interval '1 second'
              and t.done_at <= p_now
            then t.done_at
          else '-infinity'
        end as rests_until
        offset 0 -- computed once
      ) as r
      where (
        t.done_at > p_now
        or t.done_at + t.every <= p_now and coalesce(t.retry_at <= p_now, true)
      )
        and case t.name
          when 'promotion' then exists (
            select from queue.deferred as d
            where d.run_at <= p_now
              and d.run_at > r.rests_until
              and d.job_id <> all ((
                select queue.refused('promotion', p_now)
              )::uuid[])
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
        end
    ) then
      return true;
    end if;
  end if;
  return exists (
    select from queue.tasks as t
    where (
      t.done_at > p_now
      or (t.done_at + t.every <= p_now or t.after_id is not null)
        and coalesce(t.retry_at <= p_now, true)
    )
      and (
        t.every > interval '0'
        and (p_active or not t.was_idle or t.done_at <= p_now - interval '1 hour')
        or (t.name, true) in (
          -- a pass of queue.reset_schedules is unfinished, or the clock was set back
          (t.name, t.after_id is not null or t.done_at > p_now + interval '1 minute'),
          ('reclaim', exists (select from queue.leases)), -- any lease may have expired
          ('announcements', exists (select from queue.late_topics)),
          (
            case when t.reads_feed then t.name end, -- some seconds after a line of the feed
            exists (select from queue.feed as f where f.number >= t.read_to)
          ),
          (
            'schedules',
            exists (select from queue.schedules as s where s.enabled and s.next_at <= p_now)
          ),
          (
            'promotion',
            exists (
              select from queue.job_types as y
              where y.schema_version > 0
                and exists (select from queue.unpublished as u where u.job_type = y.job_type)
            )
          )
        )
      )
  );
end;
$$;

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
      'maintenance requires the isolation level read committed'
    );
  elsif not queue.try_lock('maintenance') then
    return jsonb_build_object(
      'done', v_counts,
      'failed', v_failed,
      'more', false,
      'busy', true
    );
  end if;
  -- after the restore of a dump, this call raises queue.feed_base
  perform queue.feed_number(pg_snapshot_xmax(pg_current_snapshot()));
  -- The task that has waited longest comes first. Each task gets an equal share of the remaining
  -- time, so that no task delays the other tasks. The task announcements comes last, because other
  -- tasks add rows to the feed.
  v_tasks := array(
    select t
    from queue.tasks as t
    where t.done_at > v_now
      or (t.done_at + t.every <= v_now or t.after_id is not null)
        and coalesce(t.retry_at <= v_now, true)
    order by t.name = 'announcements', t.failures > 0, t.done_at, t.every, t.name
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
        -- a task that ended because its time was over is due again at once
        done_at = case
          when v_done > 0 and clock_timestamp() > v_share then v_now - every
          else v_now
        end,
        was_idle = v_done = 0,
        failures = 0,
        failure = null,
        retry_at = null
      where name = v_task.name;
      if v_done > 0 then
        v_counts := v_counts || jsonb_build_object(v_task.name, v_done);
      end if;
    -- catch a statement timeout too
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
    perform setval('queue.feed_reached', queue.feed_end()); -- no feed number is higher
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
  E'Run the maintenance tasks that are due, for at most budget_ms (50 to 5,000, default 1,000): '
  '{done: {task: count}, failed: [task], more, busy}.\n\nmore: call again. busy: another call is '
  'running maintenance.';

select queue.allow('job_worker, service_role', 'public.run_maintenance');

drop function queue.personal_tables(boolean);

-- Return SQL conditions for each table with marked columns. In the conditions, $1 is the person's
-- id, $2 are the search patterns and $3 the deleted jobs.
-- p_searches: True to search text too.
-- is_theirs: Condition of the rows that are deleted because they belong to the person.
-- is_about: Condition of the rows whose text is cleared.
-- is_of_job: Condition of the rows that are deleted with their job.
create or replace function queue.personal_tables(
  p_searches boolean,
  out relation oid,
  out is_theirs text,
  out is_about text,
  out is_of_job text,
  out clears text, -- assignments that clear the text
  out files text, -- expressions of the keys of files, or null
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
        when 'tags'
          then format('t.%s @> array[''user:'' || $1] or %s', c.name, c.quotes)
        when 'words' then c.quotes
        else format('strpos(t.%s, $1) > 0 or %s', c.name, c.quotes) -- key or file
      end,
      ' or '
    ) filter (where c.kind in ('owner', 'key', 'file', 'tags', 'words')),
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
  string_agg(format('t.%s::text', c.name), ', ') filter (where c.kind = 'file'),
  coalesce(array_agg(c.name) filter (where c.kind = 'secret'), '{}')
from columns as c
left join abouts as a on a.relation = c.relation
group by c.relation, a.is_about
order by c.relation::regclass::text
$$;

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
  v_deleted jsonb;
  v_cleared jsonb := '{}';
  v_keys text[];
  v_files text[] := '{}';
begin
  v_jobs := queue.jobs_of_person(p_user_id, v_patterns);
  perform from public.jobs
  where id = any (v_jobs)
  order by id
  for update;
  delete from public.jobs where id = any (v_jobs);
  get diagnostics v_rows = row_count;
  v_deleted := jsonb_build_object('public.jobs', nullif(v_rows, 0));
  for v_one in
    select *, p.relation::regclass::text as name
    from queue.personal_tables(cardinality(v_patterns) > 0) as p
    where p.relation <> 'public.jobs'::regclass
  loop
    execute format(
      'with gone as (delete from %s as t where %s returning array[%s]::text[] as keys) '
        'select count(*), array(select k from gone, unnest(keys) as k) from gone',
      v_one.name,
      v_one.is_theirs,
      v_one.files
    )
    into v_rows, v_keys
    using p_user_id::text, v_patterns;
    v_files := v_files || v_keys;
    v_deleted := v_deleted || jsonb_build_object(v_one.name, nullif(v_rows, 0));
    continue when v_one.clears is null;
    execute format(
      'update %s as t set %s where %s',
      v_one.name,
      v_one.clears,
      v_one.is_about
    )
    using p_user_id::text, v_patterns, v_jobs;
    get diagnostics v_rows = row_count;
    v_cleared := v_cleared || jsonb_build_object(v_one.name, nullif(v_rows, 0));
  end loop;
  return jsonb_strip_nulls(jsonb_build_object(
    'deleted', v_deleted,
    'cleared', v_cleared,
    'files', to_jsonb(nullif(v_files, '{}'))
  ));
end;
$$;

comment on function public.erase_person is
  E'Delete a person''s jobs and all data that names the person: {deleted: {table: rows}, cleared, '
  'files}. The caller deletes the files with these keys.\n\np_words: names or addresses, each of '
  '3 characters or more. With p_words the call reads all tables, and also erases text that quotes '
  'a word or the person''s id. For operators.';

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
    for v_part in -- rows of the table, and rows of other tables that a foreign key deletes too
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
          n.its,
          n.theirs,
          v_one.name,
          v_one.is_theirs
        )
      from pg_catalog.pg_constraint as k
      cross join lateral (
        select
          string_agg(format('t.%I', a.attname), ', ' order by c.nth) as its,
          string_agg(format('t.%I', b.attname), ', ' order by c.nth) as theirs
        from unnest(k.conkey, k.confkey) with ordinality as c (its, theirs, nth)
        join pg_catalog.pg_attribute as a on a.attrelid = k.conrelid and a.attnum = c.its
        join pg_catalog.pg_attribute as b on b.attrelid = k.confrelid and b.attnum = c.theirs
      ) as n
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
  E'A person''s jobs and all data that names the person: {user_id, tables: {table: [row]}}.\n\n'
  'These are the rows that erase_person deletes or clears with the same arguments. For operators.';

select queue.allow('service_role', 'public.export_person');

-- Copy the output of a job to its replay, but only the output of steps that the replay skips.
create or replace function queue.copy_output(p_job_id uuid, p_replay_id uuid)
returns void
language plpgsql
set search_path = ''
as $$
begin
  with first as ( -- later attempts repeat the first attempt's output
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

-- Store pieces of output, and send them to followers of the job. The caller has locked the leases
-- of the jobs. A piece is {stream, attempt, start, step?, text or items}. If an earlier report
-- stored the beginning of a piece, store only the rest. Do not store a piece that exceeds the job's
-- limit of bytes, or that would open a 21st stream, and later pieces of the same stream.
create or replace function queue.write_output(p_items queue.worker_item[], p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_most constant bigint := queue.setting('output_max_bytes')::bigint;
  v_piece record;
  v_job uuid;
  v_bytes bigint; -- bytes that the job has stored, or null before they are counted
  v_last record; -- last stored piece of the stream
  v_known integer; -- end of the stored stream
  v_text text;
  v_list jsonb;
  v_size integer;
  v_grown bigint; -- bytes that the piece adds
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
    continue when v_last.attempt is null
      and (select count(*) from queue.stream_ends(v_job)) >= 20;
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
        -- a message omits longer pieces, which followers read from the database
        'text', case when octet_length(v_text) <= 8000 then v_text end,
        'items', case when pg_column_size(v_list) <= 8000 then v_list end
      )),
      array[v_job],
      array[null::integer],
      p_now
    )::queue.change;
  end loop;
  perform queue.publish(v_changes, p_now) where v_changes <> '{}';
end;
$$;

create or replace function public.read_output(p_request jsonb)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_stream constant text := p_request ->> 'stream';
  v_id uuid;
begin
  perform queue.refuse_revoked();
  v_id := queue.leased_id(p_request, 'its output is not shown');
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
        order by o.step, o.attempt -- later attempts repeat the first attempt's output
      ) as k
    )
  );
end;
$$;

comment on function public.read_output is
  E'Output of a leased job in a stream: {attempt, kept: {step: {text, items}}}.\n\nRequest: '
  '{job_id, fence, stream}. kept: output of finished steps, which the worker writes again when it '
  'skips them.';

select queue.allow('job_worker, service_role', 'public.read_output');

-- Return the end of each stream of a job: the number of the last attempt that wrote to the stream,
-- and the offset in the output of this attempt.
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
    from ends as e
    limit 20; -- an earlier release could store more
end;
$$;

-- Return a page of a stream that begins at an offset. A page has up to 30,000 characters or 1,000
-- items of the last attempt that wrote to the stream.
create or replace function queue.output_page(p_job_id uuid, p_stream text, p_from integer)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_last record; -- last piece
  v_page record;
  v_skipped integer; -- characters or items of the first piece before p_from
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

-- Return about the bytes of a job's output that a read after these positions returns. A read
-- returns one page of each stream, which has at most 30,000 characters or 1,000 items.
-- p_after: Positions {stream: {attempt, next}}.
create or replace function queue.unread_bytes(p_job_id uuid, p_after jsonb, p_stream text default null)
returns bigint
language plpgsql stable
set search_path = ''
as $$
begin
  return (
    select coalesce(sum(u.bytes), 0)
    from queue.stream_ends(p_job_id) as e
    cross join lateral (
      select case
        when p_after #>> array[e.stream, 'attempt'] <> e.attempt::text then 0
        else coalesce((p_after #>> array[e.stream, 'next'])::integer, 0)
      end as next
    ) as k
    cross join lateral (
      select least(65536, coalesce(sum(octet_length(o.text)), 0)) + coalesce(
        sum(octet_length(o.items::text)) filter (
          where o.end_offset - jsonb_array_length(o.items) - k.next < 1000
        ),
        0
      ) as bytes
      from queue.output as o
      where o.job_id = p_job_id
        and o.stream = e.stream
        and o.attempt = e.attempt
        and o.end_offset > k.next
    ) as u
    where e.stream = coalesce(p_stream, e.stream)
  );
end;
$$;

-- Admit a read of more than 10,000 bytes of output. It takes a call slot, and a person pays for the
-- bytes. Guests read one job or session one at a time. Return the bytes that are not paid for.
create or replace function queue.admit_read(p_workspace_id uuid, p_id text, p_bytes bigint)
returns bigint
language plpgsql
set search_path = ''
as $$
begin
  if p_bytes <= 10000 then
    return p_bytes;
  end if;
  perform queue.take_call_slot(p_workspace_id);
  perform queue.hold_id(p_id) where queue.caller() is null;
  perform queue.admit('rows', null, queue.caller(), 1, p_bytes);
  return 0;
end;
$$;

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
      or auth.jwt() is null and current_setting('role') <> 'anon' -- a plain SQL session
      or queue.may_follow('job:' || p_job_id)
      or exists (
        select from queue.guest_session(p_session_id) as s
        where s.session_id = j.session_id and s.workspace_id = j.workspace_id
      )
    );
  if not found then
    perform queue.refuse(404, 'job_not_found', 'job not found', p_job_id::text);
  end if;
  perform queue.admit_read(
    v_job.workspace_id,
    p_job_id::text,
    queue.unread_bytes(
      p_job_id,
      case
        when p_stream is null then p_after
        else jsonb_build_object(p_stream, jsonb_build_object('next', p_from))
      end,
      p_stream
    )
  );
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
language sql -- volatile, because a person pays for much output
set search_path = '' -- the body is parsed at creation, so guests need no usage of schema queue
begin atomic select queue.job_output(
  p_job_id,
  p_stream,
  p_from,
  p_after,
  p_session_id
);
end;

comment on function public.job_output is
  E'Output of a job in a stream from an offset: {stream, attempt, from, next, more, text or items, '
  'status}.\n\nA new attempt restarts the stream: drop the output of the previous attempt and read '
  'from 0. Without a stream: {status, last_seq, streams}, the streams that have output after '
  'p_after {stream: {attempt, next}}. The default of attempt is the current attempt. A guest '
  'passes the session.';

select queue.allow('anon, authenticated, service_role', 'public.job_output');

-- Return a job of a guest session, and the job's events after the event number p_after. Events of
-- log lines have no data.
create or replace function queue.guest_job(p_session_id text, p_job_id uuid, p_after integer)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  c_events constant integer := 500; -- maximum per response
  v_job public.jobs;
begin
  select j.* into v_job
  from queue.guest_session(p_session_id) as s
  join public.jobs as j on j.session_id = s.session_id and j.workspace_id = s.workspace_id
  where j.id = p_job_id;
  -- The error message does not contain the session id, because the id may grant access.
  if not found then
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
  E'A job of a guest session, as in guest_session_jobs, with {streams, events}. streams: the '
  'position of each stream. events: up to 500 events after a seq, without the data of log lines.'
  '\n\n404 job_not_found if the session does not exist, has ended, or does not have the job.';

select queue.allow('anon, authenticated, service_role', 'public.guest_job');

-- Return new output of the jobs of a session that run now, or that p_after names. For each job,
-- return a page of each stream that has output after its position in p_after. A response has up to
-- 20 jobs, or about 1 MB. The price counts 50 bytes for each job of the session, and 500 for each
-- job whose output is read.
create or replace function queue.session_output(p_session_id text, p_after jsonb)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_workspace constant uuid := queue.shown_workspace(p_session_id);
  v_unpaid bigint;
  v_id uuid;
  v_pages jsonb;
  v_jobs jsonb := '[]';
  v_is_full boolean := false;
begin
  v_unpaid := queue.admit_read(v_workspace, p_session_id, 50 * count(*))
  from (
    select from public.jobs as j -- the index alone is read
    where j.session_id = p_session_id
    limit 20000
  ) as f;
  foreach v_id in array array(
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
  )
  loop
    v_unpaid := queue.admit_read(
      v_workspace,
      p_session_id,
      v_unpaid + 500 + queue.unread_bytes(v_id, p_after -> v_id::text)
    );
    v_pages := queue.output_pages(v_id, p_after -> v_id::text);
    continue when v_pages = '[]';
    v_jobs := v_jobs || jsonb_build_object('job_id', v_id, 'streams', v_pages);
    v_is_full := jsonb_array_length(v_jobs) = 20 or pg_column_size(v_jobs) > 1000000;
    exit when v_is_full;
  end loop;
  return jsonb_build_object(
    'jobs', v_jobs,
    'more', v_is_full or v_jobs @? '$[*].streams[*] ? (@.more == true)'
  );
end;
$$;

select queue.allow('anon, authenticated, service_role', 'queue.session_output');

create or replace function public.session_output(p_session_id text, p_after jsonb default null)
returns jsonb
language sql -- volatile, because a person pays for much output
set search_path = '' begin atomic select queue.session_output(p_session_id, p_after);
end;

comment on function public.session_output is
  E'Output of a session''s jobs: {jobs: [{job_id, streams}], more}, with streams as in job_output.'
  '\n\nReturns output of running jobs, and of jobs in p_after {job_id: {stream: {attempt, next}}}, '
  'after these positions.';

select queue.allow('anon, authenticated, service_role', 'public.session_output');

-- Join the pieces of ended jobs into one row for each stream, or for each step that wrote to the
-- stream. Of a completed job, keep only the output of the last attempt. Of other jobs, keep the
-- output of all attempts, because these jobs may run again.
create or replace function queue.do_output(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_found uuid[];
  v_ids uuid[]; -- jobs of v_found whose rows could be locked
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
    v_ids := array( -- the lock prevents a retry of these jobs meanwhile
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

-- This file connects optional extensions to the engine. A project can enable pg_cron, pg_net with
-- the Vault, and Realtime at any time. A migration attaches only the extensions that are enabled
-- when the migration runs. A later call of public.attach_extensions attaches the others.

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
  -- after a restore on another server, leases must read all notes again
  perform setval('queue.notes_gone', 0);
  foreach v_part in array array['pg_cron', 'realtime'] loop
    continue when v_part = 'pg_cron'
      and to_regprocedure('cron.schedule(text,text,text)') is null
      or v_part = 'realtime' and to_regclass('realtime.messages') is null;
    begin
      v_state := v_state || jsonb_build_object(v_part, 'attached');
      -- The second cron job deletes old rows of pg_cron's run history, which would otherwise grow
      -- without bound.
      if v_part = 'pg_cron' then
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
        -- queue.may_follow is in a subquery, so that Postgres evaluates the function once for each
        -- client that joins.
        execute format(
          'create policy %I on realtime.messages for select to authenticated, anon '
            'using (extension = ''broadcast'' and (select queue.may_follow('
            '(select realtime.topic()))))',
          c_policy
        );
      end if;
    exception when others then -- the failure of one extension must not stop the others
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
  E'Attach extensions that were installed after the migrations ran: {pg_cron, pg_net, realtime, '
  'problems}.\n\nEach extension is absent, not_attached or attached. pg_net is no_worker while no '
  'worker address is set.';

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
  'Let the database invoke a worker over HTTPS when jobs arrive (pg_net) and every minute '
  '(pg_cron). A null address disconnects the worker. For operators.';

select queue.allow('service_role', 'public.connect_worker');

-- Revoke all rights on the engine's tables and views, and enable row level security. Skip tables
-- that already have row level security, because an earlier statement grants rights on these tables.
create or replace function queue.close_tables()
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_one record;
begin
  for v_one in
    select oid::regclass as name, relkind
    from pg_catalog.pg_class
    where relnamespace = 'queue'::regnamespace
      and (relkind = 'v' or relkind = 'r' and not relrowsecurity)
  loop
    execute format('revoke all on %s from public, anon, authenticated, service_role', v_one.name);
    if v_one.relkind = 'r' then
      execute format('alter table %s enable row level security', v_one.name);
    end if;
  end loop;
end;
$$;

select queue.close_tables();

-- Close the private functions. Earlier statements grant execute on the functions that policies,
-- column defaults or guests call.
revoke execute on all functions in schema queue from public;

drop function queue.adopt(public.jobs,queue.job_types);

drop function queue.alive_workers(timestamp with time zone);

drop function queue.along_the_ring(integer,integer);

drop function queue.both_taken(queue.taken,queue.taken);

drop function queue.changes_by_topic(queue.change[]);

drop function queue.charges_alone(text,double precision);

drop function queue.count_on_no_worker(timestamp with time zone);

drop function queue.deepest_below(uuid,boolean);

drop function queue.do_in_parts(text,uuid[],timestamp with time zone);

drop function queue.end_places(uuid[],timestamp with time zone);

drop function queue.expect(uuid,uuid,integer,bigint);

drop function queue.figures_late_since(timestamp with time zone);

drop function queue.first_turns(integer[],integer);

drop function queue.forget_in_feed(uuid[],uuid[],timestamp with time zone);

drop function queue.holders_of(text,public.jobs,integer);

drop function queue.in_shares(regclass,text,text,text,timestamp with time zone,uuid[]);

drop function queue.is_of_younger(queue.job_types,jsonb);

drop function queue.kind_of_holder(text);

drop function queue.lane_by_lane(integer[],integer);

drop function queue.lost_items(uuid[]);

drop function queue.may_send(record,bigint,integer,uuid,timestamp with time zone);

drop function queue.message_form();

drop function queue.move_on(integer[],queue.last_served);

drop function queue.note_begun(uuid[],text,timestamp with time zone);

drop function queue.note_refusal(text,uuid,text,timestamp with time zone);

drop function queue.note_worker(queue.lease_request,queue.workers,timestamp with time zone);

drop function queue.repeat_leases(uuid,integer);

drop function queue.served(text[],text[],queue.workers[],timestamp with time zone);

drop function queue.spend(text,double precision,double precision,double precision,timestamp with time zone,text);

drop function queue.sum_numbers(jsonb[]);

drop function queue.trace_of_call();

drop function queue.type_or_refuse(text,text,uuid);

drop function queue.waiting_beside(public.jobs,text);

drop function queue.words_of(text,jsonb,text);

drop sequence if exists queue.messages_fitted;

-- The publisher begins with the first feed row whose message was not sent, or with the next new
-- row.
insert into queue.publisher (seen, until, number, id)
select '1:1:', pg_current_snapshot(), n.number, 0
from (
  select coalesce(
    (select min(f.number) - 1 from queue.feed as f where f.unsent),
    (select max(f.number) from queue.feed as f)
  ) as number
) as n
where n.number is not null;
drop index queue.feed_unsent;
drop index queue.feed_unsent_by_workspace;
-- People are now charged for their statements on these tables, and for rows that they delete.
select queue.charge_rows(t.tgrelid)
from pg_catalog.pg_trigger as t
where t.tgname = 'charge_insert';
select queue.watch_members();
