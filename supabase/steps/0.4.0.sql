-- What doctor compares travels with the release; the database no longer keeps a copy of its own.
delete from queue.settings where name = 'facts';

-- A lease may be asked for by pools of slots, of some job types each.
alter type queue.lease_request add attribute pools jsonb;
