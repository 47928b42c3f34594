// What tests/test_browser.py asks of a page: each function returns what is wrong, in words.

const SLACK = 1.5; // pixels: less is rounding

const visible = (element) =>
  element.checkVisibility({ opacityProperty: true, visibilityProperty: true }) &&
  !element.closest(".sr-only, .visually-hidden, mjx-assistive-mml, mjx-container, .onlyprint");

const named = (node) => {
  const inside = node.nodeType === Node.TEXT_NODE ? node.parentElement : node;
  const label = inside.closest("svg text");
  if (label) return `"${label.textContent.replace(/\s/g, "")}" in the figure "${label.ownerSVGElement.getAttribute("aria-label")}"`;
  const path = [];
  for (let element = inside; element && path.length < 3; element = element.parentElement)
    path.unshift(element.localName + (element.className?.baseVal ?? element.className ? `.${element.getAttribute("class").split(" ")[0]}` : ""));
  return `${path.join(" > ")} "${(node.textContent || "").trim().slice(0, 40)}"`;
};

// What an element's text may be cut off by: itself and what it stands in, unless that lets it overflow, inmost first.
function clips(element, known) {
  if (!element || element === document.body) return [];
  if (!known.has(element)) {
    const { overflowX, overflowY, position } = getComputedStyle(element);
    const within = position === "fixed" ? [] : clips(element.parentElement, known);
    const open = (overflowX === "visible" && overflowY === "visible") || element.ownerSVGElement;
    known.set(element, open ? within : [{ box: element.getBoundingClientRect(), x: overflowX, y: overflowY }, ...within]);
  }
  return known.get(element);
}

// Every piece of text that can be seen: its box, and what is left of it where it is scrolled out of sight.
function pieces() {
  const found = [];
  const seen = new Map();
  const clipping = new Map();
  const labels = new Set();
  const range = document.createRange(); // one: each that there is makes every change of the page take longer
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const parent = node.parentElement;
    if (!node.data.trim() || parent.closest("script, style, noscript, desc, title")) continue;
    if (!seen.has(parent)) seen.set(parent, visible(parent));
    if (!seen.get(parent)) continue;
    const clipped = clips(parent, clipping);
    let boxes;
    if (parent.ownerSVGElement) {
      const text = parent.closest("text");
      if (labels.has(text)) continue;
      labels.add(text);
      boxes = [text.getBoundingClientRect()];
    } else {
      range.selectNodeContents(node);
      boxes = range.getClientRects();
    }
    for (const box of boxes) if (box.width > 1 && box.height > 1) found.push({ node, element: parent.closest("text") ?? parent, box, clipped });
  }
  return found;
}

function cutOff(all) {
  const wrong = [];
  const width = document.documentElement.clientWidth;
  for (const { node, box, clipped } of all) {
    const across = clipped.find((clip) => clip.x !== "visible");
    const along = clipped.find((clip) => clip.y !== "visible");
    if (!across && (box.right > width + SLACK || box.left < -SLACK)) wrong.push(`out of the page: ${named(node)}`);
    const hides = (how) => how === "hidden" || how === "clip";
    if (across && hides(across.x) && (box.right > across.box.right + SLACK || box.left < across.box.left - SLACK))
      wrong.push(`cut off across: ${named(node)}`);
    if (along && hides(along.y) && (box.bottom > along.box.bottom + 4 || box.top < along.box.top - 4))
      wrong.push(`cut off along: ${named(node)}`);
  }
  return wrong;
}

// Text upon text. A line's box is taller than its letters, so neighbours may share a few pixels.
function overlaps(all) {
  const boxes = [];
  for (const { node, element, box, clipped } of all) {
    let [left, top, right, bottom] = [box.left, box.top, box.right, box.bottom];
    for (const clip of clipped) {
      left = Math.max(left, clip.box.left);
      right = Math.min(right, clip.box.right);
      top = Math.max(top, clip.box.top);
      bottom = Math.min(bottom, clip.box.bottom);
    }
    const height = bottom - top;
    if (right - left > 1 && height > 1)
      boxes.push({ node, element, left: left + 1, right: right - 1, top: top + 0.2 * height, bottom: bottom - 0.2 * height });
  }
  boxes.sort((a, b) => a.top - b.top);
  const wrong = [];
  boxes.forEach((box, index) => {
    for (let next = index + 1; next < boxes.length && boxes[next].top < box.bottom; next++) {
      const other = boxes[next];
      if (other.left < box.right && box.left < other.right && other.element !== box.element)
        wrong.push(`overlap: ${named(box.node)} and ${named(other.node)}`);
    }
  });
  return wrong;
}

// Switch between light and dark as the theme's button does.
function choose(mode) {
  document.documentElement.dataset.mode = document.documentElement.dataset.theme = mode;
}

let latest = [];

