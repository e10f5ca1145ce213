-- Written by `python -m infra.release.apps` from schemas: do not edit it.

-- The enrichment app stores a workspace's settings, accounts and contacts, and records which fields
-- people edit. The engine does not depend on this app, so the app can be deleted.

create schema if not exists enrichment;
revoke all on schema enrichment from public;

create table public.workspace_settings (
  workspace_id uuid primary key references public.workspaces (id) on delete cascade,
  -- key for Apollo, encrypted for this workspace, or null if no key is stored
  apollo_api_key_encrypted text,
  apollo_api_key_last4 text, -- last four characters of the key
  -- true if new accounts with a domain are enriched automatically
  apollo_auto_enrich boolean not null default false,
  apollo_paused_until timestamptz, -- end of the pause that Apollo requested for this key (429)
  -- total of Apollo credits that the workspace has paid. Each call to Apollo that gets a response
  -- adds its credits once.
  enrichment_credits_used bigint not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint workspace_settings_key_is_bounded
    check (
      length(apollo_api_key_encrypted) <= 4000 and length(apollo_api_key_last4) <= 4
    )
);
comment on table public.workspace_settings is
  'Settings of workspaces. Members may read and managers may change the settings. Neither members '
  'nor managers may select the encrypted key.';

create table public.accounts (
  id uuid primary key default gen_random_uuid(),
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  name text not null,
  domain text, -- domain without scheme and www
  industry text,
  employee_count bigint,
  annual_revenue numeric, -- revenue per year, in US dollars
  city text,
  state text,
  country text,
  enriched_at timestamptz, -- time when Apollo's data was last applied
  metadata jsonb not null default '{}', -- enrichment writes the keys that start with apollo_
  edited_at jsonb not null default '{}', -- time of a person's last edit, by field
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint accounts_belong_to_one_workspace unique (workspace_id, id),
  constraint accounts_texts_are_bounded
    check (
      length(name) between 1 and 500
      and length(domain) <= 253
      and length(industry) <= 500
      and length(city) <= 200
      and length(state) <= 200
      and length(country) <= 200
    ),
  constraint accounts_numbers_are_amounts
    check (
      employee_count >= 0
      and annual_revenue >= 0
      and annual_revenue < 1e19
      and scale(annual_revenue) <= 20
    )
);
comment on table public.accounts is
  'Companies of a workspace. Several, such as branches, may have the same domain.';

create table public.contacts (
  id uuid primary key default gen_random_uuid(),
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  account_id uuid, -- company of the person, in the same workspace
  name text,
  email text,
  title text,
  linkedin_url text,
  enriched_at timestamptz,
  metadata jsonb not null default '{}',
  edited_at jsonb not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint contacts_stay_in_their_workspace foreign key (workspace_id, account_id)
    references public.accounts (workspace_id, id) on delete set null (account_id),
  constraint contacts_texts_are_bounded
    check (
      length(name) <= 500
      and length(email) <= 320
      and length(title) <= 500
      and length(linkedin_url) <= 2000
    )
);
comment on table public.contacts is 'People of a workspace.';

create index accounts_by_name on public.accounts (workspace_id, name, id);
create index contacts_by_name on public.contacts (workspace_id, name, id);
create index contacts_by_account on public.contacts (workspace_id, account_id)
  where account_id is not null;

-- Record in edited_at which fields a user edited, and when. Writes by enrichment are not recorded
-- as edits.
create function enrichment.note_edits()
returns trigger
language plpgsql
security definer -- the function reads the engine's clock, on which callers have no rights
set search_path = ''
as $$
begin
  new.updated_at := queue.clock();
  if coalesce(current_setting('enrichment.applying', true), '') <> 'on' then
    new.edited_at := coalesce(old.edited_at, '{}') || (
      select coalesce(jsonb_object_agg(field.key, queue.clock()), '{}')
      from jsonb_each(to_jsonb(new)) as field
      where field.key not in (
        'id', 'workspace_id', 'enriched_at', 'metadata', 'edited_at', 'created_at',
        'updated_at'
      )
        and field.value
        is distinct from coalesce(to_jsonb(old) -> field.key, 'null')
    );
  end if;
  return new;
