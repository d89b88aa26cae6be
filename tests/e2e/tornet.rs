//! A private Tor network for tests: Debian's `tor` as authorities and relays in one network namespace, nodes in
//! others, a virtual cable from each to a bridge. Nothing of it can reach anything outside.
//!
//! It needs root (namespaces), `ip`, `tor` and `tor-gencert`; [`Network::start`] says in a line what is missing.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::RwLockReadGuard;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{has_program, lacks, poll, tor_network};

/// Authorities are relays as well.
const AUTHORITIES: usize = 3;
const RELAYS: usize = 6;
const EXITS: usize = 2;
/// The relay that is a bridge with a pluggable transport as well.
const DISGUISED: usize = AUTHORITIES + 1;
/// No circuit is given up sooner. Clients learn from the circuits they built how long one may take; here those take
/// milliseconds, and after the hundredth a client would give up whatever waits that long for a processor.
const PATIENCE_MS: u32 = 2000;
/// A consensus, and descriptors of all relays in it, are there by then.
const BOOTSTRAP: Duration = Duration::from_secs(150);
const OR_PORT: u16 = 5000;
/// Where the relay that is a bridge with a pluggable transport takes that in.
const DISGUISED_PORT: u16 = 5443;
/// What speaks the transport obfs4 on both sides.
const OBFS4: &str = "/usr/bin/obfs4proxy";
const DIR_PORT: u16 = 7000;
/// The network of the cables; relays have addresses in 10/8.
const CABLES: &str = "192.168.77";
/// Where a cable ends on the relays' side.
pub(crate) const GATEWAY: &str = "192.168.77.1";

static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// Runs a tool that must succeed.
#[track_caller]
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().expect("the tool runs");
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {err}", args.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A namespace with a loopback interface; it goes when it is dropped.
pub(crate) struct Namespace(pub(crate) String);

impl Namespace {
    fn new(name: String) -> Self {
        run("ip", &["netns", "add", &name]);
        let made = Self(name);
        run("ip", &["-n", &made.0, "link", "set", "lo", "up"]);
        made
    }

    /// A command that runs in it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

struct Relay {
    address: String,
    dir: PathBuf,
    rsa: String,
    ed25519: String,
    v3ident: Option<String>,
    child: Option<Child>,
}

/// The network.
pub(crate) struct Network {
    relays: Vec<Relay>,
    /// Where the relays are, and the other ends of the cables.
    pub(crate) space: Namespace,
    nodes: u32,
    prefix: String,
    dir: tempfile::TempDir,
    _stands: RwLockReadGuard<'static, ()>,
}

impl Drop for Network {
    fn drop(&mut self) {
        self.kill_relays(0);
    }
}

/// Whether a namespace can be made; else it is said how.
fn may_make_namespaces() -> bool {
    let there =
        has_program("ip", "iproute2") && has_program("tor", "tor") && has_program("tor-gencert", "tor");
    if !there {
        return false;
    }
    let name = format!("kith-try-{}-{}", std::process::id(), NETWORKS.fetch_add(1, Ordering::Relaxed));
    let made = Command::new("ip").args(["netns", "add", &name]).stderr(Stdio::null()).status();
    let made = made.is_ok_and(|status| status.success());
    let _ = Command::new("ip").args(["netns", "del", &name]).stderr(Stdio::null()).status();
    if !made {
        lacks("this test makes network namespaces: run it as root");
    }
    made
}

impl Network {
    /// Starts the network and waits until it can be used. `None`: something is missing, which was said.
    pub(crate) fn start() -> Option<Self> {
        if !may_make_namespaces() {
            return None;
        }
        let stands = tor_network();
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("kith-{}-{number}", std::process::id());
        let dir = tempfile::Builder::new().prefix("kith-tor-").tempdir().expect("a temporary folder");
        let space = Namespace::new(format!("{prefix}-r"));
        run("ip", &["-n", &space.0, "link", "add", "br0", "type", "bridge"]);
        run("ip", &["-n", &space.0, "addr", "add", &format!("{GATEWAY}/24"), "dev", "br0"]);
        run("ip", &["-n", &space.0, "link", "set", "br0", "up"]);
        let mut network = Self { relays: Vec::new(), space, nodes: 0, prefix, dir, _stands: stands };
        for n in 0..AUTHORITIES + RELAYS {
            network.prepare(n);
        }
        network.write_configuration();
        network.start_relays();
        let begun = Instant::now();
        let ready = poll(BOOTSTRAP, || network.knows_all());
        assert!(ready, "no Tor network within {BOOTSTRAP:?}: {}", network.log());
        eprintln!("a Tor network of {} relays stands after {:?}", network.relays.len(), begun.elapsed());
        Some(network)
    }

