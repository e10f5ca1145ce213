-- 0.5.3 after the release before it; written by `python -m infra.release` from schemas.
-- Do not edit it, and do not read it: read the schemas.

-- Return the release of the engine's schema, which is the value of minutehand.version. `minutehand
-- doctor` compares this release with the release that the project recorded.
create or replace function queue.version()
returns text
language sql immutable
set search_path = ''
as $$
select '0.5.3'
$$;

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
    jsonb_build_object('key_expires_at', to_timestamp(
      least((auth.jwt() ->> 'exp')::double precision, 253402300799) -- at most the year 9999
    ))
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
        p_request -> 'summary' || jsonb_build_object('key_expires_at', summary -> 'key_expires_at'),
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
        queue.fingerprint(j.error_message, j.error_data) as print,
        j.finished_at > t.deployed_at and j.created_at < t.deployed_at and exists (
          select from queue.attempts as a
          where a.job_id = j.id
            and a.ended_at < t.deployed_at
            and queue.fingerprint(a.error_message, a.error_data)
            = queue.fingerprint(j.error_message, j.error_data)
        ) as is_old,
        c.job_type as cause_type,
        queue.fingerprint(c.error_message, c.error_data) as cause_print
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
-- worker's row is updated once a minute.
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
$$;

-- Return the emitted event of the workspace whose name is most similar to p_event. Only the names
-- before and after p_event in the alphabet are compared, and only names with the same numbers,
-- because numbers usually identify the subject of an event.
create or replace function queue.nearest_event(p_workspace_id uuid, p_event text)
returns text
language sql stable
set search_path = ''
as $$
select queue.nearest_name(p_event, array(
  select e.name
  from (
    (
      select n.name
      from queue.named_events as n
      where n.workspace_id = p_workspace_id and n.name > p_event
      order by n.name
      limit 5
    )
    union all
    (
      select n.name
      from queue.named_events as n
      where n.workspace_id = p_workspace_id and n.name < p_event
      order by n.name desc
      limit 5
    )
  ) as e
  where array(select n[1]::numeric from regexp_matches(e.name, '[0-9]+', 'g') as n)
    = array(select n[1]::numeric from regexp_matches(p_event, '[0-9]+', 'g') as n)
))
$$;

-- Return the time at which the key of the last worker expired, if the worker called until then. A
-- worker that signs its own keys changes each key two minutes before it expires, and its row at
-- most a minute later.
create or replace function queue.key_expired_at()
returns timestamptz
language sql stable
set search_path = ''
as $$
select k.at
from (
  select
    (w.summary ->> 'key_expires_at')::timestamptz as at,
    w.summary ? 'stopped' or w.evidence is not null as was_stopped
  from queue.workers as w
  order by w.seen_at desc
  limit 1
) as k
where queue.last_call() between k.at - interval '55 seconds' and k.at + interval '1 minute'
  and k.at <= queue.clock()
  and not k.was_stopped
$$;

drop function queue.is_unserved(text[],text[],queue.workers[],timestamp with time zone);

-- Return the job types p_job_types with the columns `unserved` and `in_other_queues`. The column
-- `unserved` is true if workers run, but none of them serves the job type in its queue. The column
-- `in_other_queues` is true if workers serve the type, but only in other queues.
-- p_queues: For each job type of p_job_types, the queue that a worker must serve. Null if a worker
--   may serve the type in any queue.
create or replace function queue.is_unserved(
  p_job_types text[],
  p_queues text[],
  p_alive queue.workers[],
  p_now timestamptz
)
returns table (job_type text, queue text, unserved boolean, in_other_queues boolean)
language sql stable
set search_path = ''
as $$
with workers as materialized ( -- most workers serve the same types
  select distinct w.job_types, w.queues
  from unnest(p_alive) as w
  where w.slots is distinct from '[]' -- a process that runs only suspects serves no other job
)
select
  t.job_type,
  t.queue,
  exists (select from workers)
    and s.is_served is not true
    and (
      s.in_other_queues
      or not exists (
        select from queue.job_types as o
        where o.job_type = t.job_type
          and o.refusal is null
          and o.registered_at > p_now - interval '1 minute'
      )
    ),
  s.in_other_queues
from unnest(p_job_types, p_queues) as t (job_type, queue)
cross join lateral (
  select
    bool_or(k.is_same) as is_served,
    coalesce(not bool_or(k.is_same), false) as in_other_queues
  from workers as w
  cross join lateral (
    values (t.queue is null or w.queues is null or t.queue = any (w.queues))
  ) as k (is_same)
  where w.job_types is null or t.job_type = any (w.job_types)
) as s
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
      (
        'lost',
        'How its process ended is unknown. See the logs of its worker, then retry the job.'
      ),
      (
        'lost:kill',
        'SIGKILL usually means the memory limit. Give the worker more memory, or let the job use '
          'less. Then retry the job.'
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
        'Exit code 1 usually means that a call blocked the event loop. Give the call a time limit, '
          'or write the processor without `async`. Then retry the job.'
      ),
      (
        'lost:exit',
        'Its process ended itself ({code}), usually by a call in its code. Remove the call, then '
          'retry the job.'
      ),
      (
        'killed',
        'A program that it started was killed by {signal}, as happens at the memory limit. Give '
          'the worker more memory, or let the program use less.'
      ),
      (
        'machine',
        'Its machine or the database ran out of a resource ({code}). Free some of it.'
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
        'Correct the trigger, constraint or value that the error names, then retry the job.'
      ),
      (
        'credentials',
        'Fix the credentials or their rights, which were rejected ({code}).'
      ),
      (
        'grant',
        'The role of its database connection lacks a right ({code}). Grant the right that the '
          'error names, then retry the job.'
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
        'The other service cannot be used. Check its address, its certificate or TLS setting, and '
          'whether it runs. Then retry the job.'
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
        'All worker keys were revoked at {revoked_at}. Give the workers a new key.',
        'token worker',
        '/overview'
      ),
      (
        '{no_worker}',
        'The key of the last worker expired at {key_expired_at}. Give the workers a new key.',
        'token worker',
        '/overview'
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
        'End that session if no one needs it: `select pg_terminate_backend({pid})`.',
        null,
        '/overview'
      ),
      (
        '{full_workspace, full_of_bytes}',
        'Wait until jobs have ended.',
        'ls --state queued',
        '/jobs?state=queued'
      ),
      (
        '{disk_filling, disk_nearly_full}',
        'Enlarge the disk and set its new size (`set_settings`, `disk_bytes`), or keep ended jobs '
          'for fewer days (`retention_days`).',
        null,
        '/overview'
      ),
      (
        '{service_full, wrong_clock, late_events, workers_lack_right}',
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
      'It failed at {finished_at} after {attempts} of {max_attempts} attempts: {error_line}',
      'Correct [the code or its data at {place}|what the error names], then retry the job. '
        'Finished steps are kept.',
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
      'Enqueue it again with a later deadline.',
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
      'Retry the job with a payload that fits the type, or give new fields of the type a default. '
        'If the worker is older than the payload, deploy the worker.',
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
      'The database rejects a change of the job''s row. The change is retried at {retry_at}.',
      'Fix the trigger or constraint that rejects the change, then wait.',
      'explain {job_id}',
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
        'request with its next report, at the latest at {expires_at}.',
      'Nothing to do until {expires_at}. It ends by then.',
      'watch {job_id}',
      null
    ),
    (
      'running',
      'Worker {worker_id} has been running it since {leased_at}.[ The worker misses its renewals. '
        'Its last known call was at {missed_since}.][ {death}. It runs with {beside} of them and '
        'nothing else.| {death}. It runs alone.| Its lease lasts until {lease_until} unless it '
        'is renewed.|][ An earlier process of it was ended by {killer}.][ The role job_worker may '
        'not execute {not_granted}, so its outcome is not stored.| Its worker lacks {a_right}, so '
        'its outcome is not stored.|][ It has sent nothing for '
        '{silent}, since {sign}.][ It was last seen at {place}.][ One call of its processor runs '
        'it and {batched}.][ Its database session '
        '(pid {pid}) waits for a lock of the session with pid {blocker}.][ Session {own_blocker} '
        'belongs to the same job.][ 99 % of the jobs of its type take {usual} or less.][ Its '
        'process has used up to {memory_mb} MB.][ The process has grown by {grown_mb} MB.]',
      '[Grant the right: `grant execute on function {not_granted}(jsonb) to job_worker`.|Notify '
        'the operator of the service, because the worker lacks {a_right}.|In code, '
        'commit that session before the call at {place}. To end this attempt: `select '
        'pg_terminate_backend({own_blocker})`.|Commit or end that session: `select '
        'pg_terminate_backend({blocker})`.|If the process of the worker '
        'has hung since {missed_since}, end it. The job then runs again at the latest after '
        '{expires_at}.|If {silent} without an update is too long, check the call at {place}. Give '
        'that call a time limit, or give the type a shorter `timeout`.|If {usual} should suffice, '
        'check its log and the code at {place}.|Nothing to do until {lease_until}. If the lease is '
        'not renewed by then, the job is reclaimed.|Nothing to do.]',
      'watch {job_id}',
      '/types/{job_type}'
    ),
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
      'Workers that ran it were stopped {stops}, as by SIGTERM, the last at {last_at}.',
      'See what stops the workers, for example a deploy or a health check.',
      'workers',
      '/types/{job_type}'
    ),
    (
      'abandoned',
      'Its processor ignored the stop and still runs, abandoned, in worker {worker_id} at {place}.',
      'Restart worker {worker_id} to end it. In code, do not catch the stop '
        '(`asyncio.CancelledError`), or give the call at {place} a time limit.',
      'workers',
      '/types/{job_type}'
    ),
    (
      'sleeping',
      'It sleeps until {until}.',
      'Nothing to do until {until}. It continues then.',
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
      'It is scheduled for {run_at}.',
      'Run it now.',
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
      'No worker has run[ since {since}], so nothing starts.',
      'Start one with `minutehand dev` or `minutehand serve`. On AWS, check the schedule. If a '
        'worker was rejected, its log has the reason.',
      'doctor --only schedule',
      '/overview'
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
      'No running worker serves {types}. Due jobs: {jobs}.',
      'If the name is misspelt, cancel the job and enqueue it as {nearest}, the nearest name that '
        'a worker has.',
      'cancel {job_id}',
      null
    ),
    (
      'no_processor',
      'No running worker serves the job type {job_type} in the queue {queue}.[ Worker '
        '{last_worker}{process_end} served it, and was last seen at {last_seen}.]',
      '[Workers that have {job_type} serve only other queues. Start one with `minutehand serve '
        '--queue {not_served}`, or for all queues.|If a deploy removed {once_served}, deploy '
        'it again. Otherwise start its worker again.|Deploy a worker that has {job_type}. '
        'If one is deployed, check whether its code loads.]',
      '[types {once_served}|doctor --only processors]',
      '/types'
    ),
    (
      'key_limit',
      'The concurrency limit of its key is used up: {running} of {limit}[, held by job {holder} '
        '({holder_state})].',
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
      'It has been ready since {ready_at}. [The role {without_right} may not execute '
        'public.lease_jobs, so workers with this role lease nothing|Workers lack {a_right}, so '
        'they lease nothing|The workers that serve it '
        'use {running} of {slots} slots, but have leased nothing since {leased_at}|The workers '
        'that serve it have leased nothing since {leased_at}|No worker that serves it runs{yet}|'
        'Workers that serve it have not leased it].[ They were last seen at {seen_at}.]',
      'Grant the right: `grant execute on function public.lease_jobs(jsonb) to {without_right}`.',
      'doctor',
      '/overview'
    ),
    (
      'not_leased',
      null,
      '[Notify the operator of the service, because workers lack {a_right}.|Nothing to do if a '
        'worker that serves it is starting{yet}. Otherwise start one.|If they have hung since '
        '{silent_since}, end their processes. Otherwise check their rights and logs.|Check their '
        'rights and logs.]',
      'doctor',
      '/overview'
    ),
    (
      'behind_others',
      'Jobs of {job_type} in its workspace that are ahead of it: [{at_least} or more|{ahead}][, '
        '{smaller} of them because their priority is smaller].[ All {slots} slots are in use by '
        'jobs of {used_by}.]',
      '[If it must start by {must_start_by}, start another worker, or enqueue it with a smaller '
        'priority.|Nothing to do until {patience_until}. It starts after them. A smaller priority '
        'goes first.]',
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
      'To keep them, let an operator raise the setting: `select public.set_settings('
        '''{"retention_days": {"completed": 30, "cancelled": 30, "failed": 90}}'')`.',
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
      'Fix the cause. Maintenance is retried within an hour.',
      null,
      '/overview'
    ),
    (
      'missing_right',
      'Workers with the role job_worker may not execute {function}.',
      'Grant the right: `grant execute on function {function}(jsonb) to job_worker`.',
      null,
      '/overview'
    ),
    (
      'two_codes',
      'Workers run different versions of the code: {codes}.',
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
      'Running jobs of {job_type} that have sent nothing for more than {limit}: {jobs}. The first '
        'has been silent since {since}, at {place}.',
      'See where it is.',
      'explain {job_id}',
      null
    ),
    (
      'silent_worker',
      'Worker {worker_id} misses its renewals. Its last known call was at {since}. Jobs that it '
        'runs: {jobs}.',
      'If its process hangs, end it. Its jobs then run again at the latest after {expires_at}.',
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
      (
        'start_by',
        'It will be cancelled if it has not started by {start_by_at}[, which {ahead} jobs ahead of '
          'it may prevent].'
      ),
      ('worker_lost', 'Its process ended {ended_times} while it ran[ {alone}].'),
      (
        'worker_lost',
        'Its worker was lost {lost_times} while it ran nothing else.'
      ),
      (
        'lease_expired',
        'Its worker {worker_id} has not reported, and the lease expired at {expires_at}.'
      ),
      (
        'worker_died',
        'The process of its worker {worker_id} ended at {ended_at}. The job is being reclaimed.'
      ),
      ('suspect', 'It runs alone next, in a process of its own.'),
      (
        'locked',
        'A session (pid {pid}) has locked its row in an open transaction since {held_since}, so it '
          'can neither start nor end.'
      ),
      (
        'open_transaction',
        'A session with an open transaction delays statistics, messages to other services and '
          'maintenance.'
      ),
      (
        'late_events',
        'Statistics and messages to other services do not yet include events after {since}.'
      ),
      (
        'blocking_session',
        'Sessions that wait for a lock of one session: {waiting}, the first since {since}.'
      ),
      (
        'disk_filling',
        'The disk is {percent} % full.'
      ),
      (
        'disk_nearly_full',
        'The disk is {percent} % full. At 95 % the database rejects writes.'
      ),
      (
        'service_full',
        'The disk of the service is nearly full. When it is full, new jobs are rejected.'
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

-- Return the sentence of queue.guidance for the reason p_reason, and the advice for the reason
-- p_advice. Values of p_with replace the placeholders. A sentence or an advice is omitted if p_with
-- lacks a value outside of brackets, or a value for each of several alternatives. The kind of an
-- advice is none if there is nothing to do, wait if there is nothing to do for some time, and
-- otherwise act. If the worker keys were revoked (revoked_at), only advice of the kind act is
-- returned, because no worker can call.
-- p_advice: Null for the advice of p_reason.
create or replace function queue.render_guidance(
  p_reason text,
  p_with jsonb,
  p_advice text default null
)
returns jsonb
language sql stable
set search_path = ''
as $$
with texts as (
  select
    a.id,
    t.name,
    case
      when bool_and(p.part is not null) then string_agg(p.part, '' order by p.n)
    end as text
  from queue.guidance as a
  cross join lateral (
    values
      ('sentence', a.sentence),
      ('words', a.words),
      ('command', 'minutehand ' || a.command),
      ('path', coalesce(a.path, '/jobs/{job_id}'))
  ) as t (name, text)
  cross join lateral ( -- every second part is the text between two brackets
    select
      s.n,
      case s.n % 2
        when 1 then queue.fill_names(s.part, p_with)
        else coalesce(
          (
            select f.text
            from string_to_table(s.part, '|') with ordinality as c (text, n)
            cross join lateral queue.fill_names(c.text, p_with) as f (text)
            where f.text is not null
            order by c.n
            limit 1
          ),
          case when s.part !~ '\|' then '' end
        )
      end as part
    from regexp_split_to_table(t.text, '[][]') with ordinality as s (part, n)
  ) as p
  where a.reason = case t.name
    when 'sentence' then p_reason
    else coalesce(p_advice, p_reason)
  end
  group by 1, 2
)
select jsonb_build_object(
  'sentence', (
    array_agg(l.line -> 'sentence' order by l.id) filter (where l.line ? 'sentence')
  )[1],
  'next', coalesce(
    jsonb_agg(
      l.line - 'sentence' || jsonb_build_object('kind', case
        when l.line ->> 'words' = 'Nothing to do.' then 'none'
        when starts_with(l.line ->> 'words', 'Nothing to do ') then 'wait'
        else 'act'
      end)
      order by l.id
    ) filter (
      where case
        when p_with ->> 'revoked_at' <> '' then l.line ->> 'words' !~ '^Nothing to do'
        else l.line ? 'words'
      end
    ),
    '[]'
  )
)
from (
  select t.id, jsonb_object_agg(t.name, t.text) as line
  from texts as t
  where t.text is not null
  group by 1
) as l
$$;

-- Return a duration as text, for example '4 min 5 s'.
create or replace function queue.length_in_words(p_ms double precision)
returns text
language sql immutable
set search_path = ''
as $$
select case
  when p_ms < 1000 then round(p_ms) || ' ms'
  when p_ms < 120000 then round(p_ms / 1000) || ' s'
  when p_ms < 7200000 then floor(p_ms / 60000) || ' min'
    || coalesce(' ' || nullif(floor(p_ms / 1000)::bigint % 60, 0) || ' s', '')
  else floor(p_ms / 3600000) || ' h'
    || coalesce(' ' || nullif(floor(p_ms / 60000)::bigint % 60, 0) || ' min', '')
end
$$;

-- Return an object that describes the last update of a running job, such as a log line or a
-- finished step. If the worker has reported no update of the job, the object contains only
-- lease_until, the time at which the lease expires.
-- sign: Kind of the job's last update as text, for example 'its last log line'.
-- silent: Time since the last update of the job, as text. Null for less than 20 seconds, because
--   workers report updates of jobs only every 15 seconds.
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
begin
  return (
    select case
      when l.pulse is null then jsonb_build_object('lease_until', l.expires_at)
      else l.pulse - '{since,own_pids}'::text[] || jsonb_build_object(
        'silent_since', s.since,
        'batched', queue.other_jobs((l.pulse ->> 'batched')::integer),
        'sign', case l.pulse ->> 'last'
          when 'start' then 'its start'
          when 'log' then 'its last log line'
          when 'step' then 'the end of its last step'
          else 'its last ' || (l.pulse ->> 'last')
        end,
        'silent', case when p.silent_ms >= 20000 then queue.length_in_words(p.silent_ms) end,
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
        greatest((l.pulse ->> 'since')::timestamptz, p_job.updated_at),
        (l.pulse ->> 'pid')::integer
      )
    ) as s (since, pid)
    cross join lateral (
      values (greatest(0, extract(epoch from p_now - s.since) * 1000)::double precision)
    ) as p (silent_ms)
    cross join lateral (
      values (case when p.silent_ms >= 20000 then nullif(queue.last_blocker(s.pid), s.pid) end)
    ) as b (pid)
    cross join lateral (
      values ((l.pulse ->> 'memory_mb')::integer - (l.pulse ->> 'first_mb')::integer)
    ) as m (grown)
    where l.job_id = p_job.id
  );
end;
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
          then greatest(w.seen_at, l.expires_at - make_interval(secs => l.lease_seconds))
      end as missed_since,
      l.expires_at + c_patience as patience_until,
      l.expires_at as run_at -- time when the lease could be reclaimed
    into v_found
    from queue.leases as l
    left join queue.workers as w on w.worker = l.worker
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
    return jsonb_build_object(
      'estimated_start_at', v_wait -> 'until',
      'data', v_wait || jsonb_build_object(
        'nearest', queue.nearest_event(p_job.workspace_id, v_wait ->> 'event')
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
    return jsonb_build_object(
      'since', v_found.run_at,
      'estimated_start_at', greatest(v_found.run_at, p_now),
      'data', v_data
        || to_jsonb(v_found)
        || queue.maintained_before(v_found.run_at)
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

-- Return the reason why a job that may start has not started. queue.explain_ready tests the
-- concurrency limits first, from the limit of the job's key to the limit of its type.
-- queue.explain_ready then tests the rate limit, whether the job must run alone because its
-- worker's process died, and whether other jobs are ahead of the job. A lack of slots is returned
-- as the reason only if running jobs use all slots of the workers, and have not ended for ten
-- seconds. If jobs end more often, the job waits for its turn.
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
  v_silent_since timestamptz; -- null if a worker that serves the job has called recently
  v_without_right constant text := (
    select 'job_worker'
    where not has_function_privilege(
      to_regrole('job_worker'),
      'public.lease_jobs'::regproc,
      'execute'
    )
  );
begin
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
    and (p_job.deadline_at <= p_now) is not true
    and (p_job.started_at is null and p_job.start_by_at <= p_now) is not true
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
    when v_without_right is not null
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
    'estimated_start_at', case
      when v_reason = 'next_in_line'
          and v_workers.is_full is not true
          and coalesce(v_workers.ended_at, v_silent_since) is null
        then p_now
    end,
    'reason', v_reason,
    'data', to_jsonb(v_workers) - '{is_full,is_idle}'::text[] || v_rank || jsonb_build_object(
      'must_start_by', (select p_job.start_by_at where p_job.started_at is null),
      'without_right', v_without_right,
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
    'until', coalesce(p_found ->> 'estimated_start_at', v_data ->> 'patience_until'),
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
          when e.evidence ->> 'exit_code' = '1' then 'blocked'
          when e.evidence ? 'exit_code' then 'exit'
        end)
        when e.sqlstate = '42501' then 'grant' -- the Data API maps these codes to 403 or 404
        when e.sqlstate ~ '^(42|PGRST2)' then 'schema'
        when e.status in ('401', '403') or e.sqlstate ^@ '28' then 'credentials'
        when e.status = '429' then 'rate'
        when e.sqlstate ~ '^2[23]' then 'value'
        when e.sqlstate = '57014' then 'statement'
        when e.status ^@ '4' then 'request'
        when e.sqlstate ~ '^(40|55)' then 'contention'
        when e.signal is not null then 'killed'
        when e.errno in ('ENOSPC', 'EDQUOT', 'ENOMEM', 'EMFILE') or e.sqlstate ^@ '53'
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
  type text, status text, sqlstate text, errno text, signal text, response text,
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
  v_abandoned jsonb; -- the worker and the location of a processor that ignored its stop
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
  select to_jsonb(w) || to_jsonb(a) into v_abandoned
  from unnest(p_alive) as w
  cross join lateral jsonb_to_recordset(w.abandoned) as a (job_id uuid, place text)
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
      'data', (v_found -> 'data') - '{application,without_right,not_granted}'::text[]
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
    select queue.render_guidance('stopped', jsonb_build_object(
      'job_type', p_job.job_type,
      'stops', queue.times_in_words(count(distinct a.worker)),
      'last_at', max(w.ended_at)
    ))
    from queue.attempts as a
    join queue.workers as w on w.worker = a.worker
    where a.job_id = p_job.id
      and p_job.finished_at is null
      and a.outcome = 'released'
      and a.error_data is null
      and w.summary ? 'stopped'
    having count(distinct a.worker) > 2 -- a deploy may stop some workers
  );
  v_found := v_found || queue.render_guidance(
    v_found ->> 'reason',
    v_found
      || queue.names_of(p_job, v_held)
      || jsonb_build_object(
        'code', v_error.code,
        'place', v_error.place,
        'which', case when p_is_open then p_job.workspace_id end
      )
      || jsonb_strip_nulls(v_found -> 'data'),
    case
      when v_left -> 'sentence' = 'null' then '{"failed": "failed:", "backing_off": "failed:",
        "cancelled": "cancelled:"}'::jsonb ->> (v_found ->> 'reason') || v_error.kind
    end
  );
  v_found := v_found || jsonb_build_object(
    'next', (v_left -> 'next')
      || (v_recursion -> 'next')
      || coalesce(v_stopped -> 'next', '[]')
      || (v_found -> 'next'),
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
  'queue', p_job.queue,
  'finished_at', p_job.finished_at,
  'start_by_at', case
    when p_job.error_data ->> 'type' = 'StartByPassed' then p_job.start_by_at
  end,
  'waited', p_job.error_data -> 'waited',
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
  'killer', queue.killer_of(p_job),
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

-- Return the holders for which jobs wait. The holder with the most waiting jobs comes first. Each
-- holder is returned with the number of waiting jobs, and with the explanation that
-- public.explain_job would return for one waiting job.
-- p_workspace_id: Null to return the holders of all workspaces.
-- p_job_type: Null to return the holders of jobs of all types.
create or replace function queue.holders(p_workspace_id uuid, p_job_type text, p_now timestamptz)
returns jsonb
language sql stable
set search_path = ''
set timezone = 'UTC'
as $$
with said as materialized (
  select
    g.jobs,
    g.oldest_at,
    j,
    case
      when i.is_internal and e.said #>> '{held_by,kind}' in ('key', 'limit')
        then e.said || '{"cause": null}' || queue.render_guidance(
          'internal_' || (e.said #>> '{held_by,kind}'),
          jsonb_build_object(
            'job_type', j.job_type,
            'listed_type', queue.names_of(j, e.said -> 'held_by') -> 'listed_type',
            'receiver', split_part(j.concurrency_key, ':', 1)
          )
        )
      else e.said
    end as said,
    jsonb_build_array(
      e.said #> '{held_by,kind}',
      case when i.is_internal then to_jsonb(split_part(j.concurrency_key, ':', 1)) end,
      coalesce(
        case when i.is_internal then to_jsonb(j.job_type) end,
        e.said #> '{held_by,holder,job_id}',
        e.said #> '{held_by,holder,worker_id}',
        e.said #> '{held_by,holder,pid}',
        jsonb_build_array(
          e.said -> 'reason',
          j.job_type,
          j.queue,
          case e.said #>> '{held_by,kind}' when 'key' then j.concurrency_key end
        )
      )
    ) as holder
  from queue.live_workers(p_now) as workers
  cross join queue.groups_of_held(p_workspace_id, p_job_type, p_now) as g
  join public.jobs as j on j.id = any (array[g.job_id])
  left join lateral (
    select to_jsonb(k) as lock
    from queue.locks_on(array[j.id], p_now) as k
    where j.status = 'processing' or coalesce(j.next_retry_at, j.scheduled_for) <= p_now
  ) as k on true
  cross join lateral queue.explain(j, k.lock, workers, p_now) as e (said)
  cross join lateral queue.is_internal(j.job_type) as i (is_internal)
  where jsonb_typeof(e.said -> 'held_by') = 'object'
)
select coalesce(
  jsonb_agg(
    to_jsonb(h) - 'said'
    || (h.said - '{status,data,since,held_by,estimated_start_at,abandoned_at}'::text[])
    || jsonb_build_object(
      'kind', h.said #> '{held_by,kind}',
      'holder', h.said #> '{held_by,holder}'
    )
    order by h.jobs desc, h.since
  ),
  '[]'
)
from (
  select
    sum(s.jobs) as jobs,
    bool_or(s.jobs >= 1000) as more,
    min(coalesce(s.oldest_at, (s.said #>> '{held_by,since}')::timestamptz)) as since,
    (array_agg(s.said))[1] as said,
    array_agg(distinct (s.j).job_type) as job_types,
    array_agg(distinct (s.j).concurrency_key)
      filter (where s.said #>> '{held_by,kind}' = 'key') as keys
  from said as s
  group by s.holder
  order by 1 desc
  limit 20
) as h
$$;

-- Return the number of due jobs for each reason why due jobs have not started. The reasons are
-- paused, unserved (no worker serves the job type), suspect (the job's process died), at_limit,
-- blocked (by a concurrency key) and ready. Only unserved jobs cause the verdict `warn`.
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
due as (
  select
    l.job_type,
    l.not_served,
    r.ready_at,
    r.jobs,
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
      count(*) as jobs
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
    null,
    count(*),
    sum(count(*)) over () >= 10000,
    'unserved'
  from (
    select o.job_type
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
  ) as u
  group by 1
),
causes as (
  select
    k.*,
    coalesce(sum(d.jobs), 0)::integer as jobs,
    min(d.ready_at) as oldest_at,
    coalesce(bool_or(d.is_more), false) as is_more,
    min(d.job_type) as job_type,
    (array_agg(d.not_served order by d.job_type, d.not_served))[1] as not_served,
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
    )
  )
from causes as c
$$;

-- Return findings about workers, due jobs, the database and maintenance. A finding is a problem
-- that public.explain_queue reports. A transaction that has written rows is a finding after a
-- minute, or after 30 seconds if its session is idle, because readers of queue.feed wait for the
-- end of the transaction. A read-only transaction is a finding after five minutes, because Postgres
-- cannot remove dead rows until the transaction ends.
create or replace function queue.findings_of_queue(
  p_workspace_id uuid,
  p_now timestamptz,
  p_backlog jsonb,
  p_seen_at timestamptz
)
returns table (verdict text, reason text, since timestamptz, cause text, data jsonb)
language plpgsql stable
set search_path = ''
as $$
declare
  v_alive constant queue.workers[] := queue.live_workers(p_now);
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
      jsonb_build_object('states', string_agg(d.key, ', ' order by d.key))
    from jsonb_each_text(queue.setting('retention_days')) as d
    where d.value = '0'
    -- some projects keep no completed jobs, but without failed jobs no one sees why they failed
    having bool_or(d.key = 'failed')
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
      -- the job only waits for its turn, or for a limit that was reached after the last lease
      and coalesce(w.reason !~ '^(behind_others|next_in_line|rate_limited|.*_limit)$', true)
    union all
    select
      'warn',
      'no_processor',
      null,
      null,
      jsonb_build_object(
        'jobs', u.jobs,
        'types', u.types,
        'job_type', u.job_type,
        'not_served', u.not_served,
        'revoked_at', queue.revoked_for(u.job_type),
        'once_served', case
          when exists (select from queue.workers as w where u.job_type = any (w.job_types))
            then u.job_type
        end
      )
    from jsonb_to_record(p_backlog -> 'unserved') as u (
      jobs integer, types text, job_type text, not_served text
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
        'expires_at', h.expires_at
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
      jsonb_build_object('function', case when p_workspace_id is null then f.function end)
    from unnest(
      '{public.lease_jobs, public.report_jobs, public.settle_jobs,
        public.run_maintenance}'::regproc[]
    ) as f (function)
    where not has_function_privilege(to_regrole('job_worker'), f.function, 'execute')
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
    select
      'warn',
      'blocking_session',
      min(w.since),
      format(
        '%s (pid %s) is %s',
        coalesce(nullif(h.application_name, ''), h.usename, h.backend_type),
        h.pid,
        coalesce(h.state, 'active')
      ),
      jsonb_build_object('pid', h.pid, 'waiting', count(*))
    from (
      select a.query_start as since, queue.last_blocker(a.pid) as pid
      from pg_catalog.pg_stat_activity as a
      where a.datname = current_database()
        and a.wait_event_type = 'Lock'
        and a.query_start <= p_now - interval '10 seconds'
      limit 20
    ) as w
    join pg_catalog.pg_stat_activity as h
      on h.pid = w.pid and h.wait_event_type is distinct from 'Lock'
    group by h.pid, h.application_name, h.usename, h.backend_type, h.state
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
        jsonb_build_object('pid', o.pid)
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

select queue.close_tables();

-- Revoke the right of all roles to execute private functions. Rights of single roles remain,
-- because policies, column defaults and guests need them.
revoke execute on all functions in schema queue from public;