// Lists whose last number has too little room before its text: it is no text of the page, so nothing else tells.
function numbersCut() {
  const pen = document.createElement("canvas").getContext("2d");
  const clipping = new Map();
  const wrong = [];
  for (const list of document.querySelectorAll("ol")) {
    const last = list.lastElementChild;
    if (!last || !visible(last)) continue;
    const { font, listStylePosition, listStyleType } = getComputedStyle(last);
    if (listStylePosition !== "outside" || listStyleType !== "decimal") continue;
    pen.font = font;
    const number = `${list.start + list.children.length - 1}.`;
    const edge = Math.max(0, ...clips(last, clipping).map((clip) => clip.box.left));
    if (last.getBoundingClientRect().left - edge + SLACK < pen.measureText(`${number} `).width)
      wrong.push(`the number ${number} is cut off: ${named(last)}`);
  }
  return wrong;
}

// What is laid out badly at the width that the window has now.
function layout(mode) {
  const page = document.documentElement;
  choose(mode);
  document.activeElement?.blur();
  window.scrollTo({ top: 0, behavior: "instant" });
  const wrong = page.scrollWidth > page.clientWidth ? [`the page is ${page.scrollWidth} wide in a window of ${page.clientWidth}`] : [];
  const all = (latest = pieces());
  wrong.push(...cutOff(all), ...overlaps(all), ...numbersCut());
  for (const image of document.images)
    if (visible(image) && !(image.complete && image.naturalWidth)) wrong.push(`missing image: ${image.src}`);
  return wrong;
}

// Mark one element for each way in which text is coloured, of those that no earlier page had: for the checks of colours.
// For a link, which must not be told from the text around it by its colour alone, that text and its line are a part of it.
function newColours(mode, known) {
  choose(mode);
  const seen = new Set(known);
  const behind = new Map([[null, ""]]);
  const background = (element) => {
    if (!behind.has(element)) {
      const { backgroundColor, backgroundImage, opacity } = getComputedStyle(element);
      const own = [backgroundColor, backgroundImage, opacity].join().replace("rgba(0, 0, 0, 0),none,1", "");
      behind.set(element, own + background(element.parentElement));
    }
    return behind.get(element);
  };
  const keys = [];
  for (const element of new Set(latest.map((piece) => piece.element))) {
    const { color, fill, fontSize, fontWeight } = getComputedStyle(element);
    const large = parseFloat(fontSize) >= (fontWeight >= 700 ? 18.6 : 24);
    const link = element.closest("a[href]");
    const line = link ? [getComputedStyle(link).textDecorationLine, getComputedStyle(link.parentElement).color] : [];
    const key = [element.ownerSVGElement ? fill : color, large, background(element), ...line].join(" ");
    if (seen.has(key)) continue;
    seen.add(key);
    keys.push(key);
    (link ?? element).setAttribute(`data-contrast-${mode}`, "");
  }
  return keys;
}

// Where the links of a page lead within the book, and what they may lead to.
function anchors() {
  const here = new URL(location.href);
  const links = [...document.querySelectorAll("a[href]")].map((link) => new URL(link.getAttribute("href"), here));
  return {
    ids: [...document.querySelectorAll("[id], a[name]")].map((element) => element.id || element.name),
    links: [...new Set(links.filter((link) => link.origin === here.origin).map((link) => link.pathname + link.hash))],
  };
}

// What a click reaches and the Tab key does not.
function unreachable() {
  const clickable = document.querySelectorAll("a[href], button, summary, input, select, textarea, [onclick]");
  const wrong = [...clickable].filter((e) => visible(e) && !e.disabled && e.tabIndex < 0 && !e.closest("[aria-hidden=true]"));
  const scrolls = [...document.querySelectorAll("body *")].filter((element) => {
    const style = getComputedStyle(element);
    return /auto|scroll/.test(style.overflowX) && element.scrollWidth > element.clientWidth + SLACK && visible(element);
  });
  const stuck = scrolls.filter((e) => e.tabIndex < 0 && !e.querySelector("a[href], button, summary, input, [tabindex='0']"));
  return [...wrong.map((e) => `no Tab reaches ${named(e)}`), ...stuck.map((e) => `no key scrolls ${named(e)}`)];
}

// The places where the Tab key should stop, numbered in the page; and the number of the one where it is, if it is seen.
const stopsHere = [];
function tabStops() {
  const all = document.querySelectorAll("a[href], button, summary, input, select, textarea, [tabindex]");
  stopsHere.push(...[...all].filter((element) => visible(element) && element.tabIndex >= 0 && !element.disabled));
  return stopsHere.length;
}

function focused() {
  const element = document.activeElement;
  const marked = [null, "::after"].some((part) => {
    const { outlineStyle, boxShadow } = getComputedStyle(element, part);
    return outlineStyle !== "none" || boxShadow !== "none";
  });
  const box = element.getBoundingClientRect();
  const within = box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
  return [stopsHere.indexOf(element), element === document.body || (within && marked)];
}

// Take away what says nothing to a screen reader and takes its checks long: the parts of drawings, colours of listings.
// What is yet to be checked for its colours, `kept`, stays.
function plainer(kept) {
  const plain = (element) => !kept || !element.querySelector(kept);
  for (const drawing of document.querySelectorAll("svg[role=img]")) if (plain(drawing)) drawing.replaceChildren();
  for (const listing of document.querySelectorAll("pre")) if (plain(listing)) listing.textContent = listing.textContent;
}