    /// Keys of a relay, so that all of them can name each other.
    fn prepare(&mut self, n: usize) {
        // Each has a /16 of its own, so that no rule about families needs to be switched off.
        let address = format!("10.{}.0.1", 11 + n);
        let dir = self.dir.path().join(format!("relay{n}"));
        fs::create_dir_all(dir.join("keys")).expect("a folder");
        run("ip", &["-n", &self.space.0, "addr", "add", &format!("{address}/32"), "dev", "lo"]);
        let v3ident = (n < AUTHORITIES).then(|| {
            let file = |name: &str| dir.join("keys").join(name).display().to_string();
            let mut child = Command::new("tor-gencert")
                .args(["--create-identity-key", "-m", "12", "--passphrase-fd", "0"])
                .args(["-i", &file("authority_identity_key"), "-s", &file("authority_signing_key")])
                .args(["-c", &file("authority_certificate"), "-a", &format!("{address}:{DIR_PORT}")])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("tor-gencert starts");
            std::io::Write::write_all(&mut child.stdin.take().expect("piped"), b"kith\n").expect("it reads");
            assert!(child.wait().expect("it ends").success());
            let certificate = fs::read_to_string(file("authority_certificate")).expect("a certificate");
            let line = certificate.lines().find_map(|line| line.strip_prefix("fingerprint "));
            line.expect("its fingerprint").trim().to_owned()
        });
        let dummy = "x 127.0.0.1:1 ffffffffffffffffffffffffffffffffffffffff";
        run(
            "tor",
            &[
                "--list-fingerprint",
                "--quiet",
                "--ignore-missing-torrc",
                "-f",
                "/dev/null",
                "--orport",
                "1",
                "--dirserver",
                dummy,
                "--datadirectory",
                &dir.display().to_string(),
                "--nickname",
                &format!("r{n}"),
            ],
        );
        let read = |name: &str| {
            let text = fs::read_to_string(dir.join(name)).expect("a fingerprint");
            text.split_whitespace().nth(1).expect("after the name").to_owned()
        };
        let (rsa, ed25519) = (read("fingerprint"), read("fingerprint-ed25519"));
        self.relays.push(Relay { address, dir, rsa, ed25519, v3ident, child: None });
    }

