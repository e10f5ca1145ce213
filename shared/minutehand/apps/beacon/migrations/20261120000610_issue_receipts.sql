-- Issuing receipts: the signing keys, and the one transaction of a receipt.
-- A receipt, its place in the chain, the output and the event are there together or not at all.

create function beacon.jwk(p_key beacon.signing_keys) returns jsonb
language sql immutable
set search_path = ''
as $$
  select jsonb_strip_nulls(jsonb_build_object('kty', 'OKP', 'crv', 'Ed25519', 'x', p_key.x, 'kid', p_key.kid,
    'use', 'sig', 'alg', 'EdDSA', 'nbf', floor(extract(epoch from p_key.not_before))::bigint,
    'exp', ceil(extract(epoch from p_key.not_after))::bigint))
$$;
comment on function beacon.jwk is
'A public key as RFC 8037 writes it, with nbf and, once replaced, exp in seconds since 1970.';

create function beacon.current_key() returns jsonb
language sql stable
set search_path = ''
as $$
  select jsonb_build_object('kid', k.kid, 'x', k.x, 'sealed', k.sealed)
  from beacon.signing_keys as k where k.not_after is null
$$;
comment on function beacon.current_key is 'The key that signs, its private half sealed; null when there is none yet.';

create function beacon.show_keys() returns jsonb
language sql stable
security definer -- no role holds rights on the keys
set search_path = ''
as $$
  select jsonb_build_object('keys', coalesce(jsonb_agg(beacon.jwk(k) order by k.not_before desc, k.kid), '[]'))
  from beacon.signing_keys as k
$$;
comment on function beacon.show_keys is 'See public.beacon_keys.';

create function public.beacon_keys() returns jsonb
language sql stable
set search_path = ''
as $$ select beacon.show_keys() $$;
comment on function public.beacon_keys is
'Every public key that ever signed, newest first, as a JWK set (RFC 7517); for anyone.';

create function public.beacon_add_key(p_key jsonb) returns jsonb
language plpgsql
security definer -- no role holds rights on the keys
set search_path = ''
as $$
declare
  v_x text := p_key ->> 'x';
  v_jwk text := format('{"crv":"Ed25519","kty":"OKP","x":"%s"}', v_x);
  v_kid text := translate(rtrim(encode(sha256(convert_to(v_jwk, 'UTF8')), 'base64'), '='), '+/', '-_');
begin
  if coalesce(v_x, '') !~ '^[A-Za-z0-9_-]{43}$' or p_key ->> 'kid' is distinct from v_kid
    or coalesce(length(p_key ->> 'sealed'), 0) not between 20 and 4000 then
    perform queue.refuse(400, 'invalid_argument',
      'a key must have x, the kid of x by RFC 7638, and its sealed private half', 'key');
  end if;
  perform pg_advisory_xact_lock(hashtextextended('beacon_keys', 0));
  -- when another worker was first, its key is the one
  -- valid from a little earlier: the worker that signs says when by its own clock, which may be late
  insert into beacon.signing_keys (kid, x, sealed, not_before)
  select v_kid, v_x, p_key ->> 'sealed', queue.clock() - interval '5 minutes'
  where not exists (select 1 from beacon.signing_keys where not_after is null);
  return beacon.current_key();
end;
$$;
comment on function public.beacon_add_key is
'Add a signing key {kid, x, sealed} unless there is one; returns the current one.';

create function public.beacon_retire_key() returns jsonb
language plpgsql
security definer -- no role holds rights on the keys
set search_path = ''
as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('beacon_keys', 0));
  -- an execution that has just ended may still be signed by it
  update beacon.signing_keys set not_after = queue.clock() + interval '1 hour' where not_after is null;
  return beacon.show_keys();
end;
$$;
comment on function public.beacon_retire_key is
E'Let no new receipt be signed by the current key; returns the public keys. For the operator.\n\nThe next '
'receipt''s worker makes a new one. The retired key is valid for an hour more, and listed permanently.';

create function beacon.receipt_problem(
  p_receipt jsonb, p_execution public.beacon_executions, p_job public.beacon_jobs, p_now timestamptz
) returns text[]
language plpgsql stable
set search_path = ''
as $$
declare
  v_problem text;
