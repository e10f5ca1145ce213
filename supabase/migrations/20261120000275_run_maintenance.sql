-- Maintenance, apart from leasing: what time and other jobs' ends have made due, and what keeps the queue small.
-- Workers call it beside their leases. Each task is guarded and bounded; what fails is tried last, and shown.

create function queue.maintenance_is_due(p_now timestamptz) returns boolean
language sql stable
set search_path = ''
as $$
  select exists (select 1 from queue.deferred where run_at <= p_now)
    or exists (select 1 from queue.waits where timeout_at <= p_now)
    or exists (select 1 from queue.deadlines where deadline_at <= p_now)
    or exists (select 1 from queue.signals)
    or exists (select 1 from queue.outbox)
    or exists (select 1 from queue.held_topics)
    or exists (select 1 from queue.leases where expires_at <= p_now)
    or exists (select 1 from queue.schedules where enabled and next_at <= p_now)
    or exists (select 1 from queue.breakers where coalesce(probe_at, probing_since) <= p_now)
    or exists (select 1 from queue.maintenance_tasks
      where name = 'retention' and (cursor = 'behind' or greatest(done_at, failed_at) <= p_now - interval '15 seconds'
        and (exists (select 1 from queue.stat_deltas) or exists (select 1 from queue.ended))))
$$;
comment on function queue.maintenance_is_due is 'Whether a call of run_maintenance would find something to do: an idle queue wants none.';

create function queue.maintain(p_task text, p_limit integer, p_now timestamptz) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_batch integer := (queue.setting('retention_batch'))::integer;
  v_done integer := 0;
begin
  case p_task
    when 'reclaim' then v_done := queue.reclaim(p_limit, p_now);
    when 'waits' then v_done := queue.expire_waits(p_limit, p_now);
    when 'signals' then
      for v_round in 1..5 loop -- what ends may let others end or go on
        exit when queue.drain_signals(p_limit, p_now) = 0;
        v_done := v_done + 1;
      end loop;
    when 'promotion' then v_done := queue.promote(2 * p_limit, p_now);
    when 'schedules' then v_done := queue.fire_schedules(100, p_now);
    when 'deliveries' then v_done := queue.drain_outbox(100, p_now);
    when 'expire' then v_done := queue.expire(p_limit, p_now);
    when 'poison' then perform queue.find_poison(p_now);
    when 'sweep' then perform queue.sweep(p_now);
    when 'statistics' then perform queue.roll_up(p_now);
    when 'retention' then v_done := queue.prune(v_batch, p_now);
    when 'old_rows' then
      perform queue.prune_others(v_batch, p_now);
      perform queue.prune_workers(v_batch, p_now);
      perform queue.spread_schedules(null, p_now);
    when 'orphans' then perform queue.forget_orphans();
    when 'messages' then v_done := queue.care_for_messages(p_now);
    when 'buckets' then perform queue.prune_buckets(v_batch, p_now);
  end case;
  return v_done;
end;
$$;
comment on function queue.maintain is 'Do one task of maintenance, at most about p_limit items of it; returns how many it did.';

create function queue.try_to_maintain(p_task text, p_now timestamptz) returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_failures integer := (select failures from queue.maintenance_tasks where name = p_task);
  v_done integer;
begin
  -- after a failure in smaller bites: what it cannot swallow then is small, and the rest gets on
  v_done := queue.maintain(p_task, greatest(1, 500 / (10 ^ least(3, v_failures))::integer), p_now);
  -- one that is behind stays due
  update queue.maintenance_tasks set done_at = p_now,
    cursor = case when p_task = 'retention' then case when v_done > 0 then 'behind' end else cursor end, failures = case when v_done > 0 or failures < 3 then 0 else failures end
  where name = p_task;
  return v_done;
exception
  when query_canceled or others then -- the statement timeout too: noted, so that the next call begins elsewhere
    update queue.maintenance_tasks set failed_at = p_now, failures = failures + 1,
      failure = format('%s (%s)', sqlerrm, sqlstate)
    where name = p_task;
    raise warning 'the maintenance task % failed: % (%)', p_task, sqlerrm, sqlstate;
    return null;
