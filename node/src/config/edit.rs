//! Editing and judging a `config.toml` as a text that belongs to its user: comments and order stay,
//! and nothing is written that would not be read back as what was asked for.

use super::{Config, ConfigError, Given, KEYS, KeySpec, MAX_SHOWN_VALUE, Origin, flatten, known};
use kith_crypto::text;
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use toml_edit::{Array, Document, DocumentMut, Item, Table, Value};

/// Something that is wrong in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, counted from 1.
    pub line: usize,
    /// Which key, if it is about one.
    pub key: Option<String>,
    /// What is wrong and what is allowed.
    pub what: String,
}

/// Everything that is wrong in a file's text; nothing if a node would take it.
pub fn problems(toml: &str, file: &Path) -> Vec<Problem> {
    let line_of = |at: usize| toml.get(..at).unwrap_or(toml).matches('\n').count() + 1;
    let document = match Document::parse(toml) {
        Ok(document) => document,
        Err(e) => {
            let what = e.message().replace('\n', ", ");
            return vec![Problem { line: line_of(e.span().map_or(0, |s| s.start)), key: None, what }];
        }
    };
    let mut lines = BTreeMap::new();
    positions("", document.as_table(), &mut lines);
    let origin = Origin::File(file.to_owned());
    let mut out = Vec::new();
    for (name, value) in values(toml) {
        let checked = known(&name, &origin).and_then(|key| key.check(&Given::of(&value), &origin));
        if let Err(e) = checked {
            let line = lines.get(&name).map_or(1, |at| line_of(*at));
            out.push(Problem { line, what: reason(&e), key: Some(name) });
        }
    }
    out.sort_by_key(|p| p.line);
    out
}

// The line is told apart, so the file's name is not repeated in each.
fn reason(error: &ConfigError) -> String {
    match error {
        ConfigError::Value { value, reason, allowed, .. } => {
            let reason = reason.unwrap_or("not a value of this key");
            format!("\"{value}\" is refused: {reason}; allowed: {allowed}")
        }
        ConfigError::Unknown { nearest, .. } => format!("there is no such key; did you mean {nearest}?"),
        other => other.to_string(),
    }
}

fn positions(prefix: &str, table: &Table, out: &mut BTreeMap<String, usize>) {
    for (name, item) in table {
        let full = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        if let Some(inner) = item.as_table() {
            positions(&full, inner, out);
        }
        let at = table.key(name).and_then(toml_edit::Key::span).or_else(|| item.span());
        if let Some(inline) = item.as_inline_table() {
            let start = item.span().map_or(0, |s| s.start);
            inline.iter().for_each(|(inner, _)| {
                out.insert(format!("{full}.{inner}"), start);
            });
        }
        out.insert(full, at.map_or(0, |span| span.start));
    }
}

fn values(toml: &str) -> BTreeMap<String, toml::Value> {
    let table: toml::Table = toml.parse().unwrap_or_default();
    let mut flat = Vec::new();
    flatten("", &table, &mut flat);
    flat.into_iter().map(|(name, value)| (name, value.clone())).collect()
}

/// The key that a command names.
pub fn key(name: &str) -> Result<&'static KeySpec, ConfigError> {
    known(name, &Origin::Command)
}

/// One way to bring a value into a text; `None` where it does not apply.
type Way = fn(&str, &DocumentMut, &KeySpec, &Value) -> Option<String>;

/// The file's text with another value for one key: an existing line is changed, the commented line
/// of a default is uncommented, else a line is added. Every other value stays what it was.
pub fn set(toml: &str, file: &Path, key: &'static KeySpec, value: &Given) -> Result<String, ConfigError> {
    key.check(value, &Origin::Command)?;
    let broken = |what: String| ConfigError::Syntax { origin: Origin::File(file.to_owned()), what };
    let document: DocumentMut = toml.parse().map_err(|e: toml_edit::TomlError| {
        let before = toml.get(..e.span().map_or(0, |s| s.start)).unwrap_or_default();
        broken(format!("line {}: {}", before.matches('\n').count() + 1, e.message().replace('\n', ", ")))
    })?;
    let ways: [Way; 3] = [replaced, uncommented, added];
    let literal = literal(key, value);
    let wanted = {
        let mut all = values(toml);
        let alone = values(&format!("{} = {}", key.name, literal));
        all.extend(alone);
        all
    };
    let mut candidates = ways.into_iter().filter_map(|way| way(toml, &document, key, &literal));
    candidates.find(|text| text.parse::<DocumentMut>().is_ok() && values(text) == wanted).ok_or_else(|| {
        let name = text::cut(key.name, MAX_SHOWN_VALUE);
        broken(format!("{name} cannot be set here: edit the file by hand"))
    })
}

