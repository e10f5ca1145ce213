-- What people do to jobs: cancel (trees too), retry, reprioritise, pause. In bulk: steer_many_jobs.

create function queue.cancel(p_ids uuid[], p_now timestamptz) returns integer
language plpgsql set search_path = ''
set enable_seqscan = off -- a session's plan may be older than the rows
set jit = off as $$
declare
  v_all uuid[];
begin
  with recursive tree as (
    select id from public.jobs where id = any (p_ids)
    union
    select c.id from tree cross join lateral (
      select id from public.jobs where parent_id = tree.id and finished_at is null offset 0) as c)
  select array_agg(id) into v_all from tree;
  perform 1 from public.jobs where id = any (v_all) order by id for update;
  return queue.cancel_held(v_all, 'cancelled', p_now);
end;
$$;
comment on function queue.cancel is E'Cancel jobs and their live children: those that are not running end at once, '
  'running ones are asked to stop.\n\nReturns how many changed; ended jobs do not.';

create function queue.cancel_held(p_ids uuid[], p_reason text, p_now timestamptz) returns integer
language plpgsql set search_path = '' as $$
declare
  v_count integer;
  v_still uuid[];
begin
  with asked as (
    update queue.leases set cancel_requested = true where job_id = any (p_ids)
      and not cancel_requested returning job_id),
  flagged as (
    update public.jobs as j set cancel_requested_at = p_now, updated_at = p_now, last_seq = j.last_seq + 1
    from asked where j.id = asked.job_id and j.id = any (p_ids)
    returning j.id, j.workspace_id, j.session_id, j.last_seq, j.attempts),
  appended as (
    insert into queue.job_events (job_id, seq, workspace_id, session_id, type, data, created_at)
    select id, last_seq, workspace_id, session_id, 'job.cancel_requested',
      jsonb_build_object('status', 'processing', 'attempts', attempts), p_now
    from flagged)
  select count(*) into v_count from flagged;

  v_still := array(select id from public.jobs where id = any (p_ids) and status in ('pending', 'waiting') order by id);
  return v_count + case when cardinality(v_still) = 0 then 0
    else queue.finish(v_still, 'cancelled', null, jsonb_build_object('type', 'Cancelled', 'reason', p_reason),
      p_now) end;
end;
$$;
comment on function queue.cancel_held is 'Cancel jobs whose rows the caller holds; their children are not cancelled here.';

create function public.cancel_job(p_job_id uuid) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_job public.jobs := queue.visible_job(p_job_id);
begin
  perform 1 from public.jobs where id = p_job_id for update;
  select * into v_job from public.jobs where id = p_job_id;
  if v_job.finished_at is not null and v_job.status <> 'cancelled' then
    perform queue.refuse(409, 'invalid_state', format('the job is already %s', v_job.status), v_job.status);
  end if;
  perform queue.cancel(array[p_job_id], queue.clock());
  return (select queue.job_json(jobs) from public.jobs where id = p_job_id);
end;
$$;
comment on function public.cancel_job is E'Cancel a job and its live children; returns it.\n\n'
  'Pending and waiting jobs end at once; a running one is asked to stop and ends within a heartbeat. Cancelling '
  'twice is harmless; 409 when it has completed or failed.';

create type queue.list_place as (created_at timestamptz, id uuid);
comment on type queue.list_place is 'The place of a job in a list.';

create function queue.cursor_place(p_cursor jsonb) returns queue.list_place
language plpgsql stable set search_path = '' as $$
begin
  -- half a cursor would start again, without an end
  if p_cursor <> 'null' and (p_cursor ->> 'created_at' is null or p_cursor ->> 'id' is null) then
    perform queue.refuse(400, 'invalid_argument', 'cursor must be the next of an answer: {created_at, id}', 'cursor');
  end if;
  return ((p_cursor ->> 'created_at')::timestamptz, (p_cursor ->> 'id')::uuid);
end;
$$;
comment on function queue.cursor_place is 'The place that a list continues from; nulls for its start. '
  '400 for anything but the next of an answer.';

create function queue.may_steer(p_workspace_id uuid) returns void
language plpgsql stable set search_path = '' as $$
begin
  if not (queue.is_member(p_workspace_id) or auth.uid() is null and queue.is_service()) then
    perform queue.refuse_workspace(p_workspace_id);
  end if;
