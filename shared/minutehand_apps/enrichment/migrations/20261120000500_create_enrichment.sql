-- Enrichment keeps a workspace's settings, accounts and contacts, and notes what people edit.
-- Delete this app's migrations, its seed and shared/minutehand_apps/enrichment, and the platform does not notice.


-- 1. Types and tables --------------------------------------------------------------------------

create schema if not exists enrichment;
comment on schema enrichment is 'The enrichment app''s own tables and functions: its ledger of paid calls and its helpers. Not exposed.';
revoke all on schema enrichment from public;

create table public.workspace_settings (
  workspace_id uuid primary key references public.workspaces (id) on delete cascade,
  apollo_api_key_encrypted text,
  apollo_api_key_last4 text,
  apollo_client text,
  apollo_auto_enrich boolean not null default false,
  apollo_paused_until timestamptz,
  enrichment_credits_used bigint not null default 0,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint workspace_settings_client_is_known check (apollo_client in ('apollo', 'offline')),
  constraint workspace_settings_credits_only_grow check (enrichment_credits_used >= 0),
  constraint workspace_settings_key_is_bounded check (
    length(apollo_api_key_encrypted) <= 4000 and length(apollo_api_key_last4) <= 4
  )
);
comment on table public.workspace_settings is E'Settings of workspaces.\n\nMembers read them, managers change them; neither can read the key''s ciphertext.';
comment on column public.workspace_settings.workspace_id is 'The workspace these settings belong to.';
comment on column public.workspace_settings.apollo_api_key_encrypted is 'The Apollo key, sealed with the workspace as context; null while none is set. Readable to no browser''s role.';
comment on column public.workspace_settings.apollo_api_key_last4 is 'The last four characters of the key, to tell keys apart; null while none is set.';
comment on column public.workspace_settings.apollo_client is 'apollo (the vendor) or offline (no network); null takes the deployment''s (USE_MOCK_APOLLO).';
comment on column public.workspace_settings.apollo_auto_enrich is 'Whether the enrichment of a new account with a domain is enqueued automatically.';
comment on column public.workspace_settings.apollo_paused_until is 'Until when Apollo asked this key to wait (429), UTC; past or null while calls are allowed.';
comment on column public.workspace_settings.enrichment_credits_used is 'Apollo credits paid so far, counted once per answered call.';
comment on column public.workspace_settings.created_at is 'When the settings were first stored, UTC.';
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
  -- numeric takes NaN and 131,072 digits, at which JSON's readers stop; NaN is above every bound
  constraint accounts_annual_revenue_is_an_amount check (
    annual_revenue >= 0 and annual_revenue < 1e19 and scale(annual_revenue) <= 20
  ),
  constraint accounts_metadata_is_an_object check (jsonb_typeof(metadata) = 'object')
);
comment on table public.accounts is E'Companies a workspace knows.\n\nSeveral accounts (branches) may have the same domain; imports match the oldest.';
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
comment on column public.accounts.metadata is 'Other data; enrichment sets apollo_enriched_at, apollo_source and apollo.';
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
comment on column public.contacts.metadata is 'Other data; enrichment sets apollo_enriched_at, apollo_source and apollo.';
comment on column public.contacts.edited_at is 'Per field, when a person last changed it; enrichment respects what is newer than its job.';
comment on column public.contacts.created_at is 'When the contact was added, UTC.';
comment on column public.contacts.updated_at is 'When anything on it last changed, UTC.';

create index accounts_newest_by_workspace on public.accounts (workspace_id, created_at desc, id desc);
create index accounts_by_name on public.accounts (workspace_id, name, id);
create index accounts_by_domain on public.accounts (workspace_id, lower(domain), created_at, id)
where domain is not null;
create index contacts_newest_by_workspace on public.contacts (workspace_id, created_at desc, id desc);
create index contacts_by_name on public.contacts (workspace_id, name, id);
create index contacts_by_account on public.contacts (workspace_id, account_id) where account_id is not null;

-- Refuse a stranger as if the workspace did not exist.
create function enrichment.require_member(p_workspace_id uuid, p_manager boolean) returns void
language plpgsql
security definer -- callers hold no rights on the engine's schema
set search_path = ''
as $$
begin
  if p_workspace_id is null or not exists (select 1 from public.workspaces where id = p_workspace_id) then
    perform queue.refuse_workspace(p_workspace_id);
  elsif p_manager then
    perform queue.may_manage(p_workspace_id);
  else
    perform queue.may_steer(p_workspace_id);
  end if;
