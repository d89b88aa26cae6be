import { $, ask, attempt, bytes, h, lines, note, plain, text } from './app.js';

const bar = $('#work');
const found = $('#found');
const said = $('#said');

$('#quota').addEventListener('submit', (event) => {
  event.preventDefault();
  const size = (value) => value.trim().replaceAll(' ', '');
  const changed = [...event.target.elements].filter((field) => field.name && field.value !== field.defaultValue);
  const changes = Object.fromEntries(changed.map((field) => [field.name, size(field.value)]));
  if (changed.length) attempt(async () => {
    await ask('PATCH', '/api/config', changes);
    location.reload();
  });
});

/** A size as people write it, in bytes. */
function size(text_) {
  const found = /^([0-9.]+)\s*([kmgt]?)(i?)b?$/i.exec(text_.trim());
  const power = ['', 'k', 'm', 'g', 't'].indexOf(found?.[2].toLowerCase());
  return found ? Math.round(Number(found[1]) * (found[3] ? 1024 : 1000) ** power) : 0;
}

$('#mirror').addEventListener('submit', (event) => {
  event.preventDefault();
  const { friend, quota } = event.target.elements;
  attempt(async () => {
    await ask('POST', '/api/mirrors', { target: `friend:${friend.value}`, quota_bytes: size(quota.value) });
    location.reload();
  });
});
document.addEventListener('click', (event) => {
  const button = event.target.closest('[data-mirror]');
  if (button) attempt(async () => {
    await ask('DELETE', `/api/mirrors/${encodeURIComponent(button.dataset.mirror)}`);
    location.reload();
  });
});

async function work(path, body, done) {
  bar.hidden = false;
  bar.removeAttribute('value');
  found.replaceChildren();
  await attempt(async () => {
    const last = await lines('POST', path, body, (line) => {
      if (line.event === 'progress' && line.total_bytes) {
        bar.value = line.have_bytes / line.total_bytes;
        said.textContent = text('checking', bytes(line.have_bytes), bytes(line.total_bytes));
      }
      if (line.event === 'progress' && line.total_objects) bar.value = line.objects / line.total_objects;
      if (line.event === 'finding') {
        const { title, path: file, what, state } = line.finding;
        found.append(h('li', {}, `${plain(title ?? file)}: ${plain(what)} (${state})`));
      }
    });
    note(done(last), last.whole === false);
  });
  bar.hidden = true;
  said.textContent = '';
}

/** What is to be checked, and how. */
function wish() {
  const data = new FormData($('#check'));
  const all = { heal: !data.has('only_look'), accept_loss: data.has('accept_loss') };
  return data.get('id') ? { ...all, id: data.get('id') } : all;
}

const acts = {
  gc: () => attempt(async () => {
    const { freed_bytes: freed } = await ask('POST', '/api/store/gc', {});
    note(text('freed', bytes(freed)));
  }),
  gc_dry: () => attempt(async () => {
    const { videos, freed_bytes: freed } = await ask('POST', '/api/store/gc', { dry_run: true });
    note(text('would_free', videos.length, bytes(freed)));
  }),
  verify: () => work('/api/store/verify', wish(), (last) => (last.whole ? text('all_whole') : text('not_whole', last.found))),
  reindex: () => work('/api/store/reindex', undefined, (last) => text('indexed', last.objects)),
};
document.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (!button) return;
  button.disabled = true;
  acts[button.dataset.act]().finally(() => { button.disabled = false; });
});

/** Gives a file to the person. */
function save(blob, name) {
  const link = h('a', { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

$('#export').addEventListener('submit', (event) => {
  event.preventDefault();
  const data = new FormData(event.target);
  attempt(async () => {
    const body = { to: data.get('to'), ids: data.getAll('id') };
    const answer = await ask('POST', '/api/bundles/file', body, { raw: true });
    save(await answer.blob(), 'videos.kith');
  });
});
$('#import').addEventListener('submit', (event) => {
  event.preventDefault();
  const file = event.target.elements.bundle.files[0];
  attempt(async () => {
    const got = await ask('POST', '/api/bundles/import', file);
    note(text('imported', got.objects, plain(got.from)));
  });
});
