//! `kith demo`: the main job on real nodes, each a process of its own with its own keys, store and
//! sockets on loopback. Every step is checked; what is printed is what happened. Circuits need more
//! friends than a line of friends has: with seven nodes and more they stand in a ring with chords.

mod circuits;

use crate::cli;
use crate::client::Client;
use crate::commands::out;
use crate::exit::{Context, Exit, Failure};
use crate::publish::Meta;
use crate::terminal::{Style, human_bytes};
use axum::body::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

const SAMPLE: &[u8] = include_bytes!("../assets/sample.mp4");
const NAMES: [&str; 8] = ["Ana", "Bo", "Cem", "Dia", "Eli", "Fay", "Gus", "Hana"];
const TITLE: &str = "A short walk through colours";
/// The deliberate delays, shortened so that nobody waits half an hour for a demonstration.
const SHORTENED: [&str; 4] =
    ["catalogue.batch=1s", "catalogue.spread=1s", "circuit.pace=200ms", "circuit.snapshot=1s"];
/// So many nodes stand in a ring.
const RING: usize = 7;

struct Node {
    name: &'static str,
    child: Child,
    client: Client,
}

/// A folder that goes when the demonstration ends, however it ends.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn new() -> Result<Self, Failure> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("kith-demo-{}", std::process::id()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .context("cannot make a folder for the demonstration")?;
        Ok(Self(path))
    }
}

struct Story {
    started: Instant,
    step: usize,
    style: Style,
}

impl Story {
    fn step(&mut self, what: &str) -> Result<(), Failure> {
        self.step += 1;
        let time = format!("{:5.1} s", self.started.elapsed().as_secs_f64());
        out(&format!("{}  {}. {what}", self.style.dim(&time), self.step))
    }

    fn detail(&self, what: &str) -> Result<(), Failure> {
        out(&format!("            {what}"))
    }
}

fn failed(what: impl Into<String>) -> Failure {
    Failure::new(Exit::Failure, what)
}

/// Who is whose friend, by number: neighbours in a line, or a ring with chords over three, so that
/// every first relay has more than one way on.
fn friendships(count: usize) -> Vec<(usize, usize)> {
    let line = (1..count).map(|right| (right - 1, right));
    if count < RING {
        return line.collect();
    }
    line.chain([(count - 1, 0)]).chain((3..count).map(|far| (far - 3, far))).collect()
}

/// Numbers of the friends of a node.
fn friends_of(friendships: &[(usize, usize)], node: usize) -> Vec<usize> {
    let other = |(a, b): &(usize, usize)| match node {
        n if n == *a => Some(*b),
        n if n == *b => Some(*a),
        _ => None,
    };
    friendships.iter().filter_map(other).collect()
}

/// Runs the demonstration.
pub async fn run(args: &cli::Demo) -> Result<(), Failure> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let folder = Folder::new()?;
    let mut nodes = Vec::new();
    let told = tokio::select! {
        told = tell(args, &folder.0, &mut nodes) => told,
        _ = interrupt.recv() => Err(Failure::new(Exit::Interrupted, "interrupted")),
        _ = terminate.recv() => Err(Failure::new(Exit::Interrupted, "interrupted")),
    };
    if told.is_ok() && !args.exit {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
    for node in &mut nodes {
        let _ = node.client.call(Method::POST, "/api/stop", None).await;
    }
    for node in &mut nodes {
        if tokio::time::timeout(Duration::from_secs(5), node.child.wait()).await.is_err() {
            let _ = node.child.kill().await;
        }
    }
    drop(folder);
    if told.is_ok() && args.exit {
        out("Every step worked.")?;
    }
    told
}

