-- This file has the functions of enrichment jobs. The worker calls the functions to read records,
-- to record payments and to write results. A job pays for a call to Apollo at most once, and never
-- overwrites fields that a user has edited.

-- The table enrichment.calls has no foreign key to public.jobs, because the record of a payment
-- outlives its job. The column `answer` describes a person, so it is cleared when the job is
-- deleted.
create table enrichment.calls (
  job_id uuid not null,
  fence bigint not null, -- fence of the lease that made the call
  -- workspace that pays for the call to Apollo
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  started_at timestamptz not null default now(), -- time just before the call
  -- Time of Apollo's response. If no response arrived, the time is null, and it is unknown whether
  -- Apollo charged a credit.
  answered_at timestamptz,
  credits integer,
  -- Apollo's response. Later attempts of the job use the stored response, so that the workspace
  -- does not pay again. The response is cleared when the job is deleted.
  answer jsonb,
  constraint calls_one_per_attempt primary key (job_id, fence),
  constraint calls_answers_are_whole
    check ((answered_at is null) = (credits is null))
);
create index calls_by_workspace on enrichment.calls (workspace_id, answered_at);

create function enrichment.forget_answers()
returns trigger
language plpgsql
security definer -- no role has rights on the table
set search_path = ''
as $$
begin
  update enrichment.calls as c
  set answer = null
  where c.answer is not null
    and c.job_id in (
      select id
      from removed
      where job_type in ('enrich_account', 'enrich_contact')
    );
  return null;
end;
$$;
create trigger enrichment_forget_answers
  after delete on public.jobs
  referencing old table as removed
  for each statement
  execute function enrichment.forget_answers();

-- Return the job that enriches a record, in the form that public.enqueue_jobs accepts.
create function enrichment.job_of(p_kind text, p_row jsonb)
returns jsonb
language sql immutable
set search_path = ''
as $$
select jsonb_build_object(
  'job_type', 'enrich_' || p_kind,
  'payload', jsonb_strip_nulls(jsonb_build_object(
    p_kind || '_id', p_row -> 'id',
    t.term, p_row -> t.term
  )),
  'unique', jsonb_build_object( -- one unfinished job per record
    'key', format('enrich_%s:%s', p_kind, p_row ->> 'id'),
    'until', 'finished',
    'on_conflict', 'skip'
  )
)
from (values (case p_kind when 'account' then 'domain' else 'email' end)) as t (term)
$$;

create function enrichment.record(p_kind text, p_id uuid, p_lock boolean)
returns jsonb
language plpgsql
set search_path = ''
as $$
begin
  if p_kind = 'account' then
    perform 1
    from public.accounts
    where p_lock and id = p_id
    for update;
    return (
      select to_jsonb(a)
      from public.accounts as a
      where a.id = p_id
    );
  end if;
  perform 1
  from public.contacts
  where p_lock and id = p_id
  for update;
  return (
    select to_jsonb(c)
    from public.contacts as c
    where c.id = p_id
  );
end;
$$;

create function enrichment.enqueue(p_kind text, p_id uuid)
returns jsonb
language plpgsql
set search_path = ''
as $$ -- row level security decides which records the caller may see
declare
  v_row constant jsonb := enrichment.record(p_kind, p_id, false);
  v_job constant jsonb := enrichment.job_of(p_kind, v_row);
begin
  if v_row is null then
    raise exception sqlstate 'PT404'
      using message = initcap(p_kind) || ' not found.', hint = p_kind || '_not_found';
  end if;
  return public.enqueue_job(
    (v_row ->> 'workspace_id')::uuid,
    v_job ->> 'job_type',
    v_job -> 'payload',
    v_job - '{job_type,payload}'::text[]
  );
end;
$$;

create function public.enrich_account(p_account_id uuid)
returns jsonb
language sql
set search_path = ''
as $$
select enrichment.enqueue('account', p_account_id)
$$;
comment on function public.enrich_account is
  'Enqueue the enrichment of an account: {job, created, wake}. If a job is unfinished, it is '
  'returned with created false.';

create function public.enrich_contact(p_contact_id uuid)
returns jsonb
language sql
set search_path = ''
as $$
select enrichment.enqueue('contact', p_contact_id)
$$;
comment on function public.enrich_contact is
  'Enqueue the enrichment of a contact: {job, created, wake}. If a job is unfinished, it is '
  'returned with created false.';

