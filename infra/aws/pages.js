// CloudFront runs this function before the cache, in its JavaScript runtime 2.0. It replaces a path
// of the console's router by the console's only page. The path of a file is unchanged, so that a
// missing file returns 404 and not the page. The first folder decides, as in `is_page` of
// minutehand.web.site, because the name of a job type may end like the name of a file. Pages of
// release 0.4.4 that are still open may request files in the folders `vendor` and `views`.
// eslint-disable-next-line no-unused-vars -- CloudFront calls it
function handler(event) {
  const request = event.request;
  const isOfApi = /^\/(api|health)(\/|$)/.test(request.uri);
  const [, first, ...rest] = request.uri.split("/");
  const isFile = rest.length
    ? ["apps", "lib", "parts", "styles", "vendor", "views"].includes(first)
    : first.includes(".");
  if (!isOfApi && !isFile) request.uri = "/index.html";
  return request;
}
