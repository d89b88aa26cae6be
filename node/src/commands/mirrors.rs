//! `kith mirror`, `kith video health`.

use super::*;

impl Shell {
    /// `kith mirror add`
    pub async fn add_mirror(&self, target: &str, quota: Option<u64>) -> Result<(), Failure> {
        let target = if target.starts_with("friend:") { target.to_owned() } else { text_argument(target)? };
        let body = json!({"target": target.trim(), "quota_bytes": quota});
        let value = self.client.call(Method::POST, "/api/mirrors", Some(body)).await?;
        self.print(&value, || match value["quota_bytes"].as_u64() {
            Some(bytes) => format!(
                "Up to {} are kept for {}, sealed: you cannot see what it is. `kith mirror rm` ends it.",
                human_bytes(bytes),
                safe(text(&value, "target").trim_start_matches("friend:"))
            ),
            None => "A copy is kept and given to whoever may have the video.".into(),
        })
    }

    /// `kith mirror list`
    pub async fn mirrors(&self) -> Result<(), Failure> {
        let value = self.get("/api/mirrors").await?;
        self.print(&value, || {
            let rows = |name: &str| value[name].as_array().cloned().unwrap_or_default();
            let (friends, copies) = (rows("friends"), rows("copies"));
            let mut out = String::new();
            if friends.is_empty() && copies.is_empty() {
                out.push_str(
                    "Nothing is kept for others. `kith mirror add friend:NAME --quota 5GB` keeps copies for a friend.\n",
                );
            }
            if !friends.is_empty() {
                let mut table = Table::new(["KEPT FOR", "VIDEOS", "SIZE", "UP TO"]).right(1).right(2).right(3);
                for row in &friends {
                    table.row([
                        text(row, "friend"),
                        &number(row, "videos").to_string(),
                        &human_bytes(number(row, "used_bytes")),
                        &human_bytes(number(row, "quota_bytes")),
                    ]);
                }
                out.push_str(&(table.render(self.style) + "\n"));
            }
            if !copies.is_empty() {
                let mut table = Table::new(["ID", "FOR", "TITLE", "SIZE"]).right(3);
                for row in &copies {
                    let id: String = text(row, "id").chars().take(16).collect();
                    let target = text(row, "target");
                    let whom = target.strip_prefix("friend:").unwrap_or("everybody who may");
                    let title = row["title"].as_str().unwrap_or("(sealed)");
                    let size = human_bytes(number(row, "bytes"));
                    let size = if row["complete"] == false { format!("{size}, coming") } else { size };
                    table.row([&id, whom, title, &size]);
                }
                out.push_str(&(table.render(self.style) + "\n"));
            }
            let (covers, watched) = (number(&value, "covers"), number(&value, "watched"));
            if covers + watched > 0 {
                out.push_str(&format!(
                    "{covers} videos drawn at random and {watched} that you watched are given among each other.\n"
                ));
            }
            out.trim_end().to_owned()
        })
    }

    /// `kith mirror rm`
    pub async fn remove_mirror(&self, target: &str) -> Result<(), Failure> {
        let path = format!("/api/mirrors/{}", encode(target));
        let value = self.client.call(Method::DELETE, &path, None).await?;
        self.print(&value, || match number(&value, "copies") {
            1 => "One copy was given up.".into(),
            copies => format!("{copies} copies were given up."),
        })
    }

    /// `kith video health`
    pub async fn health(&self, id: &str, ask: bool) -> Result<(), Failure> {
        let path = format!("/api/videos/{}/health", encode(id));
        let value = self.client.call(Method::POST, &path, Some(json!({"ask": ask}))).await?;
        self.print(&value, || {
            let here = if value["here"] == true { "All of it is here" } else { "It is not whole here" };
            let mut out = format!(
                "{here}. Elsewhere {} whole copies and {} partial ones answered.",
                number(&value, "whole"),
                number(&value, "partial")
            );
            for copy in value["mirrors"].as_array().into_iter().flatten() {
                let online = if copy["online"] == true { "on line" } else { "off line" };
                out.push_str(&format!(
                    "\n  {}: {} ({online})",
                    safe(text(copy, "friend")),
                    match text(copy, "state") {
                        "whole" => "keeps a copy",
                        "coming" => "is fetching a copy",
                        _ => "was asked for a copy",
                    }
                ));
            }
            if let Some(advice) = value["advice"].as_str() {
                let id: String = text(&value, "id").chars().take(16).collect();
                out.push_str(&format!("\n{}.", advice.replace("ID", &id)));
            }
            out
        })
    }
}
