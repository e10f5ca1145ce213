-- This file connects optional extensions to the engine. A project can enable pg_cron, pg_net with
-- Supabase Vault, and Realtime at any time. A migration attaches only the extensions that are
-- enabled when the migration runs. A later call of public.attach_extensions attaches extensions
-- that were enabled after the migration.

create function public.attach_extensions()
returns jsonb
language plpgsql
security definer
set search_path = ''
set lock_timeout = '2s'
as $$
declare
  c_policy constant text := 'minutehand: members and guests follow';
  v_part text;
  v_problems jsonb := '{}';
  v_state jsonb := jsonb_build_object(
    'pg_cron', 'absent',
    'realtime', 'absent',
    'pg_net', case
      when to_regprocedure('net.http_post(text,jsonb,jsonb,jsonb,integer)') is null
          or to_regclass('vault.decrypted_secrets') is null
        then 'absent'
      when queue.setting('worker_url') is null then 'no_worker'
      else 'attached'
    end
  );
begin
  -- read all notes again, because the database may have been restored on another server, whose
  -- transaction ids are lower
  perform setval('queue.notes_gone', 0);
  foreach v_part in array array['pg_cron', 'realtime'] loop
    continue when v_part = 'pg_cron'
      and to_regprocedure('cron.schedule(text,text,text)') is null
      or v_part = 'realtime' and to_regclass('realtime.messages') is null;
    begin
      v_state := v_state || jsonb_build_object(v_part, 'attached');
      -- The pg_cron job minutehand-tidy deletes old rows of pg_cron's run history, which would
      -- otherwise grow without limit.
      if v_part = 'pg_cron' then
        execute $do$select cron.schedule('minutehand-tick', '* * * * *',
            'select queue.wake_worker(p_is_due => true)'),
          cron.schedule('minutehand-tidy', '17 3 * * *', 'delete from cron.job_run_details where '
            'end_time < now() - interval ''7 days'' and jobid in ('
            'select jobid from cron.job where jobname like ''minutehand-%'')')
          where (select count(*) from cron.job
            where jobname in ('minutehand-tick', 'minutehand-tidy')) < 2$do$;
      elsif not exists (
        select from pg_catalog.pg_policies
        where policyname = c_policy
      ) then
        -- call queue.may_follow in a subquery, so that Postgres runs the function once for each
        -- client that joins a topic
        execute format(
          'create policy %I on realtime.messages for select to authenticated, anon '
            'using (extension = ''broadcast'' and (select queue.may_follow('
            '(select realtime.topic()))))',
          c_policy
        );
      end if;
    exception when others then -- the failure of one extension must not stop the others
      v_state := v_state || jsonb_build_object(v_part, 'not_attached');
      v_problems := v_problems
        || jsonb_build_object(v_part, format('%s (%s)', sqlerrm, sqlstate));
      raise warning 'could not attach %: % (%)', v_part, sqlerrm, sqlstate;
    end;
  end loop;
  return v_state || jsonb_build_object('problems', v_problems);
end;
$$;
comment on function public.attach_extensions is
  E'Attach extensions that were installed after the migrations ran: {pg_cron, pg_net, realtime, '
  'problems}.\n\nEach extension is absent, not_attached or attached. pg_net is no_worker while no '
  'worker address is set.';
select queue.allow('service_role', 'public.attach_extensions');

create function public.connect_worker(p_url text, p_token text)
returns jsonb
language plpgsql
security definer
set search_path = ''
as $$
declare
  c_name constant text := 'minutehand_worker_token';
  v_id uuid;
begin
  if p_url is null then
    delete from queue.settings where name = 'worker_url';
    if to_regclass('vault.secrets') is not null then
      execute 'delete from vault.secrets where name = $1' using c_name;
    end if;
    return public.attach_extensions() || '{"url": null}';
  elsif p_url !~ '^https?://[^\s/]+/' then
    perform queue.refuse(
      400,
      'invalid_argument',
      'url must be the address of POST '
        '/api/jobs/worker, as https://jobs.example.com/api/jobs/worker',
      'url'
    );
  elsif char_length(coalesce(p_token, '')) < 16 then
    perform queue.refuse(
      400,
      'invalid_argument',
      'token must be the worker''s WORKER_SECRET_TOKEN',
      'token'
    );
  elsif public.attach_extensions() ->> 'pg_net' = 'absent' then
    perform queue.refuse(
      409,
      'extension_missing',
      'the database needs the extensions pg_net and supabase_vault',
      'Database → Extensions'
    );
  end if;
  execute 'select id from vault.decrypted_secrets where name = $1'
  into v_id
  using c_name;
  execute case
    when v_id is null then 'select vault.create_secret($2, $3)'
    else 'select vault.update_secret($1, $2)'
  end
  using v_id, p_token, c_name;
  insert into queue.settings (name, value, updated_at)
  values ('worker_url', to_jsonb(p_url), queue.clock())
  on conflict (name) do update set
    value = excluded.value,
    updated_at = excluded.updated_at;
  return public.attach_extensions() || jsonb_build_object('url', p_url);
end;
$$;
comment on function public.connect_worker is
  'Let the database invoke a worker over HTTPS when jobs arrive (pg_net) and every minute '
  '(pg_cron). A null address disconnects the worker. For operators.';
select queue.allow('service_role', 'public.connect_worker');

-- Revoke all rights on the engine's tables and views, and enable row level security. Skip a table
-- that already has row level security, because an earlier statement granted rights on this table.
create function queue.close_tables()
returns void
language plpgsql
set search_path = ''
as $$
declare
  v_one record;
begin
  for v_one in
    select oid::regclass as name, relkind
    from pg_catalog.pg_class
    where relnamespace = 'queue'::regnamespace
      and (relkind = 'v' or relkind = 'r' and not relrowsecurity)
  loop
    execute format('revoke all on %s from public, anon, authenticated, service_role', v_one.name);
    if v_one.relkind = 'r' then
      execute format('alter table %s enable row level security', v_one.name);
    end if;
  end loop;
end;
$$;
select queue.close_tables();

-- Revoke the right of all roles to execute private functions. Rights of single roles remain,
-- because policies, column defaults and guests need them.
revoke execute on all functions in schema queue from public;

select public.attach_extensions();
