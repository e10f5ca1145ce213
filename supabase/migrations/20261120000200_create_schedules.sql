-- Cron schedules: expressions read in SQL, in the schedule's own time zone; maintenance enqueues the runs that are due.
-- A slot is inserted in the transaction that enqueues its job: no leader, no double fire.

create table queue.schedules (
  id uuid primary key default queue.new_id(), -- identity
  workspace_id uuid not null, -- the tenant its jobs belong to
  name text not null, -- name, unique in the workspace
  cron text not null, -- five fields: minute hour day month weekday, or @hourly, @daily, @weekly, @monthly, @yearly
  plan text[] not null generated always as (queue.cron_parse(cron)) stored, -- the expression as cron_parse reads it
  timezone text not null default 'UTC', -- IANA time zone the fields are read in
  job_type text not null, -- type of the jobs
  payload jsonb not null default '{}', -- their payload
  options jsonb not null default '{}', -- their options, as for enqueue_job; unique keeps runs from overlapping
  -- runs missed while no worker ran: skip them, run once for all of them (once), or run all
  missed text not null default 'once',
  enabled boolean not null default true, -- false while switched off
  next_at timestamptz, -- next run, UTC; null when there will be none
  -- not run before, UTC: the workspace has used up its runs of the minute
  held_until timestamptz not null default '-infinity',
  last_slot_at timestamptz, -- when the latest run was due, UTC
  last_job_id uuid, -- the latest job it enqueued
  problem text, -- why the latest run enqueued no job; null when it did
  created_by uuid, -- who created it; null for a service
  created_at timestamptz not null default queue.clock(), -- when it was created
  updated_at timestamptz not null default queue.clock(), -- when it was last changed
  source text, -- where the code declares it: module:function; null for one that a person created
  constraint schedules_are_named_once unique (workspace_id, name),
  constraint schedules_name_is_bounded check (char_length(name) between 1 and 200),
  constraint schedules_missed_is_known check (missed in ('skip', 'once', 'all'))
) with (fillfactor = 70);
create index schedules_by_time on queue.schedules ((greatest(next_at, held_until))) where enabled
  and next_at is not null;
comment on table queue.schedules is 'Jobs that are enqueued at given times, by cron expressions.';

create table queue.schedule_slots (
  schedule_id uuid not null references queue.schedules (id) on delete cascade, -- the schedule
  slot_at timestamptz not null, -- the instant it was due
  job_id uuid, -- the job it enqueued; null when that failed
  fired_at timestamptz not null default queue.clock(), -- when it was enqueued
  primary key (schedule_id, slot_at)
);
create index schedule_slots_by_time on queue.schedule_slots (fired_at);
comment on table queue.schedule_slots is 'Runs of schedules, one row each, so that none is enqueued twice.';

create table queue.schedule_minutes (
  workspace_id uuid primary key, -- the tenant
  minute timestamptz not null, -- the latest minute with a run
  runs integer not null -- how many runs it had
) with (fillfactor = 50);
comment on table queue.schedule_minutes is 'How many runs of schedules a workspace has had in a minute, for the '
  'limit schedule_runs_per_minute.';
insert into queue.settings (name, value) values ('schedule_runs_per_minute', '240');

create function queue.count_runs(p_workspace_id uuid, p_runs integer, p_now timestamptz) returns integer
language sql set search_path = '' as $$
  insert into queue.schedule_minutes as m (workspace_id, minute, runs)
  values (p_workspace_id, date_trunc('minute', p_now), p_runs)
  on conflict (workspace_id) do update set minute = excluded.minute,
    runs = excluded.runs + case when m.minute = excluded.minute then m.runs else 0 end
  returning runs
$$;
comment on function queue.count_runs is 'Count p_runs more runs of the workspace in this minute; returns their sum.';

