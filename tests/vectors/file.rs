//! Annotated hex files: `# comment` lines and `name: hex` lines, which in order make one value.
//!
//! Hex may stand in groups, go on in lines that start with a blank, and say `00*17` for a byte that
//! stands 17 times. A file whose name starts with `bad-` holds what must be refused; its line
//! `# refused: ...` is the error. `KITH_WRITE_VECTORS=1` writes the files instead of comparing,
//! which is for a change of format only.

use std::fmt::{Debug, Write};
use std::path::PathBuf;

/// One room's folder of vectors.
pub(crate) struct Folder(pub(crate) &'static str);

/// A value in named pieces.
#[derive(Default)]
pub(crate) struct Fields {
    comments: Vec<String>,
    pieces: Vec<(String, Vec<u8>)>,
}

impl Fields {
    /// A value; `about` stands at the top of its file.
    pub(crate) fn new(about: &str) -> Self {
        Self { comments: vec![about.to_owned()], pieces: Vec::new() }
    }

    /// Another comment line.
    pub(crate) fn note(mut self, text: impl Into<String>) -> Self {
        self.comments.push(text.into());
        self
    }

    /// The next piece.
    pub(crate) fn piece(mut self, name: &str, bytes: &[u8]) -> Self {
        self.pieces.push((name.to_owned(), bytes.to_vec()));
        self
    }

    /// Cuts `bytes` into pieces of the given lengths; a last piece without length takes the rest.
    pub(crate) fn cut(mut self, bytes: &[u8], pieces: &[(&str, usize)], rest: &str) -> Self {
        let mut left = bytes;
        for (name, len) in pieces {
            let (piece, after) = left.split_at(*len);
            self = self.piece(name, piece);
            left = after;
        }
        if rest.is_empty() {
            assert!(left.is_empty(), "{} bytes without a name", left.len());
            self
        } else {
            self.piece(rest, left)
        }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        for comment in &self.comments {
            writeln!(out, "# {comment}").unwrap();
        }
        for (name, bytes) in &self.pieces {
            let hex = hex(bytes);
            let gap = if hex.is_empty() { "" } else { " " };
            writeln!(out, "{name}:{gap}{hex}").unwrap();
        }
        out
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut tokens: Vec<String> = vec![String::new()];
    let mut rest = bytes;
    while let Some(first) = rest.first() {
        let run = rest.iter().take_while(|b| *b == first).count();
        if run > 32 {
            tokens.push(format!("{first:02x}*{run}"));
            tokens.push(String::new());
            rest = &rest[run..];
            continue;
        }
        let token = tokens.last_mut().unwrap();
        if token.len() == 64 {
            tokens.push(format!("{first:02x}"));
        } else {
            write!(token, "{first:02x}").unwrap();
        }
        rest = &rest[1..];
    }
    tokens.retain(|t| !t.is_empty());
    tokens.join("\n  ")
}

fn parse(name: &str, text: &str) -> Vec<(String, Vec<u8>)> {
    let mut pieces: Vec<(String, Vec<u8>)> = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        let hex = match line.split_once(':') {
            Some((piece, hex)) if !line.starts_with(' ') => {
                pieces.push((piece.to_owned(), Vec::new()));
                hex
            }
            _ => line,
        };
        let bytes = &mut pieces.last_mut().unwrap_or_else(|| panic!("{name}: hex without a name")).1;
        for token in hex.split_whitespace() {
            let (digits, times) = token.split_once('*').unwrap_or((token, "1"));
            assert!(digits.len() % 2 == 0, "{name}: odd number of digits");
            let one: Vec<u8> = (0..digits.len() / 2)
                .map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap())
                .collect();
            bytes.extend(one.repeat(times.parse().unwrap()));
        }
    }
    pieces
}

fn writing() -> bool {
    std::env::var_os("KITH_WRITE_VECTORS").is_some()
}

impl Folder {
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/vectors/{}/{name}.hex", self.0))
    }

    /// Compares `fields` with the file `name` and returns the file's pieces, joined.
    pub(crate) fn check(&self, name: &str, fields: Fields) -> Vec<u8> {
        let text = fields.text();
        if writing() {
            std::fs::write(self.path(name), &text).unwrap();
        }
        let stored = std::fs::read_to_string(self.path(name)).unwrap();
        assert_eq!(text, stored, "{name} differs from its vector");
        parse(name, &stored).into_iter().flat_map(|(_, bytes)| bytes).collect()
    }

    /// Every file `bad-KIND-*` must be refused by `decode`, for the reason that stands in it.
    /// `examples` are written when vectors are written, and all of them must be there.
    pub(crate) fn check_bad<T, E: Debug>(
        &self,
        kind: &str,
        examples: &[(&str, Vec<u8>)],
        decode: impl Fn(&[u8]) -> Result<T, E>,
    ) {
        let prefix = format!("bad-{kind}-");
        for (name, bytes) in examples {
            let path = self.path(&format!("{prefix}{name}"));
            if writing() {
                let error = decode(bytes).err().unwrap_or_else(|| panic!("{prefix}{name} is accepted"));
                let fields = Fields::new(&format!("{kind}: {}", name.replace('-', " ")))
                    .note(format!("refused: {error:?}"))
                    .piece("bytes", bytes);
                std::fs::write(&path, fields.text()).unwrap();
            }
            assert!(path.exists(), "{} is missing", path.display());
        }
        let mut seen = 0;
        for file in std::fs::read_dir(self.path("x").parent().unwrap()).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            if !name.starts_with(&prefix) {
                continue;
            }
            seen += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            let bytes: Vec<u8> = parse(&name, &text).into_iter().flat_map(|(_, b)| b).collect();
            let expected = text.lines().find_map(|l| l.strip_prefix("# refused: ")).unwrap();
            match decode(&bytes) {
                Ok(_) => panic!("{name} is accepted"),
                Err(error) => assert_eq!(format!("{error:?}"), expected, "{name}"),
            }
        }
        assert!(seen >= examples.len() && seen > 0);
    }
}
