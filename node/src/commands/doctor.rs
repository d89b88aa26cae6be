//! `kith doctor`: gathers what can be seen from outside the node, asks the node for the rest, and
//! shows the findings.

use super::*;
use crate::config::edit;
use crate::doctor::{Facts, Finding, Level, Loose, Node, findings};
use std::os::unix::fs::MetadataExt as _;

impl Shell {
    /// `kith doctor`
    pub async fn doctor(&self, name: Option<&str>) -> Result<(), Failure> {
        let facts = self.facts().await?;
        let mut found = findings(&facts);
        if let Some(name) = name {
            let node = facts.node.as_ref();
            let node = node.ok_or_else(|| {
                Failure::new(Exit::NotRunning, "the node is not running: start it with `kith up`")
            })?;
            if !node.friends.iter().any(|f| f.name == name) {
                let what = format!("there is no friend called {name}: see `kith friend list`");
                return Err(Failure::new(Exit::NotFound, what));
            }
            found.retain(|f| f.about == name);
        }
        let wrong = found.iter().filter(|f| f.level == Level::Wrong).count();
        self.print(&json!({"ok": wrong == 0, "findings": found}), || self.show(&found, wrong))?;
        match wrong {
            0 => Ok(()),
            1 => Err(Failure::new(Exit::Failure, "one thing is wrong: do what is said for it")),
            n => Err(Failure::new(Exit::Failure, format!("{n} things are wrong: do what is said for each"))),
        }
    }

    fn show(&self, found: &[Finding], wrong: usize) -> String {
        let mut lines = String::new();
        for f in found {
            let mark = match f.level {
                Level::Fine => self.style.green("fine "),
                Level::Note => self.style.yellow("note "),
                Level::Wrong => self.style.red("wrong"),
            };
            lines.push_str(&format!("{mark}  {}: {}\n", self.style.bold(&f.about), safe(&f.what)));
            for (word, text) in [("why", &f.why), ("do ", &f.act)].iter().filter(|(_, text)| !text.is_empty())
            {
                lines.push_str(&format!("       {word}  {}\n", safe(text)));
            }
        }
        if wrong == 0 {
            lines.push_str("Nothing is wrong.");
        }
        lines
    }

    async fn facts(&self) -> Result<Facts, Failure> {
        let paths = &self.paths;
        let file = paths.config_file.display();
        let config = match std::fs::read_to_string(&paths.config_file) {
            Ok(toml) => edit::problems(&toml, &paths.config_file)
                .into_iter()
                .map(|p| format!("{file}:{}: {}: {}", p.line, p.key.unwrap_or_default(), p.what))
                .collect(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => vec![format!("{file} cannot be read: {e}")],
        };
        let node = if self.client.is_up().await {
            let value = self.get("/api/doctor").await?;
            let node: Node = serde_json::from_value(value)
                .map_err(|_| Failure::new(Exit::Failure, "the node's answer is not readable"))?;
            Some(node)
        } else {
            None
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Ok(Facts {
            now: now.map_or(0, |d| d.as_secs()),
            config,
            initialised: paths.store_dir.join("store.key").symlink_metadata().is_ok(),
            loose: self.loose(),
            free_bytes: rustix::fs::statvfs(&paths.store_dir)
                .ok()
                .map(|s| s.f_bavail.saturating_mul(s.f_frsize)),
            node,
        })
    }

    fn loose(&self) -> Vec<Loose> {
        let key = self.paths.store_dir.join("store.key");
        // Secrets are for nobody else; what is only read by the node must not be written by others.
        let rules = [
            (self.paths.store_dir.as_path(), 0o077, "700"),
            (key.as_path(), 0o077, "600"),
            (self.paths.config_file.as_path(), 0o022, "600"),
            (self.paths.data_dir.as_path(), 0o022, "go-w"),
        ];
        rules.into_iter().filter_map(|(path, bits, mode)| looseness(path, bits, mode)).collect()
    }
}

fn looseness(path: &Path, bits: u32, mode: &str) -> Option<Loose> {
    let about = path.symlink_metadata().ok()?;
    let shown = path.display().to_string();
    let mine = rustix::process::getuid().as_raw();
    let word = format!("'{}'", shown.replace('\'', "'\\''"));
    // A configuration may well be a link to where its user keeps such files.
    if about.is_symlink() && bits & 0o044 != 0 {
        let what = "is a symbolic link".into();
        return Some(Loose {
            path: shown,
            what,
            act: format!("replace the link {word} by what it points to"),
        });
    }
    let about = std::fs::metadata(path).ok()?;
    if about.uid() != mine {
        let what = "belongs to another user".into();
        return Some(Loose { path: shown, what, act: format!("chown {mine} {word}") });
    }
    let loose = about.mode() & 0o777;
    (loose & bits != 0).then(|| Loose {
        path: shown,
        what: format!("has mode {loose:o}"),
        act: format!("chmod {mode} {word}"),
    })
}
