-- Job events to HTTPS endpoints: an outbox written with the event, deliveries as jobs of their own type.
-- A delivery of a job runs after the one before it, so that a subscriber sees each job's events in order.

create table queue.webhooks (
  id uuid primary key default queue.new_id(), -- identity
  workspace_id uuid not null, -- the tenant
  url text not null, -- where to post, https
  description text, -- free text
  -- signing secret after Standard Webhooks, sealed by the API for this workspace: the database cannot open it
  sealed_secret text not null,
  previous_sealed_secret text, -- the previous secret; deliveries are signed with it too for a day after rotated_at
  rotated_at timestamptz, -- when the secret was last changed
  event_types text[], -- events wanted; null for all state changes
  job_types text[], -- job types wanted; null for all
  enabled boolean not null default true, -- false while switched off by a person or by disabled_reason
  failures integer not null default 0, -- failed deliveries in a row
  -- deliveries in a row that got no answer in time: the next waits for half as long
  timeouts integer not null default 0,
  disabled_at timestamptz, -- when the engine disabled it after too many failures; null otherwise
  disabled_reason text, -- why
  last_delivered_at timestamptz, -- last delivery the endpoint accepted
  last_status integer, -- HTTP status of the last delivery; null when there was no answer
  problem text, -- why the last delivery could not be queued or sent; null when it was
  created_by uuid, -- who created it
  created_at timestamptz not null default queue.clock(), -- when it was created
  constraint webhooks_secret_is_sealed check (sealed_secret ~ '^mh1([.][A-Za-z0-9_=-]+){3}$')
) with (fillfactor = 70);
create index webhooks_by_workspace on queue.webhooks (workspace_id);
comment on table queue.webhooks is 'Endpoints that job events are sent to.';

