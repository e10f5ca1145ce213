-- Maintenance, apart from leasing: what time and other jobs' ends have made due, and what keeps the queue small.
-- Workers call it beside their leases. It is bounded by rows and by time; each task, and each item of one, is guarded.

create table queue.parked (
  task text not null, -- the task, see queue.due_tasks
  item text not null, -- what failed: the id of a job, a signal or a schedule
  failed_at timestamptz not null, -- when it last failed
  failure text not null, -- the error, with its SQLSTATE
  failures integer not null default 1, -- how often
  -- when it is tried again: ten seconds after the first failure, twice as long after each further one, at most an hour
  retry_at timestamptz not null,
  primary key (task, item)
);
create index parked_by_time on queue.parked (retry_at);
comment on table queue.parked is E'Items of maintenance that failed alone: omitted from the next calls, and tried '
  'again last.\n\nSo one item that always fails does not stop the others. Shown by queue_health.';

create function queue.park(p_task text, p_item text, p_failure text, p_now timestamptz) returns void
language plpgsql set search_path = '' as $$
begin
  insert into queue.parked as p (task, item, failed_at, failure, retry_at)
  values (p_task, p_item, p_now, left(p_failure, 1000), p_now + interval '10 seconds')
  on conflict (task, item) do update set failed_at = excluded.failed_at, failure = excluded.failure,
    failures = p.failures + 1,
    retry_at = excluded.failed_at + least(interval '1 hour', interval '10 seconds' * 2 ^ least(p.failures, 10));
  raise warning 'an item of maintenance is parked: % %: %', p_task, p_item, p_failure;
end;
$$;
comment on function queue.park is 'Note that an item failed, and leave it out of maintenance until retry_at.';

create function queue.due_jobs(p_limit integer, p_now timestamptz) returns uuid[]
language plpgsql set search_path = '' as $$
declare
  v_ids uuid[] := array(
    select d.job_id from queue.deferred as d
    where d.run_at <= p_now and not exists (
      select 1 from queue.parked as p where p.task = 'promotion' and p.item = d.job_id::text)
    order by d.run_at limit p_limit);
  v_tenants uuid[];
begin
  if cardinality(v_ids) < p_limit then
    return v_ids;
  end if;
  -- more than fit: half of the places for the oldest, half in equal shares for the tenants
  v_tenants := queue.some_tenants('deferred', 250);
  return array(
    select f.job_id from unnest(v_tenants) as t (workspace_id) cross join lateral (
      select d.job_id from queue.deferred as d
      where d.workspace_id = t.workspace_id and d.run_at <= p_now and not exists (
        select 1 from queue.parked as p where p.task = 'promotion' and p.item = d.job_id::text)
      order by d.run_at limit ceil(p_limit / 2.0 / cardinality(v_tenants))) as f
    union
    select i from unnest(v_ids[1:p_limit / 2]) as i);
end;
$$;
comment on function queue.due_jobs is E'Deferred jobs to make ready now, the oldest first.\n\nWhen more are due '
  'than p_limit, each tenant gets a share, so that none waits behind another''s many jobs.';

create function queue.due_items(p_task text, p_limit integer, p_now timestamptz) returns text[]
language plpgsql set search_path = '' as $$
declare
  v_parked text[] := array(select p.item from queue.parked as p where p.task = p_task limit 10000);
  v_limit integer := p_limit + cardinality(v_parked);
  v_items text[];
begin
  case p_task
    when 'reclaim' then
      v_items := array(
        select l.job_id from queue.leases as l where l.look_at <= p_now order by l.look_at limit v_limit);
    when 'waits' then
      v_items := array(
        select w.job_id from queue.waits as w where w.timeout_at <= p_now order by w.timeout_at limit v_limit);
    when 'signals' then
      return queue.due_signals(p_limit);
    when 'promotion' then
      return queue.due_jobs(case p_limit when 1 then 1 else 2 * p_limit end, p_now);
    when 'schedules' then
      v_items := array(
        select s.id from queue.schedules as s
        where s.enabled and s.next_at is not null and greatest(s.next_at, s.held_until) <= p_now
        order by greatest(s.next_at, s.held_until) limit v_limit);
    when 'expire' then
      v_items := array(
        select d.job_id from queue.deadlines as d
        where d.deadline_at <= p_now -- leased ones end by their worker
          and not exists (select 1 from queue.leases as l where l.job_id = d.job_id)
        order by d.deadline_at limit v_limit);
    when 'retention' then
      v_items := queue.due_removals(cardinality(v_parked) + case p_limit when 1 then 1
        else ceil(p_limit * (queue.setting('retention_batch'))::numeric / 500)::integer end, p_now);
    else
      return null;
  end case;
  if v_parked = '{}' then
    return v_items;
  end if;
  return array(
    select u.i from unnest(v_items) with ordinality as u (i, n) where u.i <> all (v_parked) order by u.n limit v_limit);
