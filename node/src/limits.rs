//! What a running node takes from its configuration at once, foremost limits of speed: which ones hold
//! now by local time, and the task that switches them. What the limits mean is in `rates`; that they
//! hold is the core's part.

use crate::config::{Config, ConfigError, Loaded};
use crate::exit::{Exit, Failure};
use crate::rates::{self, Limits, Minute};
use crate::service::Command;
use kith_onion::budget::Budgets;
use kith_onion::{CircuitSettings, Privacy, Rates};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// The minute of the week where this machine is. Without knowledge of its zone that is UTC.
pub fn local_minute() -> Minute {
    let now = jiff::Zoned::now();
    let day = u8::try_from(now.weekday().to_monday_zero_offset()).unwrap_or_default();
    let minute = i16::from(now.hour()) * 60 + i16::from(now.minute());
    Minute { day, minute: u16::try_from(minute).unwrap_or_default() }
}

/// Time until the next minute begins.
fn until_next_minute() -> Duration {
    let second = jiff::Zoned::now().second();
    // A little later rather than earlier: a wake-up before the boundary would see the old minute.
    Duration::from_secs(60 - u64::try_from(second).unwrap_or(0).min(59)) + Duration::from_millis(20)
}

/// The sources of a running node's configuration, and its limits.
#[derive(Clone)]
pub struct LiveConfig {
    file: PathBuf,
    sets: Arc<[String]>,
    limits: Arc<watch::Sender<Limits>>,
    circuit_share: Arc<AtomicU8>,
}

/// What a running node takes at once.
#[derive(Clone, Copy, Debug)]
pub struct Live {
    /// Limits of speed that hold at this minute.
    pub rates: Rates,
    /// How much may be kept.
    pub store: kith_store::Limits,
    /// The privacy mode.
    pub privacy: Privacy,
    /// Cover and circuits.
    pub circuits: CircuitSettings,
    /// What circuits of others may use of a busy link.
    pub budgets: Budgets,
}

impl LiveConfig {
    /// The settings with which a node starts.
    pub fn new(file: PathBuf, sets: Vec<String>, config: &Config) -> Self {
        let (limits, _) = watch::channel(config.limits.clone());
        let circuit_share = Arc::new(config.circuit_share.into());
        Self { file, sets: sets.into(), limits: Arc::new(limits), circuit_share }
    }

    fn load(&self) -> Result<Loaded, ConfigError> {
        Loaded::load(&self.file, &self.sets, |name| std::env::var(name).ok())
    }

    /// Every key as the node would read it now.
    pub fn shown(&self) -> Result<Value, Failure> {
        let loaded = self.load()?;
        let row = |key: &crate::config::KeySpec| {
            let (value, origin) = loaded.value(key)?;
            Some((key.name.to_owned(), crate::commands::value_json(value, origin)))
        };
        Ok(crate::config::KEYS.iter().filter_map(row).collect::<serde_json::Map<_, _>>().into())
    }

    /// Reads the file again and takes the keys that may change while the node runs.
    pub fn reload(&self) -> Result<Live, Failure> {
        let Config { limits, store, privacy, circuits, circuit_share, .. } = self.load()?.config;
        let rates = limits.at(local_minute());
        self.limits.send_replace(limits);
        self.circuit_share.store(circuit_share, Ordering::Relaxed);
        Ok(Live { rates, store, privacy, circuits, budgets: crate::privacy::budgets(circuit_share) })
    }

    /// Percent of a busy link that circuits of others may use.
    pub fn circuit_share(&self) -> u8 {
        self.circuit_share.load(Ordering::Relaxed)
    }

    /// The limits as the API shows them.
    pub fn limits_json(&self) -> Value {
        shown(&self.limits.borrow(), local_minute())
    }

    /// Sets what holds, now and at every boundary of the schedule.
    pub async fn run(self, commands: mpsc::Sender<Command>) {
        let mut changes = self.limits.subscribe();
        let mut in_force = None;
        loop {
            let limits = changes.borrow_and_update().clone();
            let rates = limits.at(local_minute());
            if in_force != Some(rates) {
                let job = Command::Run(Box::new(move |cx| cx.core.set_rates(cx.now, rates)));
                if commands.send(job).await.is_err() {
                    return;
                }
                in_force = Some(rates);
            }
            let boundary = async {
                if limits.schedule.is_empty() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(until_next_minute()).await;
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    return;
                },
                () = boundary => {}
            }
        }
    }
}

/// Limits and schedule, and what holds at this minute. Rates are bytes a second, null is no limit.
pub fn shown(limits: &Limits, now: Minute) -> Value {
    let rates = limits.at(now);
    let mut value = json!({"up": rates.up, "down": rates.down});
    if let Some(fields) = value.as_object_mut() {
        for (kind, (up, down)) in rates::KINDS.iter().zip(rates.kinds) {
            fields.insert((*kind).into(), json!({"up": up, "down": down}));
        }
        let windows = limits.schedule.iter().enumerate();
        let windows =
            windows.map(|(i, w)| json!({"n": i + 1, "window": w.to_string(), "active": w.holds(now)}));
        fields.insert("schedule".into(), windows.collect());
    }
    value
}

/// A rate from the command line or the API.
pub fn rate(text: &str) -> Result<Option<u64>, Failure> {
    rates::parse(text).ok_or_else(|| {
        let what = format!("{text} is not a rate: use one like 500kB/s, 2MB/s, 1.5MiB/s or off");
        Failure::new(Exit::Usage, what)
    })
}
