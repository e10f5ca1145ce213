-- The training app converts uploaded videos to transcripts and procedures. This file has the tables
-- and views of the app. The engine does not depend on this app, so the app can be deleted.

create schema if not exists training;
revoke all on schema training from public;

-- The columns transcript and procedure are null until the stage that writes the column has ended.
-- Later attempts do not overwrite a stored transcript or procedure.
create table public.trainings (
  id uuid primary key default queue.new_id(),
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  title text not null,
  object_key text not null, -- key of the file in the uploads bucket
  -- SHA-256 of the file, or `<hex>-<parts>` computed from the checksums of its parts
  checksum text,
  media jsonb, -- result of the file check: {bytes, seconds, video, audio}
  sound jsonb, -- {seconds, chunks: [[start, end], …]}, after the sound is cut
  -- Object {chunks, words, language, engine, offline, duration_seconds}, stored after the last
  -- chunk.
  transcript jsonb,
  -- {procedure, author, offline}. The key `procedure` is null if no language model is configured.
  procedure jsonb,
  published jsonb, -- {host, playback_id, duration_seconds, note}, when the video can be played
  created_by uuid,
  created_at timestamptz not null default queue.clock(),
  share_id uuid, -- random key of the public link, null without a link
  constraint trainings_one_share unique (share_id),
  constraint trainings_one_per_object unique (object_key),
  constraint trainings_title_is_bounded
    check (char_length(title) between 1 and 200 and title ~ '\S'),
  constraint trainings_object_is_the_workspaces
    check (
      object_key like 'workspaces/' || workspace_id || '/%'
      and char_length(object_key) <= 400
    ),
  constraint trainings_results_are_bounded
    check (
      octet_length(sound::text) <= 200000
      and octet_length(procedure::text) <= 1000000
    )
);
comment on table public.trainings is
  'Uploaded recordings, with their transcripts, procedures and published videos.';
create index trainings_newest on public.trainings (workspace_id, id desc);

create table public.training_jobs (
  training_id uuid not null references public.trainings (id) on delete cascade,
  job_type text not null,
  job_id uuid not null, -- id of a job that retention may have deleted
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  primary key (training_id, job_type),
  constraint training_jobs_job_is_unique unique (job_id),
  constraint training_jobs_type_is_known
    check (job_type in ('transcription', 'sop_generation', 'mux_upload'))
);
comment on table public.training_jobs is
  'The jobs of a training, one per type. A retry runs the same job again.';
create index training_jobs_by_workspace on public.training_jobs (workspace_id);

create table public.training_chunks (
  training_id uuid not null references public.trainings (id) on delete cascade,
  number integer not null, -- position in the transcript, from 1
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  segments jsonb not null, -- [{start, end, text}], in seconds of the recording
  language text, -- name of the language as the engine reports it
  engine text not null,
  offline boolean not null,
  primary key (training_id, number),
  constraint training_chunks_count_from_one check (number between 1 and 1000),
  constraint training_chunks_are_bounded
    check (
      jsonb_typeof(segments) = 'array' and octet_length(segments::text) <= 400000
    )
);
comment on table public.training_chunks is
  'Parts of a transcript of about half a minute, each stored once after its recognition.';
create index training_chunks_by_workspace on public.training_chunks (workspace_id);

create view public.background_jobs with (security_invoker = true) as
select
  j.id,
  j.user_id,
  j.workspace_id as company_id,
  t.training_id,
  j.job_type,
  case
    when j.status = 'processing' and j.cancel_requested_at is not null
      then 'cancelling'
    when j.status = 'waiting' then 'processing'
    else j.status
  end as status,
  case j.status
    when 'completed' then 100
    else coalesce(round((j.progress ->> 'percentage')::numeric), 0)
  end::integer as progress_percentage,
  coalesce(j.progress ->> 'message', j.progress ->> 'stage') as progress_message,
  j.payload as input_data,
  j.result as output_data,
  case
    when j.error_message is not null or j.error_data is not null
      then jsonb_build_object('message', j.error_message)
        || coalesce(j.error_data - 'data', '{}')
        || case jsonb_typeof(j.error_data -> 'data')
          when 'object' then j.error_data -> 'data'
          else '{}'
        end
  end as error_data,
  greatest(j.attempts - 1, 0) as retry_count,
  -- For a failed job, the maximum equals the number of its retries, so that clients show no retry
  -- as left. It is 0 if the first attempt ended with a permanent error.
  case j.status
    when 'failed' then greatest(j.attempts - 1, 0)
    else j.max_attempts - 1
  end as max_retries,
  j.priority,
  j.created_at,
  j.started_at,
  j.finished_at as completed_at,
  j.updated_at,
  j.progress ->> 'stage' as stage,
  j.session_id,
  j.next_retry_at,
  r.title
