//! The node itself: stop, status, certificate, storage, paths.

use super::*;
use crate::cli;

impl Shell {
    /// `kith stop`
    pub async fn stop(&self) -> Result<(), Failure> {
        let value = self.client.call(Method::POST, "/api/stop", None).await?;
        let until = Instant::now() + Duration::from_secs(30);
        while self.client.is_up().await {
            if Instant::now() > until {
                return Err(Failure::new(Exit::TimedOut, "the node does not end: look at its output"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // The socket goes first. Whoever starts the node next must find the store free.
        let dir = self.paths.store_dir.clone();
        let left = until.saturating_duration_since(Instant::now());
        let free = tokio::task::spawn_blocking(move || kith_store::Store::wait_until_free(&dir, left)).await;
        if !free.map_err(|_| Failure::new(Exit::Failure, "waiting for the node's end failed"))?? {
            return Err(Failure::new(Exit::TimedOut, "the node does not end: look at its output"));
        }
        self.print(&json!({"stopped": true, "pid": value.get("pid")}), || "The node has stopped.".into())
    }

    /// `kith status`
    pub async fn status(&self) -> Result<(), Failure> {
        let value = self.get("/api/status").await?;
        self.print(&value, || {
            let friends = value.get("friends").cloned().unwrap_or_default();
            let listen: Vec<&str> = value
                .get("listen")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let mut lines = vec![
                format!("{}  {}", self.style.bold(&safe(text(&value, "name"))), text(&value, "node")),
                format!(
                    "up {}, process {}, version {}",
                    human_duration(Duration::from_secs(number(&value, "uptime_s"))),
                    number(&value, "pid"),
                    text(&value, "version")
                ),
                format!("friends: {} of {} online", number(&friends, "online"), number(&friends, "total")),
                format!(
                    "videos: {} published here, {} known in all",
                    number(&value, "videos"),
                    number(&value, "entries")
                ),
                match listen.as_slice() {
                    [] => "listening for friends nowhere on this machine's network".into(),
                    all => format!("listening for friends on {}", all.join(", ")),
                },
                format!("privacy: {}", super::circuits::mode_text(&value)),
            ];
            lines.extend(super::circuits::status_lines(&value));
            let told = super::tor::tor_text(&value["tor"]);
            match text(&value["tor"], "mode") {
                "off" => {}
                "only" => lines.push(format!("nothing but Tor is used: {told}")),
                _ => lines.push(told),
            }
            if let Some(why) = value.get("read_only").and_then(Value::as_str) {
                lines.push(self.style.red(&format!("the store is read-only: {}", safe(why))));
            }
            if let Some(why) = value.get("disk_full").and_then(Value::as_str) {
                lines.push(self.style.red(&safe(why)));
            }
            if let Some(skew) = value.get("clock_skew_s").and_then(Value::as_i64) {
                lines.push(self.style.yellow(&format!("a friend's clock differs by {} minutes", skew / 60)));
            }
            lines.join("\n")
        })
    }

    /// `kith id`
    pub async fn id(&self, args: &cli::Id) -> Result<(), Failure> {
        match &args.command {
            Some(cli::IdCommand::Rotate) => return self.rotate().await,
            Some(cli::IdCommand::Rename { name }) => {
                let body = Some(json!({"name": name}));
                let value = self.client.call(Method::POST, "/api/id/rename", body).await?;
                return self.print(&value, || format!("Friends see you as {}.", safe(text(&value, "name"))));
            }
            None => {}
        }
        let value = self.get("/api/id").await?;
        let certificate = match args.tor {
            false => text(&value, "certificate"),
            true => value["tor_certificate"].as_str().ok_or_else(|| {
                let what = "this node is not reached through Tor: start it with --tor on (or only)";
                Failure::new(Exit::Usage, what)
            })?,
        };
        if let Some(path) = &args.out {
            let file = new_file(path)?;
            writeln!(&file, "{certificate}").context(format!("cannot write {}", path.display()))?;
        }
        self.print(&value, || {
            let mut lines = format!(
                "{}\nfingerprint {}\nin words    {}\n{certificate}",
                safe(text(&value, "name")),
                text(&value, "fingerprint"),
                text(&value, "words")
            );
            if args.qr {
                lines.push('\n');
                lines.push_str(&qr(certificate).unwrap_or_default());
            }
            lines
        })
    }

    /// `kith id rotate`
    async fn rotate(&self) -> Result<(), Failure> {
        let value = self.client.call(Method::POST, "/api/id/rotate", Some(json!({}))).await?;
        self.print(&value, || {
            let waiting = value["keys"]["friends_with_old"].as_u64().unwrap_or(0);
            format!(
                "New link keys. Fingerprint and friendships stay; open invites have ended.\n\
                 Friends take the new keys over when they are on line; {waiting} have not yet (kith id).\n\
                 If somebody else may have your store or your key file, this is not enough: see \
                 \"Lost or stolen\" in the README."
            )
        })
    }

    /// `kith store stats`
    pub async fn store_stats(&self) -> Result<(), Failure> {
        let value = self.get("/api/store").await?;
        self.print(&value, || {
            let size = |name| human_bytes(number(&value, name));
            let mut lines = format!(
                "{} videos, {} on disk; {} of {} reserved (kith store quota)\n\
                 journal {}, catalogue {}, index {}\nfree on this disk: {}",
                number(&value, "objects"),
                size("pack_bytes"),
                human_bytes(number(&value["used_bytes"], "total")),
                size("quota_bytes"),
                size("journal_bytes"),
                size("view_bytes"),
                size("index_bytes"),
                size("free_bytes")
            );
            for (name, before) in [("disk_full", ""), ("read_only_reason", "read-only: ")] {
                if let Some(why) = value.get(name).and_then(Value::as_str) {
                    lines.push_str(&format!("\n{before}{}", safe(why)));
                }
            }
            lines
        })
    }
}

/// `kith paths`: the answer does not need a running node.
pub fn paths(value: &Value, json: bool) -> Result<(), Failure> {
    if json { out(&value.to_string()) } else { out(fields(value).trim_end()) }
}
