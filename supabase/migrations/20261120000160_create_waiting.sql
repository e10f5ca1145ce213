-- Waits: dependencies, children, questions, events, sleep; and how jobs end.
-- An end or an event writes a signal; maintenance reads it in a later transaction.

create function queue.leave(p_ids uuid[]) returns void
language plpgsql set search_path = '' as $$
begin
  -- one look-up per job, whatever the planner estimates for either side
  delete from queue.ready where ctid = any (array(
    select r.place from public.jobs as j cross join lateral (
      select r.ctid as place from queue.ready as r
      where r.workspace_id = j.workspace_id and r.job_created_at = j.created_at and r.job_id = j.id limit 1) as r
    where j.id = any (p_ids)));
  delete from queue.deferred where job_id = any (p_ids);
end;
$$;
comment on function queue.leave is 'Remove pending jobs from the queue, from ready and deferred. The caller holds their rows.';

create function queue.finish(
  p_ids uuid[], p_status text, p_message text, p_data jsonb, p_now timestamptz
) returns integer
language plpgsql set search_path = '' as $$
declare
  v_count integer;
begin
  -- the caller holds the jobs' rows, none of which is leased
  perform queue.leave(p_ids);
  delete from queue.waits where job_id = any (p_ids);
  delete from queue.dependencies where job_id = any (p_ids);
  with ended as (
    update public.jobs set status = p_status, outcome = p_status, finished_at = p_now, updated_at = p_now,
      next_retry_at = null, error_message = coalesce(p_message, error_message),
      error_data = coalesce(p_data, error_data),
      error_fingerprint = case when p_message is null then error_fingerprint
        else queue.fingerprint(p_data ->> 'reason', p_message) end,
      last_seq = last_seq + 1
    where id = any (p_ids) and finished_at is null
    returning id, workspace_id, session_id, job_type, last_seq, attempts, error_message),
  appended as (
    insert into queue.job_events (job_id, seq, workspace_id, session_id, type, data, created_at)
    select id, last_seq, workspace_id, session_id, 'job.' || p_status,
      jsonb_strip_nulls(jsonb_build_object('status', p_status, 'attempts', attempts,
        'error_message', case when p_status = 'failed' then error_message end)), p_now
    from ended),
  counted as (
    insert into queue.stat_deltas (at, job_type, workspace_id, outcome, jobs)
    select p_now, job_type, workspace_id, p_status, count(*) from ended group by 2, 3)
  select count(*) into v_count from ended;
  perform queue.after_end(p_ids);
  return v_count;
end;
$$;
comment on function queue.finish is 'End jobs that are not leased: cancelled, expired, or failed with a reason. The caller holds their rows.';

create function queue.after_end(p_ids uuid[]) returns void
language plpgsql set search_path = '' as $$
declare
  v_bad uuid[];
begin
  insert into queue.ended (workspace_id, outcome, job_created_at, job_id, job_type, ended_at)
  select workspace_id, outcome, created_at, id, job_type, finished_at
  from public.jobs where id = any (p_ids) and outcome is not null
  on conflict (workspace_id, outcome, job_created_at, job_id) do nothing; -- queue.settle_items has done it for its own
  delete from queue.unique_jobs where job_id = any (p_ids);
  delete from queue.deadlines where job_id = any (p_ids);
  insert into queue.signals (kind, job_id, workspace_id)
  select 'ended', j.id, j.workspace_id from public.jobs as j
  where j.id = any (p_ids) and (j.parent_id is not null
    or exists (select 1 from queue.dependencies as d where d.after_id = j.id));
  v_bad := array(select id from public.jobs where id = any (p_ids) and outcome <> 'completed');
  if cardinality(v_bad) > 0 then
    insert into queue.signals (kind, job_id, workspace_id)
    select distinct 'orphans', c.parent_id, c.workspace_id
    from public.jobs as c where c.parent_id = any (v_bad) and c.finished_at is null;
  end if;
end;
$$;
comment on function queue.after_end is E'List ended jobs in queue.ended, free their unique keys and signal the jobs that wait for them.\n\nLive children of a failed or cancelled job end with it.';

create function queue.fingerprint(p_type text, p_message text) returns text
language sql immutable set search_path = '' as $$
  select left(md5(coalesce(p_type, '') || ':' || regexp_replace(
    regexp_replace(left(coalesce(p_message, ''), 2000), '[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}', '#', 'gi'),
    '[0-9]+', '#', 'g')), 16)
$$;
comment on function queue.fingerprint is 'The same 16 characters for errors that differ only in numbers and ids.';

create function queue.enqueue_unwaited(p_workspace_id uuid, p_item jsonb) returns uuid
language plpgsql set search_path = ''
set lock_timeout = '5ms' as $$
declare
  v_options jsonb := p_item - '{job_type,payload}'::text[];
