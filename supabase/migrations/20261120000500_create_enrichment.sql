-- Enrichment: workspaces keep accounts and contacts and complete them through Apollo.
-- Delete this file, its seed and shared/apps/enrichment, and the platform does not notice.

-- 1. Types and tables --------------------------------------------------------------------------

create schema if not exists enrichment;
comment on schema enrichment is 'The enrichment app''s own rooms: its ledger of paid calls and its helpers. Not exposed.';
revoke all on schema enrichment from public;

create table public.workspace_settings (
  workspace_id uuid primary key references public.workspaces (id) on delete cascade,
  apollo_api_key_encrypted text,
  apollo_api_key_last4 text,
  apollo_client text,
  apollo_auto_enrich boolean not null default false,
  enrichment_credits_used bigint not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint workspace_settings_client_is_known check (apollo_client in ('apollo', 'offline')),
  constraint workspace_settings_credits_only_grow check (enrichment_credits_used >= 0),
  constraint workspace_settings_key_is_bounded check (
    length(apollo_api_key_encrypted) <= 4000 and length(apollo_api_key_last4) <= 4
  )
);
comment on table public.workspace_settings is E'What a workspace has set up.\n\nMembers read it, managers change it; the key''s ciphertext is readable to neither.';
comment on column public.workspace_settings.workspace_id is 'The workspace these settings belong to.';
comment on column public.workspace_settings.apollo_api_key_encrypted is 'The Apollo key, sealed with the workspace as context; null while none is set. Readable only to the worker''s functions.';
comment on column public.workspace_settings.apollo_api_key_last4 is 'The last four characters of the key, to tell keys apart; null while none is set.';
comment on column public.workspace_settings.apollo_client is 'apollo (the vendor) or offline (no network); null takes what the deployment says (USE_MOCK_APOLLO).';
comment on column public.workspace_settings.apollo_auto_enrich is 'Whether a new account with a domain enqueues its own enrichment.';
comment on column public.workspace_settings.enrichment_credits_used is 'Apollo credits paid so far, counted once per answered call.';
comment on column public.workspace_settings.created_at is 'When the settings were first made, UTC.';
comment on column public.workspace_settings.updated_at is 'When the settings last changed, UTC.';

create table public.accounts (
  id uuid primary key default gen_random_uuid(),
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  name text not null,
  domain text,
  industry text,
  employee_count bigint,
  annual_revenue numeric,
  city text,
  state text,
  country text,
  enriched_at timestamptz,
  metadata jsonb not null default '{}',
  edited_at jsonb not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint accounts_belong_to_one_workspace unique (workspace_id, id),
  constraint accounts_texts_are_bounded check (
    length(name) <= 500 and length(domain) <= 253 and length(industry) <= 500
    and length(city) <= 200 and length(state) <= 200 and length(country) <= 200
  ),
  constraint accounts_employee_count_is_a_count check (employee_count >= 0),
  constraint accounts_metadata_is_an_object check (jsonb_typeof(metadata) = 'object')
);
comment on table public.accounts is E'Companies a workspace knows.\n\nA domain may stand on several accounts (branches); imports match the oldest.';
comment on column public.accounts.id is 'The account.';
comment on column public.accounts.workspace_id is 'The workspace that owns it.';
comment on column public.accounts.name is 'The company''s name.';
comment on column public.accounts.domain is 'The company''s web domain, without scheme and www; null when unknown.';
comment on column public.accounts.industry is 'The industry in words; null when unknown.';
comment on column public.accounts.employee_count is 'People employed, an estimate; null when unknown.';
comment on column public.accounts.annual_revenue is 'Revenue of a year in US dollars, an estimate; null when unknown.';
comment on column public.accounts.city is 'City of the head office; null when unknown.';
comment on column public.accounts.state is 'State or region of the head office; null when unknown.';
comment on column public.accounts.country is 'Country of the head office; null when unknown.';
comment on column public.accounts.enriched_at is 'When Apollo''s data was last applied, UTC; null when never.';
comment on column public.accounts.metadata is 'Loose data; enrichment sets apollo_enriched_at, apollo_source and apollo.';
comment on column public.accounts.edited_at is 'Per field, when a person last changed it; enrichment respects what is newer than its job.';
comment on column public.accounts.created_at is 'When the account was added, UTC.';
comment on column public.accounts.updated_at is 'When anything on it last changed, UTC.';

