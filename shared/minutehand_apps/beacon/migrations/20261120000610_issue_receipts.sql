-- Issuing receipts: what they state, and the one transaction of each; keys and chains are the engine's.
-- A receipt, its place in the chain, the output and the event are there together or not at all.

create function public.beacon_keys() returns jsonb
language sql stable
set search_path = ''
begin atomic
  select queue.show_signing_keys('beacon');
end;
comment on function public.beacon_keys is
'Every public key that ever signed, newest first, as a JWK set (RFC 7517); for anyone.';

create function beacon.receipt_problem(
  p_receipt jsonb, p_execution public.beacon_executions, p_job public.beacon_jobs, p_now timestamptz
) returns text[]
language plpgsql stable
set search_path = ''
as $$
declare
  v_signing text[] := queue.signing_problem('beacon', p_receipt,
    'minutehand-beacon-receipt/1', p_now);
  v_problem text;
begin
  if v_signing is not null then
    return v_signing;
  elsif array[p_receipt ->> 'workspace_id', p_receipt ->> 'job_id', p_receipt ->> 'execution_id',
      p_receipt ->> 'region', p_receipt ->> 'jobspec_id', p_receipt ->> 'jobspec_version']
    is distinct from array[p_job.workspace_id::text, p_job.id::text, p_execution.id::text, p_execution.region,
      p_job.jobspec_id, p_job.version] then
    return array['execution_id', 'must be the leased one, with its job, region and spec'];
  elsif p_execution.model <> 'default' and p_receipt ->> 'model' is distinct from p_execution.model then
    return array['model', 'must be the one asked for'];
  elsif p_receipt #>> '{hashes,output}' is distinct from queue.digest(queue.canonical(p_receipt -> 'output')) then
    return array['hashes.output', 'must be that of the output'];
  end if;
  v_problem := beacon.output_problem(p_receipt -> 'output', p_job.spec);
  return case when v_problem is not null then array['output', v_problem] end;
end;
$$;
comment on function beacon.receipt_problem is
'What is wrong in a receipt, as {field, problem}; null when nothing is. The signature itself is checked by its '
  'readers.';

create function beacon.add_receipt(p_receipt jsonb, p_job public.beacon_jobs, p_execution_id uuid)
returns public.beacon_receipts
language plpgsql
set search_path = ''
as $$
declare
  v_digest text := queue.extend_chain('beacon', p_receipt); -- holds the chain to the end
  v_made public.beacon_receipts;
begin
  if exists (select 1 from public.beacon_receipts where job_id = p_job.id and execution_id is null) then
    perform queue.refuse(409, 'invalid_state', 'the job is closed', p_job.status);
  end if;
  if v_digest is not null then
    insert into public.beacon_receipts (
      id, workspace_id, number, job_id, execution_id, receipt, digest, previous, key_id, issued_at)
    values ((p_receipt ->> 'id')::uuid, p_job.workspace_id, queue.big_whole_in(p_receipt, 'number'), p_job.id,
      p_execution_id, p_receipt, v_digest, p_receipt #>> '{hashes,previous}', p_receipt ->> 'key_id',
      (p_receipt ->> 'issued_at')::timestamptz)
    returning * into v_made;
  end if;
  return v_made;
end;
$$;
comment on function beacon.add_receipt is
'Add a receipt at the chain''s end; null when another receipt was added meanwhile, 409 when the job is closed.';

create function beacon.closing(p_job public.beacon_jobs) returns jsonb
language sql stable
set search_path = ''
as $$
  select jsonb_build_object('format', 'minutehand-beacon-closing/1', 'workspace_id', p_job.workspace_id,
    'job_id', p_job.id, 'jobspec_id', p_job.jobspec_id, 'jobspec_version', p_job.version, 'status', p_job.status,
    'error', p_job.error, 'reached', to_jsonb(p_job.reached), 'receipts', count(x.id),
    'executions', jsonb_agg(jsonb_build_object('execution_id', e.id, 'region', e.region, 'model', e.model,
      'status', e.status, 'error', e.error, 'receipt', x.digest) order by e.id),
    'started_at', queue.instant(p_job.started_at), 'completed_at', queue.instant(p_job.finished_at))
  from public.beacon_executions as e
  left join public.beacon_receipts as x on x.execution_id = e.id
  where e.job_id = p_job.id
$$;
comment on function beacon.closing is
'What a job''s closing receipt states: what was asked, what it came to and why, and every receipt by its digest.';

create function beacon.close_job(p_job public.beacon_jobs, p_receipt jsonb, p_now timestamptz) returns jsonb
language plpgsql
set search_path = ''
as $$
declare
  v_closing jsonb := beacon.closing(p_job);
  v_made public.beacon_receipts;
