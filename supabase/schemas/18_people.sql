-- This file exports and erases personal data. Each column that contains the id of a person or text
-- about a person is marked by a comment. The functions of this file export or erase the data in
-- marked columns of the engine, of apps and of the project. The comment on a marked column begins
-- with `Person:` and continues with one of the following words.
--
-- - `owner` marks a column with the id of the row's owner. An erasure deletes the rows that the
--   person owns.
-- - `key` marks a text that may contain the id of a person. An erasure deletes the row if the text
--   contains the person's id.
-- - `file` marks the key of a stored file. If the key contains the person's id, an erasure deletes
--   the row and returns the key.
-- - `tags` marks an array of tags. An erasure deletes the row if the array has the tag user:<id>.
-- - `mention` marks a column with the id of a person who acted. An erasure clears the id and the
--   marked texts of the row.
-- - `jobs` marks an array of job ids. If an erasure deletes one of the jobs, it also clears the
--   marked texts of the row.
-- - `words` marks a text. An erasure deletes the row if the text quotes the person.
-- - `words to clear` marks a text that an erasure clears if the text quotes the person.
-- - `words of the job` marks a text about a job. An erasure deletes the whole job if the text
--   quotes the person.
-- - `secret` marks a value that an export omits.
--
-- The functions search for text about a person only if the caller passes words to search for,
-- because a search for words reads whole tables.

do $$
declare
  v_one record;
begin
  for v_one in
    select k.kind, c.name
    from (
      values
        (
          'owner',
          '{public.jobs.user_id, queue.named_events.created_by, queue.schedules.created_by,
          queue.followers.user_id, queue.guest_sessions.user_id,
          public.workspace_members.user_id}'
        ),
        ('key', '{queue.buckets.name}'),
        ('tags', '{public.jobs.tags}'),
        ('mention', '{queue.pauses.paused_by}'),
        ('jobs', '{queue.feed.job_ids, queue.feed.leased_ids}'),
        (
          'words',
          '{public.jobs.payload, public.jobs.progress, public.jobs.result,
          public.jobs.error_message, public.jobs.error_data, public.jobs.session_id,
          public.jobs.concurrency_key, public.jobs.idempotency_key, public.jobs.unique_key,
          queue.signals.name, queue.named_events.name, queue.named_events.payload,
          queue.schedules.name, queue.schedules.payload, queue.schedules.options,
          queue.followers.topic, queue.streamed_topics.topic, queue.stats.job_type}'
        ),
        (
          'words to clear',
          '{queue.feed.session_id, queue.feed.data, queue.refusals.failure,
          queue.schedules.problem, queue.pauses.reason, queue.tasks.failure,
          public.workspaces.name}'
        ),
        (
          'words of the job',
          '{public.job_logs.message, public.job_logs.metadata, queue.job_events.data,
          queue.attempts.error_message, queue.attempts.error_data, queue.attempts.traceback,
          queue.job_keys.key, queue.steps.name, queue.steps.value, queue.waits.step,
          queue.waits.data, queue.waits.event_name, queue.waits.default_value}'
        )
    ) as k (kind, columns)
    cross join lateral unnest(k.columns::text[]) as c (name)
  loop
    execute format('comment on column %s is %L', v_one.name, 'Person: ' || v_one.kind);
  end loop;
end;
$$;

-- Return the marked columns of all tables that have the same owner as the engine. Tables of other
-- owners are omitted, because a delete by the engine would run the triggers of such a table with
-- the rights of the engine.
create function queue.personal_columns(
  out relation regclass,
  out name text,
  out type text,
  out kind text,
  out empty text -- SQL expression for the value after clearing
)
returns setof record
language sql stable
set search_path = ''
as $$
select
  c.oid,
  quote_ident(a.attname),
  format_type(a.atttypid, null),
  substr(d.description, 9),
  case
    when not a.attnotnull then 'null'
    when a.atttypid = 'jsonb'::regtype then '''{}'''
    else '''erased'''
  end
from pg_catalog.pg_description as d
join pg_catalog.pg_class as c on c.oid = d.objoid
join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attnum = d.objsubid
join pg_catalog.pg_namespace as n on n.oid = 'queue'::regnamespace
where d.classoid = 'pg_class'::regclass
  and d.description like 'Person: %'
  and c.relkind in ('r', 'p')
  and c.relowner = n.nspowner
$$;