create table public.contacts (
  id uuid primary key default gen_random_uuid(),
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  account_id uuid,
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
  constraint contacts_texts_are_bounded check (
    length(name) <= 500 and length(email) <= 320 and length(title) <= 500 and length(linkedin_url) <= 2000
  ),
  constraint contacts_metadata_is_an_object check (jsonb_typeof(metadata) = 'object')
);
comment on table public.contacts is 'People a workspace knows.';
comment on column public.contacts.id is 'The contact.';
comment on column public.contacts.workspace_id is 'The workspace that owns it.';
comment on column public.contacts.account_id is 'The account the person works for, of the same workspace; null when unknown.';
comment on column public.contacts.name is 'The person''s full name; null when unknown.';
comment on column public.contacts.email is 'The person''s mail address; null when unknown.';
comment on column public.contacts.title is 'The person''s job title; null when unknown.';
comment on column public.contacts.linkedin_url is 'The person''s LinkedIn page; null when unknown.';
comment on column public.contacts.enriched_at is 'When Apollo''s data was last applied, UTC; null when never.';
comment on column public.contacts.metadata is 'Loose data; enrichment sets apollo_enriched_at, apollo_source and apollo.';
comment on column public.contacts.edited_at is 'Per field, when a person last changed it; enrichment respects what is newer than its job.';
comment on column public.contacts.created_at is 'When the contact was added, UTC.';
comment on column public.contacts.updated_at is 'When anything on it last changed, UTC.';

-- No reference to jobs: the record of what was paid outlives the job's retention.
create table enrichment.calls (
  job_id uuid not null,
  step text not null,
  fence bigint not null,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  started_at timestamptz not null default now(),
  answered_at timestamptz,
  credits integer,
  answer jsonb,
  constraint calls_one_per_attempt primary key (job_id, step, fence),
  constraint calls_answers_are_whole check (
    (answered_at is null) = (credits is null) and (answered_at is null) = (answer is null)
  ),
  constraint calls_cost_is_a_count check (credits >= 0)
);
comment on table enrichment.calls is E'Every call to Apollo, one row per job, step and attempt.\n\nA row without an answer is a call whose worker died or timed out: Apollo may or may not have charged it.';
comment on column enrichment.calls.job_id is 'The job that called.';
comment on column enrichment.calls.step is 'The call''s name within the job.';
comment on column enrichment.calls.fence is 'The lease under which it was called.';
comment on column enrichment.calls.workspace_id is 'The workspace that pays.';
comment on column enrichment.calls.started_at is 'When the call was about to be made, UTC.';
comment on column enrichment.calls.answered_at is 'When Apollo''s answer was recorded, UTC; null when none came.';
comment on column enrichment.calls.credits is 'Credits the answer cost; null when none came.';
comment on column enrichment.calls.answer is 'The answer, which a later attempt uses instead of paying again; null when none came.';

create table public.account_imports (
  id uuid primary key default gen_random_uuid(),
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  user_id uuid,
  job_id uuid,
  object_key text not null,
  file_name text not null,
  total_bytes bigint not null,
  enrich boolean not null default false,
  rows_read integer not null default 0,
  rows_created integer not null default 0,
  rows_updated integer not null default 0,
  rows_failed integer not null default 0,
  bytes_read bigint not null default 0,
  columns jsonb,
  created_at timestamptz not null default now(),
  finished_at timestamptz,
  constraint account_imports_key_is_the_workspaces check (object_key like 'imports/' || workspace_id || '/%'),
  constraint account_imports_count_every_row check (rows_read = rows_created + rows_updated + rows_failed),
  constraint account_imports_texts_are_bounded check (length(object_key) <= 1000 and length(file_name) <= 255)
);
comment on table public.account_imports is 'CSV files of accounts, and how far each has been read.';
comment on column public.account_imports.id is 'The import.';
comment on column public.account_imports.workspace_id is 'The workspace the accounts go to.';
comment on column public.account_imports.user_id is 'Who uploaded the file; null when a server did.';
comment on column public.account_imports.job_id is 'The job that reads it.';
comment on column public.account_imports.object_key is 'Where the file lies in the uploads bucket, under its workspace''s own prefix.';
comment on column public.account_imports.file_name is 'What the file was called.';
comment on column public.account_imports.total_bytes is 'The file''s length in bytes.';
comment on column public.account_imports.enrich is 'Whether imported accounts enqueue their enrichment.';
comment on column public.account_imports.rows_read is 'Data rows handled so far, good and bad.';
comment on column public.account_imports.rows_created is 'Rows that became new accounts.';
comment on column public.account_imports.rows_updated is 'Rows that updated an account with the same domain.';
comment on column public.account_imports.rows_failed is 'Rows refused; each has a line in account_import_errors.';
comment on column public.account_imports.bytes_read is 'Where in the file the next row begins: a resumed job starts there.';
comment on column public.account_imports.columns is 'The file''s header as it was read; null before the first batch.';
comment on column public.account_imports.created_at is 'When the file was handed in, UTC.';
comment on column public.account_imports.finished_at is 'When the last row was handled, UTC; null while unfinished.';

create table public.account_import_errors (
  import_id uuid not null references public.account_imports (id) on delete cascade,
  row_number integer not null,
  field text,
  problem text not null,
  line text not null,
  constraint account_import_errors_one_per_row primary key (import_id, row_number)
);
comment on table public.account_import_errors is 'Rows of an import that were refused, and why.';
comment on column public.account_import_errors.import_id is 'The import.';
comment on column public.account_import_errors.row_number is 'The row, counted from 1 below the header.';
comment on column public.account_import_errors.field is 'The column at fault; null when the whole row is.';
comment on column public.account_import_errors.problem is 'What is wrong, for a person.';
comment on column public.account_import_errors.line is 'The row''s text, cut at 1,000 characters.';

