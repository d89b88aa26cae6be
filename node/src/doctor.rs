//! What is wrong with a node, in plain words: from facts to findings. Pure; who gathers the facts is
//! `kith doctor` (files, disk, clock) and the node itself (friends, addresses).
//!
//! Invariant: every finding that is wrong says what to do.

use crate::terminal::{human_bytes, human_duration};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use utoipa::ToSchema;

/// Below this much free space something must be done, below ten times as much it is time to think.
const LITTLE_SPACE: u64 = 100 * 1024 * 1024;
/// No node of this program ran before 2026.
const EARLIEST_S: u64 = 1_767_225_600;

/// Why an address did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DoctorNoAnswer)]
pub enum NoAnswer {
    /// The machine is there; nothing listens on that port.
    Refused,
    /// Nothing came back.
    TimedOut,
    /// There is no way to it, or no such name.
    Unreachable,
    /// It needs Tor, which is not ready.
    TorNotReady,
    /// This node does not use such addresses: onion services without Tor, others with nothing but Tor.
    NotUsed,
}

/// How calling a friend went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DoctorDialResult)]
pub enum DialResult {
    /// Something answered; whether a link came of it is seen elsewhere.
    Connected,
    /// No address answered: each with its reason.
    Failed(Vec<(String, NoAnswer)>),
}

/// The last call to a friend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DoctorDial)]
pub struct Dial {
    /// Unix seconds.
    pub at: u64,
    /// How it went.
    pub result: DialResult,
}

/// What is known of a friend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DoctorFriend)]
pub struct Friend {
    /// Name here.
    pub name: String,
    /// A link stands.
    pub online: bool,
    /// Blocked here.
    pub blocked: bool,
    /// An invite that waits for its inviter: when it expires, in Unix seconds.
    pub invite_expires: Option<u64>,
    /// When a link stood last, in Unix seconds.
    pub met: Option<u64>,
    /// Known addresses.
    pub addresses: Vec<String>,
    /// The last call since the node started.
    pub last_dial: Option<Dial>,
    /// The keys of both sides do not fit.
    pub out_of_step: Option<OutOfStep>,
    /// The friend's program speaks this other major version of the protocol.
    pub other_version: Option<u16>,
    /// Somebody used the invite that made this friend once more.
    pub invite_reused: bool,
    /// This node was restored from a backup and has made no new keys with this friend since.
    #[serde(default)]
    pub restored: bool,
}

/// Whose keys are the older ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DoctorOutOfStep)]
pub enum OutOfStep {
    /// The friend's.
    Theirs,
    /// This node's.
    Ours,
}

/// What a running node knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DoctorNode)]
pub struct Node {
    /// Why nothing is stored any more.
    pub read_only: Option<String>,
    /// What is said of a full disk.
    #[serde(default)]
    pub disk_full: Option<String>,
    /// Videos with blocks that are damaged here: what there is to say about each.
    #[serde(default)]
    pub damaged: Vec<String>,
    /// The journal had lost records when the node started.
    #[serde(default)]
    pub journal_damaged: bool,
    /// How far a friend's clock differs, if it is much.
    pub clock_skew_s: Option<i64>,
    /// Where it listens.
    pub listen: Vec<String>,
    /// What invites say.
    pub advertised: Vec<String>,
    /// How Tor stands.
    #[serde(default)]
    pub tor: Option<crate::transport::tor::View>,
    /// Circuits, unless nothing here waits for them.
    #[serde(default)]
    pub circuits: Option<Circuits>,
    /// Friends.
    pub friends: Vec<Friend>,
}

/// What matters of circuits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DoctorCircuits)]
pub struct Circuits {
    /// Nothing is fetched without them.
    pub strict: bool,
    /// Relays that an own circuit must have.
    pub relays: u8,
    /// There are too few for that.
    pub too_few_relays: bool,
    /// How long no link to the first relay has stood, if none stands.
    pub guard_away_s: Option<u64>,
}

/// A file or folder whose permissions are not as they must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loose {
    /// Which.
    pub path: String,
    /// What is wrong with it.
    pub what: String,
    /// What mends it.
    pub act: String,
}

