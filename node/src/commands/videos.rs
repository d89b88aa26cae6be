//! What was published, and searching.

use super::*;
use crate::cli;

impl Shell {
    /// `kith video list`
    pub async fn videos(&self) -> Result<(), Failure> {
        let value = self.get("/api/videos").await?;
        let list = value.as_array().cloned().unwrap_or_default();
        self.print(&value, || {
            if list.is_empty() {
                return "Nothing published yet. Start with `kith publish FILE`.".into();
            }
            let mut table = Table::new(["ID", "TITLE", "SIZE", "FOR"]).right(2);
            for v in &list {
                let id: String = text(v, "id").chars().take(16).collect();
                table.row([&id, text(v, "title"), &human_bytes(number(v, "bytes")), text(v, "audience")]);
            }
            table.render(self.style)
        })
    }

    /// `kith video show`
    pub async fn video(&self, id: &str) -> Result<(), Failure> {
        let value = self.get(&format!("/api/videos/{}", encode(id))).await?;
        self.print(&value, || fields(&value))
    }

    /// `kith video rm`
    pub async fn remove_video(&self, id: &str) -> Result<(), Failure> {
        let value = self.client.call(Method::DELETE, &format!("/api/videos/{}", encode(id)), None).await?;
        self.print(&value, || "Withdrawn and deleted here. Copies that others made stay with them.".into())
    }

    /// `kith video unshare`
    pub async fn unshare(&self, id: &str) -> Result<(), Failure> {
        let path = format!("/api/videos/{}/unshare", encode(id));
        let value = self.client.call(Method::POST, &path, None).await?;
        self.print(&value, || {
            "Withdrawn: friends' nodes forget it with their next look. It stays here.".into()
        })
    }

    /// `kith search`
    pub async fn search(&self, args: &cli::Search) -> Result<(), Failure> {
        let scope = match args.scope {
            cli::Scope::Mine => "mine",
            cli::Scope::Friends => "friends",
            cli::Scope::Fof => "fof",
        };
        let mut path =
            format!("/api/search?words={}&scope={scope}&limit={}", encode(&args.words.join(" ")), args.limit);
        if let Some(low) = args.min_dur {
            path.push_str(&format!("&min_dur={low}"));
        }
        if let Some(high) = args.max_dur {
            path.push_str(&format!("&max_dur={high}"));
        }
        let answer = self.get(&path).await?;
        if let Some(next) = answer.get("next_batch_s").and_then(Value::as_u64)
            && matches!(args.scope, cli::Scope::Fof)
        {
            let next = human_duration(Duration::from_secs(next.max(1)));
            note(&format!("kith: videos of friends' friends come in batches; the next is due in {next}"));
        }
        let results = answer.get("results").cloned().unwrap_or_else(|| json!([]));
        let list = results.as_array().cloned().unwrap_or_default();
        self.print(&results, || {
            if list.is_empty() {
                return "Nothing found. Try fewer or shorter words.".into();
            }
            let mut table = Table::new(["ID", "TITLE", "SIZE", "FROM"]).right(2);
            for v in &list {
                let id: String = text(v, "id").chars().take(16).collect();
                let from = match number(v, "distance") {
                    0 => "you".to_owned(),
                    1 => text(v, "via").to_owned(),
                    _ => format!("a friend of {}", text(v, "via")),
                };
                table.row([&id, text(v, "title"), &human_bytes(number(v, "bytes")), &from]);
            }
            table.render(self.style)
        })
    }
}
