-- How many workers run at once, counted where all of them can see it: an account on AWS whose whole
-- concurrency is ten has none to reserve, and what workers take there the API lacks.

create table queue.worker_runs (
  run_id uuid primary key, -- identity, chosen by the worker
  worker_id text not null, -- who runs
  started_at timestamptz not null, -- when it was admitted
  expires_at timestamptz not null, -- when its host ends it at the latest; a run that was killed counts until then
  has_refused boolean not null default false -- whether another run was refused since this one was admitted
);
comment on table queue.worker_runs is 'Bounded runs of workers under way; only workers that are given a bound are '
  'here.';

create function public.begin_worker_run(p_request jsonb) returns json
language plpgsql
security definer -- the worker holds no rights on the engine's tables
set search_path = ''
set lock_timeout = '8s' as $$
declare
  v_now timestamptz := queue.clock();
  v_run uuid;
  v_most integer := queue.whole_in(p_request, 'most');
  v_seconds double precision;
  v_running integer;
begin
  v_run := p_request ->> 'run_id'; -- here: what a declaration raises is caught by no handler of its block
  v_seconds := p_request ->> 'seconds';
  if v_run is null or coalesce(p_request ->> 'worker_id', '') = '' or v_most is null or v_most < 1
    or v_seconds is null or not v_seconds between 0 and 86400
  then
    perform queue.refuse(400, 'invalid_argument',
      'run_id, worker_id, most (1 or more) and seconds (0 to 86,400) are required', 'p_request');
  end if;
  lock table queue.worker_runs in share row exclusive mode; -- one admission at a time
  delete from queue.worker_runs where expires_at <= v_now or run_id = v_run;
  select count(*) into v_running from queue.worker_runs;
  if v_running < v_most then
    insert into queue.worker_runs (run_id, worker_id, started_at, expires_at)
    values (v_run, p_request ->> 'worker_id', v_now, v_now + make_interval(secs => v_seconds));
    return json_build_object('admitted', true, 'free', v_most - v_running - 1);
  end if;
  update queue.worker_runs set has_refused = true where not has_refused;
  return json_build_object('admitted', false, 'free', 0);
exception
  when invalid_text_representation or numeric_value_out_of_range then
    perform queue.refuse_value('the request', 'p_request', sqlerrm);
end;
$$;
comment on function public.begin_worker_run is E'Admit a worker''s run unless `most` are under way: {admitted, '
  'free}.\n\nRequest: {run_id, worker_id, most, seconds}. seconds bounds how long it counts if its end is never '
  'reported. May be repeated with the same run_id. A worker that is not admitted leases nothing and ends; those '
  'that run learn of it when they end, see end_worker_run.';

create function public.end_worker_run(p_request jsonb) returns json
language plpgsql
security definer -- the worker holds no rights on the engine's tables
set search_path = '' as $$
declare
  v_refused boolean;
begin
  delete from queue.worker_runs where run_id = (p_request ->> 'run_id')::uuid returning has_refused into v_refused;
  return json_build_object('ended', found, 'refused', coalesce(v_refused, false));
exception
  when invalid_text_representation then
    perform queue.refuse(400, 'invalid_argument', 'run_id must be a uuid', 'p_request');
end;
$$;
comment on function public.end_worker_run is E'End an admitted run: {ended, refused}; ended is false when it had '
  'ended before.\n\nrefused: another run was refused meanwhile. The work it came for may be newer than this one''s '
  'last lease, so a worker with time left leases again. Request: {run_id}. May be repeated.';

select queue.allow('job_worker, service_role', 'public.begin_worker_run', 'public.end_worker_run');