    fn write_configuration(&self) {
        let mut common = format!(
            "TestingTorNetwork 1\nAssumeReachable 1\nPathsNeededToBuildCircuits 0.67\nSocksPort 0\n\
             ConsensusParams cc_alg=2 hsdir_interval=8 cbtmintimeout={PATIENCE_MS}\nRunAsDaemon 0\nLog notice stdout\n\
             ServerDNSDetectHijacking 0\nServerDNSTestAddresses\nServerDNSAllowBrokenConfig 1\nUseMicrodescriptors 1\n",
        );
        for (n, relay) in self.relays.iter().enumerate().filter(|(_, relay)| relay.v3ident.is_some()) {
            let ident = relay.v3ident.as_deref().unwrap_or_default();
            let _ = writeln!(
                common,
                "DirAuthority r{n} orport={OR_PORT} no-v2 v3ident={ident} {}:{DIR_PORT} {}",
                relay.address, relay.rsa
            );
        }
        fs::write(self.dir.path().join("common"), &common).expect("the network's options");
        for (n, relay) in self.relays.iter().enumerate() {
            let address = &relay.address;
            let mut torrc = format!(
                "{common}DataDirectory {}\nNickname r{n}\nAddress {address}\nORPort {address}:{OR_PORT}\n\
                 DirPort {address}:{DIR_PORT}\nOutboundBindAddress {address}\nContactInfo nobody\n",
                relay.dir.display()
            );
            if relay.v3ident.is_some() {
                torrc.push_str(
                    "AuthoritativeDirectory 1\nV3AuthoritativeDirectory 1\nTestingV3AuthInitialVotingInterval 20\n\
                     TestingV3AuthInitialVoteDelay 4\nTestingV3AuthInitialDistDelay 4\nV3AuthVotingInterval 20\n\
                     V3AuthVoteDelay 4\nV3AuthDistDelay 4\nV3AuthNIntervalsValid 3\nTestingDirAuthVoteGuard *\n\
                     TestingDirAuthVoteHSDir *\nTestingMinExitFlagThreshold 0\nTestingDirAuthVoteExit *\n\
                     TestingAuthDirTimeToLearnReachability 0\n",
                );
            }
            if n == DISGUISED && Path::new(OBFS4).exists() {
                let _ = writeln!(
                    torrc,
                    "ServerTransportPlugin obfs4 exec {OBFS4}\nExtORPort auto\n\
                     ServerTransportListenAddr obfs4 {address}:{DISGUISED_PORT}"
                );
            }
            let is_exit = n >= AUTHORITIES + RELAYS - EXITS;
            torrc.push_str(if is_exit {
                "ExitRelay 1\nExitPolicyRejectPrivate 0\nExitPolicy accept *:*\n"
            } else {
                "ExitRelay 0\nExitPolicy reject *:*\n"
            });
            fs::write(relay.dir.join("torrc"), torrc).expect("a configuration");
        }
        let caches: Vec<String> = self
            .relays
            .iter()
            .filter(|relay| relay.v3ident.is_some())
            .map(|relay| {
                format!(
                    "{{ rsa_identity = \"{}\", ed_identity = \"{}\", orports = [\"{}:{OR_PORT}\"] }}",
                    relay.rsa, relay.ed25519, relay.address
                )
            })
            .collect();
        let idents: Vec<String> = self
            .relays
            .iter()
            .filter_map(|r| r.v3ident.as_ref())
            .map(|ident| format!("\"{ident}\""))
            .collect();
        let toml = format!(
            "[tor_network]\nfallback_caches = [{}]\n[tor_network.authorities]\nv3idents = [{}]\n\
             [override_net_params]\nguard-min-filtered-sample-size = 5\nguard-n-primary-guards = 2\n",
            caches.join(", "),
            idents.join(", ")
        );
        fs::write(self.file(), toml).expect("the network's description");
    }

    /// What `tor.network` names.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("network.toml")
    }

    /// The `n`th relay that may be used as a bridge: its line for a configuration, and where it is.
    pub(crate) fn bridge(&self, n: usize) -> (String, String) {
        let relay = self.relays.get(AUTHORITIES + n).expect("there are relays");
        let place = format!("{}:{OR_PORT}", relay.address);
        (format!("{place} {} ed25519:{}", relay.rsa, relay.ed25519), place)
    }

    /// The same for one that is reached by obfs4 alone: its line, the transport to set, and where it is.
    /// `None`: the program is missing, which was said.
    pub(crate) fn disguised_bridge(&self) -> Option<(String, String, String)> {
        if !has_program("obfs4proxy", "obfs4proxy") {
            return None;
        }
        let relay = self.relays.get(DISGUISED).expect("there are relays");
        let file = relay.dir.join("pt_state/obfs4_bridgeline.txt");
        let cert = || {
            let text = fs::read_to_string(&file).ok()?;
            text.lines()
                .find_map(|line| Some(line.strip_prefix("Bridge obfs4 ")?.split_once(" cert=")?.1.to_owned()))
        };
        assert!(poll(Duration::from_secs(30), || cert().is_some()), "no obfs4 bridge: {}", file.display());
        let place = format!("{}:{DISGUISED_PORT}", relay.address);
        let line = format!("obfs4 {place} {} cert={}", relay.rsa, cert().expect("it was there"));
        Some((line, format!("obfs4={OBFS4}"), place))
    }

