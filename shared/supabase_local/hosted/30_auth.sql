-- This file creates the schema auth with functions for policies, such as auth.uid(), and with the
-- tables of the Auth server. The tables of the schema auth have the names, columns and types of
-- GoTrue, which is Supabase's Auth server. The local Auth server uses only some tables of the
-- schema auth.
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

-- auth.uid(), auth.role() and auth.email() return a claim of the request's token.
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
        ('factor_status', '{unverified,verified}'),
        (
          'one_time_token_type',
          '{confirmation_token,reauthentication_token,recovery_token,email_change_token_new,'
          'email_change_token_current,phone_change_token}'
        )
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

-- The columns of auth.users have the order of a hosted project, because seeds insert users without
-- naming the columns.
create table if not exists auth.users (
  instance_id uuid, id uuid primary key, aud varchar(255) default 'authenticated',
  role varchar(255) default 'authenticated', email varchar(255), encrypted_password varchar(255),
  email_confirmed_at timestamptz, invited_at timestamptz, confirmation_token varchar(255),
  confirmation_sent_at timestamptz, recovery_token varchar(255), recovery_sent_at timestamptz,
  email_change_token_new varchar(255), email_change varchar(255),
  email_change_sent_at timestamptz, last_sign_in_at timestamptz,
  raw_app_meta_data jsonb default '{}', raw_user_meta_data jsonb default '{}',
  is_super_admin boolean, created_at timestamptz default now(),
  updated_at timestamptz default now(), phone text unique, phone_confirmed_at timestamptz,
  phone_change text, phone_change_token varchar(255), phone_change_sent_at timestamptz,
  confirmed_at timestamptz
  generated always as (least(email_confirmed_at, phone_confirmed_at)) stored,
  email_change_token_current varchar(255),
  email_change_confirm_status smallint default 0
  constraint users_email_change_confirm_status_check
  check (email_change_confirm_status between 0 and 2),
  banned_until timestamptz, reauthentication_token varchar(255),
  reauthentication_sent_at timestamptz, is_sso_user boolean not null default false,
  deleted_at timestamptz, is_anonymous boolean not null default false
);
create unique index if not exists users_email_partial_key on auth.users (email)
where is_sso_user = false;
create index if not exists users_instance_id_idx on auth.users (instance_id);

create table if not exists auth.identities (
  provider_id text not null, user_id uuid not null references auth.users (id) on delete cascade,
  identity_data jsonb not null default '{}', provider text not null,
  last_sign_in_at timestamptz, created_at timestamptz default now(),
  updated_at timestamptz default now(),
  email varchar(255) generated always as (lower(identity_data ->> 'email')) stored,
  id uuid primary key default gen_random_uuid(),
  constraint identities_provider_provider_id_key unique (provider, provider_id)
);
create index if not exists identities_user_id_idx on auth.identities (user_id);

create table if not exists auth.sessions (
  id uuid primary key, user_id uuid not null references auth.users (id) on delete cascade,
  created_at timestamptz default now(), updated_at timestamptz default now(), factor_id uuid,
  aal auth.aal_level, not_after timestamptz, refreshed_at timestamp, user_agent text, ip inet,
  tag text, oauth_client_id uuid, refresh_token_hmac_key text, refresh_token_counter bigint,
  scopes text
);
create index if not exists sessions_user_id_idx on auth.sessions (user_id);

create table if not exists auth.refresh_tokens (
  instance_id uuid, id text primary key, token varchar(255) not null, user_id varchar(255),
  revoked boolean default false, created_at timestamptz default now(),
  updated_at timestamptz default now(), parent varchar(255),
  session_id uuid references auth.sessions (id) on delete cascade
);
create index if not exists refresh_tokens_token_idx on auth.refresh_tokens (token);
create index if not exists refresh_tokens_session_id_idx
on auth.refresh_tokens (session_id, revoked);

create table if not exists auth.flow_state (
  id uuid primary key, user_id uuid, auth_code text, code_challenge_method text,
  code_challenge text, provider_type text not null, provider_access_token text,
  provider_refresh_token text, created_at timestamptz default now(),
  updated_at timestamptz default now(), authentication_method text not null,
  auth_code_issued_at timestamptz, invite_token text, referrer text, oauth_client_state_id uuid,
  linking_target_id uuid, email_optional boolean not null default false
);

create table if not exists auth.one_time_tokens (
  id uuid primary key, user_id uuid not null references auth.users (id) on delete cascade,
  token_type auth.one_time_token_type not null, token_hash text not null check (token_hash <> ''),
  relates_to text not null, created_at timestamp not null default now(),
  updated_at timestamp not null default now(), unique (user_id, token_type)
);

create table if not exists auth.audit_log_entries (
  instance_id uuid, id uuid primary key, payload json, created_at timestamptz default now(),
  ip_address varchar(64) default ''
);

-- Create the tables of multi-factor authentication, because policies of a project may read these
-- tables.
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
  session_id uuid not null references auth.sessions (id) on delete cascade,
  created_at timestamptz not null, updated_at timestamptz not null,
  authentication_method text not null, id uuid primary key,
  constraint mfa_amr_claims_session_id_authentication_method_pkey
  unique (session_id, authentication_method)
);
create sequence if not exists auth.refresh_tokens_id_seq;
alter sequence auth.refresh_tokens_id_seq owner to supabase_auth_admin;
create table if not exists auth.schema_migrations (version varchar(255) primary key);

grant usage on all sequences in schema auth to supabase_auth_admin;

-- Migrations may reference and read auth.users, as on a hosted project.
grant all on all tables in schema auth to postgres with grant option;
grant all on all sequences in schema auth to postgres with grant option;
