-- This file publishes events of jobs. Most changes of a job insert a row into queue.feed, and send
-- a message through Supabase Realtime. The message goes to the topic of the job's workspace. If
-- clients follow the topics of the job or of its session, the message also goes to these topics.
-- The last part of this file has guest sessions.
--
-- If a workspace has few changes, each statement that changes jobs sends its own Realtime messages.
-- If a workspace has many changes, the publisher (queue.do_announcements) sends one message per
-- topic for all new rows of queue.feed. Calls of workers run the publisher, at most ten times a
-- second. The message budget is the number of Realtime messages that may be sent in a second. If
-- the budget is too small for a topic's message, the followers of the topic later get a message
-- that asks them to read the jobs again.

-- The number of a row of queue.feed is a transaction id (see the column number) plus the value of
-- the sequence feed_base. The sequence feed_base is zero until a dump is restored on another
-- server. If the new server has lower transaction ids than the server of the dump,
-- queue.feed_number raises the sequence.
create sequence queue.feed_base minvalue 0;
-- Highest number of a feed row at the time of the last maintenance. If the number of a new feed row
-- would be lower, the database was restored from a dump of another server (queue.feed_number).
create sequence queue.feed_reached minvalue 0;

insert into queue.settings (name, value)
values
  ('realtime_messages_per_second', '"pro"'), -- free, pro, or a number
  ('allow_anonymous', 'false'),
  -- Name of the header with the client's address, which the gateway of hosted Supabase sets. If a
  -- request lacks this header, the last address of x-forwarded-for is used.
  ('client_address_header', '"cf-connecting-ip"'),
  (
    'guest_key',
    to_jsonb( -- key with which the API signs a guest's address when it forwards a call
      replace(concat(gen_random_uuid(), gen_random_uuid()), '-', '')
    )
  );

-- Counters of Realtime messages. A message counts once, and each delivery of the message to a
-- client counts once more, as in Supabase's plans. The counters are sequences, because a
-- transaction increases a sequence without a row lock, and other transactions see the new value
-- before the commit. The sequences are unlogged, because they may restart at zero after a crash of
-- the server, when no client is connected.
create unlogged sequence queue.messages_counted; -- noqa: PRS
create unlogged sequence queue.messages_second minvalue 0; -- current second, as Unix time
-- value of messages_counted, and next number of a feed row, at the start of the current second
create unlogged sequence queue.messages_before minvalue 0;
create unlogged sequence queue.number_before minvalue 0;

create unlogged table queue.followers (
  topic text not null,
  user_id uuid not null, -- the nil UUID for a guest
  follower_id uuid not null, -- id that the client chose for itself
  seen_at timestamptz not null,
  primary key (topic, user_id, follower_id)
);
create index followers_by_user on queue.followers (user_id);

-- Topics that an API server streams to its clients. A row of queue.streamed_topics expires after
-- one minute.
create unlogged table queue.streamed_topics (
  topic text primary key,
  expires_at timestamptz not null,
  constraint streamed_topics_are_bounded check (char_length(topic) <= 300)
);

-- Passes of the publisher, which is the function queue.do_announcements. Each pass inserts a new
-- row, because updates of a single row would get slow while an old snapshot is open. The last row
-- stores which rows of queue.feed the publisher has read.
create table queue.publisher (
  round bigint generated always as identity primary key, -- number of the pass
  seen pg_snapshot not null, -- the publisher has read all feed rows that are visible in `seen`
  xid xid8, -- transaction of the pass
  own_id bigint, -- the publisher has also read the feed rows of `xid` with ids up to own_id
  -- The next three columns are null if the pass reached the end of the feed. If the pass did not
  -- reach the end of the feed, the next pass continues after the feed row (number, id), and reads
  -- only feed rows that are visible in `until`.
  until pg_snapshot,
  number bigint,
  id bigint
);
-- The two sequences store times in tenths of a second since 1970. unsent_at is the last time at
-- which a statement left its Realtime messages to the publisher. published_at is the last time at
-- which the call of a worker ran the publisher.
create unlogged sequence queue.unsent_at minvalue 0 start 0; -- noqa: PRS
create unlogged sequence queue.published_at minvalue 0 start 0; -- noqa: PRS

-- Topics that got no message because the message budget was used up. The publisher later asks the
-- followers of these topics to read the jobs again.
create table queue.late_topics (
  topic text primary key,
  workspace_id uuid not null,
  since timestamptz not null, -- time of the oldest event that was not sent
  unique (workspace_id, topic)
);
comment on column queue.late_topics.topic is 'Person: words'; -- see 18_people.sql

