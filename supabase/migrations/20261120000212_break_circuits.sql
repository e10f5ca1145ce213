-- The circuit breaker of job types: who may open it, and how it closes by itself.
-- A tenant's failures stop its own jobs. A type stops for all only on the evidence of several proven tenants.

create table queue.breakers (
  job_type text primary key,
  opened_at timestamptz not null,
  probe_at timestamptz,
  probing_since timestamptz,
  trips integer not null default 1,
  max_concurrency integer,
  workspace_concurrency integer,
  constraint breakers_are_open_or_half_open check ((probe_at is null) <> (probing_since is null))
);
alter table queue.breakers enable row level security;
comment on table queue.breakers is E'Circuit breakers: types that the engine has stopped for all tenants.\n\nOpen '
  'until probe_at; then half open: three jobs at once, one per tenant, whose outcomes close it or open it for twice '
  'as long.';
comment on column queue.breakers.job_type is 'The type.';
comment on column queue.breakers.opened_at is 'When it first opened.';
comment on column queue.breakers.probe_at is 'When it becomes half open; null while it is.';
comment on column queue.breakers.probing_since is 'Since when it is half open; null while it is open.';
comment on column queue.breakers.trips is 'How often it has opened since it was last closed.';
comment on column queue.breakers.max_concurrency is 'The type''s own max_concurrency, which applies again when the breaker closes.';
comment on column queue.breakers.workspace_concurrency is 'The type''s own workspace_concurrency, likewise.';
revoke all on queue.breakers from public, anon, authenticated, service_role;

create function queue.distinct_tenants(p_workspace_ids uuid[]) returns uuid[]
language sql stable
set search_path = ''
as $$
  select coalesce(array_agg(w.id order by w.id), '{}') from unnest(p_workspace_ids) as w (id)
  where not exists (
    select 1 from unnest(p_workspace_ids) as o (id)
    join queue.tenant_members as theirs on theirs.workspace_id = o.id
    join queue.tenant_members as ours on ours.workspace_id = w.id and ours.user_id = theirs.user_id
    where o.id < w.id)
$$;
comment on function queue.distinct_tenants is 'Those of the tenants that share no member with an earlier one: one '
  'person''s workspaces count as one.';

create function queue.pause_failing_tenants(p_most integer, p_since timestamptz, p_now timestamptz) returns void
language sql
set search_path = ''
as $$
  insert into queue.pauses (kind, name, workspace_id, job_type, paused_at, paused_by, reason)
  select distinct on (h.workspace_id, h.job_type) 'workspace_type', h.workspace_id || '/' || h.job_type,
    h.workspace_id, h.job_type,
    p_now, 'poison', format('%s jobs failed with the same error since %s: %s', h.jobs,
      to_char(h.since at time zone 'UTC', 'HH24:MI:SS "UTC"'), h.message)
  from (
    select f.job_type, f.workspace_id, f.fingerprint, count(*) as jobs, min(f.failed_at) as since,
      max(f.message) as message
    from queue.failures as f where f.failed_at >= p_since group by 1, 2, 3 having count(*) >= p_most) as h
  where h.jobs > (
    select coalesce(sum(n.jobs), 0) from (
      select jobs from queue.stat_deltas as d where d.outcome = 'completed' and d.at >= p_since
        and d.job_type = h.job_type and d.workspace_id = h.workspace_id
      union all
      select jobs from queue.stat_minutes as m where m.outcome = 'completed' and m.minute >= p_since
        and m.job_type = h.job_type and m.workspace_id = h.workspace_id) as n)
  order by h.workspace_id, h.job_type, h.jobs desc
  on conflict (kind, name) do nothing
$$;
comment on function queue.pause_failing_tenants is 'Pause a type for the tenants whose own jobs of it keep failing '
  'with one error, for at least p_most jobs, and more than complete.';

