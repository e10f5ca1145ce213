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
