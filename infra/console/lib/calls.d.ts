// A route of the OpenAPI document as a call takes it; `routes.d.ts` has the documents themselves.

/** Any JSON, such as a payload or a result. */
export type Json = any;

type Content<T> = T extends { content: { "application/json": infer Body } } ? Body : undefined;
type Success<Answers> = {
  [Status in keyof Answers]: Status extends 200 | 201 | 202
    ? Content<Answers[Status]>
    : Status extends 204
      ? null
      : never;
}[keyof Answers];
type Method = "get" | "put" | "post" | "patch" | "delete";

/** "GET /api/jobs" and the like, with what each takes and answers. */
export type RoutesOf<Paths> = {
  [Name in Names<Paths>]: Name extends `${infer M} ${infer P}`
    ? P extends keyof Paths
      ? Lowercase<M> extends keyof Paths[P]
        ? Operation<Paths[P][Lowercase<M>]>
        : never
      : never
    : never;
};
type Names<Paths> = {
  [P in keyof Paths & string]: {
    [M in keyof Paths[P] & Method]: Paths[P][M] extends { responses: unknown }
      ? `${Uppercase<M>} ${P}`
      : never;
  }[keyof Paths[P] & Method];
}[keyof Paths & string];
type Operation<O> = O extends { parameters: { query?: infer Query }; responses: infer Answers }
  ? {
      query: Query;
      body: O extends { requestBody?: infer Body } ? Content<NonNullable<Body>> : undefined;
      answer: Success<Answers>;
    }
  : never;

/** The names in braces of a route. */
export type Places<R extends string> = R extends `${string}{${infer Name}}${infer Rest}`
  ? Name | Places<Rest>
  : never;

/** A value for each name in braces, then what else a call takes. */
export type Given<R extends string, More> = R extends `${string}{${string}}${infer Rest}`
  ? [place: string, ...Given<Rest, More>]
  : [more?: More];
