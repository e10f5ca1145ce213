-- Maintenance does the engine's work that becomes due with time, for example it makes scheduled
-- jobs ready. Maintenance also deletes rows that are no longer needed. If a maintenance task fails,
-- the failure is stored in queue.tasks, the other tasks continue, and the failed task is retried
-- later. If a trigger or foreign key of the project rejects the change of a job, maintenance
-- divides its batch of jobs in halves until it finds the rejected job. Maintenance then skips the
-- rejected job until its retry time.

insert into queue.tasks (name, every)
values -- '0' means at each call
  ('promotion', '0'),
  ('waits', '0'),
  ('live', '1 second'),
  ('announcements', '1 second'),
  ('schedules', '1 second'),
  ('sweep', '1 minute'),
  ('retention', '10 minutes'),
  -- The task `reclaim` reads all leases. An index on expires_at would avoid reading all leases, but
  -- would make each renewal of a lease slower.
  ('reclaim', '1 second');
insert into queue.tasks (name, every, reads_feed)
values ('statistics', '5 seconds', true);

-- Record in queue.refusals that the database rejected a maintenance task's change of a job. The
-- maintenance task retries a rejected job after 5 seconds. Each further rejection doubles the
-- delay, up to an hour.
create function queue.record_rejection(
  p_task text,
  p_job_id uuid,
  p_failure text,
  p_now timestamptz
)
returns void
language sql
set search_path = ''
as $$
insert into queue.refusals as r (
  task, job_id, workspace_id, refused_at, retry_at, failure
)
select
  p_task,
  j.id,
  j.workspace_id,
  p_now,
  p_now + interval '5 seconds',
  left(p_failure, 1000)
from public.jobs as j
where j.id = p_job_id
on conflict (task, job_id) do update set
  failure = excluded.failure,
  failures = r.failures + 1,
  retry_at = p_now
    + least(interval '1 hour', interval '5 seconds' * 2 ^ least(r.failures, 12))
$$;

-- Return the ids of the jobs that the task p_task must skip now, because the database rejected the
-- task's change of the job, and the job's retry time has not come.
create function queue.refused(p_task text, p_now timestamptz)
returns uuid[]
language plpgsql stable
set search_path = ''
as $$
begin
  return array(
    select r.job_id
    from queue.refusals as r
    where r.task = p_task and r.retry_at > p_now
  );
end;
$$;

