//! What goes, in words that people know. Only names: whatever is not known goes all the same.

use std::collections::BTreeSet;

/// What was taken out of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gone(BTreeSet<String>);

/// What is searched for where something of unknown make is thrown away, and its name for people. Lower case.
const MARKS: [(&[u8], &str); 64] = [
    (b"\xa9xyz", "location"),
    (b"loci", "location"),
    (b"location", "location"),
    (b"gpsl", "location"),
    (b"gpsi", "location"),
    (b"gps5", "location"),
    (b"latitude", "location"),
    (b"\xa9mak", "device"),
    (b"\xa9mod", "device"),
    (b"\xa9mdl", "device"),
    (b".make", "device"),
    (b".model", "device"),
    (b"manufacturer", "device"),
    (b"com.android", "device"),
    (b"cnth", "device"),
    (b"camera", "device"),
    (b"lens", "device"),
    (b"serial", "device"),
    (b"smta", "device"),
    (b"saut", "device"),
    (b"\xa9art", "author"),
    (b"\xa9aut", "author"),
    (b"\xa9wrt", "author"),
    (b"\xa9dir", "author"),
    (b"\xa9prd", "author"),
    (b"aart", "author"),
    (b"auth", "author"),
    (b"perf", "author"),
    (b"artist", "author"),
    (b"author", "author"),
    (b"creator", "author"),
    (b"cprt", "copyright note"),
    (b"copyright", "copyright note"),
    (b"\xa9cpy", "copyright note"),
    (b"\xa9too", "software"),
    (b"\xa9swr", "software"),
    (b"\xa9enc", "software"),
    (b"encoder", "software"),
    (b"encoded_by", "software"),
    (b"software", "software"),
    (b"writing", "software"),
    (b"\xa9day", "dates"),
    (b"creationdate", "dates"),
    (b"creation_time", "dates"),
    (b"date", "dates"),
    (b"yrrc", "dates"),
    (b"xmp_", "XMP"),
    (b"xmpmeta", "XMP"),
    (b"xpacket", "XMP"),
    (b"exif", "Exif"),
    (b"covr", "cover picture"),
    (b"\xff\xd8\xff\xe0", "cover picture"),
    (b"\x89png", "cover picture"),
    (b"\xa9nam", "title"),
    (b"titl", "title"),
    (b"title", "title"),
    (b"\xa9cmt", "comment"),
    (b"dscp", "comment"),
    (b"desc", "comment"),
    (b"comment", "comment"),
    (b"description", "comment"),
    (b"\xa9lyr", "comment"),
    (b"keyw", "comment"),
    (b"chpl", "chapters"),
];

/// So much of what is thrown away is searched for names.
const LOOKED_AT: usize = 1 << 20;

impl Gone {
    /// Something with this name went.
    pub fn note(&mut self, what: impl Into<String>) {
        self.0.insert(what.into());
    }

    /// Something went that may hold many things; `what` if none of them has a name.
    pub fn note_in(&mut self, bytes: &[u8], what: &str) {
        let seen = bytes.get(..LOOKED_AT).unwrap_or(bytes);
        if seen.iter().all(|byte| *byte == 0) {
            return;
        }
        let mut found = false;
        for (mark, name) in MARKS {
            if contains(seen, mark) {
                found = true;
                self.note(name);
            }
        }
        if !found {
            self.note(what);
        }
    }

    /// Bytes of something that only fills: it is told of when it held more than zeros.
    pub fn note_filling(&mut self, bytes: &[u8], what: &str) {
        if bytes.iter().any(|byte| *byte != 0) {
            self.note(what);
        }
    }

    /// All that went, in the order of the alphabet.
    pub fn into_list(self) -> Vec<String> {
        self.0.into_iter().collect()
    }
}

/// Whether `bytes` contain `mark`, letters of either case.
fn contains(bytes: &[u8], mark: &[u8]) -> bool {
    let Some((first, rest)) = mark.split_first() else { return true };
    bytes.iter().enumerate().any(|(at, byte)| {
        byte.to_ascii_lowercase() == *first
            && bytes.get(at + 1..at + 1 + rest.len()).is_some_and(|here| here.eq_ignore_ascii_case(rest))
    })
}