end;
$$;
comment on function queue.due_items is 'What is due of a task, about p_limit items and none that is parked; null for a '
  'task that is done as a whole.';

create function queue.maintain(p_task text, p_items text[], p_now timestamptz, p_until timestamptz) returns integer
language plpgsql set search_path = '' as $$
declare
  v_batch integer := (queue.setting('retention_batch'))::integer;
begin
  case p_task
    when 'reclaim' then return queue.reclaim(p_items::uuid[], p_now);
    when 'waits' then return queue.expire_waits(p_items::uuid[], p_now);
    when 'signals' then return queue.drain_signals(p_items::bigint[], p_now);
    when 'promotion' then return queue.promote(p_items::uuid[], p_now);
    when 'schedules' then return queue.fire_schedules(p_items::uuid[], p_now, p_until);
    when 'expire' then return queue.expire(p_items::uuid[], p_now);
    when 'retention' then return queue.remove_jobs(p_items::uuid[], p_now);
    when 'deliveries' then return queue.drain_outbox(100, p_now);
    when 'sweep' then return queue.sweep(p_now);
    when 'statistics' then return queue.roll_up(p_now);
    when 'histories' then return queue.pack_histories(v_batch, p_now);
    when 'old_rows' then
      perform queue.spread_schedules(null, p_now);
      return queue.prune(v_batch, p_now);
    when 'orphans' then perform queue.forget_orphans();
    when 'messages' then return queue.maintain_messages(p_now);
    when 'buckets' then return queue.prune_buckets(v_batch, p_now);
  end case;
  return 0;
end;
$$;
comment on function queue.maintain is 'Do the items of a task, or a task that has none; returns how many it did.';

create function queue.try_items(
  p_task text, p_items text[], p_now timestamptz, p_until timestamptz,
  out done integer, out failure text, out cancelled boolean
)
language plpgsql set search_path = '' as $$
begin
  cancelled := false;
  done := queue.maintain(p_task, p_items, p_now, p_until);
exception
  when query_canceled then -- the statement timeout too
    cancelled := true;
    failure := format('%s (%s)', sqlerrm, sqlstate);
  when others then
    failure := format('%s (%s)', sqlerrm, sqlstate);
end;
$$;
comment on function queue.try_items is 'The same as queue.maintain in a subtransaction: a failure is rolled back '
  'and returned, and does not stop the call.';

create function queue.try_one_by_one(
  p_task text, p_items text[], p_now timestamptz, p_until timestamptz
) returns integer
language plpgsql set search_path = '' as $$
declare
  v_item text;
  v_tried record;
  v_done integer := 0;
begin
  foreach v_item in array p_items loop
    exit when clock_timestamp() > p_until; -- the rest stays due
    v_tried := queue.try_items(p_task, array[v_item], p_now, p_until);
    v_done := v_done + coalesce(v_tried.done, 0);
    if v_tried.failure is not null then
      perform queue.park(p_task, v_item, v_tried.failure, p_now);
      exit when v_tried.cancelled;
    end if;
  end loop;
  return v_done;
end;
$$;
comment on function queue.try_one_by_one is 'Do items that failed together one by one, and park those that fail.';

create function queue.maintain_in_slices(p_task text, p_now timestamptz, p_until timestamptz) returns integer
language plpgsql set search_path = '' as $$
declare
  -- after a cancellation in smaller slices, until the item that fails is alone and the rest is done
  v_failures integer := (select least(3, failures) from queue.maintenance_tasks where name = p_task);
  v_slice integer := greatest(1, 500 / (10 ^ v_failures)::integer);
  v_items text[];
  v_tried record;
  v_one integer;
  v_done integer := 0;
