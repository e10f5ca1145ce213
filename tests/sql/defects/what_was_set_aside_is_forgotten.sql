-- A cap is not released: what stood at a limit is neither brought back nor looked at again.
create or replace function queue.look_again(p_limit integer, p_now timestamptz) returns void
language sql
set search_path = ''
as $$ select $$;
create or replace function queue.bring_back(p_workspace_ids uuid[], p_job_types text[], p_keys text[]) returns void
language sql
set search_path = ''
as $$ select $$;