/// Everything that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Unix seconds here.
    pub now: u64,
    /// Problems of the configuration, each with file and line.
    pub config: Vec<String>,
    /// Whether there is a store in this home.
    pub initialised: bool,
    /// Permissions that are wrong.
    pub loose: Vec<Loose>,
    /// Free bytes on the store's disk, if the system says so.
    pub free_bytes: Option<u64>,
    /// The running node, if it runs.
    pub node: Option<Node>,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Fine,
    /// Good to know.
    Note,
    /// Something to do.
    Wrong,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about: `config`, `files`, `disk`, `clock`, `node`, `network`, `circuits`, or a friend.
    pub about: String,
    /// How much it matters.
    pub level: Level,
    /// What is the case.
    pub what: String,
    /// What that means.
    pub why: String,
    /// What to do, mostly a command; empty if nothing needs doing.
    #[serde(rename = "do")]
    pub act: String,
}

fn finding(about: &str, level: Level, what: impl Into<String>, why: &str, act: impl Into<String>) -> Finding {
    Finding { about: about.into(), level, what: what.into(), why: why.into(), act: act.into() }
}

/// All findings, in the order in which they should be mended.
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let mut out = Vec::new();
    for problem in &facts.config {
        let why = "a node does not start with it";
        out.push(finding("config", Level::Wrong, problem.as_str(), why, "kith config validate"));
    }
    for loose in &facts.loose {
        let why = "others on this machine could read or replace the node's secrets";
        out.push(finding(
            "files",
            Level::Wrong,
            format!("{} {}", loose.path, loose.what),
            why,
            loose.act.as_str(),
        ));
    }
    out.extend(facts.free_bytes.and_then(disk));
    out.extend(clock(facts));
    out.extend(running(facts));
    if let Some(node) = &facts.node {
        out.extend(stored(node));
        out.extend(network(node));
        out.extend(tor(node));
        out.extend(node.circuits.as_ref().and_then(circuits));
        out.extend(node.friends.iter().map(|f| friend(f, facts.now)));
    }
    out
}

/// What the disk lost.
fn stored(node: &Node) -> Vec<Finding> {
    let mut out = Vec::new();
    if node.journal_damaged {
        let why = "the disk lost some of what the node must remember, and nothing here says what";
        let act = "check the disk (dmesg, smartctl); if something is missing, kith restore a backup; \
                   else kith store verify --accept-loss";
        out.push(finding("store", Level::Wrong, "records of the journal are lost", why, act));
    }
    for damaged in &node.damaged {
        let why = "the disk did not keep what was written; the video is not offered until it is whole again";
        let act = "check the disk (dmesg, smartctl); kith store verify tries again at once";
        out.push(finding("store", Level::Wrong, damaged.as_str(), why, act));
    }
    out
}

fn disk(free: u64) -> Option<Finding> {
    let shown = human_bytes(free);
    let why = "publishing and fetching stop when the disk is full";
    let act = "make room on this disk, or `kith video rm ID`";
    match free {
        free if free < LITTLE_SPACE => {
            Some(finding("disk", Level::Wrong, format!("only {shown} are free"), why, act))
        }
        free if free < 10 * LITTLE_SPACE => {
            Some(finding("disk", Level::Note, format!("{shown} are free"), why, act))
        }
        _ => None,
    }
}

fn clock(facts: &Facts) -> Option<Finding> {
    let act = "set the clock of this machine, for example with `timedatectl set-ntp true`";
    if facts.now < EARLIEST_S {
        let why = "invites and certificates look as if they came from the future";
        return Some(finding("clock", Level::Wrong, "this machine's clock is years behind", why, act));
    }
    let skew = facts.node.as_ref()?.clock_skew_s?;
    let by = human_duration(Duration::from_secs(skew.unsigned_abs()));
    let why = "one of the two clocks is wrong; entries and invites expire at the wrong time";
    Some(finding("clock", Level::Wrong, format!("a friend's clock differs by {by}"), why, act))
}

fn running(facts: &Facts) -> Option<Finding> {
    match &facts.node {
        None if !facts.initialised => {
            let why = "there is no identity and no store in this home";
            Some(finding("node", Level::Wrong, "there is no node here yet", why, "kith up"))
        }
        None => {
            let why = "friends cannot reach it, and nothing can be fetched";
            Some(finding("node", Level::Wrong, "the node is not running", why, "kith up"))
        }
        Some(Node { read_only: Some(why), .. }) => {
            let act = "check the disk (dmesg, df), then restart: kith stop; kith up";
            Some(finding("node", Level::Wrong, "the store is read-only", why, act))
        }
        Some(Node { disk_full: Some(full), .. }) => {
            let why = "new sessions, publishing and fetching wait; what is stored is still served";
            let act = "make room on this disk: `kith store gc`, or `kith video rm ID`; no restart is needed";
            Some(finding("node", Level::Wrong, full.as_str(), why, act))
        }
        Some(_) => None,
    }
}

