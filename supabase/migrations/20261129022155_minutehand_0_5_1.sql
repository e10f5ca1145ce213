-- 0.5.1 after the release before it; written by `python -m infra.release` from schemas and steps/0.5.1.sql.
-- Do not edit it, and do not read it: read the schemas.

-- The upgrade takes functions, views, triggers, policies, grants, comments and new columns from
-- supabase/schemas. This file has the changes that the schemas cannot express, for example a
-- changed index or moved rows.

alter table queue.turns add column if not exists epoch bigint default 0 not null;

-- Return the release of the engine's schema, which is the value of minutehand.version. `minutehand
-- doctor` compares this release with the release that the project recorded.
create or replace function queue.version()
returns text
language sql immutable
set search_path = ''
as $$
select '0.5.1'
$$;

-- Take an advisory lock until this transaction ends. If another transaction has the lock, return
-- false. The key of an advisory lock is a pair of numbers. The first number is a hash of the first
-- word of the lock's name, so that locks of different kinds never collide. The first number of the
-- key is always negative, so that it differs from the first number of the locks that
-- queue.hold_turn takes, which is the positive number of a lane.
-- p_waits: True to take the lock exclusively, and to wait until it is free instead of returning
--   false.
-- p_is_shared: True to take the lock in shared mode.
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
create or replace function queue.reserve_locks(p_count integer, p_most integer)
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

-- Reject a caller who is not a member of the workspace with status 404, and a member who is not a
-- manager with status 403. Take one token of the caller's rate limit (queue.admit).
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
  'Return the workspace that a call applies to. Without p_workspace_id, this is the workspace that '
  'the caller joined first. The caller must be a member of p_workspace_id.';

select queue.allow('authenticated, service_role', 'public.own_workspace');

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

-- Numbers of the epochs of queue.turns. While an old snapshot exists, for example of a dump,
-- Postgres keeps the index entries of turns that were closed after the snapshot began. Each epoch
-- has its own part of the index, and leases read only the part of the latest epoch, so that they
-- skip the entries of closed turns. If at least as many turns were closed in the last epoch as are
-- open now, a lease sets a new epoch in the open turns (queue.begin_epoch).
create table queue.turn_epochs (epoch bigint primary key);

-- Approximate number of turns that were closed in the last epoch.
create unlogged sequence queue.turns_closed minvalue 0 start 0;

-- noqa: PRS
create or replace view queue.unblocked_turns as
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

-- Return a sentence that names the first requirement of the JSON schema p_schema that p_value does
-- not meet, or null if p_value is valid. queue.schema_error supports those parts of JSON Schema
-- 2020-12 that pydantic generates. The supported keywords are type, enum, const, required,
-- properties, additionalProperties, items, lengths, ranges, pattern, the formats uuid and
-- date-time, anyOf, oneOf (with the meaning of anyOf) and $ref.
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
    -- a part of the schema that is null accepts any value
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

-- Reject JSON that some clients cannot parse, because one job with such JSON would make a client
-- that lists jobs fail. Many parsers stop at about 200 levels of nesting, and numbers above 1.8e308
-- overflow a double.
create or replace function queue.check_json(p_value jsonb, p_field text)
returns void
language plpgsql stable
set search_path = ''
as $$
declare
  v_text constant text := p_value::text;
  v_bytes_max constant integer := queue.setting('payload_max_bytes')::integer;
begin
  -- Measure the JSON as text, because jsonb stores the number 1e131000 in ten bytes, but the number
  -- has 131,001 bytes as text.
  if octet_length(v_text) > v_bytes_max then
    perform queue.refuse(
      413,
      'payload_too_large',
      format(
        '%s exceeds %s bytes; store the data and pass a reference',
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

-- Store a job type and its schedules. If the stored job type is from a newer deployment, change
-- nothing and return false.
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
        -- any value of events except full and minimal becomes null, and the column is_minimal
        -- rejects null
        'is_minimal', case coalesce(p_type ->> 'events', 'full')
          when 'full' then false
          when 'minimal' then true
        end,
        'in_order', coalesce(v_old.in_order, false),
        'registered_at', queue.clock(),
        -- replace a deployment time in the future by the present time, because a worker whose clock
        -- is ahead must not block later deploys
        'deployed_at', case
          when p_type ? 'deployed_at'
            then least((p_type ->> 'deployed_at')::timestamptz, queue.clock())
        end,
        -- A worker may make a type internal. A worker may not make an internal type public again,
        -- because otherwise someone with a stolen worker key could make the type public. Only the
        -- first registration after public.revoke_worker_keys may make an internal type public.
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
    -- ignore a conflict, because a migration of the project may insert the same job type at this
    -- moment
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
    from (
      select *
      from jsonb_array_elements(p_types)
      where not value ? 'failure'
      union all -- known types of modules that the worker could not load
      select to_jsonb(k)
      from (
        select o.job_type, m.failure
        from jsonb_to_recordset(p_types) as m (module text, failure text)
        join queue.job_types as o on o.source ~ ('^' || m.module || '[:.]')
      ) as k
    ) as t
    order by t.value ->> 'job_type'
  loop
    perform queue.try_lock(
      'registration ' || (v_type ->> 'job_type'),
      p_waits => true
    );
    if v_type ? 'failure' then
      update queue.job_types
      set refusal = left(v_type ->> 'failure', 1000)
      where job_type = v_type ->> 'job_type';
      continue;
    end if;
    begin
      v_count := v_count + queue.publish_type(v_type)::integer;
    -- if the database rejects a job type, continue with the other job types
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
  -- attach pg_cron, pg_net and other extensions that were installed since the last registration
  perform public.attach_extensions();
  return jsonb_build_object('registered', v_count, 'refused', v_refused);
end;
$$;

comment on function public.register_job_types is
  E'Publish job types: {registered, refused: [{job_type, code, message, field}]}.\n\n'
  'A rejected job type keeps its previous settings, and list_job_types shows the reason. An '
  'element {module, failure} reports a module that the worker could not load.';

select queue.allow('job_worker, service_role', 'public.register_job_types');

-- This file enqueues one job. 05_enqueue_many.sql enqueues many jobs. These are the steps of an
-- enqueue, by function.
--
--   public.enqueue_job
--     queue.enqueue_simple     enqueues a simple job in one statement. For all other jobs,
--                              enqueue_job calls the following functions.
--     queue.may_read           rejects a caller without access to the workspace.
--     queue.admit              takes tokens of the caller's rate limit (06_limits.sql).
--     queue.require_type       returns the job type, even if no worker has published it.
--     queue.add                adds the job with the next three functions.
--       queue.new_job          checks payload and options (queue.read_options) and builds the row.
--       queue.claim            stores the idempotency key and the unique key of the job.
--       queue.place            inserts the job into queue.unpublished, deferred, gated or ready.
--         queue.note_turn      adds a note if leases would not find the job.
--     queue.publish            adds a row to queue.feed and notifies browsers (12_feed.sql).
--     queue.wake_worker        decides whether the caller should start a worker.
--
-- The commit of the new row of queue.feed notifies workers.
--
-- The functions at the end of this file start workers, and lock live jobs that a call is about to
-- change.

-- Return the job type of a new job. If no worker has published the job type, the result has lane 0
-- and schema version 0. queue.require_type rejects the new job if jobs of 20 other unpublished
-- types already wait in the workspace, or jobs of 1,000 unpublished types in all workspaces.
-- p_within: Prefix of field names in error messages.
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
          'no worker has published the job type %s, and jobs of %s unpublished types already wait',
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

-- Return the lane (row of queue.lanes) of a job type in a queue, and create the lane if it is
-- missing. A lease reads the lanes of all its job types and queues, so the number of lanes must
-- stay small. Only a deployment may name a new queue, so that the number of lanes stays small.
-- Other callers must name a queue that a job type or a worker already names.
-- p_within: Prefix of field names in error messages.
-- p_declares: True if the caller is a deployment.
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
      -- skip a lane that maintenance will soon delete
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
            '%s; declare the queue in a job type, or serve it with a worker',
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
        'only the service may enqueue jobs of the internal '
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

-- Make sure that a lease will find a new ready job. Insert a note for the job's turn, unless this
-- transaction has the turn lock and one of two conditions applies.
-- - The turn exists and is not closed, and its from_ord is at most p_ord. While this transaction
--   has the turn lock, no lease can close the turn.
-- - The turn already has a note whose ord is at most p_ord. A note lets a lease open the turn, and
--   read ready jobs from the note's ord on.
--
-- queue.note_turn always returns true, so that queue.place can return the result of
-- queue.note_turn.
create or replace function queue.note_turn(p_lane integer, p_workspace_id uuid, p_ord bigint)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_is_held constant boolean := queue.hold_turn(p_lane, p_workspace_id);
begin
  -- read the turn in a statement after the lock, so that this statement sees the changes that
  -- leases committed before this transaction got the lock
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

-- Assign a lane (row of queue.lanes) to a job that was enqueued before its type was published, or
-- whose queue no longer exists. If the job was enqueued before its type was published,
-- public.jobs.chosen names the options that the caller of the enqueue set. The job gets queue and
-- max_attempts from its type, unless the caller of the enqueue set these options.
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
  -- no job type and no worker uses the job's queue, so move the job to the queue of its type
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
  -- insert the deadline and the latest start time even if the job was placed before, because
  -- maintenance may have deleted the job's rows of queue.deferred in the meantime
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
    -- the job's row of queue.lanes is missing or will soon be deleted, so assign another lane
    if not found then
      p_job.lane := 0;
    end if;
  end if;
  if p_job.lane = 0 then
    select * into p_type
    from queue.job_types as t
    where t.job_type = p_job.job_type
      and t.schema_version > 0
      -- if a person enqueued a job of an internal type, leave the job in queue.unpublished until
      -- queue.promote ends the job as failed
      and not (t.internal and p_job.user_id is not null);
    if found then
      p_job := queue.assign_lane(p_job, p_type);
    end if;
  end if;
  if p_job.lane = 0 then
    insert into queue.unpublished (job_type, workspace_id, job_id)
    values (p_job.job_type, p_job.workspace_id, p_job.id);
    update public.jobs
    -- queue.leave_places finds the job in queue.unpublished only if its lane is 0
    set lane = 0
    where id = p_job.id and lane <> 0;
    return false;
  elsif p_job.deadline_at <= p_now then
    return false; -- maintenance ends the job, whose deadline has passed
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
      -- the delayed job still counts against the limit of its concurrency key, so the job need not
      -- wait for this limit again
      v_key := null;
    end if;
  end if;
  if v_key is null then
    insert into queue.ready (lane, workspace_id, ord, ready_at, job_id)
    values (
      p_job.lane,
      p_job.workspace_id,
      p_job.ord,
      -- earliest start of the job, which is never before the time at which the job was released or
      -- at which its wait ended
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

-- Store an idempotency key for the job p_id. If the idempotency key already belongs to another job,
-- return the id of the other job. Otherwise return p_id.
-- p_made: Ids of the jobs that this call will insert after it has stored their keys.
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
  -- this update only locks the key's row
  on conflict (workspace_id, job_type, key, is_unique) do update set key = k.key
  returning * into v_taken;
  -- The insert of the key may have waited for another transaction, which then committed a job with
  -- this key. Look for the job with this key in a separate statement, because the insert does not
  -- see a job that another transaction committed while the insert waited.
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
-- 'replace', a pending job that has the unique key gets the payload of the new job. With
-- on_conflict 'replace', the pending job also gets each of the options tags, priority,
-- scheduled_for and start_by_seconds that the call sets. If the unique key already belongs to
-- another job, store the idempotency key of the call for that other job, with freed_when 'other'.
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
      -- The row of the key still exists, but its job was deleted while another transaction had
      -- locked the key.
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
    -- another transaction freed the unique key before this transaction locked the job
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
      p_bytes => octet_length(p_job.payload::text)
    );
    perform queue.check_live_bytes(p_job.workspace_id);
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
  -- store the idempotency key of this call for the job that already has the unique key
  update queue.job_keys as k
  set job_id = v_id, freed_when = 'other'
  where (k.workspace_id, k.job_type, k.key, k.is_unique)
    = (p_job.workspace_id, p_job.job_type, p_job.idempotency_key, false);
  return v_id;
end;
$$;

-- Check a new job, insert its row into public.jobs, and insert the job into queue.ready or another
-- table of waiting jobs (queue.place). The caller must publish the event of the job's creation.
-- p_id: Id of the new job, for which the caller may already have stored an idempotency key.
-- job: The new job, or the existing job to which one of the keys already belongs.
-- created: False if one of the keys already belongs to another job.
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
      -- the job that had one of the keys was deleted in the meantime, so its keys are free
      end if;
    end loop;
  end if;
  insert into public.jobs select job.*;
  is_ready := queue.place(job, p_now, p_type);
  created := true;
end;
$$;

-- Enqueue a simple job, which is ready immediately. queue.enqueue_simple does the same as
-- queue.add, queue.publish and queue.job_json, but faster, in one statement.
-- tests/sql/test_inserts.py compares queue.enqueue_simple with the slower functions.
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
  v_trace constant text := case
    when current_setting('request.headers', true) <> '' then queue.request_traceparent()
  end;
  v_unsent constant boolean := nullif( -- true or null, as in queue.feed
    not queue.send(array[
      row(p_workspace_id, null, 'job.created', v_data, array[v_id], v_seqs, p_now)::queue.change
    ]),
    false
  );
  -- fields of the response that are the same for every job that this function enqueues
  c_answer constant text := '{"status": "pending", "priority": 100, "attempts": 0, "fence": 0,
    "generation": 1, "lost_attempts": 0, "deaths": 0, "state": "queued", "tags": [],
    "progress": {"percentage": 0, "stage": null, "message": null},
    "times": {"queue_ms": 0, "run_ms": 0, "earlier_ms": 0, "runs": 0},
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
  noted as ( -- the same insert as in queue.note_turn
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
  insert into queue.feed ( -- the same insert as in queue.publish
    number, at, workspace_id, type, data, job_ids, seqs, wakes, unsent
  )
  values (
    queue.feed_number(),
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
  -- the service enqueues a simple job
  if v_options = '{}'
    and jsonb_typeof(v_payload) = 'object' -- the same test of the payload as in queue.new_job
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
  -- a repeated call with an idempotency key creates no job, so it takes no token of the rate limit
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
  if v_made.created then
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
  end if;
  return json_build_object(
    'job', queue.job_json(v_job),
    'created', v_made.created,
    'wake', v_made.created and v_made.is_ready and queue.wake_worker()
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

-- Notify the workers that use LISTEN. If a worker that follows a Realtime topic has requested jobs
-- in the last 150 seconds, also send one Realtime message per transaction, unless half of the
-- budget of Realtime messages is used up.
-- p_job_type: Job type of the ready jobs. Null if jobs of any type may be ready.
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
      select 1 + count(*) as cost -- each worker whose process has not ended may get the message
      from queue.workers as w
      where w.seen_at > p_now - interval '2 minutes'
        and w.evidence is null
        and (w.summary -> 'stopped') is null
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
  -- Assign v_at in the declare section, because Postgres would also plan a cast for an assignment
  -- in the body.
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

-- Return true if the caller should start a worker. The result is false if a worker with free slots
-- requested jobs in the last two seconds, or if a worker was called in the last two seconds. If
-- public.connect_worker has stored the address of a worker, pg_net calls this address when the
-- transaction commits. With pg_net, a project without AWS needs no other service that calls its
-- worker. On AWS, the API and a schedule also call workers.
--
-- Only a call by pg_net or by the API counts as a call of a worker in the last two seconds.
-- queue.notify_workers records the time of the call when the transaction commits. The API
-- identifies itself by a request header. A browser or a trigger ignores the result and starts no
-- worker, so the next call of queue.wake_worker must also return true. Anyone can send the API's
-- request header, so after a person's call, only calls of the same person return false.
-- p_is_due: True for the call by pg_cron once a minute, which starts a worker even if a worker was
--   called in the last two seconds.
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
  -- first check whether the Vault is installed, because this check costs less than reading a
  -- setting
  if to_regclass('vault.decrypted_secrets') is not null then
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

-- Delete the rows of jobs from queue.gated, queue.ready, queue.deferred and queue.unpublished,
-- before the engine moves or ends the jobs. The caller must have locked the jobs.
-- queue.leave_places first deletes the rows of queue.gated. If another transaction is moving one of
-- the jobs from queue.gated to queue.ready, the delete from queue.gated waits for the other
-- transaction, so that the later delete from queue.ready finds the job.
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
      and not g.ended -- the row of an ended job remains until the rate limit counts its start
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
-- queue.enqueue. The function queue.enqueue adds jobs without options in one statement
-- (queue.add_plain), and other jobs one by one (queue.add). The file also creates the triggers of
-- public.jobs for inserts and deletes.

-- Add plain jobs in one statement, which costs a tenth of queue.add. If one of the jobs is not
-- plain, add no job and return false. tests/sql/test_inserts.py compares queue.add_plain with
-- queue.add.
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
      when octet_length(i.value::text) > 309
        then octet_length(i.value::text) > v_bytes_max
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
  v_is_plain boolean;
  v_keyed uuid[]; -- job that has the idempotency key of each item
  v_new uuid[] := '{}';
  v_published integer := 0; -- number of jobs in v_new that are already published
  v_item record;
  v_made record;
begin
  ids := queue.new_ids(v_count);
  created := array_fill(true, array[v_count]);
  -- Take tokens of the rate limit of the person who sends the request, even if a function of an app
  -- enqueues as the service. Take the tokens before the call locks or stores a key. An item whose
  -- idempotency key already belongs to a job takes no token, because a repeated call creates no
  -- jobs.
  if queue.caller() is not null then
    perform queue.take_call_slot(p_workspace_id, p_writes => true) where v_count > 10;
    perform queue.admit(
      'jobs',
      p_workspace_id,
      p_count => n.fresh,
      p_bytes => octet_length(p_items::text)
    )
    from (
      select count(distinct coalesce(c.job_type || ' ' || c.key, c.n::text)) as fresh
      from (
        select
          i.n,
          i.value ->> 'job_type' as job_type,
          i.value ->> 'idempotency_key' as key
        from jsonb_array_elements(p_items) with ordinality as i (value, n)
      ) as c
      where not exists (
        select from queue.job_keys as k
        where k.workspace_id = p_workspace_id
          and k.job_type = c.job_type
          and k.key = c.key
          and not k.is_unique
      )
    ) as n
    where n.fresh > 0;
  end if;
  v_is_plain := queue.add_plain(p_workspace_id, p_user_id, p_items, ids, v_now);
  wake := v_is_plain;
  if v_is_plain then
    v_new := ids;
  else
    v_keyed := queue.claim_keys(p_workspace_id, p_items, ids);
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
    -- publish the jobs that this call has created so far, because the present item may replace the
    -- payload of one of these jobs
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
      'jobs must be an array of 1 to 1000 jobs',
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
  'names the rejected element.';

select queue.allow('authenticated, service_role', 'public.enqueue_jobs');

-- Check and complete each row that a client's own SQL inserts into public.jobs, before the row is
-- written. The value 0 in the column worker marks the row for the trigger queue.place_inserted,
-- which does those checks that need all rows of the statement. Before each hundred rows, take
-- tokens of the person's rate limit, because a rejected insert costs the database as much as an
-- accepted insert.
create or replace function queue.check_inserted()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_count integer := 1 + coalesce(
    nullif(current_setting('minutehand.plain', true), ''),
    '0'
  )::integer;
  v_options jsonb := '{}';
  v_holder uuid;
begin
  v_count := set_config('minutehand.plain', v_count::text, true);
  if v_count % 100 = 0 and queue.caller() is not null then
    perform queue.admit('jobs', new.workspace_id, p_count => 100);
    perform set_config(
      'minutehand.reserved',
      (
        100 + coalesce(nullif(current_setting('minutehand.reserved', true), ''), '0')::integer
      )::text,
      true
    );
  end if;
  if new.status <> 'pending' then
    perform queue.refuse(
      400,
      'invalid_argument',
      'a new job must have status pending',
      'status'
    );
  end if;
  -- Build the JSON of the options only for a row that has options. Building this JSON for each row
  -- would make an insert without options 1.25 times as expensive.
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

-- After a client's own SQL has inserted jobs into public.jobs, insert a row for each new job into
-- queue.ready, queue.deferred, queue.gated or queue.unpublished, and publish the creation of the
-- jobs. A trigger of the project that fires earlier may already have changed or deleted some of the
-- jobs. queue.place_inserted takes a job that a trigger has changed out of its table, and places
-- the job again.
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
  -- v_ids is empty if the statement inserted no rows, or if the engine itself inserted and placed
  -- the jobs
  if v_ids = '{}' then
    perform queue.charge_reserved(0);
    return null;
  end if;
  perform queue.may_read(w.workspace_id)
  from (select distinct a.workspace_id from added as a where a.worker = 0) as w;
  if v_ids[1] < queue.id_at(v_now - interval '1 day')
    or v_ids[cardinality(v_ids)] > queue.id_at(v_now + interval '1 day')
  -- the client must choose ids that contain the present time, because retention finds old jobs by
  -- the time in their ids
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      'the id of a new job must be a version 7 UUID of today',
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
      -- true if a trigger of the project has changed the job, so that the job already has events
      -- after its creation
      j.last_seq > (j.is_minimal is null)::integer as is_changed,
      j.lane = t.lane
        and j.last_seq = (j.is_minimal is null)::integer
        and num_nonnulls(j.scheduled_for, j.deadline_at, j.start_by_seconds) = 0
        and not t.rate_per_key
        and (t.key_concurrency is null or j.concurrency_key is null) as is_ready_now
    from unnest(v_ids) as i (id)
    join public.jobs as j on j.id = any (array[i.id]) and j.status = 'pending'
    left join queue.job_types as t on t.job_type = j.job_type
  ),
  -- for jobs that are ready immediately, this statement does the same as queue.place, because a
  -- call of queue.place for each job would make the insert 1.7 times as expensive
  placed as (
    insert into queue.ready (lane, workspace_id, ord, ready_at, job_id)
    select j.lane, j.workspace_id, j.ord, j.created_at, j.id
    from jobs as j
    where j.is_ready_now
  ),
  noted as materialized (
    select queue.note_turn(k.lane, k.workspace_id, k.ord) as is_ready
    from (
      select j.lane, j.workspace_id, min(j.ord) as ord
      from jobs as j
      where j.is_ready_now
      group by 1, 2
    ) as k
  )
  select
    -- bool_or() reads all rows of noted, so that queue.note_turn runs for every row
    coalesce((select bool_or(n.is_ready) from noted as n), false),
    (select array_agg(j.id) from jobs as j where j.is_ready_now is not true),
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
  -- a row of the feed has at most 1,000 job ids
  for v_slice in 0 .. (cardinality(v_ids) - 1) / 1000 loop
    perform queue.publish_created(v_ids[1000 * v_slice + 1:1000 * v_slice + 1000], v_now);
  end loop;
  if queue.caller() is not null then
    perform queue.check_live_jobs(a.workspace_id, 0), queue.check_live_bytes(a.workspace_id)
    from (select distinct a.workspace_id from added as a where a.worker = 0) as a;
    perform queue.charge_reserved(count(*), sum(octet_length(a.payload::text)))
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
  when (current_setting('minutehand.plain', true) <> '')
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
  -- If another transaction is moving one of the jobs from queue.gated to queue.ready, this query
  -- waits for that transaction, so that the next statements see the job's row in queue.ready.
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
    -- keep the row of queue.gated until the rate limit of the concurrency key counts the job's
    -- start
    set ended = true
    where ctid = any (array(select t.tid from theirs as t where t.is_unpaid))
  ),
  gone as (
    delete from queue.gated
    where ctid = any (array(select t.tid from theirs as t where not t.is_unpaid))
  )
  -- Insert a note for the concurrency key, even if no other job has the key now. Another
  -- transaction may be adding a job with the same key at this moment, and still count the deleted
  -- job against the limit of the key.
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
  -- Skip an idempotency key or unique key whose row an enqueue has locked, because the enqueue will
  -- find that the job was deleted, and will store the key for its new job.
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
  -- Skip a lease that a worker's report or settlement has locked, because the report or settlement
  -- is waiting for the row of the deleted job. Maintenance deletes the lease later.
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
    -- Record the leases of the deleted jobs as lost, because the workers still run the processors
    -- of these jobs until they send their next reports.
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
  -- search queue.feed only for jobs that changed within feed_hours, because older rows of
  -- queue.feed are deleted
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
-- p_seconds: Number of seconds in which an empty bucket fills up.
-- p_amount: Number of tokens to take from the bucket.
-- p_limit: Name of the limit in the error with status 429, which the function raises if the bucket
--   has too few tokens. Null to raise no error for a job that has already started. Without an
--   error, the number of tokens in the bucket may become negative.
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
    -- a transaction that commits late must not set refilled_at back, because the bucket would then
    -- refill twice for the same period
    refilled_at = greatest(b.refilled_at, p_now),
    tokens = least(
      p_most,
      b.tokens
        + greatest(0, extract(epoch from p_now - b.refilled_at))
        * p_most
        / p_seconds
    ) - p_amount
  returning tokens into v_tokens;
  -- the error also rolls back the update of queue.buckets
  if v_tokens < 0 and p_limit is not null then
    perform queue.refuse_rate(p_limit, p_most, p_seconds, v_tokens);
  end if;
end;
$$;

-- Store the number of tokens in a token bucket at p_now, unless another transaction does the same.
create or replace function queue.store_tokens(
  p_name text,
  p_tokens double precision,
  p_now timestamptz
)
returns void
language plpgsql
set search_path = ''
as $$
begin
  insert into queue.buckets (name, tokens, refilled_at)
  select p_name, p_tokens, p_now
  where queue.try_lock('bucket ' || p_name)
  on conflict (name) do update set
    tokens = excluded.tokens,
    refilled_at = excluded.refilled_at;
end;
$$;

-- Return how many further jobs of a concurrency key may be admitted now, but at most 1,000. The
-- concurrency limit applies to admitted jobs. The rate limit applies to starts, and each admitted
-- job that has not started reserves one start. queue.free_of_key first takes one token of the rate
-- limit for each job start that has not taken its token, as of the time started_at.
-- queue.free_of_key then deletes the rows of ended jobs from queue.gated.
-- tokens: Number of starts that the rate limit allows at the time `at`, minus the reserved starts.
-- is_held: True if the row of an ended job still counts against the concurrency limit, because
--   another transaction has locked the row, or because no token was taken yet for the job's start.
--   If has_ended is true, the caller must call queue.free_of_key again later.
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
    -- skip locked rows, because otherwise two settlements could deadlock
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
    -- read the clock after counting, so that a job that starts between the count and this statement
    -- still counts as a reserved start
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
      -- Keep the row of a job that ended after the previous update, because no token was taken yet
      -- for the job's start. Delete the row of a job that never started.
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

-- Admit waiting jobs of a concurrency key (open its gate). Admit as many jobs as the limits of the
-- key allow, but no job whose type or queue is paused or is not served by a worker. If another
-- transaction is admitting jobs of the same key, or if this transaction can take no more advisory
-- locks, insert a note, so that a later lease admits the jobs.
-- p_lane: Any lane of the job type (a row of queue.lanes). queue.open_gate admits jobs of all
--   queues of the job type.
-- p_is_reserved: True if the caller has reserved an advisory lock for this key
--   (queue.reserve_locks).
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
  -- If the job type or queue of an admitted job is paused, or has no worker, move the job from
  -- queue.ready back to queue.gated. In queue.ready, jobs that cannot start would use up the limit
  -- of the concurrency key.
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
        -- Skip a job if the row of its ended attempt is still in queue.gated, because the two rows
        -- would have the same primary key. The next call of queue.open_gate admits the job.
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
    when v_admitted.jobs = 1000 then p_now -- more jobs of the key may be waiting
    -- Fewer jobs than the limits allow were admitted, so no job still waits that could be admitted
    -- now. Check the key again one second later for jobs that other transactions have locked.
    when v_admitted.jobs < v_count.free or v_count.is_held then p_now + interval '1 second'
    -- Check the key again at the earliest time at which the rate limit allows the next start. If
    -- the key has no rate limit, v_count.tokens and v_look_at are null.
    when v_admitted.jobs + 1
        > v_count.tokens then v_count.at + make_interval(secs => greatest(
      0.001,
      (1 + v_admitted.jobs - v_count.tokens)
        * v_type.rate_per_seconds
        / v_type.rate_limit
    ))
  end;
  -- if v_look_at is null, the key is at its concurrency limit, and queue.open_gate is called again
  -- when one of the key's jobs ends
  if v_look_at is not null then
    insert into queue.notes (look_at, lane, workspace_id, key)
    select v_look_at, g.lane, p_workspace_id, p_key
    from queue.gated as g
    where g.workspace_id = p_workspace_id
      and g.job_type = p_job_type
      and g.key = p_key
      and not g.admitted
      and g.lane = any (v_open)
      and not exists ( -- one note per key is enough
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

-- After a change of a job type's limits per concurrency key, move the waiting jobs of the job type
-- into queue.gated, or from queue.gated to queue.ready. The old limits still apply to a job that
-- another transaction has locked, or has inserted but not yet committed.
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
  -- Delete the rows of queue.gated whose jobs ended while the type had no limit per key, because no
  -- settlement has marked these rows as ended.
  delete from queue.gated as g
  where g.lane = any (v_lanes)
    and g.admitted
    and not g.ended
    and not exists (
      select from public.jobs as j
      where j.id = g.job_id and j.finished_at is null
    );
  -- Insert the running jobs into queue.gated as admitted jobs, because running jobs count against
  -- the limit of their key. The update of queue.leases waits for transactions that are settling
  -- these jobs.
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
  -- do nothing if the running job already has a row in queue.gated
  on conflict do nothing;
  perform queue.note_gates(v_lanes);
  perform queue.place(j, queue.clock(), v_type)
  from public.jobs as j
  where j.id = any (v_jobs) and j.status = 'pending';
end;
$$;

-- Reject an enqueue if the workspace would have more live jobs than its limit. A limit of up to
-- 2,000 live jobs is enforced exactly, because only one call at a time counts the jobs, and
-- concurrent enqueues are rejected. A limit above 2,000 live jobs is compared with a stored count.
-- The count may be ten seconds old, or 20 seconds if another call is counting.
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
  v_is_fresh boolean;
  v_is_stored boolean; -- true if the call may store its count
begin
  if v_max > 2000 then
    select b.tokens, b.refilled_at > v_now - interval '10 seconds'
    into v_live, v_is_fresh
    from queue.buckets as b
    where b.name = v_bucket and b.refilled_at > v_now - interval '20 seconds';
    if v_is_fresh is not true
      and queue.reserve_locks(2, 190) = 2
      and queue.try_lock('bucket ' || v_bucket)
    then
      v_is_stored := true;
      v_live := null;
    end if;
  -- true if this transaction has not yet taken the slot in which a call counts the workspace's jobs
  elsif current_setting('minutehand.quota', true) is distinct from p_workspace_id::text then
    if queue.reserve_locks(1, 190) = 0 then
      perform queue.refuse(
        429,
        'rate_limited',
        'the call enqueues jobs of too many workspaces with a small limit; enqueue jobs of fewer '
          'workspaces per call'
      );
    end if;
    perform queue.take_place('quota ' || p_workspace_id, 1);
    perform set_config('minutehand.quota', p_workspace_id::text, true);
  end if;
  if v_live is null then
    -- A rejected call stores no count, so the next call counts the jobs again. Therefore a count
    -- takes one of the workspace's 20 tokens, of which one is refilled per second. If an older count
    -- is stored, a count takes no token, because only one call at a time counts.
    perform queue.charge('c:' || p_workspace_id, 20, 20, 1, 'enqueues')
    where v_max > 2000 and v_is_fresh is null;
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
    perform queue.store_tokens(v_bucket, v_live, v_now) where v_is_stored;
  end if;
  if v_live + p_count > v_max then
    perform queue.refuse(
      429,
      'quota_exceeded',
      format(
        'the workspace already has %s live jobs; wait until some jobs have ended',
        v_max
      ),
      'max_pending'
    );
  end if;
end;
$$;

-- Reject a person's enqueue if the payloads of the workspace's live jobs have too many bytes. Only
-- one call in ten seconds counts the bytes of a workspace. Enqueues do not update a stored sum,
-- because concurrent enqueues would wait for each other to update the row of the sum.
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
  if queue.caller() is null then
    return;
  elsif v_bytes is null
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
    perform queue.store_tokens(v_bucket, v_bytes, v_now);
  end if;
  if v_bytes >= v_max then
    perform queue.refuse(
      429,
      'quota_exceeded',
      format(
        'the live jobs of the workspace already have %s bytes; wait until some jobs have ended',
        v_max
      ),
      'user_pending_bytes_max'
    );
  end if;
end;
$$;

-- Take tokens of a person's rate limit before a call does its work, or reject the call with status
-- 429. Each call stores in a sequence the time when the person's bucket will be full again, which
-- needs no row lock. Only one of concurrent calls also updates the row of queue.buckets.
-- p_cost: Number of tokens to take. A negative number returns tokens that an earlier call took.
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
begin
  if v_pair.full_at > v_micros then
    v_left := least(v_left, p_most - (v_pair.full_at - v_micros) / v_per_token);
  end if;
  v_left := least(p_most, v_left - p_cost);
  if v_left < 0 and p_cost > 0 then
    perform queue.refuse_rate(p_limit, p_most, p_seconds, v_left);
  end if;
  perform setval(
    'queue.refilled_' || v_pair.nth,
    floor(v_micros + (p_most - v_left) * v_per_token)::bigint
  )
  -- another bucket may have taken over the pair of sequences in the meantime, and this call must
  -- not take tokens of the other bucket
  where pg_sequence_last_value('queue.priced_' || v_pair.nth) = v_hash;
  perform queue.store_tokens(p_bucket, v_left, v_now);
end;
$$;

drop function queue.admit(text,uuid,uuid,double precision,bigint);

-- Take tokens of a person's rate limit for a call, or reject the call with status 429. Each
-- function that people may call runs queue.admit first, and a trigger runs queue.admit for each
-- statement on a table. The call takes p_count tokens, and one more token for each 16 kB that it
-- writes. A call of the kind 'changes' also takes a call slot, because the number of large calls at
-- a time is limited. A call of the kind 'changes' waits at most 100 ms for a lock
-- (queue.limit_wait).
-- p_kind: Kind of the call, which is jobs, streams, rows or changes. The kind 'rows' takes tokens
--   for rows that a function of the engine or an app has already written. The kind 'changes' is for
--   all writes that belong to no other kind. A person runs one call of the kind 'changes' at a
--   time. A person's second call of the kind 'changes' waits up to 200 ms.
create or replace function queue.admit(
  p_kind text,
  p_workspace_id uuid default null,
  p_user_id uuid default queue.caller(),
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
  -- calls of other kinds need no limit of their waits, because an enqueue can only wait for the
  -- idempotency key or unique key of its job (queue.hold_key)
  elsif p_kind = 'changes' then
    perform queue.take_call_slot(p_workspace_id, p_writes => true);
    -- A person's second call of the kind 'changes' waits here for the first call. If the second
    -- call waited for a row lock instead, it would fail with 55P03, which the Data API returns with
    -- status 500.
    perform queue.take_place('change of ' || p_user_id, 1, 200);
    perform queue.limit_wait(100);
  end if;
  v_burst := queue.setting('user_' || v_limit || '_burst');
  perform queue.charge(
    format('u:%s/%s', p_user_id, v_limit),
    v_burst,
    v_burst / queue.setting('user_' || v_limit || '_per_second')::double precision,
    p_count + coalesce(p_bytes, 0) / 16384,
    v_limit
  );
  if p_kind = 'jobs' then
    perform queue.check_live_jobs(p_workspace_id, p_count);
    -- smaller payloads need no check of the stored bytes, because the number of live jobs is
    -- limited
    if p_bytes > 2048 * p_count then
      perform queue.check_live_bytes(p_workspace_id);
    end if;
  end if;
end;
$$;

-- Record that a client's own SQL changes public.jobs in this transaction, so that the triggers
-- after inserts and updates of public.jobs run. The setting minutehand.plain is the number of jobs
-- that the client's SQL has inserted, or 0 before the first insert.
create or replace function queue.note_plain()
returns void
language sql
set search_path = ''
as $$
select set_config('minutehand.plain', '0', true)
where current_setting('minutehand.plain', true) <> '' is not true
$$;

-- Take tokens of a person's rate limit before an insert, update or delete locks or writes a row.
-- The number of rows is not known before the statement, so the function takes tokens for 100 rows,
-- or for fewer rows if the rate limit is low. After the statement, queue.charge_reserved corrects
-- the number of tokens. An insert with `on conflict do update` fires this trigger twice, but takes
-- tokens only once.
create or replace function queue.admit_statement()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_price constant integer := least(
    100,
    greatest(1, queue.setting('user_enqueues_burst')::integer / 4)
  );
begin
  if current_setting('minutehand.reserved', true) <> '' is not true then
    perform queue.admit('changes', p_count => v_price);
    perform set_config('minutehand.reserved', v_price::text, true),
      set_config('minutehand.began', queue.clock()::text, true),
      queue.note_plain();
  end if;
  return null;
end;
$$;

drop trigger admit_statement on public.jobs;

create trigger admit_statement
  before insert or update on public.jobs
  for each statement
  -- compare with a text, because Postgres parses the trigger's condition for each statement, and a
  -- constant of the type `name` would be longer
  when (current_user = 'authenticated'::text)
  execute function queue.admit_statement();

-- Take tokens of a person's rate limit for p_count rows that a statement has written, minus the
-- tokens that queue.admit_statement took. Each row costs one token, and one more token for each 16
-- kB. A person's statement costs at least one token for each 10 ms, up to a quarter of a full
-- bucket, because a search for rows costs as much if no row matches. The first 100 ms per row are
-- free, because the statement may have waited that long for another transaction's lock of the row.
create or replace function queue.charge_reserved(p_count bigint, p_bytes bigint default 0)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_reserved constant integer := nullif(current_setting('minutehand.reserved', true), '');
begin
  perform set_config('minutehand.reserved', '', true) where v_reserved > 0;
  perform queue.admit(
    'rows',
    p_count => greatest(
      p_count,
      case
        when v_reserved > 0 then least(
          queue.setting('user_enqueues_burst')::numeric / 4,
          100 * extract(
            epoch from queue.clock()
              - nullif(current_setting('minutehand.began', true), '')::timestamptz
          ) - 10 * p_count
        )
      end
    ) - coalesce(v_reserved, 0),
    p_bytes => p_bytes
  );
end;
$$;

-- Take tokens of a person's rate limit for the rows that a statement has written.
create or replace function queue.charge_written()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
  if queue.caller() is not null then
    perform queue.charge_reserved(count(*), sum(octet_length(to_jsonb(w)::text)))
    from written as w;
  end if;
  return null;
end;
$$;

-- Take one of p_most call slots until the transaction ends, or reject the call with status 429.
-- p_id: Id of the person or workspace that the call slots belong to, or null to take no call slot.
-- p_most: Number of call slots.
-- p_ms: Maximum time to wait for a call slot, in milliseconds. A waiting call occupies a database
--   connection, so the caller must first take another call slot without waiting, which limits the
--   number of waiting calls.
create or replace function queue.take_place(p_id text, p_most integer, p_ms integer default 0)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_began constant timestamptz := clock_timestamp();
begin
  while p_id is not null
    and not exists (
      select from generate_series(1, p_most) as n
      where queue.try_lock(format('call %s %s', p_id, n))
    )
  loop
    if clock_timestamp() >= v_began + p_ms * interval '1 ms' then
      perform queue.refuse(
        429,
        'rate_limited',
        'you or the workspace have too many calls running; call again when one call has ended',
        '{"limit": "calls_at_once", "retry_after_seconds": 1}'
      );
    end if;
    perform pg_sleep_for(interval '1 ms' + (clock_timestamp() - v_began) / 8);
  end loop;
end;
$$;

-- Take a call slot, which is a permit for a call that changes or reads many rows. A person has two
-- call slots for calls that change rows, and two for calls that read rows. A workspace has ten call
-- slots for its members, and ten for its guests.
create or replace function queue.take_call_slot(
  p_workspace_id uuid default null,
  p_writes boolean default false
)
returns void
language plpgsql
set search_path = ''
as $$
begin
  if not queue.is_service() then
    perform queue.take_place(case when p_writes then 'changes ' else '' end || queue.caller(), 2);
    perform queue.take_place(
      case when queue.is_member(p_workspace_id) then '' else 'guests ' end || p_workspace_id,
      10
    );
  end if;
end;
$$;

-- Admit a read of a table or view through the Data API, or reject the read with status 429. A
-- person may send six reads at a time, because a browser sends up to six requests to one host. Two
-- of the six run, and the others wait. A waiting read occupies a connection. Therefore each read
-- that a person has sent beside another read in the last ten seconds makes the next wait shorter,
-- and after 50 such reads one read runs at a time. A read-only transaction can store nothing, and
-- the rejection of a read rolls back. Each read beside another read is therefore recorded as an
-- advisory lock of the session, which outlasts the transaction. The lock's numbers are a hash of
-- the person's id and the milliseconds of the clock. A session keeps its last 100 of these locks,
-- because the server has few advisory locks.
-- Row-level policies call queue.admit_plain_read once per query. Realtime evaluates row-level
-- policies outside of a request, so that reads by Realtime are not limited.
create or replace function queue.admit_plain_read()
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_path constant text := current_setting('request.path', true);
  v_user constant uuid := queue.caller(false);
  v_running constant text := 'running reads ' || v_user;
  -- other locks have a first number below 2^30 (queue.lanes) or below 0 (queue.try_lock)
  v_hash constant integer := hashtext(concat(current_database(), v_user)) & 1073741823 | 1073741824;
  v_ms constant bigint := extract(epoch from queue.clock()) * 1000;
  v_count integer;
begin
  -- is_reading is 'yes' from the second table of the query on, because a query takes its place once
  if v_user is null
    or current_setting('minutehand.is_reading', true) <> ''
    or (
      v_path = '/rpc/graphql'
      or current_setting('request.method', true) in ('GET', 'HEAD') and v_path !~ '^/rpc/'
    ) is not true
  then
    return;
  end if;
  perform set_config('minutehand.is_reading', 'yes', true);
  perform queue.take_place('reads ' || v_user, 6);
  if queue.try_lock('call ' || v_running || ' 1') then
    return;
  end if;
  v_count := (
    select count(*)
    from pg_catalog.pg_locks as l
    where l.classid::integer = v_hash
      and l.objsubid = 2
      and (v_ms - l.objid::bigint) & 2147483647 < 10000
  );
  if v_count < 100 then
    perform pg_advisory_lock_shared(v_hash, (v_ms & 2147483647)::integer);
    perform pg_advisory_unlock_shared(o.hash, o.ms)
    from (
      select l.classid::integer as hash, l.objid::integer as ms
      from pg_catalog.pg_locks as l
      where l.pid = pg_backend_pid()
        and l.classid::integer >= 1073741824
        and l.objsubid = 2
      order by (v_ms - l.objid::bigint) & 2147483647
      offset 100
    ) as o;
  end if;
  perform queue.take_place(
    v_running,
    case when v_count < 50 then 2 else 1 end,
    1000 - 10 * v_count
  );
end;
$$;

-- For a person's call, lock an idempotency key or unique key before a job gets the key. If another
-- transaction is taking the same key, wait up to two seconds, because the response must contain the
-- job that gets the key. Only one call of a person may wait for a key, and further calls of the
-- person are rejected. A transaction takes at most 100 locks of keys, because the server has few
-- advisory locks. A call of the service takes no advisory lock, and waits for the lock of the key's
-- row.
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
        'another call of yours uses a job with this key; call again',
        '{"retry_after_seconds": 1}'
      );
    end if;
    perform pg_sleep(0.005);
  end loop;
  -- limit the wait for the key's row, because a transaction of the service may be writing the same
  -- key without this advisory lock
  perform queue.limit_wait(2000);
end;
$$;

-- For apps. Let only one call at a time use the app's record with the id p_id, and reject
-- concurrent calls, because they would wait for locked rows of the record. queue.hold_id takes a
-- token of the person's rate limit before the app writes a row.
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
  perform queue.admit('rows');
end;
$$;

create or replace function public.open_stream()
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
begin
  perform queue.admit('streams');
  return jsonb_build_object('opened', true);
end;
$$;

comment on function public.open_stream is
  'Take a token of the caller''s rate limit of streams: {opened}, or 429 rate_limited.';

select queue.allow('authenticated, service_role', 'public.open_stream');

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
    when t.name is null or s.key in ('worker_keys_revoked', 'guest_key') then true
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
      -- Revoke only keys whose issue time (iat) is more than a minute before p_before, because the
      -- issuer sets iat half a minute back. Without this minute, a key that is issued after
      -- p_before would also be revoked.
      'before', floor(extract(epoch from p_before)) - 60,
      'from', floor(extract(epoch from v_now)) + coalesce(p_grace_seconds, 0)
    )),
    v_now
  )
  -- Keep the revocations of earlier calls, because otherwise keys that an earlier call revoked
  -- would work again during the grace period of the new revocation.
  on conflict (name) do update set
    value = s.value || excluded.value,
    updated_at = v_now;
  update queue.settings
  set
    -- revoke guest keys too, because someone who stole the worker key may also know the key of
    -- guests
    updated_at = v_now,
    value = to_jsonb(replace(concat(gen_random_uuid(), gen_random_uuid()), '-', ''))
  where name = 'guest_key';
  -- Someone with a stolen key may have registered job types, so delete all types without turns,
  -- notes, leases and rows of queue.gated. Until a worker registers a deleted type again, a delayed
  -- job of the type that becomes due waits in queue.unpublished.
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
  -- let maintenance delete the lane one hour later, because open transactions may still insert jobs
  -- that refer to the lane
  set unused_since = v_now - interval '23 hours'
  where job_type not in (select t.job_type from queue.job_types as t);
  delete from queue.workers as w
  -- public.jobs has no index on worker, because leases change this column
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
      'worker_id and tick_id are required; limit (or the sum of the limits of all pools) must be '
        '0 to 1000; lease_seconds must be 1 to 43200',
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

-- Admit a worker run, unless the maximum number of worker runs is active. Return how many further
-- worker runs may start, or null if this run is rejected. A worker run is active until it ends, and
-- at most for its maximum duration. If the process of a worker run was killed, the run counts as
-- active until all its leases have expired.
create or replace function queue.admit_run(p_request queue.lease_request, p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_free integer;
begin
  -- only one transaction at a time admits runs
  perform queue.try_lock('admission', p_waits => true);
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
    -- Set has_refused in all active worker runs, so that each active run requests jobs once more
    -- before it ends. If a run is ending now, this update waits for the transaction that ends the
    -- run, so that the next pass of the loop does not count the run.
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

drop function queue.record_worker(queue.lease_request,queue.workers,timestamp with time zone);

-- Update a worker's row of queue.workers, and the column served_at of the lanes (job types in
-- queues) that the worker serves. Return the worker's number in queue.workers. When a job type in a
-- queue gets its first worker or loses its last worker, insert notes for the concurrency keys of
-- the job type, so that a lease checks which waiting jobs of these keys can be admitted. Before the
-- insert, the function takes the advisory lock "turns", because queue.lease_ready takes this lock
-- to admit jobs of concurrency keys.
-- p_is_changed: True if the job types, queues, version, slots or abandoned jobs of the worker have
--   changed.
-- has_noted: True if this call has inserted notes for concurrency keys.
create or replace function queue.record_worker(
  p_request queue.lease_request,
  p_is_changed boolean,
  p_now timestamptz,
  out worker integer,
  out has_noted boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_known queue.workers; -- the worker's row before the update
  v_lanes record;
  v_gates integer[];
  v_is_alone boolean;
begin
  select * into v_known
  from queue.workers as w
  where w.worker_id = p_request.worker_id;
  if v_known.version = p_request.version
    and v_known.job_types @> p_request.job_types
  then
    -- A request omits job types for which the worker has no free slot. The worker still serves the
    -- omitted job types, so keep the stored list of job types.
    p_request.job_types := v_known.job_types;
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
          or p_is_changed
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
    -- If another transaction had the advisory lock "turns", set seen_at back by 59 seconds, so that
    -- the worker's next request, one second later, updates the row again.
    p_now - interval '59 seconds' * (not v_is_alone)::integer,
    p_request.version,
    p_request.job_types,
    p_request.queues,
    coalesce(p_request.slots, v_known.slots),
    coalesce(p_request.abandoned, v_known.abandoned)
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

-- Admit waiting jobs of the concurrency keys that queue.notes names, beginning with the oldest
-- note. Delete notes for job types that are paused or that no worker serves. When a paused job type
-- is resumed, or when a worker serves a job type again, queue.note_gates inserts new notes for the
-- keys of the job type. If very many notes exist, take two further steps.
-- - Admit jobs of the oldest key of up to p_most / 4 tenants from the smallest id on, and of up to
--   p_most / 4 tenants from a random id on. Admitting jobs of many tenants keeps a tenant with few
--   keys from waiting for a tenant with many keys.
-- - Delete old notes for concurrency keys without jobs in queue.gated.
-- p_most: Maximum number of concurrency keys of which the function admits jobs.
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
    -- delete the notes before counting jobs, so that a note that is inserted during the count
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

-- Open those turns (tenants with ready jobs) that queue.notes names, so that leases serve these
-- tenants. A tenant has the same rank in all its turns. A new tenant gets a rank that is one less
-- than the lowest last_rank in the rings for the tenant's jobs. Leases serve tenants in the order
-- of ranks, and therefore serve the new tenant near the end of a round. Also open limited turns
-- whose time look_at has passed. If another transaction has locked a turn, keep the notes that name
-- this turn, so that the next lease opens the turn.
-- p_most: Maximum number of turns to open because queue.notes names them.
-- p_done: Turns whose turn locks the caller has taken, because it has leased their ready jobs. If a
--   turn in p_done has no other ready job, the function does not open the turn, and only deletes
--   the notes that name this turn.
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
  v_epoch constant bigint := (
    select coalesce(max(e.epoch), 0)
    from queue.turn_epochs as e
  );
  v_ignored text;
begin
  -- The sequence queue.notes_gone is the lower bound of queue.turn_notes.xid. Set queue.notes_gone
  -- to the transaction id of the oldest note, or of the oldest running transaction, which may still
  -- insert notes. Do not set the sequence if an earlier lease of this transaction has deleted rows
  -- of queue.turn_notes, because a rollback would restore these rows, but not the old value of the
  -- sequence.
  if (current_setting('minutehand.noted', true) = 'yes') is not true then
    v_ignored := setval('queue.notes_gone', least(n.oldest, n.running)::text::bigint)
    from (
      select min(o.xid) as oldest, pg_snapshot_xmin(pg_current_snapshot()) as running
      from queue.turn_notes as o
    ) as n;
    v_ignored := set_config('minutehand.noted', 'yes', true);
  end if;
  with noted as materialized (
    select g.lane, g.workspace_id
    from (
      select n.lane, n.workspace_id
      from (
        select *
        from queue.turn_notes
        order by xid, id
        limit 10 * p_most
      ) as n
      group by 1, 2
      order by min(n.id)
    ) as g
    where not exists (
        select from queue.turns as t
        where t.workspace_id = g.workspace_id and t.lane = g.lane
        offset 0 -- without this line, Postgres reads all rows
      )
      or exists (
        select from (
          select from queue.turns as t
          where t.workspace_id = g.workspace_id and t.lane = g.lane
          for update skip locked
        ) as free
      )
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
  insert into queue.turns as t (lane, workspace_id, rank, from_ord, changed_at, epoch)
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
    p_now,
    v_epoch
  from opened as o
  join queue.lanes as l on l.lane = o.lane
  join queue.rings as r on r.ring = l.ring
  on conflict (workspace_id, lane) do update set
    blocked = false,
    look_at = null,
    changed_at = p_now,
    epoch = v_epoch,
    -- each ready job of a closed turn has a note whose ord is at most the job's ord, so from_ord is
    -- the smallest ord of these notes
    from_ord = case
      when t.blocked and t.look_at is null then excluded.from_ord
      else least(t.from_ord, excluded.from_ord)
    end;
  update queue.turns as t
  set blocked = false, look_at = null, epoch = v_epoch
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

-- Return the number of ready jobs for each of the first p_most turns in queue.notes. The lease
-- takes the returned jobs without opening turns, because the order of the tenants does not matter
-- if every job gets a slot. queue.noted_shares skips tenants and job types with a limit, a weight
-- or a pause, because queue.share_slots must check a limit, weight or pause first. Return null in
-- three cases.
-- - The worker has fewer free slots than these turns have ready jobs.
-- - An open turn has a ready job for the worker. If an open turn has a ready job, leases must serve
--   the tenants in the order of ranks.
-- - At most four turns would be open if the lease opened the turns in queue.notes. A few open turns
--   without ready jobs do not slow down leases (queue.fill_pool).
-- p_most: Maximum number of turns to read from queue.notes.
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
    from queue.unblocked_turns
    where lane = any (v_asked.lanes)
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

-- Lock those job types that have a limit and ready jobs in the lanes p_lanes (job types in queues),
-- and count the running jobs of these job types. If the first job of a type with a limit becomes
-- ready only after this count, this lease does not serve the job type, and the next lease counts
-- and serves it.
-- open: Lanes (job types in queues) that the lease may serve, because their job type has no limit,
--   or is below its limit and not locked by another lease.
-- is_busy: True if another lease has locked one of the job types, or if the transaction can take no
--   more advisory locks.
-- is_limited: True if a tenant has ready jobs of a job type with a limit in the lanes p_lanes.
-- at_limit: Job types that have reached their limit, so that none of their jobs may start now.
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
  v_types := array(
    select n
    from unnest(p_limited) as n
    where exists (
      select from queue.lanes as l
      join queue.unblocked_turns as o on o.lane = l.lane
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
  -- a job type at its limit needs no lock, because none of its jobs may start now
  at_limit := array(
    select n
    from unnest(v_locked) as n
    where queue.free_of_type(n, p_now) <= 0
  );
  -- choose job types in random order, because a lease cannot lock very many job types
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
    from ( -- take the locks in sorted order, so that one of two concurrent leases gets all locks
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

-- Return the open turns (tenants with ready jobs) for all job types and queues, in the order of
-- (rank, workspace_id, lane). The result begins after the tenant that the ring p_ring stores. After
-- the highest rank, the result continues with the lowest rank. In the query, lane_bound is 0 if the
-- tenant of the ring may get more jobs in the current round, so that this tenant comes first. If
-- the tenant of the ring may get no more jobs, lane_bound is the greatest integer, so that this
-- tenant comes last.
-- p_rows: Maximum number of rows to return.
-- is_cut: True in the last row of a result with p_rows rows, because more turns may be open.
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
        from queue.unblocked_turns as o
        where (o.rank, o.workspace_id, o.lane)
          > (p.last_rank, p.last_workspace_id, p.lane_bound)
        order by o.rank, o.workspace_id, o.lane
        limit p_rows
      )
      union all
      (
        select o.*, p.round + 1
        from queue.unblocked_turns as o
        where (o.rank, o.workspace_id, o.lane)
          <= (p.last_rank, p.last_workspace_id, p.lane_bound)
        order by o.rank, o.workspace_id, o.lane
        limit p_rows
      )
    ) as t
    limit p_rows
  ) as u;
end;
$$;

-- For each lane (job type in a queue) in p_lanes, return up to p_rows open turns (tenants with
-- ready jobs). The rows of each lane begin after the tenant that the ring of the lane stores.
-- queue.ring_turns and queue.lane_turns are separate functions, because one query for all lanes and
-- for single lanes would not read an index in order. If a job type had no ready jobs for some time,
-- its round is far behind the rounds of other job types. queue.lane_turns sets a job type that is
-- far behind to one round behind the other job types, because otherwise leases would serve only
-- this job type until it had caught up.
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
        from queue.unblocked_turns as o
        where o.lane = p.lane
          and (o.rank, o.workspace_id, o.lane)
          > (p.last_rank, p.last_workspace_id, p.lane_bound)
        order by o.rank, o.workspace_id
        limit p_rows
      )
      union all
      (
        select o.*, p.round + 1
        from queue.unblocked_turns as o
        where o.lane = p.lane
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

-- Tenants that have a limit or a weight, or that are paused.
create or replace view queue.limited_tenants as
select w.workspace_id
from queue.tenant_limits as w
union all
select p.workspace_id
from queue.pauses as p
-- exclude pauses of a job type or queue, whose workspace_id is null, because `not in` is never true
-- with a null
where p.workspace_id is not null;

-- Return the open turns of those tenants that are served next in the lanes p_lanes (job types in
-- queues). If all these lanes refer to the same ring, queue.ring_turns first reads rows of all
-- lanes together, up to a maximum number of rows. If queue.ring_turns found too few tenants with
-- requested job types, or if the lanes refer to several rings, queue.lane_turns reads the rows of
-- each lane separately. If a read returned its maximum number of rows, drop the tenant of the last
-- row and all later tenants, because rows of these tenants may be missing.
-- p_most: Maximum number of tenants to return.
-- known: Number of different tenants in the result.
-- is_all: True if the result has all tenants with ready jobs in the lanes p_lanes.
-- is_limited: True if one of the returned tenants has a limit or a weight, or is paused.
-- is_empty: True if only one turn is open, and its tenant has no ready job.
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
  v_reads_all_lanes boolean;
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
  from (select * from queue.unblocked_turns limit 2) as o;
  -- at most one turn is open, for example if one tenant has all jobs
  if turns[2] is null then
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
  foreach v_reads_all_lanes in array case
    when v_rings[2] is null then array[true, false]
    else array[false]
  end loop
    with read as materialized (
      select a.*
      from queue.ring_turns(v_rings[1], 2 * p_most + 20 + cardinality(p_lanes)) as a
      where v_reads_all_lanes
      union all
      select e.*
      from queue.lane_turns(
        p_lanes,
        least(p_most, 2 + 20 * p_most / greatest(1, cardinality(p_lanes)))
      ) as e
      where not v_reads_all_lanes
    ),
    cut as materialized ( -- first tenant that may have rows that were not read
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

-- Take an advisory lock for each limit of the tenants in p_turns. For each turn in p_turns, count
-- how many further jobs may start. If the tenant is at a limit or paused, set the turn to limited
-- or paused, so that the next leases skip it.
-- known: Number of tenants in the result, if the transaction could not take the advisory locks of
--   all tenants in p_turns. Null if the result has all tenants of p_turns.
-- is_busy: True if another lease has one of the advisory locks, or if another transaction is ending
--   a pause. If is_busy is true, the function changes no turn.
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
  -- names of the advisory locks, and for each lock the position of the lock's tenant among the
  -- tenants of p_turns
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
        ( -- limit of a job type per tenant
          'both ' || t.workspace_id || y.job_type,
          y.workspace_concurrency is not null
        ),
        ('workspace ' || t.workspace_id, w.running_max is not null)
    ) as s (name, is_limited)
    where s.is_limited
    group by s.name
  ) as o;
  v_locks := queue.reserve_locks(coalesce(cardinality(v_scopes), 0), 160);
  -- include the first tenant even if the transaction cannot take all locks of this tenant
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
    from ( -- take the locks in sorted order, so that one of two concurrent leases gets all locks
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
            -- join queue.leases by lane, because the index leases_by_lane begins with the lane
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

-- Divide the free slots of a worker among tenants in rounds. In each round, every tenant gets slots
-- for as many of its first ready jobs as its weight. queue.divide_slots skips a job that would
-- exceed a limit, and does not count the skipped job against the weight.
-- p_depth: Number of ready jobs to read for each turn. If the tenant's weight is greater than
--   p_depth, the function reads as many jobs as the weight. Null if the lease has not read all
--   tenants with ready jobs. If p_depth is null, the function reads as many jobs as the weight, and
--   divides the slots for one round only.
-- p_most: Number of free slots.
-- is_cut: True if a tenant may have more ready jobs than this function has read.
-- empty: Open turns whose tenants have no ready job.
-- lasts: Tenants that were served last, for queue.advance_ring.
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
  -- a variable gives faster access to single array elements than the parameter p_turns
  v_turns queue.turn[] := p_turns;
  v_tenants queue.tenant_jobs[];
  v_tenant queue.tenant_jobs;
  v_next integer[]; -- index of the next job of each tenant
  v_given integer[]; -- number of jobs that each tenant gets
  v_of_turn integer[] := '{}'; -- number of jobs that each element of v_turns gets
  -- job types with a limit, and the number of jobs that each type gets
  v_types text[] := '{}';
  v_of_type integer[] := '{}';
  v_round integer := 0;
  v_slots integer := 0;
  v_had integer; -- number of jobs that the present tenant has got in the round
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
      select u.*, greatest(p_depth, u.weight) as depth -- greatest() ignores a null p_depth
      from unnest(p_turns) with ordinality as u
    ) as t
    left join lateral (
      select o.ord, row_number() over (order by o.ord) as nth_of_turn
      from queue.ready as o
      where o.lane = t.lane
        and o.workspace_id = t.workspace_id
        and o.ord >= t.from_ord
        -- exclude the jobs of queue.withheld, because the lease would skip them and leave their
        -- slots empty
        and o.job_id not in (select w.job_id from queue.withheld as w)
      order by o.ord
      -- least() ignores nulls, so a null limit has no effect
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
      -- oldest jobs first, because rows of public.jobs are stored in about this order
      order by t.from_ord
    )
  into shares
  from unnest(p_turns) with ordinality as t
  where v_of_turn[t.ordinality] > 0;
end;
$$;

-- Store the tenant that was served last in one ring for the lanes p_lanes (job types in queues),
-- except for lanes in which another lease has already served a later tenant. queue.advance_ring
-- uses the first of the following rings that exists.
-- - A ring to which one or more of these lanes refer, and no other lane.
-- - A ring to which no lane refers.
-- - A new ring.
--
-- The update of queue.rings checks again that no other lane refers to the ring, because another
-- lease may have changed a lane in the meantime.
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
  if v_ring is null then
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

-- Determine how many jobs a lease takes for each turn, and which turns are open although their
-- tenants have no ready job.
-- lanes: Lanes (job types in queues) that the worker requests and that are not paused.
-- limited: Requested job types that have a limit.
-- shares: Number of jobs that the lease takes for each tenant, job type and queue.
-- empty: Open turns whose tenants have no ready job.
-- is_only: True if only one turn of the requested lanes is open, and no limit, weight or pause
--   applies to it. The tenant of the only open turn may have no ready job.
-- is_limited: True if a limit, a weight or a pause applies to one of the tenants or job types.
-- at_limit: Job types that have reached their limit, so that none of their jobs may start now.
-- more: True if the worker should request jobs again immediately, because another lease has locked
--   a limit, or because the function has not read all tenants with ready jobs.
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
  v_open integer[];
  v_has_limits boolean := false; -- true if a tenant has ready jobs of a limited type
  v_reads integer;
  v_first record;
  v_turns queue.turn[];
  v_one queue.turn;
  v_slots bigint;
  v_limited record;
  v_lacks_locks boolean := false;
  v_divided record;
  v_last queue.last_served;
  v_stopped text[]; -- job types that reached their limit
begin
  lanes := v_asked.lanes;
  limited := v_asked.limited;
  more := false;
  if v_most = 0 then
    return;
  end if;
  v_open := lanes;
  if limited <> '{}' then
    v_types := queue.lock_types(lanes, limited, p_now);
    v_open := v_types.open;
    v_has_limits := v_types.is_limited;
    at_limit := v_types.at_limit;
    more := v_types.is_busy;
  end if;
  -- A turn may be open although its tenant has no ready job. If none of the tenants that were read
  -- has a ready job, read more tenants.
  foreach v_reads in array array[
    v_most + v_most / 25 + 5,
    greatest(150, 2 * v_most)
  ] loop
    v_first := queue.next_turns(v_open, v_reads);
    v_turns := v_first.turns;
    v_one := v_turns[1];
    if v_one.lane is null then
      return;
    end if;
    is_limited := v_has_limits or v_first.is_limited;
    if v_first.is_empty then
      empty := array[row(v_one.lane, v_one.workspace_id, null, 0)::queue.share];
      return;
    end if;
    is_only := v_turns[2] is null and v_first.is_all and not is_limited;
    if is_only then -- one tenant gets all slots
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
  -- store the tenant that was served last only if the lease has skipped a tenant
  if v_first.is_all
    and (v_first.known = 1 or not is_limited and v_slots < v_most)
  then
    -- only one tenant has ready jobs, or the lease took all jobs
    return;
  elsif v_slots < v_most and not v_first.is_all then
    -- The lease has free slots left, so each tenant that it has read got as many jobs as the
    -- tenant's weight. Store the last tenant that the lease has read, so that the next lease begins
    -- after this tenant.
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
  -- If a job type reached its limit, store for this type the tenant at which the limit was reached,
  -- because later tenants got no job of the type. For all other job types, store the tenant that
  -- was served last.
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
          where l.lane = any (v_open) and l.job_type <> all (v_stopped)
        )
        else array(
          select l.lane
          from queue.lanes as l
          where l.job_type = v_last.job_type and l.lane = any (v_open)
        )
      end,
      v_last
    );
  end loop;
end;
$$;

-- Lease the first ready jobs of each tenant, job type and queue in p_shares. The update of
-- public.jobs finds a job's row by its ctid, which cannot change while this statement has locked
-- the row. If another transaction changed the row between the start of this statement and the lock,
-- the update does not find the row, and the job stays ready.
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
      -- a job must not start before its creation, and created_at may be later than p_now
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

-- Lease the jobs that queue.share_slots has chosen. If a trigger of the project raises an error for
-- one of the jobs, lease each half of the jobs separately, and repeat the division until the
-- rejected job is alone. Then insert a row for the rejected job into queue.refusals, so that the
-- next lease skips this job.
-- has_refused: True if a trigger rejected a job.
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
  v_half integer;
  v_one queue.share;
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
      -- raise the error again, because an error of this kind does not depend on a single job
      raise;
    when others then
      v_failure := format('%s (%s)', sqlerrm, sqlstate);
  end;
  v_half := cardinality(p_shares) / 2;
  v_one := p_shares[1];
  if v_half > 0 then
    v_first := queue.take(p_shares[:v_half], p_request, p_now);
    v_second := queue.take(p_shares[v_half + 1:], p_request, p_now);
  elsif v_one.jobs > 1 then
    p_shares[1].jobs := v_one.jobs / 2;
    v_first := queue.take(p_shares, p_request, p_now);
    -- The second half of the jobs also begins at the position v_one.ord, because the jobs of the
    -- first half are no longer ready.
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

-- Set a new epoch in all open turns, so that leases skip the dead index entries of closed turns. Do
-- nothing if more turns are open than were closed in the last epoch, or if another transaction has
-- locked the row of an open turn. The caller has the advisory lock "turns", so that no other
-- transaction can open turns at this time.
create or replace function queue.begin_epoch()
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_epoch constant bigint := (
    select coalesce(max(e.epoch), 0)
    from queue.turn_epochs as e
  );
  v_closed constant bigint := pg_sequence_last_value('queue.turns_closed');
  v_open constant tid[] := array(
    select t.ctid
    from queue.turns as t
    where not t.blocked and t.epoch = v_epoch
    limit v_closed + 1
  );
  v_locked tid[];
begin
  if cardinality(v_open) > v_closed then
    return;
  end if;
  v_locked := array(
    select t.ctid
    from queue.turns as t
    where t.ctid = any (v_open)
    for no key update skip locked
  );
  if cardinality(v_locked) = cardinality(v_open) then
    insert into queue.turn_epochs values (v_epoch + 1);
    update queue.turns
    set epoch = v_epoch + 1
    where ctid = any (v_locked);
    perform setval('queue.turns_closed', 0);
  end if;
end;
$$;

-- In each turn that p_turns names, set from_ord to the position of the tenant's first ready job, or
-- of the last leased job if no job is ready. Close a turn if its tenant has no ready job and the
-- lease took none. Skip a turn if another transaction has the turn lock, because that transaction
-- may be adding a job. Skip the remaining turns if this transaction can take no more advisory
-- locks.
-- p_turns: For each tenant, job type and queue, the number of leased jobs, and the position of the
--   last leased job.
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
  v_closed bigint;
begin
  with tidied as (
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
    where u.ctid = o.found
    returning o.closes
  )
  select count(*) into v_closed
  from tidied as t
  where t.closes;
  perform setval(
    'queue.turns_closed',
    v_closed + coalesce(pg_sequence_last_value('queue.turns_closed'), 0)
  )
  where v_closed > 0;
end;
$$;

-- Lease jobs for the free slots of one pool (a group of job types that share worker slots).
-- queue.share_slots decides how many slots each tenant gets, and queue.take leases as many of the
-- tenant's first jobs.
-- p_request: The worker's request, reduced to the job types and the limit of this pool.
-- unfilled: If the pool got no job, the lanes (job types in queues) of the pool whose job types are
--   not at a limit. Null if the pool got jobs or has no free slot.
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
  -- Number of jobs that the lease selected. If the lease has leased fewer jobs than it selected,
  -- another lease has taken the missing jobs.
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
        -- if only one tenant has ready jobs, it may have fewer jobs than the slots assigned to it
        when v_shared.shares[2] is null then 1
        else (select sum(s.jobs) from unnest(v_shared.shares) as s)
      end;
      more := more
        or v_taken.has_refused
        or v_leased < v_expected and not exists (select from queue.withheld);
    end if;
  end if;
  if v_leased = 0 and p_request."limit" > 0 then
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
  -- A turn stays open for a while after the tenant's last ready job, so that the tenant's next
  -- enqueue need not insert a note. In three cases, close the turns without ready jobs, and set
  -- from_ord of all other turns to their first ready job.
  -- - More than four open turns have no ready jobs. More turns without ready jobs would make each
  --   lease slower.
  -- - The lease took 20 jobs or more, but fewer than its limit. With a new from_ord, the next lease
  --   need not read the dead rows of the leased jobs.
  -- - The number of this request within the worker run is a multiple of 16.
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
    perform queue.begin_epoch()
    where pg_sequence_last_value('queue.turns_closed') >= 5 and queue.try_lock('turns');
  end if;
end;
$$;

-- Lease jobs for every pool (a group of job types that share slots) of a worker's request.
-- p_changes: Events of the jobs that the same call of public.settle_jobs has settled.
-- p_has_notes: True if notes or limited turns are due, so that the lease must first open turns or
--   admit waiting jobs of concurrency keys.
-- lanes: Lanes (job types in queues) that the worker requests and that are not paused.
-- limited: Requested job types that have a limit.
-- unfilled: Lanes (job types in queues) of those pools that got no job, except lanes of job types
--   at a limit.
-- more: True if the worker should request jobs again immediately.
-- is_short: True if one of the worker's pools got fewer jobs than the pool has free slots.
-- is_full: True if one of the worker's pools got a job for each free slot.
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
  v_at_once integer; -- maximum number of turns to open
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
  -- only one lease at a time reads queue.notes, and concurrent leases skip this step
  if p_has_notes and queue.try_lock('turns') then
    v_at_once := greatest(20, least(200, p_request."limit"));
    perform queue.open_gates(greatest(50, v_at_once), p_now)
    -- While another transaction is ending a pause, admit no jobs of concurrency keys. The
    -- transaction that ends the pause inserts a note for each key, so that the next lease admits
    -- the jobs.
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

-- Return the number of milliseconds after which a worker with free slots should request jobs again,
-- or null if the worker should wait for a notification. The function reads queue.notes and the open
-- turns in one statement. With two statements, another lease could delete a note and open the turn
-- between the statements, so that neither statement would find the ready job.
-- p_limited: Requested job types that have a limit.
-- p_unfilled: Lanes (job types in queues) of the worker's pools that got no job. For a pool that
--   got jobs, the worker requests jobs again anyway.
-- p_more: True to return 0, because the worker should request jobs again immediately.
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
          select from queue.unblocked_turns as t
          where t.lane = any (p_unfilled)
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
      order by look_at, id -- reads the index in which dead entries are adjacent
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
      -- after a failed try, maintenance processes a signal again at most once per second
      )
      from queue.signals as s
    )
  );
  if p_limited <> '{}' then
    -- add the earliest time at which a job of a type that has used up its rate limit may start
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
            join queue.unblocked_turns as t on t.lane = l.lane
            where l.job_type = y.job_type and l.lane = any (p_lanes)
          )
      )
    );
  end if;
  -- Test v_next for null first, because greatest() ignores nulls. Use greatest(), because v_next
  -- may be -infinity, and Postgres before 17 cannot subtract from -infinity.
  return case
    when v_next is not null
      then ceil(extract(epoch from greatest(v_next, p_now) - p_now) * 1000)
  end;
end;
$$;

-- Lease jobs for public.lease_jobs and public.settle_jobs. If a worker repeats a request, the
-- second request waits until the first request has finished. The second request waits for an
-- advisory lock, because a row lock would be a write, and a request that finds no jobs must write
-- nothing. The second request gets the leases of the first request. If the first request leased no
-- job and was not the first of its run, it stored nothing, and the second request leases jobs.
-- p_changes: Events of the jobs that the same call of public.settle_jobs has settled. queue.lease
--   must publish the events of the settled jobs.
create or replace function queue.lease(p_request jsonb, p_changes queue.change[] default null)
returns json
language plpgsql
set search_path = ''
as $$
declare
  v_asked queue.lease_request := queue.read_lease_request(p_request);
  v_is_next constant boolean := queue.try_lock('tick ' || v_asked.tick_id, p_waits => true);
  v_now constant timestamptz := queue.clock();
  v_ms constant bigint := (date_part('epoch', v_now) * 1000)::bigint;
  v_ignored bigint;
  v_next_ms bigint;
  -- stored state of the worker run and its worker, and whether notes or limited turns are due
  v_tick record;
  v_noted record;
  v_run jsonb; -- field run of the response, if this call starts or ends the run
  v_given record;
  v_due bigint;
  v_maintenance boolean := false;
  v_ends boolean;
  v_is_alive boolean; -- false if public.tick_finished is recording the end of the worker's process
  v_listens constant boolean := p_request -> 'listens' = 'true'
    and to_regclass('realtime.messages') is not null;
begin
  -- If the worker's process ends during this lease, public.tick_finished waits for this advisory
  -- lock, and then also reclaims the jobs of this lease.
  v_is_alive := queue.try_lock('process ' || v_asked.worker_id, p_is_shared => true);
  select
    t.last_call,
    t.seen_at > v_now - interval '10 seconds' as is_active,
    t.expires_at,
    w.worker,
    w.evidence is not null as is_ended, -- the host has reported the end of the process
    w.seen_at > v_now - interval '1 minute'
      and w.seen_at <= v_now
      and w.ended_at is null as is_seen,
    (w.queues, w.version, w.slots, w.abandoned) is distinct from (
      v_asked.queues,
      v_asked.version,
      coalesce(v_asked.slots, w.slots),
      coalesce(v_asked.abandoned, w.abandoned)
    )
      or w.job_types is distinct from v_asked.job_types
      -- a request omits the job types for which its worker has no free slot
      and (w.version = v_asked.version and w.job_types @> v_asked.job_types) is not true
      as is_changed,
    exists (
      select from queue.turn_notes
      union all
      (
        select from queue.notes
        where key is not null and look_at <= v_now
        order by look_at, id -- reads the index in which dead entries are adjacent
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
  -- the worker repeats a request, whose response may have been lost, so return the same leases
  -- again
  if v_asked.call <= v_tick.last_call then
    perform queue.publish(p_changes, v_now);
    return json_build_object(
      'leases', queue.leases_of_call(v_asked.tick_id, v_asked.call),
      'next_due_in_ms', 0,
      'now', v_now
    );
  elsif not v_is_alive or v_tick.is_ended then
    perform queue.publish(p_changes, v_now);
    return json_build_object('leases', '[]'::json);
  elsif v_asked.most is not null and (v_tick.expires_at > v_now) is not true then
    v_run := jsonb_build_object('free', queue.admit_run(v_asked, v_now));
    if v_run ->> 'free' is null then
      perform queue.publish(p_changes, v_now);
      return json_build_object('leases', '[]'::json, 'run', v_run);
    end if;
  end if;
  v_asked.worker := v_tick.worker;
  -- update the worker's row once a minute and after changes
  if v_tick.is_changed or v_tick.is_seen is not true then
    v_noted := queue.record_worker(v_asked, v_tick.is_changed, v_now);
    v_asked.worker := v_noted.worker;
    v_tick.has_notes := v_tick.has_notes or v_noted.has_noted;
  end if;
  -- reset the time at which queue.wake_worker last called a worker, because that worker has now
  -- started
  if pg_sequence_last_value('queue.wanted_ms') > 0 then
    v_ignored := setval('queue.wanted_ms', 0);
  end if;
  v_given := queue.lease_ready(
    v_asked,
    p_changes,
    v_tick.has_notes,
    case when v_tick.has_suspects then queue.lease_mode(v_asked, v_now) end,
    v_now
  );
  -- Store the number of this request, so that queue.lease recognizes a repeated request. A later
  -- request of the worker run must write nothing if it leased no jobs.
  if v_tick.last_call is null or v_given.leased > 0 then
    update queue.ticks
    set seen_at = v_now, worker = v_asked.worker, last_call = v_asked.call
    where tick_id = v_asked.tick_id;
    if not found then
      insert into queue.ticks (tick_id, seen_at, worker, last_call)
      values (v_asked.tick_id, v_now, v_asked.worker, v_asked.call);
    end if;
  end if;
  if v_listens
    and v_ms - pg_sequence_last_value('queue.listened_ms') between 0 and 30000 is not true
  then
    v_ignored := setval('queue.listened_ms', v_ms);
  end if;
  if v_asked.free_slots < 0 then
    v_ignored := queue.withdraw_run(v_now);
  elsif coalesce(v_asked.free_slots, v_asked."limit" - v_given.leased) > 0
    -- a process that runs only suspects has no slot for other jobs
    and not v_given.is_alone
    and v_ms - pg_sequence_last_value('queue.slots_ms') between 0 and 499 is not true
  then
    v_ignored := setval('queue.slots_ms', v_ms);
  end if;
  if v_given.is_short then
    v_next_ms := queue.next_due_in_ms(
      v_given.lanes,
      v_given.limited,
      v_given.unfilled,
      v_given.more,
      v_now
    );
    -- other workers lease the ordinary jobs, so this worker requests jobs only once per second
    if v_given.is_alone then
      v_next_ms := greatest(v_next_ms, 1000);
    end if;
    v_maintenance := queue.maintenance_is_due(
      v_now,
      -- true if the run has recently leased jobs
      v_given.leased > 0 or v_tick.last_call > 1 and v_tick.is_active,
      v_next_ms <= 1000 is true
    );
  end if;
  v_ends := v_asked.ends is not null
    and v_given.leased = 0
    and (not v_maintenance or v_asked.ends ? 'maintained')
    and (v_next_ms <= (v_asked.ends -> 'stay_ms')::double precision) is not true;
  if v_asked.count_due or v_asked.call = 1 or v_ends then
    -- count ready jobs of all job types and queues that the worker serves
    if v_asked.pools is not null or v_given.is_alone then
      v_given.lanes := (queue.open_lanes(v_asked.job_types, v_asked.queues)).lanes;
    end if;
    v_due := queue.count_due(v_given.lanes);
  end if;
  if v_ends then
    v_run := public.tick_finished(
      v_asked.ends
      || jsonb_build_object(
        'tick_id', v_asked.tick_id,
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
  '- pools: Groups of job types with a limit for each group, which replace limit. The field due '
  'counts the jobs of all pools.\n'
  '- free_slots: Number of free slots of the worker. Default: limit less the leased jobs. If '
  'free_slots is 1 or more, enqueues of the next two seconds start no worker, because this worker '
  'calls again. If free_slots is -1, the next enqueue starts a worker again.\n'
  '- slots: All slots of the worker, [{job_types, limit}]. explain_job compares the slots with the '
  'leases. Only the first call of a run needs slots.\n'
  '- abandoned: Stopped jobs whose processors still run, [{job_id, place}]. Default: the list of '
  'the previous call.\n'
  '- most: Maximum number of concurrent worker runs. The response contains run: {free}, which is '
  'null if this run is rejected.\n'
  '- listens: True if the worker follows the topic wake_topic of the response. Messages of this '
  'topic announce new jobs.\n'
  '- ends: The run ends if no job was leased and no work is due within stay_ms. The response then '
  'contains run: {ended, refused}. If refused is true, another run was rejected since this '
  'run began, so call lease_jobs again.';

select queue.allow('job_worker, service_role', 'public.lease_jobs');

-- Parse the items in a request to public.report_jobs or public.settle_jobs.
-- is_plain: True if all items are plain completions (successes at the first lease) with results of
--   up to 8,000 bytes and without progress, log lines, steps, tags or output.
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
      'items must be an array of at most 1000 items',
      'items'
    );
  end if;
  select
    coalesce(array_agg(i order by i.job_id), '{}'), -- sorted by job, so that calls cannot deadlock
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

-- Determine the outcome of an attempt from the worker's report and the job's options. If the worker
-- reports a wait, insert the wait (queue.begin_wait). The delay of a retry is the field
-- retry_after_seconds of the worker's report. If the report lacks this field, the delay grows
-- exponentially with the number of attempts, and has jitter (Brooker, AWS blog, 2015).
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
      "message": "the result is too long; store the result and return a reference"}';
  elsif p_job.cancel_requested_at is not null and outcome <> 'completed' then
    -- Drop the error that describes a lost worker, because the cancel request may be the reason why
    -- the worker stopped.
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
    -- If there is evidence that the job ended its worker process, the retry waits for the backoff,
    -- as after any failure. Without evidence that the job ended its worker process, the job is
    -- retried immediately, because something else may have stopped the worker.
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
    -- The delay of a snooze is at least one second, because a snooze does not count as an attempt.
    -- Without a minimum, a processor that always returns a snooze without a delay would run in an
    -- endless loop.
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

-- After attempts have ended, move jobs that will run again to queue.deferred, queue.gated or
-- queue.ready. Then admit waiting jobs of freed concurrency keys, free the unique keys of ended
-- jobs, and insert signals for parent and child jobs. queue.after_attempts moves jobs before it
-- admits other jobs, so that a moved job of a type with in_order still counts against the limit of
-- its concurrency key.
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
  -- For each ended job, insert a signal to check the parent job, which may be waiting for the ended
  -- job. If the ended job failed or was cancelled, insert a signal to cancel its child jobs that
  -- have not ended.
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
      -- `offset 0` makes Postgres look up the child jobs of each job in an index, regardless of the
      -- planner's estimates.
      select from public.jobs as c
      where c.parent_id = j.id and c.finished_at is null
      offset 0
    );
end;
$$;

drop function queue.end_attempts(queue.worker_item[],queue.transition[],timestamp with time zone);

-- Delete the leases of ended attempts, and update their jobs to the states that queue.decide has
-- determined. The deletes and updates are one statement, because a second statement would make
-- every settlement slower. An item with an old lease number (fence) matches no lease, so the
-- statement ignores the item.
-- p_transitions: The result of queue.decide for each item. Null if all items are plain completions
--   (successes at the first lease).
-- changes: Events of the jobs, which the caller must publish.
-- rest: Ids of jobs for which queue.after_attempts must run, because the jobs will run again, or
--   have a key, a parent, a deadline, a latest time for the start, or an event to store.
-- with_event: Ids of jobs whose last event must be stored, because it is not a derived event.
-- results: Results for the response, if all items are plain completions with current lease numbers.
--   Null if an item is not a plain completion or has an old lease number, so that the caller builds
--   the response from the stored rows.
-- has_blocked: True if a turn is limited.
-- has_suspects: True if any job is a suspect.
create or replace function queue.end_attempts(
  p_items queue.worker_item[],
  p_transitions queue.transition[],
  p_now timestamptz,
  out changes queue.change[],
  out rest uuid[],
  out with_event uuid[],
  out results json,
  out has_blocked boolean,
  out has_suspects boolean
)
language plpgsql
set lock_timeout = '100ms'
set search_path = ''
as $$
begin
  -- If a worker's report is renewing the lease at this moment, the delete waits for the report, and
  -- then deletes the renewed row.
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
    exists (select from queue.turns as t where t.blocked and t.look_at < 'infinity'),
    exists (select from queue.suspects)
  into changes, rest, with_event, results, has_blocked, has_suspects
  from moved as m;
end;
$$;

-- Apply the outcomes that workers report. The result of an item is applied, cancelled, stale (the
-- lease number is old), not_found or busy (another transaction has locked the job). If a cancel was
-- requested, the job is cancelled unless the outcome is completed.
-- p_is_plain: True if all items are plain completions, which are successes at the first lease
--   (queue.read_items).
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
  if v_ended.has_suspects then
    perform queue.clear_suspects(p_items);
  end if;
  changes := v_ended.changes;
  results := v_ended.results;
  -- Build the response from the stored rows, so that a repeated call gets the same outcomes. The
  -- status is the present status of the job.
  if results is null or v_busy <> '{}' then
    select json_agg(json_strip_nulls(json_build_object(
      'job_id', i.job_id,
      'fence', i.fence,
      'status', case when coalesce(a.fence, j.fence) = i.fence then j.status end,
      'outcome', case
        when j.id is null then 'not_found'
        when i.job_id = any (v_busy) then 'busy'
        when a.outcome = 'cancelled' then 'cancelled'
        -- the outcome of the stored attempt, or the job's status if no attempt is stored
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
  -- Let the next lease check the limits of the jobs' tenants again, by setting look_at in the
  -- tenants' limited turns. Attempts that have ended no longer count against the limits of their
  -- tenants.
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
  'output?, duration_ms?}. A repeated call returns the same outcomes. An item with the fence of '
  'an earlier lease changes nothing. Settle an item again if its outcome is busy.';

select queue.allow('job_worker, service_role', 'public.settle_jobs');

-- Lock and return the job whose lease p_request names as {job_id, fence}. Raise the error
-- lease_lost if the worker that calls no longer has this lease.
-- p_job_types: Job types whose jobs may make this request, or null for all job types.
-- p_undone: Text at the end of the error message, for example 'its children were not created'.
create or replace function queue.held_job(p_request jsonb, p_job_types text[], p_undone text)
returns public.jobs
language plpgsql
set search_path = ''
as $$
declare
  v_id constant uuid := p_request ->> 'job_id';
  v_job public.jobs;
begin
  -- Reject a revoked worker key in this function too, because some callers call queue.held_job in
  -- their declare section, before these callers check the worker key.
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
  v_ignored bigint;
  v_response jsonb;
begin
  perform queue.refuse_revoked();
  v_ignored := queue.withdraw_run(queue.clock());
  -- wait until the last lease of the process has committed, because the process may have requested
  -- jobs just before its end
  perform queue.try_lock('process ' || (p_request ->> 'worker_id'), p_waits => true)
  where p_request ->> 'evidence' is not null;
  update queue.ticks
  set expires_at = null
  where tick_id = v_tick and expires_at is not null
  returning has_refused into v_refused;
  -- store the end of a process that has not called yet, because its first lease request may still be
  -- on its way
  insert into queue.workers (worker_id, job_types)
  select p_request ->> 'worker_id', '{}'
  where p_request ->> 'evidence' is not null and p_request ->> 'worker_id' is not null
  on conflict (worker_id) do nothing;
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
    -- wait for the last reports of the process, because queue.do_reclaim skips locked leases
    perform queue.lock_held(array(select l.job_id from queue.leases as l where l.worker = v_worker));
    v_ignored := queue.do_reclaim(queue.clock(), clock_timestamp() + interval '2 seconds');
    -- Open the turns of the reclaimed jobs now, because several processes will soon lease these
    -- suspected jobs at the same time. A lease does not see a turn that another lease is opening.
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
  E'Record that a worker''s run has ended: {tick_id, summary?}. Returns {ended, refused}. '
  'ends of lease_jobs does the same.\n\nWith {worker_id, evidence}: record that the process of a '
  'worker ended without a report. The jobs of the process keep the evidence, and are reclaimed '
  'immediately. The response also contains {guilty, suspects}. guilty has the ids of the jobs that '
  'ended the process. suspects is the number of groups of other suspects. Each group must run in a '
  'separate process.';

select queue.allow('job_worker, service_role', 'public.tick_finished');

-- Store finished steps, the running step, progress and tags of jobs. If a worker reports a finished
-- step again, keep the step's first result. If a job has more than 20 tags, keep its first 20 tags.
-- Also increase public.jobs.last_seq for the events of progress and log lines. Workers report how
-- long a step has run, not when the step started, because the clocks of workers may be wrong.
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
    p_now + s.n * interval '1 us' -- the added microseconds keep the order of the steps
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

-- Store the reports of workers, with an event for progress and for each log line. The caller must
-- have locked the leases and jobs. The field logs_from of a report is the number of the report's
-- first log line, counted from the start of the attempt. From logs_from, the function computes
-- which log lines an earlier report has already stored. If public.jobs.is_minimal is true, store no
-- events for log lines.
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
  -- Store the output of a step before the step itself, because a restart of a stream deletes all
  -- output except the output of finished steps (queue.drop_output).
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
  perform queue.publish(v_changes, p_now); -- does nothing if v_changes is null
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
  -- Renew a lease only if a fifth of its duration has passed, or if the report changes the lease,
  -- because workers report often. If another transaction has locked a lease now, the worker's next
  -- report renews the lease.
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
  'pulse?: {last, for_ms, place?, pid?, memory_mb}, lease_seconds?}. Report an item again if its '
  'outcome is busy.';

select queue.allow('job_worker, service_role', 'public.report_jobs');

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
  E'Return finished steps of a leased job, in pages of about 1 MB: {lines: [{name, nth, value}], '
  'next: {name, nth} | null, bytes}.\n\nRequest: {job_id, fence, after?}. Lines with nth 1 and '
  'above are the results of the step''s child jobs.';

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
  'Return the finished steps of a job: {steps: [{name, kind, result, created_at, duration_ms}], '
  'next}. The results of the child jobs of one step may continue on the next page.';

select queue.allow('authenticated, service_role', 'public.job_steps');

-- Insert the wait of a job into queue.waits, and return null. If the wait is invalid, insert
-- nothing and return the error as JSON.
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
    -- If the wait is for a job that is not a child of this job, let maintenance check the wait
    -- every ten seconds, because only the end of a child inserts a signal.
    v_until := p_now + interval '10 seconds';
  -- Let a wait last at least one second. A wait does not count as an attempt, so a processor that
  -- waits again and again could otherwise run in a fast endless loop.
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
  -- Insert the job's deadline into queue.deferred, as queue.place does, so that maintenance
  -- enforces the deadline during the wait.
  insert into queue.deferred (run_at, job_id, workspace_id, is_place)
  select p_job.deadline_at, p_job.id, p_job.workspace_id, false
  where p_job.deadline_at is not null
  on conflict do nothing;
  -- Insert a signal, so that maintenance checks the wait immediately, because the event may already
  -- have been emitted, or the children may already have ended.
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
-- call. Every later attempt of the parent job reads the copies, so that all attempts get the same
-- results. Return the value of the wait when all results are copied. Return null while a child job
-- is live or results remain to be copied.
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
    -- a cancelled wait with the same name may have left rows from an earlier attempt, so overwrite
    -- them
    on conflict (job_id, name, nth) do update set value = excluded.value
    returning 1
  )
  select p_wait.gathered + count(*) into v_gathered
  from copied;
  if v_gathered = cardinality(v_ids) then
    return '{"children": []}'; -- the results are separate rows of queue.steps
  end if;
  update queue.waits
  set gathered = v_gathered
  where job_id = p_wait.job_id;
  insert into queue.signals (kind, workspace_id, job_id)
  values ('check', p_wait.workspace_id, p_wait.job_id);
  return null;
end;
$$;

-- Process a signal of the kind cancel, retry or resumed. Return null if a part of the work remains,
-- so that maintenance must process the signal again.
-- - For a cancel or retry signal, process 500 child jobs, beginning with the job whose id is in the
--   column `name`. If child jobs remain, are locked, or were not changed because of a trigger,
--   insert new signals for these jobs.
-- - For a signal of the kind resumed, insert notes for the paused turns of the workspace, so that
--   the next lease opens the turns. If the pause is of a type or a queue, insert notes for all
--   concurrency keys instead. A lease that read the pause before the pause ended may still pause a
--   turn, so process the signal again until no such lease runs.
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
    -- A lease holds the lock 'pauses' in shared mode while it admits jobs of concurrency keys, or
    -- sets turns to limited or paused. queue.try_lock succeeds only if no lease has the lock
    -- 'pauses'.
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
  return null; -- another transaction has locked the unique key of a child
end;
$$;

-- Return up to 500 due rows of a table for maintenance, chosen so that no workspace has to wait for
-- the rows of another workspace. If 500 rows or more are due, half of the result consists of the
-- first rows in the order p_order. The other half of the result has the same number of rows from
-- each workspace. With more than 125 workspaces, the other half has rows of the 125 workspaces with
-- the smallest ids, and of the next 125 workspaces after a random id.
-- p_rows: Condition of the table's partial index on workspace_id, or 'true' if the index covers all
--   rows.
-- p_due: Condition that a row must meet to be due. In this condition, $1 is p_now, and $2 is
--   p_passed_over.
-- p_order: Expression by which due rows are sorted, the first due row first.
-- p_passed_over: Ids of jobs whose rows are skipped.
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
  v_first tid[];
  v_shares tid[];
begin
  execute format(
    'select array(select o.ctid from %s as o where %s and %s order by %s limit 500)',
    p_table,
    p_rows,
    p_due,
    p_order
  )
  into v_first
  using p_now, p_passed_over;
  if cardinality(v_first) < 500 then
    return v_first;
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
  return v_first[:250] || v_shares;
end;
$$;

-- Run the maintenance task `waits`. The task `waits` processes signals and ends waits that have
-- timed out, until a pass changes nothing. A pass keeps a signal of the kind check if another
-- transaction has locked the job of the signal. A pass keeps a signal of the kind event if more
-- jobs wait for the event than the pass could resume. A pass spends up to 0.1 s on signals about
-- children and pauses, one workspace after the other, so that timed-out waits are checked again
-- soon.
create or replace function queue.do_waits(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_signals bigint[];
  v_kept bigint[];
  v_refused uuid[];
  v_rows tid[];
  v_waiting uuid[];
  v_signal queue.signals;
  v_passed integer;
  v_moved integer; -- jobs and signals handled in this pass
  v_until timestamptz; -- time when this pass stops handling children and pauses
  v_done integer := 0;
begin
  loop
    v_rows := queue.fair_batch(
      'queue.signals',
      'true',
      'o.look_at <= $1',
      'o.id',
      p_now
    );
    v_signals := array(
      select s.id
      from queue.signals as s
      where s.ctid = any (v_rows) and s.look_at <= p_now
      order by s.id
      for update skip locked
    );
    v_refused := queue.refused('waits', p_now);
    v_rows := queue.fair_batch(
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
          where o.ctid = any (v_rows)
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
  -- If the last pass processed no signal, other transactions have locked the rows of the signals'
  -- jobs. Increase the column failures of each remaining signal, because otherwise
  -- queue.maintenance_is_due would immediately report the signals as due again.
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
  E'Emit a named event that jobs may wait for: {first}.\n\nOnly the first event with a name is '
  'stored. The event may come before or after the wait begins.';

select queue.allow('authenticated, service_role', 'public.emit_event');

-- Store the ids of the child jobs that a call creates in one row of queue.steps with nth -1, so
-- that a repeated call returns the same ids. queue.step_page does not return the row with nth -1.
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
  if not found then -- the service creates the children, so there is no person
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

-- This file contains the functions with which people control jobs. People can cancel a job with its
-- children, retry a job, replay a job from a step, and pause jobs. public.cancel_jobs and
-- public.retry_jobs cancel or retry many jobs.

-- Cancel the jobs p_ids and their live descendants. A pending or waiting job is cancelled
-- immediately. For a running job, only a cancel request is stored, because its worker must stop the
-- job. If the caller has not locked the jobs, the function locks them, takes one token of the
-- person's rate limit for each job and descendant, and cancels the first 100 descendants.
-- queue.cancel inserts signals for the other descendants, so that maintenance cancels them. Return
-- the number of jobs and descendants, with at most 5,000 descendants.
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
      p_count => cardinality(p_ids) + cardinality(v_children)
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

-- A client may cancel jobs with an SQL update of public.jobs, but may change nothing else. This
-- trigger collects the ids of the updated jobs and skips the update of their rows, which the
-- statement has already locked. queue.cancel_updated cancels the collected jobs after the
-- statement. A person may cancel up to 1,000 jobs in one statement. Jobs that the service cancels
-- are processed in batches of 1,000. The trigger recognizes the engine's own updates, because they
-- change fence, last_seq, generation, lost_attempts or lane. A truncate of public.jobs is rejected,
-- because a truncate fires no row triggers.
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
  elsif (new.fence, new.generation, new.lost_attempts, new.lane)
      is distinct from (old.fence, old.generation, old.lost_attempts, old.lane)
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
    -- only managers may cancel more than one job at once, as in queue.change_jobs
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
  if v_count = 1 then
    perform queue.note_plain();
  end if;
  if v_count > 1000 and queue.caller() is not null then
    perform queue.admit('rows', p_count => 1000);
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

-- Charge the caller's rate limit, and cancel the jobs that queue.cancel_by_update has collected.
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
  perform queue.charge_reserved(coalesce(cardinality(v_ids), 0));
  perform queue.cancel(v_ids, queue.clock(), p_is_locked => true) where v_ids <> '{}';
end;
$$;

drop trigger jobs_after_update on public.jobs;

create trigger jobs_after_update
  after update on public.jobs
  for each statement
  when (current_setting('minutehand.plain', true) <> '')
  execute function queue.after_update();

drop trigger jobs_cancel_by_update on public.jobs;

-- Most leases and settlements change last_seq, so they do not fire the trigger
-- jobs_cancel_by_update. A lease that adds no event to its job fires the trigger. The condition of
-- the trigger jobs_cancel_by_update is short, because Postgres parses it for each statement that
-- inserts or updates jobs. A condition with all comparisons of the trigger function took a twelfth
-- of the time of a call that settles one job and leases the next.
create trigger jobs_cancel_by_update
  before update of status, priority, ord, queue, job_type, workspace_id,
    next_retry_at, scheduled_for, deadline_at, start_by_at, concurrency_key on public.jobs
  for each row
  when (new.last_seq = old.last_seq)
  execute function queue.cancel_by_update();

-- Retry those of the jobs p_ids that failed or were cancelled. The caller must have locked the
-- jobs. Skip a job whose unique key now belongs to another job. A retried job has its unique key
-- until it finishes, because the option `until` of the first enqueue is not stored. Insert signals,
-- so that maintenance also retries child jobs that were cancelled because their parent ended.
-- Return the number of retried jobs.
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
  -- a job that has ended its worker process must run alone after the retry
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
    p_count => v_family,
    p_bytes => octet_length(p_payload::text)
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
    perform queue.check_live_bytes(v_job.workspace_id);
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

-- Cancel or retry up to p_limit jobs that match a filter as in public.list_jobs, newest first. The
-- search for these jobs stops after two seconds. A filter without a state selects live jobs for a
-- cancellation, and failed jobs for a retry.
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
  -- limit the tokens of the caller's rate limit that the search of one call takes, so that the
  -- caller can repeat the call
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
      'the call does not apply to jobs in the states ' || v_states::text,
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
    perform queue.admit('rows', p_count => v_price);
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
    perform queue.admit('changes', p_workspace_id, p_count => cardinality(v_ids));
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
      -- Schema version 0 means that no worker has published the job type yet. When a worker
      -- publishes the type, the worker also checks the payloads of the waiting jobs.
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
  perform queue.admit( -- take tokens for the size of the results, as an enqueue for its payload
    'changes',
    v_job.workspace_id,
    p_count => 0,
    p_bytes => sum(octet_length(s.value::text)) + queue.output_bytes(p_job_id)
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
  E'Run a job again as a new job, from its start or from a finished step: {job, created, '
  'wake}.\n\nRequest: {from_step?, payload?, idempotency_key?}. The new job skips the steps that '
  'finished before from_step.';

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
  -- when a pause of a job type or queue begins, the next lease must also check the jobs that wait
  -- for a concurrency key
  if (not v_paused or v_workspace is null)
    and queue.handle_signal(v_signal, queue.clock()) is null
  then
    insert into queue.signals (kind, workspace_id)
    values ('resumed', v_signal.workspace_id);
  end if;
  perform queue.send_wakeup(queue.clock()), queue.wake_worker()
  where not v_paused;
  -- Also return the pauses that remain, because a remaining pause may still stop the resumed jobs.
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

-- see 18_people.sql

-- Return how many Realtime messages may be sent per second, and how many were already sent in the
-- current second. The message budget is 80 % of the rate that Supabase's plan allows, because
-- Realtime averages the rate over five seconds. Five seconds can overlap six of the seconds that
-- this function counts, so the budget must be less than 5/6 of the rate.
-- p_changes: Changes of jobs that the caller is about to publish.
-- is_streamed: True if an API server streams any topic to its clients.
-- is_followed: True if any topic has a follower.
-- is_busy: True if the publisher must send the messages, because p_changes needs more messages than
--   the budget, or because queue.feed got five rows of one workspace in the current second. If
--   queue.feed got five rows, budget, used and is_followed are null.
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
  v_ignored bigint;
  v_number bigint := pg_sequence_last_value('queue.number_before');
begin
  if v_second is distinct from pg_sequence_last_value('queue.messages_second') then
    -- read the counter of messages before storing the new second, so that a message sent between
    -- the two statements counts in the new second
    v_ignored := setval(
      'queue.messages_before',
      coalesce(pg_sequence_last_value('queue.messages_counted'), 0)
    );
    v_number := setval(
      'queue.number_before',
      coalesce(pg_sequence_last_value('queue.feed_base'), 0)
        + pg_snapshot_xmax(pg_current_snapshot())::text::bigint
    );
    v_second := setval('queue.messages_second', v_second);
  end if;
  select
    exists (select from queue.streamed_topics),
    exists (
      select from unnest(p_changes) as c
      where exists (
        select from queue.feed as f
        where f.workspace_id = c.workspace_id and f.number >= v_number
        offset 4
      )
    )
  into is_streamed, is_busy;
  if is_busy then
    return;
  end if;
  select
    case s.value
      when '"free"' then 80
      when '"pro"' then 400
      else s.value::bigint
    end,
    exists (select from queue.followers)
  into budget, is_followed
  from queue.settings as s
  where s.name = 'realtime_messages_per_second';
  used := coalesce(pg_sequence_last_value('queue.messages_counted'), 0)
    - pg_sequence_last_value('queue.messages_before');
  is_busy := used + 2 * cardinality(p_changes) > budget;
end;
$$;

-- Return the Realtime messages that report changes of jobs. The topic of a workspace receives only
-- changes of a job's state. If the topic of a session has followers, it receives all changes except
-- log lines. If the topic of a job has followers, it receives all changes except the job's
-- creation, because no one can follow a job before it exists. If no topic has followers, the
-- message for up to ten events of a workspace is built without a query, because a query would take
-- 8 % of the time of a settlement. tests/sql/test_live.py checks that the query would build the
-- same message.
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
      -- without this condition, Postgres would call queue.session_workspace for each change
      and c.session_id is not null
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
  -- Realtime accepts messages of up to 256 kB. Limit a message to 100 kB as measured by
  -- pg_column_size, because the JSON text of the message may be longer than pg_column_size returns.
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

-- Add the messages to the count of the current second, and insert them into realtime.messages.
-- Return false if the messages could not be inserted.
-- p_raises: True to raise the error if the messages could not be inserted.
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
  -- When a client connects, Realtime creates the partition of realtime.messages for the day. If the
  -- partition of the day is missing, no client is connected that needs the message, so return true.
  if p_raises and sqlstate <> '23514' then
    raise;
  end if;
  raise warning 'messages were not sent: % (%)', sqlerrm, sqlstate;
  return sqlstate = '23514';
end;
$$;

-- Send the Realtime messages that report changes of jobs, and notify API servers that stream the
-- topics of these messages. Return false if the publisher must send the messages, because the
-- workspace has too many changes, the message budget is too small or Realtime fails. Messages about
-- progress, log lines and output may use half of the message budget. Messages about changes of
-- state may use three quarters of the budget. Messages of the publisher may use the whole budget.
create or replace function queue.send(p_changes queue.change[])
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_is_minor constant boolean := p_changes[1].type
    in ('job.progress', 'job.log', 'job.output');
  v_budget constant record := queue.message_budget(
    case when v_is_minor then '{}' else p_changes end
  );
  v_new record;
  v_at bigint;
begin
  -- notify only if an API server streams topics, because each commit with a notification takes a
  -- lock on the whole Postgres server
  if v_budget.is_streamed then
    perform pg_notify('minutehand_events', s.topic)
    from queue.streamed_topics as s
    where s.expires_at > clock_timestamp()
      and exists (
        select from unnest(p_changes) as c
        where s.topic = 'workspace:' || c.workspace_id and not v_is_minor
          or s.topic = 'session:' || c.session_id and c.type <> 'job.log'
          or s.topic in (select 'job:' || i from unnest(c.job_ids) as i)
      );
  end if;
  if to_regclass('realtime.messages') is null then
    return true;
  elsif not v_budget.is_busy
    -- leave the messages of a long transaction to the publisher, because the messages would all
    -- arrive at once when the transaction commits
    and clock_timestamp() - now() <= interval '1 second'
  then
    v_new := queue.messages_of(p_changes, v_budget.is_followed);
    if v_new.cost = 0 -- no topic receives any of the changes
      or v_budget.used + v_new.cost
        <= v_budget.budget * (case when v_is_minor then 0.5 else 0.75 end)
      and queue.write_messages(v_new.messages, v_new.cost)
    then
      return true;
    end if;
  end if;
  v_at := (date_part('epoch', clock_timestamp()) * 10)::bigint;
  if v_at is distinct from pg_sequence_last_value('queue.unsent_at') then
    v_at := setval('queue.unsent_at', v_at);
  end if;
  return false;
end;
$$;

-- Publish changes of jobs. The caller must have locked the jobs. A change with seqs is sent as
-- Realtime messages (queue.send). Each change is also inserted into queue.feed, unless its message
-- was sent and it is about log lines, output, or progress of a job without a session. Return true,
-- or null if p_changes is null, because queue.publish is a strict function.
-- p_is_soon: True if new jobs are due within a minute, so that the commit notifies idle workers.
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
  v_number constant bigint := queue.feed_number();
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

-- Run one pass of the publisher. A pass reads up to 5,000 new rows of queue.feed, and sends one
-- message per topic for those rows whose statements sent no message. A pass that reaches the end of
-- queue.feed also reads rows of the current transaction. If the feed rows of a topic are older than
-- two seconds, or if the message budget is too small, the message only asks the topic's followers
-- to read the jobs again. A message about output also only asks for a new read, because the feed
-- does not store output.
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
  -- A transaction that was still running during the last pass may have added feed rows with low
  -- numbers. If a transaction that ran during the last pass has ended, begin this pass with the
  -- number of the transaction. For example, if transaction 7 ran while the last pass read up to the
  -- number 20, begin with 7, and skip the feed rows that are visible in `seen`.
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
      -- is_late is also true if messages of another topic are already late
      bool_or(
        f.type = 'job.output'
        or f.at <= p_now - interval '2 seconds'
        or exists (select from queue.late_topics)
      ) filter (where f.unsent) as is_late,
      count(*) as feed_rows,
      coalesce(
        max(f.id) filter (where f.xid = v_xid),
        case when p.xid = v_xid then p.own_id end, -- an earlier pass of the transaction
        0
      ) as last_own_id,
      -- the last feed row that this pass reads, if the pass does not reach the end of the feed
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
  -- If the pass began at the number of a transaction that has ended, insert a row for the pass even
  -- without new feed rows. Without a new row in queue.publisher, the next passes would begin at the
  -- same number again.
  elsif v_at.feed_rows > 0 or v_at.until is not null or v_at.is_back then
    insert into queue.publisher (seen, xid, own_id)
    values (v_at.visible, v_xid, v_at.last_own_id);
  end if;
  return v_count;
end;
$$;

-- Run the publisher at most once in a tenth of a second, if a statement of the last two seconds
-- left its messages to the publisher. If Realtime fails, the call of the worker still succeeds, and
-- a later call sends the messages. Maintenance also runs the publisher, because a transaction may
-- commit more than two seconds after its statement. If the publisher fails in maintenance, the
-- failure is stored in queue.tasks.
create or replace function queue.send_unsent()
returns boolean -- an assignment costs less than the query of `perform`
language plpgsql
set search_path = ''
as $$
declare
  v_at constant bigint := (date_part('epoch', clock_timestamp()) * 10)::bigint;
  v_ignored bigint;
begin
  if v_at - pg_sequence_last_value('queue.unsent_at') between 0 and 20
    and v_at is distinct from pg_sequence_last_value('queue.published_at')
  then
    v_ignored := setval('queue.published_at', v_at);
    begin
      return queue.do_announcements(queue.clock(), null) > 0;
    exception when others then
      raise warning 'messages were not sent: % (%)', sqlerrm, sqlstate;
    end;
  end if;
  return false;
end;
$$;

-- Return a text that changes with each event of a topic, so that a client can detect missed
-- messages. The text for the topic of a job also changes when a stream of the job's output grows.
-- For any other topic, the text is the sum of the ids of the topic's last twenty feed rows. The
-- highest id of a feed row alone would not be enough, because a transaction that commits late may
-- add a feed row with a lower id.
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
      select concat(j.last_seq, queue.streams_json(j.id))
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
  perform queue.admit('rows');
  -- Keep only a person's 100 newest rows (a topic and a client), so that no person can use up the
  -- message budget. The limit does not apply to guests, because all guests share one user id.
  delete from queue.followers
  where ctid = any (array(
    select o.ctid
    from (
      -- skip locked rows, because two calls of a person could otherwise wait for each other
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
    -- choose the interval so that all followers together poll about 50 times per second
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
  E'Report that a client follows a private topic: {again_seconds, check_seconds, seq}.\n\nCall '
  'follow_topic before you join the topic, and then every again_seconds. Topics of jobs and '
  'sessions get messages only while a client follows them. If seq is the same as in the last call, '
  'the topic has had no event.';

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
  'Notify the Postgres channel minutehand_events about events of these topics, for one minute: '
  '{again_seconds}.';

select queue.allow('job_worker, service_role', 'public.stream_topics');

drop function queue.feed_number(xid8);

-- Return the number for rows of queue.feed that the transaction p_xid writes. After the restore of
-- a dump from another server, the restored feed rows may have higher numbers than the transaction
-- ids of this server. The first call after the restore then raises queue.feed_base, so that new
-- feed rows get higher numbers than the restored rows. Restored feed rows and cursors remain valid.
create or replace function queue.feed_number(
  p_xid xid8 default greatest(pg_current_xact_id(), pg_snapshot_xmax(pg_current_snapshot()))
)
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
  -- Take the advisory lock 'feed', so that other transactions that write feed rows wait until this
  -- transaction ends. A transaction takes this lock only once after the database was restored.
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
    -- let the publisher begin with an empty snapshot, because the transaction ids in the restored
    -- rows of queue.publisher belong to another server
    insert into queue.publisher (seen) values ('1:1:');
    perform setval('queue.notes_gone', 0);
  end if;
  return v_number;
end;
$$;

-- Run the maintenance task `live`. The task `live` deletes old rows of queue.feed, even if no
-- client has read them, and stores the highest deleted number in read_to. A client whose cursor is
-- before this number may have missed events.
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
  select max(g.number) as number, count(*)::integer as feed_rows
  into v_gone
  from gone as g;
  update queue.tasks
  set read_to = greatest(read_to, v_gone.number)
  where name = 'live' and v_gone.feed_rows > 0;
  return v_gone.feed_rows;
end;
$$;

-- Parse a cursor of the feed. The cursor "1:1:" begins with the oldest row of queue.feed. A null
-- cursor begins with the next new row. Return null if the cursor belongs to the history of another
-- server, or if feed rows after the cursor have been deleted.
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
  -- limit the length of the cursor, because the response contains the cursor once per event
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
    -- feed rows after the cursor have been deleted, because read_to is the highest deleted number
    -- (after a restore, read_to may be a number of another server, above queue.feed_end)
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
-- are visible in the snapshot `until` of the cursor, but not in the cursor's snapshot `seen`. A
-- call reads at most 1,000 feed rows, so even an empty page may have more = true. Events about
-- progress are returned only for a session.
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
  -- Rows of queue.feed up to this number were written by another server, so the present server
  -- cannot interpret the transaction ids in these rows.
  v_base constant bigint := coalesce(pg_sequence_last_value('queue.feed_base'), 0);
  v_hidden constant text[] := case
    when p_session_id is null then '{job.progress,job.log}'
    else '{job.log}'
  end;
  -- if both the workspace and the session are given, the caller of this function has already
  -- checked access to the session
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
  -- A call that reads more than 100 events takes a call slot. A call for up to 100 events takes no
  -- slot, because many clients read a few new events at the same moment after a message.
  perform queue.take_call_slot(p_workspace_id)
  from (
    select sum(cardinality(f.job_ids)) as events
    from queue.feed_lines(p_workspace_id, p_session_id, v_cursor, 101) as f
  ) as f
  where f.events > 100;
  with feed_rows as materialized (
    select
      f.*,
      row_number() over w as n,
      sum(cardinality(f.job_ids)) over w - cardinality(f.job_ids) as before
    from queue.feed_lines(p_workspace_id, p_session_id, v_cursor, 1000) as f
    window w as (order by f.number, f.id)
  ),
  -- do not count the events that the client has already received from the first feed row, because a
  -- feed row may have thousands of events
  slice as (
    select l.*
    from feed_rows as l
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
      when (select count(*) from feed_rows) = 1000
          or (select count(*) from slice) < (select count(*) from feed_rows)
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
  'created_at}], places, cursor, more, reset?}.\n\nEach event is returned once, and the events of '
  'a job in the order of seq. Without a cursor, the feed begins now. With the cursor "1:1:", the '
  'feed begins with the oldest event. reset: True if events may be missing. places: Cursor after '
  'each event.';

select queue.allow('authenticated, service_role', 'public.event_feed');

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
  -- If no guest session was found, the session does not exist, has ended, or belongs to another
  -- person. The error does not contain the session id, because the id may grant access.
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
  'Events of a session''s jobs, in the format of event_feed. Log lines are omitted. Without a '
  'cursor the feed begins with the oldest event.';

select queue.allow('anon, authenticated, service_role', 'public.session_feed');

-- Open a guest session of a workspace.
-- p_user_id: Id of the only person who may access the session. Null to give access to everyone who
--   has the session's id.
create or replace function queue.open_session(
  p_workspace_id uuid,
  p_user_id uuid,
  p_seconds double precision
)
returns queue.guest_sessions
language sql
set search_path = ''
as $$
insert into queue.guest_sessions (session_id, workspace_id, user_id, expires_at)
values (
  'guest_' || replace(concat(gen_random_uuid(), gen_random_uuid()), '-', ''),
  p_workspace_id,
  p_user_id,
  queue.clock() + make_interval(secs => p_seconds)
)
returning *
$$;

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
begin
  perform queue.may_manage(p_workspace_id);
  perform queue.check_names(p_options, array['ttl_seconds', 'user_id'], 'options');
  if v_seconds not between 1 and 2592000 then
    perform queue.refuse(
      400,
      'invalid_argument',
      'ttl_seconds must be from 1 to 2592000 (thirty days)',
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
  return to_jsonb(queue.open_session(p_workspace_id, v_user, v_seconds));
end;
$$;

comment on function public.open_guest_session is
  E'Open a guest session: {session_id, workspace_id, user_id, opened_at, expires_at}. For '
  'managers.\n\nThe session shows the jobs that have its session_id. Options: ttl_seconds (default '
  '86400), user_id (default: anyone).';

select queue.allow('authenticated, service_role', 'public.open_guest_session');

-- Return the time of a schedule's first run after p_after. Reject an unknown time zone, or a
-- schedule without a run within nine years, with status 400. Nine years are enough, because 29
-- February comes at least once in eight years. When the clocks change, a local time may occur twice
-- or never. If a local time occurs twice, a schedule with fixed hours runs only at the first
-- occurrence. If a local time never occurs, the schedule runs right after the clock change. A
-- schedule with * in the hours also runs in a repeated hour.
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
  -- If neither the day of the month nor the day of the week is *, a date needs to match only one of
  -- the two fields, as in cron.
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
    -- reject names that do not match the pattern of time zone names, because Postgres would read a
    -- name such as Mars/Base5 as an offset from UTC
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
      -- convert the local time to UTC with the time zone's offset at that time, and with the offset
      -- twelve hours earlier
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

-- Correct the stored times of next runs after the clock of the database server was ahead. Without a
-- correction, a clock that was a day ahead for a moment would stop every schedule for a day. If the
-- maintenance task `schedules` last ran at a time that is now in the future, begin a pass over all
-- schedules. If an earlier call has not finished its pass over all schedules, continue the pass.
create or replace function queue.reset_schedules(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_after uuid := (
    select case
      -- allow a difference of one minute, because two maintenance calls may read slightly different
      -- times
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
      null; -- queue.do_schedules stores the error, for example an unknown time zone
    end;
    exit when clock_timestamp() > p_until;
  end loop;
  update queue.tasks
  set after_id = v_after
  where name = 'schedules' and after_id is distinct from v_after;
  return v_done;
end;
$$;

-- Run the maintenance task `schedules`. The task `schedules` enqueues a job for the first due
-- schedule of each workspace, then for the second due schedule of each workspace, and so on. A run
-- that is more than five minutes late counts as a missed run. A schedule that is declared in code
-- enqueues no job while no worker serves its job type, because its jobs would only accumulate. If
-- one schedule fails, the other schedules still run.
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
    -- Check the time only at the end of the loop, so that each call processes at least one
    -- schedule. With the result 0, the caller would assume that no schedule is due.
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
  -- accept only job options that make sense for all jobs of a schedule
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
      'the workspace already has %s schedules, or their payloads have %s bytes; delete some first',
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
  return to_jsonb(v_saved) || jsonb_build_object(
    'problem', (
      select 'no worker serves the job type ' || u.job_type
      from queue.unserved_schedules(p_workspace_id, v_now) as u
      where u.name = v_saved.name
    )
  );
end;
$$;

comment on function public.put_schedule is
  'Create or change a schedule by name: {name, cron, timezone, job_type, payload, options, missed, '
  'enabled}. A workspace has at most schedules_max schedules, and their payloads have at most '
  'four times payload_max_bytes.';

select queue.allow('authenticated, service_role', 'public.put_schedule');

-- A suspect is a job whose worker process ended while the process also ran other jobs. Because no
-- one knows which job ended the process, the engine releases each job of the process as a suspect,
-- and no job loses an attempt. Suspects run in groups. A worker process that runs one group of
-- suspects runs no other jobs. In the names of columns and functions, a group of suspects is called
-- a company.
--
--   queue.blame             decides which jobs may have ended a process.
--     queue.expired_items     converts expired leases to outcomes that queue.settle applies.
--   queue.lease_mode        decides which jobs a worker may lease while suspects wait.
--   queue.lease_suspects    leases one group of suspects, within all limits.
--   queue.clear_suspects    deletes suspects whose attempts ended before their process did.
--
-- When a worker process ends, its jobs are split into groups of about the same size. By default,
-- the jobs are split into two groups. The host of the process can request up to 100 groups in the
-- evidence that the host writes about the end of the process. If there are at least as many groups
-- as job types, no group has jobs of two types, because the jobs that end processes usually have
-- the same type. If there are more job types than groups, the jobs are sorted by type before the
-- split, so that most jobs of a type stay together. If the process of a group of suspects also
-- ends, the group is split again. A job that ran alone when its process ended is guilty. A guilty
-- job loses an attempt, and runs alone again in its next attempt.

-- For each worker whose leases have expired, decide which jobs may have ended the worker's process.
-- Store guilty jobs and suspects in queue.suspects. For each job, the function returns the verdict
-- guilty, suspect or innocent.
-- guilty: Only this job can have ended the process.
-- suspect: This job or another job of the process may have ended the process.
-- innocent: The stack trace of the process shows code of another job type, or the host killed the
--   process because it did not stop in time, so this job did not end the process.
--
-- The evidence of how a process ended contains a list of the jobs in the process. A job that is
-- missing from the list may still be guilty, because the job may have begun after the process wrote
-- the list.
--
-- others: Number of other jobs that ran in the job's process.
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
          w.evidence ? 'stopped'
            or w.evidence ? 'stack' and w.evidence ->> 'guilty_type' <> n.job_type,
          false
        ) as is_innocent,
        (
          select max(o.jobs)
          from queue.lost_leases as o
          where o.worker = l.worker and o.lost_at >= l.leased_at
        ) as lost_with,
        -- Number of jobs that were stopped, but whose processors ignored the stop and still ran in
        -- the process. Without evidence that the process ended, the number of abandoned jobs is
        -- zero, because the process may still be alive. If abandoned jobs counted without evidence,
        -- a job that always loses its worker would never lose an attempt.
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
    typed as materialized ( -- separate_lane is null if a group may have jobs of several types
      select
        h.*,
        case
          when max(h.nth_lane) over (partition by h.worker) <= h.companies then h.lane
        end as separate_lane
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
          when h.separate_lane is null then h.companies
          else (h.companies * h.held_of_lane + h.held - 1) / h.held -- rounded up
        end) over (
          partition by h.worker, h.separate_lane, h.is_innocent
          order by h.lane, h.job_id
        ) as part
      from typed as h
      window process as (partition by h.worker)
    ),
    noted as ( -- store the number of jobs for leases that expire later
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
          else md5(concat_ws(' ', c.worker_id, c.part, c.separate_lane))::uuid
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

-- Return the evidence of why a worker process ended, for readers of one workspace. The ids of jobs
-- of other workspaces are removed from the evidence. jobs_in_it is the number of all jobs in the
-- process.
create or replace function queue.evidence_for(p_workspace_id uuid, p_evidence jsonb)
returns jsonb
language sql stable
set search_path = ''
as $$
select p_evidence
  - '{guilty,companies}'::text[] -- hosts of earlier releases sent a list `guilty`
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

-- Convert the expired leases of jobs to outcomes that queue.settle applies. A guilty job loses the
-- attempt, with the reason worker_lost. If there is evidence of how its process ended, the guilty
-- job is retried only after its backoff. Suspects and innocent jobs are released with the reason
-- process_died, and do not lose an attempt.
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
        0, -- duration until the worker's last response
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
            when 'innocent' then 'attempt %1$s does not count: %4$s ended the process of worker %2$s'
            when 'suspect' then 'attempt %1$s does not count: the process of worker %2$s ended%3$s'
              ' while it also ran %5$s; the job runs next alone, or with some of these jobs'
            when 'guilty' then case
              when w.evidence is null
                then 'attempt %1$s was lost: worker %2$s stopped reporting'
              else 'attempt %1$s was lost: the job ended the process of worker %2$s%3$s'
            end
          end,
          l.attempt,
          w.worker_id,
          queue.process_end(w.evidence),
          coalesce('a job of ' || (w.evidence ->> 'guilty_type'), 'the host'),
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

-- Decide which jobs a worker may lease while suspects wait. queue.lease_mode returns the text
-- suspects, others or nothing.
-- suspects: The worker may lease a group of suspects, because the worker's process runs no job.
-- others: The worker may lease all jobs except suspects.
-- nothing: The worker may lease no job, because its process already runs suspects, or because its
--   other running jobs must end first.
create or replace function queue.lease_mode(p_request queue.lease_request, p_now timestamptz)
returns text
language plpgsql
set search_path = ''
as $$
declare
  v_held record;
begin
  -- allow one lease call of a worker at a time, because the call must count the jobs that the
  -- worker runs
  perform queue.try_lock('worker ' || p_request.worker, p_waits => true);
  select count(*) as jobs, count(s.job_id) as suspects
  into v_held
  from queue.leases as l
  left join queue.suspects as s on s.job_id = l.job_id
  where l.worker = p_request.worker;
  return case
    when v_held.suspects > 0 then 'nothing'
    when p_request.suspects is false then 'others' -- another process of the host runs suspects
    when v_held.jobs = 0 then 'suspects'
    when p_request.suspects then 'nothing'
    -- Workers of release 0.4.4 start no separate process for suspects, and such a worker may never
    -- be without running jobs. If suspects have waited for 30 seconds, the oldest worker that serves
    -- the job types of the suspects gets no other job, so that this worker becomes free.
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

-- Lease the jobs of one group of suspects, within the limits of types, workspaces and pools.
-- queue.lease_suspects does not check the limits of concurrency keys, because a suspect already
-- counts against the limit of its key.
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
    -- Workers with even numbers first take the smallest group of suspects without a guilty job, so
    -- that a guilty job is found soon, even if many groups wait. Workers with odd numbers take the
    -- oldest group, so that every group runs.
    order by
      case p_request.worker % 2 when 0 then bool_or(s.company = s.job_id) end,
      case p_request.worker % 2 when 0 then count(*) end,
      min(s.since),
      s.company
    limit 50
  loop
    -- skip the group if another process is leasing or running jobs of the group
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
        from queue.unblocked_turns as t
        where t.lane = any (v_types.open)
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

-- Convert a row of public.jobs to the JSON object that clients receive. queue_ms is the time from
-- the job's due time to its first start, and run_ms is the total duration of all attempts.
-- p_is_listed: True if the JSON object is part of a list of jobs. An object in a list contains a
--   shortened error message, and only the first three simple values of the payload.
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
  v_hidden text[] := '{lane,ord,worker,is_minimal,queue_ms,run_ms,chosen}';
  v_queue double precision := p_job.queue_ms;
  v_run double precision := coalesce(p_job.run_ms, 0);
  v_wait queue.waits;
  v_since timestamptz;
  v_worker text;
  v_looked_up jsonb := '{"next_run_at": null, "waiting_for": null}';
begin
  if p_job.status = 'processing' then
    select l.leased_at, w.worker_id into v_since, v_worker
    from queue.leases as l
    join queue.workers as w on w.worker = l.worker
    where l.job_id = p_job.id;
    v_run := v_run
      + greatest(0, coalesce(date_part('epoch', v_now - v_since), 0)) * 1000;
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
  elsif p_job.status = 'pending' then
    v_looked_up := v_looked_up || jsonb_build_object('next_run_at', v_due);
    if v_queue is null and v_due <= v_now then
      v_queue := date_part('epoch', v_now - v_due) * 1000;
    end if;
  end if;
  v_looked_up := v_looked_up || jsonb_build_object(
    'running_since', v_since,
    'worker_id', v_worker,
    'deaths', case
      when p_job.fence > p_job.attempts then ( -- some attempts were not counted
        select count(*)
        from queue.attempts as a
        where a.job_id = p_job.id and a.outcome = 'died'
      )
      else 0
    end,
    'tags', coalesce(p_job.tags, '{}'),
    'progress', coalesce(
      p_job.progress,
      '{"percentage": 0, "stage": null, "message": null}'
    ),
    'state', queue.state_of(
      p_job.status,
      p_job.attempts,
      p_job.next_retry_at,
      p_job.scheduled_for,
      v_now
    ),
    'times', jsonb_build_object(
      'queue_ms', round(v_queue::numeric, 1),
      'run_ms', round(v_run::numeric, 1),
      'earlier_ms', round(coalesce(p_job.run_ms, 0)::numeric, 1), -- duration of earlier attempts
      'runs', p_job.fence
    )
  );
  if p_is_listed then
    v_hidden := v_hidden || '{payload,result,error_data}'::text[];
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
  end if;
  return to_jsonb(p_job) - v_hidden || v_looked_up || jsonb_build_object(
    'error', queue.error_line(p_job.error_message, p_job.error_data)
  );
end;
$$;

-- Convert a client's job filter to conditions of an SQL where clause. Return null for an empty job
-- filter. Raise an error for a job filter with an unknown name or value.
create or replace function queue.conditions_of(p_filter jsonb)
returns text
language plpgsql stable
set search_path = ''
as $$
declare
  c_conditions constant jsonb := jsonb_build_object(
    'status', 'p.status = any (array(select jsonb_array_elements_text(%L)))',
    'state', 'queue.state_of(p.status, p.attempts, p.next_retry_at, p.scheduled_for, %2$L)
      = any (array(select jsonb_array_elements_text(%1$L)))',
    'job_type', 'p.job_type = %L',
    'queue', 'p.queue = %L',
    'user_id', 'p.user_id = %L',
    'mine', '(p.user_id = %3$L or not %1$L::boolean)',
    'session_id', 'p.session_id = %L',
    'parent_id', 'p.parent_id = %L',
    'tag', 'p.tags @> array[%L]',
    'payload', 'p.payload @> %L',
    'created_after', 'p.created_at >= %L',
    'error', 'strpos(lower(p.error_message), lower(%L)) > 0',
    'error_fingerprint', 'queue.fingerprint(p.error_message, p.error_data) = %L',
    'internal', '(p.job_type in (select t.job_type from queue.job_types as t where t.in_order))
      = %L::boolean',
    'search', 'strpos(lower(concat_ws('' '', p.job_type, p.error_message, p.idempotency_key,
      array_to_string(p.tags, '' ''),
      case when pg_column_size(p.payload) <= 8192 then p.payload::text end,
      -- search job ids only for texts of six or more characters, because a shorter text would match
      -- many ids by chance
      case when length(%1$L) >= 6 then concat(p.id, '' '', replace(p.id::text, ''-'', '''')) end)
      ), lower(%1$L)) > 0'
  );
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
    array(select jsonb_object_keys(c_conditions)) || '{workspace_id,ids}'::text[],
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
    from jsonb_each_text(c_conditions) as c (name, condition)
    where p_filter ? c.name
  );
end;
$$;

-- Return the ids of the jobs that match a filter, newest first, below the id p_before. If the
-- filter selects only live or failed jobs, queue.places reads the jobs from small tables. If the
-- filter has a tag, an index finds the jobs with the tag. For other filters, the function reads at
-- most the newest 10,000 jobs, and stops after about 100 ms.
-- last_id: Id of the last job that was read, which the next call passes as p_before. Null if there
--   are no more jobs to read.
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
    -- The parameters of the query are the list of job ids ($1), the list of workspaces or null for
    -- all workspaces ($2), the id below which the search continues ($3), and the maximum number of
    -- jobs to read ($4). The query writes the equality of a column as `between`, because with `=`
    -- the planner would choose the index on id.
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
  -- return changes of the 30 seconds before the last read again, because a change becomes visible
  -- to readers only when its transaction commits
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
  -- Search the workspace that the filter names. If the filter names no workspace, search the
  -- workspace that the person joined first. If the filter has ids, a session or a parent, or if the
  -- person is an operator, search all workspaces of the person. For the service, a filter with ids,
  -- a session or a parent searches all workspaces of the database.
  v_found := queue.search_jobs(
    v_filter,
    case
      when v_named is not null then array[v_named]
      when not v_is_service then array(
        select w
        from queue.my_workspaces() as w
        where v_filter ?| array['ids', 'parent_id', 'session_id']
          or queue.is_operator()
          or not exists ( -- the workspace that the person joined first, as in public.own_workspace
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
  E'Jobs, newest first: {now, jobs, next}. next is the p_cursor of the next page.\n\nA page may '
  'contain fewer than p_limit jobs and still have a next, because a call searches at most 10,000 '
  'jobs. To read a page again, pass {"since": now of the last response} as p_cursor. If a job had '
  'already ended at that time, only its id is returned.';

select queue.allow('authenticated, service_role', 'public.list_jobs');

-- Count the jobs of a workspace by state. Live and failed jobs are counted up to 10,000 in each
-- table that queue.places reads. Completed and cancelled jobs are counted among the newest 10,000
-- jobs of the workspace. If p_workspace_id is null, as in public.queue_stats, completed and
-- cancelled jobs are not counted.
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
  -- include lane 0, the lane of jobs of unpublished types, because queue.lanes has no row for an
  -- unpublished type
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
          -- one limit applies to scheduled and retrying jobs, because both are read from
          -- queue.deferred
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
  'Number of jobs of a workspace in each state: {states, at_least}. at_least lists the states that '
  'may have more jobs than were counted.';

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
  'Failed jobs of a workspace, grouped by error, the largest group first: {groups, more}. If a job '
  'failed because its descendant failed, it is listed as a consequence of the descendant''s group. '
  'is_new: True if the first failure of the group was after the latest deploy of the job type.';

select queue.allow('authenticated, service_role', 'public.dead_letters');

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
  'Attempts, steps and waits of a job and its descendants, six levels deep, up to 300 jobs: {now, '
  'more, jobs}.';

select queue.allow('authenticated, service_role', 'public.job_trace');

-- Return the live workers. A worker is live if one of its leases has not expired. A worker without
-- leases is live if it called the database in the last three minutes, and its run has not ended or
-- ended at most 90 seconds ago. If the worker stopped or its process died, the worker is live for
-- ten more seconds, because its host usually starts another process.
create or replace function queue.live_workers(p_now timestamptz)
returns queue.workers[]
language sql stable
set search_path = ''
as $$
select array(
  select w
  from queue.workers as w
  where w.seen_at > p_now - interval '3 minutes'
    and coalesce(
      w.ended_at > p_now - case
        when w.evidence is null and (w.summary -> 'stopped') is null then interval '90 seconds'
        else interval '10 seconds'
      end,
      true
    )
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

-- Return the time of the last call of any worker. A worker's row is updated only once a minute.
create or replace function queue.last_call()
returns timestamptz
language sql stable
set search_path = ''
as $$
select greatest(
  (select max(w.seen_at) from queue.workers as w),
  to_timestamp(nullif(pg_sequence_last_value('queue.slots_ms'), 0) / 1000.0)
)
$$;

-- Return the time of the last revocation of all worker keys if it was later than p_seen_at, or if
-- p_seen_at is null. The function subtracts a minute from p_seen_at, because a worker's row is
-- updated once a minute.
create or replace function queue.revoked_after(p_seen_at timestamptz)
returns timestamptz
language sql stable
set search_path = ''
as $$
select r.at
from to_timestamp(
  (queue.setting('worker_keys_revoked') #>> '{-1,from}')::double precision
) as r (at)
where r.at > coalesce(p_seen_at - interval '1 minute', '-infinity')
$$;

-- Return the published job type whose name is most similar to p_job_type. Return null if the type
-- p_job_type itself is published, or if no published name has at least half of the letter pairs of
-- p_job_type.
create or replace function queue.nearest_type(p_job_type text)
returns text
language sql stable
set search_path = ''
as $$
select nullif(p.job_type, p_job_type)
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

-- Return the job types p_job_types with a column `unserved`. The column `unserved` is true if
-- workers run, but none of them serves the job type.
-- p_queues: For each job type of p_job_types, the queue that a worker must serve. Null if a worker
--   may serve the type in any queue.
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
  where w.slots is distinct from '[]' -- a process that runs only suspects serves no other job
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
        and o.refusal is null
        and o.registered_at > p_now - interval '1 minute'
    )
from unnest(p_job_types, p_queues) as t (job_type, queue)
$$;

-- Return the enabled schedules of a workspace whose job type no live worker serves, or whose job
-- type no worker has published.
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
) as t on t.job_type = s.job_type
where s.enabled
  and (
    t.unserved
    or not exists (
      select from queue.job_types as o
      where o.job_type = s.job_type and o.schema_version > 0
    )
  )
  and (p_workspace_id is null or s.workspace_id = p_workspace_id)
$$;

-- Each row has a sentence and advice for one reason why a job or the queue makes no progress. A row
-- with the reason failed:<kind> has the advice for failed jobs whose error has this kind. The
-- column `command` omits the command's first word, `minutehand`. If `path` is null, the advice
-- links to the job's page in the console. queue.render_guidance replaces a placeholder such as
-- {job_type} by the value with this name. Square brackets contain alternative texts, separated by
-- |. queue.render_guidance keeps the first alternative text for which no value is missing, or no
-- alternative at all.
create or replace view queue.guidance as
select row_number() over () as id, a.*
from (
  select 'failed:' || f.kind, null, f.words, 'retry {job_id}', null
  from (
    values
      (
        'timeout',
        'The traceback shows the line where it waited. Give that call its own time limit, remove '
          'the cause of the wait, or give the type a longer `timeout`. Then retry the job.'
      ),
      (
        'lost',
        'SIGKILL usually means the memory limit, SIGSEGV a library in C, and exit code 1 a blocked '
          'event loop. Another exit code comes from a call that ended the process. Fix the cause, '
          'then retry the job.'
      ),
      (
        'killed',
        'A program that it started was killed by {signal}, as happens at the memory limit. Give '
          'the worker more memory, or let the program use less.'
      ),
      (
        'machine',
        'Its machine ran out of a resource ({code}). Free some of it.'
      ),
      (
        'contention',
        'It conflicted with another transaction ({code}). Retry the job. If the conflict returns, '
          'take locks in one order, and briefly.'
      ),
      (
        'schema',
        'The database lacks an object that its query names ({code}). Apply the migration, or fix '
          'the query.'
      ),
      (
        'result',
        'The result that the processor returned was rejected. Fix the code, deploy, then retry the '
          'job.'
      ),
      (
        'credentials',
        'Fix the rejected credentials ({code}).'
      ),
      (
        'grant',
        'The role of its database connection lacks a right ({code}). Grant the right that the '
          'error names, then retry the job.'
      ),
      (
        'request',
        'Fix the request that was rejected ({code}), then retry the job.'
      ),
      (
        'unavailable',
        'The other service did not respond ({code}). Retry the job once it does.'
      )
  ) as f (kind, words)
  union all -- advice for several reasons, before the other advice for one of these reasons
  select r, null, s.words, s.command, s.path
  from (
    values
      (
        '{no_worker, no_processor, not_leased}'::text[],
        'All worker keys were revoked at {revoked_at}. Give the workers a new key.',
        'token worker',
        '/overview'
      ),
      (
        '{key_limit, workspace_type_limit, workspace_limit, type_limit, no_slot}',
        'Wait for job {holder}, or cancel it.',
        'cancel {holder}',
        '/jobs/{holder}'
      ),
      (
        '{lease_expired, worker_died}',
        'Nothing to do until {patience_until}. Maintenance reclaims the job before then. See what '
          'happened to its worker:',
        'show {job_id}',
        null
      ),
      (
        '{locked, open_transaction, blocking_session}',
        'End that session if no one needs it: `select pg_terminate_backend({pid})`.',
        null,
        '/overview'
      ),
      (
        '{full_workspace, full_of_bytes}',
        'Wait until jobs have ended.',
        'ls --state queued',
        '/jobs?state=queued'
      ),
      (
        '{disk_filling, disk_nearly_full}',
        'Enlarge the disk and set its new size (`set_settings`, `disk_bytes`), or keep ended jobs '
          'for fewer days (`retention_days`).',
        null,
        '/overview'
      )
  ) as s (reasons, words, command, path)
  cross join unnest(s.reasons) as r
  union all
  values
    (
      'cancelled:start_by',
      null,
      'Remove the cause of the wait, then retry the job. A retried job has no latest start time.',
      'retry {job_id}',
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
      'failed:deadline',
      null,
      'Enqueue it again with a later deadline.',
      'replay {job_id}',
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
      'failed:rate',
      null,
      'The other service limits its rate. Set `rate_limit` of the type below that rate, then retry '
        'the job.',
      'retry {job_id}',
      '/types/{job_type}'
    ),
    (
      'refused',
      'The database rejects a change of the job''s row. The change is retried at {retry_at}.',
      'Fix the trigger or constraint that rejects the change, then wait.',
      'explain {job_id}',
      null
    ),
    (
      'passed_over',
      'It has been due since {run_at}, but maintenance [has not run since {maintained_at}|has '
        'skipped it].',
      'See why maintenance does not run, or skips the job.',
      'doctor',
      '/overview'
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
      'Worker {worker_id} has been running it since {leased_at}.[ Its process died{process_end} '
        'with {died_with}. It runs with {beside} of them and nothing else.| It runs alone, because '
        'its process died{process_end} with {died_with}.| Its lease lasts until {lease_until} '
        'unless it is renewed.][ An earlier process of it was ended by {killer}.][ The role '
        'job_worker may not execute {not_granted}, so its outcome is not stored.][ It has sent '
        'nothing for {silent}, since {sign}, at {place}.| It was last seen at {place}.][ Its '
        'database session (pid {pid}) waits for a lock of the session with pid {blocker}.][ 99 % '
        'of the jobs of its type take {usual} or less.][ Its process has used up to {memory_mb} '
        'MB.]',
      '[Grant the right: `grant execute on function {not_granted}(jsonb) to job_worker`.|Commit or '
        'end that session: `select pg_terminate_backend({blocker})`.|If {silent} without an update '
        'is too long, check the call at {place}. Give that call a time limit, or give the type a '
        'shorter `timeout`.|If {usual} should suffice, check its log and the code at {place}.|'
        'Nothing to do until {lease_until}. If the lease is not renewed by then, the job is '
        'reclaimed.|Nothing to do.]',
      'watch {job_id}',
      '/types/{job_type}'
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
      'Its processor snoozed it until {run_at}[, {times} since {first_at}].',
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
      'The workspace[ {which}] has been paused since {paused_at}.',
      'A manager of the workspace can resume it.',
      'resume --all[ --workspace {which}]',
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
      'No worker has run[ since {since}], so nothing starts.',
      'Start one with `minutehand dev` or `minutehand serve`. On AWS, check the schedule. If a '
        'worker was rejected, its log has the reason.',
      'doctor --only schedule',
      '/overview'
    ),
    (
      'no_processor',
      'No worker has published the job type {unpublished}.',
      'Fix this in code, and deploy: {refusal}',
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
      'Workers run, but none of them serves the job type {job_type} in the queue {queue}.[ Worker '
        '{last_worker}{process_end} served it, and was last seen at {last_seen}.]',
      '[Workers that have {job_type} serve only other queues. Start one with `minutehand serve '
        '--queue {not_served}`, or for all queues.|Start worker {last_worker} again.|Deploy a '
        'worker that has {job_type}. If one is deployed, check whether its code loads.]',
      '[types {once_served}|doctor --only processors]',
      '/types'
    ),
    (
      'key_limit',
      'The concurrency limit of its key is used up: {running} of {limit}[, held by job {holder} '
        '({holder_state})].',
      'Or raise `key_concurrency` of {own_type} in code, and deploy.',
      null,
      '/types/{job_type}'
    ),
    (
      'internal_jobs',
      'Jobs of {job_type}, which the platform itself enqueues, wait for an earlier job of the same '
        'receiver.',
      'See why the earlier jobs have not ended.',
      'ls --type {job_type} --search {receiver}',
      '/jobs?job_type={job_type}&search={receiver}'
    ),
    (
      'workspace_type_limit',
      'The concurrency limit of its type in the workspace is used up: {running} of {limit} run[, '
        'the longest is job {holder}, since {held_since}].',
      'Or raise `workspace_concurrency` in code, and deploy.',
      'ls --state running --type {job_type}',
      '/jobs?state=running&job_type={job_type}'
    ),
    (
      'workspace_limit',
      'The concurrency limit of the workspace is used up: {running} of {limit} run[, the longest '
        'is {holder_type} {holder}, since {held_since}].',
      'Or let a manager raise the limit.',
      'ls --state running',
      '/jobs?state=running'
    ),
    (
      'type_limit',
      'The concurrency limit of its type is used up[ by {others}]: {running} of {limit} run[, the '
        'longest is job {holder}, since {held_since}].',
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
      'Its process died{process_end} with {died_with}[, ended by {killer}]. It runs [next, with '
        '{beside} of them and nothing else|alone next].',
      'Nothing to do until {patience_until}. A worker that runs no jobs starts it. After that:',
      'doctor',
      '/overview'
    ),
    (
      'suspect',
      null,
      'It has been ready since {late_since}. Start another worker if all workers of its type run '
        'other jobs.',
      'doctor',
      '/overview'
    ),
    (
      'next_in_line',
      'It is the next job of its workspace, and starts when [a worker that serves it runs again. '
        'The last run ended at {ended_at}|a worker that serves it runs. None runs{yet}|one of '
        '{slots} slots is free. All are in use by jobs of {used_by}|a worker with a free slot '
        'leases jobs].[ The last call of such a worker was at {silent_since}.]',
      'Nothing to do until {patience_until}. After that:',
      'doctor',
      '/overview'
    ),
    (
      'no_slot',
      'Jobs of {used_by} use all {slots} slots of the workers that serve it, and none has become '
        'free since {full_since}.[ The longest is {holder_type} {holder}, since {held_since}.][ '
        'Jobs of its workspace that are ahead of it: {at_least} or more.| Jobs of its workspace '
        'that are ahead of it: {ahead}.]',
      'Or start another worker, or give the workers more slots: `WORKER_THREADS` for functions '
        'without `async`, otherwise `WORKER_CONCURRENCY`.',
      'doctor',
      '/overview'
    ),
    (
      'not_leased',
      'It has been ready since {ready_at}. [The role {without_right} may not execute '
        'public.lease_jobs, so workers with this role lease nothing|The workers that serve it '
        'use {running} of {slots} slots, but have leased nothing since {leased_at}|The workers '
        'that serve it have leased nothing since {leased_at}|Workers that serve it have not leased '
        'it].[ They were last seen at {seen_at}.]',
      'Grant the right: `grant execute on function public.lease_jobs(jsonb) to {without_right}`.',
      'doctor',
      '/overview'
    ),
    (
      'not_leased',
      null,
      'Check the rights and the logs of these workers.',
      'doctor',
      '/overview'
    ),
    (
      'behind_others',
      'Jobs of {job_type} in its workspace that are ahead of it: [{at_least} or more|{ahead}][, '
        '{smaller} of them with a smaller priority].[ All {slots} slots are in use by jobs of '
        '{used_by}.]',
      '[If it must start by {must_start_by}, start another worker, or enqueue it with a smaller '
        'priority.|Nothing to do until {patience_until}. It starts after them. A smaller priority '
        'goes first.]',
      'ls --state queued --type {job_type}',
      '/jobs?state=queued&job_type={job_type}'
    ),
    (
      'long_line',
      'It has been ready since {ready_at}, with {ahead} jobs of its workspace ahead of it.[ All '
        '{slots} slots are in use by jobs of {used_by}.]',
      'If all slots are in use, start another worker, or give the workers more slots.',
      'status',
      '/overview'
    ),
    (
      'read_only',
      'The database rejects writes, because default_transaction_read_only is on. Supabase sets it '
        'when the plan''s disk is full.',
      'Free the disk in one session of the '
        'SQL editor: `set default_transaction_read_only = off`; `select '
        'public.set_settings(''{"retention_days": {"completed": 7, "cancelled": 7, '
        '"failed": 7}}'')`; `select public.run_maintenance(''{"budget_ms": 5000}'')` while it has '
        'more; `vacuum full queue.job_events, public.job_logs, public.jobs`.',
      null,
      '/overview'
    ),
    (
      'overdue',
      'A job that no limit holds has been due since {since}.',
      'See why it waits.',
      'explain {job_id}',
      null
    ),
    (
      'refused_type',
      'A worker cannot use its code of the type {job_type}.',
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
      'The workspace[ {which}] has at least {jobs} live jobs, and its limit is {limit}. Enqueues '
        'by people are rejected.',
      'Or let an operator raise the limit: `select '
        'public.set_workspace_limits(''{workspace_id}'', ''{"max_pending": {more}}'')`.',
      null,
      '/overview'
    ),
    (
      'full_of_bytes',
      'The live jobs of the workspace[ {which}] store {live}, and the limit is {limit}. Enqueues '
        'by people with payloads above 2 kB are rejected.',
      'Or let an operator raise the limit: `select '
        'public.set_settings(''{"user_pending_bytes_max": {more}}'')`.',
      null,
      '/overview'
    ),
    (
      'unanswered',
      'Jobs that have waited for an answer for more than a day: {jobs}, the first since {since}.',
      'Answer the first question.',
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
      'missing_right',
      'Workers with the role job_worker may not execute {function}.',
      'Grant the right: `grant execute on function {function}(jsonb) to job_worker`.',
      null,
      '/overview'
    ),
    (
      'two_codes',
      'Workers run different versions of the code: {codes}.',
      'Stop the workers of the older version, unless they are about to end. The newer deploy sets '
        'the options of a type.',
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
      'no_success',
      'No job of {job_type} has completed in the last hour, but attempts have failed or been '
        'snoozed: {attempts}.',
      'See why they fail or wait.',
      'ls --type {job_type}',
      '/jobs?job_type={job_type}'
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
      'Jobs whose worker was lost wait for a worker that runs nothing else: {jobs}, the first '
        'since {since}.',
      'Start another worker if all workers of these job types run other jobs.',
      'explain {job_id}',
      null
    )
  union all
  select s.reason, s.sentence, null, null, null
  from (
    values
      ('completed', 'It completed at {finished_at}.'),
      (
        'cancelled',
        'It was cancelled at {finished_at}[, because it had not started by {start_by_at}].[ The '
          'reason at that time: {waited}]'
      ),
      (
        'start_by',
        'It will be cancelled if it has not started by {start_by_at}[, which {ahead} jobs ahead of '
          'it may prevent].'
      ),
      ('worker_lost', 'It ended its process {ended_times}{alone}.'),
      (
        'worker_lost',
        'Its worker was lost {lost_times} while it ran nothing else.'
      ),
      (
        'lease_expired',
        'Its worker {worker_id} has not reported, and the lease expired at {expires_at}.'
      ),
      (
        'worker_died',
        'The process of its worker {worker_id} ended at {ended_at}. The job is being reclaimed.'
      ),
      (
        'abandoned',
        'Its processor ignored the stop and still runs, abandoned, in worker {worker_id} at '
          '{place}.'
      ),
      ('suspect', 'It runs alone next, in a process of its own.'),
      (
        'locked',
        'A session (pid {pid}) has locked its row in an open transaction since {held_since}, so it '
          'can neither start nor end.'
      ),
      (
        'open_transaction',
        'A session with an open transaction delays the queue.'
      ),
      (
        'blocking_session',
        'Sessions that wait for a lock of one session: {waiting}, the first since {since}.'
      ),
      (
        'disk_filling',
        'The disk is {percent} % full.'
      ),
      (
        'disk_nearly_full',
        'The disk is {percent} % full. At 95 % the database rejects writes.'
      )
  ) as s (reason, sentence)
) as a (reason, sentence, words, command, path);

