//! `kith net circuits`, and what `kith status` says of circuits. Nothing here names a relay.

use super::*;
use crate::privacy;
use kith_onion::Privacy;

impl Shell {
    /// `kith net circuits`
    pub async fn circuits(&self) -> Result<(), Failure> {
        let value = self.get("/api/circuits").await?;
        self.print(&value, || self.circuits_text(&value))
    }

    fn circuits_text(&self, value: &Value) -> String {
        let own = value["own"].as_array().cloned().unwrap_or_default();
        let mut lines = String::new();
        if own.is_empty() {
            lines.push_str("No circuits of your own.\n");
        } else {
            let mut table = Table::new(["RELAYS", "STATE", "AGE"]).right(0);
            for circuit in &own {
                let age = human_duration(Duration::from_secs(number(circuit, "age_s")));
                table.row([&number(circuit, "relays").to_string(), text(circuit, "state"), &age]);
            }
            lines.push_str(&table.render(self.style));
        }
        for line in lacks(value).into_iter().chain(guard(value)) {
            lines.push_str(&format!("{line}\n"));
        }
        lines.push_str(&relaying(value));
        lines.push_str(&cover(&value["cover"]));
        lines
    }
}

/// The mode and what it means.
pub(super) fn mode_text(status: &Value) -> String {
    let mode = text(status, "privacy_in_effect");
    let sentence = privacy::named(mode).map_or("", privacy::sentence);
    format!("{mode}: {sentence}")
}

/// What `status` says of circuits; nothing of those that nobody waits for.
pub(super) fn status_lines(status: &Value) -> Vec<String> {
    let circuits = &status["circuits"];
    let count = |name: &str| number(circuits, name);
    let mut lines = vec![format!(
        "circuits: {} ready, {} in use, {} being built; {} of others pass through here",
        count("ready"),
        count("used"),
        count("building"),
        count("relayed")
    )];
    if privacy::named(text(status, "privacy_in_effect")) != Some(Privacy::Fast) {
        lines.extend(lacks(circuits));
        lines.extend(guard(circuits));
    }
    lines
}

/// Why there is no circuit to use.
fn lacks(circuits: &Value) -> Option<String> {
    let why = match text(circuits, "lacks") {
        "too_few_relays" => "there are too few friends of friends to make one of",
        "not_ready" => {
            "they are built slowly on purpose, so that nobody can tell from the time who builds them"
        }
        "guard_carries" => "the first relay carries what is wanted",
        "too_many_routes" => "there were too many routes for what is wanted",
        "not_found" => "nobody near their ends gives what is wanted",
        _ => return None,
    };
    Some(format!("no circuit can be used now: {why}"))
}

/// Whom the first relay is drawn from, and what follows from that.
fn guard(circuits: &Value) -> Vec<String> {
    let close = number(circuits, "close_friends");
    // One friend alone carries everything.
    let single = "that friend alone can see that you use circuits and when, and carries all of it";
    let mut lines = match text(circuits, "tier") {
        "all" => vec![format!(
            "the first relay is drawn from all your friends, because nobody is marked close or verified: mark \
             those whom you trust (kith friend trust NAME close); with a single one, {single}"
        )],
        "verified" => vec![format!(
            "the first relay is drawn from verified friends, because nobody is marked close: kith friend trust \
             NAME close; with a single one, {single}"
        )],
        "close" if close == 1 => vec![format!("the first relay is the one friend marked close: {single}")],
        _ => Vec::new(),
    };
    if !text(circuits, "tier").is_empty() && circuits["guard_online"] == false {
        lines.push(
            "the first relay is off line: circuits begin at the one in reserve meanwhile, or wait".into(),
        );
    }
    lines
}

fn relaying(value: &Value) -> String {
    match value["relay"] == true {
        true => format!(
            "relaying for others: on, {} circuits now, at most {} % of a busy link (circuit.share)\n",
            number(value, "relayed"),
            number(value, "share")
        ),
        false => {
            "relaying for others: off (circuit.relay), so your first relay knows every circuit from you \
                  for your own\n"
                .into()
        }
    }
}

fn cover(cover: &Value) -> String {
    let links = number(cover, "links");
    let (each, all) = (number(cover, "bytes_per_day_and_link"), number(cover, "bytes_per_day"));
    let cost =
        format!("{} a day on a link, {} on the {links} that stand", human_bytes(each), human_bytes(all));
    match text(cover, "mode") {
        "constant" => {
            format!(
                "cover: constant {}, sends about {cost}; what you send beyond it can be seen\n",
                crate::rates::format(cover["rate"].as_u64())
            )
        }
        "idle" => format!("cover: idle, a 4 KiB cell after about 30 s of silence, sends about {cost}\n"),
        _ => "cover: off, whoever sees your links sees when they are used\n".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(mode: &str, circuits: Value) -> String {
        status_lines(&json!({"privacy_in_effect": mode, "circuits": circuits})).join("\n")
    }

    #[test]
    fn status_says_whom_the_first_relay_is_drawn_from_and_what_a_single_one_costs() {
        let none = json!({"tier": null, "guard_online": false, "lacks": "not_ready"});
        assert!(status("normal", none.clone()).contains("built slowly on purpose"));
        assert_eq!(status("fast", none).lines().count(), 1, "nothing waits for circuits in fast");
        let all = status("normal", json!({"tier": "all", "guard_online": true, "lacks": null, "ready": 4}));
        for part in ["4 ready", "nobody is marked close or verified", "carries all of it"] {
            assert!(all.contains(part), "{all}");
        }
        let close = |n| status("strict", json!({"tier": "close", "close_friends": n, "guard_online": true}));
        assert!(close(1).contains("the one friend marked close"));
        assert_eq!(close(3).lines().count(), 1);
        let away = status("normal", json!({"tier": "close", "close_friends": 3, "guard_online": false}));
        assert!(away.contains("off line"));
    }

    #[test]
    fn cover_tells_its_cost() {
        let value = json!({"mode": "constant", "rate": 16_000, "links": 2,
            "bytes_per_day_and_link": 1_843_200_000, "bytes_per_day": 3_686_400_000_u64});
        let text = cover(&value);
        assert!(text.contains("constant 16kB/s") && text.contains("about 1.7 GiB a day"), "{text}");
        assert!(cover(&json!({"mode": "off"})).contains("off"));
        assert!(mode_text(&json!({"privacy_in_effect": "strict"})).starts_with("strict: everything comes"));
    }
}
