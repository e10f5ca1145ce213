-- Job events to HTTPS endpoints, after Standard Webhooks. Maintenance reads the feed of each tenant that has an
-- endpoint and enqueues a delivery an event, as a job of its own type: at least once, seconds later, no trigger.
-- Deliveries of one job's events to one endpoint share a concurrency key and keep it until they have ended: a later
-- event waits while an earlier one is tried again.

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
  timeouts integer not null default 0, -- deliveries in a row without an answer in time: the next waits for half as long
  disabled_at timestamptz, -- when the engine disabled it after too many failures
  disabled_reason text,
  last_delivered_at timestamptz,
  last_status integer, -- of the last delivery; null when there was no answer
  problem text, -- why the last delivery could not be queued or sent
  created_by uuid,
  created_at timestamptz not null default queue.clock(),
  -- the place in the feed before which every line has been read
  read_to xid8 not null default pg_snapshot_xmin(pg_current_snapshot()),
  constraint webhooks_secret_is_sealed check (sealed_secret ~ '^mh1([.][A-Za-z0-9_=-]+){3}$')
) with (fillfactor = 70);
create index webhooks_by_workspace on queue.webhooks (workspace_id);

insert into queue.settings (name, value) values ('webhook_failures_max', '20'), ('webhook_private_addresses', 'false');
insert into queue.tasks (name, place, every) values ('webhooks', 50, '1 second');
insert into queue.job_types (job_type, workspace_concurrency, key_concurrency, timeout_seconds, max_attempts,
  backoff_first_seconds, backoff_cap_seconds, backoff_factor, in_order, is_minimal, internal)
values ('webhook_delivery', 3, 1, 30, 12, 10, 7200, 3, true, true, true)
-- a worker that runs while this is applied may have published it
on conflict (job_type) do update set in_order = true;
insert into queue.lanes (queue, job_type) values ('default', 'webhook_delivery') on conflict do nothing;

-- Maintenance: enqueue deliveries, for each endpoint of some 500 lines of the feed; one that is refused stops no other.
create function queue.do_webhooks(p_now timestamptz, p_until timestamptz) returns integer
language plpgsql as $$
declare
  v_last constant xid8 := pg_snapshot_xmin(pg_current_snapshot()); -- every line before it is committed
  v_hook queue.webhooks;
  v_end xid8;
  v_items jsonb;
  v_count integer := 0;
begin
  for v_hook in
    select * from queue.webhooks as w
    where w.enabled and exists (
      select from queue.feed as l where l.workspace_id = w.workspace_id and l.place >= w.read_to and l.place < v_last)
    order by w.read_to limit 100 for update skip locked
  loop
    exit when clock_timestamp() > p_until;
    select case when count(*) = 500 and min(f.place) < max(f.place) then max(f.place) else v_last end into v_end
    from (select l.place from queue.feed as l
      where l.workspace_id = v_hook.workspace_id and l.place >= v_hook.read_to and l.place < v_last
      order by l.place limit 500) as f;
    select jsonb_agg(jsonb_build_object('job_type', 'webhook_delivery', 'payload', jsonb_build_object(
        'webhook_id', v_hook.id, 'job_id', i.job_id, 'seq', i.seq),
      'concurrency_key', v_hook.id || ':' || i.job_id) order by l.place, l.id, i.n)
    into v_items
    from queue.feed as l
    cross join lateral unnest(l.job_ids, l.seqs) with ordinality as i (job_id, seq, n)
    join public.jobs as j on j.id = any (array[i.job_id])
    where l.workspace_id = v_hook.workspace_id and l.place >= v_hook.read_to and l.place < v_end and i.seq is not null
      and case when v_hook.event_types is null then l.type not in ('job.progress', 'job.log')
        else l.type = any (v_hook.event_types) end
      and j.job_type <> 'webhook_delivery' and (v_hook.job_types is null or j.job_type = any (v_hook.job_types));
    begin
      if v_items is not null then
        perform queue.enqueue(v_hook.workspace_id, null, v_items, true);
        v_count := v_count + jsonb_array_length(v_items);
      end if;
      update queue.webhooks set read_to = v_end, problem = null where id = v_hook.id;
    exception when others then
      update queue.webhooks set problem = left(sqlerrm, 500) where id = v_hook.id;
    end;
  end loop;
  return v_count;
