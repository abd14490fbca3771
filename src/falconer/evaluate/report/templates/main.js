// Starts what the page has: theme, the bar of sections, tabs, charts, the list and the votes.

function startTheme(button) {
  const root = document.documentElement,
    system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => {
    button.textContent = isDark() ? "\u2600\ufe0e Light" : "\u263e\ufe0e Dark";
    button.setAttribute("aria-label", isDark() ? "Change to light colours" : "Change to dark colours");
  };
  button.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    // What the system wants anyway needs no memory, and follows it again from now on.
    if ((theme === "dark") === system.matches) delete root.dataset.theme;
    else root.dataset.theme = theme;
    memory.write("falconer-theme", root.dataset.theme ?? null);
    label();
  });
  system.addEventListener("change", label);
  label();
}

function startBar(links) {
  const sections = links.map((link) => byId(link.hash.slice(1)));
  let before = -1;
  const update = () => {
    const here = sections.findLastIndex((section) => section.getBoundingClientRect().top < innerHeight / 3);
    if (here === before) return;
    links[before]?.removeAttribute("aria-current");
    links[here]?.setAttribute("aria-current", "true");
    before = here;
    // On a phone the bar is wider than the window. Only it moves: scrollIntoView would move the page too.
    const link = links[Math.max(here, 0)];
    const bar = link.closest("ul");
    bar.scrollLeft = link.offsetLeft - (bar.clientWidth - link.offsetWidth) / 2;
  };
  let isWaiting = false;
  addEventListener(
    "scroll",
    () => {
      if (isWaiting) return;
      isWaiting = true;
      requestAnimationFrame(() => {
        isWaiting = false;
        update();
      });
    },
    { passive: true },
  );
  if (links.length) update();
}

function startTabs(tabs) {
  const choose = (chosen) =>
    tabs.forEach((tab) => {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
      byId(tab.getAttribute("aria-controls")).hidden = tab !== chosen;
    });
  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = tabs.at((i + step) % tabs.length);
      choose(next);
      next.focus();
    });
  });
  if (tabs.length) choose(tabs[0]);
}

startTheme(byId("theme"));
startBar([...document.querySelectorAll(".bar a")]);
startTabs([...document.querySelectorAll("[role=tab]")]);
document.querySelectorAll("[data-compare]").forEach(compareWithGold);
drawPlots();
if (byId("ballot")) startVoting(byId("ballot"));
if (replies) startBrowsing();
