-- Functions of pgcrypto for migrations and seeds, in SQL, because the embedded server is built
-- without OpenSSL. crypt computes real bcrypt hashes, which the local Auth server accepts. gen_salt
-- always uses bcrypt's lowest cost.

create function gen_random_uuid() returns uuid
  language sql volatile as 'select pg_catalog.gen_random_uuid()';

create function gen_random_bytes(count integer) returns bytea
language plpgsql volatile strict
as $$
declare
  v_bytes bytea := '';
begin
  if count not between 1 and 1024 then
    raise exception 'Length not in range' using errcode = '22023';
  end if;
  while length(v_bytes) < count loop
    v_bytes := v_bytes || sha256(uuid_send(pg_catalog.gen_random_uuid())
      || uuid_send(pg_catalog.gen_random_uuid()));
  end loop;
  return substring(v_bytes from 1 for count);
end;
$$;

create function digest(data bytea, type text) returns bytea
language plpgsql immutable strict
as $$
begin
  case lower(type)
    when 'md5' then return decode(md5(data), 'hex');
    when 'sha224' then return sha224(data);
    when 'sha256' then return sha256(data);
    when 'sha384' then return sha384(data);
    when 'sha512' then return sha512(data);
    else raise exception '% is not a part of the local pgcrypto', type using errcode = '0A000';
  end case;
end;
$$;
create function digest(data text, type text) returns bytea
language sql immutable strict as $$ select @extschema@.digest(convert_to(data, 'UTF8'), type) $$;

create function hmac(data bytea, key bytea, type text) returns bytea
language plpgsql immutable strict
as $$
declare
  v_size integer := case when lower(type) in ('sha384', 'sha512') then 128 else 64 end;
  v_key bytea := case when length(key) > v_size then @extschema@.digest(key, type) else key end;
  v_inner bytea := decode(repeat('36', v_size), 'hex');
  v_outer bytea := decode(repeat('5c', v_size), 'hex');
begin
  for i in 0 .. length(v_key) - 1 loop
    v_inner := set_byte(v_inner, i, get_byte(v_key, i) # 54);
    v_outer := set_byte(v_outer, i, get_byte(v_key, i) # 92);
  end loop;
  return @extschema@.digest(v_outer || @extschema@.digest(v_inner || data, type), type);
end;
$$;
create function hmac(data text, key text, type text) returns bytea
language sql immutable strict
as $$ select @extschema@.hmac(convert_to(data, 'UTF8'), convert_to(key, 'UTF8'), type) $$;

-- Encode as bcrypt does, in Base64 with another alphabet and without padding.
create function bcrypt_encode(data bytea) returns text
language sql immutable strict
as $$
  select translate(rtrim(encode(data, 'base64'), '='),
    'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/',
    './ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789')
$$;

create function gen_salt(type text, iter_count integer) returns text
language plpgsql volatile strict
as $$
begin
  if type <> 'bf' then
    raise exception 'only bcrypt, "bf", is a part of the local pgcrypto' using errcode = '0A000';
  end if;
  return '$2a$04$' || @extschema@.bcrypt_encode(@extschema@.gen_random_bytes(16));
end;
$$;
create function gen_salt(type text) returns text
language sql volatile strict as $$ select @extschema@.gen_salt(type, 4) $$;

-- Initial state of the Blowfish cipher, which consists of the first digits of pi.
create function blowfish_words() returns bigint[] immutable
  language sql as $$ select '{@pi@}'::bigint[] $$;

create function crypt(password text, salt text) returns text
language plpgsql immutable strict
as $$
declare
  v_key bytea := substring(convert_to(password, 'UTF8') || '\x00'::bytea from 1 for 72);
  v_salt bytea;
  v_keys bigint[];
  v_salts bigint[];
  v_none bigint[] := array_fill(0::bigint, array[18]);
  v_mix bigint[];
  v_last integer;
  p bigint[] := (@extschema@.blowfish_words())[1:18];
  s bigint[] := (@extschema@.blowfish_words())[19:1042];
  l bigint; r bigint; x bigint;
  -- OrpheanBeholderScryDoubt
  v_words bigint[] := '{1332899944,1700884034,1701343084,1684370003,1668446532,1869963892}';
begin
  if salt !~ '^\$2[abxy]\$(0[4-9]|1[0-9])\$[./A-Za-z0-9]{22}' then
    raise exception 'only bcrypt is a part of the local pgcrypto' using errcode = '0A000';
  end if;
  v_salt := substring(decode(translate(substring(salt from 8 for 22),
    './ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789',
    'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/') || '==', 'base64')
      from 1 for 16);
  for i in 0 .. 17 loop
    x := 0; l := 0;
    for j in 0 .. 3 loop
      x := x << 8 | get_byte(v_key, (i * 4 + j) % length(v_key));
      l := l << 8 | get_byte(v_salt, (i * 4 + j) % 16);
    end loop;
    v_keys[i + 1] := x; v_salts[i + 1] := l;
  end loop;
  -- First mix the key and the salt into the state of the Blowfish cipher. Then mix in the key and
  -- the salt alternately, and finally encrypt the text.
  v_last := 2 * (1 << substring(salt from 5 for 2)::integer) + 1;
  for v_pass in 0 .. v_last loop
    v_mix := case when v_pass = v_last then v_none
      when v_pass = 0 or v_pass % 2 = 1 then v_keys else v_salts end;
    for i in 1 .. 18 loop
      p[i] := p[i] # v_mix[i];
    end loop;
    v_mix := case when v_pass = 0 then v_salts else v_none end;
    l := 0; r := 0;
    for i in 0 .. case when v_pass = v_last then 191 else 520 end loop
      if v_pass = v_last then -- each of its three blocks 64 times
        l := v_words[i / 64 * 2 + 1]; r := v_words[i / 64 * 2 + 2];
      end if;
      l := l # v_mix[2 * i % 4 + 1] # p[1]; r := r # v_mix[2 * i % 4 + 2];
      for j in 1 .. 8 loop
        r := r # p[2 * j]
          # ((((s[(l >> 24) + 1] + s[(l >> 16 & 255) + 257]) # s[(l >> 8 & 255) + 513])
          + s[(l & 255) + 769]) & 4294967295);
        l := l # p[2 * j + 1]
          # ((((s[(r >> 24) + 1] + s[(r >> 16 & 255) + 257]) # s[(r >> 8 & 255) + 513])
          + s[(r & 255) + 769]) & 4294967295);
      end loop;
      x := l; l := r # p[18]; r := x;
      if v_pass = v_last then
        v_words[i / 64 * 2 + 1] := l; v_words[i / 64 * 2 + 2] := r;
      elsif i < 9 then
        p[2 * i + 1] := l; p[2 * i + 2] := r;
      else
        s[2 * i - 17] := l; s[2 * i - 16] := r;
      end if;
    end loop;
  end loop;
  return substring(salt from 1 for 29) || @extschema@.bcrypt_encode(substring((
    select decode(string_agg(lpad(to_hex(word), 8, '0'), '' order by n), 'hex')
    from unnest(v_words) with ordinality as t (word, n)) from 1 for 23));
end;
$$;
