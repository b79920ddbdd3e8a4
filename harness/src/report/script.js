'use strict';
document.documentElement.classList.add('js');
const all = (query, within = document) => [...within.querySelectorAll(query)];
const one = (query, within = document) => within.querySelector(query);
const squares = all('.matrix a.s');
const articles = new Map(all('article').map((article) => [article.id, article]));
const rows = all('tr.case');
const text = one('#text');
const buttons = all('.filter');
let current = null;

/* One variant at a time. */
function squareOf(id) { return squares.find((square) => square.hash === '#' + id); }
function show(id, focus) {
  if (!articles.has(id)) return;
  for (const [name, article] of articles) article.hidden = name !== id;
  for (const link of all('.matrix a[aria-current]')) link.removeAttribute('aria-current');
  for (const link of all('.matrix a')) if (link.hash === '#' + id) link.setAttribute('aria-current', 'true');
  current = squareOf(id);
  for (const square of squares) square.tabIndex = square === current ? 0 : -1;
  one('.right').scrollTop = 0;
  if (focus) current.focus();
  current.scrollIntoView({ block: 'nearest' });
}
function go(square, focus) {
  history.replaceState(null, '', square.hash);
  show(square.hash.slice(1), focus);
}
addEventListener('hashchange', () => show(decodeURIComponent(location.hash.slice(1))));
document.addEventListener('click', (event) => {
  const link = event.target.closest('.matrix a');
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  go(link);
  if (matchMedia('(max-width: 1000px)').matches) one('.right').scrollIntoView();
});

/* Filters: by verdict, by words, both at once. */
const isShown = (square) => !square.hidden;
function filter() {
  const words = new Set(buttons.filter((b) => b.getAttribute('aria-pressed') === 'true').map((b) => b.dataset.word));
  const parts = text.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const square of squares) {
    const has = (!words.size || words.has(square.dataset.word)) && parts.every((part) => square.dataset.text.includes(part));
    square.hidden = !has;
    count += has;
  }
  const few = (words.size || parts.length) && count <= 60;
  for (const row of rows) {
    row.hidden = !all('a.s', row).some(isShown);
    expand(row, !row.hidden && (few || row.dataset.wanted === 'yes'));
  }
  one('#shown').textContent = `${count} of ${squares.length}`;
  const table = one('.matrix');
  let none = one('.none');
  if (!none) {
    none = Object.assign(document.createElement('p'), { className: 'none', textContent: 'No variant is like that.' });
    table.after(none);
  }
  none.hidden = count > 0;
}
function expand(row, wanted) {
  const next = row.nextElementSibling;
  if (next && next.classList.contains('names')) next.remove();
  one('button', row).setAttribute('aria-expanded', String(wanted));
  if (!wanted) return;
  const names = document.createElement('tr');
  names.className = 'names';
  const cell = names.insertCell();
  cell.colSpan = row.cells.length;
  const list = cell.appendChild(document.createElement('ul'));
  const heads = all('.matrix thead th');
  for (const square of all('a.s', row).filter(isShown)) {
    const link = document.createElement('a');
    link.href = square.hash;
    if (square === current) link.setAttribute('aria-current', 'true');
    const sign = Object.assign(document.createElement('b'), { className: 's ' + square.dataset.word, textContent: square.textContent });
    const name = Object.assign(document.createElement('span'), { textContent: square.dataset.variant });
    link.append(sign, name);
    if (heads.length > 2) {
      const run = heads[square.closest('td').cellIndex].firstChild.textContent;
      link.append(Object.assign(document.createElement('small'), { textContent: run }));
    }
    list.appendChild(document.createElement('li')).append(link);
  }
  row.after(names);
}
for (const button of buttons) {
  button.addEventListener('click', () => {
    button.setAttribute('aria-pressed', String(button.getAttribute('aria-pressed') !== 'true'));
    filter();
  });
}
text.addEventListener('input', filter);
for (const row of rows) {
  one('button', row).addEventListener('click', () => {
    const wanted = one('button', row).getAttribute('aria-expanded') !== 'true';
    row.dataset.wanted = wanted ? 'yes' : 'no';
    expand(row, wanted);
  });
}

