-- 0.5.2 after the release before it; written by `python -m infra.release` from schemas and steps/0.5.2.sql.
-- Do not edit it, and do not read it: read the schemas.

-- Run the task `webhooks` again, which the engine's migration stopped.
update queue.tasks set retry_at = null where name = 'webhooks';

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
      set last_answer = left(sqlerrm, 500)
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

create or replace function public.webhook_sent(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_now constant timestamptz := queue.clock();
  v_ok constant boolean := coalesce((p_request ->> 'ok')::boolean, false);
  v_message constant text := p_request ->> 'message';
  v_id uuid;
  v_hook queue.webhooks;
begin
  perform queue.refuse_revoked();
  select w.id into v_id
  from queue.leases as l
  join public.jobs as j
    on j.id = any (array[l.job_id]) and j.job_type = 'webhook_delivery'
  join queue.webhooks as w
    on w.id = (j.payload ->> 'webhook_id')::uuid and w.workspace_id = j.workspace_id
  where l.job_id = (p_request ->> 'job_id')::uuid
    and l.fence = (p_request ->> 'fence')::integer;
  select * into v_hook
  from queue.webhooks
  where id = v_id
  for no key update skip locked;
  -- do not wait, because the reports of one webhook would occupy the connections of other tenants
  if v_hook.id is distinct from v_id then
    perform queue.refuse(
      429,
      'job_busy',
      'another transaction is changing the webhook; call again',
      '{"retry_after_seconds": 1}'
    );
  end if;
  v_hook.failures := case when v_ok then 0 else v_hook.failures + 1 end;
  v_hook.failing_since := case
    when not v_ok then coalesce(v_hook.failing_since, v_now)
  end;
  if v_hook.enabled
    and not v_ok
    and (
      p_request ->> 'status' = '410'
      or v_hook.failing_since <= v_now - make_interval(
        secs => queue.setting('webhook_failing_seconds_max')::double precision
      )
    )
  then
    v_hook.enabled := false;
    v_hook.disabled_at := v_now;
    v_hook.disabled_reason := case p_request ->> 'status'
      when '410' then 'the endpoint responded 410 Gone'
      else format(
        'no delivery succeeded since %s; the last failed with: %s',
        to_char(
          v_hook.failing_since at time zone 'UTC',
          'YYYY-MM-DD HH24:MI:SS "UTC"'
        ),
        left(v_message, 300)
      )
    end;
  end if;
  update queue.webhooks
  set
    failures = v_hook.failures,
    failing_since = v_hook.failing_since,
    enabled = v_hook.enabled,
    disabled_at = v_hook.disabled_at,
    disabled_reason = v_hook.disabled_reason,
    last_status = (p_request ->> 'status')::integer,
    last_delivered_at = case when v_ok then v_now else last_delivered_at end,
    last_answer = left(v_message, 500)
  where id = v_hook.id;
  return jsonb_build_object(
    'enabled', v_hook.enabled is true,
    'failures', v_hook.failures
  );
end;
$$;

comment on function public.webhook_sent is
  'Record the result of a delivery, {job_id, fence, ok, status, message}: {enabled, failures}.';

select queue.allow('job_worker, service_role', 'public.webhook_sent');
