-- Maintenance, beside the leases: what time has made due, and what keeps every table as small as its jobs. One list of
-- tasks, queue.tasks; each file adds its own. Each is done alone and in slices: what fails is noted, tried later, and
-- stops no other.

insert into queue.tasks (name, place, every) values
  ('adoption', 5, '0'), ('promotion', 10, '0'), ('reclaim', 20, '0'),
  ('retention', 80, '5 seconds'), ('sweep', 90, '1 minute');

-- Jobs that wait for their type find their place once a worker has published it. A person's job of a
-- type that turns out to be internal fails.
create function queue.do_adoption(p_now timestamptz, p_until timestamptz) returns integer
language plpgsql as $$
declare
  v_waiting record;
  v_done integer := 0;
begin
  loop
    select array_agg(h.place) as places, array_agg(h.id) filter (where not h.is_refused) as ids,
      array_agg(h.id) filter (where h.is_refused) as refused
    into v_waiting from (
      select g.ctid as place, j.id, t.internal and j.user_id is not null as is_refused
      from queue.job_types as t
      cross join lateral (
        select g.ctid, g.job_id from queue.gated as g where g.lane = 0 and g.job_type = t.job_type
        limit 500 for update skip locked) as g
      join public.jobs as j on j.id = g.job_id
      where t.schema_version > 0 limit 500 for update of j skip locked) as h;
    exit when v_waiting.places is null;
    if v_waiting.refused is not null then
      perform queue.finish(v_waiting.refused, 'failed', '{"type": "Forbidden",
        "reason": "forbidden", "message": "only the platform itself enqueues jobs of this type"}',
        p_now);
    end if;
    delete from queue.gated where ctid = any (v_waiting.places);
    perform queue.place(j, p_now)
    from public.jobs as j where j.id = any (v_waiting.ids) and j.status = 'pending';
    v_done := v_done + cardinality(v_waiting.places);
    exit when clock_timestamp() > p_until;
  end loop;
  return v_done;
end;
$$;

-- Deferred jobs that are due become ready, and jobs whose deadline has passed end. A job that someone holds stays due.
-- Of many, half are the oldest, half in equal shares for the tenants that have any, so that none waits behind others.
create function queue.do_promotion(p_now timestamptz, p_until timestamptz) returns integer
language plpgsql as $$
declare
  v_places tid[];
  v_due record;
  v_held uuid[];
  v_late uuid[];
  v_done integer := 0;
begin
  loop
    v_places := array(
      select d.ctid from queue.deferred as d where d.run_at <= p_now order by d.run_at limit 500);
    if cardinality(v_places) = 500 then
      v_places := array(
        with recursive tenants as ( -- each by one look-up
          (select d.workspace_id as id, 1 as n from queue.deferred as d order by 1 limit 1)
          union all
          select (select d.workspace_id from queue.deferred as d where d.workspace_id > t.id order by 1 limit 1),
            t.n + 1
          from tenants as t where t.id is not null and t.n < 250)
        select o from unnest(v_places[1:250]) as o
        union
        select f.place from (select t.id, count(*) over () as many from tenants as t where t.id is not null) as t
        cross join lateral (select d.ctid as place from queue.deferred as d
          where d.workspace_id = t.id and d.run_at <= p_now order by d.run_at limit ceil(250.0 / t.many)) as f);
    end if;
    select array_agg(h.place) as places, array_agg(distinct h.id) as ids into v_due from (
      select d.ctid as place, j.id from queue.deferred as d join public.jobs as j on j.id = d.job_id
      where d.ctid = any (v_places) for update of d, j skip locked) as h;
    exit when v_due.ids is null;
    v_held := array( -- places before records: one whose wait someone answers now stays due
      select w.job_id from queue.waits as w where w.job_id = any (v_due.ids) order by w.job_id for update skip locked);
    delete from queue.deferred as d using public.jobs as j
    where d.ctid = any (v_due.places) and j.id = d.job_id and (j.status <> 'waiting' or j.id = any (v_held));
    v_late := array(
      select j.id from public.jobs as j
      where j.id = any (v_due.ids) and j.deadline_at <= p_now
        and (j.status = 'pending' or j.status = 'waiting' and j.id = any (v_held)));
    if v_late <> '{}' then
      perform queue.finish(v_late, 'failed', '{"type": "DeadlinePassed", "reason": "deadline_passed",
        "message": "its deadline passed before it could run"}', p_now);
    end if;
    perform queue.place(j, p_now) from public.jobs as j
    where j.id = any (v_due.ids) and j.status = 'pending' and coalesce(j.next_retry_at, j.scheduled_for) <= p_now
      -- not for the line of its deadline: it is ready already
      and (j.deadline_at is null or j.deadline_at > p_now);
    v_done := v_done + cardinality(v_due.ids);
    exit when cardinality(v_due.ids) < 250 or clock_timestamp() > p_until;
  end loop;
  return v_done;