async fn tell(args: &cli::Demo, folder: &Path, nodes: &mut Vec<Node>) -> Result<(), Failure> {
    let style = Style::of_stdout();
    let mut story = Story { started: Instant::now(), step: 0, style };
    let count = usize::from(args.nodes);
    let ring = count >= RING;
    let shape = if ring { "a ring with chords" } else { "a line" };
    out(&style.bold(&format!("{count} nodes on this machine, friends in {shape}. Nothing leaves it.")))?;
    out(&format!("For this demonstration deliberate delays are shortened: {}.", SHORTENED.join(", ")))?;

    for name in NAMES.iter().take(count) {
        nodes.push(start(folder, name).await?);
    }
    let nodes: &[Node] = nodes;
    story.step(&format!("{} are running, each with keys, store and sockets of its own", list(nodes)))?;

    let friendships = friendships(count);
    for (left, right) in &friendships {
        befriend(node(nodes, *left)?, node(nodes, *right)?).await?;
    }
    story.step(&format!("{} pairs became friends, each by one invite", friendships.len()))?;
    story.detail("an invite is one line, works once, and carries the secret of the first handshake")?;

    let watcher = match ring {
        true => Some(circuits::prepare(&mut story, nodes, &friendships).await?),
        false => None,
    };

    let id = publish(node(nodes, 0)?).await?;
    story.step(&format!(
        "Ana published \"{TITLE}\" ({}) for friends and their friends",
        human_bytes(SAMPLE.len() as u64)
    ))?;
    story.detail("sealed with a random key; the blocks alone tell nobody anything")?;

    let cem = node(nodes, 2)?;
    let found = wait_for(cem, &id).await?;
    if found.get("distance") != Some(&json!(2)) {
        return Err(failed(format!("Cem found the video, but not as a friend's friend's: {found}")));
    }
    story.step("Cem, two links away, searched for \"colours\" and found it")?;
    story.detail("the search read what was on Cem's disk already: no query left his node")?;

    let played = stream(cem, &id, "fof").await?;
    let after = traffic(nodes).await?;
    let relay = after.iter().max_by_key(|seen| seen.relayed()).map_or("nobody", |seen| seen.name);
    story.step(&format!(
        "Cem played it through {relay}: first bytes after {} ms, all of it after {} ms",
        played.first.as_millis(),
        played.whole.as_millis()
    ))?;
    story.detail("checked block by block, and equal to Ana's file to the byte")?;
    story.detail(&format!("before it began his node said: {}", played.who_learns))?;

    if let Some(dia) = nodes.get(3).filter(|_| !ring) {
        let results = search(dia).await?;
        if !results.is_empty() {
            return Err(failed("Dia, three links away, found a video that is not for her"));
        }
        story.step("Dia, three links away, searched too and found nothing: it is not for her")?;
    }
    story.step("what each of them could see:")?;
    for line in seen(&after, relay) {
        story.detail(&line)?;
    }
    if let Some(watcher) = watcher {
        circuits::tell(&mut story, nodes, watcher, &id).await?;
    } else {
        story.detail(&format!(
            "so few nodes make no circuit, which hides who asks: kith demo --nodes {RING}"
        ))?;
    }
    if !args.exit {
        out("")?;
        out(&format!("Cem's player address, for this machine only: {}", style.bold(&played.url)))?;
        out("Open it in a browser or with mpv. Ctrl-C ends the demonstration and removes its files.")?;
    }
    Ok(())
}

fn node(nodes: &[Node], number: usize) -> Result<&Node, Failure> {
    nodes.get(number).ok_or_else(|| failed("a node is missing"))
}

fn list(nodes: &[Node]) -> String {
    nodes.iter().map(|n| n.name).collect::<Vec<_>>().join(", ")
}

