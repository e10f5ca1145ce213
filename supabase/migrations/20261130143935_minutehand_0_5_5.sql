-- 0.5.5 after the release before it; written by `python -m infra.release` from schemas.
-- Do not edit it, and do not read it: read the schemas.

-- Return the release of the engine's schema, which is the value of minutehand.version. `minutehand
-- doctor` compares this release with the release that the project recorded.
create or replace function queue.version()
returns text
language sql immutable
set search_path = ''
as $$
select '0.5.5'
$$;

-- noqa: PRS

-- Return the time of the last enqueue that the limit p_limit of the workspace rejected, and the
-- number of the sequence that stores it. The time is null if no enqueue was rejected, or if
-- rejections of four other pairs of workspace and limit were stored later. The sequence is then the
-- one with the oldest rejection.
create or replace function queue.last_full(
  p_workspace_id uuid,
  p_limit text,
  out rejected_at timestamptz,
  out hash bigint,
  out nth integer
)
language sql stable
set search_path = ''
as $$
select case when v.stored & 16777215 = h.hash then to_timestamp(v.stored >> 24) end, h.hash, n
from (values (hashtext(p_workspace_id || p_limit)::bigint & 16777215)) as h (hash)
cross join generate_series(0, 3) as n
cross join pg_sequence_last_value('queue.full_' || n) as v (stored)
order by (v.stored & 16777215 = h.hash) is true desc, v.stored nulls first
limit 1
$$;

-- Reject an enqueue, because the limit p_limit of the workspace's live jobs is used up, and store
-- the rejection.
create or replace function queue.refuse_full(p_workspace_id uuid, p_limit text, p_message text)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_last constant record := queue.last_full(p_workspace_id, p_limit);
begin
  perform setval(
    'queue.full_' || v_last.nth,
    floor(extract(epoch from queue.clock()))::bigint << 24 | v_last.hash
  );
  perform queue.refuse(429, 'quota_exceeded', p_message, p_limit);
end;
$$;

create or replace function public.revoke_worker_keys(
  p_before timestamptz,
  p_grace_seconds integer default 0
)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_now timestamptz := queue.clock();
  v_count integer;
begin
  if p_before is null or p_before > v_now + interval '1 minute' then
    perform queue.refuse(
      400,
      'invalid_argument',
      'p_before must not be in the future',
      'p_before'
    );
  end if;
  insert into queue.settings as s (name, value, updated_at)
  values (
    'worker_keys_revoked',
    jsonb_build_array(jsonb_build_object(
      -- Revoke only keys whose issue time (iat) is more than a minute before p_before, because the
      -- issuer sets iat half a minute back. Without this minute, a key that is issued after
      -- p_before would also be revoked.
      'before', floor(extract(epoch from p_before)) - 60,
      'from', floor(extract(epoch from v_now)) + coalesce(p_grace_seconds, 0)
    )),
    v_now
  )
  -- Keep the revocations of earlier calls, because otherwise keys that an earlier call revoked
  -- would work again during the grace period of the new revocation.
  on conflict (name) do update set
    value = s.value || excluded.value,
    updated_at = v_now;
  update queue.settings
  set
    -- revoke guest keys too, because someone who stole the worker key may also know the key of
    -- guests
    updated_at = v_now,
    value = to_jsonb(replace(concat(gen_random_uuid(), gen_random_uuid()), '-', ''))
  where name = 'guest_key';
  -- Someone with a stolen key may have registered job types, so delete each type that no turn,
  -- note, lease or row of queue.gated refers to. Until a worker registers a deleted type again, a
  -- delayed job of the type that becomes due waits in queue.unpublished.
  update queue.job_types
  set
    schema_version = least(schema_version, 1),
    registered_at = '-infinity',
    deployed_at = null
  -- the Data API of Supabase rejects an update without a condition (safeupdate)
  where true;
  get diagnostics v_count = row_count;
  delete from queue.schedules where source is not null;
  delete from queue.withdrawn_schedules where true;
  delete from queue.job_types
  where not in_order
    and job_type not in (
      select l.job_type
      from queue.lanes as l
      where l.lane in (
        select t.lane
        from queue.turns as t
        union all
        select n.lane
        from queue.notes as n
        union all
        select g.lane
        from queue.gated as g
        union all
        select r.lane
        from queue.leases as r
      )
    )
    -- a worker whose key is not revoked registers its types again only after some minutes
    and job_type not in (
      select unnest(w.job_types)
      from queue.workers as w
      where (w.summary ->> 'key_issued_at')::timestamptz >= p_before - interval '1 minute'
    );
  update queue.lanes
  -- let maintenance delete the lane one hour later, because open transactions may still insert jobs
  -- that refer to the lane
  set unused_since = v_now - interval '23 hours'
  where job_type not in (select t.job_type from queue.job_types as t);
  delete from queue.workers as w
  -- public.jobs has no index on worker, because leases change this column
  where not exists (select from public.jobs as j where j.worker = w.worker)
    and not exists (select from queue.leases as r where r.worker = w.worker)
    and (
      (w.summary ->> 'key_issued_at')::timestamptz >= p_before - interval '1 minute'
    ) is not true;
  return jsonb_build_object(
    'revoked_before', p_before - interval '1 minute',
    'from', v_now + make_interval(secs => coalesce(p_grace_seconds, 0)),
    'types', v_count
  );
end;
$$;

comment on function public.revoke_worker_keys is
  E'Revoke worker keys that were issued a minute or more before p_before: {revoked_before, from, '
  'types}.\n\n'
  'The revocation takes effect after p_grace_seconds. For operators.';

select queue.allow('service_role', 'public.revoke_worker_keys');

-- Update a worker's row of queue.workers, and the column served_at of the lanes (job types in
-- queues) that the worker serves. Return the worker's number in queue.workers. When a job type in a
-- queue gets its first worker or loses its last worker, insert notes for the concurrency keys of
-- the job type, so that a lease checks which waiting jobs of these keys can be admitted. Before the
-- insert, the function takes the advisory lock "turns", because queue.lease_ready takes this lock
-- to admit jobs of concurrency keys.
-- p_is_changed: True if the job types, queues, version, slots or abandoned jobs of the worker have
--   changed.
-- has_noted: True if this call has inserted notes for concurrency keys.
create or replace function queue.record_worker(
  p_request queue.lease_request,
  p_is_changed boolean,
  p_now timestamptz,
  out worker integer,
  out has_noted boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_known queue.workers; -- the worker's row before the update
  v_lanes record;
  v_gates integer[];
  v_is_alone boolean;
begin
  select * into v_known
  from queue.workers as w
  where w.worker_id = p_request.worker_id;
  if v_known.version = p_request.version
    and v_known.job_types @> p_request.job_types
  then
    -- A request omits job types for which the worker has no free slot. The worker still serves the
    -- omitted job types, so keep the stored list of job types.
    p_request.job_types := v_known.job_types;
  end if;
  select
    array_agg(l.lane) filter (
      where o.serves
        and (
          l.served_at is null
          or l.served_at not between p_now - interval '1 minute' and p_now
        )
    ) as served,
    array_agg(l.lane) filter (where o.serves and l.served_at is null) as added,
    array_agg(l.lane) filter (
      where not o.serves
        and (
          l.served_at <= p_now - interval '3 minutes'
          or p_is_changed
            and l.served_at is not null
            and not exists (
              select from queue.workers as w
              where w.worker_id <> p_request.worker_id
                and w.seen_at > p_now - interval '3 minutes'
                and (w.job_types is null or l.job_type = any (w.job_types))
                and (w.queues is null or l.queue = any (w.queues))
            )
        )
    ) as gone
  into v_lanes
  from queue.lanes as l
  cross join lateral (
    select coalesce(l.job_type = any (p_request.job_types), true)
      and coalesce(l.queue = any (p_request.queues), true) as serves
  ) as o;
  v_gates := v_lanes.added || v_lanes.gone;
  v_is_alone := v_gates is null or queue.try_lock('turns');
  if v_is_alone then
    update queue.lanes
    set served_at = case when lane = any (v_lanes.served) then p_now end
    where ctid = any (array(
      select l.ctid
      from queue.lanes as l
      where l.lane = any (v_lanes.served || v_lanes.gone)
      for no key update skip locked
    ));
    perform queue.note_gates(v_gates) where v_gates is not null;
  end if;
  insert into queue.workers as w (
    worker_id, started_at, seen_at, version, job_types, queues, slots, abandoned, summary
  )
  values (
    p_request.worker_id,
    p_now,
    -- If another transaction had the advisory lock "turns", set seen_at back by 59 seconds, so that
    -- the worker's next request, one second later, updates the row again.
    p_now - interval '59 seconds' * (not v_is_alone)::integer,
    p_request.version,
    p_request.job_types,
    p_request.queues,
    coalesce(p_request.slots, v_known.slots),
    coalesce(p_request.abandoned, v_known.abandoned),
    jsonb_build_object(
      'key_expires_at', to_timestamp(
        least((auth.jwt() ->> 'exp')::double precision, 253402300799) -- at most the year 9999
      ),
      -- the year 9999 for a session without a worker key, because no revocation concerns it
      'key_issued_at', to_timestamp(case auth.jwt() ->> 'role'
        when 'job_worker' then coalesce((auth.jwt() ->> 'iat')::double precision, 0)
        else 253402300799
      end)
    )
  )
  on conflict (worker_id) do update set
    seen_at = excluded.seen_at,
    ended_at = null,
    version = excluded.version,
    job_types = excluded.job_types,
    queues = excluded.queues,
    slots = excluded.slots,
    abandoned = excluded.abandoned,
    summary = coalesce(w.summary, '{}') || excluded.summary,
    started_at = case
      when w.ended_at is null and w.seen_at > p_now - interval '3 minutes'
        then w.started_at
      else p_now
    end
  returning w.worker into record_worker.worker;
  has_noted := v_is_alone and v_gates is not null;
end;
$$;

create or replace function public.tick_finished(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_tick constant uuid := p_request ->> 'tick_id';
  v_worker integer;
  v_refused boolean;
  v_ignored bigint;
  v_response jsonb;
begin
  perform queue.refuse_revoked();
  v_ignored := queue.withdraw_run(queue.clock());
  -- wait until the last lease of the process has committed, because the process may have requested
  -- jobs just before its end
  perform queue.try_lock('process ' || (p_request ->> 'worker_id'), p_waits => true)
  where p_request ->> 'evidence' is not null;
  update queue.ticks
  set expires_at = null
  where tick_id = v_tick and expires_at is not null
  returning has_refused into v_refused;
  -- store the end of a process that has not called yet, because its first lease request may still be
  -- on its way
  insert into queue.workers (worker_id, job_types)
  select p_request ->> 'worker_id', '{}'
  where p_request ->> 'evidence' is not null and p_request ->> 'worker_id' is not null
  on conflict (worker_id) do nothing;
  if coalesce(p_request ->> 'summary', p_request ->> 'evidence') is not null then
    update queue.workers
    set
      ended_at = queue.clock(),
      seen_at = queue.clock(),
      summary = coalesce(
        p_request -> 'summary' || jsonb_build_object(
          'key_expires_at', summary -> 'key_expires_at',
          'key_issued_at', summary -> 'key_issued_at'
        ),
        summary
      ),
      evidence = p_request -> 'evidence'
    where worker = coalesce(
      (
        select t.worker
        from queue.ticks as t
        where t.tick_id = v_tick
      ),
      (
        select w.worker
        from queue.workers as w
        where w.worker_id = p_request ->> 'worker_id'
      )
    )
    returning worker into v_worker;
  end if;
  v_response := jsonb_build_object('ended', true, 'refused', coalesce(v_refused, false));
  if p_request ->> 'evidence' is not null and v_worker is not null then
    -- wait for the last reports of the process, because queue.do_reclaim skips locked leases
    perform queue.lock_held(array(select l.job_id from queue.leases as l where l.worker = v_worker));
    v_ignored := queue.do_reclaim(queue.clock(), clock_timestamp() + interval '2 seconds');
    -- Open the turns of the reclaimed jobs now, because several processes will soon lease these
    -- suspected jobs at the same time. A lease does not see a turn that another lease is opening.
    perform queue.open_turns(200, queue.clock()) where queue.try_lock('turns');
    v_response := v_response || jsonb_build_object(
      'guilty', array(
        select s.job_id
        from queue.suspects as s
        where s.worker = v_worker and s.company = s.job_id
      ),
      'suspects', (
        select count(distinct s.company)
        from queue.suspects as s
        join public.jobs as j on j.id = s.job_id
        where s.worker = v_worker and j.status = 'pending' and s.company <> s.job_id
      )
    );
  end if;
  return v_response;
end;
$$;

comment on function public.tick_finished is
  E'Record that a worker''s run has ended: {tick_id, summary?}. Returns {ended, refused}. '
  'ends of lease_jobs does the same.\n\nWith {worker_id, evidence}: record that the process of a '
  'worker ended without a report. The jobs of the process keep the evidence, and are reclaimed '
  'immediately. The response also contains {guilty, suspects}. guilty has the ids of the jobs that '
  'ended the process. suspects is the number of groups of other suspects. Each group must run in a '
  'separate process.';

select queue.allow('job_worker, service_role', 'public.tick_finished');

create or replace function public.report_jobs(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
set lock_timeout = '8s'
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set jit = off
as $$
declare
  v_items constant queue.worker_item[] := (queue.read_items(p_request -> 'items')).items;
  v_reported constant uuid[] := array(
    select i.job_id
    from unnest(v_items) as i
    where num_nonnulls(i.progress, i.logs, i.steps, i.step, i.tags, i.output) > 0
  );
  v_busy uuid[] := '{}'; -- jobs of v_reported that another transaction has locked
  v_renewed uuid[];
begin
  perform queue.refuse_revoked();
  if v_reported <> '{}' then
    v_busy := queue.lock_held(v_reported);
    perform queue.write_reports(
      array(
        select i
        from unnest(v_items) as i
        where i.job_id <> all (v_busy)
      ),
      queue.clock()
    );
  end if;
  -- Renew a lease only if a fifth of its duration has passed, or if the report changes the lease,
  -- because workers report often. If another transaction has locked a lease now, the worker's next
  -- report renews the lease.
  v_renewed := array(
    select l.job_id
    from unnest(v_items) as i
    join queue.leases as l on l.job_id = i.job_id
    where num_nonnulls(i.lease_seconds, i.pulse) > 0
      or l.expires_at < queue.clock() + make_interval(secs => 0.8 * l.lease_seconds)
    order by l.job_id
    for no key update of l skip locked
  );
  update queue.leases as l
  set
    lease_seconds = s.lease_seconds,
    pulse = case
      when i.pulse is null then l.pulse
      else i.pulse - '{for_ms,left_ms}'::text[] || jsonb_build_object(
        'since', queue.clock() - (i.pulse ->> 'for_ms')::double precision * interval '1 ms',
        'times_out_at', queue.clock()
          + (i.pulse ->> 'left_ms')::double precision * interval '1 ms',
        'first_mb', coalesce(l.pulse -> 'first_mb', i.pulse -> 'memory_mb')
      )
    end,
    expires_at = queue.clock() + make_interval(secs => s.lease_seconds)
  from unnest(v_items) as i
  join queue.leases as o on o.job_id = i.job_id and o.fence = i.fence
  cross join lateral (
    select case
      when i.lease_seconds between 1 and 43200 then i.lease_seconds::integer
      else o.lease_seconds
    end as lease_seconds
  ) as s
  where l.job_id = any (v_renewed) and l.job_id = o.job_id;
  perform queue.send_unsent();
  return jsonb_build_object(
    'results', (
      select coalesce(
        jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
          'job_id', i.job_id,
          'fence', i.fence,
          'lease_expires_at', l.expires_at,
          'outcome', case
            when num_nulls(l.job_id, j.id) > 0 then 'lost'
            when i.job_id = any (v_busy) then 'busy'
            when j.cancel_requested_at is not null then 'cancel'
            else 'ok'
          end,
          'output', case
            when i.job_id <> all (v_busy) then queue.output_state(i, j)
          end
        ))),
        '[]'
      )
      from unnest(v_items) as i
      left join queue.leases as l on l.job_id = i.job_id and l.fence = i.fence
      left join public.jobs as j on j.id = l.job_id
    )
  );
end;
$$;

comment on function public.report_jobs is
  E'Report on running jobs and renew their leases: {results: [{job_id, fence, '
  'outcome: ok|cancel|lost|busy, output: followed|unfollowed|refused, lease_expires_at}]}.\n\n'
  'Items: {job_id, fence, progress?, logs?, logs_from?, steps?, step?, tags?, output?, '
  'pulse?: {last, for_ms, left_ms?, place?, pid?, own_pids?, batched?, memory_mb}, '
  'lease_seconds?}. Report an item again if its outcome is busy.';

select queue.allow('job_worker, service_role', 'public.report_jobs');

create or replace function public.list_schedules(p_workspace_id uuid)
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

-- Return the time at which the key of a worker expired, if the last known call of the worker, at
-- p_called_at, was at most p_within earlier. A worker that signs its own keys changes each key two
-- minutes before it expires. Its row has the new key at most a minute later, but only if the worker
-- has free slots, because renewals do not update the row. So an old row is evidence only of a key
-- that is valid for longer than an hour. The Data API accepts a key for 30 seconds longer.
create or replace function queue.key_end(
  p_worker queue.workers,
  p_called_at timestamptz,
  p_within interval default '2 minutes'
)
returns timestamptz
language sql stable
set search_path = ''
as $$
select k.ends_at
from (
  values (
    (p_worker.summary ->> 'key_issued_at')::timestamptz,
    (p_worker.summary ->> 'key_expires_at')::timestamptz
  )
) as k (issued_at, ends_at)
where p_called_at between k.ends_at - p_within and k.ends_at + interval '1 minute'
  and k.ends_at <= queue.clock()
  and (
    p_worker.seen_at >= k.ends_at - interval '2 minutes'
    or k.issued_at < k.ends_at - interval '1 hour'
  )
  and not (p_worker.summary ? 'stopped' or p_worker.evidence is not null)
$$;

-- Convert the expired leases of jobs to outcomes that queue.settle applies. A guilty job loses the
-- attempt, with the reason worker_lost. If there is evidence of how its process ended, the guilty
-- job is retried only after its backoff. Suspects and innocent jobs are released with the reason
-- process_died, and do not lose an attempt.
create or replace function queue.expired_items(p_ids uuid[], p_now timestamptz)
returns queue.worker_item[]
language sql
set search_path = ''
as $$
select coalesce(array_agg(
  jsonb_populate_record(
    null::queue.worker_item,
    jsonb_build_object(
      'job_id', l.job_id,
      'fence', l.fence,
      'outcome', case b.verdict
        when 'guilty' then 'lost'
        when 'suspect' then 'died'
        else 'released'
      end,
      'duration_ms', greatest(
        0, -- duration until the worker's last response
        date_part('epoch', l.expires_at - l.leased_at) - case
          when w.evidence is null then l.lease_seconds
          else 0
        end
      ) * 1000,
      'error', jsonb_strip_nulls(jsonb_build_object(
        'type', 'WorkerLost',
        'reason', case b.verdict when 'guilty' then 'worker_lost' else 'process_died' end,
        'worker_id', w.worker_id,
        'company', case when b.verdict <> 'innocent' then b.others end,
        -- the evidence without ids of jobs of other workspaces, and the number of all jobs in the
        -- process
        'evidence', w.evidence
          - '{guilty,companies,current_job}'::text[] -- earlier releases sent a list `guilty`
          || jsonb_build_object(
            'jobs_in_it', jsonb_array_length(w.evidence -> 'jobs'),
            'jobs', (
              select coalesce(jsonb_agg(j.id order by j.id), '[]')
              from public.jobs as j
              where j.workspace_id = l.workspace_id
                and j.id = any (array(
                  select e.id::uuid
                  from jsonb_array_elements_text(w.evidence -> 'jobs') as e (id)
                ))
            )
          ),
        'message', format(
          case b.verdict
            when 'innocent'
              then 'attempt %1$s does not count: %4$s ended the process of worker %2$s%3$s'
            when 'suspect' then 'attempt %1$s does not count: '
              || case
                when w.evidence is null then 'the last known call of worker %2$s was at %6$s,'
                else 'the process of worker %2$s ended%3$s'
              end
              || ' while it also ran %5$s; the job runs next alone, or with some of these jobs'
            when 'guilty' then case
              when w.evidence is null
                then 'attempt %1$s was lost: the last known call of worker %2$s was at %6$s'
              else 'attempt %1$s was lost: the process of worker %2$s ended%3$s while the job ran'
            end
          end,
          l.attempt,
          w.worker_id,
          queue.process_end(w.evidence),
          coalesce('a job of ' || (w.evidence ->> 'guilty_type'), 'the host'),
          queue.other_jobs(b.others),
          to_char(c.at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS"+00"') || coalesce(
            to_char(
              queue.key_end(w, c.at) at time zone 'UTC',
              '", and its key expired at "YYYY-MM-DD HH24:MI:SS"+00"'
            ),
            ''
          )
        )
      ))
    )
  )
  order by l.job_id
), '{}')
from queue.leases as l
join queue.blame(p_ids, p_now) as b on b.job_id = l.job_id
left join queue.workers as w on w.worker = l.worker
cross join lateral (
  values (greatest(w.seen_at, l.expires_at - make_interval(secs => l.lease_seconds)))
) as c (at)
$$;

-- This file has the functions that read jobs. The id of a job begins with the job's creation time,
-- so lists of jobs are sorted by id, newest first. A search for live or failed jobs reads small
-- tables such as queue.ready and queue.dead. A search for completed or cancelled jobs reads at most
-- the newest 10,000 rows of public.jobs. The functions at the end of this file explain why a job
-- waits, and find the job's holder. The holder of a job is the other job, database session, worker
-- or pause for which the job waits.

-- Return the type and the message of a job's error as one text, as Python prints an exception.
-- Errors that the engine or the processor raised on purpose are returned without their type.
create or replace function queue.error_line(p_message text, p_error jsonb)
returns text
language plpgsql immutable
set search_path = ''
as $$
declare
  v_type constant text := substring(p_error ->> 'type' from '[^.]+$');
begin
  return case
    when v_type is null
        or p_message is null
        or starts_with(p_message, v_type)
        or v_type in (
          'Fail', 'Retry', 'Cancelled', 'WorkerLost', 'AttemptTimeout',
          'DeadlinePassed', 'DeadlineReached', 'PayloadRejected', 'ResultRejected'
        )
      then p_message
    else v_type || ': ' || p_message
  end;
end;
$$;

-- Return the first line of an error for use within a sentence, cut to 200 characters.
create or replace function queue.short_error(p_message text, p_error jsonb)
returns text
language sql immutable
set search_path = ''
as $$
select rtrim(left(coalesce(substring(e.line, '\S[^\n]*'), e.line), 200), ' .:')
from queue.error_line(p_message, p_error) as e (line)
$$;

drop function queue.fingerprint(text,jsonb);

-- Return a hash that groups the errors of jobs. Two errors that differ only in numbers and ids have
-- the same hash. The message of a WorkerLost error contains the worker's name, so the hash of the
-- error is computed from the reason why the worker's process ended, with its exit code.
-- p_job_type: Job type of a lost or timed-out job, whose cause is the code of its type. Null to
--   return the hash of releases before 0.5.5.
create or replace function queue.fingerprint(p_message text, p_error jsonb, p_job_type text default null)
returns text
language plpgsql immutable
set search_path = ''
as $$
begin
  return left(
    md5(concat_ws(
      ' ',
      regexp_replace(
        lower(concat_ws(
          ' ',
          p_error ->> 'type',
          case
            when p_error ->> 'type' = 'WorkerLost' then concat_ws(
              ' ',
              p_error ->> 'reason',
              p_error #>> '{evidence,signal}',
              p_error #>> '{evidence,line}',
              p_error #>> '{evidence,guilty_type}'
            )
            else p_message
          end
        )),
        '[0-9a-f-]*[0-9][0-9a-f-]*',
        '#',
        'g'
      ),
      p_error #>> '{evidence,exit_code}',
      case when p_error ->> 'type' in ('WorkerLost', 'AttemptTimeout') then p_job_type end
    )),
    16
  );
end;
$$;

-- Convert a client's job filter to conditions of an SQL where clause. Return null for an empty job
-- filter. Raise an error for a job filter with an unknown name or value.
create or replace function queue.conditions_of(p_filter jsonb)
returns text
language plpgsql stable
set search_path = ''
as $$
declare
  c_conditions constant jsonb := jsonb_build_object(
    'status', 'p.status = any (array(select jsonb_array_elements_text(%L)))',
    'state', 'queue.state_of(p.status, p.attempts, p.next_retry_at, p.scheduled_for, %2$L)
      = any (array(select jsonb_array_elements_text(%1$L)))',
    'job_type', 'p.job_type = %L',
    'queue', 'p.queue = %L',
    'user_id', 'p.user_id = %L',
    'mine', '(p.user_id = %3$L or not %1$L::boolean)',
    'session_id', 'p.session_id = %L',
    'parent_id', 'p.parent_id = %L',
    'concurrency_key', 'p.concurrency_key = %L',
    'worker_id', '(select w.worker from queue.workers as w where w.worker_id = %L) in (
      select p.worker -- the first worker
      union all select l.worker from queue.leases as l where l.job_id = p.id
      union all select a.worker from queue.attempts as a where a.job_id = p.id)',
    'tag', 'p.tags @> array[%L]',
    'payload', 'p.payload @> %L',
    'created_after', 'p.created_at >= %L',
    'error', 'strpos(lower(queue.error_line(p.error_message, p.error_data)), lower(%L)) > 0',
    'error_fingerprint', '%L in (queue.fingerprint(p.error_message, p.error_data, p.job_type),
      queue.fingerprint(p.error_message, p.error_data))', -- as earlier releases returned it
    'internal', '(p.job_type in (select t.job_type from queue.job_types as t where t.in_order))
      = %L::boolean',
    'search', 'strpos(lower(concat_ws('' '', p.job_type, p.idempotency_key,
      case
        when p.error_message is not null then queue.error_line(p.error_message, p.error_data)
      end,
      array_to_string(p.tags, '' ''),
      case when pg_column_size(p.payload) <= 8192 then p.payload::text end,
      -- search job ids only for texts of six or more characters, because a shorter text would match
      -- many ids by chance
      case when length(%1$L) >= 6 then concat(p.id, '' '', replace(p.id::text, ''-'', '''')) end)
      ), lower(%1$L)) > 0'
  );
  v_wrong text := case
    when not '["pending", "processing", "waiting", "completed", "failed", "cancelled"]'
        @> (p_filter -> 'status')
      then 'status'
    when not '["queued", "scheduled", "retrying", "running", "suspended", "completed", "failed",
      "cancelled"]'
        @> (p_filter -> 'state')
      then 'state'
  end;
begin
  perform queue.check_names(
    p_filter,
    array(select jsonb_object_keys(c_conditions)) || '{workspace_id,ids}'::text[],
    'filter'
  );
  if v_wrong is not null then
    perform queue.refuse(
      400,
      'invalid_argument',
      format('unknown %s: %s', v_wrong, p_filter ->> v_wrong),
      v_wrong
    );
  end if;
  return (
    select string_agg(
      ' and ' || format(
        c.condition,
        case
          when c.name in ('status', 'state')
            then jsonb_path_query_array(p_filter -> c.name, '$[*]')::text -- one value, or a list
          else p_filter ->> c.name
        end,
        queue.clock(),
        queue.caller()
      ),
      ''
    )
    from jsonb_each_text(c_conditions) as c (name, condition)
    where p_filter ? c.name
  );
end;
$$;

create or replace function public.dead_letters(p_workspace_id uuid)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
begin
  perform queue.may_read(p_workspace_id);
  perform queue.take_call_slot(p_workspace_id);
  return (
    with letters as materialized (
      select
        j.id,
        j.job_type,
        j.finished_at,
        regexp_replace( -- show only the end of each id
          queue.error_line(j.error_message, j.error_data),
          '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}([0-9a-f]{8})',
          '…\1',
          'g'
        ) as message,
        queue.fingerprint(j.error_message, j.error_data, j.job_type) as print,
        j.finished_at > t.deployed_at and j.created_at < t.deployed_at and exists (
          select from queue.attempts as a
          where a.job_id = j.id
            and a.ended_at < t.deployed_at
            and queue.fingerprint(a.error_message, a.error_data)
            = queue.fingerprint(j.error_message, j.error_data)
        ) as is_old,
        c.job_type as cause_type,
        queue.fingerprint(c.error_message, c.error_data, c.job_type) as cause_print
      from (
        select d.job_id
        from queue.dead as d
        where d.workspace_id = p_workspace_id
        order by d.workspace_id desc, d.job_id desc
        limit 10000
      ) as d
      join public.jobs as j on j.id = any (array[d.job_id])
      left join queue.job_types as t on t.job_type = j.job_type
      left join public.jobs as c on c.id = case
        when j.error_data ->> 'type' ~ '[.]ChildrenFailed$'
          then queue.blocking_descendant(j.id, true)
      end
    ),
    hours as ( -- failures per hour of the last day
      select
        l.job_type,
        l.print,
        jsonb_object_agg(l.hour, l.jobs) as by_hour
      from (
        select
          n.job_type,
          n.print,
          floor(extract(epoch from queue.clock() - n.finished_at) / 3600) as hour,
          count(*) as jobs
        from letters as n
        where n.finished_at > queue.clock() - interval '1 day'
        group by 1, 2, 3
      ) as l
      group by 1, 2
    ),
    groups as (
      select
        l.cause_type,
        l.cause_print,
        l.job_type,
        l.print as error_fingerprint,
        count(*) as jobs,
        min(l.finished_at) as first_at,
        coalesce(bool_or(l.is_old), false) as is_old,
        max(l.finished_at) as last_at,
        (array_agg(l.id order by l.finished_at desc, l.id))[1] as latest_id,
        (array_agg(l.message order by l.finished_at desc, l.id))[1] as error_message
      from letters as l
      group by 1, 2, 3, 4
    ),
    effects as (
      select
        g.cause_type,
        g.cause_print,
        jsonb_agg(jsonb_build_object(
          'job_type', g.job_type,
          'error_fingerprint', g.error_fingerprint,
          'jobs', g.jobs,
          'latest_id', g.latest_id
        )) as effects
      from groups as g
      where g.cause_type is not null
      group by 1, 2
    )
    select jsonb_build_object(
      'groups', coalesce(
        jsonb_agg(
          to_jsonb(g) - '{cause_type,cause_print,is_old}'::text[] || jsonb_build_object(
            'by_hour', coalesce(h.by_hour, '{}'),
            'consequences', coalesce(e.effects, '[]'),
            'is_new', coalesce(g.first_at > t.deployed_at and not g.is_old, false)
          )
          order by g.jobs desc, g.last_at desc
        ),
        '[]'
      ),
      'more', (select count(*) from letters) = 10000
    )
    from groups as g
    left join queue.job_types as t on t.job_type = g.job_type
    left join hours as h
      on h.job_type = g.job_type and h.print = g.error_fingerprint
    left join effects as e
      on e.cause_type = g.job_type and e.cause_print = g.error_fingerprint
    where g.cause_type is null
  );
end;
$$;

comment on function public.dead_letters is
  'Failed jobs of a workspace, grouped by error, the largest group first: {groups, more}. If a job '
  'failed because its descendant failed, it is listed as a consequence of the descendant''s group. '
  'is_new: True if no attempt of the group had the error before the latest deploy of the job type.';

select queue.allow('authenticated, service_role', 'public.dead_letters');

-- Return the time of the last revocation of all worker keys if no worker has called since, or if
-- the last worker of the job type p_job_type called in the two minutes before the revocation. A
-- worker's row is updated once a minute. Return null if the revocation does not concern the key of
-- a worker of p_job_type, or of any type, that called in these two minutes or later.
create or replace function queue.revoked_for(p_job_type text default null)
returns timestamptz
language sql stable
set search_path = ''
as $$
select r.at
from to_timestamp( -- in whole seconds
  (queue.setting('worker_keys_revoked') #>> '{-1,from}')::double precision
) as r (at)
where case
  when (r.at <= queue.clock()) is not true then false -- most systems have no revocation
  when queue.last_call() > r.at + interval '1 second' then (
    select max(w.seen_at)
    from queue.workers as w
    where w.job_types is null or p_job_type = any (w.job_types)
  ) between r.at - interval '2 minutes' and r.at + interval '1 second'
  else true
end
and not exists (
  select from queue.workers as w
  where (p_job_type is null or w.job_types is null or p_job_type = any (w.job_types))
    and w.seen_at >= r.at - interval '2 minutes'
    and (w.summary ->> 'key_issued_at')::timestamptz
    >= to_timestamp((queue.setting('worker_keys_revoked') #>> '{-1,before}')::double precision)
)
$$;

-- Return the time at which the key of the last worker of the job type p_job_type, or of all types,
-- expired, if the worker called until then.
create or replace function queue.key_expired_at(p_job_type text default null)
returns timestamptz
language sql stable
set search_path = ''
as $$
select case
  when p_job_type is null then queue.key_end(w, queue.last_call(), '55 seconds')
  else queue.key_end(w, w.seen_at) -- a worker's row is updated once a minute
end
from queue.workers as w
where p_job_type is null or w.job_types is null or p_job_type = any (w.job_types)
order by w.seen_at desc
limit 1
$$;

-- Return the enabled schedules whose latest run enqueued no new job, because an earlier job, of the
-- schedule or of another caller, has the same unique key and has not started. Up to 1,000 schedules
-- are read.
-- p_workspace_id: Null to return the schedules of all workspaces.
create or replace function queue.waiting_schedules(p_workspace_id uuid)
returns table (name text, job_id uuid, since timestamptz)
language sql stable
set search_path = ''
as $$
select s.name, j.id, s.last_slot_at
from (
  select *
  from queue.schedules as o
  where o.enabled
    and o.options ? 'unique'
    and (p_workspace_id is null or o.workspace_id = p_workspace_id)
  limit 1000
) as s
join public.jobs as j on j.id = any (array[s.last_job_id])
where j.status = 'pending' and j.started_at is null and j.created_at < s.last_slot_at
$$;

-- Each row has a sentence and advice for one reason why a job or the queue makes no progress. A row
-- with the reason failed:<kind> has the advice for failed jobs whose error has this kind. The
-- column `command` omits the command's first word, `minutehand`. If `path` is null, the advice
-- links to the job's page in the console. queue.render_guidance replaces a placeholder such as
-- {job_type} by the value with this name. Square brackets contain alternative texts, separated by
-- |. queue.render_guidance keeps the first alternative for which no value is missing. A single
-- alternative is optional. Of several alternatives, one is required, and the last may be empty.
create or replace view queue.guidance as
select row_number() over () as id, a.*
from (
  -- name all columns, because a dump of the view would otherwise differ from the view
  select
    'failed:' || f.kind as reason,
    null as sentence,
    f.words,
    'retry {job_id}' as command,
    null as path
  from (
    values
      (
        'timeout',
        'The traceback shows the line where it waited. Give that call its own time limit, remove '
          'the cause of the wait, or give the type a longer `timeout`. Then retry the job.'
      ),
      ('abandoned', 'Then retry the job.'),
      (
        'lost',
        'Whether its process ended is unknown. See the log of its worker, then retry the job.'
      ),
      (
        'lost:kill',
        '[Its process had used up to {peak_mb} MB. |]The system sends SIGKILL if memory runs out, '
          'but a person, another program or its own code may have sent it. If memory ran out, give '
          'the worker more, or let the job use less. Then retry the job.'
      ),
      (
        'lost:fault',
        '{code} usually comes from a library in C. Update the library, or avoid the call. Then '
          'retry the job.'
      ),
      (
        'lost:signal',
        'Its own code, another program or the system sent {code} to its process. Correct that, '
          'then retry the job.'
      ),
      (
        'lost:blocked',
        'A call blocked the event loop until the worker ended the process. Run the call in a '
          'thread (`asyncio.to_thread`), or write the processor without `async`. A slow regular '
          'expression or other code in C can block in a thread too: run it in another process. '
          'Then retry the job.'
      ),
      (
        'lost:exit',
        'Its process ended itself ({code}), usually by a call in its code. Remove the call, then '
          'retry the job.'
      ),
      (
        'killed',
        'A program that it started was killed by {signal}. If memory ran out, give the worker '
          'more, or let the program use less.'
      ),
      (
        'variable',
        'Set the environment variable {code} for the worker: in the file of `serve --env-file`, or '
          'for `minutehand dev` and AWS by `lambda.yml` (`minutehand docs recipes`). Start the '
          'worker again, then retry the job.'
      ),
      (
        'machine',
        'Its machine or the database ran out of a resource ({code}). Free some of it.'
      ),
      (
        'memory',
        'Its process could not allocate memory. Give the worker more memory, or let the job use '
          'less. Then retry the job.'
      ),
      (
        'prepared',
        'Its connection has lost a prepared statement ({code}), as with a pooler in transaction '
          'mode. Turn prepared statements off in the driver, or connect in session mode. Then '
          'retry the job.'
      ),
      (
        'lock',
        'It waited too long for a lock of another session ({code}). `minutehand status` names '
          'sessions with a long transaction. End that session if no one needs it, or retry the job '
          'later.'
      ),
      (
        'contention',
        'It conflicted with another transaction ({code}). Retry the job. If the conflict returns, '
          'take locks in one order, and briefly.'
      ),
      (
        'schema',
        'The database lacks an object that its query or call names ({code}). Apply the migration '
          '(for Minutehand, see `minutehand doctor`), or fix the query.'
      ),
      (
        'result',
        'The result that the processor returned was rejected. Fix the code, deploy, then retry the '
          'job.'
      ),
      (
        'rejected',
        'Correct the trigger, constraint or value that caused the error, then retry the job. The '
          'doctor names a trigger that rejects all changes.'
      ),
      (
        'credentials',
        'Fix the credentials or their rights, which were rejected ({code}).'
      ),
      (
        'grant',
        'The role of its database connection lacks a right ({code}). Grant it the '
          'right, then retry the job.'
      ),
      (
        'value',
        'The database rejected a value ({code}). Fix the value, or apply the migration that allows '
          'it. Then retry the job.'
      ),
      (
        'statement',
        'The database cancelled a statement ({code}). If it took too long, make it faster or raise '
          '`statement_timeout`. Then retry the job.'
      ),
      (
        'request',
        'Fix the request that was rejected ({code}), then retry the job.'
      ),
      (
        'slow',
        'A call took longer than its time limit ({code}). Raise the limit, or fix what the call '
          'waits for. Then retry the job.'
      ),
      (
        'unavailable',
        'The connection to the other service failed. Correct what the error names, for example the '
          'address, the password, a TLS setting or a limit of connections. Then retry the job.'
      ),
      (
        'unavailable:error',
        'The other service could not serve the request ({code}). See its log or status page, then '
          'retry the job.'
      ),
      (
        'unavailable:closed',
        'The other service closed or rejected the connection ({code}). See whether it restarts, '
          'then retry the job.'
      ),
      (
        'unavailable:port',
        'Nothing accepts connections at its address ({code}). Check host and port, and whether the '
          'other service runs. Then retry the job.'
      ),
      (
        'unavailable:route',
        'Its address cannot be reached ({code}). Check the address and the network of the worker, '
          'then retry the job.'
      ),
      (
        'unavailable:name',
        'The host name in its address cannot be resolved ({code}). Check the name and the DNS '
          'server, then retry the job.'
      ),
      (
        'unavailable:certificate',
        'The certificate of the other service was rejected ({code}). Renew it, or let the worker '
          'trust its issuer. Then retry the job.'
      )
  ) as f (kind, words)
  union all -- advice for several reasons, before the other advice for one of these reasons
  select r as reason, null as sentence, s.words, s.command, s.path
  from (
    values
      (
        '{no_worker, no_processor, not_leased, next_in_line, behind_others, long_line, suspect,
          rate_limited, due, passed_over, running, cancelling, lease_expired, worker_died}'::text[],
        '[All worker keys were revoked at {revoked_at}|The key of worker {worker_id} was revoked '
          'at {key_revoked_at}]. Set `SUPABASE_WORKER_KEY` of the workers to a new key:',
        'token worker',
        '/overview'
      ),
      (
        '{no_worker, no_processor, running, lease_expired, silent_worker}',
        'Set `SUPABASE_WORKER_KEY` of the workers to a key that is valid after {key_expired_at}:',
        'token worker',
        '/overview'
      ),
      (
        '{key_limit, workspace_type_limit, workspace_limit, type_limit, rate_limited, no_slot}',
        'If it must not wait for jobs with a smaller priority ({smaller}), enqueue it again with a '
          'smaller priority.',
        null,
        null
      ),
      (
        '{key_limit, workspace_type_limit, workspace_limit, type_limit, no_slot}',
        '[Job {parent} is its parent. If the parent waits for it without `ctx.gather` or '
          '`ctx.map`, neither ends: cancel the parent, and fix its code.|Wait for job {holder}. '
          'See whether it still works:]',
        'explain {holder}',
        '/jobs/{holder}'
      ),
      (
        '{lease_expired, worker_died}',
        'Nothing to do until {patience_until}, if a worker runs: its maintenance reclaims the job '
          'before then. See what happened to its worker:',
        'show {job_id}',
        null
      ),
      (
        '{recursion, recursive_type}',
        'If {recursions} generations are too many, pause the type, cancel its jobs, and correct '
          'the code.',
        'pause --type {job_type}',
        '/types/{job_type}'
      ),
      (
        '{locked, open_transaction, blocking_session}',
        '[Check whether these triggers of the table of jobs take long: {triggers}.|End that '
          'session if no one needs it: `select pg_terminate_backend({pid})`.]',
        null,
        '/overview'
      ),
      (
        '{full_workspace, full_of_bytes}',
        'Wait until jobs have ended, or cancel those that are not needed.',
        'ls',
        '/jobs'
      ),
      (
        '{disk_filling, disk_nearly_full}',
        'Enlarge the disk and set its new size (`set_settings`, `disk_bytes`), or delete data, for '
          'example by keeping ended jobs for fewer days (`retention_days`).',
        null,
        '/overview'
      ),
      (
        '{service_full, service_locked, wrong_clock, late_events, workers_lack_right}',
        'Notify the operator of the service.',
        null,
        '/overview'
      )
  ) as s (reasons, words, command, path)
  cross join unnest(s.reasons) as r
  union all
  values
    (
      'cancelled:start_by',
      null,
      'Retry the job when that reason has gone. A retried job has no latest start time.',
      'retry {job_id}',
      null
    ),
    (
      'failed',
      'It failed at {finished_at}, because it had not started by its deadline, {deadline_at}. The '
        'reason at that time: {waited}',
      null,
      null,
      null
    ),
    (
      'failed',
      'It failed at {finished_at}[ after {used} of {max_attempts} attempts]: {error_line}',
      'Correct [the code, a setting or the data at {place}|what the error names], then retry the '
        'job. Finished steps are kept.',
      'retry {job_id}',
      null
    ),
    (
      'failed:child',
      null,
      'Follow the advice of {cause_type}, the first descendant that failed, and retry it. Then '
        'retry this job.',
      'show {child}',
      '/jobs/{child}'
    ),
    (
      'failed:deadline',
      null,
      'Enqueue a copy[ when that reason has gone{was_held}]. A copy has no deadline.',
      'replay {job_id}',
      null
    ),
    (
      'failed:payload',
      null,
      'Its payload has version {version}, and the type has version {type_version}. Write the '
        'upcaster between them, deploy, then retry the job.',
      'retry {job_id}',
      '/types/{job_type}'
    ),
    (
      'failed:payload',
      null,
      '[Worker {old_worker}, which rejected it, still runs {old_version} beside the newest '
        'version. Stop that worker, then retry the job.|Retry the job with a payload that fits the '
        'type, or give new fields of the type a default. If the worker is older than the payload, '
        'deploy the worker.]',
      'retry {job_id} --payload @payload.json',
      null
    ),
    (
      'failed:rate',
      null,
      'If a quota of the other service is used up, raise it there. If the calls come too fast, set '
        'a lower `rate_limit` of the type. Then retry the job.',
      'retry {job_id}',
      '/types/{job_type}'
    ),
    (
      'refused',
      'The database cannot change the job''s row. The change is retried at {retry_at}.',
      '[Restore the missing object{is_missing}. The doctor has the statement if it is part of '
        'Minutehand|Fix the trigger or constraint that rejects the change], then wait.',
      '[doctor{is_missing}|explain {job_id}]',
      null
    ),
    (
      'passed_over',
      'It has been due since {run_at}, but maintenance [has not run since {maintained_at}|has '
        'skipped it].',
      'See why maintenance does not run, or skips the job.',
      'doctor',
      '/overview'
    ),
    (
      'cancelling',
      'It was asked to stop at {cancel_requested_at}[ {cancelled_by}]. Worker {worker_id} gets the '
        'request with its next report.',
      'Nothing to do until {expires_at}. It ends by then.',
      'watch {job_id}',
      null
    ),
    (
      'running',
      '[Silent for {silent}, since {sign}|Last known update {age} ago ({last})|Last known update '
        '{age} ago|Worker {worker_id} has been running it since {leased_at}][, {seen}].[ 99 % of '
        'the jobs of its type take {usual} or less.][ The last known call of its worker was at '
        '{missed_since}.| The worker has not renewed its lease since {late_since}.|][ The key of '
        'the worker expired at {key_expired_at}.| The key of the worker was revoked at '
        '{key_revoked_at}.|][ {death}. It runs with {beside} of them and '
        'nothing else.| {death}. It runs alone.|][ An earlier process of it was ended by '
        '{killer}.][ The role job_worker may '
        'not execute {not_granted}, so its outcome is not stored.| Its worker lacks {a_right}, so '
        'its outcome is not stored.|][ One call of its processor runs it and {batched}.| It waits '
        'for {next_call}.|][ Its database session (pid {pid}) waits for a lock of the session with '
        'pid {blocker}.][ Session {own_blocker} belongs to the same job.][ The process has grown '
        'by {grown_mb} MB.]',
      '[Grant the right: `grant execute on function {not_granted}(jsonb) to job_worker`.|Notify '
        'the operator of the service, because the worker lacks {a_right}.|In code, commit that '
        'session before the call at {place}. To end this attempt: `select '
        'pg_terminate_backend({own_blocker})`.|Commit or end that session: `select '
        'pg_terminate_backend({blocker})`.|Nothing to do until {expires_at}. The job runs again '
        'when a worker has a key that was issued after {key_revoked_at}.|If the process of the '
        'worker has hung since {missed_since}, end it. The job then runs again at the latest after '
        '{expires_at}.|If a job of this worker blocked its event loop after {late_since}, run that '
        'call with `asyncio.to_thread`.|If that is too long, cancel and retry it, which keeps its '
        'finished steps. Then give that call a time limit, or the type a `timeout` below '
        '{shorter}.|If {silent} is too long, cancel and retry it, which keeps its finished steps. '
        'Then give the call at {place} a time limit.|If {usual} should suffice, check its log and '
        'the code at {place}.|Nothing to do.]',
      'watch {job_id}',
      '/types/{job_type}'
    ),
    ('outlook', 'If it still runs at {times_out_at}, {after}.', null, null, null),
    (
      'running',
      null,
      'If the growth by {grown_mb} MB is too much, see which of the jobs of worker {worker_id} '
        'keeps objects. This job is at {place}.',
      'ls --state running',
      '/jobs?state=running'
    ),
    (
      'stopped',
      'Workers that ran it were stopped {stops} before it ended, usually by SIGTERM, the last at '
        '{last_at}.',
      'See what stops the workers, for example a deploy or a health check.',
      'workers',
      '/types/{job_type}'
    ),
    (
      'stopped_jobs',
      'Jobs whose workers were stopped again and again before they ended, usually by SIGTERM: at '
        'least {jobs}, the first stop at {since}.',
      'See what stops the workers, for example a deploy or a health check. One of the jobs:',
      'explain {job_id}',
      null
    ),
    (
      'abandoned',
      'Its processor has not reacted to the stop, and still runs, abandoned, in worker {worker_id} '
        'at {place}.',
      'Restart worker {worker_id} to end it. In code, [give the call at {thread_place} a time '
        'limit, because its thread can stop only when the call returns|do not catch the stop '
        '(`asyncio.CancelledError`), or give the call at {place} a time limit].',
      'workers',
      '/types/{job_type}'
    ),
    (
      'sleeping',
      'It sleeps until {until}.',
      'Nothing to do until [{early_deadline}. It fails then|{until}. It continues then].',
      'watch {job_id}',
      null
    ),
    (
      'asking',
      'It waits for an answer to: {question}',
      'Answer it.',
      'answer {job_id} ANSWER',
      null
    ),
    (
      'waiting_for_event',
      'It waits for the event {event}.[ An event with the similar name {nearest} was emitted.]',
      'Emit {event}: '
        '`select public.emit_event(…)`, or POST /api/events.',
      'docs sql',
      null
    ),
    (
      'waiting_for_children',
      'It waits for its children.[ The first that has not ended is {holder_type} {holder} '
        '({holder_state}).]',
      'See why this child has not ended.',
      'explain {holder}',
      '/jobs/{holder}'
    ),
    (
      'due',
      'It has been due since {run_at} and joins the queue with the next maintenance.',
      'Nothing to do until {patience_until}. After that:',
      'doctor --only schedule',
      '/overview'
    ),
    (
      'scheduled',
      'It is scheduled for {run_at}.[ It was created at {created_at}, and an enqueue with '
        'its unique key last changed it at {changed_at}.]',
      '[Run it now, or it fails at {early_deadline}.|If enqueues with its key {changed_key} '
        'postpone it too often, send fewer of them, or run it now.|Run it now.]',
      'retry {job_id}',
      null
    ),
    (
      'snoozed',
      'Its processor snoozed it until {run_at}[, {times} since {first_at}].',
      '[If {times} is too often, check the condition on which its code returns `Snooze`. Otherwise '
        'run it now.|Run it now.]',
      'retry {job_id}',
      null
    ),
    (
      'backing_off',
      'Attempt {attempts} of {max_attempts} failed ({error_line}). It is retried at {run_at}.',
      'Run it now, if the cause is gone.',
      'retry {job_id}',
      null
    ),
    (
      'job_type_paused',
      'The job type {job_type} has been paused since {paused_at}.',
      'An operator can resume the type.',
      'resume --type {job_type}',
      '/types/{job_type}'
    ),
    (
      'queue_paused',
      'The queue {queue} has been paused since {paused_at}.',
      'An operator can resume the queue.',
      'resume --queue {queue}',
      '/types'
    ),
    (
      'workspace_paused',
      'The workspace[ {which}] has been paused since {paused_at}.',
      'A manager of the workspace can resume it.',
      'resume --all[ --workspace {which}]',
      '/overview'
    ),
    (
      'workspace_type_paused',
      'The job type {job_type} has been paused in the workspace since '
        '{paused_at}.',
      'A manager of the workspace can resume the type.',
      'resume --type {job_type}',
      '/types/{job_type}'
    ),
    (
      'no_worker',
      'No worker has run[ since {since}], so nothing starts.[ The key of the last worker expired '
        'at {key_expired_at}.]',
      'Start one with `minutehand dev` or `minutehand serve`. On AWS, check the schedule. If a '
        'worker was rejected, its log has the reason.',
      'doctor --only schedule',
      '/overview'
    ),
    (
      'late_worker',
      'The workers that serve it began their runs at {started_at} or later, and it had to start by '
        '{must_start_by}.',
      'If no worker ran before, see why.',
      'workers',
      '/types'
    ),
    (
      'no_processor',
      'It waits for a worker that serves the job type {unpublished}.',
      'Fix this in code or settings, and deploy: {refusal}',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'no_processor',
      'No worker serves {types}: {count} {wait} since {since}.[ Did you mean {nearest}?]',
      'If the name is misspelt, enqueue again as {nearest}, the nearest name that a worker has, '
        'and cancel what has the wrong name.',
      'cancel {job_id}',
      null
    ),
    (
      'no_processor',
      'No running worker serves the job type {job_type} in the queue {queue}.[ Worker '
        '{last_worker}{process_end} served it, and was last seen at {last_seen}.][ The key of '
        'its last worker expired at {key_expired_at}.]',
      '[Workers that have {job_type} serve only other queues. Start one with `minutehand serve '
        '--queue {not_served}`, or for all queues.|If a deploy removed {once_served}, deploy '
        'it again. Otherwise start its worker again.|Deploy a worker that has {job_type}. '
        'If one is deployed, check whether its code loads.]',
      '[types {once_served}|doctor --only processors]',
      '[/jobs?state=queued&job_type={only_type}|/types]'
    ),
    (
      'key_limit',
      'The concurrency limit of its key {own_key} is used up: {running} of {limit}[, held by job '
        '{holder} ({holder_state})].',
      'If more may run at a time, raise `key_concurrency` of {own_type} in code, and deploy.',
      null,
      '/types/{job_type}'
    ),
    (
      'internal_key',
      'Jobs of {job_type}, which the platform itself enqueues, wait for an earlier job of the same '
        'receiver.',
      'See why the earlier jobs have not ended.',
      'ls --type {job_type} --search {receiver}',
      '/jobs?job_type={job_type}&search={receiver}'
    ),
    (
      'internal_limit',
      'Jobs of {job_type}, which the platform itself enqueues, wait for running ones to end.',
      'See which of them run, and why they take long.',
      'ls --type {listed_type} --state running',
      '/jobs?job_type={listed_type}&state=running'
    ),
    (
      'workspace_type_limit',
      'The concurrency limit of its type in the workspace is used up: {running} of {limit} run[, '
        'the longest is job {holder}, since {held_since}].',
      'If more may run at a time, raise `workspace_concurrency` in code, and deploy.',
      'ls --state running --type {job_type}',
      '/jobs?state=running&job_type={job_type}'
    ),
    (
      'workspace_limit',
      'The concurrency limit of the workspace is used up: {running} of {limit} run[, the longest '
        'is {holder_type} {holder}, since {held_since}].',
      'If more may run at a time, raise the lower of `max_running` (operators) and '
        '`own_max_running` (managers).',
      'ls --state running',
      '/jobs?state=running'
    ),
    (
      'type_limit',
      'The concurrency limit of its type is used up[ by {others}]: {running} of {limit} run[, the '
        'longest is job {holder}, since {held_since}].',
      'If more may run at a time, raise `max_concurrency` in code, and deploy.',
      'ls --state running --type {listed_type}',
      '/jobs?state=running&job_type={listed_type}'
    ),
    (
      'rate_limited',
      'The rate limit of {limit} starts per {per_seconds} s is used up. It can start at '
        '{estimated_start_at} at the earliest.',
      'Nothing to do until {estimated_start_at} if this rate is intended. Otherwise raise it in '
        'code, and deploy.',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'suspect',
      '{death}[, ended by {killer}]. It runs [next, with {beside} of them and nothing else|alone '
        'next].',
      'Nothing to do until {patience_until}. A worker that runs no jobs starts it. After that:',
      'doctor',
      '/overview'
    ),
    (
      'suspect',
      null,
      'It has been ready since {late_since}. Start another worker if all workers of its type run '
        'other jobs.',
      'doctor',
      '/overview'
    ),
    (
      'next_in_line',
      'It is the next job of its workspace, and starts when [a worker that serves it runs again. '
        'The last run ended at {ended_at}|one of {slots} slots is free. All are in use by jobs of '
        '{used_by}|a worker with a free slot leases jobs].[ The last call of such a worker was at '
        '{silent_since}.]',
      'Nothing to do until {patience_until}. After that:',
      'doctor',
      '/overview'
    ),
    (
      'no_slot',
      'Jobs of {used_by} use all {slots} slots of the workers that serve it, and none has become '
        'free since {full_since}.[ The longest is {holder_type} {holder}, since {held_since}.]',
      'If they still work, start another worker, or give the workers more slots: '
        '`WORKER_THREADS` for functions without `async`, otherwise `WORKER_CONCURRENCY`.',
      'doctor',
      '/overview'
    ),
    (
      'not_leased',
      'It has been ready since {ready_at}. [The role {without_right} lacks a right '
        '(`{lacked}`), so workers with this role lease nothing|Workers lack {a_right}, so '
        'they lease nothing|The workers that serve it '
        'use {running} of {slots} slots, but have leased nothing since {leased_at}|The workers '
        'that serve it have leased nothing since {leased_at}|No worker that serves it runs{yet}|'
        'Workers that serve it have not leased it].[ They were last seen at {seen_at}.]',
      '[Grant the right: `grant {lacked} to {without_right}`.|Notify the operator of the service, '
        'because workers lack {a_right}.|Nothing to do if a worker that serves it is starting{yet}.'
        ' Otherwise start one.|If they have hung since {silent_since}, end their processes. '
        'Otherwise check their rights and logs.|Check their rights and logs.]',
      'doctor',
      '/overview'
    ),
    (
      'behind_others',
      'Jobs of {job_type} in its workspace that are ahead of it: [{at_least} or more|{ahead}][, '
        '{smaller} of them because their priority is smaller].[ All {slots} slots are in use by '
        'jobs of {used_by}.][ No worker that serves it runs. The last run ended at {ended_at}.][ '
        'The last call of such a worker was at {silent_since}.]',
      '[If it must start by {must_start_by}, start another worker, or enqueue it with a smaller '
        'priority.|Nothing to do until {patience_until}. A worker starts it after them. A smaller '
        'priority goes first.]',
      'ls --state queued --type {job_type}',
      '/jobs?state=queued&job_type={job_type}'
    ),
    (
      'unplaced',
      'It is in no table of waiting jobs, so no worker finds it.',
      'Notify the operator of the service, or repair it:',
      'doctor',
      '/overview'
    ),
    (
      'long_line',
      'It has been ready since {ready_at}, with {ahead} jobs of its workspace ahead of it.[ All '
        '{slots} slots are in use by jobs of {used_by}.]',
      'If all slots are in use, start another worker, or give the workers more slots.',
      'status',
      '/overview'
    ),
    (
      'read_only',
      'The database rejects writes, because default_transaction_read_only is on. Supabase sets it '
        'when the plan''s disk is full.',
      'Free the disk in one session of the '
        'SQL editor: `set default_transaction_read_only = off`; `select '
        'public.set_settings(''{"retention_days": {"completed": 7, "cancelled": 7, '
        '"failed": 7}}'')`; `select public.run_maintenance(''{"budget_ms": 5000}'')` while it has '
        'more; `vacuum full queue.job_events, public.job_logs, public.jobs`.',
      null,
      '/overview'
    ),
    (
      'overdue',
      'A job has been due since {since}.[ Jobs of {used_by} use all slots of the workers that '
        'serve it.| No limit holds it.]',
      'See why it waits.',
      'explain {job_id}',
      null
    ),
    (
      'refused_type',
      'A worker cannot use its code of {types}.',
      'Fix its code or settings, and deploy.',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'late_schedule',
      'The schedule {schedule} {problem}.',
      'Check the schedule and its type.',
      null,
      '/schedules'
    ),
    (
      'unserved_schedule',
      'The schedule {schedule} enqueues jobs of {job_type}, but no worker serves that type.',
      'If the name is misspelt, change it to {nearest}, the nearest name that a worker has.',
      null,
      '/schedules'
    ),
    (
      'unserved_schedule',
      null,
      'Deploy a worker that has {job_type}, or turn the schedule off.',
      'types',
      '/schedules'
    ),
    (
      'waiting_schedule',
      'The run of the schedule {schedule} at {since} enqueued no new job, because job {job_id} has '
        'the same unique key and has not started.',
      'See why that job waits.',
      'explain {job_id}',
      null
    ),
    (
      'full_workspace',
      'The workspace[ {which}] has at least {jobs} live jobs, and its limit is {limit}. Enqueues '
        'by people are rejected.',
      'Or let an operator raise the limit: `select '
        'public.set_workspace_limits(''{workspace_id}'', ''{"max_pending": {more}}'')`.',
      null,
      '/overview'
    ),
    (
      'full_of_bytes',
      'The live jobs of the workspace[ {which}] store {live}, and the limit is {limit}. Enqueues '
        'by people with payloads above 2 kB are rejected.',
      'Or let an operator raise the limit: `select '
        'public.set_settings(''{"user_pending_bytes_max": {more}}'')`.',
      null,
      '/overview'
    ),
    (
      'full_of_schedules',
      'The workspace has {limit} schedules, so new schedules are rejected.',
      'Delete some. Or let an operator raise the limit: `select '
        'public.set_settings(''{"schedules_max": {more}}'')`.',
      'schedules',
      '/schedules'
    ),
    (
      'rate_used_up',
      'People who used up their limit of {per_second} changes per second in the last minute: '
        '{people}. Calls above this rate are rejected with the code rate_limited.',
      'Enqueue more slowly, or as the service. Or let an operator raise the limit: `select '
        'public.set_settings(''{"user_enqueues_per_second": {more}}'')`.',
      null,
      '/overview'
    ),
    (
      'no_retention',
      'Jobs are deleted within minutes of their end ({states}), because their `retention_days` are '
        '0.',
      'To keep them, let an operator raise the setting, for example to: `select '
        'public.set_settings(''{"retention_days": {longer}}'')`.',
      null,
      '/overview'
    ),
    (
      'unanswered',
      'Jobs that have waited for an answer for more than a day: {jobs}, the first since {since}.',
      'Answer the first question.',
      'answer {job_id} ANSWER',
      null
    ),
    (
      'failing_maintenance',
      'Maintenance fails.',
      'Fix the cause. Maintenance is retried within an hour. The doctor finds a damaged engine:',
      'doctor --only engine',
      '/overview'
    ),
    (
      'missing_right',
      'Workers with the role job_worker lack a right (`{right}`).',
      'Grant the right: `grant {right} to job_worker`.',
      null,
      '/overview'
    ),
    (
      'two_codes',
      'Workers run different versions of the code: {codes}[; {newest} is of the newest deploy].',
      'Stop the workers of the older version, unless they are about to end. The newer deploy sets '
        'the options of a type.',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'clock_skew',
      'The clock of worker {worker_id} is [{ahead} s ahead of|{behind} s behind] the database''s '
        'clock.',
      'Set the clock of its machine: `timedatectl set-ntp true`. Requests fail if their token '
        'seems to be expired.',
      null,
      '/overview'
    ),
    (
      'ends_process',
      'The last {ended} jobs of {job_type} ended their process[, with the code of commit '
        '{commit}].',
      'An operator can pause the type until its code is fixed. Jobs that wait: {jobs}.',
      'pause --type {job_type}',
      '/types/{job_type}'
    ),
    (
      'no_success',
      'No job of {job_type} has completed in the last hour, but attempts have failed or been '
        'snoozed: {attempts}.',
      'See why they fail or wait.',
      'ls --type {job_type}',
      '/jobs?job_type={job_type}'
    ),
    (
      'silent_jobs',
      '{count} of [{many} are silent, the longest|{job_type} has been silent] since {since}.',
      '[The first was last seen {seen}. ]Open job {job_id}. If it hangs, cancel and retry it: '
        'finished steps are not run again. Then give the call that hangs a time limit. Jobs of '
        '{job_type} count as silent {limit} after their last update.',
      'explain {job_id}',
      '[/jobs?state=attention&job_type={many}|/jobs/{job_id}]'
    ),
    (
      'retrying_jobs',
      '{count} of {job_type} are retrying: {error}.',
      'Fix what the error names.[ The next attempt is due at {next_at}.]',
      'retry {job_id}',
      '/jobs?state=retrying&job_type={job_type}'
    ),
    (
      'silent_worker',
      'The last known call of worker {worker_id} was at {since}, and it has not renewed its leases '
        'in time.[ Its key expired at {key_expired_at}.] Jobs that it runs: {jobs}.',
      'See its log. If its process hangs, end it. Its jobs then run again at the latest after '
        '{expires_at}.',
      'workers',
      '/types'
    ),
    (
      'suspects_wait',
      'Jobs whose worker was lost wait for a worker that runs nothing else: {jobs}, the first '
        'since {since}.',
      'Start another worker if all workers of these job types run other jobs.',
      'explain {job_id}',
      null
    )
  union all
  select s.reason, s.sentence, null as words, null as command, null as path
  from (
    values
      ('completed', 'It completed at {finished_at}.'),
      (
        'cancelled',
        'It was cancelled at {finished_at}[, because it had not started by {start_by_at}.| by its '
          'processor: {cancelled_for}| {cancelled_by}.|.][ The reason at that time: {waited}]'
      ),
      (
        'recursion',
        'Of its {levels} nearest ancestors, {recursions} are jobs of {job_type} too.'
      ),
      (
        'recursive_type',
        'Job {job_id} has {recursions} or more ancestors of its own type, {job_type}.'
      ),
      (
        'ahead',
        'Jobs of {job_type} in its workspace that are ahead of it: [{at_least} or more|{ahead}][, '
          '{smaller} of them because their priority is smaller].'
      ),
      ('deadline', 'It fails if it has not ended at {early_deadline}.'),
      (
        'start_by',
        'It will be cancelled if it has not started by {start_by_at}[, which {ahead} jobs ahead of '
          'it may prevent].'
      ),
      ('worker_lost', 'Its process ended {ended_times} while it ran[ {alone}].'),
      (
        'worker_lost',
        'Its lease expired {lost_times} while its worker ran nothing else.'
      ),
      (
        'lease_expired',
        'The last known call of its worker {worker_id} was at {called_at}, and the lease expired '
          'at {expires_at}.[ The key of the worker expired at {key_expired_at}.| The key of the '
          'worker was revoked at {key_revoked_at}.|]'
      ),
      (
        'worker_died',
        'The process of its worker {worker_id} ended at {ended_at}. The job is being reclaimed.'
      ),
      ('suspect', 'It runs alone next, in a process of its own.'),
      (
        'locked',
        'A session (pid {pid}) has locked its row in an open transaction since {held_since}, so it '
          'can neither start nor end.[ {work}.]'
      ),
      (
        'open_transaction',
        'A session with an open transaction delays statistics, messages to other services and '
          'maintenance.[ {work}.]'
      ),
      (
        'late_events',
        'Statistics and messages to other services do not yet include events after {since}.'
      ),
      (
        'blocking_session',
        '[A transaction that began at {since} has locked the table {locked}, so no job can be '
          'added or changed|Sessions that wait for a lock of one session: {waiting}. Its '
          'transaction began at {began_at}|Sessions that wait for a lock of one session: '
          '{waiting}, the first since {since}].[ {work}.]'
      ),
      (
        'disk_filling',
        'The disk is {percent} % full.'
      ),
      (
        'disk_nearly_full',
        'The disk is {percent} % full. Supabase makes the database read-only at 95 %.'
      ),
      (
        'service_full',
        'The disk of the service is nearly full. When it is full, new jobs are rejected.'
      ),
      (
        'service_locked',
        'The table of jobs has been locked since {since}, so no job can be added or changed.'
      ),
      (
        'workers_lack_right',
        'Workers lack a right in the database that they need to run jobs.'
      ),
      (
        'wrong_clock',
        'The clock of worker {worker_id} is wrong, so requests of its jobs may fail.'
      )
  ) as s (reason, sentence)
) as a (reason, sentence, words, command, path);