end;
$$;
comment on function queue.may_steer is 'Refuse with 404 callers that do not belong to the workspace.';

create function queue.may_read(p_workspace_id uuid) returns void
language plpgsql stable set search_path = '' as $$
begin
  if p_workspace_id is null or not (queue.is_member(p_workspace_id) or queue.is_service_role()) then
    perform queue.refuse_workspace(p_workspace_id);
  end if;
end;
$$;
comment on function queue.may_read is 'The same as queue.may_steer for apps'' functions that guests call too: plain SQL without claims is refused.';

create function queue.retry_jobs(p_ids uuid[], p_now timestamptz, p_when_due boolean default false) returns integer
language plpgsql set search_path = '' as $$
declare
  v_ids uuid[];
  v_children uuid[];
begin
  -- the caller holds the jobs' rows; a job whose unique key is taken by now stays as it is
  insert into queue.unique_jobs (workspace_id, job_type, key, job_id, until)
  select distinct on (workspace_id, job_type, unique_key) workspace_id, job_type, unique_key, id, 'finished'
    from public.jobs
  where id = any (p_ids) and status in ('failed', 'cancelled') and unique_key is not null
  order by workspace_id, job_type, unique_key, id
  on conflict (workspace_id, job_type, key) do nothing;
  delete from queue.ended where ctid = any (array(
    select e.place from public.jobs as j cross join lateral (
      select e.ctid as place from queue.ended as e
      where e.workspace_id = j.workspace_id and e.outcome = j.outcome and e.job_created_at = j.created_at
        and e.job_id = j.id limit 1) as e
    where j.id = any (p_ids) and j.status in ('failed', 'cancelled')
      and (j.unique_key is null or exists (select 1 from queue.unique_jobs as u where u.job_id = j.id))));
  with retried as (
    update public.jobs set status = 'pending', outcome = null, finished_at = null, completed_at = null, result = null,
      attempts = 0, snoozes = 0,
      lost_attempts = 0, generation = generation + 1, next_retry_at = null,
      scheduled_for = case when p_when_due and scheduled_for > p_now then scheduled_for end, deadline_at = null,
      cancel_requested_at = null, updated_at = p_now, last_seq = last_seq + 1
    where id = any (p_ids) and status in ('failed', 'cancelled')
      and (unique_key is null or exists (select 1 from queue.unique_jobs as u where u.job_id = jobs.id))
    returning id, workspace_id, session_id, last_seq),
  appended as (
    insert into queue.job_events (job_id, seq, workspace_id, session_id, type, data, created_at)
    select id, last_seq, workspace_id, session_id, 'job.redriven',
      jsonb_build_object('status', 'pending', 'attempts', 0), p_now
    from retried)
  select array_agg(id order by id) into v_ids from retried;
  if v_ids is null then
    return 0;
  end if;
  insert into queue.stat_deltas (at, job_type, workspace_id, outcome, jobs)
  select p_now, job_type, workspace_id, 'redriven', count(*) from public.jobs where id = any (v_ids) group by 2, 3;
  perform queue.place(v_ids, p_now);
  v_children := array(
    select id from public.jobs
    where parent_id = any (v_ids) and outcome = 'cancelled' and error_data ->> 'reason' = 'parent_ended' order by id
      for update);
  if cardinality(v_children) > 0 then -- they ended with their parent and continue with it
    perform queue.retry_jobs(v_children, p_now, p_when_due);
  end if;
  perform queue.request_wake();
  return cardinality(v_ids);
end;
$$;
comment on function queue.retry_jobs is E'Run failed or cancelled jobs again: attempts start from 0, the fence and '
  'the events continue; returns how many.\n\nJobs whose unique key another job holds by now stay as they are. '
  'Children that ended only because their parent did run again with it. p_when_due: scheduled ones at their time, '
  'not now.';

create function queue.change_payload(p_job_id uuid, p_payload jsonb) returns void
language plpgsql set search_path = '' as $$
declare
  v_job public.jobs;
  v_type queue.job_types;
  v_item queue.enqueue_item;
  v_problem text[];
  v_changed jsonb;
  v_now constant timestamptz := queue.clock();
