//! Circles of friends.

use super::*;
use crate::cli;

impl Shell {
    /// `kith circle`
    pub async fn circle(&self, command: &cli::Circle) -> Result<(), Failure> {
        match command {
            cli::Circle::Create { name } => {
                let value =
                    self.client.call(Method::POST, "/api/circles", Some(json!({"name": name}))).await?;
                self.print(&value, || {
                    format!("Made the circle {0}. Put friends in: kith circle add {0} FRIEND", safe(name))
                })
            }
            cli::Circle::List => self.circles().await,
            cli::Circle::Add { name, friends } => self.members(name, json!({"add": friends})).await,
            cli::Circle::Drop { name, friends } => self.members(name, json!({"drop": friends})).await,
            cli::Circle::Rm { name } => {
                let path = format!("/api/circles/{}", encode(name));
                let value = self.client.call(Method::DELETE, &path, None).await?;
                self.print(&value, || {
                    let count = number(&value, "unshared");
                    format!("The circle {} is gone; {count} videos are shared with nobody now.", safe(name))
                })
            }
        }
    }

    async fn circles(&self) -> Result<(), Failure> {
        let value = self.get("/api/circles").await?;
        let list = value.as_array().cloned().unwrap_or_default();
        self.print(&value, || {
            if list.is_empty() {
                return "No circles yet. Make one with `kith circle create NAME`.".into();
            }
            let mut table = Table::new(["NAME", "VIDEOS", "FRIENDS"]).right(1);
            for c in &list {
                table.row([text(c, "name"), &number(c, "videos").to_string(), &members_text(c)]);
            }
            table.render(self.style)
        })
    }

    async fn members(&self, name: &str, change: Value) -> Result<(), Failure> {
        let path = format!("/api/circles/{}/members", encode(name));
        let value = self.client.call(Method::POST, &path, Some(change)).await?;
        self.print(&value, || format!("{}: {}", safe(name), safe(&members_text(&value))))
    }
}

fn members_text(circle: &Value) -> String {
    let friends = circle["friends"].as_array().cloned().unwrap_or_default();
    let names: Vec<&str> = friends.iter().filter_map(Value::as_str).collect();
    if names.is_empty() { "(nobody)".into() } else { names.join(", ") }
}
