-- Job events go to the private topics that apply: all events of a statement for one topic travel in
-- order in one message. A lost message never fails the work: clients read the event log after joining.

create function queue.publish_events() returns trigger
language plpgsql
security definer -- whoever moves a job may not write to realtime.messages
set search_path = ''
set plan_cache_mode = 'force_generic_plan' -- its plan does not depend on the values
as $$
declare
  -- hosted Realtime takes 256 kB on the free plan; pg_column_size is some tenths below the JSON's length
  c_message_bytes constant numeric := 120000;
  v_events integer;
  v_part numeric; -- of a message that one event fills on average
begin
  if to_regclass('realtime.messages') is null then
    return null;
  end if;
  select count(*), avg(200 + pg_column_size(e.data)) / c_message_bytes into v_events, v_part from events as e;
  if v_events = 0 then
    return null;
  end if;
  with e as materialized (
    select job_id, seq, workspace_id, session_id, type,
      row_number() over (order by job_id, seq) as number,
      jsonb_build_object('job_id', job_id, 'seq', seq, 'type', type, 'data', data, 'at', created_at) as payload
    from events),
  topics as (
    -- nobody can follow a job whose id was not known before
    select 'job:' || job_id as topic, count(*) as count, min(type) as type, min(number) as number,
      jsonb_agg(payload order by number) as payloads
    from e where type <> 'job.created'
    group by job_id, trunc(number * v_part)
    union all
    select 'workspace:' || workspace_id, count(*), min(type), min(number), jsonb_agg(payload order by number)
    from e where type not in ('job.progress', 'job.log')
    group by workspace_id, trunc(number * v_part)
    union all
    select 'session:' || session_id, count(*), min(type), min(number), jsonb_agg(payload order by number)
    from e where session_id is not null and type <> 'job.log' and queue.may_publish(session_id, workspace_id)
    group by session_id, trunc(number * v_part))
  insert into realtime.messages (id, topic, extension, event, payload, private)
  -- rising ids, drawn together: the table's own default is a third of what a message costs
  select ids.ids[row_number() over (order by number, topic)], topic, 'broadcast',
    case when count = 1 then type else 'job.events' end,
    case when count = 1 then payloads -> 0 else jsonb_build_object('events', payloads) end, true
  from topics, (select queue.new_ids(count(*)::integer) as ids from topics) as ids
  order by number, topic;
  return null;
exception when others then
  raise warning 'job events were stored but not broadcast: % (%)', sqlerrm, sqlstate;
  return null;
end;
$$;
comment on function queue.publish_events is E'Trigger: publish job events, one message per topic and statement.\n\nA message of one event has its type as the broadcast''s event and {job_id, seq, type, data, at} as payload; one of several has the event job.events and {"events": [...]} in order of job and seq. What is larger than hosted Realtime takes is cut into several. The topics are job:<id> (all but its creation), workspace:<id> (state changes) and session:<id> (all but logs). A failure only warns; the events stay in job_events.';

create function queue.may_publish(p_session_id text, p_workspace_id uuid) returns boolean
language sql stable
security definer -- called by publish_events alone, which reads the engine's tables
set search_path = ''
as $$
  select case when p_session_id like 'guest\_%'
    then exists (select from queue.live_guest_session(p_session_id) as v where v.workspace_id = p_workspace_id)
    else exists (select from queue.sessions as s where s.session_id = p_session_id and s.workspace_id = p_workspace_id) end;
$$;
comment on function queue.may_publish is E'Whether a workspace publishes to a session''s topic: the one that used its id first, while a guest session lives.\n\nAnother''s jobs with the same id are not published there, and whoever watches those polls session_feed.';

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
      return exists (select 1 from public.jobs as j
        where j.id = v_id::uuid and (j.workspace_id in (select queue.my_workspaces())
          or j.session_id like 'guest\_%' and exists (
            select from queue.live_guest_session(j.session_id) as v where v.workspace_id = j.workspace_id and queue.is_mine(v))));
    when 'workspace' then
      return v_id::uuid in (select queue.my_workspaces());
    when 'session' then
      return exists (select 1 from queue.sessions as s
        where s.session_id = substr(p_topic, 9) and s.workspace_id in (select queue.my_workspaces()));
  end case;
end;
$$;
comment on function queue.may_follow is E'Whether the caller may join a private topic: a job or session of their workspace, or the workspace.\n\nA session is its first workspace''s; members of another that uses the same id are refused and poll. A guest session is followed by whoever it was opened to, and its jobs by the user it is for.';
revoke execute on function queue.publish_events, queue.may_publish, queue.may_follow from public, anon, authenticated, service_role;
grant execute on function queue.may_follow to authenticated, anon;
