-- How many messages a project sends to Realtime, and what becomes of those that are too many.
-- Hosted Realtime shuts channels down, the application's own included, when a project exceeds its plan.

insert into queue.settings (name, value) values ('realtime_messages_per_second', '"pro"');

-- Sequences count without locks and at once for everyone, whatever a transaction does later; unlogged, because after
-- a crash no one is connected and counting starts again.
do $$
declare
  v_name text;
begin
  foreach v_name in array array['counted', 'held', 'mark_0', 'mark_1', 'mark_2', 'mark_3', 'mark_4', 'mark_5']
    || array(select 'share_' || n from generate_series(0, 47) as n) loop
    execute format('create unlogged sequence queue.%I', 'messages_' || v_name);
  end loop;
end;
$$;
comment on sequence queue.messages_counted is 'Messages as a plan counts them: each one sent, and each delivery of it that is expected.';
comment on sequence queue.messages_held is 'Messages held back because the budget was used up.';
comment on sequence queue.messages_mark_0 is 'messages_counted at the start of a second, the second in the upper bits; one of six, for the last six seconds.';
comment on sequence queue.messages_mark_1 is 'See messages_mark_0.';
comment on sequence queue.messages_mark_2 is 'See messages_mark_0.';
comment on sequence queue.messages_mark_3 is 'See messages_mark_0.';
comment on sequence queue.messages_mark_4 is 'See messages_mark_0.';
comment on sequence queue.messages_mark_5 is 'See messages_mark_0.';

