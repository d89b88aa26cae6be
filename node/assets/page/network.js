import { $, $$, ask, attempt, bytes, h, note, on, plain, text } from './app.js';

let last = null;
on('friends', (friends) => {
  const sum = (field) => friends.reduce((all, friend) => all + friend[field], 0);
  const now = { at: performance.now(), sent: sum('sent_bytes'), received: sum('received_bytes'), relayed: sum('relayed_bytes') };
  for (const row of $$('#rates [data-rate]')) {
    const [rate, total] = $$('td', row);
    const name = row.dataset.rate;
    total.textContent = bytes(now[name]);
    if (last) rate.textContent = text('speed', bytes(Math.max(0, (now[name] - last[name]) * 1000 / (now.at - last.at))));
  }
  last = now;
});
on('circuits', (circuits) => {
  $('#circuits').textContent = text('ready_now', circuits.ready, circuits.building, circuits.used, circuits.relayed);
});

on('status', ({ tor }) => {
  const said = $('#tor_state');
  said.textContent = text(`tor_${tor.state}`, tor.state === 'failed' ? plain(tor.why) : tor.percent, plain(tor.why ?? ''));
  said.classList.toggle('warn', tor.state === 'failed');
});
$('#tor_mode').addEventListener('submit', (event) => {
  event.preventDefault();
  attempt(async () => {
    await ask('PATCH', '/api/config', { 'tor.mode': event.target.elements.mode.value });
    note(text('restart'));
  });
});

$('[data-act=check]').addEventListener('click', () => attempt(async () => {
  const list = $('#checked');
  list.replaceChildren();
  const friends = await ask('GET', '/api/friends');
  for (const { name } of friends.filter((friend) => friend.state === 'online')) {
    const said = h('li', {}, `${plain(name)}: …`);
    list.append(said);
    const pong = await ask('POST', `/api/friends/${encodeURIComponent(name)}/ping`).catch(() => null);
    said.textContent = `${plain(name)}: ${pong ? text('ms', pong.ms.toFixed(1)) : text('no_answer')}`;
  }
}));

const change = (changes) => attempt(async () => {
  await ask('PATCH', '/api/config', changes);
  note(text('done'));
  location.reload();
});
$('#limits').addEventListener('submit', (event) => {
  event.preventDefault();
  const given = [...new FormData(event.target)].map(([key, value]) => [key, value.trim()]).filter(([, value]) => value);
  if (given.length) change(Object.fromEntries(given));
});
const windows = () => $$('[data-window]').map((row) => row.dataset.window);
$('#window').addEventListener('submit', (event) => {
  event.preventDefault();
  change({ 'limits.schedule': [...windows(), event.target.elements.window.value.trim()].join(',') });
});
for (const button of $$('[data-act=window-rm]')) button.addEventListener('click', () => {
  const row = button.closest('[data-window]');
  change({ 'limits.schedule': windows().filter((one) => one !== row.dataset.window).join(',') });
});
