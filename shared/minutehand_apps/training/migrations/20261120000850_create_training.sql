-- Training turns uploaded videos into transcripts and procedures: the app's tables.
-- Delete this app's folder, and the platform does not notice.

create schema if not exists training;
comment on schema training is 'The training app''s own helpers. Not exposed.';
revoke all on schema training from public;

create table public.trainings (
  id uuid primary key default queue.new_id(),
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  title text not null,
  object_key text,
  source_url text,
  checksum text,
  host_upload text,
  host_asset text,
  stills jsonb not null default '[]',
  without_model boolean not null default false,
  created_by uuid,
  created_at timestamptz not null default queue.clock(),
  constraint trainings_one_per_object unique (object_key),
  constraint trainings_title_is_bounded check (char_length(title) between 1 and 200 and title ~ '\S'),
  constraint trainings_have_one_source check ((object_key is null) <> (source_url is null)),
  constraint trainings_object_is_the_workspaces
    check (object_key like 'workspaces/' || workspace_id || '/%' and char_length(object_key) <= 400),
  constraint trainings_source_is_https check (source_url like 'https://%' and char_length(source_url) <= 2000),
  constraint trainings_stills_are_a_list check (jsonb_typeof(stills) = 'array'),
  constraint trainings_checksum_is_sha256 check (checksum ~ '^[0-9a-f]{64}(-[0-9]{1,5})?$')
);
comment on table public.trainings is
  'Recordings to learn from. Their jobs are in training_jobs, their results in the other tables.';
comment on column public.trainings.id is 'The training, orders by time unless its creator chose it.';
comment on column public.trainings.workspace_id is 'The workspace that owns it.';
comment on column public.trainings.title is 'Title, 1 to 200 characters.';
comment on column public.trainings.object_key is 'The file in the uploads bucket; null when it is elsewhere.';
comment on column public.trainings.source_url is 'Where the recording is fetched from; null for an upload.';
comment on column public.trainings.checksum is
  'SHA-256 of the file in hexadecimal, or of its parts'' checksums with their number behind a dash; checked when a '
  'worker reads it. Null when none was announced.';
comment on column public.trainings.host_upload is 'The video host''s id of the upload; null before there is one.';
comment on column public.trainings.host_asset is 'The video host''s id of the video; null before there is one.';
comment on column public.trainings.stills is
  'Times of the recording, in seconds, of which a still is in the uploads bucket.';
comment on column public.trainings.without_model is
  'Whether its procedure is extracted although there is a language model.';
comment on column public.trainings.created_by is 'Who started it; null for the service.';
comment on column public.trainings.created_at is 'When it was started, UTC.';
create index trainings_newest on public.trainings (workspace_id, created_at desc, id desc);
create index trainings_by_host_upload on public.trainings (host_upload) where host_upload is not null;
create index trainings_by_host_asset on public.trainings (host_asset) where host_asset is not null;

create table public.training_jobs (
  training_id uuid not null references public.trainings (id) on delete cascade,
  job_type text not null,
  job_id uuid not null,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  generation integer not null default 1,
  started_at timestamptz,
  created_at timestamptz not null default queue.clock(),
  primary key (training_id, job_type),
  constraint training_jobs_job_is_unique unique (job_id),
  constraint training_jobs_type_is_known check (job_type in ('transcription', 'sop_generation', 'mux_upload'))
);
comment on table public.training_jobs is 'The jobs of a training, one per type; a retry runs the same job again.';
comment on column public.training_jobs.training_id is 'The training.';
comment on column public.training_jobs.job_type is 'transcription, sop_generation or mux_upload.';
comment on column public.training_jobs.job_id is 'The job; it may have been removed by retention since.';
comment on column public.training_jobs.workspace_id is 'The training''s workspace.';
comment on column public.training_jobs.generation is 'The job''s generation that failed stages were last cleared for.';
comment on column public.training_jobs.started_at is 'First start of the job, UTC; null before it. A retry keeps it.';
comment on column public.training_jobs.created_at is 'When the job was enqueued, UTC.';
create index training_jobs_newest on public.training_jobs (workspace_id, created_at desc);

create table public.training_stages (
  training_id uuid not null references public.trainings (id) on delete cascade,
  name text not null,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  run integer not null,
  status text not null,
  result jsonb,
  code text,
  reason text,
  seconds numeric(12, 3) not null default 0,
  finished_at timestamptz not null default queue.clock(),
  primary key (training_id, name),
  constraint training_stages_name_is_known
    check (name in ('verify', 'audio', 'transcribe', 'procedure', 'publish')),
  constraint training_stages_status_is_known check (status in ('completed', 'failed')),
  constraint training_stages_have_a_result_or_a_reason
    check ((status = 'completed') = (result is not null) and (status = 'failed') = (code is not null)),
  constraint training_stages_are_bounded check (octet_length(result::text) <= 200000
    and char_length(reason) <= 2000 and char_length(code) <= 100 and seconds >= 0)
);
comment on table public.training_stages is
  E'Results of a training''s stages.\n\nA completed one is never written again, by no attempt or run.';
comment on column public.training_stages.training_id is 'The training.';
comment on column public.training_stages.name is
  'verify, audio and transcribe are the transcription''s, procedure the sop_generation''s, publish the mux_upload''s.';
