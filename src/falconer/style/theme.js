// Light or dark, as the reader chose. A script of its own in the head, which runs before the first paint.

// Storage may be closed to pages opened from a disk: then a choice lasts as long as the page.
const memory = {
  read(key) {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  },
  write(key, value) {
    try {
      if (value === null) localStorage.removeItem(key);
      else localStorage.setItem(key, value);
    } catch {}
  },
};

{
  const theme = memory.read("falconer-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
}
document.documentElement.classList.add("scripted");

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
