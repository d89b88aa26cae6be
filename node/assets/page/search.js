// Results while one types. The search reads the node's own memory.
import { $, $$, ask, attempt, card, h, note, text } from './app.js';

const form = $('#search');
const results = $('#results');
let running = null;

function withHide(item) {
  const id = item.dataset.id;
  item.append(h('button', {
    class: 'plain', type: 'button',
    onclick: () => attempt(async () => {
      await ask('POST', '/api/hidden', { what: id });
      item.remove();
      note(text('hidden'));
    }),
  }, text('hide')));
  return item;
}

async function search() {
  running?.abort();
  running = new AbortController();
  const data = new FormData(form);
  const q = data.get('q').trim();
  const query = new URLSearchParams({ words: q, scope: data.get('scope'), limit: 60 });
  for (const [name, field] of [['min_dur', 'min'], ['max_dur', 'max']]) {
    if (data.get(field)) query.set(name, Number(data.get(field)) * 60);
  }
  if (!q) {
    results.replaceChildren();
    $('#count').textContent = '';
    return;
  }
  await attempt(async () => {
    const { results: found } = await ask('GET', `/api/search?${query}`, undefined, { fetch: { signal: running.signal } });
    const list = found.length
      ? h('ul', { class: 'cards' }, ...found.map((video) => withHide(card(video))))
      : h('p', { class: 'empty' }, text('none'));
    results.replaceChildren(list);
    $('#count').textContent = text('found', found.length);
  });
}

form.addEventListener('input', search);
form.addEventListener('submit', (event) => {
  event.preventDefault();
  search();
});
$$('.card', results).forEach(withHide);
