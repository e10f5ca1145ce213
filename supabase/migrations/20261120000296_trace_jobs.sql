-- Where a job's time went: its attempts, steps and waits, and those of its children, on one axis.
-- A page reads this in one call and may repeat it every other second: everything in it is bounded.

create function queue.trace_attempts(p_job public.jobs) returns jsonb
language sql stable set search_path = '' as $$
  select coalesce(jsonb_agg(jsonb_build_object('attempt', a.attempt, 'fence', a.fence, 'worker_id', a.worker_id,
    'leased_at', a.leased_at, 'ended_at', a.ended_at, 'outcome', a.outcome,
    'error_message', left(a.error_message, 500)) order by a.fence), '[]')
  from queue.attempt_lines(p_job, 100) as a
$$;
comment on function queue.trace_attempts is 'The latest 100 attempts of a job, oldest first.';

create function queue.trace_steps(p_job_id uuid) returns jsonb
language sql stable set search_path = '' as $$
  select coalesce(jsonb_agg(s.line order by s.at, s.name), '[]') from (
    (select t.created_at as at, t.name, jsonb_build_object('name', t.name, 'kind', t.kind,
        'started_at', t.started_at, 'ended_at', t.created_at) as line
      from queue.steps as t where t.job_id = p_job_id and t.kind <> 'graph' order by t.created_at desc limit 200)
    union all
    select 'infinity', r.name, jsonb_build_object('name', r.name, 'kind', 'step', 'started_at', r.started_at,
      'ended_at', null)
    from queue.running_steps as r join queue.leases as l on l.job_id = r.job_id and l.fence = r.fence
    where r.job_id = p_job_id
    union all
    select 'infinity', w.name, jsonb_strip_nulls(jsonb_build_object('name', w.name, 'kind', w.kind, 'started_at',
      w.created_at,
      'timeout_at', w.timeout_at, 'event', w.event_name, 'question', left(w.data ->> 'question', 300)))
      || jsonb_build_object('ended_at', null)
    from queue.waits as w where w.job_id = p_job_id) as s
$$;
comment on function queue.trace_steps is E'The latest 200 finished steps and waits of a job, then the step or the '
  'wait that has not ended.\n\nkind is step, sleep, ask, event, children or after.';

create function public.job_trace(p_job_id uuid) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_most constant integer := 300;
  v_levels constant integer := 6;
  v_root public.jobs := queue.visible_job(p_job_id);
  v_ids uuid[] := array[p_job_id];
  v_parents uuid[] := array[p_job_id];
  v_more boolean := false;
begin
  if exists (select from public.jobs as c where c.parent_id = p_job_id) then
    perform queue.take_turn();
  end if;
  for v_level in 1..v_levels loop
    v_parents := array(
      select c.id from public.jobs as c where c.parent_id = any (v_parents) order by c.created_at, c.id
      limit v_most + 1 - cardinality(v_ids));
    exit when cardinality(v_parents) = 0;
    v_ids := v_ids || v_parents;
    if cardinality(v_ids) > v_most then
      v_ids := v_ids[1:v_most];
      v_more := true;
      exit;
    end if;
  end loop;
  return jsonb_build_object('now', queue.clock(), 'more', v_more, 'jobs', (
    select jsonb_agg(jsonb_build_object('id', j.id, 'parent_id', case when j.id <> v_root.id then j.parent_id end,
      'job_type', j.job_type, 'status', j.status, 'created_at', j.created_at, 'scheduled_for', j.scheduled_for,
      'finished_at', j.finished_at, 'next_retry_at', j.next_retry_at, 'error_message', left(j.error_message, 500),
      'percentage', j.progress -> 'percentage', 'times', case when j.id = v_root.id then
        queue.job_facts(j, queue.clock()) -> 'times' end,
      'attempts', queue.trace_attempts(j), 'steps', queue.trace_steps(j.id), 'graphs', (
        select coalesce(jsonb_agg(s.result -> 'value' order by s.created_at), '[]')
        from queue.steps as s where s.job_id = j.id and s.kind = 'graph')) order by t.place)
    from unnest(v_ids) with ordinality as t (id, place) join public.jobs as j on j.id = any (array[t.id])));
end;
$$;
comment on function public.job_trace is E'A job''s attempts, steps and waits with their spans, and those of its '
  'children: {now, more, jobs: [{id, parent_id, …, attempts, steps, graphs}]}.\n\nA graph is {stage: [what it comes after]}. At most 300 jobs of six levels, the job '
  'itself first with a null parent_id and its times; more says that some were omitted.';

select queue.allow('authenticated, service_role', 'public.job_trace');