-- Run a maintenance task on a batch of jobs, and return the number of jobs that the task has
-- changed. If the database rejects the change of a job, divide the batch in halves until this job
-- is found.
create function queue.bisect_task(p_task text, p_ids uuid[], p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_half constant integer := cardinality(p_ids) / 2;
  v_done integer := cardinality(p_ids);
  v_items queue.worker_item[];
  v_settled record;
  v_busy jsonb := '{}'; -- the error of each job that cannot be settled now
begin
  begin
    if p_task = 'retention' then
      delete from public.jobs
      where ctid = any (array(
        select j.ctid
        from public.jobs as j
        where j.id = any (p_ids)
        order by j.id
        for update skip locked
      ));
      get diagnostics v_done = row_count;
    elsif p_task = 'reclaim' then -- the outcome depends on which job ended the process
      v_items := queue.expired_items(p_ids, p_now);
      perform queue.append_event(
        array_agg(i.job_id),
        'job.reclaimed',
        jsonb_build_object('status', 'pending', 'reason', i.error -> 'reason'),
        p_now
      )
      from unnest(v_items) as i
      group by i.error -> 'reason';
      v_settled := queue.settle(v_items, false);
      v_busy := (
        select coalesce(jsonb_object_agg(b ->> 'job_id', b -> 'error'), '{}')
        from jsonb_path_query(v_settled.results::jsonb, '$[*] ? (@.outcome == "busy")') as b
      );
      if v_busy <> '{}' then
        raise 'jobs are busy'; -- undo their events
      end if;
      perform queue.publish(v_settled.changes, p_now);
    else
      v_done := case p_task
        when 'promotion' then queue.promote(p_ids, p_now)
        when 'waits' then queue.end_waits(p_ids, p_now)
        when 'cancel' then queue.cancel(
          p_ids,
          p_now,
          true,
          'parent_ended',
          exists ( -- the jobs have the same parent
            select from public.jobs as j
            join public.jobs as p on p.id = j.parent_id
            where j.id = p_ids[1] and p.status = 'processing' and queue.retry_requested(p.id)
          )
        )
        when 'retry' then queue.retry(p_ids, p_now)
      end;
    end if;
    delete from queue.refusals as r
    where r.task = p_task and r.job_id = any (p_ids);
    return v_done;
  exception when others then
    if queue.is_temporary(sqlstate) then
      raise;
    end if;
    if v_half = 0 and v_busy = '{}' then
      raise warning 'maintenance (%) skips job %: % (%)',
        p_task,
        p_ids[1],
        sqlerrm,
        sqlstate;
      perform queue.record_rejection(
        p_task,
        p_ids[1],
        format('%s (%s)', sqlerrm, sqlstate),
        p_now
      );
      return 0;
    end if;
  end;
  if v_busy <> '{}' then
    perform queue.record_rejection(p_task, b.key::uuid, b.value, p_now)
    from jsonb_each_text(v_busy) as b;
    return queue.bisect_task(
      p_task,
      array(select i.id from unnest(p_ids) as i (id) where not v_busy ? i.id::text),
      p_now
    );
  end if;
  return queue.bisect_task(p_task, p_ids[:v_half], p_now)
    + queue.bisect_task(p_task, p_ids[v_half + 1:], p_now);
end;
$$;

-- Move the jobs p_ids to their next table, for example from queue.deferred to queue.ready, or end
-- them. A job ends if its deadline has passed, or if its latest time for a start has passed before
-- it started. A job of an internal type ends if a person enqueued it before the type was published,
-- because people may not enqueue jobs of internal types.
create function queue.promote(p_ids uuid[], p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  -- Lock the rows of queue.waits before the rows of public.jobs. Skip a job whose row in
  -- queue.waits is locked, because a person is answering its question at this moment. The next
  -- maintenance tries a skipped job again.
  v_locked constant uuid[] := array(
    select w.job_id
    from queue.waits as w
    where w.job_id = any (p_ids)
    order by w.job_id
    for update skip locked
  );
  v_adopted uuid[];
  v_due uuid[];
  v_alive queue.workers[];
  -- An explanation takes some milliseconds. The rest of a large batch ends without a reason.
  v_explain_until constant timestamptz := clock_timestamp() + interval '0.5 seconds';
begin
  if exists (
    select from public.jobs as j
    where j.id = any (p_ids)
      and j.started_at is null
      and least(j.deadline_at, j.start_by_at) <= p_now
  ) then
    v_alive := queue.live_workers(p_now);
  end if;
  with gone as (
    delete from queue.unpublished as u
    using public.jobs as j
    where j.id = any (p_ids)
      and u.job_type = j.job_type
      and u.workspace_id = j.workspace_id
      and u.job_id = j.id
    returning u.job_id
  )
  select coalesce(array_agg(g.job_id), '{}') into v_adopted
  from gone as g;
  with gone as (
    delete from queue.deferred as d
    using public.jobs as j
    where j.id = any (p_ids)
      and d.job_id = j.id
      and d.run_at <= p_now
      and d.run_at in (j.next_retry_at, j.scheduled_for, j.deadline_at, j.start_by_at)
      and (j.status <> 'waiting' or j.id = any (v_locked))
    returning d.job_id, d.is_place
  )
  select coalesce(array_agg(g.job_id) filter (where g.is_place), '{}') into v_due
  from gone as g;
  perform queue.finish(
    array_agg(e.id),
    case e.error ->> 'type' when 'StartByPassed' then 'cancelled' else 'failed' end,
    e.error,
    p_now
  )
  from (
    select
      j.id,
      case
        when j.deadline_at <= p_now then jsonb_build_object(
          'type', 'DeadlinePassed',
          'reason', 'deadline_passed',
          'message', 'its deadline passed ' || case
            when j.scheduled_for > p_now then 'before the time for which it was scheduled'
            when j.started_at is null then 'before it could run'
            when n.kind = 'sleep' then 'while it slept'
            when n.kind = 'ask' then 'while it waited for an answer'
            when n.kind = 'event' then 'while it waited for the event ' || n.event_name
            when n.kind = 'children' then 'while it waited for its children'
            else 'before it ended'
          end,
          'waited', w.sentence
        )
        when j.started_at is null and j.start_by_at <= p_now then jsonb_build_object(
          'type', 'StartByPassed',
          'reason', 'start_by_passed',
          'message', 'it had not started within start_by_seconds',
          'waited', w.sentence
        )
        else '{"type": "Forbidden", "reason": "forbidden",
        "message": "only the platform itself enqueues jobs of this type"}'
      end as error
    from public.jobs as j
    left join queue.job_types as t on t.job_type = j.job_type
    left join queue.waits as n on n.job_id = j.id
    cross join lateral (
      -- the sentence is stored in the job's error for members of its workspace, so the sentence
      -- must not name a job of another workspace
      select case
        when j.status = 'pending'
            and j.started_at is null
            and (j.scheduled_for > p_now) is not true
            and least(j.deadline_at, j.start_by_at) <= p_now
            and clock_timestamp() < v_explain_until
          then queue.explain(j, null, v_alive, p_now, false) -> 'sentence'
      end as sentence
    ) as w
    where j.id = any (p_ids)
      and (j.status = 'pending' or j.status = 'waiting' and j.id = any (v_locked))
      and (
        j.deadline_at <= p_now
        or j.started_at is null and j.start_by_at <= p_now
        or t.internal and j.user_id is not null and j.id = any (v_adopted)
      )
  ) as e
  group by e.error;
  perform queue.place(j, p_now)
  from public.jobs as j
  where j.id = any (p_ids)
    and j.status = 'pending'
    and j.id = any (v_adopted || v_due); -- other jobs keep their place
  return cardinality(p_ids);
end;
$$;

-- Find jobs that are due or whose type has been published, and move these jobs to their next table,
-- for example from queue.deferred to queue.ready. Each batch contains the oldest due jobs of each
-- workspace, and an equal number of jobs of each workspace (queue.fair_batch). Jobs that another
-- transaction has locked remain due.
create function queue.do_promotion(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_types constant text[] := array( -- types published after their first jobs were enqueued
    select t.job_type
    from queue.job_types as t
    where t.schema_version > 0
      and exists (
        select from queue.unpublished as u
        where u.job_type = t.job_type
      )
  );
  v_refused uuid[];
  v_rows tid[];
  v_adopted tid[];
  v_ids uuid[];
  v_done integer := 0;
begin
  loop
    v_refused := queue.refused('promotion', p_now);
    v_rows := queue.fair_batch(
      'queue.deferred',
      'true',
      'o.run_at <= $1 and o.job_id <> all ($2)',
      'o.run_at',
      p_now,
      v_refused
    );
    delete from queue.deferred -- delete rows whose job is gone or has another due time
    where ctid = any (array(
      select d.ctid
      from queue.deferred as d
      where d.ctid = any (v_rows)
        and not exists (
          select from public.jobs as j
          where j.id = d.job_id
            and d.run_at in (
              j.next_retry_at, j.scheduled_for, j.deadline_at, j.start_by_at
            )
        )
      for update skip locked
    ));
    v_adopted := case
      when v_types <> '{}' then queue.fair_batch(
        'queue.unpublished',
        'true',
        format('o.job_id <> all ($2) and o.job_type = any (%L)', v_types),
        'o.job_type',
        p_now,
        v_refused
      )
    end;
    v_ids := array( -- lock each job with its row of queue.deferred or queue.unpublished
      select h.id
      from (
        select j.id
        from queue.deferred as d
        join public.jobs as j on j.id = d.job_id
        where d.ctid = any (v_rows)
        for no key update of d, j skip locked
      ) as h
      union
      select h.id
      from (
        select j.id
        from queue.unpublished as u
        join public.jobs as j on j.id = u.job_id
        where u.ctid = any (v_adopted)
        for no key update of u, j skip locked
      ) as h
    );
    exit when v_ids = '{}' and not found; -- found is set by the delete above
    v_done := v_done + queue.bisect_task('promotion', v_ids, p_now);
    exit when clock_timestamp() > p_until;
  end loop;
  return v_done;
end;
$$;

-- Take jobs back from workers whose leases have expired or whose process has ended. Each batch
-- contains an equal number of jobs of each workspace. A lease that another transaction has locked
-- is reclaimed in a later call.
create function queue.do_reclaim(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_refused uuid[];
  v_ids uuid[];
  v_done integer := 0;
begin
  -- If the clock of the database server was set back, shorten the leases that were taken before the
  -- change, because these leases would expire too late.
  update queue.leases as l
  set expires_at = p_now + make_interval(secs => l.lease_seconds)
  where l.ctid = any (array(
    select o.ctid
    from queue.leases as o
    where o.expires_at
      > p_now + make_interval(secs => o.lease_seconds) + interval '1 minute'
    for no key update skip locked
  ));
  -- let the leases of a worker expire now if its host has reported the end of its process
  update queue.leases as l
  set expires_at = p_now
  where l.ctid = any (array(
    select o.ctid
    from queue.leases as o
    join queue.workers as w on w.worker = o.worker
    where w.evidence is not null and o.expires_at > p_now
    for no key update of o skip locked
  ));
  perform queue.end_dead_runs(p_now);
  loop
    v_refused := queue.refused('reclaim', p_now);
    v_ids := array(
      select l.job_id
      from (
        select
          o.job_id,
          row_number() over (partition by o.workspace_id order by o.job_id) as nth
        from queue.leases as o
        where o.expires_at <= p_now and o.job_id <> all (v_refused)
      ) as d
      join queue.leases as l on l.job_id = d.job_id
      join public.jobs as j on j.id = l.job_id
      where l.expires_at <= p_now
      order by d.nth, d.job_id
      limit 200
      for no key update of l, j skip locked
    );
    exit when v_ids = '{}';
    v_done := v_done + queue.bisect_task('reclaim', v_ids, p_now);
    exit when clock_timestamp() > p_until;
  end loop;
  return v_done;
end;
$$;

-- Delete ended jobs after their retention time. Jobs are read in the order of their ids, so the
-- oldest jobs come first. A child job is kept while its parent job waits for its children.
create function queue.do_retention(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_days constant jsonb := queue.setting('retention_days');
  v_before constant uuid := queue.id_at(
    p_now - make_interval(
      days => (select min(d.value::integer) from jsonb_each_text(v_days) as d)
    )
  );
  v_refused constant uuid[] := queue.refused('retention', p_now);
  v_after uuid := (
    select t.after_id
    from queue.tasks as t
    where t.name = 'retention'
  );
  v_seen record;
  v_done integer := 0;
begin
  loop
    with slice as materialized (
      select
        j.id,
        j.finished_at
        < p_now - make_interval(days => (v_days ->> j.status)::integer)
          and j.id <> all (v_refused)
          and not exists (
            select from queue.waits as w
            where w.job_id = j.parent_id and w.kind = 'children'
          ) as is_old
      from public.jobs as j
      where j.id > coalesce(v_after, '00000000-0000-0000-0000-000000000000')
        and j.id < v_before
      order by j.id
      limit 500
    )
    select
      array_agg(s.id order by s.id) as ids,
      coalesce(array_agg(s.id) filter (where s.is_old), '{}') as old
    into v_seen
    from slice as s;
    if v_seen.old <> '{}' then
      v_done := v_done + queue.bisect_task('retention', v_seen.old, p_now);
    end if;
    v_after := v_seen.ids[500]; -- null if the pass has ended
    exit when v_after is null or clock_timestamp() > p_until;
  end loop;
  update queue.tasks
  set after_id = v_after
  where name = 'retention';
  -- return at least 1, because the caller takes 0 as a sign that no job is left to delete
  return case when v_after is null then v_done else greatest(1, v_done) end;
end;
$$;

-- Delete rows of the engine's tables that are no longer needed, for example old statistics and rows
-- of deleted jobs. Each statement of the sweep deletes at most 20,000 rows.
create function queue.do_sweep(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_rule record;
  v_rows integer;
  v_done integer := 0;
begin
  -- Close each turn that has not changed for an hour and whose tenant has no ready jobs in the
  -- lane. The call passes a time two hours ago as p_now, so that the rule for queue.turns below
  -- deletes the closed rows immediately.
  perform queue.tidy_turns(
    array(
      select row(t.lane, t.workspace_id, null, 0)::queue.share
      from queue.unblocked_turns as t
      where t.changed_at < p_now - interval '1 hour'
        and not exists (
          select from queue.ready as r
          where r.lane = t.lane
            and r.workspace_id = t.workspace_id
            and r.ord >= t.from_ord
        )
      limit 1000
    ),
    p_now - interval '2 hours'
  );
  -- After the restore of a dump, the sequence queue.notes_gone may be ahead of the restored notes,
  -- because pg_dump reads sequences after tables.
  perform setval('queue.notes_gone', 0)
  where exists (
    select from queue.notes as n
    where n.key is null and n.xid::text::bigint < pg_sequence_last_value('queue.notes_gone')
  );
  update queue.lanes as l
  set unused_since = case when l.unused_since is null then p_now end
  where (l.unused_since is null) = (
    l.lane not in (
      select t.lane
      from queue.job_types as t
      where t.lane is not null
      union
      select t.lane
      from queue.turns as t
      union
      select g.lane
      from queue.gated as g
      union
      select r.lane
      from queue.leases as r
      union
      select n.lane
      from queue.notes as n
    )
    and l.queue <> all (array(
      select unnest(w.queues)
      from queue.workers as w
      where w.seen_at > p_now - interval '1 day'
      union
      select s.options ->> 'queue'
      from queue.schedules as s
      where s.options ->> 'queue' is not null
    ))
  );
  for v_rule in
    select *
    from (
      values
        ('lanes', 'unused_since < $1 - interval ''1 day'''),
        -- a job that begins to wait for an event more than 30 days later waits for the next one
        ('named_events', 'emitted_at < $1 - interval ''30 days'''),
        ('stats', 'at < $1 - interval ''9 days'''),
        ('publisher', 'round < (select max(p.round) from queue.publisher as p)'),
        ('turn_epochs', 'epoch < (select max(e.epoch) from queue.turn_epochs as e)'),
        ('guest_sessions', 'expires_at < $1 - interval ''1 day'''),
        -- delete followers that have not called public.follow_topic for 150 seconds, because a
        -- connected client calls this function every 60 seconds
        ('followers', 'seen_at < clock_timestamp() - interval ''150 seconds'''),
        -- delete turns that were closed an hour ago, because a lease can insert them again
        (
          'turns',
          'blocked and look_at is null and changed_at < $1 - interval ''1 hour'''
        ),
        -- delete token buckets of rate limits that have not changed for so long that they must be
        -- full again
        (
          'buckets',
          'refilled_at < $1 - greatest(interval ''1 day'', case when name ~ ''^[rk]:''
        then (select make_interval(secs => 2 * max(rate_per_seconds)) from queue.job_types) end)'
        ),
        ('ticks', 'seen_at < $1 - interval ''1 day'''),
        ('withdrawn_schedules', 'withdrawn_at < $1 - interval ''1 day'''),
        -- delete a worker after 100 days, although a job that is stored for longer then shows no
        -- worker
        ('workers', 'seen_at < $1 - interval ''100 days'''),
        -- delete leases of deleted jobs, because a lease remains if a worker reported on the job
        -- while another transaction deleted the job
        ('leases', 'expires_at <= $1 and not exists (
        select from public.jobs as j where j.id = o.job_id)'),
        ('lost_leases', 'not exists (
        select from queue.leases as l where l.worker = o.worker and l.leased_at <= o.lost_at)'),
        ('suspects', 'not exists (
        select from public.jobs as j where j.id = o.job_id and j.finished_at is null)'),
        (
          'refusals',
          'retry_at < $1 - interval ''1 day'' or task = ''lease''
        and (select j.status from public.jobs as j where j.id = o.job_id)
          is distinct from ''pending'''
        )
    ) as r (name, is_old)
  loop
    execute format(
      'delete from queue.%1$I where ctid = any (array('
        'select o.ctid from queue.%1$I as o where %2$s limit 20000 for update skip locked))',
      v_rule.name,
      v_rule.is_old
    )
    using p_now;
    get diagnostics v_rows = row_count;
    v_done := v_done + v_rows;
  end loop;
  return v_done;
end;
$$;

-- Return true if public.run_maintenance has work to do now. Work on rows that another transaction
-- has locked is due again after a second. If no job has run, a maintenance task that found no work
-- is due again after an hour.
-- p_active: True if jobs have run since the last maintenance.
-- p_is_soon: True if a job, wait or signal may be due, as queue.next_due_in_ms reports.
create function queue.maintenance_is_due(
  p_now timestamptz,
  p_active boolean,
  p_is_soon boolean default true
)
returns boolean
language plpgsql stable
set search_path = ''
as $$
begin
  if p_is_soon then -- a separate query, because even a skipped subquery costs time
    if exists (
      select from queue.tasks as t
      cross join lateral (
        select case
          when t.was_idle
              and t.done_at > p_now - interval '1 second'
              and t.done_at <= p_now
            then t.done_at
          else '-infinity'
        end as skips_until
        offset 0 -- computed once
      ) as r
      where (
        t.done_at > p_now
        or t.done_at + t.every <= p_now and coalesce(t.retry_at <= p_now, true)
      )
        and case t.name
          when 'promotion' then exists (
            select from queue.deferred as d
            where d.run_at <= p_now
              and d.run_at > r.skips_until
              and d.job_id <> all ((
                select queue.refused('promotion', p_now)
              )::uuid[])
          )
          when 'waits' then exists (
            select from queue.signals as s
            where s.look_at <= p_now
              and (s.failures = 0 or r.skips_until = '-infinity')
          )
            or exists (
              select from queue.waits as w
              where w.timeout_at <= p_now and w.timeout_at > r.skips_until
            )
        end
    ) then
      return true;
    end if;
  end if;
  return exists (
    select from queue.tasks as t
    where (
      t.done_at > p_now
      or (t.done_at + t.every <= p_now or t.after_id is not null)
        and coalesce(t.retry_at <= p_now, true)
    )
      and (
        t.every > interval '0'
        and (p_active or not t.was_idle or t.done_at <= p_now - interval '1 hour')
        or t.after_id is not null -- a pass of queue.reset_schedules is unfinished
        or t.done_at > p_now + interval '1 minute' -- the server's clock was set back
        or t.reads_feed and exists (select from queue.feed as f where f.number >= t.read_to)
        or case t.name
          when 'reclaim' then exists (select from queue.leases) -- any lease may have expired
          when 'announcements' then exists (select from queue.late_topics)
          when 'schedules' then exists (
            select from queue.schedules as s
            where s.enabled and s.next_at <= p_now
          )
          when 'promotion' then exists (
            select from queue.job_types as y
            where y.schema_version > 0
              and exists (select from queue.unpublished as u where u.job_type = y.job_type)
          )
        end
      )
  );
end;
$$;

create function public.run_maintenance(p_request jsonb default '{}')
returns jsonb
language plpgsql
security definer
set search_path = ''
set lock_timeout = '2s'
set enable_seqscan = off
set jit = off
as $$
declare
  v_until constant timestamptz := clock_timestamp() + make_interval(
    secs => least(
      5000,
      greatest(50, coalesce((p_request ->> 'budget_ms')::double precision, 1000))
    ) / 1000
  );
  v_now constant timestamptz := queue.clock();
  v_task queue.tasks;
  v_tasks queue.tasks[];
  v_left integer;
  v_share timestamptz;
  v_done integer;
  v_counts jsonb := '{}';
  v_failed text[] := '{}';
begin
  perform queue.refuse_revoked();
  if current_setting('transaction_isolation') <> 'read committed' then
    perform queue.refuse(
      400,
      'invalid_argument',
      'maintenance requires the isolation level read committed'
    );
  elsif not queue.try_lock('maintenance') then
    return jsonb_build_object(
      'done', v_counts,
      'failed', v_failed,
      'more', false,
      'busy', true
    );
  end if;
  -- after the restore of a dump, queue.feed_number raises queue.feed_base if necessary
  perform queue.feed_number(pg_snapshot_xmax(pg_current_snapshot()));
  -- Begin with the maintenance task that has waited longest. Give each task an equal share of the
  -- remaining time, so that no task delays the other tasks. Run the task `announcements` last,
  -- because it sends messages for the rows that other tasks add to queue.feed.
  v_tasks := array(
    select t
    from queue.tasks as t
    where t.done_at > v_now
      or (t.done_at + t.every <= v_now or t.after_id is not null)
        and coalesce(t.retry_at <= v_now, true)
    order by t.name = 'announcements', t.failures > 0, t.done_at, t.every, t.name
  );
  v_left := cardinality(v_tasks);
  foreach v_task in array v_tasks loop
    exit when clock_timestamp() >= v_until;
    v_share := clock_timestamp() + (v_until - clock_timestamp()) / v_left;
    v_left := v_left - 1;
    begin
      execute format('select queue.%I($1, $2)', 'do_' || v_task.name)
      into v_done
      using v_now, v_share;
      update queue.tasks
      set
        -- a task that stopped because its time was over is due again immediately
        done_at = case
          when v_done > 0 and clock_timestamp() > v_share then v_now - every
          else v_now
        end,
        was_idle = v_done = 0,
        failures = 0,
        failure = null,
        retry_at = null
      where name = v_task.name;
      if v_done > 0 then
        v_counts := v_counts || jsonb_build_object(v_task.name, v_done);
      end if;
    -- also catch query_canceled, which a statement timeout raises
    exception when query_canceled or others then
      update queue.tasks
      set
        done_at = v_now,
        was_idle = false, -- so that the task is retried at retry_at, also on a quiet queue
        failures = failures + 1,
        failure = format('%s (%s)', sqlerrm, sqlstate),
        retry_at = v_now + least(
          interval '1 hour',
          interval '5 seconds' * 2 ^ least(failures, 12)
        )
      where name = v_task.name;
      raise warning 'the maintenance task % failed: % (%)',
        v_task.name,
        sqlerrm,
        sqlstate;
      v_failed := v_failed || v_task.name;
    end;
  end loop;
  if v_tasks <> '{}' then
    perform setval('queue.feed_reached', queue.feed_end()); -- no feed number is higher
  end if;
  return jsonb_build_object(
    'done', v_counts,
    'failed', v_failed,
    'busy', false,
    'more', v_left > 0 or v_counts <> '{}' and queue.maintenance_is_due(v_now, true)
  );
end;
$$;
comment on function public.run_maintenance is
  E'Run the maintenance tasks that are due, for at most budget_ms (50 to 5,000, default 1,000): '
  '{done: {task: count}, failed: [task], more, busy}.\n\nmore: True if the caller should call '
  'again. busy: True if another call is running maintenance.';
select queue.allow('job_worker, service_role', 'public.run_maintenance');