create unlogged table queue.held_topics (
  id bigint generated always as identity primary key, -- identity and order
  workspace_id uuid not null, -- whose messages they were
  topic text not null, -- the topic
  held_at timestamptz not null, -- when
  -- the transaction that held them back: its events are not visible before it ends
  xid xid8 not null default pg_current_xact_id()
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
create index held_topics_by_workspace on queue.held_topics (workspace_id, id);
comment on table queue.held_topics is E'Topics whose messages were held back, until their followers were sent a message to look again.\n\nInserted only, a row per statement, so that no transaction waits for another: a row becomes visible with its events.';

create unlogged table queue.followers (
  topic text not null, -- the topic
  user_id uuid not null, -- the user; the nil UUID for a guest
  follower_id uuid not null, -- the client, by an id of its own choosing
  seen_at timestamptz not null, -- when it last called follow_topic; deleted after 150 seconds
  version integer not null, -- form of messages it reads: from 2 on groups of events, see publish_events
  primary key (topic, user_id, follower_id)
);
create index followers_by_age on queue.followers (seen_at);
create index followers_of_old_versions on queue.followers (topic) where version < 2;
create index followers_by_user on queue.followers (user_id);
comment on table queue.followers is 'Clients that follow a topic: each delivery to one counts as a message.';

create unlogged table queue.audiences (
  topic text primary key, -- the topic
  receivers integer not null -- its followers
);
comment on table queue.audiences is 'How many followers a topic has, for those that have any.';

create table queue.message_minutes (
  minute timestamptz primary key, -- the minute, UTC
  counted bigint not null, -- messages_counted when it was last read in this minute
  held bigint not null -- messages_held when it was last read in this minute
);
comment on table queue.message_minutes is 'Messages minute by minute, for 31 days.';

create type queue.message_window as (ceiling bigint, quarter integer, second bigint);
comment on type queue.message_window is 'What may be sent now: the value of messages_counted up to which states are sent, a quarter of the budget of six seconds, and the second in which that was known.';

create function queue.message_second() returns bigint
language plpgsql volatile set search_path = '' as $$
begin
  return floor(extract(epoch from clock_timestamp()))::bigint;
end;
$$;
comment on function queue.message_second is 'The second that messages are counted in; tests replace it.';

create function queue.message_budget() returns integer
language plpgsql stable set search_path = '' as $$
begin
  -- a fifth below the plan: six seconds of it stay below five of the plan's
  return (select case value #>> '{}' when 'free' then 80 when 'pro' then 400 else (value #>> '{}')::integer end
    from queue.settings where name = 'realtime_messages_per_second');
end;
$$;
comment on function queue.message_budget is E'Messages a second that may be sent, deliveries included: the setting realtime_messages_per_second.\n\nfree is 80 and pro 400, a fifth below what the plans allow.';

create function queue.open_second(
  p_second bigint, p_mark boolean, out counted bigint, out base bigint, out opened boolean
)
language plpgsql set search_path = '' as $$
declare
  c_bits constant integer := 42; -- of a mark for the count; above them 20 for the second
  c_count constant bigint := (1::bigint << 42) - 1;
  c_second constant bigint := (1 << 20) - 1;
  v_marks bigint[];
  v_mark bigint;
begin
  -- read before the marks: a mark that is not there yet means that nothing was taken in this second until then, so
  -- however many open it at once, none writes a count that holds another's messages
  counted := coalesce(pg_sequence_last_value('queue.messages_counted'), 0);
  v_marks := array[pg_sequence_last_value('queue.messages_mark_0'), pg_sequence_last_value('queue.messages_mark_1'),
    pg_sequence_last_value('queue.messages_mark_2'), pg_sequence_last_value('queue.messages_mark_3'),
    pg_sequence_last_value('queue.messages_mark_4'), pg_sequence_last_value('queue.messages_mark_5')];
  v_mark := v_marks[p_second % 6 + 1];
  opened := v_mark is null or v_mark >> c_bits <> p_second & c_second;
  if opened and p_mark then
    perform setval(case p_second % 6
      when 0 then 'queue.messages_mark_0'::regclass when 1 then 'queue.messages_mark_1'::regclass
      when 2 then 'queue.messages_mark_2'::regclass when 3 then 'queue.messages_mark_3'::regclass
      when 4 then 'queue.messages_mark_4'::regclass else 'queue.messages_mark_5'::regclass end,
      (p_second & c_second) << c_bits | counted);
  end if;
  base := counted;
  foreach v_mark in array v_marks loop -- cheaper than a query
    if (p_second - (v_mark >> c_bits)) & c_second <= 5 and v_mark & c_count < base then
      base := v_mark & c_count;
    end if;
  end loop;
end;
$$;
comment on function queue.open_second is E'Messages counted so far, and before the last six seconds began; opened is true for the first caller in a second, who marks it.\n\nAny five seconds lie within six whole ones.';

create function queue.message_window() returns queue.message_window
language plpgsql set search_path = '' as $$
declare
  v_now bigint := queue.message_second();
  v_known text[] := string_to_array(current_setting('minutehand.message_window', true), ' ');
  v_quarter integer;
  v_second record;
begin
  -- what was counted before a second's six began is the same all through it
  if v_known[1] = v_now::text then
    return (v_known[2]::bigint, v_known[3]::integer, v_now);
  end if;
  v_quarter := 6 * queue.message_budget() / 4;
  v_second := queue.open_second(v_now, true);
  perform set_config('minutehand.message_window',
    concat_ws(' ', v_now, v_second.base + 3 * v_quarter, v_quarter), false);
  -- a transaction that is old already may run for long, and its messages are seen at its end
  if v_second.opened and clock_timestamp() - now() < interval '1 second' then
    perform queue.announce_held(v_second.base + 4 * v_quarter, v_quarter);
  end if;
  return (v_second.base + 3 * v_quarter, v_quarter, v_now);
end;
$$;
comment on function queue.message_window is E'What may be sent now. The first caller in a second announces what was held back before.\n\nOf the budget of six seconds, progress and logs may use half, states another quarter, half of it only for topics that are followed, and announcements the last quarter.';

create function queue.count_up(p_counter regclass, p_count bigint) returns bigint
language plpgsql set search_path = '' as $$
declare
  v_counted bigint;
begin
  if p_count > 8 then
    return (select max(nextval(p_counter)) from generate_series(1, p_count));
  end if;
  for v_each in 1 .. p_count loop -- cheaper than a query
    v_counted := nextval(p_counter);
  end loop;
  return v_counted;
end;
$$;
comment on function queue.count_up is 'Raise a counter of messages by p_count; returns where it then is.';

create function queue.share_counter(
  p_workspace_id uuid, p_slot bigint, out counter regclass, out tag bigint, out used bigint
)
language plpgsql set search_path = '' as $$
declare
  v_hash bigint := hashtextextended(p_workspace_id::text, p_slot);
  v_mark bigint;
begin
  -- 20 bits for the three seconds, 16 for the workspace, 26 for the count
  tag := (p_slot & ((1 << 20) - 1)) << 16 | (v_hash >> 32 & ((1 << 16) - 1));
  for v_try in 0 .. 3 loop
    counter := ('queue.messages_share_' || 16 * (p_slot % 3) + (v_hash >> 4 * v_try & 15))::regclass;
    v_mark := pg_sequence_last_value(counter);
    if v_mark is null or v_mark >> 42 <> tag >> 16 then
      used := null; -- free
      return;
    end if;
    used := v_mark & ((1 << 26) - 1);
    exit when v_mark >> 26 = tag;
  end loop; -- where four are taken, the last is shared
end;
$$;
comment on function queue.share_counter is E'The sequence that counts a workspace''s messages in three seconds (p_slot), and what it says; used is null when it has none yet.\n\nThe first of four by a hash that no other workspace has taken; which four changes every three seconds, so that none shares a busy one''s for long.';

create function queue.spend_share(p_workspace_id uuid, p_cost bigint, p_second bigint) returns void
language plpgsql set search_path = '' as $$
declare
  v_share record;
begin
  v_share := queue.share_counter(p_workspace_id, p_second / 3);
  if v_share.used is null then
    -- of two that open it at once one is not counted; what a project sends in all is exact, see messages_counted
    perform setval(v_share.counter, v_share.tag << 26 | p_cost);
  else
    perform queue.count_up(v_share.counter, p_cost);
  end if;
end;
$$;
comment on function queue.spend_share is 'Count messages of a workspace towards its share.';

create function queue.share_used(p_workspace_id uuid) returns bigint
language plpgsql set search_path = '' as $$
declare
  v_slot bigint := queue.message_second() / 3;
begin
  return coalesce((queue.share_counter(p_workspace_id, v_slot)).used, 0)
    + coalesce((queue.share_counter(p_workspace_id, v_slot - 1)).used, 0)
    + coalesce((queue.share_counter(p_workspace_id, v_slot - 2)).used, 0);
end;
$$;
comment on function queue.share_used is 'Messages of a workspace in the last six to nine seconds.';

create function queue.announce_held(p_ceiling bigint, p_quarter integer) returns integer
language plpgsql set search_path = '' as $$
declare
  v_topics text[];
  v_since timestamptz[];
  v_cost bigint;
  v_counted bigint;
begin
  if not exists (select from queue.held_topics) then
    return 0;
  end if;
  v_counted := coalesce(pg_sequence_last_value('queue.messages_counted'), 0);
  with recursive holders as (
    (select workspace_id from queue.held_topics order by workspace_id limit 1)
    union all
    select (select n.workspace_id from queue.held_topics as n where n.workspace_id > h.workspace_id
      order by n.workspace_id limit 1)
    from holders as h where h.workspace_id is not null),
  held as materialized (
    select t.* from (select workspace_id from holders where workspace_id is not null limit 1000) as h
    cross join lateral (select o.id, o.workspace_id, o.topic, o.held_at from queue.held_topics as o
      where o.workspace_id = h.workspace_id and o.xid <> pg_current_xact_id()
      order by o.id limit 500 for update skip locked) as t),
  topics as (
    select h.workspace_id, h.topic, min(h.held_at) as since, 1 + coalesce(min(a.receivers), 1) as cost
    from held as h left join queue.audiences as a on a.topic = h.topic group by h.workspace_id, h.topic),
  chosen as (
    select t.topic, t.since, t.cost from (
      select t.*, sum(t.cost) over (order by t.own, t.since, t.topic) as up_to from (
        select t.*, sum(t.cost) over (partition by t.workspace_id order by t.since, t.topic) as own
        from topics as t) as t) as t
    -- one may cost more than its share of a second, but none more than there is
    where t.up_to <= p_ceiling - v_counted and (t.up_to <= p_quarter / 3 or t.up_to = t.cost)),
  gone as (delete from queue.held_topics as h using held, chosen
    where h.id = held.id and chosen.topic = held.topic)
  select array_agg(topic), array_agg(since), sum(cost) into v_topics, v_since, v_cost from chosen;
  if v_topics is null then
    return 0;
  end if;
  perform queue.count_up('queue.messages_counted', v_cost);
  insert into realtime.messages (id, topic, extension, event, payload, private)
  select ids.ids[t.nth], t.topic, 'broadcast', 'job.look_again',
    jsonb_build_object('look_again', true, 'since', t.since, 'at', queue.clock()), true
  from unnest(v_topics, v_since) with ordinality as t (topic, since, nth),
    (select queue.new_ids(cardinality(v_topics)) as ids) as ids;
  return cardinality(v_topics);
end;
$$;
comment on function queue.announce_held is E'Notify followers of topics whose messages were held back to look again, one message per topic; returns how many.\n\nThe event is job.look_again, the payload {look_again: true, since, at}. Workspaces in turn, the longest held of each first, within what the budget leaves.';

create function queue.hold_topics(p_topics text[], p_workspaces uuid[], p_messages bigint) returns void
language plpgsql set search_path = '' as $$
begin
  insert into queue.held_topics (workspace_id, topic, held_at)
  select distinct t.workspace_id, t.topic, clock_timestamp()
  from unnest(p_workspaces, p_topics) as t (workspace_id, topic)
  where t.topic not like 'job:%' or exists (select from queue.audiences as a where a.topic = t.topic);
  perform queue.count_up('queue.messages_held', p_messages);
end;
$$;
comment on function queue.hold_topics is E'Note that messages to topics were held back; an announcement follows.\n\nOf jobs'' topics those that a client follows by follow_topic.';

create function queue.choose_messages(
  p_topics text[], p_workspaces uuid[], p_is_minor boolean[], p_most bigint, p_room bigint, p_minor_room bigint,
  out goes boolean[], out cost bigint
)
language sql set search_path = '' as $$
  with shares as materialized (
    select w.id, queue.share_used(w.id) as used from (select distinct unnest(p_workspaces) as id) as w),
  wanted as (
    select t.nth, t.workspace_id, 1 + coalesce(a.receivers, 1) as cost,
      case when t.is_minor then 2 when a.topic is null then 1 else 0 end as rank,
      case when t.is_minor then p_minor_room when a.topic is null then (p_room + p_minor_room) / 2
        else p_room end as room
    from unnest(p_topics, p_workspaces, p_is_minor) with ordinality as t (topic, workspace_id, is_minor, nth)
    left join queue.audiences as a on a.topic = t.topic),
  own as (
    select w.*, sum(w.cost) over (partition by w.workspace_id order by w.rank, w.nth) as own from wanted as w),
  fair as (
    select o.*, s.used + o.own <= 4 * (o.room - o.own) as fits from own as o join shares as s on s.id = o.workspace_id),
  chosen as (
    select f.nth, f.cost, f.fits and sum(f.cost) filter (where f.fits) over (order by f.rank, f.own, f.nth)
      <= least(p_most, f.room) as goes
    from fair as f)
  select array_agg(c.goes order by c.nth), coalesce(sum(c.cost) filter (where c.goes), 0) from chosen as c
$$;
comment on function queue.choose_messages is E'The messages that fit into the budget, in their order, minor ones last, and their cost.\n\nWhat lies between the two rooms is for states, half of it for topics that someone said to follow. No workspace takes more than four times what it leaves to the others (its use counted over six to nine seconds): alone four fifths of the room, two of them four ninths each; so there is room for one that was quiet.';

create function queue.room_for_unfollowed(p_window queue.message_window) returns bigint
language plpgsql set search_path = '' as $$
declare
  v_own_room bigint := p_window.quarter
    - coalesce(nullif(current_setting('minutehand.messages_sent', true), ''), '0')::bigint;
  v_room bigint := p_window.ceiling - coalesce(pg_sequence_last_value('queue.messages_counted'), 0);
begin
  return (least(v_own_room, v_room) + least(v_own_room, v_room - p_window.quarter)) / 2;
end;
$$;
comment on function queue.room_for_unfollowed is 'The room there is for state changes of topics that no one said to follow, see choose_messages.';

create function queue.send_messages(
  p_topics text[], p_workspaces uuid[], p_events text[], p_payloads jsonb[], p_is_minor boolean[],
  p_window queue.message_window default queue.message_window()
) returns void
language plpgsql set search_path = '' as $$
declare
  v_sent bigint := coalesce(nullif(current_setting('minutehand.messages_sent', true), ''), '0')::bigint;
  v_own_room bigint := p_window.quarter - v_sent;
  v_room bigint := p_window.ceiling - coalesce(pg_sequence_last_value('queue.messages_counted'), 0);
  v_goes boolean[]; -- null when all do
  v_cost bigint := 2 * cardinality(p_topics);
  v_ms bigint := extract(epoch from clock_timestamp()) * 1000;
  v_random text := '8' || replace(right(gen_random_uuid()::text, 16), '-', '');
begin
  if p_topics is null then
    return;
  end if;
  -- with half of the room left there is nothing to share
  if v_cost > least(v_own_room, v_room - 2 * p_window.quarter) or exists (select from queue.audiences) then
    select c.goes, c.cost into v_goes, v_cost
    from queue.choose_messages(p_topics, p_workspaces, p_is_minor, v_own_room, v_room, v_room - p_window.quarter) as c;
  end if;
  -- others may have sent since the room was read
  if v_cost > 0 and queue.count_up('queue.messages_counted', v_cost) <= p_window.ceiling then
    if v_goes is null and p_workspaces[1] = all (p_workspaces) then
      perform queue.spend_share(p_workspaces[1], v_cost, p_window.second); -- the usual case: a query would cost more
    else
      perform queue.spend_share(w.id, w.cost, p_window.second) from (
        select t.workspace_id as id, sum(1 + coalesce(a.receivers, 1)) as cost
        from unnest(p_topics, p_workspaces, v_goes) as t (topic, workspace_id, goes)
        left join queue.audiences as a on a.topic = t.topic where coalesce(t.goes, true) group by 1) as w;
    end if;
    v_sent := set_config('minutehand.messages_sent', (v_sent + v_cost)::text, true);
    insert into realtime.messages (id, topic, extension, event, payload, private)
    -- rising ids of version 7 from one draw: the table's own default is a third of what a message costs
    select (lpad(to_hex(v_ms + t.nth / 4096), 12, '0') || to_hex(28672 + t.nth % 4096) || v_random)::uuid,
      t.topic, 'broadcast', t.event, t.payload, true
    from unnest(p_topics, p_events, p_payloads, v_goes) with ordinality as t (topic, event, payload, goes, nth)
    where coalesce(t.goes, true);
    if not coalesce(false = any (v_goes), false) then
      return;
    end if;
  else
    v_goes := array_fill(false, array[cardinality(p_topics)]);
  end if;
  perform queue.hold_topics(array_agg(t.topic), array_agg(t.workspace_id), count(*))
  from unnest(p_topics, p_workspaces, v_goes) as t (topic, workspace_id, goes) where not t.goes;
end;
$$;
comment on function queue.send_messages is E'Send messages to private topics in the order given, as far as the budget allows; the one way to Realtime, for the engine and for apps. p_workspaces: whose each is.\n\nBeyond it those marked minor are held back first. Followers of a topic whose messages were held back are notified within seconds to look again (job.look_again), so what matters must also be readable. One transaction sends at most a quarter of what six seconds may carry: it is counted when it is sent, and hosted Realtime counts at its commit.';

create function queue.follow(p_topic text, p_follower_id uuid, p_version integer) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_user uuid := coalesce(auth.uid(), '00000000-0000-0000-0000-000000000000');
  v_receivers integer;
begin
  if p_topic is null or p_follower_id is null or not queue.may_follow(p_topic) then
    perform queue.refuse(404, 'topic_not_found', 'no such topic, or not yours to follow', left(p_topic, 300));
  end if;
  insert into queue.followers as f (topic, user_id, follower_id, seen_at, version)
  select p_topic, v_user, p_follower_id, clock_timestamp(), p_version
  -- more of one user's clients cannot use up the budget; guests are one user, and have their sessions' bounds
  where (select count(*) from queue.followers as o
    where o.topic = p_topic and o.user_id = v_user and o.follower_id <> p_follower_id) < 20
    and (auth.uid() is null or (select count(*) from queue.followers as o
      where o.user_id = v_user and (o.topic, o.follower_id) <> (p_topic, p_follower_id)) < 100)
  on conflict (topic, user_id, follower_id) do update set seen_at = excluded.seen_at, version = excluded.version;
  select count(*) into v_receivers from queue.followers
  where topic = p_topic and seen_at > clock_timestamp() - interval '150 seconds';
  insert into queue.audiences as a (topic, receivers) values (p_topic, v_receivers)
  on conflict (topic) do update set receivers = excluded.receivers where a.receivers <> excluded.receivers;
  return jsonb_build_object('receivers', v_receivers, 'again_seconds', 60,
    -- all followers together check fifty times a second; counted no further than where each waits half a minute
    'check_seconds', (select count(*) from (select from queue.followers limit 1500) as f) / 50.0,
    'quiet', exists (select from queue.job_types where live = 'off'));
end;
$$;
comment on function queue.follow is 'See follow_topic.';

create function public.follow_topic(p_topic text, p_follower_id uuid, p_version numeric default 1) returns jsonb
language sql set search_path = ''
begin atomic
  select queue.follow(p_topic, p_follower_id, coalesce(queue.whole(p_version, 'p_version'), 1));
end;
comment on function public.follow_topic is E'Report that a client follows a private topic: {receivers, again_seconds, check_seconds, quiet}. Call it before joining, and every again_seconds while joined.\n\nEach delivery counts as a message of the plan, so the budget must know how many there are; on topics of jobs, what was held back is announced only to clients that report it. check_seconds: how often so many followers may read to find what Realtime dropped silently. quiet: jobs of some types publish nothing, so silence proves nothing. p_version: 2 from clients that read groups of events; while one of version 1 follows a topic, its messages have none.';

create function queue.forget_followers() returns void
language sql set search_path = '' as $$
  with gone as (
    delete from queue.followers as f
    where (f.topic, f.user_id, f.follower_id) in (
      select o.topic, o.user_id, o.follower_id from queue.followers as o
      where o.seen_at < clock_timestamp() - interval '150 seconds' for update skip locked)
    returning f.topic, f.user_id, f.follower_id),
  topics as (
    select g.topic, (select count(*) from queue.followers as f where f.topic = g.topic) - count(*) as receivers
    from gone as g group by g.topic),
  fewer as (
    update queue.audiences as a set receivers = t.receivers from topics as t
    where a.topic = t.topic and t.receivers > 0)
  delete from queue.audiences as a using topics as t where a.topic = t.topic and t.receivers <= 0
$$;
comment on function queue.forget_followers is 'Delete followers that have not called follow_topic for 150 seconds.';

create function queue.note_messages(p_now timestamptz) returns void
language sql set search_path = '' as $$
  insert into queue.message_minutes as m (minute, counted, held)
  values (date_trunc('minute', p_now), coalesce(pg_sequence_last_value('queue.messages_counted'), 0),
    coalesce(pg_sequence_last_value('queue.messages_held'), 0))
  on conflict (minute) do update set counted = excluded.counted, held = excluded.held;
$$;
comment on function queue.note_messages is 'Store the number of messages until this minute in message_minutes.';

create function queue.maintain_messages(p_now timestamptz) returns integer
language plpgsql set search_path = '' as $$
begin
  perform queue.note_messages(p_now);
  perform queue.forget_followers();
  if not exists (select from queue.held_topics) then
    return 0;
  end if;
  perform queue.message_window(); -- announces, if the second is new
  return 1; -- stays due until all is announced
end;
$$;
comment on function queue.maintain_messages is 'The maintenance of messages: announcements, counts per minute, followers that left.';

create function queue.message_numbers() returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_now timestamptz := queue.clock();
  v_second record;
  v_counted bigint := coalesce(pg_sequence_last_value('queue.messages_counted'), 0);
  v_held bigint := coalesce(pg_sequence_last_value('queue.messages_held'), 0);
  v_since timestamptz := v_now - interval '24 hours';
  v_steps record;
  v_month numeric;
begin
  v_second := queue.open_second(queue.message_second(), false);
  with points as (
    select v_since as minute, coalesce(max(counted), 0) as counted, coalesce(max(held), 0) as held
    from (
      select counted, held from queue.message_minutes where minute <= v_since order by minute desc limit 1) as before
    union all select minute, counted, held from queue.message_minutes where minute > v_since
    union all select v_now, v_counted, v_held),
  steps as (
    -- a count that fell began again after a crash
    select p.minute,
      p.counted - case when p.counted >= lag(p.counted) over w then lag(p.counted) over w else 0 end as counted,
      p.held - case when p.held >= lag(p.held) over w then lag(p.held) over w else 0 end as held,
      row_number() over w as nth
    from points as p window w as (order by p.minute))
  select coalesce(sum(counted) filter (where minute > v_now - interval '1 hour'), 0) as hour,
    coalesce(sum(held) filter (where minute > v_now - interval '1 hour'), 0) as held_hour,
    coalesce(sum(counted), 0) as day, coalesce(sum(held), 0) as held_day,
    extract(epoch from v_now - (select min(minute) from queue.message_minutes where minute > v_since)) as seconds
  into v_steps from steps where nth > 1;
  v_month := round(30 * v_steps.day * 86400 / greatest(3600, coalesce(v_steps.seconds, 0)));
  return jsonb_build_object('budget_per_second', queue.message_budget(),
    'setting', queue.setting('realtime_messages_per_second'),
    'per_second', round((v_counted - v_second.base) / 6.0, 1),
    'last_hour', v_steps.hour, 'held_last_hour', v_steps.held_hour,
    'last_day', v_steps.day, 'held_last_day', v_steps.held_day,
    'held_topics', (select count(*) from (select from queue.held_topics limit 10000) as h),
    'followers', (select coalesce(sum(receivers), 0) from queue.audiences),
    -- what the last day, or what is known of it, would come to in a month
    'month', v_month,
    -- Supabase's prices of 2026: 2.50 USD a million beyond the five million in Pro
    'month_usd', round(greatest(0, v_month - 5000000) * 2.5 / 1000000, 2));
end;
$$;
comment on function queue.message_numbers is E'Messages to Realtime as a plan counts them: the budget, the rate of the last six seconds, sums, what was held back, and a month at the pace of the last day with its price on the Pro plan.\n\nDeliveries to at least one listener are assumed, so the bill may be lower.';

select queue.allow('anon, authenticated, service_role', 'public.follow_topic');
