-- What members do with trainings: start, read, cancel, retry, edit and delete them.

-- 1. Who may see a training, and what they see -------------------------------------------------------

create function training.own_or_refuse(p_training_id uuid) returns public.trainings
language plpgsql stable
set search_path = ''
as $$
declare
  v_training public.trainings;
begin
  select * into v_training from public.trainings where id = p_training_id;
  if not found or not (queue.is_member(v_training.workspace_id) or queue.is_service_role()) then
    perform queue.refuse(404, 'training_not_found', 'no such training', p_training_id::text);
  end if;
  return v_training;
end;
$$;
comment on function training.own_or_refuse is
  'The training, if the caller may see it; the same 404 for one that is missing or another''s.';

create function training.stages_of(p_job_type text) returns text[]
language sql immutable
set search_path = ''
as $$
  select case p_job_type when 'transcription' then array['verify', 'audio', 'transcribe']
    when 'sop_generation' then array['procedure'] when 'mux_upload' then array['publish'] end
$$;
comment on function training.stages_of is 'The stages of a job type, in their order.';

create function training.parts_of(p_training_id uuid) returns jsonb
language sql stable
set search_path = ''
as $$
  select coalesce(jsonb_agg(to_jsonb(part) - 'place' order by part.place), '[]')
  from (
    select t.job_id as id, t.job_type,
      array_position(array['transcription', 'sop_generation', 'mux_upload'], t.job_type) as place,
      case
        when j.id is not null then case j.status when 'waiting' then 'processing' else j.status end
        -- removed by retention: the stages have its result
        when f.name is not null then 'failed'
        when d.done = cardinality(training.stages_of(t.job_type)) then 'completed' else 'cancelled' end as status,
      j.progress, j.attempts, j.max_attempts, j.next_retry_at, j.cancel_requested_at,
      coalesce(f.code, case when j.status = 'failed' then coalesce(j.error_data ->> 'code', 'failed') end) as code,
      coalesce(f.reason, j.error_message) as error,
      t.created_at, coalesce(t.started_at, j.started_at) as started_at,
      case when j.id is null then d.finished_at else j.finished_at end as completed_at
    from public.training_jobs as t
    left join public.jobs as j on j.id = t.job_id
    left join lateral (
      select s.name, s.code, s.reason from public.training_stages as s
      where s.training_id = t.training_id and s.name = any (training.stages_of(t.job_type)) and s.status = 'failed'
        and (j.id is null or j.finished_at is not null)
      limit 1) as f on true
    cross join lateral (
      select count(*) filter (where s.status = 'completed') as done, max(s.finished_at) as finished_at
      from public.training_stages as s
      where s.training_id = t.training_id and s.name = any (training.stages_of(t.job_type))) as d
    where t.training_id = p_training_id) as part
$$;
comment on function training.parts_of is
  'The jobs of a training, in their order, each with its state: [{id, job_type, status, progress, code, error, …}].';

create function training.status_of(p_parts jsonb) returns text
language sql immutable
set search_path = ''
as $$
  select case
    when bool_or(e.value ->> 'status' in ('pending', 'processing')) then
      case when bool_and(e.value ->> 'status' = 'pending' and e.value ->> 'started_at' is null)
        then 'pending' else 'running' end
    when bool_or(e.value ->> 'status' = 'failed') then 'failed'
    when bool_or(e.value ->> 'status' = 'cancelled') then 'cancelled'
    else 'completed' end
  from jsonb_array_elements(p_parts) as e
$$;
comment on function training.status_of is
  'pending, running, completed, failed or cancelled, of a training whose jobs are p_parts.';