fn literal(key: &KeySpec, value: &Given) -> Value {
    let one = |text: &str| match text.parse::<i64>() {
        Ok(number) if key.default.parse::<i64>().is_ok() => Value::from(number),
        _ => Value::from(text),
    };
    match value {
        Given::Text(text) => one(text),
        Given::List(items) => Value::Array(items.iter().map(String::as_str).collect::<Array>()),
    }
}

fn replaced(_: &str, document: &DocumentMut, key: &KeySpec, literal: &Value) -> Option<String> {
    let mut document = document.clone();
    let mut item = document.as_item_mut();
    for part in key.name.split('.') {
        item = item.as_table_like_mut()?.get_mut(part)?;
    }
    let value = item.as_value_mut()?;
    let decor = value.decor().clone();
    *value = literal.clone();
    *value.decor_mut() = decor;
    Some(document.to_string())
}

fn uncommented(toml: &str, _: &DocumentMut, key: &KeySpec, literal: &Value) -> Option<String> {
    let is_default = |line: &str| {
        let rest = line.strip_prefix('#')?.trim_start().strip_prefix(key.name)?;
        rest.trim_start().starts_with('=').then_some(())
    };
    let at = toml.lines().position(|line| is_default(line).is_some())?;
    let mut out = String::with_capacity(toml.len() + 32);
    for (index, line) in toml.split_inclusive('\n').enumerate() {
        if index == at {
            out.push_str(&format!("{} = {literal}\n", key.name));
        } else {
            out.push_str(line);
        }
    }
    Some(out)
}

fn added(_: &str, document: &DocumentMut, key: &KeySpec, literal: &Value) -> Option<String> {
    let mut document = document.clone();
    let mut table = document.as_table_mut() as &mut dyn toml_edit::TableLike;
    let (path, last) = key.name.rsplit_once('.').unwrap_or(("", key.name));
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let fresh = || {
            let mut table = Table::new();
            table.set_dotted(true);
            Item::Table(table)
        };
        table = table.entry(part).or_insert_with(fresh).as_table_like_mut()?;
    }
    table.insert(last, Item::Value(literal.clone()));
    Some(document.to_string())
}

/// A value for this key from one text, as `--set` takes it: lists have commas.
pub fn given(key: &KeySpec, text: &str) -> Given {
    if !key.default.starts_with('[') {
        return Given::Text(text.to_owned());
    }
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    Given::List(items.map(str::to_owned).collect())
}