begin
  if jsonb_typeof(p_receipt) is distinct from 'object'
    or p_receipt ->> 'format' is distinct from 'minutehand-beacon-receipt/1'
    or coalesce(p_receipt ->> 'signature', '') !~ '^[A-Za-z0-9_-]{86}$' then
    return array['format', 'must be minutehand-beacon-receipt/1 with an Ed25519 signature'];
  elsif not exists (select 1 from beacon.signing_keys as k where k.kid = p_receipt ->> 'key_id'
      and (k.not_after is null or k.not_after > greatest(p_now, (p_receipt ->> 'issued_at')::timestamptz))) then
    return array['key_id', 'must be a key that signs at present'];
  elsif array[p_receipt ->> 'workspace_id', p_receipt ->> 'job_id', p_receipt ->> 'execution_id',
      p_receipt ->> 'region', p_receipt ->> 'jobspec_id', p_receipt ->> 'jobspec_version']
    is distinct from array[p_job.workspace_id::text, p_job.id::text, p_execution.id::text, p_execution.region,
      p_job.jobspec_id, p_job.version] then
    return array['execution_id', 'must be the leased one, with its job, region and spec'];
  elsif p_execution.model <> 'default' and p_receipt ->> 'model' is distinct from p_execution.model then
    return array['model', 'must be the one asked for'];
  elsif abs(extract(epoch from (p_receipt ->> 'issued_at')::timestamptz - p_now)) > 300 then
    return array['issued_at', 'must be now'];
  elsif p_receipt #>> '{hashes,output}' is distinct from beacon.digest(beacon.canonical(p_receipt -> 'output')) then
    return array['hashes.output', 'must be that of the output'];
  end if;
  v_problem := beacon.output_problem(p_receipt -> 'output', p_job.spec);
  return case when v_problem is not null then array['output', v_problem] end;
end;
$$;
comment on function beacon.receipt_problem is
'What is wrong in a receipt, as {field, problem}; null when nothing is. The signature itself is checked by its '
  'readers.';

create function beacon.add_receipt(p_receipt jsonb, p_execution public.beacon_executions, p_held uuid)
returns public.beacon_receipts
language plpgsql
set search_path = ''
as $$
declare
  v_head beacon.chains;
  v_made public.beacon_receipts;
begin
  insert into beacon.chains (workspace_id) values (p_execution.workspace_id) on conflict (workspace_id) do nothing;
  -- held to the end: the chain's order is the order of the commits
  select * into v_head from beacon.chains where workspace_id = p_execution.workspace_id for update;
  if (p_receipt ->> 'number')::bigint is distinct from v_head.number + 1
    or p_receipt #>> '{hashes,previous}' is distinct from v_head.digest then
    return null;
  end if;
  insert into public.beacon_receipts (
    id, workspace_id, number, job_id, execution_id, receipt, digest, previous, key_id, issued_at)
  values ((p_receipt ->> 'id')::uuid, p_execution.workspace_id, v_head.number + 1, p_execution.job_id, p_execution.id,
    p_receipt, beacon.digest(beacon.canonical(p_receipt)), v_head.digest, p_receipt ->> 'key_id',
    (p_receipt ->> 'issued_at')::timestamptz)
  returning * into v_made;
  update beacon.chains set number = v_made.number, digest = v_made.digest where workspace_id = v_made.workspace_id;
  perform queue.append_events(p_held, jsonb_build_array(jsonb_build_object('type', 'beacon.receipt.issued',
    'data', jsonb_build_object('job_id', v_made.job_id, 'execution_id', v_made.execution_id, 'receipt_id', v_made.id,
      'region', p_execution.region, 'number', v_made.number, 'digest', v_made.digest))));
  return v_made;
end;
$$;
comment on function beacon.add_receipt is
'Add a receipt at the chain''s end and append its event; null when another receipt was added meanwhile.';

