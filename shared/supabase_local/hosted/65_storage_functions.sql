-- What Storage's server calls, and what guards its tables. Signatures, columns and answers are
-- Storage's; there, they step over the index from folder to folder, which is for millions of files,
-- and lose a folder of one file where names descend, which is not repeated here.

-- the folder of a key below a prefix, with its delimiter; null for a file in the prefix itself
create or replace function storage.get_common_prefix(p_key text, p_prefix text, p_delimiter text)
returns text
language sql immutable
as $$
  select left(p_key, length(p_prefix) + nullif(at, 0))
  from position(p_delimiter in substring(p_key from length(p_prefix) + 1)) as at
$$;

-- files and folders below a prefix, bytewise, after a cursor that is a file's or a folder's name
create or replace function storage.list_objects_with_delimiter(
  _bucket_id text, prefix_param text, delimiter_param text, max_keys integer default 100,
  start_after text default '', next_token text default '', sort_order text default 'asc'
) returns table (
  name text, id uuid, metadata jsonb, updated_at timestamptz, created_at timestamptz,
  last_accessed_at timestamptz
)
language plpgsql stable
as $$
#variable_conflict use_column
declare
  v_after text := coalesce(nullif(next_token, ''), start_after, '');
  v_is_asc boolean := lower(coalesce(sort_order, 'asc')) = 'asc';
  v_is_folder boolean := exists (
    select from storage.objects as o
    where o.bucket_id = _bucket_id and starts_with(o.name, v_after || delimiter_param)
  );
  -- the first key that may follow, or the one before which all must be
  v_seek text := v_after || case
    when v_is_asc and v_is_folder then chr(ascii(delimiter_param) + 1)
    when v_is_asc or v_is_folder then delimiter_param
    else ''
  end;
