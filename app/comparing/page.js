"use strict";
const PALETTES = {
  light: {
    ink: "#1f2a30", soft: "#5d6b73", grid: "#e7e5de", direct: "#b8651b", "direct-pale": "#e3b98f", channel: "#0b7a75",
    "channel-pale": "#8cc9c4", queue: "#8d86b5", batches: "#4a86b8",
    hue0: "#0b7a75", hue1: "#b8651b", hue2: "#4a86b8", hue3: "#8d5fa8", hue4: "#6f8f2f", hue5: "#c0487a", hue6: "#7a6a58",
  },
  dark: {
    ink: "#e6ecee", soft: "#9aa9b0", grid: "#2d393f", direct: "#f0a35e", "direct-pale": "#8f6136", channel: "#4fd0c6",
    "channel-pale": "#27736d", queue: "#b5abe0", batches: "#7fb6e8",
    hue0: "#4fd0c6", hue1: "#f0a35e", hue2: "#7fb6e8", hue3: "#c79be0", hue4: "#b4d06a", hue5: "#f08ab4", hue6: "#c8b7a2",
  },
};
const figures = JSON.parse(document.getElementById("figures").textContent);
const scheme = matchMedia("(prefers-color-scheme: dark)");

function coloured(value, palette) {
  if (typeof value === "string" && value.startsWith("$")) return palette[value.slice(1)];
  if (Array.isArray(value)) return value.map((one) => coloured(one, palette));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, coloured(one, palette)]));
  }
  return value;
}

function paint() {
  const palette = PALETTES[scheme.matches ? "dark" : "light"];
  const narrow = innerWidth < 600;
  for (const [name, figure] of Object.entries(figures)) {
    const { data, layout } = coloured(figure, palette);
    const axis = { gridcolor: palette.grid, zerolinecolor: palette.grid, linecolor: palette.grid, automargin: true };
    Plotly.react(name, data, {
      bargap: 0.25, bargroupgap: 0.08,
      ...layout,
      xaxis: { ...axis, ...layout.xaxis },
      yaxis: { ...axis, ...layout.yaxis },
      font: { family: "system-ui, sans-serif", size: narrow ? 11 : 13, color: palette.ink },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      hoverlabel: { font: { family: "system-ui, sans-serif" } },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      margin: { l: 10, r: 10, t: 10, b: 10 },
    }, { displayModeBar: false, responsive: true });
  }
}

scheme.addEventListener("change", paint);
addEventListener("beforeprint", paint);
paint();
