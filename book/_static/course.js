// Whatever scrolls sideways is a stop of the Tab key, and so is what was folded when the page was loaded.
const stops = () => {
  for (const box of document.querySelectorAll("article :is(pre, .output, .measured-table)"))
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
};
for (const event of ["load", "resize"]) addEventListener(event, stops);
for (const event of ["toggle", "click"]) document.addEventListener(event, () => setTimeout(stops), true);
