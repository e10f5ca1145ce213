// The guide's browser client: submit a recording, get the id of its job.

export function trainingClient(request) {
  return {
    /** Have a recording transcribed, and a procedure made of it. */
    async createTranscriptionJob(userId, companyId, audioUrl, trainingId) {
      const made = await request(
        "POST",
        `/api/trainings/${encodeURIComponent(trainingId)}/transcription`,
        { body: { user_id: userId, company_id: companyId, audio_url: audioUrl } },
      );
      return made.job_id;
    },
  };
}