-- For each table with marked columns, return SQL conditions that select the rows about a person. In
-- the conditions, $1 is the person's id, $2 are the patterns of queue.person_patterns, and $3 are
-- the ids of the deleted jobs.
-- p_searches: True to also select rows whose text matches a pattern in $2.
-- is_theirs: Condition for rows that are deleted because they belong to the person.
-- is_about: Condition for rows that are kept, but whose text about the person is cleared.
-- is_of_job: Condition for rows of a job whose text quotes the person, so that the whole job is
--   deleted.
create function queue.personal_tables(
  p_searches boolean,
  out relation regclass,
  out is_theirs text,
  out is_about text,
  out is_of_job text,
  out clears text, -- assignments that clear the text
  out files text, -- expressions of the keys of files, or null
  out secrets text[]
)
returns setof record
language sql stable
set search_path = ''
as $$
with columns as (
  select
    c.*,
    case
      when p_searches then format('t.%s::text ilike any ($2)', c.name)
      else 'false'
    end as quotes
  from queue.personal_columns() as c
),
abouts as (
  select
    c.relation,
    string_agg(
      case c.kind
        when 'mention' then format('t.%s = $1::%s', c.name, c.type)
        else format('t.%s && $3', c.name)
      end,
      ' or '
    ) as is_about
  from columns as c
  where c.kind in ('mention', 'jobs')
  group by c.relation
)
select
  c.relation,
  coalesce(
    string_agg(
      case c.kind
        when 'owner' then format('t.%s = $1::%s', c.name, c.type)
        when 'tags'
          then format('t.%s @> array[''user:'' || $1] or %s', c.name, c.quotes)
        when 'words' then c.quotes
        else format('strpos(t.%s, $1) > 0 or %s', c.name, c.quotes) -- key or file
      end,
      ' or '
    ) filter (where c.kind in ('owner', 'key', 'file', 'tags', 'words')),
    'false'
  ),
  concat_ws(
    ' or ',
    coalesce(a.is_about, 'false'),
    string_agg(c.quotes, ' or ') filter (
      where c.kind in ('mention', 'words to clear')
    )
  ),
  string_agg(c.quotes, ' or ') filter (where c.kind = 'words of the job'),
  string_agg(
    format(
      '%1$s = case when %2$s or %3$s then %4$s else t.%1$s end',
      c.name,
      coalesce(a.is_about, 'false'),
      c.quotes,
      c.empty
    ),
    ', '
  ) filter (where c.kind in ('mention', 'words to clear')),
  string_agg(format('t.%s::text', c.name), ', ') filter (where c.kind = 'file'),
  coalesce(array_agg(c.name) filter (where c.kind = 'secret'), '{}')
from columns as c
left join abouts as a on a.relation = c.relation
group by c.relation, a.is_about
order by c.relation::text
$$;

-- Return patterns for ilike that match the person's id and each of p_words, in text and in JSON.
create function queue.person_patterns(p_user_id uuid, p_words text[])
returns text[]
language plpgsql immutable
set search_path = ''
as $$
begin
  if p_user_id is null then
    perform queue.refuse(
      400,
      'invalid_argument',
      'p_user_id is required',
      'p_user_id'
    );
  elsif exists (
    select from unnest(p_words) as w (word)
    where coalesce(char_length(btrim(w.word)), 0) < 3
  ) then
    perform queue.refuse(
      400,
      'invalid_argument',
      'each of p_words must have at least 3 characters',
      'p_words'
    );
  end if;
  if coalesce(cardinality(p_words), 0) = 0 then
    return '{}';
  end if;
  return array(
    select distinct '%' || regexp_replace(f.form, '([\\%_])', '\\\1', 'g') || '%'
    from unnest(p_words || p_user_id::text) as w (word)
    cross join lateral (
      values
        (btrim(w.word)),
        (btrim(to_jsonb(btrim(w.word))::text, '"'))
    ) as f (form)
  );
end;
$$;

-- Return the ids of the jobs that a person created, and of the jobs that quote the person.
create function queue.jobs_of_person(p_user_id uuid, p_patterns text[])
returns uuid[]
language plpgsql stable
set search_path = ''
as $$
declare
  v_parts constant text[] := array(
    select case p.relation
      when 'public.jobs'::regclass then format(
        'select t.id from %s as t where %s',
        p.relation,
        p.is_theirs
      )
      else format(
        'select t.job_id from %s as t where %s',
        p.relation,
        p.is_of_job
      )
    end
    from queue.personal_tables(cardinality(p_patterns) > 0) as p
    where p.relation = 'public.jobs'::regclass
      or p.is_of_job is not null and cardinality(p_patterns) > 0
  );
  v_jobs uuid[];
begin
  execute format('select array(%s order by 1)', array_to_string(v_parts, ' union '))
  into v_jobs
  using p_user_id::text, p_patterns;
  return v_jobs;
end;
$$;

create function public.erase_person(p_user_id uuid, p_words text[] default null)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_patterns constant text[] := queue.person_patterns(p_user_id, p_words);
  v_jobs uuid[];
  v_one record;
  v_rows bigint;
  v_deleted jsonb;
  v_cleared jsonb := '{}';
  v_keys text[];
  v_files text[] := '{}';
