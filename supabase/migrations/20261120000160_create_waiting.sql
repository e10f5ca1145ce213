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
  delete from queue.batch_members where job_id = any (p_ids);
  insert into queue.signals (kind, job_id, workspace_id)
  select 'ended', j.id, j.workspace_id from public.jobs as j
  where j.id = any (p_ids) and (j.parent_id is not null or j.batch_id is not null
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

create function queue.finish_batches(p_ids uuid[], p_now timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_batch queue.batches;
  v_looked text[] := '{}'; -- id and tenant of each
  v_callback uuid;
begin
  for v_batch in
    select * from queue.batches where id = any (p_ids) and closed_at is not null and finished_at is null
    order by id for update skip locked
  loop
    v_callback := null;
    if not exists (
        select 1 from queue.batch_members where batch_id = v_batch.id and workspace_id = v_batch.workspace_id) then
      begin -- a callback that no longer fits its type's schema must not stop the others
        if v_batch.callback is not null then
          v_callback := queue.enqueue_unwaited(v_batch.workspace_id, v_batch.callback);
        end if;
        update queue.batches set finished_at = p_now, callback_job_id = v_callback
        where id = v_batch.id and workspace_id = v_batch.workspace_id;
      exception
        when lock_not_available or deadlock_detected or serialization_failure then
          continue; -- it would have to wait: no failure of the callback's
        when others then
          update queue.batches set finished_at = p_now, problem = sqlerrm
          where id = v_batch.id and workspace_id = v_batch.workspace_id;
      end;
    end if;
    v_looked := v_looked || (v_batch.id || '/' || v_batch.workspace_id);
  end loop;
  -- a later call checks the batches again that are locked, or whose callback would wait
  insert into queue.signals (kind, job_id, workspace_id)
  select distinct 'batch', id, workspace_id from queue.batches
  where id = any (p_ids) and closed_at is not null and finished_at is null
    and id || '/' || workspace_id <> all (v_looked);
end;
$$;
comment on function queue.finish_batches is 'End closed batches without live jobs and enqueue their callbacks, once. Never waits. An id that several tenants chose means the batches of all.';

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

create function public.create_batch(p_workspace_id uuid, p_callback jsonb default null) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_id uuid := queue.new_id();
  v_field text;
begin
  perform queue.may_steer(p_workspace_id);
  if p_callback is not null then
    if jsonb_typeof(p_callback) <> 'object' then
      perform queue.refuse(400, 'invalid_argument', 'callback must be an object', 'callback');
    end if;
    select key into v_field from jsonb_object_keys(p_callback) as key
    where key <> all (array['job_type', 'payload', 'queue', 'priority', 'max_attempts', 'concurrency_key',
      'session_id', 'timeout_seconds', 'backoff', 'unique', 'delay_seconds', 'traceparent'])
      and (key <> 'user_id' or auth.uid() is not null) limit 1;
    if found then
      perform queue.refuse(400, 'invalid_argument',
        format('a callback cannot set the option %s', left(v_field, 80)), 'callback.' || left(v_field, 80));
    end if;
    perform queue.check_later_job(p_callback, 'callback.');
  end if;
  insert into queue.batches (id, workspace_id, callback) values (v_id, p_workspace_id,
    p_callback || case when auth.uid() is null then '{}' else jsonb_build_object('user_id', auth.uid()) end);
  return jsonb_build_object('batch_id', v_id);
exception
  when invalid_text_representation or numeric_value_out_of_range then
    perform queue.refuse_value('the callback', 'callback', sqlerrm);
end;
$$;
comment on function public.create_batch is E'Create a batch: {batch_id}. Enqueue jobs with that batch_id, then close it.\n\np_callback {job_type, payload, …} is enqueued once when every job of the closed batch has ended, for the person who created the batch. It may set queue, priority, max_attempts, concurrency_key, session_id, timeout_seconds, backoff, unique, delay_seconds and traceparent; a service''s also user_id.';

create function public.close_batch(p_batch_id uuid, p_workspace_id uuid default null) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_batch queue.batches;
  v_owners uuid[];
begin
  v_owners := array(select b.workspace_id from queue.batches as b
    where b.id = p_batch_id and (p_workspace_id is null or b.workspace_id = p_workspace_id)
      and (b.workspace_id in (select queue.my_workspaces()) or auth.uid() is null and queue.is_service()));
  if cardinality(v_owners) = 0 then
    perform queue.refuse(404, 'batch_not_found', 'no such batch', p_batch_id::text);
  elsif cardinality(v_owners) > 1 then
    perform queue.refuse(400, 'invalid_argument', 'several of your workspaces have a batch of this id: name the one',
      'workspace_id');
  end if;
  select * into v_batch from queue.batches where id = p_batch_id and workspace_id = v_owners[1] for update;
  if v_batch.closed_at is null then
    update queue.batches set closed_at = queue.clock() where id = p_batch_id and workspace_id = v_owners[1]
    returning * into v_batch;
    insert into queue.signals (kind, job_id, workspace_id) values ('batch', p_batch_id, v_owners[1]);
    perform queue.request_wake();
  end if;
  return jsonb_build_object('batch_id', v_batch.id) || to_jsonb(v_batch) - 'id';
end;
$$;
comment on function public.close_batch is E'Close a batch: no more jobs may join, and the callback is enqueued when the last one has ended: {batch_id, workspace_id, callback, callback_job_id, closed_at, finished_at, problem, created_at}. Idempotent.\n\np_workspace_id is needed when several of the caller''s workspaces have a batch of this id.';

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

select queue.allow('authenticated, service_role', 'public.answer_job', 'public.emit_event', 'public.create_batch',
  'public.close_batch');
