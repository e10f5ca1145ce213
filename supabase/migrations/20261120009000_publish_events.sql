-- Job events go to the private topics that apply: all events of a statement for one topic travel in
-- order in one message. A lost message never fails the work: clients read the event log after joining.

create type queue.alike_events as (type text, data jsonb, at timestamptz, job_ids uuid[], seqs bigint[]);
comment on type queue.alike_events is 'Events that differ in their job and number alone. at: of the first; seqs: one for each job, or one for all.';

create function queue.message_of(p_parts queue.alike_events[], p_whole boolean) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_events jsonb;
begin
  if p_whole or cardinality(p_parts) = 1 and cardinality((p_parts[1]).job_ids) = 1 then
    v_events := (
      select jsonb_agg(jsonb_build_object('job_id', p.job_ids[1], 'seq', p.seqs[1], 'type', p.type, 'data', p.data,
        'at', p.at)) from unnest(p_parts) as p);
    return case jsonb_array_length(v_events) when 1 then v_events -> 0 else jsonb_build_object('events', v_events) end;
  end if;
  return jsonb_build_object('groups', (
    select jsonb_agg(jsonb_build_object('type', p.type, 'data', p.data, 'at', p.at, 'job_ids', to_jsonb(p.job_ids),
      'seqs', to_jsonb(p.seqs))) from unnest(p_parts) as p));
end;
$$;
comment on function queue.message_of is 'The payload of a message: of the only event, {"events": […]} with p_whole, else {"groups": […]}.';

create function queue.publish_few(
  p_events queue.job_events[], p_off text[], p_quiet text[], p_window queue.message_window
) returns void
language plpgsql set search_path = '' as $$
declare
  v_event queue.job_events;
  v_minor constant boolean := (p_events[1]).type in ('job.progress', 'job.log');
  v_job_type text := ''; -- looked up only where types are silent
  v_message jsonb;
  v_told jsonb[] := '{}'; -- to all but the jobs' own topics
  v_type text; -- of what is sent
  v_topics text[] := '{}';
  v_types text[];
  v_messages jsonb[];
begin
  foreach v_event in array p_events loop
    if p_quiet <> '{}' then
      v_job_type := (select job_type from public.jobs where id = v_event.job_id);
    end if;
    v_message := jsonb_build_object('job_id', v_event.job_id, 'seq', v_event.seq, 'type', v_event.type,
      'data', v_event.data, 'at', v_event.created_at);
    if v_event.type <> 'job.created' and v_job_type <> all (p_quiet) then
      v_topics := v_topics || ('job:' || v_event.job_id);
      v_types := v_types || v_event.type;
      v_messages := v_messages || v_message;
    end if;
    if v_job_type <> all (p_off) then
      v_told := v_told || v_message;
      v_type := v_event.type;
    end if;
  end loop;
  if v_told <> '{}' then
    v_message := v_told[1];
    if cardinality(v_told) > 1 then
      v_message := jsonb_build_object('events', v_told);
      v_type := 'job.events';
    end if;
    if not v_minor then
      v_topics := v_topics || ('workspace:' || v_event.workspace_id);
      v_types := v_types || v_type;
      v_messages := v_messages || v_message;
    end if;
    if v_event.session_id is not null and v_type <> 'job.log' then
      if queue.may_publish(v_event.session_id, v_event.workspace_id) then
        v_topics := v_topics || ('session:' || v_event.session_id);
        v_types := v_types || v_type;
        v_messages := v_messages || v_message;
      end if;
    end if;
  end if;
  if v_topics <> '{}' then
    perform queue.send_messages(v_topics, array_fill(v_event.workspace_id, array[cardinality(v_topics)]), v_types,
      v_messages, array_fill(v_minor, array[cardinality(v_topics)]), p_window);
  end if;
end;
$$;
comment on function queue.publish_few is 'The same as queue.publish_several at a third of the cost, for the only event of a statement, or for two state changes of different jobs of one workspace and session: mostly the end of a job and the lease of the next.';

create function queue.publish_several(
  p_events queue.job_events[], p_off text[], p_quiet text[], p_several uuid[], p_followed uuid[],
  p_window queue.message_window
) returns void
language plpgsql set search_path = '' as $$
declare
  c_minor constant text[] := array['job.progress', 'job.log'];
  -- several events of one job stay in order, and clients that know no groups get each event by itself
  v_whole constant boolean := p_several <> '{}' or exists (select from queue.followers as f where f.version < 2)
    and exists (select from queue.followers as f where f.version < 2 and f.topic = any (array(
      select 'workspace:' || e.workspace_id from unnest(p_events) as e
      union select 'session:' || e.session_id from unnest(p_events) as e)));
