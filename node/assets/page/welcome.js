import { $, ask, attempt, h, handOut, plain, text } from './app.js';

const form = $('#welcome');
form.addEventListener('submit', (event) => {
  event.preventDefault();
  const { name, privacy, cover } = form.elements;
  attempt(async () => {
    if (name.value.trim() !== name.defaultValue) await ask('POST', '/api/id/rename', { name: name.value.trim() });
    if (!$('input[name=privacy]:checked', form).defaultChecked) await ask('PATCH', '/api/config', { privacy: privacy.value });
    if (cover.checked !== cover.defaultChecked) await ask('PATCH', '/api/config', { 'mirror.cover': cover.checked ? 'on' : 'off' });
    const { invite, expires, note: reach } = await ask('POST', '/api/invites', {});
    await handOut($('#invite'), text('invite_for', new Date(expires * 1000).toLocaleString()), invite);
    if (reach) $('#invite').append(h('p', { class: 'warn' }, plain(reach)));
    form.hidden = true;
  });
});
