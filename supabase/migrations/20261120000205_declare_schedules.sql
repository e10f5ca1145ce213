-- Schedules declared in code: published with their type, for one workspace, for each, or for the system.
-- What a deploy declares becomes rows of queue.schedules, which fire as any other; people may only switch them.

create table queue.declared_schedules (
  job_type text not null, -- the type that declares it
  name text not null, -- its name; in queue.schedules with code: before it
  scope text not null, -- system (jobs of no tenant), each (every workspace), or workspace
  workspace_id uuid, -- the one workspace it is for; null unless scope is workspace
  cron text not null, -- five fields, or @hourly and the like
  timezone text not null, -- IANA time zone the fields are read in
  payload jsonb not null, -- payload of its jobs
  options jsonb not null, -- options of its jobs, as for enqueue_job
  missed text not null, -- runs missed while no worker ran: skip them, run once for all of them (once), or run all
  source text not null, -- where it is declared: module:function
  declared_at timestamptz not null, -- when a worker last published it, UTC
  primary key (job_type, name),
  constraint declared_schedules_scope_is_known check (scope in ('system', 'each', 'workspace')),
  constraint declared_schedules_workspace_is_named check ((scope = 'workspace') = (workspace_id is not null)),
  constraint declared_schedules_missed_is_known check (missed in ('skip', 'once', 'all')),
  constraint declared_schedules_name_is_bounded check (char_length(name) between 1 and 190)
);
comment on table queue.declared_schedules is 'Schedules that processors declare in code; each becomes one row of '
  'queue.schedules per workspace it is for.';

create function queue.system_workspace() returns uuid
language sql immutable parallel safe set search_path = ''
as $$ select 'ffffffff-ffff-4fff-bfff-ffffffffffff'::uuid $$;
comment on function queue.system_workspace is 'The workspace of jobs that belong to no tenant: it has no members, '
  'so only the operator sees them.';

create function queue.spread_schedules(p_job_type text, p_now timestamptz) returns integer
language plpgsql set search_path = '' as $$
declare
  v_count integer;
begin
  delete from queue.schedules as s
  where s.source is not null and (p_job_type is null or s.job_type = p_job_type) and not exists (
    select from queue.declared_schedules as d where d.job_type = s.job_type and 'code:' || d.name = s.name
      and case d.scope
      when 'system' then s.workspace_id = queue.system_workspace() when 'workspace' then s.workspace_id = d.workspace_id
      else s.workspace_id <> queue.system_workspace() end);
  insert into queue.schedules as s (workspace_id, name, cron, timezone, job_type, payload, options, missed, next_at,
    source,
    created_at, updated_at)
  select t.id, 'code:' || d.name, d.cron, d.timezone, d.job_type, d.payload, d.options, d.missed,
    queue.cron_next(d.cron, d.timezone, p_now), d.source, p_now, p_now
  from queue.declared_schedules as d
  cross join lateral (
    select queue.system_workspace() as id where d.scope = 'system'
    union all select n.id from queue.tenants as n where d.scope = 'each' or d.scope = 'workspace'
      and n.id = d.workspace_id) as t
  where (p_job_type is null and not exists (select from queue.schedules as k where k.workspace_id = t.id
    and k.name = 'code:' || d.name))
    or d.job_type = p_job_type
  on conflict (workspace_id, name) do update set cron = excluded.cron, timezone = excluded.timezone,
    job_type = excluded.job_type,
    payload = excluded.payload, options = excluded.options, missed = excluded.missed, source = excluded.source,
    -- the same expression keeps its place: a deploy must neither skip nor repeat a run
    next_at = case when s.cron = excluded.cron and s.timezone = excluded.timezone then s.next_at
      else excluded.next_at end,
    problem = null, updated_at = p_now
  where (s.cron, s.timezone, s.job_type, s.payload, s.options, s.missed, s.source)
    is distinct from (excluded.cron, excluded.timezone, excluded.job_type, excluded.payload, excluded.options,
      excluded.missed, excluded.source);
  get diagnostics v_count = row_count;
  return v_count;
end;
$$;
comment on function queue.spread_schedules is E'Write the declared schedules to queue.schedules, those of one type, '
  'or (null) those that lack a row, as for a new workspace.\n\nA switched-off one stays off.';

