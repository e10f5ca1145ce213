import type { HTMLAttributes, PublicProps } from "vue";
import type { JobChange, MinutehandJob, MinutehandJobProps } from "./tags.js";

// as Vue's guide types a custom element: listeners are props that begin with `on`
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
