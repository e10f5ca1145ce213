-- Signed statements: the keys that sign, their chains per workspace, and the receipts of jobs of signed types.
-- A worker signs under the lease of the job what the database states of it; apps have chains of their own.

create table queue.signing_keys (
  kid text primary key, -- RFC 7638 thumbprint of the public key
  chain text not null, -- whose receipts it signs: jobs, or an app's name
  x text not null, -- the public key, base64url (RFC 8037)
  sealed text not null, -- the private key, sealed by KMS or the development key file; opens nowhere else
  not_before timestamptz not null, -- since when it signs, UTC
  not_after timestamptz, -- until when what it signed is valid, UTC; null while it is the current one
  revoked_at timestamptz, -- since when it is not to be trusted, UTC; null for a key that is
  last_numbers jsonb -- once revoked: the number of the last receipt it signed, by the digest of the workspace's id
);
create unique index signing_keys_one_is_current on queue.signing_keys (chain) where not_after is null;
comment on table queue.signing_keys is 'Ed25519 keys of this deployment: one of each chain signs, older ones stay to verify by.';

create table queue.chains (
  workspace_id uuid not null, -- the workspace
  chain text not null, -- jobs, or an app's name
  number bigint not null default 0, -- number of the last receipt; 0 before the first
  digest text, -- digest of the last receipt; null before the first
  last_by_key jsonb not null default '{}', -- number of the last receipt that each key signed
  primary key (workspace_id, chain)
);
comment on table queue.chains is 'The end of each workspace''s chains; a transaction that adds a receipt holds its row.';

create table queue.receipts (
  workspace_id uuid not null, -- the job's workspace
  number bigint not null, -- its place in the chain: 1, 2, 3 ... without gaps
  job_id uuid not null, -- the job, which may be deleted before its receipt
  finished_at timestamptz, -- for a closing receipt the end of the job that it closes, UTC; null for one of a result
  receipt jsonb not null, -- as it was signed
  digest text not null, -- of its canonical JSON: what the next one names as previous
  issued_at timestamptz not null, -- when it was signed, UTC
  primary key (workspace_id, number)
);
create unique index receipts_of_results on queue.receipts (job_id) where finished_at is null;
create unique index receipts_by_job on queue.receipts (job_id, finished_at);
create index receipts_by_time on queue.receipts (issued_at);
comment on table queue.receipts is 'Receipts of jobs of signed types, each workspace''s a chain; the oldest leave first.';
insert into queue.kept_rows (relation, since, keep) values ('receipts', 'issued_at', '1 year');
-- people's jobs of signed types are refused at the enqueue: what was taken on gets its receipt
insert into queue.settings (name, value) values ('max_receipts', '100000');
insert into queue.quotas (name, relation, for_all) values ('max_receipts', 'queue.receipts', false);

create table queue.unclosed (
  job_id uuid primary key, -- the job, which may have been deleted or retried since
  workspace_id uuid not null, -- its workspace
  look_at timestamptz not null -- when a worker is to look at it, UTC
);
create index unclosed_by_time on queue.unclosed (look_at);
comment on table queue.unclosed is 'Jobs of signed types that failed or were cancelled, until a worker has signed the receipt that closes them.';

create function queue.note_unclosed() returns trigger
language plpgsql set search_path = '' as $$
begin
  insert into queue.unclosed as u (job_id, workspace_id, look_at)
  select new.job_id, new.workspace_id, new.ended_at from queue.job_types as t
  where t.job_type = new.job_type and t.signed
  on conflict (job_id) do update set look_at = excluded.look_at; -- waits for a worker that is about to delete it
  return null;
end;
$$;
comment on function queue.note_unclosed is 'Trigger: note a job of a signed type that ended without a result.';
create trigger ended_note_unclosed after insert on queue.ended
  for each row when (new.outcome <> 'completed') execute function queue.note_unclosed();

