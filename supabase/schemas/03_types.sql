-- This file stores the job types that workers publish, and checks the payloads of jobs against the
-- JSON schemas of their job types.

-- Return the requirement of the JSON schema p_schema that p_value does not meet, for example "be at
-- least 1", or null if p_value is valid. The items and fields inside p_value are not checked. Each
-- JSON type has a separate branch, because Postgres prepares an expression when a transaction first
-- evaluates the expression. A call evaluates only the branch for the JSON type of p_value, so the
-- other branches cost nothing.
create function queue.value_error(p_schema jsonb, p_value jsonb)
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

-- Return a sentence that names the first requirement of the JSON schema p_schema that p_value does
-- not meet, or null if p_value is valid. queue.schema_error supports those parts of JSON Schema
-- 2020-12 that pydantic generates. The supported keywords are type, enum, const, required,
-- properties, additionalProperties, items, lengths, ranges, pattern, the formats uuid and
-- date-time, anyOf, oneOf (with the meaning of anyOf) and $ref.
create function queue.schema_error(
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
create function queue.check_json(p_value jsonb, p_field text)
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
        '%s exceeds %s bytes (payload_max_bytes); store the data and pass a reference',
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

-- Reject a payload that violates the latest schema of its job type. queue.check_payload does not
-- compare a payload of an older version with the schema, because the worker first converts the
-- payload to the latest version (with upcasters).
create function queue.check_payload(
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
      format('schema_version %s is newer than the version that workers serve', p_version),
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

-- Store the schedules that the code of a job type declares, and create the lanes (rows of
-- queue.lanes) for the queues of these schedules. A schedule that the code no longer declares is
-- moved to queue.withdrawn_schedules, and deleted a day later. If a rollback of the code declares a
-- withdrawn schedule again within a day, the schedule keeps the time of its next run.
create function queue.publish_schedules(p_type jsonb, p_source text)
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

-- Store a job type and its schedules. If the stored job type is from a newer deployment, change
-- nothing and return false.
create function queue.publish_type(p_type jsonb)
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
  -- Keep the stored job type if it is from a newer deployment. The type with the later deployment
  -- time is newer. If only the stored type has a deployment time, it counts as newer. If it has no
  -- deployment time, or if the two times are equal, the type with the higher schema_version is
  -- newer.
  if (
    select case
      when v_old.deployed_at is null then v.is_older
      else v_old.deployed_at > d.at or v_old.deployed_at = d.at and v.is_older
    end
    from coalesce((p_type ->> 'deployed_at')::timestamptz, '-infinity') as d (at)
    cross join lateral (
      select v_old.schema_version > coalesce((p_type ->> 'schema_version')::integer, 1)
    ) as v (is_older)
  ) then
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

create function public.register_job_types(p_types jsonb)
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
      union all -- known types of modules that the worker could not load, or that load again
      select jsonb_build_object('job_type', o.job_type, 'failure', coalesce(max(m.failure), ''))
      from jsonb_to_recordset(p_types)
        as m (job_type text, source text, module text, failure text)
      join queue.job_types as o
        on o.source ~ ('^' || m.module || '[:.]')
        or o.refusal is not null and split_part(o.source, ':', 1) = split_part(m.source, ':', 1)
      group by o.job_type
      having max(m.failure) <> '' or bool_and(m.job_type <> o.job_type)
    ) as t
    order by t.value ->> 'job_type', t.value ->> 'failure'
  loop
    perform queue.try_lock(
      'registration ' || (v_type ->> 'job_type'),
      p_waits => true
    );
    if v_type ? 'failure' then
      update queue.job_types
      set
        refusal = left(nullif(v_type ->> 'failure', ''), 1000),
        refused_at = case
          when v_type ->> 'failure' <> '' then coalesce(refused_at, queue.clock())
        end
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
        insert into queue.job_types as t (job_type, schema_version, refusal, refused_at)
        values (v_type ->> 'job_type', 0, left(sqlerrm, 1000), queue.clock())
        on conflict (job_type) do update set
          refusal = excluded.refusal,
          refused_at = coalesce(t.refused_at, excluded.refused_at);
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
