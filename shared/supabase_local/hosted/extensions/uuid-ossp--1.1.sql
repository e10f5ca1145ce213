-- Functions of uuid-ossp for migrations.

create function uuid_generate_v4() returns uuid volatile
  language sql as 'select pg_catalog.gen_random_uuid()';
