// Runs in CloudFront before the cache: a path of the console's router is its one page, a path that
// names a file stays itself, so that a missing file is a 404 and never a page. Runtime 2.0, no imports.
// eslint-disable-next-line no-unused-vars -- CloudFront calls it
function handler(event) {
  const request = event.request;
  // not pages: what the API answers, also without its trailing slash, and the packages' files
  const isElsewhere = /^\/(api|health|vendor)(\/|$)/.test(request.uri);
  const name = request.uri.slice(request.uri.lastIndexOf("/") + 1);
  if (!isElsewhere && !name.includes(".")) request.uri = "/index.html";
  return request;
}
