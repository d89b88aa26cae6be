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

    /// `kith video edit`
    pub async fn edit_video(&self, args: &cli::Edit) -> Result<(), Failure> {
        let tags =
            args.tag.as_ref().map(|tags| tags.iter().filter(|tag| !tag.is_empty()).collect::<Vec<_>>());
        if args.title.is_none() && args.text.is_none() && tags.is_none() {
            return Err(Failure::new(Exit::Usage, "say what is to change: --title, --text or --tag"));
        }
        let path = format!("/api/videos/{}/edit", encode(&args.id));
        let body = json!({"title": args.title, "text": args.text, "tags": tags});
        let value = self.client.call(Method::POST, &path, Some(body)).await?;
        self.print(&value, || {
            format!("Friends hear of it as \"{}\" from now on.", safe(text(&value, "title")))
        })
    }

    /// `kith video share`
    pub async fn share_video(&self, id: &str, to: &str) -> Result<(), Failure> {
        let path = format!("/api/videos/{}/share", encode(id));
        let value = self.client.call(Method::POST, &path, Some(json!({"to": to}))).await?;
        self.print(&value, || {
            format!("\"{}\" is shared with {}.", safe(text(&value, "title")), safe(text(&value, "audience")))
        })
    }

    /// `kith video verify`
    pub async fn verify_video(&self, id: String) -> Result<(), Failure> {
        self.verify_store(&cli::Verify { id: Some(id), no_heal: false, accept_loss: false }).await
    }

    /// `kith video export`
    pub async fn export_video(&self, id: &str, to: &Path) -> Result<(), Failure> {
        let kept = self.get("/api/store/objects").await?;
        let is_it = |row: &&Value| text(row, "id").starts_with(id) && id.len() >= 8;
        let found: Vec<&Value> = kept.as_array().into_iter().flatten().filter(is_it).collect();
        let [object] = found.as_slice() else {
            return Err(Failure::new(Exit::NotFound, "this video is not here: `kith get` fetches it"));
        };
        if object["complete"] != true {
            return Err(Failure::new(
                Exit::NotFound,
                "not all of this video is here: `kith get` fetches the rest",
            ));
        }
        let id = text(object, "id");
        let about = self.get(&format!("/api/videos/{id}")).await?;
        let output = match to.is_dir() {
            true => to.join(file_name(text(&about, "title"), text(&about, "mime"), id)),
            false => to.to_owned(),
        };
        self.fetch(&cli::Get { id: id.to_owned(), output: Some(output), route: cli::RouteChoice::Auto }).await
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

/// A name for a file out of a title: letters, digits and a few signs, never a path and never hidden. What is left of
/// nothing is called by the id.
fn file_name(title: &str, mime: &str, id: &str) -> String {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_' | '.' | ',' | '(' | ')' | '\'');
    let plain: String = title.chars().map(|c| if fits(c) { c } else { '_' }).collect();
    let plain = kith_crypto::text::cut(plain.trim_matches([' ', '.', '_']), 80).trim_end_matches([' ', '.']);
    let stem = if plain.is_empty() { id.get(..16).unwrap_or(id) } else { plain };
    format!("{stem}.{}", crate::media_type::extension(mime))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_becomes_a_name_and_never_a_path() {
        let id = "0123456789abcdef0123";
        for (title, name) in [
            ("Otters at play", "Otters at play.mp4"),
            ("../../.ssh/authorized_keys", "ssh_authorized_keys.mp4"),
            ("/etc/passwd\0", "etc_passwd.mp4"),
            ("C:\\con", "C__con.mp4"),
            ("...", "0123456789abcdef.mp4"),
            ("\u{202e}4pm.exe ", "4pm.exe.mp4"),
            ("Ferien ’24: Zoo!", "Ferien _24_ Zoo.mp4"),
        ] {
            assert_eq!(file_name(title, "video/mp4", id), name);
        }
        assert!(file_name(&"ä".repeat(300), "video/webm", id).len() <= 90);
    }
}
