//! Invites and friends.

use super::*;
use crate::cli;

impl Shell {
    /// `kith friend invite`
    pub async fn invite(&self, expires: Option<&str>, tor: bool) -> Result<(), Failure> {
        let expires_s = match expires {
            None => None,
            Some(time) => Some(parse_duration(time).filter(|d| d.as_secs() >= 1).ok_or_else(|| {
                Failure::new(Exit::Usage, format!("--expires {time} is not a time: use one like 12h or 7d"))
            })?),
        };
        let body = json!({"expires_s": expires_s.map(|d| d.as_secs()), "tor_only": tor});
        let value = self.client.call(Method::POST, "/api/invites", Some(body)).await?;
        let invite = text(&value, "invite").to_owned();
        if let Some(why) = value.get("note").and_then(Value::as_str) {
            note(&format!("kith: {why}"));
        }
        if self.json {
            return out(&json!({"invite": invite, "expires": value.get("expires")}).to_string());
        }
        out(&invite)?;
        if std::io::stdout().is_terminal() {
            if let Some(picture) = qr(&invite) {
                out(&picture)?;
            }
            out(
                "Give this line to one friend, over a way that others do not read. They run:  kith friend add -",
            )?;
        }
        Ok(())
    }

    /// `kith friend add`
    pub async fn add(&self, argument: &str, tor: bool) -> Result<(), Failure> {
        let invite = text_argument(argument)?;
        let body = json!({"invite": invite.trim(), "tor_only": tor});
        let value = self.client.call(Method::POST, "/api/friends", Some(body)).await?;
        if let Some(why) = value.get("note").and_then(Value::as_str) {
            note(&format!("kith: {why}"));
        }
        let shown =
            json!({"name": value["name"], "fingerprint": value["fingerprint"], "state": value["state"]});
        self.print(&shown, || {
            let name = safe(text(&value, "name"));
            match text(&value, "state") {
                _ if value.get("already").is_some() => format!("{name} is already a friend."),
                "online" => format!(
                    "{name} is a friend now. Compare fingerprints when you meet: {}",
                    text(&value, "fingerprint")
                ),
                _ if invite.trim().starts_with("kith:c1:") => {
                    format!(
                        "{name} is kept. The link stands once {name} has added your certificate (kith id)."
                    )
                }
                _ => format!("{name} cannot be reached now. The invite is kept and tried until it expires."),
            }
        })
    }

    /// `kith friend list`
    pub async fn friends(&self) -> Result<(), Failure> {
        let value = self.get("/api/friends").await?;
        let list = value.as_array().cloned().unwrap_or_default();
        self.print(&value, || {
            if list.is_empty() {
                return "No friends yet. Make an invite with `kith friend invite`.".into();
            }
            let mut table = Table::new(["NAME", "STATE", "SENT", "RECEIVED", "RELAYED", "FINGERPRINT"])
                .right(2)
                .right(3)
                .right(4);
            for f in &list {
                table.row([
                    text(f, "name"),
                    text(f, "state"),
                    &human_bytes(number(f, "sent_bytes")),
                    &human_bytes(number(f, "received_bytes")),
                    &human_bytes(number(f, "relayed_bytes")),
                    text(f, "fingerprint"),
                ]);
            }
            table.render(self.style)
        })
    }

    /// `kith friend show`
    pub async fn friend(&self, name: &str) -> Result<(), Failure> {
        let value = self.get(&format!("/api/friends/{}", encode(name))).await?;
        self.print(&value, || fields(&value))
    }

    /// `kith friend remove`
    pub async fn remove_friend(&self, name: &str) -> Result<(), Failure> {
        let value = self.client.call(Method::DELETE, &format!("/api/friends/{}", encode(name)), None).await?;
        self.print(&value, || {
            format!("{} is no longer a friend. What they already have stays with them.", safe(name))
        })
    }

