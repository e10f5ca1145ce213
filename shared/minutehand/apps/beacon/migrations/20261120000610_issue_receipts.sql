-- Issuing receipts: the signing keys, what a measuring job reads, and the one transaction of a receipt.
-- A receipt, its place in the chain and the events that tell of it are there together or not at all.

create function beacon.jwk(p_key beacon.signing_keys) returns jsonb
language sql immutable
set search_path = ''
as $$
  select jsonb_strip_nulls(jsonb_build_object('kty', 'OKP', 'crv', 'Ed25519', 'x', p_key.x, 'kid', p_key.kid, 'use', 'sig', 'alg', 'EdDSA',
    'nbf', floor(extract(epoch from p_key.not_before))::bigint, 'exp', ceil(extract(epoch from p_key.not_after))::bigint))
$$;
comment on function beacon.jwk is 'A public key as RFC 8037 writes it, with nbf and, once replaced, exp in seconds since 1970.';

create function beacon.current_key() returns jsonb
language sql stable
set search_path = ''
as $$ select jsonb_build_object('kid', k.kid, 'x', k.x, 'sealed', k.sealed) from beacon.signing_keys as k where k.not_after is null $$;
comment on function beacon.current_key is 'The key that signs, its private half sealed; null when there is none yet.';

create function beacon.show_keys() returns jsonb
language sql stable
security definer -- nobody holds rights on the keys: behind the door in public
set search_path = ''
as $$ select jsonb_build_object('keys', coalesce(jsonb_agg(beacon.jwk(k) order by k.not_before desc, k.kid), '[]')) from beacon.signing_keys as k $$;
comment on function beacon.show_keys is 'See public.beacon_keys.';

create function public.beacon_keys() returns jsonb
language sql stable
set search_path = ''
as $$ select beacon.show_keys() $$;
comment on function public.beacon_keys is 'Every public key that ever signed, newest first, as a JWK set (RFC 7517); for anybody.';

create function public.beacon_add_key(p_key jsonb) returns jsonb
language plpgsql
security definer -- nobody holds rights on the keys: this is the door
set search_path = ''
as $$
declare
  v_x text := p_key ->> 'x';
  v_kid text := translate(rtrim(encode(sha256(convert_to(format('{"crv":"Ed25519","kty":"OKP","x":"%s"}', v_x), 'UTF8')), 'base64'), '='), '+/', '-_');
begin
  if coalesce(v_x, '') !~ '^[A-Za-z0-9_-]{43}$' or p_key ->> 'kid' is distinct from v_kid or coalesce(length(p_key ->> 'sealed'), 0) not between 20 and 4000 then
    perform queue.refuse(400, 'invalid_argument', 'a key needs x, the kid of x by RFC 7638, and its sealed private half', 'key');
  end if;
  perform pg_advisory_xact_lock(hashtextextended('beacon_keys', 0));
  -- where another worker was first, its key is the one
  -- valid from a little earlier: the worker that signs says when by its own clock, which may be late
  insert into beacon.signing_keys (kid, x, sealed, not_before) select v_kid, v_x, p_key ->> 'sealed', queue.clock() - interval '5 minutes'
  where not exists (select 1 from beacon.signing_keys where not_after is null);
  return beacon.current_key();
end;
$$;
comment on function public.beacon_add_key is 'Add a signing key {kid, x, sealed} unless there is one; returns the current one.';

create function public.beacon_retire_key() returns jsonb
language plpgsql
security definer -- nobody holds rights on the keys: this is the operator's door
set search_path = ''
as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('beacon_keys', 0));
  -- what was measured just now may still be signed by it
  update beacon.signing_keys set not_after = queue.clock() + interval '1 hour' where not_after is null;
  return beacon.show_keys();
end;
$$;
comment on function public.beacon_retire_key is E'Let no new receipt be signed by the current key; returns the public keys. For the operator.\n\nThe next receipt''s worker makes a new one. The retired key is valid for an hour more, and listed for ever.';

create function beacon.held_run(p_request jsonb, out job public.jobs, out run public.beacon_runs) returns record
language plpgsql
set search_path = ''
as $$
begin
  job := queue.held_job(p_request, array['beacon_run', 'beacon_region'], 'nothing was stored');
  select r.* into run from public.beacon_runs as r
  where r.id = (job.payload ->> 'run_id')::uuid and r.workspace_id = job.workspace_id
    and job.id in (r.job_id, case when job.parent_id = r.job_id then job.id end);
