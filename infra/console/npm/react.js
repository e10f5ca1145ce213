"use client";

// React hooks for one supabase-js client.

import * as React from "react";
import { createHooks } from "./jobs/hooks.js";

export const makeHooks = (client, defaults) => createHooks(React, client, defaults);