end;
$$;

-- Expired leases are settled as lost, by the rules of a settlement, and tried again at once.
create function queue.do_reclaim(p_now timestamptz, p_until timestamptz) returns integer
language plpgsql as $$
declare
  v_items queue.worker_item[];
  v_done integer := 0;
begin
  loop
    v_items := array(
      select jsonb_populate_record(null::queue.worker_item, jsonb_build_object('job_id', h.job_id, 'fence', h.fence,
        'outcome', 'lost', 'duration_ms', greatest(0,
          date_part('epoch', h.expires_at - h.leased_at) - h.lease_seconds) * 1000, -- until its worker last answered
        'error', jsonb_strip_nulls(jsonb_build_object('type', 'WorkerLost', 'reason', 'worker_lost',
          'worker_id', h.worker_id, 'evidence', h.evidence,
          'message', format('attempt %s was lost: worker %s stopped answering', h.attempt, h.worker_id)))))
      from (
        select l.*, w.worker_id, w.evidence from queue.leases as l join public.jobs as j on j.id = l.job_id
        left join queue.workers as w on w.worker = l.worker
        where l.expires_at <= p_now order by l.job_id limit 200 for update of l, j skip locked) as h);
    exit when v_items = '{}';
    perform queue.append_event(array(select i.job_id from unnest(v_items) as i), 'job.reclaimed',
      '{"status": "pending"}', p_now);
    perform queue.publish(s.changes, p_now) from queue.settle(v_items) as s where s.changes is not null;
    v_done := v_done + cardinality(v_items);
    exit when clock_timestamp() > p_until;
  end loop;
  return v_done;
end;
$$;

-- Ended jobs past their retention go. An id begins with its instant, so passes over the old ones find them, in slices
-- from the oldest on; children stay while their parent waits for children.
create function queue.do_retention(p_now timestamptz, p_until timestamptz) returns integer
language plpgsql as $$
declare
  v_days constant jsonb := queue.setting('retention_days');
  v_least constant integer := (select min(d.value::integer) from jsonb_each_text(v_days) as d);
  v_after constant uuid := coalesce((select t.after_id from queue.tasks as t where t.name = 'retention'),
    '00000000-0000-0000-0000-000000000000');
  v_seen record;
begin
  with slice as materialized (
    select j.id, j.finished_at < p_now - make_interval(days => (v_days ->> j.status)::integer) and not exists (
      select from queue.waits as w where w.job_id = j.parent_id and w.kind = 'children') as is_old
    from public.jobs as j
    where j.id > v_after and j.id < queue.id_at(p_now - make_interval(days => v_least)) order by j.id limit 500)
  select count(*)::integer as jobs, (array_agg(s.id order by s.id desc))[1] as last,
    array_agg(s.id) filter (where s.is_old) as old
  into v_seen from slice as s;
  delete from public.jobs where ctid = any (array(
    select j.ctid from public.jobs as j where j.id = any (v_seen.old) order by j.id for update skip locked));
  update queue.tasks set after_id = case when v_seen.jobs = 500 then v_seen.last end where name = 'retention';
  return case when v_seen.jobs = 500 then 500 else 0 end; -- 0 ends the pass
end;
$$;

-- Rows that belong to no job, in slices by an index of each; and runs that died without a word.
create function queue.do_sweep(p_now timestamptz, p_until timestamptz) returns integer
language plpgsql as $$
declare
  v_rule record;
  v_rows integer;
  v_done integer := 0;
