-- Cron schedules: expressions read in SQL, in the schedule's own time zone, fired by whichever tick comes first.
-- A slot is inserted in the transaction that enqueues its job: no leader, no double fire.

create table queue.schedules (
  id uuid primary key default queue.new_id(),
  workspace_id uuid not null,
  name text not null,
  cron text not null,
  timezone text not null default 'UTC',
  job_type text not null,
  payload jsonb not null default '{}',
  options jsonb not null default '{}',
  missed text not null default 'once',
  enabled boolean not null default true,
  next_at timestamptz,
  last_slot_at timestamptz,
  last_job_id uuid,
  problem text,
  created_by uuid,
  created_at timestamptz not null default queue.clock(),
  updated_at timestamptz not null default queue.clock(),
  constraint schedules_are_named_once unique (workspace_id, name),
  constraint schedules_name_is_bounded check (char_length(name) between 1 and 200),
  constraint schedules_missed_is_known check (missed in ('skip', 'once', 'all'))
) with (fillfactor = 70);
create index schedules_by_time on queue.schedules (next_at) where enabled;
alter table queue.schedules enable row level security;
comment on table queue.schedules is 'Jobs that are enqueued by the clock.';
comment on column queue.schedules.id is 'Identity.';
comment on column queue.schedules.workspace_id is 'The tenant its jobs belong to.';
comment on column queue.schedules.name is 'Name, unique in the workspace.';
comment on column queue.schedules.cron is 'Five fields: minute hour day month weekday, or @hourly, @daily, @weekly, @monthly, @yearly.';
comment on column queue.schedules.timezone is 'IANA time zone the fields are read in.';
comment on column queue.schedules.job_type is 'Type of the jobs.';
comment on column queue.schedules.payload is 'Their payload.';
comment on column queue.schedules.options is 'Their options, as for enqueue_job; unique keeps runs from overlapping.';
comment on column queue.schedules.missed is 'Runs missed while nothing ticked: skip them, run once for all, or run all.';
comment on column queue.schedules.enabled is 'False while switched off.';
comment on column queue.schedules.next_at is 'Next run, UTC; null when none will come.';
comment on column queue.schedules.last_slot_at is 'The latest slot that was fired, UTC.';
comment on column queue.schedules.last_job_id is 'The job it made.';
comment on column queue.schedules.problem is 'Why the latest slot made no job; null when it did.';
comment on column queue.schedules.created_by is 'Who made it; null for a service.';
comment on column queue.schedules.created_at is 'When it was made.';
comment on column queue.schedules.updated_at is 'When it was last changed.';

create table queue.schedule_slots (
  schedule_id uuid not null references queue.schedules (id) on delete cascade,
  slot_at timestamptz not null,
  job_id uuid,
  fired_at timestamptz not null default queue.clock(),
  primary key (schedule_id, slot_at)
);
create index schedule_slots_by_time on queue.schedule_slots (fired_at);
alter table queue.schedule_slots enable row level security;
comment on table queue.schedule_slots is 'Runs that were fired, each once.';
comment on column queue.schedule_slots.schedule_id is 'The schedule.';
comment on column queue.schedule_slots.slot_at is 'The instant it was due.';
comment on column queue.schedule_slots.job_id is 'The job it made; null when enqueueing failed.';
comment on column queue.schedule_slots.fired_at is 'When it was fired.';
revoke all on queue.schedules, queue.schedule_slots from public, anon, authenticated, service_role;

create function queue.cron_set(p_field text, p_low integer, p_high integer, p_names text[] default '{}') returns integer[]
language plpgsql immutable
set search_path = ''
as $$
declare
  v_part text;
  v_bounds text[];
  v_from integer;
  v_to integer;
  v_step integer;
  v_set integer[] := '{}';