-- 2. Indexes -----------------------------------------------------------------------------------

create index accounts_newest_by_workspace on public.accounts (workspace_id, created_at desc, id desc);
create index accounts_by_domain on public.accounts (workspace_id, lower(domain), created_at, id)
where domain is not null;
create index contacts_newest_by_workspace on public.contacts (workspace_id, created_at desc, id desc);
create index contacts_by_account on public.contacts (workspace_id, account_id) where account_id is not null;
create index account_imports_newest_by_workspace on public.account_imports (workspace_id, created_at desc, id desc);
create index calls_by_workspace on enrichment.calls (workspace_id) where answered_at is null;

-- 3. Helpers -----------------------------------------------------------------------------------

-- Remember which fields a person changed and when; enrichment itself says it is not a person.
create function enrichment.note_edits()
returns trigger
language plpgsql
security definer -- reads the engine's clock, on which whoever edits holds no rights
set search_path = ''
as $$
declare
  v_edits jsonb;
begin
  new.updated_at := queue.clock();
  if coalesce(current_setting('enrichment.applying', true), '') = 'on' then
    return new;
  end if;
  select jsonb_object_agg(field.key, queue.clock())
  into v_edits
  from jsonb_each(to_jsonb(new)) as field
  where field.key not in ('id', 'workspace_id', 'enriched_at', 'metadata', 'edited_at', 'created_at', 'updated_at')
    and field.value is distinct from to_jsonb(old) -> field.key;
  new.edited_at := old.edited_at || coalesce(v_edits, '{}');
  return new;
end;
$$;
comment on function enrichment.note_edits is 'Stamp edited_at for every field a person changes.';

create trigger accounts_note_edits
before update on public.accounts
for each row execute function enrichment.note_edits();

create trigger contacts_note_edits
before update on public.contacts
for each row execute function enrichment.note_edits();

create function enrichment.once_per(p_job_type text, p_id uuid)
returns jsonb
language sql
immutable
set search_path = ''
as $$
  select jsonb_build_object(
    'unique',
    jsonb_build_object('key', p_job_type || ':' || p_id, 'until', 'finished', 'on_conflict', 'skip')
  );
$$;
comment on function enrichment.once_per is 'The enqueue option that lets one job per record live at a time.';

create function enrichment.account_job(p_account_id uuid, p_domain text)
returns jsonb
language sql
immutable
set search_path = ''
as $$
  select enrichment.once_per('enrich_account', p_account_id) || jsonb_build_object(
    'job_type', 'enrich_account',
    'payload', jsonb_strip_nulls(jsonb_build_object('account_id', p_account_id, 'domain', p_domain))
  );
$$;
comment on function enrichment.account_job is 'The job that enriches one account, as enqueue_jobs takes it.';

-- A new account and its job are one transaction: neither exists without the other.
create function enrichment.enqueue_new_accounts()
returns trigger
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
        enrichment.account_job(fresh.id, fresh.domain) as job,
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

-- Lock the job against a new lease, so that what follows is stored by its present holder only.
create function enrichment.held_job(p_job_id uuid, p_fence bigint)
returns public.jobs
language plpgsql
set search_path = ''
as $$
declare
  v_job public.jobs;
begin
  select jobs.* into v_job
  from public.jobs as jobs
  where jobs.id = p_job_id and jobs.fence = p_fence and jobs.status = 'processing'
  for share;
  if not found then
    raise exception sqlstate 'PT409' using
      message = format('The lease %s on job %s is gone; nothing was stored.', p_fence, p_job_id),
      hint = 'lease_lost';
  end if;
  return v_job;
end;
$$;
comment on function enrichment.held_job is 'The job, if this fence still holds it; lease_lost otherwise.';

-- The fields Apollo may set: returned, not edited since the job was made, not changed since they were read.
create function enrichment.applicable(
  p_row jsonb, p_seen jsonb, p_fields jsonb, p_allowed text[], p_since timestamptz
)
returns jsonb
language sql
immutable
set search_path = ''
as $$
  select coalesce(jsonb_object_agg(field.key, field.value), '{}')
  from jsonb_each(p_fields) as field
  where field.key = any(p_allowed)
    and jsonb_typeof(field.value) <> 'null'
    and p_row -> field.key is not distinct from p_seen -> field.key
    and coalesce((p_row -> 'edited_at' ->> field.key)::timestamptz < p_since, true);
$$;
comment on function enrichment.applicable is 'Which of Apollo''s fields may overwrite the row''s.';

-- Refuse a stranger as if the workspace did not exist.
create function enrichment.require_member(p_workspace_id uuid, p_manager boolean)
returns void
language plpgsql
security definer -- callers hold no rights on the engine's schema
set search_path = ''
as $$
begin
  if queue.is_service() and exists (select 1 from public.workspaces where id = p_workspace_id) then
    return;
  end if;
  if p_workspace_id is null or p_workspace_id not in (select queue.my_workspaces()) then
    raise exception sqlstate 'PT404' using
      message = 'There is no such workspace.', hint = 'workspace_not_found';
  end if;
  if p_manager and p_workspace_id not in (select queue.my_managed_workspaces()) then
    raise exception sqlstate 'PT403' using
      message = 'Only a manager of the workspace may do this.', hint = 'forbidden';
  end if;