/// From where an address can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Machine,
    Network,
    World,
}

fn scope(address: &str) -> Scope {
    let Ok(addr) = address.parse::<SocketAddr>() else { return Scope::World };
    match addr.ip() {
        ip if ip.is_loopback() => Scope::Machine,
        IpAddr::V4(ip) if ip.is_private() || ip.is_link_local() => Scope::Network,
        IpAddr::V6(ip) if ip.is_unique_local() || ip.is_unicast_link_local() => Scope::Network,
        _ => Scope::World,
    }
}

fn tor(node: &Node) -> Option<Finding> {
    let tor = node.tor.as_ref().filter(|tor| !["off", "ready"].contains(&tor.state.as_str()))?;
    let level = if tor.state == "failed" { Level::Wrong } else { Level::Note };
    let why = "friends are not called through it and cannot call, and nothing takes its place";
    let act = "it tries again by itself; where Tor is blocked, name bridges (tor.bridges in config.toml)";
    Some(finding("tor", level, tor.told(), why, act))
}

fn network(node: &Node) -> Option<Finding> {
    if node.tor.as_ref().is_some_and(|tor| tor.onion.is_some()) {
        return None;
    }
    let Some(first) = node.listen.first() else {
        let why = "links come to be only with friends whom this node can call";
        let act = match node.tor.as_ref().is_some_and(|tor| tor.mode == "only") {
            true => "name the onion service of your Tor with tor.onion if friends should call",
            false => "start with --listen 0.0.0.0:5483 if friends should call",
        };
        return Some(finding("network", Level::Note, "this node listens nowhere", why, act));
    };
    let widest = node.advertised.iter().map(|a| scope(a)).max_by_key(|s| *s as u8);
    let what = match widest {
        Some(Scope::World) => return None,
        Some(Scope::Network) => "invites name addresses of your own network only",
        _ => "invites name addresses of this machine only",
    };
    let port = first.rsplit_once(':').map_or("5483", |(_, port)| port);
    let why = "friends elsewhere cannot call this node; it works if this node can call them";
    let act = format!(
        "forward TCP port {port} in your router and start with --advertise YOUR-PUBLIC-ADDRESS:{port}"
    );
    Some(finding("network", Level::Note, what, why, act))
}

/// A first relay that is away for less is no matter.
const GUARD_AWAY_S: u64 = 30 * 60;

fn circuits(circuits: &Circuits) -> Option<Finding> {
    let level = if circuits.strict { Level::Wrong } else { Level::Note };
    let why = if circuits.strict {
        "in strict nothing can be fetched without circuits"
    } else {
        "what friends' friends share cannot be fetched without a common friend knowing"
    };
    let relays = circuits.relays;
    let (what, act) = match circuits.guard_away_s {
        _ if circuits.too_few_relays => (
            format!("there are too few friends of friends to make circuits of {relays} relays"),
            "make more friends who have friends of their own, and ask them to relay (circuit.relay = on)",
        ),
        Some(away) if away >= GUARD_AWAY_S => (
            format!(
                "the first relay of your circuits is off line for {}",
                human_duration(Duration::from_secs(away))
            ),
            "ask your close friends whether their nodes run; it is not replaced for being away, because each \
             change would tell more",
        ),
        _ => return None,
    };
    Some(finding("circuits", level, what, why, act))
}

