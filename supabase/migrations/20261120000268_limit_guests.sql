-- Limits on callers without an account, wherever they enter: whose address a call is from, and how many there may be.
-- The address is what the gateway saw, or what the API signed; nothing that a caller says of itself.

create table queue.guest_key (
  key bytea not null, -- 32 random bytes; new after each revocation of worker keys
  singleton boolean primary key default true check (singleton) -- always true
);
comment on table queue.guest_key is 'The key with which the API signs the address of a guest whose call it passes on; one row.';

create table queue.guest_uses (
  -- what is counted, as chat_guest_messages: the settings <name>_per_minute and <name>_per_day bound it
  name text not null,
  address text not null, -- an IPv4 address, the network /64 of an IPv6 address, or unknown; empty for all together
  unit text not null, -- minute or day
  starts_at timestamptz not null, -- when that minute or day began, UTC
  uses integer not null, -- how often since
  primary key (name, address, unit)
) with (fillfactor = 50);
create index guest_uses_by_start on queue.guest_uses (starts_at);
comment on table queue.guest_uses is 'What guests did in the present minute and day, by address and in all.';

insert into queue.settings (name, value) values
  -- set by hosted Supabase's own gateway; else the last of x-forwarded-for
  ('client_address_header', '"cf-connecting-ip"'),
  ('guest_address_percent', '10'); -- what one address may use of what all guests together may

create function queue.renew_guest_key() returns void
language sql set search_path = '' as $$
  insert into queue.guest_key (key)
  values (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
  on conflict (singleton) do update set key = excluded.key
$$;
comment on function queue.renew_guest_key is 'Make another key for the addresses of guests.';
select queue.renew_guest_key();

create function public.guest_key() returns jsonb
language sql stable
security definer -- callers hold no rights on the engine's tables
set search_path = ''
as $$ select jsonb_build_object('key', encode(key, 'hex')) from queue.guest_key $$;
comment on function public.guest_key is E'The key with which the API signs the address of a guest, in hexadecimal: {key}. For the service.\n\nThe header x-minutehand-client has the address, the Unix time and hex(sha256(key || sha256(key || "address time"))).';

create function queue.client_address() returns text
language plpgsql stable set search_path = '' as $$
declare
  v_headers jsonb := nullif(current_setting('request.headers', true), '');
  v_signed text[] := string_to_array(v_headers ->> 'x-minutehand-client', ' ');
  v_key bytea := (select key from queue.guest_key);
  v_address inet;
begin
  if cardinality(v_signed) = 3 and v_signed[3] = encode(sha256(v_key || sha256(v_key
      || convert_to(v_signed[1] || ' ' || v_signed[2], 'utf8'))), 'hex')
    and abs(extract(epoch from queue.clock()) - v_signed[2]::numeric) < 120 then
    v_address := v_signed[1];
  else
    v_address := coalesce(v_headers ->> (queue.setting('client_address_header') #>> '{}'),
      btrim(split_part(v_headers ->> 'x-forwarded-for', ',', -1))); -- what comes before it is the caller's own word
  end if;
  return coalesce(host(case family(v_address) when 6 then network(set_masklen(v_address, 64)) else v_address end),
    'unknown');
exception when invalid_text_representation then
  return 'unknown';
end;
$$;
comment on function queue.client_address is E'The address of the caller, of IPv6 its network /64: from the request''s headers.\n\nWhat the API signed (see guest_key), else the header of the setting client_address_header, else the last of x-forwarded-for, which is what the gateway saw; unknown where there is none.';

create function queue.refuse_guest(p_name text, p_address text, p_unit text) returns void
language sql set search_path = '' as $$
  select queue.refuse(429, 'quota_exceeded', format('no more of this without an account %s this %s',
    case when p_address = '' then 'in' else 'from your address in' end, p_unit), format('%s_per_%s', p_name, p_unit))
$$;
comment on function queue.refuse_guest is 'Refuse with 429 what guests have done enough of.';

create function queue.guest_windows(p_name text) returns table (
  address text, unit text, starts_at timestamptz, most integer, uses integer
)
language sql stable set search_path = '' as $$
  select a.address, u.unit, u.starts_at,
    ceil((queue.setting(format('%s_per_%s', p_name, u.unit)))::numeric * case when a.address = '' then 1
      else (queue.setting('guest_address_percent'))::numeric / 100 end),
    coalesce((select g.uses from queue.guest_uses as g
      where (g.name, g.address, g.unit, g.starts_at) = (p_name, a.address, u.unit, u.starts_at)), 0)
  from (values (queue.client_address(), 1), ('', 2)) as a (address, place),
    lateral (select n.unit, date_trunc(n.unit, queue.clock(), 'UTC') as starts_at
      from (values ('minute'), ('day')) as n (unit)) as u
  -- people and the service have limits of their own, or none
  where not queue.is_service_role() and (auth.uid() is null or auth.jwt() ->> 'is_anonymous' = 'true')
  order by a.place, u.unit
$$;
comment on function queue.guest_windows is 'What bounds what a guest does, with the uses so far: a minute and a day of its address, then of all together. None for people with an account and for the service role.';

create function queue.check_guest(p_name text) returns void
language plpgsql stable set search_path = '' as $$
declare
  v_full record;
begin
  select * into v_full from queue.guest_windows(p_name) where uses >= most limit 1;
  if found then
    perform queue.refuse_guest(p_name, v_full.address, v_full.unit);
  end if;
end;
$$;
comment on function queue.check_guest is 'Refuse with 429 a guest who may do no more of it, before anything is done. Counts nothing, see queue.admit_guest.';

create function queue.admit_guest(p_name text) returns void
language plpgsql set search_path = '' as $$
declare
  v_window record;
  v_uses integer;
begin
  delete from queue.guest_uses where (name, address, unit) in (
    select name, address, unit from queue.guest_uses where starts_at < queue.clock() - interval '2 days'
    order by starts_at limit 20 for update skip locked);
  for v_window in select * from queue.guest_windows(p_name) loop
    insert into queue.guest_uses as g (name, address, unit, starts_at, uses)
    values (p_name, v_window.address, v_window.unit, v_window.starts_at, 1)
    on conflict (name, address, unit) do update set starts_at = excluded.starts_at,
      uses = case when g.starts_at = excluded.starts_at then g.uses + 1 else 1 end
    returning uses into v_uses;
    if v_uses > v_window.most then -- the refusal rolls the count back
      perform queue.refuse_guest(p_name, v_window.address, v_window.unit);
    end if;
  end loop;
end;
$$;
comment on function queue.admit_guest is E'Count what a guest does, or refuse with 429: within the settings <name>_per_minute and <name>_per_day, and of those guest_address_percent for each address.\n\nFor apps'' functions that guests call: queue.check_guest first and this last, since the counts are locked from here to the end of the transaction and others wait for it.';

select queue.allow('job_worker, service_role', 'public.guest_key');
