// Whose jobs are looked at: a workspace, or for people on call all of them.

/** The id that stands for all workspaces; no workspace has it. */
export const ALL = "all";

export const isAll = (workspace) => workspace?.id === ALL;
