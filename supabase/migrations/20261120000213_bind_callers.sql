-- Limits on callers beyond membership: stolen worker keys, and people's rate limits.

create table queue.caller_buckets (
  caller text not null, -- a user's id
  name text not null, -- the limit: enqueues or stream_opens
  tokens double precision not null, -- tokens left at refilled_at
  refilled_at timestamptz not null, -- when tokens was computed
  primary key (caller, name)
) with (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0
);
create index caller_buckets_by_time on queue.caller_buckets (refilled_at);
comment on table queue.caller_buckets is 'Token buckets of people''s rate limits, one per caller and limit.';

insert into queue.settings (name, value) values
  ('user_enqueues_per_second', '50'), ('user_enqueues_burst', '10000'),
  ('user_stream_opens_per_second', '5'), ('user_stream_opens_burst', '100'), ('user_calls_at_once', '8');

create function queue.refuse_rate(p_name text, p_tokens double precision) returns void
language plpgsql stable set search_path = '' as $$
declare
  v_rate double precision := (queue.setting(format('user_%s_per_second', p_name)))::double precision;
begin
  perform queue.refuse(429, 'rate_limited',
    format('more than %s %s a second; wait a moment', v_rate, replace(p_name, '_', ' ')),
    jsonb_build_object('limit', p_name, 'per_second', v_rate, 'burst', queue.setting(format('user_%s_burst', p_name)),
      'retry_after_seconds', ceil(-p_tokens / v_rate))::text);
end;
$$;
comment on function queue.refuse_rate is 'Refuse with 429 rate_limited and {limit, per_second, burst, retry_after_seconds}. p_tokens is what is missing, below zero.';

create function queue.charge(p_caller text, p_name text, p_amount double precision) returns void
language plpgsql set search_path = '' as $$
declare
  v_now timestamptz := queue.clock();
  -- made here once, and not for each row of the settings
  v_rate_name constant text := 'user_' || p_name || '_per_second';
  v_burst_name constant text := 'user_' || p_name || '_burst';
  v_rate double precision;
  v_burst integer;
  v_tokens double precision;
begin
  select (select value from queue.settings where name = v_rate_name)::double precision,
    (select value from queue.settings where name = v_burst_name)::integer into v_rate, v_burst;
  if not pg_try_advisory_xact_lock(hashtextextended('minutehand ' || p_name || p_caller, 0)) then
    return; -- another of the caller's transactions is being charged: no one waits, and that one counts
  end if;
  insert into queue.caller_buckets as b (caller, name, tokens, refilled_at)
  values (p_caller, p_name, v_burst - p_amount, v_now)
  on conflict (caller, name) do update set refilled_at = v_now,
    tokens = queue.tokens(b.tokens, b.refilled_at, v_burst, v_burst / v_rate, v_now) - p_amount
  returning tokens into v_tokens;
  if v_tokens < 0 then -- the refusal rolls the charge back
    perform queue.refuse_rate(p_name, v_tokens);
  end if;
end;
$$;
comment on function queue.charge is E'Take tokens from a caller''s bucket, or refuse with 429 rate_limited.\n\nCalled last in a transaction: while one is charged, the same caller''s other transactions are not, so that none waits.';

create function queue.refuse_spent(p_workspace_id uuid, p_count bigint) returns void
language plpgsql stable set search_path = '' as $$
declare
  v_bucket queue.caller_buckets;
  v_tokens double precision;
  v_live integer;
begin
  if queue.is_service() then
    return; -- limits apply to people and guests, not to the service
  end if;
  select * into v_bucket from queue.caller_buckets as b where b.caller = auth.uid()::text and b.name = 'enqueues';
  if v_bucket.tokens < p_count then -- as many as it had when it was last charged; it may have been refilled since
    select queue.tokens(v_bucket.tokens, v_bucket.refilled_at, l.burst, l.burst / l.rate, queue.clock()) - p_count
    into v_tokens
    from (select (queue.setting('user_enqueues_burst'))::integer as burst,
      (queue.setting('user_enqueues_per_second'))::double precision as rate) as l;
    if v_tokens < 0 then
      perform queue.refuse_rate('enqueues', v_tokens);
    end if;
  end if;
  v_live := queue.counted_live(p_workspace_id);
  if v_live is not null and v_live > queue.pending_max(p_workspace_id) then
    perform queue.refuse_quota(p_workspace_id);
  end if;
end;
$$;
comment on function queue.refuse_spent is E'Refuse a person''s new jobs before they are made, when their rate limit or the quota would refuse them afterwards.\n\nA look without a lock, so that what is refused costs next to nothing; queue.check_quota and queue.charge_enqueues decide.';

create function queue.charge_enqueues(p_count bigint) returns void
language plpgsql set search_path = '' as $$
declare
  v_user constant uuid := auth.uid();
begin
  if v_user is not null and p_count > 0 then -- limits apply to people, not to the service
    perform queue.charge(v_user::text, 'enqueues', p_count);
  end if;
