-- This file contains the functions with which people control jobs. People can cancel a job with its
-- children, retry a job, replay a job from a step, and pause jobs. public.cancel_jobs and
-- public.retry_jobs cancel or retry many jobs.

-- Cancel the jobs p_ids and their live descendants. A pending or waiting job is cancelled
-- immediately. For a running job, only a cancel request is stored, because its worker must stop the
-- job. If the caller has not locked the jobs, the function locks them, takes one token of the
-- person's rate limit for each job and descendant, and cancels the first 100 descendants.
-- queue.cancel inserts signals for the other descendants, so that maintenance cancels them. Return
-- the number of jobs and descendants, with at most 5,000 descendants.
-- p_retry: True to retry the jobs once they are cancelled. queue.settle retries a running job when
--   it ends, unless it completes, or its result is too large, as another attempt's would be. The
--   latest call decides whether a running job is retried. A job stays cancelled if another job now
--   has its unique key. Children that are cancelled with their parent are retried with it. Running
--   children get a request of their own, because they may end later.
create function queue.cancel(
  p_ids uuid[],
  p_now timestamptz,
  p_is_locked boolean default false,
  p_reason text default 'cancelled',
  p_retry boolean default false
)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_children uuid[];
  v_asked uuid[];
  v_count integer;
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
    v_count := cardinality(p_ids) + cardinality(v_children);
    perform queue.admit(
      'changes',
      p_count => case
        -- retries cost at most half of all tokens, so that a large call can succeed
        when p_retry then greatest(
          v_count,
          least(2 * v_count, queue.setting('user_enqueues_burst')::integer / 2)
        )
        else v_count
      end
    );
    perform queue.hold_jobs(p_ids || v_children[:100]);
    perform queue.cancel(
      v_children[:100],
      p_now,
      p_is_locked => true,
      p_reason => 'parent_ended',
      p_retry => p_retry
    );
  end if;
  with asked as (
    update public.jobs
    set cancel_requested_at = p_now
    where id = any (p_ids)
      and status = 'processing'
      and (cancel_requested_at is null or queue.retry_requested(id) <> p_retry)
    returning id
  )
  select array_agg(a.id) into v_asked
  from asked as a;
  perform queue.append_event(
    v_asked,
    'job.cancel_requested',
    v_reason || case when p_retry then '{"retry": true}' else '{}' end::jsonb,
    p_now
  )
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
  if p_retry
    and p_reason = 'cancelled'
    and queue.retry(
      array(
        select j.id
        from public.jobs as j
        where j.id = any (p_ids) and j.status = 'cancelled'
      ),
      p_now
    ) > 0
  then
    perform queue.wake_worker(p_now);
  end if;
  return cardinality(p_ids) + coalesce(cardinality(v_children), 0);
end;
$$;

create function public.cancel_job(p_job_id uuid, p_retry boolean default false)
returns jsonb
language plpgsql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_job public.jobs := queue.visible_job(p_job_id);
begin
  if p_retry and v_job.status = 'cancelled' then
    return public.retry_job(p_job_id);
  end if;
  perform queue.cancel(array[p_job_id], queue.clock(), p_retry => coalesce(p_retry, false));
  v_job := queue.visible_job(p_job_id);
  if v_job.status in ('completed', 'failed') then
    perform queue.refuse(
      409,
      'invalid_state',
      format('the job is already %s', v_job.status),
      v_job.status
    );
  end if;
  return queue.job_json(v_job);
end;
$$;
comment on function public.cancel_job is
  E'Cancel a job and its live children. Returns the job.\n\nA worker that responds asks a running '
  'job to stop within five seconds. Otherwise the job ends after its lease has expired. Children '
  'beyond the first hundred are cancelled within seconds. With p_retry, '
  'the job is retried as by retry_job once it has ended, unless it completes first. A later call '
  'without p_retry withdraws the retry. 409 if the job has completed or failed, 429 job_busy while '
  'another transaction changes it.';
