-- Beacon keeps benchmark specs, their runs, and each workspace's chain of signed receipts.
-- Delete this app's migrations, its seed and shared/minutehand/apps/beacon, and the platform does not notice.

-- 1. Types and tables --------------------------------------------------------------------------

create schema if not exists beacon;
comment on schema beacon is 'The beacon app''s own rooms: its signing keys, its chains and its helpers. Not exposed.';
revoke all on schema beacon from public;

create table public.beacon_specs (
  id uuid primary key default queue.new_id(),
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  name text not null,
  version integer not null,
  spec jsonb not null,
  digest text not null,
  created_by uuid,
  created_at timestamptz not null default queue.clock(),
  constraint beacon_specs_count_their_versions unique (workspace_id, name, version),
  constraint beacon_specs_name_is_bounded check (name ~ '^[[:alnum:]][[:alnum:] ._-]{0,99}$'),
  constraint beacon_specs_digest_is_sha256 check (digest ~ '^sha256:[0-9a-f]{64}$')
);
comment on table public.beacon_specs is E'What to measure: a target, regions, samples, thresholds.\n\nNever changed: another text under the same name is the next version.';
comment on column public.beacon_specs.id is 'The spec, orders by time.';
comment on column public.beacon_specs.workspace_id is 'The workspace that owns it.';
comment on column public.beacon_specs.name is 'What people call it; versions share it.';
comment on column public.beacon_specs.version is '1, 2, 3 … per workspace and name.';
comment on column public.beacon_specs.spec is 'The whole text: {target {url, method, headers, body}, regions, samples, warm_up, concurrency, timeout_ms, connection, thresholds {p95_ms, error_rate}}.';
comment on column public.beacon_specs.digest is 'SHA-256 over the canonical JSON (RFC 8785) of spec.';
comment on column public.beacon_specs.created_by is 'Who wrote it; null for the service.';
comment on column public.beacon_specs.created_at is 'When it was written, UTC.';

create table public.beacon_runs (
  id uuid primary key default queue.new_id(),
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  spec_id uuid not null references public.beacon_specs (id) on delete cascade,
  job_id uuid,
  regions text[] not null,
  idempotency_key text,
  outcome text,
  created_by uuid,
  created_at timestamptz not null default queue.clock(),
  finished_at timestamptz,
  constraint beacon_runs_one_per_key unique (workspace_id, idempotency_key),
  constraint beacon_runs_end_whole check ((outcome is null) = (finished_at is null)),
  constraint beacon_runs_outcome_is_known check (outcome in ('completed', 'partial', 'failed'))
);
comment on table public.beacon_runs is 'A spec measured once in each of its regions. Its state is told by the view beacon_run_states.';
comment on column public.beacon_runs.id is 'The run, orders by time.';
comment on column public.beacon_runs.workspace_id is 'The workspace that owns it.';
comment on column public.beacon_runs.spec_id is 'What was measured.';
comment on column public.beacon_runs.job_id is 'The beacon_run job; its children measure a region each.';
comment on column public.beacon_runs.regions is 'The regions asked for, in the spec''s order.';
comment on column public.beacon_runs.idempotency_key is 'The key the run was started with; the same key finds the same run. Null when none was given.';
comment on column public.beacon_runs.outcome is 'completed (every region), partial (some), failed (none), by the run''s receipt; null while there is none.';
comment on column public.beacon_runs.created_by is 'Who started it; null for the service.';
comment on column public.beacon_runs.created_at is 'When it was started, UTC.';
comment on column public.beacon_runs.finished_at is 'When its receipt was issued, UTC; null while there is none.';

