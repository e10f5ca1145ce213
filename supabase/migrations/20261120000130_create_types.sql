-- Job types: what each may do, published by the workers that run it, one by one; and the check of
-- payloads against their schemas, the same for all callers, SQL and browsers included.

-- The first way p_value breaks p_schema, as a sentence; null when it fits. The part of JSON Schema
-- 2020-12 that pydantic writes: type, enum, const, required, properties, additionalProperties,
-- items, lengths, ranges, pattern, format uuid and date-time, anyOf, oneOf (as anyOf), $ref.
create function queue.schema_error(p_schema jsonb, p_value jsonb, p_path text default '$',
  p_root jsonb default null)
returns text language plpgsql immutable as $$
declare
  v_root constant jsonb := coalesce(p_root, p_schema);
  v_wanted constant text := p_schema ->> 'type';
  v_type constant text := jsonb_typeof(p_value);
  v_text constant text := case when v_type in ('number', 'string') then p_value #>> '{}' end;
  v_size constant numeric := case v_type when 'number' then v_text::numeric when 'string'
    then char_length(v_text)
    when 'array' then jsonb_array_length(p_value) end;
  v_errors text[];
  v_error text;
  v_name text;
  v_part jsonb;
  v_field jsonb;
begin
  if p_schema ? '$ref' then
    return queue.schema_error(v_root #> string_to_array(ltrim(p_schema ->> '$ref', '#/'), '/'),
      p_value, p_path,
      v_root);
  elsif p_schema ?| array['anyOf', 'oneOf'] then
    v_errors := array(select queue.schema_error(o.value, p_value, p_path, v_root)
      from jsonb_array_elements(coalesce(p_schema -> 'anyOf', p_schema -> 'oneOf')) as o);
    return case when array_position(v_errors, null) is null then v_errors[1] end;
  end if;
  v_error := case
    when p_schema -> 'const' <> p_value then format('%s must be %s', p_path,
      coalesce(p_schema ->> 'const', 'null'))
    when not (p_schema -> 'enum') @> jsonb_build_array(p_value)
      then format('%s must be one of %s', p_path, p_schema ->> 'enum')
    when v_type <> v_wanted and not (v_type = 'number' and v_wanted = 'integer' and v_size % 1 = 0)
      then format('%s must be %s, not %s', p_path, v_wanted,
        case v_type when 'number' then left(v_text, 40) else v_type end)
    when v_text !~ (p_schema ->> 'pattern') then format('%s must match %s', p_path,
      p_schema ->> 'pattern')
    when p_schema ->> 'format' = 'uuid'
      and v_text !~* '^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$'
      then format('%s must be a UUID', p_path)
    when p_schema ->> 'format' = 'date-time'
        and v_text !~ '^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:?\d\d)$'
      then format('%s must be an ISO 8601 instant with an offset', p_path)
    else (
      select format('%s must ' || b.words, p_path, p_schema ->> b.name)
      from (values -- wrong: the signs of the difference that are refused
        ('number', 'minimum', '{-1}', 'be at least %s'), ('number', 'exclusiveMinimum', '{-1,0}',
          'be greater than %s'),
        ('number', 'maximum', '{1}', 'be at most %s'), ('number', 'exclusiveMaximum', '{0,1}',
          'be less than %s'),
        ('string', 'minLength', '{-1}', 'have at least %s characters'),
        ('string', 'maxLength', '{1}', 'have at most %s characters'),
        ('array', 'minItems', '{-1}', 'have at least %s items'), ('array', 'maxItems', '{1}',
          'have at most %s items'))
        as b (type, name, wrong, words)
      where b.type = v_type and sign(v_size - (p_schema ->> b.name)::numeric)
        = any (b.wrong::numeric[]) limit 1) end;
  if v_error is not null or v_type not in ('array', 'object') then
    return v_error;
  elsif v_type = 'object' then
    v_name := (select r from jsonb_array_elements_text(p_schema -> 'required') as r
      where not p_value ? r limit 1);
    if v_name is not null then return format('%s.%s is required', p_path, v_name); end if;
  end if;
  for v_name, v_part, v_field in select format('[%s]', e.n - 1), p_schema -> 'items', e.value
    from jsonb_array_elements(case v_type when 'array'
      then p_value end) with ordinality as e (value, n)
    union all
    select '.' || f.key, coalesce(p_schema -> 'properties' -> f.key,
      p_schema -> 'additionalProperties'), f.value
    from jsonb_each(case v_type when 'object' then p_value end) as f
  loop
    v_error := case when v_part = 'false' then format('%s%s is not a known field', p_path,
      left(v_name, 80))
      else queue.schema_error(v_part, v_field, p_path || v_name, v_root) end;
    exit when v_error is not null;
  end loop;
  return v_error;