end;
$$;
comment on function enrichment.require_member is 'Refuse callers that do not belong to the workspace with 404, and members with 403 where a manager is required.';

-- Remember which fields a person changed and when; enrichment itself says it is not a person.
create function enrichment.note_edits() returns trigger
language plpgsql
security definer -- reads the engine's clock, on which callers who edit hold no rights
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
comment on function enrichment.note_edits is 'Trigger: set edited_at of each field that a person changes.';

create trigger accounts_note_edits
before update on public.accounts
for each row execute function enrichment.note_edits();

create trigger contacts_note_edits
before update on public.contacts
for each row execute function enrichment.note_edits();

create function public.get_workspace_settings(p_workspace_id uuid) returns jsonb
language plpgsql stable
security definer -- shows that a key is configured to callers who may not read it
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
          case when settings.apollo_api_key_encrypted like 'test-key-%'
            then right(settings.apollo_api_key_encrypted, 4) end
        )
      ),
      'apollo_client', settings.apollo_client,
      'apollo_auto_enrich', coalesce(settings.apollo_auto_enrich, false),
      'apollo_paused_until', case
        when settings.apollo_paused_until > queue.clock() then settings.apollo_paused_until end,
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
comment on function public.get_workspace_settings is E'Read a workspace''s settings.\n\nOf the Apollo key it returns only whether one is configured and its last four characters. Calls without an answer may or may not have cost a credit.';

create function public.put_workspace_settings(p_workspace_id uuid, p_changes jsonb) returns jsonb
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
    -- another key, or another client, was never asked to wait
    apollo_paused_until = case
      when p_changes ?| array['sealed_key', 'apollo_client'] then null else settings.apollo_paused_until end,
    apollo_auto_enrich = coalesce((p_changes ->> 'apollo_auto_enrich')::boolean, settings.apollo_auto_enrich),
    updated_at = queue.clock()
  where settings.workspace_id = p_workspace_id;
  return public.get_workspace_settings(p_workspace_id);
end;
$$;
comment on function public.put_workspace_settings is E'Change a workspace''s settings; managers only.\n\np_changes holds any of apollo_auto_enrich, apollo_client, and sealed_key with last4 (null removes the key).';

alter table public.workspace_settings enable row level security;
alter table public.accounts enable row level security;
alter table public.contacts enable row level security;

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

revoke all on public.workspace_settings, public.accounts, public.contacts
  from public, anon, authenticated, service_role;

-- No browser's role may select the ciphertext: no guest, no member, no manager.
grant select (
  workspace_id, apollo_api_key_last4, apollo_client, apollo_auto_enrich, apollo_paused_until,
  enrichment_credits_used, created_at, updated_at
), insert (workspace_id, apollo_client, apollo_auto_enrich), update (apollo_client, apollo_auto_enrich)
on public.workspace_settings to authenticated;
grant select, insert, update, delete on public.workspace_settings to service_role;

grant select, delete on public.accounts, public.contacts to authenticated;
grant insert (
  id, workspace_id, name, domain, industry, employee_count, annual_revenue, city, state, country
), update (
  name, domain, industry, employee_count, annual_revenue, city, state, country
) on public.accounts to authenticated;
grant insert (id, workspace_id, account_id, name, email, title, linkedin_url),
update (account_id, name, email, title, linkedin_url) on public.contacts to authenticated;
grant select, insert, update, delete on public.accounts, public.contacts to service_role;

grant usage on schema enrichment to authenticated, service_role; -- for helpers that reveal nothing
revoke execute on all functions in schema enrichment from public, anon, authenticated, service_role;
grant execute on function enrichment.require_member to authenticated, service_role;
select queue.allow('authenticated, service_role', 'public.get_workspace_settings', 'public.put_workspace_settings');

-- A page that shows accounts fills itself by Postgres Changes, where the project has Realtime.
do $$
begin
  if exists (select 1 from pg_catalog.pg_publication where pubname = 'supabase_realtime' and not puballtables) then
    alter publication supabase_realtime add table public.accounts, public.contacts;
  end if;
end;
$$;
