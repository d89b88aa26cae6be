import { $, $$, ask, attempt, h, handOut, note, sure, text } from './app.js';

const change = (changes) => attempt(async () => {
  await ask('PATCH', '/api/config', changes);
  note(text('done'));
});

$('#privacy').addEventListener('change', (event) => change({ privacy: event.target.value }));
$('#look').addEventListener('change', async (event) => {
  await change({ [event.target.name]: event.target.value });
  location.reload();
});
$('#name').addEventListener('submit', (event) => {
  event.preventDefault();
  attempt(async () => {
    await ask('POST', '/api/id/rename', { name: event.target.elements.name.value.trim() });
    location.reload();
  });
});
$('[data-act=rotate]').addEventListener('click', () => attempt(async () => {
  if (!(await sure(text('sure_rotate')))) return;
  await ask('POST', '/api/id/rotate', {});
  note(text('done'));
}));
// With a button that copies it and a code, once somebody looks.
$('#certificate').addEventListener('toggle', () => {
  const place = $('#certificate div');
  if (!$('button', place)) attempt(() => handOut(place, text('certificate'), $('textarea', place).value));
});
$('#backup').addEventListener('submit', (event) => {
  event.preventDefault();
  const { passphrase, again, content } = event.target.elements;
  if (passphrase.value !== again.value) {
    note(text('same_twice'), true);
    return;
  }
  attempt(async () => {
    const body = { passphrase: passphrase.value, content: content.checked };
    const answer = await ask('POST', '/api/backup/sealed', body, { raw: true });
    const link = h('a', { href: URL.createObjectURL(await answer.blob()), download: 'my-node.kith' });
    link.click();
    event.target.reset();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  });
});
$('#token').addEventListener('submit', (event) => {
  event.preventDefault();
  const data = new FormData(event.target);
  attempt(async () => {
    const made = await ask('POST', '/api/tokens', { name: data.get('name').trim(), scopes: data.getAll('scope') });
    await handOut($('#made'), text('token_once'), made.token);
  });
});
for (const button of $$('[data-act=revoke]')) button.addEventListener('click', () => attempt(async () => {
  const row = button.closest('[data-token]');
  if (!(await sure(text('sure_revoke')))) return;
  await ask('DELETE', `/api/tokens/${encodeURIComponent(row.dataset.token)}`);
  row.remove();
}));
$('#config').addEventListener('submit', (event) => {
  event.preventDefault();
  const changed = [...event.target.elements].filter((field) => field.name && field.value !== field.defaultValue);
  if (changed.length === 0) return;
  attempt(async () => {
    await ask('PATCH', '/api/config', Object.fromEntries(changed.map((field) => [field.name, field.value.trim()])));
    changed.forEach((field) => { field.defaultValue = field.value; });
    note(text('done'));
    note(text('restart'));
  });
});
$('#logout').addEventListener('click', () => attempt(async () => {
  await ask('POST', '/logout');
  document.body.replaceChildren(h('main', { class: 'bare' }, h('p', {}, text('logged_out'))));
}));
$('#stop').addEventListener('click', () => attempt(async () => {
  if (!(await sure(text('sure_stop')))) return;
  await ask('POST', '/api/stop');
  document.body.replaceChildren(h('main', { class: 'bare' }, h('p', {}, text('node_stopped'))));
}));
