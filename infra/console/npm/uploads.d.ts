/** An upload that has not ended. */
export type RunningUpload = {
  id: string;
  name: string;
  size: number;
  sent: number;
  state: "waiting" | "sending" | "finishing" | "paused";
  problem: string | null;
};

/** The uploads of this browser to one place; make it once for a page. */
export declare function uploadsAt<T = unknown>(
  url: string,
  options: {
    token?: () => string | null | undefined | Promise<string | null | undefined>;
    request?: (method: string, path: string, options: object) => Promise<any>;
    onEnd?: (made: T | null, problem?: Error) => void;
  },
): {
  get(): RunningUpload[];
  subscribe(listener: (all: RunningUpload[]) => void): () => void;
  begin(file: File, body?: object): Promise<unknown>;
  recall(): Promise<void>;
  resume(id: string, file?: File): unknown;
  pause(id: string): void;
  abort(id: string): Promise<void>;
};