end;
$$;
comment on function beacon.held_run is 'The leased job, locked, and the run it is for; the run is null when it is gone. lease_lost for whoever does not hold the lease.';

create function beacon.receipt_json(p_receipt public.beacon_receipts) returns jsonb
language sql immutable
set search_path = ''
as $$ select to_jsonb(p_receipt) - 'samples' $$;
comment on function beacon.receipt_json is 'A receipt without its samples.';

create function public.beacon_load(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables: this is the door
set search_path = ''
as $$
declare
  v_held record;
  v_head beacon.chains;
  v_over text;
begin
  v_held := beacon.held_run(p_request);
  if (v_held.run).id is null then
    return jsonb_build_object('run', null);
  end if;
  select * into v_head from beacon.chains where workspace_id = (v_held.run).workspace_id;
  -- a region retried by hand: pace and the day's samples count runs under way, and each of their regions once
  if (v_held.job).job_type = 'beacon_region' then
    v_over := case when (v_held.run).outcome is not null or not exists (
          select 1 from public.jobs as j where j.id = (v_held.run).job_id and j.completed_at is null)
        then 'The run has ended without this region; start another'
      when (v_held.job).generation > 11 then 'The region was begun anew ten times; start another run' end;
  end if;
  return jsonb_build_object('run', to_jsonb(v_held.run), 'over', v_over,
    'spec', (select to_jsonb(s) from public.beacon_specs as s where s.id = (v_held.run).spec_id),
    'key', beacon.current_key(),
    'head', jsonb_build_object('number', coalesce(v_head.number, 0), 'digest', v_head.digest),
    'private_addresses', coalesce(queue.setting('beacon_private_addresses'), 'false'),
    'requests_per_second', (select beacon.pace(s.workspace_id, s.spec #>> '{target,url}') from public.beacon_specs as s where s.id = (v_held.run).spec_id),
    'receipts', (select coalesce(jsonb_agg(beacon.receipt_json(x) order by x.number), '[]') from public.beacon_receipts as x where x.run_id = (v_held.run).id));
end;
$$;
comment on function public.beacon_load is E'What a leased job {job_id, fence} works on: {run, over, spec, key, head {number, digest}, private_addresses, requests_per_second, receipts}; run is null when it is gone.\n\nover says why a region without a receipt is not measured any more: its run has ended, or it was begun anew too often.';

create function beacon.receipt_problem(
  p_job public.jobs, p_run public.beacon_runs, p_header jsonb, p_payload jsonb, p_samples jsonb, p_now timestamptz
) returns text[]
language plpgsql stable
set search_path = ''
as $$
declare
  v_region text := case when p_job.job_type = 'beacon_region' then p_job.payload ->> 'region' end;
  v_spec text := (select digest from public.beacon_specs where id = p_run.spec_id);
begin
  if jsonb_typeof(p_header) is distinct from 'object' or jsonb_typeof(p_payload) is distinct from 'object' then
    return array['jws', 'must have a header and a payload of JSON objects'];
  elsif p_header ->> 'alg' is distinct from 'EdDSA' or not exists (
      select 1 from beacon.signing_keys as k where k.kid = p_header ->> 'kid'
        and (k.not_after is null or k.not_after > greatest(p_now, (p_payload ->> 'issued_at')::timestamptz))) then
    return array['kid', 'is no key that signs at present'];
  elsif p_payload ->> 'workspace_id' is distinct from p_run.workspace_id::text or p_payload ->> 'run_id' is distinct from p_run.id::text
    or p_payload ->> 'job_id' is distinct from p_job.id::text then
    return array['run_id', 'workspace, run or job are not the leased ones'];
  elsif p_payload ->> 'type' is distinct from (case when v_region is null then 'beacon.run/1' else 'beacon.region/1' end)
    or p_payload ->> 'region_requested' is distinct from v_region then
    return array['region_requested', 'type and region are not the job''s'];
  elsif p_payload ->> 'spec_digest' is distinct from v_spec then
    return array['spec_digest', 'is not the spec''s'];
  elsif abs(extract(epoch from (p_payload ->> 'issued_at')::timestamptz - p_now)) > 300 then
    return array['issued_at', 'is not now'];
  elsif v_region is not null and (p_samples is null or p_payload #>> '{samples,digest}' is distinct from beacon.digest(beacon.canonical(p_samples))) then
    return array['samples.digest', 'is not that of the samples'];
  elsif v_region is null and p_payload -> 'regions' is distinct from (
      select jsonb_agg(jsonb_strip_nulls(jsonb_build_object('region', g.region, 'receipt', x.digest))
          || jsonb_build_object('status', case when x.id is null then 'failed' else 'completed' end) order by g.ordinality)
      from unnest(p_run.regions) with ordinality as g (region, ordinality)
      left join public.beacon_receipts as x on x.run_id = p_run.id and x.region = g.region) then
    return array['regions', 'are not the run''s receipts'];
  end if;
  return null;
end;
$$;
comment on function beacon.receipt_problem is 'What a receipt says that is not so, as {field, problem}; null when nothing is. The signature itself is checked by whoever reads it.';

create function public.beacon_issue(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables: this is the door
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_now timestamptz := queue.clock();
  v_jws text := p_request ->> 'jws';
  v_samples jsonb := nullif(p_request -> 'samples', 'null');
  v_held record;
  v_region text;
  v_header jsonb;
  v_payload jsonb;
  v_head beacon.chains;
  v_problem text[];
  v_told jsonb;
  v_seq bigint;
  v_made public.beacon_receipts;
begin
  v_held := beacon.held_run(p_request);
  if (v_held.run).id is null then
    perform queue.refuse(404, 'run_not_found', 'the run is gone', p_request ->> 'job_id');
  end if;
  v_region := case when (v_held.job).job_type = 'beacon_region' then (v_held.job).payload ->> 'region' end;
  select * into v_made from public.beacon_receipts where run_id = (v_held.run).id and region is not distinct from v_region;
  if found then
    return jsonb_build_object('issued', true, 'created', false, 'receipt', beacon.receipt_json(v_made));
  end if;
  if (v_held.run).outcome is not null then -- a region run again by hand: the run's receipt has spoken
    perform queue.refuse(409, 'invalid_state', 'the run has ended; start another', (v_held.run).outcome);
  end if;
  if coalesce(v_jws, '') !~ '^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}$' or length(v_jws) > 32000 then
    perform queue.refuse(422, 'receipt_invalid', 'jws must be a compact JWS with an Ed25519 signature', 'jws');
  end if;
  v_header := convert_from(beacon.from_base64url(split_part(v_jws, '.', 1)), 'UTF8')::jsonb;
  v_payload := convert_from(beacon.from_base64url(split_part(v_jws, '.', 2)), 'UTF8')::jsonb;
  v_problem := beacon.receipt_problem(v_held.job, v_held.run, v_header, v_payload, v_samples, v_now);
  if v_problem is not null then
    perform queue.refuse(case v_problem[1] when 'kid' then 409 else 422 end, case v_problem[1] when 'kid' then 'key_retired' else 'receipt_invalid' end,
      v_problem[1] || ' ' || v_problem[2], v_problem[1]);
  end if;

  insert into beacon.chains (workspace_id) values ((v_held.run).workspace_id) on conflict (workspace_id) do nothing;
  -- held to the end: the chain's order is the commits' order, and so the outbox's
  select * into v_head from beacon.chains where workspace_id = (v_held.run).workspace_id for update;
  if (v_payload ->> 'number')::bigint is distinct from v_head.number + 1 or v_payload ->> 'previous' is distinct from v_head.digest then
    return jsonb_build_object('issued', false, 'head', jsonb_build_object('number', v_head.number, 'digest', v_head.digest));
  end if;
  v_told := jsonb_build_array(jsonb_build_object('type', 'beacon.receipt.issued', 'data', jsonb_build_object('run_id', (v_held.run).id,
    'region', v_region, 'number', v_head.number + 1, 'digest', beacon.digest(v_jws), 'jws', v_jws)));
  if v_region is null then
    v_told := v_told || jsonb_build_object('type', 'beacon.run.finished', 'data', jsonb_build_object('run_id', (v_held.run).id,
      'outcome', v_payload -> 'outcome', 'verdict', v_payload -> 'verdict', 'receipt', beacon.digest(v_jws)));
    update public.beacon_runs set outcome = v_payload ->> 'outcome', finished_at = v_now where id = (v_held.run).id;
  end if;
  v_seq := queue.tell((v_held.job).id, v_told) - jsonb_array_length(v_told) + 1;
  insert into public.beacon_receipts (workspace_id, number, run_id, region, job_id, event_seq, digest, previous, kid, payload, jws, samples, issued_at)
  values ((v_held.run).workspace_id, v_head.number + 1, (v_held.run).id, v_region, (v_held.job).id, v_seq, beacon.digest(v_jws), v_head.digest,
    v_header ->> 'kid', v_payload, v_jws, case when v_region is not null then v_samples end, (v_payload ->> 'issued_at')::timestamptz)
  returning * into v_made;
  update beacon.chains set number = v_made.number, digest = v_made.digest where workspace_id = v_made.workspace_id;
  return jsonb_build_object('issued', true, 'created', true, 'receipt', beacon.receipt_json(v_made));
exception
  when invalid_text_representation or character_not_in_repertoire or untranslatable_character or numeric_value_out_of_range
    or invalid_datetime_format or datetime_field_overflow or invalid_parameter_value or check_violation then
    perform queue.refuse(422, 'receipt_invalid', 'a value has the wrong type: ' || sqlerrm, 'jws');
end;
$$;
comment on function public.beacon_issue is E'Store a signed receipt of a leased job {job_id, fence, jws, samples?}: {issued, created, receipt}, or {issued: false, head} to sign again after that head.\n\nOne transaction: the receipt, the chain''s new end, the run''s outcome, and the events beacon.receipt.issued and beacon.run.finished with their outbox. A repeat finds the first receipt.';

create function public.beacon_prune(p_workspace_id uuid, p_before timestamptz) returns jsonb
language plpgsql
security definer -- nobody may delete a receipt: this is retention's door
set search_path = ''
as $$
declare
  v_count integer;
begin
  perform set_config('beacon.retention', 'on', true);
  -- from the oldest on, and never the last: what stays is one chain
  delete from public.beacon_receipts as x where x.workspace_id = p_workspace_id and x.number < (
    select coalesce(min(k.number), 0) from public.beacon_receipts as k where k.workspace_id = p_workspace_id and (k.issued_at >= p_before
      or k.number = (select max(number) from public.beacon_receipts where workspace_id = p_workspace_id)));
  get diagnostics v_count = row_count;
  -- also those that were cancelled, or failed, and have no receipt of their own
  delete from public.beacon_runs as r where r.workspace_id = p_workspace_id and coalesce(r.finished_at, r.created_at) < p_before
    and not exists (select 1 from public.beacon_receipts as x where x.run_id = r.id)
    and (r.finished_at is not null or not exists (select 1 from public.jobs as j where j.id = r.job_id and j.completed_at is null));
  perform set_config('beacon.retention', '', true);
  return jsonb_build_object('removed', v_count);
end;
$$;
comment on function public.beacon_prune is E'Remove a workspace''s receipts issued before p_before, oldest first: {removed}; for the operator.\n\nThe last receipt always stays, and what stays is one chain without gaps.';

-- Row level security and grants -------------------------------------------------------------------

alter table public.beacon_specs enable row level security;
alter table public.beacon_runs enable row level security;
alter table public.beacon_receipts enable row level security;
alter table beacon.chains enable row level security;
alter table beacon.signing_keys enable row level security;

create policy beacon_specs_read_by_members on public.beacon_specs
for select to authenticated using (workspace_id in (select queue.my_workspaces()));
create policy beacon_runs_read_by_members on public.beacon_runs
for select to authenticated using (workspace_id in (select queue.my_workspaces()));
create policy beacon_receipts_read_by_members on public.beacon_receipts
for select to authenticated using (workspace_id in (select queue.my_workspaces()));

revoke all on public.beacon_specs, public.beacon_runs, public.beacon_receipts, public.beacon_run_states
from public, anon, authenticated, service_role;
revoke all on beacon.chains, beacon.signing_keys from public, anon, authenticated, service_role;
grant select on public.beacon_specs, public.beacon_runs, public.beacon_receipts, public.beacon_run_states
to authenticated, service_role;

revoke execute on all functions in schema beacon from public, anon, authenticated, service_role;
revoke execute on function public.beacon_create_spec, public.beacon_start_run, public.beacon_deliveries, public.beacon_keys,
public.beacon_add_key, public.beacon_retire_key, public.beacon_start_for_job, public.beacon_load, public.beacon_issue, public.beacon_prune
from public, anon, authenticated, service_role;
grant execute on function public.beacon_create_spec, public.beacon_start_run, public.beacon_deliveries to authenticated, service_role;
grant usage on schema beacon to anon, authenticated, job_worker, service_role;
grant execute on function beacon.show_keys, public.beacon_keys to anon, authenticated, job_worker, service_role;
grant execute on function public.beacon_add_key, public.beacon_start_for_job, public.beacon_load, public.beacon_issue to job_worker, service_role;
grant execute on function public.beacon_prune, public.beacon_retire_key to service_role;