end;
$$;
create trigger accounts_note_edits
  before insert or update on public.accounts
  for each row
  execute function enrichment.note_edits();
create trigger contacts_note_edits
  before insert or update on public.contacts
  for each row
  execute function enrichment.note_edits();

create function enrichment.require(p_workspace_id uuid, p_manager boolean)
returns void
language plpgsql stable
set search_path = ''
as $$
begin
  if p_workspace_id is null or not queue.is_member(p_workspace_id) then
    -- respond to callers who are not members of the workspace as if the workspace did not exist
    perform queue.refuse(
      404,
      'workspace_not_found',
      'workspace not found',
      p_workspace_id::text
    );
  elsif p_manager and not queue.is_manager(p_workspace_id) then
    perform queue.refuse(
      403,
      'forbidden',
      'only a manager of the workspace may do this'
    );
  end if;
end;
$$;

create function public.get_workspace_settings(p_workspace_id uuid)
returns jsonb
language plpgsql stable
security definer -- callers may not read the key, but may know whether one is stored
set search_path = ''
as $$
begin
  perform enrichment.require(p_workspace_id, false);
  return (
    select jsonb_build_object(
      'workspace_id', p_workspace_id,
      'apollo_api_key', jsonb_build_object(
        'configured', s.apollo_api_key_encrypted is not null,
        'last4', s.apollo_api_key_last4
      ),
      'apollo_auto_enrich', coalesce(s.apollo_auto_enrich, false),
      'enrichment_credits_used', coalesce(s.enrichment_credits_used, 0),
      'enrichment_calls_unanswered', (
        select count(*)
        from enrichment.calls as c
        where c.workspace_id = p_workspace_id and c.answered_at is null
      ),
      'can_manage', queue.is_manager(p_workspace_id),
      'updated_at', s.updated_at
    )
    from (values (p_workspace_id)) as asked (workspace_id)
    left join public.workspace_settings as s on s.workspace_id = asked.workspace_id
  );
end;
$$;
comment on function public.get_workspace_settings is
  'A workspace''s settings, with the last four characters of the Apollo key if one is configured. '
  'For members.';

create function public.put_workspace_settings(p_workspace_id uuid, p_changes jsonb)
returns jsonb
language plpgsql
security definer -- the function writes the ciphertext, which no client may select
set search_path = ''
as $$
begin
  perform enrichment.require(p_workspace_id, true);
  perform queue.admit(
    'changes',
    p_workspace_id,
    queue.caller(),
    p_bytes => octet_length(p_changes::text)
  );
  insert into public.workspace_settings (workspace_id)
  values (p_workspace_id)
  on conflict (workspace_id) do nothing;
  update public.workspace_settings as s
  set
    apollo_api_key_encrypted = case
      when p_changes ? 'sealed_key' then p_changes ->> 'sealed_key'
      else s.apollo_api_key_encrypted
    end,
    apollo_api_key_last4 = case
      when p_changes ? 'sealed_key' then p_changes ->> 'last4'
      else s.apollo_api_key_last4
    end,
    -- A new key for Apollo ends a pause of enrichment, because the pause applies to the old key.
    apollo_paused_until = case
      when not p_changes ? 'sealed_key' then s.apollo_paused_until
    end,
    apollo_auto_enrich = coalesce(
      (p_changes ->> 'apollo_auto_enrich')::boolean,
      s.apollo_auto_enrich
    ),
    updated_at = queue.clock()
  where s.workspace_id = p_workspace_id;
  return public.get_workspace_settings(p_workspace_id);
-- remove the detail of the error, because Postgres puts the failing row with the encrypted key into
-- the detail
exception when check_violation then
  raise exception using errcode = sqlstate, message = sqlerrm;
end;
$$;
comment on function public.put_workspace_settings is
  'Change apollo_auto_enrich, or sealed_key with last4 (null removes the key). For managers.';

