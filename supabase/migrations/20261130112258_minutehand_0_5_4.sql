-- 0.5.4 after the release before it; written by `python -m infra.release` from schemas.
-- Do not edit it, and do not read it: read the schemas.

-- Return the release of the engine's schema, which is the value of minutehand.version. `minutehand
-- doctor` compares this release with the release that the project recorded.
create or replace function queue.version()
returns text
language sql immutable
set search_path = ''
as $$
select '0.5.4'
$$;

-- Return a job. Reject the call with status 404 unless the caller may read the job.
create or replace function queue.visible_job(p_job_id uuid)
returns public.jobs
language plpgsql stable
set search_path = ''
as $$
declare
  v_job public.jobs;
begin
  select * into v_job
  from public.jobs
  where id = p_job_id;
  if not found
    or not (queue.is_member(v_job.workspace_id) or queue.is_service())
  then
    perform queue.refuse(
      404,
      'job_not_found',
      'job not found, or deleted after its retention',
      p_job_id::text
    );
  end if;
  return v_job;
end;
$$;

-- Reject a payload that violates the latest schema of its job type. queue.check_payload does not
-- compare a payload of an older version with the schema, because the worker first converts the
-- payload to the latest version (with upcasters).
create or replace function queue.check_payload(
  p_type queue.job_types,
  p_payload jsonb,
  p_version integer,
  p_within text
)
returns void
language plpgsql stable
set search_path = ''
as $$
declare
  v_field constant text := p_within || 'payload';
  v_error text;
begin
  if jsonb_typeof(p_payload) is distinct from 'object' then
    perform queue.refuse(
      422,
      'payload_invalid',
      v_field || ' must be an object',
      v_field
    );
  elsif p_version > p_type.schema_version and p_type.schema_version > 0 then
    perform queue.refuse(
      422,
      'payload_invalid',
      format('schema_version %s is newer than the version that workers serve', p_version),
      p_within || 'schema_version'
    );
  end if;
  perform queue.check_json(p_payload, v_field);
  if p_type.payload_schema is not null
    and coalesce(p_version, p_type.schema_version) = p_type.schema_version
  then
    v_error := queue.schema_error(p_type.payload_schema, p_payload, v_field);
    if v_error is not null then
      perform queue.refuse(
        422,
        'payload_invalid',
        v_error,
        split_part(v_error, ' ', 1)
      );
    end if;
  end if;
end;
$$;

-- Store a job type and its schedules. If the stored job type is from a newer deployment, change
-- nothing and return false.
create or replace function queue.publish_type(p_type jsonb)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_name constant text := p_type ->> 'job_type';
  v_old queue.job_types;
  v_new queue.job_types;
begin
  perform queue.check_names(
    p_type,
    '{job_type, queue, max_concurrency, workspace_concurrency,
    key_concurrency, rate_limit, lease_seconds, timeout_seconds, max_attempts, backoff,
    payload_schema, schema_version, events, internal, source, description, schedules, commit,
    deployed_at}',
    'the job type'
  );
  select * into v_old
  from queue.job_types as t
  where t.job_type = v_name
  for update;
  -- Keep the stored job type if it is from a newer deployment. The type with the later deployment
  -- time is newer. If only the stored type has a deployment time, it counts as newer. If it has no
  -- deployment time, or if the two times are equal, the type with the higher schema_version is
  -- newer.
  if (
    select case
      when v_old.deployed_at is null then v.is_older
      else v_old.deployed_at > d.at or v_old.deployed_at = d.at and v.is_older
    end
    from coalesce((p_type ->> 'deployed_at')::timestamptz, '-infinity') as d (at)
    cross join lateral (
      select v_old.schema_version > coalesce((p_type ->> 'schema_version')::integer, 1)
    ) as v (is_older)
  ) then
    return false;
  end if;
  v_new := jsonb_populate_record(
    null::queue.job_types,
    '{"queue": "default", "lease_seconds": 60,
    "timeout_seconds": 300, "max_attempts": 5, "schema_version": 1}'
      || p_type
      || jsonb_build_object(
        'backoff_first_seconds', coalesce(
          p_type #>> '{backoff,first_seconds}',
          '60'
        ),
        'backoff_cap_seconds', coalesce(p_type #>> '{backoff,cap_seconds}', '3600'),
        'backoff_factor', coalesce(p_type #>> '{backoff,factor}', '2'),
        'rate_limit', p_type #> '{rate_limit,limit}',
        'rate_per_seconds', p_type #> '{rate_limit,per_seconds}',
        'rate_per_key', coalesce(p_type #>> '{rate_limit,per_key}', 'false'),
        -- any value of events except full and minimal becomes null, and the column is_minimal
        -- rejects null
        'is_minimal', case coalesce(p_type ->> 'events', 'full')
          when 'full' then false
          when 'minimal' then true
        end,
        'in_order', coalesce(v_old.in_order, false),
        'registered_at', queue.clock(),
        -- replace a deployment time in the future by the present time, because a worker whose clock
        -- is ahead must not block later deploys
        'deployed_at', case
          when p_type ? 'deployed_at'
            then least((p_type ->> 'deployed_at')::timestamptz, queue.clock())
        end,
        -- A worker may make a type internal. A worker may not make an internal type public again,
        -- because otherwise someone with a stolen worker key could make the type public. Only the
        -- first registration after public.revoke_worker_keys may make an internal type public.
        'internal', p_type -> 'internal' = 'true' is true
          or v_old.internal is true
            and v_old.registered_at > '-infinity'
            and auth.jwt() ->> 'role' = 'job_worker' is true
      )
  );
  v_new.lane := queue.lane_of(v_name, v_new.queue, p_declares => true);
  if v_old.registered_at = '-infinity'
    or to_jsonb(v_old) - 'registered_at'
      is distinct from to_jsonb(v_new) - 'registered_at'
  then
    delete from queue.job_types where job_type = v_name;
    -- ignore a conflict, because a migration of the project may insert the same job type at this
    -- moment
    insert into queue.job_types
    select v_new.*
    on conflict (job_type) do nothing;
  end if;
  if p_type ? 'schedules' then
    perform queue.publish_schedules(p_type, coalesce(v_new.source, v_name));
  end if;
  -- apply the changed limits to the jobs of the type that already exist
  if (
    v_old.key_concurrency,
    v_old.rate_limit,
    v_old.rate_per_seconds,
    v_old.rate_per_key
  ) is distinct from (
    v_new.key_concurrency,
    v_new.rate_limit,
    v_new.rate_per_seconds,
    v_new.rate_per_key
  ) then
    perform queue.regate(v_name);
  end if;
  return true;
end;
$$;

-- This file enqueues one job. 05_enqueue_many.sql enqueues many jobs. These are the steps of an
-- enqueue, by function.
--
--   public.enqueue_job
--     queue.enqueue_simple     enqueues a simple job in one statement. For all other jobs,
--                              enqueue_job calls the following functions.
--     queue.may_read           rejects a caller without access to the workspace.
--     queue.admit              takes tokens of the caller's rate limit (06_limits.sql).
--     queue.require_type       returns the job type, even if no worker has published it.
--     queue.add                adds the job with the next three functions.
--       queue.new_job          checks payload and options (queue.read_options) and builds the row.
--       queue.claim            stores the idempotency key and the unique key of the job.
--       queue.place            inserts the job into queue.unpublished, deferred, gated or ready.
--         queue.note_turn      adds a note if leases would not find the job.
--     queue.publish            adds a row to queue.feed and notifies browsers (12_feed.sql).
--     queue.wake_worker        decides whether the caller should start a worker.
--
-- The commit of the new row of queue.feed notifies workers.
--
-- The functions at the end of this file start workers, and lock live jobs that a call is about to
-- change.

-- Return the job type of a new job. If no worker has published the job type, the result has lane 0
-- and schema version 0. queue.require_type rejects the new job if jobs of 20 other unpublished
-- types already wait in the workspace, or jobs of 1,000 unpublished types in all workspaces.
-- p_within: Prefix of field names in error messages.
create or replace function queue.require_type(
  p_job_type text,
  p_within text default '',
  p_workspace_id uuid default null
)
returns queue.job_types
language plpgsql stable
set search_path = ''
as $$
declare
  v_type queue.job_types;
  v_own integer;
  v_all integer;
begin
  select * into v_type
  from queue.job_types as t
  where t.job_type = p_job_type and t.schema_version > 0;
  if found then
    return v_type;
  end if;
  if p_job_type is null then
    perform queue.refuse(
      400,
      'invalid_argument',
      'job_type is required',
      p_within || 'job_type'
    );
  elsif char_length(p_job_type) not between 1 and 100
    or p_job_type ~ '[[:cntrl:]]'
  then
    perform queue.refuse(
      422,
      'unknown_job_type',
      'job_type must have 1 to 100 characters and no control characters',
      p_within || 'job_type'
    );
  elsif not exists (
    select from queue.unpublished as u
    where u.job_type = p_job_type and u.workspace_id = p_workspace_id
  ) then
    with recursive waiting as ( -- one index lookup per type
      select min(u.job_type) as job_type
      from queue.unpublished as u
      union all
      select (
        select min(u.job_type)
        from queue.unpublished as u
        where u.job_type > w.job_type
      )
      from waiting as w
      where w.job_type is not null
    )
    select
      count(*) filter (where w.job_type <> p_job_type),
      count(*) filter (
        where exists (
          select from queue.unpublished as u
          where u.job_type = w.job_type and u.workspace_id = p_workspace_id
        )
      )
    into v_all, v_own
    from waiting as w
    where w.job_type is not null;
    if p_workspace_id is not null and (v_own >= 20 or v_all >= 1000) then
      perform queue.refuse(
        422,
        'unknown_job_type',
        format(
          'no worker serves the job type %s, and jobs of %s other unserved types already wait',
          p_job_type,
          greatest(v_own, v_all)
        ),
        p_within || 'job_type'
      );
    end if;
  end if;
  return jsonb_populate_record(
    null::queue.job_types,
    jsonb_build_object(
      'job_type', p_job_type,
      'queue', 'default',
      'lane', 0,
      'max_attempts', 5,
      'schema_version', 0,
      'is_minimal', false,
      'internal', false,
      'rate_per_key', false,
      'in_order', false
    )
  );
end;
$$;

-- Insert a row for a pending job, which the caller has locked, into queue.unpublished,
-- queue.deferred, queue.gated or queue.ready. If the job has a deadline or a latest time for its
-- start, also insert these times into queue.deferred. Return true if a lease can get the job now.
create or replace function queue.place(
  p_job public.jobs,
  p_now timestamptz,
  p_type queue.job_types default null
)
returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_run_at constant timestamptz := coalesce(
    p_job.next_retry_at,
    p_job.scheduled_for
  );
  v_key text;
begin
  -- insert the deadline and the latest start time even if the job was placed before, because
  -- maintenance may have deleted the job's rows of queue.deferred in the meantime
  if num_nonnulls(p_job.deadline_at, p_job.start_by_at) > 0 then
    insert into queue.deferred (run_at, job_id, workspace_id, is_place)
    select t, p_job.id, p_job.workspace_id, false
    from unnest(array[
      p_job.deadline_at,
      case when p_job.started_at is null then p_job.start_by_at end
    ]) as t
    where t is not null
    on conflict do nothing;
  end if;
  if p_job.lane is distinct from p_type.lane then
    perform from queue.lanes as l
    where l.lane = p_job.lane
      and (
        l.unused_since is null
        or l.unused_since > queue.clock() - interval '23 hours'
      );
    -- the job's row of queue.lanes is missing or will soon be deleted, so assign another lane
    if not found then
      p_job.lane := 0;
    end if;
  end if;
  if p_job.lane = 0 then
    select * into p_type
    from queue.job_types as t
    where t.job_type = p_job.job_type
      and t.schema_version > 0
      -- if a person enqueued a job of an internal type, leave the job in queue.unpublished until
      -- queue.promote ends the job as failed
      and not (t.internal and p_job.user_id is not null);
    if found then
      p_job := queue.assign_lane(p_job, p_type);
    end if;
  end if;
  if p_job.lane = 0 then
    insert into queue.unpublished (job_type, workspace_id, job_id)
    values (p_job.job_type, p_job.workspace_id, p_job.id);
    update public.jobs
    -- queue.leave_places finds the job in queue.unpublished only if its lane is 0
    set lane = 0
    where id = p_job.id and lane <> 0;
    return false;
  elsif p_job.deadline_at <= p_now then
    return false; -- maintenance ends the job, whose deadline has passed
  elsif v_run_at > p_now then
    insert into queue.deferred (run_at, job_id, workspace_id, is_place)
    values (v_run_at, p_job.id, p_job.workspace_id, true)
    on conflict do nothing;
    return false;
  end if;
  if p_type.job_type is null then
    select * into p_type
    from queue.job_types as t
    where t.job_type = p_job.job_type;
  end if;
  if p_type.rate_per_key or p_type.key_concurrency is not null then
    v_key := case
      when p_type.rate_per_key then coalesce(p_job.concurrency_key, '')
      else p_job.concurrency_key
    end;
    if p_type.in_order
      and exists (
        select from queue.gated as g
        where g.workspace_id = p_job.workspace_id
          and g.job_type = p_job.job_type
          and g.key = v_key
          and g.admitted
          and not g.ended
          and g.job_id = p_job.id
      )
    then
      -- the delayed job still counts against the limit of its concurrency key, so the job need not
      -- wait for this limit again
      v_key := null;
    end if;
  end if;
  if v_key is null then
    insert into queue.ready (lane, workspace_id, ord, ready_at, job_id)
    values (
      p_job.lane,
      p_job.workspace_id,
      p_job.ord,
      -- earliest start of the job, which is never before the time at which the job was released or
      -- at which its wait ended
      coalesce(greatest(v_run_at, p_job.updated_at), p_now),
      p_job.id
    );
    return queue.note_turn(p_job.lane, p_job.workspace_id, p_job.ord);
  end if;
  insert into queue.gated (lane, workspace_id, job_type, key, ord, job_id)
  values (
    p_job.lane, p_job.workspace_id, p_job.job_type, v_key, p_job.ord, p_job.id
  );
  insert into queue.notes (lane, workspace_id, key)
  values (p_job.lane, p_job.workspace_id, v_key);
  return true;
end;
$$;

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

-- Each sequence stores the last rejection of an enqueue by a limit of a workspace's live jobs: the
-- time in seconds, and after it 24 bits of a hash of the workspace and the limit. A rollback does
-- not restore a sequence.
create unlogged sequence queue.full_0 minvalue 0 start 0;

-- noqa: PRS
create unlogged sequence queue.full_1 minvalue 0 start 0;

-- noqa: PRS
create unlogged sequence queue.full_2 minvalue 0 start 0;

-- noqa: PRS
create unlogged sequence queue.full_3 minvalue 0 start 0;

-- noqa: PRS

-- Reject an enqueue, because the limit p_limit of the workspace's live jobs is used up. Store the
-- rejection in the sequence of the limit's last rejection, or in the sequence with the oldest one.
create or replace function queue.refuse_full(p_workspace_id uuid, p_limit text, p_message text)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_hash constant bigint := hashtext(p_workspace_id || p_limit) & 16777215;
begin
  perform setval(
    'queue.full_' || s.n,
    floor(extract(epoch from queue.clock()))::bigint << 24 | v_hash
  )
  from (
    select n
    from generate_series(0, 3) as n
    cross join pg_sequence_last_value('queue.full_' || n) as v (stored)
    order by (v.stored & 16777215 = v_hash) is true desc, v.stored nulls first
    limit 1
  ) as s;
  perform queue.refuse(429, 'quota_exceeded', p_message, p_limit);
end;
$$;

-- Return true if the limit p_limit of the workspace has rejected an enqueue in the ten minutes
-- before p_now, unless rejections of four other pairs of workspace and limit were stored later.
create or replace function queue.was_full(p_workspace_id uuid, p_limit text, p_now timestamptz)
returns boolean
language sql stable
set search_path = ''
as $$
select exists (
  select from generate_series(0, 3) as n
  cross join pg_sequence_last_value('queue.full_' || n) as v (stored)
  where v.stored & 16777215 = hashtext(p_workspace_id || p_limit) & 16777215
    and v.stored >> 24 > extract(epoch from p_now) - 600
)
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
    perform queue.refuse_full(
      p_workspace_id,
      'max_pending',
      format('the workspace may have at most %s live jobs; wait until some have ended', v_max)
    );
  end if;
end;
$$;

-- Reject a person's enqueue if the payloads of the workspace's live jobs have too many bytes. Only
-- one call in ten seconds counts the bytes of a workspace. Enqueues do not update a stored sum,
-- because concurrent enqueues would wait for each other to update the row of the sum.
create or replace function queue.check_live_bytes(p_workspace_id uuid)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_max constant bigint := queue.setting('user_pending_bytes_max');
  v_bucket constant text := 'b:' || p_workspace_id;
  v_bytes bigint := (
    select b.tokens
    from queue.buckets as b
    where b.name = v_bucket and b.refilled_at > v_now - interval '10 seconds'
  );
begin
  if queue.caller() is null then
    return;
  elsif v_bytes is null
    and queue.reserve_locks(1, 190) > 0
    and queue.try_lock('bucket ' || v_bucket)
  then
    v_bytes := (
      select coalesce(sum(pg_column_size(j.payload)), 0)
      from queue.places(
        p_workspace_id,
        '{pending,processing,waiting}',
        1000000
      ) as p
      join public.jobs as j on j.id = p.job_id
    );
    perform queue.store_tokens(v_bucket, v_bytes, v_now);
  end if;
  if v_bytes >= v_max then
    perform queue.refuse_full(
      p_workspace_id,
      'user_pending_bytes_max',
      format(
        'the payloads of live jobs may have at most %s bytes; wait until some jobs have ended',
        v_max
      )
    );
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
      -- The worker repeats a request, so return the active leases that the request created.
      -- tests/sql/test_leases.py compares their JSON with the result of queue.take_jobs.
      'leases', (
        select coalesce(
          json_agg(
            row(
              l.fence,
              l.lease_seconds,
              queue.steps_of_lease(j.id),
              jsonb_populate_record(
                null::queue.leased_job,
                to_jsonb(j) || jsonb_build_object(
                  'timeout_seconds', coalesce(j.timeout_seconds, t.timeout_seconds)
                )
              )
            )::queue.leased
            order by l.ord, l.job_id
          ),
          '[]'
        )
        from queue.leases as l
        join public.jobs as j on j.id = any (array[l.job_id])
        join queue.job_types as t on t.job_type = j.job_type
        where l.tick_id = v_asked.tick_id and l.tick_call = v_asked.call
      ),
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
  '- abandoned: Stopped jobs whose processors still run, [{job_id, place, in_thread?}]. Default: '
  'the list of the previous call.\n'
  '- most: Maximum number of concurrent worker runs. The response contains run: {free}, which is '
  'null if this run is rejected.\n'
  '- listens: True if the worker follows the topic wake_topic of the response. Messages of this '
  'topic announce new jobs.\n'
  '- ends: The run ends if no job was leased and no work is due within stay_ms. The response then '
  'contains run: {ended, refused}. If refused is true, another run was rejected since this '
  'run began, so call lease_jobs again.';

select queue.allow('job_worker, service_role', 'public.lease_jobs');

-- Determine the outcome of an attempt from the worker's report and the job's options. If the worker
-- reports a wait, insert the wait (queue.begin_wait). The delay of a retry is the field
-- retry_after_seconds of the worker's report. If the report lacks this field, the delay grows
-- exponentially with the number of attempts, and has jitter (Brooker, AWS blog, 2015).
create or replace function queue.outcome_of(
  p_item queue.worker_item,
  p_job public.jobs,
  p_is_long boolean,
  p_now timestamptz,
  out outcome text,
  out problem jsonb,
  out run_at timestamptz
)
language plpgsql
set search_path = ''
as $$
declare
  v_reason text;
begin
  outcome := coalesce(p_item.outcome, 'null');
  problem := case
    when outcome in ('retry', 'lost', 'died', 'failed', 'cancelled', 'released')
      then p_item.error
  end;
  if p_is_long then
    outcome := 'failed';
    problem := jsonb_build_object(
      'type', 'ResultTooLarge',
      'reason', 'result_too_large',
      'message', format(
        'the result has more than %s bytes; store the result and return a reference',
        queue.setting('payload_max_bytes')
      )
    );
  elsif p_job.cancel_requested_at is not null and outcome <> 'completed' then
    -- Drop the error that describes a lost worker, because the cancel request may be the reason why
    -- the worker stopped.
    problem := case when outcome not in ('lost', 'died') then problem end;
    outcome := 'cancelled';
  elsif outcome in ('retry', 'lost') then
    v_reason := case
      when p_job.deadline_at <= p_now then 'deadline_passed'
      when p_job.attempts >= p_job.max_attempts then 'attempts_spent'
      when outcome = 'lost'
          and p_job.lost_attempts + 1 >= queue.setting('lost_attempts_max')::integer
        then 'lost_too_often'
    end;
    if v_reason is not null then
      problem := case
        when outcome = 'lost' and v_reason <> 'deadline_passed' then problem
        else coalesce(problem, '{}') || jsonb_build_object('reason', v_reason)
      end;
      outcome := 'failed';
    -- If there is evidence that the job ended its worker process, the retry waits for the backoff,
    -- as after any failure. Without evidence that the job ended its worker process, the job is
    -- retried immediately, because something else may have stopped the worker.
    elsif outcome = 'retry' or problem ? 'evidence' then
      run_at := p_now + make_interval(
        secs => case
          when p_item.retry_after_seconds is not null
            then least(604800, greatest(0, p_item.retry_after_seconds))
          else (
            select (0.8 + 0.2 * random()) * least(
              t.backoff_cap_seconds,
              t.backoff_first_seconds * power(t.backoff_factor, p_job.attempts - 1)
            )
            from queue.job_types as t
            where t.job_type = p_job.job_type
          )
        end
      );
    end if;
  elsif outcome = 'failed' then
    problem := '{"reason": "not_retryable"}' || coalesce(problem, '{}');
  elsif outcome = 'snoozed' then
    -- The delay of a snooze is at least one second, because a snooze does not count as an attempt.
    -- Without a minimum, a processor that always returns a snooze without a delay would run in an
    -- endless loop.
    run_at := greatest(
      p_now + interval '1 second',
      coalesce(
        p_item.until,
        p_now + make_interval(secs => least(
          31536000,
          coalesce(p_item.delay_seconds, 60)
        ))
      )
    );
  elsif outcome = 'waiting' then
    problem := queue.begin_wait(p_job, p_item.wait, p_now);
    outcome := case when problem is null then 'waiting' else 'failed' end;
  elsif outcome not in ('completed', 'cancelled', 'released', 'died') then
    problem := jsonb_build_object(
      'type', 'UnknownOutcome',
      'reason', 'unknown_outcome',
      'message', 'unknown outcome ' || left(outcome, 80)
    );
    outcome := 'failed';
  end if;
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
  v_kind constant text := split_part(p_topic, ':', 1);
  v_id constant text := substr(p_topic, length(v_kind) + 2);
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
    -- A text that changes with each event of the topic, so that the client can detect missed
    -- messages. For a job, the text also changes when a stream of the job's output grows. For any
    -- other topic, the text is the sum of the ids of the topic's last twenty feed rows. The highest
    -- id alone would not be enough, because a transaction that commits late may add a lower id.
    'seq', case v_kind
      when 'job' then (
        select concat(j.last_seq, queue.streams_json(j.id))
        from public.jobs as j
        where j.id = v_id::uuid
      )
      when 'session' then (
        select sum(n.id)::text
        from (
          select f.id
          from queue.feed as f
          where f.session_id = v_id
          order by f.number desc, f.id desc
          limit 20
        ) as n
      )
      else (
        select sum(n.id)::text
        from (
          select f.id
          from queue.feed as f
          where f.workspace_id = v_id::uuid
          order by f.number desc, f.id desc
          limit 20
        ) as n
      )
    end,
    -- choose the interval so that all followers together poll about 50 times per second
    'check_seconds', (
      select count(*)
      from (select from queue.followers limit 1500) as f
    ) / 50.0
  );
end;
$$;

select queue.allow('anon, authenticated, service_role', 'queue.follow');

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

-- Return a hash that groups the errors of jobs. Two errors that differ only in numbers and ids have
-- the same hash. The message of a WorkerLost error contains the worker's name, so the hash of the
-- error is computed from the reason why the worker's process ended, with its exit code.
create or replace function queue.fingerprint(p_message text, p_error jsonb)
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
      p_error #>> '{evidence,exit_code}'
    )),
    16
  );
end;
$$;

-- Count the jobs of a workspace by state. Live and failed jobs are counted up to 10,000 in each
-- table that queue.places reads. Completed and cancelled jobs are counted among the newest 10,000
-- jobs of the workspace. If p_workspace_id is null, as in public.queue_stats, completed and
-- cancelled jobs are not counted.
create or replace function public.count_jobs(p_workspace_id uuid, p_filter jsonb default '{}')
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

drop function queue.key_expired_at();

-- Return the time at which the key of the last worker of the job type p_job_type, or of all types,
-- expired, if the worker called until then. A worker that signs its own keys changes each key two
-- minutes before it expires, and its row at most a minute later.
create or replace function queue.key_expired_at(p_job_type text default null)
returns timestamptz
language sql stable
set search_path = ''
as $$
select k.at
from (
  select
    (w.summary ->> 'key_expires_at')::timestamptz as at,
    w.summary ? 'stopped' or w.evidence is not null as was_stopped,
    case when p_job_type is null then queue.last_call() else w.seen_at end as called_at
  from queue.workers as w
  where p_job_type is null or w.job_types is null or p_job_type = any (w.job_types)
  order by w.seen_at desc
  limit 1
) as k
-- a worker's row is updated once a minute, and the Data API accepts a key for 30 seconds longer
where k.called_at >= k.at - case
    when p_job_type is null then interval '55 seconds'
    else interval '2 minutes'
  end
  and k.called_at <= k.at + interval '1 minute'
  and k.at <= queue.clock()
  and not k.was_stopped
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
        'All worker keys were revoked at {revoked_at}. Set `SUPABASE_WORKER_KEY` of the workers to '
          'a new key:',
        'token worker',
        '/overview'
      ),
      (
        '{no_worker, no_processor}',
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
        'Enlarge the disk and set its new size (`set_settings`, `disk_bytes`), or delete data, for '
          'example by keeping ended jobs for fewer days (`retention_days`).',
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
      'Enqueue a copy, which has no deadline.',
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
      '[It has sent nothing for {silent}, since {sign}. ][It was last seen {seen}. ][99 % of the '
        'jobs of its type take {usual} or less. ]Worker {worker_id} has been running it since '
        '{leased_at}.[ The worker misses its renewals. Its last known call was at '
        '{missed_since}.][ {death}. It runs with {beside} of them and nothing else.| {death}. It '
        'runs alone.| Its lease lasts until {lease_until} unless it is renewed.|][ An earlier '
        'process of it was ended by {killer}.][ The role job_worker may not execute '
        '{not_granted}, so its outcome is not stored.| Its worker lacks {a_right}, so its outcome '
        'is not stored.|][ One call of its processor runs it and {batched}.| It waits for '
        '{next_call}.|][ Its database session (pid {pid}) waits for a lock of the session with pid '
        '{blocker}.][ Session {own_blocker} belongs to the same job.][ Its process has used up to '
        '{memory_mb} MB.][ The process has grown by {grown_mb} MB.]',
      '[Grant the right: `grant execute on function {not_granted}(jsonb) to job_worker`.|Notify '
        'the operator of the service, because the worker lacks {a_right}.|In code, '
        'commit that session before the call at {place}. To end this attempt: `select '
        'pg_terminate_backend({own_blocker})`.|Commit or end that session: `select '
        'pg_terminate_backend({blocker})`.|If the process of the worker '
        'has hung since {missed_since}, end it. The job then runs again at the latest after '
        '{expires_at}.|If {silent} without an update is too long, check the call at {place}. Give '
        'that call a time limit, or give the type a `timeout` below {timeout}.|If {usual} should '
        'suffice, check its log and the code at {place}.|Nothing to do until {lease_until}. If the '
        'lease is not renewed by then, the job is reclaimed.|Nothing to do.]',
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
      'It is scheduled for {run_at}.[ Its deadline, {early_deadline}, is earlier.][ It was created '
        'at {created_at}, and an enqueue with its unique key last changed it at {changed_at}.]',
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
      'no_processor',
      'It waits for a worker that serves the job type {unpublished}.',
      'Fix this in code or settings, and deploy: {refusal}',
      'types {job_type}',
      '/types/{job_type}'
    ),
    (
      'no_processor',
      '{count} of {types} {have} no running worker[, the oldest since {since}].',
      'If the name is misspelt, cancel, and enqueue again as {nearest}, the nearest name that a '
        'worker has.',
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
      'It has been ready since {ready_at}. [The role {without_right} may not execute '
        'public.lease_jobs, so workers with this role lease nothing|Workers lack {a_right}, so '
        'they lease nothing|The workers that serve it '
        'use {running} of {slots} slots, but have leased nothing since {leased_at}|The workers '
        'that serve it have leased nothing since {leased_at}|No worker that serves it runs{yet}|'
        'Workers that serve it have not leased it].[ They were last seen at {seen_at}.]',
      '[Grant the right: `grant execute on function public.lease_jobs(jsonb) to '
        '{without_right}`.|Notify the operator of the service, because workers lack '
        '{a_right}.|Nothing to do if a worker that serves it is starting{yet}. Otherwise start '
        'one.|If they have hung since {silent_since}, end their processes. Otherwise check their '
        'rights and logs.|Check their rights and logs.]',
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
      '{count} of {job_type} {have} sent nothing for more than {limit}, the first since {since}.',
      '[The first was last seen {seen}. ]See its page or log.',
      'explain {job_id}',
      '[/jobs?state=running&job_type={many}|/jobs/{job_id}]'
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
        'Its worker stopped reporting {lost_times} while it ran nothing else.'
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
        '[A transaction that began at {since} has locked the table {locked}, so no job can be '
          'added or changed|Sessions that wait for a lock of one session: {waiting}, the first '
          'since {since}].'
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
        then 'Its process died' || queue.process_end(p_job.error_data -> 'evidence')
      else 'Its worker stopped reporting' -- the process may still be alive
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

-- Return a duration as text, for example '4 min 5 s'.
create or replace function queue.length_in_words(p_ms double precision)
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

-- Return the number of a finding's jobs as text, the verb that fits the number, and the type of
-- several jobs.
create or replace function queue.number_of(p_data jsonb)
returns jsonb
language sql immutable
set search_path = ''
as $$
select case
  when p_data @> '{"jobs": 1}' then '{"count": "1 job", "have": "has"}'
  else jsonb_build_object(
    'count', (p_data ->> 'jobs') || ' jobs',
    'have', 'have',
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
select nullif(concat_ws(', ', 'in its step ' || p_step, 'at ' || p_place), '')
$$;

-- Return an object that describes the last update of a running job, such as a log line or a
-- finished step. If the worker has reported no update of the job, the object contains only
-- lease_until, the time at which the lease expires.
-- seen: The running step and the line of code, as text.
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
        'seen', queue.seen_in(l.step, l.pulse ->> 'place'),
        'batched', queue.other_jobs(nullif((l.pulse ->> 'batched')::integer, 0)),
        'next_call', case
          when l.pulse ->> 'batched' = '0' then 'the next call of its batch, which was split'
        end,
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
        || jsonb_build_object(
          'timeout', (
            select queue.length_in_words(1000 * coalesce(p_job.timeout_seconds, t.timeout_seconds))
            from queue.job_types as t
            where t.job_type = p_job.job_type
          ),
          'not_granted', (
            select f.function
            from unnest('{public.settle_jobs,public.report_jobs}'::regproc[]) as f (function)
            where not has_function_privilege(to_regrole('job_worker'), f.function, 'execute')
            limit 1
          )
        ),
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
    return jsonb_build_object(
      'since', v_found.run_at,
      'estimated_start_at', greatest(v_found.run_at, p_now),
      'data', v_data
        || to_jsonb(v_found)
        || queue.maintained_before(v_found.run_at)
        || jsonb_build_object(
          'early_deadline', case
            when p_job.deadline_at < v_found.run_at then p_job.deadline_at
          end
        )
        || coalesce(
          (
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
          ),
          '{}'
        )
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
where not exists ( -- an operator knows it already
  select from queue.pauses as p
  where p.kind = 'job_type' and p.name = p_job.job_type
)
having count(*) filter (where a.job_type = p_job.job_type) >= 10
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

-- Return how many workers were stopped while they had leased the live job p_job, and the times of
-- the first and the last stop. Return no row for fewer than three, because a deploy may stop some.
create or replace function queue.stops_of(p_job public.jobs)
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
      || jsonb_strip_nulls(v_found -> 'data'),
    case
      when v_left -> 'sentence' = 'null' then '{"failed": "failed:", "backing_off": "failed:",
        "cancelled": "cancelled:"}'::jsonb ->> (v_found ->> 'reason') || v_error.kind
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
  'own_key', left(p_job.concurrency_key, 100),
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
  'path}], data, estimated_start_at, abandoned_at}. The kind of a step is act, wait or none. '
  'abandoned_at is the code location of a stopped processor that still runs.';

select queue.allow('authenticated, service_role', 'public.explain_job');

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
    coalesce(j.next_retry_at, j.scheduled_for, j.created_at),
    u.jobs,
    sum(u.jobs) over () >= 10000,
    'unserved'
  from (
    select i.job_type, count(*) as jobs, min(i.job_id::text)::uuid as oldest_id
    from (
      select o.job_type, o.job_id
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
    ) as i
    group by 1
  ) as u
  join public.jobs as j on j.id = any (array[u.oldest_id])
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
    )
  )