end;
$$;
comment on function queue.try_to_maintain is E'Do a task in a subtransaction; null when it failed or was cancelled, which is noted and does not spread.\n\nA task that failed is parked for five seconds, twice as long after each further failure, at most an hour.';

create function queue.due_tasks(p_now timestamptz) returns setof text
language sql stable
set search_path = ''
as $$
  select t.name
  from (values (1, 'reclaim', interval '0'), (2, 'waits', interval '0'), (3, 'signals', interval '0'),
    (4, 'schedules', interval '1 second'), (5, 'promotion', interval '0'), (6, 'deliveries', interval '0'),
    (7, 'expire', interval '1 second'), (8, 'poison', interval '5 seconds'), (9, 'statistics', interval '15 seconds'),
    (10, 'retention', interval '10 seconds'), (11, 'old_rows', interval '1 minute'), (12, 'orphans', interval '5 minutes'),
    (13, 'messages', interval '0'),
    -- what these lock is wanted by leases, so they come last
    (14, 'sweep', interval '1 minute'), (15, 'buckets', interval '1 minute')) as t (place, name, every)
  join queue.maintenance_tasks as u on u.name = t.name
  where (u.done_at <= p_now - t.every or t.name = 'retention' and u.cursor = 'behind')
    and (u.failures = 0 or u.failed_at <= p_now - least(interval '1 hour', interval '5 seconds' * 2 ^ (u.failures - 1)))
  order by u.failures, t.place
$$;
comment on function queue.due_tasks is 'The tasks whose time has come, those that failed last.';

create function public.run_maintenance(p_request jsonb default '{}') returns jsonb
language plpgsql
security definer -- the worker holds no rights on the engine's tables
set search_path = ''
set lock_timeout = '2s'
as $$
declare
  v_until timestamptz := clock_timestamp()
    + make_interval(secs => least(5000, greatest(50, coalesce((p_request ->> 'budget_ms')::numeric::integer, 1000))) / 1000.0);
  v_now timestamptz;
  v_task text;
  v_done integer;
  v_counts jsonb := '{}';
  v_failed text[] := '{}';
  v_more boolean := false;
begin
  perform queue.refuse_revoked();
  perform pg_current_xact_id(); -- before the clock is read: see the marks of queue.partitions
  v_now := queue.clock();
  if not queue.try_lock('maintenance') then
    return jsonb_build_object('done', v_counts, 'failed', v_failed, 'more', false, 'busy', true);
  end if;
  for v_task in select queue.due_tasks(v_now) loop
    if clock_timestamp() >= v_until then
      v_more := true;
      exit;
    end if;
    v_done := queue.try_to_maintain(v_task, v_now);
    if v_done is null then
      v_failed := v_failed || v_task;
      exit when clock_timestamp() >= v_until; -- a cancelled statement has had its time
    elsif v_done > 0 then
      v_counts := v_counts || jsonb_build_object(v_task, v_done);
    end if;
  end loop;
  return jsonb_build_object('done', v_counts, 'failed', v_failed, 'busy', false,
    'more', v_more or v_counts ?| array['reclaim', 'waits', 'signals', 'schedules', 'promotion', 'deliveries', 'retention', 'messages']
      and queue.maintenance_is_due(v_now));
exception
  when invalid_text_representation or numeric_value_out_of_range then
    perform queue.refuse(400, 'invalid_argument', 'the request has a value of the wrong type: ' || sqlerrm, 'p_request');
end;
$$;
comment on function public.run_maintenance is E'Do what is due besides leasing, for at most budget_ms (50 to 5,000, default 1,000): {done: {task: count}, failed: [task], more, busy}.\n\nCalled by workers beside their leases, which never depend on it. Each task is bounded and guarded on its own: one that fails or is cancelled is noted, parked and tried last (see queue_health). more asks for another call; busy says that another worker is at it.';

revoke execute on function queue.maintenance_is_due, queue.maintain, queue.try_to_maintain, queue.due_tasks
  from public, anon, authenticated, service_role;
revoke execute on function public.run_maintenance from public, anon, authenticated, service_role;
grant execute on function public.run_maintenance to job_worker, service_role;
