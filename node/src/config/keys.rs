//! The table of all keys: name, default, words for people, parser. The parsers that more than one
//! line needs stand below it.

use super::{Given, KeySpec, LogLevel, MAX_LISTEN, MILLISECOND, NOT_ALLOWED, Refusal, SECOND, Tor, size};
use crate::rates::{self, Window};
use crate::web::texts::LANGUAGES;
use kith_crypto::cert::{Address, MAX_ADDRS, MAX_NAME_LEN};
use kith_crypto::onion_address::OnionAddress;
use kith_crypto::text;
use kith_onion::{Cover, Privacy};
use std::net::SocketAddr;
use std::time::Duration;

/// Every key there is, in the order of `config.toml`.
pub const KEYS: &[KeySpec] = &[
    KeySpec {
        name: "name",
        default: "\"kith\"",
        comment: "The name that friends see first; by default that of the user.",
        allowed: "1 to 64 bytes of text without control or invisible characters, no space at the ends",
        live: false,
        parse: |config, given| name(given).map(|value| config.name = value),
    },
    KeySpec {
        name: "listen",
        default: "[\"0.0.0.0:5483\", \"[::]:5483\"]",
        comment: "Where friends can connect; [] for nowhere. Port 0 takes a free one.",
        allowed: "up to 16 of ADDR:PORT, such as 0.0.0.0:5483 or [::1]:0",
        live: false,
        parse: |config, given| {
            given.list(MAX_LISTEN, |one| one.parse().ok()).map(|value| config.listen = value)
        },
    },
    KeySpec {
        name: "advertise",
        default: "[]",
        comment: "What invites say about where this node is; [] for the addresses of the interfaces.",
        allowed: "up to 8 of HOST:PORT, such as kith.example.org:5483 or [2001:db8::1]:5483",
        live: false,
        parse: |config, given| given.list(MAX_ADDRS, host_and_port).map(|value| config.advertise = value),
    },
    KeySpec {
        name: "web",
        default: "\"127.0.0.1:5484\"",
        comment: "Where the page and the stream addresses are, on this machine only.\nThe next free port is taken if this one is in use.",
        allowed: "ADDR:PORT on loopback, such as 127.0.0.1:5484 or [::1]:0",
        live: false,
        parse: |config, given| loopback(given).map(|value| config.web = value),
    },
    KeySpec {
        name: "tor.mode",
        default: "\"off\"",
        comment: "Whether Tor is used; also `kith up --tor`. on: friends can also reach you at an onion\naddress, and are called there when their other addresses do not answer.\nonly: nothing but Tor. No friend learns your IP address, and invites and certificates\nhold none.",
        allowed: "off, on or only",
        live: false,
        parse: |config, given| tor(given).map(|value| config.tor.mode = value),
    },
    KeySpec {
        name: "tor.bridges",
        default: "[]",
        comment: "Bridges to go through where Tor is blocked or must not be seen: lines as\nhttps://bridges.torproject.org gives them out.",
        allowed: "up to 32 bridge lines",
        live: false,
        parse: |config, given| {
            given.list(MAX_BRIDGES, |line| line_of_text(line, 1024)).map(|value| config.tor.bridges = value)
        },
    },
    KeySpec {
        name: "tor.transports",
        default: "[]",
        comment: "Programs of pluggable transports that bridges need.",
        allowed: "up to 8 of NAMES=PATH, such as obfs4=/usr/bin/lyrebird or obfs4+webtunnel=/usr/bin/lyrebird",
        live: false,
        parse: |config, given| given.list(8, transport).map(|value| config.tor.transports = value),
    },
    KeySpec {
        name: "tor.vanguards",
        default: "\"auto\"",
        comment: "How far the onion service and calls guard themselves against being found by who makes\nmany circuits to them: more fixed relays, longer ways. auto leaves it to the client, which takes lite for now;\nfull is meant for services that stand for months.",
        allowed: "auto, lite, full or off",
        live: false,
        parse: |config, given| {
            one_of(given, &["auto", "lite", "full", "off"]).map(|value| config.tor.vanguards = value)
        },
    },
    KeySpec {
        name: "tor.socks",
        default: "\"\"",
        comment: "The SOCKS5 proxy of another Tor (such as 127.0.0.1:9050) instead of the client inside\nthis program. Then tor.onion and tor.listen say how friends come in.",
        allowed: "nothing, or ADDR:PORT",
        live: false,
        parse: |config, given| {
            optional(given, |text| text.parse().ok()).map(|value| config.tor.socks = value)
        },
    },
    KeySpec {
        name: "tor.onion",
        default: "\"\"",
        comment: "The onion service that such a Tor keeps for this node, forwarded to tor.listen\n(in torrc: HiddenServiceDir, HiddenServicePort 5483 127.0.0.1:5485).",
        allowed: "nothing, or ADDRESS.onion:PORT",
        live: false,
        parse: |config, given| {
            let onion = |text: &str| host_and_port(text).filter(Address::is_onion);
            optional(given, onion).map(|value| config.tor.onion = value)
        },
    },
    KeySpec {
        name: "tor.listen",
        default: "\"127.0.0.1:5485\"",
        comment: "Where such a Tor forwards to; opened only with tor.onion.",
        allowed: "ADDR:PORT on loopback",
        live: false,
        parse: |config, given| loopback(given).map(|value| config.tor.listen = value),
    },
    KeySpec {
        name: "tor.network",
        default: "\"\"",
        comment: "A file that describes another Tor network than the public one, in the format of arti\n([tor_network] and what else is needed). For tests.",
        allowed: "nothing, or a path",
        live: false,
        parse: |config, given| {
            optional(given, |text| Some(text.into())).map(|value| config.tor.network = value)
        },
    },
    KeySpec {
        name: "privacy",
        default: "\"normal\"",
        comment: crate::privacy::CONFIG_COMMENT,
        allowed: "fast, normal or strict",
        live: true,
        parse: |config, given| privacy(given).map(|value| config.privacy = value),
    },
    KeySpec {
        name: "cover",
        default: "\"idle\"",
        comment: "What hides when your links are used. idle: a cell after a silence drawn at random, about\n12 MB a day and link. constant RATE: at least so much on every link, all the\ntime, and about a third more on average; what you send beyond that can still be seen.\n`kith net circuits` says what it costs. off: only what keeps links alive.",
        allowed: "off, idle, or constant RATE such as constant 16kB/s, from 4KiB/s to 256kB/s",
        live: true,
        parse: |config, given| cover(given).map(|value| config.circuits.cover = value),
    },
    KeySpec {
        name: "catalogue.batch",
        default: "\"30min\"",
        comment: "How long entries of friends' friends are held back, so that nobody can tell from the\ntime who a video came from. Only tests and the demo shorten it.",
        allowed: "a duration such as 250ms, 1s, 30min, 12h or 3d, from 100ms to 365d",
        live: false,
        parse: |config, given| {
            given.duration(Duration::from_millis(100)).map(|value| config.catalogue_batch = value)
        },
    },
    KeySpec {
        name: "catalogue.spread",
        default: "\"3d\"",
        comment: "Over how long the older entries of a new friend are shown to others.\nOnly tests and the demo shorten it.",
        allowed: "a duration such as 250ms, 1s, 30min, 12h or 3d, from 0s to 365d",
        live: false,
        parse: |config, given| given.duration(Duration::ZERO).map(|value| config.catalogue_spread = value),
    },
    KeySpec {
        name: "circuit.relay",
        default: "\"on\"",
        comment: "Whether circuits of others may go through this node. Relays pass on sealed cells and\nlearn neither who wants something nor what it is. While it is off your first relay\nknows that every circuit from you is your own.",
        allowed: "on or off",
        live: true,
        parse: |config, given| switch(given).map(|value| config.circuits.relay = value),
    },
    KeySpec {
        name: "circuit.share",
        default: "20",
        comment: "Percent of a busy link that circuits of others may use; your own traffic and that\nbetween your friends share the rest. An idle link is not held back.",
        allowed: "a number from 1 to 90",
        live: true,
        parse: |config, given| small(given, 1, 90).map(|value| config.circuit_share = value),
    },
    KeySpec {
        name: "circuit.relays",
        default: "3",
        comment: "How many relays your own circuits go through. More are slower and break more often.",
        allowed: "a number from 3 to 6",
        live: true,
        parse: |config, given| small(given, 3, 6).map(|value| config.circuits.relays = value),
    },
    KeySpec {
        name: "circuit.pace",
        default: "\"60s\"",
        comment: "Mean gap between the steps of a circuit, so that no relay can tell from the time who\nbuilds it. Only tests and the demo shorten it.",
        allowed: "a duration such as 250ms, 1s, 30min, 12h or 3d, from 1ms to 365d",
        live: true,
        parse: |config, given| given.duration(MILLISECOND).map(|value| config.circuits.pace = value),
    },
    KeySpec {
        name: "circuit.snapshot",
        default: "\"6h\"",
        comment: "Shortest time between two snapshots of the friends that circuits of others are told\nof, so that nobody far away sees them come and go. Only tests and the demo shorten it.",
        allowed: "a duration such as 250ms, 1s, 30min, 12h or 3d, from 1ms to 365d",
        live: true,
        parse: |config, given| given.duration(MILLISECOND).map(|value| config.circuits.snapshot = value),
    },
    KeySpec {
        name: "mirror.copies",
        default: "3",
        comment: "How many friends are asked to keep a copy of each video that you publish, so that it\nplays while this node is off. They cannot read it unless you share it with them, and\nonly those take it who said so (`kith mirror add friend:NAME --quota 5GB`). 0: nobody.",
        allowed: "a number from 0 to 8",
        live: true,
        parse: |config, given| small(given, 0, 8).map(|value| config.mirror.copies = value),
    },
    KeySpec {
        name: "mirror.cover",
        default: "\"on\"",
        comment: "In `normal`: keep some videos drawn at random from what friends' friends share, and\ngive them to others with what you watched from further away, so that nobody can tell\nwhich is which. off: what you watched from further away is given to nobody.",
        allowed: "on or off",
        live: true,
        parse: |config, given| switch(given).map(|value| config.mirror.cover = value),
    },
    KeySpec {
        name: "mirror.asked",
        default: "\"0B\"",
        comment: "In `normal`: how much is fetched in a week, through circuits and at random times, because\nthree friends or more asked for it, for themselves or for others; for each of those friends.\nIt is kept and given like the videos of mirror.cover, while that is on. 0B: nothing.",
        allowed: "a size like 500MB or 20GiB, up to 1000TiB",
        live: true,
        parse: |config, given| {
            size::parse(given.text()?)
                .filter(|bytes| *bytes <= size::MAX)
                .map(|bytes| config.mirror.asked = bytes)
                .ok_or(NOT_ALLOWED)
        },
    },
    KeySpec {
        name: "mirror.delay",
        default: "\"1h\"",
        comment: "Such videos are given after 1 to 12 times this. Only tests and the demo shorten it.",
        allowed: "a duration such as 250ms, 1s, 30min, 12h or 3d, from 10ms to 365d",
        live: true,
        parse: |config, given| {
            given.duration(Duration::from_millis(10)).map(|value| config.mirror.delay = value)
        },
    },
    KeySpec {
        name: "page.theme",
        default: "\"auto\"",
        comment: "How the page looks: auto goes with the browser.",
        allowed: "auto, light or dark",
        live: true,
        parse: |config, given| {
            one_of(given, &["auto", "light", "dark"]).map(|theme| config.look.theme = theme)
        },
    },
    KeySpec {
        name: "page.language",
        default: "\"auto\"",
        comment: "The page's language: auto goes with the browser.",
        allowed: "auto, en or de",
        live: true,
        parse: |config, given| {
            let tags = LANGUAGES.map(|(tag, ..)| tag);
            let tag = one_of(given, &["auto"]).or_else(|_| one_of(given, &tags))?;
            config.look.language = tag;
            Ok(())
        },
    },
    KeySpec {
        name: "log.level",
        default: "\"warn\"",
        comment: "Which messages reach the log.",
        allowed: "off, error, warn, info, debug or trace",
        live: false,
        parse: |config, given| log_level(given).map(|value| config.log_level = value),
    },
    KeySpec {
        name: "link.half_open",
        default: "64",
        comment: "Most inbound connections that have not yet proved to be a friend's.",
        allowed: "a number from 1 to 4096",
        live: false,
        parse: |config, given| given.count(1, 4096).map(|value| config.link_half_open = value),
    },
    KeySpec {
        name: "invite.expires",
        default: "\"7d\"",
        comment: "How long a new invite can be used.",
        allowed: "a duration such as 250ms, 1s, 30min, 12h or 3d, from 1s to 365d",
        live: false,
        parse: |config, given| given.duration(SECOND).map(|value| config.invite_expires = value),
    },
    KeySpec {
        name: "store.scrub",
        default: "\"30d\"",
        comment: "In how long everything stored is read and checked once, bit by bit and out of the way.\nSee `kith store verify`, which checks all at once.",
        allowed: "off, or a duration such as 1s, 12h or 30d, from 1s to 365d",
        live: false,
        parse: |config, given| {
            let off = given.text()? == "off";
            let value = if off { None } else { Some(given.duration(SECOND)?) };
            config.store_scrub = value;
            Ok(())
        },
    },
    KeySpec {
        name: "limits.up",
        default: "\"off\"",
        comment: "Most bytes a second that leave; see `kith net limits`.",
        allowed: RATE,
        live: true,
        parse: |config, given| rate(given).map(|value| config.limits.base.all.up = Some(value)),
    },
    KeySpec {
        name: "limits.down",
        default: "\"off\"",
        comment: "Most bytes a second that come.",
        allowed: RATE,
        live: true,
        parse: |config, given| rate(given).map(|value| config.limits.base.all.down = Some(value)),
    },
    KeySpec {
        name: "limits.own.up",
        default: "\"off\"",
        comment: "The same only for your own videos and what you fetch, up.",
        allowed: RATE,
        live: true,
        parse: |config, given| rate(given).map(|value| config.limits.base.kinds[0].up = Some(value)),
    },
    KeySpec {
        name: "limits.own.down",
        default: "\"off\"",
        comment: "The same only for your own videos and what you fetch, down.",
        allowed: RATE,
        live: true,
        parse: |config, given| rate(given).map(|value| config.limits.base.kinds[0].down = Some(value)),
    },
    KeySpec {
        name: "limits.fof.up",
        default: "\"off\"",
        comment: "The same only for friends of friends, when this node passes on, up.",
        allowed: RATE,
        live: true,
        parse: |config, given| rate(given).map(|value| config.limits.base.kinds[1].up = Some(value)),
    },
    KeySpec {
        name: "limits.fof.down",
        default: "\"off\"",
        comment: "The same only for friends of friends, when this node passes on, down.",
        allowed: RATE,
        live: true,
        parse: |config, given| rate(given).map(|value| config.limits.base.kinds[1].down = Some(value)),
    },
    KeySpec {
        name: "limits.onion.up",
        default: "\"off\"",
        comment: "The same only for circuits of others through this node, up.",
        allowed: RATE,
        live: true,
        parse: |config, given| rate(given).map(|value| config.limits.base.kinds[2].up = Some(value)),
    },
    KeySpec {
        name: "limits.onion.down",
        default: "\"off\"",
        comment: "The same only for circuits of others through this node, down.",
        allowed: RATE,
        live: true,
        parse: |config, given| rate(given).map(|value| config.limits.base.kinds[2].down = Some(value)),
    },
    KeySpec {
        name: "limits.schedule",
        default: "[]",
        comment: "Weekly windows, in local time, whose limits take the place of those above; see\n`kith net schedule`. A later window wins over an earlier one.",
        allowed: "up to 32 of \"DAYS FROM-TO LIMITS\", such as \"mon-fri 08:00-18:00 up=1MB/s fof.up=off\"",
        live: true,
        parse: |config, given| {
            given
                .list(rates::MAX_WINDOWS, |one| Window::parse(one).ok())
                .map(|value| config.limits.schedule = value)
        },
    },
    KeySpec {
        name: "store.quota",
        default: "\"20GiB\"",
        comment: "How much all videos that are kept here may take; see `kith store quota`. What was\nfetched gives way to what you publish or pin.",
        allowed: "a size like 500MB, 20GiB or 1.5TB, from 1MiB to 1000TiB",
        live: true,
        parse: |config, given| {
            size::parse(given.text()?)
                .filter(|bytes| (size::MIN_QUOTA..=size::MAX).contains(bytes))
                .map(|bytes| config.store.quota = bytes)
                .ok_or(NOT_ALLOWED)
        },
    },
    KeySpec {
        name: "store.keep_free",
        default: "\"512MiB\"",
        comment: "Free space that publishing and fetching leave on the store's disk.",
        allowed: "0B, or a size like 500MB or 2GiB, up to 1000TiB",
        live: true,
        parse: |config, given| {
            size::parse(given.text()?)
                .filter(|bytes| *bytes <= size::MAX)
                .map(|bytes| config.store.keep_free = bytes)
                .ok_or(NOT_ALLOWED)
        },
    },
];

