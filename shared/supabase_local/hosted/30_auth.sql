-- The auth schema: what policies call (auth.uid() and its kin) and what the Auth server stores.
-- Tables, columns and types are GoTrue's; the local Auth server uses some of them.
create schema if not exists auth;
grant usage on schema auth to anon, authenticated, service_role, postgres;
alter schema auth owner to supabase_auth_admin;

create or replace function auth.jwt()
returns jsonb
language sql
stable
as $$
  select coalesce(
    nullif(current_setting('request.jwt.claims', true), ''),
    nullif(current_setting('request.jwt.claim', true), '')
  )::jsonb
$$;

-- auth.uid(), auth.role(), auth.email(): a claim of the request's token
do $$
declare
  v_one record;
begin
  for v_one in
    select * from (
      values ('uid', 'sub', 'uuid'), ('role', 'role', 'text'), ('email', 'email', 'text')
    ) as one (name, claim, type)
  loop
    execute format($f$
      create or replace function auth.%I() returns %s language sql stable as $body$
        select coalesce(
          nullif(current_setting('request.jwt.claim.%s', true), ''),
          nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> '%3$s'
        )::%2$s
      $body$
    $f$, v_one.name, v_one.type, v_one.claim);
  end loop;
end;
$$;

do $$
declare
  v_one record;
begin
  for v_one in
    select * from (
      values ('aal_level', '{aal1,aal2,aal3}'), ('factor_type', '{totp,webauthn,phone}'),
        ('factor_status', '{unverified,verified}'), ('code_challenge_method', '{s256,plain}'),
        ('one_time_token_type', '{confirmation_token,reauthentication_token,recovery_token,'
          'email_change_token_new,email_change_token_current,phone_change_token}'),
        ('oauth_authorization_status', '{pending,approved,denied,expired}'),
        ('oauth_client_type', '{public,confidential}'), ('oauth_response_type', '{code}'),
        ('oauth_registration_type', '{dynamic,manual}')
    ) as one (name, labels)
    where to_regtype('auth.' || one.name) is null
  loop
    execute format('create type auth.%I as enum (%s)', v_one.name, (
      select string_agg(quote_literal(label), ', ' order by place)
      from unnest(v_one.labels::text[]) with ordinality as l (label, place)
    ));
  end loop;
end;
$$;

create table if not exists auth.users (
  instance_id uuid, id uuid primary key, aud varchar(255) default 'authenticated',
  role varchar(255) default 'authenticated', email varchar(255), encrypted_password varchar(255),
  is_super_admin boolean, phone text unique, email_confirmed_at timestamptz,
  confirmed_at timestamptz
  generated always as (least(email_confirmed_at, phone_confirmed_at)) stored,
  invited_at timestamptz, confirmation_token varchar(255), confirmation_sent_at timestamptz,
  recovery_token varchar(255), recovery_sent_at timestamptz, email_change varchar(255),
  email_change_token_new varchar(255), email_change_token_current varchar(255),
  email_change_sent_at timestamptz,
  email_change_confirm_status smallint default 0
  constraint users_email_change_confirm_status_check
  check (email_change_confirm_status between 0 and 2),
  phone_confirmed_at timestamptz, phone_change text, phone_change_token varchar(255),
  phone_change_sent_at timestamptz, reauthentication_token varchar(255),
  reauthentication_sent_at timestamptz, raw_app_meta_data jsonb default '{}',
  raw_user_meta_data jsonb default '{}', banned_until timestamptz, deleted_at timestamptz,
  is_sso_user boolean not null default false, is_anonymous boolean not null default false,
  last_sign_in_at timestamptz, created_at timestamptz default now(),
  updated_at timestamptz default now()
);
create unique index if not exists users_email_partial_key on auth.users (email)
where is_sso_user = false;
create index if not exists users_instance_id_idx on auth.users (instance_id);

create table if not exists auth.identities (
  id uuid primary key default gen_random_uuid(), provider text not null, provider_id text not null,
  user_id uuid not null references auth.users (id) on delete cascade,
  identity_data jsonb not null default '{}',
  email varchar(255) generated always as (lower(identity_data ->> 'email')) stored,
  last_sign_in_at timestamptz, created_at timestamptz default now(),
  updated_at timestamptz default now(),
  constraint identities_provider_provider_id_key unique (provider, provider_id)
);
create index if not exists identities_user_id_idx on auth.identities (user_id);

