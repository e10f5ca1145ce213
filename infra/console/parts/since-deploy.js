// How many failures there were since the latest deploy that serves a type, and before.

import { codeOf, number } from "../lib/format.js";
import { html } from "../lib/ui.js";
import { When } from "./when.js";

/** @param {{deploy: import("../lib/jobs/types.js").FailuresByDeploy}} props */
export const SinceDeploy = ({ deploy }) =>
  html`<span data-part="since-deploy">
    Since deploy <code>${codeOf(deploy)}</code> (<${When} at=${deploy.first_seen_at} />): <strong>
      ${number(deploy.failed_since)}
    </strong> failed, ${number(deploy.failed_before)} before
  </span>`;