create table public.beacon_receipts (
  id uuid primary key default queue.new_id(),
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  number bigint not null,
  run_id uuid not null references public.beacon_runs (id) on delete cascade,
  region text,
  job_id uuid not null,
  event_seq bigint not null,
  digest text not null,
  previous text,
  kid text not null,
  payload jsonb not null,
  jws text not null,
  samples jsonb,
  issued_at timestamptz not null,
  constraint beacon_receipts_number_is_gapless_per_workspace unique (workspace_id, number),
  constraint beacon_receipts_one_per_region_and_run unique nulls not distinct (run_id, region),
  constraint beacon_receipts_number_from_one check (number >= 1 and (number = 1) = (previous is null)),
  constraint beacon_receipts_samples_are_a_regions check ((region is null) = (samples is null))
);
comment on table public.beacon_receipts is E'Signed statements of what was measured, chained per workspace.\n\nNever changed; removed by retention or with the workspace only.';
comment on column public.beacon_receipts.id is 'The receipt.';
comment on column public.beacon_receipts.workspace_id is 'The workspace whose chain it is in.';
comment on column public.beacon_receipts.number is 'Its place in the chain: 1, 2, 3 … without gaps.';
comment on column public.beacon_receipts.run_id is 'The run it is about.';
comment on column public.beacon_receipts.region is 'The region it is about; null for the run''s own receipt, which names the others.';
comment on column public.beacon_receipts.job_id is 'The job that measured and signed.';
comment on column public.beacon_receipts.event_seq is 'The job event beacon.receipt.issued written with it, which webhooks deliver.';
comment on column public.beacon_receipts.digest is 'SHA-256 over the text of jws: what the next receipt names as previous.';
comment on column public.beacon_receipts.previous is 'Digest of the receipt before it in the chain; null for the first.';
comment on column public.beacon_receipts.kid is 'The key that signed: its RFC 7638 thumbprint.';
comment on column public.beacon_receipts.payload is 'What is signed, as JSON; taken from jws itself.';
comment on column public.beacon_receipts.jws is 'The receipt: a compact JWS (RFC 7515) with EdDSA (RFC 8037).';
comment on column public.beacon_receipts.samples is 'Every sample: {codes, outcome, started_ms, latency_us}, columns of the same length; null for a run''s receipt.';
comment on column public.beacon_receipts.issued_at is 'When it was signed, UTC, as signed.';

create index beacon_specs_newest on public.beacon_specs (workspace_id, id desc);
create index beacon_runs_newest on public.beacon_runs (workspace_id, id desc);
create index beacon_runs_by_day on public.beacon_runs (workspace_id, created_at);
create index beacon_runs_by_spec on public.beacon_runs (spec_id);
create index beacon_runs_unfinished on public.beacon_runs (workspace_id) where outcome is null;

-- the deliveries of a run's events, which are asked for by what they deliver; neither column ever changes
create index jobs_of_beacon_deliveries on public.jobs ((payload ->> 'job_id')) where job_type = 'webhook_delivery';

create table beacon.chains (
  workspace_id uuid primary key references public.workspaces (id) on delete cascade,
  number bigint not null default 0,
  digest text
);
comment on table beacon.chains is 'The end of each workspace''s chain; whoever adds a receipt holds its row.';
comment on column beacon.chains.workspace_id is 'The workspace.';
comment on column beacon.chains.number is 'Number of the last receipt; 0 before the first.';
comment on column beacon.chains.digest is 'Digest of the last receipt; null before the first.';

create table beacon.signing_keys (
  kid text primary key,
  x text not null,
  sealed text not null,
  not_before timestamptz not null default queue.clock(),
  not_after timestamptz
);
create unique index signing_keys_one_is_current on beacon.signing_keys ((true)) where not_after is null;
comment on table beacon.signing_keys is 'Ed25519 keys of this deployment: one signs, older ones stay to verify by.';
comment on column beacon.signing_keys.kid is 'RFC 7638 thumbprint of the public key.';
comment on column beacon.signing_keys.x is 'The public key, base64url (RFC 8037).';
comment on column beacon.signing_keys.sealed is 'The private key, sealed by KMS or the development key file; opens nowhere else.';
comment on column beacon.signing_keys.not_before is 'Since when it signs, UTC.';
comment on column beacon.signing_keys.not_after is 'Until when what it signed is valid, UTC; null while it is the current one.';

insert into queue.settings (name, value) values
  ('beacon_private_addresses', 'false'), -- whether this machine and its network may be measured; for development
  ('beacon_requests_per_second', '50'), -- to one host, by all that a workspace measures at once
  ('beacon_samples_per_day', '100000'); -- a workspace's, warm-ups included, from midnight to midnight, UTC

-- 2. What is never changed ----------------------------------------------------------------------

create function beacon.refuse_change() returns trigger
language plpgsql
security definer -- looks for the workspace past row level security
set search_path = ''
as $$
begin
  if tg_op = 'DELETE' and (coalesce(current_setting('beacon.retention', true), '') = 'on'
      or not exists (select 1 from public.workspaces where id = old.workspace_id)) then
    return old;
  end if;
  perform queue.refuse(409, 'invalid_state', format('%s are never changed', replace(tg_table_name, '_', ' ')), tg_table_name);
  return null;
