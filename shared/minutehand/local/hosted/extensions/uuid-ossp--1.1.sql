-- What migrations call of uuid-ossp.

create function uuid_nil() returns uuid immutable language sql
as $$ select '00000000-0000-0000-0000-000000000000'::uuid $$;
create function uuid_generate_v4() returns uuid volatile
  language sql as 'select pg_catalog.gen_random_uuid()';
