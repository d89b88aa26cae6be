// Dropping files: each goes to the node in pieces, and goes on where it was when a connection breaks.
import { $, ask, attempt, bytes, h, note, plain, text } from './app.js';

const PIECE = 8 << 20;
const form = $('#publish');
const drop = $('#drop');
const rows = $('#uploads');
const picker = $('input[type=file]', drop);

const wait = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

/** An upload that goes on no further by itself; what it was refused for is an error. */
function end(view) {
  if (view.failed) throw new Error(plain(view.failed.detail));
  return ['published', 'looked'].includes(view.state) ? view : null;
}

async function send(upload, file, bar, said, stopped) {
  let { offset } = upload;
  for (let tries = 0; ;) {
    if (stopped.aborted) return null;
    const piece = file.slice(offset, offset + PIECE);
    try {
      if (offset + piece.size >= file.size) said.textContent = text('storing');
      const view = await ask('PATCH', `/api/uploads/${upload.upload}`, piece, {
        headers: { 'upload-offset': String(offset) }, fetch: { signal: stopped },
      });
      offset = view.offset;
      tries = 0;
      bar.value = offset;
      const ended = end(view);
      if (ended) return ended;
      said.textContent = text('sending', bytes(offset), bytes(file.size));
    } catch (why) {
      // Broken off, or the request that broke off is not over yet for the node.
      const busy = !why.gone && (await ask('GET', `/api/uploads/${upload.upload}`).catch(() => null));
      if (busy && end(busy)) return end(busy);
      if ((!why.gone && busy?.state !== 'storing') || (tries += 1) > 60) throw why;
      said.textContent = text('resume');
      await wait(1000);
      const view = await ask('GET', `/api/uploads/${upload.upload}`).catch(() => null);
      const ended = view && end(view);
      if (ended) return ended;
      offset = view?.offset ?? offset;
    }
  }
}

const stem = (name) => name.replace(/\.[^.]*$/, '');
const language = (name) => /\.([a-z]{2,3}(?:-[a-z0-9]{2,8})*)$/i.exec(stem(name))?.[1] ?? '';

/** Captions and a picture that were dropped with a video and have its name. */
function beside(file, others) {
  const own = others.filter((other) => other.name.startsWith(`${stem(file.name)}.`));
  const captions = own.filter((other) => /\.(srt|vtt)$/i.test(other.name)).slice(0, 15);
  const poster = own.find((other) => /\.(jpe?g|png|webp)$/i.test(other.name));
  const extra = (kind) => (other) => {
    const lang = kind === 'captions' ? language(other.name) : '';
    return { kind, bytes: other.size, lang, label: lang, file: other };
  };
  return [...(poster ? [extra('poster')(poster)] : []), ...captions.map(extra('captions'))];
}

function add(film, others) {
  const extras = beside(film, others);
  const file = new Blob([...extras.map((extra) => extra.file), film]);
  const title = h('input', { maxlength: 200, 'aria-label': text('title') });
  const said = h('span', { class: 'about', role: 'status' },
    [bytes(film.size), ...extras.map((extra) => extra.file.name)].join(' · '));
  const bar = h('progress', { max: Math.max(file.size, 1), value: 0, 'aria-label': film.name });
  bar.hidden = true;
  const start = h('button', { type: 'button', disabled: true }, text('start'));
  // As the node takes it from a name: without when the film was made.
  ask('POST', '/api/title', { name: film.name }).then(({ title: found }) => { title.value ||= found; })
    .catch(() => { title.value ||= stem(film.name); }).finally(() => { start.disabled = false; });
  const cancel = h('button', { type: 'button', class: 'plain' }, text('cancel'));
  const row = h('li', {}, h('span', { class: 'grow' }, title, said, bar), start, cancel);
  const stop = new AbortController();
  let upload = null;
  const shown = (found, done) => {
    const gone = (found.stripped ?? []).join(', ');
    const told = done ? [text('published'), gone && text('removed', gone)] : [gone ? text('would_remove', gone) : text('nothing_to_remove')];
    said.textContent = [...told, found.plays && text('plays', found.plays)].filter(Boolean).join(' ');
  };
  cancel.addEventListener('click', () => attempt(async () => {
    // What is stored already is published: then the row stays.
    if (upload) await ask('DELETE', `/api/uploads/${upload.upload}`);
    stop.abort();
    row.remove();
  }));
  start.addEventListener('click', () => attempt(async () => {
    start.disabled = true;
    const data = new FormData(form);
    const tags = data.get('tags').split(',').map((tag) => tag.trim()).filter(Boolean);
    try {
      if (upload) said.textContent = text('storing');
      const view = upload ? await ask('POST', `/api/uploads/${upload.upload}/publish`) : await begin(data, tags);
      if (!view) return;
      bar.value = bar.max;
      upload = view;
      if (view.state === 'looked') {
        shown(view.looked, false);
        start.textContent = text('start_now');
        start.disabled = false;
        return;
      }
      shown(view.video, true);
      cancel.remove();
      start.replaceWith(h('a', { class: 'button plain', href: `/watch/${view.video.id}` }, view.video.title));
    } catch (why) {
      if (upload) ask('DELETE', `/api/uploads/${upload.upload}`).catch(() => {});
      upload = null;
      start.textContent = text('start');
      start.disabled = false;
      bar.hidden = true;
      said.textContent = why.message;
      throw why;
    }
  }));
  const begin = async (data, tags) => {
    upload = await ask('POST', '/api/uploads', {
      bytes: file.size, extras: extras.map(({ file: _, ...about }) => about), title: title.value.trim(), to: data.get('to'), text: data.get('text'), tags,
      lang: data.get('lang').trim(), licence: data.get('licence').trim(), any_file: data.has('any_file'),
      keep_metadata: data.has('keep_metadata'), file_chapters: data.has('chapters'), look_first: data.has('look_first') && !data.has('any_file') && !data.has('keep_metadata'),
    });
    bar.hidden = false;
    return upload.state === 'published' ? upload : send(upload, file, bar, said, stop.signal);
  };
  rows.append(row);
}

function addAll(files) {
  const isFilm = (file) => !/\.(srt|vtt|jpe?g|png|webp)$/i.test(file.name);
  const films = files.filter(isFilm);
  const others = films.length ? files.filter((file) => !isFilm(file)) : [];
  (films.length ? films : files).forEach((film) => add(film, others));
}

picker.addEventListener('change', () => {
  addAll([...picker.files]);
  picker.value = '';
});
for (const name of ['dragenter', 'dragover']) drop.addEventListener(name, (event) => {
  event.preventDefault();
  drop.classList.add('over');
});
for (const name of ['dragleave', 'drop']) drop.addEventListener(name, (event) => {
  event.preventDefault();
  drop.classList.remove('over');
});
drop.addEventListener('drop', (event) => {
  const files = [...event.dataTransfer.files];
  if (files.length === 0) note(text('failed', '—'), true);
  addAll(files);
});
// A file dropped beside the place must not replace the page.
for (const name of ['dragover', 'drop']) addEventListener(name, (event) => event.preventDefault());
form.addEventListener('submit', (event) => event.preventDefault());
