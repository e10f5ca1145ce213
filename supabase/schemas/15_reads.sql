-- This file has the functions that read jobs. The id of a job begins with the job's creation time,
-- so lists of jobs are sorted by id, newest first. A search for live or failed jobs reads small
-- tables such as queue.ready and queue.dead. A search for completed or cancelled jobs reads at most
-- the newest 10,000 rows of public.jobs. The functions at the end of this file explain why a job
-- waits, and find the job's holder. The holder of a job is the other job, database session, worker
-- or pause for which the job waits.

-- Return the type and the message of a job's error as one text, as Python prints an exception.
-- Errors that the engine or the processor raised on purpose are returned without their type.
create function queue.error_line(p_message text, p_error jsonb)
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
create function queue.short_error(p_message text, p_error jsonb)
returns text
language sql immutable
set search_path = ''
as $$
select rtrim(left(coalesce(substring(e.line, '\S[^\n]*'), e.line), 200), ' .:')
from queue.error_line(p_message, p_error) as e (line)
$$;

-- Return a text that an app may show to people for the error of a job. If the processor raised the
-- error on purpose, the text is the error's message. The messages of other errors may contain
-- internals of the server, so a general sentence replaces them.
create function queue.user_message(p_message text, p_error jsonb)
returns text
language sql immutable
set search_path = ''
as $$
select case
  when coalesce(p_error ->> 'type', 'Fail')
    ~ '(^|[.])(Fail|Retry|Cancelled|ProcessorError)$' or p_message is null
    then p_message
  when p_error ->> 'type' = 'AttemptTimeout'
    then 'It took too long and was stopped. Try again.'
  else 'The server failed. Try again.'
end
$$;
select queue.allow('authenticated, service_role', 'queue.user_message');

-- Return a hash that groups the errors of jobs. Two errors that differ only in numbers and ids have
-- the same hash. The message of a WorkerLost error contains the worker's name, so the hash of the
-- error is computed from the reason why the worker's process ended, with its exit code.
-- p_job_type: Job type of a lost or timed-out job, whose cause is the code of its type. Null to
--   return the hash of releases before 0.5.5.
create function queue.fingerprint(p_message text, p_error jsonb, p_job_type text default null)
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

-- Return the first three simple values of a payload as text.
create function queue.glimpse_of(p_payload jsonb)
returns text
language sql immutable
set search_path = ''
as $$
select string_agg(
  concat(left(f.key, 80), ': ', left(f.value #>> '{}', 80)),
  ', '
  order by f.is_id, f.n
)
from (
  select *
  from jsonb_each(p_payload) with ordinality as e (key, value, n)
  cross join lateral (select e.value::text ~ '^"[0-9a-f-]{36}"$') as i (is_id)
  where jsonb_typeof(e.value) not in ('object', 'array', 'null')
  order by i.is_id, e.n -- ids say the least
  limit 3
) as f
$$;

-- Convert a row of public.jobs to the JSON object that clients receive. queue_ms is the time from
-- the job's due time to its first start, and run_ms is the total duration of all attempts.
-- last_update is the kind and time of the last update that the worker of a running job reported.
-- p_is_listed: True if the JSON object is part of a list of jobs. An object in a list contains a
--   shortened error message, and only the first three simple values of the payload.
create function queue.job_json(p_job public.jobs, p_is_listed boolean default false)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_due timestamptz := coalesce(
    p_job.next_retry_at,
    p_job.scheduled_for,
    p_job.created_at
  );
  v_hidden text[] := '{lane,ord,worker,is_minimal,queue_ms,run_ms,chosen}';
  v_queue double precision := p_job.queue_ms;
  v_run double precision := coalesce(p_job.run_ms, 0);
  v_wait queue.waits;
  v_since timestamptz;
  v_worker text;
  v_pulse jsonb;
  v_looked_up jsonb := '{"next_run_at": null, "waiting_for": null}';
begin
  if p_job.status = 'processing' then
    select l.leased_at, w.worker_id, l.pulse into v_since, v_worker, v_pulse
    from queue.leases as l
    join queue.workers as w on w.worker = l.worker
    where l.job_id = p_job.id;
    v_run := v_run
      + greatest(0, coalesce(date_part('epoch', v_now - v_since), 0)) * 1000;
  elsif p_job.status = 'waiting' then
    select * into v_wait
    from queue.waits as w
    where w.job_id = p_job.id;
    if found then
      v_looked_up := jsonb_build_object(
        'next_run_at', v_wait.timeout_at,
        'waiting_for', jsonb_strip_nulls(jsonb_build_object(
          'kind', v_wait.kind,
          'name', v_wait.step,
          'question', v_wait.data -> 'question',
          'options', case when not p_is_listed then v_wait.data -> 'options' end,
          'job_ids', case when not p_is_listed then v_wait.data -> 'job_ids' end,
          'event', v_wait.event_name,
          'until', v_wait.timeout_at,
          'default', case when not p_is_listed then v_wait.default_value end,
          'since', v_wait.created_at
        ))
      );
    end if;
  elsif p_job.status = 'pending' then
    v_looked_up := v_looked_up || jsonb_build_object('next_run_at', v_due);
    if v_queue is null and v_due <= v_now then
      v_queue := date_part('epoch', v_now - v_due) * 1000;
    end if;
  end if;
  v_looked_up := v_looked_up || jsonb_build_object(
    'running_since', v_since,
    'worker_id', v_worker,
    'deaths', case
      when p_job.fence > p_job.attempts then ( -- some attempts were not counted
        select count(*)
        from queue.attempts as a
        where a.job_id = p_job.id and a.outcome = 'died'
      )
      else 0
    end,
    'tags', coalesce(p_job.tags, '{}'),
    'progress', coalesce(
      p_job.progress,
      '{"percentage": 0, "stage": null, "message": null}'
    ),
    'state', queue.state_of(
      p_job.status,
      p_job.attempts,
      p_job.next_retry_at,
      p_job.scheduled_for,
      v_now
    ),
    'times', jsonb_build_object(
      'queue_ms', round(v_queue::numeric, 1),
      'run_ms', round(v_run::numeric, 1),
      'earlier_ms', round(coalesce(p_job.run_ms, 0)::numeric, 1), -- duration of earlier attempts
      'runs', p_job.fence
    ) || case
      when v_pulse ->> 'last' not in ('start', 'end') then jsonb_build_object(
        'last_update', jsonb_build_object('kind', v_pulse -> 'last', 'at', v_pulse -> 'since')
      )
      else '{}'
    end
  );
  if p_is_listed then
    v_hidden := v_hidden || '{payload,result,error_data}'::text[];
    v_looked_up := v_looked_up || jsonb_build_object(
      'glimpse', queue.glimpse_of(p_job.payload)
    );
    p_job.error_message := left(p_job.error_message, 500);
    p_job.payload := null; -- avoid serializing a payload of up to 256 kB that is then omitted
    p_job.result := null;
  end if;
  return to_jsonb(p_job) - v_hidden || v_looked_up || jsonb_build_object(
    'error', queue.error_line(p_job.error_message, p_job.error_data)
  );
end;
$$;

create function public.get_job(p_job_id uuid)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_job constant public.jobs := queue.visible_job(p_job_id);
begin
  return queue.job_json(v_job)
    || jsonb_build_object(
      'streams', queue.streams_json(v_job.id),
      'glimpse', queue.glimpse_of(v_job.payload),
      'schedule', (
        select min(s.name)
        from queue.schedules as s
        where s.job_type = v_job.job_type
          and s.workspace_id = v_job.workspace_id
          and s.last_job_id = v_job.id
          and s.last_slot_at <= v_job.created_at -- an older job only has its unique key
      )
    );
end;
$$;
comment on function public.get_job is
  E'A job as JSON. 404 if the job does not exist or the caller may not see it.\n\nstreams: the '
  'position of each stream, {name: {attempt, next}}. job_output returns the output. glimpse: the '
  'first three simple values of the payload. schedule: the schedule of which this is the latest '
  'run, or null.';
select queue.allow('authenticated, service_role', 'public.get_job');

-- Return the ids of live and failed jobs of a workspace. At most p_limit jobs are read from each of
-- the tables queue.ready, queue.gated, queue.unpublished, queue.leases, queue.waits, queue.dead and
-- queue.deferred.
-- p_workspace_id: Null to return the jobs of all workspaces.
create function queue.places(p_workspace_id uuid, p_states text[], p_limit integer)
returns table (job_id uuid, lane integer, state text)
language plpgsql stable
set search_path = ''
as $$
#variable_conflict use_column
declare
  v_low constant uuid := coalesce(
    p_workspace_id,
    '00000000-0000-0000-0000-000000000000'
  );
  v_high constant uuid := coalesce(
    p_workspace_id,
    'ffffffff-ffff-ffff-ffff-ffffffffffff'
  );
begin
  return query
    (
      select r.job_id, r.lane, 'queued'
      from queue.lanes as l
      cross join lateral (
        select *
        from queue.ready as o
        where o.lane = l.lane and o.workspace_id between v_low and v_high
        limit p_limit
      ) as r
      where p_states && '{pending,queued}'
      limit p_limit
    )
    union all
    (
      select g.job_id, g.lane, 'queued'
      from queue.gated as g
      where p_states && '{pending,queued}'
        and g.workspace_id between v_low and v_high
        and not g.admitted
      limit p_limit
    )
    union all
    (
      select u.job_id, 0, 'queued'
      from queue.unpublished as u
      where p_states && '{pending,queued}' and u.workspace_id between v_low and v_high
      limit p_limit
    )
    union all
    (
      select l.job_id, l.lane, 'running'
      from queue.leases as l
      where p_states && '{processing,running}'
        and l.workspace_id between v_low and v_high
      limit p_limit
    )
    union all
    select
      j.id,
      j.lane,
      coalesce(
        w.state,
        queue.state_of(
          j.status,
          j.attempts,
          j.next_retry_at,
          j.scheduled_for,
          queue.clock()
        )
      )
    from (
      (
        select o.job_id, 'suspended' as state
        from queue.waits as o
        where p_states && '{waiting,suspended}'
          and o.workspace_id between v_low and v_high
        limit p_limit
      )
      union all
      (
        select o.job_id, 'failed'
        from queue.dead as o
        where 'failed' = any (p_states) and o.workspace_id between v_low and v_high
        order by o.workspace_id desc, o.job_id desc
        limit p_limit
      )
      union all
      (
        select o.job_id, null
        from queue.deferred as o
        where p_states && '{pending,queued,scheduled,retrying}'
          and o.workspace_id between v_low and v_high
          and o.is_place
        limit p_limit
      )
    ) as w
    join public.jobs as j on j.id = any (array[w.job_id]);
end;
$$;

-- Return true if the engine itself enqueues the jobs of the type p_job_type, for example webhook
-- deliveries. Return false for all other types, even for a type with the option `internal`, because
-- only the service enqueues jobs of internal types.
create function queue.is_internal(p_job_type text)
returns boolean
language sql stable
set search_path = ''
as $$
select exists (
  select from queue.job_types as t
  where t.job_type = p_job_type and t.in_order
)
$$;

-- Convert a client's job filter to conditions of an SQL where clause. Return null for an empty job
-- filter. Raise an error for a job filter with an unknown name or value.
create function queue.conditions_of(p_filter jsonb)
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
    'created_before', 'p.created_at < %L',
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

-- Return the ids of the jobs that match a filter, newest first, below the id p_before. If the
-- filter selects only live or failed jobs, queue.places reads the jobs from small tables. If the
-- filter has a tag, an index finds the jobs with the tag. For other filters, the function reads at
-- most the newest 10,000 jobs, and stops after about 100 ms.
-- last_id: Id of the last job that was read, which the next call passes as p_before. Null if there
--   are no more jobs to read.
create function queue.search_jobs(
  p_filter jsonb,
  p_workspaces uuid[],
  p_before uuid,
  p_limit integer,
  out ids uuid[],
  out last_id uuid,
  out searched integer -- number of jobs that were read
)
language plpgsql stable
set search_path = ''
as $$
declare
  v_until constant timestamptz := clock_timestamp() + interval '100 milliseconds';
  v_where constant text := queue.conditions_of(p_filter);
  v_states constant text[] := array(
    select jsonb_array_elements_text(jsonb_path_query_array(
      coalesce(p_filter -> 'state', p_filter -> 'status'),
      '$[*]'
    ))
  );
  v_head constant text := case
    when p_filter ? 'parent_id' then 'parent_id'
    when p_filter ? 'session_id' then 'session_id'
  end;
  v_known uuid[];
  v_left integer := 10000; -- number of jobs that may still be read
  v_slice integer := p_limit;
  v_read record;
begin
  v_known := case
    when p_filter ? 'ids'
      then array(select jsonb_array_elements_text(p_filter -> 'ids')::uuid)
    when p_filter ? 'tag' then array(
      select j.id
      from public.jobs as j
      where j.tags @> array[p_filter ->> 'tag']
        and (p_workspaces is null or j.workspace_id = any (p_workspaces))
      limit 10001
    )
    when v_states <> '{}'
        and not v_states && '{completed,cancelled}'
        and p_workspaces is not null
      then array(
        select p.job_id
        from unnest(p_workspaces) as w (id)
        cross join lateral queue.places(w.id, v_states, 10001) as p
        limit 10001
      )
  end;
  if cardinality(v_known) > 10000 and not p_filter ? 'ids' then
    v_known := null;
  end if;
  ids := '{}';
  last_id := p_before;
  searched := 0;
  loop
    -- The parameters of the query are the list of job ids ($1), the list of workspaces or null for
    -- all workspaces ($2), the id below which the search continues ($3), and the maximum number of
    -- jobs to read ($4). The query writes the equality of a column as `between`, because with `=`
    -- the planner would choose the index on id.
    execute format(
      'with p as materialized (
        select p.id, row_number() over () as n, (true %s) is true as fits
          from (select j.* from %s limit $4) as p)
      select array(select id from p where fits order by n) as ids, count(*) as jobs,
        (array_agg(id order by n desc))[1] as last from p',
      v_where,
      case
        when v_known is not null
          then 'public.jobs as j where j.id = any ($1) and j.id < $3
        and ($2 is null or j.workspace_id = any ($2)) order by j.id desc'
        when v_head is not null then format(
          'public.jobs as j where j.%1$I between %2$L and %2$L
        and j.id < $3 and ($2 is null or j.workspace_id = any ($2))
        order by j.%1$I desc, j.id desc',
          v_head,
          p_filter ->> v_head
        )
        else 'unnest($2) as w (id) cross join lateral (
        select * from public.jobs as o where o.workspace_id between w.id and w.id and o.id < $3
        order by o.workspace_id desc, o.id desc limit $4) as j order by j.id desc'
      end
    )
    into v_read
    using
      v_known,
      p_workspaces,
      coalesce(last_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'),
      v_slice;
    ids := ids || v_read.ids;
    searched := searched + v_read.jobs;
    v_left := v_left - v_slice;
    last_id := case when v_read.jobs = v_slice then v_read.last end;
    exit when last_id is null
      or cardinality(ids) >= p_limit
      or v_left <= 0
      or clock_timestamp() > v_until;
    v_slice := least(4 * v_slice, v_left, 2000);
  end loop;
end;
$$;

create function public.list_jobs(
  p_filter jsonb default '{}',
  p_cursor jsonb default null,
  p_limit integer default 50
)
returns json
language plpgsql stable
security definer
set search_path = ''
-- disable sequential scans and sorts, because the planner would otherwise read whole tables
set enable_seqscan = off
set enable_sort = off
set jit = off
as $$
declare
  v_limit constant integer := least(200, greatest(1, coalesce(p_limit, 50)));
  v_now constant timestamptz := queue.clock();
  v_since constant timestamptz := p_cursor ->> 'since';
  v_seen constant pg_snapshot := p_cursor ->> 'seen';
  -- higher than the number of each transaction whose rows this call sees
  v_end constant bigint := greatest(
    pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
    pg_current_xact_id_if_assigned()::text::bigint + 1
  );
  v_is_service constant boolean := queue.is_service();
  v_filter constant jsonb := coalesce(jsonb_strip_nulls(p_filter), '{}');
  v_named uuid;
  v_found record;
begin
  if num_nonnulls(p_cursor ->> 'id', v_since, p_cursor ->> 'columns') = 0 and p_cursor <> 'null'
    or pg_snapshot_xmax(v_seen)::text::bigint > v_end
  then
    perform queue.refuse(400, 'invalid_argument', 'unknown cursor', 'cursor');
  end if;
  v_named := v_filter ->> 'workspace_id';
  if v_named is not null then
    perform queue.may_read(v_named);
  elsif v_is_service
    and not v_filter ?| array['ids', 'parent_id', 'session_id']
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      'name the workspace',
      'workspace_id'
    );
  end if;
  perform queue.take_call_slot(v_named);
  -- Search the workspace that the filter names. If the filter names no workspace, search the
  -- workspace that the person joined first. If the filter has ids, a session or a parent, or if the
  -- person is an operator, search all workspaces of the person. For the service, a filter with ids,
  -- a session or a parent searches all workspaces of the database.
  v_found := queue.search_jobs(
    v_filter,
    case
      when v_named is not null then array[v_named]
      when not v_is_service then array(
        select w
        from queue.my_workspaces() as w
        where v_filter ?| array['ids', 'parent_id', 'session_id']
          or queue.is_operator()
          or not exists ( -- the workspace that the person joined first, as in public.own_workspace
            select from public.workspace_members as m
            join public.workspace_members as o
              on o.user_id = m.user_id and o.created_at < m.created_at
            where m.user_id = queue.caller() and m.workspace_id = w
          )
      )
    end,
    (p_cursor ->> 'id')::uuid,
    v_limit + 1
  );
  if cardinality(v_found.ids) > v_limit then
    v_found.last_id := v_found.ids[v_limit];
  end if;
  return json_build_object(
    'now', v_now,
    'jobs', (
      select coalesce(
        json_agg(
          case
            when u.is_unchanged then jsonb_build_object('id', j.id)
            when p_cursor ? 'columns' then (
              select jsonb_object_agg(c.key, c.value)
              from jsonb_each(jsonb_strip_nulls(queue.job_json(j, true))) as c
              where p_cursor -> 'columns' ? c.key
            )
            else queue.job_json(j, true)
          end
          order by f.n
        ),
        '[]'
      )
      from unnest(v_found.ids[:v_limit]) with ordinality as f (id, n)
      join public.jobs as j on j.id = any (array[f.id])
      cross join lateral (
        select case
          -- pages of version 0.5.1 send no snapshot, so return the changes of the 30 seconds before
          -- the last read again, because a change becomes visible when its transaction commits
          when v_seen is null
            then j.finished_at is not null and j.updated_at < v_since - interval '30 seconds'
          when j.status = 'pending' and coalesce(j.next_retry_at, j.scheduled_for) > v_since
            then false -- a scheduled job becomes due without a change of its row
          when j.status = 'processing' and exists (
            select from queue.leases as l
            where l.job_id = j.id
              -- a pulse reports an update after up to 15 seconds, and does not change the row
              and (l.pulse ->> 'since')::timestamptz > v_since - interval '20 seconds'
          ) then false
          else pg_visible_in_snapshot(
            (v_end - ((v_end - j.xmin::text::bigint) & 4294967295))::text::xid8,
            v_seen
          )
        end as is_unchanged
      ) as u
    ),
    'seen', pg_current_snapshot(),
    'next', case
      when v_found.last_id is not null then json_build_object('id', v_found.last_id)
    end
  );
