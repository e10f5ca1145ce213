"use client";

// React's hooks over one client.

import * as React from "react";
import { hooksOf } from "./jobs/hooks.js";

export const makeHooks = (client, defaults) => hooksOf(React, client, defaults);
