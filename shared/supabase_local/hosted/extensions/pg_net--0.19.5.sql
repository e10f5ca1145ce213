-- The tables and signatures of pg_net, https://supabase.com/docs/guides/database/extensions/pg_net
-- Requests are recorded and not sent: no background worker runs here.

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
create function net.http_delete(
  url text, params jsonb default '{}', headers jsonb default '{}',
    timeout_milliseconds integer default 5000, body jsonb default null
) returns bigint
language sql volatile
security definer
set search_path = ''
as $$
  insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds)
  values ('DELETE', url, headers, convert_to(body::text, 'UTF8'), timeout_milliseconds)
  returning id
$$;

create type net.request_status as enum ('PENDING', 'SUCCESS', 'ERROR');
create type net.http_response as (status_code integer, headers jsonb, body text);
create type net.http_response_result as (
  status net.request_status, message text, response net.http_response
);
create function net.http_collect_response(request_id bigint, async boolean default true)
returns net.http_response_result
language sql stable
security definer
set search_path = ''
as $$
  select case
    when r.id is null and q.id is null then row(
      'ERROR', format('request_id not found or expired: %s', request_id), null
    )::net.http_response_result
    when r.id is null
      then row('PENDING', 'request is pending processing', null)::net.http_response_result
    when r.status_code is null
      then row('ERROR', coalesce(r.error_msg, 'request failed'), null)::net.http_response_result
    else row('SUCCESS', 'ok',
      row(r.status_code, r.headers, r.content)::net.http_response)::net.http_response_result
  end
  from (select) as one
  left join net._http_response as r on r.id = request_id
  left join net.http_request_queue as q on q.id = request_id
$$;
-- there is no worker to start again, so it is as it should be
create function net.worker_restart() returns boolean language sql as $$ select true $$;
create function net.check_worker_is_up() returns void language sql as $$ select $$;

grant usage on schema net to postgres, anon, authenticated, service_role;
grant usage on schema net to postgres with grant option;
grant all on all tables in schema net to postgres with grant option;
grant execute on all functions in schema net to postgres, anon, authenticated, service_role;
