-- Tables and signatures of pg_net, https://supabase.com/docs/guides/database/extensions/pg_net. The
-- local stack stores requests but never sends them, because it has no background worker.

create schema net;
create unlogged table net.http_request_queue (
  id bigserial, method text not null, url text not null,
  headers jsonb not null default '{}', body bytea,
    timeout_milliseconds integer not null default 5000);
create unlogged table net._http_response (
  id bigint, status_code integer, content_type text, headers jsonb, content text, timed_out boolean,
    error_msg text,
  created timestamptz not null default now());
create index on net._http_response (created);

create function net.http_get(
  url text, params jsonb default '{}', headers jsonb default '{}',
    timeout_milliseconds integer default 5000
) returns bigint
language sql volatile
security definer
set search_path = ''
as $$
  insert into net.http_request_queue (method, url, headers, timeout_milliseconds)
  values ('GET', url, headers, timeout_milliseconds) returning id
$$;
create function net.http_post(
  url text, body jsonb default '{}', params jsonb default '{}',
  headers jsonb default '{"Content-Type": "application/json"}',
    timeout_milliseconds integer default 5000
) returns bigint
language sql volatile
security definer
set search_path = ''
as $$
  insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds)
  values ('POST', url, headers, convert_to(body::text, 'UTF8'), timeout_milliseconds) returning id
$$;
grant usage on schema net to postgres, anon, authenticated, service_role;
grant usage on schema net to postgres with grant option;
grant all on all tables in schema net to postgres with grant option;
grant execute on all functions in schema net to postgres, anon, authenticated, service_role;