create table queue.outbox (
  id bigint generated always as identity primary key, -- identity and order
  webhook_id uuid not null, -- the endpoint
  job_id uuid not null, -- the job
  seq bigint not null, -- its event
  stream_id uuid not null -- what is delivered in order: the job, or for an app's own events the workspace
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
create index outbox_by_webhook on queue.outbox (webhook_id, id);
comment on table queue.outbox is 'Events to deliver, written in the transaction of the event; maintenance enqueues their deliveries.';

create table queue.last_deliveries (
  webhook_id uuid not null, -- the endpoint
  job_id uuid not null, -- the stream: the job whose events they are, or the workspace for an app's own events
  delivery_id uuid not null, -- the delivery job
  made_at timestamptz not null default queue.clock(), -- when it was enqueued
  primary key (webhook_id, job_id)
);
create index last_deliveries_by_time on queue.last_deliveries (made_at);
comment on table queue.last_deliveries is 'The latest delivery job per endpoint and stream: the next one runs after it.';

insert into queue.settings (name, value) values ('webhook_failures_max', '20'), ('webhook_private_addresses', 'false');
insert into queue.job_types (job_type, workspace_concurrency, key_concurrency, lease_seconds, timeout_seconds,
  max_attempts, backoff_first_seconds, backoff_cap_seconds, backoff_factor, events, internal)
values ('webhook_delivery', 3, 2, 60, 30, 12, 10, 7200, 3, 'minimal', true)
on conflict (job_type) do nothing; -- a worker that runs while this is applied may have published it

create function queue.collect_outbox() returns trigger
language plpgsql
security definer -- callers who change a job may not write to the outbox
set search_path = '' as $$
begin
  if exists (select 1 from queue.webhooks where enabled) then
    insert into queue.outbox (webhook_id, job_id, seq, stream_id)
    select w.id, e.job_id, e.seq, case when e.type like 'job.%' then e.job_id else e.workspace_id end
    from events as e
    join queue.webhooks as w on w.workspace_id = e.workspace_id and w.enabled
      and case when w.event_types is null then e.type not in ('job.progress', 'job.log')
        else e.type = any (w.event_types) end
    join public.jobs as j on j.id = any (array[e.job_id]) and j.job_type <> 'webhook_delivery'
      and (w.job_types is null or j.job_type = any (w.job_types))
    order by e.job_id, e.seq;
  end if;
  return null;
end;
$$;
comment on function queue.collect_outbox is 'Trigger: write the events that endpoints want to the outbox.';
create trigger job_events_collect after insert on queue.job_events
  referencing new table as events for each statement execute function queue.collect_outbox();

create function queue.drain_outbox(p_limit integer, p_now timestamptz) returns integer
language plpgsql set search_path = '' as $$
declare
  v_one record;
  v_delivery uuid;
  v_before uuid;
  v_stuck uuid[] := '{}';
  v_count integer := 0;
begin
  for v_one in
    with recursive hooks as ( -- one look-up per endpoint, however much waits for it
      (select o.webhook_id from queue.outbox as o order by o.webhook_id limit 1)
      union all
      select (
        select o.webhook_id from queue.outbox as o where o.webhook_id > h.webhook_id order by o.webhook_id limit 1)
      from hooks as h where h.webhook_id is not null),
    shares as (
      select h.webhook_id, greatest(1, p_limit / count(*) over ()) as most
      from hooks as h where h.webhook_id is not null)
    select o.id, o.webhook_id, o.job_id, o.seq, o.stream_id, w.workspace_id, w.enabled
    from shares as s
    cross join lateral (
      select * from queue.outbox as q where q.webhook_id = s.webhook_id order by q.id limit s.most) as o
    left join queue.webhooks as w on w.id = o.webhook_id
    order by o.id limit p_limit
  loop
    continue when v_one.webhook_id = any (v_stuck);
    if v_one.enabled then
      select l.delivery_id into v_before from queue.last_deliveries as l
      join public.jobs as j on j.id = any (array[l.delivery_id]) and j.finished_at is null
      where l.webhook_id = v_one.webhook_id and l.job_id = v_one.stream_id;
      begin
        v_delivery := queue.enqueue_unwaited(v_one.workspace_id, jsonb_build_object('job_type', 'webhook_delivery',
          'payload', jsonb_build_object('webhook_id', v_one.webhook_id, 'job_id', v_one.job_id, 'seq', v_one.seq),
          'concurrency_key', v_one.webhook_id)
          || case when v_before is null then '{}'
            else jsonb_build_object('after', jsonb_build_array(v_before), 'after_failed', 'run') end);
        insert into queue.last_deliveries (webhook_id, job_id, delivery_id, made_at)
        values (v_one.webhook_id, v_one.stream_id, v_delivery, p_now)
        on conflict (webhook_id, job_id) do update set delivery_id = excluded.delivery_id, made_at = excluded.made_at;
        v_count := v_count + 1;
      exception
        when lock_not_available or deadlock_detected or serialization_failure then
          exit; -- the next may be of the same stream: a later call continues here
        when others then
          update queue.webhooks set problem = sqlerrm
          where id = (select id from queue.webhooks where id = v_one.webhook_id for update skip locked);
          if exists (select 1 from public.jobs where id = v_one.job_id) then
            v_stuck := v_stuck || v_one.webhook_id; -- its events stay, in their order, for as long as their jobs do
            continue;
          end if;
      end;
    end if;
    delete from queue.outbox where id = v_one.id;
  end loop;
  return v_count;
end;
$$;
comment on function queue.drain_outbox is 'Enqueue the deliveries of the outbox, an equal share for each endpoint, each after the previous one of its stream. Never waits: what would is left to the next call, as is an endpoint whose delivery is refused.';

create function queue.url_problem(p_url text, p_private boolean default null) returns text
language plpgsql stable set search_path = '' as $$
declare
  v_host text := lower(coalesce(
    substring(p_url from '^https?://\[([0-9a-fA-F:.]+)\]'),
    substring(p_url from '^https?://([^/?#:\[\]@\\[:space:]]+)(:\d{1,5})?([/?#]|$)')));
  v_private boolean := coalesce(p_private, (queue.setting('webhook_private_addresses'))::boolean, false);
  v_address inet;
begin
  if char_length(p_url) > 2000 or v_host is null or p_url !~ '^https?://' then
    return 'url must be an https address without user name';
  elsif v_private then
    return null;
  elsif p_url !~ '^https://' then
    return 'url must be https';
  elsif v_host = 'localhost' or v_host ~ '\.(localhost|local|internal|lan|home\.arpa)\.?$' or v_host !~ '[.:]' then
    return 'url must not name a private host';
  end if;
  if v_host ~ '[^ -~]' and (normalize(v_host, nfkc) <> normalize(v_host, nfc) or v_host ~ '[\u3002\uff61]') then
    return 'url must spell its host in ordinary characters'; -- circled and full-width digits make an address too
  elsif v_host ~ '(^|\.)0\d' and v_host ~ '^[0-9.]+$' then
    return 'url must not name an address in an unusual notation'; -- octal to resolvers, decimal to inet
  end if;
  if v_host ~ '^[0-9a-fx.]+$' and v_host ~ '(^|\.)(0x[0-9a-f]*|\d+)\.?$' or v_host ~ ':' then
    begin
      v_address := v_host::inet;
    exception when others then -- 0x7f.1 and other spellings that only resolvers understand
      return 'url must not name an address in an unusual notation';
    end;
    if v_address <<= any (array[
        '0.0.0.0/8', '10.0.0.0/8', '100.64.0.0/10', '127.0.0.0/8', '169.254.0.0/16', '172.16.0.0/12', '192.0.0.0/24',
        '192.168.0.0/16', '198.18.0.0/15', '224.0.0.0/3', '::/127', '::ffff:0:0/96', '64:ff9b::/96', 'fc00::/7',
        'fe80::/10', 'ff00::/8']::inet[]) then
      return 'url must not name a private address';
    end if;
  end if;
  return null;
end;
$$;
comment on function queue.url_problem is E'What is wrong with a url to send to; null when nothing is.\n\np_private allows private addresses and plain http; null takes the setting webhook_private_addresses. The worker checks the resolved address again when it connects.';

create function queue.webhook_json(p_webhook queue.webhooks) returns jsonb
language sql immutable set search_path = ''
as $$ select to_jsonb(p_webhook) - '{sealed_secret,previous_sealed_secret}'::text[] $$;
comment on function queue.webhook_json is 'A webhook without its sealed secrets.';

create function queue.check_webhook(p_webhook jsonb) returns void
language plpgsql stable set search_path = '' as $$
declare
  v_problem text;
  v_field text;
begin
  perform queue.check_names(p_webhook,
    array['id', 'url', 'description', 'event_types', 'job_types', 'enabled', 'sealed_secret'], 'webhook');
  if p_webhook ->> 'id' is null and p_webhook ->> 'url' is null then
    perform queue.refuse(400, 'invalid_argument', 'url is required', 'url');
  elsif p_webhook ->> 'id' is null and p_webhook ->> 'sealed_secret' is null then
    perform queue.refuse(400, 'invalid_argument', 'sealed_secret is required: the API makes a secret and seals it',
      'sealed_secret');
  elsif char_length(p_webhook ->> 'sealed_secret') > 4000 then
    perform queue.refuse(400, 'invalid_argument', 'sealed_secret has at most 4000 characters', 'sealed_secret');
  end if;
  v_problem := queue.url_problem(p_webhook ->> 'url');
  if p_webhook ->> 'url' is not null and v_problem is not null then
    perform queue.refuse(400, 'invalid_argument', v_problem, 'url');
  end if;
  select f.name, case
      when jsonb_typeof(p_webhook -> f.name) <> 'array' then 'must be an array, or null'
      when jsonb_array_length(p_webhook -> f.name) > 100 then 'takes at most 100 names of 100 characters'
      when exists (
        select 1 from jsonb_array_elements(p_webhook -> f.name) as e
        where jsonb_typeof(e.value) <> 'string' or char_length(e.value #>> '{}') not between 1 and 100)
        then 'takes at most 100 names of 100 characters'
      when f.name = 'event_types' and exists (
        select 1 from jsonb_array_elements_text(p_webhook -> f.name) as e (word)
        where e.word !~ '^[a-z][a-z0-9_]*([.][a-z0-9_]+)+$') then 'takes names of events as job.completed' end
  into v_field, v_problem from (values ('event_types'), ('job_types')) as f (name)
  where coalesce(jsonb_typeof(p_webhook -> f.name), 'null') <> 'null' order by 2 nulls last limit 1;
  if v_problem is not null then
    perform queue.refuse(400, 'invalid_argument', v_field || ' ' || v_problem, v_field);
  end if;
end;
$$;
comment on function queue.check_webhook is 'Refuse fields that a webhook cannot have; a new one, without id, needs a url and a sealed_secret.';

create function public.put_webhook(p_workspace_id uuid, p_webhook jsonb) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_id uuid := queue.uuid_or_refuse(p_webhook ->> 'id', 'id');
  v_new text := p_webhook ->> 'sealed_secret';
  v_made queue.webhooks;
begin
  perform queue.may_manage(p_workspace_id);
  perform queue.check_webhook(p_webhook);
  if v_id is null then
    insert into queue.webhooks (workspace_id, url, description, sealed_secret, event_types, job_types, enabled,
      created_by)
    values (p_workspace_id, p_webhook ->> 'url', left(p_webhook ->> 'description', 500), v_new,
      queue.texts(p_webhook -> 'event_types'), queue.texts(p_webhook -> 'job_types'),
      coalesce((p_webhook ->> 'enabled')::boolean, true), auth.uid())
    returning * into v_made;
  else
    update queue.webhooks as w set
      url = coalesce(p_webhook ->> 'url', w.url),
      description = case when p_webhook ? 'description' then left(p_webhook ->> 'description', 500)
        else w.description end,
      event_types = case when p_webhook ? 'event_types' then queue.texts(p_webhook -> 'event_types')
        else w.event_types end,
      job_types = case when p_webhook ? 'job_types' then queue.texts(p_webhook -> 'job_types') else w.job_types end,
      enabled = coalesce((p_webhook ->> 'enabled')::boolean, w.enabled),
      failures = case when (p_webhook ->> 'enabled')::boolean then 0 else w.failures end,
      timeouts = case when (p_webhook ->> 'enabled')::boolean or p_webhook ? 'url' then 0 else w.timeouts end,
      disabled_at = case when (p_webhook ->> 'enabled')::boolean then null else w.disabled_at end,
      disabled_reason = case when (p_webhook ->> 'enabled')::boolean then null else w.disabled_reason end,
      previous_sealed_secret = case when v_new is null then w.previous_sealed_secret else w.sealed_secret end,
      rotated_at = case when v_new is null then w.rotated_at else queue.clock() end,
      sealed_secret = coalesce(v_new, w.sealed_secret)
    where w.id = v_id and w.workspace_id = p_workspace_id
    returning * into v_made;
    if not found then
      perform queue.refuse(404, 'webhook_not_found', 'no such webhook', v_id::text);
    end if;
  end if;
  return queue.webhook_json(v_made);
exception when invalid_text_representation or check_violation then
  perform queue.refuse_value('the webhook', 'webhook', sqlerrm);
end;
$$;
comment on function public.put_webhook is E'Create a webhook, or change the one with that id: {id?, url, description, event_types, job_types, enabled, sealed_secret}.\n\nFor managers, through the API, which makes the signing secret, seals it and shows it once. A new sealed_secret replaces the old one, with which deliveries are signed too for a day.';

create function queue.texts(p_array jsonb) returns text[]
language sql immutable set search_path = ''
as $$ select case when jsonb_typeof(p_array) = 'array' then array(select jsonb_array_elements_text(p_array)) end $$;
comment on function queue.texts is 'A JSON array of strings as an array; null for anything else.';

create function public.delete_webhook(p_workspace_id uuid, p_webhook_id uuid) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
begin
  perform queue.may_manage(p_workspace_id);
  delete from queue.webhooks where id = p_webhook_id and workspace_id = p_workspace_id;
  if not found then
    perform queue.refuse(404, 'webhook_not_found', 'no such webhook', p_webhook_id::text);
  end if;
  return jsonb_build_object('deleted', p_webhook_id);
end;
$$;
comment on function public.delete_webhook is 'Delete a webhook; deliveries not yet sent are dropped.';

create function public.list_webhooks(p_workspace_id uuid default null) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
begin
  perform queue.may_read_all(p_workspace_id);
  return (
    select jsonb_build_object('webhooks', coalesce(jsonb_agg(queue.webhook_json(w) || case when p_workspace_id is null
        then jsonb_build_object('workspace_name', (select t.name from queue.tenants as t where t.id = w.workspace_id))
        else '{}' end
      -- the address of a chat service's hook is its password
      || case when auth.uid() is null or p_workspace_id is not null and queue.is_manager(p_workspace_id) then '{}'
        else jsonb_build_object('url', substring(w.url from '^https?://') || substring(w.url
          from '^https?://(?:[^/?#]*@)?([^/?#]*)') || '/…') end order by w.created_at, w.id), '[]'))
    from (select * from queue.webhooks where p_workspace_id is null or workspace_id = p_workspace_id
      order by created_at, id limit 1000) as w);
end;
$$;
comment on function public.list_webhooks is E'Webhooks of a workspace without their secrets, with failures and the reason of a disabled one: {webhooks: […]}.\n\nOf addresses, which may be secrets in themselves, members who are not managers read scheme and host; so do operators, who without a workspace read those of all, at most 1,000.';

create function public.webhook_to_send(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the engine's tables
set search_path = '' as $$
declare
  v_id uuid := queue.uuid_or_refuse(p_request ->> 'job_id', 'job_id');
  v_now timestamptz := queue.clock();
  v_delivery public.jobs;
  v_payload jsonb;
  v_webhook queue.webhooks;
  v_event public.job_events;
  v_job public.jobs;
begin
  select j.* into v_delivery from queue.leases as l join public.jobs as j on j.id = any (array[l.job_id])
  where l.job_id = v_id and l.fence = queue.big_whole_in(p_request, 'fence') and j.job_type = 'webhook_delivery';
  if not found then
    perform queue.refuse_lost(v_id, 'nothing was sent');
  end if;
  v_payload := v_delivery.payload;
  -- a webhook of another tenant counts as deleted
  select * into v_webhook from queue.webhooks
  where id = (v_payload ->> 'webhook_id')::uuid and workspace_id = v_delivery.workspace_id;
  select * into v_event from public.job_events
  where job_id = (v_payload ->> 'job_id')::uuid and seq = (v_payload ->> 'seq')::bigint;
  if v_webhook.id is null or not v_webhook.enabled or v_event.job_id is null
      or v_event.workspace_id <> v_webhook.workspace_id then
    return jsonb_build_object('send', false, 'reason', case when v_webhook.id is null then 'webhook_deleted'
      when not v_webhook.enabled then 'webhook_disabled' else 'event_deleted' end);
  end if;
  select * into v_job from public.jobs where id = v_event.job_id;
  return jsonb_build_object('send', true, 'webhook_id', v_webhook.id, 'url', v_webhook.url,
    'message_id', format('evt_%s_%s', replace(v_event.job_id::text, '-', ''), v_event.seq),
    'workspace_id', v_webhook.workspace_id,
    'sealed_secrets', jsonb_build_array(v_webhook.sealed_secret)
      || case when v_webhook.rotated_at > v_now - interval '1 day'
      then jsonb_build_array(v_webhook.previous_sealed_secret) else '[]' end,
    -- an endpoint that has not answered in time may hold a slot for less long
    'answer_ms', greatest(1000, 10000 / (2 ^ least(10, v_webhook.timeouts))::integer),
    'private_addresses', coalesce(queue.setting('webhook_private_addresses'), 'false'),
    'body', jsonb_build_object('type', v_event.type, 'timestamp', v_event.created_at,
      'data', v_event.data || jsonb_build_object('job_id', v_event.job_id, 'seq', v_event.seq,
        'workspace_id', v_event.workspace_id, 'session_id', v_event.session_id, 'job_type', v_job.job_type)));
end;
$$;
comment on function public.webhook_to_send is E'The request that a leased delivery {job_id, fence} is to send: {send, webhook_id, url, message_id, workspace_id, sealed_secrets, answer_ms, private_addresses, body}, or {send: false, reason}.\n\nThe worker opens the secrets and signs message_id.timestamp.body with each after Standard Webhooks. answer_ms is how long to wait for an answer: ten seconds, half of that after each time-out in a row, at least one second.';

create function public.webhook_sent(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the engine's tables
set search_path = '' as $$
declare
  v_id uuid := queue.uuid_or_refuse(p_request ->> 'job_id', 'job_id');
  v_ok boolean := coalesce((p_request ->> 'ok')::boolean, false);
  v_gone boolean := not v_ok and p_request ->> 'status' = '410';
  v_most integer := case when v_gone then 0 else (queue.setting('webhook_failures_max'))::integer end;
  v_webhook queue.webhooks;
begin
  update queue.webhooks as w set
    failures = case when v_ok then 0 else w.failures + 1 end,
    timeouts = case when (p_request ->> 'timed_out')::boolean then w.timeouts + 1 else 0 end,
    last_delivered_at = case when v_ok then queue.clock() else w.last_delivered_at end,
    last_status = queue.whole_in(p_request, 'status'),
    problem = case when v_ok then null else left(p_request ->> 'message', 500) end,
    enabled = w.enabled and (v_ok or w.failures + 1 < v_most),
    disabled_at = case when w.enabled and not v_ok and w.failures + 1 >= v_most then queue.clock()
      else w.disabled_at end,
    disabled_reason = case when w.enabled and not v_ok and w.failures + 1 >= v_most
      then case when v_gone then 'the endpoint answered 410: it is gone for good'
        else format('%s deliveries in a row failed, the last with: %s', w.failures + 1,
          left(p_request ->> 'message', 300)) end else w.disabled_reason end
  from queue.leases as l join public.jobs as j on j.id = any (array[l.job_id]) and j.job_type = 'webhook_delivery'
  where l.job_id = v_id and l.fence = queue.big_whole_in(p_request, 'fence')
    and w.id = (j.payload ->> 'webhook_id')::uuid
    and w.workspace_id = j.workspace_id
  returning w.* into v_webhook;
  return jsonb_build_object('known', v_webhook.id is not null, 'enabled', coalesce(v_webhook.enabled, false),
    'failures', v_webhook.failures);
end;
$$;
comment on function public.webhook_sent is E'Note the outcome of a delivery: {job_id, fence, ok, status?, message?, timed_out?}; returns {known, enabled, failures}.\n\nAfter as many failures in a row as the setting webhook_failures_max the webhook is disabled, with the reason; at once when its endpoint answered 410 Gone.';

select queue.allow('authenticated, service_role', 'public.put_webhook', 'public.delete_webhook',
  'public.list_webhooks');
select queue.allow('job_worker, service_role', 'public.webhook_to_send', 'public.webhook_sent');