begin
  if p_field = '' or p_field ~ '(^,|,$|,,)' then
    return null;
  end if;
  foreach v_part in array string_to_array(lower(p_field), ',') loop
    if v_part !~ '^(\*|[a-z]{3}|\d{1,2})(-([a-z]{3}|\d{1,2}))?(/\d{1,3})?$' or v_part ~ '^\*-' then
      return null;
    end if;
    v_step := coalesce(nullif(split_part(v_part, '/', 2), '')::integer, 1);
    v_part := split_part(v_part, '/', 1) || case when v_part ~ '/' and v_part !~ '[*-]' then '-' || p_high else '' end;
    if v_part = '*' then
      v_from := p_low;
      v_to := p_high;
    else
      v_bounds := array(
        select coalesce((array_position(p_names, bound) - 1 + p_low)::text, bound)
        from unnest(string_to_array(v_part, '-')) with ordinality as b (bound, n) order by n);
      if exists (select 1 from unnest(v_bounds) as b where b !~ '^\d+$') then
        return null;
      end if;
      v_from := v_bounds[1]::integer;
      v_to := coalesce(v_bounds[2], v_bounds[1])::integer;
    end if;
    if v_step < 1 or v_from < p_low or v_to > p_high or v_from > v_to then
      return null;
    end if;
    v_set := v_set || array(select generate_series(v_from, v_to, v_step));
  end loop;
  return array(select distinct s from unnest(v_set) as s order by s);
end;
$$;
comment on function queue.cron_set is 'The numbers a cron field stands for; null when it cannot be read.';

