-- 0.5.2 after the release before it; written by `python -m infra.release` from schemas and steps/0.5.2.sql.
-- Do not edit it, and do not read it: read the schemas.

-- The upgrade takes functions, views, triggers, policies, grants, comments and new columns from
-- supabase/schemas. This file has the changes that the schemas cannot express.

-- The webhooks of 0.5.1 do not read queue.feed.leased_ids, so do not run the task `webhooks` before
-- the migration of webhooks.
update queue.tasks set retry_at = 'infinity' where name = 'webhooks';

alter table queue.feed add column if not exists leased_ids uuid[];

alter table queue.feed add column if not exists leased_seqs integer[];

alter table queue.feed add column if not exists leased_data jsonb;

-- Return the release of the engine's schema, which is the value of minutehand.version. `minutehand
-- doctor` compares this release with the release that the project recorded.
create or replace function queue.version()
returns text
language sql immutable
set search_path = ''
as $$
select '0.5.2'
$$;

-- Store the idempotency key and the unique key of a new job, and return the id of the new job. If
-- another job already has one of the keys, return the id of that other job. With on_conflict
-- 'replace', a pending job that has the unique key gets the payload of the new job. With
-- on_conflict 'replace', the pending job also gets each of the options tags, priority,
-- scheduled_for and start_by_seconds that the call sets. If the unique key already belongs to
-- another job, store the idempotency key of the call for that other job, with freed_when 'other'.
create or replace function queue.claim(p_job public.jobs, p_options jsonb, p_now timestamptz)
returns uuid
language plpgsql
set search_path = ''
as $$
declare
  -- with debounce_seconds, the call replaces the pending job that has the unique key
  v_unique constant jsonb := case
    when p_options ->> 'debounce_seconds' is not null
      then '{"until": "leased", "on_conflict": "replace"}'
    else p_options -> 'unique'
  end;
  v_priority constant integer := (p_options ->> 'priority')::integer;
  v_id uuid := p_job.id;
  v_replaced public.jobs;
begin
  if p_job.idempotency_key is not null then
    v_id := queue.claim_key(
      p_job.workspace_id,
      p_job.job_type,
      p_job.idempotency_key,
      p_job.payload,
      p_job.id,
      array[p_job.id]
    );
  end if;
  if v_id <> p_job.id or p_job.unique_key is null then
    return v_id;
  end if;
  perform queue.hold_key(p_job.workspace_id, p_job.job_type, p_job.unique_key);
  loop
    insert into queue.job_keys (
      workspace_id, job_type, key, is_unique, job_id, freed_when
    )
    values (
      p_job.workspace_id,
      p_job.job_type,
      p_job.unique_key,
      true,
      p_job.id,
      coalesce(v_unique ->> 'until', 'finished')
    )
    on conflict do nothing;
    if found then
      return p_job.id;
    end if;
    select u.job_id into v_id
    from queue.job_keys as u
    where (u.workspace_id, u.job_type, u.key, u.is_unique)
      = (p_job.workspace_id, p_job.job_type, p_job.unique_key, true);
    -- the unique key was freed between the insert and this query
    continue when not found;
    if not exists (select from public.jobs where id = v_id) then
      -- The row of the key still exists, but its job was deleted while another transaction had
      -- locked the key.
      delete from queue.job_keys as u
      where u.job_id = v_id
        and (u.workspace_id, u.job_type, u.key, u.is_unique)
        = (p_job.workspace_id, p_job.job_type, p_job.unique_key, true);
      continue;
    end if;
    if v_unique ->> 'until' = 'leased' then
      -- a retried job keeps its key until it ends, but not from a call that frees keys at a lease
      delete from queue.job_keys as u
      using public.jobs as j
      where j.id = v_id
        and j.status <> 'pending'
        and u.job_id = v_id
        and (u.workspace_id, u.job_type, u.key, u.is_unique)
        = (p_job.workspace_id, p_job.job_type, p_job.unique_key, true)
        and u.freed_when = 'retried';
      continue when found;
    end if;
    if v_unique ->> 'on_conflict' = 'raise' then
      perform queue.refuse(
        409,
        'duplicate_job',
        'this unique key already belongs to a job',
        v_id::text
      );
    end if;
    exit when v_unique ->> 'on_conflict' is distinct from 'replace';
    perform queue.hold_jobs(array[v_id]);
    -- another transaction freed the unique key before this transaction locked the job
    continue when not exists (
      select from queue.job_keys as u
      where u.job_id = v_id
        and (u.workspace_id, u.job_type, u.key, u.is_unique)
        = (p_job.workspace_id, p_job.job_type, p_job.unique_key, true)
    );
    exit when not exists (
      select from public.jobs
      where id = v_id and status = 'pending'
    );
    perform queue.admit(
      'rows',
      p_job.workspace_id,
      p_bytes => octet_length(p_job.payload::text)
    );
    perform queue.check_live_bytes(p_job.workspace_id);
    perform queue.leave_places(array[v_id]);
    update public.jobs as j
    set
      payload = p_job.payload,
      tags = coalesce(p_job.tags, j.tags),
      schema_version = p_job.schema_version,
      last_seq = j.last_seq + 1,
      priority = coalesce(v_priority, j.priority),
      scheduled_for = coalesce(p_job.scheduled_for, j.scheduled_for),
      next_retry_at = case
        when p_job.scheduled_for is null then j.next_retry_at
      end,
      start_by_seconds = coalesce(p_job.start_by_seconds, j.start_by_seconds),
      start_by_at = greatest(p_now, coalesce(p_job.scheduled_for, j.scheduled_for))
        + make_interval(secs => coalesce(p_job.start_by_seconds, j.start_by_seconds)),
      ord = queue.ord_of(
        coalesce(v_priority, j.priority),
        coalesce(p_job.scheduled_for, j.scheduled_for, j.created_at)
      )
    where j.id = v_id
    returning * into v_replaced;
    perform queue.place(v_replaced, p_now);
    perform queue.append_event(
      array[v_id],
      'job.replaced',
      jsonb_strip_nulls(jsonb_build_object('scheduled_for', v_replaced.scheduled_for)),
      p_now,
      p_is_counted => true
    );
    exit;
  end loop;
  -- store the idempotency key of this call for the job that already has the unique key
  update queue.job_keys as k
  set job_id = v_id, freed_when = 'other'
  where (k.workspace_id, k.job_type, k.key, k.is_unique)
    = (p_job.workspace_id, p_job.job_type, p_job.idempotency_key, false);
  return v_id;
end;
$$;

create or replace function public.enqueue_job(
  p_workspace_id uuid,
  p_job_type text,
  p_payload jsonb default '{}',
  p_options jsonb default '{}'
)
returns json -- json, because jsonb sorts the keys of each object
language plpgsql
security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_payload constant jsonb := coalesce(p_payload, '{}');
  v_options constant jsonb := coalesce(p_options, '{}');
  v_claims constant jsonb := nullif(current_setting('request.jwt.claims', true), '');
  v_type record;
  v_user uuid;
  v_made record;
  v_job public.jobs;
  v_is_published boolean;
begin
  -- the service enqueues a simple job
  if v_options = '{}'
    and jsonb_typeof(v_payload) = 'object' -- the same test of the payload as in queue.new_job
    and pg_column_size(v_payload) <= 200
    and octet_length(v_payload::text) <= 309
    and (
      v_claims is null
      or v_claims ->> 'sub' is null
        and v_claims ->> 'role' in ('service_role', 'job_worker')
    )
  then
    select t.job_type, t.lane, t.queue, t.max_attempts, t.schema_version, t.is_minimal
    into v_type
    from queue.job_types as t
    where t.job_type = p_job_type
      and t.schema_version > 0
      and t.payload_schema is null
      and not t.rate_per_key
      and exists (select from queue.tenants as w where w.id = p_workspace_id);
    if found then
      return json_build_object(
        'job', queue.enqueue_simple(p_workspace_id, v_type, v_payload, v_now),
        'created', true,
        'wake', queue.wake_worker(v_now)
      );
    end if;
  end if;
  v_user := queue.may_read(p_workspace_id);
  -- a repeated call with an idempotency key creates no job, so it takes no token of the rate limit
  if v_user is not null
    and not exists (
      select from queue.job_keys as k
      where k.workspace_id = p_workspace_id
        and k.job_type = p_job_type
        and (
          k.key = v_options ->> 'idempotency_key' and not k.is_unique
          or k.key = v_options #>> '{unique,key}' and k.is_unique
        )
    )
  then
    perform queue.admit(
      'jobs',
      p_workspace_id,
      p_bytes => octet_length(v_payload::text)
    );
  end if;
  v_made := queue.add(
    p_workspace_id,
    v_user,
    queue.require_type(p_job_type, '', p_workspace_id),
    v_payload,
    v_options,
    v_now
  );
  v_job := v_made.job;
  if v_made.created then
    v_is_published := queue.publish(
      array[
        row(
          p_workspace_id,
          v_job.session_id,
          'job.created',
          jsonb_build_object(
            'status', 'pending',
            'attempts', 0,
            'job_type', p_job_type
          ),
          array[v_job.id],
          case when v_job.is_minimal is null then '{1}'::integer[] end,
          v_now
        )::queue.change
      ],
      v_now,
      p_is_soon => coalesce(v_job.scheduled_for, v_now) < v_now + interval '1 minute'
    );
  end if;
  return json_build_object(
    'job', queue.job_json(v_job),
    'created', v_made.created,
    'wake', v_made.created and v_made.is_ready and queue.wake_worker()
  );
end;
$$;

comment on function public.enqueue_job is
  E'Enqueue one job: {job, created, wake}.\n\n'
  'The job exists if and only if the transaction commits. Options: queue, priority, scheduled_for '
  'or delay_seconds, max_attempts, timeout_seconds, idempotency_key, concurrency_key, unique, '
  'debounce_seconds, session_id, parent_id, tags, deadline_at, start_by_seconds, schema_version, '
  'traceparent, user_id.';

select queue.allow('authenticated, service_role', 'public.enqueue_job');

-- Enqueue many jobs.
-- p_user_id: The person who calls, or null for the service.
-- p_bulk: True if an error must name the rejected item, for example jobs[0].
-- ids: Ids of the jobs in the order of p_items.
-- created: For each item, true if a job was created, and false if the item's key already belonged
--   to a job.
-- wake: True if the caller should start a worker.
create or replace function queue.enqueue(
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
    v_keyed := queue.claim_keys(p_workspace_id, p_items, ids);
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

-- Check and complete each row that a client's own SQL inserts into public.jobs, before the row is
-- written. The value 0 in the column worker marks the row for the trigger queue.place_inserted,
-- which does those checks that need all rows of the statement. Before each hundred rows, take
-- tokens of the person's rate limit, because a rejected insert costs the database as much as an
-- accepted insert.
create or replace function queue.check_inserted()
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

-- Delete the rows of deleted jobs from the tables of the engine.
create or replace function queue.after_delete()
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

-- Count the live jobs of a workspace, but at most p_most.
create or replace function queue.live_jobs(p_workspace_id uuid, p_most integer)
returns integer
language plpgsql stable
set search_path = ''
as $$
begin
  return (
    select count(*)
    from (
      select from queue.places(p_workspace_id, '{pending,processing,waiting}', p_most)
      limit p_most
    ) as p
  );
end;
$$;

-- Reject an enqueue if the workspace would have more live jobs than its limit. A limit of up to
-- 2,000 live jobs is enforced exactly, because only one call at a time counts the jobs, and
-- concurrent enqueues are rejected. A limit above 2,000 live jobs is compared with a stored count.
-- The count may be ten seconds old, or 20 seconds if another call is counting.
-- p_count: Number of jobs that the call is about to add.
create or replace function queue.check_live_jobs(
  p_workspace_id uuid,
  p_count double precision default 1
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_max constant integer := coalesce(
    (
      select l.max_pending
      from queue.tenant_limits as l
      where l.workspace_id = p_workspace_id
    ),
    queue.setting('user_pending_max')::integer
  );
  v_bucket constant text := 'q:' || p_workspace_id;
  v_live integer;
  v_known integer; -- the stored count
  v_age interval;
  v_is_stored boolean; -- true if the call may store its count
begin
  if v_max > 2000 then
    select b.tokens, b.tokens, v_now - b.refilled_at
    into v_live, v_known, v_age
    from queue.buckets as b
    where b.name = v_bucket;
    v_is_stored := v_age < interval '10 seconds' is not true
      and queue.reserve_locks(2, 190) = 2
      and queue.try_lock('bucket ' || v_bucket);
    if v_age < interval '20 seconds' is not true then
      -- Each rejected call counts the jobs again, so a count takes a token for each 400 jobs, which
      -- are counted in about a millisecond. Only two calls at a time count more than 1,000 jobs.
      v_live := nullif(queue.live_jobs(p_workspace_id, 1001), 1001);
      perform queue.take_place('quota ' || p_workspace_id, 2) where v_live is null;
      perform queue.admit(
        'rows',
        p_count => least(
          coalesce(v_live, v_known, v_max) / 400.0,
          queue.setting('user_enqueues_burst')::numeric / 4
        )
      );
    elsif v_is_stored then
      v_live := null;
    end if;
  else
    perform queue.take_place('quota ' || p_workspace_id, 1);
  end if;
  v_live := coalesce(v_live, queue.live_jobs(p_workspace_id, v_max + 1));
  perform queue.store_tokens(v_bucket, v_live, v_now) where v_is_stored;
  if v_live + p_count > v_max then
    perform queue.refuse(
      429,
      'quota_exceeded',
      format(
        'the workspace already has %s live jobs; wait until some jobs have ended',
        v_max
      ),
      'max_pending'
    );
  end if;
end;
$$;

-- Take tokens of a person's rate limit before an insert, update or delete locks or writes a row.
-- The number of rows is not known before the statement, so the function takes tokens for 100 rows,
-- or for fewer rows if the rate limit is low. After the statement, queue.charge_reserved corrects
-- the number of tokens. An insert with `on conflict do update` fires this trigger twice, but takes
-- tokens only once.
create or replace function queue.admit_statement()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_price constant integer := least(
    100,
    greatest(1, queue.setting('user_enqueues_burst')::integer / 4)
  );
begin
  if current_setting('minutehand.reserved', true) <> '' is not true then
    perform queue.admit('changes', p_count => v_price);
    perform set_config('minutehand.reserved', v_price::text, true),
      set_config('minutehand.began', queue.clock()::text, true);
    perform queue.note_plain() where tg_relid = 'public.jobs'::regclass;
  end if;
  return null;
end;
$$;

-- Take one of p_most call slots until the transaction ends, or reject the call with status 429. A
-- transaction takes a call slot of the same person or workspace only once.
-- p_id: Id of the person or workspace that the call slots belong to, or null to take no call slot.
-- p_most: Number of call slots.
-- p_ms: Maximum time to wait for a call slot, in milliseconds. A waiting call occupies a database
--   connection, so the caller must first take another call slot without waiting, which limits the
--   number of waiting calls.
create or replace function queue.take_place(p_id text, p_most integer, p_ms integer default 0)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_began constant timestamptz := clock_timestamp();
  v_taken constant text := concat(current_setting('minutehand.places', true), '|');
begin
  if p_id is null or strpos(v_taken, format('|%s|', p_id)) > 0 then
    return;
  elsif queue.reserve_locks(1, 190) = 0 then
    perform queue.refuse(
      429,
      'rate_limited',
      'the call enqueues jobs of too many workspaces with a small limit; enqueue jobs of fewer '
        'workspaces per call'
    );
  end if;
  while not exists (
    select from generate_series(1, p_most) as n
    where queue.try_lock(format('call %s %s', p_id, n))
  )
  loop
    if clock_timestamp() >= v_began + p_ms * interval '1 ms' then
      perform queue.refuse(
        429,
        'rate_limited',
        'you or the workspace have too many calls running; call again when one call has ended',
        '{"limit": "calls_at_once", "retry_after_seconds": 1}'
      );
    end if;
    perform pg_sleep_for(interval '1 ms' + (clock_timestamp() - v_began) / 8);
  end loop;
  perform set_config('minutehand.places', v_taken || p_id, true);
end;
$$;

-- Take a call slot, which is a permit for a call that changes or reads many rows. A person has two
-- call slots for calls that change rows, and two for calls that read rows. A workspace has ten call
-- slots for its members, and five for its guests, because a guest needs no account and the Data API
-- has ten connections.
create or replace function queue.take_call_slot(
  p_workspace_id uuid default null,
  p_writes boolean default false
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_is_member boolean;
begin
  if not queue.is_service() then
    v_is_member := queue.is_member(p_workspace_id);
    perform queue.take_place(case when p_writes then 'changes ' else '' end || queue.caller(), 2);
    perform queue.take_place(
      case when v_is_member then '' else 'guests ' end || p_workspace_id,
      case when v_is_member then 10 else 5 end
    );
  end if;
end;
$$;

-- Admit a read of a table or view through the Data API, or reject the read with status 429. A
-- person may send six reads at a time, because a browser sends up to six requests to one host. Two
-- of the six run, and the others wait.
--
-- A waiting read occupies a connection. Each read that a person has sent beside another read in the
-- last ten seconds therefore makes the next wait shorter, and after 50 such reads one read runs at
-- a time. A read cannot store these reads in a table, because its transaction is read-only or rolls
-- back. Each read beside another read is therefore recorded as an advisory lock of the session. The
-- lock's numbers are a hash of the person's id and the milliseconds of the clock. A session keeps
-- its last 100 of these locks, because the server has few advisory locks. Row-level policies call
-- queue.admit_plain_read once per query. Realtime evaluates row-level policies outside of a
-- request, so that reads by Realtime are not limited.
create or replace function queue.admit_plain_read()
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_path constant text := current_setting('request.path', true);
  v_user constant uuid := queue.caller(false);
  v_running constant text := 'running reads ' || v_user;
  -- other locks have a first number below 2^30 (queue.lanes) or below 0 (queue.try_lock)
  v_hash constant integer := hashtext(concat(current_database(), v_user)) & 1073741823 | 1073741824;
  v_ms constant bigint := extract(epoch from queue.clock()) * 1000;
  v_count integer;
begin
  -- is_reading is 'yes' from the second table of the query on, because a query takes one read slot
  if v_user is null
    or current_setting('minutehand.is_reading', true) <> ''
    or (
      v_path = '/rpc/graphql'
      or current_setting('request.method', true) in ('GET', 'HEAD') and v_path !~ '^/rpc/'
    ) is not true
  then
    return;
  end if;
  perform set_config('minutehand.is_reading', 'yes', true);
  perform queue.take_place('reads ' || v_user, 6);
  if queue.try_lock('call ' || v_running || ' 1') then
    return;
  end if;
  v_count := (
    select count(*)
    from pg_catalog.pg_locks as l
    where l.classid::integer = v_hash
      and l.objsubid = 2
      and (v_ms - l.objid::bigint) & 2147483647 < 10000
  );
  if v_count < 100 then
    perform pg_advisory_lock_shared(v_hash, (v_ms & 2147483647)::integer);
    perform pg_advisory_unlock_shared(o.hash, o.ms)
    from (
      select l.classid::integer as hash, l.objid::integer as ms
      from pg_catalog.pg_locks as l
      where l.pid = pg_backend_pid()
        and l.classid::integer >= 1073741824
        and l.objsubid = 2
      order by (v_ms - l.objid::bigint) & 2147483647
      offset 100
    ) as o;
  end if;
  perform queue.take_place(
    v_running,
    case when v_count < 50 then 2 else 1 end,
    1000 - 10 * v_count
  );
end;
$$;

-- Change settings. Each setting must already have a row in queue.settings, which a migration
-- inserts, and the new value must have the JSON type of the stored value.
create or replace function public.set_settings(p_settings jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_bad text;
begin
  select s.key into v_bad
  from jsonb_each(p_settings) as s
  left join queue.settings as t on t.name = s.key
  where case
    when t.name is null or s.key in ('worker_keys_revoked', 'guest_key') then true
    when s.key = 'disk_bytes' and s.value = 'null' then false
    when s.key = 'realtime_messages_per_second' and jsonb_typeof(s.value) = 'string'
      then s.value not in ('"free"', '"pro"')
    when s.key = 'retention_days' then jsonb_typeof(s.value) <> 'object'
      or not s.value ?& array['completed', 'cancelled', 'failed']
      or s.value @? '$.* ? (@.type() != "number" || @ < 0 || @ > 36500 || @ % 1 != 0)'
    when jsonb_typeof(s.value) = 'number' then jsonb_typeof(t.value) = 'boolean'
      or s.value::numeric not between 1 and case
        when s.key in ('disk_bytes', 'user_pending_bytes_max') then 9007199254740991
        else 2147483647
      end
      or s.value::numeric % 1 <> 0
    else jsonb_typeof(s.value) <> jsonb_typeof(t.value)
  end
  limit 1;
  if found then
    perform queue.refuse(
      400,
      'invalid_argument',
      format('%s is not a setting, or its value is invalid', left(v_bad, 80)),
      left(v_bad, 80)
    );
  end if;
  update queue.settings as t
  set value = s.value, updated_at = queue.clock()
  from jsonb_each(p_settings) as s
  where t.name = s.key;
  return (
    select jsonb_object_agg(name, value)
    from queue.settings
    where name <> 'guest_key'
  );
end;
$$;

comment on function public.set_settings is
  'Change settings of the engine by name, and return all settings. For operators.';

select queue.allow('service_role', 'public.set_settings');

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
    );
  update queue.lanes
  -- let maintenance delete the lane one hour later, because open transactions may still insert jobs
  -- that refer to the lane
  set unused_since = v_now - interval '23 hours'
  where job_type not in (select t.job_type from queue.job_types as t);
  delete from queue.workers as w
  -- public.jobs has no index on worker, because leases change this column
  where not exists (select from public.jobs as j where j.worker = w.worker)
    and not exists (select from queue.leases as r where r.worker = w.worker);
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

drop function queue.divide_slots(queue.turn[],integer,integer,timestamp with time zone);

-- Divide the free slots of a worker among tenants in rounds. In each round, every tenant gets slots
-- for as many of its first ready jobs as its weight. queue.divide_slots skips a job that would
-- exceed a limit, and does not count the skipped job against the weight.
-- p_depth: Number of ready jobs to read for each turn. If the tenant's weight is greater than
--   p_depth, the function reads as many jobs as the weight. Null if the lease has not read all
--   tenants with ready jobs. If p_depth is null, the function reads as many jobs as the weight, and
--   divides the slots for one round only.
-- p_most: Number of free slots.
-- is_cut: True if a tenant may have more ready jobs than this function has read.
-- empty: Open turns whose tenants have no ready job.
-- lasts: Tenants that were served last, for queue.advance_ring.
create or replace function queue.divide_slots(
  p_turns queue.turn[],
  p_depth integer,
  p_most integer,
  out shares queue.share[],
  out empty queue.share[],
  out lasts queue.last_served[],
  out is_cut boolean
)
language plpgsql
set search_path = ''
as $$
declare
  -- a variable gives faster access to single array elements than the parameter p_turns
  v_turns queue.turn[] := p_turns;
  v_tenants queue.tenant_jobs[];
  v_tenant queue.tenant_jobs;
  v_next integer[]; -- index of the next job of each tenant
  v_given integer[]; -- number of jobs that each tenant gets
  v_of_turn integer[] := '{}'; -- number of jobs that each element of v_turns gets
  -- job types with a limit, and the number of jobs that each type gets
  v_types text[] := '{}';
  v_of_type integer[] := '{}';
  v_round integer := 0;
  v_slots integer := 0;
  v_had integer; -- number of jobs that the present tenant has got in the round
  v_turn integer;
  v_type integer;
  v_last queue.last_served;
  v_has_more boolean;
begin
  with heads as materialized (
    select
      t.*,
      r.ord,
      r.nth_of_turn = t.depth as is_cut,
      row_number() over (
        partition by t.workspace_id, t.job_type
        order by r.ord
      ) as nth_of_type
    from (
      select u.*, greatest(p_depth, u.weight) as depth -- greatest() ignores a null p_depth
      from unnest(p_turns) with ordinality as u
    ) as t
    left join lateral (
      select o.ord, row_number() over (order by o.ord) as nth_of_turn
      from queue.ready as o
      where o.lane = t.lane
        and o.workspace_id = t.workspace_id
        and o.ord >= t.from_ord
        -- exclude the jobs of queue.withheld, because the lease would skip them and leave their
        -- slots empty
        and o.job_id not in (select w.job_id from queue.withheld as w)
      order by o.ord
      -- least() ignores nulls, so a null limit has no effect
      limit least(t.depth, t.type_free, t.own_free, t.tenant_free)
    ) as r on true
    where not t.is_paused
      and coalesce(least(t.type_free, t.own_free, t.tenant_free), 1) > 0
  ),
  tenants as (
    select
      array_agg(h.ordinality order by h.ord, h.lane) filter (
        where h.ord is not null and h.nth_of_type <= coalesce(h.own_free, p_most)
      ) as turns,
      h.weight,
      max(h.taken) as taken,
      h.tenant_free,
      min(h.round) filter (where h.ord is not null) as round,
      h.rank,
      h.workspace_id
    from heads as h
    group by h.weight, h.tenant_free, h.rank, h.workspace_id
  )
  select
    coalesce(array_agg(t::queue.tenant_jobs order by t.round, t.rank, t.workspace_id), '{}'),
    (
      select array_agg(row(h.lane, h.workspace_id, null, 0)::queue.share)
      from heads as h
      where h.ord is null
    ),
    (select coalesce(bool_or(h.is_cut), false) from heads as h)
  into v_tenants, empty, is_cut
  from tenants as t
  where t.turns is not null;
  v_next := array_fill(1, array[cardinality(v_tenants)]);
  v_given := array_fill(0, array[cardinality(v_tenants)]);
  <<rounds>>
  loop
    v_has_more := false;
    for v_nth in 1 .. cardinality(v_tenants) loop
      v_tenant := v_tenants[v_nth];
      v_had := case v_round when 0 then v_tenant.taken else 0 end;
      while v_had < v_tenant.weight and v_next[v_nth] <= cardinality(v_tenant.turns) loop
        exit rounds when v_slots = p_most;
        v_turn := v_tenant.turns[v_next[v_nth]];
        v_next[v_nth] := v_next[v_nth] + 1;
        v_type := null;
        if v_turns[v_turn].type_free is not null then
          v_type := coalesce(
            array_position(v_types, v_turns[v_turn].job_type),
            cardinality(v_types) + 1
          );
          v_types[v_type] := v_turns[v_turn].job_type;
          continue when v_of_type[v_type] = v_turns[v_turn].type_free;
          v_of_type[v_type] := coalesce(v_of_type[v_type], 0) + 1;
        end if;
        v_had := v_had + 1;
        v_slots := v_slots + 1;
        v_given[v_nth] := v_given[v_nth] + 1;
        if v_given[v_nth] = v_tenant.tenant_free then
          v_next[v_nth] := cardinality(v_tenant.turns) + 1;
        end if;
        v_of_turn[v_turn] := coalesce(v_of_turn[v_turn], 0) + 1;
        v_last := row(
          null, v_had % v_tenant.weight, v_tenant.round, v_tenant.rank, v_tenant.workspace_id
        );
        if v_type is not null and v_of_type[v_type] = v_turns[v_turn].type_free then
          v_last.job_type := v_types[v_type];
          lasts := lasts || v_last;
          v_last.job_type := null;
        end if;
      end loop;
      v_has_more := v_has_more or v_next[v_nth] <= cardinality(v_tenant.turns);
    end loop;
    exit when p_depth is null or not v_has_more;
    v_round := v_round + 1;
  end loop;
  if v_slots > 0 then
    lasts := lasts || v_last;
  end if;
  select
    array_agg(
      row(t.lane, t.workspace_id, t.from_ord, v_of_turn[t.ordinality])::queue.share
      -- oldest jobs first, because rows of public.jobs are stored in about this order
      order by t.from_ord
    )
  into shares
  from unnest(p_turns) with ordinality as t
  where v_of_turn[t.ordinality] > 0;
end;
$$;

-- Determine how many jobs a lease takes for each turn, and which turns are open although their
-- tenants have no ready job.
-- lanes: Lanes (job types in queues) that the worker requests and that are not paused.
-- limited: Requested job types that have a limit.
-- shares: Number of jobs that the lease takes for each tenant, job type and queue.
-- empty: Open turns whose tenants have no ready job.
-- is_only: True if only one turn of the requested lanes is open, and no limit, weight or pause
--   applies to it. The tenant of the only open turn may have no ready job.
-- is_limited: True if a limit, a weight or a pause applies to one of the tenants or job types.
-- at_limit: Job types that have reached their limit, so that none of their jobs may start now.
-- more: True if the worker should request jobs again immediately, because another lease has locked
--   a limit, or because the function has not read all tenants with ready jobs.
create or replace function queue.share_slots(
  p_request queue.lease_request,
  p_now timestamptz,
  out lanes integer[],
  out limited text[],
  out shares queue.share[],
  out empty queue.share[],
  out is_only boolean,
  out is_limited boolean,
  out at_limit text[],
  out more boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_most constant integer := p_request."limit";
  v_asked constant record := queue.open_lanes(p_request.job_types, p_request.queues);
  v_types record;
  v_open integer[];
  v_has_limits boolean := false; -- true if a tenant has ready jobs of a limited type
  v_reads integer;
  v_first record;
  v_turns queue.turn[];
  v_one queue.turn;
  v_slots bigint;
  v_limited record;
  v_lacks_locks boolean := false;
  v_divided record;
  v_last queue.last_served;
  v_stopped text[]; -- job types that reached their limit
begin
  lanes := v_asked.lanes;
  limited := v_asked.limited;
  more := false;
  if v_most = 0 then
    return;
  end if;
  v_open := lanes;
  if limited <> '{}' then
    v_types := queue.lock_types(lanes, limited, p_now);
    v_open := v_types.open;
    v_has_limits := v_types.is_limited;
    at_limit := v_types.at_limit;
    more := v_types.is_busy;
  end if;
  -- A turn may be open although its tenant has no ready job. If none of the tenants that were read
  -- has a ready job, read more tenants.
  foreach v_reads in array array[
    v_most + v_most / 25 + 5,
    greatest(150, 2 * v_most)
  ] loop
    v_first := queue.next_turns(v_open, v_reads);
    v_turns := v_first.turns;
    v_one := v_turns[1];
    if v_one.lane is null then
      return;
    end if;
    is_limited := v_has_limits or v_first.is_limited;
    if v_first.is_empty then
      empty := array[row(v_one.lane, v_one.workspace_id, null, 0)::queue.share];
      return;
    end if;
    is_only := v_turns[2] is null and v_first.is_all and not is_limited;
    if is_only then -- one tenant gets all slots
      shares := array[
        row(v_one.lane, v_one.workspace_id, v_one.from_ord, v_most)::queue.share
      ];
      return;
    end if;
    if is_limited then
      v_limited := queue.limit_turns(v_turns, p_now);
      v_turns := v_limited.turns;
      more := more or v_limited.is_busy;
      v_lacks_locks := v_limited.known is not null;
      if v_lacks_locks then
        v_first.known := v_limited.known;
        v_first.is_all := false;
      end if;
    end if;
    v_divided := queue.divide_slots(
      v_turns,
      case when v_first.is_all then least(v_most, 4 + 4 * v_most / v_first.known) end,
      v_most
    );
    exit when v_first.is_all or v_divided.shares is not null or v_lacks_locks;
  end loop;
  shares := v_divided.shares;
  empty := v_divided.empty;
  v_slots := coalesce((select sum(s.jobs) from unnest(shares) as s), 0);
  more := more or (not v_first.is_all or v_divided.is_cut) and v_slots < v_most;
  -- store the tenant that was served last only if the lease has skipped a tenant
  if v_first.is_all
    and (v_first.known = 1 or not is_limited and v_slots < v_most)
  then
    -- only one tenant has ready jobs, or the lease took all jobs
    return;
  elsif v_slots < v_most and not v_first.is_all then
    -- The lease has free slots left, so no tenant that it has read can get more jobs now. Store the
    -- last tenant that the lease has read, so that the next lease begins after this tenant.
    select null, 0, t.round, t.rank, t.workspace_id
    into v_last
    from unnest(v_turns) as t
    order by t.round desc, t.rank desc, t.workspace_id desc
    limit 1;
    v_divided.lasts := array_append(
      array(select t from unnest(v_divided.lasts) as t where t.job_type is not null),
      v_last
    );
  end if;
  -- If a job type reached its limit, store for this type the tenant at which the limit was reached,
  -- because later tenants got no job of the type. For all other job types, store the tenant that
  -- was served last.
  v_stopped := array(
    select t.job_type
    from unnest(v_divided.lasts) as t
    where t.job_type is not null
  );
  foreach v_last in array coalesce(v_divided.lasts, '{}') loop
    perform queue.advance_ring(
      case
        when v_last.job_type is null then array(
          select l.lane
          from queue.lanes as l
          where l.lane = any (v_open) and l.job_type <> all (v_stopped)
        )
        else array(
          select l.lane
          from queue.lanes as l
          where l.job_type = v_last.job_type and l.lane = any (v_open)
        )
      end,
      v_last
    );
  end loop;
end;
$$;

-- Lease jobs for the free slots of one pool (a group of job types that share worker slots).
-- queue.share_slots decides how many slots each tenant gets, and queue.take leases as many of the
-- tenant's first jobs.
-- p_request: The worker's request, reduced to the job types and the limit of this pool.
-- unfilled: If the pool got no job, the lanes (job types in queues) of the pool whose job types are
--   not at a limit. Null if the pool got jobs or has no free slot.
create or replace function queue.fill_pool(
  p_request queue.lease_request,
  p_now timestamptz,
  out taken queue.taken,
  out lanes integer[],
  out limited text[],
  out unfilled integer[],
  out more boolean,
  out leased_at timestamptz
)
language plpgsql
set search_path = ''
as $$
declare
  v_shared record := queue.share_slots(p_request, p_now);
  v_taken record;
  v_leased integer := 0;
  -- Number of jobs that the lease selected. If the lease has leased fewer jobs than it selected,
  -- another lease has taken the missing jobs.
  v_expected bigint;
  v_one queue.share;
begin
  lanes := v_shared.lanes;
  limited := v_shared.limited;
  more := v_shared.more;
  leased_at := p_now;
  if v_shared.shares is not null then
    -- read the clock again, so that no job starts before its creation
    leased_at := greatest(p_now, queue.clock());
    v_taken := queue.take(v_shared.shares, p_request, leased_at);
    taken := v_taken.taken;
    v_leased := coalesce(cardinality(taken.ids), 0);
    if v_leased = 0 and v_shared.is_only then
      v_one := v_shared.shares[1];
      if not exists (
        select from queue.ready as r
        where r.lane = v_one.lane
          and r.workspace_id = v_one.workspace_id
          and r.ord >= v_one.ord
      ) then
        v_shared.empty := v_shared.empty
          || row(v_one.lane, v_one.workspace_id, null, 0)::queue.share;
        v_shared.shares := null;
      end if;
    end if;
    if v_leased < p_request."limit" and v_shared.shares is not null then
      v_expected := case
        -- if only one tenant has ready jobs, it may have fewer jobs than the slots assigned to it
        when v_shared.shares[2] is null then 1
        else (select sum(s.jobs) from unnest(v_shared.shares) as s)
      end;
      more := more
        or v_taken.has_refused
        or v_leased < v_expected and not exists (select from queue.withheld);
    end if;
  end if;
  if v_leased = 0 and p_request."limit" > 0 then
    unfilled := lanes;
    if v_shared.at_limit <> '{}' then
      unfilled := array(
        select l.lane
        from queue.lanes as l
        where l.lane = any (lanes) and l.job_type <> all (v_shared.at_limit)
      );
    end if;
  end if;
  if v_leased > 0 and v_shared.is_limited then
    perform queue.spend_starts(taken.ids, leased_at);
  end if;
  -- A turn stays open for a while after the tenant's last ready job, so that the tenant's next
  -- enqueue need not insert a note. In three cases, tidy the turns that this lease has read: close
  -- those without ready jobs, and set from_ord of the others to their first ready job.
  -- - More than four open turns have no ready jobs. More turns without ready jobs would make each
  --   lease slower.
  -- - The lease took 20 jobs or more, but fewer than its limit. With a new from_ord, the next lease
  --   need not read the dead rows of the leased jobs.
  -- - The number of this request within the worker run is a multiple of 16.
  if cardinality(v_shared.empty) > 4
    or v_leased >= 20 and v_leased < p_request."limit"
    or p_request.call % 16 = 0
  then
    perform queue.tidy_turns(
      array(
        select row(j.lane, j.workspace_id, max(j.ord), count(*))::queue.share
        from public.jobs as j
        where j.id = any (taken.ids)
        group by j.lane, j.workspace_id
      ) || v_shared.empty,
      leased_at
    );
    perform queue.begin_epoch()
    where pg_sequence_last_value('queue.turns_closed') >= 5 and queue.try_lock('turns');
  end if;
end;
$$;

-- Lease jobs for public.lease_jobs and public.settle_jobs. If a worker repeats a request, the
-- second request waits until the first request has finished. The second request waits for an
-- advisory lock, because a row lock would be a write, and a request that finds no jobs must write
-- nothing. The second request gets the leases of the first request. If the first request leased no
-- job and was not the first of its run, it stored nothing, and the second request leases jobs.
-- p_changes: Events of the jobs that the same call of public.settle_jobs has settled. queue.lease
--   must publish the events of the settled jobs.
create or replace function queue.lease(p_request jsonb, p_changes queue.change[] default null)
returns json
language plpgsql
set search_path = ''
as $$
declare
  v_asked queue.lease_request := queue.read_lease_request(p_request);
  v_is_next constant boolean := queue.try_lock('tick ' || v_asked.tick_id, p_waits => true);
  v_now constant timestamptz := queue.clock();
  v_ms constant bigint := (date_part('epoch', v_now) * 1000)::bigint;
  v_ignored bigint;
  v_next_ms bigint;
  -- stored state of the worker run and its worker, and whether notes or limited turns are due
  v_tick record;
  v_noted record;
  v_run jsonb; -- field run of the response, if this call starts or ends the run
  v_given record;
  v_due bigint;
  v_maintenance boolean := false;
  v_ends boolean;
  v_is_alive boolean; -- false if public.tick_finished is recording the end of the worker's process
  v_listens constant boolean := p_request -> 'listens' = 'true'
    and to_regclass('realtime.messages') is not null;
begin
  -- If the worker's process ends during this lease, public.tick_finished waits for this advisory
  -- lock, and then also reclaims the jobs of this lease.
  v_is_alive := queue.try_lock('process ' || v_asked.worker_id, p_is_shared => true);
  select
    t.last_call,
    t.seen_at > v_now - interval '10 seconds' as is_active,
    t.expires_at,
    w.worker,
    w.evidence is not null as is_ended, -- the host has reported the end of the process
    w.seen_at > v_now - interval '1 minute'
      and w.seen_at <= v_now
      and w.ended_at is null as is_seen,
    (w.queues, w.version, w.slots, w.abandoned) is distinct from (
      v_asked.queues,
      v_asked.version,
      coalesce(v_asked.slots, w.slots),
      coalesce(v_asked.abandoned, w.abandoned)
    )
      or w.job_types is distinct from v_asked.job_types
      -- a request omits the job types for which its worker has no free slot
      and (w.version = v_asked.version and w.job_types @> v_asked.job_types) is not true
      as is_changed,
    exists (
      select from queue.turn_notes
      union all
      (
        select from queue.notes
        where key is not null and look_at <= v_now
        order by look_at, id -- reads the index in which dead entries are adjacent
        limit 1
      )
      union all
      select from queue.turns
      where blocked and look_at <= v_now
    ) as has_notes,
    exists (select from queue.suspects) as has_suspects
  into v_tick
  from (select) as o
  left join queue.ticks as t on t.tick_id = v_asked.tick_id
  left join queue.workers as w on w.worker_id = v_asked.worker_id;
  -- the worker repeats a request, whose response may have been lost, so return the same leases
  -- again
  if v_asked.call <= v_tick.last_call then
    perform queue.publish(p_changes, v_now);
    return json_build_object(
      'leases', queue.leases_of_call(v_asked.tick_id, v_asked.call),
      'next_due_in_ms', 0,
      'now', v_now
    );
  elsif not v_is_alive or v_tick.is_ended then
    perform queue.publish(p_changes, v_now);
    return json_build_object('leases', '[]'::json);
  elsif v_asked.most is not null and (v_tick.expires_at > v_now) is not true then
    v_run := jsonb_build_object('free', queue.admit_run(v_asked, v_now));
    if v_run ->> 'free' is null then
      perform queue.publish(p_changes, v_now);
      return json_build_object('leases', '[]'::json, 'run', v_run);
    end if;
  end if;
  v_asked.worker := v_tick.worker;
  -- update the worker's row once a minute and after changes
  if v_tick.is_changed or v_tick.is_seen is not true then
    v_noted := queue.record_worker(v_asked, v_tick.is_changed, v_now);
    v_asked.worker := v_noted.worker;
    v_tick.has_notes := v_tick.has_notes or v_noted.has_noted;
  end if;
  -- reset the time at which an enqueue last called a worker, because a worker has now requested
  -- jobs
  if pg_sequence_last_value('queue.wanted_ms') > 0 then
    v_ignored := setval('queue.wanted_ms', 0);
  end if;
  v_given := queue.lease_ready(
    v_asked,
    p_changes,
    v_tick.has_notes,
    case when v_tick.has_suspects then queue.lease_mode(v_asked, v_now) end,
    v_now
  );
  -- Store the number of this request, so that queue.lease recognizes a repeated request. A later
  -- request of the worker run must write nothing if it leased no jobs.
  if v_tick.last_call is null or v_given.leased > 0 then
    update queue.ticks
    set seen_at = v_now, worker = v_asked.worker, last_call = v_asked.call
    where tick_id = v_asked.tick_id;
    if not found then
      insert into queue.ticks (tick_id, seen_at, worker, last_call)
      values (v_asked.tick_id, v_now, v_asked.worker, v_asked.call);
    end if;
  end if;
  if v_listens
    and v_ms - pg_sequence_last_value('queue.listened_ms') between 0 and 30000 is not true
  then
    v_ignored := setval('queue.listened_ms', v_ms);
  end if;
  if v_asked.free_slots < 0 then
    v_ignored := queue.withdraw_run(v_now);
  elsif coalesce(v_asked.free_slots, v_asked."limit" - v_given.leased) > 0
    -- a process that runs only suspects has no slot for other jobs
    and not v_given.is_alone
    and v_ms - pg_sequence_last_value('queue.slots_ms') between 0 and 499 is not true
  then
    v_ignored := setval('queue.slots_ms', v_ms);
  end if;
  if v_given.is_short then
    v_next_ms := queue.next_due_in_ms(
      v_given.lanes,
      v_given.limited,
      v_given.unfilled,
      v_given.more,
      v_now
    );
    -- other workers lease the ordinary jobs, so this worker requests jobs only once per second
    if v_given.is_alone then
      v_next_ms := greatest(v_next_ms, 1000);
    end if;
    v_maintenance := queue.maintenance_is_due(
      v_now,
      -- true if the run has recently leased jobs
      v_given.leased > 0 or v_tick.last_call > 1 and v_tick.is_active,
      v_next_ms <= 1000 is true
    );
  end if;
  v_ends := v_asked.ends is not null
    and v_given.leased = 0
    and (not v_maintenance or v_asked.ends ? 'maintained')
    and (v_next_ms <= (v_asked.ends -> 'stay_ms')::double precision) is not true;
  if v_asked.count_due or v_asked.call = 1 or v_ends then
    -- count ready jobs of all job types and queues that the worker serves, but at most 1,000
    if v_asked.pools is not null or v_given.is_alone then
      v_given.lanes := (queue.open_lanes(v_asked.job_types, v_asked.queues)).lanes;
    end if;
    v_due := (
      select count(*)
      from (
        select from queue.ready as r
        where r.lane = any (v_given.lanes)
        limit 1000
      ) as r
    );
  end if;
  if v_ends then
    v_run := public.tick_finished(
      v_asked.ends
      || jsonb_build_object(
        'tick_id', v_asked.tick_id,
        'summary',
        v_asked.ends -> 'summary'
        || jsonb_build_object(
          'due_left', v_due,
          'next_due_in_ms', v_next_ms
        )
      )
    );
  end if;
  return json_build_object(
    'leases', v_given.leases,
    'maintenance', v_maintenance,
    'run', v_run,
    'due', coalesce(v_due, v_given.is_full::integer),
    'next_due_in_ms', v_next_ms,
    'alone', v_given.is_alone,
    'wake_topic', case when v_listens then queue.wake_topic() end,
    'suspects', case
      when v_tick.has_suspects then (
        -- groups of suspects that the worker may run
        select count(distinct s.company)
        from queue.ready_suspects(v_asked.job_types) as s
        where s.lane = any ((queue.open_lanes(v_asked.job_types, v_asked.queues)).lanes)
      )
    end,
    'now', v_now
  );
end;
$$;

create or replace function public.lease_jobs(p_request jsonb)
returns json
language plpgsql
security definer
set search_path = ''
set lock_timeout = '8s'
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
  v_is_revoked constant boolean := queue.refuse_revoked();
  v_result json;
  v_is_sent boolean;
begin
  v_result := queue.lease(p_request);
  v_is_sent := queue.send_unsent();
  return v_result;
end;
$$;

comment on function public.lease_jobs is
  E'Lease up to limit jobs: {leases, maintenance, due, next_due_in_ms, now, run?, alone?}.\n\n'
  'Request: {worker_id, tick_id, call, limit 0..1000, job_types, pools: [{job_types, limit}], '
  'queues, lease_seconds, version, free_slots, slots, abandoned, count_due, most, run_seconds, '
  'listens, ends: {stay_ms, maintained?, summary?}}. A lease counts as an '
  'attempt, unless its outcome gives it back. A repeated (tick_id, call) that got leases returns '
  'the same leases again.\n\n'
  '- pools: Groups of job types with a limit for each group, which replace limit. The field due '
  'counts the jobs of all pools.\n'
  '- free_slots: Number of free slots of the worker. Default: limit less the leased jobs. If '
  'free_slots is 1 or more, enqueues of the next two seconds start no worker, because this worker '
  'calls again. If free_slots is -1, the next enqueue starts a worker again.\n'
  '- slots: All slots of the worker, [{job_types, limit}]. explain_job compares the slots with the '
  'leases. Only the first call of a run needs slots.\n'
  '- abandoned: Stopped jobs whose processors still run, [{job_id, place}]. Default: the list of '
  'the previous call.\n'
  '- most: Maximum number of concurrent worker runs. The response contains run: {free}, which is '
  'null if this run is rejected.\n'
  '- listens: True if the worker follows the topic wake_topic of the response. Messages of this '
  'topic announce new jobs.\n'
  '- ends: The run ends if no job was leased and no work is due within stay_ms. The response then '
  'contains run: {ended, refused}. If refused is true, another run was rejected since this '
  'run began, so call lease_jobs again.';

select queue.allow('job_worker, service_role', 'public.lease_jobs');

-- Apply the outcomes that workers report. The result of an item is applied, cancelled, stale (the
-- lease number is old), not_found or busy (another transaction has locked the job). If a cancel was
-- requested, the job is cancelled unless the outcome is completed.
-- p_is_plain: True if all items are plain completions, which are successes at the first lease
--   (queue.read_items).
create or replace function queue.settle(
  p_items queue.worker_item[],
  p_is_plain boolean,
  out results json,
  out changes queue.change[]
)
language plpgsql
set search_path = ''
as $$
declare
  v_now timestamptz := queue.clock();
  v_items queue.worker_item[];
  v_busy uuid[] := '{}';
  v_ended record;
begin
  if p_is_plain then
    begin
      v_ended := queue.end_attempts(p_items, null, v_now);
    exception when lock_not_available then
      p_is_plain := false;
    end;
  end if;
  if not p_is_plain then -- skip jobs whose rows are locked by other transactions
    v_busy := queue.lock_held(array(select i.job_id from unnest(p_items) as i));
    v_now := queue.clock();
    v_items := array( -- drop duplicate items
      select distinct on (i.job_id, i.fence) i
      from unnest(p_items) as i
      where i.job_id <> all (v_busy)
    );
    perform queue.write_reports(v_items, v_now);
    v_ended := queue.end_attempts(
      v_items,
      array(select queue.decide(i, v_now) from unnest(v_items) as i),
      v_now
    );
  end if;
  if v_ended.has_suspects then
    -- The process of a worker did not end during the attempts that the worker has settled. A job
    -- that the worker released did not finish its attempt, so it remains a suspect.
    delete from queue.suspects as s
    using unnest(p_items) as i
    join public.jobs as j on j.id = i.job_id and j.fence = i.fence
    where s.job_id = i.job_id
      and j.status <> 'processing'
      and i.outcome not in ('lost', 'died', 'released');
  end if;
  changes := v_ended.changes;
  results := v_ended.results;
  -- Build the response from the stored rows, so that a repeated call gets the same outcomes. The
  -- status is the present status of the job.
  if results is null or v_busy <> '{}' then
    select json_agg(json_strip_nulls(json_build_object(
      'job_id', i.job_id,
      'fence', i.fence,
      'status', case when coalesce(a.fence, j.fence) = i.fence then j.status end,
      'outcome', case
        when j.id is null then 'not_found'
        when i.job_id = any (v_busy) then 'busy'
        when a.outcome = 'cancelled' then 'cancelled'
        -- the outcome of the stored attempt, or the job's status if no attempt is stored
        when coalesce(a.outcome, case when j.fence = i.fence then j.status end)
            in (i.outcome, 'failed')
          then 'applied'
        else 'stale'
      end
    )))
    into results
    from unnest(p_items) as i
    left join public.jobs as j on j.id = i.job_id and i.fence between 1 and j.fence
    left join queue.attempts as a on a.job_id = i.job_id and a.fence = i.fence;
  end if;
  if v_ended.rest is not null then
    insert into queue.job_events (job_id, seq, workspace_id, type, data, created_at)
    select e.id, e.seq, c.workspace_id, c.type, c.data, v_now
    from unnest(changes) as c
    cross join lateral unnest(c.job_ids, c.seqs) as e (id, seq)
    where e.id = any (v_ended.with_event);
    perform queue.after_attempts(v_ended.rest, v_now);
  end if;
  -- Let the next lease check the limits of the jobs' tenants again, by setting look_at in the
  -- tenants' limited turns. Attempts that have ended no longer count against the limits of their
  -- tenants.
  if v_ended.has_blocked then
    update queue.turns
    set look_at = '-infinity'
    where ctid = any (array(
      select t.ctid
      from queue.turns as t
      where t.blocked
        and t.look_at < 'infinity'
        and t.workspace_id = any (array(
          select j.workspace_id
          from unnest(p_items) as i
          join public.jobs as j on j.id = i.job_id
        ))
      for update skip locked
    ));
  end if;
end;
$$;

create or replace function public.settle_jobs(p_request jsonb)
returns json
language plpgsql
security definer
set search_path = ''
set lock_timeout = '8s'
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
  v_is_revoked constant boolean := queue.refuse_revoked();
  v_read record;
  v_settled record;
  v_results json := '[]';
  v_changes queue.change[];
  v_lease json;
  v_is_sent boolean;
begin
  if p_request -> 'items' is distinct from '[]' then
    v_read := queue.read_items(p_request -> 'items');
    v_settled := queue.settle(v_read.items, v_read.is_plain);
    v_results := v_settled.results;
    v_changes := v_settled.changes;
  end if;
  if jsonb_typeof(p_request -> 'lease') = 'object' then
    v_lease := queue.lease(p_request -> 'lease', v_changes);
    v_is_sent := queue.send_unsent();
    return json_build_object('results', v_results, 'lease', v_lease);
  end if;
  v_is_sent := queue.publish(v_changes, queue.clock());
  v_is_sent := queue.send_unsent();
  return json_build_object('results', v_results);
end;
$$;

comment on function public.settle_jobs is
  E'Settle attempts, and lease the next jobs in the same call: {results, lease?}.\n\nItems: '
  '{job_id, fence, outcome: completed|retry|failed|snoozed|released|waiting|cancelled, result?, '
  'error?, retry_after_seconds?, until?, delay_seconds?, wait?, progress?, logs?, step?, steps?, '
  'output?, tags?, cost_usd?, duration_ms?}. A repeated call returns the same outcomes. An item '
  'with the fence of an earlier lease changes nothing. Settle an item again if its outcome is '
  'busy.';

select queue.allow('job_worker, service_role', 'public.settle_jobs');

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
      else (i.pulse - 'for_ms') || jsonb_build_object(
        'since', queue.clock() - (i.pulse ->> 'for_ms')::double precision * interval '1 ms',
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
  'pulse?: {last, for_ms, place?, pid?, own_pids?, batched?, memory_mb}, lease_seconds?}. Report '
  'an item again if its outcome is busy.';

select queue.allow('job_worker, service_role', 'public.report_jobs');

-- Copy results of the awaited child jobs to queue.steps, up to 1,000 results or about 8 MB in a
-- call. Every later attempt of the parent job reads the copies, so that all attempts get the same
-- results. Return the value of the wait when all results are copied. Return null while a child job
-- is live or results remain to be copied.
create or replace function queue.gather(p_wait queue.waits, p_now timestamptz)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_ids constant uuid[] := array(
    select jsonb_array_elements_text(p_wait.data -> 'job_ids')
  );
  v_gathered integer;
begin
  if exists (
    select from unnest(v_ids) as a (id)
    where exists (
      select from public.jobs as j
      where j.id = a.id and j.finished_at is null
      offset 0
    )
  ) then
    update queue.waits
    set
      gathered = 0, -- a child may have been retried since the last copy
      timeout_at = case
        when timeout_at <= p_now then p_now + interval '10 seconds'
        else timeout_at
      end
    where job_id = p_wait.job_id and (gathered > 0 or timeout_at <= p_now);
    return null;
  end if;
  with slice as (
    select
      a.nth,
      jsonb_build_object(
        'id', a.id,
        'status', coalesce(j.status, 'cancelled'),
        'result', j.result,
        'error_message', coalesce(
          j.error_message,
          case when j.id is null then 'the job does not exist' end
        )
      ) as value,
      sum(coalesce(pg_column_size(j.result), 0)) over (order by a.nth)
        - coalesce(pg_column_size(j.result), 0) as bytes_before
    from unnest(v_ids) with ordinality as a (id, nth)
    left join public.jobs as j on j.id = a.id
    where a.nth > p_wait.gathered and a.nth <= p_wait.gathered + 1000
  ),
  copied as (
    insert into queue.steps as s (job_id, name, nth, kind, value, created_at)
    select p_wait.job_id, p_wait.step, c.nth, 'children', c.value, p_now
    from slice as c
    where c.bytes_before < 8000000
    -- a cancelled wait with the same name may have left rows from an earlier attempt, so overwrite
    -- them
    on conflict (job_id, name, nth) do update set value = excluded.value
    returning 1
  )
  select p_wait.gathered + count(*) into v_gathered
  from copied;
  if v_gathered = cardinality(v_ids) then
    return '{"children": []}'; -- the results are separate rows of queue.steps
  end if;
  update queue.waits
  set gathered = v_gathered
  where job_id = p_wait.job_id;
  insert into queue.signals (kind, workspace_id, job_id)
  values ('check', p_wait.workspace_id, p_wait.job_id);
  return null;
end;
$$;

create or replace function public.answer_job(p_job_id uuid, p_answer jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_wait queue.waits;
begin
  perform queue.visible_job(p_job_id);
  if jsonb_typeof(p_answer) is distinct from 'object'
    or not p_answer ? 'answer'
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      'p_answer must be {"answer": …}',
      'answer'
    );
  end if;
  perform queue.admit(
    'changes',
    p_bytes => octet_length(p_answer::text)
  );
  perform queue.check_json(p_answer, 'answer');
  perform queue.hold_jobs(array[p_job_id]);
  select * into v_wait
  from queue.waits
  where job_id = p_job_id and kind = 'ask';
  if not found then
    perform queue.refuse(
      409,
      'invalid_state',
      'the job is not asking anything',
      (
        select j.status
        from public.jobs as j
        where j.id = p_job_id
      )
    );
  elsif p_answer ? 'name' and p_answer ->> 'name' <> v_wait.step then
    perform queue.refuse(
      409,
      'invalid_state',
      'the job is asking something else now',
      v_wait.step
    );
  elsif jsonb_typeof(v_wait.data -> 'options') = 'array'
    and not (v_wait.data -> 'options') @> jsonb_build_array(p_answer -> 'answer')
  then
    perform queue.refuse(
      422,
      'payload_invalid',
      'the answer must be one of ' || (v_wait.data ->> 'options'),
      'answer'
    );
  end if;
  update queue.waits
  set data = data || jsonb_build_object(
    'given', jsonb_build_object(
      'answer', p_answer -> 'answer',
      'by', queue.caller()
    )
  )
  where job_id = p_job_id;
  perform queue.end_waits(array[p_job_id], v_now);
  perform queue.wake_worker(v_now);
  return queue.job_json(queue.visible_job(p_job_id));
end;
$$;

comment on function public.answer_job is
  'Answer the question of a waiting job with {"answer": …, "name"?}. Returns the job.';

select queue.allow('authenticated, service_role', 'public.answer_job');

create or replace function public.emit_event(
  p_workspace_id uuid,
  p_name text,
  p_payload jsonb default '{}'
)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_is_first boolean;
begin
  perform queue.may_read(p_workspace_id);
  if char_length(p_name) between 1 and 255 is not true then
    perform queue.refuse(
      400,
      'invalid_argument',
      'name must have 1 to 255 characters',
      'name'
    );
  end if;
  perform queue.admit(
    'changes',
    p_workspace_id,
    p_bytes => octet_length(p_payload::text)
  );
  perform queue.check_json(p_payload, 'payload');
  insert into queue.named_events (workspace_id, name, payload, emitted_at, created_by)
  values (p_workspace_id, p_name, coalesce(p_payload, '{}'), v_now, queue.caller())
  on conflict do nothing;
  v_is_first := found;
  if v_is_first then
    insert into queue.signals (kind, workspace_id, name)
    values ('event', p_workspace_id, p_name);
    perform queue.send_wakeup(v_now), queue.wake_worker(v_now);
  end if;
  return jsonb_build_object('first', v_is_first);
end;
$$;

comment on function public.emit_event is
  E'Emit a named event that jobs may wait for: {first}.\n\nOnly the first event with a name is '
  'stored. The event may come before or after the wait begins.';

select queue.allow('authenticated, service_role', 'public.emit_event');

-- This file contains the functions with which people control jobs. People can cancel a job with its
-- children, retry a job, replay a job from a step, and pause jobs. public.cancel_jobs and
-- public.retry_jobs cancel or retry many jobs.

-- Cancel the jobs p_ids and their live descendants. A pending or waiting job is cancelled
-- immediately. For a running job, only a cancel request is stored, because its worker must stop the
-- job. If the caller has not locked the jobs, the function locks them, takes one token of the
-- person's rate limit for each job and descendant, and cancels the first 100 descendants.
-- queue.cancel inserts signals for the other descendants, so that maintenance cancels them. Return
-- the number of jobs and descendants, with at most 5,000 descendants.
create or replace function queue.cancel(
  p_ids uuid[],
  p_now timestamptz,
  p_is_locked boolean default false,
  p_reason text default 'cancelled'
)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_children uuid[];
  v_asked uuid[];
  -- without the id of the person, which members who have left may not read
  v_reason constant jsonb := jsonb_strip_nulls(jsonb_build_object('reason', p_reason, 'by', case
    when p_reason <> 'cancelled' then null
    when auth.jwt() is null then 'a database session'
    when queue.caller() is null then
      '{"service_role": "the service, with a secret key", "job_worker": "a worker",
        "anon": "a guest"}'::jsonb ->> (auth.jwt() ->> 'role')
    when queue.is_operator() then 'an operator'
    else 'a signed-in user'
  end));
begin
  if not p_is_locked then
    perform queue.take_call_slot(j.workspace_id, p_writes => true)
    from public.jobs as j
    where j.id = p_ids[1];
    v_children := array(
      with recursive tree as (
        select j.id, 0 as depth
        from public.jobs as j
        where j.id = any (p_ids)
        union
        select c.id, t.depth + 1
        from tree as t
        cross join lateral (
          select j.id
          from public.jobs as j
          where j.parent_id = t.id and j.finished_at is null
          offset 0
        ) as c
      )
      select t.id
      from tree as t
      where t.depth > 0 and t.id <> all (p_ids)
      limit 5000
    );
    perform queue.admit(
      'changes',
      p_count => cardinality(p_ids) + cardinality(v_children)
    );
    perform queue.hold_jobs(p_ids || v_children[:100]);
    perform queue.cancel(
      v_children[:100],
      p_now,
      p_is_locked => true,
      p_reason => 'parent_ended'
    );
  end if;
  with asked as (
    update public.jobs
    set cancel_requested_at = p_now
    where id = any (p_ids) and status = 'processing' and cancel_requested_at is null
    returning id
  )
  select array_agg(a.id) into v_asked
  from asked as a;
  perform queue.append_event(v_asked, 'job.cancel_requested', v_reason, p_now)
  where v_asked is not null;
  perform queue.finish(
    array(
      select j.id
      from public.jobs as j
      where j.id = any (p_ids) and j.status in ('pending', 'waiting')
      order by j.id
    ),
    'cancelled',
    v_reason || '{"type": "Cancelled"}',
    p_now
  );
  insert into queue.signals (kind, workspace_id, job_id)
  select 'cancel', j.workspace_id, j.id
  from public.jobs as j
  where j.id = any (v_asked)
    and exists (
      select from public.jobs as c
      where c.parent_id = j.id
        and c.finished_at is null
        and c.cancel_requested_at is null
      offset 0
    );
  return cardinality(p_ids) + coalesce(cardinality(v_children), 0);
end;
$$;

-- Retry those of the jobs p_ids that failed or were cancelled. The caller must have locked the
-- jobs. Skip a job whose unique key now belongs to another job. A retried job has its unique key
-- until it finishes, because the option `until` of the first enqueue is not stored. A call with
-- until 'leased' takes the key from the running job (queue.claim). Insert signals, so that
-- maintenance also retries child jobs that were cancelled because their parent ended. Return the
-- number of retried jobs.
create or replace function queue.retry(p_ids uuid[], p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_ids uuid[];
begin
  insert into queue.job_keys (workspace_id, job_type, key, is_unique, job_id, freed_when)
  select distinct on (j.workspace_id, j.job_type, j.unique_key)
    j.workspace_id,
    j.job_type,
    j.unique_key,
    true,
    j.id,
    'retried'
  from public.jobs as j
  where j.id = any (p_ids)
    and j.status in ('failed', 'cancelled')
    and j.unique_key is not null
  order by j.workspace_id, j.job_type, j.unique_key, j.id
  on conflict do nothing;
  with retried as (
    update public.jobs as j
    set
      status = 'pending',
      updated_at = p_now,
      finished_at = null,
      completed_at = null,
      result = null,
      attempts = 0,
      lost_attempts = 0,
      generation = j.generation + 1,
      next_retry_at = null,
      scheduled_for = null,
      deadline_at = null,
      start_by_seconds = null,
      start_by_at = null,
      cancel_requested_at = null,
      ord = queue.ord_of(j.priority, j.created_at)
    where j.id = any (p_ids)
      and j.status in ('failed', 'cancelled')
      and (
        j.unique_key is null
        or exists (
          select from queue.job_keys as u
          where u.workspace_id = j.workspace_id
            and u.job_type = j.job_type
            and u.key = j.unique_key
            and u.is_unique
            and u.job_id = j.id
        )
      )
    returning j.id, j.workspace_id
  ),
  alive as (
    delete from queue.dead as d
    using retried as r
    where d.workspace_id = r.workspace_id and d.job_id = r.id
  )
  select array_agg(r.id order by r.id) into v_ids
  from retried as r;
  if v_ids is null then
    return 0;
  end if;
  perform queue.append_event(v_ids, 'job.redriven', '{}', p_now);
  -- a job that has ended its worker process must run alone after the retry
  insert into queue.suspects (job_id, workspace_id, worker, company, since)
  select j.id, j.workspace_id, coalesce(j.worker, 0), j.id, p_now
  from public.jobs as j
  where j.id = any (v_ids) and j.error_data ->> 'reason' = 'worker_lost'
  on conflict do nothing;
  perform queue.place(j, p_now)
  from public.jobs as j
  where j.id = any (v_ids)
  order by j.id;
  insert into queue.signals (kind, workspace_id, job_id)
  select 'retry', j.workspace_id, j.id
  from public.jobs as j
  where j.id = any (v_ids)
    and exists (
      select from public.jobs as c
      where c.parent_id = j.id
        and c.status = 'cancelled'
        and c.error_data ->> 'reason' = 'parent_ended'
      offset 0
    );
  return cardinality(v_ids);
end;
$$;

-- Publish changes of jobs. The caller must have locked the jobs. A change with seqs is sent as
-- Realtime messages (queue.send). Each change is also inserted into queue.feed. Log lines, output,
-- and progress of a job without a session are inserted only if their message was not sent. A
-- completion and a lease of the same tenant and session share a row. Return true, or null if
-- p_changes is null, because queue.publish is a strict function.
-- p_is_soon: True if new jobs are due within a minute, so that the commit notifies idle workers.
create or replace function queue.publish(
  p_changes queue.change[],
  p_now timestamptz,
  p_is_soon boolean default true
)
returns boolean
language plpgsql strict
set search_path = ''
as $$
declare
  v_number constant bigint := queue.feed_number();
  v_unsent constant boolean := nullif(not queue.send(p_changes), false); -- true, or null
  -- two variables, because each use of a field of p_changes[n] costs more
  v_ended queue.change;
  v_leased queue.change := p_changes[2];
begin
  if v_leased.type = 'job.leased' and cardinality(p_changes) = 2 then
    v_ended := p_changes[1];
  end if;
  if v_ended.type = 'job.completed'
    and v_ended.workspace_id = v_leased.workspace_id
    and v_ended.session_id is not distinct from v_leased.session_id
  then
    p_changes := p_changes[:1];
  else
    v_leased := null;
  end if;
  insert into queue.feed (
    number, at, workspace_id, session_id, type, data, job_ids, seqs, wakes, unsent, leased_ids,
    leased_seqs, leased_data
  )
  select
    v_number,
    p_now,
    c.workspace_id,
    c.session_id,
    c.type,
    case c.type when 'job.output' then '{}' else c.data end,
    c.job_ids,
    c.seqs,
    p_is_soon and c.type in ('job.created', 'job.redriven', 'job.resumed'),
    case when c.seqs is not null then v_unsent end,
    v_leased.job_ids,
    v_leased.seqs,
    v_leased.data
  from unnest(p_changes) as c
  where v_unsent
    or c.type not in ('job.progress', 'job.log', 'job.output')
    or c.type = 'job.progress' and c.session_id is not null;
  return true;
end;
$$;

-- Run one pass of the publisher. A pass reads up to 5,000 new rows of queue.feed, and sends one
-- message per topic for those rows whose statements sent no message. A pass that continues an
-- unfinished pass reads only what its snapshot `until` sees. A pass that reaches the end of
-- queue.feed also reads rows of the current transaction. If the feed rows of a topic are older than
-- two seconds, or if the message budget is too small, the message only asks the topic's followers
-- to read the jobs again. A message about output also only asks for a new read, because the feed
-- does not store output.
create or replace function queue.do_announcements(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_xid constant xid8 := pg_current_xact_id_if_assigned();
  v_budget record;
  v_at record;
  v_new record;
  v_count integer := 0;
begin
  if to_regclass('realtime.messages') is null or not queue.try_lock('announcements') then
    return 0;
  end if;
  v_budget := queue.message_budget('{}');
  -- A transaction that was still running during the last pass may have added feed rows with low
  -- numbers. If a transaction that ran during the last pass has ended, begin this pass with the
  -- number of the transaction. For example, if transaction 7 ran while the last pass read up to the
  -- number 20, begin with 7, and skip the feed rows that are visible in `seen`.
  select p.*, l.*
  into v_at
  from (
    select
      coalesce(s.seen, '1:1:') as seen,
      s.xid,
      s.own_id,
      s.until,
      coalesce(s.until, pg_current_snapshot()) as visible,
      coalesce(
        s.number,
        coalesce(pg_sequence_last_value('queue.feed_base'), 0)
          + least(coalesce(pg_snapshot_xmax(s.seen)::text::bigint, 0), e.ended)
      ) as number,
      coalesce(s.id, 0) as id,
      e.ended is not null as is_back
    from (select) as o
    left join (
      select *
      from queue.publisher
      order by round desc
      limit 1
    ) as s on true
    cross join lateral (
      select min(x::text::bigint) as ended
      from pg_snapshot_xip(s.seen) as x
      where pg_visible_in_snapshot(x, pg_current_snapshot())
    ) as e
  ) as p
  cross join lateral (
    select
      array_agg(
        row(
          f.workspace_id, f.session_id, c.type, c.data, c.job_ids, c.seqs, f.at
        )::queue.change
        order by f.number, f.id, c.nth
      ) filter (where f.unsent) as changes,
      -- is_late is also true if messages of another topic are already late
      bool_or(
        f.type = 'job.output'
        or f.at <= p_now - interval '2 seconds'
        or exists (select from queue.late_topics)
      ) filter (where f.unsent) as is_late,
      count(*) as changes_read,
      coalesce(
        max(f.id) filter (where f.xid = v_xid),
        case when p.xid = v_xid then p.own_id end, -- an earlier pass of the transaction
        0
      ) as last_own_id,
      -- the last feed row that this pass reads, if the pass does not reach the end of the feed
      case
        when count(*) filter (where c.nth = 1) = 5000 then max(array[f.number, f.id])
      end as last
    from (
      select *
      from queue.feed as n
      where n.number >= p.number
        and (n.number, n.id) > (p.number, p.id)
        and case
          when n.xid = p.xid then n.id > p.own_id
          else not pg_visible_in_snapshot(n.xid, p.seen)
        end
        and case
          when n.xid = v_xid then p.until is null
          else pg_visible_in_snapshot(n.xid, p.visible)
        end
      order by n.number, n.id
      limit 5000
    ) as f
    cross join lateral (
      values
        (1, f.type, f.data, f.job_ids, f.seqs),
        (2, 'job.leased', f.leased_data, f.leased_ids, f.leased_seqs)
    ) as c (nth, type, data, job_ids, seqs)
    where c.job_ids is not null
  ) as l;
  if v_at.changes is not null or exists (select from queue.late_topics) then
    v_new := queue.messages_of(v_at.changes, v_budget.is_followed);
    if v_at.is_late is not false or v_new.cost > v_budget.budget - v_budget.used then
      v_new := queue.put_off(v_new.messages, v_budget.budget - v_budget.used, p_now);
    end if;
    v_count := coalesce(cardinality(v_new.messages), 0);
    if v_count > 0 then
      perform queue.write_messages(v_new.messages, v_new.cost, true);
    end if;
  end if;
  if v_at.last is not null then
    insert into queue.publisher (seen, xid, own_id, until, number, id)
    values (
      v_at.seen, v_at.xid, v_at.own_id, v_at.visible, v_at.last[1], v_at.last[2]
    );
  -- If the pass began at the number of a transaction that has ended, insert a row for the pass even
  -- without new feed rows. Without a new row in queue.publisher, the next passes would begin at the
  -- same number again.
  elsif v_at.changes_read > 0 or v_at.until is not null or v_at.is_back then
    insert into queue.publisher (seen, xid, own_id)
    values (v_at.visible, v_xid, v_at.last_own_id);
  end if;
  return v_count;
end;
$$;

create or replace function queue.follow(p_topic text, p_follower_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_user constant uuid := coalesce(
    queue.caller(),
    '00000000-0000-0000-0000-000000000000'
  );
  v_is_new boolean;
  v_is_stored boolean;
begin
  if p_topic is null
    or p_follower_id is null
    or not queue.may_follow(p_topic)
  then
    perform queue.refuse(
      404,
      'topic_not_found',
      'topic not found, or not yours to follow',
      left(p_topic, 300)
    );
  end if;
  perform queue.admit('rows');
  v_is_new := not exists (
    select from queue.followers as f
    where f.topic = p_topic
      and f.user_id = v_user
      and f.follower_id = p_follower_id
  );
  -- Keep only a person's 100 newest rows (a topic and a client), so that no person can use up the
  -- message budget. The limit does not apply to guests, because all guests share one user id.
  delete from queue.followers
  where ctid = any (array(
    select o.ctid
    from (
      -- skip locked rows, because two calls of a person could otherwise wait for each other
      select f.topic, f.user_id, f.follower_id
      from queue.followers as f
      where f.user_id = queue.caller()
        and (f.topic, f.follower_id) <> (p_topic, p_follower_id)
      order by f.seen_at desc
      offset 99
    ) as old
    join queue.followers as o using (topic, user_id, follower_id)
    for update of o skip locked
  ));
  -- A concurrent call with the same ids writes the same row, so do not wait for its lock.
  insert into queue.followers as f (topic, user_id, follower_id, seen_at)
  select p_topic, v_user, p_follower_id, clock_timestamp()
  where queue.try_lock(format('follower %s/%s/%s', p_topic, v_user, p_follower_id)) and (
    select count(*)
    from queue.followers as o
    where o.topic = p_topic
      and o.user_id = v_user
      and o.follower_id <> p_follower_id
  ) < 20
  on conflict (
    topic,
    user_id,
    follower_id
  ) do update set seen_at = excluded.seen_at;
  v_is_stored := found;
  return jsonb_build_object(
    -- A transaction that did not see the new follower may commit after the client's first read,
    -- without a message. In two seconds, `seq` shows that the client missed the change.
    'again_seconds', case when v_is_new and v_is_stored then 2 else 60 end,
    'seq', queue.topic_seq(p_topic),
    -- choose the interval so that all followers together poll about 50 times per second
    'check_seconds', (
      select count(*)
      from (select from queue.followers limit 1500) as f
    ) / 50.0
  );
end;
$$;

select queue.allow('anon, authenticated, service_role', 'queue.follow');

-- Remove the data of each row of queue.feed whose jobs have all been deleted. While one job of a
-- feed row exists, the row keeps its data, because all jobs of a row share the data.
-- p_since: Creation time of the oldest job that is being deleted.
create or replace function queue.scrub_feed(
  p_ids uuid[],
  p_workspaces uuid[],
  p_since timestamptz
)
returns void
language plpgsql
set search_path = ''
as $$
begin
  update queue.feed
  set data = '{}', session_id = null
  where ctid = any (array(
    select f.ctid
    from queue.feed as f
    where f.workspace_id = any (p_workspaces)
      and f.at >= p_since
      and (f.data <> '{}' or f.session_id is not null)
      and exists (
        select from unnest(f.job_ids || f.leased_ids) as i (id)
        where i.id in (select d.id from unnest(p_ids) as d (id))
      )
      and not exists (select from public.jobs as j where j.id = any (f.job_ids || f.leased_ids))
    order by f.number, f.id
    for update
  ));
end;
$$;

-- Return a page of events of a workspace or a session from the feed. The page has the events that
-- are visible in the snapshot `until` of the cursor, but not in the cursor's snapshot `seen`. A
-- call reads at most 1,000 feed rows, so even an empty page may have more = true. Events about
-- progress are returned only for a session.
create or replace function queue.read_feed(
  p_workspace_id uuid,
  p_session_id text,
  p_cursor text,
  p_limit integer
)
returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
  c_limit constant integer := least(1000, greatest(1, coalesce(p_limit, 500)));
  v_history constant text := queue.history();
  -- Rows of queue.feed up to this number were written by another server, so the present server
  -- cannot interpret the transaction ids in these rows.
  v_base constant bigint := coalesce(pg_sequence_last_value('queue.feed_base'), 0);
  v_hidden constant text[] := case
    when p_session_id is null then '{job.progress,job.log}'
    else '{job.log}'
  end;
  -- if both the workspace and the session are given, the caller of this function has already
  -- checked access to the session
  v_all constant boolean := p_session_id is null
    or p_workspace_id is not null
    or queue.is_service();
  v_cursor constant queue.feed_cursor := queue.read_cursor(p_cursor);
  v_page record;
begin
  if v_cursor.seen is null then
    return '{"events": [], "places": [], "more": false, "reset": true}' || jsonb_build_object(
      'cursor', format('(%s,"%s",,,,)', v_history, pg_current_snapshot())
    );
  end if;
  -- A call that reads more than 100 events takes a call slot. A call for up to 100 events takes no
  -- slot, because many clients read a few new events at the same moment after a message.
  perform queue.take_call_slot(p_workspace_id)
  from (
    select sum(cardinality(f.job_ids || f.leased_ids)) as events
    from queue.feed_lines(p_workspace_id, p_session_id, v_cursor, 101) as f
  ) as f
  where f.events > 100;
  with feed_rows as materialized (
    select
      f.*,
      row_number() over w as n,
      f.job_ids || f.leased_ids as ids,
      sum(cardinality(f.job_ids || f.leased_ids)) over w
        - cardinality(f.job_ids || f.leased_ids) as before
    from queue.feed_lines(p_workspace_id, p_session_id, v_cursor, 1000) as f
    window w as (order by f.number, f.id)
  ),
  -- do not count the events that the client has already received from the first feed row, because a
  -- feed row may have thousands of events
  slice as (
    select l.*
    from feed_rows as l
    where l.before - v_cursor.nth <= c_limit + 1000
  ),
  found as (
    select
      e.type,
      e.data,
      s.at,
      i.job_id,
      i.seq,
      row_number() over (order by s.n, i.nth) as n,
      row(
        v_history, v_cursor.seen, v_cursor.until, s.number, s.id, i.nth
      )::queue.feed_cursor as cursor
    from slice as s
    cross join lateral unnest(s.ids, s.seqs || s.leased_seqs) with ordinality as i (
      job_id,
      seq,
      nth
    )
    cross join lateral (
      values
        (s.type, s.data, i.nth <= cardinality(s.job_ids)),
        ('job.leased', s.leased_data, i.nth > cardinality(s.job_ids))
    ) as e (type, data, is_of_job)
    where i.seq is not null
      and e.is_of_job
      and s.type <> all (v_hidden)
      and (v_all or s.workspace_id in (select queue.my_workspaces()))
      and (p_workspace_id is null or s.workspace_id = p_workspace_id)
      and not pg_visible_in_snapshot(s.xid, v_cursor.seen)
      and (s.number <= v_base or pg_visible_in_snapshot(s.xid, v_cursor.until))
      and (s.id <> v_cursor.id or i.nth > v_cursor.nth)
    order by n
    limit c_limit + 1
  )
  select
    coalesce(
      jsonb_agg(
        jsonb_build_object(
          'job_id', f.job_id,
          'seq', f.seq,
          'type', f.type,
          'data', f.data,
          'created_at', f.at
        )
        order by f.n
      ) filter (where f.n <= c_limit),
      '[]'
    ) as events,
    coalesce(
      jsonb_agg(f.cursor::text order by f.n) filter (where f.n <= c_limit),
      '[]'
    ) as places,
    case
      when count(*) > c_limit then (array_agg(f.cursor order by f.n))[c_limit]
      when (select count(*) from feed_rows) = 1000
          or (select count(*) from slice) < (select count(*) from feed_rows)
        then (
          select row(
            v_history,
            v_cursor.seen,
            v_cursor.until,
            s.number,
            s.id,
            cardinality(s.ids)
          )::queue.feed_cursor
          from slice as s
          order by s.n desc
          limit 1
        )
    end as cursor
  into v_page
  from found as f;
  return jsonb_build_object(
    'events', v_page.events,
    'places', v_page.places,
    'more', v_page.cursor is not null,
    'cursor', coalesce(
      v_page.cursor,
      row(v_history, v_cursor.until, null, null, null, null)::queue.feed_cursor
    )::text
  );
end;
$$;

-- Return the seconds until a guest session ends, or null if the session is no guest session of the
-- caller.
create or replace function queue.session_seconds(p_session_id text)
returns double precision
language sql stable
set search_path = ''
as $$
select extract(epoch from s.expires_at - queue.clock())
from queue.guest_session(p_session_id) as s
$$;

create or replace function public.next_runs(
  p_workspace_id uuid,
  p_schedule jsonb,
  p_count integer default 5
)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_zone constant text := coalesce(p_schedule ->> 'timezone', 'UTC');
  v_next_at timestamptz := queue.clock();
  v_runs jsonb := '[]';
begin
  perform queue.may_read(p_workspace_id);
  perform queue.take_call_slot(p_workspace_id);
  for v_nth in 1..least(20, greatest(1, coalesce(p_count, 5))) loop
    v_next_at := queue.first_run(p_schedule ->> 'cron', v_zone, v_next_at);
    v_runs := v_runs || to_jsonb(v_next_at);
  end loop;
  return jsonb_build_object(
    'cron', p_schedule ->> 'cron',
    'timezone', v_zone,
    'runs', v_runs
  );
end;
$$;

comment on function public.next_runs is
  'Next runs of a schedule {cron, timezone}, at most 20: {cron, timezone, runs: […]}.';

select queue.allow('authenticated, service_role', 'public.next_runs');

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
-- innocent: The stack trace of the process shows code of another job type, or the host killed the
--   process because it did not stop in time, so this job did not end the process.
--
-- The evidence of how a process ended contains a list of the jobs in the process. A job that is
-- missing from the list may still be guilty, because the job may have begun after the process wrote
-- the list.
--
-- others: Number of other jobs that ran in the job's process.
create or replace function queue.blame(p_ids uuid[], p_now timestamptz)
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
        -- Number of jobs that were stopped, but whose processors ignored the stop and still ran in
        -- the process. Without evidence that the process ended, the number of abandoned jobs is
        -- zero, because the process may still be alive. If abandoned jobs counted without evidence,
        -- a job that always loses its worker would never lose an attempt.
        case
          when w.evidence is null or w.abandoned is null then 0
          else jsonb_array_length(w.abandoned)
        end as abandoned,
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

-- Return the evidence of why a worker process ended, for readers of one workspace. The ids of jobs
-- of other workspaces are removed from the evidence. jobs_in_it is the number of all jobs in the
-- process.
create or replace function queue.evidence_for(p_workspace_id uuid, p_evidence jsonb)
returns jsonb
language sql stable
set search_path = ''
as $$
select p_evidence
  - '{guilty,companies,current_job}'::text[] -- hosts of earlier releases sent a list `guilty`
  || jsonb_build_object(
    'jobs_in_it', jsonb_array_length(p_evidence -> 'jobs'),
    'jobs', (
      select coalesce(jsonb_agg(j.id order by j.id), '[]')
      from public.jobs as j
      where j.workspace_id = p_workspace_id
        and j.id = any (array(
          select e.id::uuid
          from jsonb_array_elements_text(p_evidence -> 'jobs') as e (id)
        ))
    )
  )
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
        'evidence', queue.evidence_for(l.workspace_id, w.evidence),
        'message', format(
          case b.verdict
            when 'innocent'
              then 'attempt %1$s does not count: %4$s ended the process of worker %2$s%3$s'
            when 'suspect' then 'attempt %1$s does not count: '
              || case
                when w.evidence is null then 'worker %2$s stopped reporting'
                else 'the process of worker %2$s ended%3$s'
              end
              || ' while it also ran %5$s; the job runs next alone, or with some of these jobs'
            when 'guilty' then case
              when w.evidence is null
                then 'attempt %1$s was lost: worker %2$s stopped reporting'
              else 'attempt %1$s was lost: the process of worker %2$s ended%3$s while the job ran'
            end
          end,
          l.attempt,
          w.worker_id,
          queue.process_end(w.evidence),
          coalesce('a job of ' || (w.evidence ->> 'guilty_type'), 'the host'),
          queue.other_jobs(b.others)
        )
      ))
    )
  )
  order by l.job_id
), '{}')
from queue.leases as l
join queue.blame(p_ids, p_now) as b on b.job_id = l.job_id
left join queue.workers as w on w.worker = l.worker
$$;

-- Convert a row of public.jobs to the JSON object that clients receive. queue_ms is the time from
-- the job's due time to its first start, and run_ms is the total duration of all attempts.
-- p_is_listed: True if the JSON object is part of a list of jobs. An object in a list contains a
--   shortened error message, and only the first three simple values of the payload.
create or replace function queue.job_json(p_job public.jobs, p_is_listed boolean default false)
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
  v_looked_up jsonb := '{"next_run_at": null, "waiting_for": null}';
begin
  if p_job.status = 'processing' then
    select l.leased_at, w.worker_id into v_since, v_worker
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
    )
  );
  if p_is_listed then
    v_hidden := v_hidden || '{payload,result,error_data}'::text[];
    v_looked_up := v_looked_up || jsonb_build_object(
      'glimpse', (
        select string_agg(
          concat(left(f.key, 80), ': ', left(f.value #>> '{}', 80)),
          ', '
          order by f.is_id, f.n
        )
        from (
          select *
          from jsonb_each(p_job.payload) with ordinality as e (key, value, n)
          cross join lateral (select e.value::text ~ '^"[0-9a-f-]{36}"$') as i (is_id)
          where jsonb_typeof(e.value) not in ('object', 'array', 'null')
          order by i.is_id, e.n -- ids say the least
          limit 3
        ) as f
      )
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
    'error', 'strpos(lower(p.error_message), lower(%L)) > 0',
    'error_fingerprint', 'queue.fingerprint(p.error_message, p.error_data) = %L',
    'internal', '(p.job_type in (select t.job_type from queue.job_types as t where t.in_order))
      = %L::boolean',
    'search', 'strpos(lower(concat_ws('' '', p.job_type, p.error_message, p.idempotency_key,
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

create or replace function public.list_jobs(
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

-- Return the workers that hold unexpired leases of a workspace, with the number of leases, the time
-- of the latest renewal or lease call, and the time at which the next renewal is overdue. A worker
-- renews a lease before a quarter of the lease's duration and 30 seconds have passed. The renewal
-- is also overdue if another lease of the worker has expired since the latest renewal.
-- p_workspace_id: Null to return the workers of all workspaces.
create or replace function queue.lease_holders(p_workspace_id uuid, p_now timestamptz)
returns table (
  worker integer,
  jobs bigint,
  renewed_at timestamptz,
  due_at timestamptz,
  expires_at timestamptz
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
  l.expires_at
from (
  select
    o.worker,
    count(*) filter (where p_workspace_id is null or o.workspace_id = p_workspace_id) as jobs,
    max(o.expires_at - make_interval(secs => o.lease_seconds)) as renewed_at,
    min(o.lease_seconds) as shortest,
    max(o.expires_at) as expires_at
  from queue.leases as o
  where o.expires_at > p_now
  group by 1
) as l
where l.jobs > 0
$$;

-- Return the live workers, with the time of their last call or renewal in the column seen_at. A
-- worker with leases is live if no renewal is overdue, or if it has called since. A worker without
-- leases is live if it called the database in the last three minutes, no lease that expired since
-- has made its job a suspect, and its run has not ended or ended at most 90 seconds ago. If the
-- worker stopped or its process died, the worker is live for ten more seconds, because its host
-- usually starts another process.
create or replace function queue.live_workers(p_now timestamptz)
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
        when w.evidence is null and (w.summary -> 'stopped') is null then interval '90 seconds'
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
    jsonb_build_object('seen_at', greatest(w.seen_at, h.renewed_at))
  )
  from holders as h
  join queue.workers as w on w.worker = h.worker
  where h.due_at > p_now or w.seen_at > h.due_at
)
$$;

-- Return the time of the last call of any worker. A worker's row is updated only once a minute, and
-- the row of its run after each lease.
create or replace function queue.last_call()
returns timestamptz
language sql stable
set search_path = ''
as $$
select greatest(
  (select max(w.seen_at) from queue.workers as w),
  (select max(t.seen_at) from queue.ticks as t),
  to_timestamp(nullif(pg_sequence_last_value('queue.slots_ms'), 0) / 1000.0)
)
$$;

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
  when r.at is null then false -- most systems have no revocation
  when queue.last_call() > r.at + interval '1 second' then (
    select max(w.seen_at)
    from queue.workers as w
    where w.job_types is null or p_job_type = any (w.job_types)
  ) between r.at - interval '2 minutes' and r.at + interval '1 second'
  else true
end
$$;

-- Return the name of p_names that is most similar to p_name. Return null if p_name is one of the
-- names, or if no name has at least half of the letter pairs of p_name.
create or replace function queue.nearest_name(p_name text, p_names text[])
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
create or replace function queue.nearest_type(p_job_type text)
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

-- Return the emitted event of the workspace whose name is most similar to p_event. Only the names
-- before and after p_event in the alphabet are compared, and only names with the same digits,
-- because digits usually identify the subject of an event.
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
  where regexp_replace(e.name, '[^0-9]', '', 'g') = regexp_replace(p_event, '[^0-9]', '', 'g')
))
$$;

-- Each row has a sentence and advice for one reason why a job or the queue makes no progress. A row
-- with the reason failed:<kind> has the advice for failed jobs whose error has this kind. The
-- column `command` omits the command's first word, `minutehand`. If `path` is null, the advice
-- links to the job's page in the console. queue.render_guidance replaces a placeholder such as
-- {job_type} by the value with this name. Square brackets contain alternative texts, separated by
-- |. queue.render_guidance keeps the first alternative text for which no value is missing, or no
-- alternative at all.
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
        'SIGKILL usually means the memory limit, SIGSEGV a library in C, SIGSTOP its own call, and '
          'exit code 1 a blocked event loop. Another exit code comes from a call that ended the '
          'process. Correct that, then retry the job.'
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
        'The other service cannot be used ({code}). Check its address, its certificate and whether '
          'it runs. Then retry the job.'
      )
  ) as f (kind, words)
  union all -- advice for several reasons, before the other advice for one of these reasons
  select r as reason, null as sentence, s.words, s.command, s.path
  from (
    values
      (
        '{no_worker, no_processor, not_leased}'::text[],
        'All worker keys were revoked at {revoked_at}. Give the workers a new key.',
        'token worker',
        '/overview'
      ),
      (
        '{key_limit, workspace_type_limit, workspace_limit, type_limit, no_slot}',
        '[Job {parent} is its parent. If the parent waits for it without `ctx.gather` or '
          '`ctx.map`, neither ends: cancel the parent, and fix its code.|Wait for job {holder}, or '
          'cancel it.]',
        'cancel {holder}',
        '/jobs/{holder}'
      ),
      (
        '{lease_expired, worker_died}',
        'Nothing to do until {patience_until}. Maintenance reclaims the job before then. See what '
          'happened to its worker:',
        'show {job_id}',
        null
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
      'If the worker is older than the payload, deploy the worker. Otherwise retry the job with a '
        'payload that fits the type.',
      'retry {job_id} --payload @payload.json',
      null
    ),
    (
      'failed:rate',
      null,
      'The other service limits its rate. Set `rate_limit` of the type below that rate, then retry '
        'the job.',
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
        'is renewed.][ An earlier process of it was ended by {killer}.][ The role job_worker may '
        'not execute {not_granted}, so its outcome is not stored.| Its worker lacks {a_right}, so '
        'its outcome is not stored.][ It has sent nothing for '
        '{silent}, since {sign}, at {place}.| It was last seen at {place}.][ The same call of its '
        'batch has {batched}.][ Its database session '
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
      'No worker has published the job type {unpublished}.',
      'Fix this in code, and deploy: {refusal}',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'no_processor',
      'Workers run, but none of them serves {types}. Due jobs: {jobs}.',
      'If the name is misspelt, the nearest name that a worker has is {nearest}.',
      'cancel {job_id}',
      null
    ),
    (
      'no_processor',
      'Workers run, but none of them serves the job type {job_type} in the queue {queue}.[ Worker '
        '{last_worker}{process_end} served it, and was last seen at {last_seen}.]',
      '[Workers that have {job_type} serve only other queues. Start one with `minutehand serve '
        '--queue {not_served}`, or for all queues.|If a deploy removed {job_type}, deploy it '
        'again. Otherwise start worker {last_worker} again.|Deploy a worker that has {job_type}. '
        'If one is deployed, check whether its code loads.]',
      '[types {once_served}|doctor --only processors]',
      '/types'
    ),
    (
      'key_limit',
      'The concurrency limit of its key is used up: {running} of {limit}[, held by job {holder} '
        '({holder_state})].',
      'Or raise `key_concurrency` of {own_type} in code, and deploy.',
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
      'ls --type {job_type} --state running',
      '/jobs?job_type={job_type}&state=running'
    ),
    (
      'workspace_type_limit',
      'The concurrency limit of its type in the workspace is used up: {running} of {limit} run[, '
        'the longest is job {holder}, since {held_since}].',
      'Or raise `workspace_concurrency` in code, and deploy.',
      'ls --state running --type {job_type}',
      '/jobs?state=running&job_type={job_type}'
    ),
    (
      'workspace_limit',
      'The concurrency limit of the workspace is used up: {running} of {limit} run[, the longest '
        'is {holder_type} {holder}, since {held_since}].',
      'Or raise the lower of `max_running` (operators) and `own_max_running` (managers).',
      'ls --state running',
      '/jobs?state=running'
    ),
    (
      'type_limit',
      'The concurrency limit of its type is used up[ by {others}]: {running} of {limit} run[, the '
        'longest is job {holder}, since {held_since}].',
      'Or raise `max_concurrency` in code, and deploy.',
      'ls --state running --type {job_type}',
      '/jobs?state=running&job_type={job_type}'
    ),
    (
      'rate_limited',
      'The rate limit of {limit} starts per {per_seconds} s is used up. The next start is possible '
        'at {estimated_start_at}.',
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
        'The last run ended at {ended_at}|a worker that serves it runs. None runs{yet}|one of '
        '{slots} slots is free. All are in use by jobs of {used_by}|a worker with a free slot '
        'leases jobs].[ The last call of such a worker was at {silent_since}.]',
      'Nothing to do until {patience_until}. After that:',
      'doctor',
      '/overview'
    ),
    (
      'no_slot',
      'Jobs of {used_by} use all {slots} slots of the workers that serve it, and none has become '
        'free since {full_since}.[ The longest is {holder_type} {holder}, since {held_since}.]',
      'Or start another worker, or give the workers more slots: `WORKER_THREADS` for functions '
        'without `async`, otherwise `WORKER_CONCURRENCY`.',
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
      '[Notify the operator of the service, because workers lack {a_right}.|Start a worker that '
        'serves it{yet}.|If they have hung since {silent_since}, end their processes. Otherwise '
        'check their rights and logs.|Check their rights and logs.]',
      'doctor',
      '/overview'
    ),
    (
      'behind_others',
      'Jobs of {job_type} in its workspace that are ahead of it: [{at_least} or more|{ahead}][, '
        '{smaller} of them with a smaller priority].[ All {slots} slots are in use by jobs of '
        '{used_by}.]',
      '[If it must start by {must_start_by}, start another worker, or enqueue it with a smaller '
        'priority.|Nothing to do until {patience_until}. It starts after them. A smaller priority '
        'goes first.]',
      'ls --state queued --type {job_type}',
      '/jobs?state=queued&job_type={job_type}'
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
      'Fix it in code, and deploy.',
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
      'recursion',
      'Of its {levels} nearest ancestors, {recursions} are jobs of {job_type} too.',
      'If {recursions} generations are too many, pause the type, cancel its jobs, and correct the '
        'code.',
      'pause --type {job_type}',
      '/types/{job_type}'
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
        'ahead',
        'Jobs of {job_type} in its workspace that are ahead of it: [{at_least} or more|{ahead}].'
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

drop function queue.render_guidance(text,jsonb,text);

-- Return the sentence of queue.guidance for the reason p_reason, and the advice for the reason
-- p_advice. Values of p_with replace the placeholders. A sentence or an advice is omitted if p_with
-- lacks one of its values. The kind of an advice is none if there is nothing to do, wait if there
-- is nothing to do for some time, and otherwise act.
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
          ''
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
    ) filter (where l.line ? 'words'),
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
        then 'Its process died' || queue.process_end(p_job.error_data -> 'evidence')
      else 'Its worker was lost' -- the process may still be alive
    end || ' with ' || queue.other_jobs((p_job.error_data ->> 'company')::integer)
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
        'nearest', queue.nearest_type(p_job.job_type),
        'revoked_at', queue.revoked_for(p_job.job_type)
      )
    )
    when found then jsonb_build_object(
      'reason', v_found.kind || '_paused',
      'data', to_jsonb(v_found),
      'since', v_found.paused_at,
      'cause', v_found.reason
    )
    when p_alive = '{}' then jsonb_build_object('reason', 'no_worker')
    when (
      select s.unserved
      from queue.is_unserved(array[p_job.job_type], array[p_job.queue], p_alive, p_now) as s
    )
      then jsonb_build_object(
        'reason', 'no_processor',
        'cause', v_refusal,
        'data', jsonb_build_object('refusal', v_refusal) || coalesce(
          (
            select case
              when w = any (p_alive) then jsonb_build_object('not_served', p_job.queue)
              else jsonb_build_object(
                'once_served', p_job.job_type,
                'last_worker', w.worker_id,
                'last_seen', w.seen_at,
                'process_end', queue.process_end(w.evidence),
                'revoked_at', queue.revoked_for(p_job.job_type)
              )
            end
            from queue.workers as w
            where p_job.job_type = any (w.job_types)
            order by w.seen_at desc
            limit 1
          ),
          '{}'
        )
      )
    else queue.explain_ready(p_job, p_alive, p_now)
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
    'at_least', case v_ahead when 1000 then v_ahead end
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
      'estimated_start_at', v_free_at,
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
  v_ready_at := (
    select r.ready_at
    from queue.ready as r
    where r.lane = p_job.lane
      and r.workspace_id = p_job.workspace_id
      and r.ord = p_job.ord
      and r.job_id = p_job.id
  );
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
          and coalesce(v_workers.yet, v_workers.ended_at::text, v_silent_since::text) is null
        then p_now
    end,
    'reason', v_reason,
    'data', to_jsonb(v_workers) - '{is_full,is_idle}'::text[] || v_rank || jsonb_build_object(
      'smaller', nullif(v_smaller, 0),
      'must_start_by', (select p_job.start_by_at where p_job.started_at is null),
      'without_right', v_without_right,
      'silent_since', v_silent_since,
      'ready_at', v_ready_at,
      'revoked_at', queue.revoked_for(p_job.job_type),
      'patience_until', v_ready_at + case v_reason
        when 'next_in_line' then interval '1 minute'
        when 'behind_others' then interval '15 minutes'
      end
    )
  );
