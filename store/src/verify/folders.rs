//! The folders: which files are there, and which of them nobody knows.

use super::{FileType, Finding, Outcome, Verify};
use crate::backend::Kind;
use crate::disk::{self, hold};
use crate::journal::Snapshot;
use crate::keyfile;
use crate::opening::journal_dir;
use crate::pack;
use crate::pack::format::{PAGE_LEN, PackKeys};
use crate::store::{index_dir, packs_dir, temp_dir, views_dir};
use crate::view;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

impl Verify {
    pub(super) fn folders(&self) -> Vec<Finding> {
        let dir = &self.inner.dir;
        let mut findings = Vec::new();
        let known = [keyfile::path(dir), disk::beside(&keyfile::path(dir)), dir.join("lock")];
        let folders = [journal_dir(dir), packs_dir(dir), views_dir(dir), index_dir(dir)];
        self.look(dir, &mut findings, |path, kind| match kind {
            Kind::Folder => folders.iter().any(|folder| folder == path),
            _ => known.iter().any(|file| file == path),
        });
        // A folder in the journal's is a backup that a migration made. A segment that is just being
        // made, or removed, is looked at again when that is over.
        self.look(&journal_dir(dir), &mut findings, |path, kind| {
            let known = |journal: Snapshot| journal.names(path) || matches!(self.disk().kind(path), Ok(None));
            kind == Kind::Folder || is_temporary(path) || known(self.snapshot())
        });
        let views: BTreeSet<PathBuf> = self.view_logs();
        self.look(&views_dir(dir), &mut findings, |path, _| {
            views.contains(&path.with_extension("log")) || is_temporary(path)
        });
        self.packs(&mut findings);
        findings
    }

    fn view_logs(&self) -> BTreeSet<PathBuf> {
        let path = |friend| view::path(&views_dir(&self.inner.dir), &self.inner.key, friend);
        self.friends.iter().map(path).collect()
    }

    /// Tells what is in a folder and not known. A folder that cannot be read is told as well.
    fn look(&self, dir: &Path, findings: &mut Vec<Finding>, known: impl Fn(&Path, Kind) -> bool) {
        let tell = |path: PathBuf, what, outcome| Finding {
            file: FileType::Other,
            path,
            object: None,
            what,
            blocks: 0,
            outcome,
        };
        let Ok(list) = self.disk().list(dir) else {
            return findings.push(tell(dir.to_owned(), "the folder cannot be read", Outcome::Left));
        };
        let foreign = list.into_iter().filter(|(path, kind)| !known(path, *kind));
        findings.extend(foreign.map(|(path, _)| tell(path, "nobody knows this file", Outcome::Foreign)));
    }

    fn packs(&self, findings: &mut Vec<Finding>) {
        let dir = packs_dir(&self.inner.dir);
        // Without knowing what is kept every pack would be foreign.
        let Ok(kept) = self.inner.kept() else { return };
        let named: BTreeSet<PathBuf> = kept.iter().map(|info| self.inner.pack_path(&info.root)).collect();
        let Ok(list) = self.disk().list(&dir) else {
            return self.look(&dir, findings, |_, _| true);
        };
        self.look(&dir, findings, |_, kind| kind == Kind::Folder);
        let folders = list
            .into_iter()
            .filter(|(path, kind)| *kind == Kind::Folder && *path != temp_dir(&self.inner.dir));
        for (folder, _) in folders {
            let from = findings.len();
            self.look(&folder, findings, |path, _| named.contains(path));
            // An object may have come or gone since the names were collected.
            let added: Vec<Finding> = findings.drain(from..).filter_map(|f| self.stray_pack(f)).collect();
            findings.extend(added);
        }
    }

    /// A file in a folder of packs that no row names. A pack whose own place is empty goes there.
    fn stray_pack(&self, finding: Finding) -> Option<Finding> {
        // A pack gets its name and its row, and loses them, in one change.
        let _settled = hold(&self.inner.changes);
        let path = &finding.path;
        if matches!(self.disk().kind(path), Ok(None)) {
            return None;
        }
        let file = self.disk().open(path).ok();
        let page = file.and_then(|file| file.read_at(0, PAGE_LEN).ok()).unwrap_or_default();
        let Ok((header, _)) = PackKeys::decode_header(&self.inner.key, &page) else {
            return Some(finding);
        };
        let right = pack::path(&packs_dir(&self.inner.dir), &self.inner.key, &header.root);
        let kept = self.inner.object(&header.root).is_some();
        if right == *path {
            // Kept since a moment ago, or the pack of an object whose row was lost or removed.
            let what = "no row names this pack";
            return (!kept).then_some(Finding { file: FileType::Pack, what, ..finding });
        }
        let what = "it stood under the name of another object";
        let outcome = match kept && matches!(self.disk().kind(&right), Ok(None)) {
            true => self.mend(|| {
                self.disk().check()?;
                pack::settle_into(self.disk(), path, &right)?;
                self.disk().sync_parent(path)
            }),
            false => Outcome::Foreign,
        };
        Some(Finding { file: FileType::Pack, object: Some(header.root), what, outcome, ..finding })
    }
}

/// A replacement that is being prepared, or was when the process died: the next start removes it.
fn is_temporary(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "tmp")
}
