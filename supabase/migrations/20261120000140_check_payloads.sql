-- Payload schemas: the same rules for all callers, SQL and browsers included.

create function queue.schema_error(p_schema jsonb, p_value jsonb, p_path text default '$', p_root jsonb default null)
returns text
language plpgsql immutable set search_path = '' as $$
declare
  v_root jsonb := coalesce(p_root, p_schema);
  v_type text := jsonb_typeof(p_value);
  v_want text;
  v_name text;
  v_error text;
  v_sub jsonb;
begin
  if p_schema = 'true'::jsonb or p_schema = '{}'::jsonb then
    return null;
  elsif p_schema = 'false'::jsonb then
    return format('%s is not allowed', p_path);
  elsif p_schema ? '$ref' then
    v_sub := v_root #> string_to_array(ltrim(p_schema ->> '$ref', '#/'), '/');
    return queue.schema_error(coalesce(v_sub, 'true'), p_value, p_path, v_root);
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
    if jsonb_typeof(p_schema -> 'type') = 'array' then
      v_want := (select string_agg(value, '|') from jsonb_array_elements_text(p_schema -> 'type'));
    else
      v_want := p_schema ->> 'type';
    end if;
    if not (v_type = any (string_to_array(v_want, '|'))
        or v_type = 'number' and 'integer' = any (string_to_array(v_want, '|'))
          and (p_value #>> '{}')::numeric % 1 = 0) then
      return format('%s must be %s, not %s', p_path, replace(v_want, '|', ' or '),
        case v_type when 'number' then left(p_value::text, 40) else v_type end);
    end if;
  end if;

  if v_type = 'object' then
    for v_name in select * from jsonb_array_elements_text(p_schema -> 'required') loop
      if not p_value ? v_name then
        return format('%s.%s is required', p_path, v_name);
      end if;
    end loop;
    for v_name, v_sub in select * from jsonb_each(p_value) loop
      if (p_schema -> 'properties') ? v_name then
        v_error := queue.schema_error(p_schema -> 'properties' -> v_name, v_sub, p_path || '.' || v_name, v_root);
      elsif p_schema -> 'additionalProperties' = 'false'::jsonb then
        v_error := format('%s.%s is not a known field', p_path, left(v_name, 80));
      elsif jsonb_typeof(p_schema -> 'additionalProperties') = 'object' then
        v_error := queue.schema_error(p_schema -> 'additionalProperties', v_sub, p_path || '.' || v_name, v_root);
      end if;
      if v_error is not null then
        return v_error;
      end if;
    end loop;
  elsif v_type = 'array' then
    return queue.schema_items_error(p_schema, p_value, p_path, v_root);
  elsif v_type = 'string' and p_schema ?| array['minLength', 'maxLength', 'pattern', 'format'] then
    return queue.schema_text_error(p_schema, p_value #>> '{}', p_path);
  elsif v_type = 'number' then
    return queue.schema_number_error(p_schema, (p_value #>> '{}')::numeric, p_path);
  end if;
  return null;
end;
$$;
comment on function queue.schema_error is E'The first way p_value breaks p_schema, as a sentence; null when it fits.\n\nSupports the part of JSON Schema 2020-12 that pydantic generates: type, enum, const, required, properties, additionalProperties, items, lengths, ranges, pattern, format uuid and date-time, anyOf, oneOf (as anyOf), allOf, $ref.';

create function queue.schema_parts_error(p_schema jsonb, p_value jsonb, p_path text, p_root jsonb) returns text
language plpgsql immutable set search_path = '' as $$
declare
  v_sub jsonb;
  v_text text;
  v_error text;
begin
  for v_sub in select * from jsonb_array_elements(coalesce(p_schema -> 'anyOf', p_schema -> 'oneOf')) loop
    v_text := queue.schema_error(v_sub, p_value, p_path, p_root);
    if v_text is null then
      v_error := null;
      exit;
    end if;
    v_error := coalesce(v_error, v_text);
  end loop;
  if v_error is not null then
    return v_error;
  end if;
  for v_sub in select * from jsonb_array_elements(p_schema -> 'allOf') loop
    v_error := queue.schema_error(v_sub, p_value, p_path, p_root);
    if v_error is not null then
      return v_error;
    end if;
  end loop;
  return null;
end;
$$;
comment on function queue.schema_parts_error is 'queue.schema_error for anyOf, oneOf and allOf of a schema.';

create function queue.schema_items_error(p_schema jsonb, p_value jsonb, p_path text, p_root jsonb) returns text
language plpgsql immutable set search_path = '' as $$
declare
  v_length constant integer := jsonb_array_length(p_value);
  v_sub jsonb;
  v_index integer;
  v_error text;
begin
  if v_length < (p_schema ->> 'minItems')::numeric then
    return format('%s must have at least %s items', p_path, p_schema ->> 'minItems');
  elsif v_length > (p_schema ->> 'maxItems')::numeric then
    return format('%s must have at most %s items', p_path, p_schema ->> 'maxItems');
  elsif p_schema ? 'items' then
    for v_sub, v_index in select value, ordinality from jsonb_array_elements(p_value) with ordinality loop
      v_error := queue.schema_error(p_schema -> 'items', v_sub, format('%s[%s]', p_path, v_index - 1), p_root);
      if v_error is not null then
        return v_error;
      end if;
    end loop;
  end if;
  return null;
end;
$$;
comment on function queue.schema_items_error is 'queue.schema_error for the length and the items of an array.';

create function queue.schema_text_error(p_schema jsonb, p_value text, p_path text) returns text
language plpgsql immutable set search_path = '' as $$
begin
  if char_length(p_value) < (p_schema ->> 'minLength')::numeric then
    return format('%s must have at least %s characters', p_path, p_schema ->> 'minLength');
  elsif char_length(p_value) > (p_schema ->> 'maxLength')::numeric then
    return format('%s must have at most %s characters', p_path, p_schema ->> 'maxLength');
  elsif p_schema ? 'pattern' and p_value !~ (p_schema ->> 'pattern') then
    return format('%s must match %s', p_path, p_schema ->> 'pattern');
  elsif p_schema ->> 'format' = 'uuid' and p_value !~* '^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$' then
    return format('%s must be a UUID', p_path);
  elsif p_schema ->> 'format' = 'date-time'
      and p_value !~ '^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:?\d\d)$' then
    return format('%s must be an ISO 8601 instant with an offset', p_path);
  end if;
  return null;
end;
$$;
comment on function queue.schema_text_error is 'queue.schema_error for the length, pattern and format of a string.';

create function queue.schema_number_error(p_schema jsonb, p_value numeric, p_path text) returns text
language plpgsql immutable set search_path = '' as $$
begin
  if p_value < (p_schema ->> 'minimum')::numeric then
    return format('%s must be at least %s', p_path, p_schema ->> 'minimum');
  elsif p_value > (p_schema ->> 'maximum')::numeric then
    return format('%s must be at most %s', p_path, p_schema ->> 'maximum');
  elsif p_value <= (p_schema ->> 'exclusiveMinimum')::numeric then
    return format('%s must be greater than %s', p_path, p_schema ->> 'exclusiveMinimum');
  elsif p_value >= (p_schema ->> 'exclusiveMaximum')::numeric then
    return format('%s must be less than %s', p_path, p_schema ->> 'exclusiveMaximum');
  end if;
  return null;
end;
$$;
comment on function queue.schema_number_error is 'queue.schema_error for the range of a number.';

create function queue.json_problem(p_value jsonb, p_field text, p_max_bytes integer) returns text[]
language plpgsql immutable set search_path = '' as $$
declare
  v_text text := p_value::text;
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
comment on function queue.json_problem is E'Why some clients could not read p_value: {status, hint, message, field}; null when nothing does.\n\nAt most p_max_bytes as text, 100 levels, and numbers within IEEE 754 doubles: JSON parsers stop at about 200 levels and overflow beyond 1.8e308, and one job must not spoil an answer that carries others.';

-- What may be given and what each means, one row a field: the functions check against it, and models, types and
-- pages are generated from it (infra/release/fields.py).
create table queue.fields (
  of text not null, -- what the field belongs to: job_type
  name text not null, -- its name
  schema jsonb not null, -- JSON Schema of its value; null may be given for all but required ones
  description text not null, -- what it means, as documents say it
  required boolean not null default false, -- whether it must be given
  place integer generated always as identity, -- its place in documents
  primary key (of, name)
);
comment on table queue.fields is 'The fields of what callers send: name, form and meaning, one row each.';

insert into queue.fields (of, name, schema, description, required) values
  ('job_type', 'job_type', '{"type": "string", "minLength": 1, "maxLength": 100}', 'Its name.', true);
insert into queue.fields (of, name, schema, description) values
  ('job_type', 'queue', '{"type": "string", "minLength": 1, "maxLength": 100}',
    'The queue of its jobs unless they name one.'),
  ('job_type', 'max_concurrency', '{"type": "integer", "minimum": 1, "maximum": 2147483647}',
    'Most jobs of the type running at once; none by default.'),
  ('job_type', 'workspace_concurrency', '{"type": "integer", "minimum": 1, "maximum": 2147483647}',
    'The same, per workspace.'),
  ('job_type', 'key_concurrency', '{"type": "integer", "minimum": 1, "maximum": 2147483647}',
    'The same, per workspace and concurrency key.'),
  ('job_type', 'lease_seconds', '{"type": "integer", "minimum": 1, "maximum": 43200}',
    'How long a lease lasts unless renewed; 60 by default.'),
  ('job_type', 'timeout_seconds', '{"type": "integer", "minimum": 1, "maximum": 43200}',
    'Longest run of one attempt; 300 by default.'),
  ('job_type', 'max_attempts', '{"type": "integer", "minimum": 1, "maximum": 50}',
    'Attempts before a job is failed; 5 by default.'),
  ('job_type', 'backoff', '{"type": "object", "additionalProperties": false, "properties": {
      "first_seconds": {"type": ["number", "null"], "minimum": 0, "maximum": 86400},
      "cap_seconds": {"type": ["number", "null"], "minimum": 0, "maximum": 604800},
      "factor": {"type": ["number", "null"], "minimum": 1, "maximum": 10}}}',
    'The wait before a retry: first_seconds (60), then times factor (2) each, up to cap_seconds (3600).'),
  ('job_type', 'rate_limit', '{"type": "object", "additionalProperties": false, "required": ["limit", "per_seconds"],
      "properties": {
      "limit": {"type": "integer", "minimum": 1, "maximum": 2147483647},
      "per_seconds": {"type": "number", "exclusiveMinimum": 0, "maximum": 31536000},
      "per_key": {"type": ["boolean", "null"]}}}',
    'At most limit starts in per_seconds, for the type or (per_key) per workspace and concurrency key.'),
  ('job_type', 'payload_schema', '{"type": ["object", "boolean"]}', 'JSON Schema of payloads.'),
  ('job_type', 'schema_version', '{"type": "integer", "minimum": 1, "maximum": 2147483647}',
    'Its version; an older one never replaces a newer one.'),
  ('job_type', 'events', '{"enum": ["full", "minimal", null]}',
    'minimal: no event for creation and lease.'),
  ('job_type', 'live', '{"enum": ["full", "states", "off", null]}',
    'What is sent to Realtime; states: nothing on the job''s own topic.'),
  ('job_type', 'ageing_seconds', '{"type": "integer", "minimum": 1, "maximum": 2147483647}',
    'A ready job gains one step of priority each time this many seconds pass; never by default.'),
  ('job_type', 'internal', '{"type": "boolean"}', 'Only the platform enqueues it.'),
  ('job_type', 'tagged_by', '{"type": "array", "items": {"type": "string"}}',
    'Payload fields whose values become tags, as name:value.'),
  ('job_type', 'source', '{"type": "string"}', 'Where its processor is: module:function.'),
  ('job_type', 'description', '{"type": "string"}', 'What it does.'),
  ('job_type', 'schedules', '{"type": "array", "items": {"type": "object", "additionalProperties": false,
      "required": ["name", "cron"], "properties": {
      "name": {"type": "string", "minLength": 1, "maxLength": 190},
      "cron": {"type": "string"}, "timezone": {"type": ["string", "null"]},
      "scope": {"enum": ["system", "each", "workspace", null]},
      "workspace_id": {"type": ["string", "null"], "format": "uuid"},
      "payload": {"type": ["object", "null"]}, "options": {"type": ["object", "null"]},
      "missed": {"enum": ["skip", "once", "all", null]}}}}',
    'Schedules declared in code; [] stops those declared before.');

