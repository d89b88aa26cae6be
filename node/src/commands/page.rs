//! Opening the page, tokens for programs, what is hidden, what moves, the log.

use super::*;
use crate::cli;
use crate::client::next;

/// How often `log --follow` asks for more.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// A ping of `net check` is asked so often; the quickest answer counts.
const PINGS: usize = 3;

impl Shell {
    /// `kith open`
    pub async fn open(&self, args: &cli::Open) -> Result<(), Failure> {
        let link = args.link.as_deref().map(text_argument).transpose()?;
        let value = self.client.call(Method::POST, "/api/logins", Some(json!({"link": link}))).await?;
        let url = text(&value, "url");
        if args.print || self.json {
            return self.print(&value, || url.to_owned());
        }
        let opener = super::watch::opener().ok_or_else(|| {
            let what = "no program here opens a browser: kith open --print shows the address";
            Failure::new(Exit::NotFound, what)
        })?;
        // It works once, within minutes, so that the list of processes gives nothing away for long.
        let mut command = tokio::process::Command::new(opener);
        command.arg(url).stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let status = command.status().await.context(format!("cannot start {opener}"))?;
        if !status.success() {
            let what = format!("{opener} did not open a browser: kith open --print shows the address");
            return Err(Failure::new(Exit::Failure, what));
        }
        out("The page opens in your browser.")
    }

    /// `kith token ...`
    pub async fn token(&self, command: &cli::Token) -> Result<(), Failure> {
        match command {
            cli::Token::Create { name, scope } => {
                let scopes: Vec<&str> = scope.iter().map(|scope| scope.as_str()).collect();
                let body = json!({"name": name, "scopes": scopes});
                let value = self.client.call(Method::POST, "/api/tokens", Some(body)).await?;
                note("This token is shown once. It goes into the header Authorization: Bearer.");
                self.print(&value, || text(&value, "token").to_owned())
            }
            cli::Token::List => {
                let value = self.get("/api/tokens").await?;
                self.print(&value, || {
                    let mut table = Table::new(["NAME", "MAY", "SINCE"]);
                    for token in value.as_array().into_iter().flatten() {
                        let scopes: Vec<&str> = token["scopes"]
                            .as_array()
                            .into_iter()
                            .flatten()
                            .filter_map(Value::as_str)
                            .collect();
                        let since = moment(number(token, "created"));
                        table.row([text(token, "name"), &scopes.join(", "), &since]);
                    }
                    table.render(self.style)
                })
            }
            cli::Token::Revoke { name } => {
                let path = format!("/api/tokens/{}", encode(name));
                let value = self.client.call(Method::DELETE, &path, None).await?;
                self.print(&value, || format!("{} is no good any more.", safe(name)))
            }
        }
    }

    /// `kith hide`
    pub async fn hide(&self, args: &cli::Hide) -> Result<(), Failure> {
        let Some(what) = &args.what else {
            let value = self.get("/api/hidden").await?;
            return self.print(&value, || {
                let mut table = Table::new(["KIND", "WHAT", "TITLE"]);
                for hidden in value.as_array().into_iter().flatten() {
                    table.row([text(hidden, "kind"), text(hidden, "what"), text(hidden, "title")]);
                }
                table.render(self.style)
            });
        };
        let body = json!({"what": what, "undo": args.undo});
        let value = self.client.call(Method::POST, "/api/hidden", Some(body)).await?;
        self.print(&value, || {
            let (kind, what) = (text(&value, "kind"), text(&value, "what"));
            let verb = if args.undo { "Shown again" } else { "Hidden from search and pages here" };
            format!("{verb}: the {kind} {}", safe(what))
        })
    }

    /// `kith events`
    pub async fn events(&self) -> Result<(), Failure> {
        let mut body = self.client.start(Method::GET, "/api/events", None).await?.into_body();
        let mut pending = Vec::new();
        let mut event = String::new();
        while let Some(chunk) = next(&mut body).await? {
            pending.extend_from_slice(&chunk);
            while let Some(end) = pending.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                if let Some(name) = line.trim_end().strip_prefix("event: ") {
                    name.clone_into(&mut event);
                } else if let Some(data) = line.trim_end().strip_prefix("data: ") {
                    let data: Value = serde_json::from_str(data).unwrap_or_default();
                    out(&json!({"event": event, "data": data}).to_string())?;
                }
            }
        }
        Err(Failure::new(Exit::NotRunning, "the node ended"))
    }

    /// `kith log`
    pub async fn log(&self, follow: bool) -> Result<(), Failure> {
        let mut last = 0;
        loop {
            let value = self.get(&format!("/api/log?after={last}")).await?;
            for line in value.as_array().into_iter().flatten() {
                last = number(line, "n").max(last);
                out(&if self.json { line.to_string() } else { safe(text(line, "line")) })?;
            }
            if !follow {
                return Ok(());
            }
            tokio::time::sleep(FOLLOW_EVERY).await;
        }
    }

    /// `kith net check`
    pub async fn check_links(&self) -> Result<(), Failure> {
        let (status, friends) = (self.get("/api/status").await?, self.get("/api/friends").await?);
        let mut links = Vec::new();
        for friend in friends.as_array().into_iter().flatten().filter(|f| text(f, "state") == "online") {
            let path = format!("/api/friends/{}/ping", encode(text(friend, "name")));
            let mut best = None::<f64>;
            for _ in 0..PINGS {
                // Who has just gone is said to be gone.
                let Ok(pong) = self.client.call(Method::POST, &path, None).await else { break };
                let ms = pong["ms"].as_f64().unwrap_or(0.0);
                best = Some(best.map_or(ms, |best| best.min(ms)));
            }
            links.push(json!({"name": friend["name"], "ms": best}));
        }
        let value = json!({
            "listen": status["listen"],
            "reach_note": status["reach_note"],
            "friends": status["friends"],
            "links": links,
        });
        self.print(&value, || {
            let mut table = Table::new(["FRIEND", "ANSWERS IN"]).right(1);
            for link in value["links"].as_array().into_iter().flatten() {
                let took = link["ms"].as_f64().map_or_else(|| "no answer".into(), |ms| format!("{ms:.1} ms"));
                table.row([text(link, "name"), &took]);
            }
            let count = |name: &str| number(&value["friends"], name);
            let mut lines = format!("{} of {} friends on line.\n", count("online"), count("total"));
            lines.push_str(&table.render(self.style));
            if let Some(reach) = value["reach_note"].as_str() {
                lines.push_str(&format!("{}\n", safe(reach)));
            }
            lines
        })
    }
}
