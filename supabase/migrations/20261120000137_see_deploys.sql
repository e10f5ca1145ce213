-- Deploys: since when which code serves jobs, from what workers say of themselves, and what failed since.

create table queue.deploys (
  first_seen_at timestamptz not null, -- when a worker of it was first seen
  version text not null, -- the worker's version; empty where it has none
  commit text not null, -- the commit it was made of; empty where it is not known
  source text, -- where that commit's files can be read: a path is appended
  job_types text[], -- types its workers serve; null for all
  last_seen_at timestamptz not null, -- when a run of such a worker last began, to half a minute
  primary key (first_seen_at, version, commit)
) with (fillfactor = 50);
create index deploys_by_code on queue.deploys (version, commit, first_seen_at desc);
comment on table queue.deploys is 'Each deploy of the last 30 days. Code that comes back after another is a deploy again.';

create function queue.see_deploy(p_version text, p_origin jsonb, p_job_types text[], p_now timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_version constant text := left(coalesce(p_version, ''), 200);
  v_commit constant text := coalesce(p_origin ->> 'commit', '');
  v_known queue.deploys;
begin
  select * into v_known from queue.deploys as d where d.version = v_version and d.commit = v_commit
  order by d.first_seen_at desc limit 1;
  -- while one deploy replaces another, workers of both are seen; gone and back, it is a deploy again
  if v_known.last_seen_at > p_now - interval '10 minutes' or v_known.version is not null
    and not exists (select from queue.deploys as d where d.first_seen_at > v_known.first_seen_at) then
    if v_known.last_seen_at < p_now - interval '30 seconds'
      or v_known.job_types is not null and (p_job_types is null or not p_job_types <@ v_known.job_types) then
      update queue.deploys as d set last_seen_at = greatest(d.last_seen_at, p_now),
        job_types = case when d.job_types is not null and p_job_types is not null
          then array(select distinct t from unnest(d.job_types || p_job_types) as t) end
      where d.ctid = any (array(select k.ctid from queue.deploys as k where k.first_seen_at = v_known.first_seen_at
        and k.version = v_version and k.commit = v_commit for update skip locked));
    end if;
  elsif pg_try_advisory_xact_lock(hashtextextended('minutehand deploys', 0)) then -- else the next run notes it
    insert into queue.deploys (first_seen_at, version, commit, source, job_types, last_seen_at)
    select p_now, v_version, v_commit, p_origin ->> 'source', p_job_types, p_now
    where not exists (select from queue.deploys as d where d.version = v_version and d.commit = v_commit
      and d.last_seen_at > p_now - interval '10 minutes');
  end if;
end;
$$;
comment on function queue.see_deploy is 'Note that code serves jobs, from the first request of a worker''s run.';

create function queue.failures_by_deploy(p_job_type text, p_failed_at timestamptz[]) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object('version', d.version, 'commit', nullif(d.commit, ''), 'first_seen_at', d.first_seen_at,
    'failed_since', (select count(*) from unnest(p_failed_at) as f where f >= d.first_seen_at),
    'failed_before', (select count(*) from unnest(p_failed_at) as f where f < d.first_seen_at))
  from queue.deploys as d where d.job_types is null or p_job_type = any (d.job_types)
  order by d.first_seen_at desc limit 1
$$;
comment on function queue.failures_by_deploy is 'How many of these failures of a type there were since the latest deploy that serves it, and before: {version, commit, first_seen_at, failed_since, failed_before}; null where no deploy is known.';

create function queue.deploys_since(p_since timestamptz) returns jsonb
language sql stable set search_path = '' as $$
  select coalesce(jsonb_agg(jsonb_build_object('at', d.first_seen_at, 'version', d.version,
    'commit', nullif(d.commit, '')) order by d.first_seen_at), '[]')
  from (select * from queue.deploys where first_seen_at >= p_since order by first_seen_at desc limit 50) as d
$$;
comment on function queue.deploys_since is 'The latest 50 deploys since p_since, oldest first, to mark them on a chart: [{at, version, commit}].';

create function public.list_deploys(p_workspace_id uuid default null, p_minutes numeric default 10080) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_now timestamptz := queue.clock();
  v_since timestamptz := v_now - make_interval(
    mins => least(11520, greatest(1, coalesce(queue.whole(p_minutes, 'p_minutes'), 10080))));
begin
  perform queue.take_turn();
  perform queue.may_read_all(p_workspace_id);
  return (
    select jsonb_build_object('now', v_now, 'deploys', coalesce(jsonb_agg(jsonb_build_object(
        'version', d.version, 'commit', nullif(d.commit, ''), 'source', d.source, 'job_types', d.job_types,
        'first_seen_at', d.first_seen_at, 'last_seen_at', d.last_seen_at, 'replaced_at', d.replaced_at,
        'completed', n.completed, 'failed', n.failed, 'retried', n.retried, 'lost', n.lost)
      order by d.first_seen_at desc), '[]'))
    from (
      select k.*, (select min(o.first_seen_at) from queue.deploys as o where o.first_seen_at > k.first_seen_at
        and (o.job_types is null or k.job_types is null or o.job_types && k.job_types)) as replaced_at
      from queue.deploys as k where k.last_seen_at >= v_since order by k.first_seen_at desc limit 50) as d
    cross join lateral (
      select coalesce(sum(s.jobs) filter (where s.outcome = 'completed'), 0) as completed,
        coalesce(sum(s.jobs) filter (where s.outcome = 'failed'), 0) as failed,
        coalesce(sum(s.jobs) filter (where s.outcome = 'retry'), 0) as retried,
        coalesce(sum(s.jobs) filter (where s.outcome = 'lost'), 0) as lost
      from (
        select m.job_type, m.workspace_id, m.outcome, m.jobs from queue.stat_minutes as m
        where m.minute >= greatest(v_since, date_trunc('minute', d.first_seen_at))
          and m.minute < date_trunc('minute', coalesce(d.replaced_at, 'infinity'))
        union all
        select c.job_type, c.workspace_id, c.outcome, c.jobs from queue.stat_deltas as c
        where c.at >= greatest(v_since, d.first_seen_at) and c.at < coalesce(d.replaced_at, 'infinity')) as s
      where (p_workspace_id is null or s.workspace_id = p_workspace_id)
        and (d.job_types is null or s.job_type = any (d.job_types))
        and not exists (select from queue.job_types as t where t.job_type = s.job_type and t.internal)) as n);
end;
$$;
comment on function public.list_deploys is E'Which code served jobs within p_minutes (at most 11,520), the latest 50 deploys first: {now, deploys: [{version, commit, source, job_types, first_seen_at, last_seen_at, replaced_at, completed, failed, retried, lost}]}.\n\nThe counts are attempts of its types, to the minute, from its first worker until the next deploy (replaced_at); of a workspace, or for operators without one of all. source is where the commit''s files can be read.';

select queue.allow('authenticated, service_role', 'public.list_deploys');
