// Runs before the first paint: the theme that this browser's user chose, else what the system says.
(function () {
  let chosen = null;
  try {
    chosen = localStorage.getItem("console.theme");
  } catch {
    // storage is closed to us: the system's theme it is
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
