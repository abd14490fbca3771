// Before the first paint: a reader who chose a theme keeps it. Storage may be closed to pages opened from a disk.
try {
  const theme = localStorage.getItem("falconer-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {}
document.documentElement.classList.add("scripted");
