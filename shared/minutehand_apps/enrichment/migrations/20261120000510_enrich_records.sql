-- Enriching a record: who may ask for it, what the worker reads, pays and writes.
-- A call is paid once whatever happens to its job, and a person's edit is never overwritten.

-- No reference to jobs: the record of what was paid outlives the job's retention. The answer does not.
create table enrichment.calls (
  job_id uuid not null, -- the job that called
  step text not null, -- the call's name within the job
  fence bigint not null, -- the lease under which it was called
  workspace_id uuid not null references public.workspaces (id) on delete cascade, -- the workspace that pays
  started_at timestamptz not null default now(), -- when the call was about to be made, UTC
  answered_at timestamptz, -- when Apollo's answer was recorded, UTC; null when none came
  credits integer, -- credits the answer cost; null when none came
  -- the answer, which a later attempt uses instead of paying again; null when none came, and when the job is deleted:
  -- it may describe a person
  answer jsonb,
  constraint calls_one_per_attempt primary key (job_id, step, fence),
  constraint calls_answers_are_whole check (
    (answered_at is null) = (credits is null) and (answered_at is not null or answer is null)
  ),
  constraint calls_cost_is_a_count check (credits >= 0)
);
comment on table enrichment.calls is E'Every call to Apollo, one row per job, step and attempt.\n\nA row without an answer is a call whose worker died or timed out: Apollo may or may not have charged it.';

create index calls_by_workspace on enrichment.calls (workspace_id, answered_at);

create function enrichment.forget_answers() returns trigger
language plpgsql
security definer -- the ledger is closed to every role
set search_path = ''
as $$
declare
  v_ids constant uuid[] := array(
    select removed.id from removed where removed.job_type in ('enrich_account', 'enrich_contact')
  );
begin
  if cardinality(v_ids) > 0 then
    update enrichment.calls as calls set answer = null
    where calls.job_id = any (v_ids) and calls.answer is not null;
  end if;
  return null;
end;
$$;
comment on function enrichment.forget_answers is 'Trigger: what Apollo answered goes with its job; what it cost stays.';
create trigger enrichment_forget_answers
after delete on public.jobs
referencing old table as removed
for each statement execute function enrichment.forget_answers();

create function enrichment.record_job(p_kind text, p_id uuid, p_term text) returns jsonb
language sql immutable
set search_path = ''
as $$
  select jsonb_build_object(
    'job_type', 'enrich_' || p_kind,
    'payload', jsonb_strip_nulls(jsonb_build_object(
      p_kind || '_id', p_id, case p_kind when 'account' then 'domain' else 'email' end, p_term)),
    'unique', jsonb_build_object(
      'key', format('enrich_%s:%s', p_kind, p_id), 'until', 'finished', 'on_conflict', 'skip')
  );
$$;
comment on function enrichment.record_job is 'The job that enriches an account or a contact, as enqueue_jobs takes it: one live job per record.';

create function enrichment.enqueue_one(p_workspace_id uuid, p_job jsonb) returns jsonb
language sql
set search_path = ''
as $$
  select public.enqueue_job(p_workspace_id, p_job ->> 'job_type', p_job -> 'payload',
    p_job - '{job_type,payload}'::text[])
$$;
comment on function enrichment.enqueue_one is 'Enqueue a job that record_job made, as the caller.';

-- A new account and its job are one transaction: neither exists without the other.
create function enrichment.enqueue_new_accounts() returns trigger
language plpgsql
security definer -- reads the settings past row level security
set search_path = ''
as $$
declare
  v_batch record;
begin
  if coalesce(current_setting('enrichment.importing', true), '') = 'on' then
    return null; -- an import enqueues for its new and its updated accounts alike
  end if;
  for v_batch in
    select wanted.workspace_id, jsonb_agg(wanted.job order by wanted.id) as jobs
    from (
      select
        fresh.workspace_id,
        fresh.id,
        enrichment.record_job('account', fresh.id, fresh.domain) as job,
        (row_number() over (partition by fresh.workspace_id order by fresh.id) - 1) / 1000 as chunk
      from fresh
      inner join public.workspace_settings as settings on settings.workspace_id = fresh.workspace_id
      where settings.apollo_auto_enrich and fresh.domain is not null
    ) as wanted
    group by wanted.workspace_id, wanted.chunk
    order by wanted.workspace_id, wanted.chunk
  loop
    perform public.enqueue_jobs(v_batch.workspace_id, v_batch.jobs, 'ids');
  end loop;
  return null;
