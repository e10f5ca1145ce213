// Browser client as in the guide. It submits a recording and returns the id of the recording's job.

export function trainingClient(request) {
  return {
    /**
     * Request the transcription of a recording, and a procedure that is written from the
     * transcript.
     */
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
