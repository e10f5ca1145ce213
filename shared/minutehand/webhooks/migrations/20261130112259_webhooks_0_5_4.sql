-- 0.5.4 after the release before it; written by `python -m infra.release` from schemas.
-- Do not edit it, and do not read it: read the schemas.

create or replace function queue.findings_of_webhooks(p_workspace_id uuid)
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
          h.url,
          w.failures,
          to_char(w.failing_since at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS"+00"')
        )
        else format('The webhook to %s is disabled.', h.url)
      end,
      'next', jsonb_build_array(jsonb_build_object(
        'words', case
          when w.enabled
            then 'Fix the endpoint or its address. Its deliveries are retried, and failed '
              'deliveries are kept as jobs.'
          else 'Fix the endpoint, then enable the webhook again.'
        end,
        'command', 'minutehand ls --type webhook_delivery',
        'path', '/webhooks'
      ))
    )
  )
from queue.webhooks as w
cross join lateral substring(w.url from '^https?://[^/?#]*') as h (url)
where (w.disabled_at is not null or w.failures >= 3)
  and (w.enabled or w.disabled_at is not null)
  and (p_workspace_id is null or w.workspace_id = p_workspace_id)
$$;

revoke execute on function queue.findings_of_webhooks from public;

-- Return the problem of an enabled webhook that names a job type that no worker has published.
create or replace function queue.webhook_problem(p_webhook queue.webhooks)
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
