//! `kith watch`: a stream address, a player for it, and a picture of what has come so far.
//!
//! Invariants: the address is in no argument list, where other users of the machine would see it, and it
//! ends with this command, however the command ends.

use super::*;
use crate::cli::{self, Player};
use crate::client;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

impl Shell {
    /// `kith watch`
    pub async fn watch(&self, args: &cli::Watch) -> Result<(), Failure> {
        let id = text_argument(&args.id)?;
        let player = choose(args.player)?;
        let mut body = json!({"id": id.trim(), "route": args.route.as_str()});
        let told = self.tell_who_learns(&body).await?;
        if player == Player::Print {
            let stream = self.client.call(Method::POST, "/api/streams", Some(body)).await?;
            if !told {
                fetch::note_who_learns(&stream);
            }
            return out(&with_time(text(&stream, "url"), args.from));
        }
        // The address lives as long as this answer is read.
        body["hold"] = json!(true);
        let response = self.client.start(Method::POST, "/api/streams", Some(body)).await?;
        let mut states = client::Lines::new(response);
        let ended = || Failure::new(Exit::NotRunning, "the node ended: start it again with `kith up`");
        let stream = states.next().await?.ok_or_else(ended)?;
        if !told {
            fetch::note_who_learns(&stream);
        }
        let picture = Picture::new();
        let mut playing = Playing::start(player, &stream, args.from, picture.is_shown()).await?;
        let result = loop {
            tokio::select! {
                status = playing.child.wait() => {
                    let status = status.context(format!("{} could not be waited for", playing.name))?;
                    match (player, status.success()) {
                        // What opens a browser ends at once, and the browser plays on.
                        (Player::Browser, true) => break self.until_interrupted(&mut states, &picture).await,
                        (_, true) => break Ok(()),
                        _ => break Err(Failure::new(
                            Exit::Failure,
                            format!("{} could not play this video: see what it says above", playing.name),
                        )),
                    }
                }
                state = states.next() => match state? {
                    Some(state) => picture.show(&state),
                    None => break Err(ended()),
                },
            }
        };
        picture.end();
        result
    }

    async fn until_interrupted(&self, states: &mut client::Lines, picture: &Picture) -> Result<(), Failure> {
        note("playing in your browser; the address ends with this command: press Ctrl-C when you are done");
        while let Some(state) = states.next().await? {
            picture.show(&state);
        }
        Err(Failure::new(Exit::NotRunning, "the node ended: start it again with `kith up`"))
    }
}

/// The player to use: the one that was named, or the first that is there.
fn choose(named: Option<Player>) -> Result<Player, Failure> {
    let missing = |program: &str| {
        let what = format!(
            "{program} is not installed: install it (`apt-get install {program}`), or use --player print with another player"
        );
        Failure::new(Exit::Failure, what)
    };
    match named {
        Some(Player::Mpv) if !on_path("mpv") => Err(missing("mpv")),
        Some(Player::Vlc) if !on_path("vlc") => Err(missing("vlc")),
        Some(Player::Browser) if opener().is_none() => Err(Failure::new(
            Exit::Failure,
            "nothing here opens a browser: use --player print and open the address yourself",
        )),
        Some(player) => Ok(player),
        None if on_path("mpv") => Ok(Player::Mpv),
        None if on_path("vlc") => Ok(Player::Vlc),
        None if opener().is_some() => Ok(Player::Browser),
        None => Err(missing("mpv")),
    }
}

/// What opens addresses in the user's browser.
pub(super) fn opener() -> Option<&'static str> {
    ["xdg-open", "open"].into_iter().find(|program| on_path(program))
}

/// An address that begins at a time: a media fragment, which browsers understand.
fn with_time(url: &str, from: Option<u64>) -> String {
    from.map_or_else(|| url.to_owned(), |seconds| format!("{url}#t={seconds}"))
}

/// A player at work.
struct Playing {
    name: &'static str,
    child: Child,
    /// Goes with it.
    _list: Option<tempfile::NamedTempFile>,
}