fn friend(friend: &Friend, now: u64) -> Finding {
    let name = friend.name.as_str();
    let quoted = shell_word(name);
    let say = |level, what: String, why: &str, act: String| finding(name, level, what, why, act);
    if friend.blocked {
        let act = format!("kith friend unblock {quoted}");
        return say(Level::Note, "blocked by you".into(), "this node stays silent to this friend", act);
    }
    if friend.invite_reused {
        let why = "somebody else has that invite: whoever used it first is the friend you have";
        let act = format!("compare fingerprints: kith friend verify {quoted}");
        return say(Level::Wrong, "the invite that made this friend was used once more".into(), why, act);
    }
    if friend.online && friend.out_of_step == Some(OutOfStep::Theirs) {
        // The one that is on line has the present keys: the other one is older.
        let what = "somebody else calls with older keys of this friend, who is on line".into();
        let why = "their node runs twice: they restored a backup beside it, or somebody has a copy of it";
        let act = "ask them at once; if it is not theirs, they must run `kith id rotate`; allow nothing here"
            .into();
        return say(Level::Wrong, what, why, act);
    }
    if friend.online {
        return say(Level::Fine, "online".into(), "", String::new());
    }
    if friend.restored {
        let why = "the backup does not hold the keys of the last links, so that a thief gets no link with it";
        let act = "ask them to run, on their side: kith friend verify YOUR-NAME-THERE --restored".into();
        return say(Level::Wrong, "waits for this friend since you restored a backup".into(), why, act);
    }
    if let Some(version) = friend.other_version {
        let what = format!("their program speaks version {version} of the protocol");
        let act = "update the older of both programs: kith version".into();
        return say(Level::Wrong, what, "the two programs do not understand each other", act);
    }
    if let Some(side) = friend.out_of_step {
        let why = match side {
            OutOfStep::Theirs => "their node was restored from a backup, or somebody uses a copy of it",
            OutOfStep::Ours => "this node was restored from a backup, or somebody uses a copy of it",
        };
        let act = format!("ask them; if it was a restore: kith friend verify {quoted} --restored");
        return say(Level::Wrong, "the keys of both sides are out of step".into(), why, act);
    }
    if friend.invite_expires.is_some_and(|at| at <= now) {
        let act = format!("kith friend remove {quoted}, then ask for a new invite");
        let why = "the inviter could not be reached while it was valid";
        return say(Level::Wrong, "the invite that you used has expired".into(), why, act);
    }
    if friend.addresses.is_empty() {
        let why = "this node cannot call; only the friend can";
        let act = "ask the friend for a new invite, or wait until the friend's node calls".into();
        return say(Level::Wrong, "no address is known".into(), why, act);
    }
    let seen = friend.met.map_or_else(|| "never met".into(), |at| format!("last met {} ago", ago(at, now)));
    let Some(dial) = &friend.last_dial else {
        let act = "wait a minute and ask again".into();
        return say(Level::Note, format!("not called yet ({seen})"), "the node has just started", act);
    };
    let called = ago(dial.at, now);
    match &dial.result {
        DialResult::Connected => silent(friend, &seen, &say),
        DialResult::Failed(tried) => {
            let each: Vec<String> =
                tried.iter().map(|(addr, why)| format!("{addr} {}", answer(*why))).collect();
            let what = format!("offline, {seen}; called {called} ago: {}", each.join(", "));
            let (why, act) = unanswered(tried);
            say(Level::Wrong, what, why, act.into())
        }
    }
}

fn silent(friend: &Friend, seen: &str, say: &impl Fn(Level, String, &str, String) -> Finding) -> Finding {
    if friend.invite_expires.is_some() || friend.met.is_none() {
        let why = "their node answers, but does not know this one yet";
        let act = "give them your certificate (kith id), so that they add it: kith friend add -".into();
        return say(Level::Note, "waiting to be added back".into(), why, act);
    }
    let why = "something answers there and stays silent: they removed or blocked you, their node was restored \
               from a backup, or another machine has that address now";
    let act = "ask them; if they did not mean it, remove each other and make a new invite".into();
    say(Level::Wrong, format!("offline, {seen}; answered but silent"), why, act)
}

const fn answer(why: NoAnswer) -> &'static str {
    match why {
        NoAnswer::Refused => "refused",
        NoAnswer::TimedOut => "did not answer",
        NoAnswer::Unreachable => "cannot be reached",
        NoAnswer::TorNotReady => "waits for Tor",
        NoAnswer::NotUsed => "is not used by this node",
    }
}