end $$;

-- Refuse what some clients could not read. One job must not spoil an answer that carries others:
-- JSON parsers stop at about 200 levels, and overflow beyond 1.8e308.
create function queue.check_json(p_value jsonb, p_field text) returns void
language plpgsql stable as $$
declare
  v_text constant text := p_value::text;
  v_bytes_max constant integer := queue.setting('payload_max_bytes');
begin
  -- measured as text: 1e131000 is ten bytes inside and 131,001 for a reader
  if octet_length(v_text) > v_bytes_max then
    perform queue.refuse(413, 'payload_too_large',
      format('%s exceeds %s bytes; store it and pass a reference', p_field, v_bytes_max), p_field);
  elsif pg_column_size(p_value) > 800 and p_value @? 'strict $.**{101}' then
    perform queue.refuse(422, 'payload_invalid', p_field || ' is nested more than 100 levels deep',
      p_field);
  elsif octet_length(v_text) > 309 and v_text ~ '[0-9]{155}[0-9]{154}' and p_value @?
        'strict $.** ? (@.type() == "number" && (@ > 1.7976931348623157e308 || @ < -1.7976931348623157e308))' then
    perform queue.refuse(422, 'payload_invalid',
      p_field || ' holds a number that no double can hold', p_field);
  end if;
end $$;

-- Refuse a payload that its type does not allow. One of an older version is for the worker's
-- upcasters, and is not held to the schema of today. p_within comes before the field's name.
create function queue.check_payload(p_type queue.job_types, p_payload jsonb, p_version integer,
  p_within text)
returns void language plpgsql stable as $$
declare
  v_field constant text := p_within || 'payload';
  v_error text;
begin
  if jsonb_typeof(p_payload) is distinct from 'object' then
    perform queue.refuse(422, 'payload_invalid', v_field || ' must be an object', v_field);
  elsif p_version > p_type.schema_version and p_type.schema_version > 0 then
    perform queue.refuse(422, 'payload_invalid',
      format('schema_version %s is newer than any worker knows', p_version),
      p_within || 'schema_version');
  end if;
  perform queue.check_json(p_payload, v_field);
  if p_type.payload_schema is not null and coalesce(p_version, p_type.schema_version)
    = p_type.schema_version then
    v_error := queue.schema_error(p_type.payload_schema, p_payload, v_field);
    if v_error is not null then
      perform queue.refuse(422, 'payload_invalid', v_error, split_part(v_error, ' ', 1));
    end if;
  end if;
end $$;

-- A published type as a row. What its values may be, the constraints of queue.job_types say.
create function queue.read_type(p_type jsonb, p_old queue.job_types) returns queue.job_types
language plpgsql as $$
declare
  v_new queue.job_types;
