//! `kith store quota`, `kith store gc`, `kith video list --all`, `pin` and `unpin`.

use super::*;
use crate::config::{Given, edit, size};

impl Shell {
    /// `kith store quota`
    pub async fn quota(&self, wanted: Option<&str>) -> Result<(), Failure> {
        if let Some(wanted) = wanted {
            self.set_quota(wanted).await?;
        }
        if wanted.is_some() && !self.client.is_up().await {
            let value = json!({"quota_bytes": wanted.and_then(size::parse)});
            return self.print(&value, || "Set; it holds from the next start of the node on.".into());
        }
        let value = self.get("/api/store/quota").await?;
        self.print(&value, || quota_text(&value))
    }

    async fn set_quota(&self, wanted: &str) -> Result<(), Failure> {
        let bytes = size::parse(wanted).filter(|b| (size::MIN_QUOTA..=size::MAX).contains(b));
        let bytes = bytes.ok_or_else(|| {
            let what =
                format!("{wanted} is no quota: use a size of 1MiB or more, like 500MB, 20GiB or 1.5TB");
            Failure::new(Exit::Usage, what)
        })?;
        let up = self.client.is_up().await;
        if up {
            let used = self.get("/api/store/quota").await?["used_bytes"].clone();
            let kept = ["own", "pinned", "publishing"].map(|class| number(&used, class));
            let kept = kept.iter().sum::<u64>();
            if kept > bytes {
                let what = format!(
                    "your own and pinned videos take {}, more than {}: choose at least {}, or remove or unpin some",
                    human_bytes(kept),
                    human_bytes(bytes),
                    size::at_least(kept)
                );
                return Err(Failure::new(Exit::Full, what));
            }
        }
        let key = edit::key("store.quota")?;
        // Written back by our own hand, so that the file has one spelling.
        let (running, _) = self.change(&[(key, Given::Text(size::format(bytes)))]).await?;
        if up && running["store.quota"]["origin"] != "file" {
            note("kith: the running node was started with another value for store.quota, which wins");
        }
        Ok(())
    }

    /// `kith store gc`
    pub async fn gc(&self, dry_run: bool) -> Result<(), Failure> {
        let value =
            self.client.call(Method::POST, "/api/store/gc", Some(json!({"dry_run": dry_run}))).await?;
        self.print(&value, || {
            let (files, bytes) = (number(&value, "files"), human_bytes(number(&value, "freed_bytes")));
            let videos = value["videos"].as_array().cloned().unwrap_or_default();
            if videos.is_empty() && files == 0 {
                return "There is nothing to free.".into();
            }
            let mut table = Table::new(["ID", "KEPT AS", "SIZE"]).right(2);
            for v in &videos {
                let id: String = text(v, "id").chars().take(16).collect();
                table.row([&id, text(v, "class"), &human_bytes(number(v, "bytes"))]);
            }
            let mut lines = if videos.is_empty() { String::new() } else { table.render(self.style) + "\n" };
            let done = if dry_run { "would be freed" } else { "freed" };
            lines.push_str(&format!("{} videos and {files} leftover files: {bytes} {done}.", videos.len()));
            lines
        })
    }

    /// `kith video list --all`
    pub async fn kept(&self) -> Result<(), Failure> {
        let value = self.get("/api/store/objects").await?;
        let list = value.as_array().cloned().unwrap_or_default();
        self.print(&value, || {
            if list.is_empty() {
                return "Nothing is kept here yet.".into();
            }
            let mut table = Table::new(["ID", "TITLE", "KEPT AS", "SIZE"]).right(3);
            for v in &list {
                let id: String = text(v, "id").chars().take(16).collect();
                let part = if v["complete"] == false { " (a part)" } else { "" };
                let class = format!("{}{part}", text(v, "class"));
                table.row([&id, text(v, "title"), &class, &human_bytes(number(v, "bytes"))]);
            }
            table.render(self.style)
        })
    }

    /// `kith video pin` and `unpin`
    pub async fn pin(&self, id: &str, pin: bool) -> Result<(), Failure> {
        let action = if pin { "pin" } else { "unpin" };
        let path = format!("/api/videos/{}/{action}", encode(id));
        let value = self.client.call(Method::POST, &path, None).await?;
        self.print(&value, || match text(&value, "class") {
            "own" => "This video is your own: it is always kept.".into(),
            "pinned" if value["complete"] == false => {
                "Kept for good. Not all of it is here yet: `kith get` fetches the rest.".into()
            }
            "pinned" => "Kept for good, until you unpin or remove it.".into(),
            _ => "It gives way again when there is no room.".into(),
        })
    }
}

fn quota_text(value: &Value) -> String {
    let (used, objects, share) = (&value["used_bytes"], &value["objects"], &value["share_bytes"]);
    let quota = number(value, "quota_bytes");
    let mut table = Table::new(["KEPT AS", "VIDEOS", "SIZE", "UP TO"]).right(1).right(2).right(3);
    for class in ["own", "pinned", "cached", "mirrored"] {
        let most = share.get(class).and_then(Value::as_u64).unwrap_or(quota);
        table.row([
            class,
            &number(objects, class).to_string(),
            &human_bytes(number(used, class)),
            &human_bytes(most),
        ]);
    }
    let mut lines = table.render(Style::PLAIN);
    lines.push_str(&format!(
        "\n{} of {} used; cached and mirrored videos give way to your own and pinned ones.\n\
         {} free on this disk, of which {} stay free.",
        human_bytes(number(used, "total")),
        human_bytes(quota),
        human_bytes(number(value, "free_bytes")),
        human_bytes(number(value, "keep_free_bytes")),
    ));
    lines
}
