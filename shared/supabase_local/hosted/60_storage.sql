-- Schema of Supabase Storage, with buckets, objects and the functions for policies. The local stack
-- stores no files in Storage.
create schema if not exists storage;
alter schema storage owner to supabase_storage_admin;
grant usage on schema storage to postgres with grant option;
grant usage on schema storage to anon, authenticated, service_role;

do $$
begin
  if to_regtype('storage.buckettype') is null then
    create type storage.buckettype as enum ('STANDARD', 'ANALYTICS', 'VECTOR');
  end if;
end;
$$;

create table if not exists storage.buckets (
  id text primary key, name text not null, owner uuid, created_at timestamptz default now(),
  updated_at timestamptz default now(), public boolean default false,
  avif_autodetection boolean default false, file_size_limit bigint, allowed_mime_types text [],
  owner_id text, type storage.buckettype not null default 'STANDARD',
  versioning_status text not null default 'DISABLED' check (versioning_status = 'DISABLED')
);
create unique index if not exists bname on storage.buckets (name);

create table if not exists storage.objects (
  id uuid primary key default gen_random_uuid(),
  bucket_id text constraint "objects_bucketId_fkey" references storage.buckets (id), name text,
  owner uuid, created_at timestamptz default now(), updated_at timestamptz default now(),
  last_accessed_at timestamptz default now(), metadata jsonb,
  path_tokens text [] generated always as (string_to_array(name, '/')) stored, version text,
  owner_id text, user_metadata jsonb, archived_at timestamptz,
  is_delete_marker boolean not null default false, is_versioned boolean not null default false
);
create unique index if not exists bucketid_objname on storage.objects (bucket_id, name);
create index if not exists name_prefix_search on storage.objects (name text_pattern_ops);

create or replace function storage.foldername(name text) returns text []
language sql immutable
as $$ select parts[1:cardinality(parts) - 1] from string_to_array(name, '/') as parts $$;
create or replace function storage.filename(name text) returns text
language sql immutable
as $$ select parts[cardinality(parts)] from string_to_array(name, '/') as parts $$;
create or replace function storage.extension(name text) returns text
language sql immutable
as $$ select reverse(split_part(reverse(storage.filename(name)), '.', 1)) $$;

-- Return the name of the Storage operation of a request, for use in policies. On the local stack,
-- storage.operation always returns null.
create or replace function storage.operation() returns text
language sql stable
as $$ select current_setting('storage.operation', true) $$;
create or replace function storage.allow_any_operation(expected_operations text []) returns boolean
language sql stable
as $$
  select coalesce(bool_or(
    regexp_replace(storage.operation(), '^storage\.', '') = regexp_replace(one, '^storage\.', '')
  ), false)
  from unnest(expected_operations) as one where one <> ''
$$;
create or replace function storage.allow_only_operation(expected_operation text) returns boolean
language sql stable
as $$ select storage.allow_any_operation(array[expected_operation]) $$;
create table if not exists storage.s3_multipart_uploads (
  id text primary key, in_progress_size bigint not null default 0, upload_signature text not null,
  bucket_id text not null references storage.buckets (id), key text collate "C" not null,
  version text not null, owner_id text, created_at timestamptz not null default now(),
  user_metadata jsonb, metadata jsonb
);
create index if not exists idx_multipart_uploads_list
on storage.s3_multipart_uploads (bucket_id, key, created_at);
create table if not exists storage.s3_multipart_uploads_parts (
  id uuid primary key default gen_random_uuid(),
  upload_id text not null references storage.s3_multipart_uploads (id) on delete cascade,
  size bigint not null default 0, part_number integer not null,
  bucket_id text not null references storage.buckets (id), key text collate "C" not null,
  etag text not null, owner_id text, version text not null,
  created_at timestamptz not null default now()
);
create table if not exists storage.migrations (
  id integer primary key, name varchar(100) unique not null, hash varchar(40) not null,
  executed_at timestamp default current_timestamp
);

grant select on storage.s3_multipart_uploads, storage.s3_multipart_uploads_parts
to anon, authenticated, service_role;
grant all on storage.s3_multipart_uploads, storage.s3_multipart_uploads_parts
to service_role, postgres;
grant all on storage.buckets, storage.objects to postgres with grant option;
grant all on storage.buckets, storage.objects to anon, authenticated, service_role;

create or replace function storage.update_updated_at_column() returns trigger
language plpgsql
as $$
begin
  new.updated_at := now();
  return new;
end;
$$;
create or replace function storage.enforce_bucket_name_length() returns trigger
language plpgsql
as $$
begin
  if length(new.name) > 100 then
    raise exception 'bucket name "%" is too long (% characters). Max is 100.', new.name,
      length(new.name);
  end if;
  return new;
end;
$$;
-- Reject an SQL delete of a bucket or an object, because the SQL delete would not delete the stored
-- file.
create or replace function storage.protect_delete() returns trigger
language plpgsql
as $$
begin
  if coalesce(current_setting('storage.allow_delete_query', true), 'false') <> 'true' then
    raise exception
      'Direct deletion from storage tables is not allowed. Use the Storage API instead.'
      using errcode = '42501',
        hint = 'This prevents accidental data loss from orphaned objects.';
  end if;
  return null;
end;
$$;

create or replace trigger update_objects_updated_at before update on storage.objects
for each row execute function storage.update_updated_at_column();
create or replace trigger enforce_bucket_name_length_trigger
before insert or update of name on storage.buckets
for each row execute function storage.enforce_bucket_name_length();
create or replace trigger protect_objects_delete before delete on storage.objects
for each statement execute function storage.protect_delete();
create or replace trigger protect_buckets_delete before delete on storage.buckets
for each statement execute function storage.protect_delete();