create function queue.failing_types(p_most integer, p_since timestamptz)
returns table (job_type text, jobs bigint, since timestamptz)
language sql stable
set search_path = ''
as $$
  with hit as materialized (
    select f.job_type, f.workspace_id, f.fingerprint, count(*) as jobs, min(f.failed_at) as since
    from queue.failures as f
    where f.failed_at >= p_since
      -- it worked for them before this began, so that it is not their own doing
      and exists (select 1 from queue.proven as p
        where p.job_type = f.job_type and p.workspace_id = f.workspace_id and p.since < p_since)
    group by 1, 2, 3),
  fine as materialized (
    select n.job_type, n.workspace_id, sum(n.jobs) as jobs from (
      select d.job_type, d.workspace_id, d.jobs from queue.stat_deltas as d where d.outcome = 'completed'
        and d.at >= p_since
      union all
      select m.job_type, m.workspace_id, m.jobs from queue.stat_minutes as m where m.outcome = 'completed'
        and m.minute >= p_since) as n
    group by 1, 2),
  crowds as (
    select h.job_type, h.fingerprint, queue.distinct_tenants(array_agg(h.workspace_id)) as tenants from hit as h
      group by 1, 2)
  select h.job_type, sum(h.jobs)::bigint, min(h.since)
  from crowds as c join hit as h on h.job_type = c.job_type and h.fingerprint = c.fingerprint
    and h.workspace_id = any (c.tenants)
  group by h.job_type, h.fingerprint, c.tenants
  -- none counted for more than half of what it takes
  having sum(least(h.jobs, ceil(p_most / 2.0))) >= p_most
    and (count(*) >= 3 or count(*) = 2 and not exists (select 1 from fine as f where f.job_type = h.job_type))
    -- and it works for no one else, nor mostly for them
    and not exists (select 1 from fine as f where f.job_type = h.job_type and (f.workspace_id <> all (c.tenants)
      or f.jobs >= (select x.jobs from hit as x where x.job_type = h.job_type and x.fingerprint = h.fingerprint
        and x.workspace_id = f.workspace_id)))
$$;
comment on function queue.failing_types is E'Types whose jobs fail with the same error for several proven tenants '
  'without common members, and complete for no other.\n\nThree tenants, or two when nothing of the type completes '
  'anywhere.';

create function queue.open_breaker(p_job_type text, p_reason text, p_now timestamptz) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_type queue.job_types;
begin
  select * into v_type from queue.job_types
  where job_type = p_job_type and paused_at is null for no key update skip locked;
  if not found then
    return; -- a person has paused it, or another transaction is opening it now
  end if;
  insert into queue.breakers as b (job_type, opened_at, probe_at, max_concurrency, workspace_concurrency)
  values (p_job_type, p_now, p_now + interval '1 minute', v_type.max_concurrency, v_type.workspace_concurrency)
  on conflict (job_type) do update set probing_since = null, trips = b.trips + 1,
    probe_at = p_now + least(interval '1 hour', interval '1 minute' * 2 ^ least(10, b.trips));
  update queue.job_types as t set paused_at = p_now, paused_by = 'poison', pause_reason = p_reason,
    max_concurrency = b.max_concurrency, workspace_concurrency = b.workspace_concurrency
  from queue.breakers as b where t.job_type = p_job_type and b.job_type = p_job_type;
end;
$$;
comment on function queue.open_breaker is 'Stop a type for all tenants: for a minute at first, twice as long each '
  'time its probes fail, at most an hour.';

create function queue.close_breaker(p_job_type text, p_now timestamptz) returns void
language plpgsql
set search_path = ''
as $$
begin
  perform 1 from queue.breakers where job_type = p_job_type for update; -- before its type, as everywhere
  if not found then
    return;
  end if;
  update queue.job_types as t set paused_at = null, paused_by = null, pause_reason = null,
    max_concurrency = b.max_concurrency, workspace_concurrency = b.workspace_concurrency
  from queue.breakers as b where t.job_type = p_job_type and b.job_type = p_job_type;
  delete from queue.breakers where job_type = p_job_type;
  delete from queue.failures where job_type = p_job_type and failed_at < p_now; -- they do not count again
  perform queue.bring_all_back(p_job_type, null);
end;
$$;
comment on function queue.close_breaker is 'Start a type again that was stopped for all tenants, with its own limits.';

create function queue.half_open(p_job_type text, p_now timestamptz) returns void
language plpgsql
set search_path = ''
as $$
begin
  update queue.breakers set probe_at = null, probing_since = p_now where job_type = p_job_type;
  update queue.job_types set paused_at = null, paused_by = null, pause_reason = null,
    max_concurrency = least(3, max_concurrency), workspace_concurrency = 1
  where job_type = p_job_type;
  perform queue.bring_all_back(p_job_type, null);
end;
$$;
comment on function queue.half_open is 'Make a breaker half open: jobs of the stopped type run, three at once, one per tenant.';

