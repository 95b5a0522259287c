"use strict";
// The language and the section stand in the address (#en, #en/corpus, #corpus) and nowhere else.
(() => {
  const root = document.documentElement;
  const [, language, section] = location.hash.match(/^#(ja|en)?\/?([\w-]*)$/) || [];
  root.dataset.show = language || (/^ja\b/i.test(navigator.language) ? "ja" : "en"); // before anything is painted

  const show = (chosen) => {
    root.dataset.show = root.lang = chosen;
    for (const element of document.querySelectorAll("[data-ja]")) {
      const text = element.getAttribute("data-" + chosen);
      if (element.tagName === "TITLE") document.title = text;
      else element.setAttribute(element.tagName === "IMG" ? "alt" : "aria-label", text);
    }
    for (const button of document.querySelectorAll(".languages button")) {
      button.setAttribute("aria-pressed", String(button.value === chosen));
    }
  };

  const remember = (hash) => history.replaceState(null, "", hash);

  const goTo = (id, behavior) => {
    const target = document.getElementById(id);
    if (!target) return;
    target.scrollIntoView({ behavior });
    target.focus({ preventScroll: true });
  };

  // Pointing at a box of the lineage shows all that it was made from.
  const trace = (drawing, box) => {
    drawing.classList.toggle("traced", Boolean(box));
    const lit = new Set(box ? [box.dataset.n, ...box.dataset.up.split(" ")] : []);
    for (const other of drawing.querySelectorAll(".box")) other.classList.toggle("lit", lit.has(other.dataset.n));
    for (const edge of drawing.querySelectorAll(".edge")) {
      edge.classList.toggle("lit", lit.has(edge.dataset.to) && edge.dataset.from.split(" ").some((n) => lit.has(n)));
    }
  };

  document.addEventListener("DOMContentLoaded", () => {
    show(root.dataset.show);
    if (section) goTo(section, "instant");
    for (const button of document.querySelectorAll(".languages button")) {
      button.addEventListener("click", () => {
        show(button.value);
        remember("#" + button.value);
      });
    }
    for (const link of document.querySelectorAll(".sections a")) {
      link.addEventListener("click", (event) => {
        event.preventDefault();
        const id = link.getAttribute("href").slice(1);
        remember("#" + root.dataset.show + "/" + id);
        goTo(id, "auto");
      });
    }
    for (const box of document.querySelectorAll(".lineage .box")) {
      const drawing = box.closest(".lineage");
      for (const begin of ["pointerenter", "focus"]) box.addEventListener(begin, () => trace(drawing, box));
      for (const end of ["pointerleave", "blur"]) box.addEventListener(end, () => trace(drawing, null));
    }
  });
})();