-- Return how many Realtime messages may be sent per second, and how many were already sent in the
-- current second. The message budget of a plan is 80 % of the plan's rate, because Realtime
-- averages the rate over five seconds. Five seconds can overlap six of the seconds that this
-- function counts, so the budget must be less than 5/6 of the rate.
-- p_changes: Changes of jobs that the caller is about to publish.
-- is_streamed: True if an API server streams any topic to its clients.
-- is_followed: True if any topic has a follower.
-- is_busy: True if the publisher must send the messages, because p_changes needs more messages than
--   the budget, or because queue.feed got five rows of one workspace in the current second. In this
--   second case the other results are not computed.
create function queue.message_budget(
  p_changes queue.change[],
  out budget bigint,
  out used bigint,
  out is_streamed boolean,
  out is_followed boolean,
  out is_busy boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_second bigint := date_part('epoch', clock_timestamp())::bigint;
  v_ignored bigint;
  v_number bigint := pg_sequence_last_value('queue.number_before');
begin
  if v_second is distinct from pg_sequence_last_value('queue.messages_second') then
    -- read the counter of messages before storing the new second, so that a message sent between
    -- the two statements counts in the new second
    v_ignored := setval(
      'queue.messages_before',
      coalesce(pg_sequence_last_value('queue.messages_counted'), 0)
    );
    v_number := setval(
      'queue.number_before',
      coalesce(pg_sequence_last_value('queue.feed_base'), 0)
        + pg_snapshot_xmax(pg_current_snapshot())::text::bigint
    );
    v_second := setval('queue.messages_second', v_second);
  end if;
  select
    exists (select from queue.streamed_topics),
    exists (
      select from unnest(p_changes) as c
      where exists (
        select from queue.feed as f
        where f.workspace_id = c.workspace_id and f.number >= v_number
        offset 4
      )
    )
  into is_streamed, is_busy;
  if is_busy then
    return;
  end if;
  select
    case s.value
      when '"free"' then 80
      when '"pro"' then 400
      else s.value::bigint
    end,
    exists (select from queue.followers)
  into budget, is_followed
  from queue.settings as s
  where s.name = 'realtime_messages_per_second';
  used := coalesce(pg_sequence_last_value('queue.messages_counted'), 0)
    - pg_sequence_last_value('queue.messages_before');
  is_busy := used + 2 * cardinality(p_changes) > budget;
end;
$$;

-- A Realtime message for one topic of a workspace.
-- since: Time of the oldest event in the message.
-- has_output: True if the message contains output of a job.
-- cost: Cost of the message as Supabase's plans count it, which is one plus the number of
--   deliveries.
create type queue.message as (
  topic text,
  workspace_id uuid,
  since timestamptz,
  has_output boolean,
  event text,
  payload jsonb,
  cost bigint
);

-- Build one Realtime message from groups of events. The events of a group are equal except for
-- their job and seq. A message with a single event contains the event itself, without a group.
create function queue.message_of(
  p_groups jsonb,
  out event text,
  out payload jsonb
)
language plpgsql immutable
set search_path = ''
as $$
declare
  v_one constant jsonb := p_groups -> 0;
begin
  if p_groups -> 1 is null and v_one #> '{job_ids,1}' is null then
    event := v_one ->> 'type';
    payload := v_one - '{job_ids,seqs}'::text[] || jsonb_build_object(
      'job_id', v_one #> '{job_ids,0}',
      'seq', v_one #> '{seqs,0}'
    );
  else
    event := 'job.events';
    payload := jsonb_build_object('groups', p_groups);
  end if;
end;
$$;

create function queue.group_of(p_change queue.change)
returns jsonb
language plpgsql immutable
set search_path = ''
as $$
begin
  return jsonb_build_object(
    'type', p_change.type,
    'data', p_change.data,
    'at', p_change.at,
    'job_ids', p_change.job_ids,
    'seqs', case
      when p_change.seqs[1] = all (p_change.seqs) then p_change.seqs[1:1]
      else p_change.seqs
    end
  );
end;
$$;

-- Return the Realtime messages that report changes of jobs. The topic of a workspace receives only
-- changes of a job's state. If the topic of a session has followers, it receives all changes except
-- log lines. If the topic of a job has followers, it receives all changes except the job's
-- creation, because no one can follow a job before it exists. If no topic has followers, the
-- message for up to ten events of a workspace is built without a query, because a query would take
-- 8 % of the time of a settlement. tests/sql/test_live.py checks that the query would build the
-- same message.
create function queue.messages_of(
  p_changes queue.change[],
  p_is_followed boolean,
  out messages queue.message[],
  out cost bigint
)
language plpgsql
set search_path = ''
as $$
declare
  v_one constant queue.change := p_changes[1];
  v_groups jsonb := '[]';
  v_each queue.change;
  v_message record;
begin
  if not p_is_followed and cardinality(p_changes) <= 10 then
    foreach v_each in array p_changes loop
      exit when v_each.workspace_id <> v_one.workspace_id
        or v_each.seqs is null
        or v_each.job_ids[2] is not null
        or v_each.type in ('job.progress', 'job.log', 'job.output');
      v_groups := v_groups || queue.group_of(v_each);
    end loop;
    if jsonb_array_length(v_groups) = cardinality(p_changes) then
      v_message := queue.message_of(v_groups);
      cost := 2;
      messages := array[
        row(
          'workspace:' || v_one.workspace_id,
          v_one.workspace_id,
          v_one.at,
          false,
          v_message.event,
          v_message.payload,
          2
        )::queue.message
      ];
      return;
    end if;
  end if;
  with changes as materialized (
    select c.*, row_number() over () as n
    from unnest(p_changes) as c
    where c.seqs is not null
  ),
  wanted as (
    select 'workspace:' || c.workspace_id as topic, c.*
    from changes as c
    where c.type not in ('job.progress', 'job.log', 'job.output')
    union all
    select 'session:' || c.session_id, c.*
    from changes as c
    where c.type <> 'job.log'
      -- without this condition, Postgres would call queue.session_workspace for each change
      and c.session_id is not null
      and exists (
        select from queue.followers as f
        where f.topic = 'session:' || c.session_id
      )
      and queue.session_workspace(c.session_id) = c.workspace_id
    union all
    select
      'job:' || i.id,
      c.workspace_id,
      c.session_id,
      c.type,
      c.data,
      array[i.id],
      array[i.seq],
      c.at,
      c.n
    from changes as c
    cross join unnest(c.job_ids, c.seqs) as i (id, seq)
    where c.type <> 'job.created'
      and i.id in (
        select substr(f.topic, 5)::uuid
        from queue.followers as f
        where f.topic like 'job:%'
      )
  ),
  -- Realtime accepts messages of up to 256 kB. Limit a message to 100 kB as measured by
  -- pg_column_size, because the JSON text of the message may be longer than pg_column_size returns.
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
  ),
  grouped as (
    select
      b.topic,
      b.workspace_id,
      min(b.at) as since,
      bool_or(b.type = 'job.output') as has_output,
      jsonb_agg(
        queue.group_of(
          row(
            b.workspace_id, b.session_id, b.type, b.data, b.job_ids, b.seqs, b.at
          )::queue.change
        )
        order by b.n
      ) as groups,
      1 + greatest(1, (select count(*) from queue.followers as f where f.topic = b.topic)) as cost
    from bins as b
    group by b.topic, b.workspace_id, b.bin
    order by b.topic, b.bin
  )
  select
    array_agg(
      row(
        g.topic, g.workspace_id, g.since, g.has_output, m.event, m.payload, g.cost
      )::queue.message
    ),
    coalesce(sum(g.cost), 0)
  into messages, cost
  from grouped as g
  cross join lateral queue.message_of(g.groups) as m;