async fn start(folder: &Path, name: &'static str) -> Result<Node, Failure> {
    let home = folder.join(name);
    let program = std::env::current_exe().context("cannot find the program itself")?;
    let mut command = Command::new(program);
    command.arg("up").arg("--json").args(["--name", name]).arg("--home").arg(&home);
    command.args(["--listen", "127.0.0.1:0", "--web", "127.0.0.1:0"]);
    SHORTENED.iter().for_each(|set| {
        command.args(["--set", set]);
    });
    // A few MiB that are gone again soon need no reserve of free space.
    command.args(["--set", "store.keep_free=0B"]);
    // The demonstration's nodes are not the user's: no setting of hers reaches them.
    for (key, _) in std::env::vars_os().filter(|(k, _)| k.to_string_lossy().starts_with("KITH_")) {
        command.env_remove(key);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    // A terminal's Ctrl-C is for the demonstration, which then stops its nodes in order.
    command.process_group(0);
    let mut child = command.spawn().context("cannot start a node")?;
    let stdout = child.stdout.take().ok_or_else(|| failed("a node has no output"))?;
    let mut line = String::new();
    let mut stdout = BufReader::new(stdout);
    match tokio::time::timeout(Duration::from_secs(20), stdout.read_line(&mut line)).await {
        Ok(Ok(n)) if n > 0 => {}
        _ => return Err(failed(format!("{name}'s node did not start"))),
    }
    let ready: Value =
        serde_json::from_str(&line).map_err(|_| failed(format!("{name}'s node said nothing useful")))?;
    let socket = ready.get("socket").and_then(Value::as_str).unwrap_or_default();
    Ok(Node { name, child, client: Client::new(socket.into()) })
}

async fn befriend(left: &Node, right: &Node) -> Result<(), Failure> {
    let invite = left.client.call(Method::POST, "/api/invites", Some(json!({}))).await?;
    let added =
        right.client.call(Method::POST, "/api/friends", Some(json!({"invite": invite["invite"]}))).await?;
    match added.get("state").and_then(Value::as_str) {
        Some("online") => Ok(()),
        _ => Err(failed(format!("{} and {} did not become friends", left.name, right.name))),
    }
}

async fn publish(node: &Node) -> Result<String, Failure> {
    let meta = Meta {
        title: TITLE.into(),
        text: "A sample that came with kith".into(),
        tags: vec!["sample".into()],
        to: "fof".into(),
        keep_metadata: true,
        ..Meta::default()
    };
    let header = serde_json::to_string(&meta).map_err(|_| failed("the description cannot be written"))?;
    let name = crate::api::PUBLISH_HEADER;
    let (to, chunks) = tokio::sync::mpsc::channel(1);
    to.send(Ok(Bytes::from_static(SAMPLE))).await.map_err(|_| failed("the sample cannot be sent"))?;
    drop(to);
    let len = Some(SAMPLE.len() as u64);
    let value = node.client.upload("/api/publish", (name, header), len, chunks, |_| {}).await?;
    value.get("id").and_then(Value::as_str).map(str::to_owned).ok_or_else(|| failed("publishing gave no id"))
}

async fn search(node: &Node) -> Result<Vec<Value>, Failure> {
    let answer = node.client.call(Method::GET, "/api/search?words=colours", None).await?;
    Ok(answer.get("results").and_then(Value::as_array).cloned().unwrap_or_default())
}

async fn wait_for(node: &Node, id: &str) -> Result<Value, Failure> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = search(node).await?.into_iter().find(|v| v.get("id") == Some(&json!(id))) {
            return Ok(found);
        }
        if Instant::now() > until {
            return Err(Failure::new(
                Exit::TimedOut,
                format!("{} did not hear of the video within 20 s", node.name),
            ));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A video that was played whole.
struct Played {
    url: String,
    /// What the node said of it before.
    who_learns: String,
    /// Until the first bytes came.
    first: Duration,
    whole: Duration,
}

/// Plays the video by its stream address as a player would, while it arrives.
async fn stream(node: &Node, id: &str, route: &str) -> Result<Played, Failure> {
    let started = Instant::now();
    let body = json!({"id": id, "route": route});
    let opened = node.client.call(Method::POST, "/api/streams", Some(body)).await?;
    let text = |name: &str| opened.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (url, who_learns) = (text("url"), text("who_learns"));
    let rest = url.strip_prefix("http://").ok_or_else(|| failed("the stream address is odd"))?;
    let (host, path) = rest.split_once('/').ok_or_else(|| failed("the stream address is odd"))?;
    let mut connection =
        tokio::net::TcpStream::connect(host).await.context("cannot reach the stream address")?;
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let (mut first, mut buf) = (None, vec![0; 64 * 1024]);
    loop {
        let read = tokio::time::timeout(Duration::from_secs(20), connection.read(&mut buf)).await;
        let n = read.map_err(|_| Failure::new(Exit::TimedOut, "the stream stalled"))??;
        if n == 0 {
            break;
        }
        answer.extend_from_slice(buf.get(..n).unwrap_or_default());
        if first.is_none() && body_of(&answer).is_some_and(|b| !b.is_empty()) {
            first = Some(started.elapsed());
        }
    }
    let whole = started.elapsed();
    if body_of(&answer) != Some(SAMPLE) {
        let what = format!("what {} played is not what Ana published", node.name);
        return Err(Failure::new(Exit::Verification, what));
    }
    Ok(Played { url, who_learns, first: first.unwrap_or(whole), whole })
}

fn body_of(answer: &[u8]) -> Option<&[u8]> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    answer.get(end + 4..)
}

/// A friend and the bytes sent, received and relayed.
type Counted = (String, u64, u64, u64);

struct Seen {
    name: &'static str,
    friends: Vec<Counted>,
}

impl Seen {
    fn sum(&self, pick: fn(&Counted) -> u64) -> u64 {
        self.friends.iter().map(pick).sum()
    }

    fn sent(&self) -> u64 {
        self.sum(|f| f.1)
    }

    fn received(&self) -> u64 {
        self.sum(|f| f.2)
    }

    fn relayed(&self) -> u64 {
        self.sum(|f| f.3)
    }
}

async fn traffic(nodes: &[Node]) -> Result<Vec<Seen>, Failure> {
    let mut all = Vec::new();
    for node in nodes {
        let friends = node.client.call(Method::GET, "/api/friends", None).await?;
        let number = |f: &Value, name: &str| f.get(name).and_then(Value::as_u64).unwrap_or(0);
        let friends = friends.as_array().into_iter().flatten().map(|f| {
            let name = f.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            (name, number(f, "sent_bytes"), number(f, "received_bytes"), number(f, "relayed_bytes"))
        });
        all.push(Seen { name: node.name, friends: friends.collect() });
    }
    Ok(all)
}

/// One line a node, with figures from its own counters.
fn seen(all: &[Seen], relay: &str) -> Vec<String> {
    all.iter()
        .map(|node| {
            let names = node.friends.iter().map(|f| f.0.as_str()).collect::<Vec<_>>().join(", ");
            let (sent, received, relayed) = (node.sent(), node.received(), node.relayed());
            // Circuits are being built meanwhile: their few cells are not the video.
            let video = |bytes: u64| bytes >= SAMPLE.len() as u64;
            let did = if video(relayed) {
                format!(
                    "relayed {} of sealed cells; knows who asked, who answered and which video",
                    human_bytes(relayed)
                )
            } else if video(sent) {
                format!(
                    "sent {}; knows that {relay} or a friend of {relay} wanted it, not which",
                    human_bytes(sent)
                )
            } else if video(received) {
                format!(
                    "received {}; knows that {relay} or a friend of {relay} has it, not which",
                    human_bytes(received)
                )
            } else {
                "carried nothing of the video and saw nothing of this".to_owned()
            };
            format!("{:4} knows the addresses of {names} only; {did}", node.name)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_has_chords_and_a_line_has_none() {
        assert_eq!(friendships(4), [(0, 1), (1, 2), (2, 3)]);
        let ring = friendships(7);
        assert_eq!(ring.len(), 11);
        let chords = [(0, 3), (1, 4), (2, 5), (3, 6)];
        assert!(chords.iter().all(|chord| ring.contains(chord)) && ring.contains(&(6, 0)));
        assert_eq!(friends_of(&ring, 5), [4, 6, 2]);
        // Cem is two links away in both.
        assert!(friends_of(&ring, 2).contains(&1) && !friends_of(&ring, 2).contains(&0));
    }
}