create function queue.canonical(p_value jsonb) returns text
language plpgsql immutable set search_path = '' as $$
begin
  -- refused and not written another way: names in receipts are ASCII, whole numbers small
  if jsonb_typeof(p_value) = 'object'
    and exists (select 1 from jsonb_object_keys(p_value) as k where k ~ '[\U00010000-\U0010FFFF]') then
    -- UTF-16 orders those beyond U+FFFF differently
    perform queue.refuse(400, 'invalid_argument', 'names must be within U+FFFF', 'name');
  elsif jsonb_typeof(p_value) = 'number' and abs((p_value #>> '{}')::numeric) > 9007199254740992 then
    perform queue.refuse(400, 'invalid_argument', 'numbers must be within 2^53', 'number');
  end if;
  case jsonb_typeof(p_value)
    when 'object' then
      return '{' || coalesce((
        select string_agg(to_json(e.key)::text || ':' || queue.canonical(e.value), ',' order by e.key collate "C")
        from jsonb_each(p_value) as e), '') || '}';
    when 'array' then
      return '[' || coalesce((
        select string_agg(queue.canonical(e.value), ',' order by e.ordinality)
        from jsonb_array_elements(p_value) with ordinality as e), '') || ']';
    when 'number' then
      return trim_scale((p_value #>> '{}')::numeric)::text;
    else
      return p_value::text;
  end case;
end;
$$;
comment on function queue.canonical is E'A value as canonical JSON (RFC 8785).\n\nExact for names up to U+FFFF and for numbers from 0.000001 to 2^53 of at most 15 digits; names and numbers beyond are refused. Receipts hold neither.';

create function queue.digest(p_text text) returns text
language sql immutable set search_path = '' as $$
  select 'sha256:' || encode(sha256(convert_to(p_text, 'UTF8')), 'hex')
$$;
comment on function queue.digest is 'SHA-256 over a text in UTF-8, as sha256:<hex>.';

create function queue.instant(p_at timestamptz) returns text
language sql immutable set search_path = '' as $$
  select to_char(p_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;
comment on function queue.instant is 'An instant as receipts write it: UTC, milliseconds, Z.';

-- Keys -----------------------------------------------------------------------------------------------------

create function queue.jwk(p_key queue.signing_keys) returns jsonb
language sql immutable set search_path = '' as $$
  select jsonb_strip_nulls(jsonb_build_object('kty', 'OKP', 'crv', 'Ed25519', 'x', p_key.x, 'kid', p_key.kid,
    'use', 'sig', 'alg', 'EdDSA', 'nbf', floor(extract(epoch from p_key.not_before))::bigint,
    'exp', ceil(extract(epoch from p_key.not_after))::bigint,
    'revoked_at', ceil(extract(epoch from p_key.revoked_at))::bigint, 'last', p_key.last_numbers))
$$;
comment on function queue.jwk is 'A public key as RFC 8037 writes it, with nbf and, once replaced, exp in seconds since 1970; revoked_at and last, the last number it signed per digest of a workspace''s id, once revoked.';

create function queue.show_signing_keys(p_chain text) returns jsonb
language sql stable
security definer -- no role holds rights on the keys
set search_path = '' as $$
  select jsonb_build_object('keys', coalesce(jsonb_agg(queue.jwk(k) order by k.not_before desc, k.kid), '[]'))
  from queue.signing_keys as k where k.chain = p_chain
$$;
comment on function queue.show_signing_keys is 'Every public key that ever signed receipts of a chain, newest first, as a JWK set.';

create function public.signing_keys() returns jsonb
language sql stable set search_path = ''
begin atomic
  select queue.show_signing_keys('jobs');
end;
comment on function public.signing_keys is 'Every public key that ever signed a job''s receipt, newest first, as a JWK set (RFC 7517); for anyone.';

create function queue.current_key(p_chain text) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object('kid', k.kid, 'x', k.x, 'sealed', k.sealed)
  from queue.signing_keys as k where k.chain = p_chain and k.not_after is null
$$;
comment on function queue.current_key is 'The key that signs, its private half sealed; null when there is none yet.';

create function public.add_signing_key(p_chain text, p_key jsonb) returns jsonb
language plpgsql
security definer -- no role holds rights on the keys
set search_path = '' as $$
declare
  v_x text := p_key ->> 'x';
  v_jwk text := format('{"crv":"Ed25519","kty":"OKP","x":"%s"}', v_x);
  v_kid text := translate(rtrim(encode(sha256(convert_to(v_jwk, 'UTF8')), 'base64'), '='), '+/', '-_');
begin
  if coalesce(v_x, '') !~ '^[A-Za-z0-9_-]{43}$' or p_key ->> 'kid' is distinct from v_kid
    or coalesce(length(p_key ->> 'sealed'), 0) not between 20 and 4000
    or coalesce(p_chain, '') !~ '^[a-z][a-z0-9_]{0,62}$' then
    perform queue.refuse(400, 'invalid_argument',
      'a key must have x, the kid of x by RFC 7638, and its sealed private half; a chain a short name', 'key');
  end if;
  perform pg_advisory_xact_lock(hashtextextended('signing_keys', 0));
  -- when another worker was first, its key is the one
  -- valid from a little earlier: the worker that signs says when by its own clock, which may be late
  insert into queue.signing_keys (kid, chain, x, sealed, not_before)
  select v_kid, p_chain, v_x, p_key ->> 'sealed', queue.clock() - interval '5 minutes'
  where not exists (select 1 from queue.signing_keys where chain = p_chain and not_after is null);
  return queue.current_key(p_chain);
end;
$$;
comment on function public.add_signing_key is 'Add a signing key {kid, x, sealed} of a chain unless it has one; returns the current one. For the worker.';

create function public.retire_signing_key(p_chain text default 'jobs') returns jsonb
language plpgsql
security definer -- no role holds rights on the keys
set search_path = '' as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('signing_keys', 0));
  -- what has just ended may still be signed by it
  update queue.signing_keys set not_after = queue.clock() + interval '1 hour'
  where chain = p_chain and not_after is null;
  return queue.show_signing_keys(p_chain);
end;
$$;
comment on function public.retire_signing_key is E'Let no new receipt be signed by a chain''s current key; returns the public keys. For the operator.\n\nThe next receipt''s worker makes a new one. The retired key is valid for an hour more, and listed permanently.';

create function public.revoke_signing_key(p_kid text) returns jsonb
language plpgsql
security definer -- no role holds rights on the keys
set search_path = '' as $$
declare
  v_now timestamptz := queue.clock();
  v_chain text;
begin
  perform pg_advisory_xact_lock(hashtextextended('signing_keys', 0));
  update queue.signing_keys as k
  set revoked_at = coalesce(revoked_at, v_now), not_after = least(not_after, v_now),
    last_numbers = coalesce(last_numbers, (
      select coalesce(jsonb_object_agg(queue.digest(c.workspace_id::text), c.last_by_key -> p_kid), '{}')
      from queue.chains as c where c.chain = k.chain and c.last_by_key ? p_kid))
  where kid = p_kid returning chain into v_chain;
  if not found then
    perform queue.refuse(404, 'key_not_found', 'no key has this id', p_kid);
  end if;
  return queue.show_signing_keys(v_chain);
end;
$$;
comment on function public.revoke_signing_key is E'Trust nothing that a key signs from now on; returns the public keys of its chain. For the operator.\n\nWhat it signed before stays valid up to the last number of each workspace: a stolen key cannot lengthen a chain, also not with an earlier date.';

-- Chains ---------------------------------------------------------------------------------------------------

create function queue.chain_end(p_chain text, p_workspace_id uuid) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object('number', coalesce(max(c.number), 0), 'digest', max(c.digest))
  from queue.chains as c where c.workspace_id = p_workspace_id and c.chain = p_chain
$$;
comment on function queue.chain_end is 'The end of a workspace''s chain: {number, digest}.';

create function queue.extend_chain(p_chain text, p_receipt jsonb) returns text
language plpgsql set search_path = '' as $$
declare
  v_workspace_id uuid := (p_receipt ->> 'workspace_id')::uuid;
  v_end queue.chains;
  v_digest text;
begin
  insert into queue.chains (workspace_id, chain) values (v_workspace_id, p_chain) on conflict do nothing;
  -- held to the end: the chain's order is the order of the commits
  select * into v_end from queue.chains where workspace_id = v_workspace_id and chain = p_chain for update;
  if (p_receipt ->> 'number')::numeric is distinct from v_end.number + 1
    or p_receipt #>> '{hashes,previous}' is distinct from v_end.digest then
    return null;
  end if;
  v_digest := queue.digest(queue.canonical(p_receipt));
  update queue.chains set number = v_end.number + 1, digest = v_digest,
    last_by_key = last_by_key || jsonb_build_object(p_receipt ->> 'key_id', v_end.number + 1)
  where workspace_id = v_workspace_id and chain = p_chain;
  return v_digest;
end;
$$;
comment on function queue.extend_chain is 'Make a receipt the end of its workspace''s chain, and return its digest; null when another receipt was added meanwhile.';

create function queue.signing_problem(p_chain text, p_receipt jsonb, p_format text, p_now timestamptz) returns text[]
language plpgsql stable set search_path = '' as $$
begin
  if jsonb_typeof(p_receipt) is distinct from 'object' or p_receipt ->> 'format' is distinct from p_format
    or coalesce(p_receipt ->> 'signature', '') !~ '^[A-Za-z0-9_-]{86}$' then
    return array['format', format('must be %s with an Ed25519 signature', p_format)];
  elsif not exists (select 1 from queue.signing_keys as k
      where k.kid = p_receipt ->> 'key_id' and k.chain = p_chain and k.revoked_at is null
      and (k.not_after is null or k.not_after > greatest(p_now, (p_receipt ->> 'issued_at')::timestamptz))) then
    return array['key_id', 'must be a key that signs at present'];
  elsif abs(extract(epoch from (p_receipt ->> 'issued_at')::timestamptz - p_now)) > 300 then
    return array['issued_at', 'must be now'];
  end if;
  return null;
end;
$$;
comment on function queue.signing_problem is 'What is wrong in how a receipt was signed, as {field, problem}; null when nothing is. The signature itself is checked by its readers.';

create function queue.refuse_receipt(p_problem text[]) returns void
language plpgsql set search_path = '' as $$
begin
  if p_problem is not null then
    perform queue.refuse(case p_problem[1] when 'key_id' then 409 else 422 end,
      case p_problem[1] when 'key_id' then 'key_retired' else 'receipt_invalid' end,
      p_problem[1] || ' ' || p_problem[2], p_problem[1]);
  end if;
end;
$$;
comment on function queue.refuse_receipt is 'Refuse a receipt for {field, problem}; nothing for null.';

-- Receipts of jobs -----------------------------------------------------------------------------------------

create function queue.stated(p_job public.jobs) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object('format', 'minutehand-receipt/1', 'workspace_id', p_job.workspace_id,
    'job_id', p_job.id, 'job_type', p_job.job_type, 'parent_id', p_job.parent_id, 'attempt', p_job.attempts,
    'created_at', queue.instant(p_job.created_at), 'children', coalesce(jsonb_agg(jsonb_build_object(
      'job_id', c.id, 'job_type', c.job_type, 'status', c.status, 'receipt', r.digest) order by c.id)
      filter (where c.id is not null), '[]'))
  from (select p_job.id) as own
  left join public.jobs as c on c.parent_id = own.id
  left join lateral (
    select r.digest from queue.receipts as r where r.job_id = c.id order by r.number desc limit 1) as r on true
$$;
comment on function queue.stated is 'What a job''s receipt states beside the digests: it closes over every child, with the digest of its receipt.';

create function queue.add_receipt(
  p_job public.jobs, p_receipt jsonb, p_stated jsonb, p_finished_at timestamptz, p_now timestamptz
) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_digest text;
begin
  perform queue.refuse_receipt(coalesce(
    queue.signing_problem('jobs', p_receipt, p_stated ->> 'format', p_now),
    case when p_receipt - array['id', 'number', 'issued_at', 'software', 'hashes', 'key_id', 'signature']
        is distinct from p_stated then array['job_id', 'and the rest must be what the job came to'] end));
  v_digest := queue.extend_chain('jobs', p_receipt);
  if v_digest is null then
    return null;
  end if;
  insert into queue.receipts (workspace_id, number, job_id, finished_at, receipt, digest, issued_at)
  values (p_job.workspace_id, queue.big_whole_in(p_receipt, 'number'), p_job.id, p_finished_at, p_receipt, v_digest,
    (p_receipt ->> 'issued_at')::timestamptz);
  return p_receipt;
exception
  when invalid_text_representation or invalid_datetime_format or datetime_field_overflow
    or numeric_value_out_of_range then
    perform queue.refuse(422, 'receipt_invalid', 'a value has the wrong type: ' || sqlerrm, 'receipt');
end;
$$;
comment on function queue.add_receipt is 'Store a receipt of a job at its chain''s end and return it; null when another receipt was added meanwhile. Refuse with 422 one that does not state p_stated.';

create function public.issue_receipt(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the engine's tables
set search_path = ''
set lock_timeout = '8s' as $$
declare
  v_job public.jobs := queue.held_job(p_request, null, 'no receipt was issued');
  v_receipt jsonb := p_request -> 'receipt';
  v_now timestamptz := queue.clock();
  v_stated jsonb := queue.stated(v_job);
  v_made jsonb;
begin
  select r.receipt into v_made from queue.receipts as r where r.job_id = v_job.id and r.finished_at is null;
  if v_made is null and jsonb_array_length(v_stated -> 'children') > 1000 then
    perform queue.refuse_receipt(array['children', 'must be at most 1000']);
  elsif v_made is null and v_receipt is not null then
    v_made := queue.add_receipt(v_job, v_receipt, v_stated, null, v_now);
  end if;
  return jsonb_build_object('issued', v_made is not null, 'receipt', v_made, 'stated', v_stated,
    'payload', v_job.payload, 'result', p_request -> 'result', 'now', v_now, 'key', queue.current_key('jobs'),
    'head', queue.chain_end('jobs', v_job.workspace_id));
end;
$$;
comment on function public.issue_receipt is E'Store the signed receipt of a leased job {job_id, fence, receipt?, result?}, once: {issued: true, receipt, …}, or {issued: false, stated, payload, result, key, head, now} to be signed after that head; for the worker.\n\nresult is given back as the database keeps it.';

create function queue.closing(p_job public.jobs) returns jsonb
language sql stable set search_path = '' as $$
  select own.stated || jsonb_build_object('format', 'minutehand-closing/1', 'status', p_job.status,
    'reason', left(p_job.error_data ->> 'reason', 200), 'finished_at', queue.instant(p_job.finished_at),
    'asked', count(c.value), 'reached', count(*) filter (where c.value ->> 'status' = 'completed'),
    'failed', count(*) filter (where c.value ->> 'status' <> 'completed'),
    'children', coalesce(jsonb_agg(c.value order by c.ordinality) filter (where c.ordinality <= 1000), '[]'))
  from (select queue.stated(p_job) as stated) as own
  left join lateral jsonb_array_elements(own.stated -> 'children') with ordinality as c on true
  group by own.stated
$$;
comment on function queue.closing is 'What a job''s closing receipt states beside the digests: how it ended and why, and what became of its children; the first thousand are named.';

create function queue.closing_turn(p_job public.jobs) returns text
language sql stable set search_path = '' as $$
  select case
    when p_job.finished_at is null or p_job.status = 'completed' -- deleted, or retried: its next end is noted again
      or exists (select 1 from queue.receipts as r
        where r.job_id = p_job.id and (r.finished_at is null or r.finished_at = p_job.finished_at))
      or (select r.receipt -> 'children' from queue.receipts as r
        where r.job_id = p_job.parent_id order by r.number desc limit 1)
        @> jsonb_build_array(jsonb_build_object('job_id', p_job.id, 'status', p_job.status)) then 'never'
    when exists (select 1 from public.jobs as c where c.parent_id = p_job.id and c.finished_at is null)
      or exists (select 1 from queue.unclosed as u where u.job_id = p_job.parent_id)
      or exists (select 1 from public.jobs as p join queue.job_types as t on t.job_type = p.job_type and t.signed
        where p.id = p_job.parent_id and p.finished_at is null) then 'later'
    else 'now' end
$$;
comment on function queue.closing_turn is 'When to close an ended job: now; later, while a child of it or a parent that will name it has not ended; or never.';

create function queue.next_unclosed(p_now timestamptz) returns uuid
language plpgsql set search_path = '' as $$
declare
  v_id uuid;
  v_job public.jobs;
  v_turn text;
begin
  for v_tries in 1 .. 100 loop
    select u.job_id into v_id from queue.unclosed as u where u.look_at <= p_now
    order by u.look_at limit 1 for update skip locked;
    exit when not found;
    select * into v_job from public.jobs where id = v_id;
    v_turn := queue.closing_turn(v_job);
    if v_turn = 'never' then
      delete from queue.unclosed where job_id = v_id;
    else
      -- also where it is its turn: one that cannot be signed must not keep the others waiting
      update queue.unclosed set look_at = p_now + interval '10 seconds' where job_id = v_id;
      if v_turn = 'now' then
        return v_id;
      end if;
    end if;
  end loop;
  return null;
end;
$$;
comment on function queue.next_unclosed is 'The next job to close, which is offered again ten seconds later; null when there is none.';

create function public.close_receipt(p_job_id uuid default null, p_receipt jsonb default null) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the engine's tables
set search_path = ''
set lock_timeout = '8s' as $$
declare
  v_now timestamptz := queue.clock();
  v_id uuid := coalesce(p_job_id, queue.next_unclosed(v_now));
  v_job public.jobs;
  v_stated jsonb;
  v_made jsonb;
begin
  perform 1 from queue.unclosed where job_id = v_id for update;
  select j.* into v_job from public.jobs as j where j.id = v_id and found;
  if queue.closing_turn(v_job) <> 'now' then
    return jsonb_build_object('issued', false);
  end if;
  v_stated := queue.closing(v_job);
  if p_receipt is not null then
    v_made := queue.add_receipt(v_job, p_receipt, v_stated, v_job.finished_at, v_now);
    delete from queue.unclosed where job_id = v_id and v_made is not null;
  end if;
  return jsonb_build_object('issued', v_made is not null, 'receipt', v_made, 'stated', v_stated,
    'payload', v_job.payload, 'result', v_job.error_message, 'now', v_now, 'key', queue.current_key('jobs'),
    'head', queue.chain_end('jobs', v_job.workspace_id));
end;
$$;
comment on function public.close_receipt is E'Store the signed receipt that closes a job of a signed type which failed or was cancelled: {issued: true, receipt, …}, or {issued: false, stated, payload, result, key, head, now} to be signed after that head; for the worker.\n\nWithout p_job_id the next one; head is absent when there is nothing to close. result is the error''s message.';

create function queue.show_receipt(p_job_id uuid) returns jsonb
language plpgsql stable
security definer -- no role holds rights on the receipts
set search_path = '' as $$
declare
  v_made queue.receipts;
  v_job public.jobs;
begin
  select * into v_made from queue.receipts where job_id = p_job_id order by number desc limit 1;
  if not found or not (queue.is_member(v_made.workspace_id) or auth.uid() is null and queue.is_service()) then
    perform queue.refuse(404, 'receipt_not_found', 'no such receipt');
  end if;
  select * into v_job from public.jobs where id = p_job_id;
  return jsonb_build_object('format', 'minutehand-bundle/1', 'receipt', v_made.receipt, 'children', (
      select coalesce(jsonb_agg(r.receipt order by r.number), '[]')
      from jsonb_array_elements(v_made.receipt -> 'children') as c
      join queue.receipts as r on r.job_id = (c.value ->> 'job_id')::uuid and r.digest = c.value ->> 'receipt'))
    || case -- one that was retried since may have another payload
      when v_made.finished_at is null and v_job.status = 'completed'
        then jsonb_build_object('payload', v_job.payload, 'result', v_job.result)
      when v_made.finished_at = v_job.finished_at
        then jsonb_build_object('payload', v_job.payload, 'result', v_job.error_message)
      when v_made.finished_at is null and v_job.id is not null then jsonb_build_object('payload', v_job.payload)
      else '{}' end;
end;
$$;
comment on function queue.show_receipt is 'Body of public.job_receipt, with rights that callers do not have.';

create function public.job_receipt(p_job_id uuid) returns jsonb
language sql stable set search_path = ''
begin atomic
  select queue.show_receipt(p_job_id);
end;
comment on function public.job_receipt is E'A job''s receipt with what it vouches for: {format, receipt, children, payload?, result?}. For members; 404 receipt_not_found.\n\nFor a job that failed or was cancelled the receipt closes it, and result is the error''s message. payload is absent once the job is deleted, result also while it has not ended.';

create function queue.show_receipts(p_workspace_id uuid, p_after bigint) returns jsonb
language plpgsql stable
security definer -- no role holds rights on the receipts
set search_path = '' as $$
begin
  perform queue.take_turn();
  perform queue.may_steer(p_workspace_id);
  return jsonb_build_object('receipts', (select coalesce(jsonb_agg(r.receipt order by r.number), '[]') from (
    -- one may have a thousand children: what is one answer is bounded by them, too
    select o.receipt, o.number, sum(jsonb_array_length(o.receipt -> 'children')) over (order by o.number)
      - jsonb_array_length(o.receipt -> 'children') as before
    from (select * from queue.receipts as a where a.workspace_id = p_workspace_id and a.number > p_after
      order by a.number limit 500) as o) as r where r.before < 10000));
end;
$$;
comment on function queue.show_receipts is 'Body of public.job_receipts, with rights that callers do not have.';

create function public.job_receipts(p_workspace_id uuid, p_after numeric default 0) returns jsonb
language sql stable set search_path = ''
begin atomic
  select queue.show_receipts(p_workspace_id, queue.big_whole(p_after, 'p_after'));
end;
comment on function public.job_receipts is 'A workspace''s chain of receipts in order, at most 500 after number p_after, and fewer where they have many children: {receipts}. For members.';

select queue.allow('anon, authenticated, service_role', 'queue.show_signing_keys', 'public.signing_keys');
select queue.allow('authenticated, service_role', 'queue.show_receipt', 'public.job_receipt', 'queue.show_receipts',
  'public.job_receipts');
select queue.allow('job_worker, service_role', 'public.add_signing_key', 'public.issue_receipt',
  'public.close_receipt');
select queue.allow('service_role', 'public.retire_signing_key', 'public.revoke_signing_key');