create function queue.hold_schedules(p_workspace_id uuid, p_most integer, p_now timestamptz) returns void
language sql set search_path = '' as $$
  update queue.schedules
  set held_until = date_trunc('minute', p_now) + interval '1 minute', problem = format(
    'the schedules of this workspace ask for more than %s runs a minute (schedule_runs_per_minute); this one waits',
      p_most)
  where id = any (array(
    select id from queue.schedules where workspace_id = p_workspace_id and enabled and next_at <= p_now
    for update skip locked))
$$;
comment on function queue.hold_schedules is 'Put off the schedules of a workspace that has used up its runs of the minute.';

create function queue.fire_schedule(p_schedule queue.schedules, p_most integer, p_now timestamptz,
  out fired integer, out next_at timestamptz, out last_slot_at timestamptz, out job_id uuid
)
language plpgsql set search_path = '' as $$
declare
  v_slot timestamptz := p_schedule.next_at;
  v_runs integer := 0;
begin
  fired := 0;
  last_slot_at := p_schedule.last_slot_at;
  if p_schedule.missed = 'skip' and v_slot < p_now - interval '5 minutes' then
    v_slot := null;
  end if;
  while v_slot is not null loop
    insert into queue.schedule_slots (schedule_id, slot_at) values (p_schedule.id, v_slot) on conflict do nothing;
    if found then
      job_id := queue.enqueue_unwaited(p_schedule.workspace_id, p_schedule.options || jsonb_build_object(
        'job_type', p_schedule.job_type, 'payload', p_schedule.payload));
      update queue.schedule_slots as s set job_id = fire_schedule.job_id
      where s.schedule_id = p_schedule.id and s.slot_at = v_slot;
      fired := fired + 1;
      last_slot_at := v_slot;
    end if;
    v_runs := v_runs + 1;
    next_at := queue.cron_after(p_schedule.plan, p_schedule.timezone, v_slot);
    v_slot := case when p_schedule.missed = 'all' and next_at <= p_now and v_runs < p_most then next_at end;
  end loop;
  if p_schedule.missed <> 'all' or next_at is null then
    next_at := queue.cron_after(p_schedule.plan, p_schedule.timezone, p_now);
  end if;
end;
$$;
comment on function queue.fire_schedule is E'Enqueue the due runs of one schedule, at most p_most, and note when it '
  'is due next.\n\nA run more than five minutes late counts as missed where those are skipped.';

create function queue.fire_schedules(p_ids uuid[], p_now timestamptz,
  p_until timestamptz default 'infinity') returns integer
language plpgsql set search_path = '' as $$
declare
  v_most constant integer := (queue.setting('schedule_runs_per_minute'))::integer;
  v_schedule queue.schedules;
  v_made record;
  v_runs integer;
  v_held uuid[] := '{}';
  v_fired integer := 0;
begin
  for v_schedule in
    select * from queue.schedules where id = any (p_ids) and enabled and greatest(next_at, held_until) <= p_now
    order by next_at, id for update skip locked
  loop
    exit when clock_timestamp() > p_until; -- the rest stays due
    continue when v_schedule.workspace_id = any (v_held);
    v_runs := queue.count_runs(v_schedule.workspace_id, 0, p_now);
    if v_runs >= v_most then
      perform queue.hold_schedules(v_schedule.workspace_id, v_most, p_now);
      v_held := v_held || v_schedule.workspace_id;
      continue;
    end if;
    begin -- a failure of one schedule must not stop the others
      perform queue.check_declared(v_schedule, p_now);
      v_made := queue.fire_schedule(v_schedule, least(100, v_most - v_runs), p_now);
      perform queue.count_runs(v_schedule.workspace_id, v_made.fired, p_now);
      v_fired := v_fired + v_made.fired;
      update queue.schedules set next_at = v_made.next_at, last_slot_at = v_made.last_slot_at, problem = null,
        last_job_id = coalesce(v_made.job_id, last_job_id)
      where id = v_schedule.id;
    exception
      when lock_not_available or deadlock_detected or serialization_failure then
        continue; -- it stays due for the next call
      when others then
        update queue.schedules set problem = sqlerrm, next_at = queue.next_after_problem(v_schedule, p_now)
        where id = v_schedule.id;
    end;
  end loop;
  return v_fired;