comment on column public.training_stages.workspace_id is 'The training''s workspace.';
comment on column public.training_stages.run is 'The generation of the job that wrote it, from 1.';
comment on column public.training_stages.status is 'completed or failed, in this run.';
comment on column public.training_stages.result is 'Its result, in the stage''s own shape; null unless completed.';
comment on column public.training_stages.code is 'Why it failed, as a stable word; null when completed.';
comment on column public.training_stages.reason is 'Why it failed, as a sentence; null when completed.';
comment on column public.training_stages.seconds is 'Run time in seconds, without waits.';
comment on column public.training_stages.finished_at is 'When it was stored, UTC.';
create index training_stages_by_workspace on public.training_stages (workspace_id);

create table public.training_chunks (
  training_id uuid not null references public.trainings (id) on delete cascade,
  number integer not null,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  starts_at_seconds numeric(12, 3) not null,
  ends_at_seconds numeric(12, 3) not null,
  segments jsonb not null,
  language text,
  engine text not null,
  offline boolean not null,
  finished_at timestamptz not null default queue.clock(),
  primary key (training_id, number),
  constraint training_chunks_count_from_one check (number between 1 and 1000),
  constraint training_chunks_last check (starts_at_seconds >= 0 and ends_at_seconds > starts_at_seconds),
  constraint training_chunks_segments_are_bounded
    check (jsonb_typeof(segments) = 'array' and octet_length(segments::text) <= 400000),
  constraint training_chunks_language_is_bounded check (char_length(language) between 1 and 40),
  constraint training_chunks_engine_is_bounded check (char_length(engine) between 1 and 200)
);
comment on table public.training_chunks is
  'The transcript in stretches of about half a minute, stored as they are recognised; never written twice.';
comment on column public.training_chunks.training_id is 'The training.';
comment on column public.training_chunks.number is 'Its place, from 1.';
comment on column public.training_chunks.workspace_id is 'The training''s workspace.';
comment on column public.training_chunks.starts_at_seconds is 'Where in the recording it begins.';
comment on column public.training_chunks.ends_at_seconds is 'Where in the recording it ends.';
comment on column public.training_chunks.segments is
  'What was said: [{start, end, text, words: [[word, start, end]]}], seconds of the recording; words may be empty.';
comment on column public.training_chunks.language is 'Language, as the engine names it; null when it does not.';
comment on column public.training_chunks.engine is 'The engine that transcribed it.';
comment on column public.training_chunks.offline is 'Whether that was the offline engine.';
comment on column public.training_chunks.finished_at is 'When it was stored, UTC.';
create index training_chunks_by_workspace on public.training_chunks (workspace_id);

create table public.training_procedures (
  training_id uuid not null references public.trainings (id) on delete cascade,
  version integer not null,
  workspace_id uuid not null references public.workspaces (id) on delete cascade,
  procedure jsonb not null,
  author text not null,
  offline boolean not null default false,
  created_by uuid,
  created_at timestamptz not null default queue.clock(),
  primary key (training_id, version),
  constraint training_procedures_count_from_one check (version between 1 and 1000),
  constraint training_procedures_author_is_known check (char_length(author) between 1 and 200),
  constraint training_procedures_are_bounded
    check (jsonb_typeof(procedure) = 'object' and octet_length(procedure::text) <= 1000000)
);
comment on table public.training_procedures is 'A training''s procedure in all its versions; each is kept as written.';
comment on column public.training_procedures.training_id is 'The training.';
comment on column public.training_procedures.version is '1 is the generated one; each edit is the next.';
comment on column public.training_procedures.workspace_id is 'The training''s workspace.';
comment on column public.training_procedures.procedure is
  '{title, purpose, materials, warnings, steps: [{title, detail, at_seconds}]}; at_seconds is where in the recording.';
comment on column public.training_procedures.author is 'The model that wrote it, or the word person.';
comment on column public.training_procedures.offline is 'Whether it was made without a language model.';
comment on column public.training_procedures.created_by is 'Who edited it; null for a generated one.';
comment on column public.training_procedures.created_at is 'When it was stored, UTC.';
create index training_procedures_by_workspace on public.training_procedures (workspace_id);

create table training.host_events (
  event_id text primary key, -- the host's id of the event
  training_id uuid not null references public.trainings (id) on delete cascade, -- the training it is about
  type text not null, -- the host's name of what happened, as video.asset.ready
  received_at timestamptz not null default queue.clock(), -- when it was received, UTC
  constraint host_events_are_bounded check (char_length(event_id) between 1 and 200 and char_length(type) <= 100)
);
comment on table training.host_events is 'Webhooks of the video host that were handled, so that a repeat does nothing.';
create index host_events_by_training on training.host_events (training_id);

insert into queue.settings (name, value) values
  ('training_max_bytes', '5368709120'), -- of one recording
  ('training_max_seconds', '14400'); -- of one recording's playing time

-- the app's jobs are kept for 30 days, whatever their outcome
insert into queue.job_types (job_type, internal, retention_days)
select job_type, true, '{"completed": 30, "cancelled": 30, "failed": 30}'
from unnest(array['transcription', 'sop_generation', 'mux_upload', 'training_chunk', 'training_clean',
  'training_stills']) as t (job_type)
on conflict (job_type) do update set retention_days = excluded.retention_days;

select queue.close_tables('training.host_events');
select queue.show_to_members('public.trainings', 'public.training_jobs', 'public.training_stages',
  'public.training_chunks', 'public.training_procedures');