    /// Starts the relays that do not run.
    pub(crate) fn start_relays(&mut self) {
        for relay in self.relays.iter_mut().filter(|relay| relay.child.is_none()) {
            let log = fs::File::options().create(true).append(true).open(relay.dir.join("log"));
            let child = self
                .space
                .command("tor")
                .args(["-f", &relay.dir.join("torrc").display().to_string()])
                .stdin(Stdio::null())
                .stdout(log.expect("a log"))
                .stderr(Stdio::null())
                .spawn();
            relay.child = Some(child.expect("tor starts"));
        }
    }

    /// Ends all relays from one on, at once and without a word.
    pub(crate) fn kill_relays(&mut self, from: usize) {
        for relay in self.relays.iter_mut().skip(from) {
            if let Some(mut child) = relay.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }

    fn knows_all(&self) -> bool {
        let consensus = |relay: &Relay| {
            let text = fs::read_to_string(relay.dir.join("cached-microdesc-consensus")).unwrap_or_default();
            let routers = text.lines().filter(|line| line.starts_with("r ")).count();
            let flags: Vec<&str> = text.lines().filter(|line| line.starts_with("s ")).collect();
            routers == self.relays.len()
                && flags.iter().all(|line| line.contains("HSDir") && line.contains("Guard"))
        };
        self.relays.iter().all(consensus)
    }

    fn log(&self) -> String {
        let log = |relay: &Relay| fs::read_to_string(relay.dir.join("log")).unwrap_or_default();
        self.relays
            .first()
            .map(|relay| {
                let text = log(relay);
                let from = text.lines().count().saturating_sub(20);
                text.lines().skip(from).collect::<Vec<_>>().join("\n")
            })
            .unwrap_or_default()
    }

    /// A namespace for a node, with a cable to the relays. Whatever has no other way goes there, too, so that it
    /// can be seen.
    pub(crate) fn place(&mut self) -> Place {
        self.nodes += 1;
        let n = self.nodes;
        let space = Namespace::new(format!("{}-n{n}", self.prefix));
        let cable = format!("veth{n}");
        run(
            "ip",
            &[
                "-n",
                &self.space.0,
                "link",
                "add",
                &cable,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                &space.0,
            ],
        );
        run("ip", &["-n", &self.space.0, "link", "set", &cable, "master", "br0", "up"]);
        let address = format!("{CABLES}.{}", 10 + n);
        run("ip", &["-n", &space.0, "addr", "add", &format!("{address}/24"), "dev", "eth0"]);
        run("ip", &["-n", &space.0, "link", "set", "eth0", "up"]);
        run("ip", &["-n", &space.0, "route", "add", "default", "via", GATEWAY]);
        Place { space, address, cable }
    }

    /// A Tor of another program in a place: a SOCKS5 proxy, and an onion service that forwards to a node there.
    pub(crate) fn other_tor(&self, place: &Place) -> OtherTor {
        let dir = self.dir.path().join(format!("client-{}", place.cable));
        let service = dir.join("service");
        for folder in [&dir, &service] {
            fs::create_dir_all(folder).expect("a folder");
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            fs::set_permissions(folder, private).expect("a private folder");
        }
        let common = fs::read_to_string(self.dir.path().join("common")).expect("the network's options");
        let torrc = format!(
            "{}SocksPort 127.0.0.1:9050\nDataDirectory {}\nHiddenServiceDir {}\n\
             HiddenServicePort 5483 127.0.0.1:5485\n",
            common.replace("SocksPort 0\n", ""),
            dir.display(),
            service.display()
        );
        fs::write(dir.join("torrc"), torrc).expect("a configuration");
        let mut tor = OtherTor { space: place.space.0.clone(), dir, child: None };
        tor.start();
        assert!(poll(Duration::from_secs(30), || tor.onion().is_some()), "no onion service");
        tor
    }

    /// Notes from now on what leaves or reaches a node by its cable, but what goes to relays and what the kernel
    /// says by itself (neighbours, multicast groups). `None`: `tcpdump` is missing, which was said.
    pub(crate) fn watch(&self, place: &Place) -> Option<Watch> {
        has_program("tcpdump", "tcpdump").then(|| Watch::start(&self.space, &place.cable, self.dir.path()))
    }
}

/// Where a node is.
pub(crate) struct Place {
    pub(crate) space: Namespace,
    pub(crate) address: String,
    cable: String,
}

impl Place {
    /// The names of the processes there.
    pub(crate) fn processes(&self) -> Vec<String> {
        let pids = run("ip", &["netns", "pids", &self.space.0]);
        let name = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).ok();
        pids.lines().filter_map(name).map(|name| name.trim().to_owned()).collect()
    }