    /// `kith friend rename`
    pub async fn rename(&self, name: &str, new: &str) -> Result<(), Failure> {
        let value = self.set(name, "rename", json!({"new": new})).await?;
        self.print(&value, || format!("{} is called {} here now.", safe(name), safe(new)))
    }

    /// `kith friend trust`
    pub async fn trust(&self, name: &str, trust: cli::Trust) -> Result<(), Failure> {
        let value = self.set(name, "trust", json!({"trust": trust.as_str()})).await?;
        self.print(&value, || format!("{}: {}", safe(name), trust.as_str()))
    }

    /// `kith friend limit`
    pub async fn limit(&self, name: &str, up: Option<&str>, down: Option<&str>) -> Result<(), Failure> {
        let value = self.set(name, "limit", json!({"up": up, "down": down})).await?;
        self.print(&value, || {
            let rate = |side: &str| crate::rates::format(value["limits"][side].as_u64());
            format!("{}: up {}, down {}", safe(name), rate("up"), rate("down"))
        })
    }

    /// `kith friend tor`
    pub async fn friend_tor(&self, name: &str, way: cli::TorWay) -> Result<(), Failure> {
        let only = way == cli::TorWay::Only;
        let value = self.set(name, "tor", json!({"only": only})).await?;
        self.print(&value, || match only {
            true => format!(
                "{} is reached through Tor alone, and learns no other address of yours from now on.",
                safe(name)
            ),
            false => {
                format!(
                    "{} is reached directly from the next connection on, and through Tor when nothing else answers.",
                    safe(name)
                )
            }
        })
    }

    /// `kith friend block`, `kith friend unblock`
    pub async fn block(&self, name: &str, blocked: bool) -> Result<(), Failure> {
        let value = self.set(name, if blocked { "block" } else { "unblock" }, json!({})).await?;
        self.print(&value, || match blocked {
            true => {
                format!("{} is blocked: no link, no answer, nothing of theirs in your search.", safe(name))
            }
            false => format!("{} is no longer blocked.", safe(name)),
        })
    }

    /// `kith friend ping`
    pub async fn ping(&self, name: &str, count: u16) -> Result<(), Failure> {
        let mut times = Vec::new();
        for number in 0..count {
            if number > 0 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let value = self.set(name, "ping", json!({})).await?;
            times.push(value["ms"].as_f64().unwrap_or(0.0));
        }
        self.print(&json!({"name": name, "ms": times}), || {
            let line = |ms: &f64| format!("{}: {ms:.1} ms\n", safe(name));
            times.iter().map(line).collect()
        })
    }

    /// `kith friend verify`
    pub async fn verify(
        &self,
        name: &str,
        fingerprint: Option<&str>,
        restored: bool,
        undo: bool,
    ) -> Result<(), Failure> {
        let body = json!({"fingerprint": fingerprint, "restored": restored, "undo": undo});
        let value = self.set(name, "verify", body).await?;
        self.print(&value, || {
            let (theirs, own) = (text(&value, "fingerprint"), text(&value, "own_fingerprint"));
            let name = safe(name);
            if restored {
                return format!(
                    "{name} is let back in for a day. Compare fingerprints when you meet: {theirs}"
                );
            }
            if fingerprint.is_some() {
                return format!("{name} is verified.");
            }
            let verified = if value["verified"].is_null() { "not verified yet" } else { "verified" };
            format!(
                "{name} ({verified})\n  {theirs}\n  {}\nyou\n  {own}\n  {}\nLet {name} read theirs to you, \
                 as letters or as words, then: kith friend verify {name} 'WHAT YOU HEARD'",
                text(&value, "words"),
                text(&value, "own_words")
            )
        })
    }

    async fn set(&self, name: &str, what: &str, body: Value) -> Result<Value, Failure> {
        let path = format!("/api/friends/{}/{what}", encode(name));
        self.client.call(Method::POST, &path, Some(body)).await
    }
}