/// Sets keys in a file, all of them or none.
pub fn set_in(file: &Path, changes: &[(&'static KeySpec, Given)]) -> Result<(), ConfigError> {
    let mut toml = read(file)?;
    for (key, value) in changes {
        toml = set(&toml, file, key, value)?;
    }
    write(file, &toml)
}

/// Reads the file, writes the default one first if there is none.
pub fn read(file: &Path) -> Result<String, ConfigError> {
    Config::write_default(file)?;
    super::read(file)
}

/// Replaces the file's text in one step: after a crash it is the old or the new one. A symbolic link
/// stays one, and so do the permissions.
pub fn write(file: &Path, toml: &str) -> Result<(), ConfigError> {
    let failed = |path: &Path, source: io::Error| ConfigError::File { path: path.to_owned(), source };
    let real = file.canonicalize().map_err(|e| failed(file, e))?;
    let mut name = real.file_name().map(std::ffi::OsStr::to_owned).unwrap_or_default();
    name.push(format!(".new-{}", std::process::id()));
    let temp = real.with_file_name(name);
    let done = write_beside(&real, &temp, toml);
    if done.is_err() {
        let _ = std::fs::remove_file(&temp);
    }
    done.map_err(|e| failed(&real, e))
}

fn write_beside(real: &PathBuf, temp: &PathBuf, toml: &str) -> io::Result<()> {
    let mode = std::fs::metadata(real)?.permissions().mode() & 0o777;
    let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(temp)?;
    out.write_all(toml.as_bytes())?;
    out.set_permissions(std::fs::Permissions::from_mode(mode))?;
    out.sync_all()?;
    std::fs::rename(temp, real)?;
    match real.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Every key.
pub fn keys() -> impl Iterator<Item = &'static KeySpec> {
    KEYS.iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn change(toml: &str, name: &str, value: &str) -> Result<String, String> {
        let key = key(name).map_err(|e| e.to_string())?;
        set(toml, Path::new("c.toml"), key, &given(key, value)).map_err(|e| e.to_string())
    }

    #[test]
    fn the_written_file_is_edited_line_by_line() {
        let before = Config::default_toml();
        let mut text = before.clone();
        for (name, value) in [
            ("name", "Zoë \"q\""),
            ("link.half_open", "7"),
            ("listen", "127.0.0.1:1, [::1]:2"),
            ("limits.own.up", "1.5MiB/s"),
            ("limits.schedule", "mon-fri 08:00-18:00 up=1MB/s"),
            ("advertise", ""),
        ] {
            text = change(&text, name, value).unwrap();
        }
        // Six lines differ, all other lines stand as they stood.
        let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), text.lines().collect());
        assert_eq!(old.len(), new.len());
        assert_eq!(old.iter().zip(&new).filter(|(a, b)| a != b).count(), 6);
        assert!(new.contains(&"link.half_open = 7") && new.contains(&"advertise = []"), "{text}");
        assert!(problems(&text, Path::new("c")).is_empty());
        // Again, over what is there now.
        let again = change(&text, "link.half_open", "8").unwrap();
        assert_eq!(again, text.replace("link.half_open = 7", "link.half_open = 8"));
    }

    #[test]
    fn a_users_own_layout_stays() {
        let mine =
            "# mine\nname = 'Ana' # that is me\n\n[limits]\nup = \"1MB/s\" # evenings\n[log]\n# level?\n";
        let text = change(mine, "limits.up", "2MB/s").unwrap();
        assert_eq!(text, mine.replace("\"1MB/s\"", "\"2MB/s\""));
        let text = change(&text, "limits.down", "3MB/s").unwrap();
        assert!(
            text.contains("# mine") && text.contains("# evenings") && text.contains("# level?"),
            "{text}"
        );
        let text = change(&text, "log.level", "info").unwrap();
        let text = change(&text, "web", "127.0.0.1:0").unwrap();
        let names: BTreeSet<String> = values(&text).into_keys().collect();
        assert_eq!(names, ["name", "limits.up", "limits.down", "log.level", "web"].map(String::from).into());
        assert!(problems(&text, Path::new("c")).is_empty(), "{text}");
        // A commented default that has come to stand under another table is not uncommented there.
        let text = change("[log]\n#privacy = \"normal\"\n", "privacy", "strict").unwrap();
        assert_eq!(values(&text).into_keys().collect::<Vec<_>>(), ["privacy"], "{text}");
    }

    #[test]
    fn bad_values_keys_and_files_are_refused() {
        assert!(change("", "limits.up", "fast").unwrap_err().contains("500kB/s"));
        assert!(change("", "limit.up", "1MB/s").unwrap_err().contains("did you mean limits.up?"));
        assert!(change("x =\n", "limits.up", "1MB/s").unwrap_err().contains("line 1"));
        assert!(change("", "link.half_open", "0").is_err());
        assert!(change("limits = 3\n", "limits.up", "1MB/s").is_err());
    }

    #[test]
    fn every_problem_is_told_with_its_line() {
        let toml = "name = 'Ana'\nlissten = []\n[link]\nhalf_open = 0\n\n[limits]\nup = 'x'\nown.down = 5\n";
        let found = problems(toml, Path::new("c"));
        let at: Vec<(usize, &str)> = found.iter().map(|p| (p.line, p.key.as_deref().unwrap_or(""))).collect();
        assert_eq!(at, [(2, "lissten"), (4, "link.half_open"), (7, "limits.up"), (8, "limits.own.down")]);
        assert!(found[0].what.contains("did you mean listen?"), "{}", found[0].what);
        let syntax = problems("name = 'Ana'\nlisten = [\n", Path::new("c"));
        assert_eq!((syntax.len(), &syntax[0].key), (1, &None));
        assert!(problems(&Config::default_toml(), Path::new("c")).is_empty());
    }

    #[test]
    fn a_file_is_replaced_whole_and_keeps_mode_and_link() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("real.toml"), dir.path().join("config.toml"));
        std::fs::write(&file, "a").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write(&link, "name = 'Bo'\n").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "name = 'Bo'\n");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        // A folder that cannot be written leaves the file as it was.
        assert!(write(&dir.path().join("missing.toml"), "x").is_err());
    }
}