fn unanswered(tried: &[(String, NoAnswer)]) -> (&'static str, &'static str) {
    let any = |what| tried.iter().any(|(_, why)| *why == what);
    if any(NoAnswer::Refused) {
        let why = "the machine is there, but no node listens on that port";
        return (why, "ask whether their node runs, and on which port (kith status)");
    }
    if any(NoAnswer::TorNotReady) {
        return ("Tor is not ready", "see how it stands: kith net tor");
    }
    if tried.iter().all(|(_, why)| *why == NoAnswer::NotUsed) {
        let why = "these addresses are of a kind that this node does not use: an onion address needs Tor, and with \
                   nothing but Tor only onion addresses are called";
        let act = match tried.iter().any(|(addr, _)| addr.contains(".onion:")) {
            true => "start with --tor on (or only), or ask for an invite that fits",
            false => "ask them to use Tor as well, and for an invite that says so (kith friend invite --tor)",
        };
        return (why, act);
    }
    if any(NoAnswer::TimedOut) {
        let why = "the machine is off, a router does not forward the port, or the address has changed";
        return (
            why,
            "ask whether their node runs and their router forwards its port; else ask for a new invite",
        );
    }
    (
        "there is no way to these addresses from here",
        "check this machine's network; else ask for a new invite",
    )
}

fn ago(at: u64, now: u64) -> String {
    human_duration(Duration::from_secs(now.saturating_sub(at)))
}