begin
  -- an end may let others end or continue; small slices are many
  for v_round in 1..greatest(case p_task when 'signals' then 5 else 1 end, 500 / v_slice) loop
    v_items := queue.due_items(p_task, v_slice, p_now);
    exit when v_items = '{}';
    v_tried := queue.try_items(p_task, v_items, p_now, p_until);
    if v_tried.failure is null then
      v_one := v_tried.done;
    elsif v_items is null or v_tried.cancelled and cardinality(v_items) > 1 then
      update queue.maintenance_tasks set failed_at = p_now, failures = failures + 1, failure = v_tried.failure
      where name = p_task;
      raise warning 'the maintenance task % failed: %', p_task, v_tried.failure;
      return null;
    elsif v_tried.cancelled then
      perform queue.park(p_task, v_items[1], v_tried.failure, p_now);
      return null; -- the call has had its time
    else
      v_one := queue.try_one_by_one(p_task, v_items, p_now, p_until);
    end if;
    v_done := v_done + v_one;
    exit when v_items is null or v_one = 0 or clock_timestamp() > p_until;
  end loop;
  update queue.maintenance_tasks set done_at = p_now,
    behind = v_done > 0 and p_task in ('retention', 'statistics', 'old_rows', 'sweep', 'buckets', 'histories'),
    failures = case when v_items is null or cardinality(v_items) < v_slice then 0 else failures end
  where name = p_task;
  return v_done;
end;
$$;
comment on function queue.maintain_in_slices is E'Do the due items of a task, about 500 items; null when it failed '
  'or was cancelled.\n\nItems that fail together are done one by one, and those that fail alone are parked. A '
  'cancelled task is done in slices of a tenth the next time; an item that is cancelled alone is parked.';

create function queue.try_to_maintain(p_task text, p_now timestamptz, p_until timestamptz) returns integer
language plpgsql set search_path = '' as $$
begin
  return queue.maintain_in_slices(p_task, p_now, p_until);
exception
  when query_canceled or others then -- noted, so that the next call begins elsewhere
    update queue.maintenance_tasks set failed_at = p_now, failures = failures + 1,
      failure = format('%s (%s)', sqlerrm, sqlstate)
    where name = p_task;
    raise warning 'the maintenance task % failed: % (%)', p_task, sqlerrm, sqlstate;
    return null;
end;
$$;
comment on function queue.try_to_maintain is E'Do a task in a subtransaction; null when it failed or was cancelled, '
  'which is noted and does not stop the other tasks.\n\nA task that failed is parked for five seconds, twice as long '
  'after each further failure, at most an hour.';

create function queue.retry_parked(p_now timestamptz, p_until timestamptz) returns integer
language plpgsql set search_path = '' as $$
declare
  v_one queue.parked;
  v_tried record;
  v_done integer := 0;
begin
  for v_one in select * from queue.parked where retry_at <= p_now order by retry_at limit 20 loop
    exit when clock_timestamp() > p_until;
    v_tried := queue.try_items(v_one.task, array[v_one.item], p_now, p_until);
    if v_tried.failure is null then -- done, or deleted
      delete from queue.parked where task = v_one.task and item = v_one.item;
      v_done := v_done + 1;
    else
      perform queue.park(v_one.task, v_one.item, v_tried.failure, p_now);
      exit when v_tried.cancelled;
    end if;
  end loop;
  return v_done;
end;
$$;
comment on function queue.retry_parked is 'Try parked items again, one by one.';

create function queue.due_tasks(p_now timestamptz) returns setof text
language sql stable set search_path = '' as $$
  select t.name
  from (values (1, 'reclaim', interval '0'), (2, 'waits', interval '0'), (3, 'signals', interval '0'),
    (4, 'schedules', interval '1 second'), (5, 'promotion', interval '0'), (6, 'deliveries', interval '0'),
    (7, 'expire', interval '1 second'), (9, 'statistics', interval '15 seconds'),
    (10, 'retention', interval '10 seconds'), (11, 'old_rows', interval '1 minute'),
    (12, 'orphans', interval '5 minutes'), (18, 'histories', interval '1 minute'),
    (13, 'messages', interval '0'),
    -- leases need what these lock, so they come last
    (14, 'sweep', interval '1 minute'), (15, 'buckets', interval '1 minute')) as t (place, name, every)
  join queue.maintenance_tasks as u on u.name = t.name
  where (u.done_at <= p_now - t.every or u.behind)
    and (u.failures = 0 or u.done_at > u.failed_at
      or u.failed_at <= p_now - least(interval '1 hour', interval '5 seconds' * 2 ^ (least(u.failures, 12) - 1)))
  order by u.failures, t.place
$$;
comment on function queue.due_tasks is 'The tasks whose time has come, those that failed last.';