-- Replace each placeholder in p_text, for example {job_type}, by the value that p_with has for this
-- name. Return null if p_with lacks the value of a placeholder.
create or replace function queue.fill_names(p_text text, p_with jsonb)
returns text
language sql immutable
set search_path = ''
as $$
select case
  when bool_and(p.part is not null) then string_agg(p.part, '' order by p.n)
end
from ( -- every second part is a placeholder's name, and times are shown in seconds
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

-- Return the sentence and the advice that queue.guidance has for a reason, with the values of
-- p_with in place of the placeholders. A sentence or an advice is omitted if p_with lacks one of
-- its values.
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
  cross join lateral ( -- every second part is the text between two brackets
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
from (
  select t.id, jsonb_object_agg(t.name, t.text) as line
  from texts as t
  where t.text is not null
  group by 1
) as l
$$;

-- Return the job that ended an earlier process of the job p_job, as text. The result is the other
-- job's type, with the other job's id if a loss has shown which job it was. Return null while the
-- type is unknown, or while several jobs may have ended the process.
create or replace function queue.killer_of(p_job public.jobs)
returns text
language sql stable
set search_path = ''
as $$
select coalesce(
  (
    select min(concat_ws(' ', j.job_type, j.id))
    from jsonb_array_elements_text(p_job.error_data #> '{evidence,jobs}') as e (id)
    join public.jobs as j on j.id = e.id::uuid
    where j.id <> p_job.id
      and j.status <> 'completed' -- a completed job did not end the process
      -- the stack of the process may already have shown the type
      and coalesce(j.job_type = p_job.error_data #>> '{evidence,guilty_type}', true)
    having count(*) = 1
      and bool_and(exists (
        select from queue.attempts as a
        where a.job_id = j.id and a.outcome = 'lost' and a.error_data ? 'evidence'
      ))
  ),
  p_job.error_data #>> '{evidence,guilty_type}'
)
where p_job.error_data ->> 'reason' = 'process_died'
$$;

-- A job in queue.suspects must run alone or in a small group, because its worker's process died.
-- For a job in queue.suspects, return the values that replace placeholders in texts of
-- queue.guidance. Return null for jobs that are not in queue.suspects.
-- died_with: Number of other jobs that ran in the worker's process when the process died, as text.
-- beside: Number of other suspects in the job's group, which all run in one process. Null if the
--   job is the only suspect of its group.
create or replace function queue.suspicion_of(p_job public.jobs)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object(
  'suspect_since', greatest(s.since, p_job.updated_at, p_job.next_retry_at),
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

drop function queue.slots_for(public.jobs,queue.workers[]);

-- Return the number of worker slots that can run the job p_job, the number of jobs that use these
-- slots, and the times at which a worker with such slots last leased jobs or started, and was last
-- seen.
-- slots: Number of slots that can run the job. Null if a worker did not report its slots, or if no
--   worker runs.
-- ended_at: End of the last run of the workers that have slots for the job. Null if one of
--   these workers still runs.
-- yet: Empty text if no live worker has slots that can run the job, otherwise null.
-- full_since: Time since which no job has started in the slots.
-- used_by: Types of the jobs that use the slots, as text.
create or replace function queue.slots_for(p_job public.jobs, p_alive queue.workers[])
returns table (
  slots bigint,
  running bigint,
  leased_at timestamptz,
  seen_at timestamptz,
  ended_at timestamptz,
  yet text,
  full_since timestamptz,
  used_by text
)
language sql stable
set search_path = ''
as $$
with pools as materialized (
  select w.worker, w.seen_at, w.ended_at, p.*
  from unnest(p_alive) as w
  left join lateral (
    select o.job_types, o."limit" as size
    from jsonb_to_recordset(w.slots) as o (job_types text[], "limit" bigint)
    where p_job.job_type = any (o.job_types)
  ) as p on true
  where (w.job_types is null or p_job.job_type = any (w.job_types))
    and (w.queues is null or p_job.queue = any (w.queues))
    and w.slots is distinct from '[]' -- a process that runs only suspects has no slot for the job
)
select
  case
    when bool_and(p.size is not null) filter (where p.ended_at is null)
      then sum(p.size) filter (where p.ended_at is null)
  end,
  max(r.running),
  (
    select max(t.seen_at)
    from queue.ticks as t
    where t.worker in (select o.worker from pools as o)
  ),
  max(p.seen_at),
  case when bool_and(p.ended_at is not null) then max(p.ended_at) end,
  case when count(p.worker) = 0 then '' end,
  max(r.full_since),
  max(r.used_by)
from (
  select
    count(*) as running,
    max(l.leased_at) as full_since,
    array_to_string((array_agg(distinct n.job_type))[:3], ', ') as used_by
  from queue.leases as l
  join queue.lanes as n on n.lane = l.lane
  join pools as o on o.worker = l.worker and n.job_type = any (o.job_types)
) as r
left join pools as p on true
$$;

-- Return a duration as text, for example '4 min'.
create or replace function queue.length_in_words(p_ms double precision)
returns text
language sql immutable
set search_path = ''
as $$
select case
  when p_ms < 1000 then round(p_ms) || ' ms'
  when p_ms < 120000 then round(p_ms / 1000) || ' s'
  when p_ms < 7200000 then round(p_ms / 60000) || ' min'
  else round(p_ms / 3600000) || ' h'
end
$$;

-- Return the database session that must end before the session p_pid can continue. If the session
-- that blocks p_pid waits for another session, return the last session in the chain of waits.
-- Return p_pid if the session p_pid waits for no lock.
create or replace function queue.last_blocker(p_pid integer)
returns integer
language sql stable
set search_path = ''
as $$
with recursive waits as (
  select p_pid as pid, 0 as level
  union
  select b.pid, w.level + 1
  from waits as w
  cross join lateral unnest(pg_blocking_pids(w.pid)) as b (pid)
  where w.level < 8
)
select w.pid
from waits as w
order by w.level desc
limit 1
$$;

-- Return an object that describes the last update of a running job, such as a log line or a
-- finished step. If the worker has reported no update of the job, the object contains only
-- lease_until, the time at which the lease expires.
-- sign: Kind of the job's last update as text, for example 'its last log line'.
-- silent: Time since the last update of the job, as text. Null for less than 20 seconds, because
--   workers report updates of jobs only every 15 seconds.
-- blocker: Database session that holds a lock for which the session of the silent job waits.
-- usual: Duration that 99 % of the jobs of the type do not exceed, as text. Null while the job has
--   run for less than this duration, or for less than a minute.
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
        'silent_since', s.since,
        'sign', case l.pulse ->> 'last'
          when 'start' then 'its start'
          when 'log' then 'its last log line'
          else 'its last ' || (l.pulse ->> 'last')
        end,
        'silent', case when p.silent_ms >= 20000 then queue.length_in_words(p.silent_ms) end,
        'blocker', case
          when p.silent_ms >= 20000
            then nullif(queue.last_blocker(s.pid), s.pid)
        end,
        'usual', (
          select queue.length_in_words(u.ms)
          from queue.usual_ms(p_job.workspace_id, p_job.job_type, p_now) as u (ms)
          where extract(epoch from p_now - l.leased_at) * 1000 > greatest(60000, u.ms)
        )
      )
    end
    from queue.leases as l
    cross join lateral (
      values (
        greatest((l.pulse ->> 'since')::timestamptz, p_job.updated_at),
        (l.pulse ->> 'pid')::integer
      )
    ) as s (since, pid)
    cross join lateral (
      values (greatest(0, extract(epoch from p_now - s.since) * 1000)::double precision)
    ) as p (silent_ms)
    where l.job_id = p_job.id
  );
end;
$$;

-- Return the reason why a job has not started. A job cannot start if for example it has ended,
-- runs, waits or is delayed, if a trigger of the project rejects a change of its row, if its type
-- is paused, or if no worker serves its type. For a job that may start, queue.explain_ready returns
-- the reason.
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
    'max_attempts', p_job.max_attempts
  );
  -- a due job counts as late if maintenance has not made it ready within 90 seconds
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
        || queue.pulse_of(p_job, p_now)
        || jsonb_build_object('not_granted', (
          select f.function
          from unnest('{public.settle_jobs,public.report_jobs}'::regproc[]) as f (function)
          where not has_function_privilege(to_regrole('job_worker'), f.function, 'execute')
          limit 1
        )),
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
      'data', v_data
        || to_jsonb(v_found)
        || queue.maintained_before(v_found.run_at)
        || (
          select jsonb_build_object(
            'first_at', min(a.ended_at),
            'times', case when count(*) > 1 then queue.times_in_words(count(*)) end
          )
          from queue.attempts as a
          where a.job_id = p_job.id and a.outcome = 'snoozed'
        ),
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
        'nearest', queue.nearest_type(p_job.job_type),
        -- a revocation deletes the types, and their workers publish them again with a new key
        'revoked_at', queue.revoked_after(p_now - interval '1 hour')
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
        'data', jsonb_build_object('refusal', v_refusal) || coalesce(
          (
            select case
              when w = any (p_alive) then jsonb_build_object('not_served', p_job.queue)
              else jsonb_build_object(
                'once_served', p_job.job_type,
                'last_worker', w.worker_id,
                'last_seen', w.seen_at,
                'process_end', queue.process_end(w.evidence),
                'revoked_at', queue.revoked_after(w.seen_at)
              )
            end
            from queue.workers as w
            where p_job.job_type = any (w.job_types)
            order by w.seen_at desc
            limit 1
          ),
          '{}'
        )
      )
    else queue.explain_ready(p_job, p_alive, p_now)
  end;
end;
$$;

-- Return the reason why a job that may start has not started. queue.explain_ready tests the
-- concurrency limits first, from the limit of the job's key to the limit of its type.
-- queue.explain_ready then tests the rate limit, whether the job must run alone because its
-- worker's process died, and whether other jobs are ahead of the job. A lack of slots is returned
-- as the reason only if running jobs use all slots of the workers, and have not ended for ten
-- seconds. If jobs end more often, the job waits for its turn.
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
  v_smaller integer;
  v_workers record;
  v_reason text;
  v_silent_since timestamptz; -- null if a worker that serves the job has called recently
  v_without_right constant text := (
    select 'job_worker'
    where not has_function_privilege(
      to_regrole('job_worker'),
      'public.lease_jobs'::regproc,
      'execute'
    )
  );
begin
  select * into v_type
  from queue.job_types
  where job_type = p_job.job_type;
  -- Find the narrowest concurrency limit that has been reached. Skip a concurrency limit that is
  -- not set.
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
  select
    count(*),
    count(*) filter (where a.priority < p_job.priority)
  into v_ahead, v_smaller
  from (
    select j.priority
    from queue.ready as r
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
        not exists (select from queue.suspects) -- evaluated once, and usually finds no row
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
  select
    s.slots,
    s.running,
    s.ended_at,
    s.yet,
    s.full_since,
    greatest(s.seen_at, s.leased_at) as seen_at,
    case when i.is_idle then s.leased_at end as leased_at,
    case when s.running >= s.slots then s.used_by end as used_by,
    s.running >= s.slots as is_full,
    i.is_idle
  into v_workers
  from queue.slots_for(p_job, p_alive) as s
  cross join lateral (
    values (s.running >= s.slots is not true and coalesce(s.leased_at <= v_ready_at, true))
  ) as i (is_idle);
  -- a worker's row is updated once a minute, so older workers may have been killed with their host
  v_silent_since := case
    when v_workers.seen_at < p_now - interval '75 seconds' then v_workers.seen_at
  end;
  v_reason := case
    when v_workers.full_since <= p_now - interval '10 seconds' and v_workers.is_full then 'no_slot'
    when v_without_right is not null
        or v_ready_at <= p_now - interval '1 minute'
        and v_workers.is_full is not true
        and (v_ahead = 0 or v_workers.is_idle)
      then 'not_leased'
    when v_ahead = 0 then 'next_in_line'
    when v_ready_at <= p_now - interval '15 minutes' then 'long_line'
    else 'behind_others'
  end;
  return case
    when v_reason in ('no_slot', 'not_leased') then jsonb_build_object('since', v_ready_at)
    else '{}'
  end || jsonb_build_object(
    'estimated_start_at', case
      when v_reason = 'next_in_line'
          and v_workers.is_full is not true
          and coalesce(v_workers.yet, v_workers.ended_at::text, v_silent_since::text) is null
        then p_now
    end,
    'reason', v_reason,
    'data', to_jsonb(v_workers) - '{is_full,is_idle}'::text[] || jsonb_build_object(
      'without_right', v_without_right,
      'silent_since', v_silent_since,
      'ready_at', v_ready_at,
      'revoked_at', queue.revoked_after(v_workers.seen_at),
      'patience_until', v_ready_at + case v_reason
        when 'next_in_line' then interval '1 minute'
        when 'behind_others' then interval '15 minutes'
      end,
      'ahead', nullif(v_ahead, 0),
      'smaller', nullif(v_smaller, 0),
      'must_start_by', (select p_job.start_by_at where p_job.started_at is null),
      'at_least', case v_ahead when 1000 then v_ahead end
    )
  );
end;
$$;

-- Holders. A holder is a database session, worker, pause or job that keeps other jobs from starting
-- or ending. The functions below find the holders for public.explain_job and for queue.holders. If
-- the holder is a job of another workspace, only operators and the service learn which job it is.

-- Return the database sessions that have locked the rows of the jobs p_ids. A database session is
-- returned only if its transaction has been open for at least two seconds. If a session that has
-- locked a row waits for another session, return the last session in the chain of waits, because
-- the last session must end first. The xmax of a row identifies the transaction that has locked the
-- row (supabase/DECISIONS.md).
create or replace function queue.locks_on(p_ids uuid[], p_now timestamptz)
returns table (job_id uuid, pid integer, since timestamptz, application text)
language sql stable
set search_path = ''
as $$
select distinct on (j.id) j.id, a.pid, s.since, a.application_name
from public.jobs as j
join pg_catalog.pg_locks as l on l.transactionid = j.xmax
cross join lateral queue.last_blocker(l.pid) as b (pid)
join pg_catalog.pg_stat_activity as a on a.pid = b.pid
cross join lateral coalesce(a.xact_start, a.state_change) as s (since)
where j.id = any (p_ids)
  and j.xmax <> '0'::xid
  and l.locktype = 'transactionid'
  and l.granted
  and l.pid <> pg_backend_pid()
  and s.since <= p_now - interval '2 seconds'
order by j.id, s.since
$$;

drop function queue.due_in(uuid,integer[]);

-- Return the number of due jobs in the lanes p_lanes. A lane is one job type in one queue. At most
-- 1,000 jobs are counted in each of the tables queue.ready, queue.gated and queue.unpublished.
-- p_workspace_id: Null to count the jobs of all workspaces.
-- p_job_type: Job type whose rows in queue.unpublished are also counted, because no worker has
--   published the type yet. Null to count no rows of queue.unpublished.
create or replace function queue.due_in(
  p_workspace_id uuid,
  p_lanes integer[],
  p_job_type text default null
)
returns bigint
language plpgsql stable
set search_path = ''
as $$
begin
  return (
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
      union all
      (
        select 0
        from queue.unpublished as u
        where u.job_type = p_job_type
          and (p_workspace_id is null or u.workspace_id = p_workspace_id)
        limit 1000
      )
    ) as d
  );
end;
$$;

drop function queue.held_by(public.jobs,jsonb,timestamp with time zone);

-- Return the holder of a job as an object with the keys kind, holder, since, until, waiting and
-- more.
-- waiting: Number of jobs in the workspace that wait for the same reason, at most 1,000. The number
--   is 0 if p_job runs or waits for an answer, because no other job waits for the same reason.
-- more: True if `waiting` is 1,000, so that even more jobs may wait.
-- p_found: Reason why the job waits, as queue.explain_row returned it.
-- p_is_open: True to also return jobs of other workspaces.
create or replace function queue.held_by(
  p_job public.jobs,
  p_found jsonb,
  p_now timestamptz,
  p_is_open boolean
)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  c_most constant integer := 200;
  v_reason constant text := p_found ->> 'reason';
  -- the kind is null if the reason has no holder
  v_kind constant text := coalesce(
    '{"key_limit": "key", "rate_limited": "rate", "locked": "lock", "worker_died": "dead_worker",
      "lease_expired": "dead_worker", "no_worker": "no_worker", "no_processor": "no_worker",
      "no_slot": "slots", "long_line": "slots", "not_leased": "worker", "asking": "answer",
      "waiting_for_event": "event", "waiting_for_children": "child", "refused": "refusal",
      "passed_over": "tick"}'::jsonb ->> v_reason,
    substring(v_reason from 'limit$'),
    case when v_reason ~ '_paused$' then 'pause' end
  );
  v_data constant jsonb := p_found -> 'data';
  v_id uuid;
  v_holder jsonb;
  v_since timestamptz := p_found ->> 'since';
  v_jobs bigint := 0;