end;
$$;
comment on function enrichment.require_member is 'workspace_not_found for strangers, forbidden for members where a manager is asked for.';

-- 4. Settings: the user's doors ----------------------------------------------------------------

create function public.get_workspace_settings(p_workspace_id uuid)
returns jsonb
language plpgsql
stable
security definer -- tells that a key is configured without a right to read it
set search_path = ''
as $$
begin
  perform enrichment.require_member(p_workspace_id, false);
  return (
    select jsonb_build_object(
      'workspace_id', p_workspace_id,
      'apollo_api_key', jsonb_build_object(
        'configured', settings.apollo_api_key_encrypted is not null,
        -- an offline key stored by plain SQL carries its own end; a sealed one does not
        'last4', coalesce(
          settings.apollo_api_key_last4,
          case when settings.apollo_api_key_encrypted like 'test-key-%' then right(settings.apollo_api_key_encrypted, 4) end
        )
      ),
      'apollo_client', settings.apollo_client,
      'apollo_auto_enrich', coalesce(settings.apollo_auto_enrich, false),
      'enrichment_credits_used', coalesce(settings.enrichment_credits_used, 0),
      'enrichment_calls_unanswered', (
        select count(*) from enrichment.calls as calls
        where calls.workspace_id = p_workspace_id and calls.answered_at is null
      ),
      'can_manage', queue.is_manager(p_workspace_id),
      'updated_at', settings.updated_at
    )
    from (values (p_workspace_id)) as asked (workspace_id)
    left join public.workspace_settings as settings on settings.workspace_id = asked.workspace_id
  );
end;
$$;
comment on function public.get_workspace_settings is E'Read a workspace''s settings.\n\nOf the Apollo key it tells only whether one is configured and its last four characters. Calls without an answer may or may not have cost a credit.';

create function public.put_workspace_settings(p_workspace_id uuid, p_changes jsonb)
returns jsonb
language plpgsql
security definer -- writes the ciphertext, which no client may read back
set search_path = ''
as $$
begin
  perform enrichment.require_member(p_workspace_id, true);
  insert into public.workspace_settings as settings (workspace_id) values (p_workspace_id)
  on conflict (workspace_id) do nothing;
  update public.workspace_settings as settings
  set
    apollo_api_key_encrypted = case
      when p_changes ? 'sealed_key' then p_changes ->> 'sealed_key' else settings.apollo_api_key_encrypted end,
    apollo_api_key_last4 = case
      when p_changes ? 'sealed_key' then p_changes ->> 'last4' else settings.apollo_api_key_last4 end,
    apollo_client = case
      when p_changes ? 'apollo_client' then p_changes ->> 'apollo_client' else settings.apollo_client end,
    apollo_auto_enrich = coalesce((p_changes ->> 'apollo_auto_enrich')::boolean, settings.apollo_auto_enrich),
    updated_at = queue.clock()
  where settings.workspace_id = p_workspace_id;
  return public.get_workspace_settings(p_workspace_id);
end;
$$;
comment on function public.put_workspace_settings is E'Change a workspace''s settings; managers only.\n\np_changes holds any of apollo_auto_enrich, apollo_client, and sealed_key with last4 (null removes the key).';

-- 5. Enrichment: the user's doors --------------------------------------------------------------

create function public.enrich_account(p_account_id uuid)
returns jsonb
language plpgsql
security invoker -- row level security decides which account exists for the caller
set search_path = ''
as $$
declare
  v_account public.accounts;
begin
  select accounts.* into v_account from public.accounts as accounts where accounts.id = p_account_id;
  if not found then
    raise exception sqlstate 'PT404' using message = 'There is no such account.', hint = 'account_not_found';
  end if;
  return public.enqueue_job(
    p_workspace_id => v_account.workspace_id,
    p_job_type => 'enrich_account',
    p_payload => jsonb_strip_nulls(jsonb_build_object('account_id', v_account.id, 'domain', v_account.domain)),
    p_options => enrichment.once_per('enrich_account', v_account.id)
  );
end;
$$;
comment on function public.enrich_account is E'Enqueue one account''s enrichment.\n\nAnswers the job already under way, with created false, when there is one.';

create function public.enrich_contact(p_contact_id uuid)
returns jsonb
language plpgsql
security invoker -- row level security decides which contact exists for the caller
set search_path = ''
as $$
declare
  v_contact public.contacts;
begin
  select contacts.* into v_contact from public.contacts as contacts where contacts.id = p_contact_id;
  if not found then
    raise exception sqlstate 'PT404' using message = 'There is no such contact.', hint = 'contact_not_found';
  end if;
  return public.enqueue_job(
    p_workspace_id => v_contact.workspace_id,
    p_job_type => 'enrich_contact',
    p_payload => jsonb_strip_nulls(jsonb_build_object('contact_id', v_contact.id, 'email', v_contact.email)),
    p_options => enrichment.once_per('enrich_contact', v_contact.id)
  );
