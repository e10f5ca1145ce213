-- What a project can switch on later: pg_cron, pg_net with the Vault, Realtime. A migration runs once, so what it did
-- not find then is attached by a function that may be called again at any time. And the last grants.

-- Call the worker by pg_net once connect_worker has named it. On AWS a hint only: an enqueue through the API wakes the
-- worker itself, and the tick of each minute is the safety net. Without AWS this is the schedule.
create function queue.invoke_worker() returns void
language plpgsql as $$
declare
  v_url constant text := queue.setting('worker_url') #>> '{}';
begin
  if v_url is not null then
    execute $do$select net.http_post(url := $1, body := '{}'::jsonb, params := '{}'::jsonb,
        headers := jsonb_build_object('Authorization', 'Bearer ' || s.decrypted_secret,
          'Content-Type', 'application/json'), timeout_milliseconds := 2000)
      from vault.decrypted_secrets as s where s.name = 'minutehand_worker_token'$do$ using v_url;
  end if;
exception when others then -- a hint that fails must not fail the enqueue
  raise warning 'the worker could not be called: % (%)', sqlerrm, sqlstate;
end;
$$;

create function public.attach_extensions() returns jsonb
language plpgsql security definer set search_path = ''
set lock_timeout = '2s' as $$
declare
  v_part text;
  v_problems jsonb := '{}';
  v_state jsonb := jsonb_build_object('pg_cron', 'absent', 'realtime', 'absent', 'pg_net', case
    when to_regprocedure('net.http_post(text,jsonb,jsonb,jsonb,integer)') is null
      or to_regclass('vault.decrypted_secrets') is null then 'absent'
    when queue.setting('worker_url') is null then 'no_worker' else 'attached' end);
begin
  foreach v_part in array array['pg_cron', 'realtime'] loop
    begin
      if v_part = 'pg_cron' and to_regprocedure('cron.schedule(text,text,text)') is not null then
        execute $do$select cron.schedule('minutehand-tick', '* * * * *', 'select queue.invoke_worker()'),
          -- the history of its runs grows without bound; that of other schedules is theirs
          cron.schedule('minutehand-tidy', '17 3 * * *', 'delete from cron.job_run_details where end_time < now() - '
            'interval ''7 days'' and jobid in (select jobid from cron.job where jobname like ''minutehand-%'')')
          where (select count(*) from cron.job where jobname in ('minutehand-tick', 'minutehand-tidy')) < 2$do$;
        v_state := v_state || '{"pg_cron": "attached"}';
      elsif v_part = 'realtime' and to_regclass('realtime.messages') is not null then
        if not exists (select from pg_catalog.pg_policies where schemaname = 'realtime' and tablename = 'messages'
            and policyname = 'minutehand: members and guests follow') then
          -- one policy, so that each join evaluates the function once
          create policy "minutehand: members and guests follow" on realtime.messages for select to authenticated, anon
            using (extension = 'broadcast' and (select queue.may_follow((select realtime.topic()))));
        end if;
        v_state := v_state || '{"realtime": "attached"}';
      end if;
    exception when others then -- one that is refused keeps none of the others away
      v_state := v_state || jsonb_build_object(v_part, 'not_attached');
      v_problems := v_problems || jsonb_build_object(v_part, format('%s (%s)', sqlerrm, sqlstate));
      raise warning 'could not attach %: % (%)', v_part, sqlerrm, sqlstate;
    end;
  end loop;
  return v_state || jsonb_build_object('problems', v_problems);
end;
$$;
comment on function public.attach_extensions is
  E'Attach optional parts installed after the migrations ran: {pg_cron, pg_net, realtime, problems}.\n\nEach absent, '
  'not_attached or attached; pg_net is no_worker while no worker''s address is set.';

create function public.connect_worker(p_url text, p_token text) returns jsonb
language plpgsql security definer set search_path = '' as $$
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
    perform queue.refuse(400, 'invalid_argument',
      'url must be the address of POST /api/jobs/worker, as https://jobs.example.com/api/jobs/worker', 'url');
  elsif char_length(coalesce(p_token, '')) < 16 then
    perform queue.refuse(400, 'invalid_argument', 'token must be the worker''s WORKER_SECRET_TOKEN', 'token');
  elsif public.attach_extensions() ->> 'pg_net' = 'absent' then
    perform queue.refuse(409, 'extension_missing', 'the database needs the extensions pg_net and supabase_vault',
      'Database → Extensions');
  end if;
  execute 'select id from vault.decrypted_secrets where name = $1' into v_id using c_name;
  if v_id is null then
    execute 'select vault.create_secret($1, $2)' using p_token, c_name;
  else
    execute 'select vault.update_secret($1, $2)' using v_id, p_token;
  end if;
  insert into queue.settings (name, value, updated_at)
  values ('worker_url', to_jsonb(p_url), queue.clock())
  on conflict (name) do update set value = excluded.value, updated_at = excluded.updated_at;
  return public.attach_extensions() || jsonb_build_object('url', p_url);
end;
$$;
comment on function public.connect_worker is
  'Let the database invoke a worker behind HTTPS at each arrival, by pg_net, and every minute, by pg_cron; '
  'without an address, no longer. For operators.';

select queue.allow('job_worker, service_role', 'public.attach_extensions');
select queue.allow('service_role', 'public.connect_worker');

select public.attach_extensions();

-- The engine's functions are called by functions in public alone, and its tables by its functions. What is made is
-- callable by public: this ends it here, and later migrations close what they add themselves (queue.allow).
revoke execute on all functions in schema queue from public;
grant execute on function queue.my_workspaces, queue.is_member, queue.is_manager, queue.is_operator, queue.caller,
  queue.clock, queue.new_id -- the last two for the defaults of rows that callers insert
  to authenticated, service_role;
grant execute on function queue.may_follow to anon, authenticated; -- in policies
revoke all on all tables in schema queue from public, anon, authenticated, service_role;
-- what the view public.job_events reads with its reader's rights: their policies decide
grant select on queue.job_events, queue.workers to authenticated, service_role;

do $$
declare
  v_statement text;
begin
  for v_statement in
    select format('alter table %s enable row level security', c.oid::regclass) from pg_catalog.pg_class as c
    where c.relnamespace = 'queue'::regnamespace and c.relkind = 'r'
    union all -- no function here finds a name by its caller's search path
    select format('alter function %s set search_path = %L', p.oid::regprocedure, '') from pg_catalog.pg_proc as p
    where p.pronamespace = 'queue'::regnamespace and p.prokind = 'f'
      and not exists (select from unnest(p.proconfig) as c where c like 'search_path=%')
  loop
    execute v_statement;
  end loop;
end;
$$;