begin
  if v_kind is null then
    return null;
  elsif v_kind = 'key' then
    v_jobs := (
      select count(*)
      from (
        select from queue.gated as g
        where g.workspace_id = p_job.workspace_id
          and g.job_type = p_job.job_type
          and g.key = coalesce(p_job.concurrency_key, '')
          and not g.admitted
        limit 1000
      ) as k
    );
  elsif p_job.status = 'pending' then
    v_jobs := queue.due_in(p_job.workspace_id, array[p_job.lane], p_job.job_type);
  end if;
  if v_kind = 'child' then
    v_id := queue.blocking_descendant(p_job.id, false);
  elsif v_kind in ('key', 'limit', 'slots') then
    v_id := (
      select h.job_id
      from queue.find_holders(v_reason, p_job, c_most) as h
      where h.workspace_id = p_job.workspace_id or p_is_open
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
      'application', v_data -> 'application'
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
    'until', coalesce(p_found ->> 'estimated_start_at', v_data ->> 'patience_until'),
    'waiting', least(v_jobs, 1000),
    'more', v_jobs >= 1000
  );
end;
$$;

-- Return the kind, code and cause of a job's last error. queue.error_of classifies the error by its
-- exception type and its code, never by its message.
-- kind: Kind of the error, for example 'timeout'. The row failed:timeout of queue.guidance has the
--   advice for this kind.
-- code: HTTP status, SQLSTATE or errno name.
-- cause: Response of another service, line of code that ended the process, or last error of an
--   exception chain.
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
        when e.sqlstate = '42501' then 'grant' -- the Data API maps these codes to 403 or 404
        when e.sqlstate ^@ '42' then 'schema'
        when e.status in ('401', '403') or e.sqlstate ^@ '28' then 'credentials'
        when e.status = '429' then 'rate'
        when e.status ^@ '4' or e.sqlstate ~ '^2[23]' then 'request'
        when e.sqlstate ~ '^(40|55)' then 'contention'
        when e.signal is not null then 'killed'
        when e.errno in ('ENOSPC', 'EDQUOT', 'ENOMEM', 'EMFILE') then 'machine'
        when e.status ^@ '5'
            or e.sqlstate ^@ '08'
            or e.errno in (
              'ECONNREFUSED', 'ECONNRESET', 'EHOSTUNREACH', 'ENETUNREACH',
              'ETIMEDOUT', 'EAI_AGAIN'
            )
          then 'unavailable'
      end
    )
    when p_job.status = 'cancelled' and e.type = 'StartByPassed' then 'start_by'
  end as kind,
  coalesce('SQLSTATE ' || e.sqlstate, 'HTTP ' || e.status, e.errno) as code,
  coalesce(
    e.response,
    -- the line belongs to another job if the job did not end the process
    case when e.reason = 'worker_lost' then e.evidence ->> 'line' end,
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
  reason text, evidence jsonb
)
$$;

