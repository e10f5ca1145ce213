-- This file implements cron schedules. Each schedule is evaluated in SQL, in the schedule's time
-- zone. Maintenance locks the row of a schedule, enqueues the due job and stores the time of the
-- next run in one transaction, so that no job is enqueued twice. A schedule that is declared in
-- code is stored when its job type is published, and belongs to the system workspace.

-- Return the values between p_low and p_high that a field of a cron expression selects, or null if
-- the field is invalid.
create function queue.cron_values(
  p_field text,
  p_low integer,
  p_high integer,
  p_names text[] default '{}'
)
returns integer[]
language plpgsql immutable strict
set search_path = ''
as $$
declare
  v_part text;
  v_match text[]; -- from, to, step
  v_from integer;
  v_to integer;
  v_step integer;
  v_values integer[] := '{}';
begin
  for v_nth in 1..cardinality(p_names) loop
    p_field := regexp_replace(
      p_field,
      format('\m%s\M', p_names[v_nth]),
      (p_low + v_nth - 1)::text,
      'gi'
    );
  end loop;
  foreach v_part in array string_to_array(p_field, ',') loop
    v_match := regexp_match(
      v_part,
      '^(?:\*|(\d{1,2})(?:-(\d{1,2}))?)(?:/(\d{1,3}))?$'
    );
    v_step := coalesce(v_match[3]::integer, 1);
    v_from := coalesce(v_match[1]::integer, p_low);
    v_to := coalesce(
      v_match[2]::integer,
      case
        when v_match[1] is null or v_match[3] is not null then p_high
        else v_from
      end
    );
    if v_match is null
      or v_step = 0
      or v_from < p_low
      or v_from > v_to
      or v_to > p_high
    then
      return null;
    end if;
    v_values := v_values || array(select generate_series(v_from, v_to, v_step));
  end loop;
  return array(select distinct v from unnest(v_values) as v);
end;
$$;

-- Return the time of a schedule's first run after p_after. Reject an unknown time zone, or a
-- schedule without a run within nine years, with status 400. Nine years are enough, because 29
-- February comes at least once in eight years. When the clocks change, a local time may occur twice
-- or never. If a local time occurs twice, a schedule with fixed hours runs only at the first
-- occurrence. If a local time never occurs, the schedule runs right after the clock change. A
-- schedule with * in the hours also runs in a repeated hour.
create function queue.first_run(p_cron text, p_timezone text, p_after timestamptz)
returns timestamptz
language plpgsql stable
set search_path = ''
as $$
declare
  v_fields constant text[] := regexp_split_to_array(
    btrim(
      coalesce(
        '{"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *",
          "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *",
          "@annually": "0 0 1 1 *"}'::jsonb ->> lower(btrim(p_cron)),
        left(p_cron, 501)
      )
    ),
    '\s+'
  );
  v_minutes constant integer[] := queue.cron_values(v_fields[1], 0, 59);
  v_hours constant integer[] := queue.cron_values(v_fields[2], 0, 23);
  v_days constant integer[] := queue.cron_values(v_fields[3], 1, 31);
  v_months constant integer[] := queue.cron_values(
    v_fields[4],
    1,
    12,
    '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}'
  );
  v_weekdays constant integer[] := queue.cron_values(
    v_fields[5],
    0,
    7,
    '{sun,mon,tue,wed,thu,fri,sat}'
  );
  -- If neither the day of the month nor the day of the week is *, a date needs to match only one of
  -- the two fields, as in cron.
  v_either constant boolean := v_fields[3] not like '*%'
    and v_fields[5] not like '*%';
  v_each constant boolean := v_fields[2] like '*%';
  v_day date;
  v_in_month boolean;
  v_in_week boolean;
  v_next timestamptz;
