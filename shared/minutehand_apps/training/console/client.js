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
     * @param {string} audioUrl An upload's key or address, or an https address of an allowed host.
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

/**
 * The client for pages outside the console.
 *
 * @param {string} api Where the HTTP API is.
 * @param {() => string | Promise<string>} token The user's access token.
 */
export function trainingClientOf(api, token) {
  return trainingClient(async (method, path, { body }) => {
    const answer = await fetch(new URL(path, api), {
      method,
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${await token()}` },
      body: JSON.stringify(body),
    });
    const told = await answer.json();
    if (!answer.ok)
      throw Object.assign(new Error(told.error), {
        status: answer.status,
        code: told.code,
        detail: told.detail,
      });
    return told;
  });
}
