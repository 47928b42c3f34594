// The theme lets the Tab key stop at whatever scrolls when a page is loaded or resized; here, when something is unfolded.
for (const event of ["toggle", "click"])
  document.addEventListener(event, ({ target }) => target.closest("article") && dispatchEvent(new Event("resize")), true);