end;
$$;

-- Add the messages to the count of the current second, and insert them into realtime.messages.
-- Return false if the messages could not be inserted.
-- p_raises: True to raise the error if the messages could not be inserted.
create function queue.write_messages(
  p_messages queue.message[],
  p_cost bigint,
  p_raises boolean default false
)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_ignored bigint;
begin
  for v_nth in 1 .. p_cost loop
    v_ignored := nextval('queue.messages_counted');
  end loop;
  insert into realtime.messages (id, topic, extension, event, payload, private)
  select queue.new_id(), m.topic, 'broadcast', m.event, m.payload, true
  from unnest(p_messages) as m;
  return true;
exception when others then -- a failed message must not fail an enqueue or a settlement
  -- When a client connects, Realtime creates the partition of realtime.messages for the day. If the
  -- partition of the day is missing, no client is connected that needs the message, so return true.
  if p_raises and sqlstate <> '23514' then
    raise;
  end if;
  raise warning 'messages were not sent: % (%)', sqlerrm, sqlstate;
  return sqlstate = '23514';
end;
$$;

-- Send the Realtime messages that report changes of jobs, and notify API servers that stream the
-- topics of these messages. Return false if the publisher must send the messages, because the
-- workspace has too many changes, the message budget is too small or Realtime fails. Messages about
-- progress, log lines and output may use half of the message budget. Messages about changes of
-- state may use three quarters of the budget. Messages of the publisher may use the whole budget.
create function queue.send(p_changes queue.change[])
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_is_minor constant boolean := p_changes[1].type
    in ('job.progress', 'job.log', 'job.output');
  v_budget constant record := queue.message_budget(
    case when v_is_minor then '{}' else p_changes end
  );
  v_new record;
  v_at bigint;
begin
  -- notify only if an API server streams topics, because each commit with a notification takes a
  -- lock on the whole Postgres server
  if v_budget.is_streamed then
    perform pg_notify('minutehand_events', s.topic)
    from queue.streamed_topics as s
    where s.expires_at > clock_timestamp()
      and exists (
        select from unnest(p_changes) as c
        where s.topic = 'workspace:' || c.workspace_id and not v_is_minor
          or s.topic = 'session:' || c.session_id and c.type <> 'job.log'
          or s.topic in (select 'job:' || i from unnest(c.job_ids) as i)
      );
  end if;
  if to_regclass('realtime.messages') is null then
    return true;
  elsif not v_budget.is_busy
    -- leave the messages of a long transaction to the publisher, because the messages would all
    -- arrive at once when the transaction commits
    and clock_timestamp() - now() <= interval '1 second'
  then
    v_new := queue.messages_of(p_changes, v_budget.is_followed);
    if v_new.cost = 0 -- no topic receives any of the changes
      or v_budget.used + v_new.cost
        <= v_budget.budget * (case when v_is_minor then 0.5 else 0.75 end)
      and queue.write_messages(v_new.messages, v_new.cost)
    then
      return true;
    end if;
  end if;
  v_at := (date_part('epoch', clock_timestamp()) * 10)::bigint;
  if v_at is distinct from pg_sequence_last_value('queue.unsent_at') then
    v_at := setval('queue.unsent_at', v_at);
  end if;
  return false;
end;
$$;

-- Publish changes of jobs. The caller must have locked the jobs. A change with seqs is sent as
-- Realtime messages (queue.send). Each change is also inserted into queue.feed. Log lines, output,
-- and progress of a job without a session are inserted only if their message was not sent. A
-- completion and a lease of the same tenant and session share a row. Return true, or null if
-- p_changes is null, because queue.publish is a strict function.
-- p_is_soon: True if new jobs are due within a minute, so that the commit notifies idle workers.
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
  v_number constant bigint := queue.feed_number();
  v_unsent constant boolean := nullif(not queue.send(p_changes), false); -- true, or null
  -- two variables, because each use of a field of p_changes[n] costs more
  v_ended queue.change;
  v_leased queue.change := p_changes[2];