begin
  select * into v_job from public.jobs where id = p_job_id; -- the caller holds it
  select * into v_type from queue.job_types where job_type = v_job.job_type;
  perform queue.refuse_internal(v_job.job_type);
  v_item := jsonb_populate_record(null::queue.enqueue_item,
    jsonb_build_object('job_type', v_job.job_type));
  v_item.payload := coalesce(p_payload, 'null');
  v_problem := queue.item_problem(v_item, v_type, (queue.setting('payload_max_bytes'))::integer);
  if v_problem is not null then
    perform queue.refuse_problem(v_problem);
  elsif p_payload = v_job.payload then
    return;
  end if;
  select jsonb_object_agg(k.key, jsonb_build_object('before', left((v_job.payload -> k.key)::text, 200),
    'after', left((p_payload -> k.key)::text, 200)))
  into v_changed from (
    select key from jsonb_object_keys(v_job.payload || p_payload) as k (key)
    where v_job.payload -> key is distinct from p_payload -> key order by key limit 20) as k;
  update public.jobs set payload = p_payload,
    tags = queue.tags_of(v_type.tagged_by, p_payload, queue.given_tags(v_job)),
    schema_version = coalesce(v_type.schema_version, schema_version),
    updated_at = v_now, last_seq = last_seq + 1
  where id = p_job_id returning * into v_job;
  insert into queue.job_events (job_id, seq, workspace_id, session_id, type, data, created_at)
  values (p_job_id, v_job.last_seq, v_job.workspace_id, v_job.session_id, 'job.edited',
    jsonb_build_object('status', v_job.status, 'attempts', v_job.attempts, 'next_retry_at', v_job.next_retry_at,
      'changed', case when v_job.session_id like 'guest\_%' then null else v_changed end), v_now); -- guests read it
end;
$$;
comment on function queue.change_payload is E'Give a live job that does not run another payload, checked by its type''s schema; the caller holds its row.\n\nAppends job.edited with {changed: {field: {before, after}}}: the first 200 characters of the first 20 fields; null for a job of a guest session, whose guests see no payload.';

create function public.retry_job(p_job_id uuid, p_payload jsonb default null) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = ''
set enable_seqscan = off -- a session's plan may be older than the rows
set jit = off as $$
declare
  v_now timestamptz := queue.clock();
  v_job public.jobs := queue.visible_job(p_job_id);
begin
  perform 1 from public.jobs where id = p_job_id for update;
  select * into v_job from public.jobs where id = p_job_id;
  if v_job.status in ('failed', 'cancelled') then
    if queue.retry_jobs(array[p_job_id], v_now) = 0 then
      perform queue.refuse(409, 'duplicate_job', 'another job holds this one''s unique key by now', (
        select job_id::text from queue.unique_jobs
        where workspace_id = v_job.workspace_id and job_type = v_job.job_type and key = v_job.unique_key));
    end if;
  elsif v_job.status = 'pending' and exists (select 1 from queue.deferred where job_id = p_job_id) then
    delete from queue.deferred where job_id = p_job_id;
    update public.jobs set next_retry_at = null, scheduled_for = null, updated_at = v_now, last_seq = last_seq + 1
      where id = p_job_id;
    insert into queue.job_events (job_id, seq, workspace_id, session_id, type, data, created_at)
    select id, last_seq, workspace_id, session_id, 'job.redriven',
      jsonb_build_object('status', status, 'attempts', attempts), v_now
    from public.jobs where id = p_job_id;
    perform queue.place(array[p_job_id], v_now);
    perform queue.request_wake();
  else
    perform queue.refuse(409, 'invalid_state', format('a %s job cannot be retried', v_job.status), v_job.status);
  end if;
  if p_payload <> 'null' then
    perform queue.change_payload(p_job_id, p_payload);
  end if;
  return (select queue.job_json(jobs) from public.jobs where id = p_job_id);
end;
$$;
comment on function public.retry_job is E'Run a failed or cancelled job again, or a delayed one now; returns it.\n\n'
  'An ended job starts with fresh attempts; finished steps are kept. A payload takes the place of its own, checked as '
  'at an enqueue: job.edited in its history. 409 when it is running, ready, waiting or '
  'completed.';