begin
  v_new := jsonb_populate_record(null::queue.job_types, '{"queue": "default", "lease_seconds": 60,
    "timeout_seconds": 300, "max_attempts": 5,
    "schema_version": 1}' || p_type || jsonb_build_object(
    'backoff_first_seconds', coalesce(p_type #>> '{backoff,first_seconds}', '60'),
    'backoff_cap_seconds', coalesce(p_type #>> '{backoff,cap_seconds}', '3600'),
    'backoff_factor', coalesce(p_type #>> '{backoff,factor}', '2'),
    'rate_limit', p_type #> '{rate_limit,limit}',
    'rate_per_seconds', p_type #> '{rate_limit,per_seconds}',
    'rate_per_key', coalesce(p_type #>> '{rate_limit,per_key}', 'false'),
    -- null, which is refused, for another word
    'is_minimal', case coalesce(p_type ->> 'events', 'full')
      when 'full' then false when 'minimal' then true end,
    'in_order', coalesce(p_old.in_order, false), 'registered_at', queue.clock(),
    -- a worker may make a type internal, and may not undo that, unless keys were revoked since
    'internal', p_type -> 'internal' = 'true' is true or p_old.internal is true
      and p_old.registered_at > '-infinity' and auth.jwt() ->> 'role' = 'job_worker' is true));
  v_new.lane := queue.lane_of(v_new.job_type, v_new.queue, p_declares => true);
  return v_new;
end $$;

-- The schedules that the code of a type declares, and the queues they name: new and changed ones
-- apply at once, missing ones go.
create function queue.declare_schedules(p_type queue.job_types, p_schedules jsonb) returns void
language plpgsql as $$
begin
  delete from queue.schedules as s
  where s.job_type = p_type.job_type and s.source is not null and not exists (
    select from jsonb_array_elements(p_schedules) as d where s.name = 'code:' || (d ->> 'name'));
  perform queue.lane_of(p_type.job_type, d #>> '{options,queue}', p_declares => true)
  from jsonb_array_elements(p_schedules) as d where d #>> '{options,queue}' is not null;
  perform queue.save_schedule(queue.system_workspace(), d || jsonb_build_object(
    'name', 'code:' || (d ->> 'name'), 'job_type', p_type.job_type),
    coalesce(p_type.source, p_type.job_type), queue.clock())
  from jsonb_array_elements(p_schedules) as d;
end $$;

create function public.register_job_types(p_types jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  v_type jsonb;
  v_old queue.job_types;
  v_new queue.job_types;
  v_count integer := 0;
  v_refused jsonb := '[]';
  v_code text;
  v_field text;
begin
  for v_type in -- in one order, since each is locked
    select (
      select jsonb_object_agg(f.key, f.value) from jsonb_each(t.value) as f where f.value <> 'null')
    from jsonb_array_elements(p_types) as t order by t.value ->> 'job_type'
  loop
    perform queue.wait_lock('registration ' || (v_type ->> 'job_type')); -- see its row
    begin
      perform queue.check_names(v_type, '{job_type, queue, max_concurrency, workspace_concurrency,
        key_concurrency, rate_limit, lease_seconds, timeout_seconds, max_attempts, backoff,
        payload_schema, schema_version, events, internal, source, description, schedules}',
        'the job type');
      select * into v_old from queue.job_types as t
      where t.job_type = v_type ->> 'job_type' for update;
      -- a newer version of it is known, which an older worker does not undo
      continue when v_old.schema_version > coalesce((v_type ->> 'schema_version')::integer, 1);
      v_new := queue.read_type(v_type, v_old);
      delete from queue.job_types where job_type = v_new.job_type;
      -- a migration may add it now
      insert into queue.job_types select v_new.* on conflict (job_type) do nothing;
      perform queue.declare_schedules(v_new, v_type -> 'schedules') where v_type ? 'schedules';
      -- changed limits hold for its jobs that run and wait already
      if (v_old.key_concurrency, v_old.rate_limit, v_old.rate_per_seconds, v_old.rate_per_key)
          is distinct from
          (v_new.key_concurrency, v_new.rate_limit, v_new.rate_per_seconds, v_new.rate_per_key) then
        perform queue.regate(v_new.job_type);
      end if;
      v_count := v_count + 1;
    exception -- one that is refused stops no other
      when data_exception or integrity_constraint_violation or sqlstate 'PT400'
        or sqlstate 'PT404' or sqlstate 'PT409' or sqlstate 'PT422' then
      get stacked diagnostics v_code = pg_exception_hint, v_field = pg_exception_detail;
      v_refused := v_refused || jsonb_build_object('job_type', left(v_type ->> 'job_type', 100),
        'message', left(sqlerrm, 1000),
        'code', case when sqlstate like 'PT%' then v_code else 'invalid_argument' end,
        'field', case when sqlstate like 'PT%' then v_field end);
      if char_length(v_type ->> 'job_type') between 1 and 100
          and v_type ->> 'job_type' !~ '[[:cntrl:]]' then
        -- version 0: it is not published before a registration that is not refused
        insert into queue.job_types as t (job_type, schema_version, refusal)
        values (v_type ->> 'job_type', 0, left(sqlerrm, 1000))
        on conflict (job_type) do update set refusal = excluded.refusal;
      end if;
    end;
  end loop;
  return jsonb_build_object('registered', v_count, 'refused', v_refused);
end $$;
comment on function public.register_job_types is
  E'Publish job types: {registered, refused: [{job_type, code, message, field}]}.\n\nA type that '
  'is refused keeps '
  'the policy it had and shows why.';
select queue.allow('job_worker, service_role', 'public.register_job_types');
