// The guide's browser client: submit a recording, get the id of its job.

/**
 * @param {(method: string, path: string, options: {body: object}) => Promise<any>} request Sends
 *   JSON to the API as the signed-in user, as `request` of the console's api.js does.
 */
export function trainingClient(request) {
  return {
    /**
     * Have a recording transcribed, and a procedure made of it.
     *
     * @param {string} userId The signed-in user.
     * @param {string} companyId The workspace.
     * @param {string} audioUrl An upload of the user's, by its key.
     * @param {string} trainingId Of a training to be made, or of one with the same recording.
     * @returns {Promise<string>} The job's id; the same one when called again.
     */
    async createTranscriptionJob(userId, companyId, audioUrl, trainingId) {
      const made = await request(
        "POST",
        `/api/trainings/${encodeURIComponent(trainingId)}/transcription`,
        {
          body: { user_id: userId, company_id: companyId, audio_url: audioUrl },
        },
      );
      return made.job_id;
    },
  };
}
