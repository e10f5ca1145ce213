-- How waits end: dependencies counted down as jobs end, events by reference, results of children gathered in slices.
-- Only maintenance does this, one call at a time, and each call does a bounded amount of it.

create table queue.gathered (
  job_id uuid not null, -- the parent
  name text not null, -- its step
  nth integer not null, -- place among the children, from 1
  child_id uuid not null, -- the child
  status text not null, -- how it ended; cancelled when it had been deleted by then
  result jsonb, -- its result
  error_message text, -- its error, if any
  bytes integer not null generated always as ( -- about its length as text, bytes
    coalesce(octet_length(result::text), 4) + coalesce(octet_length(error_message), 0) + 100) stored,
  primary key (job_id, name, nth)
);
comment on table queue.gathered is 'Results of children, copied when the last of them has ended: later attempts of '
  'the parent read the same.';

create function queue.resume_jobs(p_ids uuid[], p_now timestamptz) returns void
language plpgsql set search_path = '' as $$
begin
  update queue.steps as s set kind = w.kind, started_at = w.created_at -- what a trace shows of the wait
  from queue.waits as w where w.job_id = any (p_ids) and s.job_id = w.job_id and s.name = w.name;
  delete from queue.waits where job_id = any (p_ids);
  delete from queue.dependencies where job_id = any (p_ids);
  with going as (
    update public.jobs set status = 'pending', next_retry_at = null, updated_at = p_now, last_seq = last_seq + 1
    where id = any (p_ids)
    returning id, workspace_id, session_id, last_seq, attempts)
  insert into queue.job_events (job_id, seq, workspace_id, session_id, type, data, created_at)
  select id, last_seq, workspace_id, session_id, 'job.resumed',
    jsonb_build_object('status', 'pending', 'attempts', attempts), p_now
  from going;
  perform queue.place(p_ids, p_now);
end;
$$;
comment on function queue.resume_jobs is 'Let waiting jobs continue; the results of their steps are stored before. '
  'The caller holds the rows, all of them waiting.';

