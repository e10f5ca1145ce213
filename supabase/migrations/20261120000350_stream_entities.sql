-- A stream of an entity: numbered events of the rows of an app's table, such as plans, declared by make_stream.
-- Members read them, and those to whom the entity's guest session is open; Realtime carries what SSE does.

create table queue.streams (
  name text primary key, -- what an entity is called, as plan: of plan_id, plan_events, plan_deleted
  relation regclass not null, -- the entities
  events regclass not null -- their events
);
comment on table queue.streams is 'Tables whose rows have a stream of events, see queue.make_stream.';

create function queue.may_see(p_workspace_id uuid, p_session_id text) returns boolean
language sql stable set search_path = '' as $$
  select queue.is_service_role() or queue.is_member(p_workspace_id)
    or p_session_id like 'guest\_%' and exists (
      select from queue.may_join_guest_session(p_session_id) as v where v.workspace_id = p_workspace_id)
$$;
comment on function queue.may_see is 'Whether the caller is a member of the workspace, or what belongs to this session is a guest''s whose guest session is open to the caller.';

create function queue.append_entity_events(p_stream text, p_id uuid, p_events jsonb) returns void
language plpgsql set search_path = '' as $$
declare
  v_stream queue.streams;
  v_count constant integer := jsonb_array_length(p_events);
  v_stored integer;
begin
  select * into strict v_stream from queue.streams where name = p_stream;
  execute format('with e as (update %s set last_seq = last_seq + $2 where id = $1 and $2 > 0 '
    'returning id, last_seq - $2 as seq, workspace_id, session_id) '
    'insert into %s select e.id, e.seq + n.nth, e.workspace_id, e.session_id, n.event ->> ''type'', '
    'coalesce(n.event -> ''data'', ''{}'') from e, jsonb_array_elements($3) with ordinality as n (event, nth)',
    v_stream.relation, v_stream.events) using p_id, v_count, p_events;
  get diagnostics v_stored = row_count;
  if v_stored < v_count then
    perform queue.refuse(404, p_stream || '_not_found', initcap(p_stream) || ' not found', p_id::text);
  end if;
end;
$$;
comment on function queue.append_entity_events is 'Append events [{type, data}] to an entity; its row is locked until the transaction ends, so seq has no gaps. For functions of apps.';

create function queue.entity_events(
  p_stream text, p_id uuid, p_after numeric, p_limit numeric, p_is_open boolean
) returns jsonb
language plpgsql stable
security definer -- guests hold no rights on any table
set search_path = '' as $$
declare
  v_stream queue.streams;
  v_after constant bigint := coalesce(queue.big_whole(p_after, 'p_after'), 0);
  v_limit constant integer := least(1000, greatest(1, coalesce(queue.whole(p_limit, 'p_limit'), 500)));
  v_entity jsonb;
  v_events jsonb;
