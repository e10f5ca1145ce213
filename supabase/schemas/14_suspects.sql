-- A suspect is a job whose worker process ended while the process also ran other jobs. Because no
-- one knows which job ended the process, the engine releases each job of the process as a suspect,
-- and no job loses an attempt. Suspects run in groups. A worker process that runs one group of
-- suspects runs no other jobs. In the names of columns and functions, a group of suspects is called
-- a company.
--
--   queue.blame             decides which jobs may have ended a process.
--     queue.expired_items     converts expired leases to outcomes that queue.settle applies.
--   queue.lease_mode        decides which jobs a worker may lease while suspects wait.
--   queue.lease_suspects    leases one group of suspects, within all limits.
--   queue.settle            deletes suspects whose attempts ended before their process did.
--
-- When a worker process ends, its jobs are split into groups of about the same size. By default,
-- the jobs are split into two groups. The host of the process can request up to 100 groups in the
-- evidence that the host writes about the end of the process. If there are at least as many groups
-- as job types, no group has jobs of two types, because the jobs that end processes usually have
-- the same type. If there are more job types than groups, the jobs are sorted by type before the
-- split, so that most jobs of a type stay together. If the evidence names the job whose code ran
-- when the process ended, this job gets its own group. If the process of a group of suspects
-- also ends, the group is split again. A job that ran alone when its process ended is guilty. A
-- guilty job loses an attempt, and runs alone again in its next attempt.

-- For each worker whose leases have expired, decide which jobs may have ended the worker's process.
-- Store guilty jobs and suspects in queue.suspects. For each job, the function returns the verdict
-- guilty, suspect or innocent.
-- guilty: Only this job can have ended the process.
-- suspect: This job or another job of the process may have ended the process.
-- innocent: The stack trace of the process shows code of another job type, or the process was
--   stopped on purpose, so this job did not end the process.
--
-- The evidence of how a process ended contains a list of the jobs in the process. A job that is
-- missing from the list may still be guilty, because the job may have begun after the process wrote
-- the list.
--
-- others: Number of other jobs that ran in the job's process.
create function queue.blame(p_ids uuid[], p_now timestamptz)
returns table (job_id uuid, verdict text, others integer)
language plpgsql
set search_path = ''
as $$
#variable_conflict use_column
begin
  return query
    with held as materialized (
      select
        l.job_id,
        l.workspace_id,
        l.worker,
        l.lane,
        w.worker_id,
        l.job_id = any (p_ids) as is_lost,
        coalesce(
          w.evidence ? 'stopped'
            or w.evidence ? 'stack' and w.evidence ->> 'guilty_type' <> n.job_type,
          false
        ) as is_innocent,
        l.job_id::text = w.evidence ->> 'current_job' as is_current,
        (
          select max(o.jobs)
          from queue.lost_leases as o
          where o.worker = l.worker and o.lost_at >= l.leased_at
        ) as lost_with,
        -- Number of jobs without a lease that were stopped, but whose processors ignored the stop
        -- and still ran in the process. Without evidence that the process ended, the number is
        -- zero, because the process may still be alive. If abandoned jobs counted without evidence,
        -- a job that always loses its worker would never lose an attempt.
        (
          select count(distinct a.job_id)
          from jsonb_to_recordset(w.abandoned) as a (job_id uuid)
          where w.evidence is not null and not exists (
            select from queue.leases as o
            where o.job_id = a.job_id and o.worker = l.worker
          )
        ) as abandoned,
        least(greatest((w.evidence ->> 'companies')::integer, 2), 100) as companies,
        count(*) over (partition by l.worker)::integer as held,
        count(*) over (partition by l.worker, l.lane)::integer as held_of_lane,
        dense_rank() over (partition by l.worker order by l.lane) as nth_lane
      from queue.leases as l
      join queue.lanes as n on n.lane = l.lane
      join queue.workers as w on w.worker = l.worker
      where l.worker = any (array(
        select o.worker
        from queue.leases as o
        where o.job_id = any (p_ids)
      ))
    ),
    typed as materialized ( -- separate_lane is null if a group may have jobs of several types
      select
        h.*,
        case
          when max(h.nth_lane) over (partition by h.worker) <= h.companies then h.lane
        end as separate_lane
      from held as h
    ),
    counted as materialized (
      select
        h.*,
        greatest(count(*) over process + h.abandoned, h.lost_with) as jobs,
        greatest(
          count(*) filter (where not h.is_innocent) over process + h.abandoned,
          h.lost_with
        ) as candidates,
        case
          when h.is_current then 0 -- alone
          else ntile(case
            when h.separate_lane is null then h.companies
            else (h.companies * h.held_of_lane + h.held - 1) / h.held -- rounded up
          end) over (
            partition by h.worker, h.separate_lane, h.is_innocent
            order by h.lane, h.job_id
          )
        end as part
      from typed as h
      window process as (partition by h.worker)
    ),
    noted as ( -- store the number of jobs for leases that expire later
      insert into queue.lost_leases (worker, lost_at, jobs)
      select c.worker, p_now, max(c.jobs)
      from counted as c
      group by c.worker
      having not bool_and(c.is_lost)
    ),
    marked as (
      insert into queue.suspects as s (job_id, workspace_id, worker, company, since)
      select
        c.job_id,
        c.workspace_id,
        c.worker,
        case c.candidates
          when 1 then c.job_id
          else md5(concat_ws(' ', c.worker_id, c.part, c.separate_lane))::uuid
        end,
        p_now
      from counted as c
      where c.is_lost and not c.is_innocent
      on conflict (job_id) do update set
        worker = excluded.worker,
        company = excluded.company,
        since = excluded.since
    )
    select
      c.job_id,
      case
        when c.is_innocent then 'innocent'
        when c.candidates = 1 then 'guilty'
        else 'suspect'
      end,
      c.jobs::integer - 1
    from counted as c
    where c.is_lost;
