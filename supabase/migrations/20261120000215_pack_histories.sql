-- Packing: an hour after a job completed its events leave queue.job_events, three rows with two indexes each, for an
-- element each of a row that many jobs share. It never runs again; readers of public.job_events and of feeds find it.

insert into queue.maintenance_tasks (name) values ('histories');

create function queue.pack_histories(p_limit integer, p_now timestamptz) returns integer
language plpgsql set search_path = '' as $$
declare
  v_from constant timestamptz := coalesce((
    select u.cursor::timestamptz from queue.maintenance_tasks as u where u.name = 'histories'), '-infinity');
  v_until timestamptz;
  v_ids uuid[];
  v_ends timestamptz[];
  v_count integer;
begin
  -- in the order of their ends, and all of one instant: what commits later stays as rows until it is removed
  select array_agg(e.job_id), max(e.ended_at), count(*) into v_ids, v_until, v_count
  from (
    select e.job_id, e.ended_at
    from queue.job_types as t cross join lateral (
      select e.job_id, e.ended_at from queue.ended as e
      where e.job_type = t.job_type and e.outcome collate "C" = 'completed'
        and e.ended_at > v_from and e.ended_at <= p_now - interval '1 hour'
      order by e.ended_at fetch first (p_limit) rows with ties) as e
    order by e.ended_at fetch first (p_limit) rows with ties) as e;
  if v_count = 0 then
    return 0;
  end if;
  -- held against a deletion; sessions have feeds of their own, and what wrote much is few
  select array_agg(h.id), array_agg(h.finished_at) into v_ids, v_ends
  from (
    select j.id, j.finished_at from public.jobs as j
    where j.id = any (v_ids) and j.session_id is null and j.last_seq <= 50
    order by j.id for key share skip locked) as h;
  with taken as (
    delete from queue.job_events where job_id = any (v_ids) returning *),
  placed as (
    select t.*, k.finished_at, date_trunc('hour', k.finished_at, 'UTC') as hour,
      dense_rank() over (
        partition by t.workspace_id, date_trunc('hour', k.finished_at, 'UTC') order by k.finished_at, t.job_id) as nth
    from taken as t join unnest(v_ids, v_ends) as k (id, finished_at) on k.id = t.job_id)
  insert into queue.histories (workspace_id, hour, first_end, last_end, last_xid, job_ids, seqs, types, data,
    created_ats, xids)
  select p.workspace_id, p.hour, min(p.finished_at), max(p.finished_at), max(p.xid),
    array_agg(p.job_id order by p.job_id, p.seq), array_agg(p.seq order by p.job_id, p.seq),
    array_agg(p.type order by p.job_id, p.seq), array_agg(p.data order by p.job_id, p.seq),
    array_agg(p.created_at order by p.job_id, p.seq), array_agg(p.xid order by p.job_id, p.seq)
  from placed as p group by p.workspace_id, p.hour, (p.nth - 1) / 200;
  update queue.maintenance_tasks set cursor = v_until where name = 'histories';
  return case when v_count >= p_limit then v_count else 0 end;
end;
$$;
comment on function queue.pack_histories is 'Pack the events of about p_limit jobs that completed an hour ago or earlier, those of one tenant and hour together; not 0 when there may be more.';

create function queue.unpack_histories(p_ids uuid[], p_workspaces uuid[], p_ends timestamptz[]) returns void
language plpgsql set search_path = '' as $$
declare
  v_found bigint[] := array(
    select distinct h.id
    from unnest(p_workspaces, p_ends) as j (workspace_id, finished_at)
    cross join lateral (
      select h.id from queue.histories as h
      where h.workspace_id = j.workspace_id and h.hour = date_trunc('hour', j.finished_at, 'UTC')
        and j.finished_at between h.first_end and h.last_end offset 0) as h);
begin
  perform 1 from queue.histories where id = any (v_found) order by id for update;
  delete from queue.histories where id = any (v_found) and job_ids <@ p_ids;
  update queue.histories as h set (job_ids, seqs, types, data, created_ats, xids) = (
    select array_agg(e.job_id order by e.nth), array_agg(e.seq order by e.nth), array_agg(e.type order by e.nth),
      array_agg(e.data order by e.nth), array_agg(e.created_at order by e.nth), array_agg(e.xid order by e.nth)
    from unnest(h.job_ids, h.seqs, h.types, h.data, h.created_ats, h.xids) with ordinality
      as e (job_id, seq, type, data, created_at, xid, nth)
    where e.job_id <> all (p_ids))
  where h.id = any (v_found) and h.job_ids && p_ids;
end;
$$;
comment on function queue.unpack_histories is 'Delete the packed events of deleted jobs, whose tenants and ends are given beside their ids.';
