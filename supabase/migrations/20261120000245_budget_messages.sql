-- How many messages a project sends to Realtime, and what becomes of those that are too many.
-- Hosted Realtime shuts channels down, the application's own included, when a project exceeds its plan.

insert into queue.settings (name, value) values ('realtime_messages_per_second', '"pro"');

-- Sequences count without locks and at once for everyone, whatever a transaction does later; unlogged, because after
-- a crash no one is connected and counting starts again.
do $$
declare
  v_name text;
begin
  foreach v_name in array array['counted', 'held', 'mark_0', 'mark_1', 'mark_2', 'mark_3', 'mark_4', 'mark_5'] loop
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
  id bigint generated always as identity primary key,
  topic text not null,
  held_at timestamptz not null,
  xid xid8 not null default pg_current_xact_id()
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
comment on table queue.held_topics is E'Topics whose messages were held back, until their followers were sent a message to look again.\n\nInserted only, a row per statement, so that no transaction waits for another: a row becomes visible with the events it stands for.';
comment on column queue.held_topics.id is 'Identity and order.';
comment on column queue.held_topics.topic is 'The topic.';
comment on column queue.held_topics.held_at is 'When.';
comment on column queue.held_topics.xid is 'The transaction that held them back: its events are not visible before it ends.';

create unlogged table queue.followers (
  topic text not null,
  user_id uuid not null,
  follower_id uuid not null,
  seen_at timestamptz not null,
  primary key (topic, user_id, follower_id)
);
create index followers_by_age on queue.followers (seen_at);
comment on table queue.followers is 'Clients that follow a topic: each delivery to one counts as a message.';
comment on column queue.followers.topic is 'The topic.';
comment on column queue.followers.user_id is 'The user; the nil UUID for a guest.';
comment on column queue.followers.follower_id is 'The client, by an id of its own choosing.';
comment on column queue.followers.seen_at is 'When it last called follow_topic; deleted after 150 seconds.';

create unlogged table queue.audiences (
  topic text primary key,
  receivers integer not null
);
comment on table queue.audiences is 'How many followers a topic has, for those that have any.';
comment on column queue.audiences.topic is 'The topic.';
comment on column queue.audiences.receivers is 'Its followers.';

create table queue.message_minutes (
  minute timestamptz primary key,
  counted bigint not null,
  held bigint not null
);
comment on table queue.message_minutes is 'Messages minute by minute, for 31 days.';
comment on column queue.message_minutes.minute is 'The minute, UTC.';
comment on column queue.message_minutes.counted is 'messages_counted when it was last read in this minute.';
comment on column queue.message_minutes.held is 'messages_held when it was last read in this minute.';

alter table queue.held_topics enable row level security;
alter table queue.followers enable row level security;
alter table queue.audiences enable row level security;
alter table queue.message_minutes enable row level security;
revoke all on queue.held_topics, queue.followers, queue.audiences, queue.message_minutes
  from public, anon, authenticated, service_role;

create type queue.message_window as (ceiling bigint, quarter integer);
comment on type queue.message_window is 'What may be sent now: the value of messages_counted up to which states are sent, and a quarter of the budget of six seconds.';

create function queue.message_second() returns bigint
language plpgsql volatile
set search_path = ''
as $$
begin
  return floor(extract(epoch from clock_timestamp()))::bigint;
end;
$$;
comment on function queue.message_second is 'The second that messages are counted in; tests replace it.';

create function queue.message_budget() returns integer
language plpgsql stable
set search_path = ''
as $$
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
language plpgsql
set search_path = ''
as $$
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
language plpgsql
set search_path = ''
as $$
declare
  v_quarter integer := 6 * queue.message_budget() / 4;
  v_now bigint := queue.message_second();
  v_known text[] := string_to_array(current_setting('minutehand.message_base', true), ' ');
  v_second record;
begin
  -- what was counted before a second's six began is the same all through it
  if v_known[1] = v_now::text then
    return (v_known[2]::bigint + 3 * v_quarter, v_quarter);
  end if;
  v_second := queue.open_second(v_now, true);
  perform set_config('minutehand.message_base', v_now || ' ' || v_second.base, false);
  -- a transaction that is old already may run for long, and its messages are seen at its end
  if v_second.opened and clock_timestamp() - now() < interval '1 second' then
    perform queue.announce_held(v_second.base + 4 * v_quarter, v_quarter);
  end if;
  return (v_second.base + 3 * v_quarter, v_quarter);
end;
$$;
comment on function queue.message_window is E'What may be sent now. The first caller in a second announces what was held back before.\n\nOf the budget of six seconds, progress and logs may use half, states another quarter, half of it only for topics that are followed, and announcements the last quarter.';

create function queue.count_messages(p_cost bigint) returns bigint
language plpgsql
set search_path = ''
as $$
declare
  v_counted bigint;