create function public.get_sealed_apollo_key(p_workspace_id uuid)
returns jsonb
language plpgsql stable
security definer -- no client's role may select the ciphertext
set search_path = ''
as $$
begin
  perform enrichment.require(p_workspace_id, true);
  return jsonb_build_object(
    'sealed_key', (
      select apollo_api_key_encrypted
      from public.workspace_settings
      where workspace_id = p_workspace_id
    )
  );
end;
$$;
comment on function public.get_sealed_apollo_key is
  'The sealed key, which only this deployment can unseal, so that the API can test it. For '
  'managers.';

alter table public.workspace_settings enable row level security;
alter table public.accounts enable row level security;
alter table public.contacts enable row level security;
create policy workspace_settings_read_by_members on public.workspace_settings
  for select
  to authenticated
  using (workspace_id = any (array(select queue.my_workspaces())));
-- Each command has only one permissive policy, because Postgres evaluates all permissive policies
-- of a command. A restrictive policy enforces the rule that applies to all commands.
create policy workspace_settings_kept_by_managers on public.workspace_settings
  as restrictive
  for all
  to authenticated
  using (workspace_id = any (array(select queue.my_workspaces())))
  with check (queue.is_manager(workspace_id));
create policy workspace_settings_added_by_managers on public.workspace_settings
  for insert
  to authenticated
  with check (queue.is_manager(workspace_id));
create policy workspace_settings_changed_by_managers on public.workspace_settings
  for update
  to authenticated
  using (queue.is_manager(workspace_id));
create policy accounts_belong_to_members on public.accounts
  for all
  to authenticated
  using (workspace_id = any (array(select queue.my_workspaces())))
  with check (workspace_id = any (array(select queue.my_workspaces())));
create policy contacts_belong_to_members on public.contacts
  for all
  to authenticated
  using (workspace_id = any (array(select queue.my_workspaces())))
  with check (workspace_id = any (array(select queue.my_workspaces())));

revoke all
  on public.workspace_settings, public.accounts, public.contacts
  from public, anon, authenticated, service_role;
-- The roles of browsers may not select the encrypted key.
grant select (
  workspace_id,
  apollo_api_key_last4,
  apollo_auto_enrich,
  apollo_paused_until,
  enrichment_credits_used,
  created_at,
  updated_at
), insert (workspace_id, apollo_auto_enrich), update (apollo_auto_enrich)
  on public.workspace_settings
  to authenticated;
grant select, delete on public.accounts, public.contacts to authenticated;
grant insert (
  id, workspace_id, name, domain, industry, employee_count, annual_revenue, city,
  state, country
),
  update (
    name, domain, industry, employee_count, annual_revenue, city, state, country
  )
  on public.accounts
  to authenticated;
grant insert (
  id, workspace_id, account_id, name, email, title, linkedin_url
), update (account_id, name, email, title, linkedin_url)
  on public.contacts
  to authenticated;
grant select, insert, update, delete
  on public.workspace_settings, public.accounts, public.contacts
  to service_role;
select queue.charge_rows(
  'public.workspace_settings',
  'public.accounts',
  'public.contacts'
);

-- An account describes a company. If a text of an account quotes a person, an erasure usually
-- clears only the text. A contact describes a person, so an erasure deletes the whole contact.
comment on column public.accounts.name is 'Person: words';
comment on column public.accounts.domain is 'Person: words to clear';
comment on column public.accounts.industry is 'Person: words to clear';
comment on column public.accounts.city is 'Person: words to clear';
comment on column public.accounts.state is 'Person: words to clear';
comment on column public.accounts.country is 'Person: words to clear';
comment on column public.accounts.metadata is 'Person: words to clear';
comment on column public.contacts.name is 'Person: words';
comment on column public.contacts.email is 'Person: words';
comment on column public.contacts.title is 'Person: words';
comment on column public.contacts.linkedin_url is 'Person: words';
comment on column public.contacts.metadata is 'Person: words';
comment on column public.workspace_settings.apollo_api_key_encrypted is 'Person: secret';

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
