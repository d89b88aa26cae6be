//! Where passphrases come from: a file, standard input, the environment, or the person at the
//! terminal, in that order; never an argument, because everybody on the machine can read those.
//!
//! Invariant: a passphrase lives only in buffers that wipe themselves, nothing is asked when
//! standard input is no terminal, and the terminal is as it was when a question is over, also
//! after Ctrl-C.

use crate::exit::{Context, Exit, Failure};
use crate::terminal;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use zeroize::Zeroizing;

/// Longest passphrase in bytes.
const MAX: usize = 4096;
/// Questions until a new passphrase was typed twice alike.
const TRIES: usize = 3;

/// A passphrase, wiped when it goes.
pub type Passphrase = Zeroizing<Vec<u8>>;

/// The variable with the passphrase that opens a store.
pub const VARIABLE: &str = "KITH_PASSPHRASE";
/// The variable with the passphrase that a store gets with `kith store rekey`.
pub const NEW_VARIABLE: &str = "KITH_NEW_PASSPHRASE";

/// A passphrase from a file, from standard input (`-`) or from the environment variable; `None` when
/// neither says one.
pub fn given(file: Option<&Path>, variable: &str) -> Result<Option<Passphrase>, Failure> {
    let bytes = match file {
        Some(path) if path == Path::new("-") => read(raw_stdin()?)?,
        Some(path) => {
            let file =
                File::open(path).context(format!("cannot open the passphrase file {}", path.display()))?;
            read(file)?
        }
        None => match std::env::var_os(variable) {
            Some(value) => Zeroizing::new(value.into_vec()),
            None => return Ok(None),
        },
    };
    checked(trimmed(bytes)).map(Some)
}

/// Asks for the passphrase of a store that has one; `None` where nobody can be asked.
pub fn asked() -> Result<Option<Passphrase>, Failure> {
    ask("Passphrase: ")?.map(checked).transpose()
}

/// Asks for a new passphrase, twice. The outer `None`: nobody can be asked; the inner one: nothing was
/// typed, which is only accepted when `may_be_empty`.
pub fn asked_twice(may_be_empty: bool) -> Result<Option<Option<Passphrase>>, Failure> {
    let question = if may_be_empty { "New passphrase (Enter for none): " } else { "New passphrase: " };
    for _ in 0..TRIES {
        let Some(first) = ask(question)? else { return Ok(None) };
        if first.is_empty() && may_be_empty {
            return Ok(Some(None));
        }
        let first = checked(first)?;
        let Some(second) = ask("The same again: ")? else { return Ok(None) };
        if first == second {
            return Ok(Some(Some(first)));
        }
        eprintln!("These differ.");
    }
    Err(Failure::new(Exit::Usage, "the passphrase was not typed twice alike: try again"))
}

/// Says so when others can read a passphrase file; called when it has served, because a failure is told
/// in one line. It is no refusal, unlike for a key file: the file is the user's or the service
/// manager's, which mounts secrets with modes of its own, and what others could read they may have
/// read already.
pub fn warn_if_loose(file: Option<&Path>) {
    let Some(path) = file else { return };
    let loose = path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o077 != 0);
    if loose {
        let path = terminal::safe(&path.display().to_string());
        eprintln!("kith: other users can reach the passphrase file {path}: give it mode 0600");
    }
}

/// Standard input without the library's buffer, which keeps what it read and is never wiped.
fn raw_stdin() -> Result<File, Failure> {
    let copy = std::io::stdin().as_fd().try_clone_to_owned();
    copy.map(File::from).context("cannot read standard input")
}

fn read(from: impl Read) -> Result<Passphrase, Failure> {
    // All the room at once: a buffer that grows would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX + 3));
    from.take(MAX as u64 + 3).read_to_end(&mut bytes).context("cannot read the passphrase")?;
    Ok(bytes)
}

fn trimmed(mut bytes: Passphrase) -> Passphrase {
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    bytes
}

fn checked(bytes: Passphrase) -> Result<Passphrase, Failure> {
    if bytes.is_empty() {
        return Err(Failure::new(Exit::Usage, "the passphrase is empty: it would protect nothing"));
    }
    if bytes.len() > MAX {
        return Err(Failure::new(Exit::Usage, format!("the passphrase is longer than {MAX} bytes")));
    }
    Ok(bytes)
}

