// Runs in CloudFront before the cache: a path of the console's router is its one page, a path that
// names a file stays itself, so that a missing file is a 404 and never a page. A job type's name
// may end like a file's, so the folder decides: as `is_page` of minutehand.web.site. The folders
// `vendor` and `views` are of 0.4.4, whose open pages may request them. Runtime 2.0.
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