end;
$$;
comment on function enrichment.enqueue_new_accounts is 'Enqueue enrichment for new accounts where the workspace asked for it.';

create trigger accounts_enqueue_their_enrichment
after insert on public.accounts
referencing new table as fresh
for each statement execute function enrichment.enqueue_new_accounts();

create function enrichment.held_job(p_job_id uuid, p_fence bigint) returns public.jobs
language sql
set search_path = ''
as $$
  select queue.held_job(jsonb_build_object('job_id', p_job_id, 'fence', p_fence),
    array['enrich_account', 'enrich_contact', 'import_accounts'], 'nothing was stored')
$$;
comment on function enrichment.held_job is 'queue.held_job for the jobs of this app: what follows is stored by the lease''s holder only.';

-- The fields Apollo may set: returned, not edited since the job was made, not changed since they were read.
create function enrichment.applicable(
  p_row jsonb, p_seen jsonb, p_fields jsonb, p_allowed text[], p_since timestamptz
) returns jsonb
language sql immutable
set search_path = ''
as $$
  select coalesce(jsonb_object_agg(field.key, field.value), '{}')
  from jsonb_each(p_fields) as field
  where field.key = any(p_allowed)
    and jsonb_typeof(field.value) <> 'null'
    -- as it was read, or as a first sending of this very update left it
    and (p_row -> field.key is not distinct from p_seen -> field.key or p_row -> field.key = field.value)
    and coalesce((p_row -> 'edited_at' ->> field.key)::timestamptz < p_since, true);
$$;
comment on function enrichment.applicable is 'Which of Apollo''s fields may overwrite the row''s.';

create function public.enrich_account(p_account_id uuid) returns jsonb
language plpgsql
security invoker -- row level security decides which account exists for the caller
set search_path = ''
as $$
declare
  v_account public.accounts;
begin
  select accounts.* into v_account from public.accounts as accounts where accounts.id = p_account_id;
  if not found then
    raise exception sqlstate 'PT404' using message = 'Account not found.', hint = 'account_not_found';
  end if;
  return enrichment.enqueue_one(
    v_account.workspace_id, enrichment.record_job('account', v_account.id, v_account.domain));
end;
$$;
comment on function public.enrich_account is E'Enqueue one account''s enrichment.\n\nReturns the live job, with created false, when there is one.';

create function public.enrich_contact(p_contact_id uuid) returns jsonb
language plpgsql
security invoker -- row level security decides which contact exists for the caller
set search_path = ''
as $$
declare
  v_contact public.contacts;
begin
  select contacts.* into v_contact from public.contacts as contacts where contacts.id = p_contact_id;
  if not found then
    raise exception sqlstate 'PT404' using message = 'Contact not found.', hint = 'contact_not_found';
  end if;
  return enrichment.enqueue_one(
    v_contact.workspace_id, enrichment.record_job('contact', v_contact.id, v_contact.email));
end;
$$;
comment on function public.enrich_contact is E'Enqueue one contact''s enrichment.\n\nReturns the live job, with created false, when there is one.';

create function public.enrich_accounts(p_workspace_id uuid, p_selection jsonb) returns jsonb
language plpgsql
security invoker -- row level security decides which accounts exist for the caller
set search_path = ''
as $$
declare
  -- a member has no right on the engine's functions
  v_limit constant integer := least(coalesce((p_selection ->> 'limit')::numeric::integer, 1000), 1000);
  v_filter constant jsonb := coalesce(p_selection -> 'filter', '{}');
  v_chosen uuid[];
  v_jobs jsonb;
  v_answer jsonb := '{"jobs": [], "wake": false}';
