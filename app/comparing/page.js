"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);

function paint() {
  for (const [name, { data, layout }] of Object.entries(figures)) {
    Drawing.draw(name, { data, layout: { bargap: 0.25, bargroupgap: 0.08, ...layout } });
  }
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
addEventListener("beforeprint", paint);
paint();