create function queue.steer_by_update() returns trigger
language plpgsql
security definer -- a member updating through the Data API holds no rights on the engine's tables
set search_path = '' as $$
declare
  v_now timestamptz := queue.clock();
begin
  if new.status = 'cancelled' and old.finished_at is null then
    if new.priority <> old.priority or new.scheduled_for is distinct from old.scheduled_for then
      perform queue.refuse(400, 'invalid_argument', 'cancel alone: change nothing else in the same update', 'status');
    end if;
    if old.cancel_requested_at is not null then
      return null; -- asked before
    elsif old.status = 'processing' then
      new.status := old.status;
      new.cancel_requested_at := v_now;
    else
      new.outcome := 'cancelled';
      new.finished_at := v_now;
      new.next_retry_at := null;
      new.error_data := '{"type": "Cancelled", "reason": "cancelled"}';
    end if;
    new.last_seq := old.last_seq + 1;
    new.updated_at := v_now;
  elsif new.status is distinct from old.status then
    perform queue.refuse(409, 'invalid_state', format('a %s job cannot become %s by update', old.status, new.status),
      old.status);
  elsif new.priority <> old.priority or new.scheduled_for is distinct from old.scheduled_for then
    if old.status <> 'pending' then
      perform queue.refuse(409, 'invalid_state', format('a %s job cannot be rescheduled', old.status), old.status);
    elsif new.priority not between 0 and 1000 then
      perform queue.refuse(400, 'invalid_argument', 'priority must be between 0 and 1000', 'priority');
    elsif new.scheduled_for not between '1970-01-01 00:00:00+00' and '9999-01-01 00:00:00+00' then
      perform queue.refuse(400, 'invalid_argument', 'scheduled_for must lie between the years 1970 and 9999',
        'scheduled_for');
    elsif new.scheduled_for is distinct from old.scheduled_for then
      new.next_retry_at := null; -- which would go before it
    end if;
    new.updated_at := v_now;
  end if;
  return new;
end;
$$;
comment on function queue.steer_by_update is 'Trigger: allow a plain update to cancel a job or, while it is '
  'pending, to change its priority and schedule.';

create function queue.after_steering() returns trigger
language plpgsql
security definer -- a member updating through the Data API holds no rights on the engine's tables
set search_path = ''
set enable_seqscan = off -- a session's plan may be older than the rows
set jit = off as $$
declare
  v_now timestamptz := queue.clock();
begin
  if new.last_seq = old.last_seq and new.priority = old.priority
      and new.scheduled_for is not distinct from old.scheduled_for then
    return null;
  end if;
  if new.last_seq > old.last_seq then
    insert into queue.job_events (job_id, seq, workspace_id, session_id, type, data, created_at)
    values (new.id, new.last_seq, new.workspace_id, new.session_id,
      case when new.status = 'cancelled' then 'job.cancelled' else 'job.cancel_requested' end,
      jsonb_build_object('status', new.status, 'attempts', new.attempts), v_now);
    update queue.leases set cancel_requested = true where job_id = new.id;
    insert into queue.signals (kind, job_id, workspace_id)
    select 'orphans', new.id, new.workspace_id
    where exists (select 1 from public.jobs as c where c.parent_id = new.id and c.finished_at is null);
  end if;
  if new.status = 'cancelled' then
    perform queue.leave(array[new.id]);
    delete from queue.waits where job_id = new.id;
    delete from queue.dependencies where job_id = new.id;
    insert into queue.stat_deltas (at, job_type, workspace_id, outcome, jobs)
    values (v_now, new.job_type, new.workspace_id, 'cancelled', 1);
    perform queue.after_end(array[new.id]);
  elsif new.status = 'pending' then
    perform queue.leave(array[new.id]);
    perform queue.place(array[new.id], v_now);
  end if;
  return null;
end;
$$;
comment on function queue.after_steering is 'Trigger: take a cancelled job out of the queue, and move one that has '
  'a new priority or schedule.';

