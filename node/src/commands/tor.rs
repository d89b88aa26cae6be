//! `kith net tor`, and what `kith status` says of Tor.

use super::*;
use crate::transport::tor::View;

impl Shell {
    /// `kith net tor`
    pub async fn tor(&self) -> Result<(), Failure> {
        let value = self.get("/api/tor").await?;
        self.print(&value, || lines(&value))
    }
}

fn lines(value: &Value) -> String {
    let mut lines = vec![tor_text(value)];
    let says = |name: &str| value.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    match text(value, "mode") {
        "only" => lines.push(
            "Nothing but Tor: no friend learns this machine's address, and friends without an onion address \
             cannot be reached."
                .into(),
        ),
        "on" => lines.push(
            "Friends are called directly first and through Tor when nothing else answers; those marked `kith \
             friend tor NAME only` through Tor alone."
                .into(),
        ),
        _ => lines.push("Start the node with --tor on (or only), or set tor.mode.".into()),
    }
    if let Some(onion) = says("onion") {
        lines.push(format!("onion address  {}", safe(onion)));
    }
    match says("service") {
        Some("reachable") => lines.push("Friends can call it.".into()),
        Some("weak") => {
            lines.push("The network hardly knows it: calls from friends may fail for a while.".into())
        }
        Some("starting") => lines.push("The network does not know it yet: friends cannot call.".into()),
        Some("elsewhere") => lines.push("Another program keeps it: whether it works is seen there.".into()),
        _ => {}
    }
    if let Some(by) = says("by") {
        lines.push(match number(value, "bridges") {
            0 => format!("client: {}", safe(by)),
            bridges => format!("client: {}, through {bridges} bridges", safe(by)),
        });
    }
    lines.join("\n")
}

/// How Tor stands, in a line.
pub(super) fn tor_text(value: &Value) -> String {
    let view: Option<View> = serde_json::from_value(value.clone()).ok();
    let told = view.map_or_else(|| "Tor: unknown".into(), |view| view.told());
    safe(&told).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(state: &str, why: Option<&str>) -> Value {
        json!({"mode": "only", "state": state, "percent": (state == "starting").then_some(45), "why": why,
            "onion": "x.onion:5483", "service": "starting", "by": "built in", "bridges": 2})
    }

    #[test]
    fn every_state_is_told_in_words() {
        let starting = lines(&value("starting", Some("a directory")));
        assert!(starting.starts_with("Tor is starting, 45 %: a directory"), "{starting}");
        assert!(starting.contains("cannot call") && starting.contains("2 bridges"), "{starting}");
        assert!(lines(&value("failed", Some("no way"))).starts_with("Tor failed: no way"));
        assert!(lines(&value("ready", None)).contains("x.onion:5483"));
        let off = json!({"mode": "off", "state": "off", "percent": null, "why": null, "onion": null,
            "service": null, "by": null, "bridges": 0});
        assert!(lines(&off).contains("--tor on"));
    }
}
