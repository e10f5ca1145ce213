// The guide's browser client. Submits a recording and returns the id of its job.

export function trainingClient(request) {
  return {
    /** Have a recording transcribed, and a procedure written from the transcript. */
    async createTranscriptionJob(userId, companyId, audioUrl, trainingId) {
      const job = await request(
        "POST",
        `/api/trainings/${encodeURIComponent(trainingId)}/transcription`,
        { body: { user_id: userId, company_id: companyId, audio_url: audioUrl } },
      );
      return job.job_id;
    },
  };
}
