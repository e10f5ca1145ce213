-- Job events to HTTPS endpoints, after Standard Webhooks. Maintenance reads the feed of each tenant
-- that has an endpoint and enqueues a delivery an event, as a job of its own type: at least once,
-- seconds later, no trigger. Deliveries of one job's events to one endpoint share a concurrency key
-- and keep it until they have ended: a later event waits while an earlier one is tried again.

create table queue.webhooks (
  id uuid primary key default queue.new_id(),
  workspace_id uuid not null,
  url text not null,
  description text,
  sealed_secret text not null, -- sealed by the API for this workspace: the database cannot open it
  previous_sealed_secret text, -- deliveries are signed with it too for a day after rotated_at
  rotated_at timestamptz,
  event_types text[], -- null for all changes of state
  job_types text[], -- null for all
  enabled boolean not null default true,
  failures integer not null default 0, -- failed deliveries in a row
  failing_since timestamptz, -- when the first of them failed
  disabled_at timestamptz, -- when the engine disabled it
  disabled_reason text, -- and why
  last_delivered_at timestamptz,
  last_status integer, -- of the last delivery; null when there was no answer
  last_answer text, -- how the last delivery went: of a refusal with the beginning of its body
  problem text, -- why the last delivery could not be queued or sent
  created_by uuid,
  created_at timestamptz not null default queue.clock(),
  read_to bigint not null default queue.feed_end(), -- the number before which it has read the feed
  constraint webhooks_secret_is_sealed check (sealed_secret ~ '^mh1([.][A-Za-z0-9_=-]+){3}$')
) with (fillfactor = 70);
create index webhooks_by_workspace on queue.webhooks (workspace_id);

insert into queue.settings (name, value) values
  ('webhooks_max', '100'), -- of a workspace
  ('webhook_failing_seconds_max', '3600'), -- an endpoint that fails for longer is disabled
  ('webhook_private_addresses', 'false');
insert into queue.tasks (name, every) values ('webhooks', '1 second');
insert into queue.job_types (job_type, workspace_concurrency, key_concurrency, timeout_seconds,
  max_attempts, backoff_first_seconds, backoff_cap_seconds, backoff_factor, in_order, is_minimal,
  internal, lane)
values ('webhook_delivery', 3, 1, 30, 12, 10, 7200, 3, true, true, true,
  queue.lane_of('webhook_delivery', 'default'))
-- a worker that runs while this is applied may have published it
on conflict (job_type) do update set in_order = true;

-- Enqueue the deliveries of an endpoint, which the caller holds, for some 500 lines or 5,000 jobs
-- of the feed before p_last. They count as live jobs of their workspace: where it has as many as it
-- may, they wait. What is refused is noted in its row. Gives how many.
create function queue.read_webhook(p_hook queue.webhooks, p_last bigint) returns integer
language plpgsql as $$
declare
  v_end bigint;
  v_items jsonb;
begin
  select queue.slice_end(array_agg(f.number), array_agg(f.jobs), 500, p_last) into v_end
  from (
    select l.number, pg_column_size(l.job_ids) / 16 as jobs from queue.feed as l
    where l.workspace_id = p_hook.workspace_id and l.number >= p_hook.read_to and l.number < p_last
    order by l.number limit 500) as f;
  select jsonb_agg(jsonb_build_object('job_type', 'webhook_delivery',
    'payload', jsonb_build_object('webhook_id', p_hook.id, 'job_id', i.job_id, 'seq', i.seq),
    'concurrency_key', p_hook.id || ':' || i.job_id) order by l.number, l.id, i.n)
  into v_items
  from queue.feed as l
  cross join lateral unnest(l.job_ids, l.seqs) with ordinality as i (job_id, seq, n)
  join public.jobs as j on j.id = any (array[i.job_id])
  where l.workspace_id = p_hook.workspace_id and l.number >= p_hook.read_to and l.number < v_end
    and i.seq is not null and j.job_type <> 'webhook_delivery'
    and case when p_hook.event_types is null then l.type not in ('job.progress', 'job.log')
      else l.type = any (p_hook.event_types) end
    and (p_hook.job_types is null or j.job_type = any (p_hook.job_types));
  if v_items is not null then
    perform queue.check_live_jobs(p_hook.workspace_id);
    perform queue.enqueue(p_hook.workspace_id, null, v_items, true);
  end if;
  update queue.webhooks set read_to = v_end, problem = null where id = p_hook.id;
  return coalesce(jsonb_array_length(v_items), 0);
exception when others then
  update queue.webhooks set problem = left(sqlerrm, 500) where id = p_hook.id;
  return 0;
