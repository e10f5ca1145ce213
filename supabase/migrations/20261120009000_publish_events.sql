-- Job events go to the private topics that apply: all events of a statement for one topic travel in
-- order in one message. A lost message never fails the work: clients read the event log after joining.

create function queue.publish_one(
  p_job_id uuid, p_seq bigint, p_workspace_id uuid, p_type text, p_data jsonb, p_created_at timestamptz
) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_topics text[] := '{}';
  v_minor constant boolean := p_type in ('job.progress', 'job.log');
  v_payload constant jsonb := jsonb_build_object('job_id', p_job_id, 'seq', p_seq, 'type', p_type, 'data', p_data,
    'at', p_created_at);
begin
  if p_type <> 'job.created' then
    v_topics := v_topics || ('job:' || p_job_id);
  end if;
  if not v_minor then
    v_topics := v_topics || ('workspace:' || p_workspace_id);
  end if;
  perform queue.send_messages(v_topics, array_fill(p_type, array[cardinality(v_topics)]),
    array_fill(v_payload, array[cardinality(v_topics)]), array_fill(v_minor, array[cardinality(v_topics)]));
end;
$$;
comment on function queue.publish_one is 'queue.publish_events for one event of a job without a session, by expressions instead of its one statement.';

create function queue.publish_events() returns trigger
language plpgsql
security definer -- whoever moves a job may not write to realtime.messages
set search_path = ''
set plan_cache_mode = 'force_generic_plan' -- its plan does not depend on the values
set enable_seqscan = off -- a session's plan may be older than the rows
as $$
declare
  -- hosted Realtime takes 256 kB on the free plan; pg_column_size is some tenths below the JSON's length
  c_message_bytes constant numeric := 120000;
  v_window queue.message_window;
  v_part numeric; -- of a message that one event fills on average
  v_mixed boolean := exists (select from queue.job_types as t where t.live <> 'full');
  v_states text[] := '{}';
  v_off text[] := '{}';
  v_first record;
begin
  select e.*, count(*) over () as events into v_first from events as e limit 1;
  if not found or to_regclass('realtime.messages') is null then
    return null;
  elsif v_first.events = 1 and v_first.session_id is null and not v_mixed then
    perform queue.publish_one(v_first.job_id, v_first.seq, v_first.workspace_id, v_first.type, v_first.data,
      v_first.created_at);
    return null;
  elsif v_mixed then
    v_states := array(select t.job_type from queue.job_types as t where t.live = 'states');
    v_off := array(select t.job_type from queue.job_types as t where t.live = 'off');
  end if;
  v_window := queue.message_window();
  if v_window.ceiling <= coalesce(pg_sequence_last_value('queue.messages_counted'), 0) then
    perform queue.hold_topics(array(
      select 'workspace:' || e.workspace_id from events as e
      where e.type not in ('job.progress', 'job.log') group by e.workspace_id
      union all
      select 'session:' || e.session_id from events as e
      where e.session_id is not null and e.type <> 'job.log' group by e.session_id
      union all
      select a.topic from queue.audiences as a
      where a.topic like 'job:%' and a.topic in (select 'job:' || e.job_id from events as e)), count(distinct n.job_id))
    from events as n;
    return null;
  end if;
  v_part := (select avg(200 + pg_column_size(e.data)) / c_message_bytes from events as e);
  perform queue.send_messages(
    array_agg(m.topic), array_agg(m.event), array_agg(m.payload), array_agg(m.minor), v_window)
  from (
    with e as materialized (
      select n.job_id, n.workspace_id, n.session_id, n.type, row_number() over (order by n.job_id, n.seq) as number,
        case when v_mixed then (select j.job_type from public.jobs as j where j.id = n.job_id) end as job_type,
        n.type in ('job.progress', 'job.log') as minor,
        -- as text and once, read as jsonb when it is whole: a third of what building jsonb from jsonb costs
        '{"job_id": "' || n.job_id || '", "seq": ' || n.seq || ', "type": ' || to_json(n.type)
          || ', "data": ' || n.data || ', "at": ' || to_json(n.created_at) || '}' as line
      from events as n),
    topics as (
      -- nobody can follow a job whose id was not known before
      select 'job:' || job_id as topic, count(*) as count, min(type) as type, min(number) as number,
        bool_and(minor) as minor, string_agg(line, ', ' order by number) as lines
      from e where type <> 'job.created' and (not v_mixed or job_type <> all (v_states || v_off))
      group by job_id, trunc(number * v_part)
      union all
      select 'workspace:' || workspace_id, count(*), min(type), min(number), false,
        string_agg(line, ', ' order by number)
      from e where not minor and (not v_mixed or job_type <> all (v_off))
      group by workspace_id, trunc(number * v_part)
      union all
      select 'session:' || session_id, count(*), min(type), min(number), bool_and(minor),
        string_agg(line, ', ' order by number)
      from e where session_id is not null and type <> 'job.log' and (not v_mixed or job_type <> all (v_off))
        and queue.may_publish(session_id, workspace_id)
      group by session_id, trunc(number * v_part))
    select topic, minor, case when count = 1 then type else 'job.events' end as event,
      case when count = 1 then lines else '{"events": [' || lines || ']}' end::jsonb as payload
    from topics order by number, topic) as m
  having count(*) > 0;
  return null;
exception when others then
  raise warning 'job events were stored but not broadcast: % (%)', sqlerrm, sqlstate;
  return null;
end;
$$;
comment on function queue.publish_events is E'Trigger: publish job events, one message per topic and statement.\n\nA message of one event has its type as the broadcast''s event and {job_id, seq, type, data, at} as payload; one of several has the event job.events and {"events": [...]} in order of job and seq. What is larger than hosted Realtime takes is cut into several. The topics are job:<id> (all but its creation), workspace:<id> (state changes) and session:<id> (all but logs), as far as the job type''s live allows and the budget reaches: see send_messages. A failure only warns; the events stay in job_events.';

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
      return exists (select 1 from public.jobs as j left join queue.job_types as t on t.job_type = j.job_type
        -- refused where nothing will come, so that watchers poll
        where j.id = v_id::uuid and coalesce(t.live, 'full') = 'full' and (j.workspace_id in (select queue.my_workspaces())
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
revoke execute on function queue.publish_one, queue.publish_events, queue.may_publish, queue.may_follow from public, anon, authenticated, service_role;
grant execute on function queue.may_follow to authenticated, anon;