create function training.percentage_of(p_parts jsonb) returns integer
language sql immutable
set search_path = ''
as $$
  select floor(sum(share.weight * case when e.value ->> 'status' = 'completed' then 100
      else coalesce((e.value #>> '{progress,percentage}')::numeric, 0) end)
    / nullif(sum(share.weight), 0))::integer
  from (values ('transcription', 70), ('sop_generation', 15), ('mux_upload', 15)) as share (job_type, weight)
  left join jsonb_array_elements(p_parts) as e on e.value ->> 'job_type' = share.job_type
  -- the procedure's job does not exist before there is a transcript
  where e.value is not null or share.job_type = 'sop_generation'
$$;
comment on function training.percentage_of is 'How much of a training is done, 0 to 100, of its jobs p_parts.';

create function training.line(p_training public.trainings) returns jsonb
language sql stable
set search_path = ''
as $$
  select jsonb_build_object('id', p_training.id, 'workspace_id', p_training.workspace_id, 'title', p_training.title,
    'status', s.status,
    'progress_percentage', case s.status when 'completed' then 100 else training.percentage_of(p.parts) end,
    'progress_message', running.part #>> '{progress,message}',
    'code', failed.part ->> 'code', 'reason', failed.part ->> 'error',
    'session_id', 'training:' || p_training.id, 'created_at', p_training.created_at,
    'finished_at', case when s.status not in ('pending', 'running') then (
      select max((e.value ->> 'completed_at')::timestamptz) from jsonb_array_elements(p.parts) as e) end,
    'run', (select max(t.generation) from public.training_jobs as t where t.training_id = p_training.id),
    'cancel_requested_at', (select max(e.value ->> 'cancel_requested_at') from jsonb_array_elements(p.parts) as e
      where e.value ->> 'status' in ('pending', 'processing')),
    'jobs', p.parts)
  from (select training.parts_of(p_training.id) as parts) as p
  cross join lateral (select training.status_of(p.parts) as status) as s
  left join lateral (select e.value as part from jsonb_array_elements(p.parts) as e
    where s.status = 'failed' and e.value ->> 'status' = 'failed' limit 1) as failed on true
  left join lateral (select e.value as part from jsonb_array_elements(p.parts) as e
    where e.value ->> 'status' = 'processing' limit 1) as running on true
$$;
comment on function training.line is 'A training with its jobs, for lists and its page.';

create function public.training_read(p_training_id uuid) returns jsonb
language plpgsql stable
security definer -- asks for membership itself, and reads the stages with one plan
set search_path = ''
as $$
declare
  v_training public.trainings := training.own_or_refuse(p_training_id);
begin
  return training.line(v_training) || jsonb_build_object(
    'file_name', regexp_replace(coalesce(v_training.object_key, split_part(v_training.source_url, '?', 1)), '^.*/', ''),
    'host_asset', v_training.host_asset,
    'stages', (
      select coalesce(jsonb_agg(to_jsonb(s) - '{training_id,workspace_id}'::text[] order by s.finished_at), '[]')
      from public.training_stages as s where s.training_id = v_training.id),
    'heard', (select count(*) from public.training_chunks as k where k.training_id = v_training.id),
    'version', (select max(p.version) from public.training_procedures as p where p.training_id = v_training.id),
    'stills', jsonb_array_length(v_training.stills));
end;
$$;
comment on function public.training_read is
  'A training with its stages and jobs; for members. heard counts the chunks transcribed, stills those taken, '
  'version is the latest procedure''s.';

create function public.training_list(p_workspace_id uuid, p_after uuid default null, p_limit numeric default 50)
returns jsonb
language plpgsql stable
security definer -- asks for membership itself
set search_path = ''
as $$
declare
  v_after public.trainings;
begin
  perform queue.may_read(p_workspace_id);
  select * into v_after from public.trainings where id = p_after and workspace_id = p_workspace_id;
  return jsonb_build_object('trainings', (
    select coalesce(jsonb_agg(training.line(t) order by t.created_at desc, t.id desc), '[]')
    from (
      select x.* from public.trainings as x
      where x.workspace_id = p_workspace_id
        and (p_after is null or (x.created_at, x.id) < (v_after.created_at, v_after.id))
      order by x.created_at desc, x.id desc
      limit least(200, greatest(1, coalesce(queue.whole(p_limit, 'p_limit'), 50)))) as t));
end;
$$;
comment on function public.training_list is 'Trainings of a workspace, newest first, after p_after: {trainings: […]}; for members.';

create function public.training_transcript(p_training_id uuid) returns jsonb
language plpgsql stable
security definer -- asks for membership itself
set search_path = ''
as $$
declare
  v_training public.trainings := training.own_or_refuse(p_training_id);
begin
  return (
    select jsonb_build_object('complete', exists (select from public.training_stages as s
        where s.training_id = v_training.id and s.name = 'transcribe' and s.status = 'completed'),
      'engine', min(k.engine), 'offline', coalesce(bool_or(k.offline), false), 'language', min(k.language),
      'duration_seconds', (select s.result -> 'seconds' from public.training_stages as s
        where s.training_id = v_training.id and s.name = 'audio'),
      'segments', coalesce((select jsonb_agg(g.value - 'words' order by c.number, g.ordinality)
        from public.training_chunks as c
        cross join lateral jsonb_array_elements(c.segments) with ordinality as g
        where c.training_id = v_training.id), '[]'))
    from public.training_chunks as k where k.training_id = v_training.id);
end;
$$;
comment on function public.training_transcript is
  'The transcript so far: {complete, engine, offline, language, duration_seconds, segments: [{start, end, text}]}; '
  'for members.';

create function public.training_procedure(p_training_id uuid, p_version numeric default null) returns jsonb
language plpgsql stable
security definer -- asks for membership itself
set search_path = ''
as $$
declare
  v_training public.trainings := training.own_or_refuse(p_training_id);
  v_found jsonb;
begin
  select to_jsonb(p) into v_found from public.training_procedures as p
  where p.training_id = v_training.id and (p_version is null or p.version = queue.whole(p_version, 'p_version'))
  order by p.version desc limit 1;
  if v_found is null then
    perform queue.refuse(404, 'procedure_not_found', 'the procedure does not exist yet',
      coalesce(queue.whole(p_version, 'p_version')::text, 'latest'));
  end if;
  return v_found || jsonb_build_object('stills', v_training.stills, 'versions', (
    select jsonb_agg(jsonb_build_object('version', p.version, 'author', p.author, 'offline', p.offline,
      'created_by', p.created_by, 'created_at', p.created_at) order by p.version desc)
    from public.training_procedures as p where p.training_id = v_training.id));
end;
$$;
comment on function public.training_procedure is
  'A version of a training''s procedure, the latest for null, with the list of all versions and the times that have '
  'stills; for members.';

create function public.training_video(p_training_id uuid) returns jsonb
language plpgsql stable
security definer -- asks for membership itself
set search_path = ''
as $$
declare
  v_training public.trainings := training.own_or_refuse(p_training_id);
begin
  return jsonb_build_object('object_key', v_training.object_key,
    'media', (select s.result from public.training_stages as s
      where s.training_id = v_training.id and s.name = 'verify'),
    'publish', (select s.result from public.training_stages as s
      where s.training_id = v_training.id and s.name = 'publish'));
end;
$$;
comment on function public.training_video is 'Where a training''s video is: {object_key, media, publish}; for members.';

create function public.training_stuck_jobs(p_workspace_id uuid, p_minutes numeric default 10) returns jsonb
language plpgsql stable
security definer -- asks for membership itself; explain_job asks again for each job
set search_path = ''
as $$
begin
  perform queue.may_read(p_workspace_id);
  return jsonb_build_object('jobs', (
    select coalesce(jsonb_agg(jsonb_build_object('job_id', s.id, 'job_type', s.job_type, 'training_id', s.training_id,
      'title', s.title, 'pending_since', s.since, 'pending_seconds', floor(extract(epoch from queue.clock() - s.since)),
      'reason', s.why ->> 'reason', 'sentence', s.why ->> 'sentence') order by s.since), '[]')
    from (
      select j.id, j.job_type, t.training_id, x.title, due.since, public.explain_job(j.id) as why
      from public.training_jobs as t
      join public.trainings as x on x.id = t.training_id
      join public.jobs as j on j.id = t.job_id
      cross join lateral (select greatest(j.created_at, j.next_retry_at, j.scheduled_for) as since) as due
      where t.workspace_id = p_workspace_id and j.status = 'pending'
        and due.since < queue.clock() - make_interval(
          mins => greatest(1, coalesce(queue.whole(p_minutes, 'p_minutes'), 10)))
      order by due.since limit 20) as s));
end;
$$;
comment on function public.training_stuck_jobs is
  E'Jobs of trainings that have been due for more than p_minutes and were not started: {jobs}; for members.\n\n'
  'Each with pending_since, pending_seconds, and the reason and sentence of explain_job. The oldest 20.';

-- 2. What members may do -----------------------------------------------------------------------------

create function training.enqueue(p_training public.trainings, p_job_type text) returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_done jsonb;
  v_address text := coalesce(p_training.source_url, p_training.object_key);
begin
  -- the platform's own job: no member may enqueue it, but it is for the member
  v_done := queue.enqueue(p_training.workspace_id, null, jsonb_build_array(jsonb_build_object('job_type', p_job_type,
    'payload', jsonb_strip_nulls(jsonb_build_object('training_id', p_training.id,
      'audio_url', case p_job_type when 'transcription' then v_address end,
      'video_url', case p_job_type when 'mux_upload' then v_address end)),
    'user_id', p_training.created_by, 'session_id', 'training:' || p_training.id)), false);
  insert into public.training_jobs (training_id, job_type, job_id, workspace_id)
  values (p_training.id, p_job_type, (v_done #>> '{ids,0}')::uuid, p_training.workspace_id)
  on conflict (training_id, job_type) do update
  set job_id = excluded.job_id, generation = 1, started_at = null, created_at = excluded.created_at;
  return (v_done -> 'wake')::boolean;
end;
$$;
comment on function training.enqueue is 'Enqueue a training''s job of a type; returns whether a worker should be woken.';

create function training.create(
  p_training_id uuid, p_workspace_id uuid, p_title text, p_object_key text, p_source_url text, p_checksum text
) returns public.trainings
language plpgsql
set search_path = ''
as $$
declare
  v_made public.trainings;
begin
  if p_workspace_id is null or not queue.is_member(p_workspace_id) then
    perform queue.refuse_workspace(p_workspace_id);
  elsif p_title is null or char_length(p_title) not between 1 and 200 or p_title !~ '\S' then
    perform queue.refuse(400, 'invalid_argument', 'title must have 1 to 200 characters', 'title');
  end if;
  insert into public.trainings (id, workspace_id, title, object_key, source_url, checksum, created_by)
  values (coalesce(p_training_id, queue.new_id()), p_workspace_id, p_title, p_object_key, p_source_url, p_checksum,
    auth.uid())
  on conflict do nothing returning * into v_made;
  return v_made;
exception
  when check_violation then
    perform queue.refuse(422, 'invalid_argument', 'a training cannot be like this: ' || sqlerrm, 'training');
end;
$$;
comment on function training.create is
  'Create a training of an uploaded file or of an address; null when its id or its object is taken.';

create function public.training_start(
  p_workspace_id uuid, p_title text, p_object_key text, p_size_bytes numeric, p_training_id uuid default null,
  p_checksum text default null
) returns jsonb
language plpgsql
security definer -- no role may write trainings directly
set search_path = ''
as $$
declare
  v_most bigint := (queue.setting('training_max_bytes'))::bigint;
  v_made public.trainings;
  v_wake boolean;
begin
  if p_workspace_id is null or not queue.is_member(p_workspace_id) then
    perform queue.refuse_workspace(p_workspace_id);
  -- where an upload of the caller's own lies, and nothing else
  elsif p_object_key is null or char_length(p_object_key) > 400
    or p_object_key !~ ('^workspaces/' || p_workspace_id || '/' || auth.uid() || '/[0-9a-f-]{36}/[A-Za-z0-9._-]+$') then
    perform queue.refuse(404, 'upload_not_found', 'no such upload', 'object_key');
  elsif coalesce(p_size_bytes, 0) <= 0 then
    perform queue.refuse(422, 'empty_file', 'the file is empty', 'object_key');
  elsif queue.big_whole(p_size_bytes, 'p_size_bytes') > v_most then
    perform queue.refuse(413, 'video_too_large',
      format('a video has at most %s bytes, this one %s', v_most, p_size_bytes), 'object_key');
  end if;
  v_made := training.create(p_training_id, p_workspace_id, p_title, p_object_key, null, p_checksum);
  if v_made.id is null then -- the upload is the key: completed twice, it is one training
    select * into v_made from public.trainings where object_key = p_object_key;
    if not found then
      perform queue.refuse(409, 'training_exists', 'this training has a recording already', 'training_id');
    elsif v_made.title <> p_title then
      perform queue.refuse(409, 'idempotency_conflict', 'this upload has a training of another title', v_made.id::text);
    end if;
    return jsonb_build_object('training_id', v_made.id, 'created', false, 'wake', false);
  end if;
  v_wake := training.enqueue(v_made, 'transcription');
  return jsonb_build_object('training_id', v_made.id, 'created', true,
    'wake', training.enqueue(v_made, 'mux_upload') or v_wake);
end;
$$;
comment on function public.training_start is
  E'Create a training of an uploaded video: {training_id, created, wake}; for members.\n\nThe training and its jobs '
  'transcription and mux_upload are one transaction; sop_generation follows in the one that ends the transcription. '
  'The same upload returns the same training; with another title it is a conflict.';

create function training.is_fetchable(p_url text) returns boolean
language sql immutable
set search_path = ''
as $$
  -- a name with a dot and letters at its end, without a password, at the port of https: no address by numbers, and
  -- no name of a network within. What it resolves to is the worker's to check.
  select p_url ~ '^https://([A-Za-z0-9_-]+\.)+[A-Za-z][A-Za-z0-9-]*\.?(:443)?([/?#]|$)'
    and p_url !~* ('^https://[^/?#]*\.(local|localhost|localdomain|internal|intranet|private|corp|home|lan|arpa)'
      '\.?([:/?#]|$)')
$$;
comment on function training.is_fetchable is 'Whether an address may be one in the public internet, by how it is written.';

create function public.training_transcribe(p_workspace_id uuid, p_training_id uuid, p_title text, p_audio_url text)
returns jsonb
language plpgsql
security definer -- no role may write trainings directly
set search_path = ''
as $$
declare
  v_made public.trainings;
  v_known boolean := false;
  v_job public.jobs;
  v_wake boolean := false;
begin
  if p_workspace_id is null or not queue.is_member(p_workspace_id) then
    perform queue.refuse_workspace(p_workspace_id);
  elsif training.is_fetchable(p_audio_url) then
    v_made := training.create(p_training_id, p_workspace_id, p_title, null, p_audio_url, null);
  -- an upload of the caller's own, and nothing else
  elsif p_audio_url ~ ('^workspaces/' || p_workspace_id || '/' || auth.uid() || '/[0-9a-f-]{36}/[A-Za-z0-9._-]+$') then
    v_made := training.create(p_training_id, p_workspace_id, p_title, p_audio_url, null, null);
  else
    perform queue.refuse(422, 'audio_url_refused',
      'audio_url must be an upload of yours or an allowed https address', 'audio_url');
  end if;
  if v_made.id is null then
    select * into v_made from public.trainings
    where id = p_training_id and workspace_id = p_workspace_id for no key update;
    if not found then
      perform queue.refuse(404, 'training_not_found', 'no such training', p_training_id::text);
    elsif p_audio_url is distinct from coalesce(v_made.source_url, v_made.object_key) then
      perform queue.refuse(409, 'training_exists', 'this training has another recording', 'training_id');
    end if;
    v_known := true;
  end if;
  select j.* into v_job from public.training_jobs as t join public.jobs as j on j.id = t.job_id
  where t.training_id = v_made.id and t.job_type = 'transcription' for update of j;
  if v_job.id is null then
    v_wake := training.enqueue(v_made, 'transcription');
  elsif v_job.status in ('failed', 'cancelled') then
    v_wake := queue.retry_jobs(array[v_job.id], queue.clock()) > 0;
  end if;
  return jsonb_build_object('training_id', v_made.id, 'created', not v_known, 'wake', v_wake, 'job_id', (
    select t.job_id from public.training_jobs as t where t.training_id = v_made.id and t.job_type = 'transcription'));
end;
$$;
comment on function public.training_transcribe is
  E'Have a recording transcribed: {training_id, job_id, created, wake}; for members.\n\nCreates a training of that id '
  'unless there is one; an existing transcription is returned, and retried when it had failed or was cancelled.';

create function training.clean(p_training public.trainings, p_audio boolean, p_video boolean, p_host boolean)
returns boolean
language plpgsql
set search_path = ''
as $$
begin
  return (queue.enqueue(p_training.workspace_id, null, jsonb_build_array(jsonb_build_object(
    'job_type', 'training_clean',
    'payload', jsonb_build_object('training_id', p_training.id, 'audio', p_audio,
      'object_key', case when p_video then p_training.object_key end, 'video', p_video,
      'host_upload', case when p_training.host_asset is null then p_training.host_upload end,
      'host_asset', case when p_host then p_training.host_asset end, 'host', p_host),
    -- a job that is being stopped may still put something there
    'user_id', p_training.created_by, 'delay_seconds', 5)), false) -> 'wake')::boolean;
end;
$$;
comment on function training.clean is
  'Enqueue the removal of what is outside the database: an unfinished upload to the video host, with p_audio the cut '
  'audio, with p_video the video and its stills, and with p_host what the video host made of it.';

create function training.reopen(p_training public.trainings, p_job_type text) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_code text;
begin
  delete from public.training_stages
  where training_id = p_training.id and name = any (training.stages_of(p_job_type)) and status = 'failed'
  returning code into v_code;
  if v_code = 'audio_gone' then -- the cut audio had expired: it must be cut again
    delete from public.training_stages where training_id = p_training.id and name = 'audio';
  elsif v_code = 'no_speech' then -- another engine by now may do better; otherwise a retry could change nothing
    delete from public.training_chunks where training_id = p_training.id;
  elsif v_code in ('host_refused', 'host_lost') then
    if coalesce(p_training.host_asset, p_training.host_upload) is not null then
      perform training.clean(p_training, false, false, true); -- the host has refused this one: the next is another
    end if;
    -- otherwise kept, also what a cancel ends there: it may have become a video, which is not paid for twice
    update public.trainings set host_upload = null, host_asset = null where id = p_training.id;
  end if;
end;
$$;
comment on function training.reopen is 'Delete the failed stages of a training''s job, and keep the finished ones.';

create function public.training_cancel(p_training_id uuid) returns jsonb
language plpgsql
security definer -- no role may write trainings directly
set search_path = ''
as $$
declare
  v_training public.trainings := training.own_or_refuse(p_training_id);
  v_status text := training.status_of(training.parts_of(p_training_id));
  v_ids uuid[];
begin
  v_ids := array(select j.id from public.training_jobs as t join public.jobs as j on j.id = t.job_id
    where t.training_id = p_training_id and j.finished_at is null order by j.id);
  if cardinality(v_ids) > 0 then
    perform queue.cancel(v_ids, queue.clock());
    select * into v_training from public.trainings where id = p_training_id; -- with its latest state
    perform training.clean(v_training, false, false, false);
  elsif v_status <> 'cancelled' then
    perform queue.refuse(409, 'invalid_state', 'the training has ended', v_status);
  end if;
  return jsonb_build_object('training_id', v_training.id);
end;
$$;
comment on function public.training_cancel is
  'Stop every job of a training: {training_id}. Finished stages are kept. 409 when it has ended.';

create function public.training_retry(p_training_id uuid, p_without_model boolean default false) returns jsonb
language plpgsql
security definer -- no role may write trainings directly
set search_path = ''
as $$
declare
  v_training public.trainings := training.own_or_refuse(p_training_id);
  v_part record;
  v_wake boolean := false;
  v_count integer := 0;
begin
  update public.trainings set without_model = coalesce(p_without_model, false)
  where id = p_training_id returning * into v_training;
  perform 1 from public.jobs where id in (select t.job_id from public.training_jobs as t
    where t.training_id = p_training_id) order by id for update;
  for v_part in
    select * from jsonb_to_recordset(training.parts_of(p_training_id))
      as part (id uuid, job_type text, status text, cancel_requested_at timestamptz)
  loop
    if v_part.status in ('pending', 'processing') and v_part.cancel_requested_at is not null
      or exists (select 1 from public.jobs where parent_id = v_part.id and finished_at is null)
      and v_part.status in ('failed', 'cancelled') then
      perform queue.refuse(409, 'invalid_state', 'the training is still stopping; ask again in a moment', 'stopping');
    elsif v_part.status not in ('failed', 'cancelled') then
      continue;
    elsif queue.retry_jobs(array[v_part.id], queue.clock()) > 0 then
      v_wake := true;
    else -- its job has been removed by retention
      perform training.reopen(v_training, v_part.job_type);
      v_wake := training.enqueue(v_training, v_part.job_type) or v_wake;
    end if;
    v_count := v_count + 1;
  end loop;
  if v_count = 0 then
    perform queue.refuse(409, 'invalid_state', 'only a failed or cancelled training is retried',
      training.status_of(training.parts_of(p_training_id)));
  end if;
  return jsonb_build_object('training_id', p_training_id, 'wake', v_wake);
end;
$$;
comment on function public.training_retry is
  'Run the failed and cancelled jobs of a training again, after their last finished stages: {training_id, wake}. 409 '
  'when there are none. With p_without_model the procedure is extracted although there is a language model.';

create function training.refuse_procedure(p_procedure jsonb) returns void
language plpgsql
set search_path = ''
as $$
declare
  v_line constant jsonb := '{"type": "string", "minLength": 1, "maxLength": 500}';
  v_text constant jsonb := '{"type": "string", "maxLength": 2000}';
  v_list constant jsonb := jsonb_build_object('type', 'array', 'maxItems', 50, 'items', v_line);
  v_step constant jsonb := jsonb_build_object('type', 'object', 'additionalProperties', false,
    'required', '["title", "at_seconds"]'::jsonb, 'properties', jsonb_build_object('title', v_line, 'detail', v_text,
      'at_seconds', '{"type": "number", "minimum": 0, "maximum": 100000}'::jsonb, 'said', v_text,
      'doubtful', '{"type": "boolean"}'::jsonb));
  v_schema constant jsonb := jsonb_build_object('type', 'object', 'additionalProperties', false,
    'required', '["title", "steps"]'::jsonb, 'properties', jsonb_build_object(
      'title', '{"type": "string", "minLength": 1, "maxLength": 200}'::jsonb, 'purpose', v_text,
      'materials', v_list, 'warnings', v_list,
      'steps', jsonb_build_object('type', 'array', 'minItems', 1, 'maxItems', 200, 'items', v_step)));
  v_problem text;
begin
  if octet_length(p_procedure::text) > 1000000 then
    perform queue.refuse(413, 'payload_too_large', 'a procedure has at most 1000000 bytes', 'procedure');
  end if;
  v_problem := case when p_procedure is null then '$ is required' else queue.schema_error(v_schema, p_procedure) end;
  if v_problem is not null then
    perform queue.refuse(422, 'procedure_invalid', 'a procedure is not as it should be: ' || v_problem, 'procedure');
  end if;
end;
$$;
comment on function training.refuse_procedure is
  'Refuse what is not a procedure as models.py describes one: all readers rely on its shape.';

create function training.take_stills(p_training public.trainings, p_procedure jsonb) returns boolean
language plpgsql
set search_path = ''
as $$
declare
  v_at jsonb := (
    select jsonb_agg(distinct s.value -> 'at_seconds') from jsonb_array_elements(p_procedure -> 'steps') as s
    where not p_training.stills @> (s.value -> 'at_seconds'));
begin
  if v_at is null or jsonb_array_length(p_training.stills) >= 2000 or not exists (
    select from public.training_stages as g
    where g.training_id = p_training.id and g.name = 'verify' and g.result ->> 'video' is not null) then
    return false;
  end if;
  return (queue.enqueue(p_training.workspace_id, null, jsonb_build_array(jsonb_build_object(
    'job_type', 'training_stills', 'payload', jsonb_build_object('training_id', p_training.id, 'at', v_at),
    'user_id', p_training.created_by, 'session_id', 'training:' || p_training.id)), false) -> 'wake')::boolean;
end;
$$;
comment on function training.take_stills is
  'Enqueue the stills of a procedure''s steps that have none yet; at most 2,000 of a training, none without pictures.';

create function public.training_save_procedure(p_training_id uuid, p_base_version numeric, p_procedure jsonb)
returns jsonb
language plpgsql
security definer -- no role may write procedures directly
set search_path = ''
as $$
declare
  v_training public.trainings := training.own_or_refuse(p_training_id);
  v_latest public.training_procedures;
  v_last float8;
  v_seconds float8;
begin
  perform 1 from public.trainings where id = p_training_id for no key update; -- edits come one after the other
  select * into v_latest from public.training_procedures
  where training_id = p_training_id order by version desc limit 1;
  if not found then
    perform queue.refuse(409, 'invalid_state', 'the procedure does not exist yet', 'procedure');
  elsif v_latest.version is distinct from queue.whole(p_base_version, 'p_base_version') then
    perform queue.refuse(409, 'edit_conflict', 'someone else has edited the procedure', v_latest.version::text);
  end if;
  perform training.refuse_procedure(p_procedure);
  select max((s.value ->> 'at_seconds')::float8), (select (g.result ->> 'seconds')::float8
    from public.training_stages as g
    where g.training_id = p_training_id and g.name = 'audio' and g.status = 'completed')
    into v_last, v_seconds from jsonb_array_elements(p_procedure -> 'steps') as s;
  if v_last > v_seconds + 1 then
    perform queue.refuse(422, 'procedure_invalid', format('each step must be within the recording, which lasts %s s',
      round(v_seconds)), 'at_seconds');
  end if;
  if v_latest.procedure = p_procedure then
    return jsonb_build_object('version', v_latest.version, 'wake', false);
  elsif v_latest.version >= 1000 then
    perform queue.refuse(429, 'quota_exceeded', 'a procedure has at most 1000 versions', 'max_versions');
  end if;
  insert into public.training_procedures (training_id, version, workspace_id, procedure, author, created_by)
  values (p_training_id, v_latest.version + 1, v_training.workspace_id, p_procedure, 'person', auth.uid());
  return jsonb_build_object('version', v_latest.version + 1, 'wake', training.take_stills(v_training, p_procedure));
end;
$$;
comment on function public.training_save_procedure is
  E'Store an edited procedure as the next version: {version, wake}.\n\np_base_version is the version that was edited: '
  '409 edit_conflict when it is no longer the latest.';

create function public.training_delete(p_training_id uuid) returns jsonb
language plpgsql
security definer -- no role may write trainings directly
set search_path = ''
as $$
declare
  v_training public.trainings := training.own_or_refuse(p_training_id);
  v_ids uuid[] := array(select j.id from public.training_jobs as t join public.jobs as j on j.id = t.job_id
    where t.training_id = p_training_id and j.finished_at is null
    union
    select j.id from public.jobs as j where j.session_id = 'training:' || p_training_id
      and j.workspace_id = v_training.workspace_id and j.job_type = 'training_stills' and j.finished_at is null
    order by 1);
begin
  if cardinality(v_ids) > 0 then
    perform queue.cancel(v_ids, queue.clock());
  end if;
  -- with its latest state: what its jobs noted of the host until now is removed there too
  delete from public.trainings where id = p_training_id returning * into v_training;
  if not found then
    perform queue.refuse(404, 'training_not_found', 'no such training', p_training_id::text);
  end if;
  return jsonb_build_object('training_id', p_training_id, 'wake', training.clean(v_training, true, true, true));
end;
$$;
comment on function public.training_delete is
  'Delete a training with its results, also in the uploads bucket and at the video host: {training_id, wake}. Its '
  'live jobs are cancelled first.';

select queue.allow('authenticated, service_role', 'public.training_start', 'public.training_transcribe',
  'public.training_read', 'public.training_list', 'public.training_transcript', 'public.training_procedure',
  'public.training_cancel', 'public.training_retry', 'public.training_save_procedure', 'public.training_delete',
  'public.training_video', 'public.training_stuck_jobs');