create table if not exists auth.sessions (
  id uuid primary key, user_id uuid not null references auth.users (id) on delete cascade,
  not_after timestamptz, refreshed_at timestamp, user_agent text, ip inet, tag text,
  refresh_token_hmac_key text, refresh_token_counter bigint, scopes text,
  created_at timestamptz default now(), updated_at timestamptz default now(),
  aal auth.aal_level, factor_id uuid
);
create index if not exists sessions_user_id_idx on auth.sessions (user_id);

create table if not exists auth.refresh_tokens (
  instance_id uuid, id text primary key, token varchar(255) not null, user_id uuid not null,
  session_id uuid references auth.sessions (id) on delete cascade, revoked boolean default false,
  parent varchar(255), created_at timestamptz default now(), updated_at timestamptz default now()
);
create index if not exists refresh_tokens_token_idx on auth.refresh_tokens (token);
create index if not exists refresh_tokens_session_id_idx
on auth.refresh_tokens (session_id, revoked);

create table if not exists auth.flow_state (
  id uuid primary key, user_id uuid, auth_code text, authentication_method text not null,
  code_challenge_method text, code_challenge text, provider_type text not null,
  provider_access_token text, provider_refresh_token text, auth_code_issued_at timestamptz,
  invite_token text, referrer text, oauth_client_state_id uuid, linking_target_id uuid,
  email_optional boolean not null default false, created_at timestamptz default now(),
  updated_at timestamptz default now()
);

create table if not exists auth.audit_log_entries (
  instance_id uuid, id uuid primary key, payload json, created_at timestamptz default now(),
  ip_address varchar(64) default ''
);

