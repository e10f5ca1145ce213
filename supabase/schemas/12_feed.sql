-- Events, for those who watch: the feed, messages to Realtime within the project's plan, and
-- sessions open to guests. A change becomes a line of queue.feed and messages: to the topic of its
-- workspace, and to those of its session and jobs that someone follows. A message beyond the
-- second's budget is held back; its topics are later asked to read again (queue.do_announcements).

-- The feed's numbers are the server's transaction ids and this: nothing, until a dump is restored
-- into a server that has not come as far as the one it is of.
create sequence queue.feed_base minvalue 0;
-- How far the numbers had come at the last maintenance. Here none is given below it any more, so
-- one that would be is of another server, to which a dump brought this (queue.feed_number).
create sequence queue.feed_reached minvalue 0;

insert into queue.settings (name, value)
values
  ('realtime_messages_per_second', '"pro"'), -- free, pro, or a number
  ('allow_anonymous', 'false'),
  -- set by hosted Supabase's own gateway; else the last of x-forwarded-for
  ('client_address_header', '"cf-connecting-ip"'),
  (
    'guest_key',
    to_jsonb( -- the API signs with it the address of a guest whose call it passes on
      encode(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), 'hex')
    )
  );

-- Messages of Realtime, counted as a plan counts: each one, and each delivery of it. A sequence is
-- counted without locks, before the commit; unlogged, since after a crash no one is connected.
create unlogged sequence queue.messages_counted; -- noqa: PRS
create unlogged sequence queue.messages_second minvalue 0; -- the present second, since 1970
create unlogged sequence queue.messages_before minvalue 0; -- the count when that began
-- what Realtime's table was like when a message could last be sent (queue.message_form)
create unlogged sequence queue.messages_fitted minvalue 0;

create unlogged table queue.followers (
  topic text not null,
  user_id uuid not null, -- the nil UUID for a guest
  follower_id uuid not null, -- the client, by an id that it chose
  seen_at timestamptz not null,
  primary key (topic, user_id, follower_id)
);
alter table queue.followers enable row level security;
revoke all on queue.followers from public, anon, authenticated, service_role;
create index followers_by_user on queue.followers (user_id);

-- Topics that a server streams to its readers, for a minute at a time.
create unlogged table queue.streamed_topics (
  topic text primary key,
  expires_at timestamptz not null,
  constraint streamed_topics_are_bounded check (char_length(topic) <= 300)
);
alter table queue.streamed_topics enable row level security;
revoke all on queue.streamed_topics from public, anon, authenticated, service_role;

