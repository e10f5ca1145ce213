-- Job types as people ask for them: what each takes, its limits and schedules, who serves it, how it went
-- today, and the nearest name for a mistyped one.

create function queue.likeness(p_one text, p_other text) returns double precision
language sql immutable set search_path = '' as $$
  with grams as (
    select distinct w.n, substr(w.word, i, 2) as gram
    from (values (1, '.' || lower(p_one) || '.'), (2, '.' || lower(p_other) || '.')) as w (n, word)
    cross join lateral generate_series(1, length(w.word) - 1) as i)
  select 2.0 * count(*) / nullif((select count(*) from grams), 0)
  from grams as a join grams as b on b.gram = a.gram and a.n = 1 and b.n = 2
$$;
comment on function queue.likeness is 'How alike two names are, 0 to 1: the share of pairs of letters they have in '
  'common (Dice).';

create function queue.nearest_type(p_job_type text) returns text
language sql stable set search_path = '' as $$
  select t.job_type
  from (select job_type, queue.likeness(job_type, left(p_job_type, 100)) as alike from queue.job_types
    where not internal) as t
  where t.alike >= 0.6
  order by t.alike desc, t.job_type
  limit 1
$$;
comment on function queue.nearest_type is 'The published type whose name is most like a mistyped one; null when '
  'none is similar.';

create function queue.unknown_type(p_job_type text) returns text
language sql stable set search_path = '' as $$
  select format('no worker has registered the job type %s', left(p_job_type, 100))
    || coalesce('; did you mean ' || queue.nearest_type(p_job_type) || '?', '')
$$;
comment on function queue.unknown_type is 'The message for a job type that no worker has published.';

create function queue.unserved_warning(p_job_types text[]) returns text
language plpgsql stable set search_path = '' as $$
declare
  v_now timestamptz := queue.clock();
  v_type text;
  v_seen timestamptz;
begin
  select u into v_type from unnest(p_job_types) as u where queue.unserved(u, v_now) order by 1 limit 1;
  if not found then
    return null;
  end if;
  select max(w.seen_at) into v_seen from queue.workers as w where w.job_types is null or v_type = any (w.job_types);
  return format('no worker that runs now serves the job type %s%s; the job waits until one does', v_type,
    coalesce(', the last was seen at ' || queue.utc(v_seen), ''));
end;
$$;
comment on function queue.unserved_warning is 'A sentence about the first of these types that no running worker '
  'serves; null when all are served.';

create function queue.check_served(p_job_types text[]) returns text
language plpgsql stable set search_path = '' as $$
declare
  v_since constant timestamptz := queue.clock() - queue.served_for();
  v_warning text;
begin
  -- the usual cases first: a worker that serves all of them has been seen, or none runs at all
  if exists (select from queue.workers as w
      where w.seen_at > v_since and (w.job_types is null or p_job_types <@ w.job_types)) then
    return null;
  elsif not exists (select from queue.workers as w where w.seen_at > v_since) then
    return null;
  end if;
  v_warning := queue.unserved_warning(p_job_types);
  if v_warning is not null and queue.setting('refuse_unserved_types') = 'true' then
    perform queue.refuse(422, 'job_type_unserved', v_warning, 'job_type');
  end if;
  return v_warning;
end;
$$;
comment on function queue.check_served is 'The warning for enqueued jobs whose type no worker serves; refuses them '
  'where the setting refuse_unserved_types is true.';

create function queue.type_numbers(p_workspace_id uuid, p_job_type text,
  p_now timestamptz) returns table (job_type text, line jsonb)
