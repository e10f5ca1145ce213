// Whose jobs are shown: a workspace's, or for people on call all.

/** The id that means all workspaces; no workspace has it. */
export const ALL = "all";

export const isAll = (/** @type {{id: string} | null | undefined} */ workspace) =>
  workspace?.id === ALL;
