-- Cron schedules: expressions are read in SQL, in the schedule's own time zone; maintenance enqueues what is due.
-- A run is enqueued in the transaction that moves its schedule on, under the schedule's row lock: no leader, no
-- double run. Schedules declared in code come with their type and become rows here, which people may only switch.

-- The values that a field of an expression names, from p_low to p_high; null when it cannot be read.
create function queue.cron_values(p_field text, p_low integer, p_high integer, p_names text default '')
returns integer[]
language sql immutable as $$
  with parts as (
    select regexp_match(part, '^(\*|[a-z]{3}|\d{1,2})(?:-([a-z]{3}|\d{1,2}))?(?:/(\d{1,3}))?$') as m
    from string_to_array(lower(p_field), ',') as a (list), unnest(a.list) as part),
  spans as (
    select coalesce(m[3]::integer, 1) as step, case when m[1] = '*' then p_low else n.first end as low,
      case when m[1] = '*' and m[2] is null or m[2] is null and m[3] is not null then p_high
        when m[1] = '*' then null when m[2] is null then n.first else n.last end as high
    from parts cross join lateral (select
      case when m[1] ~ '\d' then m[1]::integer else nullif(strpos(p_names, m[1]), 0) / 4 + p_low end as first,
      case when m[2] ~ '\d' then m[2]::integer else nullif(strpos(p_names, m[2]), 0) / 4 + p_low end as last) as n)
  select case when bool_and(s.step > 0 and s.low >= p_low and s.high <= p_high and s.low <= s.high) is true
      and count(*) filter (where s.low is null or s.high is null) = 0 then (
    select array_agg(distinct v order by v) from spans as o
    cross join lateral generate_series(o.low, o.high, nullif(o.step, 0)) as v) end
  from spans as s
$$;

-- An expression as {minutes, hours, days, months, weekdays} in one object, with whether hours follow elapsed time
-- (every_hour), and whether days of month and week are alternatives (either), as when neither is *.
create function queue.cron_parse(p_cron text) returns jsonb
language plpgsql immutable as $$
declare
  v_fields constant text[] := regexp_split_to_array(btrim(case lower(btrim(p_cron))
    when '@hourly' then '0 * * * *' when '@daily' then '0 0 * * *' when '@midnight' then '0 0 * * *'
    when '@weekly' then '0 0 * * 0' when '@monthly' then '0 0 1 * *' when '@yearly' then '0 0 1 1 *'
    when '@annually' then '0 0 1 1 *' else p_cron end), '\s+');
  v_plan constant jsonb := jsonb_build_object('minutes', queue.cron_values(v_fields[1], 0, 59),
    'hours', queue.cron_values(v_fields[2], 0, 23), 'days', queue.cron_values(v_fields[3], 1, 31),
    'months', queue.cron_values(v_fields[4], 1, 12, 'jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec'),
    'weekdays', queue.cron_values(v_fields[5], 0, 7, 'sun,mon,tue,wed,thu,fri,sat'),
    'every_hour', v_fields[2] like '*%', 'either', v_fields[3] not like '*%' and v_fields[5] not like '*%');
begin
  if cardinality(v_fields) <> 5 or length(p_cron) > 500 or v_plan @> any (array['{"minutes": null}', '{"hours": null}',
      '{"days": null}', '{"months": null}', '{"weekdays": null}']::jsonb[]) then
    perform queue.refuse(400, 'invalid_argument',
      format('not a cron expression of five fields: %s', left(p_cron, 100)), 'cron');
  end if;
  return v_plan;
end;
$$;

-- The first minute after p_after that a plan names, in local time; null when none comes within nine years: the rarest
-- date, 29 February, comes within eight.
create function queue.cron_wall(p_plan jsonb, p_after timestamp) returns timestamp
language plpgsql immutable as $$
declare
  v_day date := p_after::date;
  v_hour integer := extract(hour from p_after);
  v_minute integer;
  v_in_month boolean;
  v_in_week boolean;
