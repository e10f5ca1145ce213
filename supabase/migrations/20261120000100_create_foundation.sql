-- The engine's private schema, its one clock, its ids and the worker's role.
-- Everything a browser may see lives in public; everything in queue is reached through functions only.

create schema if not exists queue;
comment on schema queue is 'Minutehand''s engine: queue membership, policies and history. Not exposed; reached through the functions in public.';
revoke all on schema queue from public;
create schema if not exists public; -- another name where an install chose one

do $$
begin
  if not exists (select 1 from pg_catalog.pg_roles where rolname = 'job_worker') then
    create role job_worker nologin noinherit;
  elsif coalesce(shobj_description('job_worker'::regrole, 'pg_authid'), '') not like 'Minutehand worker:%' then
    -- grants to it would reach the present users of that role
    raise exception 'there is a role job_worker that is not Minutehand''s' using
      hint = 'Rename it (alter role job_worker rename to …), then apply this migration again.';
  end if;
  if exists (select 1 from pg_catalog.pg_roles where rolname = 'authenticator') then
    grant job_worker to authenticator; -- the Data API switches to the role a JWT claims
  end if;
end;
$$;
comment on role job_worker is 'Minutehand worker: may execute the worker''s functions and nothing else.';
grant usage on schema public to job_worker, authenticated, service_role, anon;

do $$
begin
  if obj_description('public'::regnamespace, 'pg_namespace') is null then
    comment on schema public is
      'Minutehand''s jobs as clients see them: tables under row level security, and functions.';
  end if;
end;
$$;

create function queue.clock() returns timestamptz
language plpgsql volatile parallel safe -- called many times per call: a SQL function would be planned each time
set search_path = '' as $$
begin
  return clock_timestamp();
end;
$$;
comment on function queue.clock is E'The engine''s only clock.\n\nTests replace it to move time; nothing else reads the time of day.';

create function queue.new_id() returns uuid
language plpgsql volatile parallel safe set search_path = '' as $$
declare
  v_us bigint := (extract(epoch from clock_timestamp()) * 1000000)::bigint;
begin
  return encode(set_byte(overlay(uuid_send(gen_random_uuid())
    placing int8send((v_us / 1000 << 16) + 28672 + v_us % 1000 * 4096 / 1000) from 1 for 8), 15, 0), 'hex')::uuid;
end;
$$;
comment on function queue.new_id is E'A version 7 UUID (RFC 9562): 48 bits of milliseconds, their fraction in place of rand_a (6.2, method 3), 54 random bits, and 8 bits for a cell, 0 today (see DECISIONS.md).\n\nOrders by time, so that inserts touch neighbouring index pages and ids made one after the other rise.';

create function queue.new_ids(p_count integer) returns uuid[]
language plpgsql volatile parallel safe set search_path = '' as $$
declare
  v_seed bytea := uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());
  v_ms text := lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0');
  v_random bytea;
begin
  -- one draw from the system's source of randomness for all, and a digest for each four: a draw or a digest per id
  -- would cost as much as its row
  v_random := (select string_agg(sha256(v_seed || int4send(n)), '') from generate_series(0, (p_count - 1) / 4) as n);
  return array(
    select (v_ms || to_hex(28672 + n % 4096) || '8'
      || substr(encode(substring(v_random from 8 * n + 1 for 8), 'hex'), 2, 13) || '00')::uuid
    from generate_series(0, p_count - 1) as n);
end;
$$;
comment on function queue.new_ids is E'p_count version 7 UUIDs in rising order, at most 4,096.\n\nMilliseconds, a counter in place of rand_a (RFC 9562, 6.2 method 1), then 52 bits of SHA-256 over a secret of the call, each bit used once, and the cell as in new_id.';

create function queue.refuse(p_status integer, p_hint text, p_message text, p_detail text default null)
returns void
language plpgsql set search_path = '' as $$
begin
  raise exception using
    errcode = 'PT' || p_status, message = p_message, hint = p_hint, detail = coalesce(p_detail, '');
end;
$$;
comment on function queue.refuse is E'Raise an error the Data API answers with HTTP status p_status.\n\np_hint is the stable word clients map on; p_detail carries a value they may use.';

create function queue.refuse_problem(p_problem text[], p_within text default '') returns void
language plpgsql set search_path = '' as $$
begin
  perform queue.refuse(p_problem[1]::integer, p_problem[2], p_problem[3], p_within || p_problem[4]);
