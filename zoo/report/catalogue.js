const models = [...document.querySelectorAll("details.model")];
const controls = [...document.querySelectorAll("form.filters [name]")];
const count = document.querySelector("output.count");
const show = () => {
  const wanted = Object.fromEntries(controls.map((control) => [control.name, control.value]));
  const words = wanted.words.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const model of models) {
    const { modality, objective, licence, size, text } = model.dataset;
    const facts = { modality, objective, licence, size };
    const fits = Object.entries(facts).every(([name, value]) => !wanted[name] || wanted[name] === value)
      && words.every((word) => text.includes(word));
    model.hidden = !fits;
    shown += fits;
  }
  count.textContent = `${shown} of ${models.length}`;
};
for (const control of controls) control.addEventListener("input", show);
show();