-- callers may set none of the columns that each lease or settle changes: comparing one spares the engine a look-up of
-- current_user per job. Conditions are read from the catalogue by each statement, so they are as short as can be, and
-- the functions compare the rest; as names the roles would be three times as long.
create trigger jobs_steer_by_update before update of status, priority, scheduled_for on public.jobs
  for each row when (new.updated_at = old.updated_at
    and current_user::text in ('authenticated', 'anon', 'service_role'))
  execute function queue.steer_by_update();
create trigger jobs_after_steering after update of status, priority, scheduled_for on public.jobs
  for each row when (new.fence = old.fence and current_user::text in ('authenticated', 'anon', 'service_role'))
  execute function queue.after_steering();

create function public.pause_jobs(p_request jsonb) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_kind text := p_request ->> 'kind';
  v_name text := p_request ->> 'name';
  v_paused boolean := coalesce((p_request ->> 'paused')::boolean, true);
  v_by text := coalesce(auth.uid()::text, p_request ->> 'by', 'service');
  v_workspace uuid;
  v_type text;
begin
  if v_kind not in ('job_type', 'queue', 'workspace', 'workspace_type') or v_kind is null or v_name is null then
    perform queue.refuse(400, 'invalid_argument',
      'kind must be job_type, queue, workspace or workspace_type, and name is required', 'kind');
  end if;
  if v_kind in ('workspace', 'workspace_type') then
    v_workspace := queue.uuid_or_refuse(coalesce(p_request ->> 'workspace_id', split_part(v_name, '/', 1)),
      'workspace_id');
    v_type := case when v_kind = 'workspace_type' then regexp_replace(v_name, '^' || v_workspace || '/', '', 'i') end;
    v_name := v_workspace || coalesce('/' || v_type, '');
  end if;
  if auth.uid() is not null and not queue.is_operator()
    and not (v_workspace is not null and queue.is_manager(v_workspace)) then
    if v_workspace is not null and not queue.is_member(v_workspace) then
      perform queue.refuse_workspace(v_workspace);
    elsif v_workspace is not null then
      perform queue.refuse(403, 'forbidden', 'only a manager of the workspace may pause it', v_kind);
    end if;
    perform queue.refuse(403, 'forbidden', 'only the operator may pause a queue or a job type', v_kind);
  elsif auth.uid() is null and not queue.is_service() then
    perform queue.refuse(403, 'forbidden', 'only the operator may pause', v_kind);
  end if;
  if v_paused then
    perform queue.check_pause(v_type, p_request ->> 'reason');
  end if;
  if v_kind = 'job_type' then
    update queue.job_types set paused_at = case when v_paused then queue.clock() end,
      paused_by = case when v_paused then v_by end, pause_reason = case when v_paused then p_request ->> 'reason' end
    where job_type = v_name;
    if not found then
      perform queue.refuse_type(v_name);
    end if;
  elsif v_paused then
    insert into queue.pauses (kind, name, workspace_id, job_type, paused_by, reason)
    values (v_kind, v_name, v_workspace, v_type, v_by, p_request ->> 'reason')
    on conflict (kind, name) do update set paused_by = excluded.paused_by, reason = excluded.reason;
  else
    delete from queue.pauses where kind = v_kind and name = v_name;
  end if;
  if not v_paused then
    perform queue.bring_all_back(case when v_kind = 'workspace_type' then v_type end, v_workspace);
    perform queue.request_wake();
  end if;
  return jsonb_build_object('kind', v_kind, 'name', v_name, 'paused', v_paused);
end;
$$;
comment on function public.pause_jobs is E'Pause or resume: {kind: job_type|queue|workspace|workspace_type, name, '
  'workspace_id?, paused = true, reason?}.\n\nFor workspace_type, name is the job type and workspace_id is required. '
  'Running jobs continue. A workspace''s managers may pause their workspace and its job types; the rest is the '
  'operator''s.';

create function public.get_job(p_job_id uuid) returns jsonb
language sql stable
security definer -- answers the same 404 for a missing job and another's
set search_path = ''
as $$ select queue.job_json(queue.visible_job(p_job_id)) $$;
comment on function public.get_job is 'A job as JSON; 404 when it is missing or another''s.';

select queue.allow('authenticated, service_role', 'public.cancel_job', 'public.retry_job', 'public.pause_jobs',
  'public.get_job');
