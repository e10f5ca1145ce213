-- When a schedule will run, or an expression that is not saved yet.

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

select queue.allow('authenticated, service_role', 'public.next_runs');
