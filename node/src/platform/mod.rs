//! What only some systems can do, each behind one plain call.
//!
//! Invariant: the rest of the node calls nothing that Linux alone has; a system without such a
//! protection gets the portable part of it, and what is missing is documented, never pretended.

/// Keeps this process's memory out of core files and away from other processes of the same user.
///
/// Called before any secret is read. Two ways lead to a core file: the kernel writes one as far as
/// the limit allows, or hands it to a program named in `core_pattern`, which ignores a limit of 0. An
/// undumpable process (Linux, `PR_SET_DUMPABLE`) gives neither, and its `/proc` entries (memory,
/// environment) belong to root. Programs that it starts are dumpable again, within the limit.
pub fn keep_memory_private() -> std::io::Result<()> {
    no_core_files()?;
    undumpable()
}

fn no_core_files() -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    // The hard limit too, so that nothing in this process can raise it again.
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}

#[cfg(target_os = "linux")]
pub mod confined;

#[cfg(target_os = "linux")]
fn undumpable() -> std::io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

#[cfg(not(target_os = "linux"))]
fn undumpable() -> std::io::Result<()> {
    Ok(())
}

/// Makes everything that this process creates from now on its user's alone, also what libraries make
/// with modes of their own (sled's files). For the node itself; a command that writes a video where
/// its user wants it leaves the user's choice in force.
pub fn keep_files_private() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}

/// Whether the other end of a connection over loopback is a program of this user or of root. `None`: the
/// system does not say.
///
/// Linux tells whose a socket is in `/proc/net/tcp` and `tcp6` (proc_net(5)): the one whose own address is our
/// peer's.
pub fn peer_is_own(peer: std::net::SocketAddr, local: std::net::SocketAddr) -> Option<bool> {
    let own = rustix::process::getuid().as_raw();
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(std::fs::read_to_string);
    if tables.iter().all(Result::is_err) {
        return None;
    }
    let lines = tables.iter().flatten().flat_map(|table| table.lines().skip(1));
    let mut uids = lines.filter_map(|line| owner(line, peer, local));
    Some(uids.next().is_some_and(|uid| uid == own || uid == 0))
}

/// The user of a line's socket, if it stands between these two addresses.
fn owner(line: &str, from: std::net::SocketAddr, to: std::net::SocketAddr) -> Option<u32> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (own, other) = (address(fields.next()?)?, address(fields.next()?)?);
    // State, queues, timer, retransmissions; then the user.
    let uid = fields.nth(4)?;
    (own == plain(from) && other == plain(to)).then(|| uid.parse().ok()).flatten()
}

/// `0100007F:1538`: words of four bytes in this machine's order, then the port.
fn address(text: &str) -> Option<std::net::SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let words = ip.as_bytes().chunks(8).map(|word| {
        let word = std::str::from_utf8(word).ok()?;
        u32::from_str_radix(word, 16).ok().map(u32::to_ne_bytes)
    });
    let bytes: Vec<u8> = words.collect::<Option<Vec<_>>>()?.concat();
    let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(four) => std::net::IpAddr::from(four),
        Err(_) => std::net::IpAddr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?),
    };
    Some(plain((ip, u16::from_str_radix(port, 16).ok()?).into()))
}

/// An address without its form of the other kind.
fn plain(addr: std::net::SocketAddr) -> std::net::SocketAddr {
    (addr.ip().to_canonical(), addr.port()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_a_connection_is_stands_in_the_table() {
        let four = "   3: 0100007F:D431 0100007F:1538 01 00000000:00000000 00:00000000 00000000  1001        0 53127 1";
        let ends = |a: &str, b: &str| (a.parse().unwrap(), b.parse().unwrap());
        let (from, to) = ends("127.0.0.1:54321", "127.0.0.1:5432");
        assert_eq!(owner(four, from, to), cfg!(target_endian = "little").then_some(1001));
        assert_eq!(owner(four, to, from), None);
        let six = "   0: 00000000000000000000000001000000:D431 00000000000000000000000001000000:1538 01 0:0 00:0 0  7 0 1";
        let (from, to) = ends("[::1]:54321", "[::1]:5432");
        assert_eq!(owner(six, from, to), cfg!(target_endian = "little").then_some(7));
        assert_eq!(owner("", from, to), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_connection_of_this_process_is_ones_own() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let _held = std::net::TcpStream::connect(local).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer_is_own(peer, local), Some(true));
        // Nobody has this one.
        assert_eq!(peer_is_own("127.0.0.1:1".parse().unwrap(), local), Some(false));
    }
}