begin
  if v_leased.type = 'job.leased' and cardinality(p_changes) = 2 then
    v_ended := p_changes[1];
  end if;
  if v_ended.type = 'job.completed'
    and v_ended.workspace_id = v_leased.workspace_id
    and v_ended.session_id is not distinct from v_leased.session_id
  then
    p_changes := p_changes[:1];
  else
    v_leased := null;
  end if;
  insert into queue.feed (
    number, at, workspace_id, session_id, type, data, job_ids, seqs, wakes, unsent, leased_ids,
    leased_seqs, leased_data
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
    case when c.seqs is not null then v_unsent end,
    v_leased.job_ids,
    v_leased.seqs,
    v_leased.data
  from unnest(p_changes) as c
  where v_unsent
    or c.type not in ('job.progress', 'job.log', 'job.output')
    or c.type = 'job.progress' and c.session_id is not null;
  return true;
end;
$$;

-- Run one pass of the publisher. A pass reads up to 5,000 new rows of queue.feed, and sends one
-- message per topic for those rows whose statements sent no message. A pass that continues an
-- unfinished pass reads only what its snapshot `until` sees. A pass that reaches the end of
-- queue.feed also reads rows of the current transaction. If the feed rows of a topic are older than
-- two seconds, or if the message budget is too small, the message only asks the topic's followers
-- to read the jobs again. A message about output also only asks for a new read, because the feed
-- does not store output.
create function queue.do_announcements(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_xid constant xid8 := pg_current_xact_id_if_assigned();
  v_budget record;
  v_at record;
  v_new record;
  v_count integer := 0;
begin
  if to_regclass('realtime.messages') is null or not queue.try_lock('announcements') then
    return 0;
  end if;
  v_budget := queue.message_budget('{}');
  -- A transaction that was still running during the last pass may have added feed rows with low
  -- numbers. If a transaction that ran during the last pass has ended, begin this pass with the
  -- number of the transaction. For example, if transaction 7 ran while the last pass read up to the
  -- number 20, begin with 7, and skip the feed rows that are visible in `seen`.
  select p.*, l.*
  into v_at
  from (
    select
      coalesce(s.seen, '1:1:') as seen,
      s.xid,
      s.own_id,
      s.until,
      coalesce(s.until, pg_current_snapshot()) as visible,
      coalesce(
        s.number,
        coalesce(pg_sequence_last_value('queue.feed_base'), 0)
          + least(coalesce(pg_snapshot_xmax(s.seen)::text::bigint, 0), e.ended)
      ) as number,
      coalesce(s.id, 0) as id,
      e.ended is not null as is_back
    from (select) as o
    left join (
      select *
      from queue.publisher
      order by round desc
      limit 1
    ) as s on true
    cross join lateral (
      select min(x::text::bigint) as ended
      from pg_snapshot_xip(s.seen) as x
      where pg_visible_in_snapshot(x, pg_current_snapshot())
    ) as e
  ) as p
  cross join lateral (
    select
      array_agg(
        row(
          f.workspace_id, f.session_id, c.type, c.data, c.job_ids, c.seqs, f.at
        )::queue.change
        order by f.number, f.id, c.nth
      ) filter (where f.unsent) as changes,
      -- is_late is also true if messages of another topic are already late
      bool_or(
        f.type = 'job.output'
        or f.at <= p_now - interval '2 seconds'
        or exists (select from queue.late_topics)
      ) filter (where f.unsent) as is_late,
      count(*) as changes_read,
      coalesce(
        max(f.id) filter (where f.xid = v_xid),
        case when p.xid = v_xid then p.own_id end, -- an earlier pass of the transaction
        0
      ) as last_own_id,
      -- the last feed row that this pass reads, if the pass does not reach the end of the feed
      case
        when count(*) filter (where c.nth = 1) = 5000 then max(array[f.number, f.id])
      end as last
    from (
      select *
      from queue.feed as n
      where n.number >= p.number
        and (n.number, n.id) > (p.number, p.id)
        and case
          when n.xid = p.xid then n.id > p.own_id
          else not pg_visible_in_snapshot(n.xid, p.seen)
        end
        and case
          when n.xid = v_xid then p.until is null
          else pg_visible_in_snapshot(n.xid, p.visible)
        end
      order by n.number, n.id
      limit 5000
    ) as f
    cross join lateral (
      values
        (1, f.type, f.data, f.job_ids, f.seqs),
        (2, 'job.leased', f.leased_data, f.leased_ids, f.leased_seqs)
    ) as c (nth, type, data, job_ids, seqs)
    where c.job_ids is not null
  ) as l;
  if v_at.changes is not null or exists (select from queue.late_topics) then
    v_new := queue.messages_of(v_at.changes, v_budget.is_followed);
    if v_at.is_late is not false or v_new.cost > v_budget.budget - v_budget.used then
      v_new := queue.put_off(v_new.messages, v_budget.budget - v_budget.used, p_now);
    end if;
    v_count := coalesce(cardinality(v_new.messages), 0);
    if v_count > 0 then
      perform queue.write_messages(v_new.messages, v_new.cost, true);
    end if;
  end if;
  if v_at.last is not null then
    insert into queue.publisher (seen, xid, own_id, until, number, id)
    values (
      v_at.seen, v_at.xid, v_at.own_id, v_at.visible, v_at.last[1], v_at.last[2]
    );
  -- If the pass began at the number of a transaction that has ended, insert a row for the pass even
  -- without new feed rows. Without a new row in queue.publisher, the next passes would begin at the
  -- same number again.
  elsif v_at.changes_read > 0 or v_at.until is not null or v_at.is_back then
    insert into queue.publisher (seen, xid, own_id)
    values (v_at.visible, v_xid, v_at.last_own_id);
  end if;
  return v_count;
end;
$$;

-- Divide the message budget among the messages of the publisher, in three steps.
-- 1. Return messages with recent events and without output, beginning with the workspaces that have
--    the fewest messages. An event is recent for two seconds.
-- 2. Store the topics of all messages that are not returned in queue.late_topics.
-- 3. With the remaining budget, return messages that ask the followers of late topics to read the
--    jobs again. Among the late topics of a workspace, the topic that has waited longest comes
--    first. A late topic whose message alone exceeds the remaining budget comes last.
create function queue.put_off(
  p_messages queue.message[],
  p_left bigint,
  p_now timestamptz,
  out messages queue.message[],
  out cost bigint
)
language plpgsql
set search_path = ''
as $$
declare
  v_late tid[];
  v_asked record;
begin
  with priced as materialized (
    select
      m.message,
      m.n,
      not m.is_late
        and sum((m.message).cost) over (
          order by m.is_late, m.cost_of_all, (m.message).workspace_id, m.n
        ) <= p_left as is_sent
    from (
      select
        u as message,
        u.has_output or u.since <= p_now - interval '2 seconds' as is_late,
        row_number() over () as n,
        sum(u.cost) over (partition by u.workspace_id) as cost_of_all
      from unnest(p_messages) as u
    ) as m
  ),
  late as (
    insert into queue.late_topics (topic, workspace_id, since)
    select (p.message).topic, (p.message).workspace_id, min((p.message).since)
    from priced as p
    where not p.is_sent
    group by 1, 2
    on conflict (topic) do nothing
  )
  select
    array_agg(p.message order by p.n),
    coalesce(sum((p.message).cost), 0)
  into messages, cost
  from priced as p
  where p.is_sent;
  v_late := queue.fair_batch(
    'queue.late_topics',
    'true',
    'true',
    'o.since',
    p_now
  );
  with priced as (
    select
      o.*,
      sum(o.cost) over (
        order by o.cost > p_left - put_off.cost, o.nth, o.since, o.topic
      ) as total
    from (
      select
        l.*,
        1
          + greatest(1, (select count(*) from queue.followers as f where f.topic = l.topic)) as cost,
        row_number() over (partition by l.workspace_id order by l.since, l.topic) as nth
      from queue.late_topics as l
      where l.ctid = any (v_late)
    ) as o
  ),
  gone as (
    delete from queue.late_topics as l
    using priced as p
    where p.total <= p_left - put_off.cost and l.topic = p.topic
    returning p.*
  )
  select
    array_agg(
      row(
        g.topic,
        g.workspace_id,
        g.since,
        false,
        'job.look_again',
        jsonb_build_object('look_again', true, 'since', g.since, 'at', p_now),
        g.cost
      )::queue.message
      order by g.total
    ) as messages,
    coalesce(sum(g.cost), 0) as cost
  into v_asked
  from gone as g;
  messages := messages || v_asked.messages;
  cost := cost + v_asked.cost;
end;
$$;

-- Run the publisher at most once in a tenth of a second, if a statement of the last two seconds
-- left its messages to the publisher. If Realtime fails, the call of the worker still succeeds, and
-- a later call sends the messages. Maintenance also runs the publisher, because a transaction may
-- commit more than two seconds after its statement. If the publisher fails in maintenance, the
-- failure is stored in queue.tasks.
create function queue.send_unsent()
returns boolean -- an assignment costs less than the query of `perform`
language plpgsql
set search_path = ''
as $$
declare
  v_at constant bigint := (date_part('epoch', clock_timestamp()) * 10)::bigint;
  v_ignored bigint;
begin
  if v_at - pg_sequence_last_value('queue.unsent_at') between 0 and 20
    and v_at is distinct from pg_sequence_last_value('queue.published_at')
  then
    v_ignored := setval('queue.published_at', v_at);
    begin
      return queue.do_announcements(queue.clock(), null) > 0;
    exception when others then
      raise warning 'messages were not sent: % (%)', sqlerrm, sqlstate;
    end;
  end if;
  return false;
end;
$$;

-- Return the workspace whose jobs the topic of a session reports. For a guest session, return the
-- workspace that opened the session. For any other session, return the workspace of the session's
-- jobs. Return null if two workspaces use the same session id. Clients of a session that two
-- workspaces use get no messages, and poll public.session_feed.
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

-- Return the topic on which Realtime wakes workers. The id of the topic is a secret that only
-- workers receive, from public.lease_jobs. The topic changes when worker keys are revoked.
create function queue.wake_topic()
returns text
language plpgsql stable
set search_path = ''
as $$
begin
  return 'worker:' || encode(
    sha256(convert_to('wake ' || (queue.setting('guest_key') #>> '{}'), 'utf8')),
    'hex'
  );
end;
$$;

-- Return true if the caller may join a private topic of Realtime. A member of a workspace may join
-- the topic of the workspace, and the topics of its jobs and sessions. A guest may join the topic
-- of a guest session that has not ended. If a guest session is for one person, this person may also
-- join the topics of the session's jobs. A worker may join the topic of queue.wake_topic if its
-- token names no person.
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
  if v_kind = 'worker' then
    return p_topic = queue.wake_topic() and auth.jwt() ->> 'sub' is null;
  elsif v_kind = 'session' and v_id like 'guest\_%' then
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
  v_kind constant text := split_part(p_topic, ':', 1);
  v_id constant text := substr(p_topic, length(v_kind) + 2);
  v_is_new boolean;
  v_is_stored boolean;
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
  perform queue.admit('rows');
  v_is_new := not exists (
    select from queue.followers as f
    where f.topic = p_topic
      and f.user_id = v_user
      and f.follower_id = p_follower_id
  );
  -- Keep only a person's 100 newest rows (a topic and a client), so that no person can use up the
  -- message budget. The limit does not apply to guests, because all guests share one user id.
  delete from queue.followers
  where ctid = any (array(
    select o.ctid
    from (
      -- skip locked rows, because two calls of a person could otherwise wait for each other
      select f.topic, f.user_id, f.follower_id
      from queue.followers as f
      where f.user_id = queue.caller()
        and (f.topic, f.follower_id) <> (p_topic, p_follower_id)
      order by f.seen_at desc
      offset 99
    ) as old
    join queue.followers as o using (topic, user_id, follower_id)
    for update of o skip locked
  ));
  -- A concurrent call with the same ids writes the same row, so do not wait for its lock.
  insert into queue.followers as f (topic, user_id, follower_id, seen_at)
  select p_topic, v_user, p_follower_id, clock_timestamp()
  where queue.try_lock(format('follower %s/%s/%s', p_topic, v_user, p_follower_id)) and (
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
  v_is_stored := found;
  return jsonb_build_object(
    -- A transaction that did not see the new follower may commit after the client's first read,
    -- without a message. In two seconds, `seq` shows that the client missed the change.
    'again_seconds', case when v_is_new and v_is_stored then 2 else 60 end,
    -- A text that changes with each event of the topic, so that the client can detect missed
    -- messages. For a job, the text also changes when a stream of the job's output grows. For any
    -- other topic, the text is the sum of the ids of the topic's last twenty feed rows. The highest
    -- id alone would not be enough, because a transaction that commits late may add a lower id.
    'seq', case v_kind
      when 'job' then (
        select concat(j.last_seq, queue.streams_json(j.id))
        from public.jobs as j
        where j.id = v_id::uuid
      )
      when 'session' then (
        select sum(n.id)::text
        from (
          select f.id
          from queue.feed as f
          where f.session_id = v_id
          order by f.number desc, f.id desc
          limit 20
        ) as n
      )
      else (
        select sum(n.id)::text
        from (
          select f.id
          from queue.feed as f
          where f.workspace_id = v_id::uuid
          order by f.number desc, f.id desc
          limit 20
        ) as n
      )
    end,
    -- choose the interval so that all followers together poll about 50 times per second
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
set search_path = '' -- the body is parsed at creation, so guests need no usage of schema queue
begin atomic select queue.follow(p_topic, p_follower_id);
end;
comment on function public.follow_topic is
  E'Report that a client follows a private topic: {again_seconds, check_seconds, seq}.\n\nCall '
  'follow_topic before you join the topic, and then every again_seconds. Topics of jobs and '
  'sessions get messages only while a client follows them. If seq is the same as in the last call, '
  'the topic has had no event.';
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
  'Notify the Postgres channel minutehand_events about events of these topics, for one minute: '
  '{again_seconds}.';
select queue.allow('job_worker, service_role', 'public.stream_topics');

-- Return the number below which all rows of queue.feed have been committed or rolled back.
create function queue.feed_end()
returns bigint
language sql stable
set search_path = ''
as $$
select pg_snapshot_xmin(pg_current_snapshot())::text::bigint
  + coalesce(pg_sequence_last_value('queue.feed_base'), 0)
$$;

-- Return the number for rows of queue.feed that the transaction p_xid writes. After the restore of
-- a dump from another server, the restored feed rows may have higher numbers than the transaction
-- ids of this server. The first call after the restore then raises queue.feed_base, so that new
-- feed rows get higher numbers than the restored rows. Restored feed rows and cursors remain valid.
create function queue.feed_number(
  p_xid xid8 default greatest(pg_current_xact_id(), pg_snapshot_xmax(pg_current_snapshot()))
)
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
  -- Take the advisory lock 'feed', so that other transactions that write feed rows wait until this
  -- transaction ends. A transaction takes this lock only once after the database was restored.
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
    -- let the publisher begin with an empty snapshot, because the transaction ids in the restored
    -- rows of queue.publisher belong to another server
    insert into queue.publisher (seen) values ('1:1:');
    perform setval('queue.notes_gone', 0);
  end if;
  return v_number;
end;
$$;

-- Return the id of the transaction history to which a cursor belongs. The id consists of the
-- timeline of Postgres and the value of queue.feed_base. Postgres begins a new timeline when a
-- standby is promoted or a server is recovered to a point in time, because Postgres may then assign
-- the same transaction ids again. queue.feed_number raises queue.feed_base after a dump is
-- restored.
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

-- Run the maintenance task `live`. The task `live` deletes old rows of queue.feed, even if no
-- client has read them, and stores the highest deleted number in read_to. A client whose cursor is
-- before this number may have missed events.
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
  select max(g.number) as number, count(*)::integer as feed_rows
  into v_gone
  from gone as g;
  update queue.tasks
  set read_to = greatest(read_to, v_gone.number)
  where name = 'live' and v_gone.feed_rows > 0;
  return v_gone.feed_rows;
end;
$$;

-- Remove the data of each row of queue.feed whose jobs have all been deleted. While one job of a
-- feed row exists, the row keeps its data, because all jobs of a row share the data.
-- p_since: Creation time of the oldest job that is being deleted.
create function queue.scrub_feed(
  p_ids uuid[],
  p_workspaces uuid[],
  p_since timestamptz
)
returns void
language plpgsql
set search_path = ''
as $$
begin
  update queue.feed
  set data = '{}', session_id = null
  where ctid = any (array(
    select f.ctid
    from queue.feed as f
    where f.workspace_id = any (p_workspaces)
      and f.at >= p_since
      and (f.data <> '{}' or f.session_id is not null)
      and exists (
        select from unnest(f.job_ids || f.leased_ids) as i (id)
        where i.id in (select d.id from unnest(p_ids) as d (id))
      )
      and not exists (select from public.jobs as j where j.id = any (f.job_ids || f.leased_ids))
    order by f.number, f.id
    for update
  ));
end;
$$;

-- A client's position in queue.feed, which the client gets as text. The client has received all
-- events that are visible in the snapshot `seen`, and now reads the events that are visible in the
-- snapshot `until`.
-- history: Result of queue.history.
-- number, id: Number and id of the last feed row that the client has read.
-- nth: Position of the last event that the client has read, among the events of its feed row.
create type queue.feed_cursor as (
  history text,
  seen pg_snapshot,
  until pg_snapshot,
  number bigint,
  id bigint,
  nth bigint
);

-- Parse a cursor of the feed. The cursor "1:1:" begins with the oldest row of queue.feed. A null
-- cursor begins with the next new row. Return null if the cursor belongs to the history of another
-- server, or if feed rows after the cursor have been deleted.
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
  -- limit the length of the cursor, because the response contains the cursor once per event
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
    -- feed rows after the cursor have been deleted, because read_to is the highest deleted number
    -- (after a restore, read_to may be a number of another server, above queue.feed_end)
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

-- Return rows of queue.feed for a workspace or a session, beginning with the row that the cursor
-- p_at names.
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

-- Return a page of events of a workspace or a session from the feed. The page has the events that
-- are visible in the snapshot `until` of the cursor, but not in the cursor's snapshot `seen`. A
-- call reads at most 1,000 feed rows, so even an empty page may have more = true. Events about
-- progress are returned only for a session.
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
  -- Rows of queue.feed up to this number were written by another server, so the present server
  -- cannot interpret the transaction ids in these rows.
  v_base constant bigint := coalesce(pg_sequence_last_value('queue.feed_base'), 0);
  v_hidden constant text[] := case
    when p_session_id is null then '{job.progress,job.log}'
    else '{job.log}'
  end;
  -- if both the workspace and the session are given, the caller of this function has already
  -- checked access to the session
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
  -- A call that reads more than 100 events takes a call slot. A call for up to 100 events takes no
  -- slot, because many clients read a few new events at the same moment after a message.
  perform queue.take_call_slot(p_workspace_id)
  from (
    select sum(cardinality(f.job_ids || f.leased_ids)) as events
    from queue.feed_lines(p_workspace_id, p_session_id, v_cursor, 101) as f
  ) as f
  where f.events > 100;
  with feed_rows as materialized (
    select
      f.*,
      row_number() over w as n,
      f.job_ids || f.leased_ids as ids,
      sum(cardinality(f.job_ids || f.leased_ids)) over w
        - cardinality(f.job_ids || f.leased_ids) as before
    from queue.feed_lines(p_workspace_id, p_session_id, v_cursor, 1000) as f
    window w as (order by f.number, f.id)
  ),
  -- do not count the events that the client has already received from the first feed row, because a
  -- feed row may have thousands of events
  slice as (
    select l.*
    from feed_rows as l
    where l.before - v_cursor.nth <= c_limit + 1000
  ),
  found as (
    select
      e.type,
      e.data,
      s.at,
      i.job_id,
      i.seq,
      row_number() over (order by s.n, i.nth) as n,
      row(
        v_history, v_cursor.seen, v_cursor.until, s.number, s.id, i.nth
      )::queue.feed_cursor as cursor
    from slice as s
    cross join lateral unnest(s.ids, s.seqs || s.leased_seqs) with ordinality as i (
      job_id,
      seq,
      nth
    )
    cross join lateral (
      values
        (s.type, s.data, i.nth <= cardinality(s.job_ids)),
        ('job.leased', s.leased_data, i.nth > cardinality(s.job_ids))
    ) as e (type, data, is_of_job)
    where i.seq is not null
      and e.is_of_job
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
      when (select count(*) from feed_rows) = 1000
          or (select count(*) from slice) < (select count(*) from feed_rows)
        then (
          select row(
            v_history,
            v_cursor.seen,
            v_cursor.until,
            s.number,
            s.id,
            cardinality(s.ids)
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
  'created_at}], places, cursor, more, reset?}.\n\nEach event is returned once, and the events of '
  'a job in the order of seq. Without a cursor, the feed begins now. With the cursor "1:1:", the '
  'feed begins with the oldest event. reset: True if events may be missing. places: Cursor after '
  'each event.';
select queue.allow('authenticated, service_role', 'public.event_feed');

-- Guest sessions. A guest session is open to one person who is not a member of the workspace, or to
-- everyone who has the session's unguessable id.
create table queue.guest_sessions (
  session_id text primary key,
  workspace_id uuid not null, -- jobs of other workspaces with the same session_id are hidden
  user_id uuid, -- the only person with access, or null for everyone who has the id
  opened_at timestamptz not null default queue.clock(),
  expires_at timestamptz not null,
  constraint guest_sessions_id_is_unguessable
    check (session_id ~ '^guest_[0-9a-f]{64}$')
);
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
  E'Key that signs the address of a guest, in hexadecimal: {key}.\n\nThe header '
  'x-minutehand-client has the address, the Unix time and hex(sha256(key || sha256(key || "address '
  'time"))).';
select queue.allow('job_worker, service_role', 'public.guest_key');

-- For apps. Count an action of a guest against the guest's limit, or reject the action with status
-- 429. The limit for each network address is the setting whose name is p_name with the suffix
-- _per_minute. If the setting with the suffix _per_minute is null, guests have no limit. An IPv6
-- address counts as its /64 network. The address must be signed by the API or set by the gateway,
-- because a client could forge any other address. The limit does not apply to the service or to
-- people with an account.
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
        -- Use only the last address, because a client can forge all other addresses in this header.
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
  perform queue.take_tokens(
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

-- For apps. Count an action of the caller against the limit of guests (queue.admit_guest). All
-- guests of an app share one workspace without members. Create the workspace of the guests if it
-- does not exist, and return its id.
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

-- Return the guest session p_session_id if it has not ended and the caller may follow it. While the
-- setting allow_anonymous is true, everyone may follow a guest session without a person. A guest
-- session for one person may be followed by this person, by members of the workspace and by the
-- service. If the person is anonymous, the setting allow_anonymous must also be true.
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

-- Return the seconds until a guest session ends, or null if the session is no guest session of the
-- caller.
create function queue.session_seconds(p_session_id text)
returns double precision
language sql stable
set search_path = ''
as $$
select extract(epoch from s.expires_at - queue.clock())
from queue.guest_session(p_session_id) as s
$$;

-- Return a job as guests of its session see it, without its payload and the person who created it.
create function queue.guest_json(p_job public.jobs)
returns jsonb
language sql stable
set search_path = ''
as $$
select to_jsonb(j)
from (
  select
    p_job.id,
    p_job.session_id,
    p_job.job_type,
    p_job.status,
    p_job.result,
    p_job.error_message,
    p_job.attempts,
    p_job.max_attempts,
    p_job.next_retry_at,
    p_job.scheduled_for,
    p_job.started_at,
    p_job.finished_at,
    p_job.completed_at,
    p_job.cancel_requested_at,
    p_job.created_at,
    p_job.updated_at,
    p_job.last_seq,
    coalesce(
      p_job.progress,
      '{"percentage": 0, "stage": null, "message": null}'
    ) as progress
) as j
$$;

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
  -- If no guest session was found, the session does not exist, has ended, or belongs to another
  -- person. The error does not contain the session id, because the id may grant access.
  if not found then
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

-- For a guest session, return the workspace whose jobs the caller may see. For any other session,
-- return null, because the caller may see the session's jobs in all of the caller's workspaces.
-- Raise an error if the caller may see no job of the session.
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

-- Postgres parses the body of a function with `begin atomic` when the function is created, so
-- callers of the next functions need no right on the schema queue.
create function public.guest_session_jobs(p_session_id text)
returns jsonb
language sql stable
set search_path = '' begin atomic select queue.session_jobs(p_session_id);
end;
comment on function public.guest_session_jobs is
  E'Jobs of a guest session, newest first, at most 200, without payloads: {session_id, expires_at, '
  'jobs}.\n\n404 session_not_found if the session does not exist, has ended, or belongs to '
  'another user.';
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
  'Events of a session''s jobs, in the format of event_feed. Log lines are omitted. Without a '
  'cursor the feed begins with the oldest event.';
select queue.allow('anon, authenticated, service_role', 'public.session_feed');

-- Open a guest session of a workspace.
-- p_user_id: Id of the only person who may access the session. Null to give access to everyone who
--   has the session's id.
create function queue.open_session(
  p_workspace_id uuid,
  p_user_id uuid,
  p_seconds double precision
)
returns queue.guest_sessions
language sql
set search_path = ''
as $$
insert into queue.guest_sessions (session_id, workspace_id, user_id, expires_at)
values (
  'guest_' || replace(concat(gen_random_uuid(), gen_random_uuid()), '-', ''),
  p_workspace_id,
  p_user_id,
  queue.clock() + make_interval(secs => p_seconds)
)
returning *
$$;

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
begin
  perform queue.may_manage(p_workspace_id);
  perform queue.check_names(p_options, array['ttl_seconds', 'user_id'], 'options');
  if v_seconds not between 1 and 2592000 then
    perform queue.refuse(
      400,
      'invalid_argument',
      'ttl_seconds must be from 1 to 2592000 (thirty days)',
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
  return to_jsonb(queue.open_session(p_workspace_id, v_user, v_seconds));
end;
$$;
comment on function public.open_guest_session is
  E'Open a guest session: {session_id, workspace_id, user_id, opened_at, expires_at}. For '
  'managers.\n\nThe session shows the jobs that have its session_id. Options: ttl_seconds (default '
  '86400), user_id (default: anyone).';
select queue.allow('authenticated, service_role', 'public.open_guest_session');