select queue.allow('authenticated, service_role', 'public.cancel_job');

-- A client may cancel jobs with an SQL update of public.jobs, but may change nothing else. This
-- trigger collects the ids of the updated jobs and skips the update of their rows, which the
-- statement has already locked. queue.cancel_updated cancels the collected jobs after the
-- statement. A person may cancel up to 1,000 jobs in one statement. Jobs that the service cancels
-- are processed in batches of 1,000. The trigger recognizes the engine's own updates, because they
-- change fence, last_seq, generation, lost_attempts or lane. A truncate of public.jobs is rejected,
-- because a truncate fires no row triggers.
create function queue.cancel_by_update()
returns trigger
language plpgsql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_count integer;
begin
  if tg_op = 'TRUNCATE' then
    perform queue.refuse(
      409,
      'invalid_state',
      'truncate would leave data of the jobs; delete from public.jobs instead'
    );
  elsif (new.fence, new.generation, new.lost_attempts, new.lane)
      is distinct from (old.fence, old.generation, old.lost_attempts, old.lane)
    or (
      new.status, new.priority, new.ord, new.queue, new.job_type, new.workspace_id,
      new.next_retry_at, new.scheduled_for, new.deadline_at, new.start_by_at,
      new.concurrency_key
    ) is not distinct from (
      old.status, old.priority, old.ord, old.queue, old.job_type, old.workspace_id,
      old.next_retry_at, old.scheduled_for, old.deadline_at, old.start_by_at,
      old.concurrency_key
    )
  then
    return new;
  elsif new.status <> 'cancelled'
    or old.status in ('completed', 'failed', 'cancelled')
  then
    perform queue.refuse(
      409,
      'invalid_state',
      case
        when new.status = old.status
          then 'an update cannot change times, keys or the queue of a job; '
            'retry_job runs it now, enqueue_job with a unique key replaces it'
        else format(
          'a %s job cannot become %s by update; cancel_job, retry_job and settle_jobs '
            'change the status',
          old.status,
          left(new.status, 40)
        )
      end,
      old.status
    );
  elsif not (
    queue.is_service() or queue.is_manager(old.workspace_id) or queue.is_operator()
  ) then
    -- only managers may cancel more than one job at once, as in queue.change_jobs
    if current_setting('minutehand.has_cancelled', true) = 'yes' then
      perform queue.refuse(
        403,
        'forbidden',
        'only managers of the workspace may cancel many jobs at once',
        old.workspace_id::text
      );
    end if;
    perform set_config('minutehand.has_cancelled', 'yes', true);
  end if;
  v_count := length(
    set_config(
      'minutehand.cancels',
      concat(current_setting('minutehand.cancels', true), old.id, ' '),
      true
    )
  ) / 37;
  if v_count = 1 then
    perform queue.note_plain();
  end if;
  if v_count > 1000 and queue.caller() is not null then
    perform queue.admit('rows', p_count => 1000);
    perform queue.refuse(
      400,
      'invalid_argument',
      'an update may cancel at most 1,000 jobs; select fewer, or call cancel_jobs',
      'status'
    );
  end if;
  perform queue.cancel_updated() where v_count = 1000 and queue.caller() is null;
  return null;
end;
$$;

-- Charge the caller's rate limit, and cancel the jobs that queue.cancel_by_update has collected.
create function queue.cancel_updated()
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_ids constant uuid[] := string_to_array(
    rtrim(current_setting('minutehand.cancels', true)), ' '
  );
begin
  perform set_config('minutehand.cancels', '', true);
  perform queue.charge_reserved(coalesce(cardinality(v_ids), 0));
  perform queue.cancel(v_ids, queue.clock(), p_is_locked => true) where v_ids <> '{}';
end;
$$;

create function queue.after_update()
returns trigger
language plpgsql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
begin
  perform queue.cancel_updated();
  return null;
end;
$$;
create trigger jobs_after_update
  after update on public.jobs
  for each statement
  when (current_setting('minutehand.plain', true) <> '')
  execute function queue.after_update();