exception when data_exception then
  perform queue.refuse(400, 'invalid_argument', sqlerrm, 'filter');
end;
$$;
comment on function public.list_jobs is
  E'Jobs, newest first: {now, seen, jobs, next}. next is the p_cursor of the next page.\n\nA page '
  'may contain fewer than p_limit jobs and still have a next, because a call searches at most '
  '10,000 jobs. To read a page again, pass {"since": now, "seen": seen} of the last response as '
  'p_cursor. If a job has not changed, only its id is returned. A list of names as columns of '
  'p_cursor selects the columns of the jobs, without null values.';
select queue.allow('authenticated, service_role', 'public.list_jobs');

-- Count the jobs of a workspace by state. Live and failed jobs are counted up to 10,000 in each
-- table that queue.places reads. Completed and cancelled jobs are counted among the newest 10,000
-- jobs of the workspace. If p_workspace_id is null, as in public.queue_stats, completed and
-- cancelled jobs are not counted.
create function public.count_jobs(p_workspace_id uuid, p_filter jsonb default '{}')
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_most constant integer := 10000;
  v_filter constant jsonb := coalesce(jsonb_strip_nulls(p_filter), '{}');
  v_lanes constant integer[] := array(
    select l.lane
    from queue.lanes as l
    where coalesce(v_filter ->> 'job_type' = l.job_type, true)
      and coalesce(v_filter ->> 'queue' = l.queue, true)
      and coalesce((v_filter ->> 'internal')::boolean = queue.is_internal(l.job_type), true)
  -- include jobs of unpublished types, for which queue.lanes has no row: lane 0 has the jobs of all
  -- these types, and lane -1 below those of one type
  ) || case v_filter - 'internal'
    when '{}' then 0
    when jsonb_build_object('job_type', v_filter -> 'job_type') then -1
  end;
begin
  perform queue.may_read(p_workspace_id, p_reads_much => true);
  perform queue.check_names(v_filter, array['job_type', 'queue', 'internal'], 'filter');
  return (
    with newest as materialized (
      select o.status, o.lane
      from public.jobs as o
      where o.workspace_id = p_workspace_id
      order by o.workspace_id desc, o.id desc
      limit v_most
    ),
    found as (
      select p.state, p.lane
      from queue.places(
        p_workspace_id,
        '{queued,scheduled,retrying,running,suspended,failed}',
        v_most
      ) as p
      union all
      (
        select 'queued', -1
        from queue.unpublished as u
        where u.job_type = v_filter ->> 'job_type' and u.workspace_id = p_workspace_id
        limit v_most
      )
      union all
      select n.status, n.lane
      from newest as n
      where n.status in ('completed', 'cancelled')
    ),
    counted as (
      select
        s.state,
        count(*) filter (where f.lane = any (v_lanes)) as jobs,
        v_most <= case
          when s.state in ('completed', 'cancelled')
            then (select count(*) from newest)
          -- one limit applies to scheduled and retrying jobs, because both are read from
          -- queue.deferred
          else sum(count(*)) over (
            partition by replace(s.state, 'retrying', 'scheduled')
          )
        end as more
      from unnest(array[
        'queued', 'scheduled', 'retrying', 'running', 'suspended', 'completed',
        'failed', 'cancelled'
      ]) as s (state)
      left join found as f on f.state = s.state
      group by 1
    )
    select jsonb_build_object(
      'states', jsonb_object_agg(c.state, c.jobs),
      'at_least', coalesce(jsonb_agg(c.state) filter (where c.more), '[]')
    )
    from counted as c
  );
end;
$$;
comment on function public.count_jobs is
  'Number of jobs of a workspace in each state: {states, at_least}. at_least lists the states that '
  'may have more jobs than were counted.';
select queue.allow('authenticated, service_role', 'public.count_jobs');

create function public.dead_letters(p_workspace_id uuid)
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
          '[0-9a-f]{8}(-[0-9a-f]{4}){4}([0-9a-f]{8})',
          '…\2',
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

-- Return the attempts of a job in the order of their starts.
-- p_is_open: True to include tracebacks, which contain source code.
create function queue.attempt_lines(
  p_job public.jobs,
  p_limit integer,
  p_is_open boolean
)
returns jsonb
language sql stable
set search_path = ''
as $$
select coalesce(
  jsonb_agg(
    to_jsonb(e) - array[
      'job_id',
      'worker',
      'error_data',
      case when not p_is_open then 'traceback' end
    ] || jsonb_build_object(
      'worker_id', w.worker_id,
      'error_message', left(e.error_message, 1000),
      'error', left(queue.error_line(e.error_message, e.error_data), 1000),
      'has_traceback', e.traceback is not null,
      -- false if only the lease expired, so that the process may still run
      'process_ended', case when e.outcome in ('lost', 'died') then e.error_data ? 'evidence' end
    )
    order by e.fence
  ),
  '[]'
)
from (
  (
    select *
    from queue.attempts as a
    where a.job_id = p_job.id
    order by a.fence desc
    limit p_limit
  )
  union all
  select
    l.job_id,
    l.fence,
    l.attempt,
    l.worker,
    l.leased_at,
    null,
    null,
    null,
    null,
    null,
    null
  from queue.leases as l
  where l.job_id = p_job.id
  union all
  select
    p_job.id,
    p_job.fence,
    p_job.attempts,
    p_job.worker,
    p_job.started_at,
    p_job.finished_at,
    'completed',
    null,
    null,
    null,
    null
  where p_job.status = 'completed' and p_job.fence = 1
) as e
left join queue.workers as w on w.worker = e.worker
$$;

create function public.job_attempts(p_job_id uuid)
returns jsonb
language sql stable
security definer
set search_path = ''
as $$
select jsonb_build_object(
  'attempts', queue.attempt_lines(
    j,
    1000,
    queue.is_manager(j.workspace_id) or queue.is_operator() or queue.is_service()
  )
)
from queue.visible_job(p_job_id) as j
cross join lateral queue.take_call_slot(j.workspace_id)
$$;
comment on function public.job_attempts is
  'The last 1,000 attempts of a job, the running attempt last: {attempts}. Managers also get '
  'tracebacks.';
select queue.allow('authenticated, service_role', 'public.job_attempts');

create function public.job_trace(p_job_id uuid)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_most constant integer := 300;
  v_job constant public.jobs := queue.visible_job(p_job_id);
  v_ids constant uuid[] := array(
    with recursive tree as (
      select v_job.id, 0 as level
      union all
      select c.id, t.level + 1
      from tree as t
      cross join lateral (
        select j.id
        from public.jobs as j
        where j.parent_id = t.id
        order by j.id
      ) as c
      where t.level < 6
    )
    select t.id
    from tree as t
    limit v_most + 1
  );
begin
  perform queue.take_call_slot(v_job.workspace_id);
  return jsonb_build_object(
    'now', queue.clock(),
    'more', cardinality(v_ids) > v_most,
    'jobs', (
      select jsonb_agg(
        queue.job_json(j, true) || jsonb_build_object(
          'attempts', queue.attempt_lines(j, 100, false),
          'streams', case when t.nth = 1 then queue.stream_times(j.id) end,
          'steps', (
            select coalesce(
              jsonb_agg(to_jsonb(s) order by s.ended_at, s.name),
              '[]'
            )
            from (
              (
                select
                  t.name,
                  t.kind,
                  t.started_at,
                  t.created_at as ended_at,
                  null::timestamptz as timeout_at
                from queue.steps as t
                where t.job_id = j.id and t.nth = 0
                order by t.created_at desc
                limit 200
              )
              union all
              select l.step, 'step', l.step_started_at, null, null
              from queue.leases as l
              where l.job_id = j.id and l.step is not null
              union all
              select w.step, w.kind, w.created_at, null, w.timeout_at
              from queue.waits as w
              where w.job_id = j.id
            ) as s
          )
        )
        order by t.nth
      )
      from unnest(v_ids[:v_most]) with ordinality as t (id, nth)
      join public.jobs as j on j.id = any (array[t.id])
    )
  );
end;
$$;
comment on function public.job_trace is
  'Attempts, steps and waits of a job and its descendants, six levels deep, up to 300 jobs: {now, '
  'more, jobs}. The first job also has streams, the times of its output: [{stream, first_at, '
  'last_at}].';
select queue.allow('authenticated, service_role', 'public.job_trace');

-- Return the workers that hold unexpired leases of a workspace, with the number of leases, the time
-- of the latest renewal or lease call, the time at which the next renewal is overdue, and the jobs
-- whose code has blocked the event loop. A worker renews a lease before a quarter of the lease's
-- duration and 30 seconds have passed. The renewal is also overdue if another lease of the worker
-- has expired since the latest renewal.
-- p_workspace_id: Null to return the workers of all workspaces.
create function queue.lease_holders(p_workspace_id uuid, p_now timestamptz)
returns table (
  worker integer,
  jobs bigint,
  renewed_at timestamptz,
  due_at timestamptz,
  expires_at timestamptz,
  blockers uuid[]
)
language sql stable
set search_path = ''
as $$
select
  l.worker,
  l.jobs,
  l.renewed_at,
  least(
    l.renewed_at + make_interval(secs => 0.25 * l.shortest + 30),
    (
      select min(s.since)
      from queue.suspects as s
      where s.worker = l.worker and s.since > l.renewed_at
    )
  ),
  l.expires_at,
  l.blockers
from (
  select
    o.worker,
    count(*) filter (where p_workspace_id is null or o.workspace_id = p_workspace_id) as jobs,
    max(o.expires_at - make_interval(secs => o.lease_seconds)) as renewed_at,
    min(o.lease_seconds) as shortest,
    max(o.expires_at) as expires_at,
    -- an ordered aggregate would sort all leases
    array_agg(o.job_id) filter (where o.pulse ->> 'blocked_ms' <> '') as blockers
  from queue.leases as o
  where o.expires_at > p_now
  group by 1
) as l
where l.jobs > 0
$$;

-- Return the live workers, with the time of their last call or renewal in the column seen_at, and
-- the jobs whose code blocks their event loop in the key blockers of the column summary. A
-- worker with leases is live if no renewal is overdue, or if it has called since. A worker without
-- leases is live if it called the database in the last three minutes, no lease that expired since
-- has made its job a suspect, and its run has not ended or ended at most 90 seconds ago. If the
-- worker stopped, its process died, or it ran only suspects, the worker is live for ten more
-- seconds, because its host usually starts another process.
create function queue.live_workers(p_now timestamptz)
returns queue.workers[]
language sql stable
set search_path = ''
as $$
with holders as materialized (
  select *
  from queue.lease_holders(null, p_now)
)
select array(
  select w
  from queue.workers as w
  where w.seen_at > p_now - interval '3 minutes'
    and coalesce(
      w.ended_at > p_now - case
        when w.evidence is null
            and (w.summary -> 'stopped') is null
            and w.slots is distinct from '[]'
          then interval '90 seconds'
        else interval '10 seconds'
      end,
      true
    )
    and w.worker not in (select h.worker from holders as h)
    and not exists (
      select from queue.suspects as s
      where s.worker = w.worker and s.since > w.seen_at and w.evidence is null
    )
  union all
  select jsonb_populate_record(
    w,
    jsonb_build_object(
      'seen_at', greatest(w.seen_at, h.renewed_at),
      'summary', coalesce(w.summary, '{}') || jsonb_build_object('blockers', h.blockers)
    )
  )
  from holders as h
  join queue.workers as w on w.worker = h.worker
  where h.due_at > p_now or w.seen_at > h.due_at
)
$$;

-- Return the time of the last call of any worker. A worker's row is updated only once a minute, the
-- row of its run after each lease, and leases by renewals.
create function queue.last_call()
returns timestamptz
language sql stable
set search_path = ''
as $$
select case
  when c.at > queue.clock() - interval '1 minute' then c.at -- without a read of all leases
  else greatest(
    c.at,
    (select max(l.expires_at - make_interval(secs => l.lease_seconds)) from queue.leases as l)
  )
end
from greatest(
  (select max(w.seen_at) from queue.workers as w),
  (select max(t.seen_at) from queue.ticks as t),
  to_timestamp(nullif(pg_sequence_last_value('queue.slots_ms'), 0) / 1000.0)
) as c (at)
$$;

-- Return the time of the last revocation of all worker keys if no worker has called since, or if
-- the last worker of the job type p_job_type called in the two minutes before the revocation. A
-- worker's row is updated once a minute. Return null if the revocation does not concern the key of
-- a worker of p_job_type, or of any type, that called in these two minutes or later.
create function queue.revoked_for(p_job_type text default null)
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

-- Return the name of p_names that is most similar to p_name. Return null if p_name is one of the
-- names, or if no name has at least half of the letter pairs of p_name.
create function queue.nearest_name(p_name text, p_names text[])
returns text
language sql immutable
set search_path = ''
as $$
select nullif(p.name, p_name)
from (
  select
    t.name,
    array(
      select distinct substr(t.name, n, 2)
      from generate_series(1, length(t.name) - 1) as n
    ) as its
  from unnest(p_names) as t (name)
  where length(t.name) > 1
) as p
cross join lateral (
  select 2.0
    * count(*) filter (where o.pair = any (p.its))
    / (cardinality(p.its) + count(*)) as n
  from (
    select distinct substr(p_name, n, 2) as pair
    from generate_series(1, length(p_name) - 1) as n
  ) as o
) as likeness
where likeness.n >= 0.5
order by likeness.n desc, p.name
limit 1
$$;

-- Return the published job type whose name is most similar to p_job_type.
create function queue.nearest_type(p_job_type text)
returns text
language sql stable
set search_path = ''
as $$
select queue.nearest_name(p_job_type, array(
  select t.job_type
  from queue.job_types as t
  where t.schema_version > 0 and not t.internal
))
$$;

-- Return the time at which the key of the last worker of the job type p_job_type, or of all types,
-- expired, if the worker called until then.
create function queue.key_expired_at(p_job_type text default null)
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