begin
  if queue.is_single(v_options) then
    return (queue.enqueue_one(p_workspace_id, null, p_item ->> 'job_type', p_item -> 'payload', v_options)
      #>> '{job,id}')::uuid;
  end if;
  return (queue.enqueue(p_workspace_id, null, jsonb_build_array(p_item), false) #>> '{ids,0}')::uuid;
end;
$$;
comment on function queue.enqueue_unwaited is E'Enqueue a job of the engine''s own and return its id, or raise lock_not_available rather than wait for another transaction.\n\nThe caller then leaves it to the next call of maintenance.';

create function public.answer_job(p_job_id uuid, p_answer jsonb) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = ''
set enable_seqscan = off -- a session's plan may be older than the rows
set jit = off as $$
declare
  v_now timestamptz := queue.clock();
  v_job public.jobs := queue.visible_job(p_job_id);
  v_wait queue.waits;
  v_problem text[];
begin
  if jsonb_typeof(p_answer) is distinct from 'object' or not p_answer ? 'answer' then
    perform queue.refuse(400, 'invalid_argument', 'p_answer must be {"answer": …}', 'answer');
  end if;
  v_problem := queue.json_problem(p_answer, 'answer', (queue.setting('payload_max_bytes'))::integer);
  if v_problem is not null then
    perform queue.refuse_problem(v_problem);
  end if;
  perform 1 from public.jobs where id = p_job_id for update;
  select * into v_wait from queue.waits where job_id = p_job_id and kind = 'ask';
  if not found then
    select * into v_job from public.jobs where id = p_job_id;
    perform queue.refuse(409, 'invalid_state', 'the job is not asking anything', v_job.status);
  end if;
  if p_answer ? 'name' and p_answer ->> 'name' <> v_wait.name then
    perform queue.refuse(409, 'invalid_state', 'the job is asking something else by now', v_wait.name);
  end if;
  if jsonb_typeof(v_wait.data -> 'options') = 'array'
      and not (v_wait.data -> 'options') @> jsonb_build_array(p_answer -> 'answer') then
    perform queue.refuse(422, 'payload_invalid', 'the answer must be one of ' || (v_wait.data ->> 'options'), 'answer');
  end if;
  perform queue.resume(jsonb_build_array(jsonb_build_object('job_id', p_job_id, 'name', v_wait.name,
    'value', jsonb_build_object('answer', p_answer -> 'answer', 'by', auth.uid()))), v_now);
  perform queue.request_wake();
  return (select queue.job_json(jobs) from public.jobs where id = p_job_id);
end;
$$;
comment on function public.answer_job is E'Answer the question a waiting job asks: p_answer is {"answer": …, "name"?}.\n\n409 when it asks nothing; 422 when the answer is not among the options.';

create function public.emit_event(p_workspace_id uuid, p_name text, p_payload jsonb default '{}') returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_first boolean;
  v_problem text[];
begin
  if pg_column_size(p_payload) > 8192 then
    perform queue.take_turn();
  end if;
  perform queue.may_steer(p_workspace_id);
  if char_length(p_name) not between 1 and 255 or p_name is null then
    perform queue.refuse(400, 'invalid_argument', 'name must have 1 to 255 characters', 'name');
  end if;
  v_problem := queue.json_problem(p_payload, 'payload', (queue.setting('payload_max_bytes'))::integer);
  if v_problem is not null then
    perform queue.refuse_problem(v_problem);
  end if;
  insert into queue.named_events (workspace_id, name, payload)
  values (p_workspace_id, p_name, coalesce(p_payload, '{}')) on conflict (workspace_id, name) do nothing;
  v_first := found;
  if v_first then
    insert into queue.signals (kind, workspace_id, name) values ('event', p_workspace_id, p_name);
    perform queue.request_wake();
  end if;
  return jsonb_build_object('first', v_first);
end;
$$;
comment on function public.emit_event is E'Emit a named event that jobs may wait for: {first}.\n\nThe first of a name wins, whether it comes before or after the wait; a repeat changes nothing.';

create function queue.visible_job(p_job_id uuid) returns public.jobs
language plpgsql stable set search_path = '' as $$
declare
  v_job public.jobs;
begin
  select * into v_job from public.jobs where id = p_job_id;
  if not found or not (queue.is_member(v_job.workspace_id) or auth.uid() is null and queue.is_service()) then
    perform queue.refuse_job(p_job_id);
  end if;
  return v_job;
end;
$$;
comment on function queue.visible_job is 'The job, if the caller may see it; see queue.refuse_job.';

select queue.allow('authenticated, service_role', 'public.answer_job', 'public.emit_event');