begin
  if p_plan -> 'hours' @> to_jsonb(v_hour) then
    v_minute := (select min(m::integer) from jsonb_array_elements_text(p_plan -> 'minutes') as m
      where m::integer > extract(minute from p_after));
  end if;
  for v_nth in 0..3294 loop
    v_in_month := p_plan -> 'days' @> to_jsonb(extract(day from v_day));
    v_in_week := p_plan -> 'weekdays' @> any (array[to_jsonb(extract(dow from v_day)),
      to_jsonb(extract(isodow from v_day))]);
    if p_plan -> 'months' @> to_jsonb(extract(month from v_day))
        and (v_in_month and v_in_week or (p_plan -> 'either')::boolean and (v_in_month or v_in_week)) then
      if v_minute is null then
        v_minute := p_plan #> '{minutes,0}';
        v_hour := (select min(h::integer) from jsonb_array_elements_text(p_plan -> 'hours') as h
          where h::integer > v_hour);
      end if;
      if v_hour is not null then
        return v_day + make_time(v_hour, v_minute, 0);
      end if;
    end if;
    v_day := v_day + 1;
    v_hour := -1;
    v_minute := null;
  end loop;
  return null;
end;
$$;

-- The first instant after p_after at which the masks match; null when none comes within nine years. A time on the wall
-- may come twice (clocks go back) or never (they go forward): fixed hours run once, at the first or right after the
-- gap; hours given as * run each real hour.
create function queue.cron_after(p_plan jsonb, p_timezone text, p_after timestamptz) returns timestamptz
language plpgsql stable as $$
declare
  v_every_hour constant boolean := p_plan -> 'every_hour';
  v_wall timestamp := queue.cron_wall(p_plan, p_after at time zone p_timezone);
  v_next timestamptz := v_wall at time zone p_timezone;
  v_instants timestamptz[];
  v_one timestamptz;
begin
  if v_next is null or (select count(distinct (p_at at time zone p_timezone) - (p_at at time zone 'UTC')) = 1
      from unnest(array[p_after - interval '4 hours', p_after + interval '4 hours', v_next - interval '4 hours',
        v_next + interval '4 hours']) as p_at) then
    return v_next; -- no clock changes near either
  end if;
  v_wall := (p_after at time zone p_timezone) - interval '2 hours';
  v_next := null;
  loop
    v_wall := queue.cron_wall(p_plan, v_wall);
    exit when v_wall is null or v_next is not null and v_wall > (v_next at time zone p_timezone) + interval '2 hours';
    v_one := v_wall at time zone p_timezone;
    v_instants := array(
      select i from unnest(array[v_one - interval '1 hour', v_one - interval '30 minutes', v_one,
        v_one + interval '30 minutes', v_one + interval '1 hour']) as i
      where i at time zone p_timezone = v_wall order by i);
    if not v_every_hour then
      v_instants := array[coalesce(v_instants[1], v_one)];
    end if;
    v_next := least(v_next, (select min(i) from unnest(v_instants) as i where i > p_after));
  end loop;
  return v_next;
end;
$$;

create function queue.check_zone(p_timezone text) returns void
language plpgsql stable as $$
begin
  if p_timezone !~ '^[A-Za-z_]+(/[A-Za-z0-9_+-]+){0,2}$' then
    raise invalid_parameter_value;
  end if;
  perform queue.clock() at time zone p_timezone;
exception when invalid_parameter_value then
  perform queue.refuse(400, 'invalid_argument', format('no such time zone: %s', left(p_timezone, 80)), 'timezone');
end;
$$;

create table queue.schedules (
  id uuid primary key default queue.new_id(),
  workspace_id uuid not null,
  name text not null, -- of one declared in code: code:<its name>
  cron text not null, -- five fields: minute hour day month weekday, or @hourly, @daily, @weekly, @monthly, @yearly
  plan jsonb not null, -- the expression as cron_parse reads it
  timezone text not null default 'UTC', -- IANA time zone the fields are read in
  job_type text not null,
  payload jsonb not null default '{}',
  options jsonb not null default '{}', -- as for enqueue_job; unique keeps runs from overlapping
  missed text not null default 'once', -- runs missed while no worker ran: skip them, one for all of them, or all
  enabled boolean not null default true,
  next_at timestamptz, -- null when there will be none
  last_slot_at timestamptz, -- when the latest run was due
  last_job_id uuid,
  problem text, -- why the latest run enqueued no job; null when it did
  created_by uuid,
  created_at timestamptz not null default queue.clock(),
  updated_at timestamptz not null default queue.clock(),
  source text, -- where the code declares it: module:function; null for one that a person made
  constraint schedules_are_named_once unique (workspace_id, name),
  constraint schedules_name_is_bounded check (char_length(name) between 1 and 200),
  constraint schedules_missed_is_known check (missed in ('skip', 'once', 'all'))
) with (fillfactor = 70);
create index schedules_by_time on queue.schedules (next_at) where enabled and next_at is not null;
create index schedules_by_type on queue.schedules (job_type);
insert into queue.tasks (name, place, every) values ('schedules', 40, '1 second');

