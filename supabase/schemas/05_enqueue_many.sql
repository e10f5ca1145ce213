-- This file enqueues many jobs. public.enqueue_jobs, public.spawn_jobs and schedules call
-- queue.enqueue. The function queue.enqueue adds jobs without options in one statement
-- (queue.add_plain), and other jobs one by one (queue.add). The file also creates the triggers of
-- public.jobs for inserts and deletes.

-- Add plain jobs in one statement, which costs a tenth of queue.add. If one of the jobs is not
-- plain, add no job and return false. tests/sql/test_inserts.py compares queue.add_plain with
-- queue.add.
create function queue.add_plain(
  p_workspace_id uuid,
  p_user_id uuid,
  p_items jsonb,
  p_ids uuid[],
  p_now timestamptz
)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_bytes_max constant integer := queue.setting('payload_max_bytes')::integer;
  v_trace constant text := queue.request_traceparent();
  v_ord constant bigint := queue.ord_of(100, p_now);
  v_types queue.job_types[];
  v_lanes integer[];
begin
  if exists (
    select from jsonb_array_elements(p_items) as i
    where case
      when jsonb_typeof(i.value) <> 'object'
          or i.value - '{job_type,payload}'::text[] <> '{}'
          or jsonb_typeof(i.value -> 'payload') not in ('object', 'null')
        then true
      -- check the payload in the same way as queue.check_json
      when octet_length(i.value::text) > 309
        then octet_length(i.value::text) > v_bytes_max
        or i.value @? 'strict $.**{102}'
        or i.value::text ~ '[0-9]{155}[0-9]{154}'
    end
  ) then
    return false;
  end if;
  -- read each job type once, because another transaction may change or delete the type during this
  -- call
  v_types := array(
    select t
    from (
      select distinct i.value ->> 'job_type' as job_type
      from jsonb_array_elements(p_items) as i
    ) as k
    left join queue.job_types as t on t.job_type = k.job_type
  );
  if exists (
    select from unnest(v_types) as t
    where (
      t.schema_version > 0
      and t.payload_schema is null
      and not t.rate_per_key
      and not (t.internal and p_user_id is not null)
    ) is not true
  ) then
    return false;
  end if;
  with items as materialized (
    select
      p_ids[i.n] as id,
      i.n,
      i.value ->> 'job_type' as job_type,
      coalesce(nullif(i.value -> 'payload', 'null'), '{}') as payload,
      p_now + make_interval(secs => i.n * 1e-6) as at
    from jsonb_array_elements(p_items) with ordinality as i (value, n)
  ),
  made as (
    insert into public.jobs (
      id, workspace_id, user_id, lane, max_attempts, last_seq, is_minimal,
      schema_version, queue, job_type, payload, traceparent, ord, created_at,
      updated_at
    )
    select
      i.id,
      p_workspace_id,
      p_user_id,
      t.lane,
      t.max_attempts,
      (not t.is_minimal)::integer,
      nullif(t.is_minimal, false),
      t.schema_version,
      t.queue,
      t.job_type,
      i.payload,
      v_trace,
      v_ord + i.n,
      i.at,
      i.at
    from items as i
    join unnest(v_types) as t on t.job_type = i.job_type
    order by i.n
    returning id, lane, ord, created_at
  ),
  placed as (
    insert into queue.ready (lane, workspace_id, ord, ready_at, job_id)
    select m.lane, p_workspace_id, m.ord, m.created_at, m.id
    from made as m
  )
  select array_agg(distinct m.lane) into v_lanes
  from made as m;
  perform queue.note_turn(l, p_workspace_id, v_ord)
  from unnest(v_lanes) as l;
  return true;
end;
$$;

-- Publish the creation of jobs to queue.feed. Jobs with the same session, type and value of
-- is_minimal share one row of the feed.
create function queue.publish_created(p_ids uuid[], p_now timestamptz)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_changes queue.change[];
  v_wakes boolean;