-- The budget of messages a second, 80 % of the plan's rate (Realtime averages five seconds, which
-- may touch six of ours), and how many this second has used. is_followed: someone follows a topic;
-- is_streamed: a server streams one.
create function queue.message_budget(
  out budget bigint,
  out used bigint,
  out is_followed boolean,
  out is_streamed boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_second bigint := date_part('epoch', clock_timestamp())::bigint;
  -- read before a new second is noted: what others have counted in it by then is not left out
  v_counted constant bigint := coalesce(
    pg_sequence_last_value('queue.messages_counted'),
    0
  );
  v_before bigint := pg_sequence_last_value('queue.messages_before');
begin
  select
    case s.value
      when '"free"' then 80
      when '"pro"' then 400
      else s.value::bigint
    end,
    exists (select from queue.followers),
    exists (select from queue.streamed_topics)
  into budget, is_followed, is_streamed
  from queue.settings as s
  where s.name = 'realtime_messages_per_second';
  if v_second is distinct from pg_sequence_last_value('queue.messages_second') then
    v_before := setval('queue.messages_before', v_counted);
    v_second := setval('queue.messages_second', v_second);
  end if;
  used := v_counted - v_before;
end;
$$;
revoke execute on function queue.message_budget from public;

-- What the tables of today's messages are like, by the transactions that last changed them; null
-- where they have triggers. While it is as when a message was sent, none can fail.
create function queue.message_form()
returns bigint
language plpgsql
set search_path = ''
as $$
declare
  v_table constant oid := to_regclass('realtime.messages');
  v_today constant oid := to_regclass('realtime.messages_' || to_char(now(), 'YYYY_MM_DD'));
begin
  return (
    select
      hash_array_extended(
        array[t.xmin, d.xmin]
        || array(
          select a.xmin
          from pg_catalog.pg_attribute as a
          where a.attrelid = v_table
        ),
        0
      ) & 9223372036854775807
    from pg_catalog.pg_class as t
    left join pg_catalog.pg_class as d on d.oid = v_today
    where t.oid = v_table
      and not t.relhastriggers
      and case t.relkind when 'p' then not d.relhastriggers else d.oid is null end
  );
end;
$$;
revoke execute on function queue.message_form from public;

-- The message for changes: the only event, else groups of those that differ in job and seq alone.
create function queue.message_of(
  p_changes queue.change[],
  p_now timestamptz,
  out event text,
  out payload jsonb
)
language plpgsql
set search_path = ''
as $$
declare
  v_one constant queue.change := p_changes[1];
  v_each queue.change;
  v_groups jsonb[];
begin
  event := 'job.events';
  if p_changes[2] is null and v_one.job_ids[2] is null then
    event := v_one.type;
    payload := jsonb_build_object(
      'job_id', v_one.job_ids[1],
      'seq', v_one.seqs[1],
      'type', v_one.type,
      'data', v_one.data,
      'at', p_now
    );
    return;
  end if;
  foreach v_each in array p_changes loop
    v_groups := v_groups || jsonb_build_object(
      'type', v_each.type,
      'data', v_each.data,
      'at', p_now,
      'job_ids', v_each.job_ids,
      'seqs', case
        when v_each.seqs[1] = all (v_each.seqs) then v_each.seqs[1:1]
        else v_each.seqs
      end
    );
  end loop;
  payload := jsonb_build_object('groups', v_groups);
end;
$$;
revoke execute on function queue.message_of from public;

-- Changes by the topics that get them: a workspace gets changes of state; a followed session all
-- but logs; a followed job all but its creation, before which no one could follow it.
create function queue.changes_by_topic(p_changes queue.change[])
returns table (topic text, changes queue.change[])
language plpgsql stable
set search_path = ''
as $$
declare
  v_jobs constant uuid[] := array(
    select distinct substr(f.topic, 5)::uuid
    from queue.followers as f
    where f.topic like 'job:%'
  );
begin
  return query
    with parts as materialized ( -- at most a thousand jobs each
      select
        c.workspace_id,
        c.session_id,
        c.type,
        c.data,
        c.job_ids[1000 * k + 1:1000 * k + 1000] as job_ids,
        c.seqs[1000 * k + 1:1000 * k + 1000] as seqs,
        row_number() over () as n
      from unnest(p_changes) as c
      cross join generate_series(0, (cardinality(c.job_ids) - 1) / 1000) as k
      where c.seqs is not null
    ),
    wanted as (
      select 'workspace:' || p.workspace_id as topic, p.*
      from parts as p
      where p.type not in ('job.progress', 'job.log', 'job.output')
      union all
      select 'session:' || p.session_id, p.*
      from parts as p
      where p.type <> 'job.log'
        and exists (
          select from queue.followers as f
          where f.topic = 'session:' || p.session_id
        )
        and queue.session_workspace(p.session_id) = p.workspace_id
      union all
      select
        'job:' || i.id,
        p.workspace_id,
        p.session_id,
        p.type,
        p.data,
        array[i.id],
        array[i.seq],
        p.n
      from parts as p
      cross join unnest(p.job_ids, p.seqs) as i (id, seq)
      where i.id = any (v_jobs) and p.type <> 'job.created'
    ),
    -- Realtime accepts 256 kB; pg_column_size is some tenths below the JSON's length
    bins as (
      select
        w.*,
        (
          sum(200 + pg_column_size(w.data) + 45 * cardinality(w.job_ids)) over (
            partition by w.topic
            order by w.n
          )
        ) / 100000 as bin
      from wanted as w
    )
    select
      b.topic,
      array_agg(
        row(
          b.workspace_id, b.session_id, b.type, b.data, b.job_ids, b.seqs
        )::queue.change
        order by b.n
      )
    from bins as b
    group by b.topic, b.bin
    order by b.topic, b.bin;
end;
$$;
revoke execute on function queue.changes_by_topic from public;

-- Take messages from the second's budget, of which p_eighths may be used; false where that does not
-- reach. Nor is more than 3/8 of it for a tenant that has sent an eighth in the last second while
-- another is followed. p_workspace_id: null where the changes are of several.
create function queue.may_send(
  p_budget record,
  p_cost bigint,
  p_eighths integer,
  p_workspace_id uuid,
  p_now timestamptz
)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_ignored bigint;
begin
  if p_budget.used + p_cost > p_budget.budget * p_eighths / 8 then
    return false;
  end if;
  -- apart: a query costs more than this
  if p_budget.used + p_cost > p_budget.budget * 3 / 8 and p_workspace_id is not null then
    if exists (
        select from queue.followers as f
        where f.topic like 'workspace:%'
          and f.topic <> 'workspace:' || p_workspace_id
      )
      and p_budget.budget / 8 < p_cost * (
        select count(*)
        from (
          select o.at
          from queue.feed as o
          where o.workspace_id = p_workspace_id
          order by o.number desc, o.id desc
          limit 50
        ) as f
        where f.at > p_now - interval '1 second'
      )
    then
      return false;
    end if;
  end if;
  for v_each in 1 .. p_cost loop
    v_ignored := nextval('queue.messages_counted');
  end loop;
  return true;
end;
$$;
revoke execute on function queue.may_send from public;

-- Write messages; false where Realtime fails. A block that may fail costs a transaction id: it is
-- there only where the table's form is not the one that took the last message (queue.message_form).
create function queue.write_messages(
  p_topics text[],
  p_events text[],
  p_payloads jsonb[]
)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_form bigint := queue.message_form();
begin
  if v_form = pg_sequence_last_value('queue.messages_fitted') then
    insert into realtime.messages (id, topic, extension, event, payload, private)
    select queue.new_id(), m.topic, 'broadcast', m.event, m.payload, true
    from unnest(p_topics, p_events, p_payloads) as m (topic, event, payload);
    return true;
  end if;
  begin
    insert into realtime.messages (id, topic, extension, event, payload, private)
    select queue.new_id(), m.topic, 'broadcast', m.event, m.payload, true
    from unnest(p_topics, p_events, p_payloads) as m (topic, event, payload);
  exception when others then -- no enqueue or settlement fails because of a message
    raise warning 'messages were not sent: % (%)', sqlerrm, sqlstate;
    -- while no one is connected, Realtime makes no partition for the day, and there is no one to
    -- ask
    return sqlstate = '23514';
  end;
  if v_form is not null then
    v_form := setval('queue.messages_fitted', v_form);
  end if;
  return true;
end;
$$;
revoke execute on function queue.write_messages from public;

-- Send the messages of changes; false where they are to be held back, since the budget does not
-- reach or Realtime fails. Progress and logs (p_is_minor) may use 4/8 of the budget, changes of
-- state that no one follows 5/8, those that someone follows 6/8, announcements all of it.
-- p_workspace_id: null where they are of several. p_fits_one: one message to the workspace has all,
-- unless someone follows a topic.
create function queue.send(
  p_changes queue.change[],
  p_workspace_id uuid,
  p_is_minor boolean,
  p_fits_one boolean,
  p_budget record,
  p_now timestamptz
)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_message record;
  v_topics text[];
  v_events text[];
  v_payloads jsonb[];
  v_watchers bigint; -- how many follow the topics
  v_cost bigint := 2; -- the message and one watcher
  v_eighths integer := 5;
begin
  -- what a long transaction sends would arrive at its end, all at once
  if clock_timestamp() - now() > interval '1 second' then
    return false;
  end if;
  if not p_fits_one or p_budget.is_followed then
    -- of so many tenants that the budget does not reach, followed or not
    if not p_is_minor
      and p_budget.used + 2 * (
        select count(distinct c.workspace_id)
        from unnest(p_changes) as c
        where c.seqs is not null
      ) > p_budget.budget * 6 / 8
    then
      return false;
    end if;
    select
      array_agg(m.topic),
      array_agg(m.event),
      array_agg(m.payload),
      sum(m.watchers),
      coalesce(sum(1 + greatest(1, m.watchers)), 0)
    into v_topics, v_events, v_payloads, v_watchers, v_cost
    from (
      select
        t.topic,
        o.event,
        o.payload,
        (
          select count(*)
          from queue.followers as f
          where f.topic = t.topic
        ) as watchers
      from queue.changes_by_topic(p_changes) as t
      cross join lateral queue.message_of(t.changes, p_now) as o
    ) as m;
    v_eighths := case
      when p_is_minor then 4
      when v_watchers > 0 then 6
      else 5
    end;
  end if;
  if v_cost = 0 then -- no topic gets any of them
    return true;
  elsif not queue.may_send(p_budget, v_cost, v_eighths, p_workspace_id, p_now) then
    return false;
  end if;
  if v_topics is null then -- made once it may be sent
    v_message := queue.message_of(p_changes, p_now);
    v_topics := array['workspace:' || p_workspace_id];
    v_events := array[v_message.event];
    v_payloads := array[v_message.payload];
  end if;
  return queue.write_messages(v_topics, v_events, v_payloads);
end;
$$;
revoke execute on function queue.send from public;

-- Publish changes that a statement has made to rows that the caller holds: messages, notifications
-- to servers that stream, and a line of the feed each. Changes without seqs are lines of the feed
-- alone; progress and logs come in calls of their own. p_is_soon: new jobs are due within a minute,
-- so that workers are notified. True; null and nothing done where there are no changes (strict).
create function queue.publish(
  p_changes queue.change[],
  p_now timestamptz,
  p_is_soon boolean default true
)
returns boolean
language plpgsql strict
set search_path = ''
as $$
declare
  v_is_minor constant boolean := p_changes[1].type
    in ('job.progress', 'job.log', 'job.output');
  v_number constant bigint := queue.feed_number(
    greatest(pg_current_xact_id(), pg_snapshot_xmax(pg_current_snapshot()))
  );
  v_budget constant record := queue.message_budget();
  v_change queue.change;
  v_jobs integer := 0; -- that have events
  v_workspace_id uuid := p_changes[1].workspace_id; -- null where they are of several
  v_fits_one boolean := not v_is_minor and p_changes[11] is null; -- one message
  v_unsent boolean; -- true, or null
begin
  foreach v_change in array p_changes loop
    if v_change.workspace_id <> v_workspace_id then
      v_workspace_id := null;
    end if;
    v_fits_one := v_fits_one and v_change.seqs is not null;
    v_jobs := v_jobs + coalesce(cardinality(v_change.seqs), 0);
  end loop;
  -- a message holds 256 kB
  if v_jobs > 0 and to_regclass('realtime.messages') is not null then
    v_fits_one := v_fits_one and v_workspace_id is not null and v_jobs <= 1000;
    v_unsent := nullif(
      not queue.send(p_changes, v_workspace_id, v_is_minor, v_fits_one, v_budget, p_now),
      false
    );
  end if;
  -- only where someone streams: who notifies commits under a lock of the whole server
  if v_budget.is_streamed then
    perform pg_notify('minutehand_events', s.topic)
    from queue.streamed_topics as s
    where s.expires_at > clock_timestamp()
      and exists (
        select from unnest(p_changes) as c
        where s.topic = 'workspace:' || c.workspace_id
          and c.type not in ('job.progress', 'job.log', 'job.output')
          or s.topic = 'session:' || c.session_id and c.type <> 'job.log'
          or s.topic = any (array(select 'job:' || i from unnest(c.job_ids) as i))
      );
  end if;
  insert into queue.feed (
    number, at, workspace_id, session_id, type, data, job_ids, seqs, wakes, unsent
  )
  select
    v_number,
    p_now,
    c.workspace_id,
    c.session_id,
    c.type,
    case c.type when 'job.output' then '{}' else c.data end,
    c.job_ids,
    c.seqs,
    p_is_soon and c.type in ('job.created', 'job.redriven', 'job.resumed'),
    case when c.seqs is not null then v_unsent end
  from unnest(p_changes) as c
  where v_unsent
    or not v_is_minor
    or c.type = 'job.progress' and c.session_id is not null;
  return true;
end;
$$;
revoke execute on function queue.publish from public;

-- Ask those who watch topics whose messages were held back to read again: the longest held of each
-- workspace, then the second of each, and so on.
create function queue.do_announcements(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_lines constant tid[] := queue.in_shares(
    'queue.feed',
    'o.unsent',
    'o.xid <> pg_current_xact_id()', -- committed
    'o.id',
    queue.clock()
  );
  v_ids constant bigint[] := array(
    select f.id
    from queue.feed as f
    where f.ctid = any (v_lines)
  );
  v_left constant bigint := (
    select b.budget - b.used
    from queue.message_budget() as b
  );
  v_announced record; -- topics, since when, cost, and the lines that have to wait longer
begin
  if v_ids = '{}' then -- also where there is no Realtime
    return 0;
  end if;
  with lines as materialized (
    select f.id, f.at, f.workspace_id, t.topic
    from queue.feed as f
    cross join lateral (
      select 'workspace:' || f.workspace_id
      where f.type not in ('job.progress', 'job.log', 'job.output')
      union all
      select 'session:' || f.session_id
      where f.type <> 'job.log'
        and queue.session_workspace(f.session_id) = f.workspace_id
      union all
      select distinct o.topic
      from queue.followers as o
      where o.topic like 'job:%' and substr(o.topic, 5)::uuid = any (f.job_ids)
    ) as t (topic)
    where f.unsent and f.id = any (v_ids)
  ),
  topics as (
    select
      l.topic,
      min(l.at) as since,
      min(l.id) as first,
      row_number() over (partition by l.workspace_id order by min(l.id), l.topic) as nth,
      1 + greatest(
        1,
        (
          select count(*)
          from queue.followers as w
          where w.topic = l.topic
        )
      ) as cost
    from lines as l
    group by l.workspace_id, l.topic
  ),
  priced as (
    select
      t.topic,
      t.since,
      sum(t.cost) over (order by t.nth, t.first, t.topic) as cost
    from topics as t
  )
  select
    array_agg(p.topic) filter (where p.cost <= v_left) as topics,
    array_agg(p.since) filter (where p.cost <= v_left) as since,
    max(p.cost) filter (where p.cost <= v_left) as cost,
    array(
      select l.id
      from lines as l
      join priced as o on o.topic = l.topic
      where o.cost > v_left
    ) as rest
  into v_announced
  from priced as p;
  update queue.feed
  set unsent = null
  where unsent and id = any (v_ids) and id <> all (v_announced.rest);
  perform nextval('queue.messages_counted')
  from generate_series(1, v_announced.cost);
  insert into realtime.messages (id, topic, extension, event, payload, private)
  select
    queue.new_id(),
    t.topic,
    'broadcast',
    'job.look_again',
    jsonb_build_object('look_again', true, 'since', t.since, 'at', queue.clock()),
    true
  from unnest(v_announced.topics, v_announced.since) as t (topic, since);
  return coalesce(cardinality(v_announced.topics), 0);
end;
$$;
revoke execute on function queue.do_announcements from public;

-- The workspace whose messages a session's topic gets: that of a guest session, else the one of its
-- jobs. Null where two tenants have one session id: nothing is sent, watchers read session_feed.
create function queue.session_workspace(p_session_id text)
returns uuid
language plpgsql stable
security definer
set search_path = ''
as $$
begin
  return case
    when p_session_id like 'guest\_%' then (
      select s.workspace_id
      from queue.guest_sessions as s
      where s.session_id = p_session_id
        and s.expires_at > queue.clock()
        and (s.user_id is not null or queue.setting('allow_anonymous') = 'true')
    )
    else (
      select f.workspace_id
      from (
        select j.workspace_id
        from public.jobs as j
        where j.session_id = p_session_id
        order by j.workspace_id
        limit 1
      ) as f
      where not exists (
        select from public.jobs as j
        where j.session_id = p_session_id and j.workspace_id > f.workspace_id
      )
    )
  end;
end;
$$;
revoke execute on function queue.session_workspace from public;

-- Whether the caller may join a private topic: their workspace, its jobs and sessions; a guest
-- session that is open to them, and, for its user, its jobs.
create function queue.may_follow(p_topic text)
returns boolean
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_kind constant text := split_part(p_topic, ':', 1);
  v_id constant text := substr(p_topic, length(v_kind) + 2);
begin
  if v_kind = 'session' and v_id like 'guest\_%' then
    return exists (select from queue.guest_session(v_id));
  elsif v_kind = 'session' then
    return exists (
      select from public.jobs as j
      where j.session_id = v_id and j.workspace_id in (select queue.my_workspaces())
    );
  elsif v_kind not in ('workspace', 'job')
    or v_id !~ '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$'
  then
    return false;
  elsif v_kind = 'workspace' then
    return v_id::uuid in (select queue.my_workspaces());
  end if;
  return exists (
    select from public.jobs as j
    where j.id = v_id::uuid
      and (
        j.workspace_id in (select queue.my_workspaces())
        or j.session_id like 'guest\_%'
          and exists (
            select from queue.guest_session(j.session_id) as s
            where s.workspace_id = j.workspace_id
              and s.user_id = queue.caller(false)
          )
      )
  );
end;
$$;
revoke execute on function queue.may_follow from public;
grant execute on function queue.may_follow to anon, authenticated;

create function queue.follow(p_topic text, p_follower_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_user constant uuid := coalesce(
    queue.caller(),
    '00000000-0000-0000-0000-000000000000'
  );
begin
  if p_topic is null
    or p_follower_id is null
    or not queue.may_follow(p_topic)
  then
    perform queue.refuse(
      404,
      'topic_not_found',
      'topic not found, or not yours to follow',
      left(p_topic, 300)
    );
  end if;
  -- a user's latest hundred topics are followed: more cannot use up the budget; guests are one user
  delete from queue.followers
  where ctid = any (array(
    select o.ctid
    from queue.followers as o
    where o.user_id = queue.caller()
      and (o.topic, o.follower_id) <> (p_topic, p_follower_id)
    order by o.seen_at desc
    offset 99
    for update skip locked
  ));
  insert into queue.followers as f (topic, user_id, follower_id, seen_at)
  select p_topic, v_user, p_follower_id, clock_timestamp()
  where (
    select count(*)
    from queue.followers as o
    where o.topic = p_topic
      and o.user_id = v_user
      and o.follower_id <> p_follower_id
  ) < 20
  on conflict (
    topic,
    user_id,
    follower_id
  ) do update set seen_at = excluded.seen_at;
  return jsonb_build_object(
    'again_seconds', 60,
    -- all followers together read fifty times a second, each at least twice a minute
    'check_seconds', (
      select count(*)
      from (select from queue.followers limit 1500) as f
    ) / 50.0
  );
end;
$$;
select queue.allow('anon, authenticated, service_role', 'queue.follow');

create function public.follow_topic(p_topic text, p_follower_id uuid)
returns jsonb
language sql
set search_path = '' -- bound when it is made: guests need no usage of the schema
begin atomic select queue.follow(p_topic, p_follower_id);
end;
comment on function public.follow_topic is
  E'Report that a client follows a private topic: {again_seconds, check_seconds}.\n\n'
  'Call it before joining and every again_seconds while joined: jobs and sessions send only then.';
select queue.allow('anon, authenticated, service_role', 'public.follow_topic');

create function public.stream_topics(p_topics jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_expires_at constant timestamptz := clock_timestamp() + interval '1 minute';
begin
  perform queue.refuse_revoked();
  delete from queue.streamed_topics where expires_at < clock_timestamp();
  insert into queue.streamed_topics as s (topic, expires_at)
  select distinct t, v_expires_at
  from jsonb_array_elements_text(p_topics) as t
  order by t
  on conflict (topic) do update set expires_at = excluded.expires_at;
  return jsonb_build_object('again_seconds', 30);
end;
$$;
comment on function public.stream_topics is
  'Be notified of topics on the channel minutehand_events, for a minute: {again_seconds}.';
select queue.allow('job_worker, service_role', 'public.stream_topics');

-- The number before which every line of the feed is committed.
create function queue.feed_end()
returns bigint
language sql stable
set search_path = ''
as $$
select pg_snapshot_xmin(pg_current_snapshot())::text::bigint
  + coalesce(pg_sequence_last_value('queue.feed_base'), 0)
$$;
revoke execute on function queue.feed_end from public;

-- The feed's number of a transaction id. The first after a dump was restored into a server that has
-- not come as far raises the base: what follows is behind all that the dump brought, lines and
-- positions, and these stay as they are.
create function queue.feed_number(p_xid xid8)
returns bigint
language plpgsql
set search_path = ''
as $$
declare
  v_xid constant bigint := p_xid::text;
  v_number bigint := v_xid + coalesce(pg_sequence_last_value('queue.feed_base'), 0);
begin
  if v_number >= coalesce(pg_sequence_last_value('queue.feed_reached'), 0) then
    return v_number;
  end if;
  -- until the end of the transaction: others wait here once, after a restore
  perform queue.try_lock('feed', true);
  v_number := v_xid + coalesce(pg_sequence_last_value('queue.feed_base'), 0);
  if v_number < pg_sequence_last_value('queue.feed_reached') then
    v_number := v_xid + setval(
      'queue.feed_base',
      greatest(
        pg_sequence_last_value('queue.feed_reached'),
        (select max(f.number) from queue.feed as f),
        (select max(t.read_to) from queue.tasks as t)
      )
    );
  end if;
  return v_number;
end;
$$;
revoke execute on function queue.feed_number from public;

-- Which history a cursor is of, in numbers: Postgres begins a timeline where a server is recovered
-- to an instant or promoted, and may give transaction ids again; a restore raises the base.
create function queue.history()
returns text
language sql stable
set search_path = ''
as $$
select concat(
  case
    when pg_is_in_recovery()
      then (select c.timeline_id from pg_control_checkpoint() as c)
    else ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer
  end,
  '.',
  coalesce(pg_sequence_last_value('queue.feed_base'), 0)
)
$$;
revoke execute on function queue.history from public;

-- Delete old lines of the feed, read or not; a cursor before read_to may miss some.
create function queue.do_live(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_before timestamptz := p_now
    - make_interval(hours => queue.setting('feed_hours')::integer);
  v_gone record;
begin
  with oldest as (
    select f.ctid, f.at
    from queue.feed as f
    order by f.number
    limit 5000
  ),
  gone as (
    delete from queue.feed
    where ctid = any (array(select o.ctid from oldest as o where o.at < v_before))
    returning number
  )
  select max(g.number) as number, count(*)::integer as lines
  into v_gone
  from gone as g;
  update queue.tasks
  set read_to = greatest(read_to, v_gone.number)
  where name = 'live' and v_gone.lines > 0;
  return v_gone.lines;
end;
$$;
revoke execute on function queue.do_live from public;

-- Take what deleted jobs of these workspaces said out of the feed, where none of a line's jobs is
-- left. p_since: when the first of them was created.
create function queue.forget_in_feed(
  p_ids uuid[],
  p_workspaces uuid[],
  p_since timestamptz
)
returns void
language plpgsql
set search_path = ''
as $$
begin
  -- a line that another transaction has changed meanwhile is locked by the first, and found by the
  -- second
  for v_try in 1 .. 2 loop
    update queue.feed
    set data = '{}', session_id = null
    where ctid = any (array(
      select f.ctid
      from queue.feed as f
      where f.workspace_id = any (p_workspaces)
        and f.at >= p_since
        and (f.data <> '{}' or f.session_id is not null)
        and exists (
          select from unnest(f.job_ids) as i (id)
          where i.id in (select d.id from unnest(p_ids) as d (id))
        )
        and not exists (select from public.jobs as j where j.id = any (f.job_ids))
      order by f.number, f.id
      for update
    ));
  end loop;
end;
$$;
revoke execute on function queue.forget_in_feed from public;

-- A cursor, written as text: its reader has seen what one snapshot sees, and reads what another
-- (until) sees; number, id and nth are the line of that batch that was read last, and its event.
create type queue.feed_cursor as (
  history text,
  seen pg_snapshot,
  until pg_snapshot,
  number bigint,
  id bigint,
  nth bigint
);

-- Read a cursor ("1:1:" the beginning, none now); null for one of another history, or too old.
create function queue.read_cursor(p_cursor text)
returns queue.feed_cursor
language plpgsql stable
set search_path = ''
as $$
declare
  v_now constant pg_snapshot := pg_current_snapshot();
  v_base constant bigint := coalesce(pg_sequence_last_value('queue.feed_base'), 0);
  v_cursor queue.feed_cursor;
begin
  v_cursor := case
    when p_cursor is null
      then row(null, v_now, null, null, null, null)::queue.feed_cursor
    when p_cursor = '1:1:' then row(
      null,
      '1:1:',
      null,
      '-9223372036854775808',
      null,
      null
    )::queue.feed_cursor
    else p_cursor::queue.feed_cursor
  end;
  -- it comes back with each event
  if v_cursor.seen is null or length(p_cursor) > 8192 then
    raise data_exception;
  end if;
  v_cursor := row(
    v_cursor.history,
    v_cursor.seen,
    coalesce(v_cursor.until, v_now),
    coalesce(v_cursor.number, v_base + pg_snapshot_xmin(v_cursor.seen)::text::bigint),
    coalesce(v_cursor.id, 0),
    coalesce(v_cursor.nth, 0)
  );
  if v_cursor.history <> queue.history()
    or pg_snapshot_xmax(v_cursor.seen) > pg_snapshot_xmax(v_now)
    or v_cursor.seen::text <> '1:1:'
      and exists (
        select from queue.tasks as t
        where t.name = 'live'
          and t.read_to
          between v_base + pg_snapshot_xmin(v_cursor.seen)::text::bigint
          and queue.feed_end()
      )
  then
    return null;
  end if;
  return v_cursor;
exception when data_exception then
  perform queue.refuse(400, 'invalid_argument', 'unknown cursor', 'cursor');
end;
$$;
revoke execute on function queue.read_cursor from public;

-- Lines of a workspace's feed, or of a session's, from a cursor's line on.
create function queue.feed_lines(
  p_workspace_id uuid,
  p_session_id text,
  p_at queue.feed_cursor,
  p_limit integer
)
returns setof queue.feed
language plpgsql stable
set search_path = ''
as $$
declare
  v_last constant bigint := pg_snapshot_xmax(p_at.until)::text::bigint
    + coalesce(pg_sequence_last_value('queue.feed_base'), 0);
begin
  return query
    (
      select f.*
      from queue.feed as f
      where p_session_id is null
        and f.workspace_id = p_workspace_id
        and f.number <= v_last
        and (f.number, f.id) >= (p_at.number, p_at.id)
      order by f.number, f.id
      limit p_limit
    )
    union all
    (
      select f.*
      from queue.feed as f
      where f.session_id = p_session_id
        and f.number <= v_last
        and (f.number, f.id) >= (p_at.number, p_at.id)
      order by f.number, f.id
      limit p_limit
    );
end;
$$;
revoke execute on function queue.feed_lines from public;

-- A page of a feed by (number, id): what the cursor's snapshot does not see and until does. It
-- reads at most 1,000 lines, so an empty page may have more. A session's feed has progress too.
create function queue.read_feed(
  p_workspace_id uuid,
  p_session_id text,
  p_cursor text,
  p_limit integer
)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  c_limit constant integer := least(1000, greatest(1, coalesce(p_limit, 500)));
  v_history constant text := queue.history();
  -- a line up to here was committed elsewhere: its transaction id says nothing here
  v_base constant bigint := coalesce(pg_sequence_last_value('queue.feed_base'), 0);
  v_hidden constant text[] := case
    when p_session_id is null then '{job.progress,job.log}'
    else '{job.log}'
  end;
  -- with both, the caller has shown that it may read this session of this workspace
  v_all constant boolean := p_session_id is null
    or p_workspace_id is not null
    or queue.is_service();
  v_cursor constant queue.feed_cursor := queue.read_cursor(p_cursor);
  v_page record;
begin
  if v_cursor.seen is null then
    return '{"events": [], "places": [], "more": false, "reset": true}' || jsonb_build_object(
      'cursor', format('(%s,"%s",,,,)', v_history, pg_current_snapshot())
    );
  end if;
  -- more than is new after a message: many may look after each
  perform queue.take_call_slot(p_workspace_id)
  from (
    select sum(cardinality(f.job_ids)) as events
    from queue.feed_lines(p_workspace_id, p_session_id, v_cursor, 101) as f
  ) as f
  where f.events > 100;
  with lines as materialized (
    select
      f.*,
      row_number() over w as n,
      sum(cardinality(f.job_ids)) over w - cardinality(f.job_ids) as before
    from queue.feed_lines(p_workspace_id, p_session_id, v_cursor, 1000) as f
    window w as (order by f.number, f.id)
  ),
  -- events of the first line that were read before do not count: it may have thousands
  slice as (
    select l.*
    from lines as l
    where l.before - v_cursor.nth <= c_limit + 1000
  ),
  found as (
    select
      s.type,
      s.data,
      s.at,
      i.job_id,
      i.seq,
      row_number() over (order by s.n, i.nth) as n,
      row(
        v_history, v_cursor.seen, v_cursor.until, s.number, s.id, i.nth
      )::queue.feed_cursor as cursor
    from slice as s
    cross join lateral unnest(s.job_ids, s.seqs) with ordinality as i (
      job_id,
      seq,
      nth
    )
    where i.seq is not null
      and s.type <> all (v_hidden)
      and (v_all or s.workspace_id in (select queue.my_workspaces()))
      and (p_workspace_id is null or s.workspace_id = p_workspace_id)
      and not pg_visible_in_snapshot(s.xid, v_cursor.seen)
      and (s.number <= v_base or pg_visible_in_snapshot(s.xid, v_cursor.until))
      and (s.id <> v_cursor.id or i.nth > v_cursor.nth)
    order by n
    limit c_limit + 1
  )
  select
    coalesce(
      jsonb_agg(
        jsonb_build_object(
          'job_id', f.job_id,
          'seq', f.seq,
          'type', f.type,
          'data', f.data,
          'created_at', f.at
        )
        order by f.n
      ) filter (where f.n <= c_limit),
      '[]'
    ) as events,
    coalesce(
      jsonb_agg(f.cursor::text order by f.n) filter (where f.n <= c_limit),
      '[]'
    ) as places,
    case
      when count(*) > c_limit then (array_agg(f.cursor order by f.n))[c_limit]
      when (select count(*) from lines) = 1000
          or (select count(*) from slice) < (select count(*) from lines)
        then (
          select row(
            v_history,
            v_cursor.seen,
            v_cursor.until,
            s.number,
            s.id,
            cardinality(s.job_ids)
          )::queue.feed_cursor
          from slice as s
          order by s.n desc
          limit 1
        )
    end as cursor
  into v_page
  from found as f;
  return jsonb_build_object(
    'events', v_page.events,
    'places', v_page.places,
    'more', v_page.cursor is not null,
    'cursor', coalesce(
      v_page.cursor,
      row(v_history, v_cursor.until, null, null, null, null)::queue.feed_cursor
    )::text
  );
end;
$$;
revoke execute on function queue.read_feed from public;

create function public.event_feed(
  p_workspace_id uuid,
  p_cursor text default null,
  p_limit integer default 500
)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
begin
  perform queue.may_read(p_workspace_id);
  return queue.read_feed(p_workspace_id, null, p_cursor, p_limit);
end;
$$;
comment on function public.event_feed is
  E'State changes of a workspace''s jobs after a cursor: {events: [{job_id, seq, type, data, '
  'created_at}], places, cursor, more, reset?}.\n\nEach once, in order of a job''s seq; without a '
  'cursor from now, with "1:1:" all. reset: some may be missed; places: the cursor after each.';
select queue.allow('authenticated, service_role', 'public.event_feed');

-- Guest sessions, open to one user outside the workspace or to all who have the unguessable id.
create table queue.guest_sessions (
  session_id text primary key,
  workspace_id uuid not null, -- whose jobs it shows, not others' with the same session_id
  user_id uuid, -- the one user it is for; null for anyone who holds the id
  opened_at timestamptz not null default queue.clock(),
  expires_at timestamptz not null,
  constraint guest_sessions_id_is_unguessable
    check (session_id ~ '^guest_[0-9a-f]{64}$')
);
alter table queue.guest_sessions enable row level security;
revoke all on queue.guest_sessions from public, anon, authenticated, service_role;
create index guest_sessions_by_workspace on queue.guest_sessions (workspace_id);
create index guest_sessions_by_end on queue.guest_sessions (expires_at);

create function public.guest_key()
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
begin
  perform queue.refuse_revoked();
  return jsonb_build_object('key', queue.setting('guest_key'));
end;
$$;
comment on function public.guest_key is
  E'The key, in hexadecimal, that signs the address of a guest: {key}.\n\nIn x-minutehand-client: '
  'the address, the Unix time and hex(sha256(key || sha256(key || "address time"))).';
select queue.allow('job_worker, service_role', 'public.guest_key');

-- For apps: count what a guest does in a workspace, or refuse it: at most <name>_per_minute (null:
-- no limit) from an address (IPv6: a /64) that the API signed or the gateway saw, never one that
-- the caller states. People with an account have other limits, the service none.
create function queue.admit_guest(p_name text, p_workspace_id uuid)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_headers constant jsonb := nullif(current_setting('request.headers', true), '');
  v_signed constant text[] := string_to_array(
    v_headers ->> 'x-minutehand-client',
    ' '
  );
  v_key constant bytea := decode(queue.setting('guest_key') #>> '{}', 'hex');
  v_most constant double precision := queue.setting(
    p_name || '_per_minute'
  ) #>> '{}';
  v_address inet;
begin
  if queue.setting('allow_anonymous') is distinct from 'true' then
    perform queue.refuse(
      401,
      'unauthorized',
      'Unauthorized',
      'guests are not allowed here'
    );
  elsif v_most is null
    or auth.jwt() ->> 'role' = 'service_role'
    or queue.caller() is not null
      and coalesce(auth.jwt() ->> 'is_anonymous', '') <> 'true'
  then
    return;
  end if;
  begin
    v_address := case
      when v_signed[3] = encode(
        sha256(
          v_key || sha256(
            v_key || convert_to(v_signed[1] || ' ' || v_signed[2], 'utf8')
          )
        ),
        'hex'
      )
          and abs(extract(epoch from queue.clock()) - v_signed[2]::numeric) < 120
        then v_signed[1]
      else coalesce(
        v_headers ->> (queue.setting('client_address_header') #>> '{}'),
        -- what comes before the last is the caller's own word
        btrim(split_part(v_headers ->> 'x-forwarded-for', ',', -1))
      )
    end;
  exception when invalid_text_representation then
    v_address := null;
  end;
  v_address := set_masklen(
    v_address,
    case family(v_address) when 6 then 64 else 32 end
  );
  perform queue.spend(
    format(
      'g:%s/%s/%s',
      p_name,
      p_workspace_id,
      coalesce(host(network(v_address)), 'unknown')
    ),
    v_most,
    60,
    1,
    queue.clock(),
    p_name
  );
end;
$$;
revoke execute on function queue.admit_guest from public;

-- For apps: the workspace that their guests share, once one is admitted there; it has no members.
create function queue.guest_workspace(p_id uuid, p_name text, p_limit text)
returns uuid
language plpgsql
set search_path = ''
as $$
begin
  perform queue.admit_guest(p_limit, p_id);
  insert into public.workspaces (id, name)
  values (p_id, p_name)
  on conflict (id) do nothing;
  return p_id;
end;
$$;
revoke execute on function queue.guest_workspace from public;

-- The guest session of an id while it is open, if the caller may follow it: a member of its
-- workspace, its user (if anonymous where allow_anonymous is true), or there anyone if it has none.
create function queue.guest_session(p_session_id text)
returns setof queue.guest_sessions
language sql stable
set search_path = ''
as $$
select s
from queue.guest_sessions as s
where s.session_id = p_session_id
  and s.expires_at > (select queue.clock())
  and case
    when s.user_id is null then queue.setting('allow_anonymous') = 'true'
    else auth.jwt() ->> 'role' = 'service_role'
      or s.workspace_id in (select queue.my_workspaces())
      or s.user_id = queue.caller(false)
        and (
          auth.jwt() ->> 'is_anonymous' is distinct from 'true'
          or queue.setting('allow_anonymous') = 'true'
        )
  end
$$;
revoke execute on function queue.guest_session from public;

-- A job as guests of its session see it: no payload, and not who made it.
create function queue.guest_json(p_job public.jobs)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object(
  'id', p_job.id,
  'session_id', p_job.session_id,
  'job_type', p_job.job_type,
  'status', p_job.status,
  'result', p_job.result,
  'error_message', p_job.error_message,
  'attempts', p_job.attempts,
  'max_attempts', p_job.max_attempts,
  'next_retry_at', p_job.next_retry_at,
  'scheduled_for', p_job.scheduled_for,
  'started_at', p_job.started_at,
  'finished_at', p_job.finished_at,
  'completed_at', p_job.completed_at,
  'cancel_requested_at', p_job.cancel_requested_at,
  'created_at', p_job.created_at,
  'updated_at', p_job.updated_at,
  'last_seq', p_job.last_seq,
  'progress', coalesce(
    p_job.progress,
    '{"percentage": 0, "stage": null, "message": null}'
  )
)
$$;
revoke execute on function queue.guest_json from public;

create function queue.session_jobs(p_session_id text)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_session queue.guest_sessions;
begin
  select s.* into v_session from queue.guest_session(p_session_id) as s;
  if not found then -- missing, ended or another's; without its id, which may be a key
    perform queue.refuse(404, 'session_not_found', 'session not found');
  end if;
  perform queue.take_call_slot(v_session.workspace_id);
  return jsonb_build_object(
    'session_id', p_session_id,
    'expires_at', v_session.expires_at,
    'jobs', (
      select coalesce(jsonb_agg(queue.guest_json(g) order by g.id desc), '[]')
      from (
        select *
        from public.jobs as j
        where j.session_id = p_session_id
          and j.workspace_id = v_session.workspace_id
        order by j.id desc
        limit 200
      ) as g
    )
  );
end;
$$;
select queue.allow('anon, authenticated, service_role', 'queue.session_jobs');

-- The workspace whose jobs a session shows the caller; null where it shows those of all their own.
create function queue.shown_workspace(p_session_id text)
returns uuid
language plpgsql stable
set search_path = ''
as $$
declare
  v_workspace constant uuid := (
    select s.workspace_id
    from queue.guest_session(p_session_id) as s
  );
begin
  if v_workspace is null
    and not exists (
      select from public.jobs as j
      where j.session_id = p_session_id
        and (
          j.workspace_id in (select queue.my_workspaces())
          or auth.jwt() ->> 'role' = 'service_role'
        )
    )
  then
    perform queue.refuse(404, 'session_not_found', 'session not found');
  end if;
  return v_workspace;
end;
$$;
revoke execute on function queue.shown_workspace from public;

create function queue.session_feed(
  p_session_id text,
  p_cursor text,
  p_limit integer
)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
begin
  return queue.read_feed(
    queue.shown_workspace(p_session_id),
    p_session_id,
    coalesce(p_cursor, '1:1:'),
    p_limit
  );
end;
$$;
select queue.allow('anon, authenticated, service_role', 'queue.session_feed');

-- Bodies are bound when they are made: the roles that call them need no usage of queue.
create function public.guest_session_jobs(p_session_id text)
returns jsonb
language sql stable
set search_path = '' begin atomic select queue.session_jobs(p_session_id);
end;
comment on function public.guest_session_jobs is
  E'Jobs of a guest session, newest first, at most 200, without payloads: {session_id, expires_at, '
  'jobs}.\n\n404 session_not_found for an id that is wrong, ended, closed, or another user''s.';
select queue.allow(
  'anon, authenticated, service_role',
  'public.guest_session_jobs'
);

create function public.session_feed(
  p_session_id text,
  p_cursor text default null,
  p_limit integer default 500
)
returns jsonb
language sql stable
set search_path = '' begin atomic select queue.session_feed(
  p_session_id,
  p_cursor,
  p_limit
);
end;
comment on function public.session_feed is
  'Events of a session''s jobs, as event_feed, without logs; without a cursor all that are kept.';
select queue.allow('anon, authenticated, service_role', 'public.session_feed');

-- Open a session of a workspace to one user or, for null, to anyone who has its id.
create function queue.open_session(
  p_workspace_id uuid,
  p_user_id uuid,
  p_seconds double precision
)
returns queue.guest_sessions
language plpgsql
set search_path = ''
as $$
declare
  v_made queue.guest_sessions;
begin
  insert into queue.guest_sessions (session_id, workspace_id, user_id, expires_at)
  values (
    'guest_' || encode(
      uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()),
      'hex'
    ),
    p_workspace_id,
    p_user_id,
    queue.clock() + make_interval(secs => p_seconds)
  )
  returning * into v_made;
  return v_made;
end;
$$;
revoke execute on function queue.open_session from public;

create function public.open_guest_session(
  p_workspace_id uuid,
  p_options jsonb default '{}'
)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_seconds constant double precision := coalesce(
    p_options ->> 'ttl_seconds',
    '86400'
  );
  v_user constant uuid := p_options ->> 'user_id';
  v_made queue.guest_sessions;
begin
  perform queue.may_manage(p_workspace_id);
  perform queue.check_names(p_options, array['ttl_seconds', 'user_id'], 'options');
  if v_seconds not between 1 and 2592000 then
    perform queue.refuse(
      400,
      'invalid_argument',
      'ttl_seconds must be from 1 to 2592000, thirty days',
      'ttl_seconds'
    );
  elsif v_user is null
    and queue.setting('allow_anonymous') is distinct from 'true'
  then
    perform queue.refuse(
      403,
      'forbidden',
      'anonymous guest sessions are off: name a user_id, or let the operator set allow_anonymous',
      'allow_anonymous'
    );
  end if;
  v_made := queue.open_session(p_workspace_id, v_user, v_seconds);
  perform queue.admit('changes', p_workspace_id, queue.caller());
  return to_jsonb(v_made);
end;
$$;
comment on function public.open_guest_session is
  E'Open a session to someone outside: {session_id, workspace_id, user_id, opened_at, expires_at}. '
  'For managers.\n\nIt shows jobs with its id. Options: ttl_seconds (86400), user_id (any).';
select queue.allow('authenticated, service_role', 'public.open_guest_session');