-- multi-factor authentication, which policies ask; single sign-on and the rest that they may name
create table if not exists auth.mfa_factors (
  id uuid primary key, user_id uuid not null references auth.users (id) on delete cascade,
  friendly_name text, factor_type auth.factor_type not null, status auth.factor_status not null,
  created_at timestamptz not null, updated_at timestamptz not null, secret text, phone text,
  last_challenged_at timestamptz unique, web_authn_credential jsonb, web_authn_aaguid uuid,
  last_webauthn_challenge_data jsonb
);
create unique index if not exists mfa_factors_user_friendly_name_unique
on auth.mfa_factors (friendly_name, user_id) where trim(friendly_name) <> '';
create table if not exists auth.mfa_challenges (
  id uuid primary key,
  factor_id uuid not null references auth.mfa_factors (id) on delete cascade,
  created_at timestamptz not null, verified_at timestamptz, ip_address inet not null,
  otp_code text, web_authn_session_data jsonb
);
create table if not exists auth.mfa_amr_claims (
  id uuid primary key, session_id uuid not null references auth.sessions (id) on delete cascade,
  created_at timestamptz not null, updated_at timestamptz not null,
  authentication_method text not null,
  constraint mfa_amr_claims_session_id_authentication_method_pkey
  unique (session_id, authentication_method)
);
create table if not exists auth.one_time_tokens (
  id uuid primary key, user_id uuid not null references auth.users (id) on delete cascade,
  token_type auth.one_time_token_type not null,
  token_hash text not null check (char_length(token_hash) > 0), relates_to text not null,
  created_at timestamp not null default now(), updated_at timestamp not null default now()
);
create table if not exists auth.sso_providers (
  id uuid primary key, resource_id text, created_at timestamptz, updated_at timestamptz,
  disabled boolean
);
create table if not exists auth.sso_domains (
  id uuid primary key,
  sso_provider_id uuid not null references auth.sso_providers (id) on delete cascade,
  domain text not null, created_at timestamptz, updated_at timestamptz
);
create table if not exists auth.saml_providers (
  id uuid primary key,
  sso_provider_id uuid not null references auth.sso_providers (id) on delete cascade,
  entity_id text not null unique, metadata_xml text not null, metadata_url text,
  attribute_mapping jsonb, name_id_format text, created_at timestamptz, updated_at timestamptz
);
create table if not exists auth.saml_relay_states (
  id uuid primary key,
  sso_provider_id uuid not null references auth.sso_providers (id) on delete cascade,
  request_id text not null, for_email text, redirect_to text, flow_state_id uuid,
  created_at timestamptz, updated_at timestamptz
);
create table if not exists auth.oauth_clients (
  id uuid primary key, client_secret_hash text, registration_type text not null,
  redirect_uris text not null, grant_types text not null, client_name text, client_uri text,
  logo_uri text, client_type text not null default 'confidential',
  token_endpoint_auth_method text, deleted_at timestamptz,
  created_at timestamptz not null default now(), updated_at timestamptz not null default now()
);
create table if not exists auth.oauth_authorizations (
  id uuid primary key, authorization_id text not null unique,
  client_id uuid not null references auth.oauth_clients (id) on delete cascade,
  user_id uuid references auth.users (id) on delete cascade, redirect_uri text not null,
  scope text not null, state text, resource text, code_challenge text,
  code_challenge_method auth.code_challenge_method,
  response_type auth.oauth_response_type not null default 'code',
  status auth.oauth_authorization_status not null default 'pending',
  authorization_code text unique, created_at timestamptz not null default now(),
  expires_at timestamptz not null default now() + interval '3 minutes', approved_at timestamptz,
  nonce text
);
create table if not exists auth.oauth_consents (
  id uuid primary key, user_id uuid not null references auth.users (id) on delete cascade,
  client_id uuid not null references auth.oauth_clients (id) on delete cascade,
  scopes text not null, granted_at timestamptz not null default now(), revoked_at timestamptz,
  constraint oauth_consents_user_client_unique unique (user_id, client_id)
);
create table if not exists auth.oauth_client_states (
  id uuid primary key, provider_type text not null, code_verifier text,
  created_at timestamptz not null
);
create table if not exists auth.custom_oauth_providers (
  id uuid primary key default gen_random_uuid(),
  provider_type text not null check (provider_type in ('oauth2', 'oidc')),
  identifier text not null unique, name text not null, client_id text not null,
  client_secret text not null, acceptable_client_ids text [] not null default '{}',
  scopes text [] not null default '{}', pkce_enabled boolean not null default true,
  attribute_mapping jsonb not null default '{}', authorization_params jsonb not null default '{}',
  enabled boolean not null default true, email_optional boolean not null default false,
  issuer text, discovery_url text, skip_nonce_check boolean not null default false,
  cached_discovery jsonb, discovery_cached_at timestamptz, authorization_url text, token_url text,
  userinfo_url text, jwks_uri text, created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  custom_claims_allowlist text [] not null default '{}'
);
create table if not exists auth.webauthn_credentials (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  credential_id bytea not null unique, public_key bytea not null,
  attestation_type text not null default '', aaguid uuid, sign_count bigint not null default 0,
  transports jsonb not null default '[]', backup_eligible boolean not null default false,
  backed_up boolean not null default false, friendly_name text not null default '',
  created_at timestamptz not null default now(), updated_at timestamptz not null default now(),
  last_used_at timestamptz
);
create table if not exists auth.webauthn_challenges (
  id uuid primary key default gen_random_uuid(),
  user_id uuid references auth.users (id) on delete cascade, challenge_type text not null
  check (challenge_type in ('signup', 'registration', 'authentication')),
  session_data jsonb not null, created_at timestamptz not null default now(),
  expires_at timestamptz not null
);
alter table auth.sessions add column if not exists oauth_client_id uuid
references auth.oauth_clients (id) on delete cascade;
create sequence if not exists auth.refresh_tokens_id_seq;
alter sequence auth.refresh_tokens_id_seq owner to supabase_auth_admin;
create table if not exists auth.instances (
  id uuid primary key, uuid uuid, raw_base_config text, created_at timestamptz,
  updated_at timestamptz
);
create table if not exists auth.schema_migrations (version varchar(255) primary key);

-- Auth's own role owns what is here, so that a sign-up trigger can be tried as that role; row level
-- security is on, as on a hosted project, and who is let in has a policy
do $$
declare
  v_one regclass;
begin
  for v_one in
    select oid::regclass from pg_catalog.pg_class
    where relnamespace = 'auth'::regnamespace and relkind = 'r'
  loop
    execute format('alter table %s owner to supabase_auth_admin', v_one);
    execute format('alter table %s enable row level security', v_one);
  end loop;
  if (
    select atttypid <> 'auth.aal_level'::regtype from pg_catalog.pg_attribute
    where attrelid = 'auth.sessions'::regclass and attname = 'aal'
  ) then
    alter table auth.sessions alter column aal type auth.aal_level using aal::auth.aal_level;
  end if;
end;
$$;
grant usage on all sequences in schema auth to supabase_auth_admin;

-- migrations may refer to users and read them, as on a hosted project
grant all on all tables in schema auth to postgres with grant option;
grant all on all sequences in schema auth to postgres with grant option;