begin
  if p_cost > 8 then
    return (select max(nextval('queue.messages_counted')) from generate_series(1, p_cost));
  end if;
  for v_each in 1 .. p_cost loop -- cheaper than a query
    v_counted := nextval('queue.messages_counted');
  end loop;
  return v_counted;
end;
$$;
comment on function queue.count_messages is 'Count p_cost messages; returns the count after the last one.';

create function queue.announce_held(p_ceiling bigint, p_quarter integer) returns integer
language plpgsql
set search_path = ''
as $$
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
  with held as (
    select h.id, h.topic, h.held_at from queue.held_topics as h
    where h.xid <> pg_current_xact_id() order by h.id limit 5000 for update skip locked),
  topics as (
    select h.topic, min(h.held_at) as since, 1 + coalesce(min(a.receivers), 1) as cost
    from held as h left join queue.audiences as a on a.topic = h.topic group by h.topic),
  chosen as (
    select t.topic, t.since, t.cost from (
      select t.*, sum(t.cost) over (order by t.since, t.topic) as up_to from topics as t) as t
    -- one may cost more than its share of a second, but none more than there is
    where t.up_to <= p_ceiling - v_counted and (t.up_to <= p_quarter / 3 or t.up_to = t.cost)),
  gone as (delete from queue.held_topics as h using held, chosen
    where h.id = held.id and chosen.topic = held.topic)
  select array_agg(topic), array_agg(since), sum(cost) into v_topics, v_since, v_cost from chosen;
  if v_topics is null then
    return 0;
  end if;
  perform queue.count_messages(v_cost);
  insert into realtime.messages (id, topic, extension, event, payload, private)
  select ids.ids[t.nth], t.topic, 'broadcast', 'job.look_again',
    jsonb_build_object('look_again', true, 'since', t.since, 'at', queue.clock()), true
  from unnest(v_topics, v_since) with ordinality as t (topic, since, nth),
    (select queue.new_ids(cardinality(v_topics)) as ids) as ids;
  return cardinality(v_topics);
end;
$$;
comment on function queue.announce_held is E'Notify followers of topics whose messages were held back to look again, one message per topic; returns how many.\n\nThe event is job.look_again, the payload {look_again: true, since, at}. The longest held come first, within what the budget leaves.';

create function queue.hold_topics(p_topics text[], p_messages bigint) returns void
language plpgsql
set search_path = ''
as $$
begin
  insert into queue.held_topics (topic, held_at)
  select distinct t.topic, clock_timestamp() from unnest(p_topics) as t (topic)
  where t.topic not like 'job:%' or exists (select from queue.audiences as a where a.topic = t.topic);
  perform max(nextval('queue.messages_held')) from generate_series(1, p_messages);
end;
$$;
comment on function queue.hold_topics is E'Note that messages to topics were held back; an announcement follows.\n\nOf jobs'' topics those that a client follows by follow_topic.';

create function queue.hold_events(p_workspaces uuid[], p_sessions text[], p_jobs uuid[]) returns void
language sql
set search_path = ''
as $$
  select queue.hold_topics(array(
    select 'workspace:' || w.id from unnest(p_workspaces) as w (id)
    union all
    select 'session:' || s.id from unnest(p_sessions) as s (id) where s.id is not null
    union all
    select a.topic from queue.audiences as a
    where a.topic like 'job:%' and a.topic in (select 'job:' || j.id from unnest(p_jobs) as j (id))),
    cardinality(p_jobs))
$$;
comment on function queue.hold_events is 'Note that no events of a statement were published: those of workspaces, sessions and jobs.';

create function queue.choose_messages(
  p_topics text[], p_is_minor boolean[], p_room bigint, p_minor_room bigint, out goes boolean[], out cost bigint
)
language sql
set search_path = ''
as $$
  with wanted as (
    select t.nth, case when t.is_minor then 2 when a.topic is null then 1 else 0 end as rank,
      1 + coalesce(a.receivers, 1) as cost
    from unnest(p_topics, p_is_minor) with ordinality as t (topic, is_minor, nth)
    left join queue.audiences as a on a.topic = t.topic),
  chosen as (
    select w.nth, w.cost, sum(w.cost) over (order by w.rank, w.nth)
      <= case w.rank when 2 then p_minor_room when 1 then (p_room + p_minor_room) / 2 else p_room end as goes
    from wanted as w)
  select array_agg(c.goes order by c.nth), coalesce(sum(c.cost) filter (where c.goes), 0) from chosen as c
$$;
comment on function queue.choose_messages is E'The messages that fit into the budget, in their order, minor ones last, and their cost.\n\nWhat lies between the two rooms is for states, half of it for topics that someone said to follow: a tenant''s thousand jobs without watchers hold back no event that another tenant watches for.';

