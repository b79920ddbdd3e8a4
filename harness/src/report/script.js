const boxes = [...document.querySelectorAll('.filters input')];
function apply() {
  const shown = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
  for (const item of document.querySelectorAll('details')) item.hidden = !shown.has(item.dataset.v);
}
boxes.forEach((box) => box.addEventListener('change', apply));