begin
  perform enrichment.require_member(p_workspace_id, false);
  select array_agg(chosen.id order by chosen.id) into v_chosen
  from (
    select accounts.id
    from public.accounts as accounts
    where accounts.workspace_id = p_workspace_id
      and (
        not p_selection ? 'account_ids'
        or accounts.id in (select ids.id::uuid from jsonb_array_elements_text(p_selection -> 'account_ids') as ids (id))
      )
      and (v_filter ->> 'enriched' is null or (accounts.enriched_at is not null) = (v_filter ->> 'enriched')::boolean)
      and (v_filter ->> 'industry' is null or accounts.industry = v_filter ->> 'industry')
      and (v_filter ->> 'country' is null or accounts.country = v_filter ->> 'country')
      and (v_filter ->> 'created_after' is null or accounts.created_at > (v_filter ->> 'created_after')::timestamptz)
      and (p_selection ->> 'after' is null or accounts.id > (p_selection ->> 'after')::uuid)
      and (p_selection ? 'account_ids' or accounts.domain is not null)
    order by accounts.id
    limit v_limit + 1
  ) as chosen;
  select jsonb_agg(enrichment.record_job('account', accounts.id, accounts.domain) order by accounts.id) into v_jobs
  from public.accounts as accounts
  where accounts.id = any(v_chosen[:v_limit]);
  if v_jobs is not null then
    v_answer := public.enqueue_jobs(p_workspace_id => p_workspace_id, p_jobs => v_jobs);
  end if;
  return v_answer || jsonb_build_object(
    'count', jsonb_array_length(v_answer -> 'jobs'),
    'next', case when cardinality(v_chosen) > v_limit then v_chosen[v_limit] end
  );
end;
$$;
comment on function public.enrich_accounts is E'Enqueue the enrichment of a selection: one job per account, none twice while one is under way.\n\np_selection holds account_ids or filter {enriched, industry, country, created_after}, limit (at most 1000) and after; next is the value for after of the following call, null at the end.';

create function public.enrichment_load(p_job_id uuid, p_fence numeric, p_kind text, p_id uuid) returns jsonb
language plpgsql
security definer -- reads the ciphertext for the worker, bound to the job's own workspace
set search_path = ''
as $$
declare
  v_workspace_id constant uuid := (enrichment.held_job(p_job_id, queue.big_whole(p_fence, 'p_fence'))).workspace_id;
begin
  return (
    select jsonb_build_object(
      'account', (
        select to_jsonb(accounts) from public.accounts as accounts
        where p_kind = 'account' and accounts.id = p_id and accounts.workspace_id = v_workspace_id
      ),
      'contact', (
        select to_jsonb(contacts) from public.contacts as contacts
        where p_kind = 'contact' and contacts.id = p_id and contacts.workspace_id = v_workspace_id
      ),
      'sealed_key', settings.apollo_api_key_encrypted,
      'apollo_client', settings.apollo_client,
      'paused_seconds', extract(epoch from settings.apollo_paused_until - queue.clock())
    )
    from (values (v_workspace_id)) as asked (workspace_id)
    left join public.workspace_settings as settings on settings.workspace_id = asked.workspace_id
  );
end;
$$;
comment on function public.enrichment_load is E'Load a leased job''s account or contact with its workspace''s Apollo settings.\n\nThe record is null when it is missing or another workspace''s.';

create function public.enrichment_begin_call(p_job_id uuid, p_fence numeric, p_step text) returns jsonb
language plpgsql
security definer -- the ledger is closed to every role
set search_path = ''
as $$
declare
  v_job constant public.jobs := enrichment.held_job(p_job_id, queue.big_whole(p_fence, 'p_fence'));
  v_answer jsonb;
begin
  select calls.answer into v_answer
  from enrichment.calls as calls
  where calls.job_id = p_job_id and calls.step = p_step and calls.answered_at is not null
  order by calls.fence
  limit 1;
  if v_answer is null then
    insert into enrichment.calls (job_id, step, fence, workspace_id, started_at)
    values (p_job_id, p_step, queue.big_whole(p_fence, 'p_fence'), v_job.workspace_id, queue.clock())
    on conflict (job_id, step, fence) do nothing;
  end if;
  return jsonb_build_object('answer', v_answer);
