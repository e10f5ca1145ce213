-- Files that jobs make: the holder of the lease writes them; members and holders of their key read them.
-- They outlast retention of the job, until expires_at; deleting a job deletes them.

create table queue.artefacts (
  job_id uuid not null, -- the job that made it
  name text not null, -- its file name, once per job
  workspace_id uuid not null, -- the job's workspace
  media_type text not null, -- such as text/html; charset=utf-8
  content bytea not null,
  key text not null, -- the same for all of a job: it opens them and nothing else
  created_at timestamptz not null default queue.clock(), -- when it was last written, UTC
  expires_at timestamptz not null, -- when it is deleted, UTC
  primary key (job_id, name)
);
create index artefacts_by_workspace on queue.artefacts (workspace_id);
create index artefacts_by_end on queue.artefacts (expires_at);
comment on table queue.artefacts is 'Files that jobs made, until they expire.';
insert into queue.kept_rows (relation, since, keep) values ('artefacts', 'expires_at', '0');
select queue.bound_rows('queue.artefacts', 'max_artefacts', 10000, true);

create function queue.artefact(p_artefact queue.artefacts) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object('name', p_artefact.name, 'media_type', p_artefact.media_type,
    'size_bytes', octet_length(p_artefact.content), 'created_at', p_artefact.created_at,
    'expires_at', p_artefact.expires_at,
    'url', format('/api/jobs/%s/artefacts/%s?key=%s', p_artefact.job_id, p_artefact.name, p_artefact.key))
$$;
comment on function queue.artefact is 'A file of a job without its content: {name, media_type, size_bytes, created_at, expires_at, url}.';

create function public.store_artefact(p_request jsonb) returns jsonb
language plpgsql
security definer -- the worker holds no rights on the engine's tables
set search_path = ''
set lock_timeout = '8s' as $$
declare
  v_most_bytes constant integer := 4000000; -- so that a zip of all fits into one answer of Lambda
  v_job public.jobs := queue.held_job(p_request, null, 'its artefact was not stored');
  v_name text := p_request ->> 'name';
  v_keep integer := queue.whole_in(p_request, 'keep_seconds');
  v_made queue.artefacts;
begin
  if v_name is null or v_name !~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,119}$' then
    perform queue.refuse(400, 'invalid_argument',
      'name must be a file name of 1 to 120 letters, digits, dots, hyphens and underscores', 'name');
  elsif coalesce(p_request ->> 'media_type', '') !~ '^[a-z0-9.+-]{1,80}/[a-z0-9.+-]{1,80}(; ?charset=utf-8)?$' then
    perform queue.refuse(400, 'invalid_argument', 'media_type must be one, such as text/html', 'media_type');
  elsif v_keep is null or v_keep not between 1 and 315360000 then
    perform queue.refuse(400, 'invalid_argument', 'keep_seconds must be 1 to 315360000, ten years', 'keep_seconds');
  end if;
  insert into queue.artefacts as a (job_id, name, workspace_id, media_type, content, key, expires_at)
  values (v_job.id, v_name, v_job.workspace_id, p_request ->> 'media_type', decode(p_request ->> 'content', 'base64'),
    coalesce((select b.key from queue.artefacts as b where b.job_id = v_job.id limit 1),
      encode(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), 'hex')),
    queue.clock() + make_interval(secs => v_keep))
  on conflict (job_id, name) do update set media_type = excluded.media_type, content = excluded.content,
    created_at = excluded.created_at, expires_at = excluded.expires_at
  returning * into v_made;
  if (select sum(octet_length(b.content)) > v_most_bytes or count(*) > 100
      from queue.artefacts as b where b.job_id = v_job.id) then
    perform queue.refuse(413, 'artefacts_too_large',
      format('the artefacts of a job are at most 100 and together %s bytes', v_most_bytes), v_name);
  end if;
  return queue.artefact(v_made);
exception
  when invalid_parameter_value or not_null_violation then
    perform queue.refuse_value('content', 'content', sqlerrm);
end;
$$;
comment on function public.store_artefact is E'Store a file of a leased job {job_id, fence, name, media_type, content, keep_seconds}: {name, media_type, size_bytes, created_at, expires_at, url}.\n\ncontent is base64. The same name replaces it, under the same url.';

create function queue.show_artefacts(p_job_id uuid, p_key text, p_name text) returns jsonb
language plpgsql stable
security definer -- guests hold no rights on any table
set search_path = '' as $$
declare
  v_found jsonb;
begin
  select jsonb_agg(queue.artefact(a) || case when p_name is null then '{}'
    else jsonb_build_object('content', translate(encode(a.content, 'base64'), E'\n', '')) end order by a.name)
  into v_found
  from queue.artefacts as a
  where a.job_id = p_job_id and a.name = coalesce(p_name, a.name) and a.expires_at > queue.clock()
    and (a.key = p_key or queue.is_member(a.workspace_id) or auth.uid() is null and queue.is_service());
  if v_found is null and (p_name is not null or p_key is not null) then
    perform queue.refuse(404, 'artefact_not_found', 'no such artefact');
  elsif v_found is null then
    perform queue.visible_job(p_job_id);
  end if;
  return jsonb_build_object('artefacts', coalesce(v_found, '[]'));
end;
$$;
comment on function queue.show_artefacts is 'Body of public.job_artefacts, with rights that browsers'' roles do not have.';

create function public.job_artefacts(p_job_id uuid, p_key text default null, p_name text default null) returns jsonb
language sql stable set search_path = ''
begin atomic
  select queue.show_artefacts(p_job_id, p_key, p_name);
end;
comment on function public.job_artefacts is E'Files that a job made, by name: {artefacts: [{name, media_type, size_bytes, created_at, expires_at, url}]}. For members, and for anyone who holds the key in a url of theirs.\n\nWith p_name that one alone, and its content in base64. 404 artefact_not_found for one that is missing, expired, or of another key. has_receipt: job_receipt has what was signed of its result, or of how else it ended.';

select queue.allow('anon, authenticated, service_role', 'queue.show_artefacts', 'public.job_artefacts');
select queue.allow('job_worker, service_role', 'public.store_artefact');
