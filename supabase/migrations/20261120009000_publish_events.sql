-- Job events go to the private topics that apply: all events of a statement for one topic travel in
-- order in one message. A lost message never fails the work: clients read the event log after joining.

create function queue.publish_event(
  p_event public.job_events, p_off text[], p_quiet text[], p_window queue.message_window
) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_minor boolean := p_event.type in ('job.progress', 'job.log');
  v_type text := ''; -- looked up only where types are silent
  v_topics text[] := '{}';
begin
  if p_quiet <> '{}' then
    v_type := (select job_type from public.jobs where id = p_event.job_id);
  end if;
  if p_event.type <> 'job.created' and v_type <> all (p_quiet) then
    v_topics := array['job:' || p_event.job_id];
  end if;
  if v_type <> all (p_off) then
    if not v_minor then
      v_topics := v_topics || ('workspace:' || p_event.workspace_id);
    end if;
    if p_event.session_id is not null and p_event.type <> 'job.log' then
      if queue.may_publish(p_event.session_id, p_event.workspace_id) then
        v_topics := v_topics || ('session:' || p_event.session_id);
      end if;
    end if;
  end if;
  if v_topics <> '{}' then
    perform queue.send_messages(v_topics, array_fill(p_event.type, array[cardinality(v_topics)]),
      array_fill(jsonb_build_object('job_id', p_event.job_id, 'seq', p_event.seq, 'type', p_event.type,
        'data', p_event.data, 'at', p_event.created_at), array[cardinality(v_topics)]),
      array_fill(v_minor, array[cardinality(v_topics)]), p_window);
  end if;
end;
$$;
comment on function queue.publish_event is 'The same as queue.publish_events for the only event of a statement, at a third of the cost.';

create function queue.publish_events() returns trigger
language plpgsql
security definer -- callers who change a job may not write to realtime.messages
set search_path = ''
set plan_cache_mode = 'force_generic_plan' -- its plan does not depend on the values
set enable_seqscan = off -- a session's plan may be older than the rows
set jit = off
as $$
declare
  c_minor constant text[] := array['job.progress', 'job.log'];
  v_window queue.message_window;
  v_count bigint;
  v_most integer; -- events in a message
  v_off text[]; -- types that publish nothing
  v_quiet text[]; -- those, and types that publish nothing on a job's own topic
  v_several uuid[]; -- jobs of several events; no one can follow one whose id was not known before
  v_followed uuid[]; -- jobs that are followed, where there is no room for the topics of others; null otherwise
begin
  -- hosted Realtime accepts 256 kB on the free plan; pg_column_size is some tenths below the JSON's length
  select count(*), greatest(1, 120000 / avg(200 + pg_column_size(data)))::integer into v_count, v_most from events;
  if v_count = 0 or to_regclass('realtime.messages') is null then
    return null;
  end if;
  v_window := queue.message_window();
  select coalesce(array_agg(t.job_type) filter (where t.live = 'off'), '{}'), coalesce(array_agg(t.job_type), '{}')
  into v_off, v_quiet from queue.job_types as t where t.live <> 'full';
  if v_window.ceiling <= coalesce(pg_sequence_last_value('queue.messages_counted'), 0) then
    perform queue.hold_events(array_agg(distinct e.workspace_id) filter (where e.type <> all (c_minor)),
      array_agg(distinct e.session_id) filter (where e.type <> 'job.log'), array_agg(distinct e.job_id))
    from events as e;
  elsif v_count = 1 then
    perform queue.publish_event(e, v_off, v_quiet, v_window) from events as e;
  else
    v_several := array(
      select e.job_id from events as e where e.type <> 'job.created' group by e.job_id having count(*) > 1);
    if queue.room_for_unfollowed(v_window) < 4 then -- the workspace's message and a job's, each delivered once
      v_followed := array(select substr(a.topic, 5)::uuid from queue.audiences as a where a.topic like 'job:%');
      perform queue.hold_topics('{}', (select count(*) from events as e
        where e.job_id <> all (v_followed || v_several) and e.type <> 'job.created'
          and (v_quiet = '{}' or (select job_type from public.jobs where id = e.job_id) <> all (v_quiet))));
    end if;
    perform queue.send_messages(
      array_agg(m.topic), array_agg(m.event), array_agg(m.payload), array_agg(m.minor), v_window)
    from (
      with n as not materialized (
        select e.job_id, e.seq, e.workspace_id, e.session_id, e.type, e.minor, e.job_type, event from (
          select e.*, e.type = any (c_minor) as minor, -- the type is looked up only where one is silent
            case v_quiet when '{}' then '' else (select job_type from public.jobs where id = e.job_id) end as job_type
          from events as e) as e
        cross join lateral (select e.job_id, e.seq, e.type, e.data, e.created_at as at) as event
        where v_off = '{}' or e.job_type <> all (v_off)),
      topics as (
        -- rows until they are JSON at once: through text it would take half as much again
        select o.topic, bool_and(o.minor) as minor, array_agg(o.event order by o.job_id, o.seq) as events
        from (
          select 'workspace:' || n.workspace_id as topic, n.* from n where not n.minor
          union all
          select 'session:' || n.session_id, n.* from n
          where n.session_id is not null and n.type <> 'job.log' and queue.may_publish(n.session_id, n.workspace_id)
          union all
          select 'job:' || n.job_id, n.* from n where n.job_id = any (v_several)
            and n.type <> 'job.created' and n.job_type <> all (v_quiet)) as o group by o.topic)
      select t.topic, t.minor, coalesce(p.payload ->> 'type', 'job.events') as event, p.payload
      from topics as t
      cross join generate_series(1, cardinality(t.events), v_most) as s (start)
      cross join lateral (
        select case when v_most > 1 and s.start < cardinality(t.events)
          then (select to_jsonb(several) from (select t.events[s.start : s.start + v_most - 1] as events) as several)
          else to_jsonb(t.events[s.start]) end as payload offset 0) as p -- made once, though used twice
      union all
      select 'job:' || n.job_id, n.minor, n.type, to_jsonb(n.event)
      from n where n.job_id <> all (v_several) and n.type <> 'job.created' and n.job_type <> all (v_quiet)
        and (v_followed is null or n.job_id = any (v_followed))) as m;
  end if;
  return null;
