-- 0.5.12 after the release before it; written by `python -m infra.release` from schemas.
-- Do not edit it, and do not read it: read the schemas.

-- Return the release of the engine's schema, which is the value of minutehand.version. `minutehand
-- doctor` compares this release with the release that the project recorded.
create or replace function queue.version()
returns text
language sql immutable
set search_path = ''
as $$
select '0.5.12'
$$;

select queue.close_tables();

-- Revoke the right of all roles to execute private functions. Rights of single roles remain,
-- because policies, column defaults and guests need them.
revoke execute on all functions in schema queue from public;