begin
  return query execute format(
    'with found as (
      select o.*, storage.get_common_prefix(o.name, $2, $3) as folder
      from storage.objects as o
      where o.bucket_id = $1 and starts_with(o.name, $2)
        and ($4 = '''' or o.name collate "C" %1$s $5)
    )
    select distinct on (coalesce(f.folder, f.name) collate "C")
      coalesce(rtrim(f.folder, $3), f.name), own.id, own.metadata, own.updated_at,
      own.created_at, own.last_accessed_at
    from found as f
    left join storage.objects as own on own.id = f.id and f.folder is null
    order by coalesce(f.folder, f.name) collate "C" %2$s limit $6',
    case when v_is_asc then '>=' else '<' end, case when v_is_asc then 'asc' else 'desc' end)
  using _bucket_id, coalesce(prefix_param, ''), delimiter_param, v_after, v_seek, max_keys;
end;
$$;

-- What the client's list() answers: names relative to the prefix, whatever their case. By name,
-- files and folders are mixed; by an instant, folders come first.
create or replace function storage.search(
  prefix text, bucketname text, limits integer default 100, levels integer default 1,
  offsets integer default 0, search text default '', sortcolumn text default 'name',
  sortorder text default 'asc'
) returns table (
  name text, id uuid, updated_at timestamptz, created_at timestamptz,
  last_accessed_at timestamptz, metadata jsonb
)
language plpgsql stable
as $$
#variable_conflict use_column
declare
  v_column text := case
    when lower(sortcolumn) in ('updated_at', 'created_at', 'last_accessed_at')
      then lower(sortcolumn)
  end;
  v_direction text := case lower(coalesce(sortorder, 'asc')) when 'asc' then 'asc' else 'desc' end;
begin
  return query execute format(
    'with found as (
      select o.*, storage.get_common_prefix(o.name, $1, ''/'') as folder
      from storage.objects as o
      where o.bucket_id = $2 and starts_with(lower(o.name), lower($1))
    ), entries as (
      (select distinct on (%1$s) folder as key, substring(rtrim(folder, ''/'') from $3) as name,
        null::uuid as id, null::timestamptz as updated_at, null::timestamptz as created_at,
        null::timestamptz as last_accessed_at, null::jsonb as metadata
      from found where folder is not null order by %1$s, lower(name) collate "C" %2$s)
      union all
      select name, substring(name from $3), id, updated_at, created_at, last_accessed_at, metadata
      from found where folder is null
    )
    select name, id, updated_at, created_at, last_accessed_at, metadata
    from entries order by %3$s limit $4 offset $5',
    case when v_column is null then 'lower(folder)' else 'substring(folder from $3)' end,
    v_direction,
    case
      when v_column is null then format('lower(key) collate "C" %s', v_direction)
      else format('id is not null, %I %s, name %2$s', v_column, v_direction)
    end)
  using coalesce(prefix, '') || coalesce(search, ''), bucketname, length(coalesce(prefix, '')) + 1,
    least(coalesce(limits, 100), 1500), offsets;
end;
$$;

-- by an instant, after a cursor of instant and name; a folder has its oldest file's instant
create or replace function storage.search_by_timestamp(
  p_prefix text, p_bucket_id text, p_limit integer, p_level integer, p_start_after text,
  p_sort_order text, p_sort_column text, p_sort_column_after text
) returns table (
  key text, name text, id uuid, updated_at timestamptz, created_at timestamptz,
  last_accessed_at timestamptz, metadata jsonb
)
language plpgsql stable
as $$
#variable_conflict use_column
begin
  return query execute format(
    'with found as (
      select o.*, storage.get_common_prefix(o.name, $1, ''/'') as folder
      from storage.objects as o where o.bucket_id = $2 and starts_with(o.name, $1)
    ), entries as (
      select rtrim(folder, ''/'') as name, null::uuid as id, min(created_at) as updated_at,
        min(created_at) as created_at, null::timestamptz as last_accessed_at,
        null::jsonb as metadata
      from found where folder is not null group by folder
      union all
      select name, id, updated_at, created_at, last_accessed_at, metadata
      from found where folder is null
    )
    select split_part(name, ''/'', $3), *
    from entries
    where $5 = '''' or row(date_trunc(''milliseconds'', %1$I), name collate "C")
      %2$s row(coalesce(nullif($6, '''')::timestamptz, ''epoch''), $5)
    order by coalesce(date_trunc(''milliseconds'', %1$I), ''epoch'') %3$s, name collate "C" %3$s
    limit $4',
    p_sort_column, case when p_sort_order = 'asc' then '>' else '<' end, p_sort_order)
  using coalesce(p_prefix, ''), p_bucket_id, p_level, p_limit, p_start_after, p_sort_column_after;
end;
$$;

create or replace function storage.search_v2(
  prefix text, bucket_name text, limits integer default 100, levels integer default 1,
  start_after text default '', sort_order text default 'asc', sort_column text default 'name',
  sort_column_after text default ''
) returns table (
  key text, name text, id uuid, updated_at timestamptz, created_at timestamptz,
  last_accessed_at timestamptz, metadata jsonb
)
language plpgsql stable
as $$
#variable_conflict use_column
declare
  v_limit integer := least(coalesce(limits, 100), 1500);
  v_order text := case when lower(sort_order) = 'desc' then 'desc' else 'asc' end;
begin
  if lower(sort_column) in ('updated_at', 'created_at') then
    return query select * from storage.search_by_timestamp(prefix, bucket_name, v_limit, levels,
      start_after, v_order, lower(sort_column), sort_column_after);
    return;
  end if;
  return query
    select split_part(l.name, '/', levels), l.name, l.id, l.updated_at, l.created_at,
      l.last_accessed_at, l.metadata
    from storage.list_objects_with_delimiter(bucket_name, prefix, '/', v_limit, start_after, '',
      v_order) as l;
end;
$$;

create or replace function storage.list_multipart_uploads_with_delimiter(
  bucket_id text, prefix_param text, delimiter_param text, max_keys integer default 100,
  next_key_token text default '', next_upload_token text default ''
) returns table (key text, id text, created_at timestamptz)
language sql stable
as $$
  select distinct on (found.key collate "C") found.key, found.id, found.created_at
  from (
    select coalesce(storage.get_common_prefix(u.key, prefix_param, delimiter_param), u.key) as key,
      u.id, u.created_at, u.key as own
    from storage.s3_multipart_uploads as u
    where u.bucket_id = list_multipart_uploads_with_delimiter.bucket_id
      and u.key ilike prefix_param || '%'
      and (next_upload_token = '' or u.id collate "C" > next_upload_token)
  ) as found
  where next_key_token = '' or next_upload_token <> ''
    or found.key collate "C" > next_key_token
  order by found.key collate "C", found.own collate "C", found.created_at
  limit max_keys
$$;

-- whether the caller's policies let a file in: it is put in and taken back by an error
create or replace function storage.can_insert_object(
  bucketid text, name text, owner uuid, metadata jsonb
) returns void
language plpgsql
as $$
begin
  insert into storage.objects (bucket_id, name, owner, metadata)
  values (bucketid, name, owner, metadata);
  raise sqlstate 'PT200' using message = 'ROLLBACK', detail = 'rollback successful insert';
end;
$$;

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
-- a row that is deleted by SQL would leave its file
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