exception when others then
  raise warning 'job events were stored but not broadcast: % (%)', sqlerrm, sqlstate;
  return null;
end;
$$;
comment on function queue.publish_events is E'Trigger: publish job events, one message per topic and statement.\n\nA message of one event has its type as the broadcast''s event and {job_id, seq, type, data, at} as payload; one of several has the event job.events and {"events": [...]}, each as a message of one, in order of job and seq. A message larger than hosted Realtime accepts is split. The topics are job:<id> (all but its creation), workspace:<id> (state changes) and session:<id> (all but logs), as far as the job type''s live allows and the budget reaches: see send_messages. A failure only warns; the events stay in job_events.';

create function queue.may_publish(p_session_id text, p_workspace_id uuid) returns boolean
language sql stable
security definer -- called by publish_events alone, which reads the engine's tables
set search_path = ''
as $$
  select case when p_session_id like 'guest\_%'
    then exists (select from queue.live_guest_session(p_session_id) as v where v.workspace_id = p_workspace_id)
    else exists (select from queue.sessions as s where s.session_id = p_session_id
      and s.workspace_id = p_workspace_id) end;
$$;
comment on function queue.may_publish is E'Whether a workspace publishes to a session''s topic: the one that used its id first, while a guest session lives.\n\nAnother workspace''s jobs with the same id are not published there; their watchers poll session_feed.';

create trigger job_events_publish after insert on public.job_events
  referencing new table as events for each statement execute function queue.publish_events();

create function queue.may_follow(p_topic text) returns boolean
language plpgsql stable
security definer -- policies on realtime.messages run as the subscriber, who may not read the engine
set search_path = ''
as $$
declare
  v_id text := split_part(p_topic, ':', 2);
begin
  if p_topic ~ '^session:guest_' then
    return exists (select from queue.may_join_guest_session(substr(p_topic, 9)));
  end if;
  if p_topic !~ '^(job|workspace):[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' and p_topic !~ '^session:.{1,255}$' then
    return false;
  end if;
  case split_part(p_topic, ':', 1)
    when 'job' then
      return exists (select 1 from public.jobs as j left join queue.job_types as t on t.job_type = j.job_type
        -- refused where nothing will come, so that watchers poll
        where j.id = v_id::uuid and coalesce(t.live, 'full') = 'full'
          and (j.workspace_id in (select queue.my_workspaces())
          or j.session_id like 'guest\_%' and exists (
            select from queue.live_guest_session(j.session_id) as v where v.workspace_id = j.workspace_id
              and queue.is_mine(v))));
    when 'workspace' then
      return v_id::uuid in (select queue.my_workspaces());
    when 'session' then
      return exists (select 1 from queue.sessions as s
        where s.session_id = substr(p_topic, 9) and s.workspace_id in (select queue.my_workspaces()));
  end case;
end;
$$;
comment on function queue.may_follow is E'Whether the caller may join a private topic: a job or session of their workspace, or the workspace.\n\nA session is its first workspace''s; members of another that uses the same id are refused and poll. Those whom a guest session is open to may join its topic, and the user it is for those of its jobs.';
revoke execute on function queue.publish_event, queue.publish_events, queue.may_publish, queue.may_follow
  from public, anon, authenticated, service_role;
grant execute on function queue.may_follow to authenticated, anon;
