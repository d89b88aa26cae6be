//! A file of the user in the making, for its owner alone: nothing has its name before it is whole and
//! on disk, and nothing that lies there is touched, be it a file, a link, a pipe or a device.

use crate::exit::{Context, Exit, Failure};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file that appears with [`NewFile::finish`], or not at all.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    part: PathBuf,
    file: File,
}

fn taken(path: &Path) -> Failure {
    Failure::new(Exit::Failure, format!("{} exists already: choose another name", path.display()))
}

impl NewFile {
    /// Begins beside `path`. Refused when something has that name.
    pub fn begin(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Err(Failure::new(Exit::Usage, "this needs a file of its own: give its name"));
        }
        let path = std::path::absolute(path).context(format!("cannot use {}", path.display()))?;
        if path.symlink_metadata().is_ok() {
            return Err(taken(&path));
        }
        let Some(name) = path.file_name() else {
            return Err(Failure::new(Exit::Usage, format!("{} is no name of a file", path.display())));
        };
        let mut name = name.to_owned();
        name.push(format!(".part-{}", std::process::id()));
        let part = path.with_file_name(name);
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)
            .context(format!("cannot make {}", part.display()))?;
        Ok(Self { path, part, file })
    }

    /// The name that it will have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it durable and gives it its name; returns its length.
    pub fn finish(self) -> Result<u64, Failure> {
        let about = || format!("cannot write {}", self.path.display());
        self.file.sync_all().context(about())?;
        let len = self.file.metadata().context(about())?.len();
        // A hard link refuses to replace what came meanwhile; a rename would not.
        match std::fs::hard_link(&self.part, &self.path) {
            Ok(()) => std::fs::remove_file(&self.part).context(about())?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(taken(&self.path)),
            // Some file systems, most of those on sticks among them, know no hard links.
            Err(_) if self.path.symlink_metadata().is_ok() => return Err(taken(&self.path)),
            Err(_) => std::fs::rename(&self.part, &self.path).context(about())?,
        }
        if let Some(folder) = self.path.parent() {
            File::open(folder).and_then(|folder| folder.sync_all()).context(about())?;
        }
        Ok(len)
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // Once it has its name, this finds nothing.
        let _ = std::fs::remove_file(&self.part);
    }
}

/// Opens a file for reading; what is no file (a pipe, a device, a folder) is refused.
pub fn open_plain(path: &Path) -> Result<(File, u64), Failure> {
    let about = std::fs::metadata(path).context(format!("cannot open {}", path.display()))?;
    if !about.is_file() {
        return Err(Failure::new(Exit::Refused, format!("{} is not a file", path.display())));
    }
    let file = File::open(path).context(format!("cannot open {}", path.display()))?;
    Ok((file, about.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_appears_whole_or_not_at_all_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let names = || std::fs::read_dir(dir.path()).unwrap().count();
        let path = dir.path().join("a");
        let mut file = NewFile::begin(&path).unwrap();
        file.write_all(b"half").unwrap();
        assert!(!path.exists());
        drop(file);
        assert_eq!(names(), 0);

        let mut file = NewFile::begin(&path).unwrap();
        file.write_all(b"whole").unwrap();
        assert_eq!(file.finish().unwrap(), 5);
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!((NewFile::begin(&path).unwrap_err().exit, names()), (Exit::Failure, 1));

        // Somebody was quicker.
        let other = dir.path().join("b");
        let file = NewFile::begin(&other).unwrap();
        std::fs::write(&other, b"theirs").unwrap();
        assert!(file.finish().is_err());
        assert_eq!(std::fs::read(&other).unwrap(), b"theirs");
        let link = dir.path().join("c");
        std::os::unix::fs::symlink(dir.path().join("nothing"), &link).unwrap();
        assert!(NewFile::begin(&link).is_err());
        assert_eq!(names(), 3);
    }
}