create function queue.declare_schedules(p_types jsonb, p_now timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_type record;
  v_one record;
begin
  for v_type in
    select t.job_type, t.schedules, coalesce(t.source, t.job_type) as source
    from jsonb_to_recordset(p_types) as t (job_type text, schedules jsonb, schema_version numeric, source text)
    join queue.job_types as known on known.job_type = t.job_type
      and known.schema_version <= coalesce(t.schema_version, 1)
    where jsonb_typeof(t.schedules) = 'array'
      and (t.schedules <> '[]' or exists (select from queue.declared_schedules as d where d.job_type = t.job_type))
    order by t.job_type
  loop
    delete from queue.declared_schedules where job_type = v_type.job_type
      and name not in (select s.value ->> 'name' from jsonb_array_elements(v_type.schedules) as s);
    for v_one in
      select * from jsonb_to_recordset(v_type.schedules) as s (name text, scope text, workspace_id uuid, cron text,
        timezone text,
        payload jsonb, options jsonb, missed text)
    loop
      -- refused here, and not when it should fire
      if queue.cron_next(v_one.cron, coalesce(v_one.timezone, 'UTC'), p_now) is null then
        perform queue.refuse(400, 'invalid_argument', format('the schedule %s of %s never comes due: %s', v_one.name,
          v_type.job_type, v_one.cron), 'cron');
      end if;
      insert into queue.declared_schedules as d (job_type, name, scope, workspace_id, cron, timezone, payload,
        options, missed, source,
        declared_at)
      values (v_type.job_type, v_one.name, coalesce(v_one.scope, 'system'), v_one.workspace_id, v_one.cron,
        coalesce(v_one.timezone, 'UTC'), coalesce(v_one.payload, '{}'), coalesce(v_one.options, '{}'),
        coalesce(v_one.missed, 'once'), v_type.source, p_now)
      on conflict (job_type, name) do update set scope = excluded.scope, workspace_id = excluded.workspace_id,
        cron = excluded.cron,
        timezone = excluded.timezone, payload = excluded.payload, options = excluded.options, missed = excluded.missed,
        source = excluded.source, declared_at = excluded.declared_at;
    end loop;
    perform queue.spread_schedules(v_type.job_type, p_now);
  end loop;
end;
$$;
comment on function queue.declare_schedules is E'Store the schedules that a worker''s types declare: new and '
  'changed ones apply at once, missing ones are removed.\n\nA type without the field keeps the schedules it had, and '
  'so does one published by an older version.';

create function queue.check_declared(p_schedule queue.schedules, p_now timestamptz) returns void
language plpgsql stable set search_path = '' as $$
begin
  if p_schedule.source is not null and queue.unserved(p_schedule.job_type, p_now) then
    raise exception 'no worker serves the job type % any more', p_schedule.job_type;
  end if;
end;
$$;
comment on function queue.check_declared is 'Raise an error when a schedule declared in code is due but no worker '
  'serves its type: its jobs would only pile up.';

create function queue.switch_schedule(p_workspace_id uuid, p_schedule jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_changed text;
  v_made queue.schedules;
begin
  select * into v_made from queue.schedules where workspace_id = p_workspace_id
    and name = p_schedule ->> 'name' for update;
  select s.key into v_changed from jsonb_each(p_schedule) as s
  where s.key not in ('name', 'enabled') and s.value is distinct from to_jsonb(v_made) -> s.key limit 1;
  if found then
    perform queue.refuse(409, 'declared_in_code',
      format('the schedule is declared in code (%s), which alone changes its %s', v_made.source,
      left(v_changed, 80)), v_made.name);
  end if;
  update queue.schedules set enabled = coalesce((p_schedule ->> 'enabled')::boolean, enabled),
    updated_at = queue.clock(),
    next_at = case when enabled then next_at else queue.cron_next(cron, timezone, queue.clock()) end
  where id = v_made.id returning * into v_made;
  return to_jsonb(v_made) - '{plan,held_until}'::text[];
end;
$$;
comment on function queue.switch_schedule is 'Switch a schedule declared in code on or off; 409 for any other change.';
