//! Checking what is stored, and making the index anew.

use super::*;
use crate::cli;
use crate::client;

const ENDED: &str = "the node ended; what was mended stays mended";

impl Shell {
    /// `kith store verify`
    pub async fn verify_store(&self, args: &cli::Verify) -> Result<(), Failure> {
        let id = args.id.as_deref().map(text_argument).transpose()?;
        let body = json!({
            "id": id.as_deref().map(str::trim),
            "heal": !args.no_heal,
            "accept_loss": args.accept_loss,
        });
        let response = self.client.start(Method::POST, "/api/store/verify", Some(body)).await?;
        let progress = bar(Some(0), "checking");
        let value = client::lines(response, ENDED, |line| match text(line, "event") {
            "progress" => {
                progress.set_length(number(line, "total_bytes"));
                progress.set_position(number(line, "have_bytes"));
                progress.set_message(format!(
                    "checking, {} of {} videos,",
                    number(line, "objects"),
                    number(line, "total_objects")
                ));
            }
            "healing" => {
                progress.set_message(format!("fetching {} damaged blocks again,", number(line, "blocks")))
            }
            _ => {}
        })
        .await;
        progress.finish_and_clear();
        let mut value = value?;
        if let Some(fields) = value.as_object_mut() {
            fields.remove("event");
        }
        self.print(&value, || self.verified(&value))?;
        if value["whole"] == true {
            return Ok(());
        }
        Err(Failure::new(Exit::Verification, unhealed(&value)))
    }

    /// What the check came to, for people.
    fn verified(&self, value: &Value) -> String {
        let findings = value["findings"].as_array().map_or(&[][..], Vec::as_slice);
        let mut out = format!(
            "checked {} videos, {} in {}",
            number(value, "objects"),
            human_bytes(number(value, "bytes")),
            human_duration(Duration::from_secs_f64(value["seconds"].as_f64().unwrap_or(0.0).max(0.0)))
        );
        if findings.is_empty() {
            out.push_str(": all is whole");
        }
        for finding in findings {
            let what = match text(finding, "id") {
                "" => format!("{} {}", text(finding, "file"), text(finding, "path")),
                id => {
                    let short: String = id.chars().take(16).collect();
                    let title = text(finding, "title");
                    if title.is_empty() { short } else { format!("{short} ({title})") }
                }
            };
            let blocks = match number(finding, "blocks") {
                0 => String::new(),
                n => format!(" [{n}]"),
            };
            let state = text(finding, "state");
            let shown = match state {
                "damaged" | "lost" | "left" => self.style.red(state),
                _ => self.style.green(state),
            };
            let line = safe(&format!("{what}: {}{blocks}", text(finding, "what")));
            out.push_str(&format!("\n{line}: {shown}"));
        }
        out
    }

    /// `kith store reindex`
    pub async fn reindex(&self) -> Result<(), Failure> {
        let response = self.client.start(Method::POST, "/api/store/reindex", Some(json!({}))).await?;
        let progress = videos_bar("making the index anew");
        let value = client::lines(response, ENDED, |line| {
            progress.set_length(number(line, "total_objects"));
            progress.set_position(number(line, "objects"));
        })
        .await;
        progress.finish_and_clear();
        let value = pick(&value?, &["objects", "seconds", "objects_per_second"]);
        self.print(&value, || {
            format!(
                "the index names {} videos again ({} a second)",
                number(&value, "objects"),
                value["objects_per_second"].as_f64().unwrap_or(0.0)
            )
        })
    }
}

/// Why the exit is not 0, in one line.
fn unhealed(value: &Value) -> String {
    let findings = value["findings"].as_array().map_or(&[][..], Vec::as_slice);
    let count = |state: &str| findings.iter().filter(|f| text(f, "state") == state).count();
    let (damaged, lost, left) = (count("damaged"), count("lost"), count("left"));
    let damage = &value["damaged"];
    if lost > 0 {
        return "the journal had lost records before this start, and nothing here says which: if something is \
                missing, restore a backup (kith restore); if not, kith store verify --accept-loss"
            .into();
    }
    if damaged > 0 && number(damage, "blocks") > 0 {
        return format!(
            "{} blocks of {} videos are damaged here and no friend who has them is on line: tried again when \
             one is",
            number(damage, "blocks"),
            number(damage, "objects")
        );
    }
    format!(
        "{} files are damaged and were left as they are: run kith store verify to mend them",
        damaged + left
    )
}
