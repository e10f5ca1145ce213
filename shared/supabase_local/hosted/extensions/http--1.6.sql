-- Types and signatures of pgsql-http, https://github.com/pramsey/pgsql-http. A call raises an
-- error, because it would keep the transaction open while waiting for another server.

create domain http_method as text;
create domain content_type as text check (value ~ '^\S+/\S+');
create type http_header as (field varchar, value varchar);
create type http_response as (
  status integer, content_type varchar, headers http_header[], content varchar
);
create type http_request as (
  method http_method, uri varchar, headers http_header[], content_type varchar, content varchar
);

create function http(request http_request) returns http_response
language plpgsql volatile
as $$
begin
  raise exception 'no request is sent here: % %', (request).method, (request).uri
    using errcode = '0A000', hint = 'Of the extensions, http is not run on the local stack.';
end;
$$;
create function http_get(uri varchar) returns http_response
language sql volatile
as $$ select @extschema@.http(('GET', uri, null, null, null)::@extschema@.http_request) $$;
create function http_get(uri varchar, data jsonb) returns http_response
language sql volatile
as $$
  select @extschema@.http(('GET', uri, null, null, data::text)::@extschema@.http_request)
$$;
create function http_post(uri varchar, content varchar, content_type varchar) returns http_response
language sql volatile
as $$
  select @extschema@.http(('POST', uri, null, content_type, content)::@extschema@.http_request)
$$;
create function http_post(uri varchar, data jsonb) returns http_response
language sql volatile
as $$
  select @extschema@.http(('POST', uri, null, null, data::text)::@extschema@.http_request)
$$;