begin
  select
    array_agg(
      row(
        k.workspace_id,
        k.session_id,
        'job.created',
        jsonb_build_object(
          'status', 'pending',
          'attempts', 0,
          'job_type', k.job_type
        ),
        k.ids,
        case
          when k.is_minimal is null then array_fill(1, array[cardinality(k.ids)])
        end,
        p_now
      )::queue.change
    ),
    min(k.run_at) < p_now + interval '1 minute'
  into v_changes, v_wakes
  from (
    select
      j.workspace_id,
      j.session_id,
      j.job_type,
      j.is_minimal,
      array_agg(j.id) as ids,
      min(coalesce(j.scheduled_for, j.created_at)) as run_at
    from public.jobs as j
    where j.id = any (p_ids)
    group by 1, 2, 3, 4
  ) as k;
  v_wakes := queue.publish(v_changes, p_now, v_wakes);
end;
$$;

-- Enqueue many jobs.
-- p_user_id: The person who calls, or null for the service.
-- p_bulk: True if an error must name the rejected item, for example jobs[0].
-- ids: Ids of the jobs in the order of p_items.
-- created: For each item, true if a job was created, and false if the item's key already belonged
--   to a job.
-- wake: True if the caller should start a worker.
create function queue.enqueue(
  p_workspace_id uuid,
  p_user_id uuid,
  p_items jsonb,
  p_bulk boolean,
  out ids uuid[],
  out created boolean[],
  out wake boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_count constant integer := jsonb_array_length(p_items);
  v_is_plain boolean;
  v_keyed uuid[]; -- job that has the idempotency key of each item
  v_new uuid[] := '{}';
  v_published integer := 0; -- number of jobs in v_new that are already published
  v_item record;
  v_made record;
begin
  -- Take tokens of the rate limit of the person who sends the request, even if a function of an app
  -- enqueues as the service. Take the tokens before the call locks or stores a key. An item whose
  -- idempotency key already belongs to a job takes no token, because a repeated call creates no
  -- jobs.
  if queue.caller() is not null then
    perform queue.take_call_slot(p_workspace_id, p_writes => true) where v_count > 10;
    perform queue.admit(
      'jobs',
      p_workspace_id,
      p_count => n.fresh,
      p_bytes => octet_length(p_items::text)
    )
    from (
      select count(distinct coalesce(c.job_type || ' ' || c.key, c.n::text)) as fresh
      from (
        select
          i.n,
          i.value ->> 'job_type' as job_type,
          i.value ->> 'idempotency_key' as key
        from jsonb_array_elements(p_items) with ordinality as i (value, n)
      ) as c
      where not exists (
        select from queue.job_keys as k
        where k.workspace_id = p_workspace_id
          and k.job_type = c.job_type
          and k.key = c.key
          and not k.is_unique
      )
    ) as n
    where n.fresh > 0;
  end if;
  ids := queue.new_ids(v_count);
  created := array_fill(true, array[v_count]);
  v_is_plain := queue.add_plain(p_workspace_id, p_user_id, p_items, ids, v_now);
  wake := v_is_plain;
  if v_is_plain then
    v_new := ids;
  else
    v_keyed := ( -- store the idempotency keys in sorted order, to prevent deadlocks
      with items as materialized (
        select
          i.n,
          i.value ->> 'job_type' as job_type,
          i.value ->> 'idempotency_key' as key,
          coalesce(nullif(i.value -> 'payload', 'null'), '{}') as payload
        from jsonb_array_elements(p_items) with ordinality as i (value, n)
        order by 2, 3, 1
      ),
      claimed as materialized (
        select
          i.n,
          case
            when char_length(i.key) between 1 and 255 and char_length(i.job_type) <= 100
              then queue.claim_key(
                p_workspace_id,
                i.job_type,
                i.key,
                i.payload,
                ids[i.n],
                ids
              )
          end as id
        from items as i
      )
      select array_agg(c.id order by c.n)
      from claimed as c
    );
  end if;
  -- Process the items in the order of their unique keys, to prevent deadlocks. Items whose
  -- idempotency key already belongs to a job come last.
  for v_item in
    select
      i.value,
      i.n,
      case when p_bulk then format('jobs[%s].', i.n - 1) else '' end as within,
      v_keyed[i.n] <> ids[i.n] is true as is_repeat,
      i.value ->> 'job_type' as job_type,
      lag(i.value #> '{unique,key}') over (
        order by i.value ->> 'job_type', i.value #>> '{unique,key}', i.n
      ) = i.value #> '{unique,key}' as is_again
    from jsonb_array_elements(p_items) with ordinality as i (value, n)
    where not v_is_plain
    order by is_repeat, job_type, i.value #>> '{unique,key}', i.n
  loop
    if v_item.is_repeat then
      ids[v_item.n] := (
        select j.id
        from queue.job_keys as k
        join public.jobs as j on j.id = k.job_id
        where k.workspace_id = p_workspace_id
          and k.job_type = v_item.job_type
          and k.key = v_item.value ->> 'idempotency_key'
          and not k.is_unique
      );
      created[v_item.n] := false;
      continue;
    -- publish the jobs that this call has created so far, because the present item may replace the
    -- payload of one of these jobs
    elsif v_item.is_again then
      perform queue.publish_created(v_new[v_published + 1:], v_now);
      v_published := cardinality(v_new);
    end if;
    v_made := queue.add(
      p_workspace_id,
      p_user_id,
      queue.require_type(v_item.job_type, v_item.within, p_workspace_id),
      coalesce(nullif(v_item.value -> 'payload', 'null'), '{}'),
      v_item.value - '{job_type,payload}'::text[],
      v_now + make_interval(secs => v_item.n * 1e-6),
      v_item.within,
      ids[v_item.n]
    );
    ids[v_item.n] := (v_made.job).id;
    created[v_item.n] := v_made.created;
    wake := wake or v_made.is_ready;
    if v_made.created then
      v_new := v_new || (v_made.job).id;
    end if;
  end loop;
  if array_position(ids, null) is not null then
    perform queue.refuse(
      503,
      'busy',
      'a job that has one of the keys is being deleted; call again'
    );
  elsif v_new <> '{}' then
    perform queue.publish_created(v_new[v_published + 1:], v_now);
  end if;
  wake := wake and queue.wake_worker();
end;
$$;

create function public.enqueue_jobs(
  p_workspace_id uuid,
  p_jobs jsonb,
  p_return text default 'jobs'
)
returns json
language plpgsql
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set jit = off
as $$
declare
  v_user constant uuid := queue.may_read(p_workspace_id);
  v_done record;
begin
  if jsonb_typeof(p_jobs) is distinct from 'array'
    or jsonb_array_length(p_jobs) not between 1 and 1000
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      'jobs must be an array of 1 to 1000 jobs',
      'jobs'
    );
  elsif p_return not in ('jobs', 'ids') then
    perform queue.refuse(
      400,
      'invalid_argument',
      'p_return must be jobs or ids',
      'p_return'
    );
  end if;
  v_done := queue.enqueue(p_workspace_id, v_user, p_jobs, true);
  if p_return = 'ids' then
    return json_build_object(
      'ids', v_done.ids,
      'created', v_done.created,
      'wake', v_done.wake
    );
  end if;
  return json_build_object(
    'wake', v_done.wake,
    'jobs', (
      select json_agg(
        json_build_object(
          'job', to_jsonb(j)
          - '{lane,ord,worker,is_minimal,queue_ms,run_ms,chosen}'::text[]
            || jsonb_build_object('tags', coalesce(j.tags, '{}')),
          'created', v_done.created[i.n]
        )
        order by i.n
      )
      from unnest(v_done.ids) with ordinality as i (id, n)
      join public.jobs as j on j.id = any (array[i.id])
    )
  );