create function queue.resume(p_values jsonb, p_now timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_ids uuid[] := array(select (value ->> 'job_id')::uuid from jsonb_array_elements(p_values) order by 1);
begin
  insert into queue.steps (job_id, name, result, created_at)
  select (v.value ->> 'job_id')::uuid, v.value ->> 'name', jsonb_build_object('value', v.value -> 'value'), p_now
  from jsonb_array_elements(p_values) as v
  where v.value ->> 'name' is not null
  on conflict (job_id, name) do nothing;
  perform queue.resume_jobs(v_ids, p_now);
end;
$$;
comment on function queue.resume is 'Let waiting jobs continue with a small value: p_values is [{job_id, name, value}]. '
  'The caller holds the rows.';

create function queue.expire_waits(p_ids uuid[], p_now timestamptz) returns integer
language plpgsql set search_path = '' as $$
declare
  v_ids uuid[];
begin
  v_ids := array(
    select id from public.jobs where id = any (p_ids) and status = 'waiting' order by id for update skip locked);
  v_ids := array(select job_id from queue.waits where job_id = any (v_ids) and timeout_at <= p_now);
  insert into queue.steps (job_id, name, result, created_at)
  select w.job_id, w.name, jsonb_build_object('value', case w.kind
    when 'sleep' then jsonb_build_object('slept', true)
    when 'ask' then jsonb_build_object('answer', w.default_value, 'timed_out', true)
    else jsonb_build_object('event', w.default_value, 'timed_out', true) end), p_now
  from queue.waits as w where w.job_id = any (v_ids)
  on conflict (job_id, name) do nothing;
  if cardinality(v_ids) > 0 then
    perform queue.resume_jobs(v_ids, p_now);
  end if;
  return cardinality(v_ids);
end;
$$;
comment on function queue.expire_waits is 'End the waits whose timeout has passed: sleeping jobs continue, '
  'questions and events take their default.';

create function queue.check_edges(p_items jsonb) returns void
language plpgsql immutable set search_path = '' as $$
begin
  if (select sum(jsonb_array_length(item.value -> 'after')) from jsonb_array_elements(p_items) as item
      where jsonb_typeof(item.value -> 'after') = 'array') > 10000 then
    perform queue.refuse(400, 'invalid_argument',
      'the jobs of one call must name at most 10000 jobs in after; enqueue them in several calls', 'after');
  end if;
end;
$$;
comment on function queue.check_edges is 'Refuse a call whose jobs together run after more than 10,000 others.';

create function queue.some_tenants(p_table text, p_most integer) returns uuid[]
language plpgsql set search_path = '' as $$
declare
  v_start constant uuid := gen_random_uuid(); -- no tenant is always the first
  v_ids uuid[];
begin
  execute format($query$
    with recursive onward as (
      (select t.workspace_id, 1 as n from queue.%1$I as t where t.workspace_id >= $1 order by 1 limit 1)
      union all
      select (select t.workspace_id from queue.%1$I as t
        where t.workspace_id > o.workspace_id order by 1 limit 1), n + 1
      from onward as o where o.workspace_id is not null and n < $2),
    around as (
      (select t.workspace_id, 1 as n from queue.%1$I as t where t.workspace_id < $1 order by 1 limit 1)
      union all
      select (select t.workspace_id from queue.%1$I as t
        where t.workspace_id > a.workspace_id and t.workspace_id < $1 order by 1 limit 1), n + 1
      from around as a where a.workspace_id is not null and n < $2)
    select array(select workspace_id from (
      select workspace_id from onward union all select workspace_id from around) as found
      where workspace_id is not null limit $2)$query$, p_table)
  into v_ids using v_start, p_most;
  return v_ids;
end;
$$;
comment on function queue.some_tenants is E'Up to p_most of the tenants that have a row in a table of the engine, '
  'from a random one on: one look-up in its index for each.\n\nShares among them are fair, however many rows each '
  'has.';

create function queue.due_signals(p_limit integer) returns bigint[]
language plpgsql set search_path = '' as $$
declare
  v_self constant xid8 := pg_current_xact_id();
  v_ids bigint[];
  v_tenants uuid[];
begin
  v_ids := array(
    select s.id from queue.signals as s
    where (s.kind <> 'check' or s.xid <> v_self)
      and not exists (select 1 from queue.parked as p where p.task = 'signals' and p.item = s.id::text)
    order by s.id limit p_limit);
  if cardinality(v_ids) < p_limit then
    return v_ids;
  end if;
  v_tenants := queue.some_tenants('signals', 250);
  return array(
    select f.id from unnest(v_tenants) as t (workspace_id) cross join lateral (
      select s.id from queue.signals as s
      where s.workspace_id = t.workspace_id and (s.kind <> 'check' or s.xid <> v_self)
        and not exists (select 1 from queue.parked as p where p.task = 'signals' and p.item = s.id::text)
      order by s.id limit ceil(p_limit / 2.0 / cardinality(v_tenants))) as f
    union
    select i from unnest(v_ids[1:p_limit / 2]) as i);
end;
$$;
comment on function queue.due_signals is E'The signals to look at now: half of them the oldest, half an equal share '
  'for each tenant.\n\nA check is made by a later transaction than the one that wrote it, since that sees what was '
  'committed meanwhile.';

create function queue.watch_children(p_ids uuid[]) returns void
language plpgsql set search_path = '' as $$
declare
  v_held uuid[] := array(
    select w.job_id from queue.waits as w
    where w.job_id = any (p_ids) and w.kind = 'children' and w.open_jobs is null
    order by w.job_id for update skip locked);
begin
  insert into queue.dependencies (after_id, job_id)
  select distinct j.id, w.job_id
  from queue.waits as w cross join jsonb_array_elements_text(w.data -> 'job_ids') as a (id)
  join public.jobs as j on j.id = any (array[a.id::uuid]) and j.finished_at is null
  where w.job_id = any (v_held)
  on conflict do nothing;
  update queue.waits as w set failed_jobs = 0,
    open_jobs = (select count(*) from queue.dependencies as d where d.job_id = w.job_id)
  where w.job_id = any (v_held);
  -- a transaction that ended a job at this moment did not see these rows: see queue.busy_jobs
  insert into queue.signals (kind, job_id, workspace_id)
  select 'check', w.job_id, w.workspace_id from queue.waits as w
  where w.job_id = any (p_ids) and w.kind = 'children' and w.open_jobs is distinct from 0
    and (w.open_jobs is null or w.job_id = any (v_held));
end;
$$;
comment on function queue.watch_children is 'Count the children of parents that have just begun to wait.';

create function queue.busy_jobs(p_ids uuid[]) returns uuid[]
language plpgsql set search_path = '' as $$
declare
  v_free uuid[];
begin
  begin
    v_free := array(
      select id from public.jobs where id = any (p_ids) and finished_at is null order by id for share skip locked);
    raise exception using errcode = 'QU000';
  exception when sqlstate 'QU000' then
    null; -- the locks go with the subtransaction
  end;
  return array(select a from unnest(p_ids) as a except select f from unnest(v_free) as f);
end;
$$;
comment on function queue.busy_jobs is E'Which of the jobs another transaction has locked at this moment, or has '
  'ended.\n\nThe transaction that ends a job reads the rows of those that wait for it. If it did so before they were '
  'committed, and has not committed itself, neither sees the other: such a job is locked now, and is looked at again. '
  'So is one that has ended since the caller looked for ends. A transaction that ends one that is live and not locked '
  'now will see the rows.';

create function queue.close_edges(
  p_ended uuid[], p_waiting uuid[], p_limit integer, out touched uuid[], out cut boolean
)
language plpgsql set search_path = '' as $$
declare
  v_ended uuid[] := array( -- one that runs again meanwhile will end again
    select a from unnest(p_ended) as a
    where not exists (select 1 from public.jobs where id = a and finished_at is null));
  v_after uuid[];
  v_waiting uuid[];
  v_held uuid[];
begin
  select array_agg(e.after_id), array_agg(e.job_id), count(*) filter (where e.by_end) >= p_limit
  into v_after, v_waiting, cut
  from (
    select found.after_id, found.job_id, bool_or(found.by_end) as by_end from (
      (select d.after_id, d.job_id, true as by_end from queue.dependencies as d
        where d.after_id = any (v_ended) order by d.after_id, d.job_id limit p_limit)
      union all
      select d.after_id, d.job_id, false
      from queue.dependencies as d left join public.jobs as j on j.id = any (array[d.after_id])
      where d.job_id = any (p_waiting) and (j.id is null or j.finished_at is not null)) as found
    group by 1, 2) as e;
  v_held := array(select job_id from queue.waits where job_id = any (v_waiting) order by job_id for update skip locked);
  with gone as (
    delete from queue.dependencies as d using unnest(v_after, v_waiting) as u (after_id, job_id)
    where d.after_id = u.after_id and d.job_id = u.job_id
      and (exists (select 1 from unnest(v_held) as h where h = u.job_id)
        or not exists (select 1 from queue.waits as w where w.job_id = u.job_id)) -- it does not wait any more
    returning d.after_id, d.job_id),
  counted as (
    select g.job_id, count(*)::integer as jobs,
      (count(*) filter (where j.outcome is distinct from 'completed'))::integer as failed
    from gone as g left join public.jobs as j on j.id = any (array[g.after_id]) group by 1)
  update queue.waits as w set open_jobs = w.open_jobs - c.jobs, failed_jobs = w.failed_jobs + c.failed
  from counted as c where w.job_id = c.job_id;
  -- jobs that are locked now are checked again
  insert into queue.signals (kind, job_id, workspace_id)
  select 'check', w.job_id, w.workspace_id from queue.waits as w
  where w.job_id = any (v_waiting) and not exists (select 1 from unnest(v_held) as h where h = w.job_id);
  touched := v_held;
end;
$$;
comment on function queue.close_edges is E'Count down the waits for jobs that have ended or were deleted, at most '
  'p_limit dependencies on the jobs of p_ended.\n\ntouched: the jobs that waited; cut: there are more.';

create function queue.gather_slice(
  p_wait queue.waits, p_limit integer, p_bytes bigint, out copied integer, out bytes bigint
)
language sql set search_path = '' as $$
  with slice as (
    select a.id::uuid as id, a.nth, coalesce(j.status, 'cancelled') as status, j.result, j.error_message,
      sum(coalesce(pg_column_size(j.result), 0)) over (order by a.nth)
        - coalesce(pg_column_size(j.result), 0) as bytes_before
    from jsonb_array_elements_text(p_wait.data -> 'job_ids') with ordinality as a (id, nth)
    left join public.jobs as j on j.id = any (array[a.id::uuid])
    where a.nth > p_wait.gathered and a.nth <= p_wait.gathered + p_limit),
  made as (
    insert into queue.gathered (job_id, name, nth, child_id, status, result, error_message)
    select p_wait.job_id, p_wait.name, nth, id, status, result, error_message from slice where bytes_before < p_bytes
    on conflict (job_id, name, nth) do update set child_id = excluded.child_id, status = excluded.status,
      result = excluded.result, error_message = excluded.error_message -- of a wait that was cancelled
    returning bytes)
  select count(*)::integer, coalesce(sum(bytes), 0)::bigint from made
$$;
comment on function queue.gather_slice is 'Copy the next results that a parent waits for: at most p_limit, and '
  'none after p_bytes bytes; always the first.';

create function queue.gather_results(p_ids uuid[], p_limit integer, p_now timestamptz) returns uuid[]
language plpgsql set search_path = '' as $$
declare
  v_wait queue.waits;
  v_made record;
  v_rows integer := p_limit;
  v_bytes bigint := 16000000;
  v_done uuid[] := '{}';
  v_later uuid[] := '{}';
begin
  for v_wait in
    select * from queue.waits where job_id = any (p_ids) and kind = 'children' and open_jobs = 0 order by job_id
  loop
    if v_rows <= 0 or v_bytes <= 0 then
      v_later := v_later || v_wait.job_id;
    elsif v_wait.gathered = 0 and exists (
        select 1 from jsonb_array_elements_text(v_wait.data -> 'job_ids') as a (id)
        join public.jobs as j on j.id = any (array[a.id::uuid]) and j.finished_at is null) then
      update queue.waits set open_jobs = null where job_id = v_wait.job_id; -- one of them runs again: wait for it
      v_later := v_later || v_wait.job_id;
    else
      v_made := queue.gather_slice(v_wait, v_rows, v_bytes);
      v_rows := v_rows - v_made.copied;
      v_bytes := v_bytes - v_made.bytes;
      if v_wait.gathered + v_made.copied < jsonb_array_length(v_wait.data -> 'job_ids') then
        update queue.waits set gathered = gathered + v_made.copied where job_id = v_wait.job_id;
        v_later := v_later || v_wait.job_id;
      else
        insert into queue.steps (job_id, name, result, created_at)
        values (v_wait.job_id, v_wait.name, '{"value": {"children": []}}', p_now) on conflict (job_id, name) do nothing;
        v_done := v_done || v_wait.job_id;
      end if;
    end if;
  end loop;
  insert into queue.signals (kind, job_id, workspace_id)
  select 'check', w.job_id, w.workspace_id from queue.waits as w where w.job_id = any (v_later);
  return v_done;
end;
$$;
comment on function queue.gather_results is E'Copy the results of children, in their order, at most p_limit and '
  'about 16 MB in one call; returns the parents that have all.\n\nLater calls copy the rest; queue.waits.gathered '
  'says how many are copied.';

create function queue.end_waits(p_ids uuid[], p_now timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_over uuid[];
  v_held uuid[];
  v_fail uuid[];
  v_cancel uuid[];
  v_resume uuid[];
begin
  v_over := array(
    select w.job_id from queue.waits as w
    where w.job_id = any (p_ids) and (w.open_jobs = 0
      or w.kind = 'after' and w.failed_jobs > 0 and w.data ->> 'after_failed' <> 'run'
      or w.kind = 'event' and exists (
        select 1 from queue.named_events as e where e.workspace_id = w.workspace_id and e.name = w.event_name)));
  v_held := array(
    select id from public.jobs where id = any (v_over) and status = 'waiting' order by id for update skip locked);
  -- jobs that are locked now are checked again by a later call
  insert into queue.signals (kind, job_id, workspace_id)
  select 'check', w.job_id, w.workspace_id from queue.waits as w
  where w.job_id = any (v_over) and not exists (select 1 from unnest(v_held) as h where h = w.job_id);
  select coalesce(array_agg(w.job_id) filter (where w.failed_jobs > 0 and w.data ->> 'after_failed' = 'fail'), '{}'),
    coalesce(array_agg(w.job_id) filter (where w.failed_jobs > 0 and w.data ->> 'after_failed' = 'cancel'), '{}'),
    coalesce(array_agg(w.job_id) filter (where w.kind = 'event'
      or w.kind = 'after' and not (w.failed_jobs > 0 and w.data ->> 'after_failed' <> 'run')), '{}')
  into v_fail, v_cancel, v_resume
  from queue.waits as w where w.job_id = any (v_held);
  insert into queue.steps (job_id, name, result, created_at, workspace_id, event_name)
  select w.job_id, w.name, '{}', p_now, w.workspace_id, w.event_name
  from queue.waits as w where w.job_id = any (v_resume) and w.kind = 'event'
  on conflict (job_id, name) do nothing;
  v_resume := v_resume || queue.gather_results(v_held, 2000, p_now);
  if cardinality(v_resume) > 0 then
    perform queue.resume_jobs(v_resume, p_now);
  end if;
  if cardinality(v_fail) > 0 then
    perform queue.finish(v_fail, 'failed', 'a job it was to run after did not complete',
      '{"type": "DependencyFailed", "reason": "dependency_failed"}', p_now);
  end if;
  if cardinality(v_cancel) > 0 then
    perform queue.finish(v_cancel, 'cancelled', null, '{"reason": "dependency_failed"}', p_now);
  end if;
end;
$$;
comment on function queue.end_waits is 'Continue or end those of the waiting jobs whose wait is over.';

create function queue.end_orphans(
  p_parents uuid[], p_limit integer, p_now timestamptz, out ended integer, out cut boolean
)
language plpgsql set search_path = '' as $$
declare
  v_ids uuid[] := array(
    select c.id from public.jobs as c
    where c.parent_id = any (p_parents) and c.finished_at is null and c.cancel_requested_at is null
      and not exists ( -- one that runs again meanwhile needs them
        select 1 from public.jobs as p
        where p.id = any (array[c.parent_id]) and p.finished_at is null and p.cancel_requested_at is null)
    limit p_limit);
  v_held uuid[] := array(
    select id from public.jobs where id = any (v_ids) and finished_at is null order by id for update skip locked);
begin
  insert into queue.signals (kind, job_id, workspace_id)
  select distinct 'orphans', c.parent_id, c.workspace_id from public.jobs as c
  where c.id = any (v_ids) and c.finished_at is null and not exists (select 1 from unnest(v_held) as h where h = c.id);
  perform queue.cancel_held(v_held, 'parent_ended', p_now);
  ended := cardinality(v_held);
  cut := cardinality(v_ids) >= p_limit;
end;
$$;
comment on function queue.end_orphans is 'End live children of jobs that failed or were cancelled, at most p_limit; '
  'cut: there may be more.';

create function queue.drain_signals(p_ids bigint[], p_now timestamptz) returns integer
language plpgsql set search_path = '' as $$
declare
  v_most constant integer := 5000; -- dependencies, or jobs, read in one call
  v_ids bigint[] := array(
    select id from queue.signals where id = any (p_ids) order by id for update skip locked);
  v_late bigint[]; -- left to a later call
  v_checked uuid[];
  v_receivers uuid[];
  v_edges record;
  v_orphans record;
  v_busy uuid[];
begin
  -- checks cost what they wait for
  with weighed as (
    select s.id, sum(coalesce(w.open_jobs, jsonb_array_length(w.data -> 'job_ids'), 1)) over (order by s.id) as sum,
      coalesce(w.open_jobs, jsonb_array_length(w.data -> 'job_ids'), 1) as own
    from queue.signals as s
    cross join lateral (select * from queue.waits as o where o.job_id = s.job_id limit 1) as w
    where s.id = any (v_ids) and s.kind = 'check')
  select array(select id from weighed where sum - own >= v_most) into v_late;
  v_checked := array(
    select distinct s.job_id from queue.signals as s
    where s.id = any (v_ids) and s.id <> all (v_late) and s.kind = 'check');
  perform queue.watch_children(v_checked);
  v_edges := queue.close_edges(array(
    select distinct s.job_id from queue.signals as s where s.id = any (v_ids) and s.kind = 'ended'), v_checked, v_most);
  v_busy := queue.busy_jobs(array(
    select distinct d.after_id from queue.dependencies as d where d.job_id = any (v_checked)));
  insert into queue.signals (kind, job_id, workspace_id)
  select distinct 'check', w.job_id, w.workspace_id
  from queue.dependencies as d
  cross join lateral (select * from queue.waits as o where o.job_id = d.job_id limit 1) as w
  where d.job_id = any (v_checked) and d.after_id = any (v_busy);
  v_receivers := array(
    select w.job_id from queue.signals as s
    join queue.waits as w on w.workspace_id = any (array[s.workspace_id]) and w.event_name = any (array[s.name])
    where s.id = any (v_ids) and s.kind = 'event' limit 1000);
  perform queue.end_waits(v_edges.touched || v_checked || v_receivers, p_now);
  v_orphans := queue.end_orphans(array(
    select distinct s.job_id from queue.signals as s where s.id = any (v_ids) and s.kind = 'orphans'), 1000, p_now);
  delete from queue.signals as s where s.id = any (v_ids) and s.id <> all (v_late) and case s.kind
    when 'ended' then not v_edges.cut or not exists (select 1 from queue.dependencies as d where d.after_id = s.job_id)
    when 'event' then cardinality(v_receivers) < 1000
    when 'orphans' then not v_orphans.cut else true end;
  return greatest(0, cardinality(v_ids) - (
    select count(*) from queue.signals where xid = pg_current_xact_id() and kind = 'check'));
end;
$$;
comment on function queue.drain_signals is E'Read signals and let waiting jobs continue; returns about how many '
  'were handled.\n\nA signal that is too much for one call is kept for the next.';