end;
$$;
comment on function public.enrichment_begin_call is 'Note that a call is about to be made, or return the answer that an earlier attempt paid for.';

create function public.enrichment_finish_call(
  p_job_id uuid, p_fence numeric, p_step text, p_answer jsonb, p_credits numeric
) returns jsonb
language plpgsql
security definer -- the ledger is closed to every role
set search_path = ''
as $$
declare
  v_credits constant integer := queue.whole(p_credits, 'p_credits');
  v_workspace_id uuid;
begin
  -- No lease is asked for: what was paid is paid, also when the lease expired or the job was deleted meanwhile.
  update enrichment.calls as calls
  set answered_at = queue.clock(), credits = v_credits,
    answer = case
      -- one that is being deleted is waited for, so that the answer is stored before or not at all
      when exists (select from public.jobs as jobs where jobs.id = p_job_id for key share) then p_answer end
  where calls.job_id = p_job_id and calls.step = p_step
    and calls.fence = queue.big_whole(p_fence, 'p_fence') and calls.answered_at is null
  returning calls.workspace_id into v_workspace_id;
  if found then
    insert into public.workspace_settings as settings (workspace_id, enrichment_credits_used)
    values (v_workspace_id, v_credits)
    on conflict (workspace_id) do update
    set enrichment_credits_used = settings.enrichment_credits_used + excluded.enrichment_credits_used;
  end if;
  return jsonb_build_object('counted', v_workspace_id is not null);
end;
$$;
comment on function public.enrichment_finish_call is E'Record a call''s answer and count its credits, in one transaction.\n\nA repetition counts nothing.';

create function public.enrichment_abandon_call(p_job_id uuid, p_fence numeric, p_step text) returns jsonb
language sql
security definer -- the ledger is closed to every role
set search_path = ''
as $$
  with gone as (
    delete from enrichment.calls as calls
    where calls.job_id = p_job_id and calls.step = p_step
      and calls.fence = queue.big_whole(p_fence, 'p_fence') and calls.answered_at is null
    returning calls.job_id
  )
  select jsonb_build_object('abandoned', count(*)) from gone;
$$;
comment on function public.enrichment_abandon_call is 'Forget a call that Apollo refused and therefore did not charge.';

create function public.enrichment_apply(
  p_job_id uuid, p_fence numeric, p_kind text, p_id uuid, p_seen jsonb, p_fields jsonb, p_metadata jsonb
) returns jsonb
language plpgsql
security definer -- the worker's role holds no rights on tables
set search_path = ''
set lock_timeout = '5s'
as $$
declare
  v_job public.jobs;
  v_row jsonb;
  v_allowed constant text[] := case p_kind when 'account'
    then '{name,industry,employee_count,annual_revenue,city,state,country}'::text[]
    else '{name,title,linkedin_url}' end;
  v_fields jsonb;
  v_metadata constant jsonb := p_metadata || jsonb_build_object('apollo_enriched_at', queue.clock());
