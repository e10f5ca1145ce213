-- Another payload under the same idempotency key gets the first job.
do $patch$
declare
  v_body text := pg_get_functiondef('queue.claim_key'::regproc);
begin
  if position($old$elsif v_key.request_hash <> p_hash then$old$ in v_body) = 0 then
    raise exception 'the defect does not apply any more';
  end if;
  execute replace(v_body, $old$elsif v_key.request_hash <> p_hash then$old$, $new$elsif false then$new$);
end;
$patch$;