-- Most leases and settlements change last_seq, so they do not fire the trigger
-- jobs_cancel_by_update. A lease that adds no event to its job fires the trigger. The condition of
-- the trigger jobs_cancel_by_update is short, because Postgres parses it for each statement that
-- inserts or updates jobs. A condition with all comparisons of the trigger function took a twelfth
-- of the time of a call that settles one job and leases the next.
create trigger jobs_cancel_by_update
  before update of status, priority, ord, queue, job_type, workspace_id,
    next_retry_at, scheduled_for, deadline_at, start_by_at, concurrency_key on public.jobs
  for each row
  when (new.last_seq = old.last_seq)
  execute function queue.cancel_by_update();
create trigger jobs_refuse_truncate
  before truncate on public.jobs
  for each statement
  execute function queue.cancel_by_update();
create policy "members cancel jobs" on public.jobs
  for update
  to authenticated
  using (workspace_id = any (array(select queue.my_workspaces())));
grant update (status) on public.jobs to authenticated, service_role;

-- Retry those of the jobs p_ids that failed or were cancelled. The caller must have locked the
-- jobs. Skip a job whose unique key now belongs to another job. A retried job has its unique key
-- until it finishes, because the option `until` of the first enqueue is not stored. A call with
-- until 'leased' takes the key from the running job (queue.claim). Insert signals, so that
-- maintenance also retries child jobs that were cancelled because their parent ended. Return the
-- number of retried jobs.
create function queue.retry(p_ids uuid[], p_now timestamptz)
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
  -- If a wait for child jobs failed the job, the job waits again for them if one that did not
  -- complete has changed since. It keeps their results if a completed child job has been deleted.
  with gathered as materialized (
    select
      s.job_id,
      s.name,
      s.value,
      coalesce( -- errors of before 0.5.11 have only the ids of up to 100 children
        s.name = j.error_data #>> '{data,wait}',
        j.error_data #> '{data,failed}' ? (s.value ->> 'id')
      ) as is_cause,
      c.*
    from public.jobs as j
    join queue.steps as s on s.job_id = j.id
    left join lateral (
      select o.id, o.status, o.error_message
      from public.jobs as o
      where o.id = any (array[(s.value ->> 'id')::uuid])
      offset 0
    ) as c on true
    where j.id = any (v_ids)
      and j.error_data ->> 'type' = 'minutehand.worker.context.ChildrenFailed'
      and s.kind = 'children'
      and s.nth > 0
  )
  delete from queue.steps as s
  using (
    select g.job_id, g.name
    from gathered as g
    group by 1, 2
    having bool_or(
        g.is_cause
        and g.id is not null
        and (g.value ->> 'status', g.value ->> 'error_message')
          is distinct from (g.status, g.error_message)
      )
      and bool_and(g.value ->> 'status' <> 'completed' or g.id is not null)
  ) as w
  where s.job_id = w.job_id and s.name = w.name and s.kind = 'children';
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

