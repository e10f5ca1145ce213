-- Importing accounts from CSV: the files, how far each has been read, the rows that were refused.
-- A batch and the mark behind it are one transaction, so a crash repeats no row and loses none.

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
comment on column public.account_imports.object_key is 'Key of the file in the uploads bucket, under its workspace''s own prefix.';
comment on column public.account_imports.file_name is 'Name of the file.';
comment on column public.account_imports.total_bytes is 'The file''s length in bytes.';
comment on column public.account_imports.enrich is 'Whether imported accounts enqueue their enrichment.';
comment on column public.account_imports.rows_read is 'Data rows handled so far, valid and refused.';
comment on column public.account_imports.rows_created is 'Rows that became new accounts.';
comment on column public.account_imports.rows_updated is 'Rows that updated an account with the same domain.';
comment on column public.account_imports.rows_failed is 'Rows refused; each has a line in account_import_errors.';
comment on column public.account_imports.bytes_read is 'Where in the file the next row begins: a resumed job starts there.';
comment on column public.account_imports.columns is 'The file''s header as it was read; null before the first batch.';
comment on column public.account_imports.created_at is 'When the import was created, UTC.';
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
comment on column public.account_import_errors.problem is 'What is wrong, as a sentence.';
comment on column public.account_import_errors.line is 'The row''s text, cut at 1,000 characters.';

create index account_imports_newest_by_workspace on public.account_imports (workspace_id, created_at desc, id desc);

create function public.create_account_import(p_workspace_id uuid, p_import jsonb) returns jsonb
language plpgsql
security definer -- the import and its job are made together; members may only read imports
set search_path = ''
as $$
declare
  v_id uuid;
  v_import public.account_imports;
  v_answer jsonb;
