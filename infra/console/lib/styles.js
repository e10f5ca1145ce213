// Loads style sheets together with the parts that need them.

export function loadStyles(href) {
  if (document.querySelector(`link[href="${href}"]`)) return;
  const sheet = document.createElement("link");
  sheet.rel = "stylesheet";
  sheet.href = href;
  document.head.append(sheet);
}
