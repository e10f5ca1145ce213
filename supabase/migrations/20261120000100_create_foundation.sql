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
set search_path = ''
as $$
begin
  return clock_timestamp();
end;
$$;
comment on function queue.clock is E'The engine''s only clock.\n\nTests replace it to move time; nothing else reads the time of day.';

create function queue.new_id() returns uuid
language plpgsql volatile parallel safe
set search_path = ''
as $$
declare
  v_us bigint := (extract(epoch from clock_timestamp()) * 1000000)::bigint;
begin
  return encode(overlay(uuid_send(gen_random_uuid())
    placing int8send((v_us / 1000 << 16) + 28672 + v_us % 1000 * 4096 / 1000) from 1 for 8), 'hex')::uuid;
end;
$$;
comment on function queue.new_id is E'A version 7 UUID (RFC 9562): 48 bits of milliseconds, their fraction in place of rand_a (6.2, method 3), then random bits.\n\nOrders by time, so that inserts touch neighbouring index pages and ids made one after the other rise.';

create function queue.new_ids(p_count integer) returns uuid[]
language plpgsql volatile parallel safe
set search_path = ''
as $$
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
      || substr(encode(substring(v_random from 8 * n + 1 for 8), 'hex'), 2))::uuid
    from generate_series(0, p_count - 1) as n);
end;
$$;
comment on function queue.new_ids is E'p_count version 7 UUIDs in rising order, at most 4,096.\n\nMilliseconds, a counter in place of rand_a (RFC 9562, 6.2 method 1), then 60 bits of SHA-256 over a secret of the call, each bit used once.';

create function queue.refuse(p_status integer, p_hint text, p_message text, p_detail text default null)
returns void
language plpgsql
set search_path = ''
as $$
begin
  raise exception using
    errcode = 'PT' || p_status, message = p_message, hint = p_hint, detail = coalesce(p_detail, '');
end;
$$;
comment on function queue.refuse is E'Raise an error the Data API answers with HTTP status p_status.\n\np_hint is the stable word clients map on; p_detail carries a value they may use.';

create function queue.refuse_problem(p_problem text[], p_within text default '') returns void
language plpgsql
set search_path = ''
as $$
begin
  perform queue.refuse(p_problem[1]::integer, p_problem[2], p_problem[3], p_within || p_problem[4]);
end;
$$;
comment on function queue.refuse_problem is 'Refuse with what a …_problem function returned: {status, hint, message, field}. p_within comes before the field.';

create function queue.refuse_workspace(p_workspace_id uuid) returns void
language plpgsql
set search_path = ''
as $$
begin
  perform queue.refuse(404, 'workspace_not_found', 'no such workspace', p_workspace_id::text);
end;
$$;
comment on function queue.refuse_workspace is 'Refuse with 404 a workspace that does not exist or is not the caller''s: the same answer for both.';

create function queue.refuse_job(p_job_id uuid) returns void
language plpgsql
set search_path = ''
as $$
begin
  perform queue.refuse(404, 'job_not_found', 'no such job', p_job_id::text);
end;
$$;
comment on function queue.refuse_job is 'Refuse with 404 a job that does not exist or is not the caller''s: the same answer for both.';

create function queue.refuse_session() returns void
language plpgsql
set search_path = ''
as $$
begin
  perform queue.refuse(404, 'session_not_found', 'no such session'); -- without its id, which may be someone's key
end;
$$;
comment on function queue.refuse_session is 'Refuse with 404 a session that is missing, ended, closed or another''s: the same answer for all.';

create function queue.refuse_type(p_job_type text) returns void
language plpgsql
set search_path = ''
as $$
begin
  perform queue.refuse(404, 'unknown_job_type', 'no such job type', left(p_job_type, 100));
end;
$$;
comment on function queue.refuse_type is 'Refuse with 404 a job type that no worker has published.';

create function queue.refuse_lost(p_job_id uuid, p_undone text) returns void
language plpgsql
set search_path = ''
as $$
begin
  perform queue.refuse(409, 'lease_lost', 'the lease on the job is lost; ' || p_undone, p_job_id::text);
end;
$$;
comment on function queue.refuse_lost is 'Refuse with 409 lease_lost a worker that does not hold the lease; p_undone is the end of the sentence.';

create function queue.refuse_value(p_what text, p_field text, p_error text) returns void
language plpgsql
set search_path = ''
as $$
begin
  perform queue.refuse(400, 'invalid_argument', format('%s has a value of the wrong type: %s', p_what, p_error),
    p_field);
end;
$$;
comment on function queue.refuse_value is 'Refuse with 400 what could not be read; p_error is the database''s own message (sqlerrm).';

create function queue.check_names(p_given jsonb, p_known text[], p_what text) returns void
language plpgsql immutable
set search_path = ''
as $$
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
  name text primary key,
  value jsonb not null,
  updated_at timestamptz not null default now()
);
alter table queue.settings enable row level security;
comment on table queue.settings is 'Deployment-wide settings of the engine, one row each.';
comment on column queue.settings.name is 'Stable name, for example payload_max_bytes.';
comment on column queue.settings.value is 'JSON value.';
comment on column queue.settings.updated_at is 'When it was last set.';

insert into queue.settings (name, value) values
  ('payload_max_bytes', '262144'),
  ('result_max_bytes', '262144'),
  ('idempotency_ttl_seconds', '86400'),
  ('lost_attempts_max', '5'),
  ('members_see_tracebacks', 'false'),
  ('refuse_unserved_types', 'false'),
  ('max_budget_ms', '840000'),
  ('poison_jobs', '10'),
  ('retention_batch', '2000'),
  ('retention_days', '{"completed": 30, "cancelled": 30, "failed": 90}'),
  ('user_pending_max', '100000');

create function queue.setting(p_name text) returns jsonb
language plpgsql stable -- called per job: a SQL function would be planned each time
set search_path = ''
as $$
begin
  return (select value from queue.settings where name = p_name);
end;
$$;
comment on function queue.setting is 'The value of one setting; null when it was never set.';

create function queue.uuid_or_refuse(p_value text, p_field text) returns uuid
language plpgsql immutable
set search_path = ''
as $$
begin
  return p_value::uuid;
exception when invalid_text_representation then
  perform queue.refuse(400, 'invalid_argument', format('%s is not a UUID: %s', p_field, left(p_value, 80)), p_field);
end;
$$;
comment on function queue.uuid_or_refuse is 'Cast to uuid, or answer 400 naming the field.';
