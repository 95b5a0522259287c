"use strict";
// Every item of a suite, made when its part is opened: fifty at a time, all of them or only those that went wrong.
(() => {
  const AT_ONCE = 50;
  const items = JSON.parse(document.getElementById("items").textContent);

  const element = (name, text, kind) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };

  const both = (ja, en) => {
    const made = element("span");
    for (const [language, text] of [["ja", ja], ["en", en]]) {
      const part = element("span", text);
      part.dataset.lang = part.lang = language;
      made.append(part);
    }
    return made;
  };

  const article = (item) => {
    const made = element("article", undefined, "item");
    made.append(element("h3", [item.id, item.by, item.way.join(" ")].filter(Boolean).join(" · ")));
    if (item.prompt) made.append(element("pre", item.prompt));
    if (item.choices) {
      const list = element("ol");
      const best = item.log_likelihoods ? Math.max(...item.log_likelihoods) : undefined;
      item.choices.forEach((choice, i) => {
        const line = element("li", choice);
        if (item.log_likelihoods) line.append(" ", element("code", item.log_likelihoods[i].toFixed(3)));
        if (i === item.answer) line.append(" ✓");
        if (item.log_likelihoods && item.log_likelihoods[i] === best) line.append(" ←");
        list.append(line);
      });
      made.append(list);
    }
    if (item.written !== undefined) made.append(element("pre", item.written));
    for (const key of ["references", "failed", "value", "bits"]) {
      if (item[key] === undefined || item[key].length === 0) continue;
      const text = Array.isArray(item[key]) ? item[key].join(" / ") : item[key];
      made.append(element("p", `${key}: ${text}`, "note"));
    }
    made.append(element("p", `score: ${item.score === null ? "none" : item.score}`, "note"));
    return made;
  };

  const open = (part) => {
    const all = items[part.dataset.suite] || [];
    let chosen = all;
    let shown = 0;
    const box = element("div");
    const more = element("button");
    more.append(both("さらに表示", "Show more"));
    const add = () => {
      box.append(...chosen.slice(shown, shown + AT_ONCE).map(article));
      shown += AT_ONCE;
      more.hidden = shown >= chosen.length;
    };
    const label = element("label");
    const only = element("input");
    only.type = "checkbox";
    only.addEventListener("change", () => {
      chosen = only.checked ? all.filter((item) => item.score === 0 || item.score === null) : all;
      box.replaceChildren();
      shown = 0;
      add();
    });
    label.append(only, both("誤答と無回答だけ", "Only wrong and missing answers"));
    more.type = "button";
    more.addEventListener("click", add);
    part.append(label, box, more);
    add();
  };

  for (const part of document.querySelectorAll("details.items")) {
    part.addEventListener("toggle", () => open(part), { once: true });
  }
})();
