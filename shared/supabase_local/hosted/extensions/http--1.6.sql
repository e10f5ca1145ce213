-- The types and signatures of pgsql-http, https://github.com/pramsey/pgsql-http
-- A call is refused by name: it would hold the transaction while it waits for another's server.

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
create function http_head(uri varchar) returns http_response
language sql volatile
as $$ select @extschema@.http(('HEAD', uri, null, null, null)::@extschema@.http_request) $$;
create function http_delete(uri varchar) returns http_response
language sql volatile
as $$ select @extschema@.http(('DELETE', uri, null, null, null)::@extschema@.http_request) $$;
create function http_delete(uri varchar, content varchar, content_type varchar)
returns http_response
language sql volatile
as $$
  select @extschema@.http(('DELETE', uri, null, content_type, content)::@extschema@.http_request)
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
create function http_put(uri varchar, content varchar, content_type varchar) returns http_response
language sql volatile
as $$
  select @extschema@.http(('PUT', uri, null, content_type, content)::@extschema@.http_request)
$$;
create function http_patch(uri varchar, content varchar, content_type varchar) returns http_response
language sql volatile
as $$
  select @extschema@.http(('PATCH', uri, null, content_type, content)::@extschema@.http_request)
$$;
create function http_header(field varchar, value varchar) returns http_header
language sql immutable
as $$ select (field, value)::@extschema@.http_header $$;
create function http_set_curlopt(curlopt varchar, value varchar) returns boolean
language sql volatile as $$ select true $$;
create function http_reset_curlopt() returns boolean
language sql volatile as $$ select true $$;
create function urlencode(string bytea) returns text
language sql immutable strict
as $$
  select coalesce(string_agg(case
    when one between 48 and 57 or one between 65 and 90 or one between 97 and 122
      or one in (45, 46, 95, 126) then chr(one)
    else '%' || upper(lpad(to_hex(one), 2, '0')) end, '' order by n), '')
  from generate_series(0, length(string) - 1) as n
  cross join lateral (select get_byte(string, n) as one) as b
$$;
create function urlencode(string varchar) returns text
language sql immutable strict
as $$ select @extschema@.urlencode(convert_to(string, 'UTF8')) $$;
create function urlencode(data jsonb) returns text
language sql immutable strict
as $$
  select string_agg(@extschema@.urlencode(key::varchar) || '='
    || @extschema@.urlencode(value::varchar), '&')
  from jsonb_each_text(data)
$$;