end;
$$;

-- A webhook without its secrets. The address of a chat service's hook is its password: only managers read it whole.
create function queue.webhook_json(p_webhook queue.webhooks, p_whole boolean default true) returns jsonb
language sql immutable as $$
  select to_jsonb(p_webhook) - '{sealed_secret,previous_sealed_secret,read_to}'::text[]
    || case when p_whole then '{}' else jsonb_build_object('url', substring(p_webhook.url from '^https?://')
      || substring(p_webhook.url from '^https?://(?:[^/?#]*@)?([^/?#]*)') || '/…') end
$$;

-- A JSON array of names as an array, null for null; anything else is refused.
create function queue.names_of(p_webhook jsonb, p_field text, p_form text) returns text[]
language plpgsql immutable as $$
begin
  if coalesce(jsonb_typeof(p_webhook -> p_field), 'null') = 'null' then
    return null;
  elsif jsonb_typeof(p_webhook -> p_field) <> 'array' or jsonb_array_length(p_webhook -> p_field) > 100 or exists (
      select from jsonb_array_elements_text(p_webhook -> p_field) as e (name)
      where coalesce(char_length(e.name), 0) not between 1 and 100 or e.name !~ p_form) then
    perform queue.refuse(400, 'invalid_argument', p_field || ' takes at most 100 names', p_field);
  end if;
  return array(select jsonb_array_elements_text(p_webhook -> p_field));
end;
$$;

create function public.put_webhook(p_workspace_id uuid, p_webhook jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  v_id uuid := queue.uuid_or_refuse(p_webhook ->> 'id', 'id');
  v_new constant text := p_webhook ->> 'sealed_secret';
  v_on boolean;
  v_problem text[];
  -- an address in figures may be private in any spelling, so it takes a name; the worker checks the address that the
  -- name resolves to when it connects
  v_url constant text := p_webhook ->> 'url';
  v_host constant text := lower(substring(v_url from '^https?://([^/?#@\\[:space:]]+)([/?#]|$)'));
  v_name constant text := substring(v_host from '^(.*?)(:[0-9]{1,5})?$');
  v_events constant text[] := queue.names_of(p_webhook, 'event_types', '^[a-z][a-z0-9_]*([.][a-z0-9_]+)+$');
  v_types constant text[] := queue.names_of(p_webhook, 'job_types', '');
  v_made queue.webhooks;
begin
  perform queue.may_manage(p_workspace_id);
  perform queue.check_names(p_webhook,
    array['id', 'url', 'description', 'event_types', 'job_types', 'enabled', 'sealed_secret'], 'webhook');
  v_problem := case
    when v_id is null and v_url is null then array['url', 'url is required']
    when v_id is null and v_new is null
      then array['sealed_secret', 'sealed_secret is required: the API makes a secret and seals it']
    when char_length(v_new) > 4000 then array['sealed_secret', 'sealed_secret has at most 4000 characters']
    when char_length(v_url) > 2000 or v_url ~ '[[:space:][:cntrl:]]' or v_url is not null and v_host is null
      then array['url', 'url must be an https address without user name']
    when coalesce(queue.setting('webhook_private_addresses')::boolean, false) then null
    when v_url !~ '^https://' then array['url', 'url must be https']
    when v_name !~ '^([a-z0-9_-]+[.])+[a-z][a-z0-9-]*[.]?$'
      or v_name ~ '[.](localhost|local|internal|lan|home[.]arpa)[.]?$'
      then array['url', 'url must name a public host'] end;
  if v_problem is not null then
    perform queue.refuse(400, 'invalid_argument', v_problem[2], v_problem[1]);
  end if;
  v_on := p_webhook ->> 'enabled';
  if v_id is null then
    insert into queue.webhooks (workspace_id, url, description, sealed_secret, event_types, job_types, enabled,
      created_by)
    values (p_workspace_id, v_url, left(p_webhook ->> 'description', 500), v_new,
      v_events, v_types, coalesce(v_on, true), auth.uid())
    returning * into v_made;
  else
    update queue.webhooks as w set
      url = coalesce(v_url, w.url),
      description = case when p_webhook ? 'description' then left(p_webhook ->> 'description', 500)
        else w.description end,
      event_types = case when p_webhook ? 'event_types' then v_events else w.event_types end,
      job_types = case when p_webhook ? 'job_types' then v_types else w.job_types end,
      enabled = coalesce(v_on, w.enabled),
      read_to = case when w.enabled then w.read_to else pg_snapshot_xmin(pg_current_snapshot()) end,
      failures = case when v_on then 0 else w.failures end,
      timeouts = case when v_on or p_webhook ? 'url' then 0 else w.timeouts end,
      disabled_at = case when v_on then null else w.disabled_at end,
      disabled_reason = case when v_on then null else w.disabled_reason end,
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
comment on function public.put_webhook is
  'Create a webhook, or change the one with that id: {id, url, description, event_types, job_types, enabled, '
  'sealed_secret}.';

create function public.delete_webhook(p_workspace_id uuid, p_webhook_id uuid) returns jsonb
language plpgsql security definer set search_path = '' as $$
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
language plpgsql stable security definer set search_path = '' as $$
declare
  v_whole constant boolean := auth.uid() is null or p_workspace_id is not null and queue.is_manager(p_workspace_id);
begin
  perform queue.may_read_all(p_workspace_id);
  return (
    select jsonb_build_object('webhooks', coalesce(jsonb_agg(queue.webhook_json(w, v_whole)
      || case when p_workspace_id is not null then '{}' else jsonb_build_object('workspace_name',
        (select t.name from queue.tenants as t where t.id = w.workspace_id)) end order by w.created_at, w.id), '[]'))
    from (select * from queue.webhooks where p_workspace_id is null or workspace_id = p_workspace_id
      order by created_at, id limit 1000) as w);
end;
$$;
comment on function public.list_webhooks is
  'Webhooks of a workspace without their secrets, with failures: {webhooks: […]}; without a workspace, for '
  'operators, of all.';

create function public.webhook_to_send(p_request jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
  v_now timestamptz := queue.clock();
  v_delivery public.jobs;
  v_payload jsonb;
  v_webhook queue.webhooks;
  v_event public.job_events;
  v_job public.jobs;
begin
  v_delivery := queue.held_job(p_request, array['webhook_delivery'], 'nothing was sent');
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
        'workspace_id', v_event.workspace_id, 'session_id', v_job.session_id, 'job_type', v_job.job_type)));