-- A job in queue.suspects must run alone or in a small group, because its worker's process died.
-- For a job in queue.suspects, return the values that replace placeholders in texts of
-- queue.guidance. Return null for jobs that are not in queue.suspects.
-- death: How the worker's process died, and how many other jobs ran in the process, as text.
-- beside: Number of other suspects in the job's group, which all run in one process. Null if the
--   job is the only suspect of its group.
create or replace function queue.suspicion_of(p_job public.jobs)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object(
  'suspect_since', greatest(s.since, p_job.updated_at, p_job.next_retry_at),
  'death', case p_job.error_data ->> 'reason'
    when 'process_died' then case
      when p_job.error_data ? 'evidence'
        then 'Its process died' || queue.process_end(p_job.error_data -> 'evidence') || ' with '
      else 'Its lease expired while its worker ran ' -- the process may still be alive
    end || queue.other_jobs((p_job.error_data ->> 'company')::integer)
  end,
  'beside', (
    select nullif(count(*), 0)
    from queue.suspects as o
    where o.company = s.company and o.job_id <> s.job_id
  )
)
from queue.suspects as s
where s.job_id = p_job.id
$$;

-- Return the number of a finding's jobs as text, the verb of a sentence in which they wait, and the
-- type of several jobs.
create or replace function queue.number_of(p_data jsonb)
returns jsonb
language sql immutable
set search_path = ''
as $$
select case
  when p_data @> '{"jobs": 1}' then '{"count": "1 job", "wait": "has waited"}'
  else jsonb_build_object(
    'count', (p_data ->> 'jobs') || ' jobs',
    'wait', 'wait, the oldest',
    'many', p_data -> 'job_type'
  )