-- The workspace of jobs that belong to no tenant: it has no members, so that only operators see them.
create function queue.system_workspace() returns uuid
language sql immutable parallel safe
as $$ select 'ffffffff-ffff-4fff-bfff-ffffffffffff'::uuid $$;

-- Maintenance: enqueue what is due, at most 100 runs of a schedule, in a subtransaction each, so that a failure of one
-- stops no other. A run more than five minutes late counts as missed where those are skipped. A type that no worker
-- serves any more gets none: they would only pile up.
create function queue.do_schedules(p_now timestamptz, p_until timestamptz) returns integer
language plpgsql as $$
declare
  v_schedule queue.schedules;
  v_slot timestamptz;
  v_next timestamptz;
  v_fired integer;
  v_done integer := 0;
begin
  for v_schedule in
    select * from queue.schedules as s where s.enabled and s.next_at <= p_now
    order by s.next_at limit 500 for update skip locked
  loop
    exit when clock_timestamp() > p_until; -- the rest stays due
    begin
      if v_schedule.source is not null and queue.unserved(v_schedule.job_type, p_now) then
        raise exception 'no worker serves the job type % any more', v_schedule.job_type;
      end if;
      v_fired := 0;
      v_next := queue.cron_after(v_schedule.plan, v_schedule.timezone, v_schedule.next_at);
      v_slot := case when v_schedule.missed <> 'skip' or v_schedule.next_at >= p_now - interval '5 minutes'
        then v_schedule.next_at end;
      while v_slot is not null loop
        v_schedule.last_job_id := (queue.enqueue(v_schedule.workspace_id, null, jsonb_build_array(v_schedule.options
          || jsonb_build_object('job_type', v_schedule.job_type, 'payload', v_schedule.payload)), false)).ids[1];
        v_schedule.last_slot_at := v_slot;
        v_fired := v_fired + 1;
        v_next := queue.cron_after(v_schedule.plan, v_schedule.timezone, v_slot);
        v_slot := case when v_schedule.missed = 'all' and v_next <= p_now and v_fired < 100 then v_next end;
      end loop;
      if v_schedule.missed <> 'all' then
        v_next := queue.cron_after(v_schedule.plan, v_schedule.timezone, p_now);
      end if;
      update queue.schedules set next_at = v_next, problem = null, last_slot_at = v_schedule.last_slot_at,
        last_job_id = v_schedule.last_job_id
      where id = v_schedule.id;
      v_done := v_done + v_fired;
    exception
      when lock_not_available or deadlock_detected or serialization_failure then
        continue;
      when others then
        update queue.schedules set problem = sqlerrm, next_at = case sqlstate
          when '22023' then p_now + interval '1 hour' -- a time zone that the server no longer knows
          else queue.cron_after(plan, timezone, p_now) end
        where id = v_schedule.id;
    end;
  end loop;
  return v_done;
end;
$$;

-- The first run after now, or 400 for an expression or a zone that has none.
create function queue.first_run(p_cron text, p_timezone text, p_now timestamptz) returns timestamptz
language plpgsql stable as $$
declare
  v_next timestamptz;
begin
  perform queue.check_zone(p_timezone);
  v_next := queue.cron_after(queue.cron_parse(p_cron), p_timezone, p_now);
  if v_next is null then
    perform queue.refuse(400, 'invalid_argument',
      format('the cron expression %s never comes due: no such date exists', p_cron), 'cron');
  end if;
  return v_next;
end;
$$;

-- Write one schedule; p_keeps: whether one that is switched off stays so. The same expression keeps its place: saving
-- twice must neither skip nor repeat a run.
create function queue.save_schedule(p_schedule queue.schedules, p_keeps boolean default false) returns queue.schedules
language sql as $$
  insert into queue.schedules as s
  select (p_schedule).*
  on conflict (workspace_id, name) do update set cron = excluded.cron, plan = excluded.plan,
    timezone = excluded.timezone, job_type = excluded.job_type, payload = excluded.payload,
    options = excluded.options, missed = excluded.missed, source = excluded.source, problem = null,
    enabled = case when p_keeps then s.enabled else excluded.enabled end, updated_at = excluded.updated_at,
    next_at = case when s.enabled and (s.cron, s.timezone) = (excluded.cron, excluded.timezone) then s.next_at
      else excluded.next_at end
  returning s.*