/// A name as a shell takes it.
fn shell_word(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    if name.chars().all(plain) { name.into() } else { format!("'{}'", name.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn bo(last: Option<DialResult>) -> Friend {
        Friend {
            name: "Bo".into(),
            met: Some(NOW - 7_200),
            addresses: vec!["192.0.2.1:5483".into()],
            last_dial: last.map(|result| Dial { at: NOW - 90, result }),
            ..Friend::default()
        }
    }

    fn failed(why: NoAnswer) -> Option<DialResult> {
        Some(DialResult::Failed(vec![("192.0.2.1:5483".into(), why)]))
    }

    #[track_caller]
    fn check(facts: &Friend, level: Level, what: &str, act: &str) {
        let found = friend(facts, NOW);
        assert_eq!((found.about.as_str(), found.level), ("Bo", level), "{found:?}");
        assert!(found.what.contains(what) && found.act.contains(act), "{found:?}");
        assert!(level != Level::Wrong || !found.act.is_empty() && !found.why.is_empty(), "{found:?}");
    }

    #[test]
    fn each_state_of_a_friend_has_its_finding() {
        check(&Friend { online: true, ..bo(None) }, Level::Fine, "online", "");
        check(
            &Friend { blocked: true, ..bo(failed(NoAnswer::Refused)) },
            Level::Note,
            "blocked by you",
            "friend unblock Bo",
        );
        check(
            &Friend { addresses: Vec::new(), ..bo(None) },
            Level::Wrong,
            "no address is known",
            "new invite",
        );
        check(&bo(None), Level::Note, "not called yet (last met 2 h ago)", "wait");
        check(&Friend { met: None, ..bo(None) }, Level::Note, "never met", "wait");
        check(
            &bo(failed(NoAnswer::Refused)),
            Level::Wrong,
            "called 1 min 30 s ago: 192.0.2.1:5483 refused",
            "which port",
        );
        check(
            &bo(failed(NoAnswer::TimedOut)),
            Level::Wrong,
            "192.0.2.1:5483 did not answer",
            "forwards its port",
        );
        check(&bo(failed(NoAnswer::Unreachable)), Level::Wrong, "cannot be reached", "network");
        check(&bo(Some(DialResult::Connected)), Level::Wrong, "answered but silent", "new invite");
        check(
            &Friend { met: None, ..bo(Some(DialResult::Connected)) },
            Level::Note,
            "waiting to be added back",
            "kith id",
        );
        let invited =
            |expires| Friend { met: None, invite_expires: Some(expires), ..bo(failed(NoAnswer::TimedOut)) };
        check(&invited(NOW - 1), Level::Wrong, "expired", "kith friend remove Bo");
        check(&invited(NOW + 1), Level::Wrong, "never met; called", "forwards");
    }

    #[test]
    fn restores_and_clones_are_told_on_both_sides() {
        let theirs = Friend { out_of_step: Some(OutOfStep::Theirs), ..bo(None) };
        check(&theirs, Level::Wrong, "out of step", "kith friend verify Bo --restored");
        check(&Friend { online: true, ..theirs }, Level::Wrong, "older keys", "kith id rotate");
        let ours = Friend { restored: true, out_of_step: Some(OutOfStep::Ours), ..bo(None) };
        check(&ours, Level::Wrong, "since you restored", "friend verify YOUR-NAME-THERE --restored");
        check(&Friend { online: true, ..ours }, Level::Fine, "online", "");
    }

    #[test]
    fn names_are_words_of_a_shell() {
        assert_eq!(shell_word("Zoë-2"), "Zoë-2");
        assert_eq!(shell_word("Ana 2"), "'Ana 2'");
        assert_eq!(shell_word("it's; rm"), "'it'\\''s; rm'");
    }

    fn healthy() -> Facts {
        let node = Node {
            listen: vec!["0.0.0.0:5483".into()],
            advertised: vec!["198.51.100.7:5483".into()],
            ..Node::default()
        };
        Facts {
            now: NOW,
            initialised: true,
            free_bytes: Some(u64::MAX),
            node: Some(node),
            ..Facts::default()
        }
    }

    #[track_caller]
    fn only(facts: &Facts, about: &str, level: Level, what: &str, act: &str) {
        let found = findings(facts);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].about.as_str(), found[0].level), (about, level), "{found:?}");
        assert!(found[0].what.contains(what) && found[0].act.contains(act), "{found:?}");
    }

    fn with(change: impl FnOnce(&mut Facts)) -> Facts {
        let mut facts = healthy();
        change(&mut facts);
        facts
    }

    fn with_node(change: impl FnOnce(&mut Node)) -> Facts {
        with(|f| change(f.node.as_mut().unwrap()))
    }

    #[test]
    fn each_fault_of_a_node_has_its_finding() {
        assert_eq!(findings(&healthy()), []);
        let config = with(|f| f.config = vec!["config.toml:3: x".into()]);
        only(&config, "config", Level::Wrong, ":3:", "kith config validate");
        let loose = Loose { path: "k".into(), what: "has mode 644".into(), act: "chmod 600 k".into() };
        only(&with(|f| f.loose = vec![loose]), "files", Level::Wrong, "k has mode 644", "chmod 600 k");
        only(&with(|f| f.free_bytes = Some(1 << 20)), "disk", Level::Wrong, "only 1.0 MiB", "make room");
        only(&with(|f| f.free_bytes = Some(1 << 29)), "disk", Level::Note, "512.0 MiB", "make room");
        only(&with(|f| f.now = 5), "clock", Level::Wrong, "years behind", "set the clock");
        only(&with(|f| f.node = None), "node", Level::Wrong, "not running", "kith up");
        only(
            &with(|f| (f.node, f.initialised) = (None, false)),
            "node",
            Level::Wrong,
            "no node here",
            "kith up",
        );
        only(
            &with_node(|n| n.clock_skew_s = Some(-7_200)),
            "clock",
            Level::Wrong,
            "differs by 2 h",
            "set the clock",
        );
        only(&with_node(|n| n.read_only = Some("x".into())), "node", Level::Wrong, "read-only", "restart");
    }

    #[test]
    fn what_circuits_lack_is_told_and_is_wrong_where_nothing_goes_without_them() {
        let with = |circuits: Circuits| with_node(|n| n.circuits = Some(circuits));
        let few = Circuits { relays: 3, too_few_relays: true, ..Circuits::default() };
        only(&with(few.clone()), "circuits", Level::Note, "circuits of 3 relays", "more friends");
        only(&with(Circuits { strict: true, ..few }), "circuits", Level::Wrong, "too few", "more friends");
        let away = |seconds| Circuits { guard_away_s: Some(seconds), ..Circuits::default() };
        only(&with(away(7_200)), "circuits", Level::Note, "off line for 2 h", "close friends");
        assert_eq!(findings(&with(away(GUARD_AWAY_S - 1))), []);
        assert_eq!(findings(&with(Circuits::default())), []);
    }

    #[test]
    fn the_port_to_forward_is_named_when_only_neighbours_can_call() {
        let advertise = |addr: &str| with_node(|n| n.advertised = vec![addr.into()]);
        only(&advertise("127.0.0.1:9"), "network", Level::Note, "this machine only", "port 5483");
        only(&advertise("[::1]:9"), "network", Level::Note, "this machine only", "port 5483");
        only(&advertise("192.168.1.5:9"), "network", Level::Note, "your own network only", "--advertise");
        only(&advertise("[fd00::1]:9"), "network", Level::Note, "your own network only", "--advertise");
        assert_eq!(findings(&advertise("kith.example.org:9")), []);
        only(&with_node(|n| n.listen.clear()), "network", Level::Note, "listens nowhere", "--listen");
    }
}
