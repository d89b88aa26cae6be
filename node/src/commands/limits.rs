//! `kith net limits` and `kith net schedule`: both are keys of the configuration.

use super::*;
use crate::cli;
use crate::config::{Config, Given, edit};
use crate::limits::{local_minute, rate, shown};
use crate::rates::{self, Window};

impl Shell {
    /// `kith net`; circuits have a file of their own
    pub async fn net(&self, command: &cli::Net) -> Result<(), Failure> {
        match command {
            cli::Net::Circuits => self.circuits().await,
            cli::Net::Check => self.check_links().await,
            cli::Net::Tor => self.tor().await,
            cli::Net::Limits(args) => self.limits(args).await,
            cli::Net::Schedule { command: None | Some(cli::Schedule::List) } => self.schedule().await,
            cli::Net::Schedule { command: Some(cli::Schedule::Add { window, up, down, kind }) } => {
                self.schedule_add(window, up.as_deref(), down.as_deref(), *kind).await
            }
            cli::Net::Schedule { command: Some(cli::Schedule::Rm { number }) } => {
                self.schedule_rm(*number).await
            }
        }
    }

    async fn limits(&self, args: &cli::Limits) -> Result<(), Failure> {
        let mut changes = Vec::new();
        let key = |kind: Option<&str>, side: &str| match kind {
            None => edit::key(&format!("limits.{side}")),
            Some(kind) => edit::key(&format!("limits.{kind}.{side}")),
        };
        let kind = args.kind.map(cli::Kind::as_str);
        for (side, wanted) in [("up", &args.up), ("down", &args.down)] {
            if let Some(wanted) = wanted {
                // Written back by our own hand, so that the file has one spelling.
                changes.push((key(kind, side)?, Given::Text(rates::format(rate(wanted)?))));
            }
            if args.off.is_some() {
                let all = rates::KINDS.iter().map(|kind| Some(*kind)).chain([None]);
                for kind in all.filter(|k| kind.is_none() || *k == kind) {
                    changes.push((key(kind, side)?, Given::Text("off".into())));
                }
            }
        }
        if changes.is_empty() && args.kind.is_some() {
            return Err(Failure::new(Exit::Usage, "--kind needs --up, --down or off: give one"));
        }
        if !changes.is_empty() {
            self.change(&changes).await?;
        }
        let value = self.limits_now().await?;
        self.print(&value, || limits_text(&value))
    }

    async fn limits_now(&self) -> Result<Value, Failure> {
        if self.client.is_up().await {
            return self.get("/api/limits").await;
        }
        let config = Config::load(&self.paths.config_file, &[], |name| std::env::var(name).ok())?;
        Ok(json!(shown(&config.limits, local_minute())))
    }

    async fn schedule(&self) -> Result<(), Failure> {
        let value = self.limits_now().await?;
        self.print(&value["schedule"], || schedule_text(&value["schedule"]))
    }

    /// The windows of the file, which is what `add` and `rm` change.
    fn windows(&self) -> Result<Vec<Window>, Failure> {
        Ok(Config::load(&self.paths.config_file, &[], |_| None)?.limits.schedule)
    }

    async fn keep_windows(&self, windows: &[Window]) -> Result<(), Failure> {
        let items = windows.iter().map(Window::to_string).collect();
        self.change(&[(edit::key("limits.schedule")?, Given::List(items))]).await?;
        self.schedule().await
    }

    async fn schedule_add(
        &self,
        window: &str,
        up: Option<&str>,
        down: Option<&str>,
        kind: Option<cli::Kind>,
    ) -> Result<(), Failure> {
        let prefix = kind.map_or_else(String::new, |k| format!("{}.", k.as_str()));
        let mut text = window.to_owned();
        for (side, wanted) in [("up", up), ("down", down)] {
            if let Some(wanted) = wanted {
                text.push_str(&format!(" {prefix}{side}={}", rates::format(rate(wanted)?)));
            }
        }
        let window = Window::parse(&text).map_err(|bad| {
            let what =
                format!("this is not a window: {}; try \"mon-fri 08:00-18:00\" --up 1MB/s", bad.as_str());
            Failure::new(Exit::Usage, what)
        })?;
        let mut windows = self.windows()?;
        if windows.len() >= rates::MAX_WINDOWS {
            let what =
                format!("there are {} windows already, the most that are possible", rates::MAX_WINDOWS);
            return Err(Failure::new(Exit::Usage, what));
        }
        windows.push(window);
        self.keep_windows(&windows).await
    }

    async fn schedule_rm(&self, number: usize) -> Result<(), Failure> {
        let mut windows = self.windows()?;
        if number == 0 || number > windows.len() {
            let what = format!("there is no window {number}: see `kith net schedule list`");
            return Err(Failure::new(Exit::NotFound, what));
        }
        windows.remove(number - 1);
        self.keep_windows(&windows).await
    }
}

fn limits_text(value: &Value) -> String {
    let rate = |value: &Value| rates::format(value.as_u64());
    let mut table = Table::new(["LIMIT", "UP", "DOWN"]).right(1).right(2);
    table.row(["everything", &rate(&value["up"]), &rate(&value["down"])]);
    for (kind, name) in rates::KINDS.iter().zip(["own", "passed on (fof)", "circuits (onion)"]) {
        table.row([name, &rate(&value[*kind]["up"]), &rate(&value[*kind]["down"])]);
    }
    let mut lines = table.render(Style::PLAIN);
    if value["schedule"].as_array().is_some_and(|list| !list.is_empty()) {
        lines.push('\n');
        lines.push_str(&schedule_text(&value["schedule"]));
    }
    lines
}

fn schedule_text(list: &Value) -> String {
    let list = list.as_array().cloned().unwrap_or_default();
    if list.is_empty() {
        return "No windows. Add one: kith net schedule add \"mon-fri 08:00-18:00\" --up 1MB/s".into();
    }
    let mut table = Table::new(["N", "WINDOW", "NOW"]).right(0);
    for row in &list {
        let active = if row["active"] == true { "holds" } else { "" };
        table.row([&number(row, "n").to_string(), text(row, "window"), active]);
    }
    table.render(Style::PLAIN)
}
