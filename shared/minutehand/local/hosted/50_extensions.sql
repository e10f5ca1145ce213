-- The extensions that a hosted project begins with, as far as this server offers them.
do $$
declare
  v_one record;
begin
  for v_one in
    select wanted.name, wanted.schema
    from (values
      (1, 'pgcrypto', 'extensions'), (2, 'uuid-ossp', 'extensions'),
      (3, 'pg_stat_statements', 'extensions'), (4, 'supabase_vault', 'vault')
    ) as wanted (place, name, schema)
    join pg_catalog.pg_available_extensions as here
      on here.name = wanted.name and here.installed_version is null
    join pg_catalog.pg_available_extension_versions as version
      on version.name = here.name and version.version = here.default_version and version.trusted
    order by wanted.place
  loop
    execute format('create schema if not exists %I', v_one.schema);
    execute format('grant usage, create on schema %I to postgres', v_one.schema);
    -- its owner, so that a migration may drop it or comment on it
    set local role postgres;
    execute format('create extension %I with schema %I', v_one.name, v_one.schema);
    reset role;
  end loop;
end;
$$;

create schema if not exists graphql;
create schema if not exists graphql_public;
grant usage on schema graphql, graphql_public to postgres, anon, authenticated, service_role;

-- database webhooks, as the dashboard makes them; no request is sent here
create schema if not exists supabase_functions;
grant usage on schema supabase_functions to postgres, anon, authenticated, service_role;
create or replace function supabase_functions.http_request() returns trigger
language plpgsql
as $$
begin
  return coalesce(new, old);
end;
$$;