begin
  -- Record before job: a person's unfinished edit is waited for without holding up the job's reports.
  if p_kind = 'account' then
    select to_jsonb(accounts) into v_row from public.accounts as accounts where accounts.id = p_id for update;
  else
    select to_jsonb(contacts) into v_row from public.contacts as contacts where contacts.id = p_id for update;
  end if;
  v_job := enrichment.held_job(p_job_id, queue.big_whole(p_fence, 'p_fence'));
  if v_row ->> 'workspace_id' = v_job.workspace_id::text then
    v_fields := enrichment.applicable(v_row, p_seen, p_fields, v_allowed, v_job.created_at);
    v_row := v_row || queue.plain(v_fields);
    perform set_config('enrichment.applying', 'on', true);
    if p_kind = 'account' then
      update public.accounts as accounts
      set (name, industry, employee_count, annual_revenue, city, state, country) = (
          select r.name, r.industry, r.employee_count, r.annual_revenue, r.city, r.state, r.country
          from jsonb_populate_record(null::public.accounts, v_row) as r),
        enriched_at = queue.clock(), metadata = accounts.metadata || v_metadata
      where accounts.id = p_id;
    else
      update public.contacts as contacts
      set (name, title, linkedin_url) = (
          select r.name, r.title, r.linkedin_url from jsonb_populate_record(null::public.contacts, v_row) as r),
        enriched_at = queue.clock(), metadata = contacts.metadata || v_metadata
      where contacts.id = p_id;
    end if;
    perform set_config('enrichment.applying', 'off', true);
  end if;
  return jsonb_build_object(
    'missing', v_fields is null,
    'updated', coalesce((select jsonb_agg(name order by name) from jsonb_object_keys(v_fields) as name), '[]'),
    'kept', coalesce((
      select jsonb_agg(field.key order by field.key) from jsonb_each(p_fields) as field
      where jsonb_typeof(field.value) <> 'null' and not coalesce(v_fields, '{}') ? field.key
    ), '[]')
  );
end;
$$;
comment on function public.enrichment_apply is E'Write Apollo''s fields to an account (p_kind account) or a contact, except what a person edited since the job was made.\n\np_seen is the row as the job loaded it. Returns which fields were updated, and which were kept or missing.';

create function public.enrichment_pause(p_job_id uuid, p_fence numeric, p_seconds double precision) returns jsonb
language plpgsql
security definer -- the worker's role holds no rights on tables
set search_path = ''
as $$
declare
  v_until timestamptz;
begin
  update public.workspace_settings as settings
  set apollo_paused_until = greatest(
    settings.apollo_paused_until, queue.clock() + make_interval(secs => least(p_seconds, 86400))
  )
  from public.jobs as jobs
  where jobs.id = p_job_id and settings.workspace_id = jobs.workspace_id
  returning settings.apollo_paused_until into v_until;
  -- Last, so that waiting for a person's edit does not hold up the job's reports; a zombie rolls back.
  perform enrichment.held_job(p_job_id, queue.big_whole(p_fence, 'p_fence'));
  return jsonb_build_object('paused_until', v_until);
end;
$$;
comment on function public.enrichment_pause is E'Note that Apollo asked the workspace''s key to wait, so that its other jobs wait without asking.\n\nFor the holder of the job''s lease; lease_lost for others.';

-- A manager's leave to open the workspace's key: the worker's role alone must not be enough.
create table enrichment.key_tickets (
  workspace_id uuid primary key references public.workspaces (id) on delete cascade, -- the workspace
  ticket uuid not null default gen_random_uuid(), -- what the API shows to read the sealed key
  expires_at timestamptz not null -- when it ends, UTC
);
comment on table enrichment.key_tickets is 'Leave that managers gave the API to open their stored key, for a minute.';

create function public.apollo_key_ticket(p_workspace_id uuid) returns jsonb
language plpgsql
security definer -- tickets are closed to every role
set search_path = ''
as $$
declare
  v_ticket uuid;
begin
  perform enrichment.require_member(p_workspace_id, true);
  insert into enrichment.key_tickets as tickets (workspace_id, expires_at)
  values (p_workspace_id, queue.clock() + interval '1 minute')
  on conflict (workspace_id) do update
  set
    -- two managers at once hold the same one
    ticket = case when tickets.expires_at > queue.clock() then tickets.ticket else excluded.ticket end,
    expires_at = excluded.expires_at
  returning tickets.ticket into v_ticket;
  return jsonb_build_object('ticket', v_ticket);
end;
$$;
comment on function public.apollo_key_ticket is E'Let the API open the stored Apollo key within a minute: {ticket}.\n\nFor managers of the workspace. The ticket opens nothing without the worker''s key.';

create function enrichment.key_workspace(p_request jsonb) returns uuid
language plpgsql
set search_path = ''
as $$
declare
  v_workspace_id uuid;
