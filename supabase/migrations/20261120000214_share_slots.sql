-- How many slots a tenant may hold while others wait: turns count jobs, and a job may run for an hour.

create function queue.spare_slots(p_workspace_ids uuid[], p_limit integer)
returns table (workspace_id uuid, spare bigint)
language plpgsql stable
set search_path = ''
set enable_seqscan = off -- a session's plan may be older than the rows
set jit = off
as $$
declare
  v_most constant integer := 1000; -- counted no further: a share above that makes no difference
  v_slots bigint;
begin
  if cardinality(p_workspace_ids) < 2 then -- no one else waits
    return query select w.id, v_most::bigint from unnest(p_workspace_ids) as w (id);
    return;
  end if;
  select p_limit + count(*) into v_slots from (select 1 from queue.leases limit v_most) as l;
  return query
    select w.id, ceil(v_slots * greatest(0.5, w.weight / sum(w.weight) over ()))::bigint - (
      select count(*) from (select 1 from queue.leases as l where l.workspace_id = w.id limit v_most) as mine)
    from (
      select u.id, coalesce((select tl.weight from queue.tenant_limits as tl where tl.workspace_id = u.id), 1) as weight
      from unnest(p_workspace_ids) as u (id)) as w;
end;
$$;
comment on function queue.spare_slots is E'How many more jobs each of the tenants that wait may start before it '
  'holds more than its share of the slots.\n\nIts share is half of the running jobs and the requested slots, or more '
  'by its weight. It is an order and not a limit: a tenant beyond its share gets the slots that no other needs.';
