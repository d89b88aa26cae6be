// What all pages share: asking the node, saying what happened, what moves.
const csrf = document.querySelector('meta[name=csrf]')?.content ?? '';
const words = JSON.parse(document.getElementById('texts').textContent);

export const $ = (query, within = document) => within.querySelector(query);
export const $$ = (query, within = document) => [...within.querySelectorAll(query)];

/** A text of the page, with its places filled in. */
export const text = (key, ...values) =>
  values.reduce((said, value, n) => said.replaceAll(`{${n}}`, value), words[key] ?? key);

/** Foreign text as it may be shown: one line, nothing invisible, few marks on a letter. */
export const plain = (foreign) =>
  String(foreign ?? '')
    .replace(/[\t\n\v\f\r\u0085\u2028\u2029]/g, ' ')
    .replace(/\p{Cc}+/gu, '\ufffd')
    .replace(/[\p{Cf}\u115f\u1160\u3164\uffa0\u180b-\u180f\ufe00-\ufe0f\u{e0100}-\u{e01ef}]/gu, '')
    .replace(/(\p{M}{4})\p{M}+/gu, '$1');

/** An element; strings become text, never markup. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

const svg = (tag, attributes, ...children) => {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};

/** Asks the node. What it refuses is an error with its own words. */
export async function ask(method, path, body, more = {}) {
  const headers = { 'x-kith-csrf': csrf, ...more.headers };
  let sent = body;
  if (body !== undefined && !(body instanceof Blob)) {
    headers['content-type'] = 'application/json';
    sent = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: sent, ...more.fetch });
  } catch (why) {
    if (why.name === 'AbortError') throw why;
    throw Object.assign(new Error(text('offline')), { gone: true });
  }
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw Object.assign(new Error(plain(problem.detail ?? answer.statusText)), { code: problem.code });
  }
  if (more.raw) return answer;
  return answer.status === 204 ? null : answer.json();
}

/** Lines of JSON as they come; the last one is returned. */
export async function lines(method, path, body, each) {
  const answer = await ask(method, path, body, { raw: true });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  let last = null;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return last;
    const parts = (rest + value).split('\n');
    rest = parts.pop();
    for (const line of parts.filter(Boolean)) {
      last = JSON.parse(line);
      if (last.event === 'error') throw new Error(plain(last.error.detail));
      each(last);
    }
  }
}

/** Says something for a few seconds. */
export function note(said, bad = false) {
  const element = h('p', { class: bad ? 'note bad' : 'note' }, said);
  $('#notes').append(element);
  setTimeout(() => element.remove(), bad ? 12000 : 5000);
}

/** Does something that may fail, and says why. */
export async function attempt(work) {
  try {
    return await work();
  } catch (why) {
    if (why.name !== 'AbortError') note(text('failed', why.message), true);
    return undefined;
  }
}

