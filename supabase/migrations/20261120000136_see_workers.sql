-- Workers by identity: what each runs and serves and when it was last seen, for as long as a person may ask.
-- The runs themselves are in queue.ticks, for a day.

create table queue.workers (
  worker_id text primary key,
  version text,
  job_types text[],
  queues text[],
  origin jsonb,
  started_at timestamptz not null,
  seen_at timestamptz not null,
  runs bigint not null default 0
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
create index workers_by_last_seen on queue.workers (seen_at);
alter table queue.workers enable row level security;
revoke all on queue.workers from public, anon, authenticated, service_role;
comment on table queue.workers is 'Every worker seen in the last 30 days; one row each, written when a run of it first asks for jobs.';
comment on column queue.workers.worker_id is 'Identity: host, process and a random part.';
comment on column queue.workers.version is 'Code version it runs.';
comment on column queue.workers.job_types is 'Types it serves; null for all.';
comment on column queue.workers.queues is 'Queues it serves; null for all.';
comment on column queue.workers.origin is 'Where its log is: {log_group, log_stream, region}; null where there is none to link to.';
comment on column queue.workers.started_at is 'When it was first seen.';
comment on column queue.workers.seen_at is 'When a run of it last began.';
comment on column queue.workers.runs is 'How many runs of it have begun.';

create function queue.see_worker(p_request jsonb, p_job_types text[], p_queues text[], p_now timestamptz) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_worker constant text := p_request ->> 'worker_id';
  v_origin constant jsonb := case when jsonb_typeof(p_request -> 'origin') = 'object'
    and pg_column_size(p_request -> 'origin') <= 2000 then p_request -> 'origin' end;
begin
  insert into queue.workers (worker_id, started_at, seen_at) select v_worker, p_now, p_now
  where not exists (select 1 from queue.workers as w where w.worker_id = v_worker) on conflict (worker_id) do nothing;
  -- two runs of one worker that begin at once do not wait for each other
  update queue.workers as w set version = left(p_request ->> 'version', 200), job_types = p_job_types,
    queues = p_queues,
    origin = coalesce(v_origin, w.origin), seen_at = p_now, runs = w.runs + 1
  where w.ctid = any (array(
    select h.ctid from queue.workers as h where h.worker_id = v_worker for update skip locked));
end;
$$;
comment on function queue.see_worker is 'Note that a run of a worker has begun, from its first lease request.';

create function queue.serving(p_job_type text, p_since timestamptz) returns boolean
language plpgsql stable
set search_path = ''
as $$
begin
  return exists (
    select from queue.workers as w
    where w.seen_at > p_since and (w.job_types is null or p_job_type = any (w.job_types)));
end;
$$;
comment on function queue.serving is 'Whether a worker that serves the type has been seen since p_since.';

create function queue.unserved(p_job_type text, p_now timestamptz) returns boolean
language plpgsql stable
set search_path = ''
as $$
begin
  return exists (select from queue.workers as w where w.seen_at > p_now - interval '10 minutes')
    and not queue.serving(p_job_type, p_now - interval '10 minutes')
    and exists (select from queue.job_types as t
      where t.job_type = p_job_type and t.registered_at < p_now - interval '10 minutes');
end;
$$;
comment on function queue.unserved is E'Whether workers run but none of them serves the type, for ten minutes.\n\nFalse while no worker runs at all, and for a type published a moment ago: other messages report both.';

create function queue.prune_workers(p_limit integer, p_now timestamptz) returns void
language sql
set search_path = ''
as $$
  delete from queue.workers where worker_id = any (array(
    select worker_id from queue.workers where seen_at < p_now - interval '30 days'
      order by seen_at limit p_limit for update skip locked))
$$;
comment on function queue.prune_workers is 'Delete workers not seen for 30 days.';

revoke execute on function queue.see_worker, queue.serving, queue.unserved, queue.prune_workers
  from public, anon, authenticated, service_role;