end;
$$;
comment on function public.webhook_to_send is
  'The request that a leased delivery {job_id, fence} is to send: {send, webhook_id, url, message_id, '
  'sealed_secrets, answer_ms, body, …}, or {send: false, reason}.';

create function public.webhook_sent(p_request jsonb) returns jsonb
language plpgsql security definer set search_path = '' as $$
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
    last_status = (p_request ->> 'status')::integer,
    problem = case when v_ok then null else left(p_request ->> 'message', 500) end,
    enabled = w.enabled and (v_ok or w.failures + 1 < v_most),
    disabled_at = case when w.enabled and not v_ok and w.failures + 1 >= v_most then queue.clock()
      else w.disabled_at end,
    disabled_reason = case when w.enabled and not v_ok and w.failures + 1 >= v_most
      then case when v_gone then 'the endpoint answered 410: it is gone for good'
        else format('%s deliveries in a row failed, the last with: %s', w.failures + 1,
          left(p_request ->> 'message', 300)) end else w.disabled_reason end
  from queue.leases as l join public.jobs as j on j.id = any (array[l.job_id]) and j.job_type = 'webhook_delivery'
  where l.job_id = v_id and l.fence = (p_request ->> 'fence')::integer
    and w.id = (j.payload ->> 'webhook_id')::uuid
    and w.workspace_id = j.workspace_id
  returning w.* into v_webhook;
  return jsonb_build_object('known', v_webhook.id is not null, 'enabled', coalesce(v_webhook.enabled, false),
    'failures', v_webhook.failures);
end;
$$;
comment on function public.webhook_sent is
  'Note the outcome of a delivery, {job_id, fence, ok, status, message, timed_out}: {known, enabled, failures}.';

select queue.allow('authenticated, service_role', 'public.put_webhook', 'public.delete_webhook',
  'public.list_webhooks');
select queue.allow('job_worker, service_role', 'public.webhook_to_send', 'public.webhook_sent');
