-- What is planted: check | verdict | a word of the detail | of the fix; the way back below it.
-- migrations | fail | not applied | migration
update supabase_migrations.schema_migrations set version = 'planted' || version
where version = (select min(version) from supabase_migrations.schema_migrations);
-- back: update supabase_migrations.schema_migrations set version = replace(version, 'planted', '');
-- queue | warn | none of them serves enrich_acount. Due jobs: 1 | minutehand types
insert into queue.unpublished (job_type, workspace_id, job_id)
values ('enrich_acount', gen_random_uuid(), gen_random_uuid());
-- back: delete from queue.unpublished;
-- queue | warn | it is referenced | retried
update queue.tasks set failures = 9, failure = 'it is referenced', retry_at = 'infinity'
where name = 'retention';
-- back: update queue.tasks set failures = 0, retry_at = null where name = 'retention';
-- queue | warn | chat_message was rejected. no such day | minutehand types chat_message
update queue.job_types set refusal = 'no such day' where job_type = 'chat_message';
-- back: update queue.job_types set refusal = null where job_type = 'chat_message';
-- roles | fail | every role has default_transaction_read_only | set transaction read write; alter
alter database postgres set default_transaction_read_only = on;
-- back: set transaction read write; alter database postgres reset default_transaction_read_only;