$$;

create function public.put_schedule(p_workspace_id uuid, p_schedule jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  v_now constant timestamptz := queue.clock();
  v_zone constant text := coalesce(p_schedule ->> 'timezone', 'UTC');
  v_problem text[];
  v_made queue.schedules;
begin
  perform queue.may_manage(p_workspace_id);
  select * into v_made from queue.schedules where workspace_id = p_workspace_id and name = p_schedule ->> 'name'
  for update;
  if v_made.source is not null then -- people switch what the code declares, and change nothing else of it
    if exists (select from jsonb_each(p_schedule) as s
        where s.key not in ('name', 'enabled') and s.value is distinct from to_jsonb(v_made) -> s.key) then
      perform queue.refuse(409, 'declared_in_code',
        format('the schedule is declared in code (%s), which alone changes it', v_made.source), v_made.name);
    end if;
    update queue.schedules set enabled = coalesce((p_schedule ->> 'enabled')::boolean, enabled), updated_at = v_now,
      next_at = case when enabled then next_at else queue.cron_after(plan, timezone, v_now) end
    where id = v_made.id returning * into v_made;
    return to_jsonb(v_made) - 'plan';
  end if;
  perform queue.check_names(p_schedule,
    array['name', 'cron', 'timezone', 'job_type', 'payload', 'options', 'missed', 'enabled'], 'schedule');
  perform queue.check_names(coalesce(p_schedule -> 'options', '{}'), array['queue', 'priority', 'max_attempts',
    'concurrency_key', 'session_id', 'timeout_seconds', 'unique', 'delay_seconds', 'tags'], 'options');
  v_problem := case
    when coalesce(char_length(p_schedule ->> 'name'), 0) not between 1 and 200
      then array['name', 'a schedule needs a name of 1 to 200 characters']
    when p_schedule ->> 'cron' is null then array['cron', 'a schedule needs a cron expression']
    when coalesce(p_schedule ->> 'missed', 'once') not in ('skip', 'once', 'all')
      then array['missed', 'missed must be skip, once or all'] end;
  if v_problem is not null then
    perform queue.refuse(400, 'invalid_argument', v_problem[2], v_problem[1]);
  end if;
  perform queue.make_job(p_workspace_id, auth.uid(), queue.type_or_refuse(p_schedule ->> 'job_type'),
    coalesce(nullif(p_schedule -> 'payload', 'null'), '{}'),
    queue.read_options(coalesce(p_schedule -> 'options', '{}'), ''), '', v_now); -- could it be enqueued now
  v_made := row(queue.new_id(), p_workspace_id, p_schedule ->> 'name', p_schedule ->> 'cron',
    queue.cron_parse(p_schedule ->> 'cron'), v_zone, p_schedule ->> 'job_type',
    coalesce(p_schedule -> 'payload', '{}'), coalesce(p_schedule -> 'options', '{}'),
    coalesce(p_schedule ->> 'missed', 'once'), coalesce((p_schedule ->> 'enabled')::boolean, true),
    queue.first_run(p_schedule ->> 'cron', v_zone, v_now), null, null, null, auth.uid(), v_now, v_now, null);
  return to_jsonb(queue.save_schedule(v_made)) - 'plan';
exception
  when invalid_text_representation or numeric_value_out_of_range or invalid_datetime_format then
    perform queue.refuse_value('the schedule', 'schedule', sqlerrm);
end;
$$;
comment on function public.put_schedule is
  'Create or change a schedule by name: {name, cron, timezone, job_type, payload, options, missed, enabled}.';

create function public.delete_schedule(p_workspace_id uuid, p_name text) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
  perform queue.may_manage(p_workspace_id);
  delete from queue.schedules where workspace_id = p_workspace_id and name = p_name and source is null;
  if not found then
    if exists (select from queue.schedules where workspace_id = p_workspace_id and name = p_name) then
      perform queue.refuse(409, 'declared_in_code',
        'the schedule is declared in code; change it there, or switch it off', p_name);
    end if;
    perform queue.refuse(404, 'schedule_not_found', 'no such schedule', p_name);
  end if;
  return jsonb_build_object('deleted', p_name);
end;
$$;
comment on function public.delete_schedule is 'Delete a schedule; the jobs it enqueued are kept.';

create function public.list_schedules(p_workspace_id uuid default null) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
begin
  perform queue.may_read_all(p_workspace_id);
  return (
    select jsonb_build_object('schedules', coalesce(jsonb_agg(case
      when p_workspace_id is not null then to_jsonb(s) - 'plan'
      else to_jsonb(s) - '{plan,payload,options}'::text[] || jsonb_build_object('workspace_name', case
        when s.workspace_id = queue.system_workspace() then 'the system'
          else (select t.name from queue.tenants as t where t.id = s.workspace_id) end) end
      order by s.problem is null, s.name), '[]'))
    from (select * from queue.schedules where p_workspace_id is null or workspace_id = p_workspace_id
      order by name limit 1000) as s);
end;
$$;
comment on function public.list_schedules is
  'Schedules of a workspace, those with a problem first, at most 1,000; without one, for operators, of all.';

create function public.next_runs(p_workspace_id uuid, p_schedule jsonb, p_count integer default 5) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
declare
  v_cron text := p_schedule ->> 'cron';
  v_zone text := coalesce(p_schedule ->> 'timezone', 'UTC');
  v_at timestamptz := queue.clock();
  v_runs jsonb := '[]';
begin
  perform queue.may_read(p_workspace_id);
  if v_cron is null then
    select cron, timezone into v_cron, v_zone from queue.schedules
    where workspace_id = p_workspace_id and name = p_schedule ->> 'name';
    if not found then
      perform queue.refuse(404, 'schedule_not_found', 'no such schedule', p_schedule ->> 'name');
    end if;
  end if;
  perform queue.check_zone(v_zone);
  for v_turn in 1..least(20, greatest(1, coalesce(p_count, 5))) loop
    v_at := queue.cron_after(queue.cron_parse(v_cron), v_zone, v_at);
    exit when v_at is null;
    v_runs := v_runs || to_jsonb(v_at);
  end loop;
  return jsonb_build_object('cron', v_cron, 'timezone', v_zone, 'runs', v_runs);
end;
$$;
comment on function public.next_runs is
  'When a schedule, {name} or {cron, timezone}, will run: {cron, timezone, runs: […]}, at most 20.';

-- Rows for what job types declare: of one type, or of all for one new workspace. One switched off stays off.
create function queue.spread_schedules(p_job_type text, p_workspace_id uuid, p_now timestamptz) returns void
language plpgsql as $$
begin
  if p_workspace_id is null then
    delete from queue.schedules as s using queue.job_types as t
    where s.job_type = p_job_type and s.source is not null and t.job_type = p_job_type and not exists (
      select from jsonb_array_elements(t.schedules) as d
      where s.name = 'code:' || (d.value ->> 'name') and case coalesce(d.value ->> 'scope', 'system')
        when 'system' then s.workspace_id = queue.system_workspace()
        when 'workspace' then s.workspace_id = (d.value ->> 'workspace_id')::uuid
        else s.workspace_id <> queue.system_workspace() end);
  end if;
  perform queue.save_schedule(row(queue.new_id(), w.id, 'code:' || d.name, d.cron, queue.cron_parse(d.cron),
    coalesce(d.timezone, 'UTC'), t.job_type, coalesce(d.payload, '{}'), coalesce(d.options, '{}'),
    coalesce(d.missed, 'once'), true,
    queue.cron_after(queue.cron_parse(d.cron), coalesce(d.timezone, 'UTC'), p_now), null, null, null, null,
    p_now, p_now, coalesce(t.source, t.job_type))::queue.schedules, true)
  from queue.job_types as t
  cross join lateral jsonb_to_recordset(t.schedules) as d (name text, scope text, workspace_id uuid, cron text,
    timezone text, payload jsonb, options jsonb, missed text)
  cross join lateral (
    select queue.system_workspace() as id where coalesce(d.scope, 'system') = 'system' and p_workspace_id is null
    union all
    select n.id from queue.tenants as n
    where (d.scope = 'each' or d.scope = 'workspace' and n.id = d.workspace_id)
      and (p_workspace_id is null or n.id = p_workspace_id)) as w
  where t.schedules is not null and (p_job_type is null or t.job_type = p_job_type);
end;
$$;

create function queue.tenant_created() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform queue.spread_schedules(null, (to_jsonb(new) ->> tg_argv[0])::uuid, queue.clock());
  return null;
end;
$$;
create trigger workspaces_after_insert after insert on public.workspaces
  for each row execute function queue.tenant_created('id'); -- the column that holds the tenant's id

select queue.allow('authenticated, service_role', 'public.put_schedule', 'public.delete_schedule',
  'public.list_schedules', 'public.next_runs');