/// Asks on the terminal without showing what is typed; `None` when standard input is none.
fn ask(question: &str) -> Result<Option<Passphrase>, Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(None);
    }
    let mut stdin = raw_stdin()?;
    let answer = {
        let _quiet = Quiet::begin()?;
        eprint!("{question}");
        let _ = std::io::stderr().flush();
        typed(&mut stdin)
    };
    eprintln!();
    answer.map(Some)
}

/// While it lives the terminal shows nothing and sends each key at once, Ctrl-C too: nothing can end
/// the process with the terminal silent but a signal from elsewhere.
struct Quiet(Termios);

impl Quiet {
    fn begin() -> Result<Self, Failure> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).map_err(std::io::Error::from).context("cannot use the terminal")?;
        let mut quiet = before.clone();
        quiet
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG | LocalModes::IEXTEN);
        quiet.special_codes[SpecialCodeIndex::VMIN] = 1;
        quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
        // What was typed before the question is no answer to it.
        tcsetattr(&stdin, OptionalActions::Flush, &quiet)
            .map_err(std::io::Error::from)
            .context("cannot use the terminal")?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// One line as typed on a silent terminal.
fn typed(keys: &mut impl Read) -> Result<Passphrase, Failure> {
    const CTRL_C: u8 = 3;
    const CTRL_D: u8 = 4;
    const CTRL_U: u8 = 21;
    const CTRL_BACKSLASH: u8 = 28;
    let mut line = Zeroizing::new(Vec::with_capacity(MAX + 1));
    let interrupted = || Failure::new(Exit::Interrupted, "interrupted; nothing was changed");
    loop {
        let mut key = Zeroizing::new([0; 1]);
        if keys.read(&mut key[..]).context("cannot read the passphrase")? == 0 {
            return Err(interrupted());
        }
        match key[0] {
            b'\n' | b'\r' => return Ok(line),
            CTRL_C | CTRL_D | CTRL_BACKSLASH => return Err(interrupted()),
            CTRL_U => line.clear(),
            8 | 127 => erase_last(&mut line),
            // One more than allowed is kept, so that it can be told.
            byte if line.len() <= MAX => line.push(byte),
            _ => {}
        }
    }
}

/// Takes back the last character, which may be several bytes of UTF-8.
fn erase_last(line: &mut Vec<u8>) {
    while line.pop().is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(keys: &[u8]) -> Result<Vec<u8>, Exit> {
        typed(&mut &keys[..]).map(|line| line.to_vec()).map_err(|failure| failure.exit)
    }

    #[test]
    fn keys_that_edit_are_no_part_of_the_passphrase() {
        assert_eq!(line(b"secret\n").unwrap(), b"secret");
        assert_eq!(line(b"secret\rmore").unwrap(), b"secret");
        assert_eq!(line(b"wrong\x15sex\x7fcret\n").unwrap(), b"secret");
        assert_eq!(line("zoo\u{e9}\u{1f418}\x7f\x7f\x08\x7f\x7f\x7f\x7fa\n".as_bytes()).unwrap(), b"a");
        assert_eq!(line(b"\n").unwrap(), b"");
    }

    #[test]
    fn whoever_interrupts_gets_no_passphrase() {
        for keys in [&b"abc\x03"[..], b"abc\x04", b"\x1c", b"abc"] {
            assert_eq!(line(keys).unwrap_err(), Exit::Interrupted, "{keys:?}");
        }
    }

    #[test]
    fn too_long_and_empty_ones_are_refused() {
        let long = [&[b'x'; MAX + 9][..], b"\n"].concat();
        let kept = Zeroizing::new(line(&long).unwrap());
        assert_eq!(kept.len(), MAX + 1);
        assert_eq!(checked(kept).unwrap_err().exit, Exit::Usage);
        assert_eq!(checked(Zeroizing::new(Vec::new())).unwrap_err().exit, Exit::Usage);
        assert!(checked(Zeroizing::new(vec![b'x'; MAX])).is_ok());
    }

    #[test]
    fn the_end_of_a_line_is_no_part_of_the_passphrase() {
        for (text, want) in [(&b"a b \r\n"[..], &b"a b "[..]), (b"a\n\n", b"a"), (b"a", b"a"), (b"\n", b"")] {
            assert_eq!(trimmed(Zeroizing::new(text.to_vec())).as_slice(), want);
        }
    }
}
