// What enrichment adds to the "Break it" panel: work, and a vendor that refuses it.

import { counted } from "../../lib/format.js";
import { apiSettings, enrichment } from "./data.js";

/** @import { Workspace } from "../../api.js" */

// only the offline Apollo of a local stack takes the one and rejects the other
const WORKING_KEY = "test-key-break-0001";
const REFUSED_KEY = "refused-key-0000";

export async function giveWork(/** @type {Workspace} */ workspace) {
  const made = await enrichment.selection(workspace.id, { filter: {} });
  return `${counted(made.created, "job")} enqueued.`;
}

export async function refuseKey(/** @type {Workspace} */ workspace) {
  await apiSettings.put(workspace.id, { apollo_api_key: REFUSED_KEY });
  return "Apollo refuses the workspace's key from now on.";
}

export async function acceptKey(/** @type {Workspace} */ workspace) {
  await apiSettings.put(workspace.id, { apollo_api_key: WORKING_KEY });
  return "Apollo takes the workspace's key again.";
}
