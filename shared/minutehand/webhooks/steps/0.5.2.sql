-- Run the task `webhooks` again, which the engine's migration stopped.
update queue.tasks set retry_at = null where name = 'webhooks';