begin
  perform enrichment.require_member(p_workspace_id, false);
  v_id := (p_import ->> 'id')::uuid;
  -- an id that another workspace chose before is answered like any other
  if exists (select 1 from public.account_imports where id = v_id and workspace_id <> p_workspace_id) then
    v_id := gen_random_uuid();
  end if;
  insert into public.account_imports (id, workspace_id, user_id, object_key, file_name, total_bytes, enrich)
  values (
    v_id, p_workspace_id, auth.uid(), p_import ->> 'object_key', p_import ->> 'file_name',
    queue.big_whole_in(p_import, 'total_bytes'), coalesce((p_import ->> 'enrich')::boolean, false)
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
    perform queue.refuse_value('the import', 'p_import', sqlerrm);
end;
$$;
comment on function public.create_account_import is E'Import an uploaded CSV file: creates the import and its job in one transaction.\n\np_import holds id, object_key (imports/<workspace>/…), file_name, total_bytes and enrich. Use the import''s id of the answer: an id that another workspace has is replaced.';

create function public.enrichment_load_import(p_job_id uuid, p_fence numeric, p_import_id uuid) returns jsonb
language plpgsql
security definer -- the worker's role holds no rights on tables
set search_path = ''
as $$
declare
  v_job constant public.jobs := enrichment.held_job(p_job_id, queue.big_whole(p_fence, 'p_fence'));
begin
  return (
    select to_jsonb(imports) from public.account_imports as imports
    where imports.id = p_import_id and imports.workspace_id = v_job.workspace_id
  );
end;
$$;
comment on function public.enrichment_load_import is 'Load a leased job''s import with its progress; null when it is gone or another workspace''s.';

-- One batch and the mark behind it are one transaction, so that a crash repeats neither.
create function enrichment.merge_accounts(
  p_workspace_id uuid, p_rows jsonb, out created_ids uuid[], out updated_ids uuid[]
)
language plpgsql
set search_path = ''
as $$
begin
  with cells as (
    select
      line.value ->> 'domain' as domain,
      queue.whole_in(line.value, 'row') as row_number,
      cell.key,
      cell.value
    from jsonb_array_elements(p_rows) as line
    cross join lateral jsonb_each(line.value) as cell
    where cell.key <> 'row'
  ),
  merged as (
    -- a domain that is in a batch twice is one account; the later row wins field by field
    select cells.domain, jsonb_object_agg(cells.key, cells.value order by cells.row_number) as record
    from cells
    group by cells.domain
  ),
  located as (
    select
      merged.domain,
      jsonb_populate_record(null::public.accounts, queue.plain(merged.record)) as record,
      (
        select accounts.id from public.accounts as accounts
        where accounts.workspace_id = p_workspace_id and lower(accounts.domain) = merged.domain
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
      p_workspace_id, coalesce((located.record).name, located.domain), located.domain,
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
  into created_ids, updated_ids;
end;
$$;
comment on function enrichment.merge_accounts is
'Create or update the accounts of an import''s rows, by domain; returns the ids of both.';
revoke execute on function enrichment.merge_accounts from public, anon, authenticated, service_role;

create function public.enrichment_import_batch(
  p_job_id uuid, p_fence numeric, p_import_id uuid, p_from_row numeric, p_batch jsonb
) returns jsonb
language plpgsql
security definer -- the worker's role holds no rights on tables
set search_path = ''
set lock_timeout = '10s'
as $$
declare
  v_import public.account_imports;
  v_created uuid[];
  v_updated uuid[];
  v_rows constant jsonb := p_batch -> 'rows';
  v_errors constant jsonb := p_batch -> 'errors';
  v_done constant boolean := coalesce((p_batch ->> 'done')::boolean, false);
begin
  select imports.* into v_import
  from public.account_imports as imports
  inner join public.jobs as jobs on jobs.id = p_job_id and jobs.workspace_id = imports.workspace_id
  where imports.id = p_import_id
  for update of imports;
  if not found or v_import.rows_read <> queue.whole(p_from_row, 'p_from_row') or v_import.finished_at is not null then
    perform enrichment.held_job(p_job_id, queue.big_whole(p_fence, 'p_fence'));
    return jsonb_build_object('applied', false, 'import', to_jsonb(v_import));
  end if;
  -- Two imports of a workspace take turns per batch, so that both cannot create the same domain.
  perform pg_advisory_xact_lock(hashtextextended('account_imports:' || v_import.workspace_id, 0));
  perform set_config('enrichment.importing', 'on', true);
  select merged.created_ids, merged.updated_ids into v_created, v_updated
  from enrichment.merge_accounts(v_import.workspace_id, v_rows) as merged;
  perform set_config('enrichment.importing', 'off', true);
  insert into public.account_import_errors (import_id, row_number, field, problem, line)
  select p_import_id, queue.whole(error.row_number, 'row_number'), error.field, error.problem, left(error.line, 1000)
  from jsonb_to_recordset(v_errors) as error (row_number numeric, field text, problem text, line text)
  order by error.row_number;
  perform enrichment.enqueue_imported(v_import, v_created || v_updated, v_created);
  -- Last, so that waiting for a person's edit does not hold up the job's reports; a zombie rolls back.
  perform enrichment.held_job(p_job_id, queue.big_whole(p_fence, 'p_fence'));
  update public.account_imports as imports
  set
    rows_read = imports.rows_read + jsonb_array_length(v_rows) + jsonb_array_length(v_errors),
    rows_created = imports.rows_created + coalesce(cardinality(v_created), 0),
    rows_updated = imports.rows_updated + jsonb_array_length(v_rows) - coalesce(cardinality(v_created), 0),
    rows_failed = imports.rows_failed + jsonb_array_length(v_errors),
    bytes_read = queue.big_whole_in(p_batch, 'bytes_read'),
    columns = coalesce(p_batch -> 'columns', imports.columns),
    finished_at = case when v_done then queue.clock() end
  where imports.id = p_import_id
  returning imports.* into v_import;
  return jsonb_build_object('applied', true, 'import', to_jsonb(v_import));
end;
$$;
comment on function public.enrichment_import_batch is E'Store one batch of an import and move its mark, in one transaction.\n\nApplies only when p_from_row is the import''s rows_read; returns the import either way. p_batch holds rows, errors, bytes_read, columns and done.';

create function enrichment.enqueue_imported(p_import public.account_imports, p_accounts uuid[], p_created uuid[])
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_jobs jsonb;
begin
  select jsonb_agg(
    enrichment.record_job('account', accounts.id, accounts.domain)
    || jsonb_strip_nulls(jsonb_build_object('user_id', p_import.user_id))
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
comment on function enrichment.enqueue_imported is 'Enqueue the enrichments that an import asks for, or that the workspace wants for every new account.';

select queue.show_to_members('public.account_imports');
select queue.close_tables('public.account_import_errors');
create policy account_import_errors_read_by_members on public.account_import_errors
for select to authenticated
using (import_id in (
  select imports.id from public.account_imports as imports
  where imports.workspace_id in (select queue.my_workspaces())
));

grant select on public.account_import_errors to authenticated, service_role;

revoke execute on function enrichment.enqueue_imported from public, anon, authenticated, service_role;
select queue.allow('authenticated, service_role', 'public.create_account_import');
select queue.allow('job_worker, service_role', 'public.enrichment_load_import', 'public.enrichment_import_batch');