begin
  for v_rule in
    select * from (values
      ('job_keys', 'expires_at <= $1'),
      ('named_events', 'emitted_at < $1 - interval ''30 days'''), -- no one will wait for them any more
      ('stats', 'minutes = 1 and at < $1 - interval ''25 hours'''),
      ('stats', 'minutes = 60 and at < $1 - interval ''31 days'''),
      ('guest_sessions', 'expires_at < $1 - interval ''1 day'''),
      ('followers', 'seen_at < clock_timestamp() - interval ''150 seconds'''), -- by the clock of follow_topic
      -- closed; a lease that opens it again finds none, and makes one
      ('turns', 'aside and look_at is null and served_at < $1 - interval ''1 hour'''),
      ('buckets', 'refilled_at < $1 - interval ''1 day'''),
      ('ticks', 'started_at < $1 - interval ''7 days'' and seen_at < $1 - interval ''1 day'''),
      ('workers', 'seen_at < $1 - interval ''100 days'''), -- after all jobs that name them
      -- of jobs that were deleted while a worker reported on them
      ('leases', 'expires_at <= $1 and not exists (select from public.jobs as j where j.id = o.job_id)'),
      ('deferred', 'run_at <= $1 - interval ''1 hour'' and not exists (
        select from public.jobs as j where j.id = o.job_id)')) as r (name, is_old)
  loop
    execute format('delete from queue.%1$I where ctid = any (array('
      'select o.ctid from queue.%1$I as o where %2$s limit 20000 for update skip locked))', v_rule.name, v_rule.is_old)
    using p_now;
    get diagnostics v_rows = row_count;
    v_done := v_done + v_rows;
  end loop;
  update queue.ticks set ended_at = seen_at where ctid = any (array(
    select t.ctid from queue.ticks as t
    where t.ended_at is null and t.seen_at < p_now - interval '1 hour' for update skip locked));
  return v_done;
end;
$$;

-- Whether a call of run_maintenance would find something to do; p_active: jobs have run. What a task found and could not
-- do, because someone holds the row, is due again a second later, and what failed not before its retry_at. On an idle
-- queue a task that found nothing waits for an hour.
create function queue.maintenance_is_due(p_now timestamptz, p_active boolean) returns boolean
language plpgsql stable as $$
begin
  return exists (
    select from queue.tasks as t
    cross join lateral (
      select case when t.was_idle and t.done_at > p_now - interval '1 second' then t.done_at
        else '-infinity' end as rests_until) as r
    where greatest(t.done_at + t.every, t.retry_at) <= p_now
      and (case t.name
        when 'adoption' then exists (
          select from queue.job_types as y where y.schema_version > 0 and exists (
            select from queue.gated as g where g.lane = 0 and g.job_type = y.job_type))
        when 'promotion' then
          exists (select from queue.deferred as d where d.run_at <= p_now and d.run_at > r.rests_until)
        when 'waits' then exists (select from queue.signals)
          or exists (
            select from queue.waits as w where w.timeout_at <= p_now and w.timeout_at > r.rests_until)
        when 'schedules' then exists (select from queue.schedules as s where s.enabled and s.next_at <= p_now)
        when 'live' then exists (select from queue.feed as f where f.held)
        -- read whole, since an index of it would be written by each renewal: once a second
        when 'reclaim' then t.done_at <= p_now - interval '1 second'
          and exists (select from queue.leases as l where l.expires_at <= p_now)
        -- readers of the feed, which has lines of a while when no job ran: seconds later
        when 'statistics' then exists (select from queue.feed as f where f.at >= t.done_at - interval '10 seconds')
        when 'webhooks' then exists (select from queue.feed as f where f.at >= t.done_at - interval '10 seconds')
        else false end
      or t.every > interval '0'
        and (p_active or not t.was_idle or t.done_at <= p_now - interval '1 hour')));
end;
$$;

create function public.run_maintenance(p_request jsonb default '{}') returns jsonb
language plpgsql security definer set search_path = ''
set lock_timeout = '2s'
set enable_seqscan = off set jit = off as $$
declare
  v_until constant timestamptz := clock_timestamp() + make_interval(secs => least(5000, greatest(50,
    coalesce((p_request ->> 'budget_ms')::double precision, 1000))) / 1000);
  v_now constant timestamptz := queue.clock();
  v_task text;
  v_done integer;
  v_counts jsonb := '{}';
  v_failed text[] := '{}';
  v_more boolean := false;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    perform queue.refuse(400, 'invalid_argument', 'maintenance needs read committed');
  elsif not queue.try_lock('maintenance') then
    return jsonb_build_object('done', v_counts, 'failed', v_failed, 'more', false, 'busy', true);
  end if;
  for v_task in
    select t.name from queue.tasks as t
    where greatest(t.done_at + t.every, t.retry_at) <= v_now order by t.failures, t.place
  loop
    v_more := clock_timestamp() >= v_until;
    exit when v_more;
    begin
      execute format('select queue.%I($1, $2)', 'do_' || v_task) into v_done using v_now, v_until;
      update queue.tasks set done_at = v_now, was_idle = v_done = 0, failures = 0, retry_at = null where name = v_task;
      if v_done > 0 then
        v_counts := v_counts || jsonb_build_object(v_task, v_done);
      end if;
    exception
      when query_canceled or others then
        update queue.tasks set failed_at = v_now, failures = failures + 1,
          retry_at = v_now + least(interval '1 hour', interval '5 seconds' * 2 ^ least(failures, 12)),
          failure = format('%s (%s)', sqlerrm, sqlstate) where name = v_task;
        raise warning 'the maintenance task % failed: % (%)', v_task, sqlerrm, sqlstate;
        v_failed := v_failed || v_task;
    end;
  end loop;
  return jsonb_build_object('done', v_counts, 'failed', v_failed, 'busy', false,
    'more', v_more or v_counts <> '{}' and queue.maintenance_is_due(v_now, true));
end;
$$;
comment on function public.run_maintenance is
  E'Do what is due besides leasing, for at most budget_ms (50 to 5,000, default 1,000): {done: {task: count}, '
  'failed: [task], more, busy}.\n\nCalled by workers beside their leases, which never depend on it. more: call '
  'again; busy: another does it now.';

select queue.allow('job_worker, service_role', 'public.run_maintenance');
