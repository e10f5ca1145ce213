-- Each job event goes to the private topics that apply, in one guarded insert per statement.
-- A lost message never fails the work: clients read the event log after joining.

create function queue.publish_events() returns trigger
language plpgsql
security definer -- whoever moves a job may not write to realtime.messages
set search_path = ''
set plan_cache_mode = 'force_generic_plan' -- its plan does not depend on the values
as $$
declare
  v_ids uuid[];
begin
  if to_regclass('realtime.messages') is null then
    return null;
  end if;
  -- rising ids, drawn together: the table's own default is a third of what a message costs
  v_ids := queue.new_ids(3 * (select count(*) from events)::integer);
  insert into realtime.messages (id, topic, extension, event, payload, private)
  select v_ids[row_number() over (order by e.job_id, e.seq)], t.topic, 'broadcast', e.type, e.payload, true
  from (
    select job_id, seq, workspace_id, session_id, type,
      jsonb_build_object('job_id', job_id, 'seq', seq, 'type', type, 'data', data, 'at', created_at) as payload
    from events order by job_id, seq) as e
  cross join lateral (
    select 'job:' || e.job_id as topic
    union all
    select 'workspace:' || e.workspace_id where e.type not in ('job.progress', 'job.log')
    union all
    select 'session:' || e.session_id where e.session_id is not null and e.type <> 'job.log'
      -- a visit that has ended or was closed falls silent at once, and no other tenant speaks in it or in a session
      and case when e.session_id like 'visit\_%' then exists (
          select from queue.live_visit(e.session_id) as v where v.workspace_id = e.workspace_id)
        else exists (select from queue.sessions as s where s.session_id = e.session_id and s.workspace_id = e.workspace_id) end) as t
  order by e.job_id, e.seq;
  return null;
exception when others then
  raise warning 'job events were stored but not broadcast: % (%)', sqlerrm, sqlstate;
  return null;
end;
$$;
comment on function queue.publish_events is E'Trigger: send job events to job:<id> (all), workspace:<id> (state changes) and session:<id> (all but logs).\n\nA session''s topic belongs to the workspace that used the id first: another''s jobs with the same id are not sent there, and whoever watches those polls session_feed. A failure only warns; the events stay in job_events.';

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
  if p_topic ~ '^session:visit_' then
    return exists (select from queue.may_visit(substr(p_topic, 9)));
  end if;
  if p_topic !~ '^(job|workspace):[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' and p_topic !~ '^session:.{1,255}$' then
    return false;
  end if;
  case split_part(p_topic, ':', 1)
    when 'job' then
      return exists (select 1 from public.jobs as j
        where j.id = v_id::uuid and (j.workspace_id in (select queue.my_workspaces())
          or j.session_id like 'visit\_%' and exists (
            select from queue.live_visit(j.session_id) as v where v.workspace_id = j.workspace_id and queue.is_mine(v))));
    when 'workspace' then
      return v_id::uuid in (select queue.my_workspaces());
    when 'session' then
      return exists (select 1 from queue.sessions as s
        where s.session_id = substr(p_topic, 9) and s.workspace_id in (select queue.my_workspaces()));
  end case;
end;
$$;
comment on function queue.may_follow is E'Whether the caller may join a private topic: a job or session of their workspace, or the workspace.\n\nA session is its first workspace''s; members of another that uses the same id are refused and poll. A visit is followed by whoever it was opened to, and its jobs by the user it is for.';
revoke execute on function queue.publish_events, queue.may_follow from public, anon, authenticated, service_role;
grant execute on function queue.may_follow to authenticated, anon;
