-- The entry point of pg_graphql. What it answers is what a project answers that has switched it off.

create function graphql.resolve(
  query text, variables jsonb default '{}', "operationName" text default null, extensions jsonb default null
) returns jsonb
language sql stable
as $$ select '{"errors": [{"message": "pg_graphql extension is not enabled."}]}'::jsonb $$;
grant usage on schema graphql to postgres with grant option;
grant usage on schema graphql to anon, authenticated, service_role;