create function queue.schema_of(p_of text) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object('type', 'object', 'additionalProperties', false,
    'required', jsonb_agg(name) filter (where required),
    'properties', jsonb_object_agg(name, case when required or not schema ? 'type' then schema
      else schema || jsonb_build_object('type', schema -> 'type' || '["null"]') end))
  from queue.fields where of = p_of
$$;
comment on function queue.schema_of is 'JSON Schema of what has these fields; others are refused, so that a typo is not ignored.';

create function queue.may_redefine(p_known queue.job_types) returns boolean
language sql stable set search_path = ''
as $$ select p_known.redefinable or not queue.is_worker() $$;
comment on function queue.may_redefine is E'Whether the next registration of a type may change anything.\n\nThe operator may, and workers once after a key was rotated (revoke_worker_keys).';

create function queue.redefinition_problem(p_types jsonb) returns text[]
language plpgsql stable set search_path = '' as $$
declare
  v_types_max constant integer := 2000;
  v_step_max constant integer := 10;
  v_bad record;
begin
  select t.value ->> 'job_type' as job_type, t.value ->> 'schema_version' as version,
    k.schema_version as known into v_bad
  from jsonb_array_elements(p_types) as t
  left join queue.job_types as k on k.job_type = t.value ->> 'job_type'
  -- far ahead of the known version it would shut out the registrations of the real workers
  where (t.value ->> 'schema_version')::numeric > k.schema_version + v_step_max and not queue.may_redefine(k)
  limit 1;
  if found then
    return array['409', 'invalid_state',
      format('schema_version of %s may rise by %s at once, from %s to %s at most; the operator may '
      'set it', v_bad.job_type, v_step_max, v_bad.known, v_bad.known + v_step_max), 'schema_version'];
  elsif queue.is_worker() and v_types_max < (
      select count(*) from (
        select job_type from queue.job_types
        union select t.value ->> 'job_type' from jsonb_array_elements(p_types) as t) as named) then
    return array['429', 'quota_exceeded', format('there are at most %s job types', v_types_max), 'job_types'];
  end if;
  return null;
