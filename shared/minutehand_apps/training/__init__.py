"""Training app, which turns videos into transcripts and procedures, and publishes the videos."""