from causes as c
$$;

-- A problem that public.explain_queue reports.
create type queue.finding as (
  verdict text,
  reason text,
  since timestamptz,
  cause text,
  data jsonb
);

drop function queue.findings_of_queue(uuid,timestamp with time zone,jsonb,timestamp with time zone);

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
    where not has_function_privilege(to_regrole('job_worker'), f.function, 'execute')
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
    from unnest(v_denied) as f (function)
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
      coalesce(min(w.since) filter (where w.locked <> ''), min(w.since)),
      format(
        '%s (pid %s) is %s',
        coalesce(nullif(h.application_name, ''), h.usename, h.backend_type),
        h.pid,
        coalesce(h.state, 'active')
      ),
      jsonb_build_object('pid', h.pid, 'waiting', count(*), 'locked', max(w.locked))
    from (
      (
        select a.query_start as since, queue.last_blocker(a.pid) as pid, null as locked
        from pg_catalog.pg_stat_activity as a
        where a.datname = current_database()
          and a.wait_event_type = 'Lock'
          and a.query_start <= p_now - interval '10 seconds'
        limit 20
      )
      union all
      -- calls of people wait for at most two seconds, so no waiting session shows this lock
      select a.xact_start, a.pid, 'public.jobs'
      from pg_catalog.pg_locks as l
      join pg_catalog.pg_stat_activity as a on a.pid = l.pid
      where l.relation = 'public.jobs'::regclass
        and a.datname = current_database()
        and l.granted
        and l.mode in (
          'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'
        )
        and a.xact_start <= p_now - interval '10 seconds'
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

drop function queue.findings_of_disk();

-- Return a finding if at least 80 % of the disk is used. An operator sets the size of the disk in
-- the setting disk_bytes. The used space is the size of all databases to which the owner of this
-- function may connect. The size of the write-ahead log is added if the owner of this function may
-- read the log.
create or replace function queue.findings_of_disk()
returns setof queue.finding
language plpgsql stable
set search_path = ''
as $$
declare
  v_size constant bigint := (queue.setting('disk_bytes') #>> '{}')::bigint;
  v_used bigint;
begin
  if v_size is null then
    return;
  end if;
  v_used := (
    select sum(pg_database_size(d.oid))
    from pg_catalog.pg_database as d
    where has_database_privilege(d.oid, 'connect')
  );
  if has_function_privilege('pg_catalog.pg_ls_waldir()', 'execute') then
    v_used := v_used + (select sum(w.size) from pg_ls_waldir() as w);
  end if;
  return query
    select
      'warn',
      case when v_used >= 0.9 * v_size then 'disk_nearly_full' else 'disk_filling' end,
      null::timestamptz,
      format(
        '%s of %s are used',
        pg_size_pretty(v_used),
        pg_size_pretty(v_size)
      ),
      jsonb_build_object('percent', floor(100.0 * v_used / v_size))
    where v_used >= 0.8 * v_size;
end;
$$;

drop function queue.findings_of_apps(uuid);

-- Return the findings that apps and extensions add to public.explain_queue. For each maintenance
-- task, call the function queue.findings_of_<name of the task> if this function exists. The data of
-- each finding must contain an object `said` with the finding's sentence and advice, as
-- queue.render_guidance returns them.
create or replace function queue.findings_of_apps(p_workspace_id uuid)
returns setof queue.finding
language plpgsql stable
set search_path = ''
as $$
declare
  v_function regprocedure;
begin
  for v_function in
    select f.function
    from queue.tasks as t
    cross join lateral to_regprocedure(
      format('queue.findings_of_%s(uuid)', t.name)
    ) as f (function)
    where f.function is not null
  loop
    return query execute format('select * from %s($1)', v_function::regproc)
    using p_workspace_id;
  end loop;
end;
$$;

drop function queue.findings_of_workspace(uuid,timestamp with time zone);

-- Return findings about job types, versions of the code, pauses, schedules, unanswered questions
-- and silent jobs. A running job is silent if the time since its last update exceeds both two
-- minutes and the duration of 99 % of the jobs of its type. If too few jobs of the type have ended,
-- a job is silent after ten minutes. If an operator pauses a queue or a job type for all
-- workspaces, the pause is a finding in each workspace that has due jobs there.
create or replace function queue.findings_of_workspace(p_workspace_id uuid, p_now timestamptz)
returns setof queue.finding
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
  (s.jobs[1] ->> 'since')::timestamptz,
  null,
  s.jobs[1] || jsonb_build_object(
    'jobs', n.jobs,
    'silent', n.silent,
    'limit', queue.length_in_words(u.ms)
  )
from (
  select l.job_type, array_agg(to_jsonb(l) order by l.since) as jobs
  from (
    select n.job_type, o.*
    from (
      select
        r.lane,
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
  select
    count(*) as jobs,
    jsonb_object_agg(t.job ->> 'job_id', t.job -> 'since')
      filter (where t.n <= 200) as silent -- limits the response
  from unnest(s.jobs) with ordinality as t (job, n)
  where (t.job ->> 'since')::timestamptz < p_now - u.ms * interval '1 ms'
) as n
where n.jobs > 0
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

drop function queue.findings_of_limits(uuid,timestamp with time zone);

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
    or queue.was_full(l.id, 'max_pending', p_now)
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
    or queue.was_full(l.id, 'user_pending_bytes_max', p_now)
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

drop function queue.findings_of_deaths(uuid,timestamp with time zone);

-- Return up to three kinds of findings about worker processes that ended. The finding ends_process
-- names a job type whose code is probably broken, because three jobs of the type have ended their
-- processes within ten minutes, and no job of the type has completed since. The engine itself never
-- pauses a job type whose jobs end their processes. The finding suspects_wait counts the jobs of
-- queue.suspects that have waited for a minute only because no worker is free to run them. The
-- finding stopped_jobs counts those of the jobs that workers released in the last hour for which
-- public.explain_job says that workers were stopped.
create or replace function queue.findings_of_deaths(p_workspace_id uuid, p_now timestamptz)
returns setof queue.finding
language plpgsql stable
set search_path = ''
as $$
declare
  -- Job types that have lost at least three attempts in the last 15 minutes. If no job type has
  -- lost three attempts, the function does not read queue.feed, which has many rows.
  v_types constant text[] := array(
    select s.job_type
    from queue.stats as s
    where s.workspace_id = coalesce(p_workspace_id, '00000000-0000-0000-0000-000000000000')
      and s.at > p_now - interval '15 minutes'
    group by s.job_type
    having sum((s.counts ->> 'lost')::integer) >= 3
  );
  v_alive queue.workers[];
begin
  if v_types <> '{}' then
    return query
      with lines as materialized (
        select l.type, l.at, l.job_ids
        from (
          select *
          from queue.feed as f
          order by f.number desc
          limit 20000
        ) as l
        where l.at > p_now - interval '10 minutes'
          and (p_workspace_id is null or l.workspace_id = p_workspace_id)
          and (
            l.type = 'job.completed'
            or l.type = 'job.reclaimed' and l.data ->> 'reason' = 'worker_lost'
          )
      ),
      deaths as (
        select
          j.id,
          j.job_type,
          max(l.at) as at,
          max(j.error_data #>> '{evidence,commit}') as "commit"
        from lines as l
        cross join unnest(l.job_ids) as i (id)
        join public.jobs as j on j.id = any (array[i.id])
        where l.type = 'job.reclaimed' and j.job_type = any (v_types)
        group by 1, 2
      ),
      streaks as (
        select
          d.job_type,
          (array_agg(d.at order by d.at desc))[3] as since,
          count(*) as jobs,
          (array_agg(d."commit" order by d.at desc))[1] as "commit"
        from deaths as d
        group by 1
        having count(*) >= 3
      )
      select
        'warn',
        'ends_process',
        s.since,
        null::text,
        jsonb_build_object(
          'job_type', s.job_type,
          'ended', s.jobs,
          'commit', s."commit",
          'jobs', queue.due_in(
            p_workspace_id,
            array(select n.lane from queue.lanes as n where n.job_type = s.job_type)
          )
        )
      from streaks as s
      where not exists (
          select from (
            select i.id
            from lines as l
            cross join unnest(l.job_ids) as i (id)
            where l.type = 'job.completed' and l.at > s.since
            limit 2000
          ) as c
          join public.jobs as j on j.id = any (array[c.id])
          where j.job_type = s.job_type
        )
        and not exists (
          select from queue.pauses as p
          where (p.kind, p.name) in (
            ('job_type', s.job_type),
            ('workspace_type', p_workspace_id || '/' || s.job_type)
          )
        );
  end if;
  if exists (select from queue.suspects as s where s.since <= p_now - interval '1 minute') then
    v_alive := queue.live_workers(p_now);
    return query
      select
        'warn',
        'suspects_wait',
        min(w.since),
        null::text,
        jsonb_build_object('jobs', count(*), 'job_id', (array_agg(w.id order by w.since))[1])
      from (
        select j.id, (e.said #>> '{data,late_since}')::timestamptz as since
        from queue.ready_suspects(null) as s
        join public.jobs as j on j.id = any (array[s.job_id])
        cross join lateral queue.explain_row(j, v_alive, p_now) as e (said)
        where e.said #> '{data,late_since}' is not null
          and (p_workspace_id is null or j.workspace_id = p_workspace_id)
          and not exists ( -- no process runs a job of the same group
            select from queue.suspects as o
            join queue.leases as l on l.job_id = o.job_id
            where o.company = s.company
          )
        limit 100
      ) as w
      having count(*) > 0;
  end if;
  if (
    select count(*) > 2 -- the number of stops from which queue.stops_of returns a row
    from queue.workers as w
    where w.seen_at > p_now - interval '1 hour' and w.summary ? 'stopped'
  ) then
    return query
      select
        'warn',
        'stopped_jobs',
        min(s.first_at),
        null::text,
        jsonb_build_object('jobs', count(*), 'job_id', (array_agg(j.id order by s.first_at))[1])
      from (
        select i.id
        from (
          select *
          from queue.feed as f
          order by f.number desc
          limit 20000
        ) as l
        cross join unnest(l.job_ids) as i (id)
        where l.type = 'job.released'
          and l.at > p_now - interval '1 hour'
          and (p_workspace_id is null or l.workspace_id = p_workspace_id)
        group by 1
        order by count(*) desc
        limit 200
      ) as r
      join public.jobs as j on j.id = any (array[r.id])
      cross join lateral queue.stops_of(j) as s
      having count(*) > 0;
  end if;
end;
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
      'jobs', f.data -> 'jobs',
      'silent', f.data -> 'silent',
      'unserved', f.data -> 'unserved'
    ) || coalesce(
      f.data -> 'said',
      queue.render_guidance(
        f.reason,
        f.data || queue.number_of(f.data) || jsonb_build_object(
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
  'findings: [{verdict, reason, key, sentence, since, cause, jobs, silent, unserved, next: [{kind, '
  'words, command, path}]}], holders: [{jobs, more, since, kind, reason, sentence, cause, next, '
  'holder, job_id, job_types, keys}], backlog, last_tick_seconds}. silent has the time of the last '
  'update of each silent job, unserved the job types that no worker serves. Only operators may '
  'omit p_workspace_id.';

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
    || jsonb_build_object(
      'waiting', queue.due_in(p_workspace_id, k.lanes, t.job_type),
      'running', ( -- up to 1,000
        select count(*)
        from (
          select l.job_id
          from queue.leases as l
          where l.lane = any (k.lanes)
            and (p_workspace_id is null or l.workspace_id = p_workspace_id)
          limit 1000
        ) as r
      ),
      'published', t.schema_version > 0,
      'nearest', case t.schema_version
        when 0 then queue.nearest_type(t.job_type)
      end,
      'paused_at', p.paused_at,
      'pause_reason', p.reason,
      'queue_paused_at', (
        select q.paused_at
        from queue.pauses as q
        where q.kind = 'queue' and q.name = t.queue
      ),
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
  cross join lateral (
    select array_agg(l.lane) as lanes
    from queue.lanes as l
    where l.job_type = t.job_type
  ) as k
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
        format('no worker serves the job type %s', left(p_job_type, 100))
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
begin
  if exists (
    select from public.jobs as j
    where j.id = any (p_ids) and j.started_at is null and j.start_by_at <= p_now
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
            when j.started_at is null then 'before it could run'
            when n.kind = 'sleep' then 'while it slept'
            when n.kind = 'ask' then 'while it waited for an answer'
            when n.kind = 'event' then 'while it waited for the event ' || n.event_name
            when n.kind = 'children' then 'while it waited for its children'
            else 'before it ended'
          end
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
    left join ( -- explain one job for each group that waits for the same reason
      select distinct on (o.workspace_id, o.job_type, o.queue, o.concurrency_key)
        o.*,
        -- the sentence is stored in the job's error for members of its workspace, so the sentence
        -- must not name a job of another workspace
        queue.explain(o, null, v_alive, p_now, false) -> 'sentence' as sentence
      from public.jobs as o
      where o.id = any (p_ids)
        and o.status = 'pending'
        and o.started_at is null
        and o.start_by_at <= p_now
      order by o.workspace_id, o.job_type, o.queue, o.concurrency_key, o.id
    ) as w
      on (w.workspace_id, w.job_type, w.queue) = (j.workspace_id, j.job_type, j.queue)
        and w.concurrency_key is not distinct from j.concurrency_key
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

drop function queue.personal_columns();

-- Return the marked columns of all tables that have the same owner as the engine. Tables of other
-- owners are omitted, because a delete by the engine would run the triggers of such a table with
-- the rights of the engine.
create or replace function queue.personal_columns(
  out relation regclass,
  out name text,
  out type text,
  out kind text,
  out empty text -- SQL expression for the value after clearing
)
returns setof record
language sql stable
set search_path = ''
as $$
select
  c.oid,
  quote_ident(a.attname),
  format_type(a.atttypid, null),
  substr(d.description, 9),
  case
    when not a.attnotnull then 'null'
    when a.atttypid = 'jsonb'::regtype then '''{}'''
    else '''erased'''
  end
from pg_catalog.pg_description as d
join pg_catalog.pg_class as c on c.oid = d.objoid
join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attnum = d.objsubid
join pg_catalog.pg_namespace as n on n.oid = 'queue'::regnamespace
where d.classoid = 'pg_class'::regclass
  and d.description like 'Person: %'
  and c.relkind in ('r', 'p')
  and c.relowner = n.nspowner
$$;

drop function queue.personal_tables(boolean);

-- For each table with marked columns, return SQL conditions that select the rows about a person. In
-- the conditions, $1 is the person's id, $2 are the patterns of queue.person_patterns, and $3 are
-- the ids of the deleted jobs.
-- p_searches: True to also select rows whose text matches a pattern in $2.
-- is_theirs: Condition for rows that are deleted because they belong to the person.
-- is_about: Condition for rows that are kept, but whose text about the person is cleared.
-- is_of_job: Condition for rows of a job whose text quotes the person, so that the whole job is
--   deleted.
create or replace function queue.personal_tables(
  p_searches boolean,
  out relation regclass,
  out is_theirs text,
  out is_about text,
  out is_of_job text,
  out clears text, -- assignments that clear the text
  out files text, -- expressions of the keys of files, or null
  out secrets text[]
)
returns setof record
language sql stable
set search_path = ''
as $$
with columns as (
  select
    c.*,
    case
      when p_searches then format('t.%s::text ilike any ($2)', c.name)
      else 'false'
    end as quotes
  from queue.personal_columns() as c
),
abouts as (
  select
    c.relation,
    string_agg(
      case c.kind
        when 'mention' then format('t.%s = $1::%s', c.name, c.type)
        else format('t.%s && $3', c.name)
      end,
      ' or '
    ) as is_about
  from columns as c
  where c.kind in ('mention', 'jobs')
  group by c.relation
)
select
  c.relation,
  coalesce(
    string_agg(
      case c.kind
        when 'owner' then format('t.%s = $1::%s', c.name, c.type)
        when 'tags'
          then format('t.%s @> array[''user:'' || $1] or %s', c.name, c.quotes)
        when 'words' then c.quotes
        else format('strpos(t.%s, $1) > 0 or %s', c.name, c.quotes) -- key or file
      end,
      ' or '
    ) filter (where c.kind in ('owner', 'key', 'file', 'tags', 'words')),
    'false'
  ),
  concat_ws(
    ' or ',
    coalesce(a.is_about, 'false'),
    string_agg(c.quotes, ' or ') filter (
      where c.kind in ('mention', 'words to clear')
    )
  ),
  string_agg(c.quotes, ' or ') filter (where c.kind = 'words of the job'),
  string_agg(
    format(
      '%1$s = case when %2$s or %3$s then %4$s else t.%1$s end',
      c.name,
      coalesce(a.is_about, 'false'),
      c.quotes,
      c.empty
    ),
    ', '
  ) filter (where c.kind in ('mention', 'words to clear')),
  string_agg(format('t.%s::text', c.name), ', ') filter (where c.kind = 'file'),
  coalesce(array_agg(c.name) filter (where c.kind = 'secret'), '{}')
from columns as c
left join abouts as a on a.relation = c.relation
group by c.relation, a.is_about
order by c.relation::text
$$;

-- Return the ids of the jobs that a person created, and of the jobs that quote the person.
create or replace function queue.jobs_of_person(p_user_id uuid, p_patterns text[])
returns uuid[]
language plpgsql stable
set search_path = ''
as $$
declare
  v_parts constant text[] := array(
    select case p.relation
      when 'public.jobs'::regclass then format(
        'select t.id from %s as t where %s',
        p.relation,
        p.is_theirs
      )
      else format(
        'select t.job_id from %s as t where %s',
        p.relation,
        p.is_of_job
      )
    end
    from queue.personal_tables(cardinality(p_patterns) > 0) as p
    where p.relation = 'public.jobs'::regclass
      or p.is_of_job is not null and cardinality(p_patterns) > 0
  );
  v_jobs uuid[];
begin
  execute format('select array(%s order by 1)', array_to_string(v_parts, ' union '))
  into v_jobs
  using p_user_id::text, p_patterns;
  return v_jobs;
end;
$$;

create or replace function public.erase_person(p_user_id uuid, p_words text[] default null)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_patterns constant text[] := queue.person_patterns(p_user_id, p_words);
  v_jobs uuid[];
  v_one record;
  v_rows bigint;
  v_deleted jsonb;
  v_cleared jsonb := '{}';
  v_keys text[];
  v_files text[] := '{}';
begin
  v_jobs := queue.jobs_of_person(p_user_id, v_patterns);
  perform from public.jobs
  where id = any (v_jobs)
  order by id
  for update;
  delete from public.jobs where id = any (v_jobs);
  get diagnostics v_rows = row_count;
  v_deleted := jsonb_build_object('public.jobs', nullif(v_rows, 0));
  for v_one in
    select *
    from queue.personal_tables(cardinality(v_patterns) > 0) as p
    where p.relation <> 'public.jobs'::regclass
  loop
    execute format(
      'with gone as (delete from %s as t where %s returning array[%s]::text[] as keys) '
        'select count(*), array(select k from gone, unnest(keys) as k) from gone',
      v_one.relation,
      v_one.is_theirs,
      v_one.files
    )
    into v_rows, v_keys
    using p_user_id::text, v_patterns;
    v_files := v_files || v_keys;
    v_deleted := v_deleted || jsonb_build_object(v_one.relation, nullif(v_rows, 0));
    continue when v_one.clears is null;
    execute format(
      'update %s as t set %s where %s',
      v_one.relation,
      v_one.clears,
      v_one.is_about
    )
    using p_user_id::text, v_patterns, v_jobs;
    get diagnostics v_rows = row_count;
    v_cleared := v_cleared || jsonb_build_object(v_one.relation, nullif(v_rows, 0));
  end loop;
  return jsonb_strip_nulls(jsonb_build_object(
    'deleted', v_deleted,
    'cleared', v_cleared,
    'files', to_jsonb(nullif(v_files, '{}'))
  ));
end;
$$;

comment on function public.erase_person is
  E'Delete a person''s jobs and all data that names the person: {deleted: {table: rows}, cleared, '
  'files}. files lists the keys of stored files, which the caller must delete.\n\np_words: names '
  'or addresses, each of 3 characters or more. With p_words the call reads all tables, and also '
  'erases text that quotes a word or the person''s id. For operators.';

select queue.allow('service_role', 'public.erase_person');

create or replace function public.export_person(p_user_id uuid, p_words text[] default null)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_patterns constant text[] := queue.person_patterns(p_user_id, p_words);
  v_jobs constant uuid[] := queue.jobs_of_person(p_user_id, v_patterns);
  v_one record;
  v_part record;
  v_rows jsonb;
  v_tables jsonb := '{}';
begin
  for v_one in
    select *
    from queue.personal_tables(cardinality(v_patterns) > 0) as p
  loop
    for v_part in -- rows of the table, and rows of other tables that a foreign key deletes too
      select
        v_one.relation,
        format(
          '(%s) or (%s) or %s',
          v_one.is_theirs,
          v_one.is_about,
          case
            when v_one.relation = 'public.jobs'::regclass then 't.id = any ($3)'
            when v_one.is_of_job is not null then 't.job_id = any ($3)'
            else 'false'
          end
        ) as condition
      union all
      select
        k.conrelid::regclass,
        format(
          '(%s) in (select %s from %s as t where %s)',
          n.its,
          n.theirs,
          v_one.relation,
          v_one.is_theirs
        )
      from pg_catalog.pg_constraint as k
      cross join lateral (
        select
          string_agg(format('t.%I', a.attname), ', ' order by c.nth) as its,
          string_agg(format('t.%I', b.attname), ', ' order by c.nth) as theirs
        from unnest(k.conkey, k.confkey) with ordinality as c (its, theirs, nth)
        join pg_catalog.pg_attribute as a on a.attrelid = k.conrelid and a.attnum = c.its
        join pg_catalog.pg_attribute as b on b.attrelid = k.confrelid and b.attnum = c.theirs
      ) as n
      where k.confrelid = v_one.relation and k.confdeltype = 'c'
    loop
      execute format(
        'select jsonb_agg(to_jsonb(t) - $4) from %s as t where %s',
        v_part.relation,
        v_part.condition
      )
      into v_rows
      using p_user_id::text, v_patterns, v_jobs, v_one.secrets;
      if v_rows is not null then
        v_tables := v_tables || jsonb_build_object(
          v_part.relation, coalesce(v_tables -> v_part.relation::text, '[]') || v_rows
        );
      end if;
    end loop;
  end loop;
  return jsonb_build_object('user_id', p_user_id, 'tables', v_tables);
end;
$$;

comment on function public.export_person is
  E'A person''s jobs and all data that names the person: {user_id, tables: {table: [row]}}.\n\n'
  'These are the rows that erase_person deletes or clears with the same arguments. For operators.';

select queue.allow('service_role', 'public.export_person');

select queue.close_tables();

-- Revoke the right of all roles to execute private functions. Rights of single roles remain,
-- because policies, column defaults and guests need them.
revoke execute on all functions in schema queue from public;

drop function queue.claim_keys(uuid,jsonb,uuid[]);

drop function queue.evidence_for(uuid,jsonb);

drop function queue.is_newer_deploy(queue.job_types,jsonb);

drop function queue.killer_of(public.jobs);

drop function queue.leases_of_call(uuid,integer);

drop function queue.live_of_type(uuid,text);

drop function queue.nearest_event(uuid,text);

drop function queue.topic_seq(text);
