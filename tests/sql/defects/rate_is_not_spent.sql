-- The token bucket is looked at but nothing is taken out.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.spend_tokens'::regproc);
begin
  if position($old$- (t.rate_limit - excluded.tokens)$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$- (t.rate_limit - excluded.tokens)$old$, $new$$new$);
end;
$patch$;
