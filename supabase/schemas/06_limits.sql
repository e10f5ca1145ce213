-- This file enforces the limits of jobs and of callers. The first part of the file has the token
-- buckets of rate limits, and the gates, which enforce the limits of concurrency keys. The second
-- part limits a person's rate of calls, the number of large calls at a time, and the number of a
-- workspace's live jobs. The file also has the functions that change settings and revoke worker
-- keys.
--
-- A token bucket refills at a constant rate, and each start of a job and each call takes tokens. If
-- the job type has a limit per concurrency key, a new job waits in queue.gated (queue.place).
-- Settlements and leases admit waiting jobs (queue.open_gate), so that the number of admitted jobs
-- of a key never exceeds the limit.

insert into queue.settings (name, value)
values
  -- maximum bytes of the payloads of a workspace's live jobs
  ('user_pending_bytes_max', '1000000000'),
  ('disk_bytes', 'null'), -- size of the database's disk in bytes, null if unknown
  ('user_enqueues_per_second', '50'),
  ('user_enqueues_burst', '10000'),
  ('user_stream_opens_per_second', '5'),
  ('user_stream_opens_burst', '100');

-- Take tokens from a token bucket at p_now.
-- p_most: Number of tokens in a full bucket.
-- p_seconds: Number of seconds in which an empty bucket fills up.
-- p_amount: Number of tokens to take from the bucket.
-- p_limit: Name of the limit in the error with status 429, which the function raises if the bucket
--   has too few tokens. Null to raise no error for a job that has already started. Without an
--   error, the number of tokens in the bucket may become negative.
create function queue.take_tokens(
  p_bucket text,
  p_most double precision,
  p_seconds double precision,
  p_amount double precision,
  p_now timestamptz,
  p_limit text default null
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_tokens double precision;
begin
  insert into queue.buckets as b (name, tokens, refilled_at)
  values (p_bucket, p_most - p_amount, p_now)
  on conflict (name) do update set
    -- a transaction that commits late must not set refilled_at back, because the bucket would then
    -- refill twice for the same period
    refilled_at = greatest(b.refilled_at, p_now),
    tokens = least(
      p_most,
      b.tokens
        + greatest(0, extract(epoch from p_now - b.refilled_at))
        * p_most
        / p_seconds
    ) - p_amount
  returning tokens into v_tokens;
  -- the error also rolls back the update of queue.buckets
  if v_tokens < 0 and p_limit is not null then
    perform queue.refuse_rate(p_limit, p_most, p_seconds, v_tokens);
  end if;
end;
$$;

-- Return the number of tokens in a token bucket at p_now. A bucket without a row is full.
create function queue.tokens_of(
  p_name text,
  p_most integer,
  p_seconds double precision,
  p_now timestamptz
)
returns double precision
language plpgsql stable
set search_path = ''
as $$
begin
  return coalesce(
    (
      select least(
        p_most,
        b.tokens
          + greatest(0, extract(epoch from p_now - b.refilled_at))
          * p_most
          / p_seconds
      )
      from queue.buckets as b
      where b.name = p_name
    ),
    p_most
  );
end;
$$;

-- Store the number of tokens in a token bucket at p_now, unless another transaction does the same.
create function queue.store_tokens(
  p_name text,
  p_tokens double precision,
  p_now timestamptz
)
returns void
language plpgsql
set search_path = ''
as $$
begin
  insert into queue.buckets (name, tokens, refilled_at)
  select p_name, p_tokens, p_now
  where queue.try_lock('bucket ' || p_name)
  on conflict (name) do update set
    tokens = excluded.tokens,
    refilled_at = excluded.refilled_at;
end;
$$;

-- Reject a call with status 429, because its token bucket has too few tokens.
-- p_tokens: Number of tokens that would remain after the call, which is negative.
create function queue.refuse_rate(
  p_limit text,
  p_most double precision,
  p_seconds double precision,
  p_tokens double precision
)
returns void
language plpgsql
set search_path = ''
as $$
begin
  perform queue.refuse(
    429,
    'rate_limited',
    format('too many %s; wait a moment', replace(p_limit, '_', ' ')),
    jsonb_build_object(
      'limit', p_limit,
      'per_second', p_most / p_seconds,
      'burst', p_most,
      'retry_after_seconds', coalesce(
        ceil(-p_tokens * p_seconds / nullif(p_most, 0)),
        60
      )
    )::text
  );
end;
$$;

-- Return the lanes (rows of queue.lanes) of the requested job types and queues, except lanes whose
-- job type or queue is paused.
-- p_job_types: Requested job types, or null for all job types.
-- p_queues: Requested queues, or null for all queues.
-- limited: Requested job types that have a limit, so that a lease must count their running jobs.
create function queue.open_lanes(
  p_job_types text[],
  p_queues text[] default null,
  out lanes integer[],
  out limited text[]
)
language plpgsql stable
set search_path = ''
as $$
begin
  select
    coalesce(array_agg(l.lane), '{}'),
    array(
      select t.job_type
      from queue.job_types as t
      where (
        t.max_concurrency is not null
        or t.workspace_concurrency is not null
        or t.rate_limit is not null and not t.rate_per_key
      )
        and (p_job_types is null or t.job_type = any (p_job_types))
    )
  into lanes, limited
  from queue.lanes as l
  where (p_job_types is null or l.job_type = any (p_job_types))
    and (p_queues is null or l.queue = any (p_queues))
    and l.job_type <> all (array(
      select p.name
      from queue.pauses as p
      where p.kind = 'job_type'
    ))
    and l.queue <> all (array(
      select p.name
      from queue.pauses as p
      where p.kind = 'queue'
    ));
end;
$$;

-- Insert a note for each concurrency key that has waiting jobs in the lanes p_lanes (job types in
-- queues), so that the next lease checks whether the waiting jobs can be admitted.
create function queue.note_gates(p_lanes integer[])
returns void
language plpgsql
set search_path = ''
as $$
begin
  insert into queue.notes (lane, workspace_id, key)
  select distinct on (g.workspace_id, g.job_type, g.key)
    g.lane,
    g.workspace_id,
    g.key
  from queue.gated as g
  where g.lane = any (p_lanes) and not g.ended
  order by g.workspace_id, g.job_type, g.key;
end;
$$;

-- Return how many further jobs of a concurrency key may be admitted now, but at most 1,000. The
-- concurrency limit applies to admitted jobs. The rate limit applies to starts, and each admitted
-- job that has not started reserves one start. queue.free_of_key first takes one token of the rate
-- limit for each job start that has not taken its token, as of the time started_at.
-- queue.free_of_key then deletes the rows of ended jobs from queue.gated.
-- tokens: Number of starts that the rate limit allows at the time `at`, minus the reserved starts.
-- is_held: True if the row of an ended job still counts against the concurrency limit, because
--   another transaction has locked the row, or because no token was taken yet for the job's start.
--   If is_held is true, the caller must call queue.free_of_key again later.
create function queue.free_of_key(
  p_type queue.job_types,
  p_workspace_id uuid,
  p_key text,
  out free integer,
  out tokens double precision,
  out at timestamptz,
  out is_held boolean
)
language plpgsql
set search_path = ''
as $$
declare
  v_bucket constant text := format(
    'k:%s/%s/%s',
    p_workspace_id,
    p_type.job_type,
    p_key
  );
  v_begun tid[];
  v_unpaid integer;
  v_admitted record;
begin
  free := 1000;
  is_held := false;
  if p_type.rate_per_key then
    -- skip locked rows, because otherwise two settlements could deadlock
    v_begun := array(
      select g.ctid
      from queue.gated as g
      where g.workspace_id = p_workspace_id
        and g.job_type = p_type.job_type
        and g.key = p_key
        and g.admitted
        and g.started_at < 'infinity'
      for update skip locked
    );
    perform queue.take_tokens(
      v_bucket,
      p_type.rate_limit,
      p_type.rate_per_seconds,
      1,
      g.started_at
    )
    from (
      select started_at
      from queue.gated
      where ctid = any (v_begun)
      order by started_at
    ) as g;
    update queue.gated as g
    set started_at = 'infinity'
    where g.ctid = any (v_begun);
    v_unpaid := (
      select count(*)
      from queue.gated as g
      where g.workspace_id = p_workspace_id
        and g.job_type = p_type.job_type
        and g.key = p_key
        and g.admitted
        and (g.started_at < 'infinity' or g.started_at is null and not g.ended)
    );
    -- read the clock after counting, so that a job that starts between the count and this statement
    -- still counts as a reserved start
    at := queue.clock();
    tokens := queue.tokens_of(
      v_bucket,
      p_type.rate_limit,
      p_type.rate_per_seconds,
      at
    ) - v_unpaid;
    free := least(1000, greatest(0, floor(tokens + 1e-9)))::integer;
  end if;
  delete from queue.gated
  where ctid = any (array(
    select g.ctid
    from queue.gated as g
    where g.workspace_id = p_workspace_id
      and g.job_type = p_type.job_type
      and g.key = p_key
      and g.admitted
      and g.ended
      -- Keep the row of a job that ended after the previous update, because no token was taken yet
      -- for the job's start. Delete the row of a job that never started.
      and (p_type.rate_per_key and g.started_at < 'infinity') is not true
    for update skip locked
  ));
  if p_type.key_concurrency is not null and p_key <> '' then
    select count(*) as jobs, coalesce(bool_or(g.ended), false) as has_ended
    into v_admitted
    from queue.gated as g
    where g.workspace_id = p_workspace_id
      and g.job_type = p_type.job_type
      and g.key = p_key
      and g.admitted;
    free := greatest(0, least(free, p_type.key_concurrency - v_admitted.jobs));
    is_held := v_admitted.has_ended;
  end if;
end;
$$;

-- Admit waiting jobs of a concurrency key (open its gate). Admit as many jobs as the limits of the
-- key allow, but no job whose type or queue is paused or is not served by a worker. If another
-- transaction is admitting jobs of the same key, or if this transaction can take no more advisory
-- locks, insert a note, so that a later lease admits the jobs.
-- p_lane: Any lane of the job type (a row of queue.lanes). queue.open_gate admits jobs of all
--   queues of the job type.
-- p_is_reserved: True if the caller has reserved an advisory lock for this key
--   (queue.reserve_locks).
create function queue.open_gate(
  p_lane integer,
  p_workspace_id uuid,
  p_job_type text,
  p_key text,
  p_now timestamptz,
  p_is_reserved boolean default false
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_type queue.job_types;
  v_open integer[];
  v_closed uuid[];
  v_count record;
  v_admitted record;
  v_look_at timestamptz;
begin
  if not p_is_reserved and queue.reserve_locks(1, 80) = 0
    or not queue.try_lock(format('gate %s/%s/%s', p_workspace_id, p_job_type, p_key))
  then
    insert into queue.notes (lane, workspace_id, key)
    values (p_lane, p_workspace_id, p_key);
    return;
  end if;
  select * into v_type
  from queue.job_types as t
  where t.job_type = p_job_type;
  v_open := array(
    select l.lane
    from queue.open_lanes(array[p_job_type]) as o
    join queue.lanes as l on l.lane = any (o.lanes)
    where l.served_at is not null
  );
  -- If the job type or queue of an admitted job is paused, or has no worker, move the job from
  -- queue.ready back to queue.gated. In queue.ready, jobs that cannot start would use up the limit
  -- of the concurrency key.
  v_closed := array(
    select j.id
    from queue.gated as g
    join queue.ready as r
      on r.lane = g.lane
      and r.workspace_id = g.workspace_id
      and r.ord = g.ord
      and r.job_id = g.job_id
    join public.jobs as j on j.id = g.job_id
    where g.workspace_id = p_workspace_id
      and g.job_type = p_job_type
      and g.key = p_key
      and g.admitted
      and not g.ended
      and g.lane <> all (v_open)
    for no key update of r, j skip locked
  );
  perform queue.leave_places(v_closed) where v_closed <> '{}';
  perform queue.place(j, p_now, v_type)
  from public.jobs as j
  where j.id = any (v_closed);
  v_count := queue.free_of_key(v_type, p_workspace_id, p_key);
  if v_count.free = 0 and not v_type.rate_per_key and not v_count.is_held then
    return;
  end if;
  with admitted as (
    update queue.gated
    set admitted = true
    where ctid = any (array(
      select g.ctid
      from queue.gated as g
      where g.workspace_id = p_workspace_id
        and g.job_type = p_job_type
        and g.key = p_key
        and not g.admitted
        and g.lane = any (v_open)
        -- Skip a job if the row of its ended attempt is still in queue.gated, because the two rows
        -- would have the same primary key. The next call of queue.open_gate admits the job.
        and not exists (
          select from queue.gated as e
          where e.workspace_id = p_workspace_id
            and e.job_type = p_job_type
            and e.key = p_key
            and e.admitted
            and e.ord = g.ord
            and e.job_id = g.job_id
        )
      order by g.ord
      limit v_count.free
      for update of g skip locked
    ))
    returning lane, ord, job_id
  ),
  placed as (
    insert into queue.ready (lane, workspace_id, ord, ready_at, job_id)
    select l.lane, p_workspace_id, l.ord, p_now, l.job_id
    from admitted as l
  )
  select count(*) as jobs, array_agg(distinct l.lane) as lanes, min(l.ord) as ord
  into v_admitted
  from admitted as l;
  perform queue.note_turn(l, p_workspace_id, v_admitted.ord)
  from unnest(v_admitted.lanes) as l;
  v_look_at := case
    when v_admitted.jobs = 1000 then p_now -- more jobs of the key may be waiting
    -- Fewer jobs than the limits allow were admitted, so no job still waits that could be admitted
    -- now. Check the key again one second later for jobs that other transactions have locked.
    when v_admitted.jobs < v_count.free or v_count.is_held then p_now + interval '1 second'
    -- Check the key again at the earliest time at which the rate limit allows the next start. If
    -- the key has no rate limit, v_count.tokens and v_look_at are null.
    when v_admitted.jobs + 1
        > v_count.tokens then v_count.at + make_interval(secs => greatest(
      0.001,
      (1 + v_admitted.jobs - v_count.tokens)
        * v_type.rate_per_seconds
        / v_type.rate_limit
    ))
  end;
  -- if v_look_at is null, the key is at its concurrency limit, and queue.open_gate is called again
  -- when one of the key's jobs ends
  if v_look_at is not null then
    insert into queue.notes (look_at, lane, workspace_id, key)
    select v_look_at, g.lane, p_workspace_id, p_key
    from queue.gated as g
    where g.workspace_id = p_workspace_id
      and g.job_type = p_job_type
      and g.key = p_key
      and not g.admitted
      and g.lane = any (v_open)
      and not exists ( -- one note per key is enough
        select from queue.notes as n
        where n.workspace_id = p_workspace_id
          and n.lane = any (v_open)
          and n.key = p_key
          and n.look_at between p_now and v_look_at
      )
    limit 1;
  end if;
end;
$$;

-- After a change of a job type's limits per concurrency key, move the waiting jobs of the job type
-- into queue.gated, or from queue.gated to queue.ready. The old limits still apply to a job that
-- another transaction has locked, or has inserted but not yet committed.
create function queue.regate(p_job_type text)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_type queue.job_types;
  v_lanes constant integer[] := array(
    select l.lane
    from queue.lanes as l
    where l.job_type = p_job_type
  );
  v_jobs uuid[];
begin
  select * into v_type
  from queue.job_types as t
  where t.job_type = p_job_type;
  v_jobs := array(
    select j.id
    from public.jobs as j
    where j.status = 'pending'
      and j.id = any (array(
        select r.job_id
        from queue.ready as r
        where r.lane = any (v_lanes)
        union all
        select g.job_id
        from queue.gated as g
        where g.lane = any (v_lanes) and not g.admitted
      ))
    for no key update skip locked
  );
  perform queue.leave_places(v_jobs);
  -- Delete the rows of queue.gated whose jobs ended while the type had no limit per key, because no
  -- settlement has marked these rows as ended.
  delete from queue.gated as g
  where g.lane = any (v_lanes)
    and g.admitted
    and not g.ended
    and not exists (
      select from public.jobs as j
      where j.id = g.job_id and j.finished_at is null
    );
  -- Insert the running jobs into queue.gated as admitted jobs, because running jobs count against
  -- the limit of their key. The update of queue.leases waits for transactions that are settling
  -- these jobs.
  with leased as (
    update queue.leases as r
    set key = coalesce(
      case
        when v_type.rate_per_key then coalesce(j.concurrency_key, '')
        when v_type.key_concurrency is not null then j.concurrency_key
      end,
      r.key
    )
    from public.jobs as j
    where r.lane = any (v_lanes) and j.id = r.job_id
    returning r.*
  )
  insert into queue.gated (lane, workspace_id, job_type, key, ord, job_id, admitted)
  select r.lane, r.workspace_id, p_job_type, r.key, r.ord, r.job_id, true
  from leased as r
  where r.key is not null
  -- do nothing if the running job already has a row in queue.gated
  on conflict do nothing;
  perform queue.note_gates(v_lanes);
  perform queue.place(j, queue.clock(), v_type)
  from public.jobs as j
  where j.id = any (v_jobs) and j.status = 'pending';
end;
$$;

-- Count the live jobs of a workspace, but at most p_most.
create function queue.live_jobs(p_workspace_id uuid, p_most integer)
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

-- Each sequence stores the last rejection of an enqueue by a limit of a workspace's live jobs: the
-- time in seconds, and after it 24 bits of a hash of the workspace and the limit. A rollback does
-- not restore a sequence.
create unlogged sequence queue.full_0 minvalue 0 start 0; -- noqa: PRS
create unlogged sequence queue.full_1 minvalue 0 start 0; -- noqa: PRS
create unlogged sequence queue.full_2 minvalue 0 start 0; -- noqa: PRS
create unlogged sequence queue.full_3 minvalue 0 start 0; -- noqa: PRS

-- Return the time of the last enqueue that the limit p_limit of the workspace rejected, and the
-- number of the sequence that stores it. The time is null if no enqueue was rejected, or if
-- rejections of four other pairs of workspace and limit were stored later. The sequence is then the
-- one with the oldest rejection.
create function queue.last_full(
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
create function queue.refuse_full(p_workspace_id uuid, p_limit text, p_message text)
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

-- Reject an enqueue if the workspace would have more live jobs than its limit. A limit of up to
-- 2,000 live jobs is enforced exactly, because only one call at a time counts the jobs, and
-- concurrent enqueues are rejected. A limit above 2,000 live jobs is compared with a stored count.
-- The count may be ten seconds old, or 20 seconds if another call is counting.
-- p_count: Number of jobs that the call is about to add.
create function queue.check_live_jobs(
  p_workspace_id uuid,
  p_count double precision default 1
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_own constant integer := (
    select l.max_pending
    from queue.tenant_limits as l
    where l.workspace_id = p_workspace_id
  );
  v_max constant integer := coalesce(v_own, queue.setting('user_pending_max')::integer);
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
      case when v_own is null then 'user_pending_max' else 'max_pending' end,
      format('the workspace may have at most %s live jobs; wait until some have ended', v_max)
    );
  end if;
end;
$$;

-- Reject a person's enqueue if the payloads of the workspace's live jobs have too many bytes. Only
-- one call in ten seconds counts the bytes of a workspace. Enqueues do not update a stored sum,
-- because concurrent enqueues would wait for each other to update the row of the sum.
create function queue.check_live_bytes(p_workspace_id uuid)
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

-- Token buckets for the rate limits of people. The buckets are stored in sequences, because a
-- rollback does not restore the value of a sequence. A call that is rejected or times out also
-- takes tokens. There is no sequence per person, because each sequence is a file. A bucket uses a
-- pair of sequences with the same number n. The sequence priced_<n> stores a hash of the bucket's
-- name, and the sequence refilled_<n> stores the time at which the bucket is full again, in
-- microseconds.
do $$
begin
  for v_nth in 0 .. 15 loop
    execute format('create unlogged sequence queue.priced_%s', v_nth);
    execute format('create unlogged sequence queue.refilled_%s', v_nth);
  end loop;
end;
$$;

-- Return the number of the pair of sequences that stores a token bucket, and the time at which the
-- bucket is full again. The hash of the bucket's name selects four candidate pairs. If none of the
-- four pairs stores the bucket, take over a pair whose bucket is full. If each of the four pairs
-- stores a bucket that is not full, return null. queue.find_pair reads the time of a pair before
-- the name of its bucket, because another bucket may take over the pair between the two reads.
create function queue.find_pair(
  p_hash bigint,
  p_micros bigint,
  out nth bigint,
  out full_at bigint
)
language plpgsql
set search_path = ''
as $$
declare
  v_unused bigint;
begin
  for v_step in 0 .. 3 loop
    nth := (p_hash / 2 + v_step) % 16;
    full_at := coalesce(pg_sequence_last_value('queue.refilled_' || nth), 1);
    if pg_sequence_last_value('queue.priced_' || nth) = p_hash then
      return;
    elsif full_at < p_micros then
      v_unused := coalesce(v_unused, nth);
    end if;
  end loop;
  nth := null;
  full_at := null;
  if queue.try_lock('priced ' || v_unused)
    and coalesce(pg_sequence_last_value('queue.refilled_' || v_unused), 1) < p_micros
  then
    nth := v_unused;
    perform setval('queue.priced_' || nth, p_hash);
  end if;
end;
$$;

-- Take tokens of a person's rate limit before a call does its work, or reject the call with status
-- 429. Each call stores in a sequence the time when the person's bucket will be full again, which
-- needs no row lock. Only one of concurrent calls also updates the row of queue.buckets.
-- p_cost: Number of tokens to take. A negative number returns tokens that an earlier call took.
create function queue.charge(
  p_bucket text,
  p_most integer,
  p_seconds double precision,
  p_cost double precision,
  p_limit text
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_micros constant bigint := date_part('epoch', v_now) * 1e6;
  v_per_token constant double precision := p_seconds * 1e6 / nullif(p_most, 0);
  v_hash constant bigint := (hashtextextended(p_bucket, 0) & 9223372036854775807) | 1;
  v_pair constant record := queue.find_pair(v_hash, v_micros);
  v_left double precision := queue.tokens_of(p_bucket, p_most, p_seconds, v_now);
begin
  if v_pair.full_at > v_micros then
    v_left := least(v_left, p_most - (v_pair.full_at - v_micros) / v_per_token);
  end if;
  v_left := least(p_most, v_left - p_cost);
  if v_left < 0 and p_cost > 0 then
    perform queue.refuse_rate(p_limit, p_most, p_seconds, v_left);
  end if;
  perform setval(
    'queue.refilled_' || v_pair.nth,
    floor(v_micros + (p_most - v_left) * v_per_token)::bigint
  )
  -- another bucket may have taken over the pair of sequences in the meantime, and this call must
  -- not take tokens of the other bucket
  where pg_sequence_last_value('queue.priced_' || v_pair.nth) = v_hash;
  perform queue.store_tokens(p_bucket, v_left, v_now);
end;
$$;

-- Limit how long a request of the Data API waits for a lock, because all callers share few
-- connections. The lock timeout applies until the transaction ends. The lock timeout must not apply
-- to the project's own code, so queue.limit_wait does nothing if the request calls a function or
-- table of the project. A function belongs to the engine or an app if its body calls a function of
-- the schema queue, or calls an app's private function whose body calls a function of the schema
-- queue.
-- p_ms: Maximum wait in milliseconds.
create function queue.limit_wait(p_ms integer)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_path constant text[] := string_to_array(current_setting('request.path', true), '/');
  v_call constant text := format('\m%s[.]\w+\(', 'queue'::regnamespace);
begin
  if current_setting('lock_timeout')::interval between '1 ms' and p_ms * interval '1 ms' then
    return;
  elsif v_path[2] = 'rpc' then
    perform from pg_catalog.pg_proc as p
    where p.pronamespace = 'public'::regnamespace
      and p.proname = v_path[3]
      and (
        p.prosrc ~ v_call
        or exists (
          select from pg_catalog.pg_depend as d
          join pg_catalog.pg_proc as c on c.oid = d.refobjid
          where d.classid = 'pg_catalog.pg_proc'::regclass
            and d.objid = p.oid
            and d.refclassid = 'pg_catalog.pg_proc'::regclass
            and c.pronamespace <> p.pronamespace
            and (c.pronamespace = 'queue'::regnamespace or c.prosrc ~ v_call)
        )
      );
  else
    perform from pg_catalog.pg_trigger as t
    join pg_catalog.pg_class as c on c.oid = t.tgrelid
    where t.tgname = 'admit_statement'
      and c.relnamespace = 'public'::regnamespace
      and c.relname = v_path[2];
  end if;
  perform set_config('lock_timeout', p_ms::text, true) where found;
end;
$$;

-- Take tokens of a person's rate limit for a call, or reject the call with status 429. Each
-- function that people may call runs queue.admit first, and a trigger runs queue.admit for each
-- statement on a table. The call takes p_count tokens, and one more token for each 16 kB that it
-- writes. A call of the kind 'changes' also takes a call slot, because the number of large calls at
-- a time is limited. A call of the kind 'changes' waits at most 100 ms for a lock
-- (queue.limit_wait).
-- p_kind: Kind of the call, which is jobs, streams, rows or changes. The kind 'rows' takes tokens
--   for rows that a function of the engine or an app has already written. The kind 'changes' is for
--   all writes that belong to no other kind. A person runs one call of the kind 'changes' at a
--   time. A person's second call of the kind 'changes' waits up to 200 ms.
create function queue.admit(
  p_kind text,
  p_workspace_id uuid default null,
  p_user_id uuid default queue.caller(),
  p_count double precision default 1,
  p_bytes bigint default 0
)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_limit constant text := case p_kind
    when 'streams' then 'stream_opens'
    else 'enqueues'
  end;
  v_burst integer;
begin
  if p_user_id is null then
    return;
  -- calls of other kinds need no limit of their waits, because an enqueue can only wait for the
  -- idempotency key or unique key of its job (queue.hold_key)
  elsif p_kind = 'changes' then
    perform queue.take_call_slot(p_workspace_id, p_writes => true);
    -- A person's second call of the kind 'changes' waits here for the first call. If the second
    -- call waited for a row lock instead, it would fail with 55P03, which the Data API returns with
    -- status 500.
    perform queue.take_place('change of ' || p_user_id, 1, 200);
    perform queue.limit_wait(100);
  end if;
  v_burst := queue.setting('user_' || v_limit || '_burst');
  perform queue.charge(
    format('u:%s/%s', p_user_id, v_limit),
    v_burst,
    v_burst / queue.setting('user_' || v_limit || '_per_second')::double precision,
    p_count + coalesce(p_bytes, 0) / 16384,
    v_limit
  );
  if p_kind = 'jobs' then
    perform queue.check_live_jobs(p_workspace_id, p_count);
    -- smaller payloads need no check of the stored bytes, because the number of live jobs is
    -- limited
    if p_bytes > 2048 * p_count then
      perform queue.check_live_bytes(p_workspace_id);
    end if;
  end if;
end;
$$;

-- Record that a client's own SQL changes public.jobs in this transaction, so that the triggers
-- after inserts and updates of public.jobs run. The setting minutehand.plain is the number of jobs
-- that the client's SQL has inserted, or 0 before the first insert.
create function queue.note_plain()
returns void
language sql
set search_path = ''
as $$
select set_config('minutehand.plain', '0', true)
where current_setting('minutehand.plain', true) <> '' is not true
$$;

-- Take tokens of a person's rate limit before an insert, update or delete locks or writes a row.
-- The number of rows is not known before the statement, so the function takes tokens for 100 rows,
-- or for fewer rows if the rate limit is low. After the statement, queue.charge_reserved corrects
-- the number of tokens. An insert with `on conflict do update` fires this trigger twice, but takes
-- tokens only once.
create function queue.admit_statement()
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
create trigger admit_statement
  before insert or update on public.jobs
  for each statement
  -- compare with a text, because Postgres parses the trigger's condition for each statement, and a
  -- constant of the type `name` would be longer
  when (current_user = 'authenticated'::text)
  execute function queue.admit_statement();

-- Take tokens of a person's rate limit for p_count rows that a statement has written, minus the
-- tokens that queue.admit_statement took. Each row costs one token, and one more token for each 16
-- kB. A person's statement costs at least one token for each 10 ms, up to a quarter of a full
-- bucket, because a search for rows costs as much if no row matches. The first 100 ms per row are
-- free, because the statement may have waited that long for another transaction's lock of the row.
create function queue.charge_reserved(p_count bigint, p_bytes bigint default 0)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_reserved constant integer := nullif(current_setting('minutehand.reserved', true), '');
begin
  perform set_config('minutehand.reserved', '', true) where v_reserved > 0;
  perform queue.admit(
    'rows',
    p_count => greatest(
      p_count,
      case
        when v_reserved > 0 then least(
          queue.setting('user_enqueues_burst')::numeric / 4,
          100 * extract(
            epoch from queue.clock()
              - nullif(current_setting('minutehand.began', true), '')::timestamptz
          ) - 10 * p_count
        )
      end
    ) - coalesce(v_reserved, 0),
    p_bytes => p_bytes
  );
end;
$$;

-- Take tokens of a person's rate limit for the rows that a statement has written.
create function queue.charge_written()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
begin
  if queue.caller() is not null then
    perform queue.charge_reserved(count(*), sum(octet_length(to_jsonb(w)::text)))
    from written as w;
  end if;
  return null;
end;
$$;

-- Create triggers on the tables p_tables that take tokens of a person's rate limit. The triggers
-- take tokens for the person's statements, and for rows that the person writes through functions.
-- If a project has replaced one of the tables by a view, the function creates no triggers on the
-- view.
create function queue.charge_rows(variadic p_tables regclass[])
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_table regclass;
  v_event text;
  v_rows text;
begin
  for v_table, v_event, v_rows in
    select c.oid, e.name, e.rows
    from pg_catalog.pg_class as c
    cross join (
      values
        ('insert', 'new'),
        ('update', 'new'),
        ('delete', 'old')
    ) as e (name, rows)
    where c.oid = any (p_tables) and c.relkind = 'r'
  loop
    execute format(
      'create or replace trigger admit_statement before insert or update or delete on %s '
        'for each statement when (current_user = ''authenticated'') '
        'execute function queue.admit_statement()',
      v_table
    );
    execute format(
      'create or replace trigger %I after %s on %s referencing %s table as written '
        'for each statement execute function queue.charge_written()',
      'charge_' || v_event,
      v_event,
      v_table,
      v_rows
    );
  end loop;
end;
$$;
select queue.charge_rows('public.workspace_members');

-- Take one of p_most call slots until the transaction ends, or reject the call with status 429. A
-- transaction takes a call slot of the same person or workspace only once.
-- p_id: Id of the person or workspace that the call slots belong to, or null to take no call slot.
-- p_most: Number of call slots.
-- p_ms: Maximum time to wait for a call slot, in milliseconds. A waiting call occupies a database
--   connection, so the caller must first take another call slot without waiting, which limits the
--   number of waiting calls.
create function queue.take_place(p_id text, p_most integer, p_ms integer default 0)
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
create function queue.take_call_slot(
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
create function queue.admit_plain_read()
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

-- For a person's call, lock an idempotency key or unique key before a job gets the key. If another
-- transaction is taking the same key, wait up to two seconds, because the response must contain the
-- job that gets the key. Only one call of a person may wait for a key, and further calls of the
-- person are rejected. A transaction takes at most 100 locks of keys, because the server has few
-- advisory locks. A call of the service takes no advisory lock, and waits for the lock of the key's
-- row.
create function queue.hold_key(p_workspace_id uuid, p_job_type text, p_key text)
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_user constant uuid := queue.caller();
  v_until constant timestamptz := clock_timestamp() + interval '2 seconds';
begin
  if v_user is null or queue.reserve_locks(1, 100) = 0 then
    return;
  end if;
  while not queue.try_lock(format('key %s/%s/%s', p_workspace_id, p_job_type, p_key)) loop
    if clock_timestamp() > v_until or not queue.try_lock('waits ' || v_user) then
      perform queue.refuse(
        429,
        'job_busy',
        'another call of yours uses a job with this key; call again',
        '{"retry_after_seconds": 1}'
      );
    end if;
    perform pg_sleep(0.005);
  end loop;
  -- limit the wait for the key's row, because a transaction of the service may be writing the same
  -- key without this advisory lock
  perform queue.limit_wait(2000);
end;
$$;

-- For apps. Let only one call at a time use the app's record with the id p_id, and reject
-- concurrent calls, because they would wait for locked rows of the record. queue.hold_id takes a
-- token of the person's rate limit before the app writes a row.
create function queue.hold_id(p_id text)
returns void
language plpgsql
set search_path = ''
as $$
begin
  if queue.is_service() then
    return;
  elsif not queue.try_lock('object ' || p_id) then
    perform queue.refuse(
      429,
      'job_busy',
      'another call uses the same id; call again',
      '{"retry_after_seconds": 1}'
    );
  end if;
  perform queue.limit_wait(100);
  perform queue.admit('rows');
end;
$$;

create function public.open_stream()
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
begin
  perform queue.admit('streams');
  return jsonb_build_object('opened', true);
end;
$$;
comment on function public.open_stream is
  'Take a token of the caller''s rate limit of streams: {opened}, or 429 rate_limited.';
select queue.allow('authenticated, service_role', 'public.open_stream');

create function public.set_workspace_limits(p_workspace_id uuid, p_limits jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_made queue.tenant_limits;
begin
  perform queue.may_manage(p_workspace_id);
  perform queue.check_names(
    p_limits,
    array['weight', 'max_running', 'own_max_running', 'max_pending'],
    'limits'
  );
  if queue.caller() is not null
    and p_limits ?| array['weight', 'max_running', 'max_pending']
  then
    perform queue.refuse(
      403,
      'forbidden',
      'a manager may set only own_max_running',
      'limits'
    );
  end if;
  if not coalesce(p_limits ->> 'weight', '1') ~ '^([1-9][0-9]?|100)$' then
    perform queue.refuse(
      400,
      'invalid_argument',
      'weight must be a whole number from 1 to 100',
      'weight'
    );
  end if;
  insert into queue.tenant_limits (workspace_id)
  values (p_workspace_id)
  on conflict do nothing;
  update queue.tenant_limits as t
  set (weight, max_running, own_max_running, max_pending) = (
    select coalesce(n.weight, 1), n.max_running, n.own_max_running, n.max_pending
    from jsonb_populate_record(t, p_limits) as n
  )
  where workspace_id = p_workspace_id
  returning * into v_made;
  return to_jsonb(v_made) - 'running_max';
exception when check_violation
  or invalid_text_representation
  or numeric_value_out_of_range then
  perform queue.refuse(
    400,
    'invalid_argument',
    'a limit is invalid: ' || sqlerrm,
    'limits'
  );
end;
$$;
comment on function public.set_workspace_limits is
  E'Change limits of a workspace: {weight, max_running, own_max_running, max_pending}.\n\n'
  'Null removes a limit. Managers may set own_max_running only.';
select queue.allow('authenticated, service_role', 'public.set_workspace_limits');

create function public.workspace_limits(p_workspace_id uuid)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
begin
  perform queue.may_read(p_workspace_id);
  return jsonb_build_object(
    'workspace_id', p_workspace_id,
    'weight', 1,
    'max_running', null,
    'own_max_running', null,
    'max_pending', null
  )
    || coalesce(
      (
        select to_jsonb(t) - 'running_max'
        from queue.tenant_limits as t
        where t.workspace_id = p_workspace_id
      ),
      '{}'
    )
    || jsonb_build_object(
      'running', (
        select count(*)
        from queue.leases as l
        where l.workspace_id = p_workspace_id
      )
    );
end;
$$;
comment on function public.workspace_limits is
  'Return the limits of a workspace, and the number of its running jobs.';
select queue.allow('authenticated, service_role', 'public.workspace_limits');

-- Change settings. Each setting must already have a row in queue.settings, which a migration
-- inserts, and the new value must have the JSON type of the stored value.
create function public.set_settings(p_settings jsonb)
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

-- Reject the call if its worker key is revoked. Every function for workers must call
-- queue.refuse_revoked, and queue.allow rejects a function without this call. queue.refuse_revoked
-- always returns false. A caller that must be fast assigns the result to a variable, because an
-- assignment costs less than `perform`.
create function queue.refuse_revoked()
returns boolean
language plpgsql stable
set search_path = ''
as $$
declare
  v_claims jsonb := nullif(current_setting('request.jwt.claims', true), '');
begin
  if v_claims ->> 'role' is distinct from 'job_worker' then
    return false;
  end if;
  perform from jsonb_array_elements(queue.setting('worker_keys_revoked')) as r
  where (r ->> 'from')::numeric <= extract(epoch from queue.clock())
    and coalesce((v_claims ->> 'iat')::numeric, 0) < (r ->> 'before')::numeric;
  if found then
    perform queue.refuse(
      401,
      'key_revoked',
      'this worker key was revoked',
      'SUPABASE_WORKER_KEY'
    );
  end if;
  return false;
end;
$$;

create function public.revoke_worker_keys(
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