-- Make those of the jobs p_ids due that wait for a retry or for their scheduled time. The caller
-- must have locked the jobs. Return the number of these jobs.
create function queue.run_now(p_ids uuid[], p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_ids constant uuid[] := array(
    select j.id
    from public.jobs as j
    where j.id = any (p_ids)
      and j.status = 'pending'
      and coalesce(j.next_retry_at, j.scheduled_for) > p_now
    order by j.id
  );
begin
  if v_ids = '{}' then
    return 0;
  end if;
  perform queue.leave_places(v_ids);
  update public.jobs
  set
    next_retry_at = null,
    scheduled_for = null,
    start_by_seconds = null,
    start_by_at = null,
    last_seq = last_seq + 1
  where id = any (v_ids);
  perform queue.append_event(v_ids, 'job.redriven', '{}', p_now, p_is_counted => true);
  perform queue.place(j, p_now)
  from public.jobs as j
  where j.id = any (v_ids)
  order by j.id;
  return cardinality(v_ids);
end;
$$;

create function public.retry_job(p_job_id uuid, p_payload jsonb default null)
returns jsonb
language plpgsql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_job public.jobs := queue.visible_job(p_job_id);
  v_family integer; -- number of retried jobs: this job and up to 5,000 children
begin
  v_family := 1 + (
    select count(*)
    from (
      select from public.jobs as c
      where c.parent_id = p_job_id
        and c.status = 'cancelled'
        and c.error_data ->> 'reason' = 'parent_ended'
      limit 5000
    ) as c
  );
  perform queue.admit(
    'changes',
    v_job.workspace_id,
    p_count => v_family,
    p_bytes => octet_length(p_payload::text)
  );
  perform queue.hold_jobs(array[p_job_id]);
  v_job := queue.visible_job(p_job_id);
  if v_job.status in ('failed', 'cancelled') then
    if queue.retry(array[p_job_id], v_now) = 0 then
      perform queue.refuse(
        409,
        'duplicate_job',
        'another job now has the unique key of this job',
        (
          select u.job_id::text
          from queue.job_keys as u
          where u.workspace_id = v_job.workspace_id
            and u.job_type = v_job.job_type
            and u.key = v_job.unique_key
            and u.is_unique
        )
      );
    end if;
  elsif queue.run_now(array[p_job_id], v_now) = 0 then
    perform queue.refuse(
      409,
      'invalid_state',
      format('a %s job cannot be retried', v_job.status),
      v_job.status
    );
  end if;
  if p_payload <> 'null' then -- validate the payload as in an enqueue
    v_job := queue.new_job(
      v_job.workspace_id,
      queue.caller(),
      queue.require_type(v_job.job_type),
      p_payload,
      '{}',
      v_now
    );
    update public.jobs
    set payload = p_payload, schema_version = v_job.schema_version
    where id = p_job_id;
    perform queue.append_event(array[p_job_id], 'job.edited', '{}', v_now);
    perform queue.check_live_bytes(v_job.workspace_id);
  end if;
  perform queue.wake_worker(v_now);
  return queue.job_json(queue.visible_job(p_job_id));
end;
$$;
comment on function public.retry_job is
  E'Run a failed or cancelled job again, or a delayed job now, optionally with another payload. '
  'Returns the job.\n\nFinished steps are kept. 409 in any other state, 429 job_busy while another '
  'transaction changes the job.';
select queue.allow('authenticated, service_role', 'public.retry_job');

-- Cancel or retry up to p_limit jobs that match a filter as in public.list_jobs, newest first. The
-- search for these jobs stops after two seconds. A filter without a state selects live jobs for a
-- cancellation, and failed jobs for a retry.
-- p_then_retry: True to retry the cancelled jobs (queue.cancel).
create function queue.change_jobs(
  p_workspace_id uuid,
  p_filter jsonb,
  p_limit integer,
  p_cursor uuid,
  p_is_retry boolean,
  p_then_retry boolean default false
)
returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_until constant timestamptz := clock_timestamp() + interval '2 seconds';
  v_states constant jsonb := coalesce(p_filter -> 'state', p_filter -> 'status');
  v_allowed constant jsonb := case
    when p_is_retry then '["failed", "cancelled", "scheduled", "retrying"]'
    else '["pending", "processing", "waiting", "queued", "scheduled", "retrying", "running",
      "suspended"]'
  end;
  v_filter jsonb := jsonb_strip_nulls(p_filter);
  -- limit the tokens of the caller's rate limit that the search of one call takes, so that the
  -- caller can repeat the call
  v_unpaid integer := queue.setting('user_enqueues_burst')::integer / 4;
  v_price integer;
  v_found record;
  v_ids uuid[] := '{}';
  v_count integer;