begin
  if cardinality(v_fields) is distinct from 5
    or length(p_cron) > 500
    or num_nulls(v_minutes, v_hours, v_days, v_months, v_weekdays) > 0
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      format('not a cron expression of five fields: %s', left(p_cron, 100)),
      'cron'
    );
  elsif p_timezone !~* (
    '^([a-z_]+(-[a-z]+)*(/[a-z_]+(-[a-z_]+)*){0,2}|(EST5E|CST6C|MST7M|PST8P)DT|'
      '(Etc/)?GMT[+-]?0|Etc/GMT([+][1-9]|[+]1[0-2]|-[1-9]|-1[0-4]))$'
  ) then
    -- reject names that do not match the pattern of time zone names, because Postgres would read a
    -- name such as Mars/Base5 as an offset from UTC
    raise invalid_parameter_value;
  end if;
  v_day := (p_after at time zone p_timezone)::date - 1; -- the clocks may go back past midnight
  for v_nth in 0..3296 loop
    v_in_month := extract(day from v_day)::integer = any (v_days);
    v_in_week := array[extract(dow from v_day), extract(isodow from v_day)]::integer[]
      && v_weekdays; -- Sunday is 0 or 7
    if extract(month from v_day)::integer = any (v_months)
      and (v_in_month and v_in_week or v_either and (v_in_month or v_in_week))
    then
      select min(i.at) into v_next
      from (
        select v_day + make_time(h, m, 0) as wall
        from unnest(v_hours) as h
        cross join unnest(v_minutes) as m
        where v_day + make_time(h, m, 0)
          > p_after at time zone p_timezone - interval '2 hours'
        order by 1
        limit 300
      ) as w -- no clock change skips 300 minutes
      -- convert the local time to UTC with the time zone's offset at that time, and with the offset
      -- twelve hours earlier
      cross join lateral (
        select c.at
        from (
          values
            (w.wall at time zone p_timezone),
            (
              (w.wall - interval '12 hours') at time zone p_timezone
              + interval '12 hours'
            )
        ) as c (at)
        where not v_each or c.at at time zone p_timezone = w.wall
        order by c.at at time zone p_timezone <> w.wall, c.at
        limit case when v_each then 2 else 1 end
      ) as i
      where i.at > p_after;
      if v_next is not null then
        return v_next;
      end if;
    end if;
    v_day := v_day + 1;
  end loop;
  perform queue.refuse(
    400,
    'invalid_argument',
    format('%s never comes due: no such date exists', p_cron),
    'cron'
  );
exception when invalid_parameter_value then
  perform queue.refuse(
    400,
    'invalid_argument',
    'unknown time zone: ' || left(p_timezone, 80),
    'timezone'
  );
end;
$$;

create table queue.schedules (
  id uuid primary key default queue.new_id(),
  workspace_id uuid not null,
  name text not null, -- code:<name> if the schedule is declared in code
  cron text not null, -- five fields: minute hour day month weekday, or @hourly, @daily …
  timezone text not null default 'UTC', -- IANA time zone of the fields
  job_type text not null,
  payload jsonb not null default '{}',
  -- Options of the job, as in public.enqueue_job. The option `unique` prevents a run from
  -- overlapping with an earlier run.
  options jsonb not null default '{}',
  -- Treatment of runs that were missed while no worker ran. With 'skip', maintenance drops missed
  -- runs. With 'once', maintenance enqueues one job for all missed runs.
  missed text not null default 'once',
  enabled boolean not null default true,
  next_at timestamptz, -- null if no further run follows
  last_slot_at timestamptz, -- due time of the latest run
  last_job_id uuid, -- job of the latest run
  problem text, -- reason why the latest run enqueued no job, or null
  -- name module:function of the code that declares the schedule, null if a person created the
  -- schedule
  source text,
  created_by uuid,
  created_at timestamptz not null default queue.clock(),
  updated_at timestamptz not null default queue.clock(),
  constraint schedules_are_named_once unique (workspace_id, name)
) with (fillfactor = 70);
create index schedules_by_time on queue.schedules (next_at)
  where enabled and next_at is not null;
create index schedules_by_type on queue.schedules (job_type);

-- Schedules that the latest deployed code no longer declares. A row is kept for a day, so that a
-- rollback of the code can restore the schedule.
create table queue.withdrawn_schedules (
  name text primary key, -- as in queue.schedules
  cron text not null,
  timezone text not null,
  next_at timestamptz,
  last_slot_at timestamptz,
  last_job_id uuid,
  withdrawn_at timestamptz not null
);

