-- The `realtime` schema as hosted Supabase has it: messages and their partitions, subscriptions,
-- the functions users call and the ones the server calls. Idempotent; run by a superuser.
--
-- Names, argument names and types are a public contract (policies and callers depend on them), so
-- they follow Supabase, not this project's p_/v_ habit. `apply_rls` and its helpers are written after
-- supabase/walrus and supabase/realtime (Apache-2.0), which decide what a subscriber may see.

do $$
begin
  if not exists (select from pg_catalog.pg_roles where rolname = 'supabase_realtime_admin') then
    create role supabase_realtime_admin nologin noinherit;
  end if;
end;
$$;

create schema if not exists realtime;
alter schema realtime owner to supabase_realtime_admin;
revoke create on schema realtime from public;
grant usage on schema realtime to anon, authenticated, service_role;

-- ------------------------------------------------------------------------------------------ types
do $$
begin
  if to_regtype('realtime.action') is null then
    create type realtime.action as enum ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'ERROR');
  end if;
  if to_regtype('realtime.equality_op') is null then
    create type realtime.equality_op as enum ('eq', 'neq', 'lt', 'lte', 'gt', 'gte', 'in');
  end if;
  if to_regtype('realtime.user_defined_filter') is null then
    create type realtime.user_defined_filter as (
      column_name text, op realtime.equality_op, value text
    );
  end if;
  if to_regtype('realtime.wal_column') is null then
    create type realtime.wal_column as (
      name text, type_name text, type_oid oid, value jsonb, is_pkey boolean, is_selectable boolean
    );
  end if;
  if to_regtype('realtime.wal_rls') is null then
    create type realtime.wal_rls as (
      wal jsonb, is_rls_enabled boolean, subscription_ids uuid[], errors text[]
    );
  end if;
end;
$$;
alter type realtime.action owner to supabase_realtime_admin;
alter type realtime.equality_op owner to supabase_realtime_admin;
alter type realtime.user_defined_filter owner to supabase_realtime_admin;
alter type realtime.wal_column owner to supabase_realtime_admin;
alter type realtime.wal_rls owner to supabase_realtime_admin;

-- --------------------------------------------------------------------------------------- messages
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
) partition by range (inserted_at);
alter table realtime.messages owner to supabase_realtime_admin;
alter table realtime.messages enable row level security;

create index if not exists messages_inserted_at_topic_index
  on realtime.messages (inserted_at desc, topic)
  where extension = 'broadcast' and private is true;

grant select, insert, update on realtime.messages to anon, authenticated, service_role;

-- Keep yesterday to today + 3 ready and drop what is older than three days.
create or replace function realtime.maintain_partitions(today date default (now() at time zone 'utc')::date)
returns void
language plpgsql
set search_path = ''
as $$
declare
  day date;
  stale regclass;
begin
  for day in select today + step from generate_series(-1, 3) as steps (step) loop
    if to_regclass(format('realtime.messages_%s', to_char(day, 'YYYY_MM_DD'))) is null then
      execute format(
        'create table realtime.messages_%s partition of realtime.messages for values from (%L) to (%L)',
        to_char(day, 'YYYY_MM_DD'), day, day + 1
      );
      execute format(
        'alter table realtime.messages_%s owner to supabase_realtime_admin', to_char(day, 'YYYY_MM_DD')
      );
    end if;
  end loop;
  for stale in
    select inherits.inhrelid::regclass
    from pg_catalog.pg_inherits as inherits
      join pg_catalog.pg_class as partitions on partitions.oid = inherits.inhrelid
    where inherits.inhparent = 'realtime.messages'::regclass
      and partitions.relname ~ '^messages_\d{4}_\d{2}_\d{2}$'
      and to_date(right(partitions.relname, 10), 'YYYY_MM_DD') < today - 3
  loop
    execute format('drop table %s', stale);
  end loop;
end;
$$;
revoke execute on function realtime.maintain_partitions from public;
alter function realtime.maintain_partitions owner to supabase_realtime_admin;
select realtime.maintain_partitions();