end;
$$;
comment on function public.enrich_contact is E'Enqueue one contact''s enrichment.\n\nAnswers the job already under way, with created false, when there is one.';

create function public.enrich_accounts(p_workspace_id uuid, p_selection jsonb)
returns jsonb
language plpgsql
security invoker -- row level security decides which accounts exist for the caller
set search_path = ''
as $$
declare
  v_limit constant integer := least(coalesce((p_selection ->> 'limit')::integer, 1000), 1000);
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
  select jsonb_agg(enrichment.account_job(accounts.id, accounts.domain) order by accounts.id) into v_jobs
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

-- 6. Enrichment: the worker's doors ------------------------------------------------------------

create function public.enrichment_load(p_job_id uuid, p_kind text, p_id uuid)
returns jsonb
language sql
stable
security definer -- reads the ciphertext for the worker, bound to the job's own workspace
set search_path = ''
as $$
  select jsonb_build_object(
    'workspace_id', jobs.workspace_id,
    'account', (
      select to_jsonb(accounts) from public.accounts as accounts
      where p_kind = 'account' and accounts.id = p_id and accounts.workspace_id = jobs.workspace_id
    ),
    'contact', (
      select to_jsonb(contacts) from public.contacts as contacts
      where p_kind = 'contact' and contacts.id = p_id and contacts.workspace_id = jobs.workspace_id
    ),
    'sealed_key', settings.apollo_api_key_encrypted,
    'apollo_client', settings.apollo_client
  )
  from public.jobs as jobs
  left join public.workspace_settings as settings on settings.workspace_id = jobs.workspace_id
  where jobs.id = p_job_id;
$$;
comment on function public.enrichment_load is E'Load a job''s account or contact with its workspace''s Apollo settings.\n\nThe record is null when it is missing or another workspace''s; the whole answer is null when the job is gone.';

create function public.enrichment_begin_call(p_job_id uuid, p_fence bigint, p_step text)
returns jsonb
language plpgsql
security definer -- the ledger is closed to every role
set search_path = ''
as $$
declare
  v_job constant public.jobs := enrichment.held_job(p_job_id, p_fence);
  v_answer jsonb;
begin
  select calls.answer into v_answer
  from enrichment.calls as calls
  where calls.job_id = p_job_id and calls.step = p_step and calls.answered_at is not null
  order by calls.fence
  limit 1;
  if v_answer is null then
    insert into enrichment.calls (job_id, step, fence, workspace_id, started_at)
    values (p_job_id, p_step, p_fence, v_job.workspace_id, queue.clock())
    on conflict (job_id, step, fence) do nothing;
  end if;
  return jsonb_build_object('answer', v_answer);
end;
$$;
comment on function public.enrichment_begin_call is E'Note that a call is about to be made, or answer what an earlier attempt already paid for.';

create function public.enrichment_finish_call(
  p_job_id uuid, p_fence bigint, p_step text, p_answer jsonb, p_credits integer
)
returns jsonb
language plpgsql
security definer -- the ledger is closed to every role
set search_path = ''
as $$
declare
  v_workspace_id uuid;
begin
  -- No lease is asked for: what was paid is paid, also when the lease lapsed meanwhile.
  update enrichment.calls as calls
  set answered_at = queue.clock(), credits = p_credits, answer = p_answer
  where calls.job_id = p_job_id and calls.step = p_step and calls.fence = p_fence and calls.answered_at is null
  returning calls.workspace_id into v_workspace_id;
  if found then
    insert into public.workspace_settings as settings (workspace_id, enrichment_credits_used)
    values (v_workspace_id, p_credits)
    on conflict (workspace_id) do update
    set enrichment_credits_used = settings.enrichment_credits_used + excluded.enrichment_credits_used;
  end if;
  return jsonb_build_object('counted', v_workspace_id is not null);
end;
$$;
comment on function public.enrichment_finish_call is E'Record a call''s answer and count its credits, in one transaction.\n\nA repetition counts nothing.';

create function public.enrichment_abandon_call(p_job_id uuid, p_fence bigint, p_step text)
returns jsonb
language sql
security definer -- the ledger is closed to every role
set search_path = ''
as $$
  with gone as (
    delete from enrichment.calls as calls
    where calls.job_id = p_job_id and calls.step = p_step and calls.fence = p_fence and calls.answered_at is null
    returning calls.job_id
  )
  select jsonb_build_object('abandoned', count(*)) from gone;
$$;
comment on function public.enrichment_abandon_call is 'Forget a call that Apollo refused and therefore did not charge.';

create function public.enrichment_apply(
  p_job_id uuid, p_fence bigint, p_kind text, p_id uuid, p_seen jsonb, p_fields jsonb, p_metadata jsonb
)
returns jsonb
language plpgsql
security definer -- the worker's role holds no rights on tables
set search_path = ''
as $$
declare
  v_job constant public.jobs := enrichment.held_job(p_job_id, p_fence);
  v_account public.accounts;
  v_contact public.contacts;
  v_fields jsonb;
  v_metadata constant jsonb := p_metadata || jsonb_build_object('apollo_enriched_at', queue.clock());
