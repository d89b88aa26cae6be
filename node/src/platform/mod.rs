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
