-- Gates: no more jobs of a key are ready than may run. A job waits before the gate of its key (queue.place);
-- settlements and leases open it (queue.open_gate), and a rate that belongs to a key is charged there.

-- The tokens of a bucket at p_now; whole where it has no row yet.
create function queue.tokens_of(p_name text, p_most integer, p_seconds double precision, p_now timestamptz)
returns double precision
language plpgsql stable as $$
begin
  return coalesce((
    select least(p_most, b.tokens + greatest(0, extract(epoch from p_now - b.refilled_at)) * p_most / p_seconds)
    from queue.buckets as b where b.name = p_name), p_most);
end;
$$;

-- Let as many of a key's jobs through its gate as may run; where another transaction does so now, the next lease is to
-- look. Under the lock of the gate they are counted, a statement after it was taken, which sees what its last holder
-- committed. p_lane: any of the type.
create function queue.open_gate(p_lane integer, p_workspace_id uuid, p_job_type text, p_key text, p_now timestamptz)
returns void
language plpgsql as $$
declare
  v_type queue.job_types;
  v_name text;
  v_begun tid[];
  v_waiting integer;
  v_tokens double precision;
  v_at timestamptz;
  v_free integer := 1000;
  v_let integer;
  v_lanes integer[];
  v_ord bigint;
begin
  if not queue.try_lock(format('gate %s/%s/%s', p_workspace_id, p_job_type, p_key)) then
    insert into queue.notes (lane, workspace_id, key) values (p_lane, p_workspace_id, p_key);
    return;
  end if;
  select * into v_type from queue.job_types as t where t.job_type = p_job_type;
  if v_type.rate_per_key then
    -- charged for each start at the time it was leased: those that were let through and have not begun are not charged
    -- yet, but hold a token; so do those that are settled at this moment, whose settlements would wait for each other
    v_name := format('k:%s/%s/%s', p_workspace_id, p_job_type, p_key);
    v_begun := array(
      select g.ctid from queue.gated as g
      where g.workspace_id = p_workspace_id and g.job_type = p_job_type and g.key = p_key and g.admitted
        and g.started_at < 'infinity' for update skip locked);
    perform queue.spend(v_name, v_type.rate_limit, v_type.rate_per_seconds, 1, g.started_at)
    from (select started_at from queue.gated where ctid = any (v_begun) order by started_at) as g;
    update queue.gated as g set started_at = 'infinity' where g.ctid = any (v_begun);
    v_waiting := (
      select count(*) from queue.gated as g
      where g.workspace_id = p_workspace_id and g.job_type = p_job_type and g.key = p_key and g.admitted
        and (g.started_at < 'infinity' or g.started_at is null and not g.ended));
    v_at := queue.clock(); -- after the count: one that begins in between counts as not begun
    v_tokens := queue.tokens_of(v_name, v_type.rate_limit, v_type.rate_per_seconds, v_at) - v_waiting;
    v_free := greatest(0, floor(v_tokens + 1e-9))::integer;
  end if;
  delete from queue.gated as g
  where g.workspace_id = p_workspace_id and g.job_type = p_job_type and g.key = p_key and g.admitted and g.ended
    and (v_type.rate_per_key and g.started_at < 'infinity') is not true; -- of one that ended since: to be charged
  if v_type.key_concurrency is not null and p_key <> '' then
    v_free := least(v_free, v_type.key_concurrency - (
      select count(*) from queue.gated as g
      where g.workspace_id = p_workspace_id and g.job_type = p_job_type and g.key = p_key and g.admitted));
  end if;
  if v_free <= 0 and not v_type.rate_per_key then
    return;
  end if;
  with let as (
    update queue.gated set admitted = true where ctid = any (array(
      select g.ctid from queue.gated as g
      where g.workspace_id = p_workspace_id and g.job_type = p_job_type and g.key = p_key and not g.admitted
        and not exists ( -- put off since the statement that deleted those that had ended: later
          select from queue.gated as e
          where e.workspace_id = p_workspace_id and e.job_type = p_job_type and e.key = p_key and e.admitted
            and e.ord = g.ord and e.job_id = g.job_id)
      order by g.ord limit greatest(0, v_free) for update of g skip locked))
    returning lane, ord, job_id),
  placed as (
    insert into queue.ready (lane, workspace_id, ord, ready_at, job_id)
    select l.lane, p_workspace_id, l.ord, p_now, l.job_id from let as l)
  select count(*), array_agg(distinct l.lane), min(l.ord) into v_let, v_lanes, v_ord from let as l;
  perform queue.note_turn(l, p_workspace_id, v_ord) from unnest(v_lanes) as l;
  if v_let < v_free or v_let + 1 > v_tokens or v_let = 1000 then -- not of a key that is full: its end comes
    -- the rest: when the rate allows the next; what someone holds, who may leave it as it is, in a second
    insert into queue.notes (look_at, lane, workspace_id, key)
    select case when v_let = 1000 then p_now when v_let < v_free then p_now + interval '1 second' else
      v_at + make_interval(secs => greatest(0.001,
        (1 + v_let - v_tokens) * v_type.rate_per_seconds / v_type.rate_limit)) end, g.lane, p_workspace_id, p_key
    from queue.gated as g
    where g.workspace_id = p_workspace_id and g.job_type = p_job_type and g.key = p_key and not g.admitted limit 1;
  end if;
end;
$$;

-- Put the jobs of a type before or past the gates of their keys, after its limits of keys have changed. One that a
-- lease or a cancel holds just now stays where that finds it.
create function queue.regate(p_job_type text) returns void
language plpgsql as $$
declare
  v_type queue.job_types;
  v_now constant timestamptz := queue.clock();
  v_jobs uuid[];
begin
  select * into v_type from queue.job_types as t where t.job_type = p_job_type;
  with unready as materialized (
    delete from queue.ready as r where r.ctid = any (array(
      select o.ctid from queue.lanes as l
      join queue.ready as o on o.lane = l.lane join public.jobs as j on j.id = o.job_id
      where l.job_type = p_job_type and j.status = 'pending' for update of o, j skip locked))
    returning r.job_id),
  ungated as (
    delete from queue.gated as g where g.ctid = any (array(
      select o.ctid from queue.gated as o join public.jobs as j on j.id = o.job_id
      where o.job_type = p_job_type and (j.finished_at is not null and not o.ended or j.status = 'pending'
        and (not o.admitted or o.job_id in (select u.job_id from unready as u))) for update of o, j skip locked))
    returning g.job_id)
  select array_agg(job_id) into v_jobs from (
    select u.job_id from unready as u union select g.job_id from ungated as g) as f;
  with leased as ( -- one settled just now is waited for, and is none any more; what a gate let through leaves it
    update queue.leases as r set key = coalesce(queue.gate_of(v_type, j.concurrency_key), r.key)
    from public.jobs as j, queue.lanes as l
    where l.job_type = p_job_type and r.lane = l.lane and j.id = r.job_id returning r.*)
  insert into queue.gated (lane, workspace_id, job_type, key, ord, job_id, admitted)
  select r.lane, r.workspace_id, p_job_type, r.key, r.ord, r.job_id, true from leased as r where r.key is not null
  on conflict do nothing; -- the gate let it through before
  insert into queue.notes (lane, workspace_id, key) -- who holds them may leave them as they are
  select distinct g.lane, g.workspace_id, g.key from queue.gated as g where g.job_type = p_job_type and not g.admitted;
  perform queue.place(j, v_now, v_type) from public.jobs as j where j.id = any (v_jobs) and j.status = 'pending';
end;
$$;
