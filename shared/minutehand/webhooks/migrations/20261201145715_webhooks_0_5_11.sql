-- 0.5.11 after the release before it; written by `python -m infra.release` from schemas.
-- Do not edit it, and do not read it: read the schemas.

-- Run the maintenance task `webhooks`. For each webhook, the task `webhooks` reads the events of
-- about 5,000 jobs from queue.feed, and enqueues the delivery jobs. The task `webhooks` first
-- processes one webhook of each workspace, namely the webhook that has read the least of the feed.
-- The task `webhooks` then processes the second webhook of each workspace, and so on. Delivery jobs
-- count as live jobs of their workspace. While a workspace is at its limit of live jobs, the task
-- enqueues no delivery job for the workspace, and stores the reason in last_answer.
create or replace function queue.do_webhooks(p_now timestamptz, p_until timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
  v_last constant bigint := queue.feed_end();
  v_ids constant uuid[] := array(
    select w.id
    from queue.webhooks as w
    where w.enabled
      and exists (
        select from queue.feed as l
        where l.workspace_id = w.workspace_id
          and (l.number, l.id) > (w.read_to, w.read_id)
          and l.number < v_last
      )
    order by
      row_number() over (partition by w.workspace_id order by w.read_to, w.id),
      w.read_to
    limit 500
  );
  v_left integer := cardinality(v_ids); -- number of webhooks that have more lines to read
  v_id uuid;
  v_hook queue.webhooks;
  v_end record;
  v_items jsonb;
  v_made integer;
  v_done integer := 0;
begin
  foreach v_id in array v_ids loop
    exit when clock_timestamp() > p_until; -- the next call continues with the remaining webhooks
    select * into v_hook
    from queue.webhooks
    where id = v_id and enabled
    for update skip locked;
    -- queue.slice_of returns no row if another transaction has locked the webhook.
    select * into v_end from queue.slice_of(v_hook, v_last);
    continue when v_end.id is null;
    v_left := v_left - v_end.is_last::integer;
    v_made := 0;
    begin
      for v_items in
        select jsonb_agg(d.item order by d.n)
        from (
          select
            jsonb_build_object(
              'job_type', 'webhook_delivery',
              'payload', jsonb_build_object(
                'webhook_id', v_id,
                'job_id', i.job_id,
                'seq', i.seq
              ),
              'concurrency_key', v_id || ':' || i.job_id
            ) as item,
            row_number() over (order by l.number, l.id, c.nth, i.n) as n
          from queue.feed as l
          cross join lateral (
            values
              (1, l.type, l.job_ids, l.seqs),
              (2, 'job.leased', l.leased_ids, l.leased_seqs)
          ) as c (nth, type, job_ids, seqs)
          cross join lateral unnest(c.job_ids, c.seqs) with ordinality as i (
            job_id,
            seq,
            n
          )
          join public.jobs as j on j.id = any (array[i.job_id])
          where l.workspace_id = v_hook.workspace_id
            and (l.number, l.id) > (v_hook.read_to, v_hook.read_id)
            and (l.number, l.id) <= (v_end.number, v_end.id)
            and i.seq is not null
            and j.job_type <> 'webhook_delivery'
            and case
              when v_hook.event_types is null
                then c.type not in ('job.progress', 'job.log', 'job.output')
              else c.type = any (v_hook.event_types)
            end
            and (v_hook.job_types is null or j.job_type = any (v_hook.job_types))
        ) as d
        group by (d.n - 1) / 1000
        order by (d.n - 1) / 1000
      loop
        if v_made = 0 then
          perform queue.check_live_jobs(v_hook.workspace_id);
        end if;
        perform queue.enqueue(v_hook.workspace_id, null, v_items, true);
        v_made := v_made + jsonb_array_length(v_items);
      end loop;
      update queue.webhooks
      set read_to = v_end.number, read_id = v_end.id
      where id = v_id;
      v_done := v_done + v_made;
    exception when others then
      update queue.webhooks
      set
        last_status = null, -- the endpoint has not answered this
        last_answer = left('no delivery could be enqueued: ' || sqlerrm, 500)
      where id = v_id;
    end;
  end loop;
  if v_left = 0 and cardinality(v_ids) < 500 then
    update queue.tasks
    set read_to = v_last
    where name = 'webhooks';
  end if;
  return v_done;
end;
$$;

revoke execute on function queue.do_webhooks from public;