from public.training_jobs as t
join public.jobs as j on j.id = t.job_id
join public.trainings as r on r.id = t.training_id;
comment on view public.background_jobs is
  'The jobs of trainings: transcription, sop_generation and mux_upload. The service role may '
  'delete finished jobs.';

create view public.job_queue with (security_invoker = true) as
select
  j.id as job_id,
  j.job_type,
  j.priority,
  j.created_at,
  j.workspace_id as company_id,
  t.training_id,
  j.user_id,
  coalesce(j.next_retry_at, j.scheduled_for, j.created_at) as due_at,
  j.attempts,
  j.max_attempts
from public.training_jobs as t
join public.jobs as j on j.id = t.job_id
where j.status = 'pending';
comment on view public.job_queue is
  'The pending jobs of trainings. Ordered by priority and created_at, they are leased in this '
  'order within a workspace.';

create function training.delete_background_job()
returns trigger
language plpgsql
set search_path = ''
as $$
begin
  if old.completed_at is null then
    -- Raise the error here, because the caller may not execute queue.refuse.
    raise exception
      using
        errcode = 'PT409',
        hint = 'invalid_state',
        detail = old.id::text,
        message = 'only a finished job can be deleted; cancel it first';
  end if;
  delete from public.jobs
  where parent_id = old.id and finished_at is not null;
  delete from public.jobs where id = old.id and finished_at is not null;
  return case when found then old end;
end;
$$;
create trigger background_jobs_delete
  instead of delete on public.background_jobs
  for each row
  execute function training.delete_background_job();

create view public.training_states with (security_invoker = true) as
select
  t.id,
  t.workspace_id,
  t.title,
  t.object_key,
  t.media,
  t.sound,
  t.transcript,
  t.procedure,
  t.published,
  t.created_at,
  'training:' || t.id as session_id,
  (
    select count(*)
    from public.training_chunks as c
    where c.training_id = t.id
  )::integer as transcribed,
  coalesce(j.jobs, '[]') as jobs,
  j.reason,
  case
    when j.cancelling > 0 then 'cancelling'
    when j.live > 0 then case when j.begun then 'running' else 'pending' end
    when j.failed > 0 then 'failed'
    when j.cancelled > 0 then 'cancelled'
    else 'completed'
  end as status,
  case
    when j.live + j.failed + j.cancelled = 0 then 100
    else coalesce(j.done, 0)
  end as progress_percentage,
  t.share_id
from public.trainings as t
cross join lateral (
  select
    jsonb_agg(
      to_jsonb(b)
      - '{input_data,output_data,user_id,company_id,training_id,session_id}'::text[]
      order by b.created_at, b.job_type desc
    ) as jobs,
    count(*) filter (where b.status in ('pending', 'processing')) as live,
    count(*) filter (where b.status = 'cancelling') as cancelling,
    count(*) filter (where b.status = 'failed') as failed,
    count(*) filter (where b.status = 'cancelled') as cancelled,
    bool_or(b.started_at is not null) as begun,
    min(queue.user_message(b.error_data ->> 'message', b.error_data))
      filter (where b.status = 'failed') as reason,
    floor(
      sum(
        b.progress_percentage
        * case b.job_type when 'transcription' then 70 else 15 end
      ) / 100
    )::integer as done
  from public.background_jobs as b
  where b.training_id = t.id
) as j;
comment on view public.training_states is
  'Trainings with the status, percentage and errors of their jobs.';

select queue.show_to_members('public.trainings');
select queue.show_to_members('public.training_jobs');
select queue.show_to_members('public.training_chunks');
select queue.show_to_members('public.background_jobs');
select queue.show_to_members('public.job_queue');
select queue.show_to_members('public.training_states');
grant delete on public.background_jobs to service_role;
select queue.charge_rows('public.trainings');

-- For the export and erasure of personal data, the comments below mark columns with the owner of a
-- row, and columns that may quote a person.
comment on column public.trainings.title is 'Person: words';
comment on column public.trainings.object_key is 'Person: file';
comment on column public.trainings.media is 'Person: words to clear';
comment on column public.trainings.transcript is 'Person: words';
comment on column public.trainings.procedure is 'Person: words';
comment on column public.trainings.published is 'Person: words';
comment on column public.trainings.created_by is 'Person: owner';
comment on column public.training_chunks.segments is 'Person: words';
