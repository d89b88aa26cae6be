// The player: what is here, where it comes from, keys, and where one was.
import { $, ask, attempt, bytes, copy, h, lines, note, on, text } from './app.js';

const watch = $('#watch');
const player = $('#player');
const map = $('#map');
const state = $('#state');
const { id, stream } = watch.dataset;
let last = null;

function draw(view) {
  const context = map.getContext('2d');
  const style = getComputedStyle(document.documentElement);
  const spans = view.spans;
  context.clearRect(0, 0, map.width, map.height);
  context.fillStyle = style.getPropertyValue('--green');
  const width = map.width / Math.max(spans.length, 1);
  for (let at = 0; at < spans.length; at += 1) {
    if (spans[at] === '1') context.fillRect(at * width, 0, Math.ceil(width), map.height);
  }
  if (player.duration) {
    context.fillStyle = style.getPropertyValue('--ink');
    context.fillRect((player.currentTime / player.duration) * map.width - 2, 0, 4, map.height);
  }
  map.dataset.spans = spans;
}

on('streams', (streams) => {
  const view = streams.find((one) => one.name === stream);
  if (!view) return;
  draw(view);
  if (view.failed) {
    state.textContent = text('stopped', view.failed.detail);
    return;
  }
  const begun = view.complete || view.have_bytes > 0 || view.sources > 0;
  if (!begun) return;
  const now = performance.now();
  const rate = last ? ((view.have_bytes - last.have) * 1000) / (now - last.at) : 0;
  last = { have: view.have_bytes, at: now };
  const parts = [view.complete ? text('whole') : text('buffer', bytes(view.have_bytes), bytes(view.total_bytes), view.ahead_s ?? 0)];
  if (!view.complete || view.mode === 'local') parts.push(text(`from_${view.mode}`, view.sources));
  if (rate > 0 && !view.complete) parts.push(text('speed', bytes(rate)));
  state.textContent = parts.join(' · ');
});

player.addEventListener('error', () => attempt(async () => {
  if (player.error?.code !== 3 && player.error?.code !== 4) return;
  // Between opening the page and play somebody may have come or gone: then the node gives nothing.
  const way = await ask('POST', '/api/way', { id, route: watch.dataset.route });
  if (way.way !== 'local' && way.who_learns !== watch.dataset.learns) {
    note(text('changed'), true);
    location.reload();
  } else state.textContent = text('cannot_play');
}));

// Where one was, every ten seconds and at the end; in the node's memory only.
let told = 0;
const tell = (keepalive = false) => {
  told = player.currentTime;
  ask('POST', `/api/videos/${encodeURIComponent(id)}/position`, { seconds: player.currentTime }, { fetch: { keepalive } }).catch(() => {});
};
player.addEventListener('timeupdate', () => {
  if (Math.abs(player.currentTime - told) > 10) tell();
});
player.addEventListener('pause', () => tell());
addEventListener('pagehide', () => {
  if (player.currentTime > 0) tell(true);
  // The address dies with the player.
  ask('DELETE', `/api/streams/${stream}`, undefined, { fetch: { keepalive: true } }).catch(() => {});
});
addEventListener('pageshow', (event) => {
  if (event.persisted) location.reload();
});

/** Chapters and captions of a film whose head came just now. */
async function around() {
  if ('around' in watch.dataset) return;
  const found = await ask('GET', `/api/videos/${encodeURIComponent(id)}/around`).catch(() => null);
  if (!found || 'around' in watch.dataset) return;
  watch.dataset.around = '';
  for (const part of found.parts.filter((one) => one.kind === 'captions')) {
    player.append(h('track', {
      kind: 'captions', src: `/media/${stream}/parts/${part.n}`, srclang: part.lang, label: part.label || text('captions'),
    }));
  }
  if (found.chapters.length === 0) return;
  const clock = (s) => `${Math.floor(s / 3600)}:${String(Math.floor(s / 60) % 60).padStart(2, '0')}:${String(s % 60).padStart(2, '0')}`;
  $('#around').prepend(h('h2', {}, text('chapters')), h('ol', { class: 'chapters' }, ...found.chapters.map((chapter) => {
    const s = Math.floor(chapter.begins_ms / 1000);
    return h('li', {}, h('a', { href: `/watch/${id}?t=${s}`, 'data-seek': s, dir: 'auto' }, `${clock(s)} ${chapter.title}`));
  })));
}
player.addEventListener('loadedmetadata', around);

