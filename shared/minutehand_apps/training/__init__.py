"""Training: uploaded videos become transcripts, procedures and videos at a host, stage by stage."""