end;
$$;
comment on function public.enqueue_jobs is
  E'Enqueue 1 to 1,000 jobs, all or none: {jobs: [{job, created}], wake}, or {ids, created, wake} '
  'with p_return ids.\n\n'
  'Each element has job_type, payload and the options of enqueue_job. The detail of an error '
  'names the rejected element.';
select queue.allow('authenticated, service_role', 'public.enqueue_jobs');

-- Check and complete each row that a client's own SQL inserts into public.jobs, before the row is
-- written. The value 0 in the column worker marks the row for the trigger queue.place_inserted,
-- which does those checks that need all rows of the statement. Before each hundred rows, take
-- tokens of the person's rate limit, because a rejected insert costs the database as much as an
-- accepted insert.
create function queue.check_inserted()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_count integer := 1 + coalesce(
    nullif(current_setting('minutehand.plain', true), ''),
    '0'
  )::integer;
  v_options jsonb := '{}';
  v_holder uuid;
begin
  v_count := set_config('minutehand.plain', v_count::text, true);
  if v_count % 100 = 0 and queue.caller() is not null then
    perform queue.take_call_slot(p_writes => true);
    perform queue.admit('jobs', new.workspace_id, p_count => 100);
    perform set_config(
      'minutehand.reserved',
      (
        100 + coalesce(nullif(current_setting('minutehand.reserved', true), ''), '0')::integer
      )::text,
      true
    );
  end if;
  if new.status <> 'pending' then
    perform queue.refuse(
      400,
      'invalid_argument',
      'a new job must have status pending',
      'status'
    );
  end if;
  -- Build the JSON of the options only for a row that has options. Building this JSON for each row
  -- would make an insert without options 1.25 times as expensive.
  if new.priority <> 100
    or num_nonnulls(
      new.queue, new.scheduled_for, new.max_attempts, new.idempotency_key,
      new.concurrency_key, new.session_id, new.parent_id, new.deadline_at,
      new.start_by_seconds, new.timeout_seconds, new.traceparent, new.schema_version,
      new.user_id, new.tags
    ) > 0
  then
    v_options := jsonb_strip_nulls(jsonb_build_object(
      'queue', new.queue,
      'priority', nullif(new.priority, 100),
      'scheduled_for', new.scheduled_for,
      'max_attempts', new.max_attempts,
      'idempotency_key', new.idempotency_key,
      'concurrency_key', new.concurrency_key,
      'session_id', new.session_id,
      'parent_id', new.parent_id,
      'deadline_at', new.deadline_at,
      'start_by_seconds', new.start_by_seconds,
      'timeout_seconds', new.timeout_seconds,
      'traceparent', new.traceparent,
      'schema_version', new.schema_version,
      'user_id', new.user_id,
      'tags', new.tags
    ));
  end if;
  new := queue.new_job(
    new.workspace_id,
    case
      when current_setting('request.jwt.claims', true) <> ''
        then queue.may_read(new.workspace_id)
    end,
    queue.require_type(new.job_type, '', new.workspace_id),
    new.payload,
    v_options,
    v_now,
    p_id => new.id
  );
  new.worker := 0;
  if new.idempotency_key is not null then
    v_holder := queue.claim(new, v_options, v_now);
    if v_holder <> new.id then
      perform queue.refuse(
        409,
        'duplicate_job',
        'this idempotency key already belongs to a job',
        v_holder::text
      );
    end if;
  end if;
  return new;