end;
$$;
comment on function beacon.refuse_change is 'Trigger: refuse update, delete and truncate, but by retention and with the workspace.';
create trigger beacon_receipts_stay before update or delete on public.beacon_receipts
for each row execute function beacon.refuse_change();
create trigger beacon_receipts_stay_all before truncate on public.beacon_receipts
for each statement execute function beacon.refuse_change();
create trigger beacon_specs_stay before update or delete on public.beacon_specs
for each row execute function beacon.refuse_change();

-- 3. Canonical JSON, digests, what a spec may say -------------------------------------------------

create function beacon.canonical(p_value jsonb) returns text
language plpgsql immutable
set search_path = ''
as $$
begin
  -- refused and not written another way: header names and outcomes are ASCII, whole numbers small
  if jsonb_typeof(p_value) = 'object' and exists (select 1 from jsonb_object_keys(p_value) as k where k ~ '[\U00010000-\U0010FFFF]') then
    perform queue.refuse(400, 'invalid_argument', 'a name beyond U+FFFF has no place in canonical JSON here: its order is that of UTF-16', 'name');
  elsif jsonb_typeof(p_value) = 'number' and abs((p_value #>> '{}')::numeric) > 9007199254740992 then
    perform queue.refuse(400, 'invalid_argument', 'a number beyond 2^53 is not read alike everywhere', 'number');
  end if;
  case jsonb_typeof(p_value)
    when 'object' then
      return '{' || coalesce((select string_agg(to_json(e.key)::text || ':' || beacon.canonical(e.value), ',' order by e.key collate "C")
        from jsonb_each(p_value) as e), '') || '}';
    when 'array' then
      return '[' || coalesce((select string_agg(case when jsonb_typeof(e.value) in ('array', 'object', 'number')
          then beacon.canonical(e.value) else e.value::text end, ',' order by e.ordinality)
        from jsonb_array_elements(p_value) with ordinality as e), '') || ']';
    when 'number' then
      return trim_scale((p_value #>> '{}')::numeric)::text;
    else
      return p_value::text;
  end case;
end;
$$;
comment on function beacon.canonical is E'A value as canonical JSON (RFC 8785).\n\nExact for keys up to U+FFFF, whose order by code point is that by UTF-16, and for numbers from 0.000001 to 2^53 of at most 15 digits; keys and numbers beyond are refused. Specs and samples hold neither: names are known or ASCII, numbers bounded.';

create function beacon.digest(p_text text) returns text
language sql immutable
set search_path = ''
as $$ select 'sha256:' || encode(sha256(convert_to(p_text, 'UTF8')), 'hex') $$;
comment on function beacon.digest is 'SHA-256 over a text in UTF-8, as sha256:<hex>.';

create function beacon.from_base64url(p_text text) returns bytea
language sql immutable
set search_path = ''
as $$ select decode(translate(p_text, '-_', '+/') || repeat('=', (4 - length(p_text) % 4) % 4), 'base64') $$;
comment on function beacon.from_base64url is 'The bytes of a base64url text without padding.';

create function beacon.is_whole(p_value jsonb, p_least integer, p_most integer) returns boolean
language sql immutable
set search_path = ''
as $$
  -- 50.0 is none: whoever reads it back gets another kind of number
  select case when jsonb_typeof(p_value) = 'number' and p_value #>> '{}' ~ '^-?\d+$'
    then (p_value #>> '{}')::numeric between p_least and p_most else false end
$$;
comment on function beacon.is_whole is 'Whether a value is a whole number within bounds, the bounds included.';

create function beacon.percent_decoded(p_text text) returns text
language plpgsql immutable
set search_path = ''
as $$
begin
  for v_round in 1 .. 3 loop -- %2574oken is %74oken is token
    exit when p_text !~ '%[0-7][0-9A-Fa-f]';
    p_text := (select string_agg(case when t.m[1] ~ '^%[0-7][0-9A-Fa-f]$' and t.m[1] <> '%00'
        then chr(('x' || substr(t.m[1], 2))::bit(8)::integer) else t.m[1] end, '' order by t.n)
      from regexp_matches(p_text, '%[0-9A-Fa-f]{2}|[^%]+|%', 'g') with ordinality as t (m, n));
  end loop;
  return p_text;
end;
$$;
comment on function beacon.percent_decoded is 'A text with its percent-encoded ASCII characters written out, also those that were encoded twice or thrice.';

create function beacon.names_a_secret(p_name text) returns boolean
language sql immutable
set search_path = ''
as $$
  -- words between separators, digits and camel humps: apiKey, X-Auth, key2; neither author nor keyword
  select exists (
    select 1 from regexp_split_to_table(lower(regexp_replace(regexp_replace(p_name,
      '([a-z])([A-Z])', '\1 \2', 'g'), '([A-Z])([A-Z][a-z])', '\1 \2', 'g')), '[^a-z]+') as w (word)
    where w.word ~ '(key|token)$' or w.word in ('sig', 'auth', 'pass', 'pwd', 'cred', 'creds', 'sid', 'hmac', 'otp')
      or w.word ~ '(secret|passw|passphrase|credential|signature|session|sessid|bearer|cookie|jwt|apikey|accesskey|authoriz|authentic|oauth)')
$$;
comment on function beacon.names_a_secret is 'Whether a header or a query''s name says that its value is a secret.';

create function beacon.target_problem(p_target jsonb) returns text[]
language plpgsql stable
set search_path = ''
as $$
declare
  v_problem text;
  v_name text;
begin
  if jsonb_typeof(p_target) is distinct from 'object' then
    return array['target', 'must be an object'];
  elsif not p_target ?& array['url', 'method', 'headers', 'body'] or p_target - '{url,method,headers,body}'::text[] <> '{}' then
    return array['target', 'must have url, method, headers and body, and nothing else'];
  elsif jsonb_typeof(p_target -> 'url') <> 'string' then
    return array['target.url', 'must be a text'];
  elsif coalesce(p_target ->> 'method', '') not in ('GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS') then
    return array['target.method', 'must be GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS'];
  elsif jsonb_typeof(p_target -> 'body') not in ('string', 'null') or octet_length(p_target ->> 'body') > 65536 then
    return array['target.body', 'must be a text of at most 65536 bytes, or null'];
  elsif jsonb_typeof(p_target -> 'headers') <> 'object' or (select count(*) from jsonb_object_keys(p_target -> 'headers')) > 32 then
    return array['target.headers', 'must be an object of at most 32 headers'];
  end if;
  v_problem := queue.url_problem(p_target ->> 'url', coalesce((queue.setting('beacon_private_addresses'))::boolean, false));
  if v_problem is not null then
    return array['target.url', v_problem];
  elsif p_target ->> 'url' ~ '^https?://[^/?#]*@' or p_target ->> 'url' ~ '#' then
    return array['target.url', 'url must carry neither a user name nor a fragment'];
  end if;
  -- what stands behind the first ?, & or ;, however it is written
  select left(p.name, 80) into v_name
  from regexp_split_to_table(beacon.percent_decoded(regexp_replace(p_target ->> 'url', '^https?://[^/?;]*', '')), '[?&;]')
    with ordinality as u (part, place), split_part(u.part, '=', 1) as p (name)
  where u.place > 1 and beacon.names_a_secret(p.name) limit 1;
  if found then
    return array['target.url', format('url may hold a secret in its query (%s), and a spec is published with its receipts', v_name)];
  end if;
  select h.key into v_name from jsonb_each(p_target -> 'headers') as h
  where h.key !~ '^[a-z0-9!#$%&''*+.^_`|~-]{1,100}$' or jsonb_typeof(h.value) <> 'string'
    or h.value #>> '{}' !~ '^[\x20-\x7e]*$' or length(h.value #>> '{}') > 1000 limit 1;
  if found then
    return array['target.headers', format('%s must be a header name in lower case with a text of visible ASCII', left(v_name, 80))];
  end if;
  select h.key into v_name from jsonb_each(p_target -> 'headers') as h
  where h.key in ('host', 'content-length', 'transfer-encoding', 'connection', 'te', 'upgrade', 'trailer', 'keep-alive', 'expect') limit 1;
  if found then
    return array['target.headers', format('%s is set by the measurement itself', v_name)];
  end if;
  select h.key into v_name from jsonb_each(p_target -> 'headers') as h
  where h.value #>> '{}' ~* '^(bearer|basic|digest|negotiate|token|apikey) '
    -- of the others any may be somebody's key: by its name, or by a value that looks like one
    or h.key !~ ('^(accept(-[a-z]+)*|content-(type|language|encoding)|user-agent|cache-control|pragma|origin|referer|range|if-[a-z-]+'
      || '|prefer|dnt|x-(request|correlation)-id|x-requested-with|traceparent|tracestate|idempotency-key)$')
      and (beacon.names_a_secret(h.key)
        or h.value #>> '{}' ~ '[A-Za-z0-9+/_=.-]{24,}' and h.value #>> '{}' ~ '[0-9]' and h.value #>> '{}' ~ '[A-Za-z]') limit 1;
  if found then
    return array['target.headers', format('%s may hold a secret, and a spec is published with its receipts', v_name)];
  end if;
  return null;
end;
$$;
comment on function beacon.target_problem is 'What is wrong with a spec''s target, as {field, problem}; null when nothing is.';

create function beacon.spec_problem(p_spec jsonb) returns text[]
language plpgsql stable
set search_path = ''
as $$
declare
  v_names text[] := array['target', 'regions', 'samples', 'warm_up', 'concurrency', 'timeout_ms', 'connection', 'thresholds'];
  v_target text[];
begin
  if jsonb_typeof(p_spec) is distinct from 'object' then
    return array['spec', 'must be an object'];
  elsif not p_spec ?& v_names or p_spec - v_names <> '{}' then
    return array['spec', 'must have ' || array_to_string(v_names, ', ') || ', and nothing else'];
  end if;
  v_target := beacon.target_problem(p_spec -> 'target');
  if v_target is not null then
    return v_target;
  elsif jsonb_typeof(p_spec -> 'regions') <> 'array' or jsonb_array_length(p_spec -> 'regions') not between 1 and 20
    or exists (select 1 from jsonb_array_elements(p_spec -> 'regions') as r
      where jsonb_typeof(r.value) <> 'string' or r.value #>> '{}' !~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$')
    or (select count(distinct r.value) from jsonb_array_elements(p_spec -> 'regions') as r) < jsonb_array_length(p_spec -> 'regions') then
    return array['regions', 'must be 1 to 20 different names of a-z, 0-9 and -'];
  elsif not beacon.is_whole(p_spec -> 'samples', 1, 2000) then
    return array['samples', 'must be a whole number from 1 to 2000'];
  elsif not beacon.is_whole(p_spec -> 'warm_up', 0, 20) then
    return array['warm_up', 'must be a whole number from 0 to 20'];
  elsif not beacon.is_whole(p_spec -> 'concurrency', 1, 20) then
    return array['concurrency', 'must be a whole number from 1 to 20'];
  elsif not beacon.is_whole(p_spec -> 'timeout_ms', 100, 30000) then
    return array['timeout_ms', 'must be a whole number from 100 to 30000'];
  elsif coalesce(p_spec ->> 'connection', '') not in ('reuse', 'new') then
    return array['connection', 'must be reuse or new'];
  elsif jsonb_typeof(p_spec -> 'thresholds') <> 'object' or not p_spec -> 'thresholds' ?& array['p95_ms', 'error_rate']
    or (p_spec -> 'thresholds') - '{p95_ms,error_rate}'::text[] <> '{}' then
    return array['thresholds', 'must have p95_ms and error_rate, and nothing else'];
  elsif jsonb_typeof(p_spec #> '{thresholds,p95_ms}') <> 'null' and not beacon.is_whole(p_spec #> '{thresholds,p95_ms}', 1, 60000) then
    return array['thresholds.p95_ms', 'must be a whole number from 1 to 60000, or null'];
  elsif (case jsonb_typeof(p_spec #> '{thresholds,error_rate}') when 'null' then false
      when 'number' then (p_spec #>> '{thresholds,error_rate}')::numeric not between 0 and 1
        or scale(trim_scale((p_spec #>> '{thresholds,error_rate}')::numeric)) > 4
      else true end) then
    return array['thresholds.error_rate', 'must be a number from 0 to 1 with at most four decimals, or null'];
  end if;
  return null;
end;
$$;
comment on function beacon.spec_problem is 'What is wrong with a spec, as {field, problem}; null when nothing is.';

create function beacon.host_of(p_url text) returns text
language sql immutable
set search_path = ''
as $$ select rtrim(regexp_replace(substring(lower(p_url) from '^https?://([^/?#]*)'), ':[0-9]*$', ''), '.') $$;
comment on function beacon.host_of is 'The host of a target''s address, whatever its port.';

create function beacon.pace(p_workspace_id uuid, p_url text) returns numeric
language sql stable
set search_path = ''
as $$
  -- ten regions of a workspace are measured at once; those that are through leave their share to nobody
  select (queue.setting('beacon_requests_per_second'))::numeric / least(10, greatest(1, (
    select sum(cardinality(r.regions))
    from public.beacon_runs as r
    join public.jobs as j on j.id = r.job_id and j.completed_at is null
    join public.beacon_specs as s on s.id = r.spec_id
    where r.workspace_id = p_workspace_id and r.outcome is null and beacon.host_of(s.spec #>> '{target,url}') = beacon.host_of(p_url))))
$$;
comment on function beacon.pace is 'How many requests per second one region may send to a host: the setting beacon_requests_per_second, shared by all regions of the workspace''s runs under way that ask it.';

-- 4. What a member may do -------------------------------------------------------------------------

create function beacon.require_member(p_workspace_id uuid) returns void
language plpgsql stable
security definer -- callers hold no rights on the engine's schema
set search_path = ''
as $$
begin
  if p_workspace_id is null or not (queue.is_member(p_workspace_id)
      or queue.is_service() and exists (select 1 from public.workspaces where id = p_workspace_id)) then
    perform queue.refuse(404, 'workspace_not_found', 'no such workspace', p_workspace_id::text);
  end if;
end;
$$;
comment on function beacon.require_member is 'workspace_not_found for strangers.';

create function public.beacon_create_spec(p_workspace_id uuid, p_name text, p_spec jsonb) returns jsonb
language plpgsql
security definer -- members hold no right to write specs: this is the door
set search_path = ''
as $$
declare
  v_problem text[];
  v_digest text;
  v_last public.beacon_specs;
  v_made public.beacon_specs;
begin
  perform beacon.require_member(p_workspace_id);
  if p_name is null or p_name !~ '^[[:alnum:]][[:alnum:] ._-]{0,99}$' then
    perform queue.refuse(400, 'invalid_argument', 'name must be 1 to 100 letters, digits, spaces and ._-, and begin with a letter or digit', 'name');
  end if;
  v_problem := beacon.spec_problem(p_spec);
  if v_problem is not null then
    perform queue.refuse(400, 'invalid_argument', v_problem[1] || ' ' || v_problem[2], v_problem[1]);
  end if;
  v_digest := beacon.digest(beacon.canonical(p_spec));
  -- versions of a workspace are counted one after the other
  perform pg_advisory_xact_lock(hashtextextended('beacon_specs:' || p_workspace_id, 0));
  select * into v_last from public.beacon_specs
  where workspace_id = p_workspace_id and name = p_name order by version desc limit 1;
  if v_last.digest = v_digest then
    return jsonb_build_object('spec', to_jsonb(v_last), 'created', false);
  elsif (select count(*) from public.beacon_specs where workspace_id = p_workspace_id) >= 1000 then
    perform queue.refuse(429, 'quota_exceeded', 'a workspace has at most 1000 specs', '1000');
  end if;
  insert into public.beacon_specs (workspace_id, name, version, spec, digest, created_by)
  values (p_workspace_id, p_name, coalesce(v_last.version, 0) + 1, p_spec, v_digest, auth.uid())
  returning * into v_made;
  return jsonb_build_object('spec', to_jsonb(v_made), 'created', true);
end;
$$;
comment on function public.beacon_create_spec is E'Write a spec: {spec, created}; for members.\n\nThe same text as the name''s last version is that version, created false; another one is the next version.';

create function beacon.start_run(p_spec public.beacon_specs, p_idempotency_key text, p_user_id uuid) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_run public.beacon_runs;
  v_done jsonb;
  v_most numeric := (queue.setting('beacon_samples_per_day'))::numeric;
  v_today timestamptz := date_trunc('day', queue.clock(), 'UTC');
  v_asked numeric;
begin
  if p_idempotency_key is not null and char_length(p_idempotency_key) not between 1 and 255 then
    perform queue.refuse(400, 'invalid_argument', 'idempotency_key must have 1 to 255 characters', 'idempotency_key');
  end if;
  -- runs of a workspace are counted one after the other
  perform pg_advisory_xact_lock(hashtextextended('beacon_runs:' || p_spec.workspace_id, 0));
  insert into public.beacon_runs (workspace_id, spec_id, regions, idempotency_key, created_by)
  values (p_spec.workspace_id, p_spec.id, queue.texts(p_spec.spec -> 'regions'), p_idempotency_key, p_user_id)
  on conflict (workspace_id, idempotency_key) do nothing
  returning * into v_run;
  if not found then
    select * into v_run from public.beacon_runs
    where workspace_id = p_spec.workspace_id and idempotency_key = p_idempotency_key;
    if v_run.spec_id <> p_spec.id then
      perform queue.refuse(409, 'idempotency_conflict', 'this key started a run of another spec', v_run.id::text);
    end if;
    return jsonb_build_object('run_id', v_run.id, 'job_id', v_run.job_id, 'created', false, 'wake', false);
  end if;
  if (select count(*) from public.beacon_runs as r join public.jobs as j on j.id = r.job_id
      where r.workspace_id = p_spec.workspace_id and r.outcome is null and j.completed_at is null) >= 20 then
    perform queue.refuse(429, 'quota_exceeded', 'a workspace has at most 20 runs under way', '20');
  end if;
  select sum(cardinality(r.regions) * ((s.spec ->> 'samples')::integer + (s.spec ->> 'warm_up')::integer)) into v_asked
  from public.beacon_runs as r join public.beacon_specs as s on s.id = r.spec_id
  where r.workspace_id = p_spec.workspace_id and r.created_at >= v_today;
  if v_asked > v_most then
    perform queue.refuse(429, 'quota_exceeded', format('a workspace takes at most %s samples a day, and this run would make it %s; it goes on at %s', v_most,
      v_asked, to_char((v_today + interval '1 day') at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')), v_most::text);
  end if;
  -- the platform's own job: no person's call makes it, but it is the person's
  v_done := queue.enqueue(p_spec.workspace_id, null, jsonb_build_array(jsonb_build_object('job_type', 'beacon_run',
    'payload', jsonb_build_object('run_id', v_run.id), 'user_id', p_user_id, 'session_id', 'beacon:' || v_run.id)), false);
  update public.beacon_runs set job_id = (v_done #>> '{ids,0}')::uuid where id = v_run.id;
  return jsonb_build_object('run_id', v_run.id, 'job_id', v_done #> '{ids,0}', 'created', true, 'wake', v_done -> 'wake');
end;
$$;
comment on function beacon.start_run is 'Start a run of a spec, or find the one the key started: {run_id, job_id, created, wake}. The caller has checked who asks.';

create function public.beacon_start_run(p_spec_id uuid, p_idempotency_key text default null) returns jsonb
language plpgsql
security definer -- members hold no right to write runs, and the job is one the platform makes: this is the door
set search_path = ''
as $$
declare
  v_spec public.beacon_specs;
begin
  select s.* into v_spec from public.beacon_specs as s
  where s.id = p_spec_id and (queue.is_member(s.workspace_id) or queue.is_service());
  if not found then
    perform queue.refuse(404, 'spec_not_found', 'no such spec', p_spec_id::text);
  end if;
  return beacon.start_run(v_spec, p_idempotency_key, auth.uid());
end;
$$;
comment on function public.beacon_start_run is E'Measure a spec: {run_id, job_id, created, wake}; for members.\n\nThe same idempotency key finds the same run; with another spec it is a conflict. The run''s jobs share the session beacon:<run_id>. quota_exceeded past 20 runs under way, or the day''s samples (setting beacon_samples_per_day): the message says when it goes on.';

create function public.beacon_start_for_job(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables: this is the door
set search_path = ''
as $$
declare
  v_job public.jobs := queue.held_job(p_request, array['beacon_measure'], 'nothing was started');
  v_spec public.beacon_specs;
  v_run public.beacon_runs;
begin
  -- an attempt may have started it and died; a version written since changes nothing
  select r.* into v_run from public.beacon_runs as r
  where r.workspace_id = v_job.workspace_id and r.idempotency_key = 'job:' || v_job.id;
  if found then
    return jsonb_build_object('run_id', v_run.id, 'job_id', v_run.job_id, 'created', false, 'wake', false);
  end if;
  -- of the job's own workspace, whatever it names
  select s.* into v_spec from public.beacon_specs as s
  where s.workspace_id = v_job.workspace_id and s.name = v_job.payload ->> 'spec' order by s.version desc limit 1;
  if not found then
    perform queue.refuse(404, 'spec_not_found', 'no spec of this name', v_job.payload ->> 'spec');
  end if;
  return beacon.start_run(v_spec, 'job:' || v_job.id, v_job.user_id);
end;
$$;
comment on function public.beacon_start_for_job is E'Start the run a leased beacon_measure job {job_id, fence} asks for: {run_id, job_id, created, wake}.\n\nOf the newest version of the spec its payload names; once per job.';

create view public.beacon_run_states with (security_invoker = true) as
select r.id, r.workspace_id, r.spec_id, s.name, s.version, s.digest as spec_digest, r.job_id, r.created_by, r.created_at, r.finished_at,
  coalesce(r.outcome, case when j.id is null then 'lost' when j.status in ('failed', 'cancelled') then j.status
    when j.status = 'pending' and j.attempts = 0 then 'pending' else 'running' end) as status,
  j.progress,
  (select x.number from public.beacon_receipts as x where x.run_id = r.id and x.region is null) as receipt_number,
  (select jsonb_agg(jsonb_build_object('region', g.region, 'job_id', coalesce(x.job_id, c.id),
      'status', case when x.id is not null then 'completed' when r.outcome is not null and coalesce(c.status, '') <> 'cancelled' then 'failed'
        when c.id is null then case when j.status in ('failed', 'cancelled') then 'cancelled' else 'pending' end
        when c.status in ('failed', 'cancelled', 'pending') then c.status else 'running' end,
      'error', case when x.id is null then c.error_message end, 'progress', c.progress, 'receipt_number', x.number,
      'measured_from', x.payload -> 'measured_from', 'statistics', x.payload -> 'statistics', 'verdict', x.payload -> 'verdict')
      order by g.ordinality)
    from unnest(r.regions) with ordinality as g (region, ordinality)
    left join public.beacon_receipts as x on x.run_id = r.id and x.region = g.region
    left join public.jobs as c on c.parent_id = r.job_id and c.job_type = 'beacon_region' and c.payload ->> 'region' = g.region) as regions
from public.beacon_runs as r
join public.beacon_specs as s on s.id = r.spec_id
left join public.jobs as j on j.id = r.job_id;
comment on view public.beacon_run_states is E'Runs with how far they are, region by region.\n\nlost: the job went before it ended, by retention or by hand.';
comment on column public.beacon_run_states.id is 'The run, orders by time.';
comment on column public.beacon_run_states.workspace_id is 'The workspace that owns it.';
comment on column public.beacon_run_states.spec_id is 'What is measured.';
comment on column public.beacon_run_states.name is 'The spec''s name.';
comment on column public.beacon_run_states.version is 'The spec''s version.';
comment on column public.beacon_run_states.spec_digest is 'The spec''s digest.';
comment on column public.beacon_run_states.job_id is 'The beacon_run job.';
comment on column public.beacon_run_states.created_by is 'Who started it; null for the service.';
comment on column public.beacon_run_states.created_at is 'When it was started, UTC.';
comment on column public.beacon_run_states.finished_at is 'When its receipt was issued, UTC; null while there is none.';
comment on column public.beacon_run_states.status is 'pending, running, completed, partial, failed, cancelled or lost.';
comment on column public.beacon_run_states.progress is 'The run''s job''s progress; null before it began.';
comment on column public.beacon_run_states.receipt_number is 'Number of the run''s own receipt; null while there is none.';
comment on column public.beacon_run_states.regions is 'Per region, in the spec''s order: {region, job_id, status, error, progress, receipt_number, measured_from, statistics, verdict}.';

create function public.beacon_deliveries(p_run_id uuid) returns jsonb
language plpgsql stable
security definer -- members hold no rights on the outbox: this is the door
set search_path = ''
as $$
declare
  v_run public.beacon_runs;
begin
  select * into v_run from public.beacon_runs where id = p_run_id;
  if not found or not (queue.is_member(v_run.workspace_id) or queue.is_service()) then
    perform queue.refuse(404, 'run_not_found', 'no such run', p_run_id::text);
  end if;
  return (
    with told as (
      select e.job_id, e.seq, e.type, e.created_at, 'evt_' || replace(e.job_id::text, '-', '') || '_' || e.seq as message_id
      from public.job_events as e
      where e.job_id in (select x.job_id from public.beacon_receipts as x where x.run_id = p_run_id) and e.type like 'beacon.%')
    select jsonb_build_object('events', coalesce(jsonb_agg(jsonb_build_object('message_id', t.message_id, 'type', t.type, 'at', t.created_at,
      'deliveries', (
        select coalesce(jsonb_agg(d.delivery order by d.delivery ->> 'webhook_id'), '[]') from (
          select jsonb_build_object('webhook_id', o.webhook_id, 'status', 'waiting', 'attempts', 0, 'error', null) as delivery
          from queue.outbox as o where o.job_id = t.job_id and o.seq = t.seq
          union all
          select jsonb_build_object('webhook_id', j.payload -> 'webhook_id', 'status', j.status, 'attempts', j.attempts, 'error', j.error_message)
          from public.jobs as j
          where j.job_type = 'webhook_delivery' and j.payload ->> 'job_id' = t.job_id::text
            and j.payload -> 'seq' = to_jsonb(t.seq) and j.workspace_id = v_run.workspace_id) as d)) order by t.created_at, t.job_id, t.seq), '[]'))
    from told as t);
end;
$$;
comment on function public.beacon_deliveries is E'What of a run was told to the workspace''s webhooks: {events: [{message_id, type, at, deliveries: [{webhook_id, status, attempts, error}]}]}.\n\nwaiting: in the outbox, the next lease makes a delivery of it; then as the delivery''s job.';