begin
  perform set_config('enrichment.applying', 'on', true);
  if p_kind = 'account' then
    select accounts.* into v_account
    from public.accounts as accounts
    where accounts.id = p_id and accounts.workspace_id = v_job.workspace_id
    for update; -- waits for a person's unfinished edit instead of writing over it
    if found then
      v_fields := enrichment.applicable(
        to_jsonb(v_account), p_seen, p_fields,
        '{name,industry,employee_count,annual_revenue,city,state,country}', v_job.created_at
      );
      v_account := jsonb_populate_record(v_account, v_fields);
      update public.accounts as accounts
      set
        name = v_account.name,
        industry = v_account.industry,
        employee_count = v_account.employee_count,
        annual_revenue = v_account.annual_revenue,
        city = v_account.city,
        state = v_account.state,
        country = v_account.country,
        enriched_at = queue.clock(),
        metadata = accounts.metadata || v_metadata
      where accounts.id = p_id;
    end if;
  else
    select contacts.* into v_contact
    from public.contacts as contacts
    where contacts.id = p_id and contacts.workspace_id = v_job.workspace_id
    for update; -- as above
    if found then
      v_fields := enrichment.applicable(
        to_jsonb(v_contact), p_seen, p_fields, '{name,title,linkedin_url}', v_job.created_at
      );
      v_contact := jsonb_populate_record(v_contact, v_fields);
      update public.contacts as contacts
      set
        name = v_contact.name,
        title = v_contact.title,
        linkedin_url = v_contact.linkedin_url,
        enriched_at = queue.clock(),
        metadata = contacts.metadata || v_metadata
      where contacts.id = p_id;
    end if;
  end if;
  perform set_config('enrichment.applying', 'off', true);
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
comment on function public.enrichment_apply is E'Write Apollo''s fields to an account (p_kind account) or a contact, except what a person edited since the job was made.\n\np_seen is the row as the job loaded it. Answers which fields were updated and which were kept, or missing.';

create function public.enrichment_load_key(p_workspace_id uuid)
returns jsonb
language sql
stable
security definer -- reads the ciphertext for the service's own processes
set search_path = ''
as $$
  select jsonb_build_object(
    'sealed_key', settings.apollo_api_key_encrypted, 'apollo_client', settings.apollo_client
  )
  from (values (p_workspace_id)) as asked (workspace_id)
  left join public.workspace_settings as settings on settings.workspace_id = asked.workspace_id;
$$;
comment on function public.enrichment_load_key is 'The workspace''s sealed Apollo key, for the service itself; null while none is set.';

create function public.enrichment_swap_key(p_workspace_id uuid, p_old text, p_new text)
returns jsonb
language sql
security definer -- writes the ciphertext for the worker
set search_path = ''
as $$
  with swapped as (
    update public.workspace_settings as settings
    set apollo_api_key_encrypted = p_new
    where settings.workspace_id = p_workspace_id and settings.apollo_api_key_encrypted = p_old
    returning settings.workspace_id
  )
  select jsonb_build_object('swapped', count(*) = 1) from swapped;
$$;
comment on function public.enrichment_swap_key is E'Replace a sealed key by the same key sealed anew.\n\nDoes nothing when a manager set another key meanwhile.';

-- 7. Import ------------------------------------------------------------------------------------

create function public.create_account_import(p_workspace_id uuid, p_import jsonb)
returns jsonb
language plpgsql
security definer -- the import and its job are made together; members may only read imports
set search_path = ''
as $$
declare
  v_import public.account_imports;
  v_answer jsonb;
begin
  perform enrichment.require_member(p_workspace_id, false);
  insert into public.account_imports (id, workspace_id, user_id, object_key, file_name, total_bytes, enrich)
  values (
    (p_import ->> 'id')::uuid, p_workspace_id, auth.uid(), p_import ->> 'object_key', p_import ->> 'file_name',
    (p_import ->> 'total_bytes')::bigint, coalesce((p_import ->> 'enrich')::boolean, false)
  )
  returning * into v_import;
  v_answer := public.enqueue_job(
    p_workspace_id => p_workspace_id,
    p_job_type => 'import_accounts',
    p_payload => jsonb_build_object('import_id', v_import.id)
  );
  update public.account_imports as imports
  set job_id = (v_answer -> 'job' ->> 'id')::uuid
  where imports.id = v_import.id
  returning imports.* into v_import;
  return v_answer || jsonb_build_object('import', to_jsonb(v_import));
exception
  when check_violation or unique_violation or invalid_text_representation or not_null_violation then
    raise exception sqlstate 'PT400' using
      message = 'The import is not acceptable: ' || sqlerrm, detail = 'p_import', hint = 'invalid_argument';
end;
$$;
comment on function public.create_account_import is E'Hand in an uploaded CSV file: makes the import and its job in one transaction.\n\np_import holds id, object_key (imports/<workspace>/…), file_name, total_bytes and enrich.';

