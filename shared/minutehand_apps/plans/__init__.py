"""Plans: a goal planned in stages, its text streamed, and always a report, even a partial one."""