end
$$;

-- Return the running step and the line of code of a job as text. Return null if both are null.
create or replace function queue.seen_in(p_step text, p_place text)
returns text
language sql immutable
set search_path = ''
as $$
select nullif(concat_ws(' ', 'in its step ' || p_step, 'at ' || p_place), '')
$$;

-- Return an object that describes a running job: its timeout, and its last update, such as a log
-- line or a finished step. If the worker has reported no update of the job, the object contains
-- lease_until, the time at which the lease expires.
-- late_since: Time of the lease's last renewal, if the next one is late. Otherwise null.
-- seen: The running step and the line of code, as text.
-- sign, last: Kind of the job's last update as text, for example 'its last log line', 'log line'.
-- age: Time since the last update of the job, as text.
-- silent: The age. Null for less than 20 seconds, because workers report updates of jobs only every
--   15 seconds.
-- shorter: The timeout of a job that is silent at a line of code, unless the timeout has already
--   started again. It starts again for each call of a split batch, and once after another job has
--   blocked the event loop.
-- times_out_at, after: Time at which the timeout or the deadline stops the job's call, and what
--   follows, as text. Null if this time is unknown.
-- blocker: Database session that holds a lock for which the session of the silent job waits.
-- own_blocker: The same session, if the job's own code has opened it.
-- grown_mb: Growth of the memory of the job's process since the job's first pulse, in megabytes.
--   Null for less than 128 MB.
-- usual: Duration that 99 % of the jobs of the type do not exceed, as text. Null while the job has
--   run for less than this duration, or for less than a minute.
create or replace function queue.pulse_of(p_job public.jobs, p_now timestamptz)
returns jsonb
language plpgsql stable
set search_path = ''
as $$ -- plpgsql, because queue.usual_ms is created later
declare
  v_timeout constant double precision := coalesce(p_job.timeout_seconds, (
    select t.timeout_seconds
    from queue.job_types as t
    where t.job_type = p_job.job_type
  ));