end;
$$;
comment on function queue.redefinition_problem is 'Why a worker may not register these types: too far ahead, or too many; as registration_problem.';

create function queue.registration_problem(p_types jsonb) returns text[]
language plpgsql stable set search_path = '' as $$
declare
  v_schema constant jsonb := queue.schema_of('job_type');
  v_error text;
  v_type text;
begin
  if jsonb_typeof(p_types) is distinct from 'array' then
    return array['400', 'invalid_argument', 'p_types must be an array of job types', 'p_types'];
  end if;
  select ltrim(e, '. '), left(coalesce(t.value ->> 'job_type', format('at %s', t.ordinality - 1)), 100)
  into v_error, v_type
  from jsonb_array_elements(p_types) with ordinality as t,
    queue.schema_error(v_schema, t.value, '') as e
  where e is not null limit 1;
  if found then
    return array['400', 'invalid_argument', format('job type %s: %s', v_type, v_error), split_part(v_error, ' ', 1)];
  end if;
  select t.value ->> 'job_type' into v_type from jsonb_array_elements(p_types) as t
  group by 1 having count(*) > 1 limit 1;
  if found then
    return array['400', 'invalid_argument', format('job type %s is given more than once', v_type), 'job_type'];
  end if;
  return queue.redefinition_problem(p_types);