/// A friend's node reads 150 cells a second that it did not ask for, pads among them, and stops reading
/// a link that brings more. With the third that leaves on average beyond the rate these are 83.
const MAX_COVER: u64 = 256_000;

const MAX_BRIDGES: usize = 32;

const RATE: &str = "off, or a rate like 500kB/s, 2MB/s or 1.5MiB/s, from 4KiB/s to 1000GB/s";

fn name(given: &Given) -> Result<String, Refusal> {
    let name = given.text()?;
    if text::is_plain_name(name, MAX_NAME_LEN) { Ok(name.to_owned()) } else { Err(NOT_ALLOWED) }
}

fn host_and_port(text: &str) -> Option<Address> {
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return (addr.port() != 0 && !addr.ip().is_unspecified()).then_some(Address::Ip(addr));
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    if OnionAddress::is_onion_host(host) {
        return OnionAddress::from_host(host).map(|onion| Address::Onion(onion, port));
    }
    // Digits and dots alone are an address with a mistake in it, not a host.
    let is_name = Address::is_host(host) && host.bytes().any(|b| b.is_ascii_alphabetic());
    is_name.then(|| Address::Host(host.to_owned(), port))
}

fn loopback(given: &Given) -> Result<SocketAddr, Refusal> {
    let addr: SocketAddr = given.text()?.parse().map_err(|_| NOT_ALLOWED)?;
    if addr.ip().is_loopback() {
        return Ok(addr);
    }
    Err(Refusal(Some("only this machine may reach it")))
}