    /// Sockets of a process that are no loopback or unix sockets: `local remote` by line.
    pub(crate) fn sockets(&self, pid: u32) -> Vec<String> {
        let shown = run("ip", &["netns", "exec", &self.space.0, "ss", "-Hantup"]);
        let own = format!("pid={pid},");
        shown
            .lines()
            .filter(|line| line.contains(&own))
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .filter(|line| {
                let ends: Vec<&str> = line.split(' ').skip(4).take(2).collect();
                !ends.iter().any(|end| end.starts_with("127.") || end.starts_with("[::1]"))
            })
            .collect()
    }
}

/// A Tor of another program.
pub(crate) struct OtherTor {
    space: String,
    dir: PathBuf,
    child: Option<Child>,
}

impl OtherTor {
    pub(crate) fn start(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.dir.join("log")).expect("a log");
        let child = Command::new("ip")
            .args(["netns", "exec", &self.space, "tor", "-f"])
            .arg(self.dir.join("torrc"))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect("tor starts"));
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Its address, once there is one.
    pub(crate) fn onion(&self) -> Option<String> {
        let text = fs::read_to_string(self.dir.join("service/hostname")).ok()?;
        Some(format!("{}:5483", text.trim()))
    }
}

impl Drop for OtherTor {
    fn drop(&mut self) {
        self.kill();
    }
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// A packet capture.
pub(crate) struct Watch {
    child: Child,
    all: Child,
    seen: PathBuf,
    to_relays: PathBuf,
}

impl Watch {
    fn start(space: &Namespace, cable: &str, dir: &Path) -> Self {
        let seen = dir.join(format!("{cable}.other"));
        let to_relays = dir.join(format!("{cable}.relays"));
        let dump = |filter: &str, to: &Path| {
            let out = fs::File::create(to).expect("a file");
            space
                .command("tcpdump")
                .args(["-nn", "-l", "-i", cable, "--immediate-mode", filter])
                .stdin(Stdio::null())
                .stdout(out)
                .stderr(Stdio::piped())
                .spawn()
                .expect("tcpdump starts")
        };
        let other = format!(
            "not arp and not icmp6 and not dst host ff02::16 and not \
             (tcp and net 10.0.0.0/8 and (port {OR_PORT} or port {DISGUISED_PORT}))"
        );
        let mut watch = Self {
            child: dump(&other, &seen),
            all: dump("tcp and net 10.0.0.0/8", &to_relays),
            seen,
            to_relays,
        };
        for child in [&mut watch.child, &mut watch.all] {
            // It says "listening on" once it does.
            let mut err = child.stderr.take().expect("piped");
            let mut said = Vec::new();
            let mut byte = [0];
            while !String::from_utf8_lossy(&said).contains("listening on") {
                match std::io::Read::read(&mut err, &mut byte) {
                    Ok(1) => said.push(byte[0]),
                    _ => panic!("tcpdump ended: {}", String::from_utf8_lossy(&said)),
                }
            }
            std::thread::spawn(move || std::io::copy(&mut err, &mut std::io::sink()));
        }
        watch
    }

    /// Packets that were no connection to a relay, and how many were.
    pub(crate) fn seen(&self) -> (Vec<String>, usize) {
        (lines(&self.seen), lines(&self.to_relays).len())
    }

    /// Packets that were no connection to this place.
    pub(crate) fn elsewhere(&self, place: &str) -> Vec<String> {
        // tcpdump puts a dot between address and port.
        let place = place.replace(':', ".");
        let mut all = lines(&self.seen);
        let is_there = |line: &String| line.split([' ', ',']).any(|word| word.trim_end_matches(':') == place);
        all.extend(lines(&self.to_relays).into_iter().filter(|line| !is_there(line)));
        all
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for child in [&mut self.child, &mut self.all] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