-- Return the job types p_job_types with the columns `unserved` and `in_other_queues`. The column
-- `unserved` is true if workers run, but none of them serves the job type in its queue. The column
-- `in_other_queues` is true if workers serve the type, but only in other queues.
-- p_queues: For each job type of p_job_types, the queue that a worker must serve. Null if a worker
--   may serve the type in any queue.
create function queue.is_unserved(
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

-- Return the enabled schedules of a workspace whose job type no live worker serves, or whose job
-- type no worker has published.
-- p_workspace_id: Null to return the schedules of all workspaces.
create function queue.unserved_schedules(p_workspace_id uuid, p_now timestamptz)
returns table (name text, job_type text)
language sql stable
set search_path = ''
as $$
select s.name, s.job_type
from queue.schedules as s
join queue.is_unserved(
  array(
    select distinct o.job_type
    from queue.schedules as o
    where o.enabled and (p_workspace_id is null or o.workspace_id = p_workspace_id)
  ),
  null,
  queue.live_workers(p_now),
  p_now
) as t on t.job_type = s.job_type
where s.enabled
  and (
    t.unserved
    or not exists (
      select from queue.job_types as o
      where o.job_type = s.job_type and o.schema_version > 0
    )
  )
  and (p_workspace_id is null or s.workspace_id = p_workspace_id)
$$;

-- Return the enabled schedules whose latest run enqueued no new job, because an earlier job, of the
-- schedule or of another caller, has the same unique key and has not started. Up to 1,000 schedules
-- are read.
-- p_workspace_id: Null to return the schedules of all workspaces.
create function queue.waiting_schedules(p_workspace_id uuid)
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
create view queue.guidance as
select row_number() over () as id, a.*
from (
  -- name all columns, because a dump of the view would otherwise differ from the view
  select
    'failed:' || f.kind as reason,
    null as sentence,
    s.words,
    s.command,
    s.path
  from (
    values
      (
        'timeout',
        'The traceback shows the line where it waited. Give that call its own time limit, remove '
          'the cause of the wait, or give the type a longer `timeout`.'
      ),
      ('abandoned', null),
      ('lost', 'Whether its process ended is unknown. See the log of its worker.'),
      (
        'lost:kill',
        '[Its process had used up to {peak_mb} MB. |]The system sends SIGKILL if memory runs out, '
          'but a person, another program or its own code may have sent it. If memory ran out, give '
          'the worker more, or let the job use less.'
      ),
      (
        'lost:fault',
        '[Its process had used up to {peak_mb} MB. |]{code} usually comes from a library in C. '
          'Update the library, or avoid the call.[ If memory ran out{is_abort}, which the log of '
          'the worker may say, give the worker more, or let the job use less.]'
      ),
      (
        'lost:signal',
        'Its own code, another program or the system sent {code} to its process. Correct that.'
      ),
      (
        'lost:blocked',
        'A call blocked the event loop until the worker ended the process. Run the call in a '
          'thread (`asyncio.to_thread`), or write the processor without `async`. A slow regular '
          'expression or other code in C can block in a thread too: run it in another process.'
      ),
      (
        'lost:exit',
        'Its process ended itself ({code}), usually by a call in its code. Remove the call.'
      ),
      (
        'killed',
        '[A program that it started was killed by {signal}|A process of its pool ended ({code})]. '
          'If memory ran out, give the worker more, or let the program use less.'
      ),
      (
        'variable',
        'Set the environment variable {code} for the worker: in the file of `serve --env-file`, or '
          'for `minutehand dev` and AWS by `lambda.yml` (`minutehand docs recipes`). Start the '
          'worker again.'
      ),
      (
        'program',
        'Install the program {code}, or the interpreter that this script names, where the worker '
          'runs, or correct `PATH`.'
      ),
      (
        'module',
        'Add the package of the module {code} to the deploy, or correct the import.'
      ),
      (
        'permission',
        'The worker may not use {error_path} ({code}). Give its user the right, or use another '
          'path.'
      ),
      ('machine', 'The database ran out of a resource ({code}). Free some of it.'),
      (
        'files',
        'The process reached its limit of open files ({code}). Close the files and connections '
          'that its code no longer uses, or raise the limit (`ulimit -n`).'
      ),
      (
        'disk',
        'The space or the quota of [the file system of {error_path}|a file system] on the machine '
          'of the worker is used up ({code}). Free some of it.'
      ),
      (
        'memory',
        'Its process could not allocate memory. Give the worker more memory, or let the job use '
          'less.'
      ),
      (
        'prepared',
        'The session of its connection lacks a prepared statement or has it already ({code}), as '
          'with a pooler in transaction mode. Turn prepared statements off in the driver, or '
          'connect in session mode.'
      ),
      (
        'lock',
        'It waited too long for a lock of another session ({code}). If this returns, its '
          'explanation or `minutehand status` can name the session while an attempt runs. End that '
          'session if no one needs it.'
      ),
      (
        'lock:file',
        'Another connection has locked the SQLite database ({code}). End its transaction, or raise '
          'the `timeout`.'
      ),
      (
        'contention',
        'It conflicted with another transaction ({code}). If this returns, take locks in one '
          'order, and briefly.'
      ),
      (
        'schema',
        'The database lacks an object that its query or call names ({code}). Apply the migration '
          '(for Minutehand, see `minutehand doctor`), or fix the query.'
      ),
      ('query', 'The database cannot run the query[ at {place}] ({code}). Correct the query.'),
      ('result', 'The result that the processor returned was rejected. Fix the code, and deploy.'),
      (
        'rejected',
        '[Its processor had finished{had_finished}, and a retry runs it again. ]Correct the '
          'trigger, constraint or value that caused the error. The doctor names a trigger that '
          'rejects all changes.'
      ),
      (
        'credentials',
        'Fix the credentials[ for the proxy{is_proxy}| for {address}|], which are missing or were '
          'rejected ({code}).'
      ),
      (
        'forbidden',
        '[{address}|The server] refused the call ({code})[; its answer says why{has_answer}]. '
          'Correct the cause, for example the rights of the credentials.'
      ),
      (
        'grant',
        '[The policies of {policed} rejected a row ({code}). Correct the row or the policies.|The '
          '{role}, or the owner of a `security definer` function that it calls, lacks a right on '
          '{object} ({code}). ][If a function of yours uses {own_object}, which '
          'belongs to Minutehand, make it `security definer` (`minutehand docs own-data`). '
          'Otherwise call the functions of Minutehand, whose rights `minutehand doctor` '
          'checks.|If {shared_object} '
          'belongs to Minutehand, call its functions instead. Otherwise grant that role the right.|'
          'Grant that role the right{is_granted}. If the table has row level security, the role '
          'also needs a policy, without which its reads are empty.|]'
      ),
      (
        'value',
        'The database rejected a value or a calculation ({code}). Correct the value or the query, '
          'or apply the migration that allows it.'
      ),
      (
        'statement',
        'The database cancelled a statement ({code}). If it took too long, make it faster or raise '
          '`statement_timeout`. If it waits for a lock, its explanation or `minutehand '
          'status` can name the session to end while an attempt runs.'
      ),
      (
        'rate',
        'If a quota of [{address}|the other service] is used up, raise it there. If the calls come '
          'too fast, set a lower `rate_limit` of the type.'
      ),
      ('request', 'Fix the request that was rejected ({code}).'),
      (
        'request:own',
        'The client rejected its own request ({code}). Correct it, for example a line break at the '
          'end of a key in a header.'
      ),
      (
        'sequence',
        'A sequence has no further number ({code}). Raise its limit, or change the sequence and '
          'its column to `bigint`.'
      ),
      (
        'connections',
        'All connections of the client were in use ({code}). Close each response, for example by '
          '`with`, or allow more connections.'
      ),
      (
        'connections:pool',
        'The pool had no free connection in time ({code}). If all are in use, return each after '
          'its use, for example by `with`, allow more, or lower `max_concurrency` of the type. If '
          'the pool cannot connect, the log of the worker says why.'
      ),
      (
        'connections:server',
        'The database or its pooler accepts no more connections ({code}). Jobs of this type may '
          'hold them: use fewer in each job, share one pool, or lower `max_concurrency` of the '
          'type. Or raise the limit, for example the `connection limit` of the role. To see who '
          'holds them: `select pid, usename, application_name, state, query from '
          'pg_stat_activity`.'
      ),
      (
        'closed',
        'The call used a connection, client or event loop that was already closed. Open one in '
          'each job, or use a pool that replaces closed ones. If the worker keeps the closed one, '
          'start the worker again.'
      ),
      (
        'library',
        'The library {error_path}, or one that it needs, could not be loaded. Add it to the image '
          'or the layer of the worker, built for the platform and the Python version there.'
      ),
      (
        'slow',
        'A call[ to {address}] took longer than its time limit ({code}). Raise the limit, or fix '
          'what the call waits for.[ If it waits for a lock, `minutehand status` can name the '
          'session{is_own_call}.]'
      ),
      (
        'slow:function',
        'The SQL function that the error names may be slow, or wait for a lock, or the database or '
          'the Data API does not answer. Its explanation or `minutehand status` can name the '
          'session to end while an attempt runs, and `minutehand doctor` says whether both answer. '
          'If they do, make the function faster.'
      ),
      (
        'redirect',
        '[{address}|The server] answered with a redirect ({code}). Correct the address, or the '
          'credentials if it leads to a login, or let the client follow redirects.'
      ),
      (
        'unavailable',
        'The connection to [{address}|the other service] failed. Correct what the error names, for '
          'example the address, the password, a TLS setting or a limit of connections.'
      ),
      (
        'unavailable:error',
        '[{address}|The other service] could not serve the request ({code}). See its log or status '
          'page.'
      ),
      (
        'unavailable:closed',
        '[{address}|The other service] closed or rejected the connection before its answer was '
          'complete ({code}). See in its log why, for example a restart or a time limit. If the '
          'connection was idle before, let the worker replace closed connections.'
      ),
      (
        'unavailable:port',
        'Check that [{address}|the other service] is up and accepts connections from the workers '
          '({code}), or correct its address.'
      ),
      (
        'unavailable:plain',
        '[{address}|The other service] did not answer with valid TLS ({code}). If this port has no '
          'TLS, use another port or `http:`.'
      ),
      (
        'unavailable:route',
        '[{address}|Its address] cannot be reached ({code}). Check the address and the network of '
          'the worker.'
      ),
      (
        'unavailable:name',
        'The host name [{address}|in its address] cannot be resolved ({code}). Check the name and '
          'the DNS server.'
      ),
      (
        'unavailable:certificate',
        'The certificate of [{address}|the other service] was rejected ({code}). Renew it, or let '
          'the worker trust its issuer.'
      ),
      (
        'json',
        '[The answer of {address}|The text that the code read] is not JSON. See how it begins, and '
          'correct the request, or check the answer before its JSON is read.'
      ),
      (
        'output',
        'Write less, or raise the setting `output_max_bytes`, which is {output_max_bytes}.'
      ),
      (
        'answer',
        'The model[ at {address}|] gave no usable answer. Try again, or change the request or the '
          'model. If this returns, see the status page of the vendor.'
      ),
      ('chosen', 'Follow the text of the error[, which was raised at {place}].')
  ) as f (kind, words)
  cross join lateral (
    values
      (f.words, null, case f.kind when 'rate' then '/types/{job_type}' end),
      ('Then [run{is_delayed} the job now|retry {failed}].', 'retry {job_id}', null)
  ) as s (words, command, path)
  union all -- advice for several reasons, before the other advice for one of these reasons
  select r as reason, null as sentence, s.words, s.command, s.path
  from (
    values
      (
        '{no_worker, no_processor, not_leased, next_in_line, behind_others, long_line,
          passed_over, running, cancelling, lease_expired, worker_died, silent_worker,
          delayed}'::text[],
        '[All worker keys were revoked at {revoked_at}|The key of worker {worker_id} was revoked '
          'at {key_revoked_at}]. Set `SUPABASE_WORKER_KEY` of the workers to a new key:',
        'token worker',
        '/overview'
      ),
      (
        '{no_worker, no_processor, running, lease_expired, silent_worker, expired_key}',
        'Set `SUPABASE_WORKER_KEY` of the workers to a key that is valid after {key_expired_at}:',
        'token worker',
        '/overview'
      ),
      (
        '{key_limit, workspace_type_limit, workspace_limit, type_limit, rate_limited, no_slot}',
        'If it must not wait for the jobs ahead of it ([{at_least} or more|{ahead}]), enqueue it '
          'again with a smaller priority{is_movable}.',
        null,
        null
      ),
      (
        '{key_limit, workspace_type_limit, workspace_limit, type_limit, no_slot}',
        '[Job {parent} is its parent. If the parent waits for it without `ctx.gather` or '
          '`ctx.map`, neither ends: cancel the parent, and fix its code.|See whether job {holder} '
          'still works{is_doubtful}:|Wait for job {holder}{is_first}:]',
        'explain {holder}',
        '/jobs/{holder}'
      ),
      (
        '{no_worker, no_processor, not_leased, next_in_line, behind_others, long_line,
          passed_over, running, cancelling, lease_expired, worker_died, silent_worker,
          delayed}',
        'No job can start or end, because the database rejects writes{is_read_only}. See how to '
          'end this:',
        'status',
        '/overview'
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
        'pause --type {job_type} --workspace {workspace_id}',
        '/types/{job_type}'
      ),
      (
        '{locked, open_transaction, blocking_session}',
        '[Check whether these triggers of jobs or logs take long: {triggers}.|Wait for the end '
          'of {call}, which it runs.|If it is the session of job {owner}, commit it in the code of '
          'the job before {owner_call}. End it if no one needs it: `select '
          'pg_terminate_backend({pid})`.|If the job called the SQL function that this session '
          'runs{is_later}, make the function faster, or wait for its end. Otherwise end the '
          'session if no one needs it: `select pg_terminate_backend({pid})`.|End that session if '
          'no one needs it: `select pg_terminate_backend({pid})`.]',
        null,
        '[/jobs/{job_id}|/overview]' -- Overview may not show a session that has locked one row
      ),
      (
        '{stopped, stopped_jobs}',
        'See what stops the workers, for example a deploy or a health check.',
        '[explain {job_id}|workers]',
        '[/jobs/{job_id}|/types/{job_type}]'
      ),
      (
        '{full_workspace, full_of_bytes}',
        'Wait until jobs have ended, or cancel those that are not needed.',
        'ls',
        '/jobs'
      ),
      (
        '{wrong_disk_size}',
        'Set it to the size of the disk (`set_settings`).',
        null,
        '/overview'
      ),
      (
        '{disk_filling, disk_nearly_full}',
        'Enlarge the disk and set its new size (`set_settings`, `disk_bytes`), or delete data, for '
          'example by keeping ended jobs for fewer days (`retention_days`).',
        null,
        '/overview'
      ),
      (
        '{service_full, service_locked, wrong_clock, late_events}',
        'Notify the operator of the service.',
        null,
        '/overview'
      ),
      (
        '{workers_lack_right}',
        'Notify the operator of the service, whose `minutehand doctor` names the right.',
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
    ('cancelled', null, 'Retry the job if it should run after all.', 'retry {job_id}', null),
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
      '[See {place}, where one of {these} failed, and correct the code, a setting or the data|'
        'Correct the code, a setting or the data at {place}|Correct what the error names].',
      null,
      null
    ),
    (
      'failed',
      null,
      'Then [run{is_delayed} the job now|retry {failed}]. Finished steps are kept.',
      'retry {job_id}',
      null
    ),
    (
      'failed:child',
      null,
      '[Follow the advice of {cause_type}, the first descendant that failed, and retry it. Then '
        'retry {retried}.|Its child {child} was cancelled. Retry the child, then this job.|None of '
        'its children has failed any more. Retry this job.]',
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
        'upcaster between them, deploy, then retry the job{is_of_newest}.',
      'retry {job_id}',
      '/types/{job_type}'
    ),
    (
      'failed:payload',
      null,
      '[Worker {older_worker} is older than the payload, whose version is {version}|Worker '
        '{other_worker} ({other_code}) does not run the newest deploy of the type, commit '
        '{newest_commit}]. Deploy the newest code there, or stop it. Then retry the job.',
      'retry {job_id}',
      '/types/{job_type}'
    ),
    (
      'failed:payload',
      null,
      'Retry the job with a payload that fits the type, or give new fields of the type a '
        'default{is_of_newest}. If the worker is older than the payload, deploy the worker.',
      'retry {job_id} --payload @payload.json',
      null
    ),
    (
      'refused',
      'The database cannot change the job''s row. The change is retried at {retry_at}.',
      '[Restore the missing object{is_missing}. The doctor has the statement if it is part of '
        'Minutehand|End the transaction that keeps the lock{is_locked}|Fix the trigger or '
        'constraint that rejects the change], then wait.',
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
        'request with its next report.[ The last recorded call of the worker was at '
        '{missed_since}.| The worker has not renewed the lease since {late_since}.|][ The request '
        'also asks for a retry{is_retried}.]',
      'Nothing to do until {expires_at}. If its worker has not stopped it or renewed its lease by '
        'then, the next maintenance ends it.',
      'watch {job_id}',
      null
    ),
    (
      'running',
      '[Its processor ended at {unstored_since}, but its outcome is not stored yet|Silent for '
        '{silent}, since {sign}|Silent for {silent}|Last known update {age} ago ({last})|Last '
        'known update {age} ago|Worker {worker_id} has been running it since {leased_at}][, '
        '{seen}][, waiting for {program}].[ It has run since {run_since}.][ In the last 24 hours, '
        '{sample} of its type ran for {most} or less.][ It has run {longer} times as long, '
        'but it makes progress; at this pace it ends about {paced_end_at}{in_time}.| It has run '
        '{longer} times as long, but it makes progress.|][ {alike} running '
        'jobs of its type are silent at this line.][ The last recorded call of its worker was at '
        '{missed_since}.| The worker has not renewed its lease since {late_since}.| Its worker '
        'last reported at {reported_at}.| Its worker has not reported on it since '
        '{unreported_since}.|][ The key of the worker expired at {key_expired_at}.| The key of the '
        'worker was revoked at {key_revoked_at}.|][ {death}. It runs with {beside} of them and '
        'nothing else.| {death}. It runs alone.|][ An earlier process of it ended while {killer} '
        'ran in it.][ The role job_worker lacks a right (`{not_granted}`), so its outcome is not '
        'stored.| Its worker lacks {a_right}, so its outcome is not stored.|][ One call of its '
        'processor runs it and {batched}.| It waits for {next_call}.|][ Its own code has '
        'blocked the event loop of the '
        'worker for {blocked} within a minute.][ {loop_owner} of the same process has blocked its '
        'event loop for {loop_blocked} within a minute.][ Its child {kept_child} waits for a slot '
        'or limit that it uses.][ Its database session (pid {pid}) waits for a lock of the session '
        'with pid {blocker}.][ Session {own_blocker} belongs to the same job.][ The process has '
        'grown by {grown_mb} MB.]',
      '[Grant the right: `grant {not_granted} to job_worker`.|Notify the operator of the service, '
        'because the worker lacks {a_right}.|Wait for the end of {call}, which session {blocker} '
        'runs.|In code, commit that session before the call at {place}. To end this attempt: '
        '`select pg_terminate_backend({own_blocker})`.|Commit or end that session: `select '
        'pg_terminate_backend({blocker})`.|Nothing to do until {expires_at}. The job runs again '
        'when a worker has a key that was issued after {key_revoked_at}.|If the process of the '
        'worker has hung since {missed_since}, end it. Once it has ended, the job runs again at '
        'the latest after {expires_at}.|See in the log of worker {worker_id} why it is not stored '
        'since {unstored_since}.|The process of the worker may have ended after {late_since}. Then '
        'the job runs again at the latest after {expires_at}. If a job blocked its event loop '
        'instead, run that call with `asyncio.to_thread`.|If it waits for job {kept_child} without '
        '`ctx.gather` or `ctx.map`, it keeps a slot that its child needs: cancel it, and fix its '
        'code.|Find the code that runs long without an `await`{is_blocking}, for example near '
        '{place}, and run it with `asyncio.to_thread`, or write the processor without '
        '`async`.|Follow the advice of '
        'job {loop_blocker}.|{end_wait} Do so before any retry: an earlier attempt is still stuck '
        'in worker {stuck_in}, and each retry can leave one more.|{end_wait} {restart}{kept} '
        'Then give the type a `timeout` below {shorter} if such calls should end '
        'earlier.|{end_wait} {restart}{kept}|Nothing to do if the end about {paced_end_at} is '
        'early enough. Otherwise cancel it.|See whether {advances}. Cancel it if not.|If {usual} '
        'should suffice, check the code at {place}.|If worker {worker_id} has not reported on it '
        'by {unreported_until}, see its log.|Nothing to do.][ Check whether these triggers of jobs '
        'or logs take long: {triggers}.]',
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
      'It sleeps until {until}.[ It has waited {waits} times since {often_since}.]',
      '[If {waits} waits are too many, cancel it, and correct the loop in its code.|Nothing to do '
        'until {early_deadline}. It fails then.|Nothing to do until {until}. It continues then.]',
      'watch {job_id}',
      null
    ),
    (
      'asking',
      'It has waited since {since} for an answer to: {question}',
      'Answer it.',
      'answer {job_id} ANSWER',
      null
    ),
    (
      'waiting_for_event',
      'It has waited since {since} for the event {event}.[ An event with the similar name '
        '{nearest} was emitted.]',
      'If both names mean the same event{is_near}, correct the code that emits it, or the code '
        'that waits for it, and deploy.',
      'show {job_id}',
      null
    ),
    (
      'waiting_for_event',
      null,
      'Emit {event}: `select public.emit_event(…)`, or POST /api/events.',
      'docs sql',
      null
    ),
    (
      'waiting_for_children',
      'It has waited for its children since {since}.[ The first that has not ended is '
        '{holder_type} {holder} ({holder_state}).]',
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
      '[{reported}. It waits until {run_at}|Its processor snoozed it until {run_at}].',
      'Run it now.',
      'retry {job_id}',
      null
    ),
    (
      'snoozed_again',
      'Its processor has snoozed it {times} since {first_at}.',
      'If {times} is too often, see in its log and its code why it is snoozed.',
      'show {job_id}',
      null
    ),
    (
      'no_worker',
      'No call of a worker has completed[ since {since}].[ The key of the last worker expired at '
        '{key_expired_at}.]',
      'If none runs, start one with `minutehand dev` or `minutehand serve`. On AWS, check the '
        'schedule. If one runs, see in its log or with `minutehand doctor` why its calls fail.',
      'doctor',
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
      'No worker serves {unpublished}.[ It has waited since {since}.][ Workers serve: {served}.]',
      'Fix this in code or settings, and deploy: {refusal}',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'no_processor',
      'No worker serves {types}: {count} {wait} since {since}.[ Did you mean {nearest}?]',
      'If the name is misspelt, enqueue again as {nearest}, the nearest name that a worker has '
        'published, and cancel what has the wrong name.',
      'cancel {job_id}',
      null
    ),
    (
      'no_processor',
      'No running worker serves the job type {job_type} in the queue {queue}.[ Worker '
        '{last_worker}{process_end} served it, and its last recorded call was at {last_seen}.][ '
        'Workers serve: {served}.][ The key of its last worker expired at {key_expired_at}.]',
      '[Workers that have {job_type} serve only other queues. Start one with `minutehand serve '
        '--queue {not_served}`, or for all queues.|If a deploy removed {once_served}, deploy '
        'it again. Otherwise start its worker again. If one runs, check its key with '
        'its file of settings (`-e`):|Otherwise, start or deploy a worker that has '
        '`@processor("{job_type}")`{is_near}. If one runs, see in its log why it does not serve '
        'the type, and check its key:|Start or deploy a worker that has '
        '`@processor("{job_type}")`. If one runs, see in its log why it does not serve the type, '
        'and check its key:|Each type needs its own step, which the page of '
        'one of its jobs names. To check workers and their keys:]',
      'doctor --only processors --only worker-key',
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
      '{death}[, while {killer} ran in it]. It runs [next, with {beside} of them and nothing '
        'else|alone next].',
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
      'workers',
      '/overview'
    ),
    (
      'not_leased',
      'It has been ready since {ready_at}. [The role job_worker lacks a right '
        '(`{lacked}`), so workers with this role lease nothing|Workers lack {a_right}, so '
        'they lease nothing|The workers that serve it '
        'use {running} of {slots} slots, but have leased nothing since {leased_at}|The workers '
        'that serve it have leased nothing since {leased_at}|No worker that serves it runs{yet}|'
        'Workers that serve it have not leased it].[ They were last seen at {seen_at}.]',
      '[See whether one of these triggers of jobs or logs drops the change (`before update`, '
        'returns null), raises an error or takes long: {triggers}. ][Grant the right: `grant '
        '{lacked} to job_worker`.|Notify the operator of the service, '
        'because workers lack {a_right}.|Nothing to do if a worker that serves it is starting{yet}.'
        ' Otherwise start one.|If workers have hung since {silent_since}, end their processes. '
        'Otherwise check their rights and logs.|Check the rights and logs of the workers.]',
      'doctor',
      '/overview'
    ),
    (
      'behind_others',
      'It waits for its turn.[ All {slots} slots are in use by jobs of {used_by}.][ No worker that '
        'serves it runs. The last run ended at {ended_at}.][ The last call of such a worker was at '
        '{silent_since}.]',
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
      'The database rejects writes, because default_transaction_read_only is on.[ The disk is '
        '{percent} % full, and Supabase sets it when the disk is full.]',
      '[Run `begin; set transaction read write; {reset}; commit`, then restart the workers and '
        'the project, because open sessions stay read-only. If the dashboard of Supabase shows a '
        'full disk, enlarge the disk first.|See in the dashboard of Supabase whether the '
        'disk is full. If it is, enlarge it. Otherwise turn default_transaction_read_only off, '
        'whose value comes from the {source}.|Free the disk{is_full}. Run `begin; set transaction '
        'read write; select public.set_settings(''{"retention_days": {"completed": 7, '
        '"cancelled": 7, "failed": 7}}''); select public.run_maintenance(''{"budget_ms": '
        '5000}''); commit` while it has more. Then run `vacuum full queue.job_events, '
        'public.job_logs, public.jobs`.]',
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
      'If the name is misspelt, change it to {nearest}, the nearest name that a worker has '
        'published.',
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
      'one_worker',
      null,
      'Last attempts with this error[ of {of_jobs} of the jobs]: {attempts}, all on worker '
        '{worker_id}[ ({version})]. Worker '
        '{other}[ ({other_version})] completed a job of the type at {finished_at}. If the '
        'first runs other code, stop it.',
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
      '{count} of [{many} are silent, the longest|{job_type} has been silent] since {since}[, '
        'each {all_seen}|, {shared}|]. Jobs of {job_type} count as silent {limit} after their last '
        'update.',
      '[The first was last seen {seen}. ][The code of the first has blocked the event loop for '
        '{blocked} within a minute: run it with `asyncio.to_thread`.|{waiting}. See why, and give '
        'the call a time limit{is_server}.|{waiting}. See why.|The code may loop around {hanging} '
        'without a call of `ctx.progress`. See what the loop waits for, and limit its '
        'time{is_sleep}.|Find out what {hanging} waits for, and give it a time limit.][ See the '
        'job of {many} that is silent the longest:]',
      'explain {job_id}',
      '/jobs/{job_id}'
    ),
    (
      'silent_jobs',
      null,
      '[Do not retry before that. Jobs with an earlier attempt that is still stuck: {stuck}. ][A '
        'cancel stops jobs in threads only when their calls return: {threads}. ]Then cancel and '
        'retry [those of {many} that hang|the job if it hangs]. Finished steps are kept.',
      null,
      '[/jobs?state=attention&job_type={many}|/jobs/{job_id}]'
    ),
    (
      'retrying_jobs',
      '[{at_least}]{count} of [{many} are|{job_type} is] retrying: {error}.[ Jobs of this type '
        'that completed in the last hour: {completed}.] Attempts used: {used}[, the next due from '
        '{next_at} to {last_at}|, the next due at {next_at}|].[ The next attempt is the '
        'last{last_jobs}.] The first job started at {since}.',
      '[{have} one attempt left: if it fails, the job fails for good. When the cause is gone, '
        'run|Then run] [these jobs now, or wait for their next attempts{are_many}|the job now, or '
        'wait for its next attempt].',
      null,
      '/jobs?state=retrying&job_type={job_type}'
    ),
    (
      'silent_worker',
      'The last recorded call of worker {worker_id} was at {since}, and it has not renewed its '
        'leases in time.[ Its key expired at {key_expired_at}.| Its key was revoked at '
        '{key_revoked_at}.|] Jobs that it runs: {jobs}.',
      'See its log. If its process hangs, end it. Its jobs then run again at the latest after '
        '{expires_at}.',
      'workers',
      '/types'
    ),
    (
      'used_up_connections',
      '{used} of {limit} database connections are in use, and the last {reserved} are reserved. '
        '{holder} has the most: {sessions}.',
      'Give it a smaller pool.[ To end its idle sessions: `select pg_terminate_backend(pid) from '
        'pg_stat_activity where {idle}`.]',
      null,
      '/overview'
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
  select
    l.kind || '_limit' as reason,
    'The concurrency limit of ' || l.what || ': {running} of {limit} run[, the longest is '
      '{holder_type} {holder}, since {held_since}].' as sentence,
    'If more may run at a time, raise ' || l.setting as words,
    'ls --state running' || coalesce(' --type ' || l.type, '') as command,
    '/jobs?state=running' || coalesce('&job_type=' || l.type, '') as path
  from (
    values
      (
        'workspace_type',
        'its type in the workspace is used up',
        '`workspace_concurrency` in code, and deploy.',
        '{job_type}'
      ),
      (
        'workspace',
        'the workspace is used up',
        'the lower of `max_running` (operators) and `own_max_running` (managers).',
        null
      ),
      (
        'type',
        'its type is used up[ by {others}]',
        '`max_concurrency` in code, and deploy.',
        '{listed_type}'
      )
  ) as l (kind, what, setting, type)
  union all
  select
    p.kind || '_paused' as reason,
    'The ' || p.what || ' has been paused since {paused_at}.' as sentence,
    p.words,
    'resume --' || p.option as command,
    p.path
  from (
    values
      (
        'job_type',
        'job type {job_type}',
        'An operator can resume the type.',
        'type {job_type}',
        '/types/{job_type}'
      ),
      (
        'queue',
        'queue {queue}',
        'An operator can resume the queue.',
        'queue {queue}',
        '/types'
      ),
      (
        'workspace',
        'workspace[ {which}]',
        'A manager of the workspace can resume it.',
        'all[ --workspace {which}]',
        '/overview'
      ),
      (
        'workspace_type',
        'job type {job_type} of the workspace',
        'A manager of the workspace can resume the type.',
        'type {job_type}[ --workspace {which}]',
        '/types/{job_type}'
      )
  ) as p (kind, what, words, option, path)
  union all
  select s.reason, s.sentence, null as words, null as command, null as path
  from (
    values
      (
        'completed',
        'It completed at {finished_at}.[ No answer came in time for its question {unanswered}.]'
      ),
      (
        'backing_off',
        'Attempt {attempts} of {max_attempts} failed ({error_line}). It is retried at {run_at}.'
      ),
      (
        'expired_key',
        'The key of worker {worker_id} expired at {key_expired_at}, and its last recorded call was '
          'at {since}. Whether it still runs is unknown. Other workers serve its job types.'
      ),
      (
        'cancelled',
        'It was cancelled at {finished_at}[, because it had not started by {start_by_at}.| by its '
          'processor: {cancelled_for}| {cancelled_by}.|.][ The request also asked for a retry, '
          'which was not done{is_retried}.][ The reason at that time: {waited}]'
      ),
      (
        'stopped',
        'Workers that ran it were stopped {stops} before it ended, the last at {last_at}.'
      ),
      (
        'stopped_jobs',
        'Jobs whose workers were stopped again and again before they ended: at least {jobs}, the '
          'first stop at {since}.'
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
          '{smaller} of them because their priority is smaller].[ At the usual duration of the '
          'type, they take {ahead_for}.]'
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
        'Its lease expired {lost_times} while its worker had leased no other job.'
      ),
      (
        'lease_expired',
        'The last recorded call of its worker {worker_id} was at {called_at}, and the lease '
          'expired at {expires_at}.[ The key of the worker expired at {key_expired_at}.| The key '
          'of the worker was revoked at {key_revoked_at}.|]'
      ),
      (
        'worker_died',
        'The process of its worker {worker_id} ended at {ended_at}. The job is being reclaimed.'
      ),
      ('suspect', 'It runs alone next, in a process of its own.'),
      (
        'locked',
        'A session (pid [{locker}) has locked its row, and waits for the session with pid {pid}, '
          'whose transaction has been open|{pid}) has locked the table {locked} in an open '
          'transaction|{pid}) has locked its row in an open transaction] since {held_since}, so '
          '[{effect}|it can neither start nor end].[ Session {pid} belongs to {application}.]'
          '[ {work}.]'
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
        '[A transaction that began at {since} has locked the table {locked}, so {effect}|Sessions '
          'that wait for a lock of one session: {waiting}. Its transaction began at {began_at}|'
          'Sessions that wait for a lock of one session: {waiting}, the first since {since}].'
          '[ {work}.]'
      ),
      (
        'disk_filling',
        'The disk is {percent} % full.'
      ),
      (
        'disk_nearly_full',
        'The disk is {percent} % full. Supabase makes the database read-only at 95 %.'
      ),
      ('wrong_disk_size', 'The setting disk_bytes is smaller than what is stored.'),
      (
        'service_full',
        'The disk of the service is nearly full. When it is full, new jobs are rejected.'
      ),
      (
        'service_locked',
        'A transaction that began at {since} has locked the table {locked}, so {effect}.'
      ),
      (
        'workers_lack_right',
        'Workers lack a right in the database[, so they may not take jobs{is_idle}| that they need '
          'to run jobs].'
      ),
      (
        'wrong_clock',
        'The clock of worker {worker_id} is wrong, so requests of its jobs may fail.'
      )
  ) as s (reason, sentence)
) as a (reason, sentence, words, command, path);

-- Replace each placeholder in p_text, for example {job_type}, by the value that p_with has for this
-- name. Return null if p_with lacks the value of a placeholder.
create function queue.fill_names(p_text text, p_with jsonb)
returns text
language sql immutable
set search_path = ''
as $$
select case
  when bool_and(p.part is not null) then string_agg(p.part, '' order by p.n)
end
from ( -- every second part is a placeholder's name, and times are shown in seconds
  select
    s.n,
    case s.n % 2
      when 1 then s.part
      else regexp_replace(
        p_with ->> s.part,
        '^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(\.\d+)?\+00:00$',
        '\1 \2+00'
      )
    end as part
  from regexp_split_to_table(
    p_text,
    '\{(?=\w+\})|(?<=\{\w+)\}'
  ) with ordinality as s (part, n)
) as p
$$;

-- Return the sentence of queue.guidance for the reason p_reason, and the advice for the reason
-- p_advice. Values of p_with replace the placeholders. A sentence or an advice is omitted if p_with
-- lacks a value outside of brackets, or a value for each of several alternatives. The kind of an
-- advice is none if there is nothing to do, wait if there is nothing to do for some time, and
-- otherwise act. The guess of an advice is the similar name that it suggests. If the worker keys
-- were revoked (revoked_at), or the database is read-only (is_read_only), advice that a job
-- continues later is omitted.
-- p_advice: Null for the advice of p_reason.
create function queue.render_guidance(
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
      ('path', coalesce(a.path, '/jobs/{job_id}')),
      ('guess', substring(a.words from '\{nearest\}'))
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
        when p_with ->> 'revoked_at' <> '' or p_with ->> 'is_read_only' = ''
          then l.line ->> 'words' !~ '^Nothing to do|again at the latest'
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

-- A job in queue.suspects must run alone or in a small group, because its worker's process died.
-- For a job in queue.suspects, return the values that replace placeholders in texts of
-- queue.guidance. Return null for jobs that are not in queue.suspects.
-- death: How the worker's process died, and how many other jobs ran in the process, as text.
-- beside: Number of other suspects in the job's group, which all run in one process. Null if the
--   job is the only suspect of its group.
create function queue.suspicion_of(p_job public.jobs)
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
      else 'Its lease expired while its worker had leased ' -- the process may still be alive
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

-- Convert a number of times to text, for example 2 to 'twice'. Return null for zero times.
create function queue.times_in_words(p_times bigint)
returns text
language sql immutable
set search_path = ''
as $$
select case p_times
  when 0 then null
  when 1 then 'once'
  when 2 then 'twice'
  else p_times || ' times'
end
$$;

-- Return an object with maintained_at, the time of the last maintenance. The key maintained_at is
-- null if maintenance has run since p_at.
create function queue.maintained_before(p_at timestamptz)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object('maintained_at', case when max(t.done_at) < p_at then max(t.done_at) end)
from queue.tasks as t
where t.done_at > '-infinity'
$$;

-- Return the number of worker slots that can run the job p_job, the number of jobs that use these
-- slots, and the times at which a worker with such slots last leased jobs or started, and was last
-- seen.
-- slots: Number of slots that can run the job. Null if a worker did not report its slots, or if no
--   worker runs.
-- ended_at: End of the last run of the workers that have slots for the job. Null if one of
--   these workers still runs.
-- yet: Empty text if no live worker has slots that can run the job, otherwise null.
-- full_since: Time since which no job has started in the slots.
-- used_by: Types of the jobs that use the slots, as text.
-- started_at: Start of the first of the workers.
create function queue.slots_for(p_job public.jobs, p_alive queue.workers[])
returns table (
  slots bigint,
  running bigint,
  leased_at timestamptz,
  seen_at timestamptz,
  ended_at timestamptz,
  yet text,
  full_since timestamptz,
  used_by text,
  started_at timestamptz
)
language sql stable
set search_path = ''
as $$
with pools as materialized (
  select w.worker, w.seen_at, w.ended_at, w.started_at, p.*
  from unnest(p_alive) as w
  left join lateral (
    select o.job_types, o."limit" as size
    from jsonb_to_recordset(w.slots) as o (job_types text[], "limit" bigint)
    where p_job.job_type = any (o.job_types)
  ) as p on true
  where (w.job_types is null or p_job.job_type = any (w.job_types))
    and (w.queues is null or p_job.queue = any (w.queues))
    and w.slots is distinct from '[]' -- a process that runs only suspects has no slot for the job
)
select
  case
    when bool_and(p.size is not null) filter (where p.ended_at is null)
      then sum(p.size) filter (where p.ended_at is null)
  end,
  max(r.running),
  (
    select max(t.seen_at)
    from queue.ticks as t
    where t.worker in (select o.worker from pools as o)
  ),
  max(p.seen_at),
  case when bool_and(p.ended_at is not null) then max(p.ended_at) end,
  case when count(p.worker) = 0 then '' end,
  max(r.full_since),
  max(r.used_by),
  min(p.started_at)
from (
  select
    count(*) as running,
    max(l.leased_at) as full_since,
    array_to_string((array_agg(distinct n.job_type))[:3], ', ') as used_by
  from queue.leases as l
  join queue.lanes as n on n.lane = l.lane
  join pools as o on o.worker = l.worker and n.job_type = any (o.job_types)
) as r
left join pools as p on true
$$;

-- Return a duration as text, for example '4 min 5 s'.
create function queue.length_in_words(p_ms double precision)
returns text
language sql immutable
set search_path = ''
as $$
select case
  when p_ms < 1000 then round(p_ms) || ' ms'
  when p_ms < 10000 then trim_scale(round(p_ms::numeric / 1000, 1)) || ' s'
  when p_ms < 60000 then round(p_ms / 1000) || ' s'
  when p_ms < 7200000 then floor(p_ms / 60000) || ' min'
    || coalesce(' ' || nullif(floor(p_ms / 1000)::bigint % 60, 0) || ' s', '')
  else floor(p_ms / 3600000) || ' h'
    || coalesce(' ' || nullif(floor(p_ms / 60000)::bigint % 60, 0) || ' min', '')
end
$$;

-- Return the database session that must end before the session p_pid can continue. If the session
-- that blocks p_pid waits for another session, return the last session in the chain of waits.
-- Return p_pid if the session p_pid waits for no lock.
create function queue.last_blocker(p_pid integer)
returns integer
language sql stable
set search_path = ''
as $$
with recursive waits as (
  select p_pid as pid, 0 as level
  union
  select b.pid, w.level + 1
  from waits as w
  cross join lateral unnest(pg_blocking_pids(w.pid)) as b (pid)
  where w.level < 8
)
select w.pid
from waits as w
order by w.level desc
limit 1
$$;

-- Return the running step and the line of code of a job as text. Return null if both are null.
create function queue.seen_in(p_step text, p_place text)
returns text
language sql immutable
set search_path = ''
as $$
select nullif(concat_ws(' ', 'in its step ' || p_step, 'at ' || p_place), '')
$$;

-- Return an object that describes a running job: its timeout, and its last update, such as a log
-- line or a finished step. If the worker has reported no update of the job, the object contains
-- lease_until, the time at which the lease expires.
-- timeout: Null if the type may have had another timeout when the attempt began.
-- late_since: Time of the lease's last renewal, if the next one is late. Otherwise null.
-- seen: The running step and the line of code, as text.
-- sign, last: Kind of the job's last update as text, for example 'its last log line', 'log line'.
-- age: Time since the last update of the job, as text.
-- reported_at: Time of the last report of the worker of a silent job.
-- unreported_since: Time of the lease's last renewal, a minute ago or more.
-- unstored_since, triggers: End of the processor, if its worker could not yet store the outcome,
--   and queue.own_triggers().
-- end_wait, restart: How to end the wait of a silent job, and whether to retry it, as text.
-- alike: How many of the type's running jobs in the workspace are silent at the same line, as text.
--   Null for a single job, for 100 or more, and while the line of one of them is unknown.
-- silent: The age. Null for less than 20 seconds, because workers report updates of jobs only every
--   15 seconds.
-- code, stack: Text of the line of code, and the calls that led there, the innermost last. Missing
--   for workers before 0.5.6.
-- shorter: The timeout of a job that is silent at a line of code, unless the timeout has already
--   started again. It starts again for each call of a split batch, and once after another job has
--   blocked the event loop.
-- times_out_at, after: Time at which the timeout or the deadline stops the job's call, and what
--   follows, as text. Null if this time is unknown.
-- blocked, is_blocking: Time for which the job's code blocked the event loop within a minute, as
--   text, and an empty text. Null for less than 10 seconds.
-- blocker, call: Database session that holds a lock for which the session of the job waits, and its
--   call from queue.session_work. Null if the job is not silent and waits for less than 10 seconds.
-- own_blocker: The same session, if the job's own code has opened it.
-- grown_mb: Growth of the memory of the job's process since the job's first pulse, in megabytes.
--   Null for less than 128 MB.
-- estimated_end_at: Time at which the progress reaches 100 % at its pace since the first report of
--   this run that came with a pulse. Null for reports within less than 5 seconds.
-- run_since: Start of this run. Null without an update.
-- usual: Duration that 99 % of the type's jobs did not exceed, as text, if the job has run longer.
--   If fewer than 20 jobs have ended, the duration that none of at least 5 exceeded, if the job has
--   run twice as long. Null for a job that is not silent also in its first minute.
-- longer: Ratio of the job's duration so far to these durations, as text, if it is at least 10 and
--   the job makes progress.
-- paced_end_at, in_time: Estimated end of such a job, unless it has passed, and whether it is
--   before the timeout, as text.
-- is_long_running, advances: An empty text, and what to see, as text, if the job has run at least
--   twice as long as these durations, and its progress does not predict its end.
create function queue.pulse_of(p_job public.jobs, p_now timestamptz)
returns jsonb
language plpgsql stable
set search_path = ''
as $$ -- plpgsql, because queue.run_times_in_words is created later
declare
  v_times constant jsonb := queue.run_times_in_words(
    p_job.workspace_id,
    p_job.job_type,
    p_now
  );
  v_type constant queue.job_types := (
    select t
    from queue.job_types as t
    where t.job_type = p_job.job_type
  );
  v_timeout constant double precision := coalesce(
    p_job.timeout_seconds,
    v_type.timeout_seconds
  );
begin
  return (
    select v_times || jsonb_build_object(
      'timeout', case
        when o.is_known or o.delay between interval '-1 second' and interval '10 seconds'
          then queue.length_in_words(1000 * v_timeout)
      end,
      'late_since', s.late_since,
      'renewed_at', s.renewed_at
    ) || case
      when l.pulse -> 'last' is null then jsonb_build_object('lease_until', l.expires_at) || case
        when s.late_since is null and s.renewed_at <= p_now - interval '1 minute'
          then jsonb_build_object(
            'unreported_since', s.renewed_at,
            'unreported_until', l.expires_at
          )
        else '{}'
      end
      when l.pulse ->> 'last' = 'end' then jsonb_build_object(
        'unstored_since', l.pulse -> 'since',
        'triggers', queue.own_triggers()
      )
      else l.pulse - '{since,own_pids,pace}'::text[] || jsonb_build_object(
        'silent_since', s.since,
        'step', l.step,
        'seen', case when p.is_silent then '' else 'last seen ' end
          || queue.seen_in(l.step, w.place),
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
          when 'step' then case -- otherwise the step that the sentence names started then
            when l.step_started_at is null
                or l.step_started_at < (l.pulse ->> 'since')::timestamptz - interval '2 seconds'
              then 'the end of its last step'
          end
          else 'its last ' || coalesce(u.last, 'update')
        end,
        'age', queue.length_in_words(p.ms),
        'silent', case when p.is_silent then queue.length_in_words(p.ms) end,
        'shorter', case
          when p.is_silent and not t.has_restarted and w.place <> ''
              and (o.is_known or o.delay <= interval '10 seconds')
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
        'call', (select w.data -> 'call' from queue.session_work(array[b.pid]) as w),
        'blocked', queue.length_in_words((l.pulse ->> 'blocked_ms')::double precision),
        'is_blocking', left(l.pulse ->> 'blocked_ms', 0),
        'program', case when p.is_silent then l.pulse -> 'program' end,
        'own_blocker', case when l.pulse -> 'own_pids' @> to_jsonb(b.pid) then b.pid end,
        'grown_mb', case when m.grown >= 128 then m.grown end,
        'estimated_end_at', e.estimated_at,
        'run_since', l.leased_at,
        'usual', case
          when r.ratio > case when v_times ? 'typical' then 1 else 2 end then v_times ->> 'most'
        end,
        'is_long_running', left(a.advances, 0), -- for clients
        'advances', a.advances,
        'longer', g.longer,
        'paced_end_at', case when g.longer <> '' and e.estimated_at > p_now then e.estimated_at end,
        'in_time', case
          when g.longer is null then null
          when t.at > p_now then format(
            ', %s its %s',
            case when e.estimated_at < t.at then 'before' else 'after' end,
            case
              when p_job.deadline_at < t.at + interval '1 second' then 'deadline'
              else 'timeout'
            end
          )
          else ''
        end,
        'restart', case
          when not p.is_silent then null
          when r.ratio >= 10 then concat(
            case when v_times ->> 'sample' ^@ '99 %' then '99 % of the' else 'All' end,
            ' others of its type took ',
            v_times ->> 'most',
            ' or less, so it probably hangs: cancel and retry the job.'
          )
          else 'Then cancel and retry the job if it hangs.'
        end,
        'reported_at', case when p.is_silent then s.renewed_at end,
        'is_silent', case when p.is_silent then '' end, -- for the console
        'kept', case
          when not p.is_silent then null
          when exists (select from queue.steps as f where f.job_id = p_job.id)
            then ' Finished steps are kept.'
          else ''
        end,
        'end_wait', case when p.is_silent then case w.kind
          when 'output' then 'Read the output of the program while it runs, for example by '
            '`communicate()`.'
          when 'data' then 'See why the server sends no data, and give the call at ' || w.place
            || ' a time limit.'
          when 'lock' then 'Take several locks always in the same order, and await nothing that '
            'can hang while holding one.'
          when 'event' then 'See whether the code that fills, sets or notifies it still runs or '
            'has failed.'
          when 'sleep' then 'The code may loop around the call at ' || w.place || ' without a call '
            'of `ctx.progress`. See what the loop waits for, and limit its time.'
          else 'Find out what the call at ' || w.place || ' waits for, and give it a time limit.'
        end || case
          when (l.pulse ->> 'in_thread')::boolean
            then ' A cancel stops its thread only when the call returns.'
          else ''
        end end,
        'alike', case when p.is_silent and w.place <> '' then (
          select format(
            '%s of %s',
            count(*) filter (
              where o.pulse -> 'place' = l.pulse -> 'place'
                and greatest((o.pulse ->> 'since')::timestamptz, j.updated_at)
                  <= p_now - interval '20 seconds'
            ),
            count(*)
          )
          from (
            select *
            from queue.leases as r
            where r.lane in (select n.lane from queue.lanes as n where n.job_type = p_job.job_type)
              and r.workspace_id = p_job.workspace_id
              and r.expires_at > p_now
            limit 100
          ) as o
          join public.jobs as j on j.id = o.job_id
          -- the line of a job without a pulse is unknown
          having count(*) between 2 and 99 and count(*) = count(o.pulse -> 'last')
        ) end
      )
    end
    from queue.leases as l
    cross join lateral (
      values (
        l.pulse ->> 'place',
        coalesce(l.pulse ->> 'waits', substring(l.pulse ->> 'code' from '\m(sleep)\('))
      )
    ) as w (place, kind)
    cross join lateral (
      values (
        (l.pulse ->> 'times_out_at')::timestamptz
          - make_interval(secs => v_timeout)
          - l.leased_at,
        -- the worker may use an earlier timeout of the type
        p_job.timeout_seconds is not null or v_type.registered_at <= l.leased_at
      )
    ) as o (delay, is_known)
    cross join lateral (
      values (
        (l.pulse ->> 'times_out_at')::timestamptz,
        coalesce(o.delay > interval '10 seconds' and o.is_known, false)
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
        l.expires_at - make_interval(secs => l.lease_seconds),
        case -- a worker renews a lease after a fifth of its duration
          when p_now between
              l.expires_at + make_interval(secs => 10 - 0.75 * l.lease_seconds) and l.expires_at
            then l.expires_at - make_interval(secs => l.lease_seconds)
        end
      )
    ) as s (since, pid, renewed_at, late_since)
    cross join lateral (
      -- a job that waits for the next call of its batch is in no call, and the process of a worker
      -- that has not renewed its lease may have ended
      select
        a.ms,
        a.ms >= 20000
          and l.pulse ->> 'batched' is distinct from '0'
          and s.late_since is null as is_silent
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
    left join lateral (
      select nullif(queue.last_blocker(a.pid), a.pid) as pid
      from pg_catalog.pg_stat_activity as a
      where a.pid = s.pid
        -- as long as queue.findings_of_locks waits before it names the other session
        and (p.is_silent or a.query_start <= p_now - interval '10 seconds')
    ) as b on true
    cross join lateral (
      values ((l.pulse ->> 'memory_mb')::integer - (l.pulse ->> 'first_mb')::integer)
    ) as m (grown)
    cross join lateral (
      select
        o.since,
        case
          when o."from" >= 0 -- a report may have any number
            and o."to" between o."from" + 0.1 and 100
            and o.until >= o.since + interval '5 seconds'
            then o.until + (o.until - o.since) * ((100 - o."to") / (o."to" - o."from"))
        end as estimated_at
      from jsonb_to_record(nullif(l.pulse -> 'pace', 'null'))
        as o (since timestamptz, until timestamptz, "from" numeric, "to" numeric)
    ) as e
    cross join lateral (
      values (case
        when l.pulse ->> 'batched' = '0' then null
        when p.is_silent or p_now > l.leased_at + interval '1 minute'
          then extract(epoch from p_now - l.leased_at) * 1000 / coalesce(
            (v_times ->> 'typical_ms')::numeric,
            (v_times ->> 'longest_ms')::numeric
          )
      end)
    ) as r (ratio)
    cross join lateral (
      values (case
        when r.ratio >= 10
            and not p.is_silent
            and s.late_since is null
            and (
              u.last = 'output'
              or u.last = 'progress' and e.since <= p_now - interval '5 seconds' is not true
              or e.estimated_at > p_now
            )
          then floor(r.ratio)::text
      end)
    ) as g (longer)
    cross join lateral (
      values (case
        when r.ratio >= 2 is not true or e.estimated_at > p_now then null
        when p.is_silent then 'it still works'
        when u.last = 'output' then 'its output is still useful'
        when u.last = 'progress' then 'its progress still advances'
        else 'it still advances'
      end)
    ) as a (advances)
    where l.job_id = p_job.id
  );
end;
$$;

-- Return the right that the role job_worker lacks to call a function, as in a statement `grant`.
-- Return null if the role may call the function, or does not exist.
create function queue.lacked_right(p_function regproc)
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

-- Return the names and functions of the triggers that run when a job or a log line is added or
-- changed, and that are not the engine's.
create function queue.own_triggers()
returns text
language sql stable
set search_path = ''
as $$
select string_agg(format('%s (function %s)', t.tgname, f.oid::regproc), ', ' order by t.tgname)
from pg_catalog.pg_trigger as t
join pg_catalog.pg_proc as f on f.oid = t.tgfoid
where t.tgrelid in ('public.jobs'::regclass, 'public.job_logs'::regclass)
  and not t.tgisinternal
  and t.tgenabled <> 'D'
  and t.tgtype & 20 <> 0 -- for inserts or updates
  and f.pronamespace <> 'queue'::regnamespace
$$;

-- Return the reason why no job of the type, queue and workspace of p_job can start, for example a
-- pause. Return null if there is none.
create function queue.explain_stopped(
  p_job public.jobs,
  p_alive queue.workers[],
  p_now timestamptz
)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  v_refusal constant text := (
    select t.refusal
    from queue.job_types as t
    where t.job_type = p_job.job_type
  );
  v_nearest text;
  v_found record;
begin
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
  if p_job.lane = 0 then
    v_nearest := queue.nearest_type(p_job.job_type);
  end if;
  return case
    when p_job.lane = 0 then jsonb_build_object(
      'reason', 'no_processor',
      'cause', v_refusal,
      'data', jsonb_build_object(
        'refusal', v_refusal,
        'unpublished', p_job.job_type,
        'nearest', v_nearest,
        'is_near', left(v_nearest, 0)
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
                'last_seen', queue.called_at(w),
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
      end
      from queue.is_unserved(array[p_job.job_type], array[p_job.queue], p_alive, p_now) as s
    )
  end;
end;
$$;

-- Return how often a live job was snoozed, as text and up to 1,000 times, and when first, as
-- {times, first_at}. `times` is null for a single snooze. Return null if its last attempt did not
-- end with a snooze. Attempts that workers released or that other jobs ended are ignored.
create function queue.snoozes_of(p_job public.jobs)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object(
  'times', case
    when s.n > 1 then concat(case s.n when 1000 then 'at least ' end, queue.times_in_words(s.n))
  end,
  'first_at', s.first_at
)
from (
  select count(*) as n, min(o.ended_at) as first_at
  from (
    select a.ended_at
    from queue.attempts as a
    where a.job_id = p_job.id and a.outcome = 'snoozed'
    order by a.fence
    limit 1000
  ) as o
) as s
where p_job.finished_at is null
  and p_job.fence > 0 -- most waiting jobs have no attempts to read
  and (
    select a.outcome
    from queue.attempts as a
    where a.job_id = p_job.id and a.outcome not in ('released', 'died')
    order by a.fence desc
    limit 1
  ) = 'snoozed'
$$;

-- Return the reason why a job has not started. A job cannot start if for example it has ended,
-- runs, waits or is delayed, if a trigger of the project rejects a change of its row, if its type
-- is paused, or if no worker serves its type. For a job that may start, queue.explain_ready returns
-- the reason.
create function queue.explain_row(
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
  v_nearest text;
  v_early_deadline timestamptz; -- null unless the deadline precedes the next run
  v_postponed jsonb; -- null if no later enqueue has changed the job's time
  v_found record;
begin
  if p_job.finished_at is not null then
    return jsonb_build_object(
      'reason', p_job.status,
      'data', v_data
        || queue.run_times_in_words(p_job.workspace_id, p_job.job_type, p_now)
        || jsonb_strip_nulls(jsonb_build_object('unanswered', (
          select string_agg(w.name, ', ' order by w.created_at)
          from queue.steps as w
          where p_job.status = 'completed'
            and w.job_id = p_job.id
            and w.kind = 'ask'
            and w.value @> '{"timed_out": true}'
        )))
    );
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
        || jsonb_build_object('is_locked', case when v_found.failure ~ '[(]55P03[)]$' then '' end)
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
      queue.key_revoked_at(w, c.at) as key_revoked_at,
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
          select min(queue.lacked_right(f.function))
          from unnest('{public.settle_jobs,public.report_jobs}'::regproc[]) as f (function)
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
    -- The emitted event whose name is most similar. Only the names before and after it in the
    -- alphabet are compared, and only names with the same numbers, because numbers usually
    -- identify the subject of an event.
    v_nearest := queue.nearest_name(v_wait ->> 'event', array(
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
      where trim(regexp_replace(e.name, '\D+0*', ' ', 'g'))
        = trim(regexp_replace(v_wait ->> 'event', '\D+0*', ' ', 'g'))
    ));
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
        'nearest', v_nearest,
        'is_near', left(v_nearest, 0)
      ) || coalesce(
        (
          select jsonb_build_object(
            'often_since', min(a.ended_at),
            'waits', count(*) || case count(*) when 100 then ' or more' else '' end
          )
          from (
            select o.ended_at
            from queue.attempts as o
            where o.job_id = p_job.id and o.outcome = 'waiting' and v_wait ->> 'kind' = 'sleep'
            order by o.fence
            limit 100
          ) as a
          having count(*) >= 20
        ),
        '{}'
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
        || jsonb_build_object( -- the stage of a job that waits until a service is available again
          'reported', (
            select nullif(rtrim(p_job.progress ->> 'message', ' .'), '')
            where p_job.progress ->> 'stage' = 'waiting'
          )
        ),
      'reason', case
        when v_found.patience_until <= p_now then v_late
        when v_found.run_at <= p_now then 'due'
        when p_job.next_retry_at is null then 'scheduled'
        -- the job keeps the error of an earlier attempt
        when p_job.error_message is null or queue.snoozes_of(p_job) is not null then 'snoozed'
        else 'backing_off'
      end
    );
  end if;
  return coalesce(
    queue.explain_stopped(p_job, p_alive, p_now),
    queue.explain_ready(p_job, p_alive, p_now)
  );
end;
$$;

-- Return the reason why a job that may start has not started. If its latest start has passed,
-- queue.explain_ready first tests whether its workers started later. The concurrency limits come
-- next, from the limit of the job's key to the limit of its type. queue.explain_ready then tests
-- the rate limit, whether the job must run alone because its worker's process died, and whether
-- other jobs are ahead of the job. A lack of slots is returned as the reason only if running jobs
-- use all slots of the workers, and have not ended for ten seconds. If jobs end more often, the job
-- waits for its turn.
create function queue.explain_ready(
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
  v_lacked constant text := queue.lacked_right('public.lease_jobs');
begin
  if v_must_start_by <= p_now then
    select s.started_at, v_must_start_by as must_start_by
    into v_workers
    from queue.slots_for(p_job, p_alive) as s;
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
      'data', v_rank || jsonb_build_object(
        'running', v_full.most,
        'limit', v_full.most,
        'ahead_for', (
          select concat(
            'about ', -- the median is that of a range
            queue.length_in_words(v_ahead * r.median_ms / v_full.most),
            -- jobs of other workspaces or queues may take turns with the jobs ahead
            case when v_ahead = 1000 or v_full.reason <> 'key_limit' then ' or more' end
          )
          from queue.run_times(p_job.workspace_id, p_job.job_type, p_now) as r
          -- jobs of other types use up the limit of a workspace too
          where r.jobs >= 5
            and v_full.reason <> 'workspace_limit'
            and v_ahead * r.median_ms >= 1000 * v_full.most
        )
      )
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
    values (case
      when s.running >= s.slots then false
      -- workers with free slots usually lease the jobs ahead within seconds
      when s.running < s.slots and s.leased_at <= p_now - interval '1 minute' then true
      else coalesce(s.leased_at <= v_ready_at, true)
    end)
  ) as i (is_idle);
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
      -- a worker's row is updated once a minute, so older workers may have been killed with their
      -- host
      'silent_since', (
        select v_workers.seen_at
        where v_workers.seen_at < p_now - interval '75 seconds'
      ),
      'triggers', (
        select queue.own_triggers()
        where v_reason = 'not_leased' and v_lacked is null and v_workers.yet is null
      ),
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

-- Return the running job that has opened each of the database sessions p_pids, by the pids that
-- workers report. Another database, or a pooler, may have given a job's session the same pid. A
-- report from before the session's transaction is ignored, because the pid may have been that of an
-- earlier session. All leases are read, unless a session has locked a table of the engine.
-- owner_call: Call that the job runs while the session is open, as text. Null if the call runs in
--   the session.
create function queue.session_owners(p_pids integer[])
returns table (pid integer, owner uuid, owner_call text)
language plpgsql stable
set search_path = ''
as $$ -- plpgsql, because queue.table_locks is created later
begin
  if p_pids = '{}'
    or exists (select from queue.table_locks() as l where l.mode = 'AccessExclusiveLock')
  then
    return;
  end if;
  return query
    select distinct on (a.pid)
      a.pid,
      l.job_id,
      case
        when l.pulse -> 'pid' <> p.pid
          then coalesce('the call at ' || (l.pulse ->> 'place'), 'its next call')
      end
    from queue.leases as l
    cross join lateral jsonb_array_elements(
      (l.pulse -> 'pid') || coalesce(l.pulse -> 'own_pids', '[]')
    ) as p (pid)
    join pg_catalog.pg_stat_activity as a on to_jsonb(a.pid) = p.pid
    where a.pid = any (p_pids)
      and coalesce(a.xact_start, a.backend_start)
        <= l.expires_at - make_interval(secs => l.lease_seconds)
    order by a.pid, l.expires_at - make_interval(secs => l.lease_seconds) desc;
end;
$$;

-- Return the function of the queue that each of the database sessions p_pids is running, or COMMIT,
-- which runs deferred triggers, and queue.own_triggers(). If a session runs neither, return its
-- queue.session_owners. `work` is the same as text. Return no row for a session of neither kind.
-- data: An object with the keys call, work, triggers, owner and owner_call.
create function queue.session_work(p_pids integer[])
returns table (pid integer, data jsonb)
language sql stable
set search_path = ''
as $$
with sessions as materialized (
  select
    a.pid,
    a.wait_event,
    case
      when a.state = 'active' then substring(
        a.query from '^(?:COMMIT|commit)\M|\m(?:(?:answer|lease|settle|report|spawn|enqueue|retry|'
          'cancel)_jobs?|emit_event|erase_person|register_job_types|run_maintenance|tick_finished)\M'
      )
    end as call
  from pg_catalog.pg_stat_activity as a
  where a.pid = any (p_pids)
)
select
  s.pid,
  jsonb_build_object(
    'call', s.call,
    'work', coalesce(
      'It runs ' || s.call || coalesce(' and waits (' || s.wait_event || ')', ''),
      format('Job %s has opened a session with pid %s, in this or another database', o.owner, s.pid)
    ),
    'triggers', case when s.call is not null then queue.own_triggers() end,
    'owner', o.owner,
    'owner_call', o.owner_call
  )
from sessions as s
left join queue.session_owners(
  array(select n.pid from sessions as n where n.call is null)
) as o on o.pid = s.pid
where num_nonnulls(s.call, o.owner) > 0
$$;

-- Return the database sessions that have locked the rows of the jobs p_ids. A database session is
-- returned only if its transaction has been open for at least two seconds. If a session that has
-- locked a row waits for another session, return it as `locker`, and as `pid` the last session in
-- the chain of waits, which must end first. The xmax of a row identifies the transaction that has
-- locked the row (supabase/DECISIONS.md).
create function queue.locks_on(p_ids uuid[], p_now timestamptz)
returns table (job_id uuid, pid integer, since timestamptz, application text, locker integer)
language sql stable
set search_path = ''
as $$
select distinct on (j.id)
  j.id,
  a.pid,
  s.since,
  nullif(a.application_name, ''),
  nullif(l.pid, a.pid)
from public.jobs as j
join pg_catalog.pg_locks as l on l.transactionid = j.xmax
cross join lateral queue.last_blocker(l.pid) as b (pid)
join pg_catalog.pg_stat_activity as a on a.pid = b.pid
cross join lateral coalesce(a.xact_start, a.state_change) as s (since)
where j.id = any (p_ids)
  and j.xmax <> '0'::xid
  and l.locktype = 'transactionid'
  and l.granted
  and l.pid <> pg_backend_pid()
  and s.since <= p_now - interval '2 seconds'
order by j.id, s.since
$$;

-- Return the running jobs that use up the concurrency limit or the worker slots for which the job
-- p_job waits.
-- p_most: Maximum number of jobs to return.
create function queue.find_holders(p_reason text, p_job public.jobs, p_most integer)
returns table (job_id uuid, workspace_id uuid, leased_at timestamptz)
language plpgsql stable
set search_path = ''
as $$
begin
  if p_reason = 'key_limit' then
    return query
      select g.job_id, g.workspace_id, l.leased_at
      from queue.gated as g
      left join queue.leases as l on l.job_id = g.job_id
      where g.workspace_id = p_job.workspace_id
        and g.job_type = p_job.job_type
        and g.key = coalesce(p_job.concurrency_key, '')
        and g.admitted
        and not g.ended
        and g.job_id <> p_job.id
      order by g.ord
      limit p_most;
  elsif p_reason ~ '_limit$' then -- a limit of the job type, of the workspace, or of both
    return query
      select l.job_id, l.workspace_id, l.leased_at
      from queue.lanes as n
      join queue.leases as l on l.lane = n.lane
      where (p_reason = 'workspace_limit' or n.job_type = p_job.job_type)
        and (p_reason = 'type_limit' or l.workspace_id = p_job.workspace_id)
      limit p_most;
  elsif p_reason = 'no_slot' then -- jobs that use slots that this job could use
    return query
      select l.job_id, l.workspace_id, l.leased_at
      from queue.leases as l
      join queue.lanes as n on n.lane = l.lane
      join queue.workers as w on w.worker = l.worker
      cross join lateral jsonb_to_recordset(w.slots) as p (job_types text[])
      where p_job.job_type = any (p.job_types)
        and n.job_type = any (p.job_types)
        and (w.queues is null or p_job.queue = any (w.queues))
      limit p_most;
  end if;
end;
$$;

-- Return the first child of a running job that has not started, if the child waits for a limit or a
-- slot that the running job uses. Limits above 200 are not compared.
create function queue.kept_child(p_job public.jobs, p_alive queue.workers[])
returns uuid
language sql stable
set search_path = ''
as $$
select c.id
from (
  select *
  from public.jobs as j
  where j.parent_id = p_job.id and j.status = 'pending'
  order by j.id
  limit 1
) as c
join queue.job_types as t on t.job_type = c.job_type
cross join lateral queue.explain_row(c::public.jobs, p_alive, queue.clock()) as w
where w ->> 'reason' ~ '_limit$|^(no_slot|next_in_line|behind_others|long_line)$' and exists (
  select from (
    values
      ('key_limit', t.key_concurrency),
      ('workspace_type_limit', t.workspace_concurrency),
      ('type_limit', t.max_concurrency),
      ('no_slot', (select s.slots from queue.slots_for(c::public.jobs, p_alive) as s))
  ) as l (reason, most)
  cross join lateral (
    select count(*) as jobs, bool_or(h.job_id = p_job.id) as is_holder
    from queue.find_holders(l.reason, c::public.jobs, l.most::integer) as h
  ) as u
  where l.most <= 200 and u.is_holder and u.jobs >= l.most
)
$$;

-- Return the descendant that made a job fail, or that keeps the job from ending. From each job, the
-- search continues with its first child that has failed, or that has not ended. The result is the
-- last job that the search finds, at most six levels below the job p_job_id.
-- p_has_failed: True to find a failed descendant, false to find a descendant that has not ended.
create function queue.blocking_descendant(p_job_id uuid, p_has_failed boolean)
returns uuid
language sql stable
set search_path = ''
as $$
with recursive tree as (
  select p_job_id as id, 0 as level
  union all
  select c.id, t.level + 1
  from tree as t
  cross join lateral (
    select j.id
    from public.jobs as j
    where j.parent_id = t.id
      and case
        when p_has_failed then j.status = 'failed'
        else j.finished_at is null
      end
    order by j.id
    limit 1
  ) as c
  where t.level < 6
)
select t.id
from tree as t
where t.level > 0
order by t.level desc
limit 1
$$;

-- Return which jobs a person retries after the job p_from, a descendant of the job p_to: the types
-- of the jobs between them, from below, and 'this job'. A job can only complete after its children.
create function queue.retried_after(p_from uuid, p_to uuid)
returns text
language sql stable
set search_path = ''
as $$
with recursive parents as (
  select p_from as id, 0 as level
  union all
  select j.parent_id, p.level + 1
  from parents as p
  join public.jobs as j on j.id = any (array[p.id])
  where j.id <> p_to and p.level < 6
)
select concat(
  string_agg(j.job_type || ', then ', '' order by p.level) filter (where j.id <> p_to),
  'this job'
)
from parents as p
join public.jobs as j on j.id = any (array[p.id])
where p.level > 0
$$;

-- Return the number of ancestors of a job, at most 20, and how many of them have the job's type.
-- Return null if fewer than ten have its type, because most types that enqueue themselves end
-- before.
create function queue.recursion_of(p_job public.jobs)
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
  'workspace_id', p_job.workspace_id, -- an operator's command would pause the type everywhere
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

-- Return the number of due jobs in the lanes p_lanes. A lane is one job type in one queue. At most
-- 1,000 jobs are counted in each of the tables queue.ready, queue.gated and queue.unpublished.
-- p_workspace_id: Null to count the jobs of all workspaces.
-- p_job_type: Job type whose rows in queue.unpublished are also counted, because no worker has
--   published the type yet. Null to count no rows of queue.unpublished.
create function queue.due_in(
  p_workspace_id uuid,
  p_lanes integer[],
  p_job_type text default null
)
returns bigint
language plpgsql stable
set search_path = ''
as $$
begin
  return (
    select count(*)
    from (
      (
        select r.lane
        from queue.ready as r
        where r.lane = any (p_lanes)
          and (p_workspace_id is null or r.workspace_id = p_workspace_id)
        limit 1000
      )
      union all
      (
        select g.lane
        from queue.gated as g
        where g.lane = any (p_lanes)
          and not g.admitted
          and (p_workspace_id is null or g.workspace_id = p_workspace_id)
        limit 1000
      )
      union all
      (
        select 0
        from queue.unpublished as u
        where u.job_type = p_job_type
          and (p_workspace_id is null or u.workspace_id = p_workspace_id)
        limit 1000
      )
    ) as d
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
create function queue.held_by(
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
-- code: HTTP status, SQLSTATE, errno name, or code of a library.
-- cause: Response of another service, line of code that ended the process, or last error of an
--   exception chain.
-- place: Location in the code at which a failed or delayed job raised its error.
create function queue.error_of(p_job public.jobs)
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
    "minutehand.queue.errors.FunctionTimeout": "slow:function",
    "minutehand.worker.context.ChildrenFailed": "child",
    "minutehand.worker.streams.OutputRefused": "output"}'::jsonb ->> e.type,
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
        when e.sqlstate in ('26000', '42P05') then 'prepared'
        when e.sqlstate ~ '^(3F|42(P01|70[34]|883)|PGRST2)' then 'schema'
        when e.sqlstate ^@ '42' then 'query'
        when e.status in ('401', '407') or e.sqlstate ^@ '28'
            or e.errno ~ '^(SMTP 53[45]|ExpiredToken|InvalidAccessKey|InvalidClient|MissingAuth)'
            or e.errno ~ '^(Incomplete|)Signature|^AuthFailure|^UnrecognizedCl|CredentialsError$'
          then 'credentials'
        when e.errno ~ 'Throttl|TooManyRequests|SlowDown|(Limit|Throughput)Exceeded'
            or e.status = '429'
          then 'rate'
        when e.errno ~ '^(AccessDenied|AuthorizationError|Unauthorized)' or e.status = '403' then 'forbidden'
        when e.sqlstate = '2200H' then 'sequence'
        when e.sqlstate ~ '^2[23]' then 'value'
        when e.sqlstate = '57014' then 'statement'
        when e.status ~ '^30[12378]' then 'redirect'
        when e.status ^@ '4' or e.errno ^@ 'SMTP 5' then 'request'
        when e.errno in ('InvalidHeader', 'LocalProtocolError') then 'request:own'
        when e.sqlstate = '55P03' then 'lock'
        when e.errno = 'SQLITE_BUSY' then 'lock:file'
        when e.sqlstate ~ '^(40|55)' then 'contention'
        when e.signal is not null or e.errno = 'BrokenProcessPool' then 'killed'
        when e.errno = 'ENOMEM' then 'memory'
        when e.sqlstate = '53300' then 'connections:server'
        when e.sqlstate ^@ '53' then 'machine'
        when e.errno = 'EMFILE' then 'files'
        when e.errno in ('ENOSPC', 'EDQUOT') then 'disk'
        when e.errno in ('EACCES', 'EPERM', 'EROFS') and e.path is not null then 'permission'
        when e.errno = 'PoolTimeout'
          then case when e.type ~ '^(psycopg|sqlalchemy)' then 'connections:pool' else 'connections' end
        -- Python's own TimeoutError has no errno
        when e.errno in ('ETIMEDOUT', 'TimeoutError') then 'slow'
        when e.status ^@ '5' or e.errno ^@ 'SMTP 4' then 'unavailable:error'
        when e.sqlstate ~ '^(08|57P)'
            or e.errno in ('ECONNRESET', 'EOF', 'UNEXPECTED_EOF_WHILE_READING')
          then 'unavailable:closed'
        when e.errno = 'ECONNREFUSED' then 'unavailable:port'
        when e.errno in ('EHOSTUNREACH', 'ENETUNREACH', 'ConnectTimeout')
          then 'unavailable:route'
        when e.errno ^@ 'EAI_' then 'unavailable:name'
        when e.errno = 'WRONG_VERSION_NUMBER' then 'unavailable:plain'
        when e.errno = 'CERTIFICATE_VERIFY_FAILED' then 'unavailable:certificate'
        when e.errno = 'Closed' then 'closed'
        when e.errno = 'dlopen' then 'library'
        when e.program is not null then 'program'
        when e.module is not null then 'module'
        when e.variable is not null then 'variable'
        -- psycopg and SQLAlchemy report failed connections without a code
        when e.type ~ '^(psycopg|sqlalchemy).*OperationalError$'
            and coalesce(e.sqlstate, e.errno) is null
          then 'unavailable'
        when e.type ~ '[.](ContentType|JSONDecode)Error$' then 'json'
        when e.type ^@ 'minutehand.ai.errors.' and e.data ->> 'hope' is distinct from 'none'
            -- `ask_for` raises ProcessorError with these codes
            or e.data ->> 'code' ~ '^(input_refused|answer_(unusable|too_long))$'
              and e.type ~ '^minutehand[.].*ProcessorError$'
          then 'answer'
        when e.type ~ '(^|[.])(Fail|ProcessorError)$' then 'chosen'
      end
    )
    when p_job.status = 'cancelled' and e.type = 'StartByPassed' then 'start_by'
  end as kind,
  coalesce(
    replace('SQLSTATE ' || e.sqlstate, 'SQLSTATE PGRST', 'PGRST'), -- a code of the Data API
    e.program,
    e.module,
    e.errno, -- of AWS, it says more than the status
    'HTTP ' || e.status,
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
    case
      -- the other errors of a task group are not the cause of its first error
      when not a.last ? 'handled' and a.traceback #> '{causes,0,frames,0}' is distinct from a.frame
        -- the worker stores the class in place of an empty message
        then concat_ws(': ', a.last ->> 'type', nullif(a.last ->> 'message', a.last ->> 'type'))
    end
  ) as cause,
  case
    when p_job.status in ('failed', 'pending')
      then (a.frame ->> 'file') || ':' || (a.frame ->> 'line')
  end as place
from jsonb_to_record(p_job.error_data) as e (
  type text, status text, sqlstate text, errno text, path text, signal text, program text,
  module text, variable text, response text, reason text, evidence jsonb, data jsonb
)
left join lateral (
  select
    o.traceback,
    o.traceback #> '{frames,0}' as frame,
    o.traceback #> '{causes,-1}' as last
  from queue.attempts as o
  where o.job_id = p_job.id
    -- other attempts may have failed for another cause
    and (o.error_message, o.error_data) = (p_job.error_message, p_job.error_data)
  order by o.fence desc
  limit 1
) as a on true
$$;

-- Return how many workers were stopped while they had leased the live job p_job, and the times of
-- the first and the last stop. Return no row for fewer than three, because a deploy may stop some.
create function queue.stops_of(p_job public.jobs)
returns table (stops bigint, first_at timestamptz, last_at timestamptz)
language sql stable
set search_path = ''
as $$
select count(distinct a.worker), min(w.ended_at), max(w.ended_at)
from queue.attempts as a
cross join lateral (
  select *
  from queue.workers as o
  where o.worker = a.worker
  offset 0 -- without statistics, Postgres would read all workers first
) as w
where a.job_id = p_job.id
  and p_job.finished_at is null
  and a.outcome = 'released'
  and a.error_data is null
  and w.summary ? 'stopped'
  and a.ended_at > w.ended_at - interval '1 minute' -- a worker may release a job without a stop
having count(distinct a.worker) > 2
$$;

-- Return the reason why a job waits, and the job, limit or pause for which it waits.
-- p_lock: Database session that has locked the job's row, from queue.locks_on.
-- p_alive: Live workers, from queue.live_workers. A caller that explains many jobs reads the live
--   workers only once, because queue.live_workers reads all leases.
-- p_is_open: True to return also jobs of other workspaces and names of people, roles and
--   applications.
create function queue.explain(
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
  v_snoozes constant jsonb := queue.snoozes_of(p_job); -- null unless a snooze ended the last attempt
  v_snoozed jsonb;
  v_found jsonb;
  v_data jsonb; -- the data of v_found, without what the caller may not see
  v_held jsonb;
  v_error record;
  v_revoked_at timestamptz; -- null while workers can call
  v_abandoned jsonb; -- the worker and the location of a stopped processor that still runs
  v_left jsonb; -- the sentence and the advice about this processor
  v_more jsonb; -- advice without which waiting does not help
  v_stopper jsonb; -- the reason that will keep a delayed job from starting at its time
begin
  v_found := case
    when p_lock is null then queue.explain_row(p_job, p_alive, p_now)
    else jsonb_build_object(
      'reason', 'locked',
      'since', p_lock -> 'since',
      'data', p_lock || case
        when p_job.status = 'processing' and p_lock ->> 'effect' is null
          then jsonb_build_object('effect', 'it cannot end', 'is_later', (
            select '' from queue.leases as l -- a call of the job begins after its lease
            where l.job_id = p_job.id and l.leased_at <= (p_lock ->> 'since')::timestamptz
          ))
        else '{}'
      end || coalesce(
        (select w.data from queue.session_work(array[(p_lock -> 'pid')::integer]) as w),
        '{}'
      )
    )
  end;
  if v_found ->> 'reason' = 'no_worker' then
    v_found := v_found || jsonb_build_object(
      'since', queue.last_call(),
      'data', jsonb_build_object('key_expired_at', queue.key_expired_at())
    );
  elsif v_found ->> 'reason' = 'no_processor' then
    v_found := v_found || jsonb_build_object('data', (
      select v_found -> 'data' || jsonb_build_object('served', nullif(
        array_to_string(
          (array_agg(t.job_type order by t.job_type))[:10]
            || case when count(*) > 10 then 'and others' end,
          ', '
        ),
        ''
      ))
      from queue.job_types as t
      where not t.internal
        and t.job_type <> p_job.job_type -- serves other queues
        and t.refusal is null
        and exists (select from unnest(p_alive) as w where t.job_type = any (w.job_types))
    ));
  elsif v_found ->> 'reason' = 'running' then
    v_found := v_found || jsonb_build_object(
      'data', v_found -> 'data'
        || jsonb_build_object('kept_child', queue.kept_child(p_job, p_alive))
        || coalesce(
          (
            select jsonb_build_object(
              'loop_blocker', i.id,
              'loop_owner', coalesce('Job ' || i.id, 'Another job'),
              'loop_blocked', queue.length_in_words((b.pulse ->> 'blocked_ms')::double precision)
            )
            from queue.leases as l
            join unnest(p_alive) as w on w.worker = l.worker
            cross join jsonb_array_elements_text(nullif(w.summary -> 'blockers', 'null')) as k (id)
            join queue.leases as b on b.job_id = k.id::uuid and b.job_id <> l.job_id
            cross join lateral (
              values (case when p_is_open or b.workspace_id = p_job.workspace_id then b.job_id end)
            ) as i (id)
            where l.job_id = p_job.id
              and l.pulse ->> 'blocked_ms' is null
            order by (b.pulse ->> 'blocked_ms')::integer desc
            limit 1
          ),
          '{}'
        )
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
    'cause', case -- a job that runs or waits keeps the error of an earlier attempt
      when v_found ->> 'reason' in ('failed', 'backing_off') then v_error.cause
    end
  ) || v_found;
  v_revoked_at := case
    when p_job.status in ('pending', 'processing') or v_found ->> 'reason' = 'sleeping'
      then queue.revoked_for(
        case when v_found ->> 'reason' <> 'no_worker' then p_job.job_type end
      )
  end;
  if v_revoked_at is not null then
    v_found := jsonb_set(v_found, '{data,revoked_at}', to_jsonb(v_revoked_at));
  end if;
  if current_setting('default_transaction_read_only')::boolean and p_job.finished_at is null then
    v_found := jsonb_set(v_found, '{data,is_read_only}', '""');
  end if;
  v_data := (v_found -> 'data') || coalesce(v_snoozes, '{}');
  if not (p_is_open or queue.is_manager(p_job.workspace_id)) then -- as job_attempts
    v_data := v_data - '{code,stack,triggers}'::text[];
  end if;
  if not p_is_open then -- hide the names of others from members
    if v_data ->> 'owner' <> '' and not exists (
      select from queue.leases as l
      where l.job_id = (v_data ->> 'owner')::uuid and l.workspace_id = p_job.workspace_id
    ) then
      v_data := v_data - '{work,owner,owner_call}'::text[]
        || '{"call": "a job of another workspace"}';
    end if;
    if v_data ? 'paused_by' then
      v_data := v_data || jsonb_build_object(
        'paused_by',
        queue.shown_person(v_data ->> 'paused_by', p_job.workspace_id)
      );
    end if;
    v_data := v_data - '{application,lacked,not_granted}'::text[]
      || jsonb_build_object('a_right', case
        when coalesce(v_data ->> 'lacked', v_data ->> 'not_granted') <> ''
          then 'a right in the database'
      end);
  end if;
  v_found := v_found || jsonb_build_object('data', v_data);
  if v_found ->> 'reason'
      ~ '^(scheduled|snoozed|backing_off|sleeping|due|rate_limited|suspect)$'
    then
    v_stopper := coalesce(
      -- queue.explain_row has found nothing that stops a ready job
      case
        when v_found ->> 'reason' !~ '^(rate_limited|suspect)$'
          then queue.explain_stopped(p_job, p_alive, p_now)
      end,
      (
        select case
          when p_is_open then jsonb_build_object(
            'reason', 'missing_right',
            'data', jsonb_build_object('right', r.lacked)
          )
          else '{"reason": "workers_lack_right", "data": {"is_idle": ""}}'
        end
        from queue.lacked_right('public.lease_jobs') as r (lacked)
        where r.lacked is not null
      )
    );
    v_more := queue.render_guidance('delayed', v_found -> 'data') -> 'next';
    if v_stopper is not null then
      v_stopper := queue.render_guidance(
        v_stopper ->> 'reason',
        queue.names_of(p_job, null)
          || jsonb_build_object(
            'job_id', p_job.id,
            'which', case when p_is_open then p_job.workspace_id end
          )
          || case
            when v_stopper ->> 'reason' = 'no_worker'
              then jsonb_build_object(
                'since', queue.last_call(),
                'key_expired_at', queue.key_expired_at()
              )
            else '{}'
          end
          || jsonb_strip_nulls(coalesce(v_stopper -> 'data', '{}'))
      );
      v_more := v_more || (v_stopper -> 'next');
    end if;
    if v_more <> '[]' then -- the time of its start is unknown
      v_found := v_found || '{"estimated_start_at": null}';
    end if;
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
  v_snoozed := queue.render_guidance(
    'snoozed_again',
    v_found -> 'data' || jsonb_build_object('job_id', p_job.id)
  );
  v_more := coalesce(v_more, '[]')
    || (v_left -> 'next')
    || (v_recursion -> 'next')
    || case when v_found ->> 'reason' = 'snoozed' then v_snoozed -> 'next' else '[]' end
    || coalesce(v_stopped -> 'next', '[]')
    || case
      when v_found ->> 'reason' in ('failed', 'backing_off')
        then queue.one_worker_advice(array[p_job.id], p_job.started_at, p_alive)
      else '[]'
    end;
  v_found := v_found || queue.render_guidance(
    v_found ->> 'reason',
    v_found
      || queue.names_of(p_job, v_held)
      || jsonb_build_object(
        'code', v_error.code,
        'place', v_error.place,
        'is_delayed', case when p_job.status = 'pending' then '' end,
        'failed', 'the job',
        'which', case when p_is_open then p_job.workspace_id end,
        'stuck_in', v_abandoned -> 'worker_id',
        'is_first', case when v_found #>> '{data,ahead}' is null then '' end,
        'is_doubtful', ( -- if the running job that uses up a limit or slots may hang
          select ''
          from public.jobs as h
          cross join lateral queue.pulse_of(h, p_now) as p
          where h.id = any (array[(v_held #>> '{holder,job_id}')::uuid])
            and num_nonnulls(
              p ->> 'is_silent',
              p ->> 'advances',
              p ->> 'late_since',
              p ->> 'unstored_since',
              p ->> 'unreported_since'
            ) > 0
        )
      )
      || jsonb_strip_nulls(v_found -> 'data'),
    '{"failed": "failed", "backing_off": "failed", "cancelled": "cancelled"}'::jsonb
      ->> (v_found ->> 'reason')
      || coalesce(
        ':' || case
          when v_left ->> 'sentence' <> '' and v_error.kind = 'timeout' then 'abandoned'
          else v_error.kind
        end,
        ''
      )
  );
  v_found := v_found || jsonb_build_object(
    'next', case
      when v_more || (v_snoozed -> 'next') <> '[]'
        then v_more
          || jsonb_path_query_array(v_found -> 'next', '$[*] ? (@.kind == "act")')
          || case when v_found ->> 'reason' = 'snoozed' then '[]' else v_snoozed -> 'next' end
      when jsonb_array_length(v_found -> 'next') > 1
        then jsonb_path_query_array(v_found -> 'next', '$[*] ? (@.kind != "none")')
      else v_found -> 'next'
    end,
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
          and v_snoozes is null -- a later run ended with a snooze
        having count(*) > 0
      ),
      v_left ->> 'sentence',
      v_found ->> 'sentence',
      v_snoozed ->> 'sentence',
      v_stopper ->> 'sentence',
      queue.render_guidance('deadline', v_found -> 'data') ->> 'sentence',
      case
        when v_found ->> 'reason' ~ '(_limit|^rate_limited|^no_slot|^behind_others)$'
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
create function queue.names_of(p_job public.jobs, p_held jsonb)
returns jsonb
language sql stable
set search_path = ''
as $$
select jsonb_build_object(
  'job_type', p_job.job_type,
  'own_type', case when not i.is_internal then p_job.job_type end,
  'is_movable', case when not i.is_internal and p_job.priority > 0 then '' end,
  'own_key', left(p_job.concurrency_key, 100),
  'queue', p_job.queue,
  'finished_at', p_job.finished_at,
  'start_by_at', case
    when p_job.error_data ->> 'type' = 'StartByPassed' then p_job.start_by_at
  end,
  'deadline_at', p_job.deadline_at,
  'used', nullif(p_job.attempts, 0),
  'waited', p_job.error_data -> 'waited',
  'was_held', left(p_job.error_data ->> 'waited', 0),
  'cancel_requested_at', p_job.cancel_requested_at,
  'is_retried', case
    when p_job.cancel_requested_at is not null and queue.retry_requested(p_job.id) then ''
  end,
  'error_line', regexp_replace(
    regexp_replace(
      left(queue.error_line(p_job.error_message, p_job.error_data), 301),
      '(.{150}.{150}).', -- a regular expression counts to 255
      '\1…'
    ),
    '\s+',
    ' ',
    'g'
  ),
  -- the first address in the message is db.test:5432, ('10.0.0.1', 80) or https://db.test/, for
  -- example
  'address', coalesce(
    p_job.error_data ->> 'address',
    array_to_string(regexp_match(
      left(p_job.error_message, 2000),
      '((?:[[:alnum:]_-]+\.)+(?!py:)[[:alpha:]]{2,}|(?:\d{1,3}\.){3}\d{1,3}|localhost)'
        '(?:["''], (?:port[ =])?|:)(\d{2,5})\M(?!@)'
    ), ':'),
    substring(left(p_job.error_message, 2000) from '://(?:[^/@\s]*@)?([[:alnum:].-]+(?::\d+)?)'),
    substring( -- such as: host name "db.test"; failed to resolve 'db.test'
      left(p_job.error_message, 2000)
      from '(?i)\m(?:host(?:[ _]?name)?|resolve)[ :=]*["'']([[:alnum:]._-]+)["'']'
    )
  ),
  'error_path', p_job.error_data -> 'path',
  'output_max_bytes', case
    when p_job.error_data ->> 'type' = 'minutehand.worker.streams.OutputRefused'
      then queue.setting('output_max_bytes')
  end,
  'is_proxy', case when p_job.error_data ->> 'status' = '407' then '' end,
  'is_own_call', case
    when p_job.error_data ->> 'type' ^@ 'minutehand.queue.errors.' then ''
  end,
  'has_answer', left(p_job.error_data ->> 'response', 0),
  'object', coalesce(g.object, 'an object'),
  'role', coalesce('role ' || (p_job.error_data ->> 'role'), 'role of the connection'),
  'policed', case when p_job.error_message ~ 'violates row-level security' then g.object end,
  'is_granted', case when p_job.error_message ~ 'violates row-level security' is not true then '' end,
  'own_object', case when o.is_own then g.object end,
  'shared_object', case when o.is_shared then g.object end,
  'had_finished', case
    when p_job.error_message ^@ 'the database rejected the outcome completed' then ''
  end,
  'signal', p_job.error_data -> 'signal',
  'peak_mb', p_job.error_data #> '{evidence,memory_mb}',
  'is_abort', case when p_job.error_data #>> '{evidence,signal}' = 'SIGABRT' then '' end,
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
  -- The job that may have ended an earlier process of the job: its type, and its id if it has lost
  -- a process itself. Null while the type is unknown, or while several jobs may have ended the
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
    where t.job_type = p_job.job_type and t.schema_version > p_job.schema_version
  ),
  'older_worker', case when w.is_older then w.worker_id end,
  'other_worker', case when not w.is_newest then w.worker_id end,
  'other_code', w.version,
  'newest_commit', left(w."commit", 9),
  'is_of_newest', case when (w.is_older or not w.is_newest) is not true then '' end,
  'child', c.id,
  'cause_type', case when c.status = 'failed' then c.job_type end,
  'retried', b.retried,
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
from queue.is_internal(p_job.job_type) as i (is_internal)
cross join lateral (
  select f.id, queue.retried_after(f.id, p_job.id) as retried
  from (
    values (case
      when p_job.error_data ->> 'type' = 'minutehand.worker.context.ChildrenFailed'
        then coalesce(
          queue.blocking_descendant(p_job.id, true),
          (
            select j.id
            from public.jobs as j
            where j.parent_id = p_job.id
              and j.status = 'cancelled'
              and p_job.error_data #> '{data,failed}' ? j.id::text
            order by j.id
            limit 1
          )
        )
    end)
  ) as f (id)
) as b
left join public.jobs as c on c.id = b.id
left join lateral ( -- the worker that rejected the payload and still runs
  select
    o.worker_id,
    o.version,
    t."commit",
    -- a worker names the problems of a payload, unless the payload has a newer version
    p_job.error_data #> '{data,problems}' = '[]' as is_older,
    case -- the code of a worker that was not deployed is unknown
      when o.version ~ '[+]'
        then o.version like '%+' || left(t."commit", 9) or t.deployed_at > a.leased_at
    end as is_newest
  from queue.attempts as a
  join queue.workers as o on o.worker = a.worker
  join queue.job_types as t on t.job_type = p_job.job_type
  where a.job_id = p_job.id
    and p_job.error_data ->> 'type' = 'PayloadRejected'
    -- a worker that has ended or started again may have been deployed since
    and o.ended_at is null
    and o.started_at <= a.leased_at
  order by a.fence desc
  limit 1
) as w on true
cross join lateral substring(
  p_job.error_message
  from '\m(?:permission denied for|policy for) '
    '((?:table|view|sequence|schema|function|procedure|database) "?\w+)'
) as p (object)
cross join lateral replace(p.object, '"', '') as g (object)
cross join lateral ( -- a table of the project may have the name of a table of the engine
  select
    bool_and(k.is_own) or g.object = 'schema queue' as is_own,
    count(distinct k.is_own) = 2 as is_shared
  from pg_catalog.pg_class as t
  cross join lateral (
    values (
      t.relnamespace = 'queue'::regnamespace
      -- by name, because a repair may restore this function before the tables
      or t.relnamespace = 'public'::regnamespace and t.relname ~ '^job(s|_logs|_events)$'
    )
  ) as k (is_own)
  where t.relname = substring(g.object from '^(?:table|view|sequence) (.+)')
) as o
$$;

-- Return the advice for the last error of a failed or delayed job. p_jobs is the number of jobs
-- with the same error.
create function queue.error_advice(p_job_id uuid, p_jobs bigint)
returns jsonb
language sql stable
set search_path = ''
as $$
select queue.render_guidance(
  'failed',
  queue.names_of(j, null) || jsonb_build_object(
    'job_id', case when p_jobs = 1 then j.id end, -- neither a command nor a link for one of several
    'these', case when p_jobs > 1 then 'these jobs' end,
    'failed', case -- only failed jobs can be retried
      when p_jobs = 1 then 'the job'
      when j.status = 'failed' then 'these jobs'
    end,
    'code', e.code,
    'place', e.place
  ),
  'failed:' || e.kind
) -> 'next'
from public.jobs as j
cross join lateral queue.error_of(j) as e
where j.id = any (array[p_job_id])
$$;

-- Explain a job that the caller may see, as for public.explain_job.
create function queue.explain_visible(p_job_id uuid, p_now timestamptz)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
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
    from queue.locks_on(array[p_job_id], p_now) as l;
  end if;
  if v_lock is not null then
    perform from public.jobs
    where id = p_job_id
    for no key update skip locked;
    -- If this session can also lock the job's row, the lock of the other session comes from a
    -- foreign key check. A lock of a foreign key check does not keep workers from leasing the job.
    v_lock := case when not found then v_lock end;
  end if;
  if v_lock is null and v_job.finished_at is null then
    select to_jsonb(o) into v_lock
    from (
      select
        l.*,
        a.xact_start as since,
        nullif(a.application_name, '') as application
      from queue.table_locks() as l
      join pg_catalog.pg_stat_activity as a on a.pid = l.pid
      where a.xact_start <= p_now - interval '2 seconds'
      order by a.xact_start
      limit 1
    ) as o;
  end if;
  return ( -- read the job and its wait in one statement, because a worker may change both
    select queue.explain(j, v_lock, queue.live_workers(p_now), p_now)
    from queue.visible_job(p_job_id) as j
  );
end;
$$;

create function public.explain_job(p_job_id uuid)
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
begin
  if exists (select from queue.table_locks() as l where l.mode = 'AccessExclusiveLock') then
    -- Name the session that must end, because all reads of the table would wait for it. A variable
    -- of the type public.jobs would wait too, so only queue.explain_visible has one.
    perform queue.refuse(
      503,
      'busy',
      concat_ws(' ', g.said ->> 'sentence', g.said #>> '{next,0,words}')
    )
    from queue.findings_of_locks(
      case
        when not (queue.is_operator() or queue.is_service()) then queue.system_workspace()
      end,
      v_now
    ) as f
    cross join lateral queue.render_guidance(
      f.reason,
      f.data || jsonb_build_object('since', f.since)
    ) as g (said)
    where f.data ->> 'locked' <> '';
  end if;
  return queue.explain_visible(p_job_id, v_now);
end;
$$;
comment on function public.explain_job is
  'Why a job waits and what blocks it: {job_id, status, reason, sentence, since, cause, '
  'held_by: {kind, holder, since, until, waiting, more, act}, next: [{kind, words, command, '
  'path, guess}], outlook, data, estimated_start_at, abandoned_at}. The kind of a step is act, '
  'wait or none. outlook is the time at which the timeout stops a running job, and what follows. '
  'abandoned_at is the code location of a stopped processor that still runs. An error with the '
  'status 503 if a table of the queue is locked.';
select queue.allow('authenticated, service_role', 'public.explain_job');

-- Return groups of waiting jobs. The jobs of a group have the same type, and wait for the same
-- cause. A cause is for example a full queue, a concurrency key, an event, a dead worker, or a
-- database session that has locked the jobs' rows.
-- job_id: Id of one job of the group.
-- jobs: Number of jobs in the group. Ready jobs are counted up to 1,000, and jobs that wait for a
--   concurrency key up to 10,000.
-- oldest_at: Time since which the first job of the group has waited.
create function queue.groups_of_held(
  p_workspace_id uuid,
  p_job_type text,
  p_now timestamptz
)
returns table (job_id uuid, jobs bigint, oldest_at timestamptz)
language sql stable
set search_path = ''
as $$
with lanes as materialized (
  select *
  from queue.lanes as l
  where p_job_type is null or l.job_type = p_job_type
),
leases as materialized ( -- expired leases
  select *
  from queue.leases as l
  where l.expires_at <= p_now
    and (p_workspace_id is null or l.workspace_id = p_workspace_id)
    and (p_job_type is null or l.lane in (select n.lane from lanes as n))
  limit 1000
),
late as materialized (
  select d.job_id, d.run_at
  from queue.deferred as d
  where d.run_at <= p_now - interval '10 seconds'
    and (p_workspace_id is null or d.workspace_id = p_workspace_id)
  order by d.run_at
  limit 1000
),
locks as materialized (
  select *
  from queue.locks_on(
    array(select l.job_id from leases as l union select d.job_id from late as d),
    p_now
  )
),
held as (
  (
    select
      'key' as kind,
      g.job_type,
      concat_ws(
        ' ',
        g.workspace_id,
        case
          when queue.is_internal(g.job_type) then split_part(g.key, ':', 1) -- webhook's receiver
          else g.key
        end
      ) as cause,
      g.job_id,
      g.ord,
      null::timestamptz as since
    from queue.gated as g
    where not g.admitted
      and (p_workspace_id is null or g.workspace_id = p_workspace_id)
      and (p_job_type is null or g.job_type = p_job_type)
    limit 10000
  )
  union all
  (
    select 'unpublished', u.job_type, u.workspace_id::text, u.job_id, 0, null
    from queue.unpublished as u
    where (p_workspace_id is null or u.workspace_id = p_workspace_id)
      and (p_job_type is null or u.job_type = p_job_type)
    limit 10000
  )
  union all
  select o.kind, j.job_type, o.cause, j.id, 0, o.since
  from (
    (
      select w.kind, w.event_name as cause, w.job_id, w.created_at as since
      from queue.waits as w
      where w.kind in ('ask', 'event')
        and (p_workspace_id is null or w.workspace_id = p_workspace_id)
      limit 1000
    )
    union all
    select 'worker', l.worker::text, l.job_id, l.expires_at
    from leases as l
    where l.job_id not in (select k.job_id from locks as k)
    union all
    select 'lock', k.pid::text, k.job_id, k.since
    from locks as k
    union all
    select 'late', null, d.job_id, d.run_at
    from late as d
    where d.job_id not in (select k.job_id from locks as k)
  ) as o
  join public.jobs as j on j.id = any (array[o.job_id])
  where p_job_type is null or j.job_type = p_job_type
)
(
  select f.job_id, r.jobs, f.ready_at
  from lanes as l
  cross join lateral (
    select o.job_id, o.ready_at
    from queue.ready as o
    where o.lane = l.lane
      and (p_workspace_id is null or o.workspace_id = p_workspace_id)
      and not exists (select from queue.suspects as s where s.job_id = o.job_id)
    order by o.lane, o.workspace_id, o.ord
    limit 1
  ) as f
  cross join lateral (
    select count(*) as jobs
    from (
      select o.lane
      from queue.ready as o
      where o.lane = l.lane
        and (p_workspace_id is null or o.workspace_id = p_workspace_id)
      limit 1000
    ) as c
  ) as r
  order by r.jobs desc
  limit 8 -- small, because the call explains each group
)
union all
select g.job_id, g.jobs, g.oldest_at
from (
  select
    (array_agg(h.job_id order by h.since, h.ord, h.job_id))[1] as job_id,
    count(*) as jobs,
    min(h.since) as oldest_at,
    row_number() over (partition by h.kind order by count(*) desc) as nth
  from held as h
  group by h.kind, h.job_type, h.cause
) as g
where g.nth <= 10
$$;

-- Return the holders for which jobs wait. The holder with the most waiting jobs comes first. Each
-- holder is returned with the number of waiting jobs, and with the explanation that
-- public.explain_job would return for one waiting job.
-- p_workspace_id: Null to return the holders of all workspaces.
-- p_job_type: Null to return the holders of jobs of all types.
create function queue.holders(p_workspace_id uuid, p_job_type text, p_now timestamptz)
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
      when e.said ->> 'reason' = 'no_processor' -- without the sentence about this job alone
        then e.said || jsonb_build_object('sentence', queue.render_guidance(
          'no_processor',
          e.said -> 'data' || jsonb_build_object('job_type', j.job_type, 'queue', j.queue)
        ) -> 'sentence')
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
    min(coalesce(
      s.oldest_at,
      case s.said #>> '{held_by,kind}' -- the holder of a key changes while its jobs wait
        when 'key' then greatest((s.j).updated_at, (s.j).next_retry_at, (s.j).scheduled_for)
        else (s.said #>> '{held_by,since}')::timestamptz
      end
    )) as since,
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