begin
  perform queue.send_messages(
    array_agg(m.topic), array_agg(m.workspace_id), array_agg(m.event), array_agg(m.payload), array_agg(m.minor),
    p_window)
  from (
    with n as materialized (
      select e.job_id, e.seq, e.workspace_id, e.session_id, e.type, e.data, e.created_at,
        e.type = any (c_minor) as minor, row_number() over () as nth, -- the type is looked up only where one is silent
        case p_quiet when '{}' then '' else (select job_type from public.jobs where id = e.job_id) end as job_type
      from unnest(p_events) as e),
    told as (
      select 'workspace:' || n.workspace_id as topic, n.* from n where not n.minor
      union all
      select 'session:' || n.session_id, n.* from n
      where n.session_id is not null and n.type <> 'job.log' and queue.may_publish(n.session_id, n.workspace_id)
      union all
      select 'job:' || n.job_id, n.* from n
      where n.job_id = any (p_several) and n.type <> 'job.created' and n.job_type <> all (p_quiet)),
    parts as ( -- what is alike is sent once for up to a thousand jobs
      select o.topic, o.workspace_id, o.type, o.data, min(o.created_at) as at, array_agg(o.job_id) as job_ids,
        case when min(o.seq) = max(o.seq) then array[min(o.seq)] else array_agg(o.seq) end as seqs,
        bool_and(o.minor) as minor, min(o.nth) as nth, 200 + pg_column_size(o.data) + 45 * count(*) as bytes
      from told as o where o.job_type <> all (p_off)
      group by o.topic, o.workspace_id, o.type, o.data, case when v_whole then o.nth else (o.nth - 1) / 1000 end),
    -- hosted Realtime accepts 256 kB on the free plan; pg_column_size is some tenths below the JSON's length
    bins as (
      select p.*, (sum(p.bytes) over (partition by p.topic order by p.nth) - p.bytes)::bigint / 100000 as bin
      from parts as p)
    select b.topic, b.workspace_id, bool_and(b.minor) as minor,
      case when sum(cardinality(b.job_ids)) = 1 then min(b.type) else 'job.events' end as event,
      queue.message_of(array_agg(row(b.type, b.data, b.at, b.job_ids, b.seqs)::queue.alike_events order by b.nth),
        v_whole) as payload
    from bins as b group by b.topic, b.workspace_id, b.bin
    union all
    select 'job:' || n.job_id, n.workspace_id, n.minor, n.type,
      jsonb_build_object('job_id', n.job_id, 'seq', n.seq, 'type', n.type, 'data', n.data, 'at', n.created_at)
    from n where n.job_id <> all (p_several) and n.type <> 'job.created' and n.job_type <> all (p_quiet)
      and (p_followed is null or n.job_id = any (p_followed))) as m;
end;
$$;
comment on function queue.publish_several is E'Publish the events of a statement, those of one job in their order.\n\np_off: types that publish nothing; p_quiet: those, and types that publish nothing on a job''s own topic; p_several: jobs of several events; p_followed: jobs that are followed, where there is no room for the topics of others, else null.';

do $$
begin
  -- a large message is compressed in a tenth of the time; not every server is built with it
  if (select 'lz4' = any (enumvals) from pg_catalog.pg_settings where name = 'default_toast_compression') then
    alter function queue.publish_several set default_toast_compression = 'lz4';
  end if;
end;
$$;

create function queue.publish_events() returns trigger
language plpgsql
security definer -- callers who change a job may not write to realtime.messages
set search_path = '' as $$
declare
  v_first constant queue.job_events[] := array(select e::queue.job_events from events as e limit 3);
  v_window queue.message_window;
  v_off text[] := '{}'; -- types that publish nothing
  v_quiet text[] := '{}'; -- those, and types that publish nothing on a job's own topic
  v_several uuid[]; -- jobs of several events; no one can follow one whose id was not known before
  v_followed uuid[]; -- jobs that are followed, where there is no room for the topics of others; null otherwise