begin
  perform queue.may_manage(p_workspace_id);
  if p_filter ? 'workspace_id' then
    perform queue.refuse(
      400,
      'invalid_argument',
      'the filter must not contain workspace_id',
      'filter'
    );
  elsif v_filter = '{}' and not p_is_retry then
    perform queue.refuse(
      422,
      'validation_failed',
      'filter: name at least one criterion',
      'filter'
    );
  elsif not v_allowed @> v_states then
    perform queue.refuse(
      400,
      'invalid_argument',
      'the call does not apply to jobs in the states ' || v_states::text,
      'state'
    );
  elsif p_limit between 1 and 1000 is not true then
    perform queue.refuse(
      400,
      'invalid_argument',
      'limit must be between 1 and 1000',
      'limit'
    );
  end if;
  if v_states is null then
    v_filter := v_filter || jsonb_build_object(
      'status', case
        when p_is_retry then '["failed"]'
        else '["pending", "processing", "waiting"]'
      end::jsonb
    );
  end if;
  loop
    v_found := queue.search_jobs(
      v_filter,
      array[p_workspace_id],
      p_cursor,
      p_limit
    );
    v_price := least(v_found.searched / 20, v_unpaid);
    v_unpaid := v_unpaid - v_price;
    perform queue.admit('rows', p_count => v_price);
    v_ids := v_ids || array(
      select j.id
      from unnest(v_found.ids) as f (id)
      join public.jobs as j on j.id = f.id
      where case
        when p_is_retry then j.finished_at is null or not exists (
          select from queue.job_keys as u
          where u.workspace_id = j.workspace_id
            and u.job_type = j.job_type
            and u.key = j.unique_key
            and u.is_unique
        )
        else j.finished_at is null
          and (
            j.cancel_requested_at is null
            or queue.retry_requested(j.id) <> p_then_retry
          )
      end
      order by j.id desc
    );
    p_cursor := v_found.last_id;
    exit when p_cursor is null
      or cardinality(v_ids) >= p_limit
      or clock_timestamp() > v_until;
  end loop;
  if cardinality(v_ids) > p_limit then
    v_ids := v_ids[:p_limit];
    p_cursor := v_ids[p_limit];
  end if;
  if p_is_retry then
    perform queue.admit('changes', p_workspace_id, p_count => cardinality(v_ids));
    perform queue.hold_jobs(v_ids);
    v_count := queue.retry(v_ids, v_now) + queue.run_now(v_ids, v_now);
    perform queue.wake_worker(v_now) where v_count > 0;
  else
    perform queue.cancel(v_ids, v_now, p_retry => p_then_retry);
    v_count := cardinality(v_ids);
  end if;
  return jsonb_build_object(
    'count', v_count,
    'more', p_cursor is not null,
    'cursor', p_cursor
  );
end;
$$;

create function public.cancel_jobs(
  p_workspace_id uuid,
  p_filter jsonb,
  p_limit integer default 1000,
  p_cursor uuid default null,
  p_retry boolean default false
)
returns jsonb
language sql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
select queue.change_jobs(
  p_workspace_id,
  p_filter,
  p_limit,
  p_cursor,
  false,
  coalesce(p_retry, false)
)
$$;
comment on function public.cancel_jobs is
  E'Cancel live jobs that match a filter of list_jobs, at most p_limit (1,000): {count, more, '
  'cursor}.\n\nFor managers. p_retry retries them as in cancel_job. While more is true, call again '
  'with the cursor as p_cursor.';
select queue.allow('authenticated, service_role', 'public.cancel_jobs');

create function public.retry_jobs(
  p_workspace_id uuid,
  p_filter jsonb,
  p_limit integer default 1000,
  p_cursor uuid default null
)
returns jsonb
language sql
security definer
set search_path = ''
set enable_seqscan = off
set jit = off
as $$
select queue.change_jobs(p_workspace_id, p_filter, p_limit, p_cursor, true)
$$;
comment on function public.retry_jobs is
  E'Retry failed jobs that match a filter of list_jobs, at most p_limit (1,000): {count, more, '
  'cursor}.\n\nFor managers. A filter with the state cancelled retries cancelled jobs, and one '
  'with the state scheduled or retrying runs these jobs now. While more is true, call again with '
  'the cursor as p_cursor.';
