"use strict";
// Before anything is painted: the scheme that was chosen here, else the system's.
try {
  const chosen = localStorage.getItem("sluice-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch { /* a browser that keeps nothing follows its system */ }
