-- Webhooks. Job events are sent to HTTPS endpoints in the format of Standard Webhooks. Maintenance
-- reads the events in queue.feed, and enqueues a delivery job for each event at least once. All
-- delivery jobs that report the events of one job to one endpoint share a concurrency key, so that
-- the endpoint receives the events in order.

do $$
declare
  c_names constant text[] := '{
    delete_webhook, list_webhooks, put_webhook, test_webhook, webhook_sent, webhook_to_send}';
  v_taken constant text := (
    select string_agg(distinct p.proname, ', ')
    from pg_catalog.pg_proc as p
    where p.pronamespace = to_regnamespace('public') and p.proname = any (c_names)
  );
begin
  if v_taken is not null then
    raise exception 'there is in the schema public: %, which does not belong to Minutehand',
      v_taken
      using hint = 'Nothing was changed. Delete what the install wrote: this file, minutehand.toml '
        'and the processors'' package. Then leave webhooks out, minutehand install --without '
        'webhooks, or choose another name: minutehand install --schema NAME.';
  end if;
end;
$$;

-- Return the number of queue.feed at which a new webhook begins to read. The result is the number
-- of the last feed row plus one. After a restore of the database on another server, new feed rows
-- may have numbers that are only slightly higher than the last number, so a higher result could
-- skip rows.
create function queue.feed_position()
returns bigint
language sql stable
set search_path = ''
as $$
select least(
  queue.feed_end(),
  coalesce((select max(f.number) + 1 from queue.feed as f), 0)
)
$$;
revoke execute on function queue.feed_position from public;

create table queue.webhooks (
  id uuid primary key default queue.new_id(),
  workspace_id uuid not null,
  url text not null,
  description text,
  -- The API encrypts the webhook's secret with a key that the database does not have.
  sealed_secret text not null,
  previous_sealed_secret text,
  rotated_at timestamptz, -- for a day after this time, the previous secret also signs
  event_types text[], -- null for all state changes
  job_types text[], -- null for all types
  enabled boolean not null default true,
  failures integer not null default 0, -- number of consecutive failed deliveries
  failing_since timestamptz, -- time of the first consecutive failure
  disabled_at timestamptz, -- time when the engine disabled the webhook
  disabled_reason text, -- reason why the engine disabled the webhook
  last_delivered_at timestamptz,
  last_status integer, -- HTTP status, or null if no response arrived
  last_answer text, -- result of the last delivery, or the reason why none could be enqueued
  created_by uuid,
  created_at timestamptz not null default queue.clock(),
  -- number and id of the last row of queue.feed that the webhook has read
  read_to bigint not null default queue.feed_position(),
  read_id bigint not null default 0,
  constraint webhooks_secret_is_sealed
    check (sealed_secret ~ '^mh1([.][A-Za-z0-9_=-]+){3}$')
) with (fillfactor = 70);
alter table queue.webhooks enable row level security;
revoke all on queue.webhooks from public, anon, authenticated, service_role;
create index webhooks_by_workspace on queue.webhooks (workspace_id);
comment on column queue.webhooks.created_by is 'Person: owner';
comment on column queue.webhooks.url is 'Person: words';
comment on column queue.webhooks.description is 'Person: words';
comment on column queue.webhooks.sealed_secret is 'Person: secret';
comment on column queue.webhooks.previous_sealed_secret is 'Person: secret';
comment on column queue.webhooks.disabled_reason is 'Person: words to clear';
comment on column queue.webhooks.last_answer is 'Person: words to clear';

insert into queue.settings (name, value)
values
  ('webhooks_max', '100'), -- maximum per workspace
  ('webhook_failing_seconds_max', '3600'), -- a webhook that fails for longer is disabled
  ('webhook_private_addresses', 'false');
insert into queue.tasks (name, every, reads_feed)
values ('webhooks', '1 second', true);
-- When a worker publishes the job type webhook_delivery, the worker stores the type's other
-- options. Schema version 0 means that no worker has published the type yet.
insert into queue.job_types (job_type, schema_version, internal, in_order)
values ('webhook_delivery', 0, true, true)
-- A worker that runs during this migration may already have published the job type.
on conflict (job_type) do update set in_order = true;

-- Return the number and id of the last row in the slice of queue.feed that maintenance reads next
-- for a webhook. A slice of queue.feed has about 5,000 jobs. A slice of queue.feed may end between
-- feed rows of one transaction, because a transaction can add any number of feed rows. The column
-- is_last is true if no later feed row of the workspace has a number below p_last.
create function queue.slice_of(
  p_hook queue.webhooks,
  p_last bigint,
  out number bigint,
  out id bigint,
  out is_last boolean
)
language sql stable
set search_path = ''
as $$
select f.number, f.id, f.is_last
from (
  select
    l.number,
    l.id,
    lead(l.id) over lines is null as is_last,
    row_number() over lines as n,
    sum(pg_column_size(l.job_ids) / 16) over lines as jobs
  from queue.feed as l
  where l.workspace_id = p_hook.workspace_id
    and l.number < p_last
    and (l.number, l.id) > (p_hook.read_to, p_hook.read_id)
  window lines as (order by l.number, l.id)
  order by l.number, l.id
  limit 5000
) as f
where f.jobs <= 5000 or f.n = 1
order by f.n desc
limit 1
$$;
revoke execute on function queue.slice_of from public;