begin
  if p_request ->> 'ticket' is null then
    return (queue.held_job(p_request, array['reseal_apollo_key'], 'the key was not read')).workspace_id;
  end if;
  select tickets.workspace_id into v_workspace_id from enrichment.key_tickets as tickets
  where tickets.ticket = queue.uuid_or_refuse(p_request ->> 'ticket', 'ticket') and tickets.expires_at > queue.clock();
  if not found then
    perform queue.refuse(404, 'ticket_not_found', 'no such ticket, or it has expired');
  end if;
  return v_workspace_id;
end;
$$;
comment on function enrichment.key_workspace is 'The workspace whose key a request {job_id, fence} or {ticket} may read; lease_lost or 404 for others.';

create function public.enrichment_load_key(p_request jsonb) returns jsonb
language plpgsql
security definer -- reads the ciphertext for the service's own processes
set search_path = ''
as $$
declare
  v_workspace_id constant uuid := enrichment.key_workspace(p_request);
begin
  return jsonb_build_object('sealed_key', (
    select settings.apollo_api_key_encrypted from public.workspace_settings as settings
    where settings.workspace_id = v_workspace_id
  ));
end;
$$;
comment on function public.enrichment_load_key is E'A workspace''s sealed Apollo key, null while none is set: {sealed_key}.\n\nFor the holder of a lease on its reseal_apollo_key {job_id, fence}, or of a manager''s {ticket}, see apollo_key_ticket.';

create function public.reseal_apollo_key(p_workspace_id uuid) returns jsonb
language plpgsql
security definer -- the job's type is internal: only the platform enqueues it
set search_path = ''
as $$
declare
  v_done jsonb;
begin
  perform enrichment.require_member(p_workspace_id, true);
  v_done := queue.enqueue(p_workspace_id, null, jsonb_build_array(jsonb_build_object(
    'job_type', 'reseal_apollo_key', 'user_id', auth.uid()
  )), false);
  return jsonb_build_object(
    'job', (select to_jsonb(jobs) from public.jobs as jobs where jobs.id = (v_done #>> '{ids,0}')::uuid),
    'created', v_done #> '{created,0}', 'wake', v_done -> 'wake'
  );
end;
$$;
comment on function public.reseal_apollo_key is E'Seal the stored key again under the present wrapping key, by a job: {job, created, wake}.\n\nFor managers of the workspace.';

create function public.enrichment_swap_key(p_request jsonb) returns jsonb
language plpgsql
security definer -- writes the ciphertext for the worker
set search_path = ''
as $$
declare
  v_job constant public.jobs := queue.held_job(p_request, array['reseal_apollo_key'], 'the key was not replaced');
begin
  if coalesce(p_request ->> 'new', '') !~ '^mh1([.][A-Za-z0-9_=-]+){3}$' then
    perform queue.refuse(422, 'invalid_argument', 'new must be a sealed key', 'new');
  end if;
  update public.workspace_settings as settings
  set apollo_api_key_encrypted = p_request ->> 'new'
  where settings.workspace_id = v_job.workspace_id and settings.apollo_api_key_encrypted = p_request ->> 'old';
  return jsonb_build_object('swapped', found);
end;
$$;
comment on function public.enrichment_swap_key is E'Replace the sealed key of a leased reseal_apollo_key {job_id, fence, old, new} by the same key sealed again: {swapped}.\n\nDoes nothing when a manager set another key meanwhile.';

select queue.close_tables('enrichment.key_tickets', 'enrichment.calls');
revoke execute on all functions in schema enrichment from public, anon, authenticated, service_role;
select queue.allow('authenticated, service_role', 'enrichment.require_member', 'enrichment.record_job',
  'enrichment.enqueue_one', 'public.enrich_account', 'public.enrich_contact', 'public.enrich_accounts',
  'public.reseal_apollo_key', 'public.apollo_key_ticket');
select queue.allow('job_worker, service_role', 'public.enrichment_load', 'public.enrichment_begin_call',
  'public.enrichment_finish_call', 'public.enrichment_abandon_call', 'public.enrichment_apply',
  'public.enrichment_pause', 'public.enrichment_load_key', 'public.enrichment_swap_key');