-- Enqueue enrichment jobs for new accounts, in the transaction that inserts the accounts.
create function enrichment.enqueue_new_accounts()
returns trigger
language plpgsql
security definer -- the function reads the settings regardless of row level security
set search_path = ''
as $$
begin
  perform public.enqueue_jobs(
    a.workspace_id,
    jsonb_agg(enrichment.job_of('account', to_jsonb(a))),
    'ids'
  )
  from (
    select
      n.*,
      row_number() over (partition by n.workspace_id) as nth
    from added as n
    join public.workspace_settings as s on s.workspace_id = n.workspace_id
    where n.domain is not null and s.apollo_auto_enrich
  ) as a
  group by a.workspace_id, (a.nth - 1) / 1000;
  return null;
end;
$$;
create trigger accounts_enqueue_their_enrichment
  after insert on public.accounts
  referencing new table as added
  for each statement
  execute function enrichment.enqueue_new_accounts();

create function enrichment.held_job(p_request jsonb)
returns public.jobs
language sql
set search_path = ''
as $$
select queue.held_job(
  p_request,
  array['enrich_account', 'enrich_contact'],
  'nothing was stored'
)
$$;

-- Return the record that a job enriches, or null if there is no record with the id in the payload.
-- The id in the payload may be any text.
create function enrichment.record_of(p_request jsonb, p_lock boolean)
returns jsonb
language sql
set search_path = ''
as $$
select enrichment.record(
  p_request ->> 'kind',
  case
    when p_request ->> 'id' ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
      then (p_request ->> 'id')::uuid
  end,
  p_lock
)
$$;

create function public.enrichment_load(p_request jsonb)
returns jsonb
language plpgsql
security definer -- reads the ciphertext for the worker, only in the job's own workspace
set search_path = ''
as $$
declare
  v_job constant public.jobs := enrichment.held_job(p_request);
  v_row constant jsonb := enrichment.record_of(p_request, false);
begin
  perform queue.refuse_revoked();
  return (
    select jsonb_build_object(
      'record', case
        when v_row ->> 'workspace_id' = v_job.workspace_id::text then v_row
      end,
      'sealed_key', s.apollo_api_key_encrypted,
      'paused_seconds', extract(epoch from s.apollo_paused_until - queue.clock())
    )
    from (values (v_job.workspace_id)) as asked (workspace_id)
    left join public.workspace_settings as s on s.workspace_id = asked.workspace_id
  );
end;
$$;
comment on function public.enrichment_load is
  'The record of a leased job {job_id, fence, kind, id}, null if missing, with the settings for '
  'Apollo. For the worker.';

