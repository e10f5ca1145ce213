"""Training app. Turns uploaded videos into transcripts and procedures, and publishes the videos."""