begin
  return (
    select jsonb_build_object(
      'timeout', queue.length_in_words(1000 * v_timeout),
      'late_since', s.late_since,
      'renewed_at', l.expires_at - make_interval(secs => l.lease_seconds)
    ) || case
      when l.pulse is null then jsonb_build_object('lease_until', l.expires_at)
      else l.pulse - '{since,own_pids}'::text[] || jsonb_build_object(
        'silent_since', s.since,
        'step', l.step,
        'seen', case when p.is_silent and s.late_since is null then '' else 'last seen ' end
          || queue.seen_in(l.step, l.pulse ->> 'place'),
        'batched', queue.other_jobs(nullif((l.pulse ->> 'batched')::integer, 0)),
        'next_call', case
          when l.pulse ->> 'batched' = '0' then 'the next call of its batch, which was split'
        end,
        'last', case u.last
          when 'log' then 'log line'
          when 'step' then 'end of a step'
          else u.last
        end,
        'sign', case u.last
          when 'start' then case
            when t.has_restarted then 'its timeout started again'
            else 'its start'
          end
          when 'log' then 'its last log line'
          when 'step' then 'the end of its last step'
          else 'its last ' || coalesce(u.last, 'update')
        end,
        'age', queue.length_in_words(p.ms),
        'silent', case when p.is_silent then queue.length_in_words(p.ms) end,
        'shorter', case
          when p.is_silent and not t.has_restarted and l.pulse ->> 'place' <> ''
            then queue.length_in_words(1000 * v_timeout)
        end,
        'times_out_at', case when s.late_since is null and t.at > p_now then t.at end,
        'after', case
          when p_job.deadline_at < t.at + interval '1 second'
            then 'it fails, because its deadline has passed'
          when (l.pulse ->> 'batched')::integer > 0
            then 'its call is stopped, and its batch is run again in halves'
          when p_job.attempts >= p_job.max_attempts then 'it times out and fails'
          else 'it times out' || case
            when p_job.deadline_at is null
              then format(', then attempt %s of %s follows', p_job.attempts + 1, p_job.max_attempts)
            else ''
          end
        end,
        'blocker', b.pid,
        'own_blocker', case when l.pulse -> 'own_pids' @> to_jsonb(b.pid) then b.pid end,
        'grown_mb', case when m.grown >= 128 then m.grown end,
        'usual', (
          select queue.length_in_words(u.ms)
          from queue.usual_ms(p_job.workspace_id, p_job.job_type, p_now) as u (ms)
          where extract(epoch from p_now - l.leased_at) * 1000 > greatest(60000, u.ms)
        )
      )
    end
    from queue.leases as l
    cross join lateral (
      values (
        (l.pulse ->> 'times_out_at')::timestamptz,
        coalesce(
          (l.pulse ->> 'times_out_at')::timestamptz - make_interval(secs => v_timeout)
            > l.leased_at + interval '10 seconds',
          false
        )
      )
    ) as t (at, has_restarted)
    cross join lateral (
      values (
        greatest(
          (l.pulse ->> 'since')::timestamptz,
          p_job.updated_at,
          case
            when t.has_restarted and l.pulse ->> 'last' = 'start'
              then t.at - make_interval(secs => v_timeout)
          end
        ),
        (l.pulse ->> 'pid')::integer,
        case -- a worker renews a lease after a fifth of its duration
          when p_now between
              l.expires_at + make_interval(secs => 10 - 0.75 * l.lease_seconds) and l.expires_at
            then l.expires_at - make_interval(secs => l.lease_seconds)
        end
      )
    ) as s (since, pid, late_since)
    cross join lateral (
      select a.ms, a.ms >= 20000 as is_silent
      from (
        values (greatest(0, extract(epoch from p_now - s.since) * 1000)::double precision)
      ) as a (ms)
    ) as p
    cross join lateral ( -- an update after the pulse has an event
      select case
        when p_job.updated_at
            < greatest((l.pulse ->> 'since')::timestamptz, l.leased_at) + interval '2 seconds'
          then l.pulse ->> 'last'
        else (
          select substring(e.type from '^job\.(log|progress)$')
          from queue.job_events as e
          where e.job_id = p_job.id
            and e.seq = p_job.last_seq
            and e.created_at = p_job.updated_at
        )
      end as last
    ) as u
    cross join lateral (
      values (case when p.is_silent then nullif(queue.last_blocker(s.pid), s.pid) end)
    ) as b (pid)
    cross join lateral (
      values ((l.pulse ->> 'memory_mb')::integer - (l.pulse ->> 'first_mb')::integer)
    ) as m (grown)
    where l.job_id = p_job.id
  );
end;
$$;

-- Return the right that the role job_worker lacks to call a function, as in a statement `grant`.
-- Return null if the role may call the function, or does not exist.
create or replace function queue.lacked_right(p_function regproc)
returns text
language sql stable
set search_path = ''
as $$
select case
  when not has_schema_privilege(r.role, f.pronamespace, 'usage')
    then 'usage on schema ' || f.pronamespace::regnamespace
  when not has_function_privilege(r.role, f.oid, 'execute')
    then 'execute on function ' || f.oid::regprocedure
end
from (values (to_regrole('job_worker'))) as r (role)
join pg_catalog.pg_proc as f on f.oid = p_function
$$;

-- Return the reason why a job has not started. A job cannot start if for example it has ended,
-- runs, waits or is delayed, if a trigger of the project rejects a change of its row, if its type
-- is paused, or if no worker serves its type. For a job that may start, queue.explain_ready returns
-- the reason.
create or replace function queue.explain_row(
  p_job public.jobs,
  p_alive queue.workers[],
  p_now timestamptz
)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_data constant jsonb := jsonb_build_object(
    'attempts', p_job.attempts,
    'max_attempts', p_job.max_attempts
  );
  -- a due job counts as late if maintenance has not made it ready within 90 seconds
  c_patience constant interval := interval '90 seconds';
  v_late constant text := case
    when p_alive = '{}' then 'no_worker'
    else 'passed_over'
  end;
  v_wait jsonb;
  v_early_deadline timestamptz; -- null unless the deadline precedes the next run
  v_postponed jsonb; -- null if no later enqueue has changed the job's time
  v_refusal text;
  v_found record;
begin
  if p_job.finished_at is not null then
    return jsonb_build_object('reason', p_job.status, 'data', v_data);
  end if;
  select * into v_found
  from queue.refusals as r
  where r.job_id = p_job.id
  order by r.retry_at desc
  limit 1;
  if found then
    return jsonb_build_object(
      'reason', 'refused',
      'since', v_found.refused_at,
      'cause', v_found.failure,
      'data', to_jsonb(v_found) - '{job_id,workspace_id,failure,refused_at}'::text[]
        || jsonb_build_object('is_missing', case
          -- an undefined function, table, column, object or schema
          when v_found.failure ~ '[(](42883|42P01|42703|42704|3F000)[)]$' then ''
        end)
    );
  elsif p_job.status = 'processing' then
    select
      w.worker_id,
      l.leased_at,
      l.expires_at,
      case when w.evidence is not null then w.ended_at end as ended_at,
      case
        when l.expires_at > p_now and w.evidence is null and w.worker not in (
          select a.worker
          from unnest(p_alive) as a
        )
          then c.at
      end as missed_since,
      c.at as called_at,
      queue.key_end(w, c.at) as key_expired_at,
      (
        select max(r.at)
        from jsonb_array_elements(queue.setting('worker_keys_revoked')) as e (revocation)
        cross join lateral (
          values (
            to_timestamp((e.revocation ->> 'from')::double precision), -- in whole seconds
            to_timestamp((e.revocation ->> 'before')::double precision)
          )
        ) as r (at, issued_before)
        where r.at <= p_now
          and (w.summary ->> 'key_issued_at')::timestamptz < r.issued_before
          and c.at between r.at - interval '2 minutes' and r.at + interval '1 second'
          -- an old row is no evidence of a short key, as for queue.key_end
          and (
            w.seen_at >= r.at - interval '2 minutes'
            or (w.summary ->> 'key_issued_at')::timestamptz
              < (w.summary ->> 'key_expires_at')::timestamptz - interval '1 hour'
          )
          and not (w.summary ? 'stopped' or w.evidence is not null)
      ) as key_revoked_at,
      l.expires_at + c_patience as patience_until,
      l.expires_at as run_at -- time when the lease could be reclaimed
    into v_found
    from queue.leases as l
    left join queue.workers as w on w.worker = l.worker
    cross join lateral (
      values (greatest(w.seen_at, l.expires_at - make_interval(secs => l.lease_seconds)))
    ) as c (at)
    where l.job_id = p_job.id;
    return jsonb_build_object(
      'since', v_found.leased_at,
      'data', to_jsonb(v_found)
        || coalesce(queue.suspicion_of(p_job), '{}')
        || queue.maintained_before(v_found.expires_at)
        || queue.pulse_of(p_job, p_now)
        || jsonb_build_object('not_granted', (
          select f.function
          from unnest('{public.settle_jobs,public.report_jobs}'::regproc[]) as f (function)
          where not has_function_privilege(to_regrole('job_worker'), f.function, 'execute')
          limit 1
        )),
      'reason', case
        when v_found.patience_until <= p_now then v_late
        when v_found.expires_at <= p_now and v_found.ended_at is not null
          then 'worker_died'
        when v_found.expires_at <= p_now then 'lease_expired'
        when p_job.cancel_requested_at is not null then 'cancelling'
        else 'running'
      end
    );
  elsif p_job.status = 'waiting' then
    v_wait := queue.job_json(p_job) -> 'waiting_for';
    v_early_deadline := case
      when p_job.deadline_at < coalesce((v_wait ->> 'until')::timestamptz, 'infinity')
        then p_job.deadline_at
    end;
    return jsonb_build_object(
      -- a person or an event may end any other wait before its time limit
      'estimated_start_at', case
        when v_wait ->> 'kind' = 'sleep' and v_early_deadline is null then v_wait -> 'until'
      end,
      'data', v_wait || jsonb_build_object(
        'early_deadline', v_early_deadline,
        -- The emitted event whose name is most similar. Only the names before and after it in the
        -- alphabet are compared, and only names with the same numbers, because numbers usually
        -- identify the subject of an event.
        'nearest', queue.nearest_name(v_wait ->> 'event', array(
          select e.name
          from (
            (
              select n.name
              from queue.named_events as n
              where n.workspace_id = p_job.workspace_id and n.name > v_wait ->> 'event'
              order by n.name
              limit 5
            )
            union all
            (
              select n.name
              from queue.named_events as n
              where n.workspace_id = p_job.workspace_id and n.name < v_wait ->> 'event'
              order by n.name desc
              limit 5
            )
          ) as e
          where array(select n[1]::numeric from regexp_matches(e.name, '[0-9]+', 'g') as n)
            = array(
              select n[1]::numeric
              from regexp_matches(v_wait ->> 'event', '[0-9]+', 'g') as n
            )
        ))
      ),
      'since', v_wait -> 'since',
      'reason', case v_wait ->> 'kind'
        when 'sleep' then 'sleeping'
        when 'ask' then 'asking'
        else 'waiting_for_' || (v_wait ->> 'kind')
      end
    );
  end if;
  select d.run_at, d.run_at + c_patience as patience_until into v_found
  from queue.deferred as d
  where d.run_at = coalesce(p_job.next_retry_at, p_job.scheduled_for)
    and d.job_id = p_job.id;
  if found then
    v_early_deadline := case when p_job.deadline_at < v_found.run_at then p_job.deadline_at end;
    v_postponed := (
      select jsonb_build_object(
        'created_at', p_job.created_at,
        'changed_at', p_job.updated_at,
        'changed_key', left(k.key, 100)
      )
      from queue.job_keys as k
      where (k.workspace_id, k.job_type, k.key, k.is_unique)
          = (p_job.workspace_id, p_job.job_type, p_job.unique_key, true)
        and k.job_id = p_job.id
        and k.freed_when = 'leased' -- as debounce_seconds sets it
        and p_job.attempts = 0
        and p_job.updated_at > p_job.created_at
    );
    return jsonb_build_object(
      'since', v_found.run_at,
      'estimated_start_at', case
        when v_found.run_at > p_now and v_postponed is null and v_early_deadline is null
          then v_found.run_at
      end,
      'data', v_data
        || to_jsonb(v_found)
        || queue.maintained_before(v_found.run_at)
        || jsonb_build_object('early_deadline', v_early_deadline)
        || coalesce(v_postponed, '{}')
        || (
          select jsonb_build_object(
            'first_at', min(a.ended_at),
            'times', case when count(*) > 1 then queue.times_in_words(count(*)) end
          )
          from queue.attempts as a
          where a.job_id = p_job.id and a.outcome = 'snoozed'
        ),
      'reason', case
        when v_found.patience_until <= p_now then v_late
        when v_found.run_at <= p_now then 'due'
        when p_job.next_retry_at is null then 'scheduled'
        when p_job.error_message is null then 'snoozed'
        else 'backing_off'
      end
    );
  end if;
  v_refusal := (
    select t.refusal
    from queue.job_types as t
    where t.job_type = p_job.job_type
  );
  select * into v_found
  from queue.pauses as p
  where (p.kind, p.name) in (
    ('job_type', p_job.job_type),
    ('queue', p_job.queue),
    ('workspace', p_job.workspace_id::text),
    ('workspace_type', p_job.workspace_id || '/' || p_job.job_type)
  )
  order by p.kind
  limit 1;
  return case
    when p_job.lane = 0 then jsonb_build_object(
      'reason', 'no_processor',
      'cause', v_refusal,
      'data', jsonb_build_object(
        'refusal', v_refusal,
        'unpublished', p_job.job_type,
        'nearest', queue.nearest_type(p_job.job_type)
      )
    )
    when found then jsonb_build_object(
      'reason', v_found.kind || '_paused',
      'data', to_jsonb(v_found),
      'since', v_found.paused_at,
      'cause', v_found.reason
    )
    when p_alive = '{}' then jsonb_build_object('reason', 'no_worker')
    else (
      select case
        when s.unserved then jsonb_build_object(
          'reason', 'no_processor',
          'cause', v_refusal,
          'data', jsonb_build_object(
            'refusal', v_refusal,
            'key_expired_at', queue.key_expired_at(p_job.job_type),
            'not_served', case when s.in_other_queues then p_job.queue end
          ) || coalesce(
            (
              select jsonb_build_object(
                'once_served', p_job.job_type,
                'last_worker', w.worker_id,
                'last_seen', w.seen_at,
                'process_end', queue.process_end(w.evidence)
              )
              from queue.workers as w
              where p_job.job_type = any (w.job_types) and not s.in_other_queues
              order by w.seen_at desc
              limit 1
            ),
            '{}'
          )
        )
        else queue.explain_ready(p_job, p_alive, p_now)
      end
      from queue.is_unserved(array[p_job.job_type], array[p_job.queue], p_alive, p_now) as s
    )
  end;
