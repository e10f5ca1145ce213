-- Optional: call the worker from the database, where pg_net is installed, and each minute with pg_cron.
-- On AWS hints only: an enqueue through the API wakes the worker itself, and the schedule's tick of each minute is
-- the safety net. Without AWS this is the schedule. The file that attaches extensions gives it to pg_cron.

create function queue.invoke_worker() returns boolean
language plpgsql set search_path = '' as $$
declare
  v_url text := queue.setting('worker_url') #>> '{}';
  v_secret text := queue.setting('worker_secret_name') #>> '{}';
  v_token text;
begin
  if v_url is null or v_secret is null or to_regprocedure('net.http_post(text,jsonb,jsonb,jsonb,integer)') is null
      or to_regclass('vault.decrypted_secrets') is null then
    return false;
  end if;
  execute 'select decrypted_secret from vault.decrypted_secrets where name = $1' into v_token using v_secret;
  if v_token is null then
    raise warning 'the vault has no secret named %', v_secret;
    return false;
  end if;
  execute 'select net.http_post(url := $1, body := $2, params := $3, headers := $4, timeout_milliseconds := $5)'
  using v_url, '{}'::jsonb, '{}'::jsonb,
    jsonb_build_object('Authorization', 'Bearer ' || v_token, 'Content-Type', 'application/json'), 2000;
  return true;
exception when others then -- a hint that fails must not fail the enqueue
  raise warning 'the worker could not be called: % (%)', sqlerrm, sqlstate;
  return false;
end;
$$;
comment on function queue.invoke_worker is E'Invoke the worker by pg_net; false when it or the settings are missing.\n\nSettings: worker_url, the address of POST /api/jobs/worker, and worker_secret_name, the vault''s name of its token. Sent when the transaction commits.';