end;
$$;
-- the engine sets the lane of the jobs that it inserts, and clients are not allowed to set the
-- column lane
create trigger jobs_check_insert
  before insert on public.jobs
  for each row
  when (new.lane is null)
  execute function queue.check_inserted();

-- After a client's own SQL has inserted jobs into public.jobs, insert a row for each new job into
-- queue.ready, queue.deferred, queue.gated or queue.unpublished, and publish the creation of the
-- jobs. A trigger of the project that fires earlier may already have changed or deleted some of the
-- jobs. queue.place_inserted takes a job that a trigger has changed out of its table, and places
-- the job again.
create function queue.place_inserted()
returns trigger
language plpgsql
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set jit = off
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_ids constant uuid[] := array(select a.id from added as a where a.worker = 0 order by a.id);
  v_is_ready boolean;
  v_rest uuid[];
  v_changed uuid[];
begin
  -- v_ids is empty if the statement inserted no rows, or if the engine itself inserted and placed
  -- the jobs
  if v_ids = '{}' then
    perform queue.charge_reserved(0);
    return null;
  end if;
  perform queue.may_read(w.workspace_id)
  from (select distinct a.workspace_id from added as a where a.worker = 0) as w;
  if v_ids[1] < queue.id_at(v_now - interval '1 day')
    or v_ids[cardinality(v_ids)] > queue.id_at(v_now + interval '1 day')
  -- the client must choose ids that contain the present time, because retention finds old jobs by
  -- the time in their ids
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      'the id of a new job must be a version 7 UUID of today',
      'id'
    );
  end if;
  with jobs as materialized (
    select
      j.id,
      j.lane,
      j.workspace_id,
      j.ord,
      j.created_at,
      -- true if a trigger of the project has changed the job, so that the job already has events
      -- after its creation
      j.last_seq > (j.is_minimal is null)::integer as is_changed,
      j.lane = t.lane
        and j.last_seq = (j.is_minimal is null)::integer
        and num_nonnulls(j.scheduled_for, j.deadline_at, j.start_by_seconds) = 0
        and not t.rate_per_key
        and (t.key_concurrency is null or j.concurrency_key is null) as is_ready_now
    from unnest(v_ids) as i (id)
    join public.jobs as j on j.id = any (array[i.id]) and j.status = 'pending'
    left join queue.job_types as t on t.job_type = j.job_type
  ),
  -- for jobs that are ready immediately, this statement does the same as queue.place, because a
  -- call of queue.place for each job would make the insert 1.7 times as expensive
  placed as (
    insert into queue.ready (lane, workspace_id, ord, ready_at, job_id)
    select j.lane, j.workspace_id, j.ord, j.created_at, j.id
    from jobs as j
    where j.is_ready_now
  ),
  noted as materialized (
    select queue.note_turn(k.lane, k.workspace_id, k.ord) as is_ready
    from (
      select j.lane, j.workspace_id, min(j.ord) as ord
      from jobs as j
      where j.is_ready_now
      group by 1, 2
    ) as k
  )
  select
    -- bool_or() reads all rows of noted, so that queue.note_turn runs for every row
    coalesce((select bool_or(n.is_ready) from noted as n), false),
    (select array_agg(j.id) from jobs as j where j.is_ready_now is not true),
    (select array_agg(j.id) from jobs as j where j.is_changed)
  into v_is_ready, v_rest, v_changed;
  if v_rest is not null then
    perform queue.leave_places(v_changed) where v_changed is not null;
    v_is_ready := coalesce(
      (
        select bool_or(queue.place(j, j.created_at))
        from unnest(v_rest) as i (id)
        join public.jobs as j on j.id = i.id
      ),
      false
    ) or v_is_ready;
  end if;
  -- a row of the feed has at most 1,000 job ids
  for v_slice in 0 .. (cardinality(v_ids) - 1) / 1000 loop
    perform queue.publish_created(v_ids[1000 * v_slice + 1:1000 * v_slice + 1000], v_now);
  end loop;
  if queue.caller() is not null then
    perform queue.check_live_jobs(a.workspace_id, 0), queue.check_live_bytes(a.workspace_id)
    from (select distinct a.workspace_id from added as a where a.worker = 0) as a;
    perform queue.charge_reserved(count(*), sum(octet_length(a.payload::text)))
    from added as a
    where a.worker = 0;
  end if;
  if v_is_ready then
    perform queue.wake_worker();
  end if;
  return null;
