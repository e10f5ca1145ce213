-- Job types: what each may do, published by the workers that run it, one by one; and the check of payloads against
-- their schemas, the same for all callers, SQL and browsers included.

-- The first way p_value breaks p_schema, as a sentence; null when it fits. The part of JSON Schema 2020-12 that
-- pydantic writes: type, enum, const, required, properties, additionalProperties, items, lengths, ranges, pattern,
-- format uuid and date-time, anyOf, oneOf (as anyOf), allOf, $ref.
create function queue.schema_error(p_schema jsonb, p_value jsonb, p_path text default '$', p_root jsonb default null)
returns text
language plpgsql immutable as $$
declare
  v_root constant jsonb := coalesce(p_root, p_schema);
  v_type constant text := jsonb_typeof(p_value);
  v_others constant jsonb := p_schema -> 'additionalProperties';
  v_wanted text[];
  v_name text;
  v_field jsonb;
  v_n integer;
  v_error text;
begin
  if p_schema in ('true', '{}') then
    return null;
  elsif p_schema = 'false' then
    return format('%s is not allowed', p_path);
  elsif p_schema ? '$ref' then
    return queue.schema_error(coalesce(v_root #> string_to_array(ltrim(p_schema ->> '$ref', '#/'), '/'), 'true'),
      p_value, p_path, v_root);
  elsif p_schema ?| array['anyOf', 'oneOf', 'allOf'] then
    v_error := queue.schema_parts_error(p_schema, p_value, p_path, v_root);
    if v_error is not null then
      return v_error;
    end if;
  end if;

  if p_schema ? 'const' and p_schema -> 'const' <> p_value then
    return format('%s must be %s', p_path, coalesce(p_schema ->> 'const', 'null'));
  elsif p_schema ? 'enum' and not (p_schema -> 'enum') @> jsonb_build_array(p_value) then
    return format('%s must be one of %s', p_path, p_schema ->> 'enum');
  elsif p_schema ? 'type' then
    v_wanted := case jsonb_typeof(p_schema -> 'type')
      when 'array' then array(select jsonb_array_elements_text(p_schema -> 'type'))
      else array[p_schema ->> 'type'] end;
    if not (v_type = any (v_wanted)
        or v_type = 'number' and 'integer' = any (v_wanted) and (p_value #>> '{}')::numeric % 1 = 0) then
      return format('%s must be %s, not %s', p_path, array_to_string(v_wanted, ' or '),
        case v_type when 'number' then left(p_value::text, 40) else v_type end);
    end if;
  end if;

  if v_type = 'array' then
    if jsonb_array_length(p_value) < (p_schema ->> 'minItems')::numeric then
      return format('%s must have at least %s items', p_path, p_schema ->> 'minItems');
    elsif jsonb_array_length(p_value) > (p_schema ->> 'maxItems')::numeric then
      return format('%s must have at most %s items', p_path, p_schema ->> 'maxItems');
    elsif p_schema ? 'items' then
      for v_field, v_n in select value, ordinality from jsonb_array_elements(p_value) with ordinality loop
        v_error := queue.schema_error(p_schema -> 'items', v_field, format('%s[%s]', p_path, v_n - 1), v_root);
        exit when v_error is not null;
      end loop;
    end if;
    return v_error;
  elsif v_type <> 'object' then
    return queue.schema_scalar_error(p_schema, v_type, p_value #>> '{}', p_path);
  end if;
  for v_name in select * from jsonb_array_elements_text(p_schema -> 'required') loop
    if not p_value ? v_name then
      return format('%s.%s is required', p_path, v_name);
    end if;
  end loop;
  for v_name, v_field in select * from jsonb_each(p_value) loop
    if p_schema -> 'properties' ? v_name then
      v_error := queue.schema_error(p_schema -> 'properties' -> v_name, v_field, p_path || '.' || v_name, v_root);
    elsif v_others = 'false' then
      v_error := format('%s.%s is not a known field', p_path, left(v_name, 80));
    elsif jsonb_typeof(v_others) = 'object' then
      v_error := queue.schema_error(v_others, v_field, p_path || '.' || v_name, v_root);
    end if;
    exit when v_error is not null;
  end loop;
  return v_error;
end;
$$;

create function queue.schema_parts_error(p_schema jsonb, p_value jsonb, p_path text, p_root jsonb) returns text
language plpgsql immutable as $$
declare
  v_part jsonb;
  v_text text;
  v_error text;
begin
  for v_part in select * from jsonb_array_elements(coalesce(p_schema -> 'anyOf', p_schema -> 'oneOf')) loop
    v_text := queue.schema_error(v_part, p_value, p_path, p_root);
    if v_text is null then
      v_error := null;
      exit;
    end if;
    v_error := coalesce(v_error, v_text);
  end loop;
  if v_error is not null then
    return v_error;
  end if;
  for v_part in select * from jsonb_array_elements(p_schema -> 'allOf') loop
    v_error := queue.schema_error(v_part, p_value, p_path, p_root);
    exit when v_error is not null;
  end loop;
  return v_error;
end;
$$;

create function queue.schema_scalar_error(p_schema jsonb, p_type text, p_text text, p_path text) returns text
language plpgsql immutable as $$
declare
  v_number constant numeric := case p_type when 'number' then p_text end;
begin
  return case
    when v_number < (p_schema ->> 'minimum')::numeric
      then format('%s must be at least %s', p_path, p_schema ->> 'minimum')
    when v_number > (p_schema ->> 'maximum')::numeric
      then format('%s must be at most %s', p_path, p_schema ->> 'maximum')
    when v_number <= (p_schema ->> 'exclusiveMinimum')::numeric
      then format('%s must be greater than %s', p_path, p_schema ->> 'exclusiveMinimum')
    when v_number >= (p_schema ->> 'exclusiveMaximum')::numeric
      then format('%s must be less than %s', p_path, p_schema ->> 'exclusiveMaximum')
    when p_type <> 'string' then null
    when char_length(p_text) < (p_schema ->> 'minLength')::numeric
      then format('%s must have at least %s characters', p_path, p_schema ->> 'minLength')
    when char_length(p_text) > (p_schema ->> 'maxLength')::numeric
      then format('%s must have at most %s characters', p_path, p_schema ->> 'maxLength')
    when p_schema ? 'pattern' and p_text !~ (p_schema ->> 'pattern')
      then format('%s must match %s', p_path, p_schema ->> 'pattern')
    when p_schema ->> 'format' = 'uuid' and p_text !~* '^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$'
      then format('%s must be a UUID', p_path)
    when p_schema ->> 'format' = 'date-time'
        and p_text !~ '^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:?\d\d)$'
      then format('%s must be an ISO 8601 instant with an offset', p_path) end;
end;
$$;

-- Why some clients could not read p_value, {status, hint, message, field}; null when nothing does. One job must not
-- spoil an answer that carries others: JSON parsers stop at about 200 levels, and overflow beyond 1.8e308.
create function queue.json_problem(p_value jsonb, p_field text, p_max_bytes integer) returns text[]
language plpgsql immutable as $$
declare
  v_text constant text := p_value::text;
begin
  -- measured as text: 1e131000 is ten bytes inside and 131,001 for a reader
  if octet_length(v_text) > p_max_bytes then
    return array['413', 'payload_too_large',
      format('%s exceeds %s bytes; store it and pass a reference', p_field, p_max_bytes), p_field];
  elsif pg_column_size(p_value) > 800 and p_value @? 'strict $.**{101}' then
    return array['422', 'payload_invalid', p_field || ' is nested more than 100 levels deep', p_field];
  elsif octet_length(v_text) > 309 and v_text ~ '[0-9]{155}[0-9]{154}'
      and p_value @?
        'strict $.** ? (@.type() == "number" && (@ > 1.7976931348623157e308 || @ < -1.7976931348623157e308))' then
    return array['422', 'payload_invalid', p_field || ' holds a number that no double can hold', p_field];
  end if;
  return null;
end;
$$;

-- Refuse with what json_problem and its like return; p_within comes before the field.
create function queue.refuse_problem(p_problem text[], p_within text default '') returns void
language plpgsql as $$
begin
  perform queue.refuse(p_problem[1]::integer, p_problem[2], p_problem[3], p_within || p_problem[4]);
end;
$$;

-- What is wrong with a payload: {status, hint, message, field}; null when nothing is. One of an older version is for
-- the worker's upcasters, and is not held to the schema of today.
create function queue.payload_problem(p_type queue.job_types, p_payload jsonb, p_version integer) returns text[]
language plpgsql stable as $$
declare
  v_problem text[];
begin
  if jsonb_typeof(p_payload) is distinct from 'object' then
    return array['422', 'payload_invalid', 'payload must be an object', 'payload'];
  elsif p_version > p_type.schema_version then
    return array['422', 'payload_invalid', format('schema_version %s is newer than any worker knows', p_version),
      'schema_version'];
  end if;
  v_problem := queue.json_problem(p_payload, 'payload', (queue.setting('payload_max_bytes'))::integer);
  if v_problem is null and p_type.payload_schema is not null and coalesce(p_version, p_type.schema_version)
      = p_type.schema_version then
    v_problem := (select array['422', 'payload_invalid', e, split_part(e, ' ', 1)]
      from queue.schema_error(p_type.payload_schema, p_payload, 'payload') as e where e is not null);
  end if;
  return v_problem;
end;
$$;

-- Why a worker may not publish a type as it says: {status, hint, message, field}; null when it may.
create function queue.type_problem(p_type jsonb, p_known queue.job_types) returns text[]
language plpgsql stable as $$
declare
  -- what a worker may publish of a type; other fields are refused, so that a typo is not ignored
  c_schema constant jsonb := $json${"type": "object", "additionalProperties": false, "required": ["job_type"],
    "properties": {
    "job_type": {"type": "string", "minLength": 1, "maxLength": 100},
    "queue": {"type": "string", "minLength": 1, "maxLength": 100},
    "max_concurrency": {"type": "integer", "minimum": 1, "maximum": 2147483647},
    "workspace_concurrency": {"type": "integer", "minimum": 1, "maximum": 2147483647},
    "key_concurrency": {"type": "integer", "minimum": 1, "maximum": 2147483647},
    "rate_limit": {"type": "object", "additionalProperties": false, "required": ["limit", "per_seconds"],
      "properties": {
      "limit": {"type": "integer", "minimum": 1, "maximum": 2147483647},
      "per_seconds": {"type": "number", "exclusiveMinimum": 0, "maximum": 31536000},
      "per_key": {"type": ["boolean", "null"]}}},
    "lease_seconds": {"type": "integer", "minimum": 1, "maximum": 43200},
    "timeout_seconds": {"type": "integer", "minimum": 1, "maximum": 43200},
    "max_attempts": {"type": "integer", "minimum": 1, "maximum": 50},
    "backoff": {"type": "object", "additionalProperties": false, "properties": {
      "first_seconds": {"type": ["number", "null"], "minimum": 0, "maximum": 86400},
      "cap_seconds": {"type": ["number", "null"], "minimum": 0, "maximum": 604800},
      "factor": {"type": ["number", "null"], "minimum": 1, "maximum": 10}}},
    "payload_schema": {"type": ["object", "boolean"]},
    "schema_version": {"type": "integer", "minimum": 1, "maximum": 2147483647},
    "events": {"enum": ["full", "minimal"]},
    "internal": {"type": "boolean"},
    "source": {"type": "string"},
    "description": {"type": "string"},
    "schedules": {"type": "array", "items": {"type": "object", "additionalProperties": false,
      "required": ["name", "cron"], "properties": {
      "name": {"type": "string", "minLength": 1, "maxLength": 190},
      "cron": {"type": "string"}, "timezone": {"type": ["string", "null"]},
      "scope": {"enum": ["system", "each", null]},
      "payload": {"type": ["object", "null"]}, "options": {"type": ["object", "null"]},
      "missed": {"enum": ["skip", "once", "all", null]}}}}}}$json$;
  c_types constant integer := 2000; -- that workers may publish
  c_steps constant integer := 10; -- far ahead of the known version a stolen key would shut out the real workers
  v_error constant text := ltrim(queue.schema_error(c_schema, p_type, ''), '. ');
begin
  return case
    when v_error is not null then array['400', 'invalid_argument',
      format('job type %s: %s', left(p_type ->> 'job_type', 100), v_error), split_part(v_error, ' ', 1)]
    when concat(p_type ->> 'job_type', p_type ->> 'queue') ~ '[[:cntrl:]]' then array['400', 'invalid_argument',
      'job_type and queue must not contain control characters', 'job_type']
    when not queue.is_worker() then null -- the operator may
    when (p_type ->> 'schema_version')::integer > p_known.schema_version + c_steps and p_known.schema_version > 0
      then array['409', 'invalid_state', format('schema_version of %s may rise by %s at once, from %s to %s at most; '
        'the operator may set it', p_known.job_type, c_steps, p_known.schema_version, p_known.schema_version + c_steps),
        'schema_version']
    when p_known.job_type is null and (select count(*) from queue.job_types) >= c_types
      then array['429', 'quota_exceeded', format('there are at most %s job types', c_types), 'job_types'] end;
end;
$$;

-- Whether a worker's key calls, and not the operator's.
create function queue.is_worker() returns boolean
language plpgsql stable as $$
begin
  return coalesce(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role', '') = 'job_worker';
end;
$$;

-- Publish one type, or refuse it; false where a newer version of it is known, which an older worker does not undo.
create function queue.register_type(p_type jsonb, p_now timestamptz) returns boolean
language plpgsql as $$
declare
  c_usual constant jsonb := '{"queue": "default", "lease_seconds": 60, "timeout_seconds": 300, "max_attempts": 5,
    "backoff_first_seconds": 60, "backoff_cap_seconds": 3600, "backoff_factor": 2, "rate_per_key": false,
    "schema_version": 1}';
  v_type constant jsonb := case jsonb_typeof(p_type) when 'object' then (
    select jsonb_object_agg(f.key, f.value) from jsonb_each(p_type) as f where f.value <> 'null') else p_type end;
  v_old queue.job_types;
  v_new queue.job_types;
  v_problem text[];
begin
  select * into v_old from queue.job_types as t where t.job_type = v_type ->> 'job_type' for update;
  v_problem := queue.type_problem(v_type, v_old);
  if v_problem is not null then
    perform queue.refuse_problem(v_problem);
  elsif v_old.schema_version > coalesce((v_type ->> 'schema_version')::integer, 1) then
    return false;
  end if;
  v_new := jsonb_populate_record(null::queue.job_types, c_usual || v_type || jsonb_strip_nulls(jsonb_build_object(
    'backoff_first_seconds', v_type #> '{backoff,first_seconds}',
    'backoff_cap_seconds', v_type #> '{backoff,cap_seconds}', 'backoff_factor', v_type #> '{backoff,factor}',
    'rate_limit', coalesce(v_type #> '{rate_limit,limit}', 'null'),
    'rate_per_seconds', v_type #> '{rate_limit,per_seconds}', 'rate_per_key', v_type #> '{rate_limit,per_key}',
    'is_minimal', coalesce(v_type ->> 'events' = 'minimal', false), 'source', left(v_type ->> 'source', 500),
    'description', left(v_type ->> 'description', 2000), 'schedules', v_old.schedules,
    'in_order', coalesce(v_old.in_order, false), 'registered_at', p_now,
    -- a worker may make a type internal, and may not undo that
    'internal', case when v_type -> 'internal' = 'true' or queue.is_worker() or not v_type ? 'internal'
      then coalesce(v_type -> 'internal' = 'true' or v_old.internal, false) else false end)));
  delete from queue.job_types where job_type = v_new.job_type;
  insert into queue.job_types select v_new.* on conflict (job_type) do nothing; -- published by another at this moment
  insert into queue.lanes (queue, job_type) values (v_new.queue, v_new.job_type) on conflict do nothing;
  if v_type ? 'schedules' then -- new and changed ones apply at once, missing ones go
    perform queue.first_run(s ->> 'cron', coalesce(s ->> 'timezone', 'UTC'), p_now)
    from jsonb_array_elements(v_type -> 'schedules') as s;
    update queue.job_types set schedules = nullif(v_type -> 'schedules', '[]') where job_type = v_new.job_type;
    perform queue.spread_schedules(v_new.job_type, null, p_now);
  end if;
  -- changed limits hold for its jobs that run and wait already
  if (v_old.max_concurrency, v_old.workspace_concurrency, v_old.rate_limit, v_old.rate_per_seconds)
      is distinct from (v_new.max_concurrency, v_new.workspace_concurrency, v_new.rate_limit, v_new.rate_per_seconds)
  then
    perform queue.bring_back(null, v_new.job_type);
  end if;
  if (v_old.key_concurrency, v_old.rate_limit, v_old.rate_per_seconds, v_old.rate_per_key)
      is distinct from (v_new.key_concurrency, v_new.rate_limit, v_new.rate_per_seconds, v_new.rate_per_key) then
    perform queue.regate(v_new.job_type);
  end if;
  return true;
end;
$$;

create function public.register_job_types(p_types jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  v_now constant timestamptz := queue.clock();
  v_type record;
  v_count integer := 0;
  v_refused jsonb := '[]';
  v_code text;
  v_field text;
begin
  if jsonb_typeof(p_types) is distinct from 'array' then
    perform queue.refuse(400, 'invalid_argument', 'p_types must be an array of job types', 'p_types');
  end if;
  for v_type in -- in one order, since each is locked
    select t.value, t.value ->> 'job_type' as name from jsonb_array_elements(p_types) as t order by 2
  loop
    begin
      v_count := v_count + queue.register_type(v_type.value, v_now)::integer;
    exception -- one that is refused stops no other
      when data_exception or integrity_constraint_violation or sqlstate 'PT400' or sqlstate 'PT404' or sqlstate 'PT409'
          or sqlstate 'PT422' or sqlstate 'PT429' then
        get stacked diagnostics v_code = pg_exception_hint, v_field = pg_exception_detail;
        v_refused := v_refused || jsonb_build_object('job_type', left(v_type.name, 100),
          'code', case when sqlstate like 'PT%' then v_code else 'invalid_argument' end, 'message', left(sqlerrm, 1000),
          'field', case when sqlstate like 'PT%' then v_field end);
        if char_length(v_type.name) <= 100 and v_type.name !~ '[[:cntrl:]]' and sqlstate <> 'PT429' then
          -- version 0: no job of it is accepted before a registration that is not refused
          insert into queue.job_types as t (job_type, schema_version, refusal)
          values (v_type.name, 0, left(sqlerrm, 1000)) on conflict (job_type) do update set refusal = excluded.refusal;
        end if;
    end;
  end loop;
  return jsonb_build_object('registered', v_count, 'refused', v_refused);
end;
$$;
comment on function public.register_job_types is
  E'Publish job types: {registered, refused: [{job_type, code, message, field}]}.\n\nA type that is refused keeps '
  'the policy it had and shows why.';
select queue.allow('job_worker, service_role', 'public.register_job_types');
