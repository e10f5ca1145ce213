// CloudFront runs this function before the cache, in CloudFront's JavaScript runtime 2.0. The
// function replaces a path of the console's router by the path of the console's only HTML page. The
// path of a file is unchanged, so a missing file returns 404 and not the HTML page. The function
// decides by the first folder of the path, like `is_page` in minutehand.web.site. A file extension
// cannot decide, because the name of a job type may end like the name of a file. A browser tab with
// a page of release 0.5.1 may still request files in the folders `lib` and `parts`.
// eslint-disable-next-line no-unused-vars -- CloudFront calls it
function handler(event) {
  const request = event.request;
  const isOfApi = /^\/(api|health)(\/|$)/.test(request.uri);
  const [, first, ...rest] = request.uri.split("/");
  const isFile = rest.length
    ? ["apps", "lib", "parts", "styles"].includes(first)
    : first.includes(".");
  if (!isOfApi && !isFile) request.uri = "/index.html";
  return request;
}
