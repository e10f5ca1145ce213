-- Tables, types and signatures of pgmq (https://github.com/pgmq/pgmq), as its documentation
-- describes them. The functions reject partitioned queues, message headers, and a timestamp as the
-- delay.

create table pgmq.meta (
  queue_name varchar unique not null, is_partitioned boolean not null, is_unlogged boolean not null,
  created_at timestamptz not null default now()
);
create type pgmq.message_record as (
  msg_id bigint, read_ct integer, enqueued_at timestamptz, vt timestamptz, message jsonb,
  headers jsonb
);
create type pgmq.queue_record as (
  queue_name varchar, is_partitioned boolean, is_unlogged boolean, created_at timestamptz
);
-- Table of a queue, q_<name>, or of its archive, a_<name>.
create function pgmq.format_table_name(queue_name text, prefix text) returns text
language plpgsql immutable
as $$
begin
  if queue_name !~ '^[A-Za-z_0-9-]{1,47}$' then
    raise exception 'queue name contains invalid characters or is too long: %', queue_name;
  end if;
  return prefix || '_' || lower(queue_name);
end;
$$;
create function pgmq.create_queue(queue_name text, is_unlogged boolean) returns void
language plpgsql
as $$
declare
  v_queue text := pgmq.format_table_name(queue_name, 'q');
  v_archive text := pgmq.format_table_name(queue_name, 'a');
begin
  execute format(
    'create %s table if not exists pgmq.%I (
      msg_id bigint primary key generated always as identity,
      read_ct integer not null default 0, enqueued_at timestamptz not null default now(),
      vt timestamptz not null, message jsonb, headers jsonb)',
    case when is_unlogged then 'unlogged' else '' end, v_queue);
  execute format(
    'create table if not exists pgmq.%I (
      msg_id bigint primary key, read_ct integer not null default 0,
      enqueued_at timestamptz not null default now(),
      archived_at timestamptz not null default now(), vt timestamptz not null, message jsonb,
      headers jsonb)', v_archive);
  execute format('create index if not exists %I on pgmq.%I (vt)', v_queue || '_vt_idx', v_queue);
  execute format('create index if not exists %I on pgmq.%I (archived_at)',
    'archived_at_idx_' || queue_name, v_archive);
  insert into pgmq.meta (queue_name, is_partitioned, is_unlogged)
  values (queue_name, false, is_unlogged) on conflict do nothing;
end;
$$;
create function pgmq."create"(queue_name text) returns void
language sql as $$ select pgmq.create_queue(queue_name, false) $$;
create function pgmq.create_unlogged(queue_name text) returns void
language sql as $$ select pgmq.create_queue(queue_name, true) $$;
create function pgmq.drop_queue(queue_name text) returns boolean
language plpgsql
as $$
begin
  execute format('drop table if exists pgmq.%I', pgmq.format_table_name(queue_name, 'q'));
  execute format('drop table if exists pgmq.%I', pgmq.format_table_name(queue_name, 'a'));
  delete from pgmq.meta as m where m.queue_name = drop_queue.queue_name;
  return found;
end;
$$;
create function pgmq.list_queues() returns setof pgmq.queue_record
language sql
as $$
  select m.queue_name, m.is_partitioned, m.is_unlogged, m.created_at from pgmq.meta as m
$$;

create function pgmq.send_batch(queue_name text, msgs jsonb[], delay integer default 0)
returns setof bigint
language plpgsql
as $$
begin
  return query execute format(
    'insert into pgmq.%I (vt, message)
    select clock_timestamp() + make_interval(secs => $2), m.message
    from unnest($1) with ordinality as m (message, place)
    order by m.place returning msg_id', pgmq.format_table_name(queue_name, 'q'))
  using msgs, delay;
end;
$$;
create function pgmq.send(queue_name text, msg jsonb, delay integer default 0)
returns setof bigint
language sql as $$ select pgmq.send_batch(queue_name, array[msg], delay) $$;

create function pgmq.read(
  queue_name text, vt integer, qty integer, conditional jsonb default '{}'
) returns setof pgmq.message_record
language plpgsql
as $$
begin
  return query execute format(
    'with due as (
      select msg_id from pgmq.%1$I where vt <= clock_timestamp() and message @> $3
      order by msg_id limit $1 for update skip locked
    )
    update pgmq.%1$I as m
    set vt = clock_timestamp() + make_interval(secs => $2), read_ct = m.read_ct + 1
    from due where m.msg_id = due.msg_id
    returning m.msg_id, m.read_ct, m.enqueued_at, m.vt, m.message, m.headers',
    pgmq.format_table_name(queue_name, 'q'))
  using qty, vt, conditional;
end;
$$;
create function pgmq.pop(queue_name text) returns setof pgmq.message_record
language plpgsql
as $$
begin
  return query execute format(
    'with due as (
      select msg_id from pgmq.%1$I where vt <= clock_timestamp()
      order by msg_id limit 1 for update skip locked
    )
    delete from pgmq.%1$I as m using due where m.msg_id = due.msg_id
    returning m.msg_id, m.read_ct, m.enqueued_at, m.vt, m.message, m.headers',
    pgmq.format_table_name(queue_name, 'q'));
end;
$$;
create function pgmq.set_vt(queue_name text, msg_id bigint, vt integer)
returns setof pgmq.message_record
language plpgsql
as $$
begin
  return query execute format(
    'update pgmq.%I as m set vt = clock_timestamp() + make_interval(secs => $2)
    where m.msg_id = $1
    returning m.msg_id, m.read_ct, m.enqueued_at, m.vt, m.message, m.headers',
    pgmq.format_table_name(queue_name, 'q'))
  using msg_id, vt;
end;
$$;

create function pgmq.delete(queue_name text, msg_ids bigint[]) returns setof bigint
language plpgsql
as $$
begin
  return query execute format('delete from pgmq.%I where msg_id = any($1) returning msg_id',
    pgmq.format_table_name(queue_name, 'q'))
  using msg_ids;
end;
$$;
create function pgmq.delete(queue_name text, msg_id bigint) returns boolean
language sql as $$ select exists (select pgmq.delete(queue_name, array[msg_id])) $$;
create function pgmq.archive(queue_name text, msg_ids bigint[]) returns setof bigint
language plpgsql
as $$
begin
  return query execute format(
    'with gone as (delete from pgmq.%I where msg_id = any($1) returning *)
    insert into pgmq.%I (msg_id, read_ct, enqueued_at, vt, message, headers)
    select msg_id, read_ct, enqueued_at, vt, message, headers from gone returning msg_id',
    pgmq.format_table_name(queue_name, 'q'), pgmq.format_table_name(queue_name, 'a'))
  using msg_ids;
end;
$$;
create function pgmq.archive(queue_name text, msg_id bigint) returns boolean
language sql as $$ select exists (select pgmq.archive(queue_name, array[msg_id])) $$;
create function pgmq.purge_queue(queue_name text) returns bigint
language plpgsql
as $$
declare
  v_count bigint;
begin
  execute format('delete from pgmq.%I', pgmq.format_table_name(queue_name, 'q'));
  get diagnostics v_count = row_count;
  return v_count;
end;
$$;

grant usage, create on schema pgmq to postgres with grant option;
grant all on all tables in schema pgmq to postgres with grant option;
