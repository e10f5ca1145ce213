-- This file creates the parts of the schema realtime that users of hosted Supabase call or use in
-- policies. A superuser must run this file, and may run it repeatedly.
--
-- The tables, functions and arguments have the names and types of hosted Supabase, because policies
-- and callers depend on these names and types.

create schema if not exists realtime;
alter schema realtime owner to supabase_realtime_admin;
revoke create on schema realtime from public;
grant usage on schema realtime to anon, authenticated, service_role, postgres;

-- Hosted projects have one partition of realtime.messages per day, and drop a partition after three
-- days. The local stack keeps all rows until a reset.
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

create table if not exists realtime.schema_migrations (
  version bigint primary key, inserted_at timestamp(0)
);
alter table realtime.schema_migrations owner to supabase_realtime_admin;
grant select on realtime.schema_migrations
to anon, authenticated, service_role, postgres;

grant execute on all functions in schema realtime to service_role;

do $$
begin
  if not exists (
    select from pg_publication
    where pubname = 'supabase_realtime_messages_publication'
  ) then
    create publication supabase_realtime_messages_publication for table realtime.messages;
  end if;
  if current_setting('server_version_num')::int >= 180000 then
    -- Let the publication also send generated columns, because wal2json sends generated columns on
    -- hosted projects.
    execute 'alter publication supabase_realtime set (publish_generated_columns = stored)';
  end if;
end;
$$;