language sql stable set search_path = '' as $$
  with numbers as materialized (
    select n.job_type, n.outcome, n.wait_bucket, n.run_bucket, n.jobs from queue.stat_deltas as n
    where n.at >= p_now - interval '1 day' and (p_workspace_id is null or n.workspace_id = p_workspace_id)
      and (p_job_type is null or n.job_type = p_job_type)
    union all
    select n.job_type, n.outcome, n.wait_bucket, n.run_bucket, n.jobs from queue.stat_minutes as n
    where n.minute >= p_now - interval '1 day' and (p_workspace_id is null or n.workspace_id = p_workspace_id)
      and (p_job_type is null or n.job_type = p_job_type)),
  sums as (
    select n.job_type, n.outcome, sum(n.jobs) as jobs from numbers as n group by 1, 2),
  runs as (
    select n.job_type, n.run_bucket, sum(n.jobs) as jobs from numbers as n
    where n.outcome in ('completed', 'failed', 'retry') group by 1, 2),
  waits as (
    select n.job_type, n.wait_bucket, sum(n.jobs) as jobs from numbers as n
    where n.outcome in ('completed', 'failed', 'retry') group by 1, 2)
  select s.job_type, jsonb_build_object(
    'enqueued', coalesce(sum(s.jobs) filter (where s.outcome = 'enqueued'), 0),
    'completed', coalesce(sum(s.jobs) filter (where s.outcome = 'completed'), 0),
    'failed', coalesce(sum(s.jobs) filter (where s.outcome = 'failed'), 0),
    'cancelled', coalesce(sum(s.jobs) filter (where s.outcome = 'cancelled'), 0),
    'retried', coalesce(sum(s.jobs) filter (where s.outcome = 'retry'), 0),
    'lost', coalesce(sum(s.jobs) filter (where s.outcome = 'lost'), 0),
    'success_rate', round(coalesce(sum(s.jobs) filter (where s.outcome = 'completed'), 0)
      / nullif(sum(s.jobs) filter (where s.outcome in ('completed', 'failed')), 0), 4),
    'run', queue.percentiles((select jsonb_object_agg(r.run_bucket, r.jobs) from runs as r
      where r.job_type = s.job_type)),
    'queue', queue.percentiles((select jsonb_object_agg(w.wait_bucket, w.jobs) from waits as w
      where w.job_type = s.job_type)))
  from sums as s group by s.job_type
$$;
comment on function queue.type_numbers is 'Numbers of each type''s jobs in the last 24 hours, of one workspace or '
  '(null) of all: counts, success_rate 0..1, run and queue percentiles.';

create function queue.type_line(
  p_type queue.job_types, p_workspace_id uuid, p_numbers jsonb, p_now timestamptz
) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object('job_type', (p_type).job_type, 'queue', (p_type).queue, 'description', (p_type).description,
    'source', (p_type).source, 'version', (p_type).schema_version, 'internal', (p_type).internal,
    'paused_at', coalesce((p_type).paused_at, own.paused_at), 'pause_reason', coalesce((p_type).pause_reason,
      own.reason),
    'registered_at', (p_type).registered_at, 'served', not queue.unserved((p_type).job_type, p_now),
    'last_seen_at', seen.at, 'workers', seen.workers, 'code_versions', seen.versions,
    'day', coalesce(p_numbers, '{}'),
    'schedule_count', (select count(*) from queue.schedules as s
      where s.job_type = (p_type).job_type
        and (p_workspace_id is null or s.workspace_id in (p_workspace_id, queue.system_workspace()))))
  from (
    select max(w.seen_at) as at, count(*) filter (where w.seen_at > p_now - interval '1 hour'
        and queue.worker_state(w.worker_id, w.seen_at, p_now) = 'alive') as workers,
      coalesce(jsonb_agg(distinct w.version) filter (where w.seen_at > p_now - queue.served_for()
        and w.version is not null), '[]') as versions
    from queue.workers as w
    where w.seen_at > p_now - interval '30 days' and (w.job_types is null
      or (p_type).job_type = any (w.job_types))) as seen
  left join queue.pauses as own on own.kind = 'workspace_type' and own.workspace_id = p_workspace_id
    and own.job_type = (p_type).job_type
$$;
comment on function queue.type_line is 'A job type as an entry of a list.';

