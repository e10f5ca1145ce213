-- Circuit breakers of job types, for a tenant or for all: what opens them, and how they close by themselves.
-- A tenant's failures stop its own jobs. A type stops for all only on the evidence of several proven tenants.

create table queue.breakers (
  job_type text not null, -- the type
  workspace_id uuid not null, -- the tenant it is stopped for; the nil UUID for all
  opened_at timestamptz not null, -- when it first opened
  probe_at timestamptz, -- when it becomes half open; null while it is
  probing_since timestamptz, -- since when it is half open; null while it is open
  trips integer not null default 1, -- how often it has opened since it was last closed
  max_concurrency integer, -- the type's own max_concurrency, which applies again when the breaker closes
  workspace_concurrency integer, -- the type's own workspace_concurrency, likewise; both null for a tenant's
  primary key (job_type, workspace_id),
  constraint breakers_are_open_or_half_open check ((probe_at is null) <> (probing_since is null))
);
comment on table queue.breakers is E'Circuit breakers: types that the engine has stopped, for a tenant or for all.\n\nOpen '
  'until probe_at; then half open: one job at once of the tenant, or of each of three tenants, whose outcomes close it '
  'or open it for twice as long.';

create function queue.distinct_tenants(p_workspace_ids uuid[]) returns uuid[]
language sql stable set search_path = '' as $$
  select coalesce(array_agg(w.id order by w.id), '{}') from unnest(p_workspace_ids) as w (id)
  where not exists (
    select 1 from unnest(p_workspace_ids) as o (id)
    join queue.tenant_members as theirs on theirs.workspace_id = o.id
    join queue.tenant_members as ours on ours.workspace_id = w.id and ours.user_id = theirs.user_id
    where o.id < w.id)
$$;
comment on function queue.distinct_tenants is 'Those of the tenants that share no member with an earlier one: one '
  'person''s workspaces count as one.';