create function queue.room_for_unfollowed(p_window queue.message_window) returns bigint
language plpgsql
set search_path = ''
as $$
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
  p_topics text[], p_events text[], p_payloads jsonb[], p_is_minor boolean[],
  p_window queue.message_window default queue.message_window()
) returns void
language plpgsql
set search_path = ''
as $$
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
  if v_cost > least(v_own_room, v_room - p_window.quarter) or exists (select from queue.audiences) then
    select c.goes, c.cost into v_goes, v_cost
    from queue.choose_messages(p_topics, p_is_minor,
      least(v_own_room, v_room), least(v_own_room, v_room - p_window.quarter)) as c;
  end if;
  -- others may have sent since the room was read
  if v_cost > 0 and queue.count_messages(v_cost) <= p_window.ceiling then
    perform set_config('minutehand.messages_sent', (v_sent + v_cost)::text, true);
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
  perform queue.hold_topics(array_agg(t.topic), count(*))
  from unnest(p_topics, v_goes) as t (topic, goes) where not t.goes;
end;
$$;
comment on function queue.send_messages is E'Send messages to private topics in the order given, as far as the budget allows; the one way to Realtime, for the engine and for apps.\n\nBeyond it those marked minor are held back first. Followers of a topic whose messages were held back are notified within seconds to look again (job.look_again), so what matters must also be readable. One transaction sends at most a quarter of what six seconds may carry: it is counted when it is sent, and hosted Realtime counts at its commit.';

create function queue.follow(p_topic text, p_follower_id uuid) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = ''
as $$
declare
  v_user uuid := coalesce(auth.uid(), '00000000-0000-0000-0000-000000000000');
  v_receivers integer;
begin
  if p_topic is null or p_follower_id is null or not queue.may_follow(p_topic) then
    perform queue.refuse(404, 'topic_not_found', 'no such topic, or not yours to follow', left(p_topic, 300));
  end if;
  insert into queue.followers as f (topic, user_id, follower_id, seen_at)
  select p_topic, v_user, p_follower_id, clock_timestamp()
  -- more of one user's clients cannot use up the budget
  where (select count(*) from queue.followers as o
    where o.topic = p_topic and o.user_id = v_user and o.follower_id <> p_follower_id) < 20
  on conflict (topic, user_id, follower_id) do update set seen_at = excluded.seen_at;
  select count(*) into v_receivers from queue.followers
  where topic = p_topic and seen_at > clock_timestamp() - interval '150 seconds';
  insert into queue.audiences as a (topic, receivers) values (p_topic, v_receivers)
  on conflict (topic) do update set receivers = excluded.receivers where a.receivers <> excluded.receivers;
  return jsonb_build_object('receivers', v_receivers, 'again_seconds', 60,
    'quiet', exists (select from queue.job_types where live = 'off'));
end;
$$;
comment on function queue.follow is 'See follow_topic.';

create function public.follow_topic(p_topic text, p_follower_id uuid) returns jsonb
language sql
set search_path = ''
begin atomic
  select queue.follow(p_topic, p_follower_id);
end;
comment on function public.follow_topic is E'Report that a client follows a private topic: {receivers, again_seconds, quiet}. Call it before joining, and every again_seconds while joined.\n\nEach delivery counts as a message of the plan, so the budget must know how many there are; on topics of jobs, what was held back is announced only to clients that report it. quiet: jobs of some types publish nothing, so silence proves nothing.';

create function queue.forget_followers() returns void
language sql
set search_path = ''
as $$
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
language sql
set search_path = ''
as $$
  insert into queue.message_minutes as m (minute, counted, held)
  values (date_trunc('minute', p_now), coalesce(pg_sequence_last_value('queue.messages_counted'), 0),
    coalesce(pg_sequence_last_value('queue.messages_held'), 0))
  on conflict (minute) do update set counted = excluded.counted, held = excluded.held;
  delete from queue.message_minutes where minute < p_now - interval '31 days';
$$;
comment on function queue.note_messages is 'Store the number of messages until this minute in message_minutes.';

create function queue.care_for_messages(p_now timestamptz) returns integer
language plpgsql
set search_path = ''
as $$
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
comment on function queue.care_for_messages is 'The maintenance of messages: announcements, counts per minute, followers that left.';

create function queue.message_numbers() returns jsonb
language plpgsql
set search_path = ''
as $$
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

revoke execute on function queue.message_second, queue.room_for_unfollowed, queue.message_budget, queue.open_second,
  queue.message_window,
  queue.count_messages, queue.announce_held, queue.hold_topics, queue.hold_events, queue.choose_messages,
  queue.send_messages, queue.forget_followers, queue.note_messages, queue.care_for_messages, queue.message_numbers
  from public, anon, authenticated, service_role;
revoke execute on function queue.follow, public.follow_topic from public, anon, authenticated, service_role;
grant execute on function queue.follow, public.follow_topic to anon, authenticated, service_role;