end;
$$;

-- Return the reason why a job that may start has not started. If its latest start has passed,
-- queue.explain_ready first tests whether its workers started later. The concurrency limits come
-- next, from the limit of the job's key to the limit of its type. queue.explain_ready then tests
-- the rate limit, whether the job must run alone because its worker's process died, and whether
-- other jobs are ahead of the job. A lack of slots is returned as the reason only if running jobs
-- use all slots of the workers, and have not ended for ten seconds. If jobs end more often, the job
-- waits for its turn.
create or replace function queue.explain_ready(
  p_job public.jobs,
  p_alive queue.workers[],
  p_now timestamptz
)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_type queue.job_types;
  v_full record;
  v_free_at timestamptz;
  v_suspicion jsonb;
  v_ready_at timestamptz;
  v_ahead integer;
  v_smaller integer;
  v_rank jsonb; -- number of jobs ahead of the job
  v_workers record;
  v_reason text;
  v_must_start_by constant timestamptz := case
    when p_job.started_at is null then least(p_job.deadline_at, p_job.start_by_at)
  end;
  v_silent_since timestamptz; -- null if a worker that serves the job has called recently
  v_lacked constant text := queue.lacked_right('public.lease_jobs');
begin
  if v_must_start_by <= p_now then
    select min(w.started_at) as started_at, v_must_start_by as must_start_by
    into v_workers
    from unnest(p_alive) as w
    where (w.job_types is null or p_job.job_type = any (w.job_types))
      and (w.queues is null or p_job.queue = any (w.queues))
      and w.slots is distinct from '[]';
    if v_workers.started_at > v_must_start_by then
      return jsonb_build_object('reason', 'late_worker', 'data', to_jsonb(v_workers));
    end if;
  end if;
  v_ready_at := (
    select r.ready_at
    from queue.ready as r
    where r.lane = p_job.lane
      and r.workspace_id = p_job.workspace_id
      and r.ord = p_job.ord
      and r.job_id = p_job.id
  );
  if v_ready_at is null
    -- maintenance ends an overdue job, which may be in no table
    and (least(p_job.deadline_at, v_must_start_by) <= p_now) is not true
    and not exists (
      select from queue.gated as g
      where g.workspace_id = p_job.workspace_id
        and g.job_type = p_job.job_type
        and g.key = coalesce(p_job.concurrency_key, '')
        and not g.admitted
        and g.ord = p_job.ord
        and g.job_id = p_job.id
    )
  then
    -- a trigger of the engine was disabled when the job was inserted, or the row was deleted
    return '{"reason": "unplaced"}';
  end if;
  select * into v_type
  from queue.job_types
  where job_type = p_job.job_type;
  -- Find the narrowest concurrency limit that has been reached. Skip a concurrency limit that is
  -- not set.
  select l.* into v_full
  from (
    values
      (1, 'key_limit', v_type.key_concurrency),
      (2, 'workspace_type_limit', v_type.workspace_concurrency),
      (
        3,
        'workspace_limit',
        (
          select t.running_max
          from queue.tenant_limits as t
          where t.workspace_id = p_job.workspace_id
        )
      ),
      (4, 'type_limit', v_type.max_concurrency)
  ) as l (n, reason, most)
  where l.most is not null
    and (
      select count(*)
      from queue.find_holders(l.reason, p_job, l.most) as h
    ) >= l.most
  order by l.n
  limit 1;
  if v_full.reason = 'key_limit' then -- these jobs are not in queue.ready
    v_ahead := (
      select count(*)
      from (
        select from queue.gated as g
        where g.workspace_id = p_job.workspace_id
          and g.job_type = p_job.job_type
          and g.key = coalesce(p_job.concurrency_key, '')
          and not g.admitted
          and g.ord < p_job.ord
        limit 1000
      ) as k
    );
  else
    select
      count(*),
      count(*) filter (where a.priority < p_job.priority)
    into v_ahead, v_smaller
    from (
      select j.priority
      from queue.ready as r
      join public.jobs as j on j.id = any (array[r.job_id])
      where r.lane = p_job.lane
        and r.workspace_id = p_job.workspace_id
        and r.ord < p_job.ord
        and r.ord >= coalesce(
          (
            select t.from_ord
            from queue.turns as t
            where t.lane = p_job.lane and t.workspace_id = p_job.workspace_id
          ),
          0
        )
        and coalesce(j.deadline_at > p_now, true)
        and (j.start_by_at is null or j.started_at is not null or j.start_by_at > p_now)
        and (
          not exists (select from queue.suspects) -- evaluated once, and usually finds no row
          or not exists (select from queue.suspects as s where s.job_id = r.job_id)
        )
      limit 1000
    ) as a;
  end if;
  v_rank := jsonb_build_object(
    'ahead', nullif(v_ahead, 0),
    'at_least', case v_ahead when 1000 then v_ahead end,
    'smaller', nullif(v_smaller, 0)
  );
  if v_full.reason is not null then
    return jsonb_build_object(
      'reason', v_full.reason,
      'data', v_rank || jsonb_build_object('running', v_full.most, 'limit', v_full.most)
    );
  end if;
  select b.refilled_at + make_interval(
    secs => (1 - b.tokens) * v_type.rate_per_seconds / v_type.rate_limit
  )
  into v_free_at
  from queue.buckets as b
  where b.name = case
    when v_type.rate_per_key then format(
      'k:%s/%s/%s',
      p_job.workspace_id,
      p_job.job_type,
      coalesce(p_job.concurrency_key, '')
    )
    else 'r:' || p_job.job_type
  end;
  if v_free_at > p_now then
    return jsonb_build_object(
      'reason', 'rate_limited',
      -- jobs of other workspaces or keys may delay the start further
      'estimated_start_at', v_free_at + make_interval(
        secs => case when v_type.rate_per_key then 0 else v_ahead end
          * v_type.rate_per_seconds / v_type.rate_limit
      ),
      'data', v_rank || jsonb_build_object(
        'limit', v_type.rate_limit,
        'per_seconds', v_type.rate_per_seconds
      )
    );
  end if;
  v_suspicion := queue.suspicion_of(p_job);
  if v_suspicion is not null then
    v_ready_at := (v_suspicion ->> 'suspect_since')::timestamptz;
    return jsonb_build_object(
      'reason', 'suspect',
      'since', v_ready_at,
      'data', v_suspicion || case
        when v_ready_at <= p_now - interval '1 minute'
          then jsonb_build_object('late_since', v_ready_at)
        else jsonb_build_object('patience_until', v_ready_at + interval '1 minute')
      end
    );
  end if;
  select
    s.slots,
    s.running,
    s.ended_at,
    s.yet,
    s.full_since,
    greatest(s.seen_at, s.leased_at) as seen_at,
    case when i.is_idle then s.leased_at end as leased_at,
    case when s.running >= s.slots then s.used_by end as used_by,
    s.running >= s.slots as is_full,
    i.is_idle
  into v_workers
  from queue.slots_for(p_job, p_alive) as s
  cross join lateral (
    values (s.running >= s.slots is not true and coalesce(s.leased_at <= v_ready_at, true))
  ) as i (is_idle);
  -- a worker's row is updated once a minute, so older workers may have been killed with their host
  v_silent_since := case
    when v_workers.seen_at < p_now - interval '75 seconds' then v_workers.seen_at
  end;
  v_reason := case
    when v_workers.full_since <= p_now - interval '10 seconds' and v_workers.is_full then 'no_slot'
    when v_lacked is not null
        or v_workers.yet is not null
        or v_ready_at <= p_now - interval '1 minute'
        and v_workers.is_full is not true
        and (v_ahead = 0 or v_workers.is_idle)
      then 'not_leased'
    when v_ahead = 0 then 'next_in_line'
    when v_ready_at <= p_now - interval '15 minutes' then 'long_line'
    else 'behind_others'
  end;
  return case
    when v_reason in ('no_slot', 'not_leased') then jsonb_build_object('since', v_ready_at)
    else '{}'
  end || jsonb_build_object(
    'reason', v_reason,
    'data', to_jsonb(v_workers) - '{is_full,is_idle}'::text[] || v_rank || jsonb_build_object(
      'must_start_by', (select p_job.start_by_at where p_job.started_at is null),
      'lacked', v_lacked,
      'without_right', (select 'job_worker' where v_lacked is not null),
      'silent_since', v_silent_since,
      'ready_at', v_ready_at,
      'patience_until', v_ready_at + case v_reason
        when 'next_in_line' then interval '1 minute'
        when 'behind_others' then interval '15 minutes'
      end
    )
  );
end;
$$;

-- Holders. A holder is a database session, worker, pause or job that keeps other jobs from starting
-- or ending. The functions below find the holders for public.explain_job and for queue.holders. If
-- the holder is a job of another workspace, only operators and the service learn which job it is.

-- Return the call of a worker or a person that a database session is running, and the event for
-- which it waits, as text, and the names of all triggers of public.jobs that are not the engine's.
-- Both are null if the session runs no such call.
create or replace function queue.session_work(p_pid integer)
returns table (work text, triggers text)
language sql stable
set search_path = ''
as $$
select 'It runs ' || c.call || coalesce(' and waits (' || a.wait_event || ')', ''), (
  select string_agg(t.tgname, ', ' order by t.tgname)
  from pg_catalog.pg_trigger as t
  join pg_catalog.pg_proc as f on f.oid = t.tgfoid
  where t.tgrelid = 'public.jobs'::regclass
    and not t.tgisinternal
    and t.tgenabled <> 'D'
    and f.pronamespace <> 'queue'::regnamespace
)
from pg_catalog.pg_stat_activity as a
cross join lateral substring(
  a.query from '\m(?:(?:lease|settle|report|spawn|enqueue|retry|cancel)_jobs?|run_maintenance)\M'
) as c (call)
where a.pid = p_pid and a.state = 'active' and c.call is not null
$$;

drop function queue.locks_on(uuid[],timestamp with time zone);

-- Return the database sessions that have locked the rows of the jobs p_ids. A database session is
-- returned only if its transaction has been open for at least two seconds. If a session that has
-- locked a row waits for another session, return the last session in the chain of waits, because
-- the last session must end first. The xmax of a row identifies the transaction that has locked the
-- row (supabase/DECISIONS.md).
create or replace function queue.locks_on(p_ids uuid[], p_now timestamptz)
returns table (
  job_id uuid,
  pid integer,
  since timestamptz,
  application text,
  work text,
  triggers text
)
language sql stable
set search_path = ''
as $$
select distinct on (j.id) j.id, a.pid, s.since, a.application_name, w.work, w.triggers
from public.jobs as j
join pg_catalog.pg_locks as l on l.transactionid = j.xmax
cross join lateral queue.last_blocker(l.pid) as b (pid)
join pg_catalog.pg_stat_activity as a on a.pid = b.pid
cross join lateral coalesce(a.xact_start, a.state_change) as s (since)
left join lateral queue.session_work(a.pid) as w on true
where j.id = any (p_ids)
  and j.xmax <> '0'::xid
  and l.locktype = 'transactionid'
  and l.granted
  and l.pid <> pg_backend_pid()
  and s.since <= p_now - interval '2 seconds'
order by j.id, s.since
$$;

-- Return the number of ancestors of a job, at most 20, and how many of them have the job's type.
-- Return null if fewer than ten have its type, because most types that enqueue themselves end
-- before.
create or replace function queue.recursion_of(p_job public.jobs)
returns jsonb
language sql stable
set search_path = ''
as $$
with recursive ancestors as (
  select p_job.parent_id as id, 1 as level, null::text as job_type
  union all
  select j.parent_id, a.level + 1, j.job_type
  from ancestors as a
  join public.jobs as j on j.id = any (array[a.id])
  where a.level <= 20
)
select jsonb_build_object(
  'job_type', p_job.job_type,
  'levels', count(a.job_type),
  'recursions', count(*) filter (where a.job_type = p_job.job_type)
)
from ancestors as a
where not exists ( -- who paused the type knows it already
  select from queue.pauses as p
  where (p.kind, p.name) in (
    ('job_type', p_job.job_type),
    ('workspace_type', p_job.workspace_id || '/' || p_job.job_type)
  )
)
having count(*) filter (where a.job_type = p_job.job_type) >= 10
$$;

-- Return the holder of a job as an object with the keys kind, holder, since, until, waiting and
-- more.
-- waiting: Number of jobs in the workspace that wait for the same reason, with p_job, up to 1,000.
--   0 if the reason concerns only p_job, for example if it waits for an answer.
-- more: True if `waiting` is 1,000, so that even more jobs may wait.
-- p_found: Reason why the job waits, as queue.explain_row returned it.
-- p_is_open: True to also return jobs of other workspaces.
create or replace function queue.held_by(
  p_job public.jobs,
  p_found jsonb,
  p_now timestamptz,
  p_is_open boolean
)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  c_most constant integer := 200;
  v_reason constant text := p_found ->> 'reason';
  -- the kind is null if the reason has no holder
  v_kind constant text := coalesce(
    '{"key_limit": "key", "rate_limited": "rate", "locked": "lock", "worker_died": "dead_worker",
      "lease_expired": "dead_worker", "no_worker": "no_worker", "no_processor": "no_worker",
      "no_slot": "slots", "long_line": "slots", "not_leased": "worker", "asking": "answer",
      "waiting_for_event": "event", "waiting_for_children": "child", "refused": "refusal",
      "passed_over": "tick"}'::jsonb ->> v_reason,
    substring(v_reason from 'limit$'),
    case when v_reason ~ '_paused$' then 'pause' end
  );
  v_data constant jsonb := p_found -> 'data';
  v_id uuid;
  v_holder jsonb;
  v_since timestamptz := p_found ->> 'since';
  v_jobs bigint := 0;
begin
  if v_kind is null then
    return null;
  elsif v_kind = 'key' then
    v_jobs := (
      select count(*)
      from (
        select from queue.gated as g
        where g.workspace_id = p_job.workspace_id
          and g.job_type = p_job.job_type
          and g.key = coalesce(p_job.concurrency_key, '')
          and not g.admitted
        limit 1000
      ) as k
    );
  elsif p_job.status = 'pending' and v_kind not in ('refusal', 'tick', 'lock') then
    v_jobs := queue.due_in(p_job.workspace_id, array[p_job.lane], p_job.job_type);
  end if;
  if v_kind = 'child' then
    v_id := queue.blocking_descendant(p_job.id, false);
  elsif v_kind in ('key', 'limit', 'slots') then
    v_id := (
      select h.job_id
      from queue.find_holders(v_reason, p_job, c_most) as h
      where h.workspace_id = p_job.workspace_id or p_is_open
      order by h.leased_at, h.job_id
      limit 1
    );
  end if;
  if v_id is not null then
    select
      jsonb_build_object(
        'job_id', j.id,
        'job_type', j.job_type,
        'state', queue.state_of(
          j.status,
          j.attempts,
          j.next_retry_at,
          j.scheduled_for,
          p_now
        ),
        'worker_id', w.worker_id
      ),
      coalesce(l.leased_at, j.updated_at)
    into v_holder, v_since
    from public.jobs as j
    left join queue.leases as l on l.job_id = j.id
    left join queue.workers as w on w.worker = l.worker
    where j.id = v_id;
  elsif v_kind in ('limit', 'slots') then
    v_since := null;
    v_holder := case
      when v_reason = 'type_limit'
        then '{"others": "jobs of other workspaces"}'::jsonb
    end;
  elsif v_kind = 'lock' then
    v_holder := jsonb_build_object(
      'pid', v_data -> 'pid',
      'application', v_data -> 'application'
    );
  elsif v_kind = 'dead_worker' then
    v_holder := jsonb_build_object('worker_id', v_data -> 'worker_id');
    v_since := coalesce(v_data ->> 'ended_at', v_data ->> 'expires_at');
  elsif v_kind = 'pause' then
    v_holder := jsonb_build_object('pause', replace(v_reason, '_paused', ''));
  end if;
  return jsonb_build_object(
    'kind', v_kind,
    'holder', jsonb_strip_nulls(v_holder),
    'since', v_since,
    'until', coalesce(
      p_found ->> 'estimated_start_at',
      v_data ->> 'until',
      v_data ->> 'patience_until'
    ),
    'waiting', least(v_jobs, 1000),
    'more', v_jobs >= 1000
  );
end;
$$;

