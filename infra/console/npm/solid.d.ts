import type { JSX } from "solid-js";
import type { JobChange, MinutehandJob, MinutehandJobProps } from "./tags.js";

type JobElementProps = JSX.HTMLAttributes<MinutehandJob> &
  Omit<MinutehandJobProps, "onjobchange" | "onjobend"> & {
    "on:jobchange"?: ((event: JobChange) => void) | undefined;
    "on:jobend"?: ((event: JobChange) => void) | undefined;
  };

declare module "solid-js" {
  namespace JSX {
    interface IntrinsicElements {
      "minutehand-job": JobElementProps;
    }
  }
}
