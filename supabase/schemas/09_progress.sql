-- This file handles the reports that workers send about running jobs. A report stores a job's
-- progress, log lines and steps, and renews the job's lease. If a worker has lost the lease of a
-- job, the engine ignores the worker's report about this job.

-- Lock the rows of leased jobs in queue.leases, and then in public.jobs. Skip a job that another
-- transaction keeps locked for more than 0.1 s, so that no worker waits for a person's transaction.
-- Return the ids of the skipped jobs.
create function queue.lock_held(p_ids uuid[])
returns uuid[]
language plpgsql
set lock_timeout = '100ms'
set search_path = ''
as $$
declare
  v_locked uuid[];
begin
  perform from queue.leases
  where job_id = any (p_ids)
  order by job_id
  for no key update;
  perform from public.jobs
  where id = any (p_ids)
  order by id
  for no key update;
  return '{}';
exception when lock_not_available then
  v_locked := array(
    select l.job_id
    from queue.leases as l
    where l.job_id = any (p_ids)
    order by l.job_id
    for no key update skip locked
  );
  v_locked := array(
    select j.id
    from public.jobs as j
    where j.id = any (v_locked)
    order by j.id
    for no key update skip locked
  );
  return array(
    select l.job_id
    from queue.leases as l
    where l.job_id = any (p_ids) and l.job_id <> all (v_locked)
  );
end;
$$;