-- ------------------------------------------------------------------------------ what users call
create or replace function realtime.topic()
returns text
language sql
stable
as $$ select nullif(current_setting('realtime.topic', true), '')::text; $$;

create or replace function realtime.send(payload jsonb, event text, topic text, private boolean default true)
returns void
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
      case when payload ? 'id' then payload else jsonb_set(payload, '{id}', to_jsonb(generated_id)) end,
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
      'old_record', old, 'record', new, 'operation', operation, 'table', table_name, 'schema', table_schema
    ),
    event_name, topic_name
  );
exception when others then
  raise exception 'Failed to process the row: %', sqlerrm;
end;
$$;

-- --------------------------------------------------------------------- subscriptions and filters
create or replace function realtime.to_regrole(role_name text)
returns regrole
language sql
immutable
as $$ select role_name::regrole $$;

create table if not exists realtime.subscription (
  id bigint generated always as identity,
  subscription_id uuid not null,
  entity regclass not null,
  filters realtime.user_defined_filter[] not null default '{}',
  claims jsonb not null,
  claims_role regrole not null generated always as (realtime.to_regrole(claims ->> 'role')) stored,
  created_at timestamp not null default timezone('utc', now()),
  action_filter text default '*',
  constraint pk_subscription primary key (id),
  constraint subscription_action_filter_check check (action_filter in ('*', 'INSERT', 'UPDATE', 'DELETE'))
);
alter table realtime.subscription owner to supabase_realtime_admin;
create index if not exists ix_realtime_subscription_entity on realtime.subscription (entity);
grant select on realtime.subscription to anon, authenticated, service_role;

create or replace function realtime."cast"(val text, type_ regtype)
returns jsonb
language plpgsql
immutable
as $$
declare
  res jsonb;
begin
  if type_ = 'bytea'::regtype then
    return to_jsonb(val); -- already hexadecimal without a prefix
  end if;
  execute format('select to_jsonb(%L::%s)', val, type_::text) into res;
  return res;
end;
$$;

create or replace function realtime.check_equality_op(
  op realtime.equality_op, type_ regtype, val_1 text, val_2 text
)
returns boolean
language plpgsql
stable
as $$
declare
  symbol text := case op
    when 'eq' then '=' when 'neq' then '!=' when 'lt' then '<' when 'lte' then '<=' when 'gt' then '>'
    when 'gte' then '>=' else '= any'
  end;
  res boolean;
begin
  execute format(
    'select %L::%s %s (%L::%s)',
    val_1, type_::text, symbol, val_2, case when op = 'in' then type_::text || '[]' else type_::text end
  ) into res;
  return res;
end;
$$;