/* Keys. */
function step(by) {
  const shown = squares.filter(isShown);
  const at = shown.indexOf(current);
  const next = at < 0 ? shown[0] : shown[at + by];
  if (next) go(next, true);
}
function climb(by) {
  const cell = current.closest('td');
  const place = all('a.s', cell).filter(isShown).indexOf(current);
  const shown = rows.filter((row) => !row.hidden && all('a.s', row.cells[cell.cellIndex]).some(isShown));
  const row = shown[shown.indexOf(cell.parentNode) + by];
  if (!row) return;
  const there = all('a.s', row.cells[cell.cellIndex]).filter(isShown);
  go(there[Math.min(place, there.length - 1)], true);
}
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const writing = event.target === text;
  const inMatrix = event.target.matches('.matrix a.s');
  const keys = {
    '/': () => text.focus(),
    n: () => step(1),
    p: () => step(-1),
    Escape: () => {
      text.value = '';
      for (const button of buttons) button.setAttribute('aria-pressed', 'false');
      filter();
      text.blur();
    },
  };
  const arrows = { ArrowRight: () => step(1), ArrowLeft: () => step(-1), ArrowDown: () => climb(1), ArrowUp: () => climb(-1) };
  const act = writing && event.key !== 'Escape' ? null : keys[event.key] || (inMatrix && arrows[event.key]);
  if (!act) return;
  event.preventDefault();
  act();
});

/* A mark and its line belong together; so do a cell and its row. */
function light(within, query, key, value, on) {
  for (const element of all(`${query}[data-${key}="${value}"]`, within)) element.classList.toggle('on', on);
}
function point(event, on) {
  const target = event.target instanceof Element ? event.target : null;
  const mark = target && target.closest('[data-mark]');
  if (mark) {
    const article = mark.closest('article');
    light(article, '', 'mark', mark.dataset.mark, on);
    const cursor = one('.cursor', article);
    const x = one(`.moments [data-mark="${mark.dataset.mark}"]`, article).dataset.x;
    cursor.setAttribute('x1', x);
    cursor.setAttribute('x2', x);
    cursor.setAttribute('y2', one('svg.timeline', article).viewBox.baseVal.height - 24);
    cursor.toggleAttribute('hidden', !on);
  }
  const part = target && target.closest('[data-part]');
  if (part) light(part.closest('figure'), '', 'part', part.dataset.part, on);
}
for (const [enter, leave] of [['mouseover', 'mouseout'], ['focusin', 'focusout']]) {
  document.addEventListener(enter, (event) => point(event, true));
  document.addEventListener(leave, (event) => point(event, false));
}
document.addEventListener('click', (event) => {
  const mark = event.target.closest('svg [data-mark]');
  if (mark) one(`.moments [data-mark="${mark.dataset.mark}"]`, mark.closest('article')).focus();
  const copy = event.target.closest('.copy');
  if (copy && navigator.clipboard) {
    navigator.clipboard.writeText(one('pre', copy.parentNode).textContent).then(() => { copy.textContent = 'copied'; });
  }
});

/* Light, dark, or as the system has it. */
const theme = one('#theme');
function dress(name) {
  theme.textContent = name;
  if (name === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
}
theme.addEventListener('click', () => {
  const next = { auto: 'dark', dark: 'light', light: 'auto' }[theme.textContent];
  dress(next);
  try { localStorage.setItem('inflight-race-theme', next); } catch { /* a page from a file may have no storage */ }
});
try { dress(localStorage.getItem('inflight-race-theme') || 'auto'); } catch { dress('auto'); }

/* What most asks to be looked at comes first. */
const ranks = ['FAIL', 'BROKEN', 'XPASS', 'NOPROOF', 'XFAIL', 'PASS', 'SERIALISED', 'NOTRUN'];
const wanted = decodeURIComponent(location.hash.slice(1));
const worst = ranks.map((word) => squares.find((square) => square.dataset.word === word)).find(Boolean);
if (articles.has(wanted)) show(wanted);
else if (worst) show(worst.hash.slice(1));