/** Asks the person. */
export function sure(question) {
  return new Promise((resolve) => {
    const yes = h('button', { value: 'yes' }, text('yes'));
    const no = h('button', { value: 'no', class: 'plain', autofocus: true }, text('no'));
    const form = h('form', { method: 'dialog' }, h('p', { id: 'question' }, question), h('p', { class: 'acts' }, yes, no));
    const dialog = h('dialog', { 'aria-labelledby': 'question' }, form);
    dialog.addEventListener('close', () => {
      dialog.remove();
      resolve(dialog.returnValue === 'yes');
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** A size in words. */
export function bytes(count) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let value = count;
  let unit = 0;
  while (value >= 1023.95 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return unit === 0 ? `${Math.round(value)} B` : `${value.toFixed(1)} ${units[unit]}`;
}

/** `1:02:03` */
export function clock(seconds) {
  const two = (n) => String(Math.floor(n)).padStart(2, '0');
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return hours > 0 ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
}

export async function copy(what) {
  await navigator.clipboard.writeText(what);
  note(text('copied'));
}

/** A text with a button that copies it, and a code to scan. */
export async function handOut(place, heading, what) {
  const area = h('textarea', { readonly: true, rows: 4, 'aria-label': heading }, what);
  area.addEventListener('focus', () => area.select());
  const button = h('button', { class: 'plain', type: 'button', onclick: () => attempt(() => copy(what)) }, text('copy'));
  const parts = [h('p', {}, heading), area, h('p', {}, button)];
  const { rows } = await ask('POST', '/api/qr', { text: what });
  const size = rows.length;
  const path = rows.flatMap((row, y) => [...row].map((bit, x) => (bit === '1' ? `M${x} ${y}h1v1h-1z` : ''))).join('');
  const code = svg('svg', { viewBox: `-2 -2 ${size + 4} ${size + 4}`, role: 'img', 'aria-label': text('qr') },
    svg('path', { d: path, fill: '#000' }));
  parts.push(h('details', {}, h('summary', {}, text('qr')), h('div', { class: 'qr' }, code)));
  place.replaceChildren(...parts);
  place.hidden = false;
  area.focus();
}

// What moves. One stream for the page; none while nobody looks at it: browsers open six to a place.
const listeners = new Map();
let source = null;
function listen() {
  if (source || document.hidden || listeners.size === 0) return;
  source = new EventSource('/api/events');
  for (const name of listeners.keys()) connect(name);
}
function connect(name) {
  source.addEventListener(name, (event) => {
    const data = JSON.parse(event.data);
    listeners.get(name).forEach((listener) => listener(data));
  });
}
document.addEventListener('visibilitychange', () => {
  if (document.hidden) {
    source?.close();
    source = null;
  } else listen();
});

/** Calls back with what the node says under this name, now and when it changes. */
export function on(name, listener) {
  const known = listeners.has(name);
  listeners.set(name, [...(listeners.get(name) ?? []), listener]);
  if (source && !known) connect(name);
  listen();
}

/** The words for what a video is, as lists show it. */
export function card(video) {
  const whose = [text('own'), text('of_friend', plain(video.via)), text('of_fof', plain(video.via))][video.distance];
  const day = new Date(video.published * 1000).toISOString().slice(0, 10);
  const length = video.duration_s == null ? null : h('span', { class: 'length' }, clock(video.duration_s));
  return h('li', { class: 'card', 'data-id': video.id },
    h('a', { href: `/watch/${video.id}` },
      h('span', { class: 'poster' }, poster(video.id), length),
      h('span', { class: 'name', dir: 'auto' }, plain(video.title))),
    h('span', { class: 'about' }, `${whose} · ${bytes(video.bytes)} · ${day}`));
}

// The same picture as the node draws.
function poster(id) {
  const nibble = (at) => parseInt(id[at] ?? '0', 16);
  const hue = Math.floor(((nibble(0) * 16 + nibble(1)) * 360) / 256);
  const color = (shift, light) => `hsl(${(hue + shift) % 360} 34% ${light}%)`;
  const circles = [0, 1, 2].map((n) => svg('circle', {
    cx: nibble(n * 3 + 2) * 10, cy: nibble(n * 3 + 3) * 6, r: 18 + nibble(n * 3 + 4) * 2,
    fill: color(30 + n * 40, 38 + n * 6), 'fill-opacity': 0.55,
  }));
  return svg('svg', { viewBox: '0 0 160 90', preserveAspectRatio: 'xMidYMid slice', 'aria-hidden': 'true' },
    svg('rect', { width: 160, height: 90, fill: color(0, 30) }), ...circles,
    svg('path', { d: 'M70 33v24l20-12z', fill: '#fff', 'fill-opacity': 0.85 }));
}

// Everywhere.
const live = $('[data-live=friends]');
if (live) on('status', ({ friends }) => {
  live.textContent = text('online_of', friends.online, friends.total);
  live.previousElementSibling.classList.toggle('on', friends.online > 0);
});
document.addEventListener('keydown', (event) => {
  const typing = event.target.closest?.('input, textarea, select, [contenteditable]');
  if (event.key === '/' && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    $('#search input[name=q], .find input')?.focus();
  }
});
