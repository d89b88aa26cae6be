import { $, ask, attempt, handOut, text } from './app.js';

const form = $('#welcome');
form.addEventListener('submit', (event) => {
  event.preventDefault();
  const { name, privacy } = form.elements;
  attempt(async () => {
    if (name.value.trim() !== name.defaultValue) await ask('POST', '/api/id/rename', { name: name.value.trim() });
    if (!$('input[name=privacy]:checked', form).defaultChecked) await ask('PATCH', '/api/config', { privacy: privacy.value });
    const { invite, expires } = await ask('POST', '/api/invites', {});
    await handOut($('#invite'), text('invite_for', new Date(expires * 1000).toLocaleString()), invite);
    form.hidden = true;
  });
});