create function queue.maintenance_is_due(p_now timestamptz) returns boolean
language plpgsql set search_path = '' as $$
begin
  if exists (select 1 from queue.parked) or exists (select 1 from queue.maintenance_tasks where failures > 0) then
    return exists (select 1 from queue.parked where retry_at <= p_now)
      or exists (
        select 1 from queue.due_tasks(p_now) as t (name)
        where cardinality(queue.due_items(t.name, 1, p_now)) > 0
          or (select u.behind from queue.maintenance_tasks as u where u.name = t.name));
  end if;
  return exists (select 1 from queue.deferred where run_at <= p_now)
    or exists (select 1 from queue.waits where timeout_at <= p_now)
    or exists (select 1 from queue.deadlines where deadline_at <= p_now)
    or exists (select 1 from queue.signals)
    or exists (select 1 from queue.outbox)
    or exists (select 1 from queue.held_topics)
    or exists (select 1 from queue.leases where look_at <= p_now)
    or exists (select 1 from queue.schedules
      where enabled and next_at is not null and greatest(next_at, held_until) <= p_now)
    or exists (select 1 from queue.maintenance_tasks
      where behind or name = 'retention' and greatest(done_at, failed_at) <= p_now - interval '15 seconds'
        and (exists (select 1 from queue.stat_deltas) or exists (select 1 from queue.ended)));
end;
$$;
comment on function queue.maintenance_is_due is 'Whether a call of run_maintenance would find something to do: not '
  'for an idle queue, nor before retry_at of what is parked.';

create function queue.rewind_ready(p_since timestamptz) returns void
language sql set search_path = '' as $$
  insert into queue.openings (partition_id, workspace_id, queue, job_type, concurrency_key, priority, rewind)
  select p.id, p.workspace_id, p.queue, p.job_type, p.concurrency_key, p.priority, true
  from queue.partitions as p
  where exists (select 1 from queue.ready as r where r.partition_id = p.id and r.ready_at >= p_since offset 0)
$$;
comment on function queue.rewind_ready is E'The same as queue.rewind_late for a call of maintenance that has taken '
  'long, in every partition with jobs that became ready since p_since.';

create function public.run_maintenance(p_request jsonb default '{}') returns jsonb
language plpgsql
security definer -- the worker holds no rights on the engine's tables
set search_path = ''
set lock_timeout = '2s'
set enable_seqscan = off -- a session's plan may be older than the rows
set jit = off as $$
declare
  v_until timestamptz := clock_timestamp()
    + make_interval(secs => least(5000, greatest(50,
      coalesce((p_request ->> 'budget_ms')::numeric::integer, 1000))) / 1000.0);
  v_now timestamptz;
  v_task text;
  v_done integer;
  v_counts jsonb := '{}';
  v_failed text[] := '{}';
  v_more boolean := false;
begin
  perform pg_current_xact_id(); -- before the clock is read: see the marks of queue.partitions
  v_now := queue.clock();
  if not queue.try_lock('maintenance') then
    return jsonb_build_object('done', v_counts, 'failed', v_failed, 'parked', 0, 'more', false, 'busy', true);
  end if;
  for v_task in select queue.due_tasks(v_now) loop
    if clock_timestamp() >= v_until then
      v_more := true;
      exit;
    end if;
    v_done := queue.try_to_maintain(v_task, v_now, v_until);
    if v_done is null then
      v_failed := v_failed || v_task;
      exit when clock_timestamp() >= v_until; -- a cancelled statement has had its time
    elsif v_done > 0 then
      v_counts := v_counts || jsonb_build_object(v_task, v_done);
    end if;
  end loop;
  if exists (select 1 from queue.parked where retry_at <= v_now) and clock_timestamp() < v_until then
    perform queue.retry_parked(v_now, v_until);
  end if;
  if clock_timestamp() - now() > interval '4 seconds' then
    perform queue.rewind_ready(v_now);
  end if;
  return jsonb_build_object('done', v_counts, 'failed', v_failed, 'busy', false,
    'parked', (select count(*) from (select 1 from queue.parked limit 1000) as p),
    'more', v_more or v_counts ?| array['reclaim', 'waits', 'signals', 'schedules', 'promotion', 'deliveries',
      'retention', 'statistics', 'old_rows', 'sweep', 'buckets', 'histories']
      and queue.maintenance_is_due(v_now));
end;
$$;
comment on function public.run_maintenance is E'Do what is due besides leasing, for at most budget_ms (50 to 5,000, '
  'default 1,000): {done: {task: count}, failed: [task], parked, more, busy}.\n\nCalled by workers beside their '
  'leases, which never depend on it. Each task and each of its items is guarded on its own: what fails or is '
  'cancelled is noted, parked and tried last (see queue_health). more: call again; busy: another worker does it now; '
  'parked: how many items wait to be tried again.';

select queue.allow('job_worker, service_role', 'public.run_maintenance');