-- Run the maintenance task `webhooks`. For each webhook, the task `webhooks` reads the events of
-- about 5,000 jobs from queue.feed, and enqueues the delivery jobs. The task `webhooks` first
-- processes one webhook of each workspace, namely the webhook that has read the least of the feed.
-- The task `webhooks` then processes the second webhook of each workspace, and so on. Delivery jobs
-- count as live jobs of their workspace. While a workspace is at its limit of live jobs, the task
-- enqueues no delivery job for the workspace, and stores the reason in last_answer.
create function queue.do_webhooks(p_now timestamptz, p_until timestamptz)
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

create function queue.findings_of_webhooks(p_workspace_id uuid)
returns table (verdict text, reason text, since timestamptz, cause text, data jsonb)
language sql stable
set search_path = ''
as $$
select
  'warn',
  case when w.enabled then 'webhook_fails' else 'webhook_off' end,
  coalesce(w.disabled_at, w.failing_since),
  coalesce(w.disabled_reason, concat_ws(': ', w.last_status, w.last_answer)),
  jsonb_build_object(
    'url', h.url,
    'said', jsonb_build_object(
      'sentence', case
        when w.enabled then format(
          'The webhook to %s has failed %s times in a row since %s.',
          n.name,
          w.failures,
          to_char(w.failing_since at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS"+00"')
        )
        else format('The webhook to %s is disabled.', n.name)
      end,
      'next', jsonb_build_array(jsonb_build_object(
        'words', case
          when w.enabled
            then 'Fix the endpoint or its address'
              || case when w.last_status in (401, 403) then ', or the secret that it uses' else '' end
              || '. Its deliveries are retried, and failed deliveries are kept as jobs.'
          else 'Fix the endpoint, then enable the webhook again.'
        end,
        'command', 'minutehand ls --type webhook_delivery',
        'path', '/webhooks'
      ))
    )
  )
from queue.webhooks as w
cross join lateral substring(w.url from '^https?://[^/?#]*') as h (url)
-- the path of the URL may be a secret
cross join lateral concat(h.url, ' (' || nullif(left(w.description, 80), '') || ')') as n (name)
where (w.disabled_at is not null or w.failures >= 3)
  and (w.enabled or w.disabled_at is not null)
  and (p_workspace_id is null or w.workspace_id = p_workspace_id)
$$;
revoke execute on function queue.findings_of_webhooks from public;

-- Return the problem of an enabled webhook that names a job type that no worker has published.
create function queue.webhook_problem(p_webhook queue.webhooks)
returns text
language sql stable
set search_path = ''
as $$
select concat(
  'no worker has served the job type ' || o.name,
  '; the nearest is ' || queue.nearest_type(o.name)
)
from unnest(p_webhook.job_types) with ordinality as o (name, n)
where p_webhook.enabled and not exists (
  select from queue.job_types as t
  where t.job_type = o.name and t.schema_version > 0
)
order by o.n
limit 1
$$;
revoke execute on function queue.webhook_problem from public;

create function public.put_webhook(p_workspace_id uuid, p_webhook jsonb)
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
    - '{sealed_secret,previous_sealed_secret,read_to,read_id}'::text[]
    || jsonb_build_object('problem', queue.webhook_problem(v_saved));
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

create function public.delete_webhook(p_workspace_id uuid, p_webhook_id uuid)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
begin
  perform queue.may_manage(p_workspace_id);
  delete from queue.webhooks
  where id = p_webhook_id and workspace_id = p_workspace_id;
  if not found then
    perform queue.refuse(
      404,
      'webhook_not_found',
      'webhook not found',
      p_webhook_id::text
    );
  end if;
  return jsonb_build_object('deleted', p_webhook_id);
end;
$$;
comment on function public.delete_webhook is
  'Delete a webhook. Its deliveries that are not yet sent are dropped.';
select queue.allow('authenticated, service_role', 'public.delete_webhook');

create function public.test_webhook(p_workspace_id uuid, p_webhook_id uuid)
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

create function public.list_webhooks(p_workspace_id uuid)
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
            'problem', queue.webhook_problem(w),
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

create function public.webhook_to_send(p_request jsonb)
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

create function public.webhook_sent(p_request jsonb)
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