-- Return the kind, code and cause of a job's last error. queue.error_of classifies the error by its
-- exception type and its code, never by its message.
-- kind: Kind of the error, for example 'timeout'. The row failed:timeout of queue.guidance has the
--   advice for this kind.
-- code: HTTP status, SQLSTATE or errno name.
-- cause: Response of another service, line of code that ended the process, or last error of an
--   exception chain.
-- place: Location in the code at which a failed job raised its error.
create or replace function queue.error_of(p_job public.jobs)
returns table (kind text, code text, cause text, place text)
language sql stable
set search_path = ''
as $$
select
  case
    when p_job.status in ('failed', 'pending') then coalesce(
      '{"AttemptTimeout": "timeout",
    "DeadlinePassed": "deadline", "PayloadRejected": "payload",
    "ResultRejected": "result", "ResultTooLarge": "result", "SettleRejected": "rejected",
    "minutehand.worker.context.ChildrenFailed": "child"}'::jsonb ->> e.type,
      case
        when e.type = 'WorkerLost' then concat_ws(':', 'lost', case
          when e.evidence ->> 'signal' = 'SIGKILL' then 'kill'
          when e.evidence ->> 'signal' ~ '^SIG(SEGV|ABRT|BUS|FPE|ILL)$' then 'fault'
          when e.evidence ? 'signal' then 'signal'
          -- only the worker's watchdog writes stacks without a signal
          when e.evidence ?& '{exit_code,stack}' then 'blocked'
          when e.evidence ? 'exit_code' then 'exit'
        end)
        when e.sqlstate = '42501' then 'grant' -- the Data API maps these codes to 403 or 404
        when e.sqlstate ~ '^(42|PGRST2)' then 'schema'
        when e.status in ('401', '403') or e.sqlstate ^@ '28' then 'credentials'
        when e.status = '429' then 'rate'
        when e.sqlstate ~ '^2[23]' then 'value'
        when e.sqlstate = '57014' then 'statement'
        when e.status ^@ '4' then 'request'
        when e.sqlstate = '26000' then 'prepared'
        when e.sqlstate = '55P03' then 'lock'
        when e.sqlstate ~ '^(40|55)' then 'contention'
        when e.signal is not null then 'killed'
        -- code that handles another error may look up a variable
        when coalesce(e.status, e.sqlstate, e.errno) is null and e.variable is not null
          then 'variable'
        when e.errno = 'ENOMEM' then 'memory'
        when e.errno in ('ENOSPC', 'EDQUOT', 'EMFILE') or e.sqlstate ^@ '53'
          then 'machine'
        -- Python's TimeoutError has this errno, also one of the processor's own code
        when e.errno = 'ETIMEDOUT' then 'slow'
        when e.status ^@ '5' then 'unavailable:error'
        when e.sqlstate ~ '^(08|57P)' or e.errno = 'ECONNRESET' then 'unavailable:closed'
        when e.errno = 'ECONNREFUSED' then 'unavailable:port'
        when e.errno in ('EHOSTUNREACH', 'ENETUNREACH') then 'unavailable:route'
        when e.errno in ('EAI_AGAIN', 'EAI_NONAME') then 'unavailable:name'
        when e.errno = 'CERTIFICATE_VERIFY_FAILED' then 'unavailable:certificate'
        -- psycopg and SQLAlchemy report failed connections without a code
        when e.type ~ '^(psycopg|sqlalchemy).*OperationalError$' and e.sqlstate is null
          then 'unavailable'
      end
    )
    when p_job.status = 'cancelled' and e.type = 'StartByPassed' then 'start_by'
  end as kind,
  coalesce(
    replace('SQLSTATE ' || e.sqlstate, 'SQLSTATE PGRST', 'PGRST'), -- a code of the Data API
    'HTTP ' || e.status,
    e.errno,
    e.variable,
    e.evidence ->> 'signal',
    'exit code ' || (e.evidence ->> 'exit_code')
  ) as code,
  coalesce(
    e.response,
    (
      select string_agg(
        concat_ws(': ', nullif(array_to_string(array(
          select jsonb_array_elements_text(p.path)
        ), '.'), ''), p.message),
        '; '
      )
      from jsonb_to_recordset(
        case when e.type = 'PayloadRejected' then e.data -> 'problems' end
      ) as p (path jsonb, message text)
    ),
    -- the line belongs to another job if the job did not end the process
    case when e.reason = 'worker_lost' then e.evidence ->> 'line' end,
    (
      select concat_ws(
        ': ',
        a.traceback #>> '{causes,-1,type}',
        a.traceback #>> '{causes,-1,message}'
      )
      from queue.attempts as a
      where a.job_id = p_job.id
        and a.traceback ? 'causes'
        -- the other errors of a task group are not the cause of its first error
        and a.traceback #> '{causes,0,frames,0}' is distinct from a.traceback #> '{frames,0}'
      order by a.fence desc
      limit 1
    )
  ) as cause,
  case
    when p_job.status = 'failed' then (
      select (f.frame ->> 'file') || ':' || (f.frame ->> 'line')
      from queue.attempts as a
      cross join lateral (select a.traceback #> '{frames,0}' as frame) as f
      where a.job_id = p_job.id
      order by a.fence desc
      limit 1
    )
  end as place
from jsonb_to_record(p_job.error_data) as e (
  type text, status text, sqlstate text, errno text, signal text, variable text, response text,
  reason text, evidence jsonb, data jsonb
)
$$;

-- Return the reason why a job waits, and the job, limit or pause for which it waits.
-- p_lock: Database session that has locked the job's row, from queue.locks_on.
-- p_alive: Live workers, from queue.live_workers. A caller that explains many jobs reads the live
--   workers only once, because queue.live_workers reads all leases.
-- p_is_open: True to return also jobs of other workspaces and names of people, roles and
--   applications.
create or replace function queue.explain(
  p_job public.jobs,
  p_lock jsonb,
  p_alive queue.workers[],
  p_now timestamptz,
  p_is_open boolean default queue.is_operator() or queue.is_service()
)
returns jsonb
language plpgsql stable
set search_path = ''
set timezone = 'UTC'
as $$ -- sentences show times in UTC
declare
  v_recursion jsonb;
  v_stopped jsonb;
  v_found jsonb;
  v_held jsonb;
  v_error record;
  v_revoked_at timestamptz; -- null while workers can call
  v_abandoned jsonb; -- the worker and the location of a stopped processor that still runs
  v_left jsonb; -- the sentence and the advice about this processor
begin
  v_found := case
    when p_lock is null then queue.explain_row(p_job, p_alive, p_now)
    else jsonb_build_object('reason', 'locked', 'since', p_lock -> 'since', 'data', p_lock)
  end;
  if v_found ->> 'reason' = 'no_worker' then
    v_found := v_found || jsonb_build_object(
      'since', queue.last_call(),
      'data', jsonb_build_object('key_expired_at', queue.key_expired_at())
    );
  end if;
  select * into v_error
  from queue.error_of(p_job);
  select
    to_jsonb(w)
      || to_jsonb(a)
      || jsonb_build_object('thread_place', case when a.in_thread then a.place end)
  into v_abandoned
  from unnest(p_alive) as w
  cross join lateral jsonb_to_recordset(w.abandoned)
    as a (job_id uuid, place text, in_thread boolean)
  where a.job_id = p_job.id
    -- the end of a run leaves the processor running, but the end of the process ends it
    and coalesce(w.evidence, w.summary -> 'stopped') is null
  limit 1;
  v_found := jsonb_build_object(
    'job_id', p_job.id,
    'status', p_job.status,
    'estimated_start_at', null,
    'data', '{}'::jsonb,
    'since', coalesce(p_job.finished_at, p_job.scheduled_for, p_job.created_at),
    'cause', v_error.cause
  ) || v_found;
  v_revoked_at := case
    when p_job.status in ('pending', 'processing') then queue.revoked_for(case
      when v_found ->> 'reason' <> 'no_worker' then p_job.job_type
    end)
  end;
  if v_revoked_at is not null then
    v_found := jsonb_set(v_found, '{data,revoked_at}', to_jsonb(v_revoked_at));
  end if;
  if not p_is_open then -- hide the names of others from members
    v_found := v_found || jsonb_build_object(
      'data', (v_found -> 'data')
        - '{application,triggers,without_right,lacked,not_granted}'::text[]
        || jsonb_build_object('a_right', case
          when v_found #>> '{data,without_right}' <> '' or v_found #>> '{data,not_granted}' <> ''
            then 'a right in the database'
        end) || case
        when v_found -> 'data' ? 'paused_by' then jsonb_build_object(
          'paused_by',
          queue.shown_person(v_found #>> '{data,paused_by}', p_job.workspace_id)
        )
        else '{}'
      end
    );
  end if;
  v_held := queue.held_by(p_job, v_found, p_now, p_is_open);
  v_left := queue.render_guidance(
    'abandoned',
    v_abandoned || jsonb_build_object('job_type', p_job.job_type)
  );
  v_recursion := queue.render_guidance('recursion', queue.recursion_of(p_job));
  v_stopped := (
    select queue.render_guidance('stopped', to_jsonb(s) || jsonb_build_object(
      'job_type', p_job.job_type,
      'stops', queue.times_in_words(s.stops)
    ))
    from queue.stops_of(p_job) as s
  );
  v_found := v_found || queue.render_guidance(
    v_found ->> 'reason',
    v_found
      || queue.names_of(p_job, v_held)
      || jsonb_build_object(
        'code', v_error.code,
        'place', v_error.place,
        'peak_mb', p_job.error_data #> '{evidence,memory_mb}',
        'which', case when p_is_open then p_job.workspace_id end
      )
      || coalesce(
        (
          -- the worker that rejected the payload, if another live worker runs the newest deploy
          select jsonb_build_object('old_worker', w.worker_id, 'old_version', w.version)
          from unnest(p_alive) as w
          join queue.job_types as t on t.job_type = p_job.job_type
          where v_error.kind = 'payload'
            and w.worker = (
              select a.worker
              from queue.attempts as a
              where a.job_id = p_job.id
              order by a.fence desc
              limit 1
            )
            and t.deployed_at is not null
            and w.version not like '%+' || left(t.commit, 9)
            and exists (
              select from unnest(p_alive) as o
              where p_job.job_type = any (o.job_types)
                and o.version like '%+' || left(t.commit, 9)
            )
        ),
        '{}'
      )
      || jsonb_strip_nulls(v_found -> 'data'),
    '{"failed": "failed:", "backing_off": "failed:", "cancelled": "cancelled:"}'::jsonb
      ->> (v_found ->> 'reason')
      || case
        when v_left ->> 'sentence' <> '' and v_error.kind = 'timeout' then 'abandoned'
        else v_error.kind
      end
  );
  v_found := v_found || jsonb_build_object(
    'next', (v_left -> 'next')
      || (v_recursion -> 'next')
      || coalesce(
        -- waiting alone does not help a job that is stopped again and again
        (v_stopped -> 'next')
        || jsonb_path_query_array(v_found -> 'next', '$[*] ? (@.kind == "act")'),
        v_found -> 'next'
      ),
    'sentence', concat_ws(
      ' ',
      -- put the sentences about the lost worker and the abandoned processor before the job's
      -- error, because the console hides the error and all text after the error
      ( -- count only losses that no other job can have caused
        select queue.render_guidance(
          'worker_lost',
          jsonb_build_object(
            -- null if there is no evidence of how any of the processes ended
            'ended_times', queue.times_in_words(count(*) filter (where a.error_data ? 'evidence')),
            -- if the job was the only job of its process in each loss with evidence
            'alone', case
              when bool_and(a.error_data ->> 'company' = '0')
                  filter (where a.error_data ? 'evidence')
                then 'alone'
            end,
            'lost_times', queue.times_in_words(count(*))
          )
        ) ->> 'sentence'
        from queue.attempts as a
        where a.job_id = p_job.id
          and a.outcome = 'lost'
          and p_job.error_data ->> 'type' = 'WorkerLost'
        having count(*) > 0
      ),
      v_left ->> 'sentence',
      v_found ->> 'sentence',
      queue.render_guidance('deadline', v_found -> 'data') ->> 'sentence',
      case
        when v_found ->> 'reason' ~ '(_limit|^rate_limited|^no_slot)$'
          then queue.render_guidance(
            'ahead',
            v_found -> 'data' || jsonb_build_object('job_type', p_job.job_type)
          ) ->> 'sentence'
      end,
      v_recursion ->> 'sentence',
      v_stopped ->> 'sentence',
      case
        when p_job.status = 'pending' and p_job.started_at is null
            and p_job.start_by_at > p_now
          then queue.render_guidance(
            'start_by',
            jsonb_build_object(
              'start_by_at', p_job.start_by_at,
              'ahead', v_found #> '{data,ahead}'
            )
          ) ->> 'sentence'
      end
    )
  );
  return v_found || jsonb_build_object(
    'outlook', case
      when v_found ->> 'reason' = 'running'
        then queue.render_guidance('outlook', jsonb_strip_nulls(v_found -> 'data')) -> 'sentence'
    end,
    'abandoned_at', v_abandoned -> 'place',
    'held_by', v_held || jsonb_build_object('act', v_found #> '{next,0}')
  );
end;
$$;

-- Return the values of a job and its holder that replace the placeholders in texts of
-- queue.guidance.
create or replace function queue.names_of(p_job public.jobs, p_held jsonb)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object(
  'job_type', p_job.job_type,
  'own_type', case when not queue.is_internal(p_job.job_type) then p_job.job_type end,
  'own_key', left(p_job.concurrency_key, 100),
  'queue', p_job.queue,
  'finished_at', p_job.finished_at,
  'start_by_at', case
    when p_job.error_data ->> 'type' = 'StartByPassed' then p_job.start_by_at
  end,
  'deadline_at', p_job.deadline_at,
  'used', nullif(p_job.attempts, 0),
  'waited', p_job.error_data -> 'waited',
  'was_held', case when p_job.error_data ->> 'waited' <> '' then '' end,
  'cancel_requested_at', p_job.cancel_requested_at,
  'error_line', regexp_replace(
    left(queue.error_line(p_job.error_message, p_job.error_data), 300),
    '\s+',
    ' ',
    'g'
  ),
  'signal', p_job.error_data -> 'signal',
  'cancelled_for', case
    when p_job.error_data @> '{"type": "Cancelled"}' and not p_job.error_data ? 'reason'
      then left(p_job.error_message, 300)
  end,
  'cancelled_by', (
    select case e.data ->> 'reason'
      when 'parent_ended' then 'because its parent ended'
      else 'by ' || (e.data ->> 'by')
    end
    from (
      select p_job.error_data as data, null::integer as seq
      where p_job.cancel_requested_at is null
        and p_job.status = 'cancelled'
      union all -- a running job keeps the error of its last attempt
      select v.data, v.seq
      from queue.job_events as v
      where p_job.cancel_requested_at is not null
        and v.job_id = p_job.id
        and v.type = 'job.cancel_requested'
    ) as e
    order by e.seq desc
    limit 1
  ),
  -- The job that ended an earlier process of the job: its type, and its id if a loss has shown
  -- which job it was. Null while the type is unknown, or while several jobs may have ended the
  -- process.
  'killer', case
    when p_job.error_data ->> 'reason' = 'process_died' then coalesce(
      (
        select min(concat_ws(' ', j.job_type, j.id))
        from jsonb_array_elements_text(p_job.error_data #> '{evidence,jobs}') as e (id)
        join public.jobs as j on j.id = e.id::uuid
        where j.id <> p_job.id
          and j.status <> 'completed' -- a completed job did not end the process
          -- the stack of the process may already have shown the type
          and coalesce(j.job_type = p_job.error_data #>> '{evidence,guilty_type}', true)
        having count(*) = 1
          and bool_and(exists (
            select from queue.attempts as a
            where a.job_id = j.id and a.outcome = 'lost' and a.error_data ? 'evidence'
          ))
      ),
      p_job.error_data #>> '{evidence,guilty_type}'
    )
  end,
  'version', p_job.schema_version,
  'type_version', (
    select t.schema_version
    from queue.job_types as t
    where t.job_type = p_job.job_type and t.schema_version <> p_job.schema_version
  ),
  'child', c.id,
  'cause_type', coalesce(c.job_type, 'the child'),
  'holder', p_held #> '{holder,job_id}',
  'parent', case
    when p_held #>> '{holder,job_id}' = p_job.parent_id::text then p_job.parent_id
  end,
  -- the job's type, if a list of the job's workspace shows the running jobs
  'listed_type', (
    select p_job.job_type
    from public.jobs as h
    where h.id = (p_held #>> '{holder,job_id}')::uuid
      and h.workspace_id = p_job.workspace_id
  ),
  'holder_type', p_held #> '{holder,job_type}',
  'holder_state', p_held #> '{holder,state}',
  'others', p_held #> '{holder,others}',
  'held_since', p_held -> 'since'
)
from (
  select case
    when p_job.error_data ->> 'type' = 'minutehand.worker.context.ChildrenFailed'
      then queue.blocking_descendant(p_job.id, true)
  end as id
) as b
left join public.jobs as c on c.id = b.id
$$;

create or replace function public.explain_job(p_job_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
set timezone = 'UTC'
as $$ -- sentences show times in UTC
declare
  v_now constant timestamptz := queue.clock();
  v_job constant public.jobs := queue.visible_job(p_job_id);
  v_lock jsonb;
begin
  if v_job.status = 'pending' then
    perform queue.take_call_slot(); -- take a slot, because the call counts the jobs ahead
  end if;
  -- in a read-only session, ignore locks of other sessions, because a read-only session cannot try
  -- to lock the job's row
  if v_job.finished_at is null and not current_setting('transaction_read_only')::boolean then
    select to_jsonb(l) into v_lock
    from queue.locks_on(array[p_job_id], v_now) as l;
  end if;
  if v_lock is not null then
    perform from public.jobs
    where id = p_job_id
    for no key update skip locked;
    -- If this session can also lock the job's row, the lock of the other session comes from a
    -- foreign key check. A lock of a foreign key check does not keep workers from leasing the job.
    v_lock := case when not found then v_lock end;
  end if;
  return ( -- read the job and its wait in one statement, because a worker may change both
    select queue.explain(j, v_lock, queue.live_workers(v_now), v_now)
    from queue.visible_job(p_job_id) as j
  );
end;
$$;

comment on function public.explain_job is
  'Why a job waits and what blocks it: {job_id, status, reason, sentence, since, cause, '
  'held_by: {kind, holder, since, until, waiting, more, act}, next: [{kind, words, command, '
  'path}], outlook, data, estimated_start_at, abandoned_at}. The kind of a step is act, wait or '
  'none. outlook is the time at which the timeout stops a running job, and what follows. '
  'abandoned_at is the code location of a stopped processor that still runs.';

select queue.allow('authenticated, service_role', 'public.explain_job');

-- Return the number of due jobs for each reason why due jobs have not started. The reasons are
-- paused, unserved (no worker serves the job type), suspect (the job's process died), at_limit,
-- blocked (by a concurrency key) and ready. Only unserved jobs cause the verdict `warn`. The key
-- `attention` has the jobs that wait for a worker, as public.explain_queue returns them.
-- p_user_id: Id of the person who calls, or null to count the jobs of all callers. Among jobs of
--   unpublished types, only the person's own jobs are counted, because the person cannot change the
--   jobs of other people.
create or replace function queue.backlog(
  p_workspace_id uuid,
  p_now timestamptz,
  p_user_id uuid default null
)
returns jsonb
language sql stable
set search_path = ''
as $$
with lanes as materialized (
  select
    l.lane,
    l.job_type,
    l.queue,
    s.unserved,
    case when s.in_other_queues then l.queue end as not_served,
    greatest(10, 10000 / count(*) over ()) as most,
    coalesce(queue.free_of_type(l.job_type, p_now) <= 0, false) as is_full
  from (
    select array_agg(o.job_type) as types, array_agg(o.queue) as queues
    from (select distinct job_type, queue from queue.lanes) as o
  ) as a
  cross join lateral queue.is_unserved(a.types, a.queues, queue.live_workers(p_now), p_now) as s
  join queue.lanes as l on l.job_type = s.job_type and l.queue = s.queue
),
unpublished as materialized (
  select o.workspace_id, o.job_type, o.job_id
  from queue.unpublished as o
  where (p_workspace_id is null or o.workspace_id = p_workspace_id)
    and (
      p_user_id is null
      or exists (
        select from public.jobs as j
        where j.id = o.job_id and j.user_id = p_user_id
      )
    )
  limit 10000
),
due as (
  select
    l.job_type,
    l.not_served,
    r.ready_at,
    r.jobs,
    r.workspace_id,
    r.job_ids,
    sum(r.jobs) over (partition by l.lane) >= l.most as is_more,
    case
      when exists (
        select from queue.pauses as p
        where (p.kind, p.name) in (
          ('job_type', l.job_type),
          ('queue', l.queue),
          ('workspace', r.workspace_id::text),
          ('workspace_type', r.workspace_id || '/' || l.job_type)
        )
      ) then 'paused'
      when l.unserved then 'unserved'
      when r.is_suspect then 'suspect'
      when l.is_full
          or exists (
            select from queue.turns as t
            where t.lane = l.lane
              and t.workspace_id = r.workspace_id
              and t.blocked
              and t.look_at is not null
          )
        then 'at_limit'
      else 'ready'
    end as cause
  from lanes as l
  cross join lateral (
    select
      o.workspace_id,
      exists (select from queue.suspects) -- evaluated once, and usually finds no row
        and exists (select from queue.suspects as s where s.job_id = o.job_id) as is_suspect,
      min(o.ready_at) as ready_at,
      count(*) as jobs,
      (array_agg(o.job_id))[:200] as job_ids
    from (
      select *
      from queue.ready as q
      where q.lane = l.lane
        and (p_workspace_id is null or q.workspace_id = p_workspace_id)
      limit l.most
    ) as o
    group by 1, 2
  ) as r
  union all
  select
    g.job_type,
    null,
    null,
    count(*),
    null,
    null,
    sum(count(*)) over () >= 10000,
    'blocked'
  from (
    select o.job_type
    from queue.gated as o
    where (p_workspace_id is null or o.workspace_id = p_workspace_id)
      and not o.admitted
    limit 10000
  ) as g
  group by 1
  union all
  select
    u.job_type,
    null,
    coalesce(j.next_retry_at, j.scheduled_for, j.created_at),
    u.jobs,
    u.workspace_id,
    u.job_ids,
    sum(u.jobs) over () >= 10000,
    'unserved'
  from (
    select
      i.job_type,
      i.workspace_id,
      count(*) as jobs,
      (array_agg(i.job_id order by i.job_id))[:200] as job_ids
    from unpublished as i
    group by 1, 2
  ) as u
  join public.jobs as j on j.id = any (array[u.job_ids[1]])
),
causes as (
  select
    k.*,
    coalesce(sum(d.jobs), 0)::integer as jobs,
    min(d.ready_at) as oldest_at,
    coalesce(bool_or(d.is_more), false) as is_more,
    min(d.job_type) as job_type,
    (array_agg(d.not_served order by d.job_type, d.not_served))[1] as not_served,
    (array_agg(distinct d.job_type) filter (where d.not_served is null))[:100] as job_types,
    array_to_string((array_agg(distinct d.job_type || case
      when d.cause = 'unserved' then coalesce(' in the queue ' || d.not_served, '')
      else ''
    end))[:3], ', ') as types
  from (
    values
      (1, 'unserved', 'waiting: no worker serves'),
      (2, 'paused', 'paused:'),
      (3, 'suspect', 'to run alone, because the worker was lost:'),
      (4, 'at_limit', 'waiting for a limit:'),
      (5, 'blocked', 'waiting for a job of the same key:'),
      (6, 'ready', 'ready to start:')
  ) as k (n, cause, words)
  left join due as d on d.cause = k.cause
  group by 1, 2, 3
)
select jsonb_object_agg(
  c.cause,
  jsonb_build_object(
    'jobs', c.jobs,
    'more', c.is_more,
    'types', c.types,
    'job_type', c.job_type,
    'job_types', c.job_types,
    'not_served', c.not_served,
    'oldest_at', c.oldest_at
  )
)
  || jsonb_build_object(
    'jobs', sum(c.jobs),
    'oldest_at', min(c.oldest_at),
    'verdict', case
      when bool_or(c.jobs > 0 and c.cause = 'unserved') then 'warn'
      else 'pass'
    end,
    'detail', coalesce(
      string_agg(
        format(
          '%s%s %s %s',
          c.jobs,
          case when c.is_more then '+' end,
          c.words,
          c.types
        ),
        '; '
        order by c.n
      ) filter (where c.jobs > 0),
      'nothing is due'
    ),
    'oldest_due_seconds', extract(
      epoch from p_now
      - min(c.oldest_at) filter (where c.cause not in ('paused', 'unserved'))
    ),
    'attention', (
      select coalesce(jsonb_agg(to_jsonb(a)), '[]')
      from (
        select
          d.workspace_id,
          'no_worker' as kind,
          d.job_type,
          d.jobs,
          d.job_ids,
          d.ready_at as since
        from due as d
        where case
          when d.cause = 'unserved' then true
          when d.cause <> 'paused' and d.job_ids is not null
            -- no worker has called, as in the finding no_worker
            then coalesce((select queue.last_call() < p_now - interval '90 seconds'), true)
        end
        order by d.jobs desc
        limit 50 -- limits the response
      ) as a
    )
  )
from causes as c
$$;

-- Return a finding for each database session for whose lock other sessions wait, or that has locked
-- the table of jobs. The session's transaction, or the first wait, must have lasted for ten
-- seconds. The finding begins with the transaction, because a call that waits is repeated. Members
-- of a workspace do not see sessions.
create or replace function queue.findings_of_locks(p_workspace_id uuid, p_now timestamptz)
returns setof queue.finding
language sql stable
set search_path = ''
as $$
select
  'warn',
  case when p_workspace_id is null then 'blocking_session' else 'service_locked' end,
  coalesce(h.xact_start, min(w.since)),
  case
    when p_workspace_id is null then format(
      '%s (pid %s) is %s',
      coalesce(nullif(h.application_name, ''), h.usename, h.backend_type),
      h.pid,
      coalesce(h.state, 'active')
    )
  end,
  jsonb_build_object(
    'pid', h.pid,
    'waiting', count(*),
    'locked', max(w.locked),
    'began_at', h.xact_start,
    'work', max(k.work),
    'triggers', max(k.triggers)
  )
from (
  (
    select a.query_start as since, queue.last_blocker(a.pid) as pid, null as locked
    from pg_catalog.pg_stat_activity as a
    where a.datname = current_database()
      and a.wait_event_type = 'Lock'
      and a.query_start <= p_now - interval '1 second'
    limit 20
  )
  union all
  -- calls of people wait for at most two seconds, so no waiting session may show this lock
  select a.xact_start, a.pid, 'public.jobs'
  from pg_catalog.pg_locks as l
  join pg_catalog.pg_stat_activity as a on a.pid = l.pid
  where l.relation = 'public.jobs'::regclass
    and a.datname = current_database()
    and l.granted
    and l.mode in (
      'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'
    )
) as w
join pg_catalog.pg_stat_activity as h
  on h.pid = w.pid and h.wait_event_type is distinct from 'Lock'
left join lateral queue.session_work(h.pid) as k on true
group by h.pid, h.application_name, h.usename, h.backend_type, h.state, h.xact_start
having coalesce(h.xact_start, min(w.since)) <= p_now - interval '10 seconds'
  and (p_workspace_id is null or max(w.locked) is not null)
$$;

-- Return findings about workers, due jobs, the database and maintenance. A transaction that has
-- written rows is a finding after a minute, or after 30 seconds if its session is idle, because
-- readers of queue.feed wait for the end of the transaction. A read-only transaction is a finding
-- after five minutes, because Postgres cannot remove dead rows until the transaction ends.
create or replace function queue.findings_of_queue(
  p_workspace_id uuid,
  p_now timestamptz,
  p_backlog jsonb,
  p_seen_at timestamptz
)
returns setof queue.finding
language plpgsql stable
set search_path = ''
as $$
declare
  v_alive constant queue.workers[] := queue.live_workers(p_now);
  -- functions that workers have no right to call
  v_denied constant regproc[] := array(
    select f.function
    from unnest(
      '{public.lease_jobs, public.report_jobs, public.settle_jobs,
        public.run_maintenance}'::regproc[]
    ) as f (function)
    where queue.lacked_right(f.function) is not null
  );
begin
  return query
    select 'fail', 'read_only', null::timestamptz, null::text, '{}'::jsonb
    where current_setting('default_transaction_read_only')::boolean
    union all
    select
      'warn',
      'no_retention',
      null,
      null,
      jsonb_build_object(
        'states', string_agg(d.key, ', ' order by d.key) filter (where d.value = '0'),
        'longer', jsonb_object_agg(d.key, case
          when d.value <> '0' then d.value::integer
          when d.key = 'failed' then 90
          else 30
        end)::text
      )
    from jsonb_each_text(queue.setting('retention_days')) as d
    -- some projects keep no completed jobs, but without failed jobs no one sees why they failed
    having bool_or(d.key = 'failed' and d.value = '0')
    union all
    select
      case
        when p_now - p_seen_at > interval '200 seconds' then 'fail'
        else 'warn'
      end,
      'no_worker',
      p_seen_at,
      null,
      jsonb_build_object(
        'jobs', p_backlog -> 'jobs',
        'key_expired_at', queue.key_expired_at(),
        'revoked_at', queue.revoked_for()
      )
    where coalesce(p_now - p_seen_at > interval '90 seconds', true)
      -- rejected workers may be running
      and 'public.lease_jobs'::regproc <> all (v_denied)
    union all
    select
      case
        when p_seen_at is null and o.at < p_now - interval '15 minutes' then 'fail'
        else 'warn'
      end,
      'overdue',
      o.at,
      null,
      jsonb_build_object(
        'jobs', p_backlog #> '{ready,jobs}',
        'job_id', w.job_id,
        'used_by', w.used_by
      )
    from (values ((p_backlog #>> '{ready,oldest_at}')::timestamptz)) as o (at)
    left join lateral (
      select
        j.id as job_id,
        e.said ->> 'reason' as reason,
        e.said #> '{data,used_by}' as used_by
      from (
        select r.job_id
        from queue.lanes as l
        cross join lateral (
          select *
          from queue.ready as q
          where q.lane = l.lane
            and (p_workspace_id is null or q.workspace_id = p_workspace_id)
          limit 1
        ) as r -- the first job of each lane
        where r.ready_at >= o.at -- older jobs wait for a limit, or their type is paused
        order by r.ready_at
        limit 1
      ) as f
      join public.jobs as j on j.id = any (array[f.job_id])
      cross join lateral queue.explain_row(j, v_alive, p_now) as e (said)
    ) as w on true
    where o.at < p_now - interval '2 minutes'
      and 'public.lease_jobs'::regproc <> all (v_denied)
      -- the job only waits for its turn, or for a limit that was reached after the last lease
      and coalesce(w.reason !~ '^(behind_others|next_in_line|rate_limited|.*_limit)$', true)
    union all
    select
      'warn',
      'no_processor',
      u.oldest_at,
      null,
      jsonb_build_object(
        'jobs', u.jobs,
        'types', u.types,
        'unserved', u.job_types,
        'job_type', u.job_type,
        'only_type', (select u.job_type where u.types = u.job_type),
        'nearest', (
          select queue.nearest_type(u.job_type)
          where u.types = u.job_type
            and not exists (select from queue.job_types as t where t.job_type = u.job_type)
        ),
        'not_served', u.not_served,
        'revoked_at', queue.revoked_for(u.job_type),
        'key_expired_at', queue.key_expired_at(u.job_type),
        'once_served', case
          when exists (select from queue.workers as w where u.job_type = any (w.job_types))
            then u.job_type
        end
      )
    from jsonb_to_record(p_backlog -> 'unserved') as u (
      jobs integer,
      types text,
      job_type text,
      job_types text[],
      not_served text,
      oldest_at timestamptz
    )
    where u.jobs > 0
    union all
    select
      'warn',
      'silent_worker',
      greatest(w.seen_at, h.renewed_at),
      null,
      jsonb_build_object(
        'worker_id', w.worker_id,
        'jobs', h.jobs,
        'expires_at', h.expires_at,
        'key_expired_at', queue.key_end(w, greatest(w.seen_at, h.renewed_at))
      )
    from queue.lease_holders(p_workspace_id, p_now) as h
    join queue.workers as w on w.worker = h.worker
    where h.due_at <= p_now and w.seen_at <= h.due_at and w.evidence is null
    union all
    (
      select distinct on (j.job_type)
        'warn',
        'recursive_type',
        null::timestamptz,
        null,
        r || jsonb_build_object('job_id', j.id)
      from (
        select l.job_id
        from queue.leases as l
        where p_workspace_id is null or l.workspace_id = p_workspace_id
        order by l.job_id desc
        limit 10 -- a sample, because each job reads up to 20 ancestors
      ) as l
      join public.jobs as j on j.id = any (array[l.job_id])
      cross join queue.recursion_of(j) as r
      where r is not null
    )
    union all
    select
      'warn',
      case when p_workspace_id is null then 'clock_skew' else 'wrong_clock' end,
      null,
      null,
      jsonb_build_object(
        'worker_id', w.worker_id,
        'behind', case when s.seconds < 0 then round(-s.seconds) end,
        'ahead', case when s.seconds > 0 then round(s.seconds) end
      )
    from unnest(v_alive) as w
    cross join lateral (
      values ((w.summary ->> 'clock_skew_seconds')::numeric)
    ) as s (seconds)
    where s.seconds is not null;
  return query
    select
      'fail',
      case when p_workspace_id is null then 'missing_right' else 'workers_lack_right' end,
      null::timestamptz,
      null::text,
      case
        when p_workspace_id is null
          then jsonb_build_object('right', r.lacked, 'function', min(f.function::text))
        else '{}'
      end
    from unnest(v_denied) as f (function)
    cross join lateral queue.lacked_right(f.function) as r (lacked)
    group by r.lacked
    limit case when p_workspace_id is not null then 1 end;
  if p_workspace_id is not null then
    -- only operators see the cause, for example a session with an open transaction
    return query
      select 'warn', 'late_events', s.at, null, '{}'::jsonb
      from queue.statistics_stale_since(p_now) as s (at)
      where s.at < p_now - interval '2 minutes' and p_now - p_seen_at < interval '90 seconds';
    return;
  end if;
  return query
    select
      'warn',
      'failing_maintenance',
      null::timestamptz,
      string_agg(m.words, '; '),
      '{}'::jsonb
    from (
      select format('the task %s fails: %s', t.name, left(t.failure, 300)) as words
      from queue.tasks as t
      where t.failures > 0
      union all
      (
        select format(
          '%s skips job %s: %s',
          r.task,
          r.job_id,
          left(r.failure, 300)
        )
        from queue.refusals as r
        join public.jobs as j on j.id = any (array[r.job_id])
        order by r.refused_at, r.job_id
        limit 20
      )
    ) as m
    having count(*) > 0
    union all
    (
      select
        'warn',
        'open_transaction',
        o.xact_start,
        format(
          '%s (pid %s) has an open transaction for %s s; %s',
          coalesce(nullif(o.application_name, ''), o.usename, 'a session'),
          o.pid,
          o.seconds,
          case
            when o.backend_xid is null then 'Postgres keeps dead rows until it ends'
            else 'readers of events wait until it ends'
          end
        ),
        jsonb_build_object('pid', o.pid, 'work', w.work, 'triggers', w.triggers)
      from (
        select
          a.*,
          extract(epoch from queue.clock() - a.xact_start)::integer as seconds
        from pg_catalog.pg_stat_activity as a
        where a.datname = current_database()
          and a.pid <> pg_backend_pid()
          and a.backend_type = 'client backend'
          and num_nonnulls(a.backend_xid, a.backend_xmin) > 0
          and a.wait_event_type is distinct from 'Lock' -- the session that it waits for is named
      ) as o
      left join lateral queue.session_work(o.pid) as w on true
      where o.seconds >= case
        when o.backend_xid is null then 300
        when o.state = 'active' then 60
        else 30
      end -- 30 seconds if the transaction has written and is now idle
      order by o.seconds desc
      limit 20
    );
end;
$$;

-- Return findings about job types, versions of the code, pauses, schedules, unanswered questions,
-- silent jobs, and jobs that retry after the same error. Such a job waits for its retry, is due or
-- runs again. Of the next 5,000 rows of queue.deferred, up to 1,000 delayed jobs are read. A
-- running job is silent if the time since its last update exceeds both two minutes and the duration
-- of 99 % of the jobs of its type. If too few jobs of the type have ended, a job is silent after
-- ten minutes. If an operator pauses a queue or a job type for all workspaces, the pause is a
-- finding in each workspace that has due jobs there.
create or replace function queue.findings_of_workspace(p_workspace_id uuid, p_now timestamptz)
returns setof queue.finding
language sql stable
set search_path = ''
as $$
with tried as materialized ( -- jobs that may wait for a retry, and jobs that run one
  select j.*
  from (
    (
      select o.job_id
      from (
        select *
        from queue.deferred as q
        where p_workspace_id is null
          -- due jobs usually leave queue.deferred within seconds
          and q.run_at > p_now - interval '10 minutes'
        order by q.run_at
        limit 5000 -- many jobs may have a deadline
      ) as o
      where o.is_place
      limit 1000
    )
    union all
    (
      select o.job_id
      from (
        select *
        from queue.deferred as q
        where q.workspace_id = p_workspace_id and q.run_at > p_now - interval '10 minutes'
        order by q.run_at
        limit 5000
      ) as o
      where o.is_place
      limit 1000
    )
    union all
    (
      select l.job_id
      from queue.leases as l
      where l.attempt > 1 and (p_workspace_id is null or l.workspace_id = p_workspace_id)
      limit 1000
    )
  ) as d
  cross join lateral (
    select *
    from public.jobs as i
    where i.id = any (array[d.job_id])
    offset 0 -- without statistics, the planner would read all jobs first
  ) as j
  where j.attempts > 0 and j.error_message is not null
),
retrying as materialized (
  select
    j.workspace_id,
    'retrying' as kind,
    j.job_type,
    count(*) as jobs,
    (array_agg(j.id order by n.next_at, j.id))[:200] as job_ids,
    min(j.started_at) as since,
    min(n.next_at) as next_at,
    queue.fingerprint(j.error_message, j.error_data) as print,
    min(queue.short_error(j.error_message, j.error_data)) as error
  from (
    select *
    from tried
    union all
    select i.*
    from (
      select distinct t.lane
      from tried as t
      limit 20
    ) as t
    cross join lateral (
      select *
      from queue.ready as q
      where q.lane = t.lane and (p_workspace_id is null or q.workspace_id = p_workspace_id)
      limit 20 -- a due retry precedes the jobs that were enqueued after it
    ) as r
    cross join lateral (
      select *
      from public.jobs as o
      where o.id = any (array[r.job_id])
      offset 0
    ) as i
    where i.attempts > 0 and i.error_message is not null
  ) as j
  cross join lateral (
    values (case when j.next_retry_at > p_now then j.next_retry_at end)
  ) as n (next_at)
  where (j.status = 'processing' or j.next_retry_at is not null)
    and not queue.is_internal(j.job_type)
  group by j.workspace_id, j.job_type, print
  having count(*) >= 3
)
select
  'warn',
  'retrying_jobs',
  min(r.since),
  null::text,
  jsonb_build_object(
    'job_type', r.job_type,
    'print', r.print,
    'jobs', sum(r.jobs),
    'error', min(r.error),
    'next_at', min(r.next_at),
    'job_id', (
      array_agg(r.job_ids[1] order by r.next_at) filter (where r.next_at is not null)
    )[1],
    'attention', jsonb_agg(to_jsonb(r) - '{print,next_at}'::text[])
  )
from retrying as r
group by r.job_type, r.print
union all
select
  'warn',
  'refused_type',
  min(t.registered_at),
  t.refusal,
  jsonb_build_object(
    'job_type', min(t.job_type),
    'types', concat(
      array_to_string((array_agg(t.job_type order by t.job_type))[:3], ', '),
      ' and ' || nullif(greatest(count(*) - 3, 0), 0) || ' more'
    )
  )
from queue.job_types as t
where t.refusal is not null -- types belong to all workspaces
group by t.refusal
union all
select
  'warn',
  'two_codes',
  max(c.registered_at),
  format(
    'they serve %s',
    array_to_string((array_agg(c.job_type order by c.job_type))[:5], ', ')
  ),
  jsonb_build_object(
    'codes', array_to_string(c.codes, ' and '),
    -- a registered type is that of the newest deploy
    'newest', max(c.newest),
    'job_type', min(c.job_type)
  )
from ( -- code versions of each type that live workers run
  select
    j.job_type,
    j.registered_at,
    array_agg(distinct w.version) as codes,
    min(w.version) filter (
      where j.deployed_at is not null and w.version like '%+' || left(j.commit, 9)
    ) as newest
  from unnest(queue.live_workers(p_now)) as w
  join queue.job_types as j on j.job_type = any (w.job_types)
    -- several projects may serve the internal types
    and not j.in_order
  group by 1, 2
) as c
where cardinality(c.codes) > 1
group by c.codes
union all
select
  'warn',
  p.kind || '_paused',
  p.paused_at,
  p.reason,
  jsonb_build_object(
    'job_type', p.job_type,
    'queue', p.name,
    'workspace_id', p.workspace_id,
    'paused_at', p.paused_at,
    'jobs', d.jobs
  )
from queue.pauses as p
cross join lateral queue.due_in(
  coalesce(p_workspace_id, p.workspace_id),
  array(
    select l.lane
    from queue.lanes as l
    where case p.kind
      when 'queue' then l.queue = p.name
      when 'workspace' then true
      else l.job_type = p.job_type
    end
  )
) as d (jobs)
where p_workspace_id is null
  or p.workspace_id = p_workspace_id
  or p.workspace_id is null and d.jobs > 0
union all
select
  'warn',
  'late_schedule',
  s.next_at,
  s.problem,
  jsonb_build_object(
    'schedule', s.name,
    'problem', case when s.problem is null then 'is late' else 'enqueued no job' end
  )
from queue.schedules as s
where s.enabled
  and (s.problem is not null or s.next_at < p_now - interval '3 minutes')
  and (p_workspace_id is null or s.workspace_id = p_workspace_id)
union all
select
  'warn',
  'no_success',
  null,
  null,
  jsonb_build_object(
    'job_type', t.job_type,
    'attempts', t.failed
  )
from ( -- counts of a key are null if it was never counted
  select
    s.job_type,
    sum((s.counts ->> 'completed')::bigint) as completed,
    sum(
      (s.counts ->> 'retried')::bigint
      + (s.counts ->> 'failed')::bigint
      + coalesce((s.counts ->> 'snoozed')::bigint, 0)
    ) as failed
  from queue.stats as s
  where s.workspace_id = coalesce(p_workspace_id, '00000000-0000-0000-0000-000000000000')
    and s.at > p_now - interval '1 hour'
  group by 1
) as t
where t.completed = 0
  and t.failed >= 20
  and not queue.is_internal(t.job_type)
  -- the finding retrying_jobs names the error
  and t.job_type not in (select r.job_type from retrying as r)
union all
select
  'warn',
  'unserved_schedule',
  null,
  null,
  jsonb_build_object(
    'schedule', u.name,
    'job_type', u.job_type,
    'nearest', queue.nearest_type(u.job_type)
  )
from queue.unserved_schedules(p_workspace_id, p_now) as u
union all
select
  'warn',
  'waiting_schedule',
  w.since,
  null,
  jsonb_build_object('schedule', w.name, 'job_id', w.job_id)
from queue.waiting_schedules(p_workspace_id) as w
union all
select
  'warn',
  'silent_jobs',
  (s.jobs[1] ->> 'since')::timestamptz,
  null,
  s.jobs[1] || jsonb_build_object(
    'jobs', cardinality(n.jobs),
    'silent', (
      select jsonb_object_agg(j ->> 'job_id', j -> 'since')
      from unnest(n.jobs[:200]) as j -- limits the response
    ),
    'attention', (
      select jsonb_agg(to_jsonb(w))
      from (
        select
          j ->> 'workspace_id' as workspace_id,
          'silent' as kind,
          s.job_type,
          count(*) as jobs,
          (array_agg(j ->> 'job_id'))[:200] as job_ids,
          min(j ->> 'since') as since
        from unnest(n.jobs) as j
        group by 1
      ) as w
    ),
    'limit', queue.length_in_words(u.ms)
  )
from (
  select l.job_type, array_agg(to_jsonb(l) order by l.since) as jobs
  from (
    select n.job_type, o.*
    from (
      select
        r.lane,
        r.workspace_id,
        r.job_id,
        queue.seen_in(r.step, r.pulse ->> 'place') as seen,
        (r.pulse ->> 'since')::timestamptz as since
      from queue.leases as r
      where r.ctid > '(0,0)' -- reads pages in order, because all running jobs are read
        and r.pulse is not null
        and r.expires_at > p_now
        and (p_workspace_id is null or r.workspace_id = p_workspace_id)
      offset 0 -- few jobs are silent, so find them before the join with queue.lanes
    ) as o
    join queue.lanes as n on n.lane = o.lane
    where o.since < p_now - interval '2 minutes'
  ) as l
  group by 1
) as s
cross join lateral greatest(
  120000,
  coalesce(
    queue.usual_ms(
      coalesce(p_workspace_id, '00000000-0000-0000-0000-000000000000'),
      s.job_type,
      p_now
    ),
    600000
  )
) as u (ms)
cross join lateral (
  select array(
    select j
    from unnest(s.jobs) as j
    where (j ->> 'since')::timestamptz < p_now - u.ms * interval '1 ms'
  ) as jobs
) as n
where n.jobs <> '{}'
union all
select
  'warn',
  'unanswered',
  min(a.created_at),
  (array_agg(left(a.data ->> 'question', 200) order by a.created_at))[1],
  jsonb_build_object(
    'asked', 'answers',
    'jobs', count(*),
    'job_id', (array_agg(a.job_id order by a.created_at))[1]
  )
from (
  select *
  from queue.waits as w
  where w.kind = 'ask'
    and w.created_at < p_now - interval '1 day'
    and (p_workspace_id is null or w.workspace_id = p_workspace_id)
  limit 1000
) as a
having count(*) > 0
$$;

-- Return a finding for each workspace that has reached its limit of live jobs or of payload bytes,
-- and one if people have used up their rate limit, because the engine then rejects enqueues by
-- people. Return another if p_workspace_id can have no more schedules. Counting takes time, so the
-- live jobs of a workspace are counted only if its limit is at most 2,000, if the last count was at
-- least 90 % of the limit, or if the limit rejected an enqueue, because a rejected call stores no
-- count.
create or replace function queue.findings_of_limits(p_workspace_id uuid, p_now timestamptz)
returns setof queue.finding
language sql stable
set search_path = ''
as $$
with workspaces as (
  select p_workspace_id as id
  where p_workspace_id is not null
  union
  (
    select t.workspace_id
    from queue.tenant_limits as t
    where p_workspace_id is null and t.max_pending <= 2000
    limit 20
  )
  union
  (
    select t.workspace_id
    from queue.tenant_limits as t
    where p_workspace_id is null and t.max_pending > 2000
    limit 20
  )
  union
  (
    select substr(b.name, 3)::uuid
    from queue.buckets as b
    where p_workspace_id is null
      and b.name ~ '^[qb]:'
      and b.refilled_at > p_now - interval '1 hour'
    limit 20
  )
),
limits as (
  select
    w.id,
    coalesce(t.max_pending, queue.setting('user_pending_max')::integer) as jobs,
    queue.setting('user_pending_bytes_max')::bigint as bytes,
    q.tokens as last_jobs,
    b.tokens as last_bytes
  from workspaces as w
  left join queue.tenant_limits as t on t.workspace_id = w.id
  left join queue.buckets as q on q.name = 'q:' || w.id
  left join queue.buckets as b on b.name = 'b:' || w.id
)
select
  'warn',
  'full_workspace',
  null::timestamptz,
  null::text,
  jsonb_build_object(
    'limit', l.jobs,
    'more', 2 * greatest(c.jobs, 1),
    'workspace_id', l.id,
    'jobs', c.jobs
  )
from limits as l
cross join lateral queue.live_jobs(l.id, greatest(l.jobs + 1, 2000)) as c (jobs)
where c.jobs >= l.jobs
  and (
    l.jobs <= 2000
    or l.last_jobs >= 0.9 * l.jobs
    or (queue.last_full(l.id, 'max_pending')).rejected_at > p_now - interval '10 minutes'
  )
union all
select
  'warn',
  'full_of_bytes',
  null,
  null,
  jsonb_build_object(
    'live', pg_size_pretty(c.bytes),
    'limit', pg_size_pretty(l.bytes),
    'more', 2 * greatest(c.bytes, l.bytes),
    'workspace_id', l.id
  )
from limits as l
cross join lateral (
  select sum(pg_column_size(j.payload)) as bytes
  from queue.places(l.id, '{pending,processing,waiting}', 1000000) as p
  join public.jobs as j on j.id = p.job_id
) as c
where c.bytes >= l.bytes
  and (
    l.last_bytes >= 0.9 * l.bytes
    or (queue.last_full(l.id, 'user_pending_bytes_max')).rejected_at > p_now - interval '10 minutes'
  )
union all
select
  'warn',
  'full_of_schedules',
  null,
  null,
  jsonb_build_object('limit', count(*), 'more', 2 * count(*))
from queue.schedules as s
where s.workspace_id = p_workspace_id
having count(*) >= queue.setting('schedules_max')::bigint
union all
select
  'warn',
  'rate_used_up',
  max(b.refilled_at),
  null,
  jsonb_build_object('per_second', r.most, 'more', 2 * r.most, 'people', count(*))
from (values (queue.setting('user_enqueues_per_second')::numeric)) as r (most)
cross join (
  select b.name
  from queue.buckets as b
  where p_workspace_id is null and b.name ~ '^u:.*/enqueues$'
  union all
  select format('u:%s/enqueues', m.user_id)
  from queue.tenant_members as m
  where m.workspace_id = p_workspace_id
) as u
join queue.buckets as b on b.name = u.name
where b.tokens < 1 and b.refilled_at > p_now - interval '1 minute'
group by r.most
$$;

-- Return the jobs that failed for good in the last hour, grouped by workspace, type and error, as
-- the key `attention` of public.explain_queue has them. Only the newest 200 failed jobs of a
-- workspace are read. For all workspaces, 1,000 failed jobs of the 50 workspaces in which the last
-- jobs failed are read.
create or replace function queue.recent_failures(p_workspace_id uuid, p_now timestamptz)
returns jsonb
language sql stable
set search_path = ''
as $$
with workspaces as (
  select p_workspace_id as workspace_id
  where p_workspace_id is not null
  union all
  (
    select s.workspace_id
    from (
      select *
      from queue.stats as o
      where p_workspace_id is null and o.at > p_now - interval '65 minutes'
      order by o.at desc
      limit 2000
    ) as s
    where (s.counts ->> 'failed')::bigint > 0
      and s.workspace_id <> '00000000-0000-0000-0000-000000000000'
    group by 1
    order by max(s.at) desc, 1
    limit 50
  )
)
select coalesce(jsonb_agg(to_jsonb(g) - '{print,last_at}'::text[] order by g.last_at desc), '[]')
from (
  select
    j.workspace_id,
    'failed' as kind,
    j.job_type,
    count(*) as jobs,
    bool_or(d.more) as more,
    (array_agg(j.id order by j.finished_at desc, j.id))[:200] as job_ids,
    min(j.finished_at) as since,
    max(j.finished_at) as last_at,
    queue.fingerprint(j.error_message, j.error_data) as print,
    min(queue.short_error(j.error_message, j.error_data)) as error
  from (
    select w.workspace_id, least(200, 1000 / count(*) over ()) as most
    from workspaces as w
  ) as w
  cross join lateral (
    select o.job_id, count(*) over () = w.most as more
    from (
      select *
      from queue.dead as l
      where l.workspace_id = w.workspace_id
      order by l.workspace_id desc, l.job_id desc
      limit w.most
    ) as o
  ) as d
  cross join lateral (
    select *
    from public.jobs as i
    where i.id = any (array[d.job_id])
    offset 0 -- without statistics, the planner would read all jobs first
  ) as j
  where j.finished_at > p_now - interval '1 hour'
    and not queue.is_internal(j.job_type)
  group by j.workspace_id, j.job_type, print
  order by last_at desc
  limit 50 -- limits the response
) as g
$$;

create or replace function public.explain_queue(p_workspace_id uuid default null)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
set timezone = 'UTC'
as $$ -- sentences show times in UTC
declare
  v_now constant timestamptz := queue.clock();
  v_seen_at constant timestamptz := queue.last_call();
  v_backlog jsonb;
  v_findings jsonb;
  v_attention jsonb;
begin
  perform queue.refuse_revoked();
  perform queue.may_read(p_workspace_id, p_reads_much => true);
  if exists (
    select from pg_catalog.pg_locks as l
    where l.relation = 'public.jobs'::regclass and l.mode = 'AccessExclusiveLock'
  ) then
    -- report only the session that must end, because all reads of the table would wait for it
    select jsonb_agg(
      to_jsonb(f) - 'data' || jsonb_build_object('key', f.reason) || queue.render_guidance(
        f.reason,
        f.data || jsonb_build_object('since', f.since)
      )
    )
    into v_findings
    from queue.findings_of_locks(p_workspace_id, v_now) as f;
    if v_findings is not null then
      return jsonb_build_object(
        'now', v_now,
        'verdict', 'warn',
        'findings', v_findings,
        'attention', '[]'::jsonb,
        'holders', '[]'::jsonb,
        'backlog', '{"jobs": null, "detail": "unknown: the table of jobs is locked"}'::jsonb,
        'last_tick_seconds', extract(epoch from v_now - v_seen_at)
      );
    end if;
  end if;
  v_backlog := queue.backlog(
    p_workspace_id,
    v_now,
    case when not queue.is_operator() then queue.caller() end
  );
  if p_workspace_id is null then
    -- also use the age of due jobs in queue.deferred, because maintenance makes these jobs ready
    -- only while workers run
    v_backlog := v_backlog || jsonb_build_object(
      'oldest_due_seconds', greatest(
        (v_backlog ->> 'oldest_due_seconds')::numeric,
        (
          select extract(epoch from v_now - min(d.run_at))
          from queue.deferred as d
          where d.run_at <= v_now - interval '10 seconds'
        )
      )
    );
  end if;
  select jsonb_agg(
    jsonb_build_object(
      'verdict', f.verdict,
      'reason', f.reason,
      'key', k.key,
      'since', f.since,
      'cause', f.cause,
      'jobs', f.data -> 'jobs',
      'silent', f.data -> 'silent',
      'unserved', f.data -> 'unserved'
    ) || coalesce(
      f.data -> 'said',
      queue.render_guidance(
        f.reason,
        queue.number_of(f.data) || f.data || jsonb_build_object(
          'since', f.since,
          -- the sentences about one of all workspaces name the workspace
          'which', case when p_workspace_id is null then f.data -> 'workspace_id' end
        )
      )
    )
    order by f.verdict <> 'fail', (f.data ->> 'jobs')::integer desc nulls last, f.reason
  ), jsonb_path_query_array(
    coalesce(jsonb_agg(f.data -> 'attention') filter (where f.data ? 'attention'), '[]'),
    '$[*][*]'
  )
  into v_findings, v_attention
  from (
    select *
    from queue.findings_of_queue(p_workspace_id, v_now, v_backlog, v_seen_at)
    union all
    select *
    from queue.findings_of_locks(p_workspace_id, v_now)
    union all
    -- members of a workspace do not see the size of the database
    select
      d.verdict,
      case when p_workspace_id is null then d.reason else 'service_full' end,
      d.since,
      case when p_workspace_id is null then d.cause end,
      d.data
    from queue.findings_of_disk() as d
    where p_workspace_id is null or d.reason = 'disk_nearly_full'
    union all
    select *
    from queue.findings_of_workspace(p_workspace_id, v_now)
    union all
    select *
    from queue.findings_of_limits(p_workspace_id, v_now)
    union all
    select *
    from queue.findings_of_deaths(p_workspace_id, v_now)
    union all
    select *
    from queue.findings_of_apps(p_workspace_id)
  ) as f
  cross join concat_ws(
    ' ',
    f.reason,
    coalesce(
      f.data ->> 'queue',
      f.data ->> 'schedule',
      f.data ->> 'job_type',
      f.data ->> 'workspace_id',
      f.data ->> 'url',
      f.data ->> 'worker_id',
      f.data ->> 'function',
      f.data ->> 'asked'
    ),
    f.data ->> 'print'
  ) as k (key);
  return jsonb_build_object(
    'now', v_now,
    'verdict', coalesce(v_findings #>> '{0,verdict}', 'pass'),
    'findings', coalesce(v_findings, '[]'),
    'attention', v_backlog -> 'attention' || v_attention
      || queue.recent_failures(p_workspace_id, v_now),
    'holders', queue.holders(p_workspace_id, null, v_now),
    'backlog', v_backlog - 'attention',
    'last_tick_seconds', extract(epoch from v_now - v_seen_at)
  );
end;
$$;

comment on function public.explain_queue is
  'Findings, worst first, and holders for which jobs wait, most jobs first: {now, verdict, '
  'findings: [{verdict, reason, key, sentence, since, cause, jobs, silent, unserved, next: [{kind, '
  'words, command, path}]}], attention: [{workspace_id, kind, job_type, jobs, more, job_ids, '
  'since, error}], holders: [{jobs, more, since, kind, reason, sentence, cause, next, holder, '
  'job_id, job_types, keys}], backlog, last_tick_seconds}. silent has the time of the last update '
  'of each silent job, unserved the job types that no worker serves. attention has up to 200 ids '
  'of the jobs that are silent, have no_worker, are retrying or failed in the last hour. Only '
  'operators may omit p_workspace_id.';

create or replace function public.queue_health()
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_found constant jsonb := public.explain_queue();
begin
  perform queue.refuse_revoked();
  if v_found #>> '{backlog,jobs}' is null then
    -- checks and metrics would read null as no due job
    perform queue.refuse(503, 'busy', v_found #>> '{findings,0,sentence}');
  end if;
  return v_found || jsonb_build_object(
    'oldest_due_seconds', v_found #> '{backlog,oldest_due_seconds}'
  );
end;
$$;

comment on function public.queue_health is
  'Health of the queue in one call: explain_queue of all workspaces, and the age of the oldest due '
  'job. An error with the status 503 if the table of jobs is locked.';

select queue.allow('job_worker, service_role', 'public.queue_health');

create or replace function public.queue_stats(
  p_workspace_id uuid default null,
  p_minutes integer default 60
)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_since constant timestamptz := date_bin(
    '5 minutes',
    v_now - make_interval(mins => least(11520, greatest(1, coalesce(p_minutes, 60)))),
    '2000-01-01 00:00:00+00'
  );
begin
  perform queue.refuse_revoked();
  perform queue.may_read(p_workspace_id, p_reads_much => true);
  return jsonb_build_object(
    'now', v_now,
    'since', v_since,
    'late_since', queue.statistics_stale_since(v_now),
    'backlog', queue.backlog(p_workspace_id, v_now) - 'attention',
    'live', (
      public.count_jobs(
        p_workspace_id,
        -- in a workspace, count the same jobs as the default list
        case when p_workspace_id is null then '{}' else '{"internal": false}'::jsonb end
      ) -> 'states'
    ) - '{completed,failed,cancelled}'::text[],
    'types', (
      select coalesce(jsonb_object_agg(n.job_type, n.line), '{}')
      from queue.type_numbers(p_workspace_id, v_since, '9 days') as n
    ),
    'pauses', (
      select coalesce(jsonb_agg(to_jsonb(p)), '[]')
      from queue.pauses as p
      where coalesce(p.workspace_id = p_workspace_id, true)
    ),
    'tenants', case
      when p_workspace_id is null then (
        select coalesce(
          jsonb_agg(
            to_jsonb(t) || jsonb_build_object(
              'running', (
                select count(*)
                from queue.leases as l
                where l.workspace_id = t.workspace_id
              )
            )
            order by t.enqueued desc
          ),
          '[]'
        )
        from (
          select
            s.workspace_id,
            sum((s.counts ->> 'enqueued')::bigint) as enqueued,
            sum((s.counts ->> 'failed')::bigint) as failed
          from queue.stats as s
          where s.workspace_id <> '00000000-0000-0000-0000-000000000000'
            and s.at >= v_since
          group by 1
          order by 2 desc
          limit 20
        ) as t
      )
    end,
    'workers', case
      when p_workspace_id is null then (
        select coalesce(
          jsonb_agg(to_jsonb(w) - 'worker' order by w.seen_at desc),
          '[]'
        )
        from (
          select *
          from queue.workers
          order by seen_at desc
          limit 20
        ) as w
      )
    end
  );
end;
$$;

comment on function public.queue_stats is
  'Counts and percentiles of each job type in the last p_minutes, 1 to 11,520. late_since: Time of '
  'the first event that the statistics do not include yet. Only operators may omit p_workspace_id. '
  'The result then covers all workspaces, and lists the last 20 workers and the 20 workspaces that '
  'enqueued most jobs.';

select queue.allow('authenticated, job_worker, service_role', 'public.queue_stats');

-- Move the jobs p_ids to their next table, for example from queue.deferred to queue.ready, or end
-- them. A job ends if its deadline has passed, or if its latest time for a start has passed before
-- it started. A job of an internal type ends if a person enqueued it before the type was published,
-- because people may not enqueue jobs of internal types.
create or replace function queue.promote(p_ids uuid[], p_now timestamptz)
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

select queue.close_tables();

-- Revoke the right of all roles to execute private functions. Rights of single roles remain,
-- because policies, column defaults and guests need them.
revoke execute on all functions in schema queue from public;

drop function queue.was_full(uuid,text,timestamp with time zone);
