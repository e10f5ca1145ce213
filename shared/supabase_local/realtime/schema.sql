-- The `realtime` schema as hosted Supabase has it, for what users call and write policies on:
-- messages, `topic`, `send` and `broadcast_changes`. Idempotent; run by a superuser.
--
-- Names, argument names and types are a public contract (policies and callers depend on them), so
-- they follow Supabase, not this project's p_/v_ habit.

create schema if not exists realtime;
alter schema realtime owner to supabase_realtime_admin;
revoke create on schema realtime from public;
grant usage on schema realtime to anon, authenticated, service_role, postgres;

-- hosted, a partition a day, dropped after three; here they are kept until a reset
create table if not exists realtime.messages (
  topic text not null,
  extension text not null,
  payload jsonb,
  event text,
  private boolean default false,
  updated_at timestamp not null default now(),
  inserted_at timestamp not null default now(),
  id uuid not null default gen_random_uuid(),
  binary_payload bytea,
  primary key (id, inserted_at)
);
alter table realtime.messages owner to supabase_realtime_admin;
alter table realtime.messages enable row level security;
grant select, insert, update on realtime.messages to anon, authenticated, service_role, postgres;

create or replace function realtime.topic()
returns text
language sql
stable
as $$ select nullif(current_setting('realtime.topic', true), '')::text; $$;

create or replace function realtime.send(
  payload jsonb, event text, topic text, private boolean default true
) returns void
language plpgsql
as $$
declare
  generated_id uuid := gen_random_uuid();
begin
  begin
    perform set_config('realtime.topic', topic, true);
    insert into realtime.messages (id, payload, event, topic, private, extension)
    values (
      generated_id,
      case
        when payload ? 'id' then payload else jsonb_set(payload, '{id}', to_jsonb(generated_id))
      end,
      event, topic, private, 'broadcast'
    );
  exception when others then -- a lost broadcast must never fail the caller's transaction
    raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
  end;
end;
$$;

-- kept as hosted keeps it; this server sends text alone
create or replace function realtime.send_binary(
  payload bytea, event text, topic text, private boolean default true
) returns void
language plpgsql
as $$
begin
  begin
    perform set_config('realtime.topic', topic, true);
    insert into realtime.messages (binary_payload, event, topic, private, extension)
    values (payload, event, topic, private, 'broadcast');
  exception when others then -- as in `send`
    raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
  end;
end;
$$;

create or replace function realtime.broadcast_changes(
  topic_name text, event_name text, operation text, table_name text, table_schema text,
  new record, old record, level text default 'ROW'
)
returns void
language plpgsql
as $$
begin
  if level = 'STATEMENT' then
    raise exception 'function can only be triggered for each row, not for each statement';
  end if;
  if operation not in ('INSERT', 'UPDATE', 'DELETE') then
    raise exception 'Unexpected operation type: %', operation;
  end if;
  perform realtime.send(
    jsonb_build_object(
      'old_record', old, 'record', new, 'operation', operation, 'table', table_name,
      'schema', table_schema
    ),
    event_name, topic_name
  );
exception when others then
  raise exception 'Failed to process the row: %', sqlerrm;
end;
$$;

-- who listens to changes of which table, by hosted's server; ours keeps that in its process
do $$
begin
  if to_regtype('realtime.action') is null then
    create type realtime.action as enum ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'ERROR');
    create type realtime.equality_op as enum (
      'eq', 'neq', 'lt', 'lte', 'gt', 'gte', 'in', 'like', 'ilike', 'is', 'match', 'imatch',
      'isdistinct'
    );
    create type realtime.user_defined_filter as (
      column_name text, op realtime.equality_op, value text, negate boolean
    );
    create type realtime.wal_column as (
      name text, type_name text, type_oid oid, value jsonb, is_pkey boolean, is_selectable boolean
    );
    create type realtime.wal_rls as (
      wal jsonb, is_rls_enabled boolean, subscription_ids uuid [], errors text []
    );
  end if;
end;
$$;
create or replace function realtime.to_regrole(role_name text) returns regrole
language sql immutable
as $$ select role_name::regrole $$;
create table if not exists realtime.subscription (
  id bigint generated always as identity primary key, subscription_id uuid not null,
  entity regclass not null, claims jsonb not null,
  created_at timestamp not null default timezone('utc', now())
);
alter table realtime.subscription
add column if not exists filters realtime.user_defined_filter [] not null default '{}',
add column if not exists claims_role regrole not null
generated always as (realtime.to_regrole(claims ->> 'role')) stored,
add column if not exists action_filter text default '*';
alter table realtime.subscription owner to supabase_realtime_admin;
create table if not exists realtime.schema_migrations (
  version bigint primary key, inserted_at timestamp(0)
);
alter table realtime.schema_migrations owner to supabase_realtime_admin;
grant select on realtime.subscription, realtime.schema_migrations
to anon, authenticated, service_role, postgres;

grant execute on all functions in schema realtime to service_role;

do $$
begin
  if not exists (
    select from pg_catalog.pg_publication
    where pubname = 'supabase_realtime_messages_publication'
  ) then
    create publication supabase_realtime_messages_publication for table realtime.messages;
  end if;
  if current_setting('server_version_num')::int >= 180000 then
    -- wal2json, which hosted reads with, always shows generated columns
    execute 'alter publication supabase_realtime set (publish_generated_columns = stored)';
  end if;
end;
$$;