create function public.enrichment_load_import(p_job_id uuid, p_import_id uuid)
returns jsonb
language sql
stable
security definer -- the worker's role holds no rights on tables
set search_path = ''
as $$
  select to_jsonb(imports)
  from public.jobs as jobs
  inner join public.account_imports as imports on imports.workspace_id = jobs.workspace_id
  where jobs.id = p_job_id and imports.id = p_import_id;
$$;
comment on function public.enrichment_load_import is 'Load a job''s import with how far it has come; null when it is gone or another workspace''s.';

-- One batch and the mark behind it are one transaction, so that a crash repeats neither.
create function public.enrichment_import_batch(
  p_job_id uuid, p_fence bigint, p_import_id uuid, p_from_row integer, p_batch jsonb
)
returns jsonb
language plpgsql
security definer -- the worker's role holds no rights on tables
set search_path = ''
as $$
declare
  v_job constant public.jobs := enrichment.held_job(p_job_id, p_fence);
  v_import public.account_imports;
  v_created uuid[];
  v_updated uuid[];
  v_rows constant jsonb := p_batch -> 'rows';
  v_errors constant jsonb := p_batch -> 'errors';
  v_done constant boolean := coalesce((p_batch ->> 'done')::boolean, false);
begin
  select imports.* into v_import
  from public.account_imports as imports
  where imports.id = p_import_id and imports.workspace_id = v_job.workspace_id
  for update;
  if not found or v_import.rows_read <> p_from_row or v_import.finished_at is not null then
    return jsonb_build_object('applied', false, 'import', to_jsonb(v_import));
  end if;
  -- Two imports of a workspace take turns per batch, so that both cannot create the same domain.
  perform pg_advisory_xact_lock(hashtextextended('account_imports:' || v_import.workspace_id, 0));
  perform set_config('enrichment.importing', 'on', true);
  with cells as (
    select
      line.value ->> 'domain' as domain,
      (line.value ->> 'row')::integer as row_number,
      cell.key,
      cell.value
    from jsonb_array_elements(v_rows) as line
    cross join lateral jsonb_each(line.value) as cell
    where cell.key <> 'row'
  ),
  merged as (
    -- a domain that stands twice in a batch is one account; the later row wins field by field
    select cells.domain, jsonb_object_agg(cells.key, cells.value order by cells.row_number) as record
    from cells
    group by cells.domain
  ),
  located as (
    select
      merged.domain,
      jsonb_populate_record(null::public.accounts, merged.record) as record,
      (
        select accounts.id from public.accounts as accounts
        where accounts.workspace_id = v_import.workspace_id and lower(accounts.domain) = merged.domain
        order by accounts.created_at, accounts.id
        limit 1
      ) as account_id
    from merged
  ),
  created as (
    insert into public.accounts as accounts (
      workspace_id, name, domain, industry, employee_count, annual_revenue, city, state, country
    )
    select
      v_import.workspace_id, coalesce((located.record).name, located.domain), located.domain,
      (located.record).industry, (located.record).employee_count, (located.record).annual_revenue,
      (located.record).city, (located.record).state, (located.record).country
    from located
    where located.account_id is null
    order by located.domain
    returning accounts.id
  ),
  updated as (
    update public.accounts as accounts
    set
      name = coalesce((located.record).name, accounts.name),
      industry = coalesce((located.record).industry, accounts.industry),
      employee_count = coalesce((located.record).employee_count, accounts.employee_count),
      annual_revenue = coalesce((located.record).annual_revenue, accounts.annual_revenue),
      city = coalesce((located.record).city, accounts.city),
      state = coalesce((located.record).state, accounts.state),
      country = coalesce((located.record).country, accounts.country)
    from located
    where accounts.id = located.account_id
    returning accounts.id
  )
  select
    (select array_agg(created.id order by created.id) from created),
    (select array_agg(updated.id order by updated.id) from updated)
  into v_created, v_updated;
  perform set_config('enrichment.importing', 'off', true);
  insert into public.account_import_errors (import_id, row_number, field, problem, line)
  select p_import_id, error.row_number, error.field, error.problem, left(error.line, 1000)
  from jsonb_to_recordset(v_errors) as error (row_number integer, field text, problem text, line text)
  order by error.row_number;
  perform enrichment.enqueue_imported(v_import, v_created || v_updated, v_created);
  update public.account_imports as imports
  set
    rows_read = imports.rows_read + jsonb_array_length(v_rows) + jsonb_array_length(v_errors),
    rows_created = imports.rows_created + coalesce(cardinality(v_created), 0),
    rows_updated = imports.rows_updated + jsonb_array_length(v_rows) - coalesce(cardinality(v_created), 0),
    rows_failed = imports.rows_failed + jsonb_array_length(v_errors),
    bytes_read = (p_batch ->> 'bytes_read')::bigint,
    columns = coalesce(p_batch -> 'columns', imports.columns),
    finished_at = case when v_done then queue.clock() end
  where imports.id = p_import_id
  returning imports.* into v_import;
  return jsonb_build_object('applied', true, 'import', to_jsonb(v_import));
