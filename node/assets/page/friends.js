// Inviting, adding, comparing, circles; and how friends' links stand.
import { $, $$, ask, attempt, bytes, h, handOut, note, on, plain, sure, text } from './app.js';

// By fingerprint: names are what others chose.
const path = (print) => `/api/friends/${encodeURIComponent(print)}`;

$('#invite').addEventListener('click', () => attempt(async () => {
  const { invite, expires, note: reach } = await ask('POST', '/api/invites', { tor_only: $('#invite_tor')?.checked ?? false });
  await handOut($('#invited'), text('invite_for', new Date(expires * 1000).toLocaleString()), invite);
  if (reach) $('#invited').append(h('p', { class: 'warn' }, plain(reach)));
}));

// What is said of somebody who was added stays to be read.
let adding = false;

$('#add').addEventListener('submit', (event) => {
  event.preventDefault();
  adding = true;
  const button = $('button', event.target);
  button.disabled = true;
  attempt(async () => {
    const fields = event.target.elements;
    const added = await ask('POST', '/api/friends', { invite: fields.invite.value.trim(), tor_only: fields.tor?.checked ?? false });
    event.target.reset();
    note(added.state === 'online' ? text('added_online', plain(added.name)) : text('added_pending'));
    if (added.note) note(plain(added.note));
    setTimeout(() => location.assign('/friends'), 3000);
    return added;
  }).then((added) => {
    adding = Boolean(added);
    button.disabled = false;
  });
});

const rows = $('#friends');
const question = {
  remove: (name) => text('sure_friend', plain(name)),
  block: (name) => text('sure_block', plain(name)),
};

rows.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (!button) return;
  const { name, print } = button.closest('.friend').dataset;
  const friend = path(print);
  const { act } = button.dataset;
  attempt(async () => {
    if (question[act] && !(await sure(question[act](name)))) return;
    if (act === 'remove') await ask('DELETE', friend);
    else if (act === 'verify') await ask('POST', `${friend}/verify`, { fingerprint: print });
    else if (act === 'unverify') await ask('POST', `${friend}/verify`, { undo: true });
    else if (act === 'restored') await ask('POST', `${friend}/verify`, { restored: true });
    else if (act === 'ping') {
      const { ms } = await ask('POST', `${friend}/ping`);
      note(`${plain(name)}: ${text('ms', ms.toFixed(1))}`);
      return;
    } else await ask('POST', `${friend}/${act}`);
    location.reload();
  });
});
rows.addEventListener('change', (event) => {
  const { name, value } = event.target;
  if (name !== 'trust' && name !== 'tor') return;
  const { print } = event.target.closest('.friend').dataset;
  attempt(async () => {
    await ask('POST', `${path(print)}/${name}`, name === 'trust' ? { trust: value } : { only: value === 'only' });
    note(text('done'));
  });
});
rows.addEventListener('submit', (event) => {
  event.preventDefault();
  const { print } = event.target.closest('.friend').dataset;
  const fields = event.target.elements;
  attempt(async () => {
    if (event.target.dataset.form === 'rename') {
      await ask('POST', `${path(print)}/rename`, { new: fields.new.value.trim() });
      location.reload();
    } else {
      const limit = (field) => field.value.trim() || 'off';
      await ask('POST', `${path(print)}/limit`, { up: limit(fields.up), down: limit(fields.down) });
      note(text('done'));
    }
  });
});
// Words to read aloud are made when somebody looks.
rows.addEventListener('toggle', (event) => {
  const place = event.target.open && $('[data-words]', event.target);
  if (!place || place.textContent) return;
  const { print } = place.closest('.friend').dataset;
  attempt(async () => { place.textContent = (await ask('POST', `${path(print)}/verify`, {})).words; });
}, true);

$('#circle').addEventListener('submit', (event) => {
  event.preventDefault();
  attempt(async () => {
    await ask('POST', '/api/circles', { name: event.target.elements.name.value.trim() });
    location.reload();
  });
});
for (const circle of $$('.circle')) {
  const members = `/api/circles/${encodeURIComponent(circle.dataset.circle)}`;
  circle.addEventListener('change', (event) => attempt(async () => {
    const change = event.target.checked ? 'add' : 'drop';
    await ask('POST', `${members}/members`, { [change]: [event.target.value] });
    note(text('done'));
  }));
  $('[data-act=circle-rm]', circle).addEventListener('click', () => attempt(async () => {
    if (!(await sure(text('sure_circle')))) return;
    await ask('DELETE', members);
    location.reload();
  }));
}

on('friends', (friends) => {
  for (const friend of friends) {
    const row = $$('.friend', rows).find((one) => one.dataset.print === friend.fingerprint);
    if (!row) continue;
    $('.dot', row).classList.toggle('on', friend.state === 'online');
    $('.state', row).textContent = text(`state_${friend.blocked ? 'blocked' : friend.state}`);
    $('.traffic', row).textContent = text('traffic', bytes(friend.sent_bytes), bytes(friend.received_bytes), bytes(friend.relayed_bytes));
  }
  // Somebody has just become a friend: the page shows it.
  const known = $$('.friend', rows).map((row) => row.dataset.print);
  const idle = !$('#invited textarea:focus, #add textarea:focus') && !$('dialog[open], details[open]');
  if (idle && !adding && friends.some((friend) => !known.includes(friend.fingerprint))) location.reload();
});