end;
$$;

-- Describe how a process ended, for example ' (SIGKILL, 1900 MB)'. Return an empty text if the
-- evidence has no signal, exit code or memory size.
create function queue.process_end(p_evidence jsonb)
returns text
language sql immutable
set search_path = ''
as $$
select coalesce(
  ' (' || nullif(concat_ws(
    ', ',
    coalesce(
      replace(p_evidence ->> 'signal', 'SIGSTOP', 'after SIGSTOP'), -- it only stops a process
      'exit code ' || (p_evidence ->> 'exit_code')
    ),
    (p_evidence ->> 'memory_mb') || ' MB'
  ), '') || ')',
  ''
)
$$;

-- Return a number of other jobs as text, for example '29 other jobs'.
create function queue.other_jobs(p_count integer)
returns text
language sql immutable
set search_path = ''
as $$
select case p_count when 1 then '1 other job' else p_count || ' other jobs' end
$$;

-- Return the time of a worker's last recorded call. Renewals change the worker's leases only.
create function queue.called_at(p_worker queue.workers)
returns timestamptz
language sql stable
set search_path = ''
as $$
select greatest(
  p_worker.seen_at,
  max(l.expires_at - make_interval(secs => l.lease_seconds))
)
from queue.leases as l
where l.worker = p_worker.worker
$$;