begin
  v_jobs := queue.jobs_of_person(p_user_id, v_patterns);
  perform from public.jobs
  where id = any (v_jobs)
  order by id
  for update;
  delete from public.jobs where id = any (v_jobs);
  get diagnostics v_rows = row_count;
  v_deleted := jsonb_build_object('public.jobs', nullif(v_rows, 0));
  for v_one in
    select *
    from queue.personal_tables(cardinality(v_patterns) > 0) as p
    where p.relation <> 'public.jobs'::regclass
  loop
    execute format(
      'with gone as (delete from %s as t where %s returning array[%s]::text[] as keys) '
        'select count(*), array(select k from gone, unnest(keys) as k) from gone',
      v_one.relation,
      v_one.is_theirs,
      v_one.files
    )
    into v_rows, v_keys
    using p_user_id::text, v_patterns;
    v_files := v_files || v_keys;
    v_deleted := v_deleted || jsonb_build_object(v_one.relation, nullif(v_rows, 0));
    continue when v_one.clears is null;
    execute format(
      'update %s as t set %s where %s',
      v_one.relation,
      v_one.clears,
      v_one.is_about
    )
    using p_user_id::text, v_patterns, v_jobs;
    get diagnostics v_rows = row_count;
    v_cleared := v_cleared || jsonb_build_object(v_one.relation, nullif(v_rows, 0));
  end loop;
  return jsonb_strip_nulls(jsonb_build_object(
    'deleted', v_deleted,
    'cleared', v_cleared,
    'files', to_jsonb(nullif(v_files, '{}'))
  ));
end;
$$;
comment on function public.erase_person is
  E'Delete a person''s jobs and all data that names the person: {deleted: {table: rows}, cleared, '
  'files}. files lists the keys of stored files, which the caller must delete.\n\np_words: names '
  'or addresses, each of 3 characters or more. With p_words the call reads all tables, and also '
  'erases text that quotes a word or the person''s id. For operators.';
select queue.allow('service_role', 'public.erase_person');

create function public.export_person(p_user_id uuid, p_words text[] default null)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  v_patterns constant text[] := queue.person_patterns(p_user_id, p_words);
  v_jobs constant uuid[] := queue.jobs_of_person(p_user_id, v_patterns);
  v_one record;
  v_part record;
  v_rows jsonb;
  v_tables jsonb := '{}';
begin
  for v_one in
    select *
    from queue.personal_tables(cardinality(v_patterns) > 0) as p
  loop
    for v_part in -- rows of the table, and rows of other tables that a foreign key deletes too
      select
        v_one.relation,
        format(
          '(%s) or (%s) or %s',
          v_one.is_theirs,
          v_one.is_about,
          case
            when v_one.relation = 'public.jobs'::regclass then 't.id = any ($3)'
            when v_one.is_of_job is not null then 't.job_id = any ($3)'
            else 'false'
          end
        ) as condition
      union all
      select
        k.conrelid::regclass,
        format(
          '(%s) in (select %s from %s as t where %s)',
          n.its,
          n.theirs,
          v_one.relation,
          v_one.is_theirs
        )
      from pg_catalog.pg_constraint as k
      cross join lateral (
        select
          string_agg(format('t.%I', a.attname), ', ' order by c.nth) as its,
          string_agg(format('t.%I', b.attname), ', ' order by c.nth) as theirs
        from unnest(k.conkey, k.confkey) with ordinality as c (its, theirs, nth)
        join pg_catalog.pg_attribute as a on a.attrelid = k.conrelid and a.attnum = c.its
        join pg_catalog.pg_attribute as b on b.attrelid = k.confrelid and b.attnum = c.theirs
      ) as n
      where k.confrelid = v_one.relation and k.confdeltype = 'c'
    loop
      execute format(
        'select jsonb_agg(to_jsonb(t) - $4) from %s as t where %s',
        v_part.relation,
        v_part.condition
      )
      into v_rows
      using p_user_id::text, v_patterns, v_jobs, v_one.secrets;
      if v_rows is not null then
        v_tables := v_tables || jsonb_build_object(
          v_part.relation, coalesce(v_tables -> v_part.relation::text, '[]') || v_rows
        );
      end if;
    end loop;
  end loop;
  return jsonb_build_object('user_id', p_user_id, 'tables', v_tables);
end;
$$;
comment on function public.export_person is
  E'A person''s jobs and all data that names the person: {user_id, tables: {table: [row]}}.\n\n'
  'These are the rows that erase_person deletes or clears with the same arguments. For operators.';
select queue.allow('service_role', 'public.export_person');