create function public.beacon_issue(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_now timestamptz := queue.clock();
  v_receipt jsonb := p_request -> 'receipt';
  v_of record;
  v_job public.beacon_jobs;
  v_problem text[];
  v_made public.beacon_receipts;
begin
  v_of := beacon.held_execution(p_request);
  select * into v_job from public.beacon_jobs where id = (v_of.execution).job_id;
  select * into v_made from public.beacon_receipts where execution_id = (v_of.execution).id;
  if v_made.id is null then
    if (v_of.execution).id is null or v_job.finished_at is not null or (v_of.execution).completed_at is not null then
      perform queue.refuse(409, 'invalid_state', 'the job ended without this execution', v_job.status);
    end if;
    v_problem := beacon.receipt_problem(v_receipt, v_of.execution, v_job, v_now);
    if v_problem is not null then
      perform queue.refuse(case v_problem[1] when 'key_id' then 409 else 422 end,
        case v_problem[1] when 'key_id' then 'key_retired' else 'receipt_invalid' end,
        v_problem[1] || ' ' || v_problem[2], v_problem[1]);
    end if;
    v_made := beacon.add_receipt(v_receipt, v_of.execution, (v_of.held).id);
    if v_made.id is null then
      return (select jsonb_build_object('issued', false,
          'head', jsonb_build_object('number', c.number, 'digest', c.digest))
        from beacon.chains as c where c.workspace_id = v_job.workspace_id);
    end if;
    update public.beacon_executions
    set status = 'completed', output = v_receipt -> 'output', provider = v_receipt ->> 'provider',
      model = v_receipt ->> 'model', provider_task = null, error = null, completed_at = v_now
    where id = (v_of.execution).id;
  end if;
  return jsonb_build_object('issued', true, 'receipt', v_made.receipt,
    'enough', cardinality(beacon.reached(v_job.id)) >= (v_job.spec #>> '{constraints,min_regions}')::integer);
exception
  when invalid_text_representation or character_not_in_repertoire or untranslatable_character
    or numeric_value_out_of_range or invalid_datetime_format or datetime_field_overflow
    or invalid_parameter_value or check_violation then
    perform queue.refuse(422, 'receipt_invalid', 'a value has the wrong type: ' || sqlerrm, 'receipt');
end;
$$;
comment on function public.beacon_issue is
E'Store the signed receipt of a leased execution {job_id, fence, receipt}: {issued, receipt, enough}, or {issued: '
'false, head} to sign again after that head; for the worker.\n\nOne transaction: the receipt, the chain''s new '
'end, the output, the event beacon.receipt.issued. A repeat finds the first receipt. enough: min_regions regions '
'have succeeded.';

create function public.beacon_prune(p_workspace_id uuid, p_before timestamptz) returns jsonb
language plpgsql
security definer -- no role may delete a receipt directly
set search_path = ''
as $$
declare
  v_receipts integer;
  v_jobs integer;
begin
  perform set_config('beacon.retention', 'on', true);
  -- from the oldest on, and never the last: the rest is one chain
  delete from public.beacon_receipts as x where x.workspace_id = p_workspace_id and x.number < (
    select coalesce(min(k.number), 0) from public.beacon_receipts as k
    where k.workspace_id = p_workspace_id and (k.issued_at >= p_before
      or k.number = (select max(number) from public.beacon_receipts where workspace_id = p_workspace_id)));
  get diagnostics v_receipts = row_count;
  delete from public.beacon_jobs as j where j.workspace_id = p_workspace_id and j.finished_at < p_before
    and not exists (select 1 from public.beacon_receipts as x where x.job_id = j.id);
  get diagnostics v_jobs = row_count;
  perform set_config('beacon.retention', '', true);
  return jsonb_build_object('receipts', v_receipts, 'jobs', v_jobs);
end;
$$;
comment on function public.beacon_prune is
E'Delete a workspace''s receipts issued before p_before, oldest first, and ended jobs without any left: {receipts, '
  'jobs}; for the operator.\n\nThe last receipt is always kept, and the rest is one chain without gaps.';

-- Grants ---------------------------------------------------------------------------------------------------

revoke execute on all functions in schema beacon from public, anon, authenticated, service_role;
revoke execute on function public.beacon_submit, public.beacon_cancel, public.beacon_redrive, public.beacon_keys,
  public.beacon_claim_outbox, public.beacon_publish, public.beacon_reconcile, public.beacon_start,
  public.beacon_finish, public.beacon_start_execution, public.beacon_note_execution, public.beacon_cancel_stragglers,
  public.beacon_take_abandoned, public.beacon_report_providers, public.beacon_issue, public.beacon_add_key,
  public.beacon_health, public.beacon_retire_key, public.beacon_prune
  from public, anon, authenticated, service_role;
grant execute on function public.beacon_submit, public.beacon_cancel, public.beacon_redrive
  to authenticated, service_role;
grant usage on schema beacon to anon, authenticated, job_worker, service_role;
grant execute on function beacon.show_keys, public.beacon_keys to anon, authenticated, job_worker, service_role;
grant execute on function public.beacon_claim_outbox, public.beacon_publish, public.beacon_reconcile,
  public.beacon_start, public.beacon_finish, public.beacon_start_execution, public.beacon_note_execution,
  public.beacon_cancel_stragglers, public.beacon_take_abandoned, public.beacon_report_providers, public.beacon_issue,
  public.beacon_add_key, public.beacon_health
  to job_worker, service_role;
grant execute on function public.beacon_prune, public.beacon_retire_key to service_role;