end;
$$;
comment on function public.enrichment_import_batch is E'Store one batch of an import and move its mark, in one transaction.\n\nApplies only when p_from_row is where the import stands; answers where it stands either way. p_batch holds rows, errors, bytes_read, columns and done.';

create function enrichment.enqueue_imported(p_import public.account_imports, p_accounts uuid[], p_created uuid[])
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_jobs jsonb;
begin
  select jsonb_agg(
    enrichment.account_job(accounts.id, accounts.domain)
    || jsonb_strip_nulls(jsonb_build_object('batch_id', p_import.id, 'user_id', p_import.user_id))
    order by accounts.id
  ) into v_jobs
  from public.accounts as accounts
  where accounts.id = any(p_accounts)
    and (
      p_import.enrich
      or accounts.id = any(p_created) and exists (
        select 1 from public.workspace_settings as settings
        where settings.workspace_id = p_import.workspace_id and settings.apollo_auto_enrich
      )
    );
  if v_jobs is not null then
    perform public.enqueue_jobs(p_import.workspace_id, v_jobs, 'ids');
  end if;
end;
$$;
comment on function enrichment.enqueue_imported is 'Enqueue what an import asks for, or what the workspace does for every new account.';

-- 8. Row level security ------------------------------------------------------------------------

alter table public.workspace_settings enable row level security;
alter table public.accounts enable row level security;
alter table public.contacts enable row level security;
alter table public.account_imports enable row level security;
alter table public.account_import_errors enable row level security;
alter table enrichment.calls enable row level security;

create policy workspace_settings_read_by_members on public.workspace_settings
for select to authenticated
using (workspace_id in (select queue.my_workspaces()));

create policy workspace_settings_kept_by_managers on public.workspace_settings
for all to authenticated
using (workspace_id in (select queue.my_managed_workspaces()))
with check (workspace_id in (select queue.my_managed_workspaces()));

create policy accounts_belong_to_members on public.accounts
for all to authenticated
using (workspace_id in (select queue.my_workspaces()))
with check (workspace_id in (select queue.my_workspaces()));

create policy contacts_belong_to_members on public.contacts
for all to authenticated
using (workspace_id in (select queue.my_workspaces()))
with check (workspace_id in (select queue.my_workspaces()));

create policy account_imports_read_by_members on public.account_imports
for select to authenticated
using (workspace_id in (select queue.my_workspaces()));

create policy account_import_errors_read_by_members on public.account_import_errors
for select to authenticated
using (
  import_id in (
    select imports.id from public.account_imports as imports
    where imports.workspace_id in (select queue.my_workspaces())
  )
);

-- 9. Grants ------------------------------------------------------------------------------------

revoke all on public.workspace_settings, public.accounts, public.contacts, public.account_imports,
public.account_import_errors, enrichment.calls
from public, anon, authenticated, service_role;

-- The ciphertext stands in no select list: not a member's, not a manager's, not the service key's.
grant select (
  workspace_id, apollo_api_key_last4, apollo_client, apollo_auto_enrich, enrichment_credits_used, created_at, updated_at
) on public.workspace_settings to authenticated, service_role;
grant insert (workspace_id, apollo_client, apollo_auto_enrich) on public.workspace_settings to authenticated;
grant update (apollo_client, apollo_auto_enrich) on public.workspace_settings to authenticated;
grant insert, update, delete on public.workspace_settings to service_role;

grant select, delete on public.accounts, public.contacts to authenticated;
grant insert (
  id, workspace_id, name, domain, industry, employee_count, annual_revenue, city, state, country
), update (
  name, domain, industry, employee_count, annual_revenue, city, state, country
) on public.accounts to authenticated;
grant insert (id, workspace_id, account_id, name, email, title, linkedin_url),
update (account_id, name, email, title, linkedin_url) on public.contacts to authenticated;
grant select, insert, update, delete on public.accounts, public.contacts to service_role;

grant select on public.account_imports, public.account_import_errors to authenticated, service_role;

grant usage on schema enrichment to authenticated, service_role; -- for the helpers below, which tell nothing
revoke execute on all functions in schema enrichment from public, anon, authenticated, service_role;
grant execute on function enrichment.require_member, enrichment.once_per, enrichment.account_job
to authenticated, service_role;

revoke execute on function public.get_workspace_settings, public.put_workspace_settings, public.enrich_account,
public.enrich_contact, public.enrich_accounts, public.create_account_import, public.enrichment_load,
public.enrichment_begin_call, public.enrichment_finish_call, public.enrichment_abandon_call,
public.enrichment_apply, public.enrichment_load_key, public.enrichment_swap_key, public.enrichment_load_import,
public.enrichment_import_batch
from public, anon, authenticated, service_role;
grant execute on function public.get_workspace_settings, public.put_workspace_settings, public.enrich_account,
public.enrich_contact, public.enrich_accounts, public.create_account_import
to authenticated, service_role;
grant execute on function public.enrichment_load, public.enrichment_begin_call, public.enrichment_finish_call,
public.enrichment_abandon_call, public.enrichment_apply, public.enrichment_load_key, public.enrichment_swap_key,
public.enrichment_load_import, public.enrichment_import_batch
to job_worker, service_role;
