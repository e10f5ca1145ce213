-- What operators and managers may tune while it runs: tenant limits, retention, other settings.

create function public.set_workspace_limits(p_workspace_id uuid, p_limits jsonb) returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
declare
  v_made queue.tenant_limits;
begin
  perform queue.may_manage(p_workspace_id);
  perform queue.check_names(p_limits, array['weight', 'max_running', 'own_max_running', 'max_pending'], 'limits');
  if not exists (select 1 from queue.tenants where id = p_workspace_id) then
    perform queue.refuse_workspace(p_workspace_id);
  elsif auth.uid() is not null and p_limits ?| array['weight', 'max_running', 'max_pending'] then
    perform queue.refuse(403, 'forbidden', 'a manager may set own_max_running; the rest is the operator''s', 'limits');
  end if;
  insert into queue.tenant_limits as t (workspace_id, weight, max_running, own_max_running, max_pending)
  values (p_workspace_id, coalesce((p_limits ->> 'weight')::double precision, 1),
    queue.whole_in(p_limits, 'max_running'),
    queue.whole_in(p_limits, 'own_max_running'), queue.whole_in(p_limits, 'max_pending'))
  on conflict (workspace_id) do update set
    weight = case when p_limits ? 'weight' then excluded.weight else t.weight end,
    max_running = case when p_limits ? 'max_running' then excluded.max_running else t.max_running end,
    own_max_running = case when p_limits ? 'own_max_running' then excluded.own_max_running else t.own_max_running end,
    max_pending = case when p_limits ? 'max_pending' then excluded.max_pending else t.max_pending end
  returning * into v_made;
  perform queue.bring_all_back(null, p_workspace_id);
  return to_jsonb(v_made) - 'running_max';
exception when check_violation or invalid_text_representation or numeric_value_out_of_range then
  perform queue.refuse(400, 'invalid_argument', 'a limit has an invalid value: ' || sqlerrm, 'limits');
end;
$$;
comment on function public.set_workspace_limits is E'Change limits of a workspace: {weight, max_running, own_max_running, max_pending}; omitted ones stay, null lifts a limit.\n\nManagers may set own_max_running only; the smaller of it and max_running holds.';

create function public.workspace_limits(p_workspace_id uuid) returns jsonb
language plpgsql stable
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
begin
  perform queue.take_turn();
  perform queue.may_steer(p_workspace_id);
  return jsonb_build_object('workspace_id', p_workspace_id, 'weight', 1, 'max_running', null, 'own_max_running', null,
    'max_pending', null)
    || coalesce((select to_jsonb(t) - 'running_max' from queue.tenant_limits as t
      where t.workspace_id = p_workspace_id), '{}')
    || jsonb_build_object('running', (select count(*) from queue.leases where workspace_id = p_workspace_id),
      'default_max_pending', queue.setting('user_pending_max'), 'quotas', queue.quotas_of(p_workspace_id),
      'per_caller', jsonb_build_object('enqueues_per_second', queue.setting('user_enqueues_per_second'),
        'enqueues_burst', queue.setting('user_enqueues_burst'),
        'stream_opens_per_second', queue.setting('user_stream_opens_per_second'),
        'stream_opens_burst', queue.setting('user_stream_opens_burst'),
        'calls_at_once', queue.setting('user_calls_at_once')));
end;
$$;
comment on function public.workspace_limits is E'Limits of a workspace and how many of its jobs run now.\n\nquotas: {name: {max, used}} of the rows it may have; per_caller: limits of one person in all workspaces.';

create function public.set_settings(p_settings jsonb) returns jsonb
language plpgsql
security definer -- the service role holds no rights on the engine's tables
set search_path = '' as $$
declare
  v_bad text;
begin
  if jsonb_typeof(p_settings) is distinct from 'object' then
    perform queue.refuse(400, 'invalid_argument', 'p_settings must be an object', 'settings');
  end if;
  select s.key into v_bad from jsonb_each(p_settings) as s
  where case
    when s.key = 'retention_days' then not queue.is_retention(s.value)
      or not s.value ?& array['completed', 'cancelled', 'failed']
    when s.key = 'realtime_messages_per_second' then case jsonb_typeof(s.value)
      when 'string' then s.value #>> '{}' <> all (array['free', 'pro'])
      when 'number' then (s.value)::numeric not between 1 and 1000000 or (s.value)::numeric % 1 <> 0 else true end
    when s.key in ('worker_url', 'worker_secret_name', 'client_address_header') then jsonb_typeof(s.value) <> 'string'
    when s.key in ('webhook_private_addresses', 'allow_anonymous', 'members_see_tracebacks', 'refuse_unserved_types')
      then jsonb_typeof(s.value) <> 'boolean'
    when s.key in ('payload_max_bytes', 'result_max_bytes', 'idempotency_ttl_seconds', 'lost_attempts_max',
      'user_pending_max', 'retention_batch', 'webhook_failures_max')
      then jsonb_typeof(s.value) <> 'number' or (s.value)::numeric not between 1 and 2147483647
        or (s.value)::numeric % 1 <> 0
    -- an app's own number
    else not exists (select 1 from queue.settings as t where t.name = s.key and jsonb_typeof(t.value) = 'number')
      or case when jsonb_typeof(s.value) = 'number' then (s.value)::numeric not between 1 and 2147483647
        else true end end
  limit 1;
  if found then
    perform queue.refuse(400, 'invalid_argument',
      format('%s is not a setting, or its value is invalid', left(v_bad, 80)), left(v_bad, 80));
  end if;
  insert into queue.settings (name, value, updated_at)
  select key, queue.plain(value), queue.clock() from jsonb_each(p_settings) order by key
  on conflict (name) do update set value = excluded.value, updated_at = excluded.updated_at;
  return (select jsonb_object_agg(name, value) from queue.settings);
end;
$$;
comment on function public.set_settings is E'Change settings of the engine; returns all. For the operator.\n\nretention_days is {completed, cancelled, failed} in days; the rest are whole numbers: payload_max_bytes, result_max_bytes, idempotency_ttl_seconds, lost_attempts_max, user_pending_max, retention_batch, webhook_failures_max. webhook_private_addresses, allow_anonymous, members_see_tracebacks and refuse_unserved_types are true or false. realtime_messages_per_second is free, pro or a number; client_address_header names a header. Quotas (max_…) and the numbers of the apps (beacon_…, plan_…, chat_…, training_…) are from 1 on.';

create function queue.is_retention(p_value jsonb) returns boolean
language sql immutable set search_path = '' as $$
  select jsonb_typeof(p_value) = 'object' and not exists (
    select 1 from jsonb_each(case when jsonb_typeof(p_value) = 'object' then p_value else '{}' end) as d
    where d.key not in ('completed', 'cancelled', 'failed') or jsonb_typeof(d.value) <> 'number'
      or case when jsonb_typeof(d.value) = 'number'
        then (d.value)::numeric not between 0 and 36500 or (d.value)::numeric % 1 <> 0 end)
$$;
comment on function queue.is_retention is 'Whether a value is {completed, cancelled, failed} in whole days, each of them optional.';

select queue.allow('authenticated, service_role', 'public.set_workspace_limits', 'public.workspace_limits');
select queue.allow('service_role', 'public.set_settings');
