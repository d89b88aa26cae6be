//! `kith folder`.

use super::*;

/// The whole path of a folder that is there.
fn whole(path: &Path) -> Result<String, Failure> {
    let shown = path.display();
    let whole = std::fs::canonicalize(path).context(format!("cannot open {shown}"))?;
    if !whole.is_dir() {
        return Err(Failure::new(Exit::Usage, format!("{shown} is no folder")));
    }
    let text = whole.into_os_string().into_string();
    text.map_err(|_| Failure::new(Exit::Usage, format!("the path of {shown} is not UTF-8")))
}

impl Shell {
    /// `kith folder add`
    pub async fn add_folder(&self, path: &Path, to: &str) -> Result<(), Failure> {
        let body = json!({"path": whole(path)?, "to": to});
        let value = self.client.call(Method::POST, "/api/folders", Some(body)).await?;
        self.print(&value, || {
            let (path, to) = (safe(text(&value, "path")), safe(text(&value, "to")));
            format!("Videos in {path} are published for {to} from now on, cleaned.")
        })
    }

    /// `kith folder list`
    pub async fn folders(&self) -> Result<(), Failure> {
        let value = self.get("/api/folders").await?;
        let list = value.as_array().cloned().unwrap_or_default();
        self.print(&value, || {
            if list.is_empty() {
                return "No folder is watched. `kith folder add PATH --to friends` watches one.".into();
            }
            let mut table = Table::new(["FOLDER", "FOR", "VIDEOS", "WAITING"]).right(2).right(3);
            for row in &list {
                let (videos, waiting) =
                    (number(row, "videos").to_string(), number(row, "waiting").to_string());
                table.row([text(row, "path"), text(row, "to"), &videos, &waiting]);
            }
            let mut out = table.render(self.style);
            for row in &list {
                if let Some(why) = row["problem"].as_str() {
                    out.push_str(&format!("\n{}: {}", safe(text(row, "path")), safe(why)));
                }
                for (file, why) in row["problems"].as_object().into_iter().flatten() {
                    out.push_str(&format!("\n{}: {}", safe(file), safe(why.as_str().unwrap_or_default())));
                }
            }
            out
        })
    }

    /// `kith folder rm`
    pub async fn remove_folder(&self, path: &Path) -> Result<(), Failure> {
        // One that is gone is named as it was.
        let path = whole(path).unwrap_or_else(|_| path.display().to_string());
        let value = self.client.call(Method::DELETE, "/api/folders", Some(json!({"path": path}))).await?;
        self.print(&value, || {
            "It is not watched any more. What was published from it stays published.".into()
        })
    }
}