begin
  select * into strict v_stream from queue.streams where name = p_stream;
  execute format('select to_jsonb(e) from %s as e where e.id = $1', v_stream.relation) into v_entity using p_id;
  if v_entity is null and p_is_open then -- what is left of a deleted one is its events, for a while
    execute format('select to_jsonb(e) || jsonb_build_object(''last_seq'', e.seq, ''finished_at'', e.created_at, '
      '''status'', ''deleted'') from %s as e where e.%I = $1 and e.type = %L and e.created_at > $2',
      v_stream.events, p_stream || '_id', p_stream || '_deleted')
    into v_entity using p_id, queue.clock() - interval '10 minutes';
  end if;
  if v_entity is null
    or queue.may_see((v_entity ->> 'workspace_id')::uuid, v_entity ->> 'session_id') is not true then
    perform queue.refuse(404, p_stream || '_not_found', initcap(p_stream) || ' not found', p_id::text);
  end if;
  execute format('select coalesce(jsonb_agg(to_jsonb(e) - ''{workspace_id,session_id,created_at}''::text[] '
    '|| jsonb_build_object(''at'', e.created_at) order by e.seq), ''[]'') '
    'from (select * from %s where %I = $1 and seq > $2 order by seq limit $3) as e', v_stream.events, p_stream || '_id')
  into v_events using p_id, v_after, v_limit;
  return jsonb_build_object('events', v_events,
    'more', coalesce((v_events #>> '{-1,seq}')::bigint, v_after) < (v_entity ->> 'last_seq')::bigint,
    'ended', case when v_entity ->> 'finished_at' is not null then v_entity -> 'status' end,
    'topic', 'session:' || (v_entity ->> 'session_id'));
end;
$$;
comment on function queue.entity_events is 'Body of the functions <name>_events_after that queue.make_stream makes, with rights that callers do not have.';

create function queue.publish_entity_events() returns trigger
language plpgsql
security definer -- callers who change an entity may not write to realtime.messages
set search_path = '' as $$
begin
  if to_regclass('realtime.messages') is null then
    return null;
  end if;
  perform queue.send_messages(array_agg(m.topic), array_agg(m.workspace_id), array_agg(m.type), array_agg(m.payload),
    array_agg(false))
  from (
    select 'session:' || e.session_id as topic, e.workspace_id, e.type,
      to_jsonb(e) - '{workspace_id,session_id,created_at}'::text[] || jsonb_build_object('at', e.created_at) as payload
    from events as e where queue.may_publish(e.session_id, e.workspace_id)
    order by e.session_id, e.seq) as m
  having count(*) > 0;
  return null;
exception when others then
  raise warning 'events were stored but not broadcast: % (%)', sqlerrm, sqlstate;
  return null;
end;
$$;
comment on function queue.publish_entity_events is 'Trigger: send events of entities to session:<session_id>, each a message named by its type. A failure only warns: the events are stored.';

create function queue.follow_entities() returns trigger
language plpgsql
security definer -- callers who make or delete an entity hold no rights on its events
set search_path = '' as $$
declare
  v_stream queue.streams;
begin
  if tg_op = 'INSERT' then
    perform queue.claim_sessions(m.workspace_id, array_agg(m.session_id)) from made as m group by m.workspace_id;
    return null;
  end if;
  select * into strict v_stream from queue.streams where name = tg_argv[0];
  -- with a tenant go its events; else the last one ends the streams that are open
  execute format('delete from %s where %I in (select g.id from gone as g '
    'where not exists (select from queue.tenants as t where t.id = g.workspace_id))',
    v_stream.events, v_stream.name || '_id');
  execute format('insert into %s select g.id, g.last_seq + 1, g.workspace_id, g.session_id, %L, '
    '''{"status": "deleted"}'' from gone as g join queue.tenants as t on t.id = g.workspace_id order by g.id',
    v_stream.events, v_stream.name || '_deleted');
  perform queue.free_sessions(g.workspace_id, array_agg(g.session_id)) from gone as g
  where g.session_id = v_stream.name || ':' || g.id group by g.workspace_id;
  return null;
end;
$$;
comment on function queue.follow_entities is 'Trigger: a new entity claims its session''s topic; a deleted one ends its stream by <name>_deleted and frees it.';

create function queue.make_stream(p_name text, p_relation regclass) returns void
language plpgsql set search_path = '' as $$
declare
  v_schema constant text := (select relnamespace::regnamespace from pg_catalog.pg_class where oid = p_relation);
  v_events constant text := format('%s.%I', v_schema, p_name || '_events');
  v_key constant text := p_name || '_id';
  v_after constant text := format('public.%I', p_name || '_events_after');