fn tor(given: &Given) -> Result<Tor, Refusal> {
    match given.text()? {
        "off" | "false" => Ok(Tor::Off),
        "on" | "true" => Ok(Tor::On),
        "only" => Ok(Tor::Only),
        _ => Err(NOT_ALLOWED),
    }
}

/// Nothing, or something.
fn optional<T>(given: &Given, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Refusal> {
    match given.text()?.trim() {
        "" => Ok(None),
        text => parse(text).map(Some).ok_or(NOT_ALLOWED),
    }
}

fn line_of_text(line: &str, max: usize) -> Option<String> {
    let line = line.trim();
    let fits = !line.is_empty() && line.len() <= max && !line.chars().any(char::is_control);
    fits.then(|| line.to_owned())
}

fn transport(text: &str) -> Option<(Vec<String>, String)> {
    let (names, path) = text.split_once('=')?;
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let names: Vec<String> = names.split('+').map(str::to_owned).collect();
    (names.iter().all(|name| is_name(name)) && path.starts_with('/')).then(|| (names, path.to_owned()))
}

fn privacy(given: &Given) -> Result<Privacy, Refusal> {
    crate::privacy::named(given.text()?).ok_or(NOT_ALLOWED)
}

fn cover(given: &Given) -> Result<Cover, Refusal> {
    match given.text()? {
        "off" | "false" => Ok(Cover::Off),
        "idle" => Ok(Cover::Idle),
        other => {
            let rate = other.strip_prefix("constant ").and_then(|rate| rates::parse(rate.trim()).flatten());
            rate.filter(|rate| *rate <= MAX_COVER).map(Cover::Constant).ok_or(NOT_ALLOWED)
        }
    }
}

fn switch(given: &Given) -> Result<bool, Refusal> {
    match given.text()? {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err(NOT_ALLOWED),
    }
}

fn one_of(given: &Given, words: &[&'static str]) -> Result<&'static str, Refusal> {
    let word = given.text()?;
    words.iter().find(|known| **known == word).copied().ok_or(NOT_ALLOWED)
}

fn small(given: &Given, min: u8, max: u8) -> Result<u8, Refusal> {
    let count = given.count(min.into(), max.into())?;
    u8::try_from(count).map_err(|_| NOT_ALLOWED)
}

fn rate(given: &Given) -> Result<Option<u64>, Refusal> {
    rates::parse(given.text()?).ok_or(NOT_ALLOWED)
}

fn log_level(given: &Given) -> Result<LogLevel, Refusal> {
    let word = given.text()?;
    LogLevel::ALL.into_iter().find(|level| level.as_str() == word).ok_or(NOT_ALLOWED)
}
