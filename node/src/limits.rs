//! What a running node takes from its configuration at once, foremost limits of speed: which ones hold
//! now by local time, and the task that switches them. What the limits mean is in `rates`; that they
//! hold is the core's part.

use crate::config::{Config, ConfigError, Loaded};
use crate::config::{Given, Origin, edit};
use crate::exit::{Exit, Failure};
use crate::rates::{self, Limits, Minute};
use crate::service::{Command, MirrorSettings};
use kith_onion::budget::Budgets;
use kith_onion::{CircuitSettings, Privacy, Rates};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use utoipa::ToSchema;

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
    look: Arc<Mutex<Look>>,
}

/// How the page looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// `auto`, `light` or `dark`.
    pub theme: &'static str,
    /// A language's tag, or `auto`.
    pub language: &'static str,
}

impl Look {
    /// As the browser says.
    pub const AUTO: Self = Self { theme: "auto", language: "auto" };
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
    /// Copies for others.
    pub mirror: MirrorSettings,
}

impl LiveConfig {
    /// The settings with which a node starts.
    pub fn new(file: PathBuf, sets: Vec<String>, config: &Config) -> Self {
        let (limits, _) = watch::channel(config.limits.clone());
        let circuit_share = Arc::new(config.circuit_share.into());
        let look = Arc::new(Mutex::new(config.look));
        Self { file, sets: sets.into(), limits: Arc::new(limits), circuit_share, look }
    }

    fn load(&self) -> Result<Loaded, ConfigError> {
        Loaded::load(&self.file, &self.sets, |name| std::env::var(name).ok())
    }

    /// Every key as the node would read it now.
    pub fn shown(&self) -> Result<BTreeMap<String, ConfigValue>, Failure> {
        let loaded = self.load()?;
        let row = |key: &crate::config::KeySpec| {
            let (value, origin) = loaded.value(key)?;
            Some((key.name.to_owned(), ConfigValue::new(value, origin)))
        };
        Ok(crate::config::KEYS.iter().filter_map(row).collect())
    }

    /// Changes keys in the file, all of them or none. The node still has to [`LiveConfig::reload`].
    /// `only`: it uses nothing but Tor.
    pub fn change(&self, changes: &[(String, String)], only: bool) -> Result<(), Failure> {
        let mut given = Vec::new();
        for (name, text) in changes {
            let key = edit::key(name)?;
            given.push((key, edit::given(key, text)));
        }
        if only {
            crate::up::refuse_leaking(&given)?;
        }
        Ok(edit::set_in(&self.file, &given)?)
    }

    /// Reads the file again and takes the keys that may change while the node runs.
    pub fn reload(&self) -> Result<Live, Failure> {
        let Config { limits, store, privacy, circuits, circuit_share, look, mirror, .. } =
            self.load()?.config;
        if let Ok(mut now) = self.look.lock() {
            *now = look;
        }
        let rates = limits.at(local_minute());
        self.limits.send_replace(limits);
        self.circuit_share.store(circuit_share, Ordering::Relaxed);
        let budgets = crate::privacy::budgets(circuit_share);
        Ok(Live { rates, store, privacy, circuits, budgets, mirror })
    }

    /// How the page looks.
    pub fn look(&self) -> Look {
        self.look.lock().map_or(Look::AUTO, |look| *look)
    }

    /// Percent of a busy link that circuits of others may use.
    pub fn circuit_share(&self) -> u8 {
        self.circuit_share.load(Ordering::Relaxed)
    }

    /// The limits as the API shows them.
    pub fn limits(&self) -> LimitsView {
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

/// Bytes a second; null is no limit.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct UpDown {
    /// What leaves.
    pub up: Option<u64>,
    /// What comes.
    pub down: Option<u64>,
}

/// A window of the schedule.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WindowView {
    /// Its number, from 1.
    pub n: usize,
    /// As `net schedule add` takes it.
    pub window: String,
    /// It holds now.
    pub active: bool,
}

/// Limits and schedule, and what holds at this minute. Rates are bytes a second, null is no limit.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LimitsView {
    /// All that leaves.
    pub up: Option<u64>,
    /// All that comes.
    pub down: Option<u64>,
    /// Own videos and what is fetched.
    pub own: UpDown,
    /// What is passed on between friends.
    pub fof: UpDown,
    /// Circuits of others.
    pub onion: UpDown,
    /// Weekly windows.
    pub schedule: Vec<WindowView>,
}

/// Limits and schedule, and what holds at this minute.
pub fn shown(limits: &Limits, now: Minute) -> LimitsView {
    let rates = limits.at(now);
    let [own, fof, onion] = rates.kinds.map(|(up, down)| UpDown { up, down });
    let windows = limits.schedule.iter().enumerate();
    let windows = windows.map(|(i, w)| WindowView { n: i + 1, window: w.to_string(), active: w.holds(now) });
    LimitsView { up: rates.up, down: rates.down, own, fof, onion, schedule: windows.collect() }
}

/// A value of the configuration, and where it comes from.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ConfigValue {
    /// A text, or a list of texts.
    #[schema(value_type = Object)]
    pub value: Value,
    /// `default`, `file`, `environment` or `set`.
    pub origin: &'static str,
    /// The file or variable.
    pub from: Option<String>,
}

impl ConfigValue {
    /// A value as the API shows it.
    pub fn new(value: &Given, origin: &Origin) -> Self {
        let value = match value {
            Given::Text(text) => json!(text),
            Given::List(items) => json!(items),
        };
        let (origin, from) = match origin {
            Origin::Default => ("default", None),
            Origin::File(path) => ("file", Some(path.display().to_string())),
            Origin::Env(name) => ("environment", Some(name.clone())),
            Origin::Set | Origin::Command => ("set", None),
        };
        Self { value, origin, from }
    }

    /// A text, or a list with commas.
    pub fn text(&self) -> String {
        match &self.value {
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
            other => other.as_str().unwrap_or_default().to_owned(),
        }
    }
}

/// A rate from the command line or the API.
pub fn rate(text: &str) -> Result<Option<u64>, Failure> {
    rates::parse(text).ok_or_else(|| {
        let what = format!("{text} is not a rate: use one like 500kB/s, 2MB/s, 1.5MiB/s or off");
        Failure::new(Exit::Usage, what)
    })
}