end;
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
having count(*) filter (where a.job_type = p_job.job_type) >= 10
$$;

drop function queue.error_of(public.jobs);

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
    "DeadlinePassed": "deadline", "WorkerLost": "lost", "PayloadRejected": "payload",
    "ResultRejected": "result", "ResultTooLarge": "result", "SettleRejected": "rejected",
    "minutehand.worker.context.ChildrenFailed": "child"}'::jsonb ->> e.type,
      case
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
        when e.status ^@ '5'
            or e.sqlstate ~ '^(08|57P)'
            or e.errno in (
              'ECONNREFUSED', 'ECONNRESET', 'EHOSTUNREACH', 'ENETUNREACH',
              'EAI_AGAIN', 'EAI_NONAME', 'CERTIFICATE_VERIFY_FAILED'
            )
          then 'unavailable'
      end
    )
    when p_job.status = 'cancelled' and e.type = 'StartByPassed' then 'start_by'
  end as kind,
  coalesce(
    replace('SQLSTATE ' || e.sqlstate, 'SQLSTATE PGRST', 'PGRST'), -- a code of the Data API
    'HTTP ' || e.status,
    e.errno
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
  v_found jsonb;
  v_held jsonb;
  v_error record;
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
      'data', jsonb_build_object('revoked_at', queue.revoked_for())
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
    'next', (v_left -> 'next') || (v_recursion -> 'next') || (v_found -> 'next'),
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
  'path}], data, estimated_start_at, abandoned_at}. The kind of a step is act, wait or none. '
  'abandoned_at is the code location of a processor that ignored its stop and still runs.';

select queue.allow('authenticated, service_role', 'public.explain_job');

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
        jsonb_build_array(e.said -> 'reason', j.job_type, j.queue, j.concurrency_key)
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
    array_to_string((array_agg(distinct d.job_type))[:3], ', ') as types
  from (
    values
      (1, 'unserved', 'waiting: no worker serves'),
      (2, 'paused', 'paused:'),
      (3, 'suspect', 'to run alone, because the worker was lost:'),
      (4, 'at_limit', 'waiting for a limit:'),
      (5, 'blocked', 'waiting for a job of the same key:'),
      (6, 'ready', 'waiting for a free slot:')
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
      case
        when p_now - p_seen_at > interval '200 seconds' then 'fail'
        else 'warn'
      end,
      'no_worker',
      p_seen_at,
      null,
      jsonb_build_object(
        'jobs', p_backlog -> 'jobs',
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
        'job_type', split_part(u.types, ', ', 1),
        'revoked_at', queue.revoked_for(split_part(u.types, ', ', 1))
      )
    from jsonb_to_record(p_backlog -> 'unserved') as u (jobs integer, types text)
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

-- Return findings about job types, versions of the code, pauses, schedules, unanswered questions
-- and silent jobs. A running job is silent if the time since its last update exceeds both two
-- minutes and the duration of 99 % of the jobs of its type. If too few jobs of the type have ended,
-- a job is silent after ten minutes. If an operator pauses a queue or a job type for all
-- workspaces, the pause is a finding in each workspace that has due jobs there.
create or replace function queue.findings_of_workspace(p_workspace_id uuid, p_now timestamptz)
returns table (verdict text, reason text, since timestamptz, cause text, data jsonb)
language sql stable
set search_path = ''
as $$
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
    'job_type', min(c.job_type)
  )
from ( -- code versions of each type that live workers run
  select j.job_type, j.registered_at, array_agg(distinct w.version) as codes
  from unnest(queue.live_workers(p_now)) as w
  join queue.job_types as j on j.job_type = any (w.job_types)
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
  'silent_jobs',
  s.since,
  null,
  jsonb_build_object(
    'job_type', s.job_type,
    'jobs', (
      select count(*)
      from unnest(s.times) as t (since)
      where t.since < p_now - u.ms * interval '1 ms'
    ),
    'job_id', s.job_id,
    'place', s.place,
    'limit', queue.length_in_words(u.ms)
  )
from (
  select
    l.job_type,
    (array_agg(l.job_id order by l.since))[1] as job_id,
    (array_agg(l.place order by l.since))[1] as place,
    min(l.since) as since,
    array_agg(l.since) as times
  from (
    select n.job_type, o.*
    from (
      select
        r.lane,
        r.job_id,
        r.pulse ->> 'place' as place,
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
where s.since < p_now - u.ms * interval '1 ms'
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
-- people. Return another if p_workspace_id can have no more schedules. The number of rejected calls
-- is unknown, because a rejected call stores nothing. Counting takes time, so the live jobs of a
-- workspace are counted only if its limit is at most 2,000, or if the last count was at least 90 %
-- of the limit.
create or replace function queue.findings_of_limits(p_workspace_id uuid, p_now timestamptz)
returns table (verdict text, reason text, since timestamptz, cause text, data jsonb)
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
where (l.jobs <= 2000 or l.last_jobs >= 0.9 * l.jobs) and c.jobs >= l.jobs
union all
select
  'warn',
  'full_of_bytes',
  null,
  null,
  jsonb_build_object(
    'live', pg_size_pretty(c.bytes),
    'limit', pg_size_pretty(l.bytes),
    'more', 2 * l.bytes,
    'workspace_id', l.id
  )
from limits as l
cross join lateral (
  select sum(pg_column_size(j.payload)) as bytes
  from queue.places(l.id, '{pending,processing,waiting}', 1000000) as p
  join public.jobs as j on j.id = p.job_id
) as c
where l.last_bytes >= 0.9 * l.bytes and c.bytes >= l.bytes
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
begin
  perform queue.refuse_revoked();
  perform queue.may_read(p_workspace_id, p_reads_much => true);
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
      'jobs', f.data -> 'jobs'
    ) || coalesce(
      f.data -> 'said',
      queue.render_guidance(
        f.reason,
        f.data || jsonb_build_object(
          'since', f.since,
          -- the sentences about one of all workspaces name the workspace
          'which', case when p_workspace_id is null then f.data -> 'workspace_id' end
        )
      )
    )
    order by f.verdict <> 'fail', (f.data ->> 'jobs')::integer desc nulls last, f.reason
  )
  into v_findings
  from (
    select *
    from queue.findings_of_queue(p_workspace_id, v_now, v_backlog, v_seen_at)
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
    )
  ) as k (key);
  return jsonb_build_object(
    'now', v_now,
    'verdict', coalesce(v_findings #>> '{0,verdict}', 'pass'),
    'findings', coalesce(v_findings, '[]'),
    'holders', queue.holders(p_workspace_id, null, v_now),
    'backlog', v_backlog,
    'last_tick_seconds', extract(epoch from v_now - v_seen_at)
  );
end;
$$;

comment on function public.explain_queue is
  'Findings, worst first, and holders for which jobs wait, most jobs first: {now, verdict, '
  'findings: [{verdict, reason, key, sentence, since, cause, jobs, next: [{kind, words, '
  'command, path}]}], holders: [{jobs, more, since, kind, reason, sentence, cause, next, holder, '
  'job_id, job_types, keys}], backlog, last_tick_seconds}. Only operators may omit p_workspace_id.';

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
    'backlog', queue.backlog(p_workspace_id, v_now),
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

create or replace function public.queue_series(
  p_workspace_id uuid default null,
  p_minutes integer default 60
)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_minutes constant integer := least(11520, greatest(15, coalesce(p_minutes, 60)));
  v_step constant interval := make_interval(
    mins => case
      when v_minutes <= 360 then 5
      when v_minutes <= 1440 then 15
      else 120
    end
  );
  v_since constant timestamptz := date_bin(
    v_step,
    v_now - make_interval(mins => v_minutes),
    '2000-01-01 00:00:00+00'
  );
begin
  perform queue.may_read(p_workspace_id, p_reads_much => true);
  return jsonb_build_object(
    'now', v_now,
    'since', v_since,
    'step_seconds', extract(epoch from v_step),
    'points', (
      select coalesce(
        jsonb_agg(
          n.line || jsonb_build_object('at', n.at, 'job_type', n.job_type)
          order by n.at, n.job_type
        ),
        '[]'
      )
      from queue.type_numbers(p_workspace_id, v_since, v_step) as n
      where not queue.is_internal(n.job_type)
    )
  );
end;
$$;

comment on function public.queue_series is
  'Counts and times per type over p_minutes, 15 to '
  '11,520, in about a hundred points: {now, since, step_seconds, points}. Jobs that the engine '
  'itself enqueues are not included.';

select queue.allow('authenticated, service_role', 'public.queue_series');

create or replace function public.list_job_types(
  p_workspace_id uuid default null,
  p_internal boolean default false,
  p_job_type text default null
)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_alive constant queue.workers[] := queue.live_workers(v_now);
  v_types jsonb;
begin
  perform queue.may_read(p_workspace_id, p_reads_much => true);
  with types as materialized (
    select *
    from queue.job_types
    union all -- unpublished types of waiting jobs
    select u.*
    from (
      select distinct o.job_type
      from queue.unpublished as o
      where p_workspace_id is null or o.workspace_id = p_workspace_id
    ) as w
    cross join lateral queue.require_type(w.job_type) as u
    where not exists (
      select from queue.job_types as k
      where k.job_type = w.job_type
    )
  ),
  asked as materialized (
    select *
    from types as t
    where case
      when p_job_type is null then not t.internal or coalesce(p_internal, false)
      else t.job_type = p_job_type
    end
  ),
  seen as ( -- a worker is alive, stale (last call less than ten minutes ago) or gone
    select
      o.job_type,
      l.worker_id,
      l.version,
      l.started_at,
      coalesce(a.seen_at, l.seen_at) as seen_at,
      l.ended_at,
      queue.process_end(l.evidence) as process_end,
      l.queues,
      case
        when a.worker is not null then 'alive'
        when l.evidence is null and l.seen_at > v_now - interval '10 minutes' then 'stale'
        else 'gone'
      end as state,
      row_number() over (partition by o.job_type order by l.seen_at desc) as nth
    from (
      select *
      from queue.workers
      order by seen_at desc
      limit 200
    ) as l
    left join unnest(v_alive) as a on a.worker = l.worker
    join asked as o on l.job_types is null or o.job_type = any (l.job_types)
  )
  select jsonb_agg(
    to_jsonb(t) - case when p_job_type is null then 'payload_schema' else '' end
    || queue.live_of_type(p_workspace_id, t.job_type)
    || jsonb_build_object(
      'published', t.schema_version > 0,
      'nearest', case t.schema_version
        when 0 then queue.nearest_type(t.job_type)
      end,
      'paused_at', p.paused_at,
      'pause_reason', p.reason,
      'day', coalesce(n.line, '{}'),
      'served', t.schema_version > 0 and not s.unserved,
      'serving', (
        select coalesce(
          jsonb_agg(to_jsonb(w) - '{job_type,nth}'::text[] order by w.nth),
          '[]'
        )
        from seen as w
        where w.job_type = t.job_type and w.nth <= 20
      ),
      'schedules', (
        select coalesce(
          jsonb_agg(
            to_jsonb(c) - '{payload,options,created_by}'::text[]
            order by c.name
          ),
          '[]'
        )
        from queue.schedules as c
        where c.job_type = t.job_type
          and p_job_type is not null
          and (
            p_workspace_id is null
            or c.workspace_id in (p_workspace_id, queue.system_workspace())
          )
      )
    )
    order by t.job_type
  )
  into v_types
  from asked as t
  left join queue.type_numbers(
    p_workspace_id,
    v_now - interval '1 day',
    '9 days'
  ) as n on n.job_type = t.job_type
  left join lateral (
    select *
    from queue.pauses as o
    where (o.kind, o.name) in (
      ('job_type', t.job_type),
      ('workspace_type', p_workspace_id || '/' || t.job_type)
    )
    order by o.kind
    limit 1
  ) as p on true
  left join queue.is_unserved(
    array(select o.job_type from asked as o),
    null,
    v_alive,
    v_now
  ) as s on s.job_type = t.job_type;
  if p_job_type is not null then
    if v_types is null then
      perform queue.refuse(
        404,
        'unknown_job_type',
        format('no worker has registered the job type %s', left(p_job_type, 100))
      );
    end if;
    v_types := jsonb_set(
      v_types,
      '{0,holders}',
      queue.holders(p_workspace_id, p_job_type, v_now)
    );
  end if;
  return jsonb_build_object(
    'now', v_now,
    'late_since', queue.statistics_stale_since(v_now),
    'types', coalesce(v_types, '[]')
  );
end;
$$;

comment on function public.list_job_types is
  'Job types, sorted by name: {now, types}. Each type has its options, the 20 workers seen last, '
  'statistics of the last day, and a pause or a refusal if there is one. An unpublished type has '
  'the most similar published name. With p_job_type, the type also has its payload schema, its '
  'schedules and the holders of its jobs.';

select queue.allow('authenticated, service_role', 'public.list_job_types');

-- Delete rows of the engine's tables that are no longer needed, for example old statistics and rows
-- of deleted jobs. Each statement of the sweep deletes at most 20,000 rows.
create or replace function queue.do_sweep(p_now timestamptz, p_until timestamptz)
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

-- Estimate how many bytes of a job's output a client reads if it continues at its positions. A
-- client reads one page of each stream, which has at most 30,000 characters or 1,000 items. Each
-- piece of text counts as 50 more bytes, because a row takes longer to read than its text.
-- p_after: The client's positions, in the form that queue.streams_json returns.
create or replace function queue.unread_bytes(p_job_id uuid, p_after jsonb, p_stream text default null)
returns bigint
language plpgsql stable
set search_path = ''
as $$
begin
  return (
    select coalesce(sum(u.bytes), 0)
    from queue.stream_ends(p_job_id) as e
    cross join lateral (
      select case
        when p_after #>> array[e.stream, 'attempt'] <> e.attempt::text then 0
        else coalesce((p_after #>> array[e.stream, 'next'])::integer, 0)
      end as next
    ) as k
    cross join lateral (
      select least(65536, coalesce(sum(50 + octet_length(o.text)), 0)) + coalesce(
        sum(octet_length(o.items::text)) filter (
          where o.end_offset - jsonb_array_length(o.items) - k.next < 1000
        ),
        0
      ) as bytes
      from queue.output as o
      where o.job_id = p_job_id
        and o.stream = e.stream
        and o.attempt = e.attempt
        and o.end_offset > k.next
    ) as u
    where e.stream = coalesce(p_stream, e.stream)
  );
end;
$$;

create or replace function queue.job_output(
  p_job_id uuid,
  p_stream text,
  p_from integer,
  p_after jsonb,
  p_session_id text
)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_job public.jobs;
begin
  select j.* into v_job
  from public.jobs as j
  where j.id = p_job_id
    and (
      auth.jwt() ->> 'role' = 'service_role'
      -- a direct database connection
      or auth.jwt() is null and current_setting('role') <> 'anon'
      or queue.may_follow('job:' || p_job_id)
      or exists (
        select from queue.guest_session(p_session_id) as s
        where s.session_id = j.session_id and s.workspace_id = j.workspace_id
      )
    );
  if not found then
    perform queue.refuse(404, 'job_not_found', 'job not found', p_job_id::text);
  end if;
  perform queue.admit_read(
    v_job.workspace_id,
    p_job_id::text,
    queue.unread_bytes(
      p_job_id,
      case
        when p_stream is null then p_after
        else jsonb_build_object(p_stream, jsonb_build_object('next', p_from))
      end,
      p_stream
    )
  );
  if p_stream is not null then
    return queue.output_page(p_job_id, p_stream, greatest(0, p_from))
      || jsonb_build_object('status', v_job.status);
  end if;
  return jsonb_build_object(
    'status', v_job.status,
    'last_seq', v_job.last_seq,
    'streams', queue.output_pages(p_job_id, p_after),
    'session_seconds', queue.session_seconds(p_session_id)
  );
end;
$$;

select queue.allow('anon, authenticated, service_role', 'queue.job_output');

create or replace function public.job_output(
  p_job_id uuid,
  p_stream text default null,
  p_from integer default 0,
  p_after jsonb default null,
  p_session_id text default null
)
returns jsonb
language sql -- volatile, because a long read takes tokens of the rate limit
set search_path = '' -- the body is parsed at creation, so guests need no usage of schema queue
begin atomic select queue.job_output(
  p_job_id,
  p_stream,
  p_from,
  p_after,
  p_session_id
);
end;

comment on function public.job_output is
  E'Output of a job in a stream from an offset: {stream, attempt, from, next, more, text or items, '
  'status}.\n\nA new attempt restarts the stream: drop the output of the previous attempt and read '
  'from 0. Without a stream: {status, last_seq, streams, session_seconds}, the streams that have '
  'output after p_after {stream: {attempt, next}}. The default of attempt is the current attempt. '
  'A guest passes the session, which ends in session_seconds.';

select queue.allow('anon, authenticated, service_role', 'public.job_output');

-- Return new output of those jobs of a session that run now or have a position in p_after. For each
-- returned job, return a page of each stream that has output after the client's position. A
-- response contains up to 20 jobs, or about 1 MB of output. For the rate limit, the call counts 50
-- bytes for each job of the session, and 500 bytes for each job whose output is read.
create or replace function queue.session_output(p_session_id text, p_after jsonb)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_workspace constant uuid := queue.shown_workspace(p_session_id);
  v_unpaid bigint;
  v_id uuid;
  v_pages jsonb;
  v_jobs jsonb := '[]';
  v_is_full boolean := false;
begin
  v_unpaid := queue.admit_read(v_workspace, p_session_id, 50 * count(*))
  from (
    select from public.jobs as j -- the index alone is read
    where j.session_id = p_session_id
    limit 20000
  ) as f;
  foreach v_id in array array(
    select j.id
    from public.jobs as j
    where j.session_id = p_session_id
      and case
        when v_workspace is null
          then j.workspace_id in (select queue.my_workspaces())
            or auth.jwt() ->> 'role' = 'service_role'
        else j.workspace_id = v_workspace
      end
      and (
        p_after ? j.id::text
        or exists (select from queue.leases as l where l.job_id = j.id)
      )
    order by j.id
  )
  loop
    v_unpaid := queue.admit_read(
      v_workspace,
      p_session_id,
      v_unpaid + 500 + queue.unread_bytes(v_id, p_after -> v_id::text)
    );
    v_pages := queue.output_pages(v_id, p_after -> v_id::text);
    continue when v_pages = '[]';
    v_jobs := v_jobs || jsonb_build_object('job_id', v_id, 'streams', v_pages);
    v_is_full := jsonb_array_length(v_jobs) = 20 or pg_column_size(v_jobs) > 1000000;
    exit when v_is_full;
  end loop;
  return jsonb_build_object(
    'jobs', v_jobs,
    'more', v_is_full or v_jobs @? '$[*].streams[*] ? (@.more == true)',
    'session_seconds', queue.session_seconds(p_session_id)
  );
end;
$$;

select queue.allow('anon, authenticated, service_role', 'queue.session_output');

create or replace function public.session_output(p_session_id text, p_after jsonb default null)
returns jsonb
language sql -- volatile, because a long read takes tokens of the rate limit
set search_path = '' begin atomic select queue.session_output(p_session_id, p_after);
end;

comment on function public.session_output is
  E'Output of a session''s jobs: {jobs: [{job_id, streams}], more, session_seconds}, as in '
  'job_output.'
  '\n\nReturns output of running jobs, and of jobs in p_after {job_id: {stream: {attempt, next}}}, '
  'after these positions.';

select queue.allow('anon, authenticated, service_role', 'public.session_output');

select queue.close_tables();

-- Revoke the right of all roles to execute private functions. Rights of single roles remain,
-- because policies, column defaults and guests need them.
revoke execute on all functions in schema queue from public;

comment on column queue.feed.leased_ids is 'Person: jobs';

drop function queue.clear_suspects(queue.worker_item[]);

drop function queue.count_companies(text[],text[]);

drop function queue.count_due(integer[]);

drop function queue.revoked_after(timestamp with time zone);

alter table queue.feed
  alter leased_ids set storage external,
  alter leased_seqs set storage external;
