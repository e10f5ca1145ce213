import type { HTMLAttributes, PublicProps } from "vue";
import type { JobChange, MinutehandJob, MinutehandJobProps } from "./tags.js";

// Custom elements have the types that Vue's guide describes. In Vue, event listeners are props
// whose names begin with `on`.
type JobElementProps = HTMLAttributes &
  PublicProps &
  Omit<MinutehandJobProps, "onjobchange" | "onjobend"> & {
    onJobchange?: ((event: JobChange) => void) | undefined;
    onJobend?: ((event: JobChange) => void) | undefined;
  };

declare module "vue" {
  interface GlobalComponents {
    "minutehand-job": new () => MinutehandJob & { $props: JobElementProps };
  }
}
