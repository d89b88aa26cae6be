//! Every sentence of the page, by language. A language is a file in `assets/texts` and a line here.

use std::collections::HashMap;
use std::sync::LazyLock;

/// Language tags, their own names and their files; the first is complete by definition.
pub const LANGUAGES: [(&str, &str, &str); 2] = [
    ("en", "English", include_str!("../../assets/texts/en.toml")),
    ("de", "Deutsch", include_str!("../../assets/texts/de.toml")),
];

/// The texts of one language.
#[derive(Debug)]
pub struct Texts {
    /// Its tag.
    pub tag: &'static str,
    texts: HashMap<String, String>,
}

static ALL: LazyLock<Vec<Texts>> = LazyLock::new(|| {
    let read = |(tag, _, file): &(&'static str, &str, &str)| Texts { tag, texts: parse(file) };
    LANGUAGES.iter().map(read).collect()
});

/// `[part]` and `key = "text"` give `part.key`.
fn parse(file: &str) -> HashMap<String, String> {
    // The test below reads all of them.
    let table: toml::Table = file.parse().unwrap_or_default();
    let parts = table.iter().filter_map(|(part, texts)| Some((part, texts.as_table()?)));
    let texts = parts.flat_map(|(part, texts)| texts.iter().map(move |(key, text)| (part, key, text)));
    texts.filter_map(|(part, key, text)| Some((format!("{part}.{key}"), text.as_str()?.to_owned()))).collect()
}

impl Texts {
    /// The texts of a language, by its tag.
    pub fn of(tag: &str) -> Option<&'static Self> {
        ALL.iter().find(|texts| texts.tag == tag)
    }

    /// The first language that a browser asks for and that there is (RFC 9110, 12.5.4, without weights:
    /// browsers send the best first).
    pub fn accepted(header: Option<&str>) -> &'static Self {
        let wanted = header.unwrap_or_default().split(',');
        let tags = wanted.filter_map(|one| one.split([';', '-']).next()).map(|tag| tag.trim().to_lowercase());
        tags.filter_map(|tag| Self::of(&tag)).next().unwrap_or_else(Self::first)
    }

    fn first() -> &'static Self {
        static NONE: LazyLock<Texts> = LazyLock::new(|| Texts { tag: "en", texts: HashMap::new() });
        ALL.first().unwrap_or(&NONE)
    }

    /// A text; where a language lacks it, the first language's, else the key itself.
    pub fn get<'a>(&'a self, key: &'a str) -> &'a str {
        let own = self.texts.get(key).or_else(|| Self::first().texts.get(key));
        own.map_or(key, String::as_str)
    }

    /// A text whose `{0}`, `{1}` are filled in.
    pub fn fill(&self, key: &str, values: &[&dyn std::fmt::Display]) -> String {
        let mut text = self.get(key).to_owned();
        for (n, value) in values.iter().enumerate() {
            text = text.replace(&format!("{{{n}}}"), &value.to_string());
        }
        text
    }

    /// The texts of one part, for scripts.
    pub fn part(&self, part: &str) -> serde_json::Value {
        let prefix = format!("{part}.");
        let keys = Self::first().texts.keys().filter_map(|key| Some((key, key.strip_prefix(&prefix)?)));
        keys.map(|(key, short)| (short.to_owned(), self.get(key).into()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn places(text: &str) -> BTreeSet<char> {
        text.split('{').skip(1).filter_map(|rest| rest.chars().next()).collect()
    }

    #[test]
    fn every_language_is_complete() {
        let first = Texts::first();
        assert!(first.texts.len() > 100);
        for ((tag, _, file), texts) in LANGUAGES.iter().zip(ALL.iter()) {
            file.parse::<toml::Table>().unwrap_or_else(|e| panic!("{tag}: {e}"));
            let keys = |texts: &Texts| texts.texts.keys().cloned().collect::<BTreeSet<_>>();
            let lacks: Vec<String> = keys(first).difference(&keys(texts)).cloned().collect();
            let unknown: Vec<String> = keys(texts).difference(&keys(first)).cloned().collect();
            assert!(
                lacks.is_empty() && unknown.is_empty(),
                "{tag} lacks {lacks:?}, nobody knows {unknown:?}"
            );
            for (key, text) in &texts.texts {
                assert!(!text.trim().is_empty(), "{tag}: {key}");
                assert_eq!(places(text), places(first.get(key)), "{tag}: {key}");
            }
        }
    }

    /// Keys stand in templates as `t("part.key")` and in scripts as `text("key")`.
    #[test]
    fn what_pages_say_exists_and_what_exists_is_said() {
        let mut used = BTreeSet::new();
        let mut all = String::new();
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
        for dir in ["src/web", "src/web/pages", "assets/page"] {
            for file in std::fs::read_dir(format!("{root}{dir}")).unwrap() {
                let path = file.unwrap().path();
                if !path.is_file() || path.ends_with("texts.rs") {
                    continue;
                }
                let source = std::fs::read_to_string(&path).unwrap().replace("getContext(", "");
                let in_script = path.extension().is_some_and(|e| e == "js");
                for call in ["t(\"", "f(\"", "get(\"", "text('"] {
                    for rest in source.split(call).skip(1) {
                        let key = rest.split(['"', '\'']).next().unwrap();
                        let key = if in_script { format!("js.{key}") } else { key.to_owned() };
                        if key.contains('.') && !key.contains([' ', '{', '/']) {
                            used.insert(key);
                        }
                    }
                }
                all.push_str(&source);
            }
        }
        let known: BTreeSet<String> = Texts::first().texts.keys().cloned().collect();
        let lacks: Vec<&String> = used.difference(&known).collect();
        assert!(lacks.is_empty(), "not in en.toml: {lacks:?}");
        // Some are put together, or stand in a list.
        let put_together = |key: &str| {
            let (part, name) = key.split_once('.').unwrap();
            let stem = name.split('_').next().unwrap();
            let listed = if part == "js" { format!("'{name}'") } else { format!("\"{key}\"") };
            all.contains(&listed)
                || all.contains(&format!("\"{part}.{{"))
                || part == "js" && all.contains(&format!("`{stem}_${{"))
        };
        let unsaid: Vec<&String> = known.difference(&used).filter(|key| !put_together(key)).collect();
        assert!(unsaid.is_empty(), "nobody says {unsaid:?}");
    }

    #[test]
    fn the_browsers_language_is_taken_where_it_is_there() {
        assert_eq!(Texts::accepted(Some("de-AT,de;q=0.9,en;q=0.8")).tag, "de");
        assert_eq!(Texts::accepted(Some("xx, en;q=0.5")).tag, "en");
        assert_eq!(Texts::accepted(Some("fr")).tag, "en");
        assert_eq!(Texts::accepted(None).tag, "en");
        let de = Texts::of("de").unwrap();
        assert_ne!(de.get("nav.friends"), Texts::first().get("nav.friends"));
        assert_eq!(de.get("no.such"), "no.such");
    }
}
