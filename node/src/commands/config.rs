//! `kith config`: the file is edited here, by whoever may write it; a running node is only told.

use super::*;
use crate::cli;
use crate::config::{Config, Given, KeySpec, Loaded, Origin, Tor, edit};
use crate::limits::ConfigValue;

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A value and where it came from.
fn value_json(value: &Given, origin: &Origin) -> Value {
    json!(ConfigValue::new(value, origin))
}

fn value_text(value: &Value) -> String {
    match value.get("value") {
        Some(Value::Array(items)) => {
            let items: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            items.join(", ")
        }
        other => other.and_then(Value::as_str).unwrap_or("").to_owned(),
    }
}

fn origin_text(value: &Value) -> &str {
    match text(value, "origin") {
        "default" => "default",
        "set" => "up --set",
        _ => text(value, "from"),
    }
}

impl Shell {
    /// `kith config`
    pub async fn config(&self, command: &cli::Config) -> Result<(), Failure> {
        match command {
            cli::Config::Get { key } => self.config_get(key.as_deref()).await,
            cli::Config::Set { key, value } => self.config_set(key, value).await,
            cli::Config::Validate { file } => self.config_validate(file.as_deref()),
            cli::Config::Path => {
                let path = self.paths.config_file.display().to_string();
                self.print(&json!({"path": path}), || path.clone())
            }
        }
    }

    async fn config_get(&self, key: Option<&str>) -> Result<(), Failure> {
        let loaded = Loaded::load(&self.paths.config_file, &[], environment)?;
        let running = if self.client.is_up().await { self.get("/api/config").await? } else { Value::Null };
        let row = |key: &KeySpec| {
            let (value, origin) = loaded.value(key)?;
            let mut row = value_json(value, origin);
            if let Some(fields) = row.as_object_mut() {
                fields.insert("key".into(), json!(key.name));
                fields.insert("running".into(), running.get(key.name).cloned().unwrap_or(Value::Null));
            }
            Some(row)
        };
        if let Some(name) = key {
            let value = row(edit::key(name)?).unwrap_or_default();
            return self.print(&value, || line(&value));
        }
        let rows: Vec<Value> = edit::keys().filter_map(row).collect();
        self.print(&json!(rows), || rows.iter().map(|r| line(r) + "\n").collect())
    }

    async fn config_set(&self, name: &str, text: &str) -> Result<(), Failure> {
        let key = edit::key(name)?;
        let (value, restart) = self.change(&[(key, edit::given(key, text))]).await?;
        let mut shown = value_json(&edit::given(key, text), &Origin::File(self.paths.config_file.clone()));
        if let Some(fields) = shown.as_object_mut() {
            fields.insert("key".into(), json!(name));
            fields.insert("restart".into(), json!(restart));
        }
        let loaded = Loaded::load(&self.paths.config_file, &[], environment);
        if let Ok(loaded) = &loaded
            && let Some((_, origin @ Origin::Env(_))) = loaded.value(key)
        {
            note(&format!("kith: {origin} is set here and wins over the file"));
        }
        if let Err(e) = loaded {
            note(&format!("kith: the file has another problem: {e}"));
        }
        if value.get(name).is_some_and(|running| running["origin"] != "file") {
            note("kith: the running node was started with another value for this key, which wins");
        }
        self.print(&shown, || {
            let when = if restart { "; restart the node to use it" } else { "" };
            format!("{name} = {}{when}", value_text(&shown))
        })
    }

    /// Writes several keys at once and tells a running node. Returns what the node says of its
    /// configuration now, and whether it must be restarted to use the new values.
    pub(super) async fn change(
        &self,
        changes: &[(&'static KeySpec, Given)],
    ) -> Result<(Value, bool), Failure> {
        let file = &self.paths.config_file;
        let (uid, is_up) = (rustix::process::getuid().as_raw(), self.client.is_up().await);
        let says_so = Config::load(file, &[], environment).is_ok_and(|config| config.tor.mode == Tor::Only);
        if says_so || is_up && self.get("/api/tor").await?["mode"] == "only" {
            crate::up::refuse_leaking(changes)?;
        }
        self.paths.prepare(uid)?;
        edit::set_in(file, changes)?;
        if !is_up {
            return Ok((Value::Null, false));
        }
        let restart = changes.iter().any(|(key, _)| !key.live);
        let reload = self.client.call(Method::POST, "/api/config/reload", None).await;
        Ok((reload.map_err(|e| e.context("the file is written, but the node does not take it"))?, restart))
    }

    fn config_validate(&self, file: Option<&Path>) -> Result<(), Failure> {
        let file = file.unwrap_or(&self.paths.config_file);
        let shown = file.display().to_string();
        let bytes = std::fs::read(file).context(format!("cannot read {shown}"))?;
        let problems = match String::from_utf8(bytes) {
            Ok(toml) => edit::problems(&toml, file),
            Err(e) => {
                let before = e.as_bytes().get(..e.utf8_error().valid_up_to()).unwrap_or_default();
                let line = before.iter().filter(|b| **b == b'\n').count() + 1;
                let what = "bytes that are no UTF-8 text".into();
                vec![edit::Problem { line, key: None, what }]
            }
        };
        let rows: Vec<Value> =
            problems.iter().map(|p| json!({"line": p.line, "key": p.key, "what": p.what})).collect();
        self.print(&json!({"file": shown, "problems": rows}), || {
            if problems.is_empty() {
                return format!("{shown} is fine.");
            }
            let line = |p: &edit::Problem| {
                let key = p.key.as_ref().map_or_else(String::new, |k| format!("{k}: "));
                safe(&format!("{shown}:{}: {key}{}", p.line, p.what)) + "\n"
            };
            problems.iter().map(line).collect()
        })?;
        match problems.len() {
            0 => Ok(()),
            1 => Err(Failure::new(Exit::Usage, format!("one problem in {shown}: mend it"))),
            n => Err(Failure::new(Exit::Usage, format!("{n} problems in {shown}: mend them"))),
        }
    }
}

fn line(row: &Value) -> String {
    let mut line =
        format!("{:18} {}  ({})", text(row, "key"), safe(&value_text(row)), safe(origin_text(row)));
    let running = &row["running"];
    if running.is_object() && running["value"] != row["value"] {
        let value = safe(&value_text(running));
        line.push_str(&format!("; the running node has {value} ({})", safe(origin_text(running))));
    }
    line
}
