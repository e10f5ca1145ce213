-- 0.5.1 after the release before it; written by `python -m infra.release` from schemas.
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
            row_number() over (order by l.number, l.id, i.n) as n
          from queue.feed as l
          cross join lateral unnest(l.job_ids, l.seqs) with ordinality as i (
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
                then l.type not in ('job.progress', 'job.log', 'job.output')
              else l.type = any (v_hook.event_types)
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

create or replace function public.put_webhook(p_workspace_id uuid, p_webhook jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  c_schema constant jsonb := $json${"type": "object", "additionalProperties": false, "properties": {
    "id": {"type": "string", "format": "uuid"}, "url": {"type": "string", "maxLength": 2000},
    "description": {"type": "string", "maxLength": 500}, "enabled": {"type": "boolean"},
    "sealed_secret": {"type": "string", "maxLength": 4000},
    "event_types": {"type": "array", "maxItems": 100, "items": {
      "type": "string", "maxLength": 100, "pattern": "^[a-z][a-z0-9_]*([.][a-z0-9_]+)+$"}},
    "job_types": {"type": "array", "maxItems": 100, "items": {"type": "string", "minLength": 1,
      "maxLength": 100}}}}$json$;
  -- If a webhook is enabled, its count of failures is reset.
  v_is_on constant boolean := coalesce(p_webhook -> 'enabled' = 'true', false);
  v_most constant integer := queue.setting('webhooks_max');
  v_host text;
  v_id uuid;
  v_saved queue.webhooks;
begin
  perform queue.may_manage(p_workspace_id, octet_length(p_webhook::text));
  perform queue.check_fields(
    c_schema || case
      when p_webhook ->> 'id' is null then '{"required": ["url", "sealed_secret"]}'
      else '{}'
    end::jsonb,
    p_webhook,
    'webhook'
  );
  -- The host of a webhook's URL must be a name, because a numeric address can be written in too
  -- many ways to check. The worker checks the address to which a webhook's host name resolves.
  v_host := lower(substring(
    p_webhook ->> 'url' from '^https?://([^/?#@\\:[:space:][:cntrl:]]+)'
      '(?::[0-9]{1,5})?(?:[/?#][^[:space:][:cntrl:]]*)?$'
  ));
  if p_webhook ->> 'url' is not null
    and (
      v_host is null
      or queue.setting('webhook_private_addresses') is distinct from 'true'
        and (
          p_webhook ->> 'url' !~ '^https://'
          or v_host !~ '^([a-z0-9_-]+[.])+[a-z][a-z0-9-]*[.]?$'
          or v_host ~ '[.](localhost|local|internal|lan|home[.]arpa)[.]?$'
        )
    )
  then
    perform queue.refuse(
      400,
      'invalid_argument',
      'url must be an https address of a public host, without user name',
      'url'
    );
  end if;
  v_id := p_webhook ->> 'id';
  if v_id is null then
    insert into queue.webhooks (workspace_id, url, sealed_secret, created_by)
    values (
      p_workspace_id,
      p_webhook ->> 'url',
      p_webhook ->> 'sealed_secret',
      queue.caller()
    )
    returning id into v_id;
    if (
      select count(*)
      from queue.webhooks
      where workspace_id = p_workspace_id
    ) > v_most then
      perform queue.refuse(
        429,
        'quota_exceeded',
        format('the workspace already has %s webhooks; delete some first', v_most),
        'webhooks_max'
      );
    end if;
  end if;
  update queue.webhooks as w
  set (
    url,
    description,
    event_types,
    job_types,
    enabled,
    sealed_secret,
    previous_sealed_secret,
    rotated_at,
    read_to,
    read_id,
    failures,
    failing_since,
    disabled_at,
    disabled_reason
  ) = (
    select
      coalesce(g.url, w.url),
      g.description,
      g.event_types,
      g.job_types,
      coalesce(g.enabled, w.enabled),
      coalesce(g.sealed_secret, w.sealed_secret),
      case
        when g.sealed_secret <> w.sealed_secret then w.sealed_secret
        else w.previous_sealed_secret
      end,
      case
        when g.sealed_secret <> w.sealed_secret then queue.clock()
        else w.rotated_at
      end,
      case when w.enabled then w.read_to else queue.feed_position() end,
      case when w.enabled then w.read_id else 0 end,
      case when v_is_on then 0 else w.failures end,
      case when not v_is_on then w.failing_since end,
      case when not v_is_on then w.disabled_at end,
      case when not v_is_on then w.disabled_reason end
    from jsonb_populate_record(w, p_webhook) as g
  )
  where w.id = v_id and w.workspace_id = p_workspace_id
  returning w.* into v_saved;
  if not found then
    perform queue.refuse(404, 'webhook_not_found', 'webhook not found', v_id::text);
  end if;
  return to_jsonb(v_saved)
    - '{sealed_secret,previous_sealed_secret,read_to,read_id}'::text[];
-- raise the error again without the detail, because Postgres puts the row with the encrypted secret
-- into the detail
exception when check_violation then
  raise exception using errcode = sqlstate, message = sqlerrm;
end;
$$;

comment on function public.put_webhook is
  'Create a webhook, or change the webhook with this id: {id, url, description, event_types, '
  'job_types, enabled, sealed_secret}. A workspace has at most webhooks_max webhooks.';

select queue.allow('authenticated, service_role', 'public.put_webhook');

create or replace function public.test_webhook(p_workspace_id uuid, p_webhook_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_payload jsonb;
begin
  perform queue.may_manage(p_workspace_id);
  perform from queue.webhooks
  where id = p_webhook_id and workspace_id = p_workspace_id;
  if not found then
    perform queue.refuse(
      404,
      'webhook_not_found',
      'webhook not found',
      p_webhook_id::text
    );
  end if;
  select jsonb_build_object(
    'webhook_id', p_webhook_id,
    'job_id', j.id,
    'seq', (
      select max(e.seq)
      from public.job_events as e
      where e.job_id = j.id
    )
  )
  into v_payload
  from public.jobs as j
  where j.workspace_id = p_workspace_id and j.job_type <> 'webhook_delivery'
  order by j.workspace_id desc, j.id desc
  limit 1;
  if v_payload ->> 'seq' is null then
    perform queue.refuse(
      409,
      'no_event',
      'no job has had an event that could be sent'
    );
  end if;
  return jsonb_build_object(
    'job_id', (queue.enqueue(
      p_workspace_id,
      null,
      jsonb_build_array(jsonb_build_object(
        'job_type', 'webhook_delivery',
        'payload', v_payload
      )),
      true
    )).ids[1]
  );
end;
$$;

comment on function public.test_webhook is
  'Send the latest event of the workspace to a webhook, whatever events the webhook subscribes to. '
  'Returns {job_id}, the id of the delivery job.';

select queue.allow('authenticated, service_role', 'public.test_webhook');

create or replace function public.list_webhooks(p_workspace_id uuid)
returns jsonb
language plpgsql stable
security definer
set search_path = ''
as $$
declare
  v_whole constant boolean := queue.caller() is null
    or queue.is_manager(p_workspace_id);
begin
  perform queue.may_read(p_workspace_id);
  return (
    select jsonb_build_object(
      'webhooks', coalesce(
        jsonb_agg(
          to_jsonb(w)
          - '{sealed_secret,previous_sealed_secret,read_to,read_id}'::text[]
          -- off_at is the time when the webhook is disabled if no delivery succeeds before.
          || jsonb_build_object(
            'off_at', w.failing_since + make_interval(
              secs => queue.setting('webhook_failing_seconds_max')::double precision
            )
          )
          -- Only managers see the full URL of a webhook, because the URL of a chat service's
          -- webhook works like a password.
          || case
            when v_whole then '{}'
            else jsonb_build_object(
              'url', regexp_replace(w.url, '^(https?://[^/?#]*).*$', '\1/…')
            )
          end
          order by w.created_at, w.id
        ),
        '[]'
      )
    )
    from queue.webhooks as w
    where w.workspace_id = p_workspace_id
  );
end;
$$;

comment on function public.list_webhooks is
  'Webhooks of a workspace without their secrets, with failures: {webhooks: […]}.';

select queue.allow('authenticated, service_role', 'public.list_webhooks');

create or replace function public.webhook_to_send(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_delivery constant public.jobs := queue.held_job(
    p_request,
    array['webhook_delivery'],
    'nothing was sent'
  );
  v_hook queue.webhooks;
  v_event public.job_events;
begin
  perform queue.refuse_revoked();
  -- If a webhook or an event belongs to another tenant, respond as if the webhook or event did not
  -- exist.
  select * into v_hook
  from queue.webhooks
  where id = (v_delivery.payload ->> 'webhook_id')::uuid
    and workspace_id = v_delivery.workspace_id;
  select * into v_event
  from public.job_events
  where job_id = (v_delivery.payload ->> 'job_id')::uuid
    and seq = (v_delivery.payload ->> 'seq')::bigint
    and workspace_id = v_delivery.workspace_id;
  if v_hook.id is null or not v_hook.enabled or v_event.job_id is null then
    return jsonb_build_object(
      'send', false,
      'reason', case
        when v_hook.id is null then 'webhook_deleted'
        when not v_hook.enabled then 'webhook_disabled'
        else 'event_deleted'
      end
    );
  end if;
  return jsonb_build_object(
    'send', true,
    'webhook_id', v_hook.id,
    'url', v_hook.url,
    'message_id', format(
      'evt_%s_%s',
      replace(v_event.job_id::text, '-', ''),
      v_event.seq
    ),
    'workspace_id', v_hook.workspace_id,
    'sealed_secrets', to_jsonb(array_remove(
      array[
        v_hook.sealed_secret,
        case
          when v_hook.rotated_at > queue.clock() - interval '1 day'
            then v_hook.previous_sealed_secret
        end
      ],
      null
    )),
    'private_addresses', coalesce(
      queue.setting('webhook_private_addresses'),
      'false'
    ),
    'body', jsonb_build_object(
      'type', v_event.type,
      'timestamp', v_event.created_at,
      'data', v_event.data || (
        select jsonb_build_object(
          'job_id', j.id,
          'seq', v_event.seq,
          'job_type', j.job_type,
          'workspace_id', j.workspace_id,
          'session_id', j.session_id
        )
        from public.jobs as j
        where j.id = v_event.job_id
      )
    )
  );
end;
$$;

comment on function public.webhook_to_send is
  'HTTP request that a worker must send for a leased delivery job {job_id, fence}: {send, '
  'webhook_id, url, message_id, sealed_secrets, body, …}, or {send: false, reason}.';

select queue.allow('job_worker, service_role', 'public.webhook_to_send');