// Small pictures of the film above the map, where the pointer is; a press goes there.
const peek = $('#peek');
let sheet = null;
async function pictures() {
  if (sheet) return sheet;
  const found = await ask('GET', `/api/videos/${encodeURIComponent(id)}/around`).catch(() => null);
  const part = found?.parts.find((one) => one.kind === 'storyboard' && one.step_ms > 0 && one.columns > 0);
  sheet = part ? { ...part, image: new Image() } : { image: null };
  if (part) {
    sheet.image.src = `/media/${stream}/parts/${part.n}`;
    await sheet.image.decode().catch(() => { sheet.image = null; });
  }
  return sheet;
}
const share = (event) => {
  const box = map.getBoundingClientRect();
  return Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
};
map.addEventListener('pointermove', (event) => {
  const at = share(event);
  if (!player.duration || sheet === null) {
    if (player.duration) pictures();
    return;
  }
  const { image, step_ms: step, columns } = sheet;
  if (!image?.naturalWidth) return;
  const count = Math.max(1, Math.ceil((player.duration * 1000) / step));
  const rows = Math.ceil(count / columns);
  const n = Math.min(count - 1, Math.floor((at * player.duration * 1000) / step));
  const [w, tall] = [image.naturalWidth / columns, image.naturalHeight / rows];
  peek.width = w;
  peek.height = tall;
  peek.getContext('2d').drawImage(image, (n % columns) * w, Math.floor(n / columns) * tall, w, tall, 0, 0, w, tall);
  peek.style.left = `${Math.max(0, Math.min(map.clientWidth - w, at * map.clientWidth - w / 2))}px`;
  peek.dataset.n = n;
  peek.hidden = false;
});
map.addEventListener('pointerleave', () => { peek.hidden = true; });
map.addEventListener('click', (event) => {
  if (player.duration) player.currentTime = share(event) * player.duration;
});
$('#around').addEventListener('click', (event) => {
  const link = event.target.closest('[data-seek]');
  if (!link) return;
  event.preventDefault();
  player.currentTime = Number(link.dataset.seek);
  player.play();
});

const seek = (by) => {
  player.currentTime = Math.max(0, Math.min(player.duration || 0, player.currentTime + by));
};
const keys = {
  ' ': () => (player.paused ? player.play() : player.pause()),
  k: () => (player.paused ? player.play() : player.pause()),
  j: () => seek(-10),
  l: () => seek(10),
  ArrowLeft: () => seek(-5),
  ArrowRight: () => seek(5),
  f: () => (document.fullscreenElement ? document.exitFullscreen() : player.requestFullscreen()),
  m: () => { player.muted = !player.muted; },
};
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest('input, textarea, select, button, a, summary')) return;
  // The browser's own keys of a focused player do the same.
  if (event.target === player && [' ', 'ArrowLeft', 'ArrowRight', 'f', 'm'].includes(event.key)) return;
  if (/^[0-9]$/.test(event.key) && player.duration) player.currentTime = (player.duration * event.key) / 10;
  else if (keys[event.key]) keys[event.key]();
  else return;
  event.preventDefault();
});

/** Fetches what is missing, then hands the file out. */
async function save() {
  await lines('POST', '/api/fetches', { id, route: watch.dataset.route }, (line) => {
    if (line.event === 'progress') state.textContent = text('fetching', bytes(line.have_bytes), bytes(line.total_bytes));
  });
  state.textContent = text('whole');
  h('a', { href: `/api/objects/${encodeURIComponent(id)}/content`, download: watch.dataset.title }).click();
}

watch.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (!button) return;
  attempt(async () => {
    const { act } = button.dataset;
    // An address of its own: it goes on when this page is left.
    if (act === 'copy') await copy((await ask('POST', '/api/streams', { id, route: watch.dataset.route })).url);
    else if (act === 'save') await save();
    else if (act === 'mirror') {
      await ask('POST', '/api/mirrors', { target: id });
      location.reload();
    } else if (act === 'unmirror') {
      await ask('DELETE', `/api/mirrors/${encodeURIComponent(id)}`);
      location.reload();
    } else if (act === 'health' || act === 'ask_copies') {
      const shown = $('#health');
      shown.textContent = text('health_looking');
      const found = await ask('POST', `/api/videos/${encodeURIComponent(id)}/health`, { ask: act === 'ask_copies', route: watch.dataset.route });
      const keepers = found.mirrors.map((copy) => `${copy.friend}: ${text(`copy_${copy.state}`)}`);
      shown.textContent = [text('health', found.whole, found.partial), ...keepers, text(`health_${found.state}${found.state === 'thin' && !$('#change') ? '_other' : ''}`)].join(' · ');
    }
    else if (act === 'hide') {
      await ask('POST', '/api/hidden', { what: id });
      note(text('hidden'));
    } else {
      await ask('POST', `/api/videos/${encodeURIComponent(id)}/${act}`);
      location.reload();
    }
  });
});

$('#change')?.addEventListener('submit', (event) => {
  event.preventDefault();
  const { title, text: words, tags, to } = event.target.elements;
  attempt(async () => {
    const list = tags.value.split(',').map((tag) => tag.trim()).filter(Boolean);
    await ask('POST', `/api/videos/${encodeURIComponent(id)}/edit`, { title: title.value.trim(), text: words.value, tags: list });
    if (!to.selectedOptions[0].defaultSelected) await ask('POST', `/api/videos/${encodeURIComponent(id)}/share`, { to: to.value });
    location.reload();
  });
});