impl Playing {
    async fn start(player: Player, stream: &Value, from: Option<u64>, quiet: bool) -> Result<Self, Failure> {
        let url = text(stream, "url");
        let mut list = None;
        let (name, mut command) = match player {
            Player::Mpv => {
                let mut command = Command::new("mpv");
                // The address goes in by stdin.
                command.args(["--no-ytdl", "--load-unsafe-playlists=no", "--playlist=-"]);
                command.args(quiet.then_some("--quiet"));
                command.args(from.map(|seconds| format!("--start={seconds}")));
                command.stdin(std::process::Stdio::piped());
                ("mpv", command)
            }
            Player::Vlc => {
                // Only this user can read it.
                let unwritten = "cannot write a playlist for VLC";
                let mut file = tempfile::Builder::new().suffix(".m3u").tempfile().context(unwritten)?;
                let start = from.map_or_else(String::new, |s| format!("#EXTVLCOPT:start-time={s}\n"));
                std::io::Write::write_all(&mut file, format!("#EXTM3U\n{start}{url}\n").as_bytes())
                    .context(unwritten)?;
                let mut command = Command::new("vlc");
                command
                    .args(["--no-one-instance", "--play-and-exit"])
                    .arg(file.path())
                    .stdin(std::process::Stdio::null());
                list = Some(file);
                ("vlc", command)
            }
            // What is seen in the list of processes works once.
            Player::Browser | Player::Print => {
                let mut command = Command::new(opener().unwrap_or("xdg-open"));
                command.arg(with_time(text(stream, "open_url"), from)).stdin(std::process::Stdio::null());
                ("the browser", command)
            }
        };
        let mut child = command.kill_on_drop(true).spawn().context(format!("cannot start {name}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(format!("{url}\n").as_bytes()).await.context(format!("cannot talk to {name}"))?;
        }
        Ok(Self { name, child, _list: list })
    }
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// What has come so far, in one line of a terminal.
struct Picture(ProgressBar);

impl Picture {
    fn new() -> Self {
        let bar = bar(None, "");
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    fn is_shown(&self) -> bool {
        !self.0.is_hidden()
    }

    fn show(&self, state: &Value) {
        self.0.set_message(picture(state));
        self.0.tick();
    }

    fn end(&self) {
        self.0.finish_and_clear();
    }
}

/// Places of the picture.
const PLACES: usize = 32;

/// `[████▒▒·|··] 41 % here, 1.2 MiB asked for, 3 sources, 18 s ahead`: whole parts, parts begun, parts
/// missing, and where the player reads.
fn picture(state: &Value) -> String {
    let spans: Vec<bool> = text(state, "spans").bytes().map(|b| b == b'1').collect();
    let total = number(state, "total_bytes");
    let have = number(state, "have_bytes");
    let at = number(state, "playing_at_bytes").min(total);
    let place_of = |bytes: u64| (bytes as f64 / total.max(1) as f64 * PLACES as f64) as usize;
    let mut line = String::from("[");
    for place in 0..PLACES {
        let from = place * spans.len() / PLACES;
        let end = ((place + 1) * spans.len()).div_ceil(PLACES).max(from + 1).min(spans.len());
        let part = spans.get(from..end).unwrap_or_default();
        let here = part.iter().filter(|span| **span).count();
        line.push(match here {
            _ if at > 0 && at < total && place == place_of(at) => '|',
            _ if state["complete"] == true => '█',
            0 => '·',
            n if n == part.len() => '█',
            _ => '▒',
        });
    }
    line.push(']');
    if let Some(why) = state["failed"]["detail"].as_str() {
        return format!("{line} {}", safe(why));
    }
    if state["complete"] == true {
        return format!("{line} all of it is here");
    }
    let percent = have * 100 / total.max(1);
    let asked = human_bytes(number(state, "asked_bytes"));
    let sources = match number(state, "sources") {
        0 => "looking for a source".to_owned(),
        1 => "1 source".to_owned(),
        n => format!("{n} sources"),
    };
    let ahead = state["ahead_s"].as_u64().filter(|seconds| *seconds < 3600);
    let ahead = ahead.map_or_else(String::new, |seconds| format!(", {seconds} s ahead"));
    format!("{line} {percent} % here, {asked} asked for, {sources}{ahead}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_shows_what_is_here_and_where_it_is_read() {
        let mut spans = "1".repeat(16);
        spans.push_str(&"10".repeat(12));
        spans.push_str(&"0".repeat(24));
        let mib = 1 << 20;
        let mut state = json!({
            "spans": spans, "total_bytes": 64 * mib, "have_bytes": 28 * mib, "asked_bytes": mib,
            "playing_at_bytes": 4 * mib, "sources": 3, "ahead_s": 18, "complete": false, "failed": null,
        });
        let line = picture(&state);
        let shown = "[██|█████▒▒▒▒▒▒▒▒▒▒▒▒············]";
        assert_eq!(line, format!("{shown} 43 % here, 1.0 MiB asked for, 3 sources, 18 s ahead"));
        state["complete"] = json!(true);
        assert!(picture(&state).ends_with("] all of it is here"));
        // Before anything is known, and of a film that is shorter than the picture.
        assert!(picture(&json!({})).ends_with("0 % here, 0 B asked for, looking for a source"));
        let short = json!({"spans": "10", "total_bytes": 2 * mib, "have_bytes": mib});
        assert_eq!(picture(&short).chars().filter(|c| *c == '█').count(), PLACES / 2);
    }

    #[test]
    fn a_time_is_a_fragment() {
        assert_eq!(with_time("http://x/media/a", None), "http://x/media/a");
        assert_eq!(with_time("http://x/media/a", Some(750)), "http://x/media/a#t=750");
    }
}
