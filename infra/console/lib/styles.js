// Loads a style sheet when a component that needs the style sheet is loaded.

export function loadStyles(href) {
  if (document.querySelector(`link[href="${href}"]`)) return;
  const sheet = document.createElement("link");
  sheet.rel = "stylesheet";
  sheet.href = href;
  document.head.append(sheet);
}
