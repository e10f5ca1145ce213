-- Workers by identity: what each runs and serves and when it was last seen, for as long as a person may ask.
-- The runs themselves are in queue.ticks, for a day.

create table queue.workers (
  worker_id text primary key, -- identity: host, process and a random part
  version text, -- code version it runs
  job_types text[], -- types it serves; null for all
  queues text[], -- queues it serves; null for all
  origin jsonb, -- where its log and its code are: {log_group, log_stream, region, commit, source}; null for neither
  started_at timestamptz not null, -- when it was first seen
  seen_at timestamptz not null, -- when a run of it last began
  runs bigint not null default 0 -- how many runs of it have begun
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
create index workers_by_last_seen on queue.workers (seen_at);
comment on table queue.workers is 'Every worker seen in the last 30 days; one row each, written when a run of it first asks for jobs.';

create function queue.checked_origin(p_origin jsonb) returns jsonb
language sql immutable set search_path = '' as $$
  -- links are made of it, and a worker's key may be stolen
  select coalesce(jsonb_object_agg(o.key, o.value), '{}')
  from jsonb_each(case jsonb_typeof(p_origin) when 'object' then p_origin else '{}' end) as o
  where jsonb_typeof(o.value) = 'string' and char_length(o.value #>> '{}') <= 512 and o.value #>> '{}' ~ case o.key
    when 'region' then '^[a-z]{2}(-[a-z]+)+-[0-9]{1,2}$'
    when 'log_group' then '^[A-Za-z0-9_/.#-]+$'
    when 'log_stream' then '^[^:*[:cntrl:]]+$'
    when 'request_id' then '^[A-Za-z0-9_.:-]+$'
    when 'version' then '^[^[:cntrl:]]+$'
    when 'commit' then '^[0-9A-Za-z._+-]{1,64}$'
    when 'source' then '^https://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._~%@+-]+)+$' end
$$;
comment on function queue.checked_origin is 'Where a worker says its log and its code are, without what has another form: {region, log_group, log_stream, request_id, version, commit, source}.';

create function queue.see_worker(p_request jsonb, p_job_types text[], p_queues text[], p_now timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_worker constant text := p_request ->> 'worker_id';
  v_origin constant jsonb := nullif(queue.checked_origin(p_request -> 'origin'), '{}');
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

create function queue.worker_state(p_worker_id text, p_seen_at timestamptz, p_now timestamptz) returns text
language sql stable set search_path = '' as $$
  select case when p_seen_at < p_now - interval '1 hour' then 'gone' else (
    select case when held.live or held.live is null and seen.at > p_now - interval '3 minutes' then 'alive'
      when seen.at > p_now - interval '10 minutes' then 'stale' else 'gone' end
    from (select bool_or(l.expires_at > p_now) as live from queue.leases as l where l.worker_id = p_worker_id) as held,
      (select greatest(p_seen_at, max(t.seen_at)) as at
        from (select * from queue.ticks order by started_at desc limit 100) as t
        where t.worker_id = p_worker_id) as seen) end
$$;
comment on function queue.worker_state is E'How a worker is, from when a run of it was last seen to begin: alive, stale or gone.\n\nalive: it holds a lease that has not expired, or holds none and was seen within three minutes. stale: seen within ten. gone: not even that.';

create function queue.serving(p_job_type text, p_since timestamptz) returns boolean
language plpgsql stable set search_path = '' as $$
begin
  return exists (
    select from queue.workers as w
    where w.seen_at > p_since and (w.job_types is null or p_job_type = any (w.job_types)));
end;
$$;
comment on function queue.serving is 'Whether a worker that serves the type has been seen since p_since.';

create function queue.served_for() returns interval
language sql immutable parallel safe set search_path = '' as $$ select interval '10 minutes' $$;
comment on function queue.served_for is 'For how long a worker that was seen counts as serving its types: longer than a deploy and a long run take.';

create function queue.unserved(p_job_type text, p_now timestamptz) returns boolean
language plpgsql stable set search_path = '' as $$
begin
  return exists (select from queue.workers as w where w.seen_at > p_now - queue.served_for())
    and not queue.serving(p_job_type, p_now - queue.served_for())
    and exists (select from queue.job_types as t
      where t.job_type = p_job_type and t.registered_at < p_now - queue.served_for());
end;
$$;
comment on function queue.unserved is E'Whether workers run but none of them serves the type, for as long as queue.served_for says.\n\nFalse while no worker runs at all, and for a type published a moment ago: other messages report both.';
