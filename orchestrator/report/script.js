// Shows the value nearest to the pointer. The page says everything without this script too.
for (const plot of document.querySelectorAll("svg[data-points]")) {
  const points = JSON.parse(plot.dataset.points);
  if (points.length < 2) continue;
  const figure = plot.closest("figure");
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  figure.append(tip);
  const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  dot.setAttribute("r", "4");
  dot.setAttribute("class", "dot");
  dot.style.display = "none";
  plot.append(dot);

  const show = (event) => {
    const box = plot.getBoundingClientRect();
    const outer = figure.getBoundingClientRect();
    const scale = box.width / plot.viewBox.baseVal.width;
    const at = (event.clientX - box.left) / scale;
    let best = points[0];
    for (const point of points) if (Math.abs(point[0] - at) < Math.abs(best[0] - at)) best = point;
    dot.setAttribute("cx", best[0]);
    dot.setAttribute("cy", best[1]);
    dot.style.display = "";
    tip.textContent = best[2];
    tip.hidden = false;
    const left = box.left - outer.left + best[0] * scale - tip.offsetWidth / 2;
    tip.style.left = `${Math.max(4, Math.min(left, outer.width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${box.top - outer.top + best[1] * scale - tip.offsetHeight - 10}px`;
  };
  const hide = () => {
    tip.hidden = true;
    dot.style.display = "none";
  };
  plot.addEventListener("pointermove", show);
  plot.addEventListener("pointerdown", show);
  plot.addEventListener("pointerleave", hide);
}
