import { $, ask, attempt, note, sure, text } from './app.js';

const question = { remove: 'sure_remove', unshare: 'sure_unshare' };

document.addEventListener('click', (event) => {
  const button = event.target.closest('.rows [data-act]');
  if (!button) return;
  const row = button.closest('li');
  const { act } = button.dataset;
  attempt(async () => {
    if (question[act] && !(await sure(text(question[act])))) return;
    if (act === 'unwatch') await ask('DELETE', '/api/folders', { path: row.dataset.path });
    else if (act === 'remove') await ask('DELETE', `/api/videos/${row.dataset.id}`);
    else if (act === 'show') await ask('POST', '/api/hidden', { what: row.dataset.what, undo: true });
    else await ask('POST', `/api/videos/${row.dataset.id}/${act}`);
    if (act === 'unshare') location.reload();
    row.remove();
    note(text('done'));
  });
});

$('#hide')?.addEventListener('submit', (event) => {
  event.preventDefault();
  attempt(async () => {
    await ask('POST', '/api/hidden', { what: `word:${event.target.elements.what.value.trim()}` });
    location.reload();
  });
});

$('#folder')?.addEventListener('submit', (event) => {
  event.preventDefault();
  const { path, to } = event.target.elements;
  attempt(async () => {
    await ask('POST', '/api/folders', { path: path.value.trim(), to: to.value });
    location.reload();
  });
});
