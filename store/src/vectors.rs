//! Checks the annotated hex vectors under `tests/vectors/store` against what the code makes.
//!
//! `KITH_WRITE_VECTORS=1` writes them instead, which is for a change of format only.

use std::path::PathBuf;

/// Compares `bytes` with the stored vector `name`; `fields` are the annotated lengths in order.
pub(crate) fn check(name: &str, bytes: &[u8], fields: &[(usize, &str)]) {
    let mut text = String::new();
    let mut rest = bytes;
    for (len, note) in fields {
        let (field, after) = rest.split_at(*len);
        rest = after;
        text.push_str(&format!("# {note}\n"));
        for line in field.chunks(32) {
            text.push_str(&crate::disk::hex(line));
            text.push('\n');
        }
    }
    assert!(rest.is_empty(), "{} bytes without a note", rest.len());
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/vectors/store/{name}.hex"));
    if std::env::var_os("KITH_WRITE_VECTORS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "{name} differs from its vector");
}