-- Store finished steps, the running step, progress and tags of jobs. If a worker reports a finished
-- step again, keep the step's first result. If a job has more than 20 tags, keep its first 20 tags.
-- Also increase public.jobs.last_seq for the events of progress and log lines. Workers report how
-- long a step has run, not when the step started, because the clocks of workers may be wrong.
create function queue.store_state(p_items queue.worker_item[], p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
begin
  insert into queue.steps (job_id, name, value, started_at, created_at)
  select
    i.job_id,
    left(s.value ->> 'name', 200),
    coalesce(s.value -> 'result', 'null'),
    p_now - (s.value ->> 'duration_ms')::double precision * interval '1 ms',
    p_now + s.n * interval '1 us' -- the added microseconds keep the order of the steps
  from unnest(p_items) as i
  cross join lateral jsonb_array_elements(i.steps) with ordinality as s (value, n)
  where s.value ->> 'name' <> ''
  on conflict (job_id, name, nth) do nothing;
  update queue.leases as l
  set
    log_lines = l.log_lines + jsonb_array_length(i.logs),
    step = left(i.step ->> 'name', 200),
    step_started_at = p_now
      - (i.step ->> 'for_ms')::double precision * interval '1 ms'
  from unnest(p_items) as i
  where l.job_id = i.job_id
    and (i.logs <> '[]' or num_nonnulls(i.steps, i.step) > 0);
  update public.jobs as j
  set
    updated_at = p_now,
    last_seq = j.last_seq
      + (i.progress is not null)::integer
      + case
        when j.is_minimal is null then jsonb_array_length(i.logs)
        else 0
      end,
    progress = case
      when i.progress is null then j.progress
      else jsonb_build_object(
        'percentage', least(
          100,
          greatest(
            0,
            round(
              coalesce(
                (i.progress ->> 'percentage')::numeric,
                (j.progress ->> 'percentage')::numeric,
                0
              ),
              1
            )
          )
        ),
        'stage', left(i.progress ->> 'stage', 200),
        'message', left(i.progress ->> 'message', 1000)
      )
    end,
    tags = case
      when i.tags is null then j.tags
      else (array(
        select t.tag
        from unnest(
          j.tags || array(select jsonb_array_elements_text(i.tags))
        ) with ordinality as t (tag, n)
        where char_length(t.tag) between 1 and 100 and t.tag !~ '[[:cntrl:]]'
        group by t.tag
        order by min(t.n)
      ))[1:20]
    end
  from unnest(p_items) as i
  where j.id = i.job_id
    and (i.logs <> '[]' or num_nonnulls(i.progress, i.tags) > 0);
end;
$$;

-- Store the reports of workers, with an event for progress and for each log line. The caller must
-- have locked the leases and jobs. The field logs_from of a report is the number of the report's
-- first log line, counted from the start of the attempt. From logs_from, the function computes
-- which log lines an earlier report has already stored. If public.jobs.is_minimal is true, store no
-- events for log lines.
create function queue.write_reports(p_items queue.worker_item[], p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_item queue.worker_item;
  v_stored integer;
  v_items queue.worker_item[] := '{}';
  v_changes queue.change[];
begin
  foreach v_item in array p_items loop
    continue when num_nonnulls(
      v_item.progress,
      v_item.logs,
      v_item.steps,
      v_item.step,
      v_item.tags,
      v_item.output
    ) = 0;
    select l.log_lines into v_stored
    from queue.leases as l
    where l.job_id = v_item.job_id and l.fence = v_item.fence;
    continue when not found;
    v_item.logs := coalesce(
      jsonb_path_query_array(
        v_item.logs,
        '$[$stored to last]',
        jsonb_build_object('stored', greatest(0, v_stored - v_item.logs_from))
      ),
      '[]'
    );
    v_items := v_items || v_item;
  end loop;
  if v_items = '{}' then
    return;
  end if;
  -- Store the output of a step before the step itself, because a restart of a stream deletes all
  -- output except the output of finished steps (queue.drop_output).
  perform queue.write_output(v_items, p_now);
  perform queue.store_state(v_items, p_now);
  with lines as materialized (
    select
      j.id,
      j.workspace_id,
      j.session_id,
      j.attempts,
      j.is_minimal,
      j.last_seq
        - (i.progress is not null)::integer
        - jsonb_array_length(i.logs)
        + l.nth::integer as seq,
      case
        when l.value ->> 'level' in ('debug', 'warning', 'error')
          then l.value ->> 'level'
        else 'info'
      end as level,
      left(coalesce(l.value ->> 'message', ''), 10000) as message,
      coalesce(nullif(l.value -> 'metadata', 'null'), '{}') as metadata,
      coalesce((l.value ->> 'at')::timestamptz, p_now) as at
    from unnest(v_items) as i
    join public.jobs as j on j.id = any (array[i.job_id])
    cross join lateral jsonb_array_elements(i.logs) with ordinality as l (
      value,
      nth
    )
  ),
  kept as (
    insert into public.job_logs (
      job_id, workspace_id, attempt, log_level, message, metadata, created_at
    )
    select l.id, l.workspace_id, l.attempts, l.level, l.message, l.metadata, l.at
    from lines as l
    order by l.id, l.seq
  )
  select array_agg(e.change order by (e.change).job_ids[1], (e.change).seqs[1])
  into v_changes
  from (
    select row(
      l.workspace_id,
      l.session_id,
      'job.log',
      jsonb_build_object(
        'log', jsonb_build_object(
          'level', l.level,
          'message', left(l.message, 2000),
          'at', l.at,
          'attempt', l.attempts,
          'metadata', case
            when pg_column_size(l.metadata) <= 2048 then l.metadata
            else '{}'
          end
        )
      ),
      array[l.id],
      array[l.seq],
      p_now
    )::queue.change as change
    from lines as l
    where l.is_minimal is null
    union all
    select row(
      j.workspace_id,
      j.session_id,
      'job.progress',
      jsonb_build_object('progress', j.progress, 'attempts', j.attempts),
      array[j.id],
      array[j.last_seq],
      p_now
    )::queue.change
    from unnest(v_items) as i
    join public.jobs as j on j.id = any (array[i.job_id])
    where i.progress is not null
  ) as e;
  insert into queue.job_events (job_id, seq, workspace_id, type, data, created_at)
  select c.job_ids[1], c.seqs[1], c.workspace_id, c.type, c.data, p_now
  from unnest(v_changes) as c;
  perform queue.publish(v_changes, p_now); -- does nothing if v_changes is null
exception when data_exception or integrity_constraint_violation then
  -- Store the reports one by one, so that an invalid report of one job does not affect other jobs.
  if cardinality(p_items) > 1 then
    perform queue.write_reports(array[i], p_now) from unnest(p_items) as i;
  else
    raise warning 'a report of job % was dropped: % (%)',
      p_items[1].job_id,
      sqlerrm,
      sqlstate;
  end if;
end;
$$;

create function public.report_jobs(p_request jsonb)
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
      when i.pulse is null then coalesce(l.pulse, '{}')
      else i.pulse - '{for_ms,left_ms}'::text[] || jsonb_build_object(
        'since', queue.clock() - (i.pulse ->> 'for_ms')::double precision * interval '1 ms',
        'times_out_at', queue.clock()
          + (i.pulse ->> 'left_ms')::double precision * interval '1 ms',
        'first_mb', coalesce(l.pulse -> 'first_mb', i.pulse -> 'memory_mb')
      )
    end || jsonb_build_object('pace', p.pace),
    expires_at = queue.clock() + make_interval(secs => s.lease_seconds)
  from unnest(v_items) as i
  join queue.leases as o on o.job_id = i.job_id and o.fence = i.fence
  cross join lateral (
    select case
      when i.lease_seconds between 1 and 43200 then i.lease_seconds::integer
      else o.lease_seconds
    end as lease_seconds
  ) as s
  cross join lateral ( -- progress that goes back begins another phase, which has its own pace
    select case
      when jsonb_typeof(i.progress -> 'percentage') = 'number'
          and i.progress -> 'percentage' is distinct from o.pulse #> '{pace,to}'
        then case
          when i.progress -> 'percentage' > o.pulse #> '{pace,to}' then o.pulse -> 'pace'
          else jsonb_build_object('from', i.progress -> 'percentage', 'since', queue.clock())
        end || jsonb_build_object('to', i.progress -> 'percentage', 'until', queue.clock())
      else o.pulse -> 'pace' -- its predicted end passes if the progress stops
    end as pace
  ) as p
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
  'pulse?: {last, for_ms, left_ms?, place?, code?, stack?, pid?, own_pids?, batched?, '
  'blocked_ms?, program?, waits?, in_thread?, memory_mb}, lease_seconds?}. Report an item again '
  'if its outcome is busy.';
select queue.allow('job_worker, service_role', 'public.report_jobs');

-- Return a page of the finished steps of a job. A page has at most 1,000 rows of queue.steps. A
-- page ends earlier if its results reach p_bytes bytes.
-- p_after: Position {name, nth} of the last row on the previous page, or null for the first page.
-- lines: The page's rows of queue.steps.
-- results: JSON object with the result of each step by the step's name. If a step waited for child
--   jobs, its result has the array children with the results of the child jobs.
-- next: Position {name, nth} of the last row, or null if no rows follow.
create function queue.step_page(
  p_job_id uuid,
  p_after jsonb,
  p_bytes bigint,
  out lines jsonb,
  out results jsonb,
  out next jsonb,
  out bytes bigint
)
language sql stable
set search_path = ''
as $$
with found as materialized (
  select
    l.*,
    row_number() over (order by l.name, l.nth) as n,
    sum(l.bytes) over (order by l.name, l.nth) - l.bytes as bytes_before
  from (
    select s.name, s.nth, s.value, octet_length(s.value::text)::bigint as bytes
    from queue.steps as s
    where s.job_id = p_job_id
      and s.nth >= 0
      and (
        p_after ->> 'nth' is null
        or (s.name, s.nth) > (p_after ->> 'name', (p_after ->> 'nth')::integer)
      )
    order by s.name, s.nth
    limit 1001
  ) as l
),
page as materialized (
  select *
  from found
  where n <= 1000 and (bytes_before < p_bytes or n = 1)
)
select
  (
    select coalesce(
      jsonb_agg(
        jsonb_build_object('name', p.name, 'nth', p.nth, 'value', p.value)
        order by p.n
      ),
      '[]'
    )
    from page as p
  ),
  (
    select coalesce(
      jsonb_object_agg(
        s.name,
        case
          when s.children is null then s.value -> 0
          else jsonb_build_object('children', s.children)
        end
      ),
      '{}'
    )
    from (
      select
        p.name,
        jsonb_agg(p.value) as value,
        jsonb_agg(p.value order by p.nth) filter (where p.nth > 0) as children
      from page as p
      group by p.name
    ) as s
  ),
  (
    select jsonb_build_object('name', p.name, 'nth', p.nth)
    from page as p
    where (select count(*) from found) > (select count(*) from page)
    order by p.n desc
    limit 1
  ),
  (select coalesce(sum(p.bytes), 0)::bigint from page as p)
$$;

-- Return the job id of a worker's request {job_id, fence}. Reject the request if the worker has
-- lost the lease of this job.
-- p_undone: Text at the end of the error message, for example "its steps are not shown".
create function queue.leased_id(p_request jsonb, p_undone text)
returns uuid
language plpgsql stable
set search_path = ''
as $$
declare
  v_id constant uuid := p_request ->> 'job_id';
begin
  perform from queue.leases as l
  where l.job_id = v_id and l.fence::text = p_request ->> 'fence';
  if not found then
    perform queue.refuse(
      409,
      'lease_lost',
      'the lease on the job is lost; ' || p_undone,
      v_id::text
    );
  end if;
  return v_id;
end;
$$;

create function public.read_steps(p_request jsonb)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
begin
  perform queue.refuse_revoked();
  return (
    select to_jsonb(p) - 'results'
    from queue.leased_id(p_request, 'its steps are not shown') as l (id)
    cross join lateral queue.step_page(l.id, p_request -> 'after', 1000000) as p
  );
end;
$$;
comment on function public.read_steps is
  E'Return finished steps of a leased job, in pages of about 1 MB: {lines: [{name, nth, value}], '
  'next: {name, nth} | null, bytes}.\n\nRequest: {job_id, fence, after?}. Lines with nth 1 and '
  'above are the results of the step''s child jobs.';
select queue.allow('job_worker, service_role', 'public.read_steps');

create function public.job_steps(p_job_id uuid, p_after jsonb default null)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_page record;
begin
  perform queue.take_call_slot(j.workspace_id)
  from queue.visible_job(p_job_id) as j;
  v_page := queue.step_page(p_job_id, p_after, 1000000);
  return jsonb_build_object(
    'next', v_page.next,
    'steps', (
      select coalesce(
        jsonb_agg(
          jsonb_build_object(
            'name', t.name,
            'kind', t.kind,
            'result', r.value,
            'created_at', t.created_at,
            'duration_ms', round(
              (date_part('epoch', t.created_at - t.started_at) * 1000)::numeric,
              1
            )
          )
          order by t.created_at, t.name
        ),
        '[]'
      )
      from jsonb_each(v_page.results) as r
      join queue.steps as t on t.job_id = p_job_id and t.name = r.key and t.nth = 0
    )
  );
end;
$$;
comment on function public.job_steps is
  'Return the finished steps of a job: {steps: [{name, kind, result, created_at, duration_ms}], '
  'next}. The results of the child jobs of one step may continue on the next page.';
select queue.allow('authenticated, service_role', 'public.job_steps');