end;
$$;
comment on function queue.fire_schedules is E'Enqueue the jobs of the schedules that are due; returns how '
  'many.\n\nA run whose job would have to wait for another transaction stays due, and so do those left at p_until. A '
  'workspace has at most schedule_runs_per_minute runs a minute: further ones wait for the next minute, and their '
  'problem says so.';

create function queue.next_after_problem(p_schedule queue.schedules, p_now timestamptz) returns timestamptz
language plpgsql set search_path = '' as $$
begin
  return queue.cron_after(p_schedule.plan, p_schedule.timezone, p_now);
exception when others then -- a time zone that the server no longer knows
  return p_now + interval '1 hour';
end;
$$;
comment on function queue.next_after_problem is 'When a schedule whose run failed runs next: its next regular time.';

create function queue.may_manage(p_workspace_id uuid) returns void
language plpgsql stable set search_path = '' as $$
begin
  perform queue.may_steer(p_workspace_id);
  if auth.uid() is not null and not queue.is_manager(p_workspace_id) then
    perform queue.refuse(403, 'forbidden', 'only a manager of the workspace may do this', p_workspace_id::text);
  end if;
end;
$$;
comment on function queue.may_manage is 'Refuse strangers with 404 and plain members with 403.';

create function queue.check_schedule(p_schedule jsonb) returns void
language plpgsql stable set search_path = '' as $$
declare
  v_options jsonb := coalesce(p_schedule -> 'options', '{}');
  v_field text;
begin
  perform queue.check_names(p_schedule,
    array['name', 'cron', 'timezone', 'job_type', 'payload', 'options', 'missed', 'enabled'], 'schedule');
  if p_schedule ->> 'name' is null or char_length(p_schedule ->> 'name') not between 1 and 200 then
    perform queue.refuse(400, 'invalid_argument', 'a schedule needs a name of 1 to 200 characters', 'name');
  elsif p_schedule ->> 'cron' is null then
    perform queue.refuse(400, 'invalid_argument', 'a schedule needs a cron expression', 'cron');
  elsif coalesce(p_schedule ->> 'missed', 'once') not in ('skip', 'once', 'all') then
    perform queue.refuse(400, 'invalid_argument', 'missed must be skip, once or all', 'missed');
  elsif jsonb_typeof(v_options) <> 'object' then
    perform queue.refuse(400, 'invalid_argument', 'options must be an object', 'options');
  end if;
  select key into v_field from jsonb_object_keys(v_options) as key
  where key <> all (array['queue', 'priority', 'max_attempts', 'concurrency_key', 'session_id', 'timeout_seconds',
    'backoff', 'unique', 'delay_seconds']) limit 1;
  if found then
    perform queue.refuse(400, 'invalid_argument', format('a schedule cannot set the option %s', left(v_field, 80)),
      'options.' || left(v_field, 80));
  end if;
  perform queue.check_later_job(v_options || jsonb_build_object('job_type', p_schedule ->> 'job_type',
    'payload', coalesce(p_schedule -> 'payload', '{}')), '');
end;
$$;
comment on function queue.check_schedule is 'Refuse fields and options that a schedule cannot have, and jobs that could not be enqueued.';

create function public.put_schedule(p_workspace_id uuid, p_schedule jsonb) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_now timestamptz := queue.clock();
  v_name text := p_schedule ->> 'name';
  v_zone text := coalesce(p_schedule ->> 'timezone', 'UTC');
  v_next timestamptz;
  v_made queue.schedules;
