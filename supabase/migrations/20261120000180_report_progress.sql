-- Report: progress, log lines and steps of running jobs, and the renewal of their leases. Each item shows its fencing
-- token; of one whose lease is lost nothing is stored.

-- Store what workers report of jobs that they hold: steps, log lines, tags (at most 20) and progress, with the events
-- of lines and progress. Gives the time when it had locked them.
create function queue.write_reports(p_items queue.worker_item[]) returns timestamptz
language plpgsql as $$
declare
  v_ids constant uuid[] := array(select i.job_id from unnest(p_items) as i);
  v_now timestamptz;
  v_changes queue.change[];
begin
  -- leases before jobs; what is reported is stored, so both are waited for
  perform from queue.leases where job_id = any (v_ids) order by job_id for update;
  perform from public.jobs where id = any (v_ids) order by id for update;
  v_now := queue.clock();
  if not exists (
      select from unnest(p_items) as i where num_nonnulls(i.progress, i.logs, i.steps, i.step, i.tags) > 0) then
    return v_now;
  end if;
  with held as materialized (
    select i.job_id, l.attempt, i.progress, i.tags, i.steps, i.step,
      -- lines not stored before: logs begins with the attempt's line logs_from
      coalesce(jsonb_path_query_array(i.logs, '$[$stored to last]', jsonb_build_object(
        'stored', greatest(0, l.log_lines - i.logs_from))), '[]') as logs
    from unnest(p_items) as i join queue.leases as l on l.job_id = i.job_id and l.fence = i.fence
    where exists (select from public.jobs as j where j.id = i.job_id)), -- not deleted meanwhile
  finished as ( -- workers say how long steps ran, not when they began: their clocks may differ
    insert into queue.steps (job_id, name, value, started_at, created_at)
    select h.job_id, left(s.value ->> 'name', 200), coalesce(s.value -> 'result', 'null'),
      v_now - (s.value ->> 'took_ms')::double precision * interval '1 ms', v_now + s.n * interval '1 us' -- in order
    from held as h cross join lateral jsonb_array_elements(h.steps) with ordinality as s (value, n)
    where s.value ->> 'name' <> ''
    on conflict (job_id, name, nth) do nothing), -- the first result of a step is kept
  leased as (
    update queue.leases as l set log_lines = l.log_lines + jsonb_array_length(h.logs),
      step = left(h.step ->> 'name', 200),
      step_started_at = v_now - (h.step ->> 'for_ms')::double precision * interval '1 ms'
    from held as h where l.job_id = h.job_id and (h.logs <> '[]' or num_nonnulls(h.steps, h.step) > 0)),
  moved as (
    update public.jobs as j set updated_at = v_now,
      last_seq = j.last_seq + (h.progress is not null)::integer
        + case when j.is_minimal is null then jsonb_array_length(h.logs) else 0 end,
      progress = case when h.progress is null then j.progress else jsonb_build_object(
        'percentage', least(100, greatest(0, round(coalesce(
          (h.progress ->> 'percentage')::numeric, (j.progress ->> 'percentage')::numeric, 0), 1))),
        'stage', left(h.progress ->> 'stage', 200), 'message', left(h.progress ->> 'message', 1000)) end,
      tags = case when h.tags is null then j.tags else (array(
        select t.tag
        from unnest(j.tags || array(select jsonb_array_elements_text(h.tags))) with ordinality as t (tag, n)
        where char_length(t.tag) between 1 and 100 and t.tag !~ '[[:cntrl:]]'
        group by t.tag order by min(t.n)))[1:20] end
    from held as h
    where j.id = h.job_id and (h.logs <> '[]' or num_nonnulls(h.progress, h.tags) > 0)
    returning j.id, j.workspace_id, j.session_id, j.attempts, j.progress, j.last_seq, j.is_minimal, h.attempt, h.logs,
      h.progress is not null as has_progress),
  lines as materialized (
    select m.id, m.workspace_id, m.session_id, m.attempt, m.is_minimal,
      m.last_seq - m.has_progress::integer - jsonb_array_length(m.logs) + n.ordinality::integer as seq,
      case when n.value ->> 'level' in ('debug', 'warning', 'error') then n.value ->> 'level' else 'info' end as level,
      left(coalesce(n.value ->> 'message', ''), 10000) as message,
      coalesce(nullif(n.value -> 'metadata', 'null'), '{}') as metadata,
      coalesce((n.value ->> 'at')::timestamptz, v_now) as at
    from moved as m cross join lateral jsonb_array_elements(m.logs) with ordinality as n),
  kept as (
    insert into public.job_logs (job_id, workspace_id, attempt, log_level, message, metadata, created_at)
    select l.id, l.workspace_id, l.attempt, l.level, l.message, l.metadata, l.at from lines as l order by l.id, l.seq),
  events as materialized (
    select l.id, l.workspace_id, l.session_id, l.seq, 'job.log' as type, jsonb_build_object('log', jsonb_build_object(
      'level', l.level, 'message', left(l.message, 2000), 'at', l.at, 'attempt', l.attempt,
      'metadata', case when pg_column_size(l.metadata) <= 2048 then l.metadata else '{}' end)) as data
    from lines as l where l.is_minimal is null
    union all
    select m.id, m.workspace_id, m.session_id, m.last_seq, 'job.progress',
      jsonb_build_object('progress', m.progress, 'attempts', m.attempts)
    from moved as m where m.has_progress),
  stored as (
    insert into queue.job_events (job_id, seq, workspace_id, type, data, created_at)
    select e.id, e.seq, e.workspace_id, e.type, e.data, v_now from events as e)
  select array_agg(row(e.workspace_id, e.session_id, e.type, e.data, array[e.id], array[e.seq])::queue.change
    order by e.id, e.seq)
  into v_changes from events as e;
  perform queue.publish(v_changes, v_now);
  return v_now;