-- maximum number of schedules in a workspace
insert into queue.settings (name, value)
values ('schedules_max', '1000');

-- Correct the stored times of next runs after the clock of the database server was ahead. Without a
-- correction, a clock that was a day ahead for a moment would stop every schedule for a day. If the
-- maintenance task `schedules` last ran at a time that is now in the future, begin a pass over all
-- schedules. If an earlier call has not finished its pass over all schedules, continue the pass.
create function queue.reset_schedules(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_after uuid := (
    select case
      -- allow a difference of one minute, because two maintenance calls may read slightly different
      -- times
      when t.done_at > p_now + interval '1 minute' then '00000000-0000-0000-0000-000000000000'
      else t.after_id
    end
    from queue.tasks as t
    where t.name = 'schedules'
  );
  v_one queue.schedules;
  v_next timestamptz;
  v_done integer := 0;
begin
  while v_after is not null loop
    select * into v_one
    from queue.schedules as s
    where s.id > v_after and s.enabled
    order by s.id
    limit 1
    for update skip locked;
    v_after := v_one.id;
    exit when v_after is null;
    begin
      v_next := queue.first_run(v_one.cron, v_one.timezone, p_now);
      if v_one.next_at > v_next then
        update queue.schedules
        set next_at = v_next
        where id = v_one.id;
        v_done := v_done + 1;
      end if;
    exception when others then
      null; -- queue.do_schedules stores the error, for example an unknown time zone
    end;
    exit when clock_timestamp() > p_until;
  end loop;
  update queue.tasks
  set after_id = v_after
  where name = 'schedules' and after_id is distinct from v_after;
  return v_done;
end;
$$;

-- Run the maintenance task `schedules`. The task `schedules` enqueues a job for the first due
-- schedule of each workspace, then for the second due schedule of each workspace, and so on. A run
-- that is more than five minutes late counts as a missed run. A schedule that is declared in code
-- enqueues no job while no worker serves its job type, because its jobs would only accumulate. If
-- one schedule fails, the other schedules still run.
create function queue.do_schedules(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_ids constant uuid[] := array(
    select s.id
    from queue.schedules as s
    where s.enabled and s.next_at <= p_now
    order by
      row_number() over (partition by s.workspace_id order by s.next_at),
      s.next_at
    limit 10000
  );
  v_id uuid;
  v_one queue.schedules;
  v_timing text; -- cron expression and time zone
  v_runs jsonb := '{}'; -- next run of each timing, because computing it costs more than an enqueue
  v_next timestamptz;
  v_job_id uuid;
  v_done integer := queue.reset_schedules(p_now, p_until);
begin
  foreach v_id in array v_ids loop
    select * into v_one
    from queue.schedules as s
    where s.id = v_id and s.enabled and s.next_at <= p_now
    for update skip locked;
    continue when not found;
    v_next := p_now + interval '1 hour'; -- used if the time zone is no longer known
    v_job_id := null;
    begin
      v_timing := v_one.cron || ' ' || v_one.timezone;
      if not v_runs ? v_timing then
        v_runs := v_runs
          || jsonb_build_object(v_timing, queue.first_run(v_one.cron, v_one.timezone, p_now));
      end if;
      v_next := v_runs ->> v_timing;
      if v_one.source is not null
        and (
          select s.unserved
          from queue.is_unserved(
            array[v_one.job_type],
            null,
            queue.live_workers(p_now),
            p_now
          ) as s
        )
      then
        raise exception 'no worker serves the job type % any more', v_one.job_type;
      elsif v_one.missed = 'once'
        or v_one.next_at >= p_now - interval '5 minutes'
      then
        v_job_id := (queue.enqueue(
          v_one.workspace_id,
          null,
          jsonb_build_array(
            v_one.options || jsonb_build_object(
              'job_type', v_one.job_type,
              'payload', v_one.payload
            )
          ),
          false
        )).ids[1];
      end if;
      v_done := v_done + 1;
      update queue.schedules
      set
        next_at = v_next,
        problem = null,
        last_slot_at = case
          when v_job_id is null then last_slot_at
          else next_at
        end,
        last_job_id = coalesce(v_job_id, last_job_id)
      where id = v_id;
    exception
      when lock_not_available or deadlock_detected or serialization_failure then
        null; -- the schedule stays due
      when others then
        update queue.schedules
        set problem = sqlerrm, next_at = v_next
        where id = v_id;
    end;
    -- Check the time only at the end of the loop, so that each call processes at least one
    -- schedule. With the result 0, the caller would assume that no schedule is due.
    exit when clock_timestamp() > p_until;
  end loop;
  return v_done;
end;
$$;

-- Raise an error if the JSON value p_given does not match the JSON schema p_schema.
-- p_what: Name of the JSON value in the error message.
create function queue.check_fields(p_schema jsonb, p_given jsonb, p_what text)
returns void
language plpgsql immutable
set search_path = ''
as $$
declare
  v_error constant text := queue.schema_error(
    p_schema,
    coalesce(jsonb_strip_nulls(p_given), '{}'),
    ''
  );
begin
  if v_error is not null then
    perform queue.refuse(
      400,
      'invalid_argument',
      p_what || v_error,
      substring(v_error from '^[\w.]*\.(\w+)')
    );
  end if;
end;
$$;

-- Validate and store a schedule. If the cron expression and the time zone are unchanged, keep the
-- time of the next run, so that no run is skipped or repeated.
create function queue.save_schedule(
  p_workspace_id uuid,
  p_schedule jsonb,
  p_source text,
  p_now timestamptz
)
returns queue.schedules
language plpgsql
set search_path = ''
as $$
declare
  -- accept only job options that make sense for all jobs of a schedule
  c_schema constant jsonb := $json${"type": "object", "additionalProperties": false,
    "required": ["name", "cron", "job_type"], "properties": {
    "name": {"type": "string", "minLength": 1, "maxLength": 200}, "cron": {"type": "string"},
    "timezone": {"type": "string"}, "payload": {"type": "object"}, "enabled": {"type": "boolean"},
    "job_type": {"type": "string", "maxLength": 100}, "missed": {"enum": ["skip", "once"]},
    "options": {"type": "object", "additionalProperties": false, "properties": {
      "queue": true, "priority": true, "max_attempts": true, "concurrency_key": true,
      "session_id": true, "timeout_seconds": true, "unique": true, "delay_seconds": true,
      "tags": true, "start_by_seconds": true}}}}$json$;
  v_saved queue.schedules;
begin
  perform queue.check_fields(c_schema, p_schedule, 'schedule');
  insert into queue.schedules as s (
    workspace_id, name, cron, timezone, job_type, payload, options, missed,
    enabled, next_at, created_by, created_at, updated_at, source
  )
  select
    p_workspace_id,
    g.name,
    g.cron,
    z.timezone,
    g.job_type,
    coalesce(g.payload, '{}'),
    coalesce(g.options, '{}'),
    coalesce(g.missed, 'once'),
    coalesce(g.enabled, true),
    queue.first_run(g.cron, z.timezone, p_now),
    case when p_source is null then queue.caller() end,
    p_now,
    p_now,
    p_source
  from jsonb_populate_record(null::queue.schedules, p_schedule) as g
  cross join lateral (select coalesce(g.timezone, 'UTC') as timezone) as z
  on conflict (workspace_id, name) do update set
    cron = excluded.cron,
    timezone = excluded.timezone,
    job_type = excluded.job_type,
    payload = excluded.payload,
    options = excluded.options,
    missed = excluded.missed,
    source = excluded.source,
    problem = null,
    enabled = excluded.enabled,
    updated_at = excluded.updated_at,
    next_at = case
      when s.enabled and (s.cron, s.timezone) = (excluded.cron, excluded.timezone)
        then s.next_at
      else excluded.next_at
    end
  returning s.* into v_saved;
  return v_saved;
end;
$$;

create function public.put_schedule(p_workspace_id uuid, p_schedule jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_most constant integer := queue.setting('schedules_max');
  v_bytes_max constant bigint := 4 * queue.setting('payload_max_bytes')::bigint;
  v_bytes_before constant bigint := (
    select octet_length(s.payload::text)
    from queue.schedules as s
    where s.workspace_id = p_workspace_id and s.name = p_schedule ->> 'name'
  );
  v_saved queue.schedules;
begin
  perform queue.may_manage(p_workspace_id, octet_length(p_schedule::text));
  v_saved := queue.save_schedule(p_workspace_id, p_schedule, null, v_now);
  perform queue.new_job(
    p_workspace_id,
    queue.caller(),
    queue.require_type(v_saved.job_type, '', p_workspace_id),
    v_saved.payload,
    v_saved.options,
    v_now
  ); -- validate as in an enqueue of the job now
  perform queue.refuse(
    429,
    'quota_exceeded',
    format(
      'the workspace already has %s schedules, or their payloads have %s bytes; delete some first',
      v_most,
      v_bytes_max
    ),
    'schedules_max'
  )
  from queue.schedules
  where workspace_id = p_workspace_id
  having v_saved.created_at = v_now and count(*) > v_most
    or octet_length(v_saved.payload::text) > coalesce(v_bytes_before, 0)
    and sum(octet_length(payload::text)) filter (where source is null) > v_bytes_max;
  return to_jsonb(v_saved) || jsonb_build_object(
    'problem', (
      select 'no worker serves the job type ' || u.job_type
      from queue.unserved_schedules(p_workspace_id, v_now) as u
      where u.name = v_saved.name
    )
  );
end;
$$;
comment on function public.put_schedule is
  'Create or change a schedule by name: {name, cron, timezone, job_type, payload, options, missed, '
  'enabled}. A workspace has at most schedules_max schedules, and their payloads have at most '
  'four times payload_max_bytes.';
select queue.allow('authenticated, service_role', 'public.put_schedule');

create function public.delete_schedule(p_workspace_id uuid, p_name text)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
begin
  perform queue.may_manage(p_workspace_id);
  delete from queue.schedules
  where workspace_id = p_workspace_id and name = p_name;
  if not found then
    perform queue.refuse(404, 'schedule_not_found', 'schedule not found', p_name);
  end if;
  return jsonb_build_object('deleted', p_name);
end;
$$;
comment on function public.delete_schedule is
  'Delete a schedule. The jobs that it enqueued are kept.';
select queue.allow('authenticated, service_role', 'public.delete_schedule');

create function public.list_schedules(p_workspace_id uuid)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
begin
  perform queue.may_read(p_workspace_id);
  return (
    select jsonb_build_object(
      'schedules', coalesce(
        jsonb_agg(
          to_jsonb(s) || jsonb_build_object('problem', p.problem)
          order by p.problem is null, s.name
        ),
        '[]'
      )
    )
    from queue.schedules as s
    left join queue.unserved_schedules(p_workspace_id, queue.clock()) as u on u.name = s.name
    left join queue.waiting_schedules(p_workspace_id) as w on w.name = s.name
    cross join lateral coalesce(
      s.problem,
      'no worker serves the job type ' || u.job_type,
      'job ' || w.job_id || ' has the same unique key and has not started'
    ) as p (problem)
    where s.workspace_id = p_workspace_id
  );
end;
$$;
comment on function public.list_schedules is
  'Schedules of a workspace, failing schedules first: {schedules: […]}.';
select queue.allow('authenticated, service_role', 'public.list_schedules');

create function public.next_runs(
  p_workspace_id uuid,
  p_schedule jsonb,
  p_count integer default 5
)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_zone constant text := coalesce(p_schedule ->> 'timezone', 'UTC');
  v_next_at timestamptz := queue.clock();
  v_runs jsonb := '[]';
begin
  perform queue.may_read(p_workspace_id);
  perform queue.take_call_slot(p_workspace_id);
  for v_nth in 1..least(20, greatest(1, coalesce(p_count, 5))) loop
    v_next_at := queue.first_run(p_schedule ->> 'cron', v_zone, v_next_at);
    v_runs := v_runs || to_jsonb(v_next_at);
  end loop;
  return jsonb_build_object(
    'cron', p_schedule ->> 'cron',
    'timezone', v_zone,
    'runs', v_runs
  );
end;
$$;
comment on function public.next_runs is
  'Next runs of a schedule {cron, timezone}, at most 20: {cron, timezone, runs: […]}.';
select queue.allow('authenticated, service_role', 'public.next_runs');