end;
$$;
create trigger jobs_after_insert
  after insert on public.jobs
  referencing new table as added
  for each statement
  when (current_setting('minutehand.plain', true) <> '')
  execute function queue.place_inserted();

-- Delete the rows of deleted jobs from the tables of the engine.
create function queue.after_delete()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_ids constant uuid[] := array(select id from removed order by id);
  v_gated tid[];
  v_workers integer[];
begin
  -- If another transaction is moving one of the jobs from queue.gated to queue.ready, this query
  -- waits for that transaction, so that the next statements see the job's row in queue.ready.
  v_gated := array(
    select g.ctid
    from queue.gated as g
    join removed as j
      on j.finished_at is null
      and g.job_id = j.id
      and g.workspace_id = j.workspace_id
      and g.job_type = j.job_type
      and g.key = coalesce(j.concurrency_key, '')
    for update of g
  );
  delete from queue.ready as r
  using removed as j
  where r.lane = j.lane
    and r.workspace_id = j.workspace_id
    and r.ord = j.ord
    and r.job_id = j.id;
  delete from queue.deferred as d
  using removed as j
  where j.finished_at is null
    and d.job_id = j.id
    and d.run_at in (j.next_retry_at, j.scheduled_for, j.deadline_at, j.start_by_at);
  -- Insert a note for the concurrency key, even if no other job has the key now. Another
  -- transaction may be adding a job with the same key at this moment, and still count the deleted
  -- job against the limit of the key.
  insert into queue.notes (lane, workspace_id, key)
  select distinct g.lane, g.workspace_id, g.key
  from queue.gated as g
  where g.ctid = any (v_gated) and g.admitted;
  delete from queue.gated
  where ctid = any (v_gated) and (started_at < 'infinity') is not true;
  -- keep the row of queue.gated until the rate limit of the concurrency key counts the job's start
  update queue.gated
  set ended = true
  where ctid = any (v_gated);
  delete from queue.unpublished as u
  using removed as j
  where j.lane = 0
    and u.job_type = j.job_type
    and u.workspace_id = j.workspace_id
    and u.job_id = j.id;
  -- Skip an idempotency key or unique key whose row an enqueue has locked, because the enqueue will
  -- find that the job was deleted, and will store the key for its new job.
  delete from queue.job_keys
  where ctid = any (array(
    select o.ctid
    from removed as j
    cross join lateral (
      values (j.idempotency_key, false), (j.unique_key, true)
    ) as k (key, is_unique)
    join queue.job_keys as o
      on o.workspace_id = j.workspace_id
      and o.job_type = j.job_type
      and o.key = k.key
      and o.is_unique = k.is_unique
      and o.job_id = j.id
    for update of o skip locked
  ));
  delete from queue.job_keys
  where ctid = any (array(
    select o.ctid
    from removed as j
    join queue.job_keys as o on o.job_id = j.id and o.freed_when = 'other'
    for update of o skip locked
  ));
  -- Skip a lease that a worker's report or settlement has locked, because the report or settlement
  -- is waiting for the row of the deleted job. Maintenance deletes the lease later.
  with gone as (
    delete from queue.leases
    where ctid = any (array(
      select l.ctid
      from queue.leases as l
      where l.job_id = any (v_ids)
      for update skip locked
    ))
    returning worker
  )
  select array_agg(g.worker) into v_workers from gone as g;
  if v_workers is not null then
    -- Record the leases of the deleted jobs as lost, because the workers still run the processors
    -- of these jobs until they send their next reports.
    insert into queue.lost_leases (worker, lost_at, jobs)
    select
      l.worker,
      queue.clock(),
      count(*) + cardinality(array_positions(v_workers, l.worker))
    from queue.leases as l
    where l.worker = any (v_workers)
    group by l.worker;
  end if;
  delete from queue.waits where job_id = any (v_ids);
  delete from queue.dead as d
  using removed as j
  where d.workspace_id = j.workspace_id and d.job_id = j.id;
  delete from queue.steps where job_id = any (v_ids);
  delete from queue.pieces where job_id = any (v_ids);
  delete from queue.outputs where job_id = any (v_ids);
  delete from queue.attempts where job_id = any (v_ids);
  delete from public.job_logs where job_id = any (v_ids);
  delete from queue.job_events where job_id = any (v_ids);
  -- search queue.feed only for jobs that changed within feed_hours, because older rows of
  -- queue.feed are deleted
  perform queue.scrub_feed(
    v_ids,
    array_agg(distinct j.workspace_id),
    min(j.created_at)
  )
  from removed as j
  where j.updated_at > queue.clock()
    - make_interval(hours => queue.setting('feed_hours')::integer)
  having count(*) > 0;
  insert into queue.signals (kind, workspace_id, job_id)
  select 'check', j.workspace_id, j.parent_id
  from removed as j
  where j.parent_id is not null
  union
  select 'cancel', c.workspace_id, c.parent_id
  from public.jobs as c
  where c.parent_id = any (v_ids) and c.finished_at is null;
  return null;
end;
$$;
create trigger jobs_after_delete
  after delete on public.jobs
  referencing old table as removed
  for each statement
  execute function queue.after_delete();