end;
$$;

create function public.report_jobs(p_request jsonb) returns jsonb
language plpgsql security definer set search_path = ''
set lock_timeout = '8s'
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off set jit = off as $$
declare
  v_items constant queue.worker_item[] := queue.read_items(p_request -> 'items');
  v_news constant queue.worker_item[] := array(select i from unnest(v_items) as i
    where num_nonnulls(i.progress, i.logs, i.steps, i.step, i.tags) > 0);
  v_now timestamptz;
  v_ids uuid[];
  v_results jsonb;
begin
  if v_news <> '{}' then
    perform queue.write_reports(v_news);
  end if;
  -- renewed when a fifth of it is over: workers ask for each job every few seconds. One that is only renewed is not
  -- waited for while it is settled, reclaimed or cancelled: its next report comes in time
  v_now := queue.clock();
  v_ids := array(
    select l.job_id from unnest(v_items) as i join queue.leases as l on l.job_id = i.job_id
    where i.lease_seconds is not null or l.expires_at < v_now + make_interval(secs => 0.8 * l.lease_seconds)
    order by l.job_id for update of l skip locked);
  v_now := queue.clock();
  with renewed as (
    update queue.leases as l
    set lease_seconds = coalesce(s.lease_seconds, l.lease_seconds),
      expires_at = v_now + make_interval(secs => coalesce(s.lease_seconds, l.lease_seconds))
    from unnest(v_items) as i
    cross join lateral (
      select case when i.lease_seconds between 1 and 43200 then i.lease_seconds::integer end as lease_seconds) as s
    where l.job_id = any (v_ids) and l.job_id = i.job_id and l.fence = i.fence
    returning l.job_id, l.fence, l.expires_at)
  select jsonb_agg(jsonb_strip_nulls(jsonb_build_object('job_id', i.job_id, 'fence', i.fence,
    'outcome', case when num_nulls(l.job_id, j.id) > 0 then 'lost' when j.cancel_requested_at is not null then 'cancel'
      else 'ok' end,
    'lease_expires_at', coalesce(r.expires_at, l.expires_at))))
  into v_results
  from unnest(v_items) as i
  left join queue.leases as l on l.job_id = i.job_id and l.fence = i.fence
  left join public.jobs as j on j.id = l.job_id
  left join renewed as r on r.job_id = i.job_id and r.fence = i.fence;
  return jsonb_build_object('results', coalesce(v_results, '[]'));
end;
$$;
comment on function public.report_jobs is
  E'Report on running jobs and renew their leases: {results: [{job_id, fence, outcome: ok|cancel|lost, '
  'lease_expires_at}]}.\n\nItems: {job_id, fence, progress?, logs?, logs_from?, steps?, step?, tags?, '
  'lease_seconds?}.';