create function queue.cron_parse(p_cron text) returns jsonb
language plpgsql immutable
set search_path = ''
as $$
declare
  v_fields text[] := regexp_split_to_array(btrim(case lower(btrim(p_cron))
    when '@hourly' then '0 * * * *' when '@daily' then '0 0 * * *' when '@midnight' then '0 0 * * *'
    when '@weekly' then '0 0 * * 0' when '@monthly' then '0 0 1 * *' when '@yearly' then '0 0 1 1 *'
    when '@annually' then '0 0 1 1 *' else p_cron end), '\s+');
  v_days constant text[] := array['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];
  v_months constant text[] := array['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'];
  v_sets jsonb;
begin
  if cardinality(v_fields) = 5 and length(p_cron) <= 500 then -- read again at each run, while other leases wait
    v_sets := jsonb_build_object(
      'minutes', queue.cron_set(v_fields[1], 0, 59), 'hours', queue.cron_set(v_fields[2], 0, 23),
      'days', queue.cron_set(v_fields[3], 1, 31), 'months', queue.cron_set(v_fields[4], 1, 12, v_months),
      'weekdays', (select array_agg(distinct d % 7) from unnest(queue.cron_set(v_fields[5], 0, 7, v_days)) as d),
      'any_hour', v_fields[2] like '*%', 'any_day', v_fields[3] like '*%', 'any_weekday', v_fields[5] like '*%');
  end if;
  if v_sets is null or exists (select 1 from jsonb_each(v_sets) where value = 'null'::jsonb) then
    perform queue.refuse(400, 'invalid_argument', format('not a cron expression of five fields: %s', left(p_cron, 100)), 'cron');
  end if;
  return v_sets;
end;
$$;
comment on function queue.cron_parse is E'A cron expression as sets of numbers; 400 when it cannot be read or has more than 500 characters.\n\nA day matches by day of month and weekday when one of them is *, by either when both are given, as cron does.';

create function queue.cron_next(p_cron text, p_timezone text, p_after timestamptz) returns timestamptz
language plpgsql stable
set search_path = ''
as $$
declare
  v_sets jsonb := queue.cron_parse(p_cron);
  v_minutes integer[] := array(select jsonb_array_elements_text(v_sets -> 'minutes')::integer);
  v_hours integer[] := array(select jsonb_array_elements_text(v_sets -> 'hours')::integer);
  v_days integer[] := array(select jsonb_array_elements_text(v_sets -> 'days')::integer);
  v_months integer[] := array(select jsonb_array_elements_text(v_sets -> 'months')::integer);
  v_weekdays integer[] := array(select jsonb_array_elements_text(v_sets -> 'weekdays')::integer);
  v_any_hour boolean := (v_sets ->> 'any_hour')::boolean;
  v_any_day boolean := (v_sets ->> 'any_day')::boolean;
  v_any_weekday boolean := (v_sets ->> 'any_weekday')::boolean;
  v_local timestamp := p_after at time zone p_timezone;
  v_day date := v_local::date;
  v_next timestamptz;
begin
  for v_count in 0..366 * 9 loop -- the rarest date, 29 February, comes within eight years
    if extract(month from v_day) = any (v_months) and (case
        when v_any_day and v_any_weekday then true
        when v_any_day then extract(dow from v_day) = any (v_weekdays)
        when v_any_weekday then extract(day from v_day) = any (v_days)
        else extract(day from v_day) = any (v_days) or extract(dow from v_day) = any (v_weekdays) end) then
      -- a wall-clock time may come twice (clocks go back) or never (they go forward):
      -- fixed hours run once, at the first or right after the gap; "every hour" runs each real hour
      select min(instant) into v_next
      from (
        select wall, other.instant,
          (other.instant at time zone p_timezone) = wall as exists_so,
          min(other.instant) filter (where (other.instant at time zone p_timezone) = wall) over (partition by wall) as first
        from unnest(v_hours) as h, unnest(v_minutes) as m
        cross join lateral (select v_day + make_interval(hours => h, mins => m) as wall) as w
        cross join lateral (select wall at time zone p_timezone as instant) as i
        cross join lateral (values (i.instant - interval '1 hour'), (i.instant - interval '30 minutes'), (i.instant),
          (i.instant + interval '30 minutes'), (i.instant + interval '1 hour')) as other (instant)
        where wall > v_local - interval '4 hours'
          and ((other.instant at time zone p_timezone) = wall or other.instant = i.instant)) as all_of_them
      where instant > p_after
        and case when exists_so then v_any_hour or instant = first else not v_any_hour and first is null end;
      if v_next is not null then
        return v_next;
      end if;
    end if;
    v_day := v_day + 1;
  end loop;
  return null;
end;
$$;
comment on function queue.cron_next is E'The first instant after p_after at which the expression is due; null when none comes within nine years.\n\nWhen clocks go forward, a run whose wall-clock time is left out comes right after the gap; when they go back, it comes once. Hours given as * follow real time instead.';

create function queue.fire_schedules(p_limit integer, p_now timestamptz) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_schedule queue.schedules;
  v_slot timestamptz;
  v_next timestamptz;
  v_done jsonb;
  v_problem text;
  v_fired integer := 0;
  v_of_this integer;
  v_fires integer;
  v_last timestamptz;
begin
  for v_schedule in
    select * from queue.schedules where enabled and next_at <= p_now order by next_at, id limit p_limit for update skip locked
  loop
    v_slot := v_schedule.next_at;
    v_of_this := 0;
    v_fires := 0;
    v_problem := null;
    v_done := null;
    v_last := v_schedule.last_slot_at;
    v_next := v_slot;
    begin -- what is wrong with one schedule must not stop everyone's leases
      perform queue.check_declared(v_schedule, p_now);
      if v_schedule.missed = 'skip' and v_slot < p_now - interval '5 minutes' then
        v_slot := null;
      end if;
      while v_slot is not null loop
        insert into queue.schedule_slots (schedule_id, slot_at) values (v_schedule.id, v_slot) on conflict do nothing;
        if found then
          v_done := queue.enqueue_unwaited(v_schedule.workspace_id, v_schedule.options
            || jsonb_build_object('job_type', v_schedule.job_type, 'payload', v_schedule.payload));
          update queue.schedule_slots set job_id = (v_done #>> '{ids,0}')::uuid
          where schedule_id = v_schedule.id and slot_at = v_slot;
          v_fires := v_fires + 1;
          v_schedule.last_slot_at := v_slot;
        end if;
        v_of_this := v_of_this + 1;
        v_next := queue.cron_next(v_schedule.cron, v_schedule.timezone, v_slot);
        v_slot := case when v_schedule.missed = 'all' and v_next <= p_now and v_of_this < 100 then v_next end;
      end loop;
    exception
      when lock_not_available or deadlock_detected or serialization_failure then
        continue; -- it stays due, and the next look fires it
      when others then
        v_problem := sqlerrm; -- what this schedule had enqueued until here is undone
        v_next := null;
        v_done := null;
        v_fires := 0;
        v_schedule.last_slot_at := v_last;
    end;
    v_fired := v_fired + v_fires;
    if v_schedule.missed <> 'all' or v_next is null then
      begin
        v_next := queue.cron_next(v_schedule.cron, v_schedule.timezone, p_now);
      exception when others then -- a zone that the server no longer knows
        v_problem := sqlerrm;
        v_next := p_now + interval '1 hour';
      end;
    end if;
    update queue.schedules set next_at = v_next, last_slot_at = v_schedule.last_slot_at, problem = v_problem,
      last_job_id = coalesce((v_done #>> '{ids,0}')::uuid, last_job_id)
    where id = v_schedule.id;
  end loop;
  return v_fired;
end;
$$;
comment on function queue.fire_schedules is E'Enqueue the jobs of due schedules; returns how many.\n\nA run more than five minutes late counts as missed where those are skipped. One whose job would have to wait for somebody''s transaction stays due.';

create function queue.may_manage(p_workspace_id uuid) returns void
language plpgsql stable
set search_path = ''
as $$
begin
  perform queue.may_steer(p_workspace_id);
  if auth.uid() is not null and not queue.is_manager(p_workspace_id) then
    perform queue.refuse(403, 'forbidden', 'only a manager of the workspace may do this', p_workspace_id::text);
  end if;
end;
$$;
comment on function queue.may_manage is 'Refuse strangers with 404 and plain members with 403.';

create function public.put_schedule(p_workspace_id uuid, p_schedule jsonb) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables: this is the function
set search_path = ''
as $$
declare
  v_now timestamptz := queue.clock();
  v_name text := p_schedule ->> 'name';
  v_zone text := coalesce(p_schedule ->> 'timezone', 'UTC');
  v_options jsonb := coalesce(p_schedule -> 'options', '{}');
  v_next timestamptz;
  v_problem text[];
  v_field text;
  v_made queue.schedules;
begin
  perform queue.may_manage(p_workspace_id);
  if exists (select from queue.schedules where workspace_id = p_workspace_id and name = v_name and source is not null) then
    return queue.switch_schedule(p_workspace_id, p_schedule);
  end if;
  if jsonb_typeof(p_schedule) is distinct from 'object' or v_name is null or char_length(v_name) not between 1 and 200 then
    perform queue.refuse(400, 'invalid_argument', 'a schedule needs a name of 1 to 200 characters', 'name');
  elsif p_schedule ->> 'cron' is null then
    perform queue.refuse(400, 'invalid_argument', 'a schedule needs a cron expression', 'cron');
  elsif coalesce(p_schedule ->> 'missed', 'once') not in ('skip', 'once', 'all') then
    perform queue.refuse(400, 'invalid_argument', 'missed must be skip, once or all', 'missed');
  elsif jsonb_typeof(v_options) <> 'object' then
    perform queue.refuse(400, 'invalid_argument', 'options must be an object', 'options');
  end if;
  select key into v_field from jsonb_object_keys(p_schedule) as key
  where key <> all (array['name', 'cron', 'timezone', 'job_type', 'payload', 'options', 'missed', 'enabled']) limit 1;
  if found then
    perform queue.refuse(400, 'invalid_argument', format('unknown field: %s', left(v_field, 80)), left(v_field, 80));
  end if;
  select key into v_field from jsonb_object_keys(v_options) as key
  where key <> all (array['queue', 'priority', 'max_attempts', 'concurrency_key', 'session_id', 'timeout_seconds', 'backoff', 'unique', 'delay_seconds']) limit 1;
  if found then
    perform queue.refuse(400, 'invalid_argument', format('a schedule cannot set the option %s', left(v_field, 80)), 'options.' || left(v_field, 80));
  end if;
  perform queue.refuse_internal(p_schedule ->> 'job_type');
  select queue.item_problem(jsonb_populate_record(null::queue.enqueue_item, v_options
      || jsonb_build_object('job_type', p_schedule ->> 'job_type', 'payload', coalesce(p_schedule -> 'payload', '{}'))),
    t, (queue.setting('payload_max_bytes'))::integer)
  into v_problem
  from (select 1) as one left join queue.job_types as t on t.job_type = p_schedule ->> 'job_type';
  if v_problem is not null then
    perform queue.refuse(v_problem[1]::integer, v_problem[2], v_problem[3], v_problem[4]);
  end if;
  begin
    if v_zone !~ '^[A-Za-z_]+(/[A-Za-z0-9_+-]+){0,2}$' then
      raise invalid_parameter_value;
    end if;
    perform v_now at time zone v_zone;
  exception when invalid_parameter_value then
    perform queue.refuse(400, 'invalid_argument', format('no such time zone: %s', left(v_zone, 80)), 'timezone');
  end;
  v_next := queue.cron_next(p_schedule ->> 'cron', v_zone, v_now);
  if v_next is null then
    perform queue.refuse(400, 'invalid_argument', 'the cron expression never comes due', 'cron');
  end if;
  insert into queue.schedules as s (workspace_id, name, cron, timezone, job_type, payload, options, missed, enabled, next_at, created_by,
    created_at, updated_at) -- alike: that tells a new one
  values (p_workspace_id, v_name, p_schedule ->> 'cron', v_zone, p_schedule ->> 'job_type', coalesce(p_schedule -> 'payload', '{}'),
    v_options, coalesce(p_schedule ->> 'missed', 'once'), coalesce((p_schedule ->> 'enabled')::boolean, true), v_next, auth.uid(),
    v_now, v_now)
  on conflict (workspace_id, name) do update set cron = excluded.cron, timezone = excluded.timezone, job_type = excluded.job_type,
    payload = excluded.payload, options = excluded.options, missed = excluded.missed, enabled = excluded.enabled,
    -- the same expression keeps its place: saving twice must neither skip nor repeat a run
    next_at = case when s.enabled and s.cron = excluded.cron and s.timezone = excluded.timezone then s.next_at else excluded.next_at end,
    problem = null, updated_at = v_now
  returning * into v_made;
  return to_jsonb(v_made);
exception
  when invalid_text_representation or numeric_value_out_of_range or invalid_datetime_format then
    perform queue.refuse(400, 'invalid_argument', 'a value has the wrong type: ' || sqlerrm, 'schedule');
end;
$$;
comment on function public.put_schedule is E'Make or change a schedule by name: {name, cron, timezone = UTC, job_type, payload, options, missed = skip|once|all, enabled}.\n\nFor managers of the workspace. Returns the schedule with its next run.';

create function public.delete_schedule(p_workspace_id uuid, p_name text) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables: this is the function
set search_path = ''
as $$
begin
  perform queue.may_manage(p_workspace_id);
  if exists (select from queue.schedules where workspace_id = p_workspace_id and name = p_name and source is not null) then
    perform queue.refuse(409, 'declared_in_code', 'the schedule is declared in code; change it there, or switch it off', p_name);
  end if;
  delete from queue.schedules where workspace_id = p_workspace_id and name = p_name;
  if not found then
    perform queue.refuse(404, 'schedule_not_found', 'no such schedule', p_name);
  end if;
  return jsonb_build_object('deleted', p_name);
end;
$$;
comment on function public.delete_schedule is 'Remove a schedule; jobs it made stay.';

create function public.list_schedules(p_workspace_id uuid) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables: this is the function
set search_path = ''
as $$
begin
  perform queue.may_steer(p_workspace_id);
  return (select jsonb_build_object('schedules', coalesce(jsonb_agg(to_jsonb(s) order by s.name), '[]'))
    from (select * from queue.schedules where workspace_id = p_workspace_id order by name limit 1000) as s);
end;
$$;
comment on function public.list_schedules is 'Schedules of a workspace, by name, at most 1,000: {schedules: […]}.';

revoke execute on function public.put_schedule, public.delete_schedule, public.list_schedules
  from public, anon, authenticated, service_role;
grant execute on function public.put_schedule, public.delete_schedule, public.list_schedules to authenticated, service_role;