end;
$$;
comment on function queue.refuse_problem is 'Refuse with what a …_problem function returned: {status, hint, message, field}. p_within comes before the field.';

create function queue.big_whole(p_value numeric, p_name text, p_most bigint default 9223372036854775807)
returns bigint
language plpgsql immutable set search_path = '' as $$
begin
  if p_value % 1 <> 0 or p_value not between -p_most and p_most then
    -- not by queue.refuse, which guests may not call
    raise exception using errcode = 'PT400', hint = 'invalid_argument', detail = p_name,
      message = format('%s must be a whole number from %s to %s', p_name, -p_most, p_most);
  end if;
  return p_value;
end;
$$;
comment on function queue.big_whole is E'A whole number, however it was written: 5, 5.0 and 5e0 are one.\n\nThe Data API casts the text of a number to the parameter''s type, and no integer is made of 5.0: what callers give is numeric, and is read by this or queue.whole.';

create function queue.whole(p_value numeric, p_name text) returns integer
language sql immutable set search_path = ''
begin atomic -- who calls it needs no right on the schema
  select queue.big_whole(p_value, p_name, 2147483647)::integer;
end;
comment on function queue.whole is 'As queue.big_whole, for an integer.';

create function queue.big_whole_in(p_object jsonb, p_name text) returns bigint
language sql immutable set search_path = ''
as $$ select queue.big_whole((p_object ->> p_name)::numeric, p_name) $$;
comment on function queue.big_whole_in is 'The whole number that an object has under a name; null when it has none.';

create function queue.whole_in(p_object jsonb, p_name text) returns integer
language sql immutable set search_path = ''
as $$ select queue.whole((p_object ->> p_name)::numeric, p_name) $$;
comment on function queue.whole_in is 'As queue.big_whole_in, for an integer.';

create function queue.plain(p_value jsonb) returns jsonb
language sql immutable set search_path = '' as $$
  select case jsonb_typeof(p_value)
    when 'number' then to_jsonb(trim_scale(p_value::numeric))
    when 'object' then (select coalesce(jsonb_object_agg(key, queue.plain(value)), '{}') from jsonb_each(p_value))
    else p_value end
$$;
comment on function queue.plain is 'A value, or an object with all it holds, with its numbers in one spelling, 5 for 5.0.';

create function queue.plain_fences(p_items jsonb) returns jsonb
language plpgsql immutable set search_path = '' as $$
begin
  if jsonb_typeof(p_items) <> 'array' or not exists (
      select from jsonb_array_elements(p_items) as i
      where concat(i.value ->> 'fence', ' ', i.value ->> 'logs_from') ~ '[.]|[0-9]{10}') then
    return p_items;
  end if;
  return (
    select jsonb_agg(i.value || jsonb_strip_nulls(jsonb_build_object(
      'fence', queue.big_whole_in(i.value, 'fence'), 'logs_from', queue.whole_in(i.value, 'logs_from')))
      order by i.ordinality)
    from jsonb_array_elements(p_items) with ordinality as i);
end;
$$;
comment on function queue.plain_fences is 'What a worker sends of its leases, with 5 for 5.0 in fence and logs_from.';

create function queue.refuse_workspace(p_workspace_id uuid) returns void
language plpgsql set search_path = '' as $$
begin
  perform queue.refuse(404, 'workspace_not_found', 'no such workspace', p_workspace_id::text);
end;
$$;
comment on function queue.refuse_workspace is 'Refuse with 404 a workspace that does not exist or is not the caller''s: the same answer for both.';

create function queue.refuse_job(p_job_id uuid) returns void
language plpgsql set search_path = '' as $$
begin
  perform queue.refuse(404, 'job_not_found', 'no such job', p_job_id::text);
end;
$$;
comment on function queue.refuse_job is 'Refuse with 404 a job that does not exist or is not the caller''s: the same answer for both.';

create function queue.refuse_session() returns void
language plpgsql set search_path = '' as $$
begin
  perform queue.refuse(404, 'session_not_found', 'no such session'); -- without its id, which may be someone's key
end;
$$;
comment on function queue.refuse_session is 'Refuse with 404 a session that is missing, ended, closed or another''s: the same answer for all.';

