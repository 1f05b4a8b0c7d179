"use strict";
// What all plots have in common, here and in the report of `sluice compare`: colours are the page's own, by their names in theme.css.
const Drawing = (() => {
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);

  function colour(name) {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  }

  // `$name` stands for a colour, wherever it is in a figure.
  function coloured(value) {
    if (typeof value === "string" && value.startsWith("$")) return colour(value.slice(1));
    if (Array.isArray(value)) return value.map((one) => coloured(one));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, coloured(one)]));
    }
    return value;
  }

  function layout(own, more = {}) {
    const narrow = innerWidth < 600;
    const grid = colour("grid"), ink = colour("ink");
    const size = narrow ? 11 : 13;
    const axis = { gridcolor: grid, zerolinecolor: grid, linecolor: grid, automargin: true };
    return {
      ...own,
      xaxis: { ...axis, ...own.xaxis, title: { font: { size }, ...own.xaxis?.title } },
      yaxis: { ...axis, ...own.yaxis, title: { font: { size }, ...own.yaxis?.title } },
      font: { family: "system-ui, sans-serif", size, color: ink },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      hoverlabel: { font: { family: "system-ui, sans-serif", color: ink }, bgcolor: colour("card"), bordercolor: colour("line") },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      margin: { l: 10, r: 10, t: 10, b: 10 },
      ...more,
    };
  }

  function draw(place, figure, more) {
    const { data, layout: own } = coloured(figure);
    return Plotly.react(place, data, layout(own, more), { displayModeBar: false, responsive: true });
  }

  return { draw };
})();
