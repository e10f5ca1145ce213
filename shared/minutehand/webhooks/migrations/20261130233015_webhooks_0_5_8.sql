-- 0.5.8 after the release before it; written by `python -m infra.release` from schemas.
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