end $$;

-- Maintenance: the endpoint of each tenant that is the furthest behind, then the second of each,
-- and so on.
create function queue.do_webhooks(p_now timestamptz, p_until timestamptz) returns integer
language plpgsql as $$
declare
  v_last constant bigint := queue.feed_end();
  v_ids constant uuid[] := array(
    select w.id from queue.webhooks as w
    where w.enabled and exists (
      select from queue.feed as l
      where l.workspace_id = w.workspace_id and l.number >= w.read_to and l.number < v_last)
    order by row_number() over (partition by w.workspace_id order by w.read_to, w.id), w.read_to
    limit 500);
  v_id uuid;
  v_hook queue.webhooks;
  v_done integer := 0;
  v_is_over boolean := cardinality(v_ids) = 500;
begin
  foreach v_id in array v_ids loop
    v_is_over := v_is_over or clock_timestamp() > p_until; -- the rest in the next call
    exit when clock_timestamp() > p_until;
    select * into v_hook from queue.webhooks as w where w.id = v_id and w.enabled
    for update skip locked;
    if found then
      v_done := v_done + queue.read_webhook(v_hook, v_last);
    end if;
  end loop;
  if not v_is_over then
    update queue.tasks set read_to = v_last where name = 'webhooks';
  end if;
  return v_done;
end $$;

-- Refuse an address that is or may be private: one in figures may be in any spelling, so it takes a
-- name; the worker checks the address that the name resolves to when it connects.
create function queue.check_url(p_url text) returns void language plpgsql stable as $$
declare
  v_host constant text := lower(substring(p_url from '^https?://([^/?#@\\:[:space:][:cntrl:]]+)'
    '(?::[0-9]{1,5})?(?:[/?#][^[:space:][:cntrl:]]*)?$'));
begin
  if v_host is null or queue.setting('webhook_private_addresses') is distinct from 'true' and (
      p_url !~ '^https://' or v_host !~ '^([a-z0-9_-]+[.])+[a-z][a-z0-9-]*[.]?$'
      or v_host ~ '[.](localhost|local|internal|lan|home[.]arpa)[.]?$') then
    perform queue.refuse(400, 'invalid_argument',
      'url must be an https address of a public host, without user name', 'url');
  end if;
end $$;

