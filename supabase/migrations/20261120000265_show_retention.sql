-- How long ended jobs are kept and what was removed, for a workspace's members: they see neither
-- the engine's settings nor what was removed elsewhere.

create table queue.removals (
  workspace_id uuid not null, -- the tenant
  day date not null, -- day of the removal, UTC
  outcome text not null, -- how the jobs had ended: completed, cancelled or failed
  jobs bigint not null, -- how many
  removed_at timestamptz not null, -- when the last of them was removed
  primary key (workspace_id, day, outcome)
);
create index removals_by_day on queue.removals (day);
comment on table queue.removals is 'How many ended jobs retention removed, per workspace, day and outcome; kept for 30 days.';

create function public.workspace_retention(p_workspace_id uuid) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_days jsonb := queue.setting('retention_days');
begin
  perform queue.may_steer(p_workspace_id);
  return jsonb_build_object('workspace_id', p_workspace_id, 'days', v_days,
    'types', (select coalesce(jsonb_agg(jsonb_build_object('job_type', job_type, 'days', v_days || retention_days)
      order by job_type), '[]')
      from queue.job_types where retention_days is not null),
    'checked_at', (select nullif(done_at, '-infinity') from queue.maintenance_tasks where name = 'retention'),
    'removed', (select coalesce(jsonb_agg(to_jsonb(d) order by d.day desc), '[]') from (
      select day, coalesce(sum(jobs) filter (where outcome = 'completed'), 0) as completed,
        coalesce(sum(jobs) filter (where outcome = 'cancelled'), 0) as cancelled,
        coalesce(sum(jobs) filter (where outcome = 'failed'), 0) as failed, max(removed_at) as removed_at
      from queue.removals where workspace_id = p_workspace_id
        and day > (queue.clock() at time zone 'UTC')::date - 30 group by day) as d));
end;
$$;
comment on function public.workspace_retention is E'How long ended jobs are kept, in days per status, and what was '
  'removed: {days, types: [{job_type, days}], checked_at, removed: [{day, completed, cancelled, failed, '
  'removed_at}]}.\n\nFor members of the workspace. types names those with days of their own; removed covers 30 '
  'days, the latest first.';

create function public.next_runs(p_workspace_id uuid, p_schedule jsonb, p_count numeric default 5) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_cron text := p_schedule ->> 'cron';
  v_zone text := coalesce(p_schedule ->> 'timezone', 'UTC');
  v_at timestamptz := queue.clock();
  v_runs jsonb := '[]';
begin
  perform queue.may_steer(p_workspace_id);
  if v_cron is null then
    select cron, timezone into v_cron, v_zone from queue.schedules where workspace_id = p_workspace_id
      and name = p_schedule ->> 'name';
    if not found then
      perform queue.refuse(404, 'schedule_not_found', 'no such schedule', p_schedule ->> 'name');
    end if;
  end if;
  perform queue.check_zone(v_zone);
  for v_turn in 1..least(20, greatest(1, coalesce(queue.whole(p_count, 'p_count'), 5))) loop
    v_at := queue.cron_next(v_cron, v_zone, v_at);
    exit when v_at is null;
    v_runs := v_runs || to_jsonb(v_at);
  end loop;
  return jsonb_build_object('cron', v_cron, 'timezone', v_zone, 'runs', v_runs);
end;
$$;
comment on function public.next_runs is E'When a schedule will run: {cron, timezone, runs: […]}, at most 20, from '
  'now on.\n\np_schedule is {name} of an existing one, or {cron, timezone = UTC} to try an expression. Whether it is '
  'switched on makes no difference.';

select queue.allow('authenticated, service_role', 'public.workspace_retention', 'public.next_runs');