begin
  execute format($sql$
    alter table %1$s add column last_seq bigint not null default 0;
    comment on column %1$s.last_seq is 'The seq of its last event.';
    create table %2$s (
      %3$I uuid not null, seq bigint not null, workspace_id uuid not null, session_id text not null, type text not null,
      data jsonb not null, created_at timestamptz not null default queue.clock(), primary key (%3$I, seq));
    create index on %2$s (created_at) where type = %5$L;
    comment on table %2$s is 'Events of each %4$s, numbered without gaps. '
      'Those of a deleted one are kept for ten minutes, for open streams.';
    comment on column %2$s.%3$I is 'The %4$s; without a foreign key, since the event of its deletion outlives it.';
    comment on column %2$s.seq is '1, 2, 3 … without gaps.';
    comment on column %2$s.workspace_id is 'The workspace of the %4$s.';
    comment on column %2$s.session_id is 'The session of the %4$s, whose topic it is sent to.';
    comment on column %2$s.type is 'Type of the event.';
    comment on column %2$s.data is 'Small details.';
    comment on column %2$s.created_at is 'When it happened, UTC.';
    create trigger events_publish after insert on %2$s
      referencing new table as events for each statement execute function queue.publish_entity_events();
    create trigger stream_begins after insert on %1$s
      referencing new table as made for each statement execute function queue.follow_entities(%4$L);
    create trigger stream_ends after delete on %1$s
      referencing old table as gone for each statement execute function queue.follow_entities(%4$L);
    create function %6$s(
      %7$I uuid, p_after numeric default 0, p_limit numeric default 500, p_is_open boolean default false
    ) returns jsonb language sql stable set search_path = ''
    begin atomic
      select queue.entity_events(%4$L, %7$I, p_after, p_limit, p_is_open);
    end;
  $sql$, p_relation, v_events, v_key, p_name, p_name || '_deleted', v_after, 'p_' || v_key);
  execute format('comment on function %s is %L', v_after, format(E'Events of a %1$s after a seq, in order: {events: '
    '[{%1$s_id, seq, type, data, at}], more, ended, topic}.\n\nended is how the %1$s ended, null while it has not. '
    'p_is_open is for open streams: they also read one that was deleted since, up to %1$s_deleted.', p_name));
  insert into queue.streams (name, relation, events) values (p_name, p_relation, v_events::regclass);
  perform queue.show_to_members(v_events::regclass);
  execute format('alter policy %I on %s using (workspace_id in (select queue.my_workspaces()) '
    'and exists (select from %s as e where e.id = %2$s.%4$I))',
    p_name || '_events_read_by_members', v_events, p_relation, v_key);
  perform queue.allow('anon, authenticated, service_role', v_after::regproc);
end;
$$;
comment on function queue.make_stream is E'Give the rows of a table a stream of events: plan_events and plan_events_after(p_plan_id, p_after, p_limit, p_is_open) for the name plan. For migrations.\n\nThe table has id, workspace_id and session_id (whose Realtime topic the events go to, usually <name>:<id>), and gets last_seq. An entity that can end has status and finished_at; its last event should say so. Append by queue.append_entity_events. Deleting a row ends its stream by the event <name>_deleted, and ten minutes later its events are deleted.';

create function queue.forget_entities(p_limit integer, p_now timestamptz) returns integer
language plpgsql set search_path = '' as $$
declare
  v_stream queue.streams;
  v_gone integer;
  v_left integer := 0;
begin
  -- an app takes its tables with it
  for v_stream in select s.* from queue.streams as s join pg_catalog.pg_class as c on c.oid = s.events loop
    execute format('delete from %1$s where %2$I in (select o.%2$I from %1$s as o '
      'where o.type = %3$L and o.created_at < $1 order by o.created_at limit $2)',
      v_stream.events, v_stream.name || '_id', v_stream.name || '_deleted')
    using p_now - interval '10 minutes', 1 + p_limit / 100;
    get diagnostics v_gone = row_count;
    v_left := v_left + v_gone;
  end loop;
  return v_left;
end;
$$;
comment on function queue.forget_entities is 'Delete the events of entities deleted more than ten minutes ago, of some at a time; returns how many.';

select queue.allow('anon, authenticated, service_role', 'queue.entity_events');