-- A page of a job's steps in order: at most 1,000, and none after p_bytes bytes; always the first. results: by name, of
-- the steps that they belong to, those of children put together. next: the last place when there are more, else null.
create function queue.step_page(
  p_job_id uuid, p_after jsonb, p_bytes bigint, out lines jsonb, out results jsonb, out next jsonb, out bytes bigint
)
language sql stable as $$
  with found as materialized (
    select l.*, row_number() over (order by l.name, l.nth) as n,
      sum(l.bytes) over (order by l.name, l.nth) - l.bytes as bytes_before
    from (
      select s.name, s.nth, s.value, octet_length(s.value::text)::bigint as bytes from queue.steps as s
      where s.job_id = p_job_id and s.nth >= 0 and (p_after ->> 'nth' is null
        or (s.name, s.nth) > (p_after ->> 'name', (p_after ->> 'nth')::integer))
      order by s.name, s.nth limit 1001) as l),
  page as materialized (select * from found where n <= 1000 and (bytes_before < p_bytes or n = 1))
  select coalesce((
      select jsonb_agg(jsonb_build_object('name', p.name, 'nth', p.nth, 'value', p.value) order by p.n)
      from page as p), '[]'),
    (select jsonb_object_agg(s.name, case when s.children is null then s.value -> 0
        else jsonb_build_object('children', s.children) end)
      from (select p.name, jsonb_agg(p.value) as value, jsonb_agg(p.value order by p.nth) filter (where p.nth > 0)
        as children from page as p group by p.name) as s),
    (select jsonb_build_object('name', p.name, 'nth', p.nth) from page as p
      where (select count(*) from found) > (select count(*) from page) order by p.n desc limit 1),
    (select coalesce(sum(p.bytes), 0)::bigint from page as p)
$$;

-- The results of a job's finished steps by name, as a lease returns them; null where they are longer than 16,000 bytes:
-- one answer may hold a thousand jobs, and the worker then reads them by read_steps.
create function queue.steps_of(p_job_id uuid) returns jsonb
language plpgsql stable as $$
begin
  if not exists (select from queue.steps as s where s.job_id = p_job_id and s.nth >= 0) then
    return '{}';
  end if;
  return (
    select p.results from queue.step_page(p_job_id, null, 16000) as p where p.next is null and p.bytes <= 16000);
end;
$$;

create function public.read_steps(p_request jsonb) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
declare
  v_id constant uuid := p_request ->> 'job_id';
begin
  if not exists (
      select from queue.leases as l where l.job_id = v_id and l.fence::text = p_request ->> 'fence') then
    perform queue.refuse(409, 'lease_lost', 'the lease on the job is lost; its steps are not shown', v_id::text);
  end if;
  return (select to_jsonb(p) - 'results' from queue.step_page(v_id, p_request -> 'after', 1000000) as p);
end;
$$;
comment on function public.read_steps is
  E'Steps of a leased job, in pages of about 1 MB: {lines: [{name, nth, value}], next: {name, nth} | '
  'null, bytes}.\n\nRequest: {job_id, fence, after?}. Lines from nth 1 on are what the children of a step returned.';

create function public.job_steps(p_job_id uuid, p_after jsonb default null) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
declare
  v_page record;
begin
  perform queue.visible_job(p_job_id);
  v_page := queue.step_page(p_job_id, p_after, 1000000);
  return jsonb_build_object(
    'steps', (
      select coalesce(jsonb_agg(jsonb_build_object('name', t.name, 'kind', t.kind, 'result', r.value,
        'created_at', t.created_at,
        'took_ms', round((date_part('epoch', t.created_at - t.started_at) * 1000)::numeric, 1))
        order by t.created_at, t.name), '[]')
      from jsonb_each(v_page.results) as r
      join queue.steps as t on t.job_id = p_job_id and t.name = r.key and t.nth = 0),
    'next', v_page.next);
end;
$$;
comment on function public.job_steps is
  'Finished steps of a job: {steps: [{name, kind, result, created_at, took_ms}], next}.';

select queue.allow('job_worker, service_role', 'public.report_jobs', 'public.read_steps');
select queue.allow('authenticated, service_role', 'public.job_steps');
