-- What people ask about a job, derived in one place from the queue: its state in the words people look for, when
-- it runs next, what it waits for, and where its time went. API, command and console read this.

create function queue.state_of(
  p_status text, p_attempts integer, p_next_retry_at timestamptz, p_scheduled_for timestamptz, p_now timestamptz
) returns text
language plpgsql immutable set search_path = '' as $$
begin
  return case p_status
    when 'pending' then case
      when coalesce(p_next_retry_at, p_scheduled_for, '-infinity') <= p_now then 'queued'
      when p_next_retry_at is not null and p_attempts > 0 then 'retrying'
      else 'scheduled' end
    when 'processing' then 'running'
    when 'waiting' then 'suspended'
    else p_status end;
end;
$$;
comment on function queue.state_of is E'The state people look for: queued, scheduled, retrying, running, suspended, completed, failed or cancelled.\n\nscheduled has a first start, or a snooze, still to come; retrying waits after a failed attempt; suspended sleeps, asks, or waits for children, jobs or an event.';

create function queue.waiting_for(p_wait queue.waits) returns jsonb
language plpgsql immutable set search_path = '' as $$
begin
  return case when (p_wait).job_id is not null then jsonb_strip_nulls(jsonb_build_object(
    'kind', (p_wait).kind, 'name', (p_wait).name, 'question', (p_wait).data -> 'question', 'options',
      (p_wait).data -> 'options',
    'job_ids', (p_wait).data -> 'job_ids', 'event', (p_wait).event_name, 'until', (p_wait).timeout_at,
    'default', (p_wait).default_value, 'since', (p_wait).created_at)) end;
end;
$$;
comment on function queue.waiting_for is 'A wait as clients read it: {kind, name, question, options, job_ids, event, until, default, since}, each where there is one.';

create function queue.job_facts(p_job public.jobs, p_now timestamptz) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  v_due timestamptz := coalesce(p_job.next_retry_at, p_job.scheduled_for, p_job.created_at);
  v_wait queue.waits;
  v_since timestamptz;
  v_worker text;
  v_queue double precision := p_job.queue_ms;
  v_run double precision := p_job.run_ms;
  v_held double precision := p_job.held_ms;
  v_total double precision := date_part('epoch', coalesce(p_job.finished_at, p_now) - p_job.created_at) * 1000;
begin
  if p_job.status = 'processing' then
    select l.leased_at, l.worker_id into v_since, v_worker from queue.leases as l where l.job_id = p_job.id;
    v_run := v_run + greatest(0, coalesce(date_part('epoch', p_now - v_since), 0)) * 1000;
    v_held := v_held + greatest(0, coalesce(date_part('epoch', p_now - v_since), 0)) * 1000;
  elsif p_job.status = 'waiting' then
    select * into v_wait from queue.waits as w where w.job_id = p_job.id;
  elsif p_job.status = 'pending' and v_queue is null and v_due <= p_now then
    v_queue := date_part('epoch', p_now - v_due) * 1000;
  end if;
  return jsonb_build_object(
    'state', queue.state_of(p_job.status, p_job.attempts, p_job.next_retry_at, p_job.scheduled_for, p_now),
    'next_run_at', case p_job.status when 'pending' then v_due when 'waiting' then v_wait.timeout_at end,
    'error', case when p_job.error_message is not null
      then queue.error_line(p_job.error_message, p_job.error_data) end,
    'waiting_for', case when v_wait.job_id is not null then queue.waiting_for(v_wait) end,
    'running_since', v_since, 'worker_id', v_worker,
    'times', jsonb_build_object('queue_ms', round(v_queue::numeric, 1), 'run_ms', round(v_run::numeric, 1), 'runs',
      p_job.fence, 'held_ms', round(v_held::numeric, 1),
      'wait_ms', round(greatest(0, v_total - coalesce(v_queue, 0) - v_held)::numeric, 1),
      'total_ms', round(v_total::numeric, 1)));
end;
$$;
comment on function queue.job_facts is E'What is derived of a job: {state, next_run_at, error, waiting_for, running_since, worker_id, times: {queue_ms, run_ms, held_ms, runs, wait_ms, total_ms}}.\n\nThe one definition of each time, for lists, pages, statistics and the command. queue_ms: from being due to the first start, null before either. held_ms: from each lease to its end, the running one until now. run_ms: of it, the processor itself, as its worker measured; of a lost attempt until the worker was last heard of. runs: how often it was leased. wait_ms: the rest of total_ms: schedule, backoff, sleeps, questions, children. total_ms: from creation to the end, or until now.';

create function queue.job_json(p_job public.jobs) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
  return to_jsonb(p_job) || queue.job_facts(p_job, queue.clock());
end;
$$;
comment on function queue.job_json is 'A job as clients read it: its columns, and what job_facts derives.';

create function queue.glimpse(p_payload jsonb) returns text
language sql immutable set search_path = '' as $$
  select string_agg(concat(left(f.key, 80), ': ', left(f.value #>> '{}', 80)), ', ' order by f.n)
  from (select e.key, e.value, e.n
    from jsonb_each(case when jsonb_typeof(p_payload) = 'object' then p_payload end)
      with ordinality as e (key, value, n)
    where jsonb_typeof(e.value) not in ('object', 'array', 'null') limit 3) as f
$$;
comment on function queue.glimpse is 'The first three simple values of a payload in a line, each cut to 80 characters: '
  '`to: a@b.test, count: 3`; null without any.';

create function queue.listed_json(p_job public.jobs) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  v_glimpse text := queue.glimpse(p_job.payload);
  v_facts jsonb;
begin
  p_job.error_message := left(p_job.error_message, 500); -- first: what is derived of it is cut as well
  v_facts := queue.job_facts(p_job, queue.clock());
  if v_facts -> 'waiting_for' <> 'null' then
    v_facts := v_facts || jsonb_build_object('waiting_for',
      (v_facts -> 'waiting_for') - '{options,job_ids,default,question}'::text[]
      || jsonb_strip_nulls(jsonb_build_object('question', left(v_facts #>> '{waiting_for,question}', 300))));
  end if;
  p_job.payload := null; -- before the row becomes JSON: a quarter of a megabyte is not copied to be omitted
  p_job.result := null;
  p_job.error_data := null;
  return to_jsonb(p_job) - '{payload,result,error_data}'::text[] || v_facts || jsonb_build_object('glimpse', v_glimpse);
end;
$$;
comment on function queue.listed_json is 'A job in a list: as job_json without payload, result and error_data, with a '
  'glimpse of the payload, its error cut to 500 characters and its question to 300; get_job has them whole.';

create function queue.public_error(p_error jsonb) returns jsonb
language sql immutable set search_path = ''
as $$ select p_error - '{message,traceback,origin}'::text[] $$;
comment on function queue.public_error is 'An error as members read it with the job: without its traceback, which is kept with the attempt.';