begin
  if p_receipt is not null then
    perform queue.refuse_receipt(coalesce(
      queue.signing_problem('beacon', p_receipt, 'minutehand-beacon-closing/1', p_now),
      case when p_receipt - array['id', 'number', 'issued_at', 'software', 'hashes', 'key_id', 'signature']
          is distinct from v_closing
        then array['closing', 'must be what the job came to'] end));
    v_made := beacon.add_receipt(p_receipt, p_job, null);
    update public.beacon_jobs set closing_id = v_made.id where id = v_made.job_id;
  end if;
  return case when v_made.id is not null then jsonb_build_object('issued', true, 'receipt', v_made.receipt)
    else jsonb_build_object('issued', false, 'stated', v_closing, 'spec', p_job.spec, 'now', queue.clock(),
      'head', queue.chain_end('beacon', p_job.workspace_id), 'key', queue.current_key('beacon')) end;
end;
$$;
comment on function beacon.close_job is
'Store the receipt that closes a job: {issued: true, receipt}, or {issued: false, stated, head, …} to be signed and sent.';

create function public.beacon_close(p_job_id uuid default null, p_receipt jsonb default null) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the app's tables
set search_path = ''
set lock_timeout = '8s'
as $$
declare
  v_job public.beacon_jobs;
begin
  select * into v_job from public.beacon_jobs
  where finished_at is not null and closing_id is null and queue_job_id is not null
    and (p_job_id is null or id = p_job_id)
  order by finished_at limit 1 for update skip locked;
  return case when v_job.id is null then jsonb_build_object('issued', false)
    else beacon.close_job(v_job, p_receipt, queue.clock()) end;
end;
$$;
comment on function public.beacon_close is
E'Close a job that ended without its processor, as by cancelling: {issued, stated, spec, now, head, key}; for the '
'worker.\n\nWithout p_job_id the next one; head is absent when there is none.';

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
  v_made public.beacon_receipts;
begin
  v_of := beacon.held_execution(p_request);
  select * into v_job from public.beacon_jobs where id = (v_of.execution).job_id;
  select * into v_made from public.beacon_receipts where execution_id = (v_of.execution).id;
  if v_made.id is null then
    if (v_of.execution).id is null or v_job.finished_at is not null or (v_of.execution).completed_at is not null then
      perform queue.refuse(409, 'invalid_state', 'the job ended without this execution', v_job.status);
    end if;
    perform queue.refuse_receipt(beacon.receipt_problem(v_receipt, v_of.execution, v_job, v_now));
    v_made := beacon.add_receipt(v_receipt, v_job, (v_of.execution).id);
    if v_made.id is null then
      return jsonb_build_object('issued', false, 'head', queue.chain_end('beacon', v_job.workspace_id));
    end if;
    perform queue.append_events((v_of.held).id, jsonb_build_array(jsonb_build_object('type', 'beacon.receipt.issued',
      'data', jsonb_build_object('job_id', v_job.id, 'execution_id', v_made.execution_id, 'receipt_id', v_made.id,
        'region', (v_of.execution).region, 'number', v_made.number, 'digest', v_made.digest))));
    update public.beacon_executions
    set status = 'completed', output = v_receipt -> 'output', provider = v_receipt ->> 'provider',
      model = v_receipt ->> 'model', provider_task = null, error = null, completed_at = v_now
    where id = (v_of.execution).id;
  end if;
  return jsonb_build_object('issued', true, 'receipt', v_made.receipt,
    'enough', cardinality(beacon.reached(v_job.id)) >= (v_job.spec #>> '{constraints,min_regions}')::numeric);
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
  v_from bigint;
  v_first bigint;
  v_receipts integer;
  v_jobs integer;
begin
  perform set_config('beacon.retention', 'on', true);
  -- from the oldest on, and never the last: the rest is one chain
  select coalesce(min(k.number), 0) into v_from from public.beacon_receipts as k
  where k.workspace_id = p_workspace_id and (k.issued_at >= p_before
    or k.number = (select max(number) from public.beacon_receipts where workspace_id = p_workspace_id));
  loop -- a job's receipts go together: a closing receipt names them all
    select min(s.first) into v_first from (
      select min(number) as first, max(number) as last from public.beacon_receipts
      where workspace_id = p_workspace_id group by job_id) as s
    where s.last >= v_from;
    exit when v_first is null or v_first >= v_from;
    v_from := v_first;
  end loop;
  delete from public.beacon_receipts as x where x.workspace_id = p_workspace_id and x.number < v_from;
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
  'jobs}; for the operator.\n\nThe last receipt is always kept, all of one job go together, and the rest is one chain '
'without gaps.';

-- Grants ---------------------------------------------------------------------------------------------------

revoke execute on all functions in schema beacon from public, anon, authenticated, service_role;
select queue.allow('authenticated, service_role', 'public.beacon_submit', 'public.beacon_cancel',
  'public.beacon_redrive');
grant usage on schema beacon to authenticated, service_role;
select queue.allow('anon, authenticated, service_role', 'public.beacon_keys');
select queue.allow('job_worker, service_role', 'public.beacon_claim_outbox', 'public.beacon_publish',
  'public.beacon_reconcile', 'public.beacon_start', 'public.beacon_finish', 'public.beacon_start_execution',
  'public.beacon_note_execution', 'public.beacon_cancel_stragglers', 'public.beacon_take_abandoned',
  'public.beacon_report_providers', 'public.beacon_issue', 'public.beacon_health',
  'public.beacon_close');
select queue.allow('service_role', 'public.beacon_prune');
