// Starts what the page has: theme (style/theme.js), the bar of sections, tabs, charts, the list and the votes.

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