create or replace function realtime.is_visible_through_filters(
  columns realtime.wal_column[], filters realtime.user_defined_filter[]
)
returns boolean
language sql
stable
as $$
  select coalesce(
    bool_and(
      col.name is not null
      and coalesce(
        realtime.check_equality_op(f.op, col.type_oid::regtype, col.value #>> '{}', f.value), false
      )
    ),
    true
  )
  from unnest(filters) as f
    left join unnest(columns) as col on f.column_name = col.name;
$$;

create or replace function realtime.build_prepared_statement_sql(
  prepared_statement_name text, entity regclass, columns realtime.wal_column[]
)
returns text
language sql
as $$
  select
    'prepare ' || prepared_statement_name || ' as select exists(select 1 from ' || entity || ' where '
    || string_agg(quote_ident(pkc.name) || '=' || quote_nullable(pkc.value #>> '{}'), ' and ') || ')'
  from unnest(columns) as pkc
  where pkc.is_pkey
  group by entity;
$$;

-- Refuse a subscription that would fail later, while its owner can still be told why.
create or replace function realtime.subscription_check_filters()
returns trigger
language plpgsql
as $$
declare
  filter realtime.user_defined_filter;
  col_type text;
begin
  foreach filter in array new.filters loop
    col_type := (
      select a.atttypid::regtype::text from pg_catalog.pg_attribute as a
      where a.attrelid = new.entity and a.attname = filter.column_name and not a.attisdropped
        and pg_catalog.has_column_privilege(new.claims ->> 'role', a.attrelid, a.attnum, 'SELECT')
    );
    if col_type is null then
      raise exception 'invalid column for filter %', filter.column_name;
    end if;
    perform realtime."cast"(
      filter.value, case when filter.op = 'in' then col_type || '[]' else col_type end::regtype
    );
  end loop;
  return new;
end;
$$;
create or replace trigger tr_check_filters
before insert or update on realtime.subscription
for each row execute function realtime.subscription_check_filters();

-- ------------------------------------------------------------------- who may see which change
-- Columns of a change in wal2json's form, with what a role may read of them.
create or replace function realtime.columns_of(list jsonb, keys jsonb, entity regclass, reader regrole)
returns realtime.wal_column[]
language sql
as $$
  select array_agg(
    (
      x ->> 'name', x ->> 'type', x ->> 'typeoid',
      realtime."cast"(x ->> 'value', (x ->> 'typeoid')::oid::regtype),
      keys @> jsonb_build_array(jsonb_build_object('name', x ->> 'name')),
      pg_catalog.has_column_privilege(reader, entity, x ->> 'name', 'SELECT')
    )::realtime.wal_column
  )
  from jsonb_array_elements(list) as x
$$;

-- One change in wal2json format 2 → for each role, the record and its readers.
create or replace function realtime.apply_rls(wal jsonb, max_record_bytes integer default 1048576)
returns setof realtime.wal_rls
language plpgsql
as $$
declare
  entity_ regclass := format('%I.%I', wal ->> 'schema', wal ->> 'table')::regclass;
  action realtime.action := case wal ->> 'action'
    when 'I' then 'INSERT' when 'U' then 'UPDATE' when 'D' then 'DELETE' else 'ERROR'
  end;
  is_rls_enabled boolean := (select relrowsecurity from pg_catalog.pg_class where oid = entity_);
  too_large boolean := octet_length(wal::text) > max_record_bytes;
  columns realtime.wal_column[];
  old_columns realtime.wal_column[];
  working_role regrole;
  refusal text;
  reader record;
  has_access boolean;
  visible uuid[];
  output jsonb;
begin
  perform set_config('role', null, true);
  for working_role in
    select distinct s.claims_role
    from realtime.subscription as s
    where s.entity = entity_ and s.action_filter in ('*', action::text)
  loop
    columns := realtime.columns_of(wal -> 'columns', wal -> 'pk', entity_, working_role);
    old_columns := realtime.columns_of(wal -> 'identity', wal -> 'pk', entity_, working_role);
    refusal := null;
    if action <> 'DELETE' then
      refusal := (
        select case
          when count(*) = 0 then 'Error 400: Bad Request, no primary key'
          when bool_and(c.is_selectable) then null
          else 'Error 401: Unauthorized'
        end
        from unnest(columns) as c
        where c.is_pkey
      );
    end if;
    if refusal is null and is_rls_enabled and action <> 'DELETE' then
      if exists (select from pg_catalog.pg_prepared_statements where name = 'walrus_rls_stmt') then
        deallocate walrus_rls_stmt;
      end if;
      execute realtime.build_prepared_statement_sql('walrus_rls_stmt', entity_, columns);
    end if;

    visible := '{}';
    for reader in
      select s.subscription_id, s.claims
      from realtime.subscription as s
      where s.entity = entity_ and s.action_filter in ('*', action::text) and s.claims_role = working_role
        and (
          refusal is not null
          or realtime.is_visible_through_filters(columns, s.filters)
          or (action = 'DELETE' and realtime.is_visible_through_filters(old_columns, s.filters))
        )
    loop
      has_access := true;
      if refusal is null and is_rls_enabled and action <> 'DELETE' then
        begin
          perform
            set_config('role', trim(both '"' from working_role::text), true),
            set_config('request.jwt.claims', reader.claims::text, true),
            set_config('request.jwt.claim.sub', coalesce(reader.claims ->> 'sub', ''), true),
            set_config('request.jwt.claim.role', coalesce(reader.claims ->> 'role', ''), true);
          execute 'execute walrus_rls_stmt' into has_access;
        exception when others then
          has_access := false; -- a policy that raises for one subscriber hides the row from that one only
        end;
        -- back to the server's role at once: the loop fetches its next rows with it
        perform set_config('role', null, true);
      end if;
      if has_access then
        visible := visible || reader.subscription_id;
      end if;
    end loop;

    output := jsonb_build_object('schema', wal ->> 'schema', 'table', wal ->> 'table', 'type', action);
    if refusal is null then
      output := output || jsonb_build_object(
        'commit_timestamp', to_char(
          (wal ->> 'timestamp')::timestamptz at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'
        ),
        'columns', (
          select jsonb_agg(jsonb_build_object('name', pa.attname, 'type', pt.typname) order by pa.attnum)
          from pg_catalog.pg_attribute as pa
            join pg_catalog.pg_type as pt on pa.atttypid = pt.oid
          where pa.attrelid = entity_ and pa.attnum > 0 and not pa.attisdropped
            and pg_catalog.has_column_privilege(working_role, entity_, pa.attnum, 'SELECT')
        )
      );
      if action <> 'DELETE' then
        output := output || jsonb_build_object('record', (
          -- a large unchanged value is absent from the change: take it from the old row if that has it
          select coalesce(
            jsonb_object_agg(coalesce(c.name, oc.name), case when c.name is null then oc.value else c.value end),
            '{}'
          )
          from unnest(columns) as c
            full outer join unnest(old_columns) as oc on c.name = oc.name
          where coalesce(c.is_selectable, oc.is_selectable)
            and (not too_large or octet_length(coalesce(c.value, oc.value)::text) <= 64)
        ));
      end if;
      if action <> 'INSERT' then
        output := output || jsonb_build_object('old_record', (
          select coalesce(jsonb_object_agg(c.name, c.value), '{}')
          from unnest(old_columns) as c
          where c.is_selectable and (not too_large or octet_length(c.value::text) <= 64)
            -- a deleted row can no longer be tested against a policy: show its key, nothing more
            and (action = 'UPDATE' or not is_rls_enabled or c.is_pkey)
        ));
      end if;
    end if;
    return next (
      output,
      is_rls_enabled,
      visible,
      case
        when refusal is not null then array[refusal]
        when too_large then array['Error 413: Payload Too Large']
        else '{}'
      end
    )::realtime.wal_rls;
  end loop;
end;
$$;

-- ---------------------------------------------------------------------------- owners and grants
do $$
declare
  routine regprocedure;
begin
  for routine in
    select p.oid::regprocedure from pg_catalog.pg_proc as p where p.pronamespace = 'realtime'::regnamespace
  loop
    execute format('alter function %s owner to supabase_realtime_admin', routine);
  end loop;
end;
$$;
grant execute on all functions in schema realtime to service_role;
revoke execute on function realtime.maintain_partitions from service_role;

do $$
begin
  if exists (select from pg_catalog.pg_roles where rolname = 'postgres') then
    grant usage on schema realtime to postgres;
    grant select, insert, update on realtime.messages to postgres;
    grant select on realtime.subscription to postgres;
  end if;
  if not exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;
  end if;
  if not exists (select from pg_catalog.pg_publication where pubname = 'supabase_realtime_messages_publication') then
    create publication supabase_realtime_messages_publication for table realtime.messages;
  end if;
  if current_setting('server_version_num')::int >= 180000 then
    -- wal2json, which hosted reads with, always shows generated columns
    execute 'alter publication supabase_realtime set (publish_generated_columns = stored)';
  end if;
end;
$$;
