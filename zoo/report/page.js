for (const figure of document.querySelectorAll("figure.chart")) {
  const { x: axis, frame, curves } = JSON.parse(figure.dataset.chart);
  const svg = figure.querySelector("svg"), line = svg.querySelector(".at");
  const output = figure.querySelector("output"), last = output.textContent;
  const say = (value) => {
    const rounded = Number(value.toPrecision(4));
    return Math.abs(rounded) >= 1000 ? rounded.toLocaleString("en") : String(rounded);
  };
  const scale = frame.log ? Math.log10 : (value) => value;
  const nearest = (xs, at) => {
    let low = 0, high = xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (scale(xs[middle]) < at) low = middle; else high = middle;
    }
    return Math.abs(scale(xs[low]) - at) < Math.abs(scale(xs[high]) - at) ? low : high;
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), units = frame.width / box.width;
    const inner = frame.width - frame.left - frame.right;
    const share = ((event.clientX - box.left) * units - frame.left) / inner;
    const at = frame.x0 + Math.min(1, Math.max(0, share)) * (frame.x1 - frame.x0);
    const points = curves.filter((c) => c.x.length).map((c) => [c, nearest(c.x, at)]);
    if (!points.length) return;
    const [first, index] = points[0];
    const across = frame.left + (scale(first.x[index]) - frame.x0) / (frame.x1 - frame.x0) * inner;
    line.setAttribute("x1", across);
    line.setAttribute("x2", across);
    line.style.visibility = "visible";
    output.textContent = points
      .map(([c, i]) => (curves.length > 1 ? c.name + " " : "") + say(c.y[i]))
      .join(", ") + " at " + axis + " " + first.x[index].toLocaleString("en");
  });
  svg.addEventListener("pointerleave", () => {
    line.style.visibility = "hidden";
    output.textContent = last;
  });
}