end;
$$;
comment on function queue.charge_enqueues is 'Charge a person''s rate limit for new jobs, in every way to enqueue.';

create function queue.take_turn() returns void
language plpgsql set search_path = ''
set lock_timeout = '3s' as $$
declare
  v_user uuid := auth.uid();
begin
  if v_user is null then
    return; -- limits apply to people, not to the service
  end if;
  for v_place in 1..(queue.setting('user_calls_at_once'))::integer loop
    if queue.try_lock(format('call %s of %s', v_place, v_user)) then
      perform pg_advisory_xact_lock(hashtextextended('minutehand turn of ' || v_user, 0));
      return;
    end if;
  end loop;
  raise lock_not_available;
exception
  when lock_not_available then
    perform queue.refuse(429, 'rate_limited', 'too many large calls at once; wait for their answers',
      jsonb_build_object('limit', 'calls_at_once', 'most', queue.setting('user_calls_at_once'),
        'retry_after_seconds', 1)::text);
end;
$$;
comment on function queue.take_turn is E'Wait for the caller''s other large calls, or refuse with 429 rate_limited.\n\nCalled first by the calls that read or write many rows. A person has one of them at a time, and user_calls_at_once with those that wait, for three seconds at most: however many they send, the rest of the database and of its connections stays for others.';

create function public.open_stream() returns jsonb
language plpgsql
security definer -- callers hold no rights on the engine's tables
set search_path = '' as $$
begin
  if auth.uid() is not null then
    perform queue.charge(auth.uid()::text, 'stream_opens', 1);
  end if;
  return jsonb_build_object('opened', true);
end;
$$;
comment on function public.open_stream is 'Charge the caller''s rate limit for a stream that they open, where each open stream holds an invocation: {opened}, or 429 rate_limited.';
select queue.allow('authenticated, service_role', 'public.open_stream');

create function queue.refuse_revoked() returns void
language plpgsql stable set search_path = '' as $$
declare
  v_claims jsonb := nullif(current_setting('request.jwt.claims', true), '');
  v_revoked jsonb;
begin
  if v_claims ->> 'role' is distinct from 'job_worker' then
    return;
  end if;
  v_revoked := queue.setting('worker_keys_revoked');
  if (v_claims ->> 'iat')::numeric >= (v_revoked ->> 'before')::numeric
    or extract(epoch from queue.clock()) < (v_revoked ->> 'from')::numeric
      and coalesce((v_claims ->> 'iat')::numeric, 0) >= (v_revoked ->> 'already')::numeric then
    return;
  elsif v_revoked is not null then
    perform queue.refuse(401, 'key_revoked', 'this worker key was revoked', 'SUPABASE_WORKER_KEY');
  end if;
end;
$$;
comment on function queue.refuse_revoked is E'Refuse a worker''s key that was issued before the last rotation with 401.\n\nNo function calls it by itself: queue.guard_workers makes it the first statement of each function granted to job_worker.';

create function public.revoke_worker_keys(p_before timestamptz, p_grace_seconds numeric default 0) returns jsonb
language plpgsql
security definer -- the service role holds no rights on the engine's tables
set search_path = '' as $$
declare
  v_now timestamptz := queue.clock();
  v_known jsonb := queue.setting('worker_keys_revoked');
  v_already numeric; -- older keys are refused now, and stay so whatever the grace of this call
  v_count integer;
begin
  if p_before is null or p_before > v_now + interval '1 minute'
      or queue.whole(p_grace_seconds, 'p_grace_seconds') not between 0 and 86400 then
    perform queue.refuse(400, 'invalid_argument',
      'p_before must not be in the future, and p_grace_seconds within a day', 'p_before');
  end if;
  v_already := greatest(0, (v_known ->> 'already')::numeric, case
    when (v_known ->> 'from')::numeric <= extract(epoch from v_now) then (v_known ->> 'before')::numeric end);
  insert into queue.settings (name, value, updated_at)
  values ('worker_keys_revoked', jsonb_build_object('already', v_already,
    -- keys that workers mint for themselves begin half a minute before their making
    'before', greatest(v_already, floor(extract(epoch from p_before)) - 60),
    'from', floor(extract(epoch from v_now)) + trunc(p_grace_seconds)), v_now)
  on conflict (name) do update set value = excluded.value, updated_at = excluded.updated_at;
  perform queue.renew_guest_key(); -- a worker's key reads it
  update queue.job_types set redefinable = true;
  get diagnostics v_count = row_count;
  return jsonb_build_object('revoked_before', p_before, 'from', v_now + make_interval(secs => p_grace_seconds),
    'types', v_count);
end;
$$;
comment on function public.revoke_worker_keys is E'Refuse worker keys issued before p_before, from p_grace_seconds on: {revoked_before, from, types}. For the operator.\n\nWhat an earlier call refuses by now stays refused. The next registration of each type replaces what is stored of it, so that what the holder of a stolen key registered is undone, including a newer schema_version and a type closed to people.';
select queue.allow('service_role', 'public.revoke_worker_keys');