create function public.list_job_types(p_workspace_id uuid default null, p_internal boolean default false) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_now timestamptz := queue.clock();
begin
  perform queue.take_turn();
  perform queue.may_read_all(p_workspace_id);
  return (
    select jsonb_build_object('now', v_now, 'types', coalesce(jsonb_agg(
      queue.type_line(t, p_workspace_id, n.line, v_now) order by t.job_type), '[]'))
    from queue.job_types as t
    left join queue.type_numbers(p_workspace_id, null, v_now) as n on n.job_type = t.job_type
    where not t.internal or coalesce(p_internal, false));
end;
$$;
comment on function public.list_job_types is E'Job types by name: {now, types: [{job_type, queue, description, '
  'source, version, paused_at, served, last_seen_at, workers, code_versions, schedule_count, day: {…}}]}.\n\nday has '
  'the numbers of the workspace''s last 24 hours; p_workspace_id null, for the operator, those of all. served is '
  'false when workers run but none of them serves the type. The platform''s own types are omitted unless p_internal.';

create function public.get_job_type(p_job_type text, p_workspace_id uuid default null) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_now timestamptz := queue.clock();
  v_type queue.job_types;
begin
  perform queue.take_turn();
  perform queue.may_read_all(p_workspace_id);
  select * into v_type from queue.job_types where job_type = p_job_type;
  if not found then
    perform queue.refuse(404, 'unknown_job_type', queue.unknown_type(p_job_type), queue.nearest_type(p_job_type));
  end if;
  return queue.type_line(v_type, p_workspace_id,
      (select n.line from queue.type_numbers(p_workspace_id, p_job_type, v_now) as n), v_now)
    || jsonb_build_object('now', v_now, 'payload_schema', v_type.payload_schema, 'events', v_type.events,
      'live', v_type.live,
      'tagged_by', v_type.tagged_by, 'limits', jsonb_build_object(
        'max_concurrency', v_type.max_concurrency, 'workspace_concurrency', v_type.workspace_concurrency,
        'key_concurrency', v_type.key_concurrency, 'lease_seconds', v_type.lease_seconds, 'timeout_seconds',
          v_type.timeout_seconds,
        'max_attempts', v_type.max_attempts, 'rate_limit', v_type.rate_limit, 'rate_per_seconds',
          v_type.rate_per_seconds,
        'rate_per_key', v_type.rate_per_key, 'backoff', jsonb_build_object('first_seconds',
          v_type.backoff_first_seconds,
          'cap_seconds', v_type.backoff_cap_seconds, 'factor', v_type.backoff_factor)),
      'serving', (select coalesce(jsonb_agg(jsonb_build_object('worker_id', w.worker_id, 'version', w.version,
        'started_at', w.started_at,
          'seen_at', w.seen_at, 'queues', w.queues,
          'state', queue.worker_state(w.worker_id, w.seen_at, v_now)) order by w.seen_at desc), '[]')
        from (select * from queue.workers as k where k.seen_at > v_now - interval '30 days'
          and (k.job_types is null or p_job_type = any (k.job_types)) order by k.seen_at desc limit 20) as w),
      'schedules', (select coalesce(jsonb_agg(jsonb_build_object('name', s.name, 'cron', s.cron, 'timezone', s.timezone,
          'enabled', s.enabled, 'next_at', s.next_at, 'last_slot_at', s.last_slot_at, 'problem', s.problem,
          'source', s.source) order by s.name), '[]')
        from (select * from queue.schedules as k where k.job_type = p_job_type
          and (p_workspace_id is null or k.workspace_id in (p_workspace_id, queue.system_workspace()))
        order by k.name limit 100) as s));
end;
$$;
comment on function public.get_job_type is E'One job type: as in list_job_types, with payload_schema, limits, '
  'tagged_by, the 20 workers last seen that serve it, and its schedules.\n\n404 for a type that no worker has '
  'published, with the nearest name in detail.';

select queue.allow('authenticated, service_role', 'public.list_job_types', 'public.get_job_type');