end;
$$;
comment on function queue.registration_problem is 'Why types may not be registered: {status, hint, message, detail}; null when they may.';

create function public.register_job_types(p_types jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on queue.job_types
set search_path = '' as $$
declare
  v_problem text[];
  v_worker boolean := queue.is_worker();
  v_now timestamptz := queue.clock();
  v_count integer;
begin
  v_problem := queue.registration_problem(p_types);
  if v_problem is not null then
    perform queue.refuse_problem(v_problem);
  end if;
  insert into queue.job_types as types (
    job_type, queue, max_concurrency, workspace_concurrency, key_concurrency, lease_seconds, timeout_seconds,
    max_attempts, backoff_first_seconds, backoff_cap_seconds, backoff_factor, rate_limit, rate_per_seconds,
    rate_per_key, payload_schema, schema_version, events, live, ageing_seconds, internal, tagged_by,
    source, description, registered_at)
  select t.job_type, coalesce(t.queue, 'default'), t.max_concurrency, t.workspace_concurrency, t.key_concurrency,
    coalesce(t.lease_seconds, 60), coalesce(t.timeout_seconds, 300), coalesce(t.max_attempts, 5),
    coalesce((t.backoff ->> 'first_seconds')::double precision, 60),
    coalesce((t.backoff ->> 'cap_seconds')::double precision, 3600),
    coalesce((t.backoff ->> 'factor')::double precision, 2),
    (t.rate_limit ->> 'limit')::numeric, (t.rate_limit ->> 'per_seconds')::double precision,
    coalesce((t.rate_limit ->> 'per_key')::boolean, false),
    t.payload_schema, coalesce(t.schema_version, 1), coalesce(t.events, 'full'), coalesce(t.live, 'full'),
    t.ageing_seconds, coalesce(t.internal,
      (select known.internal from queue.job_types as known where known.job_type = t.job_type), false),
    array(select jsonb_array_elements_text(t.tagged_by)), left(t.source, 500),
    left(t.description, 2000), v_now
  from jsonb_to_recordset(p_types) as t (
    -- numeric, since 60.0 and 6e1 are the whole number 60 too
    job_type text, queue text, max_concurrency numeric, workspace_concurrency numeric, key_concurrency numeric,
    lease_seconds numeric, timeout_seconds numeric, max_attempts numeric, backoff jsonb, rate_limit jsonb,
    payload_schema jsonb, schema_version numeric, events text, live text, ageing_seconds numeric, internal boolean,
    tagged_by jsonb, source text, description text)
  order by t.job_type
  on conflict (job_type) do update set
    queue = excluded.queue, max_concurrency = excluded.max_concurrency,
    workspace_concurrency = excluded.workspace_concurrency, key_concurrency = excluded.key_concurrency,
    lease_seconds = excluded.lease_seconds, timeout_seconds = excluded.timeout_seconds,
    max_attempts = excluded.max_attempts, backoff_first_seconds = excluded.backoff_first_seconds,
    backoff_cap_seconds = excluded.backoff_cap_seconds, backoff_factor = excluded.backoff_factor,
    rate_limit = excluded.rate_limit, rate_per_seconds = excluded.rate_per_seconds,
    rate_per_key = excluded.rate_per_key, payload_schema = excluded.payload_schema,
    schema_version = excluded.schema_version, events = excluded.events, live = excluded.live,
    ageing_seconds = excluded.ageing_seconds, tagged_by = excluded.tagged_by,
    source = excluded.source, description = excluded.description, redefinable = false,
    registered_at = excluded.registered_at,
    -- a worker may make a type internal, and may not undo that
    internal = excluded.internal or types.internal and v_worker and not types.redefinable
  -- an older worker does not undo a newer one
  where types.schema_version <= excluded.schema_version or types.redefinable;
  get diagnostics v_count = row_count;
  perform queue.declare_schedules(p_types, v_now);
  perform queue.bring_all_back(t.value ->> 'job_type', null) from jsonb_array_elements(p_types) as t;
  return jsonb_build_object('registered', v_count);
exception
  when check_violation or not_null_violation or invalid_text_representation or numeric_value_out_of_range then
    perform queue.refuse(400, 'invalid_argument', 'a job type has an invalid value: ' || sqlerrm, 'p_types');
end;
$$;
comment on function public.register_job_types is E'Publish job types and their policies.\n\nCalled by a worker at its start; idempotent. An older schema_version never replaces a newer one, and a worker''s rises by 10 at most. A type marked internal is enqueued by the platform alone; only the operator opens it to people again.';

select queue.allow('job_worker, service_role', 'public.register_job_types');