create function public.enrichment_begin_call(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_job constant public.jobs := enrichment.held_job(p_request);
  v_answer jsonb;
begin
  perform queue.refuse_revoked();
  select c.answer into v_answer
  from enrichment.calls as c
  where c.job_id = v_job.id and c.answered_at is not null
  order by c.fence
  limit 1;
  if v_answer is null then
    insert into enrichment.calls (job_id, fence, workspace_id, started_at)
    values (
      v_job.id,
      (p_request ->> 'fence')::bigint,
      v_job.workspace_id,
      queue.clock()
    )
    on conflict do nothing;
  end if;
  return jsonb_build_object('answer', v_answer);
end;
$$;
comment on function public.enrichment_begin_call is
  'Record that a call will be made, or return the {answer} that an earlier attempt paid for. For '
  'the worker.';

create function public.enrichment_finish_call(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_job constant public.jobs := enrichment.held_job(p_request);
begin
  perform queue.refuse_revoked();
  update enrichment.calls as c
  set
    answered_at = queue.clock(),
    credits = (p_request ->> 'credits')::integer,
    answer = p_request -> 'answer'
  where c.job_id = v_job.id
    and c.fence = (p_request ->> 'fence')::bigint
    and c.answered_at is null;
  if found then
    insert into public.workspace_settings as s (
      workspace_id, enrichment_credits_used
    )
    values (v_job.workspace_id, (p_request ->> 'credits')::integer)
    on conflict (
      workspace_id
    ) do update set enrichment_credits_used = s.enrichment_credits_used
      + excluded.enrichment_credits_used;
  end if;
  return jsonb_build_object('counted', found);
end;
$$;
comment on function public.enrichment_finish_call is
  'Record the answer of a leased job''s call {job_id, fence, answer, credits} and add its '
  'credits, once. For the worker.';

create function public.enrichment_abandon_call(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_job constant public.jobs := enrichment.held_job(p_request);
begin
  perform queue.refuse_revoked();
  delete from enrichment.calls
  where job_id = v_job.id
    and fence = (p_request ->> 'fence')::bigint
    and answered_at is null;
  return jsonb_build_object('abandoned', found::integer);
end;
$$;
comment on function public.enrichment_abandon_call is
  'Delete a leased job''s call {job_id, fence} that Apollo rejected and so did not charge. For the '
  'worker.';

create function public.enrichment_apply(p_request jsonb)
returns jsonb
language plpgsql
security definer -- the worker's role has no rights on the tables
set search_path = ''
set lock_timeout = '5s'
as $$
declare
  -- Lock the record before the job, so that reports on the job do not wait while a user edits the
  -- record.
  v_row constant jsonb := enrichment.record_of(p_request, true);
  v_job constant public.jobs := enrichment.held_job(p_request);
  v_fields jsonb;
  v_metadata constant jsonb := (p_request -> 'metadata') || jsonb_build_object(
    'apollo_enriched_at', queue.clock(),
    'apollo_fields', p_request -> 'fields'
  );
begin
  perform queue.refuse_revoked();
  if v_row ->> 'workspace_id' is distinct from v_job.workspace_id::text then
    return '{"missing": true, "updated": [], "kept": []}';
  end if;
  -- Write fields that no user has edited. Also write a field that a user emptied before the job was
  -- created.
  select coalesce(jsonb_object_agg(f.key, f.value), '{}')
  into v_fields
  from jsonb_each(p_request -> 'fields') as f
  where not v_row -> 'edited_at' ? f.key
    or v_row ->> f.key is null
      and (v_row -> 'edited_at' ->> f.key)::timestamptz < v_job.created_at;
  perform set_config('enrichment.applying', 'on', true);
  if p_request ->> 'kind' = 'account' then
    update public.accounts as a
    set
      (name, industry, employee_count, annual_revenue, city, state, country) = (
        select
          r.name,
          r.industry,
          r.employee_count,
          r.annual_revenue,
          r.city,
          r.state,
          r.country
        from jsonb_populate_record(null::public.accounts, v_row || v_fields) as r
      ),
      enriched_at = queue.clock(),
      metadata = a.metadata || v_metadata
    where a.id = (v_row ->> 'id')::uuid;
  else
    update public.contacts as c
    set
      (name, title, linkedin_url) = (
        select r.name, r.title, r.linkedin_url
        from jsonb_populate_record(null::public.contacts, v_row || v_fields) as r
      ),
      enriched_at = queue.clock(),
      metadata = c.metadata || v_metadata
    where c.id = (v_row ->> 'id')::uuid;
  end if;
  perform set_config('enrichment.applying', 'off', true);
  return jsonb_build_object(
    'missing', false,
    'updated', coalesce(
      (select jsonb_agg(n order by n) from jsonb_object_keys(v_fields) as n),
      '[]'
    ),
    'kept', coalesce(
      (
        select jsonb_agg(n order by n)
        from jsonb_object_keys(p_request -> 'fields') as n
        where not v_fields ? n
      ),
      '[]'
    )
  );
end;
$$;
comment on function public.enrichment_apply is
  'Write Apollo''s fields {job_id, fence, kind, id, fields, metadata} to a record, except '
  'fields that a person wrote. metadata.apollo_fields has all of them: {missing, updated, kept}. '
  'For the worker.';

create function public.enrichment_pause(p_request jsonb)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
begin
  perform queue.refuse_revoked();
  update public.workspace_settings
  set apollo_paused_until = greatest(
    apollo_paused_until,
    queue.clock()
      + make_interval(secs => least((p_request ->> 'seconds')::float, 86400))
  )
  where workspace_id = (
    select workspace_id
    from public.jobs
    where id = (p_request ->> 'job_id')::uuid
  );
  perform enrichment.held_job(p_request); -- last, because a lost lease must roll back everything
  return '{"paused": true}';
end;
$$;
comment on function public.enrichment_pause is
  'Record a wait that Apollo requested for the key {job_id, fence, seconds}, so that other jobs '
  'wait too. For the worker.';

alter table enrichment.calls enable row level security;
revoke all on enrichment.calls from public, anon, authenticated, service_role;

-- Apollo's answer may repeat the contact's name and address.
comment on column enrichment.calls.answer is 'Person: words to clear';

-- Grants. Callers may execute only the functions that are named below.
revoke execute
  on all functions in schema enrichment
  from public, anon, authenticated, service_role;
select queue.allow(
  'authenticated, service_role',
  'enrichment.job_of',
  'enrichment.record',
  'enrichment.enqueue',
  'public.get_workspace_settings',
  'public.put_workspace_settings',
  'public.get_sealed_apollo_key',
  'public.enrich_account',
  'public.enrich_contact'
);
select queue.allow(
  'job_worker, service_role',
  'public.enrichment_load',
  'public.enrichment_begin_call',
  'public.enrichment_finish_call',
  'public.enrichment_abandon_call',
  'public.enrichment_apply',
  'public.enrichment_pause'
);