create function queue.keep_probing(p_registered_at timestamptz) returns void
language plpgsql
set search_path = ''
as $$
begin
  update queue.breakers as b set max_concurrency = t.max_concurrency, workspace_concurrency = t.workspace_concurrency
  from queue.job_types as t where t.job_type = b.job_type and t.registered_at = p_registered_at;
  update queue.job_types as t set max_concurrency = least(3, t.max_concurrency), workspace_concurrency = 1
  from queue.breakers as b where b.job_type = t.job_type and b.probing_since is not null
    and t.registered_at = p_registered_at;
end;
$$;
comment on function queue.keep_probing is 'Keep the limits of half-open breakers for types registered at p_now; '
  'their own apply once the breakers close.';

create function queue.judge_probes(p_job_type text, p_now timestamptz) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_breaker queue.breakers;
  v_failed uuid[];
begin
  select * into v_breaker from queue.breakers
  where job_type = p_job_type and probing_since is not null for update skip locked;
  if not found then
    return;
  end if;
  if exists (select 1 from queue.stat_deltas as d
      where d.job_type = p_job_type and d.outcome = 'completed' and d.at >= v_breaker.probing_since)
    or exists (select 1 from queue.stat_minutes as m
      where m.job_type = p_job_type and m.outcome = 'completed'
        and m.minute >= date_trunc('minute', v_breaker.probing_since))
    or v_breaker.probing_since < p_now - interval '5 minutes' then
    perform queue.close_breaker(p_job_type, p_now);
    return;
  end if;
  v_failed := array(
    select distinct f.workspace_id from queue.failures as f
    join queue.proven as p on p.job_type = f.job_type and p.workspace_id = f.workspace_id
      and p.since < v_breaker.opened_at
    where f.job_type = p_job_type and f.failed_at >= v_breaker.probing_since);
  if cardinality(queue.distinct_tenants(v_failed)) >= 2 then
    perform queue.open_breaker(p_job_type, 'its first jobs after a pause failed for several workspaces again', p_now);
  end if;
end;
$$;
comment on function queue.judge_probes is E'Close a half-open breaker when a job has completed or five minutes have '
  'passed; open it again when jobs of two proven tenants without common members have failed.\n\nOne tenant''s '
  'failures keep no one else out.';

create function queue.judge_failures() returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if exists (select 1 from queue.breakers where probing_since is not null) then
    perform queue.judge_probes(f.job_type, queue.clock()) from (select distinct n.job_type from failed as n) as f;
  end if;
  return null;
end;
$$;
comment on function queue.judge_failures is 'Trigger: check half-open breakers when one of their jobs fails, '
  'without waiting for maintenance.';
create trigger failures_are_judged after insert on queue.failures
  referencing new table as failed for each statement execute function queue.judge_failures();
create trigger repeated_failures_are_judged after update on queue.failures -- of jobs that have failed so before
  referencing new table as failed for each statement execute function queue.judge_failures();

create function queue.find_poison(p_now timestamptz) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_most integer := (queue.setting('poison_jobs'))::integer;
  v_since timestamptz := p_now - interval '10 minutes';
  v_one record;
begin
  for v_one in select job_type, probe_at from queue.breakers order by job_type for update skip locked loop
    if v_one.probe_at is null then
      perform queue.judge_probes(v_one.job_type, p_now);
    elsif v_one.probe_at <= p_now then
      perform queue.half_open(v_one.job_type, p_now);
    end if;
  end loop;
  if v_most is null or not exists (select 1 from queue.failures where failed_at >= v_since offset v_most - 1) then
    return;
  end if;
  for v_one in select * from queue.failing_types(v_most, v_since) as t
    where not exists (select 1 from queue.breakers as b where b.job_type = t.job_type) loop
    perform queue.open_breaker(v_one.job_type,
      format('%s jobs of several workspaces failed with the same error since %s',
      v_one.jobs, to_char(v_one.since at time zone 'UTC', 'HH24:MI:SS "UTC"')), p_now);
  end loop;
  perform queue.pause_failing_tenants(v_most, v_since, p_now);
end;
$$;
comment on function queue.find_poison is E'Pause what keeps failing with one error: as many distinct jobs within '
  'ten minutes as the setting poison_jobs says, and more than completed.\n\nOnly unexpected errors count, never a '
  'processor''s own Fail. One tenant''s failures pause the type for that tenant; failing_types stop for all, by a '
  'breaker. Its reason shows no message, which would be another tenant''s.';
