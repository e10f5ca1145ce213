-- Storage: buckets, objects and the functions that policies call. No server for files is behind it.
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
  owner_id text, type storage.buckettype not null default 'STANDARD'
);
create unique index if not exists bname on storage.buckets (name);

create table if not exists storage.objects (
  id uuid primary key default gen_random_uuid(),
  bucket_id text constraint "objects_bucketId_fkey" references storage.buckets (id), name text,
  owner uuid, created_at timestamptz default now(), updated_at timestamptz default now(),
  last_accessed_at timestamptz default now(), metadata jsonb,
  path_tokens text [] generated always as (string_to_array(name, '/')) stored, version text,
  owner_id text, user_metadata jsonb
);
create unique index if not exists bucketid_objname on storage.objects (bucket_id, name);
create index if not exists name_prefix_search on storage.objects (name text_pattern_ops);

alter table storage.buckets add column if not exists versioning_status text
not null default 'DISABLED' check (versioning_status = 'DISABLED');
alter table storage.objects
add column if not exists archived_at timestamptz,
add column if not exists is_delete_marker boolean not null default false,
add column if not exists is_versioned boolean not null default false;

create or replace function storage.foldername(name text) returns text []
language sql immutable
as $$ select parts[1:cardinality(parts) - 1] from string_to_array(name, '/') as parts $$;
create or replace function storage.filename(name text) returns text
language sql immutable
as $$ select parts[cardinality(parts)] from string_to_array(name, '/') as parts $$;
create or replace function storage.extension(name text) returns text
language sql immutable
as $$ select reverse(split_part(reverse(storage.filename(name)), '.', 1)) $$;

-- what the request to Storage is, for policies that allow some only; no one asks here
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
create or replace function storage.get_size_by_bucket()
returns table (size bigint, bucket_id text)
language sql stable
as $$
  select sum((o.metadata ->> 'size')::bigint)::bigint, o.bucket_id
  from storage.objects as o group by o.bucket_id
$$;

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
create table if not exists storage.buckets_analytics (
  id uuid primary key default gen_random_uuid(), name text not null,
  type storage.buckettype not null default 'ANALYTICS', format text not null default 'ICEBERG',
  created_at timestamptz not null default now(), updated_at timestamptz not null default now(),
  deleted_at timestamptz
);
create table if not exists storage.buckets_vectors (
  id text primary key, type storage.buckettype not null default 'VECTOR',
  created_at timestamptz not null default now(), updated_at timestamptz not null default now()
);
create table if not exists storage.vector_indexes (
  id text primary key default gen_random_uuid(), name text collate "C" not null,
  bucket_id text not null references storage.buckets_vectors (id), data_type text not null,
  dimension integer not null, distance_metric text not null, metadata_configuration jsonb,
  created_at timestamptz not null default now(), updated_at timestamptz not null default now()
);
create table if not exists storage.migrations (
  id integer primary key, name varchar(100) unique not null, hash varchar(40) not null,
  executed_at timestamp default current_timestamp
);

do $$
declare
  v_one regclass;
begin
  for v_one in
    select oid::regclass from pg_catalog.pg_class
    where relnamespace = 'storage'::regnamespace and relkind = 'r'
  loop
    execute format('alter table %s owner to supabase_storage_admin', v_one);
    execute format('alter table %s enable row level security', v_one);
  end loop;
end;
$$;
grant select on storage.s3_multipart_uploads, storage.s3_multipart_uploads_parts,
  storage.buckets_vectors, storage.vector_indexes to anon, authenticated, service_role;
grant all on storage.s3_multipart_uploads, storage.s3_multipart_uploads_parts,
  storage.buckets_analytics to service_role, postgres;
grant all on storage.buckets, storage.objects to postgres with grant option;
grant all on storage.buckets, storage.objects to anon, authenticated, service_role;