select queue.allow('authenticated, service_role', 'public.retry_jobs');

create function public.replay_job(p_job_id uuid, p_request jsonb default '{}')
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_job constant public.jobs := queue.visible_job(p_job_id);
  v_from constant text := p_request ->> 'from_step';
  v_payload constant jsonb := nullif(p_request -> 'payload', 'null');
  v_from_at constant timestamptz := (
    select s.created_at
    from queue.steps as s
    where s.job_id = p_job_id and s.name = v_from and s.nth = 0
  );
  v_made jsonb;
  v_id uuid;
begin
  perform queue.take_call_slot(v_job.workspace_id, p_writes => true); -- it may copy many steps
  perform queue.check_names(
    p_request,
    '{from_step,payload,idempotency_key}',
    'request'
  );
  if v_from is not null and v_from_at is null then
    perform queue.refuse(
      400,
      'invalid_argument',
      format('the job has no finished step %s', v_from),
      'from_step'
    );
  end if;
  v_made := public.enqueue_job(
    v_job.workspace_id,
    v_job.job_type,
    coalesce(v_payload, v_job.payload),
    jsonb_strip_nulls(jsonb_build_object(
      'queue', v_job.queue,
      'priority', v_job.priority,
      'max_attempts', v_job.max_attempts,
      'timeout_seconds', v_job.timeout_seconds,
      'start_by_seconds', v_job.start_by_seconds,
      'concurrency_key', v_job.concurrency_key,
      'session_id', v_job.session_id,
      'tags', to_jsonb(v_job.tags),
      'idempotency_key', p_request ->> 'idempotency_key',
      -- Schema version 0 means that no worker has published the job type yet. When a worker
      -- publishes the type, the worker also checks the payloads of the waiting jobs.
      'schema_version', case
        when v_payload is null then nullif(v_job.schema_version, 0)
      end,
      'user_id', case when queue.caller() is null then v_job.user_id end
    ))
  );
  if v_made -> 'created' = 'false' then
    if (v_made #>> '{job,replay_of}', v_made #>> '{job,replay_from}')
      is distinct from (p_job_id::text, v_from) then
      perform queue.refuse(
        409,
        'idempotency_conflict',
        'this idempotency key was used with another request',
        v_made #>> '{job,id}'
      );
    end if;
    return v_made;
  end if;
  v_id := v_made #>> '{job,id}';
  perform queue.admit( -- take tokens for the size of the results, as an enqueue for its payload
    'changes',
    v_job.workspace_id,
    p_count => 0,
    p_bytes => sum(octet_length(s.value::text)) + queue.output_bytes(p_job_id)
  )
  from queue.steps as s
  where s.job_id = p_job_id and s.created_at < v_from_at;
  update public.jobs
  set replay_of = p_job_id, replay_from = v_from
  where id = v_id;
  insert into queue.steps (job_id, name, nth, kind, value, started_at, created_at)
  select v_id, s.name, s.nth, s.kind, s.value, s.started_at, s.created_at
  from queue.steps as s
  join queue.steps as f
    on f.job_id = s.job_id
    and f.name = s.name
    and f.nth = 0
    and f.created_at < v_from_at
  where s.job_id = p_job_id;
  if found then
    perform queue.copy_output(p_job_id, v_id);
  end if;
  return v_made || jsonb_build_object('job', public.get_job(v_id));
end;
$$;
comment on function public.replay_job is
  E'Run a job again as a new job, from its start or from a finished step: {job, created, '
  'wake}.\n\nRequest: {from_step?, payload?, idempotency_key?}. The new job skips the steps that '
  'finished before from_step.';
select queue.allow('authenticated, service_role', 'public.replay_job');

create function public.pause_jobs(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_kind constant text := p_request ->> 'kind';
  v_paused constant boolean := coalesce((p_request ->> 'paused')::boolean, true);
  v_name text := p_request ->> 'name';
  v_type constant text := case
    when v_kind in ('job_type', 'workspace_type') then v_name
  end;
  v_workspace uuid;
  v_signal queue.signals;
begin
  if v_name is null
    or v_kind in ('job_type', 'queue', 'workspace', 'workspace_type') is not true
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      'kind must be job_type, queue, workspace or workspace_type, and name is required',
      'kind'
    );
  elsif v_kind in ('workspace', 'workspace_type') then
    v_workspace := case v_kind
      when 'workspace' then v_name
      else p_request ->> 'workspace_id'
    end;
    v_name := concat_ws('/', v_workspace, v_type);
    perform queue.may_manage(v_workspace);
  elsif not (queue.is_operator() or queue.is_service()) then
    perform queue.refuse(
      403,
      'forbidden',
      'only operators pause a queue or a job type',
      v_kind
    );
  end if;
  perform from queue.job_types as t
  where t.job_type = v_type -- a pause may exist after its job type is deleted
  union all
  select from queue.pauses as p
  where (p.kind, p.name) = (v_kind, v_name);
  if v_type is not null and not found then
    perform queue.refuse(
      404,
      'unknown_job_type',
      'job type not found',
      left(v_type, 100)
    );
  end if;
  v_signal.kind := 'resumed';
  v_signal.workspace_id := coalesce(v_workspace, queue.system_workspace());
  if v_paused then
    insert into queue.pauses (
      kind, name, workspace_id, job_type, paused_at, paused_by, reason
    )
    values (
      v_kind,
      v_name,
      v_workspace,
      v_type,
      queue.clock(),
      coalesce(queue.caller()::text, p_request ->> 'by', 'service'),
      left(p_request ->> 'reason', 500)
    )
    on conflict (kind, name) do update set reason = coalesce(
      pauses.reason,
      excluded.reason
    );
  else
    delete from queue.pauses where kind = v_kind and name = v_name;
  end if;
  -- when a pause of a job type or queue begins, the next lease must also check the jobs that wait
  -- for a concurrency key
  if (not v_paused or v_workspace is null)
    and queue.handle_signal(v_signal, queue.clock()) is null
  then
    insert into queue.signals (kind, workspace_id)
    values ('resumed', v_signal.workspace_id);
  end if;
  perform queue.send_wakeup(queue.clock()), queue.wake_worker()
  where not v_paused;
  -- Also return the pauses that remain, because a remaining pause may still stop the resumed jobs.
  return jsonb_build_object('kind', v_kind, 'name', v_name, 'paused', false)
    || coalesce(
      (
        select jsonb_build_object(
          'paused', true,
          'left', jsonb_agg(jsonb_build_object(
            'kind', p.kind,
            'reason', p.reason,
            'paused_by', queue.shown_person(p.paused_by, v_workspace),
            'next', queue.render_guidance(
              p.kind || '_paused',
              jsonb_build_object('job_type', p.job_type, 'queue', p.name)
            ) -> 'next'
          ))
        )
        from queue.pauses as p
        where (p.kind, p.name) = (v_kind, v_name)
          or p.job_type = v_type and coalesce(p.workspace_id = v_workspace, true)
          or p.kind = 'workspace' and p.workspace_id = v_workspace
        having count(*) > 0
      ),
      '{}'
    );
end;
$$;
comment on function public.pause_jobs is
  E'Pause or resume: {kind: job_type|queue|workspace|workspace_type, name, workspace_id (of '
  'workspace_type), paused = true, reason?}. Returns {kind, name, paused, left: [{kind, reason, '
  'paused_by, next}]}. left lists the pauses that still stop these jobs.\n\nRunning jobs continue. '
  'Operators pause a type or queue of all workspaces. Managers pause their workspace, or a type in '
  'it.';
select queue.allow('authenticated, service_role', 'public.pause_jobs');