create function queue.failing_tenants(p_most integer, p_since timestamptz)
returns table (job_type text, workspace_id uuid, reason text)
language sql stable set search_path = '' as $$
  select distinct on (h.workspace_id, h.job_type) h.job_type, h.workspace_id,
    format('%s jobs failed with the same error since %s: %s', h.jobs,
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
$$;
comment on function queue.failing_tenants is 'Tenants whose own jobs of a type keep failing with one error, at least '
  'p_most jobs, and more than complete.';

create function queue.failing_types(p_most integer, p_since timestamptz)
returns table (job_type text, jobs bigint, since timestamptz)
language sql stable set search_path = '' as $$
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

create function queue.open_breaker(p_job_type text, p_workspace_id uuid, p_reason text, p_now timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_is_for_all constant boolean := p_workspace_id = '00000000-0000-0000-0000-000000000000';
  v_type queue.job_types;
begin
  if v_is_for_all then
    select * into v_type from queue.job_types
    where job_type = p_job_type and paused_at is null for no key update skip locked;
  else
    insert into queue.pauses (kind, name, workspace_id, job_type, paused_at, paused_by, reason)
    values ('workspace_type', p_workspace_id || '/' || p_job_type, p_workspace_id, p_job_type, p_now, 'poison',
      left(p_reason, 1000))
    on conflict (kind, name) do nothing;
  end if;
  if not found then
    return; -- a person has paused it, or another transaction is opening it now
  end if;
  insert into queue.breakers as b (job_type, workspace_id, opened_at, probe_at, max_concurrency, workspace_concurrency)
  values (p_job_type, p_workspace_id, p_now, p_now + interval '1 minute', v_type.max_concurrency,
    v_type.workspace_concurrency)
  on conflict (job_type, workspace_id) do update set probing_since = null, trips = b.trips + 1,
    probe_at = p_now + least(interval '1 hour', interval '1 minute' * 2 ^ least(10, b.trips));
  if v_is_for_all then
    update queue.job_types as t set paused_at = p_now, paused_by = 'poison', pause_reason = p_reason,
      max_concurrency = b.max_concurrency, workspace_concurrency = b.workspace_concurrency
    from queue.breakers as b
    where t.job_type = p_job_type and b.job_type = p_job_type and b.workspace_id = p_workspace_id;
  end if;
end;
$$;
comment on function queue.open_breaker is 'Stop a type for a tenant, or for all: for a minute at first, twice as long '
  'each time its probes fail, at most an hour.';

create function queue.resume_type(
  p_job_type text, p_workspace_id uuid, p_max_concurrency integer, p_workspace_concurrency integer
) returns void
language plpgsql set search_path = '' as $$
begin
  if p_workspace_id = '00000000-0000-0000-0000-000000000000' then
    update queue.job_types set paused_at = null, paused_by = null, pause_reason = null,
      max_concurrency = p_max_concurrency, workspace_concurrency = p_workspace_concurrency
    where job_type = p_job_type;
    perform queue.bring_all_back(p_job_type, null);
  else
    delete from queue.pauses where kind = 'workspace_type' and name = p_workspace_id || '/' || p_job_type
      and paused_by = 'poison';
    perform queue.bring_all_back(p_job_type, p_workspace_id);
  end if;
end;
$$;
comment on function queue.resume_type is 'Start a type again that a breaker has stopped, with these limits where it was for all.';

create function queue.close_breaker(p_job_type text, p_workspace_id uuid, p_now timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_breaker queue.breakers;
begin
  select * into v_breaker from queue.breakers -- before its type, as everywhere
  where job_type = p_job_type and workspace_id = p_workspace_id for update;
  if not found then
    return;
  end if;
  delete from queue.breakers where job_type = p_job_type and workspace_id = p_workspace_id;
  delete from queue.failures where job_type = p_job_type and failed_at < p_now -- they do not count again
    and p_workspace_id in (workspace_id, '00000000-0000-0000-0000-000000000000');
  perform queue.resume_type(p_job_type, p_workspace_id, v_breaker.max_concurrency, v_breaker.workspace_concurrency);
end;
$$;
comment on function queue.close_breaker is 'Start a type again that was stopped for a tenant or for all, with its own limits.';

create function queue.half_open(p_job_type text, p_workspace_id uuid, p_now timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_most integer;
begin
  update queue.breakers set probe_at = null, probing_since = p_now
  where job_type = p_job_type and workspace_id = p_workspace_id returning least(3, max_concurrency) into v_most;
  perform queue.resume_type(p_job_type, p_workspace_id, v_most, 1);
end;
$$;
comment on function queue.half_open is 'Make a breaker half open: jobs of the stopped type run, one at once for each '
  'tenant, three in all. Leases hold a tenant''s own to one: see queue.probing.';

create function queue.probing(p_job_type text, p_workspace_id uuid) returns boolean
language plpgsql stable set search_path = '' as $$
begin
  return exists (select from queue.breakers as b
    where b.job_type = p_job_type and b.workspace_id = p_workspace_id and b.probing_since is not null);
end;
$$;
comment on function queue.probing is 'Whether the tenant''s breaker of the type is half open, so that one job of it runs at a time.';

create function queue.keep_probing(p_registered_at timestamptz) returns void
language plpgsql set search_path = '' as $$
begin
  update queue.breakers as b set max_concurrency = t.max_concurrency, workspace_concurrency = t.workspace_concurrency
  from queue.job_types as t where t.job_type = b.job_type and t.registered_at = p_registered_at
    and b.workspace_id = '00000000-0000-0000-0000-000000000000';
  update queue.job_types as t set max_concurrency = least(3, t.max_concurrency), workspace_concurrency = 1
  from queue.breakers as b where b.job_type = t.job_type and b.probing_since is not null
    and b.workspace_id = '00000000-0000-0000-0000-000000000000'
    and t.registered_at = p_registered_at;
end;
$$;
comment on function queue.keep_probing is 'Keep the limits of half-open breakers for types registered at p_now; '
  'their own apply once the breakers close.';

create function queue.judge_probes(p_job_type text, p_workspace_id uuid, p_now timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_is_for_all constant boolean := p_workspace_id = '00000000-0000-0000-0000-000000000000';
  v_breaker queue.breakers;
  v_failed uuid[];
begin
  select * into v_breaker from queue.breakers
  where job_type = p_job_type and workspace_id = p_workspace_id and probing_since is not null for update skip locked;
  if not found then
    return;
  end if;
  -- not by the statistics: their minute may have begun before
  if exists (select 1 from queue.ended as e
      where e.job_type = p_job_type and e.outcome collate "C" = 'completed' and e.ended_at >= v_breaker.probing_since
        and (v_is_for_all or e.workspace_id = p_workspace_id))
    or v_breaker.probing_since < p_now - interval '5 minutes' then
    perform queue.close_breaker(p_job_type, p_workspace_id, p_now);
    return;
  end if;
  v_failed := array(
    select distinct f.workspace_id from queue.failures as f
    where f.job_type = p_job_type and f.failed_at >= v_breaker.probing_since
      and case when v_is_for_all then exists (select from queue.proven as p
        where p.job_type = f.job_type and p.workspace_id = f.workspace_id and p.since < v_breaker.opened_at)
        else f.workspace_id = p_workspace_id end);
  if cardinality(queue.distinct_tenants(v_failed)) >= (case when v_is_for_all then 2 else 1 end) then
    perform queue.open_breaker(p_job_type, p_workspace_id, 'its first jobs after a pause failed again'
      || case when v_is_for_all then ' for several workspaces' else '' end, p_now);
  end if;
end;
$$;
comment on function queue.judge_probes is E'Close a half-open breaker when a job has completed or five minutes have '
  'passed; open it again when a job of its tenant has failed, or, where it is for all, jobs of two proven tenants without '
  'common members.\n\nOne tenant''s failures keep no one else out.';

create function queue.judge_failures() returns trigger
language plpgsql set search_path = '' as $$
begin
  if exists (select 1 from queue.breakers where probing_since is not null) then
    perform queue.judge_probes(b.job_type, b.workspace_id, queue.clock()) from queue.breakers as b
    where b.probing_since is not null and exists (select from failed as f where f.job_type = b.job_type
      and b.workspace_id in (f.workspace_id, '00000000-0000-0000-0000-000000000000'));
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
language plpgsql set search_path = '' as $$
declare
  v_most integer := (queue.setting('poison_jobs'))::integer;
  v_since timestamptz := p_now - interval '10 minutes';
  v_nil constant uuid := '00000000-0000-0000-0000-000000000000';
  v_one record;
begin
  for v_one in select job_type, workspace_id, probe_at from queue.breakers
    order by job_type, workspace_id for update skip locked loop
    if v_one.probe_at is null then
      perform queue.judge_probes(v_one.job_type, v_one.workspace_id, p_now);
    elsif v_one.probe_at <= p_now then
      perform queue.half_open(v_one.job_type, v_one.workspace_id, p_now);
    end if;
  end loop;
  if v_most is null or not exists (select 1 from queue.failures where failed_at >= v_since offset v_most - 1) then
    return;
  end if;
  for v_one in
    select t.job_type, v_nil as workspace_id, format(
      '%s jobs of several workspaces failed with the same error since %s', t.jobs,
      to_char(t.since at time zone 'UTC', 'HH24:MI:SS "UTC"')) as reason
    from queue.failing_types(v_most, v_since) as t
    union all select * from queue.failing_tenants(v_most, v_since)
  loop
    if not exists (select 1 from queue.breakers as b
        where b.job_type = v_one.job_type and b.workspace_id in (v_nil, v_one.workspace_id)) then
      perform queue.open_breaker(v_one.job_type, v_one.workspace_id, v_one.reason, p_now);
    end if;
  end loop;
end;
$$;
comment on function queue.find_poison is E'Pause what keeps failing with one error: as many distinct jobs within '
  'ten minutes as the setting poison_jobs says, and more than completed.\n\nOnly unexpected errors count, never a '
  'processor''s own Fail. One tenant''s failures pause the type for that tenant; failing_types stop for all, by a '
  'breaker. Its reason shows no message, which would be another tenant''s.';