create function public.put_webhook(p_workspace_id uuid, p_webhook jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  c_schema constant jsonb := $json${"type": "object", "additionalProperties": false, "properties": {
    "id": {"type": "string", "format": "uuid"}, "url": {"type": "string", "maxLength": 2000},
    "description": {"type": "string", "maxLength": 500}, "enabled": {"type": "boolean"},
    "sealed_secret": {"type": "string", "maxLength": 4000},
    "event_types": {"type": "array", "maxItems": 100, "items": {
      "type": "string", "maxLength": 100, "pattern": "^[a-z][a-z0-9_]*([.][a-z0-9_]+)+$"}},
    "job_types": {"type": "array", "maxItems": 100, "items": {"type": "string", "minLength": 1,
      "maxLength": 100}}}}$json$;
  v_error constant text := queue.schema_error(c_schema, jsonb_strip_nulls(p_webhook), '');
  v_old queue.webhooks;
  v_new queue.webhooks;
begin
  perform queue.may_manage(p_workspace_id);
  if v_error is not null then
    perform queue.refuse(400, 'invalid_argument', 'webhook' || v_error,
      substring(v_error from '^[\w.]*\.(\w+)'));
  elsif p_webhook ->> 'url' is not null then
    perform queue.check_url(p_webhook ->> 'url');
  end if;
  if p_webhook ->> 'id' is not null then
    select * into v_old from queue.webhooks
    where id = (p_webhook ->> 'id')::uuid and workspace_id = p_workspace_id for update;
    if not found then
      perform queue.refuse(404, 'webhook_not_found', 'no such webhook', p_webhook ->> 'id');
    end if;
  else
    insert into queue.webhooks (workspace_id, url, sealed_secret, created_by)
    values (p_workspace_id, p_webhook ->> 'url', p_webhook ->> 'sealed_secret', queue.caller())
    returning * into v_old;
    perform queue.check_count('webhooks', p_workspace_id, (
      select count(*) from queue.webhooks as w where w.workspace_id = p_workspace_id));
    perform queue.admit('changes', p_workspace_id, queue.caller());
  end if;
  v_new := jsonb_populate_record(v_old, p_webhook);
  v_new.url := coalesce(v_new.url, v_old.url);
  v_new.enabled := coalesce(v_new.enabled, v_old.enabled);
  v_new.sealed_secret := coalesce(v_new.sealed_secret, v_old.sealed_secret);
  if v_new.sealed_secret <> v_old.sealed_secret then
    v_new.previous_sealed_secret := v_old.sealed_secret;
    v_new.rotated_at := queue.clock();
  end if;
  v_new.read_to := case when v_old.enabled then v_old.read_to else queue.feed_end() end;
  if p_webhook -> 'enabled' = 'true' then -- switched on by a person: it begins from nothing
    v_new.failures := 0;
    v_new := jsonb_populate_record(v_new,
      '{"failing_since": null, "disabled_at": null, "disabled_reason": null}');
  end if;
  update queue.webhooks set url = v_new.url, description = v_new.description,
    event_types = v_new.event_types, job_types = v_new.job_types, enabled = v_new.enabled,
    sealed_secret = v_new.sealed_secret, previous_sealed_secret = v_new.previous_sealed_secret,
    rotated_at = v_new.rotated_at, read_to = v_new.read_to, failures = v_new.failures,
    failing_since = v_new.failing_since, disabled_at = v_new.disabled_at,
    disabled_reason = v_new.disabled_reason
  where id = v_old.id returning * into v_new;
  return to_jsonb(v_new) - '{sealed_secret,previous_sealed_secret,read_to}'::text[];
end $$;
comment on function public.put_webhook is
  'Create a webhook, or change the one with that id, of at most webhooks_max a workspace: {id, '
  'url, description, event_types, job_types, enabled, sealed_secret}.';

create function public.delete_webhook(p_workspace_id uuid, p_webhook_id uuid) returns jsonb
language plpgsql security definer set search_path = '' as $$
begin
  perform queue.may_manage(p_workspace_id);
  delete from queue.webhooks where id = p_webhook_id and workspace_id = p_workspace_id;
  if not found then
    perform queue.refuse(404, 'webhook_not_found', 'no such webhook', p_webhook_id::text);
  end if;
  return jsonb_build_object('deleted', p_webhook_id);
end $$;
comment on function public.delete_webhook is
  'Delete a webhook; deliveries not yet sent are dropped.';

create function public.test_webhook(p_workspace_id uuid, p_webhook_id uuid) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  v_job_id uuid;
  v_seq bigint;
begin
  perform queue.may_manage(p_workspace_id);
  if not exists (
      select from queue.webhooks where id = p_webhook_id and workspace_id = p_workspace_id) then
    perform queue.refuse(404, 'webhook_not_found', 'no such webhook', p_webhook_id::text);
  end if;
  select j.id into v_job_id from public.jobs as j
  where j.workspace_id = p_workspace_id and j.job_type <> 'webhook_delivery'
  order by j.workspace_id desc, j.id desc limit 1;
  select max(e.seq) into v_seq from public.job_events as e where e.job_id = v_job_id;
  if v_seq is null then
    perform queue.refuse(409, 'no_event', 'no job has had an event that could be sent');
  end if;
  return jsonb_build_object('job_id', (queue.enqueue(p_workspace_id, null, jsonb_build_array(
    jsonb_build_object('job_type', 'webhook_delivery', 'payload', jsonb_build_object(
      'webhook_id', p_webhook_id, 'job_id', v_job_id, 'seq', v_seq))), true)).ids[1]);
end $$;
comment on function public.test_webhook is
  'Send the latest event of the workspace to a webhook, whatever it subscribes to: {job_id}, of '
  'the delivery.';

create function public.list_webhooks(p_workspace_id uuid) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
declare
  v_whole constant boolean := queue.caller() is null or queue.is_manager(p_workspace_id);
begin
  perform queue.may_read(p_workspace_id);
  return (
    select jsonb_build_object('webhooks', coalesce(jsonb_agg(
      to_jsonb(w) - '{sealed_secret,previous_sealed_secret,read_to}'::text[]
      -- the address of a chat service's hook is its password: only managers read it whole
      || case when v_whole then '{}' else jsonb_build_object('url',
        regexp_replace(w.url, '^(https?://[^/?#]*).*$', '\1/…')) end
      order by w.created_at, w.id), '[]'))
    from (
      select * from queue.webhooks
      where workspace_id = p_workspace_id order by created_at, id limit 1000) as w);
end $$;
comment on function public.list_webhooks is
  'Webhooks of a workspace without their secrets, with failures: {webhooks: […]}.';

create function public.webhook_to_send(p_request jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  v_delivery constant public.jobs
    := queue.held_job(p_request, array['webhook_delivery'], 'nothing was sent');
  v_webhook queue.webhooks;
  v_event public.job_events;
  v_job public.jobs;
  v_reason text; -- not to send it
begin
  -- what is another tenant's counts as deleted
  select * into v_webhook from queue.webhooks
  where id = (v_delivery.payload ->> 'webhook_id')::uuid and workspace_id = v_delivery.workspace_id;
  select * into v_event from public.job_events
  where job_id = (v_delivery.payload ->> 'job_id')::uuid
    and seq = (v_delivery.payload ->> 'seq')::bigint and workspace_id = v_delivery.workspace_id;
  v_reason := case when v_webhook.id is null then 'webhook_deleted'
    when not v_webhook.enabled then 'webhook_disabled'
    when v_event.job_id is null then 'event_deleted' end;
  if v_reason is not null then return jsonb_build_object('send', false, 'reason', v_reason); end if;
  select * into v_job from public.jobs where id = v_event.job_id;
  return jsonb_build_object('send', true, 'webhook_id', v_webhook.id, 'url', v_webhook.url,
    'message_id', format('evt_%s_%s', replace(v_event.job_id::text, '-', ''), v_event.seq),
    'workspace_id', v_webhook.workspace_id,
    'sealed_secrets', jsonb_build_array(v_webhook.sealed_secret)
      || case when v_webhook.rotated_at > queue.clock() - interval '1 day'
      then jsonb_build_array(v_webhook.previous_sealed_secret) else '[]' end,
    'private_addresses', coalesce(queue.setting('webhook_private_addresses'), 'false'),
    'body', jsonb_build_object('type', v_event.type, 'timestamp', v_event.created_at,
      'data', v_event.data || jsonb_build_object('job_id', v_event.job_id, 'seq', v_event.seq,
        'workspace_id', v_event.workspace_id, 'session_id', v_job.session_id,
        'job_type', v_job.job_type)));
end $$;
comment on function public.webhook_to_send is
  'The request that a leased delivery {job_id, fence} is to send: {send, webhook_id, url, '
  'message_id, sealed_secrets, body, …}, or {send: false, reason}.';

create function public.webhook_sent(p_request jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  v_now constant timestamptz := queue.clock();
  v_ok constant boolean := coalesce((p_request ->> 'ok')::boolean, false);
  v_most constant interval := make_interval(
    secs => queue.setting('webhook_failing_seconds_max')::double precision);
  v_hook queue.webhooks;
  v_since timestamptz; -- when it began to fail
  v_reason text; -- why it is disabled now
begin
  select w.* into v_hook from queue.leases as l
  join public.jobs as j on j.id = any (array[l.job_id]) and j.job_type = 'webhook_delivery'
  join queue.webhooks as w
    on w.id = (j.payload ->> 'webhook_id')::uuid and w.workspace_id = j.workspace_id
  where l.job_id = (p_request ->> 'job_id')::uuid and l.fence = (p_request ->> 'fence')::integer
  for update of w;
  v_since := case when not v_ok then coalesce(v_hook.failing_since, v_now) end;
  v_reason := case
    when v_ok or not v_hook.enabled then null
    when p_request ->> 'status' = '410' then 'the endpoint answered 410: it is gone for good'
    when v_since <= v_now - v_most then format(
      'no delivery succeeded since %s; the last failed with: %s', to_char(
      v_since at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"'),
      left(p_request ->> 'message', 300)) end;
  update queue.webhooks set failures = case when v_ok then 0 else failures + 1 end,
    failing_since = v_since, enabled = enabled and v_reason is null,
    last_delivered_at = case when v_ok then v_now else last_delivered_at end,
    last_status = (p_request ->> 'status')::integer,
    last_answer = left(p_request ->> 'message', 500),
    problem = case when not v_ok then left(p_request ->> 'message', 500) end,
    disabled_at = case when v_reason is not null then v_now else disabled_at end,
    disabled_reason = coalesce(v_reason, disabled_reason)
  where id = v_hook.id returning * into v_hook;
  return jsonb_build_object('known', found, 'enabled', coalesce(v_hook.enabled, false),
    'failures', v_hook.failures);
end $$;
comment on function public.webhook_sent is
  'Note the outcome of a delivery, {job_id, fence, ok, status, message}: {known, enabled, '
  'failures}.';

select queue.allow('authenticated, service_role', 'public.put_webhook', 'public.delete_webhook',
  'public.test_webhook', 'public.list_webhooks');
select queue.allow('job_worker, service_role', 'public.webhook_to_send', 'public.webhook_sent');
