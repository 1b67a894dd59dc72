"use strict";
(() => {
  const STEP = 20;
  const find = (selector) => document.querySelector(selector);
  const [form, cards, more] = [find("#filter"), find("#cards"), find("#more")];

  // Every card, those that stand in the page and those that wait as text (whose texts are escaped like all others).
  const all = [...document.querySelectorAll("[data-card]")].map((element) => ({
    html: () => (element.tagName === "SCRIPT" ? element.textContent : element.outerHTML),
    ...element.dataset,
  }));
  let matching = all;
  let shown = cards.children.length;

  function show() {
    const next = matching.slice(shown, shown + STEP);
    cards.insertAdjacentHTML("beforeend", next.map((card) => card.html()).join(""));
    [...cards.children].slice(shown).forEach(watch);
    shown += next.length;
    more.hidden = shown >= matching.length;
  }

  function filter() {
    const value = (selector) => find(selector)?.value ?? "";
    const words = value("#query").toLowerCase().split(/\s+/).filter(Boolean);
    const [label, predicted, wrong] = [value("#label"), value("#predicted"), find("#wrong")?.checked];
    matching = all.filter((card) =>
      (!wrong || card.verdict === "wrong") && (!label || card.label === label) &&
      (!predicted || card.predicted === predicted) && words.every((word) => card.text.includes(word)));
    cards.replaceChildren();
    shown = 0;
    show();
    count();
    window.scrollTo({ top: Math.min(window.scrollY, form.offsetTop) });
  }

  function count() {
    if (!find("#count")) return;
    const [found, total] = [matching, all].map((cards) => cards.length.toLocaleString("en"));
    find("#count").textContent = `${found === total ? total : `${found} of ${total}`} ${all.length === 1 ? "record" : "records"}`;
  }

  let pending = 0;
  form.addEventListener("input", (event) => {
    if (event.target.id === "values") return;
    clearTimeout(pending);
    pending = setTimeout(filter, event.target.id === "query" ? 150 : 0);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  find("#values")?.addEventListener("change", (event) => document.body.classList.toggle("values", event.target.checked));

  more.querySelector("button").addEventListener("click", show);
  const near = new IntersectionObserver((seen) => {
    if (!seen.some((entry) => entry.isIntersecting)) return;
    show();
    // Short cards may not have pushed the end out of reach: look again.
    near.unobserve(more);
    near.observe(more);
  }, { rootMargin: "1200px" });
  near.observe(more);

  // Paper has no scrolling: all that is found is printed.
  window.addEventListener("beforeprint", () => { while (shown < matching.length) show(); });

  // A text that is cut opens and closes where it is clicked, or by the keyboard; a name that is cut tells itself whole.
  const toggle = (text) => text.setAttribute("aria-expanded", text.classList.toggle("open"));
  const measure = new ResizeObserver((seen) => seen.forEach(({ target }) => {
    if (!target.matches(".told")) {
      if (target.scrollWidth > target.clientWidth) target.title ||= target.textContent.trim();
    } else if (!target.classList.contains("open")) {
      const cut = target.scrollHeight > target.clientHeight + 1;
      target.classList.toggle("long", cut);
      for (const [name, value] of [["tabindex", 0], ["role", "button"], ["aria-expanded", false]]) {
        if (cut) target.setAttribute(name, value);
        else target.removeAttribute(name);
      }
    }
  }));
  const watch = (place) => place.querySelectorAll(".told, .chip, .name").forEach((part) => measure.observe(part));
  document.addEventListener("click", (event) => {
    const text = event.target.closest(".told.long");
    if (text && window.getSelection().isCollapsed) toggle(text);
  });
  document.addEventListener("keydown", (event) => {
    if (!event.target.matches(".told.long") || (event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    toggle(event.target);
  });
  watch(document);

  // A word's score at once, not after the browser's delay.
  const tip = Object.assign(document.createElement("div"), { id: "tip", hidden: true });
  document.body.append(tip);
  let pointed = null;
  document.addEventListener("pointerover", (event) => {
    if (pointed) pointed.title = tip.textContent;
    pointed = document.body.classList.contains("values") ? null : event.target.closest("mark[title]");
    tip.hidden = !pointed;
    if (!pointed) return;
    tip.textContent = pointed.title;
    pointed.title = "";
    const { left, top } = pointed.getClientRects()[0];
    tip.style.left = `${left}px`;
    tip.style.top = `${Math.max(0, top - 30)}px`;
  });
  window.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // The colours of the system, or others for this page.
  const themes = ["system", "light", "dark"];
  const button = find("#theme");
  function dress(theme) {
    button.textContent = `Theme: ${theme}`;
    button.dataset.theme = theme;
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    try { localStorage.setItem("theme", theme); } catch { /* a page from a file may have no storage */ }
  }
  button.addEventListener("click", () => dress(themes[(themes.indexOf(button.dataset.theme) + 1) % 3]));
  let kept = null;
  try { kept = localStorage.getItem("theme"); } catch { /* as above */ }
  dress(themes.includes(kept) ? kept : "system");

  form.hidden = false;
  more.hidden = shown >= all.length;
  count();
})();
