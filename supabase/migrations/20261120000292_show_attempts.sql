-- Attempts as people read them: how each ended, where its log is, its traceback for those who may see it,
-- and what differs from the attempt before.

create function queue.may_see_tracebacks(p_workspace_id uuid) returns boolean
language sql stable set search_path = '' as $$
  select auth.uid() is null and queue.is_service() or queue.is_manager(p_workspace_id) or queue.is_operator()
    or coalesce(queue.setting('members_see_tracebacks') = 'true', false) and queue.is_member(p_workspace_id)
$$;
comment on function queue.may_see_tracebacks is E'Whether the caller may read tracebacks of the workspace''s jobs: '
  'its managers and the operator.\n\nPlain members may where the setting members_see_tracebacks is true.';

create function queue.first_worker(p_job_id uuid) returns text
language sql stable set search_path = '' as $$
  select e.data ->> 'worker_id' from public.job_events as e
  where e.job_id = p_job_id and e.type = 'job.leased' order by e.seq limit 1
$$;
comment on function queue.first_worker is 'Who leased a job first; null before, and for types with minimal events.';

create function queue.attempt_lines(p_job public.jobs, p_limit integer) returns table (
  fence bigint, attempt integer, worker_id text, leased_at timestamptz, ended_at timestamptz, outcome text,
  error_message text, error_data jsonb, traceback jsonb, origin jsonb, lease_expires_at timestamptz
)
language sql stable set search_path = '' as $$
  select a.fence, a.attempt, a.worker_id, a.leased_at, a.ended_at, a.outcome, a.error_message, a.error_data,
    a.traceback,
    coalesce(w.origin, '{}') || jsonb_strip_nulls(jsonb_build_object('version', w.version))
      || coalesce(a.origin, '{}'), null
  from (
    select * from queue.attempts as e where e.job_id = (p_job).id order by e.fence desc limit p_limit) as a
  left join queue.workers as w on w.worker_id = a.worker_id
  union all
  select l.fence, l.attempt, l.worker_id, l.leased_at, null, null, null, null, null,
    coalesce(w.origin, '{}') || jsonb_strip_nulls(jsonb_build_object('version', w.version)), l.expires_at
  from queue.leases as l left join queue.workers as w on w.worker_id = l.worker_id
  where l.job_id = (p_job).id
  union all -- what completed at its first lease is in the job's row, and its worker in the event of that lease
  select (p_job).fence, (p_job).attempts, f.worker_id, (p_job).started_at, (p_job).finished_at, 'completed', null, null,
    null, coalesce(w.origin, '{}') || jsonb_strip_nulls(jsonb_build_object('version', w.version)), null
  from (select queue.first_worker((p_job).id) as worker_id) as f
  left join queue.workers as w on w.worker_id = f.worker_id
  where (p_job).outcome = 'completed'
    and not exists (select from queue.attempts as e where e.job_id = (p_job).id and e.fence = (p_job).fence)
$$;
comment on function queue.attempt_lines is 'The latest p_limit attempts of a job, and the running one.';

create function queue.first_frame(p_traceback jsonb) returns text
language sql immutable set search_path = '' as $$
  select (p_traceback #>> '{frames,0,file}') || ':' || (p_traceback #>> '{frames,0,line}')
$$;
comment on function queue.first_frame is 'Where an attempt failed: file:line of the innermost frame of the user''s '
  'own code.';

create function queue.differences(p_before jsonb, p_now jsonb) returns jsonb
language sql immutable set search_path = '' as $$
  select coalesce(jsonb_agg(jsonb_build_object('what', k.what, 'before', p_before -> k.what, 'now',
    p_now -> k.what) order by k.n), '[]')
  from unnest(array['error', 'message', 'place', 'version', 'commit', 'worker_id']) with ordinality as k (what, n)
  where p_before -> k.what is distinct from p_now -> k.what
$$;
comment on function queue.differences is 'The differences between two failed attempts: [{what: '
  'error|message|place|version|commit|worker_id, before, now}].';

create function public.job_attempts(p_job_id uuid) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_most constant integer := 1000;
  v_job public.jobs := queue.visible_job(p_job_id);
  v_open boolean := queue.may_see_tracebacks(v_job.workspace_id);
begin
  if v_job.fence > 100 then
    perform queue.take_turn();
  end if;
  return (
    with lines as materialized (
      select a.*, a.outcome in ('retry', 'failed', 'lost') as bad, jsonb_build_object('error', a.error_data -> 'type',
          -- of a lost one it has its number and its worker in it
          'message', case when a.outcome <> 'lost' then a.error_message end, 'version', a.origin -> 'version',
          'commit', a.origin -> 'commit', 'worker_id', a.worker_id)
        || case when v_open then jsonb_build_object('place', queue.first_frame(a.traceback)) else '{}' end as facts
      from queue.attempt_lines(v_job, v_most + 1) as a),
    compared as (
      select l.*, row_number() over (order by l.fence desc) as nth,
        case when l.bad then lag(l.facts) over (partition by l.bad order by l.fence) end as before
      from lines as l)
    select jsonb_build_object('attempts', coalesce(jsonb_agg(jsonb_build_object('attempt', c.attempt,
        'fence', c.fence, 'worker_id', c.worker_id, 'leased_at', c.leased_at, 'ended_at', c.ended_at,
        'outcome', c.outcome, 'error_message', c.error_message, 'error_data', c.error_data,
        'error', queue.error_line(c.error_message, c.error_data),
        'origin', nullif(queue.checked_origin(c.origin), '{}'), 'has_traceback', c.traceback is not null,
        'differs', case when c.before is not null then queue.differences(c.before, c.facts) end)
      || case when c.lease_expires_at is null then '{}'
        else jsonb_build_object('lease_expires_at', c.lease_expires_at) end
      || case when v_open then jsonb_build_object('traceback', c.traceback) else '{}' end
      order by c.fence) filter (where c.nth <= v_most), '[]'), 'more', count(*) > v_most)
    from compared as c);
end;
$$;
comment on function public.job_attempts is E'The latest 1,000 attempts of a job, the running one last: '
  '{attempts: [{attempt, fence, worker_id, leased_at, ended_at, outcome, error_message, error_data, error, origin, '
  'has_traceback, traceback, differs}], more}.\n\ntraceback is there for managers and the operator, for members where '
  'the setting members_see_tracebacks is true. differs compares a failed attempt with the failed one before: [{what, '
  'before, now}], [] when nothing does. origin has the worker''s version and commit, and where its log and its code are.';

select queue.allow('authenticated, service_role', 'public.job_attempts');