-- Return the time at which the key of a worker expired, if the last recorded call of the worker, at
-- p_called_at, was at most p_within earlier. A worker that signs its own keys changes each key two
-- minutes before it expires. Its row has the new key at most a minute later, but only if the worker
-- has free slots, because renewals do not update the row. So an old row is evidence only of a key
-- that is valid for longer than an hour. The Data API accepts a key for 30 seconds longer.
create function queue.key_end(
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

-- Return the time at which the key of a worker was revoked, if the worker's last recorded call, at
-- p_called_at, was at most two minutes earlier. An old row is no evidence of a short key, as for
-- queue.key_end.
create function queue.key_revoked_at(p_worker queue.workers, p_called_at timestamptz)
returns timestamptz
language sql stable
set search_path = ''
as $$
select max(r.at)
from jsonb_array_elements(queue.setting('worker_keys_revoked')) as e (revocation)
cross join lateral (
  values (
    to_timestamp((e.revocation ->> 'from')::double precision), -- in whole seconds
    to_timestamp((e.revocation ->> 'before')::double precision)
  )
) as r (at, issued_before)
where r.at <= queue.clock()
  and (p_worker.summary ->> 'key_issued_at')::timestamptz < r.issued_before
  and p_called_at between r.at - interval '2 minutes' and r.at + interval '1 second'
  and (
    p_worker.seen_at >= r.at - interval '2 minutes'
    or (p_worker.summary ->> 'key_issued_at')::timestamptz
      < (p_worker.summary ->> 'key_expires_at')::timestamptz - interval '1 hour'
  )
  and not (p_worker.summary ? 'stopped' or p_worker.evidence is not null)
$$;

-- Convert the expired leases of jobs to outcomes that queue.settle applies. A guilty job loses the
-- attempt, with the reason worker_lost. If there is evidence of how its process ended, the guilty
-- job is retried only after its backoff. Suspects and innocent jobs are released with the reason
-- process_died, and do not lose an attempt.
create function queue.expired_items(p_ids uuid[], p_now timestamptz)
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
              then 'attempt %1$s does not count: the process of worker %2$s ended%3$s%4$s'
            when 'suspect' then 'attempt %1$s does not count: '
              || case
                when w.evidence is null then 'the last recorded call of worker %2$s was at %6$s,'
                else 'the process of worker %2$s ended%3$s'
              end
              || ' while it also ran %5$s; the job runs next alone, or with some of these jobs'
            when 'guilty' then case
              when w.evidence is null
                then 'attempt %1$s was lost: its lease expired; the last recorded call of worker '
                  '%2$s was at %6$s'
              else 'attempt %1$s was lost: the process of worker %2$s ended%3$s while the job ran'
            end
          end,
          l.attempt,
          w.worker_id,
          queue.process_end(w.evidence),
          coalesce(
            ' while code of the job type ' || (w.evidence ->> 'guilty_type') || ' ran',
            case when w.evidence ->> 'signal' <> 'SIGSTOP' then ' while its host stopped' end
          ),
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

-- Return the ready suspects of the job types p_job_types, or of all job types if p_job_types is
-- null.
create function queue.ready_suspects(p_job_types text[])
returns table (job_id uuid, company uuid, since timestamptz, lane integer, ord bigint)
language sql stable
set search_path = ''
as $$
select s.job_id, s.company, s.since, j.lane, j.ord
from queue.suspects as s
join public.jobs as j on j.id = s.job_id
join queue.ready as r
  on r.lane = j.lane
  and r.workspace_id = j.workspace_id
  and r.ord = j.ord
  and r.job_id = j.id
where j.status = 'pending' and coalesce(j.job_type = any (p_job_types), true)
$$;

-- Decide which jobs a worker may lease while suspects wait. queue.lease_mode returns the text
-- suspects, others or nothing.
-- suspects: The worker may lease a group of suspects, because the worker's process runs no job.
-- others: The worker may lease all jobs except suspects.
-- nothing: The worker may lease no job, because its process already runs suspects, or because its
--   other running jobs must end first.
create function queue.lease_mode(p_request queue.lease_request, p_now timestamptz)
returns text
language plpgsql
set search_path = ''
as $$
declare
  v_held record;
begin
  -- allow one lease call of a worker at a time, because the call must count the jobs that the
  -- worker runs
  perform queue.try_lock('worker ' || p_request.worker, p_waits => true);
  select count(*) as jobs, count(s.job_id) as suspects
  into v_held
  from queue.leases as l
  left join queue.suspects as s on s.job_id = l.job_id
  where l.worker = p_request.worker;
  return case
    when v_held.suspects > 0 then 'nothing'
    when p_request.suspects is false then 'others' -- another process of the host runs suspects
    when v_held.jobs = 0 then 'suspects'
    when p_request.suspects then 'nothing'
    -- Workers of release 0.4.4 start no separate process for suspects, and such a worker may never
    -- be without running jobs. If suspects have waited for 30 seconds, the oldest worker that serves
    -- the job types of the suspects gets no other job, so that this worker becomes free.
    when p_request.worker = (
      select min(l.worker)
      from queue.leases as l
      join queue.workers as w on w.worker = l.worker
      where exists (
        select from queue.ready_suspects(w.job_types) as s
        where s.since < p_now - interval '30 seconds'
      )
    ) then 'nothing'
    else 'others'
  end;
end;
$$;

-- Lease the jobs of one group of suspects, within the limits of types, workspaces and pools.
-- queue.lease_suspects does not check the limits of concurrency keys, because a suspect already
-- counts against the limit of its key.
create function queue.lease_suspects(p_request queue.lease_request, p_now timestamptz)
returns queue.taken
language plpgsql
set search_path = ''
as $$
declare
  v_open constant record := queue.open_lanes(p_request.job_types, p_request.queues);
  v_company record;
  v_types record;
  v_turns queue.turn[];
  v_taken queue.taken;
begin
  for v_company in
    select s.company, array_agg(distinct s.lane) as lanes
    from queue.ready_suspects(p_request.job_types) as s
    where s.lane = any (v_open.lanes)
      and s.job_id <> all (queue.refused('lease', p_now))
    group by s.company
    -- Workers with even numbers first take the smallest group of suspects without a guilty job, so
    -- that a guilty job is found soon, even if many groups wait. Workers with odd numbers take the
    -- oldest group, so that every group runs.
    order by
      case p_request.worker % 2 when 0 then bool_or(s.company = s.job_id) end,
      case p_request.worker % 2 when 0 then count(*) end,
      min(s.since),
      s.company
    limit 50
  loop
    -- skip the group if another process is leasing or running jobs of the group
    continue when not queue.try_lock('company ' || v_company.company) or exists (
      select from queue.suspects as s
      join queue.leases as l on l.job_id = s.job_id
      where s.company = v_company.company
    );
    v_types := queue.lock_types(v_company.lanes, v_open.limited, p_now);
    v_turns := (queue.limit_turns(
      array(
        select row(
          t.lane, t.workspace_id, 0, t.rank, 0, t.from_ord, 1, null, false, null, null, null
        )::queue.turn
        from queue.unblocked_turns as t
        where t.lane = any (v_types.open)
          and t.workspace_id = any (array(
            select o.workspace_id
            from queue.suspects as o
            where o.company = v_company.company
          ))
      ),
      p_now
    )).turns;
    p_request.job_ids := array(
      select c.job_id
      from (
        select
          s.job_id,
          coalesce(least(
            t.type_free - row_number() over (partition by t.job_type order by s.ord),
            t.own_free - row_number() over (
              partition by t.job_type, t.workspace_id
              order by s.ord
            ),
            t.tenant_free - row_number() over (partition by t.workspace_id order by s.ord),
            p."limit" - row_number() over (partition by p.nth order by s.ord)
          ), 0) as slots_left
        from queue.ready_suspects(p_request.job_types) as s
        join public.jobs as j on j.id = s.job_id
        join unnest(v_turns) as t
          on t.lane = s.lane and t.workspace_id = j.workspace_id and not t.is_paused
        join (
          select 1 as nth, p_request.job_types, p_request."limit"
          where p_request.pools is null
          union all
          select row_number() over (), o.job_types, o."limit"
          from jsonb_to_recordset(p_request.pools) as o (job_types text[], "limit" integer)
        ) as p on coalesce(t.job_type = any (p.job_types), true)
        where s.company = v_company.company
          and s.job_id <> all (queue.refused('lease', p_now))
      ) as c
      where c.slots_left >= 0
    );
    continue when p_request.job_ids = '{}';
    v_taken := (queue.take(
      array(
        select row(j.lane, j.workspace_id, min(j.ord), count(*))::queue.share
        from public.jobs as j
        where j.id = any (p_request.job_ids)
        group by j.lane, j.workspace_id
      ),
      p_request,
      greatest(p_now, queue.clock())
    )).taken;
    exit when v_taken.ids is not null;
  end loop;
  perform queue.spend_starts(v_taken.ids, p_now) where v_taken.ids is not null;
  return v_taken;
end;
$$;