begin
  if v_first = '{}' or to_regclass('realtime.messages') is null then
    return null;
  end if;
  v_window := queue.message_window();
  if exists (select from queue.job_types where live <> 'full') then
    select coalesce(array_agg(t.job_type) filter (where t.live = 'off'), '{}'), array_agg(t.job_type)
    into v_off, v_quiet from queue.job_types as t where t.live <> 'full';
  end if;
  if v_window.ceiling <= coalesce(pg_sequence_last_value('queue.messages_counted'), 0) then
    perform queue.hold_topics(array_agg(t.topic), array_agg(t.workspace_id), count(distinct t.job_id))
    from events as e cross join lateral (values
      (case when e.type not in ('job.progress', 'job.log') then 'workspace:' || e.workspace_id end,
        e.workspace_id, e.job_id),
      (case when e.type <> 'job.log' and e.session_id is not null
        and queue.may_publish(e.session_id, e.workspace_id) then 'session:' || e.session_id end,
        e.workspace_id, e.job_id),
      ('job:' || e.job_id, e.workspace_id, e.job_id)) as t (topic, workspace_id, job_id) where t.topic is not null;
  elsif cardinality(v_first) = 1 or cardinality(v_first) = 2
      and v_first[1].job_id <> v_first[2].job_id and v_first[1].workspace_id = v_first[2].workspace_id
      and v_first[1].session_id is not distinct from v_first[2].session_id
      and v_first[1].type not in ('job.progress', 'job.log') and v_first[2].type not in ('job.progress', 'job.log') then
    perform queue.publish_few(v_first, v_off, v_quiet, v_window);
  else
    v_several := array(
      select e.job_id from events as e where e.type <> 'job.created' group by e.job_id having count(*) > 1);
    if queue.room_for_unfollowed(v_window) < 4 then -- the workspace's message and a job's, each delivered once
      v_followed := array(select substr(a.topic, 5)::uuid from queue.audiences as a where a.topic like 'job:%');
      perform queue.hold_topics('{}', '{}', (select count(*) from events as e
        where e.job_id <> all (v_followed || v_several) and e.type <> 'job.created'
          and (v_quiet = '{}' or (select job_type from public.jobs where id = e.job_id) <> all (v_quiet))));
    end if;
    perform queue.publish_several(
      case when v_several = '{}' then (select array_agg(e::queue.job_events) from events as e)
      else (select array_agg(e::queue.job_events order by e.job_id, e.seq) from events as e) end,
      v_off, v_quiet, v_several, v_followed, v_window);
  end if;
  return null;
exception when others then
  raise warning 'job events were stored but not broadcast: % (%)', sqlerrm, sqlstate;
  return null;
end;
$$;
comment on function queue.publish_events is E'Trigger: publish job events, one message per topic and statement.\n\nA message of one event has its type as the broadcast''s event and {job_id, seq, type, data, at} as payload; one of several has the event job.events. Its payload is {"groups": [{type, data, at, job_ids, seqs}]}: an event of each job, the number at the same place of seqs or, of one, the same for all. Of two events, where a job has several, or while a client follows one of the statement''s topics that knows no groups (see follow_topic), it is {"events": [...]}, each as a message of one, in order of job and seq. A message larger than hosted Realtime accepts is split. The topics are job:<id> (all but its creation), workspace:<id> (state changes) and session:<id> (all but logs), as far as the job type''s live allows and the budget reaches: see send_messages. A failure only warns; the events stay in job_events.';

create function queue.may_publish(p_session_id text, p_workspace_id uuid) returns boolean
language sql stable
security definer -- called by publish_events alone, which reads the engine's tables
set search_path = '' as $$
  select case when p_session_id like 'guest\_%'
    then exists (select from queue.live_guest_session(p_session_id) as v where v.workspace_id = p_workspace_id)
    else exists (select from queue.sessions as s where s.session_id = p_session_id
      and s.workspace_id = p_workspace_id) end;
$$;
comment on function queue.may_publish is E'Whether a workspace publishes to a session''s topic: the one that used its id first, while a guest session lives.\n\nAnother workspace''s jobs with the same id are not published there; their watchers poll session_feed.';

create trigger job_events_publish after insert on queue.job_events
  referencing new table as events for each statement execute function queue.publish_events();

create function queue.may_follow(p_topic text) returns boolean
language plpgsql stable
security definer -- policies on realtime.messages run as the subscriber, who may not read the engine
set search_path = '' as $$
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