begin
  perform queue.may_manage(p_workspace_id);
  if exists (select from queue.schedules where workspace_id = p_workspace_id and name = v_name
    and source is not null) then
    return queue.switch_schedule(p_workspace_id, p_schedule);
  end if;
  perform queue.check_schedule(p_schedule);
  perform queue.check_zone(v_zone);
  v_next := queue.cron_next(p_schedule ->> 'cron', v_zone, v_now);
  if v_next is null then
    perform queue.refuse(400, 'invalid_argument', format('the cron expression %s never comes due: no such date exists',
      p_schedule ->> 'cron'), 'cron');
  end if;
  insert into queue.schedules as s (workspace_id, name, cron, timezone, job_type, payload, options, missed, enabled,
    next_at, created_by, created_at, updated_at) -- the two are equal in a new one
  values (p_workspace_id, v_name, p_schedule ->> 'cron', v_zone, p_schedule ->> 'job_type',
    coalesce(p_schedule -> 'payload', '{}'), coalesce(p_schedule -> 'options', '{}'),
    coalesce(p_schedule ->> 'missed', 'once'), coalesce((p_schedule ->> 'enabled')::boolean, true), v_next,
    auth.uid(), v_now, v_now)
  on conflict (workspace_id, name) do update set cron = excluded.cron, timezone = excluded.timezone,
    job_type = excluded.job_type, payload = excluded.payload, options = excluded.options, missed = excluded.missed,
    enabled = excluded.enabled,
    -- the same expression keeps its place: saving twice must neither skip nor repeat a run
    next_at = case when s.enabled and s.cron = excluded.cron and s.timezone = excluded.timezone then s.next_at
      else excluded.next_at end,
    problem = null, updated_at = v_now
  returning * into v_made;
  return to_jsonb(v_made) - '{plan,held_until}'::text[];
exception
  when invalid_text_representation or numeric_value_out_of_range or invalid_datetime_format then
    perform queue.refuse_value('the schedule', 'schedule', sqlerrm);
end;
$$;
comment on function public.put_schedule is E'Create or change a schedule by name: {name, cron, timezone = UTC, '
  'job_type, payload, options, missed = skip|once|all, enabled}.\n\nFor managers of the workspace. Returns the '
  'schedule with its next run.';

create function public.delete_schedule(p_workspace_id uuid, p_name text) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
begin
  perform queue.may_manage(p_workspace_id);
  if exists (select from queue.schedules where workspace_id = p_workspace_id and name = p_name
    and source is not null) then
    perform queue.refuse(409, 'declared_in_code',
      'the schedule is declared in code; change it there, or switch it off', p_name);
  end if;
  delete from queue.schedules where workspace_id = p_workspace_id and name = p_name;
  if not found then
    perform queue.refuse(404, 'schedule_not_found', 'no such schedule', p_name);
  end if;
  return jsonb_build_object('deleted', p_name);
end;
$$;
comment on function public.delete_schedule is 'Delete a schedule; the jobs it enqueued are kept.';

create function public.list_schedules(p_workspace_id uuid default null) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
begin
  perform queue.may_read_all(p_workspace_id);
  return (select jsonb_build_object('schedules',
    coalesce(jsonb_agg(case when p_workspace_id is not null then to_jsonb(s) - '{plan,held_until}'::text[]
        else to_jsonb(s) - '{plan,held_until,payload,options}'::text[] || jsonb_build_object('workspace_name', case
          when s.workspace_id = queue.system_workspace() then 'the system'
          else (select t.name from queue.tenants as t where t.id = s.workspace_id) end) end
      order by s.problem is null, s.name), '[]'))
    from (select * from queue.schedules where p_workspace_id is null or workspace_id = p_workspace_id
      order by name limit 1000) as s);
end;
$$;
comment on function public.list_schedules is E'Schedules of a workspace, those with a problem first, then by name, at most 1,000: {schedules: [… workspace_name]}.\n\nWithout a workspace, for operators, those of all and of the system, without payloads and options.';

select queue.allow('authenticated, service_role', 'public.put_schedule', 'public.delete_schedule',
  'public.list_schedules');