create function queue.refuse_type(p_job_type text) returns void
language plpgsql set search_path = '' as $$
begin
  perform queue.refuse(404, 'unknown_job_type', 'no such job type', left(p_job_type, 100));
end;
$$;
comment on function queue.refuse_type is 'Refuse with 404 a job type that no worker has published.';

create function queue.refuse_lost(p_job_id uuid, p_undone text) returns void
language plpgsql set search_path = '' as $$
begin
  perform queue.refuse(409, 'lease_lost', 'the lease on the job is lost; ' || p_undone, p_job_id::text);
end;
$$;
comment on function queue.refuse_lost is 'Refuse with 409 lease_lost a worker that does not hold the lease; p_undone is the end of the sentence.';

create function queue.refuse_value(p_what text, p_field text, p_error text) returns void
language plpgsql set search_path = '' as $$
begin
  perform queue.refuse(400, 'invalid_argument', format('%s has a value of the wrong type: %s', p_what, p_error),
    p_field);
end;
$$;
comment on function queue.refuse_value is 'Refuse with 400 what could not be read; p_error is the database''s own message (sqlerrm).';

create function queue.check_names(p_given jsonb, p_known text[], p_what text) returns void
language plpgsql immutable set search_path = '' as $$
declare
  v_name text;
begin
  if jsonb_typeof(p_given) is distinct from 'object' then
    perform queue.refuse(400, 'invalid_argument', p_what || ' must be an object', p_what);
  end if;
  select left(k.name, 80) into v_name from jsonb_object_keys(p_given) as k (name) where k.name <> all (p_known) limit 1;
  if found then
    perform queue.refuse(400, 'invalid_argument', format('unknown field of %s: %s', p_what, v_name), v_name);
  end if;
end;
$$;
comment on function queue.check_names is 'Refuse with 400 what is not an object or has a field of an unknown name, so that a typo is not ignored.';

create table queue.settings (
  name text primary key, -- stable name, for example payload_max_bytes
  value jsonb not null, -- JSON value
  updated_at timestamptz not null default now() -- when it was last set
);
comment on table queue.settings is 'Deployment-wide settings of the engine, one row each.';

insert into queue.settings (name, value) values
  ('payload_max_bytes', '262144'),
  ('result_max_bytes', '262144'),
  ('idempotency_ttl_seconds', '86400'),
  ('lost_attempts_max', '5'),
  ('members_see_tracebacks', 'false'),
  ('refuse_unserved_types', 'false'),
  ('retention_batch', '2000'),
  ('retention_days', '{"completed": 30, "cancelled": 30, "failed": 90}'),
  ('user_pending_max', '100000');

create function queue.setting(p_name text) returns jsonb
language plpgsql stable -- called per job: a SQL function would be planned each time
set search_path = '' as $$
begin
  return (select value from queue.settings where name = p_name);
end;
$$;
comment on function queue.setting is 'The value of one setting; null when it was never set.';

create function queue.uuid_or_refuse(p_value text, p_field text) returns uuid
language plpgsql immutable set search_path = '' as $$
begin
  return p_value::uuid;
exception when invalid_text_representation then
  perform queue.refuse(400, 'invalid_argument', format('%s is not a UUID: %s', p_field, left(p_value, 80)), p_field);
end;
$$;
comment on function queue.uuid_or_refuse is 'Cast to uuid, or answer 400 naming the field.';

create function queue.close_tables(variadic p_relations regclass[]) returns void
language plpgsql set search_path = '' as $$
declare
  v_one regclass;
begin
  foreach v_one in array p_relations loop
    if (select relkind <> 'v' from pg_catalog.pg_class where oid = v_one) then
      execute format('alter table %s enable row level security', v_one);
    end if;
    execute format('revoke all on %s from public, anon, authenticated, service_role', v_one);
  end loop;
end;
$$;
comment on function queue.close_tables is 'Take every right on tables and views from callers, with row level security on.';

create function queue.allow(p_roles text, variadic p_functions regproc[]) returns void
language plpgsql set search_path = '' as $$
declare
  v_one regproc;
begin
  foreach v_one in array p_functions loop
    execute format('revoke execute on function %s from public, anon, authenticated, service_role', v_one);
    execute format('grant execute on function %s to %s', v_one, p_roles);
  end loop;
end;
$$;
comment on function queue.allow is 'Let these roles alone call functions.';