drop function queue.explain(public.jobs,jsonb,queue.workers[],timestamp with time zone);

-- Return the reason why a job waits, and the job, limit or pause for which it waits.
-- p_lock: Database session that has locked the job's row, from queue.locks_on.
-- p_alive: Live workers, from queue.live_workers. A caller that explains many jobs reads the live
--   workers only once, because queue.live_workers reads all leases.
-- p_is_open: True to return also jobs of other workspaces and names of people, roles and
--   applications.
create or replace function queue.explain(
  p_job public.jobs,
  p_lock jsonb,
  p_alive queue.workers[],
  p_now timestamptz,
  p_is_open boolean default queue.is_operator() or queue.is_service()
)
returns jsonb
language plpgsql stable
set search_path = ''
set timezone = 'UTC'
as $$ -- sentences show times in UTC
declare
  v_found jsonb;
  v_held jsonb;
  v_error record;
begin
  v_found := case
    when p_lock is null then queue.explain_row(p_job, p_alive, p_now)
    else jsonb_build_object('reason', 'locked', 'since', p_lock -> 'since', 'data', p_lock)
  end;
  if v_found ->> 'reason' = 'no_worker' then
    v_found := v_found || jsonb_build_object(
      'since', queue.last_call(),
      'data', jsonb_build_object('revoked_at', queue.revoked_after(queue.last_call()))
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
  if not p_is_open then -- hide the names of others from members
    v_found := v_found || jsonb_build_object(
      'data', (v_found -> 'data') - '{application,without_right,not_granted}'::text[] || case
        when v_found -> 'data' ? 'paused_by' then jsonb_build_object(
          'paused_by',
          queue.shown_person(v_found #>> '{data,paused_by}', p_job.workspace_id)
        )
        else '{}'
      end
    );
  end if;
  v_held := queue.held_by(p_job, v_found, p_now, p_is_open);
  v_found := v_found || queue.render_guidance(
    v_found ->> 'reason',
    v_found
      || queue.names_of(p_job, v_held)
      || jsonb_build_object(
        'code', v_error.code,
        'which', case when p_is_open then p_job.workspace_id end
      )
      || jsonb_strip_nulls(v_found -> 'data'),
    v_error.kind
  );
  v_found := v_found || jsonb_build_object(
    'sentence', concat_ws(
      ' ',
      -- put the sentences about the lost worker and the abandoned processor before the job's
      -- error, because the console hides the error and all text after the error
      ( -- count only losses that no other job can have caused
        select queue.render_guidance(
          'worker_lost',
          jsonb_build_object(
            -- null if there is no evidence of how any of the processes ended
            'ended_times', queue.times_in_words(count(*) filter (where a.error_data ? 'evidence')),
            -- not empty if the job was the only job of its process in each loss with evidence
            'alone', case
              when bool_and(a.error_data ->> 'company' = '0')
                  filter (where a.error_data ? 'evidence')
                then ', alone'
              else ''
            end,
            'lost_times', queue.times_in_words(count(*))
          )
        ) ->> 'sentence'
        from queue.attempts as a
        where a.job_id = p_job.id
          and a.outcome = 'lost'
          and p_job.error_data ->> 'type' = 'WorkerLost'
        having count(*) > 0
      ),
      (
        select queue.render_guidance('abandoned', to_jsonb(w) || to_jsonb(a)) ->> 'sentence'
        from unnest(p_alive) as w
        cross join lateral jsonb_to_recordset(w.abandoned) as a (job_id uuid, place text)
        where a.job_id = p_job.id and w.ended_at is null
        limit 1
      ),
      v_found ->> 'sentence',
      case
        when p_job.status = 'pending' and p_job.started_at is null
            and p_job.start_by_at > p_now
          then queue.render_guidance(
            'start_by',
            jsonb_build_object(
              'start_by_at', p_job.start_by_at,
              'ahead', v_found #> '{data,ahead}'
            )
          ) ->> 'sentence'
      end
    )
  );
  return v_found || jsonb_build_object(
    'held_by', v_held || jsonb_build_object('act', v_found #> '{next,0}')
  );
end;
$$;

-- Return the values of a job and its holder that replace the placeholders in texts of
-- queue.guidance.
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
  'killer', queue.killer_of(p_job),
  'version', p_job.schema_version,
  'type_version', (
    select t.schema_version
    from queue.job_types as t
    where t.job_type = p_job.job_type and t.schema_version <> p_job.schema_version
  ),
  'child', c.id,
  'cause_type', coalesce(c.job_type, 'the child'),
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
) as b
left join public.jobs as c on c.id = b.id
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
    perform queue.take_call_slot(); -- take a slot, because the call counts the jobs ahead
  end if;
  -- in a read-only session, ignore locks of other sessions, because a read-only session cannot try
  -- to lock the job's row
  if v_job.finished_at is null and not current_setting('transaction_read_only')::boolean then
    select to_jsonb(l) into v_lock
    from queue.locks_on(array[p_job_id], v_now) as l;
  end if;
  if v_lock is not null then
    perform from public.jobs
    where id = p_job_id
    for no key update skip locked;
    -- If this session can also lock the job's row, the lock of the other session comes from a
    -- foreign key check. A lock of a foreign key check does not keep workers from leasing the job.
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
  'Why a job waits and what blocks it: {job_id, status, reason, sentence, since, cause, '
  'held_by: {kind, holder, since, until, waiting, more, act}, next: [{words, command, path}], '
  'data, estimated_start_at}.';

select queue.allow('authenticated, service_role', 'public.explain_job');

-- Return groups of waiting jobs. The jobs of a group have the same type, and wait for the same
-- cause. A cause is for example a full queue, a concurrency key, an event, a dead worker, or a
-- database session that has locked the jobs' rows.
-- job_id: Id of one job of the group.
-- jobs: Number of jobs in the group. Ready jobs are counted up to 1,000, and jobs that wait for a
--   concurrency key up to 10,000.
-- oldest_at: Time since which the first job of the group has waited.
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
),
locks as materialized (
  select *
  from queue.locks_on(
    array(select l.job_id from leases as l union select d.job_id from late as d),
    p_now
  )
),
held as (
  (
    select
      'key' as kind,
      g.job_type,
      concat_ws(
        ' ',
        g.workspace_id,
        case
          when queue.is_internal(g.job_type) then split_part(g.key, ':', 1) -- webhook's receiver
          else g.key
        end
      ) as cause,
      g.job_id,
      g.ord,
      null::timestamptz as since
    from queue.gated as g
    where not g.admitted
      and (p_workspace_id is null or g.workspace_id = p_workspace_id)
      and (p_job_type is null or g.job_type = p_job_type)
    limit 10000
  )
  union all
  (
    select 'unpublished', u.job_type, u.workspace_id::text, u.job_id, 0, null
    from queue.unpublished as u
    where (p_workspace_id is null or u.workspace_id = p_workspace_id)
      and (p_job_type is null or u.job_type = p_job_type)
    limit 10000
  )
  union all
  select o.kind, j.job_type, o.cause, j.id, 0, o.since
  from (
    (
      select w.kind, w.event_name as cause, w.job_id, w.created_at as since
      from queue.waits as w
      where w.kind in ('ask', 'event')
        and (p_workspace_id is null or w.workspace_id = p_workspace_id)
      limit 1000
    )
    union all
    select 'worker', l.worker::text, l.job_id, l.expires_at
    from leases as l
    where l.job_id not in (select k.job_id from locks as k)
    union all
    select 'lock', k.pid::text, k.job_id, k.since
    from locks as k
    union all
    select 'late', null, d.job_id, d.run_at
    from late as d
    where d.job_id not in (select k.job_id from locks as k)
  ) as o
  join public.jobs as j on j.id = any (array[o.job_id])
  where p_job_type is null or j.job_type = p_job_type
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
select g.job_id, g.jobs, g.oldest_at
from (
  select
    (array_agg(h.job_id order by h.since, h.ord, h.job_id))[1] as job_id,
    count(*) as jobs,
    min(h.since) as oldest_at,
    row_number() over (partition by h.kind order by count(*) desc) as nth
  from held as h
  group by h.kind, h.job_type, h.cause
) as g
where g.nth <= 10
$$;

-- Return the holders for which jobs wait. The holder with the most waiting jobs comes first. Each
-- holder is returned with the number of waiting jobs, and with the explanation that
-- public.explain_job would return for one waiting job.
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
        then e.said || '{"cause": null}' || queue.render_guidance(
          'internal_jobs',
          jsonb_build_object(
            'job_type', j.job_type,
            'receiver', split_part(j.concurrency_key, ':', 1)
          )
        )
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

-- Run the maintenance task `statistics`. The task `statistics` reads committed rows of queue.feed,
-- and counts the jobs of these rows in queue.stats. Each statement of the task `statistics` counts
-- about 20,000 jobs.
create or replace function queue.do_statistics(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_last constant bigint := queue.feed_end();
  v_number bigint; -- number of the last feed row that was read
  v_id bigint;
  v_end record;
  v_done integer := 0;
begin
  select t.read_to, t.read_id into v_number, v_id
  from queue.tasks as t
  where name = 'statistics';
  loop
    select f.number, f.id into v_end
    from ( -- one transaction may have written any number of feed rows
      select
        l.number,
        l.id,
        row_number() over w as n,
        sum(pg_column_size(l.job_ids) / 16) over w as jobs
      from queue.feed as l
      where (l.number, l.id) > (v_number, v_id) and l.number < v_last
      window w as (order by l.number, l.id)
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
          ('job.snoozed', 'snoozed'),
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

-- Compute the percentiles p50_ms, p95_ms and p99_ms from a histogram of queue.stats. A computed
-- percentile differs from the exact percentile by at most 12 %.
create or replace function queue.percentiles(p_buckets jsonb)
returns jsonb
language sql immutable
set search_path = ''
as $$
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
    from jsonb_each_text(p_buckets) as e
  ) as b on 100 * b.jobs >= p.percent * b.total
  group by p.percent
) as q
$$;

-- Return the counts and percentiles of queue.stats for each job type in each period of the length
-- p_step since p_since.
create or replace function queue.type_numbers(
  p_workspace_id uuid,
  p_since timestamptz,
  p_step interval
)
returns table (at timestamptz, job_type text, line jsonb)
language sql stable
set search_path = ''
as $$
select
  date_bin(p_step, s.at, p_since),
  s.job_type,
  queue.sum_jsonb(array_agg(s.counts)) || jsonb_build_object(
    'run', queue.percentiles(queue.sum_jsonb(array_agg(s.run_times))),
    'queue', queue.percentiles(queue.sum_jsonb(array_agg(s.queue_times)))
  )
from queue.stats as s
where s.workspace_id
= coalesce(p_workspace_id, '00000000-0000-0000-0000-000000000000')
  and s.at >= p_since
group by 1, 2
$$;

-- Return the duration in milliseconds that 99 % of the jobs of a type did not exceed in the last
-- day. Return null if fewer than 20 jobs of the type ended. The duration is increased by 12 %,
-- because queue.percentiles may return a percentile that is too low by 12 %.
create or replace function queue.usual_ms(p_workspace_id uuid, p_job_type text, p_now timestamptz)
returns double precision
language sql stable
set search_path = ''
as $$
select 1.12
  * (queue.percentiles(queue.sum_jsonb(array_agg(s.run_times))) ->> 'p99_ms')::double precision
from queue.stats as s
where s.workspace_id = p_workspace_id
  and s.at > p_now - interval '1 day'
  and s.job_type = p_job_type
having sum((s.counts ->> 'completed')::bigint + (s.counts ->> 'failed')::bigint) >= 20
$$;

-- Return the number of due jobs for each reason why due jobs have not started. The reasons are
-- paused, unserved (no worker serves the job type), suspect (the job's process died), at_limit,
-- blocked (by a concurrency key) and ready. Only unserved jobs cause the verdict `warn`.
-- p_user_id: Id of the person who calls, or null to count the jobs of all callers. Among jobs of
--   unpublished types, only the person's own jobs are counted, because the person cannot change the
--   jobs of other people.
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
      exists (select from queue.suspects) -- evaluated once, and usually finds no row
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
      (3, 'suspect', 'run alone, because their worker was lost:'),
      (4, 'at_limit', 'wait for a limit:'),
      (5, 'blocked', 'wait for a job of their key:'),
      (6, 'ready', 'start next:')
  ) as k (n, cause, words)
  left join due as d on d.cause = k.cause
  group by 1, 2, 3
)
select jsonb_object_agg(
  c.cause,
  jsonb_build_object(
    'jobs', c.jobs,
    'more', c.is_more,
    'types', c.types,
    'oldest_at', c.oldest_at
  )
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

-- Return findings about workers, due jobs, the database and maintenance. A finding is a problem
-- that public.explain_queue reports. A transaction that has written rows is a finding after a
-- minute, or after 30 seconds if its session is idle, because readers of queue.feed wait for the
-- end of the transaction. A read-only transaction is a finding after five minutes, because Postgres
-- cannot remove dead rows until the transaction ends.
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
        'revoked_at', queue.revoked_after(p_seen_at)
      )
    where coalesce(p_now - p_seen_at > interval '90 seconds', true)
    union all
    select
      case
        when p_seen_at is null and o.at < p_now - interval '15 minutes' then 'fail'
        else 'warn'
      end,
      'overdue',
      o.at,
      null,
      jsonb_build_object(
        'jobs', p_backlog #> '{ready,jobs}',
        'job_id', w.job_id
      )
    from (values ((p_backlog #>> '{ready,oldest_at}')::timestamptz)) as o (at)
    left join lateral (
      select
        j.id as job_id,
        queue.explain_row(j, a.workers, p_now) ->> 'reason' as reason
      from queue.live_workers(p_now) as a (workers)
      cross join (
        select r.job_id
        from queue.lanes as l
        cross join lateral (
          select *
          from queue.ready as q
          where q.lane = l.lane
            and (p_workspace_id is null or q.workspace_id = p_workspace_id)
          limit 1
        ) as r -- the first job of each lane
        where r.ready_at >= o.at -- older jobs wait for a limit, or their type is paused
        order by r.ready_at
        limit 1
      ) as f
      join public.jobs as j on j.id = any (array[f.job_id])
    ) as w on true
    where o.at < p_now - interval '2 minutes'
      -- workers start the jobs one after another, so the job only waits for its turn
      and coalesce(w.reason not in ('behind_others', 'next_in_line'), true)
    union all
    select
      'warn',
      'no_processor',
      null,
      null,
      jsonb_build_object(
        'jobs', u.jobs,
        'types', u.types,
        'job_type', split_part(u.types, ', ', 1),
        'revoked_at', queue.revoked_after(p_now - interval '1 hour')
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
          '%s skips job %s: %s',
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
      'fail',
      'missing_right',
      null,
      null,
      jsonb_build_object('function', f.function)
    from unnest(
      '{public.lease_jobs, public.report_jobs, public.settle_jobs,
        public.run_maintenance}'::regproc[]
    ) as f (function)
    where not has_function_privilege(to_regrole('job_worker'), f.function, 'execute')
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
    select
      'warn',
      'blocking_session',
      min(w.since),
      format(
        '%s (pid %s) is %s',
        coalesce(nullif(h.application_name, ''), h.usename, h.backend_type),
        h.pid,
        coalesce(h.state, 'active')
      ),
      jsonb_build_object('pid', h.pid, 'waiting', count(*))
    from (
      select a.query_start as since, queue.last_blocker(a.pid) as pid
      from pg_catalog.pg_stat_activity as a
      where a.datname = current_database()
        and a.wait_event_type = 'Lock'
        and a.query_start <= p_now - interval '10 seconds'
      limit 20
    ) as w
    join pg_catalog.pg_stat_activity as h
      on h.pid = w.pid and h.wait_event_type is distinct from 'Lock'
    group by h.pid, h.application_name, h.usename, h.backend_type, h.state
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
            when o.backend_xid is null then 'Postgres keeps dead rows until it ends'
            else 'readers of events wait until it ends'
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
          and a.wait_event_type is distinct from 'Lock' -- the session that it waits for is named
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

-- Return findings about job types, versions of the code, pauses, schedules, unanswered questions
-- and silent jobs. A running job is silent if the time since its last update exceeds both two
-- minutes and the duration of 99 % of the jobs of its type. If too few jobs of the type have ended,
-- a job is silent after ten minutes. If an operator pauses a queue or a job type for all
-- workspaces, the pause is a finding in each workspace that has due jobs there.
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
    'they serve %s',
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
    'workspace_id', p.workspace_id,
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
  'no_success',
  null,
  null,
  jsonb_build_object(
    'job_type', t.job_type,
    'attempts', t.failed
  )
from ( -- counts of a key are null if it was never counted
  select
    s.job_type,
    sum((s.counts ->> 'completed')::bigint) as completed,
    sum(
      (s.counts ->> 'retried')::bigint
      + (s.counts ->> 'failed')::bigint
      + coalesce((s.counts ->> 'snoozed')::bigint, 0)
    ) as failed
  from queue.stats as s
  where s.workspace_id = coalesce(p_workspace_id, '00000000-0000-0000-0000-000000000000')
    and s.at > p_now - interval '1 hour'
  group by 1
) as t
where t.completed = 0
  and t.failed >= 20
  and not queue.is_internal(t.job_type)
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
      offset 0 -- few jobs are silent, so find them before the join with queue.lanes
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

-- Return a finding for each workspace that has reached its limit of live jobs or of payload bytes,
-- because the engine then rejects enqueues by people. The number of rejected enqueues is unknown,
-- because a rejected enqueue stores nothing. Counting takes time, so the live jobs of a workspace
-- are counted only if its limit is at most 2,000, or if the last count was at least 90 % of the
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
    'limit', l.jobs,
    'more', 2 * greatest(c.jobs, 1),
    'workspace_id', l.id,
    'jobs', c.jobs
  )
from limits as l
cross join lateral greatest(l.jobs + 1, 2000) as b (jobs)
cross join lateral (
  select count(*) as jobs
  from (
    select from queue.places(l.id, '{pending,processing,waiting}', b.jobs)
    limit b.jobs
  ) as p
) as c
where (l.jobs <= 2000 or l.last_jobs >= 0.9 * l.jobs) and c.jobs >= l.jobs
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
where l.last_bytes >= 0.9 * l.bytes and c.bytes >= l.bytes
$$;

-- Return up to two kinds of findings about worker processes that ended. The finding ends_process
-- names a job type whose code is probably broken, because three jobs of the type have ended their
-- processes within ten minutes, and no job of the type has completed since. The engine itself never
-- pauses a job type whose jobs end their processes. The finding suspects_wait counts the jobs of
-- queue.suspects that have waited for a minute only because no worker is free to run them.
create or replace function queue.findings_of_deaths(p_workspace_id uuid, p_now timestamptz)
returns table (verdict text, reason text, since timestamptz, cause text, data jsonb)
language plpgsql stable
set search_path = ''
as $$
declare
  -- Job types that have lost at least three attempts in the last 15 minutes. If no job type has
  -- lost three attempts, the function does not read queue.feed, which has many rows.
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
          max(j.error_data #>> '{evidence,commit}') as "commit"
        from lines as l
        cross join unnest(l.job_ids) as i (id)
        join public.jobs as j on j.id = any (array[i.id])
        where l.type = 'job.reclaimed' and j.job_type = any (v_types)
        group by 1, 2
      ),
      streaks as (
        select
          d.job_type,
          (array_agg(d.at order by d.at desc))[3] as since,
          count(*) as jobs,
          (array_agg(d."commit" order by d.at desc))[1] as "commit"
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
        select j.id, (e.said #>> '{data,late_since}')::timestamptz as since
        from queue.ready_suspects(null) as s
        join public.jobs as j on j.id = any (array[s.job_id])
        cross join lateral queue.explain_row(j, v_alive, p_now) as e (said)
        where e.said #> '{data,late_since}' is not null
          and (p_workspace_id is null or j.workspace_id = p_workspace_id)
          and not exists ( -- no process runs a job of the same group
            select from queue.suspects as o
            join queue.leases as l on l.job_id = o.job_id
            where o.company = s.company
          )
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
  v_seen_at constant timestamptz := queue.last_call();
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
    -- also use the age of due jobs in queue.deferred, because maintenance makes these jobs ready
    -- only while workers run
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
      queue.render_guidance(
        f.reason,
        f.data || jsonb_build_object(
          'since', f.since,
          -- the sentences about one of all workspaces name the workspace
          'which', case when p_workspace_id is null then f.data -> 'workspace_id' end
        )
      )
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
      f.data ->> 'function',
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
  'Findings, worst first, and holders for which jobs wait, most jobs first: {now, verdict, '
  'findings: [{verdict, reason, key, sentence, since, cause, jobs, next: [{words, command, '
  'path}]}], holders: [{jobs, more, since, kind, reason, sentence, cause, next, holder, job_id, '
  'job_types, keys}], backlog, last_tick_seconds}. Only operators may omit p_workspace_id.';

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
  'Health of the queue in one call: explain_queue of all workspaces, and the age of the oldest due '
  'job.';

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
      where coalesce(p.workspace_id = p_workspace_id, true)
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
  'Counts and percentiles of each job type in the last p_minutes, 1 to 11,520. late_since: Time of '
  'the first event that the statistics do not include yet. Only operators may omit p_workspace_id. '
  'The result then covers all workspaces, and lists the last 20 workers and the 20 workspaces that '
  'enqueued most jobs.';

select queue.allow('authenticated, job_worker, service_role', 'public.queue_stats');

-- Return the numbers of waiting and running jobs of a type as an object with the keys waiting and
-- running. At most 1,000 running jobs are counted, and at most as many waiting jobs as queue.due_in
-- counts.
create or replace function queue.live_of_type(p_workspace_id uuid, p_job_type text)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object(
  'waiting', queue.due_in(p_workspace_id, k.lanes, p_job_type),
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
    union all -- unpublished types of waiting jobs
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
  seen as ( -- a worker is alive, stale (last call less than ten minutes ago) or gone
    select
      o.job_type,
      l.worker_id,
      l.version,
      l.started_at,
      l.seen_at,
      l.ended_at,
      queue.process_end(l.evidence) as process_end,
      l.queues,
      case
        when l.worker in (select a.worker from unnest(v_alive) as a) then 'alive'
        when l.evidence is null and l.seen_at > v_now - interval '10 minutes' then 'stale'
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
  'Job types, sorted by name: {now, types}. Each type has its options, the 20 workers seen last, '
  'statistics of the last day, and a pause or a refusal if there is one. An unpublished type has '
  'the most similar published name. With p_job_type, the type also has its payload schema, its '
  'schedules and the holders of its jobs.';

select queue.allow('authenticated, service_role', 'public.list_job_types');

-- Run a maintenance task on a batch of jobs, and return the number of jobs that the task has
-- changed. If the database rejects the change of a job, divide the batch in halves until this job
-- is found.
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
    elsif p_task = 'reclaim' then -- the outcome depends on which job ended the process
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
        raise warning 'maintenance (%) skips job %: % (%)',
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

-- Move the jobs p_ids to their next table, for example from queue.deferred to queue.ready, or end
-- them. A job ends if its deadline has passed, or if its latest time for a start has passed before
-- it started. A job of an internal type ends if a person enqueued it before the type was published,
-- because people may not enqueue jobs of internal types.
create or replace function queue.promote(p_ids uuid[], p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  -- Lock the rows of queue.waits before the rows of public.jobs. Skip a job whose row in
  -- queue.waits is locked, because a person is answering its question at this moment. The next
  -- maintenance tries a skipped job again.
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
        -- the sentence is stored in the job's error for members of its workspace, so the sentence
        -- must not name a job of another workspace
        queue.explain(o, null, v_alive, p_now, false) -> 'sentence' as sentence
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

-- Find jobs that are due or whose type has been published, and move these jobs to their next table,
-- for example from queue.deferred to queue.ready. Each batch contains the oldest due jobs of each
-- workspace, and an equal number of jobs of each workspace (queue.fair_batch). Jobs that another
-- transaction has locked remain due.
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
  v_rows tid[];
  v_adopted tid[];
  v_ids uuid[];
  v_done integer := 0;
begin
  loop
    v_refused := queue.refused('promotion', p_now);
    v_rows := queue.fair_batch(
      'queue.deferred',
      'true',
      'o.run_at <= $1 and o.job_id <> all ($2)',
      'o.run_at',
      p_now,
      v_refused
    );
    delete from queue.deferred -- delete rows whose job is gone or has another due time
    where ctid = any (array(
      select d.ctid
      from queue.deferred as d
      where d.ctid = any (v_rows)
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
    v_ids := array( -- lock each job with its row of queue.deferred or queue.unpublished
      select h.id
      from (
        select j.id
        from queue.deferred as d
        join public.jobs as j on j.id = d.job_id
        where d.ctid = any (v_rows)
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

-- Take jobs back from workers whose leases have expired or whose process has ended. Each batch
-- contains an equal number of jobs of each workspace. A lease that another transaction has locked
-- is reclaimed in a later call.
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
  -- If the clock of the database server was set back, shorten the leases that were taken before the
  -- change, because these leases would expire too late.
  update queue.leases as l
  set expires_at = p_now + make_interval(secs => l.lease_seconds)
  where l.ctid = any (array(
    select o.ctid
    from queue.leases as o
    where o.expires_at
      > p_now + make_interval(secs => o.lease_seconds) + interval '1 minute'
    for no key update skip locked
  ));
  -- let the leases of a worker expire now if its host has reported the end of its process
  update queue.leases as l
  set expires_at = p_now
  where l.ctid = any (array(
    select o.ctid
    from queue.leases as o
    join queue.workers as w on w.worker = o.worker
    where w.evidence is not null and o.expires_at > p_now
    for no key update of o skip locked
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

-- Delete ended jobs after their retention time. Jobs are read in the order of their ids, so the
-- oldest jobs come first. A child job is kept while its parent job waits for its children.
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
  -- return at least 1, because the caller takes 0 as a sign that no job is left to delete
  return case when v_after is null then v_done else greatest(1, v_done) end;
end;
$$;

-- Delete rows of the engine's tables that are no longer needed, for example old statistics and rows
-- of deleted jobs. Each statement of the sweep deletes at most 20,000 rows.
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
  -- Close each turn that has not changed for an hour and whose tenant has no ready jobs in the
  -- lane. The call passes a time two hours ago as p_now, so that the rule for queue.turns below
  -- deletes the closed rows immediately.
  perform queue.tidy_turns(
    array(
      select row(t.lane, t.workspace_id, null, 0)::queue.share
      from queue.unblocked_turns as t
      where t.changed_at < p_now - interval '1 hour'
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
  -- After the restore of a dump, the sequence queue.notes_gone may be ahead of the restored notes,
  -- because pg_dump reads sequences after tables.
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
        -- an event can be deleted after 30 days, because no job waits longer for an event
        ('named_events', 'emitted_at < $1 - interval ''30 days'''),
        ('stats', 'at < $1 - interval ''9 days'''),
        ('publisher', 'round < (select max(p.round) from queue.publisher as p)'),
        ('turn_epochs', 'epoch < (select max(e.epoch) from queue.turn_epochs as e)'),
        ('guest_sessions', 'expires_at < $1 - interval ''1 day'''),
        -- delete followers that have not called public.follow_topic for 150 seconds, because a
        -- connected client calls this function every 60 seconds
        ('followers', 'seen_at < clock_timestamp() - interval ''150 seconds'''),
        -- delete turns that were closed an hour ago, because a lease can insert them again
        (
          'turns',
          'blocked and look_at is null and changed_at < $1 - interval ''1 hour'''
        ),
        -- delete token buckets of rate limits that have not changed for so long that they must be
        -- full again
        (
          'buckets',
          'refilled_at < $1 - greatest(interval ''1 day'', case when name ~ ''^[rk]:''
        then (select make_interval(secs => 2 * max(rate_per_seconds)) from queue.job_types) end)'
        ),
        ('ticks', 'seen_at < $1 - interval ''1 day'''),
        ('withdrawn_schedules', 'withdrawn_at < $1 - interval ''1 day'''),
        -- delete a worker after 100 days, although a job that is stored for longer then shows no
        -- worker
        ('workers', 'seen_at < $1 - interval ''100 days'''),
        -- delete leases of deleted jobs, because a lease remains if a worker reported on the job
        -- while another transaction deleted the job
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

-- Return true if public.run_maintenance has work to do now. Work on rows that another transaction
-- has locked is due again after a second. If no job has run, a maintenance task that found no work
-- is due again after an hour.
-- p_active: True if jobs have run since the last maintenance.
-- p_is_soon: True if a job, wait or signal may be due, as queue.next_due_in_ms reports.
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
  if p_is_soon then -- a separate query, because even a skipped subquery costs time
    if exists (
      select from queue.tasks as t
      cross join lateral (
        select case
          when t.was_idle
              and t.done_at > p_now - interval '1 second'
              and t.done_at <= p_now
            then t.done_at
          else '-infinity'
        end as skips_until
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
              and d.run_at > r.skips_until
              and d.job_id <> all ((
                select queue.refused('promotion', p_now)
              )::uuid[])
          )
          when 'waits' then exists (
            select from queue.signals as s
            where s.look_at <= p_now
              and (s.failures = 0 or r.skips_until = '-infinity')
          )
            or exists (
              select from queue.waits as w
              where w.timeout_at <= p_now and w.timeout_at > r.skips_until
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
        or t.after_id is not null -- a pass of queue.reset_schedules is unfinished
        or t.done_at > p_now + interval '1 minute' -- the server's clock was set back
        or t.reads_feed and exists (select from queue.feed as f where f.number >= t.read_to)
        or case t.name
          when 'reclaim' then exists (select from queue.leases) -- any lease may have expired
          when 'announcements' then exists (select from queue.late_topics)
          when 'schedules' then exists (
            select from queue.schedules as s
            where s.enabled and s.next_at <= p_now
          )
          when 'promotion' then exists (
            select from queue.job_types as y
            where y.schema_version > 0
              and exists (select from queue.unpublished as u where u.job_type = y.job_type)
          )
        end
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
  -- after the restore of a dump, queue.feed_number raises queue.feed_base if necessary
  perform queue.feed_number(pg_snapshot_xmax(pg_current_snapshot()));
  -- Begin with the maintenance task that has waited longest. Give each task an equal share of the
  -- remaining time, so that no task delays the other tasks. Run the task `announcements` last,
  -- because it sends messages for the rows that other tasks add to queue.feed.
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
        -- a task that stopped because its time was over is due again immediately
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
    -- also catch query_canceled, which a statement timeout raises
    exception when query_canceled or others then
      update queue.tasks
      set
        done_at = v_now,
        was_idle = false, -- so that the task is retried at retry_at, also on a quiet queue
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
  '{done: {task: count}, failed: [task], more, busy}.\n\nmore: True if the caller should call '
  'again. busy: True if another call is running maintenance.';

select queue.allow('job_worker, service_role', 'public.run_maintenance');

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
  'files}. files lists the keys of stored files, which the caller must delete.\n\np_words: names '
  'or addresses, each of 3 characters or more. With p_words the call reads all tables, and also '
  'erases text that quotes a word or the person''s id. For operators.';

select queue.allow('service_role', 'public.erase_person');

-- Store pieces of output, and publish them to the clients that follow the job. The caller must have
-- locked the leases of the jobs. A piece of output is a JSON object with the keys stream, attempt,
-- start (its offset), step, and either text or items. If an earlier report stored the beginning of
-- a piece, store only the remainder. A piece that exceeds the job's byte limit, or that would begin
-- a 21st stream, is not stored. After a piece that was not stored, later pieces of the stream are
-- not stored either, so that the stream has no gap.
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
        -- the message omits texts and items of more than 8,000 bytes, which followers read from the
        -- database
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

-- Charge a read of more than 10,000 bytes of output to the caller's rate limit, or reject the read.
-- A read of more than 10,000 bytes also takes a call slot. Only one guest at a time can read more
-- than 10,000 bytes of a job or session. Return the number of bytes that were not charged.
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
  perform queue.admit('rows', p_bytes => p_bytes);
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
      -- a direct database connection
      or auth.jwt() is null and current_setting('role') <> 'anon'
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
  E'A job of a guest session, as in guest_session_jobs, with {streams, events}. streams: the end '
  'of each stream. events: up to 500 events after p_after, without the data of log lines.\n\n404 '
  'job_not_found if the session does not exist, has ended, or does not have the job.';

select queue.allow('anon, authenticated, service_role', 'public.guest_job');

-- Run the maintenance task `output`. The task `output` joins the pieces of output of an ended job
-- into one row per stream, or into one row per step that wrote to the stream. For a completed job,
-- keep only the output of the last attempt. For other ended jobs, keep the output of all attempts,
-- because these jobs may be retried.
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
        ) as nth_part
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
    group by p.job_id, p.stream, p.attempt, p.step, p.nth_part;
    v_count := v_count + cardinality(v_ids);
    exit when cardinality(v_found) < 200
      or v_ids = '{}'
      or clock_timestamp() >= p_until;
  end loop;
  return v_count;
end;
$$;

-- This file connects optional extensions to the engine. A project can enable pg_cron, pg_net with
-- Supabase Vault, and Realtime at any time. A migration attaches only the extensions that are
-- enabled when the migration runs. A later call of public.attach_extensions attaches extensions
-- that were enabled after the migration.

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
  -- read all notes again, because the database may have been restored on another server, whose
  -- transaction ids are lower
  perform setval('queue.notes_gone', 0);
  foreach v_part in array array['pg_cron', 'realtime'] loop
    continue when v_part = 'pg_cron'
      and to_regprocedure('cron.schedule(text,text,text)') is null
      or v_part = 'realtime' and to_regclass('realtime.messages') is null;
    begin
      v_state := v_state || jsonb_build_object(v_part, 'attached');
      -- The pg_cron job minutehand-tidy deletes old rows of pg_cron's run history, which would
      -- otherwise grow without limit.
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
        -- call queue.may_follow in a subquery, so that Postgres runs the function once for each
        -- client that joins a topic
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

select queue.close_tables();

-- Revoke the right of all roles to execute private functions. Functions that policies, column
-- defaults or guests call keep the rights that earlier statements granted to single roles.
revoke execute on all functions in schema queue from public;

drop policy job_logs_read_by_members on public.job_logs;

drop policy "members cancel jobs" on public.jobs;

drop policy "members create jobs" on public.jobs;

drop policy jobs_read_by_members on public.jobs;

do $$
begin
  if (select c.relkind from pg_catalog.pg_class as c where c.oid = 'public.workspace_members'::regclass) = 'r' then
    drop policy "managers change members" on public.workspace_members;
  end if;
end;
$$;

do $$
begin
  if (select c.relkind from pg_catalog.pg_class as c where c.oid = 'public.workspace_members'::regclass) = 'r' then
    drop policy "managers remove members, members leave" on public.workspace_members;
  end if;
end;
$$;

do $$
begin
  if (select c.relkind from pg_catalog.pg_class as c where c.oid = 'public.workspace_members'::regclass) = 'r' then
    drop policy workspace_members_read_by_members on public.workspace_members;
  end if;
end;
$$;

do $$
begin
  if (select c.relkind from pg_catalog.pg_class as c where c.oid = 'public.workspaces'::regclass) = 'r' then
    drop policy "members read their workspaces" on public.workspaces;
  end if;
end;
$$;

drop policy job_events_read_by_members on queue.job_events;

create policy job_logs_read_by_members on public.job_logs for SELECT to authenticated using ((workspace_id = ANY (ARRAY( SELECT queue.my_workspaces() AS my_workspaces))));

create policy "members cancel jobs" on public.jobs for UPDATE to authenticated using ((workspace_id = ANY (ARRAY( SELECT queue.my_workspaces() AS my_workspaces))));

create policy "members create jobs" on public.jobs for INSERT to authenticated with check (((workspace_id = ANY (ARRAY( SELECT queue.my_workspaces() AS my_workspaces))) AND (user_id = ( SELECT queue.caller() AS caller))));

create policy jobs_read_by_members on public.jobs for SELECT to authenticated using ((workspace_id = ANY (ARRAY( SELECT queue.my_workspaces() AS my_workspaces))));

do $$
begin
  if (select c.relkind from pg_catalog.pg_class as c where c.oid = 'public.workspace_members'::regclass) = 'r' then
    create policy "managers change members" on public.workspace_members for UPDATE to authenticated using (((workspace_id = ANY (ARRAY( SELECT queue.my_workspaces() AS my_workspaces))) AND queue.is_manager(workspace_id))) with check (queue.is_manager(workspace_id));
  end if;
end;
$$;

do $$
begin
  if (select c.relkind from pg_catalog.pg_class as c where c.oid = 'public.workspace_members'::regclass) = 'r' then
    create policy "managers remove members, members leave" on public.workspace_members for DELETE to authenticated using (((user_id = ( SELECT queue.caller() AS caller)) OR ((workspace_id = ANY (ARRAY( SELECT queue.my_workspaces() AS my_workspaces))) AND queue.is_manager(workspace_id))));
  end if;
end;
$$;

do $$
begin
  if (select c.relkind from pg_catalog.pg_class as c where c.oid = 'public.workspace_members'::regclass) = 'r' then
    create policy workspace_members_read_by_members on public.workspace_members for SELECT to authenticated using ((workspace_id = ANY (ARRAY( SELECT queue.my_workspaces() AS my_workspaces))));
  end if;
end;
$$;

do $$
begin
  if (select c.relkind from pg_catalog.pg_class as c where c.oid = 'public.workspaces'::regclass) = 'r' then
    create policy "members read their workspaces" on public.workspaces for SELECT to authenticated using ((id = ANY (ARRAY( SELECT queue.my_workspaces() AS my_workspaces))));
  end if;
end;
$$;

create policy job_events_read_by_members on queue.job_events for SELECT to authenticated using ((workspace_id = ANY (ARRAY( SELECT queue.my_workspaces() AS my_workspaces))));

comment on view public.job_events is 'Events of each job, numbered by seq from 1 without gaps.

First subscribe to the topic of the job. Then read all events after the last known seq.';

comment on table public.jobs is 'A job is one unit of work with a payload, stored as a row of jobs.

To enqueue a job, insert a row with status pending.';

drop function queue.count_alike(public.jobs,text);

drop function queue.end_leases_of(integer,timestamp with time zone);

drop function queue.holder_kind(text);

drop function queue.losses_of(public.jobs);

drop function queue.row_json(public.jobs,timestamp with time zone);

drop function queue.take_reserved();

drop function queue.waited_for(public.jobs,queue.workers[],timestamp with time zone);

-- The indexes of the open rows of queue.turns now begin with the column epoch, so that a lease
-- skips the dead index entries of closed rows. Postgres keeps the dead index entries while an old
-- snapshot exists.
drop index queue.turns_in_order;
drop index queue.turns_by_lane;
create index turns_in_order on queue.turns (epoch, rank, workspace_id, lane) where not blocked;
create index turns_by_lane on queue.turns (lane, epoch, rank, workspace_id) where not blocked;
